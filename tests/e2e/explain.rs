//! Why is this replica out, where, since when, until when: asked in one command, of real processes.

use std::{cell::RefCell, net::SocketAddr, time::Duration};

use gateway_proto::v1::{
    BreakerState, Conclusion, DeregisterRequest, Evidence, ExplainReplicaRequest, ExplainReplicaResponse,
    HealthStatus, Layer, NodeStanding, ReplicaVerdict,
};
use gateway_tests::{
    Act, DataPlane, DemoReplica, Gateway, Load, Scripted, command, command::Finished, eventually,
    eventually_within, http1,
};
use http::Method;
use serde_json::Value;
use tokio::task::JoinSet;

const LONG: Duration = Duration::from_secs(15);

async fn gwctl(gateway: &Gateway, line: &str) -> Finished {
    let args: Vec<&str> = line.split_whitespace().collect();
    command::gwctl(&gateway.control.url(), &args).await
}

async fn explain(gateway: &Gateway, replica_id: &str) -> Result<ExplainReplicaResponse, String> {
    let request = ExplainReplicaRequest {
        service: "orders".into(),
        replica_id: replica_id.into(),
        ..Default::default()
    };
    let told = gateway.control.observability().explain_replica(request).await;
    told.map(tonic::Response::into_inner).map_err(|status| status.to_string())
}

/// The explanation once it is `wanted`.
async fn explained(
    gateway: &Gateway,
    replica_id: &str,
    what: &str,
    wanted: impl Fn(&ExplainReplicaResponse) -> bool,
) -> ExplainReplicaResponse {
    eventually(what, async || {
        let told = explain(gateway, replica_id).await?;
        if wanted(&told) { Ok(told) } else { Err(format!("{}: {:?}", told.summary, told.nodes)) }
    })
    .await
}

/// Sends requests until the replica's breaker is open there. Yields the ids that their clients saw.
async fn break_it(gateway: &Gateway, replica: &str, proxy: SocketAddr, node: &str) -> Vec<String> {
    let seen = RefCell::new(Vec::new());
    eventually(&format!("the breaker of {replica} opens on {node}"), async || {
        for _ in 0..10 {
            let answer = http1::get(proxy, "/orders/x").await;
            seen.borrow_mut().push(answer.headers()["x-request-id"].to_str().unwrap().to_owned());
        }
        let told = explain(gateway, replica).await?;
        let opened = told.nodes.iter().find(|row| row.node_id == node).and_then(|row| row.breaker.as_ref());
        match opened.filter(|row| row.trip_count > 0) {
            Some(_) => Ok(()),
            None => Err(told.summary),
        }
    })
    .await;
    seen.into_inner()
}

