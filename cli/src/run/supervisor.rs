//! One replica of the program, from its first start to its last end.

use std::{
    io,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant as Clock},
};

use gateway_proto::{Address, ReplicaKey};
use humantime::format_duration;
use tokio::time::Instant;

use super::{
    arguments::Told,
    changes::Changes,
    child::{End, Live, Running, StopSignal},
    lines::{Lines, Prefix},
    place::{self, Port},
    readiness::Readiness,
    registration::Registration,
    restarts::{Restarts, Rules, Verdict},
    signals::Stop,
};

/// How long the registry may take to forget a replica at the end.
const FAREWELL: Duration = Duration::from_secs(3);
/// The same, when somebody is impatient.
const SHORT_FAREWELL: Duration = Duration::from_millis(300);
/// How long one that was not ready in time has to end; also one that makes way for its successor, after as long to finish what is in
/// flight.
const LATE: Duration = Duration::from_secs(5);
/// Why it is drained in the end.
const ENDS: &str = "the process ends";

/// When it is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Again {
    /// However it ended
    Always,
    /// Unless it exited with 0
    OnFailure,
    /// Not at all
    Never,
}

/// What is the same for every replica of a run.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    /// The program and its arguments, `$PORT` and the like not yet filled in; not empty.
    pub(crate) command: Vec<String>,
    /// By which data planes reach it.
    pub(crate) host: String,
    pub(crate) port: Port,
    /// The control plane's URL, for the program.
    pub(crate) endpoint: String,
    pub(crate) readiness: Readiness,
    /// Longest time from its start until it is ready.
    pub(crate) ready_timeout: Duration,
    pub(crate) rules: Rules,
    pub(crate) again: Again,
    pub(crate) stop_signal: StopSignal,
    /// From the wish to end until it is killed.
    pub(crate) grace: Duration,
}

/// One replica.
#[derive(Debug)]
pub(crate) struct Supervisor {
    pub(crate) program: Program,
    pub(crate) key: ReplicaKey,
    pub(crate) first_port: u16,
    pub(crate) live: Live,
    pub(crate) stop: Stop,
    /// With each of these it is started anew.
    pub(crate) changes: Changes,
    pub(crate) lines: Lines,
    /// Before what the program writes.
    pub(crate) its: Prefix,
    /// Before what the supervisor says.
    pub(crate) ours: Prefix,
}

/// What one start of the program came to.
enum Outcome {
    /// It ended, or could not be started, by itself.
    Over(Failure),
    /// Somebody wants everything to end; it still runs.
    ToEnd(Running),
    /// This file has changed, and it is to be another program; it still runs.
    ToChange(Running, PathBuf),
}

#[derive(Debug)]
struct Failure {
    what: String,
    code: u8,
    /// The system knows no such program, or may not run it: no restart would change that.
    is_hopeless: bool,
}

impl Supervisor {
    /// Runs the program until the stop, or until it is not to be started again; yields the exit code that tells of it.
    pub(crate) async fn run(mut self, mut registration: Registration) -> u8 {
        let mut restarts = Restarts::new(self.program.rules);
        let mut port = self.first_port;
        let mut is_first = true;
        let code = loop {
            let failure = match self.run_once(&mut port, &mut restarts, &registration).await {
                Outcome::ToEnd(running) => return self.end(running, registration).await,
                Outcome::ToChange(running, path) => {
                    is_first = false;
                    self.make_way(running, &path, &mut registration).await;
                    if self.stop.orderly.has_begun() {
                        break 0;
                    }
                    continue;
                }
                Outcome::Over(failure) => failure,
            };
            if failure.is_hopeless && is_first {
                self.say(&failure.what);
                break failure.code;
            }
            is_first = false;
            let Some(pause) = self.pause_after(&failure, &mut restarts, &registration) else {
                break failure.code;
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                // What was wrong may be mended.
                path = self.changes.next() => {
                    let text = format!("{} has changed: starting it now", path.display());
                    self.say(&text);
                }
                () = self.stop.orderly.begun() => break failure.code,
            }
        };
        // It is dead, so there is nothing to drain.
        registration.drained(Duration::ZERO, ENDS.to_owned()).await;
        registration.gone(FAREWELL).await;
        code
    }

