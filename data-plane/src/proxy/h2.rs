//! HTTP/2 from clients: the engine of [`gateway_http2`] speaks it over a [`transport`] on behalf of the [`server`], each request has a
//! task of its own ([`exchange`], [`inbound`], [`outgoing`]), an eye is kept on floods ([`flood`]), and [`heads`] are what the pipeline
//! has.

mod exchange;
mod flood;
mod heads;
mod inbound;
mod outgoing;
mod reading;
mod server;
mod transport;

use bytes::Bytes;
use gateway_http2::frame::{self, ErrorCode};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};

use super::{
    errors::GatewayError,
    h1::{HeadLimits, MAX_METHOD, is_host, is_path},
    head::{
        RequestHead,
        field_name::{Name, Names},
        fields::Fields,
        headers::join_cookies,
    },
};

pub(super) use flood::FloodGuard;
pub(super) use heads::{Head, Heading, ProxyHeads, RequestTo};
pub(super) use inbound::RequestStream;
pub(super) use outgoing::{OutgoingBody, Sent};
pub(super) use server::serve;
pub(super) use transport::Transport;

/// Fields that HTTP/2 has in no message (RFC 9113 section 8.2.2).
const CONNECTION_SPECIFIC: Names = Names::of(&[
    Name::Connection,
    Name::KeepAlive,
    Name::ProxyConnection,
    Name::TransferEncoding,
    Name::Upgrade,
]);

/// A request's head for the pipeline.
///
/// # Errors
/// When it is beyond these limits, as in HTTP/1, or cut because it was; when it has no valid path, or not exactly one valid host.
fn request_head(
    heading: Heading,
    method: &Method,
    is_cut: bool,
    limits: &HeadLimits,
) -> Result<RequestHead, GatewayError> {
    let Heading { mut fields, path, authority, protocol, size, .. } = heading;
    if method.as_str().len() > MAX_METHOD {
        return Err(GatewayError::BadRequest("the method is too long"));
    }
    if is_cut || fields.count() > limits.fields || size > limits.bytes {
        return Err(GatewayError::HeadTooLarge(*limits));
    }
    if path.is_some_and(|target| target.range().len() > limits.target) {
        return Err(GatewayError::TargetTooLong(*limits));
    }
    // First of all: routes and affinity go by them.
    join_cookies(&mut fields);
    let target = match path {
        // As in HTTP/1, which replicas are told it in.
        Some(target) if !is_path(method, fields.text(target)) => {
            return Err(GatewayError::BadRequest("the request's target is not valid"));
        }
        Some(target) => target,
        None if *method == Method::CONNECT && protocol.is_none() => fields.store(b""),
        None => return Err(GatewayError::BadRequest("the request has no path")),
    };
    if fields.get_all(Name::Host).nth(1).is_some() {
        return Err(GatewayError::BadRequest("the request has more than one Host field"));
    }
    // The authority stands for the field; if both are there, for one reader or the other it would be another host (section 8.3.1).
    let host = match (authority, fields.get(Name::Host)) {
        (Some(authority), Some(host)) if !fields.text(authority).eq_ignore_ascii_case(host) => {
            return Err(GatewayError::BadRequest("the request's authority and its Host field are two hosts"));
        }
        (authority, _) => authority.or_else(|| fields.span(Name::Host)),
    };
    let Some(host) = host else {
        return Err(GatewayError::BadRequest("the request has no Host field"));
    };
    if !is_host(fields.text(host)) {
        return Err(GatewayError::BadRequest("the request's host is not valid"));
    }
    // An extended CONNECT asks for what GET with Upgrade asks for in HTTP/1.1, which is how the replica is asked.
    let method = if protocol.is_some() { Method::GET } else { method.clone() };
    Ok(RequestHead::new(method, Version::HTTP_2, target, Some(host), fields).with_protocol(protocol))
}

/// Tells whoever began otherwise than with the preface of HTTP/2 that the connection ends (RFC 9113 section 3.4), behind what a
/// server says first in any case.
pub(super) fn no_preface() -> Vec<u8> {
    let mut frames = Vec::new();
    frame::write_settings(&mut frames, &[]);
    let why = "what came first is neither a request of HTTP/1 nor the preface of HTTP/2";
    frame::write_goaway(&mut frames, 0, ErrorCode::PROTOCOL_ERROR, why);
    frames
}

/// Fields of what the traits of bodies have behind a body.
pub(super) fn fields(map: &HeaderMap) -> Fields {
    let mut fields = Fields::over(b"");
    for (name, value) in map {
        fields.append_named(name, value);
    }
    fields
}

/// Fields as the traits of bodies have them behind a body.
pub(super) fn map(fields: &Fields) -> HeaderMap {
    let mut map = HeaderMap::with_capacity(fields.count());
    // One copy that all values are parts of, in place of one for each.
    let shared = Bytes::copy_from_slice(fields.block());
    for (known, name, value, is_sensitive) in fields.spans() {
        let name = match known {
            Some(known) => Ok(known.header_name()),
            None => HeaderName::from_bytes(fields.text(name)),
        };
        let value = HeaderValue::from_maybe_shared(shared.slice(value.range()));
        if let (Ok(name), Ok(mut value)) = (name, value) {
            value.set_sensitive(is_sensitive);
            map.append(name, value);
        }
    }
    map
}

#[cfg(test)]
mod tests {
    use gateway_http2::{Pseudo, Received};

    use super::*;

