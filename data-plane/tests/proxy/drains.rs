//! What becomes of requests, responses and connections when a replica is drained.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test that called it")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use gateway_proto::{Mode, Policy};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Notify, mpsc},
};

use crate::{
    harness::{
        Act, Gateway, Replica, body, comes_to_rest, eventually, field, ok, raw_replica, read_message, status,
    },
    http2_replicas::{H2Replica, answer, builder, h2c, read},
};

/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(600);
const GET: &[u8] = b"GET /orders/ HTTP/1.1\r\nhost: gw\r\n\r\n";

/// A replica that answers each request in two steps, the second of which the test lets it take, and tells when a
/// connection of its own is closed by the gateway.
struct Slow {
    address: std::net::SocketAddr,
    go_on: Arc<Notify>,
    closed: mpsc::Receiver<()>,
}

impl Slow {
    async fn start(first: &'static str, second: &'static str) -> Self {
        let go_on = Arc::new(Notify::new());
        let (told, closed) = mpsc::channel(16);
        let release = Arc::clone(&go_on);
        let address = raw_replica(move |mut stream: TcpStream| {
            let (go_on, told) = (Arc::clone(&release), told.clone());
            async move {
                while read_message(&mut stream).await.is_some() {
                    stream.write_all(first.as_bytes()).await.unwrap();
                    let mut byte = [0];
                    tokio::select! {
                        () = go_on.notified() => {}
                        // The request is here whole: only an end can come.
                        _ = stream.read(&mut byte) => break,
                    }
                    stream.write_all(second.as_bytes()).await.unwrap();
                }
                told.send(()).await.unwrap();
            }
        })
        .await;
        Self { address, go_on, closed }
    }

    async fn sees_the_end(&mut self) {
        let end = tokio::time::timeout(Duration::from_secs(10), self.closed.recv()).await;
        end.expect("the gateway closes its connection");
    }
}

#[tokio::test]
async fn a_response_under_way_finishes_while_its_replica_is_drained() {
    let mut slow = Slow::start("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfirst", "-last").await;
    let other = Replica::start(|_, _| ok("other")).await;
    let gateway = Gateway::start(&[slow.address, other.address], Policy::default()).await;
    let mut client = gateway.connect().await;
    client.write_all(GET).await.unwrap();
    eventually("the request is under way", || gateway.inflight(0) == 1).await;

    gateway.drain(0, LONG).await;
    for _ in 0..3 {
        assert_eq!(body(&gateway.get("/orders/").await), "other", "nothing new goes there");
    }
    assert_eq!(gateway.inflight(0), 1);
    slow.go_on.notify_one();
    let response = read_message(&mut client).await.unwrap();
    assert_eq!((status(&response), body(&response)), (200, "first-last"));
    eventually("it has ended", || gateway.inflight(0) == 0).await;
    // Its connection is not kept for a next one.
    slow.sees_the_end().await;
}

#[tokio::test]
async fn a_post_in_flight_completes_while_its_replica_is_drained() {
    let slow = Slow::start("", "HTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\nok").await;
    let gateway = Gateway::start(&[slow.address], Policy::default()).await;
    let drain = async {
        eventually("the request is under way", || gateway.inflight(0) == 1).await;
        gateway.drain(0, LONG).await;
        let refused = gateway.post("/orders/", "x").await;
        assert_eq!((status(&refused), refused.contains("no_ready_replica")), (503, true));
        slow.go_on.notify_one();
    };
    let (response, ()) = tokio::join!(gateway.post("/orders/", "x"), drain);
    assert_eq!((status(&response), body(&response)), (201, "ok"));
}

#[tokio::test]
async fn at_the_deadline_a_response_under_way_is_cut_and_nobody_is_blamed() {
    let mut slow = Slow::start("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfirst", "-last").await;
    let gateway = Gateway::start(&[slow.address], Policy::default()).await;
    let mut client = gateway.connect().await;
    client.write_all(GET).await.unwrap();
    eventually("the request is under way", || gateway.inflight(0) == 1).await;
    let began = Instant::now();
    gateway.drain(0, Duration::from_millis(300)).await;
    let mut received = Vec::new();
    // An end or a reset, but no end of the message.
    let _ = client.read_to_end(&mut received).await;
    assert!(began.elapsed() >= Duration::from_millis(250), "it has the time that it was given");
    assert!(String::from_utf8_lossy(&received).ends_with("\r\n\r\nfirst"), "the rest is missing");
    slow.sees_the_end().await;
    eventually("it has ended", || gateway.inflight(0) == 0).await;
    assert_eq!(gateway.service().replicas()[0].counters().failures, 0);
}

