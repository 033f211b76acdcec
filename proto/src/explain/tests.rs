use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proptest::prelude::*;

use super::*;
use crate::v1::{BreakerState as State, Conclusion, NodeStanding as Standing, ReplicaVerdict as Verdict};

mod causes;

const NOW: u64 = 1000;

fn at(seconds: f64) -> Option<prost_types::Timestamp> {
    Some(timestamp(UNIX_EPOCH + Duration::from_secs_f64(seconds)))
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

fn replica() -> v1::Replica {
    v1::Replica {
        service: "orders".into(),
        replica_id: "a".into(),
        health: v1::HealthStatus::Healthy.into(),
        mode: v1::ReplicaMode::Serving.into(),
        state_change_time: at(988.0),
        incarnation: 3,
        revision: 7,
        ..Default::default()
    }
}

fn facts() -> Facts {
    Facts {
        now: now(),
        service: "orders".into(),
        replica_id: "a".into(),
        replica: Some(replica()),
        removed: None,
        policy: policy::Breaker::default(),
        balancing: policy::Balancing::default(),
        overrides: Vec::new(),
        revision: 9,
    }
}

/// A data plane's row.
fn row(state: State) -> v1::Breaker {
    v1::Breaker {
        state: state.into(),
        incarnation: 3,
        state_change_time: at(988.0),
        probe_success_target: 2,
        ..Default::default()
    }
}

fn open() -> v1::Breaker {
    v1::Breaker {
        reason: "consecutive_failures 5 >= 5: connect refused".into(),
        retry_time: at(1003.2),
        trip_streak: 2,
        last_trip: Some(v1::Trip { trip_time: at(988.0), incarnation: 3, ..Default::default() }),
        ..row(State::Open)
    }
}

fn closed(total: i64, failed: i64) -> v1::Breaker {
    v1::Breaker { window_request_count: total, window_failure_count: failed, ..row(State::Closed) }
}

fn word(node: &str, breaker: impl Into<Option<v1::Breaker>>) -> Word {
    Word {
        node_id: node.into(),
        state: v1::NodeState::Synced,
        acked_revision: 9,
        report_time: at(999.0),
        breaker: breaker.into(),
        ..Default::default()
    }
}

fn silent(node: &str, breaker: impl Into<Option<v1::Breaker>>) -> Word {
    Word { is_silent: true, report_time: at(900.0), ..word(node, breaker) }
}

fn explain(facts: Facts, words: impl IntoIterator<Item = Word>) -> v1::ExplainReplicaResponse {
    let mut all = Explanation::new(facts, MAX_SHOWN, None);
    words.into_iter().for_each(|word| all.add(word));
    all.finish()
}

fn forced(kind: v1::OverrideKind) -> v1::OverrideEntry {
    v1::OverrideEntry {
        override_id: "breaker/orders/a".into(),
        service: "orders".into(),
        replica_id: "a".into(),
        kind: kind.into(),
        expire_time: at(1900.0),
        author: "ana".into(),
        reason: "bad deploy".into(),
        ..Default::default()
    }
}

fn forced_row(state: State, kind: v1::OverrideKind) -> v1::Breaker {
    v1::Breaker { active_override: Some(forced(kind)), ..row(state) }
}

/// A row of a replica that active checks keep out.
fn checked(state: v1::HealthCheckState) -> v1::Breaker {
    let check = v1::HealthCheck {
        state: state.into(),
        keeps_out: true,
        state_change_time: at(988.0).filter(|_| state == v1::HealthCheckState::Failing),
        last_failure: "connect refused".into(),
        streak_count: 3,
        next_check_time: at(1002.0),
        ..Default::default()
    };
    v1::Breaker { health_check: Some(check), ..row(State::Closed) }
}

/// A row of one that is asked although they fail: because nobody passes them, or because they only tell.
fn asked_though_checks_fail(asked_regardless: bool) -> v1::Breaker {
    let mut row = v1::Breaker { asked_regardless, ..checked(v1::HealthCheckState::Failing) };
    row.health_check.as_mut().unwrap().keeps_out = false;
    row
}

/// Facts of a service of which those are asked that should be out, where too few others are left.
fn fails_open() -> Facts {
    let policy = policy::Breaker { fail_open_threshold: 0.5, ..policy::Breaker::default() };
    Facts { policy, ..facts() }
}

/// Facts, words, and what must follow.
type Case = (Facts, Vec<Word>, Verdict, Conclusion, &'static str);

fn with(change: impl FnOnce(&mut v1::Replica)) -> Facts {
    let mut facts = facts();
    change(facts.replica.as_mut().unwrap());
    facts
}

#[rustfmt::skip]
fn table() -> Vec<Case> {
    use v1::{HealthStatus as Health, OverrideKind as Kind, ReplicaMode as Mode};
    let withheld = |why: v1::Withheld| v1::Breaker {
        last_withheld_trip: Some(v1::Trip { trip_time: at(995.0), reason: "failure_ratio 0.62 >= 0.50 (31 of 50)".into(), withheld: why.into(), ..Default::default() }),
        ..closed(50, 20)
    };
    let drain = |by_owner: bool, author: &str| v1::Drain { begin_time: at(820.0), author: author.into(), reason: "kernel update".into(), by_owner, ..Default::default() };
    let removed = |cause: &str, lease_lapsed| Facts {
        replica: None,
        removed: Some(v1::RemovedReplica {
            remove_time: at(988.0), cause: cause.into(), lease_lapsed, by_owner: cause.ends_with("its owner"), ..Default::default()
        }),
        ..facts()
    };
    vec![
        // Nothing to explain.
        (facts(), vec![word("dp-1", closed(10, 0)), word("dp-2", closed(0, 0))],
         Verdict::TakesRequests, Conclusion::Unspecified, "takes requests on 2 data planes"),
        (facts(), vec![word("dp-1", closed(10, 0)), word("dp-2", None)],
         Verdict::TakesRequests, Conclusion::Unspecified, "takes requests on 1 data plane; dp-2 has not told of it yet"),
        (facts(), vec![word("dp-1", closed(10, 0)), silent("dp-2", open())],
         Verdict::TakesRequests, Conclusion::Unspecified, "takes requests on 1 data plane; 1 data plane is not heard of lately"),
        // The replica.
        (facts(), vec![word("dp-1", open()), word("dp-2", open())],
         Verdict::Out, Conclusion::Replica,
         "out on all 2 data planes since 12s: the replica is bad: all 2 data planes with enough traffic see it fail (consecutive_failures 5 >= 5: connect refused; next probe in 3.2s)"),
        (facts(), vec![word("dp-1", open()), word("dp-2", open()), word("dp-3", closed(5, 0))],
         Verdict::PartlyOut, Conclusion::Replica,
         "out on 2 of 3 data planes since 12s: the replica is bad: 2 of 3 data planes with enough traffic see it fail (consecutive_failures 5 >= 5: connect refused; next probe in 3.2s)"),
        // The way to it.
        (facts(), vec![word("dp-1", open()), word("dp-2", closed(5, 0))],
         Verdict::PartlyOut, Conclusion::Path,
         "out on 1 of 2 data planes since 12s: the way from dp-1 to it is bad, not the replica: dp-1 sees it fail (consecutive_failures 5 >= 5: connect refused; next probe in 3.2s), dp-2 sees it work"),
        (facts(), vec![word("dp-1", v1::Breaker { retry_time: at(990.0), ..open() }), word("dp-2", closed(5, 0)), word("dp-3", closed(9, 1))],
         Verdict::PartlyOut, Conclusion::Path,
         "out on 1 of 3 data planes since 12s: the way from dp-1 to it is bad, not the replica: dp-1 sees it fail (consecutive_failures 5 >= 5: connect refused; the next request is a probe), dp-2 and dp-3 see it work"),
        // Nobody can tell.
        (facts(), vec![word("dp-1", open())],
         Verdict::Out, Conclusion::Undecided,
         "out on dp-1 since 12s: dp-1 sees it fail (consecutive_failures 5 >= 5: connect refused; next probe in 3.2s); whether the replica or the way to it is bad, nobody can tell: there is no other data plane to compare with"),
        (facts(), vec![word("dp-1", open()), word("dp-2", closed(4, 0))],
         Verdict::PartlyOut, Conclusion::Undecided,
         "out on 1 of 2 data planes since 12s: dp-1 sees it fail (consecutive_failures 5 >= 5: connect refused; next probe in 3.2s); whether the replica or the way to it is bad, nobody can tell: no other data plane has had 5 outcomes in the window"),
        (facts(), vec![word("dp-1", open()), silent("dp-2", closed(50, 0))],
         Verdict::Out, Conclusion::Undecided,
         "out on dp-1 since 12s: dp-1 sees it fail (consecutive_failures 5 >= 5: connect refused; next probe in 3.2s); whether the replica or the way to it is bad, nobody can tell: there is no other data plane to compare with; 1 data plane is not heard of lately"),
        // By its active checks.
        (facts(), vec![word("dp-1", checked(v1::HealthCheckState::Failing)), word("dp-2", checked(v1::HealthCheckState::Failing))],
         Verdict::Out, Conclusion::Replica,
         "out on all 2 data planes since 12s: the replica is bad: all 2 data planes with enough traffic see it fail (active checks fail: connect refused)"),
        (facts(), vec![word("dp-1", checked(v1::HealthCheckState::Pending))],
         Verdict::Out, Conclusion::Undecided, "out on dp-1: no active check has passed yet"),
        // An operator.
        (facts(), vec![word("dp-1", forced_row(State::ForcedOpen, Kind::BreakerOpen))],
         Verdict::Out, Conclusion::Operator, "out on dp-1 since 12s: forced open by ana for 15m more: bad deploy"),
        (facts(), vec![word("dp-1", forced_row(State::ForcedOpen, Kind::BreakerOpen)), word("dp-2", closed(5, 0))],
         Verdict::PartlyOut, Conclusion::Operator, "out on 1 of 2 data planes since 12s: forced open by ana for 15m more: bad deploy"),
        (Facts { overrides: vec![forced(Kind::BreakerClosed)], ..facts() }, vec![word("dp-1", v1::Breaker { window_request_count: 40, window_failure_count: 40, ..forced_row(State::ForcedClosed, Kind::BreakerClosed) })],
         Verdict::TakesRequests, Conclusion::Operator, "takes requests on 1 data plane: forced closed by ana for 15m more: bad deploy; dp-1 sees it fail"),
        (with(|replica| { replica.mode = Mode::Draining.into(); replica.drain = Some(drain(false, "ana")); }), vec![word("dp-1", closed(5, 0))],
         Verdict::Out, Conclusion::Operator, "out everywhere since 3m: draining by ana: kernel update"),
        (removed("deregistered by ana: bad host", false), vec![],
         Verdict::Removed, Conclusion::Operator, "removed 12s ago: deregistered by ana: bad host"),
        // Its owner.
        (with(|replica| { replica.mode = Mode::Drained.into(); replica.drain = Some(drain(true, "")); }), vec![word("dp-1", open())],
         Verdict::Out, Conclusion::Owner, "out everywhere since 3m: drained by its owner: kernel update"),
        (with(|replica| { replica.health = Health::Unhealthy.into(); replica.state_reason = "disk full".into(); }), vec![word("dp-1", closed(5, 0))],
         Verdict::Out, Conclusion::Owner, "out everywhere since 12s: it reported itself unhealthy: disk full"),
        (with(|replica| replica.health = Health::Starting.into()), vec![],
         Verdict::Out, Conclusion::Owner, "out everywhere since 12s: it has not reported itself healthy yet"),
        (removed("deregistered by its owner", false), vec![],
         Verdict::Removed, Conclusion::Owner, "removed 12s ago: deregistered by its owner"),
        // The policy.
        (facts(), vec![word("dp-1", withheld(v1::Withheld::ObserveOnly))],
         Verdict::TakesRequests, Conclusion::Policy, "takes requests on 1 data plane, although dp-1 sees it fail, and the policy only observes"),
        (facts(), vec![word("dp-1", withheld(v1::Withheld::MaxOpenRatio))],
         Verdict::TakesRequests, Conclusion::Policy, "takes requests on 1 data plane, although dp-1 sees it fail, and as many are open as max_open_ratio allows"),
        (fails_open(), vec![word("dp-1", v1::Breaker { asked_regardless: true, ..open() })],
         Verdict::TakesRequests, Conclusion::Policy, "takes requests on 1 data plane, although it should be out (consecutive_failures 5 >= 5: connect refused): too few of its tier are left"),
        (facts(), vec![word("dp-1", asked_though_checks_fail(true))],
         Verdict::TakesRequests, Conclusion::Policy, "takes requests on 1 data plane, although it should be out (active checks fail: connect refused): nobody passes the active checks, so they are not heeded"),
        (facts(), vec![word("dp-1", asked_though_checks_fail(false))],
         Verdict::TakesRequests, Conclusion::Policy, "takes requests on 1 data plane, although dp-1 sees it fail, and health_check.observe_only has checks keep nobody out"),
        (facts(), vec![word("dp-1", closed(4, 4)), word("dp-2", v1::Breaker { consecutive_failure_count: 5, ..closed(5, 5) })],
         Verdict::TakesRequests, Conclusion::Policy, "takes requests on 2 data planes, although dp-2 sees it fail, and its breaker has not opened yet"),
        // Its lease.
        (with(|replica| replica.health = Health::Lost.into()), vec![word("dp-1", closed(5, 0))],
         Verdict::TakesRequests, Conclusion::Lease, "takes requests on 1 data plane: its lease lapsed together with many others, so the guard holds it as LOST and breakers decide"),
        (removed("its lease lapsed", true), vec![word("dp-1", None)],
         Verdict::Removed, Conclusion::Lease, "removed 12s ago: its lease lapsed"),
        // Guards of data planes.
        (removed("its lease lapsed", true), vec![Word { held: Some(at(990.0)), ..word("dp-1", None) }],
         Verdict::Unknown, Conclusion::SnapshotGuard, "takes requests all the same, unless its breaker is open: removed 12s ago: its lease lapsed; the guard of 1 data plane holds it"),
        // Its tier.
        (with(|replica| replica.priority = 1), vec![word("dp-1", v1::Breaker { stands_by: true, ..closed(0, 0) })],
         Verdict::StandsBy, Conclusion::Tier, "stands by: with priority 1 it is asked when every better tier is out, or has failed the request"),
        // Nobody is there.
        (facts(), vec![], Verdict::Unknown, Conclusion::NoDataPlane, "nobody asks it: no data plane is connected"),
        (facts(), vec![word("dp-1", None)], Verdict::Unknown, Conclusion::NoDataPlane, "nobody asks it yet: 1 data plane has not reported it so far"),
        (facts(), vec![silent("dp-1", closed(9, 0))], Verdict::Unknown, Conclusion::NoDataPlane, "nobody can tell: 1 data plane is not heard of lately"),
    ]
}

#[test]
fn each_row_of_the_table_is_told_in_its_sentence() {
    for (facts, words, verdict, conclusion, summary) in table() {
        let told = explain(facts, words);
        assert_eq!(
            (told.summary.as_str(), told.verdict(), told.conclusion()),
            (summary, verdict, conclusion)
        );
    }
}

#[test]
fn the_table_has_a_row_for_every_verdict_and_every_conclusion() {
    let told: Vec<_> =
        table().into_iter().map(|(_, _, verdict, conclusion, _)| (verdict, conclusion)).collect();
    for number in 1.. {
        let Ok(verdict) = Verdict::try_from(number) else { break };
        assert!(told.iter().any(|(known, _)| *known == verdict), "{verdict:?}");
    }
    for number in 0.. {
        let Ok(conclusion) = Conclusion::try_from(number) else { break };
        assert!(told.iter().any(|(_, known)| *known == conclusion), "{conclusion:?}");
    }
}

#[test]
fn whatever_is_wrong_comes_with_a_command_for_it() {
    for (facts, words, verdict, conclusion, summary) in table() {
        let told = explain(facts, words);
        let first = &told.next_steps[0].command;
        let expected = match (verdict, conclusion) {
            (Verdict::Removed, _) => "gwctl events --replica orders/a",
            (_, Conclusion::Replica | Conclusion::Undecided) if summary.contains("probe") => "wait 3.2s",
            (_, Conclusion::Owner) if summary.contains("drained") => "gwctl undrain orders/a",
            (_, Conclusion::Owner) => "gwctl events --replica orders/a",
            (_, Conclusion::Operator) if summary.contains("draining") => "gwctl undrain orders/a",
            (_, Conclusion::Policy) if !summary.contains("all the same") => {
                "gwctl policy get orders --resolved"
            }
            (_, Conclusion::NoDataPlane) => "gwctl check",
            (_, Conclusion::Lease) => "gwctl release-guard orders",
            _ => continue,
        };
        assert_eq!(first, expected, "{summary}");
        assert!(told.next_steps.iter().all(|step| !step.purpose.is_empty()), "{summary}");
    }
    let entry = forced(v1::OverrideKind::BreakerOpen);
    let facts = Facts { overrides: vec![entry.clone()], ..facts() };
    let told = explain(facts, [word("dp-1", forced_row(State::ForcedOpen, v1::OverrideKind::BreakerOpen))]);
    assert_eq!(told.next_steps[0].command, "gwctl end-override breaker/orders/a");
    assert_eq!(told.overrides, [entry]);
}

#[test]
fn what_an_operator_hands_back_is_not_said_to_fail() {
    let released = v1::Breaker { out_time: at(990.0), ..row(State::HalfOpen) };
    // Before it was forced, it had opened once, and closed again.
    let long_ago = v1::Trip { trip_time: at(500.0), incarnation: 3, ..Default::default() };
    // Or its predecessor's had.
    let of_predecessor = v1::Trip { incarnation: 2, ..long_ago.clone() };
    let opened_before = |trip| v1::Breaker { last_trip: Some(trip), ..released.clone() };
    for row in [opened_before(long_ago), opened_before(of_predecessor), released.clone()] {
        let told = explain(facts(), [word("dp-1", row.clone()), word("dp-2", row)]);
        assert_eq!((told.verdict(), told.conclusion()), (Verdict::Out, Conclusion::Undecided));
        assert_eq!(
            told.summary,
            "out on all 2 data planes since 10s: it was forced open, and probes have still to show how it is"
        );
        assert_eq!(told.nodes[0].evidence(), v1::Evidence::None);
        assert!(
            told.nodes[0].until.starts_with("the next request, which is a probe, succeeds"),
            "{:?}",
            told.nodes[0]
        );
    }
}

#[test]
fn a_new_registration_is_not_condemned_by_what_its_predecessor_did() {
    let of_predecessor = v1::Trip { trip_time: at(988.0), incarnation: 2, ..Default::default() };
    let row = v1::Breaker { last_trip: Some(of_predecessor), retry_time: at(999.0), ..open() };
    for row in [v1::Breaker { last_trip: None, ..row.clone() }, row] {
        let told = explain(facts(), [word("dp-1", row.clone()), word("dp-2", row)]);
        assert_eq!(told.conclusion(), Conclusion::Undecided);
        let expected =
            "its predecessor failed, and probes have still to show how it is; the next request is a probe";
        assert!(told.summary.ends_with(expected), "{}", told.summary);
    }
}

#[test]
fn one_that_came_back_and_was_forced_open_before_is_not_said_to_have_failed() {
    let back = v1::Breaker { out_time: at(990.0), ..row(State::Open) };
    let long_ago = v1::Trip { trip_time: at(500.0), incarnation: 2, ..Default::default() };
    for row in [v1::Breaker { last_trip: Some(long_ago), ..back.clone() }, back] {
        let summary = explain(facts(), [word("dp-1", row)]).summary;
        assert!(summary.contains("it was forced open, and probes have still to show"), "{summary}");
    }
}

#[test]
fn one_that_came_back_is_not_said_to_have_been_forced_open_while_it_is_probed() {
    let of_outage = v1::Trip { trip_time: at(980.0), incarnation: 2, ..Default::default() };
    let probed = v1::Breaker { last_trip: Some(of_outage), out_time: at(980.0), ..row(State::HalfOpen) };
    let summary = explain(facts(), [word("dp-1", probed)]).summary;
    let expected = "since 20s: its predecessor failed, and probes have still to show how it is";
    assert!(summary.ends_with(expected), "{summary}");
}

#[test]
fn the_last_probe_is_told_beside_what_opened_it_and_rests_are_bounded() {
    let failed = v1::Trip {
        trip_time: at(998.0),
        reason: "probe failed: connect refused".into(),
        ..Default::default()
    };
    let probed =
        v1::Breaker { last_failed_probe: Some(failed), port_checked: true, trip_streak: 9, ..open() };
    let told = |row: v1::Breaker| {
        let node = explain(facts(), [word("dp-1", row)]).nodes.remove(0);
        (node.summary, node.until)
    };
    let reason = "open: consecutive_failures 5 >= 5: connect refused; last probe 2.0s ago: connect refused";
    let until = |most: &str| {
        format!(
            "the probe that is due in 3.2s, or as soon as its port accepts, which is checked every second, succeeds, and 1 more; \
             if it fails, it rests for up to {most}"
        )
    };
    // A minute, and a fifth.
    assert_eq!(told(probed.clone()), (reason.into(), until("72s")));
    assert_eq!(told(v1::Breaker { nobody_else: true, ..probed }), (reason.into(), until("1.2s")));
}

#[test]
fn where_traffic_spills_over_a_worse_tier_does_not_wait_for_every_better_one() {
    let balancing = policy::Balancing { overprovisioning_factor: 1.4, ..Default::default() };
    let facts = Facts { balancing, ..with(|replica| replica.priority = 1) };
    let told = explain(facts, [word("dp-1", v1::Breaker { stands_by: true, ..closed(0, 0) })]);
    assert_eq!(
        told.summary,
        "stands by: with priority 1 it is asked when too little of the better tiers is left, by \
         balancing.overprovisioning_factor 1.4, or they have failed the request"
    );
}

#[test]
fn each_data_plane_says_what_it_does_why_and_what_ends_that() {
    let half_open = v1::Breaker {
        probe_success_count: 1,
        inflight_count: 1,
        ..v1::Breaker { state: State::HalfOpen.into(), ..open() }
    };
    let old = v1::Breaker { incarnation: 2, ..closed(5, 0) };
    let behind = Word { acked_revision: 5, ..word("dp-5", old) };
    let refusing = Word { state: v1::NodeState::Nacked, ..word("dp-6", None) };
    let told = explain(
        facts(),
        [
            word("dp-1", open()),
            word("dp-2", half_open),
            word("dp-3", forced_row(State::ForcedOpen, v1::OverrideKind::BreakerOpen)),
            word("dp-4", closed(12, 1)),
            behind,
            refusing,
            silent("dp-7", closed(1, 0)),
            word("dp-8", None),
        ],
    );
    let lines: Vec<_> = told
        .nodes
        .iter()
        .map(|node| (node.node_id.as_str(), node.standing(), node.summary.as_str(), node.until.as_str()))
        .collect();
    let reason = "consecutive_failures 5 >= 5: connect refused";
    assert_eq!(
        lines,
        [
            (
                "dp-1",
                Standing::Rests,
                format!("open: {reason}").as_str(),
                "the probe that is due in 3.2s succeeds, and 1 more; if it fails, it rests for up to 4.8s"
            ),
            (
                "dp-2",
                Standing::Probes,
                format!("half-open: {reason}").as_str(),
                "the probe under way succeeds; if it fails, it rests for up to 4.8s"
            ),
            (
                "dp-3",
                Standing::ForcedOpen,
                "forced open by ana: bad deploy",
                "the override ends in 15m; then probes decide"
            ),
            (
                "dp-5",
                Standing::Untold,
                "does not know this registration yet: it has revision 5, and this is of 7",
                "its next report"
            ),
            (
                "dp-6",
                Standing::Untold,
                "refuses the registry's snapshot, so it does not know the replica",
                ""
            ),
            ("dp-8", Standing::Untold, "has reported nothing of it yet", "its next report"),
            ("dp-7", Standing::Silent, "not heard of for 1m; it said last: closed", ""),
            ("dp-4", Standing::Asks, "closed, 1 of 12 failed in the window", ""),
        ]
    );
}

#[test]
fn thousands_of_data_planes_are_counted_and_only_the_worst_are_told_of() {
    let words = (0..5000).map(|number| {
        let id = format!("dp-{number:04}");
        match number % 50 {
            0 => word(&id, open()),
            1 => word(&id, None),
            2 => silent(&id, open()),
            _ => word(&id, closed(20, 0)),
        }
    });
    let told = explain(facts(), words);
    assert_eq!(told.nodes.len(), MAX_SHOWN);
    assert!(told.nodes.iter().all(|node| node.standing() == Standing::Rests));
    let expected = v1::NodeCounts {
        total: 5000,
        asking: 4700,
        out: 100,
        untold: 100,
        silent: 100,
        failing: 100,
        working: 4700,
        without_evidence: 100,
        ..Default::default()
    };
    assert_eq!(told.node_counts, Some(expected));
    assert!(
        told.summary.starts_with("out on 100 of 4800 data planes since 12s: the way from dp-0000, dp-0050, dp-0100 and 97 more to it is bad"),
        "{}",
        told.summary
    );
    assert!(told.summary.len() < 600, "{}", told.summary);
}

#[test]
fn one_data_plane_can_be_asked_for_and_the_conclusion_rests_on_all() {
    let mut all = Explanation::new(facts(), MAX_SHOWN, Some("dp-2"));
    [word("dp-1", open()), word("dp-2", closed(5, 0))].into_iter().for_each(|word| all.add(word));
    let told = all.finish();
    assert_eq!(told.nodes.iter().map(|node| node.node_id.as_str()).collect::<Vec<_>>(), ["dp-2"]);
    assert_eq!((told.conclusion(), told.node_counts.unwrap().total), (Conclusion::Path, 2));
}

#[test]
fn a_service_is_summed_up_from_its_replicas() {
    let of = |words: &[Vec<Word>]| {
        let mut all = ServiceExplanation::new("orders", 9, now());
        for (number, words) in words.iter().enumerate() {
            let facts = Facts { replica_id: format!("r-{number}"), ..facts() };
            all.add(explain(facts, words.clone()));
        }
        all.finish()
    };
    let well = vec![word("dp-1", closed(5, 0))];
    let out = vec![word("dp-1", open())];
    let partly = vec![word("dp-1", open()), word("dp-2", closed(5, 0))];
    let standing_by = vec![word("dp-1", v1::Breaker { stands_by: true, ..closed(0, 0) })];
    for (replicas, summary) in [
        (vec![], "not served: it has no replica"),
        (vec![well.clone()], "served: its only replica takes requests everywhere"),
        (vec![well.clone(), well.clone()], "served: all 2 replicas take requests everywhere"),
        (vec![well.clone(), out.clone()], "served by 1 of 2 replicas everywhere; 1 out"),
        (
            vec![partly, standing_by, well],
            "served by 1 of 3 replicas everywhere; 1 out on some data planes, 1 standing by",
        ),
        (vec![out.clone(), out.clone()], "not served: 2 out"),
        (vec![vec![]], "not served: 1 not known to any data plane"),
    ] {
        assert_eq!(of(&replicas).summary, summary);
    }
    let mut panics = ServiceExplanation::new("orders", 7, facts().now);
    panics.fails_open_on(2);
    assert_eq!(
        panics.finish().summary,
        "not served: it has no replica; PANIC: too few let traffic through on 2 data planes, which ask those with open \
         breakers, or failing checks, too"
    );
    let many = of(&vec![out; 500]);
    assert_eq!((many.replicas.len(), many.out_count), (MAX_SHOWN, 500));
    assert_eq!(many.next_steps[0].command, "gwctl explain orders/r-0");
}

prop_compose! {
    fn any_row()(
        state in 0..=6_i32,
        counts in prop::array::uniform3(0..100_i64),
        flags in any::<(bool, bool)>(),
        incarnation in 2..=4_i64,
        times in prop::option::of(0.0..2000.0),
    ) -> v1::Breaker {
        v1::Breaker {
            state,
            window_request_count: counts[0],
            window_failure_count: counts[1],
            consecutive_failure_count: counts[2] as i32,
            asked_regardless: flags.0,
            stands_by: flags.1,
            incarnation,
            retry_time: times.and_then(at),
            ..Default::default()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_data_planes_say_every_one_is_counted_once_and_the_answer_is_bounded(
        rows in prop::collection::vec((prop::option::of(any_row()), any::<bool>()), 0..200),
        health in 0..=6_i32,
        mode in 0..=4_i32,
    ) {
        let words = rows.iter().enumerate().map(|(number, (row, is_silent))| Word {
            is_silent: *is_silent,
            ..word(&format!("dp-{number}"), row.clone())
        });
        let told = explain(with(|replica| { replica.health = health; replica.mode = mode; }), words);
        let counts = told.node_counts.unwrap();
        let standing = counts.asking + counts.out + counts.standing_by + counts.held_back + counts.untold + counts.silent;
        prop_assert_eq!((standing, counts.total), (counts.total, rows.len() as i32));
        prop_assert_eq!(counts.failing + counts.working + counts.without_evidence + counts.silent, counts.total);
        prop_assert_eq!(told.nodes.len(), rows.len().min(MAX_SHOWN));
        prop_assert!(told.verdict() != Verdict::Unspecified && !told.summary.is_empty());
        prop_assert!(!told.next_steps.is_empty());
        let is_sorted = told.nodes.is_sorted_by(|one, next| rank(one) <= rank(next));
        prop_assert!(is_sorted);
    }
}
