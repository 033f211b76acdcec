//! What clients are told of each error.

use gateway_proto::{NodeId, policy::RateLimit};

use super::*;

fn responded(error: &GatewayError) -> (ResponseHead, serde_json::Value) {
    let via = Via::new(&NodeId::parse("dp-1").unwrap());
    let Answer::<Bytes> { head, body, .. } = error.respond("orders", 2, &via, &RequestId::new(1));
    (head, serde_json::from_slice(&body).unwrap())
}

#[test]
fn a_grpc_caller_is_told_in_a_head_without_a_body() {
    let via = Via::new(&NodeId::parse("dp-1").unwrap());
    let told = |error: &GatewayError| {
        let Answer::<Bytes> { head, body, .. } =
            error.respond_to(Caller::Grpc, "orders", 2, &via, &RequestId::new(1));
        assert!(body.is_empty());
        assert_eq!(head.status, StatusCode::OK);
        assert_eq!(field(&head, Name::ContentType), Some("application/grpc"));
        assert!(field(&head, Name::XRequestId).is_some() && field(&head, Name::ProxyStatus).is_some());
        let code = field(&head, Name::GrpcStatus).unwrap().to_owned();
        (code, field(&head, Name::GrpcMessage).unwrap().to_owned())
    };
    for (error, code) in [
        (GatewayError::NoneReady, "14"),
        (rate_limited(), "8"),
        (GatewayError::Attempt(Fault::ConnectRefused, Stop::RetriesUsed), "14"),
        (GatewayError::Attempt(Fault::ConnectTimeout, Stop::RetriesUsed), "14"),
        (GatewayError::Attempt(Fault::ResponseTimeout, Stop::RetriesUsed), "4"),
        (GatewayError::DeadlineExceeded, "4"),
        (GatewayError::UnknownService, "12"),
        (GatewayError::NoRoute, "12"),
        (GatewayError::TargetTooLong(HeadLimits::default()), "8"),
        (GatewayError::Refused(Breach::TooLarge { max: 1 }), "8"),
        (GatewayError::BadRequest("no"), "3"),
        (GatewayError::Attempt(Fault::Malformed, Stop::RetriesUsed), "13"),
        (GatewayError::Internal, "13"),
    ] {
        assert_eq!(told(&error).0, code, "{error:?}");
    }
    let (_, message) = told(&GatewayError::UnknownService);
    assert_eq!(message, "no service \"orders\" is registered");
}

fn rate_limited() -> GatewayError {
    let limit = RateLimit { requests_per_second: 10.0, ..RateLimit::default() };
    GatewayError::RateLimited(Box::new(RateLimited { limit, wait: Duration::from_micros(1_000_300) }))
}

fn field(head: &ResponseHead, name: Name) -> Option<&str> {
    head.fields.get(name).map(|value| str::from_utf8(value).unwrap())
}

