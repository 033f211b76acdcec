//! Replicas that answer each request when the data plane sleeps, and so has done all that it does before an answer.

use std::{
    io::Write,
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, OnceLock},
    thread,
};

use anyhow::{Context, Result};

use crate::{http1::Messages, http2, process::Threads};

/// What they answer.
const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100\r\n\r\n";

/// Servers on ports of their own, until the process ends.
#[derive(Debug)]
pub(crate) struct Replicas {
    addresses: Vec<SocketAddr>,
    grpc_addresses: Vec<SocketAddr>,
    /// Of the data plane, which starts after them.
    threads: Arc<OnceLock<Threads>>,
}

impl Replicas {
    /// Starts so many that speak HTTP/1.1, and as many that answer calls of gRPC.
    pub(crate) fn start(count: usize) -> Result<Self> {
        let threads = Arc::new(OnceLock::new());
        let start = |serve| (0..count).map(|_| listen(&threads, serve)).collect::<Result<Vec<_>>>();
        let (addresses, grpc_addresses) = (start(serve)?, start(serve_calls)?);
        Ok(Self { addresses, grpc_addresses, threads })
    }

    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    pub(crate) fn grpc_addresses(&self) -> &[SocketAddr] {
        &self.grpc_addresses
    }

    /// From now on answers wait for these.
    pub(crate) fn wait_for(&self, threads: Threads) {
        self.threads.set(threads).expect("one data plane a run");
    }
}

/// What becomes of a connection. Whoever closes it ends it.
type Serve = fn(TcpStream, &OnceLock<Threads>) -> Result<()>;

fn listen(threads: &Arc<OnceLock<Threads>>, serve: Serve) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let (address, threads) = (listener.local_addr()?, Arc::clone(threads));
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let threads = Arc::clone(&threads);
            thread::spawn(move || serve(stream, &threads));
        }
    });
    Ok(address)
}

fn asleep(threads: &OnceLock<Threads>) -> Result<()> {
    threads.get().context("the data plane is known before it is asked")?.asleep()
}

fn serve_calls(stream: TcpStream, threads: &OnceLock<Threads>) -> Result<()> {
    http2::answer(stream, || asleep(threads))
}

fn serve(stream: TcpStream, threads: &OnceLock<Threads>) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut answer = ANSWER.as_bytes().to_vec();
    answer.resize(answer.len() + 100, b'x');
    let mut messages = Messages::new(stream);
    while messages.read()?.is_some() {
        asleep(threads)?;
        messages.stream().write_all(&answer)?;
    }
    Ok(())
}
