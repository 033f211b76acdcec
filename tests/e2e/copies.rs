//! A registry is copied while it goes on, and goes on from a copy: whoever is killed meanwhile, and however far ahead data planes are.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use gateway_proto::v1::{RegisterRequest, registry_service_client::RegistryServiceClient};
use gateway_tests::{
    Act, ControlPlane, Etcd, Gateway, Load, Scripted, binaries, command, eventually, http1, tools,
};
use serde_json::Value;
use tokio::task::JoinSet;
use tonic::{Code, transport::Channel};

use crate::{
    etcd::{find, ids, pair, register, renew, request},
    etcd_access::gwctl_store,
    moving::{fill, is_open, killed_after, readyz},
};

/// Copies, and says what it said as JSON.
async fn copied(from: &str, to: &str) -> Value {
    command::gwctl("http://127.0.0.1:1", &["store", "copy", from, to, "-o", "json"]).await.json()
}

fn redb(folder: &Path, name: &str) -> String {
    format!("redb:{}", folder.join(name).display())
}

/// What was acknowledged: replicas and the revisions at which they were registered.
type Acknowledged = Arc<Mutex<BTreeMap<String, i64>>>;

/// Registers as fast as it is answered until it is told to end. Nobody is ever refused, but for others on the same etcd being faster each time.
async fn register_until(
    mut registry: RegistryServiceClient<Channel>,
    client: usize,
    known: Acknowledged,
    is_over: Arc<AtomicBool>,
) {
    let mut number = 0;
    while !is_over.load(Relaxed) {
        let id = format!("r-{client}-{number}");
        let address = format!("10.{client}.{}.{}:80", number / 250, number % 250 + 1);
        match registry.register(request(&id, &address, None)).await {
            Ok(answer) => {
                let revision = answer.into_inner().replica.unwrap().revision;
                known.lock().unwrap().insert(id, revision);
                number += 1;
            }
            Err(status) => assert_eq!(status.code(), Code::ResourceExhausted, "{status}"),
        }
    }
}

/// Copies `from` while all of these are registered at, and looks whether the copy is what was there at its revision.
async fn is_one_revision_under_load(controls: &[&ControlPlane], from: &str) {
    let folder = tempfile::tempdir().unwrap();
    let (known, is_over) = (Acknowledged::default(), Arc::<AtomicBool>::default());
    let mut clients = JoinSet::new();
    for client in 0..4 {
        let registry = controls[client % controls.len()].registry();
        clients.spawn(register_until(registry, client, Arc::clone(&known), Arc::clone(&is_over)));
    }
    let count = || known.lock().unwrap().len();
    let reaches = async |least: usize| {
        eventually("registrations are acknowledged", async || match count() {
            count if count < least => Err(format!("{count} of {least}")),
            _ => Ok(()),
        })
        .await;
    };
    reaches(200).await;
    let before: BTreeSet<String> = known.lock().unwrap().keys().cloned().collect();
    let told = copied(from, &redb(folder.path(), "copy")).await;
    reaches(count() + 50).await;
    is_over.store(true, Relaxed);
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    let revision = told["from_revision"].as_i64().unwrap();
    let known = known.lock().unwrap().clone();
    let by_then: BTreeSet<String> =
        known.iter().filter(|(_, of)| **of <= revision).map(|(id, _)| id.clone()).collect();
    assert!(by_then.is_superset(&before), "acknowledged before, and not in the copy's revision");
    assert!(by_then.len() < known.len(), "it went on meanwhile");
    assert_eq!(told["records"], by_then.len());
    let copy = ControlPlane::start_on(redb(folder.path(), "copy"), &[]).await;
    assert_eq!(ids(&copy).await, by_then);
}

#[tokio::test]
async fn a_copy_under_load_is_one_revision_with_all_that_was_acknowledged_before_and_nobody_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let control = ControlPlane::start(&folder.path().join("gateway.redb")).await;
    is_one_revision_under_load(&[&control], &control.url()).await;
}

