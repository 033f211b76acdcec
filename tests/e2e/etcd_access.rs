//! Whom etcd lets in, and what an operator is told when it does not.

use std::{fs, path::Path, process::Command, time::Duration};

use gateway_proto::v1::{DeregisterRequest, registry_service_client::RegistryServiceClient};
use gateway_tests::{ControlPlane, Etcd, binaries, command, eventually, eventually_within};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tokio::task::JoinSet;
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt;

use crate::etcd::{find, ids, pair, register, renew, request};

/// Files are looked at every few seconds, and etcd takes a moment to start.
const RENEWED: Duration = Duration::from_secs(40);

/// What `--check` says of a store: whether it can be used, and the words.
pub(crate) fn checked(store: &str, flags: &[&str]) -> (bool, String) {
    let mut command: Command = binaries::control_plane();
    let output = command.args(["--check", "--store", store]).args(flags).output().unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(matches!(output.status.code(), Some(0 | 2)), "{:?}: {said}", output.status);
    (output.status.success(), said)
}

#[tokio::test]
async fn a_check_says_of_an_etcd_whether_it_could_be_used_and_changes_nothing_by_etcd() {
    let etcd = Etcd::start().await;
    let revision = etcd.revision();
    assert!(checked(&etcd.store("gw"), &[]).0);
    assert_eq!(etcd.revision(), revision, "nothing is made");
    etcd.ctl(&["put", "/taken/by", "somebody else"]);
    let (is_fine, said) = checked(&etcd.store("taken"), &[]);
    assert!(!is_fine && said.contains("/taken/by") && said.contains("name another prefix"), "{said}");
    let (is_fine, said) = checked("etcd://127.0.0.1:9/gw", &[]);
    assert!(!is_fine && said.contains("cannot be reached") && said.contains("127.0.0.1:9"), "{said}");
    let _planes = pair(&etcd).await;
    assert!(checked(&etcd.store("gw"), &[]).0, "also while others use it");
}

#[tokio::test]
async fn an_etcd_that_is_away_ends_the_start_otherwise_than_one_that_is_not_ours_by_etcd() {
    let etcd = Etcd::start().await;
    etcd.ctl(&["put", "/taken/by", "somebody else"]);
    let (away, taken) = ("etcd://127.0.0.1:9/gw".to_owned(), etcd.store("taken"));
    for (store, code, words) in [(away, 1, "cannot be reached"), (taken, 2, "name another prefix")] {
        let mut command = binaries::control_plane();
        command.args(["--listen", "127.0.0.1:0", "--store", &store]);
        let ended = command::run(command).await;
        assert_eq!(ended.code(), code, "{}", ended.stderr);
        assert!(ended.stderr.contains(words), "{}", ended.stderr);
    }
}

#[tokio::test]
async fn control_planes_that_start_at_the_same_time_share_the_store_that_one_of_them_makes_by_etcd() {
    let etcd = Etcd::start().await;
    for round in 0..4 {
        let start = || ControlPlane::start_on(etcd.store(&format!("gw-{round}")), &[]);
        let (one, other, third) = tokio::join!(start(), start(), start());
        register(&one, request("r-1", "10.0.0.1:80", None)).await;
        for control in [&other, &third] {
            eventually("it knows", async || find(control, "r-1").await.ok_or_else(|| "no".to_owned())).await;
        }
    }
}

#[tokio::test]
async fn two_prefixes_of_one_etcd_are_two_registries_by_etcd() {
    let etcd = Etcd::start().await;
    let one = ControlPlane::start_on(etcd.store("gw"), &[]).await;
    let other = ControlPlane::start_on(etcd.store("gw-2"), &[]).await;
    register(&one, request("r-1", "10.0.0.1:80", None)).await;
    register(&other, request("r-2", "10.0.0.1:80", None)).await;
    assert!(find(&one, "r-2").await.is_none() && find(&other, "r-1").await.is_none());
}

/// `gwctl store` with these arguments: whether it did it, and the words.
pub(crate) fn gwctl_store(args: &[&str]) -> (bool, String) {
    let output = binaries::gwctl().arg("store").args(args).output().unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.success(), said)
}

