use std::collections::HashMap;

use proptest::prelude::*;
use prost_reflect::Kind;
use serde_json::json;

use super::*;
use crate::v1;

fn refused<M: Message + Name + Default>(value: Value) -> Vec<(String, String)> {
    let invalid = from_json::<M>(&value).map(|_| ()).unwrap_err();
    invalid.violations().iter().map(|v| (v.field.clone(), v.description.clone())).collect()
}

/// The one fault of a registration.
fn fault(value: Value) -> (String, String) {
    let faults = refused::<v1::RegisterRequest>(value);
    assert_eq!(faults.len(), 1, "{faults:?}");
    faults[0].clone()
}

#[test]
fn json_has_camel_case_names_enum_names_and_strings_for_long_integers() {
    let breaker = v1::Breaker {
        replica_id: "r-1".into(),
        state: v1::BreakerState::HalfOpen.into(),
        trip_count: 3,
        ..Default::default()
    };
    let value = to_json(&breaker);
    assert_eq!(value["replicaId"], json!("r-1"));
    assert_eq!(value["state"], json!("BREAKER_STATE_HALF_OPEN"));
    assert_eq!(value["tripCount"], json!("3"));
    assert_eq!(value["nodeId"], json!(""));
}

#[test]
fn a_whole_message_is_read_by_either_form_of_its_names() {
    let expected = v1::RegisterRequest {
        service: "orders".into(),
        replica_id: "r-1".into(),
        endpoint: Some(v1::Endpoint { address: "10.0.0.1:80".into(), ..Default::default() }),
        weight: 50,
        labels: HashMap::from([("team".into(), "web".into())]),
        lease_ttl: Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }),
        initial_health: v1::HealthStatus::Starting.into(),
        validate_only: true,
        ..Default::default()
    };
    let camel = json!({
        "service": "orders", "replicaId": "r-1", "endpoint": {"address": "10.0.0.1:80"}, "weight": 50,
        "labels": {"team": "web"}, "leaseTtl": "1.5s", "initialHealth": "HEALTH_STATUS_STARTING",
        "validateOnly": true, "version": null,
    });
    let snake = json!({
        "service": "orders", "replica_id": "r-1", "endpoint": {"address": "10.0.0.1:80"}, "weight": "50",
        "labels": {"team": "web"}, "lease_ttl": "1.500s", "initial_health": "starting",
        "validate_only": true, "locality": null,
    });
    assert_eq!(from_json::<v1::RegisterRequest>(&camel).unwrap(), expected);
    assert_eq!(from_json::<v1::RegisterRequest>(&snake).unwrap(), expected);
}

#[test]
fn an_unknown_field_is_refused_by_its_path_with_what_may_have_been_meant() {
    let typo = fault(json!({"service": "orders", "lease_tll": "30s"}));
    assert_eq!(typo, ("lease_tll".into(), "is unknown; did you mean leaseTtl?".into()));
    let inside = fault(json!({"endpoint": {"host": "a"}}));
    assert_eq!(
        inside,
        ("endpoint.host".into(), "is unknown; the fields are address, protocol, tlsServerName".into())
    );
}

#[test]
fn every_fault_is_named_by_its_path_with_what_was_expected() {
    for (value, path, why) in [
        (json!({"service": 7}), "service", "must be a string, not a number"),
        (json!({"endpoint": "a:1"}), "endpoint", "must be an object, not a string"),
        (json!({"endpoint": {"address": ["a:1"]}}), "endpoint.address", "must be a string, not an array"),
        (json!({"weight": 1.5}), "weight", "1.5 is not an integer"),
        (json!({"weight": "many"}), "weight", "\"many\" is not an integer"),
        (json!({"weight": 3_000_000_000_u64}), "weight", "3000000000 is out of range"),
        (json!({"weight": true}), "weight", "must be an integer, not true or false"),
        (json!({"permanent": "yes"}), "permanent", "must be true or false, not a string"),
        (json!({"labels": []}), "labels", "must be an object, not an array"),
        (json!({"labels": {"team": 1}}), "labels.team", "must be a string, not a number"),
        (
            json!({"leaseTtl": "soon"}),
            "leaseTtl",
            "\"soon\" is not a duration in seconds such as \"30s\" or \"0.5s\"",
        ),
        (
            json!({"leaseTtl": 30}),
            "leaseTtl",
            "must be a duration in seconds such as \"30s\" or \"0.5s\", not a number",
        ),
        (
            json!({"initialHealth": "HEALTY"}),
            "initialHealth",
            "\"HEALTY\" is none of STARTING, HEALTHY, DEGRADED, UNHEALTHY, LOST; did you mean HEALTHY?",
        ),
        (json!({"initialHealth": 77}), "initialHealth", "77 is no value of HealthStatus"),
        (
            json!({"leaseTtl": "1s", "lease_ttl": "2s"}),
            "leaseTtl",
            "is there twice, as \"leaseTtl\" and as \"lease_ttl\"",
        ),
        (json!([]), "", "must be an object, not an array"),
    ] {
        assert_eq!(fault(value), (path.to_owned(), why.to_owned()));
    }
}

