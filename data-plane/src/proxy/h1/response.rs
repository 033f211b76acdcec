//! The head of a response, as a replica sends it.

use http::{Method, StatusCode};

use super::{
    framing::{self, Length},
    limits::HeadLimits,
    refusal::{Defect, Refusal},
    request::version,
    scan,
};
use crate::proxy::{
    fields::{Span, is_value},
    head::ResponseHead,
};

/// A response's head and what it says of the bytes that follow it.
#[derive(Debug, Clone)]
pub(in crate::proxy) struct Response {
    pub(in crate::proxy) head: ResponseHead,
    pub(in crate::proxy) length: Length,
    /// Whether the replica takes another request behind this one.
    pub(in crate::proxy) is_kept_alive: bool,
}

/// Reads a head that [`scan::HeadScan`] has found, all of it: of the response, or of an interim one (1xx), to a request
/// by `method`.
///
/// # Errors
/// The replica's answer is malformed.
pub(in crate::proxy) fn parse(
    method: &Method,
    head: &[u8],
    limits: &HeadLimits,
) -> Result<Response, Refusal> {
    let (line, end) = scan::first_line(head);
    let (version_text, rest) = line.split_at_checked("HTTP/1.1".len()).ok_or(Defect::StartLine)?;
    let version = version(version_text)?;
    let [b' ', digits @ ..] = rest else { return Err(Defect::StartLine.into()) };
    let (digits, reason) = digits.split_at_checked(3).ok_or(Defect::Status)?;
    let is_number = digits.iter().all(u8::is_ascii_digit);
    let status = StatusCode::from_bytes(digits).ok().filter(|_| is_number).ok_or(Defect::Status)?;
    // Some servers leave out the space with the reason.
    let reason = match reason {
        [] => reason,
        [b' ', reason @ ..] if is_value(reason) => reason,
        _ => return Err(Defect::Status.into()),
    };
    if status == StatusCode::SWITCHING_PROTOCOLS {
        // What would follow on this connection is not HTTP.
        return Err(Defect::UnaskedProtocol.into());
    }
    let fields = scan::fields(head, end, limits)?;
    let length = framing::of_response(method, status, version, &fields)?;
    let is_kept_alive = length != Length::UntilClose && framing::is_kept_alive(version, &fields);
    let reason = Span::new(line.len() - reason.len()..line.len());
    Ok(Response { length, is_kept_alive, head: ResponseHead::with_reason(status, reason, fields) })
}
