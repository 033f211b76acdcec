//! What clients get instead of failures, as the file has it.

use gateway_proto::{time::duration, v1};
use serde::Deserialize;

use super::written::Span;

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct FallbackTable {
    statuses: Option<String>,
    service: Option<String>,
    stale_max_age: Option<Span>,
    stale_ignored_fields: Option<String>,
    static_status: Option<i32>,
    content_type: Option<String>,
    body: Option<String>,
}

impl From<FallbackTable> for v1::FallbackPolicy {
    fn from(table: FallbackTable) -> Self {
        Self {
            statuses: table.statuses,
            service: table.service,
            stale_max_age: table.stale_max_age.map(|span| duration(span.0)),
            stale_ignored_fields: table.stale_ignored_fields,
            static_status: table.static_status,
            content_type: table.content_type,
            body: table.body,
        }
    }
}
