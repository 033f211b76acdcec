//! The API without our code: grpcurl and Python know nothing but what reflection tells them.

use std::process::Command;

use gateway_tests::{
    Act, Gateway, Scripted, command,
    http1::{self},
    tools,
};
use serde_json::{Value, json};

const SERVICES: [&str; 10] = [
    "gateway.v1.DiscoveryService",
    "gateway.v1.ObservabilityService",
    "gateway.v1.PeerService",
    "gateway.v1.PolicyService",
    "gateway.v1.RegistryService",
    "gateway.v1.RouteService",
    "gateway.v1.StoreService",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];

/// Calls a method with JSON.
async fn grpcurl(gateway: &Gateway, method: &str, request: &Value) -> command::Finished {
    let mut command = Command::new(tools::grpcurl());
    command.args(["-plaintext", "-format-error", "-max-time", "10", "-d", &request.to_string()]);
    command.args([&gateway.control.address().to_string(), method]);
    command::run(command).await
}

/// grpcurl's own verbs.
async fn grpcurl_verb(gateway: &Gateway, args: &[&str]) -> String {
    let mut command = Command::new(tools::grpcurl());
    command.arg("-plaintext").arg(gateway.control.address().to_string()).args(args);
    command::run(command).await.success()
}

/// Calls methods, one after the other.
async fn python(gateway: &Gateway, calls: &Value) -> Value {
    let mut command = Command::new(tools::python());
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/python/call.py"));
    command.args([gateway.control.address().to_string(), calls.to_string()]);
    command::run(command).await.json()
}

/// A gateway whose data plane has seen traffic to one replica.
async fn gateway() -> (Gateway, Scripted) {
    let gateway = Gateway::start().await;
    let replica = Scripted::start(|_, _| Act::ok(b"hello"));
    gateway.register("payments", "r-1", replica.address()).await;
    assert_eq!(http1::get(gateway.proxy(), "/payments/x").await.status(), 200);
    gateway
        .breaker_becomes(
            "payments",
            "r-1",
            gateway_proto::v1::BreakerState::Closed,
            std::time::Duration::from_secs(10),
        )
        .await;
    (gateway, replica)
}

#[tokio::test]
async fn everything_is_listed_and_described_by_grpcurl() {
    let (gateway, _replica) = gateway().await;
    let listed = grpcurl_verb(&gateway, &["list"]).await;
    let listed: Vec<&str> = listed.lines().collect();
    assert_eq!(listed, SERVICES);
    let described = grpcurl_verb(&gateway, &["describe", "gateway.v1.RegistryService"]).await;
    for method in ["Register", "Deregister", "Heartbeat", "ReportHealth", "ListReplicas"] {
        assert!(described.contains(&format!("rpc {method} ")), "{described}");
    }
    let described = grpcurl_verb(&gateway, &["describe", "gateway.v1.Breaker"]).await;
    assert!(described.contains("string reason = 9"), "{described}");
}

