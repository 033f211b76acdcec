use super::*;
use crate::registry::EventKind;

fn named(id: &str) -> Identity {
    Identity {
        id: NodeId::parse(id).unwrap(),
        version: "1".into(),
        process: "p-1".into(),
        address: "10.0.0.9:1".into(),
        stream_number: 1,
    }
}

fn identity() -> Identity {
    named("n1")
}

fn key() -> ReplicaKey {
    ReplicaKey::parse("orders", "r-1").unwrap()
}

/// A message of `n1` that is routed by revision 6, if it says so.
fn report(full: bool, rows: &[(&str, i32)], revision: Option<i64>) -> Report {
    let row = |(id, inflight): &(&str, i32)| v1::Breaker {
        service: "orders".into(),
        replica_id: (*id).into(),
        state: v1::BreakerState::Open.into(),
        inflight_count: *inflight,
        ..Default::default()
    };
    let wire = v1::ReportNodeStatusRequest {
        full,
        breakers: rows.iter().map(row).collect(),
        epoch: revision.map(|_| "e".to_owned()).unwrap_or_default(),
        revision: revision.unwrap_or(0),
        ..Default::default()
    };
    parse(wire)
}

fn parse(wire: v1::ReportNodeStatusRequest) -> Report {
    Report::parse(&identity().id, wire, clock::wall()).unwrap()
}

fn events(observation: &Observation) -> Vec<(String, i32)> {
    let looked = observation.read_events(|timeline| timeline.before(&Scope::default(), None, 99));
    let events = looked.events.iter().rev();
    events.map(|(_, event)| (event.event_type.clone(), event.repeat_count)).collect()
}

fn state(observation: &Observation) -> v1::NodeState {
    observation.read(|nodes, _| nodes.list_after("", 0).next().unwrap().1.state())
}

fn open_count(observation: &Observation) -> usize {
    observation.read(|_, matrix| matrix.open_replica_count(&key().service))
}

#[tokio::test]
async fn the_newest_stream_of_a_data_plane_speaks_for_it() {
    let observation = Arc::new(Observation::new(9));
    let older = observation.connect(identity(), 0, None).unwrap();
    let newer = observation.connect(identity(), 0, None).unwrap();
    older.superseded().await;
    older.nacked(v1::Nack::default());
    drop(older);
    assert_eq!(state(&observation), v1::NodeState::Synced);
    drop(newer);
    assert_eq!(state(&observation), v1::NodeState::Disconnected);
    assert_eq!(events(&observation), [("NODE_CONNECTED".to_owned(), 1), ("NODE_DISCONNECTED".to_owned(), 0)]);
    assert!(observation.lock().seats.is_empty());
}

#[tokio::test]
async fn a_refusal_is_shown_told_and_logged_on_one_line() {
    let observation = Arc::new(Observation::new(9));
    let seat = observation.connect(identity(), 0, None).unwrap();
    let message = format!("no\n2026-01-01T00:00:00Z INFO all is well\u{202e}{}", "x".repeat(600));
    seat.nacked(v1::Nack { reason: "BAD\r".into(), message });
    let nack = observation.read(|nodes, _| nodes.list_after("", 0).next().unwrap().1.nack).unwrap();
    assert_eq!(nack.reason, "BAD\u{fffd}");
    assert!(
        nack.message.starts_with("no\u{fffd}2026-01-01T00:00:00Z INFO all is well\u{fffd}xx"),
        "{nack:?}"
    );
    assert_eq!(nack.message.chars().count(), 512);
    let looked = observation.read_events(|timeline| timeline.before(&Scope::default(), None, 99));
    let (_, event) = looked.events.iter().find(|(_, event)| event.event_type == "NODE_NACKED").unwrap();
    assert!(!event.message.contains(gateway_runtime::printable::is_acted_on), "{event:?}");
    drop(seat);
}

