//! Several control planes on one etcd: what one of them promised, all of them keep.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use gateway_proto::v1::{
    DeregisterRequest, DrainReplicaRequest, Endpoint, Event, GetReplicaRequest, HeartbeatRequest,
    ListEventsRequest, ListReplicasRequest, RegisterRequest, RegisterResponse, Replica, ReplicaMode,
};
use gateway_tests::{
    Act, ControlPlane, DataPlane, Etcd, Scripted, ends_within, eventually, eventually_within, http1,
    throughout,
};
use tokio::task::JoinSet;

/// What one control plane is told, another has to know by then, on a machine that has much else to do.
const SPREAD: Duration = Duration::from_secs(2);
/// Beyond a lease's time to live: etcd counts in seconds and looks twice a second, others have one more second to say that
/// they heard of the owner, and sweeps are due every 250 ms.
const LATE: Duration = Duration::from_secs(6);

pub(crate) fn request(replica_id: &str, address: &str, ttl: Option<i64>) -> RegisterRequest {
    RegisterRequest {
        service: "orders".into(),
        replica_id: replica_id.into(),
        endpoint: Some(Endpoint { address: address.into(), ..Default::default() }),
        permanent: ttl.is_none(),
        lease_ttl: ttl.map(|seconds| prost_types::Duration { seconds, nanos: 0 }),
        ..Default::default()
    }
}

pub(crate) async fn register(control: &ControlPlane, request: RegisterRequest) -> RegisterResponse {
    control.registry().register(request).await.unwrap().into_inner()
}

pub(crate) async fn renew(
    control: &ControlPlane,
    replica_id: &str,
    lease_id: &str,
) -> Result<(), tonic::Status> {
    let (service, replica_id, lease_id) = ("orders".into(), replica_id.into(), lease_id.into());
    let request = HeartbeatRequest { service, replica_id, lease_id, ..Default::default() };
    control.registry().heartbeat(request).await.map(drop)
}

pub(crate) async fn find(control: &ControlPlane, replica_id: &str) -> Option<Replica> {
    let request = GetReplicaRequest { service: "orders".into(), replica_id: replica_id.into() };
    control.registry().get_replica(request).await.ok()?.into_inner().replica
}

pub(crate) async fn ids(control: &ControlPlane) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    let mut request = ListReplicasRequest { service: "orders".into(), page_size: 1000, ..Default::default() };
    loop {
        let Ok(page) = control.registry().list_replicas(request.clone()).await else { return ids };
        let page = page.into_inner();
        ids.extend(page.replicas.into_iter().map(|replica| replica.replica_id));
        if page.next_page_token.is_empty() {
            return ids;
        }
        request.page_token = page.next_page_token;
    }
}

async fn events(control: &ControlPlane, event_type: &str) -> Vec<Event> {
    let request = ListEventsRequest {
        page_size: 1000,
        filter: format!("event_type = \"{event_type}\""),
        ..Default::default()
    };
    control.observability().list_events(request).await.unwrap().into_inner().events
}

pub(crate) async fn pair(etcd: &Etcd) -> [ControlPlane; 2] {
    let one = ControlPlane::start_on(etcd.store("gw"), &[]).await;
    let other = ControlPlane::start_on(etcd.store("gw"), &[]).await;
    [one, other]
}

