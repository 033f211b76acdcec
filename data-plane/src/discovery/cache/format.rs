//! The bytes of the cache's file. Pure but for its name.
//!
//! Layout, little endian: magic 8 bytes · schema version u32 · crc32 u32 of all that follows · known to be current at,
//! unix milliseconds u64 · revision i64 · length of the epoch u32 · epoch · protobuf [`Content`].

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gateway_proto::{
    Policy,
    time::{duration, parse_duration, system_time, timestamp},
    v1::{self, stream_snapshots_response::Update},
};
use prost::Message;

use super::{CacheError, Cached};
use crate::discovery::{
    Assembly, Guard, Received, Refusal, Snapshot, draft::replica_to_wire, guard::HeldEntry, parse,
};

const MAGIC: [u8; 8] = *b"GWSNAPSH";
/// 1 had the snapshot only, 2 did not have where replicas are.
pub(super) const SCHEMA: u32 = 3;

#[derive(Clone, PartialEq, Message)]
struct Content {
    #[prost(message, optional, tag = "1")]
    snapshot: Option<v1::FullSnapshot>,
    #[prost(message, repeated, tag = "2")]
    held: Vec<HeldService>,
}

/// What the guard holds of one service.
#[derive(Clone, PartialEq, Message)]
struct HeldService {
    #[prost(string, tag = "1")]
    service: String,
    #[prost(message, optional, tag = "2")]
    policy: Option<v1::Policy>,
    #[prost(bool, tag = "3")]
    follows_default: bool,
    #[prost(uint64, tag = "4")]
    expected: u64,
    #[prost(message, repeated, tag = "5")]
    replicas: Vec<HeldReplica>,
}

#[derive(Clone, PartialEq, Message)]
struct HeldReplica {
    #[prost(message, optional, tag = "1")]
    replica: Option<v1::Replica>,
    #[prost(message, optional, tag = "2")]
    missing_time: Option<prost_types::Timestamp>,
    /// Confirmed time only.
    #[prost(message, optional, tag = "3")]
    held_for: Option<prost_types::Duration>,
}

