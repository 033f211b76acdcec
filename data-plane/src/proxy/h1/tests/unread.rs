//! Long bodies pass through pipes that nobody reads: as they are, to whom they belong, and without an end where there is none.

use std::{
    cell::RefCell,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use gateway_proto::{Address, Mode, Policy};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Semaphore,
    task::{JoinSet, LocalSet, spawn_local},
};
use tokio_util::task::TaskTracker;

use super::super::pipes::{CAPACITY, MAX_PIPES, MIN_LENGTH, PipeCounts, Pipes};
use crate::{
    clock::Clock,
    proxy::{
        forward::forward,
        worker::{Worker, accept, drain, listener::Listener, tests::worker_as},
    },
    table::{ReplicaSpec, ServiceSpec, Table},
};

const MIN: usize = MIN_LENGTH as usize;

/// A body like no other.
fn body(seed: usize, length: usize) -> Vec<u8> {
    (0..length).map(|index| (index * 31 + index / 251 + seed * 7) as u8).collect()
}

/// What a replica does behind so many bytes of its body.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Then {
    Close,
    Reset,
    /// It says what nobody has asked for.
    SayMore,
}

/// A worker before one replica, both on this thread.
struct Setup {
    worker: Rc<Worker>,
    gateway: SocketAddr,
    table: Arc<Table>,
    /// Connections to the replica.
    accepted: Rc<RefCell<usize>>,
}

impl Setup {
    /// Before a replica that answers `/SEED/LENGTH` with such a body, unless it is to do something else after so many bytes.
    async fn new(policy: Policy, unless: Option<(usize, Then)>) -> Self {
        let replica = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (table, _) = Table::new(1);
        let address = Address::parse(&replica.local_addr().unwrap().to_string()).unwrap();
        let replicas = vec![ReplicaSpec::listed("r-0".parse().unwrap(), address)];
        let orders = ServiceSpec { name: "orders".parse().unwrap(), policy, replicas };
        table.apply(&[orders], &[], Clock::new().now());
        let accepted = Rc::new(RefCell::new(0));
        let count = Rc::clone(&accepted);
        spawn_local(async move {
            loop {
                let (stream, _) = replica.accept().await.unwrap();
                *count.borrow_mut() += 1;
                spawn_local(converse(stream, unless));
            }
        });
        let (worker, _) = worker_as(Arc::clone(&table), |_| {});
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gateway = listener.local_addr().unwrap();
        let accepting = Rc::clone(&worker);
        spawn_local(async move {
            let listeners = [Listener::new(listener, None, accepting.limits())];
            let places = Arc::new(Semaphore::new(99));
            accept(&accepting, &listeners, &places, &TaskTracker::new(), forward).await
        });
        Self { worker, gateway, table, accepted }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.gateway).await.unwrap()
    }

    /// A client with little room for what it does not read.
    async fn connect_narrow(&self) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(8 * 1024).unwrap();
        socket.connect(self.gateway).await.unwrap()
    }

    /// Drains the replica: nothing has any time left.
    fn drain(&self) {
        let orders = self.table.service("orders").unwrap();
        let mut spec = orders.replicas()[0].spec().clone();
        spec.mode = Mode::Draining;
        spec.drain_deadline = Some(SystemTime::now());
        let (name, policy) = (orders.name().clone(), *orders.policy());
        self.table.apply(
            &[ServiceSpec { name, policy, replicas: vec![spec] }],
            &[],
            self.worker.clock().now(),
        );
        let (worker, follower) = (Rc::clone(&self.worker), self.table.follow_drains(0));
        spawn_local(self.worker.timed(async move { drain::follow(&worker, follower).await }));
    }

    fn failures(&self) -> u64 {
        self.table.service("orders").unwrap().replicas()[0].counters().failures
    }

    /// Pipes that are open, bytes that have passed through pipes, and times that there was none.
    fn counts(&self) -> [u64; 3] {
        self.worker.buffers().pipes().counts().read()
    }

    /// Closes all pipes but those with bytes in them, and counts these.
    fn held(&self) -> u64 {
        let pipes = self.worker.buffers().pipes();
        pipes.sweep();
        pipes.sweep();
        self.counts()[0]
    }
}

