//! The one owner of the snapshot: every message passes here, into the table and into what others may read.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use gateway_proto::{ServiceName, v1};
use tokio::{sync::watch, time::Instant};

use super::{Assembly, Received, Snapshot, Source, Status};
use crate::{
    clock::Clock,
    table::{ServiceSpec, Table},
};

/// Owns the snapshot and writes the table. There is one for each data plane.
#[derive(Debug)]
pub struct Feed {
    snapshot: watch::Sender<Snapshot>,
    status: watch::Sender<Status>,
    table: Arc<Table>,
    clock: Clock,
}

/// What everybody else may see of discovery. Reading takes a short lock and never waits for the network.
#[derive(Debug, Clone)]
pub struct View {
    /// The snapshot in use; a notification means that it changed.
    pub snapshot: watch::Receiver<Snapshot>,
    /// How the link stands.
    pub status: watch::Receiver<Status>,
}

impl Feed {
    /// Begins with `snapshot`, which was `age` old; all of it is in the table when this returns.
    pub fn new(
        snapshot: Snapshot,
        source: Source,
        age: Duration,
        table: Arc<Table>,
        clock: Clock,
    ) -> (Self, View) {
        // An empty registry is applied; nothing is not, for then nobody knows what is registered.
        if source != Source::None {
            let all: Vec<ServiceSpec> = snapshot.services().map(|service| (**service).clone()).collect();
            table.apply(&all, &[], clock.now());
        }
        let (snapshot, snapshot_view) = watch::channel(snapshot);
        let (status, status_view) = watch::channel(Status::new(source, age, Instant::now()));
        (Self { snapshot, status, table, clock }, View { snapshot: snapshot_view, status: status_view })
    }

    /// Epoch and revision to resume from; empty and 0 when nothing is held.
    pub(super) fn position(&self) -> (String, i64) {
        let snapshot = self.snapshot.borrow();
        (snapshot.epoch().to_owned(), snapshot.revision())
    }

    /// Applies one message and yields its answer, together with what became of it.
    ///
    /// When this returns, new requests are routed by what the message said. The status changes last.
    pub(super) fn receive(
        &self,
        assembly: &mut Assembly,
        message: v1::StreamSnapshotsResponse,
    ) -> (v1::Ack, Received) {
        let nonce = message.nonce.clone();
        let mut received = Received::Partial;
        self.snapshot.send_if_modified(|snapshot| {
            let before = snapshot.revision();
            received = assembly.receive(snapshot, message);
            matches!(received, Received::Applied { .. }) || before != snapshot.revision()
        });
        let mut ack = v1::Ack { nonce, revision: self.snapshot.borrow().revision(), nack: None };
        match &received {
            Received::Applied { changed, .. } => {
                self.apply(changed);
                self.status.send_modify(|status| status.confirm(Instant::now()));
            }
            Received::Unchanged => self.status.send_modify(|status| status.confirm(Instant::now())),
            Received::Partial => {}
            Received::Refused(refusal) => {
                ack.nack = Some(refusal.to_nack());
                self.status.send_modify(|status| status.refuse(refusal.to_string()));
            }
        }
        (ack, received)
    }

    pub(super) fn set_connected(&self, connected: bool) {
        self.status.send_modify(|status| status.set_connected(connected, Instant::now()));
    }

    /// What it means for requests that nothing new comes, for the log.
    pub(super) fn meanwhile(&self) -> &'static str {
        match self.status.borrow().source {
            Source::None => "nothing to route by yet",
            _ => "going on with the snapshot in use",
        }
    }

    fn apply(&self, names: &BTreeSet<ServiceName>) {
        let (changed, gone): (Vec<ServiceSpec>, Vec<ServiceName>) = {
            let snapshot = self.snapshot.borrow();
            let changed = names.iter().filter_map(|name| snapshot.service(name));
            let gone = names.iter().filter(|name| snapshot.service(name).is_none());
            (changed.map(|spec| (**spec).clone()).collect(), gone.cloned().collect())
        };
        self.table.apply(&changed, &gone, self.clock.now());
    }
}
