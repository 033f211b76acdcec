//! One data plane takes over from another, and nobody notices.

use std::{
    io::{Read, Write},
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

use gateway_tests::{
    ControlPlane, DataPlane, DemoReplica, Gateway, Load, Process, binaries, eventually, http1,
};

/// A gateway whose data plane hands over, and what it takes to start another one in its place.
struct Stage {
    gateway: Gateway,
    socket: PathBuf,
    _replicas: Vec<DemoReplica>,
}

impl Stage {
    async fn start() -> Self {
        let mut gateway = Gateway::start().await;
        let socket = gateway.directory().join("handover");
        gateway.data = data_plane(&gateway.control, gateway.directory(), &socket, 2).await;
        let mut replicas = Vec::new();
        for id in ["r-1", "r-2"] {
            let replica = DemoReplica::start(id).await;
            gateway.register("orders", id, replica.address()).await;
            replicas.push(replica);
        }
        Self { gateway, socket, _replicas: replicas }
    }

    /// Starts the next data plane and yields the one before.
    async fn hand_over(&mut self, workers: usize) -> DataPlane {
        let Self { gateway, socket, .. } = self;
        let next = data_plane(&gateway.control, gateway.directory(), socket, workers).await;
        std::mem::replace(&mut gateway.data, next)
    }

    /// What a successor says that does not come to serve.
    async fn refused(&self, socket: &Path, flags: &[&str]) -> (Option<i32>, String) {
        let mut process = successor(socket, flags);
        let status = process.exited().await;
        (status.code(), process.stderr())
    }

    async fn serves(&self) -> bool {
        http1::get(self.gateway.proxy(), "/orders/hello").await.status() == 200
    }
}

async fn data_plane(control: &ControlPlane, directory: &Path, socket: &Path, workers: usize) -> DataPlane {
    let (cache, socket) = (directory.join("dp-1").display().to_string(), socket.display().to_string());
    let (url, workers) = (control.url(), workers.to_string());
    let flags = ["--control-plane", &url, "--node-id", "dp-1", "--cache-dir", &cache];
    let others = ["--handover-socket", &socket, "--workers", &workers, "--drain-delay", "60s"];
    DataPlane::start(&[&flags[..], &others[..]].concat()).await
}

fn successor(socket: &Path, flags: &[&str]) -> Process {
    let mut command = binaries::data_plane();
    command.args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--no-cache"]);
    command.args(["--handover-socket".as_ref(), socket.as_os_str()]).args(flags);
    Process::spawn("successor", &mut command)
}

/// Nobody is there, so there is never anything to route by.
const NOBODY: [&str; 2] = ["--control-plane", "http://127.0.0.1:1"];

#[tokio::test]
async fn handovers_under_load_refuse_nobody_and_cut_nothing_whatever_the_workers_are() {
    let mut stage = Stage::start().await;
    let (proxy, admin) = (stage.gateway.proxy(), stage.gateway.data.admin());
    let kept = Load::start(proxy, "/orders/hello", 200);
    let connecting = Load::start_connecting(proxy, "/orders/hello", 100);
    for workers in [1, 3, 2] {
        let mut old = stage.hand_over(workers).await;
        assert_eq!((stage.gateway.proxy(), stage.gateway.data.admin()), (proxy, admin));
        let ended = old.process().exited().await;
        assert_eq!(ended.code(), Some(0), "it drains without the drain delay, and ends");
        assert_eq!(http1::get(admin, "/readyz").await.status(), 200);
        let before = connecting.tally().sent;
        eventually("the load goes on", async || match connecting.tally().sent {
            sent if sent >= before + 50 => Ok(()),
            sent => Err(format!("{sent} requests")),
        })
        .await;
    }
    kept.stop().await.assert_flawless();
    connecting.stop().await.assert_flawless();
    // One node all the time, and of its name there is one process left.
    stage.gateway.synced().await;
    let mode = std::fs::metadata(&stage.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn a_successor_that_dies_or_has_nothing_to_route_by_changes_nothing() {
    let mut stage = Stage::start().await;
    let load = Load::start(stage.gateway.proxy(), "/orders/hello", 100);
    let mut dying = successor(&stage.socket, &NOBODY);
    let log = |stage: &mut Stage| stage.gateway.data.process().stderr();
    eventually("it is asked for its sockets", async || {
        let log = log(&mut stage);
        if log.contains("handing over: still serving") { Ok(()) } else { Err(log) }
    })
    .await;
    // One at a time.
    let (code, said) = stage.refused(&stage.socket, &NOBODY).await;
    assert_eq!(code, Some(2));
    assert!(said.contains(&format!("process {} is taking over already", dying.pid())), "{said}");
    dying.kill();
    eventually("it goes on", async || {
        let log = log(&mut stage);
        if log.contains("going on as before") { Ok(()) } else { Err(log) }
    })
    .await;
    let (code, said) =
        stage.refused(&stage.socket, &[&NOBODY[..], &["--handover-timeout", "300ms"]].concat()).await;
    assert_eq!(code, Some(1));
    assert!(said.contains("nothing to route by within --handover-timeout 300ms"), "{said}");
    assert!(stage.gateway.data.process().is_running());
    // It still follows the control plane, and hands over to one that is ready.
    stage.gateway.synced().await;
    let mut old = stage.hand_over(2).await;
    assert_eq!(old.process().exited().await.code(), Some(0));
    assert!(stage.serves().await);
    load.stop().await.assert_flawless();
}

#[tokio::test]
async fn a_handover_that_is_refused_or_not_understood_says_why_on_both_sides() {
    let stage = Stage::start().await;
    // A successor from another time.
    let mut stream = UnixStream::connect(&stage.socket).unwrap();
    let ask = br#"{"message":"ask","protocol":9,"version":"7.0.0","pid":1,"more":"than is known"}"#;
    stream.write_all(&(ask.len() as u32).to_be_bytes()).unwrap();
    stream.write_all(ask).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("hands over by protocol 1, and version 7.0.0 asks by protocol 9"), "{answer}");
    assert!(stage.serves().await);

    // A predecessor from another time, and something else altogether.
    for (said, expected) in [
        (&b"\0\0\0\x20{\"message\":\"refused\",\"why\":\"no\"}"[..], "refuses: no"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not hand over as this data plane"),
    ] {
        let path = stage.gateway.directory().join("other");
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        let answering = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(said).unwrap();
            // Until the other side has had enough.
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let (code, log) = stage.refused(&path, &NOBODY).await;
        assert_eq!(code, Some(2));
        assert!(log.contains(expected), "{log}");
        answering.join().unwrap();
    }
    let (code, log) = stage.refused(&stage.gateway.directory().join("registry.redb"), &NOBODY).await;
    assert_eq!(code, Some(2));
    assert!(log.contains("something that is no socket"), "{log}");
}

#[tokio::test]
async fn a_socket_that_nobody_listens_at_any_more_is_taken_and_removed_at_the_end() {
    let mut stage = Stage::start().await;
    stage.gateway.data.kill();
    assert!(stage.socket.exists(), "it could not remove it");
    let Stage { gateway, socket, .. } = &mut stage;
    gateway.data = data_plane(&gateway.control, gateway.directory(), socket, 1).await;
    gateway.data.process().terminate();
    eventually("it is removed", async || match socket.exists() {
        false => Ok(()),
        true => Err("it is there".into()),
    })
    .await;
    // It still serves its clients, as long as the delay is.
    for _ in 0..10 {
        assert!(stage.serves().await);
    }
}

#[tokio::test]
async fn a_successor_that_comes_while_the_other_process_ends_waits_for_its_end_and_serves_in_its_place() {
    let mut stage = Stage::start().await;
    let (listen, admin) = (stage.gateway.proxy().to_string(), stage.gateway.data.admin().to_string());
    // It serves on for as long as its delay is, and has both addresses.
    stage.gateway.data.process().terminate();
    eventually("it hands nothing over any more", async || match stage.socket.exists() {
        false => Ok(()),
        true => Err("it is there".into()),
    })
    .await;
    let mut command = binaries::data_plane();
    command.args(["--listen", &listen, "--admin-listen", &admin, "--no-cache", "--node-id", "dp-1"]);
    command.args(["--control-plane", &stage.gateway.control.url()]);
    command.args(["--handover-socket".as_ref(), stage.socket.as_os_str()]);
    let mut next = Process::spawn("successor", &mut command);
    eventually("it waits", async || {
        let log = next.stderr();
        if log.contains("waiting for its end") { Ok(()) } else { Err(log) }
    })
    .await;
    assert!(stage.serves().await);
    stage.gateway.data.kill();
    next.ready().await;
    eventually("the next one serves", async || match stage.serves().await {
        true => Ok(()),
        false => Err("it does not".into()),
    })
    .await;
    next.terminate();
    assert_eq!(next.exited().await.code(), Some(0));
}
