//! `gateway.v1.RegistryService`: wire messages to checked words, and back.

mod fields;
mod lists;

use std::sync::Arc;

use gateway_proto::{
    Check, Health, Invalid, LeaseId, ReplicaKey, ServiceName,
    v1::{self, registry_service_server::RegistryService},
};
use tonic::{Request, Response, Status};

use crate::{
    edge::Edge,
    refusal::Refusal,
    registry::{Proof, Registration, Target, text_within},
};

const MAX_REASON_CHARS: usize = 256;

/// The service.
#[derive(Debug)]
pub(super) struct Registry(pub(super) Arc<Edge>);

#[tonic::async_trait]
impl RegistryService for Registry {
    type KeepAliveStream = tokio_stream::Empty<Result<v1::KeepAliveResponse, Status>>;
    type WatchDrainStream = tokio_stream::Empty<Result<v1::WatchDrainResponse, Status>>;
    type WatchReplicasStream = tokio_stream::Empty<Result<v1::WatchReplicasResponse, Status>>;

    async fn keep_alive(
        &self,
        _: Request<tonic::Streaming<v1::KeepAliveRequest>>,
    ) -> Result<Response<Self::KeepAliveStream>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn drain_replica(
        &self,
        _: Request<v1::DrainReplicaRequest>,
    ) -> Result<Response<v1::DrainReplicaResponse>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn watch_drain(
        &self,
        _: Request<v1::WatchDrainRequest>,
    ) -> Result<Response<Self::WatchDrainStream>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn undrain_replica(
        &self,
        _: Request<v1::UndrainReplicaRequest>,
    ) -> Result<Response<v1::UndrainReplicaResponse>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn release_guard(
        &self,
        _: Request<v1::ReleaseGuardRequest>,
    ) -> Result<Response<v1::ReleaseGuardResponse>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn watch_replicas(
        &self,
        _: Request<v1::WatchReplicasRequest>,
    ) -> Result<Response<Self::WatchReplicasStream>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn register(
        &self,
        request: Request<v1::RegisterRequest>,
    ) -> Result<Response<v1::RegisterResponse>, Status> {
        let request = request.into_inner();
        let validate_only = request.validate_only;
        let registration = Registration::parse(request).map_err(Refusal::from)?;
        Ok(Response::new(self.0.register(registration, validate_only).await?))
    }

    async fn deregister(
        &self,
        request: Request<v1::DeregisterRequest>,
    ) -> Result<Response<v1::DeregisterResponse>, Status> {
        let (key, proof, reason) = parse_deregister(request.into_inner()).map_err(Refusal::from)?;
        Ok(Response::new(self.0.deregister(Target::Key(key), proof, reason).await?))
    }

    async fn heartbeat(
        &self,
        request: Request<v1::HeartbeatRequest>,
    ) -> Result<Response<v1::HeartbeatResponse>, Status> {
        let request = request.into_inner();
        let mut check = Check::default();
        let key = check.take(ReplicaKey::parse(&request.service, &request.replica_id));
        let lease = check.take(LeaseId::parse(&request.lease_id));
        check.finish().map_err(Refusal::from)?;
        let (Some(key), Some(lease)) = (key, lease) else { unreachable!("nothing was refused") };
        Ok(Response::new(self.0.heartbeat(&key, lease)?))
    }

    async fn report_health(
        &self,
        request: Request<v1::ReportHealthRequest>,
    ) -> Result<Response<v1::ReportHealthResponse>, Status> {
        let (key, lease, health, reason) = parse_health(request.into_inner()).map_err(Refusal::from)?;
        Ok(Response::new(self.0.report_health(key, lease, health, reason).await?))
    }

    async fn list_services(
        &self,
        request: Request<v1::ListServicesRequest>,
    ) -> Result<Response<v1::ListServicesResponse>, Status> {
        Ok(Response::new(lists::services(&self.0, request.get_ref()).await?))
    }

    async fn get_service(
        &self,
        request: Request<v1::GetServiceRequest>,
    ) -> Result<Response<v1::GetServiceResponse>, Status> {
        let name = ServiceName::parse(&request.get_ref().service).map_err(Refusal::from)?;
        let service = lists::service(&self.0, &name).ok_or(Refusal::ServiceNotFound(name))?;
        Ok(Response::new(v1::GetServiceResponse { service: Some(service) }))
    }

    async fn list_replicas(
        &self,
        request: Request<v1::ListReplicasRequest>,
    ) -> Result<Response<v1::ListReplicasResponse>, Status> {
        Ok(Response::new(lists::replicas(&self.0, request.get_ref()).await?))
    }

    async fn get_replica(
        &self,
        request: Request<v1::GetReplicaRequest>,
    ) -> Result<Response<v1::GetReplicaResponse>, Status> {
        let request = request.into_inner();
        let key = ReplicaKey::parse(&request.service, &request.replica_id).map_err(Refusal::from)?;
        let mut replica = self.0.get_replica(&key)?;
        replica.observed = self.0.effects.observation.observed_health([&key]).pop().flatten();
        Ok(Response::new(v1::GetReplicaResponse { replica: Some(replica) }))
    }
}

pub(super) fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// Reads `service/replica` out of a page token. Tokens are not signed, so this can fail.
pub(super) fn parse_key(name: &str) -> Result<ReplicaKey, Refusal> {
    let (service, replica) = name.split_once('/').ok_or(Refusal::PageToken)?;
    ReplicaKey::parse(service, replica).map_err(|_| Refusal::PageToken)
}

fn parse_deregister(wire: v1::DeregisterRequest) -> Result<(ReplicaKey, Proof, String), Invalid> {
    let mut check = Check::default();
    let key = check.take(ReplicaKey::parse(&wire.service, &wire.replica_id));
    let proof = match (wire.force, wire.lease_id.as_str()) {
        (true, _) => Some(Proof::Force),
        (false, "") => Some(Proof::None),
        (false, id) => check.take(LeaseId::parse(id)).map(Proof::Lease),
    };
    check.take(text_within("reason", &wire.reason, MAX_REASON_CHARS));
    check.finish()?;
    let (Some(key), Some(proof)) = (key, proof) else { unreachable!("nothing was refused") };
    Ok((key, proof, wire.reason))
}

type HealthReport = (ReplicaKey, Option<LeaseId>, Health, String);

fn parse_health(wire: v1::ReportHealthRequest) -> Result<HealthReport, Invalid> {
    let mut check = Check::default();
    let key = check.take(ReplicaKey::parse(&wire.service, &wire.replica_id));
    let lease = match wire.lease_id.as_str() {
        "" => None,
        id => check.take(LeaseId::parse(id)),
    };
    let health = Health::parse(wire.health).and_then(|health| {
        health.ok_or_else(|| Invalid::new("health", "is required: STARTING, HEALTHY, DEGRADED or UNHEALTHY"))
    });
    let health = check.take(health);
    check.take(text_within("reason", &wire.reason, MAX_REASON_CHARS));
    check.finish()?;
    let (Some(key), Some(health)) = (key, health) else { unreachable!("nothing was refused") };
    Ok((key, lease, health, wire.reason))
}
