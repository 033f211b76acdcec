//! What others do to the keys that are watched: told in etcd's order, each revision whole.
//!
//! A watch that breaks is begun again behind what was told last, at another member if need be. One that would have to begin
//! at a revision that etcd has forgotten cannot be: then everything must be read again.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use gateway_proto::etcd::{
    Event, KeyValue, WatchCreateRequest, WatchRequest, WatchResponse, event::EventType,
    watch_client::WatchClient, watch_request::RequestUnion,
};
use tokio::{sync::mpsc, time::sleep};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

use super::{
    client::{Client, Live},
    entry,
    keys::{Keys, Role},
};
use crate::{
    leases::LeaseTag,
    registry::{Committed, Revision},
    store::{Known, LeaseNews},
};

/// Revisions told and not yet taken in.
const BUFFERED: usize = 256;
const MIN_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// What a watch tells.
#[derive(Debug)]
pub(super) enum Seen {
    /// What happened up to a revision.
    Changed { revision: Revision, groups: Vec<(Revision, Vec<Committed>)>, leases: Vec<LeaseNews> },
    /// It can tell no more: everything has to be read again. It says why.
    Broken(&'static str),
}

/// A watch under way; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Watching {
    seen: mpsc::Receiver<Seen>,
    _task: AbortOnDropHandle<()>,
}

impl Watching {
    /// Begins to watch at a revision. Control planes that come and go are told to `peers` at once.
    pub(super) fn begin(
        client: Client,
        keys: Keys,
        next: Revision,
        peers: Arc<tokio::sync::watch::Sender<Known>>,
    ) -> Self {
        Self::begin_with(client, keys, next, Some(peers))
    }

    /// The same, where all was read long since, but who did it: commits are told, and nothing else.
    pub(super) fn begin_late(client: Client, keys: Keys, next: Revision) -> Self {
        Self::begin_with(client, keys, next, None)
    }

    fn begin_with(
        client: Client,
        keys: Keys,
        next: Revision,
        peers: Option<Arc<tokio::sync::watch::Sender<Known>>>,
    ) -> Self {
        let (sender, seen) = mpsc::channel(BUFFERED);
        let watcher = Watcher { client, keys, next, sender, peers };
        Self { seen, _task: AbortOnDropHandle::new(tokio::spawn(watcher.run())) }
    }

    /// What comes next. Cancel safe.
    pub(super) async fn next(&mut self) -> Seen {
        self.seen.recv().await.unwrap_or(Seen::Broken("the watch has ended"))
    }
}

struct Watcher {
    client: Client,
    keys: Keys,
    /// What was told last is before this.
    next: Revision,
    sender: mpsc::Sender<Seen>,
    /// `None`: only commits are told.
    peers: Option<Arc<tokio::sync::watch::Sender<Known>>>,
}

