//! The client's body on its way to a replica, kept for a second try where there may be one.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use super::{
    kept::{Kept, ReplayMemory},
    pace::{MinRate, Pace},
};
use crate::{
    clock::Clock,
    proxy::{
        h1::{Length, RequestReader},
        h2::RequestStream,
    },
    request_rules::{BodyCheck, Breach},
    routing::Tick,
};

/// A request's body as it comes from its client.
#[derive(Debug)]
pub(in crate::proxy) enum ClientBody {
    None,
    Http1(RequestReader),
    Http2(RequestStream),
}

/// The client broke its request's body off, or sent what is none.
#[derive(Debug, thiserror::Error)]
#[error("the request's body broke off")]
pub(in crate::proxy) struct BrokenOff;

impl ClientBody {
    /// The same, of a request that says so of its length. The end of one without a byte may be told later, and nobody has to wait
    /// for that.
    pub(in crate::proxy) fn of(self, length: Length) -> Self {
        match length {
            Length::Empty | Length::Exact(0) => Self::None,
            Length::Exact(_) | Length::Chunked | Length::UntilClose => self,
        }
    }

    /// Whether there is none.
    pub(in crate::proxy) fn is_empty(&self) -> bool {
        self.is_end_stream()
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::None => true,
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::None => SizeHint::with_exact(0),
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
        }
    }

    /// The size of the buffer that the last piece is a part of; `None` where nobody knows.
    fn buffer_size(&self) -> Option<usize> {
        match self {
            Self::Http1(body) => Some(body.buffer_size()),
            Self::None | Self::Http2(_) => None,
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        match self {
            Self::None => Poll::Ready(None),
            Self::Http1(body) => body.poll_frame(cx),
            Self::Http2(body) => body.poll_frame(cx),
        }
    }
}

/// A request's body: handed out once for each attempt.
#[derive(Debug)]
pub(in crate::proxy) enum RequestSource {
    /// There is none, so every attempt has all of it.
    Empty,
    /// It comes from the client.
    Client(Rc<RefCell<Source>>),
}

/// How far a request's body has come from its client.
#[derive(Debug, Clone, Copy)]
pub(in crate::proxy) enum Arrival {
    /// Nothing more is to come since this moment.
    Whole(Tick),
    /// More is to come.
    Partial {
        /// When it last moved.
        moved_at: Tick,
        /// Whether the client is what it waits for, not the replica.
        waits_for_client: bool,
        /// From when on the client is too slow if it sends nothing more.
        too_slow_at: Tick,
    },
}

/// The client's body and what has been read of it.
#[derive(Debug)]
pub(in crate::proxy) struct Source {
    incoming: ClientBody,
    /// Bytes that have come.
    came: u64,
    /// Bytes read so far.
    read: usize,
    /// All of them while they are few enough to be sent again, else none.
    kept: Kept,
    /// The first frame, if it is not kept, until another one is asked for: whoever asks has sent it.
    first: Option<Bytes>,
    /// The fields behind it, if they can be sent again as well.
    trailers: Option<HeaderMap>,
    /// What was read before the first attempt and is not kept: the next that is sent.
    ahead: Option<Frame<Bytes>>,
    /// Whether what was read can be sent again.
    is_replayable: bool,
    client_failed: bool,
    has_begun: bool,
    /// What the service's policy says of it.
    check: BodyCheck,
    breach: Option<Breach>,
    arrival: Arrival,
    /// Of a body whose length is known.
    pace: Option<Pace>,
    clock: Clock,
    /// Where bytes are counted, if anybody listens.
    counted: Option<Rc<Cell<u64>>>,
}

/// Why a request's body has no proper end.
#[derive(Debug, thiserror::Error)]
pub(in crate::proxy) enum BodyFailure {
    #[error(transparent)]
    Client(BrokenOff),
    #[error("the request's body is not let through")]
    Refused(Breach),
}

