//! Answers that the gateway gives itself.
//!
//! All of them are problem+json (RFC 9457) with a `Proxy-Status` (RFC 9209) whose `error` says that the gateway made
//! the answer: where it is absent, a replica did. 503 always means that nobody can be asked now; it and 429 alone carry
//! `Retry-After`.

pub(super) mod refusals;

use std::time::Duration;

use bytes::Bytes;
use gateway_proto::{
    policy::{Methods, RateKey},
    size,
};
use http::{StatusCode, Version};

use self::refusals::Reason;
use super::{
    body::response_body::Answer,
    forward::{grpc, pushback},
    h1::{HeadLimits, Refusal},
    head::{
        RequestHead, ResponseHead, field_name::Name, fields::Fields, headers::Via, request_id::RequestId,
    },
};
use crate::{
    request_rules::{Breach, NotJson},
    routing::{CertificateFault, Fault, retry::Stop},
    table::{RateLimited, Refused},
};

/// How long a client should wait for a gateway that is looking for its control plane.
const NO_SNAPSHOT_RETRY: Duration = Duration::from_secs(1);

/// How long a client should wait for a service without a single replica to ask: nobody knows when one comes.
const NONE_READY_RETRY: Duration = Duration::from_secs(5);
/// Places become free all the time, and whoever comes back at once makes it worse.
const OVERLOADED_RETRY: Duration = Duration::from_secs(1);
/// File descriptors, and room on shared connections, come back with whatever ends.
const EXHAUSTED_RETRY: Duration = Duration::from_secs(1);

/// Why a request was not answered by a replica.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum GatewayError {
    /// Neither host nor path name a service.
    NoRoute,
    /// They name one that is not registered.
    UnknownService,
    /// Nobody has told this gateway yet which services there are.
    NoSnapshot,
    /// It has no replica that is ready and not being drained.
    NoneReady,
    /// An operator has forced the breakers of all of those open.
    AllForcedOpen {
        /// How many.
        count: usize,
    },
    /// All its ready replicas rest.
    AllOpen {
        /// How many.
        resting: usize,
        /// Until the soonest probe.
        retry_after: Duration,
    },
    /// All that may be asked have as many requests in flight as they may, and it had better not wait.
    Overloaded(Refused),
    /// It has waited for a place for as long as it may.
    QueueTimeout {
        /// How long.
        waited: Duration,
    },
    /// This gateway has no file descriptor left to reach a replica with.
    Exhausted,
    /// This gateway's machine had no port left for another connection to a replica, and no other attempt was made, for this
    /// reason.
    NoPort(Stop),
    /// The last attempt ended so, and no other was made, for this reason.
    Attempt(Fault, Stop),
    /// As that, because the replica's certificate is not to be believed.
    Untrusted {
        fault: CertificateFault,
        /// What the certificate had to be for.
        name: Box<str>,
        /// Why no other attempt was made.
        stop: Stop,
    },
    /// The replica said that it did not process the request.
    Declined(Stop),
    /// Connections to the replica are shared by as many requests as they may be.
    Full(Stop),
    /// The replica that had the request is being drained, and the time for that was over before it answered.
    Drained,
    /// It is one more than the service's policy lets through.
    RateLimited(Box<RateLimited>),
    /// The service's policy injects faults, and the request is one of those that are aborted.
    FaultInjected {
        /// As the policy has it.
        status: StatusCode,
    },
    /// The request's own time ran out.
    DeadlineExceeded,
    /// The client stopped sending its request.
    RequestTimeout,
    /// The client sent its request's body slower than so many bytes in a second.
    BodyTooSlow(u64),
    /// The request is not one that can be forwarded.
    BadRequest(&'static str),
    /// Its head is too long or has too many fields.
    HeadTooLarge(HeadLimits),
    /// Its target is too long.
    TargetTooLong(HeadLimits),
    /// Its body is in a transfer coding that is not known here.
    UnknownCoding,
    /// It is in a version of HTTP that is not spoken here.
    UnknownVersion,
    /// The service's policy does not let it through.
    Refused(Breach),
    /// The service's policy has no such protocol to switch to.
    ProtocolRefused {
        /// Those that it has.
        allowed: String,
    },
    /// A replica that was asked to switch protocols answered as if there was nothing to switch, which the client would take
    /// for the switch.
    NotSwitched {
        /// How.
        status: StatusCode,
    },
    /// It asks to switch protocols, and those that were asked speak HTTP/2 only.
    CannotSwitch(Stop),
    /// CONNECT asks for a tunnel.
    TunnelRefused,
    /// TRACE asks to see what was received.
    TraceRefused,
    /// The request has passed here before.
    Loop,
    /// This gateway has met a defect of its own. A replica may have had the request.
    Internal,
}

