//! One line that says how the demo is doing.

use std::{
    fmt::Write as _,
    time::{Duration, SystemTime},
};

use gateway_proto::v1::{Breaker, BreakerState};

use super::load::Tally;
use crate::age;

/// `240 requests, 0 failed, p50 1ms, p99 4ms  ·  r-1 80, r-2 80, r-3 80  ·  all breakers closed`.
///
/// `breakers` is `None` while the control plane does not answer.
pub(crate) fn line(tally: Option<&Tally>, breakers: Option<&[Breaker]>, now: SystemTime) -> String {
    let mut parts = Vec::new();
    if let Some(tally) = tally {
        parts.push(counts(tally));
        if !tally.by_replica.is_empty() {
            let shares: Vec<_> = tally.by_replica.iter().map(|(id, count)| format!("{id} {count}")).collect();
            parts.push(shares.join(", "));
        }
    }
    parts.push(match breakers {
        None => "the control plane does not answer".to_owned(),
        Some(breakers) => not_closed(breakers, now),
    });
    parts.join("  ·  ")
}

/// `240 requests, 0 failed, p50 1ms, p99 4ms`.
pub(crate) fn counts(tally: &Tally) -> String {
    let mut text = format!("{} requests, {} failed", tally.requests, tally.failed);
    for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
        if let Some(bound) = tally.latencies.quantile(share) {
            // Writing to a String cannot fail.
            let _ = write!(text, ", {name} {}", milliseconds(bound));
        }
    }
    text
}

fn milliseconds(span: Duration) -> String {
    let millis = span.as_secs_f64() * 1000.0;
    if millis < 10.0 { format!("{millis:.1}ms") } else { format!("{millis:.0}ms") }
}

fn not_closed(breakers: &[Breaker], now: SystemTime) -> String {
    let described: Vec<_> = breakers
        .iter()
        .filter_map(|breaker| match breaker.state() {
            BreakerState::Open => Some(format!(
                "{} OPEN, retry {} ({})",
                breaker.replica_id,
                age::until(now, breaker.retry_time),
                breaker.reason
            )),
            BreakerState::HalfOpen => Some(format!("{} half-open", breaker.replica_id)),
            BreakerState::ForcedOpen => Some(format!("{} forced OPEN", breaker.replica_id)),
            BreakerState::ForcedClosed => Some(format!("{} forced closed", breaker.replica_id)),
            BreakerState::Closed | BreakerState::Unspecified => None,
        })
        .collect();
    if described.is_empty() { "all breakers closed".to_owned() } else { described.join(", ") }
}

#[cfg(test)]
mod tests {
    use gateway_proto::time::timestamp;

    use super::*;

    #[test]
    fn a_quiet_demo_says_so() {
        let mut tally = Tally { requests: 6, ..Tally::default() };
        tally.by_replica = ["r-1", "r-2", "r-3"].map(|id| (id.to_owned(), 2)).into();
        tally.latencies.record(Duration::from_micros(900));
        assert_eq!(
            line(Some(&tally), Some(&[]), SystemTime::UNIX_EPOCH),
            "6 requests, 0 failed, p50 0.9ms, p99 0.9ms  ·  r-1 2, r-2 2, r-3 2  ·  all breakers closed"
        );
    }

    #[test]
    fn breakers_that_are_not_closed_are_named_with_their_reason() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        let open = Breaker {
            replica_id: "r-2".into(),
            state: BreakerState::Open.into(),
            retry_time: Some(timestamp(now + Duration::from_secs(4))),
            reason: "consecutive_failures 5 >= 5: connect refused".into(),
            ..Default::default()
        };
        let probing =
            Breaker { replica_id: "r-3".into(), state: BreakerState::HalfOpen.into(), ..Default::default() };
        assert_eq!(
            line(None, Some(&[open, probing]), now),
            "r-2 OPEN, retry 4s (consecutive_failures 5 >= 5: connect refused), r-3 half-open"
        );
        assert_eq!(line(None, None, now), "the control plane does not answer");
    }
}