#[tokio::test]
async fn what_is_registered_moves_from_a_file_to_etcd_and_back_with_its_leases_by_etcd() {
    let etcd = Etcd::start().await;
    let folder = tempfile::tempdir().unwrap();
    let redb = |name: &str| format!("redb:{}", folder.path().join(name).display());
    let migrate = |from: &str, to: &str| gwctl_store(&["migrate", from, to]);
    let mut control = ControlPlane::start_on(redb("old"), &[]).await;
    register(&control, request("r-1", "10.0.0.1:80", None)).await;
    let lease = register(&control, request("r-2", "10.0.0.2:80", Some(60))).await.lease_id;
    let (moved, said) = migrate(&redb("old"), &etcd.store("gw"));
    assert!(!moved && said.contains("another process has the file open"), "{said}");
    let command = format!("gwctl store migrate http://127.0.0.1:7400 {}", etcd.store("gw"));
    assert!(said.contains(&command), "{said}");
    control.kill();
    let (moved, said) = migrate(&redb("old"), &etcd.store("gw"));
    assert!(moved && said.contains("2 records copied"), "{said}");
    // Nobody goes on with the old one by mistake.
    let refused =
        binaries::control_plane().args(["--listen", "127.0.0.1:0", "--store", &redb("old")]).output();
    let refused = String::from_utf8(refused.unwrap().stderr).unwrap();
    assert!(refused.contains("it has moved to etcd://"), "{refused}");
    let [one, other] = pair(&etcd).await;
    // The owner's next heartbeat finds everything as it was, wherever it arrives.
    renew(&one, "r-2", &lease).await.unwrap();
    renew(&other, "r-2", &lease).await.unwrap();
    assert!(find(&one, "r-1").await.is_some());
    drop((one, other));
    let (moved, said) = migrate(&etcd.store("gw"), &redb("new"));
    assert!(moved && said.contains("2 records copied"), "{said}");
    let back = ControlPlane::start_on(redb("new"), &[]).await;
    renew(&back, "r-2", &lease).await.unwrap();
    // Whoever wants the old one all the same says so.
    let (reopened, said) = gwctl_store(&["reopen", &redb("old")]);
    assert!(reopened && said.contains("takes changes again"), "{said}");
    let old = ControlPlane::start_on(redb("old"), &[]).await;
    assert!(find(&old, "r-1").await.is_some());
}

/// What was acknowledged to be there, and to be gone, and the refusal at the end.
type Changed = (Vec<String>, Vec<String>, Status);

/// Two clients that [`change`] things, each well under way, with so many replicas there at least.
pub(crate) async fn changing([one, other]: [&ControlPlane; 2], many: usize) -> JoinSet<Changed> {
    let mut clients = JoinSet::new();
    clients.spawn(change(one.registry(), 1));
    clients.spawn(change(other.registry(), 2));
    eventually("there is much to copy", async || {
        let there = ids(one).await;
        let is_under_way = |number: usize| {
            let own = format!("r-{number}-");
            there.iter().filter(|id| id.starts_with(&own)).count() >= 20
        };
        match there.len() >= many && is_under_way(1) && is_under_way(2) {
            true => Ok(()),
            false => Err(format!("{there:?}")),
        }
    })
    .await;
    clients
}

/// Registers and removes at a control plane until it refuses.
async fn change(mut registry: RegistryServiceClient<Channel>, number: usize) -> Changed {
    let (mut there, mut gone) = (Vec::new(), Vec::new());
    for count in 0.. {
        let id = format!("r-{number}-{count}");
        let wish = request(&id, &format!("10.{number}.{}.{}:80", count / 250, count % 250 + 1), None);
        match registry.register(wish).await {
            Ok(_) => {}
            // The other one was faster each time.
            Err(status) if status.code() == Code::ResourceExhausted => continue,
            Err(refused) => return (there, gone, refused),
        }
        if count % 3 != 0 {
            there.push(id);
            continue;
        }
        let removal =
            DeregisterRequest { service: "orders".into(), replica_id: id.clone(), ..Default::default() };
        match registry.deregister(removal).await {
            Ok(_) => gone.push(id),
            Err(status) if status.code() == Code::ResourceExhausted => there.push(id),
            Err(refused) => return (there, gone, refused),
        }
    }
    unreachable!("it counts without end")
}

