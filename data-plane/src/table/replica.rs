//! One replica as the request path sees it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use gateway_proto::{Address, Health, ReplicaKey, ServiceName, Weight, policy};

use super::{
    counters::{AttemptCounts, ReplicaCounters},
    spec::ReplicaSpec,
};
use crate::routing::{Breaker, Change, Fault, State, Tick, View as BreakerView};

/// Failures remembered for people.
const REMEMBERED_FAULTS: usize = 5;

/// A replica: what the registry says of it, and what this data plane has learnt of it.
///
/// What the registry says is immutable; a change makes a new `Replica` around the same knowledge.
#[derive(Debug)]
pub struct Replica {
    key: ReplicaKey,
    spec: ReplicaSpec,
    learnt: Arc<Learnt>,
}

/// Outlives changes of weight, health, policy and even of the registration.
#[derive(Debug)]
struct Learnt {
    breaker: Breaker,
    counts: AttemptCounts,
    /// Touched by failures, transitions and reports only.
    memory: Mutex<Memory>,
}

#[derive(Debug)]
struct Memory {
    changed_at: Tick,
    trip: Option<Trip>,
    faults: VecDeque<(Tick, Fault)>,
}

/// When and why a breaker opened.
#[derive(Debug, Clone)]
pub struct Trip {
    /// When.
    pub at: Tick,
    /// The transition to open, with its rule and numbers.
    pub change: Change,
}

impl Replica {
    pub(super) fn new(service: &ServiceName, spec: &ReplicaSpec, workers: usize, now: Tick) -> Self {
        let memory = Memory { changed_at: now, trip: None, faults: VecDeque::new() };
        Self {
            key: ReplicaKey { service: service.clone(), replica: spec.id.clone() },
            spec: spec.clone(),
            learnt: Arc::new(Learnt {
                breaker: Breaker::new(),
                counts: AttemptCounts::new(workers),
                memory: Mutex::new(memory),
            }),
        }
    }

    /// The same replica after the registry changed its mind about it.
    ///
    /// A new incarnation is a new process: if its predecessor was out, it may prove itself at once.
    pub(super) fn respecified(&self, spec: &ReplicaSpec, now: Tick) -> Self {
        if spec.incarnation != self.spec.incarnation {
            self.learnt.breaker.reprobe(now);
        }
        Self { key: self.key.clone(), spec: spec.clone(), learnt: Arc::clone(&self.learnt) }
    }

    /// Service and id.
    pub fn key(&self) -> &ReplicaKey {
        &self.key
    }

    /// Where it listens.
    pub fn address(&self) -> &Address {
        &self.spec.address
    }

    /// Which registration of the id it is.
    pub fn incarnation(&self) -> i64 {
        self.spec.incarnation
    }

    /// Health as the registry knows it.
    pub fn health(&self) -> Health {
        self.spec.health
    }

    /// Its share of the traffic.
    pub fn weight(&self) -> Weight {
        self.spec.weight
    }

    /// Everything the registry says of it.
    pub fn spec(&self) -> &ReplicaSpec {
        &self.spec
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

    /// When the breaker took its present state, and how it opened last, if ever.
    pub fn history(&self) -> (Tick, Option<Trip>) {
        let memory = self.memory();
        (memory.changed_at, memory.trip.clone())
    }

    /// The newest failures, newest first, at most five.
    pub fn last_faults(&self) -> Vec<(Tick, Fault)> {
        self.memory().faults.iter().copied().collect()
    }

    /// What was counted since the replica was first seen.
    pub fn counters(&self) -> ReplicaCounters {
        self.learnt.counts.read()
    }

    pub(super) fn breaker(&self) -> &Breaker {
        &self.learnt.breaker
    }

    pub(super) fn counts(&self) -> &AttemptCounts {
        &self.learnt.counts
    }

    pub(super) fn remember_fault(&self, fault: Fault, now: Tick) {
        let mut memory = self.memory();
        memory.faults.truncate(REMEMBERED_FAULTS - 1);
        memory.faults.push_front((now, fault));
    }

    pub(super) fn remember_change(&self, change: &Change, now: Tick) {
        let mut memory = self.memory();
        memory.changed_at = now;
        if change.to == State::Open {
            memory.trip = Some(Trip { at: now, change: *change });
        }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // A panic elsewhere leaves plain values behind, which are as good as before.
        self.learnt.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
