//! One service: its replicas, its policy, and whom to ask next.

mod counts;
mod gate;
mod hearing;

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{
        AtomicBool, AtomicU64,
        Ordering::{AcqRel, Acquire, Relaxed, SeqCst},
        compiler_fence,
    },
};

use arc_swap::ArcSwap;
use gateway_proto::{Locality, Policy, Protocol, ReplicaId, ServiceName, policy};

use gate::Gate;

use super::{
    checks::{CheckChange, Standing},
    concurrency::Limits,
    counters::{FallbackKind, Inflight, ReplicaCounters, ServiceCounters, TunnelCounts},
    durations::Durations,
    fail_open::FailOpenChange,
    injection::Injections,
    latency::{Buckets, Latencies},
    measures::latencies,
    outlets::Outlets,
    policy::PolicyInForce,
    rate_limit::RateLimits,
    recovery::Pasts,
    replica::{Failure, Order, Replica},
    spec::{ReplicaSpec, ServiceSpec},
    transition::Transition,
    view::{Choice, FailOpen, Unavailable, View},
};
use crate::{
    health::check,
    routing::{Budget, Change, Draw, Fault, Heard, Outcome, Permit, Reason, State, Tick, compare},
};

/// A replica that was picked for one attempt.
#[derive(Debug)]
pub struct Picked {
    /// Whom to ask.
    pub replica: Arc<Replica>,
    /// Goes back by [`Service::settle`] exactly once, whatever becomes of the attempt.
    pub permit: Permit,
}

/// A service of the routing table.
///
/// Picks are lock-free. Changes of eligibility (an update from the registry, a breaker's transition) rebuild the view
/// under a lock that no pick takes.
#[derive(Debug)]
pub struct Service {
    name: ServiceName,
    id: u64,
    pub(super) view: ArcSwap<View>,
    roster: Mutex<Roster>,
    budget: Budget,
    counters: ServiceCounters,
    tunnels: TunnelCounts,
    fallbacks: [AtomicU64; FallbackKind::ALL.len()],
    latencies: Latencies,
    request_durations: Durations,
    attempt_durations: Durations,
    pub(super) inflight: Inflight,
    requests_inflight: Inflight,
    /// Grows when something changes what its replicas show that is no request.
    stirred: AtomicU64,
    /// Whose ports are checked, as a hash; zero: nobody's.
    pub(super) ports: AtomicU64,
    breaker_rejections: AtomicU64,
    pub(super) limits: Limits,
    /// Whether the policy has any, for those who end something.
    is_limited: AtomicBool,
    pub(super) injections: Injections,
    pub(super) rates: RateLimits,
    /// Before this tick, replicas are not compared again.
    compared_until: AtomicU64,
    /// Whether a replica speaks more than HTTP/1.1.
    may_decline: AtomicBool,
    /// Whether the policy has something for requests that nobody answers well.
    has_fallback: AtomicBool,
    /// Whether it goes by how long attempts take.
    learns_latency: AtomicBool,
    pub(super) outlets: Arc<Outlets>,
    pub(super) workers: usize,
    /// Where this data plane is.
    here: Arc<Locality>,
}

/// Whether replicas that a data plane learns of have joined just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Newness {
    /// They have.
    Joining,
    /// They may have been there for long: it is this data plane that is new.
    Found,
}

#[derive(Debug)]
struct Roster {
    policy: Policy,
    replicas: Arc<[Arc<Replica>]>,
    /// What replicas that are gone had counted, so that the service's sums never go back.
    gone: ReplicaCounters,
    pasts: Pasts,
}

impl Service {
    pub(super) fn new(
        spec: &ServiceSpec,
        workers: usize,
        outlets: Arc<Outlets>,
        here: Arc<Locality>,
        newness: Newness,
        now: Tick,
    ) -> Self {
        let nobody = Roster {
            policy: spec.policy,
            replicas: Arc::default(),
            gone: ReplicaCounters::default(),
            pasts: Pasts::default(),
        };
        let service = Self {
            name: spec.name.clone(),
            id: outlets.next_id(),
            view: ArcSwap::from_pointee(View::new(spec.policy, Vec::new(), &[], None, workers, now)),
            roster: Mutex::new(nobody),
            budget: Budget::new(workers),
            counters: ServiceCounters::new(workers),
            tunnels: TunnelCounts::new(workers),
            fallbacks: Default::default(),
            latencies: Latencies::new(workers),
            request_durations: Durations::new(workers),
            attempt_durations: Durations::new(workers),
            inflight: Inflight::new(workers),
            requests_inflight: Inflight::new(workers),
            stirred: AtomicU64::new(0),
            ports: AtomicU64::new(0),
            breaker_rejections: AtomicU64::new(0),
            limits: Limits::new(workers),
            is_limited: AtomicBool::new(false),
            injections: Injections::default(),
            rates: RateLimits::default(),
            compared_until: AtomicU64::new(0),
            may_decline: AtomicBool::new(false),
            has_fallback: AtomicBool::new(false),
            learns_latency: AtomicBool::new(false),
            outlets,
            workers,
            here,
        };
        service.update(spec, newness, now);
        service
    }

