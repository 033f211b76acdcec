//! WebSockets and the like to replicas that speak HTTP/2 (RFC 8441).

#![expect(clippy::unwrap_used, reason = "what fails here fails the test that called it")]

use std::sync::Arc;

use bytes::Bytes;
use gateway_proto::{Address, Endpoint, Policy};
use h2::{
    Reason, RecvStream,
    ext::Protocol,
    server::{self, SendResponse},
};
use http::{Response, request::Parts};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    connects::{ask, connect, refusal},
    harness::{Gateway, Replica, body, eventually, field, reason, respond, status},
    http2_replicas::H2Replica,
    tunnels::head,
};

/// The key of RFC 6455 section 1.3, and what it is answered with.
const ASK: &str = "GET /orders/chat?room=1 HTTP/1.1\r\nhost: gw\r\nconnection: keep-alive, Upgrade\r\nupgrade: WebSocket\r\n\
                   sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\nsec-websocket-protocol: chat\r\n\r\n";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

pub(crate) fn takes_connects() -> server::Builder {
    let mut builder = server::Builder::new();
    builder.enable_connect_protocol();
    builder
}

/// Accepts and says back what it hears; "reset" and "bye" have it do so.
async fn echo(_: usize, mut hears: RecvStream, mut answering: SendResponse<Bytes>) {
    let accepted = Response::builder().header("sec-websocket-protocol", "chat").body(()).unwrap();
    let mut says = answering.send_response(accepted, false).unwrap();
    while let Some(Ok(data)) = hears.data().await {
        let _ = hears.flow_control().release_capacity(data.len());
        match &data[..] {
            b"reset" => return says.send_reset(Reason::INTERNAL_ERROR),
            b"bye" => return says.send_data(data, true).unwrap(),
            _ => says.send_data(data, false).unwrap(),
        }
    }
    let _ = says.send_data(Bytes::new(), true);
}

pub(crate) fn gateway(replica: &H2Replica) -> Gateway {
    Gateway::start_to(vec![replica.endpoint()], Arc::default(), Policy::default())
}

async fn switched(gateway: &Gateway) -> (TcpStream, String) {
    let mut client = gateway.connect().await;
    client.write_all(ASK.as_bytes()).await.unwrap();
    let answer = head(&mut client).await;
    assert_eq!(status(&answer), 101, "{answer}");
    (client, answer)
}

async fn is_echoed(client: &mut TcpStream, text: &str) {
    client.write_all(text.as_bytes()).await.unwrap();
    let mut heard = vec![0; text.len()];
    client.read_exact(&mut heard).await.unwrap();
    assert_eq!(heard, text.as_bytes());
}

fn is_asked_rightly(asked: &Parts) {
    assert_eq!((asked.method.as_str(), asked.uri.to_string().as_str()), ("CONNECT", "http://gw/chat?room=1"));
    assert_eq!(asked.extensions.get::<Protocol>().map(Protocol::as_str), Some("websocket"));
    assert_eq!(asked.headers["sec-websocket-version"], "13");
    assert_eq!(asked.headers["sec-websocket-protocol"], "chat");
    for absent in ["sec-websocket-key", "connection", "upgrade", "content-length", "host"] {
        assert!(!asked.headers.contains_key(absent), "{absent}");
    }
}

#[tokio::test]
async fn an_upgrade_becomes_an_extended_connect_and_its_200_a_101_with_the_answer_to_the_clients_key() {
    let replica = H2Replica::start(takes_connects(), echo).await;
    let gateway = gateway(&replica);
    let (mut client, answer) = switched(&gateway).await;
    for (name, value) in [
        ("upgrade", "websocket"),
        ("connection", "upgrade"),
        ("sec-websocket-accept", ACCEPT),
        ("sec-websocket-protocol", "chat"),
    ] {
        assert_eq!(field(&answer, name).as_deref(), Some(value), "{name} in {answer}");
    }
    is_asked_rightly(&replica.seen()[0]);
    is_echoed(&mut client, "there and back").await;
    assert_eq!((gateway.inflight(0), gateway.service().tunnels().totals()), (1, (1, 1)));

    // Others share the connection, requests included.
    let (mut second, _) = switched(&gateway).await;
    is_echoed(&mut second, "me, too").await;
    assert_eq!(replica.connections(), 1);
    drop((client, second));
    eventually("the attempts have ended", || gateway.inflight(0) == 0).await;
    assert_eq!(gateway.service().tunnels().totals(), (2, 0));
}