#[tokio::test]
async fn a_client_that_reads_nothing_keeps_no_replica_beyond_its_deadline() {
    let (told, mut closed) = mpsc::channel(1);
    let address = raw_replica(move |mut stream| {
        let told = told.clone();
        async move {
            read_message(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000000\r\n\r\n").await.unwrap();
            while stream.write_all(&[b'x'; 64 * 1024]).await.is_ok() {}
            told.send(()).await.unwrap();
        }
    })
    .await;
    let gateway = Gateway::start(&[address], Policy::default()).await;
    let mut client = gateway.connect().await;
    client.write_all(GET).await.unwrap();
    eventually("the request is under way", || gateway.inflight(0) == 1).await;
    gateway.drain(0, Duration::from_millis(300)).await;
    tokio::time::timeout(Duration::from_secs(10), closed.recv()).await.expect("the connection is closed");
    eventually("it has ended", || gateway.inflight(0) == 0).await;
    drop(client);
}

#[tokio::test]
async fn without_a_head_by_the_deadline_a_get_is_asked_elsewhere_and_a_post_is_told_why() {
    let hanging = Replica::start(|_, _| Act::Hang).await;
    let other = Replica::start(|_, _| ok("other")).await;
    let gateway = Gateway::start(&[hanging.address, other.address], Policy::default()).await;
    let drain = async {
        eventually("both are under way", || hanging.seen().len() == 2).await;
        gateway.drain(0, Duration::from_millis(100)).await;
    };
    let get = async {
        let response = gateway.get("/orders/").await;
        assert_eq!((status(&response), body(&response)), (200, "other"));
        assert_eq!(field(&response, "x-gw-attempts").as_deref(), Some("2"));
    };
    let post = async {
        eventually("the GET is there first", || hanging.seen().len() == 1).await;
        assert_eq!(body(&gateway.get("/orders/").await), "other", "whose turn it is");
        let response = gateway.post("/orders/", "x").await;
        assert_eq!(status(&response), 504);
        assert!(body(&response).contains("\"reason\":\"drain_deadline\""), "{response}");
        assert!(field(&response, "proxy-status").unwrap().contains("error=http_response_timeout"));
    };
    tokio::join!(get, post, drain);
    assert_eq!(other.seen().len(), 2, "the POST went nowhere else");
    assert_eq!((gateway.inflight(0), gateway.service().replicas()[0].counters().failures), (0, 0));
}

#[tokio::test]
async fn idle_connections_to_a_draining_replica_are_closed_at_once() {
    let (told, mut closed) = mpsc::channel(16);
    let address = raw_replica(move |mut stream| {
        let told = told.clone();
        async move {
            while read_message(&mut stream).await.is_some() {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            }
            told.send(()).await.unwrap();
        }
    })
    .await;
    let gateway = Gateway::start(&[address], Policy::default()).await;
    assert_eq!(status(&gateway.get("/orders/").await), 200);
    gateway.drain(0, LONG).await;
    tokio::time::timeout(Duration::from_secs(10), closed.recv()).await.expect("the connection is closed");

    gateway.respecify(0, |spec| spec.mode = Mode::Serving).await;
    assert_eq!(status(&gateway.get("/orders/").await), 200, "it is back");
}

#[tokio::test]
async fn an_undrained_replica_finishes_what_it_has_whenever_that_is() {
    let first = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfirst";
    let [undrained, mut drained] = [Slow::start(first, "-last").await, Slow::start(first, "-last").await];
    let gateway = Gateway::start(&[undrained.address, drained.address], Policy::default()).await;
    let mut clients = [gateway.connect().await, gateway.connect().await];
    for (index, client) in clients.iter_mut().enumerate() {
        client.write_all(GET).await.unwrap();
        eventually("the request is under way", || gateway.inflight(index) == 1).await;
    }
    let time = Duration::from_secs(1);
    gateway.drain(0, time).await;
    gateway.drain(1, time).await;
    gateway.respecify(0, |spec| (spec.mode, spec.drain_deadline) = (Mode::Serving, None)).await;
    // By then the first one's deadline would have passed, too.
    drained.sees_the_end().await;
    undrained.go_on.notify_one();
    assert_eq!(body(&read_message(&mut clients[0]).await.unwrap()), "first-last");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_arrives_once_all_workers_have_taken_the_drain_on_and_nothing_is_in_flight() {
    let drained = Replica::start(|_, _| ok("drained")).await;
    let other = Replica::start(|_, _| ok("other")).await;
    let gateway =
        Arc::new(Gateway::start_with(2, &[drained.address, other.address], Policy::default()).await);
    let sent = Arc::new(AtomicUsize::new(0));
    let is_over = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let (gateway, sent, is_over) = (Arc::clone(&gateway), Arc::clone(&sent), Arc::clone(&is_over));
            tokio::spawn(async move {
                let mut client = gateway.connect().await;
                while !is_over.load(SeqCst) {
                    client.write_all(GET).await.unwrap();
                    let response = read_message(&mut client).await.unwrap();
                    assert_eq!(status(&response), 200);
                    sent.fetch_add(1, SeqCst);
                }
            })
        })
        .collect();
    for _ in 0..10 {
        let before = sent.load(SeqCst);
        eventually("traffic flows", || sent.load(SeqCst) > before + 50).await;
        gateway.drain(0, LONG).await;
        while gateway.inflight(0) > 0 {
            tokio::task::yield_now().await;
        }
        let seen = drained.seen().len();
        let before = sent.load(SeqCst);
        eventually("traffic flows", || sent.load(SeqCst) > before + 50).await;
        assert_eq!(drained.seen().len(), seen, "a request came after the drain");
        gateway.respecify(0, |spec| spec.mode = Mode::Serving).await;
    }
    is_over.store(true, SeqCst);
    for client in clients {
        client.await.unwrap();
    }
}

