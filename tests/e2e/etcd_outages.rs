//! etcd goes away, stands still, forgets or chooses a leader: reads go on, changes wait, and nobody is taken for dead.

use std::time::{Duration, Instant};

use gateway_proto::v1::DeregisterRequest;
use gateway_tests::{
    ControlPlane, DataPlane, Etcd, command::gwctl, eventually, eventually_within, http1, throughout,
};
use tonic::Code;
use tonic_types::StatusExt;

use crate::etcd::{agree, find, ids, pair, register, renew, request};

/// One call's patience, and some for a machine that has much else to do.
const FIRST_REFUSAL: Duration = Duration::from_secs(10);
const LATER_REFUSALS: Duration = Duration::from_secs(2);
const TTL: i64 = 3;

async fn readiness(control: &ControlPlane) -> u16 {
    http1::get(control.address(), "/readyz").await.status().as_u16()
}

async fn is_ready(control: &ControlPlane) {
    eventually("it is ready again", async || match readiness(control).await {
        200 => Ok(()),
        other => Err(other.to_string()),
    })
    .await;
}

/// Refuses changes quickly, answers reads, and lets nobody go.
async fn holds_out(control: &ControlPlane) {
    let began = Instant::now();
    let refused = control.registry().register(request("r-2", "10.0.0.2:80", None)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert!(refused.get_details_retry_info().is_some(), "{refused:?}");
    assert!(began.elapsed() < FIRST_REFUSAL, "{:?}", began.elapsed());
    for _ in 0..5 {
        let began = Instant::now();
        let refused = control.registry().register(request("r-2", "10.0.0.2:80", None)).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable, "{refused}");
        assert!(began.elapsed() < LATER_REFUSALS, "{:?}", began.elapsed());
    }
    eventually("it says that it is not ready", async || match readiness(control).await {
        503 => Ok(()),
        other => Err(other.to_string()),
    })
    .await;
    // Longer than the lease lasts.
    throughout(Duration::from_secs(2 * TTL.unsigned_abs()), async || {
        assert!(find(control, "r-1").await.is_some(), "nobody can be heard of, so nobody is let go");
    })
    .await;
}

/// Takes changes again, and has kept what it had.
async fn is_well(control: &ControlPlane, lease: &str) {
    is_ready(control).await;
    assert!(find(control, "r-1").await.is_some());
    eventually("its owner is heard of", async || {
        renew(control, "r-1", lease).await.map_err(|status| status.to_string())
    })
    .await;
    // One whole time to live and more, on the strength of renewals alone.
    throughout(Duration::from_secs(2 * TTL.unsigned_abs()), async || {
        renew(control, "r-1", lease).await.unwrap();
        assert!(find(control, "r-1").await.is_some());
    })
    .await;
}

#[tokio::test]
async fn while_etcd_stands_still_reads_go_on_and_nobody_is_taken_for_dead_by_etcd() {
    let mut etcd = Etcd::start().await;
    let [one, other] = pair(&etcd).await;
    let lease = register(&one, request("r-1", "10.0.0.1:80", Some(TTL))).await.lease_id;
    agree(&one, &other, &["r-1"]).await;
    etcd.process(0).pause();
    tokio::join!(holds_out(&one), holds_out(&other));
    etcd.process(0).resume();
    is_well(&other, &lease).await;
    is_ready(&one).await;
    register(&one, request("r-3", "10.0.0.3:80", None)).await;
    agree(&one, &other, &["r-1", "r-3"]).await;
}

#[tokio::test]
async fn an_etcd_that_is_killed_and_comes_back_finds_everybody_where_he_was_by_etcd() {
    let mut etcd = Etcd::start().await;
    let [one, other] = pair(&etcd).await;
    let lease = register(&one, request("r-1", "10.0.0.1:80", Some(TTL))).await.lease_id;
    agree(&one, &other, &["r-1"]).await;
    etcd.kill(0);
    tokio::join!(holds_out(&one), holds_out(&other));
    etcd.restart(0);
    is_well(&one, &lease).await;
    is_ready(&other).await;
    register(&other, request("r-3", "10.0.0.3:80", None)).await;
    agree(&one, &other, &["r-1", "r-3"]).await;
    // And whoever is silent from now on goes, one time to live later.
    eventually_within(Duration::from_secs(20), "it is gone", async || match find(&other, "r-1").await {
        None => Ok(()),
        Some(replica) => Err(format!("{replica:?}")),
    })
    .await;
}

