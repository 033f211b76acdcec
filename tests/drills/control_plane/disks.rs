//! The disk below the registry: full, slow, and broken.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use gateway_tests::{ControlPlane, Place};
use tonic::Code;

use super::{
    alone::Alone,
    caller::{Caller, registration},
    cluster::{Cluster, ROOMY, hold_load},
    outages::{PAUSE, STREAMS_ENDED},
    tracer::{Flushes, Tracer},
    writers::{Promised, Writers},
};
use crate::{
    Size,
    client::percentile,
    figures::Figures,
    stage::{SECOND, metric},
};

const LIMIT: Duration = Duration::from_secs(30);

/// What a program is started behind to have file systems of its own.
///
/// # Errors
/// Why it cannot have them.
pub(crate) fn own_mounts() -> Result<&'static [&'static str], String> {
    const AS_ROOT: &[&str] = &["unshare", "--mount"];
    const AS_OTHERS: &[&str] = &["unshare", "--user", "--map-root-user", "--mount"];
    for words in [AS_ROOT, AS_OTHERS] {
        let line = "mount -t tmpfs -o size=1m drill /mnt";
        let tried = Command::new(words[0]).args(&words[1..]).args(["sh", "-c", line]).output();
        if tried.map_err(|error| format!("unshare cannot be started: {error}"))?.status.success() {
            return Ok(words);
        }
    }
    Err("nothing can be mounted here".into())
}

/// A file system of 16 MiB with the registry on it runs full, and has room again.
pub(crate) async fn full(size: Size, figures: &mut Figures) {
    let mounts = match own_mounts() {
        Ok(words) => words,
        Err(why) => return figures.skip(why),
    };
    let place = |folder: &Path| {
        let line = format!("mount -t tmpfs -o size=16m drill '{}'", folder.display());
        Place::loopback().behind(mounts).behind_line(&line)
    };
    let mut alone = Alone::start_in(0, &ROOMY, place).await;
    let (urls, load) = ([alone.control.url()], alone.load());
    let writers = Writers::start(&urls, "before", PAUSE);
    writers.go_on(100, LIMIT).await;
    // Its file system is seen through the process that has it.
    let folder =
        PathBuf::from(format!("/proc/{}/root{}", alone.control.process().pid(), alone.folder().display()));
    let streams = metric(alone.data.admin(), STREAMS_ENDED).await;
    let ballast = Ballast::fill(&folder);
    let caller = Caller::new(&urls[0]);
    let full = Instant::now();
    let lasts = SECOND * size.of(10, 5);
    let (mut refused, mut others, mut reads, mut failed) = (0_u64, Vec::new(), 0_u64, 0_u64);
    for number in 0_u32.. {
        if full.elapsed() > lasts {
            break;
        }
        let address = format!("10.7.{}.{}:80", number / 250, number % 250);
        let mut wish = registration("full", &format!("r-{number}"), &address, 600 * SECOND);
        // Large, so that no room that is left in the file is enough.
        wish.labels = (0..20).map(|number| (format!("label-{number}"), "x".repeat(60))).collect();
        match caller.register(wish).await {
            Ok(_) => {}
            Err(status) if status.code() == Code::ResourceExhausted => refused += 1,
            Err(status) => others.push(status.to_string()),
        }
        reads += 1;
        failed += u64::from(caller.get("orders", "r-0").await.is_err());
        tokio::time::sleep(SECOND / 500).await;
    }
    figures.hold("changes refused with RESOURCE_EXHAUSTED, once it is full", refused, refused > 0);
    let first = others.first().cloned().unwrap_or_default();
    figures.hold("refused with something else <= 0", format!("{} {first}", others.len()), others.is_empty());
    figures.at_most(&format!("reads failed of {reads}"), 0, failed);
    let ended = metric(alone.data.admin(), STREAMS_ENDED).await - streams;
    figures.hold("snapshot streams that ended meanwhile 0", ended, ended == 0.0);
    let before = writers.stop().await;
    drop(ballast);
    let freed = Instant::now();
    let writers = Writers::start(&urls, "after", PAUSE);
    writers.go_on(1, LIMIT).await;
    figures.within("changes are taken again, without a restart", 5 * SECOND, freed.elapsed());
    writers.go_on(50, LIMIT).await;
    let promised = writers.stop().await.without_gap().and(before);
    promised.hold_answers(figures);
    promised.hold(figures, &urls[0]).await;
    alone.hold_leases(figures);
    hold_load(figures, &load.stop().await);
    // What a start would find, had it been killed now.
    alone.control.process().pause();
    let elsewhere = tempfile::tempdir().expect("there is a folder for temporary files");
    let copy = elsewhere.path().join("registry.redb");
    fs::copy(folder.join("registry.redb"), &copy).expect("there is room elsewhere");
    let started = ControlPlane::start_with(&copy, &ROOMY).await;
    promised.hold(figures, &started.url()).await;
}