#[tokio::test]
async fn a_copy_of_what_control_planes_share_is_one_revision_under_load_too_by_etcd() {
    let etcd = Etcd::start().await;
    let [one, other] = pair(&etcd).await;
    is_one_revision_under_load(&[&one, &other], &etcd.store("gw")).await;
}

#[tokio::test]
async fn a_copy_that_is_killed_at_any_moment_is_whole_or_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let control = fill(&folder.path().join("gateway.redb"), 300).await;
    let (known, url) = (ids(&control).await, control.url());
    // How long it takes when nobody kills it.
    let began = Instant::now();
    assert!(killed_after(Duration::from_secs(60), &["copy", &url, &redb(folder.path(), "whole")]).await);
    let whole = began.elapsed();
    let mut made = 0;
    for number in 0..12_u32 {
        let (name, again) = (format!("copy-{number}"), redb(folder.path(), &format!("again-{number}")));
        let to = redb(folder.path(), &name);
        let has_ended = killed_after(whole * (number + 2) / 12, &["copy", &url, &to]).await;
        let is_there = folder.path().join(&name).exists();
        assert!(is_there || !has_ended);
        if is_there {
            made += 1;
            assert_eq!(ids(&ControlPlane::start_on(to, &[]).await).await, known);
        }
        assert_eq!(readyz(&control).await, 200);
        eventually("the next one is let in, once it is known that this one has gone", async || {
            match gwctl_store(&["copy", &url, &again]) {
                (true, _) => Ok(()),
                (false, said) => Err(said),
            }
        })
        .await;
    }
    println!("{made} of 12 were there by the time that they were killed");
    assert!(is_open(&control, "probe").await);
    // Nobody takes what is left for more than it is.
    let names = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    for (number, part) in names.filter(|name| name.ends_with(".part")).enumerate() {
        holds_all_or_nothing(&redb(folder.path(), &part), &redb(folder.path(), &format!("of-{number}")))
            .await;
    }
}

/// Whether a store that somebody was killed at holds all 300 or nothing, or says that it is no store yet, also to control planes.
async fn holds_all_or_nothing(store: &str, to: &str) {
    let tried = command::gwctl("http://127.0.0.1:1", &["store", "copy", store, to, "-o", "json"]).await;
    if tried.code() == 0 {
        let records = tried.json()["records"].as_u64().unwrap();
        assert!(matches!(records, 0 | 300), "{store}: {records}");
        return;
    }
    let said = tried.stderr;
    if said.contains("it is being filled from") {
        let mut start = binaries::control_plane();
        start.args(["--listen", "127.0.0.1:0", "--store", store]).stdout(Stdio::null());
        let refused = command::run(start).await;
        assert!(refused.code() != 0 && refused.stderr.contains("it is being filled"), "{}", refused.stderr);
    } else {
        assert!(said.contains("there is no store") || said.contains("names no"), "{said}");
    }
}

#[tokio::test]
async fn a_copy_into_an_etcd_that_is_killed_is_taken_for_a_store_by_nobody_by_etcd() {
    let etcd = Etcd::start().await;
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("gateway.redb");
    let mut control = fill(&store, 300).await;
    control.kill();
    let from = redb(folder.path(), "gateway.redb");
    let began = Instant::now();
    assert!(killed_after(Duration::from_secs(60), &["copy", &from, &etcd.store("gw")]).await);
    let whole = began.elapsed();
    let restored = ControlPlane::start_on(etcd.store("gw"), &[]).await;
    assert_eq!(ids(&restored).await.len(), 300);
    for number in 0..6_u32 {
        let to = etcd.store(&format!("gw-{number}"));
        killed_after(whole * (number + 1) / 6, &["copy", &from, &to]).await;
        holds_all_or_nothing(&to, &redb(folder.path(), &format!("of-{number}"))).await;
    }
    control.restart().await;
    assert!(is_open(&control, "probe").await, "it knows nothing of any of it");
}

