//! What one data plane makes of the replica, and what its traffic says.

use std::time::{Duration, SystemTime};

use super::{
    Facts, Word,
    span::{ago, left, said, span},
};
use crate::{Health, Mode, policy, time::system_time, v1};

/// Why a replica is asked that the registry has no more.
pub(super) const HELD: &str =
    "the registry dropped it together with many others, and the guard against mass removal holds it";
/// What ends that.
pub(super) const LET_GO: &str = "the registry has it again, others have taken its place for a minute, the guard's hold time is over, or an operator \
     releases it";

/// Whether the registry lets data planes ask a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registered {
    /// It has no such replica.
    Not,
    /// It does.
    Serving,
    /// It drains, or has drained.
    Draining {
        /// By its owner's word.
        by_owner: bool,
    },
    /// It has not said yet that it is ready.
    Starting,
    /// It said that it is not.
    Unhealthy,
    /// It does, though its lease lapsed.
    Lost,
}

impl Registered {
    pub(super) fn of(replica: Option<&v1::Replica>) -> Self {
        let Some(replica) = replica else { return Self::Not };
        if Mode::parse(replica.mode).unwrap_or_default() != Mode::Serving {
            return Self::Draining { by_owner: replica.drain.as_ref().is_some_and(|drain| drain.by_owner) };
        }
        match Health::parse(replica.health).ok().flatten() {
            Some(Health::Healthy | Health::Degraded) => Self::Serving,
            Some(Health::Lost) => Self::Lost,
            Some(Health::Unhealthy) => Self::Unhealthy,
            Some(Health::Starting) | None => Self::Starting,
        }
    }

    pub(super) fn lets_ask(self) -> bool {
        matches!(self, Self::Serving | Self::Lost)
    }
}

/// Why a replica stands by, and what ends that: its tier, or, of the best tier, that others are nearer.
pub(super) struct Waiting {
    pub(super) why: String,
    pub(super) until: &'static str,
}

impl Waiting {
    pub(super) fn of(facts: &Facts) -> Self {
        match facts.replica.as_ref().map_or(0, |replica| replica.priority) {
            0 => Self {
                why: "replicas that are nearer to the data plane take all requests".into(),
                until: "those that are nearer are out, or have failed the request",
            },
            priority if facts.balancing.overprovisioning_factor > 0.0 => Self {
                why: format!(
                    "with priority {priority} it is asked when too little of the better tiers is left, by \
                     balancing.overprovisioning_factor {}, or they have failed the request",
                    facts.balancing.overprovisioning_factor
                ),
                until: "too little of the better tiers is left, or they have failed the request",
            },
            priority => Self {
                why: format!(
                    "with priority {priority} it is asked when every better tier is out, or has failed the request"
                ),
                until: "every better tier is out, or has failed the request",
            },
        }
    }
}

/// Outcomes in its window from which on a data plane's word that a replica works is worth something: as many as failures
/// in a row would open the breaker, where that is no more than the ratio needs.
pub fn enough_outcomes(policy: &policy::Breaker) -> i64 {
    policy.consecutive_failure_count.min(policy.min_request_count).max(1).into()
}

pub(super) fn is_out(standing: v1::NodeStanding) -> bool {
    use v1::NodeStanding as Standing;
    matches!(standing, Standing::Rests | Standing::Probes | Standing::ForcedOpen | Standing::CheckedOut)
}

/// One data plane, explained.
pub(super) fn explain(facts: &Facts, registered: &Registered, word: Word) -> v1::NodeExplanation {
    let incarnation = facts.replica.as_ref().map_or(0, |replica| replica.incarnation);
    let row = word.breaker.filter(|row| row.incarnation >= incarnation);
    let held = word.held.filter(|_| matches!(registered, Registered::Not | Registered::Lost));
    let standing = standing(*registered, word.is_silent, held.is_some(), row.as_ref());
    let is_heard = standing != v1::NodeStanding::Silent;
    let evidence = row.as_ref().filter(|_| is_heard).map_or(v1::Evidence::None, |row| evidence(facts, row));
    let mut node = v1::NodeExplanation {
        node_id: word.node_id,
        standing: standing.into(),
        evidence: evidence.into(),
        node_state: word.state.into(),
        acked_revision: word.acked_revision,
        last_report_time: word.report_time,
        breaker: row,
        held_time: held.flatten(),
        control_plane: word.control_plane,
        left: word.left,
        ..Default::default()
    };
    (node.summary, node.until) = sentences(facts, &node);
    node
}

