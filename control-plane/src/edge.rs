//! What both edges, gRPC and HTTP, can do: one operation each, in checked words, answered in the contract's.
//!
//! The edges parse and encode; rules live in the registry; this joins the two. It owns nothing but handles.

use std::{sync::Arc, time::Duration};

use gateway_proto::{
    Address, Health, LeaseId, ReplicaKey, ServiceName,
    time::{duration, timestamp},
    v1,
};
use gateway_runtime::{Shutdown, panics::caught};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::timeout,
};
use tokio_util::task::TaskTracker;
use tonic::Status;

use crate::{
    clock,
    effects::Effects,
    leases::Term,
    panics::Panics,
    refusal::Refusal,
    registry::{
        Answer, Candidates, Command, Decision, Limits, Proof, Record, Registration, RegistryError, Target,
        View, Write, decide,
    },
    writer::Commands,
};

/// How long a stream that ends waits for its peer to have room for the status that says why.
const LAST_WORD_TIMEOUT: Duration = Duration::from_secs(1);

/// Handles to all parts that a request may need.
#[derive(Debug)]
pub(crate) struct Edge {
    pub(crate) effects: Effects,
    pub(crate) commands: Commands,
    pub(crate) limits: Limits,
    pub(crate) shutdown: Shutdown,
    /// Whether the store takes changes.
    pub(crate) available: watch::Receiver<bool>,
    pub(crate) panics: Panics,
    /// The tasks behind streams, awaited at shutdown.
    pub(crate) streams: TaskTracker,
    pub(crate) snapshot_streams: Places,
    pub(crate) report_streams: Places,
    pub(crate) event_streams: Places,
}

/// A bounded number of places, each held by one stream.
#[derive(Debug)]
pub(crate) struct Places {
    free: Arc<Semaphore>,
    limit: usize,
    what: &'static str,
}

/// One taken place; free again when dropped.
pub(crate) type Place = tokio::sync::OwnedSemaphorePermit;

impl Places {
    /// `what` completes "…: N are allowed at once".
    pub(crate) fn new(limit: usize, what: &'static str) -> Self {
        Self { free: Arc::new(Semaphore::new(limit)), limit, what }
    }

    pub(crate) fn take(&self) -> Result<Place, Refusal> {
        let place = Arc::clone(&self.free).try_acquire_owned();
        place.map_err(|_| Refusal::Quota { what: self.what, limit: self.limit })
    }
}

impl Edge {
    /// Registers a replica; with `validate_only`, says what would come of it and changes nothing.
    pub(crate) async fn register(
        &self,
        registration: Registration,
        validate_only: bool,
    ) -> Result<v1::RegisterResponse, Refusal> {
        let command = Command::Register(registration);
        let answer = match validate_only {
            true => self.rehearse(&command)?,
            false => self.commands.submit(command).await?,
        };
        let Answer::Registered { record, created } = answer else {
            unreachable!("a registration is answered as such")
        };
        let replica = if validate_only { record.to_wire() } else { self.replica(&record) };
        let lease = record.lease;
        Ok(v1::RegisterResponse {
            replica: Some(replica),
            lease_id: lease.filter(|_| !validate_only).map(|lease| lease.id.reveal()).unwrap_or_default(),
            heartbeat_interval: lease.map(|lease| duration(heartbeat_interval(lease.ttl))),
            created,
            rollout: None,
        })
    }

    /// Decides a command on what is known now, and forgets the decision.
    fn rehearse(&self, command: &Command) -> Result<Answer, RegistryError> {
        let fresh = Candidates::from_random(rand::random(), rand::random());
        let publisher = &self.effects.publisher;
        publisher.read(|view| match decide(view, &self.limits, command, &fresh, clock::wall())? {
            Decision::Nothing(answer) => Ok(answer),
            Decision::Commit(mutation) => {
                let revision = match &mutation.write {
                    Write::Put(_) => mutation.expected.unwrap_or(0),
                    Write::Remove => view.revision(),
                };
                Ok(mutation.answer(revision))
            }
        })
    }

    /// Removes a replica; an absent one is success.
    pub(crate) async fn deregister(
        &self,
        target: Target,
        proof: Proof,
        reason: String,
    ) -> Result<v1::DeregisterResponse, Refusal> {
        match self.commands.submit(Command::Deregister { target, proof, reason }).await? {
            Answer::Deregistered { removed, revision } => Ok(v1::DeregisterResponse { removed, revision }),
            other => unreachable!("a removal is answered as such, not by {other:?}"),
        }
    }