async fn converse(mut stream: TcpStream, unless: Option<(usize, Then)>) {
    let mut bytes = Vec::new();
    loop {
        while !bytes.ends_with(b"\r\n\r\n") {
            if !matches!(stream.read_buf(&mut bytes).await, Ok(1..)) {
                return;
            }
        }
        let request = String::from_utf8(std::mem::take(&mut bytes)).unwrap();
        let mut numbers = request.split(['/', ' ']).skip(2).map(|number| number.parse().unwrap());
        let (seed, length): (usize, usize) = (numbers.next().unwrap(), numbers.next().unwrap());
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
        let sent = unless.map_or(length, |(sent, _)| sent);
        let mut answer = [head.as_bytes(), &body(seed, length)[..sent]].concat();
        let then = unless.map(|(_, then)| then);
        if then == Some(Then::SayMore) {
            answer.extend_from_slice(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        }
        let sent = stream.write_all(&answer).await;
        if then == Some(Then::Reset) {
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
        if sent.is_err() || matches!(then, Some(Then::Close | Then::Reset)) {
            return;
        }
    }
}

fn get(seed: usize, length: usize) -> String {
    format!("GET /orders/{seed}/{length} HTTP/1.1\r\nhost: gw\r\n\r\n")
}

/// Reads the head of an answer, and not a byte more.
async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("the connection ended without an answer"));
    }
    String::from_utf8(head).unwrap()
}

/// Asks for such a body, and reads it in pieces of this size.
async fn ask(stream: &mut TcpStream, seed: usize, length: usize, piece: usize) -> Vec<u8> {
    stream.write_all(get(seed, length).as_bytes()).await.unwrap();
    assert!(read_head(stream).await.starts_with("HTTP/1.1 200 "));
    let mut received = vec![0; length];
    for piece in received.chunks_mut(piece) {
        stream.read_exact(piece).await.unwrap();
    }
    received
}

/// Whether they are the same, without millions of bytes in a message if not.
#[track_caller]
fn assert_same(received: &[u8], sent: &[u8]) {
    let at = received.iter().zip(sent).position(|(one, other)| one != other);
    assert_eq!((received.len(), at), (sent.len(), None), "the first difference");
}

async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < end, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, test);
}

#[test]
fn bodies_of_any_length_arrive_byte_for_byte_one_behind_the_other() {
    run(async {
        let setup = Setup::new(Policy::default(), None).await;
        let mut client = setup.connect().await;
        let around = |length: usize| [length - 1, length, length + 1];
        let lengths = [around(MIN), around(CAPACITY), around(3 * CAPACITY + 16 * 1024)];
        for (seed, length) in lengths.into_iter().flatten().chain([20, 5 << 20, 0]).enumerate() {
            let [_, before, _] = setup.counts();
            let received = ask(&mut client, seed, length, 1 << 20).await;
            assert_same(&received, &body(seed, length));
            let [_, passed, missed] = setup.counts();
            assert_eq!(missed, 0);
            let passed = (passed - before) as usize;
            match length < MIN {
                true => assert_eq!(passed, 0, "{length}"),
                // Some is read with the head, and more of it where the last body was read.
                false => assert!((length - passed) <= 64 << 10, "{passed} of {length}"),
            }
        }
        assert_eq!(*setup.accepted.borrow(), 1, "each leaves the replica's connection to the next");
        assert_eq!(setup.held(), 0);
    });
}

#[test]
fn requests_behind_one_with_a_long_answer_are_answered_in_their_order() {
    run(async {
        let setup = Setup::new(Policy::default(), None).await;
        let mut client = setup.connect().await;
        let lengths = [2 << 20, 5, MIN, 0, 1 << 20];
        let asked: String = lengths.into_iter().enumerate().map(|(seed, length)| get(seed, length)).collect();
        client.write_all(asked.as_bytes()).await.unwrap();
        for (seed, length) in lengths.into_iter().enumerate() {
            assert!(read_head(&mut client).await.contains(&format!("\r\ncontent-length: {length}\r\n")));
            let mut received = vec![0; length];
            client.read_exact(&mut received).await.unwrap();
            assert_same(&received, &body(seed, length));
        }
    });
}

#[test]
fn bodies_side_by_side_never_mix_however_slowly_some_are_read() {
    run(async {
        let setup = Setup::new(Policy::default(), None).await;
        let mut clients = JoinSet::new();
        for seed in 0..12 {
            let mut client = if seed % 3 == 0 { setup.connect_narrow().await } else { setup.connect().await };
            clients.spawn_local(async move {
                for round in 0..4 {
                    let (seed, length) = (seed * 10 + round, 300_000 * (1 + (seed + round) % 4));
                    let received = ask(&mut client, seed, length, 1000 << (seed % 8)).await;
                    assert_same(&received, &body(seed, length));
                }
            });
        }
        clients.join_all().await;
        assert_eq!(setup.held(), 0);
    });
}

