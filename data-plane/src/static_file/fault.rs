//! Faults that a service's policy injects on purpose, as the file has it.

use std::time::SystemTime;

use gateway_proto::{
    time::{duration, parse_rfc3339, timestamp},
    v1,
};
use serde::{Deserialize, Deserializer, de::Error as _};

use super::Span;

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct FaultTable {
    delay: Option<Span>,
    delay_ratio: Option<f64>,
    abort_status: Option<i32>,
    abort_ratio: Option<f64>,
    reset_ratio: Option<f64>,
    header: Option<String>,
    end_time: Option<Instant>,
}

/// An instant as text: "2026-11-28T21:00:00Z".
struct Instant(SystemTime);

impl<'de> Deserialize<'de> for Instant {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_rfc3339(&text).map(Self).ok_or_else(|| {
            D::Error::custom(format!("{text:?} is no instant such as \"2026-11-28T21:00:00Z\""))
        })
    }
}

impl From<FaultTable> for v1::FaultPolicy {
    fn from(table: FaultTable) -> Self {
        Self {
            delay: table.delay.map(|span| duration(span.0)),
            delay_ratio: table.delay_ratio,
            abort_status: table.abort_status,
            abort_ratio: table.abort_ratio,
            reset_ratio: table.reset_ratio,
            header: table.header,
            end_time: table.end_time.map(|Instant(at)| timestamp(at)),
        }
    }
}
