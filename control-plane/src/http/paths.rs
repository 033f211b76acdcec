//! Which route a method and a path lead to. The library's matcher knows no verbs after a colon, so this is our own.

use http::Method;
use percent_encoding::percent_decode_str;

/// A path with places for fields: `/v1/services/{service}/replicas/{replica_id}:drain`.
#[derive(Debug)]
pub(super) struct Pattern {
    segments: Vec<Segment>,
    verb: Option<&'static str>,
}

#[derive(Debug)]
enum Segment {
    Literal(&'static str),
    /// The path of a field of the request.
    Field(&'static str),
    /// As [`Segment::Field`], of all that is left, slashes included: `{field=**}`.
    Rest(&'static str),
}

/// Where a request leads.
#[derive(Debug)]
pub(super) enum Found<'a, T> {
    /// To this, with the texts of the pattern's fields, in order.
    One(&'a T, Vec<String>),
    /// The path is known, under these methods only.
    OtherMethods(Vec<Method>),
    Nothing,
}

impl Pattern {
    /// Reads a template of the table.
    pub(super) fn parse(template: &'static str) -> Self {
        let (path, verb) = match template.rsplit_once(':') {
            Some((path, verb)) => (path, Some(verb)),
            None => (template, None),
        };
        let inner = |text: &'static str| text.strip_prefix('{')?.strip_suffix('}');
        let segment = |text: &'static str| match inner(text) {
            Some(field) => field.strip_suffix("=**").map_or(Segment::Field(field), Segment::Rest),
            None => Segment::Literal(text),
        };
        Self { segments: path.split('/').map(segment).collect(), verb }
    }

    /// The fields that are named in it, in order.
    pub(super) fn fields(&self) -> impl Iterator<Item = &'static str> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Field(field) | Segment::Rest(field) => Some(*field),
            Segment::Literal(_) => None,
        })
    }

    /// The texts of its fields in a path, as it was sent. Percent-encoding is undone after the path is taken apart, so
    /// that an encoded slash or colon is part of a name.
    fn texts(&self, path: &str) -> Option<Vec<String>> {
        let path = match self.verb {
            Some(verb) => path.strip_suffix(verb)?.strip_suffix(':')?,
            None => path,
        };
        let decoded = |text: &str| Some(percent_decode_str(text).decode_utf8().ok()?.into_owned());
        let mut left = Some(path);
        let mut texts = Vec::new();
        for segment in &self.segments {
            let path = left?;
            let (text, rest) = match path.split_once('/') {
                Some((text, rest)) => (text, Some(rest)),
                None => (path, None),
            };
            left = rest;
            match segment {
                Segment::Literal(literal) if text == *literal => {}
                // No name has a bare colon, so that an unknown verb is an unknown path and not an odd name.
                Segment::Field(_) if !text.is_empty() && !text.contains(':') => texts.push(decoded(text)?),
                Segment::Rest(_) if !path.is_empty() => {
                    left = None;
                    texts.push(decoded(path)?);
                }
                _ => return None,
            }
        }
        left.is_none().then_some(texts)
    }
}

/// Finds the one entry for a method and a path.
pub(super) fn find<'a, T>(
    entries: impl IntoIterator<Item = &'a T>,
    of: impl Fn(&T) -> (&Method, &Pattern),
    method: &Method,
    path: &str,
) -> Found<'a, T> {
    let mut others = Vec::new();
    for entry in entries {
        let (allowed, pattern) = of(entry);
        let Some(texts) = pattern.texts(path) else { continue };
        if allowed == method {
            return Found::One(entry, texts);
        }
        others.push(allowed.clone());
    }
    if others.is_empty() { Found::Nothing } else { Found::OtherMethods(others) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(template: &'static str, path: &str) -> Option<Vec<String>> {
        Pattern::parse(template).texts(path)
    }

    #[test]
    fn a_path_gives_its_fields_their_texts() {
        let template = "/v1/services/{service}/replicas/{replica_id}";
        assert_eq!(
            texts(template, "/v1/services/orders/replicas/r-1"),
            Some(vec!["orders".into(), "r-1".into()])
        );
        assert_eq!(Pattern::parse(template).fields().collect::<Vec<_>>(), ["service", "replica_id"]);
        assert_eq!(texts("/v1/policies/{service}", "/v1/policies/*"), Some(vec!["*".into()]));
    }

    #[test]
    fn a_verb_is_part_of_the_template_and_an_unknown_one_leads_nowhere() {
        let drain = "/v1/replicas/{replica_id}:drain";
        assert_eq!(texts(drain, "/v1/replicas/r-1:drain"), Some(vec!["r-1".into()]));
        for path in
            ["/v1/replicas/r-1", "/v1/replicas/r-1:drian", "/v1/replicas/:drain", "/v1/replicas/r:1:drain"]
        {
            assert_eq!(texts(drain, path), None, "{path}");
        }
        assert_eq!(texts("/v1/replicas/{replica_id}", "/v1/replicas/r-1:drain"), None);
        assert_eq!(texts("/v1/breakers:watch", "/v1/breakers:watch"), Some(vec![]));
    }

    #[test]
    fn the_rest_of_a_path_may_be_one_text() {
        let template = "/v1/overrides/{override_id=**}";
        for path in ["breaker/orders/r-1@dp:1", "breaker%2Forders/r-1@dp%3A1"] {
            let found = texts(template, &format!("/v1/overrides/{path}"));
            assert_eq!(found, Some(vec!["breaker/orders/r-1@dp:1".into()]));
        }
        assert_eq!(texts(template, "/v1/overrides/"), None);
        assert_eq!(texts(template, "/v1/overrides"), None);
        assert_eq!(Pattern::parse(template).fields().collect::<Vec<_>>(), ["override_id"]);
    }

    #[test]
    fn encoding_is_undone_within_a_segment_only() {
        let template = "/v1/overrides/{override_id}";
        assert_eq!(texts(template, "/v1/overrides/a%2Fb%3Ac"), Some(vec!["a/b:c".into()]));
        for path in
            ["/v1/overrides/%ff", "/v1/overrides/a/b", "/v1/overrides/", "/v1/overrides/a/", "/v1//a", ""]
        {
            assert_eq!(texts(template, path), None, "{path}");
        }
    }

    #[test]
    fn a_known_path_under_another_method_tells_which_it_takes() {
        let entries = [Method::GET, Method::PATCH, Method::PUT]
            .map(|method| (method, Pattern::parse("/v1/policies/{service}")));
        let find = |method: &Method, path: &str| match find(&entries, |(m, p)| (m, p), method, path) {
            Found::One((method, _), texts) => format!("{method} {texts:?}"),
            Found::OtherMethods(methods) => format!("{methods:?}"),
            Found::Nothing => "nothing".to_owned(),
        };
        assert_eq!(find(&Method::PATCH, "/v1/policies/orders"), r#"PATCH ["orders"]"#);
        assert_eq!(find(&Method::POST, "/v1/policies/orders"), "[GET, PATCH, PUT]");
        assert_eq!(find(&Method::GET, "/v1/policies"), "nothing");
    }
}
