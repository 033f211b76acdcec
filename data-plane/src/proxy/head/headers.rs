//! Header fields that a gateway must remove, add or rewrite (RFC 9110 section 7.6).

use std::{collections::HashSet, time::Duration};

use http::Version;

use super::{
    RequestHead,
    field_name::{Name, Names},
    fields::{Fields, ReadyLine},
    forwarding::{self, FORWARDING, Peer},
    request_id::RequestId,
    trace_context,
};
use crate::{proxy::h1::number, routes::Rewrite};

/// What only this gateway may say to a replica begins with this.
const OWN_PREFIX: &[u8] = b"x-gw-";

/// Fields that concern one connection only, beside those that `Connection` names.
const HOP_BY_HOP: Names = Names::of(&[
    Name::Connection,
    Name::KeepAlive,
    Name::ProxyAuthenticate,
    Name::ProxyConnection,
    Name::Te,
    Name::TransferEncoding,
    Name::Upgrade,
]);

/// Without these the message would be another one, or its sender: they are not the connection's to name.
const NOT_TO_BE_NAMED: Names =
    Names::of(&[Name::Host, Name::Trailer, Name::ContentLength, Name::Traceparent, Name::Tracestate])
        .with(FORWARDING);

/// What a trailer section may not say, because it is too late for it, or the gateway's to say (RFC 9110 section 6.5.1).
const NOT_BEHIND_A_BODY: Names = Names::of(&[
    Name::ContentLength,
    Name::ContentType,
    Name::Cookie,
    Name::Date,
    Name::Expect,
    Name::Host,
    Name::ProxyStatus,
    Name::RetryAfter,
    Name::Trailer,
    Name::Via,
]);
const CREDENTIALS: [&[u8]; 5] =
    [b"authorization", b"proxy-authorization", b"set-cookie", b"content-encoding", b"content-range"];

/// Where a request goes on to, and as whose request.
#[derive(Debug)]
pub(in crate::proxy) struct Onward<'a> {
    pub(in crate::proxy) peer: Peer<'a>,
    /// Whether the replica is told by `Forwarded`, too.
    pub(in crate::proxy) writes_forwarded: bool,
    pub(in crate::proxy) via: &'a Via,
    pub(in crate::proxy) request_id: &'a RequestId,
    /// What becomes of the target, if it does not stay as it is.
    pub(in crate::proxy) rewrite: Option<Rewrite<'a>>,
}

/// Makes a client's request head one to a replica.
pub(in crate::proxy) fn prepare_request(head: &mut RequestHead, onward: &Onward<'_>) {
    let fields = &mut head.fields;
    strip_hop_by_hop(fields);
    strip_own(fields);
    if head.version < Version::HTTP_11 {
        // It means nothing there (RFC 9110 section 10.1.1).
        fields.remove(Names::of(&[Name::Expect]));
    }
    trace_context::settle(fields);
    settle_host(head);
    let prefix = onward.rewrite.and_then(|rewrite| head.rewrite_target(rewrite));
    forwarding::tell(head, onward.peer, onward.writes_forwarded, prefix);
    let fields = &mut head.fields;
    onward.request_id.append_to(fields);
    fields.append_ready(&onward.via.line);
}

/// Makes a replica's response head one to the client.
pub(in crate::proxy) fn prepare_response(fields: &mut Fields, via: &Via, request_id: &RequestId) {
    strip_hop_by_hop(fields);
    fields.append_ready(&via.line);
    fields.remove(Names::of(&[Name::XRequestId]));
    request_id.append_to(fields);
}

/// Tells who debugs how long this gateway took, and how long replicas did, to their response heads.
pub(in crate::proxy) fn show_times(fields: &mut Fields, own: Duration, upstream: Duration) {
    let millis = |time: Duration| time.as_secs_f64() * 1000.0;
    let value = format!("gw;dur={:.3}, upstream;dur={:.3}", millis(own), millis(upstream));
    fields.append_other(b"server-timing", value.as_bytes());
}

