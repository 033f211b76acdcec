//! The servers that are measured: where their programs are, and each as a process on a directory of its own.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

/// Longest wait for a server to be ready. A hundred thousand registrations are read within it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where programs are, and where their data goes.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    programs: PathBuf,
    data: PathBuf,
    etcd: Option<PathBuf>,
}

/// A running server, killed when dropped; its data goes with it.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    address: SocketAddr,
    /// `None` once [`Server::into_data`] has taken it.
    directory: Option<TempDir>,
}

impl Programs {
    /// Looks for programs beside this one, unless it is told where they are, and for etcd in `PATH`.
    ///
    /// # Errors
    /// When there is no gw-control-plane.
    pub(crate) fn find(programs: Option<PathBuf>, data: Option<PathBuf>) -> Result<Self> {
        let programs = match programs {
            Some(programs) => programs,
            // <target>/<profile>/deps/<this>
            None => std::env::current_exe()?.ancestors().nth(2).context("cargo's layout")?.to_owned(),
        };
        ensure!(programs.join("gw-control-plane").exists(), "no gw-control-plane in {}", programs.display());
        let data = data.unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").into());
        let path = std::env::var("PATH").unwrap_or_default();
        let etcd = path.split(':').map(|folder| Path::new(folder).join("etcd")).find(|path| path.is_file());
        Ok(Self { programs, data, etcd })
    }

    /// A directory on the disk that is measured.
    pub(crate) fn directory(&self) -> Result<TempDir> {
        tempfile::tempdir_in(&self.data).with_context(|| format!("a directory in {}", self.data.display()))
    }

    /// The version of etcd, if it is there.
    pub(crate) fn etcd_version(&self) -> Option<String> {
        let output = Command::new(self.etcd.as_ref()?).arg("--version").output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        text.lines().next()?.split_whitespace().last().map(str::to_owned)
    }

    /// Starts a control plane with room for everything that is measured.
    pub(crate) fn control_plane(&self) -> Result<Server> {
        self.control_plane_on(self.directory()?)
    }

    /// Starts a control plane on the data of another one.
    pub(crate) fn control_plane_on(&self, directory: TempDir) -> Result<Server> {
        let store = directory.path().join("gateway.redb");
        let mut command = Command::new(self.programs.join("gw-control-plane"));
        command.args(["--listen", "127.0.0.1:0"]);
        command.arg("--store").arg(format!("redb:{}", store.display()));
        command.args(["--max-replicas", "10000000", "--max-replicas-per-service", "10000000"]);
        command.args(["--max-nodes", "20000", "--max-connections", "20000", "--queue-length", "8192"]);
        self.announced(command, directory)
    }

    /// Starts a data plane that follows `control_plane`; its address is where it takes requests.
    pub(crate) fn data_plane(&self, control_plane: &Server) -> Result<Server> {
        let directory = self.directory()?;
        let mut command = Command::new(self.programs.join("gw-data-plane"));
        command.args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--node-id", "bench"]);
        command.arg("--control-plane").arg(control_plane.url());
        command.arg("--cache-dir").arg(directory.path());
        self.announced(command, directory)
    }

    /// Starts an etcd of one member, with its own defaults. `None` when there is no etcd.
    pub(crate) async fn etcd(&self) -> Result<Option<Server>> {
        let Some(program) = &self.etcd else { return Ok(None) };
        let directory = self.directory()?;
        let (client, peer) = (free_address()?, free_address()?);
        let (client_url, peer_url) = (format!("http://{client}"), format!("http://{peer}"));
        let mut command = Command::new(program);
        command.arg("--data-dir").arg(directory.path().join("etcd"));
        command.args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url]);
        command.args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url]);
        command.args(["--initial-cluster", &format!("default={peer_url}")]);
        let child = spawn(&mut command, &directory, Stdio::null())?;
        let mut server = Server { child, address: client, directory: Some(directory) };
        server.answers().await?;
        Ok(Some(server))
    }

    /// Starts a program of ours and reads from its ready line where it serves.
    fn announced(&self, mut command: Command, directory: TempDir) -> Result<Server> {
        let settings = std::env::vars().map(|(name, _)| name).filter(|name| name.starts_with("GW_"));
        settings.for_each(|name| {
            command.env_remove(name);
        });
        let mut child = spawn(&mut command, &directory, Stdio::piped())?;
        let mut line = String::new();
        let stdout = child.stdout.take().context("stdout is piped")?;
        BufReader::new(stdout).read_line(&mut line)?;
        let ready: serde_json::Value =
            serde_json::from_str(&line).with_context(|| format!("{command:?} said {line:?}"))?;
        let address = ready["listen"].as_str().context("an address")?.parse()?;
        Ok(Server { child, address, directory: Some(directory) })
    }
}

impl Server {
    /// Where it serves.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same as a URL.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL; its data stays for a successor.
    pub(crate) fn into_data(mut self) -> Result<TempDir> {
        self.child.kill()?;
        self.child.wait()?;
        self.directory.take().context("a server has a directory until this")
    }

    /// Waits until an etcd answers a read.
    async fn answers(&mut self) -> Result<()> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("etcd ended: {status}");
            }
            if let Ok(channel) = crate::callers::connect(&self.url()).await
                && crate::etcd::Client::new(channel).range(b"ready").await.is_ok()
            {
                return Ok(());
            }
            ensure!(began.elapsed() < PATIENCE, "etcd does not answer");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // An error says that it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a program whose logs go to a file, as a service's do.
fn spawn(command: &mut Command, directory: &TempDir, stdout: Stdio) -> Result<Child> {
    let log = File::options().create(true).append(true).open(directory.path().join("log"))?;
    command.stdin(Stdio::null()).stdout(stdout).stderr(log);
    command.spawn().with_context(|| format!("starting {command:?}"))
}

/// An address that was free a moment ago: etcd takes no port 0.
fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
