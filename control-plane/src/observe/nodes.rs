//! The data planes: which are connected, how far each has come, which are silent.
//!
//! What is waited for, the slowest of those that are connected, is kept up to date and not looked for. Those that follow
//! another control plane are here as that one tells of them, see [`told`].

mod told;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use gateway_proto::{
    NodeId, ReplicaKey, ServiceName,
    time::{duration, timestamp},
    v1,
};

pub use self::told::{Taken, Told};
use super::{
    report::{Held, MAX_HELD},
    returns::Returns,
};
use crate::registry::Revision;

/// A data plane that has neither reported nor acked anything for this long is named as unreachable.
pub const SILENT_AFTER: Duration = Duration::from_secs(15);
/// A data plane whose snapshot stream broke routes on by what it holds, and comes back if it can: after a long outage it
/// tries every few seconds, an older one every fifteen. Heard of within this time, it is still one to wait for.
pub(super) const RETURN_TIME: Duration = Duration::from_secs(20);
/// A data plane that has been away for this long is forgotten, with its breakers.
pub const FORGET_AFTER: Duration = Duration::from_secs(600);

/// Data planes by their ids.
#[derive(Debug)]
pub struct Nodes {
    nodes: BTreeMap<NodeId, Node>,
    /// How many connected data planes have taken on which revision and none after it.
    taken_on: BTreeMap<Revision, usize>,
    /// Of those that follow this control plane, and of those that follow others.
    capacity: usize,
    returns: Returns,
    /// Counts changes, for those who tell other control planes of them.
    last_change: u64,
}

/// Who a data plane says it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Stable over its restarts.
    pub id: NodeId,
    /// Of its program; for people.
    pub version: String,
    /// Which of the processes that have run under this id, one after the other; empty when it does not say.
    pub process: String,
    /// Where it connected from; empty when unknown.
    pub address: String,
    /// Greater for a newer snapshot stream of the same data plane, at whichever control plane; 0 when it does not say.
    pub stream_number: i64,
}

/// There are as many data planes as are allowed, and all of them are connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooManyNodes {
    /// How many are allowed.
    pub limit: usize,
}

#[derive(Debug)]
struct Node {
    version: String,
    /// Of the newest snapshot stream.
    process: String,
    address: String,
    connected: bool,
    /// When it came or was heard last, for what is silent and what is forgotten.
    heard: Instant,
    connect_time: Option<SystemTime>,
    report_time: Option<SystemTime>,
    /// What it said last that it routes by.
    acked: Revision,
    /// Nothing that it follows changed from `acked` up to this revision, so it is as good as if it had acked that.
    current: Revision,
    sent: Revision,
    nack: Option<v1::Nack>,
    /// The revision it routed by at its last report on its present streams.
    reported: Option<Revision>,
    /// Replicas that its guard holds.
    held: Held,
    /// The same as it was told, for other control planes; `None`: nothing.
    held_as_told: Option<Arc<v1::HeldReplicas>>,
    /// How long the most overdue of its health checks has waited; zero: not worth telling.
    checks_late: Duration,
    stream_number: i64,
    /// The last message with events that was taken, and of which process.
    taken_batch: (String, i64),
    home: Home,
    /// The control plane that it followed before, as it says.
    left: Option<v1::LeftControlPlane>,
    changed: u64,
}

/// Which control plane a data plane follows.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Home {
    Here,
    Peer {
        address: Arc<str>,
        /// Whether it has a report stream there.
        is_reporting: bool,
        /// Whether that control plane does not tell how it is now.
        is_silent: bool,
        /// Whether that control plane has told all of its breakers.
        has_rows: bool,
    },
}

/// Before every revision: what a data plane has taken on that refuses what it was sent.
const NOTHING: Revision = -1;

/// The state of one that follows this control plane as it is while the store is silent: nobody here knows what it lacks.
pub fn outdated(state: v1::NodeState) -> v1::NodeState {
    match state {
        v1::NodeState::Synced | v1::NodeState::Lagging => v1::NodeState::Outdated,
        other => other,
    }
}

