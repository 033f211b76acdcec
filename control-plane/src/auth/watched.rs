//! Calls that last: whoever makes one is looked at again and again, so that a stream ends soon after the token or the
//! certificate that opened it. Both of its directions are watched: a client that takes no answer could go on to send.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    extract::Request,
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
    direction: Direction,
    /// Made when something has to be waited for.
    look: Option<Pin<Box<Sleep>>>,
    is_over: bool,
}

#[derive(Clone, Copy)]
enum Direction {
    Request,
    Response(Wire),
}

impl Caller {
    /// The same request, of which no more is read once its caller may not make it any more.
    pub(crate) fn watch_request(&self, request: Request) -> Request {
        request.map(|body| self.watched(body, Direction::Request))
    }

    /// The same answer, which ends when its caller may not have it any more.
    pub(crate) fn watch(&self, response: Response, wire: Wire) -> Response {
        response.map(|body| self.watched(body, Direction::Response(wire)))
    }

    fn watched(&self, body: Body, direction: Direction) -> Body {
        if !self.is_known() {
            return body;
        }
        Body::new(Watched { body, caller: self.clone(), direction, look: None, is_over: false })
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

    /// What comes last, in place of what was to come.
    fn last_word(&self, refusal: Refusal) -> Result<Frame<Bytes>, axum::Error> {
        let status = refusal.status();
        let mut trailers = HeaderMap::new();
        match self.direction {
            Direction::Response(Wire::Grpc) if status.add_header(&mut trailers).is_ok() => {
                Ok(Frame::trailers(trailers))
            }
            Direction::Response(_) => Err(axum::Error::new(refusal)),
            // By which the handler ends the call.
            Direction::Request => Err(axum::Error::new(status)),
        }
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
        Poll::Ready(Some(watched.last_word(refusal)))
    }

    fn is_end_stream(&self) -> bool {
        self.is_over || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, sync::Arc};

    use http::header;
    use http_body_util::{BodyExt as _, StreamBody};
    use tokio_stream::{StreamExt as _, iter, pending};
    use tonic::{Code, Status};

    use super::*;
    use crate::auth::{Gate, Lock, file, gate::tests::auth_file};

    const ENTRY: &str = "roles = [\"data-plane\"]";

    /// A body of one frame that does not end, which somebody known watches; and the gate that knows him.
    async fn watched(direction: Direction) -> (Body, Arc<Gate>) {
        let folder = tempfile::tempdir().unwrap();
        let path = auth_file(folder.path(), &[("dp", ENTRY), ("other", ENTRY)]);
        let lock = Lock::by_file(path.clone(), file::load(&path).unwrap(), 0);
        let gate = Arc::new(Gate { lock: Some(lock), ..Gate::open() });
        let headers = [(header::AUTHORIZATION, "Bearer dp".parse().unwrap())].into_iter().collect();
        let caller = gate.caller(&headers, &http::Extensions::new());
        let first = iter([Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"first")))]);
        let mut body = caller.watched(Body::new(StreamBody::new(first.chain(pending()))), direction);
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "first");
        (body, gate)
    }

    /// Reads the file again in which only these are left.
    fn leaves(gate: &Gate, entries: &[(&str, &str)]) {
        let folder = tempfile::tempdir().unwrap();
        gate.lock.as_ref().unwrap().put(file::load(&auth_file(folder.path(), entries)).unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn neither_direction_of_a_call_outlives_the_token_by_more_than_a_look() {
        for direction in
            [Direction::Request, Direction::Response(Wire::Grpc), Direction::Response(Wire::Http)]
        {
            let (mut body, gate) = watched(direction).await;
            assert!(
                tokio::time::timeout(3 * LOOK_INTERVAL, body.frame()).await.is_err(),
                "while it is there"
            );
            leaves(&gate, &[("other", ENTRY)]);
            let begun = Instant::now();
            let last = body.frame().await.unwrap();
            assert!(begun.elapsed() <= LOOK_INTERVAL);
            match direction {
                Direction::Response(Wire::Grpc) => {
                    assert_eq!(last.unwrap().into_trailers().unwrap()["grpc-status"], "16");
                }
                Direction::Response(Wire::Http) => assert!(last.is_err()),
                Direction::Request => {
                    let status = Status::from_error(last.unwrap_err().into());
                    assert_eq!(status.code(), Code::Unauthenticated);
                }
            }
            assert!(body.frame().await.is_none());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_goes_on_when_others_lose_their_rights_and_ends_when_its_caller_has_others() {
        let (mut body, gate) = watched(Direction::Request).await;
        leaves(&gate, &[("dp", ENTRY)]);
        assert!(tokio::time::timeout(3 * LOOK_INTERVAL, body.frame()).await.is_err());
        leaves(&gate, &[("dp", "roles = [\"data-plane\"]\nnodes = [\"dp-1\"]")]);
        let status = Status::from_error(body.frame().await.unwrap().unwrap_err().into());
        assert_eq!(status.code(), Code::PermissionDenied);
        assert!(status.message().contains("begin anew"), "{status}");
    }
}
