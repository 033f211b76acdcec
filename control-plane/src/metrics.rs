//! What Prometheus reads at `/metrics`.
//!
//! Counters are counted where things happen; gauges are set from the present state when somebody asks.

use std::time::Duration;

use gateway_proto::v1;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::Registry,
};

use crate::{observe::Observation, publish::Publisher};

/// All metrics of the control plane.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    services: Gauge,
    replicas: Family<HealthLabels, Gauge>,
    nodes: Family<StateLabels, Gauge>,
    registrations: Family<ResultLabels, Counter>,
    lease_expirations: Counter,
    guard_holding: Gauge,
    evictions: Counter,
    evictions_held: Gauge,
    commit_seconds: Histogram,
    handled: Family<GrpcLabels, Counter>,
    panics: Family<TaskLabels, Counter>,
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
struct GrpcLabels {
    grpc_service: String,
    grpc_method: String,
    grpc_code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TaskLabels {
    task: &'static str,
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

const STATES: [(v1::NodeState, &str); 4] = [
    (v1::NodeState::Synced, "synced"),
    (v1::NodeState::Lagging, "lagging"),
    (v1::NodeState::Nacked, "nacked"),
    (v1::NodeState::Disconnected, "disconnected"),
];

/// What a panic may end, but for the tasks behind streams.
const PANICKING: [&str; 8] = ["accept", "connection", "drain", "expiry", "grpc", "health", "http", "writer"];

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            services: Gauge::default(),
            replicas: Family::default(),
            nodes: Family::default(),
            registrations: Family::default(),
            lease_expirations: Counter::default(),
            guard_holding: Gauge::default(),
            evictions: Counter::default(),
            evictions_held: Gauge::default(),
            // From a fast disk's fsync to one that somebody should look at.
            commit_seconds: Histogram::new([
                0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0,
            ]),
            handled: Family::default(),
            panics: Family::default(),
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
        registry.register("gateway_nodes", "Data planes, by how far they have come", metrics.nodes.clone());
        registry.register(
            "gateway_store_commit_seconds",
            "Time to make one group of changes durable",
            metrics.commit_seconds.clone(),
        );
        registry.register("grpc_server_handled", "RPCs completed, by their status", metrics.handled.clone());
        registry.register(
            "gateway_panics",
            "Panics, by the task that they ended; its caller was told INTERNAL or it was started again",
            metrics.panics.clone(),
        );
        let version = vec![("version", env!("CARGO_PKG_VERSION"))];
        registry.register("gateway_build", "Which build this is", Info::new(version));
        for result in [Registered::Created, Registered::Replaced, Registered::Refused] {
            // A counter that appears with its first event looks like a broken scrape until then.
            drop(metrics.registrations.get_or_create(&result.labels()));
        }
        for task in PANICKING {
            drop(metrics.panics.get_or_create(&TaskLabels { task }));
        }
        metrics
    }

    pub(crate) fn registered(&self, result: Registered) {
        self.registrations.get_or_create(&result.labels()).inc();
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

    pub(crate) fn committed(&self, took: Duration) {
        self.commit_seconds.observe(took.as_secs_f64());
    }

    /// Counts one RPC. Service and method must come from a closed list, not from the caller.
    pub(crate) fn handled(&self, service: &str, method: &str, code: &'static str) {
        let (grpc_service, grpc_method) = (service.to_owned(), method.to_owned());
        self.handled.get_or_create(&GrpcLabels { grpc_service, grpc_method, grpc_code: code }).inc();
    }

    /// The OpenMetrics text of now.
    pub(crate) fn text(&self, publisher: &Publisher, observation: &Observation) -> String {
        let (revision, services, replicas) = publisher.read(|view| {
            let mut counts = [0_i64; HEALTHS.len()];
            for record in view.replicas() {
                let health = record.shown_health().to_wire();
                if let Some(index) = HEALTHS.iter().position(|(known, _)| *known == health) {
                    counts[index] += 1;
                }
            }
            (view.revision(), view.services().len(), counts)
        });
        self.services.set(i64::try_from(services).unwrap_or(i64::MAX));
        for ((_, health), count) in HEALTHS.into_iter().zip(replicas) {
            self.replicas.get_or_create(&HealthLabels { health }).set(count);
        }
        let nodes = observation.read(|nodes, _| nodes.count_by_state(revision));
        for (state, name) in STATES {
            let count = nodes.get(&state).copied().unwrap_or(0);
            self.nodes
                .get_or_create(&StateLabels { state: name })
                .set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a string does not fail");
        text
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
        metrics.handled("gateway.v1.RegistryService", "Register", "OK");
        let publisher = Publisher::new("e".into(), View::default());
        let text = metrics.text(&publisher, &Observation::new(1));
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
            "gateway_store_commit_seconds_count 0",
            "grpc_server_handled_total{grpc_service=\"gateway.v1.RegistryService\",grpc_method=\"Register\",grpc_code=\"OK\"} 1",
            "gateway_build_info{version=\"",
            "# EOF",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }
}
