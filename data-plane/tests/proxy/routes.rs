//! Explicit routes: which service a request goes to, and the path that its replica sees.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test that called it")]

use gateway_proto::{Policy, Route, policy::Methods, v1};

use crate::harness::{Gateway, Replica, field, ok, reason, status};

/// A gateway whose service `orders` has one replica, with these routes.
async fn routed(routes: &[v1::Route], policy: Policy) -> (Gateway, Replica) {
    let replica = Replica::start(|_, _| ok("")).await;
    let gateway = Gateway::start(&[replica.address], policy).await;
    set(&gateway, routes);
    (gateway, replica)
}

fn set(gateway: &Gateway, routes: &[v1::Route]) {
    let routes: Vec<_> = routes.iter().map(|wire| Route::parse(wire).unwrap()).collect();
    gateway.table.set_routes(&routes);
}

fn route(name: &str, service: &str, path_prefix: &str, rewrite_prefix: &str) -> v1::Route {
    v1::Route {
        name: name.into(),
        service: service.into(),
        path_prefix: path_prefix.into(),
        rewrite_prefix: rewrite_prefix.into(),
        ..Default::default()
    }
}

fn targets(replica: &Replica) -> Vec<String> {
    let target = |request: &String| request.split(' ').nth(1).unwrap().to_owned();
    replica.seen().iter().map(target).collect()
}

#[tokio::test]
async fn a_route_s_prefix_is_kept_stripped_or_replaced_and_the_rest_stays_byte_for_byte() {
    let routes = [
        route("kept", "orders", "/kept", ""),
        route("stripped", "orders", "/stripped", "/"),
        route("replaced", "orders", "/old/v1", "/v2"),
    ];
    let (gateway, replica) = routed(&routes, Policy::default()).await;
    for (sent, seen, told) in [
        ("/kept/a%2Fb//c/../d?x=%20", "/kept/a%2Fb//c/../d?x=%20", None),
        ("/stripped", "/", Some("/stripped")),
        ("/stripped/a%2Fb//c/../d?x=%20&y=/", "/a%2Fb//c/../d?x=%20&y=/", Some("/stripped")),
        ("/old/v1?x", "/v2?x", Some("/old/v1")),
        ("/old/v1/x", "/v2/x", Some("/old/v1")),
        // Not the route's: it ends where its segment ends.
        ("/orders/strippedx", "/strippedx", Some("/orders")),
    ] {
        assert_eq!(status(&gateway.get(sent).await), 200, "{sent}");
        assert_eq!(targets(&replica).last().unwrap(), seen, "{sent}");
        let seen = replica.seen();
        assert_eq!(field(seen.last().unwrap(), "x-forwarded-prefix").as_deref(), told, "{sent}");
    }
    let response = gateway.get("/strippedx").await;
    assert_eq!((status(&response), reason(&response).as_str()), (404, "unknown_service"));
}

#[tokio::test]
async fn a_route_goes_before_the_names_of_services_in_host_and_path() {
    let by_host = v1::Route { host: "orders.localhost".into(), ..route("host", "elsewhere", "", "") };
    let (gateway, replica) =
        routed(&[by_host, route("path", "elsewhere", "/orders/x", "")], Policy::default()).await;
    for request in [
        "GET / HTTP/1.1\r\nhost: orders.localhost\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: ORDERS.localhost:8080\r\n\r\n",
        "GET http://orders.localhost/y HTTP/1.1\r\nhost: gw\r\n\r\n",
        "GET /orders/x/y HTTP/1.1\r\nhost: gw\r\n\r\n",
    ] {
        let response = gateway.send(request).await;
        // Somebody has declared the service: it is not unknown, it has nobody to ask.
        assert_eq!((status(&response), reason(&response).as_str()), (503, "no_ready_replica"), "{request}");
        assert_eq!(field(&response, "retry-after").as_deref(), Some("5"));
    }
    assert_eq!(status(&gateway.get("/orders/y").await), 200);
    assert_eq!(targets(&replica), ["/y"]);
}

#[tokio::test]
async fn host_method_and_headers_choose_the_route() {
    let header = v1::HeaderMatch { name: "x-canary".into(), value: "1".into() };
    let routes = [
        v1::Route { host: "*.shop.example".into(), ..route("host", "orders", "", "/host") },
        v1::Route { methods: vec!["PUT".into()], ..route("method", "orders", "/api", "/method") },
        v1::Route { headers: vec![header], ..route("header", "orders", "/api", "/header") },
        route("rest", "orders", "/api", "/rest"),
    ];
    let (gateway, replica) = routed(&routes, Policy::default()).await;
    for (request, seen) in [
        ("GET /api HTTP/1.1\r\nhost: a.shop.example\r\n\r\n", "/host/api"),
        ("PUT /api HTTP/1.1\r\nhost: gw\r\ncontent-length: 0\r\n\r\n", "/method"),
        ("PUT /api HTTP/1.1\r\nhost: gw\r\nx-canary: 1\r\ncontent-length: 0\r\n\r\n", "/method"),
        ("GET /api HTTP/1.1\r\nhost: gw\r\nX-Canary: 1\r\n\r\n", "/header"),
        ("GET /api HTTP/1.1\r\nhost: gw\r\nx-canary: 1\r\nx-canary: 1\r\n\r\n", "/rest"),
        ("GET /api HTTP/1.1\r\nhost: gw\r\n\r\n", "/rest"),
    ] {
        assert_eq!(status(&gateway.send(request).await), 200, "{request}");
        assert_eq!(targets(&replica).last().unwrap(), seen, "{request}");
    }
}

#[tokio::test]
async fn the_policy_of_the_service_holds_for_requests_by_route_too() {
    let mut post_only = Policy::default();
    post_only.request.methods = Methods::parse(["POST"]).unwrap();
    let (gateway, replica) = routed(&[route("a", "orders", "/a", "")], post_only).await;
    let response = gateway.get("/a").await;
    assert_eq!((status(&response), reason(&response).as_str()), (405, "method_not_allowed"));
    assert_eq!(replica.connections(), 0);
}

#[tokio::test]
async fn other_routes_hold_from_the_next_request_on() {
    let (gateway, replica) = routed(&[route("a", "orders", "/a", "/one")], Policy::default()).await;
    gateway.get("/a").await;
    set(&gateway, &[route("a", "orders", "/a", "/two")]);
    gateway.get("/a").await;
    set(&gateway, &[]);
    assert_eq!(status(&gateway.get("/a").await), 404);
    assert_eq!(targets(&replica), ["/one", "/two"]);
}
