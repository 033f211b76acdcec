//! `gateway.v1.PeerService`: tells another control plane what is observed here, and nowhere else.

use std::{sync::Arc, time::Duration};

use gateway_proto::{
    Invalid,
    time::duration,
    v1::{self, peer_service_server::PeerService},
};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout, timeout_at},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{HELLO_TIMEOUT, MAX_REQUEST_BYTES, next_message};
use crate::{
    auth::Caller,
    edge::Edge,
    observe::{MAX_OPEN_QUESTIONS, Sent, StatsReader, Wish},
    refusal::Refusal,
    registry::{Revision, View},
    writer::WriteError,
};

/// Messages between the task and the connection.
const BUFFERED: usize = 4;
/// What changes within this time is told together.
const GATHER: Duration = Duration::from_millis(50);
/// A sign of life, and the interval of counts.
const BEAT: Duration = Duration::from_secs(1);
/// Data planes have this long to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Counts in one message.
const MAX_STATS: usize = 1000;

type Outbound = mpsc::Sender<Result<v1::FollowObservationsResponse, Status>>;

/// The service.
#[derive(Debug)]
pub(super) struct Peers(pub(super) Arc<Edge>);

#[tonic::async_trait]
impl PeerService for Peers {
    type FollowObservationsStream = ReceiverStream<Result<v1::FollowObservationsResponse, Status>>;

    async fn follow_observations(
        &self,
        request: Request<Streaming<v1::FollowObservationsRequest>>,
    ) -> Result<Response<Self::FollowObservationsStream>, Status> {
        let caller = Caller::of(request.extensions()).clone();
        let place = self.0.peer_streams.take_for(&caller)?;
        let (outbound, responses) = mpsc::channel(BUFFERED);
        let work = serve(Arc::clone(&self.0), caller, request.into_inner(), outbound.clone());
        self.0.spawn_stream("peer_stream", place, outbound, work);
        Ok(Response::new(ReceiverStream::new(responses)))
    }
}

async fn serve(
    edge: Arc<Edge>,
    caller: Caller,
    mut inbound: Streaming<v1::FollowObservationsRequest>,
    outbound: Outbound,
) -> Result<(), Status> {
    let shutting_down = || Status::from(Refusal::from(WriteError::ShuttingDown));
    let first = tokio::select! {
        first = timeout(HELLO_TIMEOUT, next_message(&mut inbound, MAX_REQUEST_BYTES)) => match first {
            Ok(first) => first?,
            Err(_) => return Err(Refusal::TooSlow(HELLO_TIMEOUT).into()),
        },
        () = edge.shutdown.begun() => return Err(shutting_down()),
    };
    let Some(first) = first else { return Ok(()) };
    let Some(peer) = &first.peer else {
        return Err(Refusal::from(Invalid::new("peer", "is required in the first message")).into());
    };
    tracing::info!(peer = ?peer.address, version = ?peer.version, "another control plane follows");
    let knows_events = first.events_of_process_id == edge.myself.process_id;
    let sent = Sent::after_event(if knows_events { first.after_event_number.max(0) } else { 0 });
    let marked = (Revision::MIN, false, Instant::now());
    let telling = Telling {
        stats: read_stats(&edge, false),
        edge: Arc::clone(&edge),
        caller,
        outbound: outbound.clone(),
        listener: peer.process_id.clone(),
        sent,
        marked,
        is_detailed: false,
        questions: JoinSet::new(),
    };
    tokio::select! {
        ended = telling.tell(first, inbound) => ended,
        () = outbound.closed() => Ok(()),
        () = edge.shutdown.begun() => Err(shutting_down()),
    }
}

/// One listener.
struct Telling {
    edge: Arc<Edge>,
    /// Whoever it is: each of its messages counts as a request.
    caller: Caller,
    outbound: Outbound,
    /// Its process.
    listener: String,
    sent: Sent,
    /// The last mark, its revision and whether all data planes were known, and when it was told.
    marked: (Revision, bool, Instant),
    /// What data planes count, of services or of replicas, too.
    stats: StatsReader,
    is_detailed: bool,
    /// What it asks, while it is being answered.
    questions: JoinSet<()>,
}

