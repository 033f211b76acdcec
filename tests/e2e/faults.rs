//! Faults injected on purpose, from an operator's command to what clients get, and back to none.

use std::time::{Duration, Instant};

use bytes::Bytes;
use gateway_proto::v1::{ListEventsRequest, ListPoliciesRequest};
use gateway_tests::{
    Act, ControlPlane, DataPlane, Gateway, Scripted, command, command::Finished, eventually,
    eventually_within, http1,
};
use http::{Method, Request};

const LONG: Duration = Duration::from_secs(40);

async fn gwctl(control: &ControlPlane, line: &str) -> Finished {
    let args: Vec<&str> = line.split_whitespace().collect();
    command::gwctl(&control.url(), &args).await
}

/// The status of a request that may be meant.
async fn status(gateway: &Gateway, is_meant: bool) -> u16 {
    let mut request: Request<Bytes> = http1::request(Method::GET, "/orders/hello");
    if is_meant {
        request.headers_mut().insert("x-chaos", "1".parse().unwrap());
    }
    let mut client = http1::Connection::open(gateway.proxy()).await.unwrap();
    client.send(request).await.unwrap().status().as_u16()
}

async fn metric(gateway: &Gateway, line: &str) -> bool {
    let answer = http1::get(gateway.data.admin(), "/metrics").await;
    String::from_utf8_lossy(answer.body()).lines().any(|found| found == line)
}

/// Events about faults, oldest first: type, who, and what is said.
async fn told(gateway: &Gateway) -> Vec<(String, String, String)> {
    let request = ListEventsRequest { filter: "event_type = FAULT_INJECTION_*".into(), ..Default::default() };
    let answer = gateway.control.observability().list_events(request).await.unwrap();
    let events = answer.into_inner().events.into_iter().rev();
    events.map(|event| (event.event_type, event.actor, event.message)).collect()
}

#[tokio::test]
async fn a_fault_reaches_requests_is_seen_wherever_people_look_and_is_cleared_at_once() {
    let gateway = Gateway::start_with_faults().await;
    let replica = Scripted::start(|_, _| Act::ok(b"hello"));
    gateway.register("orders", "r-1", replica.address()).await;
    let set = "fault set orders --abort 503 --header x-chaos=1 --for 10m --reason game-day --author ana";
    let shown = gwctl(&gateway.control, set).await.success();
    assert!(shown.starts_with("orders: abort 503 of 1, with x-chaos=1; until "), "{shown}");
    gateway.synced().await;

    for _ in 0..20 {
        assert_eq!(status(&gateway, true).await, 503);
    }
    assert_eq!((status(&gateway, false).await, replica.seen().len()), (200, 1));
    assert!(metric(&gateway, "gateway_faults_injected_total{service=\"orders\",kind=\"abort\"} 20").await);
    assert!(metric(&gateway, "gateway_fault_injection{service=\"orders\",state=\"in_force\"} 1").await);

    let listed = gwctl(&gateway.control, "get faults").await.success();
    let row = listed.lines().nth(1).unwrap();
    assert!(row.contains("abort 503 of 1, with x-chaos=1") && row.contains("ana   game-day"), "{listed}");
    let checked = gwctl(&gateway.control, "check").await.stdout;
    assert!(checked.contains("faults are injected into requests to orders: abort 503 of 1"), "{checked}");
    assert!(checked.contains("gwctl fault clear orders"), "{checked}");

    gwctl(&gateway.control, "fault clear orders --author ben --reason enough").await.success();
    gateway.synced().await;
    assert_eq!(status(&gateway, true).await, 200);
    let told = told(&gateway).await;
    assert_eq!(told[0].0, "FAULT_INJECTION_BEGAN");
    assert_eq!(told[0].1, "ana");
    assert!(told[0].2.ends_with("abort 503 of 1, with x-chaos=1: game-day"), "{told:?}");
    let ended = ("FAULT_INJECTION_ENDED".into(), "ben".into(), "injects no faults any more: enough".into());
    assert_eq!(told[1..], [ended]);
    // No breaker has anything to say of it.
    assert_eq!(gateway.event_types("orders", "r-1").await, ["REPLICA_REGISTERED"]);
}

