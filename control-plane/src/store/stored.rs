//! The bytes of one record in a store.
//!
//! It is the contract's `Replica` and the secret lease id beside it, so that the stored form evolves by the
//! contract's rules: fields are only ever added.

use gateway_proto::{
    Address, Health, Labels, LeaseId, ReplicaKey, Weight,
    time::{parse_duration, system_time},
    v1,
};
use prost::Message;

use crate::registry::{LeaseTerms, Record};

#[derive(Clone, PartialEq, Message)]
struct StoredReplica {
    #[prost(message, optional, tag = "1")]
    replica: Option<v1::Replica>,
    /// Empty for a permanent replica.
    #[prost(string, tag = "2")]
    lease_id: String,
}

/// Writes a record.
pub(super) fn encode(record: &Record) -> Vec<u8> {
    let lease_id = record.lease.map(|lease| lease.id.reveal()).unwrap_or_default();
    StoredReplica { replica: Some(record.to_wire()), lease_id }.encode_to_vec()
}

/// Reads a record, checking it like a request: a store can be damaged.
pub(super) fn decode(bytes: &[u8]) -> Result<Record, String> {
    let stored = StoredReplica::decode(bytes).map_err(|error| error.to_string())?;
    let wire = stored.replica.ok_or("it holds no replica")?;
    parse(wire, &stored.lease_id).map_err(|invalid| invalid.to_string())
}

fn parse(wire: v1::Replica, lease_id: &str) -> Result<Record, gateway_proto::Invalid> {
    let lease = match lease_id {
        "" => None,
        id => {
            let ttl = wire.lease.and_then(|lease| lease.ttl).unwrap_or_default();
            Some(LeaseTerms { id: LeaseId::parse(id)?, ttl: parse_duration("lease.ttl", ttl)? })
        }
    };
    Ok(Record {
        key: ReplicaKey::parse(&wire.service, &wire.replica_id)?,
        address: Address::parse(&wire.endpoint.unwrap_or_default().address)?,
        weight: Weight::parse(wire.weight)?,
        version: wire.version,
        labels: Labels::parse(wire.labels)?,
        health: Health::parse(wire.health)?.unwrap_or(Health::Healthy),
        health_reason: wire.state_reason,
        health_since: system_time(wire.state_change_time.unwrap_or_default()),
        lease,
        incarnation: wire.incarnation,
        created_at: system_time(wire.create_time.unwrap_or_default()),
        updated_at: system_time(wire.update_time.unwrap_or_default()),
        revision: wire.revision,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    pub(in crate::store) fn record(id: &str) -> Record {
        let at = UNIX_EPOCH + Duration::new(1_800_000_000, 5);
        Record {
            key: ReplicaKey::parse("orders", id).unwrap(),
            address: Address::parse("[::1]:80").unwrap(),
            weight: Weight::parse(7).unwrap(),
            version: "1.2".into(),
            labels: Labels::parse([("team".into(), "shop".into())]).unwrap(),
            health: Health::Degraded,
            health_reason: "disk".into(),
            health_since: at,
            lease: Some(LeaseTerms { id: LeaseId::from_random(5), ttl: Duration::from_secs(15) }),
            incarnation: 3,
            created_at: at,
            updated_at: at,
            revision: 9,
        }
    }

    #[test]
    fn a_record_survives_its_bytes() {
        let leased = record("r-1");
        assert_eq!(decode(&encode(&leased)), Ok(leased.clone()));
        let permanent = Record { lease: None, ..leased };
        assert_eq!(decode(&encode(&permanent)), Ok(permanent));
    }

    #[test]
    fn damaged_bytes_are_refused_and_never_panic() {
        let bytes = encode(&record("r-1"));
        for cut in 0..bytes.len() {
            let _ = decode(&bytes[..cut]);
        }
        assert!(decode(&[]).is_err());
        assert!(decode(&bytes[1..]).is_err());
    }
}
