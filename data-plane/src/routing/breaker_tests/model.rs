//! The breaker against a model of it that is too simple to be wrong, on random histories.
//!
//! The model has one owner, keeps every outcome in a list, and knows nothing of words, buckets or races.

use std::time::Duration;

use gateway_proto::policy;
use proptest::prelude::*;

use super::{Breaker, Change, ForcedState, Heard, Permit, Rule, State, Withheld};
use crate::routing::{Fault, Outcome, Tick, Totals};

const LEASE_MS: u64 = 3_000;
const NO_JITTER: f64 = 0.5;

/// Responses of 200 ms are slow, if any are.
fn policy(is_slow_counted: bool, observe_only: bool) -> policy::Breaker {
    policy::Breaker {
        consecutive_failure_count: 3,
        failure_ratio: 0.4,
        window: Duration::from_secs(1),
        min_request_count: 5,
        base_open: Duration::from_millis(500),
        max_open: Duration::from_secs(4),
        half_open_success_count: 2,
        slow_threshold: Duration::from_millis(if is_slow_counted { 200 } else { 0 }),
        slow_ratio: 0.6,
        observe_only,
        ..policy::Breaker::default()
    }
}

/// No time is late enough to ask again.
const NEVER: u64 = u64::MAX;

fn to(change: Change) -> State {
    change.to
}

fn at(millis: u64) -> Tick {
    Tick::from_nanos(millis * 1_000_000)
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Closed,
    Open { until: u64 },
    HalfOpen { probe: Option<(usize, u64)>, successes: u32 },
    ForcedOpen,
    ForcedClosed,
}

/// Everything in milliseconds. A call is known by its number; `era` says since when results count.
struct Model {
    phase: Phase,
    era: usize,
    calls: usize,
    row: u32,
    outcomes: Vec<(u64, bool)>,
    slow: Vec<(u64, bool)>,
    /// Since when a rule that is withheld is told again.
    silent_until: u64,
    is_slow_counted: bool,
    observe_only: bool,
    streak: u32,
    /// Probes that must succeed: two, and more after a ratio.
    probe_target: u32,
    open_for: u64,
    healthy_since: u64,
    trips: u64,
}

impl Model {
    fn new(is_slow_counted: bool, observe_only: bool) -> Self {
        Self {
            phase: Phase::Closed,
            era: 0,
            calls: 0,
            row: 0,
            outcomes: Vec::new(),
            slow: Vec::new(),
            silent_until: 0,
            is_slow_counted,
            observe_only,
            streak: 0,
            probe_target: 2,
            open_for: 0,
            healthy_since: 0,
            trips: 0,
        }
    }

    /// The call's number and whether it is a probe, or when to ask again.
    fn admit(&mut self, now: u64) -> Result<(usize, bool), u64> {
        let successes = match self.phase {
            Phase::Closed | Phase::ForcedClosed => return Ok((self.next_call(), false)),
            Phase::ForcedOpen => return Err(NEVER),
            Phase::Open { until } if now < until => return Err(until),
            Phase::Open { .. } => 0,
            Phase::HalfOpen { probe: Some((_, lost_at)), .. } if now < lost_at => return Err(now),
            Phase::HalfOpen { successes, .. } => successes,
        };
        let call = self.next_call();
        self.phase = Phase::HalfOpen { probe: Some((call, now + LEASE_MS)), successes };
        Ok((call, true))
    }

    fn next_call(&mut self) -> usize {
        self.calls += 1;
        self.calls
    }

