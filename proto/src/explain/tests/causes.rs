//! Layer by layer: why it is out, since when, until when, on whose word, and what to do.

use super::*;
use crate::v1::{Effect, Layer};

fn layers(told: &v1::ExplainReplicaResponse) -> Vec<(Layer, Effect)> {
    told.causes.iter().map(|cause| (cause.layer(), cause.effect())).collect()
}

#[test]
fn every_layer_tells_its_summary_what_ends_it_and_a_command() {
    let slowly =
        v1::Measures { slow_start_share: 0.3, slow_start_end_time: at(1004.0), ..Default::default() };
    let full = v1::Breaker { inflight_count: 10, inflight_limit: 10, measures: Some(slowly), ..closed(5, 0) };
    let waiting = v1::Measures { unanswered_count: 31, peer_unanswered_count: 1, ..Default::default() };
    let piled_up = v1::Breaker { measures: Some(waiting), ..closed(5, 0) };
    let draining = |replica: &mut v1::Replica| {
        replica.mode = v1::ReplicaMode::Draining.into();
        replica.drain = Some(v1::Drain { begin_time: at(820.0), author: "ana".into(), ..Default::default() });
    };
    let gone = |removal_cause: v1::RemovalCause, cause: &str| Facts {
        replica: None,
        removed: Some(v1::RemovedReplica {
            remove_time: at(988.0),
            cause: cause.into(),
            removal_cause: removal_cause.into(),
            ..Default::default()
        }),
        ..facts()
    };
    let forced = forced_row(State::ForcedOpen, v1::OverrideKind::BreakerOpen);
    let held = Word { held: Some(at(990.0)), ..word("dp-1", None) };
    let regardless = v1::Breaker { asked_regardless: true, ..open() };
    let one = |breaker| vec![word("dp-1", breaker)];
    #[rustfmt::skip]
    let table = [
        (gone(v1::RemovalCause::Expired, "its lease lapsed"), vec![],
         Layer::Lease, "its lease lapsed", "it registers again", "gwctl events --replica orders/a"),
        (gone(v1::RemovalCause::Deregistered, "deregistered by ana"), vec![],
         Layer::Registration, "deregistered by ana", "it registers again", "gwctl events --replica orders/a"),
        (with(draining), one(closed(5, 0)),
         Layer::Drain, "draining by ana", "somebody undrains it, or it registers anew", "gwctl undrain orders/a"),
        (with(|replica| { replica.health = v1::HealthStatus::Unhealthy.into(); replica.state_reason = "disk full".into(); }), one(closed(5, 0)),
         Layer::Report, "it reported itself unhealthy: disk full", "it reports itself healthy", "gwctl events --replica orders/a"),
        (with(|replica| replica.health = v1::HealthStatus::Lost.into()), one(closed(5, 0)),
         Layer::Lease, "its lease lapsed together with many others, and the registry's guard holds it", "it renews its lease, or an operator releases the guard", "gwctl release-guard orders"),
        (facts(), one(forced),
         Layer::Override, "forced open by ana: bad deploy", "the override ends in 15m", "gwctl end-override breaker/orders/a"),
        (facts(), one(open()),
         Layer::Breaker, "consecutive_failures 5 >= 5: connect refused", "the probe that is due in 3.2s succeeds, and 1 more; if it fails, it rests for up to 4.8s", "gwctl breaker reset orders/a"),
        (fails_open(), one(regardless),
         Layer::FailOpen, "consecutive_failures 5 >= 5: connect refused", "the probe that is due in 3.2s succeeds, and 1 more; if it fails, it rests for up to 4.8s", "gwctl policy get orders --resolved"),
        (facts(), one(checked(v1::HealthCheckState::Failing)),
         Layer::HealthCheck, "active checks fail: connect refused, 3 in a row", "its active checks pass; the next is in 2.0s", "gwctl policy get orders --resolved"),
        (Facts { replica: None, ..facts() }, vec![held],
         Layer::SnapshotGuard, standing::HELD, standing::LET_GO, "gwctl release-guard orders"),
        (facts(), one(full.clone()),
         Layer::ConcurrencyLimit, "full: 10 of at most 10 requests are in flight", "one of them ends", "gwctl policy get orders --resolved"),
        (facts(), one(piled_up),
         Layer::Backlog, "31 requests wait for its answer, 1 at the median of its peers: what must not be sent twice goes to others", "it answers", "gwctl drain orders/a"),
        (facts(), one(full),
         Layer::SlowStart, "starts slowly: has 30 % of its weight", "it has all of it, in 4.0s", "gwctl policy get orders --resolved"),
        (with(|replica| replica.priority = 1), one(v1::Breaker { stands_by: true, ..closed(0, 0) }),
         Layer::Priority, "stands by: with priority 1 it is asked when every better tier is out, or has failed the request", "every better tier is out, or has failed the request", "gwctl explain orders"),
        (facts(), one(v1::Breaker { stands_by: true, ..closed(0, 0) }),
         Layer::Priority, "stands by: replicas that are nearer to the data plane take all requests", "those that are nearer are out, or have failed the request", "gwctl explain orders"),
        (facts(), vec![word("dp-1", None)],
         Layer::Propagation, "has reported nothing of it yet", "its next report", "gwctl check"),
    ];
    for (facts, words, layer, summary, until, command) in table {
        let told = explain(facts, words);
        let cause = told.causes.iter().find(|cause| cause.layer() == layer);
        let cause = cause.unwrap_or_else(|| panic!("{layer:?} of {:?}", told.causes));
        let step = cause.next_step.as_ref().unwrap();
        assert_eq!(
            (cause.summary.as_str(), cause.until.as_str(), step.command.as_str()),
            (summary, until, command)
        );
        assert!(!step.purpose.is_empty() && cause.effect() != Effect::Unspecified, "{layer:?}");
    }
}

