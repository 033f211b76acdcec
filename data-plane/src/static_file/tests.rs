//! What the file may say, and what it says when it is wrong.

use std::time::Duration;

use super::*;

#[test]
fn faults_are_taken_only_where_they_are_allowed_and_only_with_an_end() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let file = |fault: &str| {
        format!(
            "[[service]]\nname = \"orders\"\nreplicas = [\"127.0.0.1:1\"]\n[service.policy.fault]\n{fault}"
        )
    };
    let why = |fault: &str, allowed| parse(&file(fault), allowed, now).unwrap_err().to_string();
    let aborts = "abort_ratio = 0.5\nheader = \"X-Chaos\"\nend_time = \"2023-11-14T22:15:00Z\"";
    assert_eq!(
        why(aborts, false),
        "service \"orders\": policy.fault: injects faults on purpose: start the data plane with \
         --allow-fault-injection to allow it"
    );
    let fault = parse(&file(aborts), true, now).unwrap().services[0].policy.fault;
    assert_eq!((fault.abort_ratio, fault.header.parts()), (0.5, ("x-chaos", None)));
    assert!(fault.is_in_force(now) && !fault.is_in_force(now + Duration::from_secs(100)));
    assert!(parse(&file(aborts), true, now + Duration::from_secs(9999)).is_ok(), "it is over");
    assert!(why("abort_ratio = 0.5", true).contains("policy.fault.end_time: is required"));
    assert!(why("abort_ratio = 0.5\nend_time = \"2023-11-20T00:00:00Z\"", true).contains("more than 24h"));
    assert!(why("end_time = \"soon\"", true).contains("is no instant"));
}

