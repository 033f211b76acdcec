//! Who shows a token, the id of a lease or a password is told by his name, and what he shows by nobody: not in logs at their finest,
//! not in events, metrics, and what gwctl says.

use std::{fs, path::Path};

use gateway_proto::v1::{
    GetReplicaRequest, HeartbeatRequest, KeepAliveRequest, ListServicesRequest, RegisterRequest,
    keep_alive_result,
};
use gateway_tests::{
    Act, ControlPlane, DataPlane, Etcd, Scripted, binaries, command, eventually,
    http1::{self, Answer},
};
use http::{HeaderMap, Method, header};
use serde_json::{Value, json};
use tonic::{Code, Request};

use crate::{access::write_auth, etcd::request, logs::into_file};

/// The token of each is `gwt_` and the name of its file.
const ENTRIES: &str = r#"
[[token]]
name = "ana-who-operates"
token-file = "of-ana"
roles = ["operator"]

[[token]]
name = "deployer-of-orders"
token-file = "of-deployer"
roles = ["replica"]
services = ["orders"]

[[token]]
name = "data-planes"
token-file = "of-data-planes"
roles = ["data-plane"]

[[token]]
name = "control-planes"
token-file = "of-control-planes"
roles = ["reader"]

[[token]]
name = "one-whose-time-is-over"
token-file = "of-the-past"
roles = ["operator"]
expires = "2020-01-01T00:00:00Z"
"#;
const PASSWORD: &str = "pass-of-etcd-4711";
/// It is shown and nobody has it.
const GUESSED: [&str; 2] = ["gwt_of-somebody-else", "5ca1ab1e5ca1ab1e5ca1ab1e5ca1ab1e"];

/// A message of whoever shows this.
fn shown<T>(authorization: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", authorization.parse().unwrap());
    request
}

fn bearer(token: &str) -> String {
    format!("Bearer gwt_{token}")
}

/// A request in HTTP/1.1 of whoever shows this, and a lease.
async fn ask(at: std::net::SocketAddr, method: Method, path: &str, shown: [&str; 2], body: Value) -> Answer {
    let mut request = http1::request(method, path);
    let headers: &mut HeaderMap = request.headers_mut();
    headers.insert(header::AUTHORIZATION, shown[0].parse().unwrap());
    headers.insert("x-gw-lease", shown[1].parse().unwrap());
    if !body.is_null() {
        headers.insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
        *request.body_mut() = body.to_string().into();
    }
    http1::send(at, request).await
}

/// An etcd that asks for a password.
async fn locked_etcd() -> Etcd {
    let etcd = Etcd::start().await;
    for user in ["root", "gw"] {
        etcd.ctl(&["user", "add", &format!("{user}:{PASSWORD}")]);
        etcd.ctl(&["role", "add", user]);
        etcd.ctl(&["user", "grant-role", user, user]);
    }
    etcd.ctl(&["role", "grant-permission", "gw", "--prefix=true", "readwrite", "/gw/"]);
    etcd.ctl(&["auth", "enable"]);
    etcd
}

/// Registers, renews and looks by gRPC, with what is right and with what is not; yields the id of the lease.
async fn by_grpc(control: &ControlPlane, address: &str) -> String {
    let mut registry = control.registry();
    let deployer = bearer("of-deployer");
    let wish = RegisterRequest { service: "orders".into(), ..request("r-1", address, Some(60)) };
    let lease = registry.register(shown(&deployer, wish.clone())).await.unwrap().into_inner().lease_id;
    for wrong in [bearer("of-somebody-else"), bearer("of-the-past"), "Basic gwt_of-somebody-else".into()] {
        let refused = registry.register(shown(&wrong, wish.clone())).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
        let refused =
            registry.list_services(shown(&wrong, ListServicesRequest::default())).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    }
    let heartbeat = |lease: &str| HeartbeatRequest {
        service: "orders".into(),
        replica_id: "r-1".into(),
        lease_id: lease.into(),
        ..Default::default()
    };
    registry.heartbeat(shown(&deployer, heartbeat(&lease))).await.unwrap();
    let refused = registry.heartbeat(shown(&deployer, heartbeat(GUESSED[1]))).await.unwrap_err();
    assert!(!refused.message().contains(GUESSED[1]), "{refused}");
    let heartbeats = vec![heartbeat(&lease), heartbeat(GUESSED[1])];
    let beats = tokio_stream::iter([KeepAliveRequest { heartbeats }]);
    let mut renewed = registry.keep_alive(shown(&deployer, beats)).await.unwrap().into_inner();
    let results = renewed.message().await.unwrap().unwrap().results;
    let is_renewed: Vec<_> = results
        .iter()
        .map(|result| matches!(result.result, Some(keep_alive_result::Result::Renewed(_))))
        .collect();
    assert_eq!(is_renewed, [true, false], "{results:?}");
    let whose = GetReplicaRequest { service: "orders".into(), replica_id: "r-1".into() };
    registry.get_replica(shown(&deployer, whose)).await.unwrap();
    lease
}

