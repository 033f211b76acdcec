//! How requests are shared out while replicas come and go, and by chance.

use std::time::{Duration, Instant};

use gateway_proto::v1::{HealthStatus, ReportHealthRequest};
use gateway_tests::{Act, Gateway, Scripted, command, http1, http1::Connection};
use tokio::task::JoinSet;

use super::{ask, set};

async fn three(gateway: &Gateway) -> Vec<Scripted> {
    let replicas: Vec<Scripted> = (0..3).map(|_| Scripted::start(|_, _| Act::ok(b"hello"))).collect();
    for (number, replica) in replicas.iter().enumerate() {
        gateway.register("orders", &format!("r-{number}"), replica.address()).await;
    }
    replicas
}

#[tokio::test]
async fn the_others_keep_even_shares_while_one_replica_is_taken_out_and_brought_back_again_and_again() {
    let gateway = Gateway::start_unchecked().await;
    let replicas = three(&gateway).await;
    let mut client = Connection::open(gateway.proxy()).await.unwrap();
    for _ in 0..5 {
        for (verb, requests) in [("open", 20), ("auto", 30)] {
            let line = ["breaker", verb, "orders/r-0", "--reason", "a test"];
            command::gwctl(&gateway.control.url(), &line).await.success();
            for _ in 0..requests {
                assert_eq!(ask(&mut client, "/orders/x").await, 200);
            }
        }
    }
    let [out, one, other] = [0, 1, 2].map(|number| replicas[number].seen().len());
    assert_eq!(out + one + other, 250);
    // Half of what comes while it is out, a third of the rest, within five in a hundred.
    assert!((95..=105).contains(&one) && (95..=105).contains(&other), "{out} {one} {other}");
}

#[tokio::test]
async fn by_chance_each_of_three_replicas_has_about_a_third_of_three_thousand_calls() {
    let gateway = Gateway::start().await;
    let replicas = three(&gateway).await;
    set(&gateway, "orders", &["balancing.algorithm=random"]).await;
    let mut clients = JoinSet::new();
    for _ in 0..10 {
        let proxy = gateway.proxy();
        clients.spawn(async move {
            let mut client = Connection::open(proxy).await.unwrap();
            for _ in 0..300 {
                assert_eq!(ask(&mut client, "/orders/x").await, 200);
            }
        });
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    let shares: Vec<_> = replicas.iter().map(|replica| replica.seen().len()).collect();
    assert_eq!(shares.iter().sum::<usize>(), 3000);
    // Five standard deviations and more.
    assert!(shares.iter().all(|share| (850..=1150).contains(share)), "{shares:?}");
    assert_ne!(shares, [1000, 1000, 1000], "that would be turns");
}

#[tokio::test]
async fn a_service_without_a_usable_replica_is_503_at_once_and_nobody_is_asked() {
    let gateway = Gateway::start().await;
    let replica = Scripted::start(|_, _| Act::ok(b"hello"));
    gateway.register("orders", "r-1", replica.address()).await;
    let report = ReportHealthRequest {
        service: "orders".into(),
        replica_id: "r-1".into(),
        health: HealthStatus::Unhealthy.into(),
        reason: "out of stock".into(),
        ..Default::default()
    };
    gateway.control.registry().report_health(report).await.unwrap();
    gateway.synced().await;
    let mut fastest = Duration::MAX;
    for _ in 0..10 {
        let began = Instant::now();
        let answer = http1::get(gateway.proxy(), "/orders/x").await;
        fastest = fastest.min(began.elapsed());
        let problem: serde_json::Value = serde_json::from_slice(answer.body()).unwrap();
        assert_eq!((answer.status().as_u16(), &problem["reason"]), (503, &"no_ready_replica".into()));
    }
    // The best of several: what is measured is the gateway and not its neighbours on this machine.
    assert!(fastest < Duration::from_millis(50), "{fastest:?}");
    assert!(replica.seen().is_empty());
}
