//! What a data plane reports, checked and cut to size.
//!
//! Names must be right, for they are keys. Texts are for people and are cut rather than refused: a report is worth
//! more than the end of its longest sentence.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::LazyLock,
    time::{Duration, SystemTime},
};

use gateway_proto::{
    Invalid, NodeId, ReplicaKey, ServiceName,
    time::{self, timestamp},
    v1,
};
use gateway_runtime::printable::is_acted_on;

use super::{
    catalog::EventType,
    matrix::BreakerReport,
    row::{Behind, Row},
    stats::{StatsReport, parse_stats},
    what_if::Answered,
};
use crate::registry::Revision;

/// A reason or a sentence.
const MAX_TEXT_CHARS: usize = 512;
/// One of the last errors, or a value of an event's metadata.
const MAX_DETAIL_CHARS: usize = 200;
/// Why an operator decided something.
const MAX_REASON_CHARS: usize = 256;
/// Who did something, or a key of metadata.
const MAX_KEY_CHARS: usize = 63;
const MAX_LAST_ERRORS: usize = 5;
const MAX_METADATA: usize = 16;
/// Transitions in one message; a data plane that has more to tell says so in `dropped_event_count`.
const MAX_EVENTS: usize = 1000;
/// Replicas named as held in one message.
pub(super) const MAX_HELD: usize = 1000;

/// A checked `ReportNodeStatusRequest`, apart from the sender's identity.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Report {
    /// The breakers.
    pub breakers: BreakerReport,
    /// Transitions, oldest first.
    pub events: Vec<v1::Event>,
    /// Transitions that could not be told.
    pub lost_events: u64,
    /// Epoch and revision of the snapshot that was routed by; `None`: not said.
    pub routed_by: Option<(String, Revision)>,
    /// What the guard holds; `None`: as before, or in a full report: nothing.
    pub held: Option<Held>,
    /// The same as it was told.
    pub(super) held_as_told: Option<v1::HeldReplicas>,
    /// How late its health checks begin, zero where that is of no account; `None`: as before, or in a full report: on time.
    pub checks_late: Option<Duration>,
    /// Counts of an interval.
    pub stats: Option<StatsReport>,
    /// Which of its messages with events this is; 0: it does not say.
    pub batch: i64,
    /// Whether the data plane has ended, and this is its last word.
    pub is_leaving: bool,
    /// What would have been, if that was asked.
    pub answered: Option<Answered>,
}

/// Replicas that a data plane's guard holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Held {
    /// How many.
    pub count: usize,
    /// Whose they are, each once, in order.
    pub services: Vec<ServiceName>,
    /// The named ones, and since when each is held, in order. Known by a hash, for thousands of data planes may hold a
    /// thousand each.
    pub(super) replicas: Box<[(u64, Option<u32>)]>,
}

impl Held {
    /// Whether this replica is among the named ones, and since when; a replica in billions is taken for another.
    pub fn since(&self, key: &ReplicaKey) -> Option<Option<SystemTime>> {
        let place = self.replicas.binary_search_by_key(&name_hash(key), |(name, _)| *name).ok()?;
        let seconds = self.replicas[place].1;
        Some(seconds.map(|seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.into())))
    }
}

/// Not to be foreseen from outside.
fn name_hash(key: &ReplicaKey) -> u64 {
    static STATE: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    STATE.hash_one(key)
}

impl Report {
    /// Checks a report of `node` that came at `at`.
    ///
    /// # Errors
    /// [`Invalid`] naming the entry at fault: a bad name, a state or an event that this version does not know.
    pub fn parse(node: &NodeId, wire: v1::ReportNodeStatusRequest, at: SystemTime) -> Result<Self, Invalid> {
        if wire.events.len() > MAX_EVENTS {
            return Err(Invalid::new("events", format!("are more than {MAX_EVENTS} in one message")));
        }
        if wire.revision < 0 {
            return Err(Invalid::new("revision", format!("{} is below zero", wire.revision)));
        }
        // What only newer data planes know is left out: the rest of what they say is worth more.
        let is_known = |row: &v1::Breaker| v1::BreakerState::try_from(row.state).is_ok();
        let breakers = wire.breakers.into_iter().filter(is_known).enumerate().map(|(index, row)| {
            parse_breaker(node, row).map_err(|invalid| invalid.within(&format!("breakers[{index}]")))
        });
        let breakers = BreakerReport { full: wire.full, breakers: breakers.collect::<Result<_, _>>()? };
        let count = wire.events.len();
        let is_known = |event: &v1::Event| EventType::find(&event.event_type).is_some();
        let known: Vec<_> = wire.events.into_iter().filter(is_known).collect();
        let unknown = (count - known.len()) as u64;
        let events = known.into_iter().enumerate().map(|(index, event)| {
            parse_event(node, event, at).map_err(|invalid| invalid.within(&format!("events[{index}]")))
        });
        let held_as_told = wire.held_replicas.clone();
        let held = wire
            .held_replicas
            .map(|held| parse_held(held).map_err(|invalid| invalid.within("held_replicas")));
        Ok(Self {
            breakers,
            events: events.collect::<Result<_, _>>()?,
            lost_events: u64::try_from(wire.dropped_event_count).unwrap_or(0).saturating_add(unknown),
            routed_by: (!wire.epoch.is_empty()).then_some((wire.epoch, wire.revision)),
            held: held.transpose()?,
            held_as_told,
            checks_late: wire
                .health_check_lateness
                .map(|late| time::parse_duration("health_check_lateness", late))
                .transpose()?,
            stats: parse_stats(wire.stats, wire.stats_interval)?,
            batch: wire.batch_number.max(0),
            is_leaving: wire.is_leaving,
            answered: wire
                .what_if_answer
                .map(|answer| {
                    Answered::parse(node, answer).map_err(|invalid| invalid.within("what_if_answer"))
                })
                .transpose()?,
        })
    }
}

