//! The breaker against a model of it that is too simple to be wrong, on random histories.
//!
//! The model has one owner, keeps every outcome in a list, and knows nothing of words, buckets or races.

use std::time::Duration;

use gateway_proto::policy;
use proptest::prelude::*;

use super::{Breaker, Change, ForcedState, Permit, Rule, State};
use crate::routing::{Fault, Outcome, Tick, Totals};

const LEASE_MS: u64 = 3_000;
const NO_JITTER: f64 = 0.5;

fn policy() -> policy::Breaker {
    policy::Breaker {
        consecutive_failure_count: 3,
        failure_ratio: 0.4,
        window: Duration::from_secs(1),
        min_request_count: 5,
        base_open: Duration::from_millis(500),
        max_open: Duration::from_secs(4),
        half_open_success_count: 2,
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
    streak: u32,
    open_for: u64,
    healthy_since: u64,
    trips: u64,
}

impl Model {
    fn new() -> Self {
        let (phase, outcomes) = (Phase::Closed, Vec::new());
        Self { phase, era: 0, calls: 0, row: 0, outcomes, streak: 0, open_for: 0, healthy_since: 0, trips: 0 }
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

    /// The state it changed to, and by which rule.
    fn record(&mut self, call: usize, outcome: Outcome, now: u64) -> Option<(State, Option<Rule>)> {
        match self.phase {
            Phase::Closed | Phase::ForcedClosed if call > self.era => self.record_closed(outcome, now),
            Phase::HalfOpen { probe: Some((probe, _)), successes } if probe == call => {
                let successes = successes + u32::from(outcome == Outcome::Success);
                match outcome {
                    Outcome::Failure(_) | Outcome::Overloaded => return self.open(now, Rule::ProbeFailed),
                    Outcome::Success if successes == 2 => {
                        self.forget(Phase::Closed);
                        self.healthy_since = now;
                        return Some((State::Closed, None));
                    }
                    _ => self.phase = Phase::HalfOpen { probe: None, successes },
                }
                None
            }
            _ => None,
        }
    }

    fn record_closed(&mut self, outcome: Outcome, now: u64) -> Option<(State, Option<Rule>)> {
        match outcome {
            Outcome::Neutral => return None,
            Outcome::Success => {
                self.row = 0;
                self.outcomes.push((now, false));
                if self.streak > 0 && now - self.healthy_since >= self.open_for {
                    self.streak -= 1;
                    self.healthy_since = now;
                }
                return None;
            }
            Outcome::Failure(_) => self.row += 1,
            Outcome::Overloaded => {}
        }
        self.outcomes.push((now, true));
        self.healthy_since = now;
        let Totals { total, marked } = self.totals(now);
        match outcome {
            _ if matches!(self.phase, Phase::ForcedClosed) => None,
            Outcome::Failure(_) if self.row >= 3 => self.open(now, Rule::ConsecutiveFailures),
            _ if total >= 5 && marked * 10 >= total * 4 => self.open(now, Rule::FailureRatio),
            _ => None,
        }
    }

    fn open(&mut self, now: u64, rule: Rule) -> Option<(State, Option<Rule>)> {
        self.open_for = (500 << self.streak).min(4_000);
        self.streak += u32::from(self.open_for < 4_000);
        self.trips += 1;
        self.forget(Phase::Open { until: now + self.open_for });
        Some((State::Open, Some(rule)))
    }

    fn forget(&mut self, phase: Phase) {
        self.phase = phase;
        self.era = self.calls;
        self.row = 0;
        self.outcomes.clear();
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
        self.healthy_since = now;
    }

    /// Another phase with the counts of before; calls that are under way count no more.
    fn keep(&mut self, phase: Phase) {
        self.phase = phase;
        self.era = self.calls;
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

    /// Outcomes of the running tenth of the window and of the nine before.
    fn totals(&self, now: u64) -> Totals {
        let live = self.outcomes.iter().filter(|(then, _)| then / 100 + 10 > now / 100);
        live.fold(Totals::default(), |totals, (_, failed)| Totals {
            total: totals.total + 1,
            marked: totals.marked + u32::from(*failed),
        })
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

#[derive(Debug, Clone)]
enum Step {
    Admit,
    /// The result of one of the calls that are under way, not always of the oldest.
    Record(prop::sample::Index, Outcome),
    Pass(u64),
    Reprobe,
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
    prop_oneof![
        8 => Just(Step::Admit),
        8 => (any::<prop::sample::Index>(), outcome).prop_map(|(index, outcome)| Step::Record(index, outcome)),
        3 => (0..150_u64).prop_map(Step::Pass),
        2 => (300..5_000_u64).prop_map(Step::Pass),
        1 => Just(Step::Reprobe),
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
    fn the_breaker_does_what_its_model_does(steps in prop::collection::vec(step(), 1..200)) {
        let (breaker, mut model) = (Breaker::new(), Model::new());
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
                Step::Record(index, outcome) if !under_way.is_empty() => {
                    let (permit, call) = under_way.swap_remove(index.index(under_way.len()));
                    let change = breaker.record(permit, outcome, at(now), &policy(), NO_JITTER);
                    let wanted = model.record(call, outcome, now);
                    prop_assert_eq!(change.map(|change| (change.to, change.rule())), wanted);
                    let open = change.filter(|change| change.to == State::Open);
                    prop_assert_eq!(open.and_then(|change| change.until), open.and(model.state().1.map(at)));
                }
                Step::Record(..) => {}
                Step::Pass(millis) => now += millis,
                Step::Reprobe => {
                    breaker.reprobe(at(now));
                    model.reprobe(now);
                }
                Step::Force(state) => {
                    let change = breaker.force(state, at(now));
                    prop_assert_eq!(change.map(to), model.force(state, now));
                }
                Step::Release => prop_assert_eq!(breaker.release(at(now)).map(to), model.release(now)),
                Step::Reset => prop_assert_eq!(to(breaker.reset(at(now))), model.reset(now)),
            }
            let view = breaker.view(at(now), &policy());
            prop_assert_eq!((view.state, view.until, view.probe_successes), {
                let (state, until, successes) = model.state();
                (state, until.map(at), successes)
            });
            prop_assert_eq!((view.consecutive, view.totals), (model.row, model.totals(now)));
            prop_assert_eq!((view.trip_count, view.streak), (model.trips, model.streak));
            prop_assert!(view.generation >= generation, "generations only grow");
            generation = view.generation;
        }
    }
}
