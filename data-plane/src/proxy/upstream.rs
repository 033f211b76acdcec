//! Connections to replicas: one HTTP/1.1 exchange at a time on each, kept for reuse.
//!
//! A connection has no task of its own. Whoever uses it polls it: the attempt until the response head has come,
//! [`super::response_body::UpstreamBody`] from then on. That saves a task switch for every read and write of a request.

use std::{
    cell::RefCell,
    collections::{HashMap, VecDeque},
    future::Future,
    io,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use gateway_proto::Address;
use http::{Request, Response};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::request_body::RequestBody;
use crate::routing::{Fault, Tick};

/// Idle connections kept for one replica by one worker.
const MAX_IDLE_PER_REPLICA: usize = 256;
/// An idle connection is closed after this time, before most servers close it from their side.
const MAX_IDLE_TIME: Duration = Duration::from_secs(30);

/// A connection to a replica, polled by its user.
#[derive(Debug)]
pub(super) struct Link {
    sender: http1::SendRequest<RequestBody>,
    connection: http1::Connection<TokioIo<TcpStream>, RequestBody>,
    is_reused: bool,
    client_failed: bool,
}

/// Why an exchange yielded no response head.
#[derive(Debug)]
pub(super) enum SendFailure {
    /// The connection ended before it took the request, which is handed back.
    NotTaken(Box<Request<RequestBody>>),
    /// The replica may have seen the request.
    Failed(Fault),
    /// The client's own request body broke off: nobody's fault upstream.
    ClientBody,
}

impl Link {
    /// Boxed, because a connection is larger than a kilobyte and moves with each request.
    async fn connect(address: &Address) -> io::Result<Box<Self>> {
        let stream = match address.socket() {
            Some(socket) => TcpStream::connect(socket).await?,
            None => TcpStream::connect((address.host(), address.port())).await?,
        };
        stream.set_nodelay(true)?;
        let handshake = http1::Builder::new().handshake(TokioIo::new(stream)).await;
        let (sender, connection) = handshake.map_err(io::Error::other)?;
        Ok(Box::new(Self { sender, connection, is_reused: false, client_failed: false }))
    }

    /// Sends one request and waits for the response head.
    ///
    /// Not cancel safe for the connection: dropping the future leaves the exchange half done, so the link must be
    /// dropped with it.
    pub(super) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, SendFailure> {
        let mut response = pin!(self.sender.try_send_request(request));
        let mut ended = false;
        let answer = std::future::poll_fn(|cx| {
            // The connection goes first: it carries the request out and the response in. When it has ended, all that
            // it knew is with the response future.
            if !ended {
                ended = self.poll_ended(cx);
            }
            response.as_mut().poll(cx)
        })
        .await;
        answer.map_err(|mut failure| match failure.take_message() {
            Some(request) => SendFailure::NotTaken(Box::new(request)),
            None => classify(failure.error()),
        })
    }

    /// Moves bytes. `true` when the connection has ended.
    pub(super) fn poll_ended(&mut self, cx: &mut Context<'_>) -> bool {
        let Poll::Ready(ended) = Pin::new(&mut self.connection).poll(cx) else { return false };
        self.client_failed |= ended.is_err_and(|error| is_of_client(&error));
        true
    }

    /// Whether it ended because the client broke its request's body off.
    pub(super) fn client_failed(&self) -> bool {
        self.client_failed
    }

    /// Whether it can take another request now.
    pub(super) fn is_idle(&mut self, cx: &mut Context<'_>) -> bool {
        !self.poll_ended(cx) && matches!(self.sender.poll_ready(cx), Poll::Ready(Ok(())))
    }

    /// Whether it has carried a request before.
    pub(super) fn is_reused(&self) -> bool {
        self.is_reused
    }
}

/// Whether the request's body is what broke: it is the only thing here that comes from a client.
fn is_of_client(error: &hyper::Error) -> bool {
    error.is_user() || error.is_body_write_aborted()
}

/// What broke, as far as hyper can tell.
fn classify(error: &hyper::Error) -> SendFailure {
    if is_of_client(error) {
        return SendFailure::ClientBody;
    }
    if error.is_parse() || error.is_parse_too_large() || error.is_parse_status() {
        return SendFailure::Failed(Fault::Malformed);
    }
    if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        return SendFailure::Failed(Fault::Closed);
    }
    SendFailure::Failed(Fault::Reset)
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
#[derive(Debug, Default)]
pub(super) struct Pool {
    idle: RefCell<HashMap<Address, VecDeque<Idle>>>,
}

#[derive(Debug)]
struct Idle {
    link: Box<Link>,
    since: Tick,
}

impl Pool {
    /// An idle connection if there is a live one, else a new one.
    ///
    /// # Errors
    /// The cause. Whatever it is, the replica has seen nothing of the request.
    pub(super) async fn link(
        &self,
        address: &Address,
        connect_timeout: Duration,
    ) -> Result<Box<Link>, ConnectFailure> {
        if let Some(link) = self.take_live(address).await {
            return Ok(link);
        }
        match tokio::time::timeout(connect_timeout, Link::connect(address)).await {
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
        if of_replica.len() < MAX_IDLE_PER_REPLICA {
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
            while of_replica.front().is_some_and(|idle| now.since(idle.since) >= MAX_IDLE_TIME) {
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
