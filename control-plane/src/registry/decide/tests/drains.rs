//! Drains: who may ask, when they end, and what they outlast.

use gateway_proto::Mode;

use super::*;

/// An operator's wish to drain, with half a minute for what is in flight.
fn wish(record: &Record) -> DrainWish {
    DrainWish {
        key: record.key.clone(),
        proof: Proof::Force,
        timeout: Some(30 * SECOND),
        etag: String::new(),
        allow_last: true,
        said: said("ana", "kernel"),
    }
}

fn drain(record: &Record) -> Command {
    Command::Drain(Box::new(wish(record)))
}

fn drain_by_owner(record: &Record) -> Command {
    let proof = Proof::Lease(lease_of(record));
    Command::Drain(Box::new(DrainWish { proof, said: said("10.0.0.1:9", "bye"), ..wish(record) }))
}

fn undrain(record: &Record, etag: &str) -> Command {
    Command::Undrain {
        key: record.key.clone(),
        proof: Proof::Force,
        etag: etag.into(),
        said: said("ana", "done"),
    }
}

fn finish(record: &Record, is_idle: bool) -> Command {
    let begun = record.drain.as_deref().unwrap().begun;
    Command::FinishDrain { key: record.key.clone(), begun, is_idle }
}

/// A registry with two ready replicas.
fn two() -> (Registry, Arc<Record>, Arc<Record>) {
    let mut registry = Registry::default();
    let (first, _) = registry.register(&named("one", 1));
    let (second, _) = registry.register(&named("two", 2));
    (registry, first, second)
}

#[test]
fn a_drained_replica_keeps_its_lease_and_its_incarnation_and_is_not_ready() {
    let (mut registry, record, _) = two();
    let at = registry.next_at();
    let drained = registry.replica(&drain(&record));
    let drain = drained.drain.as_deref().unwrap();
    assert_eq!((drained.mode(), drained.is_ready()), (Mode::Draining, false));
    assert_eq!((drained.lease, drained.incarnation), (record.lease, record.incarnation));
    assert_eq!(
        (drain.begun, drain.deadline, drain.by_owner, drain.revision),
        (at, at + 30 * SECOND, false, 3)
    );
    let message = "gets no new requests; those in flight have 30s: kernel";
    assert_eq!(registry.told(), [("REPLICA_DRAINING", "ana", message)]);
}

#[test]
fn a_drain_without_a_time_has_the_policys() {
    let (mut registry, record, _) = two();
    let without = |record: &Record| Command::Drain(Box::new(DrainWish { timeout: None, ..wish(record) }));
    let at = registry.next_at();
    let drained = registry.replica(&without(&record));
    assert_eq!(drained.drain.as_deref().unwrap().deadline, at + 30 * SECOND, "the documented default");
    let change = gateway_proto::v1::Policy {
        drain_timeout: Some(gateway_proto::time::duration(5 * SECOND)),
        ..Default::default()
    };
    registry.run(&super::policies::update(Scope::All, change)).unwrap();
    let at = registry.next_at();
    let drained = registry.replica(&without(&record));
    assert_eq!(drained.drain.as_deref().unwrap().deadline, at + 5 * SECOND);
}

#[test]
fn a_repeated_drain_goes_on_with_the_new_deadline() {
    let (mut registry, record, _) = two();
    let first = registry.replica(&drain(&record));
    registry.wait(10 * SECOND);
    let at = registry.next_at();
    let second = registry.replica(&drain(&record));
    let (before, after) = (first.drain.as_deref().unwrap(), second.drain.as_deref().unwrap());
    assert_eq!((after.begun, after.revision), (before.begun, before.revision));
    assert_eq!(after.deadline, at + 30 * SECOND);
    assert_eq!(second.mode(), Mode::Draining);
}

#[test]
fn a_drain_that_is_over_is_not_begun_again() {
    let (mut registry, record, _) = two();
    let drained = registry.replica(&drain(&record));
    let over = registry.replica(&finish(&drained, true));
    assert_eq!(over.mode(), Mode::Drained);
    assert_eq!(registry.told(), [("REPLICA_DRAINED", "registry", "nothing is in flight any more")]);
    let revision = registry.view.revision();
    assert_eq!(registry.replica(&drain(&record)), over);
    assert_eq!(registry.view.revision(), revision);
}

