//! One replica, explained on at most a screen.

use std::{fmt::Write as _, time::SystemTime};

use anstyle::Style;
use gateway_proto::{
    time::{exact, non_negative, system_time},
    v1::{
        Breaker, BreakerPolicy, Evidence, ExplainReplicaResponse, NextStep, NodeExplanation, NodeStanding,
        NodeState, Replica, ReplicaVerdict, Trip,
    },
};

use super::super::{
    describe::facts::{health, lease, mode, place},
    get::{override_subject, override_terms, window},
};
use super::causes::{causes, measures};
use crate::{
    age::{self, NONE, or_none},
    moves,
    table::{ALARM, CAUTION, Cell, GOOD, Table},
    terminal::printable,
};

/// Data planes that have a line; JSON has more.
const MAX_NODES: usize = 8;
/// Failures that have a line.
const MAX_FAILURES: usize = 5;
/// Openings that have a line.
const MAX_TRIPS: usize = 3;

pub(super) fn render(told: &ExplainReplicaResponse, now: SystemTime) -> String {
    let mut text = String::new();
    let (word, style) = verdict(told.verdict());
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{}/{}   {style}{word}{style:#}",
        printable(&told.service),
        printable(&told.replica_id)
    );
    let _ = writeln!(text, "{}", printable(&told.summary));
    if !told.causes.is_empty() {
        let _ = write!(text, "\nWhy\n{}", causes(&told.causes, now));
    }
    section(&mut text, "Registry", registry(told, now));
    let rest = told.node_counts.map_or(0, |counts| counts.total)
        - i32::try_from(told.nodes.len().min(MAX_NODES)).unwrap_or(0);
    // Of one that is gone, only those that ask it all the same have something to say.
    let is_shown =
        told.removed.is_none() || told.nodes.iter().any(|node| node.standing() == NodeStanding::Holds);
    let rest = if is_shown { rest } else { 0 };
    if is_shown {
        section(&mut text, "Data planes, worst first", nodes(&told.nodes, now));
        section(&mut text, "Control planes that they follow", followed(&told.nodes, now));
    }
    if told.nodes.is_empty() && told.removed.is_none() {
        text.push_str("\nData planes\n  none is known\n");
    }
    if rest > 0 && told.nodes.len() > 1 {
        let _ = writeln!(text, "  ... and {rest} more (-o json has up to 50)");
    }
    section(&mut text, "Opened by", trips(&told.nodes, now));
    section(&mut text, "Measured", measures(&told.nodes, now));
    let rows = told.nodes.iter().filter_map(|node| Some((node.node_id.as_str(), node.breaker.as_ref()?)));
    section(&mut text, "Last failures, newest first", failures(rows, now));
    section(&mut text, "Next", next_steps(&told.next_steps));
    text
}

pub(super) fn verdict(verdict: ReplicaVerdict) -> (&'static str, Style) {
    match verdict {
        ReplicaVerdict::TakesRequests => ("TAKES REQUESTS", GOOD),
        ReplicaVerdict::PartlyOut => ("PARTLY OUT", ALARM),
        ReplicaVerdict::Out => ("OUT", ALARM),
        ReplicaVerdict::StandsBy => ("stands by", GOOD),
        ReplicaVerdict::Removed => ("REMOVED", CAUTION),
        ReplicaVerdict::Unknown | ReplicaVerdict::Unspecified => ("UNKNOWN", CAUTION),
    }
}

/// Commands for the next question.
pub(in crate::commands) fn next_steps(steps: &[NextStep]) -> Table {
    let mut table = Table::new(["COMMAND", "WHY"]).with_headings(false);
    for step in steps {
        table.push(vec![(&step.command).into(), (&step.purpose).into()]);
    }
    table
}

pub(super) fn section(text: &mut String, title: &str, table: Table) {
    if !table.is_empty() {
        let _ = write!(text, "\n{title}\n{}", table.indented(2));
    }
}

fn registry(told: &ExplainReplicaResponse, now: SystemTime) -> Table {
    let mut table = Table::new(["NAME", "VALUE"]).with_headings(false);
    let mut fact = |name: &str, value: String| table.push(vec![name.into(), value.into()]);
    if let Some(removed) = &told.removed {
        let ago = age::since(now, removed.remove_time);
        fact("removed", format!("{ago} ago ({}): {}", age::time_of_day(removed.remove_time), removed.cause));
    }
    if let Some(replica) = &told.replica {
        fact("address", format!("{}   incarnation {}", place(replica), replica.incarnation));
        fact("health", health(replica, now));
        fact("mode", mode(replica, now));
        if let Some(lease) = lease_of(replica, now) {
            fact("lease", lease);
        }
    }
    for entry in &told.overrides {
        fact("override", format!("{} ({})", override_subject(entry), override_terms(entry, now)));
    }
    if let Some(policy) = told.breaker_policy.as_ref().filter(|_| told.replica.is_some()) {
        fact("rules", rules(policy));
    }
    table
}

