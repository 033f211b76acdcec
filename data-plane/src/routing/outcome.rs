//! What an attempt's result says about the replica: the one classification that breakers and retries use.

use std::fmt;

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
    /// No connection for another reason: no route, a failed handshake.
    ConnectFailed,
    /// The connection was reset before the response was complete.
    Reset,
    /// The connection ended before the first byte of a response.
    Closed,
    /// No response head within the attempt's timeout.
    ResponseTimeout,
    /// What it sent is not HTTP.
    Malformed,
    /// The response body ended before its declared end.
    Truncated,
    /// It answered with a status that stands for its own failure.
    Status(u16),
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
            | Self::Reset
            | Self::Closed
            | Self::ResponseTimeout => Origin::Local,
            Self::Malformed | Self::Truncated | Self::Status(_) => Origin::Upstream,
        }
    }
}

impl Fault {
    /// One word for it, for machines.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConnectRefused => "connect_refused",
            Self::ConnectTimeout => "connect_timeout",
            Self::ConnectFailed => "connect_failed",
            Self::Reset => "reset",
            Self::Closed => "closed",
            Self::ResponseTimeout => "response_timeout",
            Self::Malformed => "malformed_response",
            Self::Truncated => "truncated",
            Self::Status(_) => "status",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ConnectRefused => "connect refused",
            Self::ConnectTimeout => "connect timed out",
            Self::ConnectFailed => "connect failed",
            Self::Reset => "connection reset",
            Self::Closed => "closed without a response",
            Self::ResponseTimeout => "no response in time",
            Self::Malformed => "malformed response",
            Self::Truncated => "response body cut off",
            Self::Status(status) => return write!(f, "{status} from replica"),
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
    fn every_fault_has_a_text_and_an_origin() {
        let all = [
            (Fault::ConnectRefused, "connect refused", Origin::Local),
            (Fault::ConnectTimeout, "connect timed out", Origin::Local),
            (Fault::ConnectFailed, "connect failed", Origin::Local),
            (Fault::Reset, "connection reset", Origin::Local),
            (Fault::Closed, "closed without a response", Origin::Local),
            (Fault::ResponseTimeout, "no response in time", Origin::Local),
            (Fault::Malformed, "malformed response", Origin::Upstream),
            (Fault::Truncated, "response body cut off", Origin::Upstream),
            (Fault::Status(503), "503 from replica", Origin::Upstream),
        ];
        for (fault, text, origin) in all {
            assert_eq!((fault.to_string().as_str(), fault.origin()), (text, origin));
        }
    }
}
