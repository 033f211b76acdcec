//! Requests that name themselves: a repetition is told what the first one was told.

use super::*;
use crate::registry::RequestMark;

/// A registration of an unnamed replica by a request that names itself.
fn request(id: u128, port: u16) -> Registration {
    Registration { request: Some(id), ..leased(port) }
}

fn register(wish: &Registration) -> Command {
    Command::Register(wish.clone())
}

#[test]
fn a_repeated_request_is_given_its_first_answer_with_its_lease() {
    let mut registry = Registry::default();
    let (first, created) = registry.register(&request(7, 1));
    let (again, still_created) = registry.register(&request(7, 1));
    assert_eq!((&again, still_created), (&first, created));
    assert!(created);
    assert_eq!(registry.view.revision(), 1);
    // Of a replica that was there before, too.
    let (second, created) = registry.register(&request(8, 1));
    assert!(!created && second.lease != first.lease);
    assert_eq!(registry.register(&request(8, 1)), (second, false));
}

#[test]
fn the_first_answer_shows_the_replica_as_it_is_by_now() {
    let mut registry = Registry::default();
    let (first, _) = registry.register(&request(7, 1));
    registry.run(&report(&first, Health::Degraded)).unwrap();
    let (again, created) = registry.register(&request(7, 1));
    assert_eq!((again.health, again.lease, created), (Health::Degraded, first.lease, true));
}

#[test]
fn a_request_id_with_any_other_field_is_refused() {
    let mut registry = Registry::default();
    let (first, _) = registry.register(&request(7, 1));
    let elsewhere = ServiceName::parse("carts").unwrap();
    for other in [
        Registration { weight: gateway_proto::Weight::parse(7).unwrap(), ..request(7, 1) },
        Registration { ttl: None, ..request(7, 1) },
        Registration { health: Health::Starting, ..request(7, 1) },
        Registration { version: "2".into(), ..request(7, 1) },
        Registration { endpoint: address(2).into(), ..request(7, 1) },
        Registration { replica: Some(ReplicaId::parse("mine").unwrap()), ..request(7, 2) },
        Registration { service: elsewhere, ..request(7, 1) },
    ] {
        let refused = registry.run(&register(&other));
        assert_eq!(refused, Err(RegistryError::RequestIdReused(first.key.clone())), "{other:?}");
    }
    assert_eq!(registry.view.revision(), 1);
}

#[test]
fn a_request_whose_replica_was_removed_is_told_so_and_brings_nothing_back() {
    let mut registry = Registry::default();
    let (first, _) = registry.register(&request(7, 1));
    registry.run(&deregister(&first.key, Proof::Force)).unwrap();
    let why = "deregistered by an operator: going home".to_owned();
    let gone = Err(RegistryError::ReplicaRemoved { key: first.key.clone(), why });
    assert_eq!(registry.run(&register(&request(7, 1))), gone);
    let other = registry.run(&register(&Registration { ttl: None, ..request(7, 1) }));
    assert_eq!(other, Err(RegistryError::RequestIdReused(first.key.clone())));
    // Longer than late heartbeats are told so, and when another replica has the address by now, too.
    registry.wait(60 * SECOND);
    registry.register(&named("other", 1));
    assert_eq!(registry.run(&register(&request(7, 1))), gone);
    assert_eq!(registry.view.replica_count(), 1);
}

#[test]
fn a_request_is_forgotten_after_ten_minutes() {
    let mut registry = Registry::default();
    let (first, _) = registry.register(&request(7, 1));
    registry.wait(598 * SECOND);
    assert_eq!(registry.register(&request(7, 1)).0, first, "a second before that");
    let (second, created) = registry.register(&request(7, 1));
    assert!(!created && second.lease != first.lease);
    registry.run(&deregister(&first.key, Proof::Force)).unwrap();
    registry.wait(600 * SECOND);
    assert!(registry.register(&request(7, 1)).1);
}

#[test]
fn a_request_that_comes_again_late_does_not_throw_out_who_registered_since() {
    for later in [request(8, 1), leased(1)] {
        let mut registry = Registry::default();
        let (first, _) = registry.register(&request(7, 1));
        registry.run(&report(&first, Health::Degraded)).unwrap();
        let (second, _) = registry.register(&later);
        let late = registry.run(&register(&request(7, 1)));
        assert!(matches!(late, Err(RegistryError::ReplicaRemoved { .. })), "{late:?}");
        assert_eq!(registry.view.get(&first.key).and_then(|record| record.lease), second.lease);
        registry.wait(600 * SECOND);
        assert!(!registry.register(&request(7, 1)).1, "it is a new request by then");
    }
}

#[test]
fn a_restart_knows_requests_again() {
    let mut registry = Registry::default();
    let (first, _) = registry.register(&request(7, 1));
    registry.view = View::new(registry.view.revision(), registry.view.items());
    assert_eq!(registry.register(&request(7, 1)), (first, true));
}

#[test]
fn of_two_replicas_with_one_old_request_the_later_one_is_known_by_it() {
    let mut registry = Registry::default();
    let (first, _) = registry.register(&request(7, 1));
    registry.wait(600 * SECOND);
    let (second, _) = registry.register(&request(7, 2));
    registry.run(&deregister(&first.key, Proof::Force)).unwrap();
    assert_eq!(registry.register(&request(7, 2)), (second, true));
}

#[test]
fn a_request_is_young_for_ten_minutes_and_no_longer() {
    let mark = RequestMark { id: 1, fingerprint: 2, at: UNIX_EPOCH + SECOND, created: true };
    assert!(mark.is_fresh(UNIX_EPOCH), "the clock went back");
    assert!(mark.is_fresh(UNIX_EPOCH + 600 * SECOND) && !mark.is_fresh(UNIX_EPOCH + 601 * SECOND));
}

#[test]
fn a_request_is_remembered_whatever_becomes_of_its_replica_s_id_later() {
    let mut registry = Registry::default();
    let mine = |id: Option<u128>| Registration { request: id, ..named("mine", 1) };
    let (first, _) = registry.register(&mine(Some(7)));
    for id in [Some(8), None] {
        registry.run(&deregister(&first.key, Proof::Force)).unwrap();
        registry.register(&mine(id));
    }
    registry.run(&deregister(&first.key, Proof::Force)).unwrap();
    for id in [7, 8] {
        let gone = registry.run(&register(&mine(Some(id))));
        assert!(matches!(gone, Err(RegistryError::ReplicaRemoved { .. })), "{gone:?}");
    }
}
