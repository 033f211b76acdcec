//! What is asked of each proxy, and what is measured then.

use std::{cell::Cell, net::SocketAddr, time::Duration};

use anyhow::Result;

use crate::{
    load::{self, Ask, Call, Seen},
    peers::Peer,
    tls::Certificate,
    upstream::Replicas,
    usage,
};

/// One kind of load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Scenario {
    /// GET of 100 B over 64 kept connections
    Get100,
    /// GET of 100 B over 512 kept connections
    Get100x512,
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
    /// Unary calls of gRPC over 8 connections with 8 streams each, to replicas of HTTP/2
    Grpc,
    /// GET of 100 B over 64 kept connections with TLS
    Tls,
    /// GET of 100 B on a new connection each, 32 at a time
    NewConnections,
    /// GET of 100 B on a new connection with TLS each, 8 at a time
    TlsHandshakes,
    /// 2,000 GETs of 100 B a second over 16 connections
    Paced,
    /// GET of 100 B over 64 connections while one of three replicas answers 503
    OneFails,
    /// GET of 100 B over 64 kept connections, of 100 services in turns
    Services100,
    /// GET of 100 B over 64 kept connections, of 10,000 services in turns
    Services10k,
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
    /// What requests do: all but what has more of the same, or none.
    pub(crate) const TRAINING: [Self; 13] = [
        Self::Get100,
        Self::Get2k,
        Self::Get2k512,
        Self::Post10k,
        Self::Get1m,
        Self::Http2,
        Self::Grpc,
        Self::Tls,
        Self::NewConnections,
        Self::TlsHandshakes,
        Self::Paced,
        Self::OneFails,
        Self::Services100,
    ];

    /// What it is, for people.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Get100 => "GET 100 B, 64 connections",
            Self::Get100x512 => "GET 100 B, 512 connections",
            Self::Get2k => "GET 2 KiB, 64 connections",
            Self::Get2k512 => "GET 2 KiB, 512 connections",
            Self::Post10k => "POST 10 KiB, 64 connections",
            Self::Get1m => "GET 1 MiB, 8 connections",
            Self::Http2 => "GET 100 B, HTTP/2 clients, 8 connections of 8 streams",
            Self::Grpc => "gRPC, unary calls of 100 B, 8 connections of 8 streams",
            Self::Tls => "GET 100 B, 64 connections with TLS",
            Self::NewConnections => "GET 100 B, a new connection each, 32 at a time",
            Self::TlsHandshakes => "GET 100 B, a new connection with TLS each, 8 at a time",
            Self::Paced => "GET 100 B, 2,000 a second over 16 connections",
            Self::OneFails => "GET 100 B, 64 connections, one of three replicas answers 503",
            Self::Services100 => "GET 100 B, 64 connections, of 100 services",
            Self::Services10k => "GET 100 B, 64 connections, of 10,000 services",
            Self::Idle => "5,000 idle connections",
        }
    }

    /// How many services the proxies have to know for it.
    pub(crate) fn services(self) -> usize {
        match self {
            Self::Services100 => 100,
            Self::Services10k => 10_000,
            _ => 1,
        }
    }

    /// Where a proxy is asked so, if it can be.
    fn address(self, peer: &Peer) -> Option<SocketAddr> {
        match self {
            Self::Http2 => peer.at().http2,
            Self::Grpc => peer.at().grpc,
            Self::Tls | Self::TlsHandshakes => peer.at().tls,
            // They are matters of more than bytes.
            Self::OneFails | Self::Services100 | Self::Services10k if peer.is_relay() => None,
            _ => Some(peer.at().http1),
        }
    }

    /// Drives the load once; `None` where the proxy cannot be asked so.
    pub(crate) async fn measure(
        self,
        peer: &Peer,
        replicas: &Replicas,
        certificate: &Certificate,
        limit: Duration,
    ) -> Result<Option<Measured>> {
        if self == Self::Idle {
            return idle(peer, limit).await.map(Some);
        }
        let Some(address) = self.address(peer) else { return Ok(None) };
        // What kept connections cost when they are made is not what requests on them cost.
        let before = Cell::new(Duration::ZERO);
        let begins = || {
            before.set(usage::cpu(peer.pid())?);
            Ok(())
        };
        let drive = async |limit: Duration| -> Result<Seen> {
            let closed =
                async |ask: &Ask, connections| load::closed(address, ask, connections, limit, begins).await;
            match self {
                Self::Get100 | Self::OneFails => closed(&get(100), 64).await,
                Self::Get100x512 => closed(&get(100), 512).await,
                Self::Get2k => closed(&get(2048), 64).await,
                Self::Get2k512 => closed(&get(2048), 512).await,
                Self::Post10k => closed(&Ask { body: 10 << 10, ..get(100) }, 64).await,
                Self::Get1m => closed(&get(1 << 20), 8).await,
                Self::Tls => closed(&Ask { tls: Some(certificate.clients()), ..get(100) }, 64).await,
                Self::Services100 | Self::Services10k => {
                    closed(&Ask { services: self.services(), ..get(100) }, 64).await
                }
                Self::Http2 => load::http2(address, &Call::Get(100), 8, 8, limit).await,
                Self::Grpc => load::http2(address, &Call::Grpc, 8, 8, limit).await,
                Self::NewConnections => load::anew(address, &get(100), 32, limit).await,
                Self::TlsHandshakes => {
                    load::anew(address, &Ask { tls: Some(certificate.clients()), ..get(100) }, 8, limit).await
                }
                Self::Paced => load::paced(address, &get(100), 16, 2000.0, limit).await,
                Self::Idle => unreachable!("it is measured otherwise"),
            }
        };
        // Connections to replicas are there, and caches warm.
        drive(limit / 10).await?;
        replicas.fail_one(self == Self::OneFails);
        begins()?;
        let seen = drive(limit).await;
        let cpu = usage::cpu(peer.pid())? - before.get();
        replicas.fail_one(false);
        Ok(Some(measured(seen?, cpu, usage::resident(peer.pid())?)))
    }
}

fn get(size: usize) -> Ask {
    Ask { size, body: 0, services: 1, tls: None }
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
    let open = load::idle(peer.at().http1, IDLE).await?;
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
