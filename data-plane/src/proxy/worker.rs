//! One worker: a thread with its own listener, its own connections and no work stealing.

pub(super) mod active;
pub(super) mod addresses;
pub(super) mod date;
pub(super) mod deadlines;
pub(super) mod drain;
pub(super) mod flights;
pub(super) mod limits;
pub(super) mod listener;
pub(super) mod sockets;

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    io,
    net::IpAddr,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;

use self::{
    active::{Active, ActiveConnection, ActiveRequest, WorkerActive},
    addresses::{Addresses, Seat},
    date::DateLine,
    deadlines::Deadlines,
    flights::Flights,
    limits::Limits,
    listener::{Accepted, Listener},
};
use super::{
    BACKLOG, Leave, ProxyConfig,
    body::{kept::ReplayMemory, request_body::ClientBody, response_body::Answer},
    downstream::{self, Asker, proxy_headers::ProxyHeaders},
    errors::{
        Caller, GatewayError,
        refusals::{Reason, Refusals},
    },
    forward::{
        forward,
        stale::{Resources, StaleAnswers},
    },
    h1::{Buffers, Pipes, Unread},
    head::{
        RequestHead, field_name::Name, fields::Fields, forwarding::Forwarding, headers::Via,
        request_id::RequestId,
    },
    upstream::{Pool, Way},
};
use crate::{access_log::AccessLog, clock::Clock, routing::Tick, table::Table, traces::Tracer};
use gateway_runtime::{
    Shutdown,
    accept::is_of_one_connection,
    panics::{Caught, PanicCounts, caught},
    supervise::persist,
};

/// Idle connections to replicas are looked through with every so many looks at the deadlines: every five seconds.
const LOOKS_PER_SWEEP: u32 = 20;
/// Pause after a failed accept: without a free file descriptor the next one would fail at once, and the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Once the worker drains, a connection on which nothing has begun has this long to begin a last request: closed at once,
/// one whose request is under way already would lose it.
const LAST_CALL: Duration = Duration::from_secs(1);
/// One that has begun with a head, or with a handshake, has this long to come to its end.
const LAST_HEAD: Duration = Duration::from_secs(2);

/// What the workers share.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    /// What panics on them.
    pub(super) panics: Arc<PanicCounts>,
    /// What they refuse.
    pub(super) refusals: Arc<Refusals>,
    /// Whose connections they have.
    pub(super) addresses: Arc<Addresses>,
    /// Of what they keep the last good answers.
    pub(super) stale_resources: Arc<Resources>,
}

/// What the requests of one worker share.
#[derive(Debug)]
pub(super) struct Worker {
    index: usize,
    config: Arc<ProxyConfig>,
    via: Via,
    table: Arc<Table>,
    clock: Clock,
    /// The time of the poll under way, see [`Worker::timed`].
    tick: Cell<Tick>,
    buffers: Rc<Buffers>,
    pool: Pool,
    flights: Flights,
    deadlines: Deadlines,
    date: DateLine,
    replay_memory: ReplayMemory,
    stale: Rc<RefCell<StaleAnswers>>,
    random: RefCell<SmallRng>,
    drain: Shutdown,
    /// Since when, for those who look often.
    drains_since: Cell<Option<Tick>>,
    active: Arc<WorkerActive>,
    shared: Shared,
}

impl Worker {
    pub(super) fn new(
        index: usize,
        config: Arc<ProxyConfig>,
        table: Arc<Table>,
        clock: Clock,
        shared: Shared,
        active: Arc<WorkerActive>,
    ) -> Self {
        let limits = &config.limits;
        let workers = config.workers.max(1);
        let pipes = Pipes::new(workers, Arc::clone(active.pipes()));
        let buffers = Rc::new(Buffers::new(pipes));
        let way = Way { tls: Arc::clone(&config.upstream_tls), admin: config.admin };
        Self {
            index,
            via: Via::new(&config.node_id),
            table,
            clock,
            tick: Cell::new(clock.now()),
            pool: Pool::new(Rc::clone(&buffers), limits, way, clock),
            replay_memory: ReplayMemory::new(limits.replay_memory / workers, limits.replay_bytes),
            stale: Rc::new(RefCell::new(StaleAnswers::new(
                limits.stale_memory / workers,
                Arc::clone(&shared.stale_resources),
            ))),
            buffers,
            flights: Flights::default(),
            deadlines: Deadlines::default(),
            date: DateLine::default(),
            random: RefCell::new(SmallRng::from_os_rng()),
            drain: Shutdown::new(),
            drains_since: Cell::new(None),
            active,
            shared,
            config,
        }
    }