#[test]
fn all_faults_are_named_at_once_up_to_a_bound() {
    let faults = refused::<v1::RegisterRequest>(json!({"service": 1, "weight": "x", "endpoint": {"a": 1}}));
    let mut paths: Vec<_> = faults.iter().map(|(path, _)| path.as_str()).collect();
    paths.sort_unstable();
    assert_eq!(paths, ["endpoint.a", "service", "weight"]);

    let many: serde_json::Map<_, _> = (0..10_000).map(|n| (format!("field{n}"), json!(1))).collect();
    assert_eq!(refused::<v1::RegisterRequest>(Value::Object(many)).len(), MAX_VIOLATIONS);
    let heartbeats = json!({"heartbeats": vec![json!({"service": 1}); 10_000]});
    let faults = refused::<v1::KeepAliveRequest>(heartbeats);
    assert_eq!((faults.len(), faults[1].0.as_str()), (MAX_VIOLATIONS, "heartbeats[1].service"));
}

#[test]
fn of_alternatives_only_one_is_taken() {
    let both = json!({"hello": {}, "ack": {}});
    let faults = refused::<v1::StreamSnapshotsRequest>(both);
    assert_eq!(faults.len(), 1);
    assert!(faults[0].1.starts_with("excludes "), "{faults:?}");
}

#[test]
fn instants_and_masks_and_doubles_are_read_in_their_own_form() {
    let list = from_json::<v1::ListEventsRequest>(&json!({"startTime": "2026-11-28T09:00:00.5Z"})).unwrap();
    assert_eq!(list.start_time.map(|at| at.nanos), Some(500_000_000));
    let update =
        json!({"updateMask": "breaker.failureRatio,retry", "policy": {"breaker": {"failureRatio": 1}}});
    let update = from_json::<v1::UpdatePolicyRequest>(&update).unwrap();
    assert_eq!(update.update_mask.unwrap().paths, ["breaker.failure_ratio", "retry"]);
    assert_eq!(update.policy.unwrap().breaker.unwrap().failure_ratio, Some(1.0));
    let faults = refused::<v1::ListEventsRequest>(json!({"startTime": "yesterday"}));
    assert_eq!(faults[0].0, "startTime");
}

#[test]
fn text_without_quotes_is_read_by_the_type_of_its_field() {
    let request = pool().get_message_by_name("gateway.v1.ListBreakersRequest").unwrap();
    let read = |field: &str, text: &str| {
        decode_text(field, &request.get_field_by_json_name(field).unwrap(), text)
            .map_err(|why| why.to_string())
    };
    use prost_reflect::Value as Field;
    assert_eq!(read("pageSize", "7"), Ok(Field::I32(7)));
    assert_eq!(read("perNode", "1"), Ok(Field::Bool(true)));
    assert_eq!(read("service", "true"), Ok(Field::String("true".into())));
    assert_eq!(read("states", "half_open"), Ok(Field::EnumNumber(2)));
    assert_eq!(read("pageSize", "x"), Err("pageSize: \"x\" is not an integer".into()));
    assert_eq!(read("perNode", "maybe"), Err("perNode: must be true or false, not a string".into()));
}

#[test]
fn the_contract_has_no_field_that_json_cannot_say() {
    let ours = pool().all_messages().filter(|message| message.package_name() == "gateway.v1");
    // What a store keeps is for stores only, and on a stream that REST does not have.
    let ours = ours.filter(|message| message.name() != "StoredRecord");
    for field in ours.flat_map(|message| message.fields().collect::<Vec<_>>()) {
        assert_ne!(field.kind(), Kind::Bytes, "{}", field.full_name());
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(
        text in ".{0,8}", number in any::<i64>(), ratio in proptest::option::of(any::<f64>()),
        seconds in -315_576_000_000_i64..=315_576_000_000, instant in -62_135_596_800_i64..=253_402_300_799,
    ) {
        let policy = v1::Policy {
            service: text.clone(),
            breaker: Some(v1::BreakerPolicy { failure_ratio: ratio, ..Default::default() }),
            drain_timeout: Some(prost_types::Duration { seconds, nanos: 0 }),
            update_time: Some(prost_types::Timestamp { seconds: instant, nanos: 1 }),
            revision: number,
            ..Default::default()
        };
        let response = v1::ResolvePolicyResponse {
            policy: Some(policy),
            origins: HashMap::from([(text.clone(), text)]),
        };
        prop_assert_eq!(from_json::<v1::ResolvePolicyResponse>(&to_json(&response)).unwrap(), response);
    }
}
