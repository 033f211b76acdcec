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

pub(crate) async fn measure(programs: &Programs, args: &Args, figures: &mut Figures) -> Result<()> {
    for callers in if args.smoke { [2, 4] } else { CALLERS } {
        let limit = Duration::from_secs(args.seconds);
        let what = |of: &str| format!("registrations, {callers} callers{of}");

        let server = programs.control_plane()?;
        let before = usage::cpu(server.pid())?;
        let done = ours(&server, callers, limit).await?;
        let cpu = usage::cpu(server.pid())? - before;
        figures.ours(what(""), "1/s", done.rate());
        figures.target(&what(""), Target::TimesEtcd(3.0));
        figures.ours(what(": time of one, p50"), "ms", done.time_ms(0.5));
        figures.ours(what(": time of one, p99"), "ms", done.time_ms(0.99));
        figures.ours(what(": server's CPU each"), "µs", cpu.as_secs_f64() * 1e6 / done.count() as f64);
        drop(server);

        let Some(server) = programs.etcd().await? else { continue };
        let before = usage::cpu(server.pid())?;
        let done = etcds(&server, callers, limit).await?;
        let cpu = usage::cpu(server.pid())? - before;
        figures.etcd(what(""), "1/s", done.rate());
        figures.etcd(what(": time of one, p50"), "ms", done.time_ms(0.5));
        figures.etcd(what(": time of one, p99"), "ms", done.time_ms(0.99));
        figures.etcd(what(": server's CPU each"), "µs", cpu.as_secs_f64() * 1e6 / done.count() as f64);
    }
    Ok(())
}

async fn ours(server: &Server, callers: usize, limit: Duration) -> Result<Done> {
    let clients = connect_many(&server.url(), callers).await?.into_iter().map(RegistryServiceClient::new);
    let callers = clients.enumerate().map(|(caller, client)| {
        move |call| {
            let mut client = client.clone();
            async move {
                client.register(registration(caller * EACH + call)).await?;
                Ok(())
            }
        }
    });
    drive(callers.collect(), limit, EACH).await
}

async fn etcds(server: &Server, callers: usize, limit: Duration) -> Result<Done> {
    let clients = connect_many(&server.url(), callers).await?.into_iter().map(etcd::Client::new);
    let callers = clients.enumerate().map(|(caller, client)| {
        move |call| {
            let mut client = client.clone();
            async move {
                let wish = registration(caller * EACH + call);
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
