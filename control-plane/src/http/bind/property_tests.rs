use gateway_proto::json::encode;
use proptest::{prelude::*, sample::select};
use prost::Message;
use serde_json::json;

use super::*;

/// Values of every kind, odd ones among them.
fn leaf() -> impl Strategy<Value = Value> {
    let text = select(vec![
        "",
        "orders",
        "*",
        "-",
        "1.5s",
        "-1s",
        "315576000001s",
        "2026-11-28T09:00:00Z",
        "9999-12-31T23:59:60Z",
        "OPEN",
        "FORCED_OPEN",
        "a.b,c",
        "breaker.failureRatio",
        "NaN",
        "-Infinity",
        "1e999",
        "9223372036854775808",
        "\u{0}",
        "é",
    ]);
    prop_oneof![
        text.prop_map(|text| json!(text)),
        any::<i64>().prop_map(|number| json!(number)),
        any::<f64>().prop_map(|number| json!(number)),
        any::<bool>().prop_map(|value| json!(value)),
        Just(Value::Null),
    ]
}

/// Objects that have names of the contract, each with anything behind it.
fn body(names: Vec<String>) -> impl Strategy<Value = Value> {
    leaf().prop_recursive(3, 24, 4, move |inner| {
        let names = select(names.clone());
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::Array),
            prop::collection::vec((names, inner), 0..4)
                .prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

fn request() -> impl Strategy<Value = (&'static Operation, Value, Vec<(String, String)>, HeaderMap)> {
    select(Operation::all().iter().collect::<Vec<_>>()).prop_flat_map(|operation| {
        // And a name that is nobody's: some requests have no fields.
        let mut names = vec!["nothing".to_owned()];
        let mut messages = vec![operation.rpc.input()];
        while let Some(message) = messages.pop() {
            for field in message.fields() {
                names.push(field.json_name().to_owned());
                messages.extend(
                    field.kind().as_message().filter(|inner| inner.name() != message.name()).cloned(),
                );
            }
        }
        let text =
            || leaf().prop_map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        let query = prop::collection::vec((select(names.clone()), text()), 0..3);
        let header = (select(vec!["if-match", "x-gw-lease", "idempotency-key", "last-event-id"]), text());
        let headers = prop::collection::vec(header, 0..2).prop_map(|pairs| {
            let pairs =
                pairs.into_iter().filter_map(|(name, value)| Some((name.parse().ok()?, value.parse().ok()?)));
            pairs.collect::<HeaderMap>()
        });
        (Just(operation), body(names), query, headers)
    })
}

proptest! {
    /// It is bound to a message that survives the wire, or refused with the fields at fault.
    #[test]
    fn no_request_is_bound_to_anything_but_a_message(
        (operation, body, query, headers) in request(),
        texts in prop::collection::vec("[a-z*-]{1,3}", 4),
    ) {
        let inputs = Inputs { path: &texts, query: &query, headers: &headers, body: Some(&body) };
        match bind(operation, &inputs) {
            Ok(message) => {
                let read = DynamicMessage::decode(operation.rpc.input(), message.encode_to_vec().as_slice());
                // What JSON has no words for, such as a duration of a million years, is for the RPC to refuse.
                prop_assert_eq!(encode(&read.unwrap()).ok(), encode(&message).ok());
            }
            Err(invalid) => prop_assert!(!invalid.violations().is_empty()),
        }
    }
}
