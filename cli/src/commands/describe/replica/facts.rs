//! The first lines of a description: what the registry knows of the replica, and what others have decided about it.

use std::time::SystemTime;

use gateway_proto::{
    Health, Mode,
    policy::field::FIELDS,
    time::non_negative,
    v1::{ObservedHealth, Replica, ResolvePolicyResponse},
};

use super::About;
use crate::{
    age::{self, NONE},
    commands::get::{labels, override_subject, override_terms, spoken},
};

/// Settings that are named; the rest is counted.
const MAX_SETTINGS: usize = 6;

/// Names and values, in the order in which they are shown.
pub(super) fn facts(replica: &Replica, about: &About, now: SystemTime) -> Vec<(&'static str, String)> {
    let mut facts = vec![
        ("Replica", format!("{}/{}", replica.service, replica.replica_id)),
        ("Address", place(replica)),
        ("Health", health(replica, now)),
        ("Mode", mode(replica, now)),
        ("Lease", lease(replica, now)),
        (
            "Registered",
            format!(
                "{} ago{}   incarnation {}",
                age::since(now, replica.create_time),
                if replica.registered_by.is_empty() {
                    String::new()
                } else {
                    format!(" by {}", replica.registered_by)
                },
                replica.incarnation
            ),
        ),
    ];
    if !replica.version.is_empty() {
        facts.push(("Version", replica.version.clone()));
    }
    if !replica.labels.is_empty() {
        facts.push(("Labels", labels(replica)));
    }
    facts.extend(replica.observed.as_ref().map(|observed| ("Observed", seen(observed))));
    facts.extend(
        replica.observed.as_ref().and_then(|observed| eviction(observed, now)).map(|text| ("Eviction", text)),
    );
    for entry in &about.overrides {
        facts.push(("Override", format!("{} ({})", override_subject(entry), override_terms(entry, now))));
    }
    facts.push(("Policy", policy(&about.policy)));
    facts
}

/// `10.0.0.13:8080   weight 100   priority 1   eu-west/eu-west-1a`.
pub(in crate::commands) fn place(replica: &Replica) -> String {
    let address = replica.endpoint.as_ref().map_or_else(|| NONE.to_owned(), spoken);
    let mut text = format!("{address}   weight {}", replica.weight);
    if replica.priority > 0 {
        text = format!("{text}   priority {}", replica.priority);
    }
    let locality = replica.locality.clone().unwrap_or_default();
    let parts: Vec<_> =
        [locality.region, locality.zone].into_iter().filter(|part| !part.is_empty()).collect();
    if parts.is_empty() { text } else { format!("{text}   {}", parts.join("/")) }
}

fn name(health: i32) -> String {
    match Health::parse(health) {
        Ok(Some(health)) => health.to_string(),
        Ok(None) | Err(_) => "unknown".into(),
    }
}

pub(in crate::commands) fn health(replica: &Replica, now: SystemTime) -> String {
    let mut text = name(replica.health).to_uppercase();
    // Of health and mode, the registry tells when the later one began, and why.
    let seconds = |at: &prost_types::Timestamp| (at.seconds, at.nanos);
    let drained = replica.drain.as_ref().and_then(|drain| drain.begin_time.as_ref()).map(seconds);
    let changed = replica.state_change_time.as_ref().map(seconds);
    // A data plane that tells it by itself may not know.
    if changed.is_some() && drained.is_none_or(|drained| changed > Some(drained)) {
        text = format!("{text} for {}", age::since(now, replica.state_change_time));
        if !replica.state_reason.is_empty() {
            text = format!("{text}: {}", replica.state_reason);
        }
    }
    if Health::parse(replica.health) == Ok(Some(Health::Lost)) && replica.reported_health != 0 {
        text = format!("{text}; it reported itself {} before", name(replica.reported_health));
    }
    text
}

