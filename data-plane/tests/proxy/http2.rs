//! Clients of HTTP/2 and replicas of HTTP/1: what one says the other hears.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test that called it")]

use std::time::Duration;

use bytes::Bytes;
use gateway_proto::Policy;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::http2::SendRequest,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{Act, Gateway, Replica, body, eventually, field, ok, raw_replica};

pub(crate) type Outgoing = BoxBody<Bytes, Infallible>;

pub(crate) async fn connect(gateway: &Gateway) -> SendRequest<Outgoing> {
    let stream = TokioIo::new(gateway.connect().await);
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    sender
}

pub(crate) fn whole(text: &'static str) -> Outgoing {
    Full::new(Bytes::from(text)).boxed()
}

pub(crate) async fn text(response: Response<Incoming>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn a_request_of_http_2_becomes_one_of_http_1() {
    let replica = Replica::start(|_, request| ok(body(request))).await;
    let gateway = Gateway::start(&[replica.address], Policy::default()).await;
    let mut sender = connect(&gateway).await;
    let request = Request::put("http://gw.example/orders/a?b=c")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .header("te", "trailers");
    let response = sender.send_request(request.body(whole("hello")).unwrap()).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), response.headers()["via"].to_str().unwrap()),
        (200, "1.1 gw-dp-1")
    );
    assert_eq!(text(response).await, "hello");
    let seen = replica.seen().remove(0);
    assert!(seen.starts_with("PUT /a?b=c HTTP/1.1\r\n"), "{seen}");
    for (name, value) in [
        ("host", Some("gw.example")),
        ("cookie", Some("a=1; b=2")),
        ("content-length", Some("5")),
        ("te", None),
        ("x-forwarded-host", Some("gw.example")),
    ] {
        assert_eq!(field(&seen, name).as_deref(), value, "{name} in {seen}");
    }
}

#[tokio::test]
async fn a_request_of_no_length_has_its_time_although_its_end_is_told_later() {
    let silent = Replica::start(|_, _| Act::Hang).await;
    let mut policy = Policy::default();
    policy.timeout.per_try = Duration::from_millis(300);
    policy.retry.max_retry_count = 0;
    let gateway = Gateway::start(&[silent.address], policy).await;
    let (sender, connection) = h2::client::handshake(gateway.connect().await).await.unwrap();
    tokio::spawn(connection);
    for number in 1..=2 {
        let request = Request::post("http://gw/orders/").header("content-length", "0").body(()).unwrap();
        let mut sender = sender.clone().ready().await.unwrap();
        let (response, mut sending) = sender.send_request(request, false).unwrap();
        let seen = || silent.seen().len() == number;
        eventually("the replica has it, which waits for nothing", seen).await;
        sending.send_data(Bytes::new(), true).unwrap();
        let answer = tokio::time::timeout(Duration::from_secs(2), response).await;
        assert_eq!(answer.expect("it is waited for").unwrap().status(), 504);
        assert_eq!(field(&silent.seen()[number - 1], "content-length").as_deref(), Some("0"));
    }
    eventually("nothing is in flight", || gateway.inflight(0) == 0).await;
}

#[tokio::test]
async fn a_replica_of_a_request_with_a_length_has_its_own_time() {
    // Were it not known that the request is here, it would be timed by the stream's idle time.
    let replica = Replica::start(|_, _| Act::Hang).await;
    let mut policy = Policy::default();
    policy.timeout.per_try = Duration::from_millis(200);
    policy.timeout.request = Duration::from_millis(400);
    let gateway = Gateway::start(&[replica.address], policy).await;
    let mut sender = connect(&gateway).await;
    let request =
        Request::post("http://gw/orders/").header("content-length", "5").body(whole("hello")).unwrap();
    let answer = tokio::time::timeout(Duration::from_secs(10), sender.send_request(request)).await;
    assert_eq!(answer.expect("it waits for the request's end").unwrap().status(), 504);
}

#[tokio::test]
async fn bodies_of_unknown_length_and_trailers_pass_in_both_directions() {
    let replica = raw_replica(|mut stream| async move {
        let mut request = Vec::new();
        while !request.ends_with(b"0\r\nx-end: 1\r\n\r\n") {
            request.push(stream.read_u8().await.unwrap());
        }
        let request = String::from_utf8(request).unwrap();
        assert!(request.contains("\r\ntransfer-encoding: chunked\r\n"), "{request}");
        assert!(
            request.contains("\r\n\r\n3\r\nabc\r\n0\r\nx-end: 1\r\n"),
            "a forged trailer passed: {request}"
        );
        let answer =
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\ngrpc-status: 0\r\n\r\n";
        stream.write_all(answer.as_bytes()).await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let gateway = Gateway::start(&[replica], Policy::default()).await;
    let mut sender = connect(&gateway).await;
    let mut trailers = HeaderMap::new();
    trailers.insert("x-end", "1".parse().unwrap());
    trailers.insert("x-forwarded-for", "10.0.0.1".parse().unwrap());
    let frames = [Ok::<_, Infallible>(Frame::data(Bytes::from("abc"))), Ok(Frame::trailers(trailers))];
    let stream = StreamBody::new(tokio_stream::iter(frames)).boxed();
    let response =
        sender.send_request(Request::post("http://gw/orders/").body(stream).unwrap()).await.unwrap();
    assert!(!response.headers().contains_key("transfer-encoding"));
    let collected = response.into_body().collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(collected.to_bytes(), "ok");
}

#[tokio::test]
async fn a_response_that_breaks_off_ends_its_stream_with_an_error() {
    let torn = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc";
    let replica = Replica::start(move |_, _| Act::SendAndClose(torn.into())).await;
    let gateway = Gateway::start(&[replica.address], Policy::default()).await;
    let mut sender = connect(&gateway).await;
    let response = sender.send_request(Request::get("http://gw/orders/").body(whole("")).unwrap()).await;
    // The head may have been overtaken by the reset.
    if let Ok(response) = response {
        assert!(response.into_body().collect().await.is_err(), "it looks complete");
    }
}

#[tokio::test]
async fn heads_without_a_body_keep_their_length() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n";
    let replica = Replica::start(move |_, _| Act::Send(answer.into())).await;
    let gateway = Gateway::start(&[replica.address], Policy::default()).await;
    let mut sender = connect(&gateway).await;
    for _ in 0..2 {
        let request = Request::head("http://gw/orders/").body(whole("")).unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.headers()["content-length"], "1000");
        assert_eq!(text(response).await, "");
    }
    assert_eq!(replica.connections(), 1);
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused_in_words_and_counted_and_the_connection_goes_on() {
    let replica = Replica::start(|_, _| ok("fine")).await;
    let gateway = Gateway::start(&[replica.address], Policy::default()).await;
    let mut sender = connect(&gateway).await;
    for (size, expected) in [(60_000, 200), (70_000, 431), (60_000, 200)] {
        let request =
            Request::get("http://gw/orders/").header("x", "y".repeat(size)).body(whole("")).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.status(), expected);
        let told = text(answer).await;
        assert_eq!(told.contains("head_too_large"), expected == 431, "{told}");
    }
    assert_eq!(gateway.refusals(), [("head_too_large", 1)]);
}

#[tokio::test]
async fn what_the_gateway_says_itself_to_a_head_request_has_no_body() {
    let gateway = Gateway::start(&[], Policy::default()).await;
    let mut sender = connect(&gateway).await;
    let request = Request::head("http://gw/nobody/").body(whole("")).unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!((response.status().as_u16(), text(response).await.as_str()), (404, ""));
}
