//! The faults that a service's policy injects, as they hold on this data plane: allowed at its start, and with an end by its
//! monotonic clock.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{
            AtomicBool, AtomicUsize,
            Ordering::{Relaxed, Release},
        },
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use gateway_proto::policy::FaultInjection;
use tokio_util::sync::CancellationToken;

use super::service::Service;
use crate::{
    clock::Moment,
    counts::{Count, PerWorker},
    routing::Tick,
};

/// Requests that this data plane delays at once. More would take connections and memory from those that mean it.
const MAX_DELAYED: usize = 1000;

/// What is done to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// It is held before it goes on.
    Delay,
    /// It is answered with an error.
    Abort,
    /// It gets no answer.
    Reset,
}

impl FaultKind {
    /// All of them, in order.
    pub const ALL: [Self; 3] = [Self::Delay, Self::Abort, Self::Reset];

    /// As metrics name it.
    pub fn as_str(self) -> &'static str {
        ["delay", "abort", "reset"][self as usize]
    }
}

/// What becomes of a policy's faults here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Injecting {
    /// There are none, or their end has passed.
    Nothing,
    /// They are injected.
    InForce,
    /// They would be, if this data plane had been started with `--allow-fault-injection`.
    Ignored,
}

/// Faults in force.
#[derive(Debug)]
pub struct Injection {
    fault: FaultInjection,
    ends_at: Tick,
    changed: CancellationToken,
}

/// What a service does about faults.
#[derive(Debug, Default)]
pub(super) struct Injections {
    /// Whether there may be some, so that who has none pays nothing for them.
    may_inject: AtomicBool,
    is_ignored: AtomicBool,
    injection: ArcSwapOption<Injection>,
    /// Since the first ones.
    counts: OnceLock<PerWorker<FaultCounts>>,
}

#[derive(Debug, Default)]
struct FaultCounts {
    injected: [Count; FaultKind::ALL.len()],
    skipped: Count,
}

/// What all services share of it.
#[derive(Debug, Default)]
pub(super) struct FaultRules {
    is_allowed: AtomicBool,
    delayed: AtomicUsize,
}

/// A place among the requests that are delayed.
#[derive(Debug)]
pub struct Delayed<'a>(&'a FaultRules);

impl Drop for Delayed<'_> {
    fn drop(&mut self) {
        self.0.delayed.fetch_sub(1, Relaxed);
    }
}

impl FaultRules {
    pub(super) fn allow(&self) {
        self.is_allowed.store(true, Relaxed);
    }

    pub(super) fn is_allowed(&self) -> bool {
        self.is_allowed.load(Relaxed)
    }

    /// A place for one more request that is delayed, if there is one.
    pub(super) fn delay(&self) -> Option<Delayed<'_>> {
        let one_more = |delayed: usize| (delayed < MAX_DELAYED).then_some(delayed + 1);
        self.delayed.fetch_update(Relaxed, Relaxed, one_more).ok().map(|_| Delayed(self))
    }
}

impl Injection {
    /// As somebody set them.
    pub fn fault(&self) -> &FaultInjection {
        &self.fault
    }

    /// When they end.
    pub fn ends_at(&self) -> Tick {
        self.ends_at
    }

    /// Completes when others, or none, have taken their place. Cancel safe.
    pub async fn changed(&self) {
        self.changed.cancelled().await;
    }
}

