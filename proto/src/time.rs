//! Durations and instants on the wire.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost_types::{Duration as WireDuration, Timestamp};

use crate::Invalid;

/// Reads a duration that must not be negative.
///
/// # Errors
/// [`Invalid`] for `field` when it is negative or not in protobuf's range.
pub fn parse_duration(field: &str, wire: WireDuration) -> Result<Duration, Invalid> {
    Duration::try_from(wire).map_err(|_| Invalid::new(field, "is not a duration of zero or more"))
}

/// Reads a duration within `min..=max`.
///
/// # Errors
/// [`Invalid`] for `field` with the range.
pub fn parse_duration_within(
    field: &str,
    wire: WireDuration,
    min: Duration,
    max: Duration,
) -> Result<Duration, Invalid> {
    let value = parse_duration(field, wire)?;
    if value < min || value > max {
        return Err(Invalid::new(field, format!("{value:?} is not in {min:?}..={max:?}")));
    }
    Ok(value)
}

/// Writes a duration; one beyond protobuf's 10,000 years becomes that.
pub fn duration(value: Duration) -> WireDuration {
    WireDuration::try_from(value).unwrap_or(WireDuration { seconds: 315_576_000_000, nanos: 0 })
}

/// Writes an instant of the wall clock.
pub fn timestamp(at: SystemTime) -> Timestamp {
    Timestamp::from(at)
}

/// Reads an instant of the wall clock; one outside the system's range becomes the Unix epoch.
pub fn system_time(wire: Timestamp) -> SystemTime {
    SystemTime::try_from(wire).unwrap_or(UNIX_EPOCH)
}

/// Whether protobuf, and with it its JSON, has this instant: within the years 1 to 9999.
pub fn is_valid(wire: &Timestamp) -> bool {
    (-62_135_596_800..=253_402_300_799).contains(&wire.seconds) && (0..1_000_000_000).contains(&wire.nanos)
}
