//! Registration over plain HTTP, in the old style, on the control plane's one port.

use bytes::Bytes;
use gateway_proto::reason;
use gateway_tests::{
    Act, Gateway, Scripted,
    http1::{self, Answer},
};
use http::{Request, header::CONTENT_TYPE};
use serde_json::{Value, json};

async fn send(gateway: &Gateway, method: &str, path: &str, content_type: &str, body: &str) -> Answer {
    let request = Request::builder().method(method).uri(path).header(CONTENT_TYPE, content_type);
    let request = request.body(Bytes::copy_from_slice(body.as_bytes())).unwrap();
    http1::send(gateway.control.address(), request).await
}

async fn register(gateway: &Gateway, method: &str, body: &Value) -> Answer {
    send(gateway, method, "/register", "application/json", &body.to_string()).await
}

fn parsed(answer: &Answer) -> Value {
    serde_json::from_slice(answer.body()).unwrap_or_else(|_| panic!("not JSON: {:?}", answer.body()))
}

#[tokio::test]
async fn a_replica_comes_and_goes_by_two_calls() {
    let gateway = Gateway::start().await;
    let replica = Scripted::start(|_, _| Act::ok(b"hello"));
    let body = json!({"service": "client-service", "address": replica.address().to_string()});

    let created = register(&gateway, "POST", &body).await;
    assert_eq!(created.status(), 201);
    assert!(created.headers().contains_key("location"), "{:?}", created.headers());
    assert_eq!(parsed(&created)["replica"]["lease"]["permanent"], true, "{:?}", created.body());
    assert_eq!(register(&gateway, "POST", &body).await.status(), 200, "it is known");
    gateway.synced().await;
    assert_eq!(http1::get(gateway.proxy(), "/client-service/hello").await.body().as_ref(), b"hello");

    assert_eq!(register(&gateway, "DELETE", &body).await.status(), 204);
    assert_eq!(register(&gateway, "DELETE", &body).await.status(), 204, "an unknown one is gone, too");
    gateway.synced().await;
    let none_ready = http1::get(gateway.proxy(), "/client-service/hello").await;
    assert_eq!(
        (none_ready.status().as_u16(), parsed(&none_ready)["reason"].as_str()),
        (503, Some("no_ready_replica"))
    );
}

#[tokio::test]
async fn a_lease_is_given_to_whoever_asks_for_one() {
    let gateway = Gateway::start().await;
    let body = json!({"service": "orders", "address": "127.0.0.1:9001", "lease_ttl": "30s"});
    let answer = parsed(&register(&gateway, "POST", &body).await);
    assert_eq!(answer["leaseId"].as_str().map(str::len), Some(32), "{answer}");
}

#[tokio::test]
async fn bad_requests_are_answered_with_a_problem_that_names_what_is_wrong() {
    let gateway = Gateway::start().await;
    const JSON: &str = "application/json";
    let huge = format!("{{\"service\":\"{}\"}}", "o".repeat(100 << 10));
    let cases: [(&str, &str, &str, &str, u16, &str); 12] = [
        ("POST", "/register", JSON, r#"{"service":"Orders","address":"127.0.0.1:9001"}"#, 400, "service"),
        ("POST", "/register", JSON, r#"{"service":"orders","address":"127.0.0.1"}"#, 400, "address"),
        ("POST", "/register", JSON, r#"{"service":"orders","address":"127.0.0.1:65536"}"#, 400, "address"),
        (
            "POST",
            "/register",
            JSON,
            r#"{"service":"orders","address":"127.0.0.1:1","lease_ttl":"-1s"}"#,
            400,
            "lease_ttl",
        ),
        ("POST", "/register", JSON, r#"{"service":"orders"}"#, 400, "address"),
        ("POST", "/register", JSON, r#"{"address":"127.0.0.1:9001"}"#, 400, "service"),
        ("POST", "/register", JSON, "{", 400, ""),
        ("POST", "/register", "text/plain", r#"{"service":"orders","address":"127.0.0.1:9001"}"#, 415, ""),
        ("POST", "/register", JSON, &huge, 413, ""),
        ("PUT", "/register", JSON, "{}", 405, ""),
        ("GET", "/nothing", JSON, "", 404, ""),
        ("DELETE", "/register", JSON, r#"{"service":"orders"}"#, 400, "address"),
    ];
    for (method, path, content_type, body, status, field) in cases {
        let answer = send(&gateway, method, path, content_type, body).await;
        let shown = format!("{method} {path} {content_type} {:.60}: {:?}", body, answer.body());
        assert_eq!(answer.status(), status, "{shown}");
        assert_eq!(answer.headers()[CONTENT_TYPE], "application/problem+json", "{shown}");
        let problem = parsed(&answer);
        assert_eq!(problem["status"], status, "{shown}");
        assert!(problem["reason"].is_string(), "{shown}");
        if !field.is_empty() {
            assert_eq!(problem["reason"], reason::INVALID_FIELD, "{shown}");
            assert!(problem["violations"].to_string().contains(field), "{shown}");
        }
        if status == 405 {
            assert!(answer.headers().contains_key("allow"), "{shown}");
        }
    }
    assert_eq!(gateway.replicas("orders").await, [], "nothing of it was applied");
}

#[tokio::test]
async fn a_registration_of_a_known_address_is_of_the_replica_that_is_there() {
    let gateway = Gateway::start().await;
    let address = "127.0.0.1:9001".parse().unwrap();
    let first = gateway.register("orders", "r-1", address).await;
    // The old style names no replica: it means the one at this address.
    let body = json!({"service": "orders", "address": address.to_string()});
    let answer = register(&gateway, "POST", &body).await;
    assert_eq!(answer.status(), 200);
    let replicas = gateway.replicas("orders").await;
    assert_eq!(replicas.len(), 1);
    assert_eq!(replicas[0].replica_id, first.replica_id);
}

#[tokio::test]
async fn both_planes_say_whether_they_live_and_are_ready_and_what_they_count() {
    let gateway = Gateway::start().await;
    let replica = Scripted::start(|_, _| Act::ok(b"hello"));
    gateway.register("orders", "r-1", replica.address()).await;
    assert_eq!(http1::get(gateway.proxy(), "/orders/x").await.status(), 200);
    let metrics = [
        (gateway.control.address(), "gateway_registry_replicas"),
        (gateway.data.admin(), "gateway_requests_total"),
    ];
    for (address, name) in metrics {
        assert_eq!(http1::get(address, "/livez").await.status(), 200);
        assert_eq!(http1::get(address, "/readyz").await.status(), 200);
        let text = String::from_utf8(http1::get(address, "/metrics").await.body().to_vec()).unwrap();
        assert!(text.contains(name), "{text}");
        assert!(text.contains("gateway_build_info"), "{text}");
    }
}
