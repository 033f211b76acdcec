//! The settings of a policy: one table of their paths, ranges and places, in the message and in the resolved policy.
//!
//! Parsing, masks, origins, errors, gwctl and the reference in `docs/policy.md` all read this table and know no setting
//! by name, so they cannot disagree. Defaults are those of [`Policy`].

use std::{fmt, time::Duration};

use super::{
    AdaptiveLimit, Algorithm, CheckHost, CheckPath, CheckType, DAY, DrainTimeout, EndTime, FallbackBody,
    FallbackContentType, FallbackFields, FallbackService, FaultHeader, GrpcService, HOUR, HashBy, MINUTE, MS,
    Methods, Policy, RateKey, SECOND, Statuses, TIB, Upgrades, WEEK,
    health_check::{MIN_INTERVAL, MIN_TIMEOUT},
    text,
};
use crate::{Invalid, nearest::nearest, size, time::exact, v1};

mod setting;
#[cfg(test)]
mod tests;

use setting::{Setting, Unreadable};

/// A value of a setting, of the kind that its range says.
#[expect(clippy::large_enum_variant, reason = "a value is looked at and gone, and a policy is a plain one")]
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    /// Of a [`Range::Duration`].
    Duration(Duration),
    /// Of a [`Range::Count`].
    Count(u32),
    /// Of a [`Range::Ratio`], a [`Range::Factor`] or a [`Range::Rate`].
    Ratio(f64),
    /// Of a [`Range::Flag`].
    Flag(bool),
    /// Of a [`Range::Size`].
    Size(u64),
    /// Of [`Range::Methods`].
    Methods(Methods),
    /// Of a [`Range::Algorithm`].
    Algorithm(Algorithm),
    /// Of a [`Range::HashBy`].
    HashBy(HashBy),
    /// Of a [`Range::CheckType`].
    CheckType(CheckType),
    /// Of a [`Range::CheckPath`].
    CheckPath(CheckPath),
    /// Of a [`Range::CheckHost`].
    CheckHost(CheckHost),
    /// Of [`Range::Statuses`].
    Statuses(Statuses),
    /// Of a [`Range::GrpcService`].
    GrpcService(GrpcService),
    /// Of [`Range::Upgrades`].
    Upgrades(Upgrades),
    /// Of a [`Range::AdaptiveLimit`].
    AdaptiveLimit(AdaptiveLimit),
    /// Of a [`Range::FaultHeader`].
    FaultHeader(FaultHeader),
    /// Of a [`Range::EndTime`].
    EndTime(EndTime),
    /// Of a [`Range::FallbackService`].
    FallbackService(FallbackService),
    /// Of [`Range::FallbackFields`].
    FallbackFields(FallbackFields),
    /// Of a [`Range::FallbackContentType`].
    FallbackContentType(FallbackContentType),
    /// Of a [`Range::FallbackBody`].
    FallbackBody(FallbackBody),
    /// Of a [`Range::RateKey`].
    RateKey(RateKey),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Duration(value) => f.write_str(&exact(*value)),
            Self::Count(value) => value.fmt(f),
            Self::Ratio(value) => value.fmt(f),
            Self::Flag(value) => value.fmt(f),
            Self::Size(value) => f.write_str(&size::exact(*value)),
            Self::Methods(value) => value.fmt(f),
            Self::Algorithm(value) => f.write_str(value.name()),
            Self::HashBy(value) => value.fmt(f),
            Self::CheckType(value) => f.write_str(value.name()),
            Self::CheckPath(value) => value.fmt(f),
            Self::CheckHost(value) if value.as_str().is_empty() => f.write_str("\"\""),
            Self::CheckHost(value) => value.fmt(f),
            Self::Statuses(value) => value.fmt(f),
            Self::GrpcService(value) if value.as_str().is_empty() => f.write_str("\"\""),
            Self::GrpcService(value) => value.fmt(f),
            Self::Upgrades(value) => value.fmt(f),
            Self::AdaptiveLimit(value) => f.write_str(value.name()),
            Self::FaultHeader(value) if value.is_empty() => f.write_str("\"\""),
            Self::FaultHeader(value) => value.fmt(f),
            Self::EndTime(value) => value.fmt(f),
            Self::FallbackService(value) if value.as_str().is_empty() => f.write_str("\"\""),
            Self::FallbackService(value) => value.fmt(f),
            Self::FallbackFields(value) if value.as_str().is_empty() => f.write_str("\"\""),
            Self::FallbackFields(value) => value.fmt(f),
            Self::FallbackContentType(value) => value.fmt(f),
            Self::FallbackBody(value) if value.as_str().is_empty() => f.write_str("\"\""),
            Self::FallbackBody(value) => value.fmt(f),
            Self::RateKey(value) => value.fmt(f),
        }
    }
}

