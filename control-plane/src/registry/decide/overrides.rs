//! Overrides: set by an operator, ended by an operator or by time.

use std::{sync::Arc, time::SystemTime};

use gateway_proto::ReplicaKey;

use super::{Decision, commit};
use crate::registry::{
    Answer, Aspect, Cause, Key, Override, OverrideId, OverrideWish, RegistryError, Revision, Said, View,
    mutation::RecordWrite,
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
    let present = view.override_of(&wish.target.id());
    check_quota(view, present.is_none())?;
    let entry = Override {
        target: wish.target.clone(),
        kind: wish.kind.clone(),
        created_at: at,
        expires_at: at + wish.ttl,
        reason: wish.said.reason.clone(),
        author: wish.said.author.clone(),
        revision: 0,
    };
    Ok(commit(RecordWrite::put(entry, present.map(|known| known.revision), Cause::Overridden), at))
}

/// Whether there is room for an override, if it is a new one.
pub(super) fn check_quota(view: &View, is_new: bool) -> Result<(), RegistryError> {
    if is_new && view.overrides().len() >= Override::MAX {
        let what = "the registry".into();
        return Err(RegistryError::QuotaExceeded { what, of: "overrides", limit: Override::MAX });
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
