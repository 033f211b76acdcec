//! Who says what he is not: clients that forge what replicas are told of them, and planes whose certificates nobody should
//! believe.

use std::{
    os::unix::fs::PermissionsExt,
    time::{Duration, Instant},
};

use gateway_tests::{
    Act, Authority, ControlPlane, DataPlane, Load, Scripted, Seen,
    authority::{client, expired, server},
    binaries, command, http1,
};

use crate::{
    Size,
    figures::Figures,
    stage::{SECOND, gateway},
};

/// What stands for a lie, wherever it comes out.
const LIES: [&str; 4] = ["203.0.113.66", "evil.example", "31337", "/evil"];

/// Fields that replicas go by, with a lie each; with underscores, as many programs read them, too.
const FORGED: [(&str, &str); 12] = [
    ("X-Forwarded-For", "203.0.113.66"),
    ("X-Forwarded-Host", "evil.example"),
    ("X-Forwarded-Port", "31337"),
    ("X-Forwarded-Prefix", "/evil"),
    ("X-Forwarded-Proto", "evil.example"),
    ("Forwarded", "for=203.0.113.66;host=evil.example;proto=https"),
    ("X-Request-Id", "evil.example"),
    ("X-GW-Attempt", "31337"),
    ("X-GW-Timeout-Ms", "31337"),
    ("X-GW-Replica", "evil.example"),
    ("X_Forwarded_For", "203.0.113.66"),
    ("X-Forwarded_Host", "evil.example"),
];

/// What each replica has to be told.
const TRUE: [(&str, &str); 3] =
    [("x-forwarded-for", "127.0.0.1"), ("x-forwarded-proto", "http"), ("x-forwarded-host", "gw")];

/// Clients send what only the gateway may say, once, twice, and named as a field of their connection.
pub(crate) async fn forged(_: Size, figures: &mut Figures) {
    let replica = Scripted::start(|_, _| Act::ok(b"ok"));
    let (gateway, _directory) = gateway(&[replica.address()], &[]).await;
    let mut requests = 0;
    for (name, lie) in FORGED {
        for fields in [
            format!("{name}: {lie}\r\nConnection: close\r\n"),
            format!("{name}: {lie}\r\n{name}: {lie}\r\nConnection: close\r\n"),
            format!("{name}: {lie}\r\nConnection: close, {name}\r\n"),
            // What the gateway adds, which would be stripped if it went by what clients name.
            format!("Connection: close, {name}, X-Forwarded-For, X-Forwarded-Proto, Via, Host\r\n"),
        ] {
            requests += 1;
            let request = format!("GET /orders/x HTTP/1.1\r\nHost: gw\r\n{fields}\r\n");
            http1::raw(gateway.address(), request.as_bytes()).await;
        }
    }
    let seen = replica.seen();
    let lies = |seen: &&Seen| LIES.iter().any(|lie| seen.head.contains(lie));
    let is_true = |seen: &&Seen| {
        let host = seen.values("host") == ["gw"] && seen.values("via").len() == 1;
        host && TRUE.iter().all(|(name, value)| seen.values(name) == [*value])
    };
    figures.hold(&format!("requests that arrived, of {requests}"), seen.len(), seen.len() == requests);
    figures.at_most("of them with a lie", 0, seen.iter().filter(lies).count() as u64);
    let untold = seen.len() - seen.iter().filter(is_true).count();
    figures.at_most("of them without the truth", 0, untold as u64);

    // Whoever is trusted adds to it, and can take nothing away either.
    let replica = Scripted::start(|_, _| Act::ok(b"ok"));
    let (gateway, _directory) =
        self::gateway(&[replica.address()], &["--trusted-proxies", "127.0.0.0/8"]).await;
    let request = "GET /orders/x HTTP/1.1\r\nHost: gw\r\nX-Forwarded-For: 192.0.2.7\r\nX-GW-Replica: evil.example\r\n\
                   Connection: close, X-Forwarded-For\r\n\r\n";
    http1::raw(gateway.address(), request.as_bytes()).await;
    let chain = replica.seen().first().map(|seen| seen.values("x-forwarded-for").join(" | "));
    figures.hold(
        "a trusted proxy's chain, with the proxy behind",
        format!("{chain:?}"),
        chain.as_deref() == Some("192.0.2.7, 127.0.0.1"),
    );
    let lies = replica.seen().iter().filter(lies).count();
    figures.at_most("of its fields those that are the gateway's", 0, lies as u64);
}

/// Who may what: data planes and operators by their certificates.
const ENTRIES: &str = "[[certificate]]\nname = \"cn:node\"\nroles = [\"data-plane\"]\n\
                       [[certificate]]\nname = \"cn:ana\"\nroles = [\"operator\"]\n";

