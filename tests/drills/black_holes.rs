//! Packets are dropped, not refused: nobody says that a replica is gone. Runs in a network of its own.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use gateway_tests::http1::{self, Connection};
use http::Method;
use tokio::task::JoinSet;

use crate::{
    Size,
    client::{Fates, load, load_of_gets},
    figures::Figures,
    network::{self, Filter},
    replica::{Replica, lock},
    stage::{SECOND, Stage},
};

const RATE: u32 = 100;
/// The default of `timeout.connect`.
const CONNECT_TIMEOUT: Duration = SECOND;

/// One of three is not reached any more, by no packet in either direction.
pub(crate) async fn black_hole(size: Size, figures: &mut Figures) {
    let filter = Filter::new();
    let stage = Stage::by_default().await;
    let (proxy, replicas) = (stage.proxy(), &stage.replicas);
    let requests = size.of(1000, 300);
    let lasts = SECOND * requests / RATE;
    let before = load_of_gets(proxy, RATE, lasts).await;
    filter.drops(&[replicas[0].address().port()]);
    let fates = load_of_gets(proxy, RATE, lasts).await;
    figures.at_most(&format!("failed of {requests} while it is out of reach"), 0, fates.failed(false));
    let limit = CONNECT_TIMEOUT + Duration::from_millis(100);
    figures.within("p99 of them (connect timeout + 100 ms)", limit, fates.p99());
    figures.show("p99 before", format!("{:.1?}", before.p99()));
    // By now it is out for some seconds at a time, with a probe in between.
    let attempts = stage.metric("gateway_upstream_attempts_total").await;
    let after = load_of_gets(proxy, RATE, lasts).await;
    let attempts = stage.metric("gateway_upstream_attempts_total").await - attempts;
    figures.at_most(&format!("failed of {requests} once its breaker is open"), 0, after.failed(false));
    let probes = attempts as u64 - u64::from(requests);
    figures.show("attempts that were probes of it", probes);
    // One request in a probe waits for it: of a thousand there are few.
    figures.swift(
        "p99 once it is open, as it was before",
        before.p99() + Duration::from_millis(5),
        after.p99(),
    );

    filter.heals();
    // Its checks find out that it is back, not the next probe of a breaker that may be open for a minute.
    figures.prompt("a full share again", [3 * SECOND, 10 * SECOND], full_share(proxy, replicas).await);
}

/// How long it takes until the first replica has a third of the requests again.
async fn full_share(proxy: SocketAddr, replicas: &[Replica]) -> Duration {
    let began = Instant::now();
    while began.elapsed() < 90 * SECOND {
        let before = replicas[0].seen();
        let at = began.elapsed();
        load_of_gets(proxy, 300, SECOND / 5).await;
        if replicas[0].seen() - before >= 19 {
            return at;
        }
    }
    began.elapsed()
}

/// What is sent to one of three does not arrive, and what it sends does; then the other way round.
pub(crate) async fn one_way(size: Size, figures: &mut Figures) {
    let filter = Filter::new();
    for (what, is_deaf) in [("it hears nothing", true), ("nothing is heard of it", false)] {
        let stage = Stage::start(&[]).await;
        let (proxy, port) = (stage.proxy(), stage.replicas[0].address().port());
        load(proxy, RATE, SECOND).await;
        if is_deaf {
            filter.deafens(&[port])
        } else {
            filter.silences(&[port])
        }
        let fates = load(proxy, RATE, SECOND * size.of(10, 4)).await;
        figures.at_most(&format!("{what}: GET failed of {}", fates.count(false)), 0, fates.failed(false));
        // Nobody knows of those that were under way whether they have arrived.
        figures.show(&format!("{what}: POST failed of {}", fates.count(true)), fates.failed(true));
        let twice = lock(&stage.posts).values().filter(|count| **count > 1).count();
        figures.at_most(&format!("{what}: POSTs that replicas saw twice"), 0, twice as u64);
        // One attempt may take a second, and a connection as long.
        let limit = 2 * SECOND + Duration::from_millis(100);
        figures.swift(&format!("{what}: the slowest GET"), limit, fates.slowest());
        filter.heals();
    }
}

/// The connections that there are to one of three replicas are dead, and nobody says so. New ones work.
pub(crate) async fn half_open(size: Size, figures: &mut Figures) {
    let filter = Filter::new();
    let stage = Stage::start(&["--workers", "2"]).await;
    let (proxy, replica) = (stage.proxy(), stage.replicas[0].address());
    // So many at once that a pool is left.
    busy(proxy, 200).await;
    load(proxy, RATE, SECOND).await;
    let dead = network::connected_to(replica);
    figures.hold("connections to it in the pools >= 20", dead.len(), dead.len() >= 20);
    filter.drops(&dead);
    let began = Instant::now();
    let gone = async {
        loop {
            let now = network::connected_to(replica);
            if !dead.iter().any(|port| now.contains(port)) {
                return began.elapsed();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let load = load(proxy, RATE, SECOND * size.of(12, 11));
    let gone = async { tokio::time::timeout(60 * SECOND, gone).await.unwrap_or(Duration::MAX) };
    let (fates, gone): (Fates, _) = tokio::join!(load, gone);
    figures.at_most(&format!("GET failed of {}", fates.count(false)), 0, fates.failed(false));
    figures.show(&format!("POST failed of {}", fates.count(true)), fates.failed(true));
    // The policy of drills: one attempt may take a second.
    figures.within(
        "the slowest GET (per try + 100 ms)",
        SECOND + Duration::from_millis(100),
        fates.slowest(),
    );
    figures.within("dead connections gone", 10 * SECOND, gone);
    figures.hold(
        "requests to it go on, on new ones",
        stage.replicas[0].seen(),
        !network::connected_to(replica).is_empty(),
    );
}

/// Has so many requests under way at once, so that as many connections are there.
async fn busy(proxy: SocketAddr, count: usize) {
    let mut clients = JoinSet::new();
    for _ in 0..count {
        clients.spawn(async move {
            let Ok(mut connection) = Connection::open(proxy).await else { return };
            for _ in 0..5 {
                let request = http1::request(Method::GET, "/orders/x");
                let _ = connection.send(request).await;
            }
        });
    }
    while clients.join_next().await.is_some() {}
}
