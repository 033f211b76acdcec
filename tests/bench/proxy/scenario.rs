//! What is asked of each proxy, and what is measured then.

use std::time::Duration;

use anyhow::Result;

use crate::{
    load::{self, Ask, Seen},
    peers::Peer,
    upstream::Replicas,
    usage,
};

/// One kind of load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Scenario {
    /// GET of 100 B over 64 kept connections
    Get100,
    /// GET of 2 KiB over 64 kept connections
    Get2k,
    /// GET of 2 KiB over 512 kept connections
    Get2k512,
    /// POST of 10 KiB over 64 kept connections
    Post10k,
    /// GET of 1 MiB over 8 kept connections
    Get1m,
    /// GET of 100 B over 8 connections of HTTP/2 with 8 streams each
    Http2,
    /// GET of 100 B on a new connection each, 32 at a time
    NewConnections,
    /// 2,000 GETs of 100 B a second over 16 connections
    Paced,
    /// GET of 100 B over 64 connections while one of three replicas answers 503
    OneFails,
    /// 5,000 connections that are open and idle
    Idle,
}

/// What one round of one scenario came to for one proxy.
#[derive(Debug, Clone, Default)]
pub(crate) struct Measured {
    pub(crate) rate: f64,
    /// CPU of the proxy for each request, in microseconds.
    pub(crate) cpu: f64,
    /// Microseconds.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) failures: f64,
    /// MiB that are resident after it.
    pub(crate) resident: f64,
    /// The most that ever were.
    pub(crate) peak: f64,
    /// KiB for each idle connection.
    pub(crate) per_connection: f64,
}

/// Idle connections that are held.
const IDLE: usize = 5000;

impl Scenario {
    /// What it is, for people.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Get100 => "GET 100 B, 64 connections",
            Self::Get2k => "GET 2 KiB, 64 connections",
            Self::Get2k512 => "GET 2 KiB, 512 connections",
            Self::Post10k => "POST 10 KiB, 64 connections",
            Self::Get1m => "GET 1 MiB, 8 connections",
            Self::Http2 => "GET 100 B, HTTP/2 clients, 8 connections of 8 streams",
            Self::NewConnections => "GET 100 B, a new connection each, 32 at a time",
            Self::Paced => "GET 100 B, 2,000 a second over 16 connections",
            Self::OneFails => "GET 100 B, 64 connections, one of three replicas answers 503",
            Self::Idle => "5,000 idle connections",
        }
    }

    /// Drives the load once; `None` where the proxy cannot be asked so.
    pub(crate) async fn measure(
        self,
        peer: &Peer,
        replicas: &Replicas,
        limit: Duration,
    ) -> Result<Option<Measured>> {
        if self == Self::Idle {
            return idle(peer, limit).await.map(Some);
        }
        if self == Self::OneFails && peer.is_relay() {
            return Ok(None);
        }
        let Some(address) = (if self == Self::Http2 { peer.http2() } else { Some(peer.http1()) }) else {
            return Ok(None);
        };
        let drive = async |limit: Duration| -> Result<Seen> {
            match self {
                Self::Get100 | Self::OneFails => load::closed(address, &ask(100, 0), 64, limit).await,
                Self::Get2k => load::closed(address, &ask(2048, 0), 64, limit).await,
                Self::Get2k512 => load::closed(address, &ask(2048, 0), 512, limit).await,
                Self::Post10k => load::closed(address, &ask(100, 10 << 10), 64, limit).await,
                Self::Get1m => load::closed(address, &ask(1 << 20, 0), 8, limit).await,
                Self::Http2 => load::http2(address, &ask(100, 0), 8, 8, limit).await,
                Self::NewConnections => load::anew(address, &ask(100, 0), 32, limit).await,
                Self::Paced => load::paced(address, &ask(100, 0), 16, 2000.0, limit).await,
                Self::Idle => unreachable!("it is measured otherwise"),
            }
        };
        // Connections to replicas are there, and caches warm.
        drive(limit / 10).await?;
        replicas.fail_one(self == Self::OneFails);
        let before = usage::cpu(peer.pid())?;
        let seen = drive(limit).await;
        let cpu = usage::cpu(peer.pid())? - before;
        replicas.fail_one(false);
        Ok(Some(measured(seen?, cpu, usage::resident(peer.pid())?)))
    }
}

fn ask(size: usize, body: usize) -> Ask {
    Ask { size, body }
}

fn measured(mut seen: Seen, cpu: Duration, resident: f64) -> Measured {
    seen.latencies.sort_unstable();
    let answers = seen.latencies.len() as f64;
    let rank = |rank: f64| {
        let place = (rank * (answers - 1.0)).round() as usize;
        seen.latencies.get(place).copied().unwrap_or(0).into()
    };
    Measured {
        rate: answers / seen.took.as_secs_f64(),
        cpu: cpu.as_secs_f64() * 1e6 / (answers + seen.failures as f64).max(1.0),
        p50: rank(0.5),
        p99: rank(0.99),
        p999: rank(0.999),
        failures: seen.failures as f64,
        resident: resident / 1024.0 / 1024.0,
        ..Measured::default()
    }
}

async fn idle(peer: &Peer, limit: Duration) -> Result<Measured> {
    let before = usage::resident(peer.pid())?;
    let open = load::idle(peer.http1(), IDLE).await?;
    tokio::time::sleep(limit.min(Duration::from_secs(2))).await;
    let resident = usage::resident(peer.pid())?;
    drop(open);
    // Until the proxy has closed them, too.
    tokio::time::sleep(Duration::from_millis(500)).await;
    Ok(Measured {
        resident: resident / 1024.0 / 1024.0,
        peak: usage::resident_peak(peer.pid())? / 1024.0 / 1024.0,
        per_connection: (resident - before).max(0.0) / 1024.0 / IDLE as f64,
        ..Measured::default()
    })
}
