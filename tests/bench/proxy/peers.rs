//! The proxies that are measured: where their programs are, how each is told the same, and their processes.

mod configs;

use std::{
    fs::File,
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::{Args, Bench, cores::Cores, tls::Certificate};

/// What the gateway is called in tables.
pub(crate) const GATEWAY: &str = "gateway";
/// Longest wait for a proxy to listen. Ten thousand services take some of them long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// Longest wait for the gateway to end. It has no clients any more.
const FAREWELL: Duration = Duration::from_secs(10);

/// A running proxy, which ends when dropped, and its directory with it.
#[derive(Debug)]
pub(crate) struct Peer {
    name: String,
    version: String,
    child: Child,
    at: Addresses,
    _directory: TempDir,
}

/// Where a proxy takes what; `None` where it does not take it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Addresses {
    pub(crate) http1: SocketAddr,
    /// Without TLS.
    pub(crate) http2: Option<SocketAddr>,
    pub(crate) tls: Option<SocketAddr>,
    /// HTTP/2 without TLS, for replicas that speak it, too.
    pub(crate) grpc: Option<SocketAddr>,
    /// Of those that have one: where people look in.
    pub(crate) admin: SocketAddr,
}

/// All proxies of a run.
#[derive(Debug)]
pub(crate) struct Fleet {
    peers: Vec<Peer>,
    missing: Vec<String>,
}

/// In what those that are measured may differ.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting<'a> {
    /// Of the same replicas, named by [`service_name`].
    pub(crate) services: usize,
    /// Of the gateway; all others have one.
    pub(crate) workers: usize,
    /// Whom the gateway follows, in place of a file of services.
    pub(crate) control_plane: Option<&'a str>,
}

impl Setting<'_> {
    /// One worker that knows so many services.
    pub(crate) fn of(services: usize) -> Self {
        Self { services, workers: 1, control_plane: None }
    }
}

/// One that can be started.
struct Kind {
    name: String,
    program: PathBuf,
    /// What tells its version.
    version: &'static str,
    configure: fn(&Site<'_>) -> Result<Vec<String>>,
    ports: Ports,
}

/// How a proxy's ports are divided.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ports {
    /// One for everything without TLS; services are told by host.
    One,
    /// One for HTTP/1.1 and HTTP/2, one for gRPC.
    WithGrpc,
    /// One for each.
    Each,
    /// Bytes are passed on, whatever they mean.
    Relay,
}

/// What a proxy is to be told.
struct Site<'a> {
    directory: &'a Path,
    replicas: &'a [SocketAddr],
    grpc_replicas: &'a [SocketAddr],
    setting: Setting<'a>,
    http1: SocketAddr,
    http2: SocketAddr,
    tls: SocketAddr,
    grpc: SocketAddr,
    admin: SocketAddr,
    certificate: &'a Certificate,
}

/// What a service is called; its host is that and `.localhost`.
pub(crate) fn service_name(place: usize) -> String {
    if place == 0 { "bench".into() } else { format!("s{place}") }
}

impl Fleet {
    /// Starts the gateway and those that are there, each with so many services.
    ///
    /// # Errors
    /// When there is no gw-data-plane, or it does not listen in time. Of others it is told that they do not, and they are left
    /// out.
    pub(crate) fn start(bench: &Bench<'_>, services: usize) -> Result<Self> {
        let (mut peers, mut missing) = (Vec::new(), Vec::new());
        for kind in kinds(bench.args)? {
            let is_wanted = bench.args.peers.is_empty() || bench.args.peers.contains(&kind.name);
            if !is_wanted && !kind.name.starts_with(GATEWAY) {
                continue;
            }
            if !kind.program.is_file() {
                ensure!(kind.name != GATEWAY, "no {}", kind.program.display());
                missing.push(kind.name);
                continue;
            }
            let (name, is_ours) = (kind.name.clone(), kind.name.starts_with(GATEWAY));
            match kind.start(bench, Setting::of(services)) {
                Ok(peer) => peers.push(peer),
                Err(error) if is_ours => return Err(error),
                Err(error) => {
                    // The others are worth a table without it.
                    println!("Without {name}: {error:#}\n");
                    missing.push(name);
                }
            }
        }
        Ok(Self { peers, missing })
    }

    pub(crate) fn peers(&self) -> &[Peer] {
        &self.peers
    }

    /// Their names, the one of that place first.
    pub(crate) fn names_from(&self, place: usize) -> Vec<String> {
        let (before, from) = self.peers.split_at(place % self.peers.len());
        from.iter().chain(before).map(|peer| peer.name.clone()).collect()
    }

    /// Ends one, with the connections that it keeps, so that the others find what it had taken.
    pub(crate) fn dismiss(&mut self, name: &str) {
        self.peers.retain(|peer| peer.name != name);
    }

    /// What was measured, and on what.
    pub(crate) fn description(&self, cores: &Cores) -> String {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let cpu = read("/proc/cpuinfo");
        let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": unknown");
        let peers: Vec<_> =
            self.peers.iter().map(|peer| format!("{} ({})", peer.name, peer.version)).collect();
        let missing = if self.missing.is_empty() {
            String::new()
        } else {
            format!("; not there: {}", self.missing.join(", "))
        };
        format!(
            "{} × {}; Linux {}; load average {}; {}{missing}",
            cores.count(),
            cpu.trim_start_matches([' ', '\t', ':']),
            read("/proc/sys/kernel/osrelease").trim(),
            read("/proc/loadavg").trim(),
            peers.join(", "),
        )
    }
}

