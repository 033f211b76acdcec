mod reference;

use axum::body::to_bytes;
use gateway_proto::{Address, NodeId, RouteName, code_name};
use http::header;
use serde_json::{Value, json};

use super::*;
use crate::auth::CredentialError;

/// Every variant, with its gRPC code, its HTTP status and its reason.
fn table() -> Vec<(Refusal, &'static str, u16, &'static str)> {
    let key = ReplicaKey::parse("orders", "r-1").unwrap();
    let in_use = RegistryError::AddressInUse {
        service: key.service.clone(),
        address: Address::parse("10.0.0.1:80").unwrap(),
        owner: key.replica.clone(),
    };
    let identity = RegistryError::IdentityQuota { name: "ci".into(), of: "replicas", count: 1, limit: 1 };
    let quota = RegistryError::QuotaExceeded { service: None, of: "replicas", limit: 1 };
    let gone = RegistryError::ReplicaGone { key: key.clone(), why: "deregistered by ana".into() };
    let removed = RegistryError::ReplicaRemoved { key: key.clone(), why: "deregistered by ana".into() };
    let (what, remaining) = (key.to_string(), RETRY_DELAY);
    let blocked = RegistryError::RegistrationBlocked { what, remaining, by: "ana: bad deploy".into() };
    let route = RouteName::parse("shop").unwrap();
    let policy = RegistryError::Invalid(Invalid::new("breaker.failure_ratio", "2 is not in 0.0..=1.0"));
    vec![
        (Invalid::new("service", "is required").into(), "INVALID_ARGUMENT", 400, "INVALID_FIELD"),
        (Refusal::ServiceNotFound(key.service.clone()), "NOT_FOUND", 404, "SERVICE_NOT_FOUND"),
        (gone.into(), "NOT_FOUND", 404, "REPLICA_REMOVED"),
        (RegistryError::ReplicaNotFound(key.clone()).into(), "NOT_FOUND", 404, "REPLICA_NOT_FOUND"),
        (RegistryError::LeaseExpired(key.clone()).into(), "NOT_FOUND", 404, "LEASE_EXPIRED"),
        (RegistryError::LeaseMismatch(key.clone()).into(), "FAILED_PRECONDITION", 409, "LEASE_MISMATCH"),
        (RegistryError::DrainedByOperator(key.clone()).into(), "PERMISSION_DENIED", 403, "PERMISSION_DENIED"),
        (removed.into(), "FAILED_PRECONDITION", 409, "REPLICA_REMOVED"),
        (blocked.into(), "FAILED_PRECONDITION", 409, "REREGISTER_BLOCKED"),
        (RegistryError::RequestIdReused(key.clone()).into(), "INVALID_ARGUMENT", 400, "REQUEST_ID_REUSED"),
        (
            RegistryError::LastReadyReplica(key.clone()).into(),
            "FAILED_PRECONDITION",
            409,
            "LAST_READY_REPLICA",
        ),
        (RegistryError::EtagMismatch(key.to_string()).into(), "ABORTED", 412, "ETAG_MISMATCH"),
        (RegistryError::ServiceNotFound(key.service.clone()).into(), "NOT_FOUND", 404, "SERVICE_NOT_FOUND"),
        (
            RegistryError::PolicyNotFound(crate::registry::Scope::All).into(),
            "NOT_FOUND",
            404,
            "POLICY_NOT_FOUND",
        ),
        (policy.into(), "INVALID_ARGUMENT", 400, "POLICY_INVALID"),
        (
            RegistryError::FaultInjectionNotAllowed(crate::registry::Scope::All).into(),
            "FAILED_PRECONDITION",
            409,
            "FAULT_INJECTION_NOT_ALLOWED",
        ),
        (RegistryError::RouteNotFound(route.clone()).into(), "NOT_FOUND", 404, "ROUTE_NOT_FOUND"),
        (
            RegistryError::InvalidRoute(Invalid::new("host", "is wrong")).into(),
            "INVALID_ARGUMENT",
            400,
            "ROUTE_INVALID",
        ),
        (
            RegistryError::RouteConflict { other: route.clone(), route, conditions: "/".into() }.into(),
            "ALREADY_EXISTS",
            409,
            "ROUTE_CONFLICT",
        ),
        (Denied::Nobody(CredentialError::Missing).into(), "UNAUTHENTICATED", 401, "CREDENTIALS_REQUIRED"),
        (Denied::Nobody(CredentialError::Nameless).into(), "UNAUTHENTICATED", 401, "CREDENTIALS_INVALID"),
        (
            Denied::Nobody(CredentialError::invalid("is not known")).into(),
            "UNAUTHENTICATED",
            401,
            "CREDENTIALS_INVALID",
        ),
        (Denied::Nobody(CredentialError::Expired).into(), "UNAUTHENTICATED", 401, "CREDENTIALS_EXPIRED"),
        (
            Denied::Permission { sentence: "ci may not".into(), service: None }.into(),
            "PERMISSION_DENIED",
            403,
            "PERMISSION_DENIED",
        ),
        (
            Denied::Address {
                address: Address::parse("169.254.169.254:80").unwrap(),
                why: "is a link-local address".into(),
                service: key.service.clone(),
            }
            .into(),
            "PERMISSION_DENIED",
            403,
            "ADDRESS_NOT_ALLOWED",
        ),
        (
            Denied::TooOften { name: "ci".into(), retry: RETRY_DELAY }.into(),
            "RESOURCE_EXHAUSTED",
            429,
            "RATE_LIMITED",
        ),
        (Denied::Guesses { retry: RETRY_DELAY }.into(), "RESOURCE_EXHAUSTED", 429, "RATE_LIMITED"),
        (Denied::Crowd { name: "ci".into(), limit: 1 }.into(), "RESOURCE_EXHAUSTED", 429, "QUOTA_EXCEEDED"),
        (RegistryError::LeaseRequired(key).into(), "INVALID_ARGUMENT", 400, "INVALID_FIELD"),
        (in_use.into(), "ALREADY_EXISTS", 409, "ADDRESS_IN_USE"),
        (quota.into(), "RESOURCE_EXHAUSTED", 429, "QUOTA_EXCEEDED"),
        (identity.into(), "RESOURCE_EXHAUSTED", 429, "QUOTA_EXCEEDED"),
        (WriteError::StoreUnavailable.into(), "UNAVAILABLE", 503, "STORE_UNAVAILABLE"),
        (WriteError::StoreMoves.into(), "UNAVAILABLE", 503, "STORE_UNAVAILABLE"),
        (WriteError::StoreMoved("etcd://a/gw".into()).into(), "UNAVAILABLE", 503, "STORE_UNAVAILABLE"),
        (WriteError::StoreFull.into(), "RESOURCE_EXHAUSTED", 507, "STORE_UNAVAILABLE"),
        (WriteError::StoreFullUnanswered.into(), "RESOURCE_EXHAUSTED", 507, "INTERRUPTED"),
        (WriteError::Overloaded.into(), "RESOURCE_EXHAUSTED", 429, "OVERLOADED"),
        (WriteError::ShuttingDown.into(), "UNAVAILABLE", 503, "SHUTTING_DOWN"),
        (WriteError::Interrupted.into(), "UNAVAILABLE", 503, "INTERRUPTED"),
        (Refusal::Internal, "INTERNAL", 500, "INTERNAL_ERROR"),
        (Refusal::PageToken, "INVALID_ARGUMENT", 400, "PAGE_TOKEN_INVALID"),
        (Refusal::Quota { what: "too many", limit: 1 }, "RESOURCE_EXHAUSTED", 429, "QUOTA_EXCEEDED"),
        (Refusal::Superseded(NodeId::parse("n1").unwrap()), "ABORTED", 409, "STREAM_SUPERSEDED"),
        (CannotMove::Shared.into(), "FAILED_PRECONDITION", 409, "MOVE_REFUSED"),
        (CannotMove::Closed.into(), "FAILED_PRECONDITION", 409, "MOVE_REFUSED"),
        (
            CannotMove::UnderWay { to: "etcd://a/gw".into() }.into(),
            "FAILED_PRECONDITION",
            409,
            "MOVE_REFUSED",
        ),
        (CannotMove::Outdated { read: 1, now: 2 }.into(), "FAILED_PRECONDITION", 409, "MOVE_REFUSED"),
        (CannotMove::Overdue(RETRY_DELAY).into(), "DEADLINE_EXCEEDED", 504, "MOVE_REFUSED"),
        (Refusal::AckOverdue, "DEADLINE_EXCEEDED", 408, "ACK_OVERDUE"),
        (Refusal::TooLarge { limit: 1 }, "RESOURCE_EXHAUSTED", 413, "MALFORMED_REQUEST"),
        (Refusal::TooSlow(RETRY_DELAY), "DEADLINE_EXCEEDED", 408, "MALFORMED_REQUEST"),
        (Refusal::NotJson("at 1".into()), "INVALID_ARGUMENT", 400, "MALFORMED_REQUEST"),
        (Refusal::MediaType, "INVALID_ARGUMENT", 415, "MALFORMED_REQUEST"),
        (Refusal::Method(http::Method::PUT), "UNIMPLEMENTED", 405, "MALFORMED_REQUEST"),
        (Refusal::Path, "NOT_FOUND", 404, "MALFORMED_REQUEST"),
        (Refusal::Host("evil.example".into()), "PERMISSION_DENIED", 421, "HOST_NOT_ALLOWED"),
        (Refusal::Origin("http://evil.example".into()), "PERMISSION_DENIED", 403, "ORIGIN_NOT_ALLOWED"),
        (Refusal::PageWrite, "PERMISSION_DENIED", 403, "ORIGIN_NOT_ALLOWED"),
        (Refusal::NotAStream, "INVALID_ARGUMENT", 406, "MALFORMED_REQUEST"),
    ]
}

