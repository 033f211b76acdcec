//! What an attempt's result says about the replica: the one classification that breakers and retries use.

use std::{fmt, time::Duration};

use http::StatusCode;

/// The verdict of one attempt on its replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It answered as a working replica does, whatever the client thinks of the answer.
    Success,
    /// It did not do its job.
    Failure(Fault),
    /// It works and refused for lack of capacity.
    Overloaded,
    /// The attempt says nothing about it: the client left, or the gateway gave up for its own reasons.
    Neutral,
}

/// What a replica did wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// Nobody listens at its address.
    ConnectRefused,
    /// No connection within the connect timeout.
    ConnectTimeout,
    /// No connection for another reason, such as no route.
    ConnectFailed,
    /// Its certificate is not to be believed.
    TlsCertificate(CertificateFault),
    /// TLS with it came to nothing for another reason.
    TlsProtocol(HandshakeFault),
    /// The connection was reset before the response was complete.
    Reset,
    /// The connection ended before the first byte of a response.
    Closed,
    /// No response head within the attempt's timeout.
    ResponseTimeout,
    /// No response head, and nothing of anybody else's for so long as it was waited for, which is as long as an attempt may take.
    Unanswered(Duration),
    /// What it sent is not HTTP.
    Malformed,
    /// The response body ended before its declared end.
    Truncated,
    /// It answered with a status that stands for its own failure.
    Status(u16),
    /// It answered a gRPC call with such a status.
    Grpc(u8),
}

/// What is wrong with a replica's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CertificateFault {
    /// Its time is over.
    Expired,
    /// Its time is still to come.
    NotValidYet,
    /// It is for another name.
    WrongName,
    /// Nobody signed it whom this gateway believes.
    UnknownAuthority,
    /// Who signed it has taken it back.
    Revoked,
    /// It cannot be read, or not be used for this.
    Unusable,
}

/// Why there is no TLS with a replica, its certificate aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HandshakeFault {
    /// What it sends is no TLS.
    NotTls,
    /// It knows no version, cipher or protocol that this gateway knows.
    NothingInCommon,
    /// It wants a certificate of this gateway, or another one.
    CertificateRefused,
    /// It said that something else is wrong.
    Alert,
    /// It ended the connection without a word.
    Ended,
    /// It does not do as TLS demands.
    Other,
}

impl fmt::Display for CertificateFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Expired => "certificate has expired",
            Self::NotValidYet => "certificate is not valid yet",
            Self::WrongName => "certificate is for another name",
            Self::UnknownAuthority => "certificate is signed by no known authority",
            Self::Revoked => "certificate is revoked",
            Self::Unusable => "certificate cannot be used",
        })
    }
}

impl fmt::Display for HandshakeFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotTls => "TLS failed: it speaks none",
            Self::NothingInCommon => "TLS failed: no version, cipher or protocol in common",
            Self::CertificateRefused => "TLS failed: it refused the gateway's certificate, or wants one",
            Self::Alert => "TLS failed: it sent an alert",
            Self::Ended => "TLS failed: closed in the handshake",
            Self::Other => "TLS failed: it broke the protocol",
        })
    }
}

/// Who saw a fault first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// This proxy, because no response came.
    Local,
    /// The replica, whose response itself is at fault.
    Upstream,
}

impl Fault {
    /// Whether the fault is the absence of a response or the response itself.
    ///
    /// The two are counted apart: a network that is broken for one proxy shows as local faults only there.
    pub fn origin(self) -> Origin {
        match self {
            Self::ConnectRefused
            | Self::ConnectTimeout
            | Self::ConnectFailed
            | Self::TlsCertificate(_)
            | Self::TlsProtocol(_)
            | Self::Reset
            | Self::Closed
            | Self::ResponseTimeout
            | Self::Unanswered(_) => Origin::Local,
            Self::Malformed | Self::Truncated | Self::Status(_) | Self::Grpc(_) => Origin::Upstream,
        }
    }
}

impl Fault {
    /// Whether no connection came about, so that the next one may show that the replica is back.
    pub fn is_unreached(self) -> bool {
        matches!(self, Self::ConnectRefused | Self::ConnectTimeout | Self::ConnectFailed)
    }

    /// One word for it, for machines.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConnectRefused => "connect_refused",
            Self::ConnectTimeout => "connect_timeout",
            Self::ConnectFailed => "connect_failed",
            Self::TlsCertificate(_) => "certificate_refused",
            Self::TlsProtocol(_) => "tls_failed",
            Self::Reset => "reset",
            Self::Closed => "closed",
            Self::ResponseTimeout => "response_timeout",
            Self::Unanswered(_) => "unanswered",
            Self::Malformed => "malformed_response",
            Self::Truncated => "truncated",
            Self::Status(_) => "status",
            Self::Grpc(_) => "grpc_status",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ConnectRefused => "connect refused",
            Self::ConnectTimeout => "connect timed out",
            Self::ConnectFailed => "connect failed",
            Self::TlsCertificate(fault) => return fault.fmt(f),
            Self::TlsProtocol(fault) => return fault.fmt(f),
            Self::Reset => "connection reset",
            Self::Closed => "closed without a response",
            Self::ResponseTimeout => "no response in time",
            Self::Unanswered(waited) => {
                return write!(f, "no answer to anybody in {:.1}s", waited.as_secs_f64());
            }
            Self::Malformed => "malformed response",
            Self::Truncated => "response body cut off",
            Self::Status(status) => return write!(f, "{status} from replica"),
            Self::Grpc(DEADLINE_EXCEEDED) => "gRPC DEADLINE_EXCEEDED from replica",
            Self::Grpc(INTERNAL) => "gRPC INTERNAL from replica",
            Self::Grpc(UNAVAILABLE) => "gRPC UNAVAILABLE from replica",
            Self::Grpc(DATA_LOSS) => "gRPC DATA_LOSS from replica",
            Self::Grpc(status) => return write!(f, "gRPC status {status} from replica"),
        })
    }
}