impl Nodes {
    /// At most `capacity` data planes.
    pub fn new(capacity: usize) -> Self {
        let (nodes, taken_on, returns) = (BTreeMap::new(), BTreeMap::new(), Returns::default());
        Self { nodes, taken_on, capacity, returns, last_change: 0 }
    }

    /// Whether there is an entry for the data plane.
    pub fn contains(&self, id: &NodeId) -> bool {
        self.nodes.contains_key(id)
    }

    /// Notes who may be routing and is not known yet, until then: those that are `named`, or any others.
    pub fn expect_returns(&mut self, named: Option<BTreeSet<NodeId>>, until: Instant) {
        self.returns = Returns::expect(named, until);
    }

    /// Notes that all that may be routing are known, as somebody says who knows.
    pub fn knows_all(&mut self) {
        self.returns = Returns::Complete;
    }

    /// Whether all that may be routing are known.
    pub fn have_returned(&self, now: Instant) -> bool {
        self.returns.are_complete(now)
    }

    /// All that may be routing, known or not; `None`: nobody knows them all.
    pub fn followers(&self, now: Instant) -> Option<BTreeSet<NodeId>> {
        let mut followers = self.returns.absent(now)?;
        followers.extend(self.routing(now).map(|(id, _)| id.clone()));
        Some(followers)
    }

    /// Notes that a snapshot stream begins for a data plane that holds `resume`. Yields who was forgotten for it.
    ///
    /// # Errors
    /// [`TooManyNodes`] when it is a new one and there is no room.
    pub fn connect(
        &mut self,
        identity: &Identity,
        resume: Revision,
        now: Instant,
        wall: SystemTime,
    ) -> Result<Option<NodeId>, TooManyNodes> {
        let (_, forgotten) = self.admit(identity, now)?;
        self.change(&identity.id, |node| {
            node.connected = true;
            node.home = Home::Here;
            node.stream_number = identity.stream_number;
            node.process.clone_from(&identity.process);
            node.connect_time = Some(wall);
            node.acked = resume;
            node.current = resume;
            node.sent = resume;
            node.nack = None;
            // Only a report that follows tells of this process: the one before may have been another.
            node.reported = None;
        });
        Ok(forgotten)
    }

    /// Notes which control plane a data plane followed before this one, as it says. Yields whether that is news.
    pub fn has_left(&mut self, id: &NodeId, left: Option<&v1::LeftControlPlane>) -> bool {
        let mut is_news = false;
        self.change(id, |node| {
            is_news = left.is_some() && node.left.as_ref() != left;
            node.left = left.cloned();
        });
        is_news
    }

    /// Notes that the snapshot stream ended.
    pub fn disconnect(&mut self, id: &NodeId, now: Instant) {
        self.change(id, |node| {
            node.connected = false;
            node.heard = now;
        });
    }

    /// Forgets a data plane of which this `process` has ended, and said so: it routes no more, so nobody waits for it to
    /// come back. Yields whether it is forgotten: another process may have begun under its id.
    pub fn leave(&mut self, id: &NodeId, process: &str) -> bool {
        let is_its_own = |node: &Node| node.process.is_empty() || node.process == process;
        if !self.nodes.get(id).is_some_and(is_its_own) {
            return false;
        }
        // No longer counted among those that are connected, though its streams may end a moment later.
        self.remove(id);
        true
    }

    /// Notes what was sent.
    pub fn sent(&mut self, id: &NodeId, revision: Revision) {
        self.change(id, |node| node.sent = revision);
    }

    /// Notes what the data plane uses now: a sign of life, too, for one that has nothing to report.
    pub fn acked(&mut self, id: &NodeId, revision: Revision, now: Instant) {
        self.change(id, |node| {
            node.heard = now;
            // An ack that is older than what it said since changes nothing.
            node.acked = node.acked.max(revision);
            node.current = node.current.max(revision);
            node.nack = None;
        });
    }

    /// Notes that nothing which the data plane follows has changed since what it acked, up to `revision`.
    pub fn unaffected(&mut self, id: &NodeId, revision: Revision) {
        self.change(id, |node| node.current = node.current.max(revision));
    }

