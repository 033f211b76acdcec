//! The HTTP edge: registration for callers without gRPC, probes and metrics. Every error is problem+json.

mod probes;
mod register;

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, State, rejection::PathRejection},
    http::Method,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use gateway_proto::{ReplicaKey, json::to_json};
use http::{StatusCode, header};

use crate::{
    edge::Edge,
    panics::{self, Containment, Handler},
    refusal::Refusal,
};

/// Everything that is not gRPC.
pub(crate) fn router(edge: &Arc<Edge>) -> Router {
    let containment = Containment { panics: edge.panics.clone(), handler: Handler::Http };
    Router::new()
        .route("/register", post(register::register).delete(register::deregister))
        .route("/v1/services/{service}/replicas/{replica}", get(replica))
        .route("/livez", get(probes::livez))
        .route("/healthz", get(probes::livez))
        .route("/readyz", get(probes::readyz))
        .route("/metrics", get(probes::metrics))
        .fallback(async || Refusal::Path)
        .layer(middleware::from_fn(explain_method))
        .layer(middleware::from_fn_with_state(containment, panics::contain))
        .with_state(Arc::clone(edge))
}

/// The replica that `POST /register` names in its `Location`.
async fn replica(
    State(edge): State<Arc<Edge>>,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Result<Response, Refusal> {
    let Path((service, replica)) = path.map_err(|_| Refusal::Path)?;
    let key = ReplicaKey::parse(&service, &replica)?;
    Ok(json(StatusCode::OK, &to_json(&edge.get_replica(&key)?)))
}

/// Gives the bare 405 of the router a body; its `Allow` header stays.
async fn explain_method(method: Method, request: axum::extract::Request, next: Next) -> Response {
    let response = next.run(request).await;
    if response.status() != StatusCode::METHOD_NOT_ALLOWED {
        return response;
    }
    let mut explained = Refusal::Method(method).into_response();
    if let Some(allow) = response.headers().get(header::ALLOW) {
        explained.headers_mut().insert(header::ALLOW, allow.clone());
    }
    explained
}

fn json(status: StatusCode, value: &serde_json::Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], format!("{value}\n")).into_response()
}
