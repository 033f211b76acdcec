//! What one seed's run is like: how large, how busy, and how much of each kind of trouble.
//!
//! Every seed leaves some kinds of trouble out and has much of others, so that seeds explore different mixtures rather
//! than all the same average one.

use std::time::Duration;

use control_plane::publish::Bounds;
use gateway_proto::{
    Policy,
    policy::{Algorithm, Balancing, Retry},
    time::duration,
    v1,
};
use rand::{Rng, rngs::StdRng, seq::IndexedRandom};

use crate::{
    disturb::Trouble,
    env::{MS, SECOND},
};

/// One run's dimensions.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) services: usize,
    pub(crate) owners_per_service: usize,
    pub(crate) nodes: usize,
    /// Mean time between two requests at one node.
    pub(crate) request_interval: Duration,
    /// Share of requests that may be done twice.
    pub(crate) idempotent: f64,
    /// Share of requests whose client leaves before the end.
    pub(crate) impatient: f64,
    /// Mean time between two troubles.
    pub(crate) trouble_interval: Duration,
    /// Each kind of trouble with its weight; those without are missing.
    pub(crate) troubles: Vec<(Trouble, u32)>,
    /// Share of calls to the control plane that get lost, one half on the way there and one half on the way back.
    pub(crate) call_loss: f64,
    /// Share of owners that are permanent.
    pub(crate) permanent: f64,
    pub(crate) weighted: bool,
    pub(crate) policy: Policy,
    pub(crate) bounds: Bounds,
    /// What the registry evicts, in runs that have to do with it.
    pub(crate) eviction: Option<v1::EvictionPolicy>,
}

impl Plan {
    /// Draws a run.
    pub(crate) fn draw(rng: &mut StdRng) -> Self {
        let mut troubles = Vec::new();
        for trouble in Trouble::ALL {
            if rng.random_bool(0.6) {
                troubles.push((trouble, rng.random_range(1..=8)));
            }
        }
        let mut plan = Self {
            services: rng.random_range(1..=3),
            owners_per_service: rng.random_range(1..=5),
            nodes: rng.random_range(1..=3),
            request_interval: *[5 * MS, 20 * MS, 50 * MS, 200 * MS].choose(rng).expect("not empty"),
            idempotent: *[0.3, 0.7, 1.0].choose(rng).expect("not empty"),
            impatient: *[0.0, 0.02, 0.1].choose(rng).expect("not empty"),
            trouble_interval: *[100 * MS, 300 * MS, SECOND].choose(rng).expect("not empty"),
            troubles,
            call_loss: *[0.0, 0.02, 0.2].choose(rng).expect("not empty"),
            permanent: *[0.0, 0.2].choose(rng).expect("not empty"),
            weighted: rng.random_bool(0.3),
            policy: policy(rng),
            bounds: bounds(rng),
            eviction: None,
        };
        if rng.random_bool(0.1) {
            plan.make_a_storm();
        }
        if rng.random_bool(0.2) {
            plan.make_a_partition(rng);
        }
        // By lots of its own, so that seeds which found something go on meaning what they meant.
        let mut lots = rng.clone();
        plan.policy.balancing = balancing(&mut lots);
        slowness(&mut plan.policy, &mut lots);
        if lots.random_bool(0.25) {
            plan.evict(&mut lots);
        }
        plan.policy.breaker.fail_open_threshold = *[0.0, 0.0, 0.5, 1.0].choose(&mut lots).expect("not empty");
        plan
    }

    /// Cuts owners off from the control plane, again and again, and does little else: what the guard is for.
    fn make_a_partition(&mut self, rng: &mut StdRng) {
        self.services = 1;
        self.owners_per_service = 5;
        self.permanent = 0.0;
        self.call_loss = 0.0;
        self.trouble_interval = SECOND;
        self.request_interval = 50 * MS;
        let besides = [
            Trouble::ReplaceOwner,
            Trouble::ReleaseGuard,
            Trouble::SetPolicy,
            Trouble::CrashControl,
            Trouble::PauseControl,
            Trouble::FailCommits,
            Trouble::CrashOwner,
        ];
        self.troubles = vec![(Trouble::CutService, 8)];
        self.troubles
            .extend(besides.into_iter().filter(|_| rng.random_bool(0.3)).map(|trouble| (trouble, 3)));
    }