#[tokio::test]
async fn a_registry_moves_while_control_planes_change_it_and_nothing_acknowledged_is_lost_by_etcd() {
    let etcd = Etcd::start().await;
    let [one, other] = pair(&etcd).await;
    // On the new store there is one already.
    let next = ControlPlane::start_on(etcd.store("gw-2"), &[]).await;
    let lease = register(&one, request("kept", "10.9.0.1:80", Some(60))).await.lease_id;
    let clients = changing([&one, &other], 200).await;
    let (from, to) = (etcd.store("gw"), etcd.store("gw-2"));
    let moving = tokio::task::spawn_blocking(move || gwctl_store(&["migrate", &from, &to]));
    let (moved, said) = moving.await.unwrap();
    assert!(moved && said.contains("had changed meanwhile"), "{said}");
    let outcomes = clients.join_all().await;
    renew(&one, "kept", &lease).await.or_else(of_a_move).unwrap();
    eventually("the new one has taken it in", async || {
        renew(&next, "kept", &lease).await.map_err(|status| status.to_string())
    })
    .await;
    let held = ids(&next).await;
    for (there, gone, refused) in outcomes {
        assert_eq!(there.iter().filter(|id| !held.contains(*id)).count(), 0, "acknowledged, and lost");
        assert_eq!(gone.iter().filter(|id| held.contains(*id)).count(), 0, "removed, and back");
        of_a_move(refused).unwrap();
    }
    register(&next, request("new", "10.9.0.2:80", None)).await;
    // Who has not heard of it goes on reading, and owners are sent elsewhere.
    assert!(find(&one, "kept").await.is_some());
    eventually("renewals are refused", async || match renew(&other, "kept", &lease).await {
        Ok(()) => Err("they are taken".to_owned()),
        Err(status) => of_a_move(status),
    })
    .await;
    let refused = one.registry().register(request("late", "10.9.0.3:80", None)).await.unwrap_err();
    of_a_move(refused).unwrap();
}

/// Whether a refusal says that it is only here and only now.
pub(crate) fn of_a_move(status: Status) -> Result<(), String> {
    let is_temporary = status.code() == Code::Unavailable && status.get_details_retry_info().is_some();
    if is_temporary { Ok(()) } else { Err(format!("{status:?}")) }
}

/// An authority, and what it has signed for the server and for two clients, as files. Each has its file's name as its common name.
pub(crate) fn certificates(folder: &Path) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key).unwrap();
    let issuer = Issuer::from_params(&params, &key);
    fs::write(folder.join("ca.pem"), authority.pem()).unwrap();
    for name in ["server", "client", "gw"] {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".into(), "127.0.0.1".into()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &issuer).unwrap();
        fs::write(folder.join(format!("{name}.pem")), certificate.pem()).unwrap();
        fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

#[tokio::test]
async fn etcd_is_spoken_to_in_tls_and_is_shown_a_certificate_by_etcd() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (ca, certificate, key) = (path("ca.pem"), path("client.pem"), path("client.key"));
    let mut etcd = Etcd::encrypted(&[
        "--cert-file",
        &path("server.pem"),
        "--key-file",
        &path("server.key"),
        "--client-cert-auth",
        "--trusted-ca-file",
        &ca,
    ]);
    let flags = ["--store-tls-ca", &ca, "--store-tls-cert", &certificate, "--store-tls-key", &key];
    eventually("etcd can be used", async || match checked(&etcd.store("gw"), &flags) {
        (true, _) => Ok(()),
        (false, said) => Err(said),
    })
    .await;
    let one = ControlPlane::start_on(etcd.store("gw"), &flags).await;
    let other = ControlPlane::start_on(etcd.store("gw"), &flags).await;
    register(&one, request("r-1", "10.0.0.1:80", Some(60))).await;
    eventually("the other one knows", async || {
        find(&other, "r-1").await.map(drop).ok_or_else(|| "no".to_owned())
    })
    .await;
    // In TLS 1.3 the refusal comes after the handshake, and who writes meets the end of the connection before he has read it.
    for _ in 0..10 {
        let (is_fine, said) = checked(&etcd.store("gw"), &["--store-tls-ca", &ca]);
        assert!(!is_fine && said.contains("certificate"), "{said}");
    }
    // Authority, server and clients get new ones under the same names.
    certificates(folder.path());
    etcd.kill(0);
    etcd.restart(0);
    for (number, control) in [&one, &other].into_iter().enumerate() {
        let wish = request(&format!("n-{number}"), &format!("10.0.1.{number}:80"), None);
        eventually_within(RENEWED, "it goes by the new ones", async || {
            let taken = control.registry().register(wish.clone()).await;
            taken.map(drop).map_err(|status| status.to_string())
        })
        .await;
    }
}

