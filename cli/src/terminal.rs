//! What text from others becomes before a terminal shows it.
//!
//! Labels, reasons and messages are chosen by whoever registers a replica. Printed as they are, an escape sequence in
//! one could recolour, rewrite or rename what an operator sees.

use std::borrow::Cow;

/// Replaces everything that a terminal acts on instead of showing: control characters, line breaks included, and the
/// marks that reverse the direction of text.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_acted_on) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 8);
    for char in text.chars() {
        if is_acted_on(char) {
            safe.extend(char.escape_default());
        } else {
            safe.push(char);
        }
    }
    Cow::Owned(safe)
}

fn is_acted_on(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_in_any_script_is_left_alone() {
        for text in ["", "team=web shop", "größe 寿司"] {
            assert_eq!(printable(text), text);
        }
    }

    #[test]
    fn escape_sequences_line_breaks_and_direction_marks_become_visible() {
        assert_eq!(printable("\x1b[31mred"), "\\u{1b}[31mred");
        assert_eq!(printable("a\r\nb\0"), "a\\r\\nb\\u{0}");
        assert_eq!(printable("\u{9b}2J"), "\\u{9b}2J");
        assert_eq!(printable("abc\u{202e}fed"), "abc\\u{202e}fed");
    }
}
