//! A client's side of a tunnel that is a stream of HTTP/2, as hyper hands it over after an extended CONNECT.
//!
//! Hyper shows a stream as bytes and says two things less than HTTP/2 does. A client that cancels its stream looks as if it had
//! ended it, until something is written to it, and is told of once only; and dropping our side ends the stream properly,
//! instead of resetting it.

use std::{
    cell::OnceCell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::{Buf, BufMut, BytesMut};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::{io::AsyncWrite, task::AbortHandle};

use super::Side;
use crate::proxy::h1::Buffers;

/// Bytes read at once.
const READ_SIZE: usize = 16 * 1024;
/// Bytes given to hyper at once, which copies them, and holds a few such pieces before it takes no more.
const WRITE_SIZE: usize = 16 * 1024;

/// Hyper's task that sends a stream's bytes: aborted before their end, it resets the stream.
#[derive(Debug, Clone, Default)]
pub(in crate::proxy) struct ResetHandle(Rc<OnceCell<AbortHandle>>);

impl ResetHandle {
    /// The task has been started.
    pub(in crate::proxy) fn set(&self, task: AbortHandle) {
        // There is one for each stream.
        let _ = self.0.set(task);
    }

    fn reset(&self) {
        if let Some(task) = self.0.get() {
            task.abort();
        }
    }
}

/// A client's stream.
#[derive(Debug)]
pub(in crate::proxy) struct Http2Side {
    stream: TokioIo<Upgraded>,
    reset: ResetHandle,
    buffers: Rc<Buffers>,
    /// Read, and not passed on yet.
    input: BytesMut,
    /// Whether the end has been read, which may have been a reset.
    has_ended: bool,
    /// Whether it is known to be broken.
    is_broken: bool,
    breaks_on_drop: bool,
}

impl Http2Side {
    pub(in crate::proxy) fn new(stream: Upgraded, reset: ResetHandle, buffers: Rc<Buffers>) -> Self {
        Self {
            stream: TokioIo::new(stream),
            reset,
            buffers,
            input: BytesMut::new(),
            has_ended: false,
            is_broken: false,
            breaks_on_drop: true,
        }
    }

    /// Hyper tells an error once.
    fn remember<T>(&mut self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.is_broken |= matches!(polled, Poll::Ready(Err(_)));
        polled
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.input.capacity() == 0 {
            self.input = self.buffers.take_input();
        }
        self.input.reserve(READ_SIZE);
        let mut buffer = (&mut self.input).limit(READ_SIZE);
        tokio_util::io::poll_read_buf(Pin::new(&mut self.stream), cx, &mut buffer)
    }
}

impl Side for Http2Side {
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if !self.has_ended {
            match self.poll_read(cx) {
                Poll::Ready(Ok(0)) => {
                    // A reset is on its way to hyper's task, too, which has to run before anybody knows.
                    self.has_ended = true;
                    cx.waker().wake_by_ref();
                }
                Poll::Ready(read) => return Poll::Ready(read),
                Poll::Pending => {}
            }
            if self.input.is_empty() {
                self.buffers.give_input(&mut self.input);
            }
            return Poll::Pending;
        }
        match self.poll_flush(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(0)),
        }
    }

    fn input(&self) -> &[u8] {
        &self.input
    }

    fn consume(&mut self, count: usize) {
        self.input.advance(count);
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let data = &data[..data.len().min(WRITE_SIZE)];
        let written = Pin::new(&mut self.stream).poll_write(cx, data);
        self.remember(written)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_broken {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.remember(flushed)
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.remember(shut)
    }

    fn is_gone(&mut self, cx: &mut Context<'_>) -> bool {
        matches!(self.poll_flush(cx), Poll::Ready(Err(_)))
    }

    fn begin(&mut self) {
        self.breaks_on_drop = true;
    }

    fn end_well(&mut self) {
        self.breaks_on_drop = false;
    }
}

impl Drop for Http2Side {
    fn drop(&mut self) {
        if self.breaks_on_drop {
            self.reset.reset();
        }
        self.input.clear();
        self.buffers.give_input(&mut self.input);
    }
}