    pub(super) fn index(&self) -> usize {
        self.index
    }

    pub(super) fn table(&self) -> &Table {
        &self.table
    }

    pub(super) fn pool(&self) -> &Pool {
        &self.pool
    }

    pub(super) fn flights(&self) -> &Flights {
        &self.flights
    }

    pub(super) fn buffers(&self) -> &Rc<Buffers> {
        &self.buffers
    }

    pub(super) fn deadlines(&self) -> &Deadlines {
        &self.deadlines
    }

    /// Has an answer say the present date, unless it says one.
    pub(super) fn settle_date(&self, fields: &mut Fields) {
        if !fields.contains(Name::Date) {
            self.date.append_to(fields, self.now(), || self.clock.moment().wall);
        }
    }

    pub(super) fn replay_memory(&self) -> &ReplayMemory {
        &self.replay_memory
    }

    /// The last good answers, for when nobody gives another.
    pub(super) fn stale(&self) -> &Rc<RefCell<StaleAnswers>> {
        &self.stale
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.config.limits
    }

    pub(super) fn via(&self) -> &Via {
        &self.via
    }

    pub(super) fn domain(&self) -> Option<&str> {
        self.config.domain.as_deref()
    }

    /// A place for one more connection of this address, where it is one client's, and not a trusted proxy's or that of a
    /// load balancer which tells by PROXY headers whom it stands for.
    ///
    /// # Errors
    /// When it is one too many.
    pub(super) fn seat(&self, address: IpAddr) -> Result<Option<Seat>, Reason> {
        let is_trusted = self.config.forwarding.trusted.contains(address);
        if is_trusted || self.proxy_headers().is_some_and(|headers| headers.may_come_from(address)) {
            return Ok(None);
        }
        self.shared.addresses.seat(address).map(Some).ok_or(Reason::TooManyConnections)
    }

    pub(super) fn access_log(&self) -> Option<&AccessLog> {
        self.config.access_log.as_deref()
    }

    pub(super) fn tracer(&self) -> Option<&Tracer> {
        self.config.tracer.as_deref()
    }

    pub(super) fn proxy_headers(&self) -> Option<&ProxyHeaders> {
        self.config.proxy_headers.as_ref()
    }

    pub(super) fn forwarding(&self) -> &Forwarding {
        &self.config.forwarding
    }

    pub(super) fn shows_replica(&self) -> bool {
        self.config.debug_headers
    }

    /// When the poll under way began: a request asks for the time ten times while it is polled twice, and reading the clock
    /// takes as long as picking a replica. Whatever asks runs in a task that is [`Worker::timed`].
    pub(super) fn now(&self) -> Tick {
        self.tick.get()
    }

    fn read_clock(&self) {
        self.tick.set(self.clock.now());
    }

    /// `future`, each poll of which has its own time.
    pub(super) fn timed<F: Future>(self: &Rc<Self>, future: F) -> Timed<F> {
        Timed { worker: Rc::clone(self), future }
    }

    pub(super) fn clock(&self) -> Clock {
        self.clock
    }

    pub(super) fn instant(&self, tick: Tick) -> std::time::Instant {
        self.clock.instant(tick)
    }

    /// From 0.0 up to, without, 1.0.
    pub(super) fn random(&self) -> f64 {
        self.random.borrow_mut().random()
    }

    pub(super) fn random_id(&self) -> u128 {
        self.random.borrow_mut().random()
    }

    /// Counts a panic, whose message is in the log.
    pub(super) fn panicked(&self, task: &'static str) {
        self.shared.panics.count(task);
    }

    /// The answer to a request that the gateway gives itself, which counts it.
    pub(super) fn refuse<B: From<Bytes>>(
        &self,
        error: &GatewayError,
        service: &str,
        attempts: usize,
        request_id: &RequestId,
    ) -> Answer<B> {
        self.refuse_to(Caller::Http, error, service, attempts, request_id)
    }

