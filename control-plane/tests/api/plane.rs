//! A control plane for one test, and what tests say to it.

use std::{net::SocketAddr, time::Duration};

use control_plane::{
    Config, Running,
    store::{Store, StoreLocation},
};
use gateway_proto::v1::{
    self, discovery_service_client::DiscoveryServiceClient,
    observability_service_client::ObservabilityServiceClient, policy_service_client::PolicyServiceClient,
    registry_service_client::RegistryServiceClient, route_service_client::RouteServiceClient,
    store_service_client::StoreServiceClient,
};
use gateway_runtime::Shutdown;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt;

/// Nothing in these tests takes this long unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Plane {
    pub(crate) running: Running,
    pub(crate) shutdown: Shutdown,
    pub(crate) channel: Channel,
}

impl Plane {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let listen = Some("127.0.0.1:0".parse().unwrap());
        let mut config = Config { listen, store: StoreLocation::Memory, ..Config::default() };
        change(&mut config);
        let shutdown = Shutdown::new();
        let running = control_plane::start(config, shutdown.clone()).await.unwrap();
        Self::reach(running, shutdown).await
    }

    /// On a store of the test's own.
    pub(crate) async fn start_on(store: impl Store) -> Self {
        Self::start_on_with(store, |_| {}).await
    }

    pub(crate) async fn start_on_with(store: impl Store, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config { listen: Some("127.0.0.1:0".parse().unwrap()), ..Config::default() };
        change(&mut config);
        let shutdown = Shutdown::new();
        let running = control_plane::start_on(store, config, shutdown.clone()).await.unwrap();
        Self::reach(running, shutdown).await
    }

    async fn reach(running: Running, shutdown: Shutdown) -> Self {
        let endpoint = Channel::from_shared(format!("http://{}", running.listen().unwrap())).unwrap();
        let channel = endpoint.connect().await.unwrap();
        Self { running, shutdown, channel }
    }

    /// Where it listens for TCP.
    pub(crate) fn listen(&self) -> SocketAddr {
        self.running.listen().unwrap()
    }

    pub(crate) async fn stop(self) {
        self.shutdown.begin();
        tokio::time::timeout(PATIENCE, self.running.finished()).await.unwrap().unwrap();
    }

    /// A connection of one's own.
    pub(crate) async fn connect(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.listen())).unwrap().connect().await.unwrap()
    }

    pub(crate) fn registry(&self) -> RegistryServiceClient<Channel> {
        RegistryServiceClient::new(self.channel.clone())
    }

    pub(crate) fn discovery(&self) -> DiscoveryServiceClient<Channel> {
        DiscoveryServiceClient::new(self.channel.clone())
    }

    pub(crate) fn routes(&self) -> RouteServiceClient<Channel> {
        RouteServiceClient::new(self.channel.clone())
    }

    pub(crate) fn policies(&self) -> PolicyServiceClient<Channel> {
        PolicyServiceClient::new(self.channel.clone())
    }

    pub(crate) fn observability(&self) -> ObservabilityServiceClient<Channel> {
        ObservabilityServiceClient::new(self.channel.clone())
    }

    pub(crate) fn stores(&self) -> StoreServiceClient<Channel> {
        StoreServiceClient::new(self.channel.clone())
    }

    pub(crate) async fn register(&self, request: v1::RegisterRequest) -> v1::RegisterResponse {
        self.registry().register(request).await.unwrap().into_inner()
    }

    /// Sends a request as it is and reads until the server closes; yields status, head and body.
    pub(crate) async fn http(&self, request: &str) -> (u16, String, String) {
        let mut stream = TcpStream::connect(self.listen()).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head.to_ascii_lowercase(), body.to_owned())
    }

    /// Sends a JSON body.
    pub(crate) async fn http_json(&self, method: &str, path: &str, body: &str) -> (u16, String, String) {
        let length = body.len();
        self.http(&format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        ))
        .await
    }
}

pub(crate) fn request(service: &str, address: &str) -> v1::RegisterRequest {
    v1::RegisterRequest {
        service: service.into(),
        endpoint: Some(v1::Endpoint { address: address.into(), ..Default::default() }),
        ..Default::default()
    }
}

pub(crate) fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

/// The code, the machine-readable reason and the first field at fault, `""` without one.
pub(crate) fn explain(status: &Status) -> (tonic::Code, String, String) {
    let details = status.get_error_details();
    let reason = details.error_info().map(|info| info.reason.clone()).unwrap_or_default();
    let field = details.bad_request().and_then(|bad| bad.field_violations.first());
    (status.code(), reason, field.map(|violation| violation.field.clone()).unwrap_or_default())
}

/// Asks until the answer is there.
pub(crate) async fn eventually<T>(mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.expect("the condition comes about")
}
