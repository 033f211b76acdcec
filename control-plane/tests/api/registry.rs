use control_plane::{
    registry::{Mutation, Revision},
    store::{Commit, Loaded, Memory, Store, StoreError},
};
use gateway_proto::v1;
use tonic::Code;

use crate::plane::{Plane, eventually, explain, request, seconds};

fn key(replica: &v1::Replica) -> (String, String) {
    (replica.service.clone(), replica.replica_id.clone())
}

async fn revision(plane: &Plane) -> i64 {
    plane.registry().list_services(v1::ListServicesRequest::default()).await.unwrap().into_inner().revision
}

#[tokio::test]
async fn a_replica_registers_keeps_its_lease_reports_its_health_and_leaves() {
    let plane = Plane::start().await;
    let answer = plane.register(request("orders", "10.0.0.1:80")).await;
    let (service, replica_id) = key(answer.replica.as_ref().unwrap());
    assert!(answer.created);
    assert_eq!(answer.heartbeat_interval, seconds(5));

    let beat = v1::HeartbeatRequest {
        service: service.clone(),
        replica_id: replica_id.clone(),
        lease_id: answer.lease_id.clone(),
        ..Default::default()
    };
    let beat = plane.registry().heartbeat(beat).await.unwrap().into_inner();
    assert!(beat.expire_time.is_some());
    // A renewal is no change.
    assert_eq!(revision(&plane).await, 1);

    let report = v1::ReportHealthRequest {
        service: service.clone(),
        replica_id: replica_id.clone(),
        lease_id: answer.lease_id.clone(),
        health: v1::HealthStatus::Degraded.into(),
        reason: "disk is slow".into(),
    };
    let reported = plane.registry().report_health(report).await.unwrap().into_inner().replica.unwrap();
    assert_eq!((reported.health(), reported.revision), (v1::HealthStatus::Degraded, 2));

    let got = v1::GetReplicaRequest { service: service.clone(), replica_id: replica_id.clone() };
    let got = plane.registry().get_replica(got).await.unwrap().into_inner().replica.unwrap();
    assert!(got.lease.unwrap().expire_time.is_some());
    assert_eq!(got.state_reason, "disk is slow");

    let leave =
        v1::DeregisterRequest { service, replica_id, lease_id: answer.lease_id, ..Default::default() };
    let left = plane.registry().deregister(leave.clone()).await.unwrap().into_inner();
    assert!(left.removed);
    let again = plane.registry().deregister(leave).await.unwrap().into_inner();
    assert!(!again.removed);
    plane.stop().await;
}

#[tokio::test]
async fn bad_registrations_are_refused_with_the_field_and_change_nothing() {
    let plane = Plane::start().await;
    let good = || request("orders", "10.0.0.1:80");
    let long = "x".repeat(64);
    let labels = (0..33).map(|number| (format!("k{number}"), String::new())).collect();
    for (bad, field) in [
        (request("Orders", "10.0.0.1:80"), "service"),
        (request("", "10.0.0.1:80"), "service"),
        (request("orders", "10.0.0.1"), "endpoint.address"),
        (request("orders", "10.0.0.1:0"), "endpoint.address"),
        (request("orders", "http://10.0.0.1:80"), "endpoint.address"),
        (v1::RegisterRequest { endpoint: None, ..good() }, "endpoint.address"),
        (v1::RegisterRequest { replica_id: "a/b".into(), ..good() }, "replica_id"),
        (v1::RegisterRequest { weight: -1, ..good() }, "weight"),
        (v1::RegisterRequest { version: long, ..good() }, "version"),
        (v1::RegisterRequest { labels, ..good() }, "labels"),
        (v1::RegisterRequest { lease_ttl: seconds(0), ..good() }, "lease_ttl"),
        (v1::RegisterRequest { lease_ttl: seconds(-5), ..good() }, "lease_ttl"),
        (v1::RegisterRequest { lease_ttl: seconds(5), permanent: true, ..good() }, "lease_ttl"),
        (v1::RegisterRequest { initial_health: 99, ..good() }, "initial_health"),
    ] {
        let status = plane.registry().register(bad).await.unwrap_err();
        let expected = (Code::InvalidArgument, "INVALID_FIELD".to_owned(), field.to_owned());
        assert_eq!(explain(&status), expected, "{}", status.message());
    }
    assert_eq!(revision(&plane).await, 0);
}

