//! What operators decided, as it reaches the replicas of this data plane.

use std::time::{Duration, SystemTime};

use super::*;
use crate::{
    clock::Moment,
    discovery::{Guard, Mirror},
    routing::Tick,
    table::{ForcedState, ReplicaSpec},
};

const HOUR: Duration = Duration::from_secs(3600);

fn noon() -> SystemTime {
    SystemTime::UNIX_EPOCH + 500_000 * HOUR
}

fn mirror(overrides: Vec<v1::OverrideEntry>) -> Mirror {
    let full = v1::FullSnapshot {
        services: vec![service("orders", vec![replica("orders", "r-1", 1), replica("orders", "r-2", 2)])],
        overrides,
        last_part: true,
        ..Default::default()
    };
    let mut mirror = Mirror::new("dp-1".parse().unwrap(), Snapshot::default(), Guard::default(), noon());
    assert!(matches!(receive(&mut mirror, message("e", 5, Update::Full(full))), Received::Applied { .. }));
    mirror
}

fn receive(mirror: &mut Mirror, message: v1::StreamSnapshotsResponse) -> Received {
    let now = Moment { tick: Tick::ORIGIN, wall: noon() };
    mirror.receive(&mut Assembly::default(), message, now).received
}

fn orders(mirror: &Mirror) -> Vec<ReplicaSpec> {
    mirror.service(&"orders".parse().unwrap()).unwrap().replicas
}

/// What decides on r-1 and on r-2, by its id, and to what.
fn forced(mirror: &Mirror) -> [Option<(String, ForcedState)>; 2] {
    let forced = orders(mirror).into_iter().map(|replica| replica.forced);
    let named = forced.map(|forced| forced.map(|forced| (forced.entry.override_id.clone(), forced.state)));
    named.collect::<Vec<_>>().try_into().unwrap()
}

fn open(id: &str) -> Option<(String, ForcedState)> {
    Some((id.to_owned(), ForcedState::Open))
}

fn closed(id: &str) -> Option<(String, ForcedState)> {
    Some((id.to_owned(), ForcedState::Closed))
}

fn of_kind(kind: v1::OverrideKind, entry: v1::OverrideEntry) -> v1::OverrideEntry {
    v1::OverrideEntry { kind: kind.into(), ..entry }
}

fn for_node(node: &str, entry: v1::OverrideEntry) -> v1::OverrideEntry {
    v1::OverrideEntry { node_id: node.into(), ..entry }
}

#[test]
fn an_override_of_one_replica_concerns_no_other_and_says_who_and_why() {
    let mirror = mirror(vec![override_of("a", "orders", "r-1"), override_of("b", "users", "r-2")]);
    assert_eq!(forced(&mirror), [open("a"), None]);
    let entry = orders(&mirror)[0].forced.clone().unwrap().entry;
    assert_eq!((entry.author.as_str(), entry.reason.as_str()), ("ana", "bad deploy"));
}

#[test]
fn one_for_every_replica_concerns_those_that_come_later() {
    let mut mirror = mirror(vec![override_of("a", "orders", "-")]);
    assert_eq!(forced(&mirror), [open("a"), open("a")]);
    let upsert_replicas = vec![replica("orders", "r-3", 3)];
    receive(&mut mirror, delta(5, 6, v1::Delta { upsert_replicas, ..Default::default() }));
    assert!(orders(&mirror)[2].forced.is_some());
}

#[test]
fn one_for_a_replica_goes_before_one_for_all_and_one_for_a_data_plane_before_one_for_all() {
    use v1::OverrideKind::BreakerClosed;
    let every = || override_of("every", "orders", "-");
    let here = || for_node("dp-1", of_kind(BreakerClosed, override_of("here", "orders", "-")));
    let one = || of_kind(BreakerClosed, override_of("one", "orders", "r-1"));
    let one_here = || for_node("dp-1", override_of("one-here", "orders", "r-1"));
    let elsewhere = || for_node("dp-2", override_of("elsewhere", "orders", "r-2"));
    for (overrides, expected) in [
        (vec![every(), here()], [closed("here"), closed("here")]),
        (vec![every(), one()], [closed("one"), open("every")]),
        (vec![for_node("dp-1", every()), one()], [closed("one"), open("every")]),
        (vec![every(), here(), one(), one_here()], [open("one-here"), closed("here")]),
        (vec![elsewhere()], [None, None]),
    ] {
        let mut overrides = overrides;
        assert_eq!(forced(&mirror(overrides.clone())), expected);
        overrides.reverse();
        assert_eq!(forced(&mirror(overrides)), expected, "whatever the order");
    }
}

#[test]
fn of_two_about_the_same_the_one_that_opens_decides_and_then_the_newest() {
    let newer = |entry: v1::OverrideEntry| v1::OverrideEntry { revision: 9, ..entry };
    let closing = of_kind(v1::OverrideKind::BreakerClosed, override_of("closing", "orders", "-"));
    let mirror_of_both = mirror(vec![newer(closing), override_of("opening", "orders", "-")]);
    assert_eq!(forced(&mirror_of_both)[0], open("opening"));
    let mirror_of_two = mirror(vec![newer(override_of("a", "orders", "-")), override_of("b", "orders", "-")]);
    assert_eq!(forced(&mirror_of_two)[0], open("a"));
}

