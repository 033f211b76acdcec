//! Who may do what, asked by clients that share no code with us: every RPC and every path, as each kind of caller.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use bytes::Bytes;
use gateway_tests::{Browser, ControlPlane, DataPlane, Process, binaries, command, eventually, http1, tools};
use http::{Method, header};
use prost::Message as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A control plane that asks who its callers are, and tokens for some.
pub(crate) struct Locked {
    pub(crate) folder: TempDir,
    pub(crate) control: ControlPlane,
}

/// Name and token are the same.
pub(crate) const ENTRIES: &str = r#"
[[token]]
name = "operator"
token-file = "operator"
roles = ["operator"]

[[token]]
name = "reader"
token-file = "reader"
roles = ["reader"]

[[token]]
name = "orders"
token-file = "orders"
roles = ["replica"]
services = ["orders"]
addresses = ["10.0.0.0/8"]

[[token]]
name = "payments"
token-file = "payments"
roles = ["replica"]
services = ["payments"]

[[token]]
name = "data-plane"
token-file = "data-plane"
roles = ["data-plane"]

[[token]]
name = "expired"
token-file = "expired"
roles = ["operator", "data-plane"]
expires = "2020-01-01T00:00:00Z"
"#;

/// Writes an auth file with these entries and the tokens that they name.
pub(crate) fn write_auth(folder: &Path, entries: &str) -> PathBuf {
    for name in entries.lines().filter_map(|line| line.strip_prefix("token-file = ")) {
        let name = name.trim_matches('"');
        std::fs::write(folder.join(name), format!("gwt_{name}\n")).unwrap();
    }
    let path = folder.join("auth.toml");
    std::fs::write(&path, entries).unwrap();
    path
}

impl Locked {
    async fn start(flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let auth = write_auth(folder.path(), ENTRIES);
        let flags = [&["--auth-file", auth.to_str().unwrap()][..], flags].concat();
        let control = ControlPlane::start_with(&folder.path().join("r.redb"), &flags).await;
        Self { folder, control }
    }

    async fn ask(&self, method: Method, path: &str, token: &str, body: Value) -> http1::Answer {
        let mut request = http1::request(method, path);
        if !token.is_empty() {
            let value = format!("Bearer gwt_{token}").parse().unwrap();
            request.headers_mut().insert(header::AUTHORIZATION, value);
        }
        if !body.is_null() {
            request.headers_mut().insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
            *request.body_mut() = Bytes::from(body.to_string());
        }
        http1::send(self.control.address(), request).await
    }

    async fn get(&self, path: &str, token: &str) -> http1::Answer {
        self.ask(Method::GET, path, token, Value::Null).await
    }

    /// Registers by REST; the status, the reason if it is refused, and the lease.
    async fn register(&self, token: &str, service: &str, id: &str, address: &str) -> (u16, String, String) {
        let body = json!({"replicaId": id, "endpoint": {"address": address}, "leaseTtl": "60s"});
        let path = format!("/v1/services/{service}/replicas");
        let answer = self.ask(Method::POST, &path, token, body).await;
        let said: Value = serde_json::from_slice(answer.body()).unwrap();
        let text = |key: &str| said[key].as_str().unwrap_or_default().to_owned();
        (answer.status().as_u16(), text("reason"), text("leaseId"))
    }

    async fn gwctl(&self, token: &str, line: &str) -> command::Finished {
        let mut gwctl = binaries::gwctl();
        gwctl.args(["-e", &self.control.url()]).args(line.split_whitespace());
        if !token.is_empty() {
            gwctl.env("GWCTL_TOKEN_FILE", self.folder.path().join(token));
        }
        command::run(gwctl).await
    }
}

