//! The admin side's listener: HTTP/1.1, in TLS or not, within bounds, for whoever reaches it must not take up what clients need.

use std::{
    io::{self, ErrorKind},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use axum::{Router, body::Body};
use gateway_runtime::{
    Shutdown,
    accept::is_of_one_connection,
    tls::{self, Tls},
};
use http::Request;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::access::Certified;

/// Pause after a failed accept: without a free file descriptor the next one would fail at once, and the next.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// Whoever says nothing for this long, or sends half a head, is cut off.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections at once: people, scrapers and probes, each with one or two. Every one takes a file descriptor of those that
/// clients need.
const MAX_CONNECTIONS: usize = 256;

/// Serves until `stop` begins, then finishes the requests under way.
pub(super) async fn serve(listener: &TcpListener, router: Router, tls: Option<Arc<Tls>>, stop: Shutdown) {
    let (places, connections) = (Arc::new(Semaphore::new(MAX_CONNECTIONS)), TaskTracker::new());
    loop {
        let accepted = tokio::select! {
            () = stop.begun() => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) if is_of_one_connection(&error) => continue,
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections of operators");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            tracing::debug!(
                MAX_CONNECTIONS,
                "one more connection of operators than there may be: closing it"
            );
            continue;
        };
        let (router, tls, stop) = (router.clone(), tls.clone(), stop.clone());
        connections.spawn(async move {
            let served = async {
                match tls {
                    None => requests(stream, router, false, &stop).await,
                    Some(tls) => encrypted(stream, router, &tls, &stop).await,
                }
            };
            if let Err(error) = served.await {
                tracing::debug!(%error, "a connection of an operator ended");
            }
            drop(place);
        });
    }
    connections.close();
    connections.wait().await;
}

async fn encrypted(stream: TcpStream, router: Router, tls: &Tls, stop: &Shutdown) -> io::Result<()> {
    let stream = tokio::select! {
        begun = timeout(HEAD_TIMEOUT, tls::accept(stream, tls)) => {
            begun.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))?
        }
        () = stop.begun() => return Ok(()),
    };
    let is_certified = tls::certificate_of(&stream).map_err(io::Error::other)?.is_some();
    requests(stream, router, is_certified, stop).await
}

async fn requests(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    router: Router,
    is_certified: bool,
    stop: &Shutdown,
) -> io::Result<()> {
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        if is_certified {
            request.extensions_mut().insert(Certified);
        }
        router.clone().oneshot(request)
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.begun() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    ended.map_err(io::Error::other)
}