    /// Starts it once, and sees it through until it has ended or is to end.
    async fn run_once(
        &mut self,
        port: &mut u16,
        restarts: &mut Restarts,
        registration: &Registration,
    ) -> Outcome {
        let began = Instant::now();
        let (running, address) = match self.start(port) {
            Ok(started) => started,
            Err(failure) => return Outcome::Over(failure),
        };
        let mut last = None;
        tokio::select! {
            biased;
            () = self.stop.orderly.begun() => return Outcome::ToEnd(running),
            () = running.ended() => return Outcome::Over(collected(running).await),
            path = self.changes.next() => return Outcome::ToChange(running, path),
            () = self.program.readiness.reached(&address, &mut last) => {}
            () = tokio::time::sleep(self.program.ready_timeout) => {
                return Outcome::Over(self.too_late(running, last).await);
            }
        }
        self.say(&format!("ready after {:.1}s", began.elapsed().as_secs_f64()));
        registration.up(address);
        tokio::select! {
            biased;
            () = self.stop.orderly.begun() => return Outcome::ToEnd(running),
            () = running.ended() => return Outcome::Over(collected(running).await),
            path = self.changes.next() => return Outcome::ToChange(running, path),
            () = tokio::time::sleep(self.program.rules.stable_for) => {}
        }
        if restarts.lasted() {
            let stable_for = format_duration(self.program.rules.stable_for);
            self.say(&format!("up for {stable_for}: ON again, all restarts are available"));
        }
        tokio::select! {
            biased;
            () = self.stop.orderly.begun() => Outcome::ToEnd(running),
            () = running.ended() => Outcome::Over(collected(running).await),
            path = self.changes.next() => Outcome::ToChange(running, path),
        }
    }

    /// Drains it and ends it for the sake of its successor. It counts as no failure, however it ends.
    async fn make_way(&self, running: Running, changed: &Path, registration: &mut Registration) {
        let why = format!("restarting: {} has changed", changed.display());
        self.say(&why);
        let (at_once, patience) = (&self.stop.at_once, LATE.min(self.program.grace));
        tokio::select! {
            () = registration.drained(patience, why) => {}
            () = running.ended() => {}
            () = at_once.begun() => {}
        }
        let deadline = Instant::now() + patience;
        if let Err(error) = running.stop(self.program.stop_signal, deadline, at_once.begun()).await {
            self.say(&format!("cannot tell how it ended: {error}"));
        }
    }

    fn start(&self, port: &mut u16) -> Result<(Running, Address), Failure> {
        let program = &self.program;
        let own = |what: String| Failure { what, code: 125, is_hopeless: false };
        *port = place::next_port(program.port, *port).map_err(own)?;
        let address = place::address(&program.host, *port).map_err(|error| own(error.headline))?;
        let told = Told {
            port: *port,
            service: self.key.service.to_string(),
            replica_id: self.key.replica.to_string(),
            address: address.to_string(),
            endpoint: program.endpoint.clone(),
        };
        let words: Vec<String> = program.command.iter().map(|word| told.fill_in(word)).collect();
        let (name, arguments) = words.split_first().expect("a command has a first word");
        let mut command = Command::new(name);
        command.args(arguments).envs(told.variables());
        let running = Running::start(&mut command, &self.live, &self.lines, &self.its);
        let running = running.map_err(|error| not_started(name, &error))?;
        self.say(&format!("starting {} (pid {}) on {address}", words.join(" "), running.pid()));
        Ok((running, address))
    }

    async fn too_late(&self, running: Running, last: Option<String>) -> Failure {
        let Program { readiness, ready_timeout, stop_signal, grace, .. } = &self.program;
        let why = last.map_or_else(String::new, |last| format!(" ({readiness}: {last})"));
        let what = format!("was not ready within {}{why}", format_duration(*ready_timeout));
        let deadline = Instant::now() + LATE.min(*grace);
        let code = match running.stop(*stop_signal, deadline, self.stop.at_once.begun()).await {
            Ok(end) => end.code(),
            Err(_) => 125,
        };
        // One that ends in an orderly way when asked has failed all the same.
        Failure { what, code: code.max(1), is_hopeless: false }
    }

