//! Both planes under a service manager such as systemd: what they tell it, and the sockets that it passes.

use std::{
    net::{SocketAddr, TcpListener},
    os::{fd::OwnedFd, unix::net::UnixDatagram},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use gateway_tests::{Act, Process, Scripted, binaries, eventually, http1};
use serde_json::Value;

/// Long enough for any message, and never waited for when all is well.
const PATIENCE: Duration = Duration::from_secs(30);

/// Hears what a process tells its service manager.
struct Manager(UnixDatagram);

impl Manager {
    fn listen(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket)
    }

    /// The next message that says more than that the process lives.
    fn hear(&self) -> String {
        let mut bytes = [0; 4096];
        loop {
            let count = self.0.recv(&mut bytes).expect("the process tells something");
            let said = String::from_utf8_lossy(&bytes[..count]).into_owned();
            if said != "WATCHDOG=1\n" {
                return said;
            }
        }
    }

    /// Waits for a sign of life.
    fn hear_life(&self) {
        let mut bytes = [0; 4096];
        loop {
            let count = self.0.recv(&mut bytes).expect("the process shows that it lives");
            if bytes[..count] == *b"WATCHDOG=1\n" {
                return;
            }
        }
    }
}

fn control_plane(folder: &Path) -> Command {
    let mut command = binaries::control_plane();
    let store = format!("redb:{}", folder.join("registry.redb").display());
    command.args(["--listen", "127.0.0.1:0", "--store", &store]);
    command
}

fn data_plane(folder: &Path, replica: SocketAddr) -> Command {
    let services = folder.join("services.toml");
    let text = format!("[[service]]\nname = \"orders\"\nreplicas = [\"{replica}\"]\n");
    std::fs::write(&services, text).unwrap();
    let mut command = binaries::data_plane();
    command.args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--static"]).arg(services);
    command.arg("--access-log").arg(folder.join("access.log"));
    command
}

#[tokio::test]
async fn a_service_manager_is_told_of_the_start_of_life_of_reloads_and_of_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let replica = Scripted::start(|_, _| Act::ok(b"hello"));
    let planes = [
        ("control-plane", control_plane(folder.path())),
        ("data-plane", data_plane(folder.path(), replica.address())),
    ];
    for (name, mut command) in planes {
        let socket = folder.path().join(name);
        let manager = Manager::listen(&socket);
        // Signs of life are due every 200 ms.
        command.env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "200000");
        let mut process = Process::spawn(name, &mut command);
        let ready = process.ready().await;
        let serving = format!("READY=1\nSTATUS=serving at {}\n", ready["listen"].as_str().unwrap());
        assert_eq!(manager.hear(), serving, "{name}");
        (0..3).for_each(|_| manager.hear_life());
        if name == "data-plane" {
            process.hang_up();
            let said = manager.hear();
            let since =
                said.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").and_then(|rest| rest.strip_suffix('\n'));
            assert!(since.is_some_and(|since| since.parse::<u64>().is_ok()), "{said}");
            assert_eq!(manager.hear(), "READY=1\n");
        }
        process.terminate();
        assert_eq!(manager.hear(), "STOPPING=1\nSTATUS=finishing what is in flight\n", "{name}");
        assert!(process.exited().await.success(), "{name}");
    }
}

/// Who rotates logs sends it to whatever runs.
#[tokio::test]
async fn a_hang_up_ends_no_control_plane() {
    let folder = tempfile::tempdir().unwrap();
    let mut process = Process::spawn("control-plane", &mut control_plane(folder.path()));
    process.ready().await;
    process.hang_up();
    process.terminate();
    assert_eq!(process.exited().await.code(), Some(0), "it ends by what ends it");
}

/// Starts a program with a socket that somebody else has bound, under this name.
pub(crate) fn passed(name: &str, program: &Command, socket: &TcpListener, socket_name: &str) -> Process {
    let mut command = Command::new("bash");
    // The socket comes as stdin, and is to be the descriptor 3 of the process with this number.
    command.args(["-c", "exec 3<&0 </dev/null; LISTEN_PID=$$ exec \"$0\" \"$@\""]);
    command.arg(program.get_program()).args(program.get_args());
    command.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", socket_name);
    let socket = OwnedFd::from(socket.try_clone().unwrap());
    Process::spawn_reading(name, &mut command, Stdio::from(socket))
}

#[tokio::test]
async fn clients_that_come_while_a_process_is_started_anew_wait_in_the_queue_of_its_socket() {
    let folder = tempfile::tempdir().unwrap();
    let replica = Scripted::start(|_, _| Act::ok(b"hello"));
    let planes = [
        ("control-plane", control_plane(folder.path()), "gw-control-plane.socket", "/livez"),
        ("data-plane", data_plane(folder.path(), replica.address()), "http", "/orders/x"),
    ];
    for (name, program, socket_name, path) in planes {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        // Nobody serves yet.
        let early = tokio::spawn(async move { http1::get(address, path).await.status() });
        for _ in 0..2 {
            let mut process = passed(name, &program, &socket, socket_name);
            let ready: Value = process.ready().await;
            assert_eq!(ready["listen"], address.to_string(), "{name}");
            assert_eq!(http1::get(address, path).await.status(), 200, "{name}");
            process.terminate();
            assert!(process.exited().await.success(), "{name}: {}", process.stderr());
        }
        assert_eq!(early.await.unwrap(), 200, "{name}");
    }
}

#[tokio::test]
async fn a_socket_that_is_for_nothing_is_refused_with_the_names_that_are() {
    let folder = tempfile::tempdir().unwrap();
    let program = data_plane(folder.path(), ([127, 0, 0, 1], 1).into());
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    for name in ["grpc", "https"] {
        let mut process = passed("data-plane", &program, &socket, name);
        assert_eq!(process.exited().await.code(), Some(2));
        let wanted = format!(
            "named \"{name}\": FileDescriptorName= of its unit is http, admin, or with --tls-listen https"
        );
        eventually("the refusal names them", async || {
            let said = process.stderr();
            if said.contains(&wanted) { Ok(()) } else { Err(said) }
        })
        .await;
    }
}

#[tokio::test]
async fn a_socket_that_was_passed_is_open_to_no_more_than_one_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    for everywhere in ["0.0.0.0:0", "[::]:0"] {
        let socket = TcpListener::bind(everywhere).unwrap();
        let program = control_plane(folder.path());
        let mut process = passed("control-plane", &program, &socket, "gw-control-plane.socket");
        assert_eq!(process.exited().await.code(), Some(2), "{everywhere}: {}", process.stderr());
        let said = process.stderr();
        assert!(said.contains("LISTEN_FDS: ") && said.contains("--insecure"), "{said}");
    }
}
