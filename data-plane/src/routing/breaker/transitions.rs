//! The arrows of the breaker's diagram, and the counting that leads to them.
//!
//! Each arrow claims the word, writes the fields beside it, settles the word, and says what it did.

use std::time::Duration;

use gateway_proto::policy;

use super::{Admission, Breaker, Change, Permit, Reason, State, Terms, Withheld, word::Word};
use crate::routing::{
    Comparison, Fault, Tick, Totals,
    sync::Ordering::{AcqRel, Acquire, Release},
    tick::whole_nanos,
};

/// CLOSED and FORCED_CLOSED: counting, and tripping.
impl Breaker {
    #[inline]
    pub(super) fn count_success(
        &self,
        generation: u64,
        latency: Option<Duration>,
        terms: Terms<'_>,
        may_open: impl FnMut() -> bool,
    ) -> Option<Change> {
        let mut word = self.word.of_generation(generation)?;
        self.window.add(terms.worker, terms.now, terms.policy.window, false);
        while word.count > 0 && !self.word.swap(word, Word { count: 0, ..word }) {
            word = self.word.of_generation(generation)?;
        }
        if word.streak > 0 {
            self.decay(generation, terms.now);
        }
        if self.count_latency(latency, terms) {
            return self.trip_if(generation, |_| self.slow_reason(terms), 0, terms, may_open);
        }
        None
    }

    /// Counts a latency for the rules that go by it; whether it is slow.
    #[inline]
    fn count_latency(&self, latency: Option<Duration>, Terms { worker, now, policy, .. }: Terms<'_>) -> bool {
        let Some(latency) = latency else { return false };
        if policy.peer_latency_factor > 0.0 {
            self.latencies.get_or_init(Box::default).add(now, policy.window, latency);
        }
        if policy.slow_threshold.is_zero() {
            return false;
        }
        let is_slow = latency >= policy.slow_threshold;
        self.slow.add(worker, now, policy.window, is_slow);
        is_slow
    }

    /// Counts that there was no response for so long, by which its latency is known to be no less.
    pub(super) fn count_wait(
        &self,
        generation: u64,
        waited: Duration,
        terms: Terms<'_>,
        may_open: impl FnMut() -> bool,
    ) -> Option<Change> {
        self.word.of_generation(generation)?;
        let Terms { worker, now, policy, .. } = terms;
        if policy.peer_latency_factor > 0.0 {
            self.latencies.get_or_init(Box::default).add(now, policy.window, waited);
        }
        // If it is less than that, nobody knows whether it would have been slow.
        if policy.slow_threshold.is_zero() || waited < policy.slow_threshold {
            return None;
        }
        self.slow.add(worker, now, policy.window, true);
        self.trip_if(generation, |_| self.slow_reason(terms), 0, terms, may_open)
    }

    /// Opens a closed breaker that is slow beside its peers, unless that is withheld. Waits for a transition that is being
    /// written.
    pub fn outlier(
        &self,
        comparison: Comparison,
        now: Tick,
        policy: &policy::Breaker,
        jitter: f64,
        may_open: impl FnMut() -> bool,
    ) -> Option<Change> {
        let generation = self.word.settled().generation;
        let terms = Terms { worker: 0, now, policy, jitter };
        self.trip_if(generation, |_| Some(Reason::PeerLatency(comparison)), 0, terms, may_open)
    }

    /// Adds `failures` to those in a row, and opens a CLOSED breaker if `rule` gives a reason for that many and nobody
    /// withholds it.
    fn trip_if(
        &self,
        generation: u64,
        rule: impl Fn(u32) -> Option<Reason>,
        failures: u32,
        terms: Terms<'_>,
        mut may_open: impl FnMut() -> bool,
    ) -> Option<Change> {
        loop {
            let word = self.word.of_generation(generation)?;
            let count = (word.count + failures).min(Word::MAX_COUNT);
            let reason = if word.state == State::Closed { rule(count) } else { None };
            let withheld = match reason {
                None => None,
                Some(_) if terms.policy.observe_only => Some(Withheld::ObserveOnly),
                Some(_) if !may_open() => Some(Withheld::MaxOpenRatio),
                Some(reason) => {
                    if let Some(change) = self.open(word, reason, terms) {
                        return Some(change);
                    }
                    continue;
                }
            };
            if count == word.count || self.word.swap(word, Word { count, ..word }) {
                let change = reason.zip(withheld);
                return change
                    .and_then(|(reason, withheld)| self.tell_withheld(word, reason, withheld, terms));
            }
        }
    }

