use gateway_proto::v1;
use http::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;

use super::*;

fn wire(name: &str, host: &str, path_prefix: &str) -> v1::Route {
    v1::Route {
        name: name.into(),
        service: "orders".into(),
        host: host.into(),
        path_prefix: path_prefix.into(),
        ..Default::default()
    }
}

fn routes(wires: &[v1::Route]) -> Routes {
    let parsed: Vec<_> = wires.iter().map(|wire| Route::parse(wire).unwrap()).collect();
    Routes::new(&parsed, 2)
}

fn find<'a>(routes: &'a Routes, host: &str, path: &str) -> Option<&'a str> {
    let headers = HeaderMap::new();
    let asked = Asked { host: Some(host), path, method: &Method::GET, fields: &headers };
    routes.find(asked).map(|rule| rule.route().name.as_str())
}

#[test]
fn without_routes_nothing_matches() {
    assert!(Routes::default().is_empty());
    assert_eq!(find(&Routes::default(), "a.example", "/"), None);
}

#[test]
fn hosts_match_without_regard_to_case_and_port_the_most_specific_first() {
    let routes = routes(&[
        wire("any", "", "/any"),
        wire("name", "shop.example.com", ""),
        wire("below", "*.example.com", ""),
        wire("far-below", "*.com", ""),
        wire("six", "[::1]", ""),
    ]);
    for (host, name) in [
        ("shop.example.com", Some("name")),
        ("SHOP.Example.com:8080", Some("name")),
        ("x.shop.example.com", Some("below")),
        ("a.b.c.example.com", Some("below")),
        ("example.com", Some("far-below")),
        ("com", None),
        ("example.org", None),
        ("xexample.com", Some("far-below")),
        ("shop.example.com.", None),
        ("[::1]:80", Some("six")),
        ("[::1]", Some("six")),
        ("", None),
    ] {
        assert_eq!(find(&routes, host, "/x"), name, "{host}");
    }
    assert_eq!(find(&routes, &format!("{}.com", "A".repeat(300)), "/x"), None);
    assert_eq!(find(&routes, &format!("{}.com", "a".repeat(300)), "/any"), Some("any"));
}

#[test]
fn a_prefix_ends_where_a_segment_ends() {
    let routes = routes(&[wire("api", "", "/api"), wire("v1", "", "/api/v1"), wire("encoded", "", "/%61pi")]);
    for (path, name) in [
        ("/api", Some("api")),
        ("/api/", Some("api")),
        ("/api//", Some("api")),
        ("/api/v1", Some("v1")),
        ("/api/v1/x", Some("v1")),
        ("/api/v10", Some("api")),
        ("/api/v", Some("api")),
        ("/apiv1", None),
        ("/API", None),
        ("/ap", None),
        ("//api", None),
        ("/", None),
        ("*", None),
        ("/x/../api", None),
        ("/%61pi/x", Some("encoded")),
        ("/api%2Fv1", None),
    ] {
        assert_eq!(find(&routes, "a", path), name, "{path}");
    }
}

#[test]
fn a_route_that_does_not_fit_leaves_the_request_to_a_less_specific_one() {
    let put = v1::Route { methods: vec!["PUT".into()], ..wire("put", "a.example", "/api/v1") };
    let routes = routes(&[put, wire("api", "", "/api"), wire("all", "*.example", "")]);
    assert_eq!(find(&routes, "a.example", "/api/v1"), Some("all"), "a host goes before a path");
    assert_eq!(find(&routes, "b", "/api/v1"), Some("api"));
}

#[test]
fn methods_and_headers_must_fit() {
    let header = |name: &str, value: &str| v1::HeaderMatch { name: name.into(), value: value.into() };
    let canary = v1::Route { headers: vec![header("X-Canary", "1")], ..wire("canary", "", "") };
    let traced = v1::Route { headers: vec![header("x-trace", "")], priority: 1, ..wire("traced", "", "/t") };
    let read = v1::Route { methods: vec!["GET".into()], ..wire("read", "", "/r") };
    let routes = routes(&[canary, traced, read]);
    let find = |path: &str, method: Method, fields: &[(&'static str, &'static str)]| {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let found = routes.find(Asked { host: None, path, method: &method, fields: &headers });
        found.map(|rule| rule.route().name.to_string())
    };
    assert_eq!(find("/x", Method::GET, &[("x-canary", "1")]).as_deref(), Some("canary"));
    for fields in
        [&[][..], &[("x-canary", "2")], &[("x-canary", "1"), ("x-canary", "1")], &[("x-canary", "1, 1")]]
    {
        assert_eq!(find("/x", Method::GET, fields), None, "{fields:?}");
    }
    assert_eq!(find("/t", Method::GET, &[("x-trace", "a"), ("x-trace", "b")]).as_deref(), Some("traced"));
    assert_eq!(find("/r/x", Method::GET, &[]).as_deref(), Some("read"));
    assert_eq!(find("/r/x", Method::HEAD, &[]), None);
}

#[test]
fn what_follows_the_prefix_is_kept_byte_for_byte() {
    for (prefix, rewrite, target, seen) in [
        ("/api", "", "/api/x?y", "/api/x?y"),
        ("/api", "/", "/api/x?y", "/x?y"),
        ("/api", "/", "/api", "/"),
        ("/api", "/", "/api?y=/z", "/?y=/z"),
        ("/api", "/", "/api//x/../y", "//x/../y"),
        ("/api", "/v2", "/api", "/v2"),
        ("/api", "/v2", "/api/", "/v2/"),
        ("/api", "/v2", "/api/%2F%00?a=%20b%26c", "/v2/%2F%00?a=%20b%26c"),
        ("/api", "/v2", "/api?x", "/v2?x"),
        ("/", "/v2", "/", "/v2/"),
        ("/", "/v2", "/x", "/v2/x"),
        ("/", "/v2", "/?x", "/v2/?x"),
    ] {
        let wire = v1::Route { rewrite_prefix: rewrite.into(), ..wire("a", "", prefix) };
        let route = Route::parse(&wire).unwrap();
        assert_eq!(rewritten(&route, target), seen, "{prefix} {rewrite} {target}");
        let stripped = Rewrite::by(&route, target).map_or(0, |rewrite| rewrite.stripped);
        let is_told = !rewrite.is_empty() && prefix != "/";
        assert_eq!(&target[..stripped], if is_told { prefix } else { "" });
    }
}

