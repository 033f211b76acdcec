//! An RPC's response as an answer: status, headers, JSON. Pure.

use axum::response::{IntoResponse, Response};
use gateway_proto::json::encode;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use prost_reflect::{DynamicMessage, Value as Field};

use super::{bind::rest_path, operation::Operation, routes::Answer};
use crate::refusal::Problem;

/// What a caller is answered.
pub(super) fn answer(
    operation: &Operation,
    request: &DynamicMessage,
    headers: &HeaderMap,
    response: DynamicMessage,
) -> Response {
    let etag = etag(&response);
    let is_known = etag.as_ref().is_some_and(|etag| !operation.is_write() && matches(headers, etag));
    let (status, location) = match operation.route.answer {
        _ if is_known => (StatusCode::NOT_MODIFIED, None),
        Answer::Registered if is_true(&response, "created") && !is_true(request, "validate_only") => {
            (StatusCode::CREATED, location(&response))
        }
        Answer::Registered => {
            (StatusCode::OK, location(&response).filter(|_| !is_true(request, "validate_only")))
        }
        Answer::Whole | Answer::Field(_) | Answer::Stream => (StatusCode::OK, None),
    };
    let mut answer = if is_known {
        status.into_response()
    } else {
        match encode(&shown(operation, response)) {
            Ok(value) => super::json(status, &value),
            Err(error) => {
                tracing::error!(rpc = operation.rpc.full_name(), %error, "a response has no JSON");
                let status = tonic::Status::internal(format!("the answer cannot be said in JSON: {error}"));
                return Problem::from(status).into_response();
            }
        }
    };
    let headers = answer.headers_mut();
    // What is read must be asked for anew each time; what is answered to a change may hold a lease's secret.
    let cache = if operation.is_write() { "no-store" } else { "no-cache" };
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
    headers.extend(etag.map(|etag| (header::ETAG, etag)));
    headers.extend(location.map(|location| (header::LOCATION, location)));
    answer
}

/// What of a response is the body.
fn shown(operation: &Operation, response: DynamicMessage) -> DynamicMessage {
    match operation.route.answer {
        Answer::Field(name) => match response.get_field_by_name(name).map(|field| field.into_owned()) {
            Some(Field::Message(message)) => message,
            _ => response,
        },
        Answer::Whole | Answer::Registered | Answer::Stream => response,
    }
}

/// A refusal of the RPC in REST's words.
pub(super) fn problem(operation: &Operation, status: tonic::Status) -> Problem {
    let mut problem = Problem::from(status);
    let listed = list(&problem.violations);
    for (field, _) in &mut problem.violations {
        *field = rest_path(operation, field);
    }
    // The sentence of a bad request is the list of its violations, and follows their names.
    if problem.detail == listed {
        problem.detail = list(&problem.violations);
    }
    problem
}

fn list(violations: &[(String, String)]) -> String {
    let lines: Vec<_> = violations.iter().map(|(field, why)| format!("{field}: {why}")).collect();
    lines.join("; ")
}

/// The etag of what a response is about: its own, or that of a message in it.
fn etag(response: &DynamicMessage) -> Option<HeaderValue> {
    let own = |message: &DynamicMessage| {
        let etag = message.get_field_by_name("etag")?.as_str()?.to_owned();
        (!etag.is_empty()).then_some(etag)
    };
    let inner = || response.fields().find_map(|(_, value)| value.as_message().and_then(own));
    let etag = own(response).or_else(inner)?;
    HeaderValue::try_from(format!("\"{etag}\"")).ok().filter(|_| !etag.contains('"'))
}

/// Whether the caller has it already (RFC 9110, section 13.1.2: the weak comparison).
fn matches(headers: &HeaderMap, etag: &HeaderValue) -> bool {
    let known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let mut known = known.flat_map(|value| value.split(',')).map(str::trim);
    known.any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known).as_bytes() == etag.as_bytes())
}

fn location(response: &DynamicMessage) -> Option<HeaderValue> {
    let replica = response.get_field_by_name("replica")?;
    let name = |field: &str| Some(replica.as_message()?.get_field_by_name(field)?.as_str()?.to_owned());
    let path = format!("/v1/services/{}/replicas/{}", name("service")?, name("replica_id")?);
    path.parse().ok()
}

fn is_true(message: &DynamicMessage, field: &str) -> bool {
    message.get_field_by_name(field).and_then(|value| value.as_bool()).unwrap_or(false)
}
