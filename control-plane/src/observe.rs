//! What the control plane sees of the data planes, and the timeline of all that happens.
//!
//! Nothing here is stored: data planes say it again when they reconnect, and other control planes tell what theirs say, see
//! `exchange`. [`Observation`] owns it behind four locks: what data planes say, what happened, what others are told of
//! that, and what is counted. Each is held for no await and none inside
//! another. The parts behind them are pure and take time as an argument.

pub mod catalog;
mod changes;
mod events;
mod exchange;
mod fold;
mod matrix;
mod nodes;
mod peers;
mod receipts;
mod recent;
mod report;
mod returns;
mod row;
mod scope;
mod seat;
mod stats;
mod tally;
mod timeline;
mod what_if;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use gateway_proto::{
    NodeId, ReplicaKey, ServiceName,
    time::{duration, timestamp},
    v1,
};
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

pub(crate) use self::events::of_registry;
pub use self::{
    changes::Change,
    exchange::{Followed, Sent},
    matrix::{BreakerReport, Counts, Dirty, Load, Matrix, News, Replica, RowName},
    nodes::{FORGET_AFTER, Identity, Nodes, SILENT_AFTER, Taken, Told, TooManyNodes, outdated},
    peers::Peers,
    receipts::{drain_status, rollout},
    recent::Lately,
    report::Report,
    row::is_open,
    scope::{Scope, parse_service},
    seat::Seat,
    stats::{Attention, LINGER, Latencies, Stats, StatsReport, Wish},
    timeline::{Cursor, Looked, Position, Since, Timeline, TimelineLimits},
    what_if::{Answered, MAX_OPEN as MAX_OPEN_QUESTIONS, Questions, WhatIf},
};
use self::{nodes::RETURN_TIME, peers::OwnEvents, seat::Stream};
use crate::{
    clock,
    registry::{Event, Held, Prospect, Revision, Sight},
};

/// Everything observed.
#[derive(Debug)]
pub struct Observation {
    observed: Mutex<Observed>,
    timeline: Mutex<Timeline>,
    stats: Mutex<Stats>,
    /// What other control planes are told of the timeline.
    own_events: Mutex<OwnEvents>,
    /// The number of the last event, for those who wait for the next.
    last_event: watch::Sender<Position>,
    /// The last change of a breaker, likewise.
    last_change: watch::Sender<Change>,
    /// What every connected data plane has taken on.
    slowest: watch::Sender<Revision>,
    /// Counts whatever may bring a drain forward.
    progress: watch::Sender<u64>,
    attention: watch::Sender<Attention>,
    /// Whether somebody reads counts here, so that other control planes are to tell theirs.
    reads_counts: watch::Sender<bool>,
    /// What would have been by other rules, asked of data planes.
    questions: Questions,
}

#[derive(Debug)]
struct Observed {
    nodes: Nodes,
    matrix: Matrix,
    seats: HashMap<(NodeId, Stream), CancellationToken>,
    /// Replicas on the way to be evicted: when, and why not.
    evictions: HashMap<ReplicaKey, (SystemTime, Option<Held>)>,
    peers: Peers,
}

/// Reads counts, which data planes report for as long as somebody does.
#[derive(Debug)]
pub struct StatsReader {
    observation: Arc<Observation>,
    id: stats::ReaderId,
}

impl Observation {
    /// Nothing observed yet, of at most `max_nodes` data planes.
    pub fn new(max_nodes: usize) -> Self {
        let started = clock::wall().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let started_ms = u64::try_from(started.as_millis()).unwrap_or(u64::MAX);
        Self {
            observed: Mutex::new(Observed {
                nodes: Nodes::new(max_nodes),
                matrix: Matrix::default(),
                seats: HashMap::new(),
                evictions: HashMap::new(),
                peers: Peers::default(),
            }),
            timeline: Mutex::new(Timeline::new(started_ms, TimelineLimits::default())),
            stats: Mutex::default(),
            own_events: Mutex::default(),
            last_event: watch::Sender::new(0),
            last_change: watch::Sender::new(0),
            slowest: watch::Sender::new(Revision::MAX),
            progress: watch::Sender::new(0),
            attention: watch::Sender::new(Attention::Nobody),
            reads_counts: watch::Sender::new(false),
            questions: Questions::default(),
        }
    }

