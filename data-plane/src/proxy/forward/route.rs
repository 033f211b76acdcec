//! Which service a request is for, and under which path the service sees it.

use memchr::{memchr, memchr2, memrchr};

/// Host suffix that always works, without any configuration of names: browsers and curl resolve it to loopback.
const LOCALHOST: &[u8] = b"localhost";

/// Where a request goes.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::proxy) struct Route<'a> {
    /// Name as the client wrote it; whether there is such a service is for the table to say.
    pub(in crate::proxy) service: &'a str,
    /// Whether the service's name was the first path segment, which is stripped.
    pub(in crate::proxy) is_by_path: bool,
}

/// Finds the service: by `Host: SERVICE.localhost` or `SERVICE.<domain>`, else by the first segment of the target's path. Both are
/// UTF-8.
pub(in crate::proxy) fn route<'a>(
    host: Option<&'a [u8]>,
    target: &'a [u8],
    domain: Option<&str>,
) -> Option<Route<'a>> {
    if let Some(service) = host.and_then(|host| service_of_host(host, domain)) {
        return Some(Route { service: str::from_utf8(service).ok()?, is_by_path: false });
    }
    let segments = target.strip_prefix(b"/")?;
    let segment = &segments[..memchr2(b'/', b'?', segments).unwrap_or(segments.len())];
    let service = str::from_utf8(segment).ok().filter(|segment| !segment.is_empty())?;
    Some(Route { service, is_by_path: true })
}

/// The first label of a host below one of our suffixes. Host names know no case, service names are lower case;
/// a name in capitals simply is not found.
fn service_of_host<'a>(host: &'a [u8], domain: Option<&str>) -> Option<&'a [u8]> {
    let name = match memrchr(b':', host) {
        Some(colon) if host[colon + 1..].iter().all(u8::is_ascii_digit) => &host[..colon],
        _ => host,
    };
    let dot = memchr(b'.', name)?;
    let (service, suffix) = (&name[..dot], &name[dot + 1..]);
    let is_ours = suffix.eq_ignore_ascii_case(LOCALHOST)
        || domain.is_some_and(|domain| suffix.eq_ignore_ascii_case(domain.as_bytes()));
    (is_ours && !service.is_empty()).then_some(service)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found<'a>(host: Option<&'a str>, path: &'a str) -> Option<(&'a str, bool)> {
        let found = route(host.map(str::as_bytes), path.as_bytes(), Some("gw.example"));
        found.map(|route| (route.service, route.is_by_path))
    }

    #[test]
    fn the_host_goes_before_the_path() {
        let path = "/payments/x";
        assert_eq!(found(Some("orders.localhost"), path), Some(("orders", false)));
        assert_eq!(found(Some("orders.localhost:8080"), path), Some(("orders", false)));
        assert_eq!(found(Some("orders.GW.example"), path), Some(("orders", false)));
        for host in
            ["localhost:8080", "orders.example", "127.0.0.1:8080", "a.b.localhost", ".localhost", "[::1]:80"]
        {
            assert_eq!(found(Some(host), path), Some(("payments", true)), "{host}");
        }
        assert_eq!(found(None, path), Some(("payments", true)));
    }

    #[test]
    fn the_first_segment_is_the_whole_name() {
        for (path, service) in [
            ("/orders", Some("orders")),
            ("/orders/", Some("orders")),
            ("/orders?a=/b", Some("orders")),
            ("/?/orders", None),
            ("/orders-2/x", Some("orders-2")),
            ("/", None),
            ("//orders", None),
            ("/%6Frders/x", Some("%6Frders")),
        ] {
            assert_eq!(found(None, path).map(|found| found.0), service, "{path}");
        }
        assert_eq!(found(None, "*"), None);
    }
}
