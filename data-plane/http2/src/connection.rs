//! A connection: bytes come in, bytes are to go out, and between them are streams, which [`crate::handles`] give to their users.
//!
//! ```text
//!   socket ── receive ──▶ frames ──▶ streams ──▶ handles
//!   socket ◀── output ◀── pump ◀──── streams ◀── handles
//! ```
//!
//! Nothing is written before there is room for it ([`Connection::pump`]): a head is compressed, and a stream opened, when that
//! goes out and not before, so what is given up until then has never been. Each stream that has something to send has one
//! frame in turn. Whoever is given the bytes of the socket wakes whom they concern.

mod arrivals;
mod receive;
mod send;
mod states;

use std::{
    cell::RefCell,
    collections::VecDeque,
    io::{self, IoSlice},
    rc::Rc,
    task::Waker,
};

use crate::{
    frame::{self, ErrorCode, Setting, Violation},
    heads::Heads,
    hpack::{Decoder, Encoder, ListLimits},
    output::Output,
    stream::{Failure, Stream, Streams},
    window::{self, ReceiveWindow, SendWindow},
};
pub use receive::Guard;
pub use send::Queued;
pub(crate) use send::register;

/// The largest payload that the peer may send in one frame, and the largest that is sent: what everybody takes.
const FRAME_SIZE: usize = 16 * 1024;
/// Of HPACK's tables, each way. What everybody begins with.
const TABLE_SIZE: usize = 4096;
/// What waits to be written of frames that answer others. Beyond, nothing more is read that would have to be answered.
const MAX_UNWRITTEN: usize = 256 * 1024;
const MAX_STREAM: u32 = (1 << 31) - 1;
/// The PING by which it is found out that the peer has heard that this connection ends.
const LAST_PING: [u8; 8] = *b"goodbye?";
/// The one that asks for a sign of life.
const LIFE_PING: [u8; 8] = *b"are you?";

/// What a connection may take up.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Most streams at once: those of the peer, or those that are opened, if the peer allows as many.
    pub streams: u32,
    /// What the peer may send of one stream before it is read.
    pub stream_window: u32,
    /// The same of all streams.
    pub connection_window: u32,
    /// What waits to be sent of one stream's content.
    pub send_buffer: usize,
    /// Most interim responses in front of one response.
    pub interim: usize,
    /// As much of a head is handed on. What is beyond is only read to its end.
    pub head: ListLimits,
    /// How large a head may be, as the peer is told.
    pub advertised_head: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Server,
    Client,
}

/// A connection, as its handles share it.
pub type Shared<H> = Rc<RefCell<Connection<H>>>;

/// One side of a connection.
#[derive(Debug)]
pub struct Connection<H: Heads> {
    role: Role,
    config: Config,
    streams: Streams<H>,
    output: Output,
    end: Option<End>,
    /// Whoever moves the bytes.
    driver: Option<Waker>,

    // What comes.
    decoder: Decoder,
    incoming: receive::Incoming,
    received: ReceiveWindow,
    /// The largest id that the peer has opened a stream with.
    last_opened: u32,
    ignored: receive::Ignored,
    /// Requests that nobody has taken on yet.
    arrived: VecDeque<u32>,
    peer: Peer,
    /// Whether the peer takes on no more.
    pub(crate) has_goodbye: bool,
    has_pong: bool,

    // What goes.
    encoder: Encoder,
    window: SendWindow,
    /// Bytes that streams have been promised of it.
    claimed: usize,
    /// How many streams have something to send that nobody sees to any more.
    left: usize,
    /// Streams that have something to send, in turn.
    ready: VecDeque<u32>,
    /// Those that wait for the connection's window with it.
    blocked: VecDeque<u32>,
    /// Those whose users wait for room in it.
    roomless: VecDeque<u32>,
    /// Those that wait until the peer lets them be opened.
    unopened: VecDeque<u32>,
    next_id: u32,
    /// Frames of heads and of content that were written.
    sent: u64,
    leaving: Leaving,
}

/// What the peer has told of itself.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    /// Most streams that it has at once.
    pub max_streams: u32,
    /// Whether it takes extended CONNECTs (RFC 8441).
    pub takes_extended_connect: bool,
    /// Of each new stream.
    window: u32,
}

/// How far a graceful end has come (RFC 9113 section 6.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaving {
    No,
    /// The peer was told, and may not have heard it yet: what it opens until then is answered.
    Announced,
    /// Whatever it opens behind this one is left to others.
    After(u32),
}

