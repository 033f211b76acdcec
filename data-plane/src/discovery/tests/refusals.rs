//! Every message that is refused, with its reason, and that it changes nothing.

use gateway_proto::v1::{self, stream_snapshots_response::Update};

use super::*;

/// Delivers `message` to what [`held`] holds; it must be refused with `reason` and this text, and change nothing.
#[track_caller]
fn assert_refused(response: v1::StreamSnapshotsResponse, reason: &str, text: &str) {
    let (mut held, mut assembly) = (held(), Assembly::default());
    assert_refused_by(&mut assembly, &mut held, response, reason, text);
}

#[track_caller]
fn assert_refused_by(
    assembly: &mut Assembly,
    held: &mut Snapshot,
    response: v1::StreamSnapshotsResponse,
    reason: &str,
    text: &str,
) {
    let before = held.clone();
    let Received::Refused(refusal) = assembly.receive(held, response) else { panic!("was taken") };
    assert_eq!(refusal.to_nack(), v1::Nack { reason: reason.into(), message: text.into() });
    assert_eq!(*held, before);
}

fn key(service: &str, replica_id: &str) -> v1::ReplicaRemoval {
    v1::ReplicaRemoval { service: service.into(), replica_id: replica_id.into(), ..Default::default() }
}

#[test]
fn what_does_not_continue_the_held_revision_is_a_base_mismatch() {
    let none = v1::Delta::default;
    for (response, text) in [
        (
            delta(4, 6, none()),
            "a delta of epoch \"e\" from revision 4 to 6 does not continue epoch \"e\" revision 5",
        ),
        (
            delta(6, 7, none()),
            "a delta of epoch \"e\" from revision 6 to 7 does not continue epoch \"e\" revision 5",
        ),
        (
            delta(5, 5, none()),
            "a delta of epoch \"e\" from revision 5 to 5 does not continue epoch \"e\" revision 5",
        ),
        (
            message("f", 6, Update::Delta(v1::Delta { base_revision: 5, ..none() })),
            "a delta of epoch \"f\" from revision 5 to 6 does not continue epoch \"e\" revision 5",
        ),
        (full(4, vec![]), "revision 4 is behind 5 of the same epoch"),
        (bookmark(4), "revision 4 is behind 5 of the same epoch"),
        (
            message("f", 9, Update::Bookmark(v1::Bookmark { ..Default::default() })),
            "a bookmark of epoch \"f\" does not continue epoch \"e\"",
        ),
    ] {
        assert_refused(response, "BASE_MISMATCH", text);
    }
}

#[test]
fn a_delta_for_a_data_plane_that_holds_nothing_is_a_base_mismatch() {
    assert_refused_by(
        &mut Assembly::default(),
        &mut Snapshot::default(),
        delta(0, 1, v1::Delta::default()),
        "BASE_MISMATCH",
        "a delta of epoch \"e\" from revision 0 to 1 does not continue epoch \"\" revision 0",
    );
}

#[test]
fn a_key_named_twice_is_refused() {
    let twice = || vec![replica("carts", "r-1", 1), replica("carts", "r-1", 2)];
    for (response, text) in [
        (full(6, vec![service("carts", twice())]), "replica carts/r-1 is named twice"),
        (full(6, vec![service("carts", vec![]), service("carts", vec![])]), "service carts is named twice"),
        (
            delta(
                5,
                6,
                v1::Delta {
                    upsert_services: vec![service("orders", vec![]), service("orders", vec![])],
                    ..Default::default()
                },
            ),
            "service orders is named twice",
        ),
        (
            delta(
                5,
                6,
                v1::Delta {
                    upsert_services: vec![service("orders", vec![])],
                    remove_services: vec!["orders".into()],
                    ..Default::default()
                },
            ),
            "service orders is named twice",
        ),
        (
            delta(
                5,
                6,
                v1::Delta {
                    upsert_replicas: vec![replica("orders", "r-9", 1), replica("orders", "r-9", 2)],
                    ..Default::default()
                },
            ),
            "replica orders/r-9 is named twice",
        ),
        (
            delta(
                5,
                6,
                v1::Delta {
                    upsert_replicas: vec![replica("orders", "r-1", 1)],
                    remove_replicas: vec![key("orders", "r-1")],
                    ..Default::default()
                },
            ),
            "replica orders/r-1 is named twice",
        ),
    ] {
        assert_refused(response, "DUPLICATE_KEY", text);
    }
}

