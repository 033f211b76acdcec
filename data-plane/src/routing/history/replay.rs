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

/// How long a probe may take here: it ends when it really did.
const LEASE: Duration = Duration::from_secs(3600);

/// Feeds a closed breaker with the attempts, each from its beginning to its outcome: what was under way when it opened has been
/// sent, and says nothing of it any more. One replica alone: rules that compare peers, or that bound how many are open, hold nothing
/// back here, nor do others that are open have it rest for less.
pub fn replay(history: &[Recorded], policy: &policy::Breaker) -> Replayed {
    let breaker = Breaker::new();
    let policy = policy::Breaker { observe_only: false, peer_latency_factor: 0.0, ..*policy };
    let mut begun: Vec<_> = history.iter().map(|recorded| recorded.began).zip(0..).collect();
    begun.sort_unstable();
    let mut begun = begun.into_iter().peekable();
    let mut permits: Vec<_> = history.iter().map(|_| None).collect();
    let mut replayed = Replayed::default();
    for (index, recorded) in history.iter().enumerate() {
        // Of those that begin when this ends, the later ones begin behind it.
        while let Some((at, next)) = begun.next_if(|(at, next)| (*at, *next) <= (recorded.at, index)) {
            if !history[next].kind.is_deed() {
                permits[next] = breaker.admit(at, LEASE).ok().map(|admission| admission.permit);
            }
        }
        let permit = permits[index].take();
        let is_sent = permit.is_some();
        match recorded.kind {
            Kind::Renewal => breaker.reprobe(recorded.at),
            Kind::Reset => _ = breaker.reset(recorded.at),
            Kind::Neutral => {}
            Kind::Success => {
                replayed.samples += 1;
                replayed.shed_successes += u64::from(!is_sent);
            }
            Kind::Failure | Kind::Overloaded => {
                replayed.samples += 1;
                replayed.failures += 1;
                replayed.shed_failures += u64::from(!is_sent);
            }
        }
        let Some(permit) = permit else { continue };
        let change = breaker.record(permit, heard(recorded), recorded.at, &policy, NO_JITTER);
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
        Kind::Neutral | Kind::Renewal | Kind::Reset => Outcome::Neutral,
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
        let at_once = |(millis, kind)| Recorded { began: at(millis), at: at(millis), kind, latency: None };
        kinds.into_iter().map(at_once).collect()
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
    fn what_was_under_way_when_it_opened_was_sent_and_cannot_be_saved() {
        let now = policy::Breaker::default();
        // However soon its head was there, if there was one: it may break off later.
        for latency in [None, Some(Duration::from_millis(1)), Some(Duration::from_secs(1))] {
            let fails =
                |millis| Recorded { began: at(millis - 1_000), at: at(millis), kind: Kind::Failure, latency };
            let all: Vec<_> = (1_000..1_100).map(fails).collect();
            let replayed = replay(&all, &now);
            assert_eq!((replayed.trips, replayed.failures, replayed.shed_failures), (1, 100, 0));
            let streams =
                (1_100..1_120).map(|millis| Recorded { began: at(50), kind: Kind::Success, ..fails(millis) });
            let replayed = replay(&all.iter().copied().chain(streams).collect::<Vec<_>>(), &now);
            assert_eq!((replayed.trips, replayed.shed_successes), (1, 0));
            let late = fails(2_010);
            let replayed = replay(&[all, vec![late]].concat(), &now);
            assert_eq!((replayed.trips, replayed.shed_failures), (1, 1), "it began when it was open");
        }
    }

    #[test]
    fn a_replica_that_is_only_ever_outrun_is_seen_to_be_slow() {
        let outrun = |millis| Recorded {
            began: at(millis - 300),
            at: at(millis),
            kind: Kind::Neutral,
            latency: Some(Duration::from_millis(300)),
        };
        let all: Vec<_> = (0..10).map(|number| outrun(1_000 * (number + 1))).collect();
        let slow = policy::Breaker {
            slow_threshold: Duration::from_millis(200),
            min_request_count: 5,
            ..policy::Breaker::default()
        };
        let replayed = replay(&all, &slow);
        assert!(replayed.trips > 0, "{replayed:?}");
        assert_eq!((replayed.samples, replayed.shed_failures), (0, 0), "they are neither good nor bad");
        assert_eq!(replay(&all, &policy::Breaker::default()).trips, 0);
    }

    #[test]
    fn a_new_process_is_asked_at_once() {
        let failures = (0..5).map(|number| (number, Kind::Failure));
        let again = history(failures.clone().chain([(7, Kind::Success)]));
        assert_eq!(replay(&again, &policy::Breaker::default()).shed_successes, 1);
        let renewed = history(failures.chain([(6, Kind::Renewal), (7, Kind::Success)]));
        assert_eq!(replay(&renewed, &policy::Breaker::default()).shed_successes, 0);
    }

    #[test]
    fn what_an_operator_has_reset_takes_all_at_once() {
        let failures = (0..5).map(|number| (number, Kind::Failure));
        let good = (7..27).map(|number| (number, Kind::Success));
        let reset = history(failures.chain([(6, Kind::Reset)]).chain(good));
        let replayed = replay(&reset, &policy::Breaker::default());
        assert_eq!((replayed.trips, replayed.shed_successes, replayed.samples), (1, 0, 25));
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
            // Between any two latencies that occur, which are not known to the last digit.
            slow_millis in prop::option::of((0..15_u64).prop_map(|units| units * 8 + 4)),
        ) -> policy::Breaker {
            policy::Breaker {
                slow_threshold: slow_millis.map(Duration::from_millis).unwrap_or_default(),
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
                recorder.record(outcome.into(), at(millis), at(millis));
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

        /// The same of one that is asked several at a time, and whose answers go on after their heads, which not all have.
        #[test]
        fn replaying_attempts_side_by_side_gives_the_transitions_that_happened(
            policy in any_policy(),
            attempts in prop::collection::vec(
                (0..20_u64, 1..15_u64, any::<bool>(), prop::option::of(0..15_u64)),
                1..200,
            ),
        ) {
            // Times that are recorded as they are: a unit is 2^16 ns, of which 125 are 8.192 ms.
            let unit = |units: u64| Tick::from_nanos((units * 125) << 16);
            let lasts = |units: u64| Duration::from_micros(units * 8_192);
            let mut begins = 0;
            let mut events = Vec::new();
            for (index, (pause, units, ..)) in attempts.iter().enumerate() {
                begins += pause;
                events.push((unit(begins), true, index));
                events.push((unit(begins + units), false, index));
            }
            // Of what ends at a time in the order in which it is recorded; those that begin then go by that, too.
            events.sort_unstable();
            let (breaker, recorder) = (Breaker::new(), History::new(400));
            let mut permits: Vec<_> = attempts.iter().map(|_| None).collect();
            let mut real = Replayed::default();
            for (at, is_begin, index) in events {
                if is_begin {
                    permits[index] = breaker.admit(at, LEASE).ok().map(|admission| (admission.permit, at));
                    continue;
                }
                let Some((permit, began)) = permits[index].take() else { continue };
                let (_, units, is_good, head) = attempts[index];
                let outcome = if is_good { Outcome::Success } else { Outcome::Failure(Fault::Reset) };
                let heard = Heard { outcome, latency: head.map(|head| lasts(head.min(units))) };
                recorder.record(heard, began, at);
                real.samples += 1;
                real.failures += u64::from(!is_good);
                let change = breaker.record(permit, heard, at, &policy, NO_JITTER);
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
            kinds in prop::collection::vec((0..60_000_u64, 0..3_u8, 0..2_000_u64, 0..9_000_u64), 0..400),
        ) {
            let kind = |number| [Kind::Success, Kind::Failure, Kind::Overloaded][usize::from(number)];
            let mut all: Vec<_> = kinds
                .into_iter()
                .map(|(millis, number, latency, lasted)| Recorded {
                    began: at(millis.saturating_sub(lasted)),
                    at: at(millis),
                    kind: kind(number),
                    latency: Some(Duration::from_millis(latency)),
                })
                .collect();
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
