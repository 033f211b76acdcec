//! Load of all kinds, after which descriptors, threads and memory are back where they were.

use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    Size,
    client::load,
    figures::Figures,
    process,
    replica::Fault,
    stage::{SECOND, Stage},
};

pub(crate) async fn mixed(size: Size, figures: &mut Figures) {
    let lasts = size.minutes.map_or(SECOND * size.of(20, 5), |minutes| minutes * 60 * SECOND);
    let mut stage = Stage::start(&["--idle-timeout", "2s", "--idle-upstream-timeout", "1s"]).await;
    let (proxy, pid) = (stage.proxy(), stage.pid());
    // What is allocated once is there before it is measured.
    storm(&stage, 3 * SECOND).await;
    let quiet = settled(pid).await;
    let (descriptors, threads, memory) = quiet;
    let sent = storm(&stage, lasts).await;
    let after = settled(pid).await;
    figures.show("requests", sent);
    figures.at_most("descriptors more than before", 0, after.0.saturating_sub(descriptors));
    figures.at_most("threads more than before", 0, after.1.saturating_sub(threads));
    figures.at_most("MiB more than before", 16, after.2.saturating_sub(memory) / 1024);
    let active = stage.metric("gateway_upstream_inflight").await;
    figures.hold("attempts in flight 0", active, active == 0.0);
    let answered = crate::client::probe(proxy).await.status;
    figures.hold("it answers", format!("{answered:?}"), answered == Some(200));
}

/// Steady load, replicas that fail in turn, clients that break off, stop and send what is no HTTP.
async fn storm(stage: &Stage, lasts: Duration) -> usize {
    let proxy = stage.proxy();
    let until = Instant::now() + lasts;
    let rude = async {
        let mut clients = JoinSet::new();
        for number in 0_usize.. {
            if Instant::now() > until {
                break;
            }
            clients.spawn(async move {
                let Ok(mut stream) = TcpStream::connect(proxy).await else { return };
                let bytes: &[u8] = match number % 5 {
                    0 => b"GET /orders/x HTTP/1.1\r\nhost",
                    1 => b"\x16\x03\x01 what is this\r\n\r\n",
                    2 => b"POST /orders/x HTTP/1.1\r\nhost: gw\r\ncontent-length: 100\r\n\r\nhalf",
                    3 => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
                    _ => b"GET /orders/x HTTP/1.1\r\nhost: gw\r\n\r\n",
                };
                let _ = stream.write_all(bytes).await;
                let _ = timeout(Duration::from_millis(300), stream.read(&mut [0; 64])).await;
            });
            while clients.len() > 200 {
                clients.join_next().await;
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    let ill = async {
        let faults = [
            Fault::Closes(0.3),
            Fault::Unavailable(0.5),
            Fault::Resets(0.3),
            Fault::Slow(SECOND),
            Fault::None,
        ];
        for fault in faults.into_iter().cycle() {
            stage.replicas[0].falls_ill(fault);
            sleep(Duration::from_millis(700)).await;
            if Instant::now() > until {
                break;
            }
        }
        stage.replicas[0].falls_ill(Fault::None);
    };
    let (fates, (), ()) = tokio::join!(load(proxy, 300, lasts), rude, ill);
    fates.0.len()
}

/// Descriptors, threads and KiB once idle connections have had their time.
async fn settled(pid: u32) -> (u64, u64, u64) {
    let look = || (process::descriptors(pid), process::threads(pid), process::resident_kib(pid));
    let mut last = look();
    for _ in 0..30 {
        sleep(2 * SECOND).await;
        let now = look();
        if now.0 == last.0 {
            return now;
        }
        last = now;
    }
    last
}
