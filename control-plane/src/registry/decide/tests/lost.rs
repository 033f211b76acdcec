//! Replicas whose lease lapsed: removed, held as LOST, heard of again, or replaced.

use gateway_proto::{Mode, v1::RemovalCause};

use super::*;
use crate::registry::{Holding, Quota, Registrant};

fn recover(record: &Record) -> Command {
    Command::Recover { key: record.key.clone(), lease: lease_of(record) }
}

/// A registry with one lost replica.
fn with_a_lost_one() -> (Registry, Arc<Record>) {
    let mut registry = Registry::default();
    let (record, _) = registry.register(&named("old", 1));
    let lost = registry.replica(&hold(&record));
    (registry, lost)
}

#[test]
fn a_held_replica_is_lost_keeps_what_it_reported_and_is_not_ready() {
    let (registry, lost) = with_a_lost_one();
    assert_eq!((lost.shown_health(), lost.health), (Health::Lost, Health::Healthy));
    assert!(!lost.is_ready());
    assert_eq!(registry.view.lost().collect::<Vec<_>>(), [&lost]);
    assert_eq!((lost.revision, lost.incarnation, lost.lost.as_ref().unwrap().incarnation), (2, 1, 1));
    let wire = lost.to_wire();
    assert_eq!(wire.reported_health(), gateway_proto::v1::HealthStatus::Healthy);
    assert_eq!(wire.health(), gateway_proto::v1::HealthStatus::Lost);
    let message = "no heartbeat for 15.0s, like too many others of the service: held, still routable";
    assert_eq!(registry.told(), [("REPLICA_LOST", "registry", message)]);
}

#[test]
fn a_lost_replica_that_renews_is_found_and_each_step_happens_once() {
    let (mut registry, lost) = with_a_lost_one();
    assert_eq!(registry.replica(&hold(&lost)), lost);
    let found = registry.replica(&recover(&lost));
    assert_eq!((&found.lost, found.shown_health()), (&None, Health::Healthy));
    assert_eq!(registry.told(), [("REPLICA_FOUND", "owner", "renewed its lease after it was lost")]);
    assert_eq!(registry.replica(&recover(&found)), found);
    assert_eq!((registry.view.revision(), registry.view.lost().count()), (3, 0));
}

#[test]
fn what_a_lost_replica_reports_is_kept_for_when_it_is_found() {
    let (mut registry, lost) = with_a_lost_one();
    let reported = registry.replica(&report(&lost, Health::Degraded));
    assert_eq!((reported.shown_health(), &reported.lost), (Health::Lost, &lost.lost));
    assert_eq!(registry.replica(&recover(&lost)).shown_health(), Health::Degraded);
}

#[test]
fn a_lease_that_is_void_by_now_neither_holds_nor_finds_nor_removes_anybody() {
    let mut registry = Registry::default();
    let (first, _) = registry.register(&leased(1));
    let (second, _) = registry.register(&leased(1));
    assert_eq!(registry.run(&hold(&first)), Ok(Answer::Moot));
    assert_eq!(registry.run(&recover(&first)), Ok(Answer::Moot));
    assert_eq!(registry.run(&expire(&first)), Ok(Answer::Expired { removed: false }));
    assert_eq!((registry.now(&first), registry.view.revision()), (second, 2));
}

#[test]
fn a_registration_under_its_own_id_finds_a_lost_replica_and_is_none_more() {
    let (mut registry, lost) = with_a_lost_one();
    let (anew, created) = registry.register(&named("old", 1));
    assert!(!created);
    assert_eq!((&anew.lost, anew.first_incarnation), (&None, lost.first_incarnation));
    assert!(anew.incarnation > lost.incarnation && anew.lease != lost.lease);
}

