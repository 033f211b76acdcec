//! What data planes see, and operators decide, in the scripted control plane.

use gateway_proto::{
    reason,
    v1::{self, observability_service_server::ObservabilityService},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use super::{Fake, not_scripted, refusal};

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
        Err(not_scripted())
    }

    async fn explain_replica(
        &self,
        request: Request<v1::ExplainReplicaRequest>,
    ) -> Result<Response<v1::ExplainReplicaResponse>, Status> {
        let request = request.into_inner();
        let found = self.with(|script| {
            let is_it = |one: &&v1::ExplainReplicaResponse| {
                one.service == request.service && one.replica_id == request.replica_id
            };
            script.explained.iter().find(is_it).cloned()
        });
        let why = format!("replica {}/{} is not registered", request.service, request.replica_id);
        found.map(Response::new).ok_or_else(|| refusal(Code::NotFound, reason::REPLICA_NOT_FOUND, &why))
    }

    async fn what_if(
        &self,
        request: Request<v1::WhatIfRequest>,
    ) -> Result<Response<v1::WhatIfResponse>, Status> {
        Ok(Response::new(v1::WhatIfResponse {
            service: request.into_inner().service,
            ..self.with(|script| script.what_if.clone())
        }))
    }

    async fn explain_service(
        &self,
        request: Request<v1::ExplainServiceRequest>,
    ) -> Result<Response<v1::ExplainServiceResponse>, Status> {
        let service = request.into_inner().service;
        let found =
            self.with(|script| script.explained_services.iter().find(|one| one.service == service).cloned());
        let why = format!("service {service} is not registered");
        found.map(Response::new).ok_or_else(|| refusal(Code::NotFound, reason::SERVICE_NOT_FOUND, &why))
    }

    async fn override_breaker(
        &self,
        request: Request<v1::OverrideBreakerRequest>,
    ) -> Result<Response<v1::OverrideBreakerResponse>, Status> {
        let request = request.into_inner();
        let active_override = (request.state() != v1::BreakerState::Closed).then(|| v1::OverrideEntry {
            service: request.service.clone(),
            replica_id: request.replica_id.clone(),
            node_id: request.node_id.clone(),
            ..Default::default()
        });
        let rollout = self.with(|script| {
            script.forced.push(request);
            script.rollout.clone()
        });
        Ok(Response::new(v1::OverrideBreakerResponse { active_override, rollout: Some(rollout) }))
    }

    async fn reset_breaker(
        &self,
        request: Request<v1::ResetBreakerRequest>,
    ) -> Result<Response<v1::ResetBreakerResponse>, Status> {
        let rollout = self.with(|script| {
            script.reset.push(request.into_inner());
            script.rollout.clone()
        });
        Ok(Response::new(v1::ResetBreakerResponse { rollout: Some(rollout) }))
    }

    async fn list_overrides(
        &self,
        _: Request<v1::ListOverridesRequest>,
    ) -> Result<Response<v1::ListOverridesResponse>, Status> {
        let overrides = self.with(|script| script.overrides.clone());
        Ok(Response::new(v1::ListOverridesResponse { overrides, ..Default::default() }))
    }

    async fn end_override(
        &self,
        request: Request<v1::EndOverrideRequest>,
    ) -> Result<Response<v1::EndOverrideResponse>, Status> {
        let ended = self.with(|script| {
            script.ended.push(request.into_inner());
            !script.has_no_overrides
        });
        Ok(Response::new(v1::EndOverrideResponse { ended, revision: 9 }))
    }

    async fn watch_stats(
        &self,
        _: Request<v1::WatchStatsRequest>,
    ) -> Result<Response<Self::WatchStatsStream>, Status> {
        Err(not_scripted())
    }

    async fn report_node_status(
        &self,
        _: Request<Streaming<v1::ReportNodeStatusRequest>>,
    ) -> Result<Response<Self::ReportNodeStatusStream>, Status> {
        Err(not_scripted())
    }

    async fn list_breakers(
        &self,
        request: Request<v1::ListBreakersRequest>,
    ) -> Result<Response<v1::ListBreakersResponse>, Status> {
        let filter = request.into_inner().filter;
        let breakers = self.with(|script| {
            script.queries.push((filter, String::new()));
            script.breakers.clone()
        });
        Ok(Response::new(v1::ListBreakersResponse { breakers, ..Default::default() }))
    }

    async fn list_nodes(
        &self,
        request: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesResponse>, Status> {
        self.with(|script| script.queries.push((request.into_inner().filter, String::new())));
        match self.with(|script| script.nodes.clone()) {
            Some(nodes) => Ok(Response::new(v1::ListNodesResponse { nodes, ..Default::default() })),
            None => std::future::pending().await,
        }
    }

    async fn list_events(
        &self,
        request: Request<v1::ListEventsRequest>,
    ) -> Result<Response<v1::ListEventsResponse>, Status> {
        let request = request.into_inner();
        let size = usize::try_from(request.page_size).unwrap();
        let from: usize = request.page_token.parse().unwrap_or(0);
        let events = self.with(|script| {
            script.queries.push((request.filter.clone(), String::new()));
            script.events.clone()
        });
        let next = from + size;
        Ok(Response::new(v1::ListEventsResponse {
            next_page_token: if next < events.len() { next.to_string() } else { String::new() },
            events: events.into_iter().skip(from).take(size).collect(),
            ..Default::default()
        }))
    }

    async fn watch_events(
        &self,
        _: Request<v1::WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        Err(Status::permission_denied("not for you"))
    }
}
