//! Brings the parts of a data plane up in order, and down again.
//!
//! Up: what is on disk goes into the table before anybody can connect. Down: the proxy drains first; the links to the
//! control plane and the admin side stay until it has, so that the end can be watched and is reported.

mod takeover;

use std::{
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use gateway_proto::v1;
use gateway_runtime::{
    Failure, Shutdown,
    panics::PanicCounts,
    passed::Passed,
    supervise::{Beyond, Ended, Supervisor},
    tls::{ClientTls, Tls},
    unix_socket::UnixSocket,
};
use tokio::{
    net::TcpListener,
    sync::{Mutex, mpsc, watch},
    task::{JoinHandle, spawn_blocking},
};

use crate::{
    access_log::AccessLog,
    admin::{self, Access, Admin},
    clock::Clock,
    config::{Config, Registry},
    control_plane::ControlPlane,
    discovery::{
        Cache, Cached, Feed, Guard, Mirror, Services, ServicesFile, Snapshot, Source, View, client, ending,
        keeper,
    },
    handover::{self, Claim, Inherited, Predecessor},
    health::{CheckCounts, Checker},
    proxy::{self, Leave, Proxy, ProxyConfig, Refusals, Watch},
    report::{Reporter, journal::Journal},
    table::{Table, Transition},
    traces::Tracer,
};
use takeover::Listening;

/// What this build calls itself towards control planes and operators.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// How much longer than its own `--handover-timeout` a process waits for one that takes its place, which has that long, too; and
/// for one that has the place and is ending, which may drain for as long.
const SUCCESSOR_GRACE: Duration = Duration::from_secs(30);
/// The last report and the last snapshot are worth this long a wait, and no more.
const FAREWELL: Duration = Duration::from_secs(5);

/// A data plane that serves.
#[derive(Debug)]
pub struct Running {
    proxy: Proxy,
    admin_listen: SocketAddr,
    clock: Clock,
    /// Ends the background tasks.
    stop: Shutdown,
    background: JoinHandle<Ended>,
    /// Drains the proxy.
    shutdown: Shutdown,
    access_log: Option<Arc<AccessLog>>,
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
    start_at(config, Passed::default(), shutdown).await
}

/// As [`start`], at sockets that were passed in place of those at the configured addresses: `http` of `--listen`, `https` of
/// `--tls-listen` and `admin` of `--admin-listen`, as far as there are any.
///
/// # Errors
/// As [`start`], and a usage [`Failure`] that names a socket of another name.
///
/// # Panics
/// As [`start`].
pub async fn start_at(config: Config, passed: Passed, shutdown: Shutdown) -> Result<Running, Failure> {
    tracing::info!(
        node_id = %config.node_id, workers = config.workers, registry = %config.registry,
        drain_delay = ?config.drain_delay, drain_timeout = ?config.drain_timeout, "starting"
    );
    let clock = Clock::new();
    let (table, transitions) = Table::located(config.workers, config.locality.clone());
    table.record_outcomes(config.record_outcomes);
    if config.allow_fault_injection {
        table.allow_faults();
    }
    let journal = Arc::new(Journal::new(table.clone()));
    let First { snapshot, guard, source, age } = First::find(&config.registry).await;
    let services = match &config.registry {
        Registry::ControlPlane { services, .. } => services.clone(),
        Registry::Static(_) => Services::All,
    };
    let mirror = Mirror::new(config.node_id.clone(), snapshot, guard, clock.moment().wall).of(services);
    let (feed, view) = Feed::new(mirror, source, age, table.clone(), clock);

    let claim = config.handover_socket.as_deref().map(Claim::new).transpose()?;
    let mut inherited = match &config.handover_socket {
        Some(path) => handover::inherit(path, VERSION).await?,
        None => None,
    };
    let patience = config.handover_timeout.saturating_add(SUCCESSOR_GRACE);
    // With a socket that was passed, it is this process that has the address.
    if inherited.is_none() && config.handover_socket.is_some() && !passed.has("admin") {
        takeover::vacated(config.admin_listen, patience, &shutdown).await?;
    }
    let listening = Listening::at(&config, inherited.as_mut(), passed)?;
    // A socket that was passed may have been bound anywhere.
    config.access.check("LISTEN_FDS: the admin side at", listening.admin_address)?;
    let proxy_config = proxy_config(&config, listening.admin_address);

    let panics = Arc::new(PanicCounts::default());
    let refusals = Arc::new(Refusals::new(config.workers));
    let (stop, alone) = (Shutdown::new(), Shutdown::new());
    let control_plane = match &config.registry {
        Registry::ControlPlane { urls, .. } => {
            let spread = ControlPlane::spread(urls.clone(), config.identity.clone(), &mut rand::rng());
            Some(Arc::new(spread))
        }
        Registry::Static(_) => None,
    };
    let mut background = Background::new(panics.clone(), stop.clone());
    background.record(journal.clone(), transitions, stop.clone());
    let checks = Arc::new(CheckCounts::default());
    let checker = Checker {
        table: table.clone(),
        journal: journal.clone(),
        clock,
        counts: checks.clone(),
        rate: config.health_check_rate,
        tls: config.upstream_tls.clone(),
        admin: Some(listening.admin_address),
    };
    background.check(checker, stop.clone());
    let mut admin = Admin {
        node_id: config.node_id.clone(),
        version: VERSION,
        view: view.clone(),
        table: table.clone(),
        journal: journal.clone(),
        checks: checks.clone(),
        clock,
        panics: panics.clone(),
        refusals: refusals.clone(),
        access_log: config.access_log.clone(),
        tracer: config.tracer.clone(),
        watch: Watch::default(),
        started: clock.moment().wall,
        tls: config.tls.as_ref().map(|(_, tls)| tls.clone()),
        upstream_tls: config.upstream_tls.clone(),
        certificates: config.certificates(),
        max_connections: config.limits.connections,
        histogram_services: config.histogram_services,
        shutdown: shutdown.clone(),
    };
    let access_log = config.access_log.clone();
    if let Some(log) = access_log.clone() {
        background.follow_access_log(log, stop.clone());
    }
    if let Some(tracer) = config.tracer.clone() {
        background.export_traces(tracer, stop.clone());
    }
    if let Some((_, tls)) = config.tls {
        background.read_certificates(tls, stop.clone());
    }
    if config.identity.tls.has_files() {
        background.read_control_plane_certificates(config.identity.tls, stop.clone());
    }
    if config.upstream_tls.has_files() {
        background.read_upstream_certificates(config.upstream_tls, stop.clone());
    }
    let followed = view.clone();
    if let (Registry::ControlPlane { cache, services, services_file, .. }, Some(control_plane)) =
        (config.registry, &control_plane)
    {
        let process_id = format!("{:016x}", rand::random::<u64>());
        let node_id = config.node_id.to_string();
        let node = v1::NodeIdentity {
            node_id,
            version: VERSION.into(),
            process_id: process_id.clone(),
            ..Default::default()
        };
        let services = Arc::new(watch::Sender::new(services));
        if let Some(file) = services_file {
            background.read_services(file, services.clone(), stop.clone());
        }
        let link = Link { control_plane: control_plane.clone(), node, services, stop: stop.clone() };
        let reporter = Reporter {
            control_plane: link.control_plane.clone(),
            node_id: config.node_id,
            version: VERSION,
            process_id,
            table: table.clone(),
            view: view.clone(),
            clock,
            journal,
            checks,
            alone: alone.clone(),
        };
        let feed = Arc::new(feed);
        background.follow(link, feed.clone());
        background.end_overrides(feed, stop.clone());
        background.report(reporter, stop.clone());
        if let Some(cache) = cache {
            background.keep(cache, view, stop.clone());
        }
    }
    if let Some(inherited) = &inherited {
        takeover::ready(inherited, &followed, config.handover_timeout, &shutdown).await?;
    }
    let leave = Leave { shutdown: shutdown.clone(), handed_over: Shutdown::new() };
    let copies = claim.is_some().then(|| listening.duplicate()).transpose()?;
    let Listening { plain, tls, admin: admin_listener, admin_address: admin_listen } = listening;
    let proxy = proxy::serve(proxy_config, (plain, tls), table, clock, leave.clone(), panics, refusals)?;
    admin.watch = proxy.watch();
    match inherited {
        Some(mut inherited) => {
            inherited.serving().await?;
            background.outlive(inherited, alone, stop.clone());
        }
        None => alone.begin(),
    }
    // By now no other process accepts there.
    let admin_listener = TcpListener::from_std(admin_listener)
        .map_err(|error| Failure::unbound("--admin-listen", admin_listen, &error))?;
    background.show((admin_listener, config.access), admin, [stop.clone(), leave.handed_over.clone()]);
    if let (Some(claim), Some(copies)) = (claim, copies) {
        let predecessor = Predecessor {
            version: VERSION,
            sockets: copies.into(),
            hold: control_plane.map(|control_plane| control_plane.hold().clone()).unwrap_or_default(),
            handed_over: leave.handed_over,
            shutdown: shutdown.clone(),
            successor: AtomicU32::new(0),
            patience,
            panics: Arc::clone(proxy.panics()),
        };
        match claim.publish() {
            Ok(place) => background.hand_over(place, predecessor, stop.clone()),
            // The process before has left: whoever ended now would leave nobody who serves.
            Err(error) => tracing::error!(
                %error,
                "--handover-socket cannot be put in its place: serving, but nobody can take over from this process"
            ),
        }
    }
    let background = tokio::spawn(background.supervisor.run(FAREWELL));
    Ok(Running { proxy, admin_listen, clock, stop, background, shutdown, access_log })
}

impl Running {
    /// Where clients connect.
    pub fn listen(&self) -> SocketAddr {
        self.proxy.listen()
    }

    /// Where they connect with TLS.
    pub fn tls_listen(&self) -> Option<SocketAddr> {
        self.proxy.tls_listen()
    }

    /// Where operators look.
    pub fn admin_listen(&self) -> SocketAddr {
        self.admin_listen
    }

    /// What is wrong with this process itself, so that only a new one heals it: a worker that hangs. For those who ask now and
    /// then.
    pub fn faults(&self) -> impl Fn() -> Option<String> + Send + use<> {
        let (watch, clock) = (self.proxy.watch(), self.clock);
        move || watch.fault(clock.now())
    }

    /// Completes when the proxy has drained after the shutdown, and everything else has ended after it.
    ///
    /// # Errors
    /// A fatal [`Failure`] when the proxy, or the background, could not go on.
    pub async fn finished(self) -> Result<(), Failure> {
        let Self { proxy, stop, mut background, shutdown, access_log, .. } = self;
        let mut proxy = pin!(proxy.finished());
        let (drained, ended) = tokio::select! {
            drained = &mut proxy => {
                stop.begin();
                (drained, background.await)
            }
            // Nothing that runs in the background ends before it is told to, or ends the process by its panics.
            ended = &mut background => {
                shutdown.begin();
                (proxy.await, ended)
            }
        };
        let ended =
            ended.unwrap_or_else(|error| Err(Failure::fatal(format!("the background ended: {error}"))));
        if let Some(log) = access_log {
            // The lines of the last requests are worth this long a wait.
            let _ = spawn_blocking(move || log.close()).await;
        }
        drained.and(ended)
    }
}

/// What both streams to the control plane need.
#[derive(Debug, Clone)]
struct Link {
    control_plane: Arc<ControlPlane>,
    node: v1::NodeIdentity,
    /// Those that are to be carried.
    services: Arc<watch::Sender<Services>>,
    stop: Shutdown,
}

/// The tasks beside the proxy. None of them is worth the end of the requests that go on without it, so whatever panics
/// is tried again for as long as the process lives.
struct Background {
    supervisor: Supervisor,
    panics: Arc<PanicCounts>,
}

impl Background {
    fn new(panics: Arc<PanicCounts>, stop: Shutdown) -> Self {
        let counts = panics.clone();
        let supervisor = Supervisor::new(stop, move |notice| counts.count(notice.task));
        Self { supervisor, panics }
    }

    fn spawn<F>(&mut self, task: &'static str, start: impl Fn() -> F + Send + Sync + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.panics.begin(task);
        self.supervisor.spawn(task, Beyond::Persist, move || {
            let run = start();
            async move {
                run.await;
                Ok(())
            }
        });
    }

    fn record(&mut self, journal: Arc<Journal>, transitions: mpsc::Receiver<Transition>, stop: Shutdown) {
        // Locked for a whole run, by the one task that runs: so that the next one goes on where a panic ended it.
        let transitions = Arc::new(Mutex::new(transitions));
        self.spawn("journal", move || {
            let (journal, transitions, stop) = (journal.clone(), transitions.clone(), stop.clone());
            async move { journal.record_all(&mut *transitions.lock().await, stop).await }
        });
    }

    fn check(&mut self, checker: Checker, stop: Shutdown) {
        let checker = Arc::new(checker);
        self.spawn("health_checks", move || {
            let (checker, stop) = (checker.clone(), stop.clone());
            async move { checker.run(&stop).await }
        });
    }

    /// Until the first of `ends`.
    fn show(&mut self, (listener, access): (TcpListener, Arc<Access>), admin: Admin, ends: [Shutdown; 2]) {
        if let Some(tls) = access.tls.clone() {
            let [stop, _] = ends.clone();
            self.spawn("admin certificates", move || tls.clone().follow(stop.clone()));
        }
        let listener = Arc::new(listener);
        self.spawn("admin", move || {
            let (listener, access, admin) = (listener.clone(), access.clone(), admin.clone());
            let ([one, other], either) = (ends.clone(), Shutdown::new());
            async move {
                let ends = async {
                    tokio::select! {
                        () = one.begun() => {}
                        () = other.begun() => {}
                    }
                    either.begin();
                };
                tokio::join!(admin::serve(listener, access, admin, either.clone()), ends);
            }
        });
    }

    /// Begins `alone` once the process whose place this one has taken has ended.
    fn outlive(&mut self, inherited: Inherited, alone: Shutdown, stop: Shutdown) {
        let inherited = Arc::new(inherited);
        self.spawn("predecessor", move || {
            let (inherited, alone, stop) = (inherited.clone(), alone.clone(), stop.clone());
            async move {
                tokio::select! {
                    _ = inherited.ended() => alone.begin(),
                    () = stop.begun() => {}
                }
            }
        });
    }

    fn hand_over(&mut self, place: UnixSocket, predecessor: Predecessor, stop: Shutdown) {
        // Locked for a whole run, as the transitions above.
        let (place, predecessor) = (Arc::new(Mutex::new(Some(place))), Arc::new(predecessor));
        self.spawn(handover::TASK, move || {
            let (place, predecessor, stop) = (place.clone(), predecessor.clone(), stop.clone());
            async move { handover::serve(&mut *place.lock().await, &predecessor, stop).await }
        });
    }

    fn follow_access_log(&mut self, log: Arc<AccessLog>, stop: Shutdown) {
        self.spawn("access_log", move || {
            let (log, stop) = (log.clone(), stop.clone());
            async move { log.follow(stop).await }
        });
    }

    fn export_traces(&mut self, tracer: Arc<Tracer>, stop: Shutdown) {
        if let Some(tls) = tracer.tls_with_files() {
            let stop = stop.clone();
            self.spawn("collector certificates", move || tls.clone().follow(stop.clone()));
        }
        self.spawn("traces", move || {
            let (tracer, stop) = (tracer.clone(), stop.clone());
            async move { tracer.export(stop).await }
        });
    }

    fn read_certificates(&mut self, tls: Arc<Tls>, stop: Shutdown) {
        self.spawn("certificates", move || tls.clone().follow(stop.clone()));
    }

    fn read_upstream_certificates(&mut self, tls: Arc<ClientTls>, stop: Shutdown) {
        self.spawn("upstream certificates", move || tls.clone().follow(stop.clone()));
    }

    fn read_control_plane_certificates(&mut self, tls: Arc<ClientTls>, stop: Shutdown) {
        self.spawn("control plane certificates", move || tls.clone().follow(stop.clone()));
    }

    fn read_services(
        &mut self,
        file: Arc<ServicesFile>,
        carried: Arc<watch::Sender<Services>>,
        stop: Shutdown,
    ) {
        self.spawn("services", move || {
            let (file, carried, stop) = (file.clone(), carried.clone(), stop.clone());
            async move { file.follow(&carried, stop).await }
        });
    }

    fn follow(&mut self, link: Link, feed: Arc<Feed>) {
        let has_run = AtomicBool::new(false);
        self.spawn("discovery", move || {
            if has_run.swap(true, Relaxed) {
                // What the one before had taken over may not be in the table.
                feed.route_all();
            }
            let (link, feed) = (link.clone(), feed.clone());
            async move { client::follow(&link.control_plane, &link.node, &link.services, &feed, &link.stop).await }
        });
    }

    fn end_overrides(&mut self, feed: Arc<Feed>, stop: Shutdown) {
        self.spawn("overrides", move || {
            let (feed, stop) = (feed.clone(), stop.clone());
            async move { ending::end_overrides(&feed, &stop).await }
        });
    }

    fn report(&mut self, reporter: Reporter, stop: Shutdown) {
        let reporter = Arc::new(reporter);
        self.spawn("reports", move || {
            let (reporter, stop) = (reporter.clone(), stop.clone());
            async move { reporter.run(&stop).await }
        });
    }

    fn keep(&mut self, cache: Cache, view: View, stop: Shutdown) {
        self.spawn("cache", move || keeper::keep(cache.clone(), view.clone(), stop.clone()));
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
            Registry::Static(file) => {
                let snapshot = Snapshot::new("static", 0, file.services.clone());
                Self::of(snapshot.with_routes(file.routes.clone()), Source::Static)
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

fn proxy_config(config: &Config, admin: SocketAddr) -> ProxyConfig {
    ProxyConfig {
        listen: config.listen,
        tls: config.tls.clone(),
        upstream_tls: Arc::clone(&config.upstream_tls),
        admin: Some(admin),
        workers: config.workers,
        node_id: config.node_id.clone(),
        domain: config.domain.clone(),
        debug_headers: config.debug_headers,
        limits: config.limits.clone(),
        access_log: config.access_log.clone(),
        tracer: config.tracer.clone(),
        proxy_headers: config.proxy_headers.clone(),
        forwarding: config.forwarding.clone(),
        drain_delay: config.drain_delay,
        drain_timeout: config.drain_timeout,
    }
}

#[cfg(test)]
mod tests;
