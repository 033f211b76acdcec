//! `gwctl run`: programs that know nothing of the gateway are supervised, registered, reported and drained.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use gateway_proto::v1::{HealthStatus, Replica, ReplicaMode};
use gateway_tests::{Gateway, Load, Process, binaries, command, eventually, eventually_within, http1};
use http::Method;

/// A supervisor, started with `flags`, of the program `words`.
fn supervise(endpoint: &str, flags: &[&str], words: &[&str]) -> Process {
    let mut command = binaries::gwctl();
    command.args(["run", "--endpoint", endpoint, "--service", "orders"]).args(flags).arg("--").args(words);
    Process::spawn("run", &mut command)
}

/// The demo's replica as a program like any other: it is told its port and registers with nobody.
fn program() -> Vec<String> {
    let gwctl = binaries::gwctl().get_program().to_str().unwrap().to_owned();
    [&gwctl, "demo-replica", "--listen", "127.0.0.1:$PORT"].map(str::to_owned).into()
}

fn supervise_replica(endpoint: &str, flags: &[&str]) -> Process {
    let words = program();
    supervise(endpoint, flags, &words.iter().map(String::as_str).collect::<Vec<_>>())
}

/// A shell's line that becomes the demo's replica as long as `file` is there, and exits with 3 otherwise.
fn replica_while(file: &Path) -> [String; 3] {
    let line = format!("test -e {} || exit 3; exec {}", file.display(), program().join(" "));
    ["sh", "-c", &line].map(str::to_owned)
}

async fn says(process: &Process, text: &str) {
    eventually(&format!("it says {text:?}"), async || {
        let said = format!("{}\n{}", process.stdout(), process.stderr());
        if said.contains(text) { Ok(()) } else { Err(said) }
    })
    .await;
}

/// The ids of the replica's processes, in the order of their starts, by their ready lines.
fn pids(process: &Process) -> Vec<u32> {
    let out = process.stdout();
    let lines = out.lines().filter_map(|line| line.strip_prefix("app | {"));
    let pid = |line: &str| line.split("\"pid\":\"").nth(1)?.split('"').next()?.parse().ok();
    lines.filter_map(pid).collect()
}

async fn replica_becomes(gateway: &Gateway, health: HealthStatus) -> Replica {
    eventually(&format!("the replica is {health:?}"), async || match &gateway.replicas("orders").await[..] {
        [replica] if replica.health() == health => Ok(replica.clone()),
        other => Err(format!("{other:?}")),
    })
    .await
}

fn kill(signal: &str, pid: u32) {
    let sent = Command::new("kill").args(["-s", signal, &pid.to_string()]).status().unwrap();
    assert!(sent.success(), "kill -s {signal} {pid}");
}

/// Waits until a process is gone, or at least a zombie that nobody has collected.
async fn is_gone(pid: u32) {
    eventually(&format!("process {pid} is gone"), async || {
        match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
            Err(_) => Ok(()),
            Ok(stat) if stat.contains(") Z ") => Ok(()),
            Ok(stat) => Err(stat),
        }
    })
    .await;
}

#[tokio::test]
async fn a_supervised_program_is_drained_under_load_without_a_lost_request() {
    let gateway = Gateway::start().await;
    let endpoint = gateway.control.url();
    let mut supervisors = [supervise_replica(&endpoint, &[]), supervise_replica(&endpoint, &[])];
    eventually("both replicas are registered", async || {
        let count = gateway.replicas("orders").await.len();
        if count == 2 { Ok(()) } else { Err(format!("{count} replicas")) }
    })
    .await;
    gateway.synced().await;
    let load = Load::start(gateway.proxy(), "/orders/hello", 200);
    let more = async |count: u64| {
        let before = load.tally().sent;
        eventually("the load goes on", async || {
            let sent = load.tally().sent - before;
            if sent >= count { Ok(()) } else { Err(format!("{sent} requests")) }
        })
        .await;
    };
    more(50).await;
    supervisors[0].terminate();
    assert_eq!(supervisors[0].exited().await.code(), Some(0), "{}", supervisors[0].stderr());
    more(50).await;
    load.stop().await.assert_flawless();
    let said = supervisors[0].stderr();
    let at = |text: &str| said.find(text).unwrap_or_else(|| panic!("no {text:?} in\n{said}"));
    assert!(at("drained: nothing in flight") < at("stopping pid") && at("stopping pid") < at("deregistered"));
    assert_eq!(gateway.replicas("orders").await.len(), 1);
}

