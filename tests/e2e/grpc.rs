//! gRPC through the gateway, end to end: clients and servers of others on both sides.

use std::process::Command;

use gateway_proto::v1::{self, registry_service_client::RegistryServiceClient};
use gateway_tests::{ControlPlane, DataPlane, Process, command, tools};
use serde_json::json;
use tonic::{Code, transport::Endpoint};

const CALLS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/python/grpc_calls.py");

/// A server of Python's, and its port.
async fn serving(name: &str) -> (Process, u64) {
    let mut server = Process::spawn(name, Command::new(tools::python()).args([CALLS, "serve", name]));
    let port = server.ready().await["port"].as_u64().unwrap();
    (server, port)
}

/// A data plane in front of replicas of `service` at these ports.
async fn before(service: &str, ports: &[u64]) -> DataPlane {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("services.toml");
    let replicas = ports
        .iter()
        .map(|port| format!("[[service.replica]]\naddress = \"127.0.0.1:{port}\"\nprotocol = \"h2c\"\n"));
    let replicas: String = replicas.collect();
    std::fs::write(&file, format!("[[service]]\nname = \"{service}\"\n{replicas}")).unwrap();
    DataPlane::start(&["--static", &file.display().to_string()]).await
}

async fn python(what: &str, data: &DataPlane) -> serde_json::Value {
    let mut python = Command::new(tools::python());
    python.args([CALLS, what, &data.address().to_string()]);
    command::run(python).await.json()
}

#[tokio::test]
async fn calls_of_every_kind_pass_between_strangers_in_turn_by_python() {
    let (_one, first) = serving("one").await;
    let (_other, second) = serving("other").await;
    let data = before("calls", &[first, second]).await;
    let told = python("call", &data).await;
    let names = told["answered_by"].as_array().unwrap();
    let of = |name: &str| names.iter().filter(|named| *named == name).count();
    assert_eq!((of("one"), of("other")), (4, 4), "one connection, and each call goes to the next: {told}");
    assert_eq!(told["checked"].as_array().unwrap().len(), 10, "{told}");
}

#[tokio::test]
async fn calls_of_every_kind_pass_to_replicas_that_speak_tls_by_python() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let made = rcgen::generate_simple_self_signed(["calls.example".to_owned()]).unwrap();
    std::fs::write(path("key"), made.signing_key.serialize_pem()).unwrap();
    std::fs::write(path("crt"), made.cert.pem()).unwrap();
    let mut server = Command::new(tools::python());
    server.args([CALLS, "serve", "one", &path("crt"), &path("key")]);
    let mut server = Process::spawn("one", &mut server);
    let port = server.ready().await["port"].as_u64().unwrap();
    std::fs::write(
        path("services.toml"),
        format!(
            "[[service]]\nname = \"calls\"\n[[service.replica]]\naddress = \"127.0.0.1:{port}\"\nprotocol = \"tls\"\n\
             tls_server_name = \"calls.example\"\n"
        ),
    )
    .unwrap();
    let data = DataPlane::start(&["--static", &path("services.toml"), "--upstream-ca", &path("crt")]).await;
    let told = python("call", &data).await;
    assert_eq!(told["answered_by"], json!(vec!["one"; 8]), "{told}");
    assert_eq!(told["checked"].as_array().unwrap().len(), 10, "{told}");
}

#[tokio::test]
async fn a_call_whose_server_dies_is_unavailable_and_the_next_one_goes_to_another_by_python() {
    let (_one, first) = serving("one").await;
    let (_other, second) = serving("other").await;
    let data = before("calls", &[first, second]).await;
    assert_eq!(python("die", &data).await, json!({"code": "UNAVAILABLE"}));
    // The one that is left, too; then there is nobody.
    assert_eq!(python("die", &data).await, json!({"code": "UNAVAILABLE"}));
}

#[tokio::test]
async fn a_tonic_client_reaches_a_tonic_server_through_the_gateway() {
    let directory = tempfile::tempdir().unwrap();
    let control = ControlPlane::start(&directory.path().join("registry.redb")).await;
    let data = before("registry", &[control.address().port().into()]).await;
    let endpoint = Endpoint::from_shared(format!("http://{}", data.address())).unwrap();
    let channel = endpoint.origin("http://registry.localhost".parse().unwrap()).connect().await.unwrap();
    let mut registry = RegistryServiceClient::new(channel);
    let register = |service: &str| v1::RegisterRequest {
        service: service.into(),
        endpoint: Some(v1::Endpoint { address: "10.0.0.1:80".into(), ..Default::default() }),
        ..Default::default()
    };
    let registered = registry.register(register("orders")).await.unwrap().into_inner();
    let refused = registry.register(register("Orders")).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(!refused.details().is_empty(), "details pass");

    // Both directions at once.
    let heartbeat = v1::HeartbeatRequest {
        service: "orders".into(),
        replica_id: registered.replica.unwrap().replica_id,
        lease_id: registered.lease_id,
        ..Default::default()
    };
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let requests = tokio_stream::wrappers::ReceiverStream::new(receiver);
    sender.send(v1::KeepAliveRequest { heartbeats: vec![heartbeat.clone()] }).await.unwrap();
    let mut renewed = registry.keep_alive(requests).await.unwrap().into_inner();
    for _ in 0..3 {
        let results = renewed.message().await.unwrap().unwrap().results;
        assert!(matches!(results[0].result, Some(v1::keep_alive_result::Result::Renewed(_))), "{results:?}");
        sender.send(v1::KeepAliveRequest { heartbeats: vec![heartbeat.clone()] }).await.unwrap();
    }
}
