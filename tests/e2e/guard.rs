//! The registry has forgotten a service, and people decide what becomes of what data planes hold of it.

use std::fs;

use gateway_proto::v1::{
    Conclusion, ExplainReplicaRequest, Layer, ListNodesRequest, ReleaseGuardRequest, ReplicaVerdict,
};
use gateway_tests::{Act, Gateway, Scripted, command, eventually, http1};

/// Waits until the data plane reports that it holds so many replicas which the registry does not have.
pub(crate) async fn holds(gateway: &Gateway, count: i32) {
    eventually(&format!("the data plane holds {count} replicas"), async || {
        let nodes = gateway.control.observability().list_nodes(ListNodesRequest::default()).await;
        let nodes = nodes.map_err(|status| status.to_string())?.into_inner().nodes;
        let held: Vec<_> = nodes.iter().map(|node| node.held_replica_count).collect();
        if held == [count] { Ok(()) } else { Err(format!("{nodes:?}")) }
    })
    .await;
}

async fn readiness(gateway: &Gateway) -> String {
    let ready = http1::get(gateway.data.admin(), "/readyz?verbose").await;
    assert_eq!(ready.status(), 200);
    String::from_utf8_lossy(ready.body()).into_owned()
}

#[tokio::test]
async fn what_is_held_of_a_service_that_the_registry_does_not_know_can_be_let_go() {
    let mut gateway = Gateway::start().await;
    let replica = Scripted::start(|_, _| Act::ok(b"hello"));
    gateway.register("orders", "r-0", replica.address()).await;
    gateway.control.kill();
    fs::remove_file(gateway.directory().join("registry.redb")).unwrap();
    gateway.control.restart().await;
    holds(&gateway, 1).await;
    assert_eq!(http1::get(gateway.proxy(), "/orders/hello").await.status(), 200);
    let text = readiness(&gateway).await;
    assert!(text.contains("[-]guard holds 1 replica that the registry has dropped (orders 1)"), "{text}");

    // Neither registered nor known to have been removed, and asked all the same: both planes say why.
    let asked =
        ExplainReplicaRequest { service: "orders".into(), replica_id: "r-0".into(), ..Default::default() };
    let told = gateway.control.observability().explain_replica(asked).await.unwrap().into_inner();
    assert_eq!((told.verdict(), told.conclusion()), (ReplicaVerdict::Unknown, Conclusion::SnapshotGuard));
    assert_eq!(
        (told.causes[0].layer(), &told.causes[0].node_ids),
        (Layer::SnapshotGuard, &vec!["dp-1".into()])
    );
    assert!(told.nodes[0].held_time.is_some(), "{told:?}");
    let admin = format!("http://{}", gateway.data.admin());
    let own = command::gwctl("http://127.0.0.1:1", &["explain", "orders/r-0", "--data-plane", &admin]).await;
    let own = own.success();
    assert!(
        own.contains("TAKES REQUESTS")
            && own.contains("snapshot guard")
            && own.contains("gwctl release-guard orders"),
        "{own}"
    );

    let release =
        ReleaseGuardRequest { service: "orders".into(), reason: "it is gone".into(), ..Default::default() };
    gateway.control.registry().release_guard(release).await.unwrap();
    holds(&gateway, 0).await;
    let text = readiness(&gateway).await;
    assert!(!text.contains("guard"), "{text}");
    // It has nobody: 404 would tell clients and caches that there is no such service.
    assert_eq!(http1::get(gateway.proxy(), "/orders/hello").await.status(), 503);
}
