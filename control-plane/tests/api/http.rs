use serde_json::{Value, json};

use crate::plane::Plane;

fn parse(body: &str) -> Value {
    serde_json::from_str(body).unwrap()
}

#[tokio::test]
async fn a_replica_registers_with_a_service_and_an_address() {
    let plane = Plane::start().await;
    let body = r#"{"service":"orders","address":"10.0.0.1:80"}"#;
    let (status, head, answer) = plane.http_json("POST", "/register", body).await;
    let answer = parse(&answer);
    assert_eq!(status, 201);
    assert_eq!(answer["replica"]["lease"], json!({"permanent": true}));
    assert_eq!(answer["leaseId"], json!(""));
    let location =
        format!("/v1/services/orders/replicas/{}", answer["replica"]["replicaId"].as_str().unwrap());
    assert!(head.contains(&format!("location: {location}")), "{head}");

    let get = format!("GET {location} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let (status, _, replica) = plane.http(&get).await;
    assert_eq!((status, &parse(&replica)["endpoint"]["address"]), (200, &json!("10.0.0.1:80")));

    let (status, _, again) = plane.http_json("POST", "/register", body).await;
    assert_eq!((status, &parse(&again)["replica"]), (200, &answer["replica"]));

    for _ in 0..2 {
        assert_eq!(plane.http_json("DELETE", "/register", body).await.0, 204);
    }
    let (status, _, problem) = plane.http(&get).await;
    assert_eq!((status, &parse(&problem)["reason"]), (404, &json!("REPLICA_REMOVED")));
}

#[tokio::test]
async fn a_lease_is_had_for_the_asking_and_an_operator_may_remove_its_holder() {
    let plane = Plane::start().await;
    let body = r#"{"service":"orders","address":"10.0.0.1:80","lease_ttl":"30s"}"#;
    let (_, _, answer) = plane.http_json("POST", "/register", body).await;
    let answer = parse(&answer);
    assert_eq!(answer["leaseId"].as_str().unwrap().len(), 32);
    assert_eq!(answer["heartbeatInterval"], json!("10s"));
    assert_eq!(answer["replica"]["lease"]["ttl"], json!("30s"));
    let body = r#"{"service":"orders","address":"10.0.0.1:80"}"#;
    assert_eq!(plane.http_json("DELETE", "/register", body).await.0, 204);
}

#[tokio::test]
async fn one_line_of_text_is_answered_to_who_prefers_it() {
    let plane = Plane::start().await;
    let body = r#"{"service":"orders","address":"10.0.0.1:80"}"#;
    let (_, _, line) = plane
        .http(&format!(
            "POST /register HTTP/1.1\r\nhost: x\r\nconnection: close\r\naccept: text/plain\r\n\
             content-type: application/json; charset=utf-8\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ))
        .await;
    assert!(
        line.starts_with("orders/r-") && line.ends_with(" registered at 10.0.0.1:80 (permanent)\n"),
        "{line}"
    );
}

#[tokio::test]
async fn every_error_is_a_problem_with_a_reason() {
    let plane = Plane::start().await;
    let large = format!("\"{}\"", "x".repeat(70_000));
    for (method, body, status, reason) in [
        ("POST", "{", 400, "MALFORMED_REQUEST"),
        ("POST", "[]", 400, "MALFORMED_REQUEST"),
        ("POST", "{}", 400, "INVALID_FIELD"),
        ("POST", r#"{"service":"A","address":"a:1"}"#, 400, "INVALID_FIELD"),
        ("POST", r#"{"service":"a","address":"a:1","lease":"1s"}"#, 400, "INVALID_FIELD"),
        ("DELETE", r#"{"service":"a"}"#, 400, "INVALID_FIELD"),
        ("POST", &large, 413, "MALFORMED_REQUEST"),
        ("PUT", "{}", 405, "MALFORMED_REQUEST"),
    ] {
        let (got, head, answer) = plane.http_json(method, "/register", body).await;
        let problem = parse(&answer);
        assert_eq!((got, &problem["reason"]), (status, &json!(reason)), "{method} {answer}");
        assert!(head.contains("content-type: application/problem+json"), "{head}");
        assert_eq!(head.contains("allow: post,delete"), status == 405, "{head}");
    }
    let (_, _, answer) = plane.http_json("POST", "/register", r#"{"address":"a"}"#).await;
    let violations = &parse(&answer)["violations"];
    assert_eq!((&violations[0]["field"], &violations[1]["field"]), (&json!("service"), &json!("address")));

    let form = "POST /register HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
                content-type: application/x-www-form-urlencoded\r\ncontent-length: 2\r\n\r\n{}";
    assert_eq!(plane.http(form).await.0, 415);
    for path in ["/nowhere", "/v1/services/%ff/replicas/x"] {
        let unknown = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let (status, _, answer) = plane.http(&unknown).await;
        assert_eq!((status, &parse(&answer)["reason"]), (404, &json!("MALFORMED_REQUEST")));
    }
}

#[tokio::test]
async fn probes_and_metrics_are_served_on_the_same_port() {
    let plane = Plane::start().await;
    plane.register(crate::plane::request("orders", "10.0.0.1:80")).await;
    let get = async |path: &str| {
        plane.http(&format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).await
    };
    assert_eq!(get("/livez").await.0, 200);
    assert_eq!(get("/readyz").await.2, "ok\n");
    let verbose = get("/readyz?verbose").await.2;
    assert_eq!(verbose, "[+]store ok (revision 1, 1 replicas)\n[+]not draining\n");
    let metrics = get("/metrics").await.2;
    for line in [
        "gateway_registry_services 1",
        "gateway_registry_replicas{health=\"healthy\"} 1",
        "gateway_registry_registrations_total{result=\"created\"} 1",
        "grpc_server_handled_total{grpc_service=\"gateway.v1.RegistryService\",grpc_method=\"Register\",grpc_code=\"OK\"} 1",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
}