#[tokio::test]
async fn a_replica_that_fails_is_explained_by_rule_numbers_and_the_request_that_a_client_saw_fail() {
    let gateway = Gateway::start().await;
    let failing = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n".to_vec();
    let lone = Scripted::start(move |_, _| Act::Answer(failing.clone()));
    gateway.register("orders", "r-1", lone.address()).await;
    // The only replica: so the client sees its failures, and each answer's id.
    let mut seen = Vec::new();
    for _ in 0..5 {
        let answer = http1::get(gateway.proxy(), "/orders/x").await;
        assert_eq!(answer.status(), 503);
        seen.push(answer.headers()["x-request-id"].to_str().unwrap().to_owned());
    }
    let told = explained(&gateway, "r-1", "the open breaker is explained", |told| {
        told.nodes.first().is_some_and(|node| {
            node.breaker.as_ref().is_some_and(|row| row.last_trip.is_some() && row.last_failures.len() == 5)
        })
    })
    .await;
    assert_eq!((told.verdict(), told.conclusion()), (ReplicaVerdict::Out, Conclusion::Undecided));
    assert!(told.summary.contains("there is no other data plane to compare with"), "{}", told.summary);
    let row = told.nodes[0].breaker.clone().unwrap();
    let trip = row.last_trip.unwrap();
    assert_eq!((trip.observed, trip.threshold, trip.sample_count), (5.0, 5.0, 5));
    assert!(trip.open_time.is_some() && trip.generation > 0);
    let ids: Vec<_> = row.last_failures.iter().rev().map(|failure| failure.request_id.clone()).collect();
    assert_eq!(ids, seen, "the last errors name the requests that clients saw");
    // It is the only one there is, so that its open times do not grow.
    assert!(row.retry_time.is_some() && row.trip_streak == 0);

    let text = gwctl(&gateway, "explain orders/r-1").await.success();
    for shown in ["orders/r-1   OUT", "consecutive_failures", &format!("x-request-id {}", seen[4]), "Next"] {
        assert!(text.contains(shown), "{shown}:\n{text}");
    }
    assert!(text.lines().count() <= 45, "at most a screen:\n{text}");
    assert!(!text.contains('\u{1b}'), "no colours into a pipe");
    let json = gwctl(&gateway, "explain orders/r -o json").await.json();
    assert_eq!(json["replicaId"], "r-1", "a unique beginning is enough");
    assert_eq!(json["nodes"][0]["breaker"]["lastTrip"]["threshold"], 5.0);

    // The event of the transition names them, too.
    let events = gwctl(&gateway, "events --replica orders/r-1 -o json").await.json();
    let opened =
        events["events"].as_array().unwrap().iter().find(|event| event["eventType"] == "BREAKER_OPENED");
    let ids = opened.unwrap()["metadata"]["request_ids"].as_str().unwrap().to_owned();
    assert!(seen.iter().all(|id| ids.contains(id)), "{ids}");

    // What the data plane knows is enough when the control plane is away.
    let admin = format!("http://{}", gateway.data.admin());
    let own = command::gwctl("http://127.0.0.1:1", &["explain", "orders/r-1", "--data-plane", &admin]).await;
    let own = own.success();
    assert!(own.contains("orders/r-1   OUT") && own.contains(&seen[4]), "{own}");
    let line = ["explain", "orders/r-2", "--data-plane", &admin];
    let unknown = command::gwctl("http://127.0.0.1:1", &line).await;
    assert_eq!(unknown.code(), 3);
    assert!(unknown.stderr.contains("did you mean orders/r-1?"), "{}", unknown.stderr);
}

#[tokio::test]
async fn a_replica_that_every_data_plane_sees_fail_is_to_blame_itself() {
    let gateway = Gateway::start().await;
    let second = DataPlane::following(&gateway.control, "dp-2", &gateway.directory().join("dp-2")).await;
    // It takes connections, as active checks see.
    let broken = Scripted::start(|_, _| Act::Reset);
    let working = Scripted::start(|_, _| Act::ok(b"done"));
    gateway.register("orders", "r-1", broken.address()).await;
    gateway.register("orders", "r-2", working.address()).await;
    second.routes("orders").await;
    for (proxy, node) in [(gateway.proxy(), "dp-1"), (second.address(), "dp-2")] {
        break_it(&gateway, "r-1", proxy, node).await;
    }
    let told = explained(&gateway, "r-1", "both see it fail", |told| {
        told.node_counts.is_some_and(|counts| counts.failing == 2)
    })
    .await;
    assert_eq!(told.conclusion(), Conclusion::Replica, "{}", told.summary);
    assert!(told.summary.contains("the replica is bad"), "{}", told.summary);

    let service = gwctl(&gateway, "explain orders").await.success();
    assert!(service.contains("served by 1 of 2 replicas"), "{service}");
    assert!(
        service.contains("the replica is bad") && service.contains("gwctl explain orders/r-1"),
        "{service}"
    );
}

