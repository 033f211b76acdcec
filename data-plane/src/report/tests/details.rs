//! Counts and latencies, while the control plane asks for them; and what operators decided.

use super::*;

const SHORT: Duration = Duration::from_millis(100);

/// Has a request take so long at one replica.
fn serve(data_plane: &DataPlane, latency: Duration, outcome: Outcome) {
    let service = data_plane.table.service("orders").unwrap();
    let picked = data_plane.pick();
    service.heard(0, &picked.replica, Outcome::Success, latency, data_plane.clock.now());
    service.record_latency(0, latency);
    let (status, answered) = match outcome {
        Outcome::Success => (StatusCode::OK, crate::table::RequestOutcome::Success),
        _ => (StatusCode::BAD_GATEWAY, crate::table::RequestOutcome::UpstreamError),
    };
    service.counters().answered(0, status, answered);
    if let Outcome::Failure(fault) = outcome {
        service.failed(0, &picked.replica, fault, "", data_plane.clock.now());
    }
    let now = data_plane.clock.now();
    service.judge(&picked.replica, picked.permit, outcome, now, now, 0.5);
    service.end(0, &picked.replica, true);
}

#[tokio::test]
async fn what_replicas_are_asked_is_told_while_the_control_plane_wants_it_and_what_services_are_always() {
    let mut control_plane = FakeControlPlane::start().await;
    let data_plane = DataPlane::new(2);
    data_plane.start(&control_plane);
    let mut stream = control_plane.report_stream().await;
    assert!(stream.report().await.unwrap().full, "what was before the stream is not told");
    serve(&data_plane, Duration::from_micros(1), Outcome::Success);
    let service = data_plane.table.service("orders").unwrap();
    assert!(!service.is_detailed(), "nobody asks");
    let told = until(&mut stream, |report| !report.stats.is_empty()).await;
    let row = v1::ReplicaStats {
        service: "orders".into(),
        request_count: 1,
        latency_bucket_counts: vec![1],
        ..Default::default()
    };
    assert_eq!((told.stats, told.stats_interval.is_some()), (vec![row], true));

    stream.ask(duration(SHORT), true).await;
    while !service.is_detailed() {
        tokio::task::yield_now().await;
    }
    for _ in 0..2 {
        // Replicas 2, 1, 2: the first request of all went to 1.
        serve(&data_plane, Duration::from_micros(2), Outcome::Success);
    }
    serve(&data_plane, Duration::from_micros(9), Outcome::Failure(Fault::Reset));
    let mut rows: Vec<v1::ReplicaStats> = Vec::new();
    let is_complete = |rows: &[v1::ReplicaStats]| rows.iter().map(|row| row.request_count).sum::<i64>() >= 6;
    while !is_complete(&rows) {
        let report = stream.report().await.unwrap();
        assert_eq!(report.stats_interval.is_some(), !report.stats.is_empty());
        rows.extend(report.stats);
    }
    let sum = |replica: &str| {
        let of = rows.iter().filter(|row| row.replica_id == replica);
        of.fold((0, 0, 0, 0), |(requests, failures, quick, slow), row| {
            let bucket = |index: usize| row.latency_bucket_counts.get(index).copied().unwrap_or(0);
            (requests + row.request_count, failures + row.failure_count, quick + bucket(4), slow + bucket(12))
        })
    };
    assert_eq!(sum(""), (3, 1, 2, 1), "the first has been told");
    assert_eq!(sum("r-0001"), (1, 0, 1, 0), "what was before is not told");
    assert_eq!(sum("r-0002"), (2, 1, 1, 1));

    stream.ask(duration(SHORT), false).await;
    while service.is_detailed() {
        tokio::task::yield_now().await;
    }
    serve(&data_plane, Duration::from_micros(2), Outcome::Success);
    let report = until(&mut stream, |report| !report.stats.is_empty()).await;
    let names: Vec<_> = report.stats.iter().map(|row| row.replica_id.as_str()).collect();
    assert_eq!(names, [""], "of replicas nothing any more");
}

#[tokio::test]
async fn a_row_of_a_busy_service_is_small() {
    let data_plane = DataPlane::new(1);
    let services = || data_plane.table.services();
    let mut ledger = StatsLedger::begin(&services());
    // From half a millisecond to half a second: as wide as latencies of one service in one second are, and some more.
    for step in 0..2000 {
        let latency = Duration::from_micros(500).mul_f64(1000_f64.powf(f64::from(step) / 2000.0));
        serve(&data_plane, latency, Outcome::Success);
    }
    let rows = ledger.take(&services(), false);
    let size = prost::Message::encoded_len(&rows[0]);
    assert!((80..=160).contains(&size), "{size} bytes");
    assert_eq!(ledger.take(&services(), false), [], "one that is idle is not told of");
}

