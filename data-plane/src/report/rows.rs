//! What this data plane knows of a replica, in the words of the contract. Pure.

mod trips;

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use gateway_proto::{
    NodeId,
    policy::HealthCheck,
    time::{duration, system_time, timestamp},
    v1,
};

use super::checks;
use crate::{
    routing::{Change, Comparison, Reason, Rule, State, Tick, View, Withheld, balancing::FULL_SHARE},
    table::{
        FailOpen, FailOpenChange, Failure, History, Measures, Replica, ReplicaCounters, Service, SideBySide,
        Transition,
    },
};

/// What is measured of a replica at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measured {
    pub(super) view: View,
    pub(super) counters: ReplicaCounters,
    /// Whether it is asked although its breaker is not closed.
    pub(super) asked_regardless: bool,
    /// How much may be in flight; `None` without a limit.
    pub(super) limit: Option<u64>,
    /// Requests of the service that wait for a place.
    pub(super) pending: usize,
    /// Changes when its checks have news.
    pub(super) checks: u64,
    /// Whether a better tier is asked in its place.
    pub(super) stands_by: bool,
    /// Whether its port is checked.
    pub(super) port_checked: bool,
    /// Whether neither it nor another replica lets requests through.
    pub(super) nobody_else: bool,
    /// How slow it is.
    pub(super) measures: Measures,
    health_check: HealthCheck,
}

impl Measured {
    /// The replica's breaker and its counts at `now`, when it stands `beside` the others of its service.
    pub(crate) fn of(service: &Service, replica: &Replica, beside: &SideBySide, now: Tick) -> Self {
        let policy = service.policy();
        let limit = replica.limit(&policy.concurrency);
        let (policy, health_check) = (policy.breaker, policy.health_check);
        let view = replica.breaker_view(now, &policy);
        Self {
            view,
            counters: replica.counters(),
            asked_regardless: service.asks_regardless(replica),
            limit: (limit < u64::MAX).then_some(limit),
            pending: service.pending(),
            checks: checks::fingerprint(replica, &health_check),
            health_check,
            stands_by: service.stands_by(replica),
            port_checked: service.is_port_checked(replica),
            nobody_else: !view.state.lets_all_through() && service.has_nobody_but(replica),
            measures: service.measures(replica, beside, now),
        }
    }
}

/// One replica, as it was measured. `date` places ticks on the wall clock.
pub(crate) fn breaker(
    node_id: &NodeId,
    replica: &Replica,
    measured: &Measured,
    date: impl Fn(Tick) -> SystemTime,
) -> v1::Breaker {
    let Measured {
        view,
        counters,
        asked_regardless,
        limit,
        pending,
        stands_by,
        port_checked,
        nobody_else,
        health_check,
        measures,
        ..
    } = *measured;
    let registration = replica.registration_counters();
    let History { changed_at, out_since, trip: last_trip, failed_probe, withheld } = replica.history();
    let trip = last_trip.map(|trip| trip.change);
    let failures = replica.last_failures();
    v1::Breaker {
        service: replica.key().service.to_string(),
        replica_id: replica.key().replica.to_string(),
        address: replica.address().to_string(),
        node_id: node_id.to_string(),
        state: state(view.state).into(),
        state_change_time: Some(timestamp(date(changed_at))),
        retry_time: view.until.filter(|_| view.state == State::Open).map(|until| timestamp(date(until))),
        rule: trip.and_then(|change| change.rule()).map_or(v1::BreakerRule::Unspecified, rule).into(),
        reason: trip.map(|change| change.reason.to_string()).unwrap_or_default(),
        window_request_count: view.totals.total.into(),
        window_failure_count: view.totals.marked.into(),
        window_slow_count: view.slow.marked.into(),
        asked_regardless,
        trip_count: count(view.trip_count),
        consecutive_failure_count: view.consecutive.cast_signed(),
        probe_success_count: view.probe_successes.cast_signed(),
        probe_success_target: view.probe_target.cast_signed(),
        incarnation: replica.incarnation(),
        generation: count(view.generation),
        last_errors: failures.iter().map(|failure| failure.fault.to_string()).collect(),
        attempt_count: count(counters.attempts),
        failure_count: count(counters.failures),
        retry_count: count(counters.retries),
        inflight_count: i32::try_from(counters.inflight).unwrap_or(i32::MAX),
        inflight_limit: limit.map_or(0, |limit| i32::try_from(limit).unwrap_or(i32::MAX)),
        pending_count: i32::try_from(pending).unwrap_or(i32::MAX),
        active_override: replica.spec().forced.as_ref().map(|forced| (*forced.entry).clone()),
        // Of merged rows only.
        open_node_count: 0,
        node_count: 0,
        health_check: checks::wire(replica, &health_check, asked_regardless, &date),
        registration_attempt_count: count(registration.attempts),
        registration_failure_count: count(registration.failures),
        // The control plane's to say.
        report_time: None,
        last_trip: last_trip.map(|trip| trips::to_wire(&trip, &date)),
        last_failed_probe: failed_probe.map(|trip| trips::to_wire(&trip, &date)),
        port_checked,
        nobody_else,
        last_withheld_trip: withheld.map(|trip| trips::to_wire(&trip, &date)),
        last_failures: failures.iter().map(|failure| failed_attempt(failure, &date)).collect(),
        trip_streak: view.streak.cast_signed(),
        stands_by,
        measures: measures_to_wire(&measures, &date),
        out_time: out_since.map(|since| timestamp(date(since))),
    }
}

