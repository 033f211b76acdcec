//! A proxy without a control plane, replicas that do as they are told, and a client that shows every byte.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test that called it")]

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

use data_plane::{
    clock::Clock,
    proxy::{Forwarding, Limits, Proxy, ProxyConfig, start},
    table::{ReplicaSpec, Service, ServiceSpec, Table, Transition},
};
use gateway_proto::{Address, Endpoint, Mode, NodeId, Policy, ReplicaId, ServiceName};
use gateway_runtime::{
    Shutdown,
    tls::{ClientTls, Tls},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

/// What a replica does with a request that it has read in full.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    /// Sends these bytes and keeps the connection.
    Send(String),
    /// Sends these bytes and closes the connection.
    SendAndClose(String),
    /// Closes with a reset.
    Reset,
    /// Never answers.
    Hang,
}

/// A response with a body and its length.
pub(crate) fn ok(body: &str) -> Act {
    respond(200, body)
}

/// A response of any status.
pub(crate) fn respond(status: u16, body: &str) -> Act {
    Act::Send(format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len()))
}

/// A replica on a port of its own.
pub(crate) struct Replica {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Replica {
    /// Starts one that acts by the number of the request, counted from zero, and its text.
    pub(crate) async fn start(act: impl Fn(usize, &str) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(AtomicUsize::new(0));
        let (act, requests, accepted) = (Arc::new(act), Arc::clone(&seen), Arc::clone(&connections));
        let task = tokio::spawn(async move {
            let mut conversations = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                accepted.fetch_add(1, Relaxed);
                conversations.spawn(converse(stream, Arc::clone(&act), Arc::clone(&requests)));
            }
        });
        Self { address, seen, connections, task }
    }

    /// The requests that it has read, in full.
    pub(crate) fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    /// How many connections it has accepted.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Relaxed)
    }

    /// Closes its port and all of its connections.
    pub(crate) async fn kill(&self) {
        self.task.abort();
        // Each conversation holds a share of what was seen, until its connection is closed.
        eventually("all connections are closed", || Arc::strong_count(&self.seen) == 1).await;
    }
}

/// A replica that does with each connection what the test says, from its first byte on.
pub(crate) async fn raw_replica<F: Future<Output = ()> + Send + 'static>(
    converse: impl Fn(TcpStream) -> F + Send + Sync + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            tokio::spawn(converse(listener.accept().await.unwrap().0));
        }
    });
    address
}

async fn converse(
    mut stream: TcpStream,
    act: Arc<impl Fn(usize, &str) -> Act + Send + Sync + 'static>,
    seen: Arc<Mutex<Vec<String>>>,
) {
    while let Some(request) = read_message(&mut stream).await {
        let number = {
            let mut seen = seen.lock().unwrap();
            seen.push(request.clone());
            seen.len() - 1
        };
        match act(number, &request) {
            Act::Send(bytes) => stream.write_all(bytes.as_bytes()).await.unwrap(),
            Act::SendAndClose(bytes) => {
                let _ = stream.write_all(bytes.as_bytes()).await;
                return;
            }
            Act::Reset => {
                socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
                return;
            }
            Act::Hang => std::future::pending::<()>().await,
        }
    }
}

/// Reads one message with a `content-length` or chunked body; `None` at the end of the stream.
pub(crate) async fn read_message(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some(end) = text.find("\r\n\r\n") {
            let head = text[..end].to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let is_whole = match length {
                Some(length) => bytes.len() >= end + 4 + length.trim().parse::<usize>().unwrap(),
                // Trailers may stand behind the last chunk.
                None if head.contains("transfer-encoding: chunked") => {
                    text.ends_with("\r\n\r\n") && text[end + 2..].contains("\r\n0\r\n")
                }
                None => true,
            };
            if is_whole {
                return Some(text);
            }
        }
        let mut more = [0; 16 * 1024];
        match stream.read(&mut more).await {
            Ok(0) | Err(_) => return None,
            Ok(count) => bytes.extend_from_slice(&more[..count]),
        }
    }
}

