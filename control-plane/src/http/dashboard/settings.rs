//! `GET /ui/settings.json`: the settings of a policy, from the one table that everything reads, for the editor.

use std::sync::LazyLock;

use axum::{
    body::Bytes,
    response::{IntoResponse, Response},
};
use gateway_proto::{
    json::pool,
    policy::{
        AdaptiveLimit, Algorithm, CheckType,
        field::{FIELDS, Field, Range},
    },
};
use http::header;
use prost_reflect::{Kind, MessageDescriptor};
use serde_json::{Value, json};

use super::super::openapi::Comments;

static SETTINGS: LazyLock<Bytes> = LazyLock::new(|| format!("{}\n", document()).into());

pub(super) async fn serve() -> Response {
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-cache")];
    (headers, SETTINGS.clone()).into_response()
}

fn document() -> Value {
    let comments = Comments::new();
    let policy = pool().get_message_by_name("gateway.v1.Policy").expect("the contract has policies");
    FIELDS.iter().map(|field| describe(field, &policy, &comments)).collect()
}

fn describe(field: &Field, policy: &MessageDescriptor, comments: &Comments) -> Value {
    let (mut message, mut names, mut last) = (policy.clone(), Vec::new(), None);
    for part in field.path().split('.') {
        let described = message.get_field_by_name(part).expect("the table names fields of the contract");
        names.push(described.json_name().to_owned());
        if let Kind::Message(inner) = described.kind() {
            message = inner;
        }
        last = Some(described);
    }
    let comment = comments.field(&last.expect("a path has a part"));
    // Default and range stand in fields of their own; a comment says them last.
    let meaning = comment.split("Default ").next().unwrap_or(comment).trim();
    let (kind, choices) = kind(field.range());
    json!({
        "path": field.path(),
        "json": names,
        "kind": kind,
        "choices": choices,
        "range": field.range().to_string(),
        "default": field.default_value().to_string(),
        "meaning": meaning,
    })
}

/// What an input for it must be, and what it may be where that can be counted.
fn kind(range: Range) -> (&'static str, Vec<(&'static str, String)>) {
    let choices = |prefix: &str, names: &[&'static str]| {
        names.iter().map(|name| (*name, format!("{prefix}{}", name.to_ascii_uppercase()))).collect()
    };
    match range {
        Range::Duration { .. } => ("duration", Vec::new()),
        Range::Count { .. } | Range::Status => ("count", Vec::new()),
        Range::Ratio { .. } | Range::Factor { .. } | Range::Rate => ("number", Vec::new()),
        Range::Flag => ("flag", Vec::new()),
        Range::Size { .. } => ("size", Vec::new()),
        Range::Methods | Range::Upgrades => ("list", Vec::new()),
        Range::Algorithm => ("choice", choices("BALANCING_ALGORITHM_", &Algorithm::NAMES)),
        Range::CheckType => ("choice", choices("HEALTH_CHECK_TYPE_", &CheckType::NAMES)),
        Range::AdaptiveLimit => ("choice", choices("ADAPTIVE_LIMIT_", &AdaptiveLimit::NAMES)),
        Range::EndTime => ("time", Vec::new()),
        Range::HashBy
        | Range::CheckPath
        | Range::CheckHost
        | Range::Statuses
        | Range::GrpcService
        | Range::FaultHeader
        | Range::FallbackService
        | Range::FallbackFields
        | Range::FallbackContentType
        | Range::FallbackBody
        | Range::RateKey => ("text", Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use gateway_proto::{json::from_json, v1};

    use super::*;

    #[test]
    fn every_setting_is_there_with_what_an_editor_needs() {
        let document = document();
        let settings = document.as_array().unwrap();
        assert_eq!(settings.len(), FIELDS.len());
        for setting in settings {
            for text in ["path", "kind", "range", "default", "meaning"] {
                assert!(!setting[text].as_str().unwrap().is_empty(), "{text} of {setting}");
            }
        }
        let window = settings.iter().find(|setting| setting["path"] == "breaker.min_request_count").unwrap();
        assert_eq!(window["json"], json!(["breaker", "minRequestCount"]));
        assert_eq!(window["kind"], "count");
    }

    #[test]
    fn the_choices_are_words_of_the_contract() {
        for (setting, field) in document().as_array().unwrap().iter().zip(&FIELDS) {
            for choice in setting["choices"].as_array().unwrap() {
                let mut policy = json!({});
                let path = setting["json"].as_array().unwrap();
                policy[path[0].as_str().unwrap()] = json!({path[1].as_str().unwrap(): choice[1]});
                let policy: v1::Policy = from_json(&policy).unwrap();
                let value = field.read(&policy).unwrap().unwrap();
                assert_eq!(value.to_string(), choice[0].as_str().unwrap());
            }
        }
    }
}