#[tokio::test]
async fn what_a_control_plane_cannot_read_of_the_store_stops_its_changes_and_not_its_renewals_by_etcd() {
    let etcd = Etcd::start().await;
    let [one, _other] = pair(&etcd).await;
    let lease = register(&one, request("r-1", "10.0.0.1:80", Some(TTL))).await.lease_id;
    // As by a control plane that knows more. That something has changed shows in the head.
    let (strange, head) = ("/gw/records/policies/orders", ["put", "--ignore-value", "/gw/live/head"]);
    etcd.ctl(&["put", strange, "of a newer one"]);
    etcd.ctl(&head);
    holds_out_renewing(&one, &lease).await;
    let refused = one.registry().register(request("r-2", "10.0.0.2:80", None)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    etcd.ctl(&["del", strange]);
    etcd.ctl(&head);
    is_well(&one, &lease).await;
    assert_eq!(store_silence(&one).await, 0.0);
    register(&one, request("r-2", "10.0.0.2:80", None)).await;
}

/// Says that it does not know all that there is, and hears of an owner for longer than his lease lasts.
async fn holds_out_renewing(control: &ControlPlane, lease: &str) {
    eventually("data planes are told", async || match store_silence(control).await {
        0.0 => Err("it says that it is in touch".to_owned()),
        _ => Ok(()),
    })
    .await;
    throughout(Duration::from_secs(2 * TTL.unsigned_abs()), async || {
        renew(control, "r-1", lease).await.unwrap();
        assert_eq!(readiness(control).await, 503);
        assert!(store_silence(control).await > 0.0);
    })
    .await;
}

async fn store_silence(control: &ControlPlane) -> f64 {
    let metrics = http1::get(control.address(), "/metrics").await;
    let text = String::from_utf8_lossy(metrics.body()).into_owned();
    let value = text.lines().find_map(|line| line.strip_prefix("gateway_store_silence_seconds "));
    value.expect("it is there").parse().expect("it is a number")
}

#[tokio::test]
async fn what_etcd_has_forgotten_of_the_meantime_is_made_up_for_by_etcd() {
    let mut etcd = Etcd::start().await;
    let [one, mut other] = pair(&etcd).await;
    for number in 0..4 {
        register(&one, request(&format!("r-{number}"), &format!("10.0.0.1:{}", 80 + number), None)).await;
    }
    agree(&one, &other, &["r-0", "r-1", "r-2", "r-3"]).await;
    // The other one hears nothing of what follows, and has to begin its watch anew.
    other.process().pause();
    etcd.kill(0);
    etcd.restart(0);
    etcd.answers().await;
    eventually("changes are taken", async || {
        let request =
            DeregisterRequest { service: "orders".into(), replica_id: "r-0".into(), ..Default::default() };
        one.registry().deregister(request).await.map_err(|status| status.to_string())
    })
    .await;
    register(&one, request("r-9", "10.0.0.9:80", None)).await;
    let forgotten = etcd.revision().to_string();
    etcd.ctl(&["compact", &forgotten]);
    other.process().resume();
    let expected = ids(&one).await;
    assert!(expected.contains("r-9") && !expected.contains("r-0"), "{expected:?}");
    eventually("the other one knows", async || match ids(&other).await {
        known if known == expected => Ok(()),
        known => Err(format!("{known:?}")),
    })
    .await;
    agree(&one, &other, &["r-1", "r-9"]).await;
}

#[tokio::test]
async fn a_leader_that_is_killed_costs_a_short_gap_in_writes_and_nothing_that_was_acknowledged_by_etcd() {
    let mut etcd = Etcd::cluster(3).await;
    let [one, other] = pair(&etcd).await;
    let mut promised = Vec::new();
    let (mut longest, mut last) = (Duration::ZERO, Instant::now());
    for round in 0..2 {
        let leader =
            eventually("somebody leads", async || etcd.leader().ok_or_else(|| "nobody".to_owned())).await;
        for number in 0..40 {
            if number == 10 {
                etcd.kill(leader);
            }
            let id = format!("r-{round}-{number}");
            let wish = request(&id, &format!("10.0.{round}.1:{}", 1000 + number), None);
            eventually("a registration is taken", async || {
                let taken = [&one, &other][number % 2].registry().register(wish.clone()).await;
                taken.map(drop).map_err(|status| status.to_string())
            })
            .await;
            longest = longest.max(last.elapsed());
            last = Instant::now();
            promised.push(id);
        }
        etcd.restart(leader);
        etcd.answers().await;
        last = Instant::now();
    }
    println!("longest gap between two acknowledged registrations: {longest:?}");
    assert!(longest < Duration::from_secs(15), "{longest:?}");
    for control in [&one, &other] {
        eventually("it has all that was acknowledged", async || {
            let known = ids(control).await;
            let lost: Vec<_> = promised.iter().filter(|id| !known.contains(*id)).collect();
            if lost.is_empty() { Ok(()) } else { Err(format!("{lost:?}")) }
        })
        .await;
    }
}

#[tokio::test]
async fn a_control_plane_that_is_cut_off_with_its_member_turns_away_and_agrees_again_by_etcd() {
    let mut etcd = Etcd::cluster(3).await;
    let leader =
        eventually("somebody leads", async || etcd.leader().ok_or_else(|| "nobody".to_owned())).await;
    let follower = (leader + 1) % 3;
    // One knows the member that will stand still, the other one of those that go on.
    let cut_off = ControlPlane::start_on(etcd.store_at(follower, "gw"), &[]).await;
    let well = ControlPlane::start_on(etcd.store_at(leader, "gw"), &[]).await;
    let lease = register(&cut_off, request("r-1", "10.0.0.1:80", Some(6))).await.lease_id;
    agree(&cut_off, &well, &["r-1"]).await;
    etcd.process(follower).pause();
    let refused = eventually("the one that is cut off turns its callers away", async || {
        match renew(&cut_off, "r-1", &lease).await {
            Err(status) if status.code() == Code::Unavailable => Ok(status),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert!(refused.get_details_retry_info().is_some(), "{refused:?}");
    renew(&well, "r-1", &lease).await.unwrap();
    register(&well, request("r-2", "10.0.0.2:80", None)).await;
    etcd.process(follower).resume();
    agree(&cut_off, &well, &["r-1", "r-2"]).await;
    assert!(find(&cut_off, "r-2").await.is_some());
    is_ready(&cut_off).await;
}

#[tokio::test]
async fn a_control_plane_that_is_behind_tells_no_owner_that_his_lease_is_gone_by_etcd() {
    let mut etcd = Etcd::cluster(3).await;
    let leader =
        eventually("somebody leads", async || etcd.leader().ok_or_else(|| "nobody".to_owned())).await;
    let follower = (leader + 1) % 3;
    let behind = ControlPlane::start_on(etcd.store_at(follower, "gw"), &[]).await;
    let well = ControlPlane::start_on(etcd.store_at(leader, "gw"), &[]).await;
    register(&behind, request("r-1", "10.0.0.1:80", Some(60))).await;
    agree(&behind, &well, &["r-1"]).await;
    // For less time than it takes to find out that etcd says nothing any more.
    etcd.process(follower).pause();
    let lease = register(&well, request("r-2", "10.0.0.2:80", Some(60))).await.lease_id;
    let told = renew(&behind, "r-2", &lease).await.unwrap_err();
    assert_eq!(told.code(), Code::Unavailable, "{told}");
    etcd.process(follower).resume();
    eventually("he is heard of there, too", async || {
        renew(&behind, "r-2", &lease).await.map_err(|status| status.to_string())
    })
    .await;
}

/// What a data plane says of the control plane that it follows.
async fn link(data: &DataPlane) -> String {
    let ready = http1::get(data.admin(), "/readyz?verbose").await;
    String::from_utf8_lossy(ready.body()).into_owned()
}

#[tokio::test]
async fn data_planes_leave_a_control_plane_that_is_cut_off_from_etcd_for_one_that_is_not_by_etcd() {
    let mut etcd = Etcd::cluster(3).await;
    // Each knows one member only, so that it is cut off with that one.
    let mut controls = Vec::new();
    for member in 0..2 {
        controls.push(ControlPlane::start_on(etcd.store_at(member, "gw"), &[]).await);
    }
    let urls = controls.iter().map(ControlPlane::url).collect::<Vec<_>>();
    register(&controls[0], request("r-1", "10.0.0.1:80", None)).await;
    let follow = async |node: &str, urls: &str| {
        DataPlane::start(&["--control-plane", urls, "--node-id", node, "--no-cache"]).await
    };
    let free = follow("free", &urls.join(",")).await;
    let follows = async |data: &DataPlane, control: &ControlPlane| {
        link(data).await.contains(&format!("[+]control-plane {} connected", control.url()))
    };
    let first = eventually("it follows one of them", async || match follows(&free, &controls[0]).await {
        true => Ok(0),
        false if follows(&free, &controls[1]).await => Ok(1),
        false => Err(link(&free).await),
    })
    .await;
    let (left, right) = (&controls[first], &controls[1 - first]);
    let bound = follow("bound", &left.url()).await;
    eventually("both are followed", async || match follows(&bound, left).await {
        true => Ok(()),
        false => Err(link(&bound).await),
    })
    .await;

    etcd.kill(first);
    eventually_within(Duration::from_secs(30), "it follows the other one", async || {
        if follows(&free, right).await { Ok(()) } else { Err(link(&free).await) }
    })
    .await;
    eventually("changes are taken", async || {
        let taken = right.registry().register(request("r-2", "10.0.0.2:80", None)).await;
        taken.map(drop).map_err(|status| status.to_string())
    })
    .await;
    eventually("what is new comes to it", async || {
        let snapshot = http1::get(free.admin(), "/snapshot").await;
        let text = String::from_utf8_lossy(snapshot.body()).into_owned();
        if text.contains("r-2") { Ok(()) } else { Err(text) }
    })
    .await;

    // Everybody can see from where it came, and why.
    let listed = gwctl(&right.url(), &["get", "nodes"]).await;
    let row = listed.stdout.lines().find(|line| line.starts_with("free")).unwrap_or_default();
    assert!(row.contains(&format!("{}, ", left.url())), "{}", listed.stdout);
    assert!(row.contains("it had lost touch with its store"), "{}", listed.stdout);
    let told = gwctl(&right.url(), &["events"]).await;
    let line = format!("has left {}: it had lost touch with its store", left.url());
    assert!(told.stdout.contains(&line), "{}", told.stdout);
    assert!(link(&free).await.contains(&format!("(left {} ", left.url())), "{}", link(&free).await);

    // Who knows no other one stays, and says how it stands.
    eventually("it is told", async || match link(&bound).await {
        said if said.contains("[-]control-plane has not heard of its store for") => Ok(()),
        said => Err(said),
    })
    .await;
    assert!(follows(&bound, left).await);
    let listed = gwctl(&left.url(), &["get", "nodes"]).await;
    let row = listed.stdout.lines().find(|line| line.starts_with("bound")).unwrap_or_default();
    assert!(row.contains("OUTDATED"), "{}", listed.stdout);
    assert!(listed.stderr.contains("has lost touch with its store"), "{}", listed.stderr);
    let checked = gwctl(&left.url(), &["check"]).await;
    let finding = format!("bound follows {}, which has lost touch with its store", left.address());
    assert!(checked.stdout.contains(&finding), "{}", checked.stdout);
    let metrics = http1::get(left.address(), "/metrics").await;
    let metrics = String::from_utf8_lossy(metrics.body()).into_owned();
    assert!(metrics.contains("gateway_nodes{state=\"outdated\"} 1"), "{metrics}");
}