#[tokio::test]
async fn a_copy_is_made_of_what_is_there_and_where_nothing_is() {
    let folder = tempfile::tempdir().unwrap();
    let control = fill(&folder.path().join("gateway.redb"), 1).await;
    let store = |name: &str| redb(folder.path(), name);
    fs::write(folder.path().join("taken"), "my notes").unwrap();
    let next = format!("gwctl store copy {} {}", control.url(), store("new"));
    for (from, to, code, words) in [
        (control.url(), store("taken"), 1, "there is a file already"),
        (control.url(), store("gateway.redb"), 1, "there is a file already"),
        (control.url(), store("no/new"), 1, "No such file"),
        (control.url(), "memory:".into(), 2, "would end with this command"),
        (store("gateway.redb"), store("new"), 1, &next),
        (store("missing"), store("new"), 1, "there is no such file"),
        (store("new"), store("new"), 2, "as FROM is"),
        ("memory:".into(), store("new"), 2, &next),
        ("http://127.0.0.1:1".into(), store("new"), 5, "127.0.0.1:1"),
    ] {
        let refused = command::gwctl(&control.url(), &["store", "copy", &from, &to]).await;
        assert_eq!(refused.code(), code, "{from} {to}: {}", refused.stderr);
        assert!(refused.stderr.contains(words), "{from} {to}: {}", refused.stderr);
    }
    let names: BTreeSet<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(names, BTreeSet::from(["gateway.redb".into(), "taken".into()]), "nothing is left of any");
    assert_eq!(fs::read_to_string(folder.path().join("taken")).unwrap(), "my notes");
    let (made, said) = gwctl_store(&["copy", &control.url(), &store("new")]);
    assert!(made && said.starts_with("1 records copied from http://"), "{said}");
}

#[tokio::test]
async fn a_copy_of_an_etcd_is_made_of_a_store_that_is_there_and_into_one_that_is_empty_by_etcd() {
    let etcd = Etcd::start().await;
    let folder = tempfile::tempdir().unwrap();
    let store = |name: &str| redb(folder.path(), name);
    let revision = etcd.revision();
    let (made, said) = gwctl_store(&["copy", &etcd.store("gw"), &store("new")]);
    assert!(!made && said.contains("there is no store below /gw/"), "{said}");
    assert_eq!(etcd.revision(), revision, "nor is there one now");
    let control = ControlPlane::start_on(etcd.store("gw"), &[]).await;
    let lease = register(&control, request("kept", "10.9.0.1:80", Some(60))).await.lease_id;
    let (made, said) = gwctl_store(&["copy", &control.url(), &store("new")]);
    assert!(!made && said.contains("control planes share this one's store"), "{said}");
    copied(&etcd.store("gw"), &store("new")).await;
    let (made, said) = gwctl_store(&["copy", &store("new"), &etcd.store("gw")]);
    assert!(!made && said.contains("into an empty one only"), "{said}");
    assert!(is_open(&control, "probe").await, "whoever uses it goes on");
    let told = copied(&store("new"), &etcd.store("gw-2")).await;
    assert_eq!(told["records"], 1);
    let restored = ControlPlane::start_on(etcd.store("gw-2"), &[]).await;
    assert!(find(&restored, "kept").await.is_some());
    renew(&restored, "kept", &lease).await.unwrap();
}