#[test]
fn who_is_asked_because_nobody_passes_checks_is_not_sent_to_the_threshold_of_failing_open() {
    let purpose = |facts: Facts| {
        let cause = explain(facts, [word("dp-1", asked_though_checks_fail(true))]).causes.remove(0);
        assert_eq!((cause.layer(), cause.effect()), (Layer::FailOpen, Effect::KeepsIn));
        cause.next_step.unwrap().purpose
    };
    assert_eq!(purpose(facts()), "what is checked, for nobody passes it");
    // It may be either.
    assert_eq!(
        purpose(fails_open()),
        "what is checked, and from when on too few are left, see breaker.fail_open_threshold"
    );
    let told = explain(fails_open(), [word("dp-1", asked_though_checks_fail(true))]);
    let why = "too few of its tier are left, or nobody passes the active checks, so they are not heeded";
    assert!(told.summary.ends_with(why), "{}", told.summary);
    assert!(told.nodes[0].summary.ends_with(why), "{}", told.nodes[0].summary);
}

#[test]
fn a_replica_that_nothing_keeps_out_has_no_cause() {
    assert_eq!(explain(facts(), [word("dp-1", closed(10, 1))]).causes, []);
}

#[test]
fn all_layers_that_keep_it_out_are_told_and_those_that_keep_it_in_last() {
    let breaker = v1::Breaker {
        state: State::Open.into(),
        last_trip: open().last_trip,
        ..checked(v1::HealthCheckState::Failing)
    };
    let slowly =
        v1::Measures { slow_start_share: 0.1, slow_start_end_time: at(1004.0), ..Default::default() };
    let slow = v1::Breaker { measures: Some(slowly), ..closed(9, 0) };
    let told = explain(
        with(|replica| replica.health = v1::HealthStatus::Lost.into()),
        [word("dp-1", breaker), word("dp-2", slow), word("dp-3", open())],
    );
    assert_eq!(
        layers(&told),
        [
            (Layer::Breaker, Effect::KeepsOut),
            (Layer::HealthCheck, Effect::KeepsOut),
            (Layer::SlowStart, Effect::Lessens),
            (Layer::Lease, Effect::KeepsIn),
        ]
    );
    let breaker = &told.causes[0];
    assert_eq!(
        (breaker.node_ids.as_slice(), breaker.node_count),
        (&["dp-1".to_owned(), "dp-3".into()][..], 2)
    );
    assert_eq!(breaker.heard_node_count, 3);
}

