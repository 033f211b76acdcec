//! Data planes that follow another control plane, as that one tells of them, and what this one tells of its own.
//!
//! A data plane follows one control plane at a time. For some seconds two may claim it: the one that it has left has not
//! found out yet. The newer stream counts, which the data plane numbers itself; of those that do not, whoever has it here.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use gateway_proto::{
    Invalid, NodeId,
    time::{self, duration, system_time, timestamp},
    v1,
};

use super::{Held, Home, Node, Nodes, TooManyNodes};
use crate::{
    observe::report::{cut_left, cut_nack, parse_held},
    registry::Revision,
};

/// Longer words of a version or an address are cut.
const MAX_TEXT_CHARS: usize = 63;

/// What another control plane says of one of its data planes, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    /// Whose.
    pub id: NodeId,
    version: String,
    process: String,
    address: String,
    stream_number: i64,
    is_connected: bool,
    is_reporting: bool,
    heard_ago: Duration,
    connect_time: Option<SystemTime>,
    report_time: Option<SystemTime>,
    acked: Revision,
    current: Revision,
    sent: Revision,
    nack: Option<v1::Nack>,
    reported: Option<Revision>,
    held: Held,
    checks_late: Duration,
    taken_batch: (String, i64),
    left: Option<v1::LeftControlPlane>,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// Another control plane, or this one, has a newer stream of the data plane.
    Ignored,
    /// It was that control plane's before, too.
    Updated,
    /// It was not: its breakers have to be told anew.
    Moved,
}

impl Told {
    /// Checks it.
    ///
    /// # Errors
    /// [`Invalid`] for a bad name.
    pub fn parse(wire: v1::PeerNode) -> Result<Self, Invalid> {
        let node = wire.node.unwrap_or_default();
        let cut = |text: String| text.chars().take(MAX_TEXT_CHARS).collect();
        let instant = |at: Option<prost_types::Timestamp>| at.filter(time::is_valid).map(system_time);
        Ok(Self {
            id: NodeId::parse(&node.node_id)?,
            version: cut(node.version),
            process: cut(node.process_id),
            address: cut(wire.address),
            stream_number: node.stream_number,
            is_connected: wire.connected,
            is_reporting: wire.reporting,
            heard_ago: wire.heard_ago.and_then(time::non_negative).unwrap_or_default(),
            connect_time: instant(wire.connect_time),
            report_time: instant(wire.report_time),
            acked: wire.acked_revision.max(0),
            current: wire.current_revision.max(0),
            sent: wire.sent_revision.max(0),
            nack: wire.nack.map(cut_nack),
            reported: wire.reported_revision,
            held: wire.held_replicas.map(parse_held).transpose()?.unwrap_or_default(),
            checks_late: wire.health_check_lateness.and_then(time::non_negative).unwrap_or_default(),
            taken_batch: (cut(wire.taken_batch_process_id), wire.taken_batch_number.max(0)),
            left: wire.left.and_then(cut_left),
        })
    }
}

impl Nodes {
    /// Takes in what the control plane at `peer` says. Yields what became of it, and who was forgotten for it.
    ///
    /// # Errors
    /// [`TooManyNodes`] when it is a new one and there is no room.
    pub fn told(
        &mut self,
        peer: &Arc<str>,
        told: Told,
        now: Instant,
    ) -> Result<(Taken, Option<NodeId>), TooManyNodes> {
        let known = self.nodes.get(&told.id);
        let is_its_own = |node: &Node| matches!(&node.home, Home::Peer { address, .. } if address == peer);
        let taken = match known {
            Some(node) if is_its_own(node) => Taken::Updated,
            Some(node) if !node.is_known_connected() && told.is_connected => Taken::Moved,
            Some(node) if told.is_connected && told.stream_number > node.stream_number => Taken::Moved,
            Some(_) => return Ok((Taken::Ignored, None)),
            None => Taken::Moved,
        };
        let forgotten = self.make_room(&told.id, |node| !node.is_here())?;
        let heard = now.checked_sub(told.heard_ago).unwrap_or(now);
        self.entry(told.id.clone(), now);
        self.change(&told.id, |node| {
            let had_rows = matches!(node.home, Home::Peer { has_rows: true, .. });
            node.home = Home::Peer {
                address: Arc::clone(peer),
                is_reporting: told.is_reporting,
                is_silent: false,
                has_rows: had_rows && taken == Taken::Updated,
            };
            node.version = told.version;
            node.process = told.process;
            node.address = told.address;
            node.stream_number = told.stream_number;
            node.connected = told.is_connected;
            node.heard = heard;
            node.connect_time = told.connect_time;
            node.report_time = told.report_time;
            node.acked = told.acked;
            node.current = told.current;
            node.sent = told.sent;
            node.nack = told.nack;
            node.reported = told.reported;
            node.held = told.held;
            node.held_as_told = None;
            node.checks_late = told.checks_late;
            node.taken_batch = told.taken_batch;
            node.left = told.left;
        });
        Ok((taken, forgotten))
    }

