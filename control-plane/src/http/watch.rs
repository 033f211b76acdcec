//! A stream of responses as Server-Sent Events (WHATWG HTML, section 9.2): one event for each response.
//!
//! `data` is the response as JSON; `id` says where to go on, and comes back as `Last-Event-ID` when the reader
//! reconnects. A comment in quiet times keeps what is between from giving up. An error is an event `problem`, the end of
//! a stream that has an end an event `end`: without it, a browser would begin anew.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    response::Response,
};
use gateway_proto::json::encode;
use gateway_runtime::panics::caught;
use http::{HeaderValue, StatusCode, header};
use http_body_util::StreamBody;
use hyper::body::Frame;
use prost_reflect::DynamicMessage;
use serde_json::Value;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::Status;

use super::{call::Responses, resume::position};
use crate::{
    edge::Edge,
    refusal::{Problem, Refusal},
};

/// Browsers, proxies and load balancers wait 30 s and more.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// A reader that takes nothing for so long is not there any more, and its place is somebody else's.
pub(super) const STALL: Duration = Duration::from_secs(30);
/// After how many milliseconds a browser reconnects.
pub(super) const RETRY: &str = "retry: 1000\n\n";

/// Streams until the RPC ends, the reader goes, or the shutdown begins.
pub(super) fn stream(edge: &Arc<Edge>, responses: Responses) -> Response {
    // One event on its way, and one that waits: a slow reader holds up only its own RPC.
    let (outbound, events) = mpsc::channel(1);
    let (shutdown, panics) = (edge.shutdown.clone(), edge.panics.clone());
    edge.streams.spawn(async move {
        let ended = tokio::select! {
            ended = caught(forward(responses, &outbound)) => ended,
            () = outbound.closed() => return,
            () = shutdown.begun() => return,
        };
        if let Err(panic) = ended {
            panics.handled("sse_stream", "sse_stream", &panic);
            let problem = Problem::from(Status::from(Refusal::Internal));
            let _ = timeout(STALL, outbound.send(Bytes::from(named("problem", &problem.document())))).await;
        }
    });
    respond(events)
}

/// The answer whose body are these events.
pub(super) fn respond(events: mpsc::Receiver<Bytes>) -> Response {
    let frames =
        ReceiverStream::new(events).map(|event| Ok::<_, std::convert::Infallible>(Frame::data(event)));
    let mut response = Response::new(Body::new(StreamBody::new(frames)));
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Proxies of nginx's kind would collect events before they pass them on.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

async fn forward(mut responses: Responses, outbound: &mpsc::Sender<Bytes>) {
    let mut text = RETRY.to_owned();
    loop {
        let is_taken = timeout(STALL, outbound.send(Bytes::from(std::mem::take(&mut text)))).await;
        if !matches!(is_taken, Ok(Ok(()))) {
            return;
        }
        let quiet = sleep_until(Instant::now() + KEEPALIVE);
        let next = tokio::select! {
            next = responses.next() => next,
            () = quiet => {
                text = ": nothing new\n\n".to_owned();
                continue;
            }
        };
        match next.and_then(|response| response.as_ref().map(event).transpose()) {
            Ok(Some(event)) => text = event,
            last => {
                let last = match last {
                    Ok(_) => named("end", &Value::Object(serde_json::Map::new())),
                    Err(status) => named("problem", &Problem::from(status).document()),
                };
                let _ = timeout(STALL, outbound.send(Bytes::from(last))).await;
                return;
            }
        }
    }
}

fn event(response: &DynamicMessage) -> Result<String, Status> {
    let data = encode(response)
        .map_err(|error| Status::internal(format!("the answer cannot be said in JSON: {error}")))?;
    let id = position(response).map(|position| format!("id: {position}\n")).unwrap_or_default();
    // JSON on one line: its line breaks are escaped.
    Ok(format!("{id}data: {data}\n\n"))
}

/// An event with a name.
pub(super) fn named(name: &str, data: &Value) -> String {
    format!("event: {name}\ndata: {data}\n\n")
}

#[cfg(test)]
mod tests;
