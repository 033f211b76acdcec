//! `SETTING=VALUE` and `SETTING`, as people type them, by the table of settings that the contract has.

use std::str::FromStr;

use gateway_proto::{
    policy::{
        AdaptiveLimit, Algorithm, CheckType, EndTime, Methods, Upgrades,
        field::{self, Field, Range, Value},
    },
    size,
    time::parse_rfc3339,
    v1,
};

/// A setting and the value that it is to have. Whether the value is in range is for the control plane to say.
#[derive(Debug, Clone)]
pub(super) struct Assignment {
    pub(super) field: &'static Field,
    value: Value,
}

impl Assignment {
    /// Writes it into a policy.
    pub(super) fn write(&self, policy: &mut v1::Policy) {
        self.field.write(policy, self.value);
    }
}

impl FromStr for Assignment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (path, value) =
            text.split_once('=').ok_or("is written SETTING=VALUE, e.g. breaker.window=20s")?;
        let mut named = field::named(path);
        let field = named.next().ok_or_else(|| field::unknown(path))?;
        if field.path() != path {
            let names: Vec<_> = std::iter::once(field).chain(named).map(Field::path).collect();
            return Err(format!("{path} is a group: set one of {}", names.join(", ")));
        }
        let value = parse(field, value).map_err(|why| format!("{path}: {why}"))?;
        Ok(Self { field, value })
    }
}

fn parse(field: &Field, text: &str) -> Result<Value, String> {
    let range = field.range();
    match range {
        Range::Duration { .. } => humantime::parse_duration(text)
            .map(Value::Duration)
            .map_err(|_| format!("\"{text}\" is no duration such as 800ms, 20s or 1m; {range} is allowed")),
        Range::Count { .. } | Range::Status => text
            .parse()
            .map(Value::Count)
            .map_err(|_| format!("\"{text}\" is no whole number; {range} is allowed")),
        Range::Ratio { .. } | Range::Factor { .. } | Range::Rate => text
            .parse()
            .map(Value::Ratio)
            .map_err(|_| format!("\"{text}\" is no number such as 0.5; {range} is allowed")),
        Range::Size { .. } => size::parse(text)
            .map(Value::Size)
            .map_err(|_| format!("\"{text}\" is no size such as 512KiB or 10MiB; {range} is allowed")),
        Range::Methods => Methods::parse(text.split(',').map(str::trim)).map(Value::Methods),
        Range::Upgrades => Upgrades::parse(text.split(',').map(str::trim)).map(Value::Upgrades),
        Range::Flag => {
            text.parse().map(Value::Flag).map_err(|_| format!("\"{text}\" is neither true nor false"))
        }
        Range::Algorithm => Algorithm::named(text)
            .map(Value::Algorithm)
            .ok_or_else(|| format!("\"{}\" is not {range}", text.escape_debug())),
        Range::CheckType => CheckType::named(text)
            .map(Value::CheckType)
            .ok_or_else(|| format!("\"{}\" is not {range}", text.escape_debug())),
        Range::AdaptiveLimit => AdaptiveLimit::named(text)
            .map(Value::AdaptiveLimit)
            .ok_or_else(|| format!("\"{}\" is not {range}", text.escape_debug())),
        Range::HashBy => text.parse().map(Value::HashBy).map_err(|_| no_form(text, range)),
        Range::CheckPath => text.parse().map(Value::CheckPath).map_err(|_| no_form(text, range)),
        Range::CheckHost => text.parse().map(Value::CheckHost).map_err(|_| no_form(text, range)),
        Range::Statuses => text.parse().map(Value::Statuses).map_err(|_| no_form(text, range)),
        Range::FaultHeader => text.parse().map(Value::FaultHeader).map_err(|_| no_form(text, range)),
        Range::EndTime => parse_rfc3339(text).map(|at| Value::EndTime(EndTime(at))).ok_or_else(|| {
            format!("\"{text}\" is no instant such as 2026-11-28T21:00:00Z; {range} is allowed")
        }),
        Range::GrpcService => text.parse().map(Value::GrpcService).map_err(|_| no_form(text, range)),
        Range::FallbackService => text.parse().map(Value::FallbackService).map_err(|_| no_form(text, range)),
        Range::FallbackFields => text.parse().map(Value::FallbackFields).map_err(|_| no_form(text, range)),
        Range::FallbackContentType => {
            text.parse().map(Value::FallbackContentType).map_err(|_| no_form(text, range))
        }
        Range::FallbackBody => text.parse().map(Value::FallbackBody).map_err(|_| no_form(text, range)),
        Range::RateKey => text.parse().map(Value::RateKey).map_err(|_| no_form(text, range)),
    }
}

fn no_form(text: &str, range: Range) -> String {
    format!("\"{}\" is not {range}", text.escape_debug())
}

/// A setting, or a group of them such as `breaker`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SettingPath(pub(super) String);

