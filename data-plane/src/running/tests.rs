//! A whole data plane over real sockets: what clients and operators get, from start to end.

use std::{net::SocketAddr, path::Path};

use clap::Parser;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::sleep,
};

use super::*;
use crate::{config::Args, discovery::tests as wire, fake_control_plane::FakeControlPlane};

mod operators;

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    args: Args,
}

fn config(flags: &[&str]) -> Config {
    let anywhere = ["test", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--workers", "1"];
    Cli::try_parse_from([&anywhere, flags].concat()).unwrap().args.validate().unwrap()
}

async fn begin(flags: &[&str]) -> (Running, Shutdown) {
    let shutdown = Shutdown::new();
    (start(config(flags), shutdown.clone()).await.unwrap(), shutdown)
}

async fn end(running: Running, shutdown: &Shutdown) {
    shutdown.begin();
    running.finished().await.unwrap();
}

/// Sends one request and yields status and body.
async fn request(address: SocketAddr, method: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!("{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    request(address, "GET", path).await
}

async fn json(address: SocketAddr, path: &str) -> serde_json::Value {
    serde_json::from_str(&get(address, path).await.1).unwrap()
}

/// A replica that answers everything with 200.
async fn replica() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi")
                .await;
        }
    });
    address
}

fn static_file(directory: &Path, address: SocketAddr) -> String {
    let path = directory.join("static.toml");
    let text = format!("[[service]]\nname = 'orders'\nreplicas = ['{address}']");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn whoever_has_taken_over_serves_also_where_its_own_handover_socket_cannot_be_put() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("run");
    std::fs::create_dir(&directory).unwrap();
    let socket = directory.join("handover").to_str().unwrap().to_owned();
    let file = static_file(folder.path(), replica().await);
    let (first, shutdown) = begin(&["--static", &file, "--handover-socket", &socket]).await;
    let copies = copies_of(first.listen());
    // It waits for something to route by, and there is nothing as long as the first one lives.
    let second = tokio::spawn(async move {
        let nobody = ["--control-plane", "http://127.0.0.1:1", "--no-cache"];
        begin(&[&nobody[..], &["--handover-socket", &socket]].concat()).await
    });
    while copies_of(first.listen()) == copies {
        sleep(Duration::from_millis(5)).await;
    }
    std::fs::remove_dir_all(&directory).unwrap();
    end(first, &shutdown).await;
    let (second, shutdown) = second.await.unwrap();
    assert_eq!(get(second.listen(), "/orders/").await.0, 503, "it has nothing to route by");
    end(second, &shutdown).await;
}

/// How many descriptors of this process are of the socket that listens there.
#[cfg(target_os = "linux")]
fn copies_of(listening: SocketAddr) -> usize {
    let SocketAddr::V4(address) = listening else { panic!("{listening} is not of IPv4") };
    let local = format!("{:08X}:{:04X}", u32::from(*address.ip()).swap_bytes(), address.port());
    let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let fields = sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut inode =
        fields.filter(|fields| fields[1] == local && fields[3] == "0A").map(|fields| fields[9].to_owned());
    let name = format!("socket:[{}]", inode.next().unwrap());
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap();
    let targets = descriptors.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    targets.filter(|target| target.as_os_str() == name.as_str()).count()
}

