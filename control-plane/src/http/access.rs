//! The gate before everything that is not gRPC: who asks, and whether the path is for him.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Extension, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, Method, StatusCode, header};
use serde_json::{Value, json};

use super::{operation::Operation, paths::Found};
use crate::{
    auth::{Caller, Denied, Gate, Permission, Wire, permission::of_rpc},
    edge::Edge,
    listeners::Whence,
    refusal::Refusal,
    registry::{Holding, View},
};

/// Lets a request pass whose caller may have it, with him in its extensions.
pub(super) async fn check(State(gate): State<Arc<Gate>>, mut request: Request, next: Next) -> Response {
    let caller = gate.caller(request.headers(), request.extensions());
    let path = request.uri().path();
    let permission = match path {
        "/metrics" if gate.opens_metrics => Permission::Open,
        path => permission(request.method(), path),
    };
    let charged = if permission == Permission::Open { Ok(()) } else { caller.charge() };
    let admitted: Result<(), Denied> = charged.and_then(|()| caller.admit(permission, route(path)));
    let response = match admitted {
        Err(denied) => {
            drop(request);
            Refusal::from(denied).into_response()
        }
        Ok(()) => {
            request.extensions_mut().insert(caller.clone());
            caller.watch(next.run(request).await, Wire::Http)
        }
    };
    if response.status() == StatusCode::TOO_MANY_REQUESTS {
        caller.pace(Duration::MAX).await;
    }
    response
}

/// What a path takes. Of those that are not there, only who may look learns that they are not.
fn permission(method: &Method, path: &str) -> Permission {
    let method = if *method == Method::HEAD { &Method::GET } else { method };
    match path {
        "/livez" | "/healthz" | "/readyz" | "/whoami" => Permission::Open,
        // The page itself, which shows nothing before it has asked for it.
        "/" | "/ui" | "/ui/" | "/ui/settings.json" => Permission::Open,
        "/ui/stream" => Permission::Read,
        "/register" => Permission::Register,
        _ if is_asset(path) => Permission::Open,
        _ if path.starts_with("/ui/lab/") && !method.is_safe() => Permission::Operate,
        _ => match Operation::find(method, path) {
            Found::One(operation, _) => {
                let rpc = format!("/{}/{}", operation.rpc.parent_service().full_name(), operation.rpc.name());
                of_rpc(&rpc).unwrap_or(Permission::Operate)
            }
            Found::OtherMethods(_) | Found::Nothing => Permission::Read,
        },
    }
}

/// A file of the page: one segment with an ending.
fn is_asset(path: &str) -> bool {
    path.strip_prefix("/ui/").is_some_and(|name| !name.contains('/') && name.contains('.'))
}

/// The path without what callers chose, for events.
fn route(path: &str) -> &str {
    let known = ["/metrics", "/register", "/statistics", "/openapi.json", "/ui/stream", "/v1/", "/ui/lab"];
    known.into_iter().find(|known| path.starts_with(known)).unwrap_or("a path")
}

/// `GET /whoami`: what its caller is and may do here.
pub(super) async fn whoami(State(edge): State<Arc<Edge>>, Extension(caller): Extension<Caller>) -> Response {
    let held = edge.effects.publisher.read(|view: &View| view.held_by(&caller.known_author()).cloned());
    let mut response = super::json(StatusCode::OK, &described(&caller, &held.unwrap_or_default()));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn described(caller: &Caller, held: &Holding) -> Value {
    let from = caller.from().map(Whence::name);
    let may: Vec<_> = [Permission::Read, Permission::Register, Permission::Follow, Permission::Operate]
        .into_iter()
        .filter(|permission| caller.has(*permission))
        .map(Permission::name)
        .collect();
    match caller.identity() {
        Ok(None) => json!({
            "authentication": false, "name": caller.name(), "from": from, "may": may,
            "detail": "nobody is asked who he is here: whoever reaches this control plane may do everything",
        }),
        Ok(Some(identity)) => {
            let grants: Vec<_> = identity
                .grants
                .iter()
                .map(|grant| {
                    json!({
                        "roles": grant.roles.iter().map(|role| role.name()).collect::<Vec<_>>(),
                        "services": grant.services.iter().map(ToString::to_string).collect::<Vec<_>>(),
                        "addresses": grant.addresses.as_ref().map(|addresses| {
                            let names = addresses.names.iter().map(ToString::to_string);
                            let networks = addresses.networks.to_string();
                            names.chain((!networks.is_empty()).then_some(networks)).collect::<Vec<_>>().join(",")
                        }),
                        "maxReplicas": grant.quota.replicas,
                        "maxServices": grant.quota.services,
                        "nodes": grant.nodes.as_ref().map(|nodes| nodes.iter().map(ToString::to_string).collect::<Vec<_>>()),
                        "from": grant.from.as_ref().map(ToString::to_string),
                    })
                })
                .collect();
            json!({
                "authentication": true, "name": &*identity.name, "kind": identity.kind.name(), "from": from, "may": may,
                "grants": grants, "registered": {"replicas": held.replicas(), "services": held.services()},
                "expires": identity.expires.map(|at| humantime::format_rfc3339_seconds(at).to_string()),
            })
        }
        Err(error) => json!({
            "authentication": true, "name": null, "from": from, "may": may, "detail": error.to_string(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_of_rest_takes_what_its_rpc_does() {
        for operation in Operation::all() {
            let path = operation.route.path.replace("{override_id=**}", "guard/orders");
            let path: String = path
                .split('/')
                .map(|part| match part.split_once('}') {
                    Some((_, verb)) => format!("x{verb}/"),
                    None => format!("{part}/"),
                })
                .collect();
            let rpc = format!("/gateway.v1.{}/{}", operation.route.service, operation.route.rpc);
            let path = path.trim_end_matches('/');
            assert_eq!(Some(permission(&operation.route.method, path)), of_rpc(&rpc), "{path}");
        }
    }

    #[test]
    fn strangers_learn_whether_this_lives_and_get_a_page_that_shows_nothing_and_no_more() {
        for path in [
            "/livez",
            "/readyz",
            "/healthz",
            "/",
            "/ui",
            "/ui/app.js",
            "/ui/lab.js",
            "/ui/settings.json",
            "/whoami",
        ] {
            assert_eq!(permission(&Method::GET, path), Permission::Open, "{path}");
        }
        for path in [
            "/metrics",
            "/statistics",
            "/statistics/x",
            "/openapi.json",
            "/ui/stream",
            "/v1/services",
            "/nothing",
            "/ui/x/y.js",
            "/v1",
            "/ui/lab",
        ] {
            assert_eq!(permission(&Method::GET, path), Permission::Read, "{path}");
            assert_eq!(permission(&Method::HEAD, path), Permission::Read, "{path}");
        }
        assert_eq!(permission(&Method::POST, "/register"), Permission::Register);
        assert_eq!(permission(&Method::DELETE, "/register"), Permission::Register);
        assert_eq!(permission(&Method::POST, "/ui/lab/x"), Permission::Operate);
    }
}