/// Waits until both show the same replicas at the same revisions.
pub(crate) async fn agree(one: &ControlPlane, other: &ControlPlane, ids: &[&str]) {
    eventually("both control planes show the same", async || {
        for id in ids {
            let (here, there) = (find(one, id).await, find(other, id).await);
            if here.as_ref().map(|replica| replica.revision) != there.as_ref().map(|replica| replica.revision)
            {
                return Err(format!("{id}: {here:?}, {there:?}"));
            }
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn what_one_control_plane_registers_the_other_shows_keeps_alive_and_both_let_go_once_by_etcd() {
    let etcd = Etcd::start().await;
    let [one, other] = pair(&etcd).await;
    let lease = register(&one, request("r-1", "10.0.0.1:80", Some(3))).await.lease_id;
    let shown = eventually_within(SPREAD, "the other shows it", async || {
        find(&other, "r-1").await.ok_or_else(|| "it does not".to_owned())
    })
    .await;
    assert_eq!(shown.revision, find(&one, "r-1").await.unwrap().revision);

    // Whoever hears of its owner keeps it, on both, for longer than its lease lasts; no renewal is a change.
    let revision = etcd.revision();
    throughout(Duration::from_secs(9), async || {
        renew(&other, "r-1", &lease).await.unwrap();
        assert!(find(&one, "r-1").await.is_some() && find(&other, "r-1").await.is_some());
    })
    .await;
    assert_eq!(etcd.revision(), revision, "renewals change no revision");

    let silent = Instant::now();
    for control in [&one, &other] {
        eventually_within(Duration::from_secs(3) + LATE, "it is gone", async || {
            match find(control, "r-1").await {
                None => Ok(()),
                Some(replica) => Err(format!("{replica:?}")),
            }
        })
        .await;
    }
    assert!(silent.elapsed() > Duration::from_secs(2), "{:?}", silent.elapsed());
    for control in [&one, &other] {
        let told = events(control, "LEASE_EXPIRED").await;
        assert_eq!(told.len(), 1, "{told:?}");
        let told = events(control, "REPLICA_REGISTERED").await;
        assert_eq!(told.len(), 1, "{told:?}");
    }
    let refused = renew(&other, "r-1", &lease).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::NotFound, "{refused}");
}

#[tokio::test]
async fn rules_hold_whichever_control_plane_is_asked_by_etcd() {
    let etcd = Etcd::start().await;
    let [one, other] = pair(&etcd).await;
    // All want one address, half of them here and half of them there, at the same time.
    let mut callers = JoinSet::new();
    for number in 0..20 {
        let mut registry = [&one, &other][number % 2].registry();
        let request = request(&format!("r-{number}"), "10.0.0.1:80", None);
        callers.spawn(async move { registry.register(request).await.map(drop) });
    }
    let outcomes = callers.join_all().await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{outcomes:?}");
    for refused in outcomes.into_iter().filter_map(Result::err) {
        assert_eq!(refused.code(), tonic::Code::AlreadyExists, "{refused}");
    }
    // What was told at one is known at the other, however soon it is asked.
    for number in 0..30 {
        let id = format!("s-{number}");
        register(&one, request(&id, &format!("10.0.1.1:{}", 1000 + number), None)).await;
        let request = DeregisterRequest { service: "orders".into(), replica_id: id, ..Default::default() };
        let answer = other.registry().deregister(request).await.unwrap().into_inner();
        assert!(answer.removed, "it had been acknowledged");
    }
}

#[tokio::test]
async fn a_data_plane_goes_on_at_another_control_plane_from_where_it_was_by_etcd() {
    let etcd = Etcd::start().await;
    let [one, other] = pair(&etcd).await;
    let folder = tempfile::tempdir().unwrap();
    let replicas = [(); 2].map(|()| Scripted::start(|_, _| Act::ok(b"hello")));
    register(&one, request("r-0", &replicas[0].address().to_string(), None)).await;
    let cache = folder.path().display().to_string();
    let (first, second) = (one.url(), other.url());
    let data = DataPlane::start(&[
        "--control-plane",
        &first,
        "--control-plane",
        &second,
        "--node-id",
        "dp-1",
        "--cache-dir",
        &cache,
    ])
    .await;
    eventually("the first replica answers", async || {
        let answer = http1::get(data.address(), "/orders/hello").await;
        if answer.status() == 200 { Ok(()) } else { Err(answer.status().to_string()) }
    })
    .await;
    // It has begun with either of them.
    let ready = http1::get(data.admin(), "/readyz?verbose").await;
    let begins_with_one = String::from_utf8_lossy(ready.body()).contains(&first);
    let [mut one, mut other] = if begins_with_one { [one, other] } else { [other, one] };
    one.kill();
    register(&other, request("r-1", &replicas[1].address().to_string(), None)).await;
    eventually("the new replica is asked", async || {
        http1::get(data.address(), "/orders/hello").await;
        if replicas[1].seen().is_empty() { Err("it is not".to_owned()) } else { Ok(()) }
    })
    .await;
    let log = other.process().stderr();
    assert!(log.contains("data plane connected") && log.contains("resume=Some("), "{log}");
}

#[tokio::test]
async fn no_acknowledged_registration_is_lost_when_a_control_plane_is_killed_by_etcd() {
    let etcd = Etcd::start().await;
    let [mut one, other] = pair(&etcd).await;
    let mut callers = JoinSet::new();
    for caller in 0..6 {
        let mut registry = [&one, &other][caller % 2].registry();
        callers.spawn(async move {
            let mut promised = Vec::new();
            for number in 0..60 {
                let id = format!("r-{caller}-{number}");
                let wish = request(&id, &format!("10.1.{caller}.1:{}", 1000 + number), Some(600));
                match registry.register(wish).await {
                    Ok(_) => promised.push(id),
                    Err(_) => break,
                }
            }
            promised
        });
    }
    eventually("some of them are promised", async || match ids(&other).await.len() {
        ..=60 => Err("few are".to_owned()),
        _ => Ok(()),
    })
    .await;
    one.kill();
    let promised: BTreeSet<_> = callers.join_all().await.into_iter().flatten().collect();
    assert!(promised.len() > 60, "{}", promised.len());
    // What the one promised last, the other may not have heard yet.
    eventually("all that was promised is there", async || {
        let kept = ids(&other).await;
        let lost: Vec<_> = promised.difference(&kept).collect();
        if lost.is_empty() { Ok(()) } else { Err(format!("{lost:?}")) }
    })
    .await;
    let kept = ids(&other).await;
    // And so it is for one that starts afterwards.
    one.restart().await;
    assert_eq!(ids(&one).await, kept);
}

#[tokio::test]
async fn a_drain_asked_of_one_control_plane_ends_when_nothing_is_in_flight_on_a_data_plane_of_the_other_by_etcd()
 {
    const SLOW: Duration = Duration::from_secs(4);
    let etcd = Etcd::start().await;
    let [one, other] = pair(&etcd).await;
    let folder = tempfile::tempdir().unwrap();
    let answer = || match Act::ok(b"done") {
        Act::Answer(bytes) => Act::AnswerAfter(SLOW, bytes),
        act => act,
    };
    let replicas = [(); 2].map(|()| {
        Scripted::start(move |seen, _| if seen.target() == "/slow" { answer() } else { Act::ok(b"hello") })
    });
    for (number, replica) in replicas.iter().enumerate() {
        let wish = request(&format!("r-{number}"), &replica.address().to_string(), None);
        register(&one, wish).await;
    }
    let here = DataPlane::following(&one, "dp-here", &folder.path().join("here")).await;
    let there = DataPlane::following(&other, "dp-there", &folder.path().join("there")).await;
    for data in [&here, &there] {
        eventually("it serves", async || {
            let answer = http1::get(data.address(), "/orders/hello").await;
            if answer.status() == 200 { Ok(()) } else { Err(answer.status().to_string()) }
        })
        .await;
    }
    // In turn, so one is in flight at each replica, on the data plane that the other control plane follows.
    let mut slow = JoinSet::new();
    for _ in 0..2 {
        let proxy = there.address();
        slow.spawn(async move {
            let answer = http1::get(proxy, "/orders/slow").await;
            (answer.status().as_u16(), Instant::now())
        });
    }
    eventually("both are in flight", async || {
        let is_slow = |replica: &Scripted| replica.seen().iter().any(|seen| seen.target() == "/slow");
        if replicas.iter().all(is_slow) { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    let began = Instant::now();
    let drain = DrainReplicaRequest {
        service: "orders".into(),
        replica_id: "r-0".into(),
        drain_timeout: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
        wait_timeout: Some(prost_types::Duration { seconds: 30, nanos: 0 }),
        ..Default::default()
    };
    let drained = one.registry().drain_replica(drain).await.unwrap().into_inner();
    let ended = Instant::now();
    let status = drained.status.unwrap();
    assert!(status.is_idle, "{status:?}");
    assert_eq!(drained.replica.unwrap().mode(), ReplicaMode::Drained, "{status:?}");
    assert_eq!(status.rollout.unwrap().node_count, 2, "both data planes are counted");
    for (status, answered) in slow.join_all().await {
        assert_eq!(status, 200);
        assert!(answered <= ended, "it ended {:?} before the answer", answered - ended);
    }
    assert!(ended - began < Duration::from_secs(20), "as soon as nothing is in flight: {:?}", ended - began);
    // Nothing new has come there since.
    let before = replicas[0].seen().len();
    for proxy in [here.address(), there.address()] {
        for _ in 0..4 {
            assert_eq!(http1::get(proxy, "/orders/hello").await.status(), 200);
        }
    }
    assert_eq!(replicas[0].seen().len(), before);
}

/// Clients of each of two control planes that register without a pause.
const BUSY: usize = 16;
/// Registrations of both together after which it is counted who had how many.
const COUNTED: usize = 1000;

#[tokio::test]
async fn control_planes_that_are_asked_all_the_time_take_turns_by_etcd() {
    let etcd = Etcd::cluster(3).await;
    let planes = pair(&etcd).await;
    let counts: [Arc<AtomicUsize>; 2] = Default::default();
    let mut clients = JoinSet::new();
    for (number, (control, count)) in planes.iter().zip(&counts).enumerate() {
        for client in 0..BUSY {
            let (mut registry, counts, own) = (control.registry(), counts.clone(), Arc::clone(count));
            clients.spawn(async move {
                for replica in 0.. {
                    if counts.iter().map(|count| count.load(Relaxed)).sum::<usize>() >= COUNTED {
                        return;
                    }
                    let address = format!("10.{number}.{client}.{}:{}", replica % 250, 1000 + replica / 250);
                    let wish = request(&format!("r-{number}-{client}-{replica}"), &address, Some(600));
                    // The one that is slower is refused nothing for that.
                    registry.register(wish).await.unwrap();
                    own.fetch_add(1, Relaxed);
                }
            });
        }
    }
    ends_within(Duration::from_secs(60), "they register", clients.join_all()).await;
    let [one, other] = counts.map(|count| count.load(Relaxed));
    assert!(4 * one.min(other) >= one.max(other), "{one} and {other}");
}
