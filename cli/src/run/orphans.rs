//! Ends the programs when their supervisor was killed and could not: a second process, which knows their groups, and does
//! nothing until the pipe from the supervisor closes.
//!
//! An orphan would keep the port, serve without being registered, and be in the way of its successor.

use std::{
    collections::BTreeSet,
    io::{BufRead, Write as _},
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};

use crate::error::Error;

const INTERVAL: Duration = Duration::from_millis(20);

/// Flags of `gwctl run-orphans`, which `gwctl run` starts.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// From SIGTERM to SIGKILL
    #[arg(long, value_parser = humantime::parse_duration)]
    grace: Duration,
}

/// The supervisor's end of the pipe.
#[derive(Debug)]
pub(crate) struct Orphans(Option<Mutex<Child>>);

impl Orphans {
    /// Starts the second process. Where that is impossible, programs run without it.
    pub(crate) fn start(grace: Duration) -> Self {
        let start = || {
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["run-orphans", "--grace", &humantime::format_duration(grace).to_string()]);
            // A group of its own: what is sent to the supervisor's is not for it.
            command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
            command.spawn()
        };
        Self(start().ok().map(Mutex::new))
    }

    /// A group has begun.
    pub(super) fn begun(&self, leader: Pid) {
        self.tell('+', leader);
    }

    /// A group is gone.
    pub(super) fn ended(&self, leader: Pid) {
        self.tell('-', leader);
    }

    /// Whether a process is the second one.
    pub(super) fn is(&self, process: Pid) -> bool {
        self.0.as_ref().is_some_and(|second| {
            let second = second.lock().unwrap_or_else(PoisonError::into_inner);
            i64::from(second.id()) == i64::from(process.as_raw_pid())
        })
    }

    fn tell(&self, what: char, leader: Pid) {
        let Some(process) = &self.0 else { return };
        let mut process = process.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pipe) = &mut process.stdin {
            // It may have been killed: then nobody is left to be told.
            let _ = writeln!(pipe, "{what}{}", leader.as_raw_pid());
        }
    }
}

impl Drop for Orphans {
    fn drop(&mut self) {
        let Some(process) = self.0.take() else { return };
        let mut process = process.into_inner().unwrap_or_else(PoisonError::into_inner);
        drop(process.stdin.take());
        // It has nothing to do, and ends at once.
        let _ = process.wait();
    }
}

/// Follows the supervisor until it is gone, then ends what is left.
///
/// # Errors
/// None: there is nobody to tell.
pub(crate) fn run(args: &Args) -> Result<(), Error> {
    let left = follow(std::io::stdin().lock());
    end(&left, args.grace);
    Ok(())
}

/// The groups that have begun and not ended when the pipe closes.
fn follow(lines: impl BufRead) -> BTreeSet<i32> {
    let mut groups = BTreeSet::new();
    for line in lines.lines().map_while(Result::ok) {
        let group = |number: &str| number.parse().ok().filter(|number| *number > 1);
        if let Some(begun) = line.strip_prefix('+').and_then(group) {
            groups.insert(begun);
        } else if let Some(ended) = line.strip_prefix('-').and_then(group) {
            groups.remove(&ended);
        }
    }
    groups
}

fn end(groups: &BTreeSet<i32>, grace: Duration) {
    let groups: Vec<Pid> = groups.iter().filter_map(|group| Pid::from_raw(*group)).collect();
    for group in &groups {
        let _ = kill_process_group(*group, Signal::TERM);
    }
    let deadline = Instant::now() + grace;
    while groups.iter().any(|group| test_kill_process_group(*group).is_ok()) {
        if Instant::now() >= deadline {
            for group in &groups {
                let _ = kill_process_group(*group, Signal::KILL);
            }
            return;
        }
        std::thread::sleep(INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_begun_and_not_ended_is_left_and_nothing_else() {
        let groups = follow("+10\n+11\n-10\n+12\n".as_bytes());
        assert_eq!(groups.into_iter().collect::<Vec<_>>(), [11, 12]);
        // 0 and 1 would be its own group and everybody's, a negative number somebody else's.
        let groups = follow("+0\n+1\n+-5\nnonsense\n+\n+99999999999\n".as_bytes());
        assert!(groups.is_empty(), "{groups:?}");
    }

    #[test]
    fn a_group_that_does_not_listen_is_killed_when_the_time_is_over() {
        let mut stubborn = Command::new("sh");
        stubborn.args(["-c", "trap '' TERM; echo; while :; do sleep 1; done"]);
        let mut child = stubborn.stdout(Stdio::piped()).process_group(0).spawn().unwrap();
        let mut line = String::new();
        std::io::BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let group = i32::try_from(child.id()).unwrap();
        end(&BTreeSet::from([group]), Duration::from_millis(50));
        let status = child.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "{status}");
    }
}
