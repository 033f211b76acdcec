//! How much of a service is under way at once, as the file has it.

use gateway_proto::{policy, time::duration, v1};
use serde::{Deserialize, Deserializer, de::Error as _};

use super::Span;

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ConcurrencyTable {
    max_per_replica: Option<i32>,
    max_per_service: Option<i32>,
    max_pending: Option<i32>,
    max_queue_time: Option<Span>,
    adaptive: Option<AdaptiveLimit>,
    adaptive_min: Option<i32>,
    adaptive_max: Option<i32>,
}

/// A way to find a limit by its name: "gradient".
struct AdaptiveLimit(policy::AdaptiveLimit);

impl<'de> Deserialize<'de> for AdaptiveLimit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        policy::AdaptiveLimit::named(&text).map(Self).ok_or_else(|| {
            D::Error::custom(format!("{text:?} is not one of {}", policy::AdaptiveLimit::NAMES.join(", ")))
        })
    }
}

impl From<ConcurrencyTable> for v1::ConcurrencyPolicy {
    fn from(table: ConcurrencyTable) -> Self {
        Self {
            max_per_replica: table.max_per_replica,
            max_per_service: table.max_per_service,
            max_pending: table.max_pending,
            max_queue_time: table.max_queue_time.map(|span| duration(span.0)),
            adaptive: table.adaptive.map(|AdaptiveLimit(adaptive)| adaptive.number()),
            adaptive_min: table.adaptive_min,
            adaptive_max: table.adaptive_max,
        }
    }
}
