use proptest::prelude::*;

use super::*;

fn wire(name: &str) -> v1::Route {
    v1::Route { name: name.into(), service: "orders".into(), ..Default::default() }
}

fn header(name: &str, value: &str) -> v1::HeaderMatch {
    v1::HeaderMatch { name: name.into(), value: value.into() }
}

fn refusal(change: impl FnOnce(&mut v1::Route)) -> String {
    let mut route = wire("shop");
    change(&mut route);
    Route::parse(&route).unwrap_err().to_string()
}

#[test]
fn a_route_that_says_nothing_matches_everything() {
    let route = Route::parse(&wire("shop")).unwrap();
    assert_eq!((route.host.clone(), &*route.path_prefix, route.methods), (Host::Any, "/", Methods::ALL));
    assert_eq!((route.headers.len(), route.priority, &route.rewrite_prefix), (0, 0, &None));
    assert_eq!(route.conditions(), "/");
}

#[test]
fn a_route_has_one_form_for_each_content() {
    let sprawling = v1::Route {
        host: "*.Example.COM".into(),
        path_prefix: "/api".into(),
        methods: vec!["PUT".into(), "GET".into(), "PUT".into()],
        headers: vec![header("X-B", ""), header("x-a", "1")],
        priority: 7,
        rewrite_prefix: "/".into(),
        etag: "x".into(),
        ..wire("shop")
    };
    let route = Route::parse(&sprawling).unwrap();
    assert_eq!(route.host, Host::Below("example.com".into()));
    assert_eq!(route.conditions(), "*.example.com/api GET,PUT x-a=1 x-b");
    assert_eq!(Route::parse(&route.to_wire()), Ok(route));
    let same = v1::Route { path_prefix: "/api".into(), rewrite_prefix: "/api".into(), ..wire("shop") };
    assert_eq!(Route::parse(&same).unwrap().rewrite_prefix, None, "nothing is rewritten");
}

#[test]
fn every_field_at_fault_is_named_with_what_is_allowed() {
    let many = |count| (0..count).map(|index| header(&format!("x-{index}"), "1")).collect();
    for (why, refused) in [
        ("name: is required", refusal(|route| route.name.clear())),
        ("service: may hold only a-z", refusal(|route| route.service = "Orders".into())),
        ("host: is written without a port", refusal(|route| route.host = "a.example:80".into())),
        ("host: is neither a host name", refusal(|route| route.host = "a..example".into())),
        ("host: is neither a host name", refusal(|route| route.host = "*".into())),
        ("host: is neither a host name", refusal(|route| route.host = "a.*.example".into())),
        ("host: is neither a host name", refusal(|route| route.host = "a/b".into())),
        ("host: has no IPv6 address", refusal(|route| route.host = "[::x]".into())),
        ("host: is longer than 253", refusal(|route| route.host = "a".repeat(254))),
        (
            "path_prefix: does not begin with a slash: write \"/api\"",
            refusal(|route| route.path_prefix = "api".into()),
        ),
        (
            "path_prefix: ends with a slash: write \"/api\"",
            refusal(|route| route.path_prefix = "/api/".into()),
        ),
        ("path_prefix: ends with a slash", refusal(|route| route.path_prefix = "//".into())),
        ("path_prefix: may hold what a path holds", refusal(|route| route.path_prefix = "/a?b".into())),
        ("path_prefix: may hold what a path holds", refusal(|route| route.path_prefix = "/é".into())),
        ("path_prefix: has a segment of dots", refusal(|route| route.path_prefix = "/a/../b".into())),
        (
            "path_prefix: is longer than 256",
            refusal(|route| route.path_prefix = format!("/{}", "a".repeat(256))),
        ),
        ("rewrite_prefix: does not begin with a slash", refusal(|route| route.rewrite_prefix = "v2".into())),
        (
            "methods: \"get\" is no registered HTTP method",
            refusal(|route| route.methods = vec!["get".into()]),
        ),
        ("headers: are 5, at most 4", refusal(|route| route.headers = many(5))),
        (
            "headers: name x-a twice",
            refusal(|route| route.headers = vec![header("x-a", "1"), header("X-A", "2")]),
        ),
        (
            "headers[1].name: is no name",
            refusal(|route| route.headers = vec![header("x-a", ""), header("x a", "")]),
        ),
        ("headers[0].name: is the host's", refusal(|route| route.headers = vec![header("Host", "a")])),
        ("headers[0].value: is no text", refusal(|route| route.headers = vec![header("x-a", " 1")])),
        ("headers[0].value: is no text", refusal(|route| route.headers = vec![header("x-a", "a\r\nb")])),
        ("priority: 1001 is not in 0..=1000", refusal(|route| route.priority = 1001)),
        ("priority: -1 is not in 0..=1000", refusal(|route| route.priority = -1)),
    ] {
        assert!(refused.starts_with(why), "{refused:?} does not begin with {why:?}");
    }
    let all = refusal(|route| *route = v1::Route { priority: -1, host: "*".into(), ..Default::default() });
    for field in ["name: ", "service: ", "host: ", "priority: "] {
        assert!(all.contains(field), "{all}");
    }
}

