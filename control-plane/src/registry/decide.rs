//! The first half of the registry: what a command would change, or why it may not.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use gateway_proto::{Health, LeaseId, ReplicaId, ReplicaKey};

use super::{
    Answer, Candidates, Cause, Command, LeaseTerms, Mutation, Proof, Record, Registration, RegistryError,
    Target, View, Write,
};

/// How much the registry takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Replicas in all services together.
    pub replicas: usize,
    /// Replicas of one service.
    pub replicas_per_service: usize,
}

/// What comes of a permitted command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Commit this; the answer follows from what was committed, see [`Mutation::answer`].
    Commit(Mutation),
    /// Everything is as the command wants it: no new revision.
    Nothing(Answer),
}

/// Decides a command at wall-clock time `at`. Pure: the same arguments give the same decision.
///
/// # Errors
/// [`RegistryError`]: which rule forbids it.
pub fn decide(
    view: &View,
    limits: &Limits,
    command: &Command,
    fresh: &Candidates,
    at: SystemTime,
) -> Result<Decision, RegistryError> {
    match command {
        Command::Register(registration) => register(view, limits, registration, fresh, at),
        Command::Deregister { target, proof, reason } => deregister(view, target, *proof, reason, at),
        Command::ReportHealth { key, lease, health, reason } => {
            report_health(view, key, *lease, *health, reason, at)
        }
        Command::Expire { key, lease, silent_for } => Ok(expire(view, key, *lease, *silent_for, at)),
    }
}

/// The key that a registration is about: its own id, else the owner of its address, else a fresh id.
pub(super) fn key_of(view: &View, registration: &Registration, fresh: &Candidates) -> ReplicaKey {
    let service = registration.service.clone();
    let known =
        registration.replica.as_ref().or_else(|| view.owner(&registration.service, &registration.address));
    if let Some(replica) = known {
        return ReplicaKey { service, replica: replica.clone() };
    }
    // 40 random bits collide too seldom to matter, and too often to be left undecided.
    let ids = std::iter::once(fresh.replica.clone()).chain((2_u32..).map(|n| {
        ReplicaId::parse(&format!("{}-{n}", fresh.replica)).expect("a short label with a number is a label")
    }));
    ids.map(|replica| ReplicaKey { service: service.clone(), replica })
        .find(|key| view.get(key).is_none())
        .expect("the sequence of ids is longer than the registry")
}

fn register(
    view: &View,
    limits: &Limits,
    wish: &Registration,
    fresh: &Candidates,
    at: SystemTime,
) -> Result<Decision, RegistryError> {
    let key = key_of(view, wish, fresh);
    if let Some(owner) = view.owner(&wish.service, &wish.address).filter(|owner| **owner != key.replica) {
        return Err(RegistryError::AddressInUse {
            service: wish.service.clone(),
            address: wish.address.clone(),
            owner: owner.clone(),
        });
    }
    let before = view.get(&key);
    if let Some(record) = before.filter(|record| is_repeated(record, wish)) {
        return Ok(Decision::Nothing(Answer::Registered { record: Arc::clone(record), created: false }));
    }
    if before.is_none() {
        check_quota(view, limits, &wish.service)?;
    }
    // The view's revision outgrew every incarnation handed out, those of removed replicas included: no tombstones.
    let incarnation = before.map_or(0, |record| record.incarnation).max(view.revision()) + 1;
    let record = Record {
        key: key.clone(),
        address: wish.address.clone(),
        weight: wish.weight,
        version: wish.version.clone(),
        labels: wish.labels.clone(),
        health: wish.health,
        health_reason: String::new(),
        health_since: at,
        lease: wish.ttl.map(|ttl| LeaseTerms { id: fresh.lease, ttl }),
        incarnation,
        created_at: before.map_or(at, |record| record.created_at),
        updated_at: at,
        revision: 0,
    };
    let cause = match before {
        None => Cause::Registered,
        Some(record) => Cause::Replaced { incarnation: record.incarnation },
    };
    Ok(Decision::Commit(Mutation {
        key,
        expected: before.map(|record| record.revision),
        write: Write::Put(Box::new(record)),
        cause,
        at,
    }))
}