pub(in crate::discovery) fn encode(snapshot: &Snapshot, guard: &Guard, current_at: SystemTime) -> Vec<u8> {
    let epoch = snapshot.epoch().as_bytes();
    let current_at = current_at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&SCHEMA.to_le_bytes());
    let checksum_at = bytes.len();
    bytes.extend_from_slice(&[0; 4]);
    let checked_from = bytes.len();
    bytes.extend_from_slice(&u64::try_from(current_at).unwrap_or(u64::MAX).to_le_bytes());
    bytes.extend_from_slice(&snapshot.revision().to_le_bytes());
    bytes.extend_from_slice(&u32::try_from(epoch.len()).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend_from_slice(epoch);
    let mut put =
        |content: &Content| content.encode(&mut bytes).expect("a Vec grows to what a message needs");
    // One message in many pieces, which whoever reads it puts together: in one piece it would be in memory twice, and larger.
    for piece in snapshot.to_wire_in_pieces() {
        put(&Content { snapshot: Some(piece), held: Vec::new() });
    }
    for entry in guard.entries() {
        put(&Content { snapshot: None, held: vec![held_to_wire(&entry)] });
    }
    let checksum = crc32fast::hash(&bytes[checked_from..]);
    bytes[checksum_at..checked_from].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

pub(in crate::discovery) fn decode(
    bytes: &[u8],
    now: SystemTime,
    max_age: Duration,
) -> Result<Cached, CacheError> {
    let rest = bytes.strip_prefix(&MAGIC).ok_or(CacheError::Foreign)?;
    let (schema, rest) = take(rest).ok_or(CacheError::Damaged)?;
    // The version comes before the checksum: another version may check differently.
    let schema = u32::from_le_bytes(schema);
    if schema != SCHEMA {
        return Err(CacheError::OtherSchema(schema));
    }
    let (checksum, checked) = take(rest).ok_or(CacheError::Damaged)?;
    if crc32fast::hash(checked) != u32::from_le_bytes(checksum) {
        return Err(CacheError::Damaged);
    }
    let Checked { current_at, epoch, revision, content } =
        Checked::read(checked).ok_or(CacheError::Damaged)?;
    let age = now.duration_since(current_at).unwrap_or_default();
    if age > max_age {
        return Err(CacheError::TooOld { age: Duration::from_secs(age.as_secs()), max_age });
    }
    // The same door as the stream's: what was valid there is valid here.
    let update = Some(Update::Full(content.snapshot.unwrap_or_default()));
    let message = v1::StreamSnapshotsResponse { epoch, revision, update, ..Default::default() };
    let mut snapshot = Snapshot::default();
    if let Received::Refused(refusal) = Assembly::default().receive(&mut snapshot, message) {
        return Err(CacheError::Invalid(refusal));
    }
    let held = content.held.into_iter().map(|held| read_held(held, &snapshot)).collect::<Result<Vec<_>, _>>();
    let guard = Guard::restored(held.map_err(CacheError::Invalid)?);
    Ok(Cached { snapshot, guard, age })
}

/// What stands behind the checksum.
struct Checked {
    current_at: SystemTime,
    epoch: String,
    revision: i64,
    content: Content,
}

impl Checked {
    fn read(bytes: &[u8]) -> Option<Self> {
        let (current_at, rest) = take(bytes)?;
        let (revision, rest) = take(rest)?;
        let (epoch_length, rest) = take(rest)?;
        let length = usize::try_from(u32::from_le_bytes(epoch_length)).ok()?;
        let (epoch, content) = rest.split_at_checked(length)?;
        Some(Self {
            current_at: UNIX_EPOCH.checked_add(Duration::from_millis(u64::from_le_bytes(current_at)))?,
            epoch: String::from_utf8(epoch.to_vec()).ok()?,
            revision: i64::from_le_bytes(revision),
            content: Content::decode(content).ok()?,
        })
    }
}

fn take<const N: usize>(bytes: &[u8]) -> Option<([u8; N], &[u8])> {
    bytes.split_first_chunk().map(|(chunk, rest)| (*chunk, rest))
}

fn held_to_wire(entry: &HeldEntry) -> HeldService {
    let replicas = entry.replicas.iter().map(|(spec, missing_since, held_for)| HeldReplica {
        replica: Some(replica_to_wire(&entry.name, spec)),
        missing_time: Some(timestamp(*missing_since)),
        held_for: Some(duration(*held_for)),
    });
    HeldService {
        service: entry.name.to_string(),
        policy: Some(entry.policy.to_wire()),
        follows_default: entry.follows_default,
        expected: entry.expected as u64,
        replicas: replicas.collect(),
    }
}

fn read_held(wire: HeldService, snapshot: &Snapshot) -> Result<HeldEntry, Refusal> {
    let name = parse::service_name(&wire.service)?;
    let policy = parse::policy(&format!("held service {name}"), wire.policy.as_ref())?;
    let mut replicas = Vec::with_capacity(wire.replicas.len());
    for held in wire.replicas {
        let spec = parse::replica(&held.replica.unwrap_or_default())?;
        if snapshot.service(&name).is_some_and(|present| present.has(&spec.id)) {
            return Err(Refusal::DuplicateKey(format!("held replica {name}/{}", spec.id)));
        }
        let held_for = parse_duration("held_for", held.held_for.unwrap_or_default()).unwrap_or_default();
        replicas.push((spec, system_time(held.missing_time.unwrap_or_default()), held_for));
    }
    Ok(HeldEntry {
        name,
        policy: policy.map_or_else(Policy::default, |policy| policy.policy),
        follows_default: wire.follows_default,
        expected: usize::try_from(wire.expected).unwrap_or(usize::MAX),
        replicas,
    })
}
