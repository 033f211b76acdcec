//! A request's body on its way out on a stream of the library h2.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http::HeaderMap;
use http_body::Body;

/// As much of the connection's window is one stream's before others have their turn.
const MAX_RESERVED: usize = 64 * 1024;

/// No more of it is taken than the other side's windows take: the engine would hold the rest, for as long as that side likes.
#[derive(Debug)]
pub(in crate::proxy) struct OutgoingBody<B> {
    stream: SendStream<Bytes>,
    body: B,
    /// Whether anything was read.
    has_begun: bool,
    /// Read, and not sent yet.
    held: Option<Bytes>,
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
    pub(in crate::proxy) fn new(stream: SendStream<Bytes>, body: B) -> Self {
        Self { stream, body, has_begun: false, held: None }
    }

    pub(in crate::proxy) fn body(&self) -> &B {
        &self.body
    }

    pub(in crate::proxy) fn reset(&mut self, reason: Reason) {
        self.stream.send_reset(reason);
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
                self.stream.reserve_capacity(data.len().min(MAX_RESERVED));
                let room = match self.stream.capacity() {
                    0 => match ready!(self.stream.poll_capacity(cx)) {
                        Some(Ok(room)) => room,
                        Some(Err(_)) | None => return Poll::Ready(Ok(Sent::Enough)),
                    },
                    room => room,
                };
                let piece = data.split_to(room.min(data.len()));
                let is_all = data.is_empty();
                if is_all {
                    self.held = None;
                }
                let is_last = is_all && self.body.is_end_stream();
                if (is_last || !piece.is_empty()) && self.stream.send_data(piece, is_last).is_err() {
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
                    // What was reserved of the connection's window and not used is others'.
                    self.stream.reserve_capacity(0);
                    self.stream.send_trailers(trailers)
                }
            };
            return Poll::Ready(Ok(if sent.is_ok() { Sent::All } else { Sent::Enough }));
        }
    }
}
