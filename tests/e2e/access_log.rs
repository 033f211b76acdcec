//! The access log of a process: rotated under load, on stdout, and on a disk that is full.

use std::fs;

use gateway_tests::{Act, DataPlane, Scripted, eventually, http1};
use serde_json::Value;

fn services(replica: &Scripted, folder: &std::path::Path) -> String {
    let file = folder.join("services.toml");
    let service = format!("[[service]]\nname = \"orders\"\nreplicas = [\"{}\"]\n", replica.address());
    fs::write(&file, service).unwrap();
    file.display().to_string()
}

#[tokio::test]
async fn an_access_log_is_whole_across_rotation_and_the_end_of_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let replica = Scripted::start(|_, _| Act::ok(b"hello"));
    let path = folder.path().join("access.log");
    let rotated = folder.path().join("access.log.1");
    let services = services(&replica, folder.path());
    let mut data =
        DataPlane::start(&["--static", &services, "--access-log", &path.display().to_string()]).await;
    for number in 0..50 {
        assert_eq!(http1::get(data.address(), &format!("/orders/{number}")).await.status(), 200);
    }
    fs::rename(&path, &rotated).unwrap();
    data.process().hang_up();
    eventually("the log is opened anew", async || path.exists().then_some(()).ok_or("not yet".to_owned()))
        .await;
    for number in 50..100 {
        assert_eq!(http1::get(data.address(), &format!("/orders/{number}")).await.status(), 200);
    }
    // What was not written by now is, before the process ends.
    data.process().terminate();
    assert!(data.process().exited().await.success());
    let lines = |path| {
        let text = fs::read_to_string(path).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        lines
    };
    let (before, after) = (lines(&rotated), lines(&path));
    assert!(!before.is_empty() && !after.is_empty(), "{} and {}", before.len(), after.len());
    // Not in their order, because workers write on their own.
    let mut paths: Vec<_> = before.iter().chain(&after).map(|line| line["url.path"].to_string()).collect();
    let mut expected: Vec<_> = (0..100).map(|number| format!("\"/orders/{number}\"")).collect();
    paths.sort_unstable();
    expected.sort_unstable();
    assert_eq!(paths, expected);
}

/// `kill -HUP $(pidof gw-data-plane)` is for all of a machine's.
#[tokio::test]
async fn a_hang_up_ends_no_data_plane_that_keeps_no_log() {
    let folder = tempfile::tempdir().unwrap();
    let replica = Scripted::start(|_, _| Act::ok(b"hello"));
    let mut data = DataPlane::start(&["--static", &services(&replica, folder.path())]).await;
    data.process().hang_up();
    data.process().terminate();
    assert_eq!(data.process().exited().await.code(), Some(0), "it ends by what ends it");
}

#[tokio::test]
async fn a_log_that_may_grow_no_further_costs_lines_and_not_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let replica = Scripted::start(|_, _| Act::ok(b"hello"));
    let services = services(&replica, folder.path());
    let log = folder.path().join("access.log").display().to_string();
    let data = DataPlane::start_under("ulimit -S -f 1", &["--static", &services, "--access-log", &log]).await;
    for _ in 0..20 {
        assert_eq!(http1::get(data.address(), "/orders/x").await.status(), 200);
    }
    eventually("lines are lost", async || {
        let metrics = http1::get(data.admin(), "/metrics").await;
        let text = String::from_utf8_lossy(metrics.body()).into_owned();
        let lost = |line: &str| {
            line.starts_with("gateway_access_log_lost_lines_total{reason=\"write_failed\"}")
                && !line.ends_with(" 0")
        };
        if text.lines().any(lost) { Ok(()) } else { Err(text) }
    })
    .await;
}

#[tokio::test]
async fn lines_that_a_full_disk_does_not_take_are_counted_and_requests_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let replica = Scripted::start(|_, _| Act::ok(b"hello"));
    let services = services(&replica, folder.path());
    let data = DataPlane::start(&["--static", &services, "--access-log", "/dev/full"]).await;
    for _ in 0..10 {
        assert_eq!(http1::get(data.address(), "/orders/x").await.status(), 200);
    }
    let line = "gateway_access_log_lost_lines_total{reason=\"write_failed\"} 10";
    eventually("all are counted", async || {
        let metrics = http1::get(data.admin(), "/metrics").await;
        let text = String::from_utf8_lossy(metrics.body()).into_owned();
        if text.lines().any(|found| found == line) { Ok(()) } else { Err(text) }
    })
    .await;
}