fn standing(
    registered: Registered,
    is_silent: bool,
    is_held: bool,
    row: Option<&v1::Breaker>,
) -> v1::NodeStanding {
    use v1::{BreakerState as State, NodeStanding as Standing};
    if is_silent {
        return Standing::Silent;
    }
    let Some(row) = row else {
        return if is_held { Standing::Holds } else { Standing::Untold };
    };
    if !registered.lets_ask() && !is_held {
        return Standing::HeldBack;
    }
    match row.state() {
        State::ForcedOpen => Standing::ForcedOpen,
        State::Open | State::HalfOpen if row.asked_regardless => Standing::AsksRegardless,
        State::Open => Standing::Rests,
        State::HalfOpen => Standing::Probes,
        State::Closed | State::ForcedClosed if row.asked_regardless => Standing::AsksRegardless,
        State::Closed | State::ForcedClosed if is_kept_out(row) => Standing::CheckedOut,
        State::Closed | State::ForcedClosed if row.stands_by => Standing::StandsBy,
        State::Closed | State::ForcedClosed if is_held => Standing::Holds,
        State::Closed | State::ForcedClosed => Standing::Asks,
        State::Unspecified => Standing::Untold,
    }
}

/// Whether active checks keep it out.
fn is_kept_out(row: &v1::Breaker) -> bool {
    row.health_check.as_ref().is_some_and(|check| check.keeps_out)
}

fn fails_checks(row: &v1::Breaker) -> bool {
    row.health_check.as_ref().is_some_and(|check| check.state() == v1::HealthCheckState::Failing)
}

/// Whether requests to this very registration opened its breaker, in the outage that it is in. Otherwise it has still to
/// show how it is.
pub(super) fn has_tripped(row: &v1::Breaker) -> bool {
    let is_of_predecessor = row
        .last_trip
        .as_ref()
        .is_some_and(|trip| trip.incarnation != 0 && trip.incarnation < row.incarnation);
    has_tripped_in_outage(row) && !is_of_predecessor
}

/// Whether requests, to this registration or to its predecessor, opened its breaker in the outage that it is in.
fn has_tripped_in_outage(row: &v1::Breaker) -> bool {
    row.last_trip.as_ref().is_some_and(|trip| {
        row.out_time.is_none_or(|out| {
            trip.trip_time.is_some_and(|at| (at.seconds, at.nanos) >= (out.seconds, out.nanos))
        })
    })
}

/// Why it is out, or asked although it should be: by its breaker, or by its checks.
pub(super) fn reason(row: &v1::Breaker) -> String {
    use v1::BreakerState as State;
    let is_open = !matches!(row.state(), State::Closed | State::ForcedClosed);
    if matches!(row.state(), State::Open | State::HalfOpen) && !has_tripped(row) {
        // What an operator hands back is half-open, or open where it is another registration by then, and has not opened by its
        // rules since it is out.
        let is_handed_back = row.state() == State::HalfOpen || row.out_time.is_some();
        let was_forced = is_handed_back && !has_tripped_in_outage(row);
        let before = if was_forced { "it was forced open" } else { "its predecessor failed" };
        return format!("{before}, and probes have still to show how it is");
    }
    match &row.health_check {
        Some(check) if !is_open && check.state() == v1::HealthCheckState::Failing => {
            format!("active checks fail: {}", check.last_failure)
        }
        Some(check) if !is_open && check.keeps_out => "no active check has passed yet".into(),
        _ => row.reason.clone(),
    }
}

/// Since when it is so.
pub(super) fn since(row: &v1::Breaker) -> Option<prost_types::Timestamp> {
    match &row.health_check {
        Some(check) if row.state() == v1::BreakerState::Closed && check.keeps_out => check.state_change_time,
        _ => row.out_time.or(row.state_change_time),
    }
}

/// The same, and how its last probe failed.
pub(super) fn reason_and_probe(now: SystemTime, row: &v1::Breaker) -> String {
    let reason = reason(row);
    let Some(probe) = row.last_failed_probe.as_ref().filter(|_| has_tripped(row)) else { return reason };
    let ago = ago(now, probe.trip_time).map(|ago| format!(" {ago} ago")).unwrap_or_default();
    let why = probe.reason.strip_prefix("probe failed: ").unwrap_or(&probe.reason);
    format!("{reason}; last probe{ago}: {why}")
}

