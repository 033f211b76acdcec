//! Frames as they are written.

use super::{ErrorCode, HEAD, Setting, flag, kind};

fn write_head(out: &mut Vec<u8>, length: usize, kind: u8, flags: u8, stream: u32) {
    out.extend_from_slice(&head(length, kind, flags, stream));
}

#[inline]
fn head(length: usize, kind: u8, flags: u8, stream: u32) -> [u8; HEAD] {
    debug_assert!(length < 1 << 24, "no frame is as long");
    let [_, a, b, c] = (length as u32).to_be_bytes();
    let [d, e, f, g] = stream.to_be_bytes();
    [a, b, c, kind, flags, d, e, f, g]
}

/// Writes the head of a frame of data, behind which so much of it has to come.
#[inline]
pub fn write_data_head(out: &mut Vec<u8>, stream: u32, length: usize, is_last: bool) {
    write_head(out, length, kind::DATA, if is_last { flag::END_STREAM } else { 0 }, stream);
}

/// A header block that is being written.
#[derive(Debug)]
#[must_use = "the frame around the block is written when it is finished"]
pub struct HeadersStart(usize);

impl HeadersStart {
    /// Leaves room for the head of the frame; behind it, the block is to be written into `out`.
    #[inline]
    pub fn begin(out: &mut Vec<u8>) -> Self {
        let start = out.len();
        out.extend_from_slice(&[0; HEAD]);
        Self(start)
    }

    /// The block is all there: puts frames around it, none of which has a larger payload than `max_size`.
    pub fn finish(self, out: &mut Vec<u8>, stream: u32, is_last: bool, max_size: u32) {
        let (start, max) = (self.0, max_size as usize);
        let length = out.len() - start - HEAD;
        let flags = if is_last { flag::END_STREAM } else { 0 };
        if length <= max {
            return out[start..start + HEAD].copy_from_slice(&head(
                length,
                kind::HEADERS,
                flags | flag::END_HEADERS,
                stream,
            ));
        }
        let block = out.split_off(start + HEAD);
        out.truncate(start);
        let mut parts = block.chunks(max).peekable();
        let (mut kind, mut flags) = (kind::HEADERS, flags);
        while let Some(part) = parts.next() {
            let end = if parts.peek().is_none() { flag::END_HEADERS } else { 0 };
            write_head(out, part.len(), kind, flags | end, stream);
            out.extend_from_slice(part);
            (kind, flags) = (kind::CONTINUATION, 0);
        }
    }
}

/// Writes what this side takes.
pub fn write_settings(out: &mut Vec<u8>, settings: &[Setting]) {
    write_head(out, 6 * settings.len(), kind::SETTINGS, 0, 0);
    for setting in settings {
        let (number, value) = setting.raw();
        out.extend_from_slice(&number.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
}

/// Writes that this side keeps to the settings of the other.
pub fn write_settings_ack(out: &mut Vec<u8>) {
    write_head(out, 0, kind::SETTINGS, flag::ACK, 0);
}

/// Writes a sign of life, or the answer to one.
pub fn write_ping(out: &mut Vec<u8>, payload: [u8; 8], is_ack: bool) {
    write_head(out, payload.len(), kind::PING, if is_ack { flag::ACK } else { 0 }, 0);
    out.extend_from_slice(&payload);
}

/// Writes that the connection ends, and that streams with higher numbers than `last_stream` were not looked at.
pub fn write_goaway(out: &mut Vec<u8>, last_stream: u32, code: ErrorCode, debug: &str) {
    write_head(out, 8 + debug.len(), kind::GOAWAY, 0, 0);
    out.extend_from_slice(&last_stream.to_be_bytes());
    out.extend_from_slice(&code.0.to_be_bytes());
    out.extend_from_slice(debug.as_bytes());
}

/// Writes that a stream ends here.
pub fn write_reset(out: &mut Vec<u8>, stream: u32, code: ErrorCode) {
    write_head(out, 4, kind::RST_STREAM, 0, stream);
    out.extend_from_slice(&code.0.to_be_bytes());
}

/// Writes how much more may be sent, on a stream or, as 0, on the connection.
pub fn write_window_update(out: &mut Vec<u8>, stream: u32, increment: u32) {
    debug_assert!(increment > 0, "a window grows by something");
    write_head(out, 4, kind::WINDOW_UPDATE, 0, stream);
    out.extend_from_slice(&increment.to_be_bytes());
}
