//! What both edges, gRPC and HTTP, can do: one operation each, in checked words, answered in the contract's.
//!
//! The edges parse and encode; rules live in the registry; this joins the two. It owns nothing but handles.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::Router;
use gateway_proto::{
    Address, Health, LeaseId, Mode, ReplicaKey, ServiceName,
    time::{duration, timestamp},
    v1,
};
use gateway_runtime::{Shutdown, panics::caught};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::{Instant, timeout, timeout_at},
};
use tokio_util::task::TaskTracker;
use tonic::Status;

use crate::{
    auth::{Caller, Gate, Permission, Subject},
    clock,
    effects::Effects,
    leases::Term,
    panics::Panics,
    peers::Myself,
    places::{Place, Places},
    refusal::Refusal,
    registry::{
        Answer, Candidates, Command, Decision, Limits, Proof, Record, Registration, RegistryError, Revision,
        Said, Target, View, Write, decide, unproven, why_lease_is_void,
    },
    starts::Starts,
    turns::Turns,
    writer::{Commands, Conditions, Present, WriteError},
};

/// How long an owner whom nobody has heard of may be new, where control planes share a store.
pub(crate) const HEARSAY: Duration = Duration::from_millis(300);

/// How often a caller is let change what somebody else has changed each time before it came to that.
const ADMISSIONS: u32 = 5;
/// How long a stream that ends waits for its peer to have room for the status that says why.
const LAST_WORD_TIMEOUT: Duration = Duration::from_secs(1);

/// Handles to all parts that a request may need.
#[derive(Debug)]
pub(crate) struct Edge {
    /// Where everybody who asks has passed.
    pub(crate) gate: Arc<Gate>,
    pub(crate) effects: Effects,
    pub(crate) commands: Commands,
    /// Each caller's turns to hand in commands.
    pub(crate) turns: Turns,
    pub(crate) limits: Limits,
    pub(crate) shutdown: Shutdown,
    /// Whether other control planes use the store, too.
    pub(crate) is_store_shared: bool,
    /// Why changes are refused, if they are.
    pub(crate) refusing: watch::Receiver<Option<WriteError>>,
    pub(crate) panics: Panics,
    /// The tasks behind streams, awaited at shutdown.
    pub(crate) streams: TaskTracker,
    pub(crate) snapshot_streams: Places,
    /// Turns to begin a data plane's stream.
    pub(crate) snapshot_starts: Starts,
    /// Turns to send a part of a full snapshot.
    pub(crate) parts_under_way: Arc<Semaphore>,
    pub(crate) report_streams: Places,
    pub(crate) event_streams: Places,
    pub(crate) watch_streams: Places,
    pub(crate) keep_alive_streams: Places,
    /// What strangers follow: whether this serves.
    pub(crate) open_streams: Places,
    /// Names that HTTP callers may use besides those that are nobody else's.
    pub(crate) allowed_hosts: Vec<String>,
    pub(crate) dashboard_streams: Places,
    /// Whether changes are taken from web pages.
    pub(crate) takes_page_writes: bool,
    /// Whether policies may inject faults.
    pub(crate) allow_fault_injection: bool,
    pub(crate) peer_streams: Places,
    /// One: for whoever moves what is registered to another store.
    pub(crate) move_streams: Places,
    /// Who this control plane is to others.
    pub(crate) myself: Myself,
    /// What the program around this one serves beside the dashboard.
    pub(crate) lab: Option<Router>,
}

/// A lease that was renewed, and what is known of its replica.
#[derive(Debug)]
pub(crate) struct Renewed {
    pub(crate) answer: v1::HeartbeatResponse,
    pub(crate) mode: Mode,
    /// As reported last; `None` when the replica is just being removed.
    pub(crate) health: Option<Health>,
}

