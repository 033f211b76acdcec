//! What passes once the protocol was switched, and how it ends: two sockets, and whatever each does.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test that called it")]

use std::{
    io::ErrorKind,
    net::SocketAddr,
    time::{Duration, Instant},
};

use data_plane::table::Direction;
use gateway_proto::Policy;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};

use crate::harness::{Gateway, eventually, raw_replica, status};

/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(600);
const MIB: usize = 1 << 20;

/// A client's handshake.
pub(crate) const ASK: &str = "GET /orders/chat?room=1 HTTP/1.1\r\nhost: gw\r\nconnection: keep-alive, Upgrade\r\n\
                              upgrade: WebSocket\r\nsec-websocket-key: a2V5\r\nsec-websocket-version: 13\r\n\
                              sec-websocket-protocol: chat\r\norigin: http://page\r\n\r\n";
/// A replica's answer.
pub(crate) const SWITCH: &str = "HTTP/1.1 101 Switching\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                                 sec-websocket-accept: YWNjZXB0\r\nsec-websocket-protocol: chat\r\n\r\n";

/// A message's head, and not a byte more.
pub(crate) async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("the head is whole"));
    }
    String::from_utf8(head).unwrap()
}

/// A replica that switches with this answer and goes on as told, and the heads that it got.
pub(crate) async fn switching<F: Future<Output = ()> + Send + 'static>(
    answer: &'static str,
    then: impl Fn(TcpStream) -> F + Send + Sync + Clone + 'static,
) -> (SocketAddr, mpsc::Receiver<String>) {
    let (told, heads) = mpsc::channel(16);
    let address = raw_replica(move |mut stream| {
        let (told, then) = (told.clone(), then.clone());
        async move {
            told.send(head(&mut stream).await).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            then(stream).await;
        }
    })
    .await;
    (address, heads)
}

/// A gateway, and both ends of a tunnel through it.
struct Tunnel {
    gateway: Gateway,
    client: TcpStream,
    replica: TcpStream,
}

impl Tunnel {
    async fn open(policy: Policy) -> Self {
        let (told, mut streams) = mpsc::channel(1);
        let (address, _heads) = switching(SWITCH, move |stream| {
            let told = told.clone();
            async move { told.send(stream).await.unwrap() }
        })
        .await;
        let gateway = Gateway::start(&[address], policy).await;
        let mut client = gateway.connect().await;
        client.write_all(ASK.as_bytes()).await.unwrap();
        assert_eq!(status(&head(&mut client).await), 101);
        Self { gateway, client, replica: streams.recv().await.unwrap() }
    }

    async fn is_open(&mut self) {
        says(&mut self.client, &mut self.replica, b"there").await;
        says(&mut self.replica, &mut self.client, b"back").await;
    }

    async fn has_ended(&self) {
        eventually("the attempt has ended", || self.gateway.inflight(0) == 0).await;
        assert_eq!(self.gateway.service().tunnels().totals(), (1, 0));
    }
}

/// One says it and the other one hears it.
async fn says(from: &mut TcpStream, to: &mut TcpStream, bytes: &[u8]) {
    from.write_all(bytes).await.unwrap();
    let mut heard = vec![0; bytes.len()];
    tokio::time::timeout(Duration::from_secs(10), to.read_exact(&mut heard))
        .await
        .expect("it arrives")
        .unwrap();
    assert_eq!(heard, bytes);
}

fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// How a side finds its connection ended, with what came before.
pub(crate) async fn end(stream: &mut TcpStream) -> (Vec<u8>, Result<(), ErrorKind>) {
    let mut bytes = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut bytes));
    let ended = ended.await.expect("it ends").map(drop).map_err(|error| error.kind());
    (bytes, ended)
}

#[tokio::test]
async fn bytes_that_came_early_on_either_side_are_the_first_of_the_tunnel() {
    const EARLY: &str = "HTTP/1.1 101 X\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nfrom the replica";
    let (address, _heads) = switching(EARLY, |mut stream| async move {
        let mut heard = [0; 15];
        stream.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"from the client");
        stream.write_all(b", heard").await.unwrap();
    })
    .await;
    let gateway = Gateway::start(&[address], Policy::default()).await;
    let mut client = gateway.connect().await;
    client.write_all(format!("{ASK}from the client").as_bytes()).await.unwrap();
    assert_eq!(status(&head(&mut client).await), 101);
    assert_eq!(end(&mut client).await, (b"from the replica, heard".to_vec(), Ok(())));
}

