//! How a service's requests are treated, with every value in its range.

use std::time::Duration;

use prost_types::Duration as WireDuration;

use crate::{
    Invalid,
    invalid::Check,
    time::{duration, parse_duration_within},
    v1,
};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// The resolved policy of a service. `Default` is what holds where nobody said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Policy {
    /// How long things may take.
    pub timeout: Timeouts,
    /// When a failed attempt is followed by another.
    pub retry: Retry,
    /// When a replica is left alone.
    pub breaker: Breaker,
    /// When replicas that seem to be gone are held all the same.
    pub guard: Guard,
    /// How long requests in flight may take once a replica drains. Default 30 s, 0 s..=1 h.
    pub drain_timeout: DrainTimeout,
}

/// How long requests in flight may take once a replica drains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainTimeout(pub Duration);

impl Default for DrainTimeout {
    fn default() -> Self {
        Self(30 * SECOND)
    }
}

/// How long things may take.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Timeouts {
    /// One TCP connect. Default 1 s, 1 ms..=60 s.
    pub connect: Duration,
    /// One attempt, from its start to the response head. Default 10 s, 1 ms..=1 h. It begins when the client's request
    /// is here in full.
    pub per_try: Duration,
    /// All attempts and back-offs up to the response head. Default 30 s, 1 ms..=24 h. It begins when the client's
    /// request is here in full.
    pub request: Duration,
    /// A body, of a request or a response, that moves no byte for this long is cut. Default 60 s, 1 ms..=24 h.
    pub stream_idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: SECOND, per_try: 10 * SECOND, request: 30 * SECOND, stream_idle: MINUTE }
    }
}

/// When a failed attempt is followed by another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Retry {
    /// Retries of attempts that a replica may have seen. Default 2, 0..=10.
    pub max_retry_count: u8,
    /// Retries as a share of requests over 10 s, beside a floor of 10 per second. Default 0.2, 0.0..=1.0.
    pub budget_ratio: f64,
    /// Each back-off is drawn from zero to this × 2^n. Default 25 ms, 1 ms..=1 min.
    pub base_backoff: Duration,
    /// No back-off is longer. Default 250 ms, 1 ms..=1 min, at least `base_backoff`.
    pub max_backoff: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { max_retry_count: 2, budget_ratio: 0.2, base_backoff: 25 * MS, max_backoff: 250 * MS }
    }
}

/// When a replica is left alone, and how it comes back.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Breaker {
    /// Failures in a row that open the breaker. Default 5, 1..=10 000.
    pub consecutive_failure_count: u32,
    /// Share of failures in the window that opens it. Default 0.5, above 0.0 and up to 1.0.
    pub failure_ratio: f64,
    /// Sliding window of the ratio. Default 10 s, 1 s..=10 min.
    pub window: Duration,
    /// Outcomes the window must hold before the ratio counts. Default 20, 1..=1 000 000.
    pub min_request_count: u32,
    /// First open time; doubles each time it opens again before a healthy interval as long. Default 1 s, 10 ms..=1 h.
    pub base_open: Duration,
    /// No open time is longer, jitter aside. Default 60 s, 10 ms..=1 h, at least `base_open`.
    pub max_open: Duration,
    /// Successful probes that close it, one at a time. Default 2, 1..=100.
    pub half_open_success_count: u8,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            consecutive_failure_count: 5,
            failure_ratio: 0.5,
            window: 10 * SECOND,
            min_request_count: 20,
            base_open: SECOND,
            max_open: MINUTE,
            half_open_success_count: 2,
        }
    }
}

/// The guard against mass removal: when replicas that seem to be gone are held all the same.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Guard {
    /// Whether it holds anything. Default true.
    pub enabled: bool,
    /// Share of a service's replicas that may go at once. Default 0.3, 0.0..=1.0.
    pub max_removal_ratio: f64,
    /// How long it holds at most. Default 1 h, 1 min..=7 d.
    pub hold_time: Duration,
}

impl Default for Guard {
    fn default() -> Self {
        Self { enabled: true, max_removal_ratio: 0.3, hold_time: HOUR }
    }
}

