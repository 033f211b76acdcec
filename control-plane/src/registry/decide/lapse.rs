//! Replicas whose lease lapsed: removed, held as lost, or heard of again.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use gateway_proto::{LeaseId, ReplicaKey};

use super::{Decision, commit};
use crate::registry::{Answer, Cause, Key, LeaseTerms, Record, View, mutation::RecordWrite, record::Lost};

pub(super) fn expire(
    view: &View,
    key: &ReplicaKey,
    lease: LeaseId,
    silent_for: Duration,
    at: SystemTime,
) -> Decision {
    match holder(view, key, lease) {
        Some((record, terms)) => {
            let cause = Cause::Expired { silent_for, ttl: terms.ttl() };
            commit(RecordWrite::remove(Key::Replica(key.clone()), record.revision, cause), at)
        }
        None => Decision::Nothing(Answer::Expired { removed: false }),
    }
}

pub(super) fn hold(
    view: &View,
    key: &ReplicaKey,
    lease: LeaseId,
    silent_for: Duration,
    at: SystemTime,
) -> Decision {
    let lost = Box::new(Lost { since: at, incarnation: view.latest_incarnation() });
    mark(view, key, lease, Some(lost), Cause::Held { silent_for }, at)
}

pub(super) fn recover(view: &View, key: &ReplicaKey, lease: LeaseId, at: SystemTime) -> Decision {
    mark(view, key, lease, None, Cause::Recovered, at)
}

/// Has the replica be lost, or no longer; nothing, when it is so already.
fn mark(
    view: &View,
    key: &ReplicaKey,
    lease: LeaseId,
    lost: Option<Box<Lost>>,
    cause: Cause,
    at: SystemTime,
) -> Decision {
    match holder(view, key, lease) {
        Some((record, _)) if record.lost.is_some() != lost.is_some() => {
            let next = Record { lost, updated_at: at, ..Record::clone(record) };
            commit(RecordWrite::put(next, Some(record.revision), cause), at)
        }
        Some((record, _)) => Decision::Nothing(Answer::Replica(Arc::clone(record))),
        None => Decision::Nothing(Answer::Moot),
    }
}

/// The replica that the lease keeps; `None` when a new registration or a removal has voided the lease.
fn holder<'a>(view: &'a View, key: &ReplicaKey, lease: LeaseId) -> Option<(&'a Arc<Record>, LeaseTerms)> {
    let record = view.get(key)?;
    record.lease.filter(|terms| terms.id == lease).map(|terms| (record, terms))
}
