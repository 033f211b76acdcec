//! gwctl against a real gateway: what it shows, as a table and as JSON, and how it ends.

use std::time::Duration;

use gateway_proto::v1::BreakerState;
use gateway_tests::{Act, Gateway, Load, Scripted, command, command::Finished, eventually};
use serde_json::Value;

const LONG: Duration = Duration::from_secs(15);

async fn gwctl(gateway: &Gateway, line: &str) -> Finished {
    let args: Vec<&str> = line.split_whitespace().collect();
    command::gwctl(&gateway.control.url(), &args).await
}

/// A gateway where `orders/r-2` is down and its breaker open.
async fn with_an_open_breaker() -> (Gateway, [Scripted; 2]) {
    let gateway = Gateway::start_unchecked().await;
    let replicas = [Scripted::start(|_, _| Act::ok(b"hello")), Scripted::refusing(|_, _| Act::ok(b""))];
    for (number, replica) in replicas.iter().enumerate() {
        gateway.register("orders", &format!("r-{}", number + 1), replica.address()).await;
    }
    let load = Load::start(gateway.proxy(), "/orders/hello", 200);
    gateway.breaker_becomes("orders", "r-2", BreakerState::Open, LONG).await;
    // Without traffic nobody probes: it stays open.
    load.stop().await.assert_flawless();
    gateway.breaker_becomes("orders", "r-1", BreakerState::Closed, LONG).await;
    (gateway, replicas)
}

/// The cells of the row that begins with `first`.
fn row<'a>(table: &'a str, first: &str) -> Vec<&'a str> {
    let line = table.lines().find(|line| line.starts_with(first));
    let line = line.unwrap_or_else(|| panic!("no row {first}:\n{table}"));
    line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()
}

#[tokio::test]
async fn tables_show_services_replicas_breakers_and_data_planes() {
    let (gateway, replicas) = with_an_open_breaker().await;

    let services = gwctl(&gateway, "get services").await.success();
    assert_eq!(row(&services, "NAME")[..3], ["NAME", "READY", "BREAKERS"]);
    assert_eq!(row(&services, "orders")[..3], ["orders", "2/2", "1 closed, 1 NOT CLOSED"]);

    let listed = gwctl(&gateway, "get replicas orders").await.success();
    let address = replicas[0].address().to_string();
    assert_eq!(row(&listed, "r-1")[..5], ["r-1", &address, "healthy", "serving", "closed"]);
    assert!(row(&listed, "r-2")[4].starts_with("OPEN, retry "), "{listed}");

    let breakers = gwctl(&gateway, "get breakers").await;
    let (table, notes) = (breakers.stdout.clone(), breakers.stderr.clone());
    let cells = row(&table, "orders");
    assert_eq!(cells[..4], ["orders", "r-2", "OPEN", "1/1"]);
    assert_eq!(cells[6], "consecutive_failures 5 >= 5: connect refused", "{table}");
    assert!(notes.contains("1 closed"), "how many are not shown: {notes}");
    let all = gwctl(&gateway, "get breakers -a").await.success();
    assert_eq!(all.lines().count(), 3, "{all}");

    let nodes = gwctl(&gateway, "get nodes").await.success();
    assert!(nodes.contains("dp-1"), "{nodes}");
}

#[tokio::test]
async fn lists_show_what_services_and_replicas_were_asked_lately_and_nothing_for_what_was_not() {
    let (gateway, replicas) = with_an_open_breaker().await;
    gateway.register("idle", "i-1", replicas[0].address()).await;
    let columns = "--columns name,rps,success,p50,p99";
    let shown = eventually("a report has come", async || {
        let text = gwctl(&gateway, &format!("get services {columns}")).await.success();
        if row(&text, "orders")[1] == "-" { Err(text) } else { Ok(text) }
    })
    .await;
    assert_eq!(row(&shown, "idle"), ["idle", "-", "-", "-", "-"]);
    let orders = row(&shown, "orders");
    assert!(orders[1].parse::<f64>().is_ok() && orders[2].ends_with('%'), "{shown}");
    assert!(orders[3..].iter().all(|latency| latency.ends_with('s')), "{shown}");
    let json = gwctl(&gateway, "get services -o json").await.json();
    let service = |name: &str| {
        json["services"].as_array().unwrap().iter().find(|it| it["service"] == name).unwrap().clone()
    };
    assert!(service("orders")["requestRate"].as_f64() > Some(0.0), "{json}");
    assert!(service("orders")["latencyP99"].as_str().is_some_and(|text| text.ends_with('s')), "{json}");
    assert_eq!(service("idle").get("requestRate"), None, "{json}");
    let csv = gwctl(&gateway, "get services -o csv").await.success();
    assert!(csv.starts_with("name,ready,breakers,draining,lost,rps,success,p50,p99,policy,age,"), "{csv}");

    // Of replicas, how long they take is counted while somebody watches only.
    let listed = eventually("the new one is reported", async || {
        let text = gwctl(&gateway, "get replicas --columns replica,rps,success,p99").await.success();
        if row(&text, "i-1")[1] == "-" { Err(text) } else { Ok(text) }
    })
    .await;
    assert_eq!(row(&listed, "i-1"), ["i-1", "0.0", "-", "-"], "{listed}");
    let dead = row(&listed, "r-2");
    assert_eq!((dead[2], dead[3]), ("0.00%", "-"), "{listed}");
}

