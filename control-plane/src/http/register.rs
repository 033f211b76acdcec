//! `POST /register` and `DELETE /register`: a service and an address, nothing else to learn.
//!
//! Callers of this form know no leases, so what they register is permanent unless they ask for a lease, and they
//! remove by address like an operator.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use gateway_proto::{
    Address, Check, Endpoint, Invalid, Protocol, ServiceName,
    json::{shown, to_json},
    v1,
};
use http::{HeaderMap, StatusCode, header};
use serde_json::{Map, Value};

use crate::{auth::Caller, edge::Edge, refusal::Refusal, registry::Registration};

/// Registers: 201 when the replica is new, 200 when it is known.
pub(super) async fn register(
    State(edge): State<Arc<Edge>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let registration = parse_registration(&read_object(&headers, body).await?)?;
    let answer = edge.register(&caller, registration, false, None, None).await?;
    let replica = answer.replica.clone().unwrap_or_default();
    let location = format!("/v1/services/{}/replicas/{}", replica.service, replica.replica_id);
    let status = if answer.created { StatusCode::CREATED } else { StatusCode::OK };
    let mut response = match prefers_text(&headers) {
        true => (status, sentence(&replica)).into_response(),
        false => super::json(status, &to_json(&answer)),
    };
    if let Ok(location) = location.parse() {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// Deregisters: 204, also when nothing was registered.
pub(super) async fn deregister(
    State(edge): State<Arc<Edge>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, Refusal> {
    let (service, address) = parse_deregistration(&read_object(&headers, body).await?)?;
    edge.deregister_address(&caller, service, address).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn read_object(headers: &HeaderMap, body: Body) -> Result<Map<String, Value>, Refusal> {
    match super::body::read_object(headers, body, &["application/json"]).await? {
        Some(Value::Object(object)) => Ok(object),
        _ => Err(Refusal::NotJson("an object is needed".into())),
    }
}

fn parse_registration(object: &Map<String, Value>) -> Result<Registration, Invalid> {
    let mut check = Check::default();
    let service = check.take(text(object, "service").and_then(ServiceName::parse));
    let address = check.take(text(object, "address").and_then(Address::parse));
    let ttl = match object.get("lease_ttl") {
        None => None,
        Some(_) => check.take(text(object, "lease_ttl").and_then(parse_ttl)),
    };
    let protocol = check.take(protocol(object));
    check.take(only(object, &["service", "address", "protocol", "tls_server_name", "lease_ttl"]));
    check.finish()?;
    let (Some(service), Some(address), Some(protocol)) = (service, address, protocol) else {
        unreachable!("nothing was refused")
    };
    let plain = Registration::permanent(service, address);
    Ok(Registration { ttl, endpoint: Endpoint { protocol, ..plain.endpoint.clone() }, ..plain })
}

fn parse_deregistration(object: &Map<String, Value>) -> Result<(ServiceName, Address), Invalid> {
    let mut check = Check::default();
    let service = check.take(text(object, "service").and_then(ServiceName::parse));
    let address = check.take(text(object, "address").and_then(Address::parse));
    check.take(only(object, &["service", "address"]));
    check.finish()?;
    let (Some(service), Some(address)) = (service, address) else { unreachable!("nothing was refused") };
    Ok((service, address))
}

/// `"http1"` unless it says otherwise.
fn protocol(object: &Map<String, Value>) -> Result<Protocol, Invalid> {
    let protocol: Protocol = match object.get("protocol") {
        None => Protocol::HTTP1,
        Some(_) => text(object, "protocol")?.parse()?,
    };
    match object.get("tls_server_name") {
        None => Ok(protocol),
        Some(_) => protocol.named(text(object, "tls_server_name")?),
    }
}

fn text<'a>(object: &'a Map<String, Value>, field: &str) -> Result<&'a str, Invalid> {
    match object.get(field) {
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(Invalid::new(field, "must be a string")),
        None => Err(Invalid::new(field, "is required")),
    }
}

/// A misspelt `lease_ttl` must not make a replica permanent, so unknown fields are refused.
fn only(object: &Map<String, Value>, known: &[&str]) -> Result<(), Invalid> {
    match object.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => {
            Err(Invalid::new(shown(key), format!("is unknown; the fields are {}", known.join(", "))))
        }
        None => Ok(()),
    }
}

fn parse_ttl(text: &str) -> Result<Duration, Invalid> {
    let ttl = humantime::parse_duration(text)
        .map_err(|error| Invalid::new("lease_ttl", format!("is no duration such as \"30s\": {error}")))?;
    Registration::grant_ttl("lease_ttl", ttl)
}

fn prefers_text(headers: &HeaderMap) -> bool {
    super::accepts_first(headers, "text/plain")
}

fn sentence(replica: &v1::Replica) -> String {
    let address = replica.endpoint.as_ref().map(|endpoint| endpoint.address.as_str()).unwrap_or_default();
    let terms = match replica.lease.as_ref().filter(|lease| !lease.permanent).and_then(|lease| lease.ttl) {
        Some(ttl) => format!("lease {}s", ttl.seconds),
        None => "permanent".to_owned(),
    };
    format!("{}/{} registered at {address} ({terms})\n", replica.service, replica.replica_id)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(value: Value) -> Result<Registration, Invalid> {
        match value {
            Value::Object(object) => parse_registration(&object),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn a_service_and_an_address_are_enough_and_mean_permanent() {
        let registration = parse(json!({"service": "orders", "address": "10.0.0.1:80"})).unwrap();
        assert_eq!((registration.ttl, registration.replica), (None, None));
    }

    #[test]
    fn a_lease_is_had_for_the_asking() {
        let ask = |ttl: Value| parse(json!({"service": "orders", "address": "a:1", "lease_ttl": ttl}));
        assert_eq!(ask(json!("1m 30s")).unwrap().ttl, Some(Duration::from_secs(90)));
        for bad in [json!("soon"), json!(30), json!("0s"), json!(null)] {
            assert_eq!(ask(bad).unwrap_err().violations()[0].field, "lease_ttl");
        }
    }

    #[test]
    fn a_protocol_is_named_in_one_word_and_a_server_name_goes_with_tls_only() {
        let ask = |more: Value| {
            let Value::Object(more) = more else { panic!("{more}") };
            let mut object = json!({"service": "orders", "address": "a:1"});
            object.as_object_mut().unwrap().extend(more);
            parse(object).map(|registration| registration.endpoint)
        };
        let tls = ask(json!({"protocol": "tls", "tls_server_name": "b"})).unwrap();
        assert_eq!(tls.tls_name(), Some("b"));
        assert_eq!(ask(json!({"protocol": "h2c"})).unwrap().protocol, Protocol::h2c());
        for (bad, field) in [
            (json!({"protocol": "http/3"}), "protocol"),
            (json!({"protocol": 7}), "protocol"),
            (json!({"tls_server_name": "b"}), "tls_server_name"),
            (json!({"protocol": "tls", "tls_server_name": "b:1"}), "tls_server_name"),
        ] {
            assert_eq!(ask(bad).unwrap_err().violations()[0].field, field);
        }
    }

    #[test]
    fn missing_bad_and_unknown_fields_are_named_together() {
        let invalid = parse(json!({"address": 7, "lease_tll": "30s"})).unwrap_err();
        let fields: Vec<_> = invalid.violations().iter().map(|v| v.field.as_str()).collect();
        assert_eq!(fields, ["service", "address", "lease_tll"]);
    }

    #[test]
    fn text_is_answered_only_to_who_asks_for_it_first() {
        let accepts =
            |value: &str| prefers_text(&[(header::ACCEPT, value.parse().unwrap())].into_iter().collect());
        assert!(accepts("text/plain"));
        assert!(accepts("text/plain; q=0.9, */*"));
        assert!(!accepts("*/*"));
        assert!(!accepts("application/json, text/plain"));
    }
}
