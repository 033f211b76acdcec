//! A replica is drained, and the gateway itself ends and is replaced, under load.

use std::time::{Duration, Instant};

use gateway_proto::v1::{DeregisterRequest, DrainReplicaRequest};
use gateway_tests::{Act, DataPlane, Gateway, Load, Scripted, eventually, load::Tally};

use crate::{
    Size,
    figures::Figures,
    stage::{SECOND, Stage},
};

const RATE: u32 = 300;

/// Holds that no request failed, and that some were sent.
pub(crate) fn flawless(figures: &mut Figures, what: &str, tally: &Tally) {
    let reasons = if tally.failed > 0 { format!(" ({:?})", tally.reasons) } else { String::new() };
    let sent = tally.sent;
    figures.hold(
        &format!("{what}: failed of {sent} <= 0"),
        format!("{}{reasons}", tally.failed),
        tally.failed == 0 && sent > 0,
    );
}

/// A replica that takes a second for each answer is drained, and another one like it removed.
pub(crate) async fn drained(size: Size, figures: &mut Figures) {
    for is_removed in [false, true] {
        goes(is_removed, size, figures).await;
    }
}

async fn goes(is_removed: bool, size: Size, figures: &mut Figures) {
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone".to_vec();
    let slow = || {
        let answer = answer.clone();
        Scripted::start(move |_, _| Act::AnswerAfter(SECOND, answer.clone()))
    };
    let (leaving, staying) = (slow(), slow());
    let gateway = Gateway::start().await;
    gateway.register("orders", "r-1", leaving.address()).await;
    gateway.register("orders", "r-2", staying.address()).await;
    let lasts = SECOND * size.of(4, 2);
    let load = tokio::spawn(crate::client::load(gateway.proxy(), size.of(RATE, 100), lasts + 3 * SECOND));
    tokio::time::sleep(lasts).await;
    let (service, replica_id) = ("orders".to_owned(), "r-1".to_owned());
    let mut registry = gateway.control.registry();
    let how = if is_removed {
        let request = DeregisterRequest { service, replica_id, force: true, ..Default::default() };
        registry.deregister(request).await.expect("it can be removed");
        "removed"
    } else {
        let request = DrainReplicaRequest { service, replica_id, ..Default::default() };
        registry.drain_replica(request).await.expect("it can be drained");
        "drained"
    };
    let acked = Instant::now();
    let fates = load.await.expect("the load does not panic");
    let late = leaving.seen().iter().filter(|seen| seen.arrived > acked + SECOND).count();
    let (gets, posts) = (fates.count(false), fates.count(true));
    figures.at_most(&format!("{how}: cut of {}", gets + posts), 0, fates.failed(false) + fates.failed(true));
    figures.at_most(&format!("{how}: new requests to it a second after the ack"), 0, late as u64);
}

/// SIGTERM within the drain delay, and handovers from process to process.
pub(crate) async fn replaced(size: Size, figures: &mut Figures) {
    let mut stage = Stage::start(&["--drain-delay", "2s"]).await;
    let kept = Load::start(stage.proxy(), "/orders/x", RATE * 2 / 3);
    let connecting = Load::start_connecting(stage.proxy(), "/orders/x", RATE / 3);
    tokio::time::sleep(SECOND).await;
    stage.gateway.process().terminate();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    // Those who connect have been told by /readyz to go elsewhere; the others go on to the end.
    flawless(figures, "SIGTERM, a connection each", &connecting.stop().await);
    flawless(figures, "SIGTERM, kept connections", &kept.stop().await);
    let code = stage.gateway.process().exited().await.code();
    figures.hold("exit code 0", format!("{code:?}"), code == Some(0));

    let directory = tempfile::tempdir().expect("there is a folder for temporary files");
    let socket = directory.path().join("handover").display().to_string();
    let mut serving = successor(&stage, &socket, "2").await;
    let kept = Load::start(serving.address(), "/orders/x", RATE * 2 / 3);
    let connecting = Load::start_connecting(serving.address(), "/orders/x", RATE / 3);
    let workers = ["1", "4", "2", "3", "2"];
    let handovers = size.of(10, 3);
    for number in 0..handovers {
        let next = successor(&stage, &socket, workers[number % workers.len()]).await;
        let mut old = std::mem::replace(&mut serving, next);
        let before = connecting.tally().sent;
        eventually("the load goes on", async || match connecting.tally().sent {
            sent if sent >= before + 100 => Ok(()),
            sent => Err(format!("{sent} requests")),
        })
        .await;
        let code = old.process().exited().await.code();
        if code != Some(0) {
            figures.hold("exit code 0 after a handover", format!("{code:?}"), false);
        }
    }
    flawless(figures, &format!("{handovers} handovers, kept connections"), &kept.stop().await);
    flawless(figures, &format!("{handovers} handovers, a connection each"), &connecting.stop().await);
}

async fn successor(stage: &Stage, socket: &str, workers: &str) -> DataPlane {
    let path = stage.list.display().to_string();
    DataPlane::start(&["--static", &path, "--handover-socket", socket, "--workers", workers]).await
}
