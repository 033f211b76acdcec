//! A connection from a client in HTTP/2: the engine speaks it, this says how long it may last and what it may take up.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use h2::{
    Ping, PingPong, RecvStream,
    server::{self, Handshake, SendResponse},
};
use http::Request;
use http_body::Body;

use super::{flood::FloodGuard, guarded::Guarded};
use crate::{
    proxy::{
        body::{request_body::ClientBody, response_body::Answer},
        downstream::{Asker, Client, stream::Stream},
        errors::refusals::Reason,
        head::RequestHead,
        worker::{Worker, limits::Limits},
    },
    routing::Tick,
};

/// A silent client is asked for a sign of life this often, and has as long to give one.
const PING: Duration = Duration::from_secs(20);

/// Of a head that is larger than it may be, so many times as much is read: it is answered, and counted, as any other refusal. Beyond
/// that the engine answers by itself, and tells nobody.
const READ_HEAD: usize = 2;

/// A connection under way.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) worker: Rc<Worker>,
    pub(super) client: Rc<Client>,
    /// Its place among the worker's deadlines.
    place: usize,
    /// Requests under way.
    pub(super) open: Cell<u32>,
    /// Requests so far.
    pub(super) served: Cell<u64>,
}

/// Serves one connection to its end, or to the end of what is in flight once the worker drains. Each request is `answered`
/// on its own, on the worker's own thread.
pub(in crate::proxy) async fn serve<F, B>(
    worker: &Rc<Worker>,
    client: Rc<Client>,
    stream: Stream,
    answered: impl Fn(Rc<Worker>, Asker, RequestHead, ClientBody) -> F + Copy + 'static,
) where
    F: Future<Output = Answer<B>> + 'static,
    B: Body<Data = Bytes> + From<Bytes> + Unpin + 'static,
{
    let limits = worker.limits();
    let this = Rc::new(Connection {
        worker: Rc::clone(worker),
        client,
        place: worker.deadlines().begin(),
        open: Cell::new(0),
        served: Cell::new(0),
    });
    let guard = FloodGuard::new(limits.resets, limits.control_frames);
    let stream = Guarded::new(stream, guard, worker.clock());
    let engine = Engine::begin(stream.clone(), limits);
    let ended = this.follow(engine, &stream, |request, respond| this.begin(request, respond, answered)).await;
    if let Some(flood) = stream.flood() {
        tracing::debug!(reason = flood.reason().as_str(), client = this.client.ip(), "a client floods");
        worker.refused(flood.reason());
        return stream.turn_away(limits.linger_timeout).await;
    }
    if let Some(Err(error)) = ended {
        tracing::debug!(%error, client = this.client.ip(), "connection ended");
        // By the engine, because of what the client sent.
        if error.is_go_away() && error.is_library() {
            worker.refused(Reason::Http2Violation);
        }
    }
}

impl Connection {
    /// Follows a connection to its end, each request of which is `begun`; `None` when the client does not take its leave, or gives
    /// no sign of life. It is idle while no request is under way and nothing of an answer is sent.
    async fn follow(
        &self,
        mut engine: Engine,
        stream: &Guarded,
        mut begun: impl FnMut(Request<RecvStream>, SendResponse<Bytes>),
    ) -> Option<Result<(), h2::Error>> {
        let (worker, limits) = (&self.worker, self.worker.limits());
        let mut is_ending = false;
        let mut idle_since: Option<(Tick, u64)> = None;
        let mut life = Life { heard: 0, since: worker.now(), is_asked: false };
        poll_fn(|cx| {
            loop {
                if let Poll::Ready(ended) = engine.poll(cx, &mut begun) {
                    return Poll::Ready(Some(ended));
                }
                let now = worker.now();
                let limit = if is_ending { limits.linger_timeout } else { limits.idle_timeout };
                idle_since = match idle_since {
                    _ if self.open.get() > 0 => None,
                    Some((since, so_far)) if so_far == stream.sent() => Some((since, so_far)),
                    _ => Some((now, stream.sent())),
                };
                let due = idle_since.map_or(Tick::NEVER, |(since, _)| since.plus(limit));
                let is_over = idle_since.is_some() && now >= due;
                if is_ending && is_over {
                    return Poll::Ready(None);
                }
                let is_used_up = limits.requests_per_connection.is_some_and(|most| self.served.get() >= most);
                if is_ending || !(is_over || is_used_up || worker.is_draining()) {
                    let looked_at = match life.look(stream.heard(), now) {
                        Look::Wait(due) => due,
                        Look::Ask(due) => {
                            engine.ask(cx);
                            due
                        }
                        Look::Dead => {
                            tracing::debug!(client = self.client.ip(), "a client gives no sign of life");
                            engine.give_up(cx);
                            return Poll::Ready(None);
                        }
                    };
                    worker.deadlines().set(self.place, due.min(looked_at), cx.waker());
                    return Poll::Pending;
                }
                is_ending = true;
                idle_since = None;
                engine.end();
            }
        })
        .await
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.worker.deadlines().end(self.place);
    }
}

