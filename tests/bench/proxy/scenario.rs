//! What is asked of each proxy, and what is measured then.

use std::{cell::Cell, net::SocketAddr, time::Duration};

use anyhow::{Context, Result};

use crate::{
    Bench,
    load::{self, Ask, Call, Seen},
    peers::Peer,
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
    /// The same, with 9,900 more services in the table
    Services10k,
    /// GET of 100 B over 64 kept connections, of a service among 10,000 that nobody has asked before, each
    FirstRequests,
    /// 5,000 connections that are open and idle
    Idle,
    /// The gateway alone: one worker beside two
    Workers,
    /// The gateway alone: one service beside 100 and 10,000
    Services,
    /// The gateway alone: a table of 10,000 services that changes under load beside one that does not
    Deltas,
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
    /// MiB that were resident before it, of idle connections.
    pub(crate) at_rest: f64,
    /// MiB that are resident after it.
    pub(crate) resident: f64,
    /// KiB for each idle connection.
    pub(crate) per_connection: f64,
}

/// Of the others, the relay aside, the one that needs least.
pub(crate) const BEST: &str = "the best";

/// One of the rounds of a scenario.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Round {
    /// From 0 on.
    pub(crate) number: usize,
    pub(crate) of: usize,
}

/// Idle connections that are held.
const IDLE: usize = 5000;
/// Services that are asked where more are known.
const ASKED: usize = 100;
/// First requests in all rounds: most proxies keep a connection of each, and all of those are a replica's, too, in this process.
const FIRST: usize = 3000;
/// Longest wait for a load beyond its own time.
const PATIENCE: Duration = Duration::from_secs(60);