#[tokio::test]
async fn an_address_has_one_owner() {
    let plane = Plane::start().await;
    plane.register(request("orders", "10.0.0.1:80")).await;
    let other = v1::RegisterRequest { replica_id: "mine".into(), ..request("orders", "10.0.0.1:80") };
    let status = plane.registry().register(other).await.unwrap_err();
    assert_eq!(explain(&status), (Code::AlreadyExists, "ADDRESS_IN_USE".into(), String::new()));
    // Another service may be reached at the same address.
    plane.register(request("billing", "10.0.0.1:80")).await;
}

#[tokio::test]
async fn leases_that_are_unknown_stale_or_missing_are_told_apart() {
    let plane = Plane::start().await;
    let first = plane.register(request("orders", "10.0.0.1:80")).await;
    plane.register(request("orders", "10.0.0.1:80")).await;
    let (service, replica_id) = key(first.replica.as_ref().unwrap());
    let beat = |replica_id: &str, lease_id: &str| v1::HeartbeatRequest {
        service: service.clone(),
        replica_id: replica_id.into(),
        lease_id: lease_id.into(),
        ..Default::default()
    };
    let refused = async |request| explain(&plane.registry().heartbeat(request).await.unwrap_err());
    let stale = refused(beat(&replica_id, &first.lease_id)).await;
    assert_eq!(stale, (Code::FailedPrecondition, "LEASE_MISMATCH".into(), String::new()));
    let gone = refused(beat("nobody", &first.lease_id)).await;
    assert_eq!(gone, (Code::NotFound, "LEASE_EXPIRED".into(), String::new()));
    let missing = refused(beat(&replica_id, "")).await;
    assert_eq!(missing, (Code::InvalidArgument, "INVALID_FIELD".into(), "lease_id".into()));

    let leave = |lease_id: &str| v1::DeregisterRequest {
        service: service.clone(),
        replica_id: replica_id.clone(),
        lease_id: lease_id.into(),
        ..Default::default()
    };
    let late = plane.registry().deregister(leave(&first.lease_id)).await.unwrap_err();
    assert_eq!(explain(&late).1, "LEASE_MISMATCH");
    let without = plane.registry().deregister(leave("")).await.unwrap_err();
    assert_eq!(explain(&without), (Code::InvalidArgument, "INVALID_FIELD".into(), "lease_id".into()));
    let forced = v1::DeregisterRequest { force: true, ..leave("") };
    assert!(plane.registry().deregister(forced).await.unwrap().into_inner().removed);
}

#[tokio::test]
async fn a_lease_that_nobody_renews_ends_and_its_replica_goes() {
    let plane = Plane::start().await;
    let wish = v1::RegisterRequest { lease_ttl: seconds(1), ..request("orders", "10.0.0.1:80") };
    let answer = plane.register(wish).await;
    let (service, replica_id) = key(answer.replica.as_ref().unwrap());
    let get = v1::GetReplicaRequest { service: service.clone(), replica_id: replica_id.clone() };
    let status = eventually(async || plane.registry().get_replica(get.clone()).await.err()).await;
    // For as long as anybody may wonder where it has gone.
    assert_eq!(explain(&status), (Code::NotFound, "REPLICA_REMOVED".into(), String::new()));
    assert!(status.message().contains("is not registered any more: "), "{}", status.message());
    let beat = v1::HeartbeatRequest { service, replica_id, lease_id: answer.lease_id, ..Default::default() };
    let status = plane.registry().heartbeat(beat).await.unwrap_err();
    assert_eq!(explain(&status), (Code::NotFound, "LEASE_EXPIRED".into(), String::new()));

    let listed = plane.observability().list_events(v1::ListEventsRequest::default()).await.unwrap();
    let newest = &listed.get_ref().events[0];
    assert_eq!(newest.event_type, "LEASE_EXPIRED");
    assert!(newest.message.contains("ttl 1s"), "{}", newest.message);
}

/// A store that takes one commit and no more.
struct Once(Memory, bool);

impl Store for Once {
    async fn load(&mut self) -> Result<Loaded, StoreError> {
        self.0.load().await
    }

    async fn commit(&mut self, base: Revision, group: &[Mutation]) -> Result<Commit, StoreError> {
        if std::mem::replace(&mut self.1, true) {
            return Err(StoreError::Unavailable("it takes no more".into()));
        }
        self.0.commit(base, group).await
    }
}