/// A proxy with one service called `orders`.
pub(crate) struct Gateway {
    pub(crate) listen: SocketAddr,
    pub(crate) table: Arc<Table>,
    pub(crate) clock: Clock,
    pub(crate) transitions: mpsc::Receiver<Transition>,
    pub(crate) shutdown: Shutdown,
    pub(crate) proxy: Proxy,
}

impl Gateway {
    pub(crate) async fn start(replicas: &[SocketAddr], policy: Policy) -> Self {
        Self::start_with(1, replicas, policy).await
    }

    pub(crate) async fn start_with(workers: usize, replicas: &[SocketAddr], policy: Policy) -> Self {
        Self::start_beside(None, workers, replicas, policy).await
    }

    /// With other limits for its clients than the default ones.
    pub(crate) async fn start_limited(limits: Limits, replicas: &[SocketAddr]) -> Self {
        Self::start_as(|config| config.limits = limits, replicas, Policy::default()).await
    }

    /// With TLS on a port of its own.
    pub(crate) async fn start_beside(
        tls: Option<Arc<Tls>>,
        workers: usize,
        replicas: &[SocketAddr],
        policy: Policy,
    ) -> Self {
        let configure = |config: &mut ProxyConfig| {
            config.tls = tls.map(|tls| ("127.0.0.1:0".parse().unwrap(), tls));
            config.workers = workers;
        };
        Self::start_as(configure, replicas, policy).await
    }

    /// In front of replicas that speak what their endpoints say.
    pub(crate) fn start_to(endpoints: Vec<Endpoint>, upstream_tls: Arc<ClientTls>, policy: Policy) -> Self {
        Self::start_before(|config| config.upstream_tls = upstream_tls, endpoints, policy)
    }

    /// Of one worker, unless it is configured otherwise.
    pub(crate) async fn start_as(
        configure: impl FnOnce(&mut ProxyConfig),
        replicas: &[SocketAddr],
        policy: Policy,
    ) -> Self {
        let address = |address: &SocketAddr| Address::parse(&address.to_string()).unwrap();
        let endpoints = replicas.iter().map(|replica| address(replica).into()).collect();
        Self::start_before(configure, endpoints, policy)
    }

    /// ... and configured otherwise, too.
    pub(crate) fn start_before(
        configure: impl FnOnce(&mut ProxyConfig),
        endpoints: Vec<Endpoint>,
        policy: Policy,
    ) -> Self {
        let mut config = ProxyConfig {
            listen: "127.0.0.1:0".parse().unwrap(),
            tls: None,
            upstream_tls: Arc::default(),
            admin: None,
            workers: 1,
            node_id: NodeId::parse("dp-1").unwrap(),
            domain: None,
            debug_headers: true,
            access_log: None,
            tracer: None,
            proxy_headers: None,
            forwarding: Forwarding::default(),
            limits: Limits::default(),
            drain_delay: Duration::ZERO,
            drain_timeout: Duration::from_secs(10),
        };
        configure(&mut config);
        let clock = Clock::new();
        let (table, transitions) = Table::new(config.workers);
        let replicas = endpoints.into_iter().enumerate().map(|(index, endpoint)| {
            let id = ReplicaId::parse(&format!("r-{index}")).unwrap();
            ReplicaSpec { endpoint: endpoint.clone(), ..ReplicaSpec::listed(id, endpoint.address) }
        });
        let name = ServiceName::parse("orders").unwrap();
        table.apply(&[ServiceSpec { name, policy, replicas: replicas.collect() }], &[], clock.now());
        let shutdown = Shutdown::new();
        let proxy = start(config, Arc::clone(&table), clock, &shutdown).unwrap();
        Self { listen: proxy.listen(), table, clock, transitions, shutdown, proxy }
    }

    /// Changes what the registry says of one replica, counted from zero, and waits until all workers go by it.
    pub(crate) async fn respecify(&self, index: usize, change: impl FnOnce(&mut ReplicaSpec)) {
        let service = self.service();
        let mut replicas: Vec<_> = service.replicas().iter().map(|replica| replica.spec().clone()).collect();
        change(&mut replicas[index]);
        let spec = ServiceSpec { name: service.name().clone(), policy: *service.policy(), replicas };
        self.table.apply(&[spec], &[], self.clock.now());
        self.table.drains_taken_on().await;
    }

