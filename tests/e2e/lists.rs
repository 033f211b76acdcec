//! What `gwctl get` prints: every format, columns and orders, and changes as they happen.

use gateway_proto::v1::DeregisterRequest;
use gateway_tests::{Act, Gateway, Process, Scripted, binaries, command, eventually, tools};
use serde_json::Value;

async fn gateway() -> (Gateway, [Scripted; 2]) {
    let gateway = Gateway::start().await;
    let replicas = [(); 2].map(|()| Scripted::start(|_, _| Act::ok(b"hello")));
    for (number, replica) in replicas.iter().enumerate() {
        gateway.register("orders", &format!("r-{number}"), replica.address()).await;
    }
    (gateway, replicas)
}

async fn get(gateway: &Gateway, line: &str) -> String {
    let words: Vec<_> = line.split_whitespace().collect();
    command::gwctl(&gateway.control.url(), &words).await.success()
}

fn watch(gateway: &Gateway, line: &str) -> Process {
    let mut command = binaries::gwctl();
    command.args(["--endpoint", &gateway.control.url()]).args(line.split_whitespace());
    Process::spawn("watch", &mut command)
}

/// Waits until the watch has printed a line that holds all of these.
async fn prints(watch: &Process, words: &[&str]) -> String {
    eventually(&format!("the watch prints {words:?}"), async || {
        let printed = watch.stdout();
        let found = printed.lines().find(|line| words.iter().all(|word| line.contains(word)));
        found.map(str::to_owned).ok_or(format!("{printed}\n{}", watch.stderr()))
    })
    .await
}

async fn deregister(gateway: &Gateway, replica_id: &str) {
    let request = DeregisterRequest {
        service: "orders".into(),
        replica_id: replica_id.into(),
        force: true,
        ..Default::default()
    };
    gateway.control.registry().deregister(request).await.unwrap();
}

#[tokio::test]
async fn a_list_is_the_same_in_every_format() {
    let (gateway, replicas) = gateway().await;
    let addresses = replicas.each_ref().map(|replica| replica.address().to_string());
    let json: Value = serde_json::from_str(&get(&gateway, "get replicas orders -o json").await).unwrap();
    assert_eq!(json["replicas"][1]["endpoint"]["address"], addresses[1].as_str());
    let yaml = get(&gateway, "get replicas orders -o yaml").await;
    assert!(yaml.contains("replicas:\n- createTime: "), "{yaml}");
    assert!(yaml.contains(&format!("    address: \"{}\"\n", addresses[0])), "{yaml}");
    let ndjson = get(&gateway, "get replicas orders -o ndjson").await;
    let ids: Vec<Value> = ndjson
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["replicaId"].clone())
        .collect();
    assert_eq!(ids, ["r-0", "r-1"]);
    let path = "get replicas orders -o jsonpath={.replicas[*].endpoint.address}";
    assert_eq!(get(&gateway, path).await, format!("{}\n{}\n", addresses[0], addresses[1]));
    assert_eq!(
        get(&gateway, "get replicas -o name --sort-by replica:desc").await,
        "orders/r-1\norders/r-0\n"
    );
    let csv = get(&gateway, "get replicas orders -o csv --columns replica,address,mode").await;
    assert_eq!(
        csv,
        format!("replica,address,mode\nr-0,{},serving\nr-1,{},serving\n", addresses[0], addresses[1])
    );
    let table = get(&gateway, "get nodes --columns node,state").await;
    assert_eq!(table, "NODE   STATE\ndp-1   synced\n");
    assert_eq!(get(&gateway, "get nodes --columns node --no-headers").await, "dp-1\n");
}

#[tokio::test]
async fn labels_select_replicas() {
    let (gateway, replicas) = gateway().await;
    for (replica, id) in replicas.iter().zip(["web", "shop"]) {
        let line =
            format!("register labelled {} --id {id} --label team={id} --label a.b/{id}=1", replica.address());
        get(&gateway, &line).await;
    }
    for (selector, found) in [
        ("team=web", "labelled/web\n"),
        ("team!=web,team", "labelled/shop\n"),
        ("a.b/web", "labelled/web\n"),
        ("!a.b/web,team=s*", "labelled/shop\n"),
        ("!team", ""),
    ] {
        let line = format!("get replicas labelled -o name -l {selector}");
        assert_eq!(get(&gateway, &line).await, found, "{selector}");
    }
    let refused = command::gwctl(&gateway.control.url(), &["get", "replicas", "-l", "=x"]).await;
    assert_eq!(refused.code(), 2, "{}", refused.stderr);
}