impl Edge {
    /// Registers a replica; with `validate_only`, says what would come of it and changes nothing. With `wait`, it also waits
    /// that long for data planes to route to it, and says which do. What cannot be made `until` its caller waits is not made.
    pub(crate) async fn register(
        &self,
        caller: &Caller,
        mut registration: Registration,
        validate_only: bool,
        wait: Option<Duration>,
        until: Option<std::time::Instant>,
    ) -> Result<v1::RegisterResponse, Refusal> {
        registration.registrant = caller.registrant(&registration.service);
        let is_repeatable = registration.request.is_some();
        let command = Command::Register(registration);
        let answer = self.submit_until(caller, command, validate_only, until).await?;
        let Answer::Registered { record, created } = answer else {
            unreachable!("a registration is answered as such")
        };
        if let Some(lease) = record.lease.filter(|_| !validate_only && is_repeatable) {
            // The first answer to this request may be long ago: the second promises as much, or is none.
            self.renew(caller, &record.key, lease.id)?;
        }
        let rollout = match wait.filter(|_| !validate_only) {
            Some(wait) => Some(self.rollout(record.revision, wait).await),
            None => None,
        };
        let replica = if validate_only { record.to_wire() } else { self.replica(&record) };
        let lease = record.lease;
        Ok(v1::RegisterResponse {
            replica: Some(replica),
            lease_id: lease.filter(|_| !validate_only).map(|lease| lease.id.reveal()).unwrap_or_default(),
            heartbeat_interval: lease.map(|lease| duration(heartbeat_interval(lease.ttl()))),
            created,
            rollout,
        })
    }

    /// Has a command carried out, if its caller may have it; with `validate_only`, only says what would come of it.
    pub(crate) async fn submit(
        &self,
        caller: &Caller,
        command: Command,
        validate_only: bool,
    ) -> Result<Answer, Refusal> {
        self.submit_until(caller, command, validate_only, None).await
    }

    /// As [`Edge::submit`], for a caller who waits `until` then, if he says.
    async fn submit_until(
        &self,
        caller: &Caller,
        command: Command,
        validate_only: bool,
        until: Option<std::time::Instant>,
    ) -> Result<Answer, Refusal> {
        caller.admit_command(&command)?;
        if validate_only {
            self.admit_present(caller, &command)?;
            return Ok(self.rehearse(&command)?);
        }
        let turn = self.turns.take(caller.share().as_ref(), 1).await;
        let subject = caller.is_known().then(|| Subject::of(&command));
        let mut outcome = Err(WriteError::Overtaken);
        for _ in 0..ADMISSIONS {
            let admitted_on = self.admit_present(caller, &command)?;
            let conditions = Conditions { until, admitted_on };
            outcome = self.commands.submit_in(turn.clone(), command.clone(), conditions).await;
            if !matches!(outcome, Err(WriteError::Overtaken)) {
                break;
            }
        }
        let answer = outcome.map_err(Refusal::from);
        if let Some(subject) = subject {
            caller.changed(&subject, answer.as_ref().err().map_or("done", Refusal::reason));
        }
        answer
    }

    /// Lets a caller change what is there, where he does not prove that it is his. Yields what that holds for, and for no other.
    fn admit_present(&self, caller: &Caller, command: &Command) -> Result<Option<Present>, Refusal> {
        if !caller.is_known() {
            return Ok(None);
        }
        let present = self.effects.publisher.read(|view| unproven(view, command).cloned());
        if let Some(present) = &present {
            caller.admit_present(command, present)?;
        }
        Ok(Some(Present::of(present.as_deref())))
    }

    /// Has several commands carried out, all of which their caller was let have already, in one turn. What comes of each is told
    /// as of one that is handed in alone.
    pub(crate) async fn submit_admitted(&self, caller: &Caller, commands: Vec<Command>) {
        let turn = self.turns.take(caller.share().as_ref(), commands.len()).await;
        let subjects: Vec<_> = match caller.is_known() {
            true => commands.iter().map(Subject::of).collect(),
            false => Vec::new(),
        };
        let answers = self.commands.submit_all_in(turn, commands).await;
        for (subject, answer) in subjects.iter().zip(answers) {
            let refusal = answer.err().map(Refusal::from);
            caller.changed(subject, refusal.as_ref().map_or("done", Refusal::reason));
        }
    }

    /// Decides a command on what is known now, and forgets the decision.
    fn rehearse(&self, command: &Command) -> Result<Answer, RegistryError> {
        let fresh = Candidates::from_random(rand::random(), rand::random());
        let publisher = &self.effects.publisher;
        publisher.read(|view| match decide(view, &self.limits, command, &fresh, clock::wall())? {
            Decision::Nothing(answer) => Ok(answer),
            Decision::Commit(mutation) => {
                let revision = match &mutation.main.write {
                    Write::Put(_) => mutation.main.expected.unwrap_or(0),
                    Write::Remove => view.revision(),
                };
                Ok(mutation.answer(revision))
            }
        })
    }

