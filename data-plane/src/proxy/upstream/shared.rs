//! A connection that many requests share: HTTP/2, driven by one task of its own.

use std::{
    cell::{Cell, RefCell},
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use h2::{
    Ping,
    client::{self, SendRequest},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::Notify,
};

use super::{
    connect::tls_fault,
    silence::{Look, Silence},
};
use crate::{
    proxy::{downstream::stream::Stream, worker::limits::Limits},
    routing::{Fault, Tick},
};

/// Most requests at once on one connection, if the replica allows as many.
const MAX_STREAMS: usize = 100;
/// What a replica may send of one response ahead of its reader: all that a slow one costs.
const STREAM_WINDOW: u32 = 256 << 10;
/// ... and of all responses together. Each stream can have its whole window, so that none waits for another's reader.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * MAX_STREAMS as u32;
/// What waits to be sent of one request's body.
const SEND_BUFFER: usize = 64 << 10;
/// How often a connection's silence is looked at, and how long a PING may stay without an answer.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);
/// How often a replica's settings are looked for once something has come of it, while other tasks run in between.
const SETTINGS_LOOKS: u32 = 10;
/// Time for the last words of a connection that nobody uses any more.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection that requests share.
#[derive(Debug)]
pub(super) struct Shared {
    /// Until it takes no more requests.
    sender: RefCell<Option<SendRequest<Bytes>>>,
    /// Requests under way.
    streams: Cell<usize>,
    /// Since when there is none.
    idle_since: Cell<Tick>,
    /// Whether it has carried a request.
    is_used: Cell<bool>,
    /// Grows with whatever comes of a response.
    heard: Cell<u64>,
    traffic: Rc<Traffic>,
    /// The task that drives it looks again.
    retired: Notify,
    /// Who waits for room is told when a request ends.
    room: Rc<Notify>,
}

/// What has gone over a connection below HTTP/2.
#[derive(Debug, Default)]
struct Traffic {
    /// Bytes that the socket, or TLS, has taken.
    written: Cell<u64>,
    /// Who waits for more of them.
    waiting: RefCell<Vec<Waker>>,
    /// Whether anything has come. The first is how many requests the replica takes at once (RFC 9113 section 3.4).
    is_settled: Cell<bool>,
    /// What TLS had against the replica. The library keeps only the text of it.
    fault: Cell<Option<Fault>>,
}

impl Shared {
    /// Begins a connection, and a task that drives it to its end. `ended` is called then.
    ///
    /// # Errors
    /// Why nothing could be written to it.
    pub(super) async fn begin(
        stream: Stream,
        room: Rc<Notify>,
        limits: &Limits,
        now: Tick,
        ended: impl FnOnce() + 'static,
    ) -> Result<Rc<Self>, h2::Error> {
        let traffic = Rc::new(Traffic::default());
        let counted = Counted { stream, traffic: Rc::clone(&traffic), room: Rc::clone(&room) };
        let (sender, connection) = client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(u32::try_from(limits.head.bytes).unwrap_or(u32::MAX))
            .max_send_buffer_size(SEND_BUFFER)
            .initial_max_send_streams(MAX_STREAMS)
            .enable_push(false)
            .handshake::<_, Bytes>(counted)
            .await?;
        let shared = Rc::new(Self {
            sender: RefCell::new(Some(sender)),
            streams: Cell::new(0),
            idle_since: Cell::new(now),
            is_used: Cell::new(false),
            heard: Cell::new(0),
            traffic,
            retired: Notify::new(),
            room,
        });
        let driven = Driven { shared: Rc::clone(&shared), ended: Some(ended) };
        tokio::task::spawn_local(async move { drive(connection, &driven.shared).await });
        Ok(shared)
    }

    /// Whether it takes another request now. One that takes none any more is retired.
    pub(super) fn has_room(&self) -> bool {
        let mut sender = self.sender.borrow_mut();
        let Some(live) = sender.as_mut() else { return false };
        // One need not wait for what the replica allows.
        let max = if self.is_settled() { live.current_max_send_streams().min(MAX_STREAMS) } else { 1 };
        // An error tells that the replica said goodbye, or is gone. Nobody waits here: a clone is asked for each request.
        match live.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Err(_)) => {
                drop(sender);
                self.retire();
                false
            }
            _ => self.streams.get() < max,
        }
    }

    /// It takes no more requests, and ends with the last of those that are under way.
    pub(super) fn retire(&self) {
        self.sender.replace(None);
        self.retired.notify_one();
    }

    /// Whether the replica has said how many requests it takes at once.
    pub(super) fn is_settled(&self) -> bool {
        self.traffic.is_settled.get()
    }

    /// What TLS had against the replica, if it is that which ended the connection.
    pub(super) fn tls_fault(&self) -> Option<Fault> {
        self.traffic.fault.get()
    }

    /// Whether the replica takes extended CONNECTs (RFC 8441): its settings are waited for. Of one that has ended, nobody
    /// knows: whoever sends finds out.
    pub(super) async fn may_switch(&self) -> bool {
        let mut patience = SETTINGS_LOOKS;
        loop {
            let settles = self.room.notified();
            match self.sender() {
                Some(sender) if sender.is_extended_connect_protocol_enabled() => return true,
                Some(_) => {}
                None => return true,
            }
            if !self.is_settled() {
                settles.await;
            } else if patience == 0 {
                return false;
            } else {
                // What has been read may still be on its way through the library.
                patience -= 1;
                tokio::task::yield_now().await;
            }
        }
    }

    /// Whether it takes no more requests.
    pub(super) fn is_retired(&self) -> bool {
        self.sender.borrow().is_none()
    }

    /// Since when nobody uses it.
    pub(super) fn idle_since(&self) -> Option<Tick> {
        (self.streams.get() == 0).then(|| self.idle_since.get())
    }

    /// A way to send one request.
    pub(super) fn sender(&self) -> Option<SendRequest<Bytes>> {
        self.sender.borrow().clone()
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
        if self.streams.get() == 0 && self.is_retired() {
            self.retired.notify_one();
        }
    }

    /// Something of a response has come.
    pub(super) fn hear(&self) {
        self.heard.set(self.heard.get() + 1);
    }

    /// Grows with whatever comes of a response.
    pub(super) fn heard(&self) -> u64 {
        self.heard.get()
    }

    /// Bytes that the system has taken so far.
    pub(super) fn written(&self) -> u64 {
        self.traffic.written.get()
    }

    /// Has this task woken when more of them are.
    pub(super) fn waits_for_write(&self, cx: &Context<'_>) {
        let mut waiting = self.traffic.waiting.borrow_mut();
        if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
    }
}

