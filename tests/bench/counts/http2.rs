//! A client of HTTP/2 that asks for one thing at a time and sends nothing that is not needed for it.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
};

use anyhow::{Result, ensure};

use crate::process::Threads;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// `:status: 200` of the static table (RFC 7541 appendix A), indexed.
const STATUS_200: u8 = 0x88;

/// A connection to the data plane.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    /// Of the next stream.
    id: u32,
    head: Vec<u8>,
    threads: Threads,
}

impl Client {
    /// Connects, with a window that answers do not fill.
    pub(crate) fn connect(address: SocketAddr, threads: Threads, host: &str) -> Result<Self> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let window = frame(WINDOW_UPDATE, 0, 0, &(1_u32 << 30).to_be_bytes());
        stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[]), &window].concat())?;
        // GET, http and / of the static table, and fields that are literals which nobody is to keep.
        let mut head = vec![0x82, 0x86, 0x84];
        for (name, value) in [(":authority", host), ("user-agent", "bench"), ("accept", "*/*")] {
            head.push(0);
            for text in [name, value] {
                head.push(u8::try_from(text.len())?);
                head.extend_from_slice(text.as_bytes());
            }
        }
        threads.asleep()?;
        Ok(Self { stream, id: 1, head, threads })
    }

    /// Asks, and waits for the answer and until the data plane sleeps again.
    pub(crate) fn ask(&mut self) -> Result<()> {
        self.stream.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, self.id, &self.head))?;
        loop {
            let mut prefix = [0; 9];
            self.stream.read_exact(&mut prefix)?;
            let [a, b, c, kind, flags, stream @ ..] = prefix;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            self.stream.read_exact(&mut payload)?;
            let is_ours = u32::from_be_bytes(stream) == self.id;
            match kind {
                SETTINGS if flags & ACK == 0 => self.stream.write_all(&frame(SETTINGS, ACK, 0, &[]))?,
                PING if flags & ACK == 0 => self.stream.write_all(&frame(PING, ACK, 0, &payload))?,
                SETTINGS | PING | WINDOW_UPDATE => {}
                HEADERS if is_ours => {
                    ensure!(payload.first() == Some(&STATUS_200), "the data plane answered {payload:?}");
                }
                DATA if is_ours => {}
                _ => anyhow::bail!("the data plane sent a frame of type {kind}: {payload:?}"),
            }
            if is_ours && matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
                break;
            }
        }
        self.id += 2;
        self.threads.asleep()
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("payloads are small").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}
