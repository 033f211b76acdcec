//! Registrations, and what replicas report of themselves.

use gateway_proto::{Protocol, Weight};

use super::*;
use crate::registry::{LeaseTerms, Quota, Registrant};

#[test]
fn a_new_replica_gets_an_id_a_lease_and_an_incarnation() {
    let mut registry = Registry::default();
    let (record, created) = registry.register(&leased(1));
    assert!(created);
    assert_eq!(record.key.replica.as_str(), "r-baaaaaaa");
    assert_eq!((record.revision, record.incarnation), (1, 1));
    assert_eq!(record.lease, Some(LeaseTerms::new(LeaseId::from_random(1), Duration::from_secs(15))));
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
    wish.endpoint.address = Address::parse("10.0.0.1:2").unwrap();
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
    let mut encrypted = heavier;
    encrypted.endpoint.protocol = Protocol::tls(None);
    let (changed, created) = registry.register(&encrypted);
    assert_eq!((changed.revision, created), (3, false), "it is the same address");
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
fn a_service_that_is_full_takes_replacements_and_nothing_else() {
    let mut registry = Registry::default();
    for port in 1..=3 {
        registry.register(&leased(port));
    }
    let refused = registry.run(&Command::Register(leased(4))).unwrap_err();
    assert_eq!(
        refused,
        RegistryError::QuotaExceeded { service: ServiceName::parse("orders").ok(), of: "replicas", limit: 3 }
    );
    assert!(!registry.register(&leased(3)).1);
}

/// A permanent replica of a service, of somebody who may have two replicas in one service.
fn of_ci(service: &str, port: u16) -> Registration {
    let quota = Some(Quota { replicas: Some(2), services: Some(1) });
    let service = ServiceName::parse(service).unwrap();
    Registration {
        registrant: Registrant { name: "ci".into(), quota },
        ..Registration::permanent(service, address(port))
    }
}

fn refused_to_ci(registry: &mut Registry, service: &str, port: u16) -> Option<&'static str> {
    match registry.run(&Command::Register(of_ci(service, port))) {
        Ok(_) => None,
        Err(RegistryError::IdentityQuota { of, .. }) => Some(of),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn who_has_as_much_as_he_may_have_registers_nothing_more_and_what_he_has_again() {
    let mut registry = Registry::default();
    let (first, _) = registry.register(&of_ci("orders", 1));
    assert_eq!(&*first.registered_by, "ci");
    assert_eq!(refused_to_ci(&mut registry, "carts", 9), Some("services"));
    registry.register(&of_ci("orders", 2));
    assert_eq!(refused_to_ci(&mut registry, "orders", 3), Some("replicas"));
    // What somebody else has is not his, and what he has he may change.
    registry.register(&permanent(4));
    let heavier = Registration { weight: Weight::parse(7).unwrap(), ..of_ci("orders", 1) };
    assert!(!registry.register(&heavier).1);
    // What was nobody's he may take over: there is no more than before. It counts as his.
    let taken = Registration { weight: Weight::parse(7).unwrap(), ..of_ci("orders", 4) };
    assert_eq!(&*registry.register(&taken).0.registered_by, "ci");
    assert_eq!(registry.view.held_by("ci").map(|held| (held.replicas(), held.services())), Some((3, 1)));
}

#[test]
fn what_another_has_is_taken_over_only_by_who_may_have_one_more() {
    let mut registry = Registry::default();
    let by = |name: &str, port| {
        let wish = of_ci("orders", port);
        let registrant = Registrant { name: name.into(), ..wish.registrant };
        Registration { registrant, ttl: Some(15 * SECOND), ..wish }
    };
    for (name, port) in [("ci", 1), ("ci", 2), ("cd", 3)] {
        registry.register(&by(name, port));
    }
    let refused = RegistryError::IdentityQuota { name: "ci".into(), of: "replicas", count: 2, limit: 2 };
    assert_eq!(registry.run(&Command::Register(by("ci", 3))), Err(refused.clone()));
    // Neither under its own id, nor as one that comes to the address of a lost one.
    let third = Arc::clone(registry.view.replicas().find(|record| &*record.registered_by == "cd").unwrap());
    registry.replica(&hold(&third));
    let other = Registration { replica: Some(ReplicaId::parse("other").unwrap()), ..by("ci", 3) };
    assert_eq!(registry.run(&Command::Register(other)), Err(refused.clone()));
    // Who has room takes it, and then there is room where it was taken.
    assert!(!registry.register(&by("cd", 1)).1);
    assert!(!registry.register(&by("ci", 3)).1);
    assert_eq!(registry.run(&Command::Register(by("ci", 1))), Err(refused));
}

#[test]
fn what_somebody_removes_loses_or_gives_to_another_he_may_register_anew() {
    let mut registry = Registry::default();
    let (first, _) = registry.register(&of_ci("orders", 1));
    let (second, _) = registry.register(&Registration { ttl: Some(15 * SECOND), ..of_ci("orders", 2) });
    assert_eq!(refused_to_ci(&mut registry, "orders", 3), Some("replicas"));
    registry.run(&deregister(&first.key, Proof::None)).unwrap();
    assert_eq!(refused_to_ci(&mut registry, "orders", 3), None);
    registry.run(&expire(&second)).unwrap();
    assert_eq!(refused_to_ci(&mut registry, "orders", 1), None);
    registry.register(&leased(1));
    registry.register(&leased(3));
    assert_eq!(registry.view.held_by("ci"), None);
    assert_eq!(refused_to_ci(&mut registry, "carts", 1), None, "in another service, too");
    // A restart finds the same.
    let restored = View::new(registry.view.revision(), registry.view.items());
    assert_eq!(restored.held_by("ci"), registry.view.held_by("ci"));
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
