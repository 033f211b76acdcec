//! One replica of the demo service: a real listener that really fails when it is told to.
//!
//! It serves HTTP/1.1 and, when it knows a control plane, keeps itself registered there. The demo runs three of them
//! as processes, and tests use it as the service behind the gateway.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use gateway_runtime::{Failure, Shutdown};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rand::Rng as _;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};

mod fault;
mod messages;
pub(crate) mod registration;
mod routes;
mod stats;
#[cfg(test)]
mod tests;

use routes::{Answer, Service};

/// More connections than this wait to be accepted.
const MAX_CONNECTIONS: usize = 2048;
/// A pause after a failed accept: descriptors come back when connections end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// What is in flight may take this long to finish after the shutdown began.
const DRAIN: Duration = Duration::from_secs(5);

/// A replica that listens.
#[derive(Debug)]
pub(crate) struct Replica {
    listener: TcpListener,
    address: SocketAddr,
    service: Arc<Service>,
}

impl Replica {
    /// Binds `listen`; port 0 takes a free one.
    ///
    /// # Errors
    /// A [`Failure`] naming `--listen` when the address cannot be bound.
    pub(crate) async fn bind(listen: SocketAddr, id: &str) -> Result<Self, Failure> {
        let refuse = |error| Failure::unbound("--listen", listen, &error);
        let listener = TcpListener::bind(listen).await.map_err(refuse)?;
        let address = listener.local_addr().map_err(refuse)?;
        Ok(Self { listener, address, service: Arc::new(Service::new(id)) })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the shutdown, then lets what is in flight finish.
    pub(crate) async fn serve(self, shutdown: Shutdown) {
        let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = accept(&self.listener, &room) => accepted,
                Some(_) = connections.join_next() => continue,
                () = shutdown.begun() => break,
            };
            let Some((stream, place)) = accepted else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let (service, shutdown) = (Arc::clone(&self.service), shutdown.clone());
            connections.spawn(async move {
                serve_connection(stream, service, shutdown).await;
                drop(place);
            });
        }
        drop(self.listener);
        let drained = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(DRAIN, drained).await.is_err() {
            tracing::warn!("requests were still in flight after {DRAIN:?}");
        }
    }
}

/// The next connection, once there is room for it; `None` when accepting failed.
async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let place = Arc::clone(room).acquire_owned().await.ok()?;
    let (stream, _) = listener.accept().await.ok()?;
    Some((stream, place))
}

/// Why a connection ends without an answer.
#[derive(Debug)]
struct ResetWanted;

impl std::fmt::Display for ResetWanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("this connection is to be reset")
    }
}

impl std::error::Error for ResetWanted {}

async fn serve_connection(stream: TcpStream, service: Arc<Service>, shutdown: Shutdown) {
    // A delayed small packet would be measured as the gateway's latency.
    let _ = stream.set_nodelay(true);
    let handler = service_fn(|request: http::Request<Incoming>| {
        let service = Arc::clone(&service);
        async move {
            match service.answer(request, || rand::rng().random()).await {
                Answer::Response(response) => Ok(response),
                Answer::Reset => Err(ResetWanted),
            }
        }
    });
    let mut connection =
        http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), handler);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = shutdown.begun() => {
            std::pin::Pin::new(&mut connection).graceful_shutdown();
            (&mut connection).await
        }
    };
    if ended.is_err_and(|error| error.is_user()) {
        // Closing a socket that does not linger sends a reset and no orderly end.
        let stream = connection.into_parts().io.into_inner();
        let _ = stream.set_zero_linger();
    }
}