/// The same over HTTP/1.1.
async fn by_rest(control: &ControlPlane) -> String {
    let ask = async |method: Method, path: &str, authorization: &str, lease: &str, body: Value| {
        ask(control.address(), method, path, [authorization, lease], body).await
    };
    let (replicas, deployer) = ("/v1/services/orders/replicas", bearer("of-deployer"));
    let body = json!({"replicaId": "r-2", "endpoint": {"address": "127.0.0.1:9"}, "leaseTtl": "60s"});
    let registered = ask(Method::POST, replicas, &deployer, "", body.clone()).await;
    let said: Value = serde_json::from_slice(registered.body()).unwrap();
    let lease = said["leaseId"].as_str().unwrap_or_else(|| panic!("{said}")).to_owned();
    for wrong in [bearer("of-somebody-else"), bearer("of-the-past"), "Basic gwt_of-somebody-else".into()] {
        assert_eq!(ask(Method::POST, replicas, &wrong, "", body.clone()).await.status(), 401, "{wrong}");
        assert_eq!(ask(Method::GET, "/v1/services", &wrong, "", Value::Null).await.status(), 401, "{wrong}");
    }
    let renewal = format!("{replicas}/r-2/lease");
    assert_eq!(ask(Method::PUT, &renewal, &deployer, &lease, Value::Null).await.status(), 200);
    assert!(!ask(Method::PUT, &renewal, &deployer, GUESSED[1], Value::Null).await.status().is_success());
    assert_eq!(ask(Method::GET, "/v1/services", &bearer("of-ana"), "", Value::Null).await.status(), 200);
    lease
}

/// All that gwctl says of what people do, as explicitly as it can.
async fn by_gwctl(control: &ControlPlane, folder: &Path) -> String {
    let mut said = String::new();
    for (token, line, codes) in [
        ("of-ana", "get services", &[0][..]),
        ("of-ana", "describe replica orders/r-1", &[0]),
        ("of-ana", "auth whoami", &[0]),
        ("of-deployer", "auth whoami", &[0]),
        ("of-ana", "drain orders/r-2 --reason known", &[0]),
        ("of-deployer", "deregister orders/r-2 --lease-file lease", &[0]),
        ("of-the-past", "get services", &[6]),
        ("of-somebody-else", "get services", &[6]),
        ("of-ana", "check", &[0, 1]),
        ("of-ana", "get nodes -o json", &[0]),
        ("of-ana", "get events -o json --limit 1000", &[0]),
    ] {
        let mut gwctl = binaries::gwctl();
        gwctl.current_dir(folder).args(["-vv", "-e", &control.url(), "--token-file", token]);
        let done = command::run({
            gwctl.args(line.split_whitespace());
            gwctl
        })
        .await;
        assert!(codes.contains(&done.code()), "{line}: {}{}", done.stdout, done.stderr);
        said.push_str(&format!("{}{}", done.stdout, done.stderr));
    }
    said
}