#[test]
fn a_drain_ends_when_nothing_is_in_flight_or_at_its_deadline() {
    let (mut registry, record, _) = two();
    let drained = registry.replica(&drain(&record));
    assert_eq!(registry.run(&finish(&drained, false)), Ok(Answer::Moot), "its deadline has not come");
    registry.wait(30 * SECOND);
    assert_eq!(registry.replica(&finish(&drained, false)).mode(), Mode::Drained);
    assert_eq!(registry.told(), [("REPLICA_DRAINED", "registry", "its time to drain is over")]);
    assert_eq!(registry.run(&finish(&drained, false)), Ok(Answer::Moot), "once");
}

#[test]
fn a_deadline_that_was_moved_meanwhile_does_not_end_a_drain() {
    let (mut registry, record, _) = two();
    let drained = registry.replica(&drain(&record));
    registry.wait(40 * SECOND);
    let moved = registry.replica(&drain(&record));
    assert_eq!(registry.run(&finish(&drained, false)), Ok(Answer::Moot));
    assert_eq!(registry.now(&record), moved);
}

#[test]
fn what_was_to_end_an_earlier_drain_does_not_end_a_later_one() {
    let (mut registry, record, _) = two();
    let first = registry.replica(&drain(&record));
    registry.run(&undrain(&record, "")).unwrap();
    let second = registry.replica(&drain(&record));
    assert_eq!(registry.run(&finish(&first, true)), Ok(Answer::Moot));
    assert_eq!(registry.now(&record), second);
    let gone = Command::FinishDrain {
        key: ReplicaKey::parse("orders", "nobody").unwrap(),
        begun: UNIX_EPOCH,
        is_idle: true,
    };
    assert_eq!(registry.run(&gone), Ok(Answer::Moot));
}

#[test]
fn a_replica_that_changed_since_it_was_read_is_not_drained() {
    let (mut registry, record, _) = two();
    let etag = record.to_wire().etag;
    let with = |etag: &str| Command::Drain(Box::new(DrainWish { etag: etag.into(), ..wish(&record) }));
    registry.run(&report(&record, Health::Degraded)).unwrap();
    let stale = Err(RegistryError::EtagMismatch("replica orders/one".into()));
    assert_eq!(registry.run(&with(&etag)), stale);
    let etag = registry.now(&record).to_wire().etag;
    let drained = registry.replica(&with(&etag));
    assert_eq!(drained.mode(), Mode::Draining);
    assert_eq!(registry.run(&undrain(&record, &etag)), stale, "the drain changed it");
    assert_eq!(registry.replica(&undrain(&record, &drained.to_wire().etag)).mode(), Mode::Serving);
}

#[test]
fn the_last_ready_replica_is_drained_only_when_that_is_allowed() {
    let (mut registry, first, second) = two();
    let careful = |record: &Record| Command::Drain(Box::new(DrainWish { allow_last: false, ..wish(record) }));
    registry.replica(&careful(&first));
    let refused = |record: &Record| Err(RegistryError::LastReadyReplica(record.key.clone()));
    assert_eq!(registry.run(&careful(&second)), refused(&second));
    // Not by its owner either.
    let owner = Command::Drain(Box::new(DrainWish {
        proof: Proof::Lease(lease_of(&second)),
        allow_last: false,
        ..wish(&second)
    }));
    assert_eq!(registry.run(&owner), refused(&second));
    assert_eq!(registry.replica(&drain(&second)).mode(), Mode::Draining);
}

#[test]
fn a_replica_that_is_starting_lost_unhealthy_or_elsewhere_does_not_make_another_one_dispensable() {
    let careful = |record: &Record| Command::Drain(Box::new(DrainWish { allow_last: false, ..wish(record) }));
    for hide in [
        |peer: &Record| report(peer, Health::Starting),
        |peer: &Record| report(peer, Health::Unhealthy),
        |peer: &Record| hold(peer),
    ] {
        let (mut registry, first, second) = two();
        let carts = Registration { service: ServiceName::parse("carts").unwrap(), ..leased(1) };
        registry.register(&carts);
        registry.run(&hide(&first)).unwrap();
        let refused = registry.run(&careful(&second));
        assert_eq!(refused, Err(RegistryError::LastReadyReplica(second.key.clone())));
        // What gets no requests is never missed.
        assert!(registry.run(&careful(&first)).is_ok());
    }
}

