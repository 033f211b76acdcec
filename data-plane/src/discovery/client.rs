//! Follows the control plane's snapshot stream for as long as the process lives.
//!
//! One stream at a time, from one control plane at a time. When it ends, for whatever reason, the snapshot in use stays
//! in use, and the next stream resumes from it, at the same control plane or at another one. One that is behind what is held
//! is left for another one, or waited for where there is none: the snapshot in use never goes back.

use std::time::Duration;

use gateway_proto::v1::{
    self, discovery_service_client::DiscoveryServiceClient, stream_snapshots_request::Message,
};
use gateway_runtime::{Shutdown, root_cause};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, timeout},
};
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tonic::{Code, Status, transport::Channel};

use super::{Assembly, Feed, Position, Received, Refusal, Services, current};
use crate::control_plane::{Candidate, ControlPlane, Reconnect};

/// The control plane says something at least every 5 s; after three times that it is dead or cut off.
const SILENCE: Duration = Duration::from_secs(15);
/// A control plane that sends what cannot be taken, again and again, is left for the next one.
const MAX_REFUSALS_IN_A_ROW: u32 = 3;
/// At least this long, and at most twice as long, a stream is left to the data plane that took it over.
const TAKEN_OVER_PAUSE: Duration = Duration::from_secs(10);
/// The control plane sends full snapshots in parts of about 1 MiB; a merged delta may be larger.
pub(super) const MAX_MESSAGE_BYTES: usize = 16 << 20;
/// The protocol allows one unacked response, so more answers than this cannot wait.
const ANSWERS: usize = 4;

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("{0}")]
    Unreachable(String),
    #[error("{}: {}", .0.code(), .0.message())]
    Failed(Status),
    #[error("another data plane follows under the same node id: give each its own --node-id")]
    Superseded,
    #[error("the control plane ended the stream")]
    Closed,
    #[error("no message for {SILENCE:?}")]
    Silent,
    #[error("the control plane does not read what it is answered")]
    NotRead,
    #[error("the control plane is behind: {0}")]
    Behind(String),
    #[error("{MAX_REFUSALS_IN_A_ROW} updates in a row were refused, the last one because {0}")]
    Refused(String),
    #[error("it has lost touch with its store, and another one has not")]
    Outdated(Box<Candidate>),
    #[error("all services are carried from now on, or some only, which a new stream has to say")]
    Resubscribed,
}

impl From<Status> for Ended {
    fn from(status: Status) -> Self {
        // The one conflict there is on this stream.
        if status.code() == Code::Aborted { Self::Superseded } else { Self::Failed(status) }
    }
}

impl Ended {
    /// For metrics.
    fn reason(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Failed(_) => "failed",
            Self::Superseded => "superseded",
            Self::Closed => "closed",
            Self::Silent => "silent",
            Self::NotRead => "not_read",
            Self::Behind(_) => "behind",
            Self::Refused(_) => "refused",
            Self::Outdated(_) => "outdated",
            Self::Resubscribed => "resubscribed",
        }
    }
}

/// Follows `control_plane` until `stop` begins, for the services that are to be carried. Dropping the future ends the stream.
pub(crate) async fn follow(
    control_plane: &ControlPlane,
    node: &v1::NodeIdentity,
    services: &watch::Sender<Services>,
    feed: &Feed,
    stop: &Shutdown,
) {
    let mut services = services.subscribe();
    let mut reconnect = Reconnect::default();
    // A connection to the control plane in use that is there already.
    let mut ready = None;
    // From one that had lost touch with its store.
    let mut last_move = None;
    // A follower before this one may have failed in the middle of a stream.
    feed.set_disconnected();
    loop {
        tokio::select! {
            () = control_plane.hold().released() => {}
            () = stop.begun() => return,
        }
        feed.carry(&services.borrow_and_update());
        let ended = tokio::select! {
            ended = follow_once(control_plane, ready.take(), last_move, node, &mut services, feed, &mut reconnect) => ended,
            () = stop.begun() => return,
        };
        feed.end(ended.reason());
        if matches!(ended, Ended::Resubscribed) {
            tracing::info!(reason = %ended, "beginning a new stream");
            continue;
        }
        if let Ended::Outdated(candidate) = ended {
            last_move = Some(tokio::time::Instant::now());
            let left = control_plane.followed();
            ready = Some(control_plane.adopt(*candidate));
            let url = control_plane.followed();
            tracing::info!(%left, %url, "the control plane has lost touch with its store: following another one");
            continue;
        }
        if control_plane.hold().is_held() {
            tracing::info!(reason = %ended, "the control plane is left to the process that takes over, {}", feed.meanwhile());
            continue;
        }
        let (first, url) = (!reconnect.in_outage(), control_plane.url().clone());
        let pause =
            pause_after(&ended, &mut reconnect, Instant::now(), rand::random(), control_plane.count());
        // One warning an outage: the metrics and /readyz?verbose say how long it lasts.
        if first || matches!(ended, Ended::Superseded) {
            tracing::warn!(%url, reason = %ended, "no control plane, {}", feed.meanwhile());
        } else if matches!(ended, Ended::Behind(_)) {
            tracing::info!(%url, reason = %ended, "trying another control plane, {}", feed.meanwhile());
        } else {
            tracing::debug!(%url, reason = %ended, ?pause, "control plane still away");
        }
        control_plane.advance();
        tokio::select! {
            () = sleep(pause) => {}
            // The sender is there for as long as this runs.
            _ = services.changed() => {}
            () = stop.begun() => return,
        }
    }
}