/// Whether its own traffic, or its checks, show that the replica works.
fn evidence(facts: &Facts, row: &v1::Breaker) -> v1::Evidence {
    use v1::BreakerState as State;
    match row.state() {
        State::Open | State::HalfOpen if has_tripped(row) => v1::Evidence::Fails,
        State::Closed | State::ForcedClosed => {
            let policy = &facts.policy;
            let (total, failed) = (row.window_request_count, row.window_failure_count);
            let by_ratio = total >= policy.min_request_count.into()
                && failed as f64 >= policy.failure_ratio * total as f64;
            let in_a_row =
                i64::from(row.consecutive_failure_count) >= policy.consecutive_failure_count.into();
            if by_ratio || in_a_row || was_withheld(facts, row) || fails_checks(row) {
                v1::Evidence::Fails
            } else if total >= enough_outcomes(policy) {
                v1::Evidence::Works
            } else {
                v1::Evidence::None
            }
        }
        State::Open | State::HalfOpen | State::ForcedOpen | State::Unspecified => v1::Evidence::None,
    }
}

/// Whether a rule held within the window. It is told at most once in one, so two windows are looked at.
fn was_withheld(facts: &Facts, row: &v1::Breaker) -> bool {
    let at = row.last_withheld_trip.as_ref().and_then(|trip| trip.trip_time);
    let age = at.and_then(|at| facts.now.duration_since(system_time(at)).ok());
    age.is_some_and(|age| age < 2 * facts.policy.window)
}

/// What it does and why, and what ends that.
fn sentences(facts: &Facts, node: &v1::NodeExplanation) -> (String, String) {
    use v1::NodeStanding as Standing;
    let now = facts.now;
    let row = node.breaker.clone().unwrap_or_default();
    match node.standing() {
        Standing::Rests => (format!("open: {}", reason_and_probe(now, &row)), until_closed(facts, &row)),
        Standing::Probes => {
            (format!("half-open: {}", reason_and_probe(now, &row)), until_closed(facts, &row))
        }
        Standing::AsksRegardless => (
            format!("asked although it should be out ({}): {}", reason(&row), why_regardless(facts, &row)),
            until_closed(facts, &row),
        ),
        Standing::CheckedOut => checked(now, &row),
        Standing::Holds => {
            let unless = if node.breaker.is_none() { ", unless its breaker there is open" } else { "" };
            (format!("asks it, for its guard against mass removal holds it{unless}"), LET_GO.into())
        }
        Standing::ForcedOpen => {
            let entry = row.active_override.unwrap_or_default();
            let until = match left(now, entry.expire_time) {
                Some(left) => format!("the override ends in {left}; then probes decide"),
                None => "the override ends".into(),
            };
            (format!("forced open{}", said(&entry.author, None, &entry.reason)), until)
        }
        Standing::StandsBy => {
            let waiting = Waiting::of(facts);
            (format!("stands by: {}", waiting.why), waiting.until.into())
        }
        Standing::HeldBack => ("not asked, by the registry's word".into(), String::new()),
        Standing::Untold if facts.replica.is_none() => ("does not know it".into(), String::new()),
        Standing::Untold => match node.node_state() {
            v1::NodeState::Nacked => {
                ("refuses the registry's snapshot, so it does not know the replica".into(), String::new())
            }
            _ => {
                let revision = facts.replica.as_ref().map_or(0, |replica| replica.revision);
                let behind = node.acked_revision < revision;
                let summary = if behind {
                    format!(
                        "does not know this registration yet: it has revision {}, and this is of {revision}",
                        node.acked_revision
                    )
                } else {
                    "has reported nothing of it yet".into()
                };
                (summary, "its next report".into())
            }
        },
        Standing::Silent | Standing::Unspecified => {
            let since = ago(now, node.last_report_time).map(|ago| format!(" for {ago}")).unwrap_or_default();
            let last =
                node.breaker.as_ref().map(|row| format!("; it said last: {}", state_name(row.state())));
            (format!("not heard of{since}{}", last.unwrap_or_default()), String::new())
        }
        Standing::Asks => (asks(facts, &row), String::new()),
    }
}

/// What its active checks show, and what ends that.
pub(super) fn checked(now: SystemTime, row: &v1::Breaker) -> (String, String) {
    let check = row.health_check.clone().unwrap_or_default();
    let summary = match check.state() {
        v1::HealthCheckState::Failing => {
            format!("active checks fail: {}, {} in a row", check.last_failure, check.streak_count)
        }
        _ => "no active check has passed yet".into(),
    };
    let next = left(now, check.next_check_time).map(|left| format!("; the next is in {left}"));
    (summary, format!("its active checks pass{}", next.unwrap_or_default()))
}

