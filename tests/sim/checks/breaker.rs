//! One breaker as it must be: from the outcomes that its replica's requests had, one after the other.

use std::time::Duration;

use data_plane::routing::{Change, Heard, Outcome, Reason, State, Tick, Withheld};
use gateway_proto::{ReplicaKey, policy};

use super::{Checked, claim, silence::Silence};

/// One breaker.
#[derive(Debug)]
pub(crate) struct Expected {
    /// Numbers breakers: a replica that went and came again has another.
    pub(super) number: u64,
    pub(super) incarnation: i64,
    /// Whether its replica takes requests.
    pub(super) is_ready: bool,
    pub(crate) state: State,
    /// Grows with every transition and every probe: results of an earlier one are void.
    pub(super) era: u64,
    row: u32,
    outcomes: Vec<(u64, bool)>,
    /// Responses, and whether each was slow.
    responses: Vec<(u64, bool)>,
    /// Since when a rule that the policy only observes is told again.
    silent_until: Tick,
    until: Tick,
    /// When the probe that is out counts as lost.
    pub(super) probe: Option<Tick>,
    successes: u32,
    /// Probes that disprove the ratio that opened it.
    disproof: u32,
    streak: u32,
    /// Whether the streak is known no more.
    is_uncertain: bool,
    open_for: Duration,
    healthy_since: Tick,
    pub(super) silence: Silence,
    /// When its replica gave a sign of life last.
    pub(super) heard_at: Tick,
}

impl Expected {
    /// A replica that nobody has judged yet.
    pub(super) fn closed(number: u64, incarnation: i64, now: Tick) -> Self {
        Self {
            number,
            incarnation,
            is_ready: false,
            state: State::Closed,
            era: 0,
            row: 0,
            outcomes: Vec::new(),
            responses: Vec::new(),
            silent_until: Tick::ORIGIN,
            until: now,
            probe: None,
            successes: 0,
            disproof: 0,
            streak: 0,
            is_uncertain: false,
            open_for: Duration::ZERO,
            healthy_since: Tick::ORIGIN,
            silence: Silence::since(now),
            heard_at: Tick::ORIGIN,
        }
    }

    /// One that has left before, and was out then or has been out lately, goes on so.
    pub(super) fn following(self, past: &Self, now: Tick) -> Self {
        let is_out = matches!(past.state, State::Open | State::HalfOpen);
        if !is_out && past.streak == 0 && !past.is_uncertain {
            return self;
        }
        let Self { streak, is_uncertain, open_for, .. } = *past;
        let state = if is_out { State::Open } else { State::Closed };
        Self { state, streak, is_uncertain, open_for, until: now, healthy_since: now, ..self }
    }

    /// A probe is on its way, and counts as lost from `lost` on.
    pub(super) fn probe_sent(&mut self, lost: Tick) {
        self.state = State::HalfOpen;
        self.probe = Some(lost);
        self.era += 1;
    }

    /// Whether a request that came now would be its probe.
    pub(crate) fn is_due(&self, now: Tick) -> bool {
        match self.state {
            State::Closed | State::ForcedClosed | State::ForcedOpen => false,
            State::Open => now >= self.until,
            State::HalfOpen => self.probe.is_none_or(|lost| now >= lost),
        }
    }

    /// Whether its first probe is left to requests that may be sent twice.
    pub(crate) fn spares(&self, now: Tick, policy: &policy::Breaker) -> bool {
        let due = match self.state {
            State::HalfOpen if self.successes > 0 => return false,
            State::Open | State::HalfOpen => self.probe.unwrap_or(self.until),
            State::Closed | State::ForcedClosed | State::ForcedOpen => return false,
        };
        now < due.plus(policy.base_open / 4)
    }

    /// Its next probe is due at `until`, which may be sooner than it said when it opened, but only while nobody of its service
    /// lets requests through; and then it is due soon.
    pub(super) fn probes_are_hastened_where_nobody_is_left(
        &mut self,
        key: &ReplicaKey,
        until: Tick,
        now: Tick,
        policy: &policy::Breaker,
        anybody: Option<bool>,
    ) -> Checked {
        if self.state != State::Open {
            return Ok(());
        }
        let longest = policy.base_open;
        let is_soon = anybody != Some(false) || until <= now.plus(longest);
        let may_be = until == self.until || until < self.until && anybody != Some(true);
        if until < self.until {
            self.until = until;
        }
        claim("probes_are_hastened_where_nobody_is_left", is_soon && may_be, || {
            format!("{key} is due at {until:?}, anybody there: {anybody:?}: {self:?}")
        })
    }

