//! Who may look at the admin side of a data plane, asked by curl and gwctl.

use std::{
    io::Read as _,
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::Command,
    time::Duration,
};

use gateway_tests::{
    Authority, DataPlane,
    authority::{client, server},
    binaries, command, eventually, http1, tools,
};
use http::Method;
use tempfile::TempDir;

use super::supervision::passed;

/// A data plane with a static list, and these flags.
async fn start(folder: &TempDir, flags: &[&str]) -> DataPlane {
    let file = folder.path().join("static.toml");
    std::fs::write(&file, "[[service]]\nname = 'orders'\nreplicas = ['127.0.0.1:9']").unwrap();
    DataPlane::start(&[&["--static", file.to_str().unwrap(), "--node-id", "dp-1"], flags].concat()).await
}

/// The status that curl gets.
async fn curl(address: SocketAddr, path: &str, args: &[&str]) -> String {
    let mut curl = Command::new(tools::curl());
    curl.args(["-sS", "-o", "/dev/null", "-w", "%{http_code}"]).args(args);
    curl.arg(format!("https://{address}{path}"));
    let finished = command::run(curl).await;
    if finished.code() == 0 { finished.stdout } else { finished.stderr }
}

fn swap(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}

#[tokio::test]
async fn whoever_shows_its_token_or_a_certificate_sees_everything_and_others_whether_it_is_ready_by_curl() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    ours.sign("admin", server(&["127.0.0.1"]));
    ours.sign("ana", client("ana", None));
    theirs.sign("eve", client("eve", None));
    let token = ours.folder().join("admin.token");
    swap(&token, "sesame-1\n");
    let ca = ours.path("ca.pem");
    let flags = [
        "--admin-tls-certificate",
        &ours.path("admin.pem"),
        "--admin-tls-key",
        &ours.path("admin.key"),
        "--admin-tls-client-ca",
        &ca,
        "--admin-token-file",
        token.to_str().unwrap(),
    ];
    let folder = tempfile::tempdir().unwrap();
    let data = start(&folder, &flags).await;
    let admin = data.admin();
    let ask =
        async |path: &str, args: &[&str]| curl(admin, path, &[&["--cacert", &ca][..], args].concat()).await;
    for path in ["/livez", "/readyz", "/readyz?verbose", "/healthz"] {
        assert_eq!(ask(path, &[]).await, "200", "{path}");
    }
    let verbose = async |args: &[&str]| {
        let mut curl = Command::new(tools::curl());
        curl.args(["-sS", "--cacert", &ca]).args(args).arg(format!("https://{admin}/readyz?verbose"));
        command::run(curl).await.success()
    };
    assert_eq!(verbose(&[]).await, "ok\n");
    assert!(verbose(&["-H", "authorization: Bearer sesame-1"]).await.contains("[+]snapshot ok"));
    for path in ["/metrics", "/snapshot", "/breakers", "/explain?replica=orders/x", "/version", "/nothing"] {
        assert_eq!(ask(path, &[]).await, "401", "{path}");
    }
    let bearer = ["-H", "authorization: Bearer sesame-1"];
    assert_eq!(ask("/snapshot", &bearer).await, "200");
    assert_eq!(ask("/snapshot", &["-H", "authorization: Bearer sesame-2"]).await, "401");
    assert_eq!(ask("/metrics", &["-H", "authorization: Basic c2VzYW1lLTE="]).await, "401");
    let shown =
        |who: &Authority, name: &str| [who.path(&format!("{name}.pem")), who.path(&format!("{name}.key"))];
    let [cert, key] = shown(&ours, "ana");
    assert_eq!(ask("/snapshot", &["--cert", &cert, "--key", &key]).await, "200");
    let [cert, key] = shown(&theirs, "eve");
    assert!(
        ask("/livez", &["--cert", &cert, "--key", &key]).await.contains("curl: "),
        "of another authority"
    );
    let plain = http1::send(admin, http1::request(Method::GET, "/livez")).await;
    assert_eq!(plain.status(), 400, "who speaks no TLS is told so");

    // The next token is of the same length, and known at once.
    swap(&token, "sesame-2\n");
    assert_eq!(ask("/snapshot", &bearer).await, "401");
    assert_eq!(ask("/snapshot", &["-H", "authorization: Bearer sesame-2"]).await, "200");

    let explain = async |flags: &[&str]| {
        let mut gwctl = binaries::gwctl();
        gwctl.args(["explain", "orders/127-0-0-1-9", "--data-plane", &format!("https://{admin}")]);
        gwctl.args(["--ca-file", &ca]).args(flags);
        command::run(gwctl).await
    };
    let refused = explain(&[]).await;
    assert_eq!(refused.code(), 6, "{}", refused.stderr);
    assert!(refused.stderr.contains("--data-plane-token-file"), "{}", refused.stderr);
    let told = explain(&["--data-plane-token-file", token.to_str().unwrap()]).await;
    // Whatever the replica is called: who asked was let in.
    assert!([0, 3].contains(&told.code()), "{}", told.stderr);
    let mut check = binaries::gwctl();
    check.args([
        "check",
        "-e",
        "http://127.0.0.1:1",
        "--data-plane",
        &format!("https://{admin}"),
        "--ca-file",
        &ca,
    ]);
    let checked = command::run(check).await;
    assert!(checked.stdout.contains(&format!("https://{admin}")), "{}{}", checked.stdout, checked.stderr);
    assert!(!checked.stdout.contains("cannot reach the data plane"), "{}", checked.stdout);
}

