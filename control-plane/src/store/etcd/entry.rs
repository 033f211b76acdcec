//! The value of `live/head`: what the last commit did, so that others can do the same to what they know.
//!
//! It names the revision before, so that nobody takes it for more than the next step from there.

use gateway_proto::{
    ReplicaKey, RouteName,
    time::{system_time, timestamp},
};
use prost::Message;
use prost_types::Timestamp;

use super::{
    cause::{self, StoredCause},
    keys::RecordKind,
};
use crate::{
    registry::{Committed, Item, Key, Mutation, OverrideId, RecordWrite, Revision, Scope, Write},
    store::stored,
};

/// What this version writes. A later one that others cannot read has another number.
const FORMAT: u32 = 1;

#[derive(Clone, PartialEq, Message)]
struct Entry {
    #[prost(uint32, tag = "1")]
    format: u32,
    #[prost(int64, tag = "2")]
    previous: i64,
    #[prost(message, repeated, tag = "3")]
    mutations: Vec<StoredMutation>,
}

#[derive(Clone, PartialEq, Message)]
struct StoredMutation {
    #[prost(message, optional, tag = "1")]
    at: Option<Timestamp>,
    /// The main one first.
    #[prost(message, repeated, tag = "2")]
    writes: Vec<StoredWrite>,
}

#[derive(Clone, PartialEq, Message)]
struct StoredWrite {
    #[prost(enumeration = "Kind", tag = "1")]
    kind: i32,
    /// Of a replica.
    #[prost(string, tag = "2")]
    service: String,
    #[prost(string, tag = "3")]
    name: String,
    #[prost(int64, optional, tag = "4")]
    expected: Option<i64>,
    /// Unset: it is gone.
    #[prost(bytes = "vec", optional, tag = "5")]
    item: Option<Vec<u8>>,
    #[prost(message, optional, tag = "6")]
    cause: Option<StoredCause>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
enum Kind {
    Unknown = 0,
    Replica = 1,
    Policy = 2,
    Override = 3,
    Route = 4,
}

/// Writes a commit on `previous`.
pub(super) fn encode(previous: Revision, group: &[Mutation]) -> Vec<u8> {
    let mutations = group.iter().map(|mutation| StoredMutation {
        at: Some(timestamp(mutation.at)),
        writes: mutation.writes().map(encode_write).collect(),
    });
    Entry { format: FORMAT, previous, mutations: mutations.collect() }.encode_to_vec()
}

/// Reads the commit that has this revision: what was the store's revision before, and what it did.
pub(super) fn decode(bytes: &[u8], revision: Revision) -> Result<(Revision, Vec<Committed>), String> {
    let entry = Entry::decode(bytes).map_err(|error| error.to_string())?;
    if entry.format != FORMAT {
        return Err(format!("it has format {}, this version reads format {FORMAT}", entry.format));
    }
    let committed = entry.mutations.into_iter().map(|stored| {
        let mut writes = stored.writes.into_iter().map(decode_write);
        let main = writes.next().ok_or("it writes nothing")??;
        let also = writes.collect::<Result<_, _>>()?;
        let at = stored.at.map(system_time).ok_or("it names no time")?;
        Ok(Committed { revision, mutation: Mutation { main, also, at } })
    });
    Ok((entry.previous, committed.collect::<Result<_, String>>()?))
}

/// Reads a record that was written at this revision.
pub(super) fn decode_record(kind: RecordKind, bytes: &[u8], revision: Revision) -> Result<Item, String> {
    let item = match kind {
        RecordKind::Replica => stored::decode_replica(bytes).map(Item::from),
        RecordKind::Policy => stored::decode_policy(bytes),
        RecordKind::Override => stored::decode_override(bytes),
        RecordKind::Route => stored::decode_route(bytes),
    };
    item.map(|item| item.at(revision))
}

/// The bytes of a record that is yet to get its revision.
pub(super) fn encode_record(item: &Item) -> Vec<u8> {
    stored::encode(&item.clone().at(0))
}

fn encode_write(write: &RecordWrite) -> StoredWrite {
    let (kind, service, name) = match &write.key {
        Key::Replica(key) => (Kind::Replica, key.service.to_string(), key.replica.to_string()),
        Key::Policy(scope) => (Kind::Policy, String::new(), scope.to_string()),
        Key::Override(id) => (Kind::Override, String::new(), id.to_string()),
        Key::Route(name) => (Kind::Route, String::new(), name.to_string()),
    };
    let item = match &write.write {
        Write::Put(item) => Some(encode_record(item)),
        Write::Remove => None,
    };
    let cause = Some(cause::encode(&write.cause));
    StoredWrite { kind: kind.into(), service, name, expected: write.expected, item, cause }
}

fn decode_write(stored: StoredWrite) -> Result<RecordWrite, String> {
    let name = &stored.name;
    let (kind, key) = match stored.kind() {
        Kind::Unknown => return Err("it writes something that this version does not know".into()),
        Kind::Replica => {
            let key = ReplicaKey::parse(&stored.service, name).map_err(|invalid| invalid.to_string())?;
            (RecordKind::Replica, Key::Replica(key))
        }
        Kind::Policy => {
            let scope = Scope::parse(name).map_err(|invalid| invalid.to_string())?;
            (RecordKind::Policy, Key::Policy(scope))
        }
        Kind::Override => {
            let id = OverrideId::parse(name).map_err(|invalid| invalid.to_string())?;
            (RecordKind::Override, Key::Override(id))
        }
        Kind::Route => {
            let name = RouteName::parse(name).map_err(|invalid| invalid.to_string())?;
            (RecordKind::Route, Key::Route(name))
        }
    };
    let write = match stored.item {
        Some(bytes) => Write::Put(decode_record(kind, &bytes, 0)?),
        None => Write::Remove,
    };
    let cause = cause::decode(stored.cause.ok_or("it names no cause")?, &write)?;
    Ok(RecordWrite { key, expected: stored.expected, write, cause })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::registry::{
        View,
        arbitrary::{carried_out, choices},
    };

    proptest! {
        #[test]
        fn who_reads_what_was_committed_comes_to_the_same_registry_and_tells_the_same(choices in choices(60)) {
            let (mut here, mut there) = (View::default(), View::default());
            for (committed, _, _) in carried_out(&choices) {
                let Committed { revision, mutation } = committed;
                let bytes = encode(revision - 1, std::slice::from_ref(&mutation));
                let (previous, mut read) = decode(&bytes, revision).unwrap();
                prop_assert_eq!((previous, read.len()), (revision - 1, 1));
                let ours = here.apply(Committed { revision, mutation });
                let theirs = there.apply(read.remove(0));
                prop_assert_eq!(ours.changes, theirs.changes);
                prop_assert_eq!(ours.events, theirs.events);
                prop_assert!(here.items().eq(there.items()));
                prop_assert_eq!(here.replicas_hash(), there.replicas_hash());
            }
        }
    }

    #[test]
    fn bytes_that_are_no_commit_are_refused_and_never_panic() {
        let bytes = encode(7, &[]);
        assert_eq!(decode(&bytes, 8), Ok((7, Vec::new())));
        assert!(decode(&[], 8).is_err() && decode(&[255; 9], 8).is_err());
        let later = Entry { format: FORMAT + 1, ..Entry::default() }.encode_to_vec();
        assert!(decode(&later, 8).unwrap_err().contains("format 2"));
    }
}