impl Guard {
    /// Whether `count` of `total` replicas are too many to go at once. The registry spares the first two besides, see
    /// [`Guard::holds_lapsed`]; a data plane that is told nothing of why does not.
    pub fn holds(&self, count: usize, total: usize) -> bool {
        // Counts of replicas are far below what a float holds exactly.
        self.enabled && count > 0 && count as f64 > self.max_removal_ratio * total as f64
    }

    /// Whether `count` lapsed leases of `total` are too many to believe: more than two, and more than the share.
    pub fn holds_lapsed(&self, count: usize, total: usize) -> bool {
        count > 2 && self.holds(count, total)
    }
}

impl Policy {
    /// Reads a policy in which unset fields have their defaults.
    ///
    /// # Errors
    /// [`Invalid`] with one violation for every field out of its range, e.g. `breaker.failure_ratio`.
    pub fn parse(wire: &v1::Policy) -> Result<Self, Invalid> {
        let mut check = Check::default();
        let timeout = wire.timeout.as_ref().map_or(Ok(Timeouts::default()), Timeouts::parse);
        let timeout = check.take(timeout.map_err(|invalid| invalid.within("timeout")));
        let retry = wire.retry.as_ref().map_or(Ok(Retry::default()), Retry::parse);
        let retry = check.take(retry.map_err(|invalid| invalid.within("retry")));
        let breaker = wire.breaker.as_ref().map_or(Ok(Breaker::default()), Breaker::parse);
        let breaker = check.take(breaker.map_err(|invalid| invalid.within("breaker")));
        let guard = wire.guard.as_ref().map_or(Ok(Guard::default()), Guard::parse);
        let guard = check.take(guard.map_err(|invalid| invalid.within("guard")));
        let drain_timeout = wire.drain_timeout.map_or(Ok(DrainTimeout::default()), |wire| {
            parse_duration_within("drain_timeout", wire, Duration::ZERO, HOUR).map(DrainTimeout)
        });
        let drain_timeout = check.take(drain_timeout);
        check.finish()?;
        Ok(Self {
            timeout: timeout.unwrap_or_default(),
            retry: retry.unwrap_or_default(),
            breaker: breaker.unwrap_or_default(),
            guard: guard.unwrap_or_default(),
            drain_timeout: drain_timeout.unwrap_or_default(),
        })
    }

    /// Writes every field, defaults included.
    pub fn to_wire(&self) -> v1::Policy {
        let Self { timeout, retry, breaker, guard, drain_timeout } = self;
        v1::Policy {
            timeout: Some(v1::TimeoutPolicy {
                connect: Some(duration(timeout.connect)),
                per_try: Some(duration(timeout.per_try)),
                request: Some(duration(timeout.request)),
                stream_idle: Some(duration(timeout.stream_idle)),
            }),
            retry: Some(v1::RetryPolicy {
                max_retry_count: Some(retry.max_retry_count.into()),
                budget_ratio: Some(retry.budget_ratio),
                base_backoff: Some(duration(retry.base_backoff)),
                max_backoff: Some(duration(retry.max_backoff)),
            }),
            breaker: Some(v1::BreakerPolicy {
                consecutive_failure_count: Some(breaker.consecutive_failure_count.cast_signed()),
                failure_ratio: Some(breaker.failure_ratio),
                window: Some(duration(breaker.window)),
                min_request_count: Some(breaker.min_request_count.cast_signed()),
                base_open: Some(duration(breaker.base_open)),
                max_open: Some(duration(breaker.max_open)),
                half_open_success_count: Some(breaker.half_open_success_count.into()),
            }),
            guard: Some(v1::GuardPolicy {
                enabled: Some(guard.enabled),
                max_removal_ratio: Some(guard.max_removal_ratio),
                hold_time: Some(duration(guard.hold_time)),
            }),
            drain_timeout: Some(duration(drain_timeout.0)),
            ..Default::default()
        }
    }
}

/// Reads the fields of one part of a policy, each falling back to its default.
struct Fields(Check);

