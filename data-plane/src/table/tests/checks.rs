//! What active checks have to do with who is asked.

use std::sync::Arc;

use gateway_proto::policy::{CheckMethod, CheckType, HealthCheck};

use super::*;
use crate::health::check;

/// Checked by TCP: out after two failures, back after one pass.
fn checked(change: impl FnOnce(&mut Policy)) -> ServiceSpec {
    let mut policy = Policy::default();
    policy.health_check = HealthCheck { rise: 1, fall: 2, ..policy.health_check };
    change(&mut policy);
    ServiceSpec { policy, ..orders(["a", "b", "c"].map(replica)) }
}

fn check(service: &Service, id: &str, now: Tick, failure: Option<&str>) -> Option<CheckChange> {
    let failure = failure.map(Arc::from);
    let result = check::Result { method: CheckMethod::Tcp, began: now, ended: now, failure };
    service.checked(&ReplicaId::parse(id).unwrap(), 1, result, now)
}

fn fail(service: &Service, id: &str, now: Tick, times: usize) {
    (0..times).for_each(|_| {
        check(service, id, now, Some("connect refused"));
    });
}

fn who(service: &Service, now: Tick) -> Vec<String> {
    let mut asked = asked(service, now, 12);
    asked.sort_unstable();
    asked.dedup();
    asked
}

#[test]
fn a_replica_that_fails_its_checks_gets_no_new_requests_until_it_passes_them() {
    let (_table, service) = table_with(&checked(|_| {}), 1);
    assert_eq!(check(&service, "b", START, None).unwrap().turn.to, check::Verdict::Passing);
    assert_eq!(check(&service, "b", START, Some("connect refused")), None);
    assert_eq!(who(&service, START), ["a", "b", "c"]);
    let change = check(&service, "b", after(5), Some("connect refused")).unwrap();
    assert_eq!((change.turn.streak, change.turn.counts), (2, true));
    assert_eq!(who(&service, after(5)), ["a", "c"]);
    let back = check(&service, "b", after(65), None).unwrap();
    assert_eq!((back.lasted, back.turn.counts), (Duration::from_millis(60), true));
    assert_eq!(who(&service, after(65)), ["a", "b", "c"]);
}

#[test]
fn a_first_failed_check_decides_alone() {
    let (_table, service) = table_with(&checked(|_| {}), 1);
    fail(&service, "a", START, 1);
    assert_eq!(who(&service, START), ["b", "c"]);
}

#[test]
fn when_nobody_passes_all_are_asked_and_that_is_told() {
    let (table, service) = table_with(&checked(|_| {}), 1);
    ["a", "b", "c"].iter().for_each(|id| fail(&service, id, START, 1));
    assert_eq!(who(&service, START), ["a", "b", "c"]);
    let began = FailOpen { letting_through: 0, total: 3, tier: Priority::default() };
    assert_eq!(service.fail_open(), Some(began));
    let one = service.replica(&ReplicaId::parse("a").unwrap()).unwrap();
    assert!(service.asks_regardless(&one));
    check(&service, "a", after(1), None);
    assert_eq!((who(&service, after(1)), service.fail_open()), (vec!["a".to_owned()], None));
    let told: Vec<_> = table.take_fail_open_changes(9).into_iter().map(|change| change.began).collect();
    assert_eq!(told, [Some(began), None]);
}

#[test]
fn when_nobody_passes_one_whose_breaker_is_open_rests_all_the_same_and_is_not_said_to_be_asked() {
    let (_table, service) = table_with(&checked(|_| {}), 1);
    ["a", "b", "c"].iter().for_each(|id| fail(&service, id, START, 1));
    trip(&service, START, "a");
    assert_eq!(who(&service, START), ["b", "c"]);
    let asks_regardless =
        |id: &str| service.asks_regardless(&service.replica(&ReplicaId::parse(id).unwrap()).unwrap());
    assert!(!asks_regardless("a") && asks_regardless("b"));
}

#[test]
fn below_the_policy_s_share_those_that_fail_are_asked_too() {
    let (_table, service) = table_with(&checked(|policy| policy.breaker.fail_open_threshold = 0.5), 1);
    fail(&service, "a", START, 1);
    assert_eq!(who(&service, START), ["b", "c"]);
    fail(&service, "b", START, 1);
    assert_eq!(who(&service, START), ["a", "b", "c"]);
    assert!(service.fail_open().is_some());
}

#[test]
fn a_worse_tier_is_asked_before_anybody_who_fails() {
    let mut spec = checked(|_| {});
    spec.replicas[2].priority = Priority::parse(1).unwrap();
    let (_table, service) = table_with(&spec, 1);
    assert_eq!(who(&service, START), ["a", "b"]);
    ["a", "b"].iter().for_each(|id| fail(&service, id, START, 1));
    assert_eq!(who(&service, START), ["c"]);
}

