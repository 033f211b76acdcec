//! A scripted control plane on a free port: canned answers, and the requests it saw.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use gateway_proto::{
    reason,
    v1::{
        self,
        observability_service_server::{ObservabilityService, ObservabilityServiceServer},
        registry_service_server::{RegistryService, RegistryServiceServer},
    },
};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Code, Request, Response, Status, Streaming, transport::Server};
use tonic_types::{ErrorDetails, StatusExt as _};

/// What it answers, and what it was asked.
#[derive(Debug, Default)]
pub(crate) struct Script {
    pub(crate) services: Vec<v1::Service>,
    /// Served two on a page.
    pub(crate) replicas: Vec<v1::Replica>,
    pub(crate) breakers: Vec<v1::Breaker>,
    pub(crate) events: Vec<v1::Event>,
    pub(crate) deregistered: Vec<v1::DeregisterRequest>,
    pub(crate) registered: Vec<v1::RegisterRequest>,
    /// Answers every heartbeat with this code when it is set.
    pub(crate) refuse_heartbeats: Option<Code>,
    pub(crate) heartbeats: usize,
}

/// Shared with the running server.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fake(Arc<Mutex<Script>>);

impl Fake {
    /// Serves `script` until the test's runtime ends.
    pub(crate) async fn start(script: Script) -> (Self, SocketAddr) {
        let fake = Self(Arc::new(Mutex::new(script)));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server::builder()
            .add_service(RegistryServiceServer::new(fake.clone()))
            .add_service(ObservabilityServiceServer::new(fake.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        (fake, address)
    }

    /// Looks at the script or changes it.
    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut Script) -> T) -> T {
        act(&mut self.0.lock().unwrap())
    }
}

fn refusal(code: Code, why: &str, details: ErrorDetails) -> Status {
    Status::with_error_details(code, why, details)
}

#[tonic::async_trait]
impl RegistryService for Fake {
    type KeepAliveStream = ReceiverStream<Result<v1::KeepAliveResponse, Status>>;
    type WatchDrainStream = ReceiverStream<Result<v1::WatchDrainResponse, Status>>;
    type WatchReplicasStream = ReceiverStream<Result<v1::WatchReplicasResponse, Status>>;

    async fn keep_alive(
        &self,
        _: Request<Streaming<v1::KeepAliveRequest>>,
    ) -> Result<Response<Self::KeepAliveStream>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn drain_replica(
        &self,
        _: Request<v1::DrainReplicaRequest>,
    ) -> Result<Response<v1::DrainReplicaResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn watch_drain(
        &self,
        _: Request<v1::WatchDrainRequest>,
    ) -> Result<Response<Self::WatchDrainStream>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn undrain_replica(
        &self,
        _: Request<v1::UndrainReplicaRequest>,
    ) -> Result<Response<v1::UndrainReplicaResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn release_guard(
        &self,
        _: Request<v1::ReleaseGuardRequest>,
    ) -> Result<Response<v1::ReleaseGuardResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn watch_replicas(
        &self,
        _: Request<v1::WatchReplicasRequest>,
    ) -> Result<Response<Self::WatchReplicasStream>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn register(
        &self,
        request: Request<v1::RegisterRequest>,
    ) -> Result<Response<v1::RegisterResponse>, Status> {
        let request = request.into_inner();
        if request.weight > 1000 {
            let mut details = ErrorDetails::with_bad_request_violation("weight", "2000 is not in 1..=1000");
            details.set_error_info(reason::INVALID_FIELD, reason::DOMAIN, HashMap::new());
            return Err(refusal(Code::InvalidArgument, "bad weight", details));
        }
        let replica = v1::Replica {
            service: request.service.clone(),
            replica_id: request.replica_id.clone(),
            ..Default::default()
        };
        let created = self.with(|script| {
            script.registered.push(request);
            script.registered.len() == 1
        });
        Ok(Response::new(v1::RegisterResponse {
            replica: Some(replica),
            lease_id: format!("{:032x}", 7),
            heartbeat_interval: Some(gateway_proto::time::duration(std::time::Duration::from_millis(10))),
            created,
            rollout: None,
        }))
    }

    async fn deregister(
        &self,
        request: Request<v1::DeregisterRequest>,
    ) -> Result<Response<v1::DeregisterResponse>, Status> {
        self.with(|script| script.deregistered.push(request.into_inner()));
        Ok(Response::new(v1::DeregisterResponse { removed: true, revision: 9 }))
    }

