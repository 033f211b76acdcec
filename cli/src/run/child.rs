//! One run of the program: its process group, its pipes, its end.
//!
//! The program leads a group of its own, so that a Ctrl-C in the terminal reaches it only by way of the supervisor, which
//! drains first, and so that whatever it has started goes with it. An end is noticed before it is collected: until the leader
//! is collected nobody else can be given the group's number, so what is left of the group can be killed without a doubt.

use std::{
    collections::BTreeMap,
    io,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    process::{Child, Command, ExitStatus, Stdio},
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid};
use tokio::{
    process::{ChildStderr, ChildStdout},
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
    time::{Instant, timeout},
};

use super::{
    lines::{Lines, Prefix},
    orphans::Orphans,
};

/// How long what was written before the end may take to be printed. Who keeps a pipe open longer has left the group.
const LAST_LINES: Duration = Duration::from_millis(500);

/// The signal by which a program is asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StopSignal(Signal);

/// The programs that run, for whoever passes signals on. Clones are handles to the same table.
#[derive(Debug, Clone)]
pub(crate) struct Live {
    leaders: Arc<Mutex<BTreeMap<i32, Pid>>>,
    orphans: Arc<Orphans>,
}

/// A program that runs, killed with all of its group when this is dropped.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    leader: Pid,
    live: Live,
    copies: Vec<JoinHandle<()>>,
    is_over: bool,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Code(i32),
    Signal(i32),
}

impl Running {
    /// Starts the program, its lines printed under `prefix`.
    ///
    /// # Errors
    /// What the system says to it.
    pub(crate) fn start(
        command: &mut Command,
        live: &Live,
        lines: &Lines,
        prefix: &Prefix,
    ) -> io::Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let (child, leader) = live.spawn(command)?;
        // From here on it is killed by whatever goes wrong.
        let mut running = Self { child, leader, live: live.clone(), copies: Vec::new(), is_over: false };
        let Child { stdout, stderr, .. } = &mut running.child;
        let stdout = ChildStdout::from_std(stdout.take().expect("stdout is piped"))?;
        let stderr = ChildStderr::from_std(stderr.take().expect("stderr is piped"))?;
        running.copies = vec![lines.copy_stdout(prefix, stdout), lines.copy_stderr(prefix, stderr)];
        Ok(running)
    }

    /// The process's id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end. Cancel safe; the end is collected by [`Running::collect`].
    pub(crate) async fn ended(&self) {
        // First, so that no end falls between the look and the wait.
        let mut changes = signal(SignalKind::child()).ok();
        while !self.has_ended() {
            match &mut changes {
                Some(changes) => drop(changes.recv().await),
                // Without signals somebody has to look.
                None => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    fn has_ended(&self) -> bool {
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        // An error says that there is nobody to wait for.
        !matches!(waitid(WaitId::Pid(self.leader), look), Ok(None) | Err(rustix::io::Errno::INTR))
    }

    /// Asks the whole group to end.
    pub(crate) fn ask_to_end(&self, by: StopSignal) {
        // An error says that it is gone already.
        let _ = kill_process_group(self.leader, by.0);
    }

    /// Kills the whole group.
    pub(crate) fn kill(&self) {
        let _ = kill_process_group(self.leader, Signal::KILL);
    }

    /// After its end, or to bring it about: kills what is left of its group, and collects the leader, once its last lines are
    /// printed.
    pub(crate) async fn collect(mut self) -> io::Result<End> {
        self.kill();
        self.ended().await;
        let status = self.live.collect(self.leader, || self.child.wait());
        self.is_over = true;
        for copy in &mut self.copies {
            if timeout(LAST_LINES, &mut *copy).await.is_err() {
                copy.abort();
            }
        }
        status.map(End::from)
    }

    /// Asks it to end, kills it at the deadline or when `impatient` completes, and collects it.
    pub(crate) async fn stop(
        self,
        by: StopSignal,
        deadline: Instant,
        impatient: impl Future<Output = ()>,
    ) -> io::Result<End> {
        self.ask_to_end(by);
        tokio::select! {
            () = self.ended() => {}
            () = tokio::time::sleep_until(deadline) => {}
            () = impatient => {}
        }
        self.collect().await
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.is_over {
            self.kill();
            self.live.collect(self.leader, || ());
        }
    }
}

impl Live {
    pub(crate) fn new(orphans: Orphans) -> Self {
        Self { leaders: Arc::default(), orphans: Arc::new(orphans) }
    }

    /// As the first process of a container, collects strays for as long as this process lives; nobody else does, and their entries
    /// would fill the table of processes. Does nothing as any other process: strays are not given to that.
    pub(crate) async fn collect_strays_as_first(self) {
        let changes = if std::process::id() == 1 { signal(SignalKind::child()).ok() } else { None };
        let Some(mut changes) = changes else { return };
        loop {
            self.collect_strays();
            changes.recv().await;
        }
    }

    /// Sends a signal to every program, not to what it has started: it knows what to do with it.
    pub(crate) fn signal(&self, signal: Signal) {
        // Held meanwhile: what is in the table has not been collected.
        for leader in self.leaders().values() {
            let _ = kill_process(*leader, signal);
        }
    }

    /// Kills every program with its group.
    pub(crate) fn kill(&self) {
        for leader in self.leaders().values() {
            let _ = kill_process_group(*leader, Signal::KILL);
        }
    }

    /// Collects what has ended of the children that are no programs of ours and that nobody else waits for: a process whose parent
    /// has ended is the child of the first one in the container.
    fn collect_strays(&self) {
        // Held meanwhile: whoever is started has a place in it before anybody else may collect him.
        let leaders = self.leaders();
        let is_ours = |child: &Pid| leaders.contains_key(&child.as_raw_pid()) || self.orphans.is(*child);
        for stray in children().filter(|child| !is_ours(child)) {
            // One that has not ended stays, and has its turn when it has.
            let _ = waitid(WaitId::Pid(stray), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
        }
    }

    fn spawn(&self, command: &mut Command) -> io::Result<(Child, Pid)> {
        let mut leaders = self.leaders();
        let child = command.spawn()?;
        let leader = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let leader = leader.expect("a process that was started has an id");
        leaders.insert(leader.as_raw_pid(), leader);
        drop(leaders);
        self.orphans.begun(leader);
        Ok((child, leader))
    }

    /// Has a leader that has ended collected.
    fn collect<T>(&self, leader: Pid, wait: impl FnOnce() -> T) -> T {
        let mut leaders = self.leaders();
        let collected = wait();
        leaders.remove(&leader.as_raw_pid());
        drop(leaders);
        self.orphans.ended(leader);
        collected
    }

    fn leaders(&self) -> std::sync::MutexGuard<'_, BTreeMap<i32, Pid>> {
        self.leaders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The children of this process, as far as the system tells of them (Linux).
fn children() -> impl Iterator<Item = Pid> {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let children = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    let children: Vec<_> = children
        .flat_map(|line| {
            line.split(' ').filter_map(|number| Pid::from_raw(number.parse().ok()?)).collect::<Vec<_>>()
        })
        .collect();
    children.into_iter()
}

impl StopSignal {
    /// Whether an end is what this signal does by itself: then it is as it should be.
    pub(crate) fn explains(self, end: End) -> bool {
        end == End::Signal(self.0.as_raw())
    }
}

impl FromStr for StopSignal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let signal = match text.strip_prefix("SIG").unwrap_or(text) {
            "TERM" => Signal::TERM,
            "INT" => Signal::INT,
            "QUIT" => Signal::QUIT,
            "HUP" => Signal::HUP,
            "USR1" => Signal::USR1,
            "USR2" => Signal::USR2,
            _ => return Err("is one of TERM, INT, QUIT, HUP, USR1, USR2".into()),
        };
        Ok(Self(signal))
    }
}

impl std::fmt::Display for StopSignal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(name(self.0.as_raw()).unwrap_or("a signal"))
    }
}