#[test]
fn a_policy_that_only_observes_or_does_not_check_takes_nobody_out() {
    let (table, service) = table_with(&checked(|policy| policy.health_check.observe_only = true), 1);
    fail(&service, "a", START, 5);
    assert_eq!(who(&service, START), ["a", "b", "c"]);
    // What they have shown is known, and counts as soon as the policy says so.
    table.apply(&[checked(|_| {})], &[], START);
    assert_eq!(who(&service, START), ["b", "c"]);
    table.apply(&[checked(|policy| policy.health_check.r#type = CheckType::Off)], &[], START);
    assert_eq!(who(&service, START), ["a", "b", "c"]);
    table.apply(&[checked(|_| {})], &[], START);
    assert_eq!(who(&service, START), ["a", "b", "c"], "what was known has been forgotten");
}

#[test]
fn what_checks_have_shown_survives_snapshots_and_ends_with_the_registration() {
    let (table, service) = table_with(&checked(|_| {}), 1);
    fail(&service, "a", START, 1);
    let mut spec = checked(|policy| policy.timeout.connect = Duration::from_millis(5));
    spec.replicas[0].weight = Weight::parse(90).unwrap();
    table.apply(&[spec.clone()], &[], START);
    assert_eq!(who(&service, START), ["b", "c"]);
    spec.replicas[0].incarnation = 2;
    table.apply(&[spec.clone()], &[], START);
    assert_eq!(who(&service, START), ["a", "b", "c"]);
    // A check of its predecessor that ends late says nothing of it.
    fail(&service, "a", START, 3);
    assert_eq!(who(&service, START), ["a", "b", "c"]);
    // Nor is one that drains checked, so it comes back unknown.
    spec.replicas[1].mode = Mode::Draining;
    table.apply(&[spec.clone()], &[], START);
    fail(&service, "b", START, 3);
    spec.replicas[1].mode = Mode::Serving;
    table.apply(&[spec], &[], START);
    assert_eq!(who(&service, START), ["a", "b", "c"]);
}

#[test]
fn a_replica_that_joins_may_have_to_pass_a_check_first_and_is_in_no_denominator_until_then() {
    let waiting = |policy: &mut Policy| {
        policy.health_check.wait_for_first = true;
        policy.breaker.fail_open_threshold = 0.6;
    };
    let mut spec = checked(waiting);
    let joining = spec.replicas.split_off(1);
    let (table, service) = table_with(&spec, 1);
    assert_eq!(who(&service, START), ["a"], "it was found, and has not joined");
    spec.replicas.extend(joining);
    table.apply(&[spec], &[], START);
    assert_eq!((who(&service, START), service.fail_open()), (vec!["a".to_owned()], None));
    check(&service, "b", START, None);
    assert_eq!(who(&service, START), ["a", "b"]);
    fail(&service, "c", START, 1);
    assert_eq!(who(&service, START), ["a", "b"], "two of three let traffic through");
    // Failing open asks those that fail, and never those that wait.
    fail(&service, "a", START, 2);
    assert_eq!(who(&service, START), ["a", "b", "c"]);
}

#[test]
fn a_replica_that_comes_back_starts_slowly() {
    let spec = checked(|policy| policy.balancing.slow_start = Duration::from_secs(10));
    let (_table, service) = table_with(&spec, 1);
    fail(&service, "a", START, 1);
    check(&service, "a", after(1000), None);
    let shares = shares_of(&service, after(1000), 0..210);
    assert_eq!(shares["a"], 10, "{shares:?}");
}

#[test]
fn passing_checks_close_an_open_breaker_only_where_the_policy_says_so() {
    let (_table, service) = table_with(&checked(|_| {}), 1);
    trip(&service, START, "a");
    (0..9).for_each(|_| drop(check(&service, "a", START, None)));
    assert_eq!(state_of(&service, START, "a"), State::Open);
    let closing =
        checked(|policy| (policy.health_check.closes_breaker, policy.health_check.rise) = (true, 2));
    let (_table, service) = table_with(&closing, 1);
    trip(&service, START, "a");
    check(&service, "a", START, None);
    assert_eq!(state_of(&service, START, "a"), State::Open);
    check(&service, "a", START, None);
    assert_eq!((state_of(&service, START, "a"), who(&service, START).len()), (State::Closed, 3));
    // Failing checks count for no breaker.
    fail(&service, "a", START, 9);
    assert_eq!(state_of(&service, START, "a"), State::Closed);
}
