//! Connections from clients: HTTP/1.1 or HTTP/2, by what [`stream`](super::stream) finds them to be.

use std::{
    cell::RefCell, collections::VecDeque, convert::Infallible, net::SocketAddr, pin::pin, rc::Rc, sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use gateway_runtime::{panics::caught, tls::Tls};
use http::Request;
use http_body::Body;
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulConnection,
};
use tokio::net::TcpStream;

use super::{
    forwarding::{Forwarding, Peer},
    h1, h2,
    head::{RequestHead, ResponseHead},
    limits::Limits,
    request_body::ClientBody,
    request_id::RequestId,
    response_body::Answer,
    stream::{self, Begun, Stream},
    worker::Worker,
};

/// A silent HTTP/2 client is asked for a sign of life this often, and has as long to give one.
const PING: Duration = Duration::from_secs(20);
/// Interim responses that wait to be passed on to one client. More than that say nothing new.
const MAX_INTERIM: usize = 8;

/// Who is at the other end.
#[derive(Debug)]
pub(super) struct Client {
    ip: String,
    is_secure: bool,
    /// Whether its word on whom it asks for holds.
    is_trusted: bool,
    /// `None` if it is told of no interim responses: hyper has no way to, in HTTP/2.
    interim: Option<RefCell<VecDeque<ResponseHead>>>,
}

impl Client {
    fn new(address: SocketAddr, begun: &Begun, forwarding: &Forwarding) -> Self {
        let ip = address.ip().to_canonical();
        let interim = (!begun.is_http2).then(RefCell::default);
        Self {
            ip: ip.to_string(),
            is_secure: begun.stream.is_tls(),
            is_trusted: forwarding.trusted.contains(ip),
            interim,
        }
    }

    /// What replicas are told of it.
    pub(super) fn peer(&self) -> Peer<'_> {
        let scheme = if self.is_secure { "https" } else { "http" };
        Peer { ip: &self.ip, scheme, is_trusted: self.is_trusted }
    }

    /// Its IP address as `X-Forwarded-For` has it.
    pub(super) fn ip(&self) -> &str {
        &self.ip
    }

    /// Whether it is a trusted proxy.
    pub(super) fn is_trusted(&self) -> bool {
        self.is_trusted
    }

    /// Tells it what a replica says before its response.
    pub(super) fn interim(&self, head: ResponseHead) {
        if let Some(interim) = &self.interim
            && interim.borrow().len() < MAX_INTERIM
        {
            interim.borrow_mut().push_back(head);
        }
    }

    /// What it is to be told next.
    pub(super) fn take_interim(&self) -> Option<ResponseHead> {
        self.interim.as_ref()?.borrow_mut().pop_front()
    }
}

/// Sets what holds for all connections from clients. Where the system refuses one of it, they work without.
pub(super) fn prepare(stream: &TcpStream, limits: &Limits) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot disable Nagle's algorithm");
    }
    limit_unread(stream, limits.unread_timeout);
}

/// Cuts a client off that takes nothing of what is sent to it for this time, whether it is gone or only does not read: it
/// keeps a replica's connection from others. The kernel counts, and only Linux offers it.
#[cfg(target_os = "linux")]
fn limit_unread(stream: &TcpStream, limit: Duration) {
    if let Err(error) = socket2::SockRef::from(stream).set_tcp_user_timeout(Some(limit)) {
        tracing::debug!(%error, "cannot limit how long a client may read nothing");
    }
}

#[cfg(not(target_os = "linux"))]
fn limit_unread(_: &TcpStream, _: Duration) {}

/// Serves one connection, with TLS where that is given, to its end, or to the end of what is in flight once the worker
/// drains. Each request is `answered` on its own.
///
/// A panic that `answered` lets through ends the HTTP/2 stream it happens in; in HTTP/1 it is this future's own.
pub(super) async fn serve<F, B>(
    worker: &Rc<Worker>,
    stream: TcpStream,
    address: SocketAddr,
    tls: Option<&Arc<Tls>>,
    answered: impl Fn(Rc<Worker>, Rc<Client>, RequestHead, ClientBody) -> F + Copy + 'static,
) where
    F: Future<Output = Answer<B>> + 'static,
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
        + From<Bytes>
        + Unpin
        + 'static,
{
    // Boxed, as HTTP/2 is below, so that neither takes room in the task of each connection that only waits.
    let begun = Box::pin(async {
        tokio::select! {
            biased;
            begun = stream::begin(stream, address, tls, worker.limits().begin_timeout) => begun,
            () = worker.draining() => Err(None),
        }
    });
    let begun = match begun.await {
        Ok(begun) => begun,
        Err(reason) => return reason.into_iter().for_each(|reason| worker.refused(reason)),
    };
    let client = Rc::new(Client::new(address, &begun, worker.forwarding()));
    if begun.is_http2 {
        Box::pin(serve_http2(worker, client, begun.stream, answered)).await;
    } else {
        h1::serve(worker, &client, begun.stream, answered).await;
    }
}

async fn serve_http2<F, B>(
    worker: &Rc<Worker>,
    client: Rc<Client>,
    stream: Stream,
    answered: impl Fn(Rc<Worker>, Rc<Client>, RequestHead, ClientBody) -> F + Copy + 'static,
) where
    F: Future<Output = Answer<B>> + 'static,
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
        + From<Bytes>
        + Unpin
        + 'static,
{
    let service = service_fn(|request: Request<Incoming>| {
        let (worker, client) = (Rc::clone(worker), Rc::clone(&client));
        async move {
            let (parts, body) = request.into_parts();
            let answer = match h2::request_head(&parts, &worker.limits().head) {
                Ok(head) => answered(worker, client, head, ClientBody::Http2(body)).await,
                Err(error) => {
                    let id = RequestId::new(worker.random_id());
                    worker.refuse(&error, "", 0, &id)
                }
            };
            Ok::<_, Infallible>(h2::response(answer))
        }
    });
    let mut builder = http2::Builder::new(LocalExecutor(Rc::clone(worker)));
    let limits = worker.limits();
    builder.timer(TokioTimer::new()).max_concurrent_streams(limits.streams);
    builder.max_header_list_size(u32::try_from(limits.head.bytes).unwrap_or(u32::MAX));
    builder.keep_alive_interval(PING).keep_alive_timeout(PING);
    let served = until_drained(worker, builder.serve_connection(TokioIo::new(stream), service)).await;
    if let Err(error) = served {
        tracing::debug!(%error, client = client.ip(), "connection ended");
    }
}

/// Runs a connection to its end; once the worker drains, that is the end of what is in flight on it.
async fn until_drained<C: GracefulConnection>(worker: &Worker, connection: C) -> Result<(), C::Error> {
    let mut connection = pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => ended,
        () = worker.draining() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    }
}

/// Runs HTTP/2 streams on the worker's own thread.
#[derive(Debug, Clone)]
struct LocalExecutor(Rc<Worker>);

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, stream: F) {
        let worker = Rc::clone(&self.0);
        tokio::task::spawn_local(async move {
            if caught(stream).await.is_err() {
                worker.panicked("request");
            }
        });
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use tokio::{io::AsyncWriteExt, net::TcpListener};

    use super::*;

    #[tokio::test]
    async fn a_client_that_reads_nothing_is_cut_off() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        limit_unread(&stream, Duration::from_millis(300));
        let endless = async { while stream.write_all(&[0; 65536]).await.is_ok() {} };
        tokio::time::timeout(Duration::from_secs(20), endless).await.expect("it is waited for without end");
    }
}