impl End {
    /// The exit code by which a shell tells of it.
    pub(crate) fn code(self) -> u8 {
        let code = match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        };
        u8::try_from(code).unwrap_or(u8::MAX)
    }
}

impl From<ExitStatus> for End {
    fn from(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Code(code),
            (None, signal) => Self::Signal(signal.unwrap_or(0)),
        }
    }
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exited {code}"),
            Self::Signal(signal) => match name(*signal) {
                Some(name) => write!(f, "was killed by {name}"),
                None => write!(f, "was killed by signal {signal}"),
            },
        }
    }
}

/// The name of a signal that programs die of.
fn name(signal: i32) -> Option<&'static str> {
    const NAMES: [(Signal, &str); 14] = [
        (Signal::HUP, "SIGHUP"),
        (Signal::INT, "SIGINT"),
        (Signal::QUIT, "SIGQUIT"),
        (Signal::ILL, "SIGILL"),
        (Signal::TRAP, "SIGTRAP"),
        (Signal::ABORT, "SIGABRT"),
        (Signal::BUS, "SIGBUS"),
        (Signal::FPE, "SIGFPE"),
        (Signal::KILL, "SIGKILL"),
        (Signal::USR1, "SIGUSR1"),
        (Signal::SEGV, "SIGSEGV"),
        (Signal::USR2, "SIGUSR2"),
        (Signal::PIPE, "SIGPIPE"),
        (Signal::TERM, "SIGTERM"),
    ];
    NAMES.iter().find(|(known, _)| known.as_raw() == signal).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_as_a_shell_tells_it() {
        for (end, code, text) in [
            (End::Code(0), 0, "exited 0"),
            (End::Code(3), 3, "exited 3"),
            (End::Signal(9), 137, "was killed by SIGKILL"),
            (End::Signal(11), 139, "was killed by SIGSEGV"),
            (End::Signal(40), 168, "was killed by signal 40"),
        ] {
            assert_eq!((end.code(), end.to_string().as_str()), (code, text));
        }
    }

    #[test]
    fn a_stop_signal_has_the_names_of_the_shell() {
        let term: StopSignal = "TERM".parse().unwrap();
        assert_eq!("SIGTERM".parse(), Ok(term));
        assert_eq!(term.to_string(), "SIGTERM");
        assert!(term.explains(End::Signal(15)));
        assert!(!term.explains(End::Code(15)) && !term.explains(End::Signal(9)));
        assert!("KILL".parse::<StopSignal>().is_err(), "nobody can be asked by that");
    }
}
