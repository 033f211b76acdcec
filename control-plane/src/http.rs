//! The HTTP edge: everything that gRPC can, as REST; registration for callers who know no more than a service and an
//! address; probes and metrics; the dashboard. Every error is problem+json.
//!
//! ```text
//!  request ─▶ origin ─▶ access ─▶ paths ─▶ bind ─▶ call (the gRPC router, in this process) ─▶ answer, or watch
//!                         ▲       ▲
//!                       routes, the table ─▶ openapi
//! ```

mod access;
mod answer;
mod bind;
mod body;
mod call;
mod dashboard;
mod openapi;
mod operation;
mod origin;
mod patch;
mod paths;
mod probes;
mod register;
mod resources;
mod resume;
mod routes;
mod statistics;
mod watch;

use std::sync::Arc;

use axum::{
    Router,
    http::Method,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{any, get, post},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};

use self::{call::Grpc, dashboard::writes, origin::AllowedHosts, resources::Resources};
use crate::{
    edge::Edge,
    panics::{self, Containment, Handler},
    refusal::Refusal,
};

/// Everything that is not gRPC, and a REST form of what is.
pub(crate) fn router(edge: &Arc<Edge>, grpc: Router) -> Router {
    let allowed_hosts = AllowedHosts(edge.allowed_hosts.as_slice().into());
    let containment = Containment { panics: edge.panics.clone(), handler: Handler::Http };
    let resources = Resources { edge: Arc::clone(edge), grpc: Grpc(grpc) };
    let gate = Arc::clone(&edge.gate);
    let takes_page_writes = writes::Allowed(edge.takes_page_writes);
    Router::new()
        .route("/register", post(register::register).delete(register::deregister))
        .route("/statistics", get(statistics::all))
        .route("/statistics/{service}", get(statistics::of_service))
        .route("/openapi.json", get(openapi::serve))
        .route("/whoami", get(access::whoami))
        .route("/livez", get(probes::livez))
        .route("/healthz", get(probes::livez))
        .route("/readyz", get(probes::readyz))
        .route("/metrics", get(probes::metrics))
        .fallback(async || Refusal::Path)
        .with_state(Arc::clone(edge))
        .route("/v1/{*path}", any(resources::serve).with_state(resources.clone()))
        .merge(dashboard::router(resources))
        .layer(middleware::from_fn_with_state(takes_page_writes, writes::check))
        .layer(middleware::from_fn_with_state(gate, access::check))
        .layer(middleware::from_fn_with_state(containment, panics::contain))
        .layer(middleware::from_fn_with_state(allowed_hosts, origin::check))
        .layer(middleware::from_fn(finish))
}

/// Gives the bare 405 of the router a body, its `Allow` header stays; and forbids browsers to take an answer for
/// anything else than it says it is, for there is what others wrote in it.
async fn finish(method: Method, request: axum::extract::Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let is_bare = !response.headers().contains_key(header::CONTENT_TYPE);
    if response.status() == StatusCode::METHOD_NOT_ALLOWED && is_bare {
        let mut explained = Refusal::Method(method).into_response();
        if let Some(allow) = response.headers().get(header::ALLOW) {
            explained.headers_mut().insert(header::ALLOW, allow.clone());
        }
        response = explained;
    }
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Whether `Accept` names this media type first.
fn accepts_first(headers: &HeaderMap, media_type: &str) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let first = accept.split([',', ';']).next().unwrap_or_default();
    first.trim().eq_ignore_ascii_case(media_type)
}

fn json(status: StatusCode, value: &serde_json::Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], format!("{value}\n")).into_response()
}
