//! A body as it is read: which of the bytes behind a head are its data, and where it ends.

use super::{chunked::Chunked, framing::Length};
use crate::proxy::head::fields::Fields;

/// How far a body has been read.
#[derive(Debug)]
pub(in crate::proxy) enum BodyDecoder {
    /// So many bytes are still to come.
    Exact(u64),
    Chunked(Box<Chunked>),
    UntilClose,
    /// What ended with its connection.
    Closed,
}

/// What the next bytes of a connection are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) enum Step {
    /// So many bytes, more than none, are the body's.
    Data(usize),
    /// So many bytes, more than none, are there for the framing only.
    Skip(usize),
    /// Nobody knows before there are more.
    More,
    /// None of them is this body's.
    End,
}

/// Why a body cannot be read on. There is no way to go on with the connection either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(in crate::proxy) enum BodyFault {
    #[error("a chunk's size is not a number")]
    ChunkSize,
    #[error("the line with a chunk's size is too long, or not a line")]
    ChunkLine,
    #[error("the chunks' extensions are too long")]
    Extensions,
    #[error("a chunk does not end where it should")]
    ChunkEnd,
    #[error("the trailers are not valid, or too long")]
    Trailers,
    #[error("the connection ended before the body")]
    Truncated,
}

impl BodyDecoder {
    pub(in crate::proxy) fn new(length: Length) -> Self {
        match length {
            Length::Empty => Self::Exact(0),
            Length::Exact(length) => Self::Exact(length),
            Length::Chunked => Self::Chunked(Box::default()),
            Length::UntilClose => Self::UntilClose,
        }
    }

    /// What is at the beginning of `input`. What is told to be there counts as taken.
    pub(in crate::proxy) fn step(&mut self, input: &[u8]) -> Result<Step, BodyFault> {
        match self {
            Self::Exact(0) | Self::Closed => Ok(Step::End),
            _ if input.is_empty() && !self.is_done() => Ok(Step::More),
            Self::Exact(left) => {
                let count = input.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= count as u64;
                Ok(Step::Data(count))
            }
            Self::Chunked(chunked) => chunked.step(input),
            Self::UntilClose => Ok(Step::Data(input.len())),
        }
    }

    /// So many bytes, of those whose number is known to be still [to come](BodyDecoder::left), were taken without being looked at.
    pub(in crate::proxy) fn passed(&mut self, count: u64) {
        debug_assert!(matches!(self, Self::Exact(left) if *left >= count), "they are not all the body's");
        if let Self::Exact(left) = self {
            *left -= count;
        }
    }

    /// The connection has ended, all of its bytes taken.
    ///
    /// # Errors
    /// When that is not the end of the body.
    pub(in crate::proxy) fn close(&mut self) -> Result<(), BodyFault> {
        match self {
            Self::UntilClose => {
                *self = Self::Closed;
                Ok(())
            }
            _ if self.is_done() => Ok(()),
            _ => Err(BodyFault::Truncated),
        }
    }

    /// Whether nothing more belongs to the body.
    pub(in crate::proxy) fn is_done(&self) -> bool {
        match self {
            Self::Exact(left) => *left == 0,
            Self::Chunked(chunked) => chunked.is_done(),
            Self::UntilClose => false,
            Self::Closed => true,
        }
    }

    /// How many bytes are still to come, if that is known.
    pub(in crate::proxy) fn left(&self) -> Option<u64> {
        match self {
            Self::Exact(left) => Some(*left),
            Self::Closed => Some(0),
            Self::Chunked(_) | Self::UntilClose => None,
        }
    }

    /// Whether its end is the connection's, for whatever reason that ends.
    pub(in crate::proxy) fn ends_by_close(&self) -> bool {
        matches!(self, Self::UntilClose | Self::Closed)
    }

    /// The fields behind the body, once, if there are any.
    pub(in crate::proxy) fn take_trailers(&mut self) -> Option<Fields> {
        match self {
            Self::Chunked(chunked) if chunked.is_done() => chunked.take_trailers(),
            _ => None,
        }
    }
}
