//! The secret that proves who owns a registration.

use std::fmt;

use crate::Invalid;

/// 128 random bits, written as 32 hexadecimal digits.
///
/// Whoever holds it may renew, report for and remove the replica, so `Debug` hides it and lists never carry it. Bytes,
/// because a number of that size would align, and so pad, whatever holds it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId([u8; 16]);

impl LeaseId {
    /// Makes an id of random bits that the caller drew.
    pub const fn from_random(bits: u128) -> Self {
        Self(bits.to_be_bytes())
    }

    /// Parses 32 hexadecimal digits.
    ///
    /// # Errors
    /// [`Invalid`] for the field `lease_id`.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        if text.is_empty() {
            return Err(Invalid::new("lease_id", "is required: it came with the answer to Register"));
        }
        let hex = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        hex.then(|| u128::from_str_radix(text, 16).ok()).flatten().map(Self::from_random).ok_or_else(|| {
            Invalid::new("lease_id", "must be the 32 hexadecimal digits that Register answered")
        })
    }

    /// A positive number made of 62 of its bits, to name the lease where all of them do not fit.
    pub fn tag(&self) -> i64 {
        let low = u128::from_be_bytes(self.0) & ((1 << 62) - 1);
        i64::try_from(low).unwrap_or(i64::MAX).max(1)
    }

    /// The text that [`LeaseId::parse`] reads: to be given to the owner only.
    pub fn reveal(&self) -> String {
        format!("{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LeaseId(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revealed_id_parses_to_itself_and_debug_hides_it() {
        let id = LeaseId::from_random(7);
        assert_eq!(LeaseId::parse(&id.reveal()), Ok(id));
        assert_eq!(format!("{id:?}"), "LeaseId(hidden)");
    }

    #[test]
    fn anything_but_thirty_two_hexadecimal_digits_is_refused() {
        for text in ["", "7", &"g".repeat(32), &"+".repeat(32), &"1".repeat(33)] {
            assert!(LeaseId::parse(text).is_err(), "{text:?}");
        }
    }
}
