//! Calls that change something, and the streams that follow a change.

use std::time::Duration;

use control_plane::store::Served;
use gateway_proto::{ReplicaKey, RouteName, reason, time::non_negative, v1};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::Control;
use crate::{error::Error, status::Subject};

impl Control {
    /// Registers a replica, or checks whether it could be.
    ///
    /// # Errors
    /// What the control plane refuses, field by field.
    pub(crate) async fn register(&self, request: v1::RegisterRequest) -> Result<v1::RegisterResponse, Error> {
        let what = format!("registration of {}", request.service);
        let service = request.service.clone();
        let subject = Subject { request: &what, service: &service };
        self.call("Register", subject, self.registry.clone().register(request)).await
    }

    /// Removes a replica.
    ///
    /// # Errors
    /// What the control plane refuses.
    pub(crate) async fn deregister(
        &self,
        request: v1::DeregisterRequest,
    ) -> Result<v1::DeregisterResponse, Error> {
        let what = format!("deregistration of {}/{}", request.service, request.replica_id);
        let service = request.service.clone();
        let subject = Subject { request: &what, service: &service };
        self.call("Deregister", subject, self.registry.clone().deregister(request)).await
    }

    /// Stops new requests to a replica.
    ///
    /// # Errors
    /// What the control plane refuses, e.g. to drain the last ready replica.
    pub(crate) async fn drain(
        &self,
        request: v1::DrainReplicaRequest,
    ) -> Result<v1::DrainReplicaResponse, Error> {
        let what = format!("drain of {}/{}", request.service, request.replica_id);
        let service = request.service.clone();
        let subject = Subject { request: &what, service: &service };
        self.call("DrainReplica", subject, self.registry.clone().drain_replica(request)).await
    }

    /// Opens the stream of a drain's receipts. The deadline is for its beginning only.
    ///
    /// # Errors
    /// When the stream cannot be opened.
    pub(crate) async fn watch_drain(
        &self,
        key: &ReplicaKey,
    ) -> Result<Streaming<v1::WatchDrainResponse>, Error> {
        let what = format!("drain of {key}");
        let subject = Subject { request: &what, service: key.service.as_str() };
        let request =
            v1::WatchDrainRequest { service: key.service.to_string(), replica_id: key.replica.to_string() };
        self.call("WatchDrain", subject, self.registry.clone().watch_drain(request)).await
    }

    /// Begins to move, or to copy, what the control plane keeps for itself alone. The deadline is for its beginning only.
    ///
    /// # Errors
    /// What the control plane refuses: the caller is no operator, somebody else moves it already, or its store is not its alone.
    pub(crate) async fn move_store(&self, request: &str) -> Result<Served, Error> {
        let subject = Subject { request, service: "" };
        let (requests, steps) = mpsc::channel(1);
        let mut stores = self.stores.clone();
        let answers = self.call("MoveStore", subject, stores.move_store(ReceiverStream::new(steps))).await?;
        Ok(Served::new(requests, answers))
    }

    /// Has a control plane take changes again whose registry has moved. Yields whether it did not.
    ///
    /// # Errors
    /// What the control plane refuses.
    pub(crate) async fn reopen_store(&self) -> Result<bool, Error> {
        let subject = Subject { request: "wish to take changes again", service: "" };
        let request = v1::ReopenStoreRequest {};
        Ok(self.call("ReopenStore", subject, self.stores.clone().reopen_store(request)).await?.reopened)
    }

    /// Returns a draining or drained replica to service.
    ///
    /// # Errors
    /// What the control plane refuses.
    pub(crate) async fn undrain(
        &self,
        request: v1::UndrainReplicaRequest,
    ) -> Result<v1::UndrainReplicaResponse, Error> {
        let what = format!("return of {}/{}", request.service, request.replica_id);
        let service = request.service.clone();
        let subject = Subject { request: &what, service: &service };
        self.call("UndrainReplica", subject, self.registry.clone().undrain_replica(request)).await
    }

    /// Lets the replicas go that the guard against mass removal holds.
    ///
    /// # Errors
    /// What the control plane refuses.
    pub(crate) async fn release_guard(
        &self,
        request: v1::ReleaseGuardRequest,
    ) -> Result<v1::ReleaseGuardResponse, Error> {
        let what = format!("release of the guard of {}", request.service);
        let service = request.service.clone();
        let subject = Subject { request: &what, service: &service };
        self.call("ReleaseGuard", subject, self.registry.clone().release_guard(request)).await
    }

