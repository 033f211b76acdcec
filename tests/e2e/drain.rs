//! Replicas leave without a loss, and nobody is lost by mistake.

use gateway_proto::v1::{
    DrainReplicaRequest, ListNodesRequest, NodeState, RegisterRequest, ReplicaMode, UndrainReplicaRequest,
};
use gateway_tests::{DataPlane, DemoReplica, Gateway, Load, eventually};
use prost_types::Duration;

use crate::guard::holds;

const PATIENCE: Option<Duration> = Some(Duration { seconds: 30, nanos: 0 });

async fn gateway_with_three_replicas() -> (Gateway, Vec<DemoReplica>) {
    let gateway = Gateway::start().await;
    let mut replicas = Vec::new();
    for id in ["r-1", "r-2", "r-3"] {
        let replica = DemoReplica::start(id).await;
        gateway.register("orders", id, replica.address()).await;
        replicas.push(replica);
    }
    (gateway, replicas)
}

#[tokio::test]
async fn a_rolling_restart_with_drains_loses_not_one_request_posts_included() {
    let (gateway, mut replicas) = gateway_with_three_replicas().await;
    let mut registry = gateway.control.registry();
    let load = Load::start(gateway.proxy(), "/orders/hello", 200);
    for (replica, id) in replicas.iter_mut().zip(["r-1", "r-2", "r-3"]) {
        let (service, replica_id) = ("orders".to_owned(), id.to_owned());
        let drain = DrainReplicaRequest {
            service: service.clone(),
            replica_id: replica_id.clone(),
            wait_timeout: PATIENCE,
            ..Default::default()
        };
        let drained = registry.drain_replica(drain).await.unwrap().into_inner();
        let status = drained.status.unwrap();
        assert_eq!(drained.replica.unwrap().mode(), ReplicaMode::Drained, "{status:?}");
        assert!(status.is_idle, "{status:?}");
        let rollout = status.rollout.unwrap();
        assert_eq!((rollout.node_count, rollout.acked_node_count), (1, 1));

        // The receipts say that nothing is in flight: then nobody notices how it ends.
        replica.kill();
        replica.restart().await;
        let register = RegisterRequest {
            service: service.clone(),
            replica_id: replica_id.clone(),
            endpoint: Some(gateway_proto::v1::Endpoint {
                address: replica.address().to_string(),
                ..Default::default()
            }),
            permanent: true,
            ..Default::default()
        };
        registry.register(register).await.unwrap();
        let undrain = UndrainReplicaRequest { service, replica_id, ..Default::default() };
        let back = registry.undrain_replica(undrain).await.unwrap().into_inner().replica.unwrap();
        assert_eq!(back.mode(), ReplicaMode::Serving);
        gateway.synced().await;
        let since = replica.request_count().await;
        eventually("the replica gets requests again", async || {
            let now = replica.request_count().await;
            if now >= since + 5 { Ok(()) } else { Err(format!("{now} requests")) }
        })
        .await;
    }
    let tally = load.stop().await;
    tally.assert_flawless();
    assert!(tally.sent > 100, "{}", tally.sent);
}

#[tokio::test]
async fn a_control_plane_that_lost_its_store_does_not_empty_the_data_planes() {
    let (mut gateway, replicas) = gateway_with_three_replicas().await;
    let load = Load::start(gateway.proxy(), "/orders/hello", 100);
    gateway.control.kill();
    std::fs::remove_file(gateway.directory().join("registry.redb")).unwrap();
    gateway.control.restart().await;
    // It is followed again, and what it does not know any more is held.
    holds(&gateway, 3).await;
    let before = load.tally().sent;
    eventually("the load goes on", async || {
        let sent = load.tally().sent;
        if sent >= before + 50 { Ok(()) } else { Err(format!("{sent} requests")) }
    })
    .await;
    // Whoever registers again is held no more.
    for (replica, id) in replicas.iter().zip(["r-1", "r-2", "r-3"]) {
        gateway.register("orders", id, replica.address()).await;
    }
    holds(&gateway, 0).await;
    load.stop().await.assert_flawless();
}

#[tokio::test]
async fn a_drain_right_after_a_restart_is_over_when_the_data_plane_is_back() {
    let (mut gateway, _replicas) = gateway_with_three_replicas().await;
    gateway.synced().await;
    gateway.control.restart_gently().await;
    // Not the twenty seconds for whoever may have been there.
    a_drain_is_over_soon(&gateway).await;
}

#[tokio::test]
async fn a_drain_does_not_wait_for_a_data_plane_that_was_ended() {
    let (gateway, _replicas) = gateway_with_three_replicas().await;
    let mut other = DataPlane::following(&gateway.control, "dp-2", &gateway.directory().join("dp-2")).await;
    // Both of them, not only the one that was there before.
    eventually("two data planes follow", async || {
        let nodes = gateway.control.observability().list_nodes(ListNodesRequest::default()).await;
        let nodes = nodes.map_err(|e| e.to_string())?.into_inner().nodes;
        let synced = nodes.iter().filter(|node| node.state() == NodeState::Synced).count();
        if synced == 2 { Ok(()) } else { Err(format!("{nodes:?}")) }
    })
    .await;
    other.process().terminate();
    assert!(other.process().exited().await.success());
    // One that only vanishes is waited for, twenty seconds.
    a_drain_is_over_soon(&gateway).await;
}

/// Drains r-1 and waits for it, less long than for data planes that may have gone.
async fn a_drain_is_over_soon(gateway: &Gateway) {
    let drain = DrainReplicaRequest {
        service: "orders".into(),
        replica_id: "r-1".into(),
        wait_timeout: PATIENCE,
        ..Default::default()
    };
    let began = std::time::Instant::now();
    let drained = gateway.control.registry().drain_replica(drain).await.unwrap().into_inner();
    assert!(drained.status.as_ref().is_some_and(|status| status.is_idle), "{drained:?}");
    assert!(began.elapsed().as_secs() < 10, "{:?}", began.elapsed());
}