#[test]
fn the_more_specific_route_goes_first() {
    let route = |change: &dyn Fn(&mut v1::Route)| {
        let mut route = wire("shop");
        change(&mut route);
        Route::parse(&route).unwrap()
    };
    // Each goes before all that follow.
    let order = [
        route(&|route| route.host = "a.b.example".into()),
        route(&|route| route.host = "*.b.example".into()),
        route(&|route| {
            route.host = "*.example".into();
            route.path_prefix = "/api/v1".into();
        }),
        route(&|route| route.path_prefix = "/api/v1".into()),
        route(&|route| {
            route.path_prefix = "/api".into();
            route.methods = vec!["GET".into()];
        }),
        route(&|route| {
            route.path_prefix = "/api".into();
            route.headers = vec![header("x-a", "1"), header("x-b", "1")];
        }),
        route(&|route| {
            route.path_prefix = "/api".into();
            route.headers = vec![header("x-a", "1")];
            route.priority = 2;
        }),
        route(&|route| {
            route.path_prefix = "/api".into();
            route.headers = vec![header("x-a", "1")];
        }),
        route(&|_| {}),
    ];
    for pair in order.windows(2) {
        assert!(pair[0].rank() > pair[1].rank(), "{pair:?}");
        assert_eq!(pair[0].precedence(&pair[1]), Ordering::Less);
    }
}

#[test]
fn routes_that_one_request_may_match_alike_are_in_conflict() {
    let route = |name: &str, methods: &[&str], headers: &[(&str, &str)], priority| {
        let headers = headers.iter().map(|(name, value)| header(name, value)).collect();
        let methods = methods.iter().map(|method| (*method).to_owned()).collect();
        Route::parse(&v1::Route { methods, headers, priority, ..wire(name) }).unwrap()
    };
    let conflict = |one: &Route, other: &Route| {
        assert_eq!(one.conflicts_with(other), other.conflicts_with(one));
        one.conflicts_with(other)
    };
    let plain = route("a", &[], &[], 0);
    assert!(!conflict(&plain, &plain), "it is itself");
    assert!(conflict(&plain, &route("b", &[], &[], 0)));
    assert!(!conflict(&plain, &route("b", &[], &[], 1)), "one is preferred");
    assert!(!conflict(&plain, &route("b", &["GET"], &[], 0)), "one is more specific");
    let get = route("a", &["GET", "PUT"], &[], 0);
    assert!(conflict(&get, &route("b", &["GET"], &[], 0)));
    assert!(!conflict(&get, &route("b", &["POST"], &[], 0)), "no request has both methods");
    let one = route("a", &[], &[("x", "1")], 0);
    assert!(!conflict(&one, &route("b", &[], &[("x", "2")], 0)), "no header says both");
    assert!(conflict(&one, &route("b", &[], &[("x", "")], 0)));
    assert!(conflict(&one, &route("b", &[], &[("y", "1")], 0)), "a request may have both headers");
}