    /// Takes over what the registry and operators say now.
    pub(super) fn update(&self, spec: &ServiceSpec, newness: Newness, now: Tick) {
        let mut roster = self.roster();
        let mut obeyed = Vec::new();
        let mut replicas = Vec::with_capacity(spec.replicas.len());
        let mut pasts = std::mem::take(&mut roster.pasts);
        for replica_spec in &spec.replicas {
            let known =
                roster.replicas.binary_search_by(|replica| replica.key().replica.cmp(&replica_spec.id));
            let (replica, changes) = match known.ok().map(|index| &roster.replicas[index]) {
                Some(known) if known.spec() == replica_spec => {
                    replicas.push(Arc::clone(known));
                    continue;
                }
                Some(known) => known.respecified(replica_spec, &self.here, self.workers, now),
                None => {
                    let (replica, changes) = Replica::new(
                        &spec.name,
                        replica_spec,
                        &self.here,
                        self.workers,
                        pasts.take(&replica_spec.id, now),
                        now,
                    );
                    if newness == Newness::Joining {
                        replica.begins(now);
                        replica.checks().joins();
                    }
                    (replica, changes)
                }
            };
            let replica = Arc::new(replica);
            for (change, order) in changes.into_iter().flatten() {
                replica.remember_change(&change, now);
                obeyed.push((Arc::clone(&replica), change, order));
            }
            replicas.push(replica);
        }
        replicas.iter().for_each(|replica| replica.follow_checks(&spec.policy.health_check));
        let is_gone = |replica: &&Arc<Replica>| !spec.has(&replica.key().replica);
        let mut gone = roster.gone;
        for replica in roster.replicas.iter().filter(is_gone) {
            gone = gone.plus(replica.counters().ended());
            pasts.keep(replica, now);
        }
        *roster = Roster { policy: spec.policy, replicas: replicas.into(), gone, pasts };
        let speaks_more = |replica: &ReplicaSpec| replica.endpoint.protocol != Protocol::HTTP1;
        self.may_decline.store(spec.replicas.iter().any(speaks_more), Relaxed);
        self.limit_rate(&spec.policy.rate_limit);
        self.rebuild(&roster, now);
        drop(roster);
        for (replica, change, order) in obeyed {
            self.tell(&replica, change, order, now);
        }
    }

    /// Lets go of all replicas, because the registry knows the service no more.
    pub(super) fn empty(&self, now: Tick) {
        self.injections.clear();
        let spec = ServiceSpec { name: self.name.clone(), policy: *self.policy(), replicas: Vec::new() };
        self.update(&spec, Newness::Joining, now);
    }

    /// Its name.
    pub fn name(&self) -> &ServiceName {
        &self.name
    }

    /// Tells it from whoever had its name before, and was forgotten.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The policy in force. Lock-free.
    pub fn policy(&self) -> PolicyInForce {
        PolicyInForce::new(self.view.load())
    }

    /// Whether one of its replicas may say of a request that it did not process it, whatever the method: HTTP/2 has words
    /// for that.
    pub fn may_decline(&self) -> bool {
        self.may_decline.load(Relaxed)
    }

    /// Whether its policy has something for requests that nobody answers well, as few have: less than a look at the policy.
    pub fn has_fallback(&self) -> bool {
        self.has_fallback.load(Relaxed)
    }

    /// Whether, and how far, too few replicas of the tier in use let traffic through.
    pub fn fail_open(&self) -> Option<FailOpen> {
        self.view.load().fails_open()
    }

