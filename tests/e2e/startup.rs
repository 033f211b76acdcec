//! Starting and ending: bad flags, taken ports, SIGTERM.

use std::{net::TcpListener, process::Command, time::Duration};

use gateway_tests::{Act, ControlPlane, DataPlane, Gateway, Scripted, binaries, command, eventually, http1};
use http::Method;
use serde_json::json;

/// What a program says when it does not start, and ends with this code.
async fn refused(mut command: Command, args: &[&str], code: i32) -> String {
    command.args(args);
    let finished = command::run(command).await;
    assert_eq!(finished.code(), code, "{args:?}: {}", finished.stderr);
    assert_eq!(finished.stdout, "", "{args:?}: nothing is ready");
    finished.stderr
}

/// An address that is taken may be free when the program is started again; nothing else here mends itself.
fn code_of(args: &[&str], taken: &str) -> i32 {
    if args.contains(&taken) { 1 } else { 2 }
}

#[tokio::test]
async fn a_control_plane_that_cannot_start_names_the_flag_and_exits_with_2_or_with_1_where_that_may_pass() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let directory = tempfile::tempdir().unwrap();
    let not_a_store = directory.path().join("text");
    std::fs::write(&not_a_store, "this is no database").unwrap();
    let not_a_store = format!("redb:{}", not_a_store.display());
    let cases: [(&[&str], &str); 7] = [
        (&["--listen", "nonsense"], "--listen"),
        (&["--listen", &taken, "--store", "memory:"], "--listen"),
        (&["--listen", "127.0.0.1:0", "--store", "file:x"], "--store"),
        (&["--listen", "127.0.0.1:0", "--store", "redb:/nonexistent/folder/x.redb"], "--store"),
        (&["--listen", "127.0.0.1:0", "--store", &not_a_store], "--store"),
        (&["--listen", "127.0.0.1:0", "--store", "memory:", "--log", "=,="], "--log"),
        (&["--no-such-flag"], "--no-such-flag"),
    ];
    for (args, flag) in cases {
        let said = refused(binaries::control_plane(), args, code_of(args, &taken)).await;
        assert!(said.contains(flag), "{args:?}: {said}");
        assert!(!said.contains("panicked"), "{said}");
    }
    assert_eq!(std::fs::read(directory.path().join("text")).unwrap(), b"this is no database");
}

#[tokio::test]
async fn a_data_plane_that_cannot_start_names_the_flag_and_exits_with_2_or_with_1_where_that_may_pass() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let directory = tempfile::tempdir().unwrap();
    let broken = directory.path().join("services.toml");
    std::fs::write(&broken, "[[service]]\nname = \"Orders\"\nreplicas = [\"127.0.0.1:1\"]\n").unwrap();
    let broken = broken.display().to_string();
    let cases: [(&[&str], &str); 9] = [
        (&["--listen", "nonsense"], "--listen"),
        (&["--listen", &taken, "--no-cache"], "--listen"),
        (&["--admin-listen", &taken, "--no-cache"], "--admin-listen"),
        (&["--workers", "0", "--no-cache"], "--workers"),
        (&["--node-id", "Not A Label", "--no-cache"], "--node-id"),
        (&["--control-plane", "ftp://x", "--no-cache"], "--control-plane"),
        (&["--static", "/nonexistent/services.toml"], "--static"),
        (&["--static", &broken], "--static"),
        (&["--static", &broken, "--control-plane", "http://127.0.0.1:1"], "--static"),
    ];
    for (args, flag) in cases {
        let mut command = binaries::data_plane();
        // Whatever the case does not set must not be what fails.
        for (name, value) in [("--listen", "127.0.0.1:0"), ("--admin-listen", "127.0.0.1:0")] {
            if !args.contains(&name) {
                command.args([name, value]);
            }
        }
        let said = refused(command, args, code_of(args, &taken)).await;
        assert!(said.contains(flag), "{args:?}: {said}");
        assert!(!said.contains("panicked"), "{said}");
    }
}

#[tokio::test]
async fn flags_can_be_given_by_environment() {
    let mut command = binaries::control_plane();
    command.env("GW_LISTEN", "127.0.0.1:0").env("GW_STORE", "nonsense");
    let said = refused(command, &[], 2).await;
    assert!(said.contains("--store"), "{said}");
}