#[test]
fn the_newest_order_to_reset_counts_and_forces_nothing() {
    let reset = |id: &str, replica: &str, revision| {
        let entry = of_kind(v1::OverrideKind::BreakerReset, override_of(id, "orders", replica));
        v1::OverrideEntry { revision, ..entry }
    };
    let mirror = mirror(vec![
        reset("a", "-", 7),
        reset("b", "r-1", 4),
        for_node("dp-1", reset("c", "r-2", 8)),
        for_node("dp-2", reset("d", "r-2", 9)),
    ]);
    assert_eq!(forced(&mirror), [None, None]);
    let orders = orders(&mirror);
    let resets: Vec<_> = orders.iter().map(|replica| replica.reset.as_ref().unwrap().revision).collect();
    assert_eq!(resets, [7, 8]);
}

#[test]
fn a_delta_brings_changes_and_ends_overrides_and_only_their_services_are_routed_otherwise() {
    let mut mirror = mirror(vec![override_of("a", "orders", "r-1")]);
    let change = |mirror: &mut Mirror, changes| {
        let revision = mirror.snapshot().revision();
        let now = Moment { tick: Tick::ORIGIN, wall: noon() };
        let outcome = mirror.receive(&mut Assembly::default(), delta(revision, revision + 1, changes), now);
        assert_eq!(outcome.received, applied(revision + 1, &[]), "the registry's services are as they were");
        outcome.touched.iter().map(ServiceName::to_string).collect::<Vec<_>>()
    };
    // Another about the same takes the first one's place, here even for another replica.
    let upsert_overrides = vec![override_of("a", "orders", "r-2"), override_of("c", "users", "-")];
    let touched = change(&mut mirror, v1::Delta { upsert_overrides, ..Default::default() });
    assert_eq!(touched, ["orders", "users"]);
    assert_eq!(forced(&mirror), [None, open("a")]);
    let remove_overrides = vec!["a".to_owned(), "unknown".to_owned()];
    assert_eq!(change(&mut mirror, v1::Delta { remove_overrides, ..Default::default() }), ["orders"]);
    assert_eq!(forced(&mirror), [None, None]);
    assert_eq!(mirror.snapshot().overrides().len(), 1);
}

#[test]
fn a_full_snapshot_ends_the_overrides_that_it_lacks() {
    let mut mirror = mirror(vec![override_of("a", "orders", "-"), override_of("b", "users", "-")]);
    let full = v1::FullSnapshot {
        services: mirror.snapshot().to_wire().services,
        overrides: vec![override_of("b", "users", "-")],
        last_part: true,
        ..Default::default()
    };
    let now = Moment { tick: Tick::ORIGIN, wall: noon() };
    let outcome = mirror.receive(&mut Assembly::default(), message("e", 6, Update::Full(full)), now);
    assert_eq!(outcome.touched.len(), 1, "the other one is as it was");
    assert_eq!(forced(&mirror), [None, None]);
}

#[test]
fn an_override_acts_until_its_end_by_the_wall_clock_and_not_at_it() {
    let until = |end: SystemTime, entry| v1::OverrideEntry { expire_time: Some(end.into()), ..entry };
    let mut mirror = mirror(vec![
        until(noon() + HOUR, override_of("a", "orders", "r-1")),
        until(noon() + 2 * HOUR, override_of("b", "orders", "r-2")),
        until(noon(), override_of("over", "orders", "r-1")),
    ]);
    assert_eq!(forced(&mirror), [open("a"), open("b")]);
    assert_eq!(mirror.next_end(), Some(noon() + HOUR));
    assert!(mirror.pass_time(noon() + HOUR - Duration::from_nanos(1)).is_empty());
    assert_eq!(mirror.pass_time(noon() + HOUR).len(), 1);
    assert_eq!(forced(&mirror), [None, open("b")]);
    assert_eq!(mirror.next_end(), Some(noon() + 2 * HOUR));

    // A message that comes after an end ends it, too, without a word of it.
    let revision = mirror.snapshot().revision();
    let now = Moment { tick: Tick::ORIGIN, wall: noon() + 3 * HOUR };
    let outcome = mirror.receive(&mut Assembly::default(), bookmark(revision), now);
    assert_eq!((outcome.received, outcome.touched.len()), (Received::Unchanged, 1));
    assert_eq!((forced(&mirror), mirror.next_end()), ([None, None], None));

    // A clock that went wrong and was set right.
    assert_eq!(mirror.pass_time(noon()).len(), 1);
    assert_eq!(forced(&mirror), [open("a"), open("b")]);
}

#[test]
fn what_only_newer_control_planes_know_does_nothing_and_stops_nothing() {
    let unknown =
        v1::OverrideEntry { kind: 99, replica_id: "?!".into(), ..override_of("a", "orders", "r-1") };
    let blocked = of_kind(v1::OverrideKind::RegistrationBlocked, override_of("b", "orders", ""));
    let mirror = mirror(vec![unknown, blocked]);
    assert_eq!(forced(&mirror), [None, None]);
    assert_eq!(mirror.snapshot().overrides().len(), 2, "it is content all the same");
}
