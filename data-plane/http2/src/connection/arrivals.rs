//! Heads as they come: requests that open streams, responses, and trailers.

use super::{
    Connection, FRAME_SIZE, Leaving, Role,
    receive::{Fault, Guard, protocol_error, stream_closed},
};
use crate::{
    frame::{self, ErrorCode, Violation},
    heads::{Heads, Kind, Reading},
    hpack::{self, ListLimits},
    stream::{Receiving, Stream},
    window::{self, ReceiveWindow, SendWindow},
};

/// A head so many times larger than what is handed on of one is an attack.
pub(super) const WAY_TOO_LARGE: usize = 4;
/// ... and one whose block is so many times as large, which has to be kept until all of it is there.
const MAX_BLOCK: usize = 2;
/// So many frames may a head come in, beside those that it needs.
const MORE_CONTINUATIONS: usize = 16;

/// A head that goes on in further frames.
#[derive(Debug)]
pub(super) struct Unfinished {
    stream: u32,
    is_last: bool,
    depends_on_itself: bool,
    bytes: Vec<u8>,
    frames: usize,
}

impl Unfinished {
    /// Of a head that begins with this.
    pub(super) fn new(stream: u32, is_last: bool, depends_on_itself: bool, block: &[u8]) -> Self {
        Self { stream, is_last, depends_on_itself, bytes: block.to_vec(), frames: 0 }
    }

    pub(super) fn stream(&self) -> u32 {
        self.stream
    }
}

/// For whom a head is.
enum Addressee {
    New,
    Open(u32),
    /// Nobody: it is only read because those behind it refer to it.
    Nobody,
}

impl<H: Heads> Connection<H> {
    pub(super) fn continuation(
        &mut self,
        block: &[u8],
        is_complete: bool,
        guard: &mut impl Guard,
    ) -> Result<(), Fault> {
        let limit = MAX_BLOCK.saturating_mul(self.config.head.bytes);
        let Some(unfinished) = &mut self.incoming.block else { return Ok(()) };
        unfinished.frames += 1;
        unfinished.bytes.extend_from_slice(block);
        if unfinished.frames > MORE_CONTINUATIONS + limit / FRAME_SIZE {
            return Err(calm("a head comes in too many frames").into());
        }
        if unfinished.bytes.len() > limit {
            return Err(calm(TOO_LARGE).into());
        }
        if !is_complete {
            return Ok(());
        }
        let Some(Unfinished { stream, is_last, depends_on_itself, bytes, .. }) = self.incoming.block.take()
        else {
            return Ok(());
        };
        self.head(stream, &bytes, is_last, depends_on_itself, guard)
    }

    pub(super) fn head(
        &mut self,
        id: u32,
        block: &[u8],
        is_last: bool,
        depends_on_itself: bool,
        guard: &mut impl Guard,
    ) -> Result<(), Fault> {
        let addressee = self.addressee(id)?;
        let (kind, limits) = match (&addressee, self.role) {
            (Addressee::Nobody, _) => {
                // A stream that is reset may have had its trailers on their way: it costs no less than that.
                guard.has_to_reset().map_err(Fault::Flood)?;
                let limits = ListLimits { bytes: 0, fields: 0 };
                self.decoder.decode(block, limits, &mut |_| {}).map_err(undecodable)?;
                return Ok(());
            }
            (Addressee::New, _) => (Kind::Request, self.config.head),
            (Addressee::Open(place), Role::Client)
                if self.streams.get(*place).receiving == Receiving::Head =>
            {
                (Kind::Response, self.config.head)
            }
            (Addressee::Open(_), _) => (Kind::Trailers, self.config.head),
        };
        let mut reading = Reading::<H::Received>::new(kind);
        let size = self.decoder.decode(block, limits, &mut |field| reading.take(&field));
        let size = size.map_err(undecodable)?;
        reading.finish();
        if depends_on_itself && reading.defect.is_none() {
            reading.defect = Some("a stream depends on itself");
        }
        match addressee {
            Addressee::Nobody => Ok(()),
            Addressee::New => self.request(id, reading, size.is_over, is_last, guard),
            Addressee::Open(place) => match self.head_of(place, kind, reading, size.is_over, is_last) {
                Ok(()) => Ok(()),
                Err((code, why)) => self.stream_error(id, code, why, guard),
            },
        }
    }

    fn addressee(&self, id: u32) -> Result<Addressee, Violation> {
        if let Some(place) = self.streams.find(id) {
            return Ok(Addressee::Open(place));
        }
        if self.is_idle(id) {
            let may_open = self.role == Role::Server && !id.is_multiple_of(2);
            return match may_open {
                true => Ok(Addressee::New),
                false => Err(protocol_error("a stream is opened that may not be")),
            };
        }
        match self.ignored.has(id) {
            true => Ok(Addressee::Nobody),
            // Of those before, it is not known whether they were opened (RFC 9113 section 5.1.1).
            false if id < self.last_opened => Err(protocol_error("a stream is opened behind a later one")),
            false => Err(stream_closed("a head of a stream that is closed")),
        }
    }

