//! What operators' orders do to requests, and what is told of them.

use super::*;
use crate::routing::{Kind, Reason};

fn forced(state: ForcedState, id: &str) -> ReplicaSpec {
    let entry = v1::OverrideEntry { override_id: "o-1".into(), author: "alice".into(), ..Default::default() };
    ReplicaSpec { forced: Some(Forced { state, entry: Arc::new(entry) }), ..replica(id) }
}

fn reset(revision: i64, id: &str) -> ReplicaSpec {
    let entry = v1::OverrideEntry { revision, ..Default::default() };
    ReplicaSpec { reset: Some(Arc::new(entry)), ..replica(id) }
}

/// From, to and why of everything that was told.
fn told(transitions: &mut mpsc::Receiver<Transition>) -> Vec<(State, State, Reason)> {
    std::iter::from_fn(|| transitions.try_recv().ok())
        .map(|told| (told.change.from, told.change.to, told.change.reason))
        .collect()
}

#[test]
fn a_replica_that_is_forced_open_is_neither_asked_nor_probed() {
    let (table, service, mut transitions) = table_of(&["a", "b", "c"]);
    let under_way = service.pick(0, START, &[], Draw::default()).unwrap();
    table.apply(&[orders([forced(ForcedState::Open, "a"), replica("b"), replica("c")])], &[], START);
    assert_eq!(asked(&service, after(3_600_000), 4), ["b", "c", "b", "c"]);
    let untried = service.has_untried(START, &[]);
    assert!(untried && state_of(&service, START, "a") == State::ForcedOpen);
    service.settle(0, &under_way.replica, under_way.permit, Outcome::Success, START, 0.5);
    let transition = transitions.try_recv().unwrap();
    assert_eq!(transition.key.to_string(), "orders/a");
    assert_eq!(transition.order.unwrap().author, "alice");
    assert_eq!((transition.change.from, transition.change.to), (State::Closed, State::ForcedOpen));
}

#[test]
fn a_reset_is_recorded_among_the_outcomes() {
    let (table, service, _transitions) = table_of(&["a"]);
    table.record_outcomes(8);
    ask(&service, START, Outcome::Failure(Fault::Reset));
    table.apply(&[orders([reset(1, "a")])], &[], after(10));
    let kinds: Vec<_> = service.replicas()[0].recorded().iter().map(|recorded| recorded.kind).collect();
    assert_eq!(kinds, [Kind::Failure, Kind::Reset]);
}

#[test]
fn a_replica_that_is_forced_closed_is_asked_whatever_it_does() {
    let (table, service, mut transitions) = table_of(&["a", "b"]);
    trip(&service, START, "b");
    table.apply(&[orders([replica("a"), forced(ForcedState::Closed, "b")])], &[], START);
    for _ in 0..50 {
        ask(&service, START, Outcome::Failure(Fault::Reset));
        ask(&service, START, Outcome::Success);
    }
    assert_eq!(state_of(&service, START, "b"), State::ForcedClosed);
    let replicas = service.replicas();
    assert!(replicas[1].counters().attempts >= 50);
    let steps: Vec<_> = told(&mut transitions).into_iter().map(|step| step.1).collect();
    assert_eq!(steps[..2], [State::Open, State::ForcedClosed]);
}

#[test]
fn a_forced_state_survives_snapshots_policies_and_incarnations_until_it_is_handed_back() {
    let (table, service, mut transitions) = table_of(&["a", "b"]);
    let held = forced(ForcedState::Open, "b");
    table.apply(&[orders([replica("a"), held.clone()])], &[], START);
    let heavier = ReplicaSpec { weight: Weight::parse(7).unwrap(), incarnation: 2, ..held };
    let mut changed = orders([replica("a"), heavier, replica("c")]);
    changed.policy.breaker.consecutive_failure_count = 1;
    table.apply(&[changed], &[], START);
    assert_eq!(state_of(&service, START, "b"), State::ForcedOpen);

    table.apply(&[orders([replica("a"), ReplicaSpec { incarnation: 2, ..replica("b") }])], &[], after(10));
    assert_eq!(state_of(&service, after(10), "b"), State::HalfOpen);
    let probe = service.pick(0, after(10), &[], Draw::default()).unwrap();
    assert_eq!((probe.replica.key().replica.as_str(), probe.permit.is_probe()), ("b", true));
    let expected = [
        (State::Closed, State::ForcedOpen, Reason::Forced),
        (State::ForcedOpen, State::HalfOpen, Reason::Released),
    ];
    assert_eq!(told(&mut transitions), expected, "each is told once");
}