#[tokio::test]
async fn no_token_no_lease_and_no_password_is_in_logs_at_trace_events_metrics_or_what_gwctl_says_by_etcd() {
    let (etcd, folder) = (locked_etcd().await, tempfile::tempdir().unwrap());
    let path = |name: &str| folder.path().join(name);
    let file = |name: &str| path(name).display().to_string();
    let auth = write_auth(folder.path(), ENTRIES).display().to_string();
    fs::write(path("password"), PASSWORD).unwrap();
    fs::write(path("of-somebody-else"), GUESSED[0]).unwrap();
    fs::write(path("of-admin"), "gwt_of-admin").unwrap();
    let store = etcd.store("gw").replace("etcd://", "etcd://gw@");
    let (password, peers) = (file("password"), file("of-control-planes"));
    let flags = [
        "--log",
        "trace",
        "--auth-file",
        &auth,
        "--store-password-file",
        &password,
        "--peer-token-file",
        &peers,
    ];
    let json = [&flags[..], &["--log-format", "json"]].concat();
    let mut text = ControlPlane::start_in(into_file(&path("text.log")), store.clone(), &flags).await;
    let mut json = ControlPlane::start_in(into_file(&path("json.log")), store, &json).await;
    let (token, admin) = (file("of-data-planes"), file("of-admin"));
    let follows = ["--control-plane", &text.url(), "--control-plane-token-file", &token, "--node-id", "dp-1"];
    let flags = ["--log", "trace", "--no-cache", "--admin-token-file", &admin];
    let mut data = DataPlane::start_in(into_file(&path("data.log")), &[&follows[..], &flags].concat()).await;

    let replica = Scripted::start(|_, _| Act::ok(b"hello"));
    let leases = [by_grpc(&text, &replica.address().to_string()).await, by_rest(&json).await];
    fs::write(path("lease"), &leases[1]).unwrap();
    data.routes("orders").await;
    // What a client shows to a replica is nobody's business on the way.
    let client = bearer("of-a-client");
    let answer = ask(data.address(), Method::GET, "/orders/hello", [&client, ""], Value::Null).await;
    assert_eq!(answer.status(), 200);
    assert!(replica.seen().iter().any(|seen| seen.values("authorization") == [client.as_str()]));
    eventually("each control plane has shown its token to the other", async || {
        let listed =
            ask(json.address(), Method::GET, "/v1/nodes", [&bearer("of-ana"), ""], Value::Null).await;
        let said = String::from_utf8_lossy(listed.body()).into_owned();
        if said.contains("dp-1") { Ok(()) } else { Err(said) }
    })
    .await;
    let mut told = vec![("gwctl".to_owned(), by_gwctl(&json, folder.path()).await)];
    for (name, at, token) in [
        ("metrics of a control plane", text.address(), "of-ana"),
        ("metrics of the other", json.address(), "of-ana"),
        ("metrics of the data plane", data.admin(), "of-admin"),
    ] {
        let metrics = ask(at, Method::GET, "/metrics", [&bearer(token), ""], Value::Null).await;
        assert_eq!(metrics.status(), 200, "{name}");
        told.push((name.into(), String::from_utf8(metrics.body().to_vec()).unwrap()));
        let refused = ask(at, Method::GET, "/metrics", [&bearer("of-somebody-else"), ""], Value::Null).await;
        assert_eq!(refused.status(), 401, "{name}");
    }
    // At the end all of the logs is written.
    for process in [data.process(), text.process(), json.process()] {
        process.terminate();
        process.exited().await;
    }
    for (log, trace, names) in [
        ("text.log", " TRACE ", &["deployer-of-orders", "dp-1"][..]),
        ("json.log", "\"level\":\"TRACE\"", &["deployer-of-orders", "ana-who-operates"]),
        ("data.log", " TRACE ", &["dp-1"]),
    ] {
        let text = fs::read_to_string(path(log)).unwrap();
        assert!(text.contains(trace), "{log} is not at its finest");
        for name in names {
            assert!(text.contains(name), "{log} does not tell of {name}");
        }
        told.push((log.into(), text));
    }
    let tokens = ENTRIES.lines().filter_map(|line| line.strip_prefix("token-file = \"")?.strip_suffix('"'));
    let tokens = tokens.chain(["of-admin", "of-a-client"]).map(|name| format!("gwt_{name}"));
    let secrets: Vec<_> =
        tokens.chain(leases).chain([GUESSED[0], GUESSED[1], PASSWORD].map(Into::into)).collect();
    assert_eq!(secrets.len(), 12);
    for (name, text) in &told {
        for secret in &secrets {
            let leak = text.lines().find(|line| line.contains(secret.as_str()));
            assert_eq!(leak, None, "{secret} is in {name}");
        }
    }
}
