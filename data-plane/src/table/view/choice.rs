//! The algorithms: which of the eligible replicas is asked.
//!
//! Each gives up after as many tries as its idea is good for. Whoever is left is found by the caller, so none has to look
//! at everybody.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use gateway_proto::policy::Algorithm;

use super::{Choice, Replica, View};
use crate::routing::{
    Draw, Tick,
    balancing::{Load, mix, two_of},
};

/// Draws more that there are while replicas may be passed over, before they are looked through.
const MORE_TRIES: usize = 8;

impl View {
    /// Who is asked by the policy's algorithm, unless those that it comes to were tried or their breakers decline.
    #[inline]
    pub(super) fn choose(
        &self,
        worker: usize,
        now: Tick,
        tried: &[Arc<Replica>],
        draw: Draw,
        inflight: impl FnOnce() -> u64,
    ) -> Option<Choice<'_>> {
        if self.eligible.is_empty() {
            return None;
        }
        if self.is_limited && !self.eligible.iter().any(|replica| self.has_place(replica)) {
            return None;
        }
        let eligible = self.eligible_of(worker);
        match (self.policy.balancing.algorithm, &self.affinity, draw.key) {
            (Algorithm::Random, ..) => self.at_random(worker, now, tried, draw),
            (Algorithm::LeastRequest, ..) => {
                let cost = |replica: &Replica| replica.counts().inflight() as f64;
                self.better_of_two(worker, now, tried, draw, cost, Load::is_less_than_one_more_at)
            }
            (Algorithm::PeakEwma, ..) => {
                let cost = |replica: &Replica| replica.estimate().cost(replica.counts().inflight(), now);
                self.better_of_two(worker, now, tried, draw, cost, Load::is_no_more_than)
            }
            // A key stays with its replica: what piles up there goes elsewhere by the bound on its load.
            (Algorithm::ConsistentHash, Some(affinity), Some(key)) => {
                let factor = self.policy.balancing.hash_load_factor;
                // Most policies bound loads, and the sum is not worth asking for without.
                let inflight = if factor == 0.0 { 0 } else { affinity.of_eligible(inflight()) };
                affinity.walk(key, factor, inflight).find_map(|(position, bound)| {
                    let replica = &eligible[position];
                    let fits = bound == u64::MAX || replica.counts().inflight() < bound;
                    fits.then(|| self.admit_eligible(replica, now, tried, draw)).flatten()
                })
            }
            // A request without a key belongs to nobody in particular.
            (Algorithm::RoundRobin | Algorithm::ConsistentHash, ..) => self.in_turn(worker, now, tried, draw),
        }
    }

    fn in_turn(&self, worker: usize, now: Tick, tried: &[Arc<Replica>], draw: Draw) -> Option<Choice<'_>> {
        // A replica that was tried, or where requests pile up, gives its turn to the next in rotation rather than to its
        // neighbour. So does one that is full, of which there may be any number.
        let tries = if self.is_limited { self.rotation.len() } else { self.tries(tried, draw) };
        let cursor = if tried.is_empty() { &self.cursor } else { &self.retry_cursor };
        (0..tries).find_map(|_| {
            let turn = cursor.0.fetch_add(1, Relaxed);
            self.admit_unless_piled_up(self.rotation.index(turn), worker, now, tried, draw)
        })
    }

    fn at_random(&self, worker: usize, now: Tick, tried: &[Arc<Replica>], draw: Draw) -> Option<Choice<'_>> {
        let mut bits = draw.bits();
        (0..self.tries(tried, draw)).find_map(|_| {
            let position = self.rotation.index(bits);
            bits = mix(bits);
            self.admit_unless_piled_up(position, worker, now, tried, draw)
        })
    }

    fn better_of_two(
        &self,
        worker: usize,
        now: Tick,
        tried: &[Arc<Replica>],
        draw: Draw,
        cost: impl Fn(&Replica) -> f64,
        keeps: impl Fn(&Load, &Load) -> bool,
    ) -> Option<Choice<'_>> {
        let (eligible, mut bits) = (self.eligible_of(worker), draw.bits());
        (0..self.tries(tried, draw)).find_map(|_| {
            let (first, second) = two_of(&self.rotation, bits);
            bits = mix(bits);
            let load =
                |position: usize| Load { cost: cost(&eligible[position]), share: self.shares[position] };
            let is_first = first == second || keeps(&load(first), &load(second));
            let (better, worse) = if is_first { (first, second) } else { (second, first) };
            let admit = |position| self.admit_unless_piled_up(position, worker, now, tried, draw);
            admit(better).or_else(|| admit(worse))
        })
    }

    fn tries(&self, tried: &[Arc<Replica>], draw: Draw) -> usize {
        let more = if self.is_limited || draw.is_unrepeatable { MORE_TRIES } else { 0 };
        self.eligible.len().min(1 + tried.len() + more)
    }
}
