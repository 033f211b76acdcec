//! What passes, and how.

use data_plane::proxy::{Networks, ProxyConfig};
use gateway_proto::{Policy, policy::Algorithm};
use tokio::io::AsyncWriteExt;

use crate::harness::{Act, Gateway, Replica, body, field, ok, read_message, respond, status};

#[tokio::test]
async fn a_replica_sees_the_request_as_it_was_sent_less_the_services_name() {
    let replica = Replica::start(|_, _| ok("hello")).await;
    let gateway = Gateway::start(&[replica.address], Policy::default()).await;
    let response = gateway
        .send(
            "PATCH /orders/a//b/../%2Fc?x=%20&y=/z HTTP/1.1\r\nhost: gw.example:81\r\nx-one: 1\r\nconnection: x-two\r\n\
             x-two: 2\r\ncontent-length: 4\r\n\r\nbody",
        )
        .await;
    assert_eq!((status(&response), body(&response)), (200, "hello"));
    let seen = replica.seen().remove(0);
    assert!(seen.starts_with("PATCH /a//b/../%2Fc?x=%20&y=/z HTTP/1.1\r\n"), "{seen}");
    assert_eq!(body(&seen), "body");
    for (name, value) in [
        ("host", Some("gw.example:81")),
        ("x-one", Some("1")),
        ("x-two", None),
        ("connection", None),
        ("via", Some("1.1 gw-dp-1")),
        ("x-forwarded-for", Some("127.0.0.1")),
        ("x-forwarded-host", Some("gw.example:81")),
        ("x-forwarded-port", Some("81")),
        ("x-forwarded-prefix", Some("/orders")),
        ("x-forwarded-proto", Some("http")),
    ] {
        assert_eq!(field(&seen, name).as_deref(), value, "{name} in {seen}");
    }
}

#[tokio::test]
async fn a_service_is_also_reached_by_its_host_name() {
    let replica = Replica::start(|_, _| ok("hello")).await;
    let gateway = Gateway::start(&[replica.address], Policy::default()).await;
    gateway.send("GET /orders/x HTTP/1.1\r\nhost: orders.localhost:8080\r\n\r\n").await;
    let seen = replica.seen().remove(0);
    assert!(seen.starts_with("GET /orders/x HTTP/1.1\r\n"), "{seen}");
    assert_eq!(field(&seen, "x-forwarded-prefix"), None);
}

#[tokio::test]
async fn statuses_and_fields_pass_unchanged_but_for_the_gateways_own() {
    for code in [201, 204, 302, 404, 418, 500, 501] {
        let replica = Replica::start(move |_, _| {
            let length = if code == 204 { "" } else { "content-length: 1\r\n" };
            let text = if code == 204 { "" } else { "x" };
            Act::Send(format!(
                "HTTP/1.1 {code} X\r\n{length}location: http://a/\r\nset-cookie: a=1\r\nset-cookie: b=2\r\n\
                 keep-alive: timeout=5\r\n\r\n{text}"
            ))
        })
        .await;
        let gateway = Gateway::start(&[replica.address], Policy::default()).await;
        let response = gateway.get("/orders/").await;
        assert_eq!(status(&response), code);
        assert_eq!(field(&response, "location").as_deref(), Some("http://a/"));
        assert_eq!(response.matches("set-cookie").count(), 2);
        assert_eq!(field(&response, "keep-alive"), None);
        let told = format!("gw-dp-1; next-hop=\"{}\"; received-status={code}", replica.address);
        assert_eq!(
            field(&response, "proxy-status"),
            Some(told),
            "without an error: the replica made this answer"
        );
        let times = field(&response, "server-timing").unwrap();
        assert!(times.starts_with("gw;dur=") && times.contains(", upstream;dur="), "{times}");
        assert_eq!(field(&response, "x-gw-replica").as_deref(), Some("r-0"));
        assert_eq!(field(&response, "via").as_deref(), Some("1.1 gw-dp-1"));
        assert!(field(&response, "x-request-id").is_some());
    }
}

