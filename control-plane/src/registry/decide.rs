//! The first half of the registry: what a command would change, or why it may not.

mod deregister;
mod drain;
mod evict;
mod health;
mod lapse;
mod overrides;
mod policies;
mod register;
mod routes;

use std::{sync::Arc, time::SystemTime};

use gateway_proto::{LeaseId, ReplicaKey};

pub(super) use self::{
    deregister::{block_of, find},
    register::{becomes_his, key_of},
};
use super::{
    Answer, Candidates, Command, Mutation, Proof, Record, RegistryError, View, item::etag,
    mutation::RecordWrite,
};

/// How much the registry takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Replicas in all services together, lost ones included: it is what memory and store are sized for.
    pub replicas: usize,
    /// Replicas of one service, without those that are lost.
    pub replicas_per_service: usize,
}

/// What comes of a permitted command.
#[derive(Debug, Clone, PartialEq)]
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
        Command::Register(wish) => register::register(view, limits, wish, fresh, at),
        Command::Deregister { target, proof, said, block } => {
            deregister::deregister(view, target, *proof, said, *block, at)
        }
        Command::ReportHealth { key, lease, health, reason } => {
            health::report(view, key, *lease, *health, reason, at)
        }
        Command::Expire { key, lease, silent_for } => Ok(lapse::expire(view, key, *lease, *silent_for, at)),
        Command::Hold { key, lease, silent_for } => Ok(lapse::hold(view, key, *lease, *silent_for, at)),
        Command::Recover { key, lease } => Ok(lapse::recover(view, key, *lease, at)),
        Command::Drain(wish) => drain::drain(view, wish, at),
        Command::Undrain { key, proof, etag, said } => drain::undrain(view, key, *proof, etag, said, at),
        Command::FinishDrain { key, begun, is_idle } => Ok(drain::finish(view, key, *begun, *is_idle, at)),
        Command::UpdatePolicy(wish) => policies::update(view, wish, at),
        Command::DeletePolicy { scope, etag, said } => policies::delete(view, scope, etag, said, at),
        Command::ApplyPolicies(changes) => policies::apply(view, changes, at),
        Command::EndFault { scope, revision } => Ok(policies::end_fault(view, scope, *revision, at)),
        Command::UpdateRoute(wish) => routes::update(view, wish, at),
        Command::DeleteRoute { name, etag, said } => routes::delete(view, name, etag, said, at),
        Command::Override(wish) => overrides::set(view, wish, at),
        Command::Evict(eviction) => Ok(evict::evict(view, eviction, at)),
        Command::EndOverride { id, by } => Ok(overrides::end(view, id, by, at)),
    }
}

/// The replica that is there, and that a command would replace, report ill or remove without showing its lease. Drains are
/// looked at where they are asked for: an operator's is another thing than an owner's.
pub fn unproven<'a>(view: &'a View, command: &Command) -> Option<&'a Arc<Record>> {
    match command {
        Command::Register(wish) => {
            let (service, replica) = (wish.service.clone(), wish.replica.clone()?);
            view.get(&ReplicaKey { service, replica })
        }
        Command::Deregister { target, proof: Proof::None, .. } => find(view, target),
        Command::ReportHealth { key, lease: None, .. } => view.get(key),
        _ => None,
    }
}

/// A decision to write one record only.
fn commit(main: RecordWrite, at: SystemTime) -> Decision {
    Decision::Commit(Mutation::one(main, at))
}

/// Whether a change by whoever shows this lease is the owner's. A permanent replica asks for none, and whoever shows one is a
/// predecessor of it.
fn check_lease(record: &Record, lease: Option<LeaseId>) -> Result<(), RegistryError> {
    match (record.lease, lease) {
        (None, None) => Ok(()),
        (Some(terms), Some(id)) if terms.id == id => Ok(()),
        (_, Some(_)) => Err(RegistryError::LeaseMismatch(record.key.clone())),
        (Some(_), None) => Err(RegistryError::LeaseRequired(record.key.clone())),
    }
}

fn existing<'a>(view: &'a View, key: &ReplicaKey) -> Result<&'a Arc<Record>, RegistryError> {
    view.get(key).ok_or_else(|| RegistryError::ReplicaNotFound(key.clone()))
}

/// Whether what the caller has read is still so; an empty tag asks for nothing.
fn check_etag(tag: &str, revision: i64, what: impl FnOnce() -> String) -> Result<(), RegistryError> {
    if tag.is_empty() || tag == etag(revision) { Ok(()) } else { Err(RegistryError::EtagMismatch(what())) }
}

/// Why a lease does not keep a replica alive; also for callers that only renew.
pub fn why_lease_is_void(view: &View, key: &ReplicaKey, lease: LeaseId, now: SystemTime) -> RegistryError {
    match view.get(key).map(|record| record.lease) {
        // It has lapsed, and its replica is about to go.
        Some(Some(terms)) if terms.id == lease => RegistryError::LeaseExpired(key.clone()),
        Some(_) => RegistryError::LeaseMismatch(key.clone()),
        None => match view.removed(key).filter(|removed| removed.is_fresh(now)) {
            Some(removed) if removed.lease == Some(lease) && !removed.has_expired => {
                RegistryError::ReplicaRemoved { key: key.clone(), why: removed.why.to_string() }
            }
            _ => RegistryError::LeaseExpired(key.clone()),
        },
    }
}

#[cfg(test)]
mod tests;
