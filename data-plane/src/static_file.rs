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
//! zone = "eu-1a"                                       # and region: where it is, for balancing.prefer_local
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
mod fallback;
mod fault;
mod health_check;
mod rate_limit;
mod written;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::SystemTime,
};

use gateway_proto::{
    Address, Endpoint, Invalid, Locality, Policy, Priority, Protocol, ReplicaId, Route, ServiceName, Weight,
    policy, time::duration, v1,
};
use serde::{Deserialize, Deserializer, de::Error as _};

use self::{
    concurrency::ConcurrencyTable,
    fallback::FallbackTable,
    fault::FaultTable,
    health_check::HealthCheckTable,
    rate_limit::RateLimitTable,
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

/// Reads and checks a static file. Faults that it injects have to be allowed, and to end within a day from `now`; their end may
/// have passed.
///
/// # Errors
/// [`StaticFileError`]; a file is taken whole or not at all.
pub fn load(path: &Path, allows_faults: bool, now: SystemTime) -> Result<StaticFile, StaticFileError> {
    parse(&std::fs::read_to_string(path)?, allows_faults, now)
}

fn parse(text: &str, allows_faults: bool, now: SystemTime) -> Result<StaticFile, StaticFileError> {
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
            let spec =
                table.check(allows_faults, now).and_then(|spec| match names.insert(spec.name.clone()) {
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
    protocol: Option<String>,
    #[serde(default)]
    tls_server_name: String,
    id: Option<String>,
    weight: Option<i32>,
    priority: Option<i32>,
    region: Option<String>,
    zone: Option<String>,
}

impl ServiceTable {
    fn check(self, allows_faults: bool, now: SystemTime) -> Result<ServiceSpec, Invalid> {
        let plain = self.replicas.into_iter().map(|address| ReplicaTable {
            address,
            protocol: None,
            tls_server_name: String::new(),
            id: None,
            weight: None,
            priority: None,
            region: None,
            zone: None,
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
            if replicas.iter().any(|other| other.endpoint.address == replica.endpoint.address) {
                let why = format!("{} is used by an earlier replica", replica.endpoint.address);
                return Err(Invalid::new(format!("replica {place}.address"), why));
            }
            replicas.push(replica);
        }
        replicas.sort_by(|a, b| a.id.cmp(&b.id));
        let name = ServiceName::parse(&self.name)?;
        if self.policy.fault.is_some() && !allows_faults {
            let why =
                "injects faults on purpose: start the data plane with --allow-fault-injection to allow it";
            return Err(Invalid::new("policy.fault", why));
        }
        let policy = Policy::parse(&self.policy.into()).map_err(|invalid| invalid.within("policy"))?;
        policy.fault.check_written(now).map_err(|invalid| invalid.within("policy"))?;
        Ok(ServiceSpec { name, policy, replicas })
    }
}

impl ReplicaTable {
    fn check(self, place: usize) -> Result<ReplicaSpec, Invalid> {
        let id = self.id.unwrap_or_else(|| format!("r-{place}"));
        let listed = ReplicaSpec::listed(ReplicaId::parse(&id)?, Address::parse(&self.address)?);
        let protocol: Protocol = self.protocol.as_deref().map_or(Ok(Protocol::HTTP1), str::parse)?;
        let protocol = protocol.named(&self.tls_server_name)?;
        Ok(ReplicaSpec {
            endpoint: Endpoint { protocol, ..listed.endpoint },
            weight: Weight::parse(self.weight.unwrap_or_default())?,
            priority: Priority::parse(self.priority.unwrap_or_default())?,
            locality: Locality::parse(v1::Locality {
                region: self.region.unwrap_or_default(),
                zone: self.zone.unwrap_or_default(),
            })?,
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
    fault: Option<FaultTable>,
    fallback: FallbackTable,
    rate_limit: RateLimitTable,
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
    methods: Vec<String>,
    idempotency_key: Option<bool>,
    max_pushback: Option<Span>,
    hedge_delay: Option<Span>,
    max_hedge_count: Option<i32>,
    hedge_methods: Vec<String>,
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
    prefer_local: Option<bool>,
    overprovisioning_factor: Option<f64>,
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
        PolicyTable {
            timeout,
            retry,
            breaker,
            request,
            balancing,
            health_check,
            concurrency,
            fault,
            fallback,
            rate_limit,
        }: PolicyTable,
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
                methods: retry.methods,
                idempotency_key: retry.idempotency_key,
                max_pushback: wire(retry.max_pushback),
                hedge_delay: wire(retry.hedge_delay),
                max_hedge_count: retry.max_hedge_count,
                hedge_methods: retry.hedge_methods,
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
                prefer_local: balancing.prefer_local,
                overprovisioning_factor: balancing.overprovisioning_factor,
            }),
            health_check: Some(health_check.into()),
            concurrency: Some(concurrency.into()),
            fault: fault.map(Into::into),
            fallback: Some(fallback.into()),
            rate_limit: Some(rate_limit.into()),
            ..Default::default()
        }
    }
}

#[cfg(test)]
mod tests;
