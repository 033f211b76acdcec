//! The program as a shell sees it: exit codes, what goes to stdout and stderr, signals, closed pipes.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Output, Stdio},
};

use serde_json::Value;

fn gwctl(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gwctl"));
    command.args(arguments).env_remove("GWCTL_ENDPOINT").env_remove("GWCTL_OUTPUT").stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = gwctl(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

/// An address where nobody listens any more.
fn refused() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Starts a demo replica and reads its ready line.
fn start_replica(arguments: &[&str]) -> (Child, SocketAddr) {
    let mut command = gwctl(&[&["demo-replica"], arguments].concat());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let ready: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(ready["pid"], child.id().to_string());
    (child, ready["listen"].as_str().unwrap().parse().unwrap())
}

fn get(address: SocketAddr, target: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn send_signal(name: &str, pid: u32) {
    let sent = Command::new("kill").args(["-s", name, &pid.to_string()]).status().unwrap();
    assert!(sent.success());
}

#[test]
fn an_unreachable_control_plane_is_explained_on_stderr_with_exit_code_5() {
    let url = format!("http://{}", refused());
    let (code, stdout, stderr) = run(&["get", "services", "-e", &url]);
    assert_eq!((code, stdout.as_str()), (5, ""));
    assert_eq!(
        stderr,
        format!(
            "error: cannot reach the control plane at {url} (connection refused)\n  \
             the endpoint comes from --endpoint\n  hint: start one with  gwctl dev\n  \
             hint: or choose another one with  --endpoint URL  or  gwctl config use NAME\n  code: UNAVAILABLE\n"
        )
    );
}

#[test]
fn a_check_tells_of_an_unreachable_control_plane_on_stdout() {
    let url = format!("http://{}", refused());
    let check = |format: &str| run(&["check", "-e", &url, "-o", format]);
    let (code, stdout, stderr) = check("table");
    assert_eq!((code, stderr.as_str()), (5, ""));
    assert!(
        stdout.contains(&format!("cannot reach the control plane at {url} (connection refused)")),
        "{stdout}"
    );
    assert!(stdout.contains("hint: start one with  gwctl dev"), "{stdout}");
    assert_eq!(check("name"), (5, "control-plane/reachable\n".to_owned(), String::new()));
    let report: Value = serde_json::from_str(&check("json").1).unwrap();
    assert_eq!(report["success"], false);
}

#[test]
fn a_name_that_does_not_resolve_is_told_as_such() {
    let (code, _, stderr) = run(&["get", "services", "-e", "http://nobody.invalid:7400"]);
    assert_eq!(code, 5);
    assert!(
        stderr.starts_with("error: cannot reach the control plane at http://nobody.invalid:7400 ("),
        "{stderr}"
    );
    assert!(stderr.contains("lookup"), "{stderr}");
}

#[test]
fn a_server_that_speaks_no_http_2_is_no_control_plane() {
    let (mut replica, address) = start_replica(&[]);
    let (code, stdout, stderr) = run(&["get", "services", "-e", &format!("http://{address}")]);
    replica.kill().unwrap();
    replica.wait().unwrap();
    assert_eq!((code, stdout.as_str()), (5, ""), "{stderr}");
    let expected = format!("error: cannot reach the control plane at http://{address} (");
    assert!(stderr.starts_with(&expected), "{stderr}");
}

#[test]
fn with_json_output_the_error_is_json_too() {
    let url = format!("http://{}", refused());
    let (code, _, stderr) = run(&["get", "services", "-e", &url, "-o", "json"]);
    let error: Value = serde_json::from_str(&stderr).unwrap();
    assert_eq!((code, &error["exitCode"], &error["code"]), (5, &5.into(), &"UNAVAILABLE".into()));
}

#[test]
fn usage_errors_exit_with_2_and_help_and_version_with_0() {
    assert_eq!(run(&["get", "planets"]).0, 2);
    assert_eq!(run(&["get", "services", "-e", "127.0.0.1:7400"]).0, 2);
    assert_eq!(run(&["--help"]).0, 0);
    assert_eq!(run(&["version"]).1, concat!("gwctl ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn a_reader_that_has_gone_ends_the_program_quietly() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = gwctl(&["version"]).stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    let output = output.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}

#[test]
fn a_demo_replica_serves_and_ends_in_good_order_when_it_is_told_to() {
    let (mut child, address) = start_replica(&["--id", "r-7"]);
    assert!(get(address, "/hello").ends_with("Hello from r-7\n"));
    send_signal("TERM", child.id());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_demo_replica_with_a_parent_ends_when_the_parent_is_gone() {
    let (mut child, address) = start_replica(&["--with-parent"]);
    assert!(get(address, "/hello").contains("200 OK"));
    drop(child.stdin.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_taken_port_is_a_usage_error_that_names_the_flag() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, stdout, stderr) = run(&["demo-replica", "--listen", &address]);
    assert_eq!((code, stdout.as_str()), (2, ""));
    assert!(stderr.starts_with(&format!("error: --listen {address}: cannot listen there")), "{stderr}");
}

#[test]
fn the_version_is_data_in_either_format() {
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(run(&["version", "--client"]), (0, format!("gwctl {version}\n"), String::new()));
    let (code, stdout, _) = run(&["version", "--client", "-o", "json"]);
    let value: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &value["version"]), (0, &version.into()));
}

#[test]
fn gwctl_says_its_own_version_also_where_no_control_plane_answers() {
    let nobody = refused();
    let endpoint = format!("http://{nobody}");
    let (code, stdout, stderr) = run(&["version", "--endpoint", &endpoint]);
    assert_eq!(stdout, format!("gwctl {}\n", env!("CARGO_PKG_VERSION")));
    assert!(
        code != 0 && stderr.starts_with("error: ") && stderr.contains(&nobody.to_string()),
        "{code} {stderr}"
    );
}
