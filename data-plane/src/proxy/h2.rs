//! HTTP/2 from clients: the library h2 is the engine that speaks it ([`server`]), each request has a task of its own
//! ([`exchange`], [`inbound`], [`outgoing`]), an eye is kept on floods ([`guarded`], [`flood`], [`frames`]), and heads go between what the engine
//! and the pipeline have.

mod exchange;
mod flood;
mod frames;
mod guarded;
mod inbound;
mod outgoing;
mod server;

use bytes::Bytes;
use h2::ext::Protocol;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, Version, request};

use super::{
    errors::GatewayError,
    h1::{HeadLimits, MAX_METHOD, is_host, is_path},
    head::{
        RequestHead, ResponseHead,
        field_name::{Name, Names},
        fields::Fields,
        headers::join_cookies,
    },
};

pub(super) use frames::no_preface;
pub(super) use inbound::RequestStream;
pub(super) use outgoing::{OutgoingBody, Sent};
pub(super) use server::serve;

/// What each field of a head counts for beside its bytes.
const FIELD_OVERHEAD: usize = 32;
/// Of a larger head than this, no value keeps the whole: the engine's table of what it has said before keeps some sixty of them for as long
/// as a connection lasts, and counts each by its own length.
const MAX_SHARED: usize = 256;
/// Room for what is added to a map.
const MORE_FIELDS: usize = 4;
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
/// When it is beyond these limits, as in HTTP/1; when it has no valid path, or not exactly one valid host.
fn request_head(parts: &request::Parts, limits: &HeadLimits) -> Result<RequestHead, GatewayError> {
    if parts.method.as_str().len() > MAX_METHOD {
        return Err(GatewayError::BadRequest("the method is too long"));
    }
    if parts.headers.len() > limits.fields || list_size(parts) > limits.bytes {
        return Err(GatewayError::HeadTooLarge(*limits));
    }
    if parts.uri.path_and_query().is_some_and(|target| target.as_str().len() > limits.target) {
        return Err(GatewayError::TargetTooLong(*limits));
    }
    let mut fields = fields(&parts.headers);
    // First of all: routes and affinity go by them.
    join_cookies(&mut fields);
    let protocol = parts.extensions.get::<Protocol>().filter(|_| parts.method == Method::CONNECT);
    let target = match parts.uri.path_and_query() {
        // As in HTTP/1, which replicas are told it in.
        Some(target) if !is_path(&parts.method, target.as_str().as_bytes()) => {
            return Err(GatewayError::BadRequest("the request's target is not valid"));
        }
        Some(target) => fields.store(target.as_str().as_bytes()),
        None if parts.method == Method::CONNECT && protocol.is_none() => fields.store(b""),
        None => return Err(GatewayError::BadRequest("the request has no path")),
    };
    if fields.get_all(Name::Host).nth(1).is_some() {
        return Err(GatewayError::BadRequest("the request has more than one Host field"));
    }
    // The authority stands for the field; if both are there, for one reader or the other it would be another host (section 8.3.1).
    let host = match (parts.uri.authority(), fields.get(Name::Host)) {
        (Some(authority), Some(host)) if !authority.as_str().as_bytes().eq_ignore_ascii_case(host) => {
            return Err(GatewayError::BadRequest("the request's authority and its Host field are two hosts"));
        }
        (Some(authority), _) => Some(fields.store(authority.as_str().as_bytes())),
        (None, _) => fields.span(Name::Host),
    };
    if host.is_none() && parts.version >= Version::HTTP_11 {
        return Err(GatewayError::BadRequest("the request has no Host field"));
    }
    if !host.is_none_or(|host| is_host(fields.text(host))) {
        return Err(GatewayError::BadRequest("the request's host is not valid"));
    }
    // An extended CONNECT asks for what GET with Upgrade asks for in HTTP/1.1, which is how the replica is asked.
    let method = if protocol.is_some() { Method::GET } else { parts.method.clone() };
    let protocol = protocol.map(|protocol| fields.store(protocol.as_str().as_bytes()));
    Ok(RequestHead::new(method, parts.version, target, host, fields).with_protocol(protocol))
}

/// The size of a request's head as HTTP/2 has it (RFC 9113 section 6.5.2).
fn list_size(parts: &request::Parts) -> usize {
    let uri = &parts.uri;
    let authority = uri.authority().map_or(0, |authority| authority.as_str().len());
    let target = uri.path_and_query().map_or(0, |target| target.as_str().len());
    let pseudo = parts.method.as_str().len() + authority + target + uri.scheme_str().map_or(0, str::len);
    let fields = parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD_OVERHEAD);
    fields.sum::<usize>() + pseudo
}

/// An answer's head as the engine sends it.
fn response(head: &ResponseHead) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = head.status;
    *response.headers_mut() = map(&head.fields);
    response
}

/// Fields for the pipeline.
pub(super) fn fields(map: &HeaderMap) -> Fields {
    let mut fields = Fields::over(b"");
    for (name, value) in map {
        fields.append_named(name, value);
    }
    fields
}

/// Fields as the engine, and the traits of bodies, have them.
pub(super) fn map(fields: &Fields) -> HeaderMap {
    map_without(fields, Names::default())
}

