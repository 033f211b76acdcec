//! Services and replicas as the request path reads them.
//!
//! Discovery (or the static file) writes the table, workers read it without a lock, breaker transitions rebuild one
//! service's view. What a replica's breaker has learnt lives with the replica's identity and survives all of it.

mod changes;
#[cfg(test)]
pub(crate) mod changing;
mod checks;
mod concurrency;
mod counters;
mod departed;
mod directory;
mod drain;
mod durations;
mod fail_open;
mod injection;
mod latency;
mod learnt_limit;
mod measures;
mod outlets;
mod pending;
mod policy;
mod rate_limit;
mod recovery;
mod replica;
mod service;
mod spec;
mod sync;
mod transition;
mod view;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{
            AtomicBool,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
};

use arc_swap::{ArcSwap, Guard};
use gateway_proto::{Locality, ServiceName, route::Route};
use tokio::sync::mpsc;

pub use crate::routing::Refused;
pub use changes::Seen;
pub use checks::{CheckChange, Standing};
pub use concurrency::{Refusal, Waiting};
pub use counters::{
    AttemptResult, CodeClass, Direction, FallbackKind, ReplicaCounters, RequestOutcome, ServiceCounters,
    Traffic, TunnelCounts,
};
pub use drain::{DrainFollower, Draining, Drains};
pub use durations::{DURATION_BOUNDS, Histogram};
pub use fail_open::FailOpenChange;
pub(crate) use injection::bounded_delay;
pub use injection::{Delayed, FaultKind, Injecting, Injection};
pub use latency::Buckets;
pub use measures::{Backlog, Measures, SideBySide};
pub use policy::{AttemptPolicy, PolicyInForce};
pub use rate_limit::{Counted, Exceeding, RateLimited};
pub use replica::{Failure, History, Replica, Trip};
pub use service::{Picked, Service};
pub use spec::{Forced, ReplicaSpec, ServiceSpec};

pub use crate::routing::ForcedState;
use service::Newness;
pub use transition::Transition;
pub use view::{FailOpen, Unavailable};

use crate::{clock::Moment, routes::Routes, routing::Tick};
use changes::Changed;
use departed::Departed;
use directory::Directory;
use outlets::Outlets;
use transition::TransitionSink;

/// All services by name.
pub type Services = BTreeMap<ServiceName, Arc<Service>>;

/// A service as requests of a worker hold it: by a count that no other worker writes.
pub type HeldService = Arc<Arc<Service>>;

/// The routing table of one data plane, shared by its workers.
#[derive(Debug)]
pub struct Table {
    services: Directory,
    departed: Departed,
    routes: ArcSwap<Routes>,
    /// Whether there are any, so that who has none pays nothing for them.
    has_routes: AtomicBool,
    is_filled: AtomicBool,
    outlets: Arc<Outlets>,
    workers: usize,
    here: Arc<Locality>,
}

impl Table {
    /// An empty table for `workers` workers, and the breaker transitions that happen in it, of a data plane that knows no
    /// place of its own; see [`Table::located`].
    pub fn new(workers: usize) -> (Arc<Self>, mpsc::Receiver<Transition>) {
        Self::located(workers, Locality::default())
    }

    /// An empty table for `workers` workers of a data plane that is `here`, and the breaker transitions that happen in it.
    ///
    /// The queue of transitions is bounded: what nobody takes is dropped and counted, see
    /// [`Table::dropped_transitions`].
    pub fn located(workers: usize, here: Locality) -> (Arc<Self>, mpsc::Receiver<Transition>) {
        let (transitions, receiver) = TransitionSink::new();
        let table = Self {
            services: Directory::new(),
            departed: Departed::default(),
            routes: ArcSwap::default(),
            has_routes: AtomicBool::new(false),
            is_filled: AtomicBool::new(false),
            outlets: Arc::new(Outlets::new(transitions, workers)),
            workers,
            here: Arc::new(here),
        };
        (Arc::new(table), receiver)
    }

    /// Takes over what the registry says: `changed` services as they are now, `gone` ones removed.
    ///
    /// Each service changes atomically. Attempts under way finish on the replicas they have; their requests are sent
    /// to no other replica of a service that is gone. Breakers obey what operators have decided since, and workers hear
    /// of replicas that get no new requests any more.
    /// To be called by one writer at a time.
    pub fn apply(&self, changed: &[ServiceSpec], gone: &[ServiceName], now: Tick) {
        let newness = if self.is_filled() { Newness::Joining } else { Newness::Found };
        let mut come = Vec::new();
        for spec in changed {
            if let Some(service) = self.services.get(spec.name.as_str()) {
                service.update(spec, newness, now);
                continue;
            }
            let service =
                self.departed.get(spec.name.as_str(), now).inspect(|known| known.update(spec, newness, now));
            come.push(service.unwrap_or_else(|| {
                let (outlets, here) = (Arc::clone(&self.outlets), Arc::clone(&self.here));
                Arc::new(Service::new(spec, self.workers, outlets, here, newness, now))
            }));
        }
        let (mut leaving, mut departing) = (Vec::new(), Vec::new());
        for name in gone {
            if let Some(service) = self.services.get(name.as_str()) {
                // Requests under way still hold it.
                service.empty(now);
                departing.push(service);
                leaving.push(name);
            }
        }
        self.departed.add(departing, now);
        if !come.is_empty() || !leaving.is_empty() {
            self.services.change(come, &leaving);
        }
        self.outlets.drains.apply(changed, gone);
        self.outlets.changes.note(changed.iter().map(|spec| &spec.name));
        self.outlets.changes.note(gone.iter());
        self.is_filled.store(true, Release);
        self.outlets.check_changes.notify_one();
    }

