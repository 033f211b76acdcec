//! The streams' tasks: ask the session what to do next, and do it.

use std::collections::VecDeque;

use control_plane::{
    publish::{CatchUp, Encoded, Filter, Full, Heard, Next, Session},
    registry::{Revision, View},
};
use gateway_proto::v1::{self, stream_snapshots_response::Update};
use prost::Message;

use super::{Control, Running};
use crate::{
    env::{Env, nanos},
    event::{ControlEvent, Event, NodeEvent, NodeId, StreamId},
    journal::note,
    sabotage::Sabotage,
};

/// Messages of a stream that may be sent again by mistake.
const REMEMBERED: usize = 4;
/// Of so many deltas on one stream, one does not lead on.
const SPOILT_INTERVAL: u32 = 20;

/// One data plane's stream.
pub(super) struct Stream {
    pub(super) node: NodeId,
    session: Session,
    filter: Filter,
    /// The full snapshot that is being sent, and its next part.
    parts: Option<(Full, usize)>,
    /// The network has swallowed a message, so nothing later arrives either.
    severed: bool,
    /// When the session is asked again at the latest; `u64::MAX` when nobody has an alarm set.
    alarm: u64,
    /// When the last message arrives: those behind it do not overtake it.
    arrives: u64,
    sent: VecDeque<v1::StreamSnapshotsResponse>,
    /// How many deltas were sent.
    deltas: u32,
}

impl Control {
    pub(super) fn open_stream(&mut self, env: &mut Env, node: NodeId, id: StreamId, hello: v1::Hello) {
        let Some(running) = &mut self.running else {
            return end(env, node, id);
        };
        // The newest stream of a node is the one that it reads.
        let older: Vec<StreamId> =
            running.streams.iter().filter(|(_, stream)| stream.node == node).map(|(id, _)| *id).collect();
        for older in older {
            running.streams.remove(&older);
            end(env, node, older);
        }
        let head = running.publisher.read(View::revision);
        let is_known = hello.resume_epoch == running.publisher.epoch() && hello.resume_revision <= head;
        let resume = is_known.then_some(hello.resume_revision);
        env.journal.count(if is_known { "a stream was resumed" } else { "a stream began from nothing" });
        note!(env, "control plane: stream {id} of node {node} from {resume:?}, head {head}");
        let filter = Filter::parse(&hello.services).expect("nodes ask for names or all");
        running.streams.insert(
            id,
            Stream {
                node,
                session: Session::new(resume, env.instant()),
                filter,
                parts: None,
                severed: false,
                alarm: u64::MAX,
                arrives: env.now,
                sent: VecDeque::new(),
                deltas: 0,
            },
        );
        self.pump(env, id);
    }

    pub(super) fn hear(&mut self, env: &mut Env, id: StreamId, ack: v1::Ack) {
        let Some(stream) = self.running.as_mut().and_then(|running| running.streams.get_mut(&id)) else {
            return;
        };
        if stream.severed {
            return;
        }
        match stream.session.heard(env.instant(), ack) {
            Heard::Acked(revision) => note!(env, "control plane: stream {id} has revision {revision}"),
            Heard::Part => note!(env, "control plane: stream {id} has a part"),
            Heard::Nacked(nack) => {
                env.journal.count("an update was refused");
                note!(env, "control plane: stream {id} refused: {}", nack.reason);
                stream.parts = None;
            }
            Heard::Stale => env.journal.count("a stale answer was ignored"),
        }
        self.pump(env, id);
    }

    /// An alarm rings. One that another has overtaken is none any more.
    pub(super) fn stream_due(&mut self, env: &mut Env, id: StreamId) {
        let stream = self.running.as_mut().and_then(|running| running.streams.get_mut(&id));
        if let Some(stream) = stream.filter(|stream| stream.alarm <= env.now) {
            stream.alarm = u64::MAX;
            self.pump(env, id);
        }
    }

    pub(super) fn forget_stream(&mut self, id: StreamId) {
        if let Some(running) = &mut self.running {
            running.streams.remove(&id);
        }
    }

    pub(super) fn pump_all(&mut self, env: &mut Env) {
        let ids: Vec<StreamId> =
            self.running.iter().flat_map(|running| running.streams.keys().copied()).collect();
        for id in ids {
            self.pump(env, id);
        }
    }

    /// Does what the session says until it says to wait.
    fn pump(&mut self, env: &mut Env, id: StreamId) {
        let Some(running) = &mut self.running else { return };
        let Some(mut stream) = running.streams.remove(&id) else { return };
        loop {
            let head = running.publisher.read(View::revision);
            match stream.session.next(env.instant(), head) {
                Next::Full => stream.send_part(env, running, id),
                Next::Delta { base } => match running.publisher.catch_up(base, &stream.filter) {
                    CatchUp::Delta(revision, delta) => stream.send_delta(env, running, id, revision, &delta),
                    CatchUp::Nothing(revision) => {
                        env.journal.count("a change concerned nobody");
                        stream.session.skip(revision);
                    }
                    CatchUp::TooFar => {
                        env.journal.count("a data plane was too far behind");
                        stream.session.lose_track();
                    }
                },
                Next::Bookmark { revision } => {
                    let nonce = stream.session.sent_bookmark(env.instant(), revision);
                    let hash = running.publisher.content_hash(&stream.filter, revision);
                    let content_hash = hash.map(|hash| hash.to_string()).unwrap_or_default();
                    let bookmark = Update::Bookmark(v1::Bookmark { content_hash });
                    stream.send(env, running, id, nonce, revision, bookmark);
                }
                Next::Wait { until } => {
                    let until = env.nanos_of(until);
                    if until < stream.alarm {
                        stream.alarm = until;
                        env.at(until, Event::Control(ControlEvent::StreamDue { stream: id }));
                    }
                    running.streams.insert(id, stream);
                    return;
                }
                Next::End => {
                    env.journal.count("a stream was given up by the control plane");
                    note!(env, "control plane: stream {id} is dead");
                    return end(env, stream.node, id);
                }
            }
        }
    }

