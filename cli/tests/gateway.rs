//! `gwctl dev` and `gwctl demo` as processes: the gateway starts, is looked into and acted on, is broken, and ends.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::{
    io::{BufRead as _, BufReader},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

/// A gateway in the background; what still runs at the end of the test is killed.
struct Gateway {
    child: Child,
    ready: Value,
}

impl Gateway {
    fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_gwctl"))
            .args(arguments)
            .arg("--random-ports")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        Self { child, ready: serde_json::from_str(&line).unwrap() }
    }

    /// Runs gwctl against it.
    fn run(&self, line: &str) -> Output {
        Command::new(env!("CARGO_BIN_EXE_gwctl"))
            .args(["-e", &format!("http://{}", self.ready["control"].as_str().unwrap()), "-o", "json"])
            .args(line.split_whitespace())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Runs gwctl against it and reads what it prints.
    fn ask(&self, line: &str) -> Value {
        let output = self.run(line);
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Runs gwctl against it and reads why it was refused.
    fn ask_in_vain(&self, line: &str) -> (i32, Value) {
        let output = self.run(line);
        (output.status.code().unwrap(), serde_json::from_slice(&output.stderr).unwrap())
    }

    fn send_signal(&self, name: &str) {
        send_signal(name, u64::from(self.child.id()));
    }

    fn exit_code(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // It may have ended long ago.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn send_signal(name: &str, pid: u64) {
    assert!(Command::new("kill").args(["-s", name, &pid.to_string()]).status().unwrap().success());
}

/// Waits for a condition of another process, which cannot tell us.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn listens(address: &Value) -> bool {
    TcpStream::connect(address.as_str().unwrap()).is_ok()
}

#[test]
fn dev_keeps_registrations_in_its_folder_and_ends_on_sigterm() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["dev", "--data-dir", folder.path().to_str().unwrap()];
    let mut first = Gateway::start(&arguments);
    let registered = first.ask("register orders 127.0.0.1:9 --id r-1 --label team=web");
    assert_eq!((&registered["created"], &registered["leaseId"]), (&true.into(), &"".into()));
    first.send_signal("TERM");
    assert_eq!(first.exit_code(), Some(0));

    let second = Gateway::start(&arguments);
    let replicas = second.ask("get replicas orders");
    assert_eq!(replicas["replicas"][0]["labels"]["team"], "web");
    let described = second.ask("describe replica orders/r");
    assert_eq!(described["replica"]["lease"]["permanent"], true);
    assert_eq!(second.ask("deregister orders/r-1")["removed"], true);
    assert_eq!(second.ask("get services")["services"], Value::Array(vec![]));
    let events = second.ask("events");
    assert_eq!(events["events"][0]["eventType"], "REPLICA_DEREGISTERED");
    eventually("the data plane is listed", || second.ask("get nodes")["nodes"][0]["nodeId"] == "dp-1");
}

#[test]
fn what_operators_decide_is_done_everywhere_shown_and_undone() {
    let dev = Gateway::start(&["dev"]);
    for id in ["r-1", "r-2"] {
        dev.ask(&format!("register orders 127.0.0.1:{} --id {id}", if id == "r-1" { 9 } else { 10 }));
    }
    eventually("the data plane reports both", || {
        dev.ask("get breakers orders")["breakers"].as_array().unwrap().len() == 2
    });

    let changed = dev.ask("policy set orders breaker.window=20s --author ana --reason flaky");
    assert_eq!(changed["policy"]["updatedBy"], "ana");
    assert_eq!(
        (&changed["rollout"]["nodeCount"], &changed["rollout"]["ackedNodeCount"]),
        (&1.into(), &1.into())
    );
    let resolved = dev.ask("policy get orders --resolved");
    assert_eq!(resolved["origins"]["breaker.window"], "orders");
    assert_eq!(resolved["origins"]["breaker.failure_ratio"], "default");
    let (code, error) = dev.ask_in_vain("policy set orders breaker.failure_ratio=50");
    assert_eq!((code, &error["code"]), (2, &"INVALID_ARGUMENT / POLICY_INVALID".into()));

    let forced = dev.ask("breaker open orders/r-1 --reason broken --author ana --ttl 5m");
    assert_eq!(forced["activeOverride"]["author"], "ana");
    assert_eq!(forced["rollout"]["ackedNodeCount"], 1);
    let state = || dev.ask("get breakers orders")["breakers"][0]["state"].clone();
    eventually("the breaker is forced open", || state() == "BREAKER_STATE_FORCED_OPEN");
    assert_eq!(dev.ask("get overrides")["overrides"][0]["reason"], "broken");
    dev.ask("breaker auto orders/r-1");
    eventually("probes decide again", || state() == "BREAKER_STATE_HALF_OPEN");
    assert_eq!(dev.ask("get overrides")["overrides"], Value::Array(vec![]));

    let drained = dev.ask("drain orders/r-1 --reason update --author ana");
    assert_eq!(drained["replica"]["mode"], "REPLICA_MODE_DRAINING");
    let (code, error) = dev.ask_in_vain("drain orders/r-2");
    assert_eq!((code, &error["code"]), (4, &"FAILED_PRECONDITION / LAST_READY_REPLICA".into()));
    let described = dev.ask("describe replica orders/r-1");
    assert_eq!(described["replica"]["drain"]["author"], "ana");
    assert_eq!(described["policy"]["origins"]["breaker.window"], "orders");
    assert_eq!(dev.ask("undrain orders/r-1")["replica"]["mode"], "REPLICA_MODE_SERVING");

    let report = dev.ask("check");
    assert_eq!(report["success"], true, "{report}");
    dev.ask("deregister orders/r-2 --block 10m");
    let (code, error) = dev.ask_in_vain("register orders 127.0.0.1:10 --id r-2");
    assert_eq!((code, &error["code"]), (4, &"FAILED_PRECONDITION / REREGISTER_BLOCKED".into()));
    let output = dev.run("check --fail-on warn");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(1), &b""[..]), "{report}");
    let services = report["categories"].as_array().unwrap().iter().find(|c| c["name"] == "services").unwrap();
    let found: Vec<_> = services["checks"].as_array().unwrap().iter().map(|check| &check["id"]).collect();
    assert_eq!(found, ["services/registered", "services/single"]);
}

