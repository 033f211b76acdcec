use std::{collections::BTreeSet, path::Path};

use super::*;

const UPDATE: &str = "UPDATE_DOCS";

/// The copy that people read without a server.
#[test]
fn the_committed_document_is_the_one_that_is_served() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json");
    if std::env::var_os(UPDATE).is_some() {
        std::fs::write(&path, text()).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    let committed: Value = serde_json::from_str(&committed).unwrap_or_default();
    assert!(
        committed == document(),
        "docs/openapi.json is not up to date: {UPDATE}=1 cargo test -p control-plane openapi"
    );
}

/// Every `$ref` in a document.
fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            if let Some(Value::String(reference)) = object.get("$ref") {
                found.insert(reference.clone());
            }
            object.values().for_each(|value| references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

#[test]
fn whatever_is_referred_to_is_there_and_whatever_is_there_is_referred_to() {
    let document = document();
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    let schemas = document["components"]["schemas"].as_object().unwrap();
    let named: BTreeSet<_> = schemas.keys().map(|name| format!("#/components/schemas/{name}")).collect();
    found.remove("#/components/responses/Problem");
    assert_eq!(found, named);
}

#[test]
fn every_route_is_described_with_the_contract_s_words() {
    let document = document();
    for operation in Operation::all() {
        let method = operation.route.method.as_str().to_ascii_lowercase();
        let described = &document["paths"][operations::path(operation)][&method];
        assert_eq!(described["operationId"], operation.route.operation);
        assert!(!described["summary"].as_str().unwrap().is_empty(), "{}", operation.route.path);
    }
    let drain = &document["paths"]["/v1/services/{service}/replicas/{replicaId}:drain"]["post"];
    assert_eq!(drain["summary"], "Stops new requests to a replica and lets those in flight finish");
    let schemas = &document["components"]["schemas"];
    let ratio = &schemas["BreakerPolicy"]["properties"]["failureRatio"];
    assert_eq!(ratio["type"], "number");
    assert!(ratio["description"].as_str().unwrap().contains("Default 0.5"), "{ratio}");
}

#[test]
fn a_body_has_what_is_not_in_the_path_and_names_what_is_required() {
    let document = document();
    let body = &document["components"]["schemas"]["RegisterRequest"];
    assert_eq!(body["required"], json!(["endpoint"]));
    assert_eq!(
        (&body["properties"]["service"], &body["additionalProperties"]),
        (&Value::Null, &json!(false))
    );
    let health = &document["components"]["schemas"]["ReportHealthRequest"];
    assert_eq!(health["required"], json!(["health"]));
    let path = &document["paths"]["/v1/services/{service}/replicas"]["post"]["parameters"];
    let names: Vec<_> = path.as_array().unwrap().iter().map(|parameter| &parameter["name"]).collect();
    assert_eq!(names, ["service", "dryRun", "Idempotency-Key"]);
}

#[test]
fn in_a_patch_null_may_stand_for_every_field() {
    let document = document();
    let schemas = &document["components"]["schemas"];
    assert_eq!(
        schemas["PolicyPatch"]["properties"]["retry"]["anyOf"],
        json!([{"$ref": "#/components/schemas/RetryPolicyPatch"}, {"type": "null"}])
    );
    assert_eq!(schemas["RetryPolicyPatch"]["properties"]["budgetRatio"]["anyOf"][1], json!({"type": "null"}));
    assert_eq!(schemas["Policy"]["properties"]["retry"]["$ref"], "#/components/schemas/RetryPolicy");
}
