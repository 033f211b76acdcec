//! What comes: frame by frame, each judged by its head before its payload is waited for.

use std::{collections::VecDeque, ops::Range};

use bytes::{Buf, Bytes, BytesMut};

use super::{
    Connection, LAST_PING, LIFE_PING, Leaving, Role,
    arrivals::{NOT_AS_LONG, StreamError, Unfinished},
};
use crate::{
    frame::{self, ErrorCode, Frame, HEAD, Head, Setting, Violation, kind},
    heads::Heads,
    stream::{Failure, Receiving, Stream},
};

/// So many streams are remembered of which something may still be on its way.
const MAX_IGNORED: usize = 256;

/// Judges how much of what the peer does is work for nothing.
pub trait Guard {
    /// A frame has begun to come. By then, `sent` frames of heads and of content were sent.
    ///
    /// # Errors
    /// It is one too many: why, in words.
    fn received(&mut self, frame: &Head, sent: u64) -> Result<(), &'static str>;
    /// A stream is reset because of what the peer has sent, or a head has come that is nobody's: of one that was reset before, or that
    /// is opened although no more are taken on.
    ///
    /// # Errors
    /// It is one too many: why, in words.
    fn has_to_reset(&mut self) -> Result<(), &'static str>;
}

/// Who trusts the peer.
impl Guard for () {
    fn received(&mut self, _: &Head, _: u64) -> Result<(), &'static str> {
        Ok(())
    }

    fn has_to_reset(&mut self) -> Result<(), &'static str> {
        Ok(())
    }
}

/// Where the peer's bytes are.
#[derive(Debug)]
pub(super) struct Incoming {
    /// Of the preface, what is still to come.
    preface: &'static [u8],
    is_settled: bool,
    /// Whether the peer knows of the settings of this side.
    pub(super) is_heard: bool,
    /// Whether the frame that is next was judged already, and only the rest of it is waited for.
    is_judged: bool,
    /// A head that goes on in further frames.
    pub(super) block: Option<Unfinished>,
}

impl Incoming {
    pub(super) fn new(begins_with_preface: bool) -> Self {
        let preface = if begins_with_preface { frame::PREFACE } else { b"" };
        Self { preface, is_settled: false, is_heard: false, is_judged: false, block: None }
    }

    pub(super) fn is_settled(&self) -> bool {
        self.is_settled
    }
}

/// Streams that were reset on this side, of which the peer may not have heard.
#[derive(Debug, Default)]
pub(super) struct Ignored {
    ids: VecDeque<u32>,
    /// The largest one that is not in there any more.
    forgotten: u32,
}

impl Ignored {
    pub(super) fn add(&mut self, id: u32) {
        if self.ids.len() == MAX_IGNORED
            && let Some(forgotten) = self.ids.pop_front()
        {
            self.forgotten = self.forgotten.max(forgotten);
        }
        self.ids.push_back(id);
    }

    /// Whether what comes of this stream is no error. It may be one of those that were forgotten.
    pub(super) fn has(&self, id: u32) -> bool {
        id <= self.forgotten || self.ids.contains(&id)
    }
}

/// What ends a connection.
pub(super) enum Fault {
    Violation(Violation),
    Flood(&'static str),
}

impl From<Violation> for Fault {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

pub(super) fn protocol_error(why: &'static str) -> Violation {
    Violation::protocol(None, why)
}

pub(super) fn stream_closed(why: &'static str) -> Violation {
    Violation { code: ErrorCode::STREAM_CLOSED, stream: None, why }
}

impl<H: Heads> Connection<H> {
    /// Takes as many whole frames as there are. `guard` may end it.
    pub fn receive(&mut self, input: &mut BytesMut, guard: &mut impl Guard) {
        while self.end.is_none() {
            match self.next(input, guard) {
                Ok(true) => {}
                Ok(false) => return,
                Err(Fault::Violation(violation)) => self.violated(&violation),
                Err(Fault::Flood(why)) => self.give_up(ErrorCode::ENHANCE_YOUR_CALM, why),
            }
        }
        input.clear();
    }

    /// The next frame. Whether it was there.
    fn next(&mut self, input: &mut BytesMut, guard: &mut impl Guard) -> Result<bool, Fault> {
        if !self.incoming.preface.is_empty() {
            let count = input.len().min(self.incoming.preface.len());
            if input[..count] != self.incoming.preface[..count] {
                return Err(protocol_error("the connection does not begin with the preface of HTTP/2").into());
            }
            self.incoming.preface = &self.incoming.preface[count..];
            input.advance(count);
        }
        let Some(head) = input.first_chunk().copied().map(Head::parse) else { return Ok(false) };
        if !self.incoming.is_judged {
            guard.received(&head, self.sent).map_err(Fault::Flood)?;
            self.judge(&head)?;
            self.incoming.is_judged = true;
        }
        let length = head.length as usize;
        if input.len() < HEAD + length {
            return Ok(false);
        }
        self.incoming.is_judged = false;
        let frame = match frame::parse(head, &input[HEAD..HEAD + length]) {
            Ok(frame) => frame,
            Err(Violation { stream: Some(stream), code, why }) => {
                self.stream_error(stream, code, why, guard)?;
                input.advance(HEAD + length);
                return Ok(true);
            }
            Err(violation) => return Err(violation.into()),
        };
        if let Frame::Data { data, is_last } = frame {
            self.data(head, input, HEAD + data.start..HEAD + data.end, is_last, guard)?;
            return Ok(true);
        }
        self.frame(head.stream, &frame, guard)?;
        input.advance(HEAD + length);
        Ok(true)
    }