    /// The state it changed to, by which rule, and what withheld that.
    fn record(&mut self, call: usize, heard: Heard, may_open: bool, now: u64) -> Option<Told> {
        let Heard { outcome, latency } = heard;
        let is_slow =
            self.is_slow_counted && latency.is_some_and(|latency| latency >= Duration::from_millis(200));
        match self.phase {
            Phase::Closed | Phase::ForcedClosed if call > self.era => {
                let rule = self.count(outcome, latency.map(|_| is_slow), now)?;
                match (self.phase, self.observe_only) {
                    (Phase::ForcedClosed, _) => None,
                    (_, true) => self.withhold(rule, Withheld::ObserveOnly, now),
                    (_, false) if !may_open => self.withhold(rule, Withheld::MaxOpenRatio, now),
                    (_, false) => self.open(now, rule),
                }
            }
            Phase::HalfOpen { probe: Some((probe, _)), successes } if probe == call => {
                let successes = successes + u32::from(outcome == Outcome::Success);
                match outcome {
                    Outcome::Failure(_) | Outcome::Overloaded => return self.fail_probe(now),
                    Outcome::Success if is_slow => return self.fail_probe(now),
                    Outcome::Success if successes == self.probe_target => {
                        self.forget(Phase::Closed);
                        self.healthy_since = now;
                        return Some((State::Closed, None, None));
                    }
                    _ => self.phase = Phase::HalfOpen { probe: None, successes },
                }
                None
            }
            _ => None,
        }
    }

    /// Counts an outcome, and says which rule holds then.
    fn count(&mut self, outcome: Outcome, is_slow: Option<bool>, now: u64) -> Option<Rule> {
        let is_slow = is_slow.filter(|_| self.is_slow_counted && outcome != Outcome::Overloaded);
        match outcome {
            // It is known to be slow, and nothing else.
            Outcome::Neutral if is_slow == Some(true) => {}
            Outcome::Neutral => return None,
            Outcome::Success => {
                self.row = 0;
                if self.streak > 0 && now - self.healthy_since >= self.open_for {
                    self.streak -= 1;
                    self.healthy_since = now;
                }
            }
            Outcome::Failure(_) => self.row += 1,
            Outcome::Overloaded => {}
        }
        let failed = !matches!(outcome, Outcome::Success | Outcome::Neutral);
        if outcome != Outcome::Neutral {
            self.outcomes.push((now, failed));
        }
        self.slow.extend(is_slow.map(|is_slow| (now, is_slow)));
        if failed {
            self.healthy_since = now;
        }
        let (failures, slow) = (within(&self.outcomes, now), within(&self.slow, now));
        match outcome {
            Outcome::Failure(_) if self.row >= 3 => Some(Rule::ConsecutiveFailures),
            _ if failed && failures.total >= 5 && failures.marked * 10 >= failures.total * 4 => {
                Some(Rule::FailureRatio)
            }
            _ if is_slow == Some(true) && slow.total >= 5 && slow.marked * 10 >= slow.total * 6 => {
                Some(Rule::SlowRatio)
            }
            _ => None,
        }
    }

    fn withhold(&mut self, rule: Rule, by: Withheld, now: u64) -> Option<Told> {
        if now < self.silent_until {
            return None;
        }
        self.silent_until = now + 1_000;
        Some((State::Closed, Some(rule), Some(by)))
    }

    fn open(&mut self, now: u64, rule: Rule) -> Option<Told> {
        self.open_for = (500 << self.streak).min(4_000);
        self.streak += u32::from(self.open_for < 4_000);
        self.trips += 1;
        self.probe_target = match rule {
            // Of those who fail two of five, 0.6⁵ = 0.08 have five successes in a row, and 0.6⁴ = 0.13 have four.
            Rule::FailureRatio => 5,
            // 0.4³ = 0.06, 0.4² = 0.16.
            Rule::SlowRatio => 3,
            Rule::ConsecutiveFailures | Rule::PeerLatency => 2,
            Rule::ProbeFailed => self.probe_target,
        };
        self.forget(Phase::Open { until: now + self.open_for });
        Some((State::Open, Some(rule), None))
    }

    /// Where rules are only observed, a probe that fails keeps nobody out.
    fn fail_probe(&mut self, now: u64) -> Option<Told> {
        if !self.observe_only {
            return self.open(now, Rule::ProbeFailed);
        }
        self.forget(Phase::Closed);
        self.healthy_since = now;
        Some((State::Closed, Some(Rule::ProbeFailed), Some(Withheld::ObserveOnly)))
    }

