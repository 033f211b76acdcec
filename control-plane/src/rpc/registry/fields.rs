//! What may be asked of services and of replicas, and what they may be sorted by.

use std::borrow::Cow;

use gateway_proto::{
    time::{non_negative, timestamp},
    v1,
};

use crate::{
    query::{Field, Read, Schema, Words},
    registry::Record,
};

/// What may be asked of a service: each of its fields.
pub(super) static SERVICES: Schema<v1::Service> = Schema {
    what: "a service",
    fields: &[
        Field { name: "service", read: Read::Text(|service| Cow::Borrowed(&service.service)) },
        Field { name: "replica_count", read: Read::Number(|service| service.replica_count.into()) },
        Field {
            name: "ready_replica_count",
            read: Read::Number(|service| service.ready_replica_count.into()),
        },
        Field {
            name: "draining_replica_count",
            read: Read::Number(|service| service.draining_replica_count.into()),
        },
        Field { name: "lost_replica_count", read: Read::Number(|service| service.lost_replica_count.into()) },
        Field { name: "open_breaker_count", read: Read::Number(|service| service.open_breaker_count.into()) },
        Field {
            name: "fail_open_node_count",
            read: Read::Number(|service| service.fail_open_node_count.into()),
        },
        Field { name: "inflight_count", read: Read::Number(|service| service.inflight_count.into()) },
        Field { name: "pending_count", read: Read::Number(|service| service.pending_count.into()) },
        Field { name: "request_rate", read: Read::Real(|service| service.request_rate) },
        Field { name: "success_ratio", read: Read::Real(|service| service.success_ratio) },
        Field { name: "latency_p50", read: Read::Span(|service| service.latency_p50.and_then(non_negative)) },
        Field { name: "latency_p99", read: Read::Span(|service| service.latency_p99.and_then(non_negative)) },
        Field { name: "create_time", read: Read::Time(|service| service.create_time) },
        Field { name: "revision", read: Read::Number(|service| service.revision) },
    ],
};

/// What may be asked of a replica.
pub(super) static REPLICAS: Schema<Record> = Schema {
    what: "a replica",
    fields: &[
        Field { name: "service", read: Read::Text(|record| Cow::Borrowed(record.key.service.as_str())) },
        Field { name: "replica_id", read: Read::Text(|record| Cow::Borrowed(record.key.replica.as_str())) },
        Field { name: "address", read: Read::Text(|record| Cow::Owned(record.endpoint.address.to_string())) },
        Field {
            name: "protocol",
            read: Read::Word(
                |record| record.endpoint.protocol.to_wire().into(),
                Words {
                    prefix: "ENDPOINT_PROTOCOL_",
                    name: |number| Some(v1::EndpointProtocol::try_from(number).ok()?.as_str_name()),
                    is_ordered: false,
                },
            ),
        },
        Field { name: "weight", read: Read::Number(|record| record.weight.get().into()) },
        Field { name: "priority", read: Read::Number(|record| record.priority.get().into()) },
        Field { name: "region", read: Read::Text(|record| Cow::Borrowed(record.locality.region())) },
        Field { name: "zone", read: Read::Text(|record| Cow::Borrowed(record.locality.zone())) },
        Field { name: "version", read: Read::Text(|record| Cow::Borrowed(&record.version)) },
        Field { name: "labels", read: Read::Entry(|record, key| label(record, key).map(Cow::Borrowed)) },
        Field {
            name: "health",
            read: Read::Word(
                |record| record.shown_health().to_wire().into(),
                Words {
                    prefix: "HEALTH_STATUS_",
                    name: |number| Some(v1::HealthStatus::try_from(number).ok()?.as_str_name()),
                    is_ordered: false,
                },
            ),
        },
        Field {
            name: "mode",
            read: Read::Word(
                |record| record.mode().to_wire().into(),
                Words {
                    prefix: "REPLICA_MODE_",
                    name: |number| Some(v1::ReplicaMode::try_from(number).ok()?.as_str_name()),
                    is_ordered: false,
                },
            ),
        },
        Field { name: "permanent", read: Read::Flag(|record| record.lease.is_none()) },
        Field { name: "registered_by", read: Read::Text(|record| Cow::Borrowed(&record.registered_by)) },
        Field { name: "incarnation", read: Read::Number(|record| record.incarnation) },
        Field { name: "create_time", read: Read::Time(|record| Some(timestamp(record.created_at))) },
        Field { name: "update_time", read: Read::Time(|record| Some(timestamp(record.updated_at))) },
        Field { name: "revision", read: Read::Number(|record| record.revision) },
    ],
};

fn label<'a>(record: &'a Record, key: &str) -> Option<&'a str> {
    record.labels.iter().find(|(name, _)| *name == key).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_lists_every_field_that_filters_know() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/filters.md");
        let document = std::fs::read_to_string(path).unwrap().replace('`', "").replace('\n', " ");
        for (what, fields) in [
            ("Fields of services", SERVICES.listed()),
            ("Of replicas", REPLICAS.listed()),
            ("Of breakers", crate::rpc::observability::BREAKERS.listed()),
            ("Of data planes", crate::rpc::observability::NODES.listed()),
            ("Of policies", crate::rpc::policies::POLICIES.listed().replace("settings.KEY", "settings.PATH")),
            ("Of events", crate::rpc::observability::EVENTS.listed()),
        ] {
            assert!(document.contains(&format!("{what}: {fields}.")), "{what}: {fields}");
        }
    }
}