/// The values that a setting may have, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    /// Durations.
    Duration {
        /// The shortest.
        min: Duration,
        /// The longest.
        max: Duration,
    },
    /// Whole numbers.
    Count {
        /// The least.
        min: u32,
        /// The most.
        max: u32,
    },
    /// Shares from 0.0 to 1.0.
    Ratio {
        /// Whether 0.0 is one of them.
        zero: bool,
    },
    /// Multiples of something else, or zero, which turns off what it is for.
    Factor {
        /// The least that is not zero.
        min: u32,
        /// The most.
        max: u32,
    },
    /// True and false.
    Flag,
    /// Numbers of bytes.
    Size {
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// Sets of HTTP methods.
    Methods,
    /// The names of algorithms.
    Algorithm,
    /// What of a request can be hashed.
    HashBy,
    /// The names of types of health checks.
    CheckType,
    /// Paths that a health check can ask for.
    CheckPath,
    /// Hosts that a health check can name.
    CheckHost,
    /// Sets of HTTP statuses.
    Statuses,
    /// Names of gRPC services.
    GrpcService,
    /// Lists of protocols to switch to.
    Upgrades,
    /// The names of ways to find a limit.
    AdaptiveLimit,
    /// Headers, with a value or without.
    FaultHeader,
    /// Instants. How far ahead they may be depends on the time at which they are set, see
    /// [`FaultInjection::check`](super::FaultInjection::check).
    EndTime,
    /// A status of HTTP, or zero for none.
    Status,
    /// Names of services, or none.
    FallbackService,
    /// Lists of names of header fields, or none.
    FallbackFields,
    /// Media types.
    FallbackContentType,
    /// Short texts.
    FallbackBody,
    /// Requests in a second, or zero for any number.
    Rate,
    /// Whose requests are counted together.
    RateKey,
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Duration { min, max } => write!(f, "{}..={}", exact(*min), exact(*max)),
            Self::Count { min, max } => write!(f, "{min}..={max}"),
            Self::Ratio { zero: true } => f.write_str("0.0..=1.0"),
            Self::Ratio { zero: false } => f.write_str("above 0.0 and up to 1.0"),
            Self::Factor { min, max } => write!(f, "0 or {min}.0..={max}.0"),
            Self::Flag => f.write_str("true or false"),
            Self::Size { min, max } => write!(f, "{}..={}", size::exact(*min), size::exact(*max)),
            Self::Methods => f.write_str("* or registered methods"),
            Self::Algorithm => write!(f, "one of {}", Algorithm::NAMES.join(", ")),
            Self::HashBy => f.write_str(HashBy::FORMS),
            Self::CheckType => write!(f, "one of {}", CheckType::NAMES.join(", ")),
            Self::CheckPath => f.write_str(CheckPath::FORMS),
            Self::CheckHost => f.write_str(CheckHost::FORMS),
            Self::Statuses => f.write_str(Statuses::FORMS),
            Self::GrpcService => f.write_str(GrpcService::FORMS),
            Self::Upgrades => {
                write!(
                    f,
                    "none or protocols of {} characters in all, none of HTTP or TLS",
                    Upgrades::MAX_LENGTH
                )
            }
            Self::AdaptiveLimit => write!(f, "one of {}", AdaptiveLimit::NAMES.join(", ")),
            Self::FaultHeader => f.write_str(FaultHeader::FORMS),
            Self::EndTime => f.write_str(EndTime::FORMS),
            Self::Status => f.write_str("0 or 200..=599"),
            Self::FallbackService => f.write_str(FallbackService::FORMS),
            Self::FallbackFields => f.write_str(FallbackFields::FORMS),
            Self::FallbackContentType => f.write_str(FallbackContentType::FORMS),
            Self::FallbackBody => f.write_str(FallbackBody::FORMS),
            Self::Rate => f.write_str("0 or 0.001..=1000000"),
            Self::RateKey => f.write_str(RateKey::FORMS),
        }
    }
}

