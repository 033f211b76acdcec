//! What the control plane sees of the data planes, and the timeline of all that happens.
//!
//! Nothing here is stored: data planes say it again when they reconnect. [`Observation`] owns it behind one lock,
//! which is held for no await; the parts behind it are pure and take time as an argument.

mod matrix;
mod nodes;
mod report;
mod seat;
mod timeline;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use gateway_proto::{NodeId, ReplicaKey, ServiceName, time::timestamp, v1};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::seat::Stream;
pub use self::{
    matrix::{BreakerReport, Matrix, merge},
    nodes::{FORGET_AFTER, Identity, Nodes, SILENT_AFTER, TooManyNodes},
    report::Report,
    seat::Seat,
    timeline::{Cursor, EventFilter, Position, Since, Timeline, TimelineLimits},
};
use crate::{
    clock,
    registry::{Event, Revision},
};

/// Everything observed.
#[derive(Debug)]
pub struct Observation {
    observed: Mutex<Observed>,
    /// The number of the last event, for those who wait for the next.
    last_event: watch::Sender<Position>,
}

#[derive(Debug)]
struct Observed {
    nodes: Nodes,
    matrix: Matrix,
    timeline: Timeline,
    seats: HashMap<(NodeId, Stream), CancellationToken>,
}

impl Observation {
    /// Nothing observed yet, of at most `max_nodes` data planes.
    pub fn new(max_nodes: usize) -> Self {
        let started = clock::wall().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let started_ms = u64::try_from(started.as_millis()).unwrap_or(u64::MAX);
        let (last_event, _) = watch::channel(0);
        Self {
            observed: Mutex::new(Observed {
                nodes: Nodes::new(max_nodes),
                matrix: Matrix::default(),
                timeline: Timeline::new(started_ms, TimelineLimits::default()),
                seats: HashMap::new(),
            }),
            last_event,
        }
    }

    /// Notes what happened in the registry; replicas that are gone lose their breakers.
    pub(crate) fn registry_changed(&self, events: &[Event]) {
        let mut observed = self.lock();
        for event in events {
            if let Some(key) = event.removed() {
                observed.matrix.forget_replica(&key);
            }
            observed.timeline.push(event.to_wire());
        }
        self.tell(observed);
    }

    /// Whether nothing is in flight at a replica, as far as every data plane has reported since `revision`.
    pub(crate) fn is_idle(&self, _key: &ReplicaKey, _revision: Revision) -> bool {
        false
    }

    /// Which data planes have come to `revision`, after waiting for all of them, at most for `wait`.
    pub(crate) async fn rollout(&self, _revision: Revision, _wait: std::time::Duration) -> v1::Rollout {
        v1::Rollout::default()
    }

    /// Notes what happened beside the registry.
    pub(crate) fn note(&self, event: v1::Event) {
        let mut observed = self.lock();
        observed.timeline.push(event);
        self.tell(observed);
    }

    /// Begins a snapshot stream; an older one of the same data plane is told to end.
    ///
    /// # Errors
    /// [`TooManyNodes`].
    pub(crate) fn connect(
        self: &Arc<Self>,
        identity: Identity,
        resume: Revision,
    ) -> Result<Seat, TooManyNodes> {
        let mut observed = self.lock();
        let forgotten = observed.nodes.connect(&identity, resume, clock::now(), clock::wall())?;
        observed.forget_rows_of(forgotten);
        let message = format!("connected from {}, version {}", identity.address, identity.version);
        observed.node_event("NODE_CONNECTED", v1::EventSeverity::Info, &identity.id, message);
        let seat = observed.seat(self, identity, Stream::Snapshots);
        self.tell(observed);
        Ok(seat)
    }

    /// Begins a report stream; an older one of the same data plane is told to end.
    ///
    /// # Errors
    /// [`TooManyNodes`].
    pub(crate) fn begin_reports(self: &Arc<Self>, identity: Identity) -> Result<Seat, TooManyNodes> {
        let mut observed = self.lock();
        let forgotten = observed.nodes.reported(&identity, clock::now(), clock::wall())?;
        observed.forget_rows_of(forgotten);
        Ok(observed.seat(self, identity, Stream::Reports))
    }

    /// Drops what belongs to replicas that are not `known` and to data planes that stay away.
    ///
    /// A report that crosses a removal can leave a row behind; this finds it.
    pub(crate) fn tidy(&self, known: impl Fn(&ReplicaKey) -> bool) {
        let mut rows: Vec<ReplicaKey> = self.lock().matrix.replicas().cloned().collect();
        rows.retain(|key| !known(key));
        let mut observed = self.lock();
        for key in rows {
            observed.matrix.forget_replica(&key);
        }
        let absent = observed.nodes.forget_absent(clock::now());
        observed.forget_rows_of(absent);
    }

