//! One stream of a connection, and all that are there.

use std::{collections::VecDeque, io, task::Waker};

use bytes::{Bytes, BytesMut};

use crate::{
    frame::ErrorCode,
    heads::Heads,
    window::{ReceiveWindow, SendWindow},
};

/// Payloads that are not longer are copied, and those that follow each other put together: what is kept of many small ones is
/// then no more than they are, and no buffer is kept for the sake of a few bytes of it.
const COPIED: usize = 4 * 1024;

/// Why a stream has not come to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The peer has reset it.
    Reset(ErrorCode),
    /// The peer has said goodbye, and that it has not processed it (RFC 9113 section 6.8).
    GoAway(ErrorCode),
    /// What the peer has sent, of this stream or of another, is not HTTP/2.
    Malformed(&'static str),
    /// The connection ended under it, or broke.
    Lost(io::ErrorKind),
    /// It was given up on this side.
    Cancelled,
}

/// What a stream is opened for, which tells what a response's head says of the length of what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The content is as long as is told.
    Content,
    /// There is none, whatever is told: the request's method is HEAD.
    Head,
    /// Nothing, of a response that accepts a CONNECT (RFC 9110 section 9.3.6).
    Tunnel,
}

impl Purpose {
    /// Whether the length that a response with this status tells is that of its content.
    pub(crate) fn has_length(self, status: u16) -> bool {
        match self {
            _ if matches!(status, 204 | 304) => false,
            Self::Content => true,
            Self::Head => false,
            Self::Tunnel => !matches!(status, 200..=299),
        }
    }
}

/// How far a stream has come in the direction from the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Receiving {
    /// A response's head, or an interim one, is to come.
    Head,
    /// What follows a head is.
    Body,
    /// All has come.
    Ended,
}

/// What the end of what is sent is.
#[derive(Debug)]
pub(crate) enum Ending<T> {
    /// It is not known yet.
    Open,
    /// It comes behind what is there.
    Last,
    /// These come, behind what is there.
    Trailers(T),
    /// It was sent.
    Sent,
}

#[derive(Debug)]
pub(crate) struct Stream<H: Heads> {
    /// Zero as long as it was not opened.
    pub(crate) id: u32,
    /// Who may still ask for it.
    pub(crate) handles: u8,
    /// Whether it has its turn in a queue.
    pub(crate) is_queued: bool,
    /// Whether its place among the streams that are not closed is taken away.
    pub(crate) is_off: bool,
    pub(crate) failure: Option<Failure>,

    pub(crate) receiving: Receiving,
    pub(crate) received: ReceiveWindow,
    /// How much content is to come, where that was told.
    pub(crate) left: Option<u64>,
    pub(crate) purpose: Purpose,
    /// Whether nobody asks for what comes.
    pub(crate) is_unwanted: bool,
    /// Interim responses that wait to be asked for, and how many have come.
    pub(crate) interim: VecDeque<(u16, H::Received)>,
    pub(crate) interim_count: usize,
    /// With a response's status.
    pub(crate) head: Option<(u16, H::Received)>,
    /// Whether that is only the beginning of a head that is larger than may be.
    pub(crate) is_head_cut: bool,
    /// Content that has come and was not asked for yet, the last of it in `tail`.
    data: VecDeque<Bytes>,
    tail: BytesMut,
    /// Bytes that its user has taken, and not released yet.
    unreleased: usize,
    pub(crate) trailers: Option<H::Received>,
    pub(crate) reader: Option<Waker>,

    pub(crate) outgoing: Outgoing<H::Sent>,
    pub(crate) window: SendWindow,
    /// Bytes of it that are as good as taken off the connection's window.
    pub(crate) claimed: usize,
    /// Whether its user waits for room: in this, or only in the connection's window.
    pub(crate) wants_room: bool,
    pub(crate) is_roomless: bool,
    /// Whether its user waits until all that it has given is written down, or sees to it no more.
    pub(crate) wants_end: bool,
    pub(crate) is_left: bool,
    pub(crate) writer: Option<Waker>,
}

