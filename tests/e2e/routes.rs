//! Explicit routes and request policies, from an operator's call to what a replica sees.

use bytes::Bytes;
use gateway_proto::v1::{
    DeleteRouteRequest, HeaderMatch, Policy, RequestPolicy, Rollout, Route, UpdatePolicyRequest,
    UpdateRouteRequest,
};
use gateway_tests::{
    Act, ControlPlane, DataPlane, Gateway, Scripted, eventually,
    http1::{self, Answer},
};
use http::{Method, Request};

async fn set(control: &ControlPlane, route: Route) -> Rollout {
    let request = UpdateRouteRequest {
        route: Some(route),
        allow_missing: true,
        wait_timeout: Some(prost_types::Duration { seconds: 20, nanos: 0 }),
        ..Default::default()
    };
    control.routes().update_route(request).await.unwrap().into_inner().rollout.unwrap()
}

fn shop() -> Route {
    Route {
        name: "shop".into(),
        service: "orders".into(),
        host: "*.shop.example".into(),
        path_prefix: "/api".into(),
        rewrite_prefix: "/".into(),
        ..Default::default()
    }
}

async fn ask(gateway: &Gateway, host: &str, target: &str, canary: &str) -> Answer {
    let request = Request::builder().uri(target).header("host", host).header("x-canary", canary);
    http1::send(gateway.proxy(), request.body(Bytes::new()).unwrap()).await
}

#[tokio::test]
async fn a_route_leads_requests_to_its_service_from_the_moment_it_is_answered_for() {
    let gateway = Gateway::start().await;
    let orders = Scripted::start(|_, _| Act::ok(b"orders"));
    let canary = Scripted::start(|_, _| Act::ok(b"canary"));
    gateway.register("orders", "r-1", orders.address()).await;
    assert_eq!(ask(&gateway, "a.shop.example", "/api/x?y=%2F", "0").await.status(), 404);

    let rollout = set(&gateway.control, shop()).await;
    assert_eq!((rollout.node_count, rollout.acked_node_count), (1, 1));
    let metrics = http1::get(gateway.data.admin(), "/metrics").await;
    assert!(String::from_utf8_lossy(metrics.body()).contains("gateway_explicit_routes 1\n"));
    let answer = ask(&gateway, "a.shop.example", "/api/x?y=%2F", "0").await;
    assert_eq!(answer.body().as_ref(), b"orders");
    assert_eq!(orders.seen().last().unwrap().target(), "/x?y=%2F");

    // A more specific one, whose service comes later than the route.
    let header = HeaderMatch { name: "x-canary".into(), value: "1".into() };
    let route = Route { name: "canary".into(), service: "canary".into(), headers: vec![header], ..shop() };
    set(&gateway.control, route).await;
    assert_eq!(ask(&gateway, "a.shop.example", "/api/x", "1").await.status(), 503);
    gateway.register("canary", "r-1", canary.address()).await;
    assert_eq!(ask(&gateway, "a.shop.example", "/api/x", "1").await.body().as_ref(), b"canary");
    assert_eq!(ask(&gateway, "a.shop.example", "/api/x", "2").await.body().as_ref(), b"orders");

    let delete = DeleteRouteRequest { name: "shop".into(), ..Default::default() };
    gateway.control.routes().delete_route(delete).await.unwrap();
    gateway.synced().await;
    assert_eq!(ask(&gateway, "a.shop.example", "/api/x", "2").await.status(), 404);
}

#[tokio::test]
async fn routes_outlive_both_planes() {
    let directory = tempfile::tempdir().unwrap();
    let mut control = ControlPlane::start(&directory.path().join("registry.redb")).await;
    set(&control, Route { host: String::new(), ..shop() }).await;
    control.restart().await;
    let cache = directory.path().join("dp-1");
    let mut data = DataPlane::following(&control, "dp-1", &cache).await;
    let is_routed = async |address| {
        let status = http1::get(address, "/api/x").await.status().as_u16();
        // The route is known, its service is not.
        if status == 503 { Ok(()) } else { Err(format!("{status}")) }
    };
    eventually("the route is known again", async || is_routed(data.address()).await).await;
    let file = cache.join("snapshot.bin");
    eventually("the route is on disk", async || match std::fs::read(&file) {
        Ok(bytes) if bytes.windows(4).any(|window| window == b"shop") => Ok(()),
        other => Err(format!("{:?}", other.map(|bytes| bytes.len()))),
    })
    .await;
    control.kill();
    data.restart().await;
    eventually("the route is known without the control plane", async || is_routed(data.address()).await)
        .await;
}

#[tokio::test]
async fn what_a_policy_does_not_let_through_reaches_no_replica() {
    let gateway = Gateway::start().await;
    let replica = Scripted::start(|_, _| Act::ok(b"hello"));
    gateway.register("orders", "r-1", replica.address()).await;
    let request = RequestPolicy {
        methods: vec!["POST".into()],
        json_only: Some(true),
        max_body_bytes: Some(16),
        ..Default::default()
    };
    let policy = Policy { service: "orders".into(), request: Some(request), ..Default::default() };
    let update = UpdatePolicyRequest { policy: Some(policy), allow_missing: true, ..Default::default() };
    gateway.control.policies().update_policy(update).await.unwrap();
    gateway.synced().await;
    let post = |media_type: &'static str, body: &'static str| {
        let request =
            Request::builder().method(Method::POST).uri("/orders/x").header("content-type", media_type);
        http1::send(gateway.proxy(), request.body(Bytes::from_static(body.as_bytes())).unwrap())
    };
    assert_eq!(http1::get(gateway.proxy(), "/orders/x").await.status(), 405);
    assert_eq!(post("text/plain", "hello").await.status(), 415);
    assert_eq!(post("application/json", "{\"a\":").await.status(), 400);
    assert_eq!(post("application/json", "{\"a\":\"0123456789\"}").await.status(), 413);
    assert!(replica.seen().is_empty());
    assert_eq!(post("application/json", "{\"a\":1}").await.status(), 200);
}
