//! Updates as they go over the wire: encoded once, and shared by every stream that is sent them.
//!
//! What differs from stream to stream, the nonce, is a field of its own beside the update, and protobuf lets the fields
//! of a message be put one behind the other: so the head of each message is encoded for its stream, and the update
//! behind it is the same bytes for all.

use bytes::Bytes;
use gateway_proto::v1::{self, stream_snapshots_response::Update};
use prost::Message;

/// The `update` of a [`v1::StreamSnapshotsResponse`], encoded with its tag. To clone it copies nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Encoded(Bytes);

impl Encoded {
    /// Encodes an update.
    pub fn new(update: Update) -> Self {
        let alone = v1::StreamSnapshotsResponse { update: Some(update), ..Default::default() };
        Self(alone.encode_to_vec().into())
    }

    /// Its bytes: what follows an encoded message without an update, and makes it the message with this one.
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_and_an_update_behind_it_are_the_whole_message() {
        let replica = v1::Replica { service: "orders".into(), weight: 7, ..Default::default() };
        let delta = v1::Delta { base_revision: 4, upsert_replicas: vec![replica], ..Default::default() };
        let head = v1::StreamSnapshotsResponse {
            nonce: "9".into(),
            epoch: "e".into(),
            revision: 5,
            publish_time: Some(prost_types::Timestamp { seconds: 1, nanos: 2 }),
            store_silence: Some(prost_types::Duration { seconds: 3, nanos: 4 }),
            goes_on_elsewhere: true,
            update: None,
        };
        for update in [Update::Delta(delta), Update::Full(v1::FullSnapshot::default())] {
            let encoded = Encoded::new(update.clone());
            let bytes = [head.encode_to_vec().as_slice(), encoded.bytes()].concat();
            let whole = v1::StreamSnapshotsResponse { update: Some(update), ..head.clone() };
            assert_eq!(v1::StreamSnapshotsResponse::decode(bytes.as_slice()), Ok(whole.clone()));
            // In whatever order its fields are.
            assert_eq!(bytes.len(), whole.encoded_len());
        }
    }
}
