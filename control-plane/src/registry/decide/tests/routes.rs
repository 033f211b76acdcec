//! Changes of explicit routes.

use gateway_proto::{RouteName, v1};
use prost_types::FieldMask;

use super::*;
use crate::registry::{RouteWish, StoredRoute};

fn name(text: &str) -> RouteName {
    RouteName::parse(text).unwrap()
}

fn to(service: &str, path_prefix: &str) -> v1::Route {
    v1::Route { service: service.into(), path_prefix: path_prefix.into(), ..Default::default() }
}

fn wish(of: &str, change: v1::Route) -> RouteWish {
    let (mask, etag, said) = (None, String::new(), said("ana", "new shop"));
    RouteWish { name: name(of), change, mask, etag, allow_missing: true, said }
}

fn update(of: &str, change: v1::Route) -> Command {
    Command::UpdateRoute(Box::new(wish(of, change)))
}

fn delete(of: &str, etag: &str) -> Command {
    Command::DeleteRoute { name: name(of), etag: etag.into(), said: said("ana", "not needed") }
}

fn stored(answer: Result<Answer, RegistryError>) -> Arc<StoredRoute> {
    match answer {
        Ok(Answer::Route(stored)) => stored,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_route_is_stored_with_who_set_it_and_its_service_need_not_be_registered() {
    let mut registry = Registry::default();
    let at = registry.next_at();
    let wire = stored(registry.run(&update("shop", to("orders", "/api")))).to_wire();
    assert_eq!((wire.name.as_str(), wire.revision, wire.etag.as_str()), ("shop", 1, "1"));
    assert_eq!((wire.updated_by.as_str(), wire.update_reason.as_str()), ("ana", "new shop"));
    assert_eq!(wire.update_time, Some(at.into()));
    assert_eq!(registry.told(), [("ROUTE_UPDATED", "ana", "route shop set: /api: new shop")]);
    assert_eq!(registry.events[0].service, Some(orders()));
    assert_eq!(registry.run(&delete("shop", "")), Ok(Answer::RouteDeleted(2)));
    assert_eq!(registry.told(), [("ROUTE_DELETED", "ana", "route shop deleted: not needed")]);
    assert_eq!(registry.events[0].service, Some(orders()));
    assert_eq!(registry.run(&delete("shop", "")), Err(RegistryError::RouteNotFound(name("shop"))));
}

#[test]
fn a_route_that_could_match_what_another_matches_is_refused_and_names_it() {
    let mut registry = Registry::default();
    stored(registry.run(&update("shop", to("orders", "/api"))));
    let conflict = Err(RegistryError::RouteConflict {
        route: name("other"),
        other: name("shop"),
        conditions: "/api".into(),
    });
    assert_eq!(registry.run(&update("other", to("users", "/api"))), conflict);
    // One of them counts first.
    let preferred = v1::Route { priority: 1, ..to("users", "/api") };
    stored(registry.run(&update("other", preferred)));
    // A change that would make them alike is refused, too.
    let mask = Some(FieldMask { paths: vec!["priority".into()] });
    let change = RouteWish { mask, ..wish("other", v1::Route::default()) };
    assert_eq!(registry.run(&Command::UpdateRoute(Box::new(change))), conflict);
    assert_eq!(registry.view.routes().len(), 2);
}

#[test]
fn a_route_changes_in_what_is_named_and_one_that_changes_nothing_costs_no_revision() {
    let mut registry = Registry::default();
    let first = stored(registry.run(&update("shop", to("orders", "/api"))));
    let same = stored(registry.run(&update("shop", to("orders", ""))));
    assert_eq!(same, first);
    let mask = Some(FieldMask { paths: vec!["path_prefix".into()] });
    let change = RouteWish { mask, ..wish("shop", v1::Route::default()) };
    let cleared = stored(registry.run(&Command::UpdateRoute(Box::new(change))));
    assert_eq!((&*cleared.route.path_prefix, cleared.revision), ("/", 2));
    assert_eq!(cleared.route.service, orders());
}

#[test]
fn a_route_that_is_not_valid_is_refused_with_its_fields() {
    let mut registry = Registry::default();
    let refused = registry.run(&update("shop", to("", "api")));
    let Err(RegistryError::InvalidRoute(invalid)) = refused else { panic!("{refused:?}") };
    let fields: Vec<_> = invalid.violations().iter().map(|v| v.field.as_str()).collect();
    assert_eq!(fields, ["service", "path_prefix"]);
    assert_eq!(registry.view.revision(), 0);
}

#[test]
fn a_route_that_changed_since_it_was_read_is_neither_changed_nor_removed_nor_made() {
    let mut registry = Registry::default();
    let read = |etag: &str, change| {
        Command::UpdateRoute(Box::new(RouteWish { etag: etag.into(), ..wish("shop", change) }))
    };
    let stale = Err(RegistryError::EtagMismatch("route shop".into()));
    assert_eq!(registry.run(&read("1", to("orders", "/a"))), stale);
    let strict = RouteWish { allow_missing: false, ..wish("shop", to("orders", "/a")) };
    let missing = Err(RegistryError::RouteNotFound(name("shop")));
    assert_eq!(registry.run(&Command::UpdateRoute(Box::new(strict))), missing);
    let first = stored(registry.run(&update("shop", to("orders", "/a")))).to_wire().etag;
    stored(registry.run(&read(&first, to("orders", "/b"))));
    assert_eq!(registry.run(&read(&first, to("orders", "/c"))), stale);
    assert_eq!(registry.run(&delete("shop", &first)), stale);
}

#[test]
fn no_more_routes_are_taken_than_the_limit_and_changes_of_those_still_are() {
    let mut registry = Registry::default();
    for index in 0..StoredRoute::MAX {
        stored(registry.run(&update(&format!("r-{index}"), to("orders", &format!("/{index}")))));
    }
    let refused = registry.run(&update("more", to("orders", "/more")));
    assert!(matches!(refused, Err(RegistryError::QuotaExceeded { of: "routes", .. })), "{refused:?}");
    stored(registry.run(&update("r-7", to("orders", "/other"))));
}