    /// What would have happened, unless something like it was told within a window.
    fn tell_withheld(
        &self,
        word: Word,
        reason: Reason,
        withheld: Withheld,
        terms: Terms<'_>,
    ) -> Option<Change> {
        let silent_until = self.silent_until.load(Acquire);
        let next = terms.now.plus(terms.policy.window).as_nanos();
        let is_told = terms.now.as_nanos() >= silent_until
            && self.silent_until.compare_exchange(silent_until, next, AcqRel, Acquire).is_ok();
        is_told.then(|| Change {
            from: word.state,
            to: word.state,
            reason,
            generation: word.generation,
            until: None,
            trip_count: self.trip_count.load(Acquire),
            withheld: Some(withheld),
        })
    }

    /// Lowers the streak by one if a whole healthy interval has passed since its start.
    ///
    /// Called on success only, so time without traffic proves nothing, however long it was.
    fn decay(&self, generation: u64, now: Tick) {
        let since = self.healthy_since.load(Acquire);
        let interval = Duration::from_nanos(self.open_time.load(Acquire));
        if now.since(Tick::from_nanos(since)) < interval {
            return;
        }
        // Whoever moves the start of the interval has it counted; the others come too late.
        if self.healthy_since.compare_exchange(since, now.as_nanos(), AcqRel, Acquire).is_err() {
            return;
        }
        while let Some(word) = self.word.of_generation(generation).filter(|word| word.streak > 0) {
            if self.word.swap(word, Word { streak: word.streak - 1, ..word }) {
                return;
            }
        }
    }

    /// Counts a failure, or overload when there is no fault, and trips if that was one too many and nobody forbids it.
    pub(super) fn count_failure(
        &self,
        generation: u64,
        fault: Option<Fault>,
        latency: Option<Duration>,
        terms: Terms<'_>,
        may_open: impl FnMut() -> bool,
    ) -> Option<Change> {
        let Terms { worker, now, policy, .. } = terms;
        self.word.of_generation(generation)?;
        self.window.add(worker, now, policy.window, true);
        self.healthy_since.fetch_max(now.as_nanos(), AcqRel);
        // Who refuses for lack of capacity says nothing of how fast it works.
        let is_slow = self.count_latency(latency.filter(|_| fault.is_some()), terms);
        let rule = |count| {
            let slow = || is_slow.then(|| self.slow_reason(terms)).flatten();
            self.failure_reason(count, fault, terms).or_else(slow)
        };
        self.trip_if(generation, rule, u32::from(fault.is_some()), terms, may_open)
    }

    fn failure_reason(
        &self,
        count: u32,
        fault: Option<Fault>,
        Terms { now, policy, .. }: Terms<'_>,
    ) -> Option<Reason> {
        let threshold = policy.consecutive_failure_count;
        if let Some(fault) = fault.filter(|_| count >= threshold) {
            return Some(Reason::ConsecutiveFailures { count, threshold, fault });
        }
        let Totals { total, marked: failed } = self.window.totals(now, policy.window);
        let threshold = policy.failure_ratio;
        (total >= policy.min_request_count && f64::from(failed) >= threshold * f64::from(total))
            .then_some(Reason::FailureRatio { failed, total, threshold })
    }

    fn slow_reason(&self, Terms { now, policy, .. }: Terms<'_>) -> Option<Reason> {
        let Totals { total, marked: slow } = self.slow.totals(now, policy.window);
        let (threshold, limit) = (policy.slow_ratio, policy.slow_threshold);
        (total >= policy.min_request_count && f64::from(slow) >= threshold * f64::from(total))
            .then_some(Reason::SlowRatio { slow, total, threshold, limit })
    }

    /// Forgets what was counted in the window.
    pub(super) fn clear(&self) {
        self.window.clear();
        self.slow.clear();
        if let Some(latencies) = self.latencies.get() {
            latencies.clear();
        }
    }

    /// → OPEN, from CLOSED or HALF_OPEN. `None` when another thread was faster.
    fn open(
        &self,
        from: Word,
        reason: Reason,
        Terms { now, policy, jitter, .. }: Terms<'_>,
    ) -> Option<Change> {
        let (open_time, streak) = open_time(policy, from.streak, jitter);
        let until = now.plus(open_time);
        let busy = self.word.claim(from)?;
        self.clear();
        // A probe that fails says nothing new: what opened it before is still to be disproved.
        if let Some(probes) = disproof(reason, policy) {
            self.disproof.store(probes.into(), Release);
        }
        self.until.store(until.as_nanos(), Release);
        self.open_time.store(whole_nanos(open_time), Release);
        let trip_count = self.trip_count.fetch_add(1, AcqRel) + 1;
        self.word.settle(Word { state: State::Open, probe_out: false, count: 0, streak, ..busy });
        Some(Change {
            from: from.state,
            to: State::Open,
            reason,
            generation: busy.generation,
            until: Some(until),
            trip_count,
            withheld: None,
        })
    }
}

