//! `gateway.v1.RegistryService`: wire messages to checked words, and back.

mod fields;
mod lists;

use std::{sync::Arc, time::Duration};

use gateway_proto::{
    Check, Health, Invalid, LeaseId, ReplicaKey, ServiceName,
    time::parse_grpc,
    v1::{self, registry_service_server::RegistryService},
};
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{
    asked, drains,
    keep_alive::{self, Beat},
    overrides, watch_replicas,
};
use crate::{
    auth::Caller,
    clock,
    edge::{Edge, HEARSAY},
    listeners::Whence,
    refusal::Refusal,
    registry::{Proof, Registration, Said, Target, text_within},
};

/// Responses between a stream's task and its connection.
const BUFFERED: usize = 4;

/// The service.
#[derive(Debug)]
pub(super) struct Registry(pub(super) Arc<Edge>);

#[tonic::async_trait]
impl RegistryService for Registry {
    type KeepAliveStream = ReceiverStream<Result<v1::KeepAliveResponse, Status>>;
    type WatchDrainStream = ReceiverStream<Result<v1::WatchDrainResponse, Status>>;
    type WatchReplicasStream = ReceiverStream<Result<v1::WatchReplicasResponse, Status>>;

    async fn keep_alive(
        &self,
        request: Request<Streaming<v1::KeepAliveRequest>>,
    ) -> Result<Response<Self::KeepAliveStream>, Status> {
        let caller = Caller::of(request.extensions()).clone();
        let place = self.0.keep_alive_streams.take_for(&caller)?;
        let (outbound, responses) = mpsc::channel(BUFFERED);
        let work = keep_alive::serve(Arc::clone(&self.0), caller, request.into_inner(), outbound.clone());
        self.0.spawn_stream("keep_alive_stream", place, outbound, work);
        Ok(Response::new(ReceiverStream::new(responses)))
    }

    async fn drain_replica(
        &self,
        request: Request<v1::DrainReplicaRequest>,
    ) -> Result<Response<v1::DrainReplicaResponse>, Status> {
        let caller = Caller::of(request.extensions()).clone();
        Ok(Response::new(drains::drain(&self.0, request.into_inner(), &caller).await?))
    }

    async fn watch_drain(
        &self,
        request: Request<v1::WatchDrainRequest>,
    ) -> Result<Response<Self::WatchDrainStream>, Status> {
        let watch = drains::Watch::begin(&self.0, request.get_ref())?;
        let place = self.0.watch_streams.take_for(Caller::of(request.extensions()))?;
        let (outbound, responses) = mpsc::channel(BUFFERED);
        let work = watch.follow(outbound.clone());
        self.0.spawn_stream("watch_stream", place, outbound, work);
        Ok(Response::new(ReceiverStream::new(responses)))
    }

    async fn undrain_replica(
        &self,
        request: Request<v1::UndrainReplicaRequest>,
    ) -> Result<Response<v1::UndrainReplicaResponse>, Status> {
        let caller = Caller::of(request.extensions()).clone();
        Ok(Response::new(drains::undrain(&self.0, request.into_inner(), &caller).await?))
    }

    async fn release_guard(
        &self,
        request: Request<v1::ReleaseGuardRequest>,
    ) -> Result<Response<v1::ReleaseGuardResponse>, Status> {
        let caller = Caller::of(request.extensions()).clone();
        Ok(Response::new(overrides::release_guard(&self.0, request.into_inner(), &caller).await?))
    }

    async fn watch_replicas(
        &self,
        request: Request<v1::WatchReplicasRequest>,
    ) -> Result<Response<Self::WatchReplicasStream>, Status> {
        let watch = watch_replicas::Watch::parse(&self.0, request.get_ref()).map_err(Refusal::from)?;
        let place = self.0.watch_streams.take_for(Caller::of(request.extensions()))?;
        let (outbound, responses) = mpsc::channel(BUFFERED);
        let work = watch.follow(outbound.clone());
        self.0.spawn_stream("watch_stream", place, outbound, work);
        Ok(Response::new(ReceiverStream::new(responses)))
    }

