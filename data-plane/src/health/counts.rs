//! What checks cost, for metrics.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use super::probe::Kind;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Passed,
    Failed,
    /// It could not be carried out, for which the replica is not to blame.
    Void,
}

impl Ended {
    pub(crate) const ALL: [Self; 3] = [Self::Passed, Self::Failed, Self::Void];

    /// As metrics name it.
    pub(crate) fn name(self) -> &'static str {
        ["passed", "failed", "void"][self as usize]
    }
}

/// From then on lateness is told: it is what lies between two checks by default.
const LATE: Duration = Duration::from_secs(5);

/// Upper bounds of the histogram of durations, in seconds.
pub(crate) const CHECK_BOUNDS: [f64; 7] = [0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0];

/// Counts of all checks since the start.
#[derive(Debug, Default)]
pub(crate) struct CheckCounts {
    ended: [[AtomicU64; Ended::ALL.len()]; Kind::ALL.len()],
    /// By the first bound that is not exceeded; the last one has the rest.
    durations: [AtomicU64; CHECK_BOUNDS.len() + 1],
    nanos: AtomicU64,
    checked: AtomicU64,
    under_way: AtomicU64,
    late_nanos: AtomicU64,
}

impl CheckCounts {
    pub(super) fn ended(&self, kind: Kind, ended: Ended, took: Duration) {
        self.of(kind)[ended as usize].fetch_add(1, Relaxed);
        let seconds = took.as_secs_f64();
        let place = CHECK_BOUNDS.iter().position(|bound| seconds <= *bound);
        self.durations[place.unwrap_or(CHECK_BOUNDS.len())].fetch_add(1, Relaxed);
        self.nanos.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    pub(crate) fn scheduled(&self, checked: usize, under_way: usize, late: Duration) {
        self.checked.store(checked as u64, Relaxed);
        self.under_way.store(under_way as u64, Relaxed);
        self.late_nanos.store(u64::try_from(late.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// Checks that ended so.
    pub(crate) fn read(&self, kind: Kind, ended: Ended) -> u64 {
        self.of(kind)[ended as usize].load(Relaxed)
    }

    fn of(&self, kind: Kind) -> &[AtomicU64; Ended::ALL.len()] {
        let place = Kind::ALL.iter().position(|one| *one == kind);
        &self.ended[place.expect("all of them are listed")]
    }

    /// Sum of the durations in seconds, and counts by the first bound that is not exceeded.
    pub(crate) fn durations(&self) -> (f64, [u64; CHECK_BOUNDS.len() + 1]) {
        let counts = std::array::from_fn(|place| self.durations[place].load(Relaxed));
        (Duration::from_nanos(self.nanos.load(Relaxed)).as_secs_f64(), counts)
    }

    /// Replicas that are checked, checks under way, and how late the most overdue one was when that was last looked at.
    pub(crate) fn load(&self) -> (u64, u64, Duration) {
        let late = Duration::from_nanos(self.late_nanos.load(Relaxed));
        (self.checked.load(Relaxed), self.under_way.load(Relaxed), late)
    }

    /// How late checks begin, for people: in whole seconds, and zero below 5 s.
    pub(crate) fn lateness(&self) -> Duration {
        let (_, _, late) = self.load();
        if late < LATE { Duration::ZERO } else { Duration::from_secs(late.as_secs()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lateness_is_told_in_whole_seconds_and_only_where_it_is_worth_a_word() {
        let counts = CheckCounts::default();
        for (late, told) in [(0, 0), (4_999, 0), (5_000, 5_000), (28_400, 28_000)] {
            counts.scheduled(1, 0, Duration::from_millis(late));
            assert_eq!(counts.lateness(), Duration::from_millis(told));
        }
    }
}