#[test]
fn the_address_of_a_lost_replica_goes_to_who_registers_there_at_one_revision() {
    let (mut registry, lost) = with_a_lost_one();
    let fresh = Candidates::from_random(9, 9);
    let wish = Command::Register(named("new", 1));
    let decided = decide(&registry.view, &LIMITS, &wish, &fresh, UNIX_EPOCH);
    let Ok(Decision::Commit(mutation)) = decided else { panic!("{decided:?}") };
    let applied = registry.view.apply(Committed { revision: 3, mutation });
    let [gone, came] =
        applied.changes.iter().map(|change| change.as_replica().unwrap()).collect::<Vec<_>>()[..]
    else {
        panic!("{:?}", applied.changes)
    };
    assert_eq!((&gone.key, gone.removal, gone.revision), (&lost.key, RemovalCause::Deregistered, 3));
    let record = came.record.as_deref().unwrap();
    assert_eq!((record.key.replica.as_str(), came.revision, came.existed), ("new", 3, false));
    // It takes one's place, and is none more: the guard expects as many as before.
    assert_eq!(record.first_incarnation, lost.first_incarnation);
    let told: Vec<_> =
        applied.events.iter().map(|event| (event.kind.name(), event.message.as_str())).collect();
    assert_eq!(
        told,
        [
            ("REPLICA_REGISTERED", "registered at 10.0.0.1:1, lease of 15s"),
            ("REPLICA_DEREGISTERED", "was lost, and replica new registered at its address")
        ]
    );
    assert_eq!(registry.view.owner(&lost.key.service, &lost.endpoint.address).unwrap().as_str(), "new");
    // Its owner, should it be alive after all, is told who is there now.
    let why = why_lease_is_void(&registry.view, &lost.key, lease_of(&lost), UNIX_EPOCH);
    let expected = "replica new registered at its address".to_owned();
    assert_eq!(why, RegistryError::ReplicaRemoved { key: lost.key.clone(), why: expected });
}

#[test]
fn an_operators_drain_of_a_lost_replica_holds_for_who_takes_its_address_and_an_owners_does_not() {
    for (proof, mode) in [(None, Mode::Draining), (Some(()), Mode::Serving)] {
        for is_there_already in [false, true] {
            let mut registry = Registry::default();
            let (old, _) = registry.register(&named("old", 1));
            if is_there_already {
                registry.register(&named("new", 2));
            }
            let wish = DrainWish {
                key: old.key.clone(),
                proof: proof.map_or(Proof::Force, |()| Proof::Lease(lease_of(&old))),
                timeout: None,
                etag: String::new(),
                allow_last: true,
                said: said("ana", "disk"),
            };
            let drained = registry.replica(&Command::Drain(Box::new(wish)));
            registry.replica(&hold(&drained));
            let (new, created) = registry.register(&named("new", 1));
            assert_eq!((new.mode(), created), (mode, !is_there_already));
            if let Some(drain) = &new.drain {
                // What is in flight at the newcomer is known from here on.
                assert_eq!((&*drain.author, &*drain.reason, drain.revision), ("ana", "disk", new.revision));
            }
        }
    }
}

#[test]
fn who_takes_a_drained_and_lost_ones_address_has_as_long_as_the_operator_gave_from_then_on() {
    for (given, has) in [(30 * SECOND, 30 * SECOND), (Duration::ZERO, Duration::ZERO)] {
        let mut registry = Registry::default();
        let (old, _) = registry.register(&named("old", 1));
        registry.register(&named("new", 2));
        let wish = DrainWish {
            key: old.key.clone(),
            proof: Proof::Force,
            timeout: Some(given),
            etag: String::new(),
            allow_last: true,
            said: said("ana", "disk"),
        };
        let drained = registry.replica(&Command::Drain(Box::new(wish)));
        registry.replica(&hold(&drained));
        registry.wait(300 * SECOND);
        let at = registry.next_at();
        let (new, _) = registry.register(&named("new", 1));
        let drain = new.drain.as_deref().unwrap();
        assert_eq!((drain.begun, drain.deadline), (at, at + has));
    }
}