    /// Drains one replica: what is in flight has `time` to finish.
    pub(crate) async fn drain(&self, index: usize, time: Duration) {
        let change = |spec: &mut ReplicaSpec| {
            spec.mode = Mode::Draining;
            spec.drain_deadline = Some(SystemTime::now() + time);
        };
        self.respecify(index, change).await;
    }

    /// What was refused, by reason.
    pub(crate) fn refusals(&self) -> Vec<(&'static str, u64)> {
        self.proxy.refusals().read().filter(|(_, count)| *count > 0).collect()
    }

    /// Attempts under way at one replica.
    pub(crate) fn inflight(&self, index: usize) -> u64 {
        self.service().replicas()[index].counters().inflight
    }

    pub(crate) fn service(&self) -> Arc<Service> {
        self.table.service("orders").unwrap()
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.listen).await.unwrap()
    }

    /// Sends these bytes on a new connection and reads one response.
    pub(crate) async fn send(&self, bytes: &str) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes.as_bytes()).await.unwrap();
        read_message(&mut stream).await.expect("the connection ended without a response")
    }

    pub(crate) async fn get(&self, path: &str) -> String {
        self.send(&format!("GET {path} HTTP/1.1\r\nhost: gw\r\n\r\n")).await
    }

    pub(crate) async fn post(&self, path: &str, body: &str) -> String {
        let length = body.len();
        self.send(&format!("POST {path} HTTP/1.1\r\nhost: gw\r\ncontent-length: {length}\r\n\r\n{body}"))
            .await
    }
}

/// The status code of a response's text.
pub(crate) fn status(response: &str) -> u16 {
    response.split(' ').nth(1).unwrap().parse().unwrap()
}

/// Why the gateway has not passed a request on, by an answer of its own.
pub(crate) fn reason(response: &str) -> String {
    let problem: serde_json::Value = serde_json::from_str(body(response)).expect(response);
    assert_eq!(field(response, "content-type").as_deref(), Some("application/problem+json"));
    assert!(field(response, "proxy-status").expect(response).starts_with("gw-dp-1; error="));
    problem["reason"].as_str().expect("a reason").to_owned()
}

/// The value of a field in a message's text, if it is there.
pub(crate) fn field(message: &str, name: &str) -> Option<String> {
    let head = message.split("\r\n\r\n").next().unwrap();
    let mut fields = head.lines().filter_map(|line| line.split_once(": "));
    fields.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
}

/// What follows the head.
pub(crate) fn body(message: &str) -> &str {
    message.split_once("\r\n\r\n").unwrap().1
}

/// A port on which nobody listens, and which nobody else can take meanwhile.
pub(crate) struct Dead {
    pub(crate) address: SocketAddr,
    socket: socket2::Socket,
}

impl Dead {
    pub(crate) fn new() -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        Self { address, socket }
    }

    /// Listens on the port from now on.
    pub(crate) fn revive(self) -> TcpListener {
        self.socket.listen(16).unwrap();
        self.socket.set_nonblocking(true).unwrap();
        TcpListener::from_std(self.socket.into()).unwrap()
    }
}

/// Between two looks at a condition. Nothing else in these tests waits for something to happen by sleeping.
const LOOK: Duration = Duration::from_millis(10);

/// Waits until `holds`, for ten seconds at most.
pub(crate) async fn eventually(what: &str, holds: impl Fn() -> bool) {
    until(what, async || holds().then_some(())).await;
}

/// Looks until there is something to see, for ten seconds at most, and yields it.
pub(crate) async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(seen) = look().await {
                return seen;
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    let seen = tokio::time::timeout(Duration::from_secs(10), looking).await;
    seen.unwrap_or_else(|_| panic!("never happened: {what}"))
}

/// Waits until a count that has begun does not move for half a second, and yields it: what is held back stands still, and nobody
/// tells of that.
pub(crate) async fn comes_to_rest(count: impl Fn() -> usize) -> usize {
    let (mut before, mut since) = (0, Instant::now());
    until("it comes to rest", async || {
        let now = count();
        if now != before || now == 0 {
            (before, since) = (now, Instant::now());
        }
        (since.elapsed() >= Duration::from_millis(500)).then_some(now)
    })
    .await
}
