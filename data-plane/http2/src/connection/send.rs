//! What goes: each stream that has something to send has one frame in turn.

use std::task::{Poll, Waker};

use bytes::Bytes;

use super::{Connection, End, FRAME_SIZE, MAX_STREAM};
use crate::{
    frame::{self, HeadersStart},
    heads::{Block, Heads, Sent},
    hpack::Encoder,
    output::Output,
    stream::{Ending, Failure, Purpose, Receiving},
};

/// As much is made ready to be written at once.
const BATCH: usize = 64 * 1024;
/// As much of the connection's window is one stream's before others have their turn.
const MAX_ROOM: i64 = 64 * 1024;

/// How what a stream was given comes on.
#[derive(Debug, Clone, Copy)]
pub struct Queued {
    /// Bytes of its content that are not on their way.
    pub unsent: usize,
    /// Whether it waits for nothing but its turn at the socket.
    pub is_in_line: bool,
    /// Bytes that the socket has taken of the connection so far.
    pub written: u64,
    /// Streams that are open, which share it.
    pub streams: usize,
}

/// Writes a head's frames.
fn write_head(encoder: &mut Encoder, output: &mut Output, id: u32, head: &impl Sent, is_last: bool) {
    let out = output.buffer();
    let start = HeadersStart::begin(out);
    encoder.begin(out);
    head.encode(&mut Block { encoder, out });
    start.finish(out, id, is_last, frame::MIN_MAX_SIZE);
}

impl<H: Heads> Connection<H> {
    /// Makes ready what may be written now. To be called when the socket takes something.
    pub fn pump(&mut self) {
        let mut passed_over = 0;
        // What nobody sees to any more goes in any case, for the peer may take back what there is room for now.
        while (self.output.len() < BATCH || (self.left > 0 && passed_over < self.ready.len()))
            && let Some(place) = self.ready.pop_front()
        {
            if self.output.len() >= BATCH && !self.streams.get(place).is_left {
                passed_over += 1;
                self.ready.push_back(place);
            } else {
                self.turn(place);
            }
        }
    }

    /// One stream has its turn: what heads it has, a frame of content, and the end.
    fn turn(&mut self, place: u32) {
        self.streams.get_mut(place).is_queued = false;
        if !self.is_opened(place) {
            return;
        }
        let stream = self.streams.get_mut(place);
        let (id, outgoing) = (stream.id, &mut stream.outgoing);
        while let Some(interim) = outgoing.interim.pop_front() {
            write_head(&mut self.encoder, &mut self.output, id, &interim, false);
            self.sent += 1;
        }
        if let Some(head) = outgoing.head.take() {
            let is_last = outgoing.buffered == 0 && matches!(outgoing.ending, Ending::Last);
            outgoing.head_at = Some(self.output.position());
            write_head(&mut self.encoder, &mut self.output, id, &head, is_last);
            self.sent += 1;
            if is_last {
                outgoing.ending = Ending::Sent;
            }
        }
        if outgoing.buffered > 0 {
            let size = stream.window.part(self.window.part(FRAME_SIZE));
            if size == 0 {
                // Its own window has it come again.
                if stream.window.left() > 0 {
                    stream.is_queued = true;
                    self.blocked.push_back(place);
                }
                return;
            }
            let data = outgoing.take(size);
            stream.window.take(data.len());
            self.window.take(data.len());
            let is_last = outgoing.buffered == 0 && matches!(outgoing.ending, Ending::Last);
            if is_last {
                outgoing.ending = Ending::Sent;
            }
            frame::write_data_head(self.output.buffer(), id, data.len(), is_last);
            self.output.push(data);
            self.sent += 1;
            self.claim(place);
            self.tell_room(place);
        }
        let stream = self.streams.get_mut(place);
        let outgoing = &mut stream.outgoing;
        if outgoing.buffered == 0 {
            match std::mem::replace(&mut outgoing.ending, Ending::Sent) {
                Ending::Last => {
                    frame::write_data_head(self.output.buffer(), id, 0, true);
                    self.sent += 1;
                }
                Ending::Trailers(trailers) => {
                    write_head(&mut self.encoder, &mut self.output, id, &trailers, true);
                    self.sent += 1;
                }
                other => outgoing.ending = other,
            }
        }
        if stream.outgoing.is_sent() {
            if std::mem::take(&mut stream.wants_end) {
                stream.wake_writer();
            }
            self.left -= usize::from(std::mem::take(&mut stream.is_left));
            self.settle(place);
        } else {
            self.queue(place);
        }
    }

