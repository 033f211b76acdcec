//! WebSockets and the like from clients in HTTP/2 (RFC 8441): what replicas are asked, and how streams end.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test that called it")]

use std::{io::ErrorKind, time::Duration};

use aws_lc_rs::digest;
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use data_plane::{proxy::Limits, table::Direction};
use gateway_proto::{Policy, policy::Upgrades};
use h2::{
    Reason, RecvStream, SendStream,
    client::{ResponseFuture, SendRequest},
    ext::Protocol,
};
use http::{Method, Request, Response};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};

use crate::{
    harness::{Act, Gateway, Replica, eventually, field, raw_replica, read_message, until},
    tunnels::head,
};

/// A connection of a client, once it knows what the gateway offers.
pub(crate) async fn connect(gateway: &Gateway) -> SendRequest<Bytes> {
    let (sender, connection) = h2::client::handshake(gateway.connect().await).await.unwrap();
    tokio::spawn(connection);
    let sender = sender.ready().await.unwrap();
    eventually("extended CONNECT is offered", || sender.is_extended_connect_protocol_enabled()).await;
    sender
}

/// Asks for a WebSocket or another protocol.
pub(crate) fn ask(
    sender: &mut SendRequest<Bytes>,
    protocol: &'static str,
) -> (ResponseFuture, SendStream<Bytes>) {
    let mut request = Request::connect("http://gw/orders/chat?room=1")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "chat")
        .header("sec-websocket-key", "theirs")
        .header("origin", "http://page");
    request.extensions_mut().unwrap().insert(Protocol::from_static(protocol));
    sender.send_request(request.body(()).unwrap(), false).unwrap()
}

fn accept_of(asked: &str) -> String {
    let key = field(asked, "sec-websocket-key").unwrap();
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()))
}

/// The replica's side of a handshake; yields what it was asked.
async fn shake_hands(stream: &mut TcpStream) -> String {
    let asked = head(stream).await;
    let accept = accept_of(&asked);
    let answer = format!(
        "HTTP/1.1 101 X\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: {accept}\r\n\
         sec-websocket-protocol: chat\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).await.unwrap();
    asked
}

/// A gateway, and both ends of a tunnel through it.
struct Tunnel {
    gateway: Gateway,
    sender: SendRequest<Bytes>,
    answer: Response<()>,
    outgoing: SendStream<Bytes>,
    incoming: RecvStream,
    asked: String,
    replica: TcpStream,
}

impl Tunnel {
    async fn open() -> Self {
        Self::open_within(Limits::default()).await
    }

    async fn open_within(limits: Limits) -> Self {
        let (told, mut streams) = mpsc::channel(1);
        let address = raw_replica(move |mut stream| {
            let told = told.clone();
            async move {
                let asked = shake_hands(&mut stream).await;
                told.send((asked, stream)).await.unwrap();
            }
        })
        .await;
        let gateway = Gateway::start_limited(limits, &[address]).await;
        let mut sender = connect(&gateway).await;
        let (answer, outgoing) = ask(&mut sender, "websocket");
        let (answer, incoming) = answer.await.unwrap().into_parts();
        let answer = Response::from_parts(answer, ());
        let (asked, replica) = streams.recv().await.unwrap();
        Self { gateway, sender, answer, outgoing, incoming, asked, replica }
    }

    async fn is_open(&mut self) {
        self.outgoing.send_data(Bytes::from_static(b"there"), false).unwrap();
        let mut heard = [0; 5];
        self.replica.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"there");
        self.replica.write_all(b"back").await.unwrap();
        assert_eq!(self.hear(4).await, b"back");
    }

    async fn hear(&mut self, count: usize) -> Vec<u8> {
        let mut heard = Vec::new();
        while heard.len() < count {
            let data = self.incoming.data().await.expect("the stream goes on").unwrap();
            self.incoming.flow_control().release_capacity(data.len()).unwrap();
            heard.extend_from_slice(&data);
        }
        heard
    }

    /// Hears a proper end, and nothing before it.
    async fn hears_the_end(&mut self) {
        while let Some(data) = self.incoming.data().await {
            assert!(data.unwrap().is_empty());
        }
    }

    async fn has_ended(&self) {
        eventually("the attempt has ended", || self.gateway.inflight(0) == 0).await;
        assert_eq!(self.gateway.service().tunnels().totals(), (1, 0));
    }
}

