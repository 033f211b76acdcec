//! How many requests a service's policy lets through: who is refused, what is said of it, and that no replica hears of it.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test that called it")]

use std::time::Duration;

use data_plane::table::{Exceeding, FallbackKind, ServiceSpec};
use gateway_proto::{
    Policy,
    policy::{Methods, RateLimit},
};
use http::Request;
use tokio::io::AsyncWriteExt;

use crate::{
    access_log::Log,
    harness::{Gateway, Replica, body, field, ok, read_message, reason, status},
    http2::{connect, whole},
};

/// So many at once, and no other for minutes.
fn only(burst: u32, key: &str) -> Policy {
    let rate_limit =
        RateLimit { requests_per_second: 0.001, burst, key: key.parse().unwrap(), ..RateLimit::default() };
    Policy { rate_limit, ..Policy::default() }
}

fn set(gateway: &Gateway, rate_limit: RateLimit) {
    let service = gateway.service();
    let replicas = service.replicas().iter().map(|replica| replica.spec().clone()).collect();
    let policy = Policy { rate_limit, ..*service.policy() };
    gateway.table.apply(
        &[ServiceSpec { name: service.name().clone(), policy, replicas }],
        &[],
        gateway.clock.now(),
    );
}

async fn replica() -> Replica {
    Replica::start(|_, _| ok("fine")).await
}

/// The statuses of so many requests with these fields, one after the other.
async fn statuses(gateway: &Gateway, count: usize, fields: &str) -> Vec<u16> {
    let mut statuses = Vec::new();
    for _ in 0..count {
        let request = format!("GET /orders/ HTTP/1.1\r\nhost: gw\r\n{fields}\r\n");
        statuses.push(status(&gateway.send(&request).await));
    }
    statuses
}

#[tokio::test]
async fn one_request_too_many_is_refused_with_when_to_come_back_and_no_replica_is_asked() {
    let (log, replica) = (Log::new(), replica().await);
    let mut policy = only(2, "service");
    policy.rate_limit.requests_per_second = 0.1;
    let gateway = log.start(&[replica.address], policy).await;
    assert_eq!(statuses(&gateway, 2, "").await, [200, 200]);
    let refused = gateway.get("/orders/").await;
    assert_eq!((status(&refused), reason(&refused).as_str()), (429, "rate_limited"));
    let problem: serde_json::Value = serde_json::from_str(body(&refused)).unwrap();
    let millis = problem["retryAfterMs"].as_u64().unwrap();
    assert!((1..=10_000).contains(&millis), "{problem}");
    let seconds: u64 = field(&refused, "retry-after").unwrap().parse().unwrap();
    assert_eq!(seconds, millis.div_ceil(1000));
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        detail.starts_with("orders lets 0.1 requests in a second through, and 2 at once; the next one in "),
        "{detail}"
    );
    let told = field(&refused, "proxy-status").unwrap();
    assert_eq!(told, "gw-dp-1; error=http_request_denied; details=\"rate_limited\"");
    let service = gateway.service();
    let counters = service.replicas()[0].counters();
    assert_eq!((replica.seen().len(), counters.attempts, counters.failures), (2, 2, 0));
    assert_eq!((service.exceeding(Exceeding::Refused), service.exceeding(Exceeding::Observed)), (1, 0));
    assert_eq!(gateway.refusals(), [("rate_limited", 1)]);
    let line = &log.lines(3).await[2];
    assert_eq!(
        (&line["gw.error"], &line["http.response.status_code"]),
        (&"rate_limited".into(), &429.into())
    );
    assert_eq!(line["gw.service"], "orders");
}