async fn ready(admin: SocketAddr) {
    while get(admin, "/readyz").await.0 != 200 {
        sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_static_list_is_routed_and_everything_is_shown() {
    let directory = tempfile::tempdir().unwrap();
    let address = replica().await;
    let (running, shutdown) =
        begin(&["--static", &static_file(directory.path(), address), "--node-id", "dp-1"]).await;
    let admin = running.admin_listen();
    assert_eq!(get(running.listen(), "/orders/x").await, (200, "hi".into()));

    assert_eq!(get(admin, "/livez").await, (200, "ok\n".into()));
    assert_eq!(get(admin, "/healthz").await, (200, "ok\n".into()));
    assert_eq!(get(admin, "/readyz").await, (200, "ok\n".into()));
    let verbose = "[+]snapshot ok (static)\n[+]not draining\nready\n";
    assert_eq!(get(admin, "/readyz?verbose").await, (200, verbose.into()));
    assert_eq!(json(admin, "/version").await["nodeId"], "dp-1");
    let snapshot = json(admin, "/snapshot").await;
    assert_eq!(snapshot["source"], "static");
    assert_eq!(snapshot["services"][0]["replicas"][0]["endpoint"]["address"], address.to_string());
    let breakers = json(admin, "/breakers").await;
    assert_eq!(breakers["breakers"][0]["state"], "BREAKER_STATE_CLOSED");
    assert_eq!(breakers["breakers"][0]["nodeId"], "dp-1");
    let (status, text) = get(admin, "/unknown").await;
    assert!(status == 404 && text.contains("/readyz"), "{text}");
    assert_eq!(request(admin, "POST", "/readyz").await.0, 405);
    end(running, &shutdown).await;
}

#[tokio::test]
async fn whoever_hands_over_and_whoever_waits_for_the_process_before_are_supervised_as_other_tasks_are() {
    let directory = tempfile::tempdir().unwrap();
    let (file, socket) = (static_file(directory.path(), replica().await), directory.path().join("handover"));
    let flags = ["--static", &file, "--handover-socket", socket.to_str().unwrap()];
    let (first, stops_first) = begin(&flags).await;
    let (second, stops_second) = begin(&flags).await;
    // The first has handed over, and ends by itself.
    first.finished().await.unwrap();
    assert!(stops_first.has_begun());
    let (_, text) = get(second.admin_listen(), "/metrics").await;
    for task in ["handover", "predecessor"] {
        let line = format!("gateway_panics_total{{task=\"{task}\"}} 0");
        assert!(text.lines().any(|shown| shown == line), "{line}\n\n{text}");
    }
    end(second, &stops_second).await;
}

#[tokio::test]
async fn metrics_show_requests_and_every_state_even_at_zero() {
    let directory = tempfile::tempdir().unwrap();
    let (running, shutdown) = begin(&["--static", &static_file(directory.path(), replica().await)]).await;
    get(running.listen(), "/orders/x").await;
    let (status, text) = get(running.admin_listen(), "/metrics").await;
    assert_eq!(status, 200);
    for line in [
        "gateway_requests_total{service=\"orders\",code_class=\"2xx\",outcome=\"success\"} 1",
        "gateway_requests_total{service=\"orders\",code_class=\"5xx\",outcome=\"gateway_error\"} 0",
        "gateway_requests_total{service=\"orders\",code_class=\"4xx\",outcome=\"client_abort\"} 0",
        "gateway_upstream_attempts_total{service=\"orders\",result=\"success\"} 1",
        "gateway_upstream_attempts_total{service=\"orders\",result=\"timeout\"} 0",
        "gateway_upstream_attempt_duration_seconds_count{service=\"orders\"} 1",
        "gateway_upstream_retries_total{service=\"orders\"} 0",
        "gateway_upstream_hedges_total{service=\"orders\"} 0",
        "gateway_retries_total{service=\"orders\",result=\"recovered\"} 0",
        "gateway_fallbacks_total{service=\"orders\",kind=\"static\"} 0",
        "gateway_available_replicas{service=\"orders\"} 1",
        "gateway_breaker_rejections_total{service=\"orders\"} 0",
        "gateway_breaker_transitions_total{service=\"orders\",from=\"closed\",to=\"open\",trigger=\"failure_ratio\"} 0",
        "gateway_retries_denied_total{service=\"orders\",reason=\"not_idempotent\"} 0",
        "gateway_retry_budget_remaining{service=\"orders\"} 100",
        "gateway_upstream_inflight{service=\"orders\"} 0",
        "gateway_concurrency_limit{service=\"orders\"} 0",
        "gateway_pending_requests{service=\"orders\"} 0",
        "gateway_requests_refused_total{service=\"orders\",reason=\"overloaded\"} 0",
        "gateway_requests_refused_total{service=\"orders\",reason=\"queue_timeout\"} 0",
        "gateway_rate_limited_requests_total{service=\"orders\",action=\"refused\"} 0",
        "gateway_rate_limited_requests_total{service=\"orders\",action=\"observed\"} 0",
        "gateway_rate_limit_keys_forgotten_total 0",
        "gateway_breakers{service=\"orders\",state=\"closed\"} 1",
        "gateway_breakers{service=\"orders\",state=\"half_open\"} 0",
        "gateway_breakers{service=\"orders\",state=\"open\"} 0",
        "gateway_replicas{service=\"orders\",health=\"healthy\"} 1",
        "gateway_replicas{service=\"orders\",health=\"unhealthy\"} 0",
        "gateway_snapshot_revision 0",
        "gateway_snapshot_age_seconds 0.0",
        "gateway_snapshot_nacks_total 0",
        "gateway_control_plane_connected 0",
        "gateway_panics_total{task=\"request\"} 0",
        "gateway_panics_total{task=\"journal\"} 0",
        "# EOF",
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line} is missing in\n{text}");
    }
    let build = concat!("gateway_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\",revision=");
    assert!(text.contains(build), "{text}");
    end(running, &shutdown).await;
}

#[tokio::test(start_paused = true)]
async fn a_task_in_the_background_that_panics_is_counted_and_tried_again_for_as_long_as_it_takes() {
    let (panics, stop) = (Arc::new(PanicCounts::default()), Shutdown::new());
    let mut background = Background::new(panics.clone(), stop.clone());
    let runs = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let (counted, stopped) = (runs.clone(), stop.clone());
    background.spawn("reports", move || {
        let (run, stopped) = (counted.fetch_add(1, Relaxed), stopped.clone());
        async move {
            assert!(run >= 10, "a defect that stays for long");
            stopped.begun().await;
        }
    });
    assert_eq!(panics.read()["reports"], 0);
    let supervised = tokio::spawn(background.supervisor.run(FAREWELL));
    while runs.load(Relaxed) < 11 {
        sleep(Duration::from_secs(1)).await;
    }
    assert!(!stop.has_begun());
    assert_eq!(panics.read()["reports"], 10);
    stop.begin();
    assert_eq!(supervised.await.unwrap(), Ok(()));
}

#[tokio::test]
async fn a_breaker_that_opens_shows_in_metrics_and_in_the_list() {
    let directory = tempfile::tempdir().unwrap();
    // Nobody listens at port 1.
    let gone = "127.0.0.1:1".parse().unwrap();
    let (running, shutdown) = begin(&["--static", &static_file(directory.path(), gone)]).await;
    while json(running.admin_listen(), "/breakers").await["breakers"][0]["state"] != "BREAKER_STATE_OPEN" {
        get(running.listen(), "/orders/x").await;
    }
    let row = &json(running.admin_listen(), "/breakers").await["breakers"][0];
    assert_eq!(row["reason"], "consecutive_failures 5 >= 5: connect refused");
    assert!(row["retryTime"].is_string());
    let opened = "gateway_breaker_transitions_total{service=\"orders\",from=\"closed\",to=\"open\",trigger=\"consecutive_failures\"} 1";
    while !get(running.admin_listen(), "/metrics").await.1.contains(opened) {
        sleep(Duration::from_millis(1)).await;
    }
    end(running, &shutdown).await;
}

#[tokio::test]
async fn without_a_control_plane_and_a_cache_it_lives_and_is_not_ready() {
    let directory = tempfile::tempdir().unwrap();
    let nobody = "http://127.0.0.1:1";
    let cache = directory.path().to_str().unwrap();
    let (running, shutdown) = begin(&["--control-plane", nobody, "--cache-dir", cache]).await;
    assert_eq!(get(running.admin_listen(), "/livez").await.0, 200);
    let (status, why) = get(running.admin_listen(), "/readyz").await;
    assert_eq!(status, 503);
    assert!(why.starts_with("[-]snapshot none yet"), "{why}");
    // Not 404: the service may well be registered.
    let (status, problem) = get(running.listen(), "/orders/x").await;
    assert_eq!(status, 503);
    assert!(problem.contains("no_snapshot"), "{problem}");
    end(running, &shutdown).await;
}

#[tokio::test]
async fn what_a_control_plane_sent_is_routed_again_after_a_restart_without_it() {
    let directory = tempfile::tempdir().unwrap();
    let cache = directory.path().to_str().unwrap();
    let port = replica().await.port();
    let mut control_plane = FakeControlPlane::start().await;
    let url = control_plane.url();
    let flags = ["--control-plane", url.as_str(), "--cache-dir", cache];

    let (running, shutdown) = begin(&flags).await;
    let orders = wire::service("orders", vec![wire::replica("orders", "r-1", port)]);
    let mut stream = control_plane.snapshot_stream().await;
    stream.send(wire::full(7, vec![orders])).await;
    assert_eq!(get(running.listen(), "/orders/x").await.0, 200);
    ready(running.admin_listen()).await;
    drop((stream, control_plane));
    assert_eq!(get(running.listen(), "/orders/x").await.0, 200, "on the last known");
    end(running, &shutdown).await;

    let (running, shutdown) = begin(&flags).await;
    assert_eq!(get(running.listen(), "/orders/x").await.0, 200, "from the first moment on");
    let (status, text) = get(running.admin_listen(), "/readyz?verbose").await;
    assert_eq!(status, 200);
    assert!(text.starts_with("[+]snapshot ok (cached, revision 7, "), "{text}");
    assert_eq!(json(running.admin_listen(), "/snapshot").await["revision"], "7");
    end(running, &shutdown).await;
}

#[tokio::test]
async fn replicas_that_the_registry_dropped_without_a_word_are_routed_to_and_shown_also_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let cache = directory.path().to_str().unwrap();
    let port = replica().await.port();
    let mut control_plane = FakeControlPlane::start().await;
    let url = control_plane.url();
    let flags = ["--control-plane", url.as_str(), "--cache-dir", cache];
    let (running, shutdown) = begin(&flags).await;
    let orders = wire::service("orders", vec![wire::replica("orders", "r-1", port)]);
    let mut stream = control_plane.snapshot_stream().await;
    stream.send(wire::full(7, vec![orders])).await;
    stream.send(wire::full(8, vec![])).await;
    drop((stream, control_plane));

    let look = async |running: &Running| {
        let admin = running.admin_listen();
        assert_eq!(get(running.listen(), "/orders/x").await.0, 200);
        let (status, text) = get(admin, "/readyz?verbose").await;
        let alarm = "[-]guard holds 1 replica that the registry has dropped (orders 1), for ";
        assert!(status == 200 && text.contains(alarm), "{text}");
        let shown = json(admin, "/snapshot").await;
        assert_eq!((&shown["revision"], &shown["services"]), (&"8".into(), &serde_json::json!([])));
        assert_eq!(shown["heldReplicas"][0]["replicaId"], "r-1");
    };
    look(&running).await;
    end(running, &shutdown).await;
    let (running, shutdown) = begin(&flags).await;
    look(&running).await;
    end(running, &shutdown).await;
}

