//! What travels on a connection: frames (RFC 9113 sections 4 and 6), each read by its own rules.
//!
//! What a frame means depends on those before it, which is the connection's to know. Here is what can be said of one alone: whether its length, stream,
//! flags and padding are such as its kind has, and which error it is if they are not.

mod error;
mod settings;
mod write;

use std::ops::Range;

pub use error::{ErrorCode, Violation};
pub use settings::{Setting, settings};
pub use write::{
    HeadersStart, write_data_head, write_goaway, write_ping, write_reset, write_settings, write_settings_ack,
    write_window_update,
};

/// What a client sends in front of its first frame.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Octets of a frame in front of its payload.
pub const HEAD: usize = 9;

/// The largest payload that everybody takes, and takes until its settings say otherwise.
pub const MIN_MAX_SIZE: u32 = 1 << 14;
/// The largest that settings can allow.
pub const MAX_MAX_SIZE: u32 = (1 << 24) - 1;
/// The largest that a window may be.
pub const MAX_WINDOW: u32 = (1 << 31) - 1;

/// Kinds of frames by their numbers.
pub mod kind {
    #![expect(missing_docs, reason = "they are the names that RFC 9113 gives them")]
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Flags of frames. Which of them a frame can have depends on its kind; others mean nothing.
pub mod flag {
    #![expect(missing_docs, reason = "they are the names that RFC 9113 gives them")]
    pub const END_STREAM: u8 = 1;
    pub const ACK: u8 = 1;
    pub const END_HEADERS: u8 = 4;
    pub const PADDED: u8 = 8;
    pub const PRIORITY: u8 = 0x20;
}

/// What stands in front of a frame's payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Octets of the payload.
    pub length: u32,
    /// One of [`kind`]'s, or one that nobody knows.
    pub kind: u8,
    /// Of [`flag`]'s.
    pub flags: u8,
    /// 0 for the connection.
    pub stream: u32,
}

impl Head {
    /// Reads one.
    #[inline]
    pub fn parse([a, b, c, kind, flags, stream @ ..]: [u8; HEAD]) -> Self {
        // The first bit of the stream's number is reserved.
        let stream = u32::from_be_bytes(stream) & MAX_WINDOW;
        Self { length: u32::from_be_bytes([0, a, b, c]), kind, flags, stream }
    }

    fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Whether the frame may be such, of which nothing else has come yet: nobody waits for the payload of one that is refused anyway.
    ///
    /// # Errors
    /// The rule that it breaks. Where that is its stream's affair alone, the payload is still to be passed over.
    pub fn check(self, max_size: u32) -> Result<(), Violation> {
        if self.length > max_size {
            // Told of the connection, whatever its kind: what is in it will not be read (section 4.2).
            return Err(Violation::size(None, "a frame is larger than the settings allow"));
        }
        let is_of_connection = self.stream == 0;
        match self.kind {
            kind::SETTINGS | kind::PING | kind::GOAWAY if !is_of_connection => {
                return Err(Violation::protocol(None, "a frame that is the connection's names a stream"));
            }
            kind::DATA
            | kind::HEADERS
            | kind::PRIORITY
            | kind::RST_STREAM
            | kind::PUSH_PROMISE
            | kind::CONTINUATION
                if is_of_connection =>
            {
                return Err(Violation::protocol(None, "a frame that is a stream's names none"));
            }
            _ => {}
        }
        let is_right = match self.kind {
            kind::PRIORITY => self.length == 5,
            kind::RST_STREAM | kind::WINDOW_UPDATE => self.length == 4,
            kind::SETTINGS if self.has(flag::ACK) => self.length == 0,
            kind::SETTINGS => self.length.is_multiple_of(6),
            kind::PING => self.length == 8,
            kind::GOAWAY => self.length >= 8,
            kind::HEADERS => {
                self.length >= u32::from(self.has(flag::PADDED)) + 5 * u32::from(self.has(flag::PRIORITY))
            }
            kind::DATA => self.length >= u32::from(self.has(flag::PADDED)),
            _ => true,
        };
        let of = (self.kind == kind::PRIORITY).then_some(self.stream);
        if is_right {
            Ok(())
        } else {
            Err(Violation::size(of, "a frame has a length that its kind cannot have"))
        }
    }
}

