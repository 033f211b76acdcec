//! One event of the page's stream: what several watches told within a moment. Pure.

use serde_json::{Map, Value};

use super::cursor::Cursor;

/// What is told together, by kind.
#[derive(Debug, Default)]
pub(super) struct Frame {
    fields: Map<String, Value>,
    messages: usize,
}

impl Frame {
    /// Adds a message of a watch.
    pub(super) fn push(&mut self, kind: &str, message: Value) {
        self.messages += 1;
        let list = self.fields.entry(kind).or_insert_with(|| Value::Array(Vec::new()));
        list.as_array_mut().expect("a kind is pushed or set").push(message);
    }

    /// Takes the place of what there was of this kind.
    pub(super) fn set(&mut self, kind: &str, value: Value) {
        self.fields.insert(kind.to_owned(), value);
    }

    /// How many messages were pushed.
    pub(super) fn messages(&self) -> usize {
        self.messages
    }

    /// The text of the event. `now` is in milliseconds since 1970.
    pub(super) fn text(mut self, cursor: &Cursor, now: u64) -> String {
        self.set("now", now.into());
        format!("id: {}\ndata: {}\n\n", cursor.text(), Value::Object(self.fields))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn messages_of_a_kind_stand_in_their_order_and_what_is_set_once() {
        let mut frame = Frame::default();
        frame.push("events", json!(1));
        frame.push("events", json!("a\nb"));
        frame.set("nodes", json!(1));
        frame.set("nodes", json!({"changed": []}));
        assert_eq!(frame.messages(), 2);
        let cursor = Cursor { event_id: "e".into(), replicas: None };
        assert_eq!(
            frame.text(&cursor, 7),
            "id: e|\ndata: {\"events\":[1,\"a\\nb\"],\"nodes\":{\"changed\":[]},\"now\":7}\n\n"
        );
    }
}
