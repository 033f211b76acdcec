//! One check of one replica, on a connection of its own.
//!
//! Whatever the replica answers, a check reads a bounded head, holds a bounded buffer, and ends in its time.

use std::{
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use gateway_proto::{
    Endpoint, code_name,
    endpoint::Kind as Spoken,
    policy::{CheckHost, CheckMethod, CheckPath, GrpcService, HealthCheck, Statuses},
};
use gateway_runtime::tls::ClientTls;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::{
    body::{Body, Incoming},
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, lookup_host},
    sync::Semaphore,
    time::{Instant, timeout_at},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::schedule::Mark;
use crate::proxy::tls_fault;

/// Of an answer's head, at most so much is read.
const MAX_HEAD: usize = 16 * 1024;
/// Of a gRPC answer's body, at most so much is read.
const MAX_MESSAGE: usize = 1024;
/// Of all that a replica says on a check's connection, at most so much is read: neither interim responses without end nor
/// frames that ask for answers keep a check busy for its whole time.
const MAX_READ: usize = 64 * 1024;
/// What replicas see in their logs.
const USER_AGENT: &str = concat!("gateway-health-check/", env!("CARGO_PKG_VERSION"));
/// Lookups of names at once: one that hangs holds its place until the resolver gives up, whoever has ceased to wait.
const MAX_LOOKUPS: usize = 32;

/// `ENFILE` and `EMFILE`.
const NO_FILE_LEFT: [i32; 2] = [23, 24];

/// A check that is to be carried out.
#[derive(Debug, Clone)]
pub(super) struct Probe {
    pub(super) endpoint: Endpoint,
    pub(super) kind: Kind,
    timeout: Duration,
    path: CheckPath,
    host: CheckHost,
    expected: Statuses,
    service: GrpcService,
}

/// What a check is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// For a verdict on the replica, as its policy says.
    Check(CheckMethod),
    /// For whether anybody listens at its port again.
    Port,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] = [
        Self::Check(CheckMethod::Tcp),
        Self::Check(CheckMethod::Http),
        Self::Check(CheckMethod::Grpc),
        Self::Port,
    ];

    /// As metrics name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Check(method) => method.name(),
            Self::Port => "port",
        }
    }

    /// What it asks of a replica.
    fn method(self) -> CheckMethod {
        match self {
            Self::Check(method) => method,
            Self::Port => CheckMethod::Tcp,
        }
    }
}

/// Why a check did not pass, in words for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// By the replica's fault.
    Failed(String),
    /// It could not be carried out: says nothing of the replica.
    Void(String),
}

impl Failure {
    fn of(what: impl fmt::Display) -> Self {
        let text: String = what.to_string();
        Self::Failed(text.chars().take(200).collect())
    }
}

/// The places for lookups of names.
#[derive(Debug, Clone)]
pub(super) struct Lookups(Arc<Semaphore>);

impl Default for Lookups {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_LOOKUPS)))
    }
}

impl Probe {
    pub(super) fn new(endpoint: Endpoint, method: CheckMethod, policy: &HealthCheck) -> Self {
        Self::of_kind(Kind::Check(method), endpoint, policy)
    }

    /// One that goes as far as a connection, whatever the policy asks for.
    pub(super) fn of_port(endpoint: Endpoint, policy: &HealthCheck) -> Self {
        Self::of_kind(Kind::Port, endpoint, policy)
    }

    fn of_kind(kind: Kind, endpoint: Endpoint, policy: &HealthCheck) -> Self {
        Self {
            endpoint,
            kind,
            timeout: policy.timeout,
            path: policy.path,
            host: policy.host,
            expected: policy.expected_statuses,
            service: policy.grpc_service,
        }
    }

    /// A number for all that it depends on, but for the time that it may take.
    pub(super) fn mark(&self) -> Mark {
        let mut hasher = DefaultHasher::new();
        (&self.endpoint, self.kind, self.path, self.host, self.expected, self.service).hash(&mut hasher);
        hasher.finish()
    }

    /// Carries it out, within its timeout, unless it leads to `admin`.
    pub(super) async fn run(
        &self,
        lookups: &Lookups,
        tls: &ClientTls,
        admin: Option<SocketAddr>,
    ) -> Result<(), Failure> {
        let deadline = Instant::now() + self.timeout;
        let late = |what: &str| Failure::of(format_args!("no {what} in {:?}", self.timeout));
        let connected = timeout_at(deadline, self.connect(lookups, admin)).await;
        let stream = connected.map_err(|_| late("connection"))??;
        let (reader, writer) = stream.into_split();
        let stream = tokio::io::join(Bounded { reader, left: MAX_READ }, writer);
        let answered = async {
            if self.kind.method() == CheckMethod::Tcp {
                return Ok(());
            }
            match self.endpoint.protocol.kind() {
                Spoken::Tls(_) => {
                    let stream = self.encrypt(stream, tls).await?;
                    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                    self.ask(stream, is_http2).await
                }
                Spoken::H2c => self.ask(stream, true).await,
                Spoken::Http1 => self.ask(stream, self.kind.method() == CheckMethod::Grpc).await,
            }
        };
        timeout_at(deadline, answered).await.map_err(|_| late("answer"))?
    }

