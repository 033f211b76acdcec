//! Bad input over gRPC: the right status, the field by name, and nothing half-done.

use gateway_proto::{reason, v1};
use gateway_tests::{ControlPlane, http1};
use tempfile::TempDir;
use tonic::{Code, Status};
use tonic_types::StatusExt;

const UNKNOWN_LEASE: &str = "00000000000000000000000000000001";

async fn control_plane() -> (ControlPlane, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    (ControlPlane::start(&directory.path().join("registry.redb")).await, directory)
}

/// A registration that is fine.
fn valid() -> v1::RegisterRequest {
    v1::RegisterRequest {
        service: "orders".into(),
        replica_id: "r-1".into(),
        endpoint: Some(endpoint("127.0.0.1:9001")),
        ..Default::default()
    }
}

fn endpoint(address: &str) -> v1::Endpoint {
    v1::Endpoint { address: address.into(), ..Default::default() }
}

fn ttl(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

/// Code, reason and fields of a refusal.
fn facts(status: &Status) -> (Code, String, Vec<String>) {
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("no ErrorInfo: {status:?}"));
    assert_eq!(info.domain, reason::DOMAIN);
    let violations = details.bad_request().map(|request| request.field_violations.clone());
    let fields = violations.unwrap_or_default().into_iter().map(|violation| violation.field);
    (status.code(), info.reason.clone(), fields.collect())
}

fn refusal(code: Code, reason: &str, fields: &[&str]) -> (Code, String, Vec<String>) {
    (code, reason.to_owned(), fields.iter().map(|&field| field.to_owned()).collect())
}

#[tokio::test]
async fn a_registration_with_a_bad_field_is_refused_by_the_name_of_the_field() {
    let (control, _directory) = control_plane().await;
    let cases: [(&str, v1::RegisterRequest); 13] = [
        ("service", v1::RegisterRequest { service: String::new(), ..valid() }),
        ("service", v1::RegisterRequest { service: "Orders".into(), ..valid() }),
        ("service", v1::RegisterRequest { service: "../orders".into(), ..valid() }),
        ("service", v1::RegisterRequest { service: "o".repeat(64), ..valid() }),
        ("replica_id", v1::RegisterRequest { replica_id: "r_1".into(), ..valid() }),
        ("endpoint", v1::RegisterRequest { endpoint: None, ..valid() }),
        ("endpoint.address", v1::RegisterRequest { endpoint: Some(endpoint("127.0.0.1")), ..valid() }),
        ("endpoint.address", v1::RegisterRequest { endpoint: Some(endpoint("127.0.0.1:0")), ..valid() }),
        ("endpoint.address", v1::RegisterRequest { endpoint: Some(endpoint("127.0.0.1:65536")), ..valid() }),
        ("endpoint.address", v1::RegisterRequest { endpoint: Some(endpoint("http://h:80/x")), ..valid() }),
        ("weight", v1::RegisterRequest { weight: 1001, ..valid() }),
        ("lease_ttl", v1::RegisterRequest { lease_ttl: ttl(0), ..valid() }),
        ("lease_ttl", v1::RegisterRequest { lease_ttl: ttl(-5), ..valid() }),
    ];
    for (field, request) in cases {
        let shown = format!("{request:?}");
        let status = control.registry().register(request).await.unwrap_err();
        let (code, why, fields) = facts(&status);
        assert_eq!((code, why.as_str()), (Code::InvalidArgument, reason::INVALID_FIELD), "{shown}");
        assert!(fields.len() == 1 && fields[0].starts_with(field), "{field}: {fields:?} for {shown}");
    }
    let listed = control.registry().list_services(v1::ListServicesRequest::default()).await.unwrap();
    assert_eq!(listed.into_inner().services, [], "nothing of it was applied");
}

#[tokio::test]
async fn every_bad_field_is_named_at_once() {
    let (control, _directory) = control_plane().await;
    let request = v1::RegisterRequest { service: "Orders".into(), weight: -1, lease_ttl: ttl(-1), ..valid() };
    let status = control.registry().register(request).await.unwrap_err();
    let (_, _, fields) = facts(&status);
    assert_eq!(fields, ["service", "weight", "lease_ttl"]);
}

#[tokio::test]
async fn a_ttl_out_of_range_is_granted_at_the_range_s_end() {
    let (control, _directory) = control_plane().await;
    for (asked, granted) in [(7200, 3600), (60, 60)] {
        let request = v1::RegisterRequest { lease_ttl: ttl(asked), ..valid() };
        let answer = control.registry().register(request).await.unwrap().into_inner();
        assert_eq!(answer.replica.unwrap().lease.unwrap().ttl, ttl(granted));
        assert_eq!(answer.heartbeat_interval, ttl(granted / 3));
    }
}

#[tokio::test]
async fn an_address_has_one_owner_in_its_service() {
    let (control, _directory) = control_plane().await;
    control.registry().register(valid()).await.unwrap();
    let second = v1::RegisterRequest { replica_id: "r-2".into(), ..valid() };
    let status = control.registry().register(second.clone()).await.unwrap_err();
    let (code, why, _) = facts(&status);
    assert_eq!((code, why.as_str()), (Code::AlreadyExists, reason::ADDRESS_IN_USE));

    // Another service may have it, and so may the same one once it is free.
    let elsewhere = v1::RegisterRequest { service: "payments".into(), ..second.clone() };
    control.registry().register(elsewhere).await.unwrap();
    let moved = v1::RegisterRequest { endpoint: Some(endpoint("127.0.0.1:9002")), ..valid() };
    control.registry().register(moved).await.unwrap();
    control.registry().register(second).await.unwrap();
}