/// A data plane knows of no leases.
fn lease_of(replica: &Replica, now: SystemTime) -> Option<String> {
    replica.lease.as_ref().map(|_| lease(replica, now))
}

/// `opens after 5 failures in a row, or 0.50 of 20 or more in 10s; rests 1s to 1m, 2 good probes close it, more after a ratio`.
pub(in crate::commands) fn rules(policy: &BreakerPolicy) -> String {
    let span = |wire: Option<prost_types::Duration>| {
        wire.and_then(non_negative).map(exact).unwrap_or_else(|| NONE.into())
    };
    let mut text = format!(
        "opens after {} failures in a row, or {:.2} of {} or more in {}",
        policy.consecutive_failure_count(),
        policy.failure_ratio(),
        policy.min_request_count(),
        span(policy.window),
    );
    if policy.slow_threshold.and_then(non_negative).is_some_and(|limit| !limit.is_zero()) {
        let _ =
            write!(text, ", or {:.2} of them {} or slower", policy.slow_ratio(), span(policy.slow_threshold));
    }
    if policy.peer_latency_factor() > 0.0 {
        let _ = write!(text, ", or {:.1}x as slow as its peers", policy.peer_latency_factor());
    }
    let _ = write!(
        text,
        "; rests {} to {}, {} good probes close it, more after a ratio",
        span(policy.base_open),
        span(policy.max_open),
        policy.half_open_success_count()
    );
    if policy.observe_only() {
        text.push_str("; only observes");
    }
    if policy.max_open_ratio() < 1.0 {
        let _ = write!(text, "; at most {:.2} of the replicas are out at once", policy.max_open_ratio());
    }
    if policy.fail_open_threshold() > 0.0 {
        let _ = write!(text, "; fails open below {:.2}", policy.fail_open_threshold());
    }
    text
}

fn nodes(nodes: &[NodeExplanation], now: SystemTime) -> Table {
    let mut table =
        Table::new(["NODE", "DOES", "SINCE", "PROBE", "WINDOW", "IN FLIGHT", "TRIPS", "REPORTED", "WHY"]);
    for node in nodes.iter().take(MAX_NODES) {
        let row = node.breaker.clone().unwrap_or_default();
        let has_row = node.breaker.is_some();
        let or_none = |text: String| if has_row { text } else { NONE.into() };
        table.push(vec![
            (&node.node_id).into(),
            standing(node),
            since(node, &row, now).into(),
            or_none(age::until(now, row.retry_time)).into(),
            outcomes(&row).into(),
            or_none(row.inflight_count.to_string()).into(),
            or_none(trips_in_a_row(&row)).into(),
            reported(node, now).into(),
            (&node.summary).into(),
        ]);
    }
    table
}

/// Since when it is held, out, or in its state.
fn since(node: &NodeExplanation, row: &Breaker, now: SystemTime) -> String {
    age::since(now, node.held_time.or(row.out_time).or(row.state_change_time))
}

/// A breaker that is not closed counts none.
fn outcomes(row: &Breaker) -> String {
    if row.window_request_count == 0 { NONE.into() } else { window(row) }
}

/// `7, 3 in a row`.
fn trips_in_a_row(row: &Breaker) -> String {
    match (row.trip_count, row.trip_streak) {
        (trips, 0) => trips.to_string(),
        (trips, streak) => format!("{trips}, {streak} in a row"),
    }
}

/// How old its word is, and that it has an older registry.
fn reported(node: &NodeExplanation, now: SystemTime) -> String {
    let at = node.breaker.as_ref().and_then(|row| row.report_time).or(node.last_report_time);
    let last = node.last_report_time.max_by_age(at);
    let age = last.map_or(NONE.into(), |at| format!("{} ago", age::since(now, Some(at))));
    match node.node_state() {
        NodeState::Disconnected => format!("{age}, disconnected"),
        NodeState::Unknown => format!("{age}, its control plane is silent"),
        NodeState::Outdated => format!("{age}, its control plane has lost its store"),
        NodeState::Nacked => format!("{age}, refuses"),
        NodeState::Lagging => format!("{age}, lagging"),
        NodeState::Synced | NodeState::Unspecified => age,
    }
}

