use std::time::SystemTime;

use prost_reflect::{DescriptorPool, FieldDescriptor, Kind};
use prost_types::Duration as WireDuration;

use super::*;

/// The paths of all fields below a message, without those of groups themselves.
fn leaves(prefix: &str, fields: impl Iterator<Item = FieldDescriptor>) -> Vec<String> {
    let mut paths = Vec::new();
    for field in fields {
        let path = format!("{prefix}{}", field.name());
        match field.kind() {
            Kind::Message(group) if group.package_name() == "gateway.v1" => {
                paths.extend(leaves(&format!("{path}."), group.fields()));
            }
            _ => paths.push(path),
        }
    }
    paths
}

#[test]
fn the_table_and_the_output_fields_are_the_fields_of_the_message() {
    let pool = DescriptorPool::decode(crate::FILE_DESCRIPTOR_SET).unwrap();
    let message = pool.get_message_by_name("gateway.v1.Policy").unwrap();
    let settings: Vec<_> = leaves("", message.fields())
        .into_iter()
        .filter(|path| !OUTPUT_FIELDS.contains(&path.split('.').next().unwrap_or_default()))
        .collect();
    assert_eq!(settings, FIELDS.map(|field| field.path));
    let outputs = OUTPUT_FIELDS.iter().filter(|path| message.get_field_by_name(path).is_some());
    assert_eq!(outputs.count(), OUTPUT_FIELDS.len());
}

#[test]
fn every_default_is_in_its_range_and_every_setting_has_a_place_of_its_own() {
    let default = Policy::default();
    for field in &FIELDS {
        assert_eq!(field.check(field.default_value()), Ok(field.default_value()), "{field:?}");
        let other = match field.range {
            Range::Duration { max, .. } => Value::Duration(max),
            Range::Count { max, .. } => Value::Count(max),
            Range::Ratio { .. } => Value::Ratio(0.125),
            Range::Factor { max, .. } => Value::Ratio(max.into()),
            Range::Flag => Value::Flag(!matches!(field.default_value(), Value::Flag(true))),
            Range::Algorithm => Value::Algorithm(Algorithm::PeakEwma),
            Range::AdaptiveLimit => Value::AdaptiveLimit(AdaptiveLimit::Gradient),
            Range::HashBy => Value::HashBy("cookie:c".parse().unwrap()),
            Range::CheckType => Value::CheckType(CheckType::Grpc),
            Range::CheckPath => Value::CheckPath("/health?full=1".parse().unwrap()),
            Range::CheckHost => Value::CheckHost("orders.example:80".parse().unwrap()),
            Range::Statuses => Value::Statuses("200,404".parse().unwrap()),
            Range::GrpcService => Value::GrpcService("shop.v1.Orders".parse().unwrap()),
            Range::Size { min, .. } => Value::Size(min),
            Range::Methods => Value::Methods(Methods::parse(["GET", "QUERY"]).unwrap()),
            Range::Upgrades => Value::Upgrades(Upgrades::parse(["none"]).unwrap()),
            Range::FaultHeader => Value::FaultHeader("x-chaos=1".parse().unwrap()),
            Range::EndTime => Value::EndTime(EndTime(SystemTime::UNIX_EPOCH + Duration::from_secs(77))),
            Range::Status => Value::Count(404),
            Range::FallbackService => Value::FallbackService("orders-cache".parse().unwrap()),
            Range::FallbackFields => Value::FallbackFields("x-client,x-app-version".parse().unwrap()),
            Range::FallbackContentType => Value::FallbackContentType("text/plain".parse().unwrap()),
            Range::FallbackBody => Value::FallbackBody("{\"orders\": []}".parse().unwrap()),
            Range::Rate => Value::Ratio(2.5),
            Range::RateKey => Value::RateKey("header:x-api-key".parse().unwrap()),
        };
        assert_ne!(other, field.default_value(), "{field:?}");
        let (mut policy, mut wire) = (default, v1::Policy::default());
        field.set(&mut policy, other);
        field.write(&mut wire, other);
        for at in &FIELDS {
            let is_it = at.path == field.path;
            assert_eq!(at.of(&policy) != at.of(&default), is_it, "{field:?} {at:?}");
            assert_eq!(at.read(&wire), Ok(is_it.then_some(other)), "{field:?} {at:?}");
        }
    }
}