/// What speaks the protocol, on one connection.
struct Engine {
    state: State,
    /// Whether it is to end behind what is in flight.
    is_ending: bool,
}

/// Boxed, because both are large, and one becomes the other.
enum State {
    Beginning(Box<Handshake<Guarded, Bytes>>),
    Running { connection: Box<server::Connection<Guarded, Bytes>>, pings: Option<PingPong> },
}

impl Engine {
    fn begin(stream: Guarded, limits: &Limits) -> Self {
        let mut builder = server::Builder::new();
        builder
            .max_concurrent_streams(limits.streams)
            .max_local_error_reset_streams(Some(limits.resets as usize))
            .max_header_list_size(u32::try_from(limits.head.bytes * READ_HEAD).unwrap_or(u32::MAX))
            .initial_window_size(limits.stream_window)
            .initial_connection_window_size(limits.connection_window)
            .max_send_buffer_size(limits.send_buffer as usize)
            .enable_connect_protocol();
        let handshake = Box::new(builder.handshake(stream));
        Self { state: State::Beginning(handshake), is_ending: false }
    }

    /// Moves the connection's bytes, and has each request `begun` that has come. Completes at the connection's end.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut begun: impl FnMut(Request<RecvStream>, SendResponse<Bytes>),
    ) -> Poll<Result<(), h2::Error>> {
        loop {
            match &mut self.state {
                State::Beginning(handshake) => {
                    let mut connection = Box::new(ready!(Pin::new(&mut **handshake).poll(cx))?);
                    if self.is_ending {
                        connection.graceful_shutdown();
                    }
                    self.state = State::Running { pings: connection.ping_pong(), connection };
                }
                State::Running { connection, .. } => match ready!(connection.poll_accept(cx)) {
                    Some(request) => {
                        let (request, respond) = request?;
                        begun(request, respond);
                    }
                    None => return Poll::Ready(Ok(())),
                },
            }
        }
    }

    /// Has it end behind what is in flight.
    fn end(&mut self) {
        self.is_ending = true;
        if let State::Running { connection, .. } = &mut self.state {
            connection.graceful_shutdown();
        }
    }

    /// Asks the client for a sign of life.
    fn ask(&mut self, cx: &mut Context<'_>) {
        if let State::Running { pings: Some(pings), .. } = &mut self.state {
            // What the last one was answered with counts for nothing more: whatever comes is a sign of life.
            let _ = pings.poll_pong(cx);
            // It wakes this task, by which it is sent.
            if let Err(error) = pings.send_ping(Ping::opaque()) {
                tracing::debug!(%error, "a client cannot be asked for a sign of life");
            }
        }
    }

    /// Ends it at once, with a goodbye if that can be written.
    fn give_up(&mut self, cx: &mut Context<'_>) {
        if let State::Running { connection, .. } = &mut self.state {
            connection.abrupt_shutdown(h2::Reason::NO_ERROR);
            let _ = connection.poll_closed(cx);
        }
    }
}

/// What is known of whether a client is there.
#[derive(Debug)]
struct Life {
    /// Bytes that had come of it at the last look.
    heard: u64,
    /// When they had, or when it was asked.
    since: Tick,
    is_asked: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Look {
    /// It is to be looked at again then.
    Wait(Tick),
    /// It is to be asked, and to be looked at again then.
    Ask(Tick),
    /// It was asked, and said nothing.
    Dead,
}

impl Life {
    fn look(&mut self, heard: u64, now: Tick) -> Look {
        if heard != self.heard {
            *self = Self { heard, since: now, is_asked: false };
        }
        if now < self.since.plus(PING) {
            return Look::Wait(self.since.plus(PING));
        }
        if self.is_asked {
            return Look::Dead;
        }
        (self.since, self.is_asked) = (now, true);
        Look::Ask(now.plus(PING))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_client_is_asked_and_given_up_when_it_stays_silent() {
        let at = |secs| Tick::ORIGIN.plus(Duration::from_secs(secs));
        let mut life = Life { heard: 0, since: at(0), is_asked: false };
        assert_eq!(life.look(0, at(19)), Look::Wait(at(20)));
        assert_eq!(life.look(9, at(19)), Look::Wait(at(39)));
        assert_eq!(life.look(9, at(39)), Look::Ask(at(59)));
        assert_eq!(life.look(9, at(58)), Look::Wait(at(59)));
        assert_eq!(life.look(10, at(58)), Look::Wait(at(78)), "whatever comes is an answer");
        assert_eq!(life.look(10, at(80)), Look::Ask(at(100)));
        assert_eq!(life.look(10, at(100)), Look::Dead);
    }
}
