//! A group of mutations as one transaction of etcd.
//!
//! It is made on the commit that the group was decided on, and without a fence: on any other head it changes nothing. That holds for all that a
//! decision may have looked at, whichever rule it followed, and leaves no gap between one commit and the next. A replica
//! goes for want of a heartbeat only if etcd keeps no lease of it at that moment, for somebody may just have heard of it.

use gateway_proto::{
    LeaseId, ReplicaKey,
    etcd::{
        Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
        compare::{CompareResult, CompareTarget, TargetUnion},
        request_op::Request,
    },
};

use super::{entry, keys::Keys};
use crate::{
    leases::LeaseTag,
    registry::{Cause, Key, Mutation, Record, RecordWrite, Revision, Write},
    store::Fence,
};

/// Mutations in one transaction. Each has five operations at most, but for one of several policies, and seldom more than four.
pub(super) const MAX_GROUP: usize = 30;
/// Operations in one transaction that etcd takes, unless it was started with another number.
const MAX_OPERATIONS: usize = 128;
/// Bytes in one transaction: etcd takes 1.5 MiB.
const MAX_BYTES: usize = 1024 * 1024;

/// A transaction for the first mutations of a group, as many as fit.
#[derive(Debug)]
pub(super) struct Transaction {
    pub(super) request: TxnRequest,
    /// How many mutations.
    pub(super) count: usize,
    /// Leases that etcd must know before.
    pub(super) grants: Vec<Grant>,
}

/// A lease that etcd is to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Grant {
    pub(super) tag: LeaseTag,
    /// Seconds.
    pub(super) ttl: i64,
}

impl Grant {
    /// For a lease of this time to live; etcd counts in seconds, and may round up.
    pub(super) fn new(lease: LeaseId, ttl: std::time::Duration) -> Self {
        let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        Self { tag: LeaseTag::of(lease), ttl: i64::try_from(seconds).unwrap_or(i64::MAX) }
    }
}

/// Nothing, if the head is at `base` and the fence at its revision, 0 where there is to be none; otherwise finds what there is.
pub(super) fn expectation(keys: &Keys, base: Revision, fence: Revision) -> TxnRequest {
    // Which commit was faster, if one was.
    let head = RangeRequest { keys_only: true, ..one(keys.head()) };
    TxnRequest {
        compare: vec![is_at(keys.head(), base), is_at(keys.fence(), fence)],
        success: Vec::new(),
        failure: vec![
            operation(Request::RequestRange(head)),
            operation(Request::RequestRange(one(keys.fence()))),
        ],
    }
}

/// Puts a fence there in the place of the one of this revision, 0 where there is to be none, or takes that one away; with `base`, if
/// that is where the head is. Otherwise finds which one there is.
pub(super) fn fencing(
    keys: &Keys,
    fence: Option<&Fence>,
    known: Revision,
    base: Option<Revision>,
) -> TxnRequest {
    let key = keys.fence();
    let mut compare = vec![is_at(key.clone(), known)];
    compare.extend(base.map(|base| is_at(keys.head(), base)));
    let failure = vec![operation(Request::RequestRange(one(key.clone())))];
    let change = match fence {
        Some(fence) => put(key, fence.encode().into_bytes(), 0),
        None => delete(key),
    };
    TxnRequest { compare, success: vec![change], failure }
}

impl Transaction {
    /// For the head at `base`, and past our own fence, which has this revision, or 0. The first mutation is taken in any case.
    pub(super) fn new(keys: &Keys, base: Revision, fence: Revision, group: &[Mutation]) -> Self {
        let TxnRequest { mut compare, mut success, mut failure } = expectation(keys, base, fence);
        let (mut grants, mut size, mut count) = (Vec::new(), 0, 0);
        for mutation in group.iter().take(MAX_GROUP) {
            let operations = of_mutation(keys, mutation);
            // Once as a record, and once in the head.
            let bytes: usize = 2 * operations.iter().map(size_of).sum::<usize>();
            // With the one that writes the head.
            let has_room = success.len() + operations.len() < MAX_OPERATIONS && size + bytes <= MAX_BYTES;
            if count > 0 && !has_room {
                break;
            }
            (size, count) = (size + bytes, count + 1);
            success.extend(operations);
            for write in mutation.writes() {
                if let Some(key) = silent(write) {
                    compare.push(is_absent(keys.lease(key)));
                    failure.push(operation(Request::RequestRange(one(keys.lease(key)))));
                }
                grants.extend(granted(write).map(|(_, grant)| grant));
            }
        }
        let head = PutRequest { key: keys.head(), value: entry::encode(base, &group[..count]), lease: 0 };
        success.push(operation(Request::RequestPut(head)));
        Self { request: TxnRequest { compare, success, failure }, count, grants }
    }
}

