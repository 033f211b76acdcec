//! A fixed list of services and replicas, read from a TOML file once: routing without a control plane.
//!
//! ```toml
//! [[service]]
//! name = "orders"
//! replicas = ["127.0.0.1:9001", "127.0.0.1:9002"]     # or [[service.replica]] tables, or both
//!
//! [[service.replica]]
//! address = "127.0.0.1:9003"
//! id = "big"                                           # default: "r-" and its place, from 1
//! weight = 300                                         # 1..=1000, default 100
//! priority = 1                                         # tier 0..=15, default 0: asked while no lower tier can be
//!
//! [service.policy.timeout]
//! per_try = "800ms"
//!
//! [[route]]                                            # before names in hosts and paths
//! service = "orders"
//! path_prefix = "/api/orders"
//! rewrite_prefix = "/"
//! ```
//!
//! The fields of a policy and of a route have the names, ranges and defaults of the registry's policy.

mod concurrency;
mod health_check;
mod written;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use gateway_proto::{
    Address, Invalid, Policy, Priority, ReplicaId, Route, ServiceName, Weight, policy, time::duration, v1,
};
use serde::{Deserialize, Deserializer, de::Error as _};

use self::{
    concurrency::ConcurrencyTable,
    health_check::HealthCheckTable,
    written::{Size, Span},
};
use crate::table::{ReplicaSpec, ServiceSpec};