/// As a replica sees it.
fn rewritten(route: &Route, target: &str) -> String {
    match Rewrite::by(route, target) {
        Some(Rewrite { stripped, prefix }) => format!("{prefix}{}", &target[stripped..]),
        None => target.to_owned(),
    }
}

#[test]
fn requests_of_each_worker_hold_a_route_by_a_count_of_their_own_and_as_long_as_they_need_it() {
    let routes = routes(&[wire("a", "", "/")]);
    let rule = routes.any.rules.first().unwrap();
    let held = [0, 0, 1].map(|worker| rule.held_by(worker));
    assert_eq!(held.each_ref().map(Arc::strong_count), [3, 3, 2]);
    drop(routes);
    assert_eq!(held[0].name.as_str(), "a");
}

/// What the trees stand for: looking at all routes in their order.
fn first<'a>(
    routes: &'a [Route],
    host: &str,
    path: &str,
    method: &Method,
    headers: &HeaderMap,
) -> Option<&'a Route> {
    let mut ordered: Vec<_> = routes.iter().collect();
    ordered.sort_by(|one, other| one.precedence(other));
    let host = host.to_ascii_lowercase();
    ordered.into_iter().find(|route| {
        let is_host = match &route.host {
            Host::Any => true,
            Host::Name(name) => **name == *host,
            Host::Below(name) => host.ends_with(&format!(".{name}")),
        };
        let rest = path.strip_prefix(route.path_prefix.trim_end_matches('/'));
        is_host
            && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            && Rule::new(route, 1).fits(Asked { host: None, path, method, fields: headers })
    })
}

fn any_route() -> impl Strategy<Value = v1::Route> {
    let host = prop::sample::select(vec!["", "*.e", "*.b.e", "a.b.e", "b.e"]);
    let path = "(/[ab]{1,2}){0,3}";
    let methods = prop::sample::select(vec![vec![], vec!["GET"], vec!["PUT"]]);
    let header = prop::sample::select(vec!["", "1", "2"]);
    let headers = prop::collection::btree_map("x-[ab]", header, 0..3);
    (host, path, methods, headers, 0..3).prop_map(|(host, path, methods, headers, priority)| v1::Route {
        methods: methods.into_iter().map(str::to_owned).collect(),
        headers: headers
            .into_iter()
            .map(|(name, value)| v1::HeaderMatch { name, value: value.into() })
            .collect(),
        priority,
        ..wire("a", host, &path)
    })
}

proptest! {
    #[test]
    fn the_trees_find_what_looking_at_all_routes_in_their_order_finds(
        wires in prop::collection::vec(any_route(), 0..12),
        host in prop::sample::select(vec!["a.b.e", "A.B.E", "b.e", "x.b.e", "e", "f"]),
        path in "(/[ab]{0,2}){1,4}",
        is_put in any::<bool>(),
        fields in prop::collection::vec(("x-[ab]", "[12]"), 0..4),
    ) {
        let parse = |(index, wire)| Route::parse(&v1::Route { name: format!("r-{index}"), ..wire }).unwrap();
        let all: Vec<_> = wires.into_iter().enumerate().map(parse).collect();
        let method = if is_put { Method::PUT } else { Method::GET };
        let mut headers = HeaderMap::new();
        for (name, value) in &fields {
            headers.append(HeaderName::try_from(name.as_str()).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        let expected = first(&all, host, &path, &method, &headers).map(|route| route.name.as_str());
        for host in [host.to_owned(), format!("{host}:80")] {
            // In whatever order they came.
            let forward = Routes::new(&all, 1);
            let backward = Routes::new(all.iter().rev(), 1);
            for routes in [forward, backward] {
                let asked = Asked { host: Some(&host), path: &path, method: &method, fields: &headers };
                let found = routes.find(asked).map(|rule| rule.route().name.to_string());
                prop_assert_eq!(found.as_deref(), expected);
            }
        }
    }

    #[test]
    fn rewriting_changes_the_prefix_and_nothing_behind_it(
        prefix in "(/[a-z]{1,4}){0,3}",
        rewrite in "(/[a-z]{1,4}){0,3}",
        rest in "(/[!$&-;=@-Z_a-z~%]{0,20}){0,4}(\\?[!$&-;=?-Z_a-z~]{0,20})?",
    ) {
        let rewrite_prefix = if rewrite.is_empty() { "/".to_owned() } else { rewrite.clone() };
        let route = Route::parse(&v1::Route { rewrite_prefix, ..wire("a", "", &prefix) }).unwrap();
        let target = format!("{prefix}{rest}");
        prop_assume!(target.starts_with('/'));
        let seen = rewritten(&route, &target);
        let expected = format!("{rewrite}{rest}");
        let expected = if expected.starts_with('/') { expected } else { format!("/{expected}") };
        prop_assert_eq!(seen, expected);
    }

    #[test]
    fn no_request_makes_a_lookup_panic(host in any::<String>(), path in any::<String>()) {
        let routes = routes(&[wire("a", "*.e", "/a"), wire("b", "b.e", "/b"), wire("c", "", "/")]);
        let _ = find(&routes, &host, &path);
    }
}