impl Peer {
    /// The gateway alone.
    pub(crate) fn gateway(bench: &Bench<'_>, setting: Setting<'_>) -> Result<Self> {
        let gateway = kinds(bench.args)?.into_iter().next().context("the gateway is the first")?;
        ensure!(gateway.program.is_file(), "no {}", gateway.program.display());
        gateway.start(bench, setting)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn at(&self) -> Addresses {
        self.at
    }

    /// Whether it is one of ours.
    pub(crate) fn is_gateway(&self) -> bool {
        self.name.starts_with(GATEWAY)
    }

    /// Whether it knows nothing of HTTP.
    pub(crate) fn is_relay(&self) -> bool {
        self.name == "relay"
    }

    /// Has it end in good order, and waits for that.
    fn end(&mut self) {
        let asked = Command::new("kill").arg(self.pid().to_string()).status();
        let began = Instant::now();
        while asked.is_ok() && began.elapsed() < FAREWELL && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // What a build in training has counted, it writes at its end.
        if self.is_gateway() {
            self.end();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn kinds(args: &Args) -> Result<Vec<Kind>> {
    let gateway = |name: String, program| Kind {
        name,
        program,
        version: "--version",
        configure: configs::gateway,
        ports: Ports::One,
    };
    let mut kinds = vec![gateway(GATEWAY.into(), args.program("gw-data-plane")?)];
    for build in &args.builds {
        let (name, path) =
            build.split_once('=').with_context(|| format!("--builds {build} is no NAME=PATH"))?;
        kinds.push(gateway(format!("{GATEWAY} {name}"), path.into()));
    }
    kinds.extend([
        Kind {
            name: "nginx".into(),
            program: find("nginx"),
            version: "-v",
            configure: configs::nginx,
            ports: Ports::Each,
        },
        Kind {
            name: "haproxy".into(),
            program: find("haproxy"),
            version: "-v",
            configure: configs::haproxy,
            ports: Ports::Each,
        },
        Kind {
            name: "envoy".into(),
            program: find("envoy"),
            version: "--version",
            configure: configs::envoy,
            ports: Ports::WithGrpc,
        },
        Kind {
            name: "pingora".into(),
            program: find("pingora"),
            version: "version",
            configure: configs::pingora,
            ports: Ports::WithGrpc,
        },
        Kind {
            name: "relay".into(),
            program: std::env::current_exe()?,
            version: "",
            configure: configs::relay,
            ports: Ports::Relay,
        },
    ]);
    Ok(kinds)
}

/// A program by the environment, such as `ENVOY=/opt/envoy`, or in the path, Debian's for services included.
fn find(name: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(name.to_uppercase()) {
        return path.into();
    }
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/usr/local/sbin";
    let mut candidates = path.split(':').map(|folder| Path::new(folder).join(name));
    candidates.find(|candidate| candidate.is_file()).unwrap_or_default()
}

impl Kind {
    fn start(self, bench: &Bench<'_>, setting: Setting<'_>) -> Result<Peer> {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        let [http1, http2, tls, grpc, admin] = free_ports()?;
        let arguments = (self.configure)(&Site {
            directory: directory.path(),
            replicas: bench.replicas.addresses(),
            grpc_replicas: bench.replicas.grpc_addresses(),
            setting,
            http1,
            http2,
            tls,
            grpc,
            admin,
            certificate: bench.certificate,
        })?;
        let log = directory.path().join("log");
        let file = File::create(&log)?;
        let mut command = Command::new("taskset");
        command.args(["-c", &bench.cores.of_proxy(setting.workers)]).arg(&self.program).args(arguments);
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        without_settings(&mut command);
        let mut child =
            command.spawn().context("taskset, of util-linux, starts proxies on cores of their own")?;
        let began = Instant::now();
        while TcpStream::connect(http1).is_err() {
            if let Some(status) = child.try_wait()? {
                let said = std::fs::read_to_string(&log).unwrap_or_default();
                bail!("{} ended with {status}:\n{said}", self.name);
            }
            if began.elapsed() > PATIENCE {
                let _ = (child.kill(), child.wait());
                bail!("{} does not listen at {http1}", self.name);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let (http2, tls, grpc) = match self.ports {
            Ports::One => (Some(http1), Some(tls), Some(http1)),
            Ports::WithGrpc => (Some(http1), Some(tls), Some(grpc)),
            Ports::Each => (Some(http2), Some(tls), Some(grpc)),
            // A relay's clients may speak HTTP/2, if its replicas do.
            Ports::Relay => (None, None, Some(grpc)),
        };
        let version = version(&self.program, self.version);
        let at = Addresses { http1, http2, tls, grpc, admin };
        Ok(Peer { name: self.name, version, child, at, _directory: directory })
    }
}

/// A program is told everything here, and nothing by the environment of who started this.
pub(crate) fn without_settings(command: &mut Command) {
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("GW_")) {
        command.env_remove(name);
    }
}

fn version(program: &Path, flag: &str) -> String {
    let Some(output) = Some(flag)
        .filter(|flag| !flag.is_empty())
        .and_then(|flag| Command::new(program).arg(flag).output().ok())
    else {
        return "a bare relay of bytes, the floor".into();
    };
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    // 1.2.3, with or without what is around it.
    let is_version =
        |word: &&str| word.contains('.') && word.starts_with(|letter: char| letter.is_ascii_digit());
    let words = said.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '.');
    words.into_iter().find(is_version).unwrap_or("unknown").to_owned()
}

/// Held together until all are drawn: one that is given back may be drawn again.
fn free_ports<const COUNT: usize>() -> Result<[SocketAddr; COUNT]> {
    let mut held = Vec::with_capacity(COUNT);
    let mut ports = [SocketAddr::from(([127, 0, 0, 1], 0)); COUNT];
    for port in &mut ports {
        let listener = TcpListener::bind(*port)?;
        *port = listener.local_addr()?;
        held.push(listener);
    }
    Ok(ports)
}
