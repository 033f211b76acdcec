//! An HTTP/2 connection's bytes on their way to the engine and back, with an eye on floods.
//!
//! The engine (h2) bounds what a client can have it hold: streams at once, the size of heads, CONTINUATION frames, tiny
//! DATA frames, streams reset before it took them on. It does not bound how often a client may have it work for nothing.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::{
    flood::{Flood, FloodGuard},
    frames::{self, FrameScan, kind},
};
use crate::{clock::Clock, proxy::downstream::stream::Stream};

/// The error ENHANCE_YOUR_CALM (RFC 9113 section 7).
const ENHANCE_YOUR_CALM: u32 = 11;

/// A client's connection. Its owner and the engine look at the same one, never at the same time.
#[derive(Debug, Clone)]
pub(super) struct Guarded(Rc<RefCell<Watched>>);

#[derive(Debug)]
struct Watched {
    stream: Stream,
    clock: Clock,
    guard: FloodGuard,
    from_client: FrameScan,
    to_client: FrameScan,
    /// The last one that the client opened.
    last_stream: u32,
    flood: Option<Flood>,
    /// Frames of answers that were sent.
    sent: u64,
    /// Bytes that came.
    heard: u64,
}

impl Guarded {
    pub(super) fn new(stream: Stream, guard: FloodGuard, clock: Clock) -> Self {
        Self(Rc::new(RefCell::new(Watched {
            stream,
            clock,
            guard,
            from_client: FrameScan::from_client(),
            to_client: FrameScan::from_server(),
            last_stream: 0,
            flood: None,
            sent: 0,
            heard: 0,
        })))
    }

    /// What the client does too much of, once it does. The engine finds the connection broken then.
    pub(super) fn flood(&self) -> Option<Flood> {
        self.0.borrow().flood
    }

    /// How many frames of answers were sent.
    pub(super) fn sent(&self) -> u64 {
        self.0.borrow().sent
    }

    /// How many bytes have come.
    pub(super) fn heard(&self) -> u64 {
        self.0.borrow().heard
    }

    /// Tells a client that floods why the connection ends, once the engine has given it up, and closes it as soon as the
    /// client has read that, or after `linger`.
    pub(super) async fn turn_away(self, linger: Duration) {
        let Some(mut watched) = Rc::into_inner(self.0).map(RefCell::into_inner) else { return };
        let Some(flood) = watched.flood else { return };
        // Within another frame it would not be read as one. A client that lets it come to that does not read anyway.
        if !watched.to_client.is_between_frames() {
            return;
        }
        let goodbye = frames::go_away(watched.last_stream, ENHANCE_YOUR_CALM, flood.text());
        let ending = async {
            watched.stream.write_all(&goodbye).await?;
            watched.stream.shutdown().await?;
            // Closing under what it still sends would have it lose what it was told.
            let mut rest = [0; 4096];
            while watched.stream.read(&mut rest).await? > 0 {}
            io::Result::Ok(())
        };
        // What goes wrong ends it as well.
        let _ = tokio::time::timeout(linger, ending).await;
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Watched { stream, clock, guard, from_client, last_stream, flood, heard, .. } =
            &mut *self.0.borrow_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(stream).poll_read(cx, buffer))?;
        let came = &buffer.filled()[before..];
        *heard += came.len() as u64;
        from_client.pass(came, |frame| {
            if frame.kind == kind::HEADERS {
                *last_stream = frame.stream.max(*last_stream);
            }
            if flood.is_none() {
                *flood = guard.received(frame, || clock.now()).err();
            }
        });
        match flood {
            None => Poll::Ready(Ok(())),
            Some(flood) => Poll::Ready(Err(io::Error::other(flood.text()))),
        }
    }
}

impl Watched {
    /// The client was sent the first `count` of these bytes.
    fn sent(&mut self, parts: &[io::IoSlice<'_>], mut count: usize) {
        let Self { guard, to_client, sent, .. } = self;
        for part in parts {
            let of_part = count.min(part.len());
            to_client.pass(&part[..of_part], |frame| *sent += u64::from(guard.sent(frame)));
            count -= of_part;
        }
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let mut watched = self.0.borrow_mut();
        let count = ready!(Pin::new(&mut watched.stream).poll_write(cx, data))?;
        watched.sent(&[io::IoSlice::new(data)], count);
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut watched = self.0.borrow_mut();
        let count = ready!(Pin::new(&mut watched.stream).poll_write_vectored(cx, parts))?;
        watched.sent(parts, count);
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        self.0.borrow().stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().stream).poll_shutdown(cx)
    }
}
