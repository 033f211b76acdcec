//! Overrides: set by an operator, ended by an operator or by time.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use gateway_proto::ReplicaKey;

use super::{Decision, commit};
use crate::registry::{
    Answer, Aspect, Cause, Key, Override, OverrideId, OverrideKind, OverrideTarget, OverrideWish,
    RegistryError, Revision, Said, View, mutation::RecordWrite,
};

pub(super) fn set(view: &View, wish: &OverrideWish, at: SystemTime) -> Result<Decision, RegistryError> {
    let service = &wish.target.service;
    // The guard of a data plane may hold replicas of a service that the registry has forgotten.
    if view.service(service).is_none() && wish.target.aspect != Aspect::Guard {
        return Err(RegistryError::ServiceNotFound(service.clone()));
    }
    if let Some(replica) = &wish.target.replica {
        let key = ReplicaKey { service: service.clone(), replica: replica.clone() };
        if view.get(&key).is_none() {
            return Err(RegistryError::ReplicaNotFound(key));
        }
    }
    Ok(commit(write(view, wish.target.clone(), wish.kind.clone(), wish.ttl, &wish.said, at)?, at))
}

/// Begins an override, or takes the place of the one about the same, for `ttl`.
pub(super) fn write(
    view: &View,
    target: OverrideTarget,
    kind: OverrideKind,
    ttl: Duration,
    said: &Said,
    at: SystemTime,
) -> Result<RecordWrite, RegistryError> {
    let expected = view.override_of(&target.id()).map(|known| known.revision);
    check_quota(view, expected.is_none())?;
    let entry = Override {
        target,
        kind,
        created_at: at,
        expires_at: at + ttl,
        reason: said.reason.clone(),
        author: said.author.clone(),
        revision: 0,
    };
    Ok(RecordWrite::put(entry, expected, Cause::Overridden))
}

/// Whether there is room for an override, if it is a new one.
fn check_quota(view: &View, is_new: bool) -> Result<(), RegistryError> {
    if is_new && view.overrides().len() >= Override::MAX {
        return Err(RegistryError::QuotaExceeded { service: None, of: "overrides", limit: Override::MAX });
    }
    Ok(())
}

/// Ends an override; one whose time is over only if it is still the one of that revision.
pub(super) fn end(view: &View, id: &OverrideId, by: &Result<Said, Revision>, at: SystemTime) -> Decision {
    let present =
        view.override_of(id).filter(|entry| by.as_ref().err().is_none_or(|of| *of == entry.revision));
    let Some(entry) = present else {
        return Decision::Nothing(Answer::OverrideEnded { ended: false, revision: view.revision() });
    };
    let cause =
        Cause::OverrideEnded { entry: Box::new(Override::clone(Arc::as_ref(entry))), by: by.clone().ok() };
    commit(RecordWrite::remove(Key::Override(id.clone()), entry.revision, cause), at)
}
