use std::time::UNIX_EPOCH;

use gateway_proto::json::to_json;

use super::*;

fn breaker() -> v1::Breaker {
    v1::Breaker {
        service: "orders".into(),
        replica_id: "r-1".into(),
        state: v1::BreakerState::Open.into(),
        ..Default::default()
    }
}

fn event() -> v1::Event {
    v1::Event {
        service: "orders".into(),
        replica_id: "r-1".into(),
        event_type: "BREAKER_OPENED".into(),
        ..Default::default()
    }
}

fn parse(breakers: Vec<v1::Breaker>, events: Vec<v1::Event>) -> Result<Report, Invalid> {
    let wire = v1::ReportNodeStatusRequest { breakers, events, ..Default::default() };
    Report::parse(&NodeId::parse("n1").unwrap(), wire, UNIX_EPOCH)
}

/// A row as it is shown.
fn shown(row: v1::Breaker) -> v1::Breaker {
    let node = NodeId::parse("n1").unwrap();
    let report = parse(vec![row], vec![]).unwrap();
    let (key, row) = &report.breakers.breakers[0];
    row.to_wire(key, Some(&node), UNIX_EPOCH)
}

fn field(result: Result<Report, Invalid>) -> String {
    result.unwrap_err().violations()[0].field.clone()
}

#[test]
fn a_row_and_an_event_are_of_the_data_plane_that_sent_them() {
    let lying = v1::Breaker { node_id: "other".into(), node_count: 9, ..breaker() };
    let row = shown(lying);
    assert_eq!((row.node_id.as_str(), row.node_count), ("n1", 0));
    let lying = v1::Event {
        node_id: "other".into(),
        actor: "ann".into(),
        severity: v1::EventSeverity::Error.into(),
        repeat_count: 9,
        ..event()
    };
    let report = parse(vec![], vec![lying.clone()]).unwrap();
    let told = &report.events[0];
    assert_eq!((told.node_id.as_str(), told.actor.as_str(), told.repeat_count), ("n1", "n1", 0));
    assert_eq!(told.severity(), v1::EventSeverity::Warning);
    // What an operator wanted is the operator's deed.
    let forced = v1::Event { event_type: "BREAKER_FORCED_OPEN".into(), ..lying };
    assert_eq!(parse(vec![], vec![forced]).unwrap().events[0].actor, "ann");
}

#[test]
fn that_a_service_fails_open_is_of_the_service_and_of_no_replica() {
    let began = v1::Event { event_type: "FAIL_OPEN_BEGAN".into(), replica_id: String::new(), ..event() };
    let report = parse(vec![], vec![began.clone()]).unwrap();
    let told = &report.events[0];
    assert_eq!((told.service.as_str(), told.replica_id.as_str()), ("orders", ""));
    assert_eq!((told.severity(), told.actor.as_str()), (v1::EventSeverity::Warning, "n1"));
    let nameless = v1::Event { service: String::new(), ..began };
    assert_eq!(field(parse(vec![], vec![nameless])), "events[0].service");
    let withheld = v1::Event { event_type: "BREAKER_WITHHELD".into(), replica_id: String::new(), ..event() };
    assert_eq!(field(parse(vec![], vec![withheld])), "events[0].replica_id");
}

#[test]
fn bad_names_states_and_types_are_refused_with_their_place() {
    let bad_name = v1::Breaker { replica_id: "R".into(), ..breaker() };
    assert_eq!(field(parse(vec![breaker(), bad_name], vec![])), "breakers[1].replica_id");
    let no_state = v1::Breaker { state: 0, ..breaker() };
    assert_eq!(field(parse(vec![no_state], vec![])), "breakers[0].state");
    let made_up = v1::Event { event_type: "LEASE_EXPIRED".into(), ..event() };
    assert_eq!(field(parse(vec![], vec![made_up])), "events[0].event_type");
    assert_eq!(field(parse(vec![], vec![event(); 1001])), "events");
}

