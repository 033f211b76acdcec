//! A data plane under callgrind, which is told when to count, and looked at until it sleeps.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::dump::Dump;

/// Longest wait for it to sleep: it works on one request, under valgrind and beside whatever else runs.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK: Duration = Duration::from_micros(20);

/// A running data plane, killed when dropped.
#[derive(Debug)]
pub(crate) struct DataPlane {
    child: Child,
    address: SocketAddr,
    directory: PathBuf,
    dumps: usize,
}

/// Its threads, which anybody may wait for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Threads(u32);

/// Callgrind with what every count is made with.
pub(crate) fn callgrind(out: &Path) -> Command {
    let mut command = Command::new("valgrind");
    command.args([
        "--quiet",
        "--tool=callgrind",
        "--dump-line=no",
        "--compress-strings=no",
        "--compress-pos=no",
    ]);
    command.arg(format!("--callgrind-out-file={}", out.display()));
    command
}

impl DataPlane {
    /// Starts one of one worker before these replicas of the service `bench`.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) fn start(program: &Path, directory: &Path, replicas: &[SocketAddr]) -> Result<Self> {
        let services = directory.join("services.toml");
        let listed: Vec<_> = replicas.iter().map(|replica| format!("\"{replica}\"")).collect();
        fs::write(&services, format!("[[service]]\nname = \"bench\"\nreplicas = [{}]\n", listed.join(", ")))?;
        let mut command = callgrind(&directory.join("callgrind.out"));
        command.arg("--collect-systime=yes").arg(format!("--vgdb-prefix={}/vgdb", directory.display()));
        command.arg(program).arg("--static").arg(&services);
        command.args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--workers", "1"]);
        command.args(["--node-id", "counts"]);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("GW_")) {
            command.env_remove(name);
        }
        let log = File::create(directory.join("log"))?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().context("valgrind starts")?;
        let mut line = String::new();
        let stdout = child.stdout.take().context("stdout is piped")?;
        BufReader::new(stdout).read_line(&mut line)?;
        let mut this =
            Self { child, address: ([0, 0, 0, 0], 0).into(), directory: directory.to_owned(), dumps: 0 };
        let ready = serde_json::from_str::<serde_json::Value>(&line);
        let address = ready.ok().and_then(|ready| ready["listen"].as_str()?.parse().ok());
        this.address = address.with_context(|| {
            let log = fs::read_to_string(directory.join("log")).unwrap_or_default();
            format!("the data plane did not start under valgrind: it said {line:?} and logged\n{log}")
        })?;
        Ok(this)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn threads(&self) -> Threads {
        Threads(self.child.id())
    }

    /// What it has done since the last dump; `name` is the end of the file's name that tells it.
    pub(crate) fn dump(&mut self, name: &str) -> Result<Dump> {
        self.threads().asleep()?;
        let said = Command::new("vgdb")
            .arg(format!("--pid={}", self.child.id()))
            .arg(format!("--vgdb-prefix={}/vgdb", self.directory.display()))
            .arg("dump")
            .output()
            .context("vgdb, of valgrind, starts")?;
        ensure!(
            said.status.success(),
            "vgdb cannot reach the data plane (where ptrace is forbidden it cannot wake a process that sleeps): {}",
            String::from_utf8_lossy(&said.stderr)
        );
        self.dumps += 1;
        let path = self.directory.join(format!("callgrind.{name}"));
        fs::rename(self.directory.join(format!("callgrind.out.{}", self.dumps)), &path)?;
        Dump::read(&path)
    }
}

impl Drop for DataPlane {
    fn drop(&mut self) {
        // An error says that it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Threads {
    /// Waits until none of them runs.
    ///
    /// # Errors
    /// When the process has ended, or some thread runs on.
    pub(crate) fn asleep(self) -> Result<()> {
        let began = Instant::now();
        while !self.are_asleep()? {
            if began.elapsed() > PATIENCE {
                bail!("the data plane has been working for {PATIENCE:?}");
            }
            sleep(LOOK);
        }
        Ok(())
    }

    fn are_asleep(self) -> Result<bool> {
        for task in fs::read_dir(format!("/proc/{}/task", self.0)).context("the data plane runs")? {
            // One that ended meanwhile does not run.
            let Ok(stat) = fs::read_to_string(task?.path().join("stat")) else { continue };
            // The name in parentheses may hold anything; the state is behind it.
            let state = stat.rsplit_once(") ").and_then(|(_, fields)| fields.chars().next());
            ensure!(state != Some('Z'), "the data plane has ended");
            if state != Some('S') {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
