//! PROXY headers in front of HTTP/1, HTTP/2 and TLS.

use bytes::Bytes;
use data_plane::proxy::{Networks, ProxyConfig, ProxyHeaders};
use gateway_proto::Policy;
use http::Request;
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{Gateway, Replica, field, ok, read_message, status};

fn networks(text: &str) -> Networks {
    Networks::parse(text.split(',')).expect("they are networks")
}

/// Headers from loopback are required; the gateway trusts what clients in 10.0.0.0/8 say of others.
fn required(config: &mut ProxyConfig) {
    config.proxy_headers = Some(ProxyHeaders::new(networks("127.0.0.0/8"), true));
    config.forwarding.trusted = networks("10.0.0.0/8");
}

const STRANGER: &str = "PROXY TCP4 192.0.2.7 127.0.0.1 4711 80\r\n";
const PROXY: &str = "PROXY TCP4 10.0.0.7 127.0.0.1 4711 80\r\n";
const GET: &str = "GET /orders/ HTTP/1.1\r\nhost: gw\r\nx-forwarded-for: 203.0.113.9\r\n\r\n";

#[tokio::test]
async fn whom_a_proxy_header_names_is_the_peer_and_trusted_or_not() {
    let replica = Replica::start(|_, _| ok("hello")).await;
    let gateway = Gateway::start_as(required, &[replica.address], Policy::default()).await;
    for (header, told) in [(STRANGER, "192.0.2.7"), (PROXY, "203.0.113.9, 10.0.0.7")] {
        let mut stream = gateway.connect().await;
        stream.write_all(format!("{header}{GET}").as_bytes()).await.expect("it is open");
        assert_eq!(status(&read_message(&mut stream).await.expect("an answer")), 200);
        // It holds for the whole connection.
        stream.write_all(GET.as_bytes()).await.expect("it is open");
        read_message(&mut stream).await.expect("an answer");
        for seen in &replica.seen()[replica.seen().len() - 2..] {
            assert_eq!(field(seen, "x-forwarded-for").as_deref(), Some(told), "{seen}");
        }
    }
}

#[tokio::test]
async fn http_2_follows_a_proxy_header_as_http_1_does() {
    let replica = Replica::start(|_, _| ok("hello")).await;
    let gateway = Gateway::start_as(required, &[replica.address], Policy::default()).await;
    let mut stream = gateway.connect().await;
    stream.write_all(STRANGER.as_bytes()).await.expect("it is open");
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("HTTP/2");
    tokio::spawn(connection);
    let request = Request::get("http://gw/orders/").body(Empty::<Bytes>::new()).expect("a request");
    assert_eq!(sender.send_request(request).await.expect("an answer").status(), 200);
    assert_eq!(field(&replica.seen()[0], "x-forwarded-for").as_deref(), Some("192.0.2.7"));
}

#[tokio::test]
async fn a_connection_without_its_proxy_header_is_closed_and_nobody_hears_of_it() {
    let replica = Replica::start(|_, _| ok("hello")).await;
    let gateway = Gateway::start_as(required, &[replica.address], Policy::default()).await;
    for bytes in [GET, "PROXY TCP4 192.0.2.7\r\n", "\r\n\r\n\0\r\nQUIT\n\x31"] {
        let mut stream = gateway.connect().await;
        stream.write_all(bytes.as_bytes()).await.expect("it is open");
        let mut answer = Vec::new();
        // With a reset, where it had sent more than was read.
        let _ = stream.read_to_end(&mut answer).await;
        assert_eq!(answer, b"", "{bytes:?}");
    }
    assert_eq!(replica.seen().len(), 0);
}

#[tokio::test]
async fn connections_are_counted_for_whom_their_headers_name_and_not_for_the_load_balancer() {
    let replica = Replica::start(|_, _| ok("hello")).await;
    let configure = |config: &mut ProxyConfig| {
        required(config);
        config.limits.connections_per_address = Some(1);
    };
    let gateway = Gateway::start_as(configure, &[replica.address], Policy::default()).await;
    let ask = async |header: &str| {
        let mut stream = gateway.connect().await;
        stream.write_all(format!("{header}{GET}").as_bytes()).await.expect("it is open");
        let answer = read_message(&mut stream).await;
        (answer.map(|answer| status(&answer)), stream)
    };
    let (first, _kept) = ask(STRANGER).await;
    assert_eq!(first, Some(200));
    assert_eq!(ask(STRANGER).await.0, None, "it has one already");
    let other = STRANGER.replace("192.0.2.7", "192.0.2.8");
    let (second, _kept) = ask(&other).await;
    assert_eq!(second, Some(200), "it is another client");
    let (third, _kept) = ask(PROXY).await;
    let (fourth, _kept) = ask(PROXY).await;
    assert_eq!([third, fourth], [Some(200); 2], "a trusted proxy stands for many");
}
