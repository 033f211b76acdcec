//! A connection that many requests share: HTTP/2, driven by one task of its own.

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use gateway_http2::{Config, Connection, Guard, Purpose, Receiver, Sender, frame, hpack::ListLimits};
use tokio::{
    sync::Notify,
    time::{Interval, Sleep},
};

use super::{
    connect::tls_fault,
    silence::{Look, Silence},
};
use crate::{
    clock::Clock,
    proxy::{
        downstream::stream::Stream,
        h1::{Buffers, MAX_INTERIM},
        h2::{FloodGuard, Head, ProxyHeads, Transport},
        worker::limits::Limits,
    },
    routing::{Fault, Tick},
};

/// Most requests at once on one connection, if the replica allows as many.
const MAX_STREAMS: u32 = 100;
/// What a replica may send of one response ahead of its reader: all that a slow one costs.
const STREAM_WINDOW: u32 = 256 << 10;
/// ... and of all responses together. Each stream can have its whole window, so that none waits for another's reader.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * MAX_STREAMS;
/// What waits to be sent of one request's body.
const SEND_BUFFER: usize = 64 << 10;
/// How often a connection's silence is looked at, and how long a PING may stay without an answer.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);
/// Time for the last words of a connection that nobody uses any more.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection that requests share.
#[derive(Debug)]
pub(super) struct Shared {
    engine: gateway_http2::Shared<ProxyHeads>,
    /// Whether it takes no more requests.
    is_retired: Cell<bool>,
    /// Requests under way.
    streams: Cell<u32>,
    /// Since when there is none.
    idle_since: Cell<Tick>,
    /// Whether it has carried a request.
    is_used: Cell<bool>,
    /// Grows with whatever comes of a response.
    heard: Cell<u64>,
    /// Who waits for more bytes to be written.
    waiting: RefCell<Vec<Waker>>,
    /// What TLS had against the replica.
    fault: Cell<Option<Fault>>,
    /// Who waits for room is told when a request ends, and when the replica has said how many it takes at once.
    room: Rc<Notify>,
}

impl Shared {
    /// Begins a connection, and a task that drives it to its end. `ended` is called then.
    ///
    /// # Errors
    /// Why nothing could be written to it.
    pub(super) async fn begin(
        stream: Stream,
        buffers: &Rc<Buffers>,
        room: Rc<Notify>,
        limits: &Limits,
        clock: Clock,
        ended: impl FnOnce() + 'static,
    ) -> io::Result<Rc<Self>> {
        let engine = Rc::new(RefCell::new(Connection::client(config(limits))));
        let mut transport = Transport::new(stream, Rc::clone(&engine), Rc::clone(buffers));
        poll_fn(|cx| transport.poll_write(cx)).await?;
        let shared = Rc::new(Self {
            engine,
            is_retired: Cell::new(false),
            streams: Cell::new(0),
            idle_since: Cell::new(clock.now()),
            is_used: Cell::new(false),
            heard: Cell::new(0),
            waiting: RefCell::default(),
            fault: Cell::new(None),
            room,
        });
        let driven = Driven { shared: Rc::clone(&shared), ended: Some(ended) };
        let mut moving = Moving::new(transport, FloodGuard::new(0, limits.control_frames), clock);
        tokio::task::spawn_local(async move {
            if driven.drive(&mut moving).await.is_ok() {
                drop(driven);
                moving.transport.close(CLOSE_TIMEOUT).await;
            }
        });
        Ok(shared)
    }

    /// Whether it takes another request now. One that takes none any more is retired.
    pub(super) fn has_room(&self) -> bool {
        let engine = self.engine.borrow();
        // One need not wait for what the replica allows.
        let most = if engine.is_settled() { engine.peer().max_streams.min(MAX_STREAMS) } else { 1 };
        // Otherwise the replica has said goodbye, or is gone.
        let may_open = engine.may_open();
        drop(engine);
        if !may_open {
            self.retire();
        }
        !self.is_retired() && self.streams.get() < most
    }

    /// It takes no more requests, and ends with the last of those that are under way.
    pub(super) fn retire(&self) {
        if !self.is_retired.replace(true) {
            self.end_if_unused();
        }
    }

    fn end_if_unused(&self) {
        if self.is_retired() && self.streams.get() == 0 {
            // It says goodbye, if the replica listens.
            self.engine.borrow_mut().leave();
        }
    }

    /// Whether there are only last words left to be written.
    fn is_ending(&self) -> bool {
        self.engine.borrow().end().is_some() || (self.is_retired() && self.streams.get() == 0)
    }

    /// Whether the replica has said how many requests it takes at once.
    pub(super) fn is_settled(&self) -> bool {
        self.engine.borrow().is_settled()
    }

    /// What TLS had against the replica, if it is that which ended the connection.
    pub(super) fn tls_fault(&self) -> Option<Fault> {
        self.fault.get()
    }

    /// Whether the replica takes extended CONNECTs (RFC 8441): its settings are waited for. Of one that has ended, nobody
    /// knows: whoever sends finds out.
    pub(super) async fn may_switch(&self) -> bool {
        loop {
            let settles = self.room.notified();
            if !self.engine.borrow().may_open() {
                return true;
            }
            if self.is_settled() {
                return self.engine.borrow().peer().takes_extended_connect;
            }
            settles.await;
        }
    }

    /// Whether it takes no more requests.
    pub(super) fn is_retired(&self) -> bool {
        self.is_retired.get()
    }