#[test]
fn an_override_named_twice_is_refused() {
    let entry = || override_of("o-1", "orders", "r-1");
    let text = "override \"o-1\" is named twice";
    for response in [
        message(
            "e",
            6,
            Update::Full(v1::FullSnapshot { overrides: vec![entry(), entry()], ..Default::default() }),
        ),
        delta(5, 6, v1::Delta { upsert_overrides: vec![entry(), entry()], ..Default::default() }),
        delta(5, 6, v1::Delta { remove_overrides: vec!["o-1".into(), "o-1".into()], ..Default::default() }),
        delta(
            5,
            6,
            v1::Delta {
                upsert_overrides: vec![entry()],
                remove_overrides: vec!["o-1".into()],
                ..Default::default()
            },
        ),
    ] {
        assert_refused(response, "DUPLICATE_KEY", text);
    }
}

#[test]
fn an_override_that_is_not_valid_is_named_with_the_field_at_fault() {
    let entry = || override_of("o-1", "orders", "r-1");
    let upsert = |wire| delta(5, 6, v1::Delta { upsert_overrides: vec![wire], ..Default::default() });
    for (wire, text) in [
        (
            v1::OverrideEntry { override_id: String::new(), ..entry() },
            "override \"\": override_id: is required",
        ),
        (
            v1::OverrideEntry { expire_time: None, ..entry() },
            "override \"o-1\": expire_time: is required: every override ends",
        ),
        (v1::OverrideEntry { service: String::new(), ..entry() }, "override \"o-1\": service: is required"),
        (
            v1::OverrideEntry { replica_id: String::new(), ..entry() },
            "override \"o-1\": replica_id: is required",
        ),
        (
            v1::OverrideEntry { node_id: "DP".into(), ..entry() },
            "override \"o-1\": node_id: may hold only a-z, 0-9 and '-', found 'D'",
        ),
    ] {
        assert_refused(upsert(wire.clone()), "INVALID_RESOURCE", text);
        let full = v1::FullSnapshot { overrides: vec![wire], last_part: true, ..Default::default() };
        assert_refused(message("e", 6, Update::Full(full)), "INVALID_RESOURCE", text);
    }
}

#[test]
fn what_belongs_into_the_first_part_is_refused_in_a_later_one() {
    for late in [
        v1::FullSnapshot { default_policy: Some(v1::Policy::default()), ..Default::default() },
        v1::FullSnapshot { overrides: vec![override_of("o-1", "orders", "r-1")], ..Default::default() },
    ] {
        let (mut held, mut assembly) = (held(), Assembly::default());
        assert_eq!(assembly.receive(&mut held, part(6, 0, false, vec![])), Received::Partial);
        let late = v1::FullSnapshot { part_index: 1, last_part: true, ..late };
        let text = "part 1 brings what belongs into part 0: policies or overrides";
        assert_refused_by(
            &mut assembly,
            &mut held,
            message("e", 6, Update::Full(late)),
            "INVALID_RESOURCE",
            text,
        );
    }
}

#[test]
fn a_service_that_comes_back_after_another_one_is_named_twice() {
    let (mut held, mut assembly) = (held(), Assembly::default());
    let first = vec![service("a", vec![]), service("b", vec![])];
    assert_eq!(assembly.receive(&mut held, part(6, 0, false, first)), Received::Partial);
    let again = part(6, 1, true, vec![service("a", vec![])]);
    assert_refused_by(&mut assembly, &mut held, again, "DUPLICATE_KEY", "service a is named twice");
}