#[test]
fn a_replica_that_breaks_off_never_looks_whole_and_is_blamed_once() {
    run(async {
        let length = 1 << 20;
        for (number, sent) in [MIN, CAPACITY + 7, length - 1].into_iter().enumerate() {
            for then in [Then::Close, Then::Reset] {
                let setup = Setup::new(Policy::default(), Some((sent, then))).await;
                let mut client = setup.connect().await;
                client.write_all(get(number, length).as_bytes()).await.unwrap();
                let mut received = Vec::new();
                // An end or a reset.
                let _ = client.read_to_end(&mut received).await;
                let head = received.windows(4).position(|end| end == b"\r\n\r\n").expect("a head") + 4;
                let received = &received[head..];
                // What is on its way when a connection is reset may be lost.
                let arrived = if then == Then::Close { sent } else { received.len().min(sent) };
                assert_same(received, &body(number, length)[..arrived]);
                eventually("the attempt is judged", || setup.failures() == 1).await;
                assert_eq!(setup.held(), 0);
            }
        }
    });
}

#[test]
fn what_a_replica_says_behind_a_long_body_answers_no_other_request() {
    run(async {
        let length = 1 << 20;
        let setup = Setup::new(Policy::default(), Some((length, Then::SayMore))).await;
        let mut client = setup.connect().await;
        for seed in 0..3 {
            assert_same(&ask(&mut client, seed, length, length).await, &body(seed, length));
        }
        assert_eq!(*setup.accepted.borrow(), 3, "no such connection is used again");
    });
}

#[test]
fn what_a_client_that_leaves_has_not_taken_is_closed_with_its_pipe_and_reaches_nobody_else() {
    run(async {
        let setup = Setup::new(Policy::default(), None).await;
        for round in 0..5 {
            let mut client = setup.connect_narrow().await;
            client.write_all(get(round, 16 << 20).as_bytes()).await.unwrap();
            read_head(&mut client).await;
            eventually("a pipe holds what is not read", || setup.held() == 1).await;
            socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
            drop(client);
            eventually("it is closed", || setup.held() == 0).await;
            let received = ask(&mut setup.connect().await, 100 + round, CAPACITY, CAPACITY).await;
            assert_same(&received, &body(100 + round, CAPACITY));
        }
        assert_eq!(setup.failures(), 0);
    });
}

#[test]
fn what_is_cut_at_the_end_of_a_drain_never_looks_whole_and_nobody_is_blamed() {
    run(async {
        let setup = Setup::new(Policy::default(), None).await;
        let mut client = setup.connect_narrow().await;
        client.write_all(get(1, 16 << 20).as_bytes()).await.unwrap();
        read_head(&mut client).await;
        eventually("a pipe holds what is not read", || setup.held() == 1).await;
        setup.drain();
        let mut received = Vec::new();
        let _ = client.read_to_end(&mut received).await;
        assert!(received.len() < 16 << 20);
        assert_same(&received, &body(1, 16 << 20)[..received.len()]);
        eventually("the pipe is closed", || setup.held() == 0).await;
        assert_eq!(setup.failures(), 0);
    });
}

#[test]
fn without_a_pipe_a_body_is_copied() {
    run(async {
        let setup = Setup::new(Policy::default(), None).await;
        setup.worker.buffers().pipes().refused(&std::io::ErrorKind::Unsupported.into());
        let received = ask(&mut setup.connect().await, 1, 1 << 20, 1 << 20).await;
        assert_same(&received, &body(1, 1 << 20));
        let [open, passed, missed] = setup.counts();
        assert!(open == 0 && passed == 0 && missed > 1, "{open}, {passed}, {missed}");
        setup.worker.buffers().pipes().sweep();
        ask(&mut setup.connect().await, 2, 1 << 20, 1 << 20).await;
        assert!(setup.counts()[1] > 0, "it is tried again");
    });
}

#[test]
fn a_body_of_which_a_copy_is_kept_is_read() {
    run(async {
        let mut policy = Policy::default();
        policy.fallback.stale_max_age = Duration::from_secs(60);
        let setup = Setup::new(policy, None).await;
        let received = ask(&mut setup.connect().await, 1, MIN, MIN).await;
        assert_same(&received, &body(1, MIN));
        assert_eq!(setup.counts()[1], 0);
    });
}

#[test]
fn there_are_never_more_pipes_than_there_may_be_and_those_that_nobody_uses_are_closed() {
    let counts = Arc::<PipeCounts>::default();
    let pipes = Pipes::new(1, Arc::clone(&counts));
    let taken: Vec<_> = std::iter::from_fn(|| pipes.take()).collect();
    let most = taken.len() as u64;
    assert!((1..=MAX_PIPES).contains(&most), "{most}");
    assert_eq!(counts.read(), [most, 0, 1]);
    drop(taken);
    pipes.sweep();
    assert_eq!(counts.read()[0], most, "they were in use since the last look");
    drop(pipes.take());
    drop(pipes.take());
    pipes.sweep();
    assert_eq!(counts.read()[0], 1, "one was");
    pipes.sweep();
    assert_eq!(counts.read()[0], 0);
}