    /// Whether a replica is asked although its breaker lets nobody through but probes, or its checks fail, because too few of
    /// its tier are left.
    pub fn asks_regardless(&self, replica: &Replica) -> bool {
        let view = self.view.load();
        let is_failing = || replica.standing(&view.policy.health_check) == Standing::Failing;
        let is_resting = matches!(replica.breaker().state(), State::Open | State::HalfOpen);
        let is_out = match (view.fail_open, view.ignores_checks) {
            (Some(fail_open), _) if fail_open.tier == replica.priority() => is_resting || is_failing(),
            // Checks are ignored, and breakers decide.
            (_, Some(_)) => !is_resting && is_failing(),
            _ => false,
        };
        is_out && replica.takes_requests()
    }

    /// Replicas whose breakers are open, and that are not asked all the same. Lock-free, and without an allocation while there
    /// is none.
    pub fn resting(&self) -> Vec<Arc<Replica>> {
        let view = self.view.load();
        let resting = view.resting().iter().filter(|replica| replica.breaker().state() == State::Open);
        resting.cloned().collect()
    }

    /// Whether a replica could be asked, and a better tier, or one that is nearer, takes all requests.
    pub fn stands_by(&self, replica: &Replica) -> bool {
        self.view.load().stands_by(replica)
    }

    /// All replicas, ready or not, in the order of their ids.
    pub fn replicas(&self) -> Arc<[Arc<Replica>]> {
        Arc::clone(&self.roster().replicas)
    }

    /// One of them.
    pub fn replica(&self, id: &ReplicaId) -> Option<Arc<Replica>> {
        let replicas = self.replicas();
        let index = replicas.binary_search_by(|replica| replica.key().replica.cmp(id)).ok()?;
        Some(Arc::clone(&replicas[index]))
    }

    /// Its retry budget.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Its requests by status and outcome.
    pub fn counters(&self) -> &ServiceCounters {
        &self.counters
    }

    /// Picks the replica for the next attempt of a request that has already `tried` some. Lock-free, but for the
    /// rebuilding of the view when it makes a breaker half-open, and when the share of one that starts slowly grows; and
    /// where the policy limits what is in flight, of which no two may take the last place.
    ///
    /// # Errors
    /// [`Unavailable`] when there is nobody (else) to ask. After [`Unavailable::AllFull`] it may wait, see [`Service::wait`].
    pub fn pick(
        &self,
        worker: usize,
        now: Tick,
        tried: &[Arc<Replica>],
        draw: Draw,
    ) -> Result<Picked, Unavailable> {
        let mut view = self.view.load();
        if now >= view.reshared_at {
            self.reshare(now);
            view = self.view.load();
        }
        if view.is_limited {
            return self.pick_limited(&view, worker, now, tried, draw, None);
        }
        let choice = view.pick(worker, now, tried, draw, || self.inflight.read())?;
        self.begin(worker, choice.0, tried, draw);
        Ok(self.picked(choice, worker, now))
    }

    #[inline]
    pub(super) fn picked(&self, choice: Choice<'_>, worker: usize, now: Tick) -> Picked {
        let (replica, permit, change) = choice;
        if let Some(change) = change {
            self.changed(replica, change, None, now);
        }
        Picked { replica: Arc::clone(replica.held_by(worker)), permit: permit.of(worker) }
    }

    #[inline]
    pub(super) fn begin(&self, worker: usize, replica: &Replica, tried: &[Arc<Replica>], draw: Draw) {
        self.inflight.begin(worker);
        // None of those that one beside another keeps away from has failed.
        replica.counts().begin(worker, !tried.is_empty() && !draw.is_beside);
    }

    /// Whether [`Service::pick`] would find another replica for a request that has `tried` some.
    pub fn has_untried(&self, now: Tick, tried: &[Arc<Replica>]) -> bool {
        self.view.load().has_untried(now, tried)
    }

    /// The same, for one that does not wait for a place: whether another has one that is free.
    pub fn has_untried_place(&self, now: Tick, tried: &[Arc<Replica>]) -> bool {
        let view = self.view.load();
        let look = || {
            self.inflight.read() < view.policy.concurrency.of_service()
                && view.untried(now, tried).any(|replica| view.has_place(replica))
        };
        match view.is_limited {
            true => look() || self.end_measurements(&view, now) && look(),
            false => view.has_untried(now, tried),
        }
    }

