//! WebSockets and events through the gateway, by clients, a server and a browser that know nothing of it.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use gateway_tests::{DataPlane, Process, command, eventually, eventually_within, http1, tools};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A data plane that serves plainly and with TLS, in front of a replica by Python's websockets.
struct Chat {
    replica: Process,
    data: DataPlane,
    directory: TempDir,
}

fn script(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/python")).join(name)
}

impl Chat {
    async fn start(flags: &[&str]) -> Self {
        Self::start_before(&["http1", "http1"], flags).await
    }

    /// In front of WebSockets and pages, spoken to by these protocols; `h2` is HTTP/2 only, over TLS.
    async fn start_before([chat, pages]: &[&str; 2], flags: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        let made = rcgen::generate_simple_self_signed(["gw.example".to_owned()]).unwrap();
        fs::write(path("key"), made.signing_key.serialize_pem()).unwrap();
        fs::write(path("crt"), made.cert.pem()).unwrap();
        let mut replica = Command::new(tools::python());
        let (speaks_http2, is_secure) = (matches!(*chat, "h2c" | "h2"), matches!(*chat, "tls" | "h2"));
        replica.arg(script(if speaks_http2 { "websocket_http2_replica.py" } else { "websocket_replica.py" }));
        if is_secure {
            replica.args([path("crt"), path("key")]);
        }
        let mut replica = Process::spawn("replica", &mut replica);
        let at = replica.ready().await;
        let service = |name: &str, protocol: &str| {
            let address = at[name].as_str().unwrap();
            let name =
                format!("[[service]]\nname = \"{name}\"\n[[service.replica]]\naddress = \"{address}\"\n");
            // Which HTTP is spoken over TLS is negotiated.
            let protocol = if protocol == "h2" { "tls" } else { protocol };
            let tls = if protocol == "tls" { "tls_server_name = \"gw.example\"\n" } else { "" };
            format!("{name}protocol = \"{protocol}\"\n{tls}")
        };
        fs::write(path("services.toml"), service("chat", chat) + &service("pages", pages)).unwrap();
        let (services, crt, key) = (path("services.toml"), path("crt"), path("key"));
        let own = [
            "--static",
            &services,
            "--tls-listen",
            "127.0.0.1:0",
            "--tls-certificate",
            &crt,
            "--tls-key",
            &key,
            "--upstream-ca",
            &crt,
        ];
        let data = DataPlane::start(&[&own[..], flags].concat()).await;
        Self { replica, data, directory }
    }

    fn secure(&self) -> SocketAddr {
        self.data.secure().expect("the ready line names it")
    }

    async fn metrics(&self) -> String {
        let answer = http1::get(self.data.admin(), "/metrics").await;
        String::from_utf8(answer.into_body().to_vec()).unwrap()
    }
}

#[tokio::test]
async fn websockets_pass_in_both_versions_of_http_by_python() {
    converse(&Chat::start(&[]).await).await;
}

#[tokio::test]
async fn websockets_pass_to_a_replica_that_speaks_tls_by_python() {
    converse(&Chat::start_before(&["tls", "http1"], &[]).await).await;
}

#[tokio::test]
async fn websockets_pass_to_a_replica_that_speaks_http_2_only_by_python() {
    converse(&Chat::start_before(&["h2c", "http1"], &[]).await).await;
}

#[tokio::test]
async fn websockets_pass_to_a_replica_that_speaks_http_2_only_over_tls_by_python() {
    converse(&Chat::start_before(&["h2", "http1"], &[]).await).await;
}

