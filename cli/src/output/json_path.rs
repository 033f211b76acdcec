//! `-o jsonpath=EXPR`: parts of a JSON document, by the paths of RFC 9535 as far as people type them.
//!
//! `.name`, `['name']`, `[0]`, `[-1]`, `[1:3]`, `[*]`, `.*`, `..name`, and `[?(@.path == "value")]` with `==`, `!=`, `<`, `<=`,
//! `>`, `>=`, or a path alone for "is there". A `$` in front and the braces of kubectl around it may be left out.

use std::{cmp::Ordering, str::FromStr};

use serde_json::Value;

/// A parsed path.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct JsonPath(Vec<Step>);

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    Slice(Option<i64>, Option<i64>),
    All,
    /// Every value below, this one included.
    Descend,
    Filter(JsonPath, Option<(Operator, Value)>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl FromStr for JsonPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let inner = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).unwrap_or(text).trim();
        let inner = inner.strip_prefix('$').unwrap_or(inner);
        let dotted = if inner.is_empty() || inner.starts_with(['.', '[']) {
            inner.to_owned()
        } else {
            format!(".{inner}")
        };
        let mut parser = Parser { rest: &dotted };
        let path = parser.path()?;
        match parser.rest {
            "" => Ok(path),
            rest => Err(format!("cannot be read from \"{rest}\" on")),
        }
    }
}

impl JsonPath {
    /// The values at the path, in the document's order.
    pub(crate) fn find<'a>(&self, document: &'a Value) -> Vec<&'a Value> {
        self.0.iter().fold(vec![document], |found, step| {
            found.into_iter().flat_map(|value| step.take(value)).collect()
        })
    }

    /// One value a line: texts as they are, everything else as JSON.
    pub(crate) fn lines(&self, document: &Value) -> String {
        let line = |value: &Value| match value {
            Value::String(text) => format!("{}\n", crate::terminal::printable(text)),
            other => format!("{other}\n"),
        };
        self.find(document).into_iter().map(line).collect()
    }
}

impl Step {
    fn take<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        match self {
            Self::Field(name) => value.get(name).into_iter().collect(),
            Self::Index(index) => {
                let items = value.as_array().map_or(&[][..], Vec::as_slice);
                items.get(place(*index, items.len())).into_iter().collect()
            }
            Self::Slice(from, to) => {
                let items = value.as_array().map_or(&[][..], Vec::as_slice);
                let from = from.map_or(0, |from| place(from, items.len())).min(items.len());
                let to = to.map_or(items.len(), |to| place(to, items.len())).min(items.len());
                items.get(from..to).unwrap_or_default().iter().collect()
            }
            Self::All => children(value),
            Self::Descend => {
                let mut all = vec![value];
                all.extend(children(value).into_iter().flat_map(|child| self.take(child)));
                all
            }
            Self::Filter(path, test) => {
                let holds =
                    |item: &&Value| path.find(item).into_iter().any(|found| is_so(found, test.as_ref()));
                children(value).into_iter().filter(holds).collect()
            }
        }
    }
}

/// Counted from the end when negative; beyond the end when there is no such place.
fn place(index: i64, count: usize) -> usize {
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    let index =
        if index < 0 { (count + index).max(if index < -count { i64::MAX } else { 0 }) } else { index };
    usize::try_from(index).unwrap_or(usize::MAX)
}

fn children(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(items) => items.iter().collect(),
        Value::Object(fields) => fields.values().collect(),
        _ => Vec::new(),
    }
}

fn is_so(found: &Value, test: Option<&(Operator, Value)>) -> bool {
    let Some((operator, wanted)) = test else { return true };
    let order = order(found, wanted);
    match operator {
        Operator::Equal => order == Some(Ordering::Equal),
        Operator::NotEqual => order != Some(Ordering::Equal),
        Operator::Less => order == Some(Ordering::Less),
        Operator::LessOrEqual => matches!(order, Some(Ordering::Less | Ordering::Equal)),
        Operator::Greater => order == Some(Ordering::Greater),
        Operator::GreaterOrEqual => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
    }
}

