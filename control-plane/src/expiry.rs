//! The task that looks for lapsed leases and has the writer remove their replicas.
//!
//! It also does what has to be done now and then: it tidies what is observed.

use std::{sync::Arc, time::Duration};

use gateway_runtime::Shutdown;
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use crate::{
    clock,
    effects::Effects,
    leases::{Lapsed, Leases, SWEEP_INTERVAL},
    registry::Command,
    writer::Commands,
};

/// Removals under way at once; the others wait for the next sweep.
const MAX_REMOVALS: usize = 1024;
const TIDY_INTERVAL: Duration = Duration::from_secs(10);

/// Runs until the shutdown begins: from then on owners cannot renew, so nothing may expire either.
pub(crate) async fn run(effects: Effects, commands: Commands, shutdown: Shutdown) {
    let mut sweeps = interval(SWEEP_INTERVAL);
    sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut tidying = interval(TIDY_INTERVAL);
    tidying.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut removals = JoinSet::new();
    loop {
        tokio::select! {
            () = shutdown.begun() => return,
            _ = sweeps.tick() => {
                let now = clock::now();
                if let Some(gap) = effects.leases.sweep(now).stalled_for {
                    tracing::warn!(?gap, "this process stood still: leases get one full time to live instead of lapsing");
                }
                // A store that is slow or away must not hold up the sweeps, or they would look like a stall.
                if removals.is_empty() {
                    let lapsed = effects.leases.lapsed(MAX_REMOVALS, now);
                    if !lapsed.is_empty() {
                        removals.spawn(remove(Arc::clone(&effects.leases), commands.clone(), lapsed));
                    }
                }
            }
            Some(_) = removals.join_next() => {}
            _ = tidying.tick() => {
                effects.observation.tidy(|key| effects.publisher.read(|view| view.get(key).is_some()));
            }
        }
    }
}

/// Removes what lapsed. What fails stays marked, and comes again with a later sweep.
async fn remove(leases: Arc<Leases>, commands: Commands, lapsed: Vec<Lapsed>) {
    let expire = |lapsed: &Lapsed| Command::Expire {
        key: lapsed.key.clone(),
        lease: lapsed.lease,
        silent_for: lapsed.silent_for,
    };
    let outcomes = commands.submit_all(lapsed.iter().map(expire).collect()).await;
    for (lapsed, outcome) in lapsed.iter().zip(outcomes) {
        if outcome.is_ok() {
            leases.forget(lapsed.lease);
        }
    }
}