fn measures_to_wire(measures: &Measures, date: impl Fn(Tick) -> SystemTime) -> Option<v1::Measures> {
    if *measures == Measures::default() {
        return None;
    }
    let Measures { latency, peers, slow_start, backlog } = measures;
    Some(v1::Measures {
        latency: latency.map(|own| duration(own.latency)),
        latency_sample_count: latency.map_or(0, |own| own.count.into()),
        peer_latency: peers.map(|peers| duration(peers.median)),
        peer_count: peers.map_or(0, |peers| peers.peers.cast_signed()),
        slow_start_share: slow_start.map_or(0.0, |(part, _)| part as f64 / FULL_SHARE as f64),
        slow_start_end_time: slow_start.map(|(_, end)| timestamp(date(end))),
        unanswered_count: backlog.map_or(0, |backlog| backlog.unanswered.try_into().unwrap_or(i32::MAX)),
        peer_unanswered_count: backlog.map_or(0, |backlog| backlog.median.try_into().unwrap_or(i32::MAX)),
    })
}

fn failed_attempt(failure: &Failure, date: impl Fn(Tick) -> SystemTime) -> v1::FailedAttempt {
    v1::FailedAttempt {
        failure_time: Some(timestamp(date(failure.at))),
        error: failure.fault.to_string(),
        request_id: failure.request_id.to_string(),
    }
}

/// One transition as an event of the replica's history.
pub(super) fn event(
    node_id: &NodeId,
    transition: &Transition,
    date: impl Fn(Tick) -> SystemTime,
) -> v1::Event {
    let change = &transition.change;
    let (info, warning) = (v1::EventSeverity::Info, v1::EventSeverity::Warning);
    let (event_type, severity) = match (change.reason, change.to) {
        (Reason::Released, _) => ("BREAKER_RELEASED", info),
        (Reason::Reset, _) => ("BREAKER_RESET", info),
        _ if change.withheld.is_some() => ("BREAKER_WITHHELD", warning),
        (_, State::Open) => ("BREAKER_OPENED", warning),
        (_, State::HalfOpen) => ("BREAKER_HALF_OPENED", info),
        (_, State::Closed) => ("BREAKER_CLOSED", info),
        (_, State::ForcedOpen) => ("BREAKER_FORCED_OPEN", warning),
        (_, State::ForcedClosed) => ("BREAKER_FORCED_CLOSED", warning),
    };
    v1::Event {
        event_id: String::new(),
        event_time: Some(timestamp(date(transition.at))),
        severity: severity.into(),
        event_type: event_type.into(),
        service: transition.key.service.to_string(),
        replica_id: transition.key.replica.to_string(),
        node_id: node_id.to_string(),
        actor: actor(node_id, transition),
        message: message(transition),
        metadata: metadata(transition),
        ..Default::default()
    }
}

/// Whoever had it forced or reset, or the data plane, whose rules decided.
fn actor(node_id: &NodeId, transition: &Transition) -> String {
    let is_ordered = matches!(transition.change.reason, Reason::Forced | Reason::Reset);
    let author = transition.order.as_ref().filter(|_| is_ordered).map(|order| order.author.clone());
    author.filter(|author| !author.is_empty()).unwrap_or_else(|| node_id.to_string())
}

