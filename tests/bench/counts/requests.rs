//! What the data plane does for one request, by kind of request.

use std::path::Path;

use anyhow::Result;

use crate::{Counts, dump::Dump, http1, http2, process::DataPlane, replicas::Replicas};

const HOST: &str = "bench.localhost";
/// Of these the cheapest counts: what happens by the clock and not by request makes the others dearer.
const BATCHES: usize = 3;

/// Counts for requests of each kind.
pub(crate) fn count(programs: &Path, place: &Path, requests: usize) -> Result<Counts> {
    let replicas = Replicas::start(3)?;
    let data_plane = DataPlane::start(&programs.join("gw-data-plane"), place, replicas.addresses())?;
    let (address, threads) = (data_plane.address(), data_plane.threads());
    replicas.wait_for(threads);
    let mut batches = Batches { data_plane, requests, counts: Counts::new() };

    let get = head("GET", "");
    let mut client = http1::Client::connect(address, threads)?;
    batches.count("GET", || client.ask(&get))?;

    let mut post = head("POST", "Content-Length: 10240\r\n");
    post.resize(post.len() + 10240, b'x');
    let mut client = http1::Client::connect(address, threads)?;
    batches.count("POST 10 KiB", || client.ask(&post))?;

    let mut client = http2::Client::connect(address, threads, HOST)?;
    batches.count("HTTP/2 GET", || client.ask())?;

    batches.count("GET, new connection", || {
        http1::Client::connect(address, threads)?.ask(&get)?;
        // It is closed now, which the data plane has to do with, too.
        threads.asleep()
    })?;
    Ok(batches.counts)
}

struct Batches {
    data_plane: DataPlane,
    requests: usize,
    counts: Counts,
}

impl Batches {
    /// Counts several batches of one kind, and adds the least of each figure.
    fn count(&mut self, kind: &str, mut ask: impl FnMut() -> Result<()>) -> Result<()> {
        // Connections to replicas are there then, and what is allocated once.
        (0..20).try_for_each(|_| ask())?;
        self.data_plane.dump("before")?;
        let mut batches = Vec::new();
        for _ in 0..BATCHES {
            (0..self.requests).try_for_each(|_| ask())?;
            batches.push(self.data_plane.dump(&kind.replace([' ', ',', '/'], "-"))?);
        }
        let mut least = |figure: &str, of: fn(&Dump) -> u64| {
            let least = batches.iter().map(of).min().unwrap_or_default();
            self.counts.push((format!("{kind}: {figure}"), least as f64 / self.requests as f64));
        };
        least("instructions", |batch| batch.instructions);
        least("allocations", |batch| batch.allocations);
        least("system calls", Dump::system_calls);
        least("looks at the clock", Dump::looks_at_the_clock);
        Ok(())
    }
}

fn head(method: &str, more: &str) -> Vec<u8> {
    format!("{method} / HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: bench\r\nAccept: */*\r\n{more}\r\n")
        .into_bytes()
}
