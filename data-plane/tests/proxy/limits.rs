//! What clients may not take up, and what they are told beyond it.

use std::time::{Duration, Instant};

use data_plane::proxy::{HeadLimits, Limits};
use gateway_proto::Policy;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::harness::{Gateway, Replica, ok, reason, status};

/// All that comes until the gateway ends the connection.
async fn to_the_end(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset is an end, too.
    let _ = stream.read_to_end(&mut bytes).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test]
async fn a_head_that_drips_is_given_up_at_its_time_however_often_bytes_come() {
    let limits = Limits { head_timeout: Duration::from_secs(1), ..Limits::default() };
    let gateway = Gateway::start_limited(limits, &[]).await;
    let stream = gateway.connect().await;
    let (mut reading, mut writing) = stream.into_split();
    let began = Instant::now();
    let drip = tokio::spawn(async move {
        let _ = writing.write_all(b"GET /orders/ HTTP/1.1\r\nhost: gw\r\nx: ").await;
        while writing.write_all(b"y").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let mut answer = Vec::new();
    let _ = reading.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).unwrap();
    assert_eq!((status(&answer), reason(&answer).as_str()), (408, "request_timeout"));
    // The deadline is looked for every quarter of a second, and a client that goes on sending is listened to for two.
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    drip.await.unwrap();
}

#[tokio::test]
async fn heads_may_be_as_large_as_their_limits_and_no_larger() {
    let replica = Replica::start(|_, _| ok("hello")).await;
    let head = HeadLimits { bytes: 100_000, fields: 300, target: 20_000 };
    let gateway = Gateway::start_limited(Limits { head, ..Limits::default() }, &[replica.address]).await;
    let request = |target: usize, fields: usize, value: usize| {
        let target = format!("/orders/{}", "x".repeat(target - "/orders/".len()));
        let fields = format!("x: {}\r\n", "y".repeat(value)).repeat(fields - 2);
        format!("GET {target} HTTP/1.1\r\nhost: gw\r\nconnection: close\r\n{fields}\r\n")
    };
    for (request, expected) in [
        (request(20_000, 3, 1), (200, "")),
        (request(20_001, 3, 1), (414, "target_too_long")),
        (request(100, 300, 1), (200, "")),
        (request(100, 301, 1), (431, "head_too_large")),
        (request(100, 3, 99_000), (200, "")),
        (request(100, 3, 100_000), (431, "head_too_large")),
    ] {
        let mut stream = gateway.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = to_the_end(&mut stream).await;
        let reason = if expected.0 == 200 { String::new() } else { reason(&answer) };
        assert_eq!((status(&answer), reason.as_str()), expected);
        if expected.0 == 431 {
            assert!(answer.contains("a request's head has 100000B and 300 fields at most"), "{answer}");
        }
    }
}

#[tokio::test]
async fn every_refusal_is_counted_by_its_reason_whoever_it_is_for() {
    let limits = Limits { begin_timeout: Duration::from_secs(1), ..Limits::default() };
    let gateway = Gateway::start_limited(limits, &[]).await;
    let mut silent = gateway.connect().await;
    for (request, reason) in [
        ("GET /nobody/ HTTP/1.1\r\nhost: gw\r\n", "unknown_service"),
        ("GET /orders/ HTTP/1.1\r\nhost: gw\r\n", "no_ready_replica"),
        ("GET / HTTP/1.1\r\nhost: gw\r\n", "no_route"),
        ("TRACE /orders/ HTTP/1.1\r\nhost: gw\r\n", "trace_refused"),
        ("GET /orders/ HTTP/3.0\r\nhost: gw\r\n", "unknown_version"),
        ("nonsense\r\n", "bad_request"),
    ] {
        let mut stream = gateway.connect().await;
        stream.write_all(format!("{request}\r\n").as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let answer = to_the_end(&mut stream).await;
        assert_eq!(crate::harness::reason(&answer), reason, "{answer}");
        assert_eq!(count(&gateway, reason), 1, "{:?}", gateway.refusals());
    }
    assert_eq!(to_the_end(&mut silent).await, "");
    assert_eq!(count(&gateway, "begin_timeout"), 1);
    let sum: u64 = gateway.refusals().iter().map(|(_, count)| count).sum();
    assert_eq!(sum, 7, "{:?}", gateway.refusals());
}

/// How often the gateway has refused by this reason.
fn count(gateway: &Gateway, reason: &str) -> u64 {
    gateway.refusals().iter().find(|(counted, _)| *counted == reason).map_or(0, |(_, count)| *count)
}

#[tokio::test]
async fn a_body_that_is_held_and_drips_is_not_waited_for_without_end() {
    let mut policy = Policy::default();
    policy.request.json_only = true;
    policy.timeout.stream_idle = Duration::from_secs(1);
    policy.timeout.request = Duration::from_secs(1);
    let replica = Replica::start(|_, _| ok("")).await;
    let gateway = Gateway::start(&[replica.address], policy).await;
    let mut stream = gateway.connect().await;
    let head = "POST /orders/ HTTP/1.1\r\nhost: gw\r\ncontent-type: application/json\r\n";
    stream.write_all(format!("{head}transfer-encoding: chunked\r\n\r\n").as_bytes()).await.unwrap();
    let (mut reading, mut writing) = stream.into_split();
    let began = Instant::now();
    let drip = tokio::spawn(async move {
        while writing.write_all(b"1\r\n[\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    });
    let mut answer = Vec::new();
    let _ = reading.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).unwrap();
    assert_eq!((status(&answer), reason(&answer).as_str()), (408, "request_timeout"));
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    assert_eq!(replica.seen().len(), 0);
    drip.await.unwrap();
}