#[tokio::test]
async fn every_refusal_says_the_same_over_grpc_and_over_http() {
    for (refusal, code, http, reason) in table() {
        let status = refusal.status();
        assert_eq!(code_name(status.code()), code, "{refusal:?}");
        let info = status.get_error_details();
        let info = info.error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), (reason, "gateway.v1"));

        let sentence = refusal.to_string();
        assert_eq!(status.message(), sentence);
        assert!(!sentence.ends_with('.') && !sentence.starts_with(char::is_uppercase), "{sentence}");

        let response = refusal.into_response();
        assert_eq!(response.status().as_u16(), http);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
        let body: Value =
            serde_json::from_slice(&to_bytes(response.into_body(), 9999).await.unwrap()).unwrap();
        assert_eq!((&body["reason"], &body["code"]), (&json!(reason), &json!(code)));
        assert_eq!((&body["status"], &body["detail"]), (&json!(http), &json!(sentence)));
    }
}

#[test]
fn fields_at_fault_are_named() {
    let refusal = Refusal::from(Invalid::new("endpoint.address", "has no port: write host:port"));
    let details = refusal.status().get_error_details();
    let violation = &details.bad_request().unwrap().field_violations[0];
    assert_eq!(violation.field, "endpoint.address");
    assert_eq!(violation.description, "has no port: write host:port");
}

