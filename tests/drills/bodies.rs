//! Long bodies, and sides that do not read them, or read slowly.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    Size,
    client::probe,
    figures::Figures,
    process,
    stage::{SECOND, gateway},
};

const MIB: u64 = 1 << 20;

/// A replica that answers with a body of `length` as fast as it is taken, and reads requests as fast as it may.
struct Bulk {
    address: SocketAddr,
    sent: Arc<AtomicU64>,
    received: Arc<AtomicU64>,
}

impl Bulk {
    async fn start(length: u64, reads: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there are ports");
        let address = listener.local_addr().expect("it is bound");
        let (sent, received) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let (sends, receives) = (Arc::clone(&sent), Arc::clone(&received));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(converse(stream, length, reads, Arc::clone(&sends), Arc::clone(&receives)));
            }
        });
        Self { address, sent, received }
    }
}

async fn converse(
    stream: TcpStream,
    length: u64,
    reads: bool,
    sent: Arc<AtomicU64>,
    received: Arc<AtomicU64>,
) -> Option<()> {
    let mut stream = BufReader::new(stream);
    let mut bytes = vec![0; 256 * 1024];
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.ok()?);
        }
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let mut left: u64 =
            head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
        if head.starts_with("get /x") {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.ok()?;
            continue;
        }
        if left > 0 && !reads {
            std::future::pending::<()>().await;
        }
        while left > 0 {
            let count = stream.read(&mut bytes).await.ok().filter(|count| *count > 0)? as u64;
            left -= count;
            received.fetch_add(count, Relaxed);
        }
        let length = if head.starts_with("post") { 0 } else { length };
        stream
            .write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n").as_bytes())
            .await
            .ok()?;
        let mut left = length;
        while left > 0 {
            let part = left.min(bytes.len() as u64) as usize;
            let count = stream.write(&bytes[..part]).await.ok()? as u64;
            left -= count;
            sent.fetch_add(count, Relaxed);
        }
    }
}

fn get(target: &str) -> Vec<u8> {
    format!("GET /orders{target} HTTP/1.1\r\nhost: gw\r\n\r\n").into_bytes()
}

fn post(length: u64) -> Vec<u8> {
    format!("POST /orders/up HTTP/1.1\r\nhost: gw\r\ncontent-length: {length}\r\n\r\n").into_bytes()
}

/// Waits until a number stays the same for a second.
async fn settled(read: impl Fn() -> u64) -> u64 {
    let mut last = read();
    for _ in 0..30 {
        sleep(SECOND).await;
        if std::mem::replace(&mut last, read()) == last && last > 0 {
            break;
        }
    }
    last
}

pub(crate) async fn unread(_: Size, figures: &mut Figures) {
    let replica = Bulk::start(64 * MIB, false).await;
    let (mut gateway, _directory) = gateway(&[replica.address], &[]).await;
    let (proxy, pid) = (gateway.address(), gateway.process().pid());
    let before = process::resident_kib(pid);
    let mut client = TcpStream::connect(proxy).await.expect("it listens");
    client.write_all(&get("/down")).await.expect("it reads heads");
    let taken = settled(|| replica.sent.load(Relaxed)).await;
    figures.at_most("64 MiB down, client not reading: MiB taken", 16, taken / MIB);
    let mut uploading = TcpStream::connect(proxy).await.expect("it listens");
    uploading.write_all(&post(64 * MIB)).await.expect("it reads heads");
    let (part, mut written) = (vec![0; 64 * 1024], 0);
    while written < 64 * MIB
        && let Ok(Ok(count)) = timeout(2 * SECOND, uploading.write(&part)).await
    {
        written += count as u64;
    }
    figures.at_most("64 MiB up, replica not reading: MiB taken", 16, written / MIB);
    figures.at_most("MiB of memory for both", 16, process::resident_kib(pid).saturating_sub(before) / 1024);
    drop((client, uploading));
}

