//! A data plane under callgrind, which is told when to count, and looked at until it sleeps.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{dump::Dump, replicas::Replicas};

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
    /// Which thread answers requests, by callgrind's number, once that is known.
    worker: Option<String>,
}

/// Its threads, which anybody may wait for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Threads(u32);

/// Callgrind with what every count is made with.
pub(crate) fn callgrind(out: &Path) -> Command {
    let mut command = Command::new("valgrind");
    command.args(["--quiet", "--tool=callgrind", "--compress-strings=no", "--compress-pos=no"]);
    command.arg(format!("--callgrind-out-file={}", out.display()));
    command
}

impl DataPlane {
    /// Starts one of one worker before replicas of the services `bench` and `grpc`.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) fn start(program: &Path, directory: &Path, replicas: &Replicas) -> Result<Self> {
        let services = directory.join("services.toml");
        let listed = |addresses: &[SocketAddr], protocol: &str| -> String {
            let replica = |address: &SocketAddr| {
                format!("[[service.replica]]\naddress = \"{address}\"\nprotocol = \"{protocol}\"\n")
            };
            addresses.iter().map(replica).collect()
        };
        let (bench, grpc) = (listed(replicas.addresses(), "http1"), listed(replicas.grpc_addresses(), "h2c"));
        let text = format!("[[service]]\nname = \"bench\"\n{bench}[[service]]\nname = \"grpc\"\n{grpc}");
        fs::write(&services, text)?;
        let mut command = callgrind(&directory.join("callgrind.out"));
        command
            .args(["--separate-threads=yes", "--collect-systime=yes"])
            .arg(format!("--vgdb-prefix={}/vgdb", directory.display()));
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
        let mut this = Self {
            child,
            address: ([0, 0, 0, 0], 0).into(),
            directory: directory.to_owned(),
            dumps: 0,
            worker: None,
        };
        let ready = serde_json::from_str::<serde_json::Value>(&line);
        let address = ready.ok().and_then(|ready| ready["listen"].as_str()?.parse().ok());
        this.address = address.with_context(|| {
            let log = fs::read_to_string(directory.join("log")).unwrap_or_default();
            format!("the data plane did not start under valgrind: it said {line:?} and logged\n{log}")
        })?;
        // The start is no part of anything.
        this.dump_threads()?.values().try_for_each(fs::remove_file)?;
        Ok(this)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn threads(&self) -> Threads {
        Threads(self.child.id())
    }

    /// What its worker has done since the last dump; `name` is the end of the file's name that tells it. The worker is the thread
    /// that has done most by the first dump: that has to be of requests.
    pub(crate) fn dump(&mut self, name: &str) -> Result<Dump> {
        let mut dumps = self.dump_threads()?;
        let worker = match &self.worker {
            Some(worker) => worker.clone(),
            None => {
                // One that did nothing has nothing to be read.
                let done = |path: &PathBuf| Dump::read(path).map_or(0, |dump| dump.instructions);
                let most = dumps.iter().map(|(thread, path)| (done(path), thread.clone())).max();
                self.worker.insert(most.context("there are threads")?.1).clone()
            }
        };
        let path = dumps.remove(&worker).context("the worker's counts are written")?;
        let kept = self.directory.join(format!("callgrind.{name}"));
        fs::rename(path, &kept)?;
        dumps.values().try_for_each(fs::remove_file)?;
        Dump::read(&kept)
    }

    /// Has callgrind write what it has counted, and begin anew: files, by thread.
    fn dump_threads(&mut self) -> Result<BTreeMap<String, PathBuf>> {
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
        let prefix = format!("callgrind.out.{}-", self.dumps);
        let mut dumps = BTreeMap::new();
        for file in fs::read_dir(&self.directory)? {
            let file = file?;
            if let Some(thread) = file.file_name().to_str().and_then(|name| name.strip_prefix(&prefix)) {
                dumps.insert(thread.to_owned(), file.path());
            }
        }
        Ok(dumps)
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