#[test]
fn what_only_newer_data_planes_know_is_left_out_and_counted() {
    let newer_state = v1::Breaker { state: 99, ..breaker() };
    let newer_event = v1::Event { event_type: "BREAKER_DREAMT".into(), ..event() };
    let report = parse(vec![newer_state, breaker()], vec![newer_event, event()]).unwrap();
    assert_eq!((report.breakers.breakers.len(), report.events.len(), report.lost_events), (1, 1, 1));
}

#[test]
fn an_instant_that_is_none_is_left_out_so_that_every_answer_can_be_written_as_json() {
    for (seconds, nanos) in [(i64::MAX, 0), (i64::MIN, 0), (253_402_300_800, 0), (0, -1), (0, 1_000_000_000)]
    {
        let at = Some(prost_types::Timestamp { seconds, nanos });
        let row = v1::Breaker { state_change_time: at, retry_time: at, ..breaker() };
        let row = shown(row);
        assert_eq!((row.state_change_time, row.retry_time), (None, None));
        to_json(&row);
        // An event without an instant happened when it was told.
        let report = parse(vec![], vec![v1::Event { event_time: at, ..event() }]).unwrap();
        assert_eq!(report.events[0].event_time, Some(prost_types::Timestamp { seconds: 0, nanos: 0 }));
        to_json(&report.events[0]);
    }
    let end = Some(prost_types::Timestamp { seconds: 253_402_300_799, nanos: 999_999_999 });
    let row = v1::Breaker { retry_time: end, ..breaker() };
    assert_eq!(shown(row.clone()).retry_time, end);
    to_json(&shown(row));
}

#[test]
fn long_texts_are_cut_between_characters() {
    let long = "é".repeat(2000);
    let row = v1::Breaker { reason: long.clone(), last_errors: vec![long; 9], ..breaker() };
    let row = shown(row);
    assert_eq!((row.reason.chars().count(), row.last_errors.len()), (512, 5));
    assert_eq!(row.last_errors[0].chars().count(), 200);
}

#[test]
fn what_a_terminal_would_act_on_is_not_kept() {
    let row = shown(v1::Breaker { reason: "\u{9b}2J \x1b[0m größe\u{202e}".into(), ..breaker() });
    assert_eq!(row.reason, "\u{fffd}2J \u{fffd}[0m größe\u{fffd}");
}

#[test]
fn what_is_kept_of_a_large_message_is_no_larger_than_it_looks() {
    let roomy = |text: &str| {
        let mut roomy = String::with_capacity(1_000_000);
        roomy.push_str(text);
        roomy
    };
    let long = "x".repeat(1_000_000);
    let row = v1::Breaker {
        service: roomy("orders"),
        replica_id: roomy("r-1"),
        address: roomy("a:1"),
        reason: long.clone(),
        last_errors: vec![String::new(); 100_000],
        ..breaker()
    };
    let event = v1::Event {
        service: roomy("orders"),
        replica_id: roomy("r-1"),
        event_type: roomy("BREAKER_OPENED"),
        message: long,
        metadata: [(roomy("key"), roomy("value"))].into(),
        ..event()
    };
    let report = parse(vec![row], vec![event]).unwrap();
    let (row, event) = (&report.breakers.breakers[0].1, &report.events[0]);
    assert_eq!((row.reason.len(), row.last_errors.len()), (512, 5));
    let texts = [&event.service, &event.replica_id, &event.event_type, &event.message, &event.node_id];
    for text in texts.into_iter().chain(event.metadata.iter().flat_map(|(k, v)| [k, v])) {
        assert!(text.capacity() <= 600, "{} bytes for {text:?}", text.capacity());
    }
    // In the matrix there is a row for each replica and data plane.
    assert!(size_of::<Row>() <= 256, "{} bytes", size_of::<Row>());
}

fn active_override() -> v1::OverrideEntry {
    v1::OverrideEntry {
        override_id: "breaker/orders/r-1".into(),
        service: "orders".into(),
        replica_id: "-".into(),
        kind: v1::OverrideKind::BreakerOpen.into(),
        reason: "x".repeat(2000),
        author: "ann".into(),
        address: "10.0.0.1:80".into(),
        revision: -1,
        expire_time: Some(prost_types::Timestamp { seconds: i64::MAX, nanos: 0 }),
        ..Default::default()
    }
}

