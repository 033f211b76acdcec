//! As much of HTTP/2 as a client needs that asks for one thing at a time, and a replica that answers calls of gRPC. Neither
//! sends what is not needed.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
};

use anyhow::{Result, ensure};

use crate::process::Threads;

const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Of the static table (RFC 7541 appendix A), indexed.
const GET: u8 = 0x82;
const POST: u8 = 0x83;
const ROOT: u8 = 0x84;
const HTTP: u8 = 0x86;
const STATUS_200: u8 = 0x88;

/// A message of gRPC: its prefix and 100 bytes.
const MESSAGE: [u8; 105] = {
    let mut message = [b'x'; 105];
    (message[0], message[1], message[2], message[3], message[4]) = (0, 0, 0, 0, 100);
    message
};

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Call {
    Get,
    Grpc,
}

/// A client's connection to the data plane.
#[derive(Debug)]
pub(crate) struct Client {
    frames: Frames,
    call: Call,
    /// Of the next stream.
    id: u32,
    head: Vec<u8>,
    threads: Threads,
}

impl Client {
    /// Connects, with a window that answers do not fill.
    pub(crate) fn connect(address: SocketAddr, threads: Threads, host: &str, call: Call) -> Result<Self> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.write_all(&[PREFACE, &beginning()[..]].concat())?;
        let head = match call {
            Call::Get => {
                [&[GET, HTTP, ROOT][..], &fields(&[(":authority", host), ("accept", "*/*")])].concat()
            }
            Call::Grpc => {
                let fields = fields(&[
                    (":path", "/bench.Echo/Unary"),
                    (":authority", host),
                    ("content-type", "application/grpc"),
                    ("te", "trailers"),
                ]);
                [&[POST, HTTP][..], &fields].concat()
            }
        };
        threads.asleep()?;
        Ok(Self { frames: Frames(stream), call, id: 1, head, threads })
    }

    /// Asks, and waits for the answer and until the data plane sleeps again.
    pub(crate) fn ask(&mut self) -> Result<()> {
        let request = match self.call {
            Call::Get => frame(HEADERS, END_HEADERS | END_STREAM, self.id, &self.head),
            Call::Grpc => {
                let head = frame(HEADERS, END_HEADERS, self.id, &self.head);
                [head, frame(DATA, END_STREAM, self.id, &MESSAGE)].concat()
            }
        };
        self.frames.0.write_all(&request)?;
        let (mut heads, mut bytes) = (0, 0);
        loop {
            let Frame { kind, flags, stream, payload } = self.frames.next()?;
            ensure!(stream == self.id, "a frame of type {kind} came for stream {stream}");
            match kind {
                HEADERS if heads == 0 => {
                    ensure!(payload.first() == Some(&STATUS_200), "the data plane answered {payload:?}");
                    heads += 1;
                }
                // Trailers.
                HEADERS => heads += 1,
                DATA => bytes += payload.len(),
                _ => anyhow::bail!("the data plane sent a frame of type {kind}: {payload:?}"),
            }
            if flags & END_STREAM != 0 {
                break;
            }
        }
        // The gateway's own word would be one head and no message.
        let expected = match self.call {
            Call::Get => (1, 100),
            Call::Grpc => (2, MESSAGE.len()),
        };
        ensure!((heads, bytes) == expected, "the answer had {heads} heads and {bytes} bytes");
        self.id += 2;
        self.threads.asleep()
    }
}

/// Answers calls on a connection to a replica, each once `may_answer` returns.
pub(crate) fn answer(mut stream: TcpStream, may_answer: impl Fn() -> Result<()>) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut preface = *PREFACE;
    stream.read_exact(&mut preface)?;
    stream.write_all(&beginning())?;
    let mut frames = Frames(stream);
    let head = [&[STATUS_200][..], &fields(&[("content-type", "application/grpc")])].concat();
    let trailers = fields(&[("grpc-status", "0")]);
    loop {
        let Frame { flags, stream, .. } = frames.next()?;
        if flags & END_STREAM == 0 {
            continue;
        }
        may_answer()?;
        let answer = [
            frame(HEADERS, END_HEADERS, stream, &head),
            frame(DATA, 0, stream, &MESSAGE),
            frame(HEADERS, END_HEADERS | END_STREAM, stream, &trailers),
        ];
        frames.0.write_all(&answer.concat())?;
    }
}

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

#[derive(Debug)]
struct Frames(TcpStream);

impl Frames {
    /// The next of a stream. Answers what has to be answered meanwhile.
    fn next(&mut self) -> Result<Frame> {
        loop {
            let mut prefix = [0; 9];
            self.0.read_exact(&mut prefix)?;
            let [a, b, c, kind, flags, stream @ ..] = prefix;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            self.0.read_exact(&mut payload)?;
            match kind {
                SETTINGS if flags & ACK == 0 => self.0.write_all(&frame(SETTINGS, ACK, 0, &[]))?,
                PING if flags & ACK == 0 => self.0.write_all(&frame(PING, ACK, 0, &payload))?,
                SETTINGS | PING | WINDOW_UPDATE => {}
                _ => return Ok(Frame { kind, flags, stream: u32::from_be_bytes(stream), payload }),
            }
        }
    }
}

/// Settings, all of them the default, and a window for the connection that nothing here fills.
fn beginning() -> Vec<u8> {
    [frame(SETTINGS, 0, 0, &[]), frame(WINDOW_UPDATE, 0, 0, &(1_u32 << 30).to_be_bytes())].concat()
}

/// Literals that nobody is to keep, short and not compressed.
fn fields(pairs: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in pairs {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).expect("they are short"));
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("payloads are small").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}