/// Why a body could not be held.
#[derive(Debug)]
pub(in crate::proxy) enum NotHeld {
    /// It broke off, or was not let through.
    Failed,
    /// The client stopped sending.
    Stalled,
}

impl RequestSource {
    /// Takes over the client's body, which is to pass the `check`. Unless `may_replay`, nothing of it is kept.
    pub(in crate::proxy) fn new(
        incoming: ClientBody,
        may_replay: bool,
        check: BodyCheck,
        memory: &ReplayMemory,
        rate: MinRate,
        clock: Clock,
    ) -> Self {
        if incoming.is_empty() {
            return Self::Empty;
        }
        // One without a length may be a stream of events, which is as slow as what it tells of.
        let pace = incoming.size_hint().exact().map(|_| Pace::new(rate));
        Self::Client(Rc::new(RefCell::new(Source {
            incoming,
            came: 0,
            read: 0,
            kept: Kept::new(memory),
            first: None,
            trailers: None,
            ahead: None,
            is_replayable: may_replay,
            client_failed: false,
            has_begun: false,
            check,
            breach: None,
            arrival: Arrival::moved(clock.now()),
            pace,
            clock,
            counted: None,
        })))
    }

    /// Has bytes that come from the client counted here.
    pub(in crate::proxy) fn count_in(&self, counter: Rc<Cell<u64>>) {
        if let Self::Client(source) = self {
            source.borrow_mut().counted = Some(counter);
        }
    }

    /// The body for one attempt, from its first byte.
    pub(in crate::proxy) fn attempt(&self) -> RequestBody {
        match self {
            Self::Empty => RequestBody::Empty,
            Self::Client(source) => {
                source.borrow_mut().goes_on();
                RequestBody::Client { source: Rc::clone(source), sent: 0, has_ended: false }
            }
        }
    }

    /// Whether anything of it was asked for.
    pub(in crate::proxy) fn has_begun(&self) -> bool {
        match self {
            Self::Empty => false,
            Self::Client(source) => source.borrow().has_begun,
        }
    }

    /// How far it has come; the absence of a body was always whole.
    pub(in crate::proxy) fn arrival(&self) -> Arrival {
        match self {
            Self::Empty => Arrival::Whole(Tick::ORIGIN),
            Self::Client(source) => source.borrow().arrival,
        }
    }

    /// Whether another attempt would get all of it.
    pub(in crate::proxy) fn is_replayable(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Client(source) => {
                let source = source.borrow();
                source.is_replayable && !source.client_failed
            }
        }
    }

    /// Reads ahead of the first attempt: to the end of the body, or as far as what is kept for replay reaches. A client
    /// that sends nothing for `idle`, or has not sent all of that within `total`, is not waited for.
    pub(in crate::proxy) async fn hold(&self, idle: Duration, total: Duration) -> Result<(), NotHeld> {
        let Self::Client(source) = self else { return Ok(()) };
        let held = async {
            while source.borrow().may_hold_more() {
                let read = poll_fn(|cx| source.borrow_mut().poll_hold(cx));
                match tokio::time::timeout(idle, read).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return Err(NotHeld::Failed),
                    Err(_) => return Err(NotHeld::Stalled),
                }
            }
            Ok(())
        };
        tokio::time::timeout(total, held).await.unwrap_or(Err(NotHeld::Stalled))
    }

    /// Whether its client sent it too slowly, if it is given up `now`.
    pub(in crate::proxy) fn is_too_slow(&self, now: Tick) -> bool {
        matches!(self.arrival(), Arrival::Partial { too_slow_at, .. } if too_slow_at <= now)
    }

    /// Why it is not let through, if it is not.
    pub(in crate::proxy) fn breach(&self) -> Option<Breach> {
        match self {
            Self::Empty => None,
            Self::Client(source) => source.borrow().breach,
        }
    }

    /// Whether the client broke it off, or it was not let through.
    pub(in crate::proxy) fn client_failed(&self) -> bool {
        matches!(self, Self::Client(source) if source.borrow().client_failed)
    }
}