/// Why a static file was refused. The text names the service and the field; the caller adds the file.
#[derive(Debug, thiserror::Error)]
pub enum StaticFileError {
    /// The file could not be read.
    #[error("cannot be read: {0}")]
    Unreadable(#[from] std::io::Error),
    /// It is not TOML of this shape; the text points at line and column.
    #[error("{0}")]
    Malformed(#[from] toml::de::Error),
    /// A value is not valid.
    #[error("service {service:?}: {invalid}")]
    Invalid {
        /// The service at fault, as written.
        service: String,
        /// The fields at fault.
        invalid: Invalid,
    },
    /// A route is not valid, or contradicts an earlier one.
    #[error("route {route:?}: {invalid}")]
    InvalidRoute {
        /// The route at fault, as written, or by its place.
        route: String,
        /// The fields at fault.
        invalid: Invalid,
    },
    /// It names no service at all.
    #[error("has no [[service]]: a data plane without services has nothing to do")]
    Empty,
}

/// What a static file says.
#[derive(Debug, Clone, PartialEq)]
pub struct StaticFile {
    /// At least one.
    pub services: Vec<ServiceSpec>,
    /// Explicit routes to these, no two of them in conflict.
    pub routes: Vec<Route>,
}

/// Reads and checks a static file.
///
/// # Errors
/// [`StaticFileError`]; a file is taken whole or not at all.
pub fn load(path: &Path) -> Result<StaticFile, StaticFileError> {
    parse(&std::fs::read_to_string(path)?)
}

fn parse(text: &str) -> Result<StaticFile, StaticFileError> {
    let file: File = toml::from_str(text)?;
    if file.service.is_empty() {
        return Err(StaticFileError::Empty);
    }
    let mut names = BTreeSet::new();
    let services = file
        .service
        .into_iter()
        .map(|table| {
            let service = table.name.clone();
            let spec = table.check().and_then(|spec| match names.insert(spec.name.clone()) {
                true => Ok(spec),
                false => Err(Invalid::new("name", "is used by an earlier service of this file")),
            });
            spec.map_err(|invalid| StaticFileError::Invalid { service, invalid })
        })
        .collect::<Result<_, _>>()?;
    let mut routes: Vec<Route> = Vec::with_capacity(file.route.len());
    for (index, table) in file.route.into_iter().enumerate() {
        let name = table.name.clone().unwrap_or_else(|| format!("route-{}", index + 1));
        let route = table.check(&name, &names, &routes);
        routes.push(route.map_err(|invalid| StaticFileError::InvalidRoute { route: name, invalid })?);
    }
    Ok(StaticFile { services, routes })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    service: Vec<ServiceTable>,
    #[serde(default)]
    route: Vec<RouteTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RouteTable {
    name: Option<String>,
    service: String,
    #[serde(default)]
    host: String,
    #[serde(default)]
    path_prefix: String,
    #[serde(default)]
    methods: Vec<String>,
    /// A name, and the value that it must have; `true`: any.
    #[serde(default)]
    headers: BTreeMap<String, HeaderValue>,
    #[serde(default)]
    priority: i32,
    #[serde(default)]
    rewrite_prefix: String,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "the value that the header must have, or true for any")]
enum HeaderValue {
    Is(String),
    IsThere(bool),
}

impl RouteTable {
    fn check(
        self,
        name: &str,
        services: &BTreeSet<ServiceName>,
        earlier: &[Route],
    ) -> Result<Route, Invalid> {
        let header = |(name, value)| match value {
            HeaderValue::Is(value) if !value.is_empty() => Ok(v1::HeaderMatch { name, value }),
            HeaderValue::IsThere(true) => Ok(v1::HeaderMatch { name, value: String::new() }),
            HeaderValue::Is(_) | HeaderValue::IsThere(false) => {
                Err(Invalid::new("headers", format!("{name} has neither a value nor true, for any")))
            }
        };
        let route = Route::parse(&v1::Route {
            name: name.to_owned(),
            service: self.service,
            host: self.host,
            path_prefix: self.path_prefix,
            methods: self.methods,
            headers: self.headers.into_iter().map(header).collect::<Result<_, _>>()?,
            priority: self.priority,
            rewrite_prefix: self.rewrite_prefix,
            ..Default::default()
        })?;
        if !services.contains(&route.service) {
            return Err(Invalid::new("service", format!("{} is none of this file's", route.service)));
        }
        if earlier.iter().any(|other| other.name == route.name) {
            return Err(Invalid::new("name", "is used by an earlier route of this file"));
        }
        if let Some(other) = earlier.iter().find(|other| other.conflicts_with(&route)) {
            let why = format!("is that of route {}, which could match the same request", other.name);
            return Err(Invalid::new("priority", why));
        }
        Ok(route)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ServiceTable {
    name: String,
    #[serde(default)]
    replicas: Vec<String>,
    #[serde(default)]
    replica: Vec<ReplicaTable>,
    #[serde(default)]
    policy: PolicyTable,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReplicaTable {
    address: String,
    id: Option<String>,
    weight: Option<i32>,
    priority: Option<i32>,
}

impl ServiceTable {
    fn check(self) -> Result<ServiceSpec, Invalid> {
        let plain = self.replicas.into_iter().map(|address| ReplicaTable {
            address,
            id: None,
            weight: None,
            priority: None,
        });
        let tables: Vec<_> = plain.chain(self.replica).collect();
        if tables.is_empty() {
            return Err(Invalid::new("replicas", "is empty: a service needs at least one address"));
        }
        let mut replicas: Vec<ReplicaSpec> = Vec::with_capacity(tables.len());
        for (index, table) in tables.into_iter().enumerate() {
            let place = index + 1;
            let replica =
                table.check(place).map_err(|invalid| invalid.within(&format!("replica {place}")))?;
            if replicas.iter().any(|other| other.id == replica.id) {
                let why = format!("{} is used by an earlier replica", replica.id);
                return Err(Invalid::new(format!("replica {place}.id"), why));
            }
            if replicas.iter().any(|other| other.address == replica.address) {
                let why = format!("{} is used by an earlier replica", replica.address);
                return Err(Invalid::new(format!("replica {place}.address"), why));
            }
            replicas.push(replica);
        }
        replicas.sort_by(|a, b| a.id.cmp(&b.id));
        let name = ServiceName::parse(&self.name)?;
        let policy = Policy::parse(&self.policy.into()).map_err(|invalid| invalid.within("policy"))?;
        Ok(ServiceSpec { name, policy, replicas })
    }
}

impl ReplicaTable {
    fn check(self, place: usize) -> Result<ReplicaSpec, Invalid> {
        let id = self.id.unwrap_or_else(|| format!("r-{place}"));
        let listed = ReplicaSpec::listed(ReplicaId::parse(&id)?, Address::parse(&self.address)?);
        Ok(ReplicaSpec {
            weight: Weight::parse(self.weight.unwrap_or_default())?,
            priority: Priority::parse(self.priority.unwrap_or_default())?,
            ..listed
        })
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct PolicyTable {
    timeout: TimeoutTable,
    retry: RetryTable,
    breaker: BreakerTable,
    request: RequestTable,
    balancing: BalancingTable,
    health_check: HealthCheckTable,
    concurrency: ConcurrencyTable,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct TimeoutTable {
    connect: Option<Span>,
    per_try: Option<Span>,
    request: Option<Span>,
    stream_idle: Option<Span>,
    tunnel_idle: Option<Span>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RetryTable {
    max_retry_count: Option<i32>,
    budget_ratio: Option<f64>,
    base_backoff: Option<Span>,
    max_backoff: Option<Span>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct BreakerTable {
    consecutive_failure_count: Option<i32>,
    failure_ratio: Option<f64>,
    window: Option<Span>,
    min_request_count: Option<i32>,
    base_open: Option<Span>,
    max_open: Option<Span>,
    half_open_success_count: Option<i32>,
    slow_threshold: Option<Span>,
    slow_ratio: Option<f64>,
    peer_latency_factor: Option<f64>,
    max_open_ratio: Option<f64>,
    fail_open_threshold: Option<f64>,
    observe_only: Option<bool>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RequestTable {
    methods: Vec<String>,
    json_only: Option<bool>,
    max_body_bytes: Option<Size>,
    upgrades: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct BalancingTable {
    algorithm: Option<Algorithm>,
    hash_by: Option<String>,
    hash_load_factor: Option<f64>,
    slow_start: Option<Span>,
}

/// An algorithm by its name: "least_request".
struct Algorithm(policy::Algorithm);

impl<'de> Deserialize<'de> for Algorithm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        policy::Algorithm::named(&text).map(Self).ok_or_else(|| {
            D::Error::custom(format!("{text:?} is not one of {}", policy::Algorithm::NAMES.join(", ")))
        })
    }
}

impl From<PolicyTable> for v1::Policy {
    /// The wire form has the ranges and defaults; one place checks them.
    fn from(
        PolicyTable { timeout, retry, breaker, request, balancing, health_check, concurrency }: PolicyTable,
    ) -> Self {
        let wire = |span: Option<Span>| span.map(|span| duration(span.0));
        Self {
            timeout: Some(v1::TimeoutPolicy {
                connect: wire(timeout.connect),
                per_try: wire(timeout.per_try),
                request: wire(timeout.request),
                stream_idle: wire(timeout.stream_idle),
                tunnel_idle: wire(timeout.tunnel_idle),
            }),
            retry: Some(v1::RetryPolicy {
                max_retry_count: retry.max_retry_count,
                budget_ratio: retry.budget_ratio,
                base_backoff: wire(retry.base_backoff),
                max_backoff: wire(retry.max_backoff),
            }),
            breaker: Some(v1::BreakerPolicy {
                consecutive_failure_count: breaker.consecutive_failure_count,
                failure_ratio: breaker.failure_ratio,
                window: wire(breaker.window),
                min_request_count: breaker.min_request_count,
                base_open: wire(breaker.base_open),
                max_open: wire(breaker.max_open),
                half_open_success_count: breaker.half_open_success_count,
                slow_threshold: wire(breaker.slow_threshold),
                slow_ratio: breaker.slow_ratio,
                peer_latency_factor: breaker.peer_latency_factor,
                max_open_ratio: breaker.max_open_ratio,
                fail_open_threshold: breaker.fail_open_threshold,
                observe_only: breaker.observe_only,
            }),
            request: Some(v1::RequestPolicy {
                methods: request.methods,
                json_only: request.json_only,
                max_body_bytes: request.max_body_bytes.map(|size| size.0),
                upgrades: request.upgrades,
            }),
            balancing: Some(v1::BalancingPolicy {
                algorithm: balancing.algorithm.map(|Algorithm(algorithm)| algorithm.number()),
                hash_by: balancing.hash_by,
                hash_load_factor: balancing.hash_load_factor,
                slow_start: wire(balancing.slow_start),
            }),
            health_check: Some(health_check.into()),
            concurrency: Some(concurrency.into()),
            ..Default::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

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
            [service.policy.concurrency]
            max_per_replica = 50
            max_queue_time = "200ms"
            adaptive = "gradient"

            [[service]]
            name = "users"
            replicas = ["127.0.0.1:9004"]
        "#;
        let services = parse(text).unwrap().services;
        let orders = &services[0];
        let ids: Vec<_> = orders.replicas.iter().map(|r| (r.id.as_str(), r.weight.get())).collect();
        assert_eq!(ids, [("big", 300), ("r-1", 100), ("r-2", 100)], "sorted by id");
        let tiers: Vec<_> = orders.replicas.iter().map(|r| r.priority.get()).collect();
        assert_eq!(tiers, [2, 0, 0]);
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
        assert_eq!(
            (check.path.as_str(), check.expected_statuses.to_string()),
            ("/ready", "200,204".to_owned())
        );
        let balancing = orders.policy.balancing;
        assert_eq!(
            (balancing.algorithm.name(), balancing.slow_start),
            ("consistent_hash", Duration::from_secs(20))
        );
        assert_eq!(
            (balancing.hash_by.to_string(), balancing.hash_load_factor),
            ("header:x-user".into(), 1.25)
        );
        let concurrency = orders.policy.concurrency;
        assert_eq!((concurrency.max_per_replica, concurrency.max_pending), (50, 1024));
        assert_eq!(concurrency.max_queue_time, Duration::from_millis(200));
        assert_eq!(concurrency.adaptive, policy::AdaptiveLimit::Gradient);
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
            assert_eq!(parse(text).unwrap_err().to_string(), why, "{text}");
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
        let routes = parse(&text).unwrap().routes;
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
            assert_eq!(parse(&format!("{ORDERS}{routes}")).unwrap_err().to_string(), why);
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
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("line "), "{error}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_says_so() {
        let error = load(Path::new("/nowhere/static.toml")).unwrap_err();
        assert!(error.to_string().starts_with("cannot be read: No such file"), "{error}");
    }
}
