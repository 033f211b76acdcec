//! What is registered moves from a file to etcd while its control plane runs: nothing acknowledged is lost, whoever dies meanwhile.

use std::{
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use gateway_proto::v1::{
    CloseStore, HeartbeatRequest, MoveStoreRequest, RegisterRequest, move_store_request::Step,
    registry_service_client::RegistryServiceClient,
};
use gateway_tests::{
    Act, ControlPlane, DataPlane, Etcd, Load, Scripted, binaries, eventually, eventually_within, http1,
};
use http::Method;
use tokio::{sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, transport::Channel};

use crate::{
    etcd::{find, ids, register, renew, request},
    etcd_access::{changing, gwctl_store, of_a_move},
};

pub(crate) async fn readyz(control: &ControlPlane) -> u16 {
    let asked = http1::request(Method::GET, "/readyz");
    http1::Connection::open(control.address()).await.unwrap().send(asked).await.unwrap().status().as_u16()
}

/// Renews the lease of the replica `kept` as an owner does, again and again, at the first of these control planes until that refuses, then at the
/// next. Yields how often it was.
pub(crate) async fn keep(
    mut registries: Vec<RegistryServiceClient<Channel>>,
    service: &str,
    lease: String,
    is_over: impl Fn() -> bool,
) -> usize {
    let heartbeat = HeartbeatRequest {
        service: service.into(),
        replica_id: "kept".into(),
        lease_id: lease,
        ..Default::default()
    };
    let mut renewed = 0;
    while !is_over() {
        match registries[0].heartbeat(heartbeat.clone()).await {
            Ok(_) => renewed += 1,
            // It is tried again. Whatever a control plane says itself has details; what has none is of a connection that
            // broke as the control plane was killed.
            Err(status) => {
                assert!(status.code() == Code::Unavailable || status.details().is_empty(), "{status}");
                registries.rotate_left(1);
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    renewed
}

#[tokio::test]
async fn a_registry_moves_from_the_file_of_a_control_plane_that_runs_and_nothing_acknowledged_is_lost_by_etcd()
 {
    let etcd = Etcd::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.redb");
    let mut old = ControlPlane::start(&path).await;
    let next = ControlPlane::start_on(etcd.store("gw"), &[]).await;
    let lease = register(&old, request("kept", "10.9.0.1:80", Some(60))).await.lease_id;
    let clients = changing([&old, &old], 300).await;
    let (url, to) = (old.url(), etcd.store("gw"));
    let moving = tokio::task::spawn_blocking(move || gwctl_store(&["migrate", &url, &to]));
    let (moved, said) = moving.await.unwrap();
    assert!(moved && said.contains("had changed meanwhile"), "{said}");
    eventually_within(Duration::from_secs(2), "renewals are refused on the old one", async || {
        match renew(&old, "kept", &lease).await {
            Ok(()) => Err("they are taken".to_owned()),
            Err(status) => of_a_move(status),
        }
    })
    .await;
    assert_eq!(readyz(&old).await, 503);
    eventually("the new one has taken it in", async || {
        renew(&next, "kept", &lease).await.map_err(|status| status.to_string())
    })
    .await;
    let held = ids(&next).await;
    for (there, gone, refused) in clients.join_all().await {
        assert!(!there.is_empty() && !gone.is_empty());
        assert_eq!(there.iter().filter(|id| !held.contains(*id)).count(), 0, "acknowledged, and lost");
        assert_eq!(gone.iter().filter(|id| held.contains(*id)).count(), 0, "removed, and back");
        of_a_move(refused).unwrap();
    }
    assert!(find(&old, "kept").await.is_some(), "reads go on");

    // No control plane starts on the file again.
    old.kill();
    let again = binaries::control_plane()
        .args(["--listen", "127.0.0.1:0", "--store", &format!("redb:{}", path.display())])
        .output();
    let again = String::from_utf8(again.unwrap().stderr).unwrap();
    assert!(again.contains("it has moved to etcd://"), "{again}");
}

/// Waits until requests for a service are answered by its replica.
pub(crate) async fn answers(data: &DataPlane, service: &str) {
    let path = format!("/{service}/hello");
    eventually_within(Duration::from_secs(30), &format!("{service} answers"), async || {
        match http1::get(data.address(), &path).await.status().as_u16() {
            200 => Ok(()),
            other => Err(other.to_string()),
        }
    })
    .await;
}

#[tokio::test]
async fn traffic_and_owners_notice_nothing_of_a_move_from_a_file_and_of_the_control_plane_that_follows_by_etcd()
 {
    let etcd = Etcd::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut control = ControlPlane::start(&folder.path().join("gateway.redb")).await;
    let replica = Scripted::start(|_, _| Act::ok(b"hello"));
    // Shorter than all of this takes, so that whoever is not renewed is gone.
    let wish = request("kept", &replica.address().to_string(), Some(4));
    let lease = register(&control, wish).await.lease_id;
    let data = DataPlane::following(&control, "dp-1", &folder.path().join("dp-1")).await;
    answers(&data, "orders").await;
    let load = Load::start(data.address(), "/orders/hello", 100);
    let until = Instant::now() + Duration::from_secs(12);
    let is_over = move || Instant::now() >= until;
    let keeping = tokio::spawn(keep(vec![control.registry()], "orders", lease.clone(), is_over));
    let (url, to) = (control.url(), etcd.store("gw"));
    let moving = tokio::task::spawn_blocking(move || gwctl_store(&["migrate", &url, &to]));
    let (moved, said) = moving.await.unwrap();
    assert!(moved && said.contains("1 records copied"), "{said}");
    control.restart_on(etcd.store("gw")).await;
    let renewed = keeping.await.unwrap();
    assert!(renewed > 20, "{renewed}");
    renew(&control, "kept", &lease).await.unwrap();
    let fresh = Scripted::start(|_, _| Act::ok(b"hello"));
    let wish = request("new", &fresh.address().to_string(), None);
    register(&control, RegisterRequest { service: "fresh".into(), ..wish }).await;
    data.routes("fresh").await;
    let tally = load.stop().await;
    assert_eq!((tally.failed, tally.sent > 500), (0, true), "{tally:?}");
}

#[tokio::test]
async fn data_planes_leave_a_control_plane_whose_registry_has_moved_and_do_not_go_back_to_it_by_etcd() {
    let etcd = Etcd::start().await;
    let folder = tempfile::tempdir().unwrap();
    let old = ControlPlane::start(&folder.path().join("gateway.redb")).await;
    // Where it will be, nobody is yet.
    let mut next = ControlPlane::start_on("memory:".into(), &[]).await;
    next.kill();
    let urls = [old.url(), next.url()].join(",");
    let data = DataPlane::start(&["--control-plane", &urls, "--node-id", "dp-1", "--no-cache"]).await;
    let replica = Scripted::start(|_, _| Act::ok(b"hello"));
    let wish = |service: &str| RegisterRequest {
        service: service.into(),
        ..request("kept", &replica.address().to_string(), Some(60))
    };
    register(&old, wish("orders")).await;
    answers(&data, "orders").await;
    let load = Load::start(data.address(), "/orders/hello", 100);
    let (url, to) = (old.url(), etcd.store("gw"));
    let moving = tokio::task::spawn_blocking(move || gwctl_store(&["migrate", &url, &to]));
    assert!(moving.await.unwrap().0);
    next.restart_on(etcd.store("gw")).await;
    // The old one runs on, and knows nothing of this.
    register(&next, wish("fresh")).await;
    // It hears of the move within 5 s, and looks around within another 5 s.
    answers(&data, "fresh").await;
    let metric = async |name: &str| {
        let metrics = http1::get(data.admin(), "/metrics").await;
        let text = String::from_utf8_lossy(metrics.body()).into_owned();
        let line = text.lines().find(|line| line.starts_with(name)).map(str::to_owned);
        line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).unwrap_or(0.0)
    };
    assert_eq!(metric("gateway_control_plane_streams_ended_total{reason=\"outdated\"}").await, 1.0);

    next.kill();
    eventually("it has tried the old one, too", async || {
        match metric("gateway_control_plane_streams_ended_total{reason=\"failed\"}").await {
            2.0.. => Ok(()),
            count => Err(count.to_string()),
        }
    })
    .await;
    assert_eq!(http1::get(data.address(), "/fresh/hello").await.status(), 200, "what it knew, it knows");
    next.restart().await;
    register(&next, wish("fresher")).await;
    answers(&data, "fresher").await;
    let tally = load.stop().await;
    assert_eq!((tally.failed, tally.sent > 500), (0, true), "{tally:?}");
}

/// `gwctl store` with these arguments, killed after so long. Yields whether it had ended before.
pub(crate) async fn killed_after(delay: Duration, args: &[&str]) -> bool {
    let mut command = binaries::gwctl();
    command.arg("store").args(args).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = tokio::process::Command::from(command).kill_on_drop(true).spawn().unwrap();
    match tokio::time::timeout(delay, child.wait()).await {
        Ok(ended) => {
            assert!(ended.unwrap().success());
            true
        }
        Err(_) => {
            child.kill().await.unwrap();
            false
        }
    }
}

/// Whether changes are taken.
pub(crate) async fn is_open(control: &ControlPlane, probe: &str) -> bool {
    match control.registry().register(request(probe, "10.200.0.1:80", None)).await {
        Ok(_) => true,
        Err(status) => {
            assert_eq!(status.code(), Code::Unavailable, "{status}");
            false
        }
    }
}

/// Registers many, one after the other.
pub(crate) async fn fill(path: &Path, count: usize) -> ControlPlane {
    let control = ControlPlane::start(path).await;
    let mut registering = JoinSet::new();
    for number in 0..count {
        let mut registry = control.registry();
        let wish =
            request(&format!("r-{number}"), &format!("10.1.{}.{}:80", number / 250, number % 250 + 1), None);
        registering.spawn(async move { registry.register(wish).await.unwrap() });
        if registering.len() == 16 {
            registering.join_next().await.unwrap().unwrap();
        }
    }
    registering.join_all().await;
    control
}

#[tokio::test]
async fn a_mover_that_is_killed_at_any_moment_leaves_one_of_the_two_taking_changes_or_says_how_by_etcd() {
    let etcd = Etcd::start().await;
    let folder = tempfile::tempdir().unwrap();
    let old = fill(&folder.path().join("gateway.redb"), 300).await;
    let known = ids(&old).await;
    let url = old.url();
    // How long it takes when nobody kills it.
    let began = Instant::now();
    assert!(killed_after(Duration::from_secs(60), &["migrate", &url, &etcd.store("gw")]).await);
    let whole = began.elapsed();
    assert!(!is_open(&old, "probe").await);
    let mut closed_by_then = 0;
    for number in 0..12_u32 {
        assert!(gwctl_store(&["reopen", &url]).0);
        assert!(is_open(&old, "probe").await);
        let to = etcd.store(&format!("gw-{number}"));
        let has_ended = killed_after(whole * (number + 2) / 12, &["migrate", &url, &to]).await;
        // As long as the kernel takes to tell of the end of a connection, and the control plane of the end of a stream.
        let state = eventually("it is known who takes changes", async || {
            match (readyz(&old).await, is_open(&old, "probe").await) {
                (200, true) => Ok(true),
                (503, false) => {
                    // For good, and not only as long as its mover was there.
                    tokio::time::sleep(Duration::from_millis(500)).await;
                    if readyz(&old).await == 503 {
                        Ok(false)
                    } else {
                        Err("it was about to be open".to_owned())
                    }
                }
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        let (is_there, said) = gwctl_store(&["reopen", &to]);
        let is_new_open = is_there && said.contains("already");
        assert!(
            !(state && is_new_open && !ids_at(&etcd, &format!("gw-{number}")).is_empty()),
            "both take changes: {said}"
        );
        assert!(!has_ended || (!state && is_new_open), "it has ended, and {said}");
        closed_by_then += usize::from(!state);
        if !is_new_open {
            assert!(said.contains("being filled") || said.contains("cannot be used"), "{said}");
        }
    }
    println!("{closed_by_then} of 12 had moved by the time that they were killed");
    assert!(gwctl_store(&["reopen", &url]).0);
    assert!(ids(&old).await.is_superset(&known), "nothing is lost by any of it");
}

/// The keys of records below a prefix.
fn ids_at(etcd: &Etcd, prefix: &str) -> Vec<String> {
    let keys = etcd.ctl(&["get", "--prefix", "--keys-only", &format!("/{prefix}/records/")]);
    keys.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[tokio::test]
async fn a_control_plane_that_is_killed_while_its_registry_is_moved_starts_on_the_file_as_ever() {
    let folder = tempfile::tempdir().unwrap();
    let mut control = fill(&folder.path().join("gateway.redb"), 1).await;
    let (requests, steps) = mpsc::channel(1);
    let mut answers = control.stores().move_store(ReceiverStream::new(steps)).await.unwrap().into_inner();
    let step = Some(Step::Close(CloseStore { to: "etcd://a:2379/gw".into() }));
    requests.send(MoveStoreRequest { step }).await.unwrap();
    assert!(answers.message().await.unwrap().is_some());
    assert!(!is_open(&control, "probe").await);
    control.restart().await;
    assert!(is_open(&control, "probe").await && find(&control, "r-0").await.is_some());
    assert!(answers.message().await.is_err(), "whoever moves it hears of it");
}
