//! A control plane stands still for several times what leases last, or is away for as long: nobody pays for that. And one that
//! stood still while etcd forgot what it had missed.

use std::time::{Duration, Instant};

use super::{
    alone::Alone,
    caller::Caller,
    cluster::{Cluster, ROOMY, TTL, hold_load},
    outages::PAUSE,
    owner::Owner,
    writers::Writers,
};
use crate::{Size, figures::Figures, stage::SECOND};

/// Stopped and resumed, then killed and started, each for three times what a lease lasts.
pub(crate) async fn frozen(size: Size, figures: &mut Figures) {
    let away = TTL * size.of(3, 2);
    let mut alone = Alone::start(size.crowd(), &ROOMY).await;
    let (url, load) = (alone.control.url(), alone.load());
    alone.control.process().pause();
    tokio::time::sleep(away).await;
    alone.control.process().resume();
    let missing = missing(&url, &alone.owners).await;
    figures.at_most(&format!("looks at a replica that is gone, after a stop of {away:?}"), 0, missing);
    alone.hold_leases(figures);

    alone.control.kill();
    tokio::time::sleep(away).await;
    alone.control.restart().await;
    let missing = self::missing(&url, &alone.owners).await;
    figures.at_most(&format!("looks at a replica that is gone, after {away:?} away"), 0, missing);
    alone.hold_leases(figures);
    hold_load(figures, &load.stop().await);

    // One of two on an etcd: the other one hears owners meanwhile, and neither takes them for dead.
    let mut cluster = Cluster::start(size, 2).await;
    let (urls, load) = (cluster.urls(), cluster.load());
    cluster.controls[0].process().pause();
    tokio::time::sleep(away).await;
    cluster.controls[0].process().resume();
    let missing = self::missing(&urls[0], &cluster.owners).await;
    figures.at_most("the same of one of two on etcd", 0, missing);
    figures.within("until both are at one revision", 5 * SECOND, cluster.agree(20 * SECOND).await);
    cluster.hold_leases(figures);
    hold_load(figures, &load.stop().await);
}

/// How often an owner's replica is not there, within two of what its lease lasts.
async fn missing(url: &str, owners: &[Owner]) -> u64 {
    let (caller, began, mut missing) = (Caller::new(url), Instant::now(), 0);
    while began.elapsed() < 2 * TTL {
        for number in 0..owners.len() {
            missing += u64::from(caller.get("orders", &format!("r-{number}")).await.is_err());
        }
        tokio::time::sleep(SECOND / 20).await;
    }
    missing
}

/// A control plane stands still while others change things, etcd forgets all of it, and no watch is left.
pub(crate) async fn compacted(size: Size, figures: &mut Figures) {
    let mut cluster = Cluster::start(size, 2).await;
    let urls = cluster.urls();
    let load = cluster.load();
    let writers = Writers::start(&urls, "before", PAUSE);
    writers.go_on(size.of(200, 50), 30 * SECOND).await;
    let before = writers.stop().await;
    cluster.agree(10 * SECOND).await;

    cluster.controls[1].process().pause();
    let writers = Writers::start(&urls[..1], "meanwhile", PAUSE);
    let stopped = Instant::now();
    for member in 0..cluster.etcd.size() {
        writers.go_on(size.of(200, 50), 30 * SECOND).await;
        // Its watch has to begin anew.
        cluster.etcd.process(member).terminate();
        cluster.etcd.process(member).exited().await;
        cluster.etcd.restart(member);
        cluster.etcd.answers().await;
    }
    let forgotten = cluster.etcd.revision().to_string();
    cluster.etcd.ctl(&["compact", &forgotten]);
    let meanwhile = writers.stop().await;
    if stopped.elapsed() < 2 * TTL {
        tokio::time::sleep(2 * TTL - stopped.elapsed()).await;
    }
    cluster.controls[1].process().resume();
    let agreed = cluster.agree(20 * SECOND).await;
    figures.within("until both are at one revision", 5 * SECOND, agreed);
    let promised = meanwhile.and(before);
    promised.hold_answers(figures);
    promised.hold(figures, &urls[0]).await;
    promised.hold(figures, &urls[1]).await;
    let lists = [Caller::new(&urls[0]).list("-").await.ok(), Caller::new(&urls[1]).list("-").await.ok()];
    let are_equal = lists[0].is_some() && lists[0] == lists[1];
    figures.hold("both list the same", are_equal, are_equal);
    tokio::time::sleep(Duration::max(TTL, 2 * SECOND)).await;
    cluster.hold_leases(figures);
    hold_load(figures, &load.stop().await);
}
