//! A switch of protocols at a replica in HTTP/2: the upgrade of HTTP/1.1 that the gateway asks with becomes an extended CONNECT
//! (RFC 8441), and the stream that the replica accepts it on a replica's side of a tunnel.

use std::{
    io,
    task::{Context, Poll},
};

use http::{StatusCode, header};

use super::http2::Http2Link;
use crate::proxy::{
    h1::Wire,
    head::{RequestHead, ResponseHead, field_name::Name},
    tunnel::{Side, StreamSide, upgrade::accept_of},
};

/// What a request asks to switch to.
#[derive(Debug)]
pub(super) struct Switch {
    protocol: Vec<u8>,
    /// What a WebSocket's key has to be answered with. HTTP/2 has neither.
    accept: Option<String>,
}

impl Switch {
    /// What a request to a replica, as HTTP/1.1 has it, asks for, if it does. Of several protocols the first: there is room
    /// for one.
    pub(super) fn asked(head: &RequestHead) -> Option<Self> {
        // As RFC 8441 has it: in HTTP/1.1 a protocol's name knows no case, in HTTP/2 it may.
        let protocol = head.fields.list(Name::Upgrade).next()?.to_ascii_lowercase();
        let key = head.fields.get_all_named(header::SEC_WEBSOCKET_KEY.as_str()).next();
        let accept = key.and_then(|key| str::from_utf8(key).ok()).map(accept_of);
        Some(Self { protocol, accept })
    }

    /// As an extended CONNECT names it.
    pub(super) fn protocol(&self) -> &[u8] {
        &self.protocol
    }

    /// The replica's acceptance, as HTTP/1.1 has it.
    pub(super) fn accepted(&self, head: ResponseHead) -> ResponseHead {
        let mut fields = head.fields;
        fields.append(Name::Connection, b"upgrade");
        fields.append(Name::Upgrade, &self.protocol);
        if let Some(accept) = &self.accept {
            fields.append_other(header::SEC_WEBSOCKET_ACCEPT.as_str().as_bytes(), accept.as_bytes());
        }
        ResponseHead::new(StatusCode::SWITCHING_PROTOCOLS, fields)
    }
}

/// A replica's side of a tunnel.
#[derive(Debug)]
pub(in crate::proxy) enum ReplicaSide {
    /// A connection of its own.
    Own(Wire),
    /// A stream of one that is shared, and its place there.
    Shared(Box<StreamSide>, Box<Http2Link>),
}

impl Side for ReplicaSide {
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match self {
            Self::Own(side) => Side::poll_fill(side, cx),
            Self::Shared(side, link) => {
                let filled = side.poll_fill(cx);
                if matches!(filled, Poll::Ready(Ok(1..))) {
                    link.hear();
                }
                filled
            }
        }
    }

    fn input(&self) -> &[u8] {
        match self {
            Self::Own(side) => Side::input(side),
            Self::Shared(side, _) => side.input(),
        }
    }

    fn consume(&mut self, count: usize) {
        match self {
            Self::Own(side) => Side::consume(side, count),
            Self::Shared(side, _) => side.consume(count),
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Own(side) => Side::poll_write(side, cx, data),
            Self::Shared(side, _) => side.poll_write(cx, data),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Own(side) => Side::poll_flush(side, cx),
            Self::Shared(side, _) => side.poll_flush(cx),
        }
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Own(side) => Side::poll_shutdown(side, cx),
            Self::Shared(side, _) => side.poll_shutdown(cx),
        }
    }

    fn is_gone(&mut self, cx: &mut Context<'_>) -> bool {
        match self {
            Self::Own(side) => Side::is_gone(side, cx),
            Self::Shared(side, _) => side.is_gone(cx),
        }
    }

    fn begin(&mut self) {
        match self {
            Self::Own(side) => Side::begin(side),
            Self::Shared(side, _) => side.begin(),
        }
    }

    fn end_well(&mut self) {
        match self {
            Self::Own(side) => Side::end_well(side),
            Self::Shared(side, _) => side.end_well(),
        }
    }
}
