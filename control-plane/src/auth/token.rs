//! Tokens: random texts that are known by their hash, and JWTs that are known by their signature.
//!
//! What is secret is in [`Secret`], which shows itself to nobody.

pub(super) mod jwks;
pub(super) mod jwt;

use std::fmt;

use aws_lc_rs::{constant_time::verify_slices_are_equal, digest};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

/// A longer one is refused before anything is computed.
pub(crate) const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// A text that must not be shown.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(Box<str>);

/// SHA-256 of a token. As tokens have 256 random bits, it needs no salt and can be kept where others read it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Fingerprint([u8; 32]);

impl Secret {
    pub(crate) fn new(text: &str) -> Self {
        Self(text.into())
    }

    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Fingerprint {
    pub(crate) fn of(secret: &Secret) -> Self {
        let digest = digest::digest(&digest::SHA256, secret.0.as_bytes());
        Self(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }

    /// Reads 64 hexadecimal digits.
    pub(crate) fn parse(hex: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        if hex.len() != 64 || !hex.is_ascii() {
            return None;
        }
        for (byte, digits) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            let digits = std::str::from_utf8(digits).ok().filter(|text| !text.starts_with('+'))?;
            *byte = u8::from_str_radix(digits, 16).ok()?;
        }
        Some(Self(bytes))
    }

    /// Whether it is the same, in a time that tells nothing of where the two differ.
    pub(crate) fn is(&self, other: &Self) -> bool {
        verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprint(…)")
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Bytes of base64url without padding, as JWTs have them.
fn decode(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_the_sha_256_of_the_token_in_hexadecimal() {
        let fingerprint = Fingerprint::of(&Secret::new("abc"));
        let hex = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(fingerprint.to_string(), hex);
        let read = Fingerprint::parse(hex).unwrap();
        assert!(read.is(&fingerprint) && Fingerprint::parse(&hex.to_uppercase()).unwrap().is(&fingerprint));
        assert!(!read.is(&Fingerprint::of(&Secret::new("abd"))));
    }

    #[test]
    fn what_is_no_fingerprint_is_refused() {
        for bad in
            ["", "abc", &"g".repeat(64), &"a".repeat(63), &"a".repeat(65), &"é".repeat(32), &"+1".repeat(32)]
        {
            assert!(Fingerprint::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_secret_shows_itself_to_nobody() {
        let secret = Secret::new("sesame");
        let shown = format!("{secret:?} {:?}", Fingerprint::of(&secret));
        assert_eq!(shown, "Secret(…) Fingerprint(…)");
    }
}