/// What is to be sent.
#[derive(Debug)]
pub(crate) struct Outgoing<T> {
    pub(crate) interim: VecDeque<T>,
    pub(crate) head: Option<T>,
    /// Where the head stands in what the connection has sent, once it was written.
    pub(crate) head_at: Option<u64>,
    first: Bytes,
    more: VecDeque<Bytes>,
    /// Bytes in both.
    pub(crate) buffered: usize,
    pub(crate) ending: Ending<T>,
}

impl<T> Outgoing<T> {
    fn new() -> Self {
        Self {
            interim: VecDeque::new(),
            head: None,
            head_at: None,
            first: Bytes::new(),
            more: VecDeque::new(),
            buffered: 0,
            ending: Ending::Open,
        }
    }

    /// Whether the end is known.
    pub(crate) fn is_ending(&self) -> bool {
        !matches!(self.ending, Ending::Open)
    }

    pub(crate) fn is_sent(&self) -> bool {
        matches!(self.ending, Ending::Sent)
    }

    pub(crate) fn push(&mut self, data: Bytes) {
        self.buffered += data.len();
        if self.first.is_empty() {
            self.first = data;
        } else if !data.is_empty() {
            self.more.push_back(data);
        }
    }

    /// The next bytes, as many as there are in one piece and `most` at most.
    pub(crate) fn take(&mut self, most: usize) -> Bytes {
        let piece = self.first.split_to(most.min(self.first.len()));
        self.buffered -= piece.len();
        if self.first.is_empty() {
            self.first = self.more.pop_front().unwrap_or_default();
        }
        piece
    }

    /// Forgets all that was not written.
    pub(crate) fn clear(&mut self) {
        let head_at = self.head_at;
        *self = Self { head_at, ending: Ending::Sent, ..Self::new() };
    }
}

impl<H: Heads> Stream<H> {
    pub(crate) fn new(id: u32, receiving: Receiving, received: ReceiveWindow, window: SendWindow) -> Self {
        Self {
            id,
            handles: 0,
            is_queued: false,
            is_off: false,
            failure: None,
            receiving,
            received,
            left: None,
            purpose: Purpose::Content,
            is_unwanted: false,
            interim: VecDeque::new(),
            interim_count: 0,
            head: None,
            is_head_cut: false,
            data: VecDeque::new(),
            tail: BytesMut::new(),
            unreleased: 0,
            trailers: None,
            reader: None,
            outgoing: Outgoing::new(),
            window,
            claimed: 0,
            wants_room: false,
            is_roomless: false,
            wants_end: false,
            is_left: false,
            writer: None,
        }
    }

    /// Whether it is closed (RFC 9113 section 5.1).
    pub(crate) fn is_closed(&self) -> bool {
        self.failure.is_some() || (self.receiving == Receiving::Ended && self.outgoing.is_sent())
    }

    /// Whether there is something to write that no window holds back, or something that it can be asked whether one does.
    pub(crate) fn has_something(&self) -> bool {
        let Outgoing { interim, head, buffered, ending, .. } = &self.outgoing;
        let ends = *buffered == 0 && matches!(ending, Ending::Last | Ending::Trailers(_));
        let has_data = *buffered > 0 && self.window.left() > 0;
        !interim.is_empty() || head.is_some() || ends || has_data
    }

    /// Whether its window has room for all that it was given. What the peer has taken back of that is not claimed any more.
    pub(crate) fn has_room(&self) -> bool {
        self.claimed == self.outgoing.buffered
    }

    /// Whether content of this length is kept as a copy, and not as a part of the connection's buffer.
    pub(crate) fn is_copied(length: usize) -> bool {
        length <= COPIED
    }

    pub(crate) fn keep_copy(&mut self, data: &[u8]) {
        self.tail.extend_from_slice(data);
    }

