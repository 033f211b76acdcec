//! Keeps a replica in the registry: registers, renews the lease, registers anew when the lease is gone, deregisters.
//!
//! A control plane that is away stops nothing: this goes on trying, and the replica goes on serving.

use std::time::Duration;

use gateway_proto::{
    Address, ReplicaKey, reason,
    time::{duration, non_negative},
    v1::{
        DeregisterRequest, Endpoint, HeartbeatRequest, RegisterRequest, RegisterResponse,
        registry_service_client::RegistryServiceClient,
    },
};
use gateway_runtime::Shutdown;
use rand::Rng as _;
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt as _;

const CALL_TIMEOUT: Duration = Duration::from_secs(2);
const MAX_PAUSE: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// Who registers, and where it is reached.
#[derive(Debug, Clone)]
pub(crate) struct Registration {
    pub(crate) key: ReplicaKey,
    pub(crate) address: Address,
    pub(crate) ttl: Duration,
}

/// Why a lease is not renewed any more.
#[derive(Debug, PartialEq, Eq)]
enum Lost {
    /// It has lapsed, or an operator removed the replica: register anew.
    Gone,
    /// Another process has registered this replica: it is no longer ours.
    Superseded,
}

impl Registration {
    /// Stays registered until the shutdown begins, then deregisters.
    ///
    /// Ends early when another process takes the replica over: two owners would only throw each other out.
    pub(crate) async fn keep(self, channel: Channel, shutdown: Shutdown) {
        let mut client = RegistryServiceClient::new(channel);
        loop {
            let granted = tokio::select! {
                granted = self.register(&mut client) => granted,
                () = shutdown.begun() => return,
            };
            let Some(granted) = granted else { return };
            tracing::info!(replica = %self.key, address = %self.address, "registered");
            let lost = tokio::select! {
                lost = self.renew(&mut client, &granted) => lost,
                () = shutdown.begun() => return self.deregister(&mut client, granted.lease_id).await,
            };
            match lost {
                Lost::Gone => tracing::warn!(replica = %self.key, "the lease is gone; registering anew"),
                Lost::Superseded => {
                    tracing::warn!(replica = %self.key, "another process has registered this replica");
                    return;
                }
            }
        }
    }

    /// Registers, however long it takes; `None` when the control plane refuses for good.
    async fn register(&self, client: &mut RegistryServiceClient<Channel>) -> Option<RegisterResponse> {
        let request = RegisterRequest {
            service: self.key.service.to_string(),
            replica_id: self.key.replica.to_string(),
            endpoint: Some(Endpoint { address: self.address.to_string(), ..Default::default() }),
            version: env!("CARGO_PKG_VERSION").into(),
            lease_ttl: Some(duration(self.ttl)),
            ..Default::default()
        };
        let mut pause = FIRST_PAUSE;
        loop {
            match within(client.register(request.clone())).await {
                Ok(response) => return Some(response),
                Err(status) if is_final(&status) => {
                    tracing::error!(replica = %self.key, "registration refused: {}", status.message());
                    return None;
                }
                Err(status) => {
                    tracing::debug!(replica = %self.key, "not registered yet: {}", status.message())
                }
            }
            wait_jittered(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    /// Renews until the lease is lost. A call that fails is tried again at once, with jitter: the lease still runs.
    async fn renew(&self, client: &mut RegistryServiceClient<Channel>, granted: &RegisterResponse) -> Lost {
        let interval = granted.heartbeat_interval.and_then(non_negative).unwrap_or(self.ttl / 3);
        let request = HeartbeatRequest {
            service: self.key.service.to_string(),
            replica_id: self.key.replica.to_string(),
            lease_id: granted.lease_id.clone(),
            ..Default::default()
        };
        let mut pause = FIRST_PAUSE;
        tokio::time::sleep(interval).await;
        loop {
            match within(client.heartbeat(request.clone())).await {
                Ok(_) => {
                    pause = FIRST_PAUSE;
                    tokio::time::sleep(interval).await;
                    continue;
                }
                Err(status) if is_because_of(&status, &[reason::LEASE_MISMATCH]) => return Lost::Superseded,
                Err(status) if is_because_of(&status, &LEASE_IS_GONE) => return Lost::Gone,
                Err(status) => tracing::debug!(replica = %self.key, "not renewed: {}", status.message()),
            }
            wait_jittered(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    /// Leaves the registry; a control plane that does not hear it lets the lease lapse.
    async fn deregister(&self, client: &mut RegistryServiceClient<Channel>, lease_id: String) {
        let request = DeregisterRequest {
            service: self.key.service.to_string(),
            replica_id: self.key.replica.to_string(),
            lease_id,
            reason: "the process ends".into(),
            ..Default::default()
        };
        if let Err(status) = within(client.deregister(request)).await {
            tracing::warn!(replica = %self.key, "not deregistered: {}", status.message());
        }
    }
}

/// Bounds a call, so that a silent control plane is one that is away.
async fn within<T>(call: impl Future<Output = Result<tonic::Response<T>, Status>>) -> Result<T, Status> {
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded(format!("no answer within {CALL_TIMEOUT:?}"))),
    }
}

/// Reasons to register anew.
const LEASE_IS_GONE: [&str; 3] = [reason::LEASE_EXPIRED, reason::REPLICA_REMOVED, reason::REPLICA_NOT_FOUND];

fn is_because_of(status: &Status, reasons: &[&str]) -> bool {
    let details = status.get_error_details();
    details.error_info().is_some_and(|info| reasons.contains(&info.reason.as_str()))
}

/// Refusals that trying again cannot change. An address that is taken may be free once another's lease has lapsed, and
/// what an operator keeps out may come back when the time for that is over.
fn is_final(status: &Status) -> bool {
    matches!(status.code(), Code::InvalidArgument | Code::PermissionDenied)
}

/// Full jitter, so that many replicas do not come back together.
async fn wait_jittered(longest: Duration) {
    let pause = rand::rng().random_range(Duration::ZERO..=longest);
    tokio::time::sleep(pause).await;
}
