//! Request bodies on their way: how long they may take, who is to blame when they stop, and what replicas see of them.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test that called it")]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use data_plane::{routing::State, table::ReplicaCounters};
use gateway_proto::Policy;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::harness::{Act, Gateway, Replica, body, eventually, field, ok, raw_replica, read_message, status};

const MS: Duration = Duration::from_millis(1);

fn policy(per_try: Duration, stream_idle: Duration) -> Policy {
    let mut policy = Policy::default();
    policy.timeout.per_try = per_try;
    policy.timeout.request = 2 * per_try;
    policy.timeout.stream_idle = stream_idle;
    policy
}

fn counters(gateway: &Gateway) -> ReplicaCounters {
    gateway.service().replicas()[0].counters()
}

async fn upload(gateway: &Gateway, parts: &[&str], pause: Duration) -> TcpStream {
    let mut stream = gateway.connect().await;
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let head = format!("POST /orders/ HTTP/1.1\r\nhost: gw\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    for part in parts {
        tokio::time::sleep(pause).await;
        stream.write_all(part.as_bytes()).await.unwrap();
    }
    stream
}

#[tokio::test]
async fn a_slow_upload_takes_the_time_it_needs_and_costs_the_replica_nothing() {
    let replica = Replica::start(|_, request| ok(body(request))).await;
    let gateway = Gateway::start(&[replica.address], policy(100 * MS, 10_000 * MS)).await;
    let mut stream = upload(&gateway, &["a", "b", "c", "d"], 100 * MS).await;
    let response = read_message(&mut stream).await.unwrap();
    assert_eq!((status(&response), body(&response)), (200, "abcd"));
    assert_eq!((counters(&gateway).attempts, counters(&gateway).failures), (1, 0));
}

#[tokio::test]
async fn a_client_that_stops_in_the_middle_of_its_body_is_told_so_and_nobody_else_is_blamed() {
    let replica = Replica::start(|_, request| ok(body(request))).await;
    let gateway = Gateway::start(&[replica.address], policy(10_000 * MS, 100 * MS)).await;
    for _ in 0..6 {
        let mut stream = gateway.connect().await;
        let half = b"POST /orders/ HTTP/1.1\r\nhost: gw\r\ncontent-length: 6\r\n\r\nabc";
        stream.write_all(half).await.unwrap();
        let response = read_message(&mut stream).await.unwrap();
        assert_eq!(status(&response), 408, "{response}");
        assert!(body(&response).contains("request_timeout"), "{response}");
    }
    assert_eq!((counters(&gateway).failures, counters(&gateway).inflight), (0, 0));
}

#[tokio::test]
async fn a_replica_is_timed_from_the_moment_it_could_have_the_whole_request() {
    let hung = Replica::start(|_, _| Act::Hang).await;
    let gateway = Gateway::start(&[hung.address], policy(200 * MS, 10_000 * MS)).await;
    let mut stream = upload(&gateway, &["a", "b", "c"], 100 * MS).await;
    let uploaded = tokio::time::Instant::now();
    let response = read_message(&mut stream).await.unwrap();
    assert!(uploaded.elapsed() >= 190 * MS, "{:?}", uploaded.elapsed());
    assert_eq!(status(&response), 504);
    assert_eq!(counters(&gateway).failures, 1);
}