    /// Forces breakers open or closed, or hands them back to their rules.
    ///
    /// # Errors
    /// What the control plane refuses.
    pub(crate) async fn override_breaker(
        &self,
        request: v1::OverrideBreakerRequest,
    ) -> Result<v1::OverrideBreakerResponse, Error> {
        let what = format!("override of {}/{}", request.service, request.replica_id);
        let (service, wait) = (request.service.clone(), waited(request.wait_timeout));
        let subject = Subject { request: &what, service: &service };
        let mut client = self.observability.clone();
        self.call_that_waits(wait, "OverrideBreaker", subject, client.override_breaker(request)).await
    }

    /// Has breakers forget their counts and close.
    ///
    /// # Errors
    /// What the control plane refuses.
    pub(crate) async fn reset_breaker(
        &self,
        request: v1::ResetBreakerRequest,
    ) -> Result<v1::ResetBreakerResponse, Error> {
        let what = format!("reset of {}/{}", request.service, request.replica_id);
        let (service, wait) = (request.service.clone(), waited(request.wait_timeout));
        let subject = Subject { request: &what, service: &service };
        let mut client = self.observability.clone();
        self.call_that_waits(wait, "ResetBreaker", subject, client.reset_breaker(request)).await
    }

    /// Ends an override before its time.
    ///
    /// # Errors
    /// What the control plane refuses.
    pub(crate) async fn end_override(
        &self,
        request: v1::EndOverrideRequest,
    ) -> Result<v1::EndOverrideResponse, Error> {
        let subject = Subject { request: "end of an override", service: "" };
        self.call("EndOverride", subject, self.observability.clone().end_override(request)).await
    }

