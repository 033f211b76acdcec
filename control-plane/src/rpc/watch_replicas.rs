//! `WatchReplicas`: changes of replicas as they happen, for tools.
//!
//! A watcher that reads slowly skips what came and went meanwhile; one that was away for too long starts over.

use std::{sync::Arc, time::Duration};

use gateway_proto::{Invalid, ReplicaKey, ServiceName, v1};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tonic::Status;

use crate::{
    edge::Edge,
    observe::parse_service,
    publish::ReplicaStep,
    refusal::Refusal,
    registry::{Record, Revision},
    writer::WriteError,
};

/// With nothing to say for this long, a bookmark tells the watcher that this side lives.
const QUIET: Duration = Duration::from_secs(15);

type Outbound = mpsc::Sender<Result<v1::WatchReplicasResponse, Status>>;

/// One watcher.
pub(super) struct Watch {
    edge: Arc<Edge>,
    service: Option<ServiceName>,
    /// What the watcher knows; `None`: nothing to go on from.
    held: Option<Revision>,
}

/// The watcher has gone, or the shutdown has begun.
struct Ended;

impl Watch {
    /// Reads what is to be watched, and from where.
    pub(super) fn parse(edge: &Arc<Edge>, wire: &v1::WatchReplicasRequest) -> Result<Self, Invalid> {
        let service = parse_service(&wire.service)?;
        let is_ours = wire.resume_epoch == edge.effects.publisher.epoch();
        let held = is_ours.then_some(wire.resume_revision);
        Ok(Self { edge: Arc::clone(edge), service, held })
    }

    /// Follows the registry until the watcher is gone.
    pub(super) async fn follow(mut self, outbound: Outbound) -> Result<(), Status> {
        let mut head = self.edge.effects.publisher.subscribe();
        loop {
            head.mark_unchanged();
            if self.catch_up(&outbound).await.is_err() {
                break;
            }
            tokio::select! {
                // The publisher outlives every watcher, so this ends only with a change.
                _ = head.changed() => {}
                () = sleep_until(Instant::now() + QUIET) => {}
                () = outbound.closed() => return Ok(()),
                () = self.edge.shutdown.begun() => break,
            }
        }
        match self.edge.shutdown.has_begun() {
            true => Err(Refusal::from(WriteError::ShuttingDown).into()),
            false => Ok(()),
        }
    }

    /// Sends all that the watcher does not know, and a bookmark.
    async fn catch_up(&mut self, outbound: &Outbound) -> Result<(), Ended> {
        let publisher = &self.edge.effects.publisher;
        let known = self.held.and_then(|held| publisher.replicas_since(held));
        let (revision, steps) = match known {
            Some(known) => known,
            None => {
                self.send(outbound, v1::ChangeType::Reset, None, 0).await?;
                publisher.read(|view| {
                    let added = |record: &Arc<Record>| ReplicaStep {
                        key: record.key.clone(),
                        existed: false,
                        record: Some(Arc::clone(record)),
                    };
                    let all = view.replicas().filter(|record| self.concerns(&record.key));
                    (view.revision(), all.map(added).collect())
                })
            }
        };
        for step in steps.into_iter().filter(|step| self.concerns(&step.key)) {
            let (change_type, replica) = self.describe(step);
            self.send(outbound, change_type, Some(replica), 0).await?;
        }
        self.send(outbound, v1::ChangeType::Bookmark, None, revision).await?;
        self.held = Some(revision);
        Ok(())
    }

    fn concerns(&self, key: &ReplicaKey) -> bool {
        self.service.as_ref().is_none_or(|name| key.service == *name)
    }

    fn describe(&self, step: ReplicaStep) -> (v1::ChangeType, v1::Replica) {
        match (step.existed, step.record) {
            (true, Some(record)) => (v1::ChangeType::Modified, self.edge.replica(&record)),
            (false, Some(record)) => (v1::ChangeType::Added, self.edge.replica(&record)),
            (_, None) => {
                let (service, replica_id) = (step.key.service.to_string(), step.key.replica.to_string());
                (v1::ChangeType::Deleted, v1::Replica { service, replica_id, ..Default::default() })
            }
        }
    }

    async fn send(
        &self,
        outbound: &Outbound,
        change_type: v1::ChangeType,
        replica: Option<v1::Replica>,
        revision: Revision,
    ) -> Result<(), Ended> {
        let epoch = match change_type {
            v1::ChangeType::Bookmark => self.edge.effects.publisher.epoch().to_owned(),
            _ => String::new(),
        };
        let change_type = change_type.into();
        let response = v1::WatchReplicasResponse { change_type, replica, epoch, revision };
        tokio::select! {
            sent = outbound.send(Ok(response)) => sent.map_err(|_| Ended),
            () = self.edge.shutdown.begun() => Err(Ended),
        }
    }
}
