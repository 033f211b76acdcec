//! How many leases are renewed a second?
//!
//! Over KeepAlive, one stream renews many leases, a message at a time; etcd's stream takes one lease a message, and has
//! as many under way as ours has in one message. Over Heartbeat every renewal is an RPC.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use gateway_proto::v1::{
    HeartbeatRequest, KeepAliveRequest, keep_alive_result, registry_service_client::RegistryServiceClient,
};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::{
    Args,
    callers::{connect, connect_many, drive},
    etcd,
    figures::{Figures, Target},
    programs::{Programs, Server},
    replicas, usage,
};

const LEASES: usize = 8000;
const STREAMS: usize = 16;
/// Leases under way on one stream.
const AT_ONCE: usize = 500;
const CALLERS: usize = 64;

const STREAMED: &str = "renewals, KeepAlive, 16 streams";
const SINGLE: &str = "renewals, Heartbeat, 64 callers";

pub(crate) async fn measure(programs: &Programs, args: &Args, figures: &mut Figures) -> Result<()> {
    let limit = args.limit();
    let leases = if args.smoke { 64 } else { LEASES };
    let server = programs.control_plane()?;
    let answers = replicas::register(&server, 0..leases).await?;
    let heartbeats: Vec<HeartbeatRequest> = answers
        .into_iter()
        .map(|answer| {
            let replica = answer.replica.unwrap_or_default();
            let (service, replica_id) = (replica.service, replica.replica_id);
            HeartbeatRequest { service, replica_id, lease_id: answer.lease_id, health: 0 }
        })
        .collect();

    let before = usage::cpu(server.pid())?;
    if let Some((count, rate)) = keep_alive(&server, &heartbeats, limit).await? {
        let cpu = usage::cpu(server.pid())? - before;
        figures.ours(STREAMED, "1/s", rate);
        figures.target(STREAMED, Target::AtLeast(100_000.0));
        figures.ours(format!("{STREAMED}: server's CPU each"), "µs", cpu.as_secs_f64() * 1e6 / count as f64);
    }
    let before = usage::cpu(server.pid())?;
    let (count, rate) = heartbeat(&server, &heartbeats, limit).await?;
    let cpu = usage::cpu(server.pid())? - before;
    figures.ours(SINGLE, "1/s", rate);
    figures.ours(format!("{SINGLE}: server's CPU each"), "µs", cpu.as_secs_f64() * 1e6 / count as f64);
    drop(server);

    if let Some(server) = programs.etcd().await? {
        let (count, cpu, rate) = etcds(&server, leases, limit).await?;
        figures.etcd(STREAMED, "1/s", rate);
        figures.etcd(format!("{STREAMED}: server's CPU each"), "µs", cpu.as_secs_f64() * 1e6 / count as f64);
    }
    Ok(())
}

/// Renewals and their rate; `None` when the server has no KeepAlive.
async fn keep_alive(
    server: &Server,
    heartbeats: &[HeartbeatRequest],
    limit: Duration,
) -> Result<Option<(usize, f64)>> {
    let mut streams = JoinSet::new();
    let began = Instant::now();
    for share in heartbeats.chunks(heartbeats.len().div_ceil(STREAMS)) {
        let mut client = RegistryServiceClient::new(connect(&server.url()).await?);
        let heartbeats: Vec<_> = share.iter().take(AT_ONCE).cloned().collect();
        streams.spawn(async move {
            let (requests, receiver) = mpsc::channel(1);
            // The answer's head may come only with the first answer.
            requests.send(KeepAliveRequest { heartbeats: heartbeats.clone() }).await?;
            let mut answers = match client.keep_alive(ReceiverStream::new(receiver)).await {
                Ok(answers) => answers.into_inner(),
                Err(status) if status.code() == Code::Unimplemented => return Ok(None),
                Err(status) => return Err(status.into()),
            };
            let mut count = 0;
            loop {
                let answer = answers.message().await?.context("the stream goes on")?;
                let renewed = answer.results.iter();
                let renewed =
                    renewed.filter(|one| matches!(one.result, Some(keep_alive_result::Result::Renewed(_))));
                ensure!(renewed.count() == heartbeats.len(), "not all were renewed: {answer:?}");
                count += heartbeats.len();
                if began.elapsed() >= limit {
                    return Ok(Some(count));
                }
                requests.send(KeepAliveRequest { heartbeats: heartbeats.clone() }).await?;
            }
        });
    }
    let mut sum = 0;
    while let Some(count) = streams.join_next().await {
        match count?? {
            Some(count) => sum += count,
            None => return Ok(None),
        }
    }
    Ok(Some((sum, sum as f64 / began.elapsed().as_secs_f64())))
}

async fn heartbeat(
    server: &Server,
    heartbeats: &[HeartbeatRequest],
    limit: Duration,
) -> Result<(usize, f64)> {
    let clients = connect_many(&server.url(), CALLERS).await?.into_iter().map(RegistryServiceClient::new);
    let callers = clients.enumerate().map(|(caller, client)| {
        let share: Vec<_> = heartbeats.iter().skip(caller).step_by(CALLERS).cloned().collect();
        move |call: usize| {
            let (mut client, heartbeat) = (client.clone(), share[call % share.len()].clone());
            async move {
                client.heartbeat(heartbeat).await?;
                Ok(())
            }
        }
    });
    let done = drive(callers.collect(), limit, usize::MAX).await?;
    Ok((done.count(), done.rate()))
}

/// Renewals, the server's CPU for them, and their rate.
async fn etcds(server: &Server, leases: usize, limit: Duration) -> Result<(usize, Duration, f64)> {
    let each = leases.div_ceil(STREAMS).min(AT_ONCE);
    let mut prepared = Vec::new();
    for _ in 0..STREAMS {
        let mut client = etcd::Client::new(connect(&server.url()).await?);
        let mut granted = Vec::new();
        for _ in 0..each {
            granted.push(client.grant(3600).await?);
        }
        prepared.push((client, granted));
    }
    let before = usage::cpu(server.pid())?;
    let began = Instant::now();
    let mut streams = JoinSet::new();
    for (mut client, granted) in prepared {
        streams.spawn(async move {
            let (requests, receiver) = mpsc::channel(each);
            for id in &granted {
                requests.send(etcd::LeaseKeepAliveRequest { id: *id }).await?;
            }
            let mut answers = client.keep_alive(receiver).await?;
            let mut count = 0;
            while began.elapsed() < limit {
                let answer = timeout(Duration::from_secs(5), answers.message()).await??;
                ensure!(answer.context("the stream goes on")?.ttl > 0, "a lease was lost");
                requests.send(etcd::LeaseKeepAliveRequest { id: granted[count % granted.len()] }).await?;
                count += 1;
            }
            Ok::<_, anyhow::Error>(count)
        });
    }
    let mut sum = 0;
    while let Some(count) = streams.join_next().await {
        sum += count??;
    }
    Ok((sum, usage::cpu(server.pid())? - before, sum as f64 / began.elapsed().as_secs_f64()))
}
