//! `gateway.v1.DiscoveryService`: one task for each data plane, which does what its [`Session`] says.
//!
//! A tool that looks has such a task, too, and no [`Seat`]: it is neither listed nor waited for.

mod wire;

use std::{
    future::pending,
    sync::Arc,
    time::{Duration, Instant},
};

use gateway_proto::{
    Invalid, NodeId,
    time::{duration, timestamp},
    v1::{self, stream_snapshots_request::Message, stream_snapshots_response::Update},
};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, watch},
    time::{sleep, sleep_until, timeout},
};
use tonic::{Status, Streaming};

pub(super) use self::wire::Discovery;
use self::wire::{Outgoing, Responses};
use super::{HELLO_TIMEOUT, MAX_REQUEST_BYTES, identity, next_message};
use crate::{
    auth::Caller,
    clock,
    edge::Edge,
    observe::Seat,
    publish::{CatchUp, Encoded, Filter, Full, Heard, Next, Session},
    refusal::Refusal,
    registry::{Revision, View},
    writer::WriteError,
};

/// Responses between the task and the connection: one unacked and the bookmarks of a peer that reads slowly.
const BUFFERED: usize = 4;

/// How long a data plane that is ahead of this control plane waits for it.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(5);

type Outbound = mpsc::Sender<Result<Outgoing, Status>>;

/// Takes a place for a stream and begins it.
fn open(
    edge: &Arc<Edge>,
    inbound: Streaming<v1::StreamSnapshotsRequest>,
    caller: Caller,
) -> Result<Responses, Status> {
    let place = edge.snapshot_streams.take_for(&caller)?;
    let (outbound, responses) = mpsc::channel(BUFFERED);
    let work = serve(Arc::clone(edge), inbound, outbound.clone(), caller);
    edge.spawn_stream("snapshot_stream", place, outbound, work);
    Ok(Responses::new(responses))
}

async fn serve(
    edge: Arc<Edge>,
    mut inbound: Streaming<v1::StreamSnapshotsRequest>,
    outbound: Outbound,
    caller: Caller,
) -> Result<(), Status> {
    let peer = caller.from().map(|from| from.to_string()).unwrap_or_default();
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
    let node = hello.node.clone().unwrap_or_default();
    let is_observer = read_role(hello.role).map_err(|error| invalid(error.within("hello")))?;
    // Of data planes there are as many as nodes are allowed, of those who look as many as may watch.
    let place = is_observer.then(|| edge.watch_streams.take_for(&caller)).transpose()?;
    let identity = if is_observer {
        None
    } else {
        let identity = identity(node, peer.clone()).map_err(|error| invalid(error.within("hello.node")))?;
        caller.admit_node(&identity.id, "StreamSnapshots").map_err(Refusal::from)?;
        Some(identity)
    };
    let publisher = &edge.effects.publisher;
    let is_ours = hello.resume_epoch == publisher.epoch();
    if is_ours {
        catch_up_with(&edge, hello.resume_revision).await?;
    } else if !hello.resume_epoch.is_empty() && edge.effects.leases.have_left() {
        // It may have that from where the registry goes on, and is not sent back.
        return Err(Refusal::from(edge.why_cut_off()).into());
    }
    // Who is turned away takes no turn from others, but where there are too many.
    let wait = identity.as_ref().map_or(Duration::ZERO, |_| edge.snapshot_starts.reserve(clock::now()));
    if !wait.is_zero() {
        tokio::select! {
            () = sleep(wait) => {}
            () = outbound.closed() => return Ok(()),
            () = edge.shutdown.begun() => return Err(Refusal::from(WriteError::ShuttingDown).into()),
        }
    }
    // A data plane that is ahead knows what this store has lost: nothing leads on from there.
    let held = 0..=publisher.read(View::revision);
    let resume = (is_ours && held.contains(&hello.resume_revision)).then_some(hello.resume_revision);
    let seat = if let Some(identity) = identity {
        let seat = edge
            .effects
            .observation
            .connect(identity, resume.unwrap_or(0), hello.left)
            .map_err(Refusal::from)?;
        tracing::info!(node = %seat.node(), resume = ?resume, "data plane connected");
        Some(seat)
    } else {
        tracing::debug!(peer, resume = ?resume, "observer connected");
        None
    };
    let session = Session::new(resume, clock::now());
    let head = publisher.subscribe();
    let stream =
        Stream { edge: Arc::clone(&edge), seat, session, filter, parts: None, turn: None, outbound, head };
    let ended = stream.follow(inbound).await;
    drop(place);
    ended
}

