//! Finds the end of a head as its bytes come in, and takes its lines apart.

use std::ops::Range;

use gateway_proto::token::is_token_byte;
use memchr::memchr;

use super::{
    limits::HeadLimits,
    refusal::{Defect, Refusal},
};
use crate::proxy::head::fields::{Fields, value_length};

/// What the head is one of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) enum Kind {
    Request,
    Response,
}

/// How far a head has been looked through. No byte is looked at twice, however slowly they come.
#[derive(Debug, Clone, Copy)]
pub(in crate::proxy) struct HeadScan {
    kind: Kind,
    /// Where the head begins: behind an empty line, if there was one.
    start: usize,
    /// Where the line begins whose end is looked for.
    line: usize,
    /// Up to where its end was looked for.
    seen: usize,
    /// Complete lines.
    lines: usize,
}

impl HeadScan {
    pub(in crate::proxy) const fn new(kind: Kind) -> Self {
        Self { kind, start: 0, line: 0, seen: 0, lines: 0 }
    }

    /// What may be parsed at once, if `bytes` were not looked at before: nearly all heads come in one piece, and need not be looked
    /// through line by line to be found.
    ///
    /// It is a guess that there is a head: who parses it without a complaint has the one that [`HeadScan::find`] would find, and else
    /// has it say what is wrong.
    pub(in crate::proxy) fn guess<'a>(&self, bytes: &'a [u8], limits: &HeadLimits) -> Option<&'a [u8]> {
        let is_begun = self.seen == 0 && bytes.first().is_some_and(|&byte| is_token_byte(byte));
        is_begun.then(|| &bytes[..bytes.len().min(limits.bytes)])
    }

    /// Where the head lies in `bytes`, which are what it was given before and more. `None` while its end is not there.
    ///
    /// However the bytes are split, the verdict is the same, if the `limits` are.
    ///
    /// # Errors
    /// As soon as a limit is passed, a line ends in a bare line feed, or the first byte is none of a head.
    pub(in crate::proxy) fn find(
        &mut self,
        bytes: &[u8],
        limits: &HeadLimits,
    ) -> Result<Option<Range<usize>>, Refusal> {
        self.check_first_byte(bytes)?;
        while let Some(found) = memchr(b'\n', &bytes[self.seen..]) {
            let feed = self.seen + found;
            let line = &bytes[self.line..feed];
            let Some(line) = line.strip_suffix(b"\r") else { return Err(Defect::BareLineFeed.into()) };
            self.check_limits(limits, line.len(), feed + 1)?;
            let is_empty = line.is_empty();
            self.line = feed + 1;
            self.seen = feed + 1;
            if !is_empty {
                self.lines += 1;
            } else if self.lines > 0 {
                return Ok(Some(self.start..feed + 1));
            } else if self.start > 0 || self.kind == Kind::Response {
                return Err(Defect::StartLine.into());
            } else {
                // Some clients put a line break behind a body: RFC 9112 section 2.2 has a server pass over one.
                self.start = feed + 1;
                self.check_first_byte(bytes)?;
            }
        }
        self.seen = bytes.len();
        self.check_limits(limits, bytes.len() - self.line, bytes.len())?;
        Ok(None)
    }

    /// Another protocol is told so at its first byte, not after a timeout.
    fn check_first_byte(&self, bytes: &[u8]) -> Result<(), Refusal> {
        match bytes.get(self.start) {
            Some(b'\r' | b'\n') => Ok(()),
            Some(&byte) if self.kind == Kind::Request && !is_token_byte(byte) => Err(Defect::Method.into()),
            Some(&byte) if self.kind == Kind::Response && byte != b'H' => Err(Defect::StartLine.into()),
            _ => Ok(()),
        }
    }

    /// Of a line that has `length` bytes so far, and ends at `end` so far.
    fn check_limits(&self, limits: &HeadLimits, length: usize, end: usize) -> Result<(), Refusal> {
        let is_first = self.lines == 0;
        if is_first && self.kind == Kind::Request && length > limits.start_line() {
            return Err(Refusal::TargetTooLong);
        }
        if end - self.start > limits.bytes || self.lines > limits.fields + 1 {
            return Err(Refusal::HeadTooLarge);
        }
        Ok(())
    }
}

