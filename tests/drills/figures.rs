//! What was measured, and whether it is held.

use std::{fmt::Display, process::ExitCode, time::Duration};

/// The figures of a run, printed as they come.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    /// Times that the machine's own speed decides are shown only.
    is_short: bool,
    drill: String,
    held: usize,
    missed: Vec<String>,
}

impl Figures {
    pub(crate) fn new(is_short: bool) -> Self {
        Self { is_short, ..Self::default() }
    }

    pub(crate) fn begin(&mut self, drill: &str) {
        self.go_on(drill);
        println!("{drill}");
    }

    /// As [`Figures::begin`], of a drill whose name stands there already.
    pub(crate) fn go_on(&mut self, drill: &str) {
        drill.clone_into(&mut self.drill);
    }

    /// Holds what was `measured` to a criterion.
    pub(crate) fn hold(&mut self, criterion: &str, measured: impl Display, is_held: bool) {
        println!("  {} {criterion}: {measured}", if is_held { "ok    " } else { "MISSED" });
        if is_held {
            self.held += 1;
        } else {
            self.missed.push(format!("{}: {criterion}: {measured}", self.drill));
        }
    }

    /// Holds a count to its limit.
    pub(crate) fn at_most(&mut self, what: &str, limit: u64, measured: u64) {
        self.hold(&format!("{what} <= {limit}"), measured, measured <= limit);
    }

    /// Holds a time to its limit.
    pub(crate) fn within(&mut self, what: &str, limit: Duration, measured: Duration) {
        self.hold(&format!("{what} <= {limit:?}"), format!("{measured:.1?}"), measured <= limit);
    }

    /// Holds a time to its limit that a busy machine, or a build for tests, may not keep: in short, it is shown only.
    pub(crate) fn swift(&mut self, what: &str, limit: Duration, measured: Duration) {
        if self.is_short {
            return self.show(what, format!("{measured:.1?}"));
        }
        self.within(what, limit, measured);
    }

    /// Holds a time to its limit, and in short to one that a build for tests beside compilers keeps, too: still far less than
    /// whatever could be waited for.
    pub(crate) fn prompt(&mut self, what: &str, [limit, in_short]: [Duration; 2], measured: Duration) {
        self.within(what, if self.is_short { in_short } else { limit }, measured);
    }

    /// Shows a figure that is held to nothing.
    pub(crate) fn show(&self, what: &str, measured: impl Display) {
        println!("         {what}: {measured}");
    }

    /// Says why a drill cannot be held on this machine.
    pub(crate) fn skip(&mut self, why: impl Display) {
        println!("  SKIPPED {why}");
    }

    /// What was found so far, for [`Figures::found_elsewhere`]: how many are held, then what was missed, line by line.
    pub(crate) fn found(&self) -> String {
        let missed = self.missed.iter().map(|missed| missed.replace('\n', " "));
        [self.held.to_string()].into_iter().chain(missed).collect::<Vec<_>>().join("\n")
    }

    /// Takes over what the same program found elsewhere, and has printed already.
    pub(crate) fn found_elsewhere(&mut self, found: &str) {
        let mut lines = found.lines();
        match lines.next().and_then(|held| held.parse::<usize>().ok()) {
            Some(held) => {
                self.held += held;
                self.missed.extend(lines.map(str::to_owned));
            }
            // It left nothing behind.
            None => self.missed.push(format!("{}: it broke off, see above", self.drill)),
        }
    }

    pub(crate) fn verdict(self) -> ExitCode {
        if self.missed.is_empty() {
            println!("drills: {} figures held", self.held);
            return ExitCode::SUCCESS;
        }
        println!("drills: {} figures held, {} missed:", self.held, self.missed.len());
        self.missed.iter().for_each(|missed| println!("  {missed}"));
        ExitCode::FAILURE
    }
}
