//! How long until many data planes, which all come back at once after a restart, are current, and what memory does the
//! control plane need meanwhile?
//!
//! The restart is a SIGKILL and a start on the same store. Data planes connect at the moment it serves again: first
//! such as hold the revision of before, then such as hold nothing.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::{
    Args,
    figures::{Figures, Target},
    follower::{Followers, Held},
    programs::{Programs, Server},
    replicas,
    samples::percentile_ms,
    usage,
};

const PATIENCE: Duration = Duration::from_secs(180);
const MIB: f64 = 1024.0 * 1024.0;

pub(crate) async fn measure(programs: &Programs, args: &Args, figures: &mut Figures) -> Result<()> {
    let what =
        |of: &str| format!("{} streams after a restart, {} replicas: {of}", args.followers, args.replicas);
    let server = programs.control_plane()?;
    replicas::register(&server, 0..args.replicas).await?;
    let mut one = Followers::start(server.address(), 1, None);
    one.reached(PATIENCE).await?;
    let held = one.held()?;
    drop(one);

    let (server, ready) = restart(programs, server)?;
    figures.ours(what("until it serves"), "s", ready.as_secs_f64());
    let times = come_back(&server, args, Some(&held)).await?;
    figures.ours(what("that hold all, p50"), "s", percentile_ms(&times, 0.5) / 1000.0);
    figures.ours(what("that hold all, last"), "s", percentile_ms(&times, 1.0) / 1000.0);
    figures.target(&what("that hold all, last"), Target::AtMost(5.0));
    figures.ours(what("that hold all, peak memory"), "MiB", usage::resident_peak(server.pid())? / MIB);

    let (server, _) = restart(programs, server)?;
    let before = usage::resident(server.pid())?;
    let cpu = usage::cpu(server.pid())?;
    let times = come_back(&server, args, None).await?;
    let cpu = usage::cpu(server.pid())? - cpu;
    figures.ours(what("that hold nothing, p50"), "s", percentile_ms(&times, 0.5) / 1000.0);
    figures.ours(what("that hold nothing, last"), "s", percentile_ms(&times, 1.0) / 1000.0);
    figures.target(&what("that hold nothing, last"), Target::AtMost(30.0));
    figures.ours(what("that hold nothing, server's CPU"), "s", cpu.as_secs_f64());
    figures.ours(what("that hold nothing, memory before"), "MiB", before / MIB);
    figures.ours(what("that hold nothing, peak memory"), "MiB", usage::resident_peak(server.pid())? / MIB);
    Ok(())
}

/// Kills the server and starts it again on its data, at another port; also says how long the start took.
fn restart(programs: &Programs, server: Server) -> Result<(Server, Duration)> {
    let data = server.into_data()?;
    let began = Instant::now();
    let server = programs.control_plane_on(data)?;
    Ok((server, began.elapsed()))
}

/// The time until each of the followers is current, from the moment at which they all connect.
async fn come_back(server: &Server, args: &Args, held: Option<&Held>) -> Result<Vec<Duration>> {
    let began = Instant::now();
    let mut followers = Followers::start(server.address(), args.followers, held);
    let reached = followers.reached(PATIENCE).await?;
    let each = followers.bytes() as f64 / args.followers as f64;
    eprintln!("  {:.1} MiB for each follower, {} retries", each / MIB, followers.retries());
    Ok(reached.into_iter().map(|at| at.saturating_duration_since(began)).collect())
}
