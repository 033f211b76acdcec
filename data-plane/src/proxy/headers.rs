//! Header fields that a gateway must remove, add or rewrite (RFC 9110 section 7.6).

use http::{
    HeaderMap, HeaderName, HeaderValue, Version,
    header::{CONNECTION, COOKIE, FORWARDED, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, VIA},
    request,
    uri::PathAndQuery,
};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(super) const X_GW_REPLICA: HeaderName = HeaderName::from_static("x-gw-replica");
pub(super) const X_GW_ATTEMPTS: HeaderName = HeaderName::from_static("x-gw-attempts");
/// What only this gateway may say to a replica begins with this.
const OWN_PREFIX: &str = "x-gw-";

/// Fields that concern one connection only, beside those that `Connection` names.
const HOP_BY_HOP: [HeaderName; 6] = [
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("proxy-authenticate"),
];

/// Longest request id taken over from a client.
const MAX_REQUEST_ID: usize = 128;

/// Where a request goes on to, and as whose request.
#[derive(Debug)]
pub(super) struct Onward<'a> {
    pub(super) client_ip: &'a HeaderValue,
    pub(super) via: &'a Via,
    pub(super) host: Option<HeaderValue>,
    pub(super) request_id: &'a HeaderValue,
    /// The path as the service sees it, and the prefix that was stripped for it.
    pub(super) target: PathAndQuery,
    pub(super) stripped_prefix: Option<HeaderValue>,
}

/// Makes a client's request head one to a replica.
///
/// Forwarding fields from outside are replaced: nobody is trusted to say who the client is.
pub(super) fn prepare_request(head: &mut request::Parts, onward: Onward<'_>) {
    strip_hop_by_hop(&mut head.headers);
    strip_own(&mut head.headers);
    if head.version == Version::HTTP_2 {
        join_cookies(&mut head.headers);
    }
    head.version = Version::HTTP_11;
    head.uri = onward.target.into();
    let headers = &mut head.headers;
    headers.remove(FORWARDED);
    headers.remove(X_FORWARDED_PREFIX);
    headers.insert(X_FORWARDED_FOR, onward.client_ip.clone());
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("http"));
    if let Some(host) = onward.host {
        headers.insert(X_FORWARDED_HOST, host.clone());
        headers.insert(HOST, host);
    } else {
        headers.remove(X_FORWARDED_HOST);
    }
    if let Some(prefix) = onward.stripped_prefix {
        headers.insert(X_FORWARDED_PREFIX, prefix);
    }
    headers.insert(X_REQUEST_ID, onward.request_id.clone());
    headers.append(VIA, onward.via.value.clone());
}

/// Makes a replica's response head one to the client.
pub(super) fn prepare_response(headers: &mut HeaderMap, via: &Via, request_id: &HeaderValue) {
    strip_hop_by_hop(headers);
    headers.append(VIA, via.value.clone());
    headers.insert(X_REQUEST_ID, request_id.clone());
}

/// Removes what concerns one connection only.
fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
            // Without these the message would be another one: they are not the connection's to name.
            .filter(|name| name != HOST && name != TRAILER && name != http::header::CONTENT_LENGTH)
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

/// Removes what only this gateway may say.
fn strip_own(headers: &mut HeaderMap) {
    let is_own = |name: &HeaderName| name.as_str().starts_with(OWN_PREFIX);
    if headers.keys().any(is_own) {
        let own: Vec<_> = headers.keys().filter(|name| is_own(name)).cloned().collect();
        for name in own {
            headers.remove(name);
        }
    }
}

/// HTTP/2 may split a cookie field, HTTP/1.1 must not (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let parts: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&parts.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}

/// The id under which a request is known everywhere: the client's if it is a sane one, else a new one.
pub(super) fn request_id(headers: &HeaderMap, random: impl FnOnce() -> u128) -> HeaderValue {
    let is_sane = |value: &&HeaderValue| {
        (1..=MAX_REQUEST_ID).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_graphic)
    };
    match headers.get(X_REQUEST_ID).filter(is_sane) {
        Some(value) => value.clone(),
        None => HeaderValue::from_str(&format!("{:032x}", random()))
            .expect("hexadecimal digits are a header value"),
    }
}

/// This gateway's name in `Via` fields.
#[derive(Debug, Clone)]
pub(super) struct Via {
    name: String,
    value: HeaderValue,
}