/// How long to wait before the next stream. `random` is uniform in 0..1.
fn pause_after(
    ended: &Ended,
    reconnect: &mut Reconnect,
    now: Instant,
    random: f64,
    candidates: usize,
) -> Duration {
    let pause = reconnect.failed(now, random, candidates);
    match ended {
        // Two of one name would take the stream from each other as fast as they can.
        Ended::Superseded => TAKEN_OVER_PAUSE.mul_f64(1.0 + random),
        _ => pause,
    }
}

async fn follow_once(
    control_plane: &ControlPlane,
    ready: Option<Channel>,
    last_move: Option<tokio::time::Instant>,
    node: &v1::NodeIdentity,
    services: &mut watch::Receiver<Services>,
    feed: &Feed,
    reconnect: &mut Reconnect,
) -> Ended {
    let channel = match ready {
        Some(channel) => channel,
        None => match control_plane.connect().await {
            Ok(channel) => channel,
            Err(error) => return Ended::Unreachable(control_plane.why(root_cause(&error))),
        },
    };
    let followed = control_plane.followed();
    let mut client = DiscoveryServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let (answers, requests) = mpsc::channel(ANSWERS);
    let Position { epoch, revision } = feed.resumes_from();
    let stream_number = control_plane.number_stream(feed.wall());
    let hello = v1::Hello {
        node: Some(v1::NodeIdentity { stream_number, ..node.clone() }),
        services: feed.carried().to_wire(),
        resume_epoch: epoch.clone(),
        resume_revision: revision,
        role: v1::SnapshotRole::DataPlane.into(),
        left: feed.leaves(&followed),
    };
    if answers.try_send(request(Message::Hello(hello))).is_err() {
        return Ended::NotRead;
    }
    let responses =
        match timeout(SILENCE, client.stream_snapshots(control_plane.request(ReceiverStream::new(requests))))
            .await
        {
            Ok(Ok(responses)) => responses.into_inner(),
            Ok(Err(status)) => return status.into(),
            Err(_) => return Ended::Silent,
        };
    tracing::info!(url = %followed, epoch, revision, "following the control plane");
    feed.begin(&followed);
    let has_others = control_plane.has_others();
    tokio::select! {
        ended = receive_all(responses, &answers, services, feed, reconnect, has_others) => ended,
        candidate = current::find(control_plane, feed, last_move) => Ended::Outdated(Box::new(candidate)),
    }
}

/// Carries what is to be carried from now on, and says so on the stream. `Err`: only a new stream can say it.
fn resubscribe(
    services: &mut watch::Receiver<Services>,
    answers: &mpsc::Sender<v1::StreamSnapshotsRequest>,
    feed: &Feed,
) -> Result<(), Ended> {
    let before = feed.carried();
    let next = services.borrow_and_update().clone();
    if !feed.carry(&next) {
        return Ok(());
    }
    let change = before.change_to(&next).ok_or(Ended::Resubscribed)?;
    tracing::info!(added = ?change.add_services, removed = ?change.remove_services, "other services are carried");
    answers.try_send(request(Message::SubscriptionChange(change))).map_err(|_| Ended::NotRead)
}

/// Takes and answers every message of one stream.
async fn receive_all(
    mut responses: impl Stream<Item = Result<v1::StreamSnapshotsResponse, Status>> + Unpin,
    answers: &mpsc::Sender<v1::StreamSnapshotsRequest>,
    services: &mut watch::Receiver<Services>,
    feed: &Feed,
    reconnect: &mut Reconnect,
    has_others: bool,
) -> Ended {
    let mut assembly = Assembly::default();
    let mut refusals = 0;
    loop {
        let next = tokio::select! {
            next = timeout(SILENCE, responses.next()) => next,
            // The sender is there for as long as the stream is.
            _ = services.changed() => match resubscribe(services, answers, feed) {
                Ok(()) => continue,
                Err(ended) => return ended,
            },
        };
        let message = match next {
            Ok(Some(Ok(message))) => message,
            Ok(Some(Err(status))) => return status.into(),
            Ok(None) => return Ended::Closed,
            Err(_) => return Ended::Silent,
        };
        let (ack, received) = feed.receive(&mut assembly, message);
        if answers.try_send(request(Message::Ack(ack))).is_err() {
            return Ended::NotRead;
        }
        match received {
            Received::Refused(refusal) => {
                tracing::warn!(reason = refusal.reason(), %refusal, "update refused, {}", feed.meanwhile());
                if let (Refusal::Behind(why), true) = (&refusal, has_others) {
                    return Ended::Behind(why.clone());
                }
                refusals += 1;
                if refusals == MAX_REFUSALS_IN_A_ROW {
                    return Ended::Refused(refusal.to_string());
                }
            }
            Received::Applied { changed, revision } => {
                tracing::debug!(revision, services = changed.len(), "snapshot applied");
                refusals = 0;
                reconnect.succeeded();
            }
            Received::Unchanged => {
                refusals = 0;
                reconnect.succeeded();
            }
            Received::Disputed(why) => {
                tracing::warn!(%why, "content hashes differ after a full snapshot: not compared again on this stream");
                refusals = 0;
                reconnect.succeeded();
            }
            Received::Partial => {}
        }
    }
}

pub(super) fn request(message: Message) -> v1::StreamSnapshotsRequest {
    v1::StreamSnapshotsRequest { message: Some(message) }
}

#[cfg(test)]
mod tests;
