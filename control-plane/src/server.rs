//! The listener: accepts connections, speaks HTTP/1.1 and HTTP/2 on each, in TLS or not, and ends them in good order.
//!
//! It knows requests only as far as to tell gRPC from the rest.

use std::{
    convert::Infallible,
    io::{self, ErrorKind},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use axum::{Router, body::Body};
use gateway_runtime::{
    Shutdown,
    accept::{Peek, begins_with, is_of_one_connection},
    panics::caught,
    tls::{self, PeerCertificate, Tls},
};
use http::{Request, Response, Version, header};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_rustls::server::TlsStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

use crate::{
    clock,
    listeners::{Listeners, Stream, Whence},
    panics::Panics,
    strangers::{Paced, Peer, Strangers},
};

/// A client that says nothing for this long, or sends half a request head, is cut off.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// A peer is asked for a sign of life this often, and dead after `PING_TIMEOUT` more.
const PING_INTERVAL: Duration = Duration::from_secs(5);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests under way on one HTTP/2 connection.
const MAX_STREAMS: u32 = 1000;
/// How long requests under way may take to finish once the shutdown has begun.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two tries to accept when the system has no room for another connection.
const MIN_BACKOFF: Duration = Duration::from_millis(10);
const MAX_BACKOFF: Duration = Duration::from_secs(1);
/// A connection is asked to end then, so that timers need not count further.
const MAX_AGE: Duration = Duration::from_secs(365 * 24 * 3600);
const H2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What is served: gRPC by its content type, everything else as plain HTTP.
#[derive(Debug, Clone)]
pub(crate) struct Routers {
    pub(crate) grpc: Router,
    pub(crate) http: Router,
}

/// Serves connections. Shared by the task that accepts them and the one that sees them to their end; either may be
/// started again while connections are served.
#[derive(Debug)]
pub(crate) struct Server {
    routers: Routers,
    tls: Option<Arc<Tls>>,
    builder: Builder<TokioExecutor>,
    /// One for each connection.
    places: Arc<Semaphore>,
    strangers: Arc<Strangers>,
    connections: TaskTracker,
    shutdown: Shutdown,
    /// Ends what did not end in time.
    cut: CancellationToken,
    panics: Panics,
}

impl Server {
    pub(crate) fn new(
        routers: Routers,
        tls: Option<Arc<Tls>>,
        (max_connections, strangers): (usize, Arc<Strangers>),
        shutdown: Shutdown,
        panics: Panics,
    ) -> Self {
        let places = Arc::new(Semaphore::new(max_connections));
        let (connections, cut) = (TaskTracker::new(), CancellationToken::new());
        Self { routers, tls, builder: builder(), places, strangers, connections, shutdown, cut, panics }
    }

    /// Accepts connections until the shutdown begins, each served by a task of its own.
    pub(crate) async fn accept_all(self: Arc<Self>, listeners: Arc<Listeners>) {
        // While it is held nobody takes the connections for complete.
        let _accepting = self.connections.token();
        while let Some((stream, whence, place)) = accept(&listeners, &self.places, &self.shutdown).await {
            let server = Arc::clone(&self);
            self.connections.spawn(async move {
                let connection = async {
                    let who = server.strangers.meet();
                    tokio::select! {
                        () = server.serve(stream, whence, &who) => {}
                        () = who.outstays() => {
                            tracing::debug!(%whence, "too many say nothing of who they are: cutting this one off");
                        }
                        () = server.cut.cancelled() => {}
                    }
                };
                if let Err(panic) = caught(connection).await {
                    server.panics.handled("connection", &format!("connection from {whence}"), &panic);
                }
                drop(place);
            });
        }
    }

    /// Completes when the shutdown has begun and what was in flight has finished, or was cut off `DRAIN_TIMEOUT` later.
    pub(crate) async fn drained(&self) {
        self.shutdown.begun().await;
        self.connections.close();
        if timeout(DRAIN_TIMEOUT, self.connections.wait()).await.is_err() {
            let open = self.connections.len();
            tracing::warn!(after = ?DRAIN_TIMEOUT, open, "connections were still busy: cutting them off");
            self.cut.cancel();
        }
    }

    /// Serves one connection to its end, or, once the shutdown has begun, to the end of what is in flight on it.
    async fn serve(&self, stream: Stream, whence: Whence, who: &Arc<Peer>) {
        // A client that has asked for nothing yet must not hold up the end; one that has is answered.
        let begun = async {
            match (stream, &self.tls) {
                (Stream::Unix(stream), _) => await_head(&stream).await.map(|()| Begun::Unix(stream)),
                (Stream::Tcp(stream), None) => await_head(&stream).await.map(|()| Begun::Plain(stream)),
                (Stream::Tcp(stream), Some(tls)) => {
                    handshake(stream, tls).await.map(|stream| Begun::Tls(Box::new(stream)))
                }
            }
        };
        let begun = tokio::select! {
            biased;
            begun = begun => begun,
            () = self.shutdown.begun() => return,
        };
        match begun {
            Ok(Begun::Plain(stream)) => {
                self.serve_requests(stream, self.builder.clone(), (whence, None, who)).await
            }
            Ok(Begun::Unix(stream)) => {
                self.serve_requests(stream, self.builder.clone(), (whence, None, who)).await
            }
            Ok(Begun::Tls(stream)) => {
                let builder = match stream.get_ref().1.alpn_protocol() {
                    Some(b"h2") => self.builder.clone().http2_only(),
                    _ => self.builder.clone().http1_only(),
                };
                match tls::certificate_of(&stream) {
                    Ok(certificate) => {
                        self.serve_requests(stream, builder, (whence, certificate.map(Arc::new), who)).await
                    }
                    Err(error) => tracing::debug!(%whence, error, "a client certificate cannot be read"),
                }
            }
            Err(error) => tracing::debug!(%whence, %error, "connection ended before its first request"),
        }
    }

    async fn serve_requests(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        builder: Builder<TokioExecutor>,
        (whence, certificate, who): (Whence, Option<Arc<PeerCertificate>>, &Arc<Peer>),
    ) {
        let good_for = good_for(certificate.as_deref());
        let routers = self.routers.clone();
        let stream = Paced::new(stream, Arc::clone(who));
        let who = Arc::clone(who);
        let service = service_fn(move |mut request: Request<Incoming>| {
            who.has_asked(is_grpc(&request));
            request.extensions_mut().insert(Arc::clone(&who));
            routers.clone().call(request, whence, certificate.clone())
        });
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            // Who has a new certificate shows it on a new connection.
            () = sleep(good_for) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
            () = self.shutdown.begun() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%whence, %error, "connection ended");
        }
    }
}