#[tokio::test]
async fn a_program_that_is_to_end_while_the_control_plane_restarts_is_drained_all_the_same() {
    let mut gateway = Gateway::start().await;
    let endpoint = gateway.control.url();
    let flags = &["--grace", "120s"];
    let mut supervisors = [supervise_replica(&endpoint, flags), supervise_replica(&endpoint, flags)];
    eventually("both replicas are registered", async || {
        let count = gateway.replicas("orders").await.len();
        if count == 2 { Ok(()) } else { Err(format!("{count} replicas")) }
    })
    .await;
    gateway.synced().await;
    let load = Load::start(gateway.proxy(), "/orders/hello", 100);
    gateway.control.kill();
    supervisors[0].terminate();
    says(&supervisors[0], "cannot be drained yet: the control plane cannot be reached").await;
    // To one that has just started, the data plane has not come back yet.
    gateway.control.restart().await;
    eventually_within(Duration::from_secs(60), "it is drained", async || {
        let said = supervisors[0].stderr();
        if said.contains("drained: nothing in flight") { Ok(()) } else { Err(said) }
    })
    .await;
    assert_eq!(supervisors[0].exited().await.code(), Some(0), "{}", supervisors[0].stderr());
    load.stop().await.assert_flawless();
}

#[tokio::test]
async fn a_program_is_told_where_it_is_and_registered_there_when_it_is_ready() {
    let gateway = Gateway::start().await;
    let show = "echo told $PORT $GW_SERVICE $GW_REPLICA_ID $GW_ADDRESS $GW_ENDPOINT; exec $0 demo-replica --listen $GW_ADDRESS";
    let mut run =
        supervise(&gateway.control.url(), &["--label", "team=web"], &["sh", "-c", show, &program()[0]]);
    let replica = replica_becomes(&gateway, HealthStatus::Healthy).await;
    let address = replica.endpoint.unwrap().address;
    let port = address.strip_prefix("127.0.0.1:").unwrap();
    let told =
        format!("app | told {port} orders {} {address} {}\n", replica.replica_id, gateway.control.url());
    assert!(run.stdout().starts_with(&told), "{}", run.stdout());
    assert_eq!(replica.labels["team"], "web");
    gateway.synced().await;
    assert_eq!(http1::get(gateway.proxy(), "/orders/hello").await.status(), 200);
    run.terminate();
    assert!(run.exited().await.success());
    assert_eq!(gateway.replicas("orders").await, []);
}

#[tokio::test]
async fn a_program_that_crashes_again_and_again_is_off_until_one_run_lasts() {
    let gateway = Gateway::start().await;
    let works = gateway.directory().join("works");
    std::fs::write(&works, "").unwrap();
    let words = replica_while(&works);
    let flags = [
        "--restart-delay",
        "1ms",
        "--fast-restarts",
        "3",
        "--slow-restart",
        "300ms",
        "--stable-for",
        "200ms",
    ];
    let run = supervise(&gateway.control.url(), &flags, &words.each_ref().map(String::as_str));
    replica_becomes(&gateway, HealthStatus::Healthy).await;

    std::fs::remove_file(&works).unwrap();
    kill("KILL", pids(&run)[0]);
    let replica = replica_becomes(&gateway, HealthStatus::Unhealthy).await;
    assert!(!replica.state_reason.is_empty());
    for said in [
        "was killed by SIGKILL; restart 1/3 in 1ms",
        "exited 3; restart 2/3 in 2ms",
        "exited 3; restart 3/3 in 4ms",
        "exited 3; OFF after 3 fast restarts in 1m: slow ones from now, next in 300ms",
        "exited 3; OFF: next start in 600ms",
    ] {
        says(&run, said).await;
    }
    let off = "the registry knows that it is off";
    eventually(off, async || {
        let reason = gateway.replicas("orders").await.remove(0).state_reason;
        if reason.contains("exited 3; OFF") { Ok(()) } else { Err(reason) }
    })
    .await;

    std::fs::write(&works, "").unwrap();
    says(&run, "up for 200ms: ON again, all restarts are available").await;
    replica_becomes(&gateway, HealthStatus::Healthy).await;
    kill("KILL", pids(&run)[1]);
    says(&run, "restart 1/3 in 1ms").await;
    replica_becomes(&gateway, HealthStatus::Healthy).await;
}