#[tokio::test]
async fn whoever_comes_back_when_it_was_told_to_is_let_through() {
    let replica = replica().await;
    let mut policy = only(1, "service");
    policy.rate_limit.requests_per_second = 4.0;
    let gateway = Gateway::start(&[replica.address], policy).await;
    for _ in 0..3 {
        let refused = loop {
            let answer = gateway.get("/orders/").await;
            if status(&answer) == 429 {
                break answer;
            }
        };
        let problem: serde_json::Value = serde_json::from_str(body(&refused)).unwrap();
        let wait = problem["retryAfterMs"].as_u64().unwrap();
        assert!((1..=250).contains(&wait), "{problem}");
        tokio::time::sleep(Duration::from_millis(wait)).await;
        assert_eq!(status(&gateway.get("/orders/").await), 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_share_a_rate_and_let_none_through_twice() {
    for key in ["service", "address", "header:x-user"] {
        let replica = replica().await;
        let gateway = std::sync::Arc::new(Gateway::start_with(4, &[replica.address], only(50, key)).await);
        let asked: Vec<_> = (0..100)
            .map(|_| {
                let gateway = std::sync::Arc::clone(&gateway);
                tokio::spawn(async move { status(&gateway.get("/orders/").await) })
            })
            .collect();
        let mut let_through = 0;
        for asked in asked {
            let status = asked.await.unwrap();
            assert!([200, 429].contains(&status), "{status}");
            let_through += usize::from(status == 200);
        }
        assert_eq!((let_through, replica.seen().len()), (50, 50), "{key}");
    }
}

#[tokio::test]
async fn each_client_address_has_a_rate_of_its_own_and_a_network_of_ipv6_is_one() {
    let (log, replica) = (Log::new(), replica().await);
    let gateway = log.start(&[replica.address], only(2, "address")).await;
    let from = |address: &str| format!("x-forwarded-for: {address}\r\n");
    assert_eq!(statuses(&gateway, 3, &from("192.0.2.1")).await, [200, 200, 429]);
    assert_eq!(statuses(&gateway, 3, &from("192.0.2.2")).await, [200, 200, 429]);
    assert_eq!(statuses(&gateway, 1, "").await, [200], "the proxy itself");
    assert_eq!(statuses(&gateway, 1, &from("2001:db8:0:1::1")).await, [200]);
    assert_eq!(statuses(&gateway, 2, &from("2001:db8:0:1:ffff::2")).await, [200, 429]);
    assert_eq!(statuses(&gateway, 1, &from("2001:db8:0:2::1")).await, [200]);
    let refused =
        gateway.send(&format!("GET /orders/ HTTP/1.1\r\nhost: gw\r\n{}\r\n", from("192.0.2.1"))).await;
    assert!(body(&refused).contains("requests from each client address in a second"), "{refused}");
}

#[tokio::test]
async fn each_value_of_a_header_has_a_rate_of_its_own_and_those_without_it_have_one_together() {
    let replica = replica().await;
    let gateway = Gateway::start(&[replica.address], only(2, "header:X-Api-Key")).await;
    assert_eq!(statuses(&gateway, 3, "x-api-key: a\r\n").await, [200, 200, 429]);
    assert_eq!(statuses(&gateway, 3, "X-API-KEY: b\r\nx-api-key: a\r\n").await, [200, 200, 429]);
    assert_eq!(statuses(&gateway, 3, "").await, [200, 200, 429]);
    assert_eq!(statuses(&gateway, 1, "x-api-key: A\r\n").await, [200]);
    let refused = gateway.get("/orders/").await;
    assert!(body(&refused).contains("requests of each x-api-key in a second"), "{refused}");
    assert_eq!(gateway.table.rate_keys_forgotten(), 0);
}

#[tokio::test]
async fn the_host_that_a_request_names_is_the_same_key_in_every_version_of_http() {
    let replica = replica().await;
    let gateway = Gateway::start(&[replica.address], only(2, "header:host")).await;
    let mut sender = connect(&gateway).await;
    let mut statuses_of = Vec::new();
    for host in ["a.example", "a.example", "a.example", "b.example"] {
        let request = Request::get(format!("http://{host}/orders/")).body(whole("")).unwrap();
        statuses_of.push(sender.send_request(request).await.unwrap().status().as_u16());
    }
    assert_eq!(statuses_of, [200, 200, 429, 200]);
    let by_http_1 = |host| format!("GET /orders/ HTTP/1.1\r\nhost: {host}\r\n\r\n");
    assert_eq!(status(&gateway.send(&by_http_1("a.example")).await), 429);
    assert_eq!(status(&gateway.send(&by_http_1("b.example")).await), 200);
}

#[tokio::test]
async fn a_limit_that_only_observes_lets_all_through_and_counts() {
    let replica = replica().await;
    let mut policy = only(1, "service");
    policy.rate_limit.observe_only = true;
    let gateway = Gateway::start(&[replica.address], policy).await;
    assert_eq!(statuses(&gateway, 4, "").await, [200; 4]);
    let service = gateway.service();
    assert_eq!((service.exceeding(Exceeding::Refused), service.exceeding(Exceeding::Observed)), (0, 3));
    assert_eq!(gateway.refusals(), []);
}

#[tokio::test]
async fn a_change_of_the_limit_begins_anew_and_any_other_change_does_not() {
    let replica = replica().await;
    let policy = only(1, "service");
    let gateway = Gateway::start(&[replica.address], policy).await;
    assert_eq!(statuses(&gateway, 2, "").await, [200, 429]);
    set(&gateway, policy.rate_limit);
    assert_eq!(statuses(&gateway, 1, "").await, [429]);
    set(&gateway, RateLimit { burst: 2, ..policy.rate_limit });
    assert_eq!(statuses(&gateway, 3, "").await, [200, 200, 429]);
    set(&gateway, RateLimit::default());
    assert_eq!(statuses(&gateway, 3, "").await, [200; 3]);
}

#[tokio::test]
async fn what_the_policy_refuses_for_another_reason_does_not_count() {
    let replica = replica().await;
    let mut policy = only(1, "service");
    policy.request.methods = Methods::parse(["GET"]).unwrap();
    let gateway = Gateway::start(&[replica.address], policy).await;
    for _ in 0..3 {
        assert_eq!(status(&gateway.post("/orders/", "x").await), 405);
    }
    assert_eq!(statuses(&gateway, 2, "").await, [200, 429]);
}

#[tokio::test]
async fn a_client_that_holds_its_body_back_is_refused_without_it() {
    let replica = replica().await;
    let gateway = Gateway::start(&[replica.address], only(1, "service")).await;
    assert_eq!(statuses(&gateway, 1, "").await, [200]);
    let mut stream = gateway.connect().await;
    let head = "POST /orders/ HTTP/1.1\r\nhost: gw\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(status(&read_message(&mut stream).await.unwrap()), 429);
}

#[tokio::test]
async fn who_is_refused_is_told_before_its_body_comes_also_where_bodies_are_looked_at_and_something_falls_back()
 {
    let replica = replica().await;
    let mut policy = only(1, "service");
    policy.request.json_only = true;
    policy.fallback.static_status = 203;
    for (statuses_of_failures, told) in [("502..=504", 429), ("429,502..=504", 203)] {
        policy.fallback.statuses = statuses_of_failures.parse().unwrap();
        let gateway = Gateway::start(&[replica.address], policy).await;
        assert_eq!(statuses(&gateway, 1, "").await, [200]);
        let mut stream = gateway.connect().await;
        let head = "POST /orders/ HTTP/1.1\r\nhost: gw\r\ncontent-type: application/json\r\ncontent-length: 3\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        let answer = tokio::time::timeout(Duration::from_secs(20), read_message(&mut stream)).await;
        assert_eq!(status(&answer.expect("nobody waits for the body").unwrap()), told);
    }
}

#[tokio::test]
async fn a_call_of_grpc_is_told_in_its_own_words_when_to_come_back() {
    let replica = replica().await;
    let gateway = Gateway::start(&[replica.address], only(1, "service")).await;
    assert_eq!(statuses(&gateway, 1, "").await, [200]);
    let mut sender = connect(&gateway).await;
    let call = Request::post("http://gw/orders/x").header("content-type", "application/grpc");
    let refused = sender.send_request(call.body(whole("")).unwrap()).await.unwrap();
    let told = |name: &str| refused.headers().get(name).map(|value| value.to_str().unwrap());
    assert_eq!((refused.status().as_u16(), told("grpc-status")), (200, Some("8")));
    assert!(told("grpc-message").unwrap().starts_with("orders lets 0.001 requests in a second through"));
    let pushback: u64 = told("grpc-retry-pushback-ms").unwrap().parse().unwrap();
    assert!((900_000..=1_000_000).contains(&pushback), "{pushback}");
    assert_eq!(replica.seen().len(), 1);
}

#[tokio::test]
async fn a_fallback_answers_in_its_place_where_the_policy_says_so_and_only_then() {
    let replica = replica().await;
    let mut policy = only(1, "service");
    policy.fallback.static_status = 200;
    policy.fallback.body = "[]".parse().unwrap();
    let gateway = Gateway::start(&[replica.address], policy).await;
    assert_eq!(statuses(&gateway, 2, "").await, [200, 429], "429 is no failure unless somebody says so");
    policy.fallback.statuses = "429,502..=504".parse().unwrap();
    let gateway = Gateway::start(&[replica.address], policy).await;
    assert_eq!(statuses(&gateway, 1, "").await, [200]);
    let answer = gateway.get("/orders/").await;
    assert_eq!((status(&answer), body(&answer)), (200, "[]"));
    let told = field(&answer, "proxy-status").unwrap();
    assert_eq!(told, "gw-dp-1; error=http_request_denied; details=\"fallback=static\"");
    let service = gateway.service();
    assert_eq!((service.fallbacks(FallbackKind::Static), service.exceeding(Exceeding::Refused)), (1, 1));
    assert_eq!(replica.seen().len(), 2);
}

#[tokio::test]
async fn a_service_stands_in_for_no_more_than_its_own_limit_lets_through() {
    let (dead, cache) = (crate::harness::Dead::new(), replica().await);
    let mut policy = Policy::default();
    policy.fallback.service = "orders-cache".parse().unwrap();
    policy.fallback.static_status = 203;
    let gateway = Gateway::start(&[dead.address], policy).await;
    crate::fallbacks::stands_in(&gateway, &cache, only(2, "service"));
    assert_eq!(statuses(&gateway, 3, "").await, [200, 200, 203]);
    assert_eq!(cache.seen().len(), 2);
}