    /// Gives the data planes that lost this control plane as it ended the time to come back: those that it `named` then, or
    /// any others if it could not.
    pub(crate) fn expect_returns(&self, named: Option<BTreeSet<NodeId>>) {
        self.lock().nodes.expect_returns(named, clock::now() + RETURN_TIME);
    }

    /// The data planes that may be routing, to be named to the process after this one; `None`: nobody knows them all.
    pub(crate) fn followers(&self) -> Option<BTreeSet<NodeId>> {
        self.lock().nodes.followers(clock::now())
    }

    /// Notes what happened in the registry; replicas that were removed lose their breakers, if they are gone still.
    pub(crate) fn registry_changed(&self, events: &[Event], is_gone: impl Fn(&ReplicaKey) -> bool) {
        let removed: Vec<_> = events.iter().filter_map(Event::removed).filter(is_gone).collect();
        if !removed.is_empty() {
            let mut observed = self.lock();
            removed.iter().for_each(|key| observed.matrix.forget_replica(key));
            self.tell(observed);
        }
        // Others hear it from their own registry.
        self.keep(events.iter().map(Event::to_wire));
    }

    /// Notes what happened beside the registry.
    pub(crate) fn note(&self, event: v1::Event) {
        self.record([event]);
    }

    /// Begins a snapshot stream; an older one of the same data plane is told to end.
    ///
    /// # Errors
    /// [`TooManyNodes`].
    pub(crate) fn connect(
        self: &Arc<Self>,
        identity: Identity,
        resume: Revision,
        left: Option<v1::LeftControlPlane>,
    ) -> Result<Seat, TooManyNodes> {
        let left = left.and_then(report::cut_left);
        let mut observed = self.lock();
        let was_elsewhere = observed.is_elsewhere(&identity.id);
        let forgotten = observed.nodes.connect(&identity, resume, clock::now(), clock::wall())?;
        observed.forget_rows_of(forgotten);
        let has_moved = observed.nodes.has_left(&identity.id, left.as_ref());
        if was_elsewhere && let Some(reports) = observed.seats.remove(&(identity.id.clone(), Stream::Reports))
        {
            // What it told before it followed this control plane was not taken in, so it tells everything anew.
            reports.cancel();
        }
        let event = events::connected(&identity, left.filter(|_| has_moved));
        let seat = observed.seat(self, identity, Stream::Snapshots);
        self.tell(observed);
        self.record([event]);
        Ok(seat)
    }

    /// Begins a report stream; an older one of the same data plane is told to end.
    ///
    /// # Errors
    /// [`TooManyNodes`].
    pub(crate) fn begin_reports(self: &Arc<Self>, identity: Identity) -> Result<Seat, TooManyNodes> {
        let mut observed = self.lock();
        if !observed.is_elsewhere(&identity.id) {
            let forgotten = observed.nodes.reported(&identity, clock::now(), clock::wall())?;
            observed.forget_rows_of(forgotten);
            observed.nodes.reports_anew(&identity.id);
        }
        let seat = observed.seat(self, identity, Stream::Reports);
        self.tell(observed);
        Ok(seat)
    }

    /// Drops what belongs to replicas that are not `known` and to data planes that stay away.
    ///
    /// A report that crosses a removal can leave a row behind; this finds it.
    pub(crate) fn tidy(&self, known: impl Fn(&ReplicaKey) -> bool) {
        let mut rows: Vec<ReplicaKey> = self.lock().matrix.replicas().cloned().collect();
        rows.retain(|key| !known(key));
        let mut observed = self.lock();
        for key in rows {
            observed.matrix.forget_replica(&key);
        }
        let absent = observed.nodes.forget_absent(clock::now());
        observed.forget_rows_of(absent);
        self.tell(observed);
        locked(&self.stats).tidy(clock::wall());
    }

