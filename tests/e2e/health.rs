//! What replicas say of themselves, and what silence means.

use std::time::{Duration, Instant};

use gateway_proto::v1::{
    DeregisterRequest, Endpoint, HealthStatus, HeartbeatRequest, RegisterRequest, RegisterResponse,
    ReportHealthRequest,
};
use gateway_tests::{Act, DemoReplica, Gateway, Scripted, eventually, eventually_within, http1};

/// Registers a replica with a lease of one minute.
async fn lease(gateway: &Gateway, replica_id: &str, replica: &Scripted) -> RegisterResponse {
    let request = RegisterRequest {
        service: "orders".into(),
        replica_id: replica_id.into(),
        endpoint: Some(Endpoint { address: replica.address().to_string(), ..Default::default() }),
        lease_ttl: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
        ..Default::default()
    };
    let answer = gateway.control.registry().register(request).await.unwrap().into_inner();
    gateway.synced().await;
    answer
}

#[tokio::test]
async fn a_replica_that_was_killed_leaves_the_registry_within_its_lease_and_two_seconds() {
    let gateway = Gateway::start().await;
    let url = gateway.control.url();
    let mut killed = DemoReplica::registering("orders", "r-1", &url, "2s").await;
    let _kept = DemoReplica::registering("orders", "r-2", &url, "2s").await;
    eventually("both have registered", async || match gateway.replicas("orders").await.len() {
        2 => Ok(()),
        count => Err(format!("{count} replicas")),
    })
    .await;

    killed.kill();
    let limit = Duration::from_secs(2 + 2);
    eventually_within(limit, "the killed replica's lease expires", async || {
        let replicas = gateway.replicas("orders").await;
        let ids: Vec<_> = replicas.iter().map(|replica| replica.replica_id.as_str()).collect();
        if ids == ["r-2"] { Ok(()) } else { Err(format!("{ids:?}")) }
    })
    .await;
    assert_eq!(gateway.event_types("orders", "r-1").await.last().map(String::as_str), Some("LEASE_EXPIRED"));
}

#[tokio::test]
async fn a_replica_that_was_killed_registers_again_when_it_is_back() {
    let gateway = Gateway::start().await;
    let mut replica = DemoReplica::registering("orders", "r-1", &gateway.control.url(), "2s").await;
    let registered = async || match gateway.replicas("orders").await.pop() {
        Some(replica) => Ok(replica),
        None => Err("no replica".to_owned()),
    };
    let first = eventually("it has registered", registered).await;
    replica.restart().await;
    let second = eventually("it has registered again", async || {
        let replica = registered().await?;
        if replica.incarnation > first.incarnation { Ok(replica) } else { Err("the old one".into()) }
    })
    .await;
    assert_eq!(second.replica_id, first.replica_id);
}

#[tokio::test]
async fn a_replica_that_is_told_to_end_leaves_the_registry_first() {
    let gateway = Gateway::start().await;
    let mut replica = DemoReplica::registering("orders", "r-1", &gateway.control.url(), "60s").await;
    eventually("it has registered", async || match gateway.replicas("orders").await.len() {
        1 => Ok(()),
        _ => Err("no replica".to_owned()),
    })
    .await;
    replica.process().terminate();
    assert!(replica.process().exited().await.success());
    assert_eq!(gateway.replicas("orders").await.len(), 0);
}

#[tokio::test]
async fn a_replica_that_reports_itself_unhealthy_gets_no_request_within_a_second() {
    let gateway = Gateway::start().await;
    let replicas = [(); 2].map(|()| Scripted::start(|_, _| Act::ok(b"hello")));
    let sick = lease(&gateway, "r-0", &replicas[0]).await;
    lease(&gateway, "r-1", &replicas[1]).await;
    let report = |health| ReportHealthRequest {
        service: "orders".into(),
        replica_id: "r-0".into(),
        lease_id: sick.lease_id.clone(),
        health: i32::from(health),
        reason: "its disk is full".into(),
    };
    let began = Instant::now();
    gateway.control.registry().report_health(report(HealthStatus::Unhealthy)).await.unwrap();
    gateway.synced().await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    for _ in 0..10 {
        assert_eq!(http1::get(gateway.proxy(), "/orders/x").await.status(), 200);
    }
    assert_eq!(replicas[0].seen().len(), 0);
    let shown = &gateway.replicas("orders").await[0];
    assert_eq!((shown.health(), shown.state_reason.as_str()), (HealthStatus::Unhealthy, "its disk is full"));

    // Better again.
    gateway.control.registry().report_health(report(HealthStatus::Healthy)).await.unwrap();
    gateway.synced().await;
    for _ in 0..10 {
        assert_eq!(http1::get(gateway.proxy(), "/orders/x").await.status(), 200);
    }
    assert_eq!(replicas[0].seen().len(), 5);
}

