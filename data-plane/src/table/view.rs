//! One service at one moment: who may be picked, in which order.

use std::{
    sync::{
        Arc,
        atomic::{
            AtomicU64,
            Ordering::{AcqRel, Acquire, Relaxed, Release},
        },
    },
    time::Duration,
};

use gateway_proto::Policy;

use super::replica::Replica;
use crate::routing::{Change, Permit, Rotation, State, Tick};

/// Why a service has nobody to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unavailable {
    /// No replica is ready.
    NoneReady,
    /// Every ready replica rests; the first one is probed at `retry_at`.
    AllOpen {
        /// How many rest.
        resting: usize,
        /// When the soonest probe is due.
        retry_at: Tick,
    },
    /// Every replica that could be asked was asked in this request.
    AllTried,
}

/// Immutable but for its cursors: whatever changes eligibility makes a new view.
#[derive(Debug)]
pub(super) struct View {
    pub(super) policy: Policy,
    /// Ready and closed, in the order of their ids.
    eligible: Box<[Arc<Replica>]>,
    rotation: Rotation,
    /// The next turn. Shared by all workers, so that the rotation is strict over all of them.
    cursor: AtomicU64,
    first_turn: u64,
    /// Who had the last turn before this view.
    last_before: Option<Arc<Replica>>,
    /// Ready, but not closed.
    resting: Box<[Arc<Replica>]>,
    /// Nobody among the resting is due before this tick, so most picks need not look.
    next_look: AtomicU64,
}

impl View {
    /// The view that follows `previous`, whose rotation it takes up where it stands.
    pub(super) fn new(policy: Policy, ready: Vec<Arc<Replica>>, previous: Option<&Self>, now: Tick) -> Self {
        let (eligible, resting): (Vec<_>, Vec<_>) = ready
            .into_iter()
            .partition(|replica| replica.breaker_view(now, &policy.breaker).state == State::Closed);
        let weights: Vec<_> = eligible.iter().map(|replica| replica.weight()).collect();
        let rotation = Rotation::new(&weights);
        let last_before = previous.and_then(Self::last).cloned();
        let first_turn = last_before.as_ref().map_or(0, |last| turn_after(last, &eligible, &rotation));
        Self {
            policy,
            eligible: eligible.into(),
            rotation,
            cursor: AtomicU64::new(first_turn),
            first_turn,
            last_before,
            resting: resting.into(),
            next_look: AtomicU64::new(0),
        }
    }

    /// Picks the next replica that `tried` lacks and whose breaker admits an attempt.
    ///
    /// A resting replica whose probe is due goes first. The third of the returned values is the transition
    /// that admitting it made, if any.
    pub(super) fn pick(
        &self,
        now: Tick,
        tried: &[Arc<Replica>],
    ) -> Result<(&Arc<Replica>, Permit, Option<Change>), Unavailable> {
        if !self.resting.is_empty()
            && let Some(probe) = self.probe(now, tried)
        {
            return Ok(probe);
        }
        let count = self.eligible.len();
        // A replica that was tried gives its turn to the next in rotation rather than to its neighbour.
        for _ in 0..count.min(1 + tried.len()) {
            let turn = self.cursor.fetch_add(1, Relaxed);
            let replica = &self.eligible[self.rotation.index(turn)];
            if let Some(permit) = self.admit(replica, now, tried) {
                return Ok(permit);
            }
        }
        // Weights may have shown the same replicas again: look at each one.
        let rest = self.eligible.iter().find_map(|replica| self.admit(replica, now, tried));
        rest.ok_or_else(|| self.unavailable(now, tried))
    }

    /// Whether a pick for a request that has `tried` some would find another.
    pub(super) fn has_untried(&self, now: Tick, tried: &[Arc<Replica>]) -> bool {
        let is_due =
            |replica: &&Arc<Replica>| replica.breaker().next_probe_at().is_some_and(|due| due <= now);
        let mut askable = self.eligible.iter().chain(self.resting.iter().filter(is_due));
        askable.any(|replica| !is_among(tried, replica))
    }

    /// Lets the next pick look at the resting replicas: to be called after a probe has ended.
    pub(super) fn look_again(&self) {
        self.next_look.store(0, Release);
    }

    fn probe(&self, now: Tick, tried: &[Arc<Replica>]) -> Option<(&Arc<Replica>, Permit, Option<Change>)> {
        if now.as_nanos() < self.next_look.load(Acquire) {
            return None;
        }
        let probe = self.resting.iter().find_map(|replica| self.admit(replica, now, tried));
        if probe.is_none() {
            let next = self.soonest_probe();
            self.next_look.swap(next, AcqRel);
            // A probe that ended since may have called for another look, which this has just overwritten. Whoever
            // overwrote it sees that probe's end; whoever did not is overwritten by the call.
            if self.soonest_probe() < next {
                self.look_again();
            }
        }
        probe
    }

    fn admit<'view>(
        &'view self,
        replica: &'view Arc<Replica>,
        now: Tick,
        tried: &[Arc<Replica>],
    ) -> Option<(&'view Arc<Replica>, Permit, Option<Change>)> {
        if is_among(tried, replica) {
            return None;
        }
        let admission = replica.breaker().admit(now, self.probe_lease()).ok()?;
        Some((replica, admission.permit, admission.change))
    }

    /// How long a replica that has the whole request may take to its response head, by which a probe is judged. A
    /// probe whose client sends slowly may lose its place to another; its result is void then.
    fn probe_lease(&self) -> Duration {
        self.policy.timeout.connect + self.policy.timeout.per_try
    }

    fn unavailable(&self, now: Tick, tried: &[Arc<Replica>]) -> Unavailable {
        if !tried.is_empty() {
            return Unavailable::AllTried;
        }
        let all = self.resting.iter().chain(&self.eligible);
        let retry_at = all.map(|replica| replica.retry_at(now, &self.policy.breaker)).min();
        retry_at.map_or(Unavailable::NoneReady, |retry_at| Unavailable::AllOpen {
            resting: self.eligible.len() + self.resting.len(),
            retry_at,
        })
    }

    /// Before this tick, in nanoseconds, no resting replica takes a probe.
    fn soonest_probe(&self) -> u64 {
        let due = self.resting.iter().filter_map(|replica| replica.breaker().next_probe_at());
        due.min().map_or(u64::MAX, Tick::as_nanos)
    }

    /// Who had the last turn.
    fn last(&self) -> Option<&Arc<Replica>> {
        let turn = self.cursor.load(Relaxed);
        if turn > self.first_turn && !self.eligible.is_empty() {
            return Some(&self.eligible[self.rotation.index(turn - 1)]);
        }
        self.last_before.as_ref()
    }
}

fn is_among(tried: &[Arc<Replica>], replica: &Replica) -> bool {
    tried.iter().any(|other| other.key() == replica.key())
}

/// The turn with which a new rotation goes on: that of the first replica behind `last`, which may be gone. Starting
/// anew with each change would starve the last replicas of a set that keeps changing.
fn turn_after(last: &Replica, eligible: &[Arc<Replica>], rotation: &Rotation) -> u64 {
    let position = eligible.iter().position(|replica| replica.key() > last.key()).unwrap_or(0);
    let turns = u64::try_from(rotation.len()).unwrap_or(0);
    (0..turns).find(|turn| rotation.index(*turn) == position).unwrap_or(0)
}
