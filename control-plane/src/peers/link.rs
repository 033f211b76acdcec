//! Follows one other control plane for as long as it is one.

use std::{sync::Arc, time::Duration};

use gateway_proto::v1::{self, peer_service_client::PeerServiceClient};
use gateway_runtime::{root_cause, tls};
use http::Uri;
use hyper_util::rt::TokioIo;
use rand::Rng as _;
use tokio::{
    sync::{broadcast, mpsc, watch},
    time::{Instant, sleep, timeout},
};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::{Code, Request, Status, metadata::MetadataValue, transport::Endpoint};
use tower::service_fn;

use super::{Address, Credentials};
use crate::{
    edge::Edge,
    observe::Followed,
    registry::{Revision, View},
};

/// A TCP connect that takes longer has failed.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// It says something at least once a second: after this long it is dead, cut off or stuck, and what it told may be over.
const SILENCE: Duration = Duration::from_secs(3);
/// How long what it tells waits for this registry to come to where its registry was.
const PATIENCE: Duration = Duration::from_secs(2);
/// Messages of at most some megabyte each.
const MAX_MESSAGE_BYTES: usize = 16 << 20;
/// Requests that wait for it to read them.
const OUTGOING: usize = 8;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// Why there is nothing to follow any more.
#[derive(Debug)]
pub(super) enum Ended {
    /// It is this control plane.
    Myself(Arc<str>),
    ShuttingDown,
}

/// Why a stream ended.
enum Broken {
    Myself,
    Because(String),
}

/// One other control plane, and how far its events are known.
pub(super) struct Link {
    edge: Arc<Edge>,
    credentials: Credentials,
    address: Address,
    process_id: String,
    last_event: i64,
}

impl Link {
    pub(super) fn new(edge: Arc<Edge>, credentials: Credentials, address: Address) -> Self {
        Self { edge, credentials, address, process_id: String::new(), last_event: 0 }
    }

    /// Follows it, again and again, until it turns out to be this control plane or the shutdown begins.
    pub(super) async fn follow(mut self) -> Ended {
        let shutdown = self.edge.shutdown.clone();
        let mut longest = FIRST_PAUSE;
        loop {
            let mut has_followed = false;
            let begun = Instant::now();
            let broken = tokio::select! {
                broken = self.follow_once(&mut has_followed) => broken,
                () = shutdown.begun() => return Ended::ShuttingDown,
            };
            let reason = match broken {
                Broken::Myself => return Ended::Myself(Arc::clone(&self.address.text)),
                Broken::Because(reason) => reason,
            };
            self.edge.effects.observation.lose_peer(&self.address.text, &reason);
            longest = next_pause(longest, has_followed.then(|| begun.elapsed()));
            let pause = rand::rng().random_range(Duration::ZERO..=longest);
            tracing::debug!(peer = %self.address, reason, ?pause, "not following another control plane");
            tokio::select! {
                () = sleep(pause) => {}
                () = shutdown.begun() => return Ended::ShuttingDown,
            }
        }
    }

    async fn follow_once(&mut self, has_followed: &mut bool) -> Broken {
        match self.try_follow(has_followed).await {
            Ok(()) => Broken::Because("it ended the stream".into()),
            Err(broken) => broken,
        }
    }

