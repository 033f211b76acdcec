//! The bytes of one record in a store.
//!
//! They are messages of the contract, with what no caller may see beside them, so that the stored form evolves by the
//! contract's rules: fields are only ever added.

use std::time::SystemTime;

use gateway_proto::{
    Endpoint, Health, Invalid, Labels, LeaseId, Locality, Mode, Priority, ReplicaKey, Weight,
    time::{parse_duration, system_time, timestamp},
    v1,
};
use prost::Message;
use prost_types::Timestamp;

use crate::registry::{
    Drain, Item, LeaseTerms, Lost, Override, Record, RequestMark, StoredPolicy, StoredRoute,
};

#[derive(Clone, PartialEq, Message)]
struct StoredReplica {
    #[prost(message, optional, tag = "1")]
    replica: Option<v1::Replica>,
    /// Empty for a permanent replica.
    #[prost(string, tag = "2")]
    lease_id: String,
    /// The latest incarnation when it was lost, and when that was; unset when it is not.
    #[prost(int64, tag = "3")]
    lost_incarnation: i64,
    #[prost(message, optional, tag = "4")]
    lost_time: Option<Timestamp>,
    #[prost(message, optional, tag = "5")]
    request: Option<StoredRequest>,
    /// The health and the reason that it reported, apart from what the message shows in their place.
    #[prost(message, optional, tag = "6")]
    health_time: Option<Timestamp>,
    #[prost(string, tag = "7")]
    health_reason: String,
    #[prost(int64, tag = "8")]
    first_incarnation: i64,
}

#[derive(Clone, PartialEq, Message)]
struct StoredRequest {
    #[prost(bytes = "vec", tag = "1")]
    id: Vec<u8>,
    #[prost(fixed64, tag = "2")]
    fingerprint: u64,
    #[prost(message, optional, tag = "3")]
    time: Option<Timestamp>,
    #[prost(bool, tag = "4")]
    created: bool,
}

/// Writes a record.
pub(super) fn encode(item: &Item) -> Vec<u8> {
    match item {
        Item::Replica(record) => encode_replica(record),
        Item::Policy(policy) => policy.to_wire().encode_to_vec(),
        Item::Override(entry) => entry.to_wire().encode_to_vec(),
        Item::Route(stored) => stored.to_wire().encode_to_vec(),
    }
}

/// Reads a replica, checking it like a request: a store can be damaged.
pub(super) fn decode_replica(bytes: &[u8]) -> Result<Record, String> {
    let mut stored = StoredReplica::decode(bytes).map_err(|error| error.to_string())?;
    let wire = stored.replica.take().ok_or("it holds no replica")?;
    parse(wire, stored).map_err(|invalid| invalid.to_string())
}

/// Reads a policy, as carefully.
pub(super) fn decode_policy(bytes: &[u8]) -> Result<Item, String> {
    let wire = v1::Policy::decode(bytes).map_err(|error| error.to_string())?;
    StoredPolicy::from_wire(&wire).map(Item::from).map_err(|invalid| invalid.to_string())
}

/// Reads an override, as carefully.
pub(super) fn decode_override(bytes: &[u8]) -> Result<Item, String> {
    let wire = v1::OverrideEntry::decode(bytes).map_err(|error| error.to_string())?;
    Override::from_wire(wire).map(Item::from).map_err(|invalid| invalid.to_string())
}

/// Reads an explicit route, as carefully.
pub(super) fn decode_route(bytes: &[u8]) -> Result<Item, String> {
    let wire = v1::Route::decode(bytes).map_err(|error| error.to_string())?;
    StoredRoute::from_wire(&wire).map(Item::from).map_err(|invalid| invalid.to_string())
}

fn encode_replica(record: &Record) -> Vec<u8> {
    let request = record.request.as_deref().map(|mark| StoredRequest {
        id: mark.id.to_be_bytes().to_vec(),
        fingerprint: mark.fingerprint,
        time: Some(timestamp(mark.at)),
        created: mark.created,
    });
    let replica = v1::Replica {
        // Told by others: of health, below, and the revision.
        state_change_time: None,
        state_reason: String::new(),
        etag: String::new(),
        ..record.to_wire()
    };
    let stored = StoredReplica {
        replica: Some(replica),
        lease_id: record.lease.map(|lease| lease.id.reveal()).unwrap_or_default(),
        lost_incarnation: record.lost.as_deref().map_or(0, |lost| lost.incarnation),
        lost_time: record.lost.as_deref().map(|lost| timestamp(lost.since)),
        request,
        health_time: Some(timestamp(record.health_since)),
        health_reason: record.health_reason.to_string(),
        first_incarnation: record.first_incarnation,
    };
    stored.encode_to_vec()
}

