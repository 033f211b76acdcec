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
