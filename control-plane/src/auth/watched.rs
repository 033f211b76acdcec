//! Answers that last: whoever gets one is looked at again and again, so that a stream ends soon after the token or the
//! certificate that opened it.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    response::Response,
};
use http::HeaderMap;
use hyper::body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

use super::Caller;
use crate::refusal::Refusal;

/// How often. With the time in which changed files are noticed, a stream outlives its right by 15 s at most.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// How a refusal is said at the end of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wire {
    Grpc,
    Http,
}

struct Watched {
    body: Body,
    caller: Caller,
    wire: Wire,
    /// Made when an answer has to be waited for.
    look: Option<Pin<Box<Sleep>>>,
    is_over: bool,
}

impl Caller {
    /// The same answer, which ends when its caller may not have it any more.
    pub(crate) fn watch(self, response: Response, wire: Wire) -> Response {
        if !self.is_known() {
            return response;
        }
        response.map(|body| Body::new(Watched { body, caller: self, wire, look: None, is_over: false }))
    }
}

impl Watched {
    /// Whether the caller has lost his right; wakes the task when it is time to look again.
    fn has_ended(&mut self, context: &mut Context<'_>) -> Option<Refusal> {
        let look = self.look.get_or_insert_with(|| Box::pin(sleep(LOOK_INTERVAL)));
        while look.as_mut().poll(context).is_ready() {
            if let Err(denied) = self.caller.look_again() {
                return Some(Refusal::from(denied));
            }
            look.as_mut().reset(Instant::now() + LOOK_INTERVAL);
        }
        None
    }
}

impl hyper::body::Body for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let watched = self.get_mut();
        if watched.is_over {
            return Poll::Ready(None);
        }
        // A stream that is never idle is looked at, too.
        let is_due =
            watched.look.as_ref().is_some_and(|look| look.is_elapsed() || look.deadline() <= Instant::now());
        let polled = if is_due { Poll::Pending } else { Pin::new(&mut watched.body).poll_frame(context) };
        if polled.is_ready() {
            return polled;
        }
        let Some(refusal) = watched.has_ended(context) else {
            return if is_due { Pin::new(&mut watched.body).poll_frame(context) } else { Poll::Pending };
        };
        watched.is_over = true;
        let mut trailers = HeaderMap::new();
        match watched.wire {
            Wire::Grpc if refusal.status().add_header(&mut trailers).is_ok() => {
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
            _ => Poll::Ready(Some(Err(axum::Error::new(refusal)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.is_over || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