    /// Removes a replica; an absent one is success.
    pub(crate) async fn deregister(
        &self,
        caller: &Caller,
        target: Target,
        proof: Proof,
        said: Said,
        block: Option<Duration>,
    ) -> Result<v1::DeregisterResponse, Refusal> {
        let command = Command::Deregister { target, proof, said, block };
        match self.submit(caller, command, false).await? {
            Answer::Deregistered { removed, revision } => Ok(v1::DeregisterResponse { removed, revision }),
            other => unreachable!("a removal is answered as such, not by {other:?}"),
        }
    }

    /// Removes whatever replica of the service is reached at the address: an operator's word. Of somebody else, who shows no
    /// lease here, it is enough for a replica that has none.
    pub(crate) async fn deregister_address(
        &self,
        caller: &Caller,
        service: ServiceName,
        address: Address,
    ) -> Result<(), Refusal> {
        let target = Target::Address(service, address);
        let said = Said { author: caller.known_author(), ..Said::default() };
        let proof = if caller.has(Permission::Operate) { Proof::Force } else { Proof::None };
        self.deregister(caller, target, proof, said, None).await.map(drop)
    }

    /// Waits, where control planes share a store, for a lease that another one may have granted a moment ago, at most until
    /// `until`: an owner is not to be told that he is unknown by whoever just has not heard of him yet. Yields whether it is
    /// known what became of the lease.
    pub(crate) async fn hear_of(&self, key: &ReplicaKey, lease: LeaseId, until: Instant) -> bool {
        let is_known = |view: &View| {
            view.get(key).is_some_and(|record| record.is_kept_by(lease))
                || view.removed(key).is_some_and(|removed| removed.lease == Some(lease))
        };
        if !self.is_store_shared {
            return true;
        }
        let mut head = self.effects.publisher.subscribe();
        while !self.effects.publisher.read(is_known) {
            if !matches!(timeout_at(until, head.changed()).await, Ok(Ok(()))) {
                return self.effects.publisher.read(is_known);
            }
        }
        true
    }

