//! Attempts that take long get company, where the policy says so.

use std::time::{Duration, Instant};

use data_plane::routing::{Rule, State};
use gateway_proto::{
    Policy,
    policy::{Algorithm, Methods},
};

use tokio::io::AsyncWriteExt;

use crate::harness::{
    Act, Gateway, Replica, body, eventually, field, ok, raw_replica, read_message, respond, status,
};

fn hedging() -> Policy {
    let mut policy = Policy::default();
    policy.retry.hedge_delay = Duration::from_millis(30);
    policy.breaker.base_open = Duration::from_secs(60);
    policy
}

/// A replica that takes its time for each answer.
async fn late(pause: Duration, act: Act) -> std::net::SocketAddr {
    let Act::Send(bytes) = act else { panic!("an answer") };
    raw_replica(move |mut stream| {
        let bytes = bytes.clone();
        async move {
            while read_message(&mut stream).await.is_some() {
                tokio::time::sleep(pause).await;
                if stream.write_all(bytes.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_get_that_hangs_is_answered_by_another_replica_beside() {
    let hanging = Replica::start(|_, _| Act::Hang).await;
    let good = Replica::start(|_, _| ok("good")).await;
    let gateway = Gateway::start(&[hanging.address, good.address], hedging()).await;
    let began = Instant::now();
    let response = gateway.get("/orders/").await;
    assert_eq!((status(&response), body(&response)), (200, "good"));
    assert!(began.elapsed() >= Duration::from_millis(30), "not before its time");
    assert_eq!(field(&response, "x-gw-attempts").as_deref(), Some("2"));
    let service = gateway.service();
    let counts: Vec<_> = service.replicas().iter().map(|replica| replica.counters()).collect();
    assert_eq!((counts[0].attempts, counts[0].failures), (1, 0), "nobody blames whoever was outrun");
    assert_eq!(service.attempts().retries, 0, "nothing has failed");
    assert_eq!(service.counters().hedges(), 1);
    eventually("nothing is in flight", || {
        service.replicas().iter().all(|replica| replica.counters().inflight == 0)
    })
    .await;
}

#[tokio::test]
async fn a_quick_answer_has_no_company_and_neither_has_a_post() {
    let replicas = [Replica::start(|_, _| ok("a")).await, Replica::start(|_, _| ok("b")).await];
    let mut policy = hedging();
    // However long this machine takes for it, it is quick.
    policy.retry.hedge_delay = Duration::from_secs(20);
    let gateway = Gateway::start(&[replicas[0].address, replicas[1].address], policy).await;
    for _ in 0..10 {
        let response = gateway.get("/orders/").await;
        assert_eq!(field(&response, "x-gw-attempts").as_deref(), Some("1"));
    }
    let hanging = [Replica::start(|_, _| Act::Hang).await, Replica::start(|_, _| Act::Hang).await];
    let mut policy = hedging();
    policy.timeout.per_try = Duration::from_millis(200);
    let gateway = Gateway::start(&[hanging[0].address, hanging[1].address], policy).await;
    let response = gateway.post("/orders/", "x").await;
    assert_eq!(status(&response), 504);
    assert_eq!(gateway.service().attempts().attempts, 1);
}

/// A request that changes something, and may be sent twice.
fn write(method: &str) -> String {
    format!("{method} /orders/ HTTP/1.1\r\nhost: gw\r\nidempotency-key: k1\r\ncontent-length: 4\r\n\r\nbody")
}

/// The same as [`hedging`], of requests that change something, too.
fn hedging_writes() -> Policy {
    let mut policy = hedging();
    policy.retry.hedge_methods =
        Methods::parse(["DELETE", "GET", "POST", "PUT"]).expect("they are registered");
    policy
}

#[tokio::test]
async fn what_changes_something_has_no_company_and_is_not_cut_off_unless_the_policy_says_so() {
    let slow = late(Duration::from_millis(120), respond(201, "made")).await;
    let refusing = Replica::start(|_, _| respond(409, "in progress")).await;
    for method in ["DELETE", "PATCH", "POST", "PUT"] {
        let gateway = Gateway::start(&[slow, refusing.address], hedging()).await;
        let response = gateway.send(&write(method)).await;
        assert_eq!((status(&response), body(&response)), (201, "made"), "{method}");
        assert_eq!(field(&response, "x-gw-attempts").as_deref(), Some("1"));
    }
    assert!(refusing.seen().is_empty());
}

#[tokio::test]
async fn a_post_with_an_idempotency_key_has_company_with_its_whole_body_where_the_policy_names_posts() {
    let hanging = Replica::start(|_, _| Act::Hang).await;
    let good = Replica::start(|_, _| ok("good")).await;
    let mut policy = hedging_writes();
    policy.timeout.per_try = Duration::from_millis(200);
    let gateway = Gateway::start(&[hanging.address, good.address], policy).await;
    let response = gateway.send(&write("POST")).await;
    assert_eq!((status(&response), body(&response)), (200, "good"));
    assert!(hanging.seen()[0].ends_with("body") && good.seen()[0].ends_with("body"));

    let gateway = Gateway::start(&[hanging.address, good.address], policy).await;
    assert_eq!(status(&gateway.post("/orders/", "x").await), 504, "one without a key may not be sent twice");
}

#[tokio::test]
async fn a_body_that_takes_longer_than_the_delay_has_company_once_it_is_whole() {
    let hanging = Replica::start(|_, _| Act::Hang).await;
    let good = Replica::start(|_, _| ok("good")).await;
    let mut policy = hedging_writes();
    policy.retry.max_retry_count = 0;
    let gateway = Gateway::start(&[hanging.address, good.address], policy).await;
    let request = write("POST");
    let (begin, rest) = request.split_at(request.len() - 2);
    let mut client = gateway.connect().await;
    client.write_all(begin.as_bytes()).await.expect("it is taken");
    eventually("it is under way", || gateway.service().attempts().attempts == 1).await;
    // So that its time has passed twice.
    tokio::time::sleep(Duration::from_millis(70)).await;
    let is_whole = Instant::now();
    client.write_all(rest.as_bytes()).await.expect("it is taken");
    let response = read_message(&mut client).await.expect("an answer");
    assert_eq!((status(&response), body(&response)), (200, "good"));
    assert!(is_whole.elapsed() >= Duration::from_millis(30), "not before its time");
    assert_eq!(gateway.service().attempts().attempts, 2);
    assert!(good.seen()[0].ends_with("body"));
}

#[tokio::test]
async fn company_that_finds_no_place_is_looked_for_again() {
    let hanging = Replica::start(|_, _| Act::Hang).await;
    let slow = late(Duration::from_millis(100), ok("slow")).await;
    let mut policy = hedging();
    policy.retry.max_retry_count = 0;
    policy.concurrency.max_per_replica = 1;
    let gateway = Gateway::start(&[hanging.address, slow], policy).await;
    let (one, other) = tokio::join!(gateway.get("/orders/"), gateway.get("/orders/"));
    for response in [one, other] {
        assert_eq!((status(&response), body(&response)), (200, "slow"));
    }
    assert_eq!(gateway.service().attempts().attempts, 3);
}

#[tokio::test]
async fn company_that_the_budget_does_not_bear_is_looked_for_again() {
    let hanging = Replica::start(|_, _| Act::Hang).await;
    let good = Replica::start(|_, _| ok("good")).await;
    let mut policy = hedging();
    policy.retry.max_retry_count = 0;
    policy.retry.budget_ratio = 1.0;
    let gateway = Gateway::start(&[hanging.address, good.address], policy).await;
    let service = gateway.service();
    // Its floor, and what the request brings.
    (0..105).for_each(|_| service.budget().retry(0, gateway.clock.now()));
    let others = async {
        eventually("it is under way", || service.attempts().attempts == 1).await;
        // So that it has found the budget spent.
        tokio::time::sleep(Duration::from_millis(70)).await;
        assert_eq!(service.attempts().attempts, 1);
        (0..10).for_each(|_| service.budget().request(0, gateway.clock.now()));
    };
    let (response, ()) = tokio::join!(gateway.get("/orders/"), others);
    assert_eq!((status(&response), body(&response)), (200, "good"));
}

#[tokio::test]
async fn a_refusal_of_what_another_attempt_may_be_about_is_no_answer_yet() {
    for (method, refusal) in [("POST", 409), ("DELETE", 404), ("PUT", 412)] {
        let slow = late(Duration::from_millis(120), respond(201, "made")).await;
        let refusing = Replica::start(move |_, _| respond(refusal, "no")).await;
        let gateway = Gateway::start(&[slow, refusing.address], hedging_writes()).await;
        let response = gateway.send(&write(method)).await;
        assert_eq!((status(&response), body(&response)), (201, "made"), "{method}");
        assert_eq!(gateway.service().attempts().attempts, 2);
        assert_eq!(refusing.seen().len(), 1);
    }
}

#[tokio::test]
async fn when_all_refuse_it_is_the_first_attempt_that_is_believed() {
    let first = late(Duration::from_millis(120), respond(422, "no money")).await;
    let second = late(Duration::ZERO, respond(409, "in progress")).await;
    let gateway = Gateway::start(&[first, second], hedging_writes()).await;
    let response = gateway.send(&write("POST")).await;
    assert_eq!((status(&response), body(&response)), (422, "no money"));

    let second = late(Duration::from_millis(150), respond(409, "in progress")).await;
    let gateway = Gateway::start(&[first, second], hedging_writes()).await;
    let response = gateway.send(&write("POST")).await;
    assert_eq!((status(&response), body(&response)), (422, "no money"), "also when it is not the last");

    let failing = late(Duration::from_millis(120), respond(503, "broken")).await;
    let second = late(Duration::ZERO, respond(409, "in progress")).await;
    let gateway = Gateway::start(&[failing, second], hedging_writes()).await;
    let response = gateway.send(&write("POST")).await;
    assert_eq!(
        (status(&response), body(&response)),
        (409, "in progress"),
        "a refusal is an answer, a failure none"
    );
}

#[tokio::test]
async fn whoever_only_reads_is_not_kept_waiting_by_a_slower_replica() {
    let hanging = Replica::start(|_, _| Act::Hang).await;
    let quick = Replica::start(|_, _| respond(404, "no such order")).await;
    let gateway = Gateway::start(&[hanging.address, quick.address], hedging_writes()).await;
    assert_eq!(status(&gateway.get("/orders/1").await), 404);
    assert_eq!(gateway.service().attempts().attempts, 2);
}

#[tokio::test]
async fn a_failure_while_another_is_under_way_is_no_answer_yet() {
    let bad = late(Duration::from_millis(60), respond(503, "bad")).await;
    let good = late(Duration::from_millis(120), ok("good")).await;
    let gateway = Gateway::start(&[bad, good], hedging()).await;
    let began = Instant::now();
    let response = gateway.get("/orders/").await;
    let whole = began.elapsed().as_secs_f64() * 1000.0;
    assert_eq!((status(&response), body(&response)), (200, "good"));
    assert_eq!(gateway.service().attempts().attempts, 2);
    let times = field(&response, "server-timing").expect("there is one");
    let (_, upstream) = times.split_once("upstream;dur=").expect(&times);
    let upstream: f64 = upstream.parse().expect(&times);
    assert!(
        (150.0..whole).contains(&upstream),
        "what they were asked at once for counts once: {times}, {whole}"
    );
}

#[tokio::test]
async fn an_answer_that_breaks_off_the_race_is_a_good_one() {
    let bad = late(Duration::from_millis(60), respond(500, "bad")).await;
    let good = late(Duration::from_millis(120), ok("good")).await;
    let gateway = Gateway::start(&[bad, good], hedging()).await;
    let response = gateway.get("/orders/").await;
    assert_eq!((status(&response), body(&response)), (200, "good"));
    let service = gateway.service();
    assert_eq!(service.attempts().attempts, 2);
    assert_eq!(service.replicas()[0].counters().failures, 1, "it is told that it broke on it");

    let worse = late(Duration::from_millis(120), respond(503, "worse")).await;
    let gateway = Gateway::start(&[bad, worse], hedging()).await;
    let response = gateway.get("/orders/").await;
    assert_eq!((status(&response), body(&response)), (500, "bad"), "where there is no other, it is that one");
    assert_eq!(gateway.service().attempts().attempts, 2, "and nobody else is asked");
}

#[tokio::test]
async fn a_replica_that_hangs_is_found_out_although_each_of_its_attempts_is_outrun() {
    let hanging = Replica::start(|_, _| Act::Hang).await;
    let good = Replica::start(|_, _| ok("good")).await;
    let mut policy = hedging();
    policy.timeout.per_try = Duration::from_millis(300);
    policy.breaker.consecutive_failure_count = 1;
    let mut gateway = Gateway::start(&[hanging.address, good.address], policy).await;
    let mut waits = 0;
    let change = loop {
        assert_eq!(body(&gateway.get("/orders/").await), "good");
        if let Ok(transition) = gateway.transitions.try_recv() {
            break transition.change;
        }
        waits += 1;
        assert!(waits < 100, "it hangs on and on");
    };
    assert_eq!((change.to, change.rule()), (State::Open, Some(Rule::ConsecutiveFailures)));
    // 30 ms each: ten of them at the most have waited for as long as one might.
    assert!((2..=10).contains(&hanging.seen().len()), "{}", hanging.seen().len());
}

#[tokio::test]
async fn when_all_fail_the_request_goes_on_by_the_rules_of_retries() {
    let bad = late(Duration::from_millis(60), respond(503, "bad")).await;
    let worse = late(Duration::from_millis(60), respond(503, "worse")).await;
    let good = Replica::start(|_, _| ok("good")).await;
    let gateway = Gateway::start(&[bad, worse, good.address], hedging()).await;
    let response = gateway.get("/orders/").await;
    assert_eq!((status(&response), body(&response)), (200, "good"));
    assert_eq!(field(&response, "x-gw-attempts").as_deref(), Some("3"));
    let service = gateway.service();
    assert_eq!((service.counters().hedges(), service.attempts().retries), (1, 1), "one beside, one behind");
}

#[tokio::test]
async fn as_many_are_asked_beside_as_the_policy_says_and_the_budget_bears() {
    let hanging: Vec<_> =
        [Replica::start(|_, _| Act::Hang).await, Replica::start(|_, _| Act::Hang).await].into();
    let good = Replica::start(|_, _| ok("good")).await;
    let mut policy = hedging();
    policy.retry.max_hedge_count = 2;
    let addresses = [hanging[0].address, hanging[1].address, good.address];
    let gateway = Gateway::start(&addresses, policy).await;
    let response = gateway.get("/orders/").await;
    assert_eq!((status(&response), body(&response)), (200, "good"));
    assert_eq!(field(&response, "x-gw-attempts").as_deref(), Some("3"));

    // The budget has its floor of a hundred in ten seconds.
    let service = gateway.service();
    let now = gateway.clock.now();
    while service.budget().try_retry(0, now, 0.0) {}
    policy.retry.budget_ratio = 0.0;
    policy.timeout.per_try = Duration::from_millis(150);
    policy.retry.max_retry_count = 0;
    let gateway = Gateway::start(&addresses[..2], policy).await;
    let service = gateway.service();
    while service.budget().try_retry(0, gateway.clock.now(), 0.0) {}
    let response = gateway.get("/orders/").await;
    assert_eq!(status(&response), 504);
    assert_eq!(service.attempts().attempts, 1, "no budget, no company");
}

#[tokio::test]
async fn a_replica_that_is_outrun_again_and_again_is_known_to_be_slow() {
    let hanging = Replica::start(|_, _| Act::Hang).await;
    let good = Replica::start(|_, _| ok("good")).await;
    let mut policy = hedging();
    // Longer than whatever a busy machine does to the good one.
    policy.retry.hedge_delay = Duration::from_millis(250);
    policy.breaker.slow_threshold = Duration::from_millis(200);
    policy.breaker.min_request_count = 3;
    let mut gateway = Gateway::start(&[hanging.address, good.address], policy).await;
    for _ in 0..8 {
        assert_eq!(body(&gateway.get("/orders/").await), "good");
    }
    let change = gateway.transitions.try_recv().expect("it opened").change;
    assert_eq!((change.to, change.rule()), (State::Open, Some(Rule::SlowRatio)));
}

#[tokio::test]
async fn peak_ewma_learns_of_those_that_are_outrun() {
    let hanging = Replica::start(|_, _| Act::Hang).await;
    let good = Replica::start(|_, _| ok("good")).await;
    let mut policy = hedging();
    // Longer than whatever a busy machine does to the good one.
    policy.retry.hedge_delay = Duration::from_millis(250);
    policy.balancing.algorithm = Algorithm::PeakEwma;
    let gateway = Gateway::start(&[hanging.address, good.address], policy).await;
    for _ in 0..20 {
        assert_eq!(body(&gateway.get("/orders/").await), "good");
    }
    assert!(hanging.seen().len() <= 4, "{} of 20 went to it first", hanging.seen().len());
}

#[tokio::test]
async fn company_that_finds_no_place_takes_nothing_from_the_retry_budget() {
    let replicas =
        [late(Duration::from_millis(200), ok("a")).await, late(Duration::from_millis(200), ok("b")).await];
    let mut policy = hedging();
    // It is looked for once while both are under way.
    policy.retry.hedge_delay = Duration::from_millis(120);
    policy.concurrency.max_per_replica = 1;
    policy.concurrency.max_pending = 0;
    let gateway = Gateway::start(&replicas, policy).await;
    let (one, other) = tokio::join!(gateway.get("/orders/"), gateway.get("/orders/"));
    for response in [one, other] {
        assert_eq!((status(&response), field(&response, "x-gw-attempts").as_deref()), (200, Some("1")));
    }
    let view = gateway.service().budget().view(gateway.clock.now(), policy.retry.budget_ratio);
    assert!(view.used.abs() < f64::EPSILON, "{view:?}");
}

#[tokio::test]
async fn a_probe_has_no_company() {
    let hanging = Replica::start(|_, _| Act::Hang).await;
    let good = Replica::start(|_, _| ok("good")).await;
    let mut policy = hedging();
    policy.timeout.per_try = Duration::from_millis(200);
    policy.breaker.base_open = Duration::from_millis(10);
    policy.breaker.max_open = Duration::from_millis(10);
    policy.breaker.consecutive_failure_count = 1;
    let gateway = Gateway::start(&[hanging.address, good.address], policy).await;
    let service = gateway.service();
    let now = gateway.clock.now();
    let picked = service.pick(0, now, &[], data_plane::routing::Draw::default()).unwrap();
    let failure = data_plane::routing::Outcome::Failure(data_plane::routing::Fault::Reset);
    service.settle(0, &picked.replica, picked.permit, failure, now, 0.5);
    let probe_is_due = || {
        let now = gateway.clock.now();
        let view = picked.replica.breaker_view(now, &policy.breaker);
        view.state == State::Open && view.until.is_some_and(|until| until <= now)
    };
    eventually("a probe is due", probe_is_due).await;
    assert_eq!(body(&gateway.get("/orders/").await), "good", "after the probe has failed");
    assert_eq!(service.replicas()[0].counters().failures, 2, "the probe came to its verdict");
}