/// A frame, of the stream that its head names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A part of a body.
    Data {
        /// Which part of the payload is data. The windows count all of the payload.
        data: Range<usize>,
        /// Whether the stream ends with it.
        is_last: bool,
    },
    /// The beginning of a head or of trailers.
    Headers {
        /// The beginning of the block.
        block: &'a [u8],
        /// Whether the stream ends with the block.
        is_last: bool,
        /// Whether it is all of the block.
        is_complete: bool,
        /// Whether its stream is to wait for itself: an error of the stream, whose block has to be read all the same.
        depends_on_itself: bool,
    },
    /// Something of an order among streams, which has no meaning any more (RFC 9113 section 5.3.2).
    Priority,
    /// The end of a stream.
    Reset {
        /// Why.
        code: ErrorCode,
    },
    /// What the other side takes: to be read by [`settings`].
    Settings(&'a [u8]),
    /// It keeps to the settings that it was sent.
    SettingsAck,
    /// A response that nobody asked for.
    PushPromise,
    /// A sign of life.
    Ping {
        /// Whether it answers one.
        is_ack: bool,
        /// What the answer has to repeat.
        payload: [u8; 8],
    },
    /// The end of the connection.
    GoAway {
        /// Streams of higher numbers were not looked at, and will not be.
        last_stream: u32,
        /// Why.
        code: ErrorCode,
        /// Why, for people.
        debug: &'a [u8],
    },
    /// How much more may be sent, on the stream or the connection.
    WindowUpdate {
        /// By so much; not zero.
        increment: u32,
    },
    /// More of a block.
    Continuation {
        /// The next part of it.
        block: &'a [u8],
        /// Whether it is the last one.
        is_complete: bool,
    },
    /// Of a kind that nobody knows: to be passed over.
    Unknown,
}

/// Reads a frame whose payload is all there. Its size has been looked at by [`Head::check`] before.
///
/// # Errors
/// The rule that it breaks.
///
/// # Panics
/// When the payload is not as long as its head says.
pub fn parse(head: Head, payload: &[u8]) -> Result<Frame<'_>, Violation> {
    assert_eq!(head.length as usize, payload.len(), "a frame is read once it is all there");
    head.check(u32::MAX)?;
    // How long each of these is was checked.
    let word =
        |at: usize| payload.get(at..).and_then(<[u8]>::first_chunk).copied().map_or(0, u32::from_be_bytes);
    Ok(match head.kind {
        kind::DATA => Frame::Data { data: unpadded(head, payload, 0)?, is_last: head.has(flag::END_STREAM) },
        kind::HEADERS => {
            let priority = if head.has(flag::PRIORITY) { 5 } else { 0 };
            let block = unpadded(head, payload, priority)?;
            Frame::Headers {
                depends_on_itself: priority > 0 && word(block.start - priority) & MAX_WINDOW == head.stream,
                block: &payload[block],
                is_last: head.has(flag::END_STREAM),
                is_complete: head.has(flag::END_HEADERS),
            }
        }
        kind::PRIORITY if word(0) & MAX_WINDOW == head.stream => {
            return Err(Violation::protocol(Some(head.stream), "a stream is to wait for itself"));
        }
        kind::PRIORITY => Frame::Priority,
        kind::RST_STREAM => Frame::Reset { code: ErrorCode(word(0)) },
        kind::SETTINGS if head.has(flag::ACK) => Frame::SettingsAck,
        kind::SETTINGS => Frame::Settings(payload),
        kind::PUSH_PROMISE => Frame::PushPromise,
        kind::PING => Frame::Ping {
            is_ack: head.has(flag::ACK),
            payload: payload.first_chunk().copied().unwrap_or_default(),
        },
        kind::GOAWAY => Frame::GoAway {
            last_stream: word(0) & MAX_WINDOW,
            code: ErrorCode(word(4)),
            debug: &payload[8..],
        },
        kind::WINDOW_UPDATE => match word(0) & MAX_WINDOW {
            0 => {
                let of = (head.stream != 0).then_some(head.stream);
                return Err(Violation::protocol(of, "a window is to grow by nothing"));
            }
            increment => Frame::WindowUpdate { increment },
        },
        kind::CONTINUATION => {
            Frame::Continuation { block: payload, is_complete: head.has(flag::END_HEADERS) }
        }
        _ => Frame::Unknown,
    })
}

/// The part of a payload behind the length of its padding and `skipped` octets more, and in front of the padding.
fn unpadded(head: Head, payload: &[u8], skipped: usize) -> Result<Range<usize>, Violation> {
    if !head.has(flag::PADDED) {
        return Ok(skipped..payload.len());
    }
    let padding = payload.first().copied().map_or(0, usize::from);
    let start = 1 + skipped;
    match payload.len().checked_sub(padding) {
        Some(end) if end >= start => Ok(start..end),
        _ => Err(Violation::protocol(None, "a frame has more padding than payload")),
    }
}

#[cfg(test)]
mod tests;