#[tokio::test]
async fn an_extended_connect_becomes_an_upgrade_and_the_switch_a_200() {
    let mut tunnel = Tunnel::open().await;
    let asked = &tunnel.asked;
    assert!(asked.starts_with("GET /chat?room=1 HTTP/1.1\r\n"), "{asked}");
    for (name, value) in [
        ("host", Some("gw")),
        ("connection", Some("upgrade")),
        ("upgrade", Some("websocket")),
        ("sec-websocket-version", Some("13")),
        ("sec-websocket-protocol", Some("chat")),
        ("origin", Some("http://page")),
        ("content-length", None),
        ("transfer-encoding", None),
    ] {
        assert_eq!(field(asked, name).as_deref(), value, "{name} in {asked}");
    }
    assert_eq!(asked.matches("sec-websocket-key").count(), 1);
    assert_eq!(field(asked, "sec-websocket-key").unwrap().len(), 24, "sixteen bytes of the gateway's own");
    let answer = &tunnel.answer;
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["sec-websocket-protocol"]),
        (200, &"chat".parse().unwrap())
    );
    for absent in ["sec-websocket-accept", "upgrade", "connection", "content-length"] {
        assert!(!answer.headers().contains_key(absent), "{absent}");
    }
    tunnel.is_open().await;
    assert_eq!((tunnel.gateway.inflight(0), tunnel.gateway.service().tunnels().totals()), (1, (1, 1)));
    assert_eq!(Direction::ALL.map(|way| tunnel.gateway.service().tunnels().bytes(way)), [5, 4]);
}

#[tokio::test]
async fn each_side_of_a_stream_ends_by_itself() {
    let mut tunnel = Tunnel::open().await;
    tunnel.outgoing.send_data(Bytes::from_static(b"all"), true).unwrap();
    let mut heard = Vec::new();
    tunnel.replica.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"all");
    tunnel.replica.write_all(b"a last word").await.unwrap();
    assert_eq!(tunnel.hear(11).await, b"a last word");
    tunnel.replica.shutdown().await.unwrap();
    tunnel.hears_the_end().await;
    tunnel.has_ended().await;

    let mut tunnel = Tunnel::open().await;
    tunnel.replica.shutdown().await.unwrap();
    tunnel.hears_the_end().await;
    tunnel.outgoing.send_data(Bytes::from_static(b"a last word"), true).unwrap();
    let mut heard = Vec::new();
    tunnel.replica.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"a last word");
    tunnel.has_ended().await;
}

#[tokio::test]
async fn a_stream_that_is_reset_breaks_the_replicas_connection_and_the_other_way_round() {
    for reason in [Reason::CANCEL, Reason::INTERNAL_ERROR] {
        let mut tunnel = Tunnel::open().await;
        tunnel.is_open().await;
        tunnel.outgoing.send_reset(reason);
        let ended = tunnel.replica.read(&mut [0]).await;
        assert_eq!(ended.unwrap_err().kind(), ErrorKind::ConnectionReset, "{reason:?}");
        tunnel.has_ended().await;
    }
    let mut tunnel = Tunnel::open().await;
    tunnel.is_open().await;
    socket2::SockRef::from(&tunnel.replica).set_linger(Some(Duration::ZERO)).unwrap();
    drop(tunnel.replica);
    let broken = tunnel.incoming.data().await.expect("it does not look whole").unwrap_err();
    assert_eq!(broken.reason(), Some(Reason::CANCEL));
    eventually("the attempt has ended", || tunnel.gateway.inflight(0) == 0).await;
    // What it was a stream of goes on.
    let request = Request::get("http://gw/nowhere").body(()).unwrap();
    let (answer, _) = tunnel.sender.send_request(request, true).unwrap();
    assert_eq!(answer.await.unwrap().status(), 404);
}

