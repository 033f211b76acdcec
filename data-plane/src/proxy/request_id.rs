//! The id under which a request is known everywhere.

use super::{field_name::Name, fields::Fields};

/// Longest id taken over from a client.
const MAX_LENGTH: usize = 128;

/// Visible ASCII, 1 to 128 of it. Kept in place, because every request has one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct RequestId {
    length: u8,
    bytes: [u8; MAX_LENGTH],
}

impl RequestId {
    /// The peer's id if the peer is trusted and the id a sane one, else a new one made of a random number.
    pub(super) fn of(fields: &Fields, is_trusted: bool, random: impl FnOnce() -> u128) -> Self {
        let given = if is_trusted { fields.get(Name::XRequestId).and_then(Self::sane) } else { None };
        given.unwrap_or_else(|| Self::new(random()))
    }

    /// A new one, of 32 hexadecimal digits.
    pub(super) fn new(number: u128) -> Self {
        let mut bytes = [0; MAX_LENGTH];
        for (place, byte) in bytes[..32].iter_mut().enumerate() {
            let digit = (number >> (4 * (31 - place))) as usize & 15;
            *byte = b"0123456789abcdef"[digit];
        }
        Self { length: 32, bytes }
    }

    fn sane(value: &[u8]) -> Option<Self> {
        let is_sane = !value.is_empty() && value.iter().all(u8::is_ascii_graphic);
        let mut bytes = [0; MAX_LENGTH];
        bytes.get_mut(..value.len()).filter(|_| is_sane)?.copy_from_slice(value);
        Some(Self { length: value.len() as u8, bytes })
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    pub(super) fn as_str(&self) -> &str {
        str::from_utf8(self.as_bytes()).expect("it is ASCII")
    }
}

impl std::fmt::Debug for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("RequestId").field(&self.as_str()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sane_request_id_of_a_trusted_peer_is_kept_and_any_other_replaced() {
        let of = |value: &str, is_trusted| {
            let mut fields = Fields::default();
            fields.append(Name::XRequestId, value.as_bytes());
            RequestId::of(&fields, is_trusted, || 7).as_str().to_owned()
        };
        let id = |value: &str| of(value, true);
        let longest = "x".repeat(128);
        assert_eq!((id("abc-1"), id(&longest)), ("abc-1".to_owned(), longest));
        for insane in ["", "a b", "\u{e4}", &"x".repeat(129), &"x".repeat(300)] {
            assert_eq!(id(insane), "00000000000000000000000000000007", "{insane:?}");
        }
        assert_eq!(of("abc-1", false), "00000000000000000000000000000007");
    }
}