    /// Notes what the data plane refused. Yields whether that is news.
    pub fn nacked(&mut self, id: &NodeId, nack: v1::Nack) -> bool {
        let mut is_news = false;
        self.change(id, |node| is_news = node.nack.replace(nack.clone()) != Some(nack));
        is_news
    }

    /// Notes that the data plane reported. Yields who was forgotten for it.
    ///
    /// # Errors
    /// [`TooManyNodes`] when it is a new one and there is no room.
    pub fn reported(
        &mut self,
        identity: &Identity,
        now: Instant,
        wall: SystemTime,
    ) -> Result<Option<NodeId>, TooManyNodes> {
        let (_, forgotten) = self.admit(identity, now)?;
        self.change(&identity.id, |node| {
            node.heard = now;
            node.report_time = Some(wall);
        });
        Ok(forgotten)
    }

    /// Notes that a report stream begins, or ended: until the next report, nothing is known of what it routes by.
    pub fn reports_anew(&mut self, id: &NodeId) {
        self.change(id, |node| node.reported = None);
    }

    /// Notes which revision the data plane routed by when it reported; `None`: of another epoch.
    pub fn reported_at(&mut self, id: &NodeId, revision: Option<Revision>) {
        self.change(id, |node| node.reported = revision);
    }

    /// Notes a message with events of this process. Yields whether it is new: what was not confirmed is told again.
    pub fn takes_batch(&mut self, id: &NodeId, process: &str, batch: i64) -> bool {
        if batch == 0 {
            return true;
        }
        let mut is_new = false;
        self.change(id, |node| {
            is_new = node.taken_batch.0 != process || node.taken_batch.1 < batch;
            if is_new {
                node.taken_batch = (process.to_owned(), batch);
            }
        });
        is_new
    }

    /// Notes what the data plane's guard holds. Yields how many replicas it held before.
    pub fn holds(&mut self, id: &NodeId, held: Held, as_told: Option<v1::HeldReplicas>) -> usize {
        let mut before = 0;
        self.change(id, |node| {
            before = std::mem::replace(&mut node.held, held).count;
            node.held_as_told = as_told.filter(|_| node.held.count > 0).map(Arc::new);
        });
        before
    }

    /// Notes how late the data plane's health checks begin; zero: on time.
    pub fn checks_late_by(&mut self, id: &NodeId, late: Duration) {
        self.change(id, |node| node.checks_late = late);
    }

    /// Whether a data plane's guard holds a replica, and since when, as far as it is named.
    pub fn held_since(&self, id: &NodeId, key: &ReplicaKey) -> Option<Option<SystemTime>> {
        self.nodes.get(id)?.held.since(key)
    }

    /// Whether the guard of any data plane holds a replica, as far as it is named.
    pub fn is_held(&self, key: &ReplicaKey) -> bool {
        self.nodes.values().any(|node| node.held.since(key).is_some())
    }

    /// Whether the guard of a data plane may hold replicas of the service: one that holds more than it names may.
    pub fn may_hold(&self, service: &ServiceName) -> bool {
        self.nodes.values().any(|node| node.held.count > MAX_HELD || node.held.services.contains(service))
    }

    /// Drops data planes that have been away for [`FORGET_AFTER`], and yields them.
    pub fn forget_absent(&mut self, now: Instant) -> Vec<NodeId> {
        let is_absent = |node: &Node| !node.is_known_connected() && now - node.heard >= FORGET_AFTER;
        let absent: Vec<_> =
            self.nodes.iter().filter(|(_, node)| is_absent(node)).map(|(id, _)| id.clone()).collect();
        for id in &absent {
            self.remove(id);
        }
        absent
    }

    /// Data planes whose breakers may be out of date: disconnected, or silent for [`SILENT_AFTER`].
    pub fn unreachable(&self, now: Instant) -> Vec<String> {
        let is_unreachable = |node: &Node| !node.is_known_connected() || now - node.heard >= SILENT_AFTER;
        self.nodes.iter().filter(|(_, node)| is_unreachable(node)).map(|(id, _)| id.to_string()).collect()
    }