    async fn try_follow(&mut self, has_followed: &mut bool) -> Result<(), Broken> {
        let because = |why: &str| Broken::Because(why.to_owned());
        let tls = Arc::clone(&self.credentials.tls);
        let endpoint =
            Endpoint::from(self.address.url.clone()).connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true);
        let connector = service_fn(move |url: Uri| {
            let tls = Arc::clone(&tls);
            async move {
                let is_encrypted = url.scheme_str() == Some("https");
                let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
                let port = url.port_u16().unwrap_or_default();
                tls::connect(host, port, is_encrypted.then_some(&tls)).await.map(TokioIo::new)
            }
        });
        let channel = endpoint.connect_with_connector(connector).await.map_err(|error| {
            let refusal = self.credentials.tls.refusal();
            Broken::Because(refusal.map_or_else(|| root_cause(&error), |refusal| (*refusal).clone()))
        })?;
        let mut client = PeerServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let (outgoing, requests) = mpsc::channel(OUTGOING);
        let observation = &self.edge.effects.observation;
        let mut readers = observation.follow_readers();
        let mut questions = observation.questions().follow_elsewhere();
        let epoch = self.edge.effects.publisher.epoch().to_owned();
        let detailed_stats = *readers.borrow_and_update();
        let first = v1::FollowObservationsRequest {
            peer: Some(self.edge.myself.to_wire(&epoch)),
            after_event_number: self.last_event,
            events_of_process_id: self.process_id.clone(),
            detailed_stats,
            ..Default::default()
        };
        outgoing.try_send(first).map_err(|_| because("it reads nothing"))?;
        let call = client.follow_observations(self.request(ReceiverStream::new(requests)));
        let answer = timeout(SILENCE, call).await.map_err(|_| because("it does not answer"))?;
        let mut responses = answer.map_err(|status| said(&status))?.into_inner();
        let next = timeout(SILENCE, responses.next()).await.map_err(|_| because("it does not answer"))?;
        let hello = next.ok_or_else(|| because("it ended the stream"))?.map_err(|status| said(&status))?;
        let peer = hello.peer.clone().ok_or_else(|| because("it does not say who it is"))?;
        if peer.process_id == self.edge.myself.process_id {
            return Err(Broken::Myself);
        }
        if peer.epoch != epoch {
            return Err(Broken::Because(format!(
                "it has another registry (epoch {}, here {epoch}): control planes of one gateway share a store",
                peer.epoch
            )));
        }
        if self.process_id != peer.process_id {
            (self.process_id, self.last_event) = (peer.process_id.clone(), 0);
        }
        observation.meet_peer(&self.address.text, &peer);
        let mut followed = Followed::default();
        let mut head = self.edge.effects.publisher.subscribe();
        loop {
            let request = tokio::select! {
                next = timeout(SILENCE, responses.next()) => {
                    let next = next.map_err(|_| Broken::Because(format!("it has said nothing for {SILENCE:?}")))?;
                    let Some(next) = next else { return Ok(()) };
                    let message = next.map_err(|status| said(&status))?;
                    let (want_node_ids, leave_node_ids) = self.take(&mut followed, &mut head, message).await?;
                    *has_followed = true;
                    if want_node_ids.is_empty() && leave_node_ids.is_empty() {
                        continue;
                    }
                    v1::FollowObservationsRequest { want_node_ids, leave_node_ids, ..Default::default() }
                }
                // The sender lives as long as the control plane.
                _ = readers.changed() => v1::FollowObservationsRequest::default(),
                what_if = questions.recv() => match what_if {
                    Ok(question) => v1::FollowObservationsRequest { what_if: Some((*question).clone()), ..Default::default() },
                    Err(broadcast::error::RecvError::Lagged(_)) => continue,
                    Err(broadcast::error::RecvError::Closed) => return Ok(()),
                },
            };
            let detailed_stats = *readers.borrow_and_update();
            let request = v1::FollowObservationsRequest { detailed_stats, ..request };
            outgoing.try_send(request).map_err(|_| because("it reads nothing"))?;
        }
    }

    async fn take(
        &mut self,
        followed: &mut Followed,
        head: &mut watch::Receiver<Revision>,
        message: v1::FollowObservationsResponse,
    ) -> Result<(Vec<String>, Vec<String>), Broken> {
        if self.edge.effects.publisher.read(View::revision) < message.revision {
            let reached = timeout(PATIENCE, head.wait_for(|head| *head >= message.revision)).await;
            if reached.is_err() {
                return Err(Broken::Because(format!(
                    "it is at revision {}, which this control plane does not come to",
                    message.revision
                )));
            }
        }
        if message.last_event_number > 0 {
            self.last_event = message.last_event_number;
        }
        let heard = self.edge.effects.observation.hear_peer(&self.address.text, followed, message);
        heard.map_err(|invalid| Broken::Because(format!("it tells what cannot be: {invalid}")))
    }

    /// A call with what this control plane shows of itself.
    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let token = self.credentials.token.as_ref();
        // A token is visible ASCII, which a header may have.
        if let Some(mut token) = token.and_then(|token| MetadataValue::try_from(token.bearer()).ok()) {
            token.set_sensitive(true);
            request.metadata_mut().insert("authorization", token);
        }
        request
    }
}

/// The longest pause after one of `longest`, and after it was followed for so long, if it was. One that ends each stream soon
/// is not asked as fast as it can end them.
fn next_pause(longest: Duration, followed_for: Option<Duration>) -> Duration {
    match followed_for {
        Some(followed_for) if followed_for >= MAX_PAUSE => FIRST_PAUSE,
        _ => (longest * 2).min(MAX_PAUSE),
    }
}

/// Why it does not tell, for people.
fn said(status: &Status) -> Broken {
    Broken::Because(match status.code() {
        Code::Unimplemented => "its version tells other control planes nothing: upgrade it".into(),
        Code::Unauthenticated | Code::PermissionDenied => {
            format!(
                "it refuses this control plane: {}; see --peer-token-file and --peer-cert",
                status.message()
            )
        }
        _ => match status.message() {
            "" => format!("it failed with {}", status.code()),
            message => message.to_owned(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_ends_each_stream_after_a_message_is_asked_ever_more_seldom() {
        let mut longest = FIRST_PAUSE;
        for _ in 0..9 {
            longest = next_pause(longest, Some(Duration::from_millis(20)));
        }
        assert_eq!(longest, MAX_PAUSE);
        assert_eq!(next_pause(longest, None), MAX_PAUSE);
        assert_eq!(next_pause(longest, Some(MAX_PAUSE)), FIRST_PAUSE);
    }
}
