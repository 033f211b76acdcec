//! Counts RPCs by how they ended, and gives the one error that tonic makes itself its proper form.

use std::{sync::Arc, time::Instant};

use axum::{
    body::Body,
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use gateway_proto::code_name;
use http::HeaderMap;
use http_body_util::BodyExt;
use tonic::Code;

use super::{MAX_OPEN_BYTES, MAX_REPORT_BYTES, MAX_REQUEST_BYTES};
use crate::{clock, metrics::Metrics, refusal::Refusal};

/// Health checking and reflection, whose limit is small.
const OPEN: &str = "/grpc.";
/// The service with the larger limit.
const TAKES_REPORTS: &str = "/gateway.v1.ObservabilityService/";

/// One RPC, counted once: with the status it ends with, or as cancelled when it is dropped before.
struct Rpc {
    metrics: Arc<Metrics>,
    path: String,
    began: Instant,
    is_counted: bool,
}

/// Runs an RPC and counts it.
pub(super) async fn count(State(metrics): State<Arc<Metrics>>, request: Request, next: Next) -> Response {
    let mut rpc =
        Rpc { metrics, path: request.uri().path().to_owned(), began: clock::now(), is_counted: false };
    let mut response = next.run(request).await;
    // tonic refuses an oversized message with OUT_OF_RANGE, which nothing else here uses; the specification's code
    // for it is RESOURCE_EXHAUSTED.
    if code_in(response.headers()) == Some(Code::OutOfRange) {
        let limit = match rpc.path.as_str() {
            path if path.starts_with(TAKES_REPORTS) => MAX_REPORT_BYTES,
            path if path.starts_with(OPEN) => MAX_OPEN_BYTES,
            _ => MAX_REQUEST_BYTES,
        };
        response = Refusal::TooLarge { limit }.status().into_http();
    }
    if let Some(code) = code_in(response.headers()) {
        rpc.ended(code);
    }
    response.map(|body| {
        Body::new(body.map_frame(move |frame| {
            if let Some(code) = frame.trailers_ref().and_then(code_in) {
                rpc.ended(code);
            }
            frame
        }))
    })
}

impl Rpc {
    fn ended(&mut self, code: Code) {
        if std::mem::replace(&mut self.is_counted, true) {
            return;
        }
        // Paths nobody serves come from callers, so they must not become labels.
        let known = if code == Code::Unimplemented { None } else { self.path.strip_prefix('/') };
        let (service, method) = known.and_then(|path| path.split_once('/')).unwrap_or(("unknown", "unknown"));
        self.metrics.handled(service, method, code_name(code), clock::now() - self.began);
    }
}

impl Drop for Rpc {
    fn drop(&mut self) {
        self.ended(Code::Cancelled);
    }
}

fn code_in(headers: &HeaderMap) -> Option<Code> {
    headers.get("grpc-status").map(|code| Code::from_bytes(code.as_bytes()))
}
