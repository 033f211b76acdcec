//! What checks show of a replica, in the words of the contract. Pure.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    time::{Duration, SystemTime},
};

use gateway_proto::{
    NodeId,
    policy::{CheckMethod, HealthCheck},
    time::{duration, timestamp},
    v1,
};

use super::rows::count;
use crate::{
    health::check::{Check, Verdict},
    routing::Tick,
    table::{CheckChange, Replica, Standing},
};

/// What is told of a replica's checks; `None` where it is not checked. `is_asked`: although they fail.
pub(super) fn wire(
    replica: &Replica,
    policy: &HealthCheck,
    is_asked: bool,
    date: impl Fn(Tick) -> SystemTime,
) -> Option<v1::HealthCheck> {
    let method = replica.check_method(policy)?;
    let check = replica.check();
    let (passed, failed) = check.counts();
    let verdict = check.verdict();
    let last = check.last();
    Some(v1::HealthCheck {
        r#type: kind(last.map_or(method, |last| last.method)).into(),
        state: match verdict {
            Verdict::Pending => v1::HealthCheckState::Pending,
            Verdict::Passing => v1::HealthCheckState::Passing,
            Verdict::Failing => v1::HealthCheckState::Failing,
        }
        .into(),
        state_change_time: (verdict != Verdict::Pending).then(|| timestamp(date(check.since()))),
        keeps_out: replica.standing(policy) != Standing::Asked && !is_asked,
        last_check_time: last.map(|last| timestamp(date(last.began))),
        last_duration: last.map(|last| duration(last.ended.since(last.began))),
        last_failure: last.and_then(|last| last.failure.as_deref()).unwrap_or_default().to_owned(),
        streak_count: i32::try_from(check.streak()).unwrap_or(i32::MAX),
        next_check_time: check.due().map(|due| timestamp(date(due))),
        check_count: count(passed + failed),
        failure_count: count(failed),
        // Of merged rows only.
        node_count: 0,
        failing_node_count: 0,
    })
}

/// A number for what is worth a report of its own: not that a check ended like the one before.
pub(super) fn fingerprint(replica: &Replica, policy: &HealthCheck) -> u64 {
    let Some(method) = replica.check_method(policy) else { return 0 };
    let check = replica.check();
    let mut hasher = DefaultHasher::new();
    let failure = check.last().and_then(|last| last.failure.clone());
    (method, check.verdict(), replica.standing(policy) as u8, news(&check, policy), failure)
        .hash(&mut hasher);
    hasher.finish().max(1)
}

/// The streak, while it says something.
fn news(check: &Check, policy: &HealthCheck) -> u32 {
    let has_passed = check.last().is_some_and(|last| last.failure.is_none());
    if has_passed { check.streak().min(policy.rise.into()) } else { check.streak() }
}

fn kind(method: CheckMethod) -> v1::HealthCheckType {
    match method {
        CheckMethod::Tcp => v1::HealthCheckType::Tcp,
        CheckMethod::Http => v1::HealthCheckType::Http,
        CheckMethod::Grpc => v1::HealthCheckType::Grpc,
    }
}

/// One sentence for people: "3 health checks failed: connect refused; gets no new requests here".
pub(super) fn message(change: &CheckChange) -> String {
    let turn = &change.turn;
    let checks = if turn.streak == 1 { "health check" } else { "health checks" };
    match (turn.to, turn.counts) {
        (Verdict::Failing, counts) => {
            let why = turn.last.failure.as_deref().unwrap_or("no reason is known");
            let next = if counts { "gets no new requests here" } else { "the policy only observes" };
            format!("{} {checks} failed: {why}; {next}", turn.streak)
        }
        (_, true) => {
            let span = humantime::format_duration(Duration::from_secs(change.lasted.as_secs()));
            format!("{} {checks} passed after {span} of failing: gets requests again", turn.streak)
        }
        (_, false) => format!("{} {checks} passed", turn.streak),
    }
}

/// A verdict that has changed as an event of the replica's history.
pub(super) fn event(node_id: &NodeId, change: &CheckChange, date: impl Fn(Tick) -> SystemTime) -> v1::Event {
    let turn = &change.turn;
    let (event_type, severity) = match turn.to {
        Verdict::Failing => ("HEALTH_CHECK_FAILED", v1::EventSeverity::Warning),
        Verdict::Passing | Verdict::Pending => ("HEALTH_CHECK_PASSED", v1::EventSeverity::Info),
    };
    let mut metadata = HashMap::from([
        ("address".to_owned(), change.address.to_string()),
        ("incarnation".to_owned(), change.incarnation.to_string()),
        ("type".to_owned(), turn.last.method.name().to_owned()),
        ("streak".to_owned(), turn.streak.to_string()),
    ]);
    metadata.extend(turn.last.failure.as_deref().map(|why| ("failure".to_owned(), why.to_owned())));
    v1::Event {
        event_time: Some(timestamp(date(turn.last.ended))),
        severity: severity.into(),
        event_type: event_type.into(),
        service: change.key.service.to_string(),
        replica_id: change.key.replica.to_string(),
        node_id: node_id.to_string(),
        actor: node_id.to_string(),
        message: message(change),
        metadata,
        ..Default::default()
    }
}