    /// A new process has taken the place of the one that was judged.
    pub(super) fn start_over(&mut self, now: Tick) {
        self.era += 1;
        (self.row, self.successes, self.probe) = (0, 0, None);
        self.outcomes.clear();
        self.responses.clear();
        self.silence = Silence::since(now);
        if matches!(self.state, State::Open | State::HalfOpen) {
            self.until = now;
        }
    }

    /// While a breaker is open, nobody is sent to its replica; after its time, and while it is half-open, probes only.
    pub(super) fn an_open_breaker_lets_probes_pass_only(
        &self,
        key: &ReplicaKey,
        probe: bool,
        now: Tick,
    ) -> Checked {
        let may = match self.state {
            State::Closed | State::ForcedClosed => !probe,
            State::ForcedOpen => false,
            State::Open => probe && now >= self.until,
            State::HalfOpen => probe,
        };
        claim("an_open_breaker_lets_probes_pass_only", may, || format!("{key}, probe {probe}: {self:?}"))
    }

    /// A half-open breaker has one probe out, unless its time to answer is over.
    pub(super) fn one_probe_at_a_time(&self, key: &ReplicaKey, probe: bool, now: Tick) -> Checked {
        let free = self.state != State::HalfOpen || self.probe.is_none_or(|lost| now >= lost);
        claim("one_probe_at_a_time", free || !probe, || format!("{key}: {self:?}"))
    }

    /// Whether a rule that is withheld is told now; if so, not again for a window.
    pub(super) fn tells_withheld(&mut self, now: Tick, window: Duration) -> bool {
        let is_told = now >= self.silent_until;
        if is_told {
            self.silent_until = now.plus(window);
        }
        is_told
    }

    /// Counts an outcome while closed; the rule that holds then, if one does.
    pub(super) fn count(&mut self, heard: Heard, now: Tick, policy: &policy::Breaker) -> Option<Reason> {
        let Heard { outcome, latency } = heard;
        if outcome == Outcome::Neutral {
            return None;
        }
        let has_failed = outcome != Outcome::Success;
        self.outcomes.push((now.as_nanos(), has_failed));
        if latency.is_some() && !policy.slow_threshold.is_zero() && outcome != Outcome::Overloaded {
            self.responses.push((now.as_nanos(), is_slow(heard, policy)));
        }
        match outcome {
            Outcome::Success => {
                self.row = 0;
                if self.streak > 0 && now.since(self.healthy_since) >= self.open_for {
                    self.streak -= 1;
                    self.healthy_since = now;
                }
            }
            Outcome::Failure(_) => self.row += 1,
            Outcome::Overloaded | Outcome::Neutral => {}
        }
        if has_failed {
            self.healthy_since = self.healthy_since.max(now);
        }
        let threshold = policy.consecutive_failure_count;
        if let Outcome::Failure(fault) = outcome
            && self.row >= threshold
        {
            return Some(Reason::ConsecutiveFailures { count: self.row, threshold, fault });
        }
        let holds = |(total, marked): (u32, u32), threshold: f64| {
            total >= policy.min_request_count && f64::from(marked) >= threshold * f64::from(total)
        };
        let threshold = policy.failure_ratio;
        let failures = within(&mut self.outcomes, now, policy.window);
        if has_failed && holds(failures, threshold) {
            return Some(Reason::FailureRatio { failed: failures.1, total: failures.0, threshold });
        }
        let (threshold, limit) = (policy.slow_ratio, policy.slow_threshold);
        let responses = within(&mut self.responses, now, policy.window);
        (is_slow(heard, policy) && holds(responses, threshold)).then_some(Reason::SlowRatio {
            slow: responses.1,
            total: responses.0,
            threshold,
            limit,
        })
    }

    /// The probe is back.
    pub(super) fn probe_ended(
        &mut self,
        heard: Heard,
        now: Tick,
        policy: &policy::Breaker,
    ) -> Option<Reason> {
        self.probe = None;
        let limit = policy.slow_threshold;
        match heard.outcome {
            Outcome::Neutral => {
                self.era += 1;
                self.until = now;
                None
            }
            Outcome::Failure(fault) => Some(Reason::ProbeFailed { fault: Some(fault) }),
            Outcome::Overloaded => Some(Reason::ProbeFailed { fault: None }),
            Outcome::Success if is_slow(heard, policy) => {
                Some(Reason::ProbeSlow { latency: heard.latency.unwrap_or_default(), limit })
            }
            Outcome::Success => {
                self.successes += 1;
                let target = self.disproof.max(policy.half_open_success_count.into());
                let enough = self.successes >= target;
                enough.then_some(Reason::ProbesSucceeded { count: self.successes })
            }
        }
    }

