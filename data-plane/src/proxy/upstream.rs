//! Connections to replicas: one HTTP/1.1 exchange at a time on each, kept for reuse.
//!
//! A connection has no task of its own. Whoever uses it polls it: the attempt until the response head has come,
//! [`super::response_body::UpstreamBody`] from then on. That saves a task switch for every read and write of a request.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    io,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use gateway_proto::Address;
use http_body::Frame;
use tokio::net::TcpStream;

use super::{
    h1::{Buffers, ClientConnection, Failure, Outgoing, Wire},
    head::ResponseHead,
    limits::Limits,
    request_body::{Arrival, RequestBody},
    stream::Stream,
};
use crate::routing::{Fault, Tick};

/// A connection to a replica, polled by its user.
#[derive(Debug)]
pub(super) struct Link {
    connection: ClientConnection<RequestBody>,
    is_reused: bool,
    client_failed: bool,
}

/// Why an exchange yielded no response head.
#[derive(Debug)]
pub(super) enum SendFailure {
    /// The connection ended before a byte of the request was on its way.
    NotTaken,
    /// The replica may have seen the request.
    Failed(Fault),
    /// The client's own request body broke off: nobody's fault upstream.
    ClientBody,
}

impl Link {
    /// Boxed, because a connection is large and moves with each request.
    async fn connect(address: &Address, buffers: &Rc<Buffers>, limits: &Limits) -> io::Result<Box<Self>> {
        let stream = match address.socket() {
            Some(socket) => TcpStream::connect(socket).await?,
            None => TcpStream::connect((address.host(), address.port())).await?,
        };
        stream.set_nodelay(true)?;
        let wire = Wire::new(Stream::Tcp(stream), Rc::clone(buffers));
        let connection = ClientConnection::new(wire, limits.head);
        Ok(Box::new(Self { connection, is_reused: false, client_failed: false }))
    }

    /// Sends one request and waits for the response head; interim ones are `passed` on. `is_sent` says at any time whether
    /// the replica may have seen a byte of it.
    ///
    /// Not cancel safe for the connection: dropping the future leaves the exchange half done, so the link must be
    /// dropped with it.
    pub(super) async fn send(
        &mut self,
        outgoing: Outgoing<'_, RequestBody>,
        is_sent: &Cell<bool>,
        mut passed: impl FnMut(ResponseHead),
    ) -> Result<ResponseHead, SendFailure> {
        self.connection.begin(outgoing);
        let head = std::future::poll_fn(|cx| {
            let polled = self.connection.poll_head(cx, &mut passed);
            is_sent.set(self.connection.has_sent());
            polled
        })
        .await;
        head.map(|response| response.head).map_err(|failure| {
            tracing::debug!(%failure, "no response");
            match failure {
                Failure::NotTaken => SendFailure::NotTaken,
                Failure::RequestBody => SendFailure::ClientBody,
                Failure::Closed => SendFailure::Failed(Fault::Closed),
                Failure::Reset(_) => SendFailure::Failed(Fault::Reset),
                Failure::Malformed(_) | Failure::Body(_) => SendFailure::Failed(Fault::Malformed),
            }
        })
    }

    /// The next frame of the response's body, while what is left of the request is sent.
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let polled = self.connection.poll_frame(cx);
        self.client_failed |= matches!(polled, Poll::Ready(Some(Err(Failure::RequestBody))));
        polled
    }

    /// Whether nothing more of the response is to come.
    pub(super) fn is_end_stream(&self) -> bool {
        self.connection.is_end_stream()
    }

    /// How many bytes of the response's body are still to come, if that is known.
    pub(super) fn left(&self) -> Option<u64> {
        self.connection.left()
    }

    /// How far the request's body has come from its client; `None` when nothing of it is still to be sent.
    pub(super) fn arrival(&self) -> Option<Arrival> {
        self.connection.outgoing_body().map(RequestBody::arrival)
    }

    /// Whether it ended because the client broke its request's body off.
    pub(super) fn client_failed(&self) -> bool {
        self.client_failed
    }

    /// The connection itself, once the replica has switched protocols.
    pub(super) fn into_wire(self) -> Wire {
        self.connection.into_wire()
    }

    /// Whether it can take another request now.
    pub(super) fn is_idle(&mut self, cx: &mut Context<'_>) -> bool {
        self.connection.is_idle(cx)
    }

    /// Whether it has carried a request before.
    pub(super) fn is_reused(&self) -> bool {
        self.is_reused
    }
}