    /// Since when nobody uses it.
    pub(super) fn idle_since(&self) -> Option<Tick> {
        (self.streams.get() == 0).then(|| self.idle_since.get())
    }

    /// Opens a stream, on which nothing follows the head if it `is_last`. `None` if the connection takes no more.
    pub(super) fn open(
        &self,
        head: Head,
        is_last: bool,
        purpose: Purpose,
    ) -> Option<(Sender<ProxyHeads>, Receiver<ProxyHeads>)> {
        if self.is_retired() {
            return None;
        }
        gateway_http2::open(&self.engine, head, is_last, purpose)
    }

    /// A request begins. Tells whether there was one before.
    pub(super) fn enter(&self) -> bool {
        self.streams.set(self.streams.get() + 1);
        self.is_used.replace(true)
    }

    /// A request is over.
    pub(super) fn leave(&self, now: Tick) {
        self.streams.set(self.streams.get() - 1);
        self.idle_since.set(now);
        self.room.notify_one();
        self.end_if_unused();
    }

    /// Something of a response has come.
    pub(super) fn hear(&self) {
        self.heard.set(self.heard.get() + 1);
    }

    /// Grows with whatever comes of a response.
    pub(super) fn heard(&self) -> u64 {
        self.heard.get()
    }

    /// Has this task woken when more bytes are written.
    pub(super) fn waits_for_write(&self, cx: &Context<'_>) {
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
    }
}

/// What a connection may take up, and a replica send.
fn config(limits: &Limits) -> Config {
    /// The status is one field more than HTTP/1 has.
    const PSEUDO_FIELDS: usize = 1;
    Config {
        streams: MAX_STREAMS,
        stream_window: STREAM_WINDOW,
        connection_window: CONNECTION_WINDOW,
        send_buffer: SEND_BUFFER,
        interim: MAX_INTERIM,
        head: ListLimits { bytes: limits.head.bytes, fields: limits.head.fields + PSEUDO_FIELDS },
        advertised_head: u32::try_from(limits.head.bytes).unwrap_or(u32::MAX),
    }
}

/// Has a replica that sends too much for nothing given up.
struct Watch {
    guard: FloodGuard,
    clock: Clock,
}

impl Guard for Watch {
    fn received(&mut self, frame: &frame::Head, sent: u64) -> Result<(), &'static str> {
        let judged = self.guard.answered(frame, sent, || self.clock.now());
        judged.map_err(|_| "too many frames that answer nothing")
    }

    /// As often as it is asked, at most.
    fn has_to_reset(&mut self) -> Result<(), &'static str> {
        Ok(())
    }
}

/// What moves a connection's bytes, and when it is time for more than that.
struct Moving {
    transport: Transport,
    watch: Watch,
    silence: Silence,
    looks: Interval,
    /// Until when last words are waited for.
    closing: Option<Pin<Box<Sleep>>>,
}

impl Moving {
    fn new(transport: Transport, guard: FloodGuard, clock: Clock) -> Self {
        let mut looks = tokio::time::interval(LOOK_INTERVAL);
        looks.reset();
        Self { transport, watch: Watch { guard, clock }, silence: Silence::default(), looks, closing: None }
    }
}

/// Tells that a connection has ended, however it did.
struct Driven<F: FnOnce()> {
    shared: Rc<Shared>,
    ended: Option<F>,
}

impl<F: FnOnce()> Driven<F> {
    /// Moves what can be moved until there is nothing more to do but to end the connection.
    ///
    /// # Errors
    /// It broke, or the replica has ended it.
    async fn drive(&self, moving: &mut Moving) -> io::Result<()> {
        poll_fn(|cx| self.poll(cx, moving)).await.inspect_err(|error| {
            tracing::debug!(%error, "a shared connection to a replica broke");
        })
    }

    fn poll(&self, cx: &mut Context<'_>, moving: &mut Moving) -> Poll<io::Result<()>> {
        let Shared { engine, streams, heard, waiting, fault, room, .. } = &*self.shared;
        let Moving { transport, watch, silence, looks, closing } = moving;
        loop {
            let (written, was_settled) = (engine.borrow().written(), self.shared.is_settled());
            let polled = transport.poll(cx, watch, || {});
            if engine.borrow().written() > written {
                waiting.borrow_mut().drain(..).for_each(Waker::wake);
            }
            if !was_settled && self.shared.is_settled() {
                room.notify_waiters();
            }
            if engine.borrow_mut().take_pong() {
                silence.answered();
            }
            if let Poll::Ready(ended) = polled {
                fault.set(ended.as_ref().err().and_then(tls_fault));
                return Poll::Ready(ended);
            }
            if self.shared.is_ending() {
                let closing = closing.get_or_insert_with(|| Box::pin(tokio::time::sleep(CLOSE_TIMEOUT)));
                return closing.as_mut().poll(cx).map(|()| Err(timed_out("it takes no last words")));
            }
            ready!(looks.poll_tick(cx));
            match silence.look(heard.get(), streams.get() > 0) {
                Look::Wait => {}
                Look::Ask => engine.borrow_mut().ping(),
                Look::Dead => {
                    engine.borrow_mut().lost(io::ErrorKind::TimedOut);
                    return Poll::Ready(Err(timed_out("it gives no sign of life")));
                }
            }
        }
    }
}

fn timed_out(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, why)
}

impl<F: FnOnce()> Drop for Driven<F> {
    fn drop(&mut self) {
        self.shared.retire();
        if let Some(ended) = self.ended.take() {
            ended();
        }
    }
}
