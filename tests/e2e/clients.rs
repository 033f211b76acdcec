//! The clients of docs/clients, in each language: one joins, is routed to, is found again after its lease was lost, and leaves
//! without a lost request.

use std::{net::SocketAddr, path::PathBuf, process::Command, time::Duration};

use gateway_proto::v1::{DeregisterRequest, HealthStatus, Replica};
use gateway_tests::{Act, Gateway, Process, Scripted, eventually_within, http1, tools};

/// Two of a client's heartbeats, and a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(60);

fn folder(language: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/clients").join(language)
}

/// The replica of `orders` that is not the steady one.
async fn newcomer(gateway: &Gateway) -> Option<Replica> {
    gateway.replicas("orders").await.into_iter().find(|replica| replica.replica_id != "steady")
}

/// Waits until it is there, ready, and in a later registration than that.
async fn joined(gateway: &Gateway, name: &str, after: i64) -> Replica {
    eventually_within(PATIENCE, &format!("the client in {name} is registered and healthy"), async || {
        match newcomer(gateway).await {
            Some(replica) if replica.health() == HealthStatus::Healthy && replica.incarnation > after => {
                Ok(replica)
            }
            other => Err(format!("{other:?}")),
        }
    })
    .await
}

async fn greeted(proxy: SocketAddr, greeting: &str) {
    eventually_within(PATIENCE, &format!("somebody says {greeting:?}"), async || {
        let answer = http1::get(proxy, "/orders/hello").await;
        let said = String::from_utf8_lossy(answer.body()).trim().to_owned();
        if said == greeting { Ok(()) } else { Err(said) }
    })
    .await;
}

/// Starts a client by `command`, and ends it; `ends_with` is how a program of its language ends by SIGTERM.
async fn joins_and_leaves(name: &str, mut command: Command, greeting: &str, ends_with: Option<i32>) {
    let gateway = Gateway::start().await;
    let steady = Scripted::start(|_, _| Act::ok(b"steady"));
    gateway.register("orders", "steady", steady.address()).await;
    command.env("CONTROL_PLANE", gateway.control.address().to_string());
    command.envs([("SERVICE", "orders"), ("LISTEN", "127.0.0.1:0")]);
    let mut client = Process::spawn_group(name, &mut command);
    let replica = joined(&gateway, name, 0).await;
    assert!(replica.lease.is_some(), "{replica:?}");
    greeted(gateway.proxy(), greeting).await;

    // Somebody removes it: it hears of that over its stream, and comes back as the same replica.
    let request = DeregisterRequest {
        service: "orders".into(),
        replica_id: replica.replica_id.clone(),
        force: true,
        ..Default::default()
    };
    gateway.control.registry().deregister(request).await.expect("operators may");
    let again = joined(&gateway, name, replica.incarnation).await;
    assert_eq!(again.replica_id, replica.replica_id);
    greeted(gateway.proxy(), greeting).await;

    client.terminate();
    let requests = async {
        for sent in 0.. {
            let answer = http1::get(gateway.proxy(), "/orders/hello").await;
            assert_eq!(answer.status(), 200, "request {sent} while the client in {name} leaves");
        }
    };
    let ended = tokio::select! {
        ended = client.exited() => ended,
        () = requests => unreachable!("there is no last request"),
    };
    assert_eq!(ended.code(), ends_with, "{name}: {}", client.stderr());
    assert_eq!(newcomer(&gateway).await, None, "{name}: {}", client.stderr());
    let events = gateway.event_types("orders", &replica.replica_id).await;
    let after = |wanted: &str| events.iter().rposition(|event| event == wanted);
    let (draining, gone) = (after("REPLICA_DRAINING"), after("REPLICA_DEREGISTERED"));
    assert!(draining.is_some() && draining < gone, "{name}: {events:?}");
}

#[tokio::test]
async fn the_client_in_python_joins_and_leaves_by_python() {
    let mut command = Command::new(tools::python());
    command.arg("replica.py").current_dir(folder("python"));
    joins_and_leaves("Python", command, "Hello from Python", Some(0)).await;
}

#[tokio::test]
async fn the_client_in_go_joins_and_leaves_by_go() {
    joins_and_leaves("Go", Command::new(tools::go_client()), "Hello from Go", Some(0)).await;
}

#[tokio::test]
async fn the_client_in_node_joins_and_leaves_by_node() {
    let mut command = Command::new(tools::node());
    command.arg("replica.js").current_dir(folder("node"));
    joins_and_leaves("Node.js", command, "Hello from Node.js", Some(0)).await;
}

#[tokio::test]
async fn the_client_in_java_joins_and_leaves_by_java() {
    let mut command = Command::new(tools::java());
    command.args(["-cp", "target/classes:target/lib/*", "Replica"]).current_dir(folder("java"));
    // What the Java machine ends with when a signal ended it, however orderly that was.
    joins_and_leaves("Java", command, "Hello from Java", Some(128 + 15)).await;
}

#[tokio::test]
async fn the_client_in_curl_joins_and_leaves_by_curl() {
    let replica = Scripted::start(|_, _| Act::ok(b"Hello from a shell"));
    let mut command = Command::new("bash");
    command.arg("replica.sh").current_dir(folder("curl"));
    command.env("ADDRESS", replica.address().to_string()).env("PATH", tools::path());
    joins_and_leaves("bash", command, "Hello from a shell", Some(0)).await;
}