impl FromStr for SettingPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match field::named(text).next() {
            Some(_) => Ok(Self(text.to_owned())),
            None => Err(field::unknown(text)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<String, String> {
        let assignment: Assignment = text.parse()?;
        let mut policy = v1::Policy::default();
        assignment.write(&mut policy);
        let value = assignment.field.read(&policy).unwrap().unwrap();
        Ok(format!("{}={value}", assignment.field.path()))
    }

    #[test]
    fn values_are_written_as_people_write_them() {
        for (typed, read) in [
            ("breaker.window=1m 30s", "breaker.window=90s"),
            ("timeout.per_try=800ms", "timeout.per_try=800ms"),
            ("fault.end_time=2026-11-28T22:00:00+01:00", "fault.end_time=2026-11-28T21:00:00Z"),
            ("fault.header=X-Chaos=1", "fault.header=x-chaos=1"),
            ("retry.max_retry_count=0", "retry.max_retry_count=0"),
            ("breaker.failure_ratio=0.25", "breaker.failure_ratio=0.25"),
            ("guard.enabled=false", "guard.enabled=false"),
            ("request.methods=POST, GET", "request.methods=GET,POST"),
            ("request.methods=*", "request.methods=*"),
            ("request.upgrades=WebSocket, spdy/3.1", "request.upgrades=spdy/3.1,websocket"),
            ("request.upgrades=none", "request.upgrades=none"),
            ("timeout.tunnel_idle=8h", "timeout.tunnel_idle=8h"),
            ("request.max_body_bytes=10MiB", "request.max_body_bytes=10MiB"),
            ("request.max_body_bytes=1500", "request.max_body_bytes=1500B"),
            ("drain_timeout=5s", "drain_timeout=5s"),
            ("balancing.algorithm=least_request", "balancing.algorithm=least_request"),
            ("balancing.hash_by=header:X-User", "balancing.hash_by=header:x-user"),
            ("breaker.peer_latency_factor=3", "breaker.peer_latency_factor=3"),
            ("health_check.type=http", "health_check.type=http"),
            ("health_check.path=/health?full=1", "health_check.path=/health?full=1"),
            ("health_check.host=", "health_check.host=\"\""),
            ("health_check.expected_statuses=404,200-299", "health_check.expected_statuses=200..=299,404"),
            ("eviction.after=1h", "eviction.after=1h"),
            ("rate_limit.requests_per_second=0.5", "rate_limit.requests_per_second=0.5"),
            ("rate_limit.key=header:X-Api-Key", "rate_limit.key=header:x-api-key"),
            // Out of range: the control plane refuses it, and says so in its own words.
            ("breaker.failure_ratio=50", "breaker.failure_ratio=50"),
        ] {
            assert_eq!(parsed(typed), Ok(read.to_owned()));
        }
    }

    #[test]
    fn what_is_no_assignment_is_refused_with_what_would_be_one() {
        for (typed, why) in [
            ("breaker.window", "is written SETTING=VALUE"),
            ("breaker.windw=20s", "(did you mean \"breaker.window\"?)"),
            (
                "breaker=1",
                "breaker is a group: set one of breaker.consecutive_failure_count, breaker.failure_ratio",
            ),
            (
                "breaker.window=20",
                "breaker.window: \"20\" is no duration such as 800ms, 20s or 1m; 1s..=10m is allowed",
            ),
            (
                "balancing.algorithm=fastest",
                "\"fastest\" is not one of round_robin, random, least_request, peak_ewma, consistent_hash",
            ),
            ("balancing.hash_by=path", "\"path\" is not address, header:NAME or cookie:NAME"),
            ("retry.max_retry_count=-1", "\"-1\" is no whole number; 0..=10 is allowed"),
            (
                "breaker.failure_ratio=50%",
                "\"50%\" is no number such as 0.5; above 0.0 and up to 1.0 is allowed",
            ),
            (
                "request.max_body_bytes=10M",
                "\"10M\" is no size such as 512KiB or 10MiB; 0B..=1TiB is allowed",
            ),
            ("request.methods=get", "\"get\" is no registered HTTP method (did you mean \"GET\"?)"),
            ("request.upgrades=h2c", "\"h2c\" is never let through"),
            ("guard.enabled=yes", "\"yes\" is neither true nor false"),
            ("rate_limit.key=cookie:a", "\"cookie:a\" is not service, address or header:NAME"),
            ("health_check.type=ping", "\"ping\" is not one of auto, off, tcp, http, grpc"),
            ("health_check.path=health", "\"health\" is not a path that begins with /"),
            ("health_check.expected_statuses=2xx", "\"2xx\" is not statuses and ranges of them in 200..=599"),
        ] {
            let error = parsed(typed).unwrap_err();
            assert!(error.contains(why), "{typed}: {error}");
        }
    }

    #[test]
    fn a_path_may_name_a_group() {
        for path in ["breaker", "breaker.window", "drain_timeout"] {
            assert_eq!(path.parse(), Ok(SettingPath(path.to_owned())));
        }
        assert!("*".parse::<SettingPath>().is_err());
    }
}