#[test]
fn an_invalid_resource_is_named_with_what_is_wrong_with_it() {
    let upsert =
        |wire: v1::Replica| delta(5, 6, v1::Delta { upsert_replicas: vec![wire], ..Default::default() });
    let breaker = v1::BreakerPolicy { failure_ratio: Some(50.0), ..Default::default() };
    let policy = Some(v1::Policy { breaker: Some(breaker), ..Default::default() });
    for (response, text) in [
        (
            full(6, vec![service("Orders", vec![])]),
            "service \"Orders\": service: may hold only a-z, 0-9 and '-', found 'O'",
        ),
        (
            full(6, vec![v1::ServiceSnapshot { policy, ..service("orders", vec![]) }]),
            "service orders: policy.breaker.failure_ratio: 50 is not above 0.0 and up to 1.0 (did you mean 0.5?)",
        ),
        (
            full(6, vec![service("orders", vec![replica("users", "r-1", 1)])]),
            "replica \"users\"/r-1 came inside service orders",
        ),
        (
            upsert(v1::Replica { endpoint: None, ..replica("orders", "r-9", 1) }),
            "replica \"orders\"/\"r-9\": address: is required, as host:port",
        ),
        (
            upsert(v1::Replica { weight: -1, ..replica("orders", "r-9", 1) }),
            "replica \"orders\"/\"r-9\": weight: -1 is not in 1..=1000 (0 stands for 100)",
        ),
        (upsert(replica("carts", "r-1", 1)), "replica carts/r-1: its service does not exist"),
        (
            delta(5, 6, v1::Delta { remove_replicas: vec![key("orders", "")], ..Default::default() }),
            "replica \"orders\"/\"\": replica_id: is required",
        ),
        (
            delta(
                5,
                6,
                v1::Delta {
                    upsert_services: vec![service("carts", vec![replica("carts", "r-1", 1)])],
                    ..Default::default()
                },
            ),
            "service carts: a delta brings replicas apart from their service",
        ),
        (
            v1::StreamSnapshotsResponse { update: None, ..bookmark(6) },
            "the message holds no update this data plane knows",
        ),
        (
            message("", 6, Update::Bookmark(v1::Bookmark { ..Default::default() })),
            "epoch \"\" revision 6 names no state of a registry",
        ),
        (bookmark(-1), "epoch \"e\" revision -1 names no state of a registry"),
    ] {
        assert_refused(response, "INVALID_RESOURCE", text);
    }
}

#[test]
fn one_wrong_replica_spoils_the_whole_delta() {
    let changes = v1::Delta {
        remove_services: vec!["users".into()],
        upsert_replicas: vec![
            replica("orders", "r-3", 4),
            v1::Replica { endpoint: None, ..replica("orders", "r-4", 5) },
        ],
        ..Default::default()
    };
    assert_refused(
        delta(5, 6, changes),
        "INVALID_RESOURCE",
        "replica \"orders\"/\"r-4\": address: is required, as host:port",
    );
}

#[test]
fn parts_that_do_not_follow_each_other_are_refused_and_forgotten() {
    let skipped = "part 2 of epoch \"e\" revision 6 came where part 1 of epoch \"e\" revision 6 was due";
    let other = "part 1 of epoch \"e\" revision 7 came where part 1 of epoch \"e\" revision 6 was due";
    let interrupted = "part 1 is due, not a delta or a bookmark";
    for (response, text) in [
        (part(6, 2, true, vec![]), skipped),
        (part(7, 1, true, vec![]), other),
        (delta(5, 6, v1::Delta::default()), interrupted),
        (bookmark(6), interrupted),
    ] {
        let (mut held, mut assembly) = (held(), Assembly::default());
        assert_eq!(assembly.receive(&mut held, part(6, 0, false, vec![])), Received::Partial);
        assert_refused_by(&mut assembly, &mut held, response, "PARTS_OUT_OF_ORDER", text);
        let forgotten =
            "part 1 of epoch \"e\" revision 6 came where part 0 of epoch \"e\" revision 6 was due";
        let next = part(6, 1, true, vec![]);
        assert_refused_by(&mut assembly, &mut held, next, "PARTS_OUT_OF_ORDER", forgotten);
    }
}
