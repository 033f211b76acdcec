//! Changes of explicit routes.

use std::{sync::Arc, time::SystemTime};

use gateway_proto::{Route, RouteName, route, v1};

use super::{Decision, check_etag, commit};
use crate::registry::{
    Answer, Cause, Key, RegistryError, RouteWish, Said, StoredRoute, View, mutation::RecordWrite,
};

pub(super) fn update(view: &View, wish: &RouteWish, at: SystemTime) -> Result<Decision, RegistryError> {
    let present = view.route(&wish.name);
    let what = || format!("route {}", wish.name);
    match present {
        Some(stored) => check_etag(&wish.etag, stored.revision, what)?,
        None if !wish.etag.is_empty() => return Err(RegistryError::EtagMismatch(what())),
        None if !wish.allow_missing => return Err(RegistryError::RouteNotFound(wish.name.clone())),
        None if view.routes().len() >= StoredRoute::MAX => {
            return Err(RegistryError::QuotaExceeded {
                service: None,
                of: "routes",
                limit: StoredRoute::MAX,
            });
        }
        None => {}
    }
    let before = present.map_or_else(v1::Route::default, |stored| stored.route.to_wire());
    let change = v1::Route { name: wish.name.to_string(), ..wish.change.clone() };
    let after = route::updated(&before, &change, wish.mask.as_ref()).map_err(RegistryError::InvalidRoute)?;
    let route = Route::parse(&after).map_err(RegistryError::InvalidRoute)?;
    if let Some(other) = view.routes().find(|other| other.route.conflicts_with(&route)) {
        return Err(RegistryError::RouteConflict {
            route: route.name,
            other: other.route.name.clone(),
            conditions: other.route.conditions(),
        });
    }
    if let Some(stored) = present.filter(|stored| stored.route == route) {
        return Ok(Decision::Nothing(Answer::Route(Arc::clone(stored))));
    }
    let stored = StoredRoute {
        route,
        updated_at: at,
        updated_by: wish.said.author.clone(),
        update_reason: wish.said.reason.clone(),
        revision: 0,
    };
    Ok(commit(RecordWrite::put(stored, present.map(|stored| stored.revision), Cause::RouteUpdated), at))
}

pub(super) fn delete(
    view: &View,
    name: &RouteName,
    etag: &str,
    said: &Said,
    at: SystemTime,
) -> Result<Decision, RegistryError> {
    let stored = view.route(name).ok_or_else(|| RegistryError::RouteNotFound(name.clone()))?;
    check_etag(etag, stored.revision, || format!("route {name}"))?;
    let cause = Cause::RouteDeleted { service: stored.route.service.clone(), said: said.clone() };
    Ok(commit(RecordWrite::remove(Key::Route(name.clone()), stored.revision, cause), at))
}
