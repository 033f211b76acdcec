//! Layer by layer, and what data planes have measured.

use std::{fmt::Write as _, time::SystemTime};

use gateway_proto::{
    time::non_negative,
    v1::{Breaker, Cause, Effect, HealthCheck, HealthCheckState, Measures, NodeExplanation},
};

use crate::{
    age::{self, NONE},
    table::{ALARM, CAUTION, Table},
    terminal::printable,
};

/// Layers that are told of; more never meet in practice.
const MAX_CAUSES: usize = 4;
/// Data planes whose measures have a line.
const MAX_MEASURES: usize = 3;
/// Data planes that a cause names.
const MAX_NAMED: usize = 3;

/// Each cause on three lines: who says what and since when, what ends it, what to do.
pub(super) fn causes(causes: &[Cause], now: SystemTime) -> String {
    let mut text = String::new();
    for cause in causes.iter().take(MAX_CAUSES) {
        let style = if cause.effect() == Effect::KeepsOut { ALARM } else { CAUTION };
        let effect = match cause.effect() {
            Effect::KeepsOut => "keeps it out",
            Effect::Lessens => "gives it fewer requests",
            Effect::KeepsIn | Effect::Unspecified => "has it asked all the same",
        };
        let layer = cause.layer().as_str_name().trim_start_matches("LAYER_").to_lowercase().replace('_', " ");
        let since = cause.since_time.map(|at| format!(" since {}", age::since(now, Some(at))));
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "  {style}{layer}{style:#} {effect} {}{}: {}",
            place(cause),
            since.unwrap_or_default(),
            printable(&cause.summary)
        );
        if !cause.until.is_empty() {
            let _ = writeln!(text, "    until   {}", printable(&cause.until));
        }
        if let Some(step) = &cause.next_step {
            let _ = writeln!(text, "    do      {}   {}", printable(&step.command), printable(&step.purpose));
        }
    }
    text
}

