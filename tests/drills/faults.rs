//! One of three replicas is ill, at 150 requests a second of which a third are POSTs, for four seconds a fault.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use gateway_tests::{DataPlane, DemoReplica};
use tempfile::TempDir;

use crate::{
    Size,
    client::{Fates, load, load_of_gets, probe},
    figures::Figures,
    replica::{Fault, Posts, Replica, lock},
    stage::{SECOND, Stage, gateway, metric},
};

const RATE: u32 = 150;
const LASTS: Duration = Duration::from_secs(4);

/// A stage with traffic, and what became of it from the moment that its first replica fell ill.
async fn struck(fault: Fault) -> (Stage, Fates) {
    let stage = Stage::start(&[]).await;
    load(stage.proxy(), RATE, SECOND).await;
    stage.replicas[0].falls_ill(fault);
    let fates = load(stage.proxy(), RATE, LASTS).await;
    (stage, fates)
}

fn failures(figures: &mut Figures, fates: &Fates, get: u64, post: u64) {
    let (gets, posts) = (fates.count(false), fates.count(true));
    figures.at_most(&format!("GET failed of {gets}"), get, fates.failed(false));
    figures.at_most(&format!("POST failed of {posts}"), post, fates.failed(true));
}

pub(crate) async fn killed(_: Size, figures: &mut Figures) {
    let mut stage = Stage::start(&[]).await;
    load(stage.proxy(), RATE, SECOND).await;
    let proxy = stage.proxy();
    // Between two requests: a POST that it had when it died would be lost with any proxy.
    let kill = async {
        tokio::time::sleep(Duration::from_millis(503)).await;
        stage.replicas[0].kill();
    };
    let (fates, ()) = tokio::join!(load(proxy, RATE, LASTS), kill);
    failures(figures, &fates, 0, 0);
    figures.swift("p99", Duration::from_millis(30), fates.p99());
}

/// A process is stopped: its connections stay up, and nothing moves on them.
pub(crate) async fn frozen(_: Size, figures: &mut Figures) {
    let posts = Posts::default();
    let well = [Replica::start(&posts), Replica::start(&posts)];
    let mut stopped = DemoReplica::start("r-1").await;
    let replicas = [stopped.address(), well[0].address(), well[1].address()];
    let (gateway, _directory) = gateway(&replicas, &[]).await;
    load(gateway.address(), RATE, SECOND).await;
    stopped.process().pause();
    let fates = load(gateway.address(), RATE, LASTS).await;
    failures(figures, &fates, 0, 15);
    figures.swift("p99", Duration::from_millis(1050), fates.p99());
}

pub(crate) async fn unavailable(_: Size, figures: &mut Figures) {
    let (_stage, fates) = struck(Fault::Unavailable(0.3)).await;
    failures(figures, &fates, 0, 8);
}

pub(crate) async fn closing(_: Size, figures: &mut Figures) {
    let (stage, fates) = struck(Fault::Closes(0.3)).await;
    figures.at_most("GET failed", 0, fates.failed(false));
    figures.show("POST failed", fates.failed(true));
    let twice = lock(&stage.posts).values().filter(|count| **count > 1).count();
    figures.at_most("POSTs that replicas saw twice", 0, twice as u64);
}

pub(crate) async fn resetting(_: Size, figures: &mut Figures) {
    let (_stage, fates) = struck(Fault::Resets(0.3)).await;
    figures.at_most("cut answers that look complete", 0, fates.damaged());
    figures.at_most("GET cut", 15, fates.failed(false));
}

pub(crate) async fn slow(_: Size, figures: &mut Figures) {
    let stage = Stage::start(&[]).await;
    load(stage.proxy(), RATE, SECOND).await;
    stage.replicas[0].falls_ill(Fault::Slow(2 * SECOND));
    let first = load(stage.proxy(), RATE, 3 * SECOND).await;
    let before = stage.replicas[0].seen();
    let then = load(stage.proxy(), RATE, SECOND).await;
    let fates = Fates([first.0, then.0].concat());
    figures.at_most(&format!("GET failed of {}", fates.count(false)), 0, fates.failed(false));
    // Those that it had before it was found out.
    figures.show(&format!("POST failed of {}", fates.count(true)), fates.failed(true));
    figures.swift("p99", Duration::from_millis(1050), fates.p99());
    // Probes only.
    figures.at_most("requests to it in the fourth second", 2, stage.replicas[0].seen() - before);
}