/// Data planes whose control plane lacks what others know, or which have come from another one lately.
fn followed(nodes: &[NodeExplanation], now: SystemTime) -> Table {
    let mut table = Table::new(["NODE", "FOLLOWS", "WHY"]).with_headings(false);
    for node in nodes.iter().take(MAX_NODES) {
        let lost = (node.node_state() == NodeState::Outdated)
            .then(|| "which has lost touch with its store: it may lack what has changed since".to_owned());
        let left = moves::lately(node.left.as_ref(), now).map(|left| format!("has left {left}"));
        for why in lost.into_iter().chain(left) {
            table.push(vec![
                (&node.node_id).into(),
                format!("follows {}", or_none(&node.control_plane)).into(),
                why.into(),
            ]);
        }
    }
    table
}

trait Newest {
    fn max_by_age(self, other: Self) -> Self;
}

impl Newest for Option<prost_types::Timestamp> {
    fn max_by_age(self, other: Self) -> Self {
        [self, other].into_iter().flatten().max_by_key(|at| system_time(*at))
    }
}

fn standing(node: &NodeExplanation) -> Cell {
    let (word, style) = match node.standing() {
        NodeStanding::Asks if node.evidence() == Evidence::Fails => ("asks", CAUTION),
        NodeStanding::Asks => ("asks", GOOD),
        NodeStanding::AsksRegardless => ("ASKS REGARDLESS", CAUTION),
        NodeStanding::Probes => ("PROBES", CAUTION),
        NodeStanding::Rests => ("RESTS", ALARM),
        NodeStanding::ForcedOpen => ("FORCED OPEN", ALARM),
        NodeStanding::CheckedOut => ("CHECKED OUT", ALARM),
        NodeStanding::Holds => ("holds", CAUTION),
        NodeStanding::StandsBy => ("stands by", GOOD),
        NodeStanding::HeldBack => ("holds back", CAUTION),
        NodeStanding::Untold => ("has not told", CAUTION),
        NodeStanding::Silent | NodeStanding::Unspecified => ("SILENT", CAUTION),
    };
    Cell::styled(word, style)
}

/// With which numbers breakers that are not closed opened.
fn trips(nodes: &[NodeExplanation], now: SystemTime) -> Table {
    let of_node = |node: &NodeExplanation| {
        let Some(row) = &node.breaker else { return Vec::new() };
        let is_out = matches!(
            node.standing(),
            NodeStanding::Rests | NodeStanding::Probes | NodeStanding::AsksRegardless
        );
        let told = match (is_out, node.evidence()) {
            (true, _) => [&row.last_trip, &row.last_failed_probe].into_iter().flatten().collect(),
            (false, Evidence::Fails) => row.last_withheld_trip.iter().collect(),
            (false, _) => Vec::new(),
        };
        told.into_iter().map(|trip| (node.node_id.clone(), trip.clone())).collect()
    };
    trip_table(nodes.iter().flat_map(of_node), now)
}

/// Openings, or ones that were withheld, each of a data plane, with the numbers behind them.
pub(in crate::commands) fn trip_table(trips: impl Iterator<Item = (String, Trip)>, now: SystemTime) -> Table {
    let mut table =
        Table::new(["NODE", "RULE", "OBSERVED", "THRESHOLD", "OUTCOMES", "WHEN", "RESTS FOR", "GENERATION"]);
    for (node, trip) in trips.take(MAX_TRIPS) {
        let number = |number: f64| match number {
            0.0 => NONE.to_owned(),
            number if number.fract() == 0.0 => format!("{number}"),
            number => format!("{number:.2}"),
        };
        let name = trip.rule().as_str_name().trim_start_matches("BREAKER_RULE_").to_lowercase();
        let open_time = trip.open_time.and_then(non_negative);
        table.push(vec![
            node.into(),
            name.into(),
            number(trip.observed).into(),
            number(trip.threshold).into(),
            trip.sample_count.to_string().into(),
            format!("{} ago", age::since(now, trip.trip_time)).into(),
            open_time.map_or(NONE.to_owned(), |time| format!("{:.1}s", time.as_secs_f64())).into(),
            trip.generation.to_string().into(),
        ]);
    }
    table
}

