//! What drills ask of a control plane. Each call has a deadline, after which nobody knows what became of it.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use gateway_proto::v1::{
    DeregisterRequest, DeregisterResponse, Endpoint, GetReplicaRequest, HeartbeatRequest,
    ListReplicasRequest, RegisterRequest, RegisterResponse, Replica,
    registry_service_client::RegistryServiceClient,
};
use tokio::time::timeout;
use tonic::{Code, Response, Status, transport::Channel};

use crate::stage::SECOND;

/// A control plane without a store gives up after 4 s at most.
const PATIENCE: Duration = Duration::from_secs(6);
const CONNECT_PATIENCE: Duration = Duration::from_secs(2);

/// A client of one control plane, which connects when needed, also after restarts.
#[derive(Debug, Clone)]
pub(crate) struct Caller(RegistryServiceClient<Channel>);

impl Caller {
    pub(crate) fn new(url: &str) -> Self {
        let endpoint = Channel::from_shared(url.to_owned()).expect("an address makes a URL");
        Self(RegistryServiceClient::new(endpoint.connect_timeout(CONNECT_PATIENCE).connect_lazy()))
    }

    pub(crate) async fn register(&self, request: RegisterRequest) -> Result<RegisterResponse, Status> {
        within(self.0.clone().register(request)).await
    }

    /// Removes what this lease keeps.
    pub(crate) async fn deregister(
        &self,
        service: &str,
        id: &str,
        lease: &str,
    ) -> Result<DeregisterResponse, Status> {
        let request = DeregisterRequest {
            service: service.into(),
            replica_id: id.into(),
            lease_id: lease.into(),
            ..Default::default()
        };
        within(self.0.clone().deregister(request)).await
    }

    pub(crate) async fn renew(&self, service: &str, id: &str, lease: &str) -> Result<(), Status> {
        let request = HeartbeatRequest {
            service: service.into(),
            replica_id: id.into(),
            lease_id: lease.into(),
            ..Default::default()
        };
        within(self.0.clone().heartbeat(request)).await.map(drop)
    }

    pub(crate) async fn get(&self, service: &str, id: &str) -> Result<Replica, Status> {
        let request = GetReplicaRequest { service: service.into(), replica_id: id.into() };
        let answer = within(self.0.clone().get_replica(request)).await?;
        answer.replica.ok_or_else(|| Status::internal("an answer without a replica"))
    }

    /// The revision of the registry as this control plane knows it.
    pub(crate) async fn revision(&self) -> Result<i64, Status> {
        let request = ListReplicasRequest { service: "-".into(), page_size: 1, ..Default::default() };
        Ok(within(self.0.clone().list_replicas(request)).await?.revision)
    }

    /// The ids of all replicas of a service, or of all services by the name `-`, as `SERVICE/REPLICA`.
    pub(crate) async fn list(&self, service: &str) -> Result<BTreeSet<String>, Status> {
        let mut ids = BTreeSet::new();
        let mut request =
            ListReplicasRequest { service: service.into(), page_size: 1000, ..Default::default() };
        loop {
            let page = within(self.0.clone().list_replicas(request.clone())).await?;
            ids.extend(
                page.replicas.iter().map(|replica| format!("{}/{}", replica.service, replica.replica_id)),
            );
            if page.next_page_token.is_empty() {
                return Ok(ids);
            }
            request.page_token = page.next_page_token;
        }
    }
}

async fn within<T>(call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Status> {
    match timeout(PATIENCE, call).await {
        Ok(answered) => answered.map(Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded("no answer")),
    }
}

/// Whether it is certain that what was asked for has changed nothing.
pub(crate) fn is_certain(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::FailedPrecondition
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::OutOfRange
            | Code::Unimplemented
    )
}

/// A registration with a lease.
pub(crate) fn registration(service: &str, id: &str, address: &str, ttl: Duration) -> RegisterRequest {
    RegisterRequest {
        service: service.into(),
        replica_id: id.into(),
        endpoint: Some(Endpoint { address: address.into(), ..Default::default() }),
        lease_ttl: Some(prost_types::Duration {
            seconds: ttl.as_secs().cast_signed(),
            nanos: ttl.subsec_nanos().cast_signed(),
        }),
        ..Default::default()
    }
}

/// Replicas of one service of a crowd.
const CROWD_PER_SERVICE: usize = 10;
/// How long one of it may be refused, for others are being registered: a crowd shares the queue of changes with whatever a drill began before it.
const CROWD_PATIENCE: Duration = Duration::from_secs(60);
/// Callers that register it.
const CROWD_CALLERS: usize = 32;

/// Registers so many replicas beside those that a drill is about, with leases that outlast it.
pub(crate) async fn crowd(urls: &[String], count: usize) {
    let mut callers = tokio::task::JoinSet::new();
    for first in 0..CROWD_CALLERS.min(count) {
        let caller = Caller::new(&urls[first % urls.len()]);
        callers.spawn(async move {
            for number in (first..count).step_by(CROWD_CALLERS) {
                let service = format!("crowd-{:05}", number / CROWD_PER_SERVICE);
                let [_, a, b, c] = u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes();
                let address = format!("10.{a}.{b}.{c}:8080");
                let request = registration(&service, &format!("r-{number:08}"), &address, 3600 * SECOND);
                let asked = Instant::now();
                while let Err(status) = caller.register(request.clone()).await {
                    assert!(asked.elapsed() < CROWD_PATIENCE, "the crowd cannot be registered: {status}");
                    tokio::time::sleep(SECOND / 10).await;
                }
            }
        });
    }
    while let Some(ended) = callers.join_next().await {
        ended.expect("callers do not panic");
    }
}
