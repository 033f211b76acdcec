//! The space below an etcd: its quota, and the disk of a member.

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use gateway_proto::etcd::{
    PutRequest, RequestOp, TxnRequest, kv_client::KvClient, request_op::Request as Asked,
};
use gateway_tests::{Place, eventually};
use tonic::Code;
use tonic_types::StatusExt;

use super::{
    caller::{Caller, registration},
    cluster::{Cluster, Places, TTL},
    disks::{Ballast, own_mounts},
    outages::PAUSE,
    writers::Writers,
};
use crate::{Size, client::percentile, figures::Figures, stage::SECOND};

const LIMIT: Duration = Duration::from_secs(30);
/// What etcd takes in one request is some more.
const MIB: usize = 1024 * 1024;

/// What became of looks and changes while there was no room for changes.
#[derive(Debug, Default)]
struct Looks {
    reads: u64,
    failed: u64,
    acked: u64,
    refused: Vec<Duration>,
    others: Vec<String>,
}

/// Reads, and tries to register, for so long. `place` makes addresses that nobody else has.
async fn look_around(url: &str, lasts: Duration, place: u32) -> Looks {
    let (caller, mut looks, began) = (Caller::new(url), Looks::default(), Instant::now());
    for number in 0_u32.. {
        if began.elapsed() > lasts {
            break;
        }
        let address = format!("10.{place}.{}.{}:80", number / 250, number % 250);
        let asked = Instant::now();
        match caller
            .register(registration("full", &format!("r-{place}-{number}"), &address, 600 * SECOND))
            .await
        {
            Ok(_) => looks.acked += 1,
            Err(status) => {
                let is_told =
                    status.code() == Code::ResourceExhausted && status.get_details_retry_info().is_some();
                match is_told {
                    true => looks.refused.push(asked.elapsed()),
                    false => looks.others.push(status.to_string()),
                }
            }
        }
        looks.reads += 1;
        looks.failed += u64::from(caller.get("orders", "r-0").await.is_err());
        tokio::time::sleep(SECOND / 50).await;
    }
    looks
}

/// etcd holds as much as it may: it raises its alarm, and takes nothing that needs room until somebody has made some.
pub(crate) async fn quota(size: Size, figures: &mut Figures) {
    // As much as the crowd takes, with what etcd remembers of it, and some more.
    let mib = 32 + size.crowd() / 250;
    let bytes = format!("ETCD_QUOTA_BACKEND_BYTES={}", mib * MIB);
    let places = Places::loopback(2);
    let members = places.members.iter().map(|place| place.clone().behind(&["env", &bytes])).collect();
    let cluster = Cluster::start_in(size, Places { members, ..places }).await;
    let (urls, load) = (cluster.urls(), cluster.load());
    let writers = Writers::start(&urls, "before", PAUSE);
    writers.go_on(200, LIMIT).await;
    let before = writers.stop().await;
    let mut etcd = KvClient::connect(cluster.etcd.url(0)).await.expect("it answers");
    for number in 0..2 * mib {
        let put = PutRequest { key: format!("ballast/{number}").into_bytes(), value: vec![0; MIB], lease: 0 };
        let success = vec![RequestOp { request: Some(Asked::RequestPut(put)) }];
        match etcd.txn(TxnRequest { success, ..Default::default() }).await {
            Ok(_) => {}
            Err(status) if status.message().contains("database space exceeded") => break,
            Err(status) => panic!("etcd takes no ballast: {status}"),
        }
    }
    // Longer than leases last.
    let lasts = 3 * TTL + SECOND * size.of(10, 0);
    let (one, other) = tokio::join!(look_around(&urls[0], lasts, 8), look_around(&urls[1], lasts, 9));
    for (looks, who) in [(one, "one"), (other, "the other")] {
        figures.at_most(&format!("changes acknowledged without room, at {who}"), 0, looks.acked);
        let refused = looks.refused.len();
        figures.hold("refused with RESOURCE_EXHAUSTED and when to try again", refused, refused > 0);
        let first = looks.others.first().cloned().unwrap_or_default();
        let others = looks.others.len();
        figures.hold("refused with something else <= 0", format!("{others} {first}"), others == 0);
        figures.swift("refusals, p99", SECOND, percentile(looks.refused, 0.99));
        figures.at_most(&format!("reads failed of {}", looks.reads), 0, looks.failed);
    }
    // As etcd's operators do.
    cluster.etcd.ctl(&["del", "--prefix", "ballast/"]);
    cluster.etcd.ctl(&["compact", "--physical", &cluster.etcd.revision().to_string()]);
    cluster.etcd.ctl(&["defrag"]);
    cluster.etcd.ctl(&["alarm", "disarm"]);
    let disarmed = Instant::now();
    let writers = Writers::start(&urls, "after", PAUSE);
    writers.go_on(1, LIMIT).await;
    figures.within("changes are taken again, without a restart", 5 * SECOND, disarmed.elapsed());
    writers.go_on(50, LIMIT).await;
    let promised = writers.stop().await.without_gap().and(before);
    cluster.hold_end(figures, &promised, load).await;
}

