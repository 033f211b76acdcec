//! What a breaker's transition was and why, with the numbers that decided it.

use std::{fmt, time::Duration};

use super::State;
use crate::routing::{Comparison, Fault, Tick};

/// One transition. Exactly one thread gets it, to publish it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Change {
    /// The state before.
    pub from: State,
    /// The state after. The same as before only for [`Reason::ProbeLost`] and [`Reason::Reset`], and when opening a closed one
    /// was withheld.
    pub to: State,
    /// Why, also as a text for people.
    pub reason: Reason,
    /// The breaker's generation after the transition; orders the changes of one breaker.
    pub generation: u64,
    /// When the next probe is due; while OPEN only.
    pub until: Option<Tick>,
    /// Times it has opened so far, this one included.
    pub trip_count: u64,
    /// Why it did not open although its rule held; `None` when it did.
    pub withheld: Option<Withheld>,
}

/// Why a breaker whose rule holds does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Withheld {
    /// The policy only observes.
    ObserveOnly,
    /// As many of the service's breakers are open as the policy allows.
    MaxOpenRatio,
}

impl Change {
    /// Whether nothing has changed: a closed one was to open.
    pub fn is_told_only(&self) -> bool {
        self.withheld.is_some() && self.from == self.to
    }

    /// The rule that opened it, or would have; `None` when none did.
    pub fn rule(&self) -> Option<Rule> {
        match self.reason {
            Reason::ConsecutiveFailures { .. } => Some(Rule::ConsecutiveFailures),
            Reason::FailureRatio { .. } => Some(Rule::FailureRatio),
            Reason::SlowRatio { .. } => Some(Rule::SlowRatio),
            Reason::PeerLatency(_) => Some(Rule::PeerLatency),
            Reason::ProbeFailed { .. } | Reason::ProbeSlow { .. } => Some(Rule::ProbeFailed),
            Reason::ProbeDue
            | Reason::ProbeLost
            | Reason::ProbesSucceeded { .. }
            | Reason::ChecksPassed { .. }
            | Reason::Forced
            | Reason::Released
            | Reason::Reset => None,
        }
    }
}

/// A rule that opens breakers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    /// So many failures in a row.
    ConsecutiveFailures,
    /// So large a share of failures in the window.
    FailureRatio,
    /// So large a share of slow responses in the window.
    SlowRatio,
    /// So much slower than its peers.
    PeerLatency,
    /// The half-open breaker's probe failed.
    ProbeFailed,
}