    /// A breaker opens, closes and stays by its rules and their numbers, and in no other way.
    pub(super) fn a_breaker_changes_by_its_rules_only(
        &self,
        key: &ReplicaKey,
        heard: Heard,
        expected: Option<(Reason, Option<Withheld>)>,
        change: Option<Change>,
    ) -> Checked {
        let told = change.map(|change| (change.reason, change.withheld));
        claim("a_breaker_changes_by_its_rules_only", told == expected, || {
            format!("{key} after {heard:?}: {told:?} instead of {expected:?}, {self:?}")
        })
    }

    pub(super) fn take(
        &mut self,
        key: &ReplicaKey,
        change: Change,
        now: Tick,
        policy: &policy::Breaker,
        somebody: Option<bool>,
    ) -> Checked {
        let fits = change.from == self.state;
        claim("every_transition_is_told", fits, || format!("{key} was {:?}: {change:?}", self.state))?;
        // A probe that fails keeps nobody out where the policy only observes.
        if change.withheld.is_some() && self.state != State::HalfOpen {
            let stays = change.to == self.state;
            return claim("what_is_withheld_changes_nothing", stays, || format!("{key}: {change:?}"));
        }
        self.era += 1;
        (self.state, self.row, self.successes, self.probe) = (change.to, 0, 0, None);
        match change.reason {
            Reason::FailureRatio { threshold, .. } | Reason::SlowRatio { threshold, .. } => {
                let is_likely = |probes: &u32| (1.0 - threshold).powf((*probes).into()) > 0.1;
                self.disproof = (0..policy.min_request_count.min(100)).take_while(is_likely).count() as u32;
            }
            Reason::ProbeDue | Reason::ProbeLost | Reason::ProbeFailed { .. } | Reason::ProbeSlow { .. } => {}
            _ => self.disproof = 0,
        }
        self.outcomes.clear();
        self.responses.clear();
        if matches!(change.to, State::Open | State::Closed) {
            self.silence = Silence::since(now);
        }
        if change.to == State::Open {
            self.open_times_double_up_to_the_longest(key, change, now, policy, somebody)?;
        } else {
            self.healthy_since = now;
            self.until = Tick::ORIGIN;
        }
        Ok(())
    }

    /// Open times double with each opening up to the longest, give or take a fifth, and shrink only while requests
    /// succeed; while a service has nobody, they are the first ones.
    fn open_times_double_up_to_the_longest(
        &mut self,
        key: &ReplicaKey,
        change: Change,
        now: Tick,
        policy: &policy::Breaker,
        somebody: Option<bool>,
    ) -> Checked {
        self.until = change.until.unwrap_or(now);
        self.open_for = self.until.since(now);
        let doubled = policy.base_open * 2_u32.pow(self.streak);
        let is_near = |longest: Duration| {
            let middle = doubled.min(longest);
            (middle.mul_f64(0.799)..=middle.mul_f64(1.201)).contains(&self.open_for)
        };
        // From then on nobody knows how often it has doubled.
        self.is_uncertain |= somebody.is_none();
        let is_first = is_near(policy.base_open) && somebody != Some(true);
        let is_doubled = is_near(policy.max_open) && somebody != Some(false);
        let longest = if is_doubled { policy.max_open } else { policy.base_open };
        let due = doubled.min(longest);
        self.streak += u32::from(doubled < longest);
        claim("open_times_double_up_to_the_longest", is_first || is_doubled || self.is_uncertain, || {
            format!(
                "{key} opens for {:?}, {due:?} are due, somebody is there: {somebody:?}: {change:?}",
                self.open_for
            )
        })
    }
}

/// Whether a response is slow. Who refuses for lack of capacity is neither slow nor fast.
fn is_slow(heard: Heard, policy: &policy::Breaker) -> bool {
    let limit = policy.slow_threshold;
    let counts = !limit.is_zero() && heard.outcome != Outcome::Overloaded;
    counts && heard.latency.is_some_and(|latency| latency >= limit)
}

/// How many, and how many marked ones, the running tenth of the window and the nine before hold.
fn within(list: &mut Vec<(u64, bool)>, now: Tick, window: Duration) -> (u32, u32) {
    let tenth = u64::try_from(window.as_nanos() / 10).unwrap_or(u64::MAX);
    list.retain(|(at, _)| at / tenth + 10 > now.as_nanos() / tenth);
    let marked = list.iter().filter(|(_, marked)| *marked).count();
    let number = |count| u32::try_from(count).unwrap_or(u32::MAX);
    (number(list.len()), number(marked))
}