#[tokio::test]
async fn a_replica_that_takes_no_body_is_to_blame() {
    let deaf = raw_replica(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let gateway = Gateway::start(&[deaf], policy(10_000 * MS, 200 * MS)).await;
    let mut stream = gateway.connect().await;
    let length = 64 << 20;
    let head = format!("POST /orders/ HTTP/1.1\r\nhost: gw\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let (mut reading, mut writing) = stream.into_split();
    let upload = tokio::spawn(async move { writing.write_all(&vec![0; length]).await });
    let mut answer = [0; 12];
    reading.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, *b"HTTP/1.1 504");
    assert_eq!(counters(&gateway).failures, 1);
    upload.abort();
}

#[tokio::test]
async fn a_client_that_breaks_its_body_off_while_the_answer_comes_is_the_only_one_to_blame() {
    let eager = raw_replica(|mut stream| async move {
        stream.read_exact(&mut [0]).await.unwrap();
        let early = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nearly\r\n";
        stream.write_all(early.as_bytes()).await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let gateway = Gateway::start(&[eager], Policy::default()).await;
    for number in 0..6 {
        let mut stream = gateway.connect().await;
        let half = "POST /orders/ HTTP/1.1\r\nhost: gw\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n";
        stream.write_all(half.as_bytes()).await.unwrap();
        let mut head = [0; 15];
        stream.read_exact(&mut head).await.unwrap();
        assert_eq!(head, *b"HTTP/1.1 200 OK");
        if number % 2 == 0 {
            stream.write_all(b"no chunk\r\n").await.unwrap();
        } else {
            stream.shutdown().await.unwrap();
        }
        eventually("the attempt has ended", || counters(&gateway).inflight == 0).await;
    }
    assert_eq!((counters(&gateway).attempts, counters(&gateway).failures), (6, 0));
    let breaker = gateway.service().policy().breaker;
    let view = gateway.service().replicas()[0].breaker_view(data_plane::routing::Tick::ORIGIN, &breaker);
    assert_eq!(view.state, State::Closed);
}

#[tokio::test]
async fn a_chunked_body_passes_with_a_method_that_rarely_has_one() {
    for method in ["GET", "HEAD", "DELETE", "POST"] {
        let replica = Replica::start(|_, _| Act::Send("HTTP/1.1 204 No Content\r\n\r\n".into())).await;
        let gateway = Gateway::start(&[replica.address], Policy::default()).await;
        let request = format!(
            "{method} /orders/ HTTP/1.1\r\nhost: gw\r\ntransfer-encoding: chunked\r\n\r\n4\r\nwxyz\r\n0\r\n\r\n"
        );
        assert_eq!(status(&gateway.send(&request).await), 204);
        let seen = replica.seen().remove(0);
        assert_eq!(field(&seen, "transfer-encoding").as_deref(), Some("chunked"), "{seen}");
        assert_eq!(body(&seen), "4\r\nwxyz\r\n0\r\n\r\n", "{method}");
    }
}

#[tokio::test]
async fn no_replica_ever_sees_a_body_with_a_hole() {
    let got = Arc::new(Mutex::new(Vec::new()));
    let record = Arc::clone(&got);
    // Refuses before it has read the body, and goes on reading.
    let refusing = raw_replica(move |mut stream| {
        let record = Arc::clone(&record);
        async move {
            let mut bytes = [0; 4096];
            let mut has_answered = false;
            while let Ok(count @ 1..) = stream.read(&mut bytes).await {
                record.lock().unwrap().extend_from_slice(&bytes[..count]);
                if record.lock().unwrap().ends_with(b"first\r\n") && !has_answered {
                    has_answered = true;
                    let early = "HTTP/1.1 503 Busy\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbusy\r\n";
                    stream.write_all(early.as_bytes()).await.unwrap();
                }
            }
        }
    })
    .await;
    // Takes more than is kept for a second try, and then dies.
    let dying = raw_replica(|stream| async move {
        let _ = stream.take(100_000).read_to_end(&mut Vec::new()).await;
    })
    .await;
    let gateway = Gateway::start(&[refusing, dying], policy(10_000 * MS, 300 * MS)).await;
    let mut stream = gateway.connect().await;
    let head = "PUT /orders/ HTTP/1.1\r\nhost: gw\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let second = || gateway.service().replicas()[1].counters();
    eventually("the second replica is asked", || second().attempts == 1).await;
    for _ in 0..15 {
        let chunk = format!("2000\r\n{}\r\n", "x".repeat(0x2000));
        stream.write_all(chunk.as_bytes()).await.unwrap();
    }
    eventually("the second replica has died", || second().failures == 1).await;
    stream.write_all(b"4\r\nlast\r\n0\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.starts_with(b"HTTP/1.1 503"), "the one real answer");
    let seen = String::from_utf8(got.lock().unwrap().clone()).unwrap();
    assert!(seen.ends_with("5\r\nfirst\r\n"), "something follows what it had");
}

/// A replica that answers with a head at once, and with its body when it has read the whole request.
async fn early_replica() -> std::net::SocketAddr {
    raw_replica(|mut stream| async move {
        let mut bytes = Vec::new();
        while !bytes.windows(4).any(|end| end == b"\r\n\r\n") {
            stream.read_buf(&mut bytes).await.unwrap();
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n").await.unwrap();
        while !bytes.ends_with(b"last") {
            if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                return;
            }
        }
        stream.write_all(b"done").await.unwrap();
    })
    .await
}

#[tokio::test]
async fn an_upload_that_moves_is_not_cut_because_its_answer_began_early() {
    let gateway = Gateway::start(&[early_replica().await], policy(10_000 * MS, 500 * MS)).await;
    // Three times as long in all as anything may stand still.
    let mut stream = upload(&gateway, &["a", "b", "c", "d", "e", "last"], 250 * MS).await;
    let response = read_message(&mut stream).await.unwrap();
    assert_eq!((status(&response), body(&response)), (200, "done"));
    assert_eq!((counters(&gateway).attempts, counters(&gateway).failures), (1, 0));
}

#[tokio::test]
async fn a_client_that_stops_behind_an_early_answer_is_cut_off_and_the_replica_is_not_blamed() {
    let gateway = Gateway::start(&[early_replica().await], policy(10_000 * MS, 100 * MS)).await;
    for _ in 0..6 {
        let mut stream = gateway.connect().await;
        let head = "POST /orders/ HTTP/1.1\r\nhost: gw\r\ncontent-length: 7\r\n\r\nx";
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(!answer.ends_with(b"done"), "it looks whole");
    }
    assert_eq!((counters(&gateway).attempts, counters(&gateway).failures), (6, 0));
}
