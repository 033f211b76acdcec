//! What is registered moves from etcd to a file while control planes on etcd change it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use gateway_proto::v1::RegisterRequest;
use gateway_tests::{Act, ControlPlane, DataPlane, Etcd, Load, Scripted, throughout};
use tokio::task::JoinSet;

use crate::{
    etcd::{find, ids, pair, register, renew, request},
    etcd_access::{changing, gwctl_store, of_a_move},
    moving::{answers, keep},
};

/// In seconds: shorter than all of this takes, so that whoever is not renewed is gone.
const TTL: i64 = 4;

#[tokio::test]
async fn traffic_and_owners_notice_nothing_of_a_move_from_etcd_to_a_file_and_nothing_acknowledged_is_lost_by_etcd()
 {
    let etcd = Etcd::start().await;
    let folder = tempfile::tempdir().unwrap();
    let [one, other] = pair(&etcd).await;
    // Where it will be, nobody is yet.
    let mut next = ControlPlane::start_on("memory:".into(), &[]).await;
    next.kill();
    let replica = Scripted::start(|_, _| Act::ok(b"hello"));
    let address = replica.address().to_string();
    let wish =
        |service: &str, ttl| RegisterRequest { service: service.into(), ..request("kept", &address, ttl) };
    let (served, idle) = (wish("served", Some(TTL)), request("kept", "10.9.0.1:80", Some(TTL)));
    let (served, idle) = (register(&one, served).await.lease_id, register(&other, idle).await.lease_id);
    let is_over = Arc::new(AtomicBool::new(false));
    let mut owners = JoinSet::new();
    for (service, lease, first, second) in
        [("served", &served, &one, &other), ("orders", &idle, &other, &one)]
    {
        let (asked, is_over) = ([first, second, &next].map(ControlPlane::registry), Arc::clone(&is_over));
        owners.spawn(keep(asked.into(), service, lease.clone(), move || is_over.load(Relaxed)));
    }
    let urls = [one.url(), other.url(), next.url()].join(",");
    let data = DataPlane::start(&["--control-plane", &urls, "--node-id", "dp-1", "--no-cache"]).await;
    answers(&data, "served").await;
    let load = Load::start(data.address(), "/served/hello", 100);
    let clients = changing([&one, &other], 200).await;
    let file = format!("redb:{}", folder.path().join("gateway.redb").display());
    let (from, to) = (etcd.store("gw"), file.clone());
    let moving = tokio::task::spawn_blocking(move || gwctl_store(&["migrate", &from, &to]));
    let (moved, said) = moving.await.unwrap();
    assert!(moved, "{said}");
    let outcomes = clients.join_all().await;
    next.restart_on(file).await;
    let held = ids(&next).await;
    for (there, gone, refused) in outcomes {
        assert!(!there.is_empty() && !gone.is_empty());
        assert_eq!(there.iter().filter(|id| !held.contains(*id)).count(), 0, "acknowledged, and lost");
        assert_eq!(gone.iter().filter(|id| held.contains(*id)).count(), 0, "removed, and back");
        of_a_move(refused).unwrap();
    }

    // Owners have found it, or what they hold would be gone by the end of this.
    throughout(Duration::from_secs(2 * TTL as u64), async || assert!(find(&next, "kept").await.is_some()))
        .await;
    renew(&next, "kept", &idle).await.unwrap();
    register(&next, wish("fresh", None)).await;
    answers(&data, "fresh").await;
    // Those on etcd run on, and take nothing.
    for old in [&one, &other] {
        let refused = old.registry().register(request("late", "10.9.0.3:80", None)).await.unwrap_err();
        of_a_move(refused).unwrap();
    }
    let tally = load.stop().await;
    // Not before: whoever is not renewed is gone before data planes have found the file's control plane.
    is_over.store(true, Relaxed);
    for renewed in owners.join_all().await {
        assert!(renewed > 20, "{renewed}");
    }
    assert_eq!((tally.failed, tally.sent > 500), (0, true), "{tally:?}");
}
