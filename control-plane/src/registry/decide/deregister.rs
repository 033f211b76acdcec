//! Removals on request.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use gateway_proto::ReplicaKey;

use super::Decision;
use crate::registry::{
    Answer, Aspect, Cause, Key, Mutation, Override, OverrideKind, OverrideTarget, Proof, Record,
    RegistryError, Said, Target, View, mutation::RecordWrite,
};

pub(super) fn deregister(
    view: &View,
    target: &Target,
    proof: Proof,
    said: &Said,
    block: Option<Duration>,
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
    let cause = Cause::Deregistered { forced: proof == Proof::Force, said: said.clone() };
    let main = RecordWrite::remove(Key::Replica(record.key.clone()), record.revision, cause);
    let block = block.map(|ttl| blocking(view, record, ttl, said, at));
    Ok(Decision::Commit(Mutation { main, also: block.into_iter().collect(), at }))
}

/// Keeps the replica and its address from registering for `ttl`.
fn blocking(view: &View, record: &Record, ttl: Duration, said: &Said, at: SystemTime) -> RecordWrite {
    let ReplicaKey { service, replica } = record.key.clone();
    let block = Override {
        target: OverrideTarget { aspect: Aspect::Registration, service, replica: Some(replica), node: None },
        kind: OverrideKind::RegistrationBlocked(record.address.clone()),
        created_at: at,
        expires_at: at + ttl,
        reason: said.reason.clone(),
        author: said.author.clone(),
        revision: 0,
    };
    let expected = view.override_of(&block.id()).map(|known| known.revision);
    RecordWrite::put(block, expected, Cause::Overridden)
}

/// The replica that a target names.
pub(in crate::registry) fn find<'a>(view: &'a View, target: &Target) -> Option<&'a Arc<Record>> {
    match target {
        Target::Key(key) => view.get(key),
        Target::Address(service, address) => {
            let replica = view.owner(service, address)?.clone();
            view.get(&ReplicaKey { service: service.clone(), replica })
        }
    }
}