#[tokio::test]
async fn a_killed_program_is_unhealthy_long_before_its_lease_lapses() {
    let gateway = Gateway::start().await;
    let flags = ["--ttl", "1h", "--restart-delay", "1h"];
    let run = supervise_replica(&gateway.control.url(), &flags);
    replica_becomes(&gateway, HealthStatus::Healthy).await;
    let began = Instant::now();
    kill("KILL", pids(&run)[0]);
    let replica = replica_becomes(&gateway, HealthStatus::Unhealthy).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(replica.state_reason, "was killed by SIGKILL; restart 1/10 in 1h");
}

#[tokio::test]
async fn a_program_runs_without_a_control_plane_and_is_registered_when_that_is_back() {
    let mut gateway = Gateway::start().await;
    gateway.control.kill();
    let run = supervise_replica(&gateway.control.url(), &[]);
    says(&run, "ready after").await;
    says(&run, "is not registered: the control plane cannot be reached").await;
    gateway.control.restart().await;
    let first = replica_becomes(&gateway, HealthStatus::Healthy).await;

    // One that has forgotten everything is told anew, without a restart of the program.
    gateway.control.kill();
    std::fs::remove_file(gateway.directory().join("registry.redb")).unwrap();
    gateway.control.restart().await;
    let second = replica_becomes(&gateway, HealthStatus::Healthy).await;
    assert_eq!(second.replica_id, first.replica_id);
    assert_eq!(pids(&run).len(), 1, "{}", run.stdout());
}

#[tokio::test]
async fn a_program_s_own_end_and_a_program_that_cannot_be_started_have_the_codes_of_a_shell() {
    let gateway = Gateway::start().await;
    let endpoint = gateway.control.url();
    let directory = gateway.directory().display().to_string();
    for (words, code) in [
        (&["sh", "-c", "exit 7"][..], 7),
        (&["sh", "-c", "kill -9 $$"], 137),
        (&["true"], 0),
        (&["/no/such/program"], 127),
        (&[&directory], 126),
    ] {
        let mut run = supervise(&endpoint, &["--no-restart"], words);
        assert_eq!(run.exited().await.code(), Some(code), "{words:?}: {}", run.stderr());
    }
    let flags = ["--max-restarts", "2", "--restart-delay", "1ms"];
    let mut run = supervise(&endpoint, &flags, &["sh", "-c", "exit 9"]);
    assert_eq!(run.exited().await.code(), Some(9), "{}", run.stderr());
    assert!(run.stderr().contains("given up after 2 restarts"), "{}", run.stderr());
}

#[tokio::test]
async fn as_the_first_process_of_a_container_it_collects_whatever_has_lost_its_parent_by_unshare() {
    // Whoever has ended and is not collected is a zombie. The program waits until there is none.
    let line = "for n in 1 2 3; do (true &); done; sleep 0.3; \
                while grep -qs '^State:.Z' /proc/[0-9]*/status; do sleep 0.05; done; \
                echo collected by $(cat /proc/1/comm); exit 7";
    let gwctl = binaries::gwctl();
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]).arg(gwctl.get_program());
    command.args([
        "run",
        "--endpoint",
        "http://127.0.0.1:1",
        "--service",
        "orders",
        "--no-restart",
        "--health",
        "none",
    ]);
    command.args(["--", "sh", "-c", line]);
    let mut run = Process::spawn("run", &mut command);
    assert_eq!(run.exited().await.code(), Some(7), "it tells of its program's end: {}", run.stderr());
    assert!(run.stdout().contains("app | collected by gwctl"), "{}", run.stdout());
}

#[tokio::test]
async fn a_registration_that_would_be_refused_starts_nothing() {
    let gateway = Gateway::start().await;
    let long = format!("team={}", "x".repeat(64));
    let mut run = supervise(&gateway.control.url(), &["--label", &long], &["sh", "-c", "echo started"]);
    assert_eq!(run.exited().await.code(), Some(2));
    assert!(run.stderr().contains("labels"), "{}", run.stderr());
    assert_eq!(run.stdout(), "");
}

#[tokio::test]
async fn no_orphan_is_left_when_the_supervisor_is_killed() {
    let gateway = Gateway::start().await;
    let line = format!("sleep 1000 & echo sleeper $!; exec {}", program().join(" "));
    let mut run = supervise(&gateway.control.url(), &["--grace", "1s"], &["sh", "-c", &line]);
    says(&run, "ready after").await;
    let out = run.stdout();
    let sleeper = out.lines().find_map(|line| line.strip_prefix("app | sleeper ")).unwrap().parse().unwrap();
    run.kill();
    is_gone(pids(&run)[0]).await;
    is_gone(sleeper).await;
}

