//! The arrows of the breaker's diagram, and the counting that leads to them.
//!
//! Each arrow claims the word, writes the fields beside it, settles the word, and says what it did.

use std::{
    sync::atomic::Ordering::{AcqRel, Acquire, Release},
    time::Duration,
};

use gateway_proto::policy;

use super::{Admission, Breaker, Change, Permit, Reason, State, word::Word};
use crate::routing::{Fault, Tick, Totals, tick::whole_nanos};

/// CLOSED and FORCED_CLOSED: counting, and tripping.
impl Breaker {
    pub(super) fn count_success(&self, generation: u64, now: Tick, policy: &policy::Breaker) {
        let Some(mut word) = self.word.of_generation(generation) else { return };
        self.window.add(now, policy.window, false);
        while word.count > 0 && !self.word.swap(word, Word { count: 0, ..word }) {
            match self.word.of_generation(generation) {
                Some(changed) => word = changed,
                None => return,
            }
        }
        if word.streak > 0 {
            self.decay(generation, now);
        }
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
        now: Tick,
        policy: &policy::Breaker,
        jitter: f64,
    ) -> Option<Change> {
        let mut word = self.word.of_generation(generation)?;
        self.window.add(now, policy.window, true);
        self.healthy_since.fetch_max(now.as_nanos(), AcqRel);
        loop {
            let count = (word.count + u32::from(fault.is_some())).min(Word::MAX_COUNT);
            let may_trip = word.state == State::Closed;
            if may_trip && let Some(reason) = self.trip_reason(count, fault, now, policy) {
                if let Some(change) = self.open(word, reason, now, policy, jitter) {
                    return Some(change);
                }
            } else if self.word.swap(word, Word { count, ..word }) {
                return None;
            }
            word = self.word.of_generation(generation)?;
        }
    }

    fn trip_reason(
        &self,
        count: u32,
        fault: Option<Fault>,
        now: Tick,
        policy: &policy::Breaker,
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

    /// → OPEN, from CLOSED or HALF_OPEN. `None` when another thread was faster.
    fn open(
        &self,
        from: Word,
        reason: Reason,
        now: Tick,
        policy: &policy::Breaker,
        jitter: f64,
    ) -> Option<Change> {
        let (open_time, streak) = open_time(policy, from.streak, jitter);
        let until = now.plus(open_time);
        let busy = self.word.claim(from)?;
        self.window.clear();
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
        });
        Some(Admission { permit: Permit { generation, probe: true }, change })
    }

    /// No verdict: the next caller is the probe.
    pub(super) fn release_probe(&self, generation: u64) {
        while let Some(word) = self.word.of_generation(generation) {
            if self.word.swap(word, Word { probe_out: false, ..word }) {
                return;
            }
        }
    }

    /// → CLOSED, or one step towards it.
    pub(super) fn pass_probe(&self, generation: u64, now: Tick, policy: &policy::Breaker) -> Option<Change> {
        loop {
            let word = self.word.of_generation(generation)?;
            let count = word.count + 1;
            if count < u32::from(policy.half_open_success_count) {
                if self.word.swap(word, Word { probe_out: false, count, ..word }) {
                    return None;
                }
            } else if let Some(busy) = self.word.claim(word) {
                // It was cleared on opening, but a thread that the transition overtook may have added to it since.
                self.window.clear();
                self.healthy_since.store(now.as_nanos(), Release);
                let trip_count = self.trip_count.load(Acquire);
                self.word.settle(Word { state: State::Closed, probe_out: false, count: 0, ..busy });
                return Some(Change {
                    from: State::HalfOpen,
                    to: State::Closed,
                    reason: Reason::ProbesSucceeded { count },
                    generation: busy.generation,
                    until: None,
                    trip_count,
                });
            }
        }
    }

    /// → OPEN for longer.
    pub(super) fn fail_probe(
        &self,
        generation: u64,
        fault: Option<Fault>,
        now: Tick,
        policy: &policy::Breaker,
        jitter: f64,
    ) -> Option<Change> {
        loop {
            let word = self.word.of_generation(generation)?;
            if let Some(change) = self.open(word, Reason::ProbeFailed { fault }, now, policy, jitter) {
                return Some(change);
            }
        }
    }
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