    async fn register(
        &self,
        request: Request<v1::RegisterRequest>,
    ) -> Result<Response<v1::RegisterResponse>, Status> {
        let caller = Caller::of(request.extensions()).clone();
        let peer = caller.from().map(Whence::ip);
        let timeout = request.metadata().get("grpc-timeout").and_then(|value| parse_grpc(value.as_bytes()));
        let until = timeout.and_then(|timeout| clock::now().checked_add(timeout));
        let request = request.into_inner();
        let (validate_only, wait_timeout) = (request.validate_only, request.wait_timeout);
        let mut check = Check::default();
        let registration = check.take(Registration::parse(request, peer));
        let wait = check.take(asked::wait(wait_timeout)).filter(|_| wait_timeout.is_some());
        check.finish().map_err(Refusal::from)?;
        let Some(registration) = registration else { unreachable!("nothing was refused") };
        Ok(Response::new(self.0.register(&caller, registration, validate_only, wait, until).await?))
    }

    async fn deregister(
        &self,
        request: Request<v1::DeregisterRequest>,
    ) -> Result<Response<v1::DeregisterResponse>, Status> {
        let caller = Caller::of(request.extensions()).clone();
        let wish = parse_deregister(request.into_inner(), &caller).map_err(Refusal::from)?;
        Ok(Response::new(
            self.0.deregister(&caller, Target::Key(wish.key), wish.proof, wish.said, wish.block).await?,
        ))
    }

    async fn heartbeat(
        &self,
        request: Request<v1::HeartbeatRequest>,
    ) -> Result<Response<v1::HeartbeatResponse>, Status> {
        let caller = Caller::of(request.extensions()).clone();
        let Beat { key, lease, health } = Beat::parse(request.into_inner()).map_err(Refusal::from)?;
        if !self.0.hear_of(&key, lease, Instant::now() + HEARSAY).await {
            self.0.confirm(&caller, &key, lease).await?;
        }
        let renewed = self.0.renew(&caller, &key, lease)?;
        if let Some(health) = health.filter(|reported| renewed.health != Some(*reported)) {
            self.0.report_health(&caller, key, Some(lease), health, String::new()).await?;
        }
        Ok(Response::new(renewed.answer))
    }

    async fn report_health(
        &self,
        request: Request<v1::ReportHealthRequest>,
    ) -> Result<Response<v1::ReportHealthResponse>, Status> {
        let caller = Caller::of(request.extensions()).clone();
        let (key, lease, health, reason) = parse_health(request.into_inner()).map_err(Refusal::from)?;
        Ok(Response::new(self.0.report_health(&caller, key, lease, health, reason).await?))
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
        let caller = Caller::of(request.extensions()).clone();
        let request = request.into_inner();
        let key = ReplicaKey::parse(&request.service, &request.replica_id).map_err(Refusal::from)?;
        caller.admit_look(&key.service).map_err(Refusal::from)?;
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

struct Deregistration {
    key: ReplicaKey,
    proof: Proof,
    said: Said,
    block: Option<Duration>,
}

fn parse_deregister(wire: v1::DeregisterRequest, caller: &Caller) -> Result<Deregistration, Invalid> {
    let mut check = Check::default();
    let key = check.take(ReplicaKey::parse(&wire.service, &wire.replica_id));
    let proof = match (wire.force, wire.lease_id.as_str()) {
        (true, _) => Some(Proof::Force),
        (false, "") => Some(Proof::None),
        (false, id) => check.take(LeaseId::parse(id)).map(Proof::Lease),
    };
    let block = wire.block_reregister_ttl.and_then(|ttl| check.take(asked::ttl("block_reregister_ttl", ttl)));
    if wire.block_reregister_ttl.is_some() && !wire.force {
        check.take::<()>(Err(Invalid::new("block_reregister_ttl", "needs force beside it")));
    }
    let said = check.take(asked::said(&wire.author, &wire.reason, caller));
    check.finish()?;
    let (Some(key), Some(proof), Some(said)) = (key, proof, said) else {
        unreachable!("nothing was refused")
    };
    Ok(Deregistration { key, proof, said, block })
}

type HealthReport = (ReplicaKey, Option<LeaseId>, Health, String);

fn parse_health(wire: v1::ReportHealthRequest) -> Result<HealthReport, Invalid> {
    let mut check = Check::default();
    let key = check.take(ReplicaKey::parse(&wire.service, &wire.replica_id));
    let lease = match wire.lease_id.as_str() {
        "" => None,
        id => check.take(LeaseId::parse(id)),
    };
    let health = Health::parse_reported(wire.health).and_then(|health| {
        health.ok_or_else(|| Invalid::new("health", "is required: STARTING, HEALTHY, DEGRADED or UNHEALTHY"))
    });
    let health = check.take(health);
    check.take(text_within("reason", &wire.reason, asked::MAX_REASON_CHARS));
    check.finish()?;
    let (Some(key), Some(health)) = (key, health) else { unreachable!("nothing was refused") };
    Ok((key, lease, health, wire.reason))
}
