//! `FIELD=VALUE` of a route, as people type it. Whether a value is allowed is for the control plane to say.

use std::str::FromStr;

use gateway_proto::{nearest::nearest, v1};

/// The fields, in the order of the contract.
pub(super) const FIELDS: [&str; 7] =
    ["service", "host", "path_prefix", "methods", "headers", "priority", "rewrite_prefix"];

/// A field and the value that it is to have; an empty one clears it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Assignment {
    pub(super) field: &'static str,
    value: Value,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Text(String),
    Methods(Vec<String>),
    Header(Option<(String, String)>),
    Priority(i32),
}

impl Assignment {
    /// Whether a route may be given several of it: one header each.
    pub(super) fn adds(&self) -> bool {
        matches!(self.value, Value::Header(Some(_)))
    }

    /// Writes it into a route.
    pub(super) fn write(&self, route: &mut v1::Route) {
        match &self.value {
            Value::Text(text) => match self.field {
                "service" => route.service.clone_from(text),
                "host" => route.host.clone_from(text),
                "path_prefix" => route.path_prefix.clone_from(text),
                _ => route.rewrite_prefix.clone_from(text),
            },
            Value::Methods(methods) => route.methods.clone_from(methods),
            Value::Header(None) => route.headers.clear(),
            Value::Header(Some((name, value))) => {
                route.headers.push(v1::HeaderMatch { name: name.clone(), value: value.clone() });
            }
            Value::Priority(priority) => route.priority = *priority,
        }
    }
}

/// A field of a route as text, empty where it is not set.
pub(super) fn value_of(route: &v1::Route, field: &str) -> String {
    match field {
        "service" => route.service.clone(),
        "host" => route.host.clone(),
        "path_prefix" => route.path_prefix.clone(),
        "methods" => route.methods.join(","),
        "headers" => route.headers.iter().map(header_text).collect::<Vec<_>>().join(" "),
        "priority" => route.priority.to_string(),
        _ => route.rewrite_prefix.clone(),
    }
}

/// `NAME:VALUE`, or `NAME` where any value will do.
pub(super) fn header_text(header: &v1::HeaderMatch) -> String {
    match header.value.as_str() {
        "" => header.name.clone(),
        value => format!("{}:{value}", header.name),
    }
}

impl FromStr for Assignment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').ok_or("is written FIELD=VALUE, e.g. path_prefix=/api")?;
        let field = FIELDS.into_iter().find(|field| *field == name).ok_or_else(|| unknown(name))?;
        let value = match field {
            "methods" if value.is_empty() => Value::Methods(Vec::new()),
            "methods" => Value::Methods(value.split(',').map(|name| name.trim().to_owned()).collect()),
            "headers" if value.is_empty() => Value::Header(None),
            "headers" => {
                let (name, said) = value.split_once(':').unwrap_or((value, ""));
                Value::Header(Some((name.trim().to_owned(), said.trim().to_owned())))
            }
            "priority" if value.is_empty() => Value::Priority(0),
            "priority" => {
                let number = value.parse();
                Value::Priority(number.map_err(|_| format!("priority: \"{value}\" is no whole number"))?)
            }
            _ => Value::Text(value.to_owned()),
        };
        Ok(Self { field, value })
    }
}

fn unknown(name: &str) -> String {
    let hint =
        nearest(name, FIELDS).map_or_else(String::new, |field| format!(" (did you mean \"{field}\"?)"));
    format!("\"{name}\" is no field of a route{hint}: there are {}", FIELDS.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(texts: &[&str]) -> v1::Route {
        let mut route = v1::Route::default();
        texts.iter().for_each(|text| text.parse::<Assignment>().unwrap().write(&mut route));
        route
    }

    #[test]
    fn values_are_written_as_people_write_them() {
        let texts = [
            "service=orders",
            "host=*.example",
            "path_prefix=/api",
            "methods=GET, HEAD",
            "headers=x-canary:1",
            "headers=x-trace",
            "priority=3",
            "rewrite_prefix=/",
        ];
        let route = written(&texts);
        let shown = FIELDS.map(|field| value_of(&route, field));
        assert_eq!(shown, ["orders", "*.example", "/api", "GET,HEAD", "x-canary:1 x-trace", "3", "/"]);
        assert_eq!(written(&["headers=x", "headers=", "methods=", "priority="]), v1::Route::default());
    }

    #[test]
    fn what_is_no_assignment_is_refused_with_what_would_be_one() {
        for (typed, why) in [
            ("host", "is written FIELD=VALUE"),
            ("hots=a", "\"hots\" is no field of a route (did you mean \"host\"?): there are service, host,"),
            ("priority=high", "priority: \"high\" is no whole number"),
        ] {
            let error = typed.parse::<Assignment>().unwrap_err();
            assert!(error.starts_with(why), "{typed}: {error}");
        }
    }
}