pub(super) fn parse_breaker(node: &NodeId, mut wire: v1::Breaker) -> Result<(ReplicaKey, Row), Invalid> {
    let key = ReplicaKey::parse(&wire.service, &wire.replica_id)?;
    let state = match v1::BreakerState::try_from(wire.state) {
        Err(_) | Ok(v1::BreakerState::Unspecified) => {
            return Err(Invalid::new("state", format!("{} is no state of a breaker", wire.state)));
        }
        Ok(state) => state,
    };
    let active_override = wire.active_override.take().map(|entry| {
        let entry = parse_override(node, &key, entry).map_err(|invalid| invalid.within("active_override"));
        entry.map(Box::new)
    });
    let check = wire.health_check.take().map(|check| {
        let check = parse_check(check).map_err(|invalid| invalid.within("health_check"));
        check.map(Box::new)
    });
    let behind = parse_behind(&mut wire);
    wire.last_errors.truncate(MAX_LAST_ERRORS);
    wire.last_failures.truncate(MAX_LAST_ERRORS);
    let row = Row {
        state,
        // A rule that this version does not know is no reason to refuse what it led to.
        rule: wire.rule(),
        address: cut(wire.address, MAX_TEXT_CHARS).into(),
        // Tools that write JSON cannot write an instant that is none.
        state_change_time: wire.state_change_time.filter(time::is_valid),
        retry_time: wire.retry_time.filter(time::is_valid),
        reason: cut(wire.reason, MAX_TEXT_CHARS).into(),
        window_request_count: wire.window_request_count.max(0),
        window_failure_count: wire.window_failure_count.max(0),
        window_slow_count: wire.window_slow_count.max(0),
        asked_regardless: wire.asked_regardless,
        trip_count: wire.trip_count.max(0),
        consecutive_failure_count: wire.consecutive_failure_count.max(0),
        // In little space: a policy cannot ask for more, nor does a streak grow longer.
        probe_success_count: small(wire.probe_success_count),
        probe_success_target: small(wire.probe_success_target),
        inflight_count: wire.inflight_count.max(0),
        inflight_limit: wire.inflight_limit.max(0),
        pending_count: wire.pending_count.max(0),
        incarnation: wire.incarnation,
        generation: wire.generation,
        last_errors: wire.last_errors.into_iter().map(|text| cut(text, MAX_DETAIL_CHARS).into()).collect(),
        attempt_count: wire.attempt_count.max(0),
        failure_count: wire.failure_count.max(0),
        retry_count: wire.retry_count.max(0),
        active_override: active_override.transpose()?,
        check: check.transpose()?,
        registration_attempt_count: wire.registration_attempt_count.max(0),
        registration_failure_count: wire.registration_failure_count.max(0),
        behind,
        last_failures: wire.last_failures.into_iter().map(parse_failure).collect(),
        trip_streak: u8::try_from(wire.trip_streak.max(0)).unwrap_or(u8::MAX),
        stands_by: wire.stands_by,
    };
    Ok((key, row))
}

fn small(count: i32) -> u16 {
    u16::try_from(count.max(0)).unwrap_or(u16::MAX)
}

fn parse_measures(wire: v1::Measures) -> v1::Measures {
    let span = |span: Option<prost_types::Duration>| span.and_then(time::non_negative).map(time::duration);
    let share = wire.slow_start_share;
    v1::Measures {
        latency: span(wire.latency),
        latency_sample_count: wire.latency_sample_count.max(0),
        peer_latency: span(wire.peer_latency),
        peer_count: wire.peer_count.max(0),
        // Tools that write JSON have no word for what is no number.
        slow_start_share: if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 },
        slow_start_end_time: wire.slow_start_end_time.filter(time::is_valid),
        unanswered_count: wire.unanswered_count.max(0),
        peer_unanswered_count: wire.peer_unanswered_count.max(0),
    }
}

