//! Faults on request: pure decisions about which requests fail, how, and until when.

use std::{
    str::FromStr,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

const DEFAULT_SPAN: Duration = Duration::from_secs(20);
/// No fault outlives this, so that a forgotten one mends itself.
pub(super) const MAX_SPAN: Duration = Duration::from_secs(600);
const DEFAULT_DELAY: Duration = Duration::from_secs(5);

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// 503 at once: others may be asked instead, as they may not be after a 500.
    Down,
    /// The right answer, after a delay.
    Slow(Duration),
    /// The connection is reset before any byte of an answer.
    Reset,
    /// No answer at all.
    Hang,
}

/// A fault that ends by itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Fault {
    kind: Kind,
    until: Instant,
    /// Share of requests that it hits, 0.0..=1.0.
    ratio: f64,
}

impl Fault {
    /// What happens to a request at `now`; `draw` is uniform in 0.0..1.0.
    pub(super) fn strike(&self, now: Instant, draw: f64) -> Option<Kind> {
        (now < self.until && draw < self.ratio).then_some(self.kind)
    }

    /// What it is, for whoever asks, while it lasts.
    pub(super) fn to_json(self, now: Instant) -> Option<Value> {
        let left = self.left(now)?;
        let (kind, delay) = match self.kind {
            Kind::Down => ("down", Duration::ZERO),
            Kind::Slow(delay) => ("slow", delay),
            Kind::Reset => ("reset", Duration::ZERO),
            Kind::Hang => ("hang", Duration::ZERO),
        };
        let delay = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        Some(json!({"kind": kind, "ratio": self.ratio, "delayMs": delay, "leftSeconds": left.as_secs()}))
    }

    /// What is left of it at `now`; `None` when it is over.
    pub(super) fn left(&self, now: Instant) -> Option<Duration> {
        self.until.checked_duration_since(now).filter(|left| !left.is_zero())
    }
}

/// Reads `/fault/NAME?for=20s&ratio=0.3&delay=5s`: the fault to begin, or `None` for `off`.
///
/// # Errors
/// A sentence that names the part which does not parse.
pub(super) fn parse(name: &str, query: &str, now: Instant) -> Result<Option<Fault>, String> {
    let kind = match name {
        "off" => return Ok(None),
        "down" => Kind::Down,
        "slow" => Kind::Slow(duration(query, "delay", DEFAULT_DELAY)?),
        "reset" => Kind::Reset,
        "hang" => Kind::Hang,
        _ => return Err(format!("no fault \"{name}\": there are down, slow, reset, hang and off")),
    };
    let until = now + duration(query, "for", DEFAULT_SPAN)?;
    let ratio = match parameter(query, "ratio") {
        None => 1.0,
        Some(text) => f64::from_str(text)
            .ok()
            .filter(|ratio| (0.0..=1.0).contains(ratio))
            .ok_or_else(|| format!("ratio: \"{text}\" is not in 0.0..=1.0"))?,
    };
    Ok(Some(Fault { kind, until, ratio }))
}

/// A duration of a query, such as `delay=300ms`, at most [`MAX_SPAN`].
///
/// # Errors
/// A sentence that names the parameter.
pub(super) fn duration(query: &str, name: &str, default: Duration) -> Result<Duration, String> {
    let Some(text) = parameter(query, name) else { return Ok(default) };
    let value = humantime::parse_duration(text).map_err(|error| format!("{name}: \"{text}\": {error}"))?;
    if value > MAX_SPAN {
        return Err(format!("{name}: \"{text}\" is longer than {}", humantime::format_duration(MAX_SPAN)));
    }
    Ok(value)
}

fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_hits_its_share_of_requests_until_its_time_is_up() {
        let now = Instant::now();
        let fault = parse("down", "for=20s&ratio=0.3", now).unwrap().unwrap();
        assert_eq!(fault.strike(now, 0.29), Some(Kind::Down));
        assert_eq!(fault.strike(now, 0.3), None);
        assert_eq!(fault.strike(now + Duration::from_secs(20), 0.0), None);
        assert_eq!(fault.left(now), Some(Duration::from_secs(20)));
        assert_eq!(fault.left(now + Duration::from_secs(20)), None);
    }

    #[test]
    fn without_parameters_it_hits_everything_for_twenty_seconds() {
        let now = Instant::now();
        let fault = parse("reset", "", now).unwrap().unwrap();
        assert_eq!(fault.strike(now + Duration::from_secs(19), 0.999), Some(Kind::Reset));
        assert_eq!(parse("slow", "", now).unwrap().unwrap().kind, Kind::Slow(DEFAULT_DELAY));
        assert_eq!(parse("off", "", now), Ok(None));
    }

    #[test]
    fn what_does_not_parse_or_never_ends_is_refused_by_name() {
        let now = Instant::now();
        for (name, query, why) in [
            ("fire", "", "no fault \"fire\""),
            ("down", "for=11min", "for: \"11min\" is longer than 10m"),
            ("down", "for=soon", "for: \"soon\""),
            ("down", "ratio=30", "ratio: \"30\" is not in 0.0..=1.0"),
            ("down", "ratio=NaN", "ratio: \"NaN\" is not in 0.0..=1.0"),
            ("slow", "delay=-1s", "delay: \"-1s\""),
        ] {
            let error = parse(name, query, now).unwrap_err();
            assert!(error.starts_with(why), "{error}");
        }
    }
}
