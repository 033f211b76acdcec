//! What clients may not take up, and what they are told beyond it.

use std::time::{Duration, Instant};

use data_plane::proxy::{HeadLimits, Limits, MinRate};
use gateway_proto::Policy;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::harness::{Gateway, Replica, eventually, ok, raw_replica, read_message, reason, status, until};

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
    // It is counted once the connection is closed.
    eventually("the silent one is counted", || count(&gateway, "begin_timeout") == 1).await;
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

#[tokio::test]
async fn a_body_that_drips_is_given_up_by_its_rate_and_one_without_a_length_is_not() {
    let replica = Replica::start(|_, _| ok("hello")).await;
    let rate = MinRate { bytes_per_second: 1000, grace: Duration::from_secs(1) };
    let limits = Limits { min_body_rate: rate, ..Limits::default() };
    let gateway = Gateway::start_limited(limits, &[replica.address]).await;
    for (framing, piece, last, expected) in [
        ("content-length: 1000", "x", "", (408, "body_too_slow")),
        ("transfer-encoding: chunked", "1\r\nx\r\n", "0\r\n\r\n", (200, "")),
    ] {
        let (mut reading, mut writing) = gateway.connect().await.into_split();
        let head = format!("POST /orders/ HTTP/1.1\r\nhost: gw\r\nconnection: close\r\n{framing}\r\n\r\n");
        writing.write_all(head.as_bytes()).await.unwrap();
        let drip = tokio::spawn(async move {
            // For longer than the rate allows.
            for _ in 0..20 {
                if writing.write_all(piece.as_bytes()).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            let _ = writing.write_all(last.as_bytes()).await;
            std::future::pending::<()>().await;
        });
        let mut answer = Vec::new();
        let _ = reading.read_to_end(&mut answer).await;
        drip.abort();
        let answer = String::from_utf8(answer).unwrap();
        let told = if expected.0 == 200 { String::new() } else { reason(&answer) };
        assert_eq!((status(&answer), told.as_str()), expected, "{framing}");
    }
    assert_eq!(count(&gateway, "body_too_slow"), 1);
    assert_eq!(gateway.service().replicas()[0].counters().failures, 0, "the replica is not to blame");
}

#[tokio::test]
async fn a_replica_that_does_not_read_costs_its_client_nothing() {
    let replica = raw_replica(|mut stream| async move {
        let mut head = [0; 100];
        let _ = stream.read(&mut head).await;
        tokio::time::sleep(Duration::from_secs(4)).await;
        while !matches!(stream.read(&mut [0; 65536]).await, Ok(0) | Err(_)) {
            let _ = stream.try_write(b"");
        }
    })
    .await;
    let rate = MinRate { bytes_per_second: 1 << 20, grace: Duration::from_secs(1) };
    let limits = Limits { min_body_rate: rate, ..Limits::default() };
    let gateway = Gateway::start_limited(limits, &[replica]).await;
    let mut stream = gateway.connect().await;
    let length = 32 << 20;
    let head = format!("POST /orders/ HTTP/1.1\r\nhost: gw\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    // As fast as it is taken, which it is not for four seconds.
    stream.write_all(&vec![b'x'; length]).await.unwrap();
    assert_eq!(count(&gateway, "body_too_slow"), 0);
}

#[tokio::test]
async fn a_client_that_reads_too_slowly_is_cut_off() {
    let replica = Replica::start(|_, _| ok(&"x".repeat(32 << 20))).await;
    let rate = MinRate { bytes_per_second: 1 << 20, grace: Duration::from_secs(1) };
    let limits = Limits { min_response_rate: rate, ..Limits::default() };
    let gateway = Gateway::start_limited(limits, &[replica.address]).await;
    let mut stream = gateway.connect().await;
    stream.write_all(b"GET /orders/ HTTP/1.1\r\nhost: gw\r\n\r\n").await.unwrap();
    let mut taken = 0;
    let slowly = async {
        while let Ok(count @ 1..) = stream.read(&mut [0; 1024]).await {
            taken += count;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    // What lies in the system's buffers when it is cut is lost with it.
    tokio::time::timeout(Duration::from_secs(30), slowly).await.expect("it is sent on for ever");
    assert!(taken < 32 << 20);
    assert_eq!(count(&gateway, "slow_reader"), 1);
    eventually("nothing is under way", || gateway.inflight(0) == 0).await;
}

#[tokio::test]
async fn one_address_has_as_many_connections_as_its_limit_says() {
    let replica = Replica::start(|_, _| ok("hello")).await;
    let limits = Limits { connections_per_address: Some(2), ..Limits::default() };
    let gateway = Gateway::start_limited(limits, &[replica.address]).await;
    let request = b"GET /orders/ HTTP/1.1\r\nhost: gw\r\n\r\n";
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = gateway.connect().await;
        stream.write_all(request).await.unwrap();
        assert!(read_message(&mut stream).await.is_some());
        held.push(stream);
    }
    let mut third = gateway.connect().await;
    assert_eq!(to_the_end(&mut third).await, "");
    assert_eq!(count(&gateway, "too_many_connections"), 1);
    drop(held);
    eventually("there is room again", || gateway.refusals().len() == 1).await;
    until("the places of those that are gone are given back", async || {
        let mut stream = gateway.connect().await;
        let _ = stream.write_all(request).await;
        read_message(&mut stream).await
    })
    .await;
}
