//! A JSON value to a message, by its descriptor. Collects every fault it sees, each by the path of its field.

use prost_reflect::{
    DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value as Field,
};
use serde_json::Value;

use super::{MAX_VIOLATIONS, similar::did_you_mean};
use crate::{Check, Invalid};

/// Characters of a caller's text that are shown back.
const MAX_SHOWN_CHARS: usize = 63;

/// Reads a message of this type. See [`super::from_json`] for what is accepted.
///
/// # Errors
/// [`Invalid`] with a violation for each fault; the path of the message itself is empty.
pub fn decode(descriptor: &MessageDescriptor, value: &Value) -> Result<DynamicMessage, Invalid> {
    let mut decoder = Decoder::default();
    let message = decoder.message("", descriptor, value);
    decoder.check.finish()?;
    Ok(message.expect("what is not read is noted"))
}

/// Reads a value of a field, or one element of a list, from text without quotes: from a query or a path.
///
/// # Errors
/// [`Invalid`] for `path` with what is expected; also for a message other than durations, instants and field masks.
pub fn decode_text(path: &str, field: &FieldDescriptor, text: &str) -> Result<Field, Invalid> {
    let value = match (field.kind(), text) {
        (Kind::Bool, "true" | "1") => Value::Bool(true),
        (Kind::Bool, "false" | "0") => Value::Bool(false),
        _ => Value::String(text.to_owned()),
    };
    let mut decoder = Decoder::default();
    let read = decoder.single(path, &field.kind(), &value);
    decoder.check.finish()?;
    Ok(read.expect("what is not read is noted"))
}

/// The number of an enum's value, by its name with or without the enum's prefix, in any case.
///
/// # Errors
/// What is allowed, and what may have been meant.
pub fn enum_value(descriptor: &EnumDescriptor, name: &str) -> Result<i32, String> {
    let wanted = name.to_ascii_uppercase();
    let prefix = prefix(descriptor);
    let mut values = descriptor.values();
    let found =
        values.find(|value| value.name() == wanted || value.name().strip_prefix(&prefix) == Some(&wanted));
    if let Some(value) = found {
        return Ok(value.number());
    }
    let values: Vec<_> = descriptor.values().collect();
    let short = values.iter().filter_map(|value| value.name().strip_prefix(&prefix));
    let short: Vec<&str> = short.filter(|name| *name != "UNSPECIFIED").collect();
    let hint = did_you_mean(name, short.iter().copied()).map(|meant| format!("; did you mean {meant}?"));
    let allowed = short.join(", ");
    Err(format!("{:?} is none of {allowed}{}", shown(name), hint.unwrap_or_default()))
}

/// `BREAKER_STATE_` of `BreakerState`: what the contract's style puts before each value's name.
fn prefix(descriptor: &EnumDescriptor) -> String {
    let zero = descriptor.default_value();
    zero.name().strip_suffix("UNSPECIFIED").unwrap_or_default().to_owned()
}

#[derive(Default)]
struct Decoder {
    check: Check,
    faults: usize,
}

impl Decoder {
    /// Notes a fault; `None` in any case.
    fn fault<T>(&mut self, path: &str, why: impl Into<String>) -> Option<T> {
        self.faults += 1;
        if self.faults <= MAX_VIOLATIONS {
            self.check.take::<T>(Err(Invalid::new(path, why)));
        }
        None
    }

    fn wrong<T>(&mut self, path: &str, value: &Value, expected: &str) -> Option<T> {
        self.fault(path, format!("must be {expected}, not {}", kind_of(value)))
    }

