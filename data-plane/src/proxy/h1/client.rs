//! A connection to a replica: one exchange at a time, written and read by whoever polls it.
//!
//! The request goes out and the response comes in at the same time, so that neither a replica that answers early nor one
//! that reads late stands still. What comes before it was asked for, or is left over behind a response, makes the
//! connection useless.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use http::{Method, StatusCode};
use http_body::{Body, Frame};
use tokio::time::Sleep;

use super::{
    body::{BodyDecoder, BodyFault, Step},
    framing::Length,
    limits::{HeadLimits, MAX_INTERIM},
    pipes::Pipe,
    response::{self, Response},
    scan::{HeadScan, Kind},
    wire::Wire,
    write,
};
use crate::proxy::{
    h2,
    head::{RequestHead, ResponseHead, field_name::Name, headers::prepare_trailers, hints::AttemptHints},
};

/// How long a body is held back for a replica that was asked whether it wants it: older ones do not answer.
const CONTINUE_TIMEOUT: Duration = Duration::from_secs(1);

/// What is asked.
#[derive(Debug)]
pub(in crate::proxy) struct Outgoing<'a, B> {
    /// With the fields that tell `length`.
    pub(in crate::proxy) head: &'a RequestHead,
    pub(in crate::proxy) length: Length,
    pub(in crate::proxy) body: B,
    /// Whether the replica is asked if it wants the body.
    pub(in crate::proxy) expects_continue: bool,
    /// What is told of this attempt, behind the head's fields.
    pub(in crate::proxy) hints: AttemptHints,
}

/// Why an exchange comes to no end.
#[derive(Debug, thiserror::Error)]
pub(in crate::proxy) enum Failure {
    /// The connection ended before a byte of the request was on its way, with this error if with any.
    #[error("the connection ended before it took the request")]
    NotTaken(Option<io::Error>),
    /// It ended before the response's head.
    #[error("the connection ended without a response")]
    Closed,
    #[error("the connection broke: {0}")]
    Reset(io::Error),
    #[error("the response is malformed: {0}")]
    Malformed(String),
    #[error("the response's body is broken: {0}")]
    Body(BodyFault),
    /// The request's own body broke off, which is the doing of whom it comes from.
    #[error("the request's body broke off")]
    RequestBody,
}

/// A connection to a replica, and the exchange on it.
#[derive(Debug)]
pub(in crate::proxy) struct Connection<B> {
    wire: Wire,
    /// Of what the replica may answer.
    limits: HeadLimits,
    /// What the wire had sent before this exchange.
    sent_before: u64,
    method: Method,
    /// The protocols that the replica may switch to.
    asked: Option<Box<[u8]>>,
    sending: Sending<B>,
    /// Whether a frame of the body was taken in this exchange.
    has_frame: bool,
    receiving: Receiving,
}

/// How far the request has gone.
#[derive(Debug)]
enum Sending<B> {
    /// The replica was asked whether it wants the body.
    Asking {
        body: B,
        length: Length,
        timer: Pin<Box<Sleep>>,
    },
    Body {
        body: B,
        length: Length,
    },
    Done,
    /// The replica takes no more; what it says all the same is read.
    Refused(io::Error),
    /// What is there to be sent broke off.
    Broken,
}

/// How far the response has come.
#[derive(Debug)]
enum Receiving {
    Head { scan: HeadScan, interim: usize },
    Body { decoder: BodyDecoder, is_kept_alive: bool },
}

impl<B: Body<Data = Bytes> + Unpin> Connection<B> {
    pub(in crate::proxy) fn new(wire: Wire, limits: HeadLimits) -> Self {
        Self {
            wire,
            limits,
            sent_before: 0,
            method: Method::GET,
            asked: None,
            sending: Sending::Done,
            has_frame: false,
            receiving: Receiving::Body { decoder: BodyDecoder::new(Length::Empty), is_kept_alive: true },
        }
    }

