//! Durations and instants on the wire.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost_types::{Duration as WireDuration, Timestamp};

use crate::Invalid;

/// Reads a duration that must not be negative.
///
/// # Errors
/// [`Invalid`] for `field` when it is negative or not in protobuf's range.
pub fn parse_duration(field: &str, wire: WireDuration) -> Result<Duration, Invalid> {
    non_negative(wire).ok_or_else(|| Invalid::new(field, "is not a duration of zero or more"))
}

/// Reads a duration; `None` when it is negative, or none of protobuf's.
///
/// The conversion of `prost_types` overflows on the most negative one and puts right what is malformed, and anybody can
/// send that.
pub fn non_negative(wire: WireDuration) -> Option<Duration> {
    let is_one = wire.seconds >= 0 && (0..1_000_000_000).contains(&wire.nanos);
    if is_one { Duration::try_from(wire).ok() } else { None }
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
        let why = format!("{} is not in {}..={}", exact(value), exact(min), exact(max));
        return Err(Invalid::new(field, why));
    }
    Ok(value)
}

/// Reads the value of a `grpc-timeout`: one to eight digits, and a unit. `None` when it is something else.
pub fn parse_grpc(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u32 = str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(u64::from(number) * 3600),
        b'M' => Duration::from_secs(u64::from(number) * 60),
        b'S' => Duration::from_secs(number.into()),
        b'm' => Duration::from_millis(number.into()),
        b'u' => Duration::from_micros(number.into()),
        b'n' => Duration::from_nanos(number.into()),
        _ => return None,
    })
}

/// A duration for people, exactly: a whole number of the largest unit that allows it, e.g. `1500ms`, `90s`, `2m`, `7d`.
pub fn exact(value: Duration) -> String {
    const UNITS: [(u128, &str); 6] = [
        (86_400_000_000_000, "d"),
        (3_600_000_000_000, "h"),
        (60_000_000_000, "m"),
        (1_000_000_000, "s"),
        (1_000_000, "ms"),
        (1000, "us"),
    ];
    let nanos = value.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    let unit = UNITS.into_iter().find(|(size, _)| nanos.is_multiple_of(*size));
    let (size, name) = unit.unwrap_or((1, "ns"));
    format!("{}{name}", nanos / size)
}

/// Writes a duration; one beyond protobuf's 10,000 years becomes that.
pub fn duration(value: Duration) -> WireDuration {
    WireDuration::try_from(value).unwrap_or(WireDuration { seconds: 315_576_000_000, nanos: 0 })
}

/// Writes an instant of the wall clock.
pub fn timestamp(at: SystemTime) -> Timestamp {
    Timestamp::from(at)
}

/// An instant of the wall clock for people, exactly, as RFC 3339 has it: `2026-11-28T09:00:00Z`.
pub fn rfc3339(at: SystemTime) -> String {
    timestamp(at).to_string()
}

/// Reads an instant as RFC 3339 has it; `None` when it is none.
pub fn parse_rfc3339(text: &str) -> Option<SystemTime> {
    text.parse::<Timestamp>().ok().filter(is_valid).map(system_time)
}

/// Reads an instant of the wall clock; one outside the system's range becomes the Unix epoch.
pub fn system_time(wire: Timestamp) -> SystemTime {
    SystemTime::try_from(wire).unwrap_or(UNIX_EPOCH)
}

/// Whether protobuf, and with it its JSON, has this instant: within the years 1 to 9999.
pub fn is_valid(wire: &Timestamp) -> bool {
    (-62_135_596_800..=253_402_300_799).contains(&wire.seconds) && (0..1_000_000_000).contains(&wire.nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_shown_as_a_whole_number_of_the_largest_unit() {
        for (value, text) in [
            (Duration::ZERO, "0s"),
            (Duration::from_nanos(1), "1ns"),
            (Duration::from_micros(1500), "1500us"),
            (Duration::from_millis(1500), "1500ms"),
            (Duration::from_secs(1), "1s"),
            (Duration::from_secs(60), "1m"),
            (Duration::from_secs(90), "90s"),
            (Duration::from_secs(5400), "90m"),
            (Duration::from_secs(7 * 86_400), "7d"),
            (Duration::MAX, "18446744073709551615999999999ns"),
        ] {
            assert_eq!(exact(value), text);
        }
    }

    #[test]
    fn an_instant_is_written_and_read_as_rfc_3339_has_it() {
        let at = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        assert_eq!(rfc3339(at), "2023-11-14T22:13:20Z");
        assert_eq!(parse_rfc3339("2023-11-14T22:13:20Z"), Some(at));
        assert_eq!(parse_rfc3339("2023-11-14T23:13:20+01:00"), Some(at));
        for text in ["", "soon", "22:13", "10m"] {
            assert_eq!(parse_rfc3339(text), None, "{text}");
        }
    }

    #[test]
    fn a_duration_out_of_its_range_is_refused_with_the_range() {
        let (min, max) = (Duration::from_millis(1), Duration::from_secs(60));
        let parse = |value| parse_duration_within("wait_timeout", value, min, max);
        assert_eq!(parse(duration(max)), Ok(max));
        let refused = |value| parse(value).unwrap_err().to_string();
        assert_eq!(refused(duration(2 * max)), "wait_timeout: 2m is not in 1ms..=1m");
        assert_eq!(refused(duration(Duration::ZERO)), "wait_timeout: 0s is not in 1ms..=1m");
    }

    #[test]
    fn every_negative_or_malformed_duration_is_refused() {
        let malformed = [(1, -1), (1, 1_500_000_000)];
        let negative = [(-1, 0), (0, -1), (i64::MIN, i32::MIN), (i64::MIN, 0), (0, i32::MIN)];
        for (seconds, nanos) in negative.into_iter().chain(malformed) {
            let refused = parse_duration("wait_timeout", WireDuration { seconds, nanos }).unwrap_err();
            assert_eq!(refused.to_string(), "wait_timeout: is not a duration of zero or more");
        }
    }
}