#[test]
fn a_demo_whose_replica_is_killed_loses_no_request_and_leaves_no_process_behind() {
    let mut demo = Gateway::start(&["demo", "--duration", "6s", "--rate", "100"]);
    let victim = &demo.ready["replicas"][0];
    send_signal("KILL", victim["pid"].as_u64().unwrap());
    eventually("the breaker of the dead replica is not closed", || {
        let breakers = demo.ask("get breakers client-service");
        breakers["breakers"]
            .as_array()
            .unwrap()
            .iter()
            .any(|breaker| breaker["replicaId"] == victim["id"] && breaker["state"] != "BREAKER_STATE_CLOSED")
    });
    assert_eq!(demo.exit_code(), Some(0), "no request has failed");
    for replica in demo.ready["replicas"].as_array().unwrap() {
        assert!(!listens(&replica["address"]), "{replica}");
    }
}

#[test]
fn replicas_do_not_outlive_a_demo_that_is_killed() {
    let mut demo = Gateway::start(&["demo", "--no-load"]);
    let replicas = demo.ready["replicas"].as_array().unwrap().clone();
    assert!(replicas.iter().all(|replica| listens(&replica["address"])));
    demo.send_signal("KILL");
    demo.exit_code();
    eventually("all replicas have ended", || !replicas.iter().any(|replica| listens(&replica["address"])));
}

/// A port offset at which only the given one of the default ports is taken, and who has it.
fn offset_with_taken(default: u16) -> (u16, TcpListener) {
    // Below the ports that the kernel gives to those who ask for any, so that other tests do not come in between.
    let first = 10_000 + u16::try_from(std::process::id() % 1000).unwrap() * 10;
    let bind = |port: u16| TcpListener::bind(("127.0.0.1", port));
    (first..22_000)
        .find(|offset| {
            [7400, 7401, 8080, 9001, 9002, 9003].map(|port| bind(port + offset)).iter().all(Result::is_ok)
        })
        .map(|offset| (offset, bind(default + offset).unwrap()))
        .expect("ports are free somewhere")
}

#[test]
fn a_taken_port_is_explained_with_the_ways_around_it_whichever_part_wanted_it() {
    for (command, default) in [("dev", 7400), ("dev", 8080), ("demo", 7401), ("demo", 9002)] {
        let (offset, taken) = offset_with_taken(default);
        let output = Command::new(env!("CARGO_BIN_EXE_gwctl"))
            .args([command, "--log", "warn", "--port-offset", &offset.to_string()])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{command} {default}");
        let address = taken.local_addr().unwrap();
        assert_eq!(
            String::from_utf8(output.stderr).unwrap(),
            format!(
                "error: port {} is taken: somebody listens on {address}\n  \
                 hint: choose other ports with  --port-offset 100  or  --random-ports\n",
                address.port()
            )
        );
        assert!(!Path::new("gateway.redb").exists(), "nothing is left in the working directory");
    }
}

/// What a demo or dev that does not start prints to stderr.
fn refused(arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gwctl"));
    command.args(arguments).args(["--random-ports", "--log", "error"]).envs(environment.iter().copied());
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn what_has_nothing_to_do_with_ports_is_not_explained_by_ports() {
    let stderr = refused(&["dev", "--data-dir", "/dev/null/x"], &[]);
    assert!(stderr.starts_with("error: --data-dir /dev/null/x: "), "{stderr}");
    assert!(!stderr.contains("hint"), "{stderr}");
}

#[test]
fn a_bad_variable_of_a_plane_is_explained_in_one_line_and_one_that_is_not_used_is_ignored() {
    let stderr = refused(&["dev"], &[("GW_WORKERS", "many"), ("GW_LISTEN", "nonsense")]);
    assert_eq!(
        stderr,
        "error: invalid value 'many' for '--workers <N>': invalid digit found in string \
         (from a GW_ variable in the environment)\n"
    );
    let stderr = refused(&["demo"], &[("GW_MAX_NODES", "0")]);
    assert!(stderr.starts_with("error: --max-nodes 0 is not in 1..=100000 (from a GW_ variable"), "{stderr}");
}

#[test]
fn the_gateway_s_other_ports_are_told_from_the_control_plane_s() {
    let gateway = Gateway::start(&["dev"]);
    for port in ["proxy", "admin"] {
        let url = format!("http://{}", gateway.ready[port].as_str().unwrap());
        let output =
            Command::new(env!("CARGO_BIN_EXE_gwctl")).args(["get", "services", "-e", &url]).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(5), "{stderr}");
        let expected = match port {
            "proxy" => format!("error: what answers at {url} is no control plane that this gwctl knows\n"),
            // It speaks HTTP/1.1 only, and ends the connection.
            _ => format!("error: cannot reach the control plane at {url} ("),
        };
        assert!(stderr.starts_with(&expected), "{stderr}");
        assert!(stderr.contains("the default ports are 7400 of the control plane"), "{stderr}");
    }
}