    /// Settles and ends one attempt of which nothing was [heard](Service::heard) and that took no time, see [`Service::failed`],
    /// [`Service::judge`] and [`Service::end`].
    pub fn settle(
        &self,
        worker: usize,
        replica: &Arc<Replica>,
        permit: Permit,
        heard: impl Into<Heard>,
        now: Tick,
        jitter: f64,
    ) {
        let heard = heard.into();
        if let Outcome::Failure(fault) = heard.outcome {
            self.failed(worker, replica, fault, "", now);
        }
        self.judge(replica, permit, heard, now, now, jitter);
        self.end(worker, replica, false);
    }

    /// Counts a failed attempt, and remembers it for people: for which request, by its id. To be called by the worker that
    /// picked, before [`Service::judge`]. It allocates.
    #[cold]
    pub fn failed(&self, worker: usize, replica: &Replica, fault: Fault, request_id: &str, now: Tick) {
        // Remembered first: whoever reads the count finds the failure.
        replica.remember_failure(Failure { at: now, fault, request_id: request_id.into() });
        replica.counts().failure(worker);
    }

    /// Lets the breaker decide on the outcome of an attempt that it let through at `began`; the attempt may go on.
    ///
    /// `jitter` is drawn from 0.0..1.0 and spreads open times. Lock-free, but for
    /// transitions, and for those that a policy with a bound on open breakers has to count.
    #[inline]
    pub fn judge(
        &self,
        replica: &Arc<Replica>,
        permit: Permit,
        heard: impl Into<Heard>,
        began: Tick,
        now: Tick,
        jitter: f64,
    ) {
        let heard = heard.into();
        let recorded = self.outlets.recorded();
        if recorded > 0 {
            replica.record_outcome(recorded, heard, began, now);
        }
        let was_probe = permit.is_probe();
        let view = self.view.load();
        let capped;
        let policy = match (was_probe || heard.outcome != Outcome::Success) && view.has_nobody_but(replica) {
            true => {
                capped = policy::Breaker { max_open: view.policy.breaker.base_open, ..view.policy.breaker };
                &capped
            }
            false => &view.policy.breaker,
        };
        let mut gate = Gate { service: self, room: view.room, roster: None };
        let change = replica.breaker().record_if(permit, heard, now, policy, jitter, || gate.opens());
        match change {
            Some(change) => self.changed(replica, change, gate.roster, now),
            None => drop(gate),
        }
        if change.is_none() && was_probe {
            // The view of now, not of before: one that was made since may have looked while the probe was out.
            self.view.load().look_again();
        }
        if policy.peer_latency_factor > 0.0 {
            let until = self.compared_until.load(Acquire);
            if now.as_nanos() >= until {
                self.compare(until, now, jitter);
            }
        }
    }

    /// Opens the breakers of replicas that are slow beside their peers; ten times in a window, by whoever comes first after
    /// `until`. In O(n log n), with some microseconds for ten replicas.
    #[cold]
    fn compare(&self, until: u64, now: Tick, jitter: f64) {
        let service_policy = self.view.load().policy;
        let policy = &service_policy.breaker;
        let next = now.plus(policy.window / 10).as_nanos();
        if self.compared_until.compare_exchange(until, next, AcqRel, Acquire).is_err() {
            return;
        }
        let replicas = self.replicas();
        let samples = latencies(&replicas, now, &service_policy);
        let compared = compare(&samples, policy.min_request_count, policy.peer_latency_factor);
        for (place, comparison) in compared.into_iter().filter(|(_, comparison)| comparison.is_slow()) {
            let replica = &replicas[place];
            let mut gate = Gate { service: self, room: self.view.load().room, roster: None };
            let change = replica.breaker().outlier(comparison, now, policy, jitter, || gate.opens());
            if let Some(change) = change {
                self.changed(replica, change, gate.roster, now);
            }
        }
    }

    /// The attempt is over: the replica has nothing more to do with its request. To be called once for each pick, by the
    /// worker that picked, which says whether anything of it was [heard](Service::heard).
    pub fn end(&self, worker: usize, replica: &Replica, was_heard: bool) {
        replica.counts().end(worker, was_heard);
        self.inflight.end(worker);
        // Read after what was written above: whoever waits since the policy has limits reads that after it was told so.
        // A processor may still reorder the two for some nanoseconds. Who waits looks once more before it is refused.
        compiler_fence(SeqCst);
        if self.is_limited.load(Relaxed) {
            self.place_freed(replica);
        }
        if replica.is_draining() {
            self.outlets.drains.attempt_ended();
        }
    }