/// Numbers by their value, also where proto3 JSON writes them as texts.
fn order(found: &Value, wanted: &Value) -> Option<Ordering> {
    let number = |value: &Value| value.as_f64().or_else(|| value.as_str()?.parse().ok());
    match (found, wanted) {
        (_, Value::Number(_)) => number(found)?.partial_cmp(&number(wanted)?),
        (Value::String(found), Value::String(wanted)) => Some(found.cmp(wanted)),
        _ => (found == wanted).then_some(Ordering::Equal),
    }
}

#[derive(Debug)]
struct Parser<'a> {
    rest: &'a str,
}

impl Parser<'_> {
    fn take(&mut self, token: &str) -> bool {
        let Some(rest) = self.rest.strip_prefix(token) else { return false };
        self.rest = rest;
        true
    }

    fn take_while(&mut self, is_part: impl Fn(char) -> bool) -> String {
        let end = self.rest.find(|char| !is_part(char)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken.to_owned()
    }

    fn expect(&mut self, token: &str) -> Result<(), String> {
        self.rest = self.rest.trim_start();
        if self.take(token) { Ok(()) } else { Err(format!("has no \"{token}\" before \"{}\"", self.rest)) }
    }

    fn path(&mut self) -> Result<JsonPath, String> {
        let mut steps = Vec::new();
        loop {
            if self.take("..") {
                steps.push(Step::Descend);
                if !self.rest.starts_with('[') {
                    steps.push(self.field()?);
                }
            } else if self.rest == "." {
                self.rest = "";
            } else if self.rest.starts_with(".[") {
                self.take(".");
            } else if self.take(".") {
                steps.push(self.field()?);
            } else if self.take("[") {
                steps.push(self.bracket()?);
            } else {
                return Ok(JsonPath(steps));
            }
        }
    }

    fn field(&mut self) -> Result<Step, String> {
        if self.take("*") {
            return Ok(Step::All);
        }
        match self.take_while(|char| char.is_alphanumeric() || char == '_' || char == '-') {
            name if name.is_empty() => Err(format!("has no name before \"{}\"", self.rest)),
            name => Ok(Step::Field(name)),
        }
    }

    fn bracket(&mut self) -> Result<Step, String> {
        let step = if self.take("*") {
            Step::All
        } else if self.rest.starts_with(['\'', '"']) {
            Step::Field(self.text()?)
        } else if self.take("?") {
            let with_parenthesis = self.take("(");
            self.expect("@")?;
            let path = self.path()?;
            self.rest = self.rest.trim_start();
            let test = if self.rest.starts_with([')', ']']) {
                None
            } else {
                Some((self.operator()?, self.literal()?))
            };
            if with_parenthesis {
                self.expect(")")?;
            }
            Step::Filter(path, test)
        } else {
            let first = self.number()?;
            if self.take(":") {
                Step::Slice(first, self.number()?)
            } else {
                Step::Index(first.ok_or_else(|| format!("has no index before \"{}\"", self.rest))?)
            }
        };
        self.expect("]")?;
        Ok(step)
    }

    fn number(&mut self) -> Result<Option<i64>, String> {
        match self.take_while(|char| char == '-' || char.is_ascii_digit()) {
            digits if digits.is_empty() => Ok(None),
            digits => digits.parse().map(Some).map_err(|_| format!("has no number at \"{digits}\"")),
        }
    }

    fn text(&mut self) -> Result<String, String> {
        let quote = if self.take("'") { '\'' } else { self.expect("\"").map(|()| '"')? };
        let text = self.take_while(|char| char != quote);
        self.expect(&quote.to_string())?;
        Ok(text)
    }

    fn operator(&mut self) -> Result<Operator, String> {
        const OPERATORS: [(&str, Operator); 6] = [
            ("==", Operator::Equal),
            ("!=", Operator::NotEqual),
            ("<=", Operator::LessOrEqual),
            (">=", Operator::GreaterOrEqual),
            ("<", Operator::Less),
            (">", Operator::Greater),
        ];
        let found = OPERATORS.into_iter().find(|(token, _)| self.rest.starts_with(token));
        let (token, operator) =
            found.ok_or_else(|| format!("has none of == != < <= > >= before \"{}\"", self.rest))?;
        self.take(token);
        self.rest = self.rest.trim_start();
        Ok(operator)
    }

    fn literal(&mut self) -> Result<Value, String> {
        if self.rest.starts_with(['\'', '"']) {
            return self.text().map(Value::String);
        }
        let word = self.take_while(|char| char.is_alphanumeric() || "+-._".contains(char));
        serde_json::from_str(&word)
            .map_err(|_| format!("has neither a number, true, false nor a quoted text at \"{word}\""))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn document() -> Value {
        json!({
            "replicas": [
                {"replicaId": "r-1", "weight": 100, "revision": "7", "labels": {"team": "web", "a.b/c": "x"}},
                {"replicaId": "r-2", "weight": 5, "revision": "12", "labels": {}},
                {"replicaId": "r-3", "weight": 1, "health": "HEALTHY"},
            ],
            "revision": "42",
        })
    }

    fn find(path: &str) -> String {
        path.parse::<JsonPath>().unwrap().lines(&document())
    }

    #[test]
    fn paths_find_what_they_name_in_every_spelling() {
        for (path, found) in [
            ("{.revision}", "42\n"),
            ("$.revision", "42\n"),
            ("revision", "42\n"),
            ("{.replicas[*].replicaId}", "r-1\nr-2\nr-3\n"),
            (".replicas[0].labels.team", "web\n"),
            (".replicas[0].labels['a.b/c']", "x\n"),
            (".replicas[-1].replicaId", "r-3\n"),
            (".replicas[1:].replicaId", "r-2\nr-3\n"),
            (".replicas[:-1].weight", "100\n5\n"),
            (".replicas[9].weight", ""),
            (".replicas[-9].weight", ""),
            ("..weight", "100\n5\n1\n"),
            (".replicas[0].labels.*", "x\nweb\n"),
            (".nothing[*].there", ""),
        ] {
            assert_eq!(find(path), found, "{path}");
        }
        assert!(find("$").starts_with("{\"replicas\":[{"), "{}", find("$"));
        assert_eq!(find("{.}"), find("$"));
    }

    #[test]
    fn filters_compare_numbers_by_value_also_where_they_are_texts() {
        for (path, found) in [
            (r#".replicas[?(@.replicaId=="r-2")].weight"#, "5\n"),
            (".replicas[?(@.replicaId!='r-2')].weight", "100\n1\n"),
            (".replicas[?(@.weight >= 5)].replicaId", "r-1\nr-2\n"),
            (".replicas[?@.revision > 8].replicaId", "r-2\n"),
            (".replicas[?(@.health)].replicaId", "r-3\n"),
            (".replicas[?(@.labels.team=='web')].replicaId", "r-1\n"),
        ] {
            assert_eq!(find(path), found, "{path}");
        }
    }

    #[test]
    fn what_is_no_path_is_refused_at_its_place() {
        for (path, why) in [
            (".a[", "has no index before \"\""),
            (".a[1", "has no \"]\" before \"\""),
            (".a['b]", "has no \"'\" before \"\""),
            (".a b", "cannot be read from \" b\" on"),
            (".a..", "has no name before \"\""),
            (".a[?(@.b ~ 1)]", "has none of == != < <= > >= before \"~ 1)]\""),
            (".a[?(@.b == x)]", "has neither a number"),
        ] {
            let refused = path.parse::<JsonPath>().unwrap_err();
            assert!(refused.contains(why), "{path}: {refused}");
        }
    }

    #[test]
    fn texts_cannot_smuggle_in_escape_sequences() {
        let path: JsonPath = ".a".parse().unwrap();
        assert_eq!(path.lines(&json!({"a": "\u{1b}[2Jx"})), "\\u{1b}[2Jx\n");
    }
}
