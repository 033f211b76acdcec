//! How much memory does a registered replica take in the control plane?
//!
//! What is in RAM with all of them, minus what is there without any, divided. That includes the rings of the last
//! changes and events, which are full long before; from half of the replicas to all of them it does not.

use std::time::Duration;

use anyhow::Result;
use tokio::time::{Instant, sleep};

use crate::{
    Args,
    figures::{Figures, Target},
    programs::{Programs, Server},
    replicas, usage,
};

/// An allocator gives memory back a while after it was freed.
const SETTLED_AFTER: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(15);

pub(crate) async fn measure(programs: &Programs, args: &Args, figures: &mut Figures) -> Result<()> {
    let (half, all) = (args.replicas / 2, args.replicas);
    let what = format!("memory for each of {all} replicas");
    let server = programs.control_plane()?;
    // One registration, so that everything that is made once is there.
    replicas::register(&server, all..all + 1).await?;
    let empty = settled(&server, args).await?;
    replicas::register(&server, 0..half).await?;
    let with_half = settled(&server, args).await?;
    replicas::register(&server, half..all).await?;
    let with_all = settled(&server, args).await?;
    figures.ours(what.as_str(), "B", (with_all - empty) / all as f64);
    figures.target(&what, Target::AtMost(1024.0));
    figures.ours(format!("{what}: second half"), "B", (with_all - with_half) / (all - half) as f64);

    let data = server.into_data()?;
    let server = programs.control_plane_on(data)?;
    let restarted = settled(&server, args).await?;
    figures.ours(format!("{what}: after a restart"), "B", (restarted - empty) / all as f64);
    Ok(())
}

/// Memory once it has not shrunk for a while.
async fn settled(server: &Server, args: &Args) -> Result<f64> {
    let began = Instant::now();
    let mut least = (usage::resident(server.pid())?, began);
    let patience = if args.smoke { Duration::ZERO } else { PATIENCE };
    while least.1.elapsed() < SETTLED_AFTER && began.elapsed() < patience {
        sleep(Duration::from_millis(100)).await;
        let now = usage::resident(server.pid())?;
        if now < least.0 * 0.999 {
            least = (now, Instant::now());
        }
    }
    usage::resident(server.pid())
}
