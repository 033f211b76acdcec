use std::time::UNIX_EPOCH;

use super::*;

fn identity(id: &str) -> Identity {
    Identity {
        id: NodeId::parse(id).unwrap(),
        version: "1".into(),
        process: "p-1".into(),
        address: "10.0.0.9:1".into(),
        stream_number: 1,
    }
}

fn connected(ids: &[&str], capacity: usize) -> (Nodes, Instant) {
    let now = Instant::now();
    let mut nodes = Nodes::new(capacity);
    for id in ids {
        nodes.connect(&identity(id), 0, now, UNIX_EPOCH).unwrap();
    }
    (nodes, now)
}

#[test]
fn the_slowest_of_the_connected_ones_is_known_at_every_moment() {
    let (mut nodes, now) = connected(&[], 9);
    let (one, two) = (identity("n1"), identity("n2"));
    assert_eq!((nodes.slowest(), nodes.connected_count()), (Revision::MAX, 0));
    nodes.connect(&one, 3, now, UNIX_EPOCH).unwrap();
    nodes.connect(&two, 5, now, UNIX_EPOCH).unwrap();
    assert_eq!((nodes.slowest(), nodes.connected_count()), (3, 2));
    nodes.acked(&one.id, 6, now);
    assert_eq!(nodes.slowest(), 5);
    nodes.unaffected(&two.id, 7);
    assert_eq!(nodes.slowest(), 6);
    // One that refuses holds nobody knows what.
    nodes.nacked(&one.id, v1::Nack::default());
    assert_eq!(nodes.slowest(), -1);
    nodes.acked(&one.id, 8, now);
    assert_eq!(nodes.slowest(), 7);
    // An older ack that comes late takes nothing back.
    nodes.acked(&two.id, 5, now);
    assert_eq!(nodes.slowest(), 7);
    // A second stream of the same data plane is no second data plane.
    nodes.connect(&two, 4, now, UNIX_EPOCH).unwrap();
    assert_eq!((nodes.slowest(), nodes.connected_count()), (4, 2));
    nodes.disconnect(&two.id, now);
    assert_eq!((nodes.slowest(), nodes.connected_count()), (8, 1));
    // Who only reports is not waited for.
    nodes.reported(&identity("n3"), now, UNIX_EPOCH).unwrap();
    nodes.disconnect(&one.id, now);
    assert_eq!((nodes.slowest(), nodes.connected_count()), (Revision::MAX, 0));
}

fn state(nodes: &Nodes, head: Revision) -> v1::NodeState {
    nodes.list_after("", head).next().unwrap().1.state()
}

#[test]
fn a_data_plane_lags_until_it_acked_the_present_revision() {
    let (mut nodes, now) = connected(&["n1"], 9);
    let id = identity("n1").id;
    assert_eq!(state(&nodes, 3), v1::NodeState::Lagging);
    nodes.sent(&id, 3);
    nodes.acked(&id, 3, now);
    assert_eq!(state(&nodes, 3), v1::NodeState::Synced);
    assert_eq!(state(&nodes, 4), v1::NodeState::Lagging);
    nodes.disconnect(&id, now);
    assert_eq!(state(&nodes, 3), v1::NodeState::Disconnected);
}

#[test]
fn a_nack_shows_until_the_next_ack_and_is_news_once() {
    let (mut nodes, now) = connected(&["n1"], 9);
    let id = identity("n1").id;
    let nack = v1::Nack { reason: "INVALID_RESOURCE".into(), message: "a/b".into() };
    assert!(nodes.nacked(&id, nack.clone()));
    assert!(!nodes.nacked(&id, nack));
    assert_eq!(state(&nodes, 0), v1::NodeState::Nacked);
    nodes.acked(&id, 1, now);
    assert_eq!(state(&nodes, 1), v1::NodeState::Synced);
}

#[test]
fn a_data_plane_is_unreachable_when_it_is_away_or_silent() {
    let (mut nodes, now) = connected(&["n1", "n2", "n3"], 9);
    nodes.disconnect(&identity("n1").id, now);
    nodes.reported(&identity("n2"), now + SILENT_AFTER, UNIX_EPOCH).unwrap();
    assert_eq!(nodes.unreachable(now + SILENT_AFTER), ["n1", "n3"]);
}

#[test]
fn a_data_plane_that_stays_away_is_forgotten_and_a_connected_one_never() {
    let (mut nodes, now) = connected(&["n1", "n2"], 9);
    nodes.disconnect(&identity("n1").id, now);
    assert_eq!(nodes.forget_absent(now + FORGET_AFTER - Duration::from_secs(1)), []);
    assert_eq!(nodes.forget_absent(now + FORGET_AFTER), [identity("n1").id]);
    assert!(nodes.contains(&identity("n2").id));
}

#[test]
fn when_there_is_no_room_one_that_is_away_makes_it_and_a_connected_one_does_not() {
    let (mut nodes, now) = connected(&["n1", "n2"], 2);
    let refused = nodes.connect(&identity("n3"), 0, now, UNIX_EPOCH);
    assert_eq!(refused, Err(TooManyNodes { limit: 2 }));
    nodes.disconnect(&identity("n1").id, now);
    let forgotten = nodes.connect(&identity("n3"), 0, now, UNIX_EPOCH);
    assert_eq!(forgotten, Ok(Some(identity("n1").id)));
    assert!(!nodes.contains(&identity("n1").id));
}

#[test]
fn those_that_may_be_routing_are_named_with_those_that_have_not_come_back_yet() {
    let (mut nodes, now) = connected(&["n1", "n2"], 9);
    let (time, id) = (Duration::from_secs(20), |id: &str| identity(id).id);
    nodes.expect_returns(Some([id("n3"), id("n4")].into()), now + time);
    nodes.connect(&identity("n3"), 0, now, UNIX_EPOCH).unwrap();
    nodes.disconnect(&id("n2"), now);
    assert_eq!(nodes.followers(now), Some(["n1", "n2", "n3", "n4"].map(id).into()));
    assert!(!nodes.have_returned(now));
    // Whoever was named and has left for good is not waited for.
    nodes.leave(&id("n3"), "p-1");
    assert_eq!(nodes.followers(now + time), Some([id("n1")].into()));
    nodes.expect_returns(None, now + time);
    assert_eq!(nodes.followers(now), None, "nobody knows them all");
}