    fn message(
        &mut self,
        path: &str,
        descriptor: &MessageDescriptor,
        value: &Value,
    ) -> Option<DynamicMessage> {
        if let Some(expected) = well_known(descriptor.full_name()) {
            // Types with a JSON of their own: the library reads them, its words for what is wrong are not ours.
            let read = DynamicMessage::deserialize(descriptor.clone(), value);
            return match (value, read) {
                (Value::String(_), Ok(message)) => Some(message),
                (Value::String(text), Err(_)) => {
                    self.fault(path, format!("{:?} is not {expected}", shown(text)))
                }
                _ => self.wrong(path, value, expected),
            };
        }
        let Value::Object(object) = value else { return self.wrong(path, value, "an object") };
        let mut message = DynamicMessage::new(descriptor.clone());
        let mut seen = Vec::new();
        for (name, value) in object {
            if self.faults >= MAX_VIOLATIONS {
                return None;
            }
            let Some(field) = field_of(descriptor, name) else {
                self.unknown(path, descriptor, name);
                continue;
            };
            let path = join(path, field.json_name());
            if seen.contains(&field.number()) {
                let (camel, snake) = (field.json_name(), field.name());
                self.fault::<()>(&path, format!("is there twice, as {camel:?} and as {snake:?}"));
                continue;
            }
            seen.push(field.number());
            if value.is_null() {
                continue;
            }
            let other = field.containing_oneof().and_then(|oneof| {
                let mut members = oneof.fields();
                members.find(|member| *member != field && message.has_field(member))
            });
            if let Some(other) = other {
                self.fault::<()>(&path, format!("excludes {}", other.json_name()));
                continue;
            }
            if let Some(value) = self.field(&path, &field, value) {
                message.set_field(&field, value);
            }
        }
        Some(message)
    }

    fn unknown(&mut self, path: &str, descriptor: &MessageDescriptor, name: &str) {
        let names: Vec<String> = descriptor.fields().map(|field| field.json_name().to_owned()).collect();
        let why = match did_you_mean(name, names.iter().map(String::as_str)) {
            Some(meant) => format!("is unknown; did you mean {meant}?"),
            None => format!("is unknown; the fields are {}", names.join(", ")),
        };
        self.fault::<()>(&join(path, &shown(name)), why);
    }

    fn field(&mut self, path: &str, field: &FieldDescriptor, value: &Value) -> Option<Field> {
        if field.is_map() {
            return self.map(path, field, value);
        }
        if !field.is_list() {
            return self.single(path, &field.kind(), value);
        }
        let Value::Array(items) = value else { return self.wrong(path, value, "an array") };
        let mut list = Vec::with_capacity(items.len().min(1024));
        for (index, item) in items.iter().enumerate() {
            if self.faults >= MAX_VIOLATIONS {
                break;
            }
            list.extend(self.single(&format!("{path}[{index}]"), &field.kind(), item));
        }
        Some(Field::List(list))
    }

    fn map(&mut self, path: &str, field: &FieldDescriptor, value: &Value) -> Option<Field> {
        let Value::Object(object) = value else { return self.wrong(path, value, "an object") };
        let kind = field.kind();
        let entry = kind.as_message().expect("a map's entries are messages");
        let (key_kind, value_kind) =
            (entry.map_entry_key_field().kind(), entry.map_entry_value_field().kind());
        let mut map = std::collections::HashMap::new();
        for (name, value) in object {
            if self.faults >= MAX_VIOLATIONS {
                break;
            }
            let path = join(path, &shown(name));
            let key = match key_kind {
                Kind::String => Some(MapKey::String(name.clone())),
                _ => {
                    self.single(&path, &key_kind, &Value::String(name.clone())).and_then(Field::into_map_key)
                }
            };
            if let (Some(key), Some(value)) = (key, self.single(&path, &value_kind, value)) {
                map.insert(key, value);
            }
        }
        Some(Field::Map(map))
    }

