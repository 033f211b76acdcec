//! The whole contract, driven by a client that shares no code with us: every RPC, and every refusal that a client can
//! bring about.

use std::{collections::BTreeSet, process::Command};

use gateway_proto::reason;
use gateway_tests::{Act, ControlPlane, DataPlane, Scripted, command, tools};
use serde_json::Value;

/// What a client cannot bring about by asking: the store's troubles, overload, defects, the end of the process, a peer's silence; and
/// what is refused over HTTP only, or only where callers are asked who they are: see `access`.
const BEYOND_CLIENTS: [&str; 13] = [
    reason::STORE_UNAVAILABLE,
    reason::OVERLOADED,
    reason::INTERRUPTED,
    reason::INTERNAL_ERROR,
    reason::SHUTTING_DOWN,
    reason::ACK_OVERDUE,
    reason::HOST_NOT_ALLOWED,
    reason::ORIGIN_NOT_ALLOWED,
    reason::CREDENTIALS_REQUIRED,
    reason::CREDENTIALS_INVALID,
    reason::CREDENTIALS_EXPIRED,
    reason::PERMISSION_DENIED,
    reason::RATE_LIMITED,
];

fn strings(value: &Value) -> BTreeSet<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

#[tokio::test]
async fn every_rpc_answers_and_every_error_is_told_as_documented_by_python() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("registry.redb");
    let control = ControlPlane::start_with(&store, &["--max-replicas-per-service", "3"]).await;
    let _data = DataPlane::following(&control, "dp-1", &directory.path().join("dp-1")).await;
    let replica = Scripted::start(|_, _| Act::ok(b"hello"));
    let mut python = Command::new(tools::python());
    python.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/python/contract.py"));
    python.args([control.address().to_string(), replica.address().to_string()]);
    let told = command::run(python).await.json();

    let services =
        gateway_proto::json::pool().services().filter(|service| service.package_name() == "gateway.v1");
    let rpcs: Vec<String> = services
        .flat_map(|service| {
            let name = service.full_name().to_owned();
            service.methods().map(|method| format!("{name}/{}", method.name())).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(strings(&told["called"]), rpcs.iter().map(String::as_str).collect());
    let reasons: BTreeSet<&str> = reason::ALL.into_iter().collect();
    let beyond: BTreeSet<&str> = BEYOND_CLIENTS.into_iter().collect();
    let missing: Vec<_> = reasons.difference(&strings(&told["reasons"])).copied().collect();
    assert_eq!(missing.into_iter().collect::<BTreeSet<_>>(), beyond);
}