/// Why a watch ended.
enum Ended {
    /// It may be begun again.
    Failed(Status),
    /// Only reading everything helps.
    Broken(&'static str),
    /// Nobody listens.
    Unheard,
}

impl Watcher {
    async fn run(mut self) {
        let mut pause = MIN_PAUSE;
        loop {
            let from = self.next;
            match self.follow_somewhere().await {
                Ended::Unheard => return,
                Ended::Broken(why) => {
                    // Whoever listens no more needs not know.
                    let _ = self.sender.send(Seen::Broken(why)).await;
                    return;
                }
                Ended::Failed(status) => {
                    tracing::debug!(message = status.message(), next = self.next, "the watch of etcd ended");
                    pause = if self.next > from { MIN_PAUSE } else { (pause * 2).min(MAX_PAUSE) };
                    sleep(pause.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
                }
            }
        }
    }

    /// Follows a member for as long as it is asked for anything: one that has fallen behind tells of nothing, and keeps the watch open.
    async fn follow_somewhere(&mut self) -> Ended {
        let live = match self.client.live().await {
            Ok(live) => live,
            Err(status) => return Ended::Failed(status),
        };
        tokio::select! {
            ended = self.follow(&live) => ended,
            () = live.given_up() => Ended::Failed(Status::unavailable("the member is asked no more")),
        }
    }

    /// Cancel safe: what was not told is told by the next watch.
    async fn follow(&mut self, live: &Live) -> Ended {
        let (key, range_end) = self.keys.live();
        let create = WatchCreateRequest {
            key,
            range_end,
            start_revision: self.next,
            progress_notify: true,
            prev_kv: false,
        };
        // Kept to the end: the stream ends with what is sent.
        let (requests, receiver) = mpsc::channel(1);
        let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        if requests.send(create).await.is_err() {
            return Ended::Unheard;
        }
        let mut request = live.request(ReceiverStream::new(receiver));
        // A member that has lost its leader ends the watch instead of falling silent.
        request.metadata_mut().insert("hasleader", "true".parse().expect("visible ASCII"));
        let watched = WatchClient::new(live.channel.clone()).max_decoding_message_size(usize::MAX);
        let mut stream = match { watched }.watch(request).await {
            Ok(response) => response.into_inner(),
            Err(status) => {
                self.client.give_up(live, true);
                return Ended::Failed(status);
            }
        };
        loop {
            let response = match stream.message().await {
                Ok(Some(response)) => response,
                Ok(None) => {
                    self.client.give_up(live, true);
                    return Ended::Failed(Status::unavailable("etcd ended the watch"));
                }
                Err(status) => {
                    self.client.give_up(live, true);
                    return Ended::Failed(status);
                }
            };
            if response.compact_revision > 0 {
                return Ended::Broken("etcd has forgotten what happened meanwhile");
            }
            if response.canceled {
                // It may be about who we are, which only another connection shows anew.
                self.client.give_up(live, true);
                return Ended::Failed(Status::unavailable(response.cancel_reason));
            }
            self.client.contact().touch(crate::clock::now());
            if let Err(ended) = self.tell(response).await {
                return ended;
            }
        }
    }

    async fn tell(&mut self, response: WatchResponse) -> Result<(), Ended> {
        let Some(last) =
            response.events.iter().filter_map(|event| event.kv.as_ref()).map(|kv| kv.mod_revision).max()
        else {
            // Nothing has happened up to there.
            if let Some(header) = response.header.filter(|_| !response.created) {
                self.next = self.next.max(header.revision + 1);
            }
            return Ok(());
        };
        let is_of_fence = |kv: &KeyValue| self.peers.is_some() && self.keys.role(&kv.key) == Role::Fence;
        if response.events.iter().filter_map(|event| event.kv.as_ref()).any(is_of_fence) {
            return Err(Ended::Broken("the store was closed to changes, or opened again"));
        }
        let seen = self.read(last, response.events).map_err(|why| {
            tracing::error!(why, "a change in etcd cannot be read");
            Ended::Broken("a change in etcd cannot be read")
        })?;
        self.sender.send(seen).await.map_err(|_| Ended::Unheard)?;
        self.next = self.next.max(last + 1);
        Ok(())
    }

    fn read(&self, revision: Revision, events: Vec<Event>) -> Result<Seen, String> {
        let (mut groups, mut leases) = (Vec::new(), Vec::new());
        let mut peers: Vec<(String, Option<String>)> = Vec::new();
        for event in events {
            let is_there = event.r#type() == EventType::Put;
            let Some(kv) = event.kv else { continue };
            match self.keys.role(&kv.key) {
                Role::Head if is_there => groups.push(entry::decode(&kv.value, kv.mod_revision)?),
                Role::Head => return Err("the head is gone".into()),
                _ if self.peers.is_none() => {}
                Role::Lease(key) => {
                    leases.push(LeaseNews { key, kept: is_there.then(|| LeaseTag::new(kv.lease)) });
                }
                Role::Peer(node) => {
                    peers.push((node, is_there.then(|| String::from_utf8_lossy(&kv.value).into_owned())));
                }
                Role::Meta | Role::Fence | Role::Record(_) | Role::Unknown => {}
            }
        }
        if let Some(told) = self.peers.as_ref().filter(|_| !peers.is_empty()) {
            told.send_modify(|known| {
                let mut next: BTreeMap<_, _> = (**known).clone();
                for (node, address) in peers {
                    match address {
                        Some(address) => next.insert(node, address),
                        None => next.remove(&node),
                    };
                }
                *known = Arc::new(next);
            });
        }
        Ok(Seen::Changed { revision, groups, leases })
    }
}
