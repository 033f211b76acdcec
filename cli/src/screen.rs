//! Text that is drawn again in its place on a terminal.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal as _, Write as _},
};

use anstream::ColorChoice;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use unicode_width::UnicodeWidthChar as _;

/// Columns and lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) columns: usize,
    pub(crate) lines: usize,
}

/// Whether stdout is a terminal that can move its cursor.
pub(crate) fn is_there() -> bool {
    io::stdout().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// The size of the terminal behind stdout; a usual one where it does not say.
pub(crate) fn size() -> Size {
    match rustix::termios::tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
            Size { columns: size.ws_col.into(), lines: size.ws_row.into() }
        }
        _ => Size { columns: 80, lines: 24 },
    }
}

/// How wide a line may be that nobody cuts: without a terminal, as wide as it likes.
pub(crate) fn columns() -> usize {
    if is_there() { size().columns } else { usize::MAX }
}

/// Text in the terminal's own colours, or in none where they are off.
pub(crate) fn coloured(text: &str) -> String {
    if anstream::AutoStream::choice(&io::stdout()) == ColorChoice::Never {
        anstream::adapter::strip_str(text).to_string()
    } else {
        text.to_owned()
    }
}

/// What was drawn last, below which the cursor stands.
#[derive(Debug, Default)]
pub(crate) struct Drawn {
    lines: usize,
    size: Option<Size>,
}

impl Drawn {
    /// Draws `text` over what was drawn last, as much of it as fits.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub(crate) fn draw(&mut self, text: &str) -> io::Result<()> {
        let size = size();
        write_now(&self.over(&coloured(text), size))
    }

    fn over(&mut self, text: &str, size: Size) -> String {
        let mut out = String::new();
        let is_same_size = self.size.is_none_or(|before| before == size);
        if !is_same_size {
            // Nobody knows into how many lines the old ones were broken.
            out.push_str("\x1b[2J\x1b[H");
        } else if self.lines > 0 {
            let _ = write!(out, "\x1b[{}A\r", self.lines);
        }
        let lines = fitting(text, size);
        for line in &lines {
            let _ = write!(out, "{line}\x1b[K\r\n");
        }
        out.push_str("\x1b[J");
        (self.lines, self.size) = (lines.len(), Some(size));
        out
    }
}

/// The whole screen, with keys as they are typed; what was there before comes back when this is dropped.
#[derive(Debug)]
pub(crate) struct Whole {
    /// How the terminal was.
    before: Termios,
}

impl Whole {
    /// Takes the screen.
    ///
    /// # Errors
    /// When stdin is no terminal that can be asked for keys.
    pub(crate) fn enter() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        let whole = Self { before };
        // The other screen, without a cursor.
        write_now("\x1b[?1049h\x1b[?25l\x1b[2J")?;
        Ok(whole)
    }

    /// Draws `text` from the first line on, as much of it as fits.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub(crate) fn draw(&mut self, text: &str) -> io::Result<()> {
        let size = size();
        // No line is ended: nothing scrolls.
        let lines = fitting(&coloured(text), Size { lines: size.lines + 1, ..size });
        write_now(&format!("\x1b[H{}\x1b[K\x1b[J", lines.join("\x1b[K\r\n")))
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        // Whoever is told of an error here could do nothing about it.
        let _ = write_now("\x1b[?25h\x1b[?1049l");
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

fn write_now(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// The lines that fit above the cursor, each cut at the edge; the last one says how many do not.
pub(crate) fn fitting(text: &str, size: Size) -> Vec<String> {
    let all: Vec<&str> = text.lines().collect();
    let room = size.lines.saturating_sub(1).max(1);
    let shown = if all.len() > room { room - 1 } else { all.len() };
    let mut lines: Vec<String> = all[..shown].iter().map(|line| cut(line, size.columns)).collect();
    if shown < all.len() {
        lines.push(cut(&format!("... {} more lines", all.len() - shown), size.columns));
    }
    lines
}

/// The beginning of a line that is at most so wide; styles take no room, and do not outlive the line.
pub(crate) fn cut(line: &str, columns: usize) -> String {
    let mut shown = String::with_capacity(line.len());
    let (mut width, mut is_styled) = (0, false);
    let mut chars = line.chars();
    while let Some(char) = chars.next() {
        if char == '\x1b' {
            is_styled = true;
            shown.push(char);
            // `ESC [ … letter`: tables write no other kind.
            for char in chars.by_ref() {
                shown.push(char);
                if char.is_ascii_alphabetic() {
                    break;
                }
            }
            continue;
        }
        let wide = char.width().unwrap_or(0);
        if width + wide > columns {
            break;
        }
        width += wide;
        shown.push(char);
    }
    if is_styled && !shown.ends_with("\x1b[0m") {
        shown.push_str("\x1b[0m");
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size { columns: 10, lines: 4 };

    #[test]
    fn a_line_is_cut_at_the_edge_and_styles_take_no_room() {
        assert_eq!(cut("0123456789abc", 10), "0123456789");
        assert_eq!(cut("\x1b[31mOPEN\x1b[0m closed", 6), "\x1b[31mOPEN\x1b[0m c\x1b[0m");
        assert_eq!(cut("\x1b[1mabc", 2), "\x1b[1mab\x1b[0m");
        // A wide character does not hang over the edge.
        assert_eq!(cut("寿司寿司", 5), "寿司");
        assert_eq!(cut("short", 10), "short");
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        assert_eq!(fitting("a\nb\nc", SIZE), ["a", "b", "c"]);
        assert_eq!(fitting("a\nb\nc\nd\ne", SIZE), ["a", "b", "... 3 more"]);
        assert_eq!(fitting("a\nb", Size { lines: 1, columns: 80 }), ["... 2 more lines"]);
    }

    #[test]
    fn a_drawing_replaces_the_one_before_and_a_new_size_clears_the_screen() {
        let mut drawn = Drawn::default();
        assert_eq!(drawn.over("a\nb\n", SIZE), "a\x1b[K\r\nb\x1b[K\r\n\x1b[J");
        assert_eq!(drawn.over("c\n", SIZE), "\x1b[2A\rc\x1b[K\r\n\x1b[J");
        assert_eq!(drawn.over("d\n", SIZE), "\x1b[1A\rd\x1b[K\r\n\x1b[J");
        let narrow = Size { columns: 3, ..SIZE };
        assert_eq!(drawn.over("defgh\n", narrow), "\x1b[2J\x1b[Hdef\x1b[K\r\n\x1b[J");
    }
}
