//! The demo service's data: a conversation of fifteen messages.

use serde_json::{Value, json};

const MESSAGES: [(&str, &str); 15] = [
    ("Ada", "Is anybody there?"),
    ("Grace", "Two of us are. The third went down a minute ago."),
    ("Ada", "I noticed nothing."),
    ("Grace", "That is the idea."),
    ("Linus", "Who answered you then?"),
    ("Ada", "One of the others, on the first retry."),
    ("Linus", "And the one that is down?"),
    ("Grace", "Its breaker is open: nobody asks it for now."),
    ("Margaret", "How will it know when to ask again?"),
    ("Grace", "It sends one probe when the time is up."),
    ("Linus", "One? Not everybody at once?"),
    ("Grace", "Exactly one. If it fails, the wait doubles."),
    ("Margaret", "It is back. I see the breaker half open."),
    ("Ada", "And now it is closed."),
    ("Linus", "So the answer to the first question is: always."),
];

/// All messages, as `[{"id":1,"user":…,"text":…}, …]`.
pub(super) fn all() -> Value {
    let message =
        |(index, (user, text)): (usize, &(&str, &str))| json!({"id": index + 1, "user": user, "text": text});
    MESSAGES.iter().enumerate().map(message).collect()
}

/// What is shown when there is nothing better: one message, from the system.
pub(super) fn fallback() -> Value {
    json!([{"id": 0, "user": "System", "text": "Messages are not available right now. Please try again later."}])
}