impl Injections {
    /// Takes over what the policy says at this moment. Yields whether faults are ignored that were not before.
    ///
    /// The end is turned into a tick once: a wall clock that jumps later neither prolongs faults nor ends them. One that is
    /// further ahead than any may be set is not believed.
    pub(super) fn follow(
        &self,
        fault: &FaultInjection,
        now: Moment,
        is_allowed: bool,
        workers: usize,
    ) -> bool {
        let is_in_force = fault.is_in_force(now.wall);
        let present = self.injection.load_full();
        if is_allowed && is_in_force {
            if present.is_some_and(|present| present.fault == *fault) {
                return false;
            }
            self.counts.get_or_init(|| PerWorker::new(workers));
            let left = fault.end_time.0.duration_since(now.wall).unwrap_or_default();
            let ends_at = now.tick.plus(left.min(FaultInjection::MAX_AHEAD));
            self.replace(Some(Injection { fault: *fault, ends_at, changed: CancellationToken::new() }));
        } else if present.is_some() {
            self.replace(None);
        }
        let is_ignored = is_in_force && !is_allowed;
        let was_ignored = self.is_ignored.swap(is_ignored, Relaxed);
        is_ignored && !was_ignored
    }

    fn replace(&self, injection: Option<Injection>) {
        let may_inject = injection.is_some();
        let before = self.injection.swap(injection.map(Arc::new));
        self.may_inject.store(may_inject, Release);
        if let Some(before) = before {
            before.changed.cancel();
        }
    }

    /// There are none any more.
    pub(super) fn clear(&self) {
        self.replace(None);
        self.is_ignored.store(false, Relaxed);
    }

    #[inline]
    pub(super) fn present(&self) -> Option<Arc<Injection>> {
        if !self.may_inject.load(Relaxed) {
            return None;
        }
        self.injection.load_full()
    }

    pub(super) fn state(&self, now: Tick) -> Injecting {
        match self.present() {
            Some(injection) if now < injection.ends_at => Injecting::InForce,
            None if self.is_ignored.load(Relaxed) => Injecting::Ignored,
            _ => Injecting::Nothing,
        }
    }

    /// To be called by `worker` only.
    pub(super) fn injected(&self, worker: usize, kind: FaultKind) {
        if let Some(counts) = self.counts.get() {
            counts.of(worker).injected[kind as usize].add_one();
        }
    }

    /// To be called by `worker` only.
    pub(super) fn skipped(&self, worker: usize) {
        if let Some(counts) = self.counts.get() {
            counts.of(worker).skipped.add_one();
        }
    }

    pub(super) fn count(&self, kind: FaultKind) -> u64 {
        self.counts.get().map_or(0, |counts| counts.sum(|cell| cell.injected[kind as usize].get()))
    }

    pub(super) fn skipped_count(&self) -> u64 {
        self.counts.get().map_or(0, |counts| counts.sum(|cell| cell.skipped.get()))
    }
}

impl Service {
    /// Takes over the faults that the policy says. Where this data plane may inject none, they are ignored.
    pub(super) fn inject(&self, fault: &FaultInjection, now: Moment) {
        let is_allowed = self.outlets.faults.is_allowed();
        if self.injections.follow(fault, now, is_allowed, self.workers) {
            tracing::warn!(
                service = %self.name(),
                %fault,
                "the policy injects faults, which this data plane ignores: it was started without \
                 --allow-fault-injection"
            );
        }
    }

    /// The faults that are injected, if there are any: their end is for the caller to look at. Lock-free.
    #[inline]
    pub fn injection(&self) -> Option<Arc<Injection>> {
        self.injections.present()
    }

    /// What becomes of the policy's faults.
    pub fn injecting(&self, now: Tick) -> Injecting {
        self.injections.state(now)
    }

    /// A place among the requests that this data plane delays at once, of all services; `None` when there is none.
    pub fn delay(&self) -> Option<Delayed<'_>> {
        self.outlets.faults.delay()
    }

    /// Counts a fault that was injected: to be called by `worker` only.
    pub fn injected(&self, worker: usize, kind: FaultKind) {
        self.injections.injected(worker, kind);
    }

    /// Counts a delay for which there was no place: to be called by `worker` only.
    pub fn delay_skipped(&self, worker: usize) {
        self.injections.skipped(worker);
    }

    /// How many faults of a kind were injected since the start.
    pub fn injected_count(&self, kind: FaultKind) -> u64 {
        self.injections.count(kind)
    }

    /// How many delays there was no place for.
    pub fn delays_skipped(&self) -> u64 {
        self.injections.skipped_count()
    }
}