#[tokio::test]
async fn a_replica_that_is_starting_gets_no_request_until_it_says_that_it_is_healthy() {
    let gateway = Gateway::start().await;
    let replica = Scripted::start(|_, _| Act::ok(b"hello"));
    let request = RegisterRequest {
        service: "orders".into(),
        replica_id: "r-0".into(),
        endpoint: Some(Endpoint { address: replica.address().to_string(), ..Default::default() }),
        permanent: true,
        initial_health: HealthStatus::Starting.into(),
        ..Default::default()
    };
    gateway.control.registry().register(request).await.unwrap();
    gateway.synced().await;
    let answer = http1::get(gateway.proxy(), "/orders/x").await;
    assert_eq!(answer.status(), 503);
    let problem: serde_json::Value = serde_json::from_slice(answer.body()).unwrap();
    assert_eq!(problem["reason"], "no_ready_replica");

    let report = ReportHealthRequest {
        service: "orders".into(),
        replica_id: "r-0".into(),
        health: HealthStatus::Healthy.into(),
        ..Default::default()
    };
    gateway.control.registry().report_health(report).await.unwrap();
    gateway.synced().await;
    assert_eq!(http1::get(gateway.proxy(), "/orders/x").await.status(), 200);
}

#[tokio::test]
async fn an_old_process_that_exits_late_cannot_remove_its_successor() {
    let gateway = Gateway::start().await;
    let replica = Scripted::start(|_, _| Act::ok(b"hello"));
    let old = lease(&gateway, "r-0", &replica).await;
    let new = lease(&gateway, "r-0", &replica).await;
    assert!(!new.created);

    let mut registry = gateway.control.registry();
    let deregister = |lease_id: &str| DeregisterRequest {
        service: "orders".into(),
        replica_id: "r-0".into(),
        lease_id: lease_id.into(),
        ..Default::default()
    };
    let refused = registry.deregister(deregister(&old.lease_id)).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    let heartbeat = |lease_id: &str| HeartbeatRequest {
        service: "orders".into(),
        replica_id: "r-0".into(),
        lease_id: lease_id.into(),
        ..Default::default()
    };
    let refused = registry.heartbeat(heartbeat(&old.lease_id)).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);

    registry.heartbeat(heartbeat(&new.lease_id)).await.unwrap();
    assert!(registry.deregister(deregister(&new.lease_id)).await.unwrap().into_inner().removed);
    // An unknown replica is a success that removed nothing.
    assert!(!registry.deregister(deregister(&new.lease_id)).await.unwrap().into_inner().removed);
}

#[tokio::test]
async fn a_deregistered_replica_gets_no_more_requests() {
    let gateway = Gateway::start().await;
    let replicas = [(); 2].map(|()| Scripted::start(|_, _| Act::ok(b"hello")));
    let leaving = lease(&gateway, "r-0", &replicas[0]).await;
    lease(&gateway, "r-1", &replicas[1]).await;
    let request = DeregisterRequest {
        service: "orders".into(),
        replica_id: "r-0".into(),
        lease_id: leaving.lease_id,
        ..Default::default()
    };
    gateway.control.registry().deregister(request).await.unwrap();
    gateway.synced().await;
    for _ in 0..10 {
        assert_eq!(http1::get(gateway.proxy(), "/orders/x").await.status(), 200);
    }
    assert_eq!((replicas[0].seen().len(), replicas[1].seen().len()), (0, 10));
}
