use std::time::{Duration, UNIX_EPOCH};

use gateway_proto::{Address, Health, ReplicaId, ServiceName, Weight};

use super::*;
use crate::registry::{Committed, EventKind, LeaseTerms, Proof, Registration, Said, Target};

const LIMITS: Limits = Limits { replicas: 100, replicas_per_service: 3 };

/// A registry whose store never fails.
#[derive(Default)]
struct Registry {
    view: View,
    drawn: u64,
}

impl Registry {
    fn run(&mut self, command: &Command) -> Result<Answer, RegistryError> {
        self.drawn += 1;
        let fresh = Candidates::from_random(self.drawn, self.drawn.into());
        let at = UNIX_EPOCH + Duration::from_secs(self.drawn);
        match decide(&self.view, &LIMITS, command, &fresh, at)? {
            Decision::Nothing(answer) => Ok(answer),
            Decision::Commit(mutation) => {
                let revision = self.view.revision() + 1;
                let answer = mutation.answer(revision);
                self.view.apply(Committed { revision, mutation });
                Ok(answer)
            }
        }
    }

    fn register(&mut self, wish: &Registration) -> (Arc<Record>, bool) {
        match self.run(&Command::Register(wish.clone())).unwrap() {
            Answer::Registered { record, created } => (record, created),
            other => panic!("{other:?}"),
        }
    }
}

fn leased(port: u16) -> Registration {
    let mut wish = permanent(port);
    wish.ttl = Some(Duration::from_secs(15));
    wish
}

fn permanent(port: u16) -> Registration {
    let address = Address::parse(&format!("10.0.0.1:{port}")).unwrap();
    Registration::permanent(ServiceName::parse("orders").unwrap(), address)
}

fn deregister(key: &ReplicaKey, proof: Proof) -> Command {
    let said = Said::because("going home");
    Command::Deregister { target: Target::Key(key.clone()), proof, said, block: None }
}

fn lease_of(record: &Record) -> LeaseId {
    record.lease.unwrap().id
}

#[test]
fn a_new_replica_gets_an_id_a_lease_and_an_incarnation() {
    let mut registry = Registry::default();
    let (record, created) = registry.register(&leased(1));
    assert!(created);
    assert_eq!(record.key.replica.as_str(), "r-baaaaaaa");
    assert_eq!((record.revision, record.incarnation), (1, 1));
    assert_eq!(record.lease, Some(LeaseTerms { id: LeaseId::from_random(1), ttl: Duration::from_secs(15) }));
}

#[test]
fn the_same_address_without_an_id_is_the_same_replica_under_a_new_lease() {
    let mut registry = Registry::default();
    let (first, _) = registry.register(&leased(1));
    let (second, created) = registry.register(&leased(1));
    assert!(!created);
    assert_eq!(second.key, first.key);
    assert_ne!(second.lease, first.lease);
    assert!(second.incarnation > first.incarnation);
    assert_eq!(second.created_at, first.created_at);
}

#[test]
fn a_second_owner_of_an_address_is_refused_by_name() {
    let mut registry = Registry::default();
    let (first, _) = registry.register(&leased(1));
    let mut other = leased(1);
    other.replica = Some(ReplicaId::parse("mine").unwrap());
    let refused = registry.run(&Command::Register(other)).unwrap_err();
    let RegistryError::AddressInUse { owner, .. } = refused else { panic!("{refused:?}") };
    assert_eq!(owner, first.key.replica);
    assert_eq!(registry.view.revision(), 1);
}

#[test]
fn a_replica_that_moves_frees_its_old_address() {
    let mut registry = Registry::default();
    let mut wish = leased(1);
    wish.replica = Some(ReplicaId::parse("mine").unwrap());
    registry.register(&wish);
    wish.address = Address::parse("10.0.0.1:2").unwrap();
    registry.register(&wish);
    let (other, created) = registry.register(&leased(1));
    assert!(created);
    assert_ne!(other.key.replica.as_str(), "mine");
}

#[test]
fn a_permanent_replica_that_says_the_same_again_changes_nothing() {
    let mut registry = Registry::default();
    let (first, _) = registry.register(&permanent(1));
    let (again, created) = registry.register(&permanent(1));
    assert_eq!((again, created), (first, false));
    assert_eq!(registry.view.revision(), 1);
    let mut heavier = permanent(1);
    heavier.weight = Weight::parse(200).unwrap();
    let (changed, created) = registry.register(&heavier);
    assert_eq!((changed.revision, created), (2, false));
}

#[test]
fn an_incarnation_grows_across_removal() {
    let mut registry = Registry::default();
    let (first, _) = registry.register(&leased(1));
    registry.run(&deregister(&first.key, Proof::Force)).unwrap();
    let mut wish = leased(1);
    wish.replica = Some(first.key.replica.clone());
    let (second, created) = registry.register(&wish);
    assert!(created);
    assert!(second.incarnation > first.incarnation);
}

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
fn a_service_that_is_full_takes_replacements_and_nothing_else() {
    let mut registry = Registry::default();
    for port in 1..=3 {
        registry.register(&leased(port));
    }
    let refused = registry.run(&Command::Register(leased(4))).unwrap_err();
    assert_eq!(
        refused,
        RegistryError::QuotaExceeded { what: "service orders".into(), of: "replicas", limit: 3 }
    );
    assert!(!registry.register(&leased(3)).1);
}

#[test]
fn health_changes_by_the_owner_and_an_unchanged_report_costs_no_revision() {
    let mut registry = Registry::default();
    let (record, _) = registry.register(&leased(1));
    let report = |lease, health, reason: &str| Command::ReportHealth {
        key: record.key.clone(),
        lease,
        health,
        reason: reason.into(),
    };
    let owner = Some(lease_of(&record));
    let Ok(Answer::Replica(now)) = registry.run(&report(owner, Health::Degraded, "disk")) else {
        panic!("refused")
    };
    assert_eq!((now.health, &*now.health_reason, now.revision), (Health::Degraded, "disk", 2));
    assert_eq!(now.incarnation, record.incarnation);
    registry.run(&report(owner, Health::Degraded, "disk")).unwrap();
    assert_eq!(registry.view.revision(), 2);
    // Another reason for the same health keeps the time since when it holds.
    let Ok(Answer::Replica(later)) = registry.run(&report(owner, Health::Degraded, "net")) else {
        panic!("refused")
    };
    assert_eq!((later.revision, later.health_since), (3, now.health_since));
    let stranger = registry.run(&report(Some(LeaseId::from_random(99)), Health::Healthy, ""));
    assert_eq!(stranger, Err(RegistryError::LeaseMismatch(record.key.clone())));
    let nobody = registry.run(&report(None, Health::Healthy, ""));
    assert_eq!(nobody, Err(RegistryError::LeaseRequired(record.key.clone())));
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
