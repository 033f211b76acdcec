//! A request's path, query, headers and body, together the RPC's message. Pure; every fault is named, all at once.

use gateway_proto::{
    Check, Invalid,
    json::{decode, decode_text, did_you_mean, shown},
};
use http::{HeaderMap, HeaderName, header};
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, Value as Field};
use serde_json::Value;

use super::{
    operation::Operation,
    patch,
    resume::{LAST_EVENT_ID, resume},
    routes::Payload,
};

/// The secret of a lease, which must not stand in a path: paths are logged.
pub(super) const LEASE: HeaderName = HeaderName::from_static("x-gw-lease");
/// A UUID: a request that is sent again under the same one is answered as the first one was.
pub(super) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Query parameter of every operation that can check without changing.
pub(super) const DRY_RUN: &str = "dryRun";

/// What came, taken apart.
#[derive(Debug)]
pub(super) struct Inputs<'a> {
    /// The texts of the fields in the path, in order.
    pub(super) path: &'a [String],
    pub(super) query: &'a [(String, String)],
    pub(super) headers: &'a HeaderMap,
    /// `None` when it is empty.
    pub(super) body: Option<&'a Value>,
}

/// Makes the RPC's message.
pub(super) fn bind(operation: &Operation, inputs: &Inputs<'_>) -> Result<DynamicMessage, Invalid> {
    let mut check = Check::default();
    let message = check.take(bind_body(operation, inputs.body));
    let mut message = message.unwrap_or_else(|| DynamicMessage::new(operation.rpc.input()));
    for (fields, text) in operation.path_fields.iter().zip(inputs.path) {
        check.take(bind_path(&mut message, fields, text));
    }
    check.take(bind_query(operation, &mut message, inputs.query));
    check.take(bind_headers(operation, &mut message, inputs.headers));
    check.finish()?;
    Ok(message)
}

fn bind_body(operation: &Operation, body: Option<&Value>) -> Result<DynamicMessage, Invalid> {
    let input = operation.rpc.input();
    let Some((field, mask)) = operation.body_field() else {
        return match (operation.route.payload, body) {
            (_, None) => Ok(DynamicMessage::new(input)),
            (Payload::Whole, Some(body)) => decode(&input, body),
            (_, Some(_)) => Err(Invalid::new("body", "is not taken here: fields are query parameters")),
        };
    };
    let Some(body) = body else { return Err(Invalid::new("body", "is required")) };
    let kind = field.kind();
    let inner = kind.as_message().expect("a body is a message");
    let mut message = DynamicMessage::new(input);
    message.set_field(&field, Field::Message(decode(inner, body)?));
    let identity: Vec<_> = operation.pattern_fields().map(|(_, last)| last.name()).collect();
    patch::set_mask(&mut message, mask, inner, &identity, body);
    Ok(message)
}

fn bind_path(message: &mut DynamicMessage, fields: &[FieldDescriptor], text: &str) -> Result<(), Invalid> {
    let (last, way) = fields.split_last().expect("a path of a field has a part");
    let mut message = message;
    for field in way {
        let inner = message.get_field_mut(field).as_message_mut();
        message = inner.expect("the way to a field leads through messages");
    }
    let value = decode_text(last.json_name(), last, text)?;
    if message.has_field(last) && *message.get_field(last) != value {
        return Err(Invalid::new(last.json_name(), "in the body differs from the one in the path"));
    }
    message.set_field(last, value);
    Ok(())
}

fn bind_query(
    operation: &Operation,
    message: &mut DynamicMessage,
    query: &[(String, String)],
) -> Result<(), Invalid> {
    let mut check = Check::default();
    for (name, text) in query {
        let names = |field: &&FieldDescriptor| field.json_name() == name || field.name() == name;
        let Some(field) = operation.query_fields.iter().find(names) else {
            check.take(bind_dry_run(operation, message, name, text));
            continue;
        };
        let Some(value) = check.take(decode_text(field.json_name(), field, text)) else { continue };
        if field.is_list() {
            let list = message.get_field_mut(field).as_list_mut();
            list.expect("a repeated field is a list").push(value);
        } else if message.has_field(field) {
            check.take::<()>(Err(Invalid::new(field.json_name(), "is there twice")));
        } else {
            message.set_field(field, value);
        }
    }
    check.finish()
}

fn bind_dry_run(
    operation: &Operation,
    message: &mut DynamicMessage,
    name: &str,
    text: &str,
) -> Result<(), Invalid> {
    let field = operation.field("validate_only").filter(|_| name == DRY_RUN);
    let Some(field) = field else { return Err(unknown(operation, name)) };
    let value = decode_text(DRY_RUN, &field, text)?;
    // A body that asks for it is not overruled.
    if value == Field::Bool(true) {
        message.set_field(&field, value);
    }
    Ok(())
}