#[tokio::test]
async fn a_replica_s_description_says_why_it_is_out_since_when_and_until_when() {
    let (gateway, _replicas) = with_an_open_breaker().await;
    let text = gwctl(&gateway, "describe replica orders/r-2").await.success();
    for expected in ["orders/r-2", "dp-1", "OPEN", "connect refused", "BREAKER_OPENED", "REPLICA_REGISTERED"]
    {
        assert!(text.contains(expected), "{expected}:\n{text}");
    }
    let json = gwctl(&gateway, "describe replica orders/r-2 -o json").await.json();
    assert_eq!(json["replica"]["replicaId"], "r-2", "{json}");
    assert_eq!(json["breakers"][0]["nodeId"], "dp-1", "{json}");
    assert_eq!(json["breakers"][0]["state"], "BREAKER_STATE_OPEN", "{json}");
    assert!(json["breakers"][0]["retryTime"].is_string(), "{json}");
}

#[tokio::test]
async fn events_tell_the_history_of_a_replica() {
    let (gateway, _replicas) = with_an_open_breaker().await;
    let table = gwctl(&gateway, "events --replica orders/r-2").await.success();
    assert!(table.contains("BREAKER_OPENED"), "{table}");
    assert!(table.contains("consecutive_failures 5 >= 5: connect refused"), "{table}");
    let json = gwctl(&gateway, "events --replica orders/r-2 -o json").await.json();
    let types: Vec<_> =
        json["events"].as_array().unwrap().iter().filter_map(|event| event["eventType"].as_str()).collect();
    assert!(types.contains(&"REPLICA_REGISTERED"), "{json}");
}

#[tokio::test]
async fn json_is_the_api_s_own_for_every_list() {
    let (gateway, _replicas) = with_an_open_breaker().await;
    let get = async |noun: &str| gwctl(&gateway, &format!("get {noun} -o json")).await.json();
    assert_eq!(get("services").await["services"][0]["service"], "orders");
    assert_eq!(get("replicas orders").await["replicas"][1]["replicaId"], "r-2");
    assert_eq!(get("breakers").await["breakers"].as_array().map(Vec::len), Some(2));
    assert_eq!(get("nodes").await["nodes"][0]["nodeId"], "dp-1");
}

#[tokio::test]
async fn a_replica_is_registered_routed_to_and_deregistered() {
    let gateway = Gateway::start().await;
    let replica = Scripted::start(|_, _| Act::ok(b"hello"));
    let line = format!("register orders {} --id r-1 --label team=web", replica.address());
    let text = gwctl(&gateway, &line).await.success();
    assert!(text.starts_with("orders/r-1 registered at"), "{text}");
    gateway.data.routes("orders").await;

    let dry = gwctl(&gateway, "register payments 127.0.0.1:9001 --dry-run").await.success();
    assert!(dry.contains("dry run"), "{dry}");
    assert_eq!(gateway.replicas("payments").await, []);

    let gone = gwctl(&gateway, "deregister orders/r-1 -o json").await.json();
    assert_eq!(gone["removed"], true);
    assert_eq!(gateway.replicas("orders").await, []);
}

#[tokio::test]
async fn errors_go_to_stderr_with_a_code_of_their_own() {
    let (gateway, replicas) = with_an_open_breaker().await;
    let taken = format!("register orders {} --id r-9", replicas[0].address());
    let cases: [(&str, i32, &str); 6] = [
        ("get replicas odrers", 3, "NOT_FOUND / SERVICE_NOT_FOUND"),
        ("get replicas odrers", 3, "did you mean \"orders\"?"),
        ("describe replica orders/r-9", 3, "r-9"),
        (&taken, 4, "ALREADY_EXISTS / ADDRESS_IN_USE"),
        ("get planets", 2, "planets"),
        ("register Orders 127.0.0.1:1", 2, "Orders"),
    ];
    for (line, code, said) in cases {
        let finished = gwctl(&gateway, line).await;
        assert_eq!(finished.code(), code, "{line}: {}", finished.stderr);
        assert_eq!(finished.stdout, "", "{line}");
        assert!(finished.stderr.contains(said), "{line}: {}", finished.stderr);
    }
    let error: Value =
        serde_json::from_str(&gwctl(&gateway, "get replicas odrers -o json").await.stderr).unwrap();
    assert_eq!(error["exitCode"], 3, "{error}");
}

#[tokio::test]
async fn a_control_plane_that_is_away_is_an_error_of_its_own() {
    let mut gateway = Gateway::start().await;
    gateway.control.kill();
    let finished = gwctl(&gateway, "get services").await;
    assert_eq!(finished.code(), 5);
    assert!(finished.stderr.contains("cannot reach the control plane"), "{}", finished.stderr);
}