/// HALF_OPEN: one probe after the other.
impl Breaker {
    /// → HALF_OPEN with a new probe out; a change if there is a `reason` to speak of. `None` when another thread was
    /// faster.
    pub(super) fn send_probe(
        &self,
        from: Word,
        reason: Option<Reason>,
        now: Tick,
        lease: Duration,
    ) -> Option<Admission> {
        let busy = self.word.claim(from)?;
        self.until.store(now.plus(lease).as_nanos(), Release);
        let trip_count = self.trip_count.load(Acquire);
        // The count of an open breaker is zero, and that of a half-open one goes on.
        self.word.settle(Word { state: State::HalfOpen, probe_out: true, ..busy });
        let generation = busy.generation;
        let change = reason.map(|reason| Change {
            from: from.state,
            to: State::HalfOpen,
            reason,
            generation,
            until: None,
            trip_count,
            withheld: None,
        });
        Some(Admission { permit: Permit::new(generation, true), change })
    }

    /// No verdict: the next caller is the probe, and knows as little of the replica as this one did.
    pub(super) fn release_probe(&self, generation: u64, now: Tick) {
        while let Some(word) = self.word.of_generation(generation) {
            if let Some(busy) = self.word.claim(word) {
                self.until.store(now.as_nanos(), Release);
                self.word.settle(Word { probe_out: false, ..busy });
                return;
            }
        }
    }

    /// → CLOSED, or one step towards it.
    pub(super) fn pass_probe(
        &self,
        generation: u64,
        latency: Option<Duration>,
        terms: Terms<'_>,
    ) -> Option<Change> {
        let Terms { now, policy, .. } = terms;
        let limit = policy.slow_threshold;
        if let Some(latency) = latency.filter(|latency| !limit.is_zero() && *latency >= limit) {
            return self.fail_probe(generation, Reason::ProbeSlow { latency, limit }, terms);
        }
        loop {
            let word = self.word.of_generation(generation)?;
            let count = word.count + 1;
            if count < self.probe_target(policy) {
                if self.word.swap(word, Word { probe_out: false, count, ..word }) {
                    return None;
                }
            } else if let Some(change) = self.close(word, Reason::ProbesSucceeded { count }, None, now) {
                return Some(change);
            }
        }
    }

    /// → OPEN for longer; where the policy only observes, → CLOSED: nobody is kept out by it.
    pub(super) fn fail_probe(&self, generation: u64, reason: Reason, terms: Terms<'_>) -> Option<Change> {
        loop {
            let word = self.word.of_generation(generation)?;
            let change = match terms.policy.observe_only {
                true => self.close(word, reason, Some(Withheld::ObserveOnly), terms.now),
                false => self.open(word, reason, terms),
            };
            if change.is_some() {
                return change;
            }
        }
    }

    /// HALF_OPEN → CLOSED. `None` when another thread was faster.
    fn close(&self, from: Word, reason: Reason, withheld: Option<Withheld>, now: Tick) -> Option<Change> {
        let busy = self.word.claim(from)?;
        // It was cleared on opening, but a thread that the transition overtook may have added to it since.
        self.clear();
        self.healthy_since.store(now.as_nanos(), Release);
        let trip_count = self.trip_count.load(Acquire);
        self.word.settle(Word { state: State::Closed, probe_out: false, count: 0, ..busy });
        Some(Change {
            from: from.state,
            to: State::Closed,
            reason,
            generation: busy.generation,
            until: None,
            trip_count,
            withheld,
        })
    }
}

/// Probes in a row that a replica with the ratio that opened it has in one of ten tries at most: the smallest n with
/// (1 - ratio)ⁿ <= 0.1, and no more than the policy wants to see before it believes in a ratio. 0 where no ratio opened it; `None`
/// where a probe did.
fn disproof(opened_by: Reason, policy: &policy::Breaker) -> Option<u32> {
    const MAX_PROBES: u32 = 100;
    let ratio = match opened_by {
        Reason::FailureRatio { threshold, .. } | Reason::SlowRatio { threshold, .. } => threshold,
        Reason::ProbeFailed { .. } | Reason::ProbeSlow { .. } => return None,
        _ => return Some(0),
    };
    let probes = (0.1_f64.ln() / (1.0 - ratio).ln()).ceil() as u32;
    Some(probes.min(policy.min_request_count).min(MAX_PROBES))
}

/// How long to stay open after `streak` openings without a healthy interval, and the streak that follows.
///
/// Doubles from `base_open` up to `max_open`, ± 20 %, so that proxies that tripped together do not probe together.
/// The streak stops growing where the open time does: otherwise a long outage would be paid off for as long again.
fn open_time(policy: &policy::Breaker, streak: u32, jitter: f64) -> (Duration, u32) {
    let doubled = policy.base_open.saturating_mul(2_u32.saturating_pow(streak));
    let open_time = doubled.min(policy.max_open).mul_f64(0.8 + 0.4 * jitter.clamp(0.0, 1.0));
    let longer = doubled < policy.max_open && streak < Word::MAX_STREAK;
    (open_time, if longer { streak + 1 } else { streak })
}
