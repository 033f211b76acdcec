//! TLS between the control plane and its clients: who is refused and how that is told, and certificates that are replaced.

use std::{
    process::Command,
    sync::Arc,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use gateway_tests::authority::{client, expired, server};
use gateway_tests::{
    Act, ControlPlane, DataPlane, Load, Scripted, binaries, command, eventually_within, http1,
};

use super::access::{ENTRIES, write_auth};

const PATIENCE: Duration = Duration::from_secs(20);

const CERTIFICATES: &str = r#"
[[certificate]]
name = "spiffe://test/data-plane"
roles = ["data-plane"]

[[certificate]]
name = "cn:ana"
roles = ["operator"]
"#;

/// Who signs certificates here, and starts planes by them.
struct Authority(gateway_tests::Authority);

impl std::ops::Deref for Authority {
    type Target = gateway_tests::Authority;

    fn deref(&self) -> &gateway_tests::Authority {
        &self.0
    }
}

impl Authority {
    fn new(name: &str) -> Self {
        Self(gateway_tests::Authority::new(name))
    }

    fn flags(&self, name: &str) -> Vec<String> {
        let (cert, key, ca) =
            (self.path(&format!("{name}.pem")), self.path(&format!("{name}.key")), self.path("ca.pem"));
        ["--tls-cert", &cert, "--tls-key", &key, "--tls-client-ca", &ca].map(ToOwned::to_owned).into()
    }

    /// A control plane with the server certificate of this name.
    async fn control(&self, name: &str) -> (ControlPlane, String) {
        let auth = write_auth(self.folder(), &format!("{ENTRIES}{CERTIFICATES}"));
        let mut flags = self.flags(name);
        flags.extend(["--auth-file".into(), auth.display().to_string()]);
        flags.extend(["--allow-endpoint".into(), "127.0.0.0/8".into()]);
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let control = ControlPlane::start_with(&self.folder().join(format!("{name}.redb")), &flags).await;
        let url = format!("https://{}", control.address());
        (control, url)
    }

    /// A data plane that follows it and shows the certificate `node`.
    async fn data_plane(&self, url: &str) -> DataPlane {
        let (ca, cert, key) = (self.path("ca.pem"), self.path("node.pem"), self.path("node.key"));
        let trust = ["--control-plane-ca", &ca, "--control-plane-cert", &cert, "--control-plane-key", &key];
        let flags = ["--control-plane", url, "--node-id", "dp-1", "--no-cache"];
        DataPlane::start(&[&flags[..], &trust[..]].concat()).await
    }

    async fn gwctl(&self, url: &str, args: &[&str], line: &str) -> command::Finished {
        let mut gwctl = binaries::gwctl();
        gwctl.args(["-e", url]).args(args).args(line.split_whitespace());
        command::run(gwctl).await
    }
}

#[tokio::test]
async fn a_server_that_cannot_be_believed_is_refused_with_what_is_wrong_and_what_to_do() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    ours.sign("good", server(&["127.0.0.1"]));
    ours.sign("other", server(&["control.example"]));
    ours.sign("expired", expired(server(&["127.0.0.1"])));
    let trust = ["--ca-file", &ours.path("ca.pem"), "--token-file", &ours.path("reader")];
    let trust_theirs = ["--ca-file", &theirs.path("ca.pem"), "--token-file", &ours.path("reader")];
    for (certificate, trust, why, what) in [
        (
            "good",
            &trust_theirs,
            "self-signed or signed by an authority that is not trusted here",
            "name its authority",
        ),
        ("other", &trust, "is for other names", "use one of its names in the URL"),
        ("expired", &trust, "has expired", "renewed"),
    ] {
        let (control, url) = ours.control(certificate).await;
        let refused = ours.gwctl(&url, trust, "get services").await;
        assert_eq!(refused.code(), 5, "{}", refused.stderr);
        assert!(refused.stderr.contains(why) && refused.stderr.contains(what), "{}", refused.stderr);
        let mut data = DataPlane::start(&[
            "--control-plane",
            &url,
            "--control-plane-ca",
            trust[1],
            "--control-plane-token-file",
            &ours.path("data-plane"),
            "--node-id",
            "dp-1",
            "--no-cache",
        ])
        .await;
        eventually_within(Duration::from_secs(15), "the data plane says why it follows nobody", async || {
            let said = data.process().stderr();
            if said.contains(why) { Ok(()) } else { Err(said) }
        })
        .await;
        drop(control);
    }
    let (control, url) = ours.control("good").await;
    ours.gwctl(&url, &trust, "get services").await.success();
    // One who speaks the wrong protocol is told so, from both sides.
    let plain = ours.gwctl(&control.url(), &trust, "get services").await;
    assert_eq!(plain.code(), 5, "{}", plain.stderr);
    let folder = tempfile::tempdir().unwrap();
    let open = ControlPlane::start(&folder.path().join("r.redb")).await;
    let refused = ours.gwctl(&format!("https://{}", open.address()), &trust, "get services").await;
    assert!(refused.stderr.contains("does not speak TLS"), "{}", refused.stderr);
}

