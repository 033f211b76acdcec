//! Drains and their receipts: who has stopped sending requests to a replica, and what is still in flight there.

use std::{sync::Arc, time::Duration};

use gateway_proto::{Check, LeaseId, Mode, ReplicaKey, time::parse_duration_within, v1};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};
use tonic::Status;

use super::asked;
use crate::{
    auth::{Caller, Permission},
    edge::Edge,
    refusal::Refusal,
    registry::{Answer, Command, Drain, DrainWish, Proof, Record, RegistryError},
    writer::WriteError,
};

type Outbound = mpsc::Sender<Result<v1::WatchDrainResponse, Status>>;

/// Stops new requests to a replica, and waits for its end as long as the caller does.
pub(super) async fn drain(
    edge: &Edge,
    request: v1::DrainReplicaRequest,
    caller: &Caller,
) -> Result<v1::DrainReplicaResponse, Refusal> {
    let mut check = Check::default();
    let key = check.take(ReplicaKey::parse(&request.service, &request.replica_id));
    let lease = match request.lease_id.as_str() {
        "" => Some(None),
        id => check.take(LeaseId::parse(id)).map(Some),
    };
    let timeout = match request.drain_timeout {
        None => Some(None),
        Some(wire) => {
            check.take(parse_duration_within("drain_timeout", wire, Duration::ZERO, Drain::LONGEST)).map(Some)
        }
    };
    let said = check.take(asked::said(&request.author, &request.reason, caller));
    let wait = check.take(asked::wait(request.wait_timeout));
    check.finish()?;
    let (Some(key), Some(lease), Some(timeout), Some(said), Some(wait)) = (key, lease, timeout, said, wait)
    else {
        unreachable!("nothing was refused")
    };
    let etag = request.etag;
    let proof = match lease {
        Some(lease) => Proof::Lease(lease),
        None => without_lease(edge, &key, caller)?,
    };
    let wish = DrainWish { key: key.clone(), proof, timeout, etag, allow_last: request.allow_last, said };
    let answer = edge.submit(caller, Command::Drain(Box::new(wish)), request.validate_only).await?;
    let Answer::Replica(record) = answer else { unreachable!("a drain is answered as such") };
    if request.validate_only {
        return Ok(v1::DrainReplicaResponse { replica: Some(record.to_wire()), status: None });
    }
    // What is gone meanwhile is shown as it was last.
    let record = wait_until_over(edge, &key, wait).await.unwrap_or(record);
    let status = status(edge, &record);
    Ok(v1::DrainReplicaResponse { replica: Some(edge.replica(&record)), status })
}

/// By whose right somebody drains and undrains who shows no lease: an operator's, or that of whoever may register the replica
/// where it is.
fn without_lease(edge: &Edge, key: &ReplicaKey, caller: &Caller) -> Result<Proof, Refusal> {
    if caller.has(Permission::Operate) {
        return Ok(Proof::Force);
    }
    let record = record(edge, key);
    caller.admit_drain(key, record.as_ref().map(|record| &record.endpoint.address))?;
    match record {
        Some(_) => Ok(Proof::None),
        None => Err(RegistryError::ReplicaNotFound(key.clone()).into()),
    }
}

/// Returns a replica to service.
pub(super) async fn undrain(
    edge: &Edge,
    request: v1::UndrainReplicaRequest,
    caller: &Caller,
) -> Result<v1::UndrainReplicaResponse, Refusal> {
    let mut check = Check::default();
    let key = check.take(ReplicaKey::parse(&request.service, &request.replica_id));
    let said = check.take(asked::said(&request.author, &request.reason, caller));
    check.finish()?;
    let (Some(key), Some(said)) = (key, said) else { unreachable!("nothing was refused") };
    let proof = without_lease(edge, &key, caller)?;
    let command = Command::Undrain { key, proof, etag: request.etag, said };
    match edge.submit(caller, command, false).await? {
        Answer::Replica(record) => Ok(v1::UndrainReplicaResponse { replica: Some(edge.replica(&record)) }),
        other => unreachable!("the end of a drain is answered as such, not by {other:?}"),
    }
}

/// Somebody who watches a drain.
pub(super) struct Watch {
    edge: Arc<Edge>,
    key: ReplicaKey,
}

impl Watch {
    /// Begins to watch a replica, whether it drains or not.
    pub(super) fn begin(edge: &Arc<Edge>, wire: &v1::WatchDrainRequest) -> Result<Self, Refusal> {
        let key = ReplicaKey::parse(&wire.service, &wire.replica_id)?;
        record(edge, &key).ok_or_else(|| RegistryError::ReplicaNotFound(key.clone()))?;
        Ok(Self { edge: Arc::clone(edge), key })
    }

    /// Sends the state at once, then each step, until the replica is drained or gone.
    pub(super) async fn follow(self, outbound: Outbound) -> Result<(), Status> {
        let mut head = self.edge.effects.publisher.subscribe();
        let mut progress = self.edge.effects.observation.follow_progress();
        let mut told = None;
        loop {
            head.mark_unchanged();
            progress.mark_unchanged();
            let record = record(&self.edge, &self.key);
            let is_over = record.as_ref().is_none_or(|record| record.mode() == Mode::Drained);
            let status = record.as_ref().and_then(|record| status(&self.edge, record));
            let step = (record.as_ref().map(|record| record.revision), status.clone());
            if told.as_ref() != Some(&step) {
                let replica = record.map(|record| self.edge.replica(&record));
                let response = v1::WatchDrainResponse { replica, status };
                tokio::select! {
                    sent = outbound.send(Ok(response)) => if sent.is_err() { return Ok(()) },
                    () = self.edge.shutdown.begun() => return Err(shutting_down()),
                }
                told = Some(step);
            }
            if is_over {
                return Ok(());
            }
            tokio::select! {
                _ = head.changed() => {}
                _ = progress.changed() => {}
                () = outbound.closed() => return Ok(()),
                () = self.edge.shutdown.begun() => return Err(shutting_down()),
            }
        }
    }
}

/// The replica as soon as its drain is over, or as it is after `wait`; `None` when it is gone.
async fn wait_until_over(edge: &Edge, key: &ReplicaKey, wait: Duration) -> Option<Arc<Record>> {
    let until = Instant::now() + wait;
    let mut head = edge.effects.publisher.subscribe();
    loop {
        head.mark_unchanged();
        let record = record(edge, key)?;
        let is_over = record.mode() != Mode::Draining || edge.shutdown.has_begun();
        let step = async {
            tokio::select! {
                _ = head.changed() => {}
                () = edge.shutdown.begun() => {}
            }
        };
        if is_over || timeout_at(until, step).await.is_err() {
            return Some(record);
        }
    }
}

fn record(edge: &Edge, key: &ReplicaKey) -> Option<Arc<Record>> {
    edge.effects.publisher.read(|view| view.get(key).cloned())
}

/// The receipts of a replica's drain; `None` when it does not drain.
fn status(edge: &Edge, record: &Record) -> Option<v1::DrainStatus> {
    let drain = record.drain.as_deref()?;
    Some(edge.effects.observation.drain_status(&record.key, drain.revision))
}

fn shutting_down() -> Status {
    Refusal::from(WriteError::ShuttingDown).into()
}
