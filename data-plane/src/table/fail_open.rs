//! Services that begin to fail open, or cease to, on their way to whoever reports it.
//!
//! The queue is bounded. While nobody takes them, the oldest give way and are counted.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use gateway_proto::ServiceName;

use super::view::FailOpen;
use crate::routing::Tick;

/// Such changes are few: one for each time that a service is nearly down.
const CAPACITY: usize = 1000;

/// A service began to fail open, or ceased to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailOpenChange {
    /// Which one.
    pub service: ServiceName,
    /// When.
    pub at: Tick,
    /// How few let traffic through when it began; `None` when it ceased.
    pub began: Option<FailOpen>,
}

/// The bounded queue of them.
#[derive(Debug, Default)]
pub(super) struct FailOpenChanges(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    queue: VecDeque<FailOpenChange>,
    dropped: u64,
}

impl FailOpenChanges {
    pub(super) fn push(&self, change: FailOpenChange) {
        let mut inner = self.inner();
        if inner.queue.len() == CAPACITY {
            inner.queue.pop_front();
            inner.dropped += 1;
        }
        inner.queue.push_back(change);
    }

    /// Takes up to `max`, oldest first.
    pub(super) fn take(&self, max: usize) -> Vec<FailOpenChange> {
        let mut inner = self.inner();
        let count = inner.queue.len().min(max);
        inner.queue.drain(..count).collect()
    }

    /// Those that nobody took in time, since the start.
    pub(super) fn dropped(&self) -> u64 {
        self.inner().dropped
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // A queue of whole values: a panic elsewhere leaves nothing half-done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_takes_gives_way_and_is_counted() {
        let changes = FailOpenChanges::default();
        for number in 0..CAPACITY as u64 + 5 {
            let service = ServiceName::parse("orders").unwrap();
            changes.push(FailOpenChange { service, at: Tick::from_nanos(number), began: None });
        }
        assert_eq!(changes.dropped(), 5);
        assert_eq!(changes.take(10)[0].at, Tick::from_nanos(5));
        assert_eq!((changes.take(CAPACITY).len(), changes.take(1).len()), (CAPACITY - 10, 0));
    }
}
