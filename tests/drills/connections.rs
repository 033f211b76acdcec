//! Many connections: idle ones, such that never finish a request, more than there are descriptors for.

use std::{
    net::SocketAddr,
    process::Command,
    time::{Duration, Instant},
};

use gateway_tests::{Process, binaries};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::{
    Size,
    client::{load, percentile, probe},
    figures::Figures,
    process,
    stage::{SECOND, Stage},
};

const GET: &[u8] = b"GET /orders/x HTTP/1.1\r\nhost: gw\r\n\r\n";

/// Connects so many, each of which sends `first` and waits for an answer if that is a request.
async fn connect(address: SocketAddr, count: usize, first: &[u8]) -> (Vec<TcpStream>, u64) {
    let (mut streams, mut failed) = (Vec::with_capacity(count), 0);
    for _ in 0..count {
        let connected = async {
            let mut stream = TcpStream::connect(address).await?;
            stream.write_all(first).await?;
            if first.ends_with(b"\r\n\r\n") {
                let mut answer = [0; 1024];
                if stream.read(&mut answer).await? == 0 {
                    return Err(std::io::ErrorKind::UnexpectedEof.into());
                }
            }
            Ok::<_, std::io::Error>(stream)
        };
        match timeout(10 * SECOND, connected).await {
            Ok(Ok(stream)) => streams.push(stream),
            _ => failed += 1,
        }
    }
    (streams, failed)
}

/// Requests one after the other, each on a connection of its own.
async fn probes(address: SocketAddr, count: usize) -> (usize, Vec<Duration>) {
    let (mut good, mut times) = (0, Vec::new());
    for _ in 0..count {
        let fate = probe(address).await;
        good += usize::from(fate.status == Some(200));
        times.push(fate.took);
        sleep(Duration::from_millis(10)).await;
    }
    (good, times)
}

pub(crate) async fn idle(size: Size, figures: &mut Figures) {
    let mut stage = Stage::start(&[]).await;
    let (proxy, pid, count) = (stage.proxy(), stage.pid(), size.of(8500, 1000));
    load(proxy, 100, SECOND).await;
    let before = process::resident_kib(pid);
    let (streams, failed) = connect(proxy, count, GET).await;
    figures.at_most(&format!("connects failed of {count}"), 0, failed);
    let each = (process::resident_kib(pid).saturating_sub(before)) as f64 / streams.len().max(1) as f64;
    figures.hold("KiB each <= 16", format!("{each:.1}"), each <= 16.0);
    let (good, times) = probes(proxy, 200).await;
    figures.hold("probes answered of 200", good, good == 200);
    figures.swift("their p99", Duration::from_millis(6), percentile(times, 0.99));
}

pub(crate) async fn partial(size: Size, figures: &mut Figures) {
    let head_timeout = SECOND * size.of(10, 2);
    let flag = format!("{}s", head_timeout.as_secs());
    let stage = Stage::start(&["--head-timeout", &flag, "--begin-timeout", &flag]).await;
    let proxy = stage.proxy();
    let (silent, one) = connect(proxy, 500, b"").await;
    let (halves, two) = connect(proxy, 500, b"GET /orders/x HTTP/1.1\r\nhost: g").await;
    figures.at_most("connects failed of 1000", 0, one + two);
    // A byte a second, for ever.
    let slowloris = tokio::spawn(async move {
        let began = Instant::now();
        let Ok(mut stream) = TcpStream::connect(proxy).await else { return began.elapsed() };
        let _ = stream.write_all(b"GET /orders/x HTTP/1.1\r\nx-slow: ").await;
        let mut answer = [0; 1024];
        loop {
            match timeout(SECOND, stream.read(&mut answer)).await {
                Ok(_) => return began.elapsed(),
                Err(_) if stream.write_all(b"a").await.is_err() => return began.elapsed(),
                Err(_) => {}
            }
        }
    });
    let (good, times) = probes(proxy, 10).await;
    figures.hold("probes answered of 10", good, good == 10);
    figures.swift("the slowest", Duration::from_millis(100), times.into_iter().max().unwrap_or_default());
    let cut = timeout(10 * head_timeout, slowloris).await.ok().and_then(Result::ok);
    figures.within("slowloris is cut", 2 * head_timeout + 4 * SECOND, cut.unwrap_or(Duration::MAX));
    drop((silent, halves));
}