fn parse(wire: v1::Replica, stored: StoredReplica) -> Result<Record, Invalid> {
    let mode = Mode::parse(wire.mode)?;
    let reported = match wire.reported_health {
        0 => wire.health,
        reported => reported,
    };
    let time = |wire: Option<Timestamp>| wire.map_or(SystemTime::UNIX_EPOCH, system_time);
    let request = stored.request.map(|request| {
        let id = request.id.try_into().map_err(|_| Invalid::new("request", "has no id of 16 bytes"))?;
        let (fingerprint, created) = (request.fingerprint, request.created);
        Ok(Box::new(RequestMark {
            id: u128::from_be_bytes(id),
            fingerprint,
            at: time(request.time),
            created,
        }))
    });
    let drain = wire.drain.map(|drain| {
        Box::new(Drain {
            begun: time(drain.begin_time),
            deadline: time(drain.deadline_time),
            reason: drain.reason.into(),
            author: drain.author.into(),
            by_owner: drain.by_owner,
            is_over: mode == Mode::Drained,
            revision: drain.revision,
        })
    });
    let lease = match stored.lease_id.as_str() {
        "" => None,
        id => {
            let ttl = wire.lease.and_then(|lease| lease.ttl).unwrap_or_default();
            Some(LeaseTerms::new(LeaseId::parse(id)?, parse_duration("lease.ttl", ttl)?))
        }
    };
    Ok(Record {
        key: ReplicaKey::parse(&wire.service, &wire.replica_id)?,
        endpoint: Endpoint::parse(&wire.endpoint.unwrap_or_default())?,
        weight: Weight::parse(wire.weight)?,
        priority: Priority::parse(wire.priority)?,
        locality: Locality::parse(wire.locality.unwrap_or_default())?,
        version: wire.version.into(),
        labels: Labels::parse(wire.labels)?,
        health: Health::parse_reported(reported)?.unwrap_or(Health::Healthy),
        health_reason: stored.health_reason.into(),
        health_since: time(stored.health_time),
        lease,
        lost: stored
            .lost_time
            .map(|since| Box::new(Lost { since: system_time(since), incarnation: stored.lost_incarnation })),
        drain,
        request: request.transpose()?,
        registered_by: wire.registered_by.into(),
        incarnation: wire.incarnation,
        first_incarnation: stored.first_incarnation,
        created_at: time(wire.create_time),
        updated_at: time(wire.update_time),
        revision: wire.revision,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use gateway_proto::{Address, Protocol, TlsServerName};

    use super::*;

    pub(in crate::store) fn record(id: &str) -> Record {
        let at = UNIX_EPOCH + Duration::new(1_800_000_000, 5);
        Record {
            key: ReplicaKey::parse("orders", id).unwrap(),
            endpoint: Address::parse("[::1]:80").unwrap().into(),
            weight: Weight::parse(7).unwrap(),
            priority: Priority::parse(2).unwrap(),
            locality: Locality::parse(v1::Locality { region: "eu".into(), zone: "eu-1".into() }).unwrap(),
            version: "1.2".into(),
            labels: Labels::parse([("team".into(), "shop".into())]).unwrap(),
            health: Health::Degraded,
            health_reason: "disk".into(),
            health_since: at,
            lease: Some(LeaseTerms::new(LeaseId::from_random(5), Duration::from_secs(15))),
            lost: None,
            drain: None,
            request: None,
            registered_by: "ci".into(),
            incarnation: 3,
            first_incarnation: 3,
            created_at: at,
            updated_at: at,
            revision: 9,
        }
    }

    fn survives(record: Record) {
        assert_eq!(decode_replica(&encode(&record.clone().into())), Ok(record));
    }

    #[test]
    fn a_record_survives_its_bytes() {
        let leased = record("r-1");
        survives(leased.clone());
        let tls = Protocol::tls(Some(TlsServerName::parse("orders.example").unwrap()));
        for protocol in [Protocol::h2c(), Protocol::tls(None), tls] {
            let endpoint = Endpoint { protocol, ..leased.endpoint.clone() };
            survives(Record { endpoint, ..leased.clone() });
        }
        survives(Record { lease: None, ..leased });
    }

    #[test]
    fn what_is_shown_in_the_place_of_the_reported_health_does_not_overwrite_it() {
        let (plain, later) = (record("r-1"), UNIX_EPOCH + Duration::from_secs(2_000_000_000));
        let lost = Some(Box::new(Lost { since: later, incarnation: 4 }));
        let drain = Drain {
            begun: later,
            deadline: later + Duration::from_secs(30),
            reason: "kernel".into(),
            author: "ana".into(),
            by_owner: true,
            is_over: false,
            revision: 7,
        };
        let over = Drain { is_over: true, ..drain.clone() };
        let request = RequestMark { id: u128::MAX - 1, fingerprint: 9, at: later, created: true };
        survives(Record { lost: lost.clone(), ..plain.clone() });
        survives(Record { drain: Some(Box::new(drain)), request: Some(Box::new(request)), ..plain.clone() });
        survives(Record { drain: Some(Box::new(over)), lost, ..plain });
    }

    #[test]
    fn damaged_bytes_are_refused_and_never_panic() {
        let bytes = encode(&Item::from(record("r-1")));
        for cut in 0..bytes.len() {
            let cut = &bytes[..cut];
            let _ = (decode_replica(cut), decode_policy(cut), decode_override(cut), decode_route(cut));
        }
        assert!(decode_replica(&[]).is_err() && decode_policy(&[]).is_err() && decode_override(&[]).is_err());
        assert!(decode_replica(&bytes[1..]).is_err() && decode_route(&[]).is_err());
    }
}