impl Range {
    fn has(self, value: Value) -> bool {
        match (self, value) {
            (Self::Duration { min, max }, Value::Duration(value)) => (min..=max).contains(&value),
            (Self::Count { min, max }, Value::Count(value)) => (min..=max).contains(&value),
            (Self::Ratio { zero }, Value::Ratio(value)) => {
                (0.0..=1.0).contains(&value) && (zero || value > 0.0)
            }
            (Self::Size { min, max }, Value::Size(value)) => (min..=max).contains(&value),
            (Self::Factor { min, max }, Value::Ratio(value)) => {
                value == 0.0 || (f64::from(min)..=f64::from(max)).contains(&value)
            }
            (Self::Rate, Value::Ratio(value)) => value == 0.0 || (0.001..=1e6).contains(&value),
            (Self::Status, Value::Count(value)) => value == 0 || (200..=599).contains(&value),
            (Self::Flag, Value::Flag(_))
            | (Self::Methods, Value::Methods(_))
            | (Self::Algorithm, Value::Algorithm(_))
            | (Self::HashBy, Value::HashBy(_))
            | (Self::CheckType, Value::CheckType(_))
            | (Self::CheckPath, Value::CheckPath(_))
            | (Self::CheckHost, Value::CheckHost(_))
            | (Self::Statuses, Value::Statuses(_))
            | (Self::GrpcService, Value::GrpcService(_))
            | (Self::Upgrades, Value::Upgrades(_))
            | (Self::AdaptiveLimit, Value::AdaptiveLimit(_))
            | (Self::FaultHeader, Value::FaultHeader(_))
            | (Self::EndTime, Value::EndTime(_))
            | (Self::FallbackService, Value::FallbackService(_))
            | (Self::FallbackFields, Value::FallbackFields(_))
            | (Self::FallbackContentType, Value::FallbackContentType(_))
            | (Self::FallbackBody, Value::FallbackBody(_))
            | (Self::RateKey, Value::RateKey(_)) => true,
            _ => false,
        }
    }

    fn refusal(self, value: impl fmt::Display) -> String {
        let is_listed = matches!(
            self,
            Self::Duration { .. }
                | Self::Count { .. }
                | Self::Ratio { zero: true }
                | Self::Size { .. }
                | Self::Methods
        );
        let relation = if is_listed { "is not in" } else { "is not" };
        format!("{value} {relation} {self}")
    }
}

/// One setting of a policy.
#[derive(Clone, Copy)]
pub struct Field {
    path: &'static str,
    range: Range,
    /// The value in a message, or what is wrong with it.
    read: fn(&v1::Policy) -> Option<Result<Value, Unreadable>>,
    write: fn(&mut v1::Policy, Value),
    get: fn(&Policy) -> Value,
    set: fn(&mut Policy, Value),
}

impl fmt::Debug for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Field({}: {})", self.path, self.range)
    }
}

