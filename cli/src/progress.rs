//! What is waited for, on stderr while it takes longer than a second, for people only.

use std::{
    io::{IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

use crate::{output::Output, terminal::printable};

/// What takes less is over before anybody has read it.
const PATIENCE: Duration = Duration::from_secs(1);

/// A line that is written over and, in the end, away.
#[derive(Debug)]
pub(crate) struct Progress {
    began: Instant,
    is_wanted: bool,
    is_shown: bool,
}

impl Progress {
    /// Begins to wait. Nothing is ever shown with `--quiet`, or where stderr is no terminal.
    pub(crate) fn new(output: &Output) -> Self {
        let is_wanted = !output.quiet && std::io::stderr().is_terminal();
        Self { began: Instant::now(), is_wanted, is_shown: false }
    }

    /// Says what is waited for now.
    pub(crate) fn tell(&mut self, text: &str) {
        let elapsed = self.began.elapsed();
        if !self.is_wanted || elapsed < PATIENCE {
            return;
        }
        self.is_shown = true;
        let line = format!("{} ({}s)", printable(text), elapsed.as_secs());
        // It has to stay on one line: only that can be taken away.
        let line = crate::screen::cut(&line, crate::screen::size().columns.saturating_sub(1));
        let _ = write!(std::io::stderr(), "\r{line}\x1b[K");
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_shown {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
