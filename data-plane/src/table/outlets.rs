//! What all services of a table share: the ways in which they tell others what happens.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::{drain::DrainBoard, fail_open::FailOpenChanges, transition::TransitionSink};

/// Shared by a table and its services.
#[derive(Debug)]
pub(super) struct Outlets {
    pub(super) transitions: TransitionSink,
    pub(super) drains: DrainBoard,
    pub(super) fail_opens: FailOpenChanges,
    is_detailed: AtomicBool,
}

impl Outlets {
    pub(super) fn new(transitions: TransitionSink, workers: usize) -> Self {
        Self {
            transitions,
            drains: DrainBoard::new(workers),
            fail_opens: FailOpenChanges::default(),
            is_detailed: AtomicBool::new(false),
        }
    }

    /// Whether somebody wants to know how long things take.
    pub(super) fn is_detailed(&self) -> bool {
        self.is_detailed.load(Relaxed)
    }

    pub(super) fn set_detailed(&self, detailed: bool) {
        self.is_detailed.store(detailed, Relaxed);
    }
}
