//! One replica as the request path sees it.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::Duration,
};

use gateway_proto::{
    Address, Endpoint, Health, Locality, Priority, ReplicaKey, ServiceName, Weight,
    policy::{self, CheckMethod, HealthCheck},
    v1,
};

use super::{
    checks::{Checks, Standing},
    counters::{AttemptCounts, ReplicaCounters},
    latency::{Buckets, Latencies},
    learnt_limit::LearntLimit,
    recovery::Remembered,
    spec::{Forced, ReplicaSpec},
};
use crate::{
    handles::Handles,
    health::check::Check,
    routing::{
        Breaker, Change, Fault, Heard, History as Outcomes, Recorded, Silence, State, Tick, Unheard,
        View as BreakerView,
        balancing::{Distance, FULL_SHARE, LatencyEstimate, next_step, ramp},
    },
};

/// Failures remembered for people.
const REMEMBERED_FAILURES: usize = 5;

/// A replica: what the registry says of it, and what this data plane has learnt of it.
///
/// What the registry says is immutable; a change makes a new `Replica` around the same knowledge. Requests hold their worker's
/// handle, which is another `Replica` around all that this one is of.
#[derive(Debug)]
pub struct Replica {
    said: Arc<Said>,
    learnt: Arc<Learnt>,
    /// None of a handle.
    handles: Handles<Self>,
}

/// What the registry says, and what follows from it.
#[derive(Debug)]
struct Said {
    key: ReplicaKey,
    spec: ReplicaSpec,
    distance: Distance,
}

/// Outlives changes of weight, health, policy and even of the registration.
#[derive(Debug)]
struct Learnt {
    breaker: Breaker,
    counts: AttemptCounts,
    latencies: Latencies,
    /// Of the present registration.
    checks: Checks,
    /// Kept while the policy goes by it.
    estimate: LatencyEstimate,
    limit: LearntLimit,
    /// Made when its first outcome is recorded.
    outcomes: OnceLock<Outcomes>,
    /// The tick at which it began to take requests, if that was not when this data plane started; else zero.
    began_at: AtomicU64,
    /// Whether somebody waits for its attempts to end.
    is_draining: AtomicBool,
    /// Touched by failures, waits in vain, transitions and reports only.
    memory: Mutex<Memory>,
}

#[derive(Debug)]
struct Memory {
    changed_at: Tick,
    /// Of its outage, the first one.
    trip: Option<Trip>,
    failed_probe: Option<Trip>,
    out_since: Option<Tick>,
    /// What had been counted when the present registration was first seen.
    before: ReplicaCounters,
    /// The last one that did not come to be although its rule held.
    withheld: Option<Trip>,
    failures: VecDeque<Failure>,
    /// Of its present registration, since its breaker opened or closed last.
    unheard: Unheard,
    /// The last order to reset that was obeyed, or that was there before this replica was.
    reset: Option<Arc<v1::OverrideEntry>>,
}

/// The operator's decision behind a change, if it was one.
pub(super) type Order = Option<Arc<v1::OverrideEntry>>;
/// What a breaker did by an operator's word, in this order.
pub(super) type Obeyed = [Option<(Change, Order)>; 2];

/// When and why a breaker opened, or would have.
#[derive(Debug, Clone, Copy)]
pub struct Trip {
    /// When.
    pub at: Tick,
    /// Of which registration.
    pub incarnation: i64,
    /// The transition to open, with its rule and numbers.
    pub change: Change,
}

/// A breaker's past, as far as it is remembered.
#[derive(Debug, Clone, Copy)]
pub struct History {
    /// When it took its present state.
    pub changed_at: Tick,
    /// Since when it has not let all through, however often it let probes through meanwhile.
    pub out_since: Option<Tick>,
    /// How it opened last, if ever: from closed, or, where nothing else opened it in this outage of this registration, by a probe.
    pub trip: Option<Trip>,
    /// The last probe that has failed since.
    pub failed_probe: Option<Trip>,
    /// The last opening that was withheld, if ever.
    pub withheld: Option<Trip>,
}

/// An attempt that failed by the replica's fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// When.
    pub at: Tick,
    /// How.
    pub fault: Fault,
    /// The id of the request that it was for; empty when nobody said.
    pub request_id: Arc<str>,
}