/// Why no connection could be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConnectFailure {
    /// The replica is to blame.
    Replica(Fault),
    /// This process or machine has no file descriptor left.
    Exhausted,
}

/// `ENFILE` and `EMFILE`, the same numbers on Linux, macOS and the BSDs; the standard library has no kind for them.
const NO_FILE_LEFT: [i32; 2] = [23, 24];

fn classify_connect(error: &io::Error) -> ConnectFailure {
    if error.raw_os_error().is_some_and(|code| NO_FILE_LEFT.contains(&code)) {
        return ConnectFailure::Exhausted;
    }
    ConnectFailure::Replica(match error.kind() {
        io::ErrorKind::ConnectionRefused => Fault::ConnectRefused,
        io::ErrorKind::TimedOut => Fault::ConnectTimeout,
        _ => Fault::ConnectFailed,
    })
}

/// A worker's idle connections by address, and its way to new ones.
#[derive(Debug)]
pub(super) struct Pool {
    buffers: Rc<Buffers>,
    limits: Limits,
    idle: RefCell<HashMap<Address, VecDeque<Idle>>>,
}

#[derive(Debug)]
struct Idle {
    link: Box<Link>,
    since: Tick,
}

impl Pool {
    /// One whose connections borrow these buffers and keep within these limits.
    pub(super) fn new(buffers: Rc<Buffers>, limits: &Limits) -> Self {
        Self { buffers, limits: limits.clone(), idle: RefCell::default() }
    }

    /// An idle connection if there is a live one, else a new one.
    ///
    /// # Errors
    /// The cause. Whatever it is, the replica has seen nothing of the request.
    pub(super) async fn link(
        &self,
        address: &Address,
        connect_timeout: Duration,
    ) -> Result<Box<Link>, ConnectFailure> {
        match self.take_live(address).await {
            Some(link) => Ok(link),
            None => self.new_link(address, connect_timeout).await,
        }
    }

    /// As [`Pool::link`], on a connection that nothing was asked on before: where a second try may be harmful, a replica that
    /// is about to close an idle connection must not cause the need for one.
    pub(super) async fn new_link(
        &self,
        address: &Address,
        connect_timeout: Duration,
    ) -> Result<Box<Link>, ConnectFailure> {
        match tokio::time::timeout(connect_timeout, Link::connect(address, &self.buffers, &self.limits)).await
        {
            Ok(Ok(link)) => Ok(link),
            Ok(Err(error)) => Err(classify_connect(&error)),
            Err(_) => Err(ConnectFailure::Replica(Fault::ConnectTimeout)),
        }
    }

    /// Takes back a connection that has finished its exchange.
    pub(super) fn keep(&self, address: &Address, mut link: Box<Link>, now: Tick) {
        link.is_reused = true;
        let mut idle = self.idle.borrow_mut();
        let of_replica = match idle.get_mut(address) {
            Some(of_replica) => of_replica,
            None => idle.entry(address.clone()).or_default(),
        };
        if of_replica.len() < self.limits.idle_upstream {
            of_replica.push_back(Idle { link, since: now });
        }
    }

    /// Closes the idle connections to this address.
    pub(super) fn close(&self, address: &Address) {
        self.idle.borrow_mut().remove(address);
    }

    /// Closes what has been idle for too long: to be called every few seconds.
    pub(super) fn sweep(&self, now: Tick) {
        self.idle.borrow_mut().retain(|_, of_replica| {
            while of_replica
                .front()
                .is_some_and(|idle| now.since(idle.since) >= self.limits.idle_upstream_timeout)
            {
                of_replica.pop_front();
            }
            !of_replica.is_empty()
        });
    }

    /// The idle connection used last, if it is alive: the one least likely to be closed under the request.
    async fn take_live(&self, address: &Address) -> Option<Box<Link>> {
        loop {
            let mut link = self.idle.borrow_mut().get_mut(address)?.pop_back()?.link;
            // One look is enough: what the replica did to an idle connection is known to the reactor by now.
            let is_alive = std::future::poll_fn(|cx| Poll::Ready(link.is_idle(cx))).await;
            if is_alive {
                return Some(link);
            }
        }
    }
}
