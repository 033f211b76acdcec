//! Connections from clients: HTTP/1.1 or HTTP/2, by what [`stream`] finds them to be.

pub(super) mod proxy_headers;
pub(super) mod proxy_protocol;
pub(super) mod stream;

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::poll_fn,
    io,
    net::{IpAddr, SocketAddr},
    ops::Deref,
    rc::Rc,
    task::Poll,
};

use bytes::{Bytes, BytesMut};
use http::{StatusCode, Version};
use tokio::{net::TcpStream, time::sleep_until};

use self::stream::{Begun, Stream, introduce, not_begun, poll_protocol};
use super::{
    body::{request_body::ClientBody, response_body::Answer},
    boxed::boxed,
    errors::refusals::Reason,
    h1::{self, Unread},
    h2,
    head::{
        RequestHead, ResponseHead,
        fields::Fields,
        forwarding::{Forwarding, Peer},
    },
    worker::{Worker, addresses::Seat, listener::Accepted},
};
use crate::routing::Tick;

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
    fn new(address: IpAddr, begun: &Begun, forwarding: &Forwarding) -> Self {
        let ip = address.to_canonical();
        Self {
            ip: text(ip),
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

    /// Whether any of its requests has something to tell it before its answer: seldom, and asked often.
    pub(super) fn has_interim(&self) -> bool {
        !self.interim.borrow().is_empty()
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

/// An address as text. Of IPv4 without the machinery of formatting, whose thousand instructions each connection would pay for.
fn text(ip: IpAddr) -> String {
    let IpAddr::V4(ip) = ip else { return ip.to_string() };
    let mut text = String::with_capacity("255.255.255.255".len());
    for octet in ip.octets() {
        if !text.is_empty() {
            text.push('.');
        }
        for unit in [100, 10, 1] {
            if octet >= unit || unit == 1 {
                text.push(char::from(b'0' + octet / unit % 10));
            }
        }
    }
    text
}

/// Serves one connection, with TLS where that is given, to its end, or to the end of what is in flight once the worker
/// drains. Each request is `answered` on its own.
///
/// A panic that `answered` lets through ends the HTTP/2 stream it happens in; in HTTP/1 it is this future's own.
pub(super) fn serve<F, B>(
    worker: Rc<Worker>,
    accepted: Accepted,
    answered: impl Fn(Rc<Worker>, Asker, RequestHead, ClientBody) -> F + Copy + 'static,
) -> impl Future<Output = ()>
where
    F: Future<Output = Answer<B>> + 'static,
    B: Unread + From<Bytes> + Unpin + 'static,
{
    // Boxed, as HTTP/2 is below, so that neither takes room in the task of each connection that only waits.
    let beginning = boxed(|| begin(Rc::clone(&worker), accepted));
    async move {
        let (begun, client, _seat) = match beginning.await {
            Ok(begun) => begun,
            Err(reason) => return reason.into_iter().for_each(|reason| worker.refused(reason)),
        };
        if begun.is_http2 {
            Box::pin(h2::serve(&worker, client, begun.stream, answered)).await;
        } else {
            h1::serve(worker, client, begun.stream, begun.seen, answered).await;
        }
    }
}

/// Waits for what shows the protocol. Yields who is at the other end: the peer, or whom it names by a PROXY header, who takes
/// a seat of its own.
///
/// # Errors
/// When it comes to nothing: why, if that is to be counted.
async fn begin(
    worker: Rc<Worker>,
    accepted: Accepted,
) -> Result<(Begun, Rc<Client>, Option<Seat>), Option<Reason>> {
    let Accepted { stream, address, tls } = accepted;
    let within = worker.limits().begin_timeout;
    let due = worker.now().plus(within);
    let (client, stream) = match (&tls, worker.proxy_headers()) {
        (None, None) => (address, Stream::Tcp(stream)),
        // Boxed, because most have no introduction.
        (tls, proxy_headers) => tokio::select! {
            biased;
            introduced = Box::pin(introduce(stream, address, tls.as_ref(), proxy_headers, within)) => introduced?,
            () = last_call(&worker) => return Err(None),
        },
    };
    let begun = match stream {
        Stream::Tcp(tcp) => show(&worker, tcp, client, due).await?,
        stream => {
            let is_http2 = stream.has_agreed_on_http2();
            Begun { stream, seen: BytesMut::new(), is_http2 }
        }
    };
    // The peer itself has one already.
    let seat = if client == address { None } else { worker.seat(client.ip())? };
    let client = Rc::new(Client::new(client.ip(), &begun, worker.forwarding()));
    Ok((begun, client, seat))
}

/// Waits for the first bytes of a connection without TLS, which show the protocol.
///
/// # Errors
/// As [`begin`].
async fn show(
    worker: &Worker,
    mut tcp: TcpStream,
    client: SocketAddr,
    due: Tick,
) -> Result<Begun, Option<Reason>> {
    let (buffers, deadlines) = (worker.buffers(), worker.deadlines());
    let place = deadlines.reserve();
    let mut seen = BytesMut::new();
    let shown = poll_fn(|cx| {
        if let Poll::Ready(shown) = poll_protocol(&mut tcp, &mut seen, buffers, cx) {
            return Poll::Ready(shown.map_err(|error| (error, None)));
        }
        let now = worker.now();
        let last = worker.last_call(true).map_or(due, |last| due.min(last));
        if now >= last {
            let reason = (now >= due).then_some(Reason::BeginTimeout);
            return Poll::Ready(Err((io::ErrorKind::TimedOut.into(), reason)));
        }
        place.set(last, cx.waker());
        Poll::Pending
    });
    match shown.await {
        Ok(false) => Ok(Begun { stream: Stream::Tcp(tcp), seen, is_http2: false }),
        Ok(true) => {
            let stream = Stream::ahead(tcp, Bytes::copy_from_slice(&seen));
            seen.clear();
            buffers.give_input(&mut seen);
            Ok(Begun { stream, seen, is_http2: true })
        }
        Err((error, reason)) => {
            not_begun(client, &error);
            Err(reason)
        }
    }
}

/// Completes when a connection that has not begun by now never will, because the worker drains.
async fn last_call(worker: &Worker) {
    worker.draining().await;
    if let Some(tick) = worker.last_call(true) {
        sleep_until(worker.instant(tick).into()).await;
    }
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn an_address_as_text_is_as_everybody_writes_it() {
        for octet in 0..=u8::MAX {
            let ip = IpAddr::from([octet, 0, 255 - octet, 10]);
            assert_eq!(text(ip), ip.to_string());
        }
        assert_eq!(text("2001:db8::7".parse().unwrap()), "2001:db8::7");
    }
}
