//! What Prometheus reads at `/metrics`.
//!
//! Counters are counted where things happen; gauges are set from the present state when somebody asks.

use std::{
    fmt,
    sync::atomic::AtomicU64,
    time::{Duration, SystemTime},
};

use gateway_proto::{reason, time::timestamp, v1};
use gateway_runtime::{build::BUILD, tls::Uses, usage};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text::encode},
    metrics::{
        MetricType,
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::Histogram,
        info::Info,
    },
    registry::Registry,
};
use prost::Message;
use prost_types::FileDescriptorSet;

use crate::{
    observe::{Observation, outdated},
    publish::Publisher,
    registry::{Override, OverrideKind, View},
};

/// All metrics of the control plane.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    services: Gauge,
    replicas: Family<HealthLabels, Gauge>,
    nodes: Family<StateLabels, Gauge>,
    registrations: Family<ResultLabels, Counter>,
    quota_refusals: Family<QuotaLabels, Counter>,
    lease_expirations: Counter,
    guard_holding: Gauge,
    evictions: Counter,
    evictions_held: Gauge,
    commit_seconds: Histogram,
    overrides: Family<KindLabels, Gauge>,
    oldest_override: Gauge<f64, AtomicU64>,
    handled: Family<GrpcLabels, Counter>,
    handling: Family<MethodLabels, Histogram, fn() -> Histogram>,
    panics: Family<TaskLabels, Counter>,
    denials: Family<ReasonLabels, Counter>,
    key_fetches: Family<ResultLabels, Counter>,
    auth_file_unusable: Gauge,
    token_ends: Family<[(&'static str, String); 1], Gauge>,
    peers: Family<StateLabels, Gauge>,
    store_silence: Gauge<f64, AtomicU64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HealthLabels {
    health: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QuotaLabels {
    quota: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct GrpcLabels {
    grpc_service: String,
    grpc_method: String,
    grpc_code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MethodLabels {
    grpc_service: String,
    grpc_method: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TaskLabels {
    task: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

fn fetch_labels(is_done: bool) -> ResultLabels {
    ResultLabels { result: if is_done { "ok" } else { "failed" } }
}

/// How a registration ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Registered {
    Created,
    Replaced,
    Refused,
}

const HEALTHS: [(v1::HealthStatus, &str); 5] = [
    (v1::HealthStatus::Starting, "starting"),
    (v1::HealthStatus::Healthy, "healthy"),
    (v1::HealthStatus::Degraded, "degraded"),
    (v1::HealthStatus::Unhealthy, "unhealthy"),
    (v1::HealthStatus::Lost, "lost"),
];

const STATES: [(v1::NodeState, &str); 5] = [
    (v1::NodeState::Synced, "synced"),
    (v1::NodeState::Lagging, "lagging"),
    (v1::NodeState::Nacked, "nacked"),
    (v1::NodeState::Disconnected, "disconnected"),
    (v1::NodeState::Outdated, "outdated"),
];

const OVERRIDES: [&str; 5] =
    ["breaker_open", "breaker_closed", "breaker_reset", "guard_released", "registration_blocked"];

/// What OpenTelemetry advises for the duration of RPCs, in seconds.
const HANDLING_BOUNDS: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

/// What a panic may end, but for the tasks behind streams.
const PANICKING: [&str; 13] = [
    "accept",
    "auth_file",
    "certificates",
    "connection",
    "drain",
    "expiry",
    "grpc",
    "health",
    "http",
    "jwks",
    "peer_certificates",
    "peers",
    "writer",
];

/// Of what registrations there may be only so many.
const QUOTAS: [&str; 3] = ["registry", "service", "identity"];

/// Why somebody is refused for who he is.
const DENIALS: [&str; 7] = [
    reason::CREDENTIALS_REQUIRED,
    reason::CREDENTIALS_INVALID,
    reason::CREDENTIALS_EXPIRED,
    reason::PERMISSION_DENIED,
    reason::ADDRESS_NOT_ALLOWED,
    reason::RATE_LIMITED,
    reason::QUOTA_EXCEEDED,
];

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            services: Gauge::default(),
            replicas: Family::default(),
            nodes: Family::default(),
            peers: Family::default(),
            store_silence: Gauge::default(),
            registrations: Family::default(),
            quota_refusals: Family::default(),
            lease_expirations: Counter::default(),
            guard_holding: Gauge::default(),
            evictions: Counter::default(),
            evictions_held: Gauge::default(),
            // From a fast disk's fsync to one that somebody should look at.
            commit_seconds: Histogram::new([
                0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0,
            ]),
            overrides: Family::default(),
            oldest_override: Gauge::default(),
            handled: Family::default(),
            handling: Family::new_with_constructor(|| Histogram::new(HANDLING_BOUNDS)),
            panics: Family::default(),
            denials: Family::default(),
            key_fetches: Family::default(),
            auth_file_unusable: Gauge::default(),
            token_ends: Family::default(),
        };
        let registry = &mut metrics.registry;
        registry.register("gateway_registry_services", "Services registered", metrics.services.clone());
        registry.register(
            "gateway_registry_replicas",
            "Replicas registered, by their health",
            metrics.replicas.clone(),
        );
        registry.register(
            "gateway_registry_registrations",
            "Registrations, by how they ended",
            metrics.registrations.clone(),
        );
        registry.register(
            "gateway_registry_quota_refusals",
            "Registrations refused because there are as many as may be: in the registry, in the service, or of the identity",
            metrics.quota_refusals.clone(),
        );
        registry.register(
            "gateway_registry_lease_expirations",
            "Replicas removed because their lease lapsed",
            metrics.lease_expirations.clone(),
        );
        registry.register(
            "gateway_registry_guard_holding_services",
            "Services of which the guard against mass removal holds replicas as LOST",
            metrics.guard_holding.clone(),
        );
        registry.register(
            "gateway_registry_evictions",
            "Replicas removed because data planes could not reach them",
            metrics.evictions.clone(),
        );
        registry.register(
            "gateway_registry_eviction_held_services",
            "Services of which replicas stay that were to be evicted: nothing else passes, or they are too many at once",
            metrics.evictions_held.clone(),
        );
        registry.register(
            "gateway_nodes",
            "Data planes that follow this control plane, by how far they have come",
            metrics.nodes.clone(),
        );
        registry.register(
            "gateway_peer_control_planes",
            "Other control planes of this registry: those that tell what their data planes report, and silent ones",
            metrics.peers.clone(),
        );
        registry.register(
            "gateway_store_silence_seconds",
            "How long a store that control planes share has given this one no sign of life, once that is seconds",
            metrics.store_silence.clone(),
        );
        registry.register(
            "gateway_store_commit_seconds",
            "Time to make one group of changes durable",
            metrics.commit_seconds.clone(),
        );
        registry.register(
            "gateway_overrides",
            "Overrides of operators that have not ended, by what they say",
            metrics.overrides.clone(),
        );
        registry.register(
            "gateway_override_oldest_age_seconds",
            "Time since the oldest of them began; 0 without any",
            metrics.oldest_override.clone(),
        );
        registry.register("grpc_server_handled", "RPCs completed, by their status", metrics.handled.clone());
        registry.register(
            "grpc_server_handling_seconds",
            "How long RPCs took to their end; streams last as long as they are followed",
            metrics.handling.clone(),
        );
        registry.register_collector(Box::new(Process));
        registry.register(
            "gateway_panics",
            "Panics, by the task that they ended; its caller was told INTERNAL or it was started again",
            metrics.panics.clone(),
        );
        registry.register(
            "gateway_access_denied",
            "Requests refused because of who asked, by reason",
            metrics.denials.clone(),
        );
        registry.register(
            "gateway_jwks_fetches",
            "Fetches of the keys of JWTs from their issuer, by whether they gave any",
            metrics.key_fetches.clone(),
        );
        registry.register(
            "gateway_auth_file_unusable",
            "1 while the auth file has changed and cannot be used, so that what it said before holds",
            metrics.auth_file_unusable.clone(),
        );
        registry.register(
            "gateway_auth_token_not_after_timestamp_seconds",
            "When a token of the auth file ends",
            metrics.token_ends.clone(),
        );
        let build = vec![
            ("version", env!("CARGO_PKG_VERSION")),
            ("revision", BUILD.revision),
            ("rustc", BUILD.rustc),
        ];
        registry.register("gateway_build", "Which build this is", Info::new(build));
        for result in [Registered::Created, Registered::Replaced, Registered::Refused] {
            // A counter that appears with its first event looks like a broken scrape until then.
            drop(metrics.registrations.get_or_create(&result.labels()));
        }
        for quota in QUOTAS {
            drop(metrics.quota_refusals.get_or_create(&QuotaLabels { quota }));
        }
        for (service, method) in methods() {
            drop(metrics.handled.get_or_create(&GrpcLabels {
                grpc_service: service,
                grpc_method: method,
                grpc_code: "OK",
            }));
        }
        for task in PANICKING {
            drop(metrics.panics.get_or_create(&TaskLabels { task }));
        }
        for is_done in [true, false] {
            drop(metrics.key_fetches.get_or_create(&fetch_labels(is_done)));
        }
        for reason in DENIALS {
            drop(metrics.denials.get_or_create(&ReasonLabels { reason }));
        }
        metrics
    }

    /// The same, with what there is to be told of files for TLS.
    pub(crate) fn with_certificates(mut self, uses: Uses) -> Self {
        self.registry.register_collector(Box::new(Certificates(uses)));
        self
    }

    pub(crate) fn registered(&self, result: Registered) {
        self.registrations.get_or_create(&result.labels()).inc();
    }

    /// Counts a registration that was refused because there are as many as may be.
    pub(crate) fn exceeded(&self, quota: &'static str) {
        self.quota_refusals.get_or_create(&QuotaLabels { quota }).inc();
    }

    pub(crate) fn lease_expired(&self) {
        self.lease_expirations.inc();
    }

    pub(crate) fn evicted(&self) {
        self.evictions.inc();
    }

    /// Tells of how many services replicas stay that were to be evicted.
    pub(crate) fn evictions_held(&self, services: usize) {
        self.evictions_held.set(i64::try_from(services).unwrap_or(i64::MAX));
    }

    /// Tells of how many services the guard holds replicas.
    pub(crate) fn guard_holds(&self, services: usize) {
        self.guard_holding.set(i64::try_from(services).unwrap_or(i64::MAX));
    }

    /// Counts a panic. `task` must come from the code, not from a caller.
    pub(crate) fn panicked(&self, task: &'static str) {
        self.panics.get_or_create(&TaskLabels { task }).inc();
    }

    /// Counts a request that was refused because of who asked.
    pub(crate) fn denied(&self, reason: &'static str) {
        self.denials.get_or_create(&ReasonLabels { reason }).inc();
    }

    /// Counts a fetch of keys for JWTs.
    pub(crate) fn fetched_keys(&self, is_done: bool) {
        self.key_fetches.get_or_create(&fetch_labels(is_done)).inc();
    }

    /// Notes whether the auth file could be used when it was read last.
    pub(crate) fn read_auth_file(&self, is_usable: bool) {
        self.auth_file_unusable.set((!is_usable).into());
    }

    /// Notes when tokens of the auth file end, by their names.
    pub(crate) fn tokens_end<'a>(&self, ends: impl Iterator<Item = (SystemTime, &'a str)>) {
        self.token_ends.clear();
        for (end, name) in ends {
            self.token_ends.get_or_create(&[("token", name.into())]).set(timestamp(end).seconds);
        }
    }

    pub(crate) fn committed(&self, took: Duration) {
        self.commit_seconds.observe(took.as_secs_f64());
    }

    /// Counts one RPC, which took so long. Service and method must come from a closed list, not from the caller.
    pub(crate) fn handled(&self, service: &str, method: &str, code: &'static str, took: Duration) {
        let (grpc_service, grpc_method) = (service.to_owned(), method.to_owned());
        let labels = MethodLabels { grpc_service: grpc_service.clone(), grpc_method: grpc_method.clone() };
        self.handling.get_or_create(&labels).observe(took.as_secs_f64());
        self.handled.get_or_create(&GrpcLabels { grpc_service, grpc_method, grpc_code: code }).inc();
    }

    /// The OpenMetrics text of `now`, when the store has been silent for so long.
    pub(crate) fn text(
        &self,
        publisher: &Publisher,
        observation: &Observation,
        store_silence: Duration,
        now: SystemTime,
    ) -> String {
        let (revision, services, replicas) = publisher.read(|view| {
            let mut counts = [0_i64; HEALTHS.len()];
            for record in view.replicas() {
                let health = record.shown_health().to_wire();
                if let Some(index) = HEALTHS.iter().position(|(known, _)| *known == health) {
                    counts[index] += 1;
                }
            }
            self.look_at_overrides(view, now);
            (view.revision(), view.services().len(), counts)
        });
        self.services.set(i64::try_from(services).unwrap_or(i64::MAX));
        for ((_, health), count) in HEALTHS.into_iter().zip(replicas) {
            self.replicas.get_or_create(&HealthLabels { health }).set(count);
        }
        self.store_silence.set(store_silence.as_secs_f64());
        let mut nodes = [0; STATES.len()];
        for (state, count) in observation.read(|nodes, _| nodes.count_by_state(revision)) {
            let state = if store_silence.is_zero() { state } else { outdated(state) };
            if let Some(index) = STATES.iter().position(|(known, _)| *known == state) {
                nodes[index] += count;
            }
        }
        for ((_, name), count) in STATES.into_iter().zip(nodes) {
            self.nodes
                .get_or_create(&StateLabels { state: name })
                .set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        let (telling, silent) = observation.peer_counts();
        for (state, count) in [("telling", telling), ("silent", silent)] {
            let gauge = self.peers.get_or_create(&StateLabels { state });
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a string does not fail");
        text
    }

    fn look_at_overrides(&self, view: &View, now: SystemTime) {
        let mut counts = [0_i64; OVERRIDES.len()];
        let mut oldest = Duration::ZERO;
        for entry in view.overrides().filter(|entry| entry.expires_at > now) {
            counts[kind_of(entry)] += 1;
            oldest = oldest.max(now.duration_since(entry.created_at).unwrap_or_default());
        }
        for (kind, count) in OVERRIDES.into_iter().zip(counts) {
            self.overrides.get_or_create(&KindLabels { kind }).set(count);
        }
        self.oldest_override.set(oldest.as_secs_f64());
    }
}

/// Its place among [`OVERRIDES`].
fn kind_of(entry: &Override) -> usize {
    match entry.kind {
        OverrideKind::BreakerOpen => 0,
        OverrideKind::BreakerClosed => 1,
        OverrideKind::BreakerReset => 2,
        OverrideKind::GuardReleased => 3,
        OverrideKind::RegistrationBlocked(_) => 4,
    }
}

/// Services of the contract with their methods.
fn methods() -> impl Iterator<Item = (String, String)> {
    let set = FileDescriptorSet::decode(gateway_proto::FILE_DESCRIPTOR_SET);
    let files = set.expect("descriptors that the build wrote are valid").file;
    files.into_iter().flat_map(|file| {
        let package = file.package.unwrap_or_default();
        file.service.into_iter().flat_map(move |service| {
            let name = format!("{package}.{}", service.name.unwrap_or_default());
            service.method.into_iter().map(move |method| (name.clone(), method.name.unwrap_or_default()))
        })
    })
}

/// What the process takes, read when somebody asks.
#[derive(Debug)]
struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for figure in usage::read() {
            match figure.value {
                usage::Value::Counter(value) => {
                    let metric = ConstCounter::new(value);
                    let kind = metric.metric_type();
                    metric.encode(encoder.encode_descriptor(figure.name, figure.help, None, kind)?)?;
                }
                usage::Value::Gauge(value) => {
                    let metric = ConstGauge::new(value);
                    let kind = metric.metric_type();
                    metric.encode(encoder.encode_descriptor(figure.name, figure.help, None, kind)?)?;
                }
            }
        }
        Ok(())
    }
}

/// What files for TLS are good for, read when somebody asks.
#[derive(Debug)]
struct Certificates(Uses);

impl Collector for Certificates {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (name, help) = Uses::ENDS;
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for ([of, file], end) in self.0.ends() {
            family.encode_family(&[("use", of), ("file", file)])?.encode_gauge(&end)?;
        }
        let (name, help) = Uses::UNUSABLE;
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for ([of], is_unusable) in self.0.unusable() {
            family.encode_family(&[("use", of)])?.encode_gauge(&is_unusable)?;
        }
        Ok(())
    }
}