/// What active checks show of a replica on one data plane.
fn parse_check(wire: v1::HealthCheck) -> Result<v1::HealthCheck, Invalid> {
    match v1::HealthCheckState::try_from(wire.state) {
        Err(_) | Ok(v1::HealthCheckState::Unspecified) => {
            return Err(Invalid::new("state", format!("{} is no state of health checks", wire.state)));
        }
        Ok(_) => {}
    }
    Ok(v1::HealthCheck {
        // A type that this version does not know is no reason to refuse what it led to.
        r#type: wire.r#type().into(),
        state: wire.state,
        state_change_time: wire.state_change_time.filter(time::is_valid),
        keeps_out: wire.keeps_out,
        last_check_time: wire.last_check_time.filter(time::is_valid),
        last_duration: wire.last_duration.and_then(time::non_negative).map(time::duration),
        last_failure: cut(wire.last_failure, MAX_DETAIL_CHARS),
        streak_count: wire.streak_count.max(0),
        next_check_time: wire.next_check_time.filter(time::is_valid),
        check_count: wire.check_count.max(0),
        failure_count: wire.failure_count.clamp(0, wire.check_count.max(0)),
        // Of merged rows only.
        node_count: 0,
        failing_node_count: 0,
    })
}

fn parse_behind(wire: &mut v1::Breaker) -> Option<Box<Behind>> {
    let behind = Behind {
        last_trip: wire.last_trip.take().map(parse_trip),
        failed_probe: wire.last_failed_probe.take().map(parse_trip),
        withheld: wire.last_withheld_trip.take().map(parse_trip),
        measures: wire.measures.take().map(parse_measures),
        out_time: wire.out_time.filter(time::is_valid),
        port_checked: wire.port_checked,
        nobody_else: wire.nobody_else,
    };
    (behind != Behind::default()).then(|| Box::new(behind))
}

fn parse_trip(wire: v1::Trip) -> v1::Trip {
    // JSON has no number for what is none.
    let finite = |number: f64| if number.is_finite() { number } else { 0.0 };
    v1::Trip {
        trip_time: wire.trip_time.filter(time::is_valid),
        observed: finite(wire.observed),
        threshold: finite(wire.threshold),
        sample_count: wire.sample_count.max(0),
        open_time: wire.open_time.and_then(time::non_negative).map(time::duration),
        reason: cut(wire.reason, MAX_TEXT_CHARS),
        ..wire
    }
}

fn parse_failure(wire: v1::FailedAttempt) -> v1::FailedAttempt {
    v1::FailedAttempt {
        failure_time: wire.failure_time.filter(time::is_valid),
        error: cut(wire.error, MAX_DETAIL_CHARS),
        request_id: cut(wire.request_id, MAX_DETAIL_CHARS),
    }
}

/// An override that a breaker obeys: of this replica or of all, on this data plane or on all.
fn parse_override(
    node: &NodeId,
    key: &ReplicaKey,
    wire: v1::OverrideEntry,
) -> Result<v1::OverrideEntry, Invalid> {
    if !matches!(wire.kind(), v1::OverrideKind::BreakerOpen | v1::OverrideKind::BreakerClosed) {
        return Err(Invalid::new("kind", format!("{} forces no breaker", wire.kind)));
    }
    let names = [
        ("service", &wire.service, [key.service.as_str(), key.service.as_str()]),
        ("replica_id", &wire.replica_id, [key.replica.as_str(), "-"]),
        ("node_id", &wire.node_id, [node.as_str(), ""]),
    ];
    for (field, name, known) in names {
        if !known.contains(&name.as_str()) {
            return Err(Invalid::new(field, "is not that of the breaker"));
        }
    }
    Ok(v1::OverrideEntry {
        override_id: cut(wire.override_id, MAX_REASON_CHARS),
        service: cut(wire.service, MAX_KEY_CHARS),
        replica_id: cut(wire.replica_id, MAX_KEY_CHARS),
        node_id: cut(wire.node_id, MAX_KEY_CHARS),
        kind: wire.kind,
        create_time: wire.create_time.filter(time::is_valid),
        expire_time: wire.expire_time.filter(time::is_valid),
        reason: cut(wire.reason, MAX_REASON_CHARS),
        author: cut(wire.author, MAX_KEY_CHARS),
        revision: wire.revision.max(0),
        // Of blocked registrations only.
        address: String::new(),
    })
}

