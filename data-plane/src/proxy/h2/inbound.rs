//! The body of a request in HTTP/2, as its client sends it.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use gateway_http2::Receiver;
use http_body::{Frame, SizeHint};

use super::{heads::ProxyHeads, map};
use crate::proxy::{body::request_body::BrokenOff, downstream::Asker, head::headers::prepare_trailers};

/// The body of one request.
#[derive(Debug)]
pub(in crate::proxy) struct RequestStream {
    stream: Receiver<ProxyHeads>,
    /// Bytes still to come, where the head has told.
    left: Option<u64>,
    /// Whether there are no more of them, so that only trailers may follow.
    is_read: bool,
    /// Whom to tell that it is waited for, if it is held back until then.
    held_back: Option<Box<Asker>>,
}

impl RequestStream {
    /// Of a request that has told this length, if any. That so many bytes come is for the engine to see to.
    pub(super) fn new(
        stream: Receiver<ProxyHeads>,
        declared: Option<u64>,
        held_back: Option<Box<Asker>>,
    ) -> Self {
        Self { stream, left: declared, is_read: false, held_back }
    }

    pub(in crate::proxy) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        if !self.is_read {
            let polled = self.stream.poll_data(cx);
            if let Some(asker) = self.held_back.take()
                && polled.is_pending()
            {
                asker.go_on();
            }
            match ready!(polled) {
                Some(Ok(data)) => {
                    // Whoever has asked for it takes it: the client may send as much again.
                    self.stream.release(data.len());
                    self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(_)) => return Poll::Ready(Some(Err(BrokenOff))),
                None => self.is_read = true,
            }
        }
        Poll::Ready(match ready!(self.stream.poll_trailers(cx)) {
            Ok(None) => None,
            Ok(Some(trailers)) => {
                let mut trailers = trailers.fields;
                prepare_trailers(&mut trailers);
                Some(Ok(Frame::trailers(map(&trailers))))
            }
            Err(_) => Some(Err(BrokenOff)),
        })
    }

    /// Whether nothing more of it is to come, trailers included.
    pub(in crate::proxy) fn is_end_stream(&self) -> bool {
        self.stream.is_end()
    }

    pub(in crate::proxy) fn size_hint(&self) -> SizeHint {
        let left = if self.is_end_stream() { Some(0) } else { self.left };
        left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