#[test]
fn a_replica_is_new_and_forced_from_its_first_request_on() {
    let (table, service, mut transitions) = table_of(&["a"]);
    table.apply(&[orders([replica("a"), forced(ForcedState::Open, "b")])], &[], START);
    assert_eq!(asked(&service, START, 3), ["a"; 3]);
    assert_eq!(told(&mut transitions), [(State::Closed, State::ForcedOpen, Reason::Forced)]);
}

#[test]
fn with_all_forced_open_the_answer_says_so() {
    let (table, service, _) = table_of(&[]);
    table.apply(&[orders(["a", "b"].map(|id| forced(ForcedState::Open, id)))], &[], START);
    assert_eq!(
        service.pick(0, START, &[], Draw::default()).unwrap_err(),
        Unavailable::AllForcedOpen { count: 2 }
    );
    assert!(!service.has_untried(START, &[]));

    table.apply(&[orders([forced(ForcedState::Open, "a"), replica("b")])], &[], START);
    for _ in 0..2 {
        ask(&service, START, Outcome::Success);
    }
    let open_b = service.pick(0, START, &[], Draw::default());
    drop(open_b);
    trip(&service, START, "b");
    let refused = service.pick(0, START, &[], Draw::default()).unwrap_err();
    assert_eq!(refused, Unavailable::AllOpen { resting: 2, retry_at: after(1000) });
}

#[test]
fn a_reset_is_obeyed_once_for_each_larger_revision() {
    let (table, service, mut transitions) = table_of(&["a", "b"]);
    trip(&service, START, "b");
    table.apply(&[orders([replica("a"), reset(5, "b")])], &[], START);
    assert_eq!(state_of(&service, START, "b"), State::Closed);
    trip(&service, START, "b");
    // The same order again, beside another change; its end; an older one that shows again; and the same once more.
    let heavier = ReplicaSpec { weight: Weight::parse(7).unwrap(), ..reset(5, "b") };
    for spec in [heavier, replica("b"), reset(3, "b"), reset(5, "b")] {
        table.apply(&[orders([replica("a"), spec])], &[], START);
        assert_eq!(state_of(&service, START, "b"), State::Open);
    }
    table.apply(&[orders([replica("a"), reset(9, "b")])], &[], START);
    assert_eq!(state_of(&service, START, "b"), State::Closed);
    let resets = told(&mut transitions).into_iter().filter(|(.., reason)| *reason == Reason::Reset);
    assert_eq!(resets.count(), 2);
}

#[test]
fn a_reset_of_a_registry_that_begins_anew_is_obeyed() {
    let (table, service, _) = table_of(&["a"]);
    let at = |revision, seconds| {
        let create_time = Some(prost_types::Timestamp { seconds, nanos: 0 });
        let entry = v1::OverrideEntry { revision, create_time, ..Default::default() };
        ReplicaSpec { reset: Some(Arc::new(entry)), ..replica("a") }
    };
    table.apply(&[orders([at(500, 100)])], &[], START);
    trip(&service, START, "a");
    table.apply(&[orders([at(2, 200)])], &[], START);
    assert_eq!(state_of(&service, START, "a"), State::Closed);
}

#[test]
fn what_a_replica_did_not_live_through_is_no_reset_of_it() {
    let (table, service, mut transitions) = table_of(&[]);
    table.apply(&[orders([reset(5, "a")])], &[], START);
    trip(&service, START, "a");
    assert!(told(&mut transitions).iter().all(|(.., reason)| *reason != Reason::Reset));
}

#[test]
fn a_reset_together_with_the_hand_over_closes() {
    let (table, service, mut transitions) = table_of(&[]);
    table.apply(&[orders([forced(ForcedState::Open, "a")])], &[], START);
    table.apply(&[orders([reset(5, "a")])], &[], START);
    assert_eq!(state_of(&service, START, "a"), State::Closed);
    let reasons: Vec<_> = told(&mut transitions).into_iter().map(|(.., reason)| reason).collect();
    assert_eq!(reasons, [Reason::Forced, Reason::Released, Reason::Reset]);
}