impl Fields {
    fn duration(
        &mut self,
        field: &str,
        wire: Option<WireDuration>,
        default: Duration,
        range: (Duration, Duration),
    ) -> Duration {
        let parsed = wire.map_or(Ok(default), |wire| parse_duration_within(field, wire, range.0, range.1));
        self.0.take(parsed).unwrap_or(default)
    }

    fn count(&mut self, field: &str, wire: Option<i32>, default: u32, range: (u32, u32)) -> u32 {
        let parsed = wire.map_or(Ok(default), |number| {
            u32::try_from(number)
                .ok()
                .filter(|n| (range.0..=range.1).contains(n))
                .ok_or_else(|| Invalid::new(field, format!("{number} is not in {}..={}", range.0, range.1)))
        });
        self.0.take(parsed).unwrap_or(default)
    }

    fn ratio(&mut self, field: &str, wire: Option<f64>, default: f64, zero_allowed: bool) -> f64 {
        let parsed = wire.map_or(Ok(default), |number| {
            let fits = (0.0..=1.0).contains(&number) && (zero_allowed || number > 0.0);
            let percent = number > 1.0 && number <= 100.0;
            let hint = if percent { format!(" (did you mean {}?)", number / 100.0) } else { String::new() };
            let range = if zero_allowed { "0.0..=1.0" } else { "above 0.0 and up to 1.0" };
            if fits { Ok(number) } else { Err(Invalid::new(field, format!("{number} is not {range}{hint}"))) }
        });
        self.0.take(parsed).unwrap_or(default)
    }

    /// The later of two durations must not be the shorter.
    fn ordered(&mut self, lower: (&str, Duration), upper: (&str, Duration)) {
        if lower.1 > upper.1 {
            let why = format!("{:?} is below {} {:?}", upper.1, lower.0, lower.1);
            self.0.take::<()>(Err(Invalid::new(upper.0, why)));
        }
    }

    fn finish<T>(self, value: T) -> Result<T, Invalid> {
        self.0.finish().map(|()| value)
    }
}

impl Timeouts {
    fn parse(wire: &v1::TimeoutPolicy) -> Result<Self, Invalid> {
        let default = Self::default();
        let mut fields = Fields(Check::default());
        let value = Self {
            connect: fields.duration("connect", wire.connect, default.connect, (MS, MINUTE)),
            per_try: fields.duration("per_try", wire.per_try, default.per_try, (MS, HOUR)),
            request: fields.duration("request", wire.request, default.request, (MS, DAY)),
            stream_idle: fields.duration("stream_idle", wire.stream_idle, default.stream_idle, (MS, DAY)),
        };
        fields.finish(value)
    }
}

impl Retry {
    fn parse(wire: &v1::RetryPolicy) -> Result<Self, Invalid> {
        let default = Self::default();
        let mut fields = Fields(Check::default());
        let retries =
            fields.count("max_retry_count", wire.max_retry_count, default.max_retry_count.into(), (0, 10));
        let value = Self {
            max_retry_count: u8::try_from(retries).unwrap_or(default.max_retry_count),
            budget_ratio: fields.ratio("budget_ratio", wire.budget_ratio, default.budget_ratio, true),
            base_backoff: fields.duration(
                "base_backoff",
                wire.base_backoff,
                default.base_backoff,
                (MS, MINUTE),
            ),
            max_backoff: fields.duration("max_backoff", wire.max_backoff, default.max_backoff, (MS, MINUTE)),
        };
        fields.ordered(("base_backoff", value.base_backoff), ("max_backoff", value.max_backoff));
        fields.finish(value)
    }
}

impl Guard {
    fn parse(wire: &v1::GuardPolicy) -> Result<Self, Invalid> {
        let default = Self::default();
        let mut fields = Fields(Check::default());
        let value = Self {
            enabled: wire.enabled.unwrap_or(default.enabled),
            max_removal_ratio: fields.ratio(
                "max_removal_ratio",
                wire.max_removal_ratio,
                default.max_removal_ratio,
                true,
            ),
            hold_time: fields.duration("hold_time", wire.hold_time, default.hold_time, (MINUTE, 7 * DAY)),
        };
        fields.finish(value)
    }
}