#[tokio::test]
async fn a_replica_that_one_data_plane_alone_sees_fail_is_not_blamed_but_the_way_to_it() {
    let gateway = Gateway::start().await;
    let second = DataPlane::following(&gateway.control, "dp-2", &gateway.directory().join("dp-2")).await;
    // It breaks off whatever comes by the second data plane.
    let picky = Scripted::start(|seen, _| match seen.values("via").iter().any(|via| via.contains("dp-2")) {
        true => Act::Reset,
        false => Act::ok(b"done"),
    });
    let working = Scripted::start(|_, _| Act::ok(b"done"));
    gateway.register("orders", "r-1", picky.address()).await;
    gateway.register("orders", "r-2", working.address()).await;
    second.routes("orders").await;
    let load = Load::start(gateway.proxy(), "/orders/x", 50);
    let seen = break_it(&gateway, "r-1", second.address(), "dp-2").await;
    let told = explained(&gateway, "r-1", "the way from dp-2 is blamed", |told| {
        told.conclusion() == Conclusion::Path
    })
    .await;
    load.stop().await.assert_flawless();
    assert_eq!(told.verdict(), ReplicaVerdict::PartlyOut);
    assert!(told.summary.contains("the way from dp-2 to it is bad, not the replica"), "{}", told.summary);
    let [worst, other] = &told.nodes[..] else { panic!("{:?}", told.nodes) };
    assert_eq!((worst.node_id.as_str(), worst.evidence()), ("dp-2", Evidence::Fails));
    assert_eq!(
        (other.node_id.as_str(), other.standing(), other.evidence()),
        ("dp-1", NodeStanding::Asks, Evidence::Works)
    );
    let id = &worst.breaker.as_ref().unwrap().last_failures[0].request_id;
    assert!(seen.contains(id), "{id} is none of {seen:?}");

    let only = gwctl(&gateway, "explain orders/r-1 --node dp-1 -o json").await.json();
    assert_eq!(only["nodes"].as_array().unwrap().len(), 1);
    assert_eq!(only["conclusion"], "CONCLUSION_PATH");
    let unknown = gwctl(&gateway, "explain orders/r-1 --node dp-9").await;
    assert_eq!(unknown.code(), 2);
    assert!(unknown.stderr.contains("no data plane dp-9 is known here"), "{}", unknown.stderr);
}

#[tokio::test]
async fn a_replica_that_stands_still_is_asked_for_nothing_that_must_not_be_sent_twice_and_says_so() {
    let gateway = Gateway::start_with(&[], &["--workers", "1"]).await;
    let mut replicas = Vec::new();
    for number in 1..=3 {
        let replica = DemoReplica::start(&format!("r-{number}")).await;
        gateway.register("orders", &format!("r-{number}"), replica.address()).await;
        replicas.push(replica);
    }
    gateway.synced().await;
    replicas[0].process().pause();
    let mut waiting = JoinSet::new();
    let proxy = gateway.proxy();
    for _ in 0..60 {
        waiting.spawn(async move { http1::get(proxy, "/orders/hello").await.status() });
    }
    let told = explained(&gateway, "r-1", "requests pile up at it", |told| {
        told.causes.iter().any(|cause| cause.layer() == Layer::Backlog)
    })
    .await;
    // Nothing is proven before the first of them has used up its time.
    assert_eq!(told.verdict(), ReplicaVerdict::TakesRequests, "{}", told.summary);
    let text = gwctl(&gateway, "explain orders/r-1").await.success();
    assert!(text.contains("backlog gives it fewer requests on dp-1"), "{text}");
    assert!(text.contains("what must not be sent twice goes to others"), "{text}");
    for _ in 0..30 {
        let post = http1::request(Method::POST, "/orders/hello");
        assert_eq!(http1::send(proxy, post).await.status(), 200);
    }
    replicas[0].process().resume();
    while let Some(status) = waiting.join_next().await {
        assert_eq!(status.unwrap(), 200, "it has answered all of them, or another has");
    }
    explained(&gateway, "r-1", "nothing waits any more", |told| told.causes.is_empty()).await;
}