#[tokio::test]
async fn connections_to_replicas_are_reused() {
    let replica = Replica::start(|_, request| ok(&field(request, "x-number").unwrap())).await;
    let gateway = Gateway::start(&[replica.address], Policy::default()).await;
    let mut stream = gateway.connect().await;
    for number in 0..20 {
        let request = format!("GET /orders/ HTTP/1.1\r\nhost: gw\r\nx-number: id-{number}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let response = read_message(&mut stream).await.unwrap();
        assert_eq!(body(&response), format!("id-{number}"));
    }
    assert_eq!(replica.seen().len(), 20);
    assert_eq!(replica.connections(), 1);
}

#[tokio::test]
async fn a_connection_that_the_replica_closed_while_idle_costs_no_request() {
    let replica = Replica::start(|_, request| Act::SendAndClose(respond_text(request))).await;
    let gateway = Gateway::start(&[replica.address], Policy::default()).await;
    for _ in 0..20 {
        let response = gateway.post("/orders/", "x").await;
        assert_eq!(status(&response), 200, "{response}");
    }
    assert_eq!(replica.seen().len(), 20, "each request is seen exactly once");
}

fn respond_text(_: &str) -> String {
    "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".into()
}

#[tokio::test]
async fn head_and_not_modified_keep_their_length_and_have_no_body() {
    let replica =
        Replica::start(|_, _| Act::Send("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n".into())).await;
    let gateway = Gateway::start(&[replica.address], Policy::default()).await;
    let mut stream = gateway.connect().await;
    for _ in 0..2 {
        stream.write_all(b"HEAD /orders/ HTTP/1.1\r\nhost: gw\r\n\r\n").await.unwrap();
        let mut head = vec![0; 4096];
        let count = tokio::io::AsyncReadExt::read(&mut stream, &mut head).await.unwrap();
        let head = String::from_utf8_lossy(&head[..count]).into_owned();
        assert!(head.ends_with("\r\n\r\n"), "{head}");
        assert_eq!(field(&head, "content-length").as_deref(), Some("1000"));
    }
}

#[tokio::test]
async fn chunked_bodies_pass_in_both_directions() {
    let replica = Replica::start(|_, _| {
        Act::Send(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2;ext=1\r\nde\r\n0\r\n\r\n"
                .into(),
        )
    })
    .await;
    let gateway = Gateway::start(&[replica.address], Policy::default()).await;
    let response = gateway
        .send(
            "POST /orders/ HTTP/1.1\r\nhost: gw\r\ntransfer-encoding: chunked\r\n\r\n4\r\nwxyz\r\n0\r\n\r\n",
        )
        .await;
    assert_eq!(field(&response, "transfer-encoding").as_deref(), Some("chunked"));
    assert!(response.contains("abc") && response.contains("de"), "{response}");
    assert!(replica.seen()[0].contains("wxyz"));
}

#[tokio::test]
async fn what_is_in_flight_finishes_after_the_shutdown_begins() {
    let (release, released) = std::sync::mpsc::channel::<()>();
    let released = std::sync::Mutex::new(released);
    let replica = Replica::start(move |_, _| {
        tokio::task::block_in_place(|| released.lock().unwrap().recv().unwrap());
        respond(200, "late")
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    // The replica blocks its thread until it is released, so it lives on a runtime of its own.
    let replica = tokio::task::spawn_blocking(move || (runtime.block_on(replica), runtime)).await.unwrap();
    let gateway = Gateway::start(&[replica.0.address], Policy::default()).await;
    let mut stream = gateway.connect().await;
    stream.write_all(b"GET /orders/ HTTP/1.1\r\nhost: gw\r\n\r\n").await.unwrap();
    crate::harness::eventually("the replica has the request", || !replica.0.seen().is_empty()).await;
    gateway.shutdown.begin();
    crate::harness::eventually("the port is closed", || {
        std::net::TcpStream::connect(gateway.listen).is_err()
    })
    .await;
    release.send(()).unwrap();
    let response = read_message(&mut stream).await.unwrap();
    assert_eq!((status(&response), body(&response)), (200, "late"));
    gateway.proxy.finished().await.unwrap();
    replica.1.shutdown_background();
}

#[tokio::test]
async fn a_connection_without_a_request_does_not_hold_up_the_end() {
    let gateway = Gateway::start(&[], Policy::default()).await;
    let _silent = gateway.connect().await;
    let mut undecided = gateway.connect().await;
    undecided.write_all(b"P").await.unwrap();
    // Accepted in order, so those two are known once this one is served.
    gateway.get("/orders/").await;
    gateway.shutdown.begin();
    let drained = tokio::time::timeout(std::time::Duration::from_secs(5), gateway.proxy.finished()).await;
    drained.expect("it waits for clients that have said nothing").unwrap();
}

/// What a client claims of itself, and tries to have taken away.
const CLAIMS: &str = "x-forwarded-for: 10.9.9.9\r\nX-FORWARDED-FOR: 203.0.113.9\r\nx-forwarded-proto: https\r\n\
    x-forwarded-host: bank.example\r\nx-forwarded-port: 443\r\nx-forwarded-prefix: /outer\r\nforwarded: for=10.9.9.9\r\n\
    x-request-id: mine-1\r\nx-gw-attempt: 9\r\nX-GW-Anything: 1\r\n\
    connection: x-forwarded-for, x-forwarded-proto, forwarded, x-request-id, via\r\n";

fn trusting(networks: &'static str) -> impl FnOnce(&mut ProxyConfig) {
    move |config| {
        config.forwarding.trusted = Networks::parse(networks.split(',')).expect("they are networks");
        config.forwarding.writes_forwarded = true;
    }
}

#[tokio::test]
async fn a_stranger_is_believed_nothing_and_can_strip_nothing() {
    let replica = Replica::start(|_, _| ok("hello")).await;
    // Others are trusted, not this one.
    let gateway =
        Gateway::start_as(trusting("192.0.2.0/24,::1"), &[replica.address], Policy::default()).await;
    let request = format!("GET /orders/x HTTP/1.1\r\nhost: gw:81\r\n{CLAIMS}\r\n");
    let response = gateway.send(&request).await;
    let seen = replica.seen().remove(0);
    for (name, value) in [
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "gw:81"),
        ("x-forwarded-port", "81"),
        ("x-forwarded-prefix", "/orders"),
        ("forwarded", "for=127.0.0.1;host=\"gw:81\";proto=http"),
        ("via", "1.1 gw-dp-1"),
    ] {
        assert_eq!(field(&seen, name).as_deref(), Some(value), "{name} in {seen}");
        assert_eq!(seen.to_ascii_lowercase().matches(&format!("\r\n{name}:")).count(), 1, "{name} in {seen}");
    }
    let id = field(&seen, "x-request-id").unwrap();
    assert!(id.len() == 32 && id != "mine-1", "{id}");
    assert_eq!(field(&response, "x-request-id"), Some(id), "the client is told it");
    assert!(!seen.contains("X-GW-Anything") && !seen.contains("x-gw-attempt: 9"), "{seen}");
}

#[tokio::test]
async fn a_trusted_proxy_is_believed_and_cannot_be_made_to_forget_the_client() {
    let replica = Replica::start(|_, _| ok("hello")).await;
    let gateway = Gateway::start_as(trusting("127.0.0.0/8"), &[replica.address], Policy::default()).await;
    let request = format!("GET /orders/x HTTP/1.1\r\nhost: gw:81\r\n{CLAIMS}\r\n");
    let response = gateway.send(&request).await;
    let seen = replica.seen().remove(0);
    for (name, value) in [
        ("x-forwarded-for", "10.9.9.9, 203.0.113.9, 127.0.0.1"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "bank.example"),
        ("x-forwarded-port", "443"),
        ("x-forwarded-prefix", "/outer/orders"),
        ("forwarded", "for=10.9.9.9, for=127.0.0.1;host=\"gw:81\";proto=http"),
        ("x-request-id", "mine-1"),
    ] {
        assert_eq!(field(&seen, name).as_deref(), Some(value), "{name} in {seen}");
    }
    assert_eq!(field(&response, "x-request-id").as_deref(), Some("mine-1"));
    assert!(!seen.contains("X-GW-Anything") && !seen.contains("x-gw-attempt: 9"), "{seen}");
}

#[tokio::test]
async fn a_valid_trace_passes_untouched_and_any_other_goes_as_a_whole() {
    let replica = Replica::start(|_, _| ok("hello")).await;
    let gateway = Gateway::start(&[replica.address], Policy::default()).await;
    let valid = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    for (parent, expected) in [(valid, Some(valid)), ("00-4BF92F3577B34DA6A3CE929D0E0E4736-1-01", None)] {
        let request = format!(
            "GET /orders/ HTTP/1.1\r\nhost: gw\r\ntraceparent: {parent}\r\ntracestate: a=1, b=2\r\n\
             connection: traceparent\r\n\r\n"
        );
        gateway.send(&request).await;
        let seen = replica.seen().pop().unwrap();
        assert_eq!(field(&seen, "traceparent").as_deref(), expected, "{seen}");
        assert_eq!(field(&seen, "tracestate").as_deref(), expected.map(|_| "a=1, b=2"), "{seen}");
    }
}

#[tokio::test]
async fn requests_of_one_client_go_to_one_replica_whichever_trusted_proxy_they_came_by() {
    let first = Replica::start(|_, _| ok("0")).await;
    let second = Replica::start(|_, _| ok("1")).await;
    let mut policy = Policy::default();
    policy.balancing.algorithm = Algorithm::ConsistentHash;
    policy.balancing.hash_by = "address".parse().unwrap();
    let replicas = [first.address, second.address];
    let gateway = Gateway::start_as(trusting("127.0.0.0/8,10.0.0.0/8"), &replicas, policy).await;
    let of_client = async |number: u32, hops: &str| {
        let request = format!(
            "GET /orders/ HTTP/1.1\r\nhost: gw\r\nx-forwarded-for: 9.9.9.9, 203.0.113.{number}{hops}\r\n\r\n"
        );
        body(&gateway.send(&request).await).to_owned()
    };
    let mut seen = String::new();
    for number in 0..16 {
        let replica = of_client(number, "").await;
        assert_eq!(of_client(number, ", 10.0.0.7").await, replica, "client {number}");
        seen.push_str(&replica);
    }
    assert!(seen.contains('0') && seen.contains('1'), "clients are told apart: {seen}");
}