pub(crate) async fn flapping(size: Size, figures: &mut Figures) {
    let mut stage = Stage::start(&[]).await;
    let (proxy, seconds) = (stage.proxy(), size.of(60, 8));
    load(proxy, RATE, SECOND).await;
    let flap = async {
        for second in 0..seconds {
            if second % 2 == 0 {
                stage.replicas[0].kill()
            } else {
                stage.replicas[0].revive()
            }
            tokio::time::sleep(SECOND).await;
        }
    };
    let (fates, ()) = tokio::join!(load(proxy, RATE, SECOND * seconds), flap);
    failures(figures, &fates, 0, fates.count(true) / 100);
    figures.at_most(&format!("ejections in {seconds} s"), 10, stage.trips().await);
}

pub(crate) async fn all_down(_: Size, figures: &mut Figures) {
    let mut stage = Stage::by_default().await;
    let proxy = stage.proxy();
    load(proxy, RATE, SECOND).await;
    stage.replicas.iter_mut().for_each(Replica::kill);
    // The breakers find it out.
    load(proxy, RATE, SECOND).await;
    let attempts = stage.metric("gateway_upstream_attempts_total").await;
    let fates = load(proxy, RATE, LASTS).await;
    let attempts = stage.metric("gateway_upstream_attempts_total").await - attempts;
    let refused = fates.0.iter().filter(|fate| fate.status == Some(503) && fate.has_retry_after).count();
    let all = fates.0.len();
    // A probe is answered with what it met.
    let criterion = format!("503 with Retry-After but for probes, of {all}");
    figures.hold(&criterion, format!("{refused} and {attempts}"), refused + attempts as usize >= all);
    // Whoever waits, does so for a connection (1 s), an attempt (10 s), a place (1 s) or a back-off (up to 0.25 s).
    figures.prompt("their median", [Duration::from_millis(5), Duration::from_millis(50)], fates.median());
    figures.prompt("their p99", [Duration::from_millis(5), Duration::from_millis(250)], fates.p99());
    figures.hold("attempts <= 1.2 x requests", attempts, attempts <= 1.2 * all as f64);
    stage.replicas.iter_mut().for_each(Replica::revive);
    let back = Instant::now();
    while probe(proxy).await.status != Some(200) && back.elapsed() < 20 * SECOND {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    figures.within("first 200 after the return", 2 * SECOND, back.elapsed());
    let full = loop {
        let (at, before) = (back.elapsed(), stage.replicas.iter().map(Replica::seen).collect::<Vec<_>>());
        let fates = load(proxy, RATE, SECOND / 3).await;
        let shares = stage.replicas.iter().zip(before).map(|(replica, before)| replica.seen() - before);
        let is_full = fates.failed(false) + fates.failed(true) == 0 && shares.min() >= Some(14);
        if is_full || at > 20 * SECOND {
            break at;
        }
    };
    figures.within("all of the traffic to all of them", 3 * SECOND, full);
}

/// The gateway is registered as a replica of its own service: alone, and beside two that are well.
pub(crate) async fn own_replica(size: Size, figures: &mut Figures) {
    let (gateway, _directory) = among_its_own_replicas(&[]).await;
    let fate = probe(gateway.address()).await;
    let attempts = metric(gateway.admin(), "gateway_upstream_attempts_total").await;
    figures.hold(
        "answered with 502 or 508",
        format!("{:?}", fate.status),
        matches!(fate.status, Some(502 | 508)),
    );
    figures.hold("extra hops <= 1", attempts, attempts <= 1.0);

    let posts = Posts::default();
    let well = [Replica::start(&posts), Replica::start(&posts)];
    let (gateway, _directory) = among_its_own_replicas(&[well[0].address(), well[1].address()]).await;
    let fates = load_of_gets(gateway.address(), RATE, SECOND * size.of(4, 1)).await;
    let attempts = metric(gateway.admin(), "gateway_upstream_attempts_total").await;
    figures.at_most(&format!("GET failed of {}", fates.0.len()), 0, fates.failed(false));
    let each = attempts / fates.0.len() as f64;
    figures.hold("attempts for each <= 2", format!("{each:.2}"), each <= 2.0);
}

/// A gateway that is a replica of its own service, and these beside it.
async fn among_its_own_replicas(others: &[SocketAddr]) -> (DataPlane, TempDir) {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("there are ports");
    let address = free.local_addr().expect("it is bound");
    drop(free);
    let (gateway, directory) = gateway(&[&[address], others].concat(), &[]).await;
    let elsewhere = gateway.address();
    let relay = tokio::net::TcpListener::bind(address).await.expect("the port is free");
    tokio::spawn(async move {
        // In place of a port of its own: whoever connects to the replica reaches the gateway.
        while let Ok((mut inbound, _)) = relay.accept().await {
            tokio::spawn(async move {
                if let Ok(mut outbound) = tokio::net::TcpStream::connect(elsewhere).await {
                    let _ = tokio::io::copy_bidirectional(&mut inbound, &mut outbound).await;
                }
            });
        }
    });
    (gateway, directory)
}
