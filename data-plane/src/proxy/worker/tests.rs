use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use gateway_proto::NodeId;
use http::{Request, StatusCode};
use http_body::Body;
use hyper::body::{Frame, SizeHint};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{LocalSet, spawn_local},
};

use super::*;
use crate::proxy::head::{ResponseHead, fields::Fields};

/// A worker that routes by nothing, and the count of what panics on it.
pub(in crate::proxy) fn worker() -> (Rc<Worker>, Arc<PanicCounts>) {
    worker_as(Table::new(1).0, |_| {})
}

/// A worker that routes by this table, configured so, and the count of what panics on it.
pub(in crate::proxy) fn worker_as(
    table: Arc<Table>,
    configure: impl FnOnce(&mut ProxyConfig),
) -> (Rc<Worker>, Arc<PanicCounts>) {
    let mut config = ProxyConfig {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        tls: None,
        upstream_tls: Arc::default(),
        admin: None,
        workers: 1,
        node_id: NodeId::parse("dp-1").unwrap(),
        domain: None,
        debug_headers: false,
        limits: Limits { connections: 9, ..Limits::default() },
        access_log: None,
        tracer: None,
        proxy_headers: None,
        forwarding: Forwarding::default(),
        drain_delay: Duration::ZERO,
        drain_timeout: Duration::from_secs(9),
    };
    configure(&mut config);
    let panics = Arc::new(PanicCounts::default());
    let (refusals, addresses) = (Arc::new(Refusals::new(1)), Arc::new(Addresses::new(None)));
    let shared = Shared { panics: panics.clone(), refusals, addresses, stale_resources: Arc::default() };
    let worker = Worker::new(0, Arc::new(config), table, Clock::new(), shared, Arc::default());
    (Rc::new(worker), panics)
}

/// A body without a byte.
#[derive(PartialEq)]
enum Defective {
    Not,
    /// A defect is met in place of its end.
    Panics,
    /// It has announced ten bytes.
    Short,
}

impl From<Bytes> for Defective {
    fn from(_: Bytes) -> Self {
        Self::Not
    }
}

impl Body for Defective {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        assert!(*self != Self::Panics, "a defect in a body");
        Poll::Ready(None)
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Short => SizeHint::with_exact(10),
            Self::Not | Self::Panics => SizeHint::default(),
        }
    }
}

impl Unread for Defective {}

/// In place of what forwards.
async fn answer(_: Rc<Worker>, _: Asker, head: RequestHead, _: ClientBody) -> Answer<Defective> {
    // Not at the first poll.
    tokio::task::yield_now().await;
    match head.path() {
        "/defect" => panic!("a defect in a request"),
        path => {
            let body = match path {
                "/body" => Defective::Panics,
                "/short" => Defective::Short,
                _ => Defective::Not,
            };
            Answer::new(ResponseHead::new(StatusCode::OK, Fields::default()), body)
        }
    }
}

/// Runs `test` beside a worker that answers so, on one thread; yields what panicked.
async fn beside_a_worker<F: Future<Output = ()>>(
    test: impl FnOnce(SocketAddr) -> F,
) -> Vec<(&'static str, u64)> {
    let (worker, panics) = worker();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let listeners = [Listener::new(listener, None, worker.limits())];
    let connections = TaskTracker::new();
    let places = Arc::new(Semaphore::new(9));
    let accepting = async {
        let accepting = accept(&worker, &listeners, &places, &connections, answer);
        tokio::select! {
            () = accepting => {}
            () = test(address) => {}
        }
    };
    LocalSet::new().run_until(accepting).await;
    panics.read().into_iter().collect()
}

/// All that comes until the server ends the connection.
async fn request(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A reset is an end, too.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_panic_ends_the_connection_that_it_happens_on_and_no_other() {
    let counted = beside_a_worker(async |address| {
        let mut other = TcpStream::connect(address).await.unwrap();
        other.write_all(b"GET /fine HTTP/1.1\r\n").await.unwrap();
        assert_eq!(request(address, "/defect").await, "");
        let broken_off = request(address, "/body").await;
        assert!(!broken_off.contains("\r\n0\r\n"), "it looks complete: {broken_off}");
        other.write_all(b"host: test\r\n\r\n").await.unwrap();
        let mut begin = [0; 15];
        other.read_exact(&mut begin).await.unwrap();
        assert_eq!(&begin, b"HTTP/1.1 200 OK");
        assert!(request(address, "/fine").await.starts_with("HTTP/1.1 200 OK"));
    })
    .await;
    assert_eq!(counted, [("connection", 2)]);
}

#[tokio::test]
async fn an_answer_that_is_shorter_than_it_says_ends_its_connection() {
    beside_a_worker(async |address| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let two = "GET /short HTTP/1.1\r\nhost: test\r\n\r\nGET /fine HTTP/1.1\r\nhost: test\r\n\r\n";
        stream.write_all(two.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await;
        // A reset is an end, too.
        let _ = read.expect("the connection stays open");
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.contains("content-length: 10\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\n") && answer.matches("HTTP/1.1").count() == 1, "{answer}");
    })
    .await;
}

#[tokio::test]
async fn a_panic_ends_the_stream_that_it_happens_on_and_not_its_connection() {
    let counted = beside_a_worker(async |address| {
        let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
        let executor = hyper_util::rt::TokioExecutor::new();
        let (sender, connection) = hyper::client::conn::http2::handshake(executor, stream).await.unwrap();
        spawn_local(connection);
        let get = |path: &str| {
            let uri = format!("http://test{path}");
            let request = Request::get(uri).body(Defective::Not).unwrap();
            let mut sender = sender.clone();
            async move { sender.send_request(request).await }
        };
        let (defect, fine) = tokio::join!(get("/defect"), get("/fine"));
        assert!(defect.is_err());
        assert_eq!(fine.unwrap().status(), 200);
        assert_eq!(get("/fine").await.unwrap().status(), 200);
    })
    .await;
    assert_eq!(counted, [("request", 1)]);
}

#[tokio::test]
async fn connections_that_wait_to_be_accepted_at_the_end_are_served() {
    let (worker, _) = worker();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (connections, places) = (TaskTracker::new(), Arc::new(Semaphore::new(9)));
    let test = async {
        let mut clients = Vec::new();
        for _ in 0..3 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET /fine HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
            clients.push(stream);
        }
        worker.begin_drain();
        let listener = Listener::new(listener, None, worker.limits());
        accept_queued(&worker, &listener, &places, &connections, answer);
        drop(listener);
        for mut stream in clients {
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(
                answer.starts_with("HTTP/1.1 200 OK") && answer.contains("connection: close"),
                "{answer}"
            );
        }
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_connection_takes_no_room_for_what_it_is_not_doing() {
    let (worker, _) = worker();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    let waiting = downstream::serve(worker, Accepted { stream, address, tls: None }, forward);
    let size = size_of_val(&waiting);
    assert!(size <= 256, "{size} bytes for each idle connection");
}