#[tokio::test]
async fn a_connection_with_a_tunnel_is_not_idle_and_outlasts_the_beginning_of_the_gateways_end() {
    let limits = Limits {
        idle_timeout: Duration::from_millis(300),
        linger_timeout: Duration::from_millis(300),
        ..Limits::default()
    };
    let mut tunnel = Tunnel::open_within(limits).await;
    // One that is younger, and idle, has ended by then.
    let mut idle = connect(&tunnel.gateway).await;
    let request = Request::get("http://gw/nowhere").body(()).unwrap();
    let (answer, _) = idle.send_request(request, true).unwrap();
    assert_eq!(answer.await.unwrap().status(), 404);
    until("an idle connection ends", async || idle.clone().ready().await.err()).await;
    tunnel.is_open().await;
    // And so has one that may ask a last time, and does not.
    let mut silent = tunnel.gateway.connect().await;
    silent.write_all(b"GET /nowhere HTTP/1.1\r\nhost: gw\r\n\r\n").await.unwrap();
    assert!(read_message(&mut silent).await.is_some());
    tunnel.gateway.shutdown.begin();
    eventually("nobody is let in", || std::net::TcpStream::connect(tunnel.gateway.listen).is_err()).await;
    // A reset is an end, too.
    let ended = tokio::time::timeout(Duration::from_secs(10), silent.read(&mut [0])).await;
    assert!(matches!(ended.expect("its time is over"), Ok(0) | Err(_)));
    tunnel.is_open().await;
    tunnel.outgoing.send_data(Bytes::new(), true).unwrap();
    tunnel.replica.shutdown().await.unwrap();
    tunnel.hears_the_end().await;
    let finished = tokio::time::timeout(Duration::from_secs(8), tunnel.gateway.proxy.finished()).await;
    finished.expect("it waits for nothing").unwrap();
}

