//! Whoever reads a process's logs may stall or go away: it is no concern of those whom the process serves.

use std::{
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, Command, Stdio},
};

use gateway_proto::v1::{Endpoint, RegisterRequest, registry_service_client::RegistryServiceClient};
use gateway_tests::{Place, binaries, eventually};
use serde_json::Value;
use tonic::transport::Channel;

/// Where a program's log is in this file, all of it and to the byte.
pub(crate) fn into_file(path: &Path) -> Place {
    Place::loopback().behind_line(&format!("exec 2> '{}'", path.display()))
}

/// A control plane whose logs are the test's to read, and a client of it.
struct Logged {
    child: Child,
    registry: RegistryServiceClient<Channel>,
}

impl Logged {
    async fn start(mut command: Command) -> Self {
        command.args(["--listen", "127.0.0.1:0", "--store", "memory:"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap();
        let url = format!("http://{}", ready["listen"].as_str().unwrap());
        Self { child, registry: RegistryServiceClient::connect(url).await.unwrap() }
    }

    /// Has the process log a line for each of so many registrations.
    async fn register(&mut self, ports: std::ops::Range<u16>) {
        for port in ports {
            let request = RegisterRequest {
                service: "orders".into(),
                endpoint: Some(Endpoint {
                    address: format!("10.0.1.1:{}", 20_000 + port),
                    ..Default::default()
                }),
                permanent: true,
                ..Default::default()
            };
            self.registry.register(request).await.unwrap();
        }
    }
}

impl Drop for Logged {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn a_log_that_nobody_reads_stops_nothing() {
    let mut logged = Logged::start(binaries::control_plane()).await;
    // Some 200 bytes each: more than a pipe holds.
    logged.register(1..1000).await;
    let mut begin = [0; 4096];
    logged.child.stderr.take().unwrap().read_exact(&mut begin).unwrap();
    assert!(String::from_utf8_lossy(&begin).contains("REPLICA_REGISTERED"));
}

#[tokio::test]
async fn a_reader_of_the_log_that_goes_away_ends_nothing() {
    let mut logged = Logged::start(binaries::control_plane()).await;
    drop(logged.child.stderr.take());
    logged.register(1..100).await;
    assert!(logged.child.try_wait().unwrap().is_none());
}

#[tokio::test]
async fn a_last_word_is_written_before_the_process_ends() {
    let mut logged = Logged::start(binaries::control_plane()).await;
    let pid = logged.child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let mut log = String::new();
    logged.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert!(log.contains("draining; a second signal ends at once"), "{log}");
    eventually("it ends", async || logged.child.try_wait().unwrap().ok_or("it runs".to_owned())).await;
}
