//! Clients: connections that ask again as soon as they are answered, or at a fixed pace.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    ops::Range,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    task::LocalSet,
};
use tokio_rustls::TlsConnector;

use crate::{peers::service_name, tls, upstream::content_length};

/// The host by which the gateway finds the service; others do not care.
pub(crate) const HOST: &str = "bench.localhost";
const GRPC_HOST: &str = "grpc.localhost";
/// Prefix and 100 bytes, without compression.
pub(crate) const GRPC_MESSAGE: [u8; 105] = {
    let mut message = [b'x'; 105];
    (message[0], message[1], message[2], message[3], message[4]) = (0, 0, 0, 0, 100);
    message
};

/// What clients saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Each answer of 200, in microseconds from the moment at which it was due.
    pub(crate) latencies: Vec<u32>,
    /// Other answers.
    pub(crate) failures: u64,
    /// From the first request to the last answer.
    pub(crate) took: Duration,
}

/// What is asked for in HTTP/1.1.
#[derive(Clone)]
pub(crate) struct Ask {
    pub(crate) size: usize,
    pub(crate) body: usize,
    /// Of which services, in turns.
    pub(crate) services: Range<usize>,
    /// Whether each of them is asked no more than once.
    pub(crate) once: bool,
    /// Whether TLS is spoken, and which certificate is believed.
    pub(crate) tls: Option<TlsConnector>,
}

/// What is asked for in HTTP/2.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Call {
    /// A GET of so many bytes.
    Get(usize),
    /// A unary call of gRPC with a message of 100 bytes.
    Grpc,
}

impl Ask {
    /// A GET of so many bytes, always of the first service.
    pub(crate) fn get(size: usize) -> Self {
        Self { size, body: 0, services: 0..1, once: false, tls: None }
    }

    /// A request to each of the services.
    fn requests(&self, more: &str) -> Rc<[Bytes]> {
        (self.services.clone())
            .map(|place| self.bytes(&format!("{}.localhost", service_name(place)), more))
            .collect()
    }

    fn bytes(&self, host: &str, more: &str) -> Bytes {
        let (method, length) = match self.body {
            0 => ("GET", String::new()),
            length => ("POST", format!("Content-Length: {length}\r\n")),
        };
        let head = format!(
            "{method} /{} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: bench\r\nAccept: */*\r\n{length}{more}\r\n",
            self.size
        );
        let mut bytes = head.into_bytes();
        bytes.resize(bytes.len() + self.body, b'x');
        bytes.into()
    }
}

impl Call {
    fn request(self) -> Result<http::Request<Full<Bytes>>> {
        match self {
            Self::Get(size) => Ok(http::Request::get(format!("http://{HOST}/{size}")).body(Full::default())?),
            Self::Grpc => Ok(http::Request::post(format!("http://{GRPC_HOST}/bench.Echo/Unary"))
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(Full::new(Bytes::from_static(&GRPC_MESSAGE)))?),
        }
    }
}

/// So many connections, each of which asks again when it is answered. Once all are there, `begins` is called.
pub(crate) async fn closed(
    proxy: SocketAddr,
    ask: &Ask,
    connections: usize,
    limit: Duration,
    begins: impl FnOnce() -> Result<()>,
) -> Result<Seen> {
    let (requests, turns) = (ask.requests(""), Rc::new(Cell::new(0)));
    let last = if ask.once { requests.len() } else { usize::MAX };
    let mut clients = Vec::new();
    for _ in 0..connections {
        clients.push(Client::connect(proxy, ask.tls.as_ref()).await?);
    }
    begins()?;
    together(connections, limit, |_, seen, until| {
        let (requests, turns) = (Rc::clone(&requests), Rc::clone(&turns));
        let client = clients.pop();
        async move {
            let mut client = client.context("one for each caller")?;
            loop {
                let (began, turn) = (Instant::now(), turns.get());
                if began >= until || turn == last {
                    return Ok(());
                }
                turns.set(turn + 1);
                let status = client.ask(&requests[turn % requests.len()]).await?;
                note(&seen, status, began);
            }
        }
    })
    .await
}

/// As [`closed`], on a new connection for each request.
pub(crate) async fn anew(proxy: SocketAddr, ask: &Ask, callers: usize, limit: Duration) -> Result<Seen> {
    let request = ask.bytes(HOST, "Connection: close\r\n");
    let tls = ask.tls.clone();
    together(callers, limit, |_, seen, until| {
        let (request, tls) = (request.clone(), tls.clone());
        async move {
            while Instant::now() < until {
                let began = Instant::now();
                let status = Client::connect(proxy, tls.as_ref()).await?.ask(&request).await?;
                note(&seen, status, began);
            }
            Ok(())
        }
    })
    .await
}

/// So many requests a second over so many connections; latency counts from when each was due.
pub(crate) async fn paced(
    proxy: SocketAddr,
    ask: &Ask,
    connections: usize,
    rate: f64,
    limit: Duration,
) -> Result<Seen> {
    let request = ask.bytes(HOST, "");
    let pause = Duration::from_secs_f64(connections as f64 / rate);
    together(connections, limit, |place, seen, until| {
        let request = request.clone();
        async move {
            let mut client = Client::connect(proxy, None).await?;
            let mut due = Instant::now() + pause.mul_f64(place as f64 / connections as f64);
            while due < until {
                tokio::time::sleep_until(due.into()).await;
                // The timer's own lateness is not the proxy's.
                let began = Instant::now().min(due + Duration::from_millis(2));
                let status = client.ask(&request).await?;
                note(&seen, status, began);
                due += pause;
            }
            Ok(())
        }
    })
    .await
}

