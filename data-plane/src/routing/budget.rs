//! The retry budget of a service: how much extra load retries may cause.
//!
//! It counts; who may retry at all is decided in [`retry`](super::retry).

use std::time::Duration;

use super::{Tick, Windows};

/// Retries are allowed as a share of the requests of the last ten seconds, beside a floor that lets a quiet service
/// retry at all. Without it, clients of a failing service multiply its load when it can bear it least.
#[derive(Debug)]
pub struct Budget {
    /// Requests, and marked among them the retries.
    windows: Windows,
}

/// A budget at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BudgetView {
    /// Retries that it still has.
    pub remaining: u32,
    /// What has been used of it, 0.0..=1.0.
    pub used: f64,
}

impl Budget {
    /// Requests and retries are counted over this time.
    pub const WINDOW: Duration = Duration::from_secs(10);
    /// Retries in the window that need no requests: ten per second.
    pub const FLOOR: u32 = 100;

    /// A budget with its floor only, that so many workers share.
    pub fn new(workers: usize) -> Self {
        Self { windows: Windows::new(workers) }
    }

    /// Counts a request of a client of that worker's, not its retries.
    pub fn request(&self, worker: usize, now: Tick) {
        self.windows.add(worker, now, Self::WINDOW, false);
    }

    /// Takes one retry of that worker's out of the budget, or refuses: retries in the window stay within
    /// `ratio` × requests + [`FLOOR`](Self::FLOOR).
    ///
    /// Threads that ask at the same instant may exceed that by one each.
    pub fn try_retry(&self, worker: usize, now: Tick, ratio: f64) -> bool {
        let granted = self.allows_retry(now, ratio);
        if granted {
            self.retry(worker, now);
        }
        granted
    }

    /// Whether it bears another retry now.
    pub fn allows_retry(&self, now: Tick, ratio: f64) -> bool {
        let (allowed, retries) = self.read(now, ratio);
        retries + 1.0 <= allowed
    }

    /// Takes a retry of that worker's out of it, whether it [bears](Self::allows_retry) that or not.
    pub fn retry(&self, worker: usize, now: Tick) {
        self.windows.add(worker, now, Self::WINDOW, true);
    }

    /// Gives back a retry that this worker took out of it at `at`, because nobody was asked after all.
    pub fn give_back(&self, worker: usize, at: Tick) {
        self.windows.take_back(worker, at, Self::WINDOW, true);
    }

    /// What is left of it.
    pub fn view(&self, now: Tick, ratio: f64) -> BudgetView {
        let (allowed, retries) = self.read(now, ratio);
        BudgetView { remaining: (allowed - retries).max(0.0) as u32, used: (retries / allowed).min(1.0) }
    }

    /// How many retries the window may hold, and how many it does.
    fn read(&self, now: Tick, ratio: f64) -> (f64, f64) {
        let totals = self.windows.totals(now, Self::WINDOW);
        let requests = totals.total - totals.marked;
        (ratio * f64::from(requests) + f64::from(Self::FLOOR), totals.marked.into())
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    const RATIO: f64 = 0.2;
    const WORKER: usize = 1;

    fn at(millis: u64) -> Tick {
        Tick::from_nanos(millis * 1_000_000)
    }

    fn granted(budget: &Budget, now: Tick, asked: u32, ratio: f64) -> usize {
        (0..asked).filter(|_| budget.try_retry(WORKER, now, ratio)).count()
    }

    #[test]
    fn a_quiet_service_may_retry_ten_times_a_second() {
        let budget = Budget::new(2);
        assert_eq!(granted(&budget, at(0), 150, RATIO), 100);
        assert_eq!(budget.view(at(0), RATIO), BudgetView { remaining: 0, used: 1.0 });
        assert_eq!(granted(&budget, at(9_999), 1, RATIO), 0);
        assert_eq!(granted(&budget, at(10_000), 150, RATIO), 100);
    }

    #[test]
    fn a_busy_service_may_retry_its_share_of_requests_beside() {
        let budget = Budget::new(2);
        (0..1_000).for_each(|_| budget.request(WORKER, at(0)));
        assert_eq!(granted(&budget, at(0), 75, RATIO), 75);
        assert_eq!(budget.view(at(0), RATIO), BudgetView { remaining: 225, used: 0.25 });
        assert_eq!(granted(&budget, at(0), 1_000, RATIO), 225);
    }

    #[test]
    fn what_is_given_back_may_be_taken_again_unless_the_window_has_forgotten_it() {
        let budget = Budget::new(2);
        assert_eq!(granted(&budget, at(1000), 200, 0.0), 100);
        budget.give_back(WORKER, at(1000));
        assert_eq!(granted(&budget, at(1500), 5, 0.0), 1);
        let later = at(1000).plus(2 * Budget::WINDOW);
        budget.give_back(WORKER, at(1000));
        assert_eq!(granted(&budget, later, 200, 0.0), 100);
        budget.give_back(0, later);
        assert_eq!(budget.view(later, 0.0).remaining, 0, "another worker had taken none");
    }

    #[test]
    fn a_ratio_of_zero_leaves_the_floor() {
        let budget = Budget::new(2);
        (0..1_000).for_each(|_| budget.request(WORKER, at(0)));
        assert_eq!(granted(&budget, at(0), 1_000, 0.0), 100);
    }

    #[test]
    fn threads_that_race_exceed_the_budget_by_one_each_at_most() {
        let budget = Budget::new(2);
        let all: usize = thread::scope(|scope| {
            let ask = || granted(&budget, at(0), 1_000, RATIO);
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
            threads.into_iter().map(|thread| thread.join().expect("no thread panics")).sum()
        });
        assert!((100..=104).contains(&all), "{all}");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn retries_in_the_window_stay_within_the_budget(
            steps in prop::collection::vec((0..2_000_u64, 0..200_u32, 0..100_u32), 1..50),
        ) {
            let budget = Budget::new(2);
            let (mut requests, mut retries, mut now) = (Vec::new(), Vec::new(), 0);
            for (passed, asked, retried) in steps {
                now += passed;
                for _ in 0..asked {
                    budget.request(WORKER, at(now));
                    requests.push(now);
                }
                // The running second and the nine before.
                let live = |times: &[u64]| times.iter().filter(|then| *then / 1_000 + 10 > now / 1_000).count();
                let limit = live(&requests) as f64 * RATIO + f64::from(Budget::FLOOR);
                let mut used = live(&retries);
                for _ in 0..retried {
                    let fits = (used + 1) as f64 <= limit;
                    prop_assert_eq!(budget.try_retry(WORKER, at(now), RATIO), fits);
                    if fits {
                        used += 1;
                        retries.push(now);
                    }
                }
            }
        }
    }
}