impl Replica {
    /// A replica that is not known, or not any more, but perhaps for its `past`. Its breaker is in the state that an operator has decided on, if one did.
    pub(super) fn new(
        service: &ServiceName,
        spec: &ReplicaSpec,
        here: &Locality,
        workers: usize,
        past: Option<Remembered>,
        now: Tick,
    ) -> (Self, Obeyed) {
        let new = Breaker::shared_by(workers);
        let is_reset = |obeyed: &Option<Arc<v1::OverrideEntry>>| {
            let order = spec.reset.as_ref();
            order.is_some_and(|order| obeyed.as_ref().is_none_or(|last| is_newer(order, last)))
        };
        let (breaker, trip, out_since) = match past.filter(|past| !is_reset(&past.reset)) {
            Some(past) => {
                let breaker = new.following(past.breaker, now);
                // One that was forced open is back without that, and closed.
                let is_out = !breaker.state().lets_all_through();
                (breaker, past.trip, is_out.then_some(past.out_since.unwrap_or(now)))
            }
            None => (new, None, None),
        };
        // What an order of before could reset is not there any more.
        let reset = spec.reset.clone();
        let before = ReplicaCounters::default();
        let memory = Memory {
            changed_at: now,
            out_since,
            trip,
            failed_probe: None,
            withheld: None,
            before,
            failures: VecDeque::new(),
            unheard: Unheard::since(now),
            reset,
        };
        let learnt = Learnt {
            breaker,
            counts: AttemptCounts::new(workers),
            latencies: Latencies::new(workers),
            checks: Checks::new(spec.incarnation),
            estimate: LatencyEstimate::default(),
            limit: LearntLimit::default(),
            outcomes: OnceLock::new(),
            began_at: AtomicU64::new(0),
            is_draining: AtomicBool::new(!spec.is_serving()),
            memory: Mutex::new(memory),
        };
        let key = ReplicaKey { service: service.clone(), replica: spec.id.clone() };
        let replica = Self::around(key, spec, here, Arc::new(learnt), workers);
        let obeyed = [replica.follow_force(None, now), None];
        (replica, obeyed)
    }

    /// The same replica after the registry or an operator changed their mind about it.
    ///
    /// A new incarnation is a new process, of which its predecessor's failures say little: they are forgotten, and where the
    /// breaker is open, the next request is its probe. The breaker is not closed by that, what an operator has forced stays, and
    /// if the probe fails it rests for longer than the last time. An order to reset goes last, so that it also closes what was
    /// handed back together with it.
    pub(super) fn respecified(
        &self,
        spec: &ReplicaSpec,
        here: &Locality,
        workers: usize,
        now: Tick,
    ) -> (Self, Obeyed) {
        let learnt = &self.learnt;
        if spec.incarnation != self.spec().incarnation {
            learnt.breaker.reprobe(now);
            if let Some(outcomes) = learnt.outcomes.get() {
                outcomes.renewed(now);
            }
            learnt.limit.forget();
            let before = self.counters();
            let mut memory = self.memory();
            memory.before = before;
            memory.unheard = Unheard::since(now);
        }
        if spec.takes_requests() && (spec.incarnation != self.spec().incarnation || !self.takes_requests()) {
            self.begins(now);
        }
        learnt.is_draining.store(!spec.is_serving(), Relaxed);
        let next = Self::around(self.key().clone(), spec, here, Arc::clone(learnt), workers);
        let forced = next.follow_force(self.spec().forced.as_ref(), now);
        let reset = next.follow_reset(now);
        (next, [forced, reset])
    }

    fn around(
        key: ReplicaKey,
        spec: &ReplicaSpec,
        here: &Locality,
        learnt: Arc<Learnt>,
        workers: usize,
    ) -> Self {
        let distance = Distance::between(here, &spec.locality);
        let said = Arc::new(Said { key, spec: spec.clone(), distance });
        Self { said, learnt, handles: Handles::new(workers) }
    }

    /// The replica as requests of a worker hold it: by a count that no other worker writes.
    #[inline]
    pub(super) fn held_by(self: &Arc<Self>, worker: usize) -> &Arc<Self> {
        let handle = || Self {
            said: Arc::clone(&self.said),
            learnt: Arc::clone(&self.learnt),
            handles: Handles::none(),
        };
        self.handles.of(worker, handle).unwrap_or(self)
    }

    /// The order to reset that it obeyed last.
    pub(super) fn last_reset(&self) -> Option<Arc<v1::OverrideEntry>> {
        self.memory().reset.clone()
    }

    /// Obeys an order to reset that is newer than the last one.
    fn follow_reset(&self, now: Tick) -> Option<(Change, Order)> {
        let order = self.spec().reset.as_ref()?;
        {
            let mut memory = self.memory();
            if memory.reset.as_ref().is_some_and(|last| !is_newer(order, last)) {
                return None;
            }
            memory.reset = Some(Arc::clone(order));
        }
        if let Some(outcomes) = self.learnt.outcomes.get() {
            outcomes.reset(now);
        }
        Some((self.learnt.breaker.reset(now), Some(Arc::clone(order))))
    }

