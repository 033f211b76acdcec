//! Explicit routes on their way into the snapshot.

use gateway_proto::{RouteName, content::ContentHash};

use super::*;
use crate::discovery::Refusal;

fn route(name: &str, path_prefix: &str, revision: i64) -> v1::Route {
    v1::Route {
        name: name.into(),
        service: "orders".into(),
        path_prefix: path_prefix.into(),
        revision,
        ..Default::default()
    }
}

fn full_of(
    revision: i64,
    part_index: i32,
    last_part: bool,
    routes: Vec<v1::Route>,
) -> v1::StreamSnapshotsResponse {
    let full = v1::FullSnapshot { routes, part_index, last_part, ..Default::default() };
    message("e", revision, Update::Full(full))
}

fn change(upsert_routes: Vec<v1::Route>, remove_routes: &[&str]) -> v1::Delta {
    let remove_routes = remove_routes.iter().map(|name| (*name).to_owned()).collect();
    v1::Delta { upsert_routes, remove_routes, ..Default::default() }
}

fn paths(held: &Snapshot) -> Vec<(String, String)> {
    held.routes().map(|route| (route.name.to_string(), route.path_prefix.to_string())).collect()
}

fn hash(routes: &[(&str, i64)]) -> ContentHash {
    let mut hash = ContentHash::default();
    routes.iter().for_each(|(name, revision)| hash.add_route(&RouteName::parse(name).unwrap(), *revision));
    hash
}

/// Revision 5: a to /a and b to /b, in parts.
fn begun() -> Snapshot {
    let (mut held, mut assembly) = (Snapshot::default(), Assembly::default());
    assembly.receive(&mut held, full_of(5, 0, false, vec![route("a", "/a", 3)]));
    assembly.receive(&mut held, full_of(5, 1, true, vec![route("b", "/b", 4)]));
    held
}

#[test]
fn routes_come_in_any_part_and_are_in_the_hash() {
    let held = begun();
    assert_eq!(paths(&held), [("a".to_owned(), "/a".to_owned()), ("b".to_owned(), "/b".to_owned())]);
    assert_eq!(held.content_hash(), hash(&[("a", 3), ("b", 4)]));
    assert_eq!(held.to_wire().routes, [route("a", "/a", 3), route("b", "/b", 4)]);
}

#[test]
fn a_delta_changes_adds_and_removes_routes_and_says_so() {
    let mut held = begun();
    let changed = change(vec![route("a", "/other", 6), route("c", "/c", 6)], &["b", "unknown"]);
    let mut assembly = Assembly::default();
    let (received, update) = assembly.receive_update(&mut held, delta(5, 6, changed));
    assert_eq!((received, update.routes_changed), (applied(6, &[]), true));
    assert_eq!(paths(&held), [("a".to_owned(), "/other".to_owned()), ("c".to_owned(), "/c".to_owned())]);
    assert_eq!(held.content_hash(), hash(&[("a", 6), ("c", 6)]));
    let (_, update) = assembly.receive_update(&mut held, delta(6, 7, v1::Delta::default()));
    assert!(!update.routes_changed);
}

#[test]
fn a_full_snapshot_replaces_all_routes() {
    let mut held = begun();
    let same = vec![route("a", "/a", 3), route("b", "/b", 4)];
    let (_, update) = Assembly::default().receive_update(&mut held, full_of(6, 0, true, same));
    assert!(!update.routes_changed);
    let (_, update) = Assembly::default().receive_update(&mut held, full_of(7, 0, true, vec![]));
    assert!(update.routes_changed && held.routes().len() == 0);
    assert_eq!(held.content_hash(), ContentHash::default());
}

#[test]
fn what_names_a_route_twice_or_is_none_is_refused_and_changes_nothing() {
    let twice = |routes: &[&str], removed: &[&str]| {
        change(routes.iter().map(|name| route(name, "/x", 6)).collect(), removed)
    };
    for wrong in [
        delta(5, 6, twice(&["c", "c"], &[])),
        delta(5, 6, twice(&["c"], &["c"])),
        delta(5, 6, twice(&[], &["a", "a"])),
        full_of(6, 0, true, vec![route("c", "/c", 1), route("c", "/d", 1)]),
    ] {
        let mut held = begun();
        let received = Assembly::default().receive(&mut held, wrong);
        assert!(matches!(received, Received::Refused(Refusal::DuplicateKey(_))), "{received:?}");
        assert_eq!(held, begun());
    }
    for wrong in [
        delta(5, 6, change(vec![route("c", "c", 6)], &[])),
        delta(5, 6, change(vec![], &["C"])),
        full_of(6, 0, true, vec![route("", "/c", 6)]),
    ] {
        let mut held = begun();
        let received = Assembly::default().receive(&mut held, wrong);
        assert!(matches!(received, Received::Refused(Refusal::InvalidResource(_))), "{received:?}");
        assert_eq!(held, begun());
    }
}