pub(crate) async fn gibibyte(size: Size, figures: &mut Figures) {
    let length = size.of(1024, 128) * MIB;
    let replica = Bulk::start(length, true).await;
    let (mut gateway, _directory) = gateway(&[replica.address], &[]).await;
    let (proxy, pid) = (gateway.address(), gateway.process().pid());
    probe(proxy).await;
    let before = process::resident_kib(pid);
    let mut most = before;
    let mut client = TcpStream::connect(proxy).await.expect("it listens");
    let mut bytes = vec![0; 256 * 1024];
    client.write_all(&get("/down")).await.expect("it reads heads");
    let mut received = 0;
    while received < length {
        match client.read(&mut bytes).await {
            Ok(count) if count > 0 => received += count as u64,
            _ => break,
        }
        if received % (64 * MIB) < 256 * 1024 {
            most = most.max(process::resident_kib(pid));
        }
    }
    figures.hold(&format!("{} MiB down", length / MIB), received / MIB, received >= length);
    let mut client = TcpStream::connect(proxy).await.expect("it listens");
    client.write_all(&post(length)).await.expect("it reads heads");
    let mut left = length;
    while left > 0 {
        let part = left.min(bytes.len() as u64) as usize;
        if client.write_all(&bytes[..part]).await.is_err() {
            break;
        }
        left -= part as u64;
        if left % (64 * MIB) < 256 * 1024 {
            most = most.max(process::resident_kib(pid));
        }
    }
    let mut answer = [0; 12];
    let answered = client.read_exact(&mut answer).await.is_ok() && answer.ends_with(b"200");
    let arrived = replica.received.load(Relaxed);
    figures.hold(&format!("{} MiB up", length / MIB), arrived / MIB, answered && arrived >= length);
    figures.at_most("MiB of memory more, at the most", 16, (most - before) / 1024);
}

/// Clients that take, or give, some bytes a second.
pub(crate) async fn slow_clients(size: Size, figures: &mut Figures) {
    let replica = Bulk::start(MIB, true).await;
    let (mut gateway, _directory) = gateway(&[replica.address], &[]).await;
    let (proxy, pid, count) = (gateway.address(), gateway.process().pid(), size.of(1000, 200));
    probe(proxy).await;
    let before = process::resident_kib(pid);
    let mut clients = JoinSet::new();
    let steps = size.of(10, 4);
    for number in 0..2 * count {
        clients.spawn(async move {
            // Not all at once: that would be another drill.
            sleep(Duration::from_millis(2 * number as u64)).await;
            let mut stream = TcpStream::connect(proxy).await.ok()?;
            let first = if number % 2 == 0 { get("/down") } else { post(steps * 100) };
            stream.write_all(&first).await.ok()?;
            let mut some = [0; 1000];
            for _ in 0..steps {
                if number % 2 == 0 {
                    stream.read(&mut some).await.ok().filter(|count| *count > 0)?;
                } else {
                    stream.write_all(&[0; 100]).await.ok()?;
                }
                sleep(SECOND).await;
            }
            if number % 2 == 1 {
                stream.read_exact(&mut some[..12]).await.ok()?;
                return some[..12].ends_with(b"200").then_some(());
            }
            Some(())
        });
    }
    sleep(SECOND * 2).await;
    let mut times = Vec::new();
    let mut good = 0;
    for _ in 0..20 {
        let fate = probe(proxy).await;
        good += usize::from(fate.status == Some(200));
        times.push(fate.took);
        sleep(Duration::from_millis(50)).await;
    }
    let mib = process::resident_kib(pid).saturating_sub(before) / 1024;
    let mut served = 0;
    while let Some(client) = clients.join_next().await {
        served += usize::from(client.is_ok_and(|client| client.is_some()));
    }
    figures.hold(
        &format!("served of {count} slow readers and as many slow writers"),
        served,
        served == 2 * count,
    );
    figures.hold("probes meanwhile, of 20", good, good == 20);
    figures.swift(
        "the slowest of them",
        Duration::from_millis(100),
        times.into_iter().max().unwrap_or_default(),
    );
    figures.at_most("KiB of memory for each", 512, mib * 1024 / (2 * count as u64));
}