/// One sentence for people: "breaker opened: consecutive_failures 5 >= 5: connect refused; next probe in 1.1s".
pub(super) fn message(transition: &Transition) -> String {
    let Change { from, to, reason, until, withheld, .. } = &transition.change;
    if let Some(withheld) = withheld {
        let why = match withheld {
            Withheld::ObserveOnly => "the policy only observes",
            Withheld::MaxOpenRatio => "as many are open as max_open_ratio allows",
        };
        return match from == to {
            true => format!("breaker would have opened: {reason}; {why}"),
            false => format!("breaker closed although {reason}: {why}"),
        };
    }
    let order = || transition.order.as_deref();
    let said = || order().map(said).unwrap_or_default();
    match (reason, to, until) {
        (Reason::Reset, ..) => {
            let by = order().map(by).unwrap_or_default();
            let still = if to.is_forced() { ", and it stays forced" } else { "" };
            format!("breaker reset{by}: its counts are forgotten{still}")
        }
        (Reason::Released, ..) => {
            let (was, next) = match from {
                State::ForcedOpen => ("open", "half-open until probes succeed"),
                _ => ("closed", "its rules go on with what was counted"),
            };
            format!("breaker no longer forced {was}{}; {next}", said())
        }
        (_, State::ForcedOpen, _) => format!("breaker forced open{}", said()),
        (_, State::ForcedClosed, _) => format!("breaker forced closed{}", said()),
        (_, State::Open, Some(until)) => {
            let wait = until.since(transition.at).as_secs_f64();
            format!("breaker opened: {reason}; next probe in {wait:.1}s")
        }
        (_, State::Open, None) => format!("breaker opened: {reason}"),
        (_, State::HalfOpen, _) => format!("breaker half-open: {reason}"),
        (_, State::Closed, _) => format!("breaker closed: {reason}"),
    }
}

/// An operator's decision within a sentence: " by alice for 15m (bad deploy)", as far as it says.
fn said(order: &v1::OverrideEntry) -> String {
    let times = order.create_time.zip(order.expire_time);
    let ttl = times.and_then(|(from, to)| system_time(to).duration_since(system_time(from)).ok());
    let ttl = ttl.map(|ttl| Duration::from_secs(ttl.as_secs()));
    let ttl = ttl.map(|ttl| format!(" for {}", humantime::format_duration(ttl))).unwrap_or_default();
    let why = if order.reason.is_empty() { String::new() } else { format!(" ({})", order.reason) };
    by(order) + &ttl + &why
}

fn by(order: &v1::OverrideEntry) -> String {
    if order.author.is_empty() { String::new() } else { format!(" by {}", order.author) }
}

/// The numbers behind the sentence, for machines.
fn metadata(transition: &Transition) -> HashMap<String, String> {
    let change = &transition.change;
    let mut metadata = HashMap::new();
    let mut put = |key: &str, value: String| metadata.insert(key.to_owned(), value);
    put("from", state_name(change.from).into());
    put("to", state_name(change.to).into());
    put("address", transition.address.to_string());
    put("incarnation", transition.incarnation.to_string());
    put("generation", change.generation.to_string());
    put("trip_count", change.trip_count.to_string());
    if let Some(withheld) = change.withheld {
        put("withheld", withheld_name(withheld).into());
    }
    if let Some(rule) = change.rule() {
        put("rule", rule_name(rule).into());
    }
    match change.reason {
        Reason::ConsecutiveFailures { count, threshold, fault } => {
            put("observed", count.to_string());
            put("threshold", threshold.to_string());
            put("fault", fault.to_string());
        }
        Reason::FailureRatio { failed, total, threshold } => {
            put("observed", format!("{:.2}", f64::from(failed) / f64::from(total)));
            put("threshold", format!("{threshold:.2}"));
            put("failed", failed.to_string());
            put("total", total.to_string());
        }
        Reason::SlowRatio { slow, total, threshold, limit } => {
            put("observed", format!("{:.2}", f64::from(slow) / f64::from(total)));
            put("threshold", format!("{threshold:.2}"));
            put("slow", slow.to_string());
            put("total", total.to_string());
            put("limit", format!("{limit:?}"));
        }
        Reason::PeerLatency(Comparison { own, median, peers, factor }) => {
            put("observed", format!("{:.2}", own.latency.as_secs_f64() / median.as_secs_f64()));
            put("threshold", format!("{factor:.2}"));
            put("total", own.count.to_string());
            put("latency", format!("{:?}", own.latency));
            put("median", format!("{median:?}"));
            put("peers", peers.to_string());
        }
        Reason::ProbeSlow { latency, limit } => {
            put("observed", format!("{latency:?}"));
            put("threshold", format!("{limit:?}"));
        }
        Reason::ProbeFailed { fault: Some(fault) } => {
            put("fault", fault.to_string());
        }
        Reason::ProbesSucceeded { count } | Reason::ChecksPassed { count } => {
            put("observed", count.to_string());
        }
        Reason::ProbeFailed { fault: None }
        | Reason::ProbeDue
        | Reason::ProbeLost
        | Reason::Forced
        | Reason::Released
        | Reason::Reset => {}
    }
    let joined = |texts: &mut dyn Iterator<Item = String>| texts.collect::<Vec<_>>().join(", ");
    if !transition.failures.is_empty() {
        let mut errors = transition.failures.iter().map(|failure| failure.fault.to_string());
        put("last_errors", joined(&mut errors));
        let named = transition.failures.iter().filter(|failure| !failure.request_id.is_empty());
        put("request_ids", joined(&mut named.map(|failure| failure.request_id.to_string())));
    }
    if let Some(order) = &transition.order {
        put("override_id", order.override_id.clone());
        put("author", order.author.clone());
        put("reason", order.reason.clone());
    }
    metadata
}