    async fn connect(&self, lookups: &Lookups, admin: Option<SocketAddr>) -> Result<TcpStream, Failure> {
        let connected = match self.endpoint.address.socket() {
            Some(socket) => TcpStream::connect(socket).await,
            None => {
                let addresses = self.look_up(lookups).await?;
                TcpStream::connect(&addresses[..]).await
            }
        };
        let stream = connected.map_err(|error| connect_failure(&error))?;
        let port = self.endpoint.address.port();
        crate::resolved::check_not_admin(admin, port, &stream).map_err(Failure::of)?;
        // At worst it is slower.
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }

    async fn look_up(&self, lookups: &Lookups) -> Result<Vec<std::net::SocketAddr>, Failure> {
        let void = |_| Failure::Void("no lookup of names can be made".to_owned());
        let place = Arc::clone(&lookups.0).acquire_owned().await.map_err(void)?;
        let (host, port) = (self.endpoint.address.host().to_owned(), self.endpoint.address.port());
        let found = tokio::spawn(async move {
            let _place = place;
            let found = lookup_host((host.as_str(), port)).await;
            found.and_then(|found| crate::resolved::admitted(&host, found))
        });
        match found.await {
            Ok(Ok(addresses)) if !addresses.is_empty() => Ok(addresses),
            Ok(Ok(_)) => Err(Failure::of("the host's name has no address")),
            Ok(Err(error)) => Err(Failure::of(format_args!("the host's name was not found: {error}"))),
            Err(_) => Err(Failure::Void("the lookup of its name ended early".to_owned())),
        }
    }

    fn authority(&self) -> &str {
        if self.host.as_str().is_empty() { self.endpoint.address.as_str() } else { self.host.as_str() }
    }

    fn scheme(&self) -> &'static str {
        if self.endpoint.tls_name().is_some() { "https" } else { "http" }
    }

    async fn encrypt<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        tls: &ClientTls,
    ) -> Result<TlsStream<S>, Failure> {
        let name = self.endpoint.tls_name().unwrap_or_default().to_owned();
        let name = ServerName::try_from(name).map_err(|_| Failure::Void("its name is none".to_owned()))?;
        let config = tls.config().await.map_err(Failure::Void)?;
        TlsConnector::from(config).connect(name, stream).await.map_err(|error| match tls_fault(&error) {
            Some(fault) => Failure::of(fault),
            None => Failure::of("TLS failed: closed in the handshake"),
        })
    }

    async fn ask(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        is_http2: bool,
    ) -> Result<(), Failure> {
        match (self.kind.method(), is_http2) {
            (CheckMethod::Grpc, true) => self.ask_grpc(stream).await,
            (CheckMethod::Grpc, false) => Err(Failure::of("gRPC needs HTTP/2, which it does not speak")),
            (_, true) => self.get_http2(stream).await,
            (_, false) => self.get(stream).await,
        }
    }

    async fn get_http2(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<(), Failure> {
        let request = Request::builder()
            .method(Method::GET)
            .uri(format!("{}://{}{}", self.scheme(), self.authority(), self.path.as_str()))
            .header(header::USER_AGENT, USER_AGENT)
            .header(header::ACCEPT, "*/*")
            .body(Empty::<Bytes>::new())
            .map_err(|error| Failure::Void(format!("the check cannot be sent: {error}")))?;
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX));
        let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let response = driven(sender.send_request(request), connection).await.map_err(broken)?;
        self.judge(response.status())
    }

    fn judge(&self, status: StatusCode) -> Result<(), Failure> {
        match self.expected.has(status.as_u16()) {
            true => Ok(()),
            false => Err(Failure::of(format_args!("status {}, expected {}", status.as_u16(), self.expected))),
        }
    }

    async fn get(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<(), Failure> {
        let request = Request::builder()
            .method(Method::GET)
            .uri(self.path.as_str())
            .header(header::HOST, self.authority())
            .header(header::USER_AGENT, USER_AGENT)
            .header(header::ACCEPT, "*/*")
            .header(header::CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .map_err(|error| Failure::Void(format!("the check cannot be sent: {error}")))?;
        let mut builder = http1::Builder::new();
        builder.max_buf_size(MAX_HEAD).max_headers(100);
        let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let response = driven(sender.send_request(request), connection).await.map_err(broken)?;
        self.judge(response.status())
    }

    async fn ask_grpc(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<(), Failure> {
        let body = framed(&HealthCheckRequest { service: self.service.as_str().to_owned() });
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("{}://{}/grpc.health.v1.Health/Check", self.scheme(), self.authority()))
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::USER_AGENT, USER_AGENT)
            .header(header::TE, "trailers")
            .body(Full::new(body))
            .map_err(|error| Failure::Void(format!("the check cannot be sent: {error}")))?;
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX));
        let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(broken)?;
            read_grpc(response).await
        };
        tokio::pin!(exchange, connection);
        tokio::select! {
            biased;
            answered = &mut exchange => answered,
            // What it ended with, the exchange hears of, too.
            _ = &mut connection => exchange.await,
        }
    }
}

