//! Services that have lost their last replica.

use super::*;
use crate::table::departed::{REMEMBERED, WITH_AN_ANSWER};

fn named(name: &str, policy: Policy) -> ServiceSpec {
    ServiceSpec { name: ServiceName::parse(name).unwrap(), policy, replicas: vec![replica("a")] }
}

fn leaves(table: &Table, name: &str, now: Tick) {
    table.apply(&[], &[ServiceName::parse(name).unwrap()], now);
}

#[test]
fn a_service_whose_last_replica_left_has_nobody_and_keeps_its_policy_for_a_while() {
    let (table, _) = Table::new(1);
    let policy = by(Algorithm::Random);
    let policy = Policy { balancing: policy, ..Policy::default() };
    table.apply(&[named("orders", policy)], &[], START);
    leaves(&table, "orders", after(1000));

    assert!(
        table.service("orders").is_none() && !table.services().contains_key("orders"),
        "it is not registered"
    );
    let last = after(1000).plus(REMEMBERED - Duration::from_nanos(1));
    let service = table.service_or_departed(0, "orders", last).expect("it is remembered");
    assert_eq!(service.policy().balancing, policy.balancing);
    assert_eq!(service.pick(0, last, &[], Draw::default()).unwrap_err(), Unavailable::NoneReady);
    assert!(table.service_or_departed(0, "orders", after(1000).plus(REMEMBERED)).is_none(), "and forgotten");
    assert!(table.service_or_departed(0, "payments", last).is_none(), "nobody ever had that");
}

#[test]
fn a_service_is_remembered_for_as_long_as_its_fallback_may_answer() {
    let minute = Duration::from_secs(60);
    let by = |change: fn(&mut Policy)| {
        let mut policy = Policy::default();
        change(&mut policy);
        policy
    };
    for (policy, lasts) in [
        (by(|policy| policy.fallback.stale_max_age = Duration::from_secs(3600)), 60 * minute),
        (by(|policy| policy.fallback.stale_max_age = Duration::from_secs(60)), REMEMBERED),
        (by(|policy| policy.fallback.static_status = 200), WITH_AN_ANSWER),
        (by(|policy| policy.fallback.service = "archive".parse().unwrap()), WITH_AN_ANSWER),
    ] {
        let (table, _) = Table::new(1);
        table.apply(&[named("orders", policy)], &[], START);
        leaves(&table, "orders", START);
        let is_remembered = |now| table.service_or_departed(0, "orders", now).is_some();
        assert!(is_remembered(START.plus(lasts - Duration::from_nanos(1))), "{lasts:?}");
        assert!(!is_remembered(START.plus(lasts)), "{lasts:?}");
    }
}

#[test]
fn who_comes_under_a_forgotten_name_is_another_service() {
    let (table, service, _) = table_of(&["a"]);
    let back = |at: Tick| {
        leaves(&table, "orders", START);
        table.apply(&[orders([replica("b")])], &[], at);
        table.service("orders").expect("it is registered")
    };
    assert_eq!(back(after(1)).id(), service.id());
    let other = back(START.plus(REMEMBERED));
    assert_ne!(other.id(), service.id());
    assert_eq!(other.attempts().attempts, 0);
}

#[test]
fn a_service_that_comes_back_goes_on_counting_where_it_stood() {
    let (table, service, _) = table_of(&["a"]);
    let picked = service.pick(0, START, &[], Draw::default()).unwrap();
    service.settle(0, &picked.replica, picked.permit, Outcome::Success, START, 0.0);
    leaves(&table, "orders", START);
    table.apply(&[orders([replica("b")])], &[], after(1));

    let back = table.service("orders").expect("it is registered");
    assert_eq!(asked(&back, after(1), 1), ["b"]);
    assert!(back.attempts().attempts > 1, "{:?}", back.attempts());
    leaves(&table, "orders", after(2));
    assert!(table.service_or_departed(0, "orders", after(3)).is_some(), "it may leave again");
}

#[test]
fn of_very_many_that_leave_the_latest_are_remembered() {
    let (table, _) = Table::new(1);
    for number in 0..1001 {
        let name = format!("s{number}");
        table.apply(&[named(&name, Policy::default())], &[], after(number));
        leaves(&table, &name, after(number));
    }
    let now = after(2000);
    assert!(table.service_or_departed(0, "s0", now).is_none());
    assert!(
        table.service_or_departed(0, "s1", now).is_some()
            && table.service_or_departed(0, "s1000", now).is_some()
    );
}

#[test]
fn a_replica_that_fails_after_every_start_is_no_better_for_leaving_in_order() {
    let (table, service, _) = table_of(&["a", "b"]);
    trip(&service, START, "a");
    let anew = |incarnation| ReplicaSpec { incarnation, ..replica("a") };
    let mut now = START;
    for (incarnation, rest) in [(2, 2), (3, 4), (4, 8)] {
        table.apply(&[orders([replica("b")])], &[], now.plus(Duration::from_millis(100)));
        now = now.plus(Duration::from_secs(2));
        table.apply(&[orders([anew(incarnation), replica("b")])], &[], now);
        assert_eq!(ask(&service, now, Outcome::Failure(Fault::Reset)), "a", "the next request is its probe");
        let view = service.replicas()[0].breaker_view(now, &service.policy().breaker);
        assert_eq!((view.state, view.until), (State::Open, Some(now.plus(Duration::from_secs(rest)))));
    }
    // Also when it was the last one, and the service left with it.
    leaves(&table, "orders", now);
    table.apply(&[orders([anew(5)])], &[], after(20_000));
    let service = table.service("orders").unwrap();
    assert_eq!(state_of(&service, after(20_000), "a"), State::Open);
}

#[test]
fn who_left_well_or_long_ago_comes_back_as_new() {
    let (table, service, _) = table_of(&["a", "b"]);
    let back = |now| {
        table.apply(&[orders([replica("b")])], &[], START);
        table.apply(&[orders([replica("a"), replica("b")])], &[], now);
        let view = service.replicas()[0].breaker_view(now, &service.policy().breaker);
        (view.state, view.streak)
    };
    assert_eq!(back(after(1)), (State::Closed, 0));
    trip(&service, START, "a");
    assert_eq!(back(START.plus(REMEMBERED)), (State::Closed, 0));
}