#[tokio::test]
async fn a_damaged_cache_is_no_reason_not_to_start() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("snapshot.bin"), "GWSNAPSH and then something else").unwrap();
    let cache = directory.path().to_str().unwrap();
    let (running, shutdown) = begin(&["--control-plane", "http://127.0.0.1:1", "--cache-dir", cache]).await;
    assert_eq!(get(running.admin_listen(), "/readyz").await.0, 503);
    end(running, &shutdown).await;
}

#[tokio::test]
async fn after_the_shutdown_readiness_fails_while_clients_are_still_served() {
    let directory = tempfile::tempdir().unwrap();
    let file = static_file(directory.path(), replica().await);
    let (running, shutdown) = begin(&["--static", &file, "--drain-delay", "300ms"]).await;
    let (listen, admin) = (running.listen(), running.admin_listen());
    ready(admin).await;
    shutdown.begin();
    assert_eq!(get(admin, "/readyz").await.0, 503);
    assert_eq!(get(listen, "/orders/x").await.0, 200);
    running.finished().await.unwrap();
    assert!(TcpStream::connect(listen).await.is_err());
    assert!(TcpStream::connect(admin).await.is_err());
}

#[tokio::test]
async fn a_taken_port_ends_the_start_for_now_and_the_flag_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for flag in ["--listen", "--admin-listen"] {
        let anywhere = ["test", "--no-cache", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
        let mut args = anywhere.map(str::to_owned);
        let place = args.iter().position(|arg| arg == flag).unwrap();
        args[place + 1].clone_from(&address);
        let config = Cli::try_parse_from(args).unwrap().args.validate().unwrap();
        let failure = start(config, Shutdown::new()).await.unwrap_err();
        assert_eq!(failure.code(), 1);
        assert!(
            failure.to_string().starts_with(&format!("{flag} {address}: cannot listen there: ")),
            "{failure}"
        );
    }
}
