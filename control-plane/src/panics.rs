//! What is told of panics: each is counted, and is an event that operators find in the timeline.
//!
//! It also draws the line around handlers, [`contain`]: who asked is told INTERNAL, everybody else, on the same
//! connection too, goes on. Tasks behind streams are the edge's, those that live as long as the process the supervisor's.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{
    body::{Body, Bytes},
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use gateway_runtime::{
    panics::{PanicMessage, catch, caught},
    printable::printable,
    supervise::{self, Notice},
};
use http::HeaderMap;
use hyper::body::{Frame, SizeHint};

use crate::{
    metrics::Metrics,
    observe::{Observation, of_registry},
    refusal::Refusal,
};

/// Most characters of a path in an event: it comes from the caller.
const MAX_PATH_CHARS: usize = 100;

/// Where panics are told.
#[derive(Debug, Clone)]
pub(crate) struct Panics {
    metrics: Arc<Metrics>,
    observation: Arc<Observation>,
}

/// What kind of handler a line is drawn around, which decides how INTERNAL is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handler {
    Grpc,
    Http,
}

/// The line around the handlers of one kind.
#[derive(Debug, Clone)]
pub(crate) struct Containment {
    pub(crate) panics: Panics,
    pub(crate) handler: Handler,
}

impl Panics {
    pub(crate) fn new(metrics: &Arc<Metrics>, observation: &Arc<Observation>) -> Self {
        Self { metrics: Arc::clone(metrics), observation: Arc::clone(observation) }
    }

    /// Tells that a task of the supervisor's panicked.
    pub(crate) fn supervised(&self, notice: &Notice) {
        let Notice { task, panic, next } = notice;
        self.metrics.panicked(task);
        let (event_type, message) = match next {
            supervise::Next::Restart { pause, left } => {
                let message = format!(
                    "task {task} panicked: {panic}; it starts again in {pause:?} ({left} restarts are left)"
                );
                ("TASK_RESTARTED", message)
            }
            supervise::Next::End => {
                ("TASK_GIVEN_UP", format!("task {task} panicked too often: {panic}; the control plane ends"))
            }
        };
        self.tell(event_type, message, task, panic);
    }

    /// Tells that a handler panicked: `task` is its kind, `what` names it.
    pub(crate) fn handled(&self, task: &'static str, what: &str, panic: &PanicMessage) {
        self.metrics.panicked(task);
        let what = printable(what, MAX_PATH_CHARS);
        tracing::error!(task, what, "a handler panicked: its caller is told INTERNAL");
        self.tell("HANDLER_PANICKED", format!("{what} panicked: {panic}"), task, panic);
    }

    fn tell(&self, event_type: &str, message: String, task: &str, panic: &PanicMessage) {
        let metadata = [("task", task.to_owned()), ("panic", panic.to_string())];
        self.observation.note(of_registry(event_type, message, metadata));
    }
}

/// Runs a request's handler, and the body of its response, behind the line.
pub(crate) async fn contain(
    State(containment): State<Containment>,
    request: Request,
    next: Next,
) -> Response {
    let path = request.uri().path().to_owned();
    match caught(next.run(request)).await {
        Ok(response) => response.map(|body| Body::new(Contained { body, path, containment, is_over: false })),
        Err(panic) => {
            containment.tell(&path, &panic);
            containment.answer()
        }
    }
}

impl Containment {
    fn tell(&self, path: &str, panic: &PanicMessage) {
        self.panics.handled(self.handler.task(), path, panic);
    }

    fn answer(&self) -> Response {
        match self.handler {
            Handler::Grpc => Refusal::Internal.status().into_http(),
            Handler::Http => Refusal::Internal.into_response(),
        }
    }
}

impl Handler {
    fn task(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Http => "http",
        }
    }
}

/// A response's body; where making it panics, the response ends with INTERNAL, or breaks off where HTTP has no word for it.
struct Contained {
    body: Body,
    path: String,
    containment: Containment,
    is_over: bool,
}

impl Contained {
    fn broken_off(&mut self, panic: &PanicMessage) -> Result<Frame<Bytes>, axum::Error> {
        self.is_over = true;
        self.containment.tell(&self.path, panic);
        let refused = Refusal::Internal;
        let mut trailers = HeaderMap::new();
        match self.containment.handler {
            Handler::Grpc if refused.status().add_header(&mut trailers).is_ok() => {
                Ok(Frame::trailers(trailers))
            }
            _ => Err(axum::Error::new(refused)),
        }
    }
}

impl hyper::body::Body for Contained {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let contained = self.get_mut();
        if contained.is_over {
            return Poll::Ready(None);
        }
        match catch(|| Pin::new(&mut contained.body).poll_frame(cx)) {
            Ok(polled) => polled,
            Err(panic) => Poll::Ready(Some(contained.broken_off(&panic))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.is_over || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests;
