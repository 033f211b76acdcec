//! The contract's messages and enums as JSON Schema.

use std::collections::{BTreeMap, HashSet};

use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

use super::comments::Comments;

/// The schemas that something refers to.
#[derive(Debug)]
pub(super) struct Schemas<'a> {
    comments: &'a Comments,
    named: BTreeMap<String, Value>,
    begun: HashSet<String>,
}

/// Who writes a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// As it is.
    Plain,
    /// The body of a merge patch, where `null` clears a field.
    Patch,
}

impl<'a> Schemas<'a> {
    pub(super) fn new(comments: &'a Comments) -> Self {
        Self { comments, named: BTreeMap::new(), begun: HashSet::new() }
    }

    /// All that was referred to.
    pub(super) fn finish(self) -> BTreeMap<String, Value> {
        self.named
    }

    /// Adds a schema that is no message's.
    pub(super) fn add(&mut self, name: &str, schema: Value) -> Value {
        self.named.insert(name.to_owned(), schema);
        refer(name)
    }

    /// A reference to a message's schema.
    pub(super) fn message(&mut self, message: &MessageDescriptor, as_: Use) -> Value {
        let name = match as_ {
            Use::Plain => message.name().to_owned(),
            Use::Patch => format!("{}Patch", message.name()),
        };
        // Noted before its fields are looked at: one of them may be of the same type.
        if self.begun.insert(name.clone()) {
            let schema = self.object(message, message.fields(), as_);
            self.named.insert(name.clone(), schema);
        }
        refer(&name)
    }

    /// A reference to the schema of a request's body: what is in the path is left out, and nothing else is taken.
    pub(super) fn body(&mut self, message: &MessageDescriptor, in_path: &[FieldDescriptor]) -> Value {
        let fields = message.fields().filter(|field| !in_path.contains(field));
        let mut schema = self.object(message, fields, Use::Plain);
        schema["additionalProperties"] = json!(false);
        self.add(message.name(), schema)
    }

    fn object(
        &mut self,
        message: &MessageDescriptor,
        fields: impl Iterator<Item = FieldDescriptor>,
        as_: Use,
    ) -> Value {
        let mut properties = Map::new();
        let mut required = Vec::new();
        for field in fields {
            if self.is_required(&field) {
                required.push(field.json_name().to_owned());
            }
            properties.insert(field.json_name().to_owned(), self.field(&field, as_));
        }
        let mut schema = json!({"type": "object", "properties": properties});
        if !required.is_empty() && as_ == Use::Plain {
            schema["required"] = json!(required);
        }
        describe(schema, self.comments.message(message))
    }

    /// A field's schema, with what is said of it.
    pub(super) fn field(&mut self, field: &FieldDescriptor, as_: Use) -> Value {
        let schema = if field.is_map() {
            let kind = field.kind();
            let entry = kind.as_message().expect("a map's entries are messages");
            json!({"type": "object", "additionalProperties": self.kind(&entry.map_entry_value_field().kind(), as_)})
        } else if field.is_list() {
            json!({"type": "array", "items": self.kind(&field.kind(), as_)})
        } else if as_ == Use::Patch {
            json!({"anyOf": [self.kind(&field.kind(), as_), {"type": "null"}]})
        } else {
            self.kind(&field.kind(), as_)
        };
        describe(schema, self.comments.field(field))
    }

    fn kind(&mut self, kind: &Kind, as_: Use) -> Value {
        match kind {
            Kind::Message(message) => match message.full_name() {
                "google.protobuf.Timestamp" => json!({"type": "string", "format": "date-time"}),
                "google.protobuf.Duration" => {
                    json!({"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$", "examples": ["30s"]})
                }
                "google.protobuf.FieldMask" => json!({"type": "string"}),
                _ => self.message(message, as_),
            },
            Kind::Enum(descriptor) => self.enumeration(descriptor),
            Kind::Bool => json!({"type": "boolean"}),
            Kind::String => json!({"type": "string"}),
            Kind::Bytes => json!({"type": "string", "contentEncoding": "base64"}),
            Kind::Double | Kind::Float => json!({"type": "number", "format": "double"}),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => json!({"type": "integer", "format": "int32"}),
            Kind::Uint32 | Kind::Fixed32 => json!({"type": "integer", "minimum": 0}),
            // A string, for some languages' numbers lose digits beyond 2^53.
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
                json!({"type": "string", "format": "int64", "pattern": "^-?[0-9]+$"})
            }
            Kind::Uint64 | Kind::Fixed64 => {
                json!({"type": "string", "format": "uint64", "pattern": "^[0-9]+$"})
            }
        }
    }

    fn enumeration(&mut self, descriptor: &EnumDescriptor) -> Value {
        if self.begun.insert(descriptor.name().to_owned()) {
            let names: Vec<_> = descriptor.values().map(|value| value.name().to_owned()).collect();
            let mut lines = vec![self.comments.enumeration(descriptor).to_owned()];
            for value in descriptor.values() {
                match self.comments.value(&value) {
                    "" => {}
                    comment => lines.push(format!("{}: {comment}", value.name())),
                }
            }
            lines.retain(|line| !line.is_empty());
            let schema = describe(json!({"type": "string", "enum": names}), &lines.join("\n\n"));
            self.named.insert(descriptor.name().to_owned(), schema);
        }
        refer(descriptor.name())
    }

    /// Whether the contract says so, without a condition.
    pub(super) fn is_required(&self, field: &FieldDescriptor) -> bool {
        let comment = self.comments.field(field);
        ["Required.", "Required;", "Required:"].iter().any(|word| comment.starts_with(word))
    }
}

fn refer(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// Adds a description, unless there is nothing to say.
pub(super) fn describe(mut schema: Value, comment: &str) -> Value {
    if !comment.is_empty() {
        schema["description"] = json!(comment);
    }
    schema
}