    pub(crate) fn keep(&mut self, data: Bytes) {
        if !self.tail.is_empty() {
            self.data.push_back(std::mem::take(&mut self.tail).freeze());
        }
        self.data.push_back(data);
    }

    /// The next content that has come.
    pub(crate) fn take_data(&mut self) -> Option<Bytes> {
        let next = self.data.pop_front();
        let next =
            next.or_else(|| (!self.tail.is_empty()).then(|| std::mem::take(&mut self.tail).freeze()))?;
        self.unreleased += next.len();
        Some(next)
    }

    /// Its user releases so many bytes. Yields as many as it had taken of them.
    pub(crate) fn released(&mut self, bytes: usize) -> usize {
        let bytes = bytes.min(self.unreleased);
        self.unreleased -= bytes;
        bytes
    }

    pub(crate) fn has_data(&self) -> bool {
        !self.data.is_empty() || !self.tail.is_empty()
    }

    /// Forgets what has come, and yields how many bytes of content that was, with those that were taken and not released.
    pub(crate) fn forget_received(&mut self) -> usize {
        let untaken = self.data.iter().map(Bytes::len).sum::<usize>() + self.tail.len();
        let bytes = untaken + std::mem::take(&mut self.unreleased);
        self.data = VecDeque::new();
        self.tail = BytesMut::new();
        self.trailers = None;
        bytes
    }

    pub(crate) fn wake_reader(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    pub(crate) fn wake_writer(&mut self) {
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
    }
}

/// All streams of a connection. Each has a place, which it keeps until it is closed and nobody asks for it any more.
#[derive(Debug)]
pub(crate) struct Streams<H: Heads> {
    places: Vec<Option<Stream<H>>>,
    free: Vec<u32>,
    /// Those that are not closed: their ids, which only grow, and their places.
    open: VecDeque<(u32, u32)>,
}

impl<H: Heads> Default for Streams<H> {
    fn default() -> Self {
        Self { places: Vec::new(), free: Vec::new(), open: VecDeque::new() }
    }
}

impl<H: Heads> Streams<H> {
    pub(crate) fn insert(&mut self, stream: Stream<H>) -> u32 {
        if let Some(place) = self.free.pop() {
            self.places[place as usize] = Some(stream);
            return place;
        }
        self.places.push(Some(stream));
        u32::try_from(self.places.len() - 1).expect("streams are limited to far fewer")
    }

    /// Frees a place.
    pub(crate) fn remove(&mut self, place: u32) {
        self.places[place as usize] = None;
        self.free.push(place);
        if self.free.len() == self.places.len() && self.places.capacity() > 8 {
            // A connection that is idle holds nothing of what it needed once.
            *self = Self::default();
        }
    }

    pub(crate) fn get(&self, place: u32) -> &Stream<H> {
        self.places[place as usize].as_ref().expect("who asks for a stream has it kept")
    }

    pub(crate) fn get_mut(&mut self, place: u32) -> &mut Stream<H> {
        self.places[place as usize].as_mut().expect("who asks for a stream has it kept")
    }

    /// A stream has its id, which is larger than all before.
    pub(crate) fn opened(&mut self, id: u32, place: u32) {
        self.open.push_back((id, place));
    }

    /// A stream is closed.
    pub(crate) fn closed(&mut self, id: u32) {
        if let Ok(index) = self.open.binary_search_by_key(&id, |(id, _)| *id) {
            self.open.remove(index);
        }
    }

    /// Where the stream with this id is, if it is not closed.
    pub(crate) fn find(&self, id: u32) -> Option<u32> {
        let index = self.open.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        Some(self.open[index].1)
    }

    /// How many are not closed.
    pub(crate) fn open(&self) -> usize {
        self.open.len()
    }

    /// The places of all, those that were not opened yet and closed ones included.
    pub(crate) fn places(&self) -> impl Iterator<Item = u32> + use<H> {
        let places: Vec<u32> =
            (0..).zip(&self.places).filter(|(_, stream)| stream.is_some()).map(|(place, _)| place).collect();
        places.into_iter()
    }
}
