//! A gateway whose control plane is reached by a Unix socket alone: by data planes, by gwctl, by what it runs, and by others.

use std::{
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        net::UnixListener,
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::Command,
};

use gateway_tests::{DataPlane, Process, binaries, command, eventually, http1, tools};
use tempfile::TempDir;

/// A control plane at a socket, and at no address.
struct Local {
    process: Process,
    folder: TempDir,
}

impl Local {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let process = Self::spawn(folder.path()).await;
        Self { process, folder }
    }

    async fn spawn(folder: &Path) -> Process {
        let mut process = Process::spawn("control-plane", &mut Self::command(folder));
        let ready = process.ready().await;
        assert_eq!((ready["socket"].as_str(), ready.get("listen")), (Some(&*url(folder)), None));
        process
    }

    fn command(folder: &Path) -> Command {
        let mut command = binaries::control_plane();
        let store = format!("redb:{}", folder.join("registry.redb").display());
        command.args(["--listen", &url(folder), "--store", &store]);
        command
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("control.sock")
    }

    fn url(&self) -> String {
        url(self.folder.path())
    }

    async fn gwctl(&self, args: &[&str]) -> command::Finished {
        command::gwctl(&self.url(), args).await
    }
}

fn url(folder: &Path) -> String {
    format!("unix://{}", folder.join("control.sock").display())
}