    /// Has the store say that this control plane knows all that others have acknowledged, and catches up where it does not. Whose
    /// lease is unknown after that has none: a watch may be seconds behind, as while etcd chooses a leader.
    ///
    /// # Errors
    /// The caller may not renew that, or the store does not say.
    pub(crate) async fn confirm(
        &self,
        caller: &Caller,
        key: &ReplicaKey,
        lease: LeaseId,
    ) -> Result<(), Refusal> {
        caller.admit_renewal(&key.service)?;
        let turn = self.turns.take(caller.share().as_ref(), 1).await;
        // That changes nothing where the lease is unknown, and who is there after all has been heard of.
        let asked = Command::Recover { key: key.clone(), lease };
        match self.commands.submit_in(turn, asked, Conditions::default()).await {
            Ok(_) | Err(WriteError::Refused(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Renews a lease.
    pub(crate) fn renew(
        &self,
        caller: &Caller,
        key: &ReplicaKey,
        lease: LeaseId,
    ) -> Result<Renewed, Refusal> {
        caller.admit_renewal(&key.service)?;
        if !self.effects.leases.is_in_touch(lease, clock::now()) {
            // Others would not hear of it, and may take the owner for dead: another control plane may be better placed.
            return Err(self.why_cut_off().into());
        }
        let Some(term) = self.effects.leases.renew(lease, key, clock::now()) else {
            let why = |view: &View| why_lease_is_void(view, key, lease, clock::wall());
            return Err(self.effects.publisher.read(why).into());
        };
        let record = self.effects.publisher.read(|view| view.get(key).cloned());
        let drain = record.as_ref().and_then(|record| record.as_drain());
        Ok(Renewed {
            answer: Self::heartbeat_answer(term.ttl, clock::wall() + term.ttl, drain),
            mode: record.as_ref().map_or(Mode::Serving, |record| record.mode()),
            health: record.map(|record| record.health),
        })
    }

    /// What the owner of a lease that ends at `expires` is told.
    pub(crate) fn heartbeat_answer(
        ttl: Duration,
        expires: SystemTime,
        drain: Option<(Mode, SystemTime)>,
    ) -> v1::HeartbeatResponse {
        let (mode, deadline) = drain.unzip();
        v1::HeartbeatResponse {
            expire_time: Some(timestamp(expires)),
            heartbeat_interval: Some(duration(heartbeat_interval(ttl))),
            mode: mode.unwrap_or_default().to_wire().into(),
            drain_deadline_time: deadline.map(timestamp),
        }
    }

    /// Sets the health that a replica reports of itself.
    pub(crate) async fn report_health(
        &self,
        caller: &Caller,
        key: ReplicaKey,
        lease: Option<LeaseId>,
        health: Health,
        reason: String,
    ) -> Result<v1::ReportHealthResponse, Refusal> {
        let command = Command::ReportHealth { key, lease, health, reason };
        match self.submit(caller, command, false).await? {
            Answer::Replica(record) => Ok(v1::ReportHealthResponse { replica: Some(self.replica(&record)) }),
            other => unreachable!("a health report is answered as such, not by {other:?}"),
        }
    }

    /// Which data planes have come to `revision`, after waiting for all of them, at most for `wait`.
    pub(crate) async fn rollout(&self, revision: Revision, wait: Duration) -> v1::Rollout {
        // The end of the process waits for no data plane: who asked is told how far it has come.
        tokio::select! {
            rollout = self.effects.observation.wait_for(revision, wait) => rollout,
            () = self.shutdown.begun() => self.effects.observation.wait_for(revision, Duration::ZERO).await,
        }
    }

    /// One replica.
    pub(crate) fn get_replica(&self, key: &ReplicaKey) -> Result<v1::Replica, Refusal> {
        let found = self.effects.publisher.read(|view| {
            let removed = view.removed(key).filter(|removed| removed.is_fresh(clock::wall()));
            view.get(key).cloned().ok_or_else(|| match removed {
                Some(removed) => {
                    RegistryError::ReplicaGone { key: key.clone(), why: removed.why.to_string() }
                }
                None => RegistryError::ReplicaNotFound(key.clone()),
            })
        });
        found.map(|record| self.replica(&record)).map_err(Refusal::from)
    }

    /// The wire's form of a record, with the times of its lease.
    pub(crate) fn replica(&self, record: &Record) -> v1::Replica {
        let mut replica = record.to_wire();
        let term = record.lease.and_then(|lease| self.effects.leases.get(lease.id));
        let (now, wall) = (clock::now(), clock::wall());
        // One that is past its deadline and alive was renewed at another control plane, which knows when.
        let term = term.filter(|term| now < term.deadline);
        if let (Some(lease), Some(Term { renewed, deadline, .. })) = (&mut replica.lease, term) {
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
        self.refusing.borrow().is_none() && !self.shutdown.has_begun()
    }

    /// Why others know better by now what this one is asked: the store has moved, or is not heard of, whatever else is wrong with it.
    pub(crate) fn why_cut_off(&self) -> WriteError {
        match &*self.refusing.borrow() {
            Some(moved @ (WriteError::StoreMoves | WriteError::StoreMoved(_))) => moved.clone(),
            _ => WriteError::StoreUnavailable,
        }
    }
}

#[cfg(test)]
impl Edge {
    /// With one place for each kind of stream.
    pub(crate) fn around(
        effects: Effects,
        commands: Commands,
        refusing: watch::Receiver<Option<WriteError>>,
    ) -> Self {
        let places = || Places::new(1, "too many");
        Self {
            gate: Arc::new(Gate::open()),
            panics: Panics::new(&effects.metrics, &effects.observation),
            effects,
            commands,
            turns: Turns::new(9),
            limits: Limits { replicas: 1, replicas_per_service: 1 },
            shutdown: Shutdown::new(),
            is_store_shared: false,
            refusing,
            streams: TaskTracker::new(),
            snapshot_streams: places(),
            snapshot_starts: Starts::new(0),
            parts_under_way: Arc::new(Semaphore::new(1)),
            report_streams: places(),
            event_streams: places(),
            watch_streams: places(),
            keep_alive_streams: places(),
            open_streams: places(),
            allowed_hosts: Vec::new(),
            dashboard_streams: Places::new(1, "too many dashboards"),
            takes_page_writes: true,
            allow_fault_injection: false,
            peer_streams: places(),
            move_streams: places(),
            myself: Myself { address: String::new(), process_id: String::new() },
            lab: None,
        }
    }
}

/// Three tries fit into one time to live.
fn heartbeat_interval(ttl: Duration) -> Duration {
    ttl / 3
}
