//! What the contract's comments say of each message, field, value and RPC.

use std::collections::HashMap;

use gateway_proto::json::pool;
use prost_reflect::{
    EnumDescriptor, EnumValueDescriptor, FieldDescriptor, FileDescriptor, MessageDescriptor, MethodDescriptor,
};

/// Comments by file and place in it.
#[derive(Debug)]
pub(in crate::http) struct Comments(HashMap<(String, Vec<i32>), String>);

impl Comments {
    /// Those of `gateway.v1`.
    pub(in crate::http) fn new() -> Self {
        let mut comments = HashMap::new();
        for file in pool().files().filter(|file| file.package_name() == "gateway.v1") {
            let info = file.file_descriptor_proto().source_code_info.as_ref();
            for location in info.into_iter().flat_map(|info| &info.location) {
                let parts = [location.leading_comments(), location.trailing_comments()];
                let text = parts.map(plain).into_iter().filter(|text| !text.is_empty());
                let text = text.collect::<Vec<_>>().join("\n\n");
                if !text.is_empty() {
                    comments.insert((file.name().to_owned(), location.path.clone()), text);
                }
            }
        }
        Self(comments)
    }

    fn of(&self, file: &FileDescriptor, path: &[i32]) -> &str {
        self.0.get(&(file.name().to_owned(), path.to_vec())).map(String::as_str).unwrap_or_default()
    }

    pub(super) fn message(&self, message: &MessageDescriptor) -> &str {
        self.of(&message.parent_file(), message.path())
    }

    pub(in crate::http) fn field(&self, field: &FieldDescriptor) -> &str {
        self.of(&field.parent_file(), field.path())
    }

    pub(super) fn enumeration(&self, descriptor: &EnumDescriptor) -> &str {
        self.of(&descriptor.parent_file(), descriptor.path())
    }

    pub(super) fn value(&self, value: &EnumValueDescriptor) -> &str {
        self.of(&value.parent_file(), value.path())
    }

    pub(super) fn rpc(&self, rpc: &MethodDescriptor) -> &str {
        self.of(&rpc.parent_file(), rpc.path())
    }

    /// The services that have routes, and what is said of them.
    pub(super) fn services(&self) -> impl Iterator<Item = (String, &str)> {
        let ours = pool().services().filter(|service| service.package_name() == "gateway.v1");
        let routed = ours.filter(|service| service.methods().any(|rpc| !rpc.is_client_streaming()));
        routed.map(|service| (service.name().to_owned(), self.of(&service.parent_file(), service.path())))
    }
}

/// Lines of one paragraph on one line; an empty line between paragraphs stays.
fn plain(comment: &str) -> String {
    let paragraphs = comment
        .split("\n\n")
        .map(|paragraph| paragraph.lines().map(str::trim).collect::<Vec<_>>().join(" ").trim().to_owned());
    paragraphs.filter(|paragraph| !paragraph.is_empty()).collect::<Vec<_>>().join("\n\n")
}