impl Breaker {
    fn parse(wire: &v1::BreakerPolicy) -> Result<Self, Invalid> {
        let default = Self::default();
        let mut fields = Fields(Check::default());
        let open = (10 * MS, HOUR);
        let probes = fields.count(
            "half_open_success_count",
            wire.half_open_success_count,
            default.half_open_success_count.into(),
            (1, 100),
        );
        let value = Self {
            consecutive_failure_count: fields.count(
                "consecutive_failure_count",
                wire.consecutive_failure_count,
                default.consecutive_failure_count,
                (1, 10_000),
            ),
            failure_ratio: fields.ratio("failure_ratio", wire.failure_ratio, default.failure_ratio, false),
            window: fields.duration("window", wire.window, default.window, (SECOND, 10 * MINUTE)),
            min_request_count: fields.count(
                "min_request_count",
                wire.min_request_count,
                default.min_request_count,
                (1, 1_000_000),
            ),
            base_open: fields.duration("base_open", wire.base_open, default.base_open, open),
            max_open: fields.duration("max_open", wire.max_open, default.max_open, open),
            half_open_success_count: u8::try_from(probes).unwrap_or(default.half_open_success_count),
        };
        fields.ordered(("base_open", value.base_open), ("max_open", value.max_open));
        fields.finish(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_policy_is_the_default_one() {
        assert_eq!(Policy::parse(&v1::Policy::default()), Ok(Policy::default()));
    }

    #[test]
    fn a_policy_survives_the_wire() {
        let mut policy = Policy::default();
        policy.breaker.failure_ratio = 0.25;
        policy.retry.max_retry_count = 0;
        policy.timeout.per_try = Duration::from_millis(800);
        assert_eq!(Policy::parse(&policy.to_wire()), Ok(policy));
    }

    #[test]
    fn every_field_out_of_range_is_named_with_its_range() {
        let wire = v1::Policy {
            timeout: Some(v1::TimeoutPolicy { connect: Some(duration(HOUR)), ..Default::default() }),
            retry: Some(v1::RetryPolicy { max_retry_count: Some(40), ..Default::default() }),
            breaker: Some(v1::BreakerPolicy {
                failure_ratio: Some(50.0),
                base_open: Some(duration(MINUTE)),
                max_open: Some(duration(SECOND)),
                ..Default::default()
            }),
            guard: Some(v1::GuardPolicy { hold_time: Some(duration(SECOND)), ..Default::default() }),
            drain_timeout: Some(duration(DAY)),
            ..Default::default()
        };
        let invalid = Policy::parse(&wire).unwrap_err();
        assert_eq!(
            invalid.to_string(),
            "timeout.connect: 3600s is not in 1ms..=60s; retry.max_retry_count: 40 is not in 0..=10; \
             breaker.failure_ratio: 50 is not above 0.0 and up to 1.0 (did you mean 0.5?); \
             breaker.max_open: 1s is below base_open 60s; guard.hold_time: 1s is not in 60s..=604800s; \
             drain_timeout: 86400s is not in 0ns..=3600s"
        );
    }

    #[test]
    fn a_guard_holds_more_than_its_share_and_never_two_lapsed_leases() {
        let guard = Guard::default();
        assert!(!guard.holds(3, 10) && guard.holds(4, 10));
        assert!(guard.holds(1, 1) && !guard.holds(0, 0));
        assert!(!guard.holds_lapsed(2, 2) && guard.holds_lapsed(3, 3));
        let off = Guard { enabled: false, ..guard };
        assert!(!off.holds(10, 10));
        let share_of_none = Guard { max_removal_ratio: 0.0, ..guard };
        assert!(share_of_none.holds(1, 1000));
        let all = Guard { max_removal_ratio: 1.0, ..guard };
        assert!(!all.holds(10, 10));
    }

    #[test]
    fn a_ratio_that_is_not_a_number_is_refused() {
        let retry = v1::RetryPolicy { budget_ratio: Some(f64::NAN), ..Default::default() };
        assert!(Policy::parse(&v1::Policy { retry: Some(retry), ..Default::default() }).is_err());
    }
}
