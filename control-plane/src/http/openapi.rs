//! The OpenAPI 3.1 document of all that HTTP can do, written from the table of routes and from the contract: its
//! messages, and its comments as descriptions.

mod comments;
mod operations;
mod others;
mod schemas;

use std::sync::LazyLock;

use axum::{
    body::Bytes,
    response::{IntoResponse, Response},
};
use http::header;
use serde_json::{Value, json};

use self::schemas::Schemas;

pub(super) use self::comments::Comments;
use super::operation::Operation;

/// Made once: nothing in it changes while the process runs.
static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| text().into());

/// `GET /openapi.json`.
pub(super) async fn serve() -> Response {
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-cache")];
    (headers, DOCUMENT.clone()).into_response()
}

fn text() -> String {
    format!("{:#}\n", document())
}

fn document() -> Value {
    let comments = Comments::new();
    let mut schemas = Schemas::new(&comments);
    let mut paths = serde_json::Map::new();
    for operation in Operation::all() {
        let item = paths.entry(operations::path(operation)).or_insert_with(|| json!({}));
        let method = operation.route.method.as_str().to_ascii_lowercase();
        item[method] = operations::describe(operation, &comments, &mut schemas);
    }
    others::add(&mut paths, &mut schemas);
    let tags: Vec<_> =
        comments.services().map(|(name, comment)| json!({"name": name, "description": comment})).collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Gateway control plane",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The registry of services and replicas, their policies, and what data planes see of them. \
                The same operations as the gRPC services of gateway.v1, in proto3 JSON: 64-bit integers are strings, \
                durations are seconds such as \"1.5s\", fields may be named in camelCase or in snake_case, and what \
                is unknown is refused. Every error is application/problem+json.",
            "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": tags,
        // By a client certificate, or where nobody is asked, without.
        "security": [{"token": []}, {}],
        "paths": paths,
        "components": {
            "schemas": schemas.finish(),
            "responses": {"Problem": others::problem_response()},
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Where callers are asked who they are: a token of the auth file, or a JWT. A client \
                        certificate does as well.",
                },
            },
        },
    })
}

#[cfg(test)]
mod tests;
