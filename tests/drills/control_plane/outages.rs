//! Members of etcd are killed and come back, while owners renew, clients change things and requests are served.

use std::time::{Duration, Instant};

use tonic::Code;

use super::{
    caller::{Caller, registration},
    cluster::{Cluster, TTL},
    writers::Writers,
};
use crate::{
    Size,
    client::percentile,
    figures::Figures,
    stage::{SECOND, metric},
};

/// Between two requests of a client: several hundred a second in all, beside which two cores have time for three members.
pub(crate) const PAUSE: Duration = Duration::from_millis(20);
/// What no drill waits longer for.
const LIMIT: Duration = Duration::from_secs(30);
pub(crate) const STREAMS_ENDED: &str = "gateway_control_plane_streams_ended_total";

/// The member that leads is killed again and again.
pub(crate) async fn leader(size: Size, figures: &mut Figures) {
    let mut cluster = Cluster::start(size, 2).await;
    let urls = cluster.urls();
    let load = cluster.load();
    let writers = Writers::start(&urls, "written", PAUSE);
    writers.go_on(100, LIMIT).await;
    let rounds = size.of(5, 1);
    for _ in 0..rounds {
        let leader = cluster.leader().await;
        cluster.etcd.kill(leader);
        writers.go_on(100, LIMIT).await;
        cluster.etcd.restart(leader);
        cluster.etcd.answers().await;
        writers.go_on(100, LIMIT).await;
    }
    let promised = writers.stop().await;
    figures.swift(&format!("the longest gap in changes, {rounds} kills"), 3 * SECOND, promised.gap);
    cluster.hold_end(figures, &promised, load).await;
}

/// One of two control planes is killed, each in its turn.
pub(crate) async fn control(size: Size, figures: &mut Figures) {
    let mut cluster = Cluster::start(size, 2).await;
    let urls = cluster.urls();
    let load = cluster.load();
    let writers = Writers::start(&urls, "written", PAUSE);
    writers.go_on(100, LIMIT).await;
    let rounds = size.of(10, 2);
    let mut slowest = Duration::ZERO;
    for round in 0..rounds {
        let control = &mut cluster.controls[round % 2];
        control.kill();
        writers.go_on(100, LIMIT).await;
        let back = Instant::now();
        control.restart().await;
        slowest = slowest.max(back.elapsed());
        writers.go_on(100, LIMIT).await;
    }
    let promised = writers.stop().await;
    figures.swift(&format!("the longest gap in changes, {rounds} kills"), SECOND, promised.gap);
    figures.swift("until it serves again, the slowest", 2 * SECOND, slowest);
    cluster.hold_end(figures, &promised, load).await;
}

/// Two of three members are killed, for longer than leases last, and come back.
pub(crate) async fn quorum(size: Size, figures: &mut Figures) {
    let mut cluster = Cluster::start(size, 2).await;
    let urls = cluster.urls();
    let load = cluster.load();
    let writers = Writers::start(&urls, "written", PAUSE);
    writers.go_on(200, LIMIT).await;
    let before = writers.stop().await;
    // What two members have decided a moment ago, the third may not know yet.
    let leader = cluster.leader().await;
    for member in [leader, (leader + 1) % 3] {
        cluster.etcd.kill(member);
    }
    let streams = metric(cluster.data.admin(), STREAMS_ENDED).await;
    let away = size.lasts(size.of(15, 7));
    let (one, other) = tokio::join!(look_around(&urls[0], away, 0), look_around(&urls[1], away, 1));
    let looks = one.and(other);
    figures.at_most(
        &format!("reads failed of {} without a quorum of {away:?}", looks.reads),
        0,
        looks.failed,
    );
    let ended = metric(cluster.data.admin(), STREAMS_ENDED).await - streams;
    figures.hold("snapshot streams that ended 0", ended, ended == 0.0);
    hold_silence(&cluster, away, figures).await;
    figures.at_most("changes acknowledged without a quorum", 0, looks.acks);
    figures.at_most("refused with something else than UNAVAILABLE", 0, looks.strange);
    // One call's patience: four seconds, and some.
    figures.within("the first refusal", 6 * SECOND, looks.first);
    figures.swift("later refusals, p99", SECOND / 10, percentile(looks.later.clone(), 0.99));
    figures.within(
        "later refusals, the slowest",
        2 * SECOND,
        looks.later.into_iter().max().unwrap_or_default(),
    );

    let back = Instant::now();
    for member in [leader, (leader + 1) % 3] {
        cluster.etcd.restart(member);
    }
    cluster.etcd.answers().await;
    figures.show("until etcd has a quorum", format!("{:.1?}", back.elapsed()));
    let quorum = Instant::now();
    let writers = Writers::start(&urls, "more", PAUSE);
    writers.go_on(1, LIMIT).await;
    figures.within("until changes are taken again", 5 * SECOND, quorum.elapsed());
    // Longer than leases last, so that whoever was not heard of would be gone.
    tokio::time::sleep(2 * TTL + SECOND).await;
    // While there was no quorum, nothing was promised.
    let promised = writers.stop().await.without_gap().and(before);
    cluster.hold_end(figures, &promised, load).await;
}

