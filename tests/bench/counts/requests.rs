//! What the data plane does for one request, by kind of request.

use std::{
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::{
    Counts,
    dump::Dump,
    http1,
    http2::{self, Call},
    process::DataPlane,
    replicas::Replicas,
};

const HOST: &str = "bench.localhost";
/// Of these the cheapest counts: what happens seldom makes the others dearer.
const BATCHES: usize = 3;
/// How long is looked at what happens by the clock and not by request. It is taken away from what batches come to, which
/// take longer where the machine has other work.
const IDLE: Duration = Duration::from_secs(2);

/// Counts for requests of each kind.
pub(crate) fn count(programs: &Path, place: &Path, requests: usize) -> Result<Counts> {
    let replicas = Replicas::start(3)?;
    let data_plane = DataPlane::start(&programs.join("gw-data-plane"), place, &replicas)?;
    let (address, threads) = (data_plane.address(), data_plane.threads());
    replicas.wait_for(threads);
    let mut batches = Batches { data_plane, requests, counted: Vec::new() };

    let get = head("GET", "");
    let mut client = http1::Client::connect(address, threads)?;
    batches.count("GET", || client.ask(&get))?;

    let mut post = head("POST", "Content-Length: 10240\r\n");
    post.resize(post.len() + 10240, b'x');
    let mut client = http1::Client::connect(address, threads)?;
    batches.count("POST 10 KiB", || client.ask(&post))?;

    let mut client = http2::Client::connect(address, threads, HOST, Call::Get)?;
    batches.count("HTTP/2 GET", || client.ask())?;

    let mut client = http2::Client::connect(address, threads, "grpc.localhost", Call::Grpc)?;
    batches.count("gRPC call", || client.ask())?;

    batches.count("GET, new connection", || {
        http1::Client::connect(address, threads)?.ask(&get)?;
        // It is closed now, which the data plane has to do with, too.
        threads.asleep()
    })?;
    batches.finish()
}

/// What is counted, and how much of it in one dump.
type Figure = (&'static str, fn(&Dump) -> u64);

const FIGURES: [Figure; 4] = [
    ("instructions", |batch| batch.instructions),
    ("allocations", |batch| batch.allocations),
    ("system calls", Dump::system_calls),
    ("looks at the clock", Dump::looks_at_the_clock),
];

/// One batch: each figure, and how many seconds it took.
type Batch = ([f64; FIGURES.len()], f64);

struct Batches {
    data_plane: DataPlane,
    requests: usize,
    counted: Vec<(&'static str, Vec<Batch>)>,
}

impl Batches {
    /// Counts several batches of one kind.
    fn count(&mut self, kind: &'static str, mut ask: impl FnMut() -> Result<()>) -> Result<()> {
        // Connections to replicas are there then, and what is allocated once; and the first time there is no doubt which thread
        // answers.
        let warm = if self.counted.is_empty() { self.requests } else { 20 };
        (0..warm).try_for_each(|_| ask())?;
        self.data_plane.dump("before")?;
        let requests = self.requests;
        let name = kind.replace([' ', ',', '/'], "-");
        let batches = (0..BATCHES).map(|_| self.batch(&name, || (0..requests).try_for_each(|_| ask())));
        let batches = batches.collect::<Result<_>>()?;
        self.counted.push((kind, batches));
        Ok(())
    }

    fn batch(&mut self, name: &str, run: impl FnOnce() -> Result<()>) -> Result<Batch> {
        let began = Instant::now();
        run()?;
        let seconds = began.elapsed().as_secs_f64();
        let dump = self.data_plane.dump(name)?;
        Ok((FIGURES.map(|(_, of)| of(&dump) as f64), seconds))
    }

    /// The least of each figure, for one request. By now the data plane has nothing to do but what it does by the clock.
    fn finish(mut self) -> Result<Counts> {
        self.data_plane.dump("before")?;
        let (idle, seconds) = self.batch("idle", || {
            sleep(IDLE);
            Ok(())
        })?;
        let by_the_clock = idle.map(|idle| idle / seconds);
        let mut counts = Counts::new();
        for (kind, batches) in self.counted {
            for (place, (figure, _)) in FIGURES.iter().enumerate() {
                let net = |(figures, seconds): &Batch| figures[place] - by_the_clock[place] * seconds;
                let least = batches.iter().map(net).fold(f64::INFINITY, f64::min).max(0.0);
                counts.push((format!("{kind}: {figure}"), least / self.requests as f64));
            }
        }
        Ok(counts)
    }
}

fn head(method: &str, more: &str) -> Vec<u8> {
    format!("{method} / HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: bench\r\nAccept: */*\r\n{more}\r\n")
        .into_bytes()
}
