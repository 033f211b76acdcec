//! Heads and chunks as they are written.

use http::{Method, StatusCode, Version};

use super::framing::{FRAMING, Length};
use crate::proxy::head::{
    RequestHead, ResponseHead,
    field_name::{Name, Names},
    fields::Fields,
    hints::AttemptHints,
};

/// How the end of a response's body is told to a client that speaks `version` and has asked by `method`. `exact` is the
/// body's length where it is known.
pub(in crate::proxy) fn length_for(
    version: Version,
    method: &Method,
    status: StatusCode,
    exact: Option<u64>,
) -> Length {
    let has_no_body = status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        || *method == Method::HEAD;
    match exact {
        _ if has_no_body => Length::Empty,
        Some(length) => Length::Exact(length),
        None if version >= Version::HTTP_11 => Length::Chunked,
        None => Length::UntilClose,
    }
}

/// Has the fields of a head tell the end of the body.
pub(in crate::proxy) fn frame(fields: &mut Fields, length: Length) {
    match length {
        // What the body would have been is told in answer to HEAD, and with 304.
        Length::Empty => fields.remove(Names::of(&[Name::TransferEncoding])),
        Length::Exact(length) => {
            fields.remove(Names::of(&[Name::TransferEncoding]));
            if !fields.contains(Name::ContentLength) {
                let mut digits = [0; 20];
                fields.append(Name::ContentLength, decimal(length, &mut digits));
            }
        }
        Length::Chunked => {
            fields.remove(FRAMING);
            fields.append(Name::TransferEncoding, b"chunked");
        }
        Length::UntilClose => fields.remove(FRAMING),
    }
}

/// Writes a request's head, framed before, in HTTP/1.1, and what is told of the attempt behind its fields.
pub(in crate::proxy) fn request_head(out: &mut Vec<u8>, head: &RequestHead, hints: Option<AttemptHints>) {
    out.extend_from_slice(head.method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(head.target_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    head.fields.write_to(out);
    if let Some(hints) = hints {
        hints.write_to(out);
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes a response's head, framed before, in HTTP/1.1, which servers say to older clients, too.
pub(in crate::proxy) fn response_head(out: &mut Vec<u8>, head: &ResponseHead) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(head.status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(head.reason());
    out.extend_from_slice(b"\r\n");
    head.fields.write_to(out);
    out.extend_from_slice(b"\r\n");
}

/// Behind the data of each chunk.
pub(in crate::proxy) const CHUNK_END: &[u8] = b"\r\n";

/// Writes the line in front of a chunk's data, of which there is some.
pub(in crate::proxy) fn chunk_size(out: &mut Vec<u8>, length: usize) {
    debug_assert!(length > 0, "a chunk of no bytes is the last one");
    let digits = (usize::BITS - length.leading_zeros()).div_ceil(4);
    for place in (0..digits).rev() {
        out.push(b"0123456789abcdef"[length >> (4 * place) & 15]);
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes the end of a chunked body.
pub(in crate::proxy) fn last_chunk(out: &mut Vec<u8>, trailers: Option<&Fields>) {
    out.extend_from_slice(b"0\r\n");
    if let Some(trailers) = trailers {
        trailers.write_to(out);
    }
    out.extend_from_slice(b"\r\n");
}

/// A number as text, in `digits`.
pub(in crate::proxy) fn decimal(mut number: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}