#[tokio::test]
async fn what_a_program_leaves_behind_is_gone_before_it_is_started_again() {
    let gateway = Gateway::start().await;
    // It ignores what asks it to end.
    let line = "(trap '' TERM; sleep 1000) & echo sleeper $!; exit 1";
    let flags = ["--max-restarts", "1", "--restart-delay", "1ms"];
    let mut run = supervise(&gateway.control.url(), &flags, &["sh", "-c", line]);
    assert_eq!(run.exited().await.code(), Some(1));
    let out = run.stdout();
    let sleepers: Vec<u32> =
        out.lines().filter_map(|line| line.strip_prefix("app | sleeper ")?.parse().ok()).collect();
    assert_eq!(sleepers.len(), 2, "{out}");
    for sleeper in sleepers {
        is_gone(sleeper).await;
    }
}

#[tokio::test]
async fn signals_that_mean_no_end_are_passed_on() {
    let gateway = Gateway::start().await;
    let line = "trap 'echo usr1' USR1; trap 'echo hup' HUP; echo begun; while :; do sleep 0.05; done";
    let mut run = supervise(&gateway.control.url(), &["--health", "none"], &["sh", "-c", line]);
    says(&run, "app | begun").await;
    kill("USR1", run.pid());
    says(&run, "app | usr1").await;
    run.hang_up();
    says(&run, "app | hup").await;
    assert!(run.is_running());
    run.terminate();
    assert_eq!(run.exited().await.code(), Some(0), "{}", run.stderr());
}

#[tokio::test]
async fn a_program_that_does_not_end_is_killed_after_the_grace_and_by_a_second_signal_at_once() {
    let gateway = Gateway::start().await;
    let line = ["sh", "-c", "trap '' TERM; echo begun; while :; do sleep 0.05; done"];
    let mut run = supervise(&gateway.control.url(), &["--health", "none", "--grace", "400ms"], &line);
    says(&run, "app | begun").await;
    run.terminate();
    assert_eq!(run.exited().await.code(), Some(137), "{}", run.stderr());
    assert!(run.stderr().contains("had not ended within 400ms"), "{}", run.stderr());

    let mut run = supervise(&gateway.control.url(), &["--health", "none", "--grace", "1h"], &line);
    says(&run, "app | begun").await;
    run.terminate();
    says(&run, "stopping pid").await;
    eventually_within(Duration::from_secs(10), "a second signal ends it", async || {
        // The first of them may still be taken for an echo.
        run.terminate();
        if run.is_running() { Err("it runs".to_owned()) } else { Ok(()) }
    })
    .await;
    assert_eq!(run.exited().await.code(), Some(137), "{}", run.stderr());
}

#[tokio::test]
async fn several_replicas_have_ports_and_lines_of_their_own() {
    let gateway = Gateway::start().await;
    let mut run = supervise_replica(&gateway.control.url(), &["--replicas", "3"]);
    let addresses = eventually("three replicas are registered", async || {
        let replicas = gateway.replicas("orders").await;
        let addresses: std::collections::BTreeSet<_> =
            replicas.iter().map(|replica| replica.endpoint.clone().unwrap().address).collect();
        if addresses.len() == 3 { Ok(addresses) } else { Err(format!("{addresses:?}")) }
    })
    .await;
    for (number, _) in addresses.iter().enumerate() {
        says(&run, &format!("app.{} | {{\"ready\":true", number + 1)).await;
    }
    run.terminate();
    assert!(run.exited().await.success(), "{}", run.stderr());
    assert_eq!(gateway.replicas("orders").await, []);
}

#[tokio::test]
async fn a_port_that_somebody_else_has_is_not_taken_for_the_program_s() {
    let gateway = Gateway::start().await;
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port().to_string();
    let mut run = supervise_replica(&gateway.control.url(), &["--port", &port, "--no-restart"]);
    assert_eq!(run.exited().await.code(), Some(125), "{}", run.stderr());
    assert!(run.stderr().contains(&format!("port {port} is taken by another process")), "{}", run.stderr());
    assert_eq!(gateway.replicas("orders").await, []);
    // Several cannot have the same one.
    let args = ["run", "--service", "orders", "--replicas", "2", "--port", &port, "--", "true"];
    let refused = command::gwctl(&gateway.control.url(), &args).await;
    assert_eq!(refused.code(), 2, "{}", refused.stderr);
}

