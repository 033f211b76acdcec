//! The content hash: it follows every change, and a bookmark finds what it should not have missed.

use gateway_proto::{ReplicaKey, content::ContentHash};

use super::*;
use crate::discovery::Refusal;

fn hashed(revision: i64, content_hash: &str) -> v1::StreamSnapshotsResponse {
    message("e", revision, Update::Bookmark(v1::Bookmark { content_hash: content_hash.into() }))
}

fn at(revision: i64, wire: v1::Replica) -> v1::Replica {
    v1::Replica { revision, ..wire }
}

/// Revision 9: two replicas, a policy of `orders`, a default policy, an override.
fn begun() -> Snapshot {
    let policy = |revision| Some(v1::Policy { revision, ..Default::default() });
    let replicas = vec![at(4, replica("orders", "r-1", 1)), at(5, replica("orders", "r-2", 2))];
    let full = v1::FullSnapshot {
        services: vec![v1::ServiceSnapshot { policy: policy(6), ..service("orders", replicas) }],
        overrides: vec![v1::OverrideEntry { revision: 8, ..override_of("o-1", "orders", "r-1") }],
        default_policy: policy(7),
        last_part: true,
        ..Default::default()
    };
    let mut held = Snapshot::default();
    Assembly::default().receive(&mut held, message("e", 9, Update::Full(full)));
    held
}

#[test]
fn everything_that_is_held_is_in_the_hash_under_its_revision() {
    let mut hash = ContentHash::default();
    let orders = ServiceName::parse("orders").unwrap();
    hash.add_replica(&ReplicaKey::parse("orders", "r-1").unwrap(), 4);
    hash.add_replica(&ReplicaKey::parse("orders", "r-2").unwrap(), 5);
    hash.add_policy(Some(&orders), 6);
    hash.add_policy(None, 7);
    hash.add_override("o-1", 8);
    assert_eq!(begun().content_hash(), hash);
    assert_eq!(Snapshot::default().content_hash(), ContentHash::default());
}

#[test]
fn a_default_policy_that_nobody_sent_is_not_in_the_hash() {
    let mut held = begun();
    let full = v1::FullSnapshot { last_part: true, ..Default::default() };
    Assembly::default().receive(&mut held, message("e", 10, Update::Full(full)));
    assert_eq!(held.content_hash(), ContentHash::default());
}

#[test]
fn a_change_of_each_kind_leads_to_the_hash_of_what_is_held_then() {
    let policy = |revision| Some(v1::Policy { revision, ..Default::default() });
    let upsert = |wire: v1::OverrideEntry| v1::Delta { upsert_overrides: vec![wire], ..Default::default() };
    let orders = |policy| v1::Delta {
        upsert_services: vec![v1::ServiceSnapshot { policy, ..service("orders", vec![]) }],
        ..Default::default()
    };
    for changes in [
        v1::Delta { upsert_replicas: vec![at(10, replica("orders", "r-1", 1))], ..Default::default() },
        v1::Delta { upsert_replicas: vec![at(10, replica("orders", "r-9", 9))], ..Default::default() },
        v1::Delta {
            remove_replicas: vec![removal("orders", "r-2", v1::RemovalCause::Deregistered)],
            ..Default::default()
        },
        v1::Delta { remove_services: vec!["orders".into()], ..Default::default() },
        orders(policy(10)),
        orders(None),
        v1::Delta { default_policy: policy(10), ..Default::default() },
        upsert(v1::OverrideEntry { revision: 10, ..override_of("o-1", "orders", "r-1") }),
        upsert(v1::OverrideEntry { revision: 10, ..override_of("o-2", "orders", "r-1") }),
        v1::Delta { remove_overrides: vec!["o-1".into(), "unknown".into()], ..Default::default() },
    ] {
        let (mut held, mut anew) = (begun(), Snapshot::default());
        let received = Assembly::default().receive(&mut held, delta(9, 10, changes.clone()));
        assert!(matches!(received, Received::Applied { .. }), "{received:?}");
        assert_ne!(held.content_hash(), begun().content_hash(), "{changes:?}");
        Assembly::default().receive(&mut anew, message("e", 10, Update::Full(held.to_wire())));
        assert_eq!(anew, held, "{changes:?}");
    }
}

