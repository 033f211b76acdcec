//! How many registrations a second are durable, with so many callers at once?
//!
//! etcd does what registering there takes: grant a lease, put the replica under it. Both flush to the same disk before
//! they answer. Every sample has a server of its own, new and empty.

use std::time::Duration;

use anyhow::Result;
use gateway_proto::v1::{Replica, registry_service_client::RegistryServiceClient};
use prost::Message;

use crate::{
    Args,
    callers::{Done, connect_many, drive},
    etcd,
    figures::{Figures, Target},
    programs::{Programs, Server},
    replicas::registration,
    usage,
};

const CALLERS: [usize; 2] = [64, 256];
/// Numbers of one caller.
const EACH: usize = 60_000;
/// Seconds.
const ETCD_TTL: i64 = 3600;

/// What is registered.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// Replicas that were never there.
    New,
    /// Those that are there, so many of each caller's, as after a restart of all their processes.
    Anew(usize),
}

pub(crate) async fn measure(programs: &Programs, args: &Args, figures: &mut Figures) -> Result<()> {
    let limit = args.limit();
    for callers in if args.smoke { [2, 4] } else { CALLERS } {
        let server = programs.control_plane()?;
        let mut kind = Kind::New;
        for _ in 0..2 {
            let before = usage::cpu(server.pid())?;
            let done = ours(&server, callers, kind, limit).await?;
            let cpu = usage::cpu(server.pid())? - before;
            report(callers, kind, &done, cpu, |what, unit, value| figures.ours(what, unit, value));
            kind = Kind::Anew(done.least().max(1));
        }
        figures.target(&kind_name(callers, Kind::New), Target::TimesEtcd(3.0));
        drop(server);
        let Some(server) = programs.etcd().await? else { continue };
        let mut kind = Kind::New;
        for _ in 0..2 {
            let before = usage::cpu(server.pid())?;
            let done = etcds(&server, callers, kind, limit).await?;
            let cpu = usage::cpu(server.pid())? - before;
            report(callers, kind, &done, cpu, |what, unit, value| figures.etcd(what, unit, value));
            kind = Kind::Anew(done.least().max(1));
        }
    }
    Ok(())
}

fn kind_name(callers: usize, kind: Kind) -> String {
    match kind {
        Kind::New => format!("registrations, {callers} callers"),
        Kind::Anew(_) => format!("registrations of what is registered, {callers} callers"),
    }
}

fn report(
    callers: usize,
    kind: Kind,
    done: &Done,
    cpu: Duration,
    mut put: impl FnMut(String, &'static str, f64),
) {
    let name = kind_name(callers, kind);
    put(name.clone(), "1/s", done.rate());
    put(format!("{name}: time of one, p50"), "ms", done.time_ms(0.5));
    put(format!("{name}: time of one, p99"), "ms", done.time_ms(0.99));
    put(format!("{name}: server's CPU each"), "µs", cpu.as_secs_f64() * 1e6 / done.count() as f64);
}

impl Kind {
    /// The number of a caller's replica in this call.
    fn number(self, caller: usize, call: usize) -> usize {
        let within = match self {
            Self::New => call,
            Self::Anew(count) => call % count,
        };
        caller * EACH + within
    }
}

async fn ours(server: &Server, callers: usize, kind: Kind, limit: Duration) -> Result<Done> {
    let clients = connect_many(&server.url(), callers).await?.into_iter().map(RegistryServiceClient::new);
    let callers = clients.enumerate().map(|(caller, client)| {
        move |call| {
            let mut client = client.clone();
            async move {
                client.register(registration(kind.number(caller, call))).await?;
                Ok(())
            }
        }
    });
    drive(callers.collect(), limit, EACH).await
}

async fn etcds(server: &Server, callers: usize, kind: Kind, limit: Duration) -> Result<Done> {
    let clients = connect_many(&server.url(), callers).await?.into_iter().map(etcd::Client::new);
    let callers = clients.enumerate().map(|(caller, client)| {
        move |call| {
            let mut client = client.clone();
            async move {
                let wish = registration(kind.number(caller, call));
                let key = format!("/gw/v1/replicas/{}/{}", wish.service, wish.replica_id).into_bytes();
                let replica = Replica {
                    service: wish.service,
                    replica_id: wish.replica_id,
                    endpoint: wish.endpoint,
                    version: wish.version,
                    labels: wish.labels,
                    weight: 100,
                    ..Default::default()
                };
                let lease = client.grant(ETCD_TTL).await?;
                client.put(key, replica.encode_to_vec(), lease).await
            }
        }
    });
    drive(callers.collect(), limit, EACH).await
}
