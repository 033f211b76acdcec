//! The HTTP proxy: one worker per core, each with its own listener on the same port.

mod body;
mod boxed;
#[cfg(feature = "counted")]
pub mod counted;
mod downstream;
mod errors;
mod forward;
#[cfg(test)]
mod fuzz;
mod h1;
mod h2;
mod head;
mod trail;
mod tunnel;
mod upstream;
mod worker;

use std::{
    io,
    iter::repeat,
    net::{SocketAddr, TcpListener},
    pin::pin,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use gateway_proto::NodeId;
use gateway_runtime::{
    Failure, Shutdown,
    panics::PanicCounts,
    tls::{ClientTls, Tls},
};
use tokio::{runtime::LocalOptions, sync::mpsc};

use self::worker::{
    Shared, Worker,
    active::{self, WorkerActive},
    addresses::Addresses,
    listener::Listener,
    sockets::BACKLOG,
};
pub use self::{
    body::pace::MinRate,
    downstream::proxy_headers::ProxyHeaders,
    errors::refusals::{Reason, Refusals},
    head::forwarding::Forwarding,
    worker::{
        active::Active,
        limits::{HeadLimits, Limits},
        sockets::Sockets,
    },
};
pub(crate) use self::{downstream::stream::PROTOCOLS, upstream::tls_fault, worker::active::Watch};
use crate::{access_log::AccessLog, clock::Clock, table::Table, traces::Tracer};
pub use gateway_proto::{InvalidNetwork, Networks};

/// How the proxy serves.
#[derive(Debug, Clone)]
pub struct ProxyConfig {
    /// Where clients connect; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where they connect with TLS, and what they are shown.
    pub tls: Option<(SocketAddr, Arc<Tls>)>,
    /// Which replicas are believed over TLS, and what they are shown.
    pub upstream_tls: Arc<ClientTls>,
    /// The admin side of this process, which no replica's address may lead to.
    pub admin: Option<SocketAddr>,
    /// Threads, at least 1.
    pub workers: usize,
    /// This gateway's name in `Via` and `Proxy-Status`.
    pub node_id: NodeId,
    /// Host suffix under which services are reached, beside `localhost`.
    pub domain: Option<String>,
    /// Whether responses name the replica and the number of attempts. They leak topology.
    pub debug_headers: bool,
    /// How much of this gateway its clients may take up.
    pub limits: Limits,
    /// Where a line for each request goes, if anywhere.
    pub access_log: Option<Arc<AccessLog>>,
    /// Where spans of requests go, if anywhere.
    pub tracer: Option<Arc<Tracer>>,
    /// Which connections begin with a PROXY header, if any do.
    pub proxy_headers: Option<ProxyHeaders>,
    /// Which peers are believed about the client, and what replicas are told of it.
    pub forwarding: Forwarding,
    /// How long after the shutdown connections are still accepted.
    pub drain_delay: Duration,
    /// How long after that requests in flight may take.
    pub drain_timeout: Duration,
}

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {
    listen: SocketAddr,
    tls_listen: Option<SocketAddr>,
    workers: usize,
    ended: mpsc::Receiver<HasDrained>,
    panics: Arc<PanicCounts>,
    refusals: Arc<Refusals>,
    active: Vec<Arc<WorkerActive>>,
    drain_delay: Duration,
    drain_timeout: Duration,
    leave: Leave,
}

/// How a worker's thread ended: as it should, or not.
type HasDrained = bool;

/// Tells that a worker's thread has ended, however it did.
#[derive(Debug)]
struct EndNotice {
    ended: mpsc::Sender<HasDrained>,
    has_drained: bool,
}

impl EndNotice {
    fn drained(mut self) {
        self.has_drained = true;
    }
}

impl Drop for EndNotice {
    fn drop(&mut self) {
        // There is room for one notice from each worker.
        let _ = self.ended.try_send(self.has_drained);
    }
}

/// When the proxy is to leave.
#[derive(Debug, Clone)]
pub(crate) struct Leave {
    /// It drains from then on.
    pub(crate) shutdown: Shutdown,
    /// Another process accepts at its sockets: nobody needs time to notice that this one ends.
    pub(crate) handed_over: Shutdown,
}

impl Leave {
    /// Completes when it is to accept nothing more.
    async fn accepts_no_more(&self, drain_delay: Duration) {
        self.shutdown.begun().await;
        tokio::select! {
            () = tokio::time::sleep(drain_delay) => {}
            () = self.handed_over.begun() => {}
        }
    }
}

/// Binds the listeners and starts the workers, which route by `table` from then on.
///
/// # Errors
/// A usage [`Failure`] that names `--listen` or `--tls-listen` when the address cannot be bound, a fatal one when a thread cannot be
/// started.
pub fn start(
    config: ProxyConfig,
    table: Arc<Table>,
    clock: Clock,
    shutdown: &Shutdown,
) -> Result<Proxy, Failure> {
    let plain = Sockets::bind("--listen", config.listen, config.workers)?;
    let tls = config.tls.as_ref().map(|(at, _)| Sockets::bind("--tls-listen", *at, config.workers));
    let leave = Leave { shutdown: shutdown.clone(), handed_over: Shutdown::new() };
    let refusals = Arc::new(Refusals::new(config.workers));
    serve(config, (plain, tls.transpose()?), table, clock, leave, Arc::default(), refusals)
}

/// Starts the workers at these sockets, plain ones and those for TLS; what panics and what is refused there is counted in `panics` and
/// `refusals`.
///
/// # Errors
/// A fatal [`Failure`] when a socket or a thread is missing.
pub(crate) fn serve(
    config: ProxyConfig,
    (plain, tls): (Sockets, Option<Sockets>),
    table: Arc<Table>,
    clock: Clock,
    leave: Leave,
    panics: Arc<PanicCounts>,
    refusals: Arc<Refusals>,
) -> Result<Proxy, Failure> {
    let workers = config.workers;
    let unbound = |error| Failure::fatal(format!("cannot listen with {workers} workers: {error}"));
    let (listen, tls_listen) = (plain.address(), tls.as_ref().map(Sockets::address));
    let plain = plain.share_out(workers).map_err(unbound)?;
    let mut tls = match tls {
        Some(tls) => tls.share_out(workers).map_err(unbound)?.into_iter(),
        None => Vec::new().into_iter(),
    };
    let connections = config.limits.connections;
    // What does not come out even is the first ones'.
    let share = |index| connections / workers + usize::from(index < connections % workers);
    let (drain_delay, drain_timeout) = (config.drain_delay, config.drain_timeout);
    let config = Arc::new(config);
    let active: Vec<_> = (0..workers).map(|_| Arc::<WorkerActive>::default()).collect();
    let (notices, ended) = mpsc::channel(workers);
    for task in ["request", "connection", "sweep", "drains"] {
        panics.begin(task);
    }
    let shared = Shared {
        panics: Arc::clone(&panics),
        refusals: Arc::clone(&refusals),
        addresses: Arc::new(Addresses::new(config.limits.connections_per_address)),
        stale_resources: Arc::default(),
    };
    for (index, plain) in plain.into_iter().enumerate() {
        let (config, table, leave) = (Arc::clone(&config), Arc::clone(&table), leave.clone());
        let shared = shared.clone();
        let active = Arc::clone(&active[index]);
        let tls = tls.next().zip(config.tls.as_ref().map(|(_, tls)| Arc::clone(tls)));
        let max_connections = share(index);
        let notice = EndNotice { ended: notices.clone(), has_drained: false };
        let body = move || {
            let worker = Worker::new(index, config, table, clock, shared, Arc::clone(&active));
            match run_worker(worker, plain, tls, max_connections, leave) {
                Ok(()) => {
                    active.rests();
                    notice.drained();
                }
                Err(error) => tracing::error!(worker = index, %error, "worker cannot run"),
            }
        };
        let thread = std::thread::Builder::new().name(format!("proxy-{index}")).spawn(body);
        thread.map_err(|error| Failure::fatal(format!("cannot start a worker thread: {error}")))?;
    }
    Ok(Proxy {
        listen,
        tls_listen,
        workers,
        ended,
        panics,
        refusals,
        active,
        drain_delay,
        drain_timeout,
        leave,
    })
}

impl Proxy {
    /// The address that clients connect to.
    pub fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// The address that they connect to with TLS.
    pub fn tls_listen(&self) -> Option<SocketAddr> {
        self.tls_listen
    }

    /// What has panicked on the workers' threads. Their own panic is counted nowhere, for it ends the process.
    pub fn panics(&self) -> &Arc<PanicCounts> {
        &self.panics
    }

    /// What was refused, by reason.
    pub fn refusals(&self) -> &Arc<Refusals> {
        &self.refusals
    }

    /// For those who want to know more than once.
    pub(crate) fn watch(&self) -> Watch {
        Watch(self.active.clone())
    }

    /// What is under way now, over all workers.
    pub fn active(&self) -> Active {
        active::sum(&self.active)
    }

    /// Completes when all workers have drained, and tells in the log how far that is.
    ///
    /// # Errors
    /// A fatal [`Failure`] as soon as a worker has panicked or could not run.
    pub async fn finished(self) -> Result<(), Failure> {
        let Self { ended, workers, active, drain_delay, drain_timeout, leave, .. } = self;
        let mut ended = pin!(all_ended(ended, workers));
        tokio::select! {
            ended = &mut ended => return ended,
            () = leave.shutdown.begun() => {}
        }
        let began = Instant::now();
        let Active { connections, requests } = active::sum(&active);
        if !drain_delay.is_zero() && !leave.handed_over.has_begun() {
            tracing::info!(
                connections,
                requests,
                ?drain_delay,
                "draining: not ready any more, still serving"
            );
            tokio::select! {
                ended = &mut ended => return ended,
                () = leave.accepts_no_more(drain_delay) => {}
            }
        }
        let Active { connections, requests } = active::sum(&active);
        tracing::info!(
            connections,
            requests,
            ?drain_timeout,
            "draining: no new connections, finishing requests"
        );
        let ended = ended.await;
        if ended.is_ok() {
            tracing::info!(after = ?began.elapsed(), "drained");
        }
        ended
    }
}

async fn all_ended(mut ended: mpsc::Receiver<HasDrained>, workers: usize) -> Result<(), Failure> {
    for _ in 0..workers {
        if ended.recv().await != Some(true) {
            return Err(Failure::fatal("a worker thread failed; its message is in the log"));
        }
    }
    Ok(())
}

fn run_worker(
    worker: Worker,
    plain: Vec<TcpListener>,
    tls: Option<(Vec<TcpListener>, Arc<Tls>)>,
    max_connections: usize,
    leave: Leave,
) -> io::Result<()> {
    // One whose own tasks may stay on their thread: a set of such tasks within a runtime would be a second scheduler in the
    // first one, with a wake-up of its own for each task's, and a look at what accepts with each.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    runtime.block_on(async {
        let mut listeners = Vec::new();
        for listener in plain {
            let socket = tokio::net::TcpListener::from_std(listener)?;
            listeners.push(Listener::new(socket, None, worker.limits()));
        }
        for (listener, tls) in tls.into_iter().flat_map(|(all, tls)| all.into_iter().zip(repeat(tls))) {
            let socket = tokio::net::TcpListener::from_std(listener)?;
            listeners.push(Listener::new(socket, Some(tls), worker.limits()));
        }
        worker::run(Rc::new(worker), listeners, max_connections, leave).await;
        Ok(())
    })
}