#[tokio::test]
async fn what_an_operator_decided_is_explained_with_who_why_and_until_when() {
    let gateway = Gateway::start().await;
    let replicas = [Scripted::start(|_, _| Act::ok(b"")), Scripted::start(|_, _| Act::ok(b""))];
    for (number, replica) in replicas.iter().enumerate() {
        gateway.register("orders", &format!("r-{}", number + 1), replica.address()).await;
    }
    let line = ["breaker", "open", "orders/r-1", "--ttl", "15m", "--author", "ana", "--reason", "bad deploy"];
    command::gwctl(&gateway.control.url(), &line).await.success();
    let forced = explained(&gateway, "r-1", "it is forced open", |told| {
        told.nodes.first().is_some_and(|node| node.standing() == NodeStanding::ForcedOpen)
    })
    .await;
    assert_eq!((forced.verdict(), forced.conclusion()), (ReplicaVerdict::Out, Conclusion::Operator));
    assert!(forced.summary.contains("forced open by ana for 14m more: bad deploy"), "{}", forced.summary);
    assert_eq!(forced.next_steps[0].command, "gwctl end-override breaker/orders/r-1");
    gwctl(&gateway, &forced.next_steps[0].command["gwctl ".len()..]).await.success();
    explained(&gateway, "r-1", "it is handed back", |told| told.overrides.is_empty()).await;

    let line = ["drain", "orders/r-2", "--allow-last", "--author", "ben", "--reason", "kernel update"];
    command::gwctl(&gateway.control.url(), &line).await.success();
    let drained = explain(&gateway, "r-2").await.unwrap();
    assert_eq!((drained.verdict(), drained.conclusion()), (ReplicaVerdict::Out, Conclusion::Operator));
    assert!(drained.summary.ends_with("by ben: kernel update"), "{}", drained.summary);
    assert_eq!(drained.next_steps[0].command, "gwctl undrain orders/r-2");

    let request = DeregisterRequest {
        service: "orders".into(),
        replica_id: "r-2".into(),
        force: true,
        author: "ana".into(),
        reason: "bad host".into(),
        ..Default::default()
    };
    gateway.control.registry().deregister(request).await.unwrap();
    let removed = explain(&gateway, "r-2").await.unwrap();
    assert_eq!(removed.verdict(), ReplicaVerdict::Removed);
    assert!(removed.summary.ends_with("deregistered by ana: bad host"), "{}", removed.summary);
    let text = gwctl(&gateway, "explain orders/r-2").await.success();
    assert!(text.contains("orders/r-2   REMOVED"), "{text}");
}

#[tokio::test]
async fn a_replica_whose_lease_lapsed_is_explained_after_it_is_gone_and_an_unknown_one_is_not() {
    let gateway = Gateway::start().await;
    let url = gateway.control.url();
    let mut killed = DemoReplica::registering("orders", "r-1", &url, "2s").await;
    let _kept = DemoReplica::registering("orders", "r-2", &url, "60s").await;
    eventually("both have registered", async || match gateway.replicas("orders").await.len() {
        2 => Ok(()),
        count => Err(format!("{count} replicas")),
    })
    .await;
    let alive =
        explained(&gateway, "r-2", "it is routed to", |told| told.verdict() == ReplicaVerdict::TakesRequests)
            .await;
    let lease = alive.replica.unwrap().lease.unwrap();
    assert!(lease.expire_time.is_some() && lease.last_renew_time.is_some());

    killed.kill();
    let removed = eventually_within(LONG, "its lease lapses", async || {
        let told = explain(&gateway, "r-1").await?;
        if told.verdict() == ReplicaVerdict::Removed { Ok(told) } else { Err(told.summary) }
    })
    .await;
    assert_eq!(removed.conclusion(), Conclusion::Lease);
    assert!(removed.removed.unwrap().lease_lapsed);

    let unknown = gwctl(&gateway, "explain orders/r-3").await;
    assert_eq!(unknown.code(), 3);
    assert!(unknown.stderr.contains("did you mean \"orders/r-2\"?"), "{}", unknown.stderr);
    let unknown = gwctl(&gateway, "explain ordres").await;
    assert_eq!(unknown.code(), 3);
    assert!(unknown.stderr.contains("did you mean \"orders\"?"), "{}", unknown.stderr);
}

