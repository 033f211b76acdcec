//! Drains: their beginning, their end, and who may ask for them.

use std::{sync::Arc, time::SystemTime};

use gateway_proto::{ReplicaKey, policy::DrainTimeout};

use super::{Decision, check_etag, commit, existing, why_lease_is_void};
use crate::registry::{
    Answer, Cause, Drain, DrainWish, Proof, Record, RegistryError, Said, View, mutation::RecordWrite,
};

pub(super) fn drain(view: &View, wish: &DrainWish, at: SystemTime) -> Result<Decision, RegistryError> {
    let record = match (view.get(&wish.key), wish.proof) {
        (Some(record), Proof::Lease(id)) if record.is_kept_by(id) => record,
        (_, Proof::Lease(id)) => return Err(why_lease_is_void(view, &wish.key, id, at)),
        (_, Proof::None | Proof::Force) => existing(view, &wish.key)?,
    };
    check_etag(&wish.etag, record.revision, || format!("replica {}", wish.key))?;
    if record.is_ready() && !wish.allow_last && !has_other_ready(view, record) {
        return Err(RegistryError::LastReadyReplica(wish.key.clone()));
    }
    let timeout = wish.timeout.unwrap_or_else(|| {
        let DrainTimeout(timeout) = view.policies().resolve(Some(&wish.key.service)).drain_timeout;
        timeout
    });
    let by_owner = wish.proof != Proof::Force;
    let present = record.drain.as_deref();
    // An owner who goes does not take an operator's word back: it stays his drain, by his name.
    let operators = present.filter(|drain| by_owner && !drain.by_owner);
    let said =
        operators.map_or((&wish.said.reason, &wish.said.author), |drain| (&drain.reason, &drain.author));
    let drain = Drain {
        begun: present.map_or(at, |drain| drain.begun),
        deadline: at + timeout,
        reason: said.0.clone(),
        author: said.1.clone(),
        by_owner: by_owner && operators.is_none(),
        is_over: present.is_some_and(|drain| drain.is_over),
        revision: present.map_or(0, |drain| drain.revision),
    };
    let is_moot = |present: &Drain| {
        // Nothing is in flight any more, so a new deadline is of no use.
        let of_use = if drain.is_over { present.deadline } else { drain.deadline };
        Drain { deadline: of_use, ..drain.clone() } == *present
    };
    if present.is_some_and(is_moot) {
        return Ok(Decision::Nothing(Answer::Replica(Arc::clone(record))));
    }
    let next = Record { drain: Some(Box::new(drain)), updated_at: at, ..Record::clone(record) };
    Ok(commit(RecordWrite::put(next, Some(record.revision), Cause::Draining), at))
}

pub(super) fn undrain(
    view: &View,
    key: &ReplicaKey,
    proof: Proof,
    etag: &str,
    said: &Said,
    at: SystemTime,
) -> Result<Decision, RegistryError> {
    let record = existing(view, key)?;
    check_etag(etag, record.revision, || format!("replica {key}"))?;
    let Some(drain) = &record.drain else {
        return Ok(Decision::Nothing(Answer::Replica(Arc::clone(record))));
    };
    if proof != Proof::Force && !drain.by_owner {
        return Err(RegistryError::DrainedByOperator(key.clone()));
    }
    let next = Record { drain: None, updated_at: at, ..Record::clone(record) };
    let cause = Cause::Undrained { said: said.clone() };
    Ok(commit(RecordWrite::put(next, Some(record.revision), cause), at))
}

pub(super) fn finish(
    view: &View,
    key: &ReplicaKey,
    begun: SystemTime,
    is_idle: bool,
    at: SystemTime,
) -> Decision {
    let Some(record) = view.get(key) else { return Decision::Nothing(Answer::Moot) };
    match record.drain.as_deref() {
        // A new deadline may have come meanwhile.
        Some(drain) if drain.begun == begun && !drain.is_over && (is_idle || drain.deadline <= at) => {
            let drain = Some(Box::new(Drain { is_over: true, ..drain.clone() }));
            let next = Record { drain, updated_at: at, ..Record::clone(record) };
            commit(RecordWrite::put(next, Some(record.revision), Cause::Drained { is_idle }), at)
        }
        _ => Decision::Nothing(Answer::Moot),
    }
}

fn has_other_ready(view: &View, record: &Record) -> bool {
    let peers = view.service(&record.key.service).into_iter().flat_map(|entry| entry.replicas());
    peers.into_iter().any(|peer| peer.key != record.key && peer.is_ready())
}