/// Fails once it has read as much as may be read.
struct Bounded<R> {
    reader: R,
    left: usize,
}

impl<R: AsyncRead + Unpin> AsyncRead for Bounded<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.left == 0 {
            return Poll::Ready(Err(io::Error::other("an answer of more than 64 KiB")));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.reader).poll_read(cx, buffer))?;
        self.left = self.left.saturating_sub(buffer.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

/// What `exchange` yields while `connection` is driven.
async fn driven<T, E>(
    exchange: impl Future<Output = Result<T, hyper::Error>>,
    connection: impl Future<Output = Result<(), E>>,
) -> Result<T, hyper::Error> {
    tokio::pin!(exchange, connection);
    tokio::select! {
        biased;
        answered = &mut exchange => answered,
        _ = &mut connection => exchange.await,
    }
}

async fn read_grpc(response: http::Response<Incoming>) -> Result<(), Failure> {
    let (head, body) = response.into_parts();
    if head.status != StatusCode::OK {
        return Err(Failure::of(format_args!("status {}, where gRPC answers 200", head.status.as_u16())));
    }
    // An error without a message comes with the head alone.
    grpc_status(&head.headers)?;
    if body.is_end_stream() {
        return Err(Failure::of("an answer without a message"));
    }
    let whole = Limited::new(body, MAX_MESSAGE).collect().await;
    let whole = whole.map_err(|error| Failure::of(format_args!("a broken answer: {error}")))?;
    if let Some(trailers) = whole.trailers() {
        grpc_status(trailers)?;
    }
    let bytes = whole.to_bytes();
    // One byte of flags, which must say that nothing is compressed, and four of length.
    let message = bytes.split_first_chunk::<5>().filter(|(prefix, _)| prefix[0] == 0);
    let message = message.and_then(|(_, message)| HealthCheckResponse::decode(message).ok());
    match message.map(|message| message.status) {
        Some(1) => Ok(()),
        Some(0) => Err(Failure::of("its health is UNKNOWN")),
        Some(2) => Err(Failure::of("its health is NOT_SERVING")),
        Some(3) => Err(Failure::of("its health is SERVICE_UNKNOWN")),
        Some(other) => Err(Failure::of(format_args!("its health is {other}, which says nothing"))),
        None => Err(Failure::of("an answer that is none of the gRPC health service")),
    }
}

/// Refuses a status that is there and not OK.
fn grpc_status(fields: &HeaderMap) -> Result<(), Failure> {
    let Some(status) = fields.get("grpc-status") else { return Ok(()) };
    let code = tonic::Code::from_bytes(status.as_bytes());
    if code == tonic::Code::Ok {
        return Ok(());
    }
    let message = fields.get("grpc-message").and_then(|message| message.to_str().ok()).unwrap_or_default();
    let what = format!("gRPC status {}", code_name(code));
    Err(Failure::of(if message.is_empty() { what } else { format!("{what}: {message}") }))
}

fn framed(message: &impl Message) -> Bytes {
    let mut body = BytesMut::new();
    body.put_u8(0);
    body.put_u32(u32::try_from(message.encoded_len()).unwrap_or(u32::MAX));
    message.encode(&mut body).expect("a BytesMut grows to what a message needs");
    body.freeze()
}

/// Of `grpc.health.v1`.
#[derive(Clone, PartialEq, Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// Of `grpc.health.v1`.
#[derive(Clone, PartialEq, Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

fn connect_failure(error: &io::Error) -> Failure {
    if error.raw_os_error().is_some_and(|code| NO_FILE_LEFT.contains(&code)) {
        return Failure::Void("this data plane has no file descriptor left".to_owned());
    }
    match error.kind() {
        io::ErrorKind::AddrNotAvailable => {
            Failure::Void("this data plane's machine has no port left to connect from".to_owned())
        }
        io::ErrorKind::ConnectionRefused => Failure::of("connect refused"),
        kind => Failure::of(format_args!("connect failed: {kind}")),
    }
}

/// What hyper says of an exchange that broke.
fn broken(error: hyper::Error) -> Failure {
    if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        return Failure::of("closed without an answer");
    }
    if error.is_parse() {
        return Failure::of("an answer that is no HTTP");
    }
    Failure::of(format_args!("broken: {}", gateway_runtime::root_cause(&error)))
}

#[cfg(test)]
mod tests;
