//! The retries of one service at one data plane, beside its requests.

use data_plane::routing::{Budget, Tick};

use super::{Checked, claim};

/// When requests came and when the budget paid for a retry, in whole seconds.
#[derive(Debug, Default)]
pub(crate) struct BudgetBook {
    requests: Vec<u64>,
    retries: Vec<u64>,
}

impl BudgetBook {
    pub(crate) fn request(&mut self, now: Tick) {
        self.requests.push(second(now));
    }

    /// A retry that the budget has to pay for goes out.
    pub(crate) fn retry(&mut self, now: Tick, ratio: f64) -> Checked {
        self.retries.push(second(now));
        self.retries_stay_within_their_budget(now, ratio)
    }

    /// In the running second and the nine before, retries of what a replica may have seen are at most their share of
    /// the requests and ten a second.
    fn retries_stay_within_their_budget(&mut self, now: Tick, ratio: f64) -> Checked {
        for times in [&mut self.requests, &mut self.retries] {
            times.retain(|at| at + Budget::WINDOW.as_secs() > second(now));
        }
        let [requests, retries] = [&self.requests, &self.retries].map(Vec::len);
        let allowed = ratio * requests as f64 + f64::from(Budget::FLOOR);
        claim("retries_stay_within_their_budget", retries as f64 <= allowed, || {
            format!("{retries} retries of {requests} requests, {allowed} are allowed")
        })
    }
}

fn second(now: Tick) -> u64 {
    now.as_nanos() / 1_000_000_000
}