impl Telling {
    async fn tell(
        mut self,
        first: v1::FollowObservationsRequest,
        mut inbound: Streaming<v1::FollowObservationsRequest>,
    ) -> Result<(), Status> {
        let Self { edge, .. } = &self;
        let observation = Arc::clone(&edge.effects.observation);
        let (mut progress, mut events) = (observation.follow_progress(), observation.follow_events());
        let mut head = edge.effects.publisher.subscribe();
        let identity = edge.myself.to_wire(edge.effects.publisher.epoch());
        self.send(v1::FollowObservationsResponse { peer: Some(identity), ..Default::default() }).await;
        self.hear(first).await?;
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            progress.mark_unchanged();
            events.mark_unchanged();
            head.mark_unchanged();
            self.tell_all().await;
            let gathered = Instant::now() + GATHER;
            // The senders live as long as the control plane.
            tokio::select! {
                _ = progress.changed() => sleep_until(gathered).await,
                _ = events.changed() => sleep_until(gathered).await,
                _ = head.changed() => sleep_until(gathered).await,
                _ = beat.tick() => self.tell_stats().await,
                next = next_message(&mut inbound, MAX_REQUEST_BYTES) => match next? {
                    Some(next) => {
                        self.caller.charge().map_err(Refusal::from)?;
                        self.hear(next).await?;
                    }
                    None => return Ok(()),
                },
                Some(_) = self.questions.join_next() => {}
            }
        }
    }

    async fn hear(&mut self, request: v1::FollowObservationsRequest) -> Result<(), Refusal> {
        self.sent.hear(&request)?;
        if self.is_detailed != request.detailed_stats {
            // What was counted so far is told, and what comes meanwhile is another reader's already.
            let next = read_stats(&self.edge, request.detailed_stats);
            let (rows, interval, _) = std::mem::replace(&mut self.stats, next).take();
            self.send_stats(rows, interval).await;
            self.is_detailed = request.detailed_stats;
        }
        if let Some(question) = request.what_if.filter(|_| self.questions.len() < MAX_OPEN_QUESTIONS) {
            self.questions.spawn(answer(Arc::clone(&self.edge), question, self.outbound.clone()));
        }
        Ok(())
    }

    /// Tells what is new, and up to where all has been told.
    async fn tell_all(&mut self) {
        loop {
            let revision = self.edge.effects.publisher.read(View::revision);
            // Before what is told is collected: what comes to be known here after that is told, too.
            let knows_all_nodes = self.edge.effects.observation.knows_all_nodes_beside(&self.listener);
            let (mut message, is_all) = self.edge.effects.observation.tell_peer(&mut self.sent);
            let is_news = !is_all
                || !message.nodes.is_empty()
                || !message.gone_node_ids.is_empty()
                || !message.breakers.is_empty()
                || !message.events.is_empty();
            let (marked, knew_all_nodes, at) = self.marked;
            let is_due = (marked, knew_all_nodes) != (revision, knows_all_nodes) || at.elapsed() >= BEAT / 2;
            // Two that only tell each other that they have been told would never come to rest.
            if is_news || is_due {
                message.revision = revision;
                message.mark = is_all.then_some(v1::PeerMark { revision, knows_all_nodes });
                self.send(message).await;
            }
            if is_all {
                if is_news || is_due {
                    self.marked = (revision, knows_all_nodes, Instant::now());
                }
                return;
            }
        }
    }

    async fn tell_stats(&mut self) {
        let (rows, interval, _) = self.stats.take();
        self.send_stats(rows, interval).await;
    }

    async fn send_stats(&self, mut rows: Vec<v1::ReplicaStats>, interval: Duration) {
        while !rows.is_empty() {
            let rest = rows.split_off(rows.len().min(MAX_STATS));
            let stats = std::mem::replace(&mut rows, rest);
            let stats_interval = Some(duration(interval));
            self.send(v1::FollowObservationsResponse { stats, stats_interval, ..Default::default() }).await;
        }
    }

    /// Waits for the listener to take it. That it has left shows elsewhere.
    async fn send(&self, message: v1::FollowObservationsResponse) {
        let _ = self.outbound.send(Ok(message)).await;
    }
}

/// Sums up what data planes here tell anyhow, or what they count in detail.
fn read_stats(edge: &Edge, is_detailed: bool) -> StatsReader {
    let wish = Wish { service: None, per_replica: is_detailed, for_peer: true, quietly: !is_detailed };
    edge.effects.observation.read_stats(wish)
}

/// Asks the data planes that report here, and hands their answers on.
async fn answer(edge: Arc<Edge>, question: v1::WhatIfQuestion, outbound: Outbound) {
    let v1::WhatIfQuestion { question_id, service, breaker } = question;
    let questions = edge.effects.observation.questions();
    let Some((mut open, _)) = questions.ask_here(service, breaker.unwrap_or_default()) else { return };
    let end = Instant::now() + PATIENCE;
    while let Ok(Some(answered)) = timeout_at(end, open.next()).await {
        let answer = v1::PeerWhatIfAnswer {
            node_id: answered.node.to_string(),
            answer: Some(answered.to_wire(question_id)),
        };
        let message = v1::FollowObservationsResponse { what_if_answer: Some(answer), ..Default::default() };
        if outbound.send(Ok(message)).await.is_err() {
            return;
        }
    }
}