/// Whom an error is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Caller {
    Http,
    Grpc,
}

impl Caller {
    /// By the head of its request. Calls of gRPC come by HTTP/2: whoever says over HTTP/1 that it sends one reads its answer as
    /// HTTP/1 has answers, in which a status behind the body is no way to break off.
    pub(super) fn of(head: &RequestHead) -> Self {
        let is_call = head.version == Version::HTTP_2 && grpc::is_grpc(&head.fields);
        if is_call { Self::Grpc } else { Self::Http }
    }
}

/// What is constant about an error.
struct Kind {
    status: StatusCode,
    /// For machines, in the body and in metrics.
    reason: Reason,
    /// RFC 9209 error type.
    proxy_error: &'static str,
    title: &'static str,
}

const fn kind(status: StatusCode, reason: Reason, proxy_error: &'static str, title: &'static str) -> Kind {
    Kind { status, reason, proxy_error, title }
}

const UNTRUSTED: Kind = kind(
    StatusCode::BAD_GATEWAY,
    Reason::CertificateRefused,
    "tls_certificate_error",
    "The replica's certificate is not to be believed",
);

impl GatewayError {
    #[rustfmt::skip] // One line for each error: this is the table that the documentation shows.
    fn kind(&self) -> Kind {
        use {Reason as R, StatusCode as S};
        match self {
            Self::NoRoute => kind(S::NOT_FOUND, R::NoRoute, "destination_not_found", "No service is named"),
            Self::UnknownService => kind(S::NOT_FOUND, R::UnknownService, "destination_not_found", "Unknown service"),
            Self::NoSnapshot => kind(S::SERVICE_UNAVAILABLE, R::NoSnapshot, "destination_unavailable", "The registry is not known yet"),
            Self::NoneReady => kind(S::SERVICE_UNAVAILABLE, R::NoReadyReplica, "destination_unavailable", "No replica is ready"),
            Self::AllForcedOpen { .. } => kind(S::SERVICE_UNAVAILABLE, R::BreakerForcedOpen, "destination_unavailable", "All replicas are held out"),
            Self::AllOpen { .. } => kind(S::SERVICE_UNAVAILABLE, R::BreakerOpen, "destination_unavailable", "All replicas are resting"),
            Self::Overloaded(_) => kind(S::SERVICE_UNAVAILABLE, R::Overloaded, "connection_limit_reached", "The service has too much to do"),
            Self::QueueTimeout { .. } => kind(S::SERVICE_UNAVAILABLE, R::QueueTimeout, "connection_limit_reached", "No replica had room in time"),
            Self::Exhausted => kind(S::SERVICE_UNAVAILABLE, R::GatewayExhausted, "connection_limit_reached", "The gateway is out of file descriptors"),
            Self::NoPort(_) => kind(S::SERVICE_UNAVAILABLE, R::GatewayExhausted, "connection_limit_reached", "The gateway is out of ports"),
            Self::Declined(_) => kind(S::SERVICE_UNAVAILABLE, R::RequestDeclined, "destination_unavailable", "The replica takes no more requests"),
            Self::Full(_) => kind(S::SERVICE_UNAVAILABLE, R::StreamsExhausted, "connection_limit_reached", "The replica has as many requests as it may have"),
            Self::Untrusted { .. } => UNTRUSTED,
            Self::Drained => kind(S::GATEWAY_TIMEOUT, R::DrainDeadline, "http_response_timeout", "The replica was drained before it answered"),
            Self::RateLimited(_) => kind(S::TOO_MANY_REQUESTS, R::RateLimited, "http_request_denied", "More requests than the service lets through"),
            Self::FaultInjected { status } => kind(*status, R::FaultInjected, "proxy_internal_response", "A fault was injected on purpose"),
            Self::DeadlineExceeded => kind(S::GATEWAY_TIMEOUT, R::DeadlineExceeded, "http_response_timeout", "No answer within the request's time"),
            Self::RequestTimeout => kind(S::REQUEST_TIMEOUT, R::RequestTimeout, "http_request_error", "The request did not arrive in time"),
            Self::BodyTooSlow(_) => kind(S::REQUEST_TIMEOUT, R::BodyTooSlow, "http_request_error", "The request came too slowly"),
            Self::BadRequest(_) => kind(S::BAD_REQUEST, R::BadRequest, "http_request_error", "The request cannot be forwarded"),
            Self::HeadTooLarge(_) => kind(S::REQUEST_HEADER_FIELDS_TOO_LARGE, R::HeadTooLarge, "http_request_error", "The request's head is too large"),
            Self::TargetTooLong(_) => kind(S::URI_TOO_LONG, R::TargetTooLong, "http_request_error", "The request's target is too long"),
            Self::UnknownCoding => kind(S::NOT_IMPLEMENTED, R::UnknownCoding, "http_request_error", "The request's body is in an unknown coding"),
            Self::UnknownVersion => kind(S::HTTP_VERSION_NOT_SUPPORTED, R::UnknownVersion, "http_request_error", "The version of HTTP is not supported"),
            Self::Refused(breach) => match breach {
                Breach::Method { .. } => kind(S::METHOD_NOT_ALLOWED, R::MethodNotAllowed, "http_request_denied", "The service takes no such method"),
                Breach::MediaType(_) => kind(S::UNSUPPORTED_MEDIA_TYPE, R::UnsupportedMediaType, "http_request_denied", "The service takes JSON only"),
                Breach::NotJson(_) => kind(S::BAD_REQUEST, R::InvalidJson, "http_request_error", "The request's body is not JSON"),
                Breach::TooLarge { .. } => kind(S::PAYLOAD_TOO_LARGE, R::BodyTooLarge, "http_request_denied", "The request's body is too long"),
            },
            Self::ProtocolRefused { .. } => kind(S::NOT_IMPLEMENTED, R::ProtocolRefused, "http_request_denied", "The service lets nobody switch to this protocol"),
            Self::NotSwitched { .. } => kind(S::BAD_GATEWAY, R::NotSwitched, "http_upgrade_failed", "The replica did not switch protocols"),
            Self::CannotSwitch(_) => kind(S::NOT_IMPLEMENTED, R::CannotSwitch, "http_upgrade_failed", "The replica cannot switch protocols"),
            Self::TunnelRefused => kind(S::METHOD_NOT_ALLOWED, R::TunnelRefused, "http_request_denied", "CONNECT is not offered"),
            Self::TraceRefused => kind(S::METHOD_NOT_ALLOWED, R::TraceRefused, "http_request_denied", "TRACE is not offered"),
            Self::Loop => kind(S::BAD_GATEWAY, R::Loop, "proxy_loop_detected", "The request has passed this gateway before"),
            Self::Internal => kind(S::INTERNAL_SERVER_ERROR, R::InternalError, "proxy_internal_error", "The gateway met a defect of its own"),
            Self::Attempt(fault, _) => match fault {
                Fault::ConnectRefused => kind(S::BAD_GATEWAY, R::ConnectRefused, "connection_refused", "The replica refused the connection"),
                Fault::ConnectTimeout => kind(S::GATEWAY_TIMEOUT, R::ConnectTimeout, "connection_timeout", "The replica did not accept a connection in time"),
                Fault::ConnectFailed => kind(S::BAD_GATEWAY, R::ConnectFailed, "destination_ip_unroutable", "The replica cannot be reached"),
                Fault::TlsCertificate(_) => UNTRUSTED,
                Fault::TlsProtocol(_) => kind(S::BAD_GATEWAY, R::TlsFailed, "tls_protocol_error", "There is no TLS with the replica"),
                Fault::ResponseTimeout | Fault::Unanswered(_) => kind(S::GATEWAY_TIMEOUT, R::ResponseTimeout, "http_response_timeout", "The replica did not answer in time"),
                Fault::Malformed => kind(S::BAD_GATEWAY, R::MalformedResponse, "http_protocol_error", "The replica's answer is not HTTP"),
                Fault::Reset | Fault::Closed | Fault::Truncated | Fault::Status(_) | Fault::Grpc(_) =>
                    kind(S::BAD_GATEWAY, R::ConnectionTerminated, "connection_terminated", "The replica broke the connection off"),
            },
        }
    }

