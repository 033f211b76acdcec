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

/// Mutations in one transaction: each has four operations at most, and etcd takes 128.
pub(super) const MAX_GROUP: usize = 30;
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

/// Nothing, if the head is at `base` and there is no fence, or only our own; otherwise finds what there is.
pub(super) fn expectation(keys: &Keys, base: Revision, has_fenced: bool) -> TxnRequest {
    let mut compare = vec![is_at(keys.head(), base)];
    // Which commit was faster, if one was.
    let head = RangeRequest { keys_only: true, ..one(keys.head()) };
    let mut failure = vec![operation(Request::RequestRange(head))];
    if !has_fenced {
        compare.push(is_absent(keys.fence()));
        failure.push(operation(Request::RequestRange(one(keys.fence()))));
    }
    TxnRequest { compare, success: Vec::new(), failure }
}

/// Puts a fence there, in the place of our own only, or takes away whichever is there.
pub(super) fn fencing(keys: &Keys, fence: Option<&Fence>, has_fenced: bool) -> TxnRequest {
    let key = keys.fence();
    let Some(fence) = fence else {
        return TxnRequest { success: vec![delete(key)], ..TxnRequest::default() };
    };
    let compare = if has_fenced { Vec::new() } else { vec![is_absent(key.clone())] };
    let failure = vec![operation(Request::RequestRange(one(key.clone())))];
    TxnRequest { compare, success: vec![put(key, fence.encode().into_bytes(), 0)], failure }
}

impl Transaction {
    /// For the head at `base`; past a fence, if it is our own. The first mutation is taken in any case.
    pub(super) fn new(keys: &Keys, base: Revision, has_fenced: bool, group: &[Mutation]) -> Self {
        let TxnRequest { mut compare, mut success, mut failure } = expectation(keys, base, has_fenced);
        let (mut grants, mut size, mut count) = (Vec::new(), 0, 0);
        for mutation in group.iter().take(MAX_GROUP) {
            let operations = of_mutation(keys, mutation);
            // Once as a record, and once in the head.
            let bytes: usize = 2 * operations.iter().map(size_of).sum::<usize>();
            if count > 0 && size + bytes > MAX_BYTES {
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

/// Changes nothing, and needs the right to write this key.
pub(super) fn rehearsal(key: Vec<u8>) -> TxnRequest {
    let never = Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Version.into(),
        key: key.clone(),
        target_union: Some(TargetUnion::Version(-1)),
    };
    TxnRequest { compare: vec![never], success: vec![put(key, Vec::new(), 0)], failure: Vec::new() }
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