/// A file that takes all the room that there is, until this is dropped.
pub(crate) struct Ballast(PathBuf);

impl Ballast {
    /// Writes to a file in this folder until there is no room, to the byte.
    pub(crate) fn fill(folder: &Path) -> Self {
        let path = folder.join("ballast");
        let mut file = File::create(&path).expect("there is room for a name");
        for piece in [&[0_u8; 65_536][..], &[0; 512], &[0]] {
            while file.write_all(piece).is_ok() {}
        }
        Self(path)
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Each flush takes a third of a second: of the file's, and of one member of an etcd, which follows and then leads.
pub(crate) async fn slow(size: Size, figures: &mut Figures) {
    if let Err(why) = Tracer::is_allowed() {
        return figures.skip(why);
    }
    let lasts = SECOND * size.of(10, 3);
    let flushes = Flushes::Take(SECOND / 3);
    let mut alone = Alone::start(size.crowd(), &ROOMY).await;
    let (urls, load) = ([alone.control.url()], alone.load());
    let writers = Writers::start(&urls, "slow", PAUSE);
    writers.go_on(50, LIMIT).await;
    let tracer = Tracer::attach(alone.control.process().pid(), flushes).await;
    let before = writers.acks();
    let times = renewals(&alone, lasts).await;
    figures.show("changes a second, on a file", (writers.acks() - before) / lasts.as_secs());
    figures.hold("renewals that failed 0", times.failed, times.failed == 0);
    // They never wait for the store.
    figures.swift("renewals meanwhile, p99", SECOND / 10, percentile(times.took, 0.99));
    drop(tracer);
    let promised = writers.stop().await;
    promised.hold_answers(figures);
    promised.hold(figures, &urls[0]).await;
    alone.hold_leases(figures);
    hold_load(figures, &load.stop().await);

    let mut cluster = Cluster::start(size, 2).await;
    let (urls, load) = (cluster.urls(), cluster.load());
    let mut all = Promised::default();
    for who in ["follower", "leader"] {
        let writers = Writers::start(&urls, who, PAUSE);
        writers.go_on(50, LIMIT).await;
        let leader = cluster.leader().await;
        // Of the followers, the one that control planes ask before all others, if it follows.
        let member = if who == "leader" { leader } else { usize::from(leader == 0) };
        let tracer = Tracer::attach(cluster.etcd.process(member).pid(), flushes).await;
        let before = writers.acks();
        tokio::time::sleep(lasts).await;
        let changes = (writers.acks() - before) as f64 / lasts.as_secs_f64();
        // That of the leader has each group wait for two flushes; a slow follower is left within some seconds.
        let least = if who == "leader" { 1.0 } else { 10.0 };
        let what = format!("changes a second, on an etcd with a slow {who}");
        if size.of(true, false) {
            figures.hold(&format!("{what} >= {least}"), format!("{changes:.1}"), changes >= least);
        } else {
            figures.show(&what, format!("{changes:.1}"));
        }
        drop(tracer);
        writers.go_on(20, LIMIT).await;
        let promised = writers.stop().await;
        if who == "follower" {
            figures.swift("the longest gap in changes beside a slow follower", 3 * SECOND, promised.gap);
        }
        all = promised.and(all);
    }
    cluster.hold_end(figures, &all, load).await;
}

struct Renewals {
    took: Vec<Duration>,
    failed: u64,
}

/// How long renewals of a lease take that was granted before the disk was slow.
async fn renewals(alone: &Alone, lasts: Duration) -> Renewals {
    let caller = Caller::new(&alone.control.url());
    let wish = registration("renewed", "r-1", "10.6.6.6:80", 600 * SECOND);
    let lease = caller.register(wish).await.map(|answer| answer.lease_id).unwrap_or_default();
    let began = Instant::now();
    let mut renewals = Renewals { took: Vec::new(), failed: 0 };
    while began.elapsed() < lasts {
        let asked = Instant::now();
        renewals.failed += u64::from(caller.renew("renewed", "r-1", &lease).await.is_err());
        renewals.took.push(asked.elapsed());
        tokio::time::sleep(SECOND / 50).await;
    }
    renewals
}

/// The name of a file is durable before it is served from: of one that is made, and of one whose maker may have ended too early.
async fn hold_names(figures: &mut Figures) {
    let folder = tempfile::tempdir().expect("there is a folder for temporary files");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (store, trace) = (format!("redb:{}", path("registry.redb")), path("trace"));
    for what in ["made", "opened again"] {
        let calls = "trace=link,linkat,rename,renameat,renameat2,fsync";
        // As a grandchild of the program that it traces.
        let words = ["strace", "-D", "--quiet=all", "-f", "-y", "-o", &trace, "-e", calls];
        let control = ControlPlane::start_in(Place::loopback().behind(&words), store.clone(), &ROOMY).await;
        let traced = fs::read_to_string(&trace).expect("strace writes there");
        drop(control);
        let flushed = format!("<{}>", folder.path().display());
        let is_of_names =
            |line: &&str| ["link", "rename", flushed.as_str()].iter().any(|part| line.contains(part));
        let last = traced.lines().rfind(is_of_names).unwrap_or("nothing");
        figures.hold(
            &format!("a file that is {what}: the last that is done to its name is to flush it"),
            last,
            last.contains("fsync(") && last.contains(&flushed),
        );
    }
}

/// Has each flush of the file fail with this for a while, and holds that nothing is acknowledged meanwhile, and all refused with one of these.
async fn hold_refusals(
    alone: &mut Alone,
    error: &'static str,
    codes: &[Code],
    lasts: Duration,
    figures: &mut Figures,
) {
    let tracer = Tracer::attach(alone.control.process().pid(), Flushes::Fail(error)).await;
    // What was on its way is through.
    tokio::time::sleep(SECOND / 2).await;
    let caller = Caller::new(&alone.control.url());
    let (mut acked, mut refused, mut others) = (0_u64, 0_u64, Vec::new());
    let broken = Instant::now();
    while broken.elapsed() < lasts {
        let number = acked + refused + others.len() as u64;
        let (id, address) = (format!("r-{number}"), format!("10.5.0.{}:80", number % 250));
        match caller.register(registration("broken", &id, &address, 600 * SECOND)).await {
            Ok(_) => acked += 1,
            Err(status) if codes.contains(&status.code()) => refused += 1,
            Err(status) => others.push(status.to_string()),
        }
        tokio::time::sleep(SECOND / 50).await;
    }
    drop(tracer);
    figures.at_most(&format!("changes acknowledged while flushes fail with {error}"), 0, acked);
    let is_running = alone.control.process().is_running();
    let state = if is_running { "runs" } else { "has ended" };
    let first = others.first().cloned().unwrap_or_default();
    figures.hold(
        &format!("refused with {codes:?}, or it has ended: all but 0"),
        format!("{refused}, {} others {first}, it {state}", others.len()),
        others.is_empty(),
    );
}

/// Each flush of the file fails for a while, for want of room and then because the disk is broken: nothing is acknowledged, and nothing that was
/// is lost.
pub(crate) async fn broken(size: Size, figures: &mut Figures) {
    if let Err(why) = Tracer::is_allowed() {
        return figures.skip(why);
    }
    hold_names(figures).await;
    let lasts = SECOND * size.of(5, 2);
    let mut alone = Alone::start(size.crowd(), &ROOMY).await;
    let (urls, load) = ([alone.control.url()], alone.load());
    let writers = Writers::start(&urls, "before", PAUSE);
    writers.go_on(100, LIMIT).await;
    // How it is read again needs flushes, too, and is what is unavailable then.
    let codes = [Code::ResourceExhausted, Code::Unavailable];
    hold_refusals(&mut alone, "ENOSPC", &codes, lasts, figures).await;
    let took = writers.go_on(1, LIMIT).await;
    figures.within("changes are taken without a restart", 5 * SECOND, took);
    writers.go_on(50, LIMIT).await;
    hold_refusals(&mut alone, "EIO", &[Code::Unavailable], lasts, figures).await;
    let promised = writers.stop().await;
    alone.control.kill();
    alone.control.restart().await;
    promised.hold_answers(figures);
    promised.hold(figures, &urls[0]).await;
    let writers = Writers::start(&urls, "after", PAUSE);
    let took = writers.go_on(1, LIMIT).await;
    figures.within("changes are taken after a restart", 5 * SECOND, took);
    writers.stop().await.hold(figures, &urls[0]).await;
    alone.hold_leases(figures);
    hold_load(figures, &load.stop().await);
}