    fn detail(&self, service: &str, attempts: usize) -> String {
        match self {
            Self::NoRoute => {
                "no explicit route matches: name a service as the first path segment, or as SERVICE.localhost in the host"
                    .into()
            }
            Self::UnknownService => format!("no service {service:?} is registered"),
            Self::NoSnapshot => {
                "this gateway has neither reached its control plane since it started nor kept what that said before"
                    .into()
            }
            Self::NoneReady => {
                format!("{service} has no replica that is ready and takes requests")
            }
            Self::AllForcedOpen { count } => {
                format!("{service}: {}, all with circuit breakers that an operator forced open", counted(*count, "replica"))
            }
            Self::AllOpen { resting, retry_after } => format!(
                "{service}: {}, all with open circuit breakers; next probe in {:.1} s",
                counted(*resting, "replica"),
                retry_after.as_secs_f64()
            ),
            Self::Overloaded(Refused::Full { pending }) => format!(
                "{service} has as many requests in flight as its policy lets it, and {} wait already",
                counted(*pending, "request")
            ),
            Self::Overloaded(Refused::TooLate { pending, expected }) => format!(
                "{service} has as many requests in flight as its policy lets it, and behind {} that wait already this \
                 one's turn would come in about {:.1} s, too late",
                counted(*pending, "request"),
                expected.as_secs_f64()
            ),
            Self::QueueTimeout { waited } => format!(
                "{service} had as many requests in flight as its policy lets it for all of the {:.1} s that this one waited",
                waited.as_secs_f64()
            ),
            Self::Exhausted => {
                "no connection to a replica can be opened: raise the limit of open files, or lower --max-connections"
                    .into()
            }
            Self::NoPort(stop) => format!(
                "{service}: no port of this machine is left for another connection to the replica, after {}; {stop}: widen \
                 net.ipv4.ip_local_port_range, or let the service have more replicas",
                counted(attempts, "attempt")
            ),
            Self::Attempt(fault, stop) => {
                format!("{service}: {fault}, after {}; {stop}", counted(attempts, "attempt"))
            }
            Self::Untrusted { fault, name, stop } => format!(
                "{service}: {fault}; it was asked for {name}, after {}; {stop}",
                counted(attempts, "attempt")
            ),
            Self::Declined(stop) => format!(
                "{service}: the replica said that it did not process the request, after {}; {stop}",
                counted(attempts, "attempt")
            ),
            Self::Full(stop) => format!(
                "{service}: the connections to the replica that requests share are full, after {}; {stop}",
                counted(attempts, "attempt")
            ),
            Self::Drained => format!(
                "{service}: the replica had the request when it was drained, and did not answer by the drain's deadline"
            ),
            Self::RateLimited(limited) => too_early(service, limited),
            Self::FaultInjected { .. } => {
                format!("{service}: its policy injects faults on purpose, for a time; no replica was asked")
            }
            Self::DeadlineExceeded => {
                format!("{service}: the request's time ran out after {}", counted(attempts, "attempt"))
            }
            Self::RequestTimeout => "the request stopped before its end".into(),
            Self::HeadTooLarge(HeadLimits { bytes, fields, .. }) => {
                format!("a request's head has {} and {fields} fields at most", size::exact(*bytes as u64))
            }
            Self::TargetTooLong(HeadLimits { target, .. }) => {
                format!("a request's target has {} at most", size::exact(*target as u64))
            }
            Self::UnknownCoding => "chunked is the only transfer coding that is known here".into(),
            Self::UnknownVersion => "HTTP/1.1, HTTP/1.0 and HTTP/2 are spoken here".into(),
            Self::BodyTooSlow(rate) => {
                format!("a body has to come at {} in a second at least, on average", size::exact(*rate))
            }
            Self::BadRequest(why) => (*why).into(),
            Self::Refused(Breach::Method { allowed }) => format!("{service} takes {}", spaced(*allowed)),
            Self::Refused(Breach::MediaType(why)) => format!("{service} takes JSON only, and {why}"),
            Self::Refused(Breach::NotJson(NotJson { at, why })) => {
                format!("{service} takes JSON only, and the body is none: {why}, after {}", counted_bytes(*at))
            }
            Self::Refused(Breach::TooLarge { max }) => {
                format!("{service} takes bodies of up to {}", size::exact(*max))
            }
            Self::ProtocolRefused { allowed } => format!("{service} lets clients switch to: {allowed}"),
            Self::NotSwitched { status } => {
                format!("{service}: the replica was asked to switch protocols and answered {}", status.as_u16())
            }
            Self::CannotSwitch(stop) => format!(
                "{service}: no replica that was asked speaks HTTP/1.1 or takes extended CONNECTs, after {}; {stop}",
                counted(attempts, "attempt")
            ),
            Self::TunnelRefused => "this gateway forwards requests and opens no tunnels".into(),
            Self::TraceRefused => "what replicas receive is not shown to clients".into(),
            Self::Loop => "a replica's address leads back to this gateway".into(),
            Self::Internal => {
                "the gateway's log tells the defect; a replica may have carried the request out".into()
            }
        }
    }

