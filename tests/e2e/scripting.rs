//! `gwctl` in scripts: waiting, policies in files, contexts, and the exit codes that tell what happened.

use std::{path::Path, process::Command};

use gateway_tests::{
    Act, Gateway, Process, Scripted, binaries,
    command::{self, Finished},
    eventually,
};

async fn gwctl(gateway: &Gateway, line: &str) -> Finished {
    let words: Vec<_> = line.split_whitespace().collect();
    command::gwctl(&gateway.control.url(), &words).await
}

/// A run that follows `gateway` in the background.
fn start(gateway: &Gateway, line: &str) -> Process {
    let mut command = binaries::gwctl();
    command.args(["--endpoint", &gateway.control.url()]).args(line.split_whitespace());
    Process::spawn("gwctl", &mut command)
}

#[tokio::test]
async fn a_wait_ends_when_it_is_so_and_with_7_when_the_time_is_over() {
    let gateway = Gateway::start().await;
    let replica = Scripted::start(|_, _| Act::ok(b"hello"));
    let mut ready = start(&gateway, "wait orders --timeout 60s");
    let early = gwctl(&gateway, "wait orders --timeout 300ms").await;
    assert_eq!(early.code(), 7, "{}", early.stderr);
    assert!(early.stderr.contains("waited 300ms in vain: orders is not registered"), "{}", early.stderr);
    gateway.register("orders", "r-1", replica.address()).await;
    assert!(ready.exited().await.success(), "{}", ready.stderr());
    eventually("the wait tells what it found", async || match ready.stdout().as_str() {
        "orders: 1 of 1 replica ready" => Ok(()),
        other => Err(other.to_owned()),
    })
    .await;

    gwctl(&gateway, "wait --synced").await.success();
    gwctl(&gateway, "wait orders --for breaker=closed").await.success();
    let mut drained = start(&gateway, "wait orders/r-1 --for drained");
    gwctl(&gateway, "drain orders/r-1 --allow-last --reason test").await.success();
    assert!(drained.exited().await.success(), "{}", drained.stderr());
    let mut deleted = start(&gateway, "wait orders --for deleted");
    gwctl(&gateway, "deregister orders/r-1 -y").await.success();
    assert!(deleted.exited().await.success(), "{}", deleted.stderr());
    let gone = gwctl(&gateway, "wait orders/r-1 --for drained").await;
    assert_eq!(gone.code(), 3, "it can no longer come true: {}", gone.stderr);
}

#[tokio::test]
async fn a_wait_outlasts_a_control_plane_that_is_not_there_yet() {
    let mut gateway = Gateway::start().await;
    gateway.control.kill();
    let mut waiting = start(&gateway, "wait --synced --timeout 60s");
    let mut listing = start(&gateway, "get nodes -o name --wait-for-ready --timeout 60s");
    assert_eq!(gwctl(&gateway, "get nodes").await.code(), 5);
    gateway.control.restart().await;
    assert!(waiting.exited().await.success(), "{}", waiting.stderr());
    assert!(listing.exited().await.success(), "{}", listing.stderr());
}

fn write(folder: &Path, name: &str, text: &str) {
    std::fs::write(folder.join(name), text).unwrap();
}