#[test]
fn a_cause_rests_on_the_last_failures_with_their_requests_and_each_error_once() {
    let failure = |error: &str, id: &str| v1::FailedAttempt {
        failure_time: at(987.0),
        error: error.into(),
        request_id: id.into(),
    };
    let failures = vec![failure("reset", "3"), failure("connect refused", "2"), failure("reset", "1")];
    let seen = v1::Breaker { last_failures: failures.clone(), state_change_time: at(980.0), ..open() };
    let told = explain(facts(), [word("dp-1", seen), word("dp-2", open()), silent("dp-3", open())]);
    let cause = &told.causes[0];
    assert_eq!(cause.evidence, failures);
    assert_eq!(cause.errors, ["connect refused", "reset"]);
    assert_eq!((cause.since_time, cause.until_time), (at(980.0), at(1003.2)), "since the first of them");
    assert_eq!((cause.node_count, cause.heard_node_count), (2, 2), "who is silent has no say");
}

#[test]
fn thousands_of_data_planes_that_agree_are_counted_and_fifty_named() {
    let told = explain(facts(), (0..3000).map(|number| word(&format!("dp-{number}"), open())));
    let cause = &told.causes[0];
    assert_eq!((cause.node_ids.len(), cause.node_count), (MAX_SHOWN, 3000));
}

#[test]
fn a_replica_that_the_registry_dropped_and_guards_hold_is_explained() {
    let held = |node: &str| Word { held: Some(at(990.0)), ..word(node, None) };
    let dropped = Facts { replica: None, ..facts() };
    let told = explain(dropped.clone(), [held("dp-1"), held("dp-2"), word("dp-3", None)]);
    assert_eq!((told.verdict(), told.conclusion()), (Verdict::Unknown, Conclusion::SnapshotGuard));
    assert_eq!(
        told.summary,
        "takes requests all the same, unless its breaker is open: the registry has it no more; the guards of 2 data planes hold it"
    );
    let counts = told.node_counts.unwrap();
    assert_eq!((counts.asking, counts.holding, counts.untold), (2, 2, 1));
    assert_eq!((told.nodes[0].standing(), told.nodes[0].held_time), (Standing::Holds, at(990.0)));
    assert_eq!(told.next_steps[0].command, "gwctl release-guard orders");
    // A data plane that says so of itself knows its breaker.
    let seen = Word { breaker: Some(closed(5, 0)), ..held("dp-1") };
    let told = explain(with(|replica| replica.health = v1::HealthStatus::Lost.into()), [seen]);
    assert_eq!((told.verdict(), told.conclusion()), (Verdict::TakesRequests, Conclusion::SnapshotGuard));
    // Its breaker decides, as for any other.
    let open = Word { breaker: Some(open()), ..held("dp-1") };
    let lost = with(|replica| replica.health = v1::HealthStatus::Lost.into());
    let told = explain(lost, [open]);
    assert_eq!(told.verdict(), Verdict::Out, "{}", told.summary);
    assert_eq!(layers(&told), [(Layer::Breaker, Effect::KeepsOut), (Layer::SnapshotGuard, Effect::KeepsIn)]);
    // What the registry has again is held no more, whatever was reported last.
    let back = explain(facts(), [Word { held: Some(at(990.0)), ..word("dp-1", closed(5, 0)) }]);
    assert_eq!((back.conclusion(), back.causes.len()), (Conclusion::Unspecified, 0));
}
