//! Removals: who may, what late callers are told, and how replicas are kept out.

use super::*;
use crate::registry::EventKind;

#[test]
fn a_stale_lease_cannot_remove_its_successor() {
    let mut registry = Registry::default();
    let (first, _) = registry.register(&leased(1));
    let (second, _) = registry.register(&leased(1));
    let late = registry.run(&deregister(&first.key, Proof::Lease(lease_of(&first))));
    assert_eq!(late, Err(RegistryError::LeaseMismatch(first.key.clone())));
    let expire = Command::Expire {
        key: first.key.clone(),
        lease: lease_of(&first),
        silent_for: Duration::from_secs(16),
    };
    assert_eq!(registry.run(&expire), Ok(Answer::Expired { removed: false }));
    assert_eq!(registry.view.get(&first.key), Some(&second));
}

#[test]
fn a_stale_lease_neither_removes_a_permanent_successor_nor_reports_for_it() {
    let mut registry = Registry::default();
    let (leased, _) = registry.register(&leased(1));
    let (permanent, created) = registry.register(&permanent(1));
    assert_eq!((created, permanent.lease), (false, None));
    let mismatch = Err(RegistryError::LeaseMismatch(leased.key.clone()));
    assert_eq!(registry.run(&deregister(&leased.key, Proof::Lease(lease_of(&leased)))), mismatch);
    assert_eq!(registry.run(&report(&leased, Health::Unhealthy)), mismatch);
    assert_eq!(registry.view.get(&leased.key), Some(&permanent));
}

#[test]
fn a_leased_replica_is_removed_by_its_lease_or_by_force_only() {
    let mut registry = Registry::default();
    let (record, _) = registry.register(&leased(1));
    let without = registry.run(&deregister(&record.key, Proof::None));
    assert_eq!(without, Err(RegistryError::LeaseRequired(record.key.clone())));
    let owner = registry.run(&deregister(&record.key, Proof::Lease(lease_of(&record))));
    assert_eq!(owner, Ok(Answer::Deregistered { removed: true, revision: 2 }));
    let (record, _) = registry.register(&leased(1));
    let operator = registry.run(&deregister(&record.key, Proof::Force));
    assert_eq!(operator, Ok(Answer::Deregistered { removed: true, revision: 4 }));
}

#[test]
fn removing_what_is_absent_is_success_without_a_revision() {
    let mut registry = Registry::default();
    let key = ReplicaKey::parse("orders", "nobody").unwrap();
    let answer = registry.run(&deregister(&key, Proof::None));
    assert_eq!(answer, Ok(Answer::Deregistered { removed: false, revision: 0 }));
}

#[test]
fn a_permanent_replica_needs_no_proof_and_can_be_named_by_its_address() {
    let mut registry = Registry::default();
    let (record, _) = registry.register(&permanent(1));
    let target = Target::Address(record.key.service.clone(), record.endpoint.address.clone());
    let command = Command::Deregister { target, proof: Proof::None, said: Said::default(), block: None };
    assert_eq!(registry.run(&command), Ok(Answer::Deregistered { removed: true, revision: 2 }));
    assert_eq!(registry.view.services().len(), 0);
}

#[test]
fn an_expired_lease_is_told_with_its_numbers() {
    let mut registry = Registry::default();
    let (record, _) = registry.register(&leased(1));
    let command = Command::Expire {
        key: record.key.clone(),
        lease: lease_of(&record),
        silent_for: Duration::from_millis(15_240),
    };
    let fresh = Candidates::from_random(9, 9);
    let Ok(Decision::Commit(mutation)) = decide(&registry.view, &LIMITS, &command, &fresh, UNIX_EPOCH) else {
        panic!("an owner's lapsed lease removes its replica")
    };
    let applied = registry.view.apply(Committed { revision: 2, mutation });
    let event = &applied.events[0];
    assert_eq!(event.message, "no heartbeat for 15.2s, ttl 15s");
    assert_eq!((event.kind, event.removed()), (EventKind::LeaseExpired, Some(record.key.clone())));
    assert_eq!(applied.changes[0].as_replica().unwrap().record, None);
}
#[test]
fn a_health_report_for_what_is_gone_says_whether_to_register_again() {
    let mut registry = Registry::default();
    let key = ReplicaKey::parse("orders", "gone").unwrap();
    let report = |lease| Command::ReportHealth {
        key: key.clone(),
        lease,
        health: Health::Healthy,
        reason: String::new(),
    };
    let with = registry.run(&report(Some(LeaseId::from_random(1))));
    assert_eq!(with, Err(RegistryError::LeaseExpired(key.clone())));
    assert_eq!(registry.run(&report(None)), Err(RegistryError::ReplicaNotFound(key.clone())));
}

fn late_heartbeat(registry: &Registry, record: &Record) -> RegistryError {
    why_lease_is_void(&registry.view, &record.key, lease_of(record), registry.next_at())
}

#[test]
fn an_owner_that_comes_late_is_told_who_removed_it_and_why() {
    let mut registry = Registry::default();
    let (record, _) = registry.register(&leased(1));
    let operator = Command::Deregister {
        target: Target::Key(record.key.clone()),
        proof: Proof::Force,
        said: said("ana", "bad deploy"),
        block: None,
    };
    registry.run(&operator).unwrap();
    let why = "deregistered by ana: bad deploy".to_owned();
    let removed = RegistryError::ReplicaRemoved { key: record.key.clone(), why };
    assert_eq!(late_heartbeat(&registry, &record), removed);
    assert_eq!(registry.run(&report(&record, Health::Healthy)), Err(removed));
    assert_eq!(registry.view.replica_count(), 0, "nothing comes back by itself");
}