fn unknown(operation: &Operation, name: &str) -> Invalid {
    let shown = shown(name);
    let input = operation.rpc.input();
    let field = input.get_field_by_json_name(name).or_else(|| input.get_field_by_name(name));
    let elsewhere = field.map(|field| match field.name() {
        "etag" => "is not a query parameter: send If-Match",
        "lease_id" => "is a secret and not a query parameter: send X-GW-Lease",
        "request_id" => "is not a query parameter: send Idempotency-Key",
        "validate_only" => "is called dryRun here",
        _ if operation.route.payload == Payload::Whole => "is not a query parameter: send it in the body",
        _ => "is not a query parameter",
    });
    if let Some(why) = elsewhere {
        return Invalid::new(shown, why);
    }
    let mut known: Vec<&str> = operation.query_fields.iter().map(FieldDescriptor::json_name).collect();
    if operation.field("validate_only").is_some() {
        known.push(DRY_RUN);
    }
    let why = match (did_you_mean(name, known.iter().copied()), known.is_empty()) {
        (Some(meant), _) => format!("is unknown; did you mean {meant}?"),
        (None, false) => format!("is unknown; the query parameters are {}", known.join(", ")),
        (None, true) => "is unknown; there are no query parameters here".to_owned(),
    };
    Invalid::new(shown, why)
}

fn bind_headers(
    operation: &Operation,
    message: &mut DynamicMessage,
    headers: &HeaderMap,
) -> Result<(), Invalid> {
    let mut check = Check::default();
    let mut take =
        |name, field, parse| check.take(bind_header(operation, message, headers, &name, field, parse));
    take(LEASE, "lease_id", |text| Ok(text.trim().to_owned()));
    take(IDEMPOTENCY_KEY, "request_id", unquoted);
    take(header::IF_MATCH, "etag", parse_if_match);
    // A condition that is not looked at must not be taken for one that holds.
    if operation.is_write() && headers.contains_key(header::IF_MATCH) && operation.field("etag").is_none() {
        check.take::<()>(Err(Invalid::new("if-match", "is not known here: what this changes has no etag")));
    }
    if let Some(id) = headers.get(LAST_EVENT_ID) {
        let resumed = id.to_str().map_err(|_| Invalid::new(LAST_EVENT_ID, "is not ASCII"));
        check.take(resumed.and_then(|id| resume(message, id)));
    }
    check.finish()
}

fn bind_header(
    operation: &Operation,
    message: &mut DynamicMessage,
    headers: &HeaderMap,
    name: &HeaderName,
    field: &str,
    parse: fn(&str) -> Result<String, &'static str>,
) -> Result<(), Invalid> {
    let (Some(value), Some(field)) = (headers.get(name), operation.field(field)) else { return Ok(()) };
    let text = value.to_str().map_err(|_| "is not ASCII").and_then(parse);
    let value = Field::String(text.map_err(|why| Invalid::new(name.as_str(), why))?);
    if message.has_field(&field) && *message.get_field(&field) != value {
        let why = format!("differs from {} in the body", field.json_name());
        return Err(Invalid::new(name.as_str(), why));
    }
    message.set_field(&field, value);
    Ok(())
}

/// The draft of the Idempotency-Key header has its value in quotes; many clients leave them out.
fn unquoted(text: &str) -> Result<String, &'static str> {
    let text = text.trim();
    Ok(text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text).to_owned())
}

/// RFC 9110, section 13.1.1, of at most one strong etag. `*` holds for whatever is there: the empty etag.
fn parse_if_match(text: &str) -> Result<String, &'static str> {
    let text = text.trim();
    match text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
        _ if text == "*" => Ok(String::new()),
        Some(etag) if !etag.contains('"') && !etag.is_empty() => Ok(etag.to_owned()),
        _ => Err("must be one etag in quotes, as in the ETag of an answer"),
    }
}

/// A violation's field, from the RPC's words into REST's: `lease_ttl` is `leaseTtl`, and where the body is one field of
/// the request, paths begin in the body.
pub(super) fn rest_path(operation: &Operation, path: &str) -> String {
    let path = match operation.body_field() {
        Some((field, _)) => path.strip_prefix(field.name()).and_then(|p| p.strip_prefix('.')).unwrap_or(path),
        None => path,
    };
    let body = operation.body_field().and_then(|(field, _)| field.kind().as_message().cloned());
    let mut message = [body, Some(operation.rpc.input())].into_iter().flatten().find(|message| {
        let first = path.split(['.', '[']).next().unwrap_or_default();
        message.get_field_by_name(first).is_some()
    });
    let rename = |part: &str| {
        let name = part.split('[').next().unwrap_or_default();
        let Some(field) = message.as_ref().and_then(|message| message.get_field_by_name(name)) else {
            return part.to_owned();
        };
        message = match field.kind() {
            // What is behind a map is a key, and not ours.
            Kind::Message(inner) if !field.is_map() => Some(inner),
            _ => None,
        };
        part.replacen(name, field.json_name(), 1)
    };
    path.split('.').map(rename).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod tests;
