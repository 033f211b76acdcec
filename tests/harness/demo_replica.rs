//! A replica of the demo service as a process of its own, so that it can really be killed.

use std::net::SocketAddr;

use serde_json::Value;

use crate::{Process, binaries, http1};

/// A running demo replica.
#[derive(Debug)]
pub struct DemoReplica {
    process: Process,
    args: Vec<String>,
    address: SocketAddr,
}

impl DemoReplica {
    /// Starts one that registers with nobody.
    pub async fn start(id: &str) -> Self {
        Self::spawn(vec!["--id".into(), id.into()], "127.0.0.1:0").await
    }

    /// Starts one that keeps a lease with the control plane at `endpoint`.
    pub async fn registering(service: &str, id: &str, endpoint: &str, ttl: &str) -> Self {
        let args = ["--service", service, "--id", id, "--ttl", ttl, "--endpoint", endpoint];
        Self::spawn(args.map(str::to_owned).into(), "127.0.0.1:0").await
    }

    async fn spawn(args: Vec<String>, listen: &str) -> Self {
        let mut command = binaries::gwctl();
        command.args(["demo-replica", "--listen", listen]).args(&args);
        let mut process = Process::spawn("replica", &mut command);
        let ready = process.ready().await;
        let address = ready["listen"].as_str().and_then(|text| text.parse().ok());
        Self { process, args, address: address.unwrap_or_else(|| panic!("no listen in {ready}")) }
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again at the same address, after it has been killed; it counts from zero.
    pub async fn restart(&mut self) {
        self.process.kill();
        *self = Self::spawn(std::mem::take(&mut self.args), &self.address.to_string()).await;
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Requests it has been sent since it started.
    pub async fn request_count(&self) -> u64 {
        let answer = http1::get(self.address, "/stats").await;
        let stats: Value = serde_json::from_slice(answer.body()).expect("/stats is JSON");
        stats["total"].as_u64().unwrap_or_else(|| panic!("no total in {stats}"))
    }
}