    /// As [`Worker::refuse`], in words that the caller understands.
    pub(super) fn refuse_to<B: From<Bytes>>(
        &self,
        caller: Caller,
        error: &GatewayError,
        service: &str,
        attempts: usize,
        request_id: &RequestId,
    ) -> Answer<B> {
        self.refused(error.reason());
        error.respond_to(caller, service, attempts, &self.via, request_id)
    }

    /// Counts what ends without an answer.
    pub(super) fn refused(&self, reason: Reason) {
        self.shared.refusals.count(self.index, reason);
    }

    /// Completes when connections are to end after what is in flight on them.
    pub(super) async fn draining(&self) {
        self.drain.begun().await;
    }

    /// Whether that is so. Who has set a deadline is woken when it begins.
    pub(super) fn is_draining(&self) -> bool {
        self.drains_since.get().is_some()
    }

    /// Until when a connection may go on, on which a head `has_begun` or not; `None` as long as the worker does not drain.
    pub(super) fn last_call(&self, has_begun: bool) -> Option<Tick> {
        self.drains_since.get().map(|since| since.plus(if has_begun { LAST_HEAD } else { LAST_CALL }))
    }

    /// Counts a request until the guard is dropped.
    pub(super) fn request_begins(&self) -> ActiveRequest {
        ActiveRequest::begin(&self.active)
    }

    fn begin_drain(&self) {
        self.read_clock();
        self.drains_since.set(Some(self.now()));
        self.drain.begin();
        self.deadlines.wake_all();
    }
}

pin_project_lite::pin_project! {
    /// A future of a worker's task, for each poll of which the clock is read once.
    #[derive(Debug)]
    pub(super) struct Timed<F> {
        worker: Rc<Worker>,
        #[pin]
        future: F,
    }
}

impl<F: Future> Future for Timed<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        this.worker.read_clock();
        this.future.poll(cx)
    }
}

/// Accepts and serves until the shutdown, then drains: keeps accepting for the drain delay, lets what is in flight
/// finish within the drain timeout, and cuts what is left.
pub(super) async fn run(worker: Rc<Worker>, listeners: Vec<Listener>, max_connections: usize, leave: Leave) {
    let connections = TaskTracker::new();
    let keeper = Rc::clone(&worker);
    let sweeper = tokio::task::spawn_local(worker.timed(async move {
        persist("sweep", || sweep(&keeper), |notice| keeper.panicked(notice.task)).await;
    }));
    let keeper = Rc::clone(&worker);
    let drainer = tokio::task::spawn_local(worker.timed(async move {
        let follow = || drain::follow(&keeper, keeper.table.follow_drains(keeper.index));
        persist("drains", follow, |notice| keeper.panicked(notice.task)).await;
    }));
    let places = Arc::new(Semaphore::new(max_connections.min(Semaphore::MAX_PERMITS)));
    tokio::select! {
        () = accept(&worker, &listeners, &places, &connections, forward) => {}
        () = leave.accepts_no_more(worker.config.drain_delay) => {}
    }
    worker.begin_drain();
    if !leave.handed_over.has_begun() {
        for listener in &listeners {
            accept_queued(&worker, listener, &places, &connections, forward);
        }
    }
    drop(listeners);
    connections.close();
    if tokio::time::timeout(worker.config.drain_timeout, connections.wait()).await.is_err() {
        let Active { connections, requests } = worker.active.read();
        tracing::warn!(
            worker = worker.index,
            connections,
            requests,
            "drain timeout: cutting what is in flight"
        );
    }
    sweeper.abort();
    drainer.abort();
}

