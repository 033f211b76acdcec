//! What replicas are told of an attempt, and what trusted callers may ask for one request.

use std::time::{Duration, Instant};

use data_plane::proxy::{Networks, ProxyConfig};
use gateway_proto::Policy;

use crate::harness::{Act, Gateway, Replica, field, ok, respond, status};

fn trusting(config: &mut ProxyConfig) {
    config.forwarding.trusted = Networks::parse(["127.0.0.0/8"]).expect("it is a network");
}

fn get(hints: &str) -> String {
    format!("GET /orders/ HTTP/1.1\r\nhost: gw\r\n{hints}\r\n")
}

#[tokio::test]
async fn each_attempt_says_which_it_is_and_how_long_it_may_take() {
    let first = Replica::start(|_, _| respond(503, "no")).await;
    let second = Replica::start(|_, _| respond(503, "no")).await;
    let mut policy = Policy::default();
    policy.timeout.per_try = Duration::from_millis(5000);
    policy.timeout.request = Duration::from_millis(4000);
    let gateway = Gateway::start(&[first.address, second.address], policy).await;
    // Nobody outside says it in the gateway's place.
    gateway.send(&get("x-gw-attempt: 7\r\nx-gw-timeout-ms: 1\r\n")).await;
    let mut told: Vec<(u64, u64)> = [first.seen(), second.seen()]
        .concat()
        .iter()
        .map(|seen| {
            let number = |name| field(seen, name).and_then(|value| value.parse().ok()).expect("it is told");
            (number("x-gw-attempt"), number("x-gw-timeout-ms"))
        })
        .collect();
    told.sort_unstable();
    assert_eq!(told.iter().map(|(attempt, _)| *attempt).collect::<Vec<_>>(), [1, 2]);
    let (one, two) = (told[0].1, told[1].1);
    assert!((3000..=4000).contains(&one) && two <= one && two > 1000, "{told:?}");
}

#[tokio::test]
async fn a_trusted_caller_that_waits_less_is_answered_in_time_and_nobody_is_blamed() {
    let replica = Replica::start(|_, _| Act::Hang).await;
    let gateway = Gateway::start_as(trusting, &[replica.address], Policy::default()).await;
    let start = Instant::now();
    let response = gateway.send(&get("x-gw-timeout: 300ms\r\n")).await;
    assert_eq!(status(&response), 504);
    assert!(response.contains("deadline_exceeded"), "{response}");
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(300) && took < Duration::from_secs(5), "{took:?}");
    assert_eq!(gateway.service().replicas()[0].counters().failures, 0, "it had less than its time");
    let told = field(&replica.seen()[0], "x-gw-timeout-ms").and_then(|value| value.parse::<u64>().ok());
    assert!(told.is_some_and(|told| told <= 300), "{told:?}");
    assert_eq!(field(&replica.seen()[0], "x-gw-timeout"), None);
}

#[tokio::test]
async fn a_trusted_caller_says_how_often_a_request_is_tried_and_nobody_else_does() {
    let replicas =
        [Replica::start(|_, _| respond(503, "no")).await, Replica::start(|_, _| respond(503, "no")).await];
    let addresses = replicas.each_ref().map(|replica| replica.address);
    let asked = |replicas: &[Replica; 2]| replicas.iter().map(|replica| replica.seen().len()).sum::<usize>();
    let gateway = Gateway::start_as(trusting, &addresses, Policy::default()).await;
    gateway.send(&get("x-gw-retry: off\r\n")).await;
    assert_eq!(asked(&replicas), 1);
    gateway.send(&get("x-gw-retry: 1\r\n")).await;
    assert_eq!(asked(&replicas), 3);
    let refused = gateway.send(&get("x-gw-retry: never\r\n")).await;
    assert_eq!(status(&refused), 400);
    assert!(refused.contains("x-gw-retry is neither off nor 0 to 255"), "{refused}");
    assert_eq!(asked(&replicas), 3);
    let stranger = Gateway::start(&addresses, Policy::default()).await;
    stranger.send(&get("x-gw-retry: off\r\n")).await;
    stranger.send(&get("x-gw-retry: never\r\n")).await;
    assert_eq!(asked(&replicas), 7);
}

#[tokio::test]
async fn a_caller_cannot_have_more_than_the_policy_allows() {
    let replica = Replica::start(|_, _| ok("hello")).await;
    let mut policy = Policy::default();
    policy.timeout.request = Duration::from_secs(2);
    policy.timeout.per_try = Duration::from_secs(2);
    let gateway = Gateway::start_as(trusting, &[replica.address], policy).await;
    assert_eq!(status(&gateway.send(&get("x-gw-timeout: 1h\r\nx-gw-retry: 255\r\n")).await), 200);
    let told = field(&replica.seen()[0], "x-gw-timeout-ms").and_then(|value| value.parse::<u64>().ok());
    assert!(told.is_some_and(|told| told <= 2000), "{told:?}");
}

#[tokio::test]
async fn an_attempt_beside_another_is_one_of_the_retries_that_a_caller_allows() {
    let mut replicas = Vec::new();
    for _ in 0..4 {
        replicas.push(Replica::start(|_, _| Act::Hang).await);
    }
    let addresses: Vec<_> = replicas.iter().map(|replica| replica.address).collect();
    let mut policy = Policy::default();
    policy.retry.hedge_delay = Duration::from_millis(30);
    policy.timeout.per_try = Duration::from_millis(300);
    policy.breaker.consecutive_failure_count = 100;
    let gateway = Gateway::start_as(trusting, &addresses, policy).await;
    let asked = || replicas.iter().map(|replica| replica.seen().len()).sum::<usize>();
    for (allowed, attempts) in [(1, 2), (2, 5)] {
        let response = gateway.send(&get(&format!("x-gw-retry: {allowed}\r\n"))).await;
        assert!(response.contains("retry-denied=retries_used"), "{response}");
        assert_eq!(asked(), attempts, "with {allowed} more in all");
    }
}
