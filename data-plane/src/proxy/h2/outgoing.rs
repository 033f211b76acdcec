//! A body on its way out on a stream, to a client or to a replica.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use gateway_http2::{Failure, Queued, Sender, frame::ErrorCode};
use http::HeaderMap;
use http_body::Body;

use super::{
    fields,
    heads::{Head, ProxyHeads},
};

/// No more of it is taken than the other side's windows take: the engine would hold the rest, for as long as that side likes.
#[derive(Debug)]
pub(in crate::proxy) struct OutgoingBody<B> {
    stream: Sender<ProxyHeads>,
    body: B,
    /// Whether anything was read.
    has_begun: bool,
    /// Read, and not sent yet.
    held: Option<Bytes>,
    /// Bytes that the other side's windows have taken.
    taken: u64,
}

/// Who has said that there is no more to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) enum Sent {
    /// All of it is on its way.
    All,
    /// The other side wants no more, or is gone.
    Enough,
}

impl<B: Body<Data = Bytes> + Unpin> OutgoingBody<B> {
    pub(in crate::proxy) fn new(stream: Sender<ProxyHeads>, body: B) -> Self {
        Self { stream, body, has_begun: false, held: None, taken: 0 }
    }

    pub(in crate::proxy) fn body(&self) -> &B {
        &self.body
    }

    /// Whether it is the other side's windows that it waits for.
    pub(in crate::proxy) fn waits_for_window(&self) -> bool {
        self.held.is_some()
    }

    /// Bytes that the other side's windows have taken.
    pub(in crate::proxy) fn taken(&self) -> u64 {
        self.taken
    }

    /// How those come on.
    pub(in crate::proxy) fn queued(&self) -> Queued {
        self.stream.queued()
    }

    /// Once nobody need see any more to what was sent.
    ///
    /// # Errors
    /// When the other side wants no more, or is gone.
    pub(in crate::proxy) fn poll_passed(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.stream.poll_passed(cx)
    }

    pub(in crate::proxy) fn reset(&mut self, code: ErrorCode) {
        self.stream.reset(code);
    }

    /// Sends as much as there is and the other side takes. More than one frame is read only if it `may_go_on`, and what stands
    /// behind the body is `shown` before it goes.
    ///
    /// # Errors
    /// It broke off, which the other side is still to be told by a reset.
    pub(in crate::proxy) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        may_go_on: bool,
        mut shown: impl FnMut(&HeaderMap),
    ) -> Poll<Result<Sent, B::Error>> {
        loop {
            if let Some(data) = &mut self.held {
                let Ok(room) = ready!(self.stream.poll_room(cx)) else {
                    return Poll::Ready(Ok(Sent::Enough));
                };
                let piece = data.split_to(room.min(data.len()));
                let is_all = data.is_empty();
                if is_all {
                    self.held = None;
                }
                self.taken += piece.len() as u64;
                let is_last = is_all && self.body.is_end_stream();
                if self.stream.send_data(piece, is_last).is_err() {
                    return Poll::Ready(Ok(Sent::Enough));
                }
                if is_last {
                    return Poll::Ready(Ok(Sent::All));
                }
                continue;
            }
            // What the other side does not want is not read: another attempt may.
            if self.has_begun && self.stream.poll_reset(cx).is_ready() {
                return Poll::Ready(Ok(Sent::Enough));
            }
            if self.has_begun && !may_go_on {
                return Poll::Pending;
            }
            let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
                return self.stream.poll_reset(cx).map(|_| Ok(Sent::Enough));
            };
            self.has_begun = true;
            let sent = match frame.transpose()?.map(http_body::Frame::into_data) {
                Some(Ok(data)) if data.is_empty() && !self.body.is_end_stream() => continue,
                Some(Ok(data)) if !data.is_empty() => {
                    self.held = Some(data);
                    continue;
                }
                Some(Ok(end)) => self.stream.send_data(end, true),
                None => self.stream.send_data(Bytes::new(), true),
                Some(Err(frame)) => {
                    let Ok(trailers) = frame.into_trailers() else { continue };
                    shown(&trailers);
                    self.stream.send_trailers(Head::Trailers(fields(&trailers)))
                }
            };
            return Poll::Ready(Ok(if sent.is_ok() { Sent::All } else { Sent::Enough }));
        }
    }
}
