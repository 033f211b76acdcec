//! A connection from a client in HTTP/2: hyper speaks it, this says how long it may last and what it may take up.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use gateway_runtime::panics::caught;
use http::Request;
use http_body::{Body, Frame, SizeHint};
use hyper::{body::Incoming, ext::Protocol, server::conn::http2, service::service_fn, upgrade::OnUpgrade};
use hyper_util::rt::{TokioIo, TokioTimer};

use super::{flood::FloodGuard, guarded::Guarded, request_head, response};
use crate::{
    proxy::{
        body::{pace::Pace, request_body::ClientBody, response_body::Answer},
        downstream::{Client, stream::Stream},
        errors::refusals::Reason,
        head::{RequestHead, request_id::RequestId},
        trail::{self, End},
        tunnel::{Http2Side, ResetHandle, Tunnel},
        worker::{Worker, active::ActiveRequest},
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
struct Connection {
    worker: Rc<Worker>,
    client: Rc<Client>,
    /// Its place among the worker's deadlines.
    place: usize,
    /// Requests under way.
    open: Cell<u32>,
    /// Requests so far.
    served: Cell<u64>,
    /// The stream whose request was handed out last, until its task takes it.
    begun: RefCell<Option<Rc<Sending>>>,
    /// Who is to be told of the task that is started next, which sends the bytes of a tunnel.
    next_sender: RefCell<Option<ResetHandle>>,
}

/// Serves one connection to its end, or to the end of what is in flight once the worker drains. Each request is `answered`
/// on its own, on the worker's own thread.
pub(in crate::proxy) async fn serve<F, B>(
    worker: &Rc<Worker>,
    client: Rc<Client>,
    stream: Stream,
    answered: impl Fn(Rc<Worker>, Rc<Client>, RequestHead, ClientBody) -> F + Copy + 'static,
) where
    F: Future<Output = Answer<B>> + 'static,
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
        + From<Bytes>
        + Unpin
        + 'static,
{
    let limits = worker.limits();
    let this = Rc::new(Connection {
        worker: Rc::clone(worker),
        client,
        place: worker.deadlines().begin(),
        open: Cell::new(0),
        served: Cell::new(0),
        begun: RefCell::default(),
        next_sender: RefCell::default(),
    });
    let service = service_fn(|mut request: Request<Incoming>| {
        let sending = this.begin();
        let this = Rc::clone(&this);
        let (worker, client) = (Rc::clone(&this.worker), Rc::clone(&this.client));
        // In a box of its own: it is ten kilobytes, and the engine and the runtime move what they are given eight times before
        // it runs, and after it.
        Box::pin(async move {
            let asks = request.extensions().get::<Protocol>().is_some();
            let switch = asks.then(|| hyper::upgrade::on(&mut request));
            let (parts, body) = request.into_parts();
            let mut answer = match request_head(&parts, &worker.limits().head) {
                Ok(head) => answered(worker, client, head, ClientBody::Http2(body)).await,
                Err(error) => {
                    let request_id = RequestId::new(worker.random_id());
                    let answer = worker.refuse(&error, "", 0, &request_id);
                    trail::of_unreadable(answer, &worker, &client, &request_id)
                }
            };
            if answer.resets {
                if let Some(trail) = answer.trail.take() {
                    trail.finish(End::Reset, 0);
                }
                return Err(h2::Error::from(h2::Reason::INTERNAL_ERROR));
            }
            if let (Some(mut tunnel), Some(switch)) = (answer.tunnel.take(), switch) {
                tunnel.tell(answer.trail.take());
                this.switch(*tunnel, switch);
            }
            Ok(response(answer).map(|body| Watched::new(body, sending)))
        })
    });
    let mut builder = http2::Builder::new(StreamExecutor(Rc::clone(&this)));
    builder.enable_connect_protocol();
    builder.timer(TokioTimer::new()).keep_alive_interval(PING).keep_alive_timeout(PING);
    builder.max_concurrent_streams(limits.streams).max_local_error_reset_streams(limits.resets as usize);
    builder.max_header_list_size(u32::try_from(limits.head.bytes * READ_HEAD).unwrap_or(u32::MAX));
    builder.initial_stream_window_size(limits.stream_window);
    builder.initial_connection_window_size(limits.connection_window);
    builder.max_send_buf_size(limits.send_buffer as usize);
    let guard = FloodGuard::new(limits.resets, limits.control_frames);
    let stream = Guarded::new(stream, guard, worker.clock());
    let ended = {
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream.clone()), service));
        let sent = || stream.sent();
        this.follow(sent, |cx, is_to_end| {
            if is_to_end {
                connection.as_mut().graceful_shutdown();
            }
            connection.as_mut().poll(cx)
        })
        .await
    };
    if let Some(flood) = stream.flood() {
        tracing::debug!(reason = flood.reason().as_str(), client = this.client.ip(), "a client floods");
        worker.refused(flood.reason());
        return stream.turn_away(limits.linger_timeout).await;
    }
    if let Some(Err(error)) = ended {
        tracing::debug!(%error, client = this.client.ip(), "connection ended");
        if is_breach(&error) {
            worker.refused(Reason::Http2Violation);
        }
    }
}