/// One sentence for people: "fails open: 1 of 3 let traffic through, so that all are asked".
pub(super) fn fail_open_message(change: &FailOpenChange) -> String {
    match change.began {
        Some(FailOpen { letting_through, total, .. }) => {
            format!("fails open: {letting_through} of {total} let traffic through, so that all are asked")
        }
        None => "fails open no more: only those that let traffic through are asked".into(),
    }
}

/// That a service began to fail open, or ceased to.
pub(super) fn fail_open_event(
    node_id: &NodeId,
    change: &FailOpenChange,
    date: impl Fn(Tick) -> SystemTime,
) -> v1::Event {
    let (event_type, severity) = match change.began {
        Some(_) => ("FAIL_OPEN_BEGAN", v1::EventSeverity::Warning),
        None => ("FAIL_OPEN_ENDED", v1::EventSeverity::Info),
    };
    let counts = change.began.map(|FailOpen { letting_through, total, .. }| {
        HashMap::from([
            ("letting_through".to_owned(), letting_through.to_string()),
            ("total".to_owned(), total.to_string()),
        ])
    });
    v1::Event {
        event_time: Some(timestamp(date(change.at))),
        severity: severity.into(),
        event_type: event_type.into(),
        service: change.service.to_string(),
        node_id: node_id.to_string(),
        actor: node_id.to_string(),
        message: fail_open_message(change),
        metadata: counts.unwrap_or_default(),
        ..Default::default()
    }
}

/// A state as metrics, logs and metadata name it.
pub(crate) fn state_name(state: State) -> &'static str {
    match state {
        State::Closed => "closed",
        State::HalfOpen => "half_open",
        State::Open => "open",
        State::ForcedOpen => "forced_open",
        State::ForcedClosed => "forced_closed",
    }
}

/// A rule as metrics, logs and metadata name it.
pub(super) fn rule_name(rule: Rule) -> &'static str {
    match rule {
        Rule::ConsecutiveFailures => "consecutive_failures",
        Rule::FailureRatio => "failure_ratio",
        Rule::SlowRatio => "slow_ratio",
        Rule::PeerLatency => "peer_latency",
        Rule::ProbeFailed => "probe_failed",
    }
}

/// What withheld an opening, as metadata names it.
fn withheld_name(withheld: Withheld) -> &'static str {
    match withheld {
        Withheld::ObserveOnly => "observe_only",
        Withheld::MaxOpenRatio => "max_open_ratio",
    }
}

fn state(state: State) -> v1::BreakerState {
    match state {
        State::Closed => v1::BreakerState::Closed,
        State::HalfOpen => v1::BreakerState::HalfOpen,
        State::Open => v1::BreakerState::Open,
        State::ForcedOpen => v1::BreakerState::ForcedOpen,
        State::ForcedClosed => v1::BreakerState::ForcedClosed,
    }
}

pub(super) fn rule(rule: Rule) -> v1::BreakerRule {
    match rule {
        Rule::ConsecutiveFailures => v1::BreakerRule::ConsecutiveFailures,
        Rule::FailureRatio => v1::BreakerRule::FailureRatio,
        Rule::SlowRatio => v1::BreakerRule::SlowRatio,
        Rule::PeerLatency => v1::BreakerRule::PeerLatency,
        Rule::ProbeFailed => v1::BreakerRule::ProbeFailed,
    }
}

/// The wire's counts are signed; nothing counts that far.
pub(super) fn count(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
