//! Replicas that say in HTTP/2 what nobody may say: each costs its own requests, and the gateway no more than that.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test that called it")]

use std::{net::SocketAddr, sync::Arc};

use gateway_proto::Policy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    harness::{Gateway, body, eventually, raw_replica, reason, status},
    http2_replicas::{H2Replica, answer, builder, h2c, read},
};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// `:status: 200`, by its number.
const OK: &[u8] = &[0x88];

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A field that enters no table.
fn field(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    [vec![0], text(name), text(value)].concat()
}

fn head(block: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, 1, block)
}

/// A replica that answers the first request of each connection with these bytes.
async fn saying(lie: Vec<u8>) -> SocketAddr {
    raw_replica(move |mut stream| {
        let lie = lie.clone();
        async move {
            stream.read_exact(&mut [0; 24]).await.unwrap();
            stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
            let mut head = [0; 9];
            while head[3] != HEADERS {
                stream.read_exact(&mut head).await.unwrap();
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
                stream.read_exact(&mut vec![0; length as usize]).await.unwrap();
            }
            // Whoever has enough of it closes.
            let _ = stream.write_all(&lie).await;
            while stream.read(&mut [0; 1024]).await.is_ok_and(|count| count > 0) {}
        }
    })
    .await
}

/// A head of so many fields of a hundred bytes, in as many frames as it takes.
fn endless(fields: usize) -> Vec<u8> {
    let block = [OK.to_vec(), field("x-long", &"v".repeat(90)).repeat(fields)].concat();
    let mut parts = block.chunks(16_000);
    let mut frames = frame(HEADERS, 0, 1, parts.next().unwrap());
    parts.for_each(|part| frames.extend(frame(CONTINUATION, 0, 1, part)));
    frames.extend(frame(CONTINUATION, END_HEADERS, 1, &[]));
    frames
}

/// What comes of a request before its connection ends, but for interim responses.
async fn asked(gateway: &Gateway, method: &str, content: &str) -> String {
    let (mut client, mut responses) = (gateway.connect().await, Vec::new());
    let length = content.len();
    let head = format!(
        "{method} /orders/x HTTP/1.1\r\nhost: gw\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{content}"
    );
    client.write_all(head.as_bytes()).await.unwrap();
    client.read_to_end(&mut responses).await.unwrap();
    let responses = String::from_utf8(responses).unwrap();
    responses[responses.rfind("HTTP/1.1 ").unwrap_or(0)..].to_owned()
}

#[tokio::test]
async fn a_replica_whose_answer_is_no_http_2_is_said_to_be_such_and_another_one_asked() {
    let good = H2Replica::start(builder(), |_, body, answering| async move {
        read(body).await;
        answer(answering, "good").await;
    })
    .await;
    for (what, lie) in [
        ("a head without a status", head(&field("x-a", "1"))),
        ("a status that HTTP/2 does not have", head(&field(":status", "101"))),
        ("a status that is none", head(&field(":status", "2x0"))),
        ("two statuses", head(&[OK, OK].concat())),
        ("a pseudo-field of requests", head(&[OK, &field(":path", "/")].concat())),
        ("a name in capitals", head(&[OK, &field("X-A", "1")].concat())),
        ("a value with a line break", head(&[OK, &field("x-a", "1\r\nx-b: 2")].concat())),
        ("a field of a connection", head(&[OK, &field("transfer-encoding", "chunked")].concat())),
        ("a block that cannot be read", head(&[0x80])),
        ("an entry that no table has", head(&[0xfe])),
        ("a table that is too large", head(&[0x3f, 0xe2, 0x1f, 0x88])),
        ("a body in front of its head", frame(DATA, 0, 1, b"body")),
        (
            "an interim response that is the last word",
            frame(HEADERS, END_HEADERS | END_STREAM, 1, &field(":status", "103")),
        ),
        ("interim responses without end", head(&field(":status", "103")).repeat(100)),
        ("an answer that nobody asked for", frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2, 0x82])),
        ("an answer to what was not asked", frame(HEADERS, END_HEADERS, 99, OK)),
        ("a frame within a head", [frame(HEADERS, 0, 1, OK), frame(DATA, 0, 1, b"body")].concat()),
        ("a frame of sixteen megabytes", frame(DATA, 0, 1, &[])[..9].iter().map(|_| 0xff).collect()),
        ("a window without end", frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff])),
        ("a setting that cannot be", frame(SETTINGS, 0, 0, &[0, 5, 0, 0, 0, 1])),
        ("that it may be pushed to", frame(SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 1])),
        ("a head that is too large", endless(1000)),
        ("a head of megabytes", endless(20_000)),
        ("pings without end", frame(PING, 0, 0, &[0; 8]).repeat(10_000)),
        ("settings without end", frame(SETTINGS, 0, 0, &[]).repeat(10_000)),
        ("what nobody knows, without end", frame(0xbe, 0, 1, b"any").repeat(10_000)),
    ] {
        let lying = h2c(saying(lie).await);
        let alone = Gateway::start_to(vec![lying.clone()], Arc::default(), Policy::default());
        let response = asked(&alone, "POST", "once").await;
        assert_eq!(
            (status(&response), reason(&response).as_str()),
            (502, "malformed_response"),
            "{what}: {response}"
        );
        let gateway = Gateway::start_to(vec![lying, good.endpoint()], Arc::default(), Policy::default());
        let response = asked(&gateway, "GET", "").await;
        assert_eq!(status(&response), 200, "{what}: {response}");
        assert!(body(&response).contains("good"), "{what}: {response}");
        let counters = gateway.service().replicas()[0].counters();
        assert_eq!(counters.failures, counters.attempts, "{what}");
    }
}

#[tokio::test]
async fn a_body_that_is_not_as_long_as_its_replica_said_does_not_look_whole() {
    let told = [OK, &field("content-length", "5")[..]].concat();
    for (what, body) in [
        ("less", frame(DATA, END_STREAM, 1, b"four")),
        ("more", frame(DATA, END_STREAM, 1, b"six...")),
        (
            "trailers too early",
            [frame(DATA, 0, 1, b"four"), frame(HEADERS, END_HEADERS | END_STREAM, 1, &field("x-a", "1"))]
                .concat(),
        ),
    ] {
        let replica = h2c(saying([head(&told), body].concat()).await);
        let gateway = Gateway::start_to(vec![replica], Arc::default(), Policy::default());
        let response = asked(&gateway, "GET", "").await;
        assert!(response.split_once("\r\n\r\n").is_none_or(|(_, body)| body.len() < 5), "{what}: {response}");
        let replica = &gateway.service().replicas()[0];
        eventually("it is a failure of the replica", || replica.counters().failures == 1).await;
    }
}
