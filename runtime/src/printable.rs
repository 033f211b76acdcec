//! What text from others becomes before a terminal or a log shows it.
//!
//! Labels, reasons and messages are chosen by whoever registers a replica or is one. Printed as they are, an escape sequence in
//! one could recolour, rewrite or rename what an operator sees.

use std::fmt::Write as _;

/// Whether a terminal acts on a character instead of showing it: control characters, line breaks included, and the marks that
/// change the direction of text.
pub fn is_acted_on(char: char) -> bool {
    char.is_control()
        || matches!(
            char,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

/// The first `max` characters of a text, fit for a log, a terminal and a line: what [`is_acted_on`] is escaped, what is cut off
/// is shown by an ellipsis.
pub fn printable(text: &str, max: usize) -> String {
    let mut shown = String::new();
    let mut chars = text.chars();
    for char in chars.by_ref().take(max) {
        if is_acted_on(char) {
            // A string takes whatever is written.
            let _ = write!(shown, "{}", char.escape_default());
        } else {
            shown.push(char);
        }
    }
    if chars.next().is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_in_any_script_is_left_alone() {
        for text in ["", "team=web \"shop\"", "größe 寿司", "e\u{301}"] {
            assert_eq!(printable(text, 100), text);
        }
    }

    #[test]
    fn escape_sequences_line_breaks_and_direction_marks_become_visible() {
        assert_eq!(printable("\x1b[31mred", 100), "\\u{1b}[31mred");
        assert_eq!(printable("a\r\nb\0", 100), "a\\r\\nb\\u{0}");
        assert_eq!(printable("\u{9b}2J", 100), "\\u{9b}2J");
        for mark in ['\u{61c}', '\u{200f}', '\u{202e}', '\u{2066}'] {
            assert_eq!(printable(&format!("abc{mark}fed"), 100), format!("abc{}fed", mark.escape_unicode()));
        }
    }

    #[test]
    fn what_is_too_long_is_cut_between_characters() {
        assert_eq!(printable("größe", 3), "grö…");
        assert_eq!(printable("größe", 5), "größe");
    }
}