#[test]
fn what_may_pass_says_when_to_try_again_and_what_may_not_does_not() {
    let retry = |refusal: Refusal| refusal.status().get_error_details().retry_info().is_some();
    assert!(retry(WriteError::Overloaded.into()));
    assert!(retry(WriteError::StoreUnavailable.into()));
    assert!(retry(WriteError::Interrupted.into()));
    assert!(!retry(Refusal::PageToken));
    let response = Refusal::from(WriteError::Overloaded).into_response();
    assert_eq!(response.headers()[header::RETRY_AFTER], "1");
}

#[test]
fn what_is_missing_or_taken_is_named_as_a_resource() {
    let key = ReplicaKey::parse("orders", "r-1").unwrap();
    let details = Refusal::from(RegistryError::LeaseMismatch(key)).status().get_error_details();
    assert_eq!(details.resource_info().unwrap().resource_name, "orders/r-1");
    assert_eq!(details.error_info().unwrap().metadata["replica"], "orders/r-1");
}

#[test]
fn what_an_rpc_refuses_is_the_same_problem_over_http() {
    let is_http_only = |refusal: &Refusal| {
        matches!(
            refusal,
            Refusal::NotJson(_)
                | Refusal::MediaType
                | Refusal::Method(_)
                | Refusal::Path
                | Refusal::Host(_)
                | Refusal::Origin(_)
                | Refusal::PageWrite
                | Refusal::NotAStream
        )
    };
    for (refusal, ..) in table().into_iter().filter(|(refusal, ..)| !is_http_only(refusal)) {
        assert_eq!(Problem::from(refusal.status()), Problem::from(&refusal));
    }
}

#[test]
fn a_status_without_details_is_a_problem_with_its_code_as_the_reason() {
    for (code, http, name) in [
        (Code::Unimplemented, 501, "UNIMPLEMENTED"),
        (Code::Internal, 500, "INTERNAL"),
        (Code::Cancelled, 499, "CANCELLED"),
        (Code::DeadlineExceeded, 504, "DEADLINE_EXCEEDED"),
        (Code::Unauthenticated, 401, "UNAUTHENTICATED"),
    ] {
        let problem = Problem::from(Status::new(code, "no more to say"));
        assert_eq!((problem.http.as_u16(), problem.reason.as_str()), (http, name));
        assert_eq!((problem.detail.as_str(), problem.domain.as_str()), ("no more to say", "gateway.v1"));
    }
}

#[test]
fn what_repeats_a_caller_s_words_fits_into_the_headers_of_an_answer() {
    let mut check = gateway_proto::Check::default();
    for field in ["labels", "version", "endpoint"] {
        let invalid = Invalid::new(field, format!("is \"{}\"", "ö".repeat(70_000)));
        assert_eq!(check.take(Err::<(), _>(invalid)), None);
    }
    let status = Refusal::from(check.finish().unwrap_err()).status();
    assert!(status.message().starts_with("labels: is \"öö"), "{}", status.message());
    let violations = status.get_error_details().bad_request().unwrap().field_violations.clone();
    let fields: Vec<_> = violations.iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(fields, ["labels", "version"]);
    assert!(violations.iter().all(|violation| violation.description.ends_with('…')), "{violations:?}");
    let headers: usize = status
        .into_http::<()>()
        .headers()
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum();
    assert!(headers < 8 << 10, "{headers}");
}