    /// Brings the breaker into the state that an operator has decided on, or out of it.
    fn follow_force(&self, before: Option<&Forced>, now: Tick) -> Option<(Change, Order)> {
        let breaker = &self.learnt.breaker;
        let (change, forced) = match &self.spec().forced {
            Some(forced) => (breaker.force(forced.state, now)?, Some(forced)),
            None => (breaker.release(now)?, before),
        };
        Some((change, forced.map(|forced| Arc::clone(&forced.entry))))
    }

    /// Service and id.
    pub fn key(&self) -> &ReplicaKey {
        &self.said.key
    }

    /// Where it listens.
    pub fn address(&self) -> &Address {
        &self.spec().endpoint.address
    }

    /// Where it listens, and what it understands there.
    pub fn endpoint(&self) -> &Endpoint {
        &self.spec().endpoint
    }

    /// Which registration of the id it is.
    pub fn incarnation(&self) -> i64 {
        self.spec().incarnation
    }

    /// Health as the registry knows it.
    pub fn health(&self) -> Health {
        self.spec().health
    }

    /// Its share of the traffic.
    pub fn weight(&self) -> Weight {
        self.spec().weight
    }

    /// Its tier.
    pub fn priority(&self) -> Priority {
        self.spec().priority
    }

    /// How far it is from this data plane.
    pub fn distance(&self) -> Distance {
        self.said.distance
    }

    /// Whether new requests may go to it, as far as the registry is concerned.
    pub fn takes_requests(&self) -> bool {
        self.spec().takes_requests()
    }

    /// What a check of it is; `None`: it is not checked. One that drains is none of ours to find out about.
    pub fn check_method(&self, policy: &HealthCheck) -> Option<CheckMethod> {
        policy.method(self.spec().is_permanent).filter(|_| self.spec().is_serving())
    }

    /// What its checks have shown.
    pub fn check(&self) -> Check {
        self.learnt.checks.read()
    }

    /// Says when its next check begins; `None`: one is under way.
    pub fn schedule_check(&self, due: Option<Tick>) {
        self.learnt.checks.schedule(due);
    }

    /// Whether it is asked, as far as its checks are concerned.
    pub fn standing(&self, policy: &HealthCheck) -> Standing {
        match self.check_method(policy) {
            Some(_) => self.learnt.checks.standing(policy),
            None => Standing::Asked,
        }
    }

    pub(super) fn checks(&self) -> &Checks {
        &self.learnt.checks
    }

    /// Another registration, or the end of its checks, makes what they have shown void.
    pub(super) fn follow_checks(&self, policy: &HealthCheck) {
        match self.check_method(policy) {
            Some(_) => self.learnt.checks.follow(self.spec().incarnation),
            None => self.learnt.checks.forget(self.spec().incarnation),
        }
    }

    /// It begins to take requests, as a new process or after it was left alone: its share may have to grow slowly.
    pub(super) fn begins(&self, now: Tick) {
        self.learnt.began_at.store(now.as_nanos().max(1), Release);
    }

    /// What it has of the traffic at `now`, relative to its peers.
    pub(super) fn share(&self, now: Tick, slow_start: Duration) -> u64 {
        u64::from(self.spec().weight.get()) * self.part(now, slow_start)
    }

    /// Its part of its weight, in hundredths.
    pub(super) fn part(&self, now: Tick, slow_start: Duration) -> u64 {
        self.began_at().map_or(FULL_SHARE, |began| ramp(began, now, slow_start))
    }

    /// When that grows next by itself, if it does.
    pub(super) fn share_grows_at(&self, now: Tick, slow_start: Duration) -> Option<Tick> {
        next_step(self.began_at()?, now, slow_start)
    }

    /// When it began to take requests, if it was not there from the start.
    pub(super) fn began_at(&self) -> Option<Tick> {
        let began = self.learnt.began_at.load(Acquire);
        (began > 0).then(|| Tick::from_nanos(began))
    }

    /// Everything the registry says of it.
    pub fn spec(&self) -> &ReplicaSpec {
        &self.said.spec
    }

    /// The breaker's state and counts at `now`.
    pub fn breaker_view(&self, now: Tick, policy: &policy::Breaker) -> BreakerView {
        self.learnt.breaker.view(now, policy)
    }

    /// When asking again may help, if nobody may ask at `now`.
    pub(super) fn retry_at(&self, now: Tick, policy: &policy::Breaker) -> Tick {
        let view = self.breaker_view(now, policy);
        match (view.state, view.until) {
            (State::Open, Some(until)) => until.max(now),
            // Another request is the probe, and may end at any moment.
            _ => now,
        }
    }

    /// When the breaker took its present state, and how it opened last.
    pub fn history(&self) -> History {
        let memory = self.memory();
        History {
            changed_at: memory.changed_at,
            out_since: memory.out_since,
            trip: memory.trip,
            failed_probe: memory.failed_probe,
            withheld: memory.withheld,
        }
    }