    /// Has faults injected that policies say, from the next [`Table::inject`] on. Without it they are ignored.
    pub fn allow_faults(&self) {
        self.outlets.faults.allow();
    }

    /// Takes over the faults that these services' policies inject, once the services themselves are
    /// [applied](Table::apply). To be called by the same writer.
    pub fn inject(&self, changed: &[ServiceSpec], now: Moment) {
        for spec in changed {
            if let Some(service) = self.services.get(spec.name.as_str()) {
                service.inject(&spec.policy.fault, now);
            }
        }
    }

    /// How many keys of rate limits were forgotten although requests of theirs had come too soon for that.
    pub fn rate_keys_forgotten(&self) -> u64 {
        self.outlets.rate_keys_forgotten()
    }

    /// Completes when others may be to be checked than at the last call: something was applied, or a breaker opened whose
    /// replica's port is checked from now on. For one caller; cancel safe.
    pub async fn checks_changed(&self) {
        self.outlets.check_changes.notified().await;
    }

    /// Whether anything was applied yet. Before that a service is not missing, but unknown.
    pub fn is_filled(&self) -> bool {
        self.is_filled.load(Acquire)
    }

    /// The service of that name, if any. Lock-free.
    pub fn service(&self, name: &str) -> Option<Arc<Service>> {
        self.services.get(name)
    }

    /// The same for a request of this worker.
    pub fn service_held_by(&self, worker: usize, name: &str) -> Option<HeldService> {
        self.services.held_by(worker, name)
    }

    /// The same, too, if the last of its replicas left it a while before `now`, ten minutes, or as long as its fallback may
    /// answer: it has nobody, and the policy that it had then. Lock-free.
    pub fn service_or_departed(&self, worker: usize, name: &str, now: Tick) -> Option<HeldService> {
        self.service_held_by(worker, name).or_else(|| self.departed.get(name, now).map(Arc::new))
    }

    /// Takes over the explicit routes, all at once. Requests under way go on as they began.
    pub fn set_routes<'a>(&self, routes: impl IntoIterator<Item = &'a Route>) {
        let routes = Routes::new(routes, self.workers);
        let has_routes = !routes.is_empty();
        self.routes.store(Arc::new(routes));
        self.has_routes.store(has_routes, Release);
    }

    /// The explicit routes, if there are any. Lock-free; not to be kept across an await.
    pub fn routes(&self) -> Option<Guard<Arc<Routes>>> {
        self.has_routes.load(Acquire).then(|| self.routes.load())
    }

    /// All services as they are now.
    pub fn services(&self) -> Arc<Services> {
        self.services.ordered()
    }

    /// The services to look at for who has seen so much of the table's changes, and holds something of the services that it
    /// `knows`: those that have changed since, gone ones among them; all that are there or known, if that is not remembered. And
    /// how far that goes: what is looked at after this call is no older.
    pub fn changed_since<'a>(
        &self,
        seen: Seen,
        knows: impl IntoIterator<Item = &'a ServiceName>,
    ) -> (BTreeSet<ServiceName>, Seen) {
        let (changed, seen) = self.outlets.changes.since(seen);
        let names = match changed {
            Changed::These(names) => names,
            Changed::Anything => self.services().keys().cloned().chain(knows.into_iter().cloned()).collect(),
        };
        (names, seen)
    }

    /// How far who looks at everything from now on has seen its changes.
    pub fn seen(&self) -> Seen {
        self.outlets.changes.seen()
    }

    /// Whether any replica is left alone because of its breaker. Lock-free.
    pub fn has_resting(&self) -> bool {
        self.outlets.resting.load(Relaxed) > 0
    }

    /// Transitions, and changes of failing open, that found their queues full since the start.
    pub fn dropped_transitions(&self) -> u64 {
        self.outlets.transitions.dropped() + self.outlets.fail_opens.dropped()
    }

    /// Takes up to `max` of the services that began to fail open, or ceased to, since this was last asked.
    pub fn take_fail_open_changes(&self, max: usize) -> Vec<FailOpenChange> {
        self.outlets.fail_opens.take(max)
    }

    /// The replicas that get no new requests because somebody asked for it.
    pub fn drains(&self) -> Arc<Drains> {
        self.outlets.drains.drains()
    }

    /// A worker's way to hear of them. From now on [`Table::drains_taken_on`] waits for this worker, too.
    pub fn follow_drains(&self, worker: usize) -> DrainFollower {
        DrainFollower::new(Arc::clone(&self.outlets), worker)
    }

    /// Whether no worker picks by what the table said before the newest [`Table::apply`], and all attempts that were
    /// picked so are counted.
    pub fn are_drains_taken_on(&self) -> bool {
        self.outlets.drains.is_taken_on()
    }

    /// Completes when no worker picks by what the table said before the newest [`Table::apply`], and all attempts that
    /// were picked so are counted. Cancel safe.
    pub async fn drains_taken_on(&self) {
        self.outlets.drains.taken_on().await;
    }

    /// Completes when an attempt at a draining replica has ended since the last call. For one caller; cancel safe.
    pub async fn drained_some(&self) {
        self.outlets.drains.attempts_ended().await;
    }

    /// Records the last so many outcomes of each replica from now on, sixteen bytes each, for [`Replica::recorded`]; zero: none.
    /// A replica that has some keeps its number.
    pub fn record_outcomes(&self, outcomes: usize) {
        self.outlets.record(outcomes);
    }

    /// How many outcomes are recorded of each replica.
    pub fn recorded_outcomes(&self) -> usize {
        self.outlets.recorded()
    }

    /// Has workers record how long attempts at each replica take, or not.
    pub fn set_detailed(&self, detailed: bool) {
        self.outlets.set_detailed(detailed);
    }
}

#[cfg(test)]
mod tests;