    /// Has the registry evict what data planes do not reach, of many permanent replicas that die, as some data planes lie.
    fn evict(&mut self, lots: &mut StdRng) {
        let after = *[2 * SECOND, 4 * SECOND].choose(lots).expect("not empty");
        let failure_count = *[0, 0, 4, 12].choose(lots).expect("not empty");
        self.eviction =
            Some(v1::EvictionPolicy { after: Some(duration(after)), failure_count: Some(failure_count) });
        self.permanent = 0.7;
        self.owners_per_service = self.owners_per_service.max(4);
        let besides = [Trouble::BlindNode, Trouble::LieNode, Trouble::CrashOwner, Trouble::MoveOwner];
        let chosen = besides.into_iter().filter(|_| lots.random_bool(0.6));
        self.troubles.extend(chosen.map(|trouble| (trouble, 4)));
    }

    /// Brings together what exhausts a retry budget, which chance alone seldom does: much to repeat, replicas that
    /// fail it in part, and breakers that let that happen.
    fn make_a_storm(&mut self) {
        self.services = 1;
        self.owners_per_service = self.owners_per_service.max(3);
        self.request_interval = 5 * MS;
        self.idempotent = 1.0;
        self.policy.retry = Retry { max_retry_count: 3, budget_ratio: 0.0, ..Retry::default() };
        self.policy.breaker.consecutive_failure_count = 1000;
        self.policy.breaker.failure_ratio = 1.0;
        self.troubles.push((Trouble::WorsenService, 40));
    }
}

/// What is slow, if anything is, how many breakers may be open, and whether they only observe.
fn slowness(policy: &mut Policy, rng: &mut StdRng) {
    policy.breaker.slow_threshold = *[Duration::ZERO, 60 * MS, 200 * MS].choose(rng).expect("not empty");
    policy.breaker.slow_ratio = *[0.3, 0.5, 0.9].choose(rng).expect("not empty");
    policy.breaker.observe_only = rng.random_bool(0.05);
    policy.breaker.max_open_ratio = *[1.0, 1.0, 0.6, 0.2].choose(rng).expect("not empty");
}

/// Mostly turns, which can be judged most sharply.
fn balancing(rng: &mut StdRng) -> Balancing {
    if rng.random_bool(0.6) {
        return Balancing::default();
    }
    Balancing {
        algorithm: *Algorithm::ALL.choose(rng).expect("not empty"),
        slow_start: *[Duration::ZERO, SECOND, 10 * SECOND].choose(rng).expect("not empty"),
        ..Balancing::default()
    }
}

/// Bounds so small that a run comes to them, or those of every day.
fn bounds(rng: &mut StdRng) -> Bounds {
    let log_capacity = *[3, 30, 8192].choose(rng).expect("not empty");
    let bytes = *[300, 1000, 1 << 20].choose(rng).expect("not empty");
    Bounds { log_capacity, delta_bytes: bytes, part_bytes: bytes }
}

/// A policy as somebody might set it, with times short enough for a run to see their ends.
fn policy(rng: &mut StdRng) -> Policy {
    let mut policy = Policy::default();
    policy.timeout.connect = *[100 * MS, SECOND].choose(rng).expect("not empty");
    policy.timeout.per_try = *[300 * MS, 2 * SECOND].choose(rng).expect("not empty");
    policy.timeout.request = *[SECOND, 5 * SECOND].choose(rng).expect("not empty");
    policy.retry.max_retry_count = rng.random_range(0..=3);
    policy.retry.budget_ratio = *[0.0, 0.2].choose(rng).expect("not empty");
    policy.breaker.consecutive_failure_count = rng.random_range(1..=8);
    policy.breaker.failure_ratio = *[0.2, 0.5, 1.0].choose(rng).expect("not empty");
    policy.breaker.window = *[SECOND, 3 * SECOND, 10 * SECOND].choose(rng).expect("not empty");
    policy.breaker.min_request_count = rng.random_range(2..=20);
    policy.breaker.base_open = *[50 * MS, 300 * MS, SECOND].choose(rng).expect("not empty");
    policy.breaker.max_open = *[SECOND, 3 * SECOND].choose(rng).expect("not empty");
    policy.breaker.half_open_success_count = rng.random_range(1..=3);
    policy
}
