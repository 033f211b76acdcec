//! A control plane that the gateway follows, and that has something to tell all the time.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use gateway_proto::v1::{
    Endpoint, HealthStatus, RegisterRequest, ReportHealthRequest,
    registry_service_client::RegistryServiceClient,
};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::peers::{PATIENCE, service_name, without_settings};

/// Callers that register at once.
const CALLERS: usize = 64;
/// No lease lapses during a measurement.
const TTL_SECS: i64 = 3600;
/// Every so many changes one is of the service that is asked.
const OF_ASKED: usize = 10;

/// A running control plane, killed when dropped.
#[derive(Debug)]
pub(crate) struct ControlPlane {
    child: Child,
    url: String,
    /// Replicas whose health changes: those of the service that is asked first, then one of each other.
    replicas: Arc<[Registered]>,
    /// Changes so far, from which it follows whose turn it is, and what it says.
    made: Arc<AtomicUsize>,
    _directory: TempDir,
}

/// A replica, and by what it may say how it is.
#[derive(Debug, Clone)]
struct Registered {
    service: String,
    replica_id: String,
    lease_id: String,
}

/// Changes that go on until this is dropped or ended.
#[derive(Debug)]
pub(crate) struct Changes {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<usize>>>,
}

impl ControlPlane {
    /// Starts one, and registers all these replicas as the first service's, and one of them for each other service.
    pub(crate) async fn start(program: &Path, services: usize, replicas: &[SocketAddr]) -> Result<Self> {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        let mut command = Command::new(program);
        command.args(["--listen", "127.0.0.1:0"]);
        command.arg("--store").arg(format!("redb:{}", directory.path().join("gateway.redb").display()));
        let log = File::create(directory.path().join("log"))?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        without_settings(&mut command);
        let mut child = command.spawn().with_context(|| format!("starting {}", program.display()))?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("stdout is piped")?).read_line(&mut line)?;
        let ready: serde_json::Value =
            serde_json::from_str(&line).with_context(|| format!("the control plane said {line:?}"))?;
        let url = format!("http://{}", ready["listen"].as_str().context("an address")?);
        let (nobody, made) = (Arc::default(), Arc::default());
        let mut control_plane = Self { child, url, replicas: nobody, made, _directory: directory };
        control_plane.register(services, replicas).await?;
        Ok(control_plane)
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    async fn register(&mut self, services: usize, replicas: &[SocketAddr]) -> Result<()> {
        let of_first = (0..replicas.len()).map(|number| (0, number));
        let wanted: Arc<[_]> = of_first.chain((1..services).map(|service| (service, 0))).collect();
        let (replicas, mut callers): (Arc<[_]>, _) = (replicas.into(), JoinSet::new());
        for caller in 0..CALLERS {
            let mut registry = RegistryServiceClient::connect(self.url.clone()).await?;
            let (wanted, replicas) = (Arc::clone(&wanted), Arc::clone(&replicas));
            callers.spawn(async move {
                let mut registered = Vec::new();
                for (place, &(service, number)) in wanted.iter().enumerate().skip(caller).step_by(CALLERS) {
                    let address: SocketAddr = replicas[(service + number) % replicas.len()];
                    let request = RegisterRequest {
                        service: service_name(service),
                        replica_id: format!("r-{number}"),
                        endpoint: Some(Endpoint { address: address.to_string(), ..Default::default() }),
                        lease_ttl: Some(prost_types::Duration { seconds: TTL_SECS, nanos: 0 }),
                        ..Default::default()
                    };
                    let (service, replica_id) = (request.service.clone(), request.replica_id.clone());
                    let lease_id = registry.register(request).await?.into_inner().lease_id;
                    registered.push((place, Registered { service, replica_id, lease_id }));
                }
                anyhow::Ok(registered)
            });
        }
        let mut registered = callers.join_all().await.into_iter().collect::<Result<Vec<_>>>()?.concat();
        registered.sort_by_key(|(place, _)| *place);
        let changing = registered.into_iter().map(|(_, replica)| replica);
        // All but one of the service that is asked stay as they are: somebody has to answer.
        self.replicas = changing.skip(replicas.len() - 1).collect();
        Ok(())
    }

    /// Begins to change a replica's health so many times a second, of one service after the other: each becomes unhealthy, and with its
    /// next change healthy again.
    pub(crate) fn change(&self, rate: f64) -> Changes {
        let is_over = Arc::new(AtomicBool::new(false));
        let (ends, url) = (Arc::clone(&is_over), self.url.clone());
        let (replicas, made) = (Arc::clone(&self.replicas), Arc::clone(&self.made));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let registry = RegistryServiceClient::connect(url).await?;
                changes(registry, &replicas, &made, Duration::from_secs_f64(1.0 / rate), &ends).await
            })
        });
        Changes { is_over, thread: Some(thread) }
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        // An error says that it is gone already.
        let _ = (self.child.kill(), self.child.wait());
    }
}

async fn changes(
    mut registry: RegistryServiceClient<Channel>,
    replicas: &[Registered],
    made: &AtomicUsize,
    pause: Duration,
    ends: &AtomicBool,
) -> Result<usize> {
    let (asked, others) = replicas.split_first().context("there are replicas")?;
    let before = made.load(Relaxed);
    let mut due = Instant::now();
    while !ends.load(Relaxed) {
        let number = made.fetch_add(1, Relaxed);
        let of_asked = number / OF_ASKED;
        let (replica, turn) = match number % OF_ASKED {
            0 => (asked, of_asked),
            // Each of the others has two turns, one after the other.
            _ => (&others[(number - of_asked - 1) / 2 % others.len()], number - of_asked - 1),
        };
        let health = if turn % 2 == 0 { HealthStatus::Unhealthy } else { HealthStatus::Healthy };
        let Registered { service, replica_id, lease_id } = replica.clone();
        let report = ReportHealthRequest {
            service,
            replica_id,
            lease_id,
            health: health.into(),
            ..Default::default()
        };
        registry.report_health(report).await?;
        due += pause;
        tokio::time::sleep_until(due.into()).await;
    }
    Ok(made.load(Relaxed) - before)
}

impl Changes {
    /// Ends them, and yields how many there were.
    pub(crate) fn end(mut self) -> Result<usize> {
        self.is_over.store(true, Relaxed);
        let made = self.thread.take().context("it ends once")?.join();
        made.map_err(|_| anyhow::anyhow!("the changes panicked"))?
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        self.is_over.store(true, Relaxed);
    }
}

/// Waits until a gateway has followed so many changes after a revision: had it not, nothing would have been measured.
pub(crate) fn followed(admin: SocketAddr, before: f64, made: usize) -> Result<()> {
    let began = Instant::now();
    while revision(admin)? - before < made as f64 {
        ensure!(
            began.elapsed() < PATIENCE,
            "of {made} changes the gateway has {}",
            revision(admin)? - before
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// The registry's revision that a gateway routes by. Metrics say it, too, of all services besides, which would be in what is measured.
pub(crate) fn revision(admin: SocketAddr) -> Result<f64> {
    let mut stream = TcpStream::connect(admin).context("the gateway can be looked into")?;
    write!(stream, "GET /readyz?verbose HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let revision = text.split_once(", revision ").and_then(|(_, rest)| rest.split_once(','));
    let (revision, _) = revision.with_context(|| format!("it says by which revision it is ready: {text}"))?;
    Ok(revision.parse()?)
}