#[tokio::test]
async fn data_planes_that_are_ahead_of_a_copy_follow_the_control_plane_that_goes_on_from_it() {
    let mut gateway = Gateway::start().await;
    let [replica, leased] = [(); 2].map(|()| Scripted::start(|_, _| Act::ok(b"hello")));
    gateway.register("orders", "r-1", replica.address()).await;
    let lease = register(&gateway.control, request("kept", &leased.address().to_string(), Some(60))).await;
    let folder = gateway.directory().to_owned();
    let backup = redb(&folder, "backup");
    let mut epochs = vec![copied(&gateway.control.url(), &backup).await["from_epoch"].clone()];
    let load = Load::start(gateway.proxy(), "/orders/hello", 100);
    // The second time, data planes have been where the first copy has led.
    for round in 0..2 {
        for number in 0..10 {
            let service = format!("later-{round}-{number}");
            gateway.register(&service, "r-1", replica.address()).await;
        }
        gateway.control.kill();
        let restored = redb(&folder, &format!("restored-{round}"));
        let told = copied(&backup, &restored).await;
        assert!(!epochs.contains(&told["to_epoch"]), "{told} of {epochs:?}");
        epochs.push(told["to_epoch"].clone());
        gateway.control.restart_on(restored).await;
        assert!(find(&gateway.control, "r-1").await.is_some());
        renew(&gateway.control, "kept", &lease.lease_id).await.unwrap();
        assert_eq!(gateway.replicas(&format!("later-{round}-0")).await, [], "it was not there yet");
        let service = format!("fresh-{round}");
        let wish = RegisterRequest {
            service: service.clone(),
            ..request("r-1", &replica.address().to_string(), None)
        };
        register(&gateway.control, wish).await;
        gateway.synced().await;
        assert_eq!(http1::get(gateway.proxy(), &format!("/{service}/hello")).await.status(), 200);
    }
    eventually("there were requests all the while", async || match load.tally().sent {
        sent @ ..=100 => Err(sent.to_string()),
        _ => Ok(()),
    })
    .await;
    let tally = load.stop().await;
    assert_eq!((tally.failed, tally.sent > 100), (0, true), "{tally:?}");
}

#[tokio::test]
async fn the_lines_for_backup_and_restore_of_the_runbook_work_as_they_stand() {
    let runbooks =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/runbooks.md")).unwrap();
    let line = |start: &str| {
        let mut lines = runbooks.lines().filter_map(|line| line.trim().strip_prefix(start));
        lines.next().unwrap_or_else(|| panic!("no line begins with {start:?}")).to_owned()
    };
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    for place in ["backups", "state"] {
        fs::create_dir(at(place)).unwrap();
    }
    let hash = control_plane::auth_file::fingerprint("gwt_ops");
    fs::write(
        at("auth.toml"),
        format!("[[token]]\nname = \"ops\"\nsha256 = \"{hash}\"\nroles = [\"operator\"]\n"),
    )
    .unwrap();
    fs::write(at("ops.token"), "gwt_ops\n").unwrap();
    let store = folder.path().join("state/registry.redb");
    let mut control = ControlPlane::start_with(&store, &["--auth-file", &at("auth.toml")]).await;
    let programs = Path::new(binaries::gwctl().get_program()).parent().unwrap().display().to_string();
    let path = format!("{programs}:{}", tools::path());
    let url = control.url();
    let here = |line: &str| {
        line.replace("http://127.0.0.1:7400", &url)
            .replace("/etc/gateway/operator.token", &at("ops.token"))
            .replace("/var/backups/gateway", &at("backups"))
            .replace("/var/lib/gateway-control-plane", &at("state"))
    };
    // In a crontab, a percent sign is a new line unless it is escaped.
    let backup = line("15 * * * * root ").replace("\\%", "%");
    command::shell(&here(&backup), &path).await.success();
    let made: Vec<_> = fs::read_dir(at("backups"))
        .unwrap()
        .map(|entry| entry.unwrap().path().display().to_string())
        .collect();
    let [made] = &made[..] else { panic!("{made:?}") };
    assert!(made.ends_with(".redb"), "{made}");
    control.kill();
    for start in ["mv ", "gwctl store copy redb:BACKUP ", "chown "] {
        let restore = here(&format!("{start}{}", line(start))).replace("BACKUP", made);
        command::shell(&restore, &path).await.success();
    }
    assert!(Path::new(&at("state/registry.redb.old")).exists());
    control.restart().await;
}