/// Waits for this control plane to know what a data plane learnt from another one on the same store: that is a moment
/// ahead at most, unless this one is cut off. Then the data plane is turned away, for what it has is newer.
async fn catch_up_with(edge: &Edge, revision: Revision) -> Result<(), Status> {
    let is_behind = edge.effects.publisher.read(View::revision) < revision;
    if !is_behind || !(edge.is_store_shared || edge.effects.observation.has_peers()) {
        return Ok(());
    }
    let mut head = edge.effects.publisher.subscribe();
    let caught_up = tokio::select! {
        caught_up = timeout(CATCH_UP_TIMEOUT, head.wait_for(|known| *known >= revision)) => caught_up.is_ok(),
        () = edge.shutdown.begun() => return Err(Refusal::from(WriteError::ShuttingDown).into()),
    };
    if !caught_up && edge.is_store_shared {
        let is_in_touch = edge.effects.leases.are_in_touch(clock::now()) && edge.refusing.borrow().is_none();
        if !is_in_touch {
            return Err(Refusal::from(edge.why_cut_off()).into());
        }
    }
    Ok(())
}

/// Whether it is a tool that looks.
fn read_role(number: i32) -> Result<bool, Invalid> {
    match v1::SnapshotRole::try_from(number) {
        Ok(v1::SnapshotRole::Unspecified | v1::SnapshotRole::DataPlane) => Ok(false),
        Ok(v1::SnapshotRole::Observer) => Ok(true),
        Err(_) => Err(Invalid::new("role", format!("{number} is no SnapshotRole"))),
    }
}

fn invalid(invalid: Invalid) -> Status {
    Refusal::from(invalid).into()
}

/// Parts of full snapshots under way to all data planes together. Enough to keep the network busy, and no more: so each
/// goes out quickly, and pings and deltas of others do not wait behind the registry sent a thousand times.
pub(crate) const MAX_PARTS_UNDER_WAY: usize = 64;
/// A data plane that has not acked a part for this long has lost its turn to another one.
const TURN: Duration = Duration::from_secs(1);

/// One data plane's stream.
struct Stream {
    edge: Arc<Edge>,
    /// `None`: an observer's.
    seat: Option<Seat>,
    session: Session,
    filter: Filter,
    /// The full snapshot under way and how many of its parts have been sent.
    parts: Option<(Full, usize)>,
    /// The right to have a part under way, and when it ends.
    turn: Option<(OwnedSemaphorePermit, Instant)>,
    outbound: Outbound,
    head: watch::Receiver<Revision>,
}

impl Stream {
    async fn follow(mut self, mut inbound: Streaming<v1::StreamSnapshotsRequest>) -> Result<(), Status> {
        let shutdown = self.edge.shutdown.clone();
        loop {
            let head = *self.head.borrow_and_update();
            let now = clock::now();
            self.turn = self.turn.take().filter(|(_, end)| now < *end);
            let wants_turn = Arc::clone(&self.edge.parts_under_way).acquire_owned();
            let next = self.session.next(now, head);
            let until = match next {
                Next::Full if self.turn.is_none() => now,
                Next::Full => {
                    tokio::select! {
                        sent = self.send_part() => sent?,
                        () = shutdown.begun() => return Err(Refusal::from(WriteError::ShuttingDown).into()),
                    }
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
                    let bookmark = Encoded::new(Update::Bookmark(v1::Bookmark { content_hash }));
                    self.send(nonce, revision, &bookmark)?;
                    continue;
                }
                Next::Wait { until } => self.turn.as_ref().map_or(until, |(_, end)| until.min(*end)),
                Next::End => return Err(Refusal::AckOverdue.into()),
            };
            tokio::select! {
                message = next_message(&mut inbound, MAX_REQUEST_BYTES) => match message? {
                    Some(message) => self.hear(message)?,
                    None => return Ok(()),
                },
                // No change interrupts this wait: whoever begins it anew is the last in the queue.
                turn = wants_turn, if next == Next::Full => {
                    let turn = turn.expect("the semaphore is never closed");
                    self.turn = Some((turn, clock::now() + TURN));
                }
                // The publisher outlives every stream, so this ends only with a change.
                _ = self.head.changed(), if next != Next::Full => {}
                () = sleep_until(until.into()), if next != Next::Full => {}
                node = superseded(self.seat.as_ref()) => {
                    tracing::warn!(%node, "a newer stream of the same data plane has begun");
                    return Err(Refusal::Superseded(node).into());
                }
                () = self.outbound.closed() => return Ok(()),
                () = shutdown.begun() => return Err(Refusal::from(WriteError::ShuttingDown).into()),
            }
        }
    }