#[test]
fn services_are_read_with_default_ids_weights_tiers_and_policies() {
    let text = r#"
        [[service]]
        name = "orders"
        replicas = ["127.0.0.1:9001", "localhost:9002"]
        [[service.replica]]
        address = "127.0.0.1:9003"
        id = "big"
        weight = 300
        priority = 2
        zone = "eu-1a"
        [service.policy.timeout]
        per_try = "800ms"
        [service.policy.breaker]
        failure_ratio = 0.25
        slow_threshold = "700ms"
        observe_only = true
        [service.policy.request]
        methods = ["POST"]
        json_only = true
        max_body_bytes = "10MiB"
        upgrades = ["websocket", "spdy/3.1"]
        [service.policy.health_check]
        type = "http"
        path = "/ready"
        expected_statuses = "200,204"
        fall = 5
        [service.policy.balancing]
        algorithm = "consistent_hash"
        hash_by = "header:X-User"
        slow_start = "20s"
        prefer_local = true
        overprovisioning_factor = 1.4
        [service.policy.concurrency]
        max_per_replica = 50
        max_queue_time = "200ms"
        adaptive = "gradient"
        [service.policy.rate_limit]
        requests_per_second = 2.5
        key = "header:X-Api-Key"

        [[service]]
        name = "users"
        replicas = ["127.0.0.1:9004"]
        [[service.replica]]
        address = "127.0.0.1:9005"
        protocol = "tls"
        tls_server_name = "users.example"
    "#;
    let services = parse(text, false, SystemTime::now()).unwrap().services;
    let spoken =
        services[1].replicas.iter().map(|r| (r.endpoint.protocol.to_string(), r.endpoint.tls_name()));
    assert!(spoken.eq([("http1".to_owned(), None), ("tls".to_owned(), Some("users.example"))]));
    let orders = &services[0];
    let ids: Vec<_> = orders.replicas.iter().map(|r| (r.id.as_str(), r.weight.get())).collect();
    assert_eq!(ids, [("big", 300), ("r-1", 100), ("r-2", 100)], "sorted by id");
    let tiers: Vec<_> = orders.replicas.iter().map(|r| r.priority.get()).collect();
    assert_eq!(tiers, [2, 0, 0]);
    assert_eq!((orders.replicas[0].locality.region(), orders.replicas[0].locality.zone()), ("", "eu-1a"));
    assert_eq!(orders.policy.timeout.per_try, Duration::from_millis(800));
    assert_eq!(orders.policy.breaker.failure_ratio, 0.25);
    assert_eq!(orders.policy.breaker.slow_threshold, Duration::from_millis(700));
    assert!(orders.policy.breaker.observe_only);
    assert_eq!(orders.policy.request.methods.to_string(), "POST");
    assert!(orders.policy.request.json_only);
    assert_eq!(orders.policy.request.max_body_bytes, 10 << 20);
    assert_eq!(orders.policy.request.upgrades.to_string(), "spdy/3.1,websocket");
    let check = orders.policy.health_check;
    assert_eq!((check.r#type, check.fall), (policy::CheckType::Http, 5));
    assert_eq!((check.path.as_str(), check.expected_statuses.to_string()), ("/ready", "200,204".to_owned()));
    let balancing = orders.policy.balancing;
    assert_eq!(
        (balancing.algorithm.name(), balancing.slow_start),
        ("consistent_hash", Duration::from_secs(20))
    );
    assert_eq!((balancing.prefer_local, balancing.overprovisioning_factor), (true, 1.4));
    assert_eq!((balancing.hash_by.to_string(), balancing.hash_load_factor), ("header:x-user".into(), 1.25));
    let concurrency = orders.policy.concurrency;
    assert_eq!((concurrency.max_per_replica, concurrency.max_pending), (50, 1024));
    assert_eq!(concurrency.max_queue_time, Duration::from_millis(200));
    assert_eq!(concurrency.adaptive, policy::AdaptiveLimit::Gradient);
    let rate_limit = orders.policy.rate_limit;
    assert_eq!((rate_limit.requests_per_second, rate_limit.at_once()), (2.5, 3));
    assert_eq!(rate_limit.key.to_string(), "header:x-api-key");
    assert_eq!(services[1].policy, Policy::default());
}

#[test]
fn what_is_not_valid_is_refused_with_service_and_field() {
    for (text, why) in [
        ("", "has no [[service]]: a data plane without services has nothing to do"),
        (
            "[[service]]\nname = 'orders'",
            "service \"orders\": replicas: is empty: a service needs at least one address",
        ),
        (
            "[[service]]\nname = 'Orders'\nreplicas = ['a:1']",
            "service \"Orders\": service: may hold only a-z, 0-9 and '-', found 'O'",
        ),
        (
            "[[service]]\nname = 'orders'\nreplicas = ['a:1', 'b']",
            "service \"orders\": replica 2.address: has no port: write host:port",
        ),
        (
            "[[service]]\nname = 'orders'\nreplicas = ['a:1', 'A:1']",
            "service \"orders\": replica 2.address: a:1 is used by an earlier replica",
        ),
        (
            "[[service]]\nname = 'orders'\n[[service.replica]]\naddress = 'b:1'\nprotocol = 'grpc'",
            "service \"orders\": replica 1.protocol: \"grpc\" is none of http1, h2c and tls",
        ),
        (
            "[[service]]\nname = 'orders'\n[[service.replica]]\naddress = 'b:1'\ntls_server_name = 'b'",
            "service \"orders\": replica 1.tls_server_name: is only for the protocol tls, and this is http1",
        ),
        (
            "[[service]]\nname = 'orders'\nreplicas = ['a:1']\n[[service.replica]]\naddress = 'b:1'\nid = 'r-1'",
            "service \"orders\": replica 2.id: r-1 is used by an earlier replica",
        ),
        (
            "[[service]]\nname = 'orders'\n[[service.replica]]\naddress = 'b:1'\nweight = 2000",
            "service \"orders\": replica 1.weight: 2000 is not in 1..=1000 (0 stands for 100)",
        ),
        (
            "[[service]]\nname = 'orders'\n[[service.replica]]\naddress = 'b:1'\npriority = 16",
            "service \"orders\": replica 1.priority: 16 is not in 0..=15",
        ),
        (
            "[[service]]\nname = 'orders'\nreplicas = ['a:1']\n[service.policy.balancing]\nalgorithm = 'fastest'",
            "TOML parse error at line 5, column 13\n  |\n5 | algorithm = 'fastest'\n  |             ^^^^^^^^^\n\
             \"fastest\" is not one of round_robin, random, least_request, peak_ewma, consistent_hash\n",
        ),
        (
            "[[service]]\nname = 'orders'\nreplicas = ['a:1']\n[service.policy.balancing]\nhash_by = 'path'",
            "service \"orders\": policy.balancing.hash_by: \"path\" is not address, header:NAME or cookie:NAME, \
             a name being a token of at most 47 characters",
        ),
        (
            "[[service]]\nname = 'orders'\nreplicas = ['a:1']\n[service.policy.breaker]\nfailure_ratio = 50.0",
            "service \"orders\": policy.breaker.failure_ratio: 50 is not above 0.0 and up to 1.0 (did you mean 0.5?)",
        ),
        (
            "[[service]]\nname = 'orders'\nreplicas = ['a:1']\n[service.policy.request]\nmethods = ['get']",
            "service \"orders\": policy.request.methods: \"get\" is no registered HTTP method (did you mean \"GET\"?)",
        ),
        (
            "[[service]]\nname = 'a'\nreplicas = ['a:1']\n[[service]]\nname = 'a'\nreplicas = ['a:2']",
            "service \"a\": name: is used by an earlier service of this file",
        ),
    ] {
        assert_eq!(parse(text, false, SystemTime::now()).unwrap_err().to_string(), why, "{text}");
    }
}

const ORDERS: &str = "[[service]]\nname = 'orders'\nreplicas = ['a:1']\n";

#[test]
fn routes_are_read_with_the_fields_of_the_registry_s() {
    let text = format!(
        "{ORDERS}[[route]]\nservice = 'orders'\nhost = 'Shop.example'\npath_prefix = '/api'\nmethods = ['GET']\n\
         headers = {{ x-canary = '1', x-trace = true }}\npriority = 3\nrewrite_prefix = '/'\n\
         [[route]]\nname = 'all'\nservice = 'orders'\n"
    );
    let routes = parse(&text, false, SystemTime::now()).unwrap().routes;
    let told: Vec<_> = routes.iter().map(|route| (route.name.as_str(), route.conditions())).collect();
    assert_eq!(
        told,
        [("route-1", "shop.example/api GET x-canary=1 x-trace".to_owned()), ("all", "/".to_owned())]
    );
    assert_eq!((routes[0].priority, routes[0].rewrite_prefix.as_deref()), (3, Some("/")));
}

#[test]
fn a_route_that_is_not_valid_is_refused_with_its_name_and_field() {
    for (routes, why) in [
        ("[[route]]\nservice = 'users'", "route \"route-1\": service: users is none of this file's"),
        (
            "[[route]]\nname = 'x'\nservice = 'orders'\npath_prefix = 'api'",
            "route \"x\": path_prefix: does not begin with a slash: write \"/api\"",
        ),
        (
            "[[route]]\nservice = 'orders'\nheaders = { x = false }",
            "route \"route-1\": headers: x has neither a value nor true, for any",
        ),
        (
            "[[route]]\nname = 'x'\nservice = 'orders'\n[[route]]\nname = 'x'\nservice = 'orders'\nhost = 'a'",
            "route \"x\": name: is used by an earlier route of this file",
        ),
        (
            "[[route]]\nservice = 'orders'\n[[route]]\nservice = 'orders'",
            "route \"route-2\": priority: is that of route route-1, which could match the same request",
        ),
    ] {
        assert_eq!(
            parse(&format!("{ORDERS}{routes}"), false, SystemTime::now()).unwrap_err().to_string(),
            why
        );
    }
}

#[test]
fn a_misspelt_field_or_duration_is_refused_with_its_line() {
    for (text, why) in [
        ("[[service]]\nname = 'a'\nreplica_list = []", "unknown field `replica_list`"),
        (
            "[[service]]\nname = 'a'\nreplicas = ['a:1']\n[service.policy.timeout]\nper_try = '800'",
            "\"800\" is no duration such as \"800ms\" or \"30s\"",
        ),
    ] {
        let error = parse(text, false, SystemTime::now()).unwrap_err().to_string();
        assert!(error.contains(why) && error.contains("line "), "{error}");
    }
}

#[test]
fn a_file_that_is_not_there_says_so() {
    let error = load(Path::new("/nowhere/static.toml"), false, SystemTime::now()).unwrap_err();
    assert!(error.to_string().starts_with("cannot be read: No such file"), "{error}");
}