#[tokio::test]
async fn a_fault_ends_without_a_control_plane_also_after_a_restart_from_disk() {
    let mut gateway = Gateway::start_with_faults().await;
    let replica = Scripted::start(|_, _| Act::ok(b"hello"));
    gateway.register("orders", "r-1", replica.address()).await;
    let began = Instant::now();
    let time = Duration::from_secs(15);
    gwctl(&gateway.control, "fault set * --abort 503 --for 15s --reason game-day").await.success();
    gateway.synced().await;
    assert_eq!(status(&gateway, false).await, 503);
    // Not a draft of it, which a start passes over.
    let cached = gateway.directory().join("dp-1/snapshot.bin");
    eventually("the snapshot with the fault is on disk", async || {
        let bytes = std::fs::read(&cached).unwrap_or_default();
        // The default policy, whose ratio of aborted requests is 1.0.
        let has_fault = bytes.windows(9).any(|window| window == b"\x21\0\0\0\0\0\0\xf0\x3f");
        if has_fault { Ok(()) } else { Err("it is not".to_owned()) }
    })
    .await;
    gateway.control.kill();
    gateway.data.restart().await;
    let answer = status(&gateway, false).await;
    assert!(answer == 503 || began.elapsed() >= time, "{answer}");
    eventually_within(LONG, "the fault has ended", async || match status(&gateway, false).await {
        200 => Ok(()),
        other => Err(other.to_string()),
    })
    .await;
    assert!(began.elapsed() >= time - Duration::from_secs(1), "it ended too early");

    gateway.control.restart().await;
    eventually_within(LONG, "the registry clears it and says so", async || {
        match told(&gateway).await.pop() {
            Some((kind, by, _)) if kind == "FAULT_INJECTION_ENDED" && by == "registry" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let policies = gateway.control.policies().list_policies(ListPoliciesRequest::default()).await.unwrap();
    assert_eq!(policies.into_inner().policies[0].fault, None);
}

#[tokio::test]
async fn without_its_flag_a_control_plane_refuses_faults_and_says_what_to_do() {
    let gateway = Gateway::start().await;
    let refused =
        gwctl(&gateway.control, "fault set orders --reset --ratio 0.1 --for 10m --reason game-day").await;
    assert_ne!(refused.code(), 0);
    assert!(refused.stderr.contains("--allow-fault-injection"), "{}", refused.stderr);
    assert!(refused.stderr.contains("FAULT_INJECTION_NOT_ALLOWED"), "{}", refused.stderr);
    let policies = gateway.control.policies().list_policies(ListPoliciesRequest::default()).await.unwrap();
    assert_eq!(policies.into_inner().policies, []);
}

#[tokio::test]
async fn without_its_flag_a_data_plane_ignores_faults_and_shows_that_it_does() {
    let directory = tempfile::tempdir().unwrap();
    let allow = ["--allow-fault-injection"];
    let control = ControlPlane::start_with(&directory.path().join("registry.redb"), &allow).await;
    let data = DataPlane::following(&control, "dp-1", &directory.path().join("dp-1")).await;
    let replica = Scripted::start(|_, _| Act::ok(b"hello"));
    gwctl(&control, &format!("register orders {} --id r-1", replica.address())).await.success();
    gwctl(&control, "fault set orders --abort 503 --for 10m --reason game-day").await.success();
    let line = "gateway_fault_injection{service=\"orders\",state=\"ignored\"} 1";
    eventually("the data plane says that it ignores them", async || {
        let answer = http1::get(data.admin(), "/metrics").await;
        let text = String::from_utf8_lossy(answer.body()).into_owned();
        if text.lines().any(|found| found == line) { Ok(()) } else { Err("it does not".to_owned()) }
    })
    .await;
    assert_eq!(http1::get(data.address(), "/orders/hello").await.status(), 200);
}
