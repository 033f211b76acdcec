//! The process at the edge of what the machine gives it.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test that called it")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// A data plane that may have so many files open; killed when dropped.
struct Limited {
    process: Child,
    ready: String,
}

impl Limited {
    fn start(files: u32, workers: u32, replica: SocketAddr) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let services = directory.path().join("services.toml");
        let text = format!("[[service]]\nname = 'orders'\nreplicas = ['{replica}']\n");
        std::fs::write(&services, text).unwrap();
        let mut process = Command::new("sh")
            // The soft limit first: it may not be above the hard one.
            .args(["-c", &format!("ulimit -Sn {}; ulimit -Hn {files}; exec \"$0\" \"$@\"", files.min(256))])
            .arg(env!("CARGO_BIN_EXE_gw-data-plane"))
            .args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--log", "off"])
            .args(["--workers", &workers.to_string(), "--static"])
            .arg(&services)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut ready = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        Self { process, ready }
    }

    #[cfg(target_os = "linux")]
    /// Most files that it may have open, as the system sees it.
    fn open_file_limit(&self) -> String {
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", self.process.id())).unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        line.split_whitespace().nth(3).unwrap().to_owned()
    }

    #[cfg(target_os = "linux")]
    /// Bytes of memory that it has in use.
    fn resident(&self) -> u64 {
        let pages = std::fs::read_to_string(format!("/proc/{}/statm", self.process.id())).unwrap();
        pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
    }

    fn listen(&self) -> SocketAddr {
        let ready: serde_json::Value = serde_json::from_str(&self.ready).expect(&self.ready);
        ready["listen"].as_str().unwrap().parse().unwrap()
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A replica that answers one request on each connection.
fn replica() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok");
        }
    });
    address
}

/// Looks until there is something to see, for a minute at most: a busy machine may stand still for long.
fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "never happened: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What comes within a moment.
fn answer(stream: &mut TcpStream) -> String {
    answer_within(stream, Duration::from_millis(500))
}

fn answer_within(stream: &mut TcpStream, time: Duration) -> String {
    stream.set_read_timeout(Some(time)).unwrap();
    let mut bytes = [0; 4096];
    let count = stream.read(&mut bytes).unwrap_or(0);
    String::from_utf8_lossy(&bytes[..count]).into_owned()
}

#[test]
fn without_a_free_file_descriptor_the_gateway_says_so_and_blames_no_replica() {
    let gateway = Limited::start(40, 1, replica());
    let connect = || TcpStream::connect(gateway.listen()).unwrap();
    let mut clients: Vec<_> = (0..30).map(|_| connect()).collect();
    for client in &mut clients {
        client.write_all(b"GET /orders/ HTTP/1.1\r\nhost: gw\r\n").unwrap();
    }
    // Once none is left to accept with, none is left to reach a replica with.
    assert_eq!(answer(clients.last_mut().unwrap()), "");
    let mut refused = 0;
    for client in &mut clients[..20] {
        client.write_all(b"\r\n").unwrap();
        let answer = answer(client);
        assert!(!answer.starts_with("HTTP/1.1 502"), "a replica is blamed: {answer}");
        if answer.starts_with("HTTP/1.1 503") {
            assert!(answer.contains("\"reason\":\"gateway_exhausted\""), "{answer}");
            assert!(answer.contains("retry-after: 1\r\n"), "{answer}");
            refused += 1;
        }
    }
    assert!(refused >= 5, "enough to open a breaker: {refused}");
    drop(clients);
    let mut client = connect();
    client.write_all(b"GET /orders/ HTTP/1.1\r\nhost: gw\r\n\r\n").unwrap();
    let answer = answer(&mut client);
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
}

#[test]
fn a_worker_that_cannot_start_ends_the_process_with_a_failure() {
    // As few as bind every listener leave none for the event loops of so many workers.
    let mut gateway = (10..)
        .map(|files| Limited::start(files, 8, replica()))
        .find(|gateway| !gateway.ready.is_empty())
        .expect("with enough of them it starts");
    let ended = || gateway.process.try_wait().unwrap();
    let status = eventually("it does not go on with the workers that could start", ended);
    assert_eq!(status.code(), Some(1));
}

#[test]
#[cfg(target_os = "linux")]
fn the_process_may_open_as_many_files_as_its_hard_limit_allows() {
    let data_plane = Limited::start(512, 1, replica());
    assert_eq!(data_plane.open_file_limit(), "512");
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend_from_slice(&[kind, flags]);
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// A replica whose answers have no end, and how many of them were sent as far as that.
fn endless_replica(as_far_as: usize) -> (SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let count = Arc::<AtomicU64>::default();
    let counted = Arc::clone(&count);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, counted) = (stream.unwrap(), Arc::clone(&counted));
            std::thread::spawn(move || {
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n");
                let mut sent = 0;
                while stream.write_all(&[b'x'; 4096]).is_ok() {
                    sent += 4096;
                    if sent == as_far_as {
                        counted.fetch_add(1, Relaxed);
                    }
                }
            });
        }
    });
    (address, count)
}

#[test]
#[cfg(target_os = "linux")]
fn clients_that_read_nothing_hold_a_bounded_share_of_memory() {
    const CONNECTIONS: u64 = 10;
    const STREAMS: u32 = 20;
    let streams = CONNECTIONS * u64::from(STREAMS);
    // As much as one stream may hold, and the system takes more.
    let (replica, full) = endless_replica(256 << 10);
    let gateway = Limited::start(4096, 1, replica);
    let before = gateway.resident();
    let attack = || {
        let mut stream = TcpStream::connect(gateway.listen()).unwrap();
        // Windows as wide as they get.
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend(frame(4, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]));
        bytes.extend(frame(8, 0, 0, &0x7000_0000_u32.to_be_bytes()));
        for number in 0..STREAMS {
            bytes.extend(frame(1, 5, 2 * number + 1, b"\x82\x86\x01\x02gw\x04\x08/orders/"));
        }
        stream.write_all(&bytes).unwrap();
        stream
    };
    let attackers: Vec<_> = (0..CONNECTIONS).map(|_| attack()).collect();
    eventually("all are as far as they get", || (full.load(Relaxed) >= streams).then_some(()));
    // What is held grows no more, for which there is no other sign than that.
    let (mut held, mut since) = (0, Instant::now());
    eventually("what is held comes to rest", || {
        let now = gateway.resident().saturating_sub(before);
        if now > held + (256 << 10) {
            (held, since) = (now, Instant::now());
        }
        held = held.max(now);
        (since.elapsed() > Duration::from_millis(1500)).then_some(())
    });
    assert!(held / streams < 300 << 10, "{} KiB for each stream", held / streams / 1024);
    let mut client = TcpStream::connect(gateway.listen()).unwrap();
    client.write_all(b"GET /orders/ HTTP/1.1\r\nhost: gw\r\n\r\n").unwrap();
    let answer = answer_within(&mut client, Duration::from_secs(20));
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "others are served meanwhile: {answer}");
    drop(attackers);
}