    /// What a frame's head alone tells.
    fn judge(&mut self, head: &Head) -> Result<(), Fault> {
        if !self.incoming.is_settled && (head.kind != kind::SETTINGS || head.flags & frame::flag::ACK != 0) {
            return Err(protocol_error("the first frame is none of settings").into());
        }
        let follows = head.kind == kind::CONTINUATION;
        match &self.incoming.block {
            Some(block) if !follows || block.stream() != head.stream => {
                return Err(protocol_error("a frame stands between those of one head").into());
            }
            None if follows => return Err(protocol_error("a head goes on that has not begun").into()),
            _ => {}
        }
        match head.check(frame::MIN_MAX_SIZE) {
            // It waits for its payload, which is all the same.
            Ok(()) | Err(Violation { stream: Some(_), .. }) => Ok(()),
            Err(violation) => Err(violation.into()),
        }
    }

    fn frame(&mut self, stream: u32, frame: &Frame<'_>, guard: &mut impl Guard) -> Result<(), Fault> {
        match *frame {
            Frame::Headers { block, is_last, is_complete: true, depends_on_itself } => {
                self.head(stream, block, is_last, depends_on_itself, guard)
            }
            Frame::Headers { block, is_last, is_complete: false, depends_on_itself } => {
                self.incoming.block = Some(Unfinished::new(stream, is_last, depends_on_itself, block));
                Ok(())
            }
            Frame::Continuation { block, is_complete } => self.continuation(block, is_complete, guard),
            Frame::Reset { code } => self.reset_by_peer(stream, code),
            Frame::Settings(payload) => self.settings(payload),
            Frame::SettingsAck => {
                self.heard();
                Ok(())
            }
            Frame::PushPromise => Err(protocol_error("a push that nobody wants").into()),
            Frame::Ping { is_ack: false, payload } => {
                frame::write_ping(self.output.buffer(), payload, true);
                Ok(())
            }
            Frame::Ping { is_ack: true, payload } => {
                self.has_pong |= payload == LIFE_PING;
                if payload == LAST_PING && self.leaving == Leaving::Announced {
                    self.leave_after(self.last_opened);
                }
                Ok(())
            }
            Frame::GoAway { last_stream, code, .. } => {
                self.goes_away(last_stream, code);
                Ok(())
            }
            Frame::WindowUpdate { increment } => self.window_update(stream, increment, guard),
            Frame::Priority | Frame::Unknown | Frame::Data { .. } => Ok(()),
        }
    }

    /// What is wrong concerns one stream.
    pub(super) fn stream_error(
        &mut self,
        id: u32,
        code: ErrorCode,
        why: &'static str,
        guard: &mut impl Guard,
    ) -> Result<(), Fault> {
        if self.is_idle(id) {
            return Err(Violation { code, stream: None, why }.into());
        }
        guard.has_to_reset().map_err(Fault::Flood)?;
        match self.streams.find(id) {
            Some(place) => self.reset_for(place, code, Failure::Malformed(why)),
            None => {
                self.ignored.add(id);
                frame::write_reset(self.output.buffer(), id, code);
            }
        }
        Ok(())
    }

    /// Whether a stream was never opened (RFC 9113 section 5.1.1).
    pub(super) fn is_idle(&self, id: u32) -> bool {
        match self.role {
            Role::Server => id.is_multiple_of(2) || id > self.last_opened,
            Role::Client => id.is_multiple_of(2) || id >= self.next_id,
        }
    }

    fn data(
        &mut self,
        head: Head,
        input: &mut BytesMut,
        place_of_data: Range<usize>,
        is_last: bool,
        guard: &mut impl Guard,
    ) -> Result<(), Fault> {
        let (id, length) = (head.stream, head.length as usize);
        if self.received.take(length).is_none() {
            let why = "more came than the connection's window";
            return Err(Violation { code: ErrorCode::FLOW_CONTROL_ERROR, stream: None, why }.into());
        }
        let error = match self.streams.find(id) {
            None if self.is_idle(id) => {
                return Err(protocol_error("content of a stream that was not opened").into());
            }
            None if self.ignored.has(id) => {
                input.advance(HEAD + length);
                self.release(length);
                return Ok(());
            }
            None => return Err(stream_closed("content of a stream that is closed").into()),
            Some(place) => self.data_of(place, length, input, place_of_data, is_last),
        };
        if let Err((code, why)) = error {
            input.advance(HEAD + length);
            self.release(length);
            self.stream_error(id, code, why, guard)?;
        }
        Ok(())
    }