#[tokio::test]
async fn a_program_whose_source_has_changed_is_started_anew_as_the_same_replica_and_has_not_failed() {
    let gateway = Gateway::start().await;
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    std::fs::write(&source, "one").unwrap();
    let watched = folder.path().display().to_string();
    // Without a file that it needs, it exits.
    let words = replica_while(&source);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let process = supervise(
        &gateway.control.url(),
        &["--watch", &watched, "--slow-restart", "1h", "--fast-restarts", "1"],
        &words,
    );
    let first = replica_becomes(&gateway, HealthStatus::Healthy).await;
    let before = pids(&process);

    std::fs::write(&source, "another").unwrap();
    says(&process, &format!("restarting: {} has changed", source.display())).await;
    is_gone(before[0]).await;
    eventually("its successor runs", async || match pids(&process).len() {
        2 => Ok(()),
        count => Err(format!("{count} starts")),
    })
    .await;
    let second = replica_becomes(&gateway, HealthStatus::Healthy).await;
    assert_eq!((&second.replica_id, &second.endpoint), (&first.replica_id, &first.endpoint));
    let said = process.stderr();
    assert!(!said.contains("restart 1/"), "{said}");
    let at = |text: &str| said.find(text).unwrap_or_else(|| panic!("no {text:?} in\n{said}"));
    assert!(
        at("watching 1 file for changes") < at("restarting: ") && at("restarting: ") < at("drained: "),
        "{said}"
    );

    // One that fails waits for an hour, or for the next change.
    std::fs::remove_file(&source).unwrap();
    says(&process, "OFF").await;
    std::fs::write(&source, "mended").unwrap();
    eventually("it runs again", async || match pids(&process).len() {
        3 => Ok(()),
        count => Err(format!("{count} starts")),
    })
    .await;
    replica_becomes(&gateway, HealthStatus::Healthy).await;
}

#[tokio::test]
async fn what_is_in_flight_is_finished_before_a_changed_program_makes_way() {
    let gateway = Gateway::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (source, watched) = (folder.path().join("app.py"), folder.path().display().to_string());
    std::fs::write(&source, "one").unwrap();
    let mut process = supervise_replica(&gateway.control.url(), &["--watch", &watched]);
    let first = replica_becomes(&gateway, HealthStatus::Healthy).await;
    gateway.synced().await;
    let (proxy, replica) = (gateway.proxy(), first.endpoint.clone().unwrap().address.parse().unwrap());
    // One that nobody may send twice, and that the program would lose if it were ended now.
    let slow = http1::request(Method::POST, "/orders/hello?delay=1500ms");
    let slow = tokio::spawn(async move { http1::send(proxy, slow).await.status() });
    eventually("the program has it", async || {
        let stats = http1::get(replica, "/stats").await.into_body();
        let stats = String::from_utf8_lossy(&stats).into_owned();
        if stats.contains("POST") { Ok(()) } else { Err(stats) }
    })
    .await;
    std::fs::write(&source, "another").unwrap();
    says(&process, "drained: nothing in flight").await;
    assert_eq!(slow.await.unwrap(), 200, "{}", process.stderr());
    let why = format!("restarting: {} has changed", source.display());
    let events = command::gwctl(&gateway.control.url(), &["events", "--service", "orders"]).await.success();
    assert!(events.contains(&why), "{events}");

    // Its successor serves, and nothing is left of the drain.
    eventually("the successor serves", async || match &gateway.replicas("orders").await[..] {
        [one] if one.mode() == ReplicaMode::Serving && one.incarnation > first.incarnation => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    gateway.synced().await;
    assert_eq!(http1::get(proxy, "/orders/hello").await.status(), 200);
    process.terminate();
    assert!(process.exited().await.success(), "{}", process.stderr());
}

#[tokio::test]
async fn what_cannot_be_watched_is_said_before_anything_is_started() {
    let gateway = Gateway::start().await;
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("none").display().to_string();
    let mut process = supervise_replica(&gateway.control.url(), &["--watch", &missing]);
    assert_eq!(process.exited().await.code(), Some(2), "{}", process.stderr());
    assert!(process.stderr().contains(&format!("--watch {missing}: there is no such file or folder")));
    for number in 0..20_001 {
        std::fs::File::create(folder.path().join(number.to_string())).unwrap();
    }
    let many = folder.path().display().to_string();
    let mut process = supervise_replica(&gateway.control.url(), &["--watch", &many]);
    assert_eq!(process.exited().await.code(), Some(2), "{}", process.stderr());
    assert!(process.stderr().contains("there are more than 20000 files and folders"), "{}", process.stderr());
    assert_eq!(process.stdout(), "");
}