#[tokio::test]
async fn everything_works_over_a_socket_also_after_its_control_plane_was_killed() {
    let mut local = Local::start().await;
    let url = local.url();
    let cache = local.folder.path().join("dp-1").display().to_string();
    let flags = ["--control-plane", &*url, "--node-id", "dp-1", "--cache-dir", &*cache];
    let data = DataPlane::start(&flags).await;
    let gwctl = binaries::gwctl().get_program().to_str().unwrap().to_owned();
    let mut run = binaries::gwctl();
    // A data plane that has just found back may not have said yet what is in flight: that is not what is waited for here.
    run.args(["run", "-e", &url, "--service", "orders", "--grace", "8s", "--"]);
    run.args(["sh", "-c", "echo told $GW_ENDPOINT; exec $0 demo-replica --listen $GW_ADDRESS", &gwctl]);
    let mut run = Process::spawn("run", &mut run);
    eventually("requests are answered", async || {
        let status = http1::get(data.address(), "/orders/hello").await.status();
        if status == 200 { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    assert!(run.stdout().contains(&format!("told {url}\n")), "{}", run.stdout());
    let replicas = local.gwctl(&["get", "replicas", "orders", "-o", "json"]).await.json();
    let address = replicas["replicas"][0]["endpoint"]["address"].as_str().unwrap();
    assert!(address.starts_with("127.0.0.1:"), "who is beside the control plane is found there: {address}");
    let checked = local.gwctl(&["check"]).await;
    assert!(checked.stdout.contains(&format!("control plane is reachable ({url}")), "{}", checked.stdout);
    assert!(checked.stdout.contains("1 data plane"), "{}", checked.stdout);

    // Its socket is left, and is replaced; everybody finds the way back.
    local.process.kill();
    assert!(local.path().exists());
    let refused = local.gwctl(&["get", "services"]).await;
    assert_eq!(refused.code(), 5);
    assert!(refused.stderr.contains("nobody listens there"), "{}", refused.stderr);
    assert!(refused.stderr.contains(&format!("gw-control-plane --listen {url}")), "{}", refused.stderr);
    local.process = Local::spawn(local.folder.path()).await;
    eventually("the data plane follows again", async || {
        let waited = local.gwctl(&["wait", "--synced", "--timeout", "1s"]).await;
        if waited.code() == 0 { Ok(()) } else { Err(waited.stderr) }
    })
    .await;
    assert_eq!(http1::get(data.address(), "/orders/hello").await.status(), 200);
    run.terminate();
    assert!(run.exited().await.success(), "{}", run.stderr());
    assert_eq!(local.gwctl(&["get", "services", "-o", "name"]).await.success(), "");

    local.process.terminate();
    assert!(local.process.exited().await.success());
    assert!(!local.path().exists());
}

#[tokio::test]
async fn a_second_control_plane_is_refused_and_the_first_goes_on() {
    let local = Local::start().await;
    let refused = command::run(Local::command(local.folder.path())).await;
    assert_eq!(refused.code(), 1);
    assert!(refused.stderr.contains("another process listens there"), "{}", refused.stderr);
    local.gwctl(&["get", "services"]).await.success();
    // Looking at flags is not listening.
    let mut check = Local::command(local.folder.path());
    check.arg("--check");
    let valid = command::run(check).await.json();
    assert_eq!(valid["socket"].as_str(), Some(&*local.url()));
    local.gwctl(&["get", "services"]).await.success();
}

#[tokio::test]
async fn who_finds_no_socket_or_may_not_use_it_is_told_which() {
    let local = Local::start().await;
    let asked = async |url: &str| command::gwctl(url, &["get", "services"]).await;
    let folder = local.folder.path();
    let file = folder.join("file");
    std::fs::write(&file, "").unwrap();
    for (url, why, code) in [
        (format!("unix://{}", folder.join("none").display()), "there is no such file", 5),
        (format!("unix://{}", file.display()), "it is no socket", 5),
        ("unix://control.sock".to_owned(), "is no absolute path of a socket", 2),
        (folder.join("control.sock").display().to_string(), "has no scheme: write unix:///", 2),
    ] {
        let refused = asked(&url).await;
        assert_eq!(refused.code(), code, "{url}: {}", refused.stderr);
        assert!(refused.stderr.contains(why), "{url}: {}", refused.stderr);
    }
    // One that nobody accepts at is waited for, and no longer than was said.
    let silent = folder.join("silent.sock");
    let _listener = UnixListener::bind(&silent).unwrap();
    let url = format!("unix://{}", silent.display());
    let overdue = command::gwctl(&url, &["get", "services", "--timeout", "300ms"]).await;
    assert_eq!(overdue.code(), 5, "{}", overdue.stderr);

    // Only root can become somebody else; for root itself there are no modes.
    if std::fs::metadata(folder).unwrap().uid() == 0 {
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
        let nobody = |program: Command| {
            let copy = folder.join("gwctl");
            std::fs::copy(program.get_program(), &copy).unwrap();
            let mut command = Command::new(copy);
            // The configuration of root is not its own.
            command.uid(65_534).gid(65_534).env("GWCTL_CONFIG", folder.join("none.toml"));
            command
        };
        let mut stranger = nobody(binaries::gwctl());
        stranger.args(["-e", &local.url(), "get", "services"]);
        let refused = command::run(stranger).await;
        assert_eq!(refused.code(), 5, "{}", refused.stderr);
        assert!(refused.stderr.contains("permission denied: the mode and the owner"), "{}", refused.stderr);
    }
}

#[tokio::test]
async fn contexts_and_several_endpoints_may_name_sockets() {
    let local = Local::start().await;
    let file = local.folder.path().join("gwctl.toml");
    let gwctl = async |args: &[&str]| {
        let mut command = binaries::gwctl();
        command.args(args).env("GWCTL_CONFIG", &file);
        command::run(command).await
    };
    let refused = gwctl(&["config", "set", "-c", "here", "endpoint", "unix:run/x.sock"]).await;
    assert_eq!(refused.code(), 2);
    assert!(refused.stderr.contains("write unix:///PATH"), "{}", refused.stderr);
    let nowhere = format!("unix://{}", local.folder.path().join("none").display());
    let several = format!("{nowhere},{}", local.url());
    gwctl(&["config", "set", "-c", "here", "endpoint", &several]).await.success();
    gwctl(&["get", "services"]).await.success();
    let mut by_variable = binaries::gwctl();
    by_variable.args(["get", "services"]).env("GWCTL_ENDPOINT", local.url());
    command::run(by_variable).await.success();
}

#[tokio::test]
async fn programs_that_are_not_ours_use_the_socket_by_grpcurl() {
    let local = Local::start().await;
    let grpcurl = async |args: &[&str]| {
        let mut grpcurl = Command::new(tools::grpcurl());
        grpcurl.args(["-plaintext", "-max-time", "10"]).args(args);
        command::run(grpcurl).await
    };
    let listed = grpcurl(&[&local.url(), "list"]).await.success();
    assert!(listed.contains("gateway.v1.RegistryService"), "{listed}");
    let request = r#"{"service":"orders","endpoint":{"address":":8080"}}"#;
    let method = "gateway.v1.RegistryService/Register";
    let registered = grpcurl(&["-d", request, &local.url(), method]).await.json();
    assert_eq!(registered["replica"]["endpoint"]["address"], "127.0.0.1:8080");
}

#[tokio::test]
async fn rest_and_the_dashboard_are_served_at_the_socket_by_curl() {
    let local = Local::start().await;
    for (path, holds) in [("/v1/services", "services"), ("/", "<!doctype html>"), ("/readyz", "ok")] {
        let mut curl = Command::new(tools::curl());
        curl.args(["-sSL", "--fail", "--max-time", "10", "--unix-socket"]).arg(local.path());
        curl.arg(format!("http://localhost{path}"));
        let answer = command::run(curl).await.success();
        assert!(answer.to_lowercase().contains(holds), "{path}: {answer}");
    }
}
