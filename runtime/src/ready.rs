//! The ready line: one JSON object on stdout once a server has bound everything it serves.

use std::io::Write;

/// Prints `{"ready":true, …}` with the given fields, in their order, and flushes.
///
/// Scripts read it instead of polling ports; port 0 becomes useful by it.
pub fn announce(fields: &[(&str, String)]) {
    print("ready", fields);
}

/// Prints `{"valid":true, …}` likewise: what would be served by flags that were only to be checked.
pub fn announce_valid(fields: &[(&str, String)]) {
    print("valid", fields);
}

fn print(what: &str, fields: &[(&str, String)]) {
    let mut line = format!("{{{}:true", quoted(what));
    for (name, value) in fields {
        line.push_str(&format!(",{}:{}", quoted(name), quoted(value)));
    }
    line.push('}');
    let mut out = std::io::stdout().lock();
    // A closed stdout is no reason not to serve.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
