//! Active health checks: what this data plane finds out about replicas beside the requests that it sends them.
//!
//! `check` makes a verdict of results, `schedule` says whose turn it is: both are pure. `probe` carries one check out,
//! `checker` runs them: one task beside the workers, so that no request ever waits for a check. What a verdict means for
//! requests is up to the [`crate::table`].

pub mod check;
mod checker;
mod counts;
mod probe;
mod schedule;

pub(crate) use checker::Checker;
pub(crate) use counts::{CHECK_BOUNDS, CheckCounts, Ended};
pub(crate) use probe::Kind as CheckKind;
