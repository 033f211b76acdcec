//! The chunked transfer coding (RFC 9112 section 7.1), as it is read: strict sizes, bounded extensions, which are
//! dropped, and bounded trailers, which are kept.

use memchr::memchr;

use super::{
    body::{BodyFault, Step},
    limits::{MAX_CHUNK_LINE, MAX_EXTENSIONS, MAX_TRAILER_FIELDS, MAX_TRAILERS},
    scan,
};
use crate::proxy::head::fields::{Fields, is_value};

/// How far a chunked body has been read.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Chunked {
    state: State,
    /// Bytes of extensions so far.
    extensions: usize,
    /// Bytes of the trailer section so far.
    trailer_bytes: usize,
    trailers: Option<Fields>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// At the line with a chunk's size.
    #[default]
    Size,
    /// So many bytes of the chunk are still to come.
    Data(u64),
    /// At the line break behind a chunk.
    DataEnd,
    /// At a line of the trailer section.
    Trailers,
    Done,
}

impl Chunked {
    /// What is at the beginning of `input`. What is told to be there counts as taken.
    pub(super) fn step(&mut self, input: &[u8]) -> Result<Step, BodyFault> {
        match self.state {
            State::Size => self.size(input),
            State::Data(left) => {
                let count = input.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                if count == 0 {
                    return Ok(Step::More);
                }
                let left = left - count as u64;
                self.state = if left == 0 { State::DataEnd } else { State::Data(left) };
                Ok(Step::Data(count))
            }
            State::DataEnd => match input {
                [b'\r', b'\n', ..] => {
                    self.state = State::Size;
                    Ok(Step::Skip(2))
                }
                [] | [b'\r'] => Ok(Step::More),
                _ => Err(BodyFault::ChunkEnd),
            },
            State::Trailers => self.trailer(input),
            State::Done => Ok(Step::End),
        }
    }

    fn size(&mut self, input: &[u8]) -> Result<Step, BodyFault> {
        let Some(line) = line(input, MAX_CHUNK_LINE, BodyFault::ChunkLine)? else { return Ok(Step::More) };
        let digits = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
        let (digits, extensions) = line.split_at(digits);
        // Fifteen digits are a number that fits in any reading of it.
        if !(1..=15).contains(&digits.len()) {
            return Err(BodyFault::ChunkSize);
        }
        if !(extensions.is_empty() || extensions[0] == b';') || !is_value(extensions) {
            return Err(BodyFault::ChunkSize);
        }
        self.extensions += extensions.len();
        if self.extensions > MAX_EXTENSIONS {
            return Err(BodyFault::Extensions);
        }
        let digit = |byte: &u8| u64::from((*byte as char).to_digit(16).unwrap_or_default());
        let size = digits.iter().fold(0, |size, byte| size << 4 | digit(byte));
        self.state = if size == 0 { State::Trailers } else { State::Data(size) };
        Ok(Step::Skip(line.len() + 2))
    }

    fn trailer(&mut self, input: &[u8]) -> Result<Step, BodyFault> {
        let room = MAX_TRAILERS - self.trailer_bytes;
        let Some(line) = line(input, room, BodyFault::Trailers)? else { return Ok(Step::More) };
        self.trailer_bytes += line.len();
        if line.is_empty() {
            self.state = State::Done;
            return Ok(Step::Skip(2));
        }
        let (name, value) = scan::field(line).map_err(|_| BodyFault::Trailers)?;
        if value.stop < line.len() {
            return Err(BodyFault::Trailers);
        }
        let trailers = self.trailers.get_or_insert_default();
        if trailers.count() == MAX_TRAILER_FIELDS {
            return Err(BodyFault::Trailers);
        }
        trailers.append_other(&line[..name], &line[value.text]);
        Ok(Step::Skip(line.len() + 2))
    }

    pub(super) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    pub(super) fn take_trailers(&mut self) -> Option<Fields> {
        self.trailers.take()
    }
}

/// The line at the beginning of `input`, without its line break; `None` while that is not there.
fn line(input: &[u8], max: usize, fault: BodyFault) -> Result<Option<&[u8]>, BodyFault> {
    let feed = memchr(b'\n', input);
    let line = &input[..feed.unwrap_or(input.len())];
    // The carriage return at its end is not counted, and may not be there yet.
    let text = line.strip_suffix(b"\r").unwrap_or(line);
    if text.len() > max {
        return Err(fault);
    }
    match feed {
        None => Ok(None),
        Some(_) if text.len() == line.len() => Err(fault),
        Some(_) => Ok(Some(text)),
    }
}
