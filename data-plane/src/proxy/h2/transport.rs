//! Moves a connection's bytes between its socket and the engine, whichever side of it this is.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::BytesMut;
use gateway_http2::{Connection, Guard, Shared};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::heads::ProxyHeads;
use crate::proxy::{downstream::stream::Stream, h1::Buffers};

/// Room for a read, where a frame needs no more.
const READ_SIZE: usize = 16 * 1024;
/// Less room than this is not worth a read.
const MIN_ROOM: usize = 4 * 1024;
/// Pieces that are written at once.
const PIECES: usize = 32;

/// A socket, and the engine that speaks over it. Buffers are the worker's as long as there is nothing in them.
#[derive(Debug)]
pub(in crate::proxy) struct Transport {
    stream: Stream,
    connection: Shared<ProxyHeads>,
    buffers: Rc<Buffers>,
    /// Read, and not a whole frame yet.
    input: BytesMut,
    /// Whether the socket takes nothing just now. What is to be written then can wait in its streams.
    is_blocked: bool,
    /// Whether TLS may hold something of what was written.
    is_held: bool,
    /// Bytes that have come.
    heard: u64,
}

impl Transport {
    pub(in crate::proxy) fn new(
        stream: Stream,
        connection: Shared<ProxyHeads>,
        buffers: Rc<Buffers>,
    ) -> Self {
        let input = BytesMut::new();
        Self { stream, connection, buffers, input, is_blocked: false, is_held: false, heard: 0 }
    }

    /// How many bytes have come.
    pub(in crate::proxy) fn heard(&self) -> u64 {
        self.heard
    }

    /// Moves what can be moved, and calls `came` whenever something has come. Completes when there is nothing more to do but to end
    /// the connection.
    ///
    /// # Errors
    /// The socket broke, or the other side has ended it: all streams have failed by then.
    pub(in crate::proxy) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        guard: &mut impl Guard,
        mut came: impl FnMut(),
    ) -> Poll<io::Result<()>> {
        self.connection.borrow_mut().driven_by(cx.waker());
        loop {
            let polled = self.step(cx, guard);
            if let Poll::Ready(Err(error)) = &polled {
                self.connection.borrow_mut().lost(error.kind());
            }
            match ready!(polled)? {
                true => came(),
                false => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Writes what there is, and reads once. Whether something has come; otherwise all is over.
    fn step(&mut self, cx: &mut Context<'_>, guard: &mut impl Guard) -> Poll<io::Result<bool>> {
        if let Poll::Ready(written) = self.poll_write(cx) {
            written?;
            if self.connection.borrow().is_over() {
                return Poll::Ready(Ok(false));
            }
        }
        if !self.connection.borrow().may_read() {
            // It goes on when something was written.
            return Poll::Pending;
        }
        let count = ready!(self.poll_read(cx))?;
        if count == 0 {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        self.heard += count as u64;
        self.connection.borrow_mut().receive(&mut self.input, guard);
        Poll::Ready(Ok(true))
    }

    /// Writes all that there is to be written.
    pub(in crate::proxy) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut connection = self.connection.borrow_mut();
            if !self.is_blocked && connection.is_ready() {
                if !connection.has_output() {
                    connection.give_buffer(self.buffers.take_output());
                }
                connection.pump();
            }
            if !connection.has_output() {
                // The windows let nothing go: what was lent for it goes back.
                self.give_back(&mut connection);
                break;
            }
            let stream = Pin::new(&mut self.stream);
            let written = if let Some(piece) = connection.piece() {
                stream.poll_write(cx, piece)
            } else {
                let mut pieces = [IoSlice::new(&[]); PIECES];
                let count = connection.slices(&mut pieces);
                stream.poll_write_vectored(cx, &pieces[..count])
            };
            self.is_blocked = true;
            let taken = ready!(written)?;
            if taken == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            connection.advance(taken);
            self.is_held = true;
            self.is_blocked = connection.has_output();
            self.give_back(&mut connection);
        }
        if self.is_held {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.is_held = false;
        }
        Poll::Ready(Ok(()))
    }

    /// The buffer of what is to be written goes back to whom it is of, if nothing is.
    fn give_back(&self, connection: &mut Connection<ProxyHeads>) {
        if let Some(buffer) = connection.take_buffer() {
            self.buffers.give_output(buffer);
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        // Nearly every second time nothing has come, and then no buffer is held for it.
        if self.stream.poll_readable(cx)?.is_pending() {
            if self.input.is_empty() {
                self.buffers.give_input(&mut self.input);
            }
            return Poll::Pending;
        }
        if self.input.capacity() == 0 {
            self.input = self.buffers.take_input();
        }
        if self.input.capacity() - self.input.len() < MIN_ROOM {
            self.input.reserve(READ_SIZE);
        }
        let read = self.stream.poll_fill(cx, &mut self.input);
        if read.is_pending() && self.input.is_empty() {
            self.buffers.give_input(&mut self.input);
        }
        read
    }

    /// Ends the connection, once all is written: the other side is told by the end of what it reads, and what it still sends is read
    /// until it has seen that, or for `linger`. Closing under it would have it lose what it was told.
    pub(in crate::proxy) async fn close(mut self, linger: Duration) {
        let ending = async {
            self.stream.shutdown().await?;
            let mut rest = self.buffers.take_input();
            while self.stream.read_buf(&mut rest).await? > 0 {
                rest.clear();
            }
            self.buffers.give_input(&mut rest);
            io::Result::Ok(())
        };
        // What goes wrong ends it as well.
        let _ = tokio::time::timeout(linger, ending).await;
    }
}
