//! The replicas: as little as answers HTTP/1.1, so that what is measured is the proxy before them.

use std::{
    collections::BTreeMap,
    future::ready,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use anyhow::{Context, Result};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::load::GRPC_MESSAGE;

/// Sizes of bodies that are answered, by paths such as `/100`.
const SIZES: [usize; 3] = [100, 2048, 1 << 20];

/// Servers on ports of their own.
#[derive(Debug)]
pub(crate) struct Replicas {
    addresses: Vec<SocketAddr>,
    /// Of those that answer calls of gRPC.
    grpc_addresses: Vec<SocketAddr>,
    /// Whether the last of them answers with 503.
    is_failing: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Answers {
    by_path: BTreeMap<String, Bytes>,
    failure: Bytes,
}

impl Replicas {
    /// Starts so many of each kind, all of them on each of so many threads. They run until the process ends.
    pub(crate) fn start(count: usize, threads: usize) -> Result<Self> {
        let is_failing = Arc::new(AtomicBool::new(false));
        let bind = || -> Result<_> {
            let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        let mut listeners = Vec::new();
        for _ in 0..2 * count {
            listeners.push(bind()?);
        }
        let mut addresses =
            listeners.iter().map(std::net::TcpListener::local_addr).collect::<Result<Vec<_>, _>>()?;
        for _ in 0..threads {
            let listeners =
                listeners.iter().map(std::net::TcpListener::try_clone).collect::<Result<Vec<_>, _>>()?;
            let failing = Arc::clone(&is_failing);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            std::thread::Builder::new().name("replicas".into()).spawn(move || {
                runtime.block_on(async {
                    let answers = Arc::new(Answers::new());
                    for (place, listener) in listeners.into_iter().enumerate() {
                        let listener = TcpListener::from_std(listener).expect("it does not block");
                        if place >= count {
                            tokio::spawn(accept_calls(listener));
                            continue;
                        }
                        let failing = (place + 1 == count).then(|| Arc::clone(&failing));
                        tokio::spawn(accept(listener, Arc::clone(&answers), failing));
                    }
                    std::future::pending::<()>().await;
                });
            })?;
        }
        let grpc_addresses = addresses.split_off(count);
        Ok(Self { addresses, grpc_addresses, is_failing })
    }

    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    pub(crate) fn grpc_addresses(&self) -> &[SocketAddr] {
        &self.grpc_addresses
    }

    /// From now on the last one answers 503 to everything, or does not.
    pub(crate) fn fail_one(&self, fails: bool) {
        self.is_failing.store(fails, Relaxed);
    }
}

impl Answers {
    fn new() -> Self {
        let answer = |status: &str, size: usize| {
            let head =
                format!("HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {size}\r\n\r\n");
            let mut bytes = head.into_bytes();
            bytes.resize(bytes.len() + size, b'x');
            Bytes::from(bytes)
        };
        Self {
            by_path: SIZES.iter().map(|size| (format!("/{size}"), answer("200 OK", *size))).collect(),
            failure: answer("503 Service Unavailable", 0),
        }
    }
}

async fn accept(listener: TcpListener, answers: Arc<Answers>, failing: Option<Arc<AtomicBool>>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (answers, failing) = (Arc::clone(&answers), failing.clone());
        tokio::spawn(async move {
            // Whoever closes a connection ends it.
            let _ = serve(stream, &answers, failing.as_deref()).await;
        });
    }
}

async fn serve(mut stream: TcpStream, answers: &Answers, failing: Option<&AtomicBool>) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = BytesMut::with_capacity(16 << 10);
    loop {
        let head = loop {
            if let Some(end) = memchr::memmem::find(&buffer, b"\r\n\r\n") {
                break buffer.split_to(end + 4);
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        let text = std::str::from_utf8(&head)?;
        let path = text.split(' ').nth(1).context("a request line")?;
        let mut left = content_length(text);
        while left > 0 {
            if buffer.is_empty() && stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
            let taken = left.min(buffer.len());
            let _ = buffer.split_to(taken);
            left -= taken;
        }
        let fails = failing.is_some_and(|failing| failing.load(Relaxed));
        let answer = if fails { &answers.failure } else { answers.by_path.get(path).context("a size")? };
        stream.write_all(answer).await?;
    }
}

/// Takes calls of gRPC and answers each with a message like the one that came.
async fn accept_calls(listener: TcpListener) {
    let answer = service_fn(|request: Request<Incoming>| async move {
        request.into_body().collect().await?;
        let trailers =
            HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]);
        let body = Full::new(Bytes::from_static(&GRPC_MESSAGE)).with_trailers(ready(Some(Ok(trailers))));
        anyhow::Ok(Response::builder().header("content-type", "application/grpc").body(body)?)
    });
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        let connection = http2::Builder::new(TokioExecutor::new())
            .max_concurrent_streams(1000)
            .serve_connection(TokioIo::new(stream), answer);
        // Whoever closes a connection ends it.
        tokio::spawn(async { drop(connection.await) });
    }
}

/// What a head says of its body's length.
pub(crate) fn content_length(head: &str) -> usize {
    let fields = head.lines().filter_map(|line| line.split_once(':'));
    let mut lengths = fields.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    lengths.next().and_then(|(_, value)| value.trim().parse().ok()).unwrap_or(0)
}
