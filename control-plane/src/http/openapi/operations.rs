//! What the document says of each route of the table.

use prost_reflect::FieldDescriptor;
use serde_json::{Value, json};

use super::{
    super::{
        bind::{DRY_RUN, IDEMPOTENCY_KEY, LEASE},
        operation::Operation,
        resume::LAST_EVENT_ID,
        routes::{Answer, Mask, Payload},
    },
    comments::Comments,
    schemas::{Schemas, Use, describe as described},
};

/// The path as OpenAPI writes it: its fields by the names that JSON has for them.
pub(super) fn path(operation: &Operation) -> String {
    let mut path = operation.route.path.replace("=**", "");
    for (template, field) in operation.pattern_fields() {
        path = path.replace(&format!("{{{template}}}"), &format!("{{{}}}", field.json_name()));
    }
    path
}

/// The operation object.
pub(super) fn describe(operation: &Operation, comments: &Comments, schemas: &mut Schemas<'_>) -> Value {
    let comment = comments.rpc(&operation.rpc);
    let summary = comment.split_once(". ").map_or(comment, |(first, _)| first).trim_end_matches('.');
    let mut object = json!({
        "operationId": operation.route.operation,
        "tags": [operation.route.service],
        "summary": summary,
        "description": comment,
        "responses": responses(operation, schemas),
    });
    let parameters = parameters(operation, schemas);
    if !parameters.is_empty() {
        object["parameters"] = json!(parameters);
    }
    if let Some(body) = request_body(operation, schemas) {
        object["requestBody"] = body;
    }
    object
}

fn parameters(operation: &Operation, schemas: &mut Schemas<'_>) -> Vec<Value> {
    let mut parameters = Vec::new();
    for (_, field) in operation.pattern_fields() {
        let schema = schemas.field(field, Use::Plain);
        parameters.push(parameter("path", field.json_name(), true, schema));
    }
    for field in &operation.query_fields {
        let schema = schemas.field(field, Use::Plain);
        parameters.push(parameter("query", field.json_name(), schemas.is_required(field), schema));
    }
    if let Some(field) = operation.field("validate_only") {
        let schema = schemas.field(&field, Use::Plain);
        parameters.push(parameter("query", DRY_RUN, false, schema));
    }
    if operation.watched().is_some() {
        let schema = json!({"type": "boolean", "description": "Streams changes as Server-Sent Events."});
        parameters.push(parameter("query", "watch", false, schema));
    }
    for (header, field, comment) in [
        (LEASE.as_str(), "lease_id", None),
        (IDEMPOTENCY_KEY.as_str(), "request_id", None),
        (
            "if-match",
            "etag",
            Some("An etag in quotes, as in the ETag of an answer; 412 when it is another one now."),
        ),
        (LAST_EVENT_ID, "after_event_id", Some("Goes on after the event of this id.")),
        (LAST_EVENT_ID, "resume_epoch", Some("Goes on after the event of this id.")),
    ] {
        let Some(field) = operation.field(field) else { continue };
        let schema = match comment {
            Some(comment) => json!({"type": "string", "description": comment}),
            None => schemas.field(&field, Use::Plain),
        };
        parameters.push(parameter("header", &title_case(header), false, schema));
    }
    parameters
}

fn parameter(place: &str, name: &str, required: bool, mut schema: Value) -> Value {
    let comment = schema.as_object_mut().and_then(|schema| schema.remove("description"));
    let comment = comment.as_ref().and_then(Value::as_str).unwrap_or_default();
    described(json!({"in": place, "name": name, "required": required, "schema": schema}), comment)
}

/// `x-gw-lease` as people write it.
fn title_case(header: &str) -> String {
    let word = |word: &str| match word {
        "gw" | "id" => word.to_ascii_uppercase(),
        _ => word[..1].to_ascii_uppercase() + &word[1..],
    };
    header.split('-').map(word).collect::<Vec<_>>().join("-").replace("-ID", "-Id")
}

fn request_body(operation: &Operation, schemas: &mut Schemas<'_>) -> Option<Value> {
    let input = operation.rpc.input();
    let in_path: Vec<FieldDescriptor> = operation.path_fields.iter().map(|path| path[0].clone()).collect();
    match operation.route.payload {
        Payload::Nothing => None,
        Payload::Whole => {
            let schema = schemas.body(&input, &in_path);
            let mut rest = input.fields().filter(|field| !in_path.contains(field));
            let required = rest.any(|field| schemas.is_required(&field));
            Some(json!({"required": required, "content": {"application/json": {"schema": schema}}}))
        }
        Payload::Field(..) => {
            let (field, mask) = operation.body_field()?;
            let kind = field.kind();
            let message = kind.as_message()?;
            let content = match mask {
                Mask::All => {
                    json!({"application/json": {"schema": schemas.message(message, Use::Plain)}})
                }
                Mask::Named => {
                    let schema = schemas.message(message, Use::Patch);
                    json!({
                        "application/merge-patch+json": {"schema": schema},
                        "application/json": {"schema": schema},
                    })
                }
            };
            let comment = match mask {
                Mask::All => "All of it: fields that are left out are cleared.",
                Mask::Named => "A merge patch (RFC 7396): fields that are left out stay, null clears.",
            };
            Some(json!({"required": true, "description": comment, "content": content}))
        }
    }
}

fn responses(operation: &Operation, schemas: &mut Schemas<'_>) -> Value {
    let output = operation.rpc.output();
    let schema = match operation.route.answer {
        Answer::Field(name) => {
            let field = output.get_field_by_name(name).map(|field| field.kind());
            let message = field.as_ref().and_then(|kind| kind.as_message());
            schemas.message(message.unwrap_or(&output), Use::Plain)
        }
        Answer::Whole | Answer::Registered | Answer::Stream => schemas.message(&output, Use::Plain),
    };
    let events = |schema: Value| json!({"schema": schema});
    let mut content = match operation.route.answer {
        Answer::Stream => json!({"text/event-stream": events(schema.clone())}),
        _ => json!({"application/json": {"schema": schema}}),
    };
    if let Some(watch) = operation.watched() {
        content["text/event-stream"] = events(schemas.message(&watch.rpc.output(), Use::Plain));
    }
    let comment = match operation.route.answer {
        Answer::Stream => "Server-Sent Events; the data of each is of this schema.",
        Answer::Registered => "It was known, and is registered anew.",
        Answer::Whole | Answer::Field(_) => "Done.",
    };
    let mut responses = json!({
        "200": {"description": comment, "content": content},
        "default": {"$ref": "#/components/responses/Problem"},
    });
    if operation.route.answer == Answer::Registered {
        let location = json!({"description": "The path of the replica.", "schema": {"type": "string"}});
        responses["201"] = json!({
            "description": "It is new.",
            "headers": {"Location": location},
            "content": {"application/json": {"schema": schema}},
        });
    }
    responses
}
