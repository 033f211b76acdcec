//! What gRPC adds to HTTP: a status behind the body, or in the head where there is no body, and a deadline for the whole call.

use std::{fmt::Write as _, time::Duration};

use bytes::Bytes;
use gateway_proto::time::parse_grpc;
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::{
    proxy::{
        body::response_body::Answer,
        h1::number,
        head::{ResponseHead, field_name::Name, fields::Fields},
    },
    routing::Tick,
};

/// The statuses that the gateway itself gives, by their numbers in gRPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) enum Code {
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    Unauthenticated = 16,
}

impl Code {
    /// What stands for an error of the gateway that HTTP callers are told by `status`: the table that the documentation
    /// shows.
    pub(in crate::proxy) fn of(status: StatusCode) -> Self {
        match status.as_u16() {
            400 | 415 => Self::InvalidArgument,
            401 => Self::Unauthenticated,
            403 => Self::PermissionDenied,
            404 | 405 | 501 | 505 => Self::Unimplemented,
            408 | 504 => Self::DeadlineExceeded,
            413 | 414 | 429 | 431 => Self::ResourceExhausted,
            500 => Self::Internal,
            502 | 503 => Self::Unavailable,
            _ => Self::Unknown,
        }
    }
}

/// Whether a message is one of gRPC: not of gRPC-Web, which has its status elsewhere.
pub(in crate::proxy) fn is_grpc(fields: &Fields) -> bool {
    let rest = fields.get(Name::ContentType).and_then(|value| value.strip_prefix(b"application/grpc"));
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}

/// Makes an answer of the gateway's own, whose head stands for an error in HTTP, one that gRPC callers understand: a head
/// without a body, with the status and what to say of it. What else the head says stays.
pub(in crate::proxy) fn trailers_only<B: From<Bytes>>(
    code: Code,
    detail: &str,
    answer: Answer<B>,
) -> Answer<B> {
    let mut fields = answer.head.fields;
    fields.set(Name::ContentType, b"application/grpc");
    fields.set(Name::GrpcStatus, (code as u8).to_string().as_bytes());
    fields.set(Name::GrpcMessage, percent_encoded(detail).as_bytes());
    Answer { head: ResponseHead::new(StatusCode::OK, fields), body: Bytes::new().into(), ..answer }
}

/// What ends a response that has begun when its call's time is over.
pub(in crate::proxy) fn overdue() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    trailers.insert("grpc-status", HeaderValue::from_static("4"));
    trailers.insert("grpc-message", HeaderValue::from_static("the call's time ran out at the gateway"));
    trailers
}

/// What ends one that the replica, or its drain, has broken off.
pub(in crate::proxy) fn broken_off(why: &str) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    trailers.insert("grpc-status", HeaderValue::from_static("14"));
    if let Ok(why) = HeaderValue::from_str(&percent_encoded(why)) {
        trailers.insert("grpc-message", why);
    }
    trailers
}

/// The number of a `grpc-status`; `None` for what is none.
pub(in crate::proxy) fn status(value: &[u8]) -> Option<u8> {
    number(value)?.try_into().ok()
}

/// What a client gives a call: `grpc-timeout`, one to eight digits and a unit. `None` without one.
///
/// # Errors
/// When it is something else.
pub(in crate::proxy) fn timeout(fields: &Fields) -> Result<Option<Duration>, &'static str> {
    let Some(value) = fields.get(Name::GrpcTimeout) else { return Ok(None) };
    parse_grpc(value)
        .map(Some)
        .ok_or("the request's grpc-timeout is not one to eight digits and one of H, M, S, m, u and n")
}

/// Until when a call may take, if its client says.
pub(in crate::proxy) fn deadline(began: Tick, timeout: Option<Duration>) -> Option<Tick> {
    timeout.map(|timeout| began.plus(timeout))
}

/// As `grpc-message` has texts: what is not printable ASCII, and `%`, as the bytes of its UTF-8.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(byte.into()),
            _ => {
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::head::hints::timeout_text;

    fn of(name: Name, value: &str) -> Fields {
        let mut fields = Fields::default();
        fields.append(name, value.as_bytes());
        fields
    }

    #[test]
    fn grpc_is_known_by_its_media_type_and_web_is_another() {
        for (value, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=utf-8", true),
            ("application/grpc-web+proto", false),
            ("application/grpcx", false),
            ("application/json", false),
        ] {
            assert_eq!(is_grpc(&of(Name::ContentType, value)), expected, "{value}");
        }
        assert!(!is_grpc(&Fields::default()));
    }

    #[test]
    fn a_timeout_has_one_to_eight_digits_and_a_unit() {
        let read = |value: &str| timeout(&of(Name::GrpcTimeout, value));
        assert_eq!(timeout(&Fields::default()), Ok(None));
        for (value, expected) in [
            ("1H", Duration::from_secs(3600)),
            ("2M", Duration::from_secs(120)),
            ("10S", Duration::from_secs(10)),
            ("00000250m", Duration::from_millis(250)),
            ("250m", Duration::from_millis(250)),
            ("5u", Duration::from_micros(5)),
            ("99999999n", Duration::from_nanos(99_999_999)),
        ] {
            assert_eq!(read(value), Ok(Some(expected)), "{value}");
        }
        for value in ["", "S", "10", "1s", "-1S", "+1S", "1.5S", "123456789S", "1 S", "1SS"] {
            assert!(read(value).is_err(), "{value}");
        }
    }

    #[test]
    fn what_is_left_is_written_with_eight_digits_at_most_and_never_as_more() {
        for (left, text) in [
            (Duration::ZERO, "1u"),
            (Duration::from_nanos(1_999), "1u"),
            (Duration::from_millis(250), "250000u"),
            (Duration::from_secs(99), "99000000u"),
            (Duration::from_secs(100), "100000m"),
            (Duration::from_secs(100_000), "100000S"),
            (Duration::from_secs(100_000_000), "27777H"),
            (Duration::MAX, "99999999H"),
        ] {
            assert_eq!(timeout_text(left), text);
            let back = parse_grpc(text.as_bytes()).unwrap();
            assert!(back <= left.max(Duration::from_micros(1)), "{text}");
        }
    }

    #[test]
    fn a_message_is_one_line_of_printable_ascii() {
        assert_eq!(percent_encoded("50 % of größe\n"), "50 %25 of gr%C3%B6%C3%9Fe%0A");
    }

    #[test]
    fn a_status_is_a_number() {
        assert_eq!(status(b"14"), Some(14));
        assert!([&b""[..], b"x", b"-1", b"256"].iter().all(|value| status(value).is_none()));
    }
}