    fn forget(&mut self, phase: Phase) {
        self.phase = phase;
        self.era = self.calls;
        self.row = 0;
        self.outcomes.clear();
        self.slow.clear();
    }

    fn force(&mut self, to: ForcedState, now: u64) -> Option<State> {
        let (phase, state) = match to {
            ForcedState::Open => (Phase::ForcedOpen, State::ForcedOpen),
            ForcedState::Closed => (Phase::ForcedClosed, State::ForcedClosed),
        };
        match (self.state().0, state) {
            (before, after) if before == after => return None,
            (State::Closed, State::ForcedClosed) => self.keep(phase),
            _ => self.begin_anew(phase, now),
        }
        Some(state)
    }

    fn release(&mut self, now: u64) -> Option<State> {
        match self.phase {
            Phase::ForcedOpen => self.begin_anew(Phase::HalfOpen { probe: None, successes: 0 }, now),
            Phase::ForcedClosed => self.keep(Phase::Closed),
            _ => return None,
        }
        Some(self.state().0)
    }

    fn reset(&mut self, now: u64) -> State {
        self.streak = 0;
        match self.phase {
            Phase::Closed | Phase::ForcedClosed => self.forget(self.phase),
            Phase::ForcedOpen => self.begin_anew(Phase::ForcedOpen, now),
            Phase::Open { .. } | Phase::HalfOpen { .. } => self.begin_anew(Phase::Closed, now),
        }
        self.state().0
    }

    fn begin_anew(&mut self, phase: Phase, now: u64) {
        self.forget(phase);
        self.probe_target = 2;
        self.healthy_since = now;
    }

    /// Another phase with the counts of before; calls that are under way count no more.
    fn keep(&mut self, phase: Phase) {
        self.phase = phase;
        self.era = self.calls;
    }

    fn hasten(&mut self, due: u64) -> bool {
        match &mut self.phase {
            Phase::Open { until } if *until > due => *until = due,
            _ => return false,
        }
        true
    }

    fn reprobe(&mut self, now: u64) {
        let phase = match self.phase {
            Phase::Closed => Phase::Closed,
            Phase::Open { .. } => Phase::Open { until: now },
            Phase::HalfOpen { .. } => Phase::HalfOpen { probe: None, successes: 0 },
            forced => forced,
        };
        self.forget(phase);
    }

    fn state(&self) -> (State, Option<u64>, u32) {
        match self.phase {
            Phase::Closed => (State::Closed, None, 0),
            Phase::Open { until } => (State::Open, Some(until), 0),
            Phase::HalfOpen { probe, successes } => (State::HalfOpen, probe.map(|probe| probe.1), successes),
            Phase::ForcedOpen => (State::ForcedOpen, None, 0),
            Phase::ForcedClosed => (State::ForcedClosed, None, 0),
        }
    }
}

/// What the running tenth of the window and the nine before hold.
fn within(list: &[(u64, bool)], now: u64) -> Totals {
    let live = list.iter().filter(|(then, _)| then / 100 + 10 > now / 100);
    live.fold(Totals::default(), |totals, (_, marked)| Totals {
        total: totals.total + 1,
        marked: totals.marked + u32::from(*marked),
    })
}

/// The state after a step, the rule, and what withheld it.
type Told = (State, Option<Rule>, Option<Withheld>);

#[derive(Debug, Clone)]
enum Step {
    Admit,
    /// The result of one of the calls that are under way, not always of the oldest.
    Record(prop::sample::Index, Heard, bool),
    Pass(u64),
    Reprobe,
    /// Its next probe is due in so many milliseconds at the latest.
    Hasten(u64),
    Force(ForcedState),
    Release,
    Reset,
}