impl Via {
    /// The name is a label, so it is a token too.
    pub(super) fn new(node: &gateway_proto::NodeId) -> Self {
        let name = format!("gw-{node}");
        let value = HeaderValue::from_str(&format!("1.1 {name}")).expect("a label is a header value");
        Self { name, value }
    }

    /// The pseudonym.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether a message has passed here before.
    pub(super) fn is_in(&self, headers: &HeaderMap) -> bool {
        let hops = headers.get_all(VIA).iter().filter_map(|value| value.to_str().ok());
        hops.flat_map(|value| value.split(','))
            .any(|hop| hop.split_ascii_whitespace().nth(1) == Some(self.name.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use gateway_proto::NodeId;

    use super::*;

    fn map(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        headers
    }

    fn prepared(pairs: &[(&str, &str)], version: Version) -> HeaderMap {
        let (mut head, ()) = http::Request::builder().version(version).body(()).unwrap().into_parts();
        head.headers = map(pairs);
        let onward = Onward {
            client_ip: &HeaderValue::from_static("192.0.2.7"),
            via: &Via::new(&NodeId::parse("dp-1").unwrap()),
            host: Some(HeaderValue::from_static("example.com")),
            request_id: &HeaderValue::from_static("id-1"),
            target: PathAndQuery::from_static("/x"),
            stripped_prefix: Some(HeaderValue::from_static("/orders")),
        };
        prepare_request(&mut head, onward);
        head.headers
    }

    #[test]
    fn fields_of_one_connection_do_not_pass() {
        let headers = prepared(
            &[
                ("connection", "x-secret, close"),
                ("x-secret", "1"),
                ("keep-alive", "5"),
                ("proxy-connection", "keep-alive"),
                ("te", "gzip"),
                ("upgrade", "h2c"),
                ("transfer-encoding", "chunked"),
                ("accept", "*/*"),
            ],
            Version::HTTP_11,
        );
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        let expected = [
            "accept",
            "host",
            "via",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-prefix",
            "x-forwarded-proto",
            "x-request-id",
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn a_client_can_neither_forge_nor_strip_what_the_gateway_says() {
        let headers = prepared(
            &[
                ("connection", "x-forwarded-for, host, content-length"),
                ("x-forwarded-for", "10.0.0.1"),
                ("x-forwarded-host", "evil"),
                ("x-forwarded-prefix", "/evil"),
                ("forwarded", "for=10.0.0.1"),
                ("x-gw-replica", "evil"),
                ("content-length", "3"),
            ],
            Version::HTTP_11,
        );
        assert_eq!(headers.get_all("x-forwarded-for").iter().collect::<Vec<_>>(), ["192.0.2.7"]);
        assert_eq!(headers["x-forwarded-host"], "example.com");
        assert_eq!(headers["x-forwarded-prefix"], "/orders");
        assert_eq!(headers["content-length"], "3");
        assert!(!headers.contains_key("forwarded") && !headers.contains_key("x-gw-replica"));
    }

    #[test]
    fn cookies_split_by_http2_are_joined() {
        let headers = prepared(&[("cookie", "a=1"), ("cookie", "b=2")], Version::HTTP_2);
        assert_eq!(headers.get_all("cookie").iter().collect::<Vec<_>>(), ["a=1; b=2"]);
    }

    #[test]
    fn via_grows_and_shows_a_loop() {
        let via = Via::new(&NodeId::parse("dp-1").unwrap());
        let headers = prepared(&[("via", "1.0 other, 1.1 gw-dp-10")], Version::HTTP_11);
        assert!(via.is_in(&headers));
        assert_eq!(headers.get_all("via").iter().count(), 2);
        assert!(!via.is_in(&map(&[("via", "1.0 other, 1.1 gw-dp-10")])));
        assert!(via.is_in(&map(&[("via", "1.0 other, 2 gw-dp-1 (comment)")])));
    }

    #[test]
    fn a_sane_request_id_is_kept_and_any_other_replaced() {
        let id = |value: &str| request_id(&map(&[("x-request-id", value)]), || 7);
        assert_eq!(id("abc-1"), "abc-1");
        for insane in ["", "a b", &"x".repeat(129)] {
            assert_eq!(id(insane), "00000000000000000000000000000007", "{insane:?}");
        }
    }
}