    /// What it is counted as.
    pub(super) fn reason(&self) -> Reason {
        self.kind().reason
    }

    /// Why no other attempt was made, where one failed.
    fn stop(&self) -> Option<Stop> {
        match self {
            Self::Attempt(_, stop)
            | Self::Untrusted { stop, .. }
            | Self::Declined(stop)
            | Self::Full(stop)
            | Self::CannotSwitch(stop)
            | Self::NoPort(stop) => Some(*stop),
            _ => None,
        }
    }

    /// When a 503, or a 429, is worth another try.
    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::NoSnapshot => Some(NO_SNAPSHOT_RETRY),
            Self::NoneReady | Self::AllForcedOpen { .. } => Some(NONE_READY_RETRY),
            Self::AllOpen { retry_after, .. } => Some(*retry_after),
            Self::RateLimited(limited) => Some(limited.wait),
            Self::Overloaded(_) | Self::QueueTimeout { .. } => Some(OVERLOADED_RETRY),
            Self::Exhausted | Self::NoPort(_) | Self::Declined(_) | Self::Full(_) => Some(EXHAUSTED_RETRY),
            // As like the real thing as can be.
            Self::FaultInjected { status: StatusCode::SERVICE_UNAVAILABLE } => Some(OVERLOADED_RETRY),
            _ => None,
        }
    }

    /// What a 405 says in `Allow`.
    fn allowed_methods(&self) -> Option<String> {
        match self {
            Self::Refused(Breach::Method { allowed }) => Some(spaced(*allowed)),
            Self::TunnelRefused | Self::TraceRefused => {
                Some("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS".into())
            }
            _ => None,
        }
    }

    /// What it is called in a `Proxy-Status` (RFC 9209).
    pub(super) fn proxy_error(&self) -> &'static str {
        self.kind().proxy_error
    }

    /// What callers over HTTP are told it by.
    pub(super) fn status(&self) -> StatusCode {
        self.kind().status
    }

    /// What gRPC callers are told it by: by the HTTP status, but for what says more than that.
    fn grpc_code(&self) -> grpc::Code {
        match self {
            // Nothing was processed, or nobody knows: not the call's time is over.
            Self::Attempt(Fault::ConnectTimeout, _) | Self::Drained => grpc::Code::Unavailable,
            Self::Attempt(Fault::Malformed, _) | Self::Loop => grpc::Code::Internal,
            _ => grpc::Code::of(self.status()),
        }
    }

    /// The answer to the client, in the words that it understands. It is counted where it is
    /// [given](super::worker::Worker::refuse_to).
    pub(super) fn respond_to<B: From<Bytes>>(
        &self,
        caller: Caller,
        service: &str,
        attempts: usize,
        via: &Via,
        request_id: &RequestId,
    ) -> Answer<B> {
        let answer = self.respond(service, attempts, via, request_id);
        match caller {
            Caller::Http => answer,
            Caller::Grpc => {
                let mut answer =
                    grpc::trailers_only(self.grpc_code(), &self.detail(service, attempts), answer);
                if let Self::RateLimited(limited) = self {
                    pushback::tell(&mut answer.head.fields, whole_millis(limited.wait));
                }
                answer
            }
        }
    }

    /// The answer to a client that knows HTTP.
    pub(super) fn respond<B: From<Bytes>>(
        &self,
        service: &str,
        attempts: usize,
        via: &Via,
        request_id: &RequestId,
    ) -> Answer<B> {
        let Kind { status, reason, proxy_error, title } = self.kind();
        let reason = reason.as_str();
        let mut problem = serde_json::json!({
            "title": title,
            "status": status.as_u16(),
            "detail": self.detail(service, attempts),
            "reason": reason,
            "attempts": attempts,
            "requestId": request_id.as_str(),
        });
        if !service.is_empty() {
            problem["service"] = service.into();
        }
        let mut fields = Fields::default();
        if let Some(wait) = self.retry_after() {
            problem["retryAfterMs"] = whole_millis(wait).into();
            // Whole seconds, rounded up: a client that comes earlier would meet the same answer. At least one: while a
            // probe is out nobody knows how long, and zero would have all clients ask without a pause.
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            fields.append(Name::RetryAfter, seconds.max(1).to_string().as_bytes());
        }
        fields.append(Name::ContentType, b"application/problem+json");
        fields.append(Name::XRequestId, request_id.as_bytes());
        let mut proxy_status = format!("{}; error={proxy_error}; details=\"{reason}\"", via.name());
        if let Some(stop) = self.stop() {
            // A parameter of our own: who does not know it is to ignore it (RFC 9209 section 2.1).
            proxy_status = format!("{proxy_status}; retry-denied={}", stop.as_str());
            problem["retryDenied"] = stop.as_str().into();
        }
        fields.append(Name::ProxyStatus, proxy_status.as_bytes());
        if let Some(methods) = self.allowed_methods() {
            fields.append(Name::Allow, methods.as_bytes());
        }
        let body = Bytes::from(format!("{problem}\n")).into();
        Answer { error: Some(reason), ..Answer::new(ResponseHead::new(status, fields), body) }
    }
}

