//! What a breaker would have done by other rules, given what really happened. Pure.
//!
//! It is the breaker that requests go through, fed with recorded outcomes. Where it would have been open, an outcome is one
//! of a request that would not have been sent. What it cannot know: outcomes of requests that really were not sent,
//! how the replica would have fared with less load, and how far off the jitter was.

use std::time::Duration;

use gateway_proto::policy;

use super::{
    super::{Breaker, Fault, Heard, Outcome, State, Tick},
    Kind, Recorded,
};

/// What would have happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Replayed {
    /// Openings from closed.
    pub trips: u64,
    /// Openings because a probe failed.
    pub failed_probes: u64,
    /// Failures, overload included, that would not have been sent.
    pub shed_failures: u64,
    /// Successes that would not have been sent.
    pub shed_successes: u64,
    /// Outcomes in all.
    pub samples: u64,
    /// Those of them that are failures, overload included.
    pub failures: u64,
}

impl Replayed {
    /// The sum of both.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            trips: self.trips + other.trips,
            failed_probes: self.failed_probes + other.failed_probes,
            shed_failures: self.shed_failures + other.shed_failures,
            shed_successes: self.shed_successes + other.shed_successes,
            samples: self.samples + other.samples,
            failures: self.failures + other.failures,
        }
    }
}

/// Jitter that changes no open time.
const NO_JITTER: f64 = 0.5;

/// Feeds a closed breaker with the outcomes, oldest first. One replica alone: rules that compare peers, or that bound how
/// many are open, hold nothing back here.
pub fn replay(history: &[Recorded], policy: &policy::Breaker) -> Replayed {
    let breaker = Breaker::new();
    let policy = policy::Breaker { observe_only: false, peer_latency_factor: 0.0, ..*policy };
    let mut replayed = Replayed::default();
    for recorded in history {
        let is_success = recorded.kind == Kind::Success;
        replayed.samples += 1;
        replayed.failures += u64::from(!is_success);
        // Each probe's outcome is recorded at once, so that none is ever out for longer.
        let Ok(admission) = breaker.admit(recorded.at, Duration::from_secs(1)) else {
            let shed = if is_success { &mut replayed.shed_successes } else { &mut replayed.shed_failures };
            *shed += 1;
            continue;
        };
        let change = breaker.record(admission.permit, heard(recorded), recorded.at, &policy, NO_JITTER);
        match change.filter(|change| change.to == State::Open).map(|change| change.from) {
            Some(State::Closed) => replayed.trips += 1,
            Some(_) => replayed.failed_probes += 1,
            None => {}
        }
    }
    replayed
}

/// From when to when the outcomes are.
pub fn span(history: &[Recorded]) -> Option<(Tick, Tick)> {
    Some((history.first()?.at, history.last()?.at))
}

fn heard(recorded: &Recorded) -> Heard {
    let outcome = match recorded.kind {
        Kind::Success => Outcome::Success,
        // Which fault it was decides nothing.
        Kind::Failure => Outcome::Failure(Fault::Closed),
        Kind::Overloaded => Outcome::Overloaded,
    };
    Heard { outcome, latency: recorded.latency }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::routing::History;

    fn at(millis: u64) -> Tick {
        // A multiple of the unit in which times are recorded.
        Tick::from_nanos(millis << 20)
    }

    fn history(kinds: impl IntoIterator<Item = (u64, Kind)>) -> Vec<Recorded> {
        kinds.into_iter().map(|(millis, kind)| Recorded { at: at(millis), kind, latency: None }).collect()
    }

    #[test]
    fn a_lower_threshold_trips_where_the_present_one_does_not_and_sheds_what_followed() {
        let burst = (0..4).map(|number| (number, Kind::Failure));
        let after = (4..104).map(|number| (number, if number < 10 { Kind::Failure } else { Kind::Success }));
        let calm = (2000..2100).map(|number| (number, Kind::Success));
        let first = history(burst.clone());
        let now = policy::Breaker::default();
        let then = policy::Breaker { consecutive_failure_count: 3, ..now };
        assert_eq!(replay(&first, &now).trips, 0);
        assert_eq!(
            replay(&first, &then),
            Replayed { trips: 1, shed_failures: 1, samples: 4, failures: 4, ..Default::default() }
        );
        let all = history(burst.chain(after).chain(calm));
        let replayed = replay(&all, &then);
        assert_eq!((replayed.trips, replayed.failed_probes), (1, 0));
        assert_eq!((replayed.shed_failures, replayed.shed_successes), (7, 94));
        assert_eq!((replayed.samples, replayed.failures), (204, 10));
    }

    #[test]
    fn no_history_says_nothing() {
        assert_eq!(replay(&[], &policy::Breaker::default()), Replayed::default());
        assert_eq!(span(&[]), None);
    }

    prop_compose! {
        fn any_policy()(
            consecutive_failure_count in 1..8_u32,
            min_request_count in 1..20_u32,
            failure_ratio in 0.1..1.0_f64,
            window_secs in 1..10_u64,
            half_open_success_count in 1..4_u8,
        ) -> policy::Breaker {
            policy::Breaker {
                consecutive_failure_count,
                min_request_count,
                failure_ratio,
                window: Duration::from_secs(window_secs),
                half_open_success_count,
                ..policy::Breaker::default()
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// A replica that is asked one request after the other, through a breaker that records.
        #[test]
        fn replaying_by_the_rules_in_force_gives_the_transitions_that_happened(
            policy in any_policy(),
            requests in prop::collection::vec((1..400_u64, 0..10_u8, 0..4_u8), 1..400),
            badness in 0..10_u8,
        ) {
            let (breaker, recorder) = (Breaker::new(), History::new(400));
            let mut real = Replayed::default();
            let mut millis = 0;
            for (pause, luck, kind) in requests {
                millis += pause;
                let Ok(admission) = breaker.admit(at(millis), Duration::from_secs(1)) else { continue };
                let outcome = match kind {
                    _ if luck >= badness => Outcome::Success,
                    0 => Outcome::Overloaded,
                    _ => Outcome::Failure(Fault::Reset),
                };
                recorder.record(outcome.into(), at(millis));
                real.samples += 1;
                real.failures += u64::from(outcome != Outcome::Success);
                let change = breaker.record(admission.permit, outcome, at(millis), &policy, NO_JITTER);
                if let Some(change) = change.filter(|change| change.to == State::Open) {
                    real.trips += u64::from(change.from == State::Closed);
                    real.failed_probes += u64::from(change.from == State::HalfOpen);
                }
            }
            prop_assert_eq!(replay(&recorder.read(), &policy), real);
        }

        #[test]
        fn whatever_was_recorded_each_outcome_is_shed_or_sent(
            policy in any_policy(),
            kinds in prop::collection::vec((0..60_000_u64, 0..3_u8), 0..400),
        ) {
            let kind = |number| [Kind::Success, Kind::Failure, Kind::Overloaded][usize::from(number)];
            let mut all = history(kinds.into_iter().map(|(millis, number)| (millis, kind(number))));
            all.sort_by_key(|recorded| recorded.at);
            let replayed = replay(&all, &policy);
            prop_assert_eq!(replayed.samples, all.len() as u64);
            prop_assert!(replayed.shed_failures <= replayed.failures);
            prop_assert!(replayed.shed_successes <= replayed.samples - replayed.failures);
            let none = policy::Breaker {
                consecutive_failure_count: 10_000, min_request_count: 1_000_000, ..policy
            };
            let silent = replay(&all, &none);
            prop_assert_eq!((silent.trips, silent.shed_failures, silent.shed_successes), (0, 0, 0));
        }
    }
}
