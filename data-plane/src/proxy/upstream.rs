//! Connections to replicas, of either kind.
//!
//! HTTP/1.1 carries one exchange at a time on a connection ([`http1`]), HTTP/2 many ([`http2`], on what is [`shared`]). Both
//! are polled by whoever uses them: the attempt until the response head has come,
//! [`super::body::response_body::UpstreamBody`] from then on. That saves a task switch for every read and write of a request in
//! HTTP/1.1; in HTTP/2 a task for each connection moves its bytes, and none for a request.

mod connect;
mod http1;
mod http2;
mod pool;
mod shared;
mod silence;
mod switched;

use std::{
    cell::Cell,
    task::{Context, Poll},
};

use bytes::Bytes;
use gateway_proto::Endpoint;
use http_body::Frame;

use super::{
    body::request_body::{Arrival, RequestBody},
    h1::{Failure, Outgoing, Pipe},
    head::ResponseHead,
};
use crate::routing::{Fault, HandshakeFault, Outcome};
pub(crate) use connect::tls_fault;
pub(super) use connect::{ConnectFailure, Way};
pub(super) use http1::Http1Link;
use http2::Http2Link;
pub(super) use pool::Pool;
pub(super) use switched::ReplicaSide;

/// A way to a replica for one exchange. Boxed, because a connection is large and moves with each request.
#[derive(Debug)]
pub(super) enum Link {
    /// A connection of its own.
    Http1(Box<Http1Link>),
    /// A place on one that is shared.
    Http2(Box<Http2Link>),
}

/// Why an exchange yielded no response head.
#[derive(Debug)]
pub(super) enum SendFailure {
    /// The connection ended before a byte of the request was on its way.
    NotTaken,
    /// The replica said that it did not process the request, and why: it has no room for it, is about to go, or breaks the
    /// connection off. This is what that says of it.
    Refused(Outcome),
    /// It gave up the connection for this reason before it could read the request.
    Unread(Fault),
    /// The replica may have seen the request.
    Failed(Fault),
    /// The client's own request body broke off: nobody's fault upstream.
    ClientBody,
    /// HTTP/2 has no way to write it.
    Unsendable,
}

impl SendFailure {
    /// Of what TLS has against the replica, on a connection that has carried an exchange before or not.
    fn of_tls(fault: Fault, is_reused: bool) -> Self {
        match fault {
            // Part of the handshake, in TLS 1.3 the end of it: nothing of what was sent behind it was read.
            Fault::TlsProtocol(HandshakeFault::CertificateRefused) if !is_reused => Self::Unread(fault),
            _ => Self::Failed(fault),
        }
    }
}

impl Link {
    /// Sends one request and waits for the response head; interim ones are `passed` on. `is_sent` says at any time whether
    /// the replica may see a byte of it, however it ends.
    ///
    /// Not cancel safe for the exchange: dropping the future leaves it half done, so the link must be dropped with it.
    pub(super) async fn send(
        &mut self,
        outgoing: Outgoing<'_, RequestBody>,
        endpoint: &Endpoint,
        is_sent: &Cell<bool>,
        passed: impl FnMut(ResponseHead),
    ) -> Result<ResponseHead, SendFailure> {
        match self {
            Self::Http1(link) => link.send(outgoing, is_sent, passed).await,
            // In its own box, so that it takes no room in the future of those that do without.
            Self::Http2(link) => Box::pin(link.send(outgoing, endpoint, is_sent, passed)).await,
        }
    }

    /// The next frame of the response's body, while what is left of the request is sent.
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        match self {
            Self::Http1(link) => link.poll_frame(cx),
            Self::Http2(link) => link.poll_frame(cx),
        }
    }

    /// The same in a pipe. `None` where what comes next is to be asked for as a frame.
    pub(super) fn poll_pipe(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Pipe, Failure>>> {
        match self {
            Self::Http1(link) => link.poll_pipe(cx),
            Self::Http2(_) => Poll::Ready(None),
        }
    }

    /// Whether nothing more of the response is to come.
    pub(super) fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(link) => link.is_end_stream(),
            Self::Http2(link) => link.is_end_stream(),
        }
    }

    /// How many bytes of the response's body are still to come, if that is known.
    pub(super) fn left(&self) -> Option<u64> {
        match self {
            Self::Http1(link) => link.left(),
            Self::Http2(link) => link.left(),
        }
    }

    /// Whether the end of the response's body is the connection's, for whatever reason that ends.
    pub(super) fn ends_by_close(&self) -> bool {
        matches!(self, Self::Http1(link) if link.ends_by_close())
    }

    /// How far the request's body has come from its client; `None` when nothing of it is still to be sent.
    pub(super) fn arrival(&self) -> Option<Arrival> {
        match self {
            Self::Http1(link) => link.arrival(),
            Self::Http2(link) => link.arrival(),
        }
    }

    /// Whether it ended because the client broke its request's body off.
    pub(super) fn client_failed(&self) -> bool {
        match self {
            Self::Http1(link) => link.client_failed(),
            Self::Http2(link) => link.client_failed(),
        }
    }

    /// The replica's side of a tunnel, once it has switched protocols.
    pub(super) fn into_side(self) -> Option<ReplicaSide> {
        match self {
            Self::Http1(link) => Some(ReplicaSide::Own(link.into_wire())),
            Self::Http2(link) => link.into_side(),
        }
    }

    /// Whether the connection has carried a request before.
    pub(super) fn is_reused(&self) -> bool {
        match self {
            Self::Http1(link) => link.is_reused(),
            Self::Http2(link) => link.is_reused(),
        }
    }
}