#[tokio::test]
async fn a_data_plane_that_is_told_to_end_finishes_what_is_in_flight() {
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone".to_vec();
    let slow = Scripted::start(move |_, _| Act::AnswerAfter(Duration::from_millis(700), answer.clone()));
    let mut gateway = Gateway::start().await;
    gateway.register("orders", "r-1", slow.address()).await;
    let proxy = gateway.proxy();
    let request = tokio::spawn(async move {
        http1::Connection::open(proxy).await?.send(http1::request(Method::GET, "/orders/x")).await
    });
    eventually("the request is with the replica", async || match slow.seen().len() {
        1 => Ok(()),
        _ => Err("it is not".to_owned()),
    })
    .await;
    gateway.data.process().terminate();
    let answer = request.await.unwrap().expect("the request is answered");
    assert_eq!(answer.body().as_ref(), b"done");
    assert_eq!(gateway.data.process().exited().await.code(), Some(0));
    assert!(http1::Connection::open(proxy).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn a_draining_data_plane_tells_what_is_in_flight_and_a_second_signal_ends_it_at_once() {
    let hanging = Scripted::start(|_, _| Act::Hang);
    let mut gateway = Gateway::start().await;
    gateway.register("orders", "r-1", hanging.address()).await;
    let proxy = gateway.proxy();
    let request = tokio::spawn(async move {
        http1::Connection::open(proxy).await?.send(http1::request(Method::POST, "/orders/x")).await
    });
    eventually("the request is with the replica", async || match hanging.seen().len() {
        1 => Ok(()),
        _ => Err("it is not".to_owned()),
    })
    .await;
    let process = gateway.data.process();
    process.terminate();
    eventually("the log tells of the drain", async || {
        let log = process.stderr();
        let phase = log.lines().find(|line| line.contains("no new connections")).ok_or(log.clone())?;
        let counts = phase.contains("connections=1") && phase.contains("requests=1");
        if counts { Ok(()) } else { Err(log) }
    })
    .await;
    eventually("a second signal ends it, unless it is taken for an echo of the first", async || {
        process.terminate();
        if process.is_running() { Err("it runs".into()) } else { Ok(()) }
    })
    .await;
    assert_eq!(process.exited().await.code(), Some(130));
    assert!(request.await.unwrap().is_err(), "it is cut");
}

#[tokio::test]
async fn a_control_plane_that_is_told_to_end_exits_with_0_also_while_data_planes_follow_it() {
    let mut gateway = Gateway::start().await;
    gateway.synced().await;
    gateway.control.process().terminate();
    assert_eq!(gateway.control.process().exited().await.code(), Some(0));
}

#[tokio::test]
async fn a_control_plane_that_has_ended_leaves_a_store_that_the_next_one_opens() {
    let directory = tempfile::tempdir().unwrap();
    let mut control = ControlPlane::start(&directory.path().join("registry.redb")).await;
    control.process().terminate();
    assert_eq!(control.process().exited().await.code(), Some(0));
    control.restart().await;
    assert_eq!(http1::get(control.address(), "/readyz").await.status(), 200);
}

#[tokio::test]
async fn a_data_plane_starts_before_its_control_plane_and_is_ready_when_that_comes() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("registry.redb");
    // Only to have an address at which nobody is.
    let mut control = ControlPlane::start(&store).await;
    control.kill();
    let data = DataPlane::following(&control, "dp-1", &directory.path().join("cache")).await;
    assert_eq!(http1::get(data.admin(), "/livez").await.status(), 200);
    assert_eq!(http1::get(data.admin(), "/readyz").await.status(), 503);
    control.restart().await;
    eventually("it is ready", async || match http1::get(data.admin(), "/readyz").await.status() {
        status if status == 200 => Ok(()),
        status => Err(status.to_string()),
    })
    .await;
}

#[tokio::test]
async fn a_check_says_what_would_run_or_why_it_would_not_and_disturbs_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("registry.redb");
    // One that serves from the same store, at the same address.
    let control = ControlPlane::start(&store).await;
    let (listen, store) = (control.address().to_string(), format!("redb:{}", store.display()));
    let mut same = binaries::control_plane();
    same.args(["--check", "--listen", &listen, "--store", &store]);
    let said = command::run(same).await.json();
    assert_eq!(said, json!({"valid": true, "listen": listen, "store": store}));
    assert_eq!(http1::get(control.address(), "/readyz").await.status(), 200);

    let certificate = directory.path().join("absent.pem").display().to_string();
    let tls: &[&str] =
        &["--tls-listen", "127.0.0.1:0", "--tls-certificate", &certificate, "--tls-key", &certificate];
    let cases: [(Command, &[&str], &str); 4] = [
        (binaries::control_plane(), &["--store", "redb:/nonexistent/x.redb"], "--store"),
        (binaries::control_plane(), &["--max-nodes", "0"], "--max-nodes"),
        (binaries::data_plane(), tls, "absent.pem"),
        (binaries::data_plane(), &["--static", "/nonexistent/services.toml"], "--static"),
    ];
    for (mut program, args, named) in cases {
        program.arg("--check");
        let said = refused(program, args, 2).await;
        assert!(said.contains(named), "{args:?}: {said}");
    }
}
