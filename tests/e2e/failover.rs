//! Replicas die; requests do not.

use std::time::{Duration, Instant};

use bytes::Bytes;
use gateway_proto::v1::{BreakerRule, BreakerState};
use gateway_tests::{
    Act, DemoReplica, Gateway, Load, Scripted, eventually,
    http1::{self, Connection},
};
use http::{Method, Request};

const LONG: Duration = Duration::from_secs(15);

#[tokio::test]
async fn no_request_fails_when_a_replica_is_killed_and_comes_back() {
    let gateway = Gateway::start().await;
    let mut replicas = Vec::new();
    for id in ["r-1", "r-2", "r-3"] {
        let replica = DemoReplica::start(id).await;
        gateway.register("orders", id, replica.address()).await;
        replicas.push(replica);
    }
    let load = Load::start(gateway.proxy(), "/orders/hello", 200);
    eventually("the load has reached every replica", async || {
        let sent = load.tally().sent;
        if sent >= 100 { Ok(()) } else { Err(format!("{sent} requests")) }
    })
    .await;

    // It dies: its breaker opens by the rule that saw it first.
    load.between_posts(|| replicas[1].kill()).await;
    let open = gateway.breaker_becomes("orders", "r-2", BreakerState::Open, LONG).await;
    assert_eq!(open.rule(), BreakerRule::ConsecutiveFailures, "{open:?}");
    assert_eq!(open.reason, "consecutive_failures 5 >= 5: connect refused");
    assert!(open.retry_time.is_some(), "an open breaker says when it is tried again: {open:?}");

    // It is back: probes find that out, and it gets its share again.
    replicas[1].restart().await;
    gateway.breaker_becomes("orders", "r-2", BreakerState::Closed, LONG).await;
    let since = replicas[1].request_count().await;
    eventually("the replica gets requests again", async || {
        let now = replicas[1].request_count().await;
        if now >= since + 20 { Ok(()) } else { Err(format!("{now} requests")) }
    })
    .await;
    load.stop().await.assert_flawless();

    let events = gateway.event_types("orders", "r-2").await;
    let breaker: Vec<&str> = events.iter().filter_map(|event| event.strip_prefix("BREAKER_")).collect();
    assert_eq!(breaker.first(), Some(&"OPENED"), "{events:?}");
    assert_eq!(breaker[breaker.len() - 2..], ["HALF_OPENED", "CLOSED"], "{events:?}");
}

#[tokio::test]
async fn no_request_fails_while_replicas_are_restarted_one_after_the_other() {
    let gateway = Gateway::start().await;
    let url = gateway.control.url();
    let mut replicas = Vec::new();
    for id in ["r-1", "r-2", "r-3"] {
        replicas.push(DemoReplica::registering("orders", id, &url, "15s").await);
    }
    let count_becomes = async |count: usize| {
        eventually(&format!("{count} replicas are registered"), async || {
            match gateway.replicas("orders").await.len() {
                found if found == count => Ok(()),
                found => Err(format!("{found} replicas")),
            }
        })
        .await;
        gateway.synced().await;
    };
    count_becomes(3).await;
    let load = Load::start(gateway.proxy(), "/orders/hello", 200);
    for replica in &mut replicas {
        // Told to end, it leaves the registry while it still serves.
        replica.process().terminate();
        assert!(replica.process().exited().await.success());
        count_becomes(2).await;
        replica.restart().await;
        count_becomes(3).await;
    }
    load.stop().await.assert_flawless();
}