/// Whether the engine ended the connection because of what the client sent.
fn is_breach(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<h2::Error>());
    cause.is_some_and(|error| error.is_go_away() && error.is_library())
}

impl Connection {
    /// A request has come.
    fn begin(&self) -> Rc<Sending> {
        self.open.set(self.open.get() + 1);
        self.served.set(self.served.get() + 1);
        let sending = Rc::new(Sending::default());
        self.begun.replace(Some(Rc::clone(&sending)));
        // What is started next is this request's own task.
        self.next_sender.take();
        sending
    }

    /// Has a tunnel run over a stream in a task of its own, because the engine has none for what follows its answer to a
    /// CONNECT. To be called right before it gets that: then it starts the stream's sender.
    fn switch(self: &Rc<Self>, tunnel: Tunnel, stream: OnUpgrade) {
        let reset = ResetHandle::default();
        self.next_sender.replace(Some(reset.clone()));
        self.open.set(self.open.get() + 1);
        let task = TunnelTask(Rc::clone(self));
        tokio::task::spawn_local(self.worker.timed(async move {
            let worker = &task.0.worker;
            let tunnelled = async {
                // Without a stream the client is gone, and the replica finds its connection broken.
                if let Ok(stream) = stream.await {
                    tunnel.run(&mut Http2Side::new(stream, reset, Rc::clone(worker.buffers()))).await;
                }
            };
            if caught(tunnelled).await.is_err() {
                worker.panicked("connection");
            }
        }));
    }

