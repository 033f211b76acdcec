//! Why requests and connections were refused, and how often: docs/refusals.md has a row for each reason.

use crate::counts::{Count, PerWorker};

macro_rules! reasons {
    ($($variant:ident $text:literal,)+) => {
        /// Why the gateway did not have a request answered by a replica, or ended a connection.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[expect(missing_docs, reason = "docs/refusals.md has a row for each")]
        pub enum Reason { $($variant,)+ }

        impl Reason {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// Its name in problems, metrics and documents.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}

reasons! {
    // What is told in an answer.
    NoRoute "no_route",
    UnknownService "unknown_service",
    NoSnapshot "no_snapshot",
    NoReadyReplica "no_ready_replica",
    BreakerForcedOpen "breaker_forced_open",
    BreakerOpen "breaker_open",
    Overloaded "overloaded",
    QueueTimeout "queue_timeout",
    GatewayExhausted "gateway_exhausted",
    DrainDeadline "drain_deadline",
    RateLimited "rate_limited",
    FaultInjected "fault_injected",
    DeadlineExceeded "deadline_exceeded",
    RequestTimeout "request_timeout",
    BodyTooSlow "body_too_slow",
    BadRequest "bad_request",
    HeadTooLarge "head_too_large",
    TargetTooLong "target_too_long",
    UnknownCoding "unknown_coding",
    UnknownVersion "unknown_version",
    MethodNotAllowed "method_not_allowed",
    UnsupportedMediaType "unsupported_media_type",
    InvalidJson "invalid_json",
    BodyTooLarge "body_too_large",
    ProtocolRefused "protocol_refused",
    NotSwitched "not_switched",
    CannotSwitch "cannot_switch",
    TunnelRefused "tunnel_refused",
    TraceRefused "trace_refused",
    Loop "loop",
    InternalError "internal_error",
    ConnectRefused "connect_refused",
    ConnectTimeout "connect_timeout",
    ConnectFailed "connect_failed",
    CertificateRefused "certificate_refused",
    TlsFailed "tls_failed",
    RequestDeclined "request_declined",
    StreamsExhausted "streams_exhausted",
    ResponseTimeout "response_timeout",
    MalformedResponse "malformed_response",
    ConnectionTerminated "connection_terminated",
    // What ends a connection, or a stream of one, without an answer.
    TooManyConnections "too_many_connections",
    BeginTimeout "begin_timeout",
    ProxyHeaderUnlisted "proxy_header_unlisted",
    ProxyHeaderMissing "proxy_header_missing",
    ProxyHeaderMalformed "proxy_header_malformed",
    ProxyHeaderTimeout "proxy_header_timeout",
    TlsHandshake "tls_handshake",
    Unread "unread",
    SlowReader "slow_reader",
    TooManyResets "too_many_resets",
    TooManyControlFrames "too_many_control_frames",
    Http2Violation "http2_violation",
}

/// How often each of them happened. They are all there from the start.
#[derive(Debug)]
pub struct Refusals(PerWorker<Counts>);

#[derive(Debug)]
struct Counts([Count; Reason::ALL.len()]);

impl Default for Counts {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Count::default()))
    }
}

impl Refusals {
    pub(crate) fn new(workers: usize) -> Self {
        Self(PerWorker::new(workers))
    }

    /// Counts one: to be called by `worker` only.
    pub(in crate::proxy) fn count(&self, worker: usize, reason: Reason) {
        self.0.of(worker).0[reason as usize].add_one();
    }

    /// All reasons with their counts.
    pub fn read(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Reason::ALL.iter().map(|reason| {
            let count = self.0.sum(|counts| counts.0[*reason as usize].get());
            (reason.as_str(), count)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cells of the rows of the document.
    fn documented() -> Vec<Vec<String>> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/refusals.md");
        let document = std::fs::read_to_string(path).unwrap();
        let rows = document.lines().filter(|line| line.starts_with("| `"));
        rows.map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect())
            .collect()
    }

    #[test]
    fn the_document_has_a_row_for_each_reason_and_no_other() {
        let rows = documented();
        let documented: Vec<_> = rows.iter().map(|row| row[0].trim_matches('`')).collect();
        let reasons: Vec<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(documented, reasons);
        for row in rows {
            assert!(row.len() == 3 && row.iter().all(|cell| !cell.is_empty()), "{row:?}");
        }
    }

    #[test]
    fn each_is_there_from_the_start_and_those_of_all_workers_add_up() {
        let refusals = Refusals::new(2);
        assert_eq!(refusals.read().map(|(_, count)| count).max(), Some(0));
        refusals.count(0, Reason::Loop);
        refusals.count(1, Reason::Loop);
        let counted: Vec<_> = refusals.read().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [("loop", 2)]);
        assert_eq!(refusals.read().count(), Reason::ALL.len());
    }
}
