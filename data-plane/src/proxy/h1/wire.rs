//! One TCP connection with what was read ahead of it and what is still to be written. Knows no HTTP.
//!
//! Buffers are borrowed from the worker while there is something in them, so a connection that is idle holds none.

use std::{
    cell::RefCell,
    io::{self, IoSlice},
    net::Shutdown,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncWrite, Interest, Ready},
    net::TcpStream,
};

use super::{
    framing::Length,
    pipes::{self, Pipe, Pipes},
};
use crate::proxy::downstream::stream::Stream;

/// Bytes read at once, at first.
const READ_SIZE: usize = 16 * 1024;
/// Bytes read at once where as many keep coming. Whoever reads slowly holds as many of the gateway's memory.
const MAX_READ_SIZE: usize = 64 * 1024;
/// Less room than this is not worth a read.
const MIN_ROOM: usize = 4 * 1024;
/// Free buffers kept by one worker, of each kind.
const MAX_FREE: usize = 128;
/// A frame that is not longer is copied, so that it is written together with what stands before and behind it.
const COPIED: usize = 4 * 1024;
/// A silent peer in a tunnel is asked for a sign of life by the system after this time.
const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// As much to write is enough for one write.
const WRITE_SIZE: usize = 16 * 1024;

/// What is sent so, and does not fill a segment, waits for what follows it.
#[cfg(target_os = "linux")]
const FOLLOWED: SendFlags = SendFlags::MORE.union(SendFlags::NOSIGNAL);
#[cfg(not(target_os = "linux"))]
const FOLLOWED: SendFlags = SendFlags::empty();

/// A worker's free buffers.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Buffers {
    input: RefCell<Vec<BytesMut>>,
    output: RefCell<Vec<Vec<u8>>>,
    pipes: Pipes,
}

impl Buffers {
    /// With these pipes beside them.
    pub(in crate::proxy) fn new(pipes: Pipes) -> Self {
        Self { pipes, ..Self::default() }
    }

    pub(in crate::proxy) fn pipes(&self) -> &Pipes {
        &self.pipes
    }

    pub(in crate::proxy) fn take_input(&self) -> BytesMut {
        self.input.borrow_mut().pop().unwrap_or_else(|| BytesMut::with_capacity(READ_SIZE))
    }

    /// Takes an empty buffer back that was never enlarged, unless frames of it are still looked at: then it is of use to its
    /// owner only, once they are gone.
    pub(in crate::proxy) fn give_input(&self, buffer: &mut BytesMut) {
        if buffer.capacity() > 0 && buffer.try_reclaim(READ_SIZE) {
            let buffer = std::mem::take(buffer);
            let mut free = self.input.borrow_mut();
            if free.len() < MAX_FREE && buffer.capacity() < 2 * READ_SIZE {
                free.push(buffer);
            }
        }
    }

    pub(in crate::proxy) fn take_output(&self) -> Vec<u8> {
        self.output.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(2 * COPIED))
    }

    pub(in crate::proxy) fn give_output(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        let mut free = self.output.borrow_mut();
        if free.len() < MAX_FREE && (1..=2 * WRITE_SIZE).contains(&buffer.capacity()) {
            free.push(buffer);
        }
    }
}

/// A connection's two directions.
#[derive(Debug)]
pub(in crate::proxy) struct Wire {
    stream: Stream,
    buffers: Rc<Buffers>,
    /// Read, and not taken yet.
    pub(in crate::proxy) input: BytesMut,
    /// No less than the buffer that this is a part of.
    buffer_size: usize,
    /// Bytes to read at once: more where a buffer was filled.
    read_size: usize,
    /// To be written, from `written` on, and before `frame`.
    output: Vec<u8>,
    written: usize,
    /// To be written behind that, without being copied, and before `tail`.
    frame: Bytes,
    tail: &'static [u8],
    /// To be written behind that, by the system alone.
    pipe: Option<Pipe>,
    /// Whether the system was told how much of that to hold.
    is_unsent_limited: bool,
    /// Bytes that the system has taken, or TLS.
    sent: u64,
    /// Whether TLS may still hold some of them.
    is_held: bool,
    /// Whether the end follows what is queued.
    is_last: bool,
    /// Whether the system holds some of that back until the end.
    awaits_end: bool,
    /// Whether the peer was told of it.
    has_ended: bool,
}

