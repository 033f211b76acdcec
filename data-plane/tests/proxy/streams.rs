//! Responses that come bit by bit: each bit passes as it comes, and silence has its limit.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test that called it")]

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use bytes::Bytes;
use gateway_proto::Policy;
use http::Request;
use http_body_util::{BodyExt, Empty, combinators::BoxBody};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};

use crate::{
    harness::{Gateway, raw_replica, read_message},
    tunnels::head,
};

const GET: &str = "GET /orders/events HTTP/1.1\r\nhost: gw\r\naccept: text/event-stream\r\n\r\n";
const BEGIN: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

/// A replica whose one response goes on with what the test sends.
async fn streaming() -> (SocketAddr, mpsc::Sender<&'static str>) {
    let (send, events) = mpsc::channel::<&'static str>(1);
    let events = std::sync::Arc::new(tokio::sync::Mutex::new(events));
    let address = raw_replica(move |mut stream| {
        let events = std::sync::Arc::clone(&events);
        async move {
            read_message(&mut stream).await;
            stream.write_all(BEGIN.as_bytes()).await.unwrap();
            while let Some(event) = events.lock().await.recv().await {
                let chunk = format!("{:x}\r\n{event}\r\n", event.len());
                stream.write_all(chunk.as_bytes()).await.unwrap();
            }
            let _ = stream.read(&mut [0]).await;
        }
    })
    .await;
    (address, send)
}

#[tokio::test]
async fn each_event_arrives_while_the_stream_is_open_in_both_versions_of_http() {
    let (address, send) = streaming().await;
    let gateway = Gateway::start(&[address], Policy::default()).await;
    let mut client = gateway.connect().await;
    client.write_all(GET.as_bytes()).await.unwrap();
    assert!(head(&mut client).await.contains("text/event-stream"));
    for event in ["data: one\n\n", ": a comment\n\n", "data: two\n\n"] {
        send.send(event).await.unwrap();
        let expected = format!("{:x}\r\n{event}\r\n", event.len());
        let mut heard = vec![0; expected.len()];
        client.read_exact(&mut heard).await.unwrap();
        assert_eq!(String::from_utf8(heard).unwrap(), expected);
    }

    let (address, send) = streaming().await;
    let gateway = Gateway::start(&[address], Policy::default()).await;
    let stream = TokioIo::new(gateway.connect().await);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    let nothing: BoxBody<Bytes, Infallible> = Empty::new().boxed();
    let request = Request::get("http://gw/orders/events").body(nothing).unwrap();
    let mut body = sender.send_request(request).await.unwrap().into_body();
    for event in ["data: one\n\n", ": a comment\n\n", "data: two\n\n"] {
        send.send(event).await.unwrap();
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), event);
    }
}

#[tokio::test]
async fn comments_keep_a_stream_open_and_silence_ends_it() {
    let (address, send) = streaming().await;
    let mut policy = Policy::default();
    policy.timeout.stream_idle = Duration::from_millis(500);
    policy.timeout.request = Duration::from_millis(300);
    policy.timeout.per_try = Duration::from_millis(300);
    let gateway = Gateway::start(&[address], policy).await;
    let mut client = gateway.connect().await;
    client.write_all(GET.as_bytes()).await.unwrap();
    head(&mut client).await;
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        send.send(":\n\n").await.unwrap();
        client.read_exact(&mut [0; 8]).await.unwrap();
    }
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(10), client.read_to_end(&mut rest)).await;
    let _ = ended.expect("silence is an end");
    assert!(!rest.ends_with(b"0\r\n\r\n"), "it does not look whole");
}

#[tokio::test]
async fn a_long_poll_is_answered_when_there_is_something_to_say() {
    let (say, heard) = tokio::sync::oneshot::channel::<()>();
    let heard = std::sync::Arc::new(tokio::sync::Mutex::new(Some(heard)));
    let address = raw_replica(move |mut stream| {
        let heard = std::sync::Arc::clone(&heard);
        async move {
            read_message(&mut stream).await;
            let heard = heard.lock().await.take().unwrap();
            heard.await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nnews").await.unwrap();
            let _ = stream.read(&mut [0]).await;
        }
    })
    .await;
    let gateway = Gateway::start(&[address], Policy::default()).await;
    let mut client = gateway.connect().await;
    client.write_all(GET.as_bytes()).await.unwrap();
    let waiting = tokio::time::timeout(Duration::from_millis(200), client.read_u8()).await;
    assert!(waiting.is_err(), "there is nothing to say yet");
    say.send(()).unwrap();
    assert!(read_message(&mut client).await.unwrap().ends_with("\r\n\r\nnews"));
}
