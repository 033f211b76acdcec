//! A side of a tunnel that is a stream of HTTP/2: a client's whose extended CONNECT (RFC 8441) was answered, or a replica's that
//! has accepted one.

use std::{
    io,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use gateway_http2::{Receiver, Sender, frame::ErrorCode};

use super::Side;
use crate::proxy::h2::ProxyHeads;

/// Bytes given to the connection at once, which copies them.
const WRITE_SIZE: usize = 16 * 1024;

/// A stream that bytes pass over.
#[derive(Debug)]
pub(in crate::proxy) struct StreamSide {
    outgoing: Sender<ProxyHeads>,
    incoming: Receiver<ProxyHeads>,
    /// Read, and not passed on yet.
    input: Bytes,
    has_said_all: bool,
    breaks_on_drop: bool,
}

impl StreamSide {
    pub(in crate::proxy) fn new(outgoing: Sender<ProxyHeads>, incoming: Receiver<ProxyHeads>) -> Self {
        Self { outgoing, incoming, input: Bytes::new(), has_said_all: false, breaks_on_drop: false }
    }
}

fn broken() -> io::Error {
    io::ErrorKind::BrokenPipe.into()
}

impl Side for StreamSide {
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        loop {
            match ready!(self.incoming.poll_data(cx)) {
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) => {
                    self.input = data;
                    return Poll::Ready(Ok(self.input.len()));
                }
                Some(Err(_)) => return Poll::Ready(Err(broken())),
                None => return Poll::Ready(Ok(0)),
            }
        }
    }

    fn input(&self) -> &[u8] {
        &self.input
    }

    fn consume(&mut self, count: usize) {
        self.input.advance(count);
        // As much may be sent again.
        self.incoming.release(count);
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if self.has_said_all {
            return Poll::Ready(Err(broken()));
        }
        let Ok(room) = ready!(self.outgoing.poll_room(cx)) else { return Poll::Ready(Err(broken())) };
        let piece = &data[..data.len().min(room).min(WRITE_SIZE)];
        let sent = self.outgoing.send_data(Bytes::copy_from_slice(piece), false);
        Poll::Ready(sent.map(|()| piece.len()).map_err(|_| broken()))
    }

    /// The connection's task sends what it was given.
    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Until that is on its way, the tunnel goes on, within its own limits: once it is over, nobody sees to it.
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !std::mem::replace(&mut self.has_said_all, true)
            && self.outgoing.send_data(Bytes::new(), true).is_err()
        {
            return Poll::Ready(Err(broken()));
        }
        self.outgoing.poll_passed(cx).map_err(|_| broken())
    }

    fn is_gone(&mut self, cx: &mut Context<'_>) -> bool {
        self.outgoing.poll_reset(cx).is_ready()
    }

    fn begin(&mut self) {
        self.breaks_on_drop = true;
    }

    fn end_well(&mut self) {
        self.breaks_on_drop = false;
    }
}

impl Drop for StreamSide {
    fn drop(&mut self) {
        if self.breaks_on_drop {
            self.outgoing.reset(ErrorCode::CANCEL);
        }
    }
}