impl Measured {
    /// What clients on threads of their own saw at the same time. Each of them has counted all of the proxy's processor time for its own
    /// requests.
    pub(crate) fn together(parts: &[Self]) -> Self {
        let sum = |figure: fn(&Self) -> f64| parts.iter().map(figure).sum::<f64>();
        let most = |figure: fn(&Self) -> f64| parts.iter().map(figure).fold(0.0, f64::max);
        Self {
            rate: sum(|part| part.rate),
            cpu: 1.0 / sum(|part| 1.0 / part.cpu),
            p50: most(|part| part.p50),
            p99: most(|part| part.p99),
            p999: most(|part| part.p999),
            failures: sum(|part| part.failures),
            resident: most(|part| part.resident),
            ..Self::default()
        }
    }
}

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
            Self::Services10k => "GET 100 B, 64 connections, of 100 services among 10,000",
            Self::FirstRequests => "GET 100 B, 64 connections, each the first of one of 10,000 services",
            Self::Idle => "5,000 idle connections",
            Self::Workers => "GET 100 B, 64 connections: workers",
            Self::Services => "GET 100 B, 64 connections: services in the table",
            Self::Deltas => "GET 100 B, 2,000 a second over 16 connections: a table that changes",
        }
    }

    /// What the gateway may need of another's CPU for each request.
    pub(crate) fn wanted(self) -> &'static [(&'static str, f64)] {
        match self {
            Self::Get100 => {
                &[("nginx", 0.8), ("haproxy", 0.7), ("envoy", 0.4), ("pingora", 0.5), ("relay", 1.15)]
            }
            Self::Get2k | Self::Get2k512 => {
                &[("nginx", 0.9), ("haproxy", 0.65), ("envoy", 0.3), ("pingora", 0.4), ("relay", 1.25)]
            }
            Self::Post10k => &[("nginx", 0.75), ("haproxy", 0.75), ("envoy", 0.3)],
            Self::Http2 => &[("nginx", 0.6), ("haproxy", 0.65), ("envoy", 0.35)],
            Self::Get1m => &[(BEST, 0.7), ("relay", 1.4)],
            Self::NewConnections => &[(BEST, 1.0)],
            _ => &[],
        }
    }

    /// Whether it compares the gateway with itself.
    pub(crate) fn is_of_gateway_alone(self) -> bool {
        matches!(self, Self::Workers | Self::Services | Self::Deltas)
    }

    /// How many services the proxies have to know for it.
    pub(crate) fn services(self) -> usize {
        match self {
            Self::Services100 => 100,
            Self::Services10k | Self::FirstRequests => 10_000,
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
            Self::OneFails | Self::Services100 | Self::Services10k | Self::FirstRequests
                if peer.is_relay() =>
            {
                None
            }
            _ => Some(peer.at().http1),
        }
    }

    /// Drives the load once; `None` where the proxy cannot be asked so.
    ///
    /// # Errors
    /// When the proxy closes a connection in an answer, or has none in time.
    pub(crate) async fn measure(
        self,
        bench: &Bench<'_>,
        peer: &Peer,
        round: Round,
    ) -> Result<Option<Measured>> {
        let patience = 2 * bench.args.limit() + PATIENCE;
        tokio::time::timeout(patience, self.drive(bench, peer, round))
            .await
            .with_context(|| format!("no end within {patience:?}"))?
    }

    async fn drive(self, bench: &Bench<'_>, peer: &Peer, round: Round) -> Result<Option<Measured>> {
        let (limit, replicas, certificate) = (bench.args.limit(), bench.replicas, bench.certificate);
        if self == Self::Idle {
            let count = if bench.args.smoke { IDLE / 100 } else { IDLE };
            return idle(peer, count, limit).await.map(Some);
        }
        let Some(address) = self.address(peer) else { return Ok(None) };
        // What kept connections cost when they are made is not what requests on them cost.
        let before = Cell::new(Duration::ZERO);
        let begins = || {
            before.set(usage::cpu(peer.pid())?);
            Ok(())
        };
        let closed = async |ask: &Ask, connections, limit| {
            load::closed(address, ask, connections, limit, begins).await
        };
        let encrypted = || Ask { tls: Some(certificate.clients()), ..Ask::get(100) };
        let drive = async |limit: Duration| -> Result<Seen> {
            match self {
                Self::Get100 | Self::OneFails => closed(&Ask::get(100), 64, limit).await,
                Self::Get100x512 => closed(&Ask::get(100), 512, limit).await,
                Self::Get2k => closed(&Ask::get(2048), 64, limit).await,
                Self::Get2k512 => closed(&Ask::get(2048), 512, limit).await,
                Self::Post10k => closed(&Ask { body: 10 << 10, ..Ask::get(100) }, 64, limit).await,
                Self::Get1m => closed(&Ask::get(1 << 20), 8, limit).await,
                Self::Tls => closed(&encrypted(), 64, limit).await,
                Self::Services100 | Self::Services10k => {
                    closed(&Ask { services: 0..ASKED, ..Ask::get(100) }, 64, limit).await
                }
                Self::FirstRequests => closed(&first(round), 64, limit).await,
                Self::Http2 => load::http2(address, &Call::Get(100), 8, 8, limit).await,
                Self::Grpc => load::http2(address, &Call::Grpc, 8, 8, limit).await,
                Self::NewConnections => load::anew(address, &Ask::get(100), 32, limit).await,
                Self::TlsHandshakes => load::anew(address, &encrypted(), 8, limit).await,
                Self::Paced => load::paced(address, &Ask::get(100), 16, 2000.0, limit).await,
                Self::Idle | Self::Workers | Self::Services | Self::Deltas => {
                    unreachable!("it is measured otherwise")
                }
            }
        };
        // Connections to replicas are there, and caches warm.
        match self {
            Self::FirstRequests => closed(&Ask::get(100), 64, limit / 10).await?,
            _ => drive(limit / 10).await?,
        };
        replicas.fail_one(self == Self::OneFails);
        begins()?;
        let seen = drive(limit).await;
        let cpu = usage::cpu(peer.pid())? - before.get();
        replicas.fail_one(false);
        Ok(Some(measured(seen?, cpu, usage::resident(peer.pid())?)))
    }
}

/// One request to each of some services, which are no other round's.
fn first(round: Round) -> Ask {
    let each = FIRST / round.of;
    let from = 1 + round.number * each;
    Ask { services: from..from + each, once: true, ..Ask::get(100) }
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

async fn idle(peer: &Peer, count: usize, limit: Duration) -> Result<Measured> {
    let before = usage::resident(peer.pid())?;
    let open = load::idle(peer.at().http1, count).await?;
    tokio::time::sleep(limit.min(Duration::from_secs(2))).await;
    let resident = usage::resident(peer.pid())?;
    drop(open);
    // Until the proxy has closed them, too.
    tokio::time::sleep(Duration::from_millis(500)).await;
    Ok(Measured {
        resident: resident / 1024.0 / 1024.0,
        at_rest: before / 1024.0 / 1024.0,
        per_connection: (resident - before).max(0.0) / 1024.0 / count as f64,
        ..Measured::default()
    })
}