fn step() -> impl Strategy<Value = Step> {
    let outcome = prop_oneof![
        4 => Just(Outcome::Success),
        4 => Just(Outcome::Failure(Fault::Reset)),
        1 => Just(Outcome::Overloaded),
        1 => Just(Outcome::Neutral),
    ];
    let latency = prop::option::of(prop_oneof![Just(10), Just(199), Just(200), Just(900)]);
    let heard = (outcome, latency)
        .prop_map(|(outcome, latency)| Heard { outcome, latency: latency.map(Duration::from_millis) });
    prop_oneof![
        8 => Just(Step::Admit),
        8 => (any::<prop::sample::Index>(), heard, prop::bool::weighted(0.8))
            .prop_map(|(index, heard, may_open)| Step::Record(index, heard, may_open)),
        3 => (0..150_u64).prop_map(Step::Pass),
        2 => (300..5_000_u64).prop_map(Step::Pass),
        1 => Just(Step::Reprobe),
        1 => (0..600_u64).prop_map(Step::Hasten),
        1 => prop_oneof![
            Just(Step::Force(ForcedState::Open)),
            Just(Step::Force(ForcedState::Closed)),
            Just(Step::Release),
            Just(Step::Release),
            Just(Step::Reset),
        ],
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_breaker_does_what_its_model_does(
        steps in prop::collection::vec(step(), 1..200),
        is_slow_counted in any::<bool>(),
        observe_only in prop::bool::weighted(0.1),
    ) {
        let policy = policy(is_slow_counted, observe_only);
        let (breaker, mut model) = (Breaker::new(), Model::new(is_slow_counted, observe_only));
        let mut under_way: Vec<(Permit, usize)> = Vec::new();
        let mut now = 0;
        let mut generation = 0;
        for step in steps {
            match step {
                Step::Admit => {
                    let was = model.state().0;
                    match (breaker.admit(at(now), Duration::from_millis(LEASE_MS)), model.admit(now)) {
                        (Ok(admission), Ok((call, probe))) => {
                            prop_assert_eq!(admission.permit.is_probe(), probe);
                            if was == State::Open {
                                let change = admission.change.expect("the transition is told");
                                prop_assert_eq!((change.from, change.to), (was, State::HalfOpen));
                            }
                            under_way.push((admission.permit, call));
                        }
                        (Err(rejected), Err(NEVER)) => prop_assert_eq!(rejected.retry_at, Tick::NEVER),
                        (Err(rejected), Err(retry_at)) => prop_assert_eq!(rejected.retry_at, at(retry_at)),
                        (real, wanted) => prop_assert!(false, "{:?}, not {:?}", real, wanted),
                    }
                }
                Step::Record(index, heard, may_open) if !under_way.is_empty() => {
                    let (permit, call) = under_way.swap_remove(index.index(under_way.len()));
                    let change = breaker.record_if(permit, heard, at(now), &policy, NO_JITTER, || may_open);
                    let wanted = model.record(call, heard, may_open, now);
                    prop_assert_eq!(change.map(|change| (change.to, change.rule(), change.withheld)), wanted);
                    let open = change.filter(|change| change.to == State::Open);
                    prop_assert_eq!(open.and_then(|change| change.until), open.and(model.state().1.map(at)));
                }
                Step::Record(..) => {}
                Step::Pass(millis) => now += millis,
                Step::Reprobe => {
                    breaker.reprobe(at(now));
                    model.reprobe(now);
                }
                Step::Hasten(millis) => {
                    let due = now + millis;
                    prop_assert_eq!(breaker.hasten(at(due)), model.hasten(due));
                }
                Step::Force(state) => {
                    let change = breaker.force(state, at(now));
                    prop_assert_eq!(change.map(to), model.force(state, now));
                }
                Step::Release => prop_assert_eq!(breaker.release(at(now)).map(to), model.release(now)),
                Step::Reset => prop_assert_eq!(to(breaker.reset(at(now))), model.reset(now)),
            }
            let view = breaker.view(at(now), &policy);
            prop_assert_eq!((view.state, view.until, view.probe_successes), {
                let (state, until, successes) = model.state();
                (state, until.map(at), successes)
            });
            let counted = (model.row, within(&model.outcomes, now), within(&model.slow, now));
            prop_assert_eq!((view.consecutive, view.totals, view.slow), counted);
            prop_assert_eq!((view.trip_count, view.streak), (model.trips, model.streak));
            prop_assert!(view.generation >= generation, "generations only grow");
            generation = view.generation;
        }
    }
}