#[tokio::test]
async fn nobody_records_latencies_for_a_control_plane_that_is_gone() {
    let mut control_plane = FakeControlPlane::start().await;
    let data_plane = DataPlane::new(1);
    data_plane.start(&control_plane);
    let mut stream = control_plane.report_stream().await;
    stream.ask(duration(SHORT), true).await;
    let service = data_plane.table.service("orders").unwrap();
    while !service.is_detailed() {
        tokio::task::yield_now().await;
    }
    drop(stream);
    while service.is_detailed() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_an_operator_forces_is_told_with_his_name_and_shown_with_its_end() {
    let mut control_plane = FakeControlPlane::start().await;
    let data_plane = DataPlane::new(1);
    data_plane.start(&control_plane);
    let mut stream = control_plane.report_stream().await;
    assert!(stream.report().await.unwrap().full);
    let timestamp = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    let entry = v1::OverrideEntry {
        override_id: "o-1".into(),
        author: "alice".into(),
        reason: "bad deploy".into(),
        create_time: timestamp(1_800_000_000),
        expire_time: timestamp(1_800_000_900),
        revision: 9,
        ..Default::default()
    };
    let forced = Forced { state: ForcedState::Open, entry: Arc::new(entry.clone()) };
    data_plane.apply([ReplicaSpec { forced: Some(forced), ..replica(1) }]);
    let report = until(&mut stream, |report| !report.events.is_empty()).await;
    let event = &report.events[0];
    assert_eq!((event.event_type.as_str(), event.actor.as_str()), ("BREAKER_FORCED_OPEN", "alice"));
    assert_eq!(event.message, "breaker forced open by alice for 15m (bad deploy)");
    assert_eq!(event.metadata.get("override_id").map(String::as_str), Some("o-1"));
    let row = &report.breakers[0];
    assert_eq!((row.state(), row.active_override.as_ref()), (v1::BreakerState::ForcedOpen, Some(&entry)));

    data_plane.apply([replica(1)]);
    let report = until(&mut stream, |report| !report.events.is_empty()).await;
    let event = &report.events[0];
    assert_eq!((event.event_type.as_str(), event.actor.as_str()), ("BREAKER_RELEASED", "dp-1"));
    assert_eq!(
        event.message,
        "breaker no longer forced open by alice for 15m (bad deploy); half-open until probes succeed"
    );
    let row = &report.breakers[0];
    assert_eq!((row.state(), row.active_override.as_ref()), (v1::BreakerState::HalfOpen, None));

    let order = v1::OverrideEntry { author: "bob".into(), revision: 12, ..Default::default() };
    data_plane.apply([ReplicaSpec { reset: Some(Arc::new(order)), ..replica(1) }]);
    let report = until(&mut stream, |report| !report.events.is_empty()).await;
    let event = &report.events[0];
    assert_eq!(
        (event.event_type.as_str(), event.actor.as_str(), event.message.as_str()),
        ("BREAKER_RESET", "bob", "breaker reset by bob: its counts are forgotten")
    );
    assert_eq!(report.breakers[0].state(), v1::BreakerState::Closed);
}

#[tokio::test]
async fn requests_that_pile_up_are_told_beside_what_waits_at_peers_until_they_are_answered() {
    let mut control_plane = FakeControlPlane::start().await;
    let data_plane = DataPlane::new(3);
    let service = data_plane.table.service("orders").unwrap();
    let others: Vec<_> = service.replicas()[1..].to_vec();
    let pick = || service.pick(0, data_plane.clock.now(), &others, Draw::default()).unwrap();
    let waiting: Vec<_> = (0..12).map(|_| pick()).collect();
    data_plane.start(&control_plane);
    let mut stream = control_plane.report_stream().await;
    let report = stream.report().await.unwrap();
    let measures = report.breakers.iter().map(|row| row.measures);
    let piled_up = v1::Measures { unanswered_count: 12, ..Default::default() };
    assert_eq!(measures.collect::<Vec<_>>(), [Some(piled_up), None, None]);
    for picked in &waiting {
        service.heard(0, &picked.replica, Outcome::Success, SHORT, data_plane.clock.now());
    }
    let report = until(&mut stream, |report| !report.breakers.is_empty()).await;
    assert_eq!(report.breakers[0].measures, None, "they have been answered, and go on");
    assert_eq!(report.breakers[0].inflight_count, 12);
}

#[tokio::test]
async fn how_late_health_checks_begin_is_told_when_it_changes_and_to_each_control_plane_anew() {
    let mut control_plane = FakeControlPlane::start().await;
    let data_plane = DataPlane::new(1);
    let late = |seconds| data_plane.checks.scheduled(1, 0, Duration::from_secs(seconds));
    late(28);
    data_plane.start(&control_plane);
    let mut stream = control_plane.report_stream().await;
    let seconds = |report: &v1::ReportNodeStatusRequest| Some(report.health_check_lateness?.seconds);
    assert_eq!(seconds(&stream.report().await.unwrap()), Some(28));
    stream.ask(duration(SHORT), false).await;
    // Something else that is worth a report says nothing of it, for it is as it was.
    data_plane.trip();
    let told = until(&mut stream, |report| !report.events.is_empty()).await;
    assert_eq!(seconds(&told), None);
    late(4);
    let told = until(&mut stream, |report| report.health_check_lateness.is_some()).await;
    assert_eq!(seconds(&told), Some(0), "nobody has to be told of so little");
    late(9);
    let told = until(&mut stream, |report| report.health_check_lateness.is_some()).await;
    assert_eq!(seconds(&told), Some(9));
    drop(stream);
    let again = control_plane.report_stream().await.report().await.unwrap();
    assert_eq!((again.full, seconds(&again)), (true, Some(9)));
}
