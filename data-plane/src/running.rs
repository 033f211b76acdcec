//! Brings the parts of a data plane up in order, and down again.
//!
//! Up: what is on disk goes into the table before anybody can connect. Down: the proxy drains first; the links to the
//! control plane and the admin side stay until it has, so that the end can be watched and is reported.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use gateway_proto::v1;
use gateway_runtime::{Failure, Shutdown};
use tokio::{
    net::TcpListener,
    task::{JoinHandle, spawn_blocking},
    time::timeout,
};

use crate::{
    admin::{self, Admin},
    clock::Clock,
    config::{Config, Registry},
    control_plane::ControlPlane,
    discovery::{Cache, Cached, Feed, Guard, Mirror, Snapshot, Source, client, ending, keeper},
    proxy::{self, Proxy, ProxyConfig},
    report::{Reporter, journal::Journal},
    supervise::supervise,
    table::Table,
};

/// What this build calls itself towards control planes and operators.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The last report and the last snapshot are worth this long a wait, and no more.
const FAREWELL: Duration = Duration::from_secs(5);

/// A data plane that serves.
#[derive(Debug)]
pub struct Running {
    proxy: Proxy,
    admin_listen: SocketAddr,
    /// Ends the background tasks.
    stop: Shutdown,
    background: Vec<(&'static str, JoinHandle<()>)>,
}

/// Starts a data plane: when this returns, its listeners are bound. Whether it has anything to route by is told by
/// `/readyz`.
///
/// # Errors
/// A usage [`Failure`] that names the flag when an address cannot be bound.
///
/// # Panics
/// Outside a tokio runtime with time and IO.
pub async fn start(config: Config, shutdown: Shutdown) -> Result<Running, Failure> {
    tracing::info!(
        node_id = %config.node_id, workers = config.workers, registry = %config.registry,
        drain_delay = ?config.drain_delay, drain_timeout = ?config.drain_timeout, "starting"
    );
    let clock = Clock::new();
    let (table, transitions) = Table::new(config.workers);
    let journal = Arc::new(Journal::new(table.clone()));
    let First { snapshot, guard, source, age } = First::find(&config.registry).await;
    let mirror = Mirror::new(config.node_id.clone(), snapshot, guard, clock.moment().wall);
    let (feed, view) = Feed::new(mirror, source, age, table.clone(), clock);

    let admin_listener = TcpListener::bind(config.admin_listen).await;
    let (admin_listener, admin_listen) = admin_listener
        .and_then(|listener| listener.local_addr().map(|bound| (listener, bound)))
        .map_err(|error| Failure::unbound("--admin-listen", config.admin_listen, &error))?;
    let proxy = proxy::start(proxy_config(&config), table.clone(), clock, &shutdown)?;

    let stop = Shutdown::new();
    let mut background = Vec::new();
    let (recording, stopped) = (journal.clone(), stop.clone());
    let recorder = async move { recording.record_all(transitions, stopped).await };
    background.push(("journal", tokio::spawn(recorder)));
    let admin = Admin {
        node_id: config.node_id.clone(),
        version: VERSION,
        view: view.clone(),
        table: table.clone(),
        journal: journal.clone(),
        clock,
        shutdown,
    };
    background.push(("admin", tokio::spawn(admin::serve(admin_listener, admin, stop.clone()))));
    if let Registry::ControlPlane { urls, cache } = config.registry {
        let node = v1::NodeIdentity { node_id: config.node_id.to_string(), version: VERSION.into() };
        let link = Link { control_plane: ControlPlane::new(urls).into(), node, stop: stop.clone() };
        let reporter = Reporter {
            control_plane: link.control_plane.clone(),
            node_id: config.node_id,
            version: VERSION,
            table,
            view: view.clone(),
            clock,
            journal,
        };
        let feed = Arc::new(feed);
        background.push(("discovery", link.clone().follow(feed.clone())));
        background.push(("overrides", link.clone().end_overrides(feed)));
        background.push(("reports", link.report(reporter)));
        if let Some(cache) = cache {
            background.push(("cache", tokio::spawn(keeper::keep(cache, view, stop.clone()))));
        }
    }
    Ok(Running { proxy, admin_listen, stop, background })
}

impl Running {
    /// Where clients connect.
    pub fn listen(&self) -> SocketAddr {
        self.proxy.listen()
    }

