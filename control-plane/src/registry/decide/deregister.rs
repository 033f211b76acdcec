//! Removals on request.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use gateway_proto::{Address, ReplicaKey};

use super::{Decision, check_lease, commit, overrides};
use crate::registry::{
    Answer, Aspect, Cause, Key, Mutation, OverrideKind, OverrideTarget, Proof, Record, RegistryError, Said,
    Target, View, mutation::RecordWrite,
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
    match proof {
        Proof::Force => {}
        Proof::Lease(id) => check_lease(record, Some(id))?,
        Proof::None => check_lease(record, None)?,
    }
    let cause = Cause::Deregistered { forced: proof == Proof::Force, said: said.clone() };
    let main = RecordWrite::remove(Key::Replica(record.key.clone()), record.revision, cause);
    let block = block.map(|ttl| blocking(view, &record.key, Some(&record.endpoint.address), ttl, said, at));
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
    let kind = OverrideKind::RegistrationBlocked(address.cloned());
    overrides::write(view, block_of(key), kind, ttl, said, at)
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