    async fn heartbeat(
        &self,
        _: Request<v1::HeartbeatRequest>,
    ) -> Result<Response<v1::HeartbeatResponse>, Status> {
        let refused = self.with(|script| {
            script.heartbeats += 1;
            script.refuse_heartbeats.take()
        });
        match refused {
            Some(code) => Err(Status::new(code, "scripted")),
            None => Ok(Response::new(v1::HeartbeatResponse::default())),
        }
    }

    async fn report_health(
        &self,
        _: Request<v1::ReportHealthRequest>,
    ) -> Result<Response<v1::ReportHealthResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn list_services(
        &self,
        _: Request<v1::ListServicesRequest>,
    ) -> Result<Response<v1::ListServicesResponse>, Status> {
        let services = self.with(|script| script.services.clone());
        Ok(Response::new(v1::ListServicesResponse { services, ..Default::default() }))
    }

    async fn get_service(
        &self,
        _: Request<v1::GetServiceRequest>,
    ) -> Result<Response<v1::GetServiceResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn list_replicas(
        &self,
        request: Request<v1::ListReplicasRequest>,
    ) -> Result<Response<v1::ListReplicasResponse>, Status> {
        let request = request.into_inner();
        let all = self.with(|script| script.replicas.clone());
        let fitting: Vec<_> =
            all.into_iter().filter(|r| request.service == "-" || r.service == request.service).collect();
        if fitting.is_empty() && request.service != "-" {
            let details =
                ErrorDetails::with_error_info(reason::SERVICE_NOT_FOUND, reason::DOMAIN, HashMap::new());
            return Err(refusal(Code::NotFound, "no such service", details));
        }
        let from: usize = request.page_token.parse().unwrap_or(0);
        let next = from + 2;
        Ok(Response::new(v1::ListReplicasResponse {
            replicas: fitting.iter().skip(from).take(2).cloned().collect(),
            next_page_token: if next < fitting.len() { next.to_string() } else { String::new() },
            revision: i64::try_from(next).unwrap(),
        }))
    }

    async fn get_replica(
        &self,
        _: Request<v1::GetReplicaRequest>,
    ) -> Result<Response<v1::GetReplicaResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }
}

#[tonic::async_trait]
impl ObservabilityService for Fake {
    type ReportNodeStatusStream = ReceiverStream<Result<v1::ReportNodeStatusResponse, Status>>;
    type WatchEventsStream = ReceiverStream<Result<v1::WatchEventsResponse, Status>>;
    type WatchBreakersStream = ReceiverStream<Result<v1::WatchBreakersResponse, Status>>;
    type WatchStatsStream = ReceiverStream<Result<v1::WatchStatsResponse, Status>>;

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

    async fn watch_stats(
        &self,
        _: Request<v1::WatchStatsRequest>,
    ) -> Result<Response<Self::WatchStatsStream>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn report_node_status(
        &self,
        _: Request<Streaming<v1::ReportNodeStatusRequest>>,
    ) -> Result<Response<Self::ReportNodeStatusStream>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn list_breakers(
        &self,
        _: Request<v1::ListBreakersRequest>,
    ) -> Result<Response<v1::ListBreakersResponse>, Status> {
        let breakers = self.with(|script| script.breakers.clone());
        Ok(Response::new(v1::ListBreakersResponse { breakers, ..Default::default() }))
    }

    async fn list_nodes(
        &self,
        _: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesResponse>, Status> {
        // Never answers: for tests of deadlines.
        std::future::pending().await
    }

    async fn list_events(
        &self,
        request: Request<v1::ListEventsRequest>,
    ) -> Result<Response<v1::ListEventsResponse>, Status> {
        let request = request.into_inner();
        let size = usize::try_from(request.page_size).unwrap();
        let from: usize = request.page_token.parse().unwrap_or(0);
        let events = self.with(|script| script.events.clone());
        let next = from + size;
        Ok(Response::new(v1::ListEventsResponse {
            next_page_token: if next < events.len() { next.to_string() } else { String::new() },
            events: events.into_iter().skip(from).take(size).collect(),
        }))
    }

    async fn watch_events(
        &self,
        _: Request<v1::WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        Err(Status::permission_denied("not for you"))
    }
}
