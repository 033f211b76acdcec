//! How streams end, and what is left of them then.

use super::{Connection, Role};
use crate::{
    frame::{self, ErrorCode},
    heads::Heads,
    stream::{Failure, Receiving},
};

impl<H: Heads> Connection<H> {
    /// A stream has failed, on the other side or for both.
    pub(super) fn fail(&mut self, place: u32, failure: Failure) {
        let stream = self.streams.get_mut(place);
        if stream.is_closed() {
            return;
        }
        stream.failure = Some(failure);
        stream.outgoing.clear();
        self.left -= usize::from(std::mem::take(&mut stream.is_left));
        stream.wake_reader();
        stream.wake_writer();
        if std::mem::take(&mut stream.is_queued) {
            for queue in [&mut self.ready, &mut self.blocked, &mut self.unopened] {
                queue.retain(|queued| *queued != place);
            }
        }
        self.reclaim(place);
        self.settle(place);
    }

    /// Resets a stream, unless it is closed.
    pub(super) fn reset_for(&mut self, place: u32, code: ErrorCode, failure: Failure) {
        let stream = self.streams.get(place);
        if stream.is_closed() {
            return;
        }
        // One that was never opened has nothing to be reset.
        if stream.id > 0 {
            frame::write_reset(self.output.buffer(), stream.id, code);
            if stream.receiving != Receiving::Ended {
                self.ignored.add(stream.id);
            }
        }
        self.fail(place, failure);
    }

    /// A stream's user gives it up.
    pub(crate) fn reset(&mut self, place: u32, code: ErrorCode) {
        self.reset_for(place, code, Failure::Cancelled);
        self.wake_driver();
    }

    /// Nobody asks any more for what comes of a stream.
    pub(crate) fn drop_receiver(&mut self, place: u32) {
        let before = self.output.len();
        let stream = self.streams.get_mut(place);
        stream.is_unwanted = true;
        let unreleased = stream.forget_received();
        self.release(unreleased);
        self.drop_handle(place);
        if self.output.len() > before {
            self.wake_driver();
        }
    }

    /// One less asks for a stream. When nobody does, nothing more is sent of it, unless all of it was given, and is an answer or
    /// goes to a server that has said all and waits for it: the last words of a tunnel.
    pub(crate) fn drop_handle(&mut self, place: u32) {
        let stream = self.streams.get_mut(place);
        stream.handles -= 1;
        if stream.handles > 0 {
            return;
        }
        let is_awaited = self.role == Role::Server || stream.receiving == Receiving::Ended;
        if (is_awaited && stream.outgoing.is_ending()) || stream.is_closed() {
            self.settle(place);
        } else {
            self.reset(place, ErrorCode::CANCEL);
        }
    }

    /// Looks whether a stream is closed by now, and whether anybody needs its place.
    pub(super) fn settle(&mut self, place: u32) {
        let stream = self.streams.get_mut(place);
        if !stream.is_closed() {
            // All of the answer was sent: what is still to come of the request is of no use (RFC 9113 section 8.1).
            if stream.handles == 0 && stream.outgoing.is_sent() {
                self.reset(place, ErrorCode::NO_ERROR);
            }
            return;
        }
        let (id, is_unused) = (stream.id, stream.handles == 0);
        let is_off = std::mem::replace(&mut stream.is_off, true);
        if std::mem::take(&mut stream.is_roomless) {
            self.roomless.retain(|waiting| *waiting != place);
        }
        if !is_off {
            self.streams.closed(id);
            self.open_waiting();
        }
        if is_unused {
            self.streams.remove(place);
        }
    }

    /// So many bytes of a stream were read by its user.
    pub(crate) fn release_by_user(&mut self, place: u32, bytes: usize) {
        let before = self.output.len();
        let bytes = self.streams.get_mut(place).released(bytes);
        self.release_of(place, bytes);
        if self.output.len() > before {
            self.wake_driver();
        }
    }

    /// So many bytes of a stream were read.
    pub(crate) fn release_of(&mut self, place: u32, bytes: usize) {
        let stream = self.streams.get_mut(place);
        // Of what nobody wants, no more is asked for.
        if !stream.is_unwanted && stream.receiving != Receiving::Ended && stream.failure.is_none() {
            stream.received.release(bytes);
            if let Some(update) = stream.received.update() {
                frame::write_window_update(self.output.buffer(), stream.id, update);
            }
        }
        self.release(bytes);
    }

    /// So many bytes were read, of whatever stream.
    pub(super) fn release(&mut self, bytes: usize) {
        self.received.release(bytes);
        if let Some(update) = self.received.update_shared() {
            frame::write_window_update(self.output.buffer(), 0, update);
        }
    }
}
