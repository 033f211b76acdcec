//! Registrations: who is it, may it, and what becomes of whom it replaces.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use gateway_proto::{ReplicaId, ReplicaKey};

use super::{Decision, Limits};
use crate::registry::{
    Answer, Candidates, Cause, Drain, Key, LeaseTerms, Mutation, Override, OverrideKind, Record,
    Registration, RegistryError, SparseText, View,
    mutation::{RecordWrite, author, because},
    record::RequestMark,
};

/// The key that a registration is about: its own id, else the owner of its address, else a fresh id.
pub(in crate::registry) fn key_of(
    view: &View,
    registration: &Registration,
    fresh: &Candidates,
) -> ReplicaKey {
    let service = view.shared_name(&registration.service);
    let known = registration
        .replica
        .as_ref()
        .or_else(|| view.owner(&registration.service, &registration.endpoint.address));
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

pub(super) fn register(
    view: &View,
    limits: &Limits,
    wish: &Registration,
    fresh: &Candidates,
    at: SystemTime,
) -> Result<Decision, RegistryError> {
    let key = key_of(view, wish, fresh);
    let before = view.get(&key);
    if let Some(answer) = repeated_answer(view, wish, at)? {
        return Ok(Decision::Nothing(answer));
    }
    check_block(view, &key, wish, at)?;
    let superseded = superseded(view, &key, wish)?;
    if let Some(record) = before.filter(|record| says_the_same(record, wish)) {
        return Ok(Decision::Nothing(Answer::Registered { record: Arc::clone(record), created: false }));
    }
    let predecessor = before.or(superseded);
    if predecessor.is_none() {
        check_room(view, limits, wish)?;
    }
    if predecessor.is_none_or(|record| becomes_his(record, wish)) {
        wish.registrant.check(limits, &wish.service, view.held_by(&wish.registrant.name), None)?;
    }
    let cause = match before {
        None => Cause::Registered,
        Some(record) => Cause::Replaced { incarnation: record.incarnation },
    };
    let mut record = new_record(view, &key, before, wish, fresh, at);
    if let Some(old) = superseded.filter(|_| before.is_none()) {
        // It takes one's place, and is none more.
        record.first_incarnation = old.first_incarnation;
    }
    // What an operator wants out stays out, whatever process takes its place, and under whatever id.
    let ordered = |record: &Arc<Record>| record.drain.clone().filter(|drain| !drain.by_owner);
    // Of another replica it is a word about this one from now on: what this one has in flight is still to end, for which it
    // has as long as that one had.
    let anew = |drain: Box<Drain>| {
        let given = drain.deadline.duration_since(drain.begun).unwrap_or_default().min(Drain::LONGEST);
        Box::new(Drain { begun: at, deadline: at + given, is_over: false, revision: 0, ..*drain })
    };
    record.drain = before.and_then(ordered).or_else(|| superseded.and_then(ordered).map(anew));
    let main = RecordWrite::put(record, before.map(|record| record.revision), cause);
    let also = superseded.map(|old| {
        let cause = Cause::Superseded { by: key.replica.clone() };
        RecordWrite::remove(Key::Replica(old.key.clone()), old.revision, cause)
    });
    Ok(Decision::Commit(Mutation { main, also: also.into_iter().collect(), at }))
}

fn new_record(
    view: &View,
    key: &ReplicaKey,
    before: Option<&Arc<Record>>,
    wish: &Registration,
    fresh: &Candidates,
    at: SystemTime,
) -> Record {
    let incarnation = view.latest_incarnation() + 1;
    let request = wish.request.map(|id| {
        Box::new(RequestMark { id, fingerprint: wish.fingerprint(), at, created: before.is_none() })
    });
    Record {
        key: key.clone(),
        endpoint: wish.endpoint.clone(),
        weight: wish.weight,
        priority: wish.priority,
        locality: wish.locality.clone(),
        version: wish.version.as_str().into(),
        labels: wish.labels.clone(),
        health: wish.health,
        health_reason: SparseText::default(),
        health_since: at,
        lease: wish.ttl.map(|ttl| LeaseTerms::new(fresh.lease, ttl)),
        lost: None,
        drain: None,
        request,
        registered_by: wish.registrant.name.clone(),
        incarnation,
        first_incarnation: before.map_or(incarnation, |record| record.first_incarnation),
        created_at: before.map_or(at, |record| record.created_at),
        updated_at: at,
        revision: 0,
    }
}

/// The first answer to a request that comes again, or why there is none any more. Requests are told apart by their ids
/// alone, whatever they ask for: one that names no replica does not find its own again once another has the address.
fn repeated_answer(
    view: &View,
    wish: &Registration,
    at: SystemTime,
) -> Result<Option<Answer>, RegistryError> {
    let Some(id) = wish.request else { return Ok(None) };
    let check = |mark: RequestMark, key: &ReplicaKey| match mark.fingerprint == wish.fingerprint() {
        true => Ok(mark),
        false => Err(RegistryError::RequestIdReused(key.clone())),
    };
    if let Some(record) = view.requested(id)
        && let Some(mark) = record.request.as_deref().filter(|mark| mark.is_fresh(at))
    {
        let RequestMark { created, .. } = check(*mark, &record.key)?;
        return Ok(Some(Answer::Registered { record: Arc::clone(record), created }));
    }
    match view.ended_request(id).filter(|ended| ended.mark.is_fresh(at)) {
        Some(ended) => {
            check(ended.mark, &ended.key)?;
            Err(RegistryError::ReplicaRemoved { key: ended.key.clone(), why: ended.why.to_string() })
        }
        None => Ok(None),
    }
}

/// Whether a permanent replica says again exactly what is known of it. A leased one is due a new lease instead.
fn says_the_same(record: &Record, wish: &Registration) -> bool {
    record.lease.is_none()
        && wish.ttl.is_none()
        && wish.request.is_none()
        && record.endpoint == wish.endpoint
        && record.weight == wish.weight
        && record.priority == wish.priority
        && record.locality == wish.locality
        && *record.version == *wish.version
        && record.labels == wish.labels
        && record.health == wish.health
}

/// The lost replica whose address this registration takes over, if another replica has the address.
fn superseded<'a>(
    view: &'a View,
    key: &ReplicaKey,
    wish: &Registration,
) -> Result<Option<&'a Arc<Record>>, RegistryError> {
    let owner = view.owner(&wish.service, &wish.endpoint.address).filter(|owner| **owner != key.replica);
    let owner = owner.map(|replica| ReplicaKey { service: key.service.clone(), replica: replica.clone() });
    match owner.and_then(|owner| view.get(&owner)) {
        None => Ok(None),
        // Nobody has heard of it, and somebody is there: the registry was right about it.
        Some(record) if record.lost.is_some() => Ok(Some(record)),
        Some(record) => Err(RegistryError::AddressInUse {
            service: wish.service.clone(),
            address: wish.endpoint.address.clone(),
            owner: record.key.replica.clone(),
        }),
    }
}

