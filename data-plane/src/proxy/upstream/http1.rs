//! A connection to a replica that carries one HTTP/1.1 exchange at a time.

use std::{
    cell::Cell,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::Frame;

use super::{SendFailure, connect::tls_fault};
use crate::{
    proxy::{
        body::request_body::{Arrival, RequestBody},
        downstream::stream::Stream,
        h1::{Buffers, ClientConnection, Failure, Outgoing, Pipe, Wire},
        head::ResponseHead,
        worker::limits::Limits,
    },
    routing::Fault,
};

/// A connection to a replica, polled by its user.
#[derive(Debug)]
pub(in crate::proxy) struct Http1Link {
    connection: ClientConnection<RequestBody>,
    is_reused: bool,
    client_failed: bool,
}

impl Http1Link {
    pub(super) fn new(stream: Stream, buffers: &Rc<Buffers>, limits: &Limits) -> Box<Self> {
        let wire = Wire::new(stream, Rc::clone(buffers));
        let connection = ClientConnection::new(wire, limits.head);
        Box::new(Self { connection, is_reused: false, client_failed: false })
    }

    /// As [`super::Link::send`].
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
                Failure::NotTaken(error) => match error.as_ref().and_then(tls_fault) {
                    Some(fault) if !self.is_reused => SendFailure::Unread(fault),
                    _ => SendFailure::NotTaken,
                },
                Failure::RequestBody => SendFailure::ClientBody,
                Failure::Closed => SendFailure::Failed(Fault::Closed),
                Failure::Reset(error) => match tls_fault(&error) {
                    Some(fault) => SendFailure::of_tls(fault, self.is_reused),
                    None => SendFailure::Failed(Fault::Reset),
                },
                Failure::Malformed(_) | Failure::Body(_) => SendFailure::Failed(Fault::Malformed),
            }
        })
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let polled = self.connection.poll_frame(cx);
        self.client_failed |= matches!(polled, Poll::Ready(Some(Err(Failure::RequestBody))));
        polled
    }

    pub(super) fn poll_pipe(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Pipe, Failure>>> {
        let polled = self.connection.poll_pipe(cx);
        self.client_failed |= matches!(polled, Poll::Ready(Some(Err(Failure::RequestBody))));
        polled
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.connection.is_end_stream()
    }

    pub(super) fn left(&self) -> Option<u64> {
        self.connection.left()
    }

    pub(super) fn ends_by_close(&self) -> bool {
        self.connection.ends_by_close()
    }

    pub(super) fn arrival(&self) -> Option<Arrival> {
        self.connection.outgoing_body().map(RequestBody::arrival)
    }

    pub(super) fn client_failed(&self) -> bool {
        self.client_failed
    }

    pub(super) fn into_wire(self) -> Wire {
        self.connection.into_wire()
    }

    /// Whether its exchange has ended, so that another may follow if the replica is still there.
    pub(in crate::proxy) fn is_finished(&mut self) -> bool {
        self.connection.is_finished()
    }

    /// Whether it can take another request now.
    pub(in crate::proxy) fn is_idle(&mut self, cx: &mut Context<'_>) -> bool {
        self.connection.is_idle(cx)
    }

    pub(super) fn is_reused(&self) -> bool {
        self.is_reused
    }

    pub(super) fn has_been_used(&mut self) {
        self.is_reused = true;
    }
}
