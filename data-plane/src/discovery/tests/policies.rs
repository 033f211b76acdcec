//! Whose policy a service uses: its own, or the default one.

use std::time::Duration;

use gateway_proto::{Policy, time::duration};

use super::*;

/// A policy that is known by one of its values.
fn policy(per_try_secs: u64, revision: i64) -> v1::Policy {
    let per_try = Some(duration(Duration::from_secs(per_try_secs)));
    let timeout = Some(v1::TimeoutPolicy { per_try, ..Default::default() });
    v1::Policy { timeout, revision, ..Default::default() }
}

/// Revision 5: `orders` with a policy of its own, `users` without one, under a default of seven seconds.
fn begun() -> Snapshot {
    let own = v1::ServiceSnapshot { policy: Some(policy(3, 4)), ..service("orders", vec![]) };
    let full = v1::FullSnapshot {
        services: vec![own, service("users", vec![replica("users", "r-1", 1)])],
        default_policy: Some(policy(7, 2)),
        last_part: true,
        ..Default::default()
    };
    let mut held = Snapshot::default();
    let received = Assembly::default().receive(&mut held, message("e", 5, Update::Full(full)));
    assert_eq!(received, applied(5, &["orders", "users"]));
    held
}

fn per_try(held: &Snapshot) -> Vec<u64> {
    held.services().map(|spec| spec.policy.timeout.per_try.as_secs()).collect()
}

fn change(held: &mut Snapshot, changes: v1::Delta) -> Received {
    let revision = held.revision();
    Assembly::default().receive(held, delta(revision, revision + 1, changes))
}

#[test]
fn a_choice_that_only_newer_control_planes_know_is_left_at_its_default_and_stops_no_update() {
    let mut held = begun();
    let newer = v1::Policy {
        balancing: Some(v1::BalancingPolicy { algorithm: Some(99), ..Default::default() }),
        health_check: Some(v1::HealthCheckPolicy { r#type: Some(99), ..Default::default() }),
        concurrency: Some(v1::ConcurrencyPolicy { adaptive: Some(99), ..Default::default() }),
        ..policy(4, 6)
    };
    let changes = v1::Delta {
        upsert_services: vec![v1::ServiceSnapshot { policy: Some(newer), ..service("orders", vec![]) }],
        upsert_replicas: vec![replica("users", "r-2", 2)],
        ..Default::default()
    };
    assert_eq!(change(&mut held, changes), applied(6, &["orders", "users"]));
    let orders = held.service(&ServiceName::parse("orders").unwrap()).unwrap();
    let mut expected = Policy::default();
    expected.timeout.per_try = Duration::from_secs(4);
    assert_eq!(orders.policy, expected);
}

#[test]
fn a_field_that_only_newer_control_planes_know_is_passed_over() {
    use prost::Message;
    // Field 1000 of a policy, a number, behind what this version knows.
    let mut bytes = policy(4, 6).encode_to_vec();
    bytes.extend([0xc0, 0x3e, 0x07]);
    let newer = v1::Policy::decode(&bytes[..]).unwrap();
    assert_eq!(newer, policy(4, 6));
}

#[test]
fn a_value_out_of_its_range_refuses_the_update_and_names_the_setting() {
    let mut held = begun();
    let wrong = v1::Policy {
        breaker: Some(v1::BreakerPolicy { failure_ratio: Some(7.0), ..Default::default() }),
        ..Default::default()
    };
    let changes = v1::Delta {
        upsert_services: vec![v1::ServiceSnapshot { policy: Some(wrong), ..service("orders", vec![]) }],
        ..Default::default()
    };
    let Received::Refused(refusal) = change(&mut held, changes) else { panic!("it was taken") };
    assert_eq!(refusal.reason(), "INVALID_RESOURCE");
    assert!(refusal.to_string().contains("policy.breaker.failure_ratio"), "{refusal}");
    assert_eq!((held.revision(), per_try(&held)), (5, vec![3, 7]), "the last good one stays");
}

#[test]
fn a_service_uses_its_own_policy_or_else_the_default_one() {
    assert_eq!(per_try(&begun()), [3, 7]);
}

#[test]
fn a_change_of_the_default_policy_changes_every_service_that_follows_it_and_no_other() {
    let mut held = begun();
    let changes = v1::Delta { default_policy: Some(policy(8, 6)), ..Default::default() };
    assert_eq!(change(&mut held, changes), applied(6, &["users"]));
    assert_eq!(per_try(&held), [3, 8]);
    assert_eq!(held.default_policy().timeout.per_try, Duration::from_secs(8));

    // A service that comes later follows it, too.
    let upsert_services = vec![service("carts", vec![])];
    change(&mut held, v1::Delta { upsert_services, ..Default::default() });
    assert_eq!(per_try(&held), [8, 3, 8]);
}

#[test]
fn a_service_may_get_a_policy_of_its_own_and_lose_it_again() {
    let mut held = begun();
    let own = v1::ServiceSnapshot { policy: Some(policy(1, 6)), ..service("users", vec![]) };
    let upsert_services = vec![own, service("orders", vec![])];
    let received = change(&mut held, v1::Delta { upsert_services, ..Default::default() });
    assert_eq!(received, applied(6, &["orders", "users"]));
    assert_eq!(per_try(&held), [7, 1]);
    assert_eq!(ids(&held, "users").unwrap(), ["r-1"], "its replicas are as they were");
}

#[test]
fn one_delta_may_bring_a_default_policy_a_service_and_its_replicas() {
    let mut held = begun();
    let changes = v1::Delta {
        default_policy: Some(policy(9, 6)),
        upsert_services: vec![service("carts", vec![])],
        upsert_replicas: vec![replica("carts", "r-1", 2), replica("users", "r-2", 3)],
        ..Default::default()
    };
    assert_eq!(change(&mut held, changes), applied(6, &["carts", "users"]));
    assert_eq!(per_try(&held), [9, 3, 9]);
    assert_eq!(ids(&held, "users").unwrap(), ["r-1", "r-2"]);
}

#[test]
fn without_a_default_policy_the_documented_defaults_hold() {
    let mut held = begun();
    let received = Assembly::default().receive(&mut held, full(6, vec![service("users", vec![])]));
    assert_eq!(received, applied(6, &["orders", "users"]));
    assert_eq!(held.default_policy(), Policy::default());
    assert_eq!(per_try(&held), [Policy::default().timeout.per_try.as_secs()]);
}

#[test]
fn policies_survive_the_wire_form_with_their_revisions() {
    let held = begun();
    let mut copy = Snapshot::default();
    let copied = message(held.epoch(), held.revision(), Update::Full(held.to_wire()));
    Assembly::default().receive(&mut copy, copied);
    assert_eq!(copy, held);
}

#[test]
fn a_default_policy_that_is_not_valid_spoils_the_update() {
    let guard = v1::GuardPolicy { max_removal_ratio: Some(30.0), ..Default::default() };
    let wrong = || Some(v1::Policy { guard: Some(guard), ..Default::default() });
    let text =
        "the default policy: policy.guard.max_removal_ratio: 30 is not in 0.0..=1.0 (did you mean 0.3?)";
    for message in [
        delta(5, 6, v1::Delta { default_policy: wrong(), ..Default::default() }),
        message("e", 6, Update::Full(v1::FullSnapshot { default_policy: wrong(), ..Default::default() })),
    ] {
        let mut held = begun();
        let received = Assembly::default().receive(&mut held, message);
        assert_eq!(received, Received::Refused(crate::discovery::Refusal::InvalidResource(text.into())));
        assert_eq!(held, begun());
    }
}