/// Why a connection is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The peer broke the rules, and was told so.
    Violation(ErrorCode, &'static str),
    /// It was given up on this side, for this reason.
    GivenUp(ErrorCode, &'static str),
    /// The socket broke, or the peer ended it.
    Lost(io::ErrorKind),
}

impl<H: Heads> Connection<H> {
    /// One that a client has opened.
    #[must_use]
    pub fn server(config: Config) -> Self {
        let mut this = Self::new(Role::Server, config);
        let told = [
            Setting::MaxConcurrentStreams(config.streams),
            Setting::InitialWindowSize(config.stream_window),
            Setting::MaxHeaderListSize(config.advertised_head),
            Setting::EnableConnectProtocol(true),
        ];
        frame::write_settings(this.output.buffer(), &told);
        this.begin();
        this
    }

    /// One to a server.
    #[must_use]
    pub fn client(config: Config) -> Self {
        let mut this = Self::new(Role::Client, config);
        this.output.buffer().extend_from_slice(frame::PREFACE);
        let told = [
            Setting::EnablePush(false),
            Setting::InitialWindowSize(config.stream_window),
            Setting::MaxHeaderListSize(config.advertised_head),
        ];
        frame::write_settings(this.output.buffer(), &told);
        this.begin();
        this
    }

    /// Behind the settings, which do not tell of the connection's window.
    fn begin(&mut self) {
        if let Some(more) = self.received.open() {
            frame::write_window_update(self.output.buffer(), 0, more);
        }
    }

    fn new(role: Role, config: Config) -> Self {
        Self {
            role,
            config,
            streams: Streams::default(),
            output: Output::default(),
            end: None,
            driver: None,
            decoder: Decoder::new(TABLE_SIZE, arrivals::WAY_TOO_LARGE.saturating_mul(config.head.bytes)),
            incoming: receive::Incoming::new(role == Role::Server),
            received: ReceiveWindow::of_connection(config.connection_window),
            last_opened: 0,
            ignored: receive::Ignored::default(),
            arrived: VecDeque::new(),
            peer: Peer {
                // One need not wait for what the peer allows.
                max_streams: config.streams,
                takes_extended_connect: false,
                window: window::DEFAULT,
            },
            has_goodbye: false,
            has_pong: false,
            encoder: Encoder::new(),
            window: SendWindow::new(window::DEFAULT),
            claimed: 0,
            left: 0,
            ready: VecDeque::new(),
            blocked: VecDeque::new(),
            roomless: VecDeque::new(),
            unopened: VecDeque::new(),
            next_id: 1,
            sent: 0,
            leaving: Leaving::No,
        }
    }

    /// What the peer has told of itself, and what is taken for granted until then.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Whether the peer has told anything of itself.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.incoming.is_settled()
    }

    /// Whether a stream may be opened, now or when the peer allows another.
    #[must_use]
    pub fn may_open(&self) -> bool {
        self.end.is_none() && !self.has_goodbye && self.leaving == Leaving::No && self.next_id <= MAX_STREAM
    }

    /// Why it is over, if it is for another reason than that both sides had said all.
    #[must_use]
    pub fn end(&self) -> Option<End> {
        self.end
    }

    /// Whether there is nothing more to do but to end the connection: what was to be said was written.
    #[must_use]
    pub fn is_over(&self) -> bool {
        let has_left = match self.leaving {
            Leaving::After(_) => self.streams.open() == 0,
            Leaving::No | Leaving::Announced => false,
        };
        (has_left || self.end.is_some()) && self.output.len() == 0
    }

    /// Streams that are not closed.
    #[cfg(test)]
    pub(crate) fn open_streams(&self) -> usize {
        self.streams.open()
    }

    /// Frames of heads and of content that were written so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Bytes that the socket has taken.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.output.written()
    }

    /// The next request that has come.
    pub(crate) fn next_arrived(&mut self) -> Option<u32> {
        loop {
            let place = self.arrived.pop_front()?;
            if self.streams.get(place).failure.is_none() {
                return Some(place);
            }
            // Its client has thought better of it, or broken the rules: nobody is asked for what nobody waits for.
            self.drop_receiver(place);
            self.drop_handle(place);
        }
    }

    pub(crate) fn take_request(&mut self, place: u32) -> (H::Received, bool) {
        let stream = self.streams.get_mut(place);
        let head = stream.head.take().map(|(_, head)| head);
        (head.unwrap_or_default(), stream.is_head_cut)
    }

    pub(crate) fn stream(&mut self, place: u32) -> &mut Stream<H> {
        self.streams.get_mut(place)
    }

    /// Places that streams take up.
    #[cfg(test)]
    pub(crate) fn places(&self) -> usize {
        self.streams.places().count()
    }

    /// Bytes of the connection's window that are spoken for.
    #[cfg(test)]
    pub(crate) fn claimed(&self) -> usize {
        self.claimed
    }

    /// Has this task woken when there is something to write.
    pub fn driven_by(&mut self, waker: &Waker) {
        if !self.driver.as_ref().is_some_and(|driver| driver.will_wake(waker)) {
            self.driver = Some(waker.clone());
        }
    }

    fn wake_driver(&self) {
        if let Some(driver) = &self.driver {
            driver.wake_by_ref();
        }
    }

    /// Whether more may be read: what has to be answered waits for who reads no answers.
    #[must_use]
    pub fn may_read(&self) -> bool {
        self.end.is_none() && self.output.len() < MAX_UNWRITTEN
    }

    /// All that is to be written, where it lies in one piece.
    #[must_use]
    pub fn piece(&self) -> Option<&[u8]> {
        self.output.piece()
    }

    /// Fills `slices` with what is to be written next, and yields how many there are.
    pub fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        self.output.slices(slices)
    }

    /// Whether [`Connection::pump`] has something to make ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Whether there is anything to be written.
    #[must_use]
    pub fn has_output(&self) -> bool {
        self.output.len() > 0
    }

    /// The socket has taken so many bytes.
    pub fn advance(&mut self, count: usize) {
        self.output.advance(count);
    }

    /// The buffer of what is to be written, to be lent to another as long as nothing is.
    pub fn take_buffer(&mut self) -> Option<Vec<u8>> {
        self.output.take_buffer()
    }

    /// A buffer for what is to be written, where it has none.
    pub fn give_buffer(&mut self, buffer: Vec<u8>) {
        self.output.give_buffer(buffer);
    }

    /// Asks the peer for a sign of life.
    pub fn ping(&mut self) {
        self.has_pong = false;
        frame::write_ping(self.output.buffer(), LIFE_PING, false);
        self.wake_driver();
    }

    /// Whether the last [`Connection::ping`] was answered, told once.
    pub fn take_pong(&mut self) -> bool {
        std::mem::take(&mut self.has_pong)
    }

    /// Ends it behind what is in flight: the peer is told so, and once it has heard that, nothing more is taken on.
    pub fn leave(&mut self) {
        if self.leaving != Leaving::No || self.end.is_some() {
            return;
        }
        match self.role {
            Role::Server => {
                self.leaving = Leaving::Announced;
                frame::write_goaway(self.output.buffer(), MAX_STREAM, ErrorCode::NO_ERROR, "");
                frame::write_ping(self.output.buffer(), LAST_PING, false);
            }
            // Servers open none.
            Role::Client => self.leave_after(0),
        }
        self.wake_driver();
    }

    /// What [`Connection::leave`] has begun has been waited for long enough: whether the peer has heard of it or not, nothing more is
    /// taken on.
    pub fn leave_now(&mut self) {
        if self.leaving == Leaving::Announced && self.end.is_none() {
            self.leave_after(self.last_opened);
            self.wake_driver();
        }
    }

    fn leave_after(&mut self, last: u32) {
        self.leaving = Leaving::After(last);
        frame::write_goaway(self.output.buffer(), last, ErrorCode::NO_ERROR, "");
    }

    /// Ends it at once: the peer is told why, and all streams fail.
    pub fn give_up(&mut self, code: ErrorCode, why: &'static str) {
        self.over(End::GivenUp(code, why), Failure::Cancelled);
    }

    /// The socket broke, or has come to its end.
    pub fn lost(&mut self, kind: io::ErrorKind) {
        self.over(End::Lost(kind), Failure::Lost(kind));
    }

    fn violated(&mut self, violation: &Violation) {
        self.over(End::Violation(violation.code, violation.why), Failure::Malformed(violation.why));
    }

    fn over(&mut self, end: End, failure: Failure) {
        if self.end.is_some() {
            return;
        }
        self.end = Some(end);
        if let End::Violation(code, why) | End::GivenUp(code, why) = end {
            // What was left to others is theirs (RFC 9113 section 6.8).
            let last = match self.leaving {
                Leaving::After(last) => last,
                Leaving::No | Leaving::Announced => self.last_opened,
            };
            frame::write_goaway(self.output.buffer(), last, code, why);
        }
        // At once, and not stream by stream.
        for queue in [&mut self.ready, &mut self.blocked, &mut self.unopened] {
            queue.clear();
        }
        for place in self.streams.places() {
            self.fail(place, failure);
        }
        self.wake_driver();
    }
}
