//! The replicas of the demo: processes of their own, so that they can really be killed, and their supervisor.

use std::{
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::Stdio,
    time::Duration,
};

use gateway_runtime::{Failure, Shutdown};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    task::JoinSet,
};

use crate::output::Output;

/// Long enough to see the breaker open and probe, short enough to wait for.
pub(crate) const RESTART_AFTER: Duration = Duration::from_secs(8);
const START_LIMIT: Duration = Duration::from_secs(10);
const STOP_LIMIT: Duration = Duration::from_secs(7);
const MAX_READY_LINE_BYTES: u64 = 4096;

/// How to start one replica.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    pub(crate) executable: PathBuf,
    pub(crate) service: String,
    pub(crate) id: String,
    pub(crate) listen: SocketAddr,
    /// The control plane's URL.
    pub(crate) endpoint: String,
}

/// A replica that is ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Member {
    pub(crate) id: String,
    pub(crate) address: SocketAddr,
    pub(crate) pid: u32,
}

/// Replicas under supervision: one that dies is started again, on the same address and with the same id.
#[derive(Debug)]
pub(crate) struct Fleet {
    supervisors: JoinSet<()>,
    members: Vec<Member>,
}

impl Fleet {
    /// Starts all replicas and waits until each is ready.
    ///
    /// # Errors
    /// When one does not start; those that did end with this process.
    pub(crate) async fn start(
        specs: Vec<Spec>,
        shutdown: &Shutdown,
        output: Output,
    ) -> Result<Self, Failure> {
        let mut fleet = Self { supervisors: JoinSet::new(), members: Vec::new() };
        for mut spec in specs {
            let process = Process::start(&spec).await?;
            // A restart takes the same port, also when the first one was any.
            spec.listen = process.member.address;
            fleet.members.push(process.member.clone());
            fleet.supervisors.spawn(supervise(spec, process, shutdown.clone(), output));
        }
        Ok(fleet)
    }

    /// The replicas as they were started first.
    pub(crate) fn members(&self) -> &[Member] {
        &self.members
    }

    /// Waits until all have ended, after the shutdown began.
    pub(crate) async fn finished(mut self) {
        while self.supervisors.join_next().await.is_some() {}
    }
}

async fn supervise(spec: Spec, mut process: Process, shutdown: Shutdown, output: Output) {
    loop {
        let died = tokio::select! {
            died = process.child.wait() => died,
            () = shutdown.begun() => return process.stop(&spec.id, output).await,
        };
        let how = died.map_or_else(|error| error.to_string(), |status| status.to_string());
        let pause = humantime::format_duration(RESTART_AFTER);
        output.note(format_args!(
            "{} (pid {}) is gone ({how}); it comes back in {pause}",
            spec.id, process.member.pid
        ));
        process = loop {
            tokio::select! {
                () = tokio::time::sleep(RESTART_AFTER) => {}
                () = shutdown.begun() => return,
            }
            match Process::start(&spec).await {
                Ok(process) => break process,
                Err(failure) => output.note(format_args!("{failure}; trying again in {pause}")),
            }
        };
        output.note(format_args!("{} is back as pid {}", spec.id, process.member.pid));
    }
}

/// One run of a replica.
#[derive(Debug)]
struct Process {
    child: Child,
    member: Member,
    /// Held open for as long as the replica is to live. Not left to `child`, whose `wait` closes it.
    stdin: ChildStdin,
    /// Held open: a replica that writes to it must not fail.
    _stdout: BufReader<ChildStdout>,
}

/// What a replica prints when it is ready.
#[derive(Debug, Deserialize)]
struct ReadyLine {
    listen: SocketAddr,
}

impl Process {
    async fn start(spec: &Spec) -> Result<Self, Failure> {
        let Spec { executable, service, id, listen, endpoint } = spec;
        // What is likeliest to go wrong is found out here, where it can be explained.
        TcpListener::bind(listen).map_err(|error| Failure::unbound("--listen", *listen, &error))?;
        let mut child = Command::new(executable)
            .args(["demo-replica", "--service", service, "--id", id, "--listen", &listen.to_string()])
            .args(["--endpoint", endpoint, "--with-parent", "--log", "warn"])
            // Its stdin is the leash: when this process dies, however it dies, it closes and the replica ends.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Ctrl-C on the terminal is for this process, which then ends the replicas in good order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| Failure::fatal(format!("cannot start {}: {error}", executable.display())))?;
        let stdin = child.stdin.take().expect("stdin is piped");
        let stdout = child.stdout.take().expect("stdout is piped");
        let mut stdout = BufReader::new(stdout);
        let mut line = String::new();
        let read = async { (&mut stdout).take(MAX_READY_LINE_BYTES).read_line(&mut line).await };
        let ready = match tokio::time::timeout(START_LIMIT, read).await {
            Ok(Ok(_)) => serde_json::from_str::<ReadyLine>(&line).ok(),
            Ok(Err(_)) | Err(_) => None,
        };
        match (ready, child.id()) {
            (Some(ready), Some(pid)) => {
                let member = Member { id: id.clone(), address: ready.listen, pid };
                Ok(Self { child, member, stdin, _stdout: stdout })
            }
            _ => {
                Err(Failure::usage(format!("replica {id} did not start on {listen}; what it said is above")))
            }
        }
    }

    /// Ends the replica in good order, or by force when it takes too long.
    async fn stop(mut self, id: &str, output: Output) {
        drop(self.stdin);
        if tokio::time::timeout(STOP_LIMIT, self.child.wait()).await.is_err() {
            output.note(format_args!("{id} does not end; killing it"));
            // It may have ended just now: then there is nothing to kill.
            let _ = self.child.kill().await;
        }
    }
}