#[test]
fn the_override_of_a_row_is_checked_and_cut_like_the_rest() {
    let forced = |entry| v1::Breaker { active_override: Some(entry), ..breaker() };
    let kept = shown(forced(active_override())).active_override.unwrap();
    assert_eq!(
        (kept.reason.len(), kept.address.as_str(), kept.revision, kept.expire_time),
        (256, "", 0, None)
    );
    assert_eq!((kept.author.as_str(), kept.replica_id.as_str()), ("ann", "-"));
    for (field_name, wrong) in [
        ("kind", v1::OverrideEntry { kind: v1::OverrideKind::GuardReleased.into(), ..active_override() }),
        ("kind", v1::OverrideEntry { kind: 99, ..active_override() }),
        ("service", v1::OverrideEntry { service: "billing".into(), ..active_override() }),
        ("replica_id", v1::OverrideEntry { replica_id: "r-2".into(), ..active_override() }),
        ("replica_id", v1::OverrideEntry { replica_id: String::new(), ..active_override() }),
        ("node_id", v1::OverrideEntry { node_id: "n2".into(), ..active_override() }),
    ] {
        let place = format!("breakers[0].active_override.{field_name}");
        assert_eq!(field(parse(vec![forced(wrong)], vec![])), place);
    }
}

#[test]
fn counts_below_zero_are_none() {
    let row = shown(v1::Breaker { attempt_count: -5, inflight_count: -1, trip_count: i64::MIN, ..breaker() });
    assert_eq!((row.attempt_count, row.inflight_count, row.trip_count), (0, 0, 0));
}

#[test]
fn a_report_says_by_which_revision_it_was_routed_or_nothing() {
    let routed_by = |epoch: &str, revision| {
        let wire = v1::ReportNodeStatusRequest { epoch: epoch.into(), revision, ..Default::default() };
        Report::parse(&NodeId::parse("n1").unwrap(), wire, UNIX_EPOCH).map(|report| report.routed_by)
    };
    assert_eq!(routed_by("", 0), Ok(None));
    assert_eq!(routed_by("e", 7), Ok(Some(("e".into(), 7))));
    assert_eq!(routed_by("e", -1).unwrap_err().violations()[0].field, "revision");
}

#[test]
fn what_a_guard_holds_is_counted_with_those_that_are_not_named() {
    let held = |names: &[(&str, &str)], total_count| {
        let replica = |(service, id): &(&str, &str)| v1::HeldReplica {
            service: (*service).into(),
            replica_id: (*id).into(),
            // One was missing at a time that is none.
            missing_time: Some(prost_types::Timestamp {
                seconds: if *service == "orders" { 7 } else { -7 },
                nanos: 0,
            }),
        };
        let held = v1::HeldReplicas { replicas: names.iter().map(replica).collect(), total_count };
        let wire = v1::ReportNodeStatusRequest { held_replicas: Some(held), ..Default::default() };
        Report::parse(&NodeId::parse("n1").unwrap(), wire, UNIX_EPOCH).map(|report| report.held.unwrap())
    };
    let names = [("orders", "b"), ("billing", "a"), ("orders", "a")];
    let of = |names: &[&str]| names.iter().map(|name| ServiceName::parse(name).unwrap()).collect::<Vec<_>>();
    let all = held(&names, 5000).unwrap();
    assert_eq!((all.count, &all.services), (5000, &of(&["billing", "orders"])));
    let since = |service, id| all.since(&ReplicaKey::parse(service, id).unwrap());
    assert_eq!(since("orders", "a"), Some(Some(UNIX_EPOCH + Duration::from_secs(7))));
    assert_eq!((since("billing", "a"), since("billing", "b")), (Some(None), None));
    assert_eq!(held(&names, -1).unwrap().count, 3);
    let wrong = held(&[("orders", "a"), ("orders", "A")], 2).unwrap_err();
    assert_eq!(wrong.violations()[0].field, "held_replicas.replicas[1].replica_id");
    let many = held(&[("orders", "a"); 1001], 0).unwrap_err();
    assert_eq!(many.violations()[0].field, "held_replicas.replicas");
}
