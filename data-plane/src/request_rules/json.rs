//! Whether bytes that come in pieces are one JSON text (RFC 8259), in memory that does not grow with them.
//!
//! It accepts the grammar, in UTF-8 and without a byte order mark, and looks at no more than that: names may repeat, numbers
//! may be of any size, and an escaped half of a surrogate pair may stand alone, as the grammar has it.

/// Containers in one another. What a stack of replicas' parsers takes, too: serde_json stops here, others at a thousand.
const MAX_DEPTH: u32 = 128;

/// Where a text stops being JSON, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotJson {
    /// Bytes before the one at fault.
    pub at: u64,
    /// What is wrong there.
    pub why: &'static str,
}

/// What may come next.
#[derive(Debug, Clone, Copy)]
enum Next {
    /// A value.
    Value,
    /// A value, or the end of an array that has none.
    ValueOrEnd,
    /// A name, or the end of an object that has none.
    NameOrEnd,
    /// A name.
    Name,
    Colon,
    /// What follows a value: a comma or an end in a container; at the top nothing but space.
    AfterValue,
    /// More of a string.
    String,
    /// What is escaped.
    Escaped,
    /// This many hexadecimal digits.
    Hex(u8),
    /// This many bytes of a character of UTF-8, of which the first is within these bounds.
    Utf8 {
        left: u8,
        low: u8,
        high: u8,
    },
    /// The rest of `true`, `false` or `null`.
    Literal(&'static [u8]),
    Number(Number),
}

/// What was last seen of a number.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Number {
    Minus,
    /// A zero in front, which no digit follows.
    Zero,
    Integer,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
}

/// A JSON text as far as it has come.
#[derive(Debug)]
pub(super) struct JsonText {
    next: Next,
    /// One bit for each open container, the innermost lowest: whether it is an object.
    objects: u128,
    depth: u32,
    /// Whether the string under way is a name.
    in_name: bool,
    seen: u64,
}

impl Default for JsonText {
    fn default() -> Self {
        Self { next: Next::Value, objects: 0, depth: 0, in_name: false, seen: 0 }
    }
}

impl JsonText {
    /// Takes the next piece.
    pub(super) fn piece(&mut self, bytes: &[u8]) -> Result<(), NotJson> {
        let mut rest = bytes;
        while let Some((&byte, after)) = rest.split_first() {
            rest = after;
            self.take(byte).map_err(|why| NotJson { at: self.seen, why })?;
            self.seen += 1;
            if matches!(self.next, Next::String) {
                // Most bytes are plain ones of strings.
                let plain = rest
                    .iter()
                    .take_while(|byte| matches!(byte, 0x20..=0x7f) && !matches!(byte, b'"' | b'\\'));
                let plain = plain.count();
                rest = &rest[plain..];
                self.seen += plain as u64;
            }
        }
        Ok(())
    }

    /// Judges that nothing follows.
    pub(super) fn end(&self) -> Result<(), NotJson> {
        let is_whole = match self.next {
            Next::AfterValue => true,
            Next::Number(number) => number.may_end(),
            _ => false,
        };
        if is_whole && self.depth == 0 {
            return Ok(());
        }
        Err(NotJson { at: self.seen, why: "the text ends before its value does" })
    }

