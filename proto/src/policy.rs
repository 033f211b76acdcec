//! How a service's requests are treated, with every value in its range.
//!
//! [`Policy`] is what holds for a service, and all that a data plane knows. [`Partial`] is what somebody set, for one
//! service or for all, which the registry stores and resolves. [`field`] is the one table of what there is to set.

use std::time::Duration;

use crate::{Invalid, v1};

mod balancing;
mod concurrency;
mod eviction;
mod fallback;
mod fault;
pub mod field;
mod health_check;
mod methods;
mod partial;
mod rate_limit;
#[cfg(test)]
mod reference;
mod resolve;
mod text;
mod upgrades;

pub use balancing::{Algorithm, Balancing, HashBy, KeyName};
pub use concurrency::{AdaptiveLimit, Concurrency};
pub use eviction::Eviction;
pub use fallback::{Fallback, FallbackBody, FallbackContentType, FallbackFields, FallbackService};
pub use fault::{EndTime, FaultHeader, FaultInjection};
use field::FIELDS;
pub use health_check::{CheckHost, CheckMethod, CheckPath, CheckType, GrpcService, HealthCheck, Statuses};
pub use methods::Methods;
pub use partial::Partial;
pub use rate_limit::{RateKey, RateLimit};
pub use resolve::{Origin, check_resolved, check_star, resolve, resolve_with_origins};
pub use upgrades::Upgrades;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
const WEEK: Duration = Duration::from_secs(7 * 86_400);
const TIB: u64 = 1 << 40;

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
    /// Which requests are let through.
    pub request: RequestRules,
    /// Which replica is asked.
    pub balancing: Balancing,
    /// How long requests in flight may take once a replica drains. Default 30 s, 0 s..=1 h.
    pub drain_timeout: DrainTimeout,
    /// How replicas are checked, and what follows.
    pub health_check: HealthCheck,
    /// When the registry removes what cannot be reached.
    pub eviction: Eviction,
    /// How many requests are under way at once.
    pub concurrency: Concurrency,
    /// What is done to requests on purpose, for a time.
    pub fault: FaultInjection,
    /// What a client gets when no replica could answer well.
    pub fallback: Fallback,
    /// How many requests are let through.
    pub rate_limit: RateLimit,
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
    /// A tunnel, which an upgrade makes of a connection, that moves no byte for this long is closed. Default 1 h, 1 s..=7 d.
    pub tunnel_idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: SECOND,
            per_try: 10 * SECOND,
            request: 30 * SECOND,
            stream_idle: MINUTE,
            tunnel_idle: HOUR,
        }
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
    /// Methods of which a request may be sent twice. Default [`Methods::IDEMPOTENT`].
    pub methods: Methods,
    /// Whether a request of any method may be that has an `Idempotency-Key`. Default true.
    pub idempotency_key: bool,
    /// The longest that a request waits because a replica says when to come back. Default 1 s, 0 s..=1 min; 0 s: it says so
    /// in vain.
    pub max_pushback: Duration,
    /// How long an attempt may take before another replica is asked beside. Default 0 s: none is; 0 s..=1 min.
    pub hedge_delay: Duration,
    /// How many are asked beside. Default 1, 1..=5.
    pub max_hedge_count: u8,
    /// Methods of which a request that may be sent twice may be asked beside. Default [`Methods::SAFE`].
    pub hedge_methods: Methods,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            max_retry_count: 2,
            budget_ratio: 0.2,
            base_backoff: 25 * MS,
            max_backoff: 250 * MS,
            methods: Methods::IDEMPOTENT,
            idempotency_key: true,
            max_pushback: SECOND,
            hedge_delay: Duration::ZERO,
            max_hedge_count: 1,
            hedge_methods: Methods::SAFE,
        }
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
    /// Successful probes that close it, one at a time; after a ratio has opened it as many as disprove that, if that is more.
    /// Default 2, 1..=100.
    pub half_open_success_count: u8,
    /// A response head that takes this long is slow. Default 0 s: none is; 0 s..=1 h.
    pub slow_threshold: Duration,
    /// Share of slow responses in the window that opens it. Default 0.5, above 0.0 and up to 1.0.
    pub slow_ratio: f64,
    /// A 90th percentile of latency that is this many times the median of its peers' opens it. Default 0: none does;
    /// else 2.0..=100.0.
    pub peer_latency_factor: f64,
    /// Share of a service's replicas whose breakers may be open or half-open at once. Default 1.0, above 0.0 and up to
    /// 1.0.
    pub max_open_ratio: f64,
    /// When less than this share of the tier in use lets traffic through, open ones are asked, too. Default 0.0: never;
    /// 0.0..=1.0.
    pub fail_open_threshold: f64,
    /// Whether rules only tell that they would open it. Default false.
    pub observe_only: bool,
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
            slow_threshold: Duration::ZERO,
            slow_ratio: 0.5,
            peer_latency_factor: 0.0,
            max_open_ratio: 1.0,
            fail_open_threshold: 0.0,
            observe_only: false,
        }
    }
}

