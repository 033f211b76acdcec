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
    let target = Target::Address(record.key.service.clone(), record.address.clone());
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

