//! A thousand data planes on two control planes, one of which dies and comes back.

use gateway_tests::ControlPlane;

use super::{
    caller::{Caller, registration},
    cluster::{Cluster, Places, hold_load},
    follower::Followers,
};
use crate::{Size, figures::Figures, process, stage::SECOND};

pub(crate) async fn many(size: Size, figures: &mut Figures) {
    let count = size.of(1000, 50);
    let flags = ["--max-nodes", "3000"];
    let mut cluster = Cluster::start_with(size, Places::loopback(2), &flags).await;
    // Something to hold.
    let urls = cluster.urls();
    if size.crowd() == 0 {
        super::caller::crowd(&urls, size.of(1000, 100)).await;
    }
    let load = cluster.load();
    let caller = Caller::new(&urls[1]);
    let change = async |number: usize| {
        let request =
            registration("news", &format!("r-{number}"), &format!("10.8.0.{number}:80"), 600 * SECOND);
        let answer = caller.register(request).await.expect("it can be registered");
        answer.replica.map(|replica| replica.revision).unwrap_or_default()
    };
    let followers = match size.crowd() {
        0 => Followers::start(&urls, count),
        // So many times that many do not fit: they come back with what one of them has read.
        _ => {
            let one = Followers::start(&urls, 1);
            one.reach(caller.revision().await.expect("it answers"), 60 * SECOND).await;
            Followers::resuming(&urls, count, &one.seen()[0])
        }
    };
    let revision = change(1).await;
    let all = followers.reach(revision, 60 * SECOND).await;
    figures.swift(&format!("{count} that begin hold all"), 30 * SECOND, all);
    let revision = change(2).await;
    figures.swift("a change reaches all", SECOND, followers.reach(revision, 60 * SECOND).await);
    let memory: Vec<_> = cluster.controls.iter_mut().map(resident_mib).collect();
    figures.show("MiB of either control plane", format!("{memory:?}"));
    let before = followers.seen();

    cluster.controls[0].kill();
    let revision = change(3).await;
    let all = followers.reach(revision, 60 * SECOND).await;
    figures.swift("one of two dies: all hold the next change", 5 * SECOND, all);
    let memory = resident_mib(&mut cluster.controls[1]);
    figures.hold("MiB of the other one <= 500", memory, memory <= 500);
    cluster.controls[0].restart().await;
    let revision = change(4).await;
    figures.swift("it is back: a change reaches all", SECOND, followers.reach(revision, 60 * SECOND).await);

    let after = followers.seen();
    let reached = followers.at_least(revision);
    figures.hold(&format!("they hold all of it, of {count}"), reached, reached == count);
    let again = before.iter().zip(&after).map(|(before, after)| after.full - before.full).sum();
    figures.at_most("complete snapshots sent anew", 0, again);
    figures.at_most("updates that were refused", 0, after.iter().map(|seen| seen.refused).sum());
    figures.at_most("updates that went back", 0, after.iter().map(|seen| seen.back).sum());
    cluster.hold_leases(figures);
    hold_load(figures, &load.stop().await);
}

fn resident_mib(control: &mut ControlPlane) -> u64 {
    process::resident_kib(control.process().pid()) / 1024
}
