//! Explicit routes as the registry sends them. Pure.

use std::{collections::BTreeMap, sync::Arc};

use gateway_proto::{Route, RouteName, content::ContentHash, v1};

use super::{Refusal, parse};

/// An explicit route, and the registry's revision of its last change.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RevisedRoute {
    pub(super) route: Route,
    pub(super) revision: i64,
}

/// Routes by name.
pub(super) type RouteSet = BTreeMap<RouteName, Arc<RevisedRoute>>;

impl RevisedRoute {
    pub(super) fn parse(wire: &v1::Route) -> Result<Self, Refusal> {
        match Route::parse(wire) {
            Ok(route) => Ok(Self { route, revision: wire.revision }),
            Err(invalid) => Err(parse::refuse(&format!("route {:?}", wire.name), &invalid)),
        }
    }

    pub(super) fn to_wire(&self) -> v1::Route {
        v1::Route { revision: self.revision, ..self.route.to_wire() }
    }
}

pub(super) fn name(text: &str) -> Result<RouteName, Refusal> {
    RouteName::parse(text).map_err(|invalid| parse::refuse(&format!("route {text:?}"), &invalid))
}

/// The part of a content hash that routes make up.
pub(super) fn hash(routes: &RouteSet) -> ContentHash {
    let mut hash = ContentHash::default();
    routes.iter().for_each(|(name, entry)| hash.add_route(name, entry.revision));
    hash
}