fn check_block(
    view: &View,
    key: &ReplicaKey,
    wish: &Registration,
    at: SystemTime,
) -> Result<(), RegistryError> {
    let hit = |entry: &&Arc<Override>| {
        let is_address = matches!(&entry.kind, OverrideKind::RegistrationBlocked(Some(address)) if *address == wish.endpoint.address);
        entry.expires_at > at && (is_address || entry.target.replica.as_ref() == Some(&key.replica))
    };
    let Some(entry) = view.blocks(&key.service).find(hit) else { return Ok(()) };
    let remaining = entry.expires_at.duration_since(at).unwrap_or_default();
    let what = match entry.target.replica.as_ref() == Some(&key.replica) {
        true => key.to_string(),
        false => format!("{} in {}", wish.endpoint.address, key.service),
    };
    let by = because(author(&entry.author), &entry.reason);
    Err(RegistryError::RegistrationBlocked {
        what,
        remaining: Duration::from_secs(remaining.as_secs() + u64::from(remaining.subsec_nanos() > 0)),
        by,
    })
}

/// Whether a replica that has been another's is the registrant's from then on, and counts for him as a new one does: else two who take
/// each other's places in turns would have any number. What has had no registrant is free to take.
pub(in crate::registry) fn becomes_his(predecessor: &Record, wish: &Registration) -> bool {
    let of = &predecessor.registered_by;
    !of.is_empty() && *of != wish.registrant.name
}

fn check_room(view: &View, limits: &Limits, wish: &Registration) -> Result<(), RegistryError> {
    let of = "replicas";
    if view.replica_count() >= limits.replicas {
        return Err(RegistryError::QuotaExceeded { service: None, of, limit: limits.replicas });
    }
    let (service, limit) = (Some(wish.service.clone()), limits.replicas_per_service);
    match view.population(&wish.service).excess(limit) {
        Some(_) => Err(RegistryError::QuotaExceeded { service, of, limit }),
        None => Ok(()),
    }
}