pub(in crate::commands) fn mode(replica: &Replica, now: SystemTime) -> String {
    let drain = replica.drain.clone().unwrap_or_default();
    let by = if drain.author.is_empty() { String::new() } else { format!(" by {}", drain.author) };
    let reason = if drain.reason.is_empty() { String::new() } else { format!(": \"{}\"", drain.reason) };
    let since = age::since(now, drain.begin_time);
    match Mode::parse(replica.mode) {
        Ok(Mode::Serving) => "serving".into(),
        Ok(Mode::Draining) => {
            let left = age::until(now, drain.deadline_time);
            format!("DRAINING for {since}{by}, what is in flight is cut in {left}{reason}")
        }
        Ok(Mode::Drained) => format!("DRAINED, drain began {since} ago{by}{reason}"),
        Err(_) => "unknown".into(),
    }
}

pub(in crate::commands) fn lease(replica: &Replica, now: SystemTime) -> String {
    match &replica.lease {
        None => NONE.into(),
        Some(lease) if lease.permanent => "permanent: no heartbeats are expected".into(),
        Some(lease) => {
            let ttl = lease.ttl.and_then(non_negative).unwrap_or_default();
            format!(
                "ttl {}, renewed {} ago, expires in {}",
                age::short(ttl),
                age::since(now, lease.last_renew_time),
                age::until(now, lease.expire_time)
            )
        }
    }
}

/// What data planes see of it, which never changes its health.
fn seen(observed: &ObservedHealth) -> String {
    let ObservedHealth { node_count, open_node_count, attempt_count, failure_count, inflight_count, .. } =
        observed;
    if *node_count == 0 {
        return "by no data plane yet".into();
    }
    let of = match observed.inflight_limit {
        0 => String::new(),
        limit => format!(" of {limit}"),
    };
    let waiting = match observed.pending_count {
        0 => String::new(),
        count => format!(" ({count} of the service's wait)"),
    };
    // Those of data planes that are gone are in the last minute, and not among these.
    let counts = format!(
        "{inflight_count}{of} in flight{waiting}, {attempt_count} attempts since data planes started, {failure_count} failed"
    );
    let counts = match (observed.minute_attempt_count, observed.minute_failure_count) {
        (0, 0) => counts,
        (attempts, failures) => format!("{counts} (last minute {attempts}, {failures} failed)"),
    };
    let planes = if *node_count == 1 { "data plane" } else { "data planes" };
    match open_node_count {
        0 => format!("{counts}, breaker closed on {node_count} {planes}"),
        open => format!("{counts}, breaker not closed on {open} of {node_count} {planes}"),
    }
}

/// When the registry removes it, if nothing changes: only for one whose checks fail everywhere.
fn eviction(observed: &ObservedHealth, now: SystemTime) -> Option<String> {
    let due = observed.eviction_time?;
    let text = match observed.eviction_held_reason.as_str() {
        "" => format!("in {}, unless its health checks pass somewhere", age::until(now, Some(due))),
        held => format!("due since {}, HELD: {held}", age::since(now, Some(due))),
    };
    Some(text)
}

/// `breaker.failure_ratio from orders, timeout.request from *, the rest by default`.
pub(in crate::commands) fn policy(resolved: &ResolvePolicyResponse) -> String {
    let set = FIELDS.iter().filter_map(|field| {
        let origin = resolved.origins.get(field.path()).filter(|origin| *origin != "default")?;
        Some((origin, field.path()))
    });
    let mut set: Vec<_> = set.collect();
    // The service's own before those of "*", whose name sorts before all others.
    set.sort_by(|one, other| other.0.cmp(one.0).then(one.1.cmp(other.1)));
    if set.is_empty() {
        return "the defaults".into();
    }
    let named = set.iter().take(MAX_SETTINGS).map(|(origin, path)| format!("{path} from {origin}"));
    let named = named.collect::<Vec<_>>().join(", ");
    match set.len().saturating_sub(MAX_SETTINGS) {
        0 => format!("{named}, the rest by default"),
        more => format!("{named} and {more} more, the rest by default"),
    }
}
