//! A connection as a whole.

mod differential;
mod hostile;
mod noise;
mod pair;
mod passing;
mod states;
mod tasks;

use std::{
    cell::RefCell,
    io::IoSlice,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use bytes::BytesMut;

use crate::{
    Block, Config, Connection, Guard, Heads, Pseudo, Purpose, Received, Sent, Shared,
    frame::{self, HEAD, Head, flag, kind},
    hpack::{Keep, ListLimits},
};

/// Heads as lists.
#[derive(Debug)]
struct Plain;

impl Heads for Plain {
    type Received = List;
    type Sent = List;
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct List(Vec<(String, Vec<u8>)>);

impl Received for List {
    fn pseudo(&mut self, pseudo: Pseudo, value: &[u8]) {
        let name = match pseudo {
            Pseudo::Method => ":method",
            Pseudo::Scheme => ":scheme",
            Pseudo::Path => ":path",
            Pseudo::Authority => ":authority",
            Pseudo::Protocol => ":protocol",
            Pseudo::Status => ":status",
        };
        self.0.push((name.into(), value.into()));
    }

    fn field(&mut self, name: &[u8], value: &[u8], _: Option<u8>, _: bool) {
        self.0.push((String::from_utf8(name.into()).unwrap(), value.into()));
    }
}

impl Sent for List {
    fn encode(&self, block: &mut Block<'_>) {
        for (name, value) in &self.0 {
            block.field(name.as_bytes(), value, Keep::Index);
        }
    }
}

fn list(fields: &[(&str, &str)]) -> List {
    List(fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect())
}

fn get() -> List {
    list(&[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a")])
}

fn post() -> List {
    list(&[(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "a")])
}

fn ok() -> List {
    list(&[(":status", "200")])
}

const CONFIG: Config = Config {
    streams: 8,
    stream_window: 1000,
    connection_window: 100_000,
    send_buffer: 4096,
    interim: 4,
    head: ListLimits { bytes: 4096, fields: 40 },
    advertised_head: 4096,
};

fn cx() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

fn ready<T>(polled: Poll<T>) -> T {
    match polled {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("it is not there"),
    }
}

/// Fields as HPACK has them without its tables.
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        for text in [name, value] {
            if text == name {
                bytes.push(0);
            }
            assert!(text.len() < 127, "longer ones need more octets");
            bytes.push(u8::try_from(text.len()).unwrap());
            bytes.extend(text.as_bytes());
        }
    }
    bytes
}

const GET: [(&str, &str); 4] = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a")];
const POST: [(&str, &str); 4] =
    [(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "a")];

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn headers(stream: u32, fields: &[(&str, &str)], is_last: bool) -> Vec<u8> {
    let end = if is_last { flag::END_STREAM } else { 0 };
    frame(kind::HEADERS, flag::END_HEADERS | end, stream, &block(fields))
}

fn data(stream: u32, length: usize, is_last: bool) -> Vec<u8> {
    frame(kind::DATA, u8::from(is_last), stream, &vec![7; length])
}

fn reset(stream: u32) -> Vec<u8> {
    frame(kind::RST_STREAM, 0, stream, &8_u32.to_be_bytes())
}

fn window(stream: u32, increment: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

fn setting(number: u16, value: u32) -> Vec<u8> {
    frame(kind::SETTINGS, 0, 0, &[&number.to_be_bytes()[..], &value.to_be_bytes()].concat())
}

/// One side, and what was written to it and by it.
struct Side {
    shared: Shared<Plain>,
    input: BytesMut,
}

impl Side {
    fn new(connection: Connection<Plain>) -> Self {
        Self { shared: Rc::new(RefCell::new(connection)), input: BytesMut::new() }
    }

    /// A server whose client has begun.
    fn server(config: Config) -> Self {
        let mut this = Self::new(Connection::server(config));
        this.feed(frame::PREFACE);
        this.feed(&frame(kind::SETTINGS, 0, 0, &[]));
        this.feed(&frame(kind::SETTINGS, flag::ACK, 0, &[]));
        this.sent();
        this
    }

    fn feed(&mut self, bytes: &[u8]) {
        self.feed_judged(bytes, &mut ());
    }

    fn feed_judged(&mut self, bytes: &[u8], guard: &mut impl Guard) {
        self.input.extend_from_slice(bytes);
        self.shared.borrow_mut().receive(&mut self.input, guard);
    }

    /// All that it writes now.
    fn bytes(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut connection = self.shared.borrow_mut();
        loop {
            connection.pump();
            let mut slices = [IoSlice::new(&[]); 4];
            let count = connection.slices(&mut slices);
            let next: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.iter().copied()).collect();
            if next.is_empty() {
                return bytes;
            }
            bytes.extend_from_slice(&next);
            connection.advance(next.len());
        }
    }

    /// The frames of that.
    fn sent(&mut self) -> Vec<(Head, Vec<u8>)> {
        frames(&self.bytes())
    }

    /// Kinds and streams of that, for whom that is enough.
    fn kinds(&mut self) -> Vec<(u8, u32)> {
        self.sent().iter().map(|(head, _)| (head.kind, head.stream)).collect()
    }

    fn accept(&self) -> Option<crate::Request<Plain>> {
        crate::accept(&self.shared)
    }
}

fn frames(mut bytes: &[u8]) -> Vec<(Head, Vec<u8>)> {
    let mut frames = Vec::new();
    if let Some(rest) = bytes.strip_prefix(frame::PREFACE) {
        bytes = rest;
    }
    while let Some(head) = bytes.first_chunk().copied().map(Head::parse) {
        let end = HEAD + head.length as usize;
        frames.push((head, bytes[HEAD..end].to_vec()));
        bytes = &bytes[end..];
    }
    assert!(bytes.is_empty(), "only whole frames are written");
    frames
}

/// A task that is looked at: whether it was woken since.
#[derive(Default)]
struct Woken(std::sync::atomic::AtomicBool);

impl std::task::Wake for Woken {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

impl Woken {
    fn take(&self) -> bool {
        self.0.swap(false, std::sync::atomic::Ordering::Relaxed)
    }
}

/// A guard that counts, and has enough at some time.
#[derive(Debug, Default)]
struct Counted {
    frames: usize,
    resets: usize,
    most_resets: Option<usize>,
}

impl Guard for Counted {
    fn received(&mut self, _: &Head, _: u64) -> Result<(), &'static str> {
        self.frames += 1;
        Ok(())
    }

    fn has_to_reset(&mut self) -> Result<(), &'static str> {
        self.resets += 1;
        if self.most_resets.is_some_and(|most| self.resets > most) { Err("enough") } else { Ok(()) }
    }
}