/// A control plane with the server certificate of this name, which asks for client certificates.
async fn control(authority: &Authority, name: &str) -> (ControlPlane, String) {
    let flags = ["--tls-cert", &authority.path(&format!("{name}.pem"))];
    let key = ["--tls-key", &authority.path(&format!("{name}.key"))];
    let (ca, auth) = (authority.path("ca.pem"), authority.path("auth.toml"));
    std::fs::write(&auth, ENTRIES).expect("the folder can be written");
    let own = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(&auth, own).expect("the file is ours");
    let clients = ["--tls-client-ca", &ca, "--auth-file", &auth, "--allow-endpoint", "127.0.0.0/8"];
    let store = authority.folder().join(format!("{name}.redb"));
    let control = ControlPlane::start_with(&store, &[&flags[..], &key, &clients].concat()).await;
    let url = format!("https://{}", control.address());
    (control, url)
}

/// A data plane that follows it, believes `authority`, and shows the certificate of this name.
async fn data_plane(authority: &Authority, url: &str, shown: &str) -> DataPlane {
    let (ca, cert) = (authority.path("ca.pem"), authority.path(&format!("{shown}.pem")));
    let key = authority.path(&format!("{shown}.key"));
    DataPlane::start(&[
        "--control-plane",
        url,
        "--node-id",
        "dp-1",
        "--no-cache",
        "--control-plane-ca",
        &ca,
        "--control-plane-cert",
        &cert,
        "--control-plane-key",
        &key,
    ])
    .await
}

/// Registers a replica over TLS.
async fn register(authority: &Authority, url: &str, id: &str, replica: &Scripted) {
    let mut gwctl = binaries::gwctl();
    gwctl.args(["-e", url, "--ca-file", &authority.path("ca.pem")]);
    gwctl.args(["--cert-file", &authority.path("ana.pem"), "--key-file", &authority.path("ana.key")]);
    gwctl.args(["register", "orders", &replica.address().to_string(), "--id", id, "--permanent"]);
    command::run(gwctl).await.success();
}

/// Until it has something to route by, for so long.
async fn is_ready(data: &DataPlane, patience: Duration) -> bool {
    let began = Instant::now();
    while began.elapsed() < patience {
        if http1::get(data.admin(), "/readyz").await.status() == 200 {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    false
}

/// Planes that show each other certificates that are expired, for somebody else, or their own word only; and good ones that
/// are replaced under load.
pub(crate) async fn impostors(size: Size, figures: &mut Figures) {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let node = || client("node", None);
    ours.sign("server", server(&["127.0.0.1"]));
    ours.sign("node", node());
    ours.sign("ana", client("ana", None));
    ours.sign("expired", expired(server(&["127.0.0.1"])));
    ours.sign("misnamed", server(&["control.example"]));
    ours.sign_by_itself("self-signed", server(&["127.0.0.1"]));
    let patience = SECOND * size.of(4, 2);
    for shown in ["expired", "misnamed", "self-signed"] {
        let (_control, url) = control(&ours, shown).await;
        let data = data_plane(&ours, &url, "node").await;
        let followed = u64::from(is_ready(&data, patience).await);
        figures.at_most(&format!("data planes that follow a control plane, {shown}"), 0, followed);
    }
    ours.sign("old", expired(node()));
    ours.sign_by_itself("own", node());
    theirs.sign("stranger", node());
    for end in ["pem", "key"] {
        let to = ours.path(&format!("stranger.{end}"));
        std::fs::copy(theirs.path(&format!("stranger.{end}")), to).expect("the folder can be written");
    }
    let (_control, url) = control(&ours, "server").await;
    for shown in ["old", "own", "stranger"] {
        let data = data_plane(&ours, &url, shown).await;
        let served = u64::from(is_ready(&data, patience).await);
        figures.at_most(&format!("data planes that a control plane serves, {shown}"), 0, served);
    }

    let replicas: Vec<_> = (0..4).map(|_| Scripted::start(|_, _| Act::ok(b"ok"))).collect();
    register(&ours, &url, "r-0", &replicas[0]).await;
    let data = data_plane(&ours, &url, "node").await;
    let is_there = is_ready(&data, 10 * SECOND).await;
    figures.hold("the good ones come together", is_there, is_there);
    data.routes("orders").await;
    let load = Load::start(data.address(), "/orders/x", size.of(300, 100));
    let mut slowest = Duration::ZERO;
    for (number, replica) in replicas.iter().enumerate().skip(1) {
        ours.sign("server", server(&["127.0.0.1"]));
        ours.sign("node", node());
        tokio::time::sleep(SECOND).await;
        register(&ours, &url, &format!("r-{number}"), replica).await;
        let began = Instant::now();
        while replica.seen().is_empty() && began.elapsed() < 20 * SECOND {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        slowest = slowest.max(began.elapsed());
    }
    let tally = load.stop().await;
    figures.at_most(
        &format!("failed of {} while both are replaced three times", tally.sent),
        0,
        tally.failed,
    );
    figures.within("a new replica is asked, the slowest", SECOND, slowest);
}