    /// Whether a stream is open. It is opened, if the peer takes another.
    fn is_opened(&mut self, place: u32) -> bool {
        let most = self.peer.max_streams.min(self.config.streams);
        let is_full = self.streams.open() >= most as usize;
        let stream = self.streams.get_mut(place);
        if stream.id > 0 {
            return true;
        }
        if self.next_id > MAX_STREAM {
            // Another connection has ids left.
            self.fail(place, Failure::Cancelled);
            return false;
        }
        if is_full {
            stream.is_queued = true;
            self.unopened.push_back(place);
            return false;
        }
        stream.id = self.next_id;
        self.streams.opened(self.next_id, place);
        self.next_id += 2;
        self.claim(place);
        true
    }

    /// The peer may take more streams than before.
    pub(super) fn open_waiting(&mut self) {
        if !self.unopened.is_empty() {
            self.ready.append(&mut self.unopened);
            self.wake_driver();
        }
    }

    /// A stream has its turn, if it has something to send.
    fn queue(&mut self, place: u32) {
        let stream = self.streams.get_mut(place);
        if !stream.is_queued && stream.has_something() {
            stream.is_queued = true;
            match stream.is_left {
                true => self.ready.push_front(place),
                false => self.ready.push_back(place),
            }
        }
    }

    /// Accounts for what a stream has of the connection's window. Whether that is less than before.
    fn claim(&mut self, place: u32) -> bool {
        let stream = self.streams.get_mut(place);
        // One that is not open has nothing of it, or it would wait for those that are, and they for it.
        let claimed = if stream.id == 0 { 0 } else { stream.window.part(stream.outgoing.buffered) };
        let before = std::mem::replace(&mut stream.claimed, claimed);
        self.claimed = self.claimed + claimed - before;
        claimed < before
    }

    /// The same, of what was not sent: what there is less of is others'.
    pub(super) fn reclaim(&mut self, place: u32) {
        if self.claim(place) {
            self.unblock();
        }
    }

    /// What may be given to a stream now.
    fn room(&self, place: u32) -> (i64, i64) {
        let length = |bytes: usize| i64::try_from(bytes).unwrap_or(i64::MAX);
        let stream = self.streams.get(place);
        let buffered = length(stream.outgoing.buffered);
        let own = (stream.window.left() - buffered).min(length(self.config.send_buffer) - buffered);
        (own, self.window.left() - length(self.claimed))
    }

    /// A stream has more room than before, perhaps: who waits for it is told, or waits for the connection's from now on.
    fn tell_room(&mut self, place: u32) {
        let (own, shared) = self.room(place);
        let stream = self.streams.get_mut(place);
        if !stream.wants_room || own <= 0 {
            return;
        }
        if shared > 0 {
            stream.wants_room = false;
            stream.wake_writer();
        } else if !std::mem::replace(&mut stream.is_roomless, true) {
            self.roomless.push_back(place);
        }
    }

    /// The peer takes more of one stream, or less. `None` when that is more than it may say.
    #[must_use]
    pub(super) fn grow(&mut self, place: u32, by: i64) -> Option<()> {
        let stream = self.streams.get_mut(place);
        if stream.is_closed() {
            return Some(());
        }
        stream.window.grow(by)?;
        self.reclaim(place);
        self.queue(place);
        self.tell_room(place);
        Some(())
    }

    /// The connection's window is larger, or less of it is spoken for: who waits for that has another look, the first first.
    pub(super) fn unblock(&mut self) {
        self.ready.append(&mut self.blocked);
        for _ in 0..self.roomless.len() {
            let Some(place) = self.roomless.pop_front() else { return };
            let stream = self.streams.get_mut(place);
            (stream.is_roomless, stream.wants_room) = (false, false);
            stream.wake_writer();
        }
    }

    /// Opens a stream, once that is written. `None` if none may be.
    pub(crate) fn open(&mut self, head: H::Sent, is_last: bool, purpose: Purpose) -> Option<u32> {
        if !self.may_open() {
            return None;
        }
        let mut stream = self.new_stream(0, Receiving::Head);
        stream.handles = 2;
        stream.purpose = purpose;
        let place = self.streams.insert(stream);
        self.send_head(place, head, is_last).ok()?;
        Some(place)
    }

    fn sending(&mut self, place: u32) -> Result<(), Failure> {
        let stream = self.streams.get(place);
        match stream.failure {
            Some(failure) => Err(failure),
            None if stream.outgoing.is_ending() => Err(Failure::Cancelled),
            None => Ok(()),
        }
    }

    fn sends(&mut self, place: u32) {
        self.claim(place);
        self.queue(place);
        self.wake_driver();
    }