#[tokio::test]
async fn every_replica_down_is_answered_with_503_at_once_and_when_to_come_back() {
    let gateway = Gateway::start().await;
    let replicas: Vec<Scripted> = (0..3).map(|_| Scripted::refusing(|_, _| Act::ok(b""))).collect();
    for (number, replica) in replicas.iter().enumerate() {
        gateway.register("orders", &format!("r-{number}"), replica.address()).await;
    }
    // The first requests find out, each by asking all replicas.
    let mut client = Connection::open(gateway.proxy()).await.unwrap();
    let unavailable = eventually("all breakers are open", async || {
        let answer = client.send(http1::request(Method::GET, "/orders/x")).await?;
        if answer.status() == 503 { Ok(answer) } else { Err(answer.status().to_string()) }
    })
    .await;
    let problem: serde_json::Value = serde_json::from_slice(unavailable.body()).unwrap();
    assert_eq!(problem["reason"], "breaker_open", "{problem}");
    assert_eq!(problem["attempts"], 0, "{problem}");
    let retry_after = unavailable.headers()["retry-after"].to_str().unwrap().parse::<u64>().unwrap();
    assert!((1..=60).contains(&retry_after), "{retry_after}");

    // The best of several: what is measured is the gateway and not its neighbours on this machine.
    let mut fastest = Duration::MAX;
    for _ in 0..10 {
        let began = Instant::now();
        let answer = client.send(http1::request(Method::GET, "/orders/x")).await.unwrap();
        if answer.status() == 503 {
            fastest = fastest.min(began.elapsed());
        }
    }
    assert!(fastest < Duration::from_millis(50), "{fastest:?}");
}

#[tokio::test]
async fn a_post_is_seen_at_most_once_while_replicas_close_without_an_answer() {
    let gateway = Gateway::start().await;
    // Of ten requests three are taken and dropped; the breaker's rules are met now and then, which is no matter.
    let replicas: Vec<Scripted> = (0..3)
        .map(|_| Scripted::start(|_, number| if number % 10 < 3 { Act::Close } else { Act::ok(b"done") }))
        .collect();
    for (number, replica) in replicas.iter().enumerate() {
        gateway.register("orders", &format!("r-{number}"), replica.address()).await;
    }
    let mut client = Connection::open(gateway.proxy()).await.unwrap();
    let mut answers = [0, 0];
    for number in 0..200 {
        let body = Bytes::from(format!("order {number}"));
        let request = Request::post("/orders/new").body(body).unwrap();
        let status = client.send(request).await.unwrap().status();
        answers[usize::from(status == 200)] += 1;
    }
    assert!(answers.iter().all(|&count| count > 0), "some fail, some do not: {answers:?}");

    let mut bodies: Vec<Vec<u8>> =
        replicas.iter().flat_map(Scripted::seen).map(|request| request.body).collect();
    let seen = bodies.len();
    bodies.sort();
    bodies.dedup();
    assert_eq!(bodies.len(), seen, "a POST was sent twice");
}

#[tokio::test]
async fn no_get_fails_while_one_replica_closes_without_an_answer() {
    let gateway = Gateway::start().await;
    let faulty = Scripted::start(|_, number| if number % 10 < 3 { Act::Close } else { Act::ok(b"done") });
    let working: Vec<Scripted> = (0..2).map(|_| Scripted::start(|_, _| Act::ok(b"done"))).collect();
    for (number, replica) in [&faulty].into_iter().chain(&working).enumerate() {
        gateway.register("orders", &format!("r-{number}"), replica.address()).await;
    }
    let mut client = Connection::open(gateway.proxy()).await.unwrap();
    for _ in 0..300 {
        let answer = client.send(http1::request(Method::GET, "/orders/x")).await.unwrap();
        assert_eq!(answer.status(), 200, "{:?}", answer.body());
    }
    assert!(faulty.seen().len() > 10, "it was asked");
}

#[tokio::test]
async fn a_replica_that_hangs_costs_a_get_its_own_time_and_then_another_replica_answers() {
    let directory = tempfile::tempdir().unwrap();
    let hanging = Scripted::start(|_, _| Act::Hang);
    let working = Scripted::start(|_, _| Act::ok(b"done"));
    let file = directory.path().join("services.toml");
    let replicas = format!("[\"{}\", \"{}\"]", hanging.address(), working.address());
    let policy = "[service.policy.timeout]\nper_try = \"300ms\"";
    std::fs::write(&file, format!("[[service]]\nname = \"orders\"\nreplicas = {replicas}\n{policy}\n"))
        .unwrap();
    let data = gateway_tests::DataPlane::start(&["--static", &file.display().to_string()]).await;
    let mut client = Connection::open(data.address()).await.unwrap();
    for _ in 0..8 {
        let began = Instant::now();
        let answer = client.send(http1::request(Method::GET, "/orders/x")).await.unwrap();
        assert_eq!(answer.status(), 200);
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    }
    assert!(!hanging.seen().is_empty(), "it was asked");
}
