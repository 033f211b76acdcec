//! Changes of stored policies.

use std::{sync::Arc, time::SystemTime};

use gateway_proto::policy::{self, Partial};

use super::{Decision, check_etag, commit};
use crate::registry::{
    Answer, Cause, Key, PolicyWish, RegistryError, Said, Scope, StoredPolicy, View, mutation::RecordWrite,
};

/// Stored policies at most: far more than anybody looks after.
const MAX_POLICIES: usize = 10_000;

pub(super) fn update(view: &View, wish: &PolicyWish, at: SystemTime) -> Result<Decision, RegistryError> {
    let policies = view.policies();
    let present = policies.get(&wish.scope);
    match present {
        Some(stored) => check_etag(&wish.etag, stored.revision, || format!("the policy of {}", wish.scope))?,
        None if !wish.etag.is_empty() => {
            return Err(RegistryError::EtagMismatch(format!("the policy of {}", wish.scope)));
        }
        None if !wish.allow_missing => return Err(RegistryError::PolicyNotFound(wish.scope.clone())),
        None if policies.stored().len() >= MAX_POLICIES => {
            let what = "the registry".into();
            return Err(RegistryError::QuotaExceeded { what, of: "policies", limit: MAX_POLICIES });
        }
        None => {}
    }
    let nothing_set = Partial::default();
    let before = present.map_or(&nothing_set, |stored| &stored.partial);
    let partial = before.updated(&wish.change, wish.mask.as_ref())?;
    check_consequences(view, &wish.scope, Some(&partial))?;
    if let Some(stored) = present.filter(|stored| stored.partial == partial) {
        return Ok(Decision::Nothing(Answer::Policy(Arc::clone(stored))));
    }
    let stored = StoredPolicy {
        scope: wish.scope.clone(),
        partial,
        updated_at: at,
        updated_by: wish.said.author.clone(),
        update_reason: wish.said.reason.clone(),
        revision: 0,
    };
    Ok(commit(RecordWrite::put(stored, present.map(|stored| stored.revision), Cause::PolicyUpdated), at))
}

pub(super) fn delete(
    view: &View,
    scope: &Scope,
    etag: &str,
    said: &Said,
    at: SystemTime,
) -> Result<Decision, RegistryError> {
    let stored = view.policies().get(scope).ok_or_else(|| RegistryError::PolicyNotFound(scope.clone()))?;
    check_etag(etag, stored.revision, || format!("the policy of {scope}"))?;
    check_consequences(view, scope, None)?;
    let cause = Cause::PolicyDeleted { said: said.clone() };
    Ok(commit(RecordWrite::remove(Key::Policy(scope.clone()), stored.revision, cause), at))
}

/// Whether every policy that follows from this one being `next` is in order: a value that is right alone may contradict
/// one that is inherited.
fn check_consequences(view: &View, scope: &Scope, next: Option<&Partial>) -> Result<(), RegistryError> {
    let policies = view.policies();
    match scope {
        Scope::Service(_) => policy::check_resolved(policies.star(), next).map(drop)?,
        Scope::All => {
            let services =
                policies.stored().filter_map(|stored| Some((stored.scope.service()?, &stored.partial)));
            policy::check_star(next, services)?;
        }
    }
    Ok(())
}