impl Arrival {
    /// Something has come, and there is more.
    fn moved(at: Tick) -> Self {
        Self::Partial { moved_at: at, waits_for_client: false, too_slow_at: Tick::NEVER }
    }
}

impl Source {
    /// Nobody waits for the client until somebody asks for more.
    fn goes_on(&mut self) {
        if let Arrival::Partial { moved_at, .. } = self.arrival {
            self.arrival = Arrival::moved(moved_at);
        }
        if let Some(pace) = &mut self.pace {
            pace.goes_on(|| self.clock.now());
        }
    }

    /// Whether there is more to come, and all that has come is kept.
    fn may_hold_more(&self) -> bool {
        self.is_replayable && self.ahead.is_none() && matches!(self.arrival, Arrival::Partial { .. })
    }

    /// The next frame from the client, judged, and kept as long as there is room.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFailure>>> {
        let is_first = self.read == 0;
        if !is_first {
            self.first = None;
        }
        let frame = ready!(self.poll_judged(cx));
        if let Some(Ok(frame)) = &frame {
            match frame.data_ref() {
                Some(data) => {
                    if !self.keep(data) {
                        self.kept.forget();
                        self.first = is_first.then(|| data.clone());
                    }
                    self.read += data.len();
                }
                None => self.keep_trailers(frame.trailers_ref()),
            }
        }
        Poll::Ready(frame)
    }

    /// Reads one frame more before anybody is sent any: it is kept, or else lies ahead.
    fn poll_hold(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyFailure>> {
        let Some(frame) = ready!(self.poll_judged(cx)).transpose()? else { return Poll::Ready(Ok(())) };
        match frame.data_ref() {
            Some(data) if self.keep(data) => self.read += data.len(),
            None if self.is_replayable => self.keep_trailers(frame.trailers_ref()),
            _ => {
                self.is_replayable = false;
                self.ahead = Some(frame);
            }
        }
        Poll::Ready(Ok(()))
    }

    /// The next frame from the client, if the policy lets it through.
    fn poll_judged(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFailure>>> {
        self.has_begun = true;
        let polled = self.incoming.poll_frame(cx);
        let Poll::Ready(frame) = polled else {
            if let Arrival::Partial { waits_for_client, too_slow_at, .. } = &mut self.arrival {
                *waits_for_client = true;
                if let Some(pace) = &mut self.pace {
                    *too_slow_at = pace.waits(self.came, || self.clock.now());
                }
            }
            return Poll::Pending;
        };
        let is_data = matches!(&frame, Some(Ok(frame)) if frame.is_data());
        let is_last = !is_data || self.incoming.is_end_stream();
        let now = self.clock.now();
        self.arrival = match self.arrival {
            Arrival::Partial { .. } if !is_last => Arrival::moved(now),
            Arrival::Partial { .. } => Arrival::Whole(now),
            whole => whole,
        };
        if let Some(pace) = &mut self.pace {
            pace.goes_on(|| now);
        }
        if let Some(Ok(frame)) = &frame {
            self.came += frame.data_ref().map_or(0, Bytes::len) as u64;
        }
        let judged = match frame {
            Some(Err(error)) => Err(BodyFailure::Client(error)),
            Some(Ok(frame)) => {
                let judged = frame.data_ref().map_or(Ok(()), |data| self.check.piece(data));
                if let Some(counted) = &self.counted {
                    counted.set(counted.get() + frame.data_ref().map_or(0, Bytes::len) as u64);
                }
                // Before its last byte is passed on, so that no replica has the whole of what is not let through. In HTTP/2
                // the end may come behind it, on its own.
                let has_all = is_last || self.incoming.size_hint().exact() == Some(0);
                let judged = judged.and_then(|()| if has_all { self.check.end() } else { Ok(()) });
                judged.map(|()| Some(frame)).map_err(BodyFailure::Refused)
            }
            None => self.check.end().map(|()| None).map_err(BodyFailure::Refused),
        };
        if let Err(failure) = &judged {
            self.client_failed = true;
            if let BodyFailure::Refused(breach) = failure {
                self.breach = Some(*breach);
            }
        }
        Poll::Ready(judged.transpose())
    }

    /// Keeps the piece that has just come for replay, if all before it is kept and there is room.
    fn keep(&mut self, piece: &Bytes) -> bool {
        self.is_replayable = self.is_replayable && self.kept.push(piece, self.incoming.buffer_size());
        self.is_replayable
    }

    /// Keeps what stands behind the body, if all of the body can be given out again: it is kept, or there is none. A message
    /// bounds them.
    fn keep_trailers(&mut self, trailers: Option<&HeaderMap>) {
        if self.is_replayable || self.read == 0 {
            self.trailers = trailers.cloned();
        }
    }
}

/// A request's body in one attempt: what was kept, then what the client still sends.
#[derive(Debug)]
pub(in crate::proxy) enum RequestBody {
    Empty,
    Client {
        source: Rc<RefCell<Source>>,
        /// Bytes given out.
        sent: usize,
        /// Whether the fields behind it were given out.
        has_ended: bool,
    },
}

impl RequestBody {
    /// How far it has come from its client.
    pub(in crate::proxy) fn arrival(&self) -> Arrival {
        match self {
            Self::Empty => Arrival::Whole(Tick::ORIGIN),
            Self::Client { source, .. } => source.borrow().arrival,
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyFailure;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFailure>>> {
        let Self::Client { source, sent, has_ended } = self.get_mut() else { return Poll::Ready(None) };
        let mut source = source.borrow_mut();
        if let Some(data) = source.kept.piece_at(*sent) {
            *sent += data.len();
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if *sent < source.read {
            if let Some(first) =
                source.first.as_ref().filter(|first| *sent == 0 && first.len() == source.read)
            {
                let first = first.clone();
                *sent = source.read;
                return Poll::Ready(Some(Ok(Frame::data(first))));
            }
            // A later attempt read on and what this one lacks is not kept. Its replica answered without it, or there
            // would be no later attempt, and gets no body with a hole: no more, and no end.
            return Poll::Pending;
        }
        if let Some(frame) = source.ahead.take() {
            // What was held is on its way, and there will be no other attempt.
            source.kept.forget();
            if source.read == 0 {
                source.first = frame.data_ref().cloned();
            }
            source.read += frame.data_ref().map_or(0, Bytes::len);
            *sent = source.read;
            return Poll::Ready(Some(Ok(frame)));
        }
        if let Some(trailers) = source.trailers.as_ref().filter(|_| !*has_ended) {
            *has_ended = true;
            return Poll::Ready(Some(Ok(Frame::trailers(trailers.clone()))));
        }
        let frame = ready!(source.poll_read(cx));
        *sent = source.read;
        *has_ended |= matches!(&frame, Some(Ok(frame)) if frame.is_trailers());
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Client { source, sent, has_ended } => {
                let source = source.borrow();
                let is_all_given = source.ahead.is_none() && (*has_ended || source.trailers.is_none());
                *sent == source.read && is_all_given && source.incoming.is_end_stream()
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Client { source, sent, .. } => {
                let source = source.borrow();
                let ahead = source.ahead.as_ref().and_then(Frame::data_ref).map_or(0, Bytes::len);
                let kept = (source.read - sent + ahead) as u64;
                let rest = source.incoming.size_hint();
                let mut hint = SizeHint::new();
                hint.set_lower(kept.saturating_add(rest.lower()));
                if let Some(upper) = rest.upper() {
                    hint.set_upper(kept.saturating_add(upper));
                }
                hint
            }
        }
    }
}