impl GatewayError {
    /// What a head comes to that is not taken for a request within these limits.
    pub(super) fn refused(refusal: Refusal, limits: &HeadLimits) -> Self {
        match refusal {
            Refusal::Malformed(defect) => Self::BadRequest(defect.text()),
            Refusal::HeadTooLarge => Self::HeadTooLarge(*limits),
            Refusal::TargetTooLong => Self::TargetTooLong(*limits),
            Refusal::UnknownCoding => Self::UnknownCoding,
            Refusal::UnknownVersion => Self::UnknownVersion,
            Refusal::OtherProtocol => {
                Self::BadRequest("the first line is not one of HTTP/1: neither its target nor its version is")
            }
        }
    }
}

/// `GET, HEAD`.
fn spaced(methods: Methods) -> String {
    methods.names().collect::<Vec<_>>().join(", ")
}

/// What of its service's rate a request goes beyond.
fn too_early(service: &str, RateLimited { limit, wait }: &RateLimited) -> String {
    let whose = match limit.key {
        RateKey::Service => String::new(),
        RateKey::Address => " from each client address".into(),
        RateKey::Header(name) => format!(" of each {}", name.as_str()),
    };
    format!(
        "{service} lets {} requests{whose} in a second through, and {} at once; the next one in {:.1} s",
        limit.requests_per_second,
        limit.at_once(),
        wait.as_secs_f64()
    )
}

/// Rounded up: a client that comes earlier would meet the same answer.
fn whole_millis(wait: Duration) -> u64 {
    u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// `1 byte`, `2 bytes`.
fn counted_bytes(count: u64) -> String {
    format!("{count} byte{}", if count == 1 { "" } else { "s" })
}

/// `1 attempt`, `2 attempts`.
fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests;
