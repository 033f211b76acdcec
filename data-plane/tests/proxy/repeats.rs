//! Which requests may be sent twice, and what replicas have to say about it.

use std::time::{Duration, Instant};

use gateway_proto::{Policy, policy::Methods};

use crate::harness::{Act, Gateway, Replica, body, field, ok, status};

fn unavailable(fields: &str) -> Act {
    Act::Send(format!("HTTP/1.1 503 Service Unavailable\r\n{fields}content-length: 3\r\n\r\nbad"))
}

/// A gateway before a replica that fails so, and one that works.
async fn between(policy: Policy, act: Act) -> (Gateway, Replica, Replica) {
    let bad = Replica::start(move |_, _| act.clone()).await;
    let good = Replica::start(|_, _| ok("good")).await;
    let gateway = Gateway::start(&[bad.address, good.address], policy).await;
    (gateway, bad, good)
}

const POST: &str = "POST /orders/ HTTP/1.1\r\nhost: gw\r\ncontent-length: 4\r\n\r\nbody";
const KEYED: &str =
    "POST /orders/ HTTP/1.1\r\nhost: gw\r\nIdempotency-Key: \"8e03978e\"\r\ncontent-length: 4\r\n\r\nbody";

#[tokio::test]
async fn a_post_with_an_idempotency_key_is_sent_again_whole_and_one_without_never() {
    let (gateway, bad, good) = between(Policy::default(), unavailable("")).await;
    let response = gateway.send(KEYED).await;
    assert_eq!((status(&response), body(&response)), (200, "good"));
    assert!(bad.seen()[0].ends_with("body") && good.seen()[0].ends_with("body"));
    assert!(good.seen()[0].contains("8e03978e"), "its replica knows it by that");
    assert_eq!(status(&gateway.send(KEYED).await), 200, "the good one has its own turn");
    let response = gateway.send(POST).await;
    assert_eq!((status(&response), body(&response)), (503, "bad"));
}

#[tokio::test]
async fn a_key_counts_only_if_it_is_one_and_the_policy_lets_it() {
    let (gateway, _bad, good) = between(Policy::default(), unavailable("")).await;
    let empty = KEYED.replace("\"8e03978e\"", "");
    assert_eq!(status(&gateway.send(&empty).await), 503);
    let mut policy = Policy::default();
    policy.retry.idempotency_key = false;
    let (gateway, _bad, other) = between(policy, unavailable("")).await;
    assert_eq!(status(&gateway.send(KEYED).await), 503);
    assert_eq!(good.seen().len() + other.seen().len(), 0);
}

#[tokio::test]
async fn methods_may_be_sent_twice_as_the_policy_says() {
    let mut policy = Policy::default();
    policy.retry.methods = Methods::parse(["POST"]).unwrap();
    let (gateway, _bad, _good) = between(policy, unavailable("")).await;
    assert_eq!(status(&gateway.send(POST).await), 200);
    assert_eq!(status(&gateway.get("/orders/").await), 200, "it is the good one's turn");
    assert_eq!(status(&gateway.get("/orders/").await), 503, "it is the bad one's turn");
}

#[tokio::test]
async fn another_attempt_waits_for_as_long_as_the_replica_says_or_the_policy() {
    let mut policy = Policy::default();
    policy.retry.max_pushback = Duration::from_millis(300);
    let (gateway, _bad, _good) = between(policy, unavailable("retry-after: 1\r\n")).await;
    let began = Instant::now();
    let response = gateway.get("/orders/").await;
    assert_eq!((status(&response), body(&response)), (200, "good"));
    assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
}

#[tokio::test]
async fn an_answer_that_asks_for_more_time_than_there_is_goes_to_the_client_at_once() {
    let (gateway, _bad, good) = between(Policy::default(), unavailable("retry-after: 3600\r\n")).await;
    let response = gateway.get("/orders/").await;
    assert_eq!((status(&response), body(&response)), (503, "bad"));
    assert_eq!(field(&response, "retry-after").as_deref(), Some("3600"));
    assert!(good.seen().is_empty());
}

#[tokio::test]
async fn when_a_second_replica_asks_for_time_there_is_no_third_attempt() {
    let bad = [
        Replica::start(|_, _| unavailable("retry-after: 0\r\n")).await,
        Replica::start(|_, _| unavailable("retry-after: 0\r\n")).await,
    ];
    let good = Replica::start(|_, _| ok("good")).await;
    let gateway = Gateway::start(&[bad[0].address, bad[1].address, good.address], Policy::default()).await;
    let response = gateway.get("/orders/").await;
    assert_eq!((status(&response), body(&response)), (503, "bad"));
    assert!(good.seen().is_empty());
}

#[tokio::test]
async fn what_replicas_ask_for_is_ignored_where_the_policy_says_so() {
    let mut policy = Policy::default();
    policy.retry.max_pushback = Duration::ZERO;
    let (gateway, _bad, _good) = between(policy, unavailable("retry-after: 3600\r\n")).await;
    assert_eq!(status(&gateway.get("/orders/").await), 200);
}