#[tokio::test]
async fn a_client_that_vanishes_breaks_its_tunnels() {
    let tunnel = Tunnel::open().await;
    let (outgoing, incoming, sender) = (tunnel.outgoing, tunnel.incoming, tunnel.sender);
    drop((outgoing, incoming, sender));
    let mut replica = tunnel.replica;
    assert_eq!(replica.read(&mut [0]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    eventually("the attempt has ended", || tunnel.gateway.inflight(0) == 0).await;
}

#[tokio::test]
async fn a_mebibyte_passes_both_ways_at_once_within_the_windows_of_http_2() {
    const MIB: usize = 1 << 20;
    let mut tunnel = Tunnel::open().await;
    let pattern =
        |salt: usize| (0..MIB).map(|at| ((at * 31 + at / 251 + salt) % 256) as u8).collect::<Vec<_>>();
    let (mut reading, mut writing) = tunnel.replica.into_split();
    let mut outgoing = tunnel.outgoing;
    let send = async {
        let mut rest = Bytes::from(pattern(1));
        while !rest.is_empty() {
            outgoing.reserve_capacity(rest.len());
            let count = std::future::poll_fn(|cx| outgoing.poll_capacity(cx)).await.unwrap().unwrap();
            let is_last = count == rest.len();
            outgoing.send_data(rest.split_to(count), is_last).unwrap();
        }
    };
    let hear = async {
        let mut heard = Vec::new();
        reading.read_to_end(&mut heard).await.unwrap();
        assert!(heard == pattern(1));
    };
    let answer = async {
        writing.write_all(&pattern(2)).await.unwrap();
        writing.shutdown().await.unwrap();
    };
    let receive = async {
        let mut heard = Vec::new();
        while let Some(data) = tunnel.incoming.data().await {
            let data = data.unwrap();
            tunnel.incoming.flow_control().release_capacity(data.len()).unwrap();
            heard.extend_from_slice(&data);
        }
        assert!(heard == pattern(2));
    };
    tokio::join!(send, hear, answer, receive);
    eventually("the attempt has ended", || tunnel.gateway.inflight(0) == 0).await;
}

#[tokio::test]
async fn a_drained_replica_breaks_its_streams_at_the_deadline() {
    let mut tunnel = Tunnel::open().await;
    tunnel.gateway.drain(0, Duration::from_millis(100)).await;
    let broken = tunnel.incoming.data().await.expect("it does not look whole").unwrap_err();
    assert_eq!(broken.reason(), Some(Reason::CANCEL));
    tunnel.has_ended().await;
}

/// The status and the body of an answer that is no tunnel.
pub(crate) async fn refusal(answer: ResponseFuture) -> (u16, String) {
    let (parts, mut body) = answer.await.unwrap().into_parts();
    let mut text = Vec::new();
    while let Some(data) = body.data().await {
        text.extend_from_slice(&data.unwrap());
    }
    (parts.status.as_u16(), String::from_utf8(text).unwrap())
}

#[tokio::test]
async fn a_protocol_that_the_policy_does_not_have_is_refused_with_those_that_it_has() {
    let replica = Replica::start(|_, _| Act::Hang).await;
    for allowed in ["websocket", "none"] {
        let mut policy = Policy::default();
        policy.request.upgrades = Upgrades::parse([allowed]).unwrap();
        let gateway = Gateway::start(&[replica.address], policy).await;
        let mut sender = connect(&gateway).await;
        let protocol = if allowed == "none" { "websocket" } else { "connect-udp" };
        let (status, problem) = refusal(ask(&mut sender, protocol).0).await;
        assert_eq!(status, 501, "{problem}");
        assert!(problem.contains("\"reason\":\"protocol_refused\""), "{problem}");
        assert!(problem.contains(&format!("orders lets clients switch to: {allowed}")), "{problem}");
    }
    let gateway = Gateway::start(&[replica.address], Policy::default()).await;
    let mut sender = connect(&gateway).await;
    let plain = Request::builder().method(Method::CONNECT).uri("gw:443").body(()).unwrap();
    let (answer, _outgoing) = sender.send_request(plain, false).unwrap();
    let (status, problem) = refusal(answer).await;
    assert_eq!((status, problem.contains("tunnel_refused")), (405, true), "{problem}");
    assert_eq!(replica.connections(), 0);
}

#[tokio::test]
async fn a_replica_that_does_not_switch_is_heard_but_never_taken_for_a_tunnel() {
    for (answer, expected, said) in [
        ("HTTP/1.1 403 No\r\ncontent-length: 4\r\n\r\nno!!", 403, "no!!"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\npage", 502, "\"reason\":\"not_switched\""),
        ("HTTP/1.1 204 No Content\r\n\r\n", 502, "answered 204"),
        (
            "HTTP/1.1 101 X\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: AAAA\r\n\r\n",
            502,
            "malformed_response",
        ),
        ("HTTP/1.1 101 X\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n", 502, "malformed_response"),
    ] {
        let replica = Replica::start(move |_, _| Act::Send(answer.into())).await;
        let gateway = Gateway::start(&[replica.address], Policy::default()).await;
        let mut sender = connect(&gateway).await;
        let (response, _outgoing) = ask(&mut sender, "websocket");
        let (status, text) = refusal(response).await;
        assert_eq!(status, expected, "{answer:?}: {text}");
        assert!(text.contains(said), "{answer:?}: {text}");
        let failures = u64::from(said == "malformed_response");
        assert_eq!(gateway.service().replicas()[0].counters().failures, failures, "{answer:?}");
        assert_eq!(gateway.service().tunnels().totals(), (0, 0));
        eventually("the attempt has ended", || gateway.inflight(0) == 0).await;
    }
}