#[tokio::test]
async fn a_client_is_known_by_its_certificate_and_one_of_another_authority_is_refused() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    ours.sign("good", server(&["127.0.0.1"]));
    ours.sign("ana", client("ana", None));
    ours.sign("bob", client("bob", None));
    theirs.sign("ana", client("ana", None));
    ours.sign("old", expired(client("ana", None)));
    let (_control, url) = ours.control("good").await;
    let ca = ours.path("ca.pem");
    let show = async |authority: &Authority, name: &str, line: &str| {
        let (cert, key) = (authority.path(&format!("{name}.pem")), authority.path(&format!("{name}.key")));
        ours.gwctl(&url, &["--ca-file", &ca, "--cert-file", &cert, "--key-file", &key], line).await
    };
    let me = show(&ours, "ana", "auth whoami").await.success();
    assert!(me.contains("cn:ana") && me.contains("certificate") && me.contains("operator"), "{me}");
    show(&ours, "ana", "policy set orders breaker.window=20s --wait 0s").await.success();
    let unknown = show(&ours, "bob", "get services").await;
    assert_eq!(unknown.code(), 6, "{}", unknown.stderr);
    assert!(unknown.stderr.contains("cn:bob may not look at the registry"), "{}", unknown.stderr);
    for (authority, name, why) in
        [(&theirs, "ana", "does not trust the authority that signed it"), (&ours, "old", "it has expired")]
    {
        let refused = show(authority, name, "get services").await;
        assert_eq!(refused.code(), 5, "{}", refused.stderr);
        assert!(refused.stderr.contains(why), "{}", refused.stderr);
    }
    // Without a certificate a token will do, and without either nothing does.
    ours.gwctl(&url, &["--ca-file", &ca, "--token-file", &ours.path("reader")], "get services")
        .await
        .success();
    let nobody = ours.gwctl(&url, &["--ca-file", &ca], "get services").await;
    assert_eq!(nobody.code(), 6, "{}", nobody.stderr);
}

#[tokio::test]
async fn certificates_on_both_sides_are_replaced_without_a_restart_and_without_a_failed_request() {
    let ours = Authority::new("ours");
    ours.sign("server", server(&["127.0.0.1"]));
    ours.sign("node", client("node", Some("spiffe://test/data-plane")));
    let (mut control, url) = ours.control("server").await;
    let replica = Scripted::start(|_, _| Act::ok(b"hello"));
    let ca = ours.path("ca.pem");
    let operator = ["--ca-file", ca.as_str(), "--token-file", &ours.path("operator")].map(ToOwned::to_owned);
    let operator: Vec<&str> = operator.iter().map(String::as_str).collect();
    let register = format!("register orders {} --id r-1 --permanent", replica.address());
    ours.gwctl(&url, &operator, &register).await.success();
    let mut data = ours.data_plane(&url).await;
    eventually_within(PATIENCE, "requests are routed", async || {
        let answer = http1::get(data.address(), "/orders/hello").await;
        if answer.status() == 200 { Ok(()) } else { Err(answer.status().to_string()) }
    })
    .await;

    let load = Load::start(data.address(), "/orders/hello", 100);
    let (is_over, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let asking = {
        let (is_over, calls) = (Arc::clone(&is_over), Arc::clone(&calls));
        let (url, args) = (url.clone(), operator.iter().map(ToString::to_string).collect::<Vec<_>>());
        tokio::spawn(async move {
            while !is_over.load(Ordering::Relaxed) {
                let mut gwctl: Command = binaries::gwctl();
                gwctl.args(["-e", &url]).args(&args).args(["get", "services"]);
                command::run(gwctl).await.success();
                calls.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    ours.sign("server", server(&["127.0.0.1", "localhost"]));
    ours.sign("node", client("node", Some("spiffe://test/data-plane")));
    for (what, said) in [
        ("the control plane reads its certificate again", "TLS certificates were read again"),
        ("the data plane reads its certificate again", "the files for TLS to servers were read again"),
    ] {
        eventually_within(PATIENCE, what, async || {
            let log = format!("{}\n{}", control.process().stderr(), data.process().stderr());
            if log.contains(said) { Ok(()) } else { Err(log) }
        })
        .await;
    }
    // What was signed last is what is shown: localhost is in it.
    let by_name = url.replace("127.0.0.1", "localhost");
    ours.gwctl(&by_name, &operator, "get services").await.success();
    is_over.store(true, Ordering::Relaxed);
    asking.await.unwrap();
    assert!(calls.load(Ordering::Relaxed) > 5, "{calls:?}");
    // And a data plane comes back by its new one.
    control.restart().await;
    eventually_within(PATIENCE, "the data plane follows again", async || {
        let nodes = ours.gwctl(&url, &operator, "get nodes -o json").await.json();
        if nodes["nodes"][0]["state"] == "NODE_STATE_SYNCED" { Ok(()) } else { Err(nodes.to_string()) }
    })
    .await;
    load.stop().await.assert_flawless();
}

#[tokio::test]
async fn a_certificate_that_ends_ends_its_streams_and_the_next_one_begins_them_anew() {
    let ours = Authority::new("ours");
    ours.sign("server", server(&["127.0.0.1"]));
    let (mut control, url) = ours.control("server").await;
    // Not before that, which may have programs to build first.
    let mut short = client("node", Some("spiffe://test/data-plane"));
    short.not_after = (std::time::SystemTime::now() + Duration::from_secs(15)).into();
    ours.sign("node", short);
    let mut data = ours.data_plane(&url).await;
    let connects = |log: String| log.matches("data plane connected").count();
    eventually_within(PATIENCE, "the data plane follows", async || {
        match connects(control.process().stderr()) {
            0 => Err(data.process().stderr()),
            count => Ok(count),
        }
    })
    .await;
    ours.sign("node", client("node", Some("spiffe://test/data-plane")));
    eventually_within(Duration::from_secs(60), "it comes back by its new certificate", async || {
        let (control, data) = (control.process().stderr(), data.process().stderr());
        let has_ended = data.contains("has expired");
        if has_ended && connects(control.clone()) > 1 { Ok(()) } else { Err(format!("{control}\n{data}")) }
    })
    .await;
}
