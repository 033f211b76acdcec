//! JSON as YAML: the same document in fewer characters. Everything that could be read as something else is quoted as in
//! JSON, which YAML includes.

use serde_json::Value;

/// The document, ended by a line break.
pub(super) fn to_yaml(value: &Value) -> String {
    let mut text = String::new();
    write(value, 0, &mut text);
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

/// Writes a value behind what is there: on the same line if it is short, below and indented otherwise.
fn write(value: &Value, depth: usize, text: &mut String) {
    match value {
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                begin_line(depth, text);
                text.push_str("- ");
                write(item, depth + 1, text);
            }
        }
        Value::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                begin_line(depth, text);
                text.push_str(&scalar(name));
                text.push(':');
                match value {
                    Value::Array(items) if !items.is_empty() => {
                        text.push('\n');
                        write(value, depth, text);
                    }
                    Value::Object(fields) if !fields.is_empty() => {
                        text.push('\n');
                        write(value, depth + 1, text);
                    }
                    _ => {
                        text.push(' ');
                        write(value, depth, text);
                    }
                }
            }
        }
        Value::String(string) => {
            text.push_str(&scalar(string));
            text.push('\n');
        }
        other => text.push_str(&format!("{other}\n")),
    }
}

/// Indents, unless the line has begun with the dash of a list.
fn begin_line(depth: usize, text: &mut String) {
    if text.is_empty() || text.ends_with('\n') {
        text.push_str(&"  ".repeat(depth));
    }
}

fn scalar(text: &str) -> String {
    let is_plain = text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '/')
        && text.chars().all(|char| char.is_ascii_alphanumeric() || "_-./".contains(char))
        && !["true", "false", "null", "yes", "no", "on", "off", "y", "n"]
            .contains(&text.to_ascii_lowercase().as_str());
    if is_plain { text.to_owned() } else { Value::from(text).to_string() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_document_is_indented_and_quoted_where_it_could_be_misread() {
        let document = json!({
            "replicas": [
                {"id": "r-1", "labels": {"team": "web", "no": "yes"}, "list": [1, [2, 3], {}]},
                {"id": "12", "note": "a: b\n\u{1b}", "empty": "", "none": null, "is": true},
                "plain",
            ],
            "nothing": [],
        });
        let expected = r#"nothing: []
replicas:
- id: r-1
  labels:
    "no": "yes"
    team: web
  list:
  - 1
  - - 2
    - 3
  - {}
- empty: ""
  id: "12"
  is: true
  none: null
  note: "a: b\n\u001b"
- plain
"#;
        assert_eq!(to_yaml(&document), expected);
        assert_eq!(to_yaml(&json!([])), "[]\n");
        assert_eq!(to_yaml(&json!("x")), "x\n");
    }
}
