//! Running a program to its end.

use std::{
    process::{Command, ExitStatus, Stdio},
    time::Duration,
};

use serde_json::Value;
use tokio::time::timeout;

use crate::binaries;

/// Longest a program may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a program left behind.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// All of its stdout.
    pub stdout: String,
    /// All of its stderr.
    pub stderr: String,
}

impl Finished {
    /// The exit code; -1 after a signal.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }

    /// Stdout of a success.
    ///
    /// # Panics
    /// When the program failed.
    pub fn success(self) -> String {
        assert!(self.status.success(), "{}\n{}\n{}", self.status, self.stdout, self.stderr);
        self.stdout
    }

    /// Stdout of a success, as JSON.
    ///
    /// # Panics
    /// When the program failed or printed something else.
    pub fn json(self) -> Value {
        let text = self.success();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("not JSON ({error}): {text}"))
    }
}

/// Runs a program without stdin.
///
/// # Panics
/// When it cannot be started or does not end within a minute.
pub async fn run(command: Command) -> Finished {
    let shown = format!("{command:?}");
    let mut command = tokio::process::Command::from(command);
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(PATIENCE, command.output()).await.unwrap_or_else(|_| panic!("{shown} does not end"));
    let output = output.unwrap_or_else(|error| panic!("cannot start {shown}: {error}"));
    Finished {
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Runs a line as a person would paste it into a shell.
pub async fn shell(line: &str, path: &str) -> Finished {
    let mut command = Command::new("sh");
    command.args(["-c", line]).env("PATH", path);
    run(command).await
}

/// Runs gwctl against a control plane.
pub async fn gwctl(endpoint: &str, args: &[&str]) -> Finished {
    let mut command = binaries::gwctl();
    command.args(["--endpoint", endpoint]).args(args);
    run(command).await
}
