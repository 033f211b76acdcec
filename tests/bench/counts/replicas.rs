//! Replicas that answer each request when the data plane sleeps, and so has done all that it does before an answer.

use std::{
    io::Write,
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, OnceLock},
    thread,
};

use anyhow::{Context, Result};

use crate::{http1::Messages, process::Threads};

/// What they answer.
const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100\r\n\r\n";

/// Servers on ports of their own, until the process ends.
#[derive(Debug)]
pub(crate) struct Replicas {
    addresses: Vec<SocketAddr>,
    /// Of the data plane, which starts after them.
    threads: Arc<OnceLock<Threads>>,
}

impl Replicas {
    pub(crate) fn start(count: usize) -> Result<Self> {
        let threads = Arc::new(OnceLock::new());
        let listeners: Vec<_> =
            (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
        let addresses = listeners.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?;
        for listener in listeners {
            let threads = Arc::clone(&threads);
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let threads = Arc::clone(&threads);
                    // Whoever closes a connection ends it.
                    thread::spawn(move || serve(stream, &threads));
                }
            });
        }
        Ok(Self { addresses, threads })
    }

    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// From now on answers wait for these.
    pub(crate) fn wait_for(&self, threads: Threads) {
        self.threads.set(threads).expect("one data plane a run");
    }
}

fn serve(stream: TcpStream, threads: &OnceLock<Threads>) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut answer = ANSWER.as_bytes().to_vec();
    answer.resize(answer.len() + 100, b'x');
    let mut messages = Messages::new(stream);
    while messages.read()?.is_some() {
        threads.get().context("the data plane is known before it is asked")?.asleep()?;
        messages.stream().write_all(&answer)?;
    }
    Ok(())
}
