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

/// Draws more that chance has while replicas may be full, before they are looked through.
const TRIES_AT_FULL_ONES: usize = 8;

impl View {
    /// Who is asked by the policy's algorithm, unless those that it comes to were tried or their breakers decline.
    #[inline]
    pub(super) fn choose(
        &self,
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
        match (self.policy.balancing.algorithm, &self.affinity, draw.key) {
            (Algorithm::Random, ..) => self.at_random(now, tried, draw),
            (Algorithm::LeastRequest, ..) => {
                self.better_of_two(now, tried, draw, |replica| replica.counts().inflight() as f64)
            }
            (Algorithm::PeakEwma, ..) => self.better_of_two(now, tried, draw, |replica| {
                replica.estimate().cost(replica.counts().inflight(), now)
            }),
            (Algorithm::ConsistentHash, Some(affinity), Some(key)) => {
                let factor = self.policy.balancing.hash_load_factor;
                // Most policies bound loads, and the sum is not worth asking for without.
                let inflight = if factor == 0.0 { 0 } else { inflight() };
                affinity.walk(key, factor, inflight).find_map(|(position, bound)| {
                    let replica = &self.eligible[position];
                    let fits = bound == u64::MAX || replica.counts().inflight() < bound;
                    fits.then(|| self.admit_eligible(replica, now, tried)).flatten()
                })
            }
            // A request without a key belongs to nobody in particular.
            (Algorithm::RoundRobin | Algorithm::ConsistentHash, ..) => self.in_turn(now, tried),
        }
    }

    fn in_turn(&self, now: Tick, tried: &[Arc<Replica>]) -> Option<Choice<'_>> {
        // A replica that was tried gives its turn to the next in rotation rather than to its neighbour. So does one that is
        // full, of which there may be any number.
        let tries = if self.is_limited { self.rotation.len() } else { self.tries(tried) };
        (0..tries).find_map(|_| {
            let turn = self.cursor.fetch_add(1, Relaxed);
            self.admit_eligible(&self.eligible[self.rotation.index(turn)], now, tried)
        })
    }

    fn at_random(&self, now: Tick, tried: &[Arc<Replica>], draw: Draw) -> Option<Choice<'_>> {
        let mut bits = draw.bits();
        (0..self.tries(tried)).find_map(|_| {
            let replica = &self.eligible[self.rotation.index(bits)];
            bits = mix(bits);
            self.admit_eligible(replica, now, tried)
        })
    }

    fn better_of_two(
        &self,
        now: Tick,
        tried: &[Arc<Replica>],
        draw: Draw,
        cost: impl Fn(&Replica) -> f64,
    ) -> Option<Choice<'_>> {
        let mut bits = draw.bits();
        (0..self.tries(tried)).find_map(|_| {
            let (first, second) = two_of(&self.rotation, bits);
            bits = mix(bits);
            let [one, other] = [first, second].map(|position| &self.eligible[position]);
            let load = |position: usize, replica: &Replica| Load {
                cost: cost(replica),
                share: self.shares[position],
            };
            let is_first = first == second || load(first, one).is_no_more_than(&load(second, other));
            let (better, worse) = if is_first { (one, other) } else { (other, one) };
            self.admit_eligible(better, now, tried).or_else(|| self.admit_eligible(worse, now, tried))
        })
    }

    fn tries(&self, tried: &[Arc<Replica>]) -> usize {
        let more = if self.is_limited { TRIES_AT_FULL_ONES } else { 0 };
        self.eligible.len().min(1 + tried.len() + more)
    }
}