/// Without a quorum for so long, each control plane says how old what it knows may be, and the data plane says it of the one that it
/// follows.
async fn hold_silence(cluster: &Cluster, away: Duration, figures: &mut Figures) {
    // What was heard on the way of a member that is killed counts, too.
    let told = away.saturating_sub(2 * SECOND).as_secs_f64();
    for (number, control) in cluster.controls.iter().enumerate() {
        let silence = metric(control.address(), "gateway_store_silence_seconds").await;
        let criterion = format!("control plane {number} tells of {told:.0} s of silence, at least");
        figures.hold(&criterion, format!("{silence:.1} s"), silence >= told);
    }
    let admin = cluster.data.admin();
    let silence = metric(admin, "gateway_control_plane_store_silence_seconds").await;
    let criterion = format!("the data plane tells of {told:.0} s of silence, at least");
    figures.hold(&criterion, format!("{silence:.1} s"), silence >= told);
    let followed = metric(admin, "gateway_control_plane_connected").await;
    figures.hold("it follows one all the while", followed, followed == 1.0);
}

/// What became of reads and changes at one control plane.
#[derive(Debug, Default)]
struct Looks {
    reads: u64,
    failed: u64,
    acks: u64,
    strange: u64,
    first: Duration,
    later: Vec<Duration>,
}

impl Looks {
    fn and(mut self, other: Self) -> Self {
        self.reads += other.reads;
        self.failed += other.failed;
        self.acks += other.acks;
        self.strange += other.strange;
        self.first = self.first.max(other.first);
        self.later.extend(other.later);
        self
    }
}

/// Reads, and tries to change something, for so long.
async fn look_around(url: &str, lasts: Duration, number: usize) -> Looks {
    let caller = Caller::new(url);
    let began = Instant::now();
    let reading = async {
        let (mut reads, mut failed) = (0, 0);
        while began.elapsed() < lasts {
            reads += 1;
            failed += u64::from(caller.get("orders", "r-0").await.is_err());
            tokio::time::sleep(SECOND / 50).await;
        }
        (reads, failed)
    };
    let changing = async {
        let mut looks = Looks::default();
        let request =
            registration("refused", &format!("r-{number}"), &format!("10.9.9.{number}:80"), 600 * SECOND);
        let mut is_first = true;
        while began.elapsed() < lasts {
            let asked = Instant::now();
            match caller.register(request.clone()).await {
                Ok(_) => looks.acks += 1,
                Err(status) => looks.strange += u64::from(status.code() != Code::Unavailable),
            }
            if std::mem::take(&mut is_first) {
                looks.first = asked.elapsed();
            } else {
                looks.later.push(asked.elapsed());
            }
            tokio::time::sleep(SECOND / 20).await;
        }
        looks
    };
    let ((reads, failed), looks) = tokio::join!(reading, changing);
    Looks { reads, failed, ..looks }
}