#[tokio::test]
async fn policies_become_those_of_files_all_of_them_or_none() {
    let gateway = Gateway::start().await;
    let folder = gateway.directory().join("policies");
    std::fs::create_dir(&folder).unwrap();
    let files = folder.display();
    write(&folder, "all.toml", "[[policies]]\nservice = \"*\"\n[policies.timeout]\nrequest = \"5s\"\n");
    write(&folder, "orders.json", r#"{"service": "orders", "breaker": {"window": "20s"}}"#);
    gwctl(&gateway, &format!("policy validate -f {files}")).await.success();
    gwctl(&gateway, "policy set old breaker.window=30s").await.success();

    let diff = gwctl(&gateway, &format!("policy diff -f {files}")).await;
    assert_eq!((diff.code(), diff.stderr.as_str()), (1, ""));
    assert!(diff.stdout.contains("--- orders (not stored)\n+++ orders (in the files)\n"), "{}", diff.stdout);
    assert!(diff.stdout.contains("+ breaker.window: 20s"), "{}", diff.stdout);
    gwctl(&gateway, &format!("policy apply -f {files} --dry-run")).await.success();
    assert_eq!(gwctl(&gateway, "get policies -o name").await.success(), "old\n");

    let applied = gwctl(&gateway, &format!("policy apply -f {files} --reason rollout")).await.success();
    assert!(applied.contains("orders: policy changed on 1/1 data plane"), "{applied}");
    assert_eq!(gwctl(&gateway, "get policies -o name").await.success(), "*\nold\norders\n");
    assert_eq!(gwctl(&gateway, &format!("policy diff -f {files}")).await.code(), 0);
    let again = gwctl(&gateway, &format!("policy apply -f {files}")).await.success();
    assert_eq!(again, "nothing to change\n");

    // What is printed is what is read.
    let printed = gwctl(&gateway, "policy get -o json").await.success();
    write(&folder, "printed.json", &printed);
    std::fs::remove_file(folder.join("all.toml")).unwrap();
    std::fs::remove_file(folder.join("orders.json")).unwrap();
    assert_eq!(gwctl(&gateway, &format!("policy diff -f {files} --prune")).await.code(), 0);

    write(&folder, "printed.json", r#"{"service": "orders", "breaker": {"window": "40s"}}"#);
    let pruned = gwctl(&gateway, &format!("policy apply -f {files} --prune")).await.success();
    assert!(pruned.contains("old: policy deleted"), "{pruned}");
    assert_eq!(gwctl(&gateway, "get policies -o name").await.success(), "orders\n");
}

#[tokio::test]
async fn a_file_with_one_fault_changes_nothing() {
    let gateway = Gateway::start().await;
    let folder = gateway.directory();
    write(folder, "a.json", r#"{"service": "a", "breaker": {"window": "20s"}}"#);
    write(folder, "b.json", r#"{"service": "b", "breaker": {"failureRatio": 50}}"#);
    let both = format!("-f {0}/a.json -f {0}/b.json", folder.display());
    let refused = gwctl(&gateway, &format!("policy apply {both}")).await;
    assert_eq!(refused.code(), 2);
    assert!(
        refused.stderr.contains("b.json: b: breaker.failure_ratio: 50 is not above 0.0"),
        "{}",
        refused.stderr
    );
    // Refused only by the control plane, which does not allow faults.
    write(
        folder,
        "b.json",
        r#"{"service": "b", "fault": {"abortStatus": 503, "abortRatio": 0.1, "endTime": "2999-01-01T00:00:00Z"}}"#,
    );
    let refused = gwctl(&gateway, &format!("policy apply {both}")).await;
    assert!(refused.code() != 0 && refused.stderr.contains("fault"), "{}", refused.stderr);
    assert_eq!(gwctl(&gateway, "get policies -o name").await.success(), "");
}

#[tokio::test]
async fn a_static_file_is_validated_by_the_code_of_the_data_plane() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("services.toml").display().to_string();
    let validate = async || {
        let mut command = binaries::gwctl();
        command.args(["validate", &path]);
        command::run(command).await
    };
    write(
        folder.path(),
        "services.toml",
        "[[service]]\nname = \"orders\"\nreplicas = [\"127.0.0.1:1\", \"127.0.0.1:2\"]\n",
    );
    assert_eq!(validate().await.success(), format!("{path}: ok (1 services, 2 replicas, 0 routes)\n"));
    write(folder.path(), "services.toml", "[[service]]\nname = \"Orders\"\nreplicas = [\"127.0.0.1:1\"]\n");
    let refused = validate().await;
    assert_eq!(refused.code(), 2);
    assert!(refused.stderr.contains("service \"Orders\""), "{}", refused.stderr);
}

#[tokio::test]
async fn a_context_stands_behind_flags_and_the_environment() {
    let gateway = Gateway::start().await;
    let file = gateway.directory().join("gwctl.toml");
    let with = |words: &[&str], variables: &[(&str, &str)]| {
        let mut command: Command = binaries::gwctl();
        command.env("GWCTL_CONFIG", &file).args(words);
        command.envs(variables.iter().copied());
        command::run(command)
    };
    let url = gateway.control.url();
    let nowhere = "http://127.0.0.1:1";
    with(&["config", "set", "-c", "lab", "endpoint", nowhere], &[]).await.success();
    let unreachable = with(&["get", "nodes"], &[]).await;
    assert_eq!(unreachable.code(), 5);
    assert!(
        unreachable.stderr.contains("the endpoint comes from the context in use"),
        "{}",
        unreachable.stderr
    );
    with(&["config", "set", "-c", "test", "endpoint", &url], &[]).await.success();
    with(&["config", "set", "-c", "test", "output", "name"], &[]).await.success();
    assert_eq!(with(&["get", "nodes", "-c", "test"], &[]).await.success(), "dp-1\n");
    with(&["config", "use", "test"], &[]).await.success();
    assert_eq!(with(&["get", "nodes"], &[]).await.success(), "dp-1\n");
    let flagged =
        with(&["get", "nodes", "-o", "csv", "--columns", "node"], &[("GWCTL_OUTPUT", "yaml")]).await;
    assert_eq!(flagged.success(), "node\ndp-1\n");
    assert_eq!(with(&["get", "nodes"], &[("GWCTL_ENDPOINT", nowhere)]).await.code(), 5);

    let view =
        with(&["config", "view", "--show-origin", "-o", "json"], &[("GWCTL_TIMEOUT", "7s")]).await.json();
    assert_eq!(view["endpoint"]["value"], url.as_str());
    assert_eq!(view["endpoint"]["origin"], "context test");
    assert_eq!(view["output"]["origin"], "--output");
    assert_eq!(
        (&view["timeout"]["value"], &view["timeout"]["origin"]),
        (&"7s".into(), &"GWCTL_TIMEOUT".into())
    );
    let missing = with(&["get", "nodes", "-c", "tset"], &[]).await;
    assert_eq!(missing.code(), 3);
    assert!(missing.stderr.contains("did you mean \"test\"?"), "{}", missing.stderr);
}

#[tokio::test]
async fn a_check_asks_data_planes_themselves_and_a_machine_before_anything_runs() {
    let gateway = Gateway::start().await;
    gateway.synced().await;
    let admin = format!("http://{}", gateway.data.admin());
    let checked = gwctl(&gateway, &format!("check -o json --data-plane {admin}")).await.json();
    let checks: Vec<_> = checked["categories"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|category| category["checks"].as_array().unwrap().clone())
        .collect();
    for id in ["control-plane/health", "data-planes/ready"] {
        let of_id: Vec<_> = checks.iter().filter(|check| check["id"] == id).collect();
        assert!(
            !of_id.is_empty() && of_id.iter().all(|check| check["result"] == "success"),
            "{id}: {checks:?}"
        );
    }
    let refused = gwctl(&gateway, "check --data-plane http://127.0.0.1:1 -o short").await;
    assert_eq!(refused.code(), 1);
    assert!(
        refused.stdout.contains("cannot reach the data plane at http://127.0.0.1:1"),
        "{}",
        refused.stdout
    );
    assert!(!refused.stdout.contains("control plane is reachable"), "{}", refused.stdout);

    let taken = gateway.control.address();
    let busy = gwctl(&gateway, &format!("check --pre --listen {taken}")).await;
    assert_eq!(busy.code(), 1);
    assert!(busy.stdout.contains(&format!("somebody listens on {taken}")), "{}", busy.stdout);
    let free = gwctl(&gateway, "check --pre --listen 127.0.0.1:0 --data-dir /nowhere/at/all -o name").await;
    assert!(!free.stdout.contains("host/port"), "{}", free.stdout);
}