/// Makes a replica's interim response head one to the client.
pub(in crate::proxy) fn prepare_interim(fields: &mut Fields) {
    strip_hop_by_hop(fields);
    strip_own(fields);
    fields.remove(Names::of(&[Name::ContentLength]));
}

/// Removes from a trailer section what does not pass.
pub(in crate::proxy) fn prepare_trailers(fields: &mut Fields) {
    fields.remove(HOP_BY_HOP);
    fields.remove(FORWARDING);
    fields.remove(NOT_BEHIND_A_BODY);
    strip_own(fields);
    fields.retain(|name| !CREDENTIALS.iter().any(|other| name.eq_ignore_ascii_case(other)));
}

/// A number of seconds (RFC 9111 section 1.2.2): more than there can be is the most there can be.
pub(in crate::proxy) fn delta_seconds(text: &[u8]) -> Option<Duration> {
    let is_one = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    is_one.then(|| Duration::from_secs(number(text).unwrap_or(u64::MAX)))
}

/// Whether the sender holds the body back until it is told to go on (RFC 9110 section 10.1.1).
pub(in crate::proxy) fn expects_continue(fields: &Fields) -> bool {
    fields.list(Name::Expect).any(|expected| expected.eq_ignore_ascii_case(b"100-continue"))
}

/// Has the Host field say what the request's host is: the target's goes before the field's own.
fn settle_host(head: &mut RequestHead) {
    match head.host_span() {
        Some(host) if head.fields.get(Name::Host) == Some(head.fields.text(host)) => {}
        Some(host) => {
            head.fields.remove(Names::of(&[Name::Host]));
            head.fields.append_copy(Name::Host, host);
        }
        // HTTP/1.0 may leave it out, and goes on as HTTP/1.1, which may not (RFC 9112 section 3.2).
        None => head.fields.set(Name::Host, b""),
    }
}

/// Removes what concerns one connection only.
fn strip_hop_by_hop(fields: &mut Fields) {
    let is_plain = |option: &[u8]| {
        let known = Name::of(option);
        option.eq_ignore_ascii_case(b"close")
            || known.is_some_and(|name| HOP_BY_HOP.contains(name) || NOT_TO_BE_NAMED.contains(name))
    };
    // Nearly every head that has one says one of these alone, which need not be taken apart.
    let is_usual =
        |value: &[u8]| value.eq_ignore_ascii_case(b"keep-alive") || value.eq_ignore_ascii_case(b"close");
    if !fields.get_all(Name::Connection).all(is_usual)
        && fields.list(Name::Connection).any(|option| !is_plain(option))
    {
        // A set, because both lists come from outside.
        let named: HashSet<Vec<u8>> = fields
            .list(Name::Connection)
            .filter(|option| !is_plain(option))
            .map(<[u8]>::to_ascii_lowercase)
            .collect();
        fields.retain(|name| !named.contains(&name.to_ascii_lowercase()));
    }
    fields.remove(HOP_BY_HOP);
}

/// Removes what only this gateway may say, and what a replica could take for it: many read names as variables of CGI
/// (RFC 3875 section 4.1.18), in which `X_Forwarded_For` and `X-Forwarded-For` are one.
pub(in crate::proxy) fn strip_own(fields: &mut Fields) {
    let is_own_name = |name: &[u8]| {
        name.get(..OWN_PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(OWN_PREFIX))
    };
    let is_own = |name: &[u8]| {
        // All of them begin so, and hardly any other has an underscore.
        if !matches!(name, [b'x' | b'X', b'-' | b'_', ..]) || !name.contains(&b'_') {
            return is_own_name(name);
        }
        let dashed: Vec<u8> = name.iter().map(|byte| if *byte == b'_' { b'-' } else { *byte }).collect();
        is_own_name(&dashed) || Name::of(&dashed).is_some_and(|name| FORWARDING.contains(name))
    };
    if fields.has_x() && fields.iter().any(|(name, _)| is_own(name)) {
        fields.retain(|name| !is_own(name));
    }
}

