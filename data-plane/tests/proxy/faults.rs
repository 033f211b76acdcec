//! Faults injected on purpose: what clients get, and that no replica has anything to do with it.

use std::time::{Duration, Instant, SystemTime};

use data_plane::table::{FaultKind, Injecting, ServiceSpec};
use gateway_proto::{
    Policy,
    policy::{EndTime, FaultInjection},
};
use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    access_log::Log,
    harness::{Gateway, Replica, eventually, field, ok, read_message, reason, status},
    http2::{connect, text, whole},
};

const GET: &[u8] = b"GET /orders/ HTTP/1.1\r\nhost: gw\r\n\r\n";

fn lasting(time: Duration) -> FaultInjection {
    FaultInjection { end_time: EndTime(SystemTime::now() + time), ..Default::default() }
}

pub(crate) fn aborting() -> FaultInjection {
    FaultInjection { abort_ratio: 1.0, abort_status: 429, ..lasting(Duration::from_secs(600)) }
}

fn resetting() -> FaultInjection {
    FaultInjection { reset_ratio: 1.0, ..lasting(Duration::from_secs(600)) }
}

pub(crate) fn delaying(delay: Duration) -> FaultInjection {
    FaultInjection { delay, delay_ratio: 1.0, ..lasting(Duration::from_secs(600)) }
}

/// Sets what the registry says of the service's faults.
pub(crate) fn inject(gateway: &Gateway, fault: FaultInjection) {
    let service = gateway.service();
    let replicas = service.replicas().iter().map(|replica| replica.spec().clone()).collect();
    let policy = Policy { fault, ..*service.policy() };
    let spec = ServiceSpec { name: service.name().clone(), policy, replicas };
    let now = gateway.clock.moment();
    gateway.table.apply(std::slice::from_ref(&spec), &[], now.tick);
    gateway.table.inject(&[spec], now);
}

/// A gateway in which faults are allowed, and its only replica.
async fn start(policy: Policy) -> (Gateway, Replica) {
    let replica = Replica::start(|_, _| ok("fine")).await;
    let gateway = Gateway::start(&[replica.address], policy).await;
    gateway.table.allow_faults();
    (gateway, replica)
}

#[tokio::test]
async fn an_aborted_request_is_answered_with_the_policys_status_and_marked_and_no_replica_is_asked() {
    let (gateway, replica) = start(Policy::default()).await;
    inject(&gateway, aborting());
    for _ in 0..30 {
        let answer = gateway.get("/orders/").await;
        assert_eq!((status(&answer), reason(&answer).as_str()), (429, "fault_injected"));
        let told = field(&answer, "proxy-status").unwrap();
        assert_eq!(told, "gw-dp-1; error=proxy_internal_response; details=\"fault_injected\"");
    }
    let service = gateway.service();
    assert_eq!(service.injected_count(FaultKind::Abort), 30);
    assert_eq!(gateway.refusals(), [("fault_injected", 30)]);
    // Nothing counts against it: it was never asked.
    let counters = service.replicas()[0].counters();
    assert_eq!((replica.connections(), counters.attempts, counters.failures), (0, 0, 0));
    inject(&gateway, FaultInjection::default());
    assert_eq!(status(&gateway.get("/orders/").await), 200);
    assert_eq!(service.injected_count(FaultKind::Abort), 30);
}

#[tokio::test]
async fn an_injected_503_says_when_to_come_back_as_a_real_one_does() {
    let (gateway, _replica) = start(Policy::default()).await;
    inject(&gateway, FaultInjection { abort_status: 503, ..aborting() });
    let answer = gateway.get("/orders/").await;
    assert_eq!((status(&answer), field(&answer, "retry-after").as_deref()), (503, Some("1")));
}

#[tokio::test]
async fn a_reset_request_gets_no_answer_and_its_connection_ends() {
    let (gateway, replica) = start(Policy::default()).await;
    inject(&gateway, resetting());
    let mut stream = gateway.connect().await;
    stream.write_all(GET).await.unwrap();
    let error = stream.read_to_end(&mut Vec::new()).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(gateway.service().injected_count(FaultKind::Reset), 1);
    assert_eq!(replica.connections(), 0);
}

