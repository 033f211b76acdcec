//! What the gateway answers itself.

use data_plane::proxy::ProxyConfig;
use gateway_proto::Policy;

use crate::harness::{Act, Gateway, Replica, field, ok, reason, status};

#[tokio::test]
async fn what_names_no_service_is_not_found() {
    let gateway = Gateway::start(&[], Policy::default()).await;
    for (path, why) in [
        ("/", "no_route"),
        ("/orderss/x", "unknown_service"),
        ("/Orders", "unknown_service"),
        ("//orders", "no_route"),
    ] {
        let response = gateway.get(path).await;
        assert_eq!((status(&response), reason(&response).as_str()), (404, why), "{path}");
    }
}

#[tokio::test]
async fn a_service_without_replicas_is_unavailable_at_once() {
    let gateway = Gateway::start(&[], Policy::default()).await;
    let response = gateway.get("/orders/").await;
    assert_eq!((status(&response), reason(&response).as_str()), (503, "no_ready_replica"));
    assert_eq!(field(&response, "retry-after").as_deref(), Some("5"));
}

#[tokio::test]
async fn ambiguous_requests_are_refused_before_any_replica_sees_them() {
    let replica = Replica::start(|_, _| ok("")).await;
    let gateway = Gateway::start(&[replica.address], Policy::default()).await;
    for request in [
        "GET /orders/ HTTP/1.1\r\n\r\n",
        "GET /orders/ HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        "POST /orders/ HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx",
        "GET /orders/ HTTP/1.1\r\nhost : a\r\n\r\n",
        "GET /orders/ HTTP/1.1\r\nhost: a b\r\n\r\n",
        "GET /orders/ HTTP/1.1\r\nhost: a/b\r\n\r\n",
        "GET /orders/ HTTP/1.1\r\nhost: user@a\r\n\r\n",
        "GET http://user:secret@a/orders/ HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET /orders/ HTTP/1.1\r\nhost: a\r\nx: 1\0\r\n\r\n",
        "POST /orders/ HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\n",
    ] {
        let response = gateway.send(request).await;
        assert_eq!(status(&response), 400, "{request:?}");
    }
    assert_eq!(replica.seen(), Vec::<String>::new());
}

#[tokio::test]
async fn an_answer_of_two_lengths_is_refused_and_counts_against_its_replica() {
    let chunked = "transfer-encoding: chunked\r\n";
    for fields in [format!("content-length: 3\r\n{chunked}"), format!("{chunked}content-length: 3\r\n")] {
        let torn = Replica::start(move |_, _| {
            Act::Send(format!("HTTP/1.1 200 OK\r\n{fields}\r\n6\r\nabcdef\r\n0\r\n\r\n"))
        })
        .await;
        let gateway = Gateway::start(&[torn.address], Policy::default()).await;
        let response = gateway.get("/orders/").await;
        assert_eq!((status(&response), reason(&response).as_str()), (502, "malformed_response"));
        assert_eq!(gateway.service().replicas()[0].counters().failures, 1);
    }
}

#[tokio::test]
async fn tunnels_and_loops_are_refused() {
    let gateway = Gateway::start(&[], Policy::default()).await;
    let response = gateway.send("CONNECT orders:80 HTTP/1.1\r\nhost: orders:80\r\n\r\n").await;
    assert_eq!((status(&response), reason(&response).as_str()), (405, "tunnel_refused"));
    assert!(field(&response, "allow").is_some());

    let response = gateway.send("GET /orders/ HTTP/1.1\r\nhost: gw\r\nvia: 1.1 gw-dp-1\r\n\r\n").await;
    assert_eq!((status(&response), reason(&response).as_str()), (502, "loop"));
}

#[tokio::test]
async fn a_gateway_that_is_its_own_replica_asks_itself_once() {
    let gateway = Gateway::start(&[], Policy::default()).await;
    let address = gateway_proto::Address::parse(&gateway.listen.to_string()).unwrap();
    let own = data_plane::table::ReplicaSpec::listed("r-0".parse().unwrap(), address);
    let orders = data_plane::table::ServiceSpec {
        name: "orders".parse().unwrap(),
        policy: Policy::default(),
        replicas: vec![own],
    };
    gateway.table.apply(&[orders], &[], data_plane::routing::Tick::ORIGIN);
    let response = gateway.get("/orders/").await;
    assert_eq!((status(&response), reason(&response).as_str()), (502, "loop"));
    assert_eq!(gateway.service().replicas()[0].counters().attempts, 1);
}

#[tokio::test]
async fn a_replicas_address_that_leads_to_the_admin_side_is_asked_nothing_and_another_replica_is() {
    let admin = Replica::start(|_, _| ok("all that there is")).await;
    let other = Replica::start(|_, _| ok("")).await;
    let configure = |config: &mut ProxyConfig| config.admin = Some(admin.address);
    let gateway = Gateway::start_as(configure, &[admin.address], Policy::default()).await;
    let response = gateway.get("/orders/").await;
    assert_eq!((status(&response), reason(&response).as_str()), (502, "connect_failed"));
    let gateway = Gateway::start_as(configure, &[admin.address, other.address], Policy::default()).await;
    for _ in 0..2 {
        assert_eq!(status(&gateway.get("/orders/").await), 200);
    }
    assert_eq!((admin.seen(), other.seen().len()), (vec![], 2));
}

#[tokio::test]
async fn a_second_gateway_on_the_same_port_is_refused() {
    let gateway = Gateway::start(&[], Policy::default()).await;
    let config = ProxyConfig {
        listen: gateway.listen,
        tls: None,
        upstream_tls: std::sync::Arc::default(),
        admin: None,
        workers: 1,
        node_id: "dp-2".parse().unwrap(),
        domain: None,
        debug_headers: false,
        limits: data_plane::proxy::Limits::default(),
        access_log: None,
        tracer: None,
        proxy_headers: None,
        forwarding: data_plane::proxy::Forwarding::default(),
        drain_delay: std::time::Duration::ZERO,
        drain_timeout: std::time::Duration::ZERO,
    };
    let (table, _transitions) = data_plane::table::Table::new(1);
    let clock = data_plane::clock::Clock::new();
    let refused = data_plane::proxy::start(config, table, clock, &gateway.shutdown).unwrap_err();
    assert_eq!(refused.code(), 1, "it is to be tried again");
    assert!(refused.to_string().starts_with("--listen 127.0.0.1:"), "{refused}");
}