    /// Removes whatever replica of the service is reached at the address: an operator's word.
    pub(crate) async fn deregister_address(
        &self,
        service: ServiceName,
        address: Address,
    ) -> Result<(), Refusal> {
        let target = Target::Address(service, address);
        self.deregister(target, Proof::Force, String::new()).await.map(drop)
    }

    /// Renews a lease.
    pub(crate) fn heartbeat(
        &self,
        key: &ReplicaKey,
        lease: LeaseId,
    ) -> Result<v1::HeartbeatResponse, Refusal> {
        match self.effects.leases.renew(lease, key, clock::now()) {
            Some(term) => Ok(v1::HeartbeatResponse {
                expire_time: Some(timestamp(clock::wall() + term.ttl)),
                heartbeat_interval: Some(duration(heartbeat_interval(term.ttl))),
                ..Default::default()
            }),
            None => Err(self.effects.publisher.read(|view| why_not_renewed(view, key, lease)).into()),
        }
    }

    /// Sets the health that a replica reports of itself.
    pub(crate) async fn report_health(
        &self,
        key: ReplicaKey,
        lease: Option<LeaseId>,
        health: Health,
        reason: String,
    ) -> Result<v1::ReportHealthResponse, Refusal> {
        match self.commands.submit(Command::ReportHealth { key, lease, health, reason }).await? {
            Answer::HealthReported(record) => {
                Ok(v1::ReportHealthResponse { replica: Some(self.replica(&record)) })
            }
            other => unreachable!("a health report is answered as such, not by {other:?}"),
        }
    }

    /// One replica.
    pub(crate) fn get_replica(&self, key: &ReplicaKey) -> Result<v1::Replica, Refusal> {
        let record = self.effects.publisher.read(|view| view.get(key).cloned());
        let record = record.ok_or_else(|| RegistryError::ReplicaNotFound(key.clone()))?;
        Ok(self.replica(&record))
    }

    /// The wire's form of a record, with the times of its lease.
    pub(crate) fn replica(&self, record: &Record) -> v1::Replica {
        let mut replica = record.to_wire();
        let term = record.lease.and_then(|lease| self.effects.leases.get(lease.id));
        if let (Some(lease), Some(Term { renewed, deadline, .. })) = (&mut replica.lease, term) {
            let (now, wall) = (clock::now(), clock::wall());
            lease.expire_time = Some(timestamp(wall + deadline.saturating_duration_since(now)));
            lease.last_renew_time = Some(timestamp(wall - now.saturating_duration_since(renewed)));
        }
        replica
    }

    /// Runs the task behind a stream, which holds its place. What it fails with ends the stream, a panic as INTERNAL.
    ///
    /// `task` names the kind of stream in metrics and events.
    pub(crate) fn spawn_stream<T: Send + 'static>(
        &self,
        task: &'static str,
        place: Place,
        outbound: mpsc::Sender<Result<T, Status>>,
        work: impl Future<Output = Result<(), Status>> + Send + 'static,
    ) {
        let panics = self.panics.clone();
        self.streams.spawn(async move {
            let ended = caught(work).await.unwrap_or_else(|panic| {
                panics.handled(task, task, &panic);
                Err(Refusal::Internal.into())
            });
            if let Err(status) = ended {
                // A peer that reads nothing would hold up the end: it learns of it from the end of its stream.
                let _ = timeout(LAST_WORD_TIMEOUT, outbound.send(Err(status))).await;
            }
            drop(place);
        });
    }

    /// Whether changes are taken: the store works and no shutdown has begun.
    pub(crate) fn is_ready(&self) -> bool {
        *self.available.borrow() && !self.shutdown.has_begun()
    }
}

/// Three tries fit into one time to live.
fn heartbeat_interval(ttl: Duration) -> Duration {
    ttl / 3
}

fn why_not_renewed(view: &View, key: &ReplicaKey, lease: LeaseId) -> RegistryError {
    match view.get(key).map(|record| record.lease) {
        // It has lapsed, and its replica is about to go.
        Some(Some(terms)) if terms.id == lease => RegistryError::LeaseExpired(key.clone()),
        Some(_) => RegistryError::LeaseMismatch(key.clone()),
        None => RegistryError::LeaseExpired(key.clone()),
    }
}