    fn take(&mut self, byte: u8) -> Result<(), &'static str> {
        if let Next::Number(number) = self.next {
            match number.after(byte)? {
                Some(number) => {
                    self.next = Next::Number(number);
                    return Ok(());
                }
                // The byte is the first behind the number.
                None => self.next = Next::AfterValue,
            }
        }
        self.next = match self.next {
            Next::Value
            | Next::ValueOrEnd
            | Next::NameOrEnd
            | Next::Name
            | Next::Colon
            | Next::AfterValue
                if matches!(byte, b' ' | b'\t' | b'\n' | b'\r') =>
            {
                return Ok(());
            }
            Next::ValueOrEnd if byte == b']' => self.close(false)?,
            Next::Value | Next::ValueOrEnd => self.begin(byte)?,
            Next::NameOrEnd if byte == b'}' => self.close(true)?,
            Next::NameOrEnd | Next::Name => {
                if byte != b'"' {
                    return Err("a name in quotes is expected");
                }
                self.in_name = true;
                Next::String
            }
            Next::Colon if byte == b':' => Next::Value,
            Next::Colon => return Err("a colon is expected"),
            Next::AfterValue => self.after_value(byte)?,
            Next::String => self.in_string(byte)?,
            Next::Escaped => match byte {
                b'u' => Next::Hex(4),
                b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Next::String,
                _ => return Err("there is no such escape"),
            },
            Next::Hex(left) if byte.is_ascii_hexdigit() => {
                if left == 1 {
                    Next::String
                } else {
                    Next::Hex(left - 1)
                }
            }
            Next::Hex(_) => return Err("a hexadecimal digit is expected"),
            Next::Utf8 { left, low, high } if (low..=high).contains(&byte) => match left {
                1 => Next::String,
                _ => Next::Utf8 { left: left - 1, low: 0x80, high: 0xbf },
            },
            Next::Utf8 { .. } => return Err("a string is not in UTF-8"),
            Next::Literal(rest) => match rest {
                [expected] if *expected == byte => Next::AfterValue,
                [expected, rest @ ..] if *expected == byte => Next::Literal(rest),
                _ => return Err("a value is neither true, false nor null"),
            },
            Next::Number(_) => unreachable!("numbers are taken above"),
        };
        Ok(())
    }

    fn begin(&mut self, byte: u8) -> Result<Next, &'static str> {
        Ok(match byte {
            b'{' => self.open(true)?,
            b'[' => self.open(false)?,
            b'"' => {
                self.in_name = false;
                Next::String
            }
            b'-' => Next::Number(Number::Minus),
            b'0' => Next::Number(Number::Zero),
            b'1'..=b'9' => Next::Number(Number::Integer),
            b't' => Next::Literal(b"rue"),
            b'f' => Next::Literal(b"alse"),
            b'n' => Next::Literal(b"ull"),
            _ => return Err("a value is expected"),
        })
    }

    fn open(&mut self, is_object: bool) -> Result<Next, &'static str> {
        if self.depth == MAX_DEPTH {
            return Err("more than 128 arrays and objects are in one another");
        }
        self.depth += 1;
        self.objects = (self.objects << 1) | u128::from(is_object);
        Ok(if is_object { Next::NameOrEnd } else { Next::ValueOrEnd })
    }

    fn close(&mut self, is_object: bool) -> Result<Next, &'static str> {
        if self.depth == 0 || self.is_in_object() != is_object {
            return Err("what is closed was not opened");
        }
        self.depth -= 1;
        self.objects >>= 1;
        Ok(Next::AfterValue)
    }

    fn after_value(&mut self, byte: u8) -> Result<Next, &'static str> {
        match byte {
            b',' if self.depth > 0 => Ok(if self.is_in_object() { Next::Name } else { Next::Value }),
            b'}' => self.close(true),
            b']' => self.close(false),
            _ if self.depth == 0 => Err("something follows the value"),
            _ => Err("a comma or an end is expected"),
        }
    }

    fn in_string(&mut self, byte: u8) -> Result<Next, &'static str> {
        Ok(match byte {
            b'"' if self.in_name => Next::Colon,
            b'"' => Next::AfterValue,
            b'\\' => Next::Escaped,
            0..=0x1f => return Err("a control character in a string is not escaped"),
            0x20..=0x7f => Next::String,
            // RFC 3629 section 4: no overlong forms, no surrogates, nothing above U+10FFFF.
            0xc2..=0xdf => Next::Utf8 { left: 1, low: 0x80, high: 0xbf },
            0xe0 => Next::Utf8 { left: 2, low: 0xa0, high: 0xbf },
            0xed => Next::Utf8 { left: 2, low: 0x80, high: 0x9f },
            0xe1..=0xef => Next::Utf8 { left: 2, low: 0x80, high: 0xbf },
            0xf0 => Next::Utf8 { left: 3, low: 0x90, high: 0xbf },
            0xf1..=0xf3 => Next::Utf8 { left: 3, low: 0x80, high: 0xbf },
            0xf4 => Next::Utf8 { left: 3, low: 0x80, high: 0x8f },
            _ => return Err("a string is not in UTF-8"),
        })
    }

    fn is_in_object(&self) -> bool {
        self.objects & 1 == 1
    }
}