    /// Lets `read` look at the data planes and their breakers. It must be quick.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&Nodes, &Matrix) -> T) -> T {
        let observed = self.lock();
        read(&observed.nodes, &observed.matrix)
    }

    /// Lets `read` look at the timeline. It must be quick.
    pub(crate) fn read_events<T>(&self, read: impl FnOnce(&Timeline) -> T) -> T {
        read(&locked(&self.timeline))
    }

    /// What data planes see of each of these replicas, in their order; `None` where none reports it.
    pub(crate) fn observed_health<'a>(
        &self,
        keys: impl IntoIterator<Item = &'a ReplicaKey>,
    ) -> Vec<Option<v1::ObservedHealth>> {
        /// Each has up to as many rows as there are data planes, and reports wait meanwhile.
        const AT_ONCE: usize = 64;
        let (keys, at): (Vec<_>, _) = (keys.into_iter().collect(), clock::wall());
        let mut seen = Vec::with_capacity(keys.len());
        for keys in keys.chunks(AT_ONCE) {
            let latencies = self.latencies_lately(keys, at);
            let observed = self.lock();
            seen.extend(keys.iter().zip(latencies).map(|(key, latency_p99)| {
                let seen = v1::ObservedHealth { latency_p99, ..observed.matrix.get(key)?.observed(at) };
                let Some((due, held)) = observed.evictions.get(*key) else { return Some(seen) };
                let eviction_held_reason = held.map(|held| held.to_string()).unwrap_or_default();
                Some(v1::ObservedHealth {
                    eviction_time: Some(timestamp(*due)),
                    eviction_held_reason,
                    ..seen
                })
            }));
        }
        seen
    }

    /// The 99th percentile of attempts at each of these replicas in the last ten seconds, as far as anybody counts it.
    fn latencies_lately(&self, keys: &[&ReplicaKey], at: SystemTime) -> Vec<Option<prost_types::Duration>> {
        let stats = locked(&self.stats);
        let lately = |key: &ReplicaKey| stats.lately(&key.service, Some(&key.replica), at)?.p99;
        keys.iter().map(|key| lately(key).map(duration)).collect()
    }

    /// Notes who is on the way to be evicted, and nobody else. `now` is `wall` by the wall clock.
    pub(crate) fn expect_evictions(&self, prospects: Vec<Prospect>, now: Instant, wall: SystemTime) {
        let dated = prospects.into_iter().map(|Prospect { key, due, held }| {
            let due = match due.checked_duration_since(now) {
                Some(left) => wall + left,
                None => wall - now.duration_since(due),
            };
            (key, (due, held))
        });
        self.lock().evictions = dated.collect();
    }

    /// What the data planes that are connected and report see of the replicas that fail.
    pub(crate) fn sights(&self) -> BTreeMap<ReplicaKey, Sight> {
        let (observed, now) = (self.lock(), clock::now());
        let is_heard = |node: &NodeId| {
            let reports = observed.seats.contains_key(&(node.clone(), Stream::Reports))
                || observed.nodes.reports_elsewhere(node);
            reports && observed.nodes.is_heard(node, now)
        };
        observed.matrix.suspects(is_heard)
    }

    /// Which connected data planes have taken on what the registry was at `revision`, as soon as all of them have, or
    /// after `patience`. Cancel safe.
    ///
    /// One that connects meanwhile is waited for, too; one that goes no longer is.
    pub async fn wait_for(&self, revision: Revision, patience: Duration) -> v1::Rollout {
        let (mut slowest, mut progress) = (self.slowest.subscribe(), self.progress.subscribe());
        // The senders live as long as `self`, so this ends by the conditions or by the time.
        let _ = timeout(patience, async {
            loop {
                let _ = slowest.wait_for(|slowest| *slowest >= revision).await;
                progress.mark_unchanged();
                // Silent ones are not waited for: nobody knows whether they come back.
                if self.has_heard_all_at(revision) && *slowest.borrow() >= revision {
                    return;
                }
                let _ = progress.changed().await;
            }
        })
        .await;
        let observed = self.lock();
        v1::Rollout {
            silent_control_planes: observed.peers.short_of(revision),
            ..rollout(&observed.nodes, revision)
        }
    }

    /// The receipts of a drain that the registry decided on at `revision`, see [`Observation::follow_progress`].
    pub fn drain_status(&self, key: &ReplicaKey, revision: Revision) -> v1::DrainStatus {
        let (now, observed) = (clock::now(), self.lock());
        let is_settled = self.is_settled(&observed, revision, now);
        let mut status = drain_status(&observed.nodes, &observed.matrix, key, revision, now, is_settled);
        if let Some(rollout) = &mut status.rollout {
            rollout.silent_control_planes = observed.peers.short_of(revision);
        }
        status
    }

    /// Whether nothing is in flight any more at what drains, as [`Observation::drain_status`] has it, which tells more.
    pub(crate) fn is_idle(&self, key: &ReplicaKey, revision: Revision) -> bool {
        let (now, observed) = (clock::now(), self.lock());
        self.is_settled(&observed, revision, now)
            && receipts::is_idle(&observed.nodes, &observed.matrix, key, revision, now)
    }

    /// Whether the data planes that are known here speak for all that may send requests to what drains since `revision`.
    fn is_settled(&self, observed: &Observed, revision: Revision, now: Instant) -> bool {
        // Data planes that only a silent control plane knows may send it requests, and one that connects to a control plane
        // which has not come to the drain does.
        observed.nodes.have_returned(now) && observed.peers.reach(revision)
    }

    /// Follows a number that grows whenever receipts may have changed.
    pub fn follow_progress(&self) -> watch::Receiver<u64> {
        self.progress.subscribe()
    }

    /// What data planes are asked, and what they answer.
    pub(crate) fn questions(&self) -> &Questions {
        &self.questions
    }

    /// The data planes that report now.
    pub(crate) fn reporting(&self) -> Vec<NodeId> {
        let observed = self.lock();
        let reporting = observed.seats.keys().filter(|(_, stream)| *stream == Stream::Reports);
        let here = reporting.map(|(node, _)| node).filter(|node| !observed.is_elsewhere(node));
        here.chain(observed.nodes.reporting_elsewhere()).cloned().collect()
    }

    /// Follows the number of the last event.
    pub(crate) fn follow_events(&self) -> watch::Receiver<Position> {
        self.last_event.subscribe()
    }

    /// Follows the number of the last change of a breaker.
    pub(crate) fn follow_breakers(&self) -> watch::Receiver<Change> {
        self.last_change.subscribe()
    }

    /// Follows whether somebody reads counts.
    pub(crate) fn follow_attention(&self) -> watch::Receiver<Attention> {
        self.attention.subscribe()
    }

    /// What clients asked of a service in the last ten seconds; `None`: nothing, or nobody tells.
    pub(crate) fn lately(&self, service: &ServiceName) -> Option<Lately> {
        locked(&self.stats).lately(service, None, clock::wall())
    }

    /// Begins to sum up what data planes count; unless the wish is a quiet one, they count in detail for as long as the reader
    /// is there.
    pub(crate) fn read_stats(self: &Arc<Self>, wish: Wish) -> StatsReader {
        let mut stats = locked(&self.stats);
        let id = stats.begin(wish, clock::now());
        // Under the lock, as in `drop`: of two that come and go at once, the last one has the last word.
        if stats.wants_detail() {
            self.attention.send_replace(Attention::Somebody);
        }
        let reads_here = stats.is_read_here();
        self.reads_counts.send_if_modified(|reads| std::mem::replace(reads, reads_here) != reads_here);
        drop(stats);
        StatsReader { observation: Arc::clone(self), id }
    }

    /// Adds what a data plane counted. Yields how many rows there was no room for.
    fn add_stats(&self, report: &StatsReport, is_from_peer: bool) -> usize {
        locked(&self.stats).add(report, is_from_peer, clock::wall())
    }

    /// Puts events into the timeline, and what others do not know by themselves where they are told of it.
    fn record(&self, events: impl IntoIterator<Item = v1::Event>) {
        let events: Vec<_> = events.into_iter().collect();
        for event in &events {
            debug_assert!(
                catalog::EventType::find(&event.event_type).is_some(),
                "{} is in no catalog",
                event.event_type
            );
        }
        let mut own = locked(&self.own_events);
        events.iter().filter(|event| peers::is_own(event)).for_each(|event| own.push(event.clone()));
        drop(own);
        self.keep(events);
    }

    /// Puts events into the timeline.
    fn keep(&self, events: impl IntoIterator<Item = v1::Event>) {
        let mut timeline = locked(&self.timeline);
        for event in events {
            timeline.push(event);
        }
        let last = timeline.last();
        drop(timeline);
        self.last_event.send_if_modified(|known| std::mem::replace(known, last.max(*known)) < last);
    }

    /// Ends a change of what is observed, and wakes those who wait for it.
    fn tell(&self, observed: MutexGuard<'_, Observed>) {
        let (change, slowest) = (observed.matrix.last_change(), observed.nodes.slowest());
        // It can fall as well as grow, so nothing but the lock tells which of two threads knows better.
        self.slowest.send_if_modified(|known| std::mem::replace(known, slowest) != slowest);
        drop(observed);
        self.last_change.send_if_modified(|known| std::mem::replace(known, change.max(*known)) < change);
        self.progress.send_modify(|count| *count += 1);
    }

    fn lock(&self) -> MutexGuard<'_, Observed> {
        locked(&self.observed)
    }
}

