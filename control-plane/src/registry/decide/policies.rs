//! Changes of stored policies.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::SystemTime,
};

use gateway_proto::{
    Invalid,
    policy::{self, FaultInjection, Partial},
};
use serde_json::{Value, json};

use super::{Decision, check_etag, commit};
use crate::registry::{
    Answer, Cause, FaultOrigin, FaultStep, Key, Mutation, PolicyChange, PolicyWish, RegistryError, Revision,
    Said, Scope, StoredPolicy, View, Write, mutation::RecordWrite,
};

/// Stored policies at most: far more than anybody looks after.
const MAX_POLICIES: usize = 10_000;

pub(super) fn update(view: &View, wish: &PolicyWish, at: SystemTime) -> Result<Decision, RegistryError> {
    let (partial, write) = changed(view, wish, at)?;
    check_consequences(view, &BTreeMap::from([(&wish.scope, Some(partial))])).map_err(|(_, why)| why)?;
    check_quota(view, write.as_slice())?;
    match (write, view.policies().get(&wish.scope)) {
        (None, Some(stored)) => Ok(Decision::Nothing(Answer::Policy(Arc::clone(stored)))),
        (None, None) => unreachable!("what is not stored is written"),
        (Some(write), _) => Ok(commit(write, at)),
    }
}

/// Several at once, each of another scope: it is what follows from all of them together that has to be in order.
pub(super) fn apply(
    view: &View,
    changes: &[PolicyChange],
    at: SystemTime,
) -> Result<Decision, RegistryError> {
    let (mut next, mut writes) = (BTreeMap::new(), Vec::new());
    for (index, change) in changes.iter().enumerate() {
        let (partial, write) = match change {
            PolicyChange::Update(wish) => {
                let (partial, write) = changed(view, wish, at).map_err(|error| within(index, error))?;
                (Some(partial), write)
            }
            PolicyChange::Delete { scope, etag, said } => (None, Some(removed(view, scope, etag, said, at)?)),
        };
        next.insert(change.scope(), partial);
        writes.extend(write);
    }
    check_consequences(view, &next).map_err(|(scope, why)| {
        let index = changes.iter().position(|change| change.scope() == scope);
        within(index.unwrap_or_default(), why.into())
    })?;
    check_quota(view, &writes)?;
    let mut writes = writes.into_iter();
    match writes.next() {
        Some(main) => Ok(Decision::Commit(Mutation { main, also: writes.collect(), at })),
        None => {
            let (policies, revision) = (Vec::new(), view.revision());
            Ok(Decision::Nothing(Answer::Policies { policies, revision }))
        }
    }
}

/// Names the change that a setting is of.
fn within(index: usize, error: RegistryError) -> RegistryError {
    match error {
        RegistryError::Invalid(invalid) => invalid.within(&format!("changes[{index}].policy")).into(),
        other => other,
    }
}

/// What a wish comes to: the settings of its policy, and the write that stores them, if they are not stored like that.
fn changed(
    view: &View,
    wish: &PolicyWish,
    at: SystemTime,
) -> Result<(Partial, Option<RecordWrite>), RegistryError> {
    let present = view.policies().get(&wish.scope);
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
        None => {}
    }
    let nothing_set = Partial::default();
    let before = present.map_or(&nothing_set, |stored| &stored.partial);
    let partial = before.updated(&wish.change, wish.mask.as_ref())?;
    let (was, is) = (fault_of(Some(before)), fault_of(Some(&partial)));
    // What was in order when it was set is in nobody's way later.
    if was != is {
        is.check(at)?;
    }
    let fault = fault_step(was, is, at);
    if matches!(fault, FaultStep::Began(_)) && !wish.allow_fault {
        return Err(RegistryError::FaultInjectionNotAllowed(wish.scope.clone()));
    }
    if present.is_some_and(|stored| stored.partial == partial) {
        return Ok((partial, None));
    }
    let changes = changes(before, &partial);
    let stored = StoredPolicy {
        scope: wish.scope.clone(),
        partial: partial.clone(),
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
    Ok((partial, Some(RecordWrite::put(stored, present.map(|stored| stored.revision), cause))))
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
    let write = removed(view, scope, etag, said, at)?;
    check_consequences(view, &BTreeMap::from([(scope, None)])).map_err(|(_, why)| why)?;
    Ok(commit(write, at))
}

/// The write that removes a policy.
fn removed(
    view: &View,
    scope: &Scope,
    etag: &str,
    said: &Said,
    at: SystemTime,
) -> Result<RecordWrite, RegistryError> {
    let stored = view.policies().get(scope).ok_or_else(|| RegistryError::PolicyNotFound(scope.clone()))?;
    check_etag(etag, stored.revision, || format!("the policy of {scope}"))?;
    let fault = fault_step(fault_of(Some(&stored.partial)), fault_of(None), at);
    let changes = changes(&stored.partial, &Partial::default());
    let cause = Cause::PolicyDeleted { fault, changes, said: said.clone() };
    Ok(RecordWrite::remove(Key::Policy(scope.clone()), stored.revision, cause))
}

/// Whether there is room for what these writes add.
fn check_quota(view: &View, writes: &[RecordWrite]) -> Result<(), RegistryError> {
    let added = writes.iter().filter(|write| write.expected.is_none()).count();
    let gone = writes.iter().filter(|write| write.write == Write::Remove).count();
    if added > 0 && view.policies().stored().len() + added > MAX_POLICIES + gone {
        return Err(RegistryError::QuotaExceeded { service: None, of: "policies", limit: MAX_POLICIES });
    }
    Ok(())
}

/// Whether every policy that follows from these being as `next` says is in order, or which of them is not, and why: a value that
/// is right alone may contradict one that is inherited.
fn check_consequences<'a>(
    view: &View,
    next: &BTreeMap<&'a Scope, Option<Partial>>,
) -> Result<(), (&'a Scope, Invalid)> {
    let policies = view.policies();
    let Some((all, star)) = next.get_key_value(&Scope::All) else {
        for (scope, own) in next {
            policy::check_resolved(policies.star(), own.as_ref()).map_err(|why| (*scope, why))?;
        }
        return Ok(());
    };
    let unchanged = policies.stored().filter(|stored| !next.contains_key(&stored.scope));
    let unchanged = unchanged.map(|stored| (&stored.scope, &stored.partial));
    let changed = next.iter().filter_map(|(scope, own)| Some((*scope, own.as_ref()?)));
    let of_services = unchanged.chain(changed).filter_map(|(scope, own)| Some((scope.service()?, own)));
    policy::check_star(star.as_ref(), of_services).map_err(|why| (*all, why))
}