#[tokio::test]
async fn in_http_2_a_reset_ends_the_stream_and_the_connection_goes_on() {
    let (gateway, replica) = start(Policy::default()).await;
    inject(&gateway, FaultInjection { header: "x-chaos=1".parse().unwrap(), ..resetting() });
    let mut sender = connect(&gateway).await;
    let get =
        |chaos: &str| Request::get("http://gw/orders/").header("x-chaos", chaos).body(whole("")).unwrap();
    let error = sender.send_request(get("1")).await.unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().downcast_ref::<h2::Error>().unwrap();
    assert_eq!(cause.reason(), Some(h2::Reason::INTERNAL_ERROR));
    assert!(cause.is_reset());
    let response = sender.send_request(get("0")).await.unwrap();
    assert_eq!((response.status().as_u16(), text(response).await.as_str()), (200, "fine"));
    assert_eq!(replica.seen().len(), 1);
}

#[tokio::test]
async fn in_http_2_requests_are_delayed_and_aborted_as_in_http_1() {
    let (gateway, _replica) = start(Policy::default()).await;
    let mut sender = connect(&gateway).await;
    inject(&gateway, delaying(Duration::from_millis(150)));
    let get = || Request::get("http://gw/orders/").body(whole("")).unwrap();
    let began = Instant::now();
    assert_eq!(sender.send_request(get()).await.unwrap().status(), 200);
    assert!(began.elapsed() >= Duration::from_millis(150));
    inject(&gateway, aborting());
    let response = sender.send_request(get()).await.unwrap();
    assert_eq!(response.status(), 429);
    assert!(text(response).await.contains("\"fault_injected\""));
}

#[tokio::test]
async fn only_requests_with_the_header_are_meant() {
    let (gateway, replica) = start(Policy::default()).await;
    inject(&gateway, FaultInjection { header: "X-Chaos=on".parse().unwrap(), ..aborting() });
    let get = async |fields: &str| {
        let request = format!("GET /orders/ HTTP/1.1\r\nhost: gw\r\n{fields}\r\n");
        status(&gateway.send(&request).await)
    };
    assert_eq!(get("x-chaos: on\r\n").await, 429);
    assert_eq!(get("x-chaos: off\r\nX-CHAOS: on\r\n").await, 429);
    assert_eq!(get("").await, 200);
    assert_eq!(get("x-chaos: ON\r\n").await, 200);
    assert_eq!(get("x-chaos-2: on\r\n").await, 200);
    assert_eq!(replica.seen().len(), 3);
}

#[tokio::test]
async fn a_delayed_request_takes_no_replicas_place_while_it_is_held() {
    let mut policy = Policy::default();
    policy.concurrency.max_per_replica = 1;
    policy.concurrency.max_pending = 0;
    let (gateway, replica) = start(policy).await;
    inject(
        &gateway,
        FaultInjection { header: "x-chaos".parse().unwrap(), ..delaying(Duration::from_millis(400)) },
    );
    let mut held = gateway.connect().await;
    let began = Instant::now();
    held.write_all(b"GET /orders/ HTTP/1.1\r\nhost: gw\r\nx-chaos: 1\r\n\r\n").await.unwrap();
    eventually("it is held", || gateway.service().injected_count(FaultKind::Delay) == 1).await;
    assert_eq!(gateway.inflight(0), 0);
    assert_eq!(status(&gateway.get("/orders/").await), 200, "the only place is free");
    assert_eq!(status(&read_message(&mut held).await.unwrap()), 200);
    assert!(began.elapsed() >= Duration::from_millis(400));
    assert_eq!(replica.seen().len(), 2);
}

#[tokio::test]
async fn a_delay_is_of_the_requests_own_time() {
    let mut policy = Policy::default();
    policy.timeout.request = Duration::from_millis(200);
    let (gateway, replica) = start(policy).await;
    inject(&gateway, delaying(Duration::from_secs(600)));
    let answer = gateway.post("/orders/", "hello").await;
    assert_eq!((status(&answer), reason(&answer).as_str()), (504, "deadline_exceeded"));
    assert_eq!(replica.connections(), 0);
}