impl Breaker {
    /// How many of `total` replicas may be out by their breakers' rules at once: the share, rounded down, yet one of two
    /// or more.
    pub fn max_open_count(&self, total: usize) -> usize {
        // Counts of replicas are far below what a float holds exactly.
        let share = (self.max_open_ratio * total as f64) as usize;
        if total >= 2 { share.max(1) } else { share }
    }

    /// Whether so few of `total` replicas let traffic through that the others are asked, too.
    pub fn fails_open(&self, letting_through: usize, total: usize) -> bool {
        (letting_through as f64) < self.fail_open_threshold * total as f64
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

/// Which requests are let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestRules {
    /// Others are refused. Default all.
    pub methods: Methods,
    /// Whether bodies must be JSON. Default false.
    pub json_only: bool,
    /// The longest body. Default 1 TiB, 0..=1 TiB.
    pub max_body_bytes: u64,
    /// Protocols that clients may switch to. Default `websocket`.
    pub upgrades: Upgrades,
}

impl Default for RequestRules {
    fn default() -> Self {
        Self { methods: Methods::ALL, json_only: false, max_body_bytes: TIB, upgrades: Upgrades::default() }
    }
}

impl Policy {
    /// Reads a policy in which unset fields have their defaults.
    ///
    /// # Errors
    /// [`Invalid`] with one violation for every field out of its range, e.g. `breaker.failure_ratio`; when there is none,
    /// for every two fields that do not go together.
    pub fn parse(wire: &v1::Policy) -> Result<Self, Invalid> {
        check_resolved(None, Some(&Partial::parse(wire)?))
    }

    /// Writes every field, defaults included.
    pub fn to_wire(&self) -> v1::Policy {
        let mut wire = v1::Policy::default();
        FIELDS.iter().for_each(|field| field.write(&mut wire, field.of(self)));
        wire
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::duration;

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
            breaker: Some(v1::BreakerPolicy { failure_ratio: Some(50.0), ..Default::default() }),
            guard: Some(v1::GuardPolicy { hold_time: Some(duration(SECOND)), ..Default::default() }),
            drain_timeout: Some(duration(DAY)),
            ..Default::default()
        };
        let invalid = Policy::parse(&wire).unwrap_err();
        assert_eq!(
            invalid.to_string(),
            "timeout.connect: 1h is not in 1ms..=1m; retry.max_retry_count: 40 is not in 0..=10; \
             breaker.failure_ratio: 50 is not above 0.0 and up to 1.0 (did you mean 0.5?); \
             guard.hold_time: 1s is not in 1m..=7d; drain_timeout: 1d is not in 0s..=1h"
        );
    }

    #[test]
    fn fields_that_do_not_go_together_are_named() {
        let breaker = v1::BreakerPolicy {
            base_open: Some(duration(MINUTE)),
            max_open: Some(duration(SECOND)),
            ..Default::default()
        };
        let invalid =
            Policy::parse(&v1::Policy { breaker: Some(breaker), ..Default::default() }).unwrap_err();
        assert_eq!(invalid.to_string(), "breaker.max_open: 1s is below breaker.base_open, which is 1m");
    }

    #[test]
    fn a_share_of_open_breakers_is_rounded_down_and_yet_leaves_room_for_one_of_two() {
        let of = |max_open_ratio: f64, total| {
            Breaker { max_open_ratio, ..Breaker::default() }.max_open_count(total)
        };
        assert_eq!([of(1.0, 0), of(1.0, 1), of(1.0, 7)], [0, 1, 7]);
        assert_eq!([of(0.5, 1), of(0.5, 2), of(0.5, 5), of(0.5, 6)], [0, 1, 2, 3]);
        assert_eq!([of(0.01, 1), of(0.01, 2), of(0.01, 99), of(0.01, 300)], [0, 1, 1, 3]);
    }

    #[test]
    fn a_service_fails_open_below_its_share_and_never_unless_told_to() {
        let of = |fail_open_threshold: f64, count, total| {
            Breaker { fail_open_threshold, ..Breaker::default() }.fails_open(count, total)
        };
        assert!(!of(0.0, 0, 3) && !of(0.5, 0, 0));
        assert!(of(0.5, 1, 3) && !of(0.5, 2, 4) && !of(0.5, 2, 3));
        assert!(of(1.0, 2, 3) && !of(1.0, 3, 3));
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