#[tokio::test]
async fn rest_explains_the_same() {
    let gateway = Gateway::start().await;
    let replica = Scripted::start(|_, _| Act::ok(b""));
    gateway.register("orders", "r-1", replica.address()).await;
    gateway.breaker_becomes("orders", "r-1", BreakerState::Closed, LONG).await;
    let get = async |path: &str| {
        let answer = http1::get(gateway.control.address(), path).await;
        let body: Value = serde_json::from_slice(answer.body()).unwrap();
        (answer.status().as_u16(), body)
    };
    let (status, told) = get("/v1/services/orders/replicas/r-1:explain").await;
    assert_eq!((status, &told["verdict"]), (200, &"REPLICA_VERDICT_TAKES_REQUESTS".into()), "{told}");
    assert_eq!(told["replica"]["health"], HealthStatus::Healthy.as_str_name());
    let (status, told) = get("/v1/services/orders:explain").await;
    assert_eq!(
        (status, &told["summary"]),
        (200, &"served: its only replica takes requests everywhere".into())
    );
    let (status, told) = get("/v1/services/orders/replicas/r-9:explain").await;
    assert_eq!((status, &told["reason"]), (404, &"REPLICA_NOT_FOUND".into()), "{told}");
}

#[tokio::test]
async fn recorded_outcomes_say_what_a_breaker_would_have_done_by_other_rules() {
    let gateway = Gateway::start().await;
    let cache = gateway.directory().join("dp-2").display().to_string();
    let url = gateway.control.url();
    let flags =
        ["--control-plane", &url, "--node-id", "dp-2", "--cache-dir", &cache, "--record-outcomes", "1000"];
    let recording = DataPlane::start(&flags).await;
    // Three of ten fail, one after the other: no rule of the defaults minds that.
    let flaky = Scripted::start(|_, number| match number % 10 {
        0..3 => Act::Answer(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n".to_vec()),
        _ => Act::ok(b"done"),
    });
    gateway.register("orders", "r-1", flaky.address()).await;
    recording.routes("orders").await;
    let asked = 200 - flaky.seen().len();
    for _ in 0..asked {
        http1::get(recording.address(), "/orders/x").await;
    }
    // The last one is recorded when its answer has gone out.
    let told = eventually("all outcomes are recorded", async || {
        let asked = "policy what-if orders breaker.consecutive_failure_count=3 -o json";
        let told = gwctl(&gateway, asked).await.json();
        if told["then"]["outcomeCount"] == "200" { Ok(told) } else { Err(told.to_string()) }
    })
    .await;
    let number =
        |replay: &str, field: &str| -> u64 { told[replay][field].as_str().unwrap().parse().unwrap() };
    assert_eq!((number("now", "tripCount"), number("now", "shedFailureCount")), (0, 0), "as it was: {told}");
    assert_eq!((number("then", "outcomeCount"), number("then", "failureCount")), (200, 60), "{told}");
    assert!(number("then", "tripCount") >= 1 && number("then", "shedFailureCount") > 0, "{told}");
    assert_eq!(told["unrecordingNodeIds"], serde_json::json!(["dp-1"]));
    assert_eq!(told["missingNodeIds"], serde_json::json!([]));
    let text = gwctl(&gateway, "policy what-if orders breaker.consecutive_failure_count=3").await.success();
    for shown in
        ["would have opened ", "(now: 0)", "rests on 200 outcomes", "dp-1 records no outcomes", "Not known"]
    {
        assert!(text.contains(shown), "{shown}:\n{text}");
    }
    let stricter = gwctl(&gateway, "policy what-if orders timeout.connect=1s").await;
    assert_eq!(stricter.code(), 2, "only a breaker's rules can be replayed: {}", stricter.stderr);
    let of_several = gwctl(&gateway, "policy what-if orders breaker.peer_latency_factor=3").await;
    assert_eq!(of_several.code(), 2, "{}", of_several.stderr);
    assert!(of_several.stderr.contains("is not replayed"), "{}", of_several.stderr);
    let out_of_range = gwctl(&gateway, "policy what-if orders breaker.failure_ratio=7").await;
    assert!(out_of_range.stderr.contains("breaker.failure_ratio"), "{}", out_of_range.stderr);
}
