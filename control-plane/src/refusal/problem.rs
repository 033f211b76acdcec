//! A refusal as HTTP has it: `application/problem+json` (RFC 9457), whether it began as ours or as a gRPC status.

use std::time::Duration;

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use gateway_proto::{code_name, reason};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::Refusal;

/// What a caller over HTTP is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) http: StatusCode,
    pub(crate) code: Code,
    pub(crate) detail: String,
    pub(crate) reason: String,
    pub(crate) domain: String,
    /// Fields at fault and what is wrong with each.
    pub(crate) violations: Vec<(String, String)>,
    /// When to try again, where that may help.
    pub(crate) retry: Option<Duration>,
}

impl Problem {
    /// The document, on one line.
    pub(crate) fn document(&self) -> Value {
        let violation =
            |(field, description): &(String, String)| json!({"field": field, "description": description});
        json!({
            "type": "about:blank",
            "title": self.http.canonical_reason().unwrap_or("Client Closed Request"),
            "status": self.http.as_u16(),
            "detail": self.detail,
            "code": code_name(self.code),
            "reason": self.reason,
            "domain": self.domain,
            "violations": self.violations.iter().map(violation).collect::<Vec<_>>(),
        })
    }
}

impl From<&Refusal> for Problem {
    fn from(refusal: &Refusal) -> Self {
        let row = refusal.row();
        Self {
            http: row.http,
            code: row.code,
            detail: refusal.to_string(),
            reason: row.reason.to_owned(),
            domain: reason::DOMAIN.to_owned(),
            violations: refusal.violations(),
            retry: row.retry,
        }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Self::from(&refusal)
    }
}

impl From<Status> for Problem {
    /// A status without details, such as the library's own, has its code's name as the reason.
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info();
        let reason = info.map_or(code_name(status.code()), |info| info.reason.as_str());
        let violations = details.bad_request().map(|bad| bad.field_violations.as_slice()).unwrap_or_default();
        Self {
            http: http_status(status.code(), reason),
            code: status.code(),
            detail: status.message().to_owned(),
            reason: reason.to_owned(),
            domain: info.map_or(reason::DOMAIN, |info| info.domain.as_str()).to_owned(),
            violations: violations.iter().map(|v| (v.field.clone(), v.description.clone())).collect(),
            retry: details.retry_info().and_then(|retry| retry.retry_delay),
        }
    }
}

/// What a gRPC code is over HTTP; where HTTP has a finer word for one of our reasons, that.
fn http_status(code: Code, reason: &str) -> StatusCode {
    match (code, reason) {
        (Code::ResourceExhausted, reason::STORE_UNAVAILABLE | reason::INTERRUPTED) => {
            StatusCode::INSUFFICIENT_STORAGE
        }
        (Code::ResourceExhausted, reason::MALFORMED_REQUEST) => StatusCode::PAYLOAD_TOO_LARGE,
        (Code::DeadlineExceeded, reason::MALFORMED_REQUEST | reason::ACK_OVERDUE) => {
            StatusCode::REQUEST_TIMEOUT
        }
        (Code::InvalidArgument | Code::OutOfRange, _) => StatusCode::BAD_REQUEST,
        (Code::Unauthenticated, _) => StatusCode::UNAUTHORIZED,
        (Code::PermissionDenied, _) => StatusCode::FORBIDDEN,
        (Code::NotFound, _) => StatusCode::NOT_FOUND,
        (Code::Aborted, reason::ETAG_MISMATCH) => StatusCode::PRECONDITION_FAILED,
        // 409 rather than 400, so that people tell a state that forbids it from a typo.
        (Code::FailedPrecondition | Code::Aborted | Code::AlreadyExists, _) => StatusCode::CONFLICT,
        (Code::ResourceExhausted, _) => StatusCode::TOO_MANY_REQUESTS,
        (Code::Cancelled, _) => StatusCode::from_u16(499).expect("a number of three digits is a status"),
        (Code::Unimplemented, _) => StatusCode::NOT_IMPLEMENTED,
        (Code::Unavailable, _) => StatusCode::SERVICE_UNAVAILABLE,
        (Code::DeadlineExceeded, _) => StatusCode::GATEWAY_TIMEOUT,
        (Code::Ok | Code::Unknown | Code::Internal | Code::DataLoss, _) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(format!("{}\n", self.document())));
        *response.status_mut() = self.http;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.http == StatusCode::UNAUTHORIZED {
            // RFC 6750, section 3.1: no error where nothing was shown.
            let challenge = match self.reason.as_str() {
                reason::CREDENTIALS_REQUIRED => "Bearer realm=\"gateway\"",
                _ => "Bearer realm=\"gateway\", error=\"invalid_token\"",
            };
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if let Some(delay) = self.retry {
            // Whole seconds, and never "at once".
            headers
                .insert(header::RETRY_AFTER, HeaderValue::from(delay.as_secs_f64().ceil().max(1.0) as u64));
        }
        response
    }
}