/// How long a delay may last from `now` on: not beyond the end of the faults.
pub(crate) fn bounded_delay(delay: Duration, injection: &Injection, now: Tick) -> Duration {
    delay.min(injection.ends_at.since(now))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use gateway_proto::policy::EndTime;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn wall(secs: u32) -> SystemTime {
        SystemTime::UNIX_EPOCH + (1_000_000 + secs) * SECOND
    }

    fn moment(secs: u32) -> Moment {
        Moment { tick: Tick::ORIGIN.plus(secs * SECOND), wall: wall(secs) }
    }

    fn fault(end: SystemTime) -> FaultInjection {
        FaultInjection { abort_ratio: 0.5, end_time: EndTime(end), ..Default::default() }
    }

    #[test]
    fn an_end_holds_by_the_monotonic_clock_whatever_the_wall_clock_does() {
        let injections = Injections::default();
        assert_eq!(injections.state(moment(0).tick), Injecting::Nothing);
        assert!(!injections.follow(&fault(wall(30)), moment(10), true, 1));
        // The same policy once more, after the wall clock went back by an hour.
        let back = Moment { wall: wall(0) - 3600 * SECOND, ..moment(12) };
        injections.follow(&fault(wall(30)), back, true, 1);
        assert_eq!(injections.present().unwrap().ends_at(), moment(30).tick);
        assert_eq!(injections.state(moment(29).tick), Injecting::InForce);
        assert_eq!(injections.state(moment(30).tick), Injecting::Nothing);
    }

    #[test]
    fn what_has_ended_before_it_is_heard_of_does_nothing_as_from_an_old_snapshot() {
        let injections = Injections::default();
        injections.follow(&fault(wall(30)), moment(30), true, 1);
        assert!(injections.present().is_none());
        injections.follow(&fault(EndTime::NONE.0), moment(30), true, 1);
        assert!(injections.present().is_none(), "without an end there is no effect");
    }

    #[test]
    fn no_end_is_further_ahead_than_a_day_whoever_says_so() {
        let injections = Injections::default();
        injections.follow(&fault(wall(0) + 1000 * FaultInjection::MAX_AHEAD), moment(0), true, 1);
        let ends_at = injections.present().unwrap().ends_at();
        assert_eq!(ends_at, moment(0).tick.plus(FaultInjection::MAX_AHEAD));
    }

    #[test]
    fn without_the_flag_faults_are_ignored_and_that_is_told_once() {
        let injections = Injections::default();
        assert!(injections.follow(&fault(wall(30)), moment(0), false, 1));
        assert!(!injections.follow(&fault(wall(40)), moment(0), false, 1));
        assert_eq!(injections.state(moment(0).tick), Injecting::Ignored);
        assert!(injections.present().is_none());
        injections.follow(&FaultInjection::default(), moment(1), false, 1);
        assert_eq!(injections.state(moment(1).tick), Injecting::Nothing);
    }

    #[tokio::test]
    async fn those_who_wait_hear_when_faults_are_changed_or_cleared() {
        let injections = Injections::default();
        injections.follow(&fault(wall(30)), moment(0), true, 1);
        let first = injections.present().unwrap();
        injections.follow(&fault(wall(40)), moment(0), true, 1);
        first.changed().await;
        let second = injections.present().unwrap();
        injections.clear();
        second.changed().await;
        assert!(injections.present().is_none());
    }

    #[test]
    fn only_so_many_are_delayed_at_once_and_places_come_back() {
        let rules = FaultRules::default();
        let places: Vec<_> = std::iter::from_fn(|| rules.delay()).collect();
        assert_eq!(places.len(), MAX_DELAYED);
        drop(places);
        assert!(rules.delay().is_some());
    }
}
