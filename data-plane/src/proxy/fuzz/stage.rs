//! A worker in front of one replica, which answers every request, and records it.

use std::{cell::RefCell, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use gateway_proto::{Address, Policy};
use gateway_runtime::panics::PanicCounts;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::{LocalSet, spawn_local},
};
use tokio_util::task::TaskTracker;

use crate::{
    clock::Clock,
    proxy::{
        ProxyConfig,
        forward::forward,
        h1::tests::{Message, Verdict, read_request},
        worker::{accept, listener::Listener, tests::worker_as},
    },
    table::{ReplicaSpec, ServiceSpec, Table},
};

/// Longest wait for anything that has to come.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// Connections at once.
const PLACES: usize = 9;

pub(super) struct Stage {
    /// Where clients connect.
    pub(super) gateway: SocketAddr,
    record: Rc<RefCell<Record>>,
    panics: Arc<PanicCounts>,
}

/// What the replica got.
#[derive(Default)]
struct Record {
    requests: Vec<Message>,
    /// What is no request.
    faults: Vec<String>,
}

/// Runs a test, and the stage's tasks beside it, on one thread. Nothing on the worker panics.
pub(super) fn on_a_stage(configure: impl FnOnce(&mut ProxyConfig), test: impl AsyncFnOnce(&Stage)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let stage = Stage::begin(configure).await;
        test(&stage).await;
        let mut panics = stage.panics.read();
        panics.retain(|_, count| *count > 0);
        assert!(panics.is_empty(), "panics on the worker: {panics:?}");
    });
}

impl Stage {
    async fn begin(configure: impl FnOnce(&mut ProxyConfig)) -> Self {
        let replica = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (table, _transitions) = Table::new(1);
        let address = Address::parse(&replica.local_addr().unwrap().to_string()).unwrap();
        let replicas = vec![ReplicaSpec::listed("r-0".parse().unwrap(), address)];
        let orders = ServiceSpec { name: "orders".parse().unwrap(), policy: Policy::default(), replicas };
        table.apply(&[orders], &[], Clock::new().now());
        let (worker, panics) = worker_as(table, configure);
        let record = Rc::<RefCell<Record>>::default();
        let recording = Rc::clone(&record);
        spawn_local(async move {
            loop {
                spawn_local(converse(replica.accept().await.unwrap().0, Rc::clone(&recording)));
            }
        });
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gateway = socket.local_addr().unwrap();
        spawn_local(async move {
            let listeners = [Listener::new(socket, None, worker.limits())];
            let places = Arc::new(Semaphore::new(PLACES));
            accept(&worker, &listeners, &places, &TaskTracker::new(), forward).await;
        });
        Self { gateway, record, panics }
    }

    pub(super) async fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.gateway).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// The requests that came since the last call. Nothing else may have come.
    pub(super) fn seen(&self, because: &[u8]) -> Vec<Message> {
        let Record { requests, faults } = self.record.take();
        assert!(faults.is_empty(), "the replica got {faults:?} because of {}", because.escape_ascii());
        requests
    }

    /// Whoever comes next is served.
    pub(super) async fn serves_others(&self, behind: &[u8]) {
        let mut stream = self.connect().await;
        stream.write_all(b"GET /orders/probe HTTP/1.0\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await;
        assert!(
            read.is_ok() && answer.starts_with("HTTP/1.1 200 "),
            "{answer:?} behind {}",
            behind.escape_ascii()
        );
    }
}

async fn converse(mut stream: TcpStream, record: Rc<RefCell<Record>>) {
    let mut bytes = Vec::new();
    let mut has_gone_on = false;
    loop {
        match read_request([&bytes[..]]) {
            Verdict::Whole(message) => {
                bytes.drain(..message.end);
                has_gone_on = false;
                let body = if message.start[0] == "HEAD" { "" } else { "ok" };
                record.borrow_mut().requests.push(message);
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{body}");
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
                continue;
            }
            Verdict::Unfinished => {}
            other => {
                record.borrow_mut().faults.push(format!("{}: {other:?}", bytes.escape_ascii()));
                return;
            }
        }
        if !has_gone_on && bytes.windows(4).any(|four| four == b"\r\n\r\n") {
            has_gone_on = true;
            let _ = stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await;
        }
        if !matches!(stream.read_buf(&mut bytes).await, Ok(1..)) {
            return;
        }
    }
}