/// A request, of few words, so that it matches often.
#[derive(Debug, Clone)]
struct Asked {
    host: &'static str,
    path: &'static str,
    method: &'static str,
    headers: Vec<(&'static str, &'static str)>,
}

fn matches(route: &Route, asked: &Asked) -> bool {
    let host = match &route.host {
        Host::Any => true,
        Host::Name(name) => **name == *asked.host,
        Host::Below(name) => asked.host.ends_with(&format!(".{name}")),
    };
    let path = asked.path.strip_prefix(route.path_prefix.trim_end_matches('/'));
    let header = |header: &Header| {
        let said: Vec<_> = asked.headers.iter().filter(|(name, _)| *name == &*header.name).collect();
        match &header.value {
            None => !said.is_empty(),
            Some(value) => said.len() == 1 && said[0].1 == &**value,
        }
    };
    host && path.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        && route.methods.has(asked.method)
        && route.headers.iter().all(header)
}

fn any_wire() -> impl Strategy<Value = v1::Route> {
    let host = prop::sample::select(vec!["", "*.e", "*.b.e", "a.b.e", "b.e"]);
    let path = prop::sample::select(vec!["", "/a", "/a/b", "/ab"]);
    let methods = prop::sample::select(vec![vec![], vec!["GET"], vec!["GET", "PUT"], vec!["POST"]]);
    let header = (prop::sample::select(vec!["x", "y"]), prop::sample::select(vec!["", "1", "2"]));
    (host, path, methods, prop::collection::btree_map("[xy]", header, 0..3), 0..2_i32).prop_map(
        |(host, path, methods, headers, priority)| v1::Route {
            host: host.into(),
            path_prefix: path.into(),
            methods: methods.into_iter().map(str::to_owned).collect(),
            headers: headers.into_iter().map(|(name, (_, value))| header_of(&name, value)).collect(),
            priority,
            ..wire("shop")
        },
    )
}

fn header_of(name: &str, value: &str) -> v1::HeaderMatch {
    header(name, value)
}

fn any_asked() -> impl Strategy<Value = Asked> {
    let host = prop::sample::select(vec!["a.b.e", "b.e", "e", "x.b.e", ""]);
    let path = prop::sample::select(vec!["/", "/a", "/a/", "/a/b", "/a/b/c", "/ab", "/abc"]);
    let method = prop::sample::select(vec!["GET", "PUT", "POST", "X-CUSTOM"]);
    let header = (prop::sample::select(vec!["x", "y"]), prop::sample::select(vec!["1", "2"]));
    (host, path, method, prop::collection::vec(header, 0..4))
        .prop_map(|(host, path, method, headers)| Asked { host, path, method, headers })
}

proptest! {
    #[test]
    fn in_a_set_without_conflicts_one_route_at_most_counts_for_each_request(
        offered in prop::collection::vec(any_wire(), 1..12),
        asked in any_asked(),
    ) {
        let mut routes: Vec<Route> = Vec::new();
        for (index, wire) in offered.into_iter().enumerate() {
            let route = Route::parse(&v1::Route { name: format!("r-{index}"), ..wire }).unwrap();
            if !routes.iter().any(|known| known.conflicts_with(&route)) {
                routes.push(route);
            }
        }
        let matching: Vec<_> = routes.iter().filter(|route| matches(route, &asked)).collect();
        if let Some(best) = matching.iter().map(|route| route.rank()).max() {
            let first: Vec<_> = matching.iter().filter(|route| route.rank() == best).collect();
            prop_assert_eq!(first.len(), 1, "{:?}", first);
        }
    }

    #[test]
    fn what_is_read_is_written_so_that_it_is_read_again(wire in any_wire()) {
        let route = Route::parse(&wire).unwrap();
        prop_assert_eq!(Route::parse(&route.to_wire()), Ok(route));
    }

    #[test]
    fn no_text_makes_reading_panic(host in ".{0,12}", path in ".{0,12}", name in ".{0,12}", value in ".{0,12}") {
        let headers = vec![header(&name, &value)];
        let _ = Route::parse(&v1::Route { host, path_prefix: path.clone(), rewrite_prefix: path, headers, ..wire("shop") });
    }
}