#[tokio::test]
async fn which_control_plane_a_data_plane_has_left_and_why_is_shown_and_told_once() {
    let observation = Arc::new(Observation::new(9));
    let left = v1::LeftControlPlane {
        url: "http://a:7400\n".into(),
        reason: "outdated".into(),
        leave_time: Some(timestamp(std::time::UNIX_EPOCH)),
    };
    // It comes again by the same reason, for its stream broke.
    for _ in 0..2 {
        drop(observation.connect(identity(), 0, Some(left.clone())).unwrap());
    }
    let shown = observation.read(|nodes, _| nodes.list_after("", 0).next().unwrap().1.left);
    assert_eq!(shown, Some(v1::LeftControlPlane { url: "http://a:7400\u{fffd}".into(), ..left }));
    let looked = observation.read_events(|timeline| timeline.before(&Scope::default(), None, 99));
    let moved = looked.events.iter().filter(|(_, event)| event.metadata.contains_key("left"));
    let moved: Vec<_> = moved.map(|(_, event)| (event.message.as_str(), event.repeat_count)).collect();
    let told = "connected from 10.0.0.9:1, version 1; has left http://a:7400\u{fffd}: it had lost touch with its store";
    assert_eq!(moved, [(told, 0)]);
    drop(observation.connect(identity(), 0, None).unwrap());
    assert_eq!(observation.read(|nodes, _| nodes.list_after("", 0).next().unwrap().1.left), None);
}

#[tokio::test]
async fn a_data_plane_that_says_goodbye_is_forgotten_with_its_rows_and_missed_by_nobody() {
    let observation = Arc::new(Observation::new(9));
    let snapshots = observation.connect(identity(), 5, None).unwrap();
    let reports = observation.begin_reports(identity()).unwrap();
    reports.reported(report(true, &[("r-1", 0)], None), "e", |_| true);
    let goodbye = v1::ReportNodeStatusRequest { is_leaving: true, ..Default::default() };
    reports.reported(parse(goodbye), "e", |_| true);
    assert_eq!(
        (observation.read(|nodes, _| nodes.contains(&identity().id)), open_count(&observation)),
        (false, 0)
    );
    // What its streams still say changes nothing, nor does their end.
    snapshots.acked(6);
    drop((snapshots, reports));
    assert_eq!(events(&observation), [("NODE_CONNECTED".to_owned(), 0), ("NODE_LEFT".to_owned(), 0)]);
    let observed = observation.lock();
    assert!(observed.seats.is_empty());
    assert_eq!(observed.nodes.connected_count(), 0);
}

#[tokio::test]
async fn rows_of_replicas_that_are_unknown_or_gone_are_not_kept() {
    let observation = Arc::new(Observation::new(9));
    let seat = observation.begin_reports(identity()).unwrap();
    seat.reported(report(true, &[("r-1", 0), ("r-2", 0)], None), "e", |key| key.replica.as_str() == "r-1");
    assert_eq!(open_count(&observation), 1);
    observation.tidy(|_| false);
    assert_eq!(open_count(&observation), 0);
}

#[tokio::test]
async fn of_removals_that_are_told_late_rows_of_those_who_are_back_are_kept() {
    let observation = Arc::new(Observation::new(9));
    let seat = observation.begin_reports(identity()).unwrap();
    seat.reported(report(true, &[("r-1", 0), ("r-2", 0)], None), "e", |_| true);
    let removal = |id: &str| Event {
        kind: EventKind::ReplicaDeregistered,
        service: Some(key().service),
        replica: Some(ReplicaKey::parse("orders", id).unwrap().replica),
        node: None,
        actor: "ana".into(),
        at: clock::wall(),
        message: String::new(),
        metadata: Vec::new(),
    };
    let removals = [removal("r-1"), removal("r-2")];
    observation.registry_changed(&removals, |key| key.replica.as_str() == "r-2");
    assert_eq!(open_count(&observation), 1);
    observation.registry_changed(&removals, |_| true);
    assert_eq!(open_count(&observation), 0);
}

#[tokio::test]
async fn a_data_plane_that_makes_room_takes_its_rows_with_it() {
    let observation = Arc::new(Observation::new(1));
    let older = observation.begin_reports(identity()).unwrap();
    older.reported(report(true, &[("r-1", 0)], None), "e", |_| true);
    assert_eq!(open_count(&observation), 1);
    let _newer = observation.connect(named("n2"), 0, None).unwrap();
    assert_eq!(open_count(&observation), 0);
    // Nor does it get rows without a place: the other one is connected and keeps its own.
    older.reported(report(true, &[("r-1", 0)], None), "e", |_| true);
    assert_eq!(open_count(&observation), 0);
}