    pub(crate) fn send_interim(&mut self, place: u32, head: H::Sent) -> Result<(), Failure> {
        self.sending(place)?;
        let outgoing = &mut self.streams.get_mut(place).outgoing;
        if outgoing.head.is_some() || outgoing.head_at.is_some() {
            // It comes too late.
            return Err(Failure::Cancelled);
        }
        outgoing.interim.push_back(head);
        self.sends(place);
        Ok(())
    }

    pub(crate) fn send_head(&mut self, place: u32, head: H::Sent, is_last: bool) -> Result<(), Failure> {
        self.sending(place)?;
        let outgoing = &mut self.streams.get_mut(place).outgoing;
        outgoing.head = Some(head);
        if is_last {
            outgoing.ending = Ending::Last;
        }
        self.sends(place);
        Ok(())
    }

    pub(crate) fn send_data(&mut self, place: u32, data: Bytes, is_last: bool) -> Result<(), Failure> {
        self.sending(place)?;
        let outgoing = &mut self.streams.get_mut(place).outgoing;
        outgoing.push(data);
        if is_last {
            outgoing.ending = Ending::Last;
        }
        self.sends(place);
        Ok(())
    }

    pub(crate) fn send_trailers(&mut self, place: u32, trailers: H::Sent) -> Result<(), Failure> {
        self.sending(place)?;
        self.streams.get_mut(place).outgoing.ending = Ending::Trailers(trailers);
        self.sends(place);
        Ok(())
    }

    /// How many bytes may be given to a stream now. None: this task is woken when some may be.
    pub(crate) fn room_or_wait(&mut self, place: u32, waker: &Waker) -> Result<usize, Failure> {
        self.sending(place)?;
        let (own, shared) = self.room(place);
        let room = own.min(shared).min(MAX_ROOM);
        if room > 0 {
            return Ok(usize::try_from(room).unwrap_or(0));
        }
        let stream = self.streams.get_mut(place);
        stream.wants_room = true;
        register(&mut stream.writer, waker);
        if own > 0 && !stream.is_roomless {
            stream.is_roomless = true;
            self.roomless.push_back(place);
        }
        Ok(0)
    }

    /// Whether nobody need see any more to what a stream was given: it is written down, or will be at the next look at the socket, as
    /// long as that keeps up and the peer's windows have room for it. Otherwise this task is woken once it is.
    pub(crate) fn passed_or_wait(&mut self, place: u32, waker: &Waker) -> Poll<Result<(), Failure>> {
        let keeps_up = self.output.len() == 0 && self.claimed <= BATCH;
        let stream = self.streams.get_mut(place);
        if let Some(failure) = stream.failure {
            return Poll::Ready(Err(failure));
        }
        if stream.outgoing.is_sent() {
            return Poll::Ready(Ok(()));
        }
        if keeps_up && stream.has_room() {
            self.left += usize::from(!std::mem::replace(&mut stream.is_left, true));
            return Poll::Ready(Ok(()));
        }
        stream.wants_end = true;
        register(&mut stream.writer, waker);
        Poll::Pending
    }

    /// How what a stream was given comes on.
    pub(crate) fn queued(&self, place: u32) -> Queued {
        let stream = self.streams.get(place);
        Queued {
            unsent: stream.outgoing.buffered,
            is_in_line: self.output.len() > 0 && stream.has_something() && stream.has_room(),
            written: self.output.written(),
            streams: self.streams.open(),
        }
    }

    /// Why a stream has failed, if it has. Otherwise this task is woken when it does.
    pub(crate) fn failure_or_wait(&mut self, place: u32, waker: &Waker) -> Option<Failure> {
        let stream = self.streams.get_mut(place);
        if stream.failure.is_none() {
            register(&mut stream.writer, waker);
        }
        stream.failure
    }

    /// Whether the peer may see anything of a stream.
    pub(crate) fn is_sent(&self, place: u32) -> bool {
        match self.end {
            // Nothing more goes.
            Some(End::Lost(_)) => self.is_taken(place),
            // What is written down will go, also in front of a goodbye.
            Some(End::Violation(..) | End::GivenUp(..)) | None => {
                self.streams.get(place).outgoing.head_at.is_some()
            }
        }
    }

    /// Whether the socket has taken anything of a stream.
    pub(crate) fn is_taken(&self, place: u32) -> bool {
        self.streams.get(place).outgoing.head_at.is_some_and(|at| self.output.written() > at)
    }
}

/// Has this task woken, in place of the one before.
pub(crate) fn register(place: &mut Option<Waker>, waker: &Waker) {
    if !place.as_ref().is_some_and(|registered| registered.will_wake(waker)) {
        *place = Some(waker.clone());
    }
}