fn parse_event(node: &NodeId, wire: v1::Event, at: SystemTime) -> Result<v1::Event, Invalid> {
    let known = EventType::find(&wire.event_type).filter(|known| known.is_reported);
    let Some(known) = known else {
        let shown: String = wire.event_type.escape_default().take(40).collect();
        return Err(Invalid::new("event_type", format!("\"{shown}\" is no transition of a breaker")));
    };
    let (service, replica_id) = if known.is_of_a_service() {
        (ServiceName::parse(&wire.service)?.to_string(), String::new())
    } else {
        let key = ReplicaKey::parse(&wire.service, &wire.replica_id)?;
        (key.service.to_string(), key.replica.to_string())
    };
    if wire.metadata.len() > MAX_METADATA {
        return Err(Invalid::new("metadata", format!("has more than {MAX_METADATA} entries")));
    }
    let metadata = wire.metadata.into_iter();
    Ok(v1::Event {
        event_time: wire.event_time.filter(time::is_valid).or(Some(timestamp(at))),
        severity: known.severity.into(),
        event_type: known.name.into(),
        service,
        replica_id,
        node_id: node.to_string(),
        // Breakers act by themselves, but for what an operator wanted.
        actor: match cut(wire.actor, MAX_KEY_CHARS) {
            author if !author.is_empty() && known.is_forced() => author,
            _ => node.to_string(),
        },
        message: cut(wire.message, MAX_TEXT_CHARS),
        metadata: metadata
            .map(|(key, value)| (cut(key, MAX_KEY_CHARS), cut(value, MAX_DETAIL_CHARS)))
            .collect(),
        ..Default::default()
    })
}

/// An event that another control plane has noted: of whatever type, for it may know more of them, and of our size.
pub(super) fn cut_event(wire: v1::Event) -> v1::Event {
    let metadata = wire.metadata.into_iter().take(MAX_METADATA);
    v1::Event {
        event_id: String::new(),
        event_time: wire.event_time.filter(time::is_valid),
        severity: wire.severity,
        event_type: cut(wire.event_type, MAX_KEY_CHARS),
        service: cut(wire.service, MAX_KEY_CHARS),
        replica_id: cut(wire.replica_id, MAX_KEY_CHARS),
        node_id: cut(wire.node_id, MAX_KEY_CHARS),
        actor: cut(wire.actor, MAX_KEY_CHARS),
        message: cut(wire.message, MAX_TEXT_CHARS),
        metadata: metadata
            .map(|(key, value)| (cut(key, MAX_KEY_CHARS), cut(value, MAX_DETAIL_CHARS)))
            .collect(),
        repeat_count: wire.repeat_count.max(0),
        first_time: wire.first_time.filter(time::is_valid),
        control_plane: String::new(),
    }
}

/// A refusal as it is kept and shown.
pub(super) fn cut_nack(wire: v1::Nack) -> v1::Nack {
    v1::Nack { reason: cut(wire.reason, MAX_KEY_CHARS), message: cut(wire.message, MAX_TEXT_CHARS) }
}

/// The control plane that was followed before, as it is kept and shown.
pub(super) fn cut_left(wire: v1::LeftControlPlane) -> Option<v1::LeftControlPlane> {
    let (url, reason) = (cut(wire.url, MAX_TEXT_CHARS), cut(wire.reason, MAX_KEY_CHARS));
    let leave_time = wire.leave_time.filter(time::is_valid);
    (!url.is_empty()).then_some(v1::LeftControlPlane { url, reason, leave_time })
}

pub(super) fn parse_held(wire: v1::HeldReplicas) -> Result<Held, Invalid> {
    if wire.replicas.len() > MAX_HELD {
        return Err(Invalid::new("replicas", format!("are more than {MAX_HELD} in one message")));
    }
    let (mut services, mut replicas) = (Vec::new(), Vec::with_capacity(wire.replicas.len()));
    for (index, replica) in wire.replicas.iter().enumerate() {
        let key = ReplicaKey::parse(&replica.service, &replica.replica_id);
        let key = key.map_err(|invalid| invalid.within(&format!("replicas[{index}]")))?;
        let missing = replica.missing_time.and_then(|at| u32::try_from(at.seconds).ok());
        replicas.push((name_hash(&key), missing));
        services.push(key.service);
    }
    services.sort_unstable();
    services.dedup();
    replicas.sort_unstable();
    let count = usize::try_from(wire.total_count).unwrap_or(0).max(wire.replicas.len());
    Ok(Held { count, services, replicas: replicas.into() })
}

/// Shortens a text that is kept, and gives back the memory that the message had needed for it. Whoever it is shown to is not to
/// be reached by what a terminal would act on.
fn cut(mut text: String, max_chars: usize) -> String {
    if let Some((end, _)) = text.char_indices().nth(max_chars) {
        text.truncate(end);
    }
    if text.contains(is_acted_on) {
        text = text.replace(is_acted_on, "\u{fffd}");
    }
    text.shrink_to_fit();
    text
}

#[cfg(test)]
mod tests;
