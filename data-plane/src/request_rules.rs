//! Which requests a service lets through, by its policy: pure, so that what is refused can be told without a connection.
//!
//! A head is judged at once, before any replica is picked. A body is judged as it passes, in any pieces, with memory that
//! does not grow with it; the caller decides how much of it to hold back until the judgement is whole.

mod json;

use gateway_proto::policy::{Methods, RequestRules};
use http::Method;

use crate::header_fields::{HeaderFields, Said};
use json::JsonText;
pub use json::NotJson;

/// Why a request is not let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breach {
    /// Its method is not among these.
    Method {
        /// Those that are let through.
        allowed: Methods,
    },
    /// Its body is not said to be JSON in a form that can be looked into.
    MediaType(&'static str),
    /// Its body is said to be JSON and is not.
    NotJson(NotJson),
    /// Its body is longer than this.
    TooLarge {
        /// The most bytes.
        max: u64,
    },
}

/// Judges a head. How many bytes follow it is for the framing to say: `Some(0)` when there is no body, `None` when that
/// shows only at its end.
///
/// # Errors
/// The first [`Breach`]: the method, then what is said of the body's length, then its type.
#[inline]
pub fn check_head(
    rules: &RequestRules,
    method: &Method,
    fields: &dyn HeaderFields,
    length: Option<u64>,
) -> Result<(), Breach> {
    if !rules.methods.has(method.as_str()) {
        return Err(Breach::Method { allowed: rules.methods });
    }
    if length.is_some_and(|length| length > rules.max_body_bytes) {
        return Err(Breach::TooLarge { max: rules.max_body_bytes });
    }
    let looks_inside = rules.json_only && length != Some(0);
    if looks_inside { check_media_type(fields).map_err(Breach::MediaType) } else { Ok(()) }
}

fn check_media_type(fields: &dyn HeaderFields) -> Result<(), &'static str> {
    let media_type = match fields.said("content-type") {
        Said::Nothing => return Err("the body has no Content-Type"),
        Said::Once(media_type) => str::from_utf8(media_type).map_err(|_| "the Content-Type is not text")?,
        Said::Several => return Err("the body has more than one Content-Type"),
    };
    let mut parts = media_type.split(';').map(str::trim);
    if !parts.next().is_some_and(is_json) {
        return Err("the Content-Type is not application/json and does not end in +json");
    }
    // RFC 8259 knows one encoding and no parameter for it; many clients name it all the same.
    let is_utf8 = |charset: &str| charset.trim_matches('"').eq_ignore_ascii_case("utf-8");
    let of = |part: &'static str| move |text: &str| text.eq_ignore_ascii_case(part);
    let mut charsets =
        parts.filter_map(|part| part.split_once('=')).filter(|(name, _)| of("charset")(name.trim()));
    if !charsets.all(|(_, charset)| is_utf8(charset.trim())) {
        return Err("JSON is in UTF-8 and no other charset");
    }
    match fields.said("content-encoding") {
        Said::Nothing => Ok(()),
        Said::Once(coding) if coding.eq_ignore_ascii_case(b"identity") => Ok(()),
        Said::Once(_) | Said::Several => Err("a body with a Content-Encoding cannot be looked into"),
    }
}

/// Whether a media type, without parameters, is JSON's own or one with its structured suffix (RFC 6839).
fn is_json(media_type: &str) -> bool {
    let Some((top, subtype)) = media_type.split_once('/') else { return false };
    let suffix = subtype.len().checked_sub("+json".len()).and_then(|at| subtype.get(at..));
    let has_suffix = subtype.len() > "+json".len()
        && suffix.is_some_and(|suffix| suffix.eq_ignore_ascii_case("+json"))
        && !top.is_empty();
    has_suffix || (top.eq_ignore_ascii_case("application") && subtype.eq_ignore_ascii_case("json"))
}

/// Judges a body, piece by piece.
#[derive(Debug)]
pub struct BodyCheck {
    max: u64,
    left: u64,
    json: Option<JsonText>,
}

impl BodyCheck {
    /// For one body, from its first byte.
    pub fn new(rules: &RequestRules) -> Self {
        let json = rules.json_only.then(JsonText::default);
        Self { max: rules.max_body_bytes, left: rules.max_body_bytes, json }
    }

    /// Whether the body cannot be judged by its length alone.
    pub fn looks_inside(&self) -> bool {
        self.json.is_some()
    }

    /// The next piece.
    ///
    /// # Errors
    /// The [`Breach`] at which the body ends; whoever goes on is told nothing more of it.
    #[inline]
    pub fn piece(&mut self, bytes: &[u8]) -> Result<(), Breach> {
        self.left = self.left.checked_sub(bytes.len() as u64).ok_or(Breach::TooLarge { max: self.max })?;
        match &mut self.json {
            Some(json) => json.piece(bytes).map_err(Breach::NotJson),
            None => Ok(()),
        }
    }

