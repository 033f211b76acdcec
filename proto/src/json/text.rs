//! JSON text to a value, stricter than usual: no name twice in one object, and a bounded depth.
//!
//! A reader that keeps one of two values under the same name makes a change other than the one that was looked at.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::decode::shown;

/// No message of the contract nests half as deep.
const MAX_DEPTH: usize = 32;

/// Reads JSON text. Its size is the caller's to bound.
///
/// # Errors
/// What is wrong and at which line and column: no JSON, a name that is there twice, or more than 32 levels.
pub fn parse(text: &[u8]) -> Result<Value, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let value = Strict { depth: 0 }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

#[derive(Clone, Copy)]
struct Strict {
    depth: usize,
}

impl Strict {
    fn deeper<E: Error>(self) -> Result<Self, E> {
        match self.depth < MAX_DEPTH {
            true => Ok(Self { depth: self.depth + 1 }),
            false => Err(E::custom(format!("more than {MAX_DEPTH} levels"))),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let seed = self.deeper()?;
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(seed)? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let seed = self.deeper()?;
        let mut object = Map::new();
        while let Some(name) = entries.next_key::<String>()? {
            if object.contains_key(&name) {
                return Err(A::Error::custom(format!("{:?} is there twice", shown(&name))));
            }
            object.insert(name, entries.next_value_seed(seed)?);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn json_is_read_as_it_is() {
        let text = br#" {"a": [1, -2, 1.5, "x", true, null], "b": {"a": 18446744073709551615}} "#;
        let expected = json!({"a": [1, -2, 1.5, "x", true, null], "b": {"a": u64::MAX}});
        assert_eq!(parse(text).unwrap(), expected);
    }

    #[test]
    fn what_is_no_json_or_ambiguous_or_too_deep_is_refused_with_its_place() {
        let deep = format!("{}{}", "[".repeat(33), "]".repeat(33));
        for (text, why) in [
            (r#"{"a": 1, "a": 2}"#, "\"a\" is there twice at line 1 column 12"),
            (r#"{"a": {"b": 1, "\u0062": 2}}"#, "\"b\" is there twice"),
            (deep.as_str(), "more than 32 levels"),
            ("{} {}", "trailing characters"),
            ("{\"a\": 1", "EOF while parsing an object"),
            ("1e400", "number out of range"),
            ("", "EOF while parsing a value"),
        ] {
            let error = parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
        assert!(parse(format!("{}{}", "[".repeat(32), "]".repeat(32)).as_bytes()).is_ok());
    }

    proptest! {
        #[test]
        fn what_the_usual_reader_reads_is_read_the_same_or_refused(text in r#"[{}\[\]":,a-c0-9.e\-tru ]{0,24}"#) {
            if let Ok(value) = parse(text.as_bytes()) {
                prop_assert_eq!(value, serde_json::from_str::<Value>(&text).unwrap());
            }
        }
    }
}