fn reason(answer: &http1::Answer) -> String {
    let said: Value = serde_json::from_slice(answer.body()).unwrap_or_default();
    said["reason"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn every_rpc_that_reflection_lists_is_for_those_who_may_have_it_by_python() {
    let locked = Locked::start(&[]).await;
    let stored = async || {
        let mut stored = Vec::new();
        for path in ["/v1/services", "/v1/policies", "/v1/routes", "/v1/overrides"] {
            stored.push(locked.get(path, "reader").await.into_body());
        }
        stored
    };
    let before = stored().await;
    let callers = ["", "operator", "reader", "orders", "data-plane", "expired", "unknown"];
    let tokens: BTreeMap<&str, String> = callers
        .iter()
        .map(|name| (*name, if name.is_empty() { String::new() } else { format!("gwt_{name}") }))
        .collect();
    let mut python = Command::new(tools::python());
    python.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/python/access.py"));
    python.args([&locked.control.address().to_string(), &json!(tokens).to_string(), "gwt_reader"]);
    let told: BTreeMap<String, BTreeMap<String, Value>> =
        serde_json::from_value(command::run(python).await.json()).unwrap();
    let set = prost_types::FileDescriptorSet::decode(gateway_proto::FILE_DESCRIPTOR_SET).unwrap();
    let services =
        set.file.iter().flat_map(|file| file.service.iter().map(|service| (file.package(), service)));
    let ours = services.flat_map(|(package, service)| {
        service.method.iter().map(move |method| format!("{package}.{}/{}", service.name(), method.name()))
    });
    let others = ["health.v1.Health/Check", "health.v1.Health/Watch"].into_iter().chain([
        "reflection.v1.ServerReflection/ServerReflectionInfo",
        "reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ]);
    let all: BTreeSet<_> = ours.chain(others.map(|rpc| format!("grpc.{rpc}"))).collect();
    assert_eq!(told.keys().cloned().collect::<BTreeSet<_>>(), all, "each is asked, and no other");

    for (rpc, outcomes) in &told {
        if rpc.starts_with("grpc.health.") {
            assert!(outcomes.values().all(|outcome| outcome["code"] == "OK"), "{rpc}: {outcomes:?}");
            continue;
        }
        for (caller, wanted) in [
            ("", "CREDENTIALS_REQUIRED"),
            ("unknown", "CREDENTIALS_INVALID"),
            ("expired", "CREDENTIALS_EXPIRED"),
        ] {
            let outcome = &outcomes[caller];
            assert_eq!(
                (&outcome["code"], &outcome["reason"]),
                (&json!("UNAUTHENTICATED"), &json!(wanted)),
                "{rpc} by {caller:?}"
            );
        }
        let is_in = |caller: &str| {
            let outcome = &outcomes[caller];
            assert!(
                outcome["code"] == "OK" || outcome["reason"] == "PERMISSION_DENIED",
                "{rpc} by {caller}: {outcome}"
            );
            outcome["code"] == "OK"
        };
        // Nobody but a data plane follows, and it does nothing else.
        let follows = rpc.ends_with("StreamSnapshots") || rpc.ends_with("ReportNodeStatus");
        assert_eq!((is_in("data-plane"), is_in("operator")), (follows, !follows), "{rpc}");
        // With what is his, and about another's: heartbeats of a stream are refused one by one.
        if is_in("orders") && !rpc.ends_with("/KeepAlive") {
            assert_eq!(outcomes["foreign"]["reason"], "PERMISSION_DENIED", "{rpc}: {}", outcomes["foreign"]);
        }
        // What changes something for all is not for replicas, and not for readers. Owners may look at what is theirs.
        assert_eq!(is_in("orders") && is_in("reader"), rpc.ends_with("/GetReplica"), "{rpc}");
    }
    // Two registrations of the table, so that the callers are told apart by more than by being refused.
    assert_eq!(told["gateway.v1.RegistryService/Register"]["orders"]["code"], "OK");
    assert_eq!(told["gateway.v1.RegistryService/Register"]["reader"]["code"], "PERMISSION_DENIED");
    assert_eq!(told["gateway.v1.RegistryService/ListServices"]["orders"]["code"], "PERMISSION_DENIED");
    assert_eq!(stored().await, before, "nothing is stored");
}

#[tokio::test]
async fn every_path_is_for_those_who_may_have_it_and_strangers_are_told_what_to_show() {
    let locked = Locked::start(&[]).await;
    for path in ["/livez", "/readyz", "/healthz", "/", "/ui/app.js", "/ui/settings.json", "/whoami"] {
        assert_eq!(locked.get(path, "").await.status(), 200, "{path}");
    }
    for path in [
        "/metrics",
        "/openapi.json",
        "/statistics",
        "/ui/stream",
        "/v1/services",
        "/v1/events:watch",
        "/v1/nothing",
        "/x",
        "/v1/services?watch=1",
    ] {
        let answer = locked.get(path, "").await;
        assert_eq!(
            (answer.status().as_u16(), reason(&answer)),
            (401, "CREDENTIALS_REQUIRED".into()),
            "{path}"
        );
        assert_eq!(answer.headers()[header::WWW_AUTHENTICATE], "Bearer realm=\"gateway\"");
        assert_eq!(answer.headers()[header::CONTENT_TYPE], "application/problem+json");
        let answer = locked.get(path, "expired").await;
        assert_eq!(
            (answer.status().as_u16(), reason(&answer)),
            (401, "CREDENTIALS_EXPIRED".into()),
            "{path}"
        );
        let challenge = &answer.headers()[header::WWW_AUTHENTICATE];
        assert_eq!(challenge, "Bearer realm=\"gateway\", error=\"invalid_token\"");
        let answer = locked.get(path, "data-plane").await;
        assert_eq!((answer.status().as_u16(), reason(&answer)), (403, "PERMISSION_DENIED".into()), "{path}");
    }
    assert_eq!(locked.get("/metrics", "reader").await.status(), 200);
    assert_eq!(locked.get("/v1/nothing", "reader").await.status(), 404);
    // A body that is not even JSON: who asks comes first.
    let answer = locked.ask(Method::POST, "/v1/services/orders/replicas", "", json!("x")).await;
    assert_eq!(answer.status(), 401);
    let answer = locked.ask(Method::POST, "/register", "reader", json!("x")).await;
    assert_eq!(answer.status(), 403);
    let open = Locked::start(&["--open-metrics"]).await;
    assert_eq!(open.get("/metrics", "").await.status(), 200);
}

#[tokio::test]
async fn a_replica_s_token_is_for_its_own_services_and_its_own_networks() {
    let locked = Locked::start(&[]).await;
    let (status, _, lease) = locked.register("orders", "orders", "r-1", "10.0.0.1:80").await;
    assert_eq!(status, 201);
    for (token, service, address, wanted) in [
        ("orders", "payments", "10.0.0.1:80", "PERMISSION_DENIED"),
        ("orders", "orders", "192.168.0.1:80", "ADDRESS_NOT_ALLOWED"),
        ("orders", "orders", "orders.example:80", "ADDRESS_NOT_ALLOWED"),
        ("reader", "orders", "10.0.0.1:80", "PERMISSION_DENIED"),
    ] {
        let (status, reason, _) = locked.register(token, service, "r-2", address).await;
        assert_eq!((status, reason.as_str()), (403, wanted), "{token} {service} {address}");
    }
    // With somebody else's lease, whether it is right or guessed.
    let replica = "/v1/services/orders/replicas/r-1";
    let guess = "0123456789abcdef0123456789abcdef";
    for lease in [lease.as_str(), guess] {
        for (method, path, body) in [
            (Method::PUT, format!("{replica}/lease"), json!({"leaseId": lease})),
            (Method::POST, format!("{replica}:drain"), json!({"leaseId": lease})),
            (
                Method::POST,
                format!("{replica}:reportHealth"),
                json!({"leaseId": lease, "health": "HEALTH_STATUS_UNHEALTHY"}),
            ),
            (Method::DELETE, format!("{replica}?force=1"), Value::Null),
        ] {
            let answer = locked.ask(method, &path, "payments", body).await;
            assert_eq!(
                (answer.status().as_u16(), reason(&answer)),
                (403, "PERMISSION_DENIED".into()),
                "{path}"
            );
        }
    }
    let answer = locked.ask(Method::DELETE, &format!("{replica}?force=1"), "orders", Value::Null).await;
    assert_eq!(answer.status(), 403, "force is an operator's");
    let drain = json!({"allowLast": true});
    let answer = locked.ask(Method::POST, &format!("{replica}:drain"), "operator", drain).await;
    assert_eq!(answer.status(), 200, "{:?}", answer.body());
    let answer = locked.ask(Method::POST, &format!("{replica}:undrain"), "orders", json!({})).await;
    assert_eq!(answer.status(), 403, "what an operator drained, a replica does not undrain");
    let renewed =
        locked.ask(Method::PUT, &format!("{replica}/lease"), "orders", json!({"leaseId": lease})).await;
    assert_eq!(renewed.status(), 200, "{:?}", renewed.body());
    let wrong =
        locked.ask(Method::PUT, &format!("{replica}/lease"), "orders", json!({"leaseId": guess})).await;
    assert_eq!(
        (wrong.status().as_u16(), reason(&wrong)),
        (409, "LEASE_MISMATCH".into()),
        "of the same service"
    );
}

#[tokio::test]
async fn no_replica_is_where_something_trusts_its_neighbours_however_that_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let control = ControlPlane::start(&folder.path().join("r.redb")).await;
    let own = control.address().port();
    let mut addresses: Vec<String> = [
        "169.254.169.254",
        "0.0.0.0",
        "[fd00:ec2::254]",
        "[fe80::1]",
        "100.64.0.1",
        "224.0.0.1",
        "2130706433",
        "0x7f.1",
        "0177.0.0.1",
        "127.1",
        "[::]",
        "[::ffff:169.254.169.254]",
        "[64:ff9b::a9fe:a9fe]",
        "255.255.255.255",
        "[ff02::1]",
        "metadata.google.internal",
    ]
    .map(|host| format!("{host}:80"))
    .into();
    addresses.extend(["0", "22", "25", "6379", "65536", "+80", ""].map(|port| format!("10.0.0.1:{port}")));
    addresses.extend(
        ["127.0.0.1", "localhost", "localhost.", "[::ffff:127.0.0.1]"].map(|host| format!("{host}:{own}")),
    );
    addresses.extend(
        ["unix:/run/x.sock", "/run/x.sock", "http://10.0.0.1:80", "10.0.0.1:80/x", "10.0.0.1"]
            .map(Into::into),
    );
    for address in addresses {
        let body = json!({"service": "orders", "address": address}).to_string();
        let mut request = http1::request(Method::POST, "/register");
        request.headers_mut().insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
        *request.body_mut() = Bytes::from(body);
        let answer = http1::send(control.address(), request).await;
        assert!(
            [400, 403].contains(&answer.status().as_u16()),
            "{address}: {} {:?}",
            answer.status(),
            answer.body()
        );
    }
    let listed = http1::get(control.address(), "/v1/services").await;
    let listed: Value = serde_json::from_slice(listed.body()).unwrap();
    assert_eq!(listed["services"], json!([]));
}

#[tokio::test]
async fn a_data_plane_and_gwctl_show_their_tokens_and_what_people_do_bears_their_names() {
    let locked = Locked::start(&["--allow-endpoint", "127.0.0.0/8"]).await;
    let token = locked.folder.path().join("data-plane");
    let _data = DataPlane::start(&[
        "--control-plane",
        &locked.control.url(),
        "--control-plane-token-file",
        token.to_str().unwrap(),
        "--node-id",
        "dp-1",
        "--no-cache",
    ])
    .await;
    eventually("the data plane is in sync", async || {
        let nodes: Value = locked.gwctl("reader", "get nodes -o json").await.json();
        (nodes["nodes"][0]["state"] == "NODE_STATE_SYNCED").then_some(()).ok_or(nodes.to_string())
    })
    .await;

    locked.gwctl("operator", "register orders 127.0.0.1:9 --id r-1 --permanent").await.success();
    locked.gwctl("operator", "drain orders/r-1 --allow-last --author somebody-else").await.success();
    let drained = locked.gwctl("reader", "get events -o json").await.json();
    let draining =
        drained["events"].as_array().unwrap().iter().find(|event| event["eventType"] == "REPLICA_DRAINING");
    assert_eq!(draining.unwrap()["actor"], "operator", "{drained}");

    let refused = locked.gwctl("reader", "undrain orders/r-1").await;
    assert_eq!(refused.code(), 6, "{}", refused.stderr);
    assert!(refused.stderr.contains("reader may not register replicas"), "{}", refused.stderr);
    let refused = locked.gwctl("", "get services").await;
    assert_eq!(refused.code(), 6);
    assert!(refused.stderr.contains("--token-file"), "{}", refused.stderr);
    let events = locked.gwctl("reader", "get events -o json").await.json();
    let denied: Vec<_> = events["events"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|event| event["eventType"] == "ACCESS_DENIED")
        .collect();
    assert!(
        denied
            .iter()
            .any(|event| event["actor"] == "reader" && event["metadata"]["reason"] == "PERMISSION_DENIED"),
        "{events}"
    );

    let me = locked.gwctl("orders", "auth whoami").await.success();
    assert!(me.contains("orders") && me.contains("replica for orders at 10.0.0.0/8"), "{me}");
    assert_eq!(locked.gwctl("", "auth whoami").await.code(), 6);
    let checked = locked.gwctl("reader", "check").await;
    assert!(checked.stdout.contains("callers are asked who they are (you are reader)"), "{}", checked.stdout);
}

#[tokio::test]
async fn gwctl_does_with_the_token_of_a_replica_what_that_may_and_what_it_says_itself() {
    let locked = Locked::start(&[]).await;
    let gwctl = async |line: &str| locked.gwctl("payments", line).await;
    let registered = gwctl("register payments 127.0.0.1:9 --id r-1").await.success();
    gwctl("drain payments/r-1 --allow-last --drain-timeout 0s").await.success();
    gwctl("wait payments/r-1 --for drained --timeout 10s").await.success();
    gwctl("undrain payments/r-1").await.success();
    let (_, said) = registered.split_once("remove it with  gwctl ").unwrap();
    gwctl(said.trim()).await.success();
    gwctl("wait payments/r-1 --for deleted --timeout 10s").await.success();
    // For all that it may see, this could be the beginning of an id whose replica is there.
    let unknown = gwctl("wait payments/r --for deleted --timeout 10s").await;
    assert_eq!(unknown.code(), 3, "{}", unknown.stdout);
    assert!(unknown.stderr.contains("type all of it"), "{}", unknown.stderr);
    // One with a lease goes by that, and by nothing else.
    let leased = gwctl("register payments 127.0.0.1:9 --id r-2 --ttl 10m -o json").await.json();
    let lease = locked.folder.path().join("lease");
    std::fs::write(&lease, leased["leaseId"].as_str().unwrap()).unwrap();
    let refused = gwctl("deregister payments/r-2 -y").await;
    assert_eq!(refused.code(), 6, "{}", refused.stderr);
    gwctl(&format!("deregister payments/r-2 --lease-file {}", lease.display())).await.success();
    assert_eq!(gwctl("deregister payments/r-2 -y").await.code(), 3);
    // An operator's word is told as such.
    gwctl("register payments 127.0.0.1:9 --id r-3").await.success();
    locked.gwctl("operator", "deregister payments/r-3").await.success();
    let events = locked.gwctl("reader", "get events -o json").await.json();
    let last = events["events"].as_array().unwrap().iter().find(|event| event["replicaId"] == "r-3").unwrap();
    assert_eq!((&last["actor"], &last["eventType"]), (&json!("operator"), &json!("REPLICA_DEREGISTERED")));
}

#[tokio::test]
async fn a_program_under_gwctl_run_is_registered_by_its_token_and_one_without_is_not_started() {
    let locked = Locked::start(&[]).await;
    let run = |token: &str| {
        let mut gwctl = binaries::gwctl();
        gwctl.args(["-e", &locked.control.url(), "run", "--service", "payments", "--health", "tcp", "--"]);
        gwctl.args(["python3", "-m", "http.server", "--bind", "127.0.0.1", "$PORT"]);
        if !token.is_empty() {
            gwctl.env("GWCTL_TOKEN_FILE", locked.folder.path().join(token));
        }
        gwctl
    };
    for token in ["", "orders", "reader"] {
        let refused = command::run(run(token)).await;
        assert_eq!(refused.code(), 6, "{token}: {}", refused.stderr);
    }
    let mut running = Process::spawn_group("gwctl run", &mut run("payments"));
    eventually("it is registered", async || {
        let listed = locked.gwctl("reader", "get replicas payments -o json").await;
        if listed.stdout.contains("127.0.0.1:") { Ok(()) } else { Err(running.stderr()) }
    })
    .await;
    running.terminate();
    running.exited().await;
    let gone = locked.gwctl("reader", "get replicas payments -o json").await;
    assert!(!gone.stdout.contains("127.0.0.1:"), "drained and deregistered: {}", gone.stdout);
}

#[tokio::test]
async fn a_token_that_gwctl_made_is_good_for_what_its_entry_says_and_ends_with_it_on_streams_too() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("ci.token");
    let mut gwctl = binaries::gwctl();
    gwctl.args(["auth", "token", "ci", "--role", "reader", "--out", token.to_str().unwrap()]);
    let entry = command::run(gwctl).await.success();
    let auth = folder.path().join("auth.toml");
    let other = folder.path().join("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(&auth, &entry).unwrap();
    let mut gwctl = binaries::gwctl();
    gwctl.args(["auth", "check", auth.to_str().unwrap()]);
    assert!(command::run(gwctl).await.success().contains("1 tokens"));

    let control =
        ControlPlane::start_with(&folder.path().join("r.redb"), &["--auth-file", auth.to_str().unwrap()])
            .await;
    let secret = std::fs::read_to_string(&token).unwrap();
    let address = control.address();
    let request = format!(
        "GET /v1/events:watch HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {}\r\n\r\n",
        secret.trim()
    );
    let mut watching = TcpStream::connect(address).await.unwrap();
    watching.write_all(request.as_bytes()).await.unwrap();
    let mut head = [0; 15];
    watching.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 OK");
    // Its entry goes, and others come.
    std::fs::write(
        &auth,
        std::fs::read_to_string(write_auth(&other, ENTRIES))
            .unwrap()
            .replace("token-file = \"", "token-file = \"other/"),
    )
    .unwrap();
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(15), watching.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "the stream of a token that is gone ends within 15 s");
}

#[tokio::test]
async fn beyond_this_machine_it_does_not_start_without_locks_unless_told_to() {
    let folder = tempfile::tempdir().unwrap();
    let start = async |flags: &[&str]| {
        let mut program = binaries::control_plane();
        program.args(["--listen", "0.0.0.0:0", "--store", "memory:"]).args(flags);
        command::run(program).await
    };
    let refused = start(&[]).await;
    assert_eq!(refused.code(), 2);
    for flag in ["--tls-cert", "--auth-file", "--insecure"] {
        assert!(refused.stderr.contains(flag), "{}", refused.stderr);
    }
    let checked = start(&["--check"]).await;
    assert_eq!((checked.code(), checked.stderr.contains("--insecure")), (2, true), "a check says the same");
    let auth = write_auth(folder.path(), ENTRIES);
    let refused = start(&["--auth-file", auth.to_str().unwrap()]).await;
    assert!(refused.stderr.contains("tokens would be sent for all to read"), "{}", refused.stderr);
    std::fs::write(&auth, "[[token]]\nname = \"x\"\nsha256 = \"gwt_sesame\"\nroles = [\"reader\"]\n")
        .unwrap();
    for check in [&[][..], &["--check"]] {
        let flags = [&["--insecure", "--auth-file", auth.to_str().unwrap()][..], check].concat();
        let refused = start(&flags).await;
        assert_eq!(refused.code(), 2, "{check:?}");
        let said = refused.stderr;
        assert!(said.contains("token \"x\"") && !said.contains("sesame"), "{said}");
    }
}

#[tokio::test]
async fn the_dashboard_asks_who_reads_it_and_keeps_the_token_out_of_every_url_by_playwright() {
    let locked = Locked::start(&[]).await;
    locked.register("orders", "orders", "r-1", "10.0.0.1:80").await;
    let browser = Browser::start(&locked.control.url()).await;
    browser.run("await page.goto(url); await page.getByLabel('Token').waitFor()").await;
    browser.run("await page.getByLabel('Token').fill('gwt_nobody'); await page.getByRole('button', { name: 'Sign in' }).click(); await page.getByText('is not known').waitFor()").await;
    browser.run("await page.getByLabel('Token').fill('gwt_reader'); await page.getByRole('button', { name: 'Sign in' }).click(); await page.locator('main').getByText('orders').first().waitFor()").await;
    let said = browser.run("return { url: page.url(), read: await page.getByText('Read only: reader').count(), cookies: (await page.context().cookies()).length }").await;
    assert!(!said["url"].as_str().unwrap().contains("gwt_"), "{said}");
    assert_eq!((&said["read"], &said["cookies"]), (&json!(1), &json!(0)), "{said}");
    browser.run("await page.getByRole('button', { name: /Sign out/ }).click(); await page.getByLabel('Token').waitFor()").await;
}