/// The replica that goes because nobody has heard of it.
fn silent(write: &RecordWrite) -> Option<&ReplicaKey> {
    let is_for_dead = matches!(write.cause, Cause::Expired { .. } | Cause::Superseded { .. });
    is_for_dead.then(|| write.key.as_replica()).flatten()
}

/// The lease that begins with a write, if one does.
fn granted(write: &RecordWrite) -> Option<(&Record, Grant)> {
    let record = write.record()?;
    let lease = record.lease.filter(|_| begins(&write.cause))?;
    Some((record, Grant::new(lease.id, lease.ttl())))
}

/// Whether etcd may keep a lease until then that is of no use from then on.
fn ends_lease(write: &RecordWrite) -> bool {
    let is_over = write.write == Write::Remove || matches!(write.cause, Cause::Replaced { .. });
    is_over && silent(write).is_none()
}

fn begins(cause: &Cause) -> bool {
    matches!(cause, Cause::Registered | Cause::Replaced { .. })
}

fn of_mutation(keys: &Keys, mutation: &Mutation) -> Vec<RequestOp> {
    let mut operations = Vec::new();
    for write in mutation.writes() {
        let key = keys.record(&write.key);
        match &write.write {
            Write::Put(item) => {
                operations.push(put(key, entry::encode_record(item), 0));
            }
            Write::Remove => operations.push(delete(key)),
        }
        let Key::Replica(replica) = &write.key else { continue };
        if ends_lease(write) {
            let lease = RangeRequest { keys_only: true, ..one(keys.lease(replica)) };
            operations.push(operation(Request::RequestRange(lease)));
        }
        match granted(write) {
            Some((_, grant)) => operations.push(put(keys.lease(replica), Vec::new(), grant.tag.get())),
            // It is permanent now, or gone.
            None if begins(&write.cause) || write.write == Write::Remove => {
                operations.push(delete(keys.lease(replica)));
            }
            None => {}
        }
    }
    operations
}

/// Has etcd keep the lease of a replica again, if its record is still the one of this revision and nobody else has done so; finds
/// the lease if somebody has.
pub(super) fn revival(
    keys: &Keys,
    key: &ReplicaKey,
    record: (Vec<u8>, Revision),
    grant: Grant,
) -> TxnRequest {
    let (record, revision) = record;
    TxnRequest {
        compare: vec![is_at(record, revision), is_absent(keys.lease(key))],
        success: vec![put(keys.lease(key), Vec::new(), grant.tag.get())],
        failure: vec![operation(Request::RequestRange(one(keys.lease(key))))],
    }
}

/// Makes these keys, if the first of them is not there.
pub(super) fn creation(puts: Vec<(Vec<u8>, Vec<u8>)>) -> TxnRequest {
    let compare = puts.first().map(|(key, _)| is_absent(key.clone())).into_iter().collect();
    let success = puts.into_iter().map(|(key, value)| put(key, value, 0)).collect();
    TxnRequest { compare, success, failure: Vec::new() }
}

/// Changes nothing, and needs the right to do so. Finds what says that the keys are ours, and the first of all keys, as of one revision.
pub(super) fn rehearsal(keys: &Keys) -> TxnRequest {
    let never = Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Version.into(),
        key: keys.meta(),
        target_union: Some(TargetUnion::Version(-1)),
    };
    let (key, range_end) = keys.all();
    let first = RangeRequest { key, range_end, limit: 1, keys_only: true, ..RangeRequest::default() };
    TxnRequest {
        compare: vec![never],
        success: vec![put(keys.meta(), Vec::new(), 0)],
        failure: vec![
            operation(Request::RequestRange(one(keys.meta()))),
            operation(Request::RequestRange(first)),
        ],
    }
}

/// Writes a key under a lease, in any case.
pub(super) fn leased(key: Vec<u8>, value: Vec<u8>, lease: i64) -> TxnRequest {
    TxnRequest { success: vec![put(key, value, lease)], ..TxnRequest::default() }
}

/// One key.
pub(super) fn one(key: Vec<u8>) -> RangeRequest {
    RangeRequest { key, ..RangeRequest::default() }
}