/// Accepts connections whose requests are `answered` so. What panics on one of them ends that one.
pub(super) async fn accept<F, B>(
    worker: &Rc<Worker>,
    listeners: &[Listener],
    places: &Arc<Semaphore>,
    connections: &TaskTracker,
    answered: impl Fn(Rc<Worker>, Asker, RequestHead, ClientBody) -> F + Copy + 'static,
) where
    F: Future<Output = Answer<B>> + 'static,
    B: Unread + From<Bytes> + Unpin + 'static,
{
    let mut is_failing = false;
    let mut turn = 0;
    loop {
        // At the limit nothing is accepted: the kernel's queue is the bounded one to wait in. One place waits for all
        // listeners, so that none where nobody connects keeps one from the others.
        let Ok(place) = Arc::clone(places).acquire_owned().await else { return };
        match poll_fn(|cx| poll_accept(listeners, &mut turn, cx)).await {
            Ok(accepted) => {
                if std::mem::take(&mut is_failing) {
                    tracing::info!(worker = worker.index, "accepting connections again");
                }
                begin(worker, accepted, place, connections, answered);
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                // It fails again with every try until something changes.
                if !std::mem::replace(&mut is_failing, true) {
                    tracing::warn!(worker = worker.index, %error, "cannot accept connections; trying again");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// The next connection at any of these. Each listener has its `turn`, so that none is starved by another.
fn poll_accept(listeners: &[Listener], turn: &mut usize, cx: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
    for _ in listeners {
        let listener = &listeners[*turn % listeners.len()];
        *turn = (*turn + 1) % listeners.len();
        if let Poll::Ready(accepted) = listener.poll_accept(cx) {
            return Poll::Ready(accepted);
        }
    }
    Poll::Pending
}

/// Takes the connections that wait to be accepted, as far as there is room: closing the listener would reset them.
fn accept_queued<F, B>(
    worker: &Rc<Worker>,
    listener: &Listener,
    places: &Arc<Semaphore>,
    connections: &TaskTracker,
    answered: impl Fn(Rc<Worker>, Asker, RequestHead, ClientBody) -> F + Copy + 'static,
) where
    F: Future<Output = Answer<B>> + 'static,
    B: Unread + From<Bytes> + Unpin + 'static,
{
    for _ in 0..BACKLOG {
        let Ok(place) = Arc::clone(places).try_acquire_owned() else { return };
        let Ok(accepted) = listener.accept_now() else { return };
        begin(worker, accepted, place, connections, answered);
    }
}

/// Serves a connection in a task of its own, in its `place` among those that are allowed.
fn begin<F, B>(
    worker: &Rc<Worker>,
    accepted: Accepted,
    place: OwnedSemaphorePermit,
    connections: &TaskTracker,
    answered: impl Fn(Rc<Worker>, Asker, RequestHead, ClientBody) -> F + Copy + 'static,
) where
    F: Future<Output = Answer<B>> + 'static,
    B: Unread + From<Bytes> + Unpin + 'static,
{
    let seat = match worker.seat(accepted.address.ip()) {
        Ok(seat) => seat,
        Err(reason) => return worker.refused(reason),
    };
    let served = downstream::serve(Rc::clone(worker), accepted, answered);
    let serving = Serving {
        served: caught(served),
        worker: Rc::clone(worker),
        _place: place,
        _seat: seat,
        _active: ActiveConnection::begin(&worker.active),
    };
    connections.spawn_local(worker.timed(serving));
}

pin_project_lite::pin_project! {
    /// A connection that is served, and what it counts for meanwhile. Written out, because the compiler has room twice for what a
    /// future of its own making awaits.
    struct Serving<F> {
        #[pin]
        served: Caught<F>,
        worker: Rc<Worker>,
        _place: OwnedSemaphorePermit,
        _seat: Option<Seat>,
        _active: ActiveConnection,
    }
}

impl<F: Future<Output = ()>> Future for Serving<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        if ready!(this.served.poll(cx)).is_err() {
            this.worker.panicked("connection");
        }
        Poll::Ready(())
    }
}

async fn sweep(worker: &Worker) {
    let mut interval = tokio::time::interval(deadlines::PERIOD);
    loop {
        for _ in 0..LOOKS_PER_SWEEP {
            interval.tick().await;
            worker.active.looks(worker.now());
            worker.deadlines.wake_due(worker.now());
            worker.flights.wake_due(worker.now().plus(deadlines::AHEAD));
        }
        worker.pool.sweep(worker.now());
        worker.buffers.pipes().sweep();
        close_to_the_resting(worker);
    }
}

/// Closes what is idle to replicas whose breakers are open: one that died without a word would stay for long, and a probe on
/// it would say nothing of its replica.
fn close_to_the_resting(worker: &Worker) {
    if !worker.table.has_resting() {
        // Most of the time, and there may be many services to look through.
        return;
    }
    for service in worker.table.services().values() {
        let resting = service.resting();
        resting.iter().for_each(|replica| worker.pool.close(replica.endpoint()));
    }
}

#[cfg(test)]
pub(super) mod tests;
