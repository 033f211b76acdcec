//! Everything below `/v1`: a request to an RPC, its response to an answer.

use std::sync::Arc;

use axum::{
    extract::{Query, Request, State},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, Method, header, request::Parts};

use gateway_proto::Invalid;

use super::{
    answer::{answer, problem},
    bind::{Inputs, bind},
    body::{read, read_object},
    call::Grpc,
    operation::Operation,
    paths::Found,
    routes::{Answer, Mask, Payload},
    watch,
};
use crate::{
    auth::Caller,
    edge::Edge,
    refusal::{Problem, Refusal},
};

const JSON: &[&str] = &["application/json"];
const JSON_OR_MERGE_PATCH: &[&str] = &["application/json", "application/merge-patch+json"];
const EVENT_STREAM: &str = "text/event-stream";

/// What a request below `/v1` needs.
#[derive(Debug, Clone)]
pub(super) struct Resources {
    pub(super) edge: Arc<Edge>,
    pub(super) grpc: Grpc,
}

/// Serves whatever the table of routes has.
pub(super) async fn serve(State(resources): State<Resources>, request: Request) -> Response {
    // Whoever asks for the head alone is answered as if for the whole; the server leaves the body out.
    let method = match *request.method() {
        Method::HEAD => Method::GET,
        ref method => method.clone(),
    };
    match Operation::find(&method, request.uri().path()) {
        Found::One(operation, path) => {
            let served = resources.serve(operation, &path, request).await;
            served.unwrap_or_else(IntoResponse::into_response)
        }
        Found::OtherMethods(methods) => {
            let mut response = Refusal::Method(method).into_response();
            let methods: Vec<_> = methods.iter().map(Method::as_str).collect();
            let allow = HeaderValue::try_from(methods.join(",")).expect("names of methods are ASCII");
            response.headers_mut().insert(header::ALLOW, allow);
            response
        }
        Found::Nothing => Refusal::Path.into_response(),
    }
}

impl Resources {
    async fn serve(
        &self,
        operation: &'static Operation,
        path: &[String],
        request: Request,
    ) -> Result<Response, Problem> {
        let (parts, body) = request.into_parts();
        let mut query = read_query(&parts)?;
        let operation = match wants_stream(operation, &mut query, &parts.headers)? {
            true => operation.watched().ok_or(Refusal::NotAStream)?,
            false => operation,
        };
        let body = match operation.route.payload {
            Payload::Field(_, Mask::Named) => read_object(&parts.headers, body, JSON_OR_MERGE_PATCH).await?,
            Payload::Whole | Payload::Field(..) => read_object(&parts.headers, body, JSON).await?,
            // A body that says "force" must not pass for one that does not.
            Payload::Nothing if operation.is_write() && !read(body).await?.is_empty() => {
                let why = "is not taken here: fields are query parameters";
                return Err(Refusal::from(Invalid::new("body", why)).into());
            }
            Payload::Nothing => None,
        };
        let inputs = Inputs { path, query: &query, headers: &parts.headers, body: body.as_ref() };
        let message = bind(operation, &inputs).map_err(Refusal::from)?;
        let caller = Caller::of(&parts.extensions);
        let refused = |status| problem(operation, status);
        if operation.route.answer == Answer::Stream {
            let responses = self.grpc.begin(&operation.rpc, &message, caller).await.map_err(refused)?;
            return Ok(watch::stream(&self.edge, responses));
        }
        let response = self.grpc.call(&operation.rpc, &message, caller).await.map_err(refused)?;
        Ok(answer(operation, &message, &parts.headers, response))
    }
}

fn read_query(parts: &Parts) -> Result<Vec<(String, String)>, Refusal> {
    let query = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri);
    let Query(query) = query.map_err(|error| Invalid::new("query", error.to_string()))?;
    Ok(query)
}

/// Whether a list is to be watched: `?watch=1`, which is taken out, or an `Accept` that names events first.
fn wants_stream(
    operation: &Operation,
    query: &mut Vec<(String, String)>,
    headers: &HeaderMap,
) -> Result<bool, Refusal> {
    if operation.is_write() || operation.route.answer == Answer::Stream {
        return Ok(false);
    }
    let mut wants = super::accepts_first(headers, EVENT_STREAM);
    if operation.watched().is_some() {
        for (_, value) in query.extract_if(.., |(name, _)| name == "watch") {
            wants = match value.as_str() {
                "1" | "true" => true,
                "0" | "false" => wants,
                _ => return Err(Invalid::new("watch", "must be true or false").into()),
            };
        }
    }
    Ok(wants)
}