/// As [`map`], but for those of these names.
pub(super) fn map_without(fields: &Fields, names: Names) -> HeaderMap {
    let mut map = HeaderMap::with_capacity(fields.count() + MORE_FIELDS);
    let block = fields.block();
    // One copy that all values are parts of, in place of one for each. What keeps one of them keeps all of it.
    let shared = (block.len() <= MAX_SHARED).then(|| Bytes::copy_from_slice(block));
    for (known, name, value) in fields.spans() {
        if known.is_some_and(|known| names.contains(known)) {
            continue;
        }
        let name = match known {
            Some(known) => Ok(known.header_name()),
            None => HeaderName::from_bytes(fields.text(name)),
        };
        let value = match &shared {
            Some(shared) => HeaderValue::from_maybe_shared(shared.slice(value.range())),
            None => HeaderValue::from_bytes(fields.text(value)),
        };
        let (Ok(name), Ok(mut value)) = (name, value) else { continue };
        // No two requests have the same: kept in the table of what was said before, each would drive out what is said again.
        value.set_sensitive(known == Some(Name::XRequestId));
        map.append(name, value);
    }
    map
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn head(request: Request<()>) -> Result<RequestHead, GatewayError> {
        request_head(&request.into_parts().0, &HeadLimits { bytes: 130, fields: 3, target: 10 })
    }

    #[test]
    fn a_cookie_that_came_in_parts_is_whole_before_anything_goes_by_it() {
        let request = Request::get("http://a/").header("cookie", "a=1").header("cookie", "b=2");
        let head = head(request.body(()).unwrap()).unwrap();
        let cookies: Vec<_> = head.fields.get_all(super::Name::Cookie).collect();
        assert_eq!(cookies, [b"a=1; b=2"]);
    }

    #[test]
    fn a_request_names_one_host_and_a_path_in_it() {
        let limits = HeadLimits { bytes: 1000, fields: 3, target: 100 };
        let taken = |method: &str, target: &str, host: Option<&str>| {
            let uri =
                http::Uri::builder().scheme("http").authority("A:1").path_and_query(target).build().unwrap();
            let request = Request::builder().method(method).uri(uri).version(Version::HTTP_2);
            let request = host.into_iter().fold(request, |request, host| request.header("host", host));
            request_head(&request.body(()).unwrap().into_parts().0, &limits)
                .map(|head| head.host().map(str::to_owned))
        };
        assert_eq!(taken("GET", "/x?y", None), Ok(Some("A:1".into())));
        assert_eq!(taken("GET", "/x", Some("a:1")), Ok(Some("A:1".into())));
        assert_eq!(taken("OPTIONS", "*", None), Ok(Some("A:1".into())));
        let two = GatewayError::BadRequest("the request's authority and its Host field are two hosts");
        for host in ["b", "a", "a:2", ""] {
            assert_eq!(taken("GET", "/x", Some(host)), Err(two.clone()), "{host}");
        }
        let refused = Err(GatewayError::BadRequest("the request's target is not valid"));
        assert_eq!(taken("GET", "*", None), refused);
    }

    #[test]
    fn a_head_has_the_limits_of_one_of_http_1() {
        let long = |length: usize| format!("http://a/{}", "x".repeat(length - 1));
        let get = |uri: &str, fields: usize| {
            let request = (0..fields).fold(Request::get(uri), |request, _| request.header("x", "1"));
            head(request.body(()).unwrap()).map(drop)
        };
        assert_eq!(get(&long(10), 3), Ok(()));
        assert!(matches!(get(&long(11), 0), Err(GatewayError::TargetTooLong(_))));
        assert!(matches!(get("http://a/", 4), Err(GatewayError::HeadTooLarge(_))));
        let large = Request::get("http://a/").header("x", "1".repeat(100)).body(()).unwrap();
        assert!(matches!(head(large).map(drop), Err(GatewayError::HeadTooLarge(_))));
        let method = Request::builder().method("M".repeat(33).as_str()).uri("http://a/");
        let refused = head(method.body(()).unwrap()).map(drop);
        assert_eq!(refused, Err(GatewayError::BadRequest("the method is too long")));
    }

    #[test]
    fn a_map_has_every_field_under_its_name_and_keeps_no_id_of_a_request_for_the_next() {
        let mut fields = Fields::default();
        for name in Name::ALL {
            fields.append(*name, b"1");
        }
        for (name, value) in [("X-Other", "2"), ("Via", "3"), ("x-other", "4")] {
            fields.append_other(name.as_bytes(), value.as_bytes());
        }
        let map = super::map(&fields);
        let without = super::map_without(&fields, Names::of(&[Name::Via, Name::Host]));
        assert_eq!((map.len(), without.len()), (Name::ALL.len() + 3, Name::ALL.len()));
        for name in Name::ALL {
            let value = map.get(name.as_str()).expect("none is left out");
            assert_eq!((value.as_bytes(), value.is_sensitive()), (&b"1"[..], *name == Name::XRequestId));
        }
        assert_eq!(map.get_all("via").iter().collect::<Vec<_>>(), ["1", "3"]);
        assert_eq!(map.get_all("x-other").iter().collect::<Vec<_>>(), ["2", "4"]);
        fields.append_other(b"x-long", &[b'x'; MAX_SHARED]);
        assert_eq!(
            super::map(&fields).iter().take(map.len()).collect::<Vec<_>>(),
            map.iter().collect::<Vec<_>>()
        );
    }
}