    /// Notes that the control plane at `peer` has told all breakers of its data plane.
    pub fn has_told_rows(&mut self, peer: &str, id: &NodeId) {
        if !self.is_of(peer, id) {
            return;
        }
        self.change(id, |node| {
            if let Home::Peer { has_rows, .. } = &mut node.home {
                *has_rows = true;
            }
        });
    }

    /// Forgets a data plane that the control plane at `peer` knows no more. Yields whether it was its own.
    pub fn gone(&mut self, peer: &str, id: &NodeId) -> bool {
        let is_its_own = self.is_of(peer, id);
        if is_its_own {
            self.remove(id);
        }
        is_its_own
    }

    /// Whether the data plane follows the control plane at `peer`, as far as is known.
    pub fn is_of(&self, peer: &str, id: &NodeId) -> bool {
        let node = self.nodes.get(id);
        node.is_some_and(|node| matches!(&node.home, Home::Peer { address, .. } if **address == *peer))
    }

    /// The data planes that follow the control plane at `peer`, as far as is known.
    pub fn of(&self, peer: &str) -> Vec<NodeId> {
        self.nodes.keys().filter(|id| self.is_of(peer, id)).cloned().collect()
    }

    /// Notes that the control plane at `peer` does not say any more how its data planes are.
    pub fn hush(&mut self, peer: &str) {
        for id in self.of(peer) {
            self.change(&id, |node| {
                if let Home::Peer { is_silent, has_rows, .. } = &mut node.home {
                    (*is_silent, *has_rows) = (true, false);
                }
            });
        }
    }

    /// Notes that the control plane that a data plane followed is no more, or knows it no more: it routes on, and is looking for
    /// one. It is waited for here, and others are told of it from here.
    pub fn orphan(&mut self, id: &NodeId, now: Instant) {
        self.change(id, |node| {
            node.home = Home::Here;
            node.connected = false;
            node.reported = None;
            node.heard = now;
        });
    }

    /// Whether any data plane is known only as a control plane told of it that is silent now.
    pub fn knows_by_the_silent(&self) -> bool {
        self.nodes.values().any(Node::is_silent)
    }

    /// Whether a data plane that is known follows this control plane, and no other.
    pub fn is_here(&self, id: &NodeId) -> bool {
        self.nodes.get(id).is_some_and(Node::is_here)
    }

    /// The data planes that report to other control planes, which say so.
    pub fn reporting_elsewhere(&self) -> impl Iterator<Item = &NodeId> {
        self.nodes.iter().filter(|(_, node)| node.reports_elsewhere()).map(|(id, _)| id)
    }

    /// Whether this is one of them.
    pub fn reports_elsewhere(&self, id: &NodeId) -> bool {
        self.nodes.get(id).is_some_and(Node::reports_elsewhere)
    }