impl Field {
    /// How it is named in masks, errors and on the command line, e.g. `breaker.failure_ratio`.
    pub fn path(&self) -> &'static str {
        self.path
    }

    /// Whether a path names it, or its group, e.g. `breaker`.
    pub(super) fn is_named_by(&self, path: &str) -> bool {
        self.path == path || group(self) == Some(path)
    }

    /// Whether it is of the group that is inherited as a whole.
    pub(super) fn is_of_fault(&self) -> bool {
        group(self) == Some(WHOLE)
    }

    /// The values that it may have.
    pub fn range(&self) -> Range {
        self.range
    }

    /// The value where nobody said otherwise.
    pub fn default_value(&self) -> Value {
        self.of(&Policy::default())
    }

    /// Its value in a resolved policy.
    pub fn of(&self, policy: &Policy) -> Value {
        (self.get)(policy)
    }

    /// Its value in a message, in range or not; `None` when it is not set there.
    ///
    /// # Errors
    /// [`Invalid`] when it is set to what no value of its kind can be, e.g. a negative duration.
    pub fn read(&self, wire: &v1::Policy) -> Result<Option<Value>, Invalid> {
        match (self.read)(wire) {
            None => Ok(None),
            Some(Ok(value)) => Ok(Some(value)),
            Some(Err(Unreadable::NegativeCount(number))) => {
                Err(Invalid::new(self.path, self.range.refusal(number)))
            }
            Some(Err(Unreadable::NegativeSize(number))) => {
                Err(Invalid::new(self.path, self.range.refusal(number)))
            }
            Some(Err(Unreadable::UnknownNumber(number))) => {
                Err(Invalid::new(self.path, self.range.refusal(number)))
            }
            Some(Err(Unreadable::NoForm(text))) => {
                let short = text::shown(&text);
                Err(Invalid::new(self.path, self.range.refusal(format_args!("\"{short}\""))))
            }
            Some(Err(Unreadable::NegativeDuration)) => {
                Err(Invalid::new(self.path, "is not a duration of zero or more"))
            }
            Some(Err(Unreadable::NoInstant)) => {
                Err(Invalid::new(self.path, "is not an instant of the years 1 to 9999"))
            }
            Some(Err(Unreadable::Methods(why) | Unreadable::Upgrades(why))) => {
                Err(Invalid::new(self.path, why))
            }
        }
    }

    /// Sets it in a message, unchecked: who reads the message checks it.
    ///
    /// # Panics
    /// When the value is not of its kind.
    pub fn write(&self, wire: &mut v1::Policy, value: Value) {
        (self.write)(wire, value);
    }

    /// Refuses a value out of its range, with the range.
    pub(super) fn check(&self, value: Value) -> Result<Value, Invalid> {
        if self.range.has(value) {
            return Ok(value);
        }
        let mut why = self.range.refusal(value);
        if let (Value::Ratio(percent), Range::Ratio { .. }) = (value, self.range)
            && percent > 1.0
            && percent <= 100.0
        {
            why.push_str(&format!(" (did you mean {}?)", percent / 100.0));
        }
        Err(Invalid::new(self.path, why))
    }

    pub(super) fn set(&self, policy: &mut Policy, value: Value) {
        (self.set)(policy, value);
    }
}

