//! Connections from clients: HTTP/1.1 or HTTP/2, by what [`stream`] finds them to be.

pub(super) mod proxy_headers;
pub(super) mod proxy_protocol;
pub(super) mod stream;

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    net::SocketAddr,
    ops::Deref,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use gateway_runtime::tls::Tls;
use http::{StatusCode, Version};
use tokio::{net::TcpStream, time::sleep_until};

use self::stream::Begun;
use super::{
    body::{request_body::ClientBody, response_body::Answer},
    errors::refusals::Reason,
    h1::{self, Unread},
    h2,
    head::{
        RequestHead, ResponseHead,
        fields::Fields,
        forwarding::{Forwarding, Peer},
    },
    worker::{Worker, addresses::Seat, limits::Limits},
};

/// Interim responses that are passed on for one request, over all of its attempts. More than that say nothing new.
const MAX_INTERIM: usize = 8;
/// Bytes of their fields. In HTTP/2 no window bounds heads: what a client does not read, the engine holds.
const MAX_INTERIM_BYTES: usize = 16 * 1024;

/// Who is at the other end.
#[derive(Debug)]
pub(super) struct Client {
    ip: String,
    is_secure: bool,
    /// Whether its word on whom it asks for holds.
    is_trusted: bool,
    /// The version of TLS, if it speaks any.
    tls: Option<&'static str>,
    /// What its requests, by their numbers on its connection, have to tell it before their answers.
    interim: RefCell<VecDeque<(u64, ResponseHead)>>,
}

impl Client {
    fn new(begun: &Begun, forwarding: &Forwarding) -> Self {
        let ip = begun.client.ip().to_canonical();
        Self {
            ip: ip.to_string(),
            is_secure: begun.stream.is_tls(),
            is_trusted: forwarding.trusted.contains(ip),
            tls: begun.stream.tls_version(),
            interim: RefCell::default(),
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

    /// The version of TLS, if it speaks any.
    pub(super) fn tls(&self) -> Option<&'static str> {
        self.tls
    }

    /// Whether it is a trusted proxy.
    pub(super) fn is_trusted(&self) -> bool {
        self.is_trusted
    }

    /// What it is to be told next before the answer to one of its requests.
    pub(super) fn take_interim(&self, request: u64) -> Option<ResponseHead> {
        let mut interim = self.interim.borrow_mut();
        let next = interim.iter().position(|(of, _)| *of == request)?;
        interim.remove(next).map(|(_, head)| head)
    }

    /// The request has its answer: what it was to be told before comes too late.
    pub(super) fn forget_interim(&self, request: u64) {
        self.interim.borrow_mut().retain(|(of, _)| *of != request);
    }
}

/// The client as one of its requests has it.
#[derive(Debug)]
pub(super) struct Asker {
    client: Rc<Client>,
    /// Which of its connection's requests it is.
    request: u64,
    /// How many interim responses, and how many bytes of them, it may still be told.
    room: Cell<(usize, usize)>,
}

impl Asker {
    pub(super) fn new(client: &Rc<Client>, request: u64, version: Version) -> Self {
        // HTTP/1.0 has none.
        let most = if version >= Version::HTTP_11 { MAX_INTERIM } else { 0 };
        Self { client: Rc::clone(client), request, room: Cell::new((most, MAX_INTERIM_BYTES)) }
    }

    pub(super) fn client(&self) -> &Rc<Client> {
        &self.client
    }

    /// Tells it what a replica says before its response, as far as there is room.
    pub(super) fn interim(&self, head: ResponseHead) {
        let (count, bytes) = self.room.get();
        let left = (count.checked_sub(1), bytes.checked_sub(head.fields.block().len()));
        if let (Some(count), Some(bytes)) = left {
            self.room.set((count, bytes));
            self.tell(head);
        }
    }

    /// Tells it that its request's body is waited for.
    pub(super) fn go_on(&self) {
        self.tell(ResponseHead::new(StatusCode::CONTINUE, Fields::default()));
    }

    fn tell(&self, head: ResponseHead) {
        self.client.interim.borrow_mut().push_back((self.request, head));
    }
}

impl Deref for Asker {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
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
pub(super) fn serve<F, B>(
    worker: Rc<Worker>,
    stream: TcpStream,
    address: SocketAddr,
    tls: Option<Arc<Tls>>,
    answered: impl Fn(Rc<Worker>, Asker, RequestHead, ClientBody) -> F + Copy + 'static,
) -> impl Future<Output = ()>
where
    F: Future<Output = Answer<B>> + 'static,
    B: Unread + From<Bytes> + Unpin + 'static,
{
    // Boxed, as HTTP/2 is below, so that neither takes room in the task of each connection that only waits.
    let beginning = Box::pin(begin(Rc::clone(&worker), stream, address, tls));
    async move {
        let (begun, _seat) = match beginning.await {
            Ok(begun) => begun,
            Err(reason) => return reason.into_iter().for_each(|reason| worker.refused(reason)),
        };
        let client = Rc::new(Client::new(&begun, worker.forwarding()));
        if begun.is_http2 {
            Box::pin(h2::serve(&worker, client, begun.stream, answered)).await;
        } else {
            h1::serve(worker, client, begun.stream, answered).await;
        }
    }
}

/// Waits for what shows the protocol, and takes a seat for a client that its peer names.
///
/// # Errors
/// When it comes to nothing: why, if that is to be counted.
async fn begin(
    worker: Rc<Worker>,
    stream: TcpStream,
    address: SocketAddr,
    tls: Option<Arc<Tls>>,
) -> Result<(Begun, Option<Seat>), Option<Reason>> {
    let within = worker.limits().begin_timeout;
    let begun = tokio::select! {
        biased;
        begun = stream::begin(stream, address, tls.as_ref(), worker.proxy_headers(), within) => begun?,
        () = last_call(&worker) => return Err(None),
    };
    // The peer itself has one already.
    let seat = if begun.client == address { None } else { worker.seat(begun.client.ip())? };
    Ok((begun, seat))
}

/// Completes when a connection that has not begun by now never will, because the worker drains.
async fn last_call(worker: &Worker) {
    worker.draining().await;
    if let Some(tick) = worker.last_call(true) {
        sleep_until(worker.instant(tick).into()).await;
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use tokio::{io::AsyncWriteExt, net::TcpListener};

    use super::*;

    #[test]
    fn what_one_request_was_to_be_told_is_not_told_before_the_answer_to_another() {
        let (ip, interim) = (String::new(), RefCell::default());
        let client = Rc::new(Client { ip, is_secure: false, is_trusted: false, tls: None, interim });
        let [first, second] = [1, 2].map(|request| Asker::new(&client, request, Version::HTTP_11));
        let told = |request| client.take_interim(request).map(|head| head.status.as_u16());
        for (asker, status) in [(&first, 102), (&second, 103), (&first, 104)] {
            asker.interim(ResponseHead::new(StatusCode::from_u16(status).unwrap(), Fields::default()));
        }
        assert_eq!((told(2), told(2)), (Some(103), None));
        assert_eq!(told(1), Some(102));
        client.forget_interim(1);
        assert_eq!(told(1), None);
    }

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