#[tokio::test]
async fn etcd_is_told_who_we_are_and_says_what_is_missing_by_etcd() {
    let etcd = Etcd::start().await;
    for (user, password, range) in
        [("root", "r", None), ("gw", "secret-1", Some("/gw/")), ("no", "secret-1", None)]
    {
        etcd.ctl(&["user", "add", &format!("{user}:{password}")]);
        etcd.ctl(&["role", "add", user]);
        if let Some(prefix) = range {
            etcd.ctl(&["role", "grant-permission", user, "--prefix=true", "readwrite", prefix]);
        }
        etcd.ctl(&["user", "grant-role", user, user]);
    }
    etcd.ctl(&["auth", "enable"]);
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (right, wrong) = (file("right", "secret-1\n"), file("wrong", "secret-2\n"));
    let store = |user: &str| etcd.store("gw").replace("etcd://", &format!("etcd://{user}@"));
    for (store, flags, words) in [
        (store("gw"), vec!["--store-password-file", &wrong], "does not take user gw"),
        (
            store("no"),
            vec!["--store-password-file", &right],
            "does not let no read and write keys below /gw/",
        ),
        (etcd.store("gw"), vec![], "asks who we are"),
    ] {
        let (is_fine, said) = checked(&store, &flags);
        assert!(!is_fine && said.contains(words), "{store}: {said}");
        assert!(!said.contains("secret"), "{said}");
    }
    let flags = ["--store-password-file", &right];
    let one = ControlPlane::start_on(store("gw"), &flags).await;
    let other = ControlPlane::start_on(store("gw"), &flags).await;
    register(&one, request("r-1", "10.0.0.1:80", Some(60))).await;
    eventually("the other one knows", async || {
        find(&other, "r-1").await.map(drop).ok_or_else(|| "no".to_owned())
    })
    .await;
}

#[tokio::test]
async fn an_etcd_that_begins_to_ask_who_we_are_is_told_by_whoever_knows_by_etcd() {
    let etcd = Etcd::start().await;
    for user in ["root", "gw"] {
        etcd.ctl(&["user", "add", &format!("{user}:secret")]);
        etcd.ctl(&["role", "add", user]);
        etcd.ctl(&["user", "grant-role", user, user]);
    }
    etcd.ctl(&["role", "grant-permission", "gw", "--prefix=true", "readwrite", "/gw/"]);
    let folder = tempfile::tempdir().unwrap();
    let password = folder.path().join("password");
    fs::write(&password, "secret").unwrap();
    let flags = ["--store-password-file", password.to_str().unwrap()];
    let store = etcd.store("gw").replace("etcd://", "etcd://gw@");
    let one = ControlPlane::start_on(store.clone(), &flags).await;
    let other = ControlPlane::start_on(store, &flags).await;
    register(&one, request("r-1", "10.0.0.1:80", None)).await;
    etcd.ctl(&["auth", "enable"]);
    eventually("changes are taken", async || {
        let taken = one.registry().register(request("r-2", "10.0.0.2:80", Some(60))).await;
        taken.map(drop).map_err(|status| status.to_string())
    })
    .await;
    eventually("the other one knows", async || find(&other, "r-2").await.ok_or_else(|| "no".to_owned()))
        .await;
}

#[tokio::test]
async fn an_identity_has_one_quota_at_all_control_planes_also_when_one_is_killed_by_etcd() {
    const MOST: usize = 5;
    let etcd = Etcd::start().await;
    let folder = tempfile::tempdir().unwrap();
    let hash = control_plane::auth_file::fingerprint("gwt_ci");
    let entry = format!(
        "[[token]]\nname = \"ci\"\nsha256 = \"{hash}\"\nroles = [\"replica\"]\nservices = [\"orders\"]\nmax-replicas = {MOST}\n"
    );
    fs::write(folder.path().join("auth.toml"), entry).unwrap();
    let auth = folder.path().join("auth.toml").display().to_string();
    let start = async || ControlPlane::start_on(etcd.store("gw"), &["--auth-file", &auth]).await;
    let (mut one, other) = (start().await, start().await);
    let ask = |control: &ControlPlane, number: usize| {
        let wish = request(&format!("r-{number}"), &format!("10.0.0.{number}:80"), None);
        let mut asked = tonic::Request::new(wish);
        asked.metadata_mut().insert("authorization", "Bearer gwt_ci".parse().unwrap());
        let mut registry = control.registry();
        async move { registry.register(asked).await.map(|_| number) }
    };
    let asking: JoinSet<_> =
        (1..=20).map(|number| ask(if number % 2 == 0 { &one } else { &other }, number)).collect();
    let (taken, refused): (Vec<_>, Vec<_>) = asking.join_all().await.into_iter().partition(Result::is_ok);
    assert_eq!(taken.len(), MOST, "{taken:?}");
    for refused in refused.into_iter().filter_map(Result::err) {
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    }
    one.kill();
    one.restart().await;
    for control in [&one, &other] {
        assert!(ask(control, 30).await.is_err(), "as many as before");
        ask(control, *taken[0].as_ref().unwrap()).await.expect("what is there may be registered again");
    }
}
