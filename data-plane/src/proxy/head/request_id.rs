//! The id under which a request is known everywhere.

use std::rc::Rc;

use super::{field_name::Name, fields::Fields};

/// Longest id taken over from a client.
const MAX_LENGTH: usize = 128;

/// Visible ASCII, 1 to 128 of it.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::proxy) struct RequestId(Text);

#[derive(Clone, PartialEq, Eq)]
enum Text {
    /// One that is made here. Kept in place, because nearly every request has one.
    New([u8; 32]),
    Given(Rc<[u8]>),
}

impl RequestId {
    /// The peer's id if the peer is trusted and the id a sane one, else a new one made of a random number.
    pub(in crate::proxy) fn of(fields: &Fields, is_trusted: bool, random: impl FnOnce() -> u128) -> Self {
        let given = if is_trusted { fields.get(Name::XRequestId).and_then(Self::sane) } else { None };
        given.unwrap_or_else(|| Self::new(random()))
    }

    /// A new one, of 32 hexadecimal digits.
    pub(in crate::proxy) fn new(number: u128) -> Self {
        let mut text = [0; 32];
        for (pair, byte) in text.as_chunks_mut::<2>().0.iter_mut().zip(number.to_be_bytes()) {
            let digit = |half: u8| b"0123456789abcdef"[usize::from(half & 15)];
            *pair = [digit(byte >> 4), digit(byte)];
        }
        Self(Text::New(text))
    }

    fn sane(value: &[u8]) -> Option<Self> {
        let is_sane = (1..=MAX_LENGTH).contains(&value.len()) && value.iter().all(u8::is_ascii_graphic);
        is_sane.then(|| Self(Text::Given(value.into())))
    }

    pub(in crate::proxy) fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Text::New(text) => text,
            Text::Given(text) => text,
        }
    }

    pub(in crate::proxy) fn as_str(&self) -> &str {
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
