//! The proto3 JSON of a message, both ways: one schema for gwctl, REST and grpcurl.
//!
//! Writing never fails for messages of the contract. Reading is strict: what a message has no field for, what is there
//! twice and what has the wrong type is refused, each by its path.

mod decode;
mod similar;
mod text;

use std::sync::LazyLock;

use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, SerializeOptions};
use serde_json::Value;

pub use self::{
    decode::{decode, decode_text, enum_value, shown},
    similar::did_you_mean,
    text::parse,
};
use crate::Invalid;

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(crate::FILE_DESCRIPTOR_SET).expect("the build wrote a valid descriptor set")
});

/// Descriptors of `gateway.v1` and all it imports, comments included.
pub fn pool() -> &'static DescriptorPool {
    &POOL
}

/// Turns a message of `gateway.v1` into proto3 JSON: lowerCamelCase, durations as `"30s"`, 64-bit integers as strings.
///
/// Fields without presence are written even at their default value, so that readers can rely on them.
///
/// # Panics
/// When the message's type is not part of `gateway.v1`.
pub fn to_json<M: Message + Name>(message: &M) -> Value {
    let mut dynamic = DynamicMessage::new(descriptor::<M>());
    dynamic.transcode_from(message).expect("a message encodes to what its own descriptor describes");
    encode(&dynamic).expect("proto3 JSON of a valid message is valid JSON")
}

/// As [`to_json`], of a message whose type is known at run time only.
///
/// # Errors
/// What JSON cannot say: an instant outside the years 1 to 9999, or a duration outside protobuf's range.
pub fn encode(message: &DynamicMessage) -> Result<Value, serde_json::Error> {
    let options = SerializeOptions::new().skip_default_fields(false);
    message.serialize_with_options(serde_json::value::Serializer, &options)
}

/// Reads a message of `gateway.v1` from proto3 JSON.
///
/// Names may be lowerCamelCase or as in the .proto file; `null` stands for unset. Enum values may be given by number, or
/// by name with or without the enum's prefix.
///
/// # Errors
/// [`Invalid`] with a violation for each fault, at most [`MAX_VIOLATIONS`], by the path of its field.
///
/// # Panics
/// When the message's type is not part of `gateway.v1`.
pub fn from_json<M: Message + Name + Default>(value: &Value) -> Result<M, Invalid> {
    let dynamic = decode(&descriptor::<M>(), value)?;
    Ok(dynamic.transcode_to().expect("a message decodes from what its own descriptor describes"))
}

/// Faults that are named at most: a body full of them must not become an answer full of them.
pub const MAX_VIOLATIONS: usize = 20;

fn descriptor<M: Name>() -> MessageDescriptor {
    POOL.get_message_by_name(&M::full_name()).expect("every generated message is in the descriptor set")
}

#[cfg(test)]
mod tests;
