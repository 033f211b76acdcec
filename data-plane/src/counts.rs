//! Counts with one writer each.
//!
//! Each worker writes only its own cell, which fills cache lines of its own, so that counting costs a load and a
//! store; readers add the cells up.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A count with one writer.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add_one(&self) {
        self.add(1);
    }

    pub(crate) fn add(&self, more: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(more), Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// One cell for each worker.
#[derive(Debug)]
pub(crate) struct PerWorker<T>(Box<[Alone<T>]>);

/// What others write costs those no time that read what is near. 128 bytes is what adjacent-line prefetching makes of a 64-byte
/// line.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Alone<T>(pub(crate) T);

impl<T: Default> PerWorker<T> {
    pub(crate) fn new(workers: usize) -> Self {
        Self((0..workers.max(1)).map(|_| Alone::default()).collect())
    }

    /// The cell of a worker; workers are numbered from zero.
    pub(crate) fn of(&self, worker: usize) -> &T {
        // As there are, all but in tests: a remainder takes longer than what is counted.
        &self.0.get(worker).unwrap_or_else(|| &self.0[worker % self.0.len()]).0
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|cell| &cell.0)
    }

    pub(crate) fn sum(&self, read: impl Fn(&T) -> u64) -> u64 {
        self.iter().map(read).fold(0, u64::wrapping_add)
    }
}