    /// The data planes of this control plane that have changed since what is in `told`, up to `limit` names, and those in
    /// `told` that are here no more. `told` is brought up to date. `reports` says who has a report stream.
    pub(in crate::observe) fn news(
        &self,
        told: &mut HashMap<NodeId, u64>,
        now: Instant,
        limit: usize,
        reports: impl Fn(&NodeId) -> bool,
    ) -> (Vec<v1::PeerNode>, Vec<String>) {
        let here = self.nodes.iter().filter(|(_, node)| node.is_here());
        let mut room = limit;
        let mut changed = Vec::new();
        for (id, node) in here {
            if told.get(id) == Some(&node.changed) {
                continue;
            }
            let wire = node.to_peer(id, now, reports(id));
            room = room.saturating_sub(1 + wire.held_replicas.as_ref().map_or(0, |held| held.replicas.len()));
            changed.push(wire);
            told.insert(id.clone(), node.changed);
            if room == 0 {
                break;
            }
        }
        let mut gone = Vec::new();
        told.retain(|id, _| match self.nodes.get(id) {
            Some(node) if node.is_here() => true,
            Some(node) => {
                // It goes on elsewhere, which others may not have heard yet: until then they wait for it.
                changed.push(v1::PeerNode { connected: false, ..node.to_peer(id, now, false) });
                false
            }
            None => {
                gone.push(id.to_string());
                false
            }
        });
        (changed, gone)
    }
}

impl Node {
    fn reports_elsewhere(&self) -> bool {
        matches!(self.home, Home::Peer { is_reporting: true, is_silent: false, .. })
    }