    /// A stream was opened by the peer.
    fn request(
        &mut self,
        id: u32,
        reading: Reading<H::Received>,
        is_too_large: bool,
        is_last: bool,
        guard: &mut impl Guard,
    ) -> Result<(), Fault> {
        self.last_opened = id;
        if let Leaving::After(_) = self.leaving {
            guard.has_to_reset().map_err(Fault::Flood)?;
            self.ignored.add(id);
            return Ok(());
        }
        let mut refusal = reading.defect.map(|_| ErrorCode::PROTOCOL_ERROR);
        if is_last && reading.length.is_some_and(|length| length > 0) {
            refusal = Some(ErrorCode::PROTOCOL_ERROR);
        } else if self.streams.open() >= self.config.streams as usize {
            refusal = Some(ErrorCode::REFUSED_STREAM);
        }
        if let Some(code) = refusal {
            guard.has_to_reset().map_err(Fault::Flood)?;
            self.ignored.add(id);
            frame::write_reset(self.output.buffer(), id, code);
            return Ok(());
        }
        let receiving = if is_last { Receiving::Ended } else { Receiving::Body };
        let mut stream = self.new_stream(id, receiving);
        stream.left = reading.length;
        stream.head = Some((0, reading.head));
        stream.is_head_cut = is_too_large;
        // Whoever takes the request on has both.
        stream.handles = 2;
        let place = self.streams.insert(stream);
        self.streams.opened(id, place);
        self.arrived.push_back(place);
        Ok(())
    }

    pub(super) fn new_stream(&self, id: u32, receiving: Receiving) -> Stream<H> {
        let size = self.config.stream_window;
        let known = if self.incoming.is_heard { size } else { window::DEFAULT };
        Stream::new(id, receiving, ReceiveWindow::of_stream(size, known), SendWindow::new(self.peer.window))
    }

    /// A head of a stream that is there.
    fn head_of(
        &mut self,
        place: u32,
        kind: Kind,
        reading: Reading<H::Received>,
        is_too_large: bool,
        is_last: bool,
    ) -> Result<(), StreamError> {
        if self.streams.get(place).receiving == Receiving::Ended {
            return Err((ErrorCode::STREAM_CLOSED, "a head behind the end"));
        }
        match reading.defect {
            Some(defect) => malformed(defect),
            None if is_too_large => malformed(TOO_LARGE),
            None if kind == Kind::Response => self.response(place, reading, is_last),
            None => self.trailers(place, reading, is_last),
        }
    }

    /// An answer, or an interim one.
    fn response(
        &mut self,
        place: u32,
        reading: Reading<H::Received>,
        is_last: bool,
    ) -> Result<(), StreamError> {
        let stream = self.streams.get_mut(place);
        let status = reading.status;
        if status < 200 {
            if is_last {
                return malformed("an interim response is the last word");
            }
            stream.interim_count += 1;
            if stream.interim_count > self.config.interim {
                return Err((ErrorCode::ENHANCE_YOUR_CALM, "too many interim responses"));
            }
            stream.interim.push_back((status, reading.head));
            stream.wake_reader();
            return Ok(());
        }
        if stream.purpose.has_length(status) {
            stream.left = reading.length;
            if is_last && reading.length.is_some_and(|length| length > 0) {
                return malformed(NOT_AS_LONG);
            }
        }
        stream.head = Some((status, reading.head));
        stream.receiving = if is_last { Receiving::Ended } else { Receiving::Body };
        stream.wake_reader();
        if is_last {
            self.settle(place);
        }
        Ok(())
    }

    fn trailers(
        &mut self,
        place: u32,
        reading: Reading<H::Received>,
        is_last: bool,
    ) -> Result<(), StreamError> {
        let stream = self.streams.get_mut(place);
        if !is_last {
            return malformed("a second head that is not the last word");
        }
        if stream.left.is_some_and(|left| left > 0) {
            return malformed(NOT_AS_LONG);
        }
        stream.receiving = Receiving::Ended;
        if !stream.is_unwanted {
            stream.trailers = Some(reading.head);
        }
        stream.wake_reader();
        self.settle(place);
        Ok(())
    }
}

/// What is wrong with a stream, and as what its end is told.
pub(super) type StreamError = (ErrorCode, &'static str);

const TOO_LARGE: &str = "a head is far too large";
pub(super) const NOT_AS_LONG: &str = "the content is not as long as was told";

fn malformed(why: &'static str) -> Result<(), StreamError> {
    Err((ErrorCode::PROTOCOL_ERROR, why))
}

fn calm(why: &'static str) -> Violation {
    Violation { code: ErrorCode::ENHANCE_YOUR_CALM, stream: None, why }
}

fn undecodable(error: hpack::Error) -> Violation {
    match error {
        hpack::Error::LargeList => calm(TOO_LARGE),
        _ => Violation { code: ErrorCode::COMPRESSION_ERROR, stream: None, why: error.why() },
    }
}