    /// The data planes after `after`, in the order of their ids, given the registry's revision.
    pub fn list_after(&self, after: &str, head: Revision) -> impl Iterator<Item = (&NodeId, v1::Node)> {
        let range =
            self.nodes.range::<str, _>((std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded));
        range.map(move |(id, node)| (id, node.to_wire(id, head)))
    }

    /// How many of those that follow this control plane are in each state, given the registry's revision.
    pub fn count_by_state(&self, head: Revision) -> BTreeMap<v1::NodeState, usize> {
        let mut counts = BTreeMap::new();
        for node in self.nodes.values().filter(|node| node.is_here()) {
            *counts.entry(node.state(head)).or_default() += 1;
        }
        counts
    }

    /// The revision that every connected data plane has taken on; the largest there is when none is connected.
    pub fn slowest(&self) -> Revision {
        self.taken_on.keys().next().copied().unwrap_or(Revision::MAX)
    }

    /// The connected data planes, and what each has taken on.
    pub(super) fn connected(&self) -> impl Iterator<Item = (&NodeId, Progress)> {
        self.nodes
            .iter()
            .filter(|(_, node)| node.is_known_connected())
            .map(|(id, node)| (id, node.progress()))
    }

    /// The data planes that may be routing: those that are connected, and those that were heard of within [`RETURN_TIME`].
    pub(super) fn routing(&self, now: Instant) -> impl Iterator<Item = (&NodeId, Progress)> {
        let is_routing = move |node: &Node| node.is_known_connected() || now - node.heard < RETURN_TIME;
        let routing = self.nodes.iter().filter(move |(_, node)| is_routing(node));
        routing.map(|(id, node)| (id, node.progress()))
    }

    /// How many are connected.
    pub fn connected_count(&self) -> usize {
        self.taken_on.values().sum()
    }

    /// Whether the data plane has been heard of within [`SILENT_AFTER`].
    pub fn is_heard(&self, id: &NodeId, now: Instant) -> bool {
        self.nodes.get(id).is_some_and(|node| !node.is_silent() && now - node.heard < SILENT_AFTER)
    }

    /// Changes an entry, if there is one, and keeps what is counted of it.
    fn change(&mut self, id: &NodeId, change: impl FnOnce(&mut Node)) {
        let Some(node) = self.nodes.get_mut(id) else { return };
        let counted = |node: &Node| node.is_known_connected().then(|| node.taken_on());
        let before = counted(node);
        change(node);
        self.last_change += 1;
        node.changed = self.last_change;
        let after = counted(node);
        self.count(before, after);
    }

    /// Removes an entry, and keeps what is counted.
    fn remove(&mut self, id: &NodeId) {
        let Some(node) = self.nodes.remove(id) else { return };
        self.last_change += 1;
        self.count(node.is_known_connected().then(|| node.taken_on()), None);
    }

    fn count(&mut self, before: Option<Revision>, after: Option<Revision>) {
        if before == after {
            return;
        }
        if let Some(before) = before
            && let Some(count) = self.taken_on.get_mut(&before)
        {
            *count -= 1;
            if *count == 0 {
                self.taken_on.remove(&before);
            }
        }
        if let Some(after) = after {
            *self.taken_on.entry(after).or_default() += 1;
        }
    }

    /// The data plane's entry, made if need be, and the one that is away and made room for it.
    fn admit(
        &mut self,
        identity: &Identity,
        now: Instant,
    ) -> Result<(&mut Node, Option<NodeId>), TooManyNodes> {
        let forgotten = self.make_room(&identity.id, Node::is_here)?;
        let node = self.entry(identity.id.clone(), now);
        node.version.clone_from(&identity.version);
        node.address.clone_from(&identity.address);
        Ok((node, forgotten))
    }

