//! `gateway.v1.ObservabilityService`: what data planes report, and what operators read.

use std::{sync::Arc, time::Duration};

use gateway_proto::{
    time::duration,
    v1::{self, observability_service_server::ObservabilityService},
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{
    HELLO_TIMEOUT, MAX_REPORT_BYTES,
    breakers::{Query, parse_row_name, row_name},
    identity, next_message, overrides,
    page::Page,
    registry::count,
};
use crate::{
    clock,
    edge::Edge,
    observe::{Cursor, EventFilter, Report},
    refusal::Refusal,
    registry::View,
    writer::WriteError,
};

/// How often data planes are told to report counts.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// Events in one message of a watch.
const WATCH_BATCH: usize = 256;

/// The service.
#[derive(Debug)]
pub(super) struct Observability(pub(super) Arc<Edge>);

#[tonic::async_trait]
impl ObservabilityService for Observability {
    type ReportNodeStatusStream = ReceiverStream<Result<v1::ReportNodeStatusResponse, Status>>;
    type WatchEventsStream = ReceiverStream<Result<v1::WatchEventsResponse, Status>>;
    type WatchBreakersStream = tokio_stream::Empty<Result<v1::WatchBreakersResponse, Status>>;
    type WatchStatsStream = tokio_stream::Empty<Result<v1::WatchStatsResponse, Status>>;

    async fn watch_breakers(
        &self,
        _: Request<v1::WatchBreakersRequest>,
    ) -> Result<Response<Self::WatchBreakersStream>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn watch_stats(
        &self,
        _: Request<v1::WatchStatsRequest>,
    ) -> Result<Response<Self::WatchStatsStream>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn override_breaker(
        &self,
        request: Request<v1::OverrideBreakerRequest>,
    ) -> Result<Response<v1::OverrideBreakerResponse>, Status> {
        let peer = request.remote_addr();
        Ok(Response::new(overrides::override_breaker(&self.0, request.into_inner(), peer).await?))
    }

    async fn reset_breaker(
        &self,
        request: Request<v1::ResetBreakerRequest>,
    ) -> Result<Response<v1::ResetBreakerResponse>, Status> {
        let peer = request.remote_addr();
        Ok(Response::new(overrides::reset_breaker(&self.0, request.into_inner(), peer).await?))
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
        let peer = request.remote_addr();
        Ok(Response::new(overrides::end(&self.0, request.into_inner(), peer).await?))
    }

    async fn report_node_status(
        &self,
        request: Request<Streaming<v1::ReportNodeStatusRequest>>,
    ) -> Result<Response<Self::ReportNodeStatusStream>, Status> {
        let place = self.0.report_streams.take()?;
        let peer = request.remote_addr().map(|peer| peer.to_string()).unwrap_or_default();
        // One answer, and perhaps the status that ends the stream.
        let (outbound, responses) = mpsc::channel(2);
        let edge = Arc::clone(&self.0);
        self.0.streams.spawn(async move {
            if let Err(status) = take_reports(edge, request.into_inner(), outbound.clone(), peer).await {
                let _ = outbound.try_send(Err(status));
            }
            drop(place);
        });
        Ok(Response::new(ReceiverStream::new(responses)))
    }

    async fn list_breakers(
        &self,
        request: Request<v1::ListBreakersRequest>,
    ) -> Result<Response<v1::ListBreakersResponse>, Status> {
        let request = request.into_inner();
        let query = Query::parse(&request).map_err(Refusal::from)?;
        let arguments = format!("{:?} {}", query, request.per_node);
        let page = Page::parse(request.page_size, &request.page_token, &["breakers", &arguments])?;
        let after = page.after().map(parse_row_name).transpose()?;
        let response = self.0.effects.observation.read(|nodes, matrix| {
            let (breakers, next_page_token) = match request.per_node {
                true => page.cut(query.rows(matrix, after.as_ref()), row_name),
                false => page.cut(query.merged(matrix, after.as_ref()), row_name),
            };
            let unreachable_node_ids = nodes.unreachable(clock::now());
            v1::ListBreakersResponse { breakers, next_page_token, unreachable_node_ids }
        });
        Ok(Response::new(response))
    }

    async fn list_nodes(
        &self,
        request: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesResponse>, Status> {
        let request = request.into_inner();
        let page = Page::parse(request.page_size, &request.page_token, &["nodes"])?;
        let revision = self.0.effects.publisher.read(View::revision);
        let (nodes, next_page_token) = self.0.effects.observation.read(|nodes, matrix| {
            let open = matrix.open_breaker_counts();
            let listed =
                nodes.list_after(page.after().unwrap_or_default(), revision).map(|(id, mut node)| {
                    node.open_breaker_count = count(open.get(id).copied().unwrap_or(0));
                    node
                });
            page.cut(listed, |node| node.node_id.clone())
        });
        Ok(Response::new(v1::ListNodesResponse { nodes, next_page_token, revision }))
    }

    async fn list_events(
        &self,
        request: Request<v1::ListEventsRequest>,
    ) -> Result<Response<v1::ListEventsResponse>, Status> {
        let request = request.into_inner();
        let filter = EventFilter::parse(&request.service, &request.replica_id).map_err(Refusal::from)?;
        let arguments = ["events", request.service.as_str(), request.replica_id.as_str()];
        let page = Page::parse(request.page_size, &request.page_token, &arguments)?;
        let before = page.after().map(|name| name.parse().map_err(|_| Refusal::PageToken)).transpose()?;
        let listed = self
            .0
            .effects
            .observation
            .read_events(|timeline| timeline.list(&filter, before, page.size() + 1));
        let (listed, next_page_token) = page.cut(listed.into_iter(), |(position, _)| position.to_string());
        let events = listed.into_iter().map(|(_, event)| Arc::unwrap_or_clone(event)).collect();
        Ok(Response::new(v1::ListEventsResponse { events, next_page_token }))
    }

    async fn watch_events(
        &self,
        request: Request<v1::WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let request = request.into_inner();
        let filter = EventFilter::parse(&request.service, &request.replica_id).map_err(Refusal::from)?;
        let cursor = match request.after_event_id.as_str() {
            "" => self.0.effects.observation.read_events(|timeline| Cursor::After(timeline.last())),
            id => {
                let cursor = self.0.effects.observation.read_events(|timeline| timeline.cursor(id));
                cursor.map_err(Refusal::from)?
            }
        };
        let place = self.0.event_streams.take()?;
        let (outbound, responses) = mpsc::channel(1);
        let edge = Arc::clone(&self.0);
        self.0.streams.spawn(async move {
            watch(&edge, &filter, cursor, outbound).await;
            drop(place);
        });
        Ok(Response::new(ReceiverStream::new(responses)))
    }
}

async fn take_reports(
    edge: Arc<Edge>,
    mut inbound: Streaming<v1::ReportNodeStatusRequest>,
    outbound: mpsc::Sender<Result<v1::ReportNodeStatusResponse, Status>>,
    peer: String,
) -> Result<(), Status> {
    let shutting_down = || Status::from(Refusal::from(WriteError::ShuttingDown));
    let first = tokio::select! {
        first = timeout(HELLO_TIMEOUT, next_message(&mut inbound, MAX_REPORT_BYTES)) => match first {
            Ok(first) => first?,
            Err(_) => return Err(Refusal::TooSlow(HELLO_TIMEOUT).into()),
        },
        () = edge.shutdown.begun() => return Err(shutting_down()),
    };
    let Some(mut message) = first else { return Ok(()) };
    let identity = identity(message.node.take().unwrap_or_default(), peer);
    let identity = identity.map_err(|invalid| Refusal::from(invalid.within("node")))?;
    let seat = edge.effects.observation.begin_reports(identity).map_err(Refusal::from)?;
    let response = v1::ReportNodeStatusResponse {
        report_interval: Some(duration(REPORT_INTERVAL)),
        detailed_stats: false,
    };
    // The channel is new and has room; a peer that has gone shows below.
    let _ = outbound.try_send(Ok(response));
    loop {
        if message.dropped_event_count > 0 {
            let lost = message.dropped_event_count;
            tracing::warn!(node = %seat.node(), lost, "the data plane could not tell all its transitions");
        }
        let report = Report::parse(seat.node(), message).map_err(Refusal::from)?;
        seat.reported(report, |key| edge.effects.publisher.read(|view| view.get(key).is_some()));
        message = tokio::select! {
            next = next_message(&mut inbound, MAX_REPORT_BYTES) => match next? {
                Some(next) => next,
                None => return Ok(()),
            },
            () = seat.superseded() => return Err(Refusal::Superseded(seat.node().clone()).into()),
            () = outbound.closed() => return Ok(()),
            () = edge.shutdown.begun() => return Err(shutting_down()),
        };
    }
}

async fn watch(
    edge: &Edge,
    filter: &EventFilter,
    mut cursor: Cursor,
    outbound: mpsc::Sender<Result<v1::WatchEventsResponse, Status>>,
) {
    let observation = &edge.effects.observation;
    let mut last = observation.subscribe();
    loop {
        let seen = *last.borrow_and_update();
        let since = observation.read_events(|timeline| timeline.since(cursor, filter, WATCH_BATCH));
        cursor = Cursor::After(since.reached);
        if since.gap || !since.events.is_empty() {
            let events = since.events.into_iter().map(Arc::unwrap_or_clone).collect();
            let message = Ok(v1::WatchEventsResponse { events, gap: since.gap });
            // A slow reader holds up only itself: what it misses shows as a gap.
            tokio::select! {
                sent = outbound.send(message) => if sent.is_err() { return },
                () = edge.shutdown.begun() => return,
            }
        }
        if since.reached < seen {
            continue;
        }
        tokio::select! {
            _ = last.changed() => {}
            () = outbound.closed() => return,
            () = edge.shutdown.begun() => {
                // The reader may be behind; then it learns of the end from the end itself.
                let _ = outbound.try_send(Err(Refusal::from(WriteError::ShuttingDown).into()));
                return;
            }
        }
    }
}
