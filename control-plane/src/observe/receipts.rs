//! How far a change has come: which data planes have taken it on, and what is still in flight on them.
//!
//! Only data planes that are connected count, for nobody knows of the others: one that comes later does, one that goes
//! no longer does. Of a drain more is asked, for a mistake costs requests: one that lost its stream a moment ago still
//! routes by what it holds, so it is waited for until it is back or has been away for too long to be expected.

use std::time::Instant;

use gateway_proto::{NodeId, ReplicaKey, v1};

use super::{
    matrix::Matrix,
    nodes::{Nodes, Progress},
};
use crate::registry::Revision;

/// Data planes named in one answer.
const MAX_PENDING: usize = 100;

/// Which data planes have taken on what the registry was at `revision`.
pub fn rollout(nodes: &Nodes, revision: Revision) -> v1::Rollout {
    let mut rollout = v1::Rollout::default();
    for (id, progress) in nodes.connected() {
        count(&mut rollout, id, progress.has_taken_on(revision));
    }
    rollout
}

/// Counts one data plane more.
fn count(rollout: &mut v1::Rollout, id: &NodeId, has_taken_on: bool) {
    rollout.node_count = rollout.node_count.saturating_add(1);
    if has_taken_on {
        rollout.acked_node_count = rollout.acked_node_count.saturating_add(1);
    } else if rollout.pending_node_ids.len() < MAX_PENDING {
        rollout.pending_node_ids.push(id.to_string());
    }
}

/// The receipts, at `now`, of a drain that the registry decided on at `revision`.
///
/// A data plane has stopped sending once it has taken that revision on. What it has in flight counts from its first report
/// after that: an earlier one could miss a request that began in between. Where no data plane is known, or those that are
/// are not known to be all, nobody knows that nothing is in flight.
pub fn drain_status(
    nodes: &Nodes,
    matrix: &Matrix,
    key: &ReplicaKey,
    revision: Revision,
    now: Instant,
    is_settled: bool,
) -> v1::DrainStatus {
    let mut rollout = v1::Rollout::default();
    let (mut inflight, mut unreported, mut is_idle) = (0_i32, 0_i32, is_settled);
    for (id, progress) in nodes.routing(now) {
        let has_stopped = progress.has_taken_on(revision);
        count(&mut rollout, id, has_stopped);
        let left = left_on(matrix, key, revision, id, progress);
        is_idle &= left == Some(0);
        match left {
            Some(left) => inflight = inflight.saturating_add(left),
            None if has_stopped => unreported = unreported.saturating_add(1),
            None => {}
        }
    }
    v1::DrainStatus {
        is_idle: is_idle && rollout.node_count > 0,
        rollout: Some(rollout),
        inflight_request_count: inflight,
        unreported_node_count: unreported,
        is_settling: !is_settled,
    }
}

/// What a data plane has in flight since it has stopped sending; `None` where it has not, or has not said since.
fn left_on(
    matrix: &Matrix,
    key: &ReplicaKey,
    revision: Revision,
    id: &NodeId,
    progress: Progress,
) -> Option<i32> {
    let is_known = progress.has_taken_on(revision) && progress.has_reported_since(revision);
    is_known.then(|| matrix.inflight_count(key, id))
}