#[test]
fn a_bookmark_with_the_right_hash_or_without_one_is_taken() {
    let right = begun().content_hash().to_string();
    for hash in [right.to_uppercase(), right, String::new()] {
        let mut held = begun();
        assert_eq!(Assembly::default().receive(&mut held, hashed(12, &hash)), Received::Unchanged, "{hash}");
        assert_eq!(held.revision(), 12);
    }
}

#[test]
fn a_bookmark_with_another_hash_is_refused_and_the_full_snapshot_of_that_very_revision_is_taken() {
    let (mut held, mut assembly) = (begun(), Assembly::default());
    let Received::Refused(refusal) = assembly.receive(&mut held, hashed(9, "0123456789abcdef")) else {
        panic!("was taken")
    };
    assert_eq!(refusal.reason(), "CONTENT_MISMATCH");
    let text =
        "the registry's content at revision 9 hashes to \"0123456789abcdef\", what is held to \"HELD\"";
    assert_eq!(refusal.to_string(), text.replace("HELD", &held.content_hash().to_string()));
    assert_eq!(held, begun(), "and nothing has changed");

    let orders = service("orders", vec![at(9, replica("orders", "r-3", 3))]);
    assert_eq!(assembly.receive(&mut held, full(9, vec![orders])), applied(9, &["orders"]));
    assert_eq!(ids(&held, "orders").unwrap(), ["r-3"]);
    let right = held.content_hash().to_string();
    assert_eq!(assembly.receive(&mut held, hashed(9, &right)), Received::Unchanged);
}

#[test]
fn a_revision_does_not_go_back_after_a_mismatch_either() {
    let (mut held, mut assembly) = (begun(), Assembly::default());
    assembly.receive(&mut held, hashed(9, "0"));
    let received = assembly.receive(&mut held, full(8, vec![]));
    assert!(matches!(received, Received::Refused(Refusal::Behind(_))), "{received:?}");
}

#[test]
fn a_hash_that_differs_from_what_was_just_sent_is_disputed_once_and_no_more_compared_on_this_stream() {
    let (mut held, mut assembly) = (begun(), Assembly::default());
    let wrong = || hashed(9, "0123456789abcdef");
    assert!(matches!(assembly.receive(&mut held, wrong()), Received::Refused(_)));
    // Whatever else the control plane says first, all is due.
    assert!(matches!(assembly.receive(&mut held, wrong()), Received::Refused(_)));
    assembly.receive(&mut held, full(9, vec![]));
    let received = assembly.receive(&mut held, hashed(10, "0123456789abcdef"));
    assert!(matches!(received, Received::Disputed(Refusal::ContentMismatch(_))), "{received:?}");
    assert_eq!(held.revision(), 10, "it is a bookmark all the same");
    assembly.receive(&mut held, delta(10, 11, v1::Delta::default()));
    assert_eq!(assembly.receive(&mut held, hashed(11, "1")), Received::Unchanged);

    // Another stream may be of a control plane that knows better.
    assert!(matches!(Assembly::default().receive(&mut held, hashed(11, "1")), Received::Refused(_)));
}

#[test]
fn a_mismatch_after_changes_that_followed_the_full_snapshot_is_refused_again() {
    let (mut held, mut assembly) = (begun(), Assembly::default());
    assembly.receive(&mut held, hashed(9, "0"));
    assembly.receive(&mut held, full(9, vec![]));
    assembly.receive(&mut held, delta(9, 10, v1::Delta::default()));
    assert!(matches!(assembly.receive(&mut held, hashed(10, "0")), Received::Refused(_)));
}
