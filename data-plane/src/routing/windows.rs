//! Counts over a sliding time window that several workers make, each on cache lines of its own.
//!
//! A success is counted with every request, and read when something fails: so who counts writes nothing that others count
//! in, and who reads adds up.

use std::{sync::OnceLock, time::Duration};

use super::{Tick, Totals, Window};
use crate::counts::PerWorker;

/// A [`Window`] for each worker, read as one. Nothing is allocated before the first event; then 128 bytes for each of them.
#[derive(Debug)]
pub struct Windows {
    by_worker: OnceLock<PerWorker<Window>>,
    workers: usize,
}

impl Windows {
    /// Empty ones, for so many workers.
    pub fn new(workers: usize) -> Self {
        Self { by_worker: OnceLock::new(), workers }
    }

    /// As [`Window::add`]. Any worker may count as any other: it costs the time of meeting it there, and no event is lost.
    #[inline]
    pub fn add(&self, worker: usize, now: Tick, window: Duration, marked: bool) {
        let by_worker = self.by_worker.get_or_init(|| PerWorker::new(self.workers));
        by_worker.of(worker).add(now, window, marked);
    }

    /// As [`Window::take_back`], for the worker that has counted it.
    pub fn take_back(&self, worker: usize, at: Tick, window: Duration, marked: bool) {
        self.by_worker.get().into_iter().for_each(|all| all.of(worker).take_back(at, window, marked));
    }

    /// As [`Window::totals`], of all workers.
    pub fn totals(&self, now: Tick, window: Duration) -> Totals {
        let Some(by_worker) = self.by_worker.get() else { return Totals::default() };
        by_worker.iter().map(|of_one| of_one.totals(now, window)).fold(Totals::default(), |sum, of_one| {
            Totals {
                total: sum.total.saturating_add(of_one.total),
                marked: sum.marked.saturating_add(of_one.marked),
            }
        })
    }

    /// As [`Window::clear`], of all workers.
    pub fn clear(&self) {
        self.by_worker.get().into_iter().flat_map(PerWorker::iter).for_each(Window::clear);
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(millis: u64) -> Tick {
        Tick::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn what_any_worker_counts_is_read_as_one_and_expires_and_is_forgotten_as_one() {
        let windows = Windows::new(3);
        assert_eq!(windows.totals(at(5_000), SECOND), Totals::default());
        assert!(windows.by_worker.get().is_none(), "nothing is allocated before the first");
        // There is no fourth worker but in tests.
        for (worker, millis) in [(0, 5_000), (1, 5_400), (2, 5_400), (3, 5_800)] {
            windows.add(worker, at(millis), SECOND, worker == 2);
        }
        assert_eq!(windows.totals(at(5_900), SECOND), Totals { total: 4, marked: 1 });
        assert_eq!(windows.totals(at(6_000), SECOND), Totals { total: 3, marked: 1 });
        assert_eq!(windows.totals(at(6_400), SECOND), Totals { total: 1, marked: 0 });
        assert_eq!(windows.totals(at(6_400), 2 * SECOND), Totals::default(), "another length");
        windows.clear();
        assert_eq!(windows.totals(at(6_400), SECOND), Totals::default());
    }

    #[test]
    fn no_event_is_lost_whether_workers_count_apart_or_as_the_same_one() {
        for workers in [4, 1] {
            let windows = Windows::new(workers);
            thread::scope(|scope| {
                for worker in 0..4 {
                    let windows = &windows;
                    let count = move |_| windows.add(worker, at(500), SECOND, worker == 0);
                    scope.spawn(move || (0..10_000).for_each(count));
                }
            });
            assert_eq!(windows.totals(at(500), SECOND), Totals { total: 40_000, marked: 10_000 });
        }
    }
}