#[tokio::test]
async fn an_extended_connect_goes_on_as_one() {
    let replica = H2Replica::start(takes_connects(), echo).await;
    let gateway = gateway(&replica);
    let mut sender = connect(&gateway).await;
    let (answer, mut outgoing) = ask(&mut sender, "websocket");
    let mut answer = answer.await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["sec-websocket-protocol"]),
        (200, &"chat".parse().unwrap())
    );
    assert!(!answer.headers().contains_key("sec-websocket-accept"));
    is_asked_rightly(&replica.seen()[0]);
    outgoing.send_data(Bytes::from_static(b"hello"), false).unwrap();
    assert_eq!(answer.body_mut().data().await.unwrap().unwrap(), "hello");
    outgoing.send_data(Bytes::new(), true).unwrap();
    while let Some(data) = answer.body_mut().data().await {
        assert!(data.unwrap().is_empty(), "a proper end");
    }
    eventually("the attempt has ended", || gateway.inflight(0) == 0).await;
}

#[tokio::test]
async fn each_side_ends_by_itself_and_breaks_the_other_one_when_it_breaks() {
    let replica = H2Replica::start(takes_connects(), echo).await;
    let gateway = gateway(&replica);
    // The replica has said all: the client hears the end.
    let (mut client, _) = switched(&gateway).await;
    client.write_all(b"bye").await.unwrap();
    let mut heard = Vec::new();
    client.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"bye");
    drop(client);
    // The client has: the replica hears it and ends, too.
    let (mut client, _) = switched(&gateway).await;
    client.shutdown().await.unwrap();
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    // The replica breaks: the client's connection does.
    let (mut client, _) = switched(&gateway).await;
    client.write_all(b"reset").await.unwrap();
    let broken = client.read(&mut [0]).await;
    assert_eq!(broken.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    eventually("the attempts have ended", || gateway.inflight(0) == 0).await;
    assert_eq!(gateway.service().tunnels().totals(), (3, 0));
}

#[tokio::test]
async fn a_mebibyte_passes_both_ways_within_the_windows() {
    let replica = H2Replica::start(takes_connects(), echo).await;
    let gateway = gateway(&replica);
    let (client, _) = switched(&gateway).await;
    let (mut reads, mut writes) = client.into_split();
    let said: Vec<u8> = (0..1 << 20).map(|number: u32| (number / 7) as u8).collect();
    let sending = said.clone();
    let sent = tokio::spawn(async move { writes.write_all(&sending).await.map(|()| writes) });
    let mut heard = vec![0; said.len()];
    reads.read_exact(&mut heard).await.unwrap();
    assert!(heard == said);
    sent.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_refusal_is_an_ordinary_answer_and_no_tunnel() {
    let refuse = |_, _, mut answering: SendResponse<Bytes>| async move {
        let answer = Response::builder().status(403).body(()).unwrap();
        let mut body = answering.send_response(answer, false).unwrap();
        body.send_data(Bytes::from_static(b"no!!"), true).unwrap();
    };
    let replica = H2Replica::start(takes_connects(), refuse).await;
    let gateway = gateway(&replica);
    let answer = gateway.send(&ASK.replace("keep-alive, Upgrade", "close, Upgrade")).await;
    assert_eq!(status(&answer), 403, "{answer}");
    assert!(answer.contains("no!!"), "{answer}");
    let mut sender = connect(&gateway).await;
    let (answer, _outgoing) = ask(&mut sender, "websocket");
    assert_eq!(refusal(answer).await, (403, "no!!".into()));
    assert_eq!(gateway.service().tunnels().totals(), (0, 0));
    assert_eq!(gateway.service().replicas()[0].counters().failures, 0);
    eventually("the attempts have ended", || gateway.inflight(0) == 0).await;
}

#[tokio::test]
async fn a_replica_that_takes_no_extended_connect_is_not_asked_but_another_is() {
    let deaf = H2Replica::start(server::Builder::new(), echo).await;
    let gateway = gateway(&deaf);
    let answer = gateway.send(ASK).await;
    assert_eq!((status(&answer), reason(&answer).as_str()), (501, "cannot_switch"), "{answer}");
    assert!(deaf.seen().is_empty());
    let replica = gateway.service().replicas()[0].counters();
    assert_eq!(replica.failures, 0);

    let hearing = Replica::start(|_, _| respond(403, "heard")).await;
    let address = Address::parse(&hearing.address.to_string()).unwrap();
    let endpoints: Vec<Endpoint> = vec![deaf.endpoint(), address.into()];
    let gateway = Gateway::start_to(endpoints, Arc::default(), Policy::default());
    for _ in 0..2 {
        let answer = gateway.send(&ASK.replace("keep-alive, Upgrade", "close, Upgrade")).await;
        assert_eq!((status(&answer), body(&answer)), (403, "heard"), "{answer}");
    }
}
