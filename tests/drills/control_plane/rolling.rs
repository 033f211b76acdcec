//! All of it is restarted, one after the other, as for a new version, under load.

use gateway_tests::{Load, Process, binaries, eventually, http1};

use super::{
    caller::Caller,
    cluster::{Cluster, hold_load},
    outages::PAUSE,
    writers::Writers,
};
use crate::{Size, figures::Figures, stage::SECOND};

const RATE: u32 = 60;

/// A replica of `shop`: a program that knows nothing of the gateway, supervised, which is drained before it ends.
async fn supervised(urls: &[String], number: usize) -> Process {
    let mut command = binaries::gwctl();
    let id = format!("shop-{number}");
    command.args([
        "run",
        "--endpoint",
        &urls.join(","),
        "--service",
        "shop",
        "--ttl",
        "3s",
        "--id",
        &id,
        "--",
    ]);
    let program = binaries::gwctl().get_program().to_owned();
    command.arg(program).args(["demo-replica", "--listen", "127.0.0.1:$PORT"]);
    let process = Process::spawn("gwctl run", &mut command);
    let caller = Caller::new(&urls[0]);
    eventually("it is registered", async || {
        caller.get("shop", &id).await.map(drop).map_err(|status| status.to_string())
    })
    .await;
    process
}

/// Waits until the data plane at the load's other end has routed so many more requests.
async fn more(load: &Load, count: u64) {
    let before = load.tally().sent;
    eventually("the load goes on", async || match load.tally().sent - before {
        sent if sent >= count => Ok(()),
        sent => Err(format!("{sent} requests")),
    })
    .await;
}

pub(crate) async fn restarts(size: Size, figures: &mut Figures) {
    let mut cluster = Cluster::start(size, 2).await;
    let urls = cluster.urls();
    let mut shop = [supervised(&urls, 0).await, supervised(&urls, 1).await];
    eventually("both are asked", async || {
        let answer = http1::get(cluster.data.address(), "/shop/hello").await;
        if answer.status() == 200 { Ok(()) } else { Err(answer.status().to_string()) }
    })
    .await;
    let orders = cluster.load();
    let kept = Load::start(cluster.data.address(), "/shop/hello", RATE);
    let connecting = Load::start_connecting(cluster.data.address(), "/shop/hello", RATE);
    let writers = Writers::start(&urls, "written", PAUSE);
    let mut strange = Vec::new();
    for _ in 0..size.of(3, 1) {
        for control in &mut cluster.controls {
            control.process().terminate();
            strange.push(control.process().exited().await.code());
            more(&connecting, 20).await;
            control.restart().await;
            more(&connecting, 40).await;
        }
        for member in 0..cluster.etcd.size() {
            cluster.etcd.process(member).terminate();
            cluster.etcd.process(member).exited().await;
            cluster.etcd.restart(member);
            cluster.etcd.answers().await;
            more(&connecting, 20).await;
        }
        let mut old = cluster.hand_over().await;
        strange.push(old.process().exited().await.code());
        more(&connecting, 40).await;
        for (number, replica) in shop.iter_mut().enumerate() {
            replica.terminate();
            strange.push(replica.exited().await.code());
            *replica = supervised(&urls, number).await;
            // The other one has to know it before it is its own turn.
            cluster.agree(10 * SECOND).await;
            more(&connecting, 40).await;
        }
    }
    let promised = writers.stop().await;
    let codes = strange.iter().filter(|code| **code != Some(0)).count();
    figures.at_most(&format!("exit codes of {} that are not 0", strange.len()), 0, codes as u64);
    hold_load(figures, &orders.stop().await);
    hold_load(figures, &kept.stop().await);
    hold_load(figures, &connecting.stop().await);
    figures.swift("the longest gap in changes", 3 * SECOND, promised.gap);
    promised.hold_answers(figures);
    promised.hold(figures, &urls[0]).await;
    promised.hold(figures, &urls[1]).await;
    cluster.hold_leases(figures);
}
