//! Every layer that keeps requests from the replica, lessens them, or has it asked all the same: since when, what ends that,
//! what it rests on, which data planes agree, and what an operator can do.

use std::collections::BTreeMap;

use prost_types::Timestamp;

use super::{
    Explanation, Facts, MAX_SHOWN, rank,
    span::{left, said, span_of},
    standing::{self, Regardless, Registered, Waiting},
};
use crate::v1::{self, BreakerState as State, Cause, Effect, FailedAttempt, Layer, NextStep};

/// Failures that a cause rests on.
const MAX_EVIDENCE: usize = 5;

/// What data planes say, by layer and effect.
#[derive(Debug, Default)]
pub(super) struct Causes(BTreeMap<(i32, i32), Told>);

/// In the words of the data plane that sees it worst.
#[derive(Debug)]
struct Told {
    cause: Cause,
    speaker: v1::NodeExplanation,
}

impl Causes {
    /// Takes in what a data plane says.
    pub(super) fn add(&mut self, facts: &Facts, registered: Registered, node: &v1::NodeExplanation) {
        for mut cause in of_node(facts, registered, node) {
            let name = vec![node.node_id.clone()];
            let Some(told) = self.0.get_mut(&(cause.effect, cause.layer)) else {
                (cause.node_ids, cause.node_count) = (name, 1);
                self.0.insert((cause.effect, cause.layer), Told { cause, speaker: node.clone() });
                continue;
            };
            let known = &mut told.cause;
            let since = first(known.since_time, cause.since_time);
            let (mut names, count) = (std::mem::take(&mut known.node_ids), known.node_count + 1);
            if names.len() < MAX_SHOWN {
                names.extend(name);
            }
            if rank(node) < rank(&told.speaker) {
                told.cause = cause;
                told.speaker = node.clone();
            }
            let known = &mut told.cause;
            (known.since_time, known.node_ids, known.node_count) = (since, names, count);
        }
    }

    /// What the data plane says in whose words a cause is told.
    fn row_of(&self, cause: &Cause) -> Option<&v1::Breaker> {
        self.0.get(&(cause.effect, cause.layer))?.speaker.breaker.as_ref()
    }

    fn has(&self, layer: Layer) -> bool {
        self.0.values().any(|told| told.cause.layer() == layer)
    }
}

fn first(one: Option<Timestamp>, other: Option<Timestamp>) -> Option<Timestamp> {
    [one, other].into_iter().flatten().min_by_key(|at| (at.seconds, at.nanos))
}

/// All of it: what keeps it out first, then what lessens its requests, then what has it asked.
pub(super) fn causes(all: &Explanation) -> Vec<Cause> {
    let counts = &all.counts;
    let heard = counts.asking + counts.out + counts.standing_by + counts.held_back;
    let mut causes: Vec<_> = of_registry(all).into_iter().collect();
    causes.extend(all.causes.0.values().map(|told| told.cause.clone()));
    causes.sort_by_key(|cause| cause.effect);
    for cause in &mut causes {
        cause.heard_node_count = heard.max(cause.node_count);
        let mut errors: Vec<_> = cause.evidence.iter().map(|failure| failure.error.clone()).collect();
        errors.sort_unstable();
        errors.dedup();
        cause.errors = errors;
        cause.next_step = Some(next_step(all, cause));
    }
    causes
}

fn cause(layer: Layer, effect: Effect, summary: String) -> Cause {
    Cause { layer: layer.into(), effect: effect.into(), summary, ..Default::default() }
}