#[tokio::test]
async fn beyond_this_machine_the_admin_side_does_not_start_without_locks_unless_told_to() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "sesame\n").unwrap();
    let program = || {
        let mut program = binaries::data_plane();
        program.args(["--listen", "127.0.0.1:0", "--control-plane", "http://127.0.0.1:1", "--no-cache"]);
        program
    };
    for flags in [&[][..], &["--admin-token-file", token.to_str().unwrap()], &["--check"]] {
        let mut everywhere = program();
        everywhere.args(["--admin-listen", "0.0.0.0:0"]).args(flags);
        let refused = command::run(everywhere).await;
        assert_eq!(refused.code(), 2, "{flags:?}: {}", refused.stderr);
        let said = refused.stderr;
        assert!(said.contains("--admin-listen") && said.contains("--insecure"), "{said}");
        assert!(!said.contains("sesame"), "{said}");
    }
    let socket = TcpListener::bind("0.0.0.0:0").unwrap();
    let mut process = passed("data-plane", &program(), &socket, "admin");
    assert_eq!(process.exited().await.code(), Some(2), "{}", process.stderr());
    assert!(process.stderr().contains("LISTEN_FDS: the admin side at"), "{}", process.stderr());
    let mut open = program();
    open.args(["--admin-listen", "0.0.0.0:0", "--insecure"]);
    let mut open = gateway_tests::Process::spawn("data-plane", &mut open);
    assert!(open.ready().await["admin"].as_str().unwrap().starts_with("0.0.0.0:"));
    open.kill();
}

#[tokio::test]
async fn no_page_of_another_site_reads_it_and_nobody_takes_up_what_clients_need() {
    let folder = tempfile::tempdir().unwrap();
    let data = start(&folder, &[]).await;
    let named = async |host: &str, path: &str| {
        let mut request = http1::request(Method::GET, path);
        request.headers_mut().insert("host", host.parse().unwrap());
        http1::send(data.admin(), request).await.status().as_u16()
    };
    for path in ["/snapshot", "/metrics", "/breakers", "/version"] {
        assert_eq!(named("evil.example", path).await, 403, "{path}: a name that was made to lead here");
        assert_eq!(named("localhost:7401", path).await, 200, "{path}");
    }
    assert_eq!(named("evil.example", "/readyz").await, 200, "probes ask by any name");

    let mut idle: Vec<_> = (0..300).map(|_| TcpStream::connect(data.admin()).unwrap()).collect();
    let closed = tokio::task::spawn_blocking(move || {
        let last = idle.last_mut().unwrap();
        last.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        (matches!(last.read(&mut [0]), Ok(0) | Err(_)), idle)
    });
    let (is_closed, idle) = closed.await.unwrap();
    assert!(is_closed, "one more than there may be");
    eventually("those that say nothing have made room", async || {
        let asked = http1::Connection::open(data.admin()).await;
        let mut asked = asked.map_err(|error| error.to_string())?;
        asked.send(http1::request(Method::GET, "/livez")).await.map(drop)
    })
    .await;
    drop(idle);
}