    /// Follows a connection, which `poll` drives and has end behind what is in flight, to its end; `None` when the client
    /// does not take its leave. It is idle while no request is under way and nothing of an answer is `sent`.
    async fn follow<T>(
        &self,
        sent: impl Fn() -> u64,
        mut poll: impl FnMut(&mut Context<'_>, bool) -> Poll<T>,
    ) -> Option<T> {
        let (worker, limits) = (&self.worker, self.worker.limits());
        let mut is_ending = false;
        let mut idle_since: Option<(Tick, u64)> = None;
        poll_fn(|cx| {
            if let Poll::Ready(ended) = poll(cx, false) {
                return Poll::Ready(Some(ended));
            }
            loop {
                let limit = if is_ending { limits.linger_timeout } else { limits.idle_timeout };
                idle_since = match idle_since {
                    _ if self.open.get() > 0 => None,
                    Some((since, so_far)) if so_far == sent() => Some((since, so_far)),
                    _ => Some((worker.now(), sent())),
                };
                let due = idle_since.map_or(Tick::NEVER, |(since, _)| since.plus(limit));
                let is_over = idle_since.is_some() && worker.now() >= due;
                if is_ending && is_over {
                    return Poll::Ready(None);
                }
                let is_used_up = limits.requests_per_connection.is_some_and(|most| self.served.get() >= most);
                if is_ending || !(is_over || is_used_up || worker.is_draining()) {
                    worker.deadlines().set(self.place, due, cx.waker());
                    return Poll::Pending;
                }
                is_ending = true;
                idle_since = None;
                if let Poll::Ready(ended) = poll(cx, true) {
                    return Poll::Ready(Some(ended));
                }
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

/// Runs the streams of one connection on the worker's own thread.
#[derive(Debug, Clone)]
struct StreamExecutor(Rc<Connection>);

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for StreamExecutor {
    fn execute(&self, stream: F) {
        let sending = self.0.begun.take();
        let task = StreamTask {
            connection: Rc::clone(&self.0),
            _active: sending.is_some().then(|| self.0.worker.request_begins()),
            sending,
            place: Cell::new(None),
        };
        let reset = self.0.next_sender.take();
        let running = tokio::task::spawn_local(self.0.worker.timed(async move {
            match task.unless_unread(caught(stream)).await {
                Ok(Ok(_)) => {}
                Ok(Err(_)) => task.connection.worker.panicked("request"),
                // Dropping the stream resets it, and closes the replica's connection.
                Err(reason) => task.connection.worker.refused(reason),
            }
        }));
        if let Some(reset) = reset {
            reset.set(running.abort_handle());
        }
    }
}

/// A tunnel under way, which keeps its connection from being idle.
struct TunnelTask(Rc<Connection>);

impl Drop for TunnelTask {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
    }
}

/// A stream under way.
struct StreamTask {
    connection: Rc<Connection>,
    /// `None` of what is not a request's, such as a tunnel.
    sending: Option<Rc<Sending>>,
    /// Its place among the worker's deadlines, once it needs one.
    place: Cell<Option<usize>>,
    _active: Option<ActiveRequest>,
}

impl StreamTask {
    /// What `stream` comes to.
    ///
    /// # Errors
    /// When its client takes nothing of the answer for too long, or all of it too slowly.
    async fn unless_unread<T>(&self, stream: impl Future<Output = T>) -> Result<T, Reason> {
        let worker = &self.connection.worker;
        let mut pace = Pace::new(worker.limits().min_response_rate);
        let mut stream = pin!(stream);
        poll_fn(|cx| {
            if let Poll::Ready(done) = stream.as_mut().poll(cx) {
                return Poll::Ready(Ok(done));
            }
            let since = self.sending.as_ref().and_then(|sending| sending.waits_since(|| worker.now()));
            let Some((since, taken)) = since else {
                pace.goes_on(|| worker.now());
                return Poll::Pending;
            };
            let unread_at = since.plus(worker.limits().unread_timeout);
            let too_slow_at = pace.waits(taken, || worker.now());
            let due = unread_at.min(too_slow_at);
            if worker.now() >= due {
                let is_unread = unread_at <= too_slow_at;
                return Poll::Ready(Err(if is_unread { Reason::Unread } else { Reason::SlowReader }));
            }
            let place = self.place.get().unwrap_or_else(|| worker.deadlines().begin());
            self.place.set(Some(place));
            worker.deadlines().set(place, due, cx.waker());
            Poll::Pending
        })
        .await
    }
}

impl Drop for StreamTask {
    fn drop(&mut self) {
        if let Some(place) = self.place.get() {
            self.connection.worker.deadlines().end(place);
        }
        if self.sending.is_some() {
            self.connection.open.set(self.connection.open.get() - 1);
        }
    }
}

/// How far an answer has gone.
#[derive(Debug, Default)]
struct Sending {
    phase: Cell<Phase>,
    /// Bytes that the client's windows had room for.
    taken: Cell<u64>,
}

#[derive(Debug, Clone, Copy, Default)]
enum Phase {
    /// The client is not what it waits for.
    #[default]
    Quiet,
    /// The client has just taken something, or may take the first of it.
    Moved,
    /// The client has taken nothing since.
    Waits(Tick),
}

impl Sending {
    /// Since when the client takes nothing, if it is what the answer waits for, and how much it has taken before.
    fn waits_since(&self, now: impl FnOnce() -> Tick) -> Option<(Tick, u64)> {
        let since = match self.phase.get() {
            Phase::Quiet => return None,
            Phase::Moved => now(),
            Phase::Waits(since) => since,
        };
        self.phase.set(Phase::Waits(since));
        Some((since, self.taken.get()))
    }
}

/// An answer's body that tells how it goes. The engine asks for more as the client's windows let it.
#[derive(Debug)]
struct Watched<B> {
    body: B,
    sending: Rc<Sending>,
}

impl<B> Watched<B> {
    fn new(body: B, sending: Rc<Sending>) -> Self {
        sending.phase.set(Phase::Moved);
        Self { body, sending }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Watched<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        self.sending.phase.set(if polled.is_pending() { Phase::Quiet } else { Phase::Moved });
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            let count = frame.data_ref().map_or(0, Bytes::len) as u64;
            self.sending.taken.set(self.sending.taken.get() + count);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
