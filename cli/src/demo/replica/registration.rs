//! Keeps a replica in the registry: registers, renews the lease, registers anew when the lease is gone, deregisters.
//!
//! A control plane that is away stops nothing: this goes on trying, and the replica goes on serving.

use std::time::Duration;

use gateway_proto::{
    Address, ReplicaKey,
    time::{duration, non_negative},
    v1::{
        Endpoint, HeartbeatRequest, RegisterRequest, RegisterResponse,
        registry_service_client::RegistryServiceClient,
    },
};
use gateway_runtime::Shutdown;
use tonic::{Code, Status, transport::Channel};

use crate::lease::{self, CALL_TIMEOUT, FIRST_PAUSE, Lost, MAX_PAUSE, jittered, within};

/// Who registers, and where it is reached.
#[derive(Debug, Clone)]
pub(crate) struct Registration {
    pub(crate) key: ReplicaKey,
    pub(crate) address: Address,
    pub(crate) ttl: Duration,
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
        let mut request = RegisterRequest {
            request_id: lease::request_id(),
            service: self.key.service.to_string(),
            replica_id: self.key.replica.to_string(),
            endpoint: Some(Endpoint { address: self.address.to_string(), ..Default::default() }),
            version: env!("CARGO_PKG_VERSION").into(),
            lease_ttl: Some(duration(self.ttl)),
            ..Default::default()
        };
        let mut pause = FIRST_PAUSE;
        loop {
            match within(CALL_TIMEOUT, client.register(request.clone())).await {
                Ok(response) => return Some(response),
                Err(status) if is_final(&status) => {
                    tracing::error!(replica = %self.key, "registration refused: {}", status.message());
                    return None;
                }
                Err(status) => {
                    tracing::debug!(replica = %self.key, "not registered yet: {}", status.message());
                    lease::prepare_again(&mut request, &status);
                }
            }
            jittered(pause).await;
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
            match within(CALL_TIMEOUT, client.heartbeat(request.clone())).await {
                Ok(_) => {
                    pause = FIRST_PAUSE;
                    tokio::time::sleep(interval).await;
                    continue;
                }
                Err(status) => match Lost::of(&status) {
                    Some(lost) => return lost,
                    None => tracing::debug!(replica = %self.key, "not renewed: {}", status.message()),
                },
            }
            jittered(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    /// Leaves the registry; a control plane that does not hear it lets the lease lapse.
    async fn deregister(&self, client: &mut RegistryServiceClient<Channel>, lease_id: String) {
        if let Err(status) =
            within(CALL_TIMEOUT, client.deregister(lease::leaving(&self.key, lease_id))).await
        {
            tracing::warn!(replica = %self.key, "not deregistered: {}", status.message());
        }
    }
}

/// Refusals that trying again cannot change. An address that is taken may be free once another's lease has lapsed, and
/// what an operator keeps out may come back when the time for that is over.
fn is_final(status: &Status) -> bool {
    matches!(status.code(), Code::InvalidArgument | Code::PermissionDenied)
}