/// Whether every data plane, and there is one, has stopped sending and said since that nothing is in flight.
pub(super) fn is_idle(
    nodes: &Nodes,
    matrix: &Matrix,
    key: &ReplicaKey,
    revision: Revision,
    now: Instant,
) -> bool {
    let mut routing = nodes.routing(now).peekable();
    routing.peek().is_some()
        && routing.all(|(id, progress)| left_on(matrix, key, revision, id, progress) == Some(0))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::observe::{Identity, nodes::RETURN_TIME, report::Report};

    struct World {
        nodes: Nodes,
        matrix: Matrix,
        now: Instant,
    }

    fn node(id: &str) -> NodeId {
        NodeId::parse(id).unwrap()
    }

    fn identity(id: &str) -> Identity {
        Identity {
            id: node(id),
            version: String::new(),
            process: "p-1".into(),
            address: String::new(),
            stream_number: 1,
        }
    }

    fn key() -> ReplicaKey {
        ReplicaKey::parse("orders", "r-1").unwrap()
    }

    impl World {
        /// Data planes that are connected and hold revision 5.
        fn with(ids: &[&str]) -> Self {
            let mut world = Self { nodes: Nodes::new(999), matrix: Matrix::default(), now: Instant::now() };
            for id in ids {
                world.connect(id, 5);
            }
            world
        }

        fn connect(&mut self, id: &str, resume: Revision) {
            self.nodes.connect(&identity(id), resume, self.now, UNIX_EPOCH).unwrap();
        }

        fn ack(&mut self, id: &str, revision: Revision) {
            self.nodes.acked(&node(id), revision, self.now);
        }

        fn report(&mut self, id: &str, revision: Revision, inflight: i32) {
            let row = v1::Breaker {
                service: "orders".into(),
                replica_id: "r-1".into(),
                state: v1::BreakerState::Closed.into(),
                inflight_count: inflight,
                ..Default::default()
            };
            let wire = v1::ReportNodeStatusRequest { breakers: vec![row], ..Default::default() };
            let report = Report::parse(&node(id), wire, UNIX_EPOCH).unwrap();
            self.matrix.report(&node(id), report.breakers, UNIX_EPOCH);
            self.nodes.reported_at(&node(id), Some(revision));
        }

        /// Connected, acked, in flight, unreported, idle.
        fn status(&self, revision: Revision) -> (i32, i32, i32, i32, bool) {
            let status = drain_status(&self.nodes, &self.matrix, &key(), revision, self.now, true);
            let rollout = status.rollout.unwrap();
            let (inflight, unreported) = (status.inflight_request_count, status.unreported_node_count);
            (rollout.node_count, rollout.acked_node_count, inflight, unreported, status.is_idle)
        }
    }

    #[test]
    fn a_drain_is_over_when_every_data_plane_has_stopped_and_said_so_with_nothing_in_flight() {
        let mut world = World::with(&["n1", "n2"]);
        // What was said before is of no use: a request may have begun since.
        world.report("n1", 5, 0);
        world.report("n2", 5, 4);
        assert_eq!(world.status(6), (2, 0, 0, 0, false));
        world.ack("n1", 6);
        assert_eq!(world.status(6), (2, 1, 0, 1, false));
        world.report("n1", 6, 0);
        assert_eq!(world.status(6), (2, 1, 0, 0, false));
        world.ack("n2", 7);
        world.report("n2", 7, 3);
        assert_eq!(world.status(6), (2, 2, 3, 0, false));
        world.report("n2", 7, 0);
        assert_eq!(world.status(6), (2, 2, 0, 0, true));
    }

    #[test]
    fn one_that_is_away_no_longer_counts_and_one_that_comes_does() {
        let mut world = World::with(&["n1", "n2"]);
        world.ack("n1", 6);
        world.report("n1", 6, 0);
        world.nodes.disconnect(&node("n2"), world.now);
        world.now += RETURN_TIME;
        assert_eq!(world.status(6), (1, 1, 0, 0, true));
        world.connect("n3", 2);
        assert_eq!(world.status(6), (2, 1, 0, 0, false));
        assert_eq!(rollout(&world.nodes, 6).pending_node_ids, ["n3"]);
    }

    #[test]
    fn one_that_lost_its_stream_a_moment_ago_still_routes_and_is_waited_for() {
        let mut world = World::with(&["n1", "n2"]);
        world.ack("n1", 6);
        world.report("n1", 6, 0);
        world.nodes.disconnect(&node("n2"), world.now);
        world.now += RETURN_TIME - Duration::from_millis(1);
        assert_eq!(world.status(6), (2, 1, 0, 0, false));
        assert_eq!(rollout(&world.nodes, 6).node_count, 1, "what routes by it now is another question");
        // As long as it reports, it is there.
        world.nodes.reported(&identity("n2"), world.now, UNIX_EPOCH).unwrap();
        world.now += RETURN_TIME / 2;
        assert_eq!(world.status(6), (2, 1, 0, 0, false));
        // It had stopped before it lost its stream, and says so on the other one.
        world.ack("n2", 6);
        world.report("n2", 6, 0);
        assert_eq!(world.status(6), (2, 2, 0, 0, true));
    }

    #[test]
    fn one_that_has_left_for_good_is_waited_for_no_longer() {
        let mut world = World::with(&["n1", "n2"]);
        world.ack("n1", 6);
        world.report("n1", 6, 0);
        world.nodes.disconnect(&node("n2"), world.now);
        assert_eq!(world.status(6), (2, 1, 0, 0, false));
        world.nodes.leave(&node("n2"), "p-1");
        assert_eq!(world.status(6), (1, 1, 0, 0, true));
        // The word of a process that another one has followed under its name is of no account.
        world.connect("n2", 5);
        world.nodes.leave(&node("n2"), "p-0");
        assert_eq!(world.status(6), (2, 1, 0, 0, false));
    }

    #[test]
    fn a_data_plane_that_comes_back_must_report_anew() {
        let mut world = World::with(&["n1"]);
        world.ack("n1", 6);
        world.report("n1", 6, 0);
        assert!(world.status(6).4);
        // A new process, perhaps, which began with what it had on disk.
        world.connect("n1", 6);
        assert_eq!(world.status(6), (1, 1, 0, 1, false));
        world.report("n1", 6, 1);
        assert_eq!(world.status(6), (1, 1, 1, 0, false));
        world.nodes.reports_anew(&node("n1"));
        assert_eq!(world.status(6), (1, 1, 0, 1, false));
    }

    #[test]
    fn a_data_plane_that_does_not_follow_the_service_is_not_waited_for() {
        let mut world = World::with(&["n1"]);
        world.nodes.unaffected(&node("n1"), 6);
        assert_eq!(world.status(6), (1, 1, 0, 1, false));
        // It knows of revision 5 only, and that is the same to it.
        world.report("n1", 5, 0);
        assert_eq!(world.status(6), (1, 1, 0, 0, true));
        assert_eq!(world.status(7), (1, 0, 0, 0, false));
    }

    #[test]
    fn one_that_refuses_is_waited_for() {
        let mut world = World::with(&["n1"]);
        world.ack("n1", 6);
        world.report("n1", 6, 0);
        world.nodes.nacked(&node("n1"), v1::Nack::default());
        assert_eq!(world.status(6), (1, 0, 0, 0, false));
    }

    #[test]
    fn a_report_of_another_epoch_is_none() {
        let mut world = World::with(&["n1"]);
        world.ack("n1", 6);
        world.report("n1", 6, 0);
        world.nodes.reported_at(&node("n1"), None);
        assert_eq!(world.status(6), (1, 1, 0, 1, false));
    }

    #[test]
    fn without_data_planes_nobody_knows_what_is_in_flight() {
        assert_eq!(World::with(&[]).status(6), (0, 0, 0, 0, false));
    }

    #[test]
    fn while_data_planes_are_still_coming_back_those_that_are_there_do_not_speak_for_all() {
        let mut world = World::with(&["n1"]);
        world.ack("n1", 6);
        world.report("n1", 6, 0);
        let status = |is_settled| {
            let status = drain_status(&world.nodes, &world.matrix, &key(), 6, world.now, is_settled);
            (status.is_idle, status.is_settling)
        };
        assert_eq!((status(false), status(true)), ((false, true), (true, false)));
    }

    #[test]
    fn of_many_that_are_behind_a_hundred_are_named() {
        let ids: Vec<String> = (0..150).map(|number| format!("n{number:03}")).collect();
        let world = World::with(&ids.iter().map(String::as_str).collect::<Vec<_>>());
        let rollout = rollout(&world.nodes, 6);
        assert_eq!((rollout.node_count, rollout.acked_node_count), (150, 0));
        assert_eq!(rollout.pending_node_ids, ids[..100]);
    }
}
