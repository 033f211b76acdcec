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

use crate::{Args, tls::Certificate, upstream::Replicas};

/// What the gateway is called in tables.
pub(crate) const GATEWAY: &str = "gateway";
/// Longest wait for a proxy to listen. Ten thousand services take some of them long.
const PATIENCE: Duration = Duration::from_secs(120);
/// Longest wait for the gateway to end. It has no clients any more.
const FAREWELL: Duration = Duration::from_secs(10);

/// A running proxy, which ends when dropped.
#[derive(Debug)]
pub(crate) struct Peer {
    name: String,
    version: String,
    child: Child,
    at: Addresses,
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
}

/// All proxies of a run, on a directory that goes with it.
#[derive(Debug)]
pub(crate) struct Fleet {
    peers: Vec<Peer>,
    missing: Vec<String>,
    _directory: TempDir,
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
    /// Of the same replicas, named by [`service_name`].
    services: usize,
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
    pub(crate) fn start(
        args: &Args,
        replicas: &Replicas,
        certificate: &Certificate,
        services: usize,
    ) -> Result<Self> {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        let (mut peers, mut missing) = (Vec::new(), Vec::new());
        for kind in kinds(args)? {
            let is_wanted = args.peers.is_empty() || args.peers.contains(&kind.name);
            if !is_wanted && !kind.name.starts_with(GATEWAY) {
                continue;
            }
            if !kind.program.is_file() {
                ensure!(kind.name != GATEWAY, "no {}", kind.program.display());
                missing.push(kind.name);
                continue;
            }
            let own = directory.path().join(&kind.name);
            std::fs::create_dir(&own)?;
            let (name, is_ours) = (kind.name.clone(), kind.name.starts_with(GATEWAY));
            match kind.start(&own, replicas, certificate, services, args.core) {
                Ok(peer) => peers.push(peer),
                Err(error) if is_ours => return Err(error),
                Err(error) => {
                    // The others are worth a table without it.
                    println!("Without {name}: {error:#}\n");
                    missing.push(name);
                }
            }
        }
        Ok(Self { peers, missing, _directory: directory })
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
    pub(crate) fn description(&self) -> String {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let cpu = read("/proc/cpuinfo");
        let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": unknown");
        let cores = read("/proc/cpuinfo").lines().filter(|line| line.starts_with("processor")).count();
        let peers: Vec<_> =
            self.peers.iter().map(|peer| format!("{} ({})", peer.name, peer.version)).collect();
        let missing = if self.missing.is_empty() {
            String::new()
        } else {
            format!("; not there: {}", self.missing.join(", "))
        };
        format!(
            "{cores} × {}; Linux {}; load average {}; {}{missing}",
            cpu.trim_start_matches([' ', '\t', ':']),
            read("/proc/sys/kernel/osrelease").trim(),
            read("/proc/loadavg").trim(),
            peers.join(", "),
        )
    }
}

impl Peer {
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
    let this = std::env::current_exe()?;
    // <target>/<profile>/deps/<this>
    let beside = this.ancestors().nth(2).context("cargo's layout")?.join("gw-data-plane");
    let ours = args.programs.as_ref().map_or(beside, |programs| programs.join("gw-data-plane"));
    let gateway = |name: String, program| Kind {
        name,
        program,
        version: "--version",
        configure: configs::gateway,
        ports: Ports::One,
    };
    let mut kinds = vec![gateway(GATEWAY.into(), ours)];
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
            program: this,
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
    fn start(
        self,
        directory: &Path,
        replicas: &Replicas,
        certificate: &Certificate,
        services: usize,
        core: usize,
    ) -> Result<Peer> {
        let [http1, http2, tls, grpc, admin] =
            [free_port()?, free_port()?, free_port()?, free_port()?, free_port()?];
        let (replicas, grpc_replicas) = (replicas.addresses(), replicas.grpc_addresses());
        let arguments = (self.configure)(&Site {
            directory,
            replicas,
            grpc_replicas,
            services,
            http1,
            http2,
            tls,
            grpc,
            admin,
            certificate,
        })?;
        let log = File::create(directory.join("log"))?;
        let mut child = Command::new("taskset")
            .args(["-c", &core.to_string()])
            .arg(&self.program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("taskset, of util-linux, starts proxies on a core of their own")?;
        let began = Instant::now();
        while TcpStream::connect(http1).is_err() {
            if let Some(status) = child.try_wait()? {
                let said = std::fs::read_to_string(directory.join("log")).unwrap_or_default();
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
        Ok(Peer { name: self.name, version, child, at: Addresses { http1, http2, tls, grpc } })
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

fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