    fn to_peer(&self, id: &NodeId, now: Instant, is_reporting: bool) -> v1::PeerNode {
        v1::PeerNode {
            node: Some(v1::NodeIdentity {
                node_id: id.to_string(),
                version: self.version.clone(),
                process_id: self.process.clone(),
                stream_number: self.stream_number,
            }),
            address: self.address.clone(),
            connected: self.connected,
            reporting: is_reporting,
            heard_ago: Some(duration(now.saturating_duration_since(self.heard))),
            connect_time: self.connect_time.map(timestamp),
            report_time: self.report_time.map(timestamp),
            acked_revision: self.acked,
            current_revision: self.current,
            sent_revision: self.sent,
            nack: self.nack.clone(),
            reported_revision: self.reported,
            held_replicas: self.held_as_told.as_deref().cloned(),
            taken_batch_number: self.taken_batch.1,
            taken_batch_process_id: self.taken_batch.0.clone(),
            left: self.left.clone(),
            health_check_lateness: self.lateness_to_wire(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::{Identity, nodes::RETURN_TIME};

    fn node(id: &str) -> NodeId {
        NodeId::parse(id).unwrap()
    }

    fn peer(address: &str) -> Arc<str> {
        Arc::from(address)
    }

    fn identity(id: &str, stream_number: i64) -> Identity {
        let process = "p-1".into();
        Identity { id: node(id), version: String::new(), process, address: String::new(), stream_number }
    }

    /// A connected data plane that has acked `revision`.
    fn told(id: &str, stream_number: i64, revision: Revision) -> Told {
        let identity = v1::NodeIdentity { node_id: id.into(), stream_number, ..Default::default() };
        Told::parse(v1::PeerNode {
            node: Some(identity),
            connected: true,
            reporting: true,
            acked_revision: revision,
            current_revision: revision,
            ..Default::default()
        })
        .unwrap()
    }

    #[test]
    fn the_newer_stream_of_a_data_plane_counts_wherever_it_is() {
        let (mut nodes, now) = (Nodes::new(9), Instant::now());
        let take = |nodes: &mut Nodes, at: &str, what| nodes.told(&peer(at), what, now).unwrap().0;
        assert_eq!(take(&mut nodes, "b", told("n1", 5, 3)), Taken::Moved);
        assert_eq!(take(&mut nodes, "b", told("n1", 5, 4)), Taken::Updated);
        assert_eq!(nodes.slowest(), 4);
        assert_eq!(take(&mut nodes, "c", told("n1", 4, 9)), Taken::Ignored, "it has left c before");
        assert_eq!(take(&mut nodes, "c", told("n1", 6, 9)), Taken::Moved);
        assert!(!nodes.gone("b", &node("n1")), "b speaks for it no more");
        nodes.connect(&identity("n1", 7), 9, now, SystemTime::UNIX_EPOCH).unwrap();
        assert!(nodes.is_here(&node("n1")));
        assert_eq!(take(&mut nodes, "c", told("n1", 6, 9)), Taken::Ignored);
        assert_eq!(take(&mut nodes, "b", told("n1", 8, 9)), Taken::Moved, "its stream here is half open");
        assert!(!nodes.is_here(&node("n1")));
    }

    #[test]
    fn one_that_numbers_no_streams_is_where_it_is_connected() {
        let (mut nodes, now) = (Nodes::new(9), Instant::now());
        nodes.connect(&identity("n1", 0), 9, now, SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(nodes.told(&peer("b"), told("n1", 0, 9), now).unwrap().0, Taken::Ignored);
        nodes.disconnect(&node("n1"), now);
        let gone = Told { is_connected: false, ..told("n1", 0, 9) };
        assert_eq!(nodes.told(&peer("b"), gone, now).unwrap().0, Taken::Ignored, "both have lost it");
        assert_eq!(nodes.told(&peer("b"), told("n1", 0, 9), now).unwrap().0, Taken::Moved);
    }

    #[test]
    fn of_a_silent_control_plane_nothing_is_known_until_it_speaks_again() {
        let (mut nodes, now) = (Nodes::new(9), Instant::now());
        nodes.told(&peer("b"), told("n1", 1, 3), now).unwrap();
        assert_eq!((nodes.connected_count(), nodes.reporting_elsewhere().count()), (1, 1));
        nodes.hush("b");
        assert_eq!((nodes.connected_count(), nodes.reporting_elsewhere().count()), (0, 0));
        assert_eq!(nodes.unreachable(now), ["n1"]);
        assert_eq!(nodes.list_after("", 3).next().unwrap().1.state(), v1::NodeState::Unknown);
        assert!(!nodes.is_heard(&node("n1"), now));
        nodes.told(&peer("b"), told("n1", 1, 3), now).unwrap();
        assert_eq!(nodes.list_after("", 3).next().unwrap().1.state(), v1::NodeState::Synced);
    }

    #[test]
    fn what_a_data_plane_has_reported_counts_when_its_breakers_have_come_and_anew_after_a_silence() {
        let (mut nodes, now) = (Nodes::new(9), Instant::now());
        let reported = Told { reported: Some(3), ..told("n1", 1, 3) };
        let has_reported = |nodes: &Nodes| nodes.connected().next().unwrap().1.has_reported_since(3);
        nodes.told(&peer("b"), reported.clone(), now).unwrap();
        assert!(!has_reported(&nodes));
        nodes.has_told_rows("b", &node("n1"));
        nodes.told(&peer("b"), reported.clone(), now).unwrap();
        assert!(has_reported(&nodes));
        nodes.hush("b");
        nodes.told(&peer("b"), reported.clone(), now).unwrap();
        assert!(!has_reported(&nodes));
        nodes.has_told_rows("b", &node("n1"));
        nodes.told(&peer("c"), Told { stream_number: 2, ..reported }, now).unwrap();
        assert!(!has_reported(&nodes), "it has moved");
    }

    #[test]
    fn data_planes_of_a_control_plane_that_is_no_more_are_waited_for_as_if_they_had_just_been_here() {
        let (mut nodes, now) = (Nodes::new(9), Instant::now());
        nodes.told(&peer("b"), told("n1", 1, 3), now).unwrap();
        nodes.orphan(&node("n1"), now + RETURN_TIME);
        assert_eq!(nodes.routing(now + 2 * RETURN_TIME - Duration::from_millis(1)).count(), 1);
        assert_eq!(nodes.routing(now + 2 * RETURN_TIME).count(), 0);
        assert_eq!(nodes.list_after("", 3).next().unwrap().1.state(), v1::NodeState::Disconnected);
    }

    #[test]
    fn what_this_control_plane_tells_is_of_its_own_data_planes_and_each_change_once() {
        let (mut nodes, now) = (Nodes::new(9), Instant::now());
        let mut known = HashMap::new();
        let news = |nodes: &Nodes, known: &mut HashMap<NodeId, u64>| {
            let (changed, gone) = nodes.news(known, now, 100, |_| true);
            let ids = changed.into_iter().map(|told| told.node.unwrap().node_id).collect::<Vec<_>>();
            (ids, gone)
        };
        nodes.connect(&identity("n1", 1), 9, now, SystemTime::UNIX_EPOCH).unwrap();
        nodes.told(&peer("b"), told("n2", 1, 3), now).unwrap();
        assert_eq!(news(&nodes, &mut known), (vec!["n1".to_owned()], vec![]));
        assert_eq!(news(&nodes, &mut known), (vec![], vec![]));
        nodes.acked(&node("n1"), 10, now);
        assert_eq!(news(&nodes, &mut known).0, ["n1"]);
        // It goes on elsewhere, and it is that one's to tell how.
        nodes.told(&peer("b"), told("n1", 2, 3), now).unwrap();
        assert_eq!(news(&nodes, &mut known), (vec!["n1".to_owned()], vec![]));
        assert_eq!(news(&nodes, &mut known), (vec![], vec![]));
        nodes.connect(&identity("n3", 1), 9, now, SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(news(&nodes, &mut known).0, ["n3"]);
        nodes.leave(&node("n3"), "p-1");
        assert_eq!(news(&nodes, &mut known), (vec![], vec!["n3".to_owned()]));
    }

    #[test]
    fn one_that_moves_is_waited_for_until_its_new_control_plane_tells_of_it() {
        let (mut left, mut third, now) = (Nodes::new(9), Nodes::new(9), Instant::now());
        let mut known = HashMap::new();
        let tell = |left: &Nodes, known: &mut HashMap<NodeId, u64>, third: &mut Nodes| {
            for told in left.news(known, now, 9, |_| true).0 {
                third.told(&peer("left"), Told::parse(told).unwrap(), now).unwrap();
            }
        };
        left.connect(&identity("n1", 1), 9, now, SystemTime::UNIX_EPOCH).unwrap();
        tell(&left, &mut known, &mut third);
        left.told(&peer("joined"), told("n1", 2, 9), now).unwrap();
        tell(&left, &mut known, &mut third);
        assert_eq!((third.connected_count(), third.routing(now).count()), (0, 1));
        third.told(&peer("joined"), told("n1", 2, 9), now).unwrap();
        assert_eq!(third.connected_count(), 1);
    }

    #[test]
    fn what_is_told_survives_its_own_wire_form() {
        let (mut here, mut there, now) = (Nodes::new(9), Nodes::new(9), Instant::now());
        here.connect(&identity("n1", 7), 9, now, SystemTime::UNIX_EPOCH).unwrap();
        here.nacked(&node("n1"), v1::Nack { reason: "NO".into(), message: String::new() });
        here.reported_at(&node("n1"), Some(9));
        here.checks_late_by(&node("n1"), Duration::from_secs(28));
        let (told, _) = here.news(&mut HashMap::new(), now, 9, |_| true);
        there.told(&peer("a"), Told::parse(told[0].clone()).unwrap(), now).unwrap();
        let (one, other) =
            (here.list_after("", 9).next().unwrap().1, there.list_after("", 9).next().unwrap().1);
        assert_eq!(other, v1::Node { control_plane: "a".into(), ..one });
        there.has_told_rows("a", &node("n1"));
        assert_eq!(there.connected().next().unwrap().1, here.connected().next().unwrap().1);
    }

    #[test]
    fn those_that_follow_others_take_no_room_from_those_that_follow_this_one() {
        let (mut nodes, now) = (Nodes::new(2), Instant::now());
        for id in ["r1", "r2"] {
            nodes.told(&peer("b"), told(id, 1, 3), now).unwrap();
        }
        assert_eq!(nodes.told(&peer("b"), told("r3", 1, 3), now), Err(TooManyNodes { limit: 2 }));
        for id in ["n1", "n2"] {
            nodes.connect(&identity(id, 1), 9, now, SystemTime::UNIX_EPOCH).unwrap();
        }
        assert!(nodes.connect(&identity("n3", 1), 9, now, SystemTime::UNIX_EPOCH).is_err());
    }
}
