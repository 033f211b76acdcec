//! `gwctl dev` and `gwctl demo` as processes: the gateway starts, is looked into and acted on, is broken, and ends.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::{
    io::{BufRead as _, BufReader},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
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

    /// Runs gwctl against it and reads what it prints.
    fn ask(&self, line: &str) -> Value {
        let output = Command::new(env!("CARGO_BIN_EXE_gwctl"))
            .args(["-e", &format!("http://{}", self.ready["control"].as_str().unwrap()), "-o", "json"])
            .args(line.split_whitespace())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
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

#[test]
fn a_taken_port_is_explained_with_the_ways_around_it() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let offset = taken.local_addr().unwrap().port().checked_sub(7400).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_gwctl"))
        .args(["dev", "--log", "error", "--port-offset", &offset.to_string()])
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("hint: if a port is taken:  --port-offset 100,  or  --random-ports"), "{stderr}");
    assert!(!Path::new("gateway.redb").exists(), "nothing is left in the working directory");
}
