//! HTTP/1 with replicas: what they may answer, and when a connection to them is used again.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test that called it")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use gateway_proto::Policy;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
};

use crate::harness::{
    Act, Gateway, Replica, body, comes_to_rest, eventually, field, raw_replica, read_message, status,
};

#[tokio::test]
async fn what_is_no_response_never_reaches_the_client() {
    for torn in [
        "garbage\r\n\r\n",
        "HTTP/1.1 200 OK\ncontent-length: 0\n\n",
        "HTTP/1.1 20 OK\r\ncontent-length: 0\r\n\r\n",
        "HTTP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx : 1\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx: 1\r\n 2\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx: \0\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\ncontent-length: a\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    ] {
        let replica = Replica::start(move |_, _| Act::Send(torn.into())).await;
        let gateway = Gateway::start(&[replica.address], Policy::default()).await;
        let answer = gateway.post("/orders/", "x").await;
        assert_eq!(status(&answer), 502, "{torn:?}");
        assert!(body(&answer).contains("malformed_response"), "{torn:?}: {answer}");
        assert_eq!(gateway.service().replicas()[0].counters().failures, 1, "{torn:?}");
    }
}

#[tokio::test]
async fn endless_interim_responses_are_no_response() {
    let replica = Replica::start(|_, _| Act::Send("HTTP/1.1 103 Hints\r\n\r\n".repeat(1000))).await;
    let gateway = Gateway::start(&[replica.address], Policy::default()).await;
    let mut stream = gateway.connect().await;
    stream.write_all(b"POST /orders/ HTTP/1.0\r\nhost: gw\r\n\r\n").await.unwrap();
    assert_eq!(status(&read_message(&mut stream).await.unwrap()), 502);
}

#[tokio::test]
async fn two_hundred_fields_pass_and_a_304_keeps_its_length() {
    let fields: String = (0..200).map(|number| format!("x-{number}: {number}\r\n")).collect();
    let replica = Replica::start(move |_, _| {
        Act::Send(format!("HTTP/1.1 304 Not Modified\r\n{fields}content-length: 77\r\n\r\n"))
    })
    .await;
    let gateway = Gateway::start(&[replica.address], Policy::default()).await;
    let mut stream = gateway.connect().await;
    for _ in 0..2 {
        stream.write_all(b"GET /orders/ HTTP/1.1\r\nhost: gw\r\n\r\n").await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        assert_eq!((status(&head), field(&head, "content-length").as_deref()), (304, Some("77")));
        assert_eq!(head.matches("\r\nx-").count(), 203, "with those of the gateway");
    }
    assert_eq!(replica.connections(), 1);
}

#[tokio::test]
async fn a_body_until_the_end_of_the_connection_passes_and_a_reset_is_no_end() {
    for is_reset in [false, true] {
        let replica = Replica::start(move |_, _| {
            let body = "x".repeat(100_000);
            Act::SendAndClose(format!("HTTP/1.1 200 OK\r\n\r\n{body}"))
        });
        let is_read = Arc::new(Notify::new());
        let goes_on = Arc::clone(&is_read);
        let resetting = raw_replica(move |mut stream| {
            let goes_on = Arc::clone(&goes_on);
            async move {
                let _ = stream.read(&mut [0; 4096]).await;
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nxxx").await.unwrap();
                // A reset takes away what has not been read.
                goes_on.notified().await;
                socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
            }
        });
        let address = if is_reset { resetting.await } else { replica.await.address };
        let gateway = Gateway::start(&[address], Policy::default()).await;
        let mut stream = gateway.connect().await;
        stream.write_all(b"GET /orders/ HTTP/1.1\r\nhost: gw\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        while !String::from_utf8_lossy(&answer).contains("xxx") {
            assert!(stream.read_buf(&mut answer).await.unwrap() > 0, "it ends before its body");
        }
        is_read.notify_one();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8(answer).unwrap();
        assert_eq!(answer.ends_with("\r\n0\r\n\r\n"), !is_reset, "{} bytes", answer.len());
        if !is_reset {
            assert_eq!(
                answer.matches('x').count() - answer[..answer.find("\r\n\r\n").unwrap()].matches('x').count(),
                100_000
            );
        }
    }
}

