use super::*;
use crate::observe::{Identity, Report, Scope, Seat};

fn peer() -> Arc<str> {
    Arc::from("b:1")
}

fn identity(id: &str) -> Identity {
    Identity {
        id: NodeId::parse(id).unwrap(),
        version: "1".into(),
        process: "p-1".into(),
        address: String::new(),
        stream_number: 1,
    }
}

/// A control plane with one data plane, `n1`, that reports so many replicas.
fn observed(replicas: usize) -> (Arc<Observation>, Seat) {
    let observation = Arc::new(Observation::new(9));
    drop(observation.connect(identity("n1"), 0, None).unwrap());
    let seat = observation.begin_reports(identity("n1")).unwrap();
    seat.reported(report(true, 0..replicas), "e", |_| true);
    (observation, seat)
}

fn report(full: bool, replicas: std::ops::Range<usize>) -> Report {
    let row = |number: usize| v1::Breaker {
        service: "orders".into(),
        replica_id: format!("r-{number:04}"),
        state: v1::BreakerState::Closed.into(),
        attempt_count: i64::try_from(number).unwrap(),
        ..Default::default()
    };
    let wire =
        v1::ReportNodeStatusRequest { full, breakers: replicas.map(row).collect(), ..Default::default() };
    Report::parse(&identity("n1").id, wire, clock::wall()).unwrap()
}

/// A follower of one that tells.
struct Following {
    teller: Arc<Observation>,
    address: Arc<str>,
    sent: Sent,
    listener: Arc<Observation>,
    process: &'static str,
    followed: Followed,
}

impl Following {
    fn begin(teller: &Arc<Observation>) -> Self {
        Self::between((teller, "b:1", "p-b"), (&Arc::new(Observation::new(9)), "p-a"))
    }

