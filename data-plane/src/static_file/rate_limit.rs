//! How many requests are let through, as the file has it.

use gateway_proto::v1;
use serde::Deserialize;

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RateLimitTable {
    requests_per_second: Option<f64>,
    burst: Option<i32>,
    key: Option<String>,
    observe_only: Option<bool>,
}

impl From<RateLimitTable> for v1::RateLimitPolicy {
    fn from(table: RateLimitTable) -> Self {
        Self {
            requests_per_second: table.requests_per_second,
            burst: table.burst,
            key: table.key,
            observe_only: table.observe_only,
        }
    }
}