/// Whether a permanent replica says again exactly what is known of it. A leased one is due a new lease instead.
fn is_repeated(record: &Record, wish: &Registration) -> bool {
    record.lease.is_none()
        && wish.ttl.is_none()
        && record.address == wish.address
        && record.weight == wish.weight
        && record.version == wish.version
        && record.labels == wish.labels
        && record.health == wish.health
}

fn check_quota(
    view: &View,
    limits: &Limits,
    service: &gateway_proto::ServiceName,
) -> Result<(), RegistryError> {
    if view.replica_count() >= limits.replicas {
        return Err(RegistryError::QuotaExceeded { what: "the registry".into(), limit: limits.replicas });
    }
    let count = view.service(service).map_or(0, |entry| entry.replicas().len());
    if count >= limits.replicas_per_service {
        let what = format!("service {service}");
        return Err(RegistryError::QuotaExceeded { what, limit: limits.replicas_per_service });
    }
    Ok(())
}

fn deregister(
    view: &View,
    target: &Target,
    proof: Proof,
    reason: &str,
    at: SystemTime,
) -> Result<Decision, RegistryError> {
    let absent = Decision::Nothing(Answer::Deregistered { removed: false, revision: view.revision() });
    let Some(record) = find(view, target) else { return Ok(absent) };
    match (record.lease, proof) {
        (None, _) | (_, Proof::Force) => {}
        (Some(lease), Proof::Lease(id)) if lease.id == id => {}
        (Some(_), Proof::Lease(_)) => return Err(RegistryError::LeaseMismatch(record.key.clone())),
        (Some(_), Proof::None) => return Err(RegistryError::LeaseRequired(record.key.clone())),
    }
    let cause = Cause::Deregistered { forced: proof == Proof::Force, reason: reason.to_owned() };
    Ok(Decision::Commit(removal(record, cause, at)))
}

pub(super) fn find<'a>(view: &'a View, target: &Target) -> Option<&'a Arc<Record>> {
    match target {
        Target::Key(key) => view.get(key),
        Target::Address(service, address) => {
            let replica = view.owner(service, address)?.clone();
            view.get(&ReplicaKey { service: service.clone(), replica })
        }
    }
}

fn report_health(
    view: &View,
    key: &ReplicaKey,
    lease: Option<LeaseId>,
    health: Health,
    reason: &str,
    at: SystemTime,
) -> Result<Decision, RegistryError> {
    let Some(record) = view.get(key) else {
        return Err(match lease {
            Some(_) => RegistryError::LeaseExpired(key.clone()),
            None => RegistryError::ReplicaNotFound(key.clone()),
        });
    };
    match (record.lease, lease) {
        (None, _) => {}
        (Some(terms), Some(id)) if terms.id == id => {}
        (Some(_), Some(_)) => return Err(RegistryError::LeaseMismatch(key.clone())),
        (Some(_), None) => return Err(RegistryError::LeaseRequired(key.clone())),
    }
    if record.health == health && record.health_reason == reason {
        return Ok(Decision::Nothing(Answer::HealthReported(Arc::clone(record))));
    }
    let next = Record {
        health,
        health_reason: reason.to_owned(),
        health_since: if record.health == health { record.health_since } else { at },
        updated_at: at,
        ..Record::clone(record)
    };
    Ok(Decision::Commit(Mutation {
        key: key.clone(),
        expected: Some(record.revision),
        write: Write::Put(Box::new(next)),
        cause: Cause::HealthReported { before: record.health },
        at,
    }))
}

fn expire(view: &View, key: &ReplicaKey, lease: LeaseId, silent_for: Duration, at: SystemTime) -> Decision {
    let holder = view.get(key).and_then(|record| record.lease.map(|terms| (record, terms)));
    match holder {
        Some((record, terms)) if terms.id == lease => {
            Decision::Commit(removal(record, Cause::Expired { silent_for, ttl: terms.ttl }, at))
        }
        // Renewed by a new registration, or removed: this lease guards nothing any more.
        _ => Decision::Nothing(Answer::Expired { removed: false }),
    }
}

fn removal(record: &Record, cause: Cause, at: SystemTime) -> Mutation {
    Mutation { key: record.key.clone(), expected: Some(record.revision), write: Write::Remove, cause, at }
}

#[cfg(test)]
mod tests;