#[test]
fn a_removal_is_remembered_for_twice_the_time_to_live() {
    let mut registry = Registry::default();
    let (record, _) = registry.register(&leased(1));
    registry.run(&deregister(&record.key, Proof::Force)).unwrap();
    registry.wait(28 * SECOND);
    assert!(matches!(late_heartbeat(&registry, &record), RegistryError::ReplicaRemoved { .. }));
    registry.wait(SECOND);
    assert_eq!(late_heartbeat(&registry, &record), RegistryError::LeaseExpired(record.key.clone()));
}

#[test]
fn an_owner_whose_lease_lapsed_is_told_to_register_again() {
    let mut registry = Registry::default();
    let (record, _) = registry.register(&leased(1));
    let lapsed = RegistryError::LeaseExpired(record.key.clone());
    assert_eq!(late_heartbeat(&registry, &record), lapsed, "before it is removed");
    registry.run(&expire(&record)).unwrap();
    assert_eq!(late_heartbeat(&registry, &record), lapsed, "and after");
}

#[test]
fn an_owner_that_was_replaced_is_told_so_whatever_became_of_its_id_before() {
    let mut registry = Registry::default();
    let (first, _) = registry.register(&named("one", 1));
    registry.run(&deregister(&first.key, Proof::Force)).unwrap();
    registry.register(&named("one", 1));
    assert_eq!(late_heartbeat(&registry, &first), RegistryError::LeaseMismatch(first.key.clone()));
}

#[test]
fn a_removal_is_told_of_the_last_registration_only() {
    let mut registry = Registry::default();
    let (first, _) = registry.register(&named("one", 1));
    let (second, _) = registry.register(&named("one", 1));
    registry.run(&deregister(&first.key, Proof::Force)).unwrap();
    assert!(matches!(late_heartbeat(&registry, &second), RegistryError::ReplicaRemoved { .. }));
    assert_eq!(late_heartbeat(&registry, &first), RegistryError::LeaseExpired(first.key.clone()));
}

#[test]
fn a_blocked_replica_registers_neither_under_its_id_nor_at_its_address() {
    let mut registry = Registry::default();
    let (record, _) = registry.register(&named("one", 1));
    assert_eq!(
        registry.run(&block(&record.key, 60 * SECOND)),
        Ok(Answer::Deregistered { removed: true, revision: 2 })
    );
    let told: Vec<_> = registry.events.iter().map(|event| event.kind.name()).collect();
    assert_eq!(told, ["REPLICA_DEREGISTERED", "OVERRIDE_SET"]);
    let refused = |what: &str, secs: u64| {
        let (remaining, by) = (Duration::from_secs(secs), "ana: bad deploy".to_owned());
        Err(RegistryError::RegistrationBlocked { what: what.into(), remaining, by })
    };
    assert_eq!(registry.run(&Command::Register(named("one", 2))), refused("orders/one", 59));
    assert_eq!(registry.run(&Command::Register(leased(1))), refused("10.0.0.1:1 in orders", 58));
    assert_eq!(registry.run(&Command::Register(named("two", 1))), refused("10.0.0.1:1 in orders", 57));
    // Others, and the same elsewhere, are not concerned; neither are services whose names begin alike.
    assert!(registry.register(&named("two", 2)).1);
    for service in ["carts", "order", "orders-eu"] {
        let service = ServiceName::parse(service).unwrap();
        assert!(registry.register(&Registration { service, ..named("one", 1) }).1);
    }
    registry.wait(51 * SECOND);
    assert_eq!(registry.run(&Command::Register(named("one", 1))), refused("orders/one", 1));
    assert!(registry.register(&named("one", 1)).1, "its time is over, also where nobody has ended it yet");
}

#[test]
fn a_block_ends_by_an_operators_word() {
    let mut registry = Registry::default();
    let (record, _) = registry.register(&named("one", 1));
    registry.run(&block(&record.key, 60 * SECOND)).unwrap();
    let id = registry.view.overrides().next().unwrap().id();
    registry.run(&Command::EndOverride { id, by: Ok(said("ana", "")) }).unwrap();
    assert!(registry.register(&named("one", 1)).1);
}

#[test]
fn a_replica_that_is_away_at_the_moment_is_blocked_all_the_same() {
    let mut registry = Registry::default();
    let key = ReplicaKey::parse("orders", "one").unwrap();
    assert_eq!(
        registry.run(&block(&key, 60 * SECOND)),
        Ok(Answer::Deregistered { removed: false, revision: 1 })
    );
    let refused = registry.run(&Command::Register(named("one", 1)));
    assert!(matches!(refused, Err(RegistryError::RegistrationBlocked { .. })), "{refused:?}");
    assert!(registry.register(&named("two", 1)).1, "no address of it is known");
}

#[test]
fn a_block_is_nothing_to_data_planes() {
    let mut registry = Registry::default();
    let (record, _) = registry.register(&named("one", 1));
    registry.run(&block(&record.key, 60 * SECOND)).unwrap();
    let entry = registry.view.overrides().next().unwrap();
    assert!(!entry.is_published() && !crate::registry::Override::is_id_published(&entry.id()));
}