macro_rules! field {
    // `type` is no name in Rust.
    ($group:ident.type: $type:ty, $range:expr) => {
        Field { path: concat!(stringify!($group), ".type"), ..field!($group.r#type: $type, $range) }
    };
    ($group:ident.$name:ident: $type:ty, $range:expr) => {
        Field {
            path: concat!(stringify!($group), ".", stringify!($name)),
            range: $range,
            read: |wire| {
                let value = wire.$group.as_ref().and_then(|group| Option::clone(&group.$name));
                value.map(<$type as Setting>::read)
            },
            write: |wire, value| {
                wire.$group.get_or_insert_default().$name = Some(<$type>::from_value(value).to_wire());
            },
            get: |policy| policy.$group.$name.to_value(),
            set: |policy, value| policy.$group.$name = <$type>::from_value(value),
        }
    };
    (list $group:ident.$name:ident: $type:ty, $range:expr) => {
        Field {
            path: concat!(stringify!($group), ".", stringify!($name)),
            range: $range,
            read: |wire| {
                let list = wire.$group.as_ref().map(|group| &group.$name)?;
                (!list.is_empty()).then(|| <$type as Setting>::read(list.clone()))
            },
            write: |wire, value| {
                wire.$group.get_or_insert_default().$name = <$type>::from_value(value).to_wire();
            },
            get: |policy| policy.$group.$name.to_value(),
            set: |policy, value| policy.$group.$name = <$type>::from_value(value),
        }
    };
    ($name:ident: $type:ty, $range:expr) => {
        Field {
            path: stringify!($name),
            range: $range,
            read: |wire| wire.$name.map(<$type as Setting>::read),
            write: |wire, value| wire.$name = Some(<$type>::from_value(value).to_wire()),
            get: |policy| policy.$name.to_value(),
            set: |policy, value| policy.$name = <$type>::from_value(value),
        }
    };
}

const fn span(min: Duration, max: Duration) -> Range {
    Range::Duration { min, max }
}

const fn count(min: u32, max: u32) -> Range {
    Range::Count { min, max }
}

const SHARE: Range = Range::Ratio { zero: true };

/// Every setting, in the order of the contract.
pub static FIELDS: [Field; 84] = [
    field!(timeout.connect: Duration, span(MS, MINUTE)),
    field!(timeout.per_try: Duration, span(MS, HOUR)),
    field!(timeout.request: Duration, span(MS, DAY)),
    field!(timeout.stream_idle: Duration, span(MS, DAY)),
    field!(timeout.tunnel_idle: Duration, span(SECOND, WEEK)),
    field!(retry.max_retry_count: u8, count(0, 10)),
    field!(retry.budget_ratio: f64, SHARE),
    field!(retry.base_backoff: Duration, span(MS, MINUTE)),
    field!(retry.max_backoff: Duration, span(MS, MINUTE)),
    field!(list retry.methods: Methods, Range::Methods),
    field!(retry.idempotency_key: bool, Range::Flag),
    field!(retry.max_pushback: Duration, span(Duration::ZERO, MINUTE)),
    field!(retry.hedge_delay: Duration, span(Duration::ZERO, MINUTE)),
    field!(retry.max_hedge_count: u8, count(1, 5)),
    field!(list retry.hedge_methods: Methods, Range::Methods),
    field!(breaker.consecutive_failure_count: u32, count(1, 10_000)),
    field!(breaker.failure_ratio: f64, Range::Ratio { zero: false }),
    field!(breaker.window: Duration, span(SECOND, Duration::from_secs(600))),
    field!(breaker.min_request_count: u32, count(1, 1_000_000)),
    field!(breaker.base_open: Duration, span(Duration::from_millis(10), HOUR)),
    field!(breaker.max_open: Duration, span(Duration::from_millis(10), HOUR)),
    field!(breaker.half_open_success_count: u8, count(1, 100)),
    field!(breaker.slow_threshold: Duration, span(Duration::ZERO, HOUR)),
    field!(breaker.slow_ratio: f64, Range::Ratio { zero: false }),
    field!(breaker.peer_latency_factor: f64, Range::Factor { min: 2, max: 100 }),
    field!(breaker.max_open_ratio: f64, Range::Ratio { zero: false }),
    field!(breaker.fail_open_threshold: f64, SHARE),
    field!(breaker.observe_only: bool, Range::Flag),
    field!(guard.enabled: bool, Range::Flag),
    field!(guard.max_removal_ratio: f64, SHARE),
    field!(guard.hold_time: Duration, span(MINUTE, WEEK)),
    field!(list request.methods: Methods, Range::Methods),
    field!(request.json_only: bool, Range::Flag),
    field!(request.max_body_bytes: u64, Range::Size { min: 0, max: TIB }),
    field!(list request.upgrades: Upgrades, Range::Upgrades),
    field!(balancing.algorithm: Algorithm, Range::Algorithm),
    field!(balancing.hash_by: HashBy, Range::HashBy),
    field!(balancing.hash_load_factor: f64, Range::Factor { min: 1, max: 100 }),
    field!(balancing.slow_start: Duration, span(Duration::ZERO, Duration::from_secs(900))),
    field!(balancing.prefer_local: bool, Range::Flag),
    field!(balancing.overprovisioning_factor: f64, Range::Factor { min: 1, max: 100 }),
    field!(drain_timeout: DrainTimeout, span(Duration::ZERO, HOUR)),
    field!(health_check.type: CheckType, Range::CheckType),
    field!(health_check.interval: Duration, span(MIN_INTERVAL, HOUR)),
    field!(health_check.fast_interval: Duration, span(MIN_INTERVAL, HOUR)),
    field!(health_check.slow_interval: Duration, span(MIN_INTERVAL, HOUR)),
    field!(health_check.timeout: Duration, span(MIN_TIMEOUT, MINUTE)),
    field!(health_check.jitter: f64, SHARE),
    field!(health_check.rise: u8, count(1, 100)),
    field!(health_check.fall: u8, count(1, 100)),
    field!(health_check.path: CheckPath, Range::CheckPath),
    field!(health_check.host: CheckHost, Range::CheckHost),
    field!(health_check.expected_statuses: Statuses, Range::Statuses),
    field!(health_check.grpc_service: GrpcService, Range::GrpcService),
    field!(health_check.wait_for_first: bool, Range::Flag),
    field!(health_check.observe_only: bool, Range::Flag),
    field!(health_check.closes_breaker: bool, Range::Flag),
    field!(eviction.after: Duration, span(Duration::ZERO, Duration::from_secs(30 * 86_400))),
    field!(eviction.failure_count: u32, count(0, 1_000_000)),
    field!(concurrency.max_per_replica: u32, count(0, 1_000_000)),
    field!(concurrency.max_per_service: u32, count(0, 1_000_000)),
    field!(concurrency.max_pending: u32, count(0, 100_000)),
    field!(concurrency.max_queue_time: Duration, span(Duration::ZERO, HOUR)),
    field!(concurrency.adaptive: AdaptiveLimit, Range::AdaptiveLimit),
    field!(concurrency.adaptive_min: u32, count(1, 1_000_000)),
    field!(concurrency.adaptive_max: u32, count(1, 1_000_000)),
    field!(fault.delay: Duration, span(Duration::ZERO, HOUR)),
    field!(fault.delay_ratio: f64, SHARE),
    field!(fault.abort_status: u32, count(400, 599)),
    field!(fault.abort_ratio: f64, SHARE),
    field!(fault.reset_ratio: f64, SHARE),
    field!(fault.header: FaultHeader, Range::FaultHeader),
    field!(fault.end_time: EndTime, Range::EndTime),
    field!(fallback.statuses: Statuses, Range::Statuses),
    field!(fallback.service: FallbackService, Range::FallbackService),
    field!(fallback.static_status: u32, Range::Status),
    field!(fallback.content_type: FallbackContentType, Range::FallbackContentType),
    field!(fallback.body: FallbackBody, Range::FallbackBody),
    field!(fallback.stale_max_age: Duration, span(Duration::ZERO, DAY)),
    field!(fallback.stale_ignored_fields: FallbackFields, Range::FallbackFields),
    field!(rate_limit.requests_per_second: f64, Range::Rate),
    field!(rate_limit.burst: u32, count(0, 1_000_000)),
    field!(rate_limit.key: RateKey, Range::RateKey),
    field!(rate_limit.observe_only: bool, Range::Flag),
];

/// What a stored policy is called and what the registry says of it: no settings, and ignored where settings are named.
pub const OUTPUT_FIELDS: [&str; 7] =
    ["service", "etag", "revision", "update_time", "updated_by", "update_reason", "fault_origin"];

/// The group that is inherited as a whole: parts of two faults would make a third, which nobody has set.
const WHOLE: &str = "fault";

/// Pairs of settings of which the first may not be above the second in any resolved policy.
pub(super) const ORDERED: [(&str, &str); 3] = [
    ("retry.base_backoff", "retry.max_backoff"),
    ("breaker.base_open", "breaker.max_open"),
    ("concurrency.adaptive_min", "concurrency.adaptive_max"),
];

/// The settings that a path names: one, or those of a group, e.g. `breaker`; none when it names neither.
pub fn named(path: &str) -> impl Iterator<Item = &'static Field> {
    FIELDS.iter().filter(move |field| field.is_named_by(path))
}

/// The group of a setting, e.g. `breaker`.
fn group(field: &Field) -> Option<&'static str> {
    field.path.split_once('.').map(|(group, _)| group)
}

/// Longer than every path that names something.
const MAX_PATH_LEN: usize = 100;

/// Says that a path names nothing: what it may have meant, or else what there is.
pub fn unknown(path: &str) -> String {
    if path.len() > MAX_PATH_LEN {
        return format!("a path of {} bytes names no setting of a policy", path.len());
    }
    let mut names: Vec<&str> = Vec::new();
    for field in &FIELDS {
        // The fields of a group stand together.
        names.extend(group(field).filter(|group| !names.contains(group)));
        names.push(field.path);
    }
    let meant = nearest(path, names.iter().copied()).or_else(|| {
        // `failure_ratio` is how people call `breaker.failure_ratio`.
        let is_last = |name: &&&str| name.rsplit_once('.').is_some_and(|(_, last)| last == path);
        names.iter().find(is_last).copied()
    });
    // All of them are a page: they are for those whose word is near none.
    match meant {
        Some(name) => {
            format!("\"{}\" is no setting of a policy (did you mean \"{name}\"?)", path.escape_debug())
        }
        None => {
            format!("\"{}\" is no setting of a policy: there are {}", path.escape_debug(), names.join(", "))
        }
    }
}
