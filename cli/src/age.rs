//! How spans of time are written: short, rounded down for the past and up for the future.

use std::time::{Duration, SystemTime};

use gateway_proto::time::system_time;
use prost_types::Timestamp;

/// Stands for "no data".
pub(crate) const NONE: &str = "-";

/// The text, or [`NONE`] where there is none.
pub(crate) fn or_none(text: &str) -> &str {
    if text.is_empty() { NONE } else { text }
}

/// How long ago `since` was: `12s`, `41m`, `2h`, `3d`. A time that is missing is `-`; one in the future is `0s`.
pub(crate) fn since(now: SystemTime, since: Option<Timestamp>) -> String {
    since.map_or_else(|| NONE.into(), |at| short(elapsed(now, at)))
}

/// How long it is until `at`, rounded up to a second: `4s`; `now` when it is due, `-` when it is missing.
pub(crate) fn until(now: SystemTime, at: Option<Timestamp>) -> String {
    let Some(at) = at else { return NONE.into() };
    match system_time(at).duration_since(now) {
        Ok(left) if !left.is_zero() => short(left + Duration::from_nanos(999_999_999)),
        _ => "now".into(),
    }
}

/// The time of day of an instant, UTC to the second like the short form of the logs: `14:17:22Z`; `-` when it is missing.
pub(crate) fn time_of_day(at: Option<Timestamp>) -> String {
    let Some(at) = at else { return NONE.into() };
    let full = humantime::format_rfc3339_seconds(system_time(at)).to_string();
    full.split_once('T').map_or(full.clone(), |(_, time)| time.to_owned())
}

/// Time passed from `at` to `now`; zero when `at` lies ahead, as clocks of two machines differ.
pub(crate) fn elapsed(now: SystemTime, at: Timestamp) -> Duration {
    now.duration_since(system_time(at)).unwrap_or_default()
}

/// The two digits that matter: seconds below a minute, then minutes, from two hours on hours, from two days on days.
pub(crate) fn short(span: Duration) -> String {
    match span.as_secs() {
        seconds @ ..60 => format!("{seconds}s"),
        seconds @ 60..7200 => format!("{}m", seconds / 60),
        seconds @ 7200..172_800 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use gateway_proto::time::timestamp;

    use super::*;

    const HOUR: u64 = 3600;

    #[test]
    fn a_span_is_written_in_its_largest_fitting_unit() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (2 * HOUR - 1, "119m"),
            (2 * HOUR, "2h"),
            (48 * HOUR - 1, "47h"),
            (72 * HOUR, "3d"),
        ] {
            assert_eq!(short(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn a_time_of_day_is_utc_to_the_second() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(86_400_000 + 51_442_999);
        assert_eq!(time_of_day(Some(timestamp(at))), "14:17:22Z");
        assert_eq!(time_of_day(None), "-");
    }

    #[test]
    fn the_past_rounds_down_and_the_future_up() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let at = |offset_millis: i64| {
            let millis = u64::try_from(1_000_000 + offset_millis).unwrap();
            Some(timestamp(SystemTime::UNIX_EPOCH + Duration::from_millis(millis)))
        };
        assert_eq!(since(now, at(-2900)), "2s");
        assert_eq!(since(now, at(500)), "0s");
        assert_eq!(since(now, None), "-");
        assert_eq!(until(now, at(3100)), "4s");
        assert_eq!(until(now, at(100)), "1s");
        assert_eq!(until(now, at(0)), "now");
        assert_eq!(until(now, at(-100)), "now");
        assert_eq!(until(now, None), "-");
    }
}
