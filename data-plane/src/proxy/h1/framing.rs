//! Where a body ends (RFC 9112 section 6.3), and whether the connection outlives it.

use http::{Method, StatusCode, Version};

use super::refusal::{Defect, Refusal};
use crate::proxy::head::{
    field_name::{Name, Names},
    fields::Fields,
};

/// How the end of a body is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) enum Length {
    /// There is no body.
    Empty,
    /// So many bytes, perhaps none.
    Exact(u64),
    Chunked,
    /// By the end of the connection. Never of a request.
    UntilClose,
}

/// What `Transfer-Encoding` says.
enum Coding {
    None,
    Chunked,
    /// Ends in chunked, behind codings that nobody here knows.
    Unknown,
}

/// How long a request's body is.
pub(super) fn of_request(version: Version, fields: &Fields) -> Result<Length, Refusal> {
    Ok(match (coding(version, fields)?, content_length(fields)?) {
        (Coding::Unknown, _) => return Err(Refusal::UnknownCoding),
        (Coding::Chunked, _) => Length::Chunked,
        (Coding::None, Some(length)) => Length::Exact(length),
        (Coding::None, None) => Length::Empty,
    })
}

/// How long the body of a response to a request by `method` is.
pub(super) fn of_response(
    method: &Method,
    status: StatusCode,
    version: Version,
    fields: &Fields,
) -> Result<Length, Refusal> {
    let coding = coding(version, fields)?;
    let length = content_length(fields)?;
    if matches!(coding, Coding::Unknown) {
        // Nobody asked for one: the gateway's requests have no TE.
        return Err(Defect::TransferEncoding.into());
    }
    let has_never_body = status.is_informational() || status == StatusCode::NO_CONTENT;
    if has_never_body && matches!(coding, Coding::Chunked) {
        return Err(Defect::CodingWithoutBody.into());
    }
    if has_never_body || status == StatusCode::NOT_MODIFIED || *method == Method::HEAD {
        return Ok(Length::Empty);
    }
    Ok(match (coding, length) {
        (Coding::None, Some(length)) => Length::Exact(length),
        (Coding::None, None) => Length::UntilClose,
        _ => Length::Chunked,
    })
}

fn coding(version: Version, fields: &Fields) -> Result<Coding, Refusal> {
    if !fields.contains(Name::TransferEncoding) {
        return Ok(Coding::None);
    }
    if version < Version::HTTP_11 {
        return Err(Defect::OldVersionWithCoding.into());
    }
    if fields.contains(Name::ContentLength) {
        return Err(Defect::LengthAndCoding.into());
    }
    // Not taken for a list without empty elements: "chunked," is not what everybody reads as chunked.
    let codings = || {
        let values = fields.get_all(Name::TransferEncoding);
        values.flat_map(|value| value.split(|&byte| byte == b',')).map(<[u8]>::trim_ascii)
    };
    let is_chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
    let is_final = codings().last().is_some_and(is_chunked);
    if !is_final
        || codings().filter(|coding| is_chunked(coding)).count() != 1
        || codings().any(<[u8]>::is_empty)
    {
        return Err(Defect::TransferEncoding.into());
    }
    Ok(if codings().count() == 1 { Coding::Chunked } else { Coding::Unknown })
}

/// The one length, if there is one. Two are refused even if they are the same: nobody sends them in good faith.
pub(super) fn content_length(fields: &Fields) -> Result<Option<u64>, Refusal> {
    let mut values = fields.get_all(Name::ContentLength);
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() || value.contains(&b',') {
        return Err(Defect::SeveralContentLengths.into());
    }
    match number(value) {
        // As a signed number, too, whoever counts it next.
        Some(length) if i64::try_from(length).is_ok() => Ok(Some(length)),
        _ => Err(Defect::ContentLength.into()),
    }
}

/// What digits, and nothing else, say.
pub(in crate::proxy) fn number(digits: &[u8]) -> Option<u64> {
    let of_digit = |byte: &u8| byte.is_ascii_digit().then(|| u64::from(byte - b'0'));
    let mut digits = digits.iter().map(of_digit);
    let first = digits.next()?;
    digits.fold(first, |number, digit| number?.checked_mul(10)?.checked_add(digit?))
}

/// Whether the sender of a message means to keep the connection (RFC 9112 section 9.3).
pub(super) fn is_kept_alive(version: Version, fields: &Fields) -> bool {
    if !fields.contains(Name::Connection) {
        return version >= Version::HTTP_11;
    }
    let has =
        |option: &[u8]| fields.list(Name::Connection).any(|element| element.eq_ignore_ascii_case(option));
    !has(b"close") && (version >= Version::HTTP_11 || has(b"keep-alive"))
}

/// Fields that tell the end of a body.
pub(in crate::proxy) const FRAMING: Names = Names::of(&[Name::ContentLength, Name::TransferEncoding]);
