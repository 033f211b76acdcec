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

use crate::{Args, upstream::Replicas};

/// What the gateway is called in tables.
pub(crate) const GATEWAY: &str = "gateway";
/// Longest wait for a proxy to listen.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running proxy, killed when dropped.
#[derive(Debug)]
pub(crate) struct Peer {
    name: String,
    version: String,
    child: Child,
    http1: SocketAddr,
    http2: Option<SocketAddr>,
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
    /// Whether one port takes both HTTP/1.1 and HTTP/2.
    http2: Http2,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Http2 {
    SamePort,
    OwnPort,
}

/// What a proxy is to be told.
struct Site<'a> {
    directory: &'a Path,
    replicas: &'a [SocketAddr],
    http1: SocketAddr,
    http2: SocketAddr,
    admin: SocketAddr,
}

impl Fleet {
    /// Starts the gateway and those that are there.
    ///
    /// # Errors
    /// When there is no gw-data-plane, or one that is there does not listen in time.
    pub(crate) fn start(args: &Args, replicas: &Replicas) -> Result<Self> {
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
            peers.push(kind.start(&own, replicas.addresses(), args.core)?);
        }
        Ok(Self { peers, missing, _directory: directory })
    }

    pub(crate) fn peers(&self) -> &[Peer] {
        &self.peers
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

    pub(crate) fn http1(&self) -> SocketAddr {
        self.http1
    }

    /// Where HTTP/2 is spoken without TLS, if anywhere.
    pub(crate) fn http2(&self) -> Option<SocketAddr> {
        self.http2
    }

    /// Whether it knows nothing of HTTP.
    pub(crate) fn is_relay(&self) -> bool {
        self.name == "relay"
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
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
        http2: Http2::SamePort,
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
            http2: Http2::OwnPort,
        },
        Kind {
            name: "haproxy".into(),
            program: find("haproxy"),
            version: "-v",
            configure: configs::haproxy,
            http2: Http2::OwnPort,
        },
        Kind {
            name: "envoy".into(),
            program: find("envoy"),
            version: "--version",
            configure: configs::envoy,
            http2: Http2::SamePort,
        },
        Kind {
            name: "relay".into(),
            program: this,
            version: "",
            configure: configs::relay,
            http2: Http2::SamePort,
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
    fn start(self, directory: &Path, replicas: &[SocketAddr], core: usize) -> Result<Peer> {
        let [http1, http2, admin] = [free_port()?, free_port()?, free_port()?];
        let arguments = (self.configure)(&Site { directory, replicas, http1, http2, admin })?;
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
        let http2 = match self.http2 {
            // A relay's clients may speak it, and its replicas do not.
            _ if self.name == "relay" => None,
            Http2::SamePort => Some(http1),
            Http2::OwnPort => Some(http2),
        };
        let version = version(&self.program, self.version);
        Ok(Peer { name: self.name, version, child, http1, http2 })
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