    fn head(
        pseudo: &[(Pseudo, &str)],
        fields: &[(&str, &str)],
        limits: HeadLimits,
    ) -> Result<RequestHead, GatewayError> {
        let mut heading = Heading::default();
        for (pseudo, value) in pseudo {
            heading.pseudo(*pseudo, value.as_bytes());
        }
        for (name, value) in fields {
            heading.field(name.as_bytes(), value.as_bytes(), None, false);
        }
        let method = heading.method();
        request_head(heading, &method, false, &limits)
    }

    #[test]
    fn a_cookie_that_came_in_parts_is_whole_before_anything_goes_by_it() {
        let pseudo = [(Pseudo::Method, "GET"), (Pseudo::Path, "/"), (Pseudo::Authority, "a")];
        let limits = HeadLimits { bytes: 200, fields: 3, target: 10 };
        let head = head(&pseudo, &[("cookie", "a=1"), ("cookie", "b=2")], limits).unwrap();
        let cookies: Vec<_> = head.fields.get_all(super::Name::Cookie).collect();
        assert_eq!(cookies, [b"a=1; b=2"]);
        assert!(!head.fields.is_sensitive(super::Name::Cookie));
    }

    #[test]
    fn a_request_names_one_host_and_a_path_in_it() {
        let limits = HeadLimits { bytes: 1000, fields: 3, target: 100 };
        let taken = |method: &str, target: &str, authority: Option<&str>, host: Option<&str>| {
            let mut pseudo = vec![(Pseudo::Method, method), (Pseudo::Path, target)];
            pseudo.extend(authority.map(|authority| (Pseudo::Authority, authority)));
            let fields: Vec<_> = host.into_iter().map(|host| ("host", host)).collect();
            head(&pseudo, &fields, limits).map(|head| head.host().map(str::to_owned))
        };
        assert_eq!(taken("GET", "/x?y", Some("A:1"), None), Ok(Some("A:1".into())));
        assert_eq!(taken("GET", "/x", Some("A:1"), Some("a:1")), Ok(Some("A:1".into())));
        assert_eq!(taken("OPTIONS", "*", Some("A:1"), None), Ok(Some("A:1".into())));
        assert_eq!(taken("GET", "/x", None, Some("a")), Ok(Some("a".into())));
        let two = GatewayError::BadRequest("the request's authority and its Host field are two hosts");
        for host in ["b", "a", "a:2", ""] {
            assert_eq!(taken("GET", "/x", Some("A:1"), Some(host)), Err(two.clone()), "{host}");
        }
        let refused = Err(GatewayError::BadRequest("the request's target is not valid"));
        for target in ["*", "/a b", "/a#b", "a", "http://b/"] {
            assert_eq!(taken("GET", target, Some("A:1"), None), refused, "{target}");
        }
        let nobody = Err(GatewayError::BadRequest("the request has no Host field"));
        assert_eq!(taken("GET", "/x", None, None), nobody);
    }

    #[test]
    fn a_head_has_the_limits_of_one_of_http_1() {
        let limits = HeadLimits { bytes: 130, fields: 3, target: 10 };
        let get = |method: &str, target: &str, fields: &[(&str, &str)]| {
            let pseudo = [(Pseudo::Method, method), (Pseudo::Path, target), (Pseudo::Authority, "a")];
            head(&pseudo, fields, limits).map(drop)
        };
        let long = |length: usize| format!("/{}", "x".repeat(length - 1));
        assert_eq!(get("GET", &long(10), &[("x", "1"); 3]), Ok(()));
        assert!(matches!(get("GET", &long(11), &[]), Err(GatewayError::TargetTooLong(_))));
        assert!(matches!(get("GET", "/", &[("x", "1"); 4]), Err(GatewayError::HeadTooLarge(_))));
        let large = get("GET", "/", &[("x", &"1".repeat(100))]);
        assert!(matches!(large, Err(GatewayError::HeadTooLarge(_))));
        let refused = get(&"M".repeat(33), "/", &[]);
        assert_eq!(refused, Err(GatewayError::BadRequest("the method is too long")));
    }

    #[test]
    fn whoever_began_otherwise_is_told_so_behind_what_a_server_says_first() {
        let told = no_preface();
        let [settings, goodbye] =
            [0, frame::HEAD].map(|at| frame::Head::parse(*told[at..].first_chunk().unwrap()));
        assert_eq!((settings.kind, settings.length), (frame::kind::SETTINGS, 0));
        assert_eq!((goodbye.kind, goodbye.stream), (frame::kind::GOAWAY, 0));
        assert_eq!(told.len(), 2 * frame::HEAD + goodbye.length as usize);
    }

    #[test]
    fn a_map_has_every_field_under_its_name() {
        let mut fields = Fields::default();
        for name in Name::ALL {
            fields.append(*name, b"1");
        }
        for (name, value) in [("X-Other", "2"), ("Via", "3"), ("x-other", "4")] {
            fields.append_other(name.as_bytes(), value.as_bytes());
        }
        let map = super::map(&fields);
        assert_eq!(map.len(), Name::ALL.len() + 3);
        for name in Name::ALL {
            assert_eq!(map.get(name.as_str()).expect("none is left out"), "1");
        }
        assert_eq!(map.get_all("via").iter().collect::<Vec<_>>(), ["1", "3"]);
        assert_eq!(map.get_all("x-other").iter().collect::<Vec<_>>(), ["2", "4"]);
    }
}