/// What a panicking thread left behind is at worst one report short.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl StatsReader {
    /// What has happened since the last call, within how long, and how many data planes are in it.
    pub(crate) fn take(&self) -> (Vec<v1::ReplicaStats>, Duration, usize) {
        let (rows, interval) = locked(&self.observation.stats).take(self.id, clock::now());
        (rows, interval, self.observation.lock().reporting_count())
    }
}

impl Drop for StatsReader {
    fn drop(&mut self) {
        let mut stats = locked(&self.observation.stats);
        let was_detailed = stats.end(self.id);
        let reads_here = stats.is_read_here();
        self.observation
            .reads_counts
            .send_if_modified(|reads| std::mem::replace(reads, reads_here) != reads_here);
        if was_detailed && !stats.wants_detail() {
            self.observation.attention.send_replace(Attention::Until(clock::now() + LINGER));
        }
    }
}

impl Observed {
    fn seat(&mut self, observation: &Arc<Observation>, identity: Identity, stream: Stream) -> Seat {
        let superseded = CancellationToken::new();
        let key = (identity.id.clone(), stream);
        if let Some(older) = self.seats.insert(key, superseded.clone()) {
            older.cancel();
        }
        Seat { observation: Arc::clone(observation), identity, stream, superseded }
    }

    /// Rows are kept for as long as their data plane is.
    fn forget_rows_of(&mut self, nodes: impl IntoIterator<Item = NodeId>) {
        for node in nodes {
            self.matrix.forget_node(&node);
        }
    }

    /// How many data planes report.
    fn reporting_count(&self) -> usize {
        let now = clock::now();
        let reporting = self.seats.keys().filter(|(_, stream)| *stream == Stream::Reports);
        let here = reporting.map(|(node, _)| node).filter(|node| !self.is_elsewhere(node));
        here.chain(self.nodes.reporting_elsewhere()).filter(|node| self.nodes.is_heard(node, now)).count()
    }

    /// Whether another control plane has the newest stream of the data plane.
    fn is_elsewhere(&self, node: &NodeId) -> bool {
        self.nodes.contains(node) && !self.nodes.is_here(node)
    }
}

#[cfg(test)]
mod tests;
