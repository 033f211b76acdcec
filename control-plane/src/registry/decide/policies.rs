//! Changes of stored policies.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::SystemTime,
};

use gateway_proto::policy::{self, FaultInjection, Partial};
use serde_json::{Value, json};

use super::{Decision, check_etag, commit};
use crate::registry::{
    Answer, Cause, FaultOrigin, FaultStep, Key, PolicyWish, RegistryError, Revision, Said, Scope,
    StoredPolicy, View, mutation::RecordWrite,
};

/// Stored policies at most: far more than anybody looks after.
const MAX_POLICIES: usize = 10_000;

pub(super) fn update(view: &View, wish: &PolicyWish, at: SystemTime) -> Result<Decision, RegistryError> {
    let policies = view.policies();
    let present = policies.get(&wish.scope);
    match present {
        Some(_) if wish.must_be_missing => {
            return Err(RegistryError::EtagMismatch(format!("the policy of {}", wish.scope)));
        }
        Some(stored) => check_etag(&wish.etag, stored.revision, || format!("the policy of {}", wish.scope))?,
        None if !wish.etag.is_empty() => {
            return Err(RegistryError::EtagMismatch(format!("the policy of {}", wish.scope)));
        }
        None if !(wish.allow_missing || wish.must_be_missing) => {
            return Err(RegistryError::PolicyNotFound(wish.scope.clone()));
        }
        None if policies.stored().len() >= MAX_POLICIES => {
            return Err(RegistryError::QuotaExceeded { service: None, of: "policies", limit: MAX_POLICIES });
        }
        None => {}
    }
    let nothing_set = Partial::default();
    let before = present.map_or(&nothing_set, |stored| &stored.partial);
    let partial = before.updated(&wish.change, wish.mask.as_ref())?;
    check_consequences(view, &wish.scope, Some(&partial))?;
    let (was, is) = (fault_of(Some(before)), fault_of(Some(&partial)));
    // What was in order when it was set is in nobody's way later.
    if was != is {
        is.check(at)?;
    }
    let fault = fault_step(was, is, at);
    if matches!(fault, FaultStep::Began(_)) && !wish.allow_fault {
        return Err(RegistryError::FaultInjectionNotAllowed(wish.scope.clone()));
    }
    if let Some(stored) = present.filter(|stored| stored.partial == partial) {
        return Ok(Decision::Nothing(Answer::Policy(Arc::clone(stored))));
    }
    let changes = changes(before, &partial);
    let stored = StoredPolicy {
        scope: wish.scope.clone(),
        partial,
        updated_at: at,
        updated_by: wish.said.author.clone(),
        update_reason: wish.said.reason.clone(),
        fault_origin: match fault {
            FaultStep::Same => present.and_then(|stored| stored.fault_origin.clone()),
            FaultStep::Began(_) => Some(Box::new(FaultOrigin { said: wish.said.clone(), at })),
            FaultStep::Ended => None,
        },
        revision: 0,
    };
    let cause = Cause::PolicyUpdated { fault, changes };
    Ok(commit(RecordWrite::put(stored, present.map(|stored| stored.revision), cause), at))
}

/// The settings that differ, as a JSON object: by the name of each, what it was and what it is, both as people write them, and
/// null where it is not set. A value that is longer than people read is cut, and ends with an ellipsis then.
fn changes(before: &Partial, after: &Partial) -> Box<str> {
    const MAX_CHARS: usize = 200;
    let texts = |partial: &Partial| -> BTreeMap<&'static str, String> {
        partial.settings().map(|(field, value)| (field.path(), value.to_string())).collect()
    };
    let (before, after) = (texts(before), texts(after));
    let told = |text: Option<&String>| {
        text.map(|text| match text.char_indices().nth(MAX_CHARS) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text.clone(),
        })
    };
    let paths: BTreeSet<_> = before.keys().chain(after.keys()).copied().collect();
    let changed = paths.into_iter().filter(|path| before.get(path) != after.get(path));
    let changed = changed.map(|path| {
        let step = json!([told(before.get(path)), told(after.get(path))]);
        (path.to_owned(), step)
    });
    Value::Object(changed.collect()).to_string().into()
}

/// The faults that a policy injects by itself: what it inherits is another policy's.
fn fault_of(partial: Option<&Partial>) -> FaultInjection {
    partial.and_then(Partial::fault).unwrap_or_default()
}

/// What a change of them comes to.
fn fault_step(before: FaultInjection, after: FaultInjection, at: SystemTime) -> FaultStep {
    match (before.is_in_force(at), after.has_ratio()) {
        _ if before == after => FaultStep::Same,
        (_, true) => FaultStep::Began(Box::new(after)),
        (true, false) => FaultStep::Ended,
        (false, false) => FaultStep::Same,
    }
}

/// Clears the settings of faults whose time is over, unless somebody has changed the policy meanwhile.
pub(super) fn end_fault(view: &View, scope: &Scope, revision: Revision, at: SystemTime) -> Decision {
    let stored = view.policies().get(scope);
    let stored = stored.filter(|stored| stored.revision == revision && stored.has_ended_fault(at));
    let Some(stored) = stored else { return Decision::Nothing(Answer::Moot) };
    let cleared = StoredPolicy {
        partial: stored.partial.without_fault(),
        updated_at: at,
        updated_by: "registry".into(),
        update_reason: "the time of its faults was over".into(),
        fault_origin: None,
        ..StoredPolicy::clone(stored)
    };
    commit(RecordWrite::put(cleared, Some(revision), Cause::FaultOver), at)
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
    let fault = fault_step(fault_of(Some(&stored.partial)), fault_of(None), at);
    let changes = changes(&stored.partial, &Partial::default());
    let cause = Cause::PolicyDeleted { fault, changes, said: said.clone() };
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