/// HTTP/2 may split a cookie field, HTTP/1.1 must not (RFC 9113 section 8.2.3).
pub(in crate::proxy) fn join_cookies(fields: &mut Fields) {
    if fields.get_all(Name::Cookie).nth(1).is_some() {
        let parts: Vec<&[u8]> = fields.get_all(Name::Cookie).collect();
        let joined = parts.join(&b"; "[..]);
        let is_sensitive = fields.is_sensitive(Name::Cookie);
        fields.remove(Names::of(&[Name::Cookie]));
        fields.append_decoded(Some(Name::Cookie), Name::Cookie.as_str().as_bytes(), &joined, is_sensitive);
    }
}

/// This gateway's name in `Via` fields.
#[derive(Debug, Clone)]
pub(in crate::proxy) struct Via {
    name: String,
    line: ReadyLine,
}

impl Via {
    /// The name is a label, so it is a token too.
    pub(in crate::proxy) fn new(node: &gateway_proto::NodeId) -> Self {
        let name = format!("gw-{node}");
        let line = ReadyLine::new(Name::Via, &format!("1.1 {name}"));
        Self { name, line }
    }

    /// The pseudonym.
    pub(in crate::proxy) fn name(&self) -> &str {
        &self.name
    }

    /// Whether a message has passed here before.
    pub(in crate::proxy) fn is_in(&self, fields: &Fields) -> bool {
        fields.list(Name::Via).any(|hop| {
            let mut parts = hop.split(|byte| matches!(byte, b' ' | b'\t')).filter(|part| !part.is_empty());
            parts.nth(1) == Some(self.name.as_bytes())
        })
    }
}

#[cfg(test)]
mod tests {
    use gateway_proto::NodeId;
    use http::Method;

    use super::*;
    use crate::proxy::head::fields::Span;

    fn fields(pairs: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::default();
        for (name, value) in pairs {
            fields.append_other(name.as_bytes(), value.as_bytes());
        }
        fields
    }

    fn prepared(pairs: &[(&str, &str)], version: Version, host: Option<&str>) -> RequestHead {
        let mut fields = fields(pairs);
        let target = fields.store(b"/orders/x");
        let host: Option<Span> = host.map(|host| fields.store(host.as_bytes()));
        let mut head = RequestHead::new(Method::GET, version, target, host, fields);
        let onward = Onward {
            peer: Peer { ip: "192.0.2.7", scheme: "http", is_trusted: false },
            writes_forwarded: false,
            via: &Via::new(&NodeId::parse("dp-1").unwrap()),
            request_id: &RequestId::new(1),
            rewrite: Some(Rewrite::new("/orders/x", "/orders".len(), "")),
        };
        prepare_request(&mut head, &onward);
        head
    }

    fn names(head: &RequestHead) -> Vec<&str> {
        let mut names: Vec<_> = head.fields.iter().map(|(name, _)| str::from_utf8(name).unwrap()).collect();
        names.sort_unstable();
        names
    }

