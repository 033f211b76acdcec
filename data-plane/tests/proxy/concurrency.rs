//! Limits on what is in flight: who waits, in which order, and how those that are refused are told.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test that called it")]

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use data_plane::{
    routing::{State, Tick},
    table::{Refusal, ServiceSpec},
};
use gateway_proto::{Policy, policy::Concurrency};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Semaphore,
    task::JoinHandle,
};

use crate::harness::{
    Act, Dead, Gateway, Replica, body, eventually, field, ok, raw_replica, read_message, respond, status,
};

/// A replica that answers each request when it is told to, and says which ones it has had at once.
#[derive(Clone)]
struct Held {
    gate: Arc<Semaphore>,
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    paths: Arc<Mutex<Vec<String>>>,
}

impl Held {
    async fn start(act: Act) -> (Self, SocketAddr) {
        let held = Self {
            gate: Arc::new(Semaphore::new(0)),
            now: Arc::default(),
            most: Arc::default(),
            paths: Arc::default(),
        };
        let shared = held.clone();
        let address = raw_replica(move |stream| shared.clone().converse(stream, act.clone())).await;
        (held, address)
    }

    async fn converse(self, mut stream: TcpStream, act: Act) {
        while let Some(request) = read_message(&mut stream).await {
            let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
            self.paths.lock().unwrap().push(path);
            self.most.fetch_max(self.now.fetch_add(1, SeqCst) + 1, SeqCst);
            self.gate.acquire().await.unwrap().forget();
            self.now.fetch_sub(1, SeqCst);
            let Act::Send(bytes) = &act else { return };
            if stream.write_all(bytes.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    fn release(&self, count: usize) {
        self.gate.add_permits(count);
    }

    fn seen(&self) -> Vec<String> {
        self.paths.lock().unwrap().clone()
    }
}

/// One request at a time for each replica, and patience enough for a slow machine.
fn one_each() -> Concurrency {
    Concurrency { max_per_replica: 1, max_queue_time: Duration::from_secs(60), ..Concurrency::default() }
}

fn policy(concurrency: Concurrency) -> Policy {
    let mut policy = Policy { concurrency, ..Policy::default() };
    policy.timeout.request = Duration::from_secs(100);
    policy.timeout.per_try = Duration::from_secs(100);
    policy
}

/// A replica whose answers stop in the middle.
async fn streaming() -> SocketAddr {
    raw_replica(|mut stream| async move {
        if read_message(&mut stream).await.is_some() {
            let _ = stream.write_all(b"HTTP/1.1 200 X\r\ncontent-length: 10\r\n\r\nhalf-").await;
            std::future::pending::<()>().await;
        }
    })
    .await
}

/// A client that has half of one.
async fn half_answered(gateway: &Gateway) -> TcpStream {
    let mut client = gateway.connect().await;
    client.write_all(b"GET /orders/0 HTTP/1.1\r\nhost: gw\r\n\r\n").await.unwrap();
    let mut bytes = [0; 16];
    client.read_exact(&mut bytes).await.unwrap();
    client
}

fn get(gateway: &Arc<Gateway>, path: &str) -> JoinHandle<String> {
    let (gateway, path) = (Arc::clone(gateway), path.to_owned());
    tokio::spawn(async move { gateway.get(&path).await })
}

async fn pending(gateway: &Gateway, count: usize) {
    eventually(&format!("{count} wait"), || gateway.service().pending() == count).await;
}

/// A gateway before a replica that has one request, which `first` waits for.
async fn busy(concurrency: Concurrency) -> (Arc<Gateway>, Held, JoinHandle<String>) {
    let (held, address) = Held::start(ok("fine")).await;
    let gateway = Arc::new(Gateway::start(&[address], policy(concurrency)).await);
    let first = get(&gateway, "/orders/0");
    eventually("the replica is busy", || held.now.load(SeqCst) == 1).await;
    (gateway, held, first)
}

fn set(gateway: &Gateway, concurrency: Concurrency) {
    let service = gateway.service();
    let replicas = service.replicas().iter().map(|replica| replica.spec().clone()).collect();
    let spec = ServiceSpec { name: service.name().clone(), policy: policy(concurrency), replicas };
    gateway.table.apply(&[spec], &[], gateway.clock.now());
}

#[tokio::test]
async fn requests_wait_for_a_place_and_are_served_in_the_order_in_which_they_came() {
    let (gateway, held, first) = busy(one_each()).await;
    let mut waiting = Vec::new();
    for number in 1..=5 {
        waiting.push(get(&gateway, &format!("/orders/{number}")));
        pending(&gateway, number).await;
    }
    held.release(6);
    for answer in std::iter::once(first).chain(waiting) {
        assert_eq!(status(&answer.await.unwrap()), 200);
    }
    assert_eq!(held.seen(), ["/0", "/1", "/2", "/3", "/4", "/5"]);
    assert_eq!((held.most.load(SeqCst), gateway.service().pending()), (1, 0));
    assert_eq!(gateway.service().queue_times().count(), 5);
}

#[tokio::test]
async fn what_finds_the_queue_full_is_refused_at_once_and_no_replica_is_blamed() {
    let (gateway, held, first) = busy(Concurrency { max_pending: 1, ..one_each() }).await;
    let second = get(&gateway, "/orders/1");
    pending(&gateway, 1).await;
    for _ in 0..10 {
        let refused = gateway.get("/orders/2").await;
        assert_eq!(status(&refused), 503);
        assert_eq!(field(&refused, "retry-after").as_deref(), Some("1"));
        let proxy_status = field(&refused, "proxy-status").unwrap();
        assert_eq!(proxy_status, "gw-dp-1; error=connection_limit_reached; details=\"overloaded\"");
        assert!(body(&refused).contains("\"reason\":\"overloaded\""), "{refused}");
    }
    held.release(2);
    assert_eq!((status(&first.await.unwrap()), status(&second.await.unwrap())), (200, 200));
    assert_eq!(gateway.service().refused(Refusal::Overloaded), 10);
    let replica = &gateway.service().replicas()[0];
    let breaker = replica.breaker_view(gateway.clock.now(), &Policy::default().breaker);
    assert_eq!((breaker.state, breaker.totals.marked, replica.counters().attempts), (State::Closed, 0, 2));
}

#[tokio::test]
async fn who_waits_for_as_long_as_it_may_is_refused() {
    let concurrency = Concurrency { max_queue_time: Duration::from_millis(50), ..one_each() };
    let (gateway, held, first) = busy(concurrency).await;
    let refused = gateway.get("/orders/1").await;
    assert_eq!(status(&refused), 503);
    assert!(body(&refused).contains("\"reason\":\"queue_timeout\""), "{refused}");
    assert_eq!((gateway.service().pending(), gateway.service().refused(Refusal::QueueTimeout)), (0, 1));
    held.release(1);
    assert_eq!(status(&first.await.unwrap()), 200);
}

#[tokio::test]
async fn the_requests_own_time_bounds_how_long_it_waits() {
    let mut policy = policy(one_each());
    policy.timeout.request = Duration::from_millis(300);
    let gateway = Arc::new(Gateway::start(&[streaming().await], policy).await);
    let client = half_answered(&gateway).await;
    let refused = gateway.get("/orders/1").await;
    assert!(body(&refused).contains("\"reason\":\"queue_timeout\""), "{refused}");
    drop(client);
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_the_queue_at_once() {
    let (gateway, held, first) = busy(one_each()).await;
    let mut gone = gateway.connect().await;
    gone.write_all(b"GET /orders/gone HTTP/1.1\r\nhost: gw\r\n\r\n").await.unwrap();
    pending(&gateway, 1).await;
    let last = get(&gateway, "/orders/last");
    pending(&gateway, 2).await;
    drop(gone);
    pending(&gateway, 1).await;
    held.release(2);
    assert_eq!((status(&first.await.unwrap()), status(&last.await.unwrap())), (200, 200));
    assert_eq!(held.seen(), ["/0", "/last"]);
}

#[tokio::test]
async fn a_replica_that_joins_and_a_limit_that_is_raised_serve_those_who_wait() {
    let (gateway, held, first) = busy(one_each()).await;
    let waiting: Vec<_> = (1..=2).map(|number| get(&gateway, &format!("/orders/{number}"))).collect();
    pending(&gateway, 2).await;
    let other = Replica::start(|_, _| ok("other")).await;
    let service = gateway.service();
    let mut replicas: Vec<_> = service.replicas().iter().map(|replica| replica.spec().clone()).collect();
    let mut joining = replicas[0].clone();
    joining.id = gateway_proto::ReplicaId::parse("r-9").unwrap();
    joining.endpoint.address = gateway_proto::Address::parse(&other.address.to_string()).unwrap();
    replicas.push(joining);
    let spec = ServiceSpec { name: service.name().clone(), policy: *service.policy(), replicas };
    gateway.table.apply(&[spec], &[], gateway.clock.now());
    for answer in waiting {
        assert_eq!(body(&answer.await.unwrap()), "other");
    }
    gateway.drain(1, Duration::from_secs(60)).await;
    let waiting = get(&gateway, "/orders/3");
    pending(&gateway, 1).await;
    set(&gateway, Concurrency { max_per_replica: 2, ..one_each() });
    eventually("it has both", || held.now.load(SeqCst) == 2).await;
    held.release(2);
    assert_eq!((status(&first.await.unwrap()), status(&waiting.await.unwrap())), (200, 200));
}

#[tokio::test]
async fn those_who_wait_are_answered_when_the_last_replica_drains() {
    let (gateway, held, first) = busy(one_each()).await;
    let waiting = get(&gateway, "/orders/1");
    pending(&gateway, 1).await;
    gateway.drain(0, Duration::from_secs(60)).await;
    let refused = waiting.await.unwrap();
    assert!(body(&refused).contains("\"reason\":\"no_ready_replica\""), "{refused}");
    held.release(1);
    assert_eq!(status(&first.await.unwrap()), 200, "what was in flight goes on");
}

#[tokio::test]
async fn a_retry_that_meets_full_replicas_only_brings_the_answer_that_it_has() {
    let (held, busy) = Held::start(ok("fine")).await;
    let failing = Replica::start(|_, _| respond(503, "failing")).await;
    let gateway = Arc::new(Gateway::start(&[busy, failing.address], policy(one_each())).await);
    let first = get(&gateway, "/orders/0");
    eventually("the replica is busy", || held.now.load(SeqCst) == 1).await;
    let answer = gateway.get("/orders/1").await;
    assert_eq!((status(&answer), body(&answer)), (503, "failing"));
    assert_eq!(gateway.service().refused(Refusal::Overloaded), 0);
    assert_eq!(spent(&gateway), 0.0, "no retry was sent");
    held.release(1);
    assert_eq!(status(&first.await.unwrap()), 200);
}

/// What has been used of the budget of retries.
fn spent(gateway: &Gateway) -> f64 {
    spent_at(gateway, gateway.clock.now())
}

/// The same as of then, however long it takes to look.
fn spent_at(gateway: &Gateway, then: Tick) -> f64 {
    let service = gateway.service();
    service.budget().view(then, service.policy().retry.budget_ratio).used
}

#[tokio::test]
async fn a_retry_whose_place_was_taken_while_it_paused_gives_back_what_it_took_from_the_budget() {
    let failing = Replica::start(|_, _| {
        Act::Send("HTTP/1.1 503 X\r\nretry-after: 1\r\ncontent-length: 7\r\n\r\nfailing".to_owned())
    })
    .await;
    let (held, busy) = Held::start(ok("fine")).await;
    let gateway = Arc::new(Gateway::start(&[failing.address, busy], policy(one_each())).await);
    let retried = get(&gateway, "/orders/0");
    eventually("it pauses", || spent(&gateway) > 0.0).await;
    let second = get(&gateway, "/orders/1");
    eventually("the other replica is busy", || held.now.load(SeqCst) == 1).await;
    let answer = retried.await.unwrap();
    assert_eq!((status(&answer), body(&answer)), (503, "failing"));
    assert_eq!((held.seen(), spent(&gateway)), (vec!["/1".to_owned()], 0.0));
    held.release(1);
    assert_eq!(status(&second.await.unwrap()), 200);
}

#[tokio::test]
async fn a_client_that_leaves_while_its_retry_pauses_or_waits_has_taken_nothing_from_the_budget() {
    let asks_for_time = "HTTP/1.1 503 X\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n".to_owned();
    for (act, waits) in [(Act::Send(asks_for_time), false), (Act::Reset, true)] {
        let (held, busy) = Held::start(ok("fine")).await;
        let failing = Replica::start(move |_, _| act.clone()).await;
        let gateway = Arc::new(Gateway::start(&[busy, failing.address], policy(one_each())).await);
        let first = get(&gateway, "/orders/0");
        eventually("the replica is busy", || held.now.load(SeqCst) == 1).await;
        if !waits {
            held.release(1);
            assert_eq!(status(&first.await.unwrap()), 200);
        }
        let mut leaving = gateway.connect().await;
        leaving.write_all(b"GET /orders/1 HTTP/1.1\r\nhost: gw\r\n\r\n").await.unwrap();
        eventually("a retry is paid for", || spent(&gateway) > 0.0).await;
        let paid = gateway.clock.now();
        if waits {
            pending(&gateway, 1).await;
        }
        drop(leaving);
        eventually("it is given back", || spent_at(&gateway, paid) == 0.0).await;
        assert_eq!(held.seen(), ["/0"]);
    }
}

#[tokio::test]
async fn a_retry_that_could_not_even_wait_is_not_begun_and_not_counted_as_refused() {
    let (held, busy) = Held::start(ok("fine")).await;
    let resetting = Replica::start(|_, _| Act::Reset).await;
    let policy = policy(Concurrency { max_pending: 0, ..one_each() });
    let gateway = Arc::new(Gateway::start(&[busy, resetting.address], policy).await);
    let first = get(&gateway, "/orders/0");
    eventually("the replica is busy", || held.now.load(SeqCst) == 1).await;
    let answer = gateway.get("/orders/1").await;
    assert_eq!((status(&answer), resetting.seen().len()), (502, 1));
    assert_eq!((gateway.service().refused(Refusal::Overloaded), spent(&gateway)), (0, 0.0));
    held.release(1);
    assert_eq!(status(&first.await.unwrap()), 200);
}

#[tokio::test]
async fn a_request_that_nobody_has_had_yet_waits_for_another_replica() {
    let (held, busy) = Held::start(ok("fine")).await;
    let dead = Dead::new();
    let gateway = Arc::new(Gateway::start(&[busy, dead.address], policy(one_each())).await);
    let first = get(&gateway, "/orders/0");
    eventually("the replica is busy", || held.now.load(SeqCst) == 1).await;
    let retried = get(&gateway, "/orders/1");
    pending(&gateway, 1).await;
    // It has no use for the other one's place, and others have.
    held.release(2);
    assert_eq!(body(&first.await.unwrap()), "fine");
    assert_eq!(body(&retried.await.unwrap()), "fine");
}

#[tokio::test]
async fn a_response_that_streams_keeps_its_place_to_its_end() {
    let gateway = Arc::new(Gateway::start(&[streaming().await], policy(one_each())).await);
    let client = half_answered(&gateway).await;
    let waiting = get(&gateway, "/orders/1");
    pending(&gateway, 1).await;
    drop(client);
    pending(&gateway, 0).await;
    waiting.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_clients_wait_in_little_memory_and_all_are_served() {
    const CLIENTS: usize = 2_000;
    let (held, address) = Held::start(ok("fine")).await;
    let concurrency = Concurrency { max_per_replica: 20, max_pending: 5_000, ..one_each() };
    let gateway = Arc::new(Gateway::start_with(2, &[address], policy(concurrency)).await);
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = gateway.connect().await;
        client.write_all(b"GET /orders/ HTTP/1.1\r\nhost: gw\r\n\r\n").await.unwrap();
        clients.push(client);
    }
    pending(&gateway, CLIENTS - 20).await;
    assert_eq!((held.now.load(SeqCst), gateway.inflight(0)), (20, 20));
    held.release(CLIENTS);
    for mut client in clients {
        assert_eq!(status(&read_message(&mut client).await.unwrap()), 200);
    }
    assert_eq!((held.most.load(SeqCst), gateway.service().pending()), (20, 0));
}
