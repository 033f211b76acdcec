//! The two planes as processes: start, SIGKILL, restart at the same addresses.

use std::{net::SocketAddr, path::Path, process::Command};

use gateway_proto::v1::{
    observability_service_client::ObservabilityServiceClient, policy_service_client::PolicyServiceClient,
    registry_service_client::RegistryServiceClient, route_service_client::RouteServiceClient,
};
use serde_json::Value;
use tonic::transport::{Channel, Endpoint};

use crate::{Process, binaries, eventually, http1};

/// A control plane.
#[derive(Debug)]
pub struct ControlPlane {
    process: Process,
    store: String,
    listen: SocketAddr,
    flags: Vec<String>,
}

impl ControlPlane {
    /// Starts one on a free port.
    pub async fn start(store: &Path) -> Self {
        Self::start_with(store, &[]).await
    }

    /// Starts one with further flags.
    pub async fn start_with(store: &Path, flags: &[&str]) -> Self {
        Self::start_on(format!("redb:{}", store.display()), flags).await
    }

    /// Starts one on any store, as `--store` names it.
    pub async fn start_on(store: String, flags: &[&str]) -> Self {
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let (process, listen) = Self::spawn(&store, "127.0.0.1:0", &flags).await;
        Self { process, store, listen, flags }
    }

    /// Starts one at this address with further flags, so that others can be told of it before it is there.
    pub async fn start_at(listen: SocketAddr, store: &Path, flags: &[&str]) -> Self {
        let store = format!("redb:{}", store.display());
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let (process, listen) = Self::spawn(&store, &listen.to_string(), &flags).await;
        Self { process, store, listen, flags }
    }

    /// Starts one behind a line of bash, such as one that limits what it may use.
    pub async fn start_under(line: &str, store: &Path) -> Self {
        let store = format!("redb:{}", store.display());
        let command = under(line, &binaries::control_plane());
        let (process, listen) = Self::ready(command, &store, "127.0.0.1:0", &[]).await;
        Self { process, store, listen, flags: Vec::new() }
    }

    /// Starts it again, at the same address and on the same store, after it has been killed.
    pub async fn restart(&mut self) {
        self.process.kill();
        (self.process, self.listen) = Self::spawn(&self.store, &self.listen.to_string(), &self.flags).await;
    }

    async fn spawn(store: &str, listen: &str, flags: &[String]) -> (Process, SocketAddr) {
        Self::ready(binaries::control_plane(), store, listen, flags).await
    }

    async fn ready(
        mut command: Command,
        store: &str,
        listen: &str,
        flags: &[String],
    ) -> (Process, SocketAddr) {
        command.args(["--listen", listen, "--store", store]).args(flags);
        let mut process = Process::spawn("control-plane", &mut command);
        let ready = process.ready().await;
        (process, address(&ready, "listen"))
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Where it serves gRPC and HTTP.
    pub fn address(&self) -> SocketAddr {
        self.listen
    }

    /// The same, as `--endpoint` and `--control-plane` take it.
    pub fn url(&self) -> String {
        format!("http://{}", self.listen)
    }

    /// A client that connects when needed, also after restarts.
    pub fn registry(&self) -> RegistryServiceClient<Channel> {
        RegistryServiceClient::new(self.channel())
    }

    /// A client that connects when needed, also after restarts.
    pub fn policies(&self) -> PolicyServiceClient<Channel> {
        PolicyServiceClient::new(self.channel())
    }

    /// A client that connects when needed, also after restarts.
    pub fn routes(&self) -> RouteServiceClient<Channel> {
        RouteServiceClient::new(self.channel())
    }

    /// A client that connects when needed, also after restarts.
    pub fn observability(&self) -> ObservabilityServiceClient<Channel> {
        ObservabilityServiceClient::new(self.channel())
    }

    fn channel(&self) -> Channel {
        Endpoint::from_shared(self.url()).expect("an address makes a URL").connect_lazy()
    }
}

/// A program that is started by a shell, behind this line of it.
fn under(line: &str, program: &Command) -> Command {
    let mut command = Command::new("bash");
    command.args(["-c", &format!("{line}; exec \"$0\" \"$@\"")]).arg(program.get_program());
    command
}

/// A data plane.
#[derive(Debug)]
pub struct DataPlane {
    process: Process,
    args: Vec<String>,
    listen: SocketAddr,
    admin: SocketAddr,
    secure: Option<SocketAddr>,
}

impl DataPlane {
    /// Starts one on free ports.
    pub async fn start(args: &[&str]) -> Self {
        Self::start_as(binaries::data_plane(), args).await
    }

    /// Starts one behind this line of a shell.
    pub async fn start_under(line: &str, args: &[&str]) -> Self {
        Self::start_as(under(line, &binaries::data_plane()), args).await
    }

    async fn start_as(command: Command, args: &[&str]) -> Self {
        let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
        let (process, ready) = Self::spawn(command, &args, "127.0.0.1:0", "127.0.0.1:0").await;
        let secure = ready.get("tls").map(|_| address(&ready, "tls"));
        Self { process, args, listen: address(&ready, "listen"), admin: address(&ready, "admin"), secure }
    }

    /// Starts one that follows a control plane and keeps its snapshot in `cache`.
    pub async fn following(control_plane: &ControlPlane, node_id: &str, cache: &Path) -> Self {
        let cache = cache.display().to_string();
        Self::start(&[
            "--control-plane",
            &control_plane.url(),
            "--node-id",
            node_id,
            "--cache-dir",
            &cache,
            "--debug-headers",
        ])
        .await
    }

    /// Starts it again at the same addresses, after it has been killed.
    pub async fn restart(&mut self) {
        self.process.kill();
        let (listen, admin) = (self.listen.to_string(), self.admin.to_string());
        (self.process, ..) = Self::spawn(binaries::data_plane(), &self.args, &listen, &admin).await;
    }

    async fn spawn(mut command: Command, args: &[String], listen: &str, admin: &str) -> (Process, Value) {
        command.args(["--listen", listen, "--admin-listen", admin]).args(args);
        let mut process = Process::spawn("data-plane", &mut command);
        let ready = process.ready().await;
        (process, ready)
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.listen
    }

    /// Where clients connect with TLS, if they can.
    pub fn secure(&self) -> Option<SocketAddr> {
        self.secure
    }

    /// Where its state is served.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Waits until requests to `service` are answered with something else than 404.
    pub async fn routes(&self, service: &str) {
        eventually(&format!("the data plane routes to {service}"), async || {
            let status = http1::get(self.listen, &format!("/{service}/hello")).await.status();
            if status == 404 { Err(status.to_string()) } else { Ok(()) }
        })
        .await;
    }
}

/// An address in a ready line.
fn address(ready: &Value, field: &str) -> SocketAddr {
    let text = ready[field].as_str().unwrap_or_else(|| panic!("no {field} in {ready}"));
    text.parse().unwrap_or_else(|_| panic!("{field} is no address in {ready}"))
}
