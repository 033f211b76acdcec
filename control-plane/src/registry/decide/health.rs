//! What replicas report of themselves.

use std::{sync::Arc, time::SystemTime};

use gateway_proto::{Health, LeaseId, ReplicaKey};

use super::{Decision, check_lease, commit, why_lease_is_void};
use crate::registry::{Answer, Cause, Record, RegistryError, View, mutation::RecordWrite};

pub(super) fn report(
    view: &View,
    key: &ReplicaKey,
    lease: Option<LeaseId>,
    health: Health,
    reason: &str,
    at: SystemTime,
) -> Result<Decision, RegistryError> {
    let Some(record) = view.get(key) else {
        return Err(match lease {
            Some(lease) => why_lease_is_void(view, key, lease, at),
            None => RegistryError::ReplicaNotFound(key.clone()),
        });
    };
    check_lease(record, lease)?;
    if record.health == health && *record.health_reason == *reason {
        return Ok(Decision::Nothing(Answer::Replica(Arc::clone(record))));
    }
    let next = Record {
        health,
        health_reason: reason.into(),
        health_since: if record.health == health { record.health_since } else { at },
        updated_at: at,
        ..Record::clone(record)
    };
    let cause = Cause::HealthReported { before: record.health };
    Ok(commit(RecordWrite::put(next, Some(record.revision), cause), at))
}
