//! Removals on request.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use gateway_proto::{Address, ReplicaKey};

use super::{Decision, commit, overrides::check_quota};
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
    let Some(record) = find(view, target) else {
        return match (target, block) {
            // One that comes and goes is to be kept out, too.
            (Target::Key(key), Some(ttl)) => {
                let block = blocking(view, key, None, ttl, said, at)?;
                Ok(commit(RecordWrite { cause: Cause::Blocked, ..block }, at))
            }
            _ => {
                let revision = view.revision();
                Ok(Decision::Nothing(Answer::Deregistered { removed: false, revision }))
            }
        };
    };
    match (record.lease, proof) {
        (None, _) | (_, Proof::Force) => {}
        (Some(lease), Proof::Lease(id)) if lease.id == id => {}
        (Some(_), Proof::Lease(_)) => return Err(RegistryError::LeaseMismatch(record.key.clone())),
        (Some(_), Proof::None) => return Err(RegistryError::LeaseRequired(record.key.clone())),
    }
    let cause = Cause::Deregistered { forced: proof == Proof::Force, said: said.clone() };
    let main = RecordWrite::remove(Key::Replica(record.key.clone()), record.revision, cause);
    let block = block.map(|ttl| blocking(view, &record.key, Some(&record.address), ttl, said, at));
    let block = block.transpose()?;
    Ok(Decision::Commit(Mutation { main, also: block.into_iter().collect(), at }))
}

/// Keeps the replica, and its address if it has one, from registering for `ttl`.
fn blocking(
    view: &View,
    key: &ReplicaKey,
    address: Option<&Address>,
    ttl: Duration,
    said: &Said,
    at: SystemTime,
) -> Result<RecordWrite, RegistryError> {
    let block = Override {
        target: block_of(key),
        kind: OverrideKind::RegistrationBlocked(address.cloned()),
        created_at: at,
        expires_at: at + ttl,
        reason: said.reason.clone(),
        author: said.author.clone(),
        revision: 0,
    };
    let expected = view.override_of(&block.id()).map(|known| known.revision);
    check_quota(view, expected.is_none())?;
    Ok(RecordWrite::put(block, expected, Cause::Overridden))
}

/// What a block of this replica's registrations is about.
pub(in crate::registry) fn block_of(key: &ReplicaKey) -> OverrideTarget {
    let ReplicaKey { service, replica } = key.clone();
    OverrideTarget { aspect: Aspect::Registration, service, replica: Some(replica), node: None }
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