    /// Lets `read` look at the data planes and their breakers. It must be quick.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&Nodes, &Matrix) -> T) -> T {
        let observed = self.lock();
        read(&observed.nodes, &observed.matrix)
    }

    /// Lets `read` look at the timeline. It must be quick.
    pub(crate) fn read_events<T>(&self, read: impl FnOnce(&Timeline) -> T) -> T {
        read(&self.lock().timeline)
    }

    /// How many replicas of the service have a breaker that is not closed somewhere.
    pub(crate) fn open_replica_count(&self, service: &ServiceName) -> usize {
        self.lock().matrix.open_replica_count(service)
    }

    /// Follows the number of the last event.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Position> {
        self.last_event.subscribe()
    }

    fn tell(&self, observed: MutexGuard<'_, Observed>) {
        let last = observed.timeline.last();
        drop(observed);
        self.last_event.send_if_modified(|known| std::mem::replace(known, last.max(*known)) < last);
    }

    fn lock(&self) -> MutexGuard<'_, Observed> {
        // What a panicking thread left behind is at worst one report short.
        self.observed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observed {
    fn seat(&mut self, observation: &Arc<Observation>, identity: Identity, stream: Stream) -> Seat {
        let superseded = CancellationToken::new();
        let key = (identity.id.clone(), stream);
        if let Some(older) = self.seats.insert(key, superseded.clone()) {
            older.cancel();
        }
        Seat { observation: Arc::clone(observation), identity, stream, superseded }
    }

    /// Rows are kept for as long as their data plane is.
    fn forget_rows_of(&mut self, nodes: impl IntoIterator<Item = NodeId>) {
        for node in nodes {
            self.matrix.forget_node(&node);
        }
    }

    fn node_event(&mut self, event_type: &str, severity: v1::EventSeverity, node: &NodeId, message: String) {
        self.timeline.push(v1::Event {
            event_time: Some(timestamp(clock::wall())),
            severity: severity.into(),
            event_type: event_type.into(),
            node_id: node.to_string(),
            message,
            ..Default::default()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity { id: NodeId::parse("n1").unwrap(), version: "1".into(), address: "10.0.0.9:1".into() }
    }

    fn event_types(observation: &Observation) -> Vec<String> {
        let listed = observation.read_events(|timeline| timeline.list(&EventFilter::default(), None, 99));
        listed.iter().rev().map(|(_, event)| event.event_type.clone()).collect()
    }

    fn state(observation: &Observation) -> v1::NodeState {
        observation.read(|nodes, _| nodes.list_after("", 0).next().unwrap().1.state())
    }

    #[tokio::test]
    async fn the_newest_stream_of_a_data_plane_speaks_for_it() {
        let observation = Arc::new(Observation::new(9));
        let older = observation.connect(identity(), 0).unwrap();
        let newer = observation.connect(identity(), 0).unwrap();
        older.superseded().await;
        older.nacked(v1::Nack::default());
        drop(older);
        assert_eq!(state(&observation), v1::NodeState::Synced);
        drop(newer);
        assert_eq!(state(&observation), v1::NodeState::Disconnected);
        assert_eq!(event_types(&observation), ["NODE_CONNECTED", "NODE_CONNECTED", "NODE_DISCONNECTED"]);
        assert!(observation.lock().seats.is_empty());
    }

    #[tokio::test]
    async fn rows_of_replicas_that_are_unknown_or_gone_are_not_kept() {
        let observation = Arc::new(Observation::new(9));
        let seat = observation.begin_reports(identity()).unwrap();
        let row = |id: &str| {
            let key = ReplicaKey::parse("orders", id).unwrap();
            (key, v1::Breaker { state: v1::BreakerState::Open.into(), ..Default::default() })
        };
        let breakers = BreakerReport { full: true, breakers: vec![row("r-1"), row("r-2")] };
        let report = Report { breakers, events: Vec::new() };
        seat.reported(report.clone(), |key| key.replica.as_str() == "r-1");
        let service = ServiceName::parse("orders").unwrap();
        assert_eq!(observation.open_replica_count(&service), 1);
        observation.tidy(|_| false);
        assert_eq!(observation.open_replica_count(&service), 0);
    }

    #[tokio::test]
    async fn a_data_plane_that_makes_room_takes_its_rows_with_it() {
        let observation = Arc::new(Observation::new(1));
        let named = |id: &str| Identity { id: NodeId::parse(id).unwrap(), ..identity() };
        let rows = || {
            let count = |matrix: &Matrix| matrix.from(None).flat_map(|(_, nodes)| nodes.keys()).count();
            observation.read(|_, matrix| count(matrix))
        };
        let key = ReplicaKey::parse("orders", "r-1").unwrap();
        let breakers = BreakerReport { full: true, breakers: vec![(key, v1::Breaker::default())] };
        let report = Report { breakers, events: Vec::new() };
        let older = observation.begin_reports(named("n1")).unwrap();
        older.reported(report.clone(), |_| true);
        assert_eq!(rows(), 1);
        let _newer = observation.connect(named("n2"), 0).unwrap();
        assert_eq!(rows(), 0);
        // Nor does it get rows without a place: the other one is connected and keeps its own.
        older.reported(report, |_| true);
        assert_eq!(rows(), 0);
    }
}