    fn all<'a>(head: &'a RequestHead, name: &str) -> Vec<&'a str> {
        head.fields.get_all_named(name).map(|value| str::from_utf8(value).unwrap()).collect()
    }

    #[test]
    fn what_a_replica_could_take_for_the_gateways_own_word_does_not_pass() {
        let pairs = [
            ("X_Forwarded_For", "203.0.113.1"),
            ("x-forwarded_for", "203.0.113.1"),
            ("X_FORWARDED-HOST", "evil"),
            ("x_request_id", "1"),
            ("x_gw_replica", "1"),
            ("X-Gw_Replica", "1"),
            ("x_trace_id", "kept"),
            ("my_forwarded_for", "kept"),
        ];
        let head = prepared(&pairs, Version::HTTP_11, Some("gw"));
        let left: Vec<_> = names(&head).into_iter().filter(|name| name.contains('_')).collect();
        assert_eq!(left, ["my_forwarded_for", "x_trace_id"]);
        assert_eq!(all(&head, "x-forwarded-for"), ["192.0.2.7"]);
    }

    #[test]
    fn fields_of_one_connection_do_not_pass() {
        let head = prepared(
            &[
                ("connection", "x-secret, close"),
                ("X-Secret", "1"),
                ("keep-alive", "5"),
                ("proxy-connection", "keep-alive"),
                ("te", "gzip"),
                ("upgrade", "h2c"),
                ("transfer-encoding", "chunked"),
                ("accept", "*/*"),
            ],
            Version::HTTP_11,
            Some("example.com"),
        );
        let expected = [
            "accept",
            "host",
            "via",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-port",
            "x-forwarded-prefix",
            "x-forwarded-proto",
            "x-request-id",
        ];
        assert_eq!(names(&head), expected);
        assert_eq!(head.target(), "/x");
    }

    #[test]
    fn a_client_can_neither_forge_nor_strip_what_the_gateway_says() {
        let head = prepared(
            &[
                ("connection", "x-forwarded-for, host, content-length"),
                ("x-forwarded-for", "10.0.0.1"),
                ("x-forwarded-host", "evil"),
                ("x-forwarded-prefix", "/evil"),
                ("x-forwarded-port", "22"),
                ("forwarded", "for=10.0.0.1"),
                ("X-GW-replica", "evil"),
                ("x-gw-", "evil"),
                ("content-length", "3"),
                ("host", "example.com"),
            ],
            Version::HTTP_11,
            Some("example.com"),
        );
        assert_eq!(all(&head, "x-forwarded-for"), ["192.0.2.7"]);
        assert_eq!(all(&head, "x-forwarded-host"), ["example.com"]);
        assert_eq!(all(&head, "x-forwarded-port"), ["80"]);
        assert_eq!(all(&head, "x-forwarded-prefix"), ["/orders"]);
        assert_eq!(all(&head, "content-length"), ["3"]);
        assert_eq!(all(&head, "host"), ["example.com"]);
        assert!(!head.fields.contains(Name::Forwarded));
        assert!(!head.fields.iter().any(|(name, _)| name.to_ascii_lowercase().starts_with(b"x-gw-")));
    }

    #[test]
    fn the_targets_host_goes_before_the_field_and_one_that_is_missing_is_said_to_be() {
        let head = prepared(&[("host", "a"), ("accept", "*")], Version::HTTP_11, Some("b"));
        assert_eq!((all(&head, "host"), all(&head, "x-forwarded-host")), (vec!["b"], vec!["b"]));
        let head = prepared(&[], Version::HTTP_10, None);
        assert_eq!((all(&head, "host"), all(&head, "x-forwarded-host")), (vec![""], vec![]));
    }

    #[test]
    fn trailers_carry_nothing_that_belongs_in_front_of_a_body() {
        let mut trailers = fields(&[
            ("grpc-status", "0"),
            ("Content-Length", "3"),
            ("transfer-encoding", "chunked"),
            ("authorization", "me"),
            ("x-forwarded-for", "me"),
            ("x-gw-replica", "me"),
            ("x-sum", "1"),
        ]);
        prepare_trailers(&mut trailers);
        let names: Vec<_> = trailers.iter().map(|(name, _)| name).collect();
        assert_eq!(names, [&b"grpc-status"[..], b"x-sum"]);
    }

    #[test]
    fn via_grows_and_shows_a_loop() {
        let via = Via::new(&NodeId::parse("dp-1").unwrap());
        let head = prepared(&[("via", "1.0 other, 1.1 gw-dp-10")], Version::HTTP_11, Some("a"));
        assert!(via.is_in(&head.fields));
        assert_eq!(all(&head, "via"), ["1.0 other, 1.1 gw-dp-10", "1.1 gw-dp-1"]);
        assert!(!via.is_in(&fields(&[("via", "1.0 other, 1.1 gw-dp-10")])));
        assert!(via.is_in(&fields(&[("via", "1.0 other, 2 gw-dp-1 (comment)")])));
    }
}