impl Number {
    /// What it is with one more byte; `None` when it has ended before that.
    fn after(self, byte: u8) -> Result<Option<Self>, &'static str> {
        let is_digit = byte.is_ascii_digit();
        let longer = match (self, byte) {
            (Self::Minus, b'0') => Some(Self::Zero),
            (Self::Minus | Self::Integer, _) if is_digit => Some(Self::Integer),
            (Self::Zero | Self::Integer, b'.') => Some(Self::Point),
            (Self::Point | Self::Fraction, _) if is_digit => Some(Self::Fraction),
            (Self::Zero | Self::Integer | Self::Fraction, b'e' | b'E') => Some(Self::Exponent),
            (Self::Exponent, b'+' | b'-') => Some(Self::ExponentSign),
            (Self::Exponent | Self::ExponentSign | Self::ExponentDigits, _) if is_digit => {
                Some(Self::ExponentDigits)
            }
            _ => None,
        };
        if longer.is_none() && !self.may_end() {
            return Err("a number lacks a digit");
        }
        Ok(longer)
    }

    fn may_end(self) -> bool {
        matches!(self, Self::Zero | Self::Integer | Self::Fraction | Self::ExponentDigits)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(pieces: &[&[u8]]) -> Result<(), NotJson> {
        let mut text = JsonText::default();
        pieces.iter().try_for_each(|piece| text.piece(piece))?;
        text.end()
    }

    #[test]
    fn what_the_grammar_has_is_json() {
        for text in [
            "null",
            " true ",
            "false\n",
            "0",
            "-0",
            "-0.0e-1",
            "10.5E+10",
            "1e999",
            "\"\"",
            "[]",
            "{}",
            "[ ]",
            "{ }",
            "[1,[2,{}],\"]\"]",
            "{\"a\":{\"b\":[]},\"a\":1}",
            "\"\\u0000\\ud800\\n\\/\"",
            "\"é☃😀\u{7f}\"",
        ] {
            assert_eq!(check(&[text.as_bytes()]), Ok(()), "{text}");
        }
    }

    #[test]
    fn what_it_has_not_is_refused_at_the_byte_at_fault() {
        for (text, at, why) in [
            (&b""[..], 0, "the text ends before its value does"),
            (b" ", 1, "the text ends before its value does"),
            (b"tru", 3, "the text ends before its value does"),
            (b"truth", 3, "a value is neither true, false nor null"),
            (b"{} {}", 3, "something follows the value"),
            (b"1 2", 2, "something follows the value"),
            (b"]", 0, "a value is expected"),
            (b"[1,]", 3, "a value is expected"),
            (b"[}", 1, "a value is expected"),
            (b"[1}", 2, "what is closed was not opened"),
            (b"1]", 1, "what is closed was not opened"),
            (b"{1:2}", 1, "a name in quotes is expected"),
            (b"{\"a\":1,}", 7, "a name in quotes is expected"),
            (b"{\"a\",1}", 4, "a colon is expected"),
            (b"[1 2]", 3, "a comma or an end is expected"),
            (b"01", 1, "something follows the value"),
            (b"[-]", 2, "a number lacks a digit"),
            (b"1.", 2, "the text ends before its value does"),
            (b"1.e1", 2, "a number lacks a digit"),
            (b".5", 0, "a value is expected"),
            (b"+1", 0, "a value is expected"),
            (b"NaN", 0, "a value is expected"),
            (b"'a'", 0, "a value is expected"),
            (b"\"\\x\"", 2, "there is no such escape"),
            (b"\"\\u12g4\"", 5, "a hexadecimal digit is expected"),
            (b"\"a\nb\"", 2, "a control character in a string is not escaped"),
            (b"\"abc\xff\"", 4, "a string is not in UTF-8"),
            (b"\"\xc0\x80\"", 1, "a string is not in UTF-8"),
            (b"\"\xed\xa0\x80\"", 2, "a string is not in UTF-8"),
            (b"\"\xf4\x90\x80\x80\"", 2, "a string is not in UTF-8"),
            (b"\xef\xbb\xbf{}", 0, "a value is expected"),
        ] {
            assert_eq!(check(&[text]), Err(NotJson { at, why }), "{}", text.escape_ascii());
        }
    }

    #[test]
    fn containers_are_counted_up_to_the_limit() {
        let nested = |depth: usize| [b"[".repeat(depth), b"]".repeat(depth)].concat();
        assert_eq!(check(&[&nested(128)]), Ok(()));
        let refused = check(&[&nested(129)]).unwrap_err();
        assert_eq!((refused.at, refused.why), (128, "more than 128 arrays and objects are in one another"));
        let mixed = [b"[{\"a\":".repeat(64), b"1".to_vec(), b"}]".repeat(64)].concat();
        assert_eq!(check(&[&mixed]), Ok(()));
    }

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<f64>().prop_map(Into::into),
            any::<String>().prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                proptest::collection::btree_map(any::<String>(), inner, 0..4)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_json_text_passes_in_any_pieces(value in any_json(), cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..4)) {
            let text = serde_json::to_vec(&value).unwrap();
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<_> = cuts.windows(2).map(|cut| &text[cut[0]..cut[1]]).collect();
            prop_assert_eq!(check(&pieces), Ok(()));
        }

        #[test]
        fn a_text_with_one_byte_changed_is_judged_as_serde_json_judges_it(
            value in any_json(),
            place in any::<prop::sample::Index>(),
            byte in prop_oneof![any::<u8>(), prop::sample::select(b"{}[],:\"\\ 0.-+eE1u".to_vec())],
        ) {
            let mut text = serde_json::to_vec(&value).unwrap();
            let place = place.index(text.len());
            text[place] = byte;
            let theirs = serde_json::from_slice::<serde_json::Value>(&text);
            match check(&[&text]) {
                Err(why) => prop_assert!(theirs.is_err(), "{:?} {}", why, text.escape_ascii()),
                // It also refuses what is no fault of the grammar.
                Ok(()) => if let Err(error) = theirs {
                    let error = error.to_string();
                    let is_of_values = error.contains("number out of range") || error.contains("surrogate") || error.contains("unexpected end of hex escape");
                    prop_assert!(is_of_values, "{} {}", error, text.escape_ascii());
                },
            }
        }

        #[test]
        fn no_bytes_make_it_panic_and_pieces_change_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..64), cut in any::<prop::sample::Index>()) {
            let (one, other) = bytes.split_at(cut.index(bytes.len() + 1));
            prop_assert_eq!(check(&[one, other]), check(&[&bytes]));
        }
    }
}