/// `everywhere`, `on dp-1 (1 of 3 data planes)`.
fn place(cause: &Cause) -> String {
    if cause.node_ids.is_empty() {
        return "everywhere".into();
    }
    let named = cause.node_ids.iter().take(MAX_NAMED).map(|id| printable(id).to_string());
    let more = match usize::try_from(cause.node_count).unwrap_or(0).saturating_sub(MAX_NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let total = match cause.heard_node_count {
        1 => String::new(),
        total => format!(" ({} of {total} data planes)", cause.node_count),
    };
    format!("on {}{more}{total}", named.collect::<Vec<_>>().join(", "))
}

/// How slow and how full the worst data planes find it, and what their checks show. Empty when nothing is measured.
pub(super) fn measures(nodes: &[NodeExplanation], now: SystemTime) -> Table {
    let mut table = Table::new(["NODE", "P90", "PEERS' MEDIAN", "SLOW", "LIMIT", "SHARE", "CHECKS"]);
    for node in nodes.iter().take(MAX_MEASURES) {
        let Some(row) = &node.breaker else { continue };
        let is_limited = row.window_slow_count > 0 || row.inflight_limit > 0;
        if row.measures.is_none() && row.health_check.is_none() && !is_limited {
            continue;
        }
        let measures = row.measures.unwrap_or_default();
        table.push(vec![
            (&node.node_id).into(),
            latency(measures.latency, measures.latency_sample_count, "responses").into(),
            latency(measures.peer_latency, measures.peer_count.into(), "peers").into(),
            slow(row).into(),
            limit(row).into(),
            share(&measures).into(),
            row.health_check.as_ref().map_or_else(|| NONE.to_owned(), |check| checks(check, now)).into(),
        ]);
    }
    table
}

/// `412ms of 33 responses`.
fn latency(latency: Option<prost_types::Duration>, count: i64, what: &str) -> String {
    let latency = latency.and_then(non_negative).map(|latency| latency.as_secs_f64() * 1000.0);
    match latency {
        Some(millis) if millis < 10.0 => format!("{millis:.1}ms of {count} {what}"),
        Some(millis) => format!("{millis:.0}ms of {count} {what}"),
        None => NONE.into(),
    }
}

fn slow(row: &Breaker) -> String {
    match row.window_slow_count {
        0 => NONE.into(),
        slow => format!("{slow} of {}", row.window_request_count),
    }
}

fn limit(row: &Breaker) -> String {
    if row.inflight_limit == 0 { NONE.into() } else { row.inflight_limit.to_string() }
}

fn share(measures: &Measures) -> String {
    match measures.slow_start_share {
        0.0 => NONE.into(),
        share => format!("{:.0} %", 100.0 * share),
    }
}

/// `pass, 2s ago`, `fail: connect refused, 3 in a row, 2s ago`.
fn checks(check: &HealthCheck, now: SystemTime) -> String {
    let ago = check.last_check_time.map(|at| format!(", {} ago", age::since(now, Some(at))));
    let ago = ago.unwrap_or_default();
    match check.state() {
        HealthCheckState::Passing => format!("pass{ago}"),
        HealthCheckState::Failing => {
            format!("fail: {}, {} in a row{ago}", check.last_failure, check.streak_count)
        }
        HealthCheckState::Pending | HealthCheckState::Unspecified => "none has ended yet".into(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use gateway_proto::{
        time::{duration, timestamp},
        v1::{BreakerState, Layer, NextStep},
    };

    use super::*;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1000)
    }

    fn at(seconds: u64) -> Option<prost_types::Timestamp> {
        Some(timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)))
    }

    #[test]
    fn each_layer_says_where_since_when_until_when_and_what_to_do() {
        let step = |command: &str, purpose: &str| {
            Some(NextStep { command: command.into(), purpose: purpose.into() })
        };
        let breaker = Cause {
            layer: Layer::Breaker.into(),
            effect: Effect::KeepsOut.into(),
            summary: "consecutive_failures 5 >= 5: connect refused".into(),
            since_time: at(988),
            until: "the probe that is due in 3.0s succeeds".into(),
            node_ids: (1..=50).map(|number| format!("dp-{number}")).collect(),
            node_count: 60,
            heard_node_count: 70,
            next_step: step("gwctl breaker reset orders/r-2", "try it again now"),
            ..Default::default()
        };
        let guard = Cause {
            layer: Layer::SnapshotGuard.into(),
            effect: Effect::KeepsIn.into(),
            summary: "it was dropped".into(),
            ..Default::default()
        };
        let text = anstream::adapter::strip_str(&causes(&[breaker, guard], now())).to_string();
        assert_eq!(
            text,
            "  breaker keeps it out on dp-1, dp-2, dp-3 and 57 more (60 of 70 data planes) since 12s: \
             consecutive_failures 5 >= 5: connect refused
    until   the probe that is due in 3.0s succeeds
    do      gwctl breaker reset orders/r-2   try it again now
  snapshot guard has it asked all the same everywhere: it was dropped
"
        );
        let hostile = Cause { summary: "\x1b[31mred".into(), ..Default::default() };
        assert!(causes(&[hostile], now()).contains("\\u{1b}[31mred"));
    }

    #[test]
    fn what_is_measured_is_shown_beside_what_it_is_compared_with() {
        let row = Breaker {
            state: BreakerState::Closed.into(),
            window_request_count: 40,
            window_slow_count: 12,
            inflight_limit: 10,
            measures: Some(Measures {
                latency: Some(duration(Duration::from_millis(412))),
                latency_sample_count: 33,
                peer_latency: Some(duration(Duration::from_micros(1500))),
                peer_count: 3,
                slow_start_share: 0.3,
                ..Default::default()
            }),
            health_check: Some(HealthCheck {
                state: HealthCheckState::Failing.into(),
                last_failure: "connect refused".into(),
                streak_count: 3,
                last_check_time: at(998),
                ..Default::default()
            }),
            ..Default::default()
        };
        let node = |breaker| NodeExplanation { node_id: "dp-1".into(), breaker, ..Default::default() };
        assert_eq!(
            anstream::adapter::strip_str(&measures(&[node(Some(row))], now()).to_string()).to_string(),
            "\
NODE   P90                     PEERS' MEDIAN      SLOW       LIMIT   SHARE   CHECKS
dp-1   412ms of 33 responses   1.5ms of 3 peers   12 of 40   10      30 %    fail: connect refused, 3 in a row, 2s ago
"
        );
        assert!(measures(&[node(Some(Breaker::default())), node(None)], now()).is_empty());
    }
}