fn is_at(key: Vec<u8>, revision: Revision) -> Compare {
    Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Mod.into(),
        key,
        target_union: Some(TargetUnion::ModRevision(revision)),
    }
}

fn is_absent(key: Vec<u8>) -> Compare {
    Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Create.into(),
        key,
        target_union: Some(TargetUnion::CreateRevision(0)),
    }
}

fn put(key: Vec<u8>, value: Vec<u8>, lease: i64) -> RequestOp {
    operation(Request::RequestPut(PutRequest { key, value, lease }))
}

fn delete(key: Vec<u8>) -> RequestOp {
    operation(Request::RequestDeleteRange(DeleteRangeRequest { key, range_end: Vec::new() }))
}

fn operation(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

fn size_of(operation: &RequestOp) -> usize {
    match &operation.request {
        Some(Request::RequestPut(put)) => put.key.len() + put.value.len(),
        Some(Request::RequestDeleteRange(delete)) => delete.key.len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use gateway_proto::{
        Address, Policy,
        policy::{Partial, field::FIELDS},
        v1,
    };
    use prost::Message as _;

    use super::*;
    use crate::registry::{
        Candidates, Command, Decision, Limits, PolicyChange, PolicyWish, Registration, Said, Scope, View,
        decide,
    };

    /// What etcd takes, unless it was started with another number.
    const MOST_BYTES: usize = 1536 * 1024;

    fn decided(view: &View, command: &Command) -> Mutation {
        let limits = Limits { replicas: 10, replicas_per_service: 10 };
        let fresh = Candidates::from_random(1, 1);
        match decide(view, &limits, command, &fresh, UNIX_EPOCH) {
            Ok(Decision::Commit(mutation)) => mutation,
            other => panic!("{other:?}"),
        }
    }

    /// As many policies as change together, each with every setting and long texts; `even` makes two kinds of it.
    fn all_policies(even: bool) -> Command {
        let mut full = Policy::default().to_wire();
        full.fault = None;
        full.drain_timeout = Some(prost_types::Duration { seconds: i64::from(even), nanos: 0 });
        if let Some(fallback) = &mut full.fallback {
            (fallback.body, fallback.static_status) = (Some("x".repeat(1024)), Some(503));
        }
        assert!(Partial::parse(&full).unwrap().settings().count() > FIELDS.len() * 3 / 4, "{full:?}");
        let change = |number| {
            let scope = Scope::parse(&format!("{}-{number:03}", "s".repeat(59))).unwrap();
            PolicyChange::Update(Box::new(PolicyWish {
                change: v1::Policy { service: scope.to_string(), ..full.clone() },
                scope,
                mask: None,
                etag: String::new(),
                allow_missing: true,
                must_be_missing: false,
                allow_fault: false,
                said: Said { author: "a".repeat(63).into(), reason: "r".repeat(256).into() },
            }))
        };
        Command::ApplyPolicies((0..PolicyChange::MAX).map(change).collect())
    }

    #[test]
    fn a_transaction_takes_as_many_policies_as_change_together_whatever_they_say() {
        let (keys, mut view) = (Keys::new("gateway"), View::default());
        for even in [true, false] {
            let mutation = decided(&view, &all_policies(even));
            let made = Transaction::new(&keys, 1, 0, std::slice::from_ref(&mutation));
            let TxnRequest { compare, success, failure } = &made.request;
            assert!(compare.len().max(success.len()).max(failure.len()) <= MAX_OPERATIONS);
            let bytes = made.request.encoded_len();
            assert!(bytes < MOST_BYTES, "{bytes} bytes");
            view.apply(crate::registry::Committed { revision: 1 + i64::from(!even), mutation });
        }
    }

    #[test]
    fn what_has_no_room_beside_many_policies_is_left_for_the_next_transaction() {
        let (keys, view) = (Keys::new("gateway"), View::default());
        let policies = decided(&view, &all_policies(true));
        let address = Address::parse("10.0.0.1:80").unwrap();
        let registration = Registration::permanent("orders".parse().unwrap(), address);
        let registered = decided(&view, &Command::Register(registration));
        let group: Vec<_> = std::iter::repeat_n(registered, MAX_GROUP - 1).chain([policies]).collect();
        assert_eq!(Transaction::new(&keys, 1, 0, &group).count, MAX_GROUP - 1);
        let reversed: Vec<_> = group.into_iter().rev().collect();
        let made = Transaction::new(&keys, 1, 0, &reversed);
        assert!((1..MAX_GROUP).contains(&made.count) && made.request.success.len() <= MAX_OPERATIONS);
    }
}
