//! How a breaker opened, or would have, with the numbers that decided it.

use std::time::SystemTime;

use gateway_proto::{
    time::{duration, timestamp},
    v1,
};

use crate::{
    routing::{Comparison, Reason, Tick, Withheld},
    table::Trip,
};

/// What was compared with what, and on how many outcomes that rests.
struct Compared {
    observed: f64,
    threshold: f64,
    samples: u32,
}

pub(super) fn to_wire(trip: &Trip, date: impl Fn(Tick) -> SystemTime) -> v1::Trip {
    let change = &trip.change;
    let Compared { observed, threshold, samples } = compared(&change.reason);
    v1::Trip {
        trip_time: Some(timestamp(date(trip.at))),
        rule: change.rule().map_or(v1::BreakerRule::Unspecified, super::rule).into(),
        observed,
        threshold,
        sample_count: samples.into(),
        open_time: change.until.map(|until| duration(until.since(trip.at))),
        generation: super::count(change.generation),
        incarnation: trip.incarnation,
        reason: change.reason.to_string(),
        withheld: match change.withheld {
            None => v1::Withheld::Unspecified,
            Some(Withheld::ObserveOnly) => v1::Withheld::ObserveOnly,
            Some(Withheld::MaxOpenRatio) => v1::Withheld::MaxOpenRatio,
        }
        .into(),
    }
}

fn compared(reason: &Reason) -> Compared {
    let ratio = |part: u32, whole: u32| f64::from(part) / f64::from(whole.max(1));
    match *reason {
        Reason::ConsecutiveFailures { count, threshold, .. } => {
            Compared { observed: count.into(), threshold: threshold.into(), samples: count }
        }
        Reason::FailureRatio { failed, total, threshold } => {
            Compared { observed: ratio(failed, total), threshold, samples: total }
        }
        Reason::SlowRatio { slow, total, threshold, .. } => {
            Compared { observed: ratio(slow, total), threshold, samples: total }
        }
        Reason::PeerLatency(Comparison { own, median, factor, .. }) => Compared {
            observed: own.latency.as_secs_f64() / median.as_secs_f64(),
            threshold: factor,
            samples: own.count,
        },
        Reason::ProbeSlow { latency, limit } => {
            Compared { observed: latency.as_secs_f64(), threshold: limit.as_secs_f64(), samples: 1 }
        }
        Reason::ProbeFailed { .. } => Compared { observed: 0.0, threshold: 0.0, samples: 1 },
        Reason::ProbeDue
        | Reason::ProbeLost
        | Reason::ProbesSucceeded { .. }
        | Reason::ChecksPassed { .. }
        | Reason::Forced
        | Reason::Released
        | Reason::Reset => Compared { observed: 0.0, threshold: 0.0, samples: 0 },
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::routing::{Change, Fault, Sample, State};

    #[test]
    fn each_rule_tells_what_it_compared_and_on_how_many_outcomes_that_rests() {
        let peers = Comparison {
            own: Sample { latency: Duration::from_millis(400), count: 33 },
            median: Duration::from_millis(100),
            peers: 4,
            factor: 3.0,
        };
        let all = [
            (Reason::ConsecutiveFailures { count: 5, threshold: 5, fault: Fault::Reset }, (5.0, 5.0, 5)),
            (Reason::FailureRatio { failed: 3, total: 4, threshold: 0.5 }, (0.75, 0.5, 4)),
            (
                Reason::SlowRatio { slow: 1, total: 2, threshold: 0.5, limit: Duration::from_secs(1) },
                (0.5, 0.5, 2),
            ),
            (Reason::PeerLatency(peers), (4.0, 3.0, 33)),
            (
                Reason::ProbeSlow { latency: Duration::from_secs(2), limit: Duration::from_secs(1) },
                (2.0, 1.0, 1),
            ),
            (Reason::ProbeFailed { fault: None }, (0.0, 0.0, 1)),
        ];
        for (reason, expected) in all {
            let at = Tick::ORIGIN.plus(Duration::from_secs(1));
            let change = Change {
                from: State::Closed,
                to: State::Open,
                reason,
                generation: 7,
                until: Some(at.plus(Duration::from_secs(3))),
                trip_count: 1,
                withheld: None,
            };
            let date = |tick: Tick| UNIX_EPOCH + tick.since(Tick::ORIGIN);
            let trip = to_wire(&Trip { at, incarnation: 3, change }, date);
            assert_eq!((trip.observed, trip.threshold, trip.sample_count), expected, "{reason}");
            assert_eq!(trip.open_time.unwrap().seconds, 3);
            assert_eq!((trip.trip_time.unwrap().seconds, trip.generation, trip.incarnation), (1, 7, 3));
            assert_eq!(trip.reason, reason.to_string());
        }
    }
}
