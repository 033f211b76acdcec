//! Flow control (RFC 9113 section 5.2): what the peer may send, and what may be sent to it.

/// With which every connection, and every stream of one that has told nothing else, begins.
pub(crate) const DEFAULT: u32 = 65_535;
/// A window that grows beyond is an error (RFC 9113 section 6.9.1).
pub(crate) const MAX: i64 = (1 << 31) - 1;

/// What the peer may send.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReceiveWindow {
    /// How large it is when all that came was read.
    size: i64,
    /// What the peer may still send.
    left: i64,
    /// What was read, and is still to be told to the peer. Less than nothing where it may send more than it should, because it
    /// has not heard of the size yet.
    released: i64,
}

impl ReceiveWindow {
    /// Of a connection, whose size the peer is told of by its first update.
    pub(crate) fn of_connection(size: u32) -> Self {
        Self { size: size.into(), left: DEFAULT.into(), released: i64::from(size) - i64::from(DEFAULT) }
    }

    /// Of a stream, which the peer takes for one of `known` bytes.
    pub(crate) fn of_stream(size: u32, known: u32) -> Self {
        Self { size: size.into(), left: known.into(), released: 0 }
    }

    /// The peer has sent so many bytes. `None` when it may not have.
    #[must_use]
    pub(crate) fn take(&mut self, bytes: usize) -> Option<()> {
        self.left -= i64::try_from(bytes).unwrap_or(i64::MAX);
        (self.left >= 0).then_some(())
    }

    /// So many of them were read.
    pub(crate) fn release(&mut self, bytes: usize) {
        self.released += i64::try_from(bytes).unwrap_or(i64::MAX);
    }

    /// The peer knows of the size now.
    pub(crate) fn settle(&mut self) {
        self.left += self.size - i64::from(DEFAULT);
    }

    /// What the peer is to be told of a stream, once that is worth a frame: what is not read of it holds up nobody else.
    pub(crate) fn update(&mut self) -> Option<u32> {
        if 2 * self.released < self.size { None } else { self.open() }
    }

    /// The same of a connection: once half of what those leave who do not read was read. Half of all may never be.
    pub(crate) fn update_shared(&mut self) -> Option<u32> {
        if self.released < self.left { None } else { self.open() }
    }

    /// What the peer is to be told, if anything.
    pub(crate) fn open(&mut self) -> Option<u32> {
        let more = u32::try_from(self.released).ok().filter(|more| *more > 0)?;
        self.left += i64::from(more);
        self.released = 0;
        Some(more)
    }
}

/// What may be sent to the peer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SendWindow(i64);

impl SendWindow {
    pub(crate) fn new(size: u32) -> Self {
        Self(size.into())
    }

    /// What may be sent, less than nothing where the peer has taken some of it back.
    pub(crate) fn left(&self) -> i64 {
        self.0
    }

    /// As much of `bytes` as may be sent.
    pub(crate) fn part(&self, bytes: usize) -> usize {
        bytes.min(usize::try_from(self.0).unwrap_or(0))
    }

    pub(crate) fn take(&mut self, bytes: usize) {
        self.0 -= i64::try_from(bytes).unwrap_or(i64::MAX);
    }

    /// The peer takes more, or less. `None` when that is more than it may say.
    #[must_use]
    pub(crate) fn grow(&mut self, by: i64) -> Option<()> {
        let grown = self.0 + by;
        if grown > MAX {
            return None;
        }
        self.0 = grown;
        Some(())
    }
}
