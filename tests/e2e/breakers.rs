//! Breakers: each data plane has its own, and an open one is tried with single requests.

use std::time::Duration;

use gateway_proto::v1::{BreakerState, ListBreakersRequest};
use gateway_tests::{
    Act, DataPlane, Gateway, Load, Scripted, eventually,
    http1::{self, Connection},
};
use http::Method;

const LONG: Duration = Duration::from_secs(15);

#[tokio::test]
async fn a_half_open_breaker_lets_one_probe_through_at_a_time() {
    let gateway = Gateway::start_unchecked().await;
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone".to_vec();
    // Slow enough that a second probe would meet the first.
    let mut faulty =
        Scripted::refusing(move |_, _| Act::AnswerAfter(Duration::from_millis(200), answer.clone()));
    let working = Scripted::start(|_, _| Act::ok(b"done"));
    gateway.register("orders", "r-1", faulty.address()).await;
    gateway.register("orders", "r-2", working.address()).await;
    let load = Load::start(gateway.proxy(), "/orders/x", 200);
    gateway.breaker_becomes("orders", "r-1", BreakerState::Open, LONG).await;

    faulty.listen();
    gateway.breaker_becomes("orders", "r-1", BreakerState::Closed, LONG).await;
    eventually("traffic flows again", async || match faulty.seen().len() {
        0..10 => Err("too few requests".into()),
        _ => Ok(()),
    })
    .await;
    load.stop().await.assert_flawless();

    // Two successes close it: whatever came third came after both, and the second after the first.
    let seen = faulty.seen();
    let first_ended = seen[0].ended.expect("it was answered");
    let second_ended = seen[1].ended.expect("it was answered");
    assert!(seen[1].arrived >= first_ended, "two probes at once");
    assert!(seen[2].arrived >= second_ended, "a request beside the second probe");
}

#[tokio::test]
async fn a_failed_probe_opens_the_breaker_for_longer() {
    let gateway = Gateway::start_unchecked().await;
    let faulty = Scripted::refusing(|_, _| Act::ok(b""));
    let working = Scripted::start(|_, _| Act::ok(b"done"));
    gateway.register("orders", "r-1", faulty.address()).await;
    gateway.register("orders", "r-2", working.address()).await;
    let load = Load::start(gateway.proxy(), "/orders/x", 100);
    let again = eventually("a probe has failed", async || match gateway.breaker("orders", "r-1").await {
        Some(breaker) if breaker.trip_count >= 2 && breaker.state() == BreakerState::Open => Ok(breaker),
        other => Err(format!("{other:?}")),
    })
    .await;
    load.stop().await.assert_flawless();
    assert_eq!(again.reason, "consecutive_failures 5 >= 5: connect refused", "what opened it is not lost");
    assert_eq!(again.last_failed_probe.unwrap().reason, "probe failed: connect refused");
    let seconds = |time: prost_types::Timestamp| time.seconds as f64 + f64::from(time.nanos) / 1e9;
    let rest = seconds(again.retry_time.unwrap()) - seconds(again.state_change_time.unwrap());
    // Twice the first second, give or take a fifth.
    assert!((1.5..=2.5).contains(&rest), "{rest}");
}

#[tokio::test]
async fn two_data_planes_have_breakers_of_their_own() {
    let gateway = Gateway::start_unchecked().await;
    let second = DataPlane::following(&gateway.control, "dp-2", &gateway.directory().join("dp-2")).await;
    let faulty = Scripted::refusing(|_, _| Act::ok(b""));
    let working = Scripted::start(|_, _| Act::ok(b"done"));
    gateway.register("orders", "r-1", faulty.address()).await;
    gateway.register("orders", "r-2", working.address()).await;
    second.routes("orders").await;

    // Only the first one has traffic, and so only it can know.
    let mut client = Connection::open(gateway.proxy()).await.unwrap();
    for _ in 0..10 {
        let answer = client.send(http1::request(Method::GET, "/orders/x")).await.unwrap();
        assert_eq!(answer.status(), 200);
    }
    let request = ListBreakersRequest {
        service: "orders".into(),
        replica_id: "r-1".into(),
        per_node: true,
        ..Default::default()
    };
    let rows = eventually("both data planes report, one of them an open breaker", async || {
        let answer = gateway.control.observability().list_breakers(request.clone()).await;
        let rows = answer.map_err(|status| status.to_string())?.into_inner().breakers;
        let states: Vec<_> = rows.iter().map(|row| (row.node_id.clone(), row.state())).collect();
        let expected = [("dp-1".into(), BreakerState::Open), ("dp-2".into(), BreakerState::Closed)];
        if states == expected { Ok(rows) } else { Err(format!("{states:?}")) }
    })
    .await;
    assert_eq!(rows[0].last_errors.first().map(String::as_str), Some("connect refused"));

    // Merged, the worst of them shows, and on how many it is so.
    let merged = gateway.breaker_becomes("orders", "r-1", BreakerState::Open, LONG).await;
    assert_eq!((merged.open_node_count, merged.node_count), (1, 2));
}
