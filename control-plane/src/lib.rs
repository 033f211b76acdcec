//! The control plane: who is registered, on which lease, how healthy, and what every data plane makes of it.
//!
//! ```text
//!  auth ─▶ rpc, http ──▶ edge ──▶ writer ──▶ registry (decide) ──▶ store ──▶ registry (apply)
//!      │                    ▲                                            │
//!      ├──▶ leases ─▶ expiry┘                            publish ◀───────┴──▶ observe
//!      └──▶ publish, observe (reads and streams) ◀─▶ peers  └──▶ data planes
//! ```
//!
//! It is never on the request path: data planes serve from their own copy for as long as it is away. [`start`] is all
//! that a program needs; the pure parts, [`registry`], [`leases`] and [`publish`], are public for simulation.

mod auth;
pub mod auth_file;
mod clock;
pub mod config;
mod edge;
mod effects;
mod expiry;
mod http;
pub mod leases;
pub mod listeners;
mod metrics;
pub mod observe;
mod panics;
pub mod peers;
mod places;
mod program;
pub mod publish;
mod query;
mod refusal;
pub mod registry;
mod rpc;
mod server;
mod starts;
pub mod store;
mod strangers;
mod turns;
mod writer;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use gateway_runtime::{
    Failure, Shutdown,
    passed::Passed,
    supervise::{Beyond, Supervisor},
    tls::{Tls, Uses},
};
use tokio::{
    sync::{Mutex, Semaphore},
    task::JoinHandle,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic_health::server::HealthReporter;

pub use auth::{Settings, SettingsArgs};
pub use config::Config;
pub use program::Program;

use self::{
    auth::{Audit, Gate},
    edge::Edge,
    effects::Effects,
    leases::Leases,
    listeners::{Listeners, Served, Taken},
    metrics::Metrics,
    observe::Observation,
    panics::Panics,
    peers::{Credentials, Myself, Source},
    places::Places,
    publish::Publisher,
    registry::View,
    server::{Routers, Server},
    starts::Starts,
    store::{AnyStore, Store, StoreError},
    strangers::Strangers,
    turns::Turns,
    writer::Writer,
};

/// Changes of one caller that wait for the writer at once. They are committed together, and whoever comes next waits for that: with as
/// many as a group may have, one greedy caller would have all others wait ten times as long.
pub(crate) const TURNS: usize = 16;
/// How long everything may take to end once the shutdown has begun: connections have ten seconds of it.
const END_TIMEOUT: Duration = Duration::from_secs(15);
/// Event watches at once: people and tools, not data planes.
const MAX_EVENT_STREAMS: usize = 256;

/// Watches of replicas, breakers, statistics and drains at once.
const MAX_WATCH_STREAMS: usize = 256;

/// Watches of health by those who have not shown who they are, at once: load balancers and orchestrators have one each.
const MAX_OPEN_STREAMS: usize = 1024;

/// Other control planes that follow this one at once: each may hold two places while it connects anew.
const MAX_PEER_STREAMS: usize = 2 * peers::MAX_PEERS;

/// Open dashboards at once. Each takes the places of three watches and of an event watch, and leaves some to others.
const MAX_DASHBOARDS: usize = 32;

/// A control plane that serves.
#[derive(Debug)]
pub struct Running {
    served: Served,
    task: JoinHandle<Result<(), Failure>>,
}

impl Running {
    /// The address it is bound to, unless it is reached by a Unix socket alone.
    pub fn listen(&self) -> Option<SocketAddr> {
        self.served.listen
    }

    /// Everywhere it is reached.
    pub fn served(&self) -> &Served {
        &self.served
    }

    /// Completes when the shutdown has begun, what was in flight has finished, and the store is closed.
    ///
    /// # Errors
    /// A fatal [`Failure`] when it could not go on.
    pub async fn finished(self) -> Result<(), Failure> {
        let ended = self.task.await;
        ended.unwrap_or_else(|error| Err(Failure::fatal(format!("the control plane's task ended: {error}"))))
    }
}

/// Binds, opens the store and serves until `shutdown` begins.
///
/// Registrations that the store holds are there at once; each lease among them gets one full time to live.
///
/// # Errors
/// A usage [`Failure`] naming `--listen` when the address cannot be bound, or `--store` when the store cannot be used; a
/// fatal one when the address or the store is not to be had, and may be when it is started again.
pub async fn start(config: Config, shutdown: Shutdown) -> Result<Running, Failure> {
    start_at(config, Passed::default(), shutdown).await
}

/// As [`start`], at a socket that was passed in place of one at the configured address, if one was.
///
/// # Errors
/// As [`start`], and a usage [`Failure`] when more sockets were passed.
pub async fn start_at(config: Config, mut passed: Passed, shutdown: Shutdown) -> Result<Running, Failure> {
    let taken = Taken::take(&config, passed.take_only()?)?;
    let store = AnyStore::open(&config.store, &config.store_files)
        .await
        .map_err(|error| unusable(&config, &error))?;
    serve(config, taken, store, None, shutdown).await
}

/// As [`start`], with a lab: what the program around this control plane serves below `/ui/lab`, behind its checks on who
/// asks, and what the dashboard then has a view for.
///
/// # Errors
/// As [`start`].
pub async fn start_with_lab(config: Config, lab: Router, shutdown: Shutdown) -> Result<Running, Failure> {
    let taken = Taken::take(&config, None)?;
    let store = AnyStore::open(&config.store, &config.store_files)
        .await
        .map_err(|error| unusable(&config, &error))?;
    serve(config, taken, store, Some(lab), shutdown).await
}

/// As [`start`], on a store that is open already: the configuration's is not opened.
///
/// # Errors
/// As [`start`].
pub async fn start_on<S: Store>(store: S, config: Config, shutdown: Shutdown) -> Result<Running, Failure> {
    let taken = Taken::take(&config, None)?;
    serve(config, taken, store, None, shutdown).await
}

/// What may pass is nothing that whoever starts us has to mend: his supervisor is to start us again.
fn unusable(config: &Config, error: &StoreError) -> Failure {
    let why = format!("--store {}: {error}", config.store);
    if error.may_pass() { Failure::fatal(why) } else { Failure::usage(why) }
}

async fn serve<S: Store>(
    config: Config,
    taken: Taken,
    mut store: S,
    lab: Option<Router>,
    shutdown: Shutdown,
) -> Result<Running, Failure> {
    let served = taken.served(config.socket.clone())?;
    let listen = served.listen;
    let tls = config.access.tls()?;
    let credentials = config.peers.credentials()?;
    let myself = Myself {
        address: config.peers.advertise.clone().unwrap_or_else(|| served.address()),
        process_id: format!("{:016x}", rand::random::<u64>()),
    };
    let loaded = store::load_patiently(&mut store).await.map_err(|error| unusable(&config, &error))?;
    tracing::info!(revision = loaded.revision, records = loaded.items.len(), "registry loaded");
    let listeners = taken.listen()?;

    let certificates = uses(tls.as_ref(), &credentials, &store);
    let effects = Effects {
        publisher: Arc::new(Publisher::new(loaded.epoch, View::new(loaded.revision, loaded.items))),
        leases: Arc::new(Leases::with_outlet(clock::now(), store.outlet())),
        observation: Arc::new(Observation::new(config.max_nodes)),
        metrics: Arc::new(Metrics::new().with_certificates(certificates)),
    };
    let audit = Audit::new(&effects.observation, &effects.metrics);
    let peers = store.peers();
    let control_planes = peers::Whereabouts::new(&config.peers, peers.as_ref());
    let members = config.store.members().await;
    let gate = Arc::new(config.access.gate(listen, control_planes, members, audit)?);
    effects.grant_all(&loaded.kept);
    if loaded.revision > 0 {
        // A registry in which nothing has ever happened has lost no data plane.
        effects.observation.expect_returns(loaded.followers);
    }
    if let Some(peers) = &peers {
        peers.publish(&myself.process_id, &myself.address);
    }
    let is_store_shared = peers.is_some();
    let source = Source::new(config.peers.addresses, peers, tls.is_some(), myself.clone());
    let panics = Panics::new(&effects.metrics, &effects.observation);
    let turns = Turns::new(TURNS);
    let (writer, commands, refusing) =
        Writer::new(store, effects.clone(), config.limits, config.queue_length);
    // A data plane that reconnects may hold two places until its older stream has ended.
    let streams = 2 * config.max_nodes;
    let edge = Arc::new(Edge {
        gate: Arc::clone(&gate),
        effects,
        commands,
        turns,
        limits: config.limits,
        shutdown: shutdown.clone(),
        is_store_shared,
        refusing,
        panics: panics.clone(),
        streams: TaskTracker::new(),
        // Those who only look must not take the places of those who route.
        snapshot_streams: Places::new(streams + MAX_WATCH_STREAMS, "too many snapshot streams"),
        snapshot_starts: Starts::new(config.snapshot_stream_rate),
        parts_under_way: Arc::new(Semaphore::new(rpc::MAX_PARTS_UNDER_WAY)),
        report_streams: Places::new(streams, "too many report streams"),
        event_streams: Places::new(MAX_EVENT_STREAMS, "too many event watches"),
        watch_streams: Places::new(MAX_WATCH_STREAMS, "too many watches"),
        // One connection may carry many, but whoever has one stream needs no second.
        keep_alive_streams: Places::new(config.max_connections, "too many keep-alive streams"),
        open_streams: Places::new(
            MAX_OPEN_STREAMS,
            "too many watches of those who have not shown who they are",
        ),
        allowed_hosts: config.allowed_hosts,
        dashboard_streams: Places::new(MAX_DASHBOARDS, "too many dashboards"),
        // Where pages must say who they are, that decides.
        takes_page_writes: listen.is_none_or(|listen| listen.ip().is_loopback())
            || config.allow_dashboard_writes
            || gate.is_locked(),
        allow_fault_injection: config.allow_fault_injection,
        peer_streams: Places::new(MAX_PEER_STREAMS, "too many other control planes"),
        move_streams: Places::new(1, "somebody else moves the registry to another store already"),
        myself,
        lab,
    });
    let health = HealthReporter::new();
    rpc::report_health(&health, true).await;
    let grpc = rpc::router(&edge, health.clone());
    let routers = Routers { http: http::router(&edge, grpc.clone()), grpc };
    let strangers = Strangers::new(config.max_connections, gate.is_locked());
    let places = (config.max_connections, strangers);
    let server = Arc::new(Server::new(routers, tls.clone(), places, shutdown, panics));
    let mut supervisor = supervise(&edge, writer, health, server, listeners);
    follow_peers(&mut supervisor, &edge, credentials, source);
    follow_files(&mut supervisor, gate, tls, &edge.shutdown);
    let task = tokio::spawn(supervisor.run(END_TIMEOUT));
    Ok(Running { served, task })
}

/// All files for TLS, by what they are for.
fn uses<S: Store>(tls: Option<&Arc<Tls>>, credentials: &Credentials, store: &S) -> Uses {
    let mut uses = Uses::default();
    if let Some(tls) = tls {
        uses.add("listener", tls.standing());
    }
    if credentials.tls.has_files() {
        uses.add("peers", credentials.tls.standing());
    }
    if let Some(standing) = store.certificates() {
        uses.add("store", &standing);
    }
    uses
}

/// Starts every task that lives as long as the control plane, to end in the order in which they need each other.
fn supervise<S: Store>(
    edge: &Arc<Edge>,
    writer: Writer<S>,
    health: HealthReporter,
    server: Arc<Server>,
    listeners: Listeners,
) -> Supervisor {
    let panics = edge.panics.clone();
    let mut supervisor = Supervisor::new(edge.shutdown.clone(), move |notice| panics.supervised(notice));
    let stop_writer = CancellationToken::new();

    // Locked for a whole run, by the one task that runs it: this is how the writer outlives the task's panic.
    let (writer, stop) = (Arc::new(Mutex::new(writer)), stop_writer.clone());
    supervisor.spawn("writer", Beyond::End, move || {
        let (writer, stop) = (Arc::clone(&writer), stop.clone());
        async move { writer.lock().await.run(&stop).await }
    });
    let shared = Arc::clone(edge);
    supervisor.spawn("expiry", Beyond::End, move || {
        let edge = Arc::clone(&shared);
        async move {
            expiry::run(edge.effects.clone(), edge.commands.clone(), edge.shutdown.clone()).await;
            Ok(())
        }
    });
    let shared = Arc::clone(edge);
    supervisor.spawn("health", Beyond::End, move || {
        let following = follow_health(Arc::clone(&shared), health.clone());
        async move {
            following.await;
            Ok(())
        }
    });
    let (listeners, accepting) = (Arc::new(listeners), Arc::clone(&server));
    supervisor.spawn("accept", Beyond::End, move || {
        let accepting = Arc::clone(&accepting).accept_all(Arc::clone(&listeners));
        async move {
            accepting.await;
            Ok(())
        }
    });
    let shared = Arc::clone(edge);
    supervisor.spawn("drain", Beyond::End, move || {
        let (edge, server, stop_writer) = (Arc::clone(&shared), Arc::clone(&server), stop_writer.clone());
        async move {
            server.drained().await;
            edge.streams.close();
            edge.streams.wait().await;
            // Nobody is left to hand commands in.
            stop_writer.cancel();
            Ok(())
        }
    });
    supervisor
}

/// Follows the other control planes, and reads again what they are shown.
fn follow_peers(supervisor: &mut Supervisor, edge: &Arc<Edge>, credentials: Credentials, source: Source) {
    let shared = Arc::clone(edge);
    let tls = Arc::clone(&credentials.tls);
    supervisor.spawn("peers", Beyond::End, move || {
        let following = peers::run(Arc::clone(&shared), credentials.clone(), source.clone());
        async move {
            following.await;
            Ok(())
        }
    });
    if !tls.has_files() {
        return;
    }
    let until = edge.shutdown.clone();
    supervisor.spawn("peer_certificates", Beyond::End, move || {
        let following = Arc::clone(&tls).follow(until.clone());
        async move {
            following.await;
            Ok(())
        }
    });
}

/// Reads certificates, the auth file and published keys again when they change.
fn follow_files(supervisor: &mut Supervisor, gate: Arc<Gate>, tls: Option<Arc<Tls>>, shutdown: &Shutdown) {
    let (followed, until) = (Arc::clone(&gate), shutdown.clone());
    supervisor.spawn("auth_file", Beyond::End, move || {
        let following = Arc::clone(&followed).follow(until.clone());
        async move {
            following.await;
            Ok(())
        }
    });
    let (asked, until) = (gate, shutdown.clone());
    supervisor.spawn("jwks", Beyond::End, move || {
        let following = Arc::clone(&asked).follow_keys(until.clone());
        async move {
            following.await;
            Ok(())
        }
    });
    let Some(tls) = tls else { return };
    let until = shutdown.clone();
    supervisor.spawn("certificates", Beyond::End, move || {
        let following = Arc::clone(&tls).follow(until.clone());
        async move {
            following.await;
            Ok(())
        }
    });
}

/// Tells health checkers what becomes of the store, and of the process.
async fn follow_health(edge: Arc<Edge>, mut health: HealthReporter) {
    let mut refusing = edge.refusing.clone();
    loop {
        let is_available = refusing.borrow_and_update().is_none();
        rpc::report_health(&health, is_available).await;
        tokio::select! {
            () = edge.shutdown.begun() => break,
            changed = refusing.wait_for(|why| why.is_none() != is_available) => {
                if changed.is_err() {
                    break;
                }
            }
        }
    }
    rpc::report_health(&health, false).await;
    // Watchers get the last status before their stream ends; without the end the server would wait for them.
    rpc::end_health(&mut health).await;
}
