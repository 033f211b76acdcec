//! Tokens of HTTP: names of fields and cookies, methods, protocols (RFC 9110, section 5.6.2).

/// Whether a token may have this byte.
#[inline]
pub const fn is_token_byte(byte: u8) -> bool {
    const TABLE: [bool; 256] = {
        let mut table = [false; 256];
        let mut byte = 0;
        while byte < 256 {
            table[byte] = (byte as u8).is_ascii_alphanumeric();
            byte += 1;
        }
        let others = b"!#$%&'*+-.^_`|~";
        let mut index = 0;
        while index < others.len() {
            table[others[index] as usize] = true;
            index += 1;
        }
        table
    };
    TABLE[byte as usize]
}

/// Whether a text is a token.
pub fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(is_token_byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_have_letters_digits_and_fifteen_others() {
        assert_eq!((0..=u8::MAX).filter(|byte| is_token_byte(*byte)).count(), 26 + 26 + 10 + 15);
        assert!(is_token("x-Request_1") && is_token("!") && is_token("|~"));
        for bad in ["", "a b", "a:", "a\r\n", "\u{e4}", "a/1", "(a)", "\"a\"", "\u{7f}"] {
            assert!(!is_token(bad), "{bad:?}");
        }
    }
}
