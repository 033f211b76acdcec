//! What a service's policy lets through, and what replicas see of the rest: nothing, or never all of it.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test that called it")]

use std::{
    convert::Infallible,
    time::{Duration, Instant},
};

use data_plane::table::{CodeClass, RequestOutcome};
use gateway_proto::{
    Policy,
    policy::{Methods, RequestRules},
};
use http_body_util::StreamBody;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::harness::{Dead, Gateway, Replica, body, field, ok, read_message, status};

/// Longer than what is held before a replica is asked.
const LONG: usize = 200 * 1024;

fn policy(change: impl FnOnce(&mut RequestRules)) -> Policy {
    let mut policy = Policy::default();
    change(&mut policy.request);
    policy
}

fn json_only() -> Policy {
    policy(|rules| rules.json_only = true)
}

async fn echo() -> Replica {
    Replica::start(|_, request| ok(body(request))).await
}

fn refusal(response: &str) -> (u16, String) {
    let problem: Value = serde_json::from_str(body(response)).expect(response);
    assert_eq!((problem["service"].as_str(), problem["attempts"].as_u64()), (Some("orders"), Some(0)));
    assert!(field(response, "proxy-status").is_some());
    (status(response), problem["reason"].as_str().unwrap().to_owned())
}

fn post(media_type: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST /orders/ HTTP/1.1\r\nhost: gw\r\ncontent-type: {media_type}\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

/// A POST of JSON in chunks.
fn chunked(pieces: &[&str]) -> String {
    let head = "POST /orders/ HTTP/1.1\r\nhost: gw\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunks: String = pieces.iter().map(|piece| format!("{:x}\r\n{piece}\r\n", piece.len())).collect();
    format!("{head}{chunks}0\r\n\r\n")
}

#[tokio::test]
async fn a_method_that_is_not_allowed_is_answered_with_those_that_are_and_reaches_no_replica() {
    let replica = echo().await;
    let post_only = policy(|rules| rules.methods = Methods::parse(["POST", "PUT"]).unwrap());
    let gateway = Gateway::start(&[replica.address], post_only).await;
    for method in ["GET", "DELETE", "post", "X-CUSTOM"] {
        let response = gateway.send(&format!("{method} /orders/ HTTP/1.1\r\nhost: gw\r\n\r\n")).await;
        assert_eq!(refusal(&response), (405, "method_not_allowed".to_owned()), "{method}");
        assert_eq!(field(&response, "allow").as_deref(), Some("POST, PUT"));
    }
    assert_eq!(replica.connections(), 0);
    let class = CodeClass::of(http::StatusCode::METHOD_NOT_ALLOWED);
    let counted = gateway.service().counters().read(class, RequestOutcome::GatewayError);
    assert_eq!(counted, 4, "refusals are counted like all answers of the gateway");
    assert_eq!(gateway.service().replicas()[0].counters().failures, 0);
    assert_eq!(status(&gateway.post("/orders/", "x").await), 200);
}

#[tokio::test]
async fn a_body_of_another_type_is_refused_before_any_replica_is_asked() {
    let replica = echo().await;
    let gateway = Gateway::start(&[replica.address], json_only()).await;
    for media_type in ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1"]
    {
        let response = gateway.send(&post(media_type, "{}")).await;
        assert_eq!(refusal(&response), (415, "unsupported_media_type".to_owned()), "{media_type}");
    }
    let response = gateway.post("/orders/", "{}").await;
    assert_eq!(refusal(&response), (415, "unsupported_media_type".to_owned()));
    assert_eq!(replica.connections(), 0);
    for request in [
        post("application/json", "{}"),
        post("application/problem+json; charset=UTF-8", "[1, 2]"),
        // Nothing is nothing else than JSON.
        post("text/plain", ""),
        "DELETE /orders/ HTTP/1.1\r\nhost: gw\r\n\r\n".to_owned(),
    ] {
        assert_eq!(status(&gateway.send(&request).await), 200, "{request:?}");
    }
}

#[tokio::test]
async fn a_short_body_that_is_not_json_is_refused_before_any_replica_is_asked() {
    let replica = echo().await;
    let gateway = Gateway::start(&[replica.address], json_only()).await;
    for request in [
        post("application/json", "{\"a\":"),
        post("application/json", "{\"a\":1} x"),
        post("application/json", "hello"),
        chunked(&["{\"a\"", ":1"]),
        chunked(&["[1,", "]"]),
    ] {
        let response = gateway.send(&request).await;
        assert_eq!(refusal(&response), (400, "invalid_json".to_owned()), "{request:?}");
    }
    assert_eq!(replica.connections(), 0);
}

#[tokio::test]
async fn a_client_that_stops_in_the_middle_of_json_is_told_so_and_no_replica_is_asked() {
    let replica = echo().await;
    let mut policy = json_only();
    policy.timeout.stream_idle = Duration::from_millis(100);
    let gateway = Gateway::start(&[replica.address], policy).await;
    let head =
        "POST /orders/ HTTP/1.1\r\nhost: gw\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n";
    let began = Instant::now();
    let response = gateway.send(&format!("{head}{{\"a\":")).await;
    assert_eq!(refusal(&response), (408, "request_timeout".to_owned()));
    assert!(began.elapsed() < Duration::from_secs(10), "by stream_idle, not by the time for all of it");
    assert_eq!(replica.connections(), 0);
}

#[tokio::test]
async fn json_of_any_length_arrives_byte_for_byte() {
    let replica = echo().await;
    let gateway = Gateway::start(&[replica.address], json_only()).await;
    let long = format!("{{\"é\": \"{}\",\n \"b\": [1, -2.5e3]}}", "x".repeat(LONG));
    for text in ["{\"a\" : [ ] }", " null ", &long] {
        let response = gateway.send(&post("application/json", text)).await;
        assert_eq!((status(&response), body(&response) == text), (200, true));
    }
    let (one, other) = long.split_at(70_000);
    assert_eq!(status(&gateway.send(&chunked(&["{\"a\"", ":1", "}"])).await), 200);
    assert_eq!(status(&gateway.send(&chunked(&[one, other])).await), 200);
    let seen = replica.seen();
    let (sizes, data): (Vec<_>, Vec<_>) =
        body(seen.last().unwrap()).split("\r\n").enumerate().partition(|(line, _)| line % 2 == 0);
    assert!(sizes.len() > 1);
    let data: String = data.into_iter().map(|(_, data)| data).collect();
    assert!(data == long, "chunks are framed anew, and nothing else");
}

#[tokio::test]
async fn json_that_was_held_goes_whole_to_the_next_replica_when_one_cannot_be_reached() {
    let (dead, replica) = (Dead::new(), echo().await);
    let gateway = Gateway::start(&[dead.address, replica.address], json_only()).await;
    let long = format!("[\"{}\"]", "x".repeat(LONG));
    for text in ["{\"a\":1}", &long] {
        for _ in 0..4 {
            let response = gateway.send(&post("application/json", text)).await;
            assert_eq!((status(&response), body(&response) == text), (200, true));
        }
    }
}

#[tokio::test]
async fn json_with_trailers_passes_and_what_was_not_judged_whole_is_judged_before_them() {
    let replica = echo().await;
    let gateway = Gateway::start(&[replica.address], json_only()).await;
    for (pieces, expected) in [(&["{\"a\"", ":1}"][..], 200), (&["{\"a\"", ":1"], 400)] {
        let request = chunked(pieces).replace("\r\n0\r\n\r\n", "\r\n0\r\nx-sum: 1\r\n\r\n");
        assert!(request.contains("x-sum"));
        assert_eq!(status(&gateway.send(&request).await), expected);
    }
    let [seen] = &replica.seen()[..] else { panic!("one passes") };
    assert!(seen.ends_with("{\"a\":1}\r\n0\r\nx-sum: 1\r\n\r\n"), "{seen}");
}

#[tokio::test]
async fn a_client_that_waits_to_be_told_is_told_before_its_json_is_judged() {
    let replica = echo().await;
    let gateway = Gateway::start(&[replica.address], json_only()).await;
    for (text, expected) in [("{\"a\":1}", 200), ("{\"a\":1)", 400)] {
        let mut stream = gateway.connect().await;
        let fields = "content-type: application/json\r\ncontent-length: 7\r\nexpect: 100-continue";
        let head = format!("POST /orders/ HTTP/1.1\r\nhost: gw\r\n{fields}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        assert_eq!(status(&read_message(&mut stream).await.unwrap()), 100);
        stream.write_all(text.as_bytes()).await.unwrap();
        assert_eq!(status(&read_message(&mut stream).await.unwrap()), expected);
    }
    assert_eq!(replica.seen().len(), 1);
}

#[tokio::test]
async fn a_long_body_that_turns_out_not_to_be_json_is_refused_and_no_replica_has_all_of_it() {
    let replica = echo().await;
    let gateway = Gateway::start(&[replica.address], json_only()).await;
    let long = "x".repeat(LONG);
    for request in [
        post("application/json", &format!("{{\"a\":\"{long}\"")),
        chunked(&[&format!("[\"{long}\""), ",", "]"]),
        chunked(&[&format!("[\"{long}\"")]),
    ] {
        let response = gateway.send(&request).await;
        assert_eq!(status(&response), 400);
        assert!(body(&response).contains("\"reason\":\"invalid_json\""), "{response}");
    }
    assert_eq!(replica.seen(), Vec::<String>::new(), "none came to its end");
    let counters = gateway.service().replicas()[0].counters();
    assert_eq!((counters.failures, counters.inflight), (0, 0), "nobody is blamed");
}

#[tokio::test]
async fn a_body_that_says_that_it_is_too_long_is_refused_before_it_comes() {
    let replica = echo().await;
    let gateway = Gateway::start(&[replica.address], policy(|rules| rules.max_body_bytes = 10)).await;
    // The client waits, and is not told to go on.
    let head = "POST /orders/ HTTP/1.1\r\nhost: gw\r\nexpect: 100-continue\r\ncontent-length: 11\r\n\r\n";
    let response = gateway.send(head).await;
    assert_eq!(refusal(&response), (413, "body_too_large".to_owned()));
    assert_eq!(replica.connections(), 0);
    assert_eq!(status(&gateway.post("/orders/", "0123456789").await), 200);
}

#[tokio::test]
async fn a_body_that_grows_too_long_is_refused_and_no_replica_has_all_of_it() {
    let replica = echo().await;
    let gateway = Gateway::start(&[replica.address], policy(|rules| rules.max_body_bytes = 10)).await;
    let response = gateway.send(&chunked(&["012345", "67890"])).await;
    assert_eq!(status(&response), 413);
    assert!(body(&response).contains("\"reason\":\"body_too_large\""), "{response}");
    assert_eq!(replica.seen(), Vec::<String>::new());
    assert_eq!(gateway.service().replicas()[0].counters().failures, 0);
    assert_eq!(status(&gateway.send(&chunked(&["012345", "6789"])).await), 200);
}

#[tokio::test]
async fn json_in_http_2_is_judged_before_its_last_byte_passes_also_when_its_end_comes_on_its_own() {
    let replica = echo().await;
    let gateway = Gateway::start(&[replica.address], json_only()).await;
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(gateway.connect().await))
            .await
            .unwrap();
    let connection = tokio::spawn(connection);
    for (text, expected) in [
        (format!("[\"{}\"]", "x".repeat(LONG)), 200),
        (format!("[\"{}\"", "x".repeat(LONG)), 400),
        ("[1".to_owned(), 400),
    ] {
        let length = text.len();
        let frame = http_body::Frame::data(bytes::Bytes::from(text));
        // Of no length of its own, so that nothing but an empty frame says that it has ended.
        let body = StreamBody::new(tokio_stream::once(Ok::<_, Infallible>(frame)));
        let request = http::Request::post("http://gw/orders/")
            .header("content-type", "application/json")
            .header("content-length", length)
            .body(body)
            .unwrap();
        assert_eq!(client.send_request(request).await.unwrap().status(), expected);
    }
    assert_eq!(replica.seen().len(), 1, "none of the others came to its end");
    connection.abort();
}

#[tokio::test]
async fn what_is_left_of_a_refused_body_is_never_taken_for_a_request() {
    let replica = echo().await;
    let gateway = Gateway::start(&[replica.address], json_only()).await;
    let hidden = "GET /orders/hidden HTTP/1.1\r\nhost: gw\r\n\r\n";
    let own = "GET /orders/own HTTP/1.1\r\nhost: gw\r\n\r\n";
    let mut stream = gateway.connect().await;
    // By its head, at its first byte, and at its last chunk: a little is passed over.
    for refused in
        [post("text/plain", hidden), post("application/json", hidden), chunked(&["[", hidden, "]"])]
    {
        stream.write_all(format!("{refused}{own}").as_bytes()).await.unwrap();
        let (refusal, answer) = two_messages(&mut stream).await;
        assert!([400, 415].contains(&status(&refusal)), "{refusal}");
        assert_eq!((status(&answer), field(&refusal, "connection")), (200, None), "{refused}");
    }
    // More than a little ends the connection.
    let long = post("text/plain", &hidden.repeat(5000));
    // Its end may find the connection closed.
    let _ = stream.write_all(format!("{long}{own}").as_bytes()).await;
    let mut rest = String::new();
    let _ = stream.read_to_string(&mut rest).await;
    assert_eq!((status(&rest), field(&rest, "connection").as_deref()), (415, Some("close")));
    assert_eq!(rest.matches("HTTP/1.1 ").count(), 1, "{rest}");
    let seen = replica.seen();
    assert!(seen.len() == 3 && seen.iter().all(|request| request.starts_with("GET /own ")), "{seen:?}");
}

/// The next two, each with a `content-length`.
async fn two_messages(stream: &mut TcpStream) -> (String, String) {
    let mut text = String::new();
    loop {
        let whole = |text: &str| {
            let (head, rest) = text.split_once("\r\n\r\n")?;
            let length: usize = field(head, "content-length")?.parse().unwrap();
            rest.get(length..).map(str::len)
        };
        if let Some(second) = whole(&text).map(|rest| text.len() - rest)
            && whole(&text[second..]) == Some(0)
        {
            let second = text.split_off(second);
            return (text, second);
        }
        let mut more = [0; 16 * 1024];
        let count = stream.read(&mut more).await.unwrap();
        assert!(count > 0, "the connection ended behind {text:?}");
        text.push_str(str::from_utf8(&more[..count]).unwrap());
    }
}
