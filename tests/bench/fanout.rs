//! How long until the last of many data planes has one change, with many replicas registered, and what does it cost?
//!
//! Timed from the moment the change is sent to the registry: its commit, its publication and its way to each stream.

use std::time::{Duration, Instant};

use anyhow::Result;
use gateway_proto::v1::{
    HealthStatus, ListServicesRequest, ReportHealthRequest, registry_service_client::RegistryServiceClient,
};
use tonic::transport::Channel;

use crate::{
    Args,
    callers::connect,
    figures::{Figures, Target},
    follower::Followers,
    programs::Programs,
    replicas,
    samples::percentile_ms,
    usage,
};

const PATIENCE: Duration = Duration::from_secs(120);
/// The change is of a permanent replica, which needs no lease.
const CHANGED: (&str, &str) = ("changed", "r-1");

pub(crate) async fn measure(programs: &Programs, args: &Args, figures: &mut Figures) -> Result<()> {
    let what =
        |of: &str| format!("one change to {} streams, {} replicas: {of}", args.followers, args.replicas);
    let server = programs.control_plane()?;
    replicas::register(&server, 0..args.replicas).await?;
    let mut registry = RegistryServiceClient::new(connect(&server.url()).await?);
    let mut changed = replicas::registration(args.replicas);
    (changed.service, changed.replica_id) = (CHANGED.0.into(), CHANGED.1.into());
    (changed.permanent, changed.lease_ttl) = (true, None);
    registry.register(changed).await?;

    let mut followers = Followers::start(server.address(), args.followers, None);
    followers.reached(PATIENCE).await?;
    let (bytes, cpu) = (followers.bytes(), usage::cpu(server.pid())?);
    let (mut receivers, mut last) = (Vec::new(), Vec::new());
    for number in 0..args.changes {
        followers.expect(revision(&mut registry).await? + 1);
        let health = if number % 2 == 0 { HealthStatus::Degraded } else { HealthStatus::Healthy };
        let report = ReportHealthRequest {
            service: CHANGED.0.into(),
            replica_id: CHANGED.1.into(),
            health: health.into(),
            ..Default::default()
        };
        let began = Instant::now();
        let (report, reached) = tokio::join!(registry.report_health(report), followers.reached(PATIENCE));
        report?;
        let times: Vec<Duration> =
            reached?.into_iter().map(|at| at.saturating_duration_since(began)).collect();
        last.push(times.iter().copied().max().unwrap_or_default());
        receivers.extend(times);
    }
    let sent = (args.changes * args.followers) as f64;
    figures.ours(what("each receiver, p50"), "ms", percentile_ms(&receivers, 0.5));
    figures.ours(what("last receiver, p50"), "ms", percentile_ms(&last, 0.5));
    figures.ours(what("last receiver, p99"), "ms", percentile_ms(&last, 0.99));
    figures.target(&what("last receiver, p99"), Target::AtMost(100.0));
    figures.ours(what("last receiver, worst"), "ms", percentile_ms(&last, 1.0));
    figures.ours(what("message to each"), "B", (followers.bytes() - bytes) as f64 / sent);
    let cpu = usage::cpu(server.pid())? - cpu;
    figures.ours(what("server's CPU for each"), "µs", cpu.as_secs_f64() * 1e6 / sent);
    Ok(())
}

/// The registry's revision.
pub(crate) async fn revision(registry: &mut RegistryServiceClient<Channel>) -> Result<i64> {
    let request = ListServicesRequest { page_size: 1, ..Default::default() };
    Ok(registry.list_services(request).await?.into_inner().revision)
}