    /// Where operators look.
    pub fn admin_listen(&self) -> SocketAddr {
        self.admin_listen
    }

    /// Completes when the proxy has drained after the shutdown, and everything else has ended after it.
    ///
    /// # Errors
    /// A fatal [`Failure`] when the proxy could not go on.
    pub async fn finished(self) -> Result<(), Failure> {
        let finished = self.proxy.finished().await;
        self.stop.begin();
        for (name, mut task) in self.background {
            match timeout(FAREWELL, &mut task).await {
                Ok(Ok(())) => {}
                // The panic's message is in the log.
                Ok(Err(error)) => tracing::error!(task = name, %error, "background task failed"),
                Err(_) => {
                    tracing::warn!(task = name, "background task did not end in {FAREWELL:?}, leaving it");
                    task.abort();
                }
            }
        }
        finished
    }
}

/// What both streams to the control plane need.
#[derive(Debug, Clone)]
struct Link {
    control_plane: Arc<ControlPlane>,
    node: v1::NodeIdentity,
    stop: Shutdown,
}

impl Link {
    fn follow(self, feed: Arc<Feed>) -> JoinHandle<()> {
        let attempt = move || {
            let (link, feed) = (self.clone(), feed.clone());
            async move { client::follow(&link.control_plane, &link.node, &feed, &link.stop).await }
        };
        tokio::spawn(supervise("discovery", attempt))
    }

    fn end_overrides(self, feed: Arc<Feed>) -> JoinHandle<()> {
        let attempt = move || {
            let (stop, feed) = (self.stop.clone(), feed.clone());
            async move { ending::end_overrides(&feed, &stop).await }
        };
        tokio::spawn(supervise("overrides", attempt))
    }

    fn report(self, reporter: Reporter) -> JoinHandle<()> {
        let reporter = Arc::new(reporter);
        let attempt = move || {
            let (stop, reporter) = (self.stop.clone(), reporter.clone());
            async move { reporter.run(&stop).await }
        };
        tokio::spawn(supervise("reports", attempt))
    }
}

/// What there is to route by before any control plane is asked.
#[derive(Debug)]
struct First {
    snapshot: Snapshot,
    guard: Guard,
    source: Source,
    age: Duration,
}

impl First {
    async fn find(registry: &Registry) -> Self {
        match registry {
            Registry::Static(services) => {
                Self::of(Snapshot::new("static", 0, services.clone()), Source::Static)
            }
            Registry::ControlPlane { cache: Some(cache), .. } => Self::cached(cache.clone()).await,
            Registry::ControlPlane { cache: None, .. } => {
                tracing::warn!(
                    "no snapshot is kept on disk: a start without a control plane has nothing to route by"
                );
                Self::nothing()
            }
        }
    }

    async fn cached(cache: Cache) -> Self {
        let path = cache.path();
        let path = path.display();
        let loaded = spawn_blocking(move || cache.load(SystemTime::now())).await;
        match loaded {
            Ok(Ok(Some(Cached { snapshot, guard, age }))) => {
                let (revision, services, held) =
                    (snapshot.revision(), snapshot.services().len(), guard.len());
                tracing::info!(
                    %path, revision, services, held, ?age,
                    "routing by the snapshot on disk until a control plane answers"
                );
                Self { snapshot, guard, source: Source::Cached, age }
            }
            Ok(Ok(None)) => Self::nothing(),
            Ok(Err(error)) => {
                tracing::warn!(%path, %error, "the snapshot on disk is not used");
                Self::nothing()
            }
            Err(error) => {
                tracing::error!(%path, %error, "the snapshot on disk could not be read");
                Self::nothing()
            }
        }
    }

    fn nothing() -> Self {
        Self::of(Snapshot::default(), Source::None)
    }

    fn of(snapshot: Snapshot, source: Source) -> Self {
        Self { snapshot, guard: Guard::default(), source, age: Duration::ZERO }
    }
}

fn proxy_config(config: &Config) -> ProxyConfig {
    ProxyConfig {
        listen: config.listen,
        workers: config.workers,
        node_id: config.node_id.clone(),
        domain: config.domain.clone(),
        debug_headers: config.debug_headers,
        max_connections: config.max_connections,
        drain_delay: config.drain_delay,
        drain_timeout: config.drain_timeout,
    }
}

#[cfg(test)]
mod tests;