impl Registered {
    fn labels(self) -> ResultLabels {
        ResultLabels {
            result: match self {
                Self::Created => "created",
                Self::Replaced => "replaced",
                Self::Refused => "refused",
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::View;

    #[test]
    fn every_documented_metric_is_there_from_the_start() {
        let metrics = Metrics::new();
        metrics.handled("gateway.v1.RegistryService", "Register", "OK", Duration::from_millis(7));
        let publisher = Publisher::new("e".into(), View::default());
        let text = metrics.text(&publisher, &Observation::new(1), Duration::ZERO, SystemTime::UNIX_EPOCH);
        for line in [
            "gateway_registry_services 0",
            "gateway_registry_replicas{health=\"degraded\"} 0",
            "gateway_registry_registrations_total{result=\"created\"} 0",
            "gateway_registry_lease_expirations_total 0",
            "gateway_registry_guard_holding_services 0",
            "gateway_registry_evictions_total 0",
            "gateway_registry_eviction_held_services 0",
            "gateway_registry_replicas{health=\"lost\"} 0",
            "gateway_panics_total{task=\"writer\"} 0",
            "gateway_nodes{state=\"synced\"} 0",
            "gateway_nodes{state=\"outdated\"} 0",
            "gateway_store_silence_seconds 0",
            "gateway_store_commit_seconds_count 0",
            "grpc_server_handled_total{grpc_service=\"gateway.v1.RegistryService\",grpc_method=\"Register\",grpc_code=\"OK\"} 1",
            "grpc_server_handled_total{grpc_service=\"gateway.v1.RegistryService\",grpc_method=\"Deregister\",grpc_code=\"OK\"} 0",
            "grpc_server_handling_seconds_bucket{le=\"0.01\",grpc_service=\"gateway.v1.RegistryService\",grpc_method=\"Register\"} 1",
            "gateway_overrides{kind=\"breaker_open\"} 0",
            "gateway_override_oldest_age_seconds 0",
            "gateway_build_info{version=\"",
            "# EOF",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }
}
