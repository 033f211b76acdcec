//! Bodies that nobody looks at pass from socket to socket through a pipe of the system, and never through the gateway's own
//! memory (splice(2)).
//!
//! A pipe is taken once a socket has bytes, filled with them, and emptied into the other socket. It is held for as long as there
//! are bytes in it: whoever only waits holds none. An empty one goes back to its worker. One that still holds bytes when it is
//! dropped, because the other side is gone or its response was cut, is closed, so that nobody's bytes ever reach another: both
//! are decided in [`Pipe`]'s `drop`, and nowhere else.
//!
//! A body that finds no pipe is copied as those are that somebody has to look at. So are all where there is no splice(2).

use std::{
    cell::{Cell, RefCell},
    io,
    os::fd::OwnedFd,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::Body;
use rustix::process::{Resource, getrlimit};
use tokio::net::TcpStream;

use crate::counts::Count;

/// A shorter body is copied: three calls of the system, and waking up for each part, cost about as much.
pub(super) const MIN_LENGTH: u64 = 64 * 1024;
/// Bytes in a pipe at most, and the room that is asked for. Whoever reads slowly holds as many of the system's memory.
pub(super) const CAPACITY: usize = 256 * 1024;
/// As many bytes that a client's window has no room for are the system's to hold. It would take megabytes more from a replica as fast
/// as they pass, and grow the replica's window by that, for a client that reads nothing.
#[cfg(target_os = "linux")]
const MAX_UNSENT: u32 = 1024 * 1024;
/// Most pipes of one worker.
pub(super) const MAX_PIPES: u64 = 64;
/// Of the file descriptors that the process may have, one in so many may be a pipe's.
const SHARE_OF_DESCRIPTORS: u64 = 32;

/// A body of which long parts can be passed on unread.
pub(in crate::proxy) trait Unread: Body<Data = Bytes> {
    /// The next of its bytes in a pipe. `None` where what comes next is to be asked for by [`Body::poll_frame`].
    fn poll_pipe(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Pipe, Self::Error>>> {
        Poll::Ready(None)
    }
}

/// What became of a worker's pipes.
#[derive(Debug, Default)]
pub(in crate::proxy) struct PipeCounts {
    /// Those that are open.
    open: Count,
    /// Bytes that they were filled with.
    passed: Count,
    /// Times that there was none.
    missed: Count,
}

/// A worker's pipes.
#[derive(Debug, Clone, Default)]
pub(in crate::proxy) struct Pipes(Rc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// The empty ones.
    free: RefCell<Vec<Ends>>,
    /// So many of those have not been used since the last sweep.
    unused: Cell<usize>,
    /// Most at once.
    most: u64,
    /// Whether the system has refused one since the last sweep: until the next one it is not asked again.
    is_refused: Cell<bool>,
    counts: Arc<PipeCounts>,
}

/// A pipe's two ends.
#[derive(Debug)]
struct Ends {
    reader: OwnedFd,
    writer: OwnedFd,
}

/// A pipe, and the bytes in it.
#[derive(Debug)]
pub(in crate::proxy) struct Pipe {
    /// None once it is closed.
    ends: Option<Ends>,
    held: usize,
    pipes: Rc<Shared>,
}

impl PipeCounts {
    /// Pipes that are open, bytes that have passed through them, and times that there was none.
    pub(in crate::proxy) fn read(&self) -> [u64; 3] {
        [&self.open, &self.passed, &self.missed].map(Count::get)
    }
}

impl Pipes {
    /// Those of one of so many workers.
    pub(in crate::proxy) fn new(workers: usize, counts: Arc<PipeCounts>) -> Self {
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let of_each = descriptors / SHARE_OF_DESCRIPTORS / workers.max(1) as u64;
        Self(Rc::new(Shared { most: (of_each / 2).min(MAX_PIPES), counts, ..Shared::default() }))
    }

    /// An empty one, if there is one or there may be another.
    pub(super) fn take(&self) -> Option<Pipe> {
        let shared = &self.0;
        let free = shared.free.borrow_mut().pop();
        let ends = match free {
            Some(ends) => {
                shared.unused.set(shared.unused.get().min(shared.free.borrow().len()));
                ends
            }
            None if shared.is_refused.get() || shared.counts.open.get() >= shared.most => {
                shared.counts.missed.add_one();
                return None;
            }
            None => match system::pipe() {
                Ok(ends) => {
                    shared.counts.open.add_one();
                    ends
                }
                Err(error) => {
                    self.refused(&error);
                    return None;
                }
            },
        };
        Some(Pipe { ends: Some(ends), held: 0, pipes: Rc::clone(shared) })
    }

    /// The system lets us have none.
    pub(super) fn refused(&self, error: &io::Error) {
        tracing::debug!(%error, "no pipe: bodies are copied");
        self.0.is_refused.set(true);
        self.0.counts.missed.add_one();
    }

    #[cfg(test)]
    pub(super) fn counts(&self) -> &PipeCounts {
        &self.0.counts
    }

    /// Closes those that were not used since the last time: to be called every few seconds.
    pub(in crate::proxy) fn sweep(&self) {
        let shared = &self.0;
        let mut free = shared.free.borrow_mut();
        // The one used last is taken first, so those at the front are the ones.
        free.drain(..shared.unused.get()).for_each(|ends| shared.close(ends));
        shared.unused.set(free.len());
        shared.is_refused.set(false);
    }
}

impl Shared {
    fn close(&self, ends: Ends) {
        drop(ends);
        self.counts.open.add(1_u64.wrapping_neg());
    }
}

impl Pipe {
    /// Bytes in it.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Fills it, an empty one, with what has come on `socket`, `most` bytes at most: it stays empty at the end of what the peer
    /// sends.
    pub(super) fn fill(&mut self, socket: &TcpStream, most: u64) -> io::Result<()> {
        debug_assert_eq!(self.held, 0, "nobody could tell which of the two is full");
        let most = usize::try_from(most).unwrap_or(CAPACITY).min(CAPACITY);
        self.held = self.moved(|ends| system::splice(socket, &ends.writer, most))?;
        self.pipes.counts.passed.add(self.held as u64);
        Ok(())
    }

    /// Moves as many of its bytes as `socket` takes, and tells how many. One that takes nothing more has SIGPIPE raised, which
    /// splice(2) cannot be told to leave, and which programs in Rust ignore from their start.
    pub(super) fn empty_into(&mut self, socket: &TcpStream) -> io::Result<usize> {
        let held = self.held;
        let count = self.moved(|ends| system::splice(&ends.reader, socket, held))?;
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.held -= count;
        Ok(count)
    }

    /// What `splice` has moved. Behind an error nobody knows what is in the pipe: it is closed.
    fn moved(&mut self, splice: impl FnOnce(&Ends) -> io::Result<usize>) -> io::Result<usize> {
        let Some(ends) = &self.ends else { return Err(io::ErrorKind::BrokenPipe.into()) };
        let moved = splice(ends);
        if moved.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::WouldBlock) {
            self.ends.take().into_iter().for_each(|ends| self.pipes.close(ends));
        }
        moved
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        match self.ends.take() {
            Some(ends) if self.held == 0 => self.pipes.free.borrow_mut().push(ends),
            Some(ends) => self.pipes.close(ends),
            None => {}
        }
    }
}

/// Has the system hold no more for a client than it may. Where it refuses, it holds as many as it likes.
#[cfg(target_os = "linux")]
pub(super) fn limit_unsent(socket: &TcpStream) {
    if let Err(error) = socket2::SockRef::from(socket).set_tcp_notsent_lowat(MAX_UNSENT) {
        tracing::debug!(%error, "cannot limit what waits to be sent");
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn limit_unsent(_: &TcpStream) {}

/// Whether the system has no splice(2) for this, or does not let us have it: the body has to be copied.
pub(super) fn is_refusal(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, PermissionDenied, Unsupported};
    matches!(error.kind(), InvalidInput | PermissionDenied | Unsupported)
}

#[cfg(target_os = "linux")]
mod system {
    use std::{io, os::fd::AsFd};

    use rustix::{
        io::retry_on_intr,
        pipe::{PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice as moved},
    };

    use super::{CAPACITY, Ends};

    /// A pipe with less room is not worth its calls: it holds as many pieces as this has pages, however short they are.
    const MIN_CAPACITY: usize = 64 * 1024;

    pub(super) fn pipe() -> io::Result<Ends> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // A user may have so many pages in pipes; near that limit it stays as small as it is.
        let capacity = match fcntl_setpipe_size(&writer, CAPACITY) {
            Ok(capacity) => capacity,
            Err(_) => fcntl_getpipe_size(&writer)?,
        };
        if capacity < MIN_CAPACITY {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        Ok(Ends { reader, writer })
    }

    pub(super) fn splice(from: impl AsFd, to: impl AsFd, most: usize) -> io::Result<usize> {
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        Ok(retry_on_intr(|| moved(&from, None, &to, None, most, flags))?)
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::{io, os::fd::AsFd};

    use super::Ends;

    pub(super) fn pipe() -> io::Result<Ends> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn splice(_: impl AsFd, _: impl AsFd, _: usize) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