pub(crate) async fn descriptors(_: Size, figures: &mut Figures) {
    let stage = Stage::start(&[]).await;
    let program = binaries::data_plane();
    let mut command = Command::new("bash");
    command.args(["-c", "ulimit -n 256; exec \"$0\" \"$@\""]).arg(program.get_program());
    command.args(["--static".as_ref(), stage.list.as_os_str()]);
    command.args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
    let mut gateway = Process::spawn("data-plane", &mut command);
    let ready = gateway.ready().await;
    let proxy: SocketAddr = ready["listen"].as_str().and_then(|text| text.parse().ok()).expect("it listens");
    // More than it has descriptors for; those that it does not accept wait in the queue.
    let mut streams = Vec::new();
    for _ in 0..400 {
        if let Ok(Ok(stream)) = timeout(SECOND, TcpStream::connect(proxy)).await {
            streams.push(stream);
        }
    }
    sleep(SECOND).await;
    let before = process::cpu(gateway.pid());
    let spell = 3 * SECOND;
    sleep(spell).await;
    let share = (process::cpu(gateway.pid()) - before).as_secs_f64() / spell.as_secs_f64() * 100.0;
    figures.hold("processor while it lasts <= 50 %", format!("{share:.0} %"), share <= 50.0);
    drop(streams);
    let relief = Instant::now();
    loop {
        let answered = timeout(SECOND / 4, probe(proxy)).await;
        if answered.is_ok_and(|fate| fate.status == Some(200)) || relief.elapsed() > 20 * SECOND {
            break;
        }
    }
    figures.within("answers again after relief", SECOND, relief.elapsed());
    figures.hold("it still runs", gateway.is_running(), gateway.is_running());
}

/// Idle ones and busy ones at once.
pub(crate) async fn crowd(size: Size, figures: &mut Figures) {
    let mut stage = Stage::start(&["--max-connections", "15000"]).await;
    let (proxy, pid) = (stage.proxy(), stage.pid());
    let (idle, busy) = size.of((10_000, 2000), (1000, 200));
    let before = process::resident_kib(pid);
    let (streams, failed) = connect(proxy, idle, GET).await;
    figures.at_most(&format!("connects failed of {idle}"), 0, failed);
    let mut clients = tokio::task::JoinSet::new();
    let until = Instant::now() + SECOND * size.of(10, 3);
    for _ in 0..busy {
        clients.spawn(async move {
            let mut good = 0_u64;
            let Ok(mut stream) = TcpStream::connect(proxy).await else { return (0, 1) };
            let mut answer = [0; 1024];
            while Instant::now() < until {
                let asked = async {
                    stream.write_all(GET).await.ok()?;
                    let count = stream.read(&mut answer).await.ok()?;
                    answer[..count].starts_with(b"HTTP/1.1 200").then_some(())
                };
                match asked.await {
                    Some(()) => good += 1,
                    None => return (good, 1_u64),
                }
                sleep(Duration::from_millis(200)).await;
            }
            (good, 0)
        });
    }
    let (mut good, mut bad) = (0, 0);
    while let Some(Ok((more, worse))) = clients.join_next().await {
        good += more;
        bad += worse;
    }
    figures.at_most(&format!("failed of {} on {busy} busy ones", good + bad), 0, bad);
    let mib = process::resident_kib(pid).saturating_sub(before) as f64 / 1024.0;
    figures.show("MiB more than before", format!("{mib:.0}"));
    drop(streams);
}
