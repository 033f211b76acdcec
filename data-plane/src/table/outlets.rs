//! What all services of a table share: the ways in which they tell others what happens.

use std::sync::{
    OnceLock,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
};

use tokio::sync::Notify;

use super::{
    changes::Changes, drain::DrainBoard, fail_open::FailOpenChanges, injection::FaultRules,
    rate_limit::RateKeys, transition::TransitionSink,
};

/// Shared by a table and its services.
#[derive(Debug)]
pub(super) struct Outlets {
    pub(super) transitions: TransitionSink,
    pub(super) drains: DrainBoard,
    pub(super) fail_opens: FailOpenChanges,
    pub(super) faults: FaultRules,
    /// Services that have changed.
    pub(super) changes: Changes,
    /// Services of which replicas are left alone because of their breakers.
    pub(super) resting: AtomicUsize,
    /// Others may be to be checked than before.
    pub(super) check_changes: Notify,
    is_detailed: AtomicBool,
    /// Outcomes that are recorded of each replica; zero: none.
    recorded: AtomicUsize,
    /// From the first limit on that has some.
    rate_keys: OnceLock<RateKeys>,
    /// How many there were so far.
    ids: AtomicU64,
}

impl Outlets {
    pub(super) fn new(transitions: TransitionSink, workers: usize) -> Self {
        Self {
            transitions,
            drains: DrainBoard::new(workers),
            fail_opens: FailOpenChanges::default(),
            faults: FaultRules::default(),
            changes: Changes::default(),
            resting: AtomicUsize::new(0),
            check_changes: Notify::new(),
            is_detailed: AtomicBool::new(false),
            recorded: AtomicUsize::new(0),
            rate_keys: OnceLock::new(),
            ids: AtomicU64::new(0),
        }
    }

    /// A number that nothing of the table had before.
    pub(super) fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Relaxed)
    }

    /// The keys of all rate limits.
    pub(super) fn rate_keys(&self) -> &RateKeys {
        self.rate_keys.get_or_init(RateKeys::new)
    }

    pub(super) fn rate_keys_forgotten(&self) -> u64 {
        self.rate_keys.get().map_or(0, RateKeys::forgotten)
    }

    /// Whether somebody wants to know how long attempts at each replica take.
    pub(super) fn is_detailed(&self) -> bool {
        self.is_detailed.load(Relaxed)
    }

    /// How many outcomes are recorded of each replica.
    pub(super) fn recorded(&self) -> usize {
        self.recorded.load(Relaxed)
    }

    pub(super) fn record(&self, outcomes: usize) {
        self.recorded.store(outcomes, Relaxed);
    }

    pub(super) fn set_detailed(&self, detailed: bool) {
        self.is_detailed.store(detailed, Relaxed);
    }
}