    /// Sees to it that there is room for this one among those of its `kind`. Yields who was forgotten for it.
    fn make_room(
        &mut self,
        id: &NodeId,
        kind: impl Fn(&Node) -> bool,
    ) -> Result<Option<NodeId>, TooManyNodes> {
        if self.nodes.contains_key(id) || self.nodes.len() < self.capacity {
            return Ok(None);
        }
        let of_kind = || self.nodes.iter().filter(|(_, node)| kind(node));
        if of_kind().count() < self.capacity {
            return Ok(None);
        }
        let away =
            of_kind().filter(|(_, node)| !node.is_known_connected()).min_by_key(|(_, node)| node.heard);
        let away = away.map(|(id, _)| id.clone()).ok_or(TooManyNodes { limit: self.capacity })?;
        self.remove(&away);
        Ok(Some(away))
    }

    fn entry(&mut self, id: NodeId, now: Instant) -> &mut Node {
        self.returns.came(&id);
        self.nodes.entry(id).or_insert_with(|| Node {
            version: String::new(),
            process: String::new(),
            address: String::new(),
            connected: false,
            heard: now,
            connect_time: None,
            report_time: None,
            acked: 0,
            current: 0,
            sent: 0,
            nack: None,
            reported: None,
            held: Held::default(),
            held_as_told: None,
            checks_late: Duration::ZERO,
            stream_number: 0,
            taken_batch: Default::default(),
            home: Home::Here,
            left: None,
            changed: 0,
        })
    }
}

/// How far one data plane has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Progress {
    acked: Revision,
    taken_on: Revision,
    reported: Option<Revision>,
}

impl Progress {
    /// Whether it routes by this revision, or by what is the same to it.
    pub(super) fn has_taken_on(&self, revision: Revision) -> bool {
        self.taken_on >= revision
    }

    /// Whether it has reported since it did.
    pub(super) fn has_reported_since(&self, revision: Revision) -> bool {
        // It does not know of revisions that change nothing for it, so it cannot report by them.
        let enough = if self.has_taken_on(revision) { revision.min(self.acked) } else { revision };
        self.reported.is_some_and(|reported| reported >= enough)
    }
}

impl Node {
    fn is_here(&self) -> bool {
        self.home == Home::Here
    }

    /// Whether the control plane that it follows does not tell how it is now.
    fn is_silent(&self) -> bool {
        matches!(self.home, Home::Peer { is_silent: true, .. })
    }

    fn is_known_connected(&self) -> bool {
        self.connected && !self.is_silent()
    }

    fn progress(&self) -> Progress {
        // What it has reported says nothing as long as its rows are not here.
        let has_rows = !matches!(self.home, Home::Peer { has_rows: false, .. });
        let reported = self.reported.filter(|_| has_rows);
        Progress { acked: self.acked, taken_on: self.taken_on(), reported }
    }

    fn taken_on(&self) -> Revision {
        if self.nack.is_some() { NOTHING } else { self.current }
    }

    fn state(&self, head: Revision) -> v1::NodeState {
        if self.is_silent() {
            return v1::NodeState::Unknown;
        }
        match (self.connected, &self.nack) {
            (false, _) => v1::NodeState::Disconnected,
            (true, Some(_)) => v1::NodeState::Nacked,
            (true, None) if self.current >= head => v1::NodeState::Synced,
            (true, None) => v1::NodeState::Lagging,
        }
    }

    fn to_wire(&self, id: &NodeId, head: Revision) -> v1::Node {
        v1::Node {
            node_id: id.to_string(),
            version: self.version.clone(),
            address: self.address.clone(),
            state: self.state(head).into(),
            acked_revision: self.current,
            sent_revision: self.sent,
            connect_time: self.connect_time.map(timestamp),
            last_report_time: self.report_time.map(timestamp),
            nack: self.nack.clone(),
            // The matrix knows.
            open_breaker_count: 0,
            held_replica_count: i32::try_from(self.held.count).unwrap_or(i32::MAX),
            control_plane: match &self.home {
                Home::Here => String::new(),
                Home::Peer { address, .. } => address.to_string(),
            },
            left: self.left.clone(),
            health_check_lateness: self.lateness_to_wire(),
        }
    }

    fn lateness_to_wire(&self) -> Option<prost_types::Duration> {
        (!self.checks_late.is_zero()).then(|| duration(self.checks_late))
    }
}

#[cfg(test)]
mod tests;
