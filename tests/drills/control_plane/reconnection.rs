//! Many data planes come back at once to a control plane that has much to hold, and was killed.

use std::time::{Duration, Instant};

use gateway_tests::ControlPlane;

use super::{
    caller::{Caller, crowd},
    cluster::ROOMY,
    follower::Followers,
};
use crate::{Size, figures::Figures, process, stage::SECOND};

/// A control plane with nothing to do uses less of a processor.
const IDLE: f64 = 0.05;
const LIMIT: Duration = Duration::from_secs(60);

pub(crate) async fn reconnection(size: Size, figures: &mut Figures) {
    let (replicas, count) = (size.crowd().max(size.of(100_000, 1000)), size.of(500, 50));
    let folder = tempfile::tempdir().expect("there is a folder for temporary files");
    let flags = [&ROOMY[..], &["--max-nodes", "1000"]].concat();
    let mut control = ControlPlane::start_with(&folder.path().join("registry.redb"), &flags).await;
    let urls = [control.url()];
    crowd(&urls, replicas).await;
    let revision = Caller::new(&urls[0]).revision().await.expect("it answers");
    let one = Followers::start(&urls, 1);
    one.reach(revision, LIMIT).await;
    let held = one.seen().swap_remove(0);
    drop(one);

    control.kill();
    let killed = Instant::now();
    control.restart().await;
    figures.show("it serves again after", format!("{:.1?}, with {replicas} replicas", killed.elapsed()));
    let pid = control.process().pid();
    let followers = Followers::resuming(&urls, count, &held);
    let ready = followers.reach(revision, LIMIT).await;
    let reached = followers.at_least(revision);
    figures.hold(&format!("data planes that are back, of {count}"), reached, reached == count);
    figures.swift("until all are", 5 * SECOND, ready);
    let idle = idle(pid).await;
    figures.swift("its processor is idle again after", 10 * SECOND, idle);
    let memory = process::resident_peak_kib(pid) / 1024;
    figures.hold("MiB at the most <= 500", memory, memory <= 500);
    let again = followers.seen().iter().map(|seen| seen.full).sum();
    figures.at_most("complete snapshots sent anew", 0, again);
}

/// How long it takes until a process has used next to no processor for a second.
async fn idle(pid: u32) -> Duration {
    let began = Instant::now();
    loop {
        let (at, before) = (began.elapsed(), process::cpu(pid));
        tokio::time::sleep(SECOND).await;
        let used = process::cpu(pid) - before;
        if used.as_secs_f64() < IDLE || at > LIMIT {
            return at;
        }
    }
}