#[tokio::test]
async fn a_lease_that_is_unknown_stale_or_no_lease_is_told_apart() {
    let (control, _directory) = control_plane().await;
    let mut registry = control.registry();
    let heartbeat = |replica_id: &str, lease_id: &str| v1::HeartbeatRequest {
        service: "orders".into(),
        replica_id: replica_id.into(),
        lease_id: lease_id.into(),
        ..Default::default()
    };
    // Nobody is there: register again.
    let status = registry.heartbeat(heartbeat("r-1", UNKNOWN_LEASE)).await.unwrap_err();
    assert_eq!(facts(&status), refusal(Code::NotFound, reason::LEASE_EXPIRED, &[]));
    // Somebody else is there.
    let old = registry.register(valid()).await.unwrap().into_inner().lease_id;
    registry.register(valid()).await.unwrap();
    for stale in [UNKNOWN_LEASE, &old] {
        let status = registry.heartbeat(heartbeat("r-1", stale)).await.unwrap_err();
        assert_eq!(facts(&status), refusal(Code::FailedPrecondition, reason::LEASE_MISMATCH, &[]));
    }
    // It cannot be one.
    for malformed in ["", "abc", "zz"] {
        let status = registry.heartbeat(heartbeat("r-1", malformed)).await.unwrap_err();
        assert_eq!(facts(&status), refusal(Code::InvalidArgument, reason::INVALID_FIELD, &["lease_id"]));
    }
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let (control, _directory) = control_plane().await;
    let mut registry = control.registry();
    let status = registry.get_service(v1::GetServiceRequest { service: "orders".into() }).await.unwrap_err();
    assert_eq!(facts(&status), refusal(Code::NotFound, reason::SERVICE_NOT_FOUND, &[]));
    let request = v1::ListReplicasRequest { service: "orders".into(), ..Default::default() };
    let status = registry.list_replicas(request).await.unwrap_err();
    assert_eq!(facts(&status), refusal(Code::NotFound, reason::SERVICE_NOT_FOUND, &[]));
    registry.register(valid()).await.unwrap();
    let request = v1::GetReplicaRequest { service: "orders".into(), replica_id: "r-2".into() };
    let status = registry.get_replica(request).await.unwrap_err();
    assert_eq!(facts(&status), refusal(Code::NotFound, reason::REPLICA_NOT_FOUND, &[]));
}

#[tokio::test]
async fn pages_are_asked_for_with_sane_sizes_and_tokens_of_the_same_list() {
    let (control, _directory) = control_plane().await;
    let mut registry = control.registry();
    for number in 1..=3 {
        let request = v1::RegisterRequest {
            service: format!("s-{number}"),
            endpoint: Some(endpoint("127.0.0.1:9001")),
            ..valid()
        };
        registry.register(request).await.unwrap();
    }
    let page = |page_size, page_token: &str| v1::ListServicesRequest {
        page_size,
        page_token: page_token.into(),
        ..Default::default()
    };
    let first = registry.list_services(page(2, "")).await.unwrap().into_inner();
    assert_eq!(first.services.len(), 2);
    let second = registry.list_services(page(2, &first.next_page_token)).await.unwrap().into_inner();
    assert_eq!((second.services.len(), second.next_page_token.as_str()), (1, ""));

    let status = registry.list_services(page(-1, "")).await.unwrap_err();
    assert_eq!(facts(&status), refusal(Code::InvalidArgument, reason::INVALID_FIELD, &["page_size"]));
    let status = registry.list_services(page(2, "made-up")).await.unwrap_err();
    assert_eq!(facts(&status).1, reason::PAGE_TOKEN_INVALID);
    assert_eq!(status.code(), Code::InvalidArgument);
    let request = v1::ListReplicasRequest {
        service: "s-1".into(),
        page_token: first.next_page_token,
        ..Default::default()
    };
    let status = registry.list_replicas(request).await.unwrap_err();
    assert_eq!(facts(&status).1, reason::PAGE_TOKEN_INVALID);
}

#[tokio::test]
async fn an_oversized_message_is_refused_and_the_process_goes_on() {
    let (control, _directory) = control_plane().await;
    let mut registry = control.registry();
    let request = v1::RegisterRequest { version: "v".repeat(5 << 20), ..valid() };
    let status = registry.register(request).await.unwrap_err();
    assert!(matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted), "{status:?}");
    registry.register(valid()).await.unwrap();
}

#[tokio::test]
async fn malformed_frames_end_their_own_connection_only() {
    let (mut control, _directory) = control_plane().await;
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let garbage = [0xffu8; 300];
    let mut oversized_frame = PREFACE.to_vec();
    oversized_frame.extend([0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01]);
    let mut headers_on_stream_zero = PREFACE.to_vec();
    headers_on_stream_zero.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
    headers_on_stream_zero.extend([0, 0, 1, 1, 4, 0, 0, 0, 0, 0x80]);
    for bytes in [&garbage[..], b"\0\0\0\0", b"GET\r\n\r\n", &oversized_frame, &headers_on_stream_zero] {
        http1::raw(control.address(), bytes).await;
    }
    control.registry().register(valid()).await.unwrap();
    assert!(control.process().is_running());
}

#[tokio::test]
async fn a_dry_run_checks_everything_and_changes_nothing() {
    let (control, _directory) = control_plane().await;
    let mut registry = control.registry();
    let request = v1::RegisterRequest { validate_only: true, ..valid() };
    let answer = registry.register(request).await.unwrap().into_inner();
    assert_eq!(answer.lease_id, "");
    let listed = registry.list_services(v1::ListServicesRequest::default()).await.unwrap();
    assert_eq!(listed.into_inner().services, []);
}
