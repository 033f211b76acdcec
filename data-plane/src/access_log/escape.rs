//! Text from outside, so that it can neither end a line or a value nor speak to a terminal.
//!
//! What comes out is printable ASCII, whatever went in.

use std::io::Write;

/// As the inside of a JSON string. What is no UTF-8 is replaced by U+FFFD.
pub(super) fn json(out: &mut Vec<u8>, value: &[u8], max: usize) {
    let (value, is_cut) = cut(value, max);
    // Nearly always all of it.
    let plain = value.iter().position(|byte| !is_plain(*byte)).unwrap_or(value.len());
    out.extend_from_slice(&value[..plain]);
    for chunk in value[plain..].utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '"' | '\\' => out.extend([b'\\', character as u8]),
                ' '..='~' => out.push(character as u8),
                _ => {
                    for unit in character.encode_utf16(&mut [0; 2]) {
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                }
            }
        }
        if !chunk.invalid().is_empty() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
    if is_cut {
        out.extend_from_slice(b"...");
    }
}

/// As the inside of a value in quotes of the combined log format: `\x1b` for what is not printable.
pub(super) fn text(out: &mut Vec<u8>, value: &[u8], max: usize) {
    let (value, is_cut) = cut(value, max);
    for &byte in value {
        match byte {
            b'"' | b'\\' => out.extend([b'\\', byte]),
            b' '..=b'~' => out.push(byte),
            _ => {
                let _ = write!(out, "\\x{byte:02x}");
            }
        }
    }
    if is_cut {
        out.extend_from_slice(b"...");
    }
}

/// Whether a byte stands for itself everywhere.
fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\')
}

/// As much of a value as a line has, and whether there is more.
fn cut(value: &[u8], max: usize) -> (&[u8], bool) {
    if value.len() > max { (&value[..max], true) } else { (value, false) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn escaped(escape: fn(&mut Vec<u8>, &[u8], usize), value: &[u8]) -> String {
        let mut out = Vec::new();
        escape(&mut out, value, 8);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn nothing_ends_a_value_a_line_or_reaches_a_terminal() {
        for (value, in_json, in_text) in [
            (&b"a b"[..], "a b", "a b"),
            (b"\"\\", "\\\"\\\\", "\\\"\\\\"),
            (b"\r\n\0", "\\u000d\\u000a\\u0000", "\\x0d\\x0a\\x00"),
            (b"\x1b[31m", "\\u001b[31m", "\\x1b[31m"),
            ("\u{9b}".as_bytes(), "\\u009b", "\\xc2\\x9b"),
            ("\u{202e}".as_bytes(), "\\u202e", "\\xe2\\x80\\xae"),
            ("\u{1f980}".as_bytes(), "\\ud83e\\udd80", "\\xf0\\x9f\\xa6\\x80"),
            (b"\xff", "\\ufffd", "\\xff"),
            (b"\x7f", "\\u007f", "\\x7f"),
            (b"123456789", "12345678...", "12345678..."),
        ] {
            assert_eq!((escaped(json, value).as_str(), escaped(text, value).as_str()), (in_json, in_text));
        }
    }

    proptest! {
        #[test]
        fn whatever_goes_in_comes_out_printable_and_json_gives_it_back(bytes in proptest::collection::vec(any::<u8>(), 0..8)) {
            for escape in [json, text] {
                prop_assert!(escaped(escape, &bytes).bytes().all(|byte| matches!(byte, b' '..=b'~')));
            }
            let read: String = serde_json::from_str(&format!("\"{}\"", escaped(json, &bytes))).unwrap();
            prop_assert_eq!(read, String::from_utf8_lossy(&bytes));
        }
    }
}