#[tokio::test]
async fn both_versions_of_reflection_answer_by_grpcurl() {
    let (gateway, _replica) = gateway().await;
    for version in ["v1", "v1alpha"] {
        let method = format!("grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
        let answer = grpcurl(&gateway, &method, &json!({"listServices": ""})).await.json();
        let services = answer["listServicesResponse"]["service"].as_array().unwrap();
        let mut names: Vec<_> = services.iter().filter_map(|service| service["name"].as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, SERVICES, "{version}");
    }
}

#[tokio::test]
async fn a_replica_lives_from_registration_to_deregistration_by_grpcurl() {
    let (gateway, _replica) = gateway().await;
    let registry = |method: &str| format!("gateway.v1.RegistryService/{method}");
    let register = json!({"service": "orders", "replicaId": "r-1", "endpoint": {"address": "127.0.0.1:9001"}, "leaseTtl": "30s"});
    let registered = grpcurl(&gateway, &registry("Register"), &register).await.json();
    assert_eq!(registered["heartbeatInterval"], "10s", "{registered}");
    assert_eq!(registered["created"], true, "{registered}");
    let lease = &registered["leaseId"];
    let owned = json!({"service": "orders", "replicaId": "r-1", "leaseId": lease});

    let renewed = grpcurl(&gateway, &registry("Heartbeat"), &owned).await.json();
    assert!(renewed["expireTime"].is_string(), "{renewed}");

    let mut report = owned.clone();
    report["health"] = json!("HEALTH_STATUS_DEGRADED");
    let reported = grpcurl(&gateway, &registry("ReportHealth"), &report).await.json();
    assert_eq!(reported["replica"]["health"], "HEALTH_STATUS_DEGRADED", "{reported}");

    let listed = grpcurl(&gateway, &registry("ListReplicas"), &json!({"service": "orders"})).await.json();
    assert_eq!(listed["replicas"][0]["endpoint"]["address"], "127.0.0.1:9001", "{listed}");
    assert!(!listed.to_string().contains(lease.as_str().unwrap()), "a lease id is a secret: {listed}");

    let removed = grpcurl(&gateway, &registry("Deregister"), &owned).await.json();
    assert_eq!(removed["removed"], true, "{removed}");

    let of_payments = json!({"service": "payments"});
    let breakers =
        grpcurl(&gateway, "gateway.v1.ObservabilityService/ListBreakers", &of_payments).await.json();
    assert_eq!(breakers["breakers"][0]["state"], "BREAKER_STATE_CLOSED", "{breakers}");
}

#[tokio::test]
async fn errors_carry_status_reason_and_field_by_grpcurl() {
    let (gateway, _replica) = gateway().await;
    let request = json!({"service": "Orders", "endpoint": {"address": "127.0.0.1:9001"}});
    let refused = grpcurl(&gateway, "gateway.v1.RegistryService/Register", &request).await;
    // grpcurl adds the status code to 64.
    assert_eq!(refused.code(), 64 + tonic::Code::InvalidArgument as i32, "{}", refused.stderr);
    for expected in ["BadRequest", "\"field\": \"service\"", "ErrorInfo", "INVALID_FIELD", "gateway.v1"] {
        assert!(refused.stderr.contains(expected), "{expected}: {}", refused.stderr);
    }
}

#[tokio::test]
async fn a_replica_lives_from_registration_to_deregistration_by_python() {
    let (gateway, _replica) = gateway().await;
    let registry = |method: &str| format!("gateway.v1.RegistryService/{method}");
    let register =
        json!({"service": "orders", "replicaId": "r-1", "endpoint": {"address": "127.0.0.1:9001"}});
    let first = python(&gateway, &json!([{"method": registry("Register"), "request": register}])).await;
    assert_eq!(first["health"], "SERVING");
    let mut services: Vec<_> =
        first["services"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    services.sort_unstable();
    assert_eq!(services, SERVICES);

    let owned = json!({"service": "orders", "replicaId": "r-1", "leaseId": first["answers"][0]["response"]["leaseId"]});
    let mut report = owned.clone();
    report["health"] = json!("HEALTH_STATUS_UNHEALTHY");
    let calls = json!([
        {"method": registry("Heartbeat"), "request": owned},
        {"method": registry("ReportHealth"), "request": report},
        {"method": registry("ListReplicas"), "request": {"service": "-"}},
        {"method": "gateway.v1.ObservabilityService/ListBreakers", "request": {}},
        {"method": registry("Deregister"), "request": owned},
    ]);
    let rest = python(&gateway, &calls).await;
    let answers = rest["answers"].as_array().unwrap();
    assert!(answers.iter().all(|answer| answer["code"] == "OK"), "{rest}");
    assert_eq!(answers[2]["response"]["replicas"].as_array().map(Vec::len), Some(2), "{rest}");
    assert_eq!(answers[3]["response"]["breakers"][0]["replicaId"], "r-1", "{rest}");
    assert_eq!(answers[4]["response"]["removed"], true, "{rest}");
}

#[tokio::test]
async fn errors_carry_status_reason_and_field_by_python() {
    let (gateway, _replica) = gateway().await;
    let calls = json!([
        {"method": "gateway.v1.RegistryService/Register",
         "request": {"service": "orders", "endpoint": {"address": "127.0.0.1:65536"}}},
        {"method": "gateway.v1.RegistryService/Heartbeat",
         "request": {"service": "orders", "replicaId": "r-1", "leaseId": "0".repeat(32)}},
    ]);
    let answers = python(&gateway, &calls).await["answers"].clone();
    assert_eq!(answers[0]["code"], "INVALID_ARGUMENT", "{answers}");
    let details = answers[0]["details"].as_array().unwrap();
    let of_type = |name: &str| {
        let is_it = |detail: &&Value| detail["@type"].as_str().is_some_and(|kind| kind.ends_with(name));
        details.iter().find(is_it).unwrap_or_else(|| panic!("no {name}: {answers}"))
    };
    assert_eq!(of_type("BadRequest")["fieldViolations"][0]["field"], "endpoint.address");
    assert_eq!(of_type("ErrorInfo")["reason"], "INVALID_FIELD");
    assert_eq!(of_type("ErrorInfo")["domain"], "gateway.v1");
    assert_eq!(answers[1]["code"], "NOT_FOUND", "{answers}");
    assert_eq!(answers[1]["details"][0]["reason"], "LEASE_EXPIRED", "{answers}");
}
