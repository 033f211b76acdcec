//! A child process: its ready line, its logs, its end.

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, Read},
    os::unix::process::CommandExt,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::eventually;

/// Lines kept of each stream; older ones are dropped.
const MAX_LINES: usize = 2000;
/// How long what a program wrote last may take to be read once it has ended.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A running program, killed when this is dropped. Its logs are printed when that happens in a failing test.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdout: Lines,
    stderr: Lines,
    leads_group: bool,
}

#[derive(Debug, Clone, Default)]
struct Lines {
    kept: Arc<Mutex<VecDeque<String>>>,
    ended: Arc<AtomicBool>,
}

impl Process {
    /// Starts `command`; `name` stands before its log lines.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn spawn(name: &str, command: &mut Command) -> Self {
        Self::spawn_reading(name, command, Stdio::null())
    }

    /// As [`Process::spawn`], with this as its stdin.
    pub fn spawn_reading(name: &str, command: &mut Command, stdin: Stdio) -> Self {
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let stdout = Lines::read_from(child.stdout.take().expect("stdout is piped"));
        let stderr = Lines::read_from(child.stderr.take().expect("stderr is piped"));
        Self { name: name.to_owned(), child, stdout, stderr, leads_group: false }
    }

    /// As [`Process::spawn`], for a program that starts others: dropping this kills them, too.
    pub fn spawn_group(name: &str, command: &mut Command) -> Self {
        let mut process = Self::spawn(name, command.process_group(0));
        process.leads_group = true;
        process
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The JSON object that it announces on stdout when it has bound everything.
    ///
    /// # Panics
    /// When it exits first, prints something else first, or takes too long.
    pub async fn ready(&mut self) -> Value {
        let line = eventually(&format!("{} announces that it is ready", self.name), async || {
            if let Some(line) = self.stdout.first() {
                return Ok(Ok(line));
            }
            match self.child.try_wait().expect("a child can be waited for") {
                Some(status) => Ok(Err(status)),
                None => Err("neither a line on stdout nor an exit".into()),
            }
        })
        .await;
        let line = line.unwrap_or_else(|status| {
            panic!("{} ended before it was ready: {status}\n{}", self.name, self.stderr())
        });
        let ready: Value =
            serde_json::from_str(&line).unwrap_or_else(|_| panic!("not a ready line: {line:?}"));
        assert_eq!(ready["ready"], true, "{line}");
        ready
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        // An error says that it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        signal("TERM", &self.pid().to_string());
    }

    /// SIGSTOP: it stands still, and its connections stay.
    pub fn pause(&self) {
        signal("STOP", &self.pid().to_string());
    }

    /// SIGCONT.
    pub fn resume(&self) {
        signal("CONT", &self.pid().to_string());
    }

    /// SIGHUP.
    pub fn hang_up(&self) {
        signal("HUP", &self.pid().to_string());
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not come.
    pub async fn exited(&mut self) -> ExitStatus {
        let status = eventually(&format!("{} exits", self.name), async || {
            self.child.try_wait().expect("a child can be waited for").ok_or_else(|| "it runs".to_owned())
        })
        .await;
        // Its last words may not have been read yet. Whoever it has started may hold the streams open, and is not waited for.
        let streams = [self.stdout.clone(), self.stderr.clone()];
        let read = eventually("its last words are read", async || {
            if streams.iter().all(Lines::have_ended) { Ok(()) } else { Err("they go on".to_owned()) }
        });
        let _ = tokio::time::timeout(LAST_WORDS, read).await;
        status
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_none()
    }

    /// What it has written to stderr.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// What it has written to stdout.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.leads_group {
            // Before the leader is reaped: while it is a zombie at least, nobody else can have its group's id.
            signal("KILL", &format!("-{}", self.pid()));
        }
        self.kill();
        if thread::panicking() {
            for line in format!("{}\n{}", self.stdout(), self.stderr()).lines() {
                eprintln!("{} | {line}", self.name);
            }
        }
    }
}

/// Sends a signal by the shell's `kill`: the standard library knows SIGKILL only.
fn signal(name: &str, target: &str) {
    let _ = Command::new("sh")
        .args(["-c", &format!("kill -s {name} -- {target}")])
        .stderr(Stdio::null())
        .status();
}

impl Lines {
    /// Collects lines on a thread of its own, which ends with the stream.
    fn read_from(stream: impl Read + Send + 'static) -> Self {
        let lines = Self::default();
        let collected = lines.clone();
        thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                let mut kept = collected.kept.lock().unwrap_or_else(PoisonError::into_inner);
                if kept.len() == MAX_LINES {
                    kept.pop_front();
                }
                kept.push_back(line);
            }
            collected.ended.store(true, Relaxed);
        });
        lines
    }

    fn have_ended(&self) -> bool {
        self.ended.load(Relaxed)
    }

    fn first(&self) -> Option<String> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).front().cloned()
    }

    fn text(&self) -> String {
        let lines = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}