#[tokio::test]
async fn heads_in_single_bytes_are_the_same_handshake() {
    let address = raw_replica(|mut stream| async move {
        head(&mut stream).await;
        stream.set_nodelay(true).unwrap();
        for byte in [SWITCH, "tail"].concat().bytes() {
            stream.write_all(&[byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        let mut heard = [0; 4];
        stream.read_exact(&mut heard).await.unwrap();
        stream.write_all(&heard).await.unwrap();
    })
    .await;
    let gateway = Gateway::start(&[address], Policy::default()).await;
    let mut client = gateway.connect().await;
    client.set_nodelay(true).unwrap();
    for byte in [ASK, "body"].concat().bytes() {
        client.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(status(&head(&mut client).await), 101);
    assert_eq!(end(&mut client).await, (b"tailbody".to_vec(), Ok(())));
}

#[tokio::test]
async fn who_has_said_all_still_hears_the_other_side() {
    let mut tunnel = Tunnel::open(Policy::default()).await;
    tunnel.is_open().await;
    tunnel.client.shutdown().await.unwrap();
    assert_eq!(end(&mut tunnel.replica).await, (vec![], Ok(())));
    says(&mut tunnel.replica, &mut tunnel.client, b"a last word").await;
    drop(tunnel.replica);
    assert_eq!(end(&mut tunnel.client).await, (vec![], Ok(())));
    eventually("the attempt has ended", || tunnel.gateway.inflight(0) == 0).await;

    let mut tunnel = Tunnel::open(Policy::default()).await;
    tunnel.replica.shutdown().await.unwrap();
    assert_eq!(end(&mut tunnel.client).await, (vec![], Ok(())));
    says(&mut tunnel.client, &mut tunnel.replica, b"a last word").await;
    assert_eq!(tunnel.gateway.inflight(0), 1);
    tunnel.client.shutdown().await.unwrap();
    assert_eq!(end(&mut tunnel.replica).await, (vec![], Ok(())));
    tunnel.has_ended().await;
}

#[tokio::test]
async fn a_side_that_breaks_off_breaks_the_other() {
    let mut tunnel = Tunnel::open(Policy::default()).await;
    tunnel.is_open().await;
    reset(tunnel.replica);
    assert_eq!(end(&mut tunnel.client).await.1, Err(ErrorKind::ConnectionReset));
    eventually("the attempt has ended", || tunnel.gateway.inflight(0) == 0).await;
    assert_eq!(tunnel.gateway.service().replicas()[0].counters().failures, 0, "the verdict had fallen");

    let mut tunnel = Tunnel::open(Policy::default()).await;
    tunnel.is_open().await;
    reset(tunnel.client);
    assert_eq!(end(&mut tunnel.replica).await.1, Err(ErrorKind::ConnectionReset));
    eventually("the attempt has ended", || tunnel.gateway.inflight(0) == 0).await;
}

#[tokio::test]
async fn what_a_replica_says_before_it_closes_arrives_however_much_its_client_still_sends() {
    let tunnel = Tunnel::open(Policy::default()).await;
    let (mut client, mut replica) = (tunnel.client, tunnel.replica);
    replica.write_all(b"goodbye").await.unwrap();
    replica.shutdown().await.unwrap();
    assert_eq!(end(&mut client).await, (b"goodbye".to_vec(), Ok(())));
    // With something unread, which is a reset.
    client.write_all(b"and another thing").await.unwrap();
    replica.readable().await.unwrap();
    drop(replica);
    eventually("the attempt has ended", || tunnel.gateway.inflight(0) == 0).await;
}

#[tokio::test]
async fn a_mebibyte_passes_both_ways_at_once_however_slowly_it_is_read() {
    let tunnel = Tunnel::open(Policy::default()).await;
    let pattern =
        |salt: usize| (0..MIB).map(|at| ((at * 31 + at / 251 + salt) % 256) as u8).collect::<Vec<_>>();
    let slow = |stream: TcpStream, own: Vec<u8>, theirs: Vec<u8>| async move {
        let (mut reading, mut writing) = stream.into_split();
        let write = async {
            writing.write_all(&own).await.unwrap();
            writing.shutdown().await.unwrap();
        };
        let read = async {
            let mut heard = Vec::new();
            let mut piece = [0; 1777];
            loop {
                match reading.read(&mut piece).await.unwrap() {
                    0 => break,
                    count => heard.extend_from_slice(&piece[..count]),
                }
                tokio::task::yield_now().await;
            }
            assert!(heard == theirs, "{} bytes came, and not those that were sent", heard.len());
        };
        tokio::join!(write, read);
    };
    let client = slow(tunnel.client, pattern(1), pattern(2));
    tokio::join!(client, slow(tunnel.replica, pattern(2), pattern(1)));
    eventually("the attempt has ended", || tunnel.gateway.inflight(0) == 0).await;
    let service = tunnel.gateway.service();
    assert_eq!(Direction::ALL.map(|direction| service.tunnels().bytes(direction)), [MIB as u64; 2]);
}

#[tokio::test]
async fn who_does_not_read_holds_back_who_sends() {
    let mut tunnel = Tunnel::open(Policy::default()).await;
    let mut sent = 0;
    let piece = vec![0; 64 * 1024];
    // As long as anything is taken.
    while let Ok(count) = tokio::time::timeout(Duration::from_millis(500), tunnel.client.write(&piece)).await
    {
        sent += count.unwrap();
        assert!(sent < 64 * MIB, "it is all somewhere");
    }
    let service = tunnel.gateway.service();
    let passed = usize::try_from(service.tunnels().bytes(Direction::Upstream)).unwrap();
    assert!(passed > 0 && passed < sent);
    let mut heard = 0;
    let mut buffer = vec![0; 64 * 1024];
    while heard < sent {
        heard += tunnel.replica.read(&mut buffer).await.unwrap();
    }
    assert_eq!(heard, sent, "nothing is lost by it");
}

#[tokio::test]
async fn an_idle_tunnel_is_closed_on_both_sides_and_one_that_moves_is_not() {
    let mut policy = Policy::default();
    policy.timeout.tunnel_idle = Duration::from_secs(1);
    policy.timeout.stream_idle = Duration::from_millis(100);
    let mut tunnel = Tunnel::open(policy).await;
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(1500) {
        tunnel.is_open().await;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let moved = Instant::now();
    assert_eq!(end(&mut tunnel.client).await, (vec![], Ok(())));
    assert!(moved.elapsed() >= Duration::from_millis(600), "it has all of its time");
    assert_eq!(end(&mut tunnel.replica).await, (vec![], Ok(())));
    tunnel.has_ended().await;
}

#[tokio::test]
async fn a_drained_replica_keeps_its_tunnels_until_the_deadline_and_then_they_break() {
    let mut tunnel = Tunnel::open(Policy::default()).await;
    tunnel.gateway.drain(0, LONG).await;
    tunnel.is_open().await;
    tunnel.gateway.drain(0, Duration::from_millis(200)).await;
    assert_eq!(end(&mut tunnel.client).await.1, Err(ErrorKind::ConnectionReset));
    assert_eq!(end(&mut tunnel.replica).await.1, Err(ErrorKind::ConnectionReset));
    tunnel.has_ended().await;
    assert_eq!(tunnel.gateway.service().replicas()[0].counters().failures, 0);
}

#[tokio::test]
async fn a_client_that_reads_nothing_keeps_no_tunnel_beyond_its_replicas_deadline() {
    let mut tunnel = Tunnel::open(Policy::default()).await;
    let piece = vec![0; 64 * 1024];
    while tokio::time::timeout(Duration::from_millis(300), tunnel.replica.write(&piece)).await.is_ok() {}
    tunnel.gateway.drain(0, Duration::from_millis(100)).await;
    tunnel.has_ended().await;
}

#[tokio::test]
async fn a_gateway_that_ends_lets_its_tunnels_go_on_until_they_end() {
    let mut tunnel = Tunnel::open(Policy::default()).await;
    tunnel.gateway.shutdown.begin();
    eventually("nobody is let in", || std::net::TcpStream::connect(tunnel.gateway.listen).is_err()).await;
    tunnel.is_open().await;
    let Tunnel { gateway, mut client, mut replica } = tunnel;
    let finished = tokio::spawn(gateway.proxy.finished());
    says(&mut client, &mut replica, b"still there").await;
    assert!(!finished.is_finished());
    drop(client);
    assert_eq!(end(&mut replica).await, (vec![], Ok(())));
    drop(replica);
    tokio::time::timeout(Duration::from_secs(8), finished)
        .await
        .expect("it waits for nothing")
        .unwrap()
        .unwrap();
}
