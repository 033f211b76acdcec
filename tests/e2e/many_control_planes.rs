//! Two control planes of one registry, each a process: data planes and gwctl use either, and each knows what both see.
//!
//! Their stores are two copies of one file, so they are of one epoch and one revision, as two on one store are.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::Path,
};

use gateway_proto::v1::{Endpoint, RegisterRequest};
use gateway_tests::{
    Act, ControlPlane, DataPlane, Load, Process, Scripted, binaries,
    command::{Finished, gwctl},
    eventually, http1,
};

/// An address that is free now.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Two control planes whose registry has replicas of `orders` at these addresses.
async fn pair(directory: &Path, replicas: &[SocketAddr]) -> [ControlPlane; 2] {
    let stores = ["a.redb", "b.redb"].map(|name| directory.join(name));
    let mut first = ControlPlane::start(&stores[0]).await;
    for (number, address) in replicas.iter().enumerate() {
        let endpoint = Some(Endpoint { address: address.to_string(), ..Default::default() });
        let request = RegisterRequest {
            service: "orders".into(),
            replica_id: format!("r-{number}"),
            endpoint,
            permanent: true,
            ..Default::default()
        };
        first.registry().register(request).await.unwrap();
    }
    first.kill();
    fs::copy(&stores[0], &stores[1]).unwrap();
    let addresses = [free(), free()];
    let peers = addresses.map(|address| address.to_string()).join(",");
    let flags = ["--peers", &peers];
    [
        ControlPlane::start_at(addresses[0], &stores[0], &flags).await,
        ControlPlane::start_at(addresses[1], &stores[1], &flags).await,
    ]
}

fn urls(pair: &[ControlPlane; 2]) -> String {
    format!("{},{}", pair[0].url(), pair[1].url())
}

async fn data_plane(pair: &[ControlPlane; 2], directory: &Path) -> DataPlane {
    let (urls, cache) = (urls(pair), directory.join("dp-1").display().to_string());
    let data =
        DataPlane::start(&["--control-plane", &urls, "--node-id", "dp-1", "--cache-dir", &cache]).await;
    data.routes("orders").await;
    data
}

/// The one that the data plane follows, by its place in the pair.
async fn followed(pair: &[ControlPlane; 2], data: &DataPlane) -> Option<usize> {
    let ready = http1::get(data.admin(), "/readyz?verbose").await;
    let text = String::from_utf8_lossy(ready.body()).into_owned();
    let is_it =
        |control: &ControlPlane| text.contains(&format!("[+]control-plane {} connected", control.url()));
    pair.iter().position(is_it)
}

/// The state of the data plane, and whom it follows, as a control plane shows it; and which other one it names as silent.
async fn shown(endpoint: &str) -> (String, String, String) {
    let Finished { stdout, .. } = gwctl(endpoint, &["get", "nodes", "-o", "json"]).await;
    let listed: serde_json::Value = serde_json::from_str(&stdout).unwrap_or_default();
    let node = &listed["nodes"][0];
    let text = |field: &str| node[field].as_str().unwrap_or_default().to_owned();
    let silent = listed["silentControlPlanes"][0]["address"].as_str().unwrap_or_default().to_owned();
    (text("state"), text("controlPlane"), silent)
}

