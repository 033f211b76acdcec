//! The control plane: who is registered, on which lease, how healthy, and what every data plane makes of it.
//!
//! ```text
//!  rpc, http ──▶ edge ──▶ writer ──▶ registry (decide) ──▶ store ──▶ registry (apply)
//!      │                    ▲                                            │
//!      ├──▶ leases ─▶ expiry┘                            publish ◀───────┴──▶ observe
//!      └──▶ publish, observe (reads and streams)            └──▶ data planes
//! ```
//!
//! It is never on the request path: data planes serve from their own copy for as long as it is away. [`start`] is all
//! that a program needs; the pure parts, [`registry`], [`leases`] and [`publish`], are public for simulation.

mod clock;
pub mod config;
mod edge;
mod effects;
mod expiry;
mod http;
pub mod leases;
mod metrics;
pub mod observe;
pub mod publish;
mod query;
mod refusal;
pub mod registry;
mod rpc;
mod server;
pub mod store;
mod writer;

use std::{net::SocketAddr, sync::Arc};

use gateway_runtime::{Failure, Shutdown};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic_health::server::HealthReporter;

pub use config::Config;

use self::{
    edge::{Edge, Places},
    effects::Effects,
    leases::Leases,
    metrics::Metrics,
    observe::Observation,
    publish::Publisher,
    registry::View,
    server::Routers,
    store::{AnyStore, Store},
    writer::Writer,
};

/// Event watches at once: people and tools, not data planes.
const MAX_EVENT_STREAMS: usize = 256;

/// Watches of replicas, breakers, statistics and drains at once.
const MAX_WATCH_STREAMS: usize = 256;

/// A control plane that serves.
#[derive(Debug)]
pub struct Running {
    listen: SocketAddr,
    task: JoinHandle<Result<(), Failure>>,
}

impl Running {
    /// The address it is bound to.
    pub fn listen(&self) -> SocketAddr {
        self.listen
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
/// A usage [`Failure`] naming `--listen` when the address cannot be bound, or `--store` when the store cannot be used.
pub async fn start(config: Config, shutdown: Shutdown) -> Result<Running, Failure> {
    tracing::info!(?config, "starting");
    let unbound = |error| Failure::unbound("--listen", config.listen, &error);
    let listener = TcpListener::bind(config.listen).await.map_err(unbound)?;
    let listen = listener.local_addr().map_err(unbound)?;

    let unusable = |error| Failure::usage(format!("--store {}: {error}", config.store));
    let mut store = AnyStore::open(&config.store).await.map_err(unusable)?;
    let loaded = store.load().await.map_err(unusable)?;
    tracing::info!(revision = loaded.revision, records = loaded.items.len(), "registry loaded");

    let effects = Effects {
        publisher: Arc::new(Publisher::new(loaded.epoch, View::new(loaded.revision, loaded.items))),
        leases: Arc::new(Leases::new(clock::now())),
        observation: Arc::new(Observation::new(config.max_nodes)),
        metrics: Arc::new(Metrics::new()),
    };
    effects.grant_all();
    let (writer, commands, available) =
        Writer::new(store, effects.clone(), config.limits, config.queue_length);
    // A data plane that reconnects may hold two places until its older stream has ended.
    let streams = 2 * config.max_nodes;
    let edge = Arc::new(Edge {
        effects,
        commands,
        limits: config.limits,
        shutdown: shutdown.clone(),
        available,
        streams: TaskTracker::new(),
        snapshot_streams: Places::new(streams, "too many snapshot streams"),
        report_streams: Places::new(streams, "too many report streams"),
        event_streams: Places::new(MAX_EVENT_STREAMS, "too many event watches"),
        watch_streams: Places::new(MAX_WATCH_STREAMS, "too many watches"),
        // One connection may carry many, but whoever has one stream needs no second.
        keep_alive_streams: Places::new(config.max_connections, "too many keep-alive streams"),
        allowed_hosts: config.allowed_hosts,
    });
    let task = tokio::spawn(run(edge, writer, listener, config.max_connections, shutdown));
    Ok(Running { listen, task })
}

/// Owns every task of the control plane, and ends them in the order in which they need each other.
async fn run(
    edge: Arc<Edge>,
    mut writer: Writer<AnyStore>,
    listener: TcpListener,
    max_connections: usize,
    shutdown: Shutdown,
) -> Result<(), Failure> {
    let health = HealthReporter::new();
    rpc::report_health(&health, true).await;
    let grpc = rpc::router(&edge, health.clone());
    let routers = Routers { http: http::router(&edge, grpc.clone()), grpc };
    let expiry = expiry::run(edge.effects.clone(), edge.commands.clone(), shutdown.clone());
    let expiry = tokio::spawn(expiry);
    let reporting = tokio::spawn(follow_health(Arc::clone(&edge), health));
    let stop_writer = CancellationToken::new();
    let stopping = stop_writer.clone();
    let mut writer = tokio::spawn(async move { writer.run(&stopping).await });

    let serving = async {
        server::serve(listener, routers, max_connections, shutdown.clone()).await;
        edge.streams.close();
        edge.streams.wait().await;
    };
    let written = tokio::select! {
        written = &mut writer => {
            // Without its writer it cannot keep its word to anybody.
            shutdown.begin();
            written
        }
        () = serving => {
            stop_writer.cancel();
            writer.await
        }
    };
    for task in [expiry, reporting] {
        if let Err(error) = task.await {
            tracing::error!(%error, "a task ended before its time");
        }
    }
    written.unwrap_or_else(|error| Err(Failure::fatal(format!("the writer ended: {error}"))))
}

/// Tells health checkers what becomes of the store, and of the process.
async fn follow_health(edge: Arc<Edge>, mut health: HealthReporter) {
    let mut available = edge.available.clone();
    loop {
        tokio::select! {
            () = edge.shutdown.begun() => break,
            changed = available.changed() => {
                if changed.is_err() {
                    break;
                }
                let is_available = *available.borrow_and_update();
                rpc::report_health(&health, is_available).await;
            }
        }
    }
    rpc::report_health(&health, false).await;
    // Watchers get the last status before their stream ends; without the end the server would wait for them.
    rpc::end_health(&mut health).await;
}
