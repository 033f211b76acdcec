//! Replicas that answer well, and late.

use std::time::Duration;

use data_plane::routing::Rule;
use gateway_proto::Policy;
use tokio::io::AsyncWriteExt;

use crate::harness::{Act, Gateway, Replica, body, eventually, ok, raw_replica, read_message, status};

/// A replica that takes its time for each answer.
async fn late(pause: Duration) -> std::net::SocketAddr {
    raw_replica(move |mut stream| async move {
        while read_message(&mut stream).await.is_some() {
            tokio::time::sleep(pause).await;
            let Act::Send(bytes) = ok("late") else { return };
            if stream.write_all(bytes.as_bytes()).await.is_err() {
                return;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_replica_that_answers_well_and_slowly_is_taken_out() {
    let slow = late(Duration::from_millis(150)).await;
    let fast = Replica::start(|_, _| ok("fast")).await;
    let mut policy = Policy::default();
    policy.breaker.slow_threshold = Duration::from_millis(100);
    policy.breaker.min_request_count = 4;
    policy.breaker.base_open = Duration::from_secs(60);
    let mut gateway = Gateway::start(&[slow, fast.address], policy).await;
    for _ in 0..8 {
        assert_eq!(status(&gateway.get("/orders/").await), 200);
    }
    let change = gateway.transitions.try_recv().expect("it opened").change;
    assert_eq!(change.rule(), Some(Rule::SlowRatio));
    assert_eq!(change.reason.to_string(), "slow_ratio 1.00 >= 0.50 (4 of 4 took 100ms or more)");
    for _ in 0..5 {
        assert_eq!(body(&gateway.get("/orders/").await), "fast");
    }
}

#[tokio::test]
async fn a_replica_that_is_slow_beside_two_others_is_taken_out() {
    let slow = late(Duration::from_millis(120)).await;
    let others = [Replica::start(|_, _| ok("fast")).await, Replica::start(|_, _| ok("fast")).await];
    let mut policy = Policy::default();
    policy.breaker.peer_latency_factor = 4.0;
    policy.breaker.min_request_count = 5;
    policy.breaker.window = Duration::from_secs(1);
    policy.breaker.base_open = Duration::from_secs(60);
    let gateway = Gateway::start(&[slow, others[0].address, others[1].address], policy).await;
    let is_open = || {
        let replicas = gateway.service().replicas();
        replicas[0].breaker_view(gateway.clock.now(), &policy.breaker).state
            == data_plane::routing::State::Open
    };
    for _ in 0..400 {
        assert_eq!(status(&gateway.get("/orders/").await), 200);
        if is_open() {
            break;
        }
    }
    assert!(is_open());
    let trip = gateway.service().replicas()[0].history().trip;
    assert_eq!(trip.and_then(|trip| trip.change.rule()), Some(Rule::PeerLatency));
    assert_eq!(body(&gateway.get("/orders/").await), "fast");
}

#[tokio::test]
async fn an_upload_that_takes_long_does_not_make_its_replica_slow() {
    let replica = Replica::start(|_, _| ok("fine")).await;
    let mut policy = Policy::default();
    policy.breaker.slow_threshold = Duration::from_millis(250);
    policy.breaker.min_request_count = 1;
    let gateway = Gateway::start(&[replica.address], policy).await;
    let mut client = gateway.connect().await;
    let head = "POST /orders/ HTTP/1.1\r\nhost: gw\r\ncontent-length: 4\r\n\r\nab";
    client.write_all(head.as_bytes()).await.unwrap();
    // Longer than what is slow.
    tokio::time::sleep(Duration::from_millis(300)).await;
    client.write_all(b"cd").await.unwrap();
    let response = read_message(&mut client).await.unwrap();
    assert_eq!(status(&response), 200);
    let view = || gateway.service().replicas()[0].breaker_view(gateway.clock.now(), &policy.breaker);
    eventually("the request is counted", || view().totals.total == 1).await;
    assert_eq!((view().slow.total, view().slow.marked), (1, 0));
}
