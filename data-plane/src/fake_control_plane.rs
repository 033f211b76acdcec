//! A control plane whose every answer is written by the test: it hands each stream over and does nothing by itself.

use std::{net::SocketAddr, pin::Pin};

use gateway_proto::v1::{
    self,
    discovery_service_server::{DiscoveryService, DiscoveryServiceServer},
    stream_snapshots_request::Message,
};
use tokio::{net::TcpListener, sync::mpsc, task::AbortHandle};
use tokio_stream::{
    Stream,
    wrappers::{ReceiverStream, TcpListenerStream},
};
use tonic::{Request, Response, Status, Streaming, transport::Server};

/// A server on a port of its own; it ends with this value.
pub(crate) struct FakeControlPlane {
    pub(crate) address: SocketAddr,
    snapshots: mpsc::Receiver<SnapshotStream>,
    server: AbortHandle,
}

impl FakeControlPlane {
    pub(crate) async fn start() -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap()).await
    }

    /// Starts at an address that an earlier one had.
    pub(crate) async fn start_at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, snapshots) = mpsc::channel(16);
        let server = Server::builder()
            .add_service(DiscoveryServiceServer::new(Handler { snapshots: sender }))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let server = tokio::spawn(server).abort_handle();
        Self { address, snapshots, server }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The next snapshot stream that a data plane opens, its hello read.
    pub(crate) async fn snapshot_stream(&mut self) -> SnapshotStream {
        self.snapshots.recv().await.expect("the server lives as long as this value")
    }
}

impl Drop for FakeControlPlane {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// The server's end of one snapshot stream; dropping it ends the stream.
pub(crate) struct SnapshotStream {
    pub(crate) hello: v1::Hello,
    requests: Streaming<v1::StreamSnapshotsRequest>,
    responses: mpsc::Sender<Result<v1::StreamSnapshotsResponse, Status>>,
}

impl SnapshotStream {
    /// Sends a response.
    pub(crate) async fn push(&mut self, response: v1::StreamSnapshotsResponse) {
        self.responses.send(Ok(response)).await.expect("the data plane is there");
    }

    /// Sends a response and yields its answer.
    pub(crate) async fn send(&mut self, response: v1::StreamSnapshotsResponse) -> v1::Ack {
        self.push(response).await;
        match self.requests.message().await.unwrap().and_then(|request| request.message) {
            Some(Message::Ack(ack)) => ack,
            other => panic!("an ack was due: {other:?}"),
        }
    }

    /// Completes when the data plane has ended the stream.
    pub(crate) async fn ended(mut self) {
        while let Ok(Some(_)) = self.requests.message().await {}
    }
}

struct Handler {
    snapshots: mpsc::Sender<SnapshotStream>,
}

#[tonic::async_trait]
impl DiscoveryService for Handler {
    type StreamSnapshotsStream =
        Pin<Box<dyn Stream<Item = Result<v1::StreamSnapshotsResponse, Status>> + Send>>;

    async fn stream_snapshots(
        &self,
        request: Request<Streaming<v1::StreamSnapshotsRequest>>,
    ) -> Result<Response<Self::StreamSnapshotsStream>, Status> {
        let mut requests = request.into_inner();
        let Some(Message::Hello(hello)) = requests.message().await?.and_then(|request| request.message)
        else {
            return Err(Status::invalid_argument("a hello was due"));
        };
        let (responses, stream) = mpsc::channel(1);
        let _ = self.snapshots.send(SnapshotStream { hello, requests, responses }).await;
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}
