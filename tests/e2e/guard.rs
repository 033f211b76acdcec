//! The registry forgets, and traffic does not notice.

use std::fs;

use gateway_proto::v1::{ListNodesRequest, ReleaseGuardRequest};
use gateway_tests::{Act, Gateway, Load, Scripted, eventually, http1};

/// Waits until the data plane reports that it holds so many replicas which the registry does not have.
async fn holds(gateway: &Gateway, count: i32) {
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
async fn a_control_plane_that_lost_its_store_takes_no_replica_away_until_an_operator_lets_go() {
    let mut gateway = Gateway::start().await;
    let replicas = [(); 2].map(|()| Scripted::start(|_, _| Act::ok(b"hello")));
    for (number, replica) in replicas.iter().enumerate() {
        gateway.register("orders", &format!("r-{number}"), replica.address()).await;
    }
    let load = Load::start(gateway.proxy(), "/orders/hello", 200);
    gateway.control.kill();
    fs::remove_file(gateway.directory().join("registry.redb")).unwrap();
    gateway.control.restart().await;
    gateway.synced().await;
    assert!(gateway.replicas("orders").await.is_empty(), "the registry knows nobody");
    holds(&gateway, 2).await;
    let text = readiness(&gateway).await;
    assert!(text.contains("[-]guard holds 2 replicas that the registry has dropped (orders 2)"), "{text}");

    // One comes back by itself.
    gateway.register("orders", "r-0", replicas[0].address()).await;
    holds(&gateway, 1).await;
    let asked = replicas[1].seen().len();
    eventually("the held one is asked", async || {
        if replicas[1].seen().len() > asked { Ok(()) } else { Err("it is not".to_owned()) }
    })
    .await;

    let release =
        ReleaseGuardRequest { service: "orders".into(), reason: "it is gone".into(), ..Default::default() };
    gateway.control.registry().release_guard(release).await.unwrap();
    holds(&gateway, 0).await;
    let text = readiness(&gateway).await;
    assert!(!text.contains("guard"), "{text}");
    load.stop().await.assert_flawless();
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

    let release =
        ReleaseGuardRequest { service: "orders".into(), reason: "it is gone".into(), ..Default::default() };
    gateway.control.registry().release_guard(release).await.unwrap();
    holds(&gateway, 0).await;
    assert_eq!(http1::get(gateway.proxy(), "/orders/hello").await.status(), 404);
}
