//! What gwctl says when it cannot do what it was asked, and the exit code that goes with it.
//!
//! Every error has the same four parts: what failed, why, what to do next, the machine-readable code. [`crate::status`]
//! makes them of gRPC statuses; nothing here knows gRPC.

use std::{fmt::Write as _, io, process::ExitCode};

use anstyle::{AnsiColor, Style};
use serde_json::json;

use crate::terminal::{self, printable};

const LABEL: Style = AnsiColor::Red.on_default().bold();
const HINT: Style = AnsiColor::Cyan.on_default();

/// How the process ends. The numbers are part of gwctl's interface, see [`Exit::code`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// The reader of stdout has gone: nothing failed, nobody listens.
    PipeClosed,
    /// The request failed.
    Failed,
    /// A flag or an argument is not what it must be, here or in the control plane's eyes.
    Usage,
    /// What was named does not exist.
    NotFound,
    /// The state of things does not allow it.
    Conflict,
    /// The control plane was not reached, or did not answer in time.
    Unreachable,
    /// The caller may not do this.
    Denied,
    /// What was waited for did not come in time; what was asked for is done or under way all the same.
    WaitOver,
    /// It is done in part: not everywhere, or not yet.
    Partial,
    /// The code of a program that `gwctl run` ran, or 125 for a failure of its own.
    Program(u8),
}

impl Exit {
    /// The number that the shell sees.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::PipeClosed => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Conflict => 4,
            Self::Unreachable => 5,
            Self::Denied => 6,
            Self::WaitOver => 7,
            Self::Partial => 8,
            Self::Program(code) => code,
        }
    }
}

/// An error as people read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Error {
    pub(crate) exit: Exit,
    /// What failed, lower case, no full stop.
    pub(crate) headline: String,
    /// Why, one line each.
    pub(crate) details: Vec<String>,
    /// What to do next, one line each.
    pub(crate) hints: Vec<String>,
    /// `NOT_FOUND / SERVICE_NOT_FOUND`; empty when the error did not come from the control plane.
    pub(crate) code: String,
}

impl Error {
    /// An error with a headline only.
    pub(crate) fn new(exit: Exit, headline: impl Into<String>) -> Self {
        let headline = headline.into();
        Self { exit, headline, details: Vec::new(), hints: Vec::new(), code: String::new() }
    }

    /// An exit code of which stdout has told the reason already: nothing is added on stderr.
    pub(crate) fn told(exit: Exit) -> Self {
        Self::new(exit, "")
    }

    /// Whether a control plane refused it for this reason.
    pub(crate) fn is_of(&self, reason: &str) -> bool {
        self.code.split(" / ").nth(1) == Some(reason)
    }

    /// Whether there is something to say beside the exit code.
    pub(crate) fn is_told(&self) -> bool {
        self.headline.is_empty() || self.exit == Exit::PipeClosed
    }

    /// Adds a reason.
    #[must_use]
    pub(crate) fn because(mut self, detail: impl Into<String>) -> Self {
        self.details.push(detail.into());
        self
    }

    /// Adds a next step.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// The lines for a terminal, with styles.
    pub(crate) fn to_text(&self) -> String {
        let mut text = format!("{LABEL}error:{LABEL:#} {}\n", printable(&self.headline));
        // Writing to a String cannot fail.
        for detail in &self.details {
            let _ = writeln!(text, "  {}", printable(detail));
        }
        for hint in &self.hints {
            let _ = writeln!(text, "  {HINT}hint:{HINT:#} {}", printable(hint));
        }
        if !self.code.is_empty() {
            let _ = writeln!(text, "  code: {}", printable(&self.code));
        }
        text
    }

    /// One line of JSON, for `--output json`.
    pub(crate) fn to_json(&self) -> String {
        let Self { exit, headline, details, hints, code } = self;
        let line = json!({"error": headline, "details": details, "hints": hints, "code": code, "exitCode": exit.code()});
        format!("{}\n", terminal::json(&line.to_string()))
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::new(Exit::PipeClosed, "the reader of stdout has gone"),
            _ => Self::new(Exit::Failed, format!("cannot write the output: {error}")),
        }
    }
}

impl From<gateway_runtime::Failure> for Error {
    fn from(failure: gateway_runtime::Failure) -> Self {
        // Nobody starts us again when a port is free: it was the wrong one to name.
        let is_usage = failure.code() == 2 || failure.taken().is_some();
        let exit = if is_usage { Exit::Usage } else { Exit::Failed };
        Self::new(exit, failure.to_string())
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Error {
        let mut error = Error::new(Exit::NotFound, "service \"odrers\" is not registered")
            .because("somebody said \x1b[2Jso")
            .hint("gwctl get services");
        error.code = "NOT_FOUND / SERVICE_NOT_FOUND".into();
        error
    }

    #[test]
    fn an_error_says_what_why_what_next_and_its_code() {
        let plain = anstream::adapter::strip_str(&example().to_text()).to_string();
        assert_eq!(
            plain,
            "error: service \"odrers\" is not registered\n  somebody said \\u{1b}[2Jso\n  \
             hint: gwctl get services\n  code: NOT_FOUND / SERVICE_NOT_FOUND\n"
        );
    }

    #[test]
    fn as_json_it_is_one_line_with_the_exit_code() {
        let line = example().to_json();
        assert_eq!(line.lines().count(), 1);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["code"], "NOT_FOUND / SERVICE_NOT_FOUND");
        assert_eq!(value["exitCode"], 3);
    }

    #[test]
    fn what_stdout_has_told_is_not_said_again() {
        assert!(Error::told(Exit::Failed).is_told());
        assert!(Error::from(io::Error::from(io::ErrorKind::BrokenPipe)).is_told());
        assert!(!example().is_told());
    }

    #[test]
    fn a_closed_pipe_is_no_failure_and_any_other_write_error_is() {
        assert_eq!(Error::from(io::Error::from(io::ErrorKind::BrokenPipe)).exit.code(), 0);
        assert_eq!(Error::from(io::Error::from(io::ErrorKind::StorageFull)).exit, Exit::Failed);
    }
}
