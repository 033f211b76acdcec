//! What a client sends reaches the replica, and what the replica answers reaches the client.

use bytes::Bytes;
use gateway_tests::{
    Act, DataPlane, Gateway, Scripted, command,
    http1::{self, Connection},
    tools,
};
use http::{Method, Request};
use serde_json::Value;
use tempfile::TempDir;

/// A data plane with one replica, from a static file: the control plane has no part in this.
async fn proxied(replica: &Scripted) -> (DataPlane, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("services.toml");
    let service = format!("[[service]]\nname = \"orders\"\nreplicas = [\"{}\"]\n", replica.address());
    std::fs::write(&file, service).unwrap();
    (DataPlane::start(&["--static", &file.display().to_string()]).await, directory)
}

#[tokio::test]
async fn method_path_and_query_reach_the_replica_byte_for_byte() {
    let replica = Scripted::start(|_, _| Act::ok(b""));
    let (data, _directory) = proxied(&replica).await;
    let methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE"];
    let targets = [
        "/echo?a=%20b%26c",
        "/a%2Fb//c/../d/./e",
        "/%E2%82%AC?q=a+b&q=%2B",
        "/;v=1,2?",
        "/x?/y?z#".trim_end_matches('#'),
    ];
    for method in methods {
        for target in targets {
            let request = format!(
                "{method} /orders{target} HTTP/1.1\r\nhost: gw\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            );
            let answer = http1::raw(data.address(), request.as_bytes()).await;
            assert!(answer.starts_with(b"HTTP/1.1 200"), "{method} {target}");
            let seen = replica.seen();
            let seen = seen.last().unwrap();
            assert_eq!((seen.method(), seen.target()), (method, target));
        }
    }
}

#[tokio::test]
async fn statuses_and_fields_of_the_replica_reach_the_client() {
    let statuses = [
        "200 OK",
        "201 Created",
        "204 No Content",
        "302 Found",
        "304 Not Modified",
        "404 Not Found",
        "418 I'm a teapot",
        "500 Internal Server Error",
    ];
    let replica = Scripted::start(move |_, number| {
        let status = statuses[number];
        let has_body = !status.starts_with("204") && !status.starts_with("304");
        let body = if has_body { "content-length: 4\r\n\r\nbody" } else { "\r\n" };
        let fields = "x-one: 1\r\nset-cookie: a=1\r\nset-cookie: b=2\r\nlocation: /there\r\netag: \"v1\"\r\n";
        Act::Answer(format!("HTTP/1.1 {status}\r\n{fields}{body}").into_bytes())
    });
    let (data, _directory) = proxied(&replica).await;
    let mut client = Connection::open(data.address()).await.unwrap();
    for status in statuses {
        let answer = client.send(http1::request(Method::GET, "/orders/x")).await.unwrap();
        assert_eq!(answer.status().as_str(), &status[..3]);
        assert_eq!(answer.headers()["x-one"], "1");
        assert_eq!(answer.headers()["location"], "/there");
        assert_eq!(answer.headers()["etag"], "\"v1\"");
        let cookies: Vec<_> = answer.headers().get_all("set-cookie").iter().collect();
        assert_eq!(cookies, ["a=1", "b=2"]);
        let has_body = !matches!(answer.status().as_u16(), 204 | 304);
        assert_eq!(answer.body().as_ref(), if has_body { &b"body"[..] } else { b"" }, "{status}");
    }
}

#[tokio::test]
async fn twenty_mebibytes_pass_unchanged_in_both_directions() {
    let bytes: Vec<u8> =
        (0..20u32 << 20).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let sent = bytes.clone();
    let replica = Scripted::start(move |_, _| Act::ok(&bytes));
    let (data, _directory) = proxied(&replica).await;
    let request = Request::put("/orders/x").body(Bytes::from(sent.clone())).unwrap();
    let answer = http1::send(data.address(), request).await;
    assert_eq!(answer.status(), 200);
    assert!(answer.body() == &sent, "the answer differs");
    assert!(replica.seen()[0].body == sent, "the request differs");
}

#[tokio::test]
async fn fields_of_one_connection_do_not_pass_in_either_direction() {
    let answer = "HTTP/1.1 200 OK\r\nconnection: x-private\r\nx-private: 1\r\nkeep-alive: timeout=5\r\n\
        proxy-authenticate: Basic\r\nx-public: 1\r\ncontent-length: 0\r\n\r\n";
    let replica = Scripted::start(move |_, _| Act::Answer(answer.into()));
    let (data, _directory) = proxied(&replica).await;
    let request = "GET /orders/x HTTP/1.1\r\nhost: gw\r\nconnection: close, x-secret\r\nx-secret: 1\r\n\
        keep-alive: timeout=5\r\nproxy-connection: keep-alive\r\nte: trailers\r\nupgrade: websocket\r\n\
        x-open: 1\r\nx-forwarded-for: 1.2.3.4\r\nx-gw-replica: forged\r\n\r\n";
    let received = http1::raw(data.address(), request.as_bytes()).await;
    let received = String::from_utf8_lossy(&received).to_lowercase();
    for field in ["x-private", "keep-alive", "proxy-authenticate"] {
        assert!(!received.contains(&format!("\n{field}:")), "{field} came back: {received}");
    }
    assert!(received.contains("x-public: 1"), "{received}");

    let seen = replica.seen();
    let seen = &seen[0];
    for field in
        ["x-secret", "keep-alive", "proxy-connection", "te", "upgrade", "x-gw-replica", "transfer-encoding"]
    {
        assert_eq!(seen.values(field), [""; 0], "{field} was forwarded");
    }
    assert_eq!(seen.values("x-open"), ["1"]);
    // Who the client is says the gateway, not the client.
    assert_eq!(seen.values("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(seen.values("x-forwarded-host"), ["gw"]);
    assert_eq!(seen.values("x-forwarded-prefix"), ["/orders"]);
    assert_eq!(seen.values("via").len(), 1);
}

#[tokio::test]
async fn an_unknown_service_is_answered_with_404_and_a_reason() {
    let replica = Scripted::start(|_, _| Act::ok(b""));
    let (data, _directory) = proxied(&replica).await;
    for (target, reason) in [("/nothing/x", "unknown_service"), ("/", "no_route")] {
        let answer = http1::get(data.address(), target).await;
        assert_eq!(answer.status(), 404);
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
        let problem: Value = serde_json::from_slice(answer.body()).unwrap();
        assert_eq!(problem["reason"], reason);
    }
    assert!(replica.seen().is_empty());
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_never_shown_as_complete() {
    let replica = Scripted::start(|_, _| {
        Act::AnswerAndClose(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nnot a hundred".to_vec())
    });
    let (data, _directory) = proxied(&replica).await;
    let mut client = Connection::open(data.address()).await.unwrap();
    let result = client.send(http1::request(Method::GET, "/orders/x")).await;
    assert!(result.is_err(), "{result:?}");
}

#[tokio::test]
async fn the_demo_service_tells_what_it_received_through_a_whole_gateway() {
    let gateway = Gateway::start().await;
    let replica = gateway_tests::DemoReplica::start("r-1").await;
    gateway.register("client-service", "r-1", replica.address()).await;
    let request = Request::post("/client-service/echo?a=%20b%26c").body(Bytes::from_static(b"body")).unwrap();
    let answer = http1::send(gateway.proxy(), request).await;
    let echo: Value = serde_json::from_slice(answer.body()).unwrap();
    assert_eq!(echo["method"], "POST");
    assert_eq!(echo["target"], "/echo?a=%20b%26c");
    assert_eq!(echo["body"], "body");
    assert_eq!(answer.headers()["x-gw-replica"], "r-1");
    assert_eq!(answer.headers()["x-gw-attempts"], "1");
}

#[tokio::test]
async fn http_2_clients_are_served_on_the_same_port_by_curl() {
    let replica = Scripted::start(|_, _| Act::ok(b"hello"));
    let (data, _directory) = proxied(&replica).await;
    let mut command = std::process::Command::new(tools::curl());
    command.args(["--silent", "--http2-prior-knowledge", "--write-out", " over HTTP/%{http_version}"]);
    command.arg(format!("http://{}/orders/x?y=%20", data.address()));
    assert_eq!(command::run(command).await.success(), "hello over HTTP/2");
    assert_eq!(replica.seen()[0].target(), "/x?y=%20");
}
