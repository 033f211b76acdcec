//! A control plane whose every answer is written by the test: it hands each stream over and does nothing by itself.

use std::{net::SocketAddr, pin::Pin};

use gateway_proto::v1::{
    self,
    discovery_service_server::{DiscoveryService, DiscoveryServiceServer},
    observability_service_server::{ObservabilityService, ObservabilityServiceServer},
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
    reports: mpsc::Receiver<ReportStream>,
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
        let (snapshot_sender, snapshots) = mpsc::channel(16);
        let (report_sender, reports) = mpsc::channel(16);
        let handler = Handler { snapshots: snapshot_sender, reports: report_sender };
        let server = Server::builder()
            .add_service(DiscoveryServiceServer::new(handler.clone()))
            .add_service(ObservabilityServiceServer::new(handler))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let server = tokio::spawn(server).abort_handle();
        Self { address, snapshots, reports, server }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The next snapshot stream that a data plane opens, its hello read.
    pub(crate) async fn snapshot_stream(&mut self) -> SnapshotStream {
        self.snapshots.recv().await.expect("the server lives as long as this value")
    }

    /// The next report stream that a data plane opens.
    pub(crate) async fn report_stream(&mut self) -> ReportStream {
        self.reports.recv().await.expect("the server lives as long as this value")
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

    /// The change of services that comes next.
    pub(crate) async fn subscription_change(&mut self) -> v1::SubscriptionChange {
        match self.requests.message().await.unwrap().and_then(|request| request.message) {
            Some(Message::SubscriptionChange(change)) => change,
            other => panic!("a change of services was due: {other:?}"),
        }
    }

    /// Completes when the data plane has ended the stream.
    pub(crate) async fn ended(mut self) {
        while let Ok(Some(_)) = self.requests.message().await {}
    }
}

/// The server's end of one report stream; dropping it ends the stream.
pub(crate) struct ReportStream {
    requests: Streaming<v1::ReportNodeStatusRequest>,
    responses: mpsc::Sender<Result<v1::ReportNodeStatusResponse, Status>>,
}

impl ReportStream {
    /// The next report; `None` when the data plane has ended the stream.
    pub(crate) async fn report(&mut self) -> Option<v1::ReportNodeStatusRequest> {
        self.requests.message().await.ok().flatten()
    }

    /// Says up to where events have been taken.
    pub(crate) async fn confirm(&mut self, taken_batch_number: i64) {
        let response =
            v1::ReportNodeStatusResponse { confirms_batches: true, taken_batch_number, ..Default::default() };
        self.responses.send(Ok(response)).await.expect("the data plane is there");
    }

    /// Asks for reports at another interval.
    pub(crate) async fn ask_for(&mut self, interval: prost_types::Duration) {
        self.ask(interval, false).await;
    }

    /// The same, with details or without.
    pub(crate) async fn ask(&mut self, interval: prost_types::Duration, detailed_stats: bool) {
        let response = v1::ReportNodeStatusResponse {
            report_interval: Some(interval),
            detailed_stats,
            ..Default::default()
        };
        self.responses.send(Ok(response)).await.expect("the data plane is there");
    }
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[derive(Clone)]
struct Handler {
    snapshots: mpsc::Sender<SnapshotStream>,
    reports: mpsc::Sender<ReportStream>,
}

#[tonic::async_trait]
impl DiscoveryService for Handler {
    type StreamSnapshotsStream = Responses<v1::StreamSnapshotsResponse>;

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

#[tonic::async_trait]
impl ObservabilityService for Handler {
    type ReportNodeStatusStream = Responses<v1::ReportNodeStatusResponse>;
    type WatchEventsStream = Responses<v1::WatchEventsResponse>;
    type WatchBreakersStream = Responses<v1::WatchBreakersResponse>;
    type WatchStatsStream = Responses<v1::WatchStatsResponse>;

    async fn watch_breakers(
        &self,
        _: Request<v1::WatchBreakersRequest>,
    ) -> Result<Response<Self::WatchBreakersStream>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn override_breaker(
        &self,
        _: Request<v1::OverrideBreakerRequest>,
    ) -> Result<Response<v1::OverrideBreakerResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn reset_breaker(
        &self,
        _: Request<v1::ResetBreakerRequest>,
    ) -> Result<Response<v1::ResetBreakerResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn list_overrides(
        &self,
        _: Request<v1::ListOverridesRequest>,
    ) -> Result<Response<v1::ListOverridesResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn end_override(
        &self,
        _: Request<v1::EndOverrideRequest>,
    ) -> Result<Response<v1::EndOverrideResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn explain_replica(
        &self,
        _: Request<v1::ExplainReplicaRequest>,
    ) -> Result<Response<v1::ExplainReplicaResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn what_if(&self, _: Request<v1::WhatIfRequest>) -> Result<Response<v1::WhatIfResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn explain_service(
        &self,
        _: Request<v1::ExplainServiceRequest>,
    ) -> Result<Response<v1::ExplainServiceResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn watch_stats(
        &self,
        _: Request<v1::WatchStatsRequest>,
    ) -> Result<Response<Self::WatchStatsStream>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn report_node_status(
        &self,
        request: Request<Streaming<v1::ReportNodeStatusRequest>>,
    ) -> Result<Response<Self::ReportNodeStatusStream>, Status> {
        let (responses, stream) = mpsc::channel(1);
        let _ = self.reports.send(ReportStream { requests: request.into_inner(), responses }).await;
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn list_breakers(
        &self,
        _: Request<v1::ListBreakersRequest>,
    ) -> Result<Response<v1::ListBreakersResponse>, Status> {
        Err(Status::unimplemented("data planes do not ask"))
    }

    async fn list_nodes(
        &self,
        _: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesResponse>, Status> {
        Err(Status::unimplemented("data planes do not ask"))
    }

    async fn list_events(
        &self,
        _: Request<v1::ListEventsRequest>,
    ) -> Result<Response<v1::ListEventsResponse>, Status> {
        Err(Status::unimplemented("data planes do not ask"))
    }

    async fn watch_events(
        &self,
        _: Request<v1::WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        Err(Status::unimplemented("data planes do not ask"))
    }
}