    /// Takes the frame off the input, unless that is an error of its stream.
    fn data_of(
        &mut self,
        place: u32,
        length: usize,
        input: &mut BytesMut,
        place_of_data: Range<usize>,
        is_last: bool,
    ) -> Result<(), StreamError> {
        let stream = self.streams.get_mut(place);
        match stream.receiving {
            Receiving::Ended => return Err((ErrorCode::STREAM_CLOSED, "content behind the end")),
            Receiving::Head => return Err((ErrorCode::PROTOCOL_ERROR, "content in front of the head")),
            Receiving::Body => {}
        }
        if stream.received.take(length).is_none() {
            return Err((ErrorCode::FLOW_CONTROL_ERROR, "more came than the stream's window"));
        }
        let size = place_of_data.len();
        if let Some(left) = &mut stream.left {
            let is_right = left.checked_sub(size as u64).filter(|left| !is_last || *left == 0);
            *left = is_right.ok_or((ErrorCode::PROTOCOL_ERROR, NOT_AS_LONG))?;
        }
        let is_kept = size > 0 && !stream.is_unwanted;
        if is_kept {
            if Stream::<H>::is_copied(size) {
                stream.keep_copy(&input[place_of_data]);
                input.advance(HEAD + length);
            } else {
                let frame: Bytes = input.split_to(HEAD + length).freeze();
                stream.keep(frame.slice(place_of_data));
            }
        } else {
            input.advance(HEAD + length);
        }
        if is_last {
            stream.receiving = Receiving::Ended;
        }
        if is_kept || is_last {
            stream.wake_reader();
        }
        // What nobody will read has been read.
        let unread = if is_kept { size } else { 0 };
        self.release_of(place, length - unread);
        if is_last {
            self.settle(place);
        }
        Ok(())
    }

    fn reset_by_peer(&mut self, id: u32, code: ErrorCode) -> Result<(), Fault> {
        if self.is_idle(id) {
            return Err(protocol_error("a stream is reset that was not opened").into());
        }
        if let Some(place) = self.streams.find(id) {
            self.fail(place, Failure::Reset(code));
        }
        Ok(())
    }

    fn settings(&mut self, payload: &[u8]) -> Result<(), Fault> {
        self.incoming.is_settled = true;
        let mut window = self.peer.window;
        for setting in frame::settings(payload) {
            match setting? {
                Setting::HeaderTableSize(size) => self.encoder.set_max_table(size),
                Setting::EnablePush(true) if self.role == Role::Client => {
                    return Err(protocol_error("a server cannot be pushed to").into());
                }
                Setting::MaxConcurrentStreams(most) => {
                    self.peer.max_streams = most;
                    self.open_waiting();
                }
                Setting::InitialWindowSize(size) => window = size,
                Setting::EnableConnectProtocol(takes) => self.peer.takes_extended_connect = takes,
                // Frames are no longer than everybody takes, and heads as long as they are.
                Setting::EnablePush(_) | Setting::MaxFrameSize(_) | Setting::MaxHeaderListSize(_) => {}
            }
        }
        // All streams are looked through once, however often a frame says it.
        let by = i64::from(window) - i64::from(self.peer.window);
        if by != 0 {
            self.peer.window = window;
            for place in self.streams.places() {
                self.grow(place, by).ok_or(TOO_LARGE_A_WINDOW)?;
            }
        }
        frame::write_settings_ack(self.output.buffer());
        Ok(())
    }

    /// The peer knows the settings of this side.
    fn heard(&mut self) {
        if !std::mem::replace(&mut self.incoming.is_heard, true) {
            for place in self.streams.places() {
                self.streams.get_mut(place).received.settle();
            }
        }
    }

    fn goes_away(&mut self, last_stream: u32, code: ErrorCode) {
        self.has_goodbye = true;
        if self.role == Role::Client {
            for place in self.streams.places() {
                let id = self.streams.get(place).id;
                if id == 0 || id > last_stream {
                    self.fail(place, Failure::GoAway(code));
                }
            }
        }
    }

    fn window_update(&mut self, id: u32, increment: u32, guard: &mut impl Guard) -> Result<(), Fault> {
        if id == 0 {
            self.window.grow(increment.into()).ok_or(TOO_LARGE_A_WINDOW)?;
            self.unblock();
            return Ok(());
        }
        if self.is_idle(id) {
            return Err(protocol_error("a window of a stream that was not opened").into());
        }
        let Some(place) = self.streams.find(id) else { return Ok(()) };
        if self.grow(place, increment.into()).is_none() {
            self.stream_error(id, TOO_LARGE_A_WINDOW.code, TOO_LARGE_A_WINDOW.why, guard)?;
        }
        Ok(())
    }
}

const TOO_LARGE_A_WINDOW: Violation =
    Violation { code: ErrorCode::FLOW_CONTROL_ERROR, stream: None, why: "a window grows beyond what it may" };
