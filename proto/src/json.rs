//! The proto3 JSON of a message: one schema for gwctl, REST and grpcurl.

use std::sync::LazyLock;

use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(crate::FILE_DESCRIPTOR_SET).expect("the build wrote a valid descriptor set")
});

/// Turns a message of `gateway.v1` into proto3 JSON: lowerCamelCase, durations as `"30s"`, 64-bit integers as strings.
///
/// Fields without presence are written even at their default value, so that readers can rely on them.
///
/// # Panics
/// When the message's type is not part of `gateway.v1`.
pub fn to_json<M: Message + Name>(message: &M) -> serde_json::Value {
    let descriptor =
        POOL.get_message_by_name(&M::full_name()).expect("every generated message is in the descriptor set");
    let mut dynamic = DynamicMessage::new(descriptor);
    dynamic.transcode_from(message).expect("a message encodes to what its own descriptor describes");
    let options = SerializeOptions::new().skip_default_fields(false);
    dynamic
        .serialize_with_options(serde_json::value::Serializer, &options)
        .expect("proto3 JSON of a valid message is valid JSON")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::v1;

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
}
