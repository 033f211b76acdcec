//! One request whose replicas fail: it goes on to the next one, within bounds, and ends in time, perhaps with something in place
//! of an answer.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use bytes::Bytes;
use gateway_tests::{Act, DataPlane, Gateway, Load, Scripted, eventually, http1, http1::Connection};
use http::{Method, Request};
use serde_json::Value;
use tokio::task::JoinSet;

use super::{ask, set, shows, status};

/// No rule of a breaker minds anything.
const PATIENT: [&str; 2] = ["breaker.consecutive_failure_count=10000", "breaker.min_request_count=1000000"];

#[tokio::test]
async fn of_a_thousand_calls_none_fails_while_one_of_three_replicas_is_dead() {
    let gateway = Gateway::start_unchecked().await;
    let dead = Scripted::refusing(|_, _| Act::ok(b""));
    let alive = [(); 2].map(|()| Scripted::start(|_, _| Act::ok(b"hello")));
    for (number, replica) in [&dead, &alive[0], &alive[1]].into_iter().enumerate() {
        gateway.register("orders", &format!("r-{number}"), replica.address()).await;
    }
    let mut clients = JoinSet::new();
    for _ in 0..10 {
        let proxy = gateway.proxy();
        clients.spawn(async move {
            let mut client = Connection::open(proxy).await.unwrap();
            for number in 0..100 {
                // Of any method: what was refused has not been seen.
                let method = if number % 3 == 0 { Method::POST } else { Method::GET };
                assert_eq!(client.send(http1::request(method, "/orders/x")).await.unwrap().status(), 200);
            }
        });
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    assert_eq!(alive.iter().map(|replica| replica.seen().len()).sum::<usize>(), 1000);
}

#[tokio::test]
async fn while_all_fail_a_request_asks_each_once_at_most_and_retries_stay_within_their_budget() {
    let gateway = Gateway::start_unchecked().await;
    let replicas = [(); 4].map(|()| Scripted::start(|_, _| status(503)));
    for (number, replica) in replicas.iter().enumerate() {
        gateway.register("orders", &format!("r-{number}"), replica.address()).await;
    }
    set(&gateway, "orders", &PATIENT).await;
    let mut client = Connection::open(gateway.proxy()).await.unwrap();
    let (began, requests) = (Instant::now(), 400);
    for number in 0..requests {
        let method = if number % 4 == 3 { Method::POST } else { Method::GET };
        let request = Request::builder().method(method).uri(format!("/orders/{number}"));
        let answer = client.send(request.body(Bytes::new()).unwrap()).await.unwrap();
        assert_eq!(answer.status(), 503, "the replica's own answer");
    }
    let lasted = began.elapsed();
    let mut asked: HashMap<String, Vec<usize>> = HashMap::new();
    for (replica, scripted) in replicas.iter().enumerate() {
        for seen in scripted.seen() {
            asked.entry(format!("{} {}", seen.method(), seen.target())).or_default().push(replica);
        }
    }
    let attempts: usize = asked.values().map(Vec::len).sum();
    for (request, mut by) in asked {
        assert!(by.len() <= if request.starts_with("POST") { 1 } else { 3 }, "{request}: {by:?}");
        by.sort_unstable();
        by.dedup_by(|one, other| {
            assert_ne!(one, other, "{request} came twice");
            false
        });
    }
    // A fifth of the requests, and ten a second, of which those of ten seconds are there at the start.
    let most = 1.2 * f64::from(requests) + 10.0 * (lasted.as_secs_f64() + 10.0);
    assert!(attempts > requests as usize && attempts as f64 <= most, "{attempts} in {lasted:?}");
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_504_at_its_limit_its_replica_is_left_alone_and_it_counts() {
    let gateway = Gateway::start_unchecked().await;
    let replica = Scripted::start(|_, _| Act::Hang);
    gateway.register("orders", "r-1", replica.address()).await;
    set(&gateway, "orders", &["timeout.per_try=1s"]).await;
    let began = Instant::now();
    let answer = http1::get(gateway.proxy(), "/orders/slow").await;
    let took = began.elapsed();
    assert_eq!(answer.status(), 504);
    assert!((Duration::from_secs(1)..Duration::from_secs(2)).contains(&took), "{took:?}");
    eventually("the connection to the replica is closed", async || match &replica.seen()[..] {
        [seen] if seen.ended.is_some() => Ok(()),
        seen => Err(format!("{seen:?}")),
    })
    .await;
    let breaker = shows(&gateway, "orders", "it counts", |breaker| breaker.failure_count == 1).await;
    assert_eq!(breaker.last_errors, ["no response in time"]);
}

#[tokio::test]
async fn a_fallback_stands_in_and_says_so_and_without_one_the_failure_is_told() {
    const BODY: &str = r#"[{"id":0,"user":"System","text":"Temporary failure, please try again later"}]"#;
    let gateway = Gateway::start_unchecked().await;
    let dead = Scripted::refusing(|_, _| Act::ok(b""));
    gateway.register("orders", "r-1", dead.address()).await;
    set(&gateway, "orders", &["breaker.consecutive_failure_count=2", "breaker.base_open=50s"]).await;
    assert_eq!(http1::get(gateway.proxy(), "/orders/x").await.status(), 502);

    let body = format!("fallback.body={BODY}");
    set(&gateway, "orders", &["fallback.static_status=200", &body]).await;
    // The first of these meets the replica, and the next its open breaker.
    for why in ["connection_refused", "destination_unavailable"] {
        let answer = http1::get(gateway.proxy(), "/orders/x").await;
        assert_eq!((answer.status().as_u16(), answer.body().as_ref()), (200, BODY.as_bytes()));
        assert_eq!(answer.headers()["x-gw-fallback"], "static");
        assert_eq!(answer.headers()["content-type"], "application/json");
        let told = answer.headers()["proxy-status"].to_str().unwrap();
        assert!(told.contains(why) && told.contains("fallback=static"), "{told}");
    }
    set(&gateway, "orders", &["fallback.static_status=0"]).await;
    let answer = http1::get(gateway.proxy(), "/orders/x").await;
    let problem: Value = serde_json::from_slice(answer.body()).unwrap();
    assert_eq!((answer.status().as_u16(), &problem["reason"]), (503, &"breaker_open".into()));
    assert!(!answer.headers().contains_key("x-gw-fallback"));
}

#[tokio::test]
async fn a_data_plane_that_is_killed_costs_the_other_nothing_and_comes_back_knowing_all() {
    let mut gateway = Gateway::start().await;
    let other = DataPlane::following(&gateway.control, "dp-2", &gateway.directory().join("dp-2")).await;
    let replica = Scripted::start(|_, _| Act::ok(b"hello"));
    gateway.register("orders", "r-1", replica.address()).await;
    other.routes("orders").await;
    let load = Load::start(other.address(), "/orders/x", 100);
    let mut client = Connection::open(other.address()).await.unwrap();
    gateway.data.kill();
    for _ in 0..20 {
        assert_eq!(ask(&mut client, "/orders/x").await, 200);
    }
    gateway.data.restart().await;
    eventually("it serves again", async || match http1::get(gateway.proxy(), "/orders/x").await.status() {
        status if status == 200 => Ok(()),
        status => Err(status.to_string()),
    })
    .await;
    load.stop().await.assert_flawless();
}
