//! Subscribers of the snapshot stream that are cut off all the time, and such that never read.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use gateway_proto::v1::{
    Hello, NodeIdentity, discovery_service_client::DiscoveryServiceClient, stream_snapshots_request::Message,
};
use gateway_tests::{ControlPlane, http1};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::{sync::mpsc, task::JoinSet, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::{
    caller::{Caller, crowd, registration},
    cluster::ROOMY,
    follower::{Follower, Followers, request},
};
use crate::{Size, client::percentile, figures::Figures, process, replica::lock, stage::SECOND};

const CUT_AFTER: Duration = Duration::from_millis(100);

async fn control_plane() -> (ControlPlane, tempfile::TempDir) {
    let directory = tempfile::tempdir().expect("there is a folder for temporary files");
    (ControlPlane::start_with(&directory.path().join("registry.redb"), &ROOMY).await, directory)
}

/// Registers and removes at random, and yields the revision of the last change.
async fn operations(caller: &Caller, count: usize) -> i64 {
    let mut random = StdRng::seed_from_u64(11);
    let mut leases: BTreeMap<usize, String> = BTreeMap::new();
    let mut last = 0;
    for _ in 0..count {
        let number = random.random_range(0..60);
        let (service, id) = (format!("cut-{}", number % 7), format!("r-{number}"));
        last = match leases.remove(&number).filter(|_| random.random_bool(0.6)) {
            Some(lease) => {
                let gone = caller.deregister(&service, &id, &lease).await.expect("it is there");
                gone.revision
            }
            None => {
                let wish = registration(&service, &id, &format!("10.0.0.{number}:80"), 600 * SECOND);
                let answer = caller.register(wish).await.expect("it can be registered");
                leases.insert(number, answer.lease_id);
                answer.replica.map(|replica| replica.revision).unwrap_or_default()
            }
        };
        tokio::time::sleep(Duration::from_millis(random.random_range(0..10))).await;
    }
    last
}

/// A stream is cut every tenth of a second while things change.
pub(crate) async fn cut(size: Size, figures: &mut Figures) {
    let (control, _directory) = control_plane().await;
    let urls = [control.url()];
    crowd(&urls, size.crowd()).await;
    let caller = Caller::new(&urls[0]);
    let count = size.of(1000, 200);
    let work = {
        let caller = caller.clone();
        tokio::spawn(async move { operations(&caller, count).await })
    };
    let mut follower = Follower::new("cut".into(), &urls, 0).noting();
    let seen = follower.seen();
    // It holds something before it is cut for the first time.
    let _ = timeout(SECOND, follower.follow()).await;
    let mut cuts = 0_u64;
    while !work.is_finished() {
        let _ = timeout(CUT_AFTER, follower.follow()).await;
        cuts += 1;
    }
    let last = work.await.expect("the operations do not panic");
    let done = Instant::now();
    let caught_up = async {
        while lock(&seen).revision < last {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        () = follower.follow() => {}
        _ = timeout(20 * SECOND, caught_up) => {}
    }
    figures.within("all of it is there after the last of them", SECOND, done.elapsed());
    let mut fresh = Follower::new("fresh".into(), &urls, 0);
    let known = fresh.seen();
    let caught_up = async {
        while lock(&known).revision < last {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        () = fresh.follow() => {}
        _ = timeout(20 * SECOND, caught_up) => {}
    }
    let are_equal = fresh.snapshot() == follower.snapshot();
    figures.hold("it holds what one holds that was never cut", are_equal, are_equal);
    let seen = lock(&seen).clone();
    figures.show(
        "operations, cuts, streams that brought something",
        format!("{count}, {cuts}, {}", seen.streams),
    );
    figures.at_most("complete snapshots but for the first", 0, seen.full.saturating_sub(1));
    figures.at_most("updates that were refused", 0, seen.refused);
    figures.at_most("updates that went back", 0, seen.back);
    let is_rising = seen.path.windows(2).all(|pair| pair[0].0 < pair[1].0);
    figures.hold("revisions rise", is_rising, is_rising);
}

/// One that begins a stream, takes as little as it can, and never reads.
async fn never_reads(url: String, number: usize) {
    let endpoint = Channel::from_shared(url).expect("an address makes a URL");
    let endpoint = endpoint.initial_stream_window_size(1024).initial_connection_window_size(65_535);
    let channel = endpoint.connect().await.expect("it listens");
    let (requests, receiver) = mpsc::channel(8);
    let node = NodeIdentity { node_id: format!("slow-{number}"), ..Default::default() };
    let hello = Hello { node: Some(node), services: vec!["*".into()], ..Default::default() };
    let _ = requests.try_send(request(Message::Hello(hello)));
    let mut client = DiscoveryServiceClient::new(channel);
    let begun = client.stream_snapshots(ReceiverStream::new(receiver)).await;
    let _unread = (begun, requests);
    std::future::pending().await
}

/// Data planes that follow a control plane, as it says itself.
pub(super) async fn following(control: &ControlPlane) -> u64 {
    let text = http1::get(control.address(), "/metrics").await;
    let text = String::from_utf8_lossy(text.body()).into_owned();
    let lines =
        text.lines().filter(|line| line.starts_with("gateway_nodes{") && !line.contains("disconnected"));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

/// Fifty that never read beside five that do, while things change.
pub(crate) async fn slow(size: Size, figures: &mut Figures) {
    let (mut control, _directory) = control_plane().await;
    let urls = [control.url()];
    // More than fits between two that do not read.
    crowd(&urls, size.crowd().max(size.of(2000, 500))).await;
    let caller = Caller::new(&urls[0]);
    let healthy =
        Followers::of((0..5).map(|number| Follower::new(format!("well-{number}"), &urls, 0).noting()));
    let at_first = caller.revision().await.unwrap_or_default();
    healthy.reach(at_first, 20 * SECOND).await;
    let before = process::resident_kib(control.process().pid());
    let started = Instant::now();
    let mut slow = JoinSet::new();
    for number in 0..50 {
        slow.spawn(never_reads(urls[0].clone(), number));
    }
    let all = async {
        while following(&control).await < 55 {
            tokio::time::sleep(SECOND / 50).await;
        }
    };
    let are_there = timeout(10 * SECOND, all).await.is_ok();
    figures.hold("fifty more follow", are_there, are_there);
    let (rate, lasts) = (200_u32, SECOND * size.of(30, 5));
    let changes = rate * lasts.as_secs() as u32;
    let began = Instant::now();
    let (mut begun, mut peak, mut cut_off) = (Vec::new(), before, None);
    let (mut writers, mut late) = (JoinSet::new(), 0_u64);
    for number in 0..changes {
        tokio::time::sleep_until((began + SECOND / rate * number).into()).await;
        let caller = caller.clone();
        writers.spawn(async move {
            let asked = Instant::now();
            let id = format!("r-{}", number % 500);
            let wish = registration(
                "often",
                &id,
                &format!("10.0.1.{}:{}", number % 250, 1000 + number % 500),
                600 * SECOND,
            );
            let answer = caller.register(wish).await.ok()?;
            Some((answer.replica?.revision, asked))
        });
        while let Some(done) = writers.try_join_next() {
            match done.expect("writers do not panic") {
                Some(change) => begun.push(change),
                None => late += 1,
            }
        }
        if number % 50 == 0 {
            peak = peak.max(process::resident_kib(control.process().pid()));
            // Beside the changes, which go on for as long as it may take.
            if cut_off.is_none() && following(&control).await <= 5 {
                cut_off = Some(started.elapsed());
            }
        }
    }
    while let Some(done) = writers.join_next().await {
        begun.extend(done.expect("writers do not panic"));
    }
    let last = begun.iter().map(|(revision, _)| *revision).max().unwrap_or_default();
    healthy.reach(last, 20 * SECOND).await;
    peak = peak.max(process::resident_kib(control.process().pid()));
    let mut times = Vec::new();
    for seen in healthy.seen() {
        for (revision, asked) in &begun {
            let place = seen.path.partition_point(|(held, _)| held < revision);
            let took =
                seen.path.get(place).map_or(Duration::MAX, |(_, at)| at.saturating_duration_since(*asked));
            times.push(took);
        }
    }
    figures.show("changes, of them refused", format!("{}, {late}", begun.len()));
    figures.swift("from the call to the five that read, p99", SECOND / 5, percentile(times, 0.99));
    figures.at_most("MiB more than before", 64, (peak - before) / 1024);
    let are_cut_off = async {
        while following(&control).await > 5 {
            tokio::time::sleep(SECOND / 10).await;
        }
    };
    if cut_off.is_none() {
        let _ = timeout(40 * SECOND, are_cut_off).await;
    }
    let took = cut_off.unwrap_or_else(|| started.elapsed());
    figures.within("until those are cut off that never read", 30 * SECOND, took);
    let left = following(&control).await;
    figures.hold("data planes that follow are the five", left, left == 5);
}