    fn hear(&mut self, message: v1::StreamSnapshotsRequest) -> Result<(), Status> {
        let ack = match message.message {
            Some(Message::Ack(ack)) => ack,
            Some(Message::SubscriptionChange(change)) => {
                let filter = self.filter.change(&change);
                self.filter = filter.map_err(|error| invalid(error.within("subscription_change")))?;
                self.parts = None;
                self.turn = None;
                self.session.start_over();
                return Ok(());
            }
            Some(Message::Hello(_)) | None => {
                let why = "must be ack or subscription_change in every message but the first";
                return Err(invalid(Invalid::new("message", why)));
            }
        };
        let heard = self.session.heard(clock::now(), ack);
        if heard != Heard::Stale {
            self.turn = None;
        }
        if matches!(heard, Heard::Nacked(_)) {
            self.parts = None;
        }
        match (heard, &self.seat) {
            (Heard::Acked(revision), Some(seat)) => seat.acked(revision),
            (Heard::Nacked(nack), Some(seat)) => seat.nacked(nack),
            _ => {}
        }
        Ok(())
    }

    /// Sends the next part of a full snapshot. Cancel safe.
    async fn send_part(&mut self) -> Result<(), Status> {
        let ((revision, parts), index) = match self.parts.take() {
            Some(under_way) => under_way,
            None => {
                let at_least = self.session.at_least();
                (self.edge.effects.publisher.full_in_turn(&self.filter, at_least).await, 0)
            }
        };
        let part = parts[index].clone();
        let is_last = index + 1 == parts.len();
        if !is_last {
            self.parts = Some(((revision, parts), index + 1));
        }
        let nonce = self.session.sent(clock::now(), revision, is_last);
        self.send(nonce, revision, &part)
    }

    fn send_delta(&mut self, base: Revision) -> Result<(), Status> {
        match self.edge.effects.publisher.catch_up(base, &self.filter) {
            CatchUp::Delta(revision, delta) => {
                let nonce = self.session.sent(clock::now(), revision, true);
                self.send(nonce, revision, &delta)
            }
            CatchUp::Nothing(revision) => {
                self.session.skip(revision);
                if let Some(seat) = &self.seat {
                    seat.unaffected(revision);
                }
                Ok(())
            }
            CatchUp::TooFar => {
                self.session.lose_track();
                Ok(())
            }
        }
    }

    fn send(&self, nonce: String, revision: Revision, update: &Encoded) -> Result<(), Status> {
        let head = v1::StreamSnapshotsResponse {
            nonce,
            epoch: self.edge.effects.publisher.epoch().to_owned(),
            revision,
            publish_time: Some(timestamp(clock::wall())),
            store_silence: Some(duration(self.edge.effects.leases.store_silence(clock::now()))),
            goes_on_elsewhere: self.edge.effects.leases.have_left(),
            update: None,
        };
        // The buffer is full only when the peer has read nothing for several bookmarks.
        let response = Outgoing::new(&head, update);
        self.outbound.try_send(Ok(response)).map_err(|_| Refusal::AckOverdue)?;
        if let Some(seat) = &self.seat {
            seat.sent(revision);
        }
        Ok(())
    }
}

/// Completes with the data plane's id when a newer stream of it has come. Cancel safe.
async fn superseded(seat: Option<&Seat>) -> NodeId {
    match seat {
        Some(seat) => {
            seat.superseded().await;
            seat.node().clone()
        }
        None => pending().await,
    }
}