    /// Of a process at an address, by another process.
    fn between(
        (teller, address, told_by): (&Arc<Observation>, &str, &str),
        (listener, process): (&Arc<Observation>, &'static str),
    ) -> Self {
        let address = Arc::from(address);
        listener.expect_peers(&[Arc::clone(&address)]);
        let identity = v1::PeerIdentity { process_id: told_by.into(), ..Default::default() };
        listener.meet_peer(&address, &identity);
        let (teller, listener) = (Arc::clone(teller), Arc::clone(listener));
        Self { teller, address, sent: Sent::default(), listener, process, followed: Followed::default() }
    }

    /// Tells until all is told; yields the most breakers that one message had.
    fn tell_all(&mut self) -> usize {
        let mut most = 0;
        loop {
            let knows_all_nodes = self.teller.knows_all_nodes_beside(self.process);
            let (mut message, mut is_all) = self.teller.tell_peer(&mut self.sent);
            message.mark = is_all.then_some(v1::PeerMark { revision: 1, knows_all_nodes });
            most = most.max(message.breakers.iter().map(|rows| rows.breakers.len()).sum());
            let (want_node_ids, leave_node_ids) =
                self.listener.hear_peer(&self.address, &mut self.followed, message).unwrap();
            is_all &= want_node_ids.is_empty();
            let request =
                v1::FollowObservationsRequest { want_node_ids, leave_node_ids, ..Default::default() };
            self.sent.hear(&request).unwrap();
            if is_all {
                return most;
            }
        }
    }

    fn rows(&self) -> Vec<(String, i64)> {
        self.listener.read(|_, matrix| {
            let all = Scope::default();
            let rows = matrix.from(&all, None).flat_map(|(key, replica)| {
                replica.rows(key).map(|(_, row)| (row.replica_id, row.attempt_count)).collect::<Vec<_>>()
            });
            rows.collect()
        })
    }
}

#[test]
fn a_large_state_comes_in_several_messages_and_is_whole_in_the_end() {
    let (teller, _seat) = observed(3 * MAX_ROWS + 7);
    let mut following = Following::begin(&teller);
    assert_eq!(following.tell_all(), MAX_ROWS);
    assert_eq!(following.rows().len(), 3 * MAX_ROWS + 7);
    assert!(following.rows().iter().enumerate().all(|(index, row)| row.1 == i64::try_from(index).unwrap()));
    assert_eq!(following.tell_all(), 0, "once");
}

#[test]
fn what_comes_and_goes_is_told_whatever_there_was_in_between() {
    let (teller, seat) = observed(4);
    let mut following = Following::begin(&teller);
    following.tell_all();
    seat.reported(report(true, 2..7), "e", |_| true);
    assert_eq!(following.tell_all(), 3, "two are as they were");
    let expected: Vec<_> = (2..7).map(|number| (format!("r-{number:04}"), number)).collect();
    assert_eq!(following.rows(), expected);
}

#[test]
fn which_control_plane_a_data_plane_has_left_is_known_to_all() {
    let teller = Arc::new(Observation::new(9));
    let left = v1::LeftControlPlane { url: "http://a:7400".into(), ..Default::default() };
    let _seat = teller.connect(identity("n1"), 0, Some(left.clone())).unwrap();
    let mut following = Following::begin(&teller);
    following.tell_all();
    let shown = following.listener.read(|nodes, _| nodes.list_after("", 0).next().unwrap().1.left);
    assert_eq!(shown, Some(left));
}

#[test]
fn what_was_heard_from_others_is_not_told_on() {
    let (teller, _seat) = observed(4);
    let mut following = Following::begin(&teller);
    following.tell_all();
    assert_eq!(following.rows().len(), 4);
    let mut further = Following::begin(&following.listener);
    further.tell_all();
    assert!(further.rows().is_empty());
    assert_eq!(further.listener.read(|nodes, _| nodes.list_after("", 0).count()), 0);
    let events = further.listener.read_events(|timeline| timeline.last());
    let heard = 1;
    assert_eq!(events, heard, "that it is heard, and nothing of what it heard");
}

#[test]
fn what_a_data_plane_has_reported_is_told_after_the_breakers_that_it_reported() {
    let (teller, seat) = observed(2 * MAX_ROWS);
    let mut following = Following::begin(&teller);
    following.tell_all();
    seat.reported(report(true, 2 * MAX_ROWS..4 * MAX_ROWS), "e", |_| true);
    let (first, is_all) = teller.tell_peer(&mut following.sent);
    assert!(!is_all && first.nodes.is_empty());
    let rows: usize = first.breakers.iter().map(|rows| rows.breakers.len()).sum();
    assert_eq!(rows, MAX_ROWS);
    following.tell_all();
    assert_eq!(following.listener.read(|nodes, _| nodes.reporting_elsewhere().count()), 1);
}

#[test]
fn a_listener_that_left_a_data_plane_is_told_nothing_of_it() {
    let (teller, seat) = observed(4);
    let mut following = Following::begin(&teller);
    following.tell_all();
    // It goes on here, so that the other one's word is of no use.
    let newer = Identity { stream_number: 2, ..identity("n1") };
    let _seat = following.listener.connect(newer, 0, None).unwrap();
    following.tell_all();
    assert!(following.sent.wanted.is_empty());
    seat.reported(report(true, 0..9), "e", |_| true);
    assert_eq!(following.tell_all(), 0);
}

#[test]
fn a_message_that_cannot_be_is_refused_by_what_is_wrong_in_it() {
    let observation = Arc::new(Observation::new(9));
    observation.expect_peers(&[peer()]);
    let refused = |message| {
        let heard = observation.hear_peer(&peer(), &mut Followed::default(), message);
        heard.unwrap_err().violations()[0].field.clone()
    };
    let nameless = v1::FollowObservationsResponse { nodes: vec![Default::default()], ..Default::default() };
    assert!(refused(nameless).starts_with("nodes"));
    let gone = v1::FollowObservationsResponse { gone_node_ids: vec!["N 1".into()], ..Default::default() };
    assert!(refused(gone).starts_with("gone_node_ids"));
}

#[test]
fn a_listener_that_wants_what_it_was_never_told_of_takes_no_room() {
    let (teller, _seat) = observed(4);
    let mut following = Following::begin(&teller);
    let want_node_ids = (0..5000).map(|number| format!("made-up-{number}")).collect();
    let request = v1::FollowObservationsRequest { want_node_ids, ..Default::default() };
    following.sent.hear(&request).unwrap();
    assert!(following.sent.wanted.is_empty() && following.sent.due.is_empty());
    following.tell_all();
    assert_eq!(following.rows().len(), 4);
}

#[test]
fn what_another_control_plane_tells_is_cut_to_the_size_of_what_is_told_here() {
    let observation = Arc::new(Observation::new(9));
    observation.expect_peers(&[peer()]);
    let long = || "x".repeat(100_000);
    let event = v1::Event {
        event_type: long(),
        service: long(),
        replica_id: long(),
        node_id: long(),
        actor: long(),
        message: long(),
        metadata: (0..100).map(|number| (format!("{number}{}", long()), long())).collect(),
        ..Default::default()
    };
    let node = v1::PeerNode {
        node: Some(v1::NodeIdentity { node_id: "n1".into(), version: long(), ..Default::default() }),
        address: long(),
        connected: true,
        nack: Some(v1::Nack { reason: long(), message: long() }),
        taken_batch_process_id: long(),
        ..Default::default()
    };
    let message =
        v1::FollowObservationsResponse { nodes: vec![node], events: vec![event], ..Default::default() };
    observation.hear_peer(&peer(), &mut Followed::default(), message).unwrap();
    let told = observation.read_events(|timeline| timeline.before(&Scope::default(), None, 9).events);
    let (_, event) = told.first().unwrap();
    assert!(prost::Message::encoded_len(&**event) < 8 * 1024, "{}", prost::Message::encoded_len(&**event));
    assert_eq!(event.control_plane, "b:1");
    let node = observation.read(|nodes, _| nodes.list_after("", 0).next().unwrap().1);
    assert!(prost::Message::encoded_len(&node) < 2 * 1024, "{}", prost::Message::encoded_len(&node));
}

#[test]
fn one_that_tells_of_ever_more_data_planes_and_never_comes_to_an_end_is_refused() {
    let observation = Arc::new(Observation::new(9));
    observation.expect_peers(&[peer()]);
    let mut followed = Followed::default();
    let mut number = 0;
    let refused = loop {
        let nodes = (0..5000).map(|_| {
            number += 1;
            let node_id = format!("n-{number}");
            v1::PeerNode {
                node: Some(v1::NodeIdentity { node_id, ..Default::default() }),
                ..Default::default()
            }
        });
        let message = v1::FollowObservationsResponse { nodes: nodes.collect(), ..Default::default() };
        match observation.hear_peer(&peer(), &mut followed, message) {
            Ok(_) => assert!(number < 3 * MAX_TOLD, "it goes on and on"),
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused.violations()[0].field, "nodes");
    assert!(observation.read(|nodes, _| nodes.list_after("", 0).count()) <= 2 * 9);
}

#[tokio::test]
async fn one_that_begins_beside_one_that_misses_no_data_plane_misses_none() {
    let teller = Arc::new(Observation::new(9));
    for misses_some in [true, false] {
        if misses_some {
            teller.expect_returns(Some([identity("n1").id].into()));
        }
        let mut following = Following::begin(&teller);
        teller.lose_peer("a:1", "it has ended");
        let listener = Arc::clone(&following.listener);
        listener.expect_returns(None);
        following.tell_all();
        assert_eq!(listener.followers(), None, "it has told nothing of its own yet");
        Following::between((&listener, "a:1", "p-a"), (&teller, "p-b")).tell_all();
        following.tell_all();
        assert_eq!(listener.followers().is_none(), misses_some);
        // What was missing there is known from now on.
        let _seat = teller.connect(identity("n1"), 1, None).unwrap();
        following.tell_all();
        assert_eq!(listener.followers(), Some([identity("n1").id].into()));
    }
}

#[tokio::test]
async fn what_followed_one_that_was_killed_is_missed_by_nobody_when_that_one_is_back_first() {
    let both = Some(["n1", "n2"].map(|id| identity(id).id).into());
    for is_silence_noted in [true, false] {
        let (a, b) = (Arc::new(Observation::new(9)), Arc::new(Observation::new(9)));
        let _seats =
            (a.connect(identity("n1"), 0, None).unwrap(), b.connect(identity("n2"), 0, None).unwrap());
        Following::between((&a, "a:1", "p-a"), (&b, "p-b")).tell_all();
        if is_silence_noted {
            b.lose_peer("a:1", "connection refused");
        }
        let again = Arc::new(Observation::new(9));
        again.expect_returns(None);
        let mut of_b = Following::between((&b, "b:1", "p-b"), (&again, "p-a2"));
        of_b.tell_all();
        assert_eq!(again.followers(), None, "what followed it before is not told");
        b.lose_peer("a:1", "connection refused");
        of_b.tell_all();
        assert_eq!(again.followers(), None);
        let mut of_again = Following::between((&again, "a:1", "p-a2"), (&b, "p-b"));
        of_again.tell_all();
        assert_eq!(b.followers(), both);
        of_b.tell_all();
        assert_eq!(again.followers(), both);
        // It comes back where it was.
        let _seat = again.connect(Identity { stream_number: 2, ..identity("n1") }, 0, None).unwrap();
        of_again.tell_all();
        of_b.tell_all();
        assert_eq!((again.followers(), b.followers()), (both.clone(), both.clone()));
        let home = b.read(|nodes, _| nodes.list_after("", 0).next().unwrap().1.control_plane);
        assert_eq!(home, "a:1");
    }
}

#[test]
fn what_is_not_among_all_that_one_tells_is_forgotten_if_that_one_knows_all_there_are() {
    for knows_all_nodes in [true, false] {
        let (teller, _seat) = observed(4);
        let mut following = Following::begin(&teller);
        following.tell_all();
        let mark = Some(v1::PeerMark { revision: 1, knows_all_nodes });
        let message = v1::FollowObservationsResponse { mark, ..Default::default() };
        following.listener.hear_peer(&peer(), &mut Followed::default(), message).unwrap();
        assert_eq!(following.rows().is_empty(), knows_all_nodes);
        assert_eq!(following.listener.followers().unwrap().is_empty(), knows_all_nodes);
    }
}