    /// There is no more.
    ///
    /// # Errors
    /// [`Breach::NotJson`] when something must follow. A body without a byte is no body, and passes.
    pub fn end(&self) -> Result<(), Breach> {
        match &self.json {
            Some(json) if self.left < self.max => json.end().map_err(Breach::NotJson),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::*;

    fn rules(methods: &[&str], json_only: bool, max_body_bytes: u64) -> RequestRules {
        let methods = Methods::parse(methods.iter().copied()).unwrap();
        RequestRules { methods, json_only, max_body_bytes, ..RequestRules::default() }
    }

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let field = |(name, value): &(&'static str, &'static str)| {
            (http::HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        fields.iter().map(field).collect()
    }

    #[test]
    fn without_a_policy_everything_is_let_through() {
        let odd = headers(&[("content-type", "text/plain")]);
        for method in ["GET", "POST", "TRACE", "X-CUSTOM"] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            assert_eq!(check_head(&RequestRules::default(), &method, &odd, Some(123_456_789)), Ok(()));
        }
    }

    #[test]
    fn a_method_is_let_through_by_its_own_name_only() {
        let rules = rules(&["GET", "POST"], false, 10);
        assert_eq!(check_head(&rules, &Method::GET, &headers(&[]), Some(0)), Ok(()));
        for other in ["HEAD", "get", "X-CUSTOM", "GETS"] {
            let method = Method::from_bytes(other.as_bytes()).unwrap();
            let breach = check_head(&rules, &method, &headers(&[]), Some(0));
            assert_eq!(breach, Err(Breach::Method { allowed: rules.methods }), "{other}");
        }
    }

    #[test]
    fn a_length_is_refused_when_it_is_above_the_limit_and_not_at_it() {
        let rules = rules(&["*"], true, 10);
        let json = ("content-type", "application/json");
        let at = |length| check_head(&rules, &Method::POST, &headers(&[json]), length);
        assert_eq!(at(Some(10)), Ok(()));
        assert_eq!(at(Some(11)), Err(Breach::TooLarge { max: 10 }));
        assert_eq!(at(Some(u64::MAX)), Err(Breach::TooLarge { max: 10 }));
        assert_eq!(at(None), Ok(()), "it is counted as it comes");
    }

    #[test]
    fn bodies_that_are_json_are_told_by_their_type() {
        let rules = rules(&["*"], true, 10);
        let of = |fields: &[_]| check_head(&rules, &Method::POST, &headers(fields), None).is_ok();
        for good in [
            "application/json",
            "Application/JSON ; charset=UTF-8",
            "application/json;charset=\"utf-8\";version=1",
            "application/problem+json",
            "text/x+JSON",
        ] {
            assert!(of(&[("content-type", good)]), "{good}");
        }
        for bad in [
            "",
            "json",
            "text/json",
            "text/plain",
            "application/jsonp",
            "application/x-ndjson",
            "application/+json",
            "/x+json",
            "application/json, text/plain",
            "application/json; charset=latin-1",
            "application/x-www-form-urlencoded",
        ] {
            assert!(!of(&[("content-type", bad)]), "{bad}");
        }
        let json = ("content-type", "application/json");
        assert!(!of(&[]) && !of(&[json, json]));
        assert!(of(&[json, ("content-encoding", "identity")]));
        assert!(!of(&[json, ("content-encoding", "gzip")]));
        assert!(!of(&[json, ("content-encoding", "identity"), ("content-encoding", "gzip")]));
        assert_eq!(check_head(&rules, &Method::GET, &headers(&[]), Some(0)), Ok(()), "there is no body");
    }

    #[test]
    fn a_body_is_counted_to_the_byte_in_any_pieces() {
        for pieces in [&[10, 0][..], &[4, 6], &[1, 1, 1, 7]] {
            let mut check = BodyCheck::new(&rules(&["*"], false, 10));
            for piece in pieces {
                assert_eq!(check.piece(&vec![b'x'; *piece]), Ok(()));
            }
            assert_eq!(check.end(), Ok(()));
            assert_eq!(check.piece(b"x"), Err(Breach::TooLarge { max: 10 }));
        }
        assert_eq!(BodyCheck::new(&rules(&["*"], false, 0)).end(), Ok(()));
    }

    #[test]
    fn a_body_that_is_not_json_is_refused_where_that_shows_and_one_of_no_bytes_is_not() {
        let mut check = BodyCheck::new(&rules(&["*"], true, 100));
        assert_eq!(check.end(), Ok(()));
        assert_eq!(check.piece(b"{\"a\":"), Ok(()));
        assert!(matches!(check.end(), Err(Breach::NotJson(_))));
        assert_eq!(check.piece(b"1}"), Ok(()));
        assert_eq!(check.end(), Ok(()));
        let breach = check.piece(b" }").unwrap_err();
        assert!(matches!(breach, Breach::NotJson(NotJson { at: 8, .. })), "{breach:?}");
    }
}