fn asks(facts: &Facts, row: &v1::Breaker) -> String {
    let (total, failed) = (row.window_request_count, row.window_failure_count);
    if row.state() == v1::BreakerState::ForcedClosed {
        let entry = row.active_override.clone().unwrap_or_default();
        let left = left(facts.now, entry.expire_time);
        return format!(
            "forced closed{}: {failed} of {total} fail",
            said(&entry.author, left, &entry.reason)
        );
    }
    let withheld = row.last_withheld_trip.as_ref().filter(|_| was_withheld(facts, row));
    match withheld {
        Some(trip) => format!("would be open ({}), {}", trip.reason, although_it_fails(facts, row)),
        None if fails_checks(row) => {
            let although = although_it_fails(facts, row);
            format!("closed, {failed} of {total} failed in the window; {}, {although}", reason(row))
        }
        None if total == 0 => "closed, no outcome in the window".into(),
        None => format!("closed, {failed} of {total} failed in the window"),
    }
}

/// Why one that fails gets requests as any other does.
pub(super) fn although_it_fails(facts: &Facts, row: &v1::Breaker) -> &'static str {
    match row.last_withheld_trip.as_ref().filter(|_| was_withheld(facts, row)).map(v1::Trip::withheld) {
        Some(v1::Withheld::ObserveOnly) => "and the policy only observes",
        Some(v1::Withheld::MaxOpenRatio) => "and as many are open as max_open_ratio allows",
        Some(v1::Withheld::Unspecified) => "and did not open",
        // Without that setting, checks that fail keep it out, or it is asked regardless.
        None if fails_checks(row) => "and health_check.observe_only has checks keep nobody out",
        None => "and its breaker has not opened yet",
    }
}

/// Why one that should be out is asked.
pub(super) fn why_regardless(facts: &Facts, row: &v1::Breaker) -> &'static str {
    match Regardless::of(facts, row) {
        Regardless::TooFew => "too few of its tier are left",
        Regardless::NobodyPasses => "nobody passes the active checks, so they are not heeded",
        Regardless::Either => {
            "too few of its tier are left, or nobody passes the active checks, so they are not heeded"
        }
    }
}

/// What has those asked that should be out, as far as it is known.
pub(super) enum Regardless {
    /// Less is left than the policy's threshold.
    TooFew,
    /// All fail their checks, and nobody passes them.
    NobodyPasses,
    /// One of these.
    Either,
}

impl Regardless {
    pub(super) fn of(facts: &Facts, row: &v1::Breaker) -> Self {
        // Where nobody passes the checks they alone are not heeded, and breakers are.
        let is_open = matches!(row.state(), v1::BreakerState::Open | v1::BreakerState::HalfOpen);
        match facts.policy.fail_open_threshold > 0.0 {
            false => Self::NobodyPasses,
            true if is_open => Self::TooFew,
            true => Self::Either,
        }
    }
}

/// `the probe that is due in 0.8s succeeds, and 1 more; if it fails, it rests for up to 4.8s`.
pub(super) fn until_closed(facts: &Facts, row: &v1::Breaker) -> String {
    let target = row.probe_success_target.max(1);
    let left_to_do = (target - row.probe_success_count).max(1);
    let when = match (row.state(), left(facts.now, row.retry_time)) {
        (v1::BreakerState::HalfOpen, _) if row.inflight_count > 0 => "the probe under way".to_owned(),
        (_, Some(left)) if row.port_checked => {
            format!(
                "the probe that is due in {left}, or as soon as its port accepts, which is checked every second,"
            )
        }
        (_, Some(left)) => format!("the probe that is due in {left}"),
        (_, None) => "the next request, which is a probe,".into(),
    };
    let more = match left_to_do - 1 {
        0 => " succeeds".to_owned(),
        1 => " succeeds, and 1 more".into(),
        more => format!(" succeeds, and {more} more"),
    };
    format!("{when}{more}; if it fails, it rests for up to {}", up_to(longest_rest(&facts.policy, row)))
}

/// How long its next open time can be, with all the jitter there is.
fn longest_rest(policy: &policy::Breaker, row: &v1::Breaker) -> Duration {
    let doublings = 2_u32.saturating_pow(row.trip_streak.max(0).cast_unsigned());
    let longest = if row.nobody_else { policy.base_open } else { policy.max_open };
    policy.base_open.saturating_mul(doublings).min(longest).saturating_mul(6) / 5
}

/// A bound, which must not be rounded down.
fn up_to(bound: Duration) -> String {
    match bound.as_millis().div_ceil(1000) {
        0..10 => span(bound),
        seconds @ 10..120 => format!("{seconds}s"),
        seconds => format!("{}m", seconds.div_ceil(60)),
    }
}

fn state_name(state: v1::BreakerState) -> &'static str {
    match state {
        v1::BreakerState::Closed => "closed",
        v1::BreakerState::HalfOpen => "half-open",
        v1::BreakerState::Open => "open",
        v1::BreakerState::ForcedOpen => "forced open",
        v1::BreakerState::ForcedClosed => "forced closed",
        v1::BreakerState::Unspecified => "nothing",
    }
}