/// A connection on which something was said.
enum Begun {
    Plain(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Routers {
    async fn call(
        self,
        request: Request<Incoming>,
        whence: Whence,
        certificate: Option<Arc<PeerCertificate>>,
    ) -> Result<Response<Body>, Infallible> {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(whence);
        if let Some(certificate) = certificate {
            request.extensions_mut().insert(certificate);
        }
        let router = if is_grpc(&request) { self.grpc } else { self.http };
        router.oneshot(request).await
    }
}

/// gRPC is HTTP/2. Over HTTP/1.1 only a web page would send it, past what keeps those out.
fn is_grpc<T>(request: &Request<T>) -> bool {
    let content_type = request.headers().get(header::CONTENT_TYPE);
    let is_grpc = content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    is_grpc && request.version() == Version::HTTP_2
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_concurrent_streams(MAX_STREAMS);
    builder
}

/// How long a connection may take new requests: as long as the certificate is good that says whose it is.
fn good_for(certificate: Option<&PeerCertificate>) -> Duration {
    let left = |certificate: &PeerCertificate| {
        certificate.not_after.duration_since(clock::wall()).unwrap_or_default()
    };
    certificate.map_or(MAX_AGE, left).min(MAX_AGE)
}

/// The next connection, once there is a place for it: until then, clients wait in the system's queue.
/// `None` when the shutdown begins.
async fn accept(
    listeners: &Listeners,
    places: &Arc<Semaphore>,
    shutdown: &Shutdown,
) -> Option<(Stream, Whence, OwnedSemaphorePermit)> {
    let accepted = async {
        let place = Arc::clone(places).acquire_owned().await.expect("the semaphore is never closed");
        let mut backoff = MIN_BACKOFF;
        loop {
            match listeners.accept().await {
                Ok((stream, whence)) => return (stream, whence, place),
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    // EMFILE and the like: the listener stays readable, so without a pause this would spin.
                    tracing::warn!(%error, ?backoff, "cannot accept connections");
                    sleep(backoff).await;
                    backoff = (backoff * 2).min(MAX_BACKOFF);
                }
            }
        }
    };
    tokio::select! {
        biased;
        () = shutdown.begun() => None,
        accepted = accepted => Some(accepted),
    }
}

/// Waits until it is clear which HTTP version a client speaks: the library's own wait for that has no time limit.
async fn await_head(stream: &impl Peek) -> io::Result<()> {
    let is_http2 = timeout(HEAD_TIMEOUT, begins_with(stream, H2_PREFACE)).await;
    is_http2.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into())).map(|_| ())
}

/// Sets TLS up, within bounds of time.
async fn handshake(stream: TcpStream, tls: &Tls) -> io::Result<TlsStream<TcpStream>> {
    let begun = timeout(HEAD_TIMEOUT, tls::accept(stream, tls)).await;
    begun.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
}
