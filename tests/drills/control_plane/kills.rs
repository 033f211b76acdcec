//! A control plane on a file is killed at random, again and again, while clients change things at full speed.

use std::time::{Duration, Instant};

use super::{
    alone::Alone,
    cluster::{ROOMY, hold_load},
    writers::{Promised, Writers},
};
use crate::{Size, figures::Figures, stage::SECOND};

pub(crate) async fn kills(size: Size, figures: &mut Figures) {
    // Services of ten replicas each.
    let crowd = size.crowd().max(size.of(10_000, 200));
    let mut alone = Alone::start(crowd, &ROOMY).await;
    let (urls, load) = ([alone.control.url()], alone.load());
    let (mut promised, mut slowest) = (Promised::default(), Duration::ZERO);
    let rounds = size.of(20, 4);
    for round in 0..rounds {
        let writers = Writers::start(&urls, &format!("round-{round}"), Duration::ZERO);
        // In every round another number, so that the kill falls on ever other moments.
        writers.go_on(100 + round * 97 % 400, 30 * SECOND).await;
        alone.control.kill();
        let killed = Instant::now();
        alone.control.restart().await;
        slowest = slowest.max(killed.elapsed());
        promised = writers.stop().await.and(promised);
    }
    figures.show("kills, replicas beside", format!("{rounds}, {crowd}"));
    figures.swift("until it serves again, the slowest", 2 * SECOND, slowest);
    promised.hold_answers(figures);
    promised.hold(figures, &urls[0]).await;
    alone.hold_leases(figures);
    hold_load(figures, &load.stop().await);
}
