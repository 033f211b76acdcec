//! What comes from a client: one request after the other, the body of each read by whoever sends it on.
//!
//! The connection's own task and the body's reader look at the same bytes, never at the same time. A reader belongs to one
//! request and gets nothing of the next one, however long it is held.

use std::{
    cell::RefCell,
    io,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http_body::{Frame, SizeHint};

use super::{
    body::{BodyDecoder, Step},
    framing::Length,
    limits::HeadLimits,
    refusal::Refusal,
    request::{self, Request},
    scan::{HeadScan, Kind},
    wire::Wire,
};
use crate::proxy::{body::request_body::BrokenOff, h2, head::headers::prepare_trailers};

/// As much is read ahead of what the client may send while it waits.
const MAX_AHEAD: usize = 16 * 1024;

/// A client's side of a connection.
#[derive(Debug)]
pub(super) struct Inbound {
    pub(super) wire: Wire,
    scan: HeadScan,
    /// Of the request under way.
    body: BodyDecoder,
    /// Whether the client waits to be told that its body is wanted.
    awaits_continue: bool,
    /// Whether the body broke off, or is none.
    is_broken: bool,
    /// Counts requests.
    number: u64,
}

/// Where the next request stands.
#[derive(Debug)]
pub(super) enum Next {
    Request(Request),
    Refused(Refusal),
    /// The client has sent all that it had to say.
    End,
}

impl Inbound {
    pub(super) fn new(wire: Wire) -> Self {
        Self {
            wire,
            scan: HeadScan::new(Kind::Request),
            body: BodyDecoder::new(Length::Empty),
            awaits_continue: false,
            is_broken: false,
            number: 0,
        }
    }

    /// Whether a byte of the next request is there.
    pub(super) fn has_begun(&self) -> bool {
        !self.wire.input.is_empty()
    }

    /// The next request's head; its body is the connection's from then on.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>, limits: &HeadLimits) -> Poll<io::Result<Next>> {
        loop {
            if !self.wire.input.is_empty() {
                match self.take_head(limits) {
                    Ok(Some(request)) => return Poll::Ready(Ok(Next::Request(request))),
                    Ok(None) => {}
                    Err(refusal) => return Poll::Ready(Ok(Next::Refused(refusal))),
                }
            }
            if ready!(self.wire.poll_fill(cx))? == 0 {
                return Poll::Ready(Ok(Next::End));
            }
        }
    }

    /// The next request's head, if all of it is there.
    fn take_head(&mut self, limits: &HeadLimits) -> Result<Option<Request>, Refusal> {
        let input = &self.wire.input;
        let guess = self.scan.guess(input, limits);
        let (parsed, end) = match guess.and_then(|bytes| request::parse(bytes, limits).ok()) {
            Some((request, end)) => (Ok(request), end),
            None => {
                let Some(range) = self.scan.find(input, limits)? else { return Ok(None) };
                (request::parse(&input[range.clone()], limits).map(|(request, _)| request), range.end)
            }
        };
        self.wire.input.advance(end);
        self.scan = HeadScan::new(Kind::Request);
        let request = parsed?;
        self.number += 1;
        self.body = BodyDecoder::new(request.length);
        self.awaits_continue = request.expects_continue;
        Ok(Some(request))
    }

    /// The next frame of the body under way.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        if std::mem::take(&mut self.awaits_continue) && self.wire.input.is_empty() {
            self.wire.output().extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        // An error shows when the body is waited for.
        let _ = self.wire.poll_flush(cx);
        loop {
            match self.body.step(&self.wire.input) {
                Ok(Step::Data(count)) => {
                    return Poll::Ready(Some(Ok(Frame::data(self.wire.input.split_to(count).freeze()))));
                }
                Ok(Step::Skip(count)) => self.wire.input.advance(count),
                Ok(Step::End) => {
                    let trailers = self.body.take_trailers().map(|mut trailers| {
                        prepare_trailers(&mut trailers);
                        Ok(Frame::trailers(h2::map(&trailers)))
                    });
                    return Poll::Ready(trailers);
                }
                Ok(Step::More) => match ready!(self.wire.poll_fill(cx)) {
                    Ok(1..) => {}
                    Ok(0) | Err(_) => return self.break_off(),
                },
                Err(fault) => {
                    tracing::debug!(%fault, "broken request body");
                    return self.break_off();
                }
            }
        }
    }

    fn break_off<T>(&mut self) -> Poll<Option<Result<T, BrokenOff>>> {
        self.is_broken = true;
        Poll::Ready(Some(Err(BrokenOff)))
    }

    /// Completes when the client is gone. What it sends meanwhile is kept, up to a limit, beyond which [nobody looks](Inbound::looks_no_further).
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.wire.input.len() < MAX_AHEAD {
            match ready!(self.wire.poll_read_ahead(cx)) {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Poll::Ready(()),
            }
        }
        Poll::Pending
    }

    /// Whether so much is there already that no more is read, so that the client's end does not show by itself.
    pub(super) fn looks_no_further(&self) -> bool {
        self.wire.input.len() >= MAX_AHEAD
    }

    /// The response begins: from now on the client is told nothing else. Whether it still holds its body back.
    pub(super) fn answer(&mut self) -> bool {
        std::mem::take(&mut self.awaits_continue) && self.wire.input.is_empty()
    }

    /// Whether all of the request has been read.
    pub(super) fn is_read(&self) -> bool {
        self.body.is_done()
    }

    /// Whether the client has sent nothing beyond what was read of its request.
    pub(super) fn is_silent(&self) -> bool {
        self.is_read() && self.wire.input.is_empty()
    }

    /// Whether the end of the request can be found within `most` bytes, as far as anybody knows.
    pub(super) fn may_end_within(&self, most: usize) -> bool {
        !self.is_broken && self.body.left().is_none_or(|left| left <= most as u64)
    }

    /// The response is over: nobody reads the request's body any more.
    pub(super) fn abandon(&mut self) {
        self.number += 1;
    }

    /// Passes over what is left of the body under way, `budget` bytes at most. Ready with whether its end was found.
    pub(super) fn poll_pass_over(&mut self, cx: &mut Context<'_>, budget: &mut usize) -> Poll<bool> {
        loop {
            match self.body.step(&self.wire.input) {
                Ok(Step::Data(count) | Step::Skip(count)) if count <= *budget => {
                    *budget -= count;
                    self.wire.input.advance(count);
                }
                Ok(Step::End) => return Poll::Ready(true),
                Ok(Step::More) => match ready!(self.wire.poll_fill(cx)) {
                    Ok(1..) => {}
                    Ok(0) | Err(_) => return Poll::Ready(false),
                },
                Ok(_) | Err(_) => return Poll::Ready(false),
            }
        }
    }

    /// Completes when the client has closed its side; until then what it sends is thrown away.
    pub(super) fn poll_drained(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            self.wire.input.clear();
            match ready!(self.wire.poll_fill(cx)) {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Poll::Ready(()),
            }
        }
    }
}

/// The body of one request.
#[derive(Debug)]
pub(in crate::proxy) struct RequestReader {
    inbound: Rc<RefCell<Inbound>>,
    number: u64,
}

impl RequestReader {
    /// Of the request that is under way.
    pub(super) fn new(inbound: &Rc<RefCell<Inbound>>) -> Self {
        Self { number: inbound.borrow().number, inbound: Rc::clone(inbound) }
    }

    pub(in crate::proxy) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let mut inbound = self.inbound.borrow_mut();
        if inbound.number != self.number {
            return Poll::Ready(Some(Err(BrokenOff)));
        }
        inbound.poll_body(cx)
    }

    /// The size of the buffer that the last piece is a part of.
    pub(in crate::proxy) fn buffer_size(&self) -> usize {
        self.inbound.borrow().wire.buffer_size()
    }

    /// Whether nothing more of it is to come, trailers included.
    pub(in crate::proxy) fn is_end_stream(&self) -> bool {
        let inbound = self.inbound.borrow();
        inbound.number == self.number && inbound.body.left() == Some(0)
    }

    pub(in crate::proxy) fn size_hint(&self) -> SizeHint {
        let left = self.inbound.borrow().body.left();
        left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