    /// The network swallows everything that the node's stream says from now on, and tells nobody.
    pub(crate) fn sever(&mut self, env: &mut Env, node: NodeId) {
        let streams = self.running.iter_mut().flat_map(|running| running.streams.values_mut());
        for stream in streams.filter(|stream| stream.node == node) {
            stream.severed = true;
            env.journal.count("a stream was severed silently");
            note!(env, "network: the stream of node {node} is dead, and nobody knows");
        }
    }

    /// A message of the node's stream arrives once more.
    pub(crate) fn send_again(&mut self, env: &mut Env, node: NodeId) {
        let streams = self.running.iter_mut().flat_map(|running| running.streams.iter_mut());
        for (id, stream) in streams.filter(|(_, stream)| stream.node == node && !stream.severed) {
            if stream.sent.is_empty() {
                continue;
            }
            let message = stream.sent[env.below(stream.sent.len())].clone();
            env.journal.count("a message came twice");
            note!(env, "network: node {node} gets nonce {} of stream {id} again", message.nonce);
            stream.deliver(env, *id, message);
        }
    }
}

impl Stream {
    fn send_part(&mut self, env: &mut Env, running: &Running, id: StreamId) {
        let ((revision, parts), next) = self
            .parts
            .take()
            .unwrap_or_else(|| (running.publisher.full(&self.filter, self.session.at_least()), 0));
        let completes = next + 1 == parts.len();
        env.journal.count(if completes { "a full snapshot was sent" } else { "a part was sent" });
        let part = parts[next].clone();
        let nonce = self.session.sent(env.instant(), revision, completes);
        if !completes {
            self.parts = Some(((revision, parts), next + 1));
        }
        self.send(env, running, id, nonce, revision, decode(&part));
    }

    fn send_delta(
        &mut self,
        env: &mut Env,
        running: &Running,
        id: StreamId,
        revision: Revision,
        delta: &Encoded,
    ) {
        env.journal.count("a delta was sent");
        let mut update = decode(delta);
        if let Update::Delta(delta) = &mut update
            && env.has(Sabotage::SkipPartOfDelta)
        {
            delta.upsert_replicas.pop();
        }
        let nonce = self.session.sent(env.instant(), revision, true);
        self.send(env, running, id, nonce, revision, update);
    }

    fn send(
        &mut self,
        env: &mut Env,
        running: &Running,
        id: StreamId,
        nonce: String,
        revision: Revision,
        update: Update,
    ) {
        let message = v1::StreamSnapshotsResponse {
            nonce,
            epoch: running.publisher.epoch().to_owned(),
            revision,
            update: Some(update),
            ..Default::default()
        };
        if self.sent.len() == REMEMBERED {
            self.sent.pop_front();
        }
        self.sent.push_back(message.clone());
        let message = self.spoilt(env, message);
        self.deliver(env, id, message);
    }

    /// Now and then a delta is one that leads on from elsewhere than it should. By its number, so that no draw is spent on it.
    fn spoilt(
        &mut self,
        env: &mut Env,
        mut message: v1::StreamSnapshotsResponse,
    ) -> v1::StreamSnapshotsResponse {
        if let Some(Update::Delta(delta)) = &mut message.update {
            self.deltas += 1;
            if self.deltas.is_multiple_of(SPOILT_INTERVAL) {
                env.journal.count("a delta was spoilt");
                delta.base_revision -= 1;
            }
        }
        message
    }

    fn deliver(&mut self, env: &mut Env, id: StreamId, message: v1::StreamSnapshotsResponse) {
        if self.severed {
            return;
        }
        let latency = env.latency();
        self.arrives = self.arrives.max(env.now + nanos(latency));
        let event = NodeEvent::Update { stream: id, message: Box::new(message) };
        env.at(self.arrives, Event::Node(self.node, event));
    }
}

/// Reads an update as it would go over the wire.
fn decode(update: &Encoded) -> Update {
    let message = v1::StreamSnapshotsResponse::decode(update.bytes().clone());
    message.ok().and_then(|message| message.update).expect("what the publisher encodes is an update")
}

/// Lets the node learn that its stream is over.
pub(super) fn end(env: &mut Env, node: NodeId, stream: StreamId) {
    let latency = env.latency();
    env.after(latency, Event::Node(node, NodeEvent::StreamEnds { stream }));
}