#[tokio::test(start_paused = true)]
async fn a_rollout_is_waited_for_until_the_slowest_connected_data_plane_has_it() {
    let observation = Arc::new(Observation::new(9));
    let wait = |patience| {
        let observation = Arc::clone(&observation);
        tokio::spawn(async move { observation.wait_for(6, Duration::from_secs(patience)).await })
    };
    // Nobody is there to be waited for.
    assert_eq!(wait(60).await.unwrap(), v1::Rollout::default());
    let one = observation.connect(identity(), 5, None).unwrap();
    let waiting = wait(60);
    tokio::task::yield_now().await;
    // One that comes meanwhile counts, and one that only reports does not.
    let two = observation.connect(named("n2"), 5, None).unwrap();
    let _reports = observation.begin_reports(named("n3")).unwrap();
    one.acked(6);
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    two.unaffected(7);
    let rollout = waiting.await.unwrap();
    assert_eq!((rollout.node_count, rollout.acked_node_count), (2, 2));
    // One that goes no longer does.
    let three = observation.connect(named("n4"), 0, None).unwrap();
    let waiting = wait(60);
    tokio::task::yield_now().await;
    drop(three);
    assert_eq!(waiting.await.unwrap().node_count, 2);
    // The time is over, and the answer says for whom.
    one.nacked(v1::Nack::default());
    assert_eq!(wait(60).await.unwrap().pending_node_ids, ["n1"]);
    assert_eq!(wait(0).await.unwrap().pending_node_ids, ["n1"]);
}

#[tokio::test]
async fn whoever_follows_the_receipts_of_a_drain_is_woken_by_each_step_up_to_the_last() {
    let observation = Arc::new(Observation::new(9));
    let snapshots = observation.connect(identity(), 5, None).unwrap();
    let reports = observation.begin_reports(identity()).unwrap();
    let mut progress = observation.follow_progress();
    let mut reported = |full, rows: &[(&str, i32)], revision| {
        reports.reported(report(full, rows, revision), "e", |_| true);
        assert!(progress.has_changed().unwrap());
        progress.borrow_and_update();
        observation.drain_status(&key(), 6)
    };
    snapshots.acked(6);
    // A full report may come in several messages; only the last one says that all is told.
    assert_eq!(reported(true, &[("r-2", 0)], None).unreported_node_count, 1);
    assert_eq!(reported(false, &[("r-1", 2)], Some(6)).inflight_request_count, 2);
    // What was full before is no longer when the state is told anew.
    assert_eq!(reported(true, &[("r-2", 0)], None).unreported_node_count, 1);
    assert!(reported(false, &[("r-1", 0)], Some(6)).is_idle);
    // Another epoch, or the end of the stream, takes it back.
    reports.reported(report(false, &[], Some(6)), "another", |_| true);
    assert_eq!(observation.drain_status(&key(), 6).unreported_node_count, 1);
    reports.reported(report(false, &[], Some(6)), "e", |_| true);
    assert!(observation.drain_status(&key(), 6).is_idle);
    drop(reports);
    assert!(progress.has_changed().unwrap());
    assert_eq!(observation.drain_status(&key(), 6).unreported_node_count, 1);
}

#[tokio::test]
async fn how_late_health_checks_begin_is_shown_until_they_are_on_time_again_or_a_full_report_says_nothing_of_it()
 {
    let observation = Arc::new(Observation::new(9));
    let seat = observation.begin_reports(identity()).unwrap();
    let late = |seconds: u64| {
        let late = Some(gateway_proto::time::duration(Duration::from_secs(seconds)));
        parse(v1::ReportNodeStatusRequest { health_check_lateness: late, ..Default::default() })
    };
    let shown = || {
        let node = observation.read(|nodes, _| nodes.list_after("", 0).next().unwrap().1);
        node.health_check_lateness.map(|late| late.seconds)
    };
    seat.reported(late(28), "e", |_| true);
    seat.reported(report(false, &[], None), "e", |_| true);
    assert_eq!(shown(), Some(28), "what is not told is as it was");
    seat.reported(late(0), "e", |_| true);
    assert_eq!(shown(), None);
    seat.reported(late(28), "e", |_| true);
    seat.reported(report(true, &[], None), "e", |_| true);
    assert_eq!(shown(), None);
}