/// The newest failures of rows, each of a data plane.
pub(in crate::commands) fn failures<'a>(
    rows: impl Iterator<Item = (&'a str, &'a Breaker)>,
    now: SystemTime,
) -> Table {
    let mut table = Table::new(["NODE", "WHEN", "ERROR", "REQUEST"]).with_headings(false);
    let mut all: Vec<_> =
        rows.flat_map(|(id, row)| row.last_failures.iter().map(move |failure| (id, failure))).collect();
    all.sort_by_key(|(_, failure)| std::cmp::Reverse(failure.failure_time.map(|at| (at.seconds, at.nanos))));
    for (node, failure) in all.into_iter().take(MAX_FAILURES) {
        table.push(vec![
            node.into(),
            format!("{} ago", age::since(now, failure.failure_time)).into(),
            (&failure.error).into(),
            format!("x-request-id {}", or_none(&failure.request_id)).into(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use gateway_proto::{
        time::{duration, timestamp},
        v1::{
            BreakerRule, BreakerState, Cause, Conclusion, Effect, Endpoint, FailedAttempt, HealthStatus,
            Layer, Lease, LeftControlPlane, NextStep, NodeCounts, RemovedReplica,
        },
    };

    use super::*;

    fn at(seconds: u64) -> Option<prost_types::Timestamp> {
        Some(timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)))
    }

    fn plain(told: &ExplainReplicaResponse) -> String {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        anstream::adapter::strip_str(&render(told, now)).to_string()
    }

    fn out() -> NodeExplanation {
        let failure = |seconds, id: &str| FailedAttempt {
            failure_time: at(seconds),
            error: "connect refused".into(),
            request_id: id.into(),
        };
        let row = Breaker {
            state: BreakerState::Open.into(),
            state_change_time: at(988),
            retry_time: at(1003),
            trip_count: 7,
            trip_streak: 3,
            inflight_count: 1,
            report_time: at(999),
            last_trip: Some(Trip {
                trip_time: at(988),
                rule: BreakerRule::ConsecutiveFailures.into(),
                observed: 5.0,
                threshold: 5.0,
                sample_count: 5,
                open_time: Some(duration(Duration::from_millis(3900))),
                generation: 21,
                ..Default::default()
            }),
            last_failures: vec![failure(988, "0af3"), failure(987, "")],
            ..Default::default()
        };
        NodeExplanation {
            node_id: "dp-1".into(),
            standing: NodeStanding::Rests.into(),
            evidence: Evidence::Fails.into(),
            summary: "open: consecutive_failures 5 >= 5: connect refused".into(),
            until: "the probe that is due in 3.0s succeeds, and 1 more; if it fails, it rests for up to 8.0s"
                .into(),
            node_state: NodeState::Synced.into(),
            last_report_time: at(999),
            breaker: Some(row),
            ..Default::default()
        }
    }

    fn silent() -> NodeExplanation {
        NodeExplanation {
            node_id: "dp-2".into(),
            standing: NodeStanding::Silent.into(),
            summary: "not heard of for 1m".into(),
            node_state: NodeState::Disconnected.into(),
            last_report_time: at(900),
            ..Default::default()
        }
    }

    #[test]
    fn whom_data_planes_follow_is_told_where_it_matters() {
        let left =
            LeftControlPlane { url: "http://a:7400".into(), reason: "outdated".into(), leave_time: at(880) };
        let of = |state: NodeState, left| NodeExplanation {
            node_state: state.into(),
            control_plane: "10.0.0.2:7400".into(),
            left,
            ..out()
        };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let table = |node| anstream::adapter::strip_str(&followed(&[node], now).to_string()).to_string();
        assert_eq!(table(of(NodeState::Synced, None)), "");
        assert_eq!(
            table(of(NodeState::Synced, Some(left))),
            "dp-1   follows 10.0.0.2:7400   has left http://a:7400, 2m ago: it had lost touch with its store\n"
        );
        assert_eq!(
            table(of(NodeState::Outdated, None)),
            "dp-1   follows 10.0.0.2:7400   which has lost touch with its store: it may lack what has changed since\n"
        );
    }

    fn told() -> ExplainReplicaResponse {
        ExplainReplicaResponse {
            service: "orders".into(),
            replica_id: "r-2".into(),
            verdict: ReplicaVerdict::Out.into(),
            conclusion: Conclusion::Undecided.into(),
            summary: "out on dp-1 since 12s: dp-1 sees it fail".into(),
            replica: Some(Replica {
                endpoint: Some(Endpoint { address: "10.0.0.13:8080".into(), ..Endpoint::default() }),
                weight: 100,
                health: HealthStatus::Healthy.into(),
                state_change_time: at(400),
                incarnation: 3,
                lease: Some(Lease {
                    ttl: Some(duration(Duration::from_secs(15))),
                    expire_time: at(1013),
                    last_renew_time: at(998),
                    permanent: false,
                }),
                ..Default::default()
            }),
            nodes: vec![out(), silent()],
            node_counts: Some(NodeCounts { total: 12, ..Default::default() }),
            breaker_policy: gateway_proto::Policy::default().to_wire().breaker,
            causes: vec![Cause {
                layer: Layer::Breaker.into(),
                effect: Effect::KeepsOut.into(),
                summary: "consecutive_failures 5 >= 5: connect refused".into(),
                since_time: at(988),
                until: out().until,
                node_ids: vec!["dp-1".into()],
                node_count: 1,
                heard_node_count: 1,
                next_step: Some(NextStep {
                    command: "gwctl breaker reset orders/r-2".into(),
                    purpose: "try it again now, once it is mended".into(),
                }),
                ..Default::default()
            }],
            next_steps: vec![NextStep {
                command: "gwctl breaker reset orders/r-2".into(),
                purpose: "try it again now, once it is mended".into(),
            }],
            ..Default::default()
        }
    }

    #[test]
    fn a_replica_that_is_out_shows_verdict_facts_numbers_failures_and_what_to_do() {
        assert_eq!(
            plain(&told()),
            "\
orders/r-2   OUT
out on dp-1 since 12s: dp-1 sees it fail

Why
  breaker keeps it out on dp-1 since 12s: consecutive_failures 5 >= 5: connect refused
    until   the probe that is due in 3.0s succeeds, and 1 more; if it fails, it rests for up to 8.0s
    do      gwctl breaker reset orders/r-2   try it again now, once it is mended

Registry
  address   10.0.0.13:8080   weight 100   incarnation 3
  health    HEALTHY for 10m
  mode      serving
  lease     ttl 15s, renewed 2s ago, expires in 13s
  rules     opens after 5 failures in a row, or 0.50 of 20 or more in 10s; rests 1s to 1m, 2 good probes close it, more after a ratio

Data planes, worst first
  NODE   DOES     SINCE   PROBE   WINDOW   IN FLIGHT   TRIPS           REPORTED               WHY
  dp-1   RESTS    12s     3s      -        1           7, 3 in a row   1s ago                 open: consecutive_failures 5 >= 5: connect refused
  dp-2   SILENT   -       -       -        -           -               1m ago, disconnected   not heard of for 1m
  ... and 10 more (-o json has up to 50)

Opened by
  NODE   RULE                   OBSERVED   THRESHOLD   OUTCOMES   WHEN      RESTS FOR   GENERATION
  dp-1   consecutive_failures   5          5           5          12s ago   3.9s        21

Last failures, newest first
  dp-1   12s ago   connect refused   x-request-id 0af3
  dp-1   13s ago   connect refused   x-request-id -

Next
  gwctl breaker reset orders/r-2   try it again now, once it is mended
"
        );
    }

    #[test]
    fn a_removed_replica_shows_when_and_by_what() {
        let removed = ExplainReplicaResponse {
            verdict: ReplicaVerdict::Removed.into(),
            summary: "removed 12s ago: its lease lapsed".into(),
            replica: None,
            removed: Some(RemovedReplica {
                remove_time: at(988),
                cause: "its lease lapsed".into(),
                lease_lapsed: true,
                ..Default::default()
            }),
            nodes: Vec::new(),
            causes: Vec::new(),
            node_counts: None,
            ..told()
        };
        assert_eq!(
            plain(&removed),
            "\
orders/r-2   REMOVED
removed 12s ago: its lease lapsed

Registry
  removed   12s ago (00:16:28Z): its lease lapsed

Next
  gwctl breaker reset orders/r-2   try it again now, once it is mended
"
        );
    }

    #[test]
    fn a_hundred_data_planes_with_failures_fit_on_a_screen_and_print_nothing_raw() {
        let node = |number: u32| NodeExplanation {
            node_id: format!("dp-{number}"),
            summary: "\x1b[31mopen".into(),
            ..out()
        };
        let crowd = ExplainReplicaResponse { nodes: (0..50).map(node).collect(), ..told() };
        let text = plain(&crowd);
        assert!(text.lines().count() <= 45, "{text}");
        assert!(text.contains("\\u{1b}[31mopen"), "{text}");
    }
}