#[test]
fn both_ends_of_a_range_are_in_it_and_what_is_beyond_them_is_refused_with_it() {
    let at = |path: &str| named(path).next().unwrap();
    let second = Duration::from_secs(1);
    for (path, value, why) in [
        ("breaker.window", Value::Duration(second), None),
        ("breaker.window", Value::Duration(second * 600), None),
        (
            "breaker.window",
            Value::Duration(second - Duration::from_nanos(1)),
            Some("999999999ns is not in 1s..=10m"),
        ),
        ("breaker.window", Value::Duration(second * 601), Some("601s is not in 1s..=10m")),
        ("retry.max_retry_count", Value::Count(0), None),
        ("retry.max_retry_count", Value::Count(10), None),
        ("retry.max_retry_count", Value::Count(11), Some("11 is not in 0..=10")),
        ("retry.budget_ratio", Value::Ratio(0.0), None),
        ("retry.budget_ratio", Value::Ratio(f64::NAN), Some("NaN is not in 0.0..=1.0")),
        ("retry.budget_ratio", Value::Ratio(-0.1), Some("-0.1 is not in 0.0..=1.0")),
        ("retry.budget_ratio", Value::Ratio(200.0), Some("200 is not in 0.0..=1.0")),
        ("breaker.failure_ratio", Value::Ratio(1.0), None),
        ("breaker.failure_ratio", Value::Ratio(0.0), Some("0 is not above 0.0 and up to 1.0")),
        (
            "breaker.failure_ratio",
            Value::Ratio(50.0),
            Some("50 is not above 0.0 and up to 1.0 (did you mean 0.5?)"),
        ),
        ("balancing.hash_load_factor", Value::Ratio(0.0), None),
        ("balancing.hash_load_factor", Value::Ratio(1.0), None),
        ("balancing.hash_load_factor", Value::Ratio(0.9), Some("0.9 is not 0 or 1.0..=100.0")),
        ("balancing.hash_load_factor", Value::Ratio(f64::NAN), Some("NaN is not 0 or 1.0..=100.0")),
        ("rate_limit.requests_per_second", Value::Ratio(0.001), None),
        ("rate_limit.requests_per_second", Value::Ratio(1e6), None),
        ("rate_limit.requests_per_second", Value::Ratio(0.0001), Some("0.0001 is not 0 or 0.001..=1000000")),
        ("rate_limit.requests_per_second", Value::Ratio(f64::NAN), Some("NaN is not 0 or 0.001..=1000000")),
        ("guard.hold_time", Value::Duration(second), Some("1s is not in 1m..=7d")),
        ("request.max_body_bytes", Value::Size(0), None),
        ("request.max_body_bytes", Value::Size(TIB), None),
        ("request.max_body_bytes", Value::Size(TIB + 1), Some("1099511627777B is not in 0B..=1TiB")),
        ("drain_timeout", Value::Duration(Duration::ZERO), None),
        ("drain_timeout", Value::Duration(second * 3601), Some("3601s is not in 0s..=1h")),
    ] {
        let expected = why.map_or(Ok(()), |why| Err(Invalid::new(path, why)));
        assert_eq!(at(path).check(value).map(|_| ()), expected, "{path} {value}");
    }
}

#[test]
fn negative_numbers_durations_and_unknown_methods_are_refused() {
    let wire = v1::Policy {
        retry: Some(v1::RetryPolicy { max_retry_count: Some(-1), ..Default::default() }),
        request: Some(v1::RequestPolicy {
            methods: vec!["GET".to_owned(), "get".to_owned()],
            max_body_bytes: Some(-1),
            upgrades: vec!["websocket".to_owned(), "h2c".to_owned()],
            ..Default::default()
        }),
        drain_timeout: Some(WireDuration { seconds: -1, nanos: 0 }),
        ..Default::default()
    };
    let read = |path: &str| named(path).next().unwrap().read(&wire).unwrap_err().to_string();
    assert_eq!(read("retry.max_retry_count"), "retry.max_retry_count: -1 is not in 0..=10");
    assert_eq!(read("request.max_body_bytes"), "request.max_body_bytes: -1 is not in 0B..=1TiB");
    assert_eq!(
        read("request.methods"),
        "request.methods: \"get\" is no registered HTTP method (did you mean \"GET\"?)"
    );
    assert_eq!(
        read("request.upgrades"),
        "request.upgrades: \"h2c\" is never let through: what follows it would be requests that nobody checks"
    );
    assert_eq!(read("drain_timeout"), "drain_timeout: is not a duration of zero or more");
}

#[test]
fn an_unknown_algorithm_and_what_is_no_key_are_refused_with_what_there_is() {
    let wire = v1::Policy {
        balancing: Some(v1::BalancingPolicy {
            algorithm: Some(77),
            hash_by: Some("header:a b".into()),
            ..Default::default()
        }),
        ..Default::default()
    };
    let read = |path: &str| named(path).next().unwrap().read(&wire).unwrap_err().to_string();
    assert_eq!(
        read("balancing.algorithm"),
        "balancing.algorithm: 77 is not one of round_robin, random, least_request, peak_ewma, consistent_hash"
    );
    assert_eq!(
        read("balancing.hash_by"),
        "balancing.hash_by: \"header:a b\" is not address, header:NAME or cookie:NAME, a name being a token of at \
         most 47 characters"
    );
}

#[test]
fn a_path_names_one_setting_or_those_of_its_group() {
    let paths = |path: &str| named(path).map(Field::path).collect::<Vec<_>>();
    assert_eq!(paths("drain_timeout"), ["drain_timeout"]);
    assert_eq!(paths("retry.max_backoff"), ["retry.max_backoff"]);
    assert_eq!(paths("guard"), ["guard.enabled", "guard.max_removal_ratio", "guard.hold_time"]);
    for nothing in ["", ".", "guard.", "guard.*", "Guard", "max_backoff", "drain_timeout.seconds", "etag"] {
        assert!(paths(nothing).is_empty(), "{nothing}");
    }
}

#[test]
fn an_unknown_path_is_answered_with_the_nearest_or_with_all() {
    for (path, meant) in [
        ("breaker.failure_rate", "breaker.failure_ratio"),
        ("failure_ratio", "breaker.failure_ratio"),
        ("breakers", "breaker"),
    ] {
        let expected = format!("\"{path}\" is no setting of a policy (did you mean \"{meant}\"?)");
        assert_eq!(unknown(path), expected);
    }
    let text = unknown("hedging");
    let begin = "\"hedging\" is no setting of a policy: there are timeout, timeout.connect, ";
    assert!(text.starts_with(begin) && text.ends_with(", rate_limit.observe_only"), "{text}");
}