    /// Tells of a failure here and in the registry; yields the pause before the next start, if there is one.
    fn pause_after(
        &self,
        failure: &Failure,
        restarts: &mut Restarts,
        registration: &Registration,
    ) -> Option<Duration> {
        let Program { rules, again, .. } = &self.program;
        let is_wanted = match again {
            Again::Always => true,
            Again::OnFailure => failure.code != 0,
            Again::Never => false,
        };
        let verdict = is_wanted.then(|| restarts.ended(Clock::now()));
        let (next, pause) = match verdict {
            None => ("it is not started again".to_owned(), None),
            Some(Verdict::GiveUp) => {
                let max = rules.max_restarts.unwrap_or_default();
                (format!("given up after {max} restarts"), None)
            }
            Some(Verdict::Fast { pause, number }) => {
                let all = rules.fast_restarts;
                (format!("restart {number}/{all} in {}", format_duration(pause)), Some(pause))
            }
            Some(Verdict::Slow { pause, turned: true }) => {
                let Rules { fast_restarts, window, longest_slow_pause, .. } = rules;
                let text = format!(
                    "OFF after {fast_restarts} fast restarts in {}: slow ones from now, next in {}, at most every {}",
                    format_duration(*window),
                    format_duration(pause),
                    format_duration(*longest_slow_pause)
                );
                (text, Some(pause))
            }
            Some(Verdict::Slow { pause, turned: false }) => {
                (format!("OFF: next start in {}", format_duration(pause)), Some(pause))
            }
        };
        let text = format!("{}; {next}", failure.what);
        self.say(&text);
        registration.down(text);
        pause
    }

    /// Drains it, ends it, and has it forgotten.
    async fn end(&self, running: Running, mut registration: Registration) -> u8 {
        let Program { stop_signal, grace, .. } = self.program;
        let began = Instant::now();
        let at_once = &self.stop.at_once;
        tokio::select! {
            // The rest is for the program itself to end in.
            () = registration.drained(grace * 3 / 4, ENDS.to_owned()) => {}
            () = running.ended() => {}
            () = at_once.begun() => {}
        }
        let pid = running.pid();
        if at_once.has_begun() {
            self.say(&format!("killing pid {pid}"));
            running.kill();
        } else {
            self.say(&format!("stopping pid {pid} ({stop_signal})"));
        }
        let end = running.stop(stop_signal, began + grace, at_once.begun()).await;
        let farewell = if at_once.has_begun() { SHORT_FAREWELL } else { FAREWELL };
        match end {
            Ok(end) if stop_signal.explains(end) || end == End::Code(0) => {
                self.say("ended");
                registration.gone(farewell).await;
                0
            }
            Ok(end) => {
                let late = began.elapsed() >= grace && end == End::Signal(9);
                let why = if late {
                    format!(": it had not ended within {}", format_duration(grace))
                } else {
                    String::new()
                };
                self.say(&format!("{end}{why}"));
                registration.gone(farewell).await;
                end.code()
            }
            Err(error) => {
                self.say(&format!("cannot tell how it ended: {error}"));
                registration.gone(farewell).await;
                125
            }
        }
    }

    fn say(&self, text: &str) {
        self.lines.say(&self.ours, &format!("{}: {text}", self.key));
    }
}

async fn collected(running: Running) -> Failure {
    match running.collect().await {
        Ok(end) => Failure { what: end.to_string(), code: end.code(), is_hopeless: false },
        Err(error) => {
            Failure { what: format!("cannot tell how it ended: {error}"), code: 125, is_hopeless: false }
        }
    }
}

/// As shells number it: 127 when there is no such program, 126 when it cannot be run.
fn not_started(name: &str, error: &io::Error) -> Failure {
    let (code, why) = match error.kind() {
        io::ErrorKind::NotFound => (127, "there is no such program".to_owned()),
        io::ErrorKind::PermissionDenied => (126, "it may not be executed".to_owned()),
        _ => (126, error.to_string()),
    };
    Failure { what: format!("cannot start {name}: {why}"), code, is_hopeless: true }
}
