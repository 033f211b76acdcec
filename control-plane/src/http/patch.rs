//! From a body to the field mask that says what it changes. Pure.

use prost_reflect::{DynamicMessage, Kind, MessageDescriptor, Value as Field};
use serde_json::Value;

use super::routes::Mask;

/// What the registry writes: bodies may have it, as read, and it is not a change.
const NOT_CHANGED: [&str; 5] = ["etag", "revision", "update_time", "updated_by", "update_reason"];

/// Sets `update_mask`, and for [`Mask::All`] `allow_missing`: whoever says all of it may also be the first to.
///
/// `inner` is the type of `body`, of which each field is known. What is in the path, by `identity`, is no change either.
pub(super) fn set_mask(
    message: &mut DynamicMessage,
    mask: Mask,
    inner: &MessageDescriptor,
    identity: &[&str],
    body: &Value,
) {
    let paths = match mask {
        Mask::All => {
            message.set_field_by_name("allow_missing", Field::Bool(true));
            vec!["*".to_owned()]
        }
        Mask::Named => named(inner, identity, body),
    };
    let paths = Field::List(paths.into_iter().map(Field::String).collect());
    let update_mask = message.get_field_by_name_mut("update_mask").and_then(Field::as_message_mut);
    update_mask.expect("a request with a body of its own has a mask").set_field_by_name("paths", paths);
}

/// The fields that a merge patch names, in the names of the contract: `null` clears the whole of a field, an object
/// changes what is in it.
fn named(descriptor: &MessageDescriptor, identity: &[&str], body: &Value) -> Vec<String> {
    let mut paths = Vec::new();
    collect(descriptor, body, "", &mut paths);
    paths.retain(|path| !NOT_CHANGED.contains(&path.as_str()) && !identity.contains(&path.as_str()));
    paths
}

fn collect(descriptor: &MessageDescriptor, body: &Value, within: &str, paths: &mut Vec<String>) {
    for (name, value) in body.as_object().into_iter().flatten() {
        let field = descriptor.get_field_by_json_name(name).or_else(|| descriptor.get_field_by_name(name));
        let Some(field) = field else { continue };
        let path = format!("{within}{}", field.name());
        match (field.kind(), value) {
            (Kind::Message(inner), Value::Object(_)) if !field.is_map() => {
                collect(&inner, value, &format!("{path}."), paths);
            }
            _ => paths.push(path),
        }
    }
}