    /// A check of a replica has ended, of that registration: who is asked may be others from now on. Yields the verdict if that
    /// has changed.
    pub fn checked(
        &self,
        id: &ReplicaId,
        incarnation: i64,
        result: check::Result,
        now: Tick,
    ) -> Option<CheckChange> {
        let roster = self.roster();
        let index = roster.replicas.binary_search_by(|replica| replica.key().replica.cmp(id)).ok()?;
        let replica = Arc::clone(&roster.replicas[index]);
        let policy = roster.policy.health_check;
        replica.check_method(&policy)?;
        let before = replica.standing(&policy);
        let (turn, lasted) = replica.checks().record(incarnation, result, &policy)?;
        if replica.checks().passes(&policy).is_none_or(|streak| streak <= policy.rise.into()) {
            // Otherwise it has passed as ever.
            self.stir();
        }
        let after = replica.standing(&policy);
        if before != after {
            if after == Standing::Asked {
                replica.begins(now);
            }
            self.rebuild(&roster, now);
        }
        let streak = replica.checks().passes(&policy).filter(|_| policy.closes_breaker);
        if let Some(change) = streak.and_then(|streak| replica.breaker().close_by_checks(streak, now)) {
            self.changed(&replica, change, Some(roster), now);
        }
        let (key, address) = (replica.key().clone(), replica.address().clone());
        turn.map(|turn| CheckChange { key, address, incarnation, lasted, turn })
    }

    /// How long its requests took to their answers' heads.
    pub fn latencies(&self) -> Buckets {
        self.latencies.read()
    }

    /// How often a latency was recorded, modulo 2^32.
    pub fn latencies_recorded(&self) -> u32 {
        self.latencies.recorded()
    }

    fn changed(&self, replica: &Replica, change: Change, roster: Option<MutexGuard<'_, Roster>>, now: Tick) {
        replica.remember_change(&change, now);
        // What was only told changes nothing.
        if !change.is_told_only() {
            if matches!(change.reason, Reason::ProbesSucceeded { .. } | Reason::ChecksPassed { .. }) {
                replica.begins(now);
            }
            self.rebuild(&roster.unwrap_or_else(|| self.roster()), now);
        } else {
            drop(roster);
        }
        self.tell(replica, change, None, now);
    }

    /// Takes up what replicas that start slowly have gained, unless somebody is about to.
    #[cold]
    fn reshare(&self, now: Tick) {
        if let Ok(roster) = self.roster.try_lock()
            && now >= self.view.load().reshared_at
        {
            self.rebuild(&roster, now);
        }
    }

    fn tell(&self, replica: &Replica, change: Change, order: Order, now: Tick) {
        self.outlets.transitions.send(Transition {
            key: replica.key().clone(),
            address: replica.address().clone(),
            incarnation: replica.incarnation(),
            at: now,
            change,
            order,
            failures: if change.rule().is_some() { replica.last_failures() } else { Vec::new() },
        });
    }

    /// Makes the view of the breakers' present states. The roster's lock orders rebuilds, so that the last one has
    /// seen the last transition.
    fn rebuild(&self, roster: &Roster, now: Tick) {
        let (ready, mut absent): (Vec<_>, Vec<_>) =
            roster.replicas.iter().cloned().partition(|replica| replica.takes_requests());
        absent.retain(|replica| replica.spec().is_missed());
        let previous = self.view.load();
        let view = View::new(roster.policy, ready, &absent, Some(&previous), self.workers, now);
        if view.fails_open().is_some() != previous.fails_open().is_some() {
            let service = self.name.clone();
            self.outlets.fail_opens.push(FailOpenChange { service, at: now, began: view.fails_open() });
        }
        match (previous.resting().is_empty(), view.resting().is_empty()) {
            (true, false) => _ = self.outlets.resting.fetch_add(1, Relaxed),
            (false, true) => _ = self.outlets.resting.fetch_sub(1, Relaxed),
            _ => {}
        }
        self.has_fallback.store(view.policy.fallback.is_any(), Relaxed);
        self.learns_latency.store(hearing::learns_latency(&view.policy), Relaxed);
        let is_limited = view.is_limited;
        if is_limited {
            self.is_limited.store(true, SeqCst);
        }
        view.hasten_probes(now);
        self.view.store(Arc::new(view));
        self.is_limited.store(is_limited, SeqCst);
        self.stir();
        self.follow_ports();
        self.places_changed();
    }

    fn roster(&self) -> MutexGuard<'_, Roster> {
        // Every write replaces the whole roster at once: a panic elsewhere cannot leave it half-changed.
        self.roster.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