#[tokio::test]
async fn a_request_that_is_repeated_renews_its_lease_or_is_told_that_it_is_gone() {
    let plane = Plane::start_on(Once(Memory::new(), false)).await;
    let wish = v1::RegisterRequest {
        request_id: "0b5e2a52-3f0e-4f3a-9f5c-0a3d8f6f7d11".into(),
        lease_ttl: seconds(1),
        ..request("orders", "10.0.0.1:80")
    };
    let nanos =
        |time: prost_types::Timestamp| i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos);
    let expiry = |answer: &v1::RegisterResponse| {
        nanos(answer.replica.clone().unwrap().lease.unwrap().expire_time.unwrap())
    };
    let first = plane.register(wish.clone()).await;
    let second = plane.register(wish.clone()).await;
    assert_eq!((&second.lease_id, second.created), (&first.lease_id, true));
    assert!(expiry(&second) > expiry(&first), "its lease has a whole time to live again");
    // It lapses, and the store does not take its replica's removal.
    let heartbeat = v1::HeartbeatRequest {
        service: "orders".into(),
        replica_id: first.replica.unwrap().replica_id,
        lease_id: first.lease_id,
        ..Default::default()
    };
    let has_lapsed = async || {
        let list = v1::ListReplicasRequest { service: "orders".into(), ..Default::default() };
        let mut listed = plane.registry().list_replicas(list).await.unwrap().into_inner().replicas;
        listed.remove(0).lease.unwrap().expire_time.is_none().then_some(())
    };
    eventually(has_lapsed).await;
    let repeated = eventually(async || match plane.registry().register(wish.clone()).await {
        // Between a failed commit and the next look at the store.
        Err(status) if status.code() == Code::Unavailable => None,
        answered => Some(answered),
    });
    let refused = explain(&repeated.await.unwrap_err());
    assert_eq!(refused, explain(&plane.registry().heartbeat(heartbeat).await.unwrap_err()));
    assert_eq!((refused.0, refused.1.as_str()), (Code::NotFound, "LEASE_EXPIRED"));
    plane.stop().await;
}

#[tokio::test]
async fn a_rehearsal_checks_everything_and_changes_nothing() {
    let plane = Plane::start().await;
    plane.register(request("orders", "10.0.0.1:80")).await;
    let rehearse = |request| v1::RegisterRequest { validate_only: true, ..request };
    let answer = plane.register(rehearse(request("orders", "10.0.0.2:80"))).await;
    assert!(answer.created && answer.lease_id.is_empty());
    let clash = v1::RegisterRequest { replica_id: "mine".into(), ..request("orders", "10.0.0.1:80") };
    let status = plane.registry().register(rehearse(clash)).await.unwrap_err();
    assert_eq!(explain(&status).1, "ADDRESS_IN_USE");
    assert_eq!(revision(&plane).await, 1);
}

#[tokio::test]
async fn quotas_refuse_what_is_new_and_let_what_is_known_register_again() {
    let plane = Plane::start_with(|config| config.limits.replicas_per_service = 1).await;
    plane.register(request("orders", "10.0.0.1:80")).await;
    let status = plane.registry().register(request("orders", "10.0.0.2:80")).await.unwrap_err();
    assert_eq!(explain(&status), (Code::ResourceExhausted, "QUOTA_EXCEEDED".into(), String::new()));
    plane.register(request("orders", "10.0.0.1:80")).await;
}