    /// Begins an exchange on a connection that has none.
    pub(in crate::proxy) fn begin(&mut self, outgoing: Outgoing<'_, B>) {
        let Outgoing { head, length, body, expects_continue, hints } = outgoing;
        write::request_head(self.wire.output(), head, Some(hints));
        self.sent_before = self.wire.sent();
        self.method = head.method.clone();
        self.has_frame = false;
        self.asked = head.fields.get(Name::Upgrade).map(Box::from);
        self.receiving = Receiving::Head { scan: HeadScan::new(Kind::Response), interim: 0 };
        self.sending = match length {
            Length::Empty | Length::Exact(0) => Sending::Done,
            _ if expects_continue => {
                Sending::Asking { body, length, timer: Box::pin(tokio::time::sleep(CONTINUE_TIMEOUT)) }
            }
            _ => Sending::Body { body, length },
        };
    }

    /// Whether a byte of the request may have reached the replica.
    pub(in crate::proxy) fn has_sent(&self) -> bool {
        self.wire.sent() > self.sent_before
    }

    /// Sends, and waits for the response's head; the interim ones before it are `passed` on.
    ///
    /// After an error the connection is of no more use.
    pub(in crate::proxy) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        mut passed: impl FnMut(ResponseHead),
    ) -> Poll<Result<Response, Failure>> {
        loop {
            self.poll_send(cx)?;
            let asked = matches!(self.sending, Sending::Asking { .. });
            if let Some(response) = self.take_head(&mut passed)? {
                return Poll::Ready(Ok(response));
            }
            if asked && !matches!(self.sending, Sending::Asking { .. }) {
                // It wants the body.
                continue;
            }
            let sent = self.has_sent();
            match ready!(self.wire.poll_fill(cx)) {
                // What comes before anything was asked answers nothing.
                filled if !sent => return Poll::Ready(Err(self.not_taken(filled.err()))),
                Ok(0) => return Poll::Ready(Err(self.without_head(Failure::Closed))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(self.without_head(Failure::Reset(error)))),
            }
        }
    }

    /// The failure of an exchange of which nothing was taken. What writing met says more than what reading does behind it.
    fn not_taken(&mut self, read: Option<io::Error>) -> Failure {
        Failure::NotTaken(match std::mem::replace(&mut self.sending, Sending::Done) {
            Sending::Refused(error) => Some(error),
            _ => read,
        })
    }

    /// The failure of an exchange that the replica has ended without a head.
    fn without_head(&mut self, failure: Failure) -> Failure {
        match std::mem::replace(&mut self.sending, Sending::Done) {
            Sending::Refused(error) => Failure::Reset(error),
            _ => failure,
        }
    }

    /// The response's head, if all of it is there.
    fn take_head(&mut self, passed: &mut impl FnMut(ResponseHead)) -> Result<Option<Response>, Failure> {
        let malformed = |error: &dyn ToString| Failure::Malformed(error.to_string());
        let Receiving::Head { scan, interim } = &mut self.receiving else {
            return Err(Failure::Malformed("its head has been read".into()));
        };
        while !self.wire.input.is_empty() {
            let (input, asked) = (&self.wire.input, self.asked.as_deref());
            let parse = |bytes| response::parse(&self.method, asked, bytes, &self.limits);
            let guess = scan.guess(input, &self.limits);
            let (response, end) = match guess.and_then(|bytes| parse(bytes).ok()) {
                Some(parsed) => parsed,
                None => {
                    let found = scan.find(input, &self.limits).map_err(|refusal| malformed(&refusal))?;
                    let Some(range) = found else { return Ok(None) };
                    let (response, _) =
                        parse(&input[range.clone()]).map_err(|refusal| malformed(&refusal))?;
                    (response, range.end)
                }
            };
            self.wire.input.advance(end);
            let is_switch = response.head.status == StatusCode::SWITCHING_PROTOCOLS;
            if !response.head.status.is_informational() || is_switch {
                let decoder = BodyDecoder::new(response.length);
                let is_kept_alive = response.is_kept_alive;
                self.receiving = Receiving::Body { decoder, is_kept_alive };
                if matches!(self.sending, Sending::Asking { .. }) {
                    // It has decided without the body, which stays where it is.
                    self.sending = Sending::Broken;
                }
                return Ok(Some(response));
            }
            *scan = HeadScan::new(Kind::Response);
            *interim += 1;
            if *interim > MAX_INTERIM {
                return Err(malformed(&"it has too many interim responses"));
            }
            if response.head.status == StatusCode::CONTINUE {
                self.sending.go_on();
            } else {
                passed(response.head);
            }
        }
        Ok(None)
    }

    /// Sends as much as the replica takes and there is to send.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Result<(), Failure> {
        loop {
            let is_waiting = self.queue_body(cx)?;
            if matches!(self.sending, Sending::Refused(_)) {
                return Ok(());
            }
            match self.wire.poll_flush(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(())) if is_waiting => return Ok(()),
                Poll::Ready(Ok(())) => {}
                // It may have said why before it closed: that is read first.
                Poll::Ready(Err(error)) => {
                    self.sending = Sending::Refused(error);
                    return Ok(());
                }
            }
        }
    }

    /// Queues what there is of the body. `true` when there is nothing more to queue for now.
    fn queue_body(&mut self, cx: &mut Context<'_>) -> Result<bool, Failure> {
        if let Sending::Asking { timer, .. } = &mut self.sending {
            if timer.as_mut().poll(cx).is_pending() {
                return Ok(true);
            }
            self.sending.go_on();
        }
        // With the head goes one frame at most: if not a byte is taken of them, the source can give it out once more.
        while self.wire.has_room() && (!self.has_frame || self.has_sent()) {
            let Sending::Body { body, length } = &mut self.sending else { return Ok(true) };
            let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(cx) else { return Ok(true) };
            self.has_frame = true;
            match frame.transpose() {
                Ok(Some(frame)) => match frame.into_data() {
                    Ok(data) if data.is_empty() => {}
                    Ok(data) => match length {
                        Length::Exact(left) if *left >= data.len() as u64 => {
                            *left -= data.len() as u64;
                            // Otherwise its end is still to come, and nobody knows that all of it is here.
                            let is_last = *left == 0 && body.is_end_stream();
                            self.wire.queue(data, &[]);
                            if is_last {
                                self.sending = Sending::Done;
                            }
                        }
                        Length::Chunked => {
                            write::chunk_size(self.wire.output(), data.len());
                            self.wire.queue(data, write::CHUNK_END);
                        }
                        _ => return Err(self.broken()),
                    },
                    Err(frame) => {
                        if *length != Length::Chunked {
                            continue;
                        }
                        let trailers = frame.into_trailers().ok().map(|trailers| h2::fields(&trailers));
                        write::last_chunk(self.wire.output(), trailers.as_ref());
                        self.sending = Sending::Done;
                    }
                },
                Ok(None) if *length == Length::Exact(0) => self.sending = Sending::Done,
                Ok(None) if *length == Length::Chunked => {
                    write::last_chunk(self.wire.output(), None);
                    self.sending = Sending::Done;
                }
                Ok(None) | Err(_) => return Err(self.broken()),
            }
        }
        Ok(false)
    }

    fn broken(&mut self) -> Failure {
        self.sending = Sending::Broken;
        Failure::RequestBody
    }

    /// The next frame of the response's body, while what is left of the request is sent.
    pub(in crate::proxy) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        self.poll_rest(cx)?;
        let Receiving::Body { decoder, .. } = &mut self.receiving else { return Poll::Ready(None) };
        loop {
            match decoder.step(&self.wire.input) {
                Ok(Step::Data(count)) => {
                    return Poll::Ready(Some(Ok(Frame::data(self.wire.input.split_to(count).freeze()))));
                }
                Ok(Step::Skip(count)) => self.wire.input.advance(count),
                Ok(Step::End) => {
                    let trailers = decoder.take_trailers().map(|mut trailers| {
                        prepare_trailers(&mut trailers);
                        h2::map(&trailers)
                    });
                    return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
                }
                Ok(Step::More) => match ready!(self.wire.poll_fill(cx)) {
                    Ok(0) => {
                        if let Err(fault) = decoder.close() {
                            return Poll::Ready(Some(Err(Failure::Body(fault))));
                        }
                    }
                    Ok(_) => {}
                    Err(error) => return Poll::Ready(Some(Err(Failure::Reset(error)))),
                },
                Err(fault) => return Poll::Ready(Some(Err(Failure::Body(fault)))),
            }
        }
    }

    /// The next bytes of the response's body in a pipe, while what is left of the request is sent. `None` where what comes next
    /// has to be read.
    pub(in crate::proxy) fn poll_pipe(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Pipe, Failure>>> {
        let Some(left @ 1..) = self.left().filter(|_| self.wire.input.is_empty()) else {
            return Poll::Ready(None);
        };
        self.poll_rest(cx)?;
        let Some(filled) = ready!(self.wire.poll_pipe(cx, left)) else { return Poll::Ready(None) };
        let Receiving::Body { decoder, .. } = &mut self.receiving else { return Poll::Ready(None) };
        Poll::Ready(Some(match filled {
            Ok(pipe) if pipe.held() == 0 => Err(Failure::Body(BodyFault::Truncated)),
            Ok(pipe) => {
                decoder.passed(pipe.held() as u64);
                Ok(pipe)
            }
            Err(error) => Err(Failure::Reset(error)),
        }))
    }

    /// Sends what is left of the request.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Result<(), Failure> {
        if matches!(self.sending, Sending::Done | Sending::Broken) && self.wire.is_flushed() {
            return Ok(());
        }
        self.poll_send(cx)
    }

    /// The connection itself, with what was read of it behind a response that has switched protocols.
    pub(in crate::proxy) fn into_wire(self) -> Wire {
        self.wire
    }

    /// What is still to be sent.
    pub(in crate::proxy) fn outgoing_body(&self) -> Option<&B> {
        match &self.sending {
            Sending::Asking { body, .. } | Sending::Body { body, .. } => Some(body),
            Sending::Done | Sending::Refused(_) | Sending::Broken => None,
        }
    }

    /// Whether nothing more of the response's body is to come, trailers included.
    pub(in crate::proxy) fn is_end_stream(&self) -> bool {
        matches!(&self.receiving, Receiving::Body { decoder, .. } if decoder.is_done() && decoder.left().is_some())
    }

    /// How many bytes of the response's body are still to come, if that is known.
    pub(in crate::proxy) fn left(&self) -> Option<u64> {
        match &self.receiving {
            Receiving::Body { decoder, .. } => decoder.left(),
            Receiving::Head { .. } => None,
        }
    }

    /// Whether the end of the response's body is the connection's, for whatever reason that ends.
    pub(in crate::proxy) fn ends_by_close(&self) -> bool {
        matches!(&self.receiving, Receiving::Body { decoder, .. } if decoder.ends_by_close())
    }

    /// Whether the last exchange has ended on both sides, and nothing has been read behind it. Gives all buffers back.
    pub(in crate::proxy) fn is_finished(&mut self) -> bool {
        let is_over = matches!(self.sending, Sending::Done)
            && matches!(&self.receiving, Receiving::Body { decoder, is_kept_alive: true, .. } if decoder.is_done());
        is_over && self.wire.rest()
    }

    /// Whether another exchange may begin: the last one has ended, and nothing has come behind it.
    pub(in crate::proxy) fn is_idle(&mut self, cx: &mut Context<'_>) -> bool {
        self.is_finished() && self.wire.poll_is_silent(cx)
    }
}

impl<B> Sending<B> {
    /// The body need not be held back any more.
    fn go_on(&mut self) {
        if let Self::Asking { .. } = self
            && let Self::Asking { body, length, .. } = std::mem::replace(self, Self::Done)
        {
            *self = Self::Body { body, length };
        }
    }
}
