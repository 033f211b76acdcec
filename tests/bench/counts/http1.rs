//! Messages of HTTP/1.1 with a length, one after the other, and a client that asks for one at a time.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
};

use anyhow::{Context, Result, ensure};

use crate::process::Threads;

/// What comes on a connection.
#[derive(Debug)]
pub(crate) struct Messages {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// A connection to the data plane.
#[derive(Debug)]
pub(crate) struct Client {
    messages: Messages,
    threads: Threads,
}

impl Messages {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    pub(crate) fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// The next one's first line, once all of it is there; `None` when the other side has closed.
    pub(crate) fn read(&mut self) -> Result<Option<String>> {
        loop {
            if let Some(end) = memchr::memmem::find(&self.buffer, b"\r\n\r\n") {
                let head = std::str::from_utf8(&self.buffer[..end])?;
                let field = |line: &str| {
                    line.to_ascii_lowercase().strip_prefix("content-length: ").map(str::to_owned)
                };
                let length: usize = head.lines().find_map(field).map_or(Ok(0), |length| length.parse())?;
                if self.buffer.len() >= end + 4 + length {
                    let line = head.lines().next().unwrap_or_default().to_owned();
                    self.buffer.drain(..end + 4 + length);
                    return Ok(Some(line));
                }
            }
            let mut more = [0; 16 << 10];
            let read = self.stream.read(&mut more)?;
            if read == 0 {
                return Ok(None);
            }
            self.buffer.extend_from_slice(&more[..read]);
        }
    }
}

impl Client {
    pub(crate) fn connect(address: SocketAddr, threads: Threads) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        threads.asleep()?;
        Ok(Self { messages: Messages::new(stream), threads })
    }

    /// Asks, and waits for the answer and until the data plane sleeps again.
    pub(crate) fn ask(&mut self, request: &[u8]) -> Result<()> {
        self.messages.stream().write_all(request)?;
        let answer = self.messages.read()?.context("the data plane closed before it answered")?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "the data plane answered {answer:?}");
        self.threads.asleep()
    }
}
