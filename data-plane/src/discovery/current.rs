//! Finds another control plane when the one that is followed has lost touch with the store that they share.
//!
//! Such a one serves on what it knew last, and says on the stream how long it has heard nothing. Nobody leaves it for one that
//! does not know more: another one is asked beside the stream, and followed only if it says that it is in touch. So nothing
//! moves while the store is away from all of them, nor to one that is older and does not say.
//!
//! So it is when the registry has moved to another store, where its epoch is another one: only who is told so goes over to another epoch.

use std::{future::pending, time::Duration};

use gateway_proto::{
    time,
    v1::{
        Hello, SnapshotRole, StreamSnapshotsResponse, discovery_service_client::DiscoveryServiceClient,
        stream_snapshots_request::Message,
    },
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;

use super::{
    Feed, Position, Status,
    client::{MAX_MESSAGE_BYTES, request},
};
use crate::control_plane::{Candidate, ControlPlane};

/// One that has not said within this how it stands is passed over.
const PATIENCE: Duration = Duration::from_secs(3);
/// Between two looks at all of them, at least this long, and at most twice as long. The first one is up to as long after there is
/// a reason for it: all data planes of a control plane have it at the same moment.
const PAUSE: Duration = Duration::from_secs(5);
/// After a move nobody moves again for so long: one that says that it is in touch may have no place for another data plane, and
/// whoever is sent away by it comes back to where it was.
const SETTLED: Duration = Duration::from_secs(30);

/// Completes with a control plane that is in touch with the store, once the one that is followed is not, and some time after the
/// last move. Never where a connection leads to no other one, unless the registry has moved: then the same address may by now lead to one that
/// has moved with it. Cancel safe.
pub(super) async fn find(control_plane: &ControlPlane, feed: &Feed, last_move: Option<Instant>) -> Candidate {
    if let Some(last) = last_move {
        sleep_until(last + SETTLED).await;
    }
    let mut status = feed.status();
    loop {
        let is_asked = |status: &Status| {
            status.store_silent_since.is_some() && (status.goes_on_elsewhere || control_plane.has_others())
        };
        if status.wait_for(is_asked).await.is_err() {
            // Its sender is the feed's, which is there for as long as this is.
            return pending().await;
        }
        sleep(PAUSE.mul_f64(rand::random())).await;
        for steps in 1..=control_plane.count() {
            let Ok(candidate) = control_plane.try_another(steps).await else { continue };
            let is_in_touch =
                timeout(PATIENCE, is_in_touch(control_plane, &candidate, feed)).await == Ok(true);
            // Meanwhile the one that is followed may be, too.
            if is_in_touch && status.borrow().store_silent_since.is_some() {
                return candidate;
            }
        }
        sleep(PAUSE).await;
    }
}

/// Whether this one is in touch with the store, and knows at least what is held. It is asked as a tool asks that only looks, so
/// that it does not take this data plane for one of its own.
async fn is_in_touch(control_plane: &ControlPlane, candidate: &Candidate, feed: &Feed) -> bool {
    let (held, has_moved) = (feed.resumes_from(), feed.status().borrow().goes_on_elsewhere);
    let hello = Hello {
        services: feed.carried().to_wire(),
        resume_epoch: held.epoch.clone(),
        resume_revision: held.revision,
        role: SnapshotRole::Observer.into(),
        ..Default::default()
    };
    let (requests, receiver) = mpsc::channel(1);
    // There is room for one.
    let _ = requests.try_send(request(Message::Hello(hello)));
    let mut client =
        DiscoveryServiceClient::new(candidate.channel()).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let asked = client.stream_snapshots(control_plane.request(ReceiverStream::new(receiver))).await;
    let Ok(mut responses) = asked.map(tonic::Response::into_inner) else { return false };
    matches!(responses.message().await, Ok(Some(first)) if says_so(&first, &held, has_moved))
}

fn says_so(first: &StreamSnapshotsResponse, held: &Position, has_moved: bool) -> bool {
    let is_in_touch = first.store_silence.and_then(time::non_negative) == Some(Duration::ZERO);
    let leads_on = match first.epoch == held.epoch {
        true => first.revision >= held.revision,
        false => has_moved,
    };
    is_in_touch && leads_on
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_that_says_that_it_is_in_touch_and_knows_what_is_held_is_worth_a_move() {
        let held = Position { epoch: "e".into(), revision: 5 };
        let said = |store_silence: Option<i64>, epoch: &str, revision| {
            let store_silence = store_silence.map(|seconds| prost_types::Duration { seconds, nanos: 0 });
            let first = StreamSnapshotsResponse {
                store_silence,
                epoch: epoch.into(),
                revision,
                ..Default::default()
            };
            [false, true].map(|has_moved| says_so(&first, &held, has_moved))
        };
        assert_eq!([said(Some(0), "e", 5), said(Some(0), "e", 6)], [[true; 2]; 2]);
        assert_eq!(
            [said(Some(7), "e", 6), said(Some(-1), "e", 6)],
            [[false; 2]; 2],
            "it has lost touch, too"
        );
        assert_eq!(
            [said(None, "e", 6), said(None, "f", 6)],
            [[false; 2]; 2],
            "it is older, and does not say"
        );
        assert_eq!(said(Some(0), "e", 4), [false; 2], "it knows less");
        assert_eq!(
            said(Some(0), "f", 4),
            [false, true],
            "another registry, unless the one that is held goes on there"
        );
        assert_eq!(said(Some(7), "f", 6), [false; 2]);
    }
}