#[tokio::test]
async fn a_data_plane_goes_on_at_the_other_control_plane_and_both_know_where_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let replicas = [(); 2].map(|()| Scripted::start(|_, _| Act::ok(b"hello")));
    let mut pair = pair(directory.path(), &[replicas[0].address(), replicas[1].address()]).await;
    let data = data_plane(&pair, directory.path()).await;
    eventually("it serves", async || {
        let answer = http1::get(data.address(), "/orders/hello").await;
        if answer.status() == 200 { Ok(()) } else { Err(answer.status().to_string()) }
    })
    .await;
    let load = Load::start(data.address(), "/orders/hello", 100);
    let first = eventually("it follows one of them", async || {
        followed(&pair, &data).await.ok_or_else(|| "neither".to_owned())
    })
    .await;
    let second = 1 - first;
    for control in &pair {
        eventually("either says which one it follows", async || {
            let (state, at, _) = shown(&control.url()).await;
            let is_so = state == "NODE_STATE_SYNCED" && at == pair[first].address().to_string();
            if is_so { Ok(()) } else { Err(format!("{state} at {at}")) }
        })
        .await;
    }

    pair[first].kill();
    eventually("it follows the other one", async || match followed(&pair, &data).await {
        Some(index) if index == second => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    // Of the same registry, so it is sent what is new, and that is nothing.
    eventually("its log says so", async || {
        let log = pair[second].process().stderr();
        let is_so = log.contains("data plane connected") && log.contains("resume=Some(2)");
        if is_so { Ok(()) } else { Err(log) }
    })
    .await;
    eventually("the answer says that it is not all", async || {
        // Either may be asked: the first of the two that answers tells.
        let (state, at, silent) = shown(&urls(&pair)).await;
        let is_so = state == "NODE_STATE_SYNCED"
            && at == pair[second].address().to_string()
            && silent == pair[first].address().to_string();
        if is_so { Ok(()) } else { Err(format!("{state} at {at}, silent: {silent}")) }
    })
    .await;
    let told = gwctl(&urls(&pair), &["get", "nodes"]).await;
    let sentence = format!("the control plane at {} is silent", pair[first].address());
    assert!(told.stderr.contains(&sentence), "{told:?}");
    let metrics = http1::get(data.admin(), "/metrics").await;
    let metrics = String::from_utf8_lossy(metrics.body()).into_owned();
    assert!(metrics.contains("gateway_control_plane_moves_total 1"), "{metrics}");

    pair[first].restart().await;
    eventually("nothing is missing any more", async || {
        let (_, _, silent) = shown(&pair[second].url()).await;
        if silent.is_empty() { Ok(()) } else { Err(silent) }
    })
    .await;
    pair[second].kill();
    eventually("it goes back", async || match followed(&pair, &data).await {
        Some(index) if index == first => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    load.stop().await.assert_flawless();
}

#[tokio::test]
async fn a_program_under_gwctl_run_stays_registered_when_its_control_plane_dies() {
    let directory = tempfile::tempdir().unwrap();
    let mut pair = pair(directory.path(), &[]).await;
    let mut command = binaries::gwctl();
    command.args(["run", "--endpoint", &urls(&pair), "--service", "orders", "--ttl", "3s", "--"]);
    let program = binaries::gwctl().get_program().to_owned();
    command.arg(program).args(["demo-replica", "--listen", "127.0.0.1:$PORT"]);
    let _run = Process::spawn("gwctl run", &mut command);
    let is_there = async |control: &ControlPlane| {
        let listed = gwctl(&control.url(), &["get", "replicas", "orders", "-o", "name"]).await;
        if listed.stdout.trim().is_empty() { Err(listed.stderr) } else { Ok(()) }
    };
    eventually("it is registered with the first one", async || is_there(&pair[0]).await).await;
    pair[0].kill();
    eventually("it is registered with the other one", async || is_there(&pair[1]).await).await;
}

#[tokio::test]
async fn a_data_plane_carries_other_services_once_its_file_names_them_and_starts_anew_with_those() {
    let directory = tempfile::tempdir().unwrap();
    let mut control = ControlPlane::start(&directory.path().join("registry.redb")).await;
    let replica = Scripted::start(|_, _| Act::ok(b"hello"));
    for service in ["orders", "users"] {
        let endpoint = Some(Endpoint { address: replica.address().to_string(), ..Default::default() });
        let request =
            RegisterRequest { service: service.into(), endpoint, permanent: true, ..Default::default() };
        control.registry().register(request).await.unwrap();
    }
    let (file, cache) = (directory.path().join("services"), directory.path().join("cache"));
    fs::write(&file, "orders # and no more\n").unwrap();
    let (services, folder) = (file.display().to_string(), cache.display().to_string());
    let url = control.url();
    let flags = ["--control-plane", &url, "--node-id", "dp-1", "--cache-dir", &folder];
    let mut data = DataPlane::start(&[&flags[..], &["--services-file", &services]].concat()).await;
    let proxy = data.address();
    let status = async |service: &str| http1::get(proxy, &format!("/{service}/x")).await.status().as_u16();
    let becomes = async |expected: (u16, u16)| {
        eventually("it carries what the file names", async || {
            match (status("orders").await, status("users").await) {
                found if found == expected => Ok(()),
                found => Err(format!("{found:?}")),
            }
        })
        .await;
    };
    becomes((200, 404)).await;
    fs::write(&file, "users\n").unwrap();
    // As one whose replicas have left, for some minutes.
    becomes((503, 200)).await;
    assert_eq!(control.process().stderr().matches("data plane connected").count(), 1, "on one stream");
    eventually("both snapshots are on disk", async || {
        let files = fs::read_dir(&cache).unwrap().map(|file| file.unwrap().path());
        match files.filter(|path| path.extension().is_some_and(|end| end == "bin")).count() {
            2 => Ok(()),
            other => Err(other.to_string()),
        }
    })
    .await;
    control.kill();
    data.restart().await;
    assert_eq!((status("orders").await, status("users").await), (404, 200));
}

#[tokio::test]
async fn a_watch_goes_on_at_the_other_control_plane() {
    let directory = tempfile::tempdir().unwrap();
    let mut pair = pair(directory.path(), &[]).await;
    let mut command = binaries::gwctl();
    command.args(["--endpoint", &urls(&pair), "get", "replicas", "-w", "-o", "json"]);
    let watch = Process::spawn("gwctl get -w", &mut command);
    let register = async |control: &ControlPlane, port: u16| {
        let endpoint = Some(Endpoint { address: format!("127.0.0.1:{port}"), ..Default::default() });
        let replica_id = format!("r-{port}");
        let request = RegisterRequest {
            service: "orders".into(),
            replica_id,
            endpoint,
            permanent: true,
            ..Default::default()
        };
        control.registry().register(request).await.unwrap();
    };
    let told = async |id: &str| {
        eventually(&format!("the watch tells of {id}"), async || {
            let out = watch.stdout();
            if out.contains(id) { Ok(()) } else { Err(out) }
        })
        .await;
    };
    // Both, as a store in common would have it: they stay at one revision.
    register(&pair[0], 1001).await;
    register(&pair[1], 1001).await;
    told("r-1001").await;
    pair[0].kill();
    register(&pair[1], 1002).await;
    told("r-1002").await;
}

#[tokio::test]
async fn a_token_that_goes_to_another_control_plane_in_clear_text_is_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("peers.token");
    fs::write(&token, "gwt_peers").unwrap();
    let flags = ["--peers", "127.0.0.1:9,192.0.2.1:7400", "--peer-token-file", token.to_str().unwrap()];
    let mut control = ControlPlane::start_on("memory:".into(), &flags).await;
    let said = eventually("it is said", async || {
        let said = control.process().stderr();
        if said.contains("without TLS, for all to read") { Ok(said) } else { Err(said) }
    })
    .await;
    let warnings: Vec<_> = said.lines().filter(|line| line.contains("for all to read")).collect();
    assert_eq!(warnings.len(), 1, "nobody listens on this machine: {said}");
    assert!(warnings[0].contains("192.0.2.1:7400") && !said.contains("gwt_peers"), "{said}");
}