#[test]
fn an_owners_drain_ends_with_its_next_registration_and_an_operators_does_not() {
    let (mut registry, first, second) = two();
    let by_owner = registry.replica(&drain_by_owner(&first));
    assert!(by_owner.drain.as_deref().unwrap().by_owner);
    assert_eq!(registry.told()[0].1, "owner");
    assert_eq!(registry.register(&named("one", 1)).0.mode(), Mode::Serving);
    let by_operator = registry.replica(&drain(&second));
    let (anew, _) = registry.register(&named("two", 2));
    assert_eq!((anew.mode(), &anew.drain), (Mode::Draining, &by_operator.drain));
    assert!(anew.incarnation > by_operator.incarnation);
    assert_eq!(registry.replica(&undrain(&anew, "")).mode(), Mode::Serving);
    assert_eq!(registry.told(), [("REPLICA_UNDRAINED", "ana", "gets requests again: done")]);
}

#[test]
fn an_owner_does_not_take_an_operators_drain_over_but_may_say_how_long_it_takes() {
    let (mut registry, record, _) = two();
    registry.replica(&drain(&record));
    registry.wait(10 * SECOND);
    let at = registry.next_at();
    let both = registry.replica(&drain_by_owner(&record));
    let drain = both.drain.as_deref().unwrap();
    assert_eq!((drain.by_owner, &*drain.author, &*drain.reason), (false, "ana", "kernel"));
    assert_eq!(drain.deadline, at + 30 * SECOND);
    assert_eq!(registry.register(&named("one", 1)).0.mode(), Mode::Draining);
}

#[test]
fn an_operator_makes_an_owners_drain_his_own() {
    let (mut registry, record, _) = two();
    registry.replica(&drain_by_owner(&record));
    let drain = registry.replica(&drain(&record)).drain.clone().unwrap();
    assert_eq!((drain.by_owner, &*drain.author), (false, "ana"));
    assert_eq!(registry.register(&named("one", 1)).0.mode(), Mode::Draining);
}

#[test]
fn what_was_drained_without_a_lease_and_by_no_operator_is_undrained_likewise_and_an_operators_word_is_not() {
    let (mut registry, first, second) = two();
    let of_service = |record: &Record| {
        Command::Drain(Box::new(DrainWish { proof: Proof::None, said: said("ci", "deploy"), ..wish(record) }))
    };
    let undrain = |record: &Record| Command::Undrain {
        key: record.key.clone(),
        proof: Proof::None,
        etag: String::new(),
        said: said("ci", "deployed"),
    };
    for command in [of_service(&first), drain_by_owner(&first)] {
        let drained = registry.replica(&command);
        assert!(drained.drain.as_deref().unwrap().by_owner);
        assert_eq!(registry.replica(&undrain(&first)).mode(), Mode::Serving);
    }
    registry.replica(&of_service(&first));
    assert_eq!(registry.register(&named("one", 1)).0.mode(), Mode::Serving, "its process begins anew");
    registry.replica(&drain(&second));
    registry.replica(&of_service(&second));
    assert_eq!(
        registry.run(&undrain(&second)),
        Err(RegistryError::DrainedByOperator(second.key.clone())),
        "it stays his"
    );
}

#[test]
fn only_the_present_owner_drains_as_the_owner() {
    let (mut registry, first, _) = two();
    let (second, _) = registry.register(&named("one", 1));
    assert_eq!(
        registry.run(&drain_by_owner(&first)),
        Err(RegistryError::LeaseMismatch(first.key.clone())),
        "its successor has the replica"
    );
    registry.run(&deregister(&second.key, Proof::Force)).unwrap();
    let why = "deregistered by an operator: going home".to_owned();
    let removed = Err(RegistryError::ReplicaRemoved { key: second.key.clone(), why });
    assert_eq!(registry.run(&drain_by_owner(&second)), removed);
}

#[test]
fn what_is_absent_is_not_drained_and_what_serves_is_not_undrained() {
    let (mut registry, record, _) = two();
    let nobody = ReplicaKey::parse("orders", "nobody").unwrap();
    let absent = Command::Drain(Box::new(DrainWish { key: nobody.clone(), ..wish(&record) }));
    assert_eq!(registry.run(&absent), Err(RegistryError::ReplicaNotFound(nobody.clone())));
    let absent = Command::Undrain {
        key: nobody.clone(),
        proof: Proof::Force,
        etag: String::new(),
        said: Said::default(),
    };
    assert_eq!(registry.run(&absent), Err(RegistryError::ReplicaNotFound(nobody)));
    assert_eq!(registry.replica(&undrain(&record, "")), record);
    assert_eq!(registry.view.revision(), 2);
}