    /// The newest failures, newest first, at most five.
    pub fn last_failures(&self) -> Vec<Failure> {
        self.memory().failures.iter().cloned().collect()
    }

    /// How its last attempt failed that did.
    pub(super) fn last_fault(&self) -> Option<Fault> {
        self.memory().failures.front().map(|failure| failure.fault)
    }

    /// What was counted since the replica was first seen.
    pub fn counters(&self) -> ReplicaCounters {
        self.learnt.counts.read()
    }

    /// What was counted since its present registration was first seen.
    pub fn registration_counters(&self) -> ReplicaCounters {
        let before = self.memory().before;
        self.counters().minus(before)
    }

    /// How long its attempts took to their response head, or to their failure without one.
    pub fn latencies(&self) -> Buckets {
        self.learnt.latencies.read()
    }

    /// How often a latency was recorded, modulo 2^32.
    pub fn latencies_recorded(&self) -> u32 {
        self.learnt.latencies.recorded()
    }

    pub(super) fn record_latency(&self, worker: usize, latency: Duration) {
        self.learnt.latencies.record(worker, latency);
    }

    /// Whether somebody waits for its attempts to end, whatever [`Replica::spec`] said when this was made.
    pub fn is_draining(&self) -> bool {
        self.learnt.is_draining.load(Relaxed)
    }

    pub(super) fn breaker(&self) -> &Breaker {
        &self.learnt.breaker
    }

    /// Something more has come of it than a response's head. To be called by `worker` only.
    pub fn shows_life(&self, worker: usize, now: Tick) {
        self.counts().heard(worker, now);
    }

    /// A request has waited for it in vain since then. Yields the silence since it was heard last.
    pub(super) fn waited_in_vain(&self, since: Tick, now: Tick) -> Silence {
        let heard = self.counts().heard_at();
        self.memory().unheard.wait(since, heard, now)
    }

    pub(super) fn estimate(&self) -> &LatencyEstimate {
        &self.learnt.estimate
    }

    /// How many requests it may have in flight; [`u64::MAX`] without a limit.
    pub fn limit(&self, policy: &policy::Concurrency) -> u64 {
        policy.of_replica(self.learnt.limit.get())
    }

    pub(super) fn learnt_limit(&self) -> &LearntLimit {
        &self.learnt.limit
    }

    /// Tells it from others while it lives.
    pub(super) fn number(&self) -> usize {
        Arc::as_ptr(&self.learnt).addr()
    }

    pub(super) fn counts(&self) -> &AttemptCounts {
        &self.learnt.counts
    }

    /// The outcomes that were recorded of it, oldest first.
    pub fn recorded(&self) -> Vec<Recorded> {
        self.learnt.outcomes.get().map(Outcomes::read).unwrap_or_default()
    }

    /// Records the outcome of an attempt in a ring of `capacity`.
    pub(super) fn record_outcome(&self, capacity: usize, heard: Heard, began: Tick, now: Tick) {
        self.learnt.outcomes.get_or_init(|| Outcomes::new(capacity)).record(heard, began, now);
    }

    pub(super) fn remember_failure(&self, failure: Failure) {
        let mut memory = self.memory();
        memory.failures.truncate(REMEMBERED_FAILURES - 1);
        memory.failures.push_front(failure);
    }

    pub(super) fn remember_change(&self, change: &Change, now: Tick) {
        let trip = Trip { at: now, incarnation: self.incarnation(), change: *change };
        let mut memory = self.memory();
        if change.withheld.is_some() {
            memory.withheld = Some(trip);
        }
        if change.is_told_only() {
            return;
        }
        memory.changed_at = now;
        memory.out_since = match change.to.lets_all_through() {
            true => None,
            false => memory.out_since.or(Some(now)),
        };
        if matches!(change.to, State::Open | State::Closed) {
            // What has opened it says nothing of its probes, nor what came before of what it does now.
            memory.unheard = Unheard::since(now);
        }
        if change.to == State::Open {
            let is_of_outage = |first: &Trip| {
                first.incarnation == trip.incarnation
                    && memory.out_since.is_some_and(|since| first.at >= since)
            };
            let goes_on = !change.from.lets_all_through() && memory.trip.as_ref().is_some_and(is_of_outage);
            if goes_on {
                memory.failed_probe = Some(trip);
            } else {
                (memory.trip, memory.failed_probe) = (Some(trip), None);
            }
        }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // A panic elsewhere leaves plain values behind, which are as good as before.
        self.learnt.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether `order` was given after `last`. A registry that lost its store counts revisions anew, and time goes on.
fn is_newer(order: &v1::OverrideEntry, last: &v1::OverrideEntry) -> bool {
    let given_at = |entry: &v1::OverrideEntry| entry.create_time.map(|at| (at.seconds, at.nanos));
    order.revision > last.revision || given_at(order) > given_at(last)
}