/// The first line of the head that `bytes` begin with, and where the next one begins.
pub(super) fn first_line(bytes: &[u8]) -> Result<(&[u8], usize), Defect> {
    let feed = memchr(b'\n', bytes).ok_or(Defect::StartLine)?;
    let line = bytes[..feed].strip_suffix(b"\r").ok_or(Defect::BareLineFeed)?;
    Ok((line, feed + 1))
}

/// All fields of the head that `bytes` begin with, whose first line ends at `start`, and where the head ends.
///
/// # Errors
/// Also when its end is not there: then what is missing is taken for a defect.
pub(super) fn fields(bytes: &[u8], start: usize, limits: &HeadLimits) -> Result<(Fields, usize), Refusal> {
    let mut fields = Fields::default();
    fields.expect_lines();
    let mut at = start;
    loop {
        let line = &bytes[at..];
        if line.starts_with(b"\r\n") {
            break;
        }
        if fields.count() == limits.fields {
            return Err(Refusal::HeadTooLarge);
        }
        let (name, value) = field(line)?;
        // What ends a value is a control byte, and the only one that may is the line's own end.
        let Some(b"\r\n") = line.get(value.stop..value.stop + 2) else {
            return Err(Defect::FieldValue.into());
        };
        let end = at + value.stop + 2;
        fields.take_line(bytes, at..at + name, at + value.text.start..at + value.text.end, end);
        at = end;
    }
    let end = at + 2;
    fields.lay_over(&bytes[..end]);
    Ok((fields, end))
}

/// A field's value in its line.
pub(super) struct Value {
    /// Without the spaces around it.
    pub(super) text: Range<usize>,
    /// The first byte that is none of a value.
    pub(super) stop: usize,
}

/// How many bytes at the beginning may be of a name. Eight are looked at together, as long as they are letters and dashes, of which nearly
/// all names are.
#[inline]
fn token_length(bytes: &[u8]) -> usize {
    let mut length = 0;
    for word in bytes.as_chunks().0 {
        let usual = usual_length(*word);
        length += usual;
        if usual < word.len() {
            break;
        }
    }
    let rest = &bytes[length..];
    length + rest.iter().position(|&byte| !is_token_byte(byte)).unwrap_or(rest.len())
}

/// How many bytes at the beginning are letters and dashes.
#[inline(always)]
fn usual_length(bytes: [u8; 8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x80 * ONES;
    let word = u64::from_le_bytes(bytes);
    // Without their high bits, nothing carries from one byte into the next.
    let low = word & !HIGH;
    let small = low | (0x20 * ONES);
    let is_from_a = small + u64::from(0x80 - b'a') * ONES;
    let is_behind_z = small + u64::from(0x80 - b'z' - 1) * ONES;
    let is_no_dash = (low ^ (u64::from(b'-') * ONES)) + 0x7f * ONES;
    let others = (word | ((!is_from_a | is_behind_z) & is_no_dash)) & HIGH;
    // Of none, there are 64 zeros.
    others.trailing_zeros() as usize / 8
}

/// The length of a field's name, and its value, at the beginning of `line`.
#[inline]
pub(super) fn field(line: &[u8]) -> Result<(usize, Value), Defect> {
    let name_end = token_length(line);
    match *line.get(name_end).ok_or(Defect::FieldName)? {
        b':' if name_end > 0 => {}
        b' ' | b'\t' if name_end == 0 => return Err(Defect::FoldedLine),
        b' ' | b'\t' => return Err(Defect::SpaceBeforeColon),
        _ => return Err(Defect::FieldName),
    }
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let mut start = name_end + 1;
    let stop = start + value_length(&line[start..]);
    let mut end = stop;
    while start < end && is_space(&line[start]) {
        start += 1;
    }
    while start < end && is_space(&line[end - 1]) {
        end -= 1;
    }
    Ok((name_end, Value { text: start..end, stop }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_ends_at_the_first_byte_that_is_of_none_wherever_it_stands() {
        for byte in 0..=u8::MAX {
            assert_eq!(
                usual_length([byte; 8]),
                if byte.is_ascii_alphabetic() || byte == b'-' { 8 } else { 0 }
            );
            for length in 0..20 {
                for filling in [b'a', b'Z', b'-', b'_', b'9'] {
                    let mut name = [filling; 20];
                    assert_eq!(token_length(&name[..length]), length);
                    name[length] = byte;
                    let end = if is_token_byte(byte) { 20 } else { length };
                    assert_eq!(token_length(&name), end, "{byte:#x} behind {filling:?}");
                }
            }
        }
    }
}