#[tokio::test]
async fn a_connection_with_something_left_over_is_not_used_again() {
    for (left_over, connections) in
        [("", 1), ("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil", 2), ("\r\n", 2)]
    {
        let replica = Replica::start(move |_, _| {
            Act::Send(format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok{left_over}"))
        })
        .await;
        let gateway = Gateway::start(&[replica.address], Policy::default()).await;
        for _ in 0..2 {
            let answer = gateway.post("/orders/", "x").await;
            assert_eq!((status(&answer), body(&answer)), (200, "ok"));
        }
        assert_eq!(replica.connections(), connections, "{left_over:?}");
    }
}

#[tokio::test]
async fn what_comes_unasked_on_an_idle_connection_answers_nothing() {
    let unasked = Arc::new(tokio::sync::Notify::new());
    let (told, accepted) = (Arc::clone(&unasked), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&accepted);
    let replica = raw_replica(move |mut stream| {
        let (told, count) = (Arc::clone(&told), Arc::clone(&count));
        async move {
            let number = count.fetch_add(1, Relaxed);
            while read_message(&mut stream).await.is_some() {
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{number}");
                stream.write_all(answer.as_bytes()).await.unwrap();
                if number == 0 {
                    told.notified().await;
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil").await.unwrap();
                    told.notify_one();
                }
            }
        }
    })
    .await;
    let gateway = Gateway::start(&[replica], Policy::default()).await;
    assert_eq!(body(&gateway.post("/orders/", "x").await), "0");
    unasked.notify_one();
    tokio::task::yield_now().await;
    unasked.notified().await;
    // Through the gateway's event loop, so that it knows.
    gateway.get("/nowhere").await;
    assert_eq!(body(&gateway.post("/orders/", "x").await), "1");
}

/// Answers the first request on each connection, and closes at the second.
async fn closes_at_the_second(mut stream: TcpStream, seen: Arc<AtomicUsize>) {
    for number in 0..2 {
        if read_message(&mut stream).await.is_none() {
            return;
        }
        seen.fetch_add(1, Relaxed);
        if number == 0 {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_reused_connection_that_closes_without_a_word_may_have_seen_the_request() {
    let seen = Arc::new(AtomicUsize::new(0));
    let record = Arc::clone(&seen);
    let closing = raw_replica(move |stream| closes_at_the_second(stream, Arc::clone(&record))).await;
    let gateway = Gateway::start(&[closing], Policy::default()).await;
    assert_eq!(status(&gateway.post("/orders/", "x").await), 200);
    let answer = gateway.post("/orders/", "x").await;
    assert_eq!(status(&answer), 502, "{answer}");
    assert_eq!(seen.load(Relaxed), 2, "a POST is not sent again");
}

#[tokio::test]
async fn a_client_that_reads_nothing_holds_back_the_replica() {
    let written = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&written);
    let generous = raw_replica(move |mut stream| {
        let count = Arc::clone(&count);
        async move {
            let _ = stream.read(&mut [0; 4096]).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n").await.unwrap();
            while let Ok(sent) = stream.write(&[0; 65536]).await {
                count.fetch_add(sent, Relaxed);
            }
        }
    })
    .await;
    let gateway = Gateway::start(&[generous], Policy::default()).await;
    let mut stream = gateway.connect().await;
    stream.write_all(b"GET /orders/ HTTP/1.1\r\nhost: gw\r\n\r\n").await.unwrap();
    let taken = comes_to_rest(|| written.load(Relaxed)).await;
    assert!(taken < 32 << 20, "{taken} bytes are somewhere");
}

#[tokio::test]
async fn a_replica_that_reads_nothing_holds_back_the_client() {
    let deaf = raw_replica(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let gateway = Gateway::start(&[deaf], Policy::default()).await;
    let mut stream = gateway.connect().await;
    stream
        .write_all(b"POST /orders/ HTTP/1.1\r\nhost: gw\r\ncontent-length: 1000000000\r\n\r\n")
        .await
        .unwrap();
    let written = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&written);
    let upload = tokio::spawn(async move {
        while let Ok(sent) = stream.write(&[0; 65536]).await {
            count.fetch_add(sent, Relaxed);
        }
    });
    let taken = comes_to_rest(|| written.load(Relaxed)).await;
    assert!(taken < 32 << 20, "{taken} bytes are somewhere");
    upload.abort();
}

#[tokio::test]
async fn an_upload_goes_on_while_the_answer_comes() {
    let talkative = raw_replica(|mut stream| async move {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
        for _ in 0..3 {
            let mut part = [0; 4];
            stream.read_exact(&mut part).await.unwrap();
            stream.write_all(b"4\r\n").await.unwrap();
            stream.write_all(&part).await.unwrap();
            stream.write_all(b"\r\n").await.unwrap();
        }
        stream.write_all(b"0\r\n\r\n").await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let gateway = Gateway::start(&[talkative], Policy::default()).await;
    let mut stream = gateway.connect().await;
    stream.write_all(b"POST /orders/ HTTP/1.1\r\nhost: gw\r\ncontent-length: 12\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    for part in ["aaaa", "bbbb", "cccc"] {
        stream.write_all(part.as_bytes()).await.unwrap();
        while !answer.ends_with(&format!("4\r\n{part}\r\n")) {
            answer.push(char::from(stream.read_u8().await.unwrap()));
        }
    }
    eventually("the attempt has ended", || gateway.inflight(0) == 0).await;
}
