//! What becomes of connections when the gateway itself is told to end.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test that called it")]

use std::time::{Duration, Instant};

use bytes::Bytes;
use gateway_proto::Policy;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::harness::{Act, Gateway, Replica, body, eventually, field, ok, read_message, status, until};

const GET: &[u8] = b"GET /orders/ HTTP/1.1\r\nhost: gw\r\n\r\n";

/// What a client reads until its connection ends.
async fn rest(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset is an end, too.
    let _ = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut bytes)).await.unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Begins the end, and waits until nobody can connect any more.
async fn refuses_connections(gateway: &Gateway) {
    gateway.shutdown.begin();
    until("it listens no more", async || TcpStream::connect(gateway.listen).await.err()).await;
}

#[tokio::test]
async fn a_client_that_has_an_idle_connection_may_ask_once_more_and_is_told_that_it_was_the_last_time() {
    let replica = Replica::start(|_, _| ok("fine")).await;
    let gateway = Gateway::start(&[replica.address], Policy::default()).await;
    let mut kept = gateway.connect().await;
    kept.write_all(GET).await.unwrap();
    assert_eq!(field(&read_message(&mut kept).await.unwrap(), "connection"), None);
    let fresh = gateway.connect().await;
    // Accepted, and nothing more.
    eventually("both are connected", || gateway.proxy.active().connections == 2).await;
    refuses_connections(&gateway).await;
    for mut stream in [kept, fresh] {
        stream.write_all(GET).await.unwrap();
        let answer = rest(stream).await;
        assert_eq!((status(&answer), body(&answer)), (200, "fine"));
        assert_eq!(field(&answer, "connection").as_deref(), Some("close"));
    }
    gateway.proxy.finished().await.unwrap();
}

#[tokio::test]
async fn clients_that_finish_no_head_do_not_hold_the_end_up() {
    let gateway = Gateway::start(&[], Policy::default()).await;
    let beginnings: [&[u8]; 4] =
        [b"", b"GET /orders/ HTTP/1.1\r\nhost: g", b"PR", b"PRI * HTTP/2.0\r\n\r\nSM"];
    let mut streams = Vec::new();
    for bytes in beginnings {
        let mut stream = gateway.connect().await;
        stream.write_all(bytes).await.unwrap();
        streams.push(stream);
    }
    // One that has nothing to say, and does not answer to what HTTP/2 asks at the end.
    let mut silent = gateway.connect().await;
    silent.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    silent.read_exact(&mut [0; 9]).await.unwrap();
    streams.push(silent);
    eventually("all are connected", || gateway.proxy.active().connections == 5).await;
    let began = Instant::now();
    gateway.shutdown.begin();
    let half_a_head = streams.remove(1);
    let (answer, ended) = tokio::join!(rest(half_a_head), gateway.proxy.finished());
    ended.unwrap();
    assert_eq!(status(&answer), 408, "{answer}");
    assert!(began.elapsed() < Duration::from_secs(7), "not the ten of the drain: {:?}", began.elapsed());
}

#[tokio::test]
async fn a_request_in_flight_has_the_drain_timeout_and_no_more() {
    let replica = Replica::start(|_, _| Act::Hang).await;
    let mut policy = Policy::default();
    (policy.timeout.per_try, policy.timeout.request) = (Duration::from_secs(60), Duration::from_secs(60));
    let gateway = Gateway::start(&[replica.address], policy).await;
    let mut client = gateway.connect().await;
    client.write_all(GET).await.unwrap();
    eventually("the request is under way", || gateway.proxy.active().requests == 1).await;
    let began = Instant::now();
    gateway.shutdown.begin();
    gateway.proxy.finished().await.unwrap();
    assert!((10..14).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    assert_eq!(rest(client).await, "");
}

#[tokio::test]
async fn http_2_clients_are_told_to_go_and_get_what_they_have_asked_for() {
    let replica = Replica::start(|number, _| if number == 0 { Act::Hang } else { ok("fine") }).await;
    let mut policy = Policy::default();
    policy.timeout.per_try = Duration::from_millis(2500);
    let gateway = Gateway::start(&[replica.address], policy).await;
    let stream = TokioIo::new(gateway.connect().await);
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let get = || Request::get("http://gw/orders/").body(Empty::<Bytes>::new()).unwrap();
    let slow = tokio::spawn(sender.send_request(get()));
    eventually("the request is under way", || gateway.proxy.active().requests == 1).await;
    gateway.shutdown.begin();
    // GOAWAY closes the client's side for new requests.
    eventually("the client is told", || sender.is_closed()).await;
    assert!(sender.send_request(get()).await.is_err(), "a new one is for another gateway");
    let answer = slow.await.unwrap().unwrap();
    assert_eq!(answer.status(), 504);
    answer.into_body().collect().await.unwrap();
    connection.await.unwrap().unwrap();
    gateway.proxy.finished().await.unwrap();
}
