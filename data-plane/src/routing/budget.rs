//! The retry budget of a service: how much extra load retries may cause.
//!
//! It counts; who may retry at all is decided in [`retry`](super::retry).

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use super::{Tick, Window};

/// Retries are allowed as a share of the requests of the last ten seconds, beside a floor that lets a quiet service
/// retry at all. Without it, clients of a failing service multiply its load when it can bear it least.
#[derive(Debug, Default)]
pub struct Budget {
    /// Requests, and marked among them the retries.
    window: Window,
    denied: AtomicU64,
}

impl Budget {
    /// Requests and retries are counted over this time.
    pub const WINDOW: Duration = Duration::from_secs(10);
    /// Retries in the window that need no requests: ten per second.
    pub const FLOOR: u32 = 100;

    /// A budget with its floor only.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts a request of a client, not its retries.
    pub fn request(&self, now: Tick) {
        self.window.add(now, Self::WINDOW, false);
    }

    /// Takes one retry out of the budget, or refuses: retries in the window stay within
    /// `ratio` × requests + [`FLOOR`](Self::FLOOR).
    ///
    /// Threads that ask at the same instant may exceed that by one each.
    pub fn try_retry(&self, now: Tick, ratio: f64) -> bool {
        let totals = self.window.totals(now, Self::WINDOW);
        let requests = totals.total - totals.marked;
        let allowed = ratio * f64::from(requests) + f64::from(Self::FLOOR);
        let granted = f64::from(totals.marked) + 1.0 <= allowed;
        if granted {
            self.window.add(now, Self::WINDOW, true);
        } else {
            self.denied.fetch_add(1, Relaxed);
        }
        granted
    }

    /// Retries refused so far.
    pub fn denied_count(&self) -> u64 {
        self.denied.load(Relaxed)
    }
}
