//! Which service a request is for, and under which path the service sees it.

use http::{Uri, uri::PathAndQuery};

/// Host suffix that always works, without any configuration of names: browsers and curl resolve it to loopback.
const LOCALHOST: &str = "localhost";

/// Where a request goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Route<'a> {
    /// Name as the client wrote it; whether there is such a service is for the table to say.
    pub(super) service: &'a str,
    /// Whether the service's name was the first path segment, which is stripped.
    pub(super) is_by_path: bool,
}

/// Finds the service: by `Host: SERVICE.localhost` or `SERVICE.<domain>`, else by the first segment of the path.
pub(super) fn route<'a>(host: Option<&'a str>, uri: &'a Uri, domain: Option<&str>) -> Option<Route<'a>> {
    if let Some(service) = host.and_then(|host| service_of_host(host, domain)) {
        return Some(Route { service, is_by_path: false });
    }
    let segment = uri.path().strip_prefix('/')?.split('/').next()?;
    (!segment.is_empty()).then_some(Route { service: segment, is_by_path: true })
}

/// The first label of a host below one of our suffixes. Host names know no case, service names are lower case;
/// a name in capitals simply is not found.
fn service_of_host<'a>(host: &'a str, domain: Option<&str>) -> Option<&'a str> {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let (service, suffix) = name.split_once('.')?;
    let is_ours = suffix.eq_ignore_ascii_case(LOCALHOST)
        || domain.is_some_and(|domain| suffix.eq_ignore_ascii_case(domain));
    (is_ours && !service.is_empty()).then_some(service)
}

/// The path and query that a replica sees: what follows the first segment, byte for byte.
///
/// `None` when what is left is no valid path, which a valid one never becomes.
pub(super) fn strip_first_segment(target: &PathAndQuery) -> Option<PathAndQuery> {
    let text = target.as_str();
    let rest = text.get(1..)?;
    let rest = &rest[rest.find(['/', '?']).unwrap_or(rest.len())..];
    match rest.as_bytes().first() {
        Some(b'/') => PathAndQuery::try_from(rest).ok(),
        // "/orders" and "/orders?x=1" ask for the service's root.
        _ => PathAndQuery::try_from(format!("/{rest}")).ok(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found<'a>(host: Option<&'a str>, uri: &'a Uri) -> Option<(&'a str, bool)> {
        route(host, uri, Some("gw.example")).map(|route| (route.service, route.is_by_path))
    }

    #[test]
    fn the_host_goes_before_the_path() {
        let uri = Uri::from_static("/payments/x");
        assert_eq!(found(Some("orders.localhost"), &uri), Some(("orders", false)));
        assert_eq!(found(Some("orders.localhost:8080"), &uri), Some(("orders", false)));
        assert_eq!(found(Some("orders.GW.example"), &uri), Some(("orders", false)));
        for host in
            ["localhost:8080", "orders.example", "127.0.0.1:8080", "a.b.localhost", ".localhost", "[::1]:80"]
        {
            assert_eq!(found(Some(host), &uri), Some(("payments", true)), "{host}");
        }
        assert_eq!(found(None, &uri), Some(("payments", true)));
    }

    #[test]
    fn the_first_segment_is_the_whole_name() {
        for (path, service) in [
            ("/orders", Some("orders")),
            ("/orders/", Some("orders")),
            ("/orders?x=1", Some("orders")),
            ("/orders-2/x", Some("orders-2")),
            ("/", None),
            ("//orders", None),
            ("/%6Frders/x", Some("%6Frders")),
        ] {
            let uri: Uri = path.parse().unwrap();
            assert_eq!(found(None, &uri).map(|found| found.0), service, "{path}");
        }
        assert_eq!(found(None, &Uri::from_static("*")), None);
    }

    #[test]
    fn what_follows_the_first_segment_is_kept_byte_for_byte() {
        for (target, stripped) in [
            ("/orders", "/"),
            ("/orders/", "/"),
            ("/orders?x=1", "/?x=1"),
            ("/orders/a/../b//c", "/a/../b//c"),
            ("/orders/%2F%00?a=%20b%26c&d=/e?f", "/%2F%00?a=%20b%26c&d=/e?f"),
            ("/orders//x", "//x"),
        ] {
            let target = PathAndQuery::from_static(target);
            assert_eq!(strip_first_segment(&target).unwrap().as_str(), stripped);
        }
    }

    proptest! {
        #[test]
        fn stripping_keeps_every_byte_behind_the_name(rest in "(/[!$&-;=@-Z_a-z~%]{0,20}){0,4}(\\?[!$&-;=?-Z_a-z~]{0,20})?") {
            let target = PathAndQuery::try_from(format!("/orders{rest}")).unwrap();
            let stripped = strip_first_segment(&target).unwrap();
            let expected = if rest.starts_with('/') { rest } else { format!("/{rest}") };
            prop_assert_eq!(stripped.as_str(), expected);
        }
    }
}