#[tokio::test]
async fn what_a_guard_holds_is_shown_and_its_beginning_and_end_are_told() {
    let observation = Arc::new(Observation::new(9));
    let seat = observation.begin_reports(identity()).unwrap();
    let holding = |count: i32| {
        let replica =
            v1::HeldReplica { service: "orders".into(), replica_id: "r-1".into(), ..Default::default() };
        let held = v1::HeldReplicas { replicas: vec![replica; usize::from(count > 0)], total_count: count };
        parse(v1::ReportNodeStatusRequest { held_replicas: Some(held), ..Default::default() })
    };
    let held = || observation.read(|nodes, _| nodes.list_after("", 0).next().unwrap().1.held_replica_count);
    for count in [2, 5] {
        seat.reported(holding(count), "e", |_| true);
        assert_eq!(held(), count);
    }
    let may_hold = |service: &str| observation.read(|nodes, _| nodes.may_hold(&service.parse().unwrap()));
    assert!(may_hold("orders") && !may_hold("users"));
    seat.reported(holding(1001), "e", |_| true);
    assert!(may_hold("users"), "not all are named");
    seat.reported(holding(5), "e", |_| true);
    // What is not told is as it was, but for a full report.
    seat.reported(report(false, &[], None), "e", |_| true);
    assert_eq!(held(), 5);
    seat.reported(holding(0), "e", |_| true);
    seat.reported(holding(1), "e", |_| true);
    seat.reported(report(true, &[], None), "e", |_| true);
    assert_eq!(held(), 0);
    // Two beginnings and two ends, each told once and again.
    assert_eq!(events(&observation), [("GUARD_HOLDING".to_owned(), 1), ("GUARD_CLEARED".to_owned(), 1)]);
}

#[tokio::test]
async fn events_that_a_data_plane_could_not_tell_are_told_of() {
    let observation = Arc::new(Observation::new(9));
    let seat = observation.begin_reports(identity()).unwrap();
    seat.reported(
        parse(v1::ReportNodeStatusRequest { dropped_event_count: 7, ..Default::default() }),
        "e",
        |_| true,
    );
    assert_eq!(events(&observation), [("NODE_EVENTS_LOST".to_owned(), 0)]);
}

#[tokio::test]
async fn data_planes_count_for_as_long_as_somebody_reads_and_a_little_longer() {
    let observation = Arc::new(Observation::new(9));
    let attention = observation.follow_attention();
    assert_eq!(*attention.borrow(), Attention::Nobody);
    let one = observation.read_stats(Wish::default());
    let two = observation.read_stats(Wish::default());
    drop(one);
    assert_eq!(*attention.borrow(), Attention::Somebody);
    drop(two);
    let Attention::Until(end) = *attention.borrow() else { panic!() };
    assert!(end <= clock::now() + LINGER && end > clock::now());
    let _three = observation.read_stats(Wish::default());
    assert_eq!(*attention.borrow(), Attention::Somebody);
}

#[tokio::test]
async fn counts_are_read_with_how_many_data_planes_are_in_them() {
    let observation = Arc::new(Observation::new(9));
    let reader = observation.read_stats(Wish::default());
    let counted = || {
        let row = v1::ReplicaStats { service: "orders".into(), request_count: 5, ..Default::default() };
        let stats_interval = Some(prost_types::Duration { seconds: 1, nanos: 0 });
        parse(v1::ReportNodeStatusRequest { stats: vec![row], stats_interval, ..Default::default() })
    };
    let one = observation.begin_reports(identity()).unwrap();
    let two = observation.begin_reports(named("n2")).unwrap();
    let _snapshots_only = observation.connect(named("n3"), 0, None).unwrap();
    one.reported(counted(), "e", |_| true);
    two.reported(counted(), "e", |_| true);
    let (rows, _, nodes) = reader.take();
    assert_eq!((rows[0].request_count, rows.len(), nodes), (10, 1, 2));
    drop(two);
    let (rows, _, nodes) = reader.take();
    assert_eq!((rows.len(), nodes), (0, 1));
}

#[tokio::test]
async fn what_data_planes_see_of_replicas_comes_in_the_order_that_was_asked_for() {
    let observation = Arc::new(Observation::new(9));
    let seat = observation.begin_reports(identity()).unwrap();
    let rows: Vec<_> = (0..200).map(|number| (format!("r-{number}"), number)).collect();
    let rows: Vec<_> = rows.iter().map(|(id, number)| (id.as_str(), *number)).collect();
    seat.reported(report(true, &rows, None), "e", |_| true);
    let keys: Vec<_> =
        (0..300).rev().map(|number| ReplicaKey::parse("orders", &format!("r-{number}")).unwrap()).collect();
    let seen = observation.observed_health(&keys);
    let inflight: Vec<_> = seen.iter().map(|seen| seen.as_ref().map(|seen| seen.inflight_count)).collect();
    let expected: Vec<_> = (0..300).rev().map(|number| (number < 200).then_some(number)).collect();
    assert_eq!(inflight, expected);
}
