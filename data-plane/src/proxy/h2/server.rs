//! A connection from a client in HTTP/2: the engine speaks it, this says how long it may last and what it may take up.

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    io,
    rc::Rc,
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use gateway_http2::{
    Config, End, Guard, Request, Shared, accept,
    frame::{ErrorCode, Head},
    hpack::ListLimits,
};
use http_body::Body;

use super::{
    flood::{Flood, FloodGuard},
    heads::ProxyHeads,
    transport::Transport,
};
use crate::{
    clock::Clock,
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

/// Of a head that is larger than it may be, so many times as much is read: it is answered, and counted, as any other refusal.
const READ_HEAD: usize = 2;
/// As many fields of a head are pseudo-fields, at most.
const PSEUDO_FIELDS: usize = 5;

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
    let engine = Rc::new(RefCell::new(gateway_http2::Connection::server(config(limits))));
    let mut transport = Transport::new(stream, Rc::clone(&engine), Rc::clone(worker.buffers()));
    let mut watch = Watch {
        guard: FloodGuard::new(limits.resets, limits.control_frames),
        clock: worker.clock(),
        flood: None,
    };
    this.follow(&engine, &mut transport, &mut watch, |request| this.begin(request, answered)).await;
    let (end, ip) = (engine.borrow().end(), this.client.ip());
    if let Some(flood) = watch.flood {
        tracing::debug!(reason = flood.reason().as_str(), client = ip, "a client floods");
        worker.refused(flood.reason());
    }
    match end {
        // Because of what the client sent.
        Some(End::Violation(code, why)) => {
            tracing::debug!(%code, why, client = ip, "connection ended");
            worker.refused(Reason::Http2Violation);
        }
        Some(End::Lost(error)) => return tracing::debug!(%error, client = ip, "connection ended"),
        Some(End::GivenUp(..)) | None => {}
    }
    transport.close(limits.linger_timeout).await;
}

/// What a connection may take up.
fn config(limits: &Limits) -> Config {
    let read = limits.head.bytes.saturating_mul(READ_HEAD);
    Config {
        streams: limits.streams,
        stream_window: limits.stream_window,
        connection_window: limits.connection_window,
        send_buffer: limits.send_buffer as usize,
        // Clients send none.
        interim: 0,
        head: ListLimits { bytes: read, fields: limits.head.fields + PSEUDO_FIELDS },
        advertised_head: u32::try_from(read).unwrap_or(u32::MAX),
    }
}

/// The guard, and what it goes by.
struct Watch {
    guard: FloodGuard,
    clock: Clock,
    flood: Option<Flood>,
}

impl Watch {
    fn judged(&mut self, judged: Result<(), Flood>) -> Result<(), &'static str> {
        self.flood = judged.err();
        judged.map_err(Flood::text)
    }
}

impl Guard for Watch {
    fn received(&mut self, frame: &Head, sent: u64) -> Result<(), &'static str> {
        let judged = self.guard.received(frame, sent, || self.clock.now());
        self.judged(judged)
    }

    fn has_to_reset(&mut self) -> Result<(), &'static str> {
        let judged = self.guard.reset(|| self.clock.now());
        self.judged(judged)
    }
}

impl Connection {
    /// Follows a connection to its end, each request of which is `begun`. It is idle while no request is under way and nothing of an
    /// answer is sent.
    async fn follow(
        &self,
        engine: &Shared<ProxyHeads>,
        transport: &mut Transport,
        watch: &mut Watch,
        mut begun: impl FnMut(Request<ProxyHeads>),
    ) {
        let (worker, limits) = (&self.worker, self.worker.limits());
        let mut is_ending = false;
        // By when a client has heard that the connection ends, or is taken at its silence.
        let mut heard_by = Tick::NEVER;
        let mut idle_since: Option<(Tick, u64)> = None;
        let mut life = Life { heard: 0, since: worker.now(), is_asked: false };
        poll_fn(|cx| {
            loop {
                let polled = transport.poll(cx, watch, || {
                    while let Some(request) = accept(engine) {
                        begun(request);
                    }
                });
                // Why it has ended, if it has not as it should, the engine knows.
                if polled.is_ready() {
                    return Poll::Ready(());
                }
                // It was given up, and its last words are not taken.
                is_ending |= engine.borrow().end().is_some();
                let now = worker.now();
                let limit = if is_ending { limits.linger_timeout } else { limits.idle_timeout };
                let sent = engine.borrow().sent();
                idle_since = match idle_since {
                    _ if self.open.get() > 0 => None,
                    Some((since, so_far)) if so_far == sent => Some((since, so_far)),
                    _ => Some((now, sent)),
                };
                let due = idle_since.map_or(Tick::NEVER, |(since, _)| since.plus(limit));
                let is_over = idle_since.is_some() && now >= due;
                if is_ending && is_over {
                    // The client does not take its leave.
                    engine.borrow_mut().lost(io::ErrorKind::TimedOut);
                    return Poll::Ready(());
                }
                if now >= heard_by {
                    heard_by = Tick::NEVER;
                    // By which this task is woken, and sends it.
                    engine.borrow_mut().leave_now();
                }
                let is_used_up = limits.requests_per_connection.is_some_and(|most| self.served.get() >= most);
                if is_ending || !(is_over || is_used_up || worker.is_draining()) {
                    let looked_at = match life.look(transport.heard(), now) {
                        Look::Wait(due) => due,
                        Look::Ask(due) => {
                            // By which this task is woken, and sends it.
                            engine.borrow_mut().ping();
                            due
                        }
                        Look::Dead => {
                            tracing::debug!(client = self.client.ip(), "a client gives no sign of life");
                            engine.borrow_mut().give_up(ErrorCode::NO_ERROR, "no sign of life");
                            let _ = transport.poll_write(cx);
                            engine.borrow_mut().lost(io::ErrorKind::TimedOut);
                            return Poll::Ready(());
                        }
                    };
                    let due = due.min(looked_at).min(heard_by);
                    worker.deadlines().set(self.place, due, cx.waker());
                    return Poll::Pending;
                }
                is_ending = true;
                idle_since = None;
                heard_by = now.plus(limits.linger_timeout);
                engine.borrow_mut().leave();
            }
        })
        .await;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.worker.deadlines().end(self.place);
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
