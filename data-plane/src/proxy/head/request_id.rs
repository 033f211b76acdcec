//! The id under which a request is known everywhere.

use std::rc::Rc;

use super::{field_name::Name, fields::Fields};

/// Longest id taken over from a client.
const MAX_LENGTH: usize = 128;

/// What the line of a new one begins with, and ends with behind its digits.
const START: &[u8; 14] = b"x-request-id: ";
const DIGITS: usize = 32;
const NEW_LINE: usize = START.len() + DIGITS + b"\r\n".len();

/// Visible ASCII, 1 to 128 of it.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::proxy) struct RequestId(Text);

#[derive(Clone, PartialEq, Eq)]
enum Text {
    /// One that is made here, in the line that says it. Kept in place, because nearly every request has one, and says it twice.
    New([u8; NEW_LINE]),
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
        let mut line = [0; NEW_LINE];
        let (start, rest) = line.split_at_mut(START.len());
        start.copy_from_slice(START);
        let (digits, end) = rest.split_at_mut(DIGITS);
        for (eight, part) in digits.as_chunks_mut().0.iter_mut().zip([96, 64, 32, 0]) {
            *eight = digits_of((number >> part) as u32);
        }
        end.copy_from_slice(b"\r\n");
        Self(Text::New(line))
    }

    fn sane(value: &[u8]) -> Option<Self> {
        let is_sane = (1..=MAX_LENGTH).contains(&value.len()) && value.iter().all(u8::is_ascii_graphic);
        is_sane.then(|| Self(Text::Given(value.into())))
    }

    pub(in crate::proxy) fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Text::New(line) => &line[START.len()..START.len() + DIGITS],
            Text::Given(text) => text,
        }
    }

    /// Has a head say it.
    pub(in crate::proxy) fn append_to(&self, fields: &mut Fields) {
        match &self.0 {
            Text::New(line) => fields.append_written(Name::XRequestId, line),
            Text::Given(text) => fields.append(Name::XRequestId, text),
        }
    }

    pub(in crate::proxy) fn as_str(&self) -> &str {
        str::from_utf8(self.as_bytes()).expect("it is ASCII")
    }
}

/// A number in hexadecimal digits, all eight at once.
fn digits_of(number: u32) -> [u8; 8] {
    const ONES: u64 = 0x0101_0101_0101_0101;
    // Half a byte to each byte, the first one in front.
    let halves = u64::from(number);
    let halves = (halves | halves << 16) & 0x0000_ffff_0000_ffff;
    let halves = (halves | halves << 8) & 0x00ff_00ff_00ff_00ff;
    let halves = (halves | halves << 4) & (0x0f * ONES);
    // One in each byte that is a letter: six more carry into the other half.
    let letters = (halves + 6 * ONES) >> 4 & ONES;
    (halves + u64::from(b'0') * ONES + letters * u64::from(b'a' - b'9' - 1)).to_be_bytes()
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
    fn a_new_one_is_its_number_in_digits_and_its_line_says_it() {
        for number in [0, 1, 0x0123_4567_89ab_cdef_fedc_ba98_7654_3210, u128::MAX, 0x9a << 120] {
            let id = RequestId::new(number);
            assert_eq!(id.as_str(), format!("{number:032x}"));
            let [mut said, mut appended] = [Fields::default(), Fields::default()];
            id.append_to(&mut said);
            appended.append(Name::XRequestId, id.as_bytes());
            let written = |fields: &Fields| {
                let mut out = Vec::new();
                fields.write_to(&mut out);
                (out, fields.get(Name::XRequestId).map(<[u8]>::to_vec))
            };
            assert_eq!(written(&said), written(&appended));
        }
        let given = RequestId::sane(b"abc-1").unwrap();
        let mut said = Fields::default();
        given.append_to(&mut said);
        assert_eq!(said.get(Name::XRequestId), Some(&b"abc-1"[..]));
    }

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