/// HTTP/2 without TLS: so many connections of so many streams each.
pub(crate) async fn http2(
    proxy: SocketAddr,
    call: &Call,
    connections: usize,
    streams: usize,
    limit: Duration,
) -> Result<Seen> {
    let request = call.request()?;
    together(connections, limit, |_, seen, until| {
        let request = request.clone();
        async move {
            let io = TokioIo::new(connect(proxy).await?);
            let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
            let (sender, connection) = builder.handshake::<_, Full<Bytes>>(io).await?;
            let connection = tokio::task::spawn_local(connection);
            let mut callers = Vec::new();
            for _ in 0..streams {
                let (mut sender, request, seen) = (sender.clone(), request.clone(), Rc::clone(&seen));
                callers.push(tokio::task::spawn_local(async move {
                    while Instant::now() < until {
                        let began = Instant::now();
                        sender.ready().await?;
                        let answer = sender.send_request(request.clone()).await?;
                        let status = answer.status().as_u16();
                        let refused = has_grpc_failed(answer.headers());
                        let body = answer.into_body().collect().await?;
                        let refused = refused || body.trailers().is_some_and(has_grpc_failed);
                        note(&seen, if refused { 500 } else { status }, began);
                    }
                    anyhow::Ok(())
                }));
            }
            for caller in callers {
                caller.await??;
            }
            drop(sender);
            connection.abort();
            Ok(())
        }
    })
    .await
}

/// Whether these fields say that a call has failed. Those of others say nothing of calls.
fn has_grpc_failed(fields: &http::HeaderMap) -> bool {
    fields.get("grpc-status").is_some_and(|status| status != "0")
}

/// Waits until the proxy knows the first service, and its answers are 200.
pub(crate) async fn answers(proxy: SocketAddr, patience: Duration) -> Result<()> {
    let (request, began) = (Ask::get(100).bytes(HOST, ""), Instant::now());
    while Client::connect(proxy, None).await?.ask(&request).await? != 200 {
        ensure!(began.elapsed() < patience, "{proxy} has no answer of 200 within {patience:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Connections that are open and ask for nothing, after one answer each.
pub(crate) async fn idle(proxy: SocketAddr, count: usize) -> Result<Vec<Box<dyn Stream>>> {
    let request = Ask::get(100).bytes(HOST, "");
    let mut open = Vec::with_capacity(count);
    for _ in 0..count {
        let mut client = Client::connect(proxy, None).await?;
        ensure!(client.ask(&request).await? == 200, "an idle connection's only request failed");
        open.push(client.stream);
    }
    Ok(open)
}

fn note(seen: &RefCell<Seen>, status: u16, began: Instant) {
    let mut seen = seen.borrow_mut();
    match status {
        200 => seen.latencies.push(u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX)),
        _ => seen.failures += 1,
    }
}

/// Runs so many callers at once until the time is over.
async fn together<F>(
    count: usize,
    limit: Duration,
    mut caller: impl FnMut(usize, Rc<RefCell<Seen>>, Instant) -> F,
) -> Result<Seen>
where
    F: Future<Output = Result<()>> + 'static,
{
    let seen = Rc::new(RefCell::new(Seen::default()));
    let began = Instant::now();
    let local = LocalSet::new();
    local
        .run_until(async {
            let callers: Vec<_> = (0..count)
                .map(|place| tokio::task::spawn_local(caller(place, Rc::clone(&seen), began + limit)))
                .collect();
            for caller in callers {
                caller.await.context("a caller panicked")??;
            }
            anyhow::Ok(())
        })
        .await?;
    drop(local);
    let mut seen = seen.take();
    seen.took = began.elapsed();
    Ok(seen)
}

async fn connect(proxy: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(proxy).await.with_context(|| format!("{proxy} takes a connection"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// What bytes come and go by.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

/// One connection of HTTP/1.1.
struct Client {
    stream: Box<dyn Stream>,
    buffer: BytesMut,
}

impl Client {
    async fn connect(proxy: SocketAddr, tls: Option<&TlsConnector>) -> Result<Self> {
        let stream = connect(proxy).await?;
        let stream: Box<dyn Stream> = match tls {
            Some(clients) => Box::new(tls::connect(clients, stream).await?),
            None => Box::new(stream),
        };
        Ok(Self { stream, buffer: BytesMut::with_capacity(16 << 10) })
    }

    /// Sends a request and reads its answer whole. Yields the status.
    async fn ask(&mut self, request: &[u8]) -> Result<u16> {
        self.stream.write_all(request).await?;
        let head = loop {
            if let Some(end) = memchr::memmem::find(&self.buffer, b"\r\n\r\n") {
                break self.buffer.split_to(end + 4);
            }
            ensure!(self.stream.read_buf(&mut self.buffer).await? > 0, "the proxy closed before it answered");
        };
        let text = std::str::from_utf8(&head)?;
        let status =
            text.split(' ').nth(1).and_then(|status| status.parse().ok()).context("a status line")?;
        let mut left = content_length(text);
        while left > 0 {
            if self.buffer.is_empty() {
                ensure!(self.stream.read_buf(&mut self.buffer).await? > 0, "the proxy cut an answer");
            }
            let taken = left.min(self.buffer.len());
            let _ = self.buffer.split_to(taken);
            left -= taken;
        }
        Ok(status)
    }
}