/// Judges a replica by its response head.
///
/// Failures are 500, 502, 503 and 504. Other 5xx are not: 501 and 505 blame the request, and unknown ones say
/// nothing certain. 429, and 503 with `Retry-After`, come from a replica that sheds load on purpose.
pub fn judge(status: StatusCode, has_retry_after: bool) -> Outcome {
    match status.as_u16() {
        429 => Outcome::Overloaded,
        503 if has_retry_after => Outcome::Overloaded,
        failed @ (500 | 502 | 503 | 504) => Outcome::Failure(Fault::Status(failed)),
        _ => Outcome::Success,
    }
}

/// Statuses of gRPC that say something of the replica.
const DEADLINE_EXCEEDED: u8 = 4;
const RESOURCE_EXHAUSTED: u8 = 8;
const INTERNAL: u8 = 13;
/// The status that is like a 503.
pub const UNAVAILABLE: u8 = 14;
const DATA_LOSS: u8 = 15;

/// Judges a replica by the status of a gRPC call, behind its response or in a head without a body.
///
/// Failures are DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE and DATA_LOSS. All others are what a working replica says to a
/// caller, PERMISSION_DENIED and UNKNOWN among them; RESOURCE_EXHAUSTED is like a 429. A replica that says that the call's
/// time is over when that `is_overdue` says nothing of itself: how much time there was is the caller's choice.
pub fn judge_grpc(status: u8, is_overdue: bool) -> Outcome {
    match status {
        RESOURCE_EXHAUSTED => Outcome::Overloaded,
        DEADLINE_EXCEEDED if is_overdue => Outcome::Neutral,
        DEADLINE_EXCEEDED | INTERNAL | UNAVAILABLE | DATA_LOSS => Outcome::Failure(Fault::Grpc(status)),
        _ => Outcome::Success,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_statuses_of_a_failing_server_are_failures() {
        let failures: Vec<u16> = (100..=999)
            .filter(|&number| {
                let status = StatusCode::from_u16(number).expect("three digits");
                judge(status, false) == Outcome::Failure(Fault::Status(number))
            })
            .collect();
        assert_eq!(failures, [500, 502, 503, 504]);
        for status in [StatusCode::OK, StatusCode::NOT_FOUND, StatusCode::NOT_IMPLEMENTED] {
            assert_eq!(judge(status, true), Outcome::Success, "{status}");
        }
    }

    #[test]
    fn a_replica_that_says_when_to_come_back_is_overloaded_not_broken() {
        assert_eq!(judge(StatusCode::TOO_MANY_REQUESTS, false), Outcome::Overloaded);
        assert_eq!(judge(StatusCode::SERVICE_UNAVAILABLE, true), Outcome::Overloaded);
        let failed = Outcome::Failure(Fault::Status(500));
        assert_eq!(judge(StatusCode::INTERNAL_SERVER_ERROR, true), failed);
    }

    #[test]
    fn a_grpc_status_is_a_failure_only_where_the_replica_did_not_do_its_job() {
        let of = |wanted: fn(Outcome) -> bool| {
            (0..=u8::MAX).filter(|&code| wanted(judge_grpc(code, false))).collect::<Vec<_>>()
        };
        assert_eq!(of(|outcome| matches!(outcome, Outcome::Failure(Fault::Grpc(_)))), [4, 13, 14, 15]);
        assert_eq!(of(|outcome| outcome == Outcome::Overloaded), [8]);
        assert_eq!(judge_grpc(7, false), Outcome::Success, "PERMISSION_DENIED is an answer");
    }

    #[test]
    fn a_replica_is_not_blamed_for_the_time_that_a_caller_had() {
        assert_eq!(judge_grpc(4, true), Outcome::Neutral);
        assert_eq!(judge_grpc(14, true), Outcome::Failure(Fault::Grpc(14)));
    }

    #[test]
    fn every_fault_has_a_text_and_an_origin() {
        let all = [
            (Fault::ConnectRefused, "connect refused", Origin::Local),
            (Fault::ConnectTimeout, "connect timed out", Origin::Local),
            (Fault::ConnectFailed, "connect failed", Origin::Local),
            (Fault::TlsCertificate(CertificateFault::Expired), "certificate has expired", Origin::Local),
            (Fault::TlsProtocol(HandshakeFault::NotTls), "TLS failed: it speaks none", Origin::Local),
            (Fault::Reset, "connection reset", Origin::Local),
            (Fault::Closed, "closed without a response", Origin::Local),
            (Fault::ResponseTimeout, "no response in time", Origin::Local),
            (
                Fault::Unanswered(Duration::from_millis(12_340)),
                "no answer to anybody in 12.3s",
                Origin::Local,
            ),
            (Fault::Malformed, "malformed response", Origin::Upstream),
            (Fault::Truncated, "response body cut off", Origin::Upstream),
            (Fault::Status(503), "503 from replica", Origin::Upstream),
            (Fault::Grpc(14), "gRPC UNAVAILABLE from replica", Origin::Upstream),
            (Fault::Grpc(99), "gRPC status 99 from replica", Origin::Upstream),
        ];
        for (fault, text, origin) in all {
            assert_eq!((fault.to_string().as_str(), fault.origin()), (text, origin));
        }
    }
}