/// A replica that takes whatever its windows let it, and reads nothing behind the first bytes before it is told to. Tells how
/// many requests' heads have come, once a connection has ended.
async fn deaf(go_on: Arc<Notify>, told: mpsc::UnboundedSender<usize>) -> std::net::SocketAddr {
    raw_replica(move |mut stream| {
        let (go_on, told) = (Arc::clone(&go_on), told.clone());
        async move {
            stream.read_exact(&mut [0; 24]).await.unwrap();
            // SETTINGS with the largest window there is for each stream, and as much for the connection.
            let settings = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0x7f, 0xff, 0xff, 0xff];
            stream.write_all(&settings).await.unwrap();
            let window = (0x7fff_ffff_u32 - 65_535).to_be_bytes();
            stream.write_all(&[&[0, 0, 4, 8, 0, 0, 0, 0, 0], &window[..]].concat()).await.unwrap();
            go_on.notified().await;
            let (mut head, mut heads) = ([0; 9], 0);
            while stream.read_exact(&mut head).await.is_ok() {
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
                heads += usize::from(head[3] == 1);
                if stream.read_exact(&mut vec![0; length as usize]).await.is_err() {
                    break;
                }
            }
            told.send(heads).unwrap();
        }
    })
    .await
}

#[tokio::test]
async fn what_still_lies_in_the_gateway_when_a_drain_is_over_never_goes_out_and_is_asked_of_another() {
    let go_on = Arc::new(Notify::new());
    let (told, mut heads) = mpsc::unbounded_channel();
    let full = deaf(Arc::clone(&go_on), told).await;
    let taking = H2Replica::start(builder(), |_, body, answering| async move {
        read(body).await;
        answer(answering, "taken").await;
    })
    .await;
    let endpoints = vec![h2c(full), taking.endpoint()];
    let gateway = Arc::new(Gateway::start_to(endpoints, Arc::default(), Policy::default()));
    gateway.respecify(1, |spec| spec.mode = Mode::Draining).await;
    // Fills the socket of the one connection.
    let mut upload = gateway.connect().await;
    let head = format!("POST /orders/x HTTP/1.1\r\nhost: gw\r\ncontent-length: {}\r\n\r\n", 1 << 30);
    upload.write_all(head.as_bytes()).await.unwrap();
    let written = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&written);
    let uploading = tokio::spawn(async move {
        while upload.write_all(&[b'x'; 16 * 1024]).await.is_ok() {
            count.fetch_add(1, SeqCst);
        }
    });
    comes_to_rest(|| written.load(SeqCst)).await;
    let asking = Arc::clone(&gateway);
    let asked = tokio::spawn(async move { asking.post("/orders/x", "paid once").await });
    eventually("it is under way, too", || gateway.inflight(0) == 2).await;
    gateway.respecify(1, |spec| spec.mode = Mode::Serving).await;
    gateway.drain(0, Duration::from_millis(100)).await;
    let response = asked.await.unwrap();
    uploading.abort();
    assert_eq!(status(&response), 200, "{response}");
    assert!(body(&response).contains("taken"), "{response}");
    assert_eq!(taking.count(), 1);
    go_on.notify_one();
    assert_eq!(heads.recv().await, Some(1), "of two requests one was written");
}