/// What the registry has decided for all.
fn of_registry(all: &Explanation) -> Option<Cause> {
    let facts = &all.facts;
    if let Some(removed) = &facts.removed {
        let layer = match removed.removal_cause() {
            v1::RemovalCause::Expired => Layer::Lease,
            v1::RemovalCause::Evicted => Layer::Eviction,
            _ => Layer::Registration,
        };
        let until = "it registers again".to_owned();
        let gone = cause(layer, Effect::KeepsOut, removed.cause.clone());
        return Some(Cause { since_time: removed.remove_time, until, ..gone });
    }
    let replica = facts.replica.as_ref()?;
    let reported = |state: &str| format!("it {state}{}", said("", None, &replica.state_reason));
    let report = |state: &str| Cause {
        since_time: replica.state_change_time,
        until: "it reports itself healthy".into(),
        ..cause(Layer::Report, Effect::KeepsOut, reported(state))
    };
    match all.registered {
        Registered::Not | Registered::Serving => None,
        Registered::Draining { by_owner } => {
            let drain = replica.drain.clone().unwrap_or_default();
            let by = if by_owner && drain.author.is_empty() { "its owner" } else { &drain.author };
            let is_over = replica.mode() == v1::ReplicaMode::Drained;
            let word = if is_over { "drained" } else { "draining" };
            let summary = format!("{word}{}", said(by, None, &drain.reason));
            // Its end is that of what is in flight; it stays out.
            let until = "somebody undrains it, or it registers anew".into();
            Some(Cause {
                since_time: drain.begin_time,
                until,
                ..cause(Layer::Drain, Effect::KeepsOut, summary)
            })
        }
        Registered::Starting => Some(report("has not reported itself healthy yet")),
        Registered::Unhealthy => Some(report("reported itself unhealthy")),
        // LOST to a data plane is also what its own guard holds.
        Registered::Lost if all.causes.has(Layer::SnapshotGuard) => None,
        Registered::Lost => {
            let summary = "its lease lapsed together with many others, and the registry's guard holds it";
            Some(Cause {
                since_time: replica.state_change_time,
                until: "it renews its lease, or an operator releases the guard".into(),
                ..cause(Layer::Lease, Effect::KeepsIn, summary.into())
            })
        }
    }
}

/// What one data plane has decided for itself.
fn of_node(facts: &Facts, registered: Registered, node: &v1::NodeExplanation) -> Vec<Cause> {
    use v1::NodeStanding as Standing;
    let standing = node.standing();
    let mut causes = Vec::new();
    if standing == Standing::Untold && registered.lets_ask() {
        let cause = cause(Layer::Propagation, Effect::KeepsOut, node.summary.clone());
        causes.push(Cause { until: node.until.clone(), ..cause });
    }
    if node.held_time.is_some() || standing == Standing::Holds {
        causes.push(Cause {
            since_time: node.held_time,
            until: standing::LET_GO.into(),
            ..cause(Layer::SnapshotGuard, Effect::KeepsIn, standing::HELD.into())
        });
    }
    let is_told = !matches!(standing, Standing::Untold | Standing::Silent | Standing::HeldBack);
    if let Some(row) = node.breaker.as_ref().filter(|_| is_told) {
        causes.extend(by_breaker(facts, row));
        causes.extend(by_checks(facts, row));
        causes.extend(by_shares(facts, row));
    }
    causes
}

fn by_breaker(facts: &Facts, row: &v1::Breaker) -> Option<Cause> {
    let since_time = standing::since(row);
    if row.state() == State::ForcedOpen || row.state() == State::ForcedClosed {
        let entry = row.active_override.clone().unwrap_or_default();
        let (word, effect) = match row.state() {
            State::ForcedOpen => ("open", Effect::KeepsOut),
            _ => ("closed", Effect::KeepsIn),
        };
        let summary = format!("forced {word}{}", said(&entry.author, None, &entry.reason));
        let until = match left(facts.now, entry.expire_time) {
            Some(left) => format!("the override ends in {left}"),
            None => "somebody ends the override".into(),
        };
        let cause = cause(Layer::Override, effect, summary);
        return Some(Cause { since_time, until_time: entry.expire_time, until, ..cause });
    }
    if !matches!(row.state(), State::Open | State::HalfOpen) {
        return None;
    }
    // What its predecessor failed says nothing of it.
    let failures = row.last_failures.iter().filter(|_| standing::has_tripped(row));
    let (layer, effect) = match row.asked_regardless {
        true => (Layer::FailOpen, Effect::KeepsIn),
        false => (Layer::Breaker, Effect::KeepsOut),
    };
    Some(Cause {
        since_time,
        until_time: row.retry_time,
        until: standing::until_closed(facts, row),
        evidence: failures.take(MAX_EVIDENCE).cloned().collect(),
        ..cause(layer, effect, standing::reason_and_probe(facts.now, row))
    })
}

fn by_checks(facts: &Facts, row: &v1::Breaker) -> Option<Cause> {
    let check = row.health_check.as_ref()?;
    let is_failing = check.state() == v1::HealthCheckState::Failing;
    // One that is asked all the same is told of once.
    let is_asked = is_failing && row.asked_regardless && row.state() == State::Closed;
    if !check.keeps_out && !is_asked {
        return None;
    }
    let (layer, effect) = match is_asked {
        true => (Layer::FailOpen, Effect::KeepsIn),
        false => (Layer::HealthCheck, Effect::KeepsOut),
    };
    let (summary, until) = standing::checked(facts.now, row);
    let failure = FailedAttempt {
        failure_time: check.last_check_time,
        error: check.last_failure.clone(),
        request_id: String::new(),
    };
    let has_failed = !check.last_failure.is_empty();
    Some(Cause {
        since_time: check.state_change_time,
        until_time: check.next_check_time,
        until,
        evidence: has_failed.then_some(failure).into_iter().collect(),
        ..cause(layer, effect, summary)
    })
}

