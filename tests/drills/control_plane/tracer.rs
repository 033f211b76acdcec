//! Faults of a disk, put into a process that runs: strace makes its flushes slow, or fail, for as long as it is attached.

use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::stage::SECOND;

/// What flushes do.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Flushes {
    /// Each takes so much longer.
    Take(Duration),
    /// Each fails with this error: of a disk that is broken, EIO, or full, ENOSPC.
    Fail(&'static str),
}

/// Attached to a process until it is dropped.
#[derive(Debug)]
pub(crate) struct Tracer(Child);

impl Tracer {
    /// Whether processes may be traced here.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn is_allowed() -> Result<(), String> {
        let output = Command::new("strace").args(["-e", "trace=none", "true"]).output();
        let output = output.map_err(|error| format!("strace cannot be started: {error}"))?;
        if output.status.success() {
            return Ok(());
        }
        let why = String::from_utf8_lossy(&output.stderr);
        Err(format!("strace may not trace: {}", why.lines().next().unwrap_or("refused").trim()))
    }

    /// Attaches to a process, and waits until it is traced.
    pub(crate) async fn attach(pid: u32, flushes: Flushes) -> Self {
        let inject = match flushes {
            Flushes::Take(time) => format!("inject=fsync,fdatasync:delay_enter={}", time.as_micros()),
            Flushes::Fail(error) => format!("inject=fsync,fdatasync:error={error}"),
        };
        let mut command = Command::new("strace");
        command.args(["--quiet=all", "-f", "-o", "/dev/null", "-e", "trace=fsync,fdatasync", "-e", &inject]);
        command.args(["-p", &pid.to_string()]).stdin(Stdio::null()).stderr(Stdio::null());
        let tracer = Self(command.spawn().expect("it was tried"));
        let began = Instant::now();
        while !is_traced(pid) {
            assert!(began.elapsed() < 10 * SECOND, "strace does not come to process {pid}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tracer
    }
}

/// Whether all threads of a process have a tracer.
fn is_traced(pid: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let status =
        threads.map(|thread| std::fs::read_to_string(thread.path().join("status")).unwrap_or_default());
    status.filter(|status| status.contains("TracerPid:\t0")).count() == 0
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // Told to end, it lets go of the process first; killed, the kernel does.
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}