/// Why a breaker changed its state, with the values that were compared.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Reason {
    /// CLOSED → OPEN.
    ConsecutiveFailures {
        /// Failures in a row.
        count: u32,
        /// The policy's limit.
        threshold: u32,
        /// The last of them.
        fault: Fault,
    },
    /// CLOSED → OPEN.
    FailureRatio {
        /// Failures in the window, overload included.
        failed: u32,
        /// Outcomes in the window.
        total: u32,
        /// The policy's limit of their ratio.
        threshold: f64,
    },
    /// CLOSED → OPEN.
    SlowRatio {
        /// Slow responses in the window.
        slow: u32,
        /// Responses in the window.
        total: u32,
        /// The policy's limit of their ratio.
        threshold: f64,
        /// From which latency on a response is slow.
        limit: Duration,
    },
    /// CLOSED → OPEN: its 90th percentile beside that of its peers.
    PeerLatency(Comparison),
    /// HALF_OPEN → OPEN: the probe succeeded, and was slow.
    ProbeSlow {
        /// How long it took.
        latency: Duration,
        /// From which latency on a response is slow.
        limit: Duration,
    },
    /// HALF_OPEN → OPEN.
    ProbeFailed {
        /// What went wrong; `None` when the replica was overloaded.
        fault: Option<Fault>,
    },
    /// OPEN → HALF_OPEN: the open time has passed and a caller came.
    ProbeDue,
    /// HALF_OPEN → HALF_OPEN: a probe's result did not come in its time, and another caller took its place.
    ProbeLost,
    /// HALF_OPEN → CLOSED.
    ProbesSucceeded {
        /// How many.
        count: u32,
    },
    /// OPEN, HALF_OPEN → CLOSED: active checks passed, and the policy takes their word.
    ChecksPassed {
        /// How many in a row.
        count: u32,
    },
    /// → FORCED_OPEN or FORCED_CLOSED: an operator's word.
    Forced,
    /// FORCED_OPEN → HALF_OPEN, FORCED_CLOSED → CLOSED: that word is over.
    Released,
    /// → CLOSED, or as before while forced: an operator had it forget what it has counted.
    Reset,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ConsecutiveFailures { count, threshold, fault } => {
                write!(f, "consecutive_failures {count} >= {threshold}: {fault}")
            }
            Self::FailureRatio { failed, total, threshold } => {
                let ratio = f64::from(failed) / f64::from(total);
                write!(f, "failure_ratio {ratio:.2} >= {threshold:.2} ({failed} of {total})")
            }
            Self::SlowRatio { slow, total, threshold, limit } => {
                let ratio = f64::from(slow) / f64::from(total);
                write!(
                    f,
                    "slow_ratio {ratio:.2} >= {threshold:.2} ({slow} of {total} took {limit:?} or more)"
                )
            }
            Self::PeerLatency(Comparison { own, median, peers, factor }) => {
                let (own, count) = (own.latency, own.count);
                let times = own.as_secs_f64() / median.as_secs_f64();
                let [own, median] = [own, median].map(rounded);
                write!(
                    f,
                    "peer_latency {times:.1}x >= {factor:.1}x (p90 {own:?} of {count}, median of {peers} peers {median:?})"
                )
            }
            Self::ProbeSlow { latency, limit } => {
                write!(f, "probe slow: {:?} >= {limit:?}", rounded(latency))
            }
            Self::ProbeFailed { fault: Some(fault) } => write!(f, "probe failed: {fault}"),
            Self::ProbeFailed { fault: None } => f.write_str("probe failed: replica overloaded"),
            Self::ProbeDue => f.write_str("probe due"),
            Self::ProbeLost => f.write_str("probe lost: no result in time"),
            Self::ProbesSucceeded { count: 1 } => f.write_str("1 probe succeeded"),
            Self::ProbesSucceeded { count } => write!(f, "{count} probes succeeded"),
            Self::ChecksPassed { count: 1 } => f.write_str("1 health check passed"),
            Self::ChecksPassed { count } => write!(f, "{count} health checks passed"),
            Self::Forced => f.write_str("forced by an operator"),
            Self::Released => f.write_str("no longer forced"),
            Self::Reset => f.write_str("reset by an operator"),
        }
    }
}

/// To what people want to read of an estimate.
fn rounded(latency: Duration) -> Duration {
    let unit = if latency < Duration::from_millis(10) { 10_000 } else { 1_000_000 };
    let units = (latency.as_nanos() + unit / 2) / unit;
    Duration::from_nanos(u64::try_from(units * unit).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::Sample;

    #[test]
    fn a_reason_names_the_rule_the_numbers_and_the_fault() {
        let fault = Fault::ConnectRefused;
        let all = [
            (
                Reason::ConsecutiveFailures { count: 5, threshold: 5, fault },
                "consecutive_failures 5 >= 5: connect refused",
            ),
            (
                Reason::FailureRatio { failed: 31, total: 50, threshold: 0.5 },
                "failure_ratio 0.62 >= 0.50 (31 of 50)",
            ),
            (
                Reason::SlowRatio { slow: 16, total: 20, threshold: 0.5, limit: Duration::from_millis(800) },
                "slow_ratio 0.80 >= 0.50 (16 of 20 took 800ms or more)",
            ),
            (
                Reason::PeerLatency(Comparison {
                    own: Sample { latency: Duration::from_micros(412_345), count: 33 },
                    median: Duration::from_micros(98_765),
                    peers: 4,
                    factor: 3.0,
                }),
                "peer_latency 4.2x >= 3.0x (p90 412ms of 33, median of 4 peers 99ms)",
            ),
            (
                Reason::ProbeSlow {
                    latency: Duration::from_micros(912_345),
                    limit: Duration::from_millis(800),
                },
                "probe slow: 912ms >= 800ms",
            ),
            (Reason::ProbeFailed { fault: Some(fault) }, "probe failed: connect refused"),
            (Reason::ProbeFailed { fault: None }, "probe failed: replica overloaded"),
            (Reason::ProbeDue, "probe due"),
            (Reason::ProbeLost, "probe lost: no result in time"),
            (Reason::ProbesSucceeded { count: 1 }, "1 probe succeeded"),
            (Reason::ProbesSucceeded { count: 2 }, "2 probes succeeded"),
            (Reason::Forced, "forced by an operator"),
            (Reason::Released, "no longer forced"),
            (Reason::Reset, "reset by an operator"),
        ];
        for (reason, text) in all {
            assert_eq!(reason.to_string(), text);
        }
    }
}