#[test]
fn a_full_service_takes_who_comes_in_the_place_of_a_lost_one() {
    let (mut registry, lost) = with_a_lost_one();
    for port in 2..=4 {
        assert!(registry.register(&named(&format!("n-{port}"), port)).1);
    }
    let refused = registry.run(&Command::Register(named("fifth", 5)));
    assert!(matches!(refused, Err(RegistryError::QuotaExceeded { limit: 3, .. })), "{refused:?}");
    // At its address it is one for one, whatever the limit says.
    assert!(registry.register(&named("fifth", 1)).1);
    assert_eq!((registry.view.replica_count(), registry.view.get(&lost.key)), (4, None));
}

#[test]
fn a_service_has_no_more_than_twice_its_limit_of_those_that_are_there_and_those_that_are_lost() {
    let mut registry = Registry::default();
    for port in 1..=5 {
        let (record, _) = registry.register(&named(&format!("n-{port}"), port));
        registry.replica(&hold(&record));
    }
    assert!(registry.register(&named("sixth", 6)).1);
    let refused = registry.run(&Command::Register(named("seventh", 7)));
    assert!(matches!(refused, Err(RegistryError::QuotaExceeded { limit: 3, .. })), "{refused:?}");
}

/// A leased replica of somebody who may have two.
fn of_ci(id: &str, port: u16) -> Registration {
    let quota = Some(Quota { replicas: Some(2), services: None });
    Registration { registrant: Registrant { name: "ci".into(), quota }, ..named(id, port) }
}

#[test]
fn who_comes_for_those_that_are_lost_is_taken_under_a_quota_that_they_had_used_up() {
    let mut registry = Registry::default();
    let (first, _) = registry.register(&of_ci("first", 1));
    let (second, _) = registry.register(&of_ci("second", 2));
    let third = Command::Register(of_ci("third", 3));
    assert!(matches!(registry.run(&third), Err(RegistryError::IdentityQuota { count: 2, limit: 2, .. })));
    let lost = registry.replica(&hold(&first));
    assert!(registry.register(&of_ci("third", 3)).1);
    let carts = ServiceName::parse("carts").unwrap();
    let another = Command::Register(Registration { service: carts, ..of_ci("another", 4) });
    assert!(matches!(registry.run(&another), Err(RegistryError::IdentityQuota { count: 2, limit: 2, .. })));
    // Who is heard of again is back, whoever has come.
    registry.replica(&recover(&lost));
    assert_eq!(registry.view.held_by("ci").map(Holding::replicas), Some(3));
    registry.replica(&hold(&registry.now(&first)));
    registry.replica(&hold(&registry.now(&second)));
    assert_eq!(registry.view.held_by("ci").map(Holding::replicas), Some(1));
    let restored = View::new(registry.view.revision(), registry.view.items());
    assert_eq!(restored.held_by("ci"), registry.view.held_by("ci"));
    for key in [&first.key, &second.key] {
        registry.run(&deregister(key, Proof::Force)).unwrap();
    }
    assert_eq!(registry.view.held_by("ci").map(Holding::replicas), Some(1));
}

#[test]
fn a_replica_that_moves_to_a_lost_ones_address_takes_its_place() {
    let (mut registry, lost) = with_a_lost_one();
    registry.register(&named("mover", 2));
    let (moved, created) = registry.register(&named("mover", 1));
    assert!(!created);
    assert_eq!((registry.view.get(&lost.key), registry.view.replica_count()), (None, 1));
    assert_eq!(registry.view.owner(&orders(), &address(1)), Some(&moved.key.replica));
    assert_eq!(registry.view.owner(&orders(), &address(2)), None);
}

#[test]
fn a_lost_replica_whose_lease_is_given_up_expires() {
    let (mut registry, lost) = with_a_lost_one();
    assert_eq!(registry.run(&expire(&lost)), Ok(Answer::Expired { removed: true }));
    assert_eq!((registry.view.replica_count(), registry.view.lost().count()), (0, 0));
}
