//! Heads of requests and responses as the pipeline reads and changes them, whichever protocol they came by.

pub(super) mod field_name;
pub(super) mod fields;
pub(super) mod forwarding;
pub(super) mod headers;
pub(super) mod hints;
pub(super) mod request_id;
pub(super) mod trace_context;

use http::{Method, StatusCode, Version};
use memchr::memchr;

use self::fields::{Fields, Span};
use crate::routes::Rewrite;

/// A request's head.
#[derive(Debug, Clone)]
pub(super) struct RequestHead {
    pub(super) method: Method,
    /// In which it came.
    pub(super) version: Version,
    target: Span,
    host: Option<Span>,
    /// What a client in HTTP/2 asks to switch its stream to.
    protocol: Option<Span>,
    pub(super) fields: Fields,
}

impl RequestHead {
    /// Of parts of the fields' block: `target` is UTF-8, a path and query, `*`, or empty if the request asks for a tunnel.
    pub(super) fn new(
        method: Method,
        version: Version,
        target: Span,
        host: Option<Span>,
        fields: Fields,
    ) -> Self {
        Self { method, version, target, host, protocol: None, fields }
    }

    /// The same of an extended CONNECT (RFC 8441), with a part of the fields' block that is its `:protocol`.
    pub(super) fn with_protocol(mut self, protocol: Option<Span>) -> Self {
        self.protocol = protocol;
        self
    }

    /// What a client in HTTP/2 asks to switch its stream to, if it does.
    pub(super) fn protocol(&self) -> Option<&[u8]> {
        self.protocol.map(|protocol| self.fields.text(protocol))
    }

    /// Path and query.
    pub(super) fn target(&self) -> &str {
        text(&self.fields, self.target)
    }

    /// As [`RequestHead::target`], as it is written.
    pub(super) fn target_bytes(&self) -> &[u8] {
        self.fields.text(self.target)
    }

    /// The target up to its query.
    pub(super) fn path(&self) -> &str {
        let target = self.target();
        &target[..memchr(b'?', target.as_bytes()).unwrap_or(target.len())]
    }

    /// The one host that the request names, with its port if it has one. Empty or absent if it names none.
    pub(super) fn host(&self) -> Option<&str> {
        self.host.map(|host| text(&self.fields, host))
    }

    /// As [`RequestHead::host`], as it is written.
    pub(super) fn host_bytes(&self) -> Option<&[u8]> {
        self.host.map(|host| self.fields.text(host))
    }

    /// As [`RequestHead::host`], where it lies.
    pub(super) fn host_span(&self) -> Option<Span> {
        self.host
    }

    /// Makes the target the one that replicas see, and yields what of its beginning they do not see, if there is any.
    ///
    /// # Panics
    /// When the target is not as long as what is cut off it, or cut in the middle of a character.
    pub(super) fn rewrite_target(&mut self, rewrite: Rewrite<'_>) -> Option<Span> {
        let Rewrite { stripped, prefix } = rewrite;
        let is_inside = |byte: &u8| (0x80..0xc0).contains(byte);
        assert!(
            !self.target_bytes()[stripped..].first().is_some_and(is_inside),
            "what is cut off a target is a part of it"
        );
        let range = self.target.range();
        let rest = Span::new(range.start + stripped..range.end);
        self.target = if prefix.is_empty() { rest } else { self.fields.store_copy(prefix.as_bytes(), rest) };
        (stripped > 0).then(|| Span::new(range.start..range.start + stripped))
    }
}

/// A response's head.
#[derive(Debug, Clone)]
pub(super) struct ResponseHead {
    pub(super) status: StatusCode,
    reason: Option<Span>,
    pub(super) fields: Fields,
}

impl ResponseHead {
    /// One with the status's own reason.
    pub(super) fn new(status: StatusCode, fields: Fields) -> Self {
        Self { status, reason: None, fields }
    }

    /// One with another reason, a part of the fields' block.
    pub(super) fn with_reason(status: StatusCode, reason: Span, fields: Fields) -> Self {
        Self { status, reason: Some(reason), fields }
    }

    /// What stands behind the status for people. Perhaps empty.
    pub(super) fn reason(&self) -> &[u8] {
        match self.reason {
            Some(reason) => self.fields.text(reason),
            None => self.status.canonical_reason().unwrap_or_default().as_bytes(),
        }
    }
}

fn text(fields: &Fields, span: Span) -> &str {
    str::from_utf8(fields.text(span)).expect("targets and hosts are UTF-8")
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head(target: &str) -> RequestHead {
        let mut fields = Fields::over(b"");
        let target = fields.store(target.as_bytes());
        RequestHead::new(Method::GET, Version::HTTP_11, target, None, fields)
    }

    #[test]
    fn a_stripped_target_begins_with_a_slash() {
        for (target, stripped) in [
            ("/orders", "/"),
            ("/orders/", "/"),
            ("/orders?x=1", "/?x=1"),
            ("/orders//a/../b?/c", "//a/../b?/c"),
            ("/orders/%2F%00?a=%20b", "/%2F%00?a=%20b"),
        ] {
            let mut head = head(target);
            let cut = head.rewrite_target(Rewrite::new(target, "/orders".len(), "")).unwrap();
            assert_eq!((head.target(), head.fields.text(cut)), (stripped, &b"/orders"[..]));
        }
    }

    proptest! {
        #[test]
        fn stripping_keeps_every_byte_behind_the_name(rest in "(/[!$&-;=@-Z_a-z~%]{0,20}){0,4}(\\?[!$&-;=?-Z_a-z~]{0,20})?") {
            let target = format!("/orders{rest}");
            let mut stripped = head(&target);
            stripped.rewrite_target(Rewrite::new(&target, "/orders".len(), ""));
            let expected = if rest.starts_with('/') { rest.clone() } else { format!("/{rest}") };
            prop_assert_eq!(stripped.target(), expected);
            let mut replaced = head(&target);
            replaced.rewrite_target(Rewrite::new(&target, "/orders".len(), "/v2"));
            prop_assert_eq!(replaced.target(), format!("/v2{rest}"));
            let mut longer = head(&target);
            prop_assert_eq!(longer.rewrite_target(Rewrite::new(&target, 0, "/v2")), None);
            prop_assert_eq!(longer.target(), format!("/v2{target}"));
        }
    }

    #[test]
    fn the_path_ends_where_the_query_begins() {
        assert_eq!(head("/a/b?c/d?e").path(), "/a/b");
        assert_eq!(head("*").path(), "*");
    }
}