/// What gives it fewer requests, or none while others can have them.
fn by_shares(facts: &Facts, row: &v1::Breaker) -> Vec<Cause> {
    let mut causes = Vec::new();
    if row.stands_by {
        let waiting = Waiting::of(facts);
        causes.push(Cause {
            until: waiting.until.into(),
            ..cause(Layer::Priority, Effect::KeepsOut, format!("stands by: {}", waiting.why))
        });
    }
    let measures = row.measures.unwrap_or_default();
    let (limit, inflight) = (row.inflight_limit, row.inflight_count);
    if limit > 0 && inflight >= limit {
        causes.push(Cause {
            until: "one of them ends".into(),
            ..cause(
                Layer::ConcurrencyLimit,
                Effect::Lessens,
                format!("full: {inflight} of at most {limit} requests are in flight"),
            )
        });
    }
    if measures.unanswered_count > 0 {
        let (own, peers) = (measures.unanswered_count, measures.peer_unanswered_count);
        causes.push(Cause {
            until: "it answers".into(),
            ..cause(
                Layer::Backlog,
                Effect::Lessens,
                format!("{own} requests wait for its answer, {peers} at the median of its peers: what must not be sent twice goes to others"),
            )
        });
    }
    let end = measures.slow_start_end_time.filter(|_| measures.slow_start_share > 0.0);
    if let Some(end) = end {
        let left = left(facts.now, Some(end)).unwrap_or_else(|| span_of(0));
        causes.push(Cause {
            until_time: Some(end),
            until: format!("it has all of it, in {left}"),
            ..cause(
                Layer::SlowStart,
                Effect::Lessens,
                format!("starts slowly: has {:.0} % of its weight", 100.0 * measures.slow_start_share),
            )
        });
    }
    causes
}

fn next_step(all: &Explanation, cause: &Cause) -> NextStep {
    let service = &all.facts.service;
    let key = format!("{service}/{}", all.facts.replica_id);
    let step = |command: String, purpose: &str| NextStep { command, purpose: purpose.to_owned() };
    let setting = |purpose: &str| step(format!("gwctl policy get {service} --resolved"), purpose);
    match cause.layer() {
        Layer::Breaker => step(format!("gwctl breaker reset {key}"), "try it again now, once it is mended"),
        Layer::Override => {
            let ids = all.concerning().filter(|entry| {
                matches!(entry.kind(), v1::OverrideKind::BreakerOpen | v1::OverrideKind::BreakerClosed)
            });
            let id = ids.map(|entry| entry.override_id.clone()).next();
            step(
                format!("gwctl end-override {}", id.unwrap_or_else(|| format!("breaker/{key}"))),
                "hand it back to the rules",
            )
        }
        Layer::Drain => step(format!("gwctl undrain {key}"), "return it to service"),
        Layer::Report => step(format!("gwctl events --replica {key}"), "what it reported, and when"),
        Layer::Registration | Layer::Eviction | Layer::Unspecified => {
            step(format!("gwctl events --replica {key}"), "what happened to it")
        }
        Layer::Lease if cause.effect() == Effect::KeepsOut => {
            step(format!("gwctl events --replica {key}"), "when it was heard of last")
        }
        Layer::Lease | Layer::SnapshotGuard => {
            step(format!("gwctl release-guard {service}"), "let go of what is gone for good")
        }
        Layer::HealthCheck => setting("what is checked, and whether it should be"),
        Layer::ConcurrencyLimit => setting("the limit, and where it is from"),
        Layer::Backlog => {
            step(format!("gwctl drain {key}"), "keep all new requests away while it is looked at")
        }
        Layer::SlowStart => setting("how long that takes, see balancing.slow_start"),
        Layer::FailOpen => {
            let row = all.causes.row_of(cause).cloned().unwrap_or_default();
            setting(match Regardless::of(&all.facts, &row) {
                Regardless::TooFew => "from when on that is so, see breaker.fail_open_threshold",
                Regardless::NobodyPasses => "what is checked, for nobody passes it",
                Regardless::Either => {
                    "what is checked, and from when on too few are left, see breaker.fail_open_threshold"
                }
            })
        }
        Layer::Priority => step(format!("gwctl explain {service}"), "how its other replicas are"),
        Layer::Propagation => step("gwctl check".into(), "whether the data plane keeps up"),
    }
}
