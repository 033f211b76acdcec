//! What text from others becomes before a terminal shows it: what [`is_acted_on`] there, for reasons told with that, is escaped.

use std::{borrow::Cow, fmt::Write as _};

use gateway_runtime::printable::is_acted_on;

/// Replaces everything that a terminal acts on instead of showing, line breaks included.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    escaped(text, is_acted_on, |char, safe| safe.extend(char.escape_default()))
}

/// The same of JSON, or of YAML that quotes as JSON does: it stays the same document. Such characters stand in strings only, where
/// JSON has an escape for them; those below U+0020 are escaped there already, and elsewhere they are its line breaks.
pub(crate) fn json(text: &str) -> Cow<'_, str> {
    let is_left = |char: char| char >= '\u{7f}' && is_acted_on(char);
    // All of them are within the first plane, so four digits do. A string takes whatever is written.
    escaped(text, is_left, |char, safe| {
        let _ = write!(safe, "\\u{:04x}", u32::from(char));
    })
}

fn escaped(text: &str, is_to_be: impl Fn(char) -> bool, escape: impl Fn(char, &mut String)) -> Cow<'_, str> {
    if !text.chars().any(&is_to_be) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 8);
    for char in text.chars() {
        if is_to_be(char) {
            escape(char, &mut safe);
        } else {
            safe.push(char);
        }
    }
    Cow::Owned(safe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_acts_on_becomes_visible() {
        assert_eq!(printable("größe 寿司"), "größe 寿司");
        assert_eq!(printable("\x1b[31mred"), "\\u{1b}[31mred");
        assert_eq!(printable("a\r\nb\0"), "a\\r\\nb\\u{0}");
        assert_eq!(printable("abc\u{202e}fed"), "abc\\u{202e}fed");
    }

    #[test]
    fn a_document_stays_the_same_and_holds_nothing_that_a_terminal_acts_on() {
        let text: String = ('\0'..='\u{2100}').chain(['寿', '\u{1f363}']).collect();
        let document = serde_json::json!({"a": [text.clone()], text: 1});
        for written in [format!("{document:#}"), format!("{document}\n")] {
            let safe = json(&written);
            assert_eq!(serde_json::from_str::<serde_json::Value>(&safe).unwrap(), document);
            assert!(!safe.chars().any(|char| char != '\n' && is_acted_on(char)));
            assert!(safe.contains("\\u009b") && safe.contains("\\u061c") && safe.contains('寿'), "{safe}");
        }
    }
}
