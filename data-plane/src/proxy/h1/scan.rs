//! Finds the end of a head as its bytes come in, and takes its lines apart.

use std::{ops::Range, sync::LazyLock};

use gateway_proto::token::is_token_byte;
use memchr::{memchr, memmem::Finder};

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

/// What ends most heads: the end of a line, and an empty one.
static END: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\r\n\r\n"));

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

    /// The length of the head that `bytes` begin with, as far as can be told at one look, if they were not looked at before: nearly
    /// all heads come in one piece, and need not be looked through line by line to be found.
    ///
    /// It is a guess: who parses it without a complaint has the head that [`HeadScan::find`] would find, and else has it say what is
    /// wrong.
    pub(in crate::proxy) fn guess(&self, bytes: &[u8], limits: &HeadLimits) -> Option<usize> {
        let is_begun = self.seen == 0 && bytes.first().is_some_and(|&byte| is_token_byte(byte));
        let bytes = &bytes[..bytes.len().min(limits.bytes)];
        // Of the first line alone, parsing does not ask for both bytes of its break.
        let ends_first_line = |feed: &usize| *feed > 0 && bytes[feed - 1] == b'\r';
        if !is_begun || memchr(b'\n', bytes).filter(ends_first_line).is_none() {
            return None;
        }
        END.find(bytes).map(|end| end + END.needle().len())
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

/// The first line of a head that [`HeadScan::find`] has found, and where the next one begins.
pub(super) fn first_line(head: &[u8]) -> (&[u8], usize) {
    let feed = memchr(b'\n', head).unwrap_or(head.len());
    (head[..feed].strip_suffix(b"\r").unwrap_or(&head[..feed]), feed + 1)
}

/// All fields of a head that [`HeadScan::find`] has found, whose first line ends at `start`.
pub(super) fn fields(head: &[u8], start: usize, limits: &HeadLimits) -> Result<Fields, Refusal> {
    let mut fields = Fields::over(head);
    let mut at = start;
    while !matches!(&head[at..], [] | b"\r\n") {
        if fields.count() == limits.fields {
            return Err(Refusal::HeadTooLarge);
        }
        let line = &head[at..];
        let (name, value) = field(line)?;
        // What ends a value is a control byte, and the only one that may is the line's own end.
        let Some(b"\r\n") = line.get(value.stop..value.stop + 2) else {
            return Err(Defect::FieldValue.into());
        };
        let end = at + value.stop + 2;
        fields.take_line(at..at + name, at + value.text.start..at + value.text.end, end);
        at = end;
    }
    Ok(fields)
}

/// A field's value in its line.
pub(super) struct Value {
    /// Without the spaces around it.
    pub(super) text: Range<usize>,
    /// The first byte that is none of a value.
    pub(super) stop: usize,
}

/// The length of a field's name, and its value, at the beginning of `line`.
#[inline]
pub(super) fn field(line: &[u8]) -> Result<(usize, Value), Defect> {
    let name_end = line.iter().position(|&byte| !is_token_byte(byte)).ok_or(Defect::FieldName)?;
    match line[name_end] {
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
