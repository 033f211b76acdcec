//! The two planes as processes: start, SIGKILL, restart at the same addresses.

use std::{net::SocketAddr, path::Path};

use gateway_proto::v1::{
    observability_service_client::ObservabilityServiceClient, policy_service_client::PolicyServiceClient,
    registry_service_client::RegistryServiceClient, route_service_client::RouteServiceClient,
    store_service_client::StoreServiceClient,
};
use serde_json::Value;
use tonic::transport::{Channel, Endpoint};

use crate::{Place, Process, binaries, eventually, http1};

/// A control plane.
#[derive(Debug)]
pub struct ControlPlane {
    process: Process,
    place: Place,
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
        Self::start_in(Place::loopback(), store, flags).await
    }

    /// Starts one at this address with further flags, so that others can be told of it before it is there.
    pub async fn start_at(listen: SocketAddr, store: &Path, flags: &[&str]) -> Self {
        Self::spawn(Place::loopback(), format!("redb:{}", store.display()), listen, owned(flags)).await
    }

    /// Starts one behind a line of bash, such as one that limits what it may use.
    pub async fn start_under(line: &str, store: &Path) -> Self {
        let place = Place::loopback().behind_line(line);
        Self::start_in(place, format!("redb:{}", store.display()), &[]).await
    }

    /// Starts one on a free port of a place.
    pub async fn start_in(place: Place, store: String, flags: &[&str]) -> Self {
        let listen = SocketAddr::new(place.host(), 0);
        Self::spawn(place, store, listen, owned(flags)).await
    }

    /// Starts it again, at the same address and on the same store, after it has been killed.
    pub async fn restart(&mut self) {
        self.process.kill();
        let (place, store, flags) = (self.place.clone(), self.store.clone(), self.flags.clone());
        *self = Self::spawn(place, store, self.listen, flags).await;
    }

    /// Kills it, and starts one on another store at the same address.
    pub async fn restart_on(&mut self, store: String) {
        self.store = store;
        self.restart().await;
    }

    /// Ends it in good order, and starts it again with the same store at the same address.
    ///
    /// # Panics
    /// When it does not exit with 0.
    pub async fn restart_gently(&mut self) {
        self.process.terminate();
        assert!(self.process.exited().await.success(), "{}", self.process.stderr());
        self.restart().await;
    }

    async fn spawn(place: Place, store: String, listen: SocketAddr, flags: Vec<String>) -> Self {
        let mut command = place.command(&binaries::control_plane());
        command.args(["--listen", &listen.to_string(), "--store", &store]).args(&flags);
        let mut process = Process::spawn("control-plane", &mut command);
        let ready = process.ready().await;
        Self { process, place, store, listen: address(&ready, "listen"), flags }
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

    /// A client that connects when needed, also after restarts.
    pub fn stores(&self) -> StoreServiceClient<Channel> {
        StoreServiceClient::new(self.channel())
    }

    fn channel(&self) -> Channel {
        Endpoint::from_shared(self.url()).expect("an address makes a URL").connect_lazy()
    }
}

fn owned(flags: &[&str]) -> Vec<String> {
    flags.iter().map(|flag| (*flag).to_owned()).collect()
}

/// A data plane.
#[derive(Debug)]
pub struct DataPlane {
    process: Process,
    place: Place,
    args: Vec<String>,
    listen: SocketAddr,
    admin: SocketAddr,
    secure: Option<SocketAddr>,
}

impl DataPlane {
    /// Starts one on free ports.
    pub async fn start(args: &[&str]) -> Self {
        Self::start_in(Place::loopback(), args).await
    }

    /// Starts one behind this line of a shell.
    pub async fn start_under(line: &str, args: &[&str]) -> Self {
        Self::start_in(Place::loopback().behind_line(line), args).await
    }

    /// Starts one on free ports of a place.
    pub async fn start_in(place: Place, args: &[&str]) -> Self {
        let free = SocketAddr::new(place.host(), 0);
        Self::spawn(place, owned(args), free, free).await
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
        let (place, args) = (self.place.clone(), self.args.clone());
        *self = Self::spawn(place, args, self.listen, self.admin).await;
    }

    async fn spawn(place: Place, args: Vec<String>, listen: SocketAddr, admin: SocketAddr) -> Self {
        let mut command = place.command(&binaries::data_plane());
        command.args(["--listen", &listen.to_string(), "--admin-listen", &admin.to_string()]).args(&args);
        let mut process = Process::spawn("data-plane", &mut command);
        let ready = process.ready().await;
        let secure = ready.get("tls").map(|_| address(&ready, "tls"));
        let (listen, admin) = (address(&ready, "listen"), address(&ready, "admin"));
        Self { process, place, args, listen, admin, secure }
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
