//! Text that is longer than the terminal, shown by the pager that people are used to.
//!
//! Which one: `GWCTL_PAGER`, else `PAGER`, else less; one that is empty, or cat, is none. It gets the text by a pipe, so what is
//! short is written as it is, whatever the pager would make of it.

use std::{
    ffi::OsString,
    io::{self, ErrorKind, Write as _},
    process::{Command, Stdio},
};

use tokio::signal::unix::{SignalKind, signal};
use unicode_width::UnicodeWidthStr as _;

use crate::screen::{self, Size};

/// What less does unless somebody has chosen otherwise: ends where the text is short, keeps colours, leaves it on the screen.
const LESS: &str = "FRX";

/// Shows the text by a pager; `false`: nothing is shown, for there is no terminal, no pager, or no need of one.
///
/// # Errors
/// When the pager cannot be waited for.
pub(crate) fn show(text: &str) -> io::Result<bool> {
    if !screen::is_there() || fits(text, screen::size()) {
        return Ok(false);
    }
    let Some(pager) = chosen(|name| std::env::var_os(name)) else { return Ok(false) };
    // While it runs, Ctrl-C is for it: gwctl must not end and leave it with the terminal.
    let _deaf = signal(SignalKind::interrupt());
    let mut command = Command::new("sh");
    command.arg("-c").arg(&pager).stdin(Stdio::piped());
    if std::env::var_os("LESS").is_none() {
        command.env("LESS", LESS);
    }
    let Ok(mut child) = command.spawn() else { return Ok(false) };
    let mut pipe = child.stdin.take().expect("it was asked for a line above");
    let written = pipe.write_all(screen::coloured(text).as_bytes());
    drop(pipe);
    let status = child.wait()?;
    // The shell's word that there is no such program: nothing has been shown.
    if matches!(status.code(), Some(126 | 127)) {
        return Ok(false);
    }
    match written {
        // Somebody has left it before the end.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(true),
        written => written.map(|()| true),
    }
}

/// The command line of the pager, by what the environment says.
fn chosen(variable: impl Fn(&str) -> Option<OsString>) -> Option<OsString> {
    let pager = variable("GWCTL_PAGER").or_else(|| variable("PAGER")).unwrap_or_else(|| "less".into());
    (!pager.is_empty() && pager != "cat").then_some(pager)
}

/// Whether all of it is seen at once, with a line for the shell's next prompt.
fn fits(text: &str, size: Size) -> bool {
    let plain = anstream::adapter::strip_str(text).to_string();
    let lines = |line: &str| line.width().div_ceil(size.columns.max(1)).max(1);
    plain.lines().map(lines).sum::<usize>() < size.lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gwctl_s_own_variable_goes_before_the_common_one_and_an_empty_one_is_none() {
        let of = |set: &[(&str, &str)]| {
            let pager = chosen(|name| {
                set.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value))
            });
            pager.map(|pager| pager.into_string().unwrap())
        };
        assert_eq!(of(&[]).as_deref(), Some("less"));
        assert_eq!(of(&[("PAGER", "more")]).as_deref(), Some("more"));
        assert_eq!(of(&[("PAGER", "more"), ("GWCTL_PAGER", "less -S")]).as_deref(), Some("less -S"));
        for none in [[("PAGER", "more"), ("GWCTL_PAGER", "")], [("PAGER", "cat"), ("LESS", "R")]] {
            assert_eq!(of(&none), None, "{none:?}");
        }
    }

    #[test]
    fn what_fits_with_a_prompt_below_it_needs_none_and_long_lines_take_several() {
        let size = Size { columns: 10, lines: 4 };
        assert!(fits("a\nb\nc\n", size));
        assert!(!fits("a\nb\nc\nd\n", size));
        assert!(fits("\x1b[31m0123456789\x1b[0m\nb\nc\n", size));
        assert!(!fits("0123456789a\nb\nc\n", size));
        assert!(fits("", size));
    }
}