#[test]
fn every_error_has_its_status_reason_and_proxy_status() {
    let cases = [
        (GatewayError::NoRoute, 404, "no_route", "destination_not_found"),
        (GatewayError::UnknownService, 404, "unknown_service", "destination_not_found"),
        (GatewayError::NoSnapshot, 503, "no_snapshot", "destination_unavailable"),
        (GatewayError::NoneReady, 503, "no_ready_replica", "destination_unavailable"),
        (GatewayError::AllForcedOpen { count: 2 }, 503, "breaker_forced_open", "destination_unavailable"),
        (
            GatewayError::AllOpen { resting: 3, retry_after: Duration::from_millis(3600) },
            503,
            "breaker_open",
            "destination_unavailable",
        ),
        (
            GatewayError::Overloaded(Refused::Full { pending: 9 }),
            503,
            "overloaded",
            "connection_limit_reached",
        ),
        (
            GatewayError::QueueTimeout { waited: Duration::from_secs(1) },
            503,
            "queue_timeout",
            "connection_limit_reached",
        ),
        (GatewayError::Exhausted, 503, "gateway_exhausted", "connection_limit_reached"),
        (GatewayError::NoPort(Stop::RetriesUsed), 503, "gateway_exhausted", "connection_limit_reached"),
        (
            GatewayError::Attempt(Fault::ConnectRefused, Stop::RetriesUsed),
            502,
            "connect_refused",
            "connection_refused",
        ),
        (
            GatewayError::Attempt(Fault::ConnectTimeout, Stop::RetriesUsed),
            504,
            "connect_timeout",
            "connection_timeout",
        ),
        (
            GatewayError::Attempt(Fault::ConnectFailed, Stop::RetriesUsed),
            502,
            "connect_failed",
            "destination_ip_unroutable",
        ),
        (
            GatewayError::Attempt(Fault::ResponseTimeout, Stop::RetriesUsed),
            504,
            "response_timeout",
            "http_response_timeout",
        ),
        (
            GatewayError::Attempt(Fault::Malformed, Stop::RetriesUsed),
            502,
            "malformed_response",
            "http_protocol_error",
        ),
        (
            GatewayError::Attempt(Fault::Closed, Stop::RetriesUsed),
            502,
            "connection_terminated",
            "connection_terminated",
        ),
        (
            GatewayError::Attempt(Fault::Reset, Stop::RetriesUsed),
            502,
            "connection_terminated",
            "connection_terminated",
        ),
        (GatewayError::Drained, 504, "drain_deadline", "http_response_timeout"),
        (rate_limited(), 429, "rate_limited", "http_request_denied"),
        (
            GatewayError::FaultInjected { status: StatusCode::SERVICE_UNAVAILABLE },
            503,
            "fault_injected",
            "proxy_internal_response",
        ),
        (GatewayError::DeadlineExceeded, 504, "deadline_exceeded", "http_response_timeout"),
        (GatewayError::RequestTimeout, 408, "request_timeout", "http_request_error"),
        (GatewayError::BodyTooSlow(100), 408, "body_too_slow", "http_request_error"),
        (GatewayError::BadRequest("why"), 400, "bad_request", "http_request_error"),
        (GatewayError::HeadTooLarge(HeadLimits::default()), 431, "head_too_large", "http_request_error"),
        (GatewayError::TargetTooLong(HeadLimits::default()), 414, "target_too_long", "http_request_error"),
        (GatewayError::UnknownCoding, 501, "unknown_coding", "http_request_error"),
        (GatewayError::UnknownVersion, 505, "unknown_version", "http_request_error"),
        (
            GatewayError::Refused(Breach::Method { allowed: Methods::parse(["GET"]).unwrap() }),
            405,
            "method_not_allowed",
            "http_request_denied",
        ),
        (
            GatewayError::Refused(Breach::MediaType("why")),
            415,
            "unsupported_media_type",
            "http_request_denied",
        ),
        (
            GatewayError::Refused(Breach::NotJson(NotJson { at: 1, why: "why" })),
            400,
            "invalid_json",
            "http_request_error",
        ),
        (GatewayError::Refused(Breach::TooLarge { max: 10 }), 413, "body_too_large", "http_request_denied"),
        (
            GatewayError::ProtocolRefused { allowed: "websocket".into() },
            501,
            "protocol_refused",
            "http_request_denied",
        ),
        (GatewayError::NotSwitched { status: StatusCode::OK }, 502, "not_switched", "http_upgrade_failed"),
        (GatewayError::CannotSwitch(Stop::RetriesUsed), 501, "cannot_switch", "http_upgrade_failed"),
        (GatewayError::TunnelRefused, 405, "tunnel_refused", "http_request_denied"),
        (GatewayError::TraceRefused, 405, "trace_refused", "http_request_denied"),
        (GatewayError::Loop, 502, "loop", "proxy_loop_detected"),
        (GatewayError::Internal, 500, "internal_error", "proxy_internal_error"),
    ];
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/refusals.md");
    let document = std::fs::read_to_string(path).unwrap();
    for (error, status, reason, proxy_error) in cases {
        let (head, problem) = responded(&error);
        assert_eq!(head.status, status, "{error:?}");
        assert_eq!(problem["reason"], reason);
        assert_eq!(problem["attempts"], 2);
        assert_eq!(field(&head, Name::ContentType), Some("application/problem+json"));
        let denied = error.stop().map(|_| "retries_used");
        assert_eq!(problem.get("retryDenied").and_then(|name| name.as_str()), denied);
        let denied = denied.map(|name| format!("; retry-denied={name}")).unwrap_or_default();
        let expected = format!("gw-dp-1; error={proxy_error}; details=\"{reason}\"{denied}");
        assert_eq!(field(&head, Name::ProxyStatus), Some(expected.as_str()));
        assert_eq!(head.fields.contains(Name::RetryAfter), [429, 503].contains(&status), "{error:?}");
        let row = format!("\n| `{reason}` | {status} | ");
        assert!(document.contains(&row), "docs/refusals.md has no row {row}");
    }
}

#[test]
fn no_client_is_told_to_come_back_at_once() {
    let error = GatewayError::AllOpen { resting: 1, retry_after: Duration::ZERO };
    assert_eq!(field(&responded(&error).0, Name::RetryAfter), Some("1"));
}

#[test]
fn one_is_not_many() {
    let one = GatewayError::AllOpen { resting: 1, retry_after: Duration::from_secs(1) };
    assert!(one.detail("orders", 0).starts_with("orders: 1 replica, "));
    let refused = GatewayError::Attempt(Fault::ConnectRefused, Stop::NoOtherReplica);
    assert_eq!(
        refused.detail("orders", 1),
        "orders: connect refused, after 1 attempt; no other replica is left to try"
    );
    assert_eq!(
        refused.detail("orders", 2),
        "orders: connect refused, after 2 attempts; no other replica is left to try"
    );
}

#[test]
fn retry_after_is_rounded_up_to_whole_seconds() {
    let error = GatewayError::AllOpen { resting: 3, retry_after: Duration::from_millis(3600) };
    let (head, problem) = responded(&error);
    assert_eq!(field(&head, Name::RetryAfter), Some("4"));
    assert_eq!(problem["retryAfterMs"], 3600);
    assert_eq!(problem["detail"], "orders: 3 replicas, all with open circuit breakers; next probe in 3.6 s");
    let (head, problem) = responded(&rate_limited());
    assert_eq!(field(&head, Name::RetryAfter), Some("2"));
    assert_eq!(problem["retryAfterMs"], 1001, "nobody is told too little");
    assert_eq!(
        problem["detail"],
        "orders lets 10 requests in a second through, and 10 at once; the next one in 1.0 s"
    );
}
