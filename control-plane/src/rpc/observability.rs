//! `gateway.v1.ObservabilityService`: what data planes report, and what operators read.

mod fields;
mod reports;
mod statistics;
mod timeline;

use std::sync::Arc;

use gateway_proto::v1::{self, observability_service_server::ObservabilityService};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

pub(super) use self::fields::{BREAKERS, NODES};
#[cfg(test)]
pub(super) use self::timeline::EVENTS;
use super::{
    breakers::{self, Query},
    explain, overrides,
    page::Page,
    registry::count,
    what_if,
};
use crate::{
    auth::Caller, clock, edge::Edge, observe::outdated, query::Filter, refusal::Refusal, registry::View,
};

/// Messages of a watch between its task and the connection.
const BUFFERED: usize = 64;

/// Data planes looked at while reports wait.
const AT_ONCE: usize = 512;

/// The service.
#[derive(Debug)]
pub(super) struct Observability(pub(super) Arc<Edge>);

#[tonic::async_trait]
impl ObservabilityService for Observability {
    type ReportNodeStatusStream = ReceiverStream<Result<v1::ReportNodeStatusResponse, Status>>;
    type WatchEventsStream = ReceiverStream<Result<v1::WatchEventsResponse, Status>>;
    type WatchBreakersStream = ReceiverStream<Result<v1::WatchBreakersResponse, Status>>;
    type WatchStatsStream = ReceiverStream<Result<v1::WatchStatsResponse, Status>>;

    async fn override_breaker(
        &self,
        request: Request<v1::OverrideBreakerRequest>,
    ) -> Result<Response<v1::OverrideBreakerResponse>, Status> {
        let caller = Caller::of(request.extensions()).clone();
        Ok(Response::new(overrides::override_breaker(&self.0, request.into_inner(), &caller).await?))
    }

    async fn reset_breaker(
        &self,
        request: Request<v1::ResetBreakerRequest>,
    ) -> Result<Response<v1::ResetBreakerResponse>, Status> {
        let caller = Caller::of(request.extensions()).clone();
        Ok(Response::new(overrides::reset_breaker(&self.0, request.into_inner(), &caller).await?))
    }

    async fn list_overrides(
        &self,
        request: Request<v1::ListOverridesRequest>,
    ) -> Result<Response<v1::ListOverridesResponse>, Status> {
        Ok(Response::new(overrides::list(&self.0, request.get_ref())?))
    }

    async fn end_override(
        &self,
        request: Request<v1::EndOverrideRequest>,
    ) -> Result<Response<v1::EndOverrideResponse>, Status> {
        let caller = Caller::of(request.extensions()).clone();
        Ok(Response::new(overrides::end(&self.0, request.into_inner(), &caller).await?))
    }

    async fn report_node_status(
        &self,
        request: Request<Streaming<v1::ReportNodeStatusRequest>>,
    ) -> Result<Response<Self::ReportNodeStatusStream>, Status> {
        let caller = Caller::of(request.extensions()).clone();
        let place = self.0.report_streams.take_for(&caller)?;
        // An answer or two on their way, and perhaps the status that ends the stream.
        let (outbound, responses) = mpsc::channel(4);
        let work = reports::take(Arc::clone(&self.0), request.into_inner(), outbound.clone(), caller);
        self.0.spawn_stream("report_stream", place, outbound, work);
        Ok(Response::new(ReceiverStream::new(responses)))
    }

    async fn list_breakers(
        &self,
        request: Request<v1::ListBreakersRequest>,
    ) -> Result<Response<v1::ListBreakersResponse>, Status> {
        Ok(Response::new(breakers::list(&self.0, request.get_ref()).await?))
    }

    async fn watch_breakers(
        &self,
        request: Request<v1::WatchBreakersRequest>,
    ) -> Result<Response<Self::WatchBreakersStream>, Status> {
        let query = Query::parse_watch(request.get_ref()).map_err(Refusal::from)?;
        let place = self.0.watch_streams.take_for(Caller::of(request.extensions()))?;
        let (outbound, responses) = mpsc::channel(BUFFERED);
        let to_peer = outbound.clone();
        let watch = breakers::Watch::new(Arc::clone(&self.0), query, outbound);
        self.0.spawn_stream("watch_stream", place, to_peer, watch.follow());
        Ok(Response::new(ReceiverStream::new(responses)))
    }

