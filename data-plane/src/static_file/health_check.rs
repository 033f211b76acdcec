//! How a service's replicas are checked, as the file has it.

use gateway_proto::{policy::CheckType, time::duration, v1};
use serde::{Deserialize, Deserializer, de::Error as _};

use super::Span;

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct HealthCheckTable {
    r#type: Option<Type>,
    interval: Option<Span>,
    fast_interval: Option<Span>,
    slow_interval: Option<Span>,
    timeout: Option<Span>,
    jitter: Option<f64>,
    rise: Option<i32>,
    fall: Option<i32>,
    path: Option<String>,
    host: Option<String>,
    expected_statuses: Option<String>,
    grpc_service: Option<String>,
    wait_for_first: Option<bool>,
    observe_only: Option<bool>,
    closes_breaker: Option<bool>,
}

/// A type by its name: "http".
struct Type(CheckType);

impl<'de> Deserialize<'de> for Type {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let named = CheckType::named(&text).map(Self);
        named.ok_or_else(|| {
            D::Error::custom(format!("{text:?} is not one of {}", CheckType::NAMES.join(", ")))
        })
    }
}

impl From<HealthCheckTable> for v1::HealthCheckPolicy {
    fn from(table: HealthCheckTable) -> Self {
        let wire = |span: Option<Span>| span.map(|span| duration(span.0));
        Self {
            r#type: table.r#type.map(|Type(kind)| kind.number()),
            interval: wire(table.interval),
            fast_interval: wire(table.fast_interval),
            slow_interval: wire(table.slow_interval),
            timeout: wire(table.timeout),
            jitter: table.jitter,
            rise: table.rise,
            fall: table.fall,
            path: table.path,
            host: table.host,
            expected_statuses: table.expected_statuses,
            grpc_service: table.grpc_service,
            wait_for_first: table.wait_for_first,
            observe_only: table.observe_only,
            closes_breaker: table.closes_breaker,
        }
    }
}
