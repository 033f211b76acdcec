//! The head of a request, as a client sends it.

use gateway_proto::token::is_token_byte;
use http::{Method, Version};

use super::{
    framing::{self, Length},
    limits::{HeadLimits, MAX_METHOD},
    refusal::{Defect, Refusal},
    scan,
    target::{self, is_host},
};
use crate::proxy::head::{
    RequestHead,
    field_name::Name,
    fields::{Fields, Span},
    headers::expects_continue,
};

/// A request's head and what it says of the bytes that follow it.
#[derive(Debug, Clone)]
pub(in crate::proxy) struct Request {
    pub(in crate::proxy) head: RequestHead,
    pub(in crate::proxy) length: Length,
    /// Whether the client means to send another one.
    pub(in crate::proxy) is_kept_alive: bool,
    /// Whether the client holds the body back until it is told to go on.
    pub(in crate::proxy) expects_continue: bool,
}

/// Reads the head that `bytes` begin with, and where it ends.
///
/// # Errors
/// Whatever the request could be taken for by others, it is refused if it is not exactly one thing here. So is one that is not all
/// there: [`scan::HeadScan`] knows.
pub(super) fn parse(bytes: &[u8], limits: &HeadLimits) -> Result<(Request, usize), Refusal> {
    let (line, start) = scan::first_line(bytes)?;
    let (method, target, version) = start_line(line)?;
    let target_start = method.as_str().len() + 1;
    if target.len() > limits.target {
        return Err(Refusal::TargetTooLong);
    }
    let parsed = target::parse(&method, target)?;
    let (mut fields, end) = scan::fields(bytes, start, limits)?;
    let length = framing::of_request(version, &fields)?;
    let host = host(version, &fields)?;
    let span =
        |range: std::ops::Range<usize>| Span::new(target_start + range.start..target_start + range.end);
    let authority = parsed.authority.map(span);
    let path = span(parsed.path);
    let target = match (parsed.replaced_by, parsed.lacks_slash) {
        (Some(path), _) => fields.store(path.as_bytes()),
        (None, true) => fields.store_copy(b"/", path),
        (None, false) => path,
    };
    let expects_continue = version >= Version::HTTP_11
        && !matches!(length, Length::Empty | Length::Exact(0))
        && expects_continue(&fields);
    let request = Request {
        length,
        is_kept_alive: method != Method::CONNECT && framing::is_kept_alive(version, &fields),
        expects_continue,
        head: RequestHead::new(method, version, target, authority.or(host), fields),
    };
    Ok((request, end))
}

fn start_line(line: &[u8]) -> Result<(Method, &[u8], Version), Refusal> {
    let mut parts = line.split(|&byte| byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Defect::StartLine.into());
    };
    if method.is_empty() || method.len() > MAX_METHOD || !method.iter().all(|&byte| is_token_byte(byte)) {
        return Err(Defect::Method.into());
    }
    let method = Method::from_bytes(method).map_err(|_| Defect::Method)?;
    match self::version(version) {
        Ok(version) => Ok((method, target, version)),
        Err(_) if !names_http(version) && target::parse(&method, target).is_err() => {
            Err(Refusal::OtherProtocol)
        }
        Err(refusal) => Err(refusal),
    }
}

/// Whether this is meant for a version of HTTP, however it is written.
fn names_http(version: &[u8]) -> bool {
    version.get(..4).is_some_and(|name| name.eq_ignore_ascii_case(b"HTTP"))
}

/// `HTTP/1.1` and `HTTP/1.0`; others are known as such.
pub(super) fn version(text: &[u8]) -> Result<Version, Refusal> {
    match text {
        b"HTTP/1.1" => Ok(Version::HTTP_11),
        b"HTTP/1.0" => Ok(Version::HTTP_10),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Err(Refusal::UnknownVersion)
        }
        _ => Err(Defect::Version.into()),
    }
}

/// The Host field (RFC 9112 section 3.2): exactly one, valid, in HTTP/1.1; also when the target names another.
fn host(version: Version, fields: &Fields) -> Result<Option<Span>, Defect> {
    let mut hosts = fields.get_all(Name::Host);
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Defect::SeveralHosts);
    }
    match host {
        None if version >= Version::HTTP_11 => Err(Defect::NoHost),
        Some(host) if !is_host(host) => Err(Defect::InvalidHost),
        _ => Ok(fields.span(Name::Host)),
    }
}