#[tokio::test]
async fn a_watch_tells_each_change_as_a_line_and_survives_the_control_plane() {
    let (mut gateway, replicas) = gateway().await;
    let watch = watch(&gateway, "get replicas orders -w -o json");
    let line = prints(&watch, &["\"type\":\"BOOKMARK\""]).await;
    let bookmark: Value = serde_json::from_str(&line).unwrap();
    assert!(bookmark["revision"].as_str().unwrap().parse::<u64>().unwrap() > 0);
    prints(&watch, &["\"type\":\"ADDED\"", "\"replicaId\":\"r-1\""]).await;

    get(&gateway, "drain orders/r-1 --reason test").await;
    prints(&watch, &["\"type\":\"MODIFIED\"", "\"replicaId\":\"r-1\"", "REPLICA_MODE_DRAIN"]).await;

    gateway.control.kill();
    eventually("the interruption is told", async || {
        let said = watch.stderr();
        if said.contains("watch interrupted") { Ok(()) } else { Err(said) }
    })
    .await;
    gateway.control.restart().await;
    gateway.register("payments", "p-1", replicas[0].address()).await;
    deregister(&gateway, "r-1").await;
    prints(&watch, &["\"type\":\"DELETED\"", "\"replicaId\":\"r-1\""]).await;
    // However often it was tried again.
    let said = watch.stderr();
    assert_eq!(said.matches("watch interrupted").count(), 1, "{said}");
    assert_eq!(said.matches("the watch goes on").count(), 1, "{said}");
    for line in watch.stdout().lines() {
        let value: Value = serde_json::from_str(line).unwrap();
        assert!(value["type"].is_string(), "{line}");
    }
}

#[tokio::test]
async fn what_is_not_streamed_is_compared_and_told_in_the_same_way() {
    let (gateway, replicas) = gateway().await;
    let services = watch(&gateway, "get services -w -o ndjson");
    prints(&services, &["\"type\":\"ADDED\"", "\"service\":\"orders\""]).await;
    gateway.register("payments", "p-1", replicas[0].address()).await;
    prints(&services, &["\"type\":\"ADDED\"", "\"service\":\"payments\""]).await;
    let nodes = watch(&gateway, "get nodes -w -o jsonpath={.nodeId}");
    prints(&nodes, &["dp-1"]).await;
}

#[tokio::test]
async fn without_a_terminal_a_watched_table_grows_by_a_row_for_each_change() {
    let (gateway, _replicas) = gateway().await;
    let watch = watch(&gateway, "get replicas orders -w --columns replica,mode");
    prints(&watch, &["CHANGE", "REPLICA", "MODE"]).await;
    prints(&watch, &["added", "r-0", "serving"]).await;
    get(&gateway, "drain orders/r-0 --reason test").await;
    prints(&watch, &["changed", "r-0", "drain"]).await;
    deregister(&gateway, "r-0").await;
    prints(&watch, &["deleted", "r-0"]).await;
    assert!(!watch.stdout().contains('\u{1b}'), "{}", watch.stdout());
}

#[tokio::test]
async fn a_reader_that_has_gone_ends_a_list_and_a_watch_quietly() {
    let (gateway, _replicas) = gateway().await;
    let gwctl = binaries::gwctl().get_program().to_str().unwrap().to_owned();
    let url = gateway.control.url();
    for command in
        ["get replicas -o json", "get replicas -o wide", "get services -w -o json", "get replicas -w"]
    {
        let line = format!("{{ {gwctl} -e {url} {command}; echo code $? >&2; }} | head -n 1");
        let finished = command::shell(&line, &tools::path()).await;
        assert!(!finished.stderr.contains("panicked"), "{command}: {}", finished.stderr);
        assert!(finished.stderr.contains("code 0"), "{command}: {}", finished.stderr);
    }
}