impl Wire {
    pub(in crate::proxy) fn new(stream: Stream, buffers: Rc<Buffers>) -> Self {
        Self::begun(stream, BytesMut::new(), buffers)
    }

    /// One of which `input` was read already, into one of these buffers if there is any.
    pub(super) fn begun(stream: Stream, input: BytesMut, buffers: Rc<Buffers>) -> Self {
        Self {
            stream,
            buffers,
            buffer_size: input.capacity(),
            input,
            read_size: READ_SIZE,
            output: Vec::new(),
            written: 0,
            frame: Bytes::new(),
            tail: &[],
            pipe: None,
            is_unsent_limited: false,
            sent: 0,
            is_held: false,
            is_last: false,
            awaits_end: false,
            has_ended: false,
        }
    }

    /// Reads more into `input`. Ready with the count, zero at the end of what the peer sends.
    pub(in crate::proxy) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let read = self.poll_read(cx, self.read_size);
        if let Poll::Ready(Ok(count)) = read {
            self.read_size = match count {
                _ if count == self.read_size => (2 * count).min(MAX_READ_SIZE),
                _ if count < self.read_size / 4 => READ_SIZE,
                _ => self.read_size,
            };
        }
        read
    }

    /// As [`Wire::poll_fill`], of what nobody has asked for yet: only a little.
    pub(super) fn poll_read_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.poll_read(cx, READ_SIZE)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, size: usize) -> Poll<io::Result<usize>> {
        // Nearly every second time nothing has come, and then no buffer is held for it.
        if self.stream.poll_readable(cx)?.is_pending() {
            if self.input.is_empty() {
                self.give_input();
            }
            return Poll::Pending;
        }
        if self.input.is_empty() {
            self.renew_input(size);
        } else if self.input.capacity() - self.input.len() < MIN_ROOM {
            self.input.reserve(size);
            if self.input.capacity() > self.buffer_size {
                // If it has grown where it is, what was taken of it still lies in front.
                self.buffer_size += self.input.capacity();
            }
        }
        let mut input = (&mut self.input).limit(size);
        let read = self.stream.poll_fill(cx, &mut input);
        if read.is_pending() && self.input.is_empty() {
            self.give_input();
        }
        read
    }

    /// Has an empty `input` be a buffer with room for so many bytes.
    fn renew_input(&mut self, size: usize) {
        if self.input.capacity() > 0 && self.input.try_reclaim(size) {
            return;
        }
        // Frames of it are still looked at, or it is too small.
        self.give_input();
        self.input = match size {
            READ_SIZE => self.buffers.take_input(),
            size => BytesMut::with_capacity(size),
        };
        self.buffer_size = self.input.capacity();
    }

    /// Gives an empty `input` back, unless frames of it are still looked at.
    fn give_input(&mut self) {
        match self.buffer_size < 2 * READ_SIZE {
            true => self.buffers.give_input(&mut self.input),
            false => self.input = BytesMut::new(),
        }
    }

    /// No less than the size of the buffer that was read into last: who keeps a part of it, keeps all of it.
    pub(super) fn buffer_size(&self) -> usize {
        self.buffer_size
    }

    /// What has come, `most` bytes at most, in a pipe: an empty one at the end of what the peer sends. `None` where it has to be
    /// read: because of TLS, or for want of a pipe. To be called only when all that was read has been taken.
    pub(super) fn poll_pipe(&mut self, cx: &mut Context<'_>, most: u64) -> Poll<Option<io::Result<Pipe>>> {
        debug_assert!(self.input.is_empty(), "what was read comes first");
        let Stream::Tcp(tcp) = &self.stream else { return Poll::Ready(None) };
        loop {
            ready!(tcp.poll_read_ready(cx))?;
            let Some(mut pipe) = self.buffers.pipes.take() else { return Poll::Ready(None) };
            match tcp.try_io(Interest::READABLE, || pipe.fill(tcp, most)) {
                Ok(()) => {
                    // What is read with the next head is better left to a pipe, too.
                    self.read_size = READ_SIZE;
                    return Poll::Ready(Some(Ok(pipe)));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if pipes::is_refusal(&error) => {
                    self.buffers.pipes.refused(&error);
                    return Poll::Ready(None);
                }
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
    }

    /// Whether a body of this length may be queued in pipes.
    pub(super) fn takes_pipes(&self, length: Length) -> bool {
        matches!(length, Length::Exact(pipes::MIN_LENGTH..)) && !self.is_tls()
    }

    /// What is to be written next, if nothing waits behind it.
    pub(super) fn output(&mut self) -> &mut Vec<u8> {
        debug_assert!(
            self.frame.is_empty() && self.tail.is_empty() && self.pipe.is_none(),
            "a frame is written before what follows it"
        );
        if self.output.capacity() == 0 {
            self.output = self.buffers.take_output();
        }
        &mut self.output
    }

    /// Queues data, and what follows it. To be called only while there [has](Wire::has_room) room.
    pub(super) fn queue(&mut self, data: Bytes, tail: &'static [u8]) {
        if data.len() <= COPIED {
            let output = self.output();
            output.extend_from_slice(&data);
            output.extend_from_slice(tail);
        } else {
            debug_assert!(self.frame.is_empty(), "one frame waits at a time");
            self.frame = data;
            self.tail = tail;
        }
    }

    /// Queues what is in a pipe. To be called only while there [has](Wire::has_room) room, and of bodies that it
    /// [takes](Wire::takes_pipes) so.
    pub(super) fn queue_pipe(&mut self, pipe: Pipe) {
        debug_assert!(self.pipe.is_none() && !self.is_tls(), "one waits at a time, and none is encrypted");
        if !std::mem::replace(&mut self.is_unsent_limited, true) {
            pipes::limit_unsent(self.stream.tcp());
        }
        self.pipe = (pipe.held() > 0).then_some(pipe);
    }

    /// Whether more may be queued before what is there is written.
    pub(super) fn has_room(&self) -> bool {
        !self.has_queued() && self.output.len() - self.written < WRITE_SIZE
    }

    /// Whether something waits behind the output.
    fn has_queued(&self) -> bool {
        !self.frame.is_empty() || !self.tail.is_empty() || self.pipe.is_some()
    }

    pub(super) fn is_flushed(&self) -> bool {
        !self.is_held && self.is_written()
    }

    fn is_written(&self) -> bool {
        self.written == self.output.len() && !self.has_queued()
    }

    /// What is queued is the last: once it is written the peer is told that nothing more comes, where there is no TLS. It gets its
    /// last bytes and the end in one segment, and is woken once.
    ///
    /// By a shutdown of this side, not by closing: if the peer has sent what nobody has read, closing would throw away what the
    /// system holds.
    pub(super) fn ends_behind(&mut self) {
        self.is_last = true;
    }

    /// Writes all that is queued.
    pub(in crate::proxy) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.is_written() {
            let output = &self.output[self.written..];
            if output.is_empty() && self.frame.is_empty() && self.tail.is_empty() {
                ready!(self.poll_empty_pipe(cx))?;
                continue;
            }
            let parts = || [IoSlice::new(output), IoSlice::new(&self.frame), IoSlice::new(self.tail)];
            let count = match &mut self.stream {
                Stream::Tcp(tcp) if self.is_last && self.pipe.is_none() => {
                    let count = ready!(poll_write_followed(tcp, cx, &parts()))?;
                    self.awaits_end = true;
                    count
                }
                stream if self.frame.is_empty() && self.tail.is_empty() => {
                    ready!(Pin::new(stream).poll_write(cx, output))?
                }
                stream => ready!(Pin::new(stream).poll_write_vectored(cx, &parts()))?,
            };
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.wrote(count);
        }
        if self.is_held {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.is_held = false;
        }
        if std::mem::take(&mut self.awaits_end) {
            // Who is gone by now has had all that could be sent.
            let _ = SockRef::from(self.stream.tcp()).shutdown(Shutdown::Write);
            self.has_ended = true;
        }
        if self.output.capacity() > 0 {
            self.written = 0;
            self.buffers.give_output(std::mem::take(&mut self.output));
        }
        Poll::Ready(Ok(()))
    }

    /// Has the system write what is in the pipe.
    fn poll_empty_pipe(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let tcp = self.stream.tcp();
        while let Some(pipe) = &mut self.pipe {
            ready!(tcp.poll_write_ready(cx))?;
            match tcp.try_io(Interest::WRITABLE, || pipe.empty_into(tcp)) {
                Ok(count) => self.sent += count as u64,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
            if pipe.held() == 0 {
                self.pipe = None;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn wrote(&mut self, mut count: usize) {
        self.sent += count as u64;
        self.is_held = self.stream.is_tls();
        let of_output = count.min(self.output.len() - self.written);
        self.written += of_output;
        count -= of_output;
        let of_frame = count.min(self.frame.len());
        self.frame.advance(of_frame);
        if self.frame.is_empty() {
            // Nobody needs to keep the buffer that it was a part of.
            self.frame = Bytes::new();
        }
        self.tail = &self.tail[count - of_frame..];
    }

    /// Writes some of `data`, of which there is some, behind all that is queued.
    pub(in crate::proxy) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        if !self.is_written() {
            ready!(self.poll_flush(cx))?;
        }
        let count = ready!(Pin::new(&mut self.stream).poll_write(cx, data))?;
        if count == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.sent += count as u64;
        self.is_held = self.stream.is_tls();
        Poll::Ready(Ok(count))
    }

    /// Bytes that the system has taken so far.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// Whether all that was read has been taken and all that was queued is sent. Gives all buffers back if so.
    pub(super) fn rest(&mut self) -> bool {
        let is_at_rest = self.input.is_empty() && self.is_flushed();
        if is_at_rest {
            self.give_input();
        }
        is_at_rest
    }

    /// Whether the peer of a wire at [rest](Wire::rest) has sent nothing unasked and is still there, as far as the system
    /// knows by now. Gives all buffers back if so.
    pub(super) fn poll_is_silent(&mut self, cx: &mut Context<'_>) -> bool {
        !self.stream.may_have_something() || self.poll_fill(cx).is_pending()
    }

    /// The peer is told that nothing more comes.
    pub(in crate::proxy) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.has_ended {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    pub(super) fn is_tls(&self) -> bool {
        self.stream.is_tls()
    }

    /// Whether the peer has closed its side, behind whatever of its bytes has not been read.
    pub(super) fn is_closed_by_peer(&self) -> bool {
        self.is_ready_as(Interest::READABLE, Ready::is_read_closed)
    }

    /// Whether it is known by now that the peer takes nothing more, for its connection is broken.
    pub(in crate::proxy) fn takes_no_more(&self) -> bool {
        self.is_ready_as(Interest::WRITABLE, Ready::is_write_closed)
    }

    fn is_ready_as(&self, interest: Interest, holds: impl FnOnce(Ready) -> bool) -> bool {
        let ready = std::pin::pin!(self.stream.tcp().ready(interest));
        let ready = ready.poll(&mut Context::from_waker(Waker::noop()));
        matches!(ready, Poll::Ready(Ok(ready)) if holds(ready))
    }

    /// Has the peer find the connection broken, not ended.
    pub(in crate::proxy) fn reset_on_close(&self) {
        self.linger(Some(Duration::ZERO));
    }

    /// Takes that back.
    pub(in crate::proxy) fn end_on_close(&self) {
        self.linger(None);
    }

    fn linger(&self, linger: Option<Duration>) {
        if let Err(error) = SockRef::from(self.stream.tcp()).set_linger(linger) {
            tracing::debug!(%error, "cannot choose how a connection ends");
        }
    }

    /// Has a peer that has vanished be missed, also while nothing is sent to it.
    pub(in crate::proxy) fn keep_alive(&self) {
        let often = TcpKeepalive::new().with_time(KEEP_ALIVE).with_interval(KEEP_ALIVE / 4);
        if let Err(error) = SockRef::from(self.stream.tcp()).set_tcp_keepalive(&often) {
            tracing::debug!(%error, "cannot have a connection kept alive");
        }
    }
}

/// Writes what the end follows at once.
fn poll_write_followed(
    tcp: &TcpStream,
    cx: &mut Context<'_>,
    parts: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    let write = || Ok(sendmsg(tcp, parts, &mut SendAncillaryBuffer::default(), FOLLOWED)?);
    loop {
        ready!(tcp.poll_write_ready(cx))?;
        match tcp.try_io(Interest::WRITABLE, write) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            written => return Poll::Ready(written),
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.input.clear();
        self.give_input();
        self.buffers.give_output(std::mem::take(&mut self.output));
    }
}