    fn single(&mut self, path: &str, kind: &Kind, value: &Value) -> Option<Field> {
        match kind {
            Kind::Message(descriptor) => self.message(path, descriptor, value).map(Field::Message),
            Kind::Enum(descriptor) => self.enumeration(path, descriptor, value).map(Field::EnumNumber),
            Kind::Bool => match value {
                Value::Bool(value) => Some(Field::Bool(*value)),
                _ => self.wrong(path, value, "true or false"),
            },
            Kind::String => match value {
                Value::String(text) => Some(Field::String(text.clone())),
                _ => self.wrong(path, value, "a string"),
            },
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => self.integer(path, value).map(Field::I32),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => self.integer(path, value).map(Field::I64),
            Kind::Uint32 | Kind::Fixed32 => self.integer(path, value).map(Field::U32),
            Kind::Uint64 | Kind::Fixed64 => self.integer(path, value).map(Field::U64),
            Kind::Double => self.number(path, value).map(Field::F64),
            Kind::Float => self.number(path, value).map(|number| Field::F32(number as f32)),
            Kind::Bytes => self.fault(path, "cannot be given as JSON"),
        }
    }

    fn enumeration(&mut self, path: &str, descriptor: &EnumDescriptor, value: &Value) -> Option<i32> {
        match value {
            Value::String(name) => match enum_value(descriptor, name) {
                Ok(number) => Some(number),
                Err(why) => self.fault(path, why),
            },
            Value::Number(number) => {
                let number = number.as_i64().and_then(|number| i32::try_from(number).ok());
                match number.filter(|number| descriptor.get_value(*number).is_some()) {
                    Some(number) => Some(number),
                    None => self.fault(path, format!("{value} is no value of {}", descriptor.name())),
                }
            }
            _ => self.wrong(path, value, "the name of a value"),
        }
    }

    /// An integer as a number, or as a string: JSON numbers lose digits beyond 2^53 in some languages.
    fn integer<T: TryFrom<i128>>(&mut self, path: &str, value: &Value) -> Option<T> {
        let wide: Option<i128> = match value {
            Value::Number(number) => {
                let whole = number.as_f64().filter(|float| float.fract() == 0.0 && float.abs() < 1e18);
                let exact = number.as_i64().map(i128::from).or(number.as_u64().map(i128::from));
                exact.or(whole.map(|float| float as i128))
            }
            Value::String(text) => text.parse().ok(),
            _ => return self.wrong(path, value, "an integer"),
        };
        match wide.map(T::try_from) {
            Some(Ok(number)) => Some(number),
            Some(Err(_)) => self.fault(path, format!("{} is out of range", scalar(value))),
            None => self.fault(path, format!("{} is not an integer", scalar(value))),
        }
    }

    fn number(&mut self, path: &str, value: &Value) -> Option<f64> {
        let number = match value {
            Value::Number(number) => number.as_f64(),
            Value::String(text) => match text.as_str() {
                "NaN" => Some(f64::NAN),
                "Infinity" => Some(f64::INFINITY),
                "-Infinity" => Some(f64::NEG_INFINITY),
                // The words for these that Rust knows are not JSON's.
                text => text.parse().ok().filter(|number: &f64| number.is_finite()),
            },
            _ => return self.wrong(path, value, "a number"),
        };
        number.or_else(|| self.fault(path, format!("{} is not a number", scalar(value))))
    }
}

/// What a message that is written as a string looks like; `None` for all others.
fn well_known(name: &str) -> Option<&'static str> {
    match name {
        "google.protobuf.Duration" => Some("a duration in seconds such as \"30s\" or \"0.5s\""),
        "google.protobuf.Timestamp" => Some("an instant of RFC 3339 such as \"2026-11-28T09:00:00Z\""),
        "google.protobuf.FieldMask" => Some("a list of fields such as \"timeout.connect,retry\""),
        _ => None,
    }
}

fn field_of(descriptor: &MessageDescriptor, name: &str) -> Option<FieldDescriptor> {
    descriptor.get_field_by_json_name(name).or_else(|| descriptor.get_field_by_name(name))
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// The beginning of what a caller wrote, for a message.
pub fn shown(text: &str) -> String {
    text.chars().take(MAX_SHOWN_CHARS).collect()
}

fn scalar(value: &Value) -> String {
    shown(&value.to_string())
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
