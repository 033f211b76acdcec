//! What may be asked of breakers and of data planes.

use std::borrow::Cow;

use gateway_proto::{time::non_negative, v1};

use crate::query::{Field, Read, Schema, Words};

/// What may be asked of a breaker, merged or of one data plane.
pub(in crate::rpc) static BREAKERS: Schema<v1::Breaker> = Schema {
    what: "a breaker",
    fields: &[
        Field { name: "service", read: Read::Text(|row| Cow::Borrowed(&row.service)) },
        Field { name: "replica_id", read: Read::Text(|row| Cow::Borrowed(&row.replica_id)) },
        Field { name: "node_id", read: Read::Text(|row| Cow::Borrowed(&row.node_id)) },
        Field { name: "address", read: Read::Text(|row| Cow::Borrowed(&row.address)) },
        Field {
            name: "state",
            read: Read::Word(
                |row| row.state,
                Words {
                    prefix: "BREAKER_STATE_",
                    name: |number| Some(v1::BreakerState::try_from(number).ok()?.as_str_name()),
                    is_ordered: false,
                },
            ),
        },
        Field {
            name: "rule",
            read: Read::Word(
                |row| row.rule,
                Words {
                    prefix: "BREAKER_RULE_",
                    name: |number| Some(v1::BreakerRule::try_from(number).ok()?.as_str_name()),
                    is_ordered: false,
                },
            ),
        },
        Field { name: "reason", read: Read::Text(|row| Cow::Borrowed(&row.reason)) },
        Field { name: "trip_count", read: Read::Number(|row| row.trip_count) },
        Field { name: "open_node_count", read: Read::Number(|row| row.open_node_count.into()) },
        Field { name: "node_count", read: Read::Number(|row| row.node_count.into()) },
        Field { name: "attempt_count", read: Read::Number(|row| row.attempt_count) },
        Field { name: "failure_count", read: Read::Number(|row| row.failure_count) },
        Field { name: "retry_count", read: Read::Number(|row| row.retry_count) },
        Field { name: "inflight_count", read: Read::Number(|row| row.inflight_count.into()) },
        Field { name: "asked_regardless", read: Read::Flag(|row| row.asked_regardless) },
        Field { name: "stands_by", read: Read::Flag(|row| row.stands_by) },
        Field { name: "incarnation", read: Read::Number(|row| row.incarnation) },
        Field { name: "state_change_time", read: Read::Time(|row| row.state_change_time) },
        Field { name: "retry_time", read: Read::Time(|row| row.retry_time) },
    ],
};

/// What may be asked of a data plane.
pub(in crate::rpc) static NODES: Schema<v1::Node> = Schema {
    what: "a data plane",
    fields: &[
        Field { name: "node_id", read: Read::Text(|node| Cow::Borrowed(&node.node_id)) },
        Field { name: "version", read: Read::Text(|node| Cow::Borrowed(&node.version)) },
        Field { name: "address", read: Read::Text(|node| Cow::Borrowed(&node.address)) },
        Field {
            name: "state",
            read: Read::Word(
                |node| node.state,
                Words {
                    prefix: "NODE_STATE_",
                    name: |number| Some(v1::NodeState::try_from(number).ok()?.as_str_name()),
                    is_ordered: false,
                },
            ),
        },
        Field { name: "control_plane", read: Read::Text(|node| Cow::Borrowed(&node.control_plane)) },
        Field { name: "acked_revision", read: Read::Number(|node| node.acked_revision) },
        Field { name: "sent_revision", read: Read::Number(|node| node.sent_revision) },
        Field { name: "open_breaker_count", read: Read::Number(|node| node.open_breaker_count.into()) },
        Field { name: "held_replica_count", read: Read::Number(|node| node.held_replica_count.into()) },
        Field {
            name: "health_check_lateness",
            read: Read::Span(|node| node.health_check_lateness.and_then(non_negative)),
        },
        Field { name: "connect_time", read: Read::Time(|node| node.connect_time) },
        Field { name: "last_report_time", read: Read::Time(|node| node.last_report_time) },
    ],
};
