//! Keeps web pages of others out: no name that their owner may have made to lead here, no change that they ask for.
//!
//! A page can send requests to any address its reader reaches, this machine's own among them. What it cannot do is read
//! the answers of another origin; by letting its own name resolve to our address (DNS rebinding) it becomes one origin
//! with us, but then `Host` has that name. So only names are taken that nobody else can give out.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use gateway_runtime::hosts::is_nobody_elses;
use http::{HeaderMap, HeaderName, Method, Uri, header, uri::Authority};

use crate::refusal::Refusal;

/// What browsers, and no script in them, say of who asks.
pub(super) const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// They say one word, and load balancers ask them by any name.
const PROBES: [&str; 3] = ["/livez", "/healthz", "/readyz"];

/// The names that an operator allowed: `name`, `.suffix`, or `*` for all.
#[derive(Debug, Clone)]
pub(super) struct AllowedHosts(pub(super) Arc<[String]>);

/// Refuses what a page of somebody else's may have sent.
pub(super) async fn check(State(allowed): State<AllowedHosts>, request: Request, next: Next) -> Response {
    let (method, uri, headers) = (request.method(), request.uri(), request.headers());
    let checked = match PROBES.contains(&uri.path()) {
        true => Ok(()),
        false => allowed.check_host(uri, headers).and_then(|()| allowed.check_origin(method, uri, headers)),
    };
    match checked {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

impl AllowedHosts {
    fn check_host(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Refusal> {
        let sent = headers.get_all(header::HOST).iter().map(|host| host.to_str().unwrap_or("?"));
        for host in uri.authority().map(Authority::as_str).into_iter().chain(sent) {
            let host_of = host.parse::<Authority>().ok().filter(is_plain);
            let is_ours = host_of.is_some_and(|authority| self.is_ours(authority.host()));
            if !is_ours {
                return Err(Refusal::Host(host.chars().take(255).collect()));
            }
        }
        // Browsers always name a host; who names none is none.
        Ok(())
    }

    /// Names that nobody else can give out, and those that are allowed.
    fn is_ours(&self, host: &str) -> bool {
        is_nobody_elses(host) || self.0.iter().any(|allowed| allowed == "*") || self.allows(host)
    }

    fn allows(&self, host: &str) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        self.0.iter().any(|allowed| match allowed.strip_prefix('.') {
            Some(_) => host.len() > allowed.len() && host.ends_with(allowed.as_str()),
            None => host == *allowed,
        })
    }

    /// Scripts say where they are from whenever they ask another origin, and with every change they ask for.
    fn check_origin(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<(), Refusal> {
        let refused = |origin: &str| Err(Refusal::Origin(origin.chars().take(255).collect()));
        if let Some(origin) = headers.get(header::ORIGIN) {
            let origin = origin.to_str().unwrap_or("?");
            let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()?.parse().ok());
            let host = uri.authority().cloned().or(host);
            return match origin.parse::<Uri>() {
                Ok(page) if self.is_same_site(&page, host.as_ref()) => Ok(()),
                _ => refused(origin),
            };
        }
        let site = headers.get(SEC_FETCH_SITE).map(|site| site.to_str().unwrap_or("?"));
        match site {
            Some(site) if !method.is_safe() && !["same-origin", "none"].contains(&site) => {
                refused("another site")
            }
            _ => Ok(()),
        }
    }

    /// Whether a page is of this server: of the host that it asks, or, where a proxy in front changes that, of one that
    /// is allowed by name.
    fn is_same_site(&self, page: &Uri, host: Option<&Authority>) -> bool {
        let Some(origin) = page.authority().filter(|authority| is_plain(authority)) else { return false };
        let default = match page.scheme_str() {
            Some("https") => 443,
            _ => 80,
        };
        let port = |authority: &Authority| authority.port_u16().unwrap_or(default);
        let is_asked =
            |host: &Authority| host.host().eq_ignore_ascii_case(origin.host()) && port(host) == port(origin);
        host.is_some_and(is_asked) || self.allows(origin.host())
    }
}

/// Whether an authority is a host, with a port or without one, and nothing else: what is read of `[::1].evil.example` is `[::1]`.
fn is_plain(authority: &Authority) -> bool {
    let is_port =
        |rest: &str| rest.strip_prefix(':').is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit()));
    let behind = authority.as_str().strip_prefix(authority.host());
    behind.is_some_and(|rest| rest.is_empty() || is_port(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(names: &[&str]) -> AllowedHosts {
        AllowedHosts(names.iter().map(|name| (*name).to_owned()).collect())
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn takes_host(names: &[&str], host: &str) -> bool {
        allowed(names).check_host(&"/".parse().unwrap(), &headers(&[("host", host)])).is_ok()
    }

    #[test]
    fn addresses_and_names_that_nobody_else_can_give_out_are_taken() {
        let ours =
            ["localhost", "localhost:7400", "LOCALHOST.", "orders.localhost:7400", "control-plane:7400"];
        let addresses = ["127.0.0.1", "127.0.0.1:7400", "10.1.2.3:80", "[::1]", "[::1]:7400"];
        for host in ours.iter().chain(&addresses) {
            assert!(takes_host(&[], host), "{host}");
        }
        for host in
            ["evil.example", "evil.example:7400", "localhost.evil.example", "127.0.0.1.evil.example", ""]
        {
            assert!(!takes_host(&[], host), "{host}");
        }
    }

    #[test]
    fn a_name_a_suffix_or_everything_can_be_allowed() {
        assert!(takes_host(&["gw.example.com"], "GW.example.com:443"));
        assert!(!takes_host(&["gw.example.com"], "other.example.com"));
        assert!(takes_host(&[".cluster.local"], "gateway.default.svc.cluster.local"));
        assert!(!takes_host(&[".cluster.local"], "evilcluster.local"));
        assert!(takes_host(&["*"], "anything.example"));
    }

    #[test]
    fn over_http_2_the_name_is_in_the_target() {
        let check = |target: &str| allowed(&[]).check_host(&target.parse().unwrap(), &HeaderMap::new());
        assert_eq!(check("http://localhost:7400/v1/services"), Ok(()));
        assert_eq!(check("http://evil.example/v1"), Err(Refusal::Host("evil.example".into())));
        assert_eq!(check("/v1"), Ok(()), "who names no host is no browser");
    }

    fn takes(names: &[&str], method: Method, pairs: &[(&'static str, &str)]) -> bool {
        let headers = headers(&[&[("host", "localhost:7400")], pairs].concat());
        allowed(names).check_origin(&method, &"/".parse().unwrap(), &headers).is_ok()
    }

    #[test]
    fn a_page_of_this_server_may_change_things_and_one_of_another_may_not() {
        for method in [Method::POST, Method::DELETE, Method::GET] {
            assert!(takes(&[], method.clone(), &[("origin", "http://localhost:7400")]));
            for origin in ["http://localhost:3000", "http://evil.example", "https://localhost", "null", ""] {
                assert!(!takes(&[], method.clone(), &[("origin", origin)]), "{origin}");
            }
        }
        assert!(takes(&["gw.example.com"], Method::POST, &[("origin", "https://gw.example.com")]));
        assert!(!takes(&["*"], Method::POST, &[("origin", "https://gw.example.com")]));
    }

    #[test]
    fn without_an_origin_the_browser_s_own_word_counts() {
        assert!(takes(&[], Method::POST, &[]), "no browser");
        assert!(takes(&[], Method::POST, &[("sec-fetch-site", "same-origin")]));
        assert!(!takes(&[], Method::POST, &[("sec-fetch-site", "cross-site")]));
        assert!(!takes(&[], Method::DELETE, &[("sec-fetch-site", "same-site")]));
        assert!(takes(&[], Method::GET, &[("sec-fetch-site", "cross-site")]), "a link that was followed");
    }

    #[test]
    fn a_port_that_is_not_said_is_that_of_the_scheme() {
        let same = |origin: &str, host: &str| {
            let host: Authority = host.parse().unwrap();
            allowed(&[]).is_same_site(&origin.parse().unwrap(), Some(&host))
        };
        assert!(same("https://gw.example.com", "gw.example.com"));
        assert!(same("https://gw.example.com", "gw.example.com:443"));
        assert!(same("http://gw.example.com:80", "gw.example.com"));
        assert!(!same("http://gw.example.com", "gw.example.com:7400"));
    }

    mod fuzz {
        use proptest::{collection::vec, prelude::*, sample::select};

        use super::*;

        /// What hosts are made of; the first are the attacker's.
        const PIECES: [&str; 22] = [
            "evil.example",
            "evil",
            ".evil.example",
            ".example",
            "localhost",
            "127.0.0.1",
            "[::1]",
            "1.2",
            ".",
            ":7400",
            ":",
            "@",
            "/",
            "\\",
            "#",
            "?",
            " ",
            "%2e",
            "xn--",
            "\u{e4}",
            "LOCALHOST",
            "gw.example.com",
        ];

        /// Whether a browser that was sent to this host could have been sent there by the owner of a domain.
        fn may_be_somebodys(host: &str) -> bool {
            let name =
                host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
            let name = name.map_or(host, |(name, _)| name).trim_end_matches('.').to_ascii_lowercase();
            let is_address = name.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok();
            name.contains('.') && !is_address && !name.ends_with(".localhost") && name != "gw.example.com"
        }

        proptest! {
            #[test]
            fn no_name_that_somebody_owns_is_taken_for_ours(pieces in vec(select(&PIECES[..]), 0..5)) {
                let host = pieces.concat();
                if let Ok(value) = http::HeaderValue::from_str(&host) {
                    let headers = [(header::HOST, value)].into_iter().collect();
                    let is_taken = allowed(&["gw.example.com"]).check_host(&"/".parse().unwrap(), &headers).is_ok();
                    prop_assert!(!is_taken || !may_be_somebodys(&host), "{}", host);
                }
            }

            #[test]
            fn no_page_of_another_host_may_change_things(pieces in vec(select(&PIECES[..]), 0..5), scheme in select(&["http://", "https://", "null"][..])) {
                let origin = format!("{scheme}{}", pieces.concat());
                if let Ok(value) = http::HeaderValue::from_str(&origin) {
                    let headers = [(header::HOST, "localhost:7400".parse().unwrap()), (header::ORIGIN, value)].into_iter().collect();
                    let is_taken = allowed(&["gw.example.com"]).check_origin(&Method::POST, &"/".parse().unwrap(), &headers).is_ok();
                    let authority = origin.split_once("://").map_or("", |(_, rest)| rest.split(['/', '?', '#']).next().unwrap_or_default());
                    let host = authority.rsplit('@').next().unwrap_or_default().to_ascii_lowercase();
                    let is_ours = host == "localhost:7400" || host.trim_end_matches(|c: char| c.is_ascii_digit() || c == ':' || c == '.') == "gw.example.com";
                    prop_assert!(!is_taken || is_ours, "{}", origin);
                }
            }
        }
    }
}