    async fn explain_replica(
        &self,
        request: Request<v1::ExplainReplicaRequest>,
    ) -> Result<Response<v1::ExplainReplicaResponse>, Status> {
        Ok(Response::new(explain::replica(&self.0, request.get_ref()).await?))
    }

    async fn what_if(
        &self,
        request: Request<v1::WhatIfRequest>,
    ) -> Result<Response<v1::WhatIfResponse>, Status> {
        Ok(Response::new(what_if::ask(&self.0, request.into_inner()).await?))
    }

    async fn explain_service(
        &self,
        request: Request<v1::ExplainServiceRequest>,
    ) -> Result<Response<v1::ExplainServiceResponse>, Status> {
        Ok(Response::new(explain::service(&self.0, request.get_ref()).await?))
    }

    async fn list_nodes(
        &self,
        request: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesResponse>, Status> {
        let request = request.into_inner();
        let page = Page::parse(request.page_size, &request.page_token, &["nodes", &request.filter])?;
        let filter = Filter::parse(&NODES, &request.filter).map_err(Refusal::from)?;
        let revision = self.0.effects.publisher.read(View::revision);
        let myself = &self.0.myself;
        let is_outdated = !self.0.effects.leases.store_silence(clock::now()).is_zero();
        let observation = &self.0.effects.observation;
        let look = |after: Option<&String>| {
            let part: Vec<_> = observation.read(|nodes, matrix| {
                let listed = nodes.list_after(after.map_or("", String::as_str), revision).take(AT_ONCE);
                let shown = listed.map(|(id, mut node)| {
                    node.open_breaker_count = count(matrix.open_breaker_count(id));
                    if node.control_plane.is_empty() {
                        node.control_plane.clone_from(&myself.address);
                        if is_outdated {
                            node.set_state(outdated(node.state()));
                        }
                    }
                    node
                });
                shown.collect()
            });
            let reached = part.last().filter(|_| part.len() == AT_ONCE).map(|last| last.node_id.clone());
            (part, reached)
        };
        let after = page.after().map(str::to_owned);
        let found = page.admitted(after, look, |node| filter.admits(node)).await;
        let (nodes, next_page_token) = page.cut(found.into_iter(), |node| node.node_id.clone());
        Ok(Response::new(v1::ListNodesResponse {
            nodes,
            next_page_token,
            revision,
            silent_control_planes: observation.silent_control_planes(),
            control_plane: myself.address.clone(),
            control_plane_version: env!("CARGO_PKG_VERSION").into(),
            peers: observation.peer_control_planes(),
        }))
    }

    async fn list_events(
        &self,
        request: Request<v1::ListEventsRequest>,
    ) -> Result<Response<v1::ListEventsResponse>, Status> {
        Ok(Response::new(timeline::list(&self.0, request.get_ref())?))
    }

    async fn watch_events(
        &self,
        request: Request<v1::WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let (query, cursor) = timeline::begin(&self.0, request.get_ref())?;
        let place = self.0.event_streams.take_for(Caller::of(request.extensions()))?;
        let (outbound, responses) = mpsc::channel(1);
        let work = timeline::watch(Arc::clone(&self.0), query, cursor, outbound.clone());
        self.0.spawn_stream("event_stream", place, outbound, work);
        Ok(Response::new(ReceiverStream::new(responses)))
    }

    async fn watch_stats(
        &self,
        request: Request<v1::WatchStatsRequest>,
    ) -> Result<Response<Self::WatchStatsStream>, Status> {
        let (wish, interval) = statistics::parse(request.get_ref()).map_err(Refusal::from)?;
        let place = self.0.watch_streams.take_for(Caller::of(request.extensions()))?;
        let (outbound, responses) = mpsc::channel(1);
        let work = statistics::watch(Arc::clone(&self.0), wish, interval, outbound.clone());
        self.0.spawn_stream("watch_stream", place, outbound, work);
        Ok(Response::new(ReceiverStream::new(responses)))
    }
}
