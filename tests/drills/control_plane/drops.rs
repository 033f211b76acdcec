//! etcd stands still for longer than leases last, and lets all of them lapse when it goes on: those whose owners are there have to be
//! begun anew, before anybody takes them for dead.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use gateway_proto::v1::{
    HeartbeatRequest, KeepAliveRequest, keep_alive_result::Result as Outcome,
    registry_service_client::RegistryServiceClient,
};
use gateway_tests::{ControlPlane, Etcd};
use tokio::{sync::mpsc, task::JoinSet, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::{
    caller::{Caller, registration},
    cluster::ROOMY,
};
use crate::{Size, figures::Figures, stage::SECOND};

/// As by default.
const TTL: Duration = Duration::from_secs(15);
const STREAMS: usize = 16;
const PER_SERVICE: usize = 10;
/// In one message.
const AT_ONCE: usize = 500;
const PREFIX: &str = "gw";

pub(crate) async fn dropped(size: Size, figures: &mut Figures) {
    let count = size.crowd().max(size.of(10_000, 500));
    // One member alone: a new leader would give all leases a whole time to live.
    let mut etcd = Etcd::start().await;
    let mut controls = Vec::new();
    for _ in 0..2 {
        controls.push(ControlPlane::start_on(etcd.store(PREFIX), &ROOMY).await);
    }
    let urls: Vec<_> = controls.iter().map(ControlPlane::url).collect();
    let lost = Arc::new(AtomicU64::new(0));
    let mut owners = JoinSet::new();
    for number in 0..STREAMS.min(count) {
        let (urls, lost) = (urls.clone(), Arc::clone(&lost));
        let own = (number..count).step_by(STREAMS);
        let mut own = register(&Caller::new(&urls[number % 2]), own).await;
        owners.spawn(async move {
            for turn in number.. {
                // Why a stream ended is nothing to an owner: he goes on at the other control plane.
                let _ = keep_alive(&urls[turn % 2], &mut own, &lost).await;
                tokio::time::sleep(SECOND / 10).await;
            }
        });
    }
    tokio::time::sleep(TTL / 2).await;
    let away = TTL * 2;
    etcd.process(0).pause();
    tokio::time::sleep(away).await;
    etcd.process(0).resume();
    let back = Instant::now();
    etcd.answers().await;

    let (mut fewest, mut fewest_kept, mut kept_again) = (count, count, None);
    // etcd drops a thousand in a second; each is judged some seconds later, and etcd keeps a few hundred in a second at least.
    let limit = 4 * TTL + SECOND * u32::try_from(count / 200).unwrap_or(u32::MAX);
    while back.elapsed() < limit {
        for url in &urls {
            let listed = Caller::new(url).list("-").await.as_ref().map_or(count, BTreeSet::len);
            fewest = fewest.min(listed);
        }
        // An etcd that has much to do may not say.
        if let Some(kept) = etcd.count(&format!("/{PREFIX}/live/leases/")) {
            fewest_kept = fewest_kept.min(kept);
            kept_again = (kept == count).then(|| kept_again.unwrap_or(back.elapsed()));
        }
        if kept_again.is_some_and(|at| back.elapsed() > at + 2 * TTL) {
            break;
        }
        tokio::time::sleep(SECOND).await;
    }
    owners.abort_all();
    figures.show(&format!("leases of {TTL:?} dropped by etcd at a time, of {count}"), count - fewest_kept);
    figures.hold("... at least some", count - fewest_kept, fewest_kept < count);
    figures.at_most("replicas that went, whose owners were there", 0, (count - fewest) as u64);
    figures.at_most("owners told that their lease is lost", 0, lost.load(Relaxed));
    let shown = kept_again.map_or_else(|| format!("not within {limit:?}"), |at| format!("{at:.0?}"));
    figures.hold("etcd keeps all of them again, after it went on", shown, kept_again.is_some());
}

/// Registers the replicas of these numbers, and yields what renews them.
async fn register(caller: &Caller, numbers: impl Iterator<Item = usize>) -> Vec<HeartbeatRequest> {
    let mut registering = JoinSet::new();
    let mut own = Vec::new();
    for number in numbers {
        let service = format!("dropped-{:05}", number / PER_SERVICE);
        let [_, a, b, c] = u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes();
        let request = registration(&service, &format!("r-{number}"), &format!("10.{a}.{b}.{c}:8080"), TTL);
        let caller = caller.clone();
        registering.spawn(async move {
            let answer = caller.register(request.clone()).await.expect("it can be registered");
            HeartbeatRequest {
                service: request.service,
                replica_id: request.replica_id,
                lease_id: answer.lease_id,
                ..Default::default()
            }
        });
        if registering.len() == 64 {
            own.push(registering.join_next().await.expect("there are some").expect("callers do not panic"));
        }
    }
    own.extend(registering.join_all().await);
    own
}

/// Renews all of these three times in their time to live, until something goes wrong.
async fn keep_alive(url: &str, own: &mut Vec<HeartbeatRequest>, lost: &AtomicU64) -> Option<()> {
    let channel = Channel::from_shared(url.to_owned()).ok()?.connect_timeout(SECOND).connect().await.ok()?;
    let (requests, receiver) = mpsc::channel(own.len().div_ceil(AT_ONCE).max(1));
    let send = |own: &[HeartbeatRequest]| {
        own.chunks(AT_ONCE)
            .all(|some| requests.try_send(KeepAliveRequest { heartbeats: some.to_vec() }).is_ok())
    };
    send(own).then_some(())?;
    let mut client = RegistryServiceClient::new(channel);
    let called = client.keep_alive(ReceiverStream::new(receiver));
    let mut answers = timeout(TTL / 3, called).await.ok()?.ok()?.into_inner();
    loop {
        let began = Instant::now();
        for _ in 0..own.len().div_ceil(AT_ONCE) {
            let answer = timeout(TTL / 3, answers.message()).await.ok()?.ok()??;
            for result in answer.results {
                if let Some(Outcome::Lost(why)) = result.result {
                    eprintln!("         an owner is told that his lease is lost: {why:?}");
                    lost.fetch_add(1, Relaxed);
                    own.retain(|beat| beat.replica_id != result.replica_id);
                }
            }
        }
        tokio::time::sleep((TTL / 3).saturating_sub(began.elapsed())).await;
        send(own).then_some(())?;
    }
}