#[tokio::test]
async fn lists_come_in_pages_that_hold_everything_once_in_order() {
    let plane = Plane::start().await;
    for port in 1..=5 {
        let service = if port < 4 { "a" } else { "b" };
        let wish = v1::RegisterRequest {
            replica_id: if port == 1 { "0".into() } else { format!("r-{port}") },
            ..request(service, &format!("10.0.0.1:{port}"))
        };
        plane.register(wish).await;
    }
    for (service, expected) in
        [("-", vec!["a/0", "a/r-2", "a/r-3", "b/r-4", "b/r-5"]), ("a", vec!["a/0", "a/r-2", "a/r-3"])]
    {
        let mut found = Vec::new();
        let mut page_token = String::new();
        loop {
            let list = v1::ListReplicasRequest {
                service: service.into(),
                page_size: 2,
                page_token,
                ..Default::default()
            };
            let page = plane.registry().list_replicas(list).await.unwrap().into_inner();
            assert!(page.replicas.len() <= 2);
            found.extend(page.replicas.iter().map(|r| format!("{}/{}", r.service, r.replica_id)));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        assert_eq!(found, expected);
    }
    let list = v1::ListServicesRequest { page_size: 1, ..Default::default() };
    let first = plane.registry().list_services(list).await.unwrap().into_inner();
    assert_eq!((first.services[0].service.as_str(), first.services[0].replica_count), ("a", 3));
    let list =
        v1::ListServicesRequest { page_size: 1, page_token: first.next_page_token, ..Default::default() };
    let second = plane.registry().list_services(list).await.unwrap().into_inner();
    assert_eq!((second.services[0].service.as_str(), second.next_page_token.as_str()), ("b", ""));
}

#[tokio::test]
async fn questions_that_make_no_sense_or_have_no_answer_are_refused() {
    let plane = Plane::start().await;
    let mut client = plane.registry();
    let list = |service: &str, page_size, page_token: &str| v1::ListReplicasRequest {
        service: service.into(),
        page_size,
        page_token: page_token.into(),
        ..Default::default()
    };
    let status = client.list_replicas(list("orders", 0, "")).await.unwrap_err();
    assert_eq!(explain(&status), (Code::NotFound, "SERVICE_NOT_FOUND".into(), String::new()));
    let status = client.list_replicas(list("-", -1, "")).await.unwrap_err();
    assert_eq!(explain(&status), (Code::InvalidArgument, "INVALID_FIELD".into(), "page_size".into()));
    let status = client.list_replicas(list("-", 0, "made-up")).await.unwrap_err();
    assert_eq!(explain(&status), (Code::InvalidArgument, "PAGE_TOKEN_INVALID".into(), "page_token".into()));
    let get = v1::GetServiceRequest { service: "orders".into() };
    let status = client.get_service(get).await.unwrap_err();
    assert_eq!(explain(&status).1, "SERVICE_NOT_FOUND");
    let get = v1::GetReplicaRequest { service: "orders".into(), replica_id: "x".into() };
    let status = client.get_replica(get).await.unwrap_err();
    assert_eq!(explain(&status).1, "REPLICA_NOT_FOUND");
}

#[tokio::test]
async fn an_oversized_message_is_refused_and_the_connection_goes_on() {
    let plane = Plane::start().await;
    let huge = v1::RegisterRequest { version: "x".repeat(2_000_000), ..request("orders", "10.0.0.1:80") };
    let status = plane.registry().register(huge).await.unwrap_err();
    assert_eq!(explain(&status), (Code::ResourceExhausted, "MALFORMED_REQUEST".into(), String::new()));
    plane.register(request("orders", "10.0.0.1:80")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_many_oversized_messages_there_are_each_is_refused_by_its_own_status() {
    let plane = Plane::start().await;
    let huge = v1::RegisterRequest { version: "x".repeat(6 << 20), ..request("orders", "10.0.0.1:80") };
    for number in 0..200 {
        let status = plane.registry().register(huge.clone()).await.unwrap_err();
        let told = (status.code(), status.message().to_owned());
        // Of a connection that the library ends it would be another one.
        let expected = "the message is larger than 1048576 bytes".to_owned();
        assert_eq!(told, (Code::ResourceExhausted, expected), "number {number}: {status:?}");
    }
}

#[tokio::test]
async fn a_message_over_its_services_limit_is_told_that_limit() {
    let plane = Plane::start().await;
    let large = v1::ListBreakersRequest { states: vec![1; 4_200_000], ..Default::default() };
    let status = plane.observability().list_breakers(large).await.unwrap_err();
    assert_eq!(
        (explain(&status).0, status.message()),
        (Code::ResourceExhausted, "the message is larger than 4194304 bytes")
    );
    let hello = v1::Hello { services: vec!["x".repeat(1_100_000)], ..Default::default() };
    let hello =
        v1::StreamSnapshotsRequest { message: Some(v1::stream_snapshots_request::Message::Hello(hello)) };
    let mut stream =
        plane.discovery().stream_snapshots(tokio_stream::once(hello)).await.unwrap().into_inner();
    let status = stream.message().await.unwrap_err();
    assert_eq!(
        (explain(&status).0, status.message()),
        (Code::ResourceExhausted, "the message is larger than 1048576 bytes")
    );
}
