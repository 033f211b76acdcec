//! The head of a response, as a replica sends it.

use http::{Method, StatusCode, Version};

use super::{
    framing::{self, Length},
    limits::HeadLimits,
    refusal::{Defect, Refusal},
    request::version,
    scan,
};
use crate::proxy::{
    head::{
        ResponseHead,
        field_name::{Name, Names},
        fields::{Fields, Span, is_value},
    },
    tunnel::upgrade::is_named_by_connection,
};

/// A response's head and what it says of the bytes that follow it.
#[derive(Debug, Clone)]
pub(in crate::proxy) struct Response {
    pub(in crate::proxy) head: ResponseHead,
    pub(in crate::proxy) length: Length,
    /// Whether the replica takes another request behind this one.
    pub(in crate::proxy) is_kept_alive: bool,
}

/// Reads the head that `bytes` begin with, and where it ends: of the response, or of an interim one (1xx), to a request by `method`
/// that has `asked` to switch to one of these protocols, if it has.
///
/// # Errors
/// The replica's answer is malformed, or not all there: [`scan::HeadScan`] knows.
pub(super) fn parse(
    method: &Method,
    asked: Option<&[u8]>,
    bytes: &[u8],
    limits: &HeadLimits,
) -> Result<(Response, usize), Refusal> {
    let (line, start) = scan::first_line(bytes)?;
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
    let is_switch = status == StatusCode::SWITCHING_PROTOCOLS;
    if is_switch && asked.is_none() {
        // What would follow on this connection is not HTTP.
        return Err(Defect::UnaskedProtocol.into());
    }
    let (mut fields, end) = scan::fields(bytes, start, limits)?;
    let length = framing::of_response(method, status, version, &fields)?;
    if let Some(asked) = asked.filter(|_| is_switch) {
        check_switch(asked, version, &fields)?;
        fields.remove(Names::of(&[Name::ContentLength]));
    }
    let is_kept_alive = length != Length::UntilClose && framing::is_kept_alive(version, &fields);
    let reason = Span::new(line.len() - reason.len()..line.len());
    let head = ResponseHead::with_reason(status, reason, fields);
    Ok((Response { length, is_kept_alive, head }, end))
}

/// Refuses a switch to anything but one of the protocols that were `asked` for, and one that could be read as a response with
/// a body.
fn check_switch(asked: &[u8], version: Version, fields: &Fields) -> Result<(), Refusal> {
    let mut protocols = fields.list(Name::Upgrade);
    let (Some(protocol), None) = (protocols.next(), protocols.next()) else {
        return Err(Defect::SwitchWithoutUpgrade.into());
    };
    if version < Version::HTTP_11 || !is_named_by_connection(fields) {
        return Err(Defect::SwitchWithoutUpgrade.into());
    }
    let mut asked = asked.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
    if !asked.any(|asked| asked.eq_ignore_ascii_case(protocol)) {
        return Err(Defect::UnaskedProtocol.into());
    }
    match framing::content_length(fields)? {
        // Some servers say so, and mean nothing by it.
        None | Some(0) => Ok(()),
        Some(_) => Err(Defect::SwitchWithBody.into()),
    }
}