    /// The stored policy of a service or of `*`; `None` when there is none.
    ///
    /// # Errors
    /// What the control plane refuses.
    pub(crate) async fn policy(&self, service: &str) -> Result<Option<v1::Policy>, Error> {
        let request = v1::GetPolicyRequest { service: service.to_owned() };
        let subject = Subject { request: "policy", service };
        match self.call("GetPolicy", subject, self.policies.clone().get_policy(request)).await {
            Ok(response) => Ok(Some(response.policy.unwrap_or_default())),
            Err(error) if error.code.ends_with(reason::POLICY_NOT_FOUND) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What holds for a service, registered or not, and where each value is from.
    ///
    /// # Errors
    /// What the control plane refuses.
    pub(crate) async fn resolved_policy(&self, service: &str) -> Result<v1::ResolvePolicyResponse, Error> {
        let request = v1::ResolvePolicyRequest { service: service.to_owned() };
        let subject = Subject { request: "policy", service };
        self.call("ResolvePolicy", subject, self.policies.clone().resolve_policy(request)).await
    }

    /// Creates or changes a policy.
    ///
    /// # Errors
    /// What the control plane refuses, setting by setting.
    pub(crate) async fn update_policy(
        &self,
        request: v1::UpdatePolicyRequest,
    ) -> Result<v1::UpdatePolicyResponse, Error> {
        let service = request.policy.as_ref().map(|policy| policy.service.clone()).unwrap_or_default();
        let what = format!("policy for \"{service}\"");
        let wait = waited(request.wait_timeout);
        let subject = Subject { request: &what, service: &service };
        let mut client = self.policies.clone();
        self.call_that_waits(wait, "UpdatePolicy", subject, client.update_policy(request)).await
    }

    /// Removes a stored policy.
    ///
    /// # Errors
    /// What the control plane refuses, also that there is none.
    pub(crate) async fn delete_policy(
        &self,
        request: v1::DeletePolicyRequest,
    ) -> Result<v1::DeletePolicyResponse, Error> {
        let service = request.service.clone();
        let subject = Subject { request: "deletion of a policy", service: &service };
        self.call("DeletePolicy", subject, self.policies.clone().delete_policy(request)).await
    }

    /// Changes several policies: all of them, or none.
    ///
    /// # Errors
    /// What the control plane refuses, setting by setting.
    pub(crate) async fn apply_policies(
        &self,
        request: v1::ApplyPoliciesRequest,
    ) -> Result<v1::ApplyPoliciesResponse, Error> {
        let wait = waited(request.wait_timeout);
        let subject = Subject { request: "change of policies", service: "" };
        let mut client = self.policies.clone();
        self.call_that_waits(wait, "ApplyPolicies", subject, client.apply_policies(request)).await
    }

    /// An explicit route; `None` when there is none of this name.
    ///
    /// # Errors
    /// What the control plane refuses.
    pub(crate) async fn route(&self, name: &RouteName) -> Result<Option<v1::Route>, Error> {
        let request = v1::GetRouteRequest { name: name.to_string() };
        let subject = Subject { request: "route", service: "" };
        match self.call("GetRoute", subject, self.routes.clone().get_route(request)).await {
            Ok(response) => Ok(Some(response.route.unwrap_or_default())),
            Err(error) if error.code.ends_with(reason::ROUTE_NOT_FOUND) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Creates or changes an explicit route.
    ///
    /// # Errors
    /// What the control plane refuses, field by field, and which other route is in the way.
    pub(crate) async fn update_route(
        &self,
        request: v1::UpdateRouteRequest,
    ) -> Result<v1::UpdateRouteResponse, Error> {
        let name = request.route.as_ref().map(|route| route.name.clone()).unwrap_or_default();
        let what = format!("route {name}");
        let wait = waited(request.wait_timeout);
        let subject = Subject { request: &what, service: "" };
        let mut client = self.routes.clone();
        self.call_that_waits(wait, "UpdateRoute", subject, client.update_route(request)).await
    }

    /// Removes an explicit route.
    ///
    /// # Errors
    /// What the control plane refuses, also that there is none.
    pub(crate) async fn delete_route(
        &self,
        request: v1::DeleteRouteRequest,
    ) -> Result<v1::DeleteRouteResponse, Error> {
        let subject = Subject { request: "deletion of a route", service: "" };
        self.call("DeleteRoute", subject, self.routes.clone().delete_route(request)).await
    }

    /// Opens a stream of changes of replicas. The deadline is for its beginning only.
    ///
    /// # Errors
    /// When the stream cannot be opened.
    pub(crate) async fn watch_replicas(
        &self,
        request: v1::WatchReplicasRequest,
    ) -> Result<Streaming<v1::WatchReplicasResponse>, Error> {
        let service = request.service.clone();
        let subject = Subject { request: "watch of replicas", service: &service };
        self.call("WatchReplicas", subject, self.registry.clone().watch_replicas(request)).await
    }

    /// Opens a stream of changes of breakers. The deadline is for its beginning only.
    ///
    /// # Errors
    /// When the stream cannot be opened.
    pub(crate) async fn watch_breakers(
        &self,
        request: v1::WatchBreakersRequest,
    ) -> Result<Streaming<v1::WatchBreakersResponse>, Error> {
        let service = request.service.clone();
        let subject = Subject { request: "watch of breakers", service: &service };
        self.call("WatchBreakers", subject, self.observability.clone().watch_breakers(request)).await
    }

    /// Opens a stream of rates and latencies. The deadline is for its beginning only.
    ///
    /// # Errors
    /// When the stream cannot be opened.
    pub(crate) async fn watch_stats(
        &self,
        request: v1::WatchStatsRequest,
    ) -> Result<Streaming<v1::WatchStatsResponse>, Error> {
        let service = request.service.clone();
        let subject = Subject { request: "watch of statistics", service: &service };
        self.call("WatchStats", subject, self.observability.clone().watch_stats(request)).await
    }

    /// Opens a stream of events. The deadline is for its beginning only.
    ///
    /// # Errors
    /// When the stream cannot be opened.
    pub(crate) async fn watch_events(
        &self,
        request: v1::WatchEventsRequest,
    ) -> Result<Streaming<v1::WatchEventsResponse>, Error> {
        let service = request.service.clone();
        let subject = Subject { request: "event subscription", service: &service };
        self.call("WatchEvents", subject, self.observability.clone().watch_events(request)).await
    }
}

/// How long the server was asked to wait.
fn waited(wait: Option<prost_types::Duration>) -> Duration {
    wait.and_then(non_negative).unwrap_or_default()
}