/// A process with file systems of its own, which last as long as it does: those that are started in it come and go.
struct Mounts {
    keeper: Child,
    is_root: bool,
}

impl Mounts {
    async fn new() -> Result<Self, String> {
        let words = own_mounts()?;
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).args(["sleep", "3600"]).stdin(Stdio::null());
        let keeper = command.spawn().map_err(|error| format!("unshare cannot be started: {error}"))?;
        let of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
        let pid = keeper.id().to_string();
        eventually("it has file systems of its own", async || {
            if of(&pid).is_some_and(|its| Some(its) != of("self")) {
                Ok(())
            } else {
                Err("not yet".to_owned())
            }
        })
        .await;
        Ok(Self { keeper, is_root: !words.contains(&"--user") })
    }

    /// Where a member of an etcd has a disk of its own of so many MiB, which is still there when it is started again.
    fn place(&self, mib: usize) -> Place {
        let pid = self.keeper.id().to_string();
        let enter: &[&str] =
            if self.is_root { &["--mount"] } else { &["--user", "--preserve-credentials", "--mount"] };
        let words = [&["nsenter", "--target", &pid][..], enter].concat();
        // The fourth of its arguments is where its data is.
        let mount = format!("mount -t tmpfs -o size={mib}m drill \"$4\"");
        let line = format!("mkdir -p \"$4\" && {{ mountpoint -q \"$4\" || {mount}; }}");
        Place::loopback().behind(&words).behind_line(&line)
    }

    /// A path in it.
    fn see(&self, path: PathBuf) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{}", self.keeper.id(), path.display()))
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

/// The disk of the leading member runs full, then that of another one; each has room again and is started again if it has ended.
pub(crate) async fn full(size: Size, figures: &mut Figures) {
    let mounts = match Mounts::new().await {
        Ok(mounts) => mounts,
        Err(why) => return figures.skip(why),
    };
    // etcd sets 128 MiB aside for what it has not taken in yet.
    let mib = 192 + size.crowd() / 250;
    let places = Places { members: vec![mounts.place(mib); 3], ..Places::loopback(2) };
    let mut cluster = Cluster::start_in(size, places).await;
    let (urls, load) = (cluster.urls(), cluster.load());
    let writers = Writers::start(&urls, "written", PAUSE);
    writers.go_on(200, LIMIT).await;
    for who in ["the leading member", "another member"] {
        let leader = cluster.leader().await;
        let member = if who == "another member" { (leader + 1) % 3 } else { leader };
        let ballast = Ballast::fill(&mounts.see(cluster.etcd.folder(member)));
        let began = Instant::now();
        while began.elapsed() < SECOND * size.of(15, 8) && cluster.etcd.process(member).is_running() {
            tokio::time::sleep(SECOND / 10).await;
        }
        let has_ended = !cluster.etcd.process(member).is_running();
        let after = format!("{:.1?}", began.elapsed());
        figures.show(who, if has_ended { format!("has ended after {after}") } else { "runs on".to_owned() });
        let took = writers.go_on(50, LIMIT).await;
        figures.swift("50 changes without it", 5 * SECOND, took);
        drop(ballast);
        if has_ended {
            cluster.etcd.restart(member);
        }
        cluster.etcd.answers().await;
        writers.go_on(50, LIMIT).await;
    }
    let promised = writers.stop().await;
    figures.swift("the longest gap in changes", 3 * SECOND, promised.gap);
    cluster.hold_end(figures, &promised, load).await;
}