#[tokio::test]
async fn faults_end_by_themselves_and_end_the_delays_that_they_caused() {
    let (gateway, _replica) = start(Policy::default()).await;
    let brief = FaultInjection { abort_ratio: 1.0, ..lasting(Duration::from_millis(300)) };
    inject(&gateway, FaultInjection { header: "x-abort".parse().unwrap(), ..brief });
    let abort = "GET /orders/ HTTP/1.1\r\nhost: gw\r\nx-abort: 1\r\n\r\n";
    assert_eq!(status(&gateway.send(abort).await), 503);
    let is_over = || gateway.service().injecting(gateway.clock.now()) == Injecting::Nothing;
    eventually("it ends, though nobody takes it back", is_over).await;
    assert_eq!(status(&gateway.send(abort).await), 200);
    let delay = Duration::from_secs(25);
    inject(&gateway, FaultInjection { delay, delay_ratio: 1.0, ..lasting(Duration::from_millis(300)) });
    let began = Instant::now();
    assert_eq!(status(&gateway.get("/orders/").await), 200);
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn whoever_clears_a_fault_frees_the_requests_that_it_holds() {
    let (gateway, _replica) = start(Policy::default()).await;
    inject(&gateway, delaying(Duration::from_secs(25)));
    let mut held = gateway.connect().await;
    let began = Instant::now();
    held.write_all(GET).await.unwrap();
    eventually("it is held", || gateway.service().injected_count(FaultKind::Delay) == 1).await;
    inject(&gateway, FaultInjection::default());
    assert_eq!(status(&read_message(&mut held).await.unwrap()), 200);
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn a_gateway_that_is_told_to_end_is_not_held_up_by_delays() {
    let (gateway, _replica) = start(Policy::default()).await;
    inject(&gateway, delaying(Duration::from_secs(25)));
    let mut held = gateway.connect().await;
    let began = Instant::now();
    held.write_all(GET).await.unwrap();
    eventually("it is held", || gateway.service().injected_count(FaultKind::Delay) == 1).await;
    gateway.shutdown.begin();
    assert_eq!(status(&read_message(&mut held).await.unwrap()), 200);
    drop(held);
    gateway.proxy.finished().await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn a_client_that_goes_away_while_it_is_held_leaves_its_place() {
    let (gateway, replica) = start(Policy::default()).await;
    inject(&gateway, delaying(Duration::from_secs(25)));
    let mut held = gateway.connect().await;
    held.write_all(GET).await.unwrap();
    eventually("it is held", || gateway.service().injected_count(FaultKind::Delay) == 1).await;
    drop(held);
    eventually("it is gone", || gateway.proxy.active().requests == 0).await;
    assert_eq!(replica.connections(), 0);
}

#[tokio::test]
async fn without_the_flag_faults_are_ignored_and_that_can_be_seen() {
    let replica = Replica::start(|_, _| ok("fine")).await;
    let gateway = Gateway::start(&[replica.address], Policy::default()).await;
    inject(&gateway, aborting());
    assert_eq!(status(&gateway.get("/orders/").await), 200);
    assert_eq!(gateway.service().injecting(gateway.clock.now()), Injecting::Ignored);
}

#[tokio::test]
async fn the_access_log_tells_what_was_injected() {
    let log = Log::new();
    let replica = Replica::start(|_, _| ok("fine")).await;
    let gateway = log.start(&[replica.address], Policy::default()).await;
    gateway.table.allow_faults();
    inject(&gateway, aborting());
    gateway.get("/orders/").await;
    inject(&gateway, delaying(Duration::from_millis(20)));
    gateway.get("/orders/").await;
    inject(&gateway, FaultInjection { reset_ratio: 1.0, ..delaying(Duration::from_millis(20)) });
    let mut stream = gateway.connect().await;
    stream.write_all(GET).await.unwrap();
    stream.read_to_end(&mut Vec::new()).await.unwrap_err();
    let lines = log.lines(3).await;
    let told: Vec<_> = lines
        .iter()
        .map(|line| {
            let word = |name: &str| line[name].as_str().unwrap_or("-").to_owned();
            (
                line["http.response.status_code"].as_u64().unwrap(),
                word("gw.fault"),
                word("gw.error"),
                word("gw.end"),
            )
        })
        .collect();
    let row = |status, fault: &str, error: &str, end: &str| {
        (status, fault.to_owned(), error.to_owned(), end.to_owned())
    };
    assert_eq!(
        told,
        [
            row(429, "abort", "fault_injected", "complete"),
            row(200, "delay", "-", "complete"),
            row(444, "delay+reset", "fault_injected", "reset"),
        ]
    );
}
