//! `gateway.v1.DiscoveryService`: one task for each data plane, which does what its [`Session`] says.

use std::sync::Arc;

use gateway_proto::{
    Invalid,
    time::timestamp,
    v1::{
        self, discovery_service_server::DiscoveryService, stream_snapshots_request::Message,
        stream_snapshots_response::Update,
    },
};
use tokio::{
    sync::{mpsc, watch},
    time::{sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{HELLO_TIMEOUT, MAX_REQUEST_BYTES, identity, next_message};
use crate::{
    clock,
    edge::Edge,
    observe::Seat,
    publish::{CatchUp, Filter, Heard, Next, Session},
    refusal::Refusal,
    registry::{Revision, View},
    writer::WriteError,
};

/// Responses between the task and the connection: one unacked and the bookmarks of a peer that reads slowly.
const BUFFERED: usize = 4;

/// The service.
#[derive(Debug)]
pub(super) struct Discovery(pub(super) Arc<Edge>);

type Outbound = mpsc::Sender<Result<v1::StreamSnapshotsResponse, Status>>;

#[tonic::async_trait]
impl DiscoveryService for Discovery {
    type StreamSnapshotsStream = ReceiverStream<Result<v1::StreamSnapshotsResponse, Status>>;

    async fn stream_snapshots(
        &self,
        request: Request<Streaming<v1::StreamSnapshotsRequest>>,
    ) -> Result<Response<Self::StreamSnapshotsStream>, Status> {
        let place = self.0.snapshot_streams.take()?;
        let peer = request.remote_addr().map(|peer| peer.to_string()).unwrap_or_default();
        let (outbound, responses) = mpsc::channel(BUFFERED);
        let work = serve(Arc::clone(&self.0), request.into_inner(), outbound.clone(), peer);
        self.0.spawn_stream("snapshot_stream", place, outbound, work);
        Ok(Response::new(ReceiverStream::new(responses)))
    }
}

async fn serve(
    edge: Arc<Edge>,
    mut inbound: Streaming<v1::StreamSnapshotsRequest>,
    outbound: Outbound,
    peer: String,
) -> Result<(), Status> {
    let hello = tokio::select! {
        hello = timeout(HELLO_TIMEOUT, next_message(&mut inbound, MAX_REQUEST_BYTES)) => match hello {
            Ok(hello) => hello?,
            Err(_) => return Err(Refusal::TooSlow(HELLO_TIMEOUT).into()),
        },
        () = edge.shutdown.begun() => return Err(Refusal::from(WriteError::ShuttingDown).into()),
    };
    let hello = match hello.map(|message| message.message) {
        Some(Some(Message::Hello(hello))) => hello,
        Some(_) => return Err(invalid(Invalid::new("message", "must be hello in the first message"))),
        None => return Ok(()),
    };
    let filter = Filter::parse(&hello.services).map_err(|error| invalid(error.within("hello")))?;
    let node = hello.node.unwrap_or_default();
    let identity = identity(node, peer).map_err(|error| invalid(error.within("hello.node")))?;
    let publisher = &edge.effects.publisher;
    let is_ours = hello.resume_epoch == publisher.epoch();
    // A data plane that is ahead knows what this store has lost: nothing leads on from there.
    let held = 0..=publisher.read(View::revision);
    let resume = (is_ours && held.contains(&hello.resume_revision)).then_some(hello.resume_revision);
    let seat = edge.effects.observation.connect(identity, resume.unwrap_or(0)).map_err(Refusal::from)?;
    tracing::info!(node = %seat.node(), resume = ?resume, "data plane connected");
    let session = Session::new(resume, clock::now());
    let head = publisher.subscribe();
    Stream { edge: Arc::clone(&edge), seat, session, filter, parts: None, outbound, head }
        .follow(inbound)
        .await
}

fn invalid(invalid: Invalid) -> Status {
    Refusal::from(invalid).into()
}

/// One data plane's stream.
struct Stream {
    edge: Arc<Edge>,
    seat: Seat,
    session: Session,
    filter: Filter,
    /// The full snapshot under way and how many of its parts have been sent.
    parts: Option<Parts>,
    outbound: Outbound,
    head: watch::Receiver<Revision>,
}

struct Parts {
    revision: Revision,
    parts: Arc<[v1::FullSnapshot]>,
    sent: usize,
}

impl Stream {
    async fn follow(mut self, mut inbound: Streaming<v1::StreamSnapshotsRequest>) -> Result<(), Status> {
        let shutdown = self.edge.shutdown.clone();
        loop {
            let head = *self.head.borrow_and_update();
            let until = match self.session.next(clock::now(), head) {
                Next::Full => {
                    self.send_part()?;
                    continue;
                }
                Next::Delta { base } => {
                    self.send_delta(base)?;
                    continue;
                }
                Next::Bookmark { revision } => {
                    let nonce = self.session.sent_bookmark(clock::now(), revision);
                    let hash = self.edge.effects.publisher.content_hash(&self.filter, revision);
                    let content_hash = hash.map(|hash| hash.to_string()).unwrap_or_default();
                    self.send(nonce, revision, Update::Bookmark(v1::Bookmark { content_hash }))?;
                    continue;
                }
                Next::Wait { until } => until,
                Next::End => return Err(Refusal::AckOverdue.into()),
            };
            tokio::select! {
                message = next_message(&mut inbound, MAX_REQUEST_BYTES) => match message? {
                    Some(message) => self.hear(message)?,
                    None => return Ok(()),
                },
                // The publisher outlives every stream, so this ends only with a change.
                _ = self.head.changed() => {}
                () = sleep_until(until.into()) => {}
                () = self.seat.superseded() => {
                    tracing::warn!(node = %self.seat.node(), "a newer stream of the same data plane has begun");
                    return Err(Refusal::Superseded(self.seat.node().clone()).into());
                }
                () = self.outbound.closed() => return Ok(()),
                () = shutdown.begun() => return Err(Refusal::from(WriteError::ShuttingDown).into()),
            }
        }
    }

    fn hear(&mut self, message: v1::StreamSnapshotsRequest) -> Result<(), Status> {
        let Some(Message::Ack(ack)) = message.message else {
            return Err(invalid(Invalid::new("message", "must be ack in every message but the first")));
        };
        match self.session.heard(clock::now(), ack) {
            Heard::Acked(revision) => self.seat.acked(revision),
            Heard::Nacked(nack) => {
                self.parts = None;
                self.seat.nacked(cut(nack));
            }
            Heard::Part | Heard::Stale => {}
        }
        Ok(())
    }

    fn send_part(&mut self) -> Result<(), Status> {
        let Parts { revision, parts, sent } = self.parts.take().unwrap_or_else(|| {
            let at_least = self.session.at_least();
            let (revision, parts) = self.edge.effects.publisher.full(&self.filter, at_least);
            Parts { revision, parts, sent: 0 }
        });
        let part = parts[sent].clone();
        if !part.last_part {
            self.parts = Some(Parts { revision, parts, sent: sent + 1 });
        }
        let nonce = self.session.sent(clock::now(), revision, part.last_part);
        self.send(nonce, revision, Update::Full(part))
    }

    fn send_delta(&mut self, base: Revision) -> Result<(), Status> {
        match self.edge.effects.publisher.catch_up(base, &self.filter) {
            CatchUp::Delta(revision, delta) => {
                let nonce = self.session.sent(clock::now(), revision, true);
                self.send(nonce, revision, Update::Delta(delta))
            }
            CatchUp::Nothing(revision) => {
                self.session.skip(revision);
                self.seat.unaffected(revision);
                Ok(())
            }
            CatchUp::TooFar => {
                self.session.lose_track();
                Ok(())
            }
        }
    }

    fn send(&self, nonce: String, revision: Revision, update: Update) -> Result<(), Status> {
        let response = v1::StreamSnapshotsResponse {
            nonce,
            epoch: self.edge.effects.publisher.epoch().to_owned(),
            revision,
            publish_time: Some(timestamp(clock::wall())),
            update: Some(update),
        };
        // The buffer is full only when the peer has read nothing for several bookmarks.
        self.outbound.try_send(Ok(response)).map_err(|_| Refusal::AckOverdue)?;
        self.seat.sent(revision);
        Ok(())
    }
}

/// A nack is kept and shown, so it has bounds.
fn cut(nack: v1::Nack) -> v1::Nack {
    let short = |text: String, max: usize| text.chars().take(max).collect();
    v1::Nack { reason: short(nack.reason, 63), message: short(nack.message, 512) }
}