/// Tells that a connection has ended, however it did.
struct Driven<F: FnOnce()> {
    shared: Rc<Shared>,
    ended: Option<F>,
}

impl<F: FnOnce()> Drop for Driven<F> {
    fn drop(&mut self) {
        self.shared.retire();
        if let Some(ended) = self.ended.take() {
            ended();
        }
    }
}

async fn drive(mut connection: client::Connection<Counted, Bytes>, shared: &Shared) {
    let Some(mut pings) = connection.ping_pong() else { return };
    let mut silence = Silence::default();
    let mut looks = tokio::time::interval(LOOK_INTERVAL);
    looks.reset();
    loop {
        tokio::select! {
            biased;
            ended = &mut connection => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a shared connection to a replica broke");
                }
                return;
            }
            () = shared.retired.notified() => {
                if shared.streams.get() == 0 {
                    // It says goodbye, if the replica listens.
                    let _ = tokio::time::timeout(CLOSE_TIMEOUT, &mut connection).await;
                    return;
                }
            }
            pong = std::future::poll_fn(|cx| pings.poll_pong(cx)), if silence.is_asked() => match pong {
                Ok(_) => silence.answered(),
                Err(_) => return,
            },
            _ = looks.tick() => match silence.look(shared.heard.get(), shared.streams.get() > 0) {
                Look::Wait => {}
                Look::Ask => {
                    if pings.send_ping(Ping::opaque()).is_err() {
                        return;
                    }
                }
                Look::Dead => {
                    tracing::debug!("a shared connection to a replica gives no sign of life");
                    return;
                }
            },
        }
    }
}

/// A stream that tells what goes over it.
#[derive(Debug)]
struct Counted {
    stream: Stream,
    traffic: Rc<Traffic>,
    room: Rc<Notify>,
}

impl Counted {
    fn wrote(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &result {
            Poll::Ready(Ok(count)) => {
                self.traffic.written.set(self.traffic.written.get() + *count as u64);
                self.traffic.waiting.borrow_mut().drain(..).for_each(Waker::wake);
            }
            Poll::Ready(Err(error)) => self.broke(error),
            Poll::Pending => {}
        }
        result
    }

    /// The first fault that is told stays.
    fn broke(&self, error: &io::Error) {
        self.traffic.fault.set(self.traffic.fault.get().or_else(|| tls_fault(error)));
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        match &polled {
            Poll::Ready(Ok(())) if !self.traffic.is_settled.replace(true) => self.room.notify_waiters(),
            Poll::Ready(Err(error)) => self.broke(error),
            _ => {}
        }
        polled
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, data);
        self.wrote(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.wrote(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if let Poll::Ready(Err(error)) = &flushed {
            self.broke(error);
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