/// Everything that a WebSocket can carry, by clients of every kind.
async fn converse(chat: &Chat) {
    let mut python = Command::new(tools::python());
    python.arg(script("websocket_client.py"));
    python.args([chat.data.address().to_string(), chat.secure().to_string()]);
    python.arg(chat.directory.path().join("crt"));
    let found = command::run(python).await.json();
    let conversation = json!({
        "subprotocol": "chat",
        "extensions": found["plain"]["extensions"],
        "text": "grüße",
        "large": true,
        "fragments": "in several frames",
        "pong": true,
        "closed": [4002, "as told"],
    });
    // The server in HTTP/2 is a plain one.
    let extensions = conversation["extensions"].as_str().unwrap();
    assert!(extensions.is_empty() || extensions.starts_with("permessage-deflate"), "{found}");
    assert_eq!([&found["plain"], &found["secure"]], [&conversation; 2], "{found}");
    let over_http2 = json!({
        "offered": 1,
        "status": "200",
        "subprotocol": "chat",
        "echo": true,
        "closed": 4001,
        "other": "501",
        "problem": "protocol_refused",
    });
    assert_eq!([&found["h2c"], &found["h2"]], [&over_http2; 2], "{found}");

    let metrics = eventually("every tunnel has ended", async || {
        let metrics = chat.metrics().await;
        let has_ended = metrics.contains("gateway_tunnels_open{service=\"chat\"} 0\n");
        if has_ended { Ok(metrics) } else { Err(metrics) }
    })
    .await;
    assert!(metrics.contains("gateway_tunnels_total{service=\"chat\"} 4\n"), "{metrics}");
    for direction in ["upstream", "downstream"] {
        let series = format!("gateway_tunnel_bytes_total{{service=\"chat\",direction=\"{direction}\"}} ");
        let count = metrics.lines().find_map(|line| line.strip_prefix(&series)).unwrap();
        assert!(count.parse::<u64>().unwrap() > 2 << 20, "{count} bytes {direction}");
    }
}

#[tokio::test]
async fn tunnels_outlast_the_end_of_their_gateway_by_its_drain_timeout_and_no_longer_by_python() {
    let mut chat = Chat::start(&["--drain-timeout", "2s"]).await;
    let holder = "import sys; from websockets.sync.client import connect\n\
                  with connect(sys.argv[1], subprotocols=['chat']) as ws:\n    print('{\"ready\": true}', flush=True)\n    ws.recv()\n";
    let url = format!("ws://{}/chat/room", chat.data.address());
    let mut client = Process::spawn("client", Command::new(tools::python()).args(["-c", holder, &url]));
    client.ready().await;
    let began = std::time::Instant::now();
    chat.data.process().terminate();
    let status = chat.data.process().exited().await;
    assert!(status.success(), "{status}");
    assert!(began.elapsed() >= Duration::from_millis(1900), "it waited for {:?}", began.elapsed());
    assert!(!client.exited().await.success(), "its end is no proper one");
    assert!(client.stderr().contains("ConnectionClosedError"), "{}", client.stderr());
}

/// What a page has reported, loaded by a browser, and what that has noted of the network.
async fn browse(chat: &Chat, origin: &str) -> (Value, String) {
    let profile = tempfile::tempdir().unwrap();
    let notes = profile.path().join("net.json");
    let mut browser = Command::new(tools::chromium());
    browser.args(["--headless=new", "--no-sandbox", "--disable-gpu", "--ignore-certificate-errors"]);
    browser.args(["--no-first-run", "--disable-background-networking", "--disable-extensions"]);
    browser.arg(format!("--user-data-dir={}", profile.path().join("profile").display()));
    browser.arg(format!("--log-net-log={}", notes.display()));
    browser.arg(format!("{origin}/pages/"));
    let before = chat.replica.stdout().lines().count();
    let mut browser = Process::spawn_group("browser", &mut browser);
    let report = eventually_within(Duration::from_secs(60), "the page reports", async || {
        let told = chat.replica.stdout();
        told.lines().nth(before).map(str::to_owned).ok_or_else(|| told.clone())
    })
    .await;
    browser.terminate();
    browser.exited().await;
    (serde_json::from_str(&report).unwrap(), fs::read_to_string(notes).unwrap())
}

#[tokio::test]
async fn a_browser_hears_events_and_speaks_by_websocket_in_both_versions_of_http_by_chromium() {
    let chat = Chat::start(&[]).await;
    let plain = format!("http://{}", chat.data.address());
    let secure = format!("https://{}", chat.secure());
    for (origin, protocol) in [(plain, "http/1.1"), (secure, "h2")] {
        let (report, notes) = browse(&chat, &origin).await;
        let expected = json!({
            "protocol": protocol,
            "events": ["event 0", "event 1", "event 2"],
            "messages": ["one", "zwölf", 100_000],
            "closed": { "code": 4001, "reason": "as told", "protocol": "chat" },
        });
        let mut report = report;
        // There may have been more of them by the time that the socket was closed.
        report["events"].as_array_mut().unwrap().truncate(3);
        assert_eq!(report, expected);
        let is_connect = notes.contains(":protocol: websocket");
        assert_eq!(is_connect, protocol == "h2", "how the WebSocket was opened");
    }
    assert!(chat.metrics().await.contains("gateway_tunnels_total{service=\"chat\"} 2\n"));
}
