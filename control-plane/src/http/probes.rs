//! For supervisors and for Prometheus.

use std::sync::Arc;

use axum::{
    extract::{Extension, RawQuery, State},
    response::{IntoResponse, Response},
};
use http::{StatusCode, header};

use crate::{
    auth::{Caller, Permission},
    clock,
    edge::Edge,
    registry::View,
};

/// Whether the process turns at all.
pub(super) async fn livez() -> &'static str {
    "ok\n"
}

/// Whether changes are taken; `?verbose` says what stands in the way, and to those who may look how much there is.
pub(super) async fn readyz(
    State(edge): State<Arc<Edge>>,
    Extension(caller): Extension<Caller>,
    RawQuery(query): RawQuery,
) -> Response {
    let status = if edge.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let is_verbose =
        query.is_some_and(|query| query.split('&').any(|part| part.split('=').next() == Some("verbose")));
    if !is_verbose {
        return (status, if status.is_success() { "ok\n" } else { "not ready\n" }).into_response();
    }
    let (revision, replicas) =
        edge.effects.publisher.read(|view: &View| (view.revision(), view.replica_count()));
    let store = match (edge.refusing.borrow().as_ref(), caller.has(Permission::Read)) {
        (None, true) => format!("[+]store ok (revision {revision}, {replicas} replicas)"),
        (None, false) => "[+]store ok".to_owned(),
        (Some(why), true) => {
            format!("[-]store unavailable (serving revision {revision}, changes are refused): {why}")
        }
        (Some(_), false) => "[-]store unavailable".to_owned(),
    };
    let drain = match edge.shutdown.has_begun() {
        false => "[+]not draining",
        true => "[-]draining",
    };
    (status, format!("{store}\n{drain}\n")).into_response()
}

/// What Prometheus reads.
pub(super) async fn metrics(State(edge): State<Arc<Edge>>) -> Response {
    let effects = &edge.effects;
    let store_silence = effects.leases.store_silence(clock::now());
    let text = effects.metrics.text(&effects.publisher, &effects.observation, store_silence, clock::wall());
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
        .into_response()
}
