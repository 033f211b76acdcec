//! Behind other proxies: whom the gateway takes its clients to be.

use std::{fs, net::SocketAddr, path::Path, process::Command};

use gateway_tests::{Act, DataPlane, Process, Scripted, command, eventually, tools};
use socket2::{Domain, Socket, Type};

/// A data plane with one service, of this replica, and these flags.
async fn data_plane(replica: &Scripted, folder: &Path, flags: &[&str]) -> DataPlane {
    let file = folder.join("services.toml");
    let service = format!("[[service]]\nname = \"orders\"\nreplicas = [\"{}\"]\n", replica.address());
    fs::write(&file, service).unwrap();
    DataPlane::start(&[&["--static", &file.display().to_string()], flags].concat()).await
}

/// What curl is answered, from this address of the machine, or its exit code.
async fn ask(url: &str, from: &str, flags: &[&str]) -> Result<String, i32> {
    let mut curl = Command::new(tools::curl());
    curl.args(["-sS", "--max-time", "20", "--interface", from, url]).args(flags);
    let done = command::run(curl).await;
    if done.status.success() { Ok(done.stdout) } else { Err(done.code()) }
}

/// A port on which nobody else can listen while the socket is there, but whoever reuses addresses.
fn reserved() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

/// The clients that a replica was told of by requests for this target.
fn told(replica: &Scripted, target: &str) -> Vec<String> {
    let seen = replica.seen();
    let seen = seen.iter().filter(|seen| seen.target() == target);
    seen.map(|seen| seen.values("x-forwarded-for").join(" and ")).collect()
}

#[tokio::test]
async fn clients_of_a_load_balancer_are_known_by_its_headers_of_both_versions_and_with_tls_by_haproxy() {
    let folder = tempfile::tempdir().unwrap();
    let replica = Scripted::start(|_, _| Act::ok(b"hello"));
    let made = rcgen::generate_simple_self_signed(["gw.example".to_owned()]).unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    fs::write(path("key"), made.signing_key.serialize_pem()).unwrap();
    fs::write(path("crt"), made.cert.pem()).unwrap();
    let data = data_plane(
        &replica,
        folder.path(),
        &[
            "--proxy-protocol",
            "required",
            "--proxy-protocol-from",
            "127.0.0.1",
            "--tls-listen",
            "127.0.0.1:0",
            "--tls-certificate",
            &path("crt"),
            "--tls-key",
            &path("key"),
        ],
    )
    .await;
    let (plain, secure) = (data.address(), data.secure().unwrap());
    let ((_first, v1), (_second, v2), (_third, tls)) = (reserved(), reserved(), reserved());
    // Its checks speak for itself (LOCAL), and it sends nothing to a server that does not pass them.
    let config = format!(
        "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 20s\n  timeout server 20s\n\
         listen v1\n  bind {v1}\n  server gw {plain} send-proxy\n\
         listen v2\n  bind {v2}\n  option httpchk GET /orders/check\n  http-check expect status 200\n\
         \x20 server gw {plain} send-proxy-v2 check inter 100ms\n\
         listen tls\n  bind {tls}\n  server gw {secure} send-proxy-v2\n"
    );
    fs::write(path("haproxy.cfg"), config).unwrap();
    let mut program = Command::new(tools::haproxy());
    let _haproxy = Process::spawn("haproxy", program.args(["-db", "-f", &path("haproxy.cfg")]));
    eventually("HAProxy listens", async || {
        ask(&format!("http://{v1}/orders/up"), "127.0.0.1", &[]).await.map_err(|code| code.to_string())
    })
    .await;

    assert_eq!(ask(&format!("http://{v1}/orders/v1"), "127.0.0.9", &[]).await.as_deref(), Ok("hello"));
    assert_eq!(told(&replica, "/v1"), ["127.0.0.9"]);
    eventually("HAProxy's check has passed", async || {
        if told(&replica, "/check").len() > 3 { Ok(()) } else { Err("no check yet".to_owned()) }
    })
    .await;
    assert_eq!(
        ask(&format!("http://{v2}/orders/v2"), "127.0.0.8", &["--http2-prior-knowledge"]).await.as_deref(),
        Ok("hello")
    );
    assert_eq!(told(&replica, "/v2"), ["127.0.0.8"]);
    assert!(told(&replica, "/check").iter().all(|client| client == "127.0.0.1"), "a check is HAProxy's own");

    let port = tls.port();
    let url = format!("https://gw.example:{port}/orders/tls");
    let resolve = format!("gw.example:{port}:127.0.0.1");
    let flags = ["--cacert", &path("crt"), "--resolve", &resolve];
    assert_eq!(ask(&url, "127.0.0.7", &flags).await.as_deref(), Ok("hello"));
    assert_eq!(told(&replica, "/tls"), ["127.0.0.7"]);

    // Whoever comes past the load balancer gets in nowhere, with a header of his own or without.
    let url = format!("http://{plain}/orders/past");
    assert!(ask(&url, "127.0.0.6", &["--haproxy-protocol"]).await.is_err());
    assert!(ask(&url, "127.0.0.1", &[]).await.is_err());
    assert_eq!(told(&replica, "/past"), [""; 0]);
    let metrics = ask(&format!("http://{}/metrics", data.admin()), "127.0.0.1", &[]).await.unwrap();
    for reason in ["proxy_header_unlisted", "proxy_header_missing"] {
        let line = format!("gateway_refusals_total{{reason=\"{reason}\"}} 1");
        assert!(metrics.lines().any(|found| found == line), "{line} in {metrics}");
    }
}

#[tokio::test]
async fn where_proxy_headers_are_optional_listed_peers_may_send_one_and_all_others_are_plain_clients_by_curl()
{
    let folder = tempfile::tempdir().unwrap();
    let replica = Scripted::start(|_, _| Act::ok(b"hello"));
    let flags = ["--proxy-protocol", "optional", "--proxy-protocol-from", "127.0.0.1"];
    let data = data_plane(&replica, folder.path(), &flags).await;
    let url = format!("http://{}/orders/x", data.address());
    assert_eq!(ask(&url, "127.0.0.1", &["--haproxy-protocol"]).await.as_deref(), Ok("hello"));
    assert_eq!(
        ask(&url, "127.0.0.1", &["--haproxy-protocol", "--http2-prior-knowledge"]).await.as_deref(),
        Ok("hello")
    );
    assert_eq!(ask(&url, "127.0.0.1", &[]).await.as_deref(), Ok("hello"));
    assert_eq!(ask(&url, "127.0.0.9", &[]).await.as_deref(), Ok("hello"));
    assert_eq!(told(&replica, "/x"), ["127.0.0.1", "127.0.0.1", "127.0.0.1", "127.0.0.9"]);
    // To them it is no HTTP.
    let refused = ask(&url, "127.0.0.9", &["--haproxy-protocol"]).await.unwrap();
    assert!(refused.contains("\"status\":400"), "{refused}");
}
