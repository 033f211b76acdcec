//! Metrics, read from where they are counted at the moment of each scrape.
//!
//! Labels are bounded by the registry: services, states, results, never paths, clients or addresses. Every state of a
//! breaker and of health is always present, 0 included, so that an absent series means a broken scrape.

mod families;
mod requests;

use std::{fmt, sync::Arc, time::UNIX_EPOCH};

use gateway_proto::{Health, Mode};
use gateway_runtime::{build::BUILD, tls::Uses, usage};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, text},
    registry::Registry,
};
use tokio::time::Instant;

use super::Admin;
use crate::{
    health::{CHECK_BOUNDS, CheckKind, Ended},
    proxy::Active,
    report::{journal::Kind, rows::state_name},
    routing::State,
    table::{Direction, FaultKind, Injecting, Replica, Service, Services, Standing},
};
use families::{Counted, Families};
use requests::Grain;

const HEALTHS: [Health; 5] =
    [Health::Starting, Health::Healthy, Health::Degraded, Health::Unhealthy, Health::Lost];
const MODES: [Mode; 3] = [Mode::Serving, Mode::Draining, Mode::Drained];
/// As metrics name what checks show, in the order of [`crate::health::check::Verdict`].
const CHECK_VERDICTS: [&str; 3] = ["pending", "passing", "failing"];
/// Breakers that are not closed are named one by one up to this many: beyond that the counts have to do.
const MAX_NAMED_BREAKERS: usize = 2000;

/// One scrape.
#[derive(Debug)]
pub(super) struct Metrics(Arc<Admin>);

impl Metrics {
    pub(super) fn new(admin: Arc<Admin>) -> Self {
        Self(admin)
    }

    /// All metrics as OpenMetrics text.
    pub(super) fn encode(self) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut out = String::new();
        text::encode(&mut out, &registry).expect("writing to a String does not fail");
        out
    }

    fn encode_faults(&self, services: &Services, out: &mut Families<'_>) -> fmt::Result {
        let now = self.0.clock.now();
        let state = |service: &Service, state: Injecting| u64::from(service.injecting(now) == state);
        let states = services.values().flat_map(|service| {
            let name = service.name().as_str();
            [
                ([name, "in_force"], state(service, Injecting::InForce)),
                ([name, "ignored"], state(service, Injecting::Ignored)),
            ]
        });
        out.gauges(
            "gateway_fault_injection",
            "1 while a policy injects faults on purpose: in force here, or ignored without --allow-fault-injection",
            ["service", "state"],
            states,
        )?;
        let injected = services.values().flat_map(|service| {
            FaultKind::ALL
                .map(|kind| ([service.name().as_str(), kind.as_str()], service.injected_count(kind)))
        });
        out.counters(
            "gateway_faults_injected",
            "Faults injected into requests on purpose",
            ["service", "kind"],
            injected,
        )?;
        let skipped = services.values().map(|service| ([service.name().as_str()], service.delays_skipped()));
        out.counters(
            "gateway_fault_delays_skipped",
            "Delays that were not injected because as many requests were delayed as may be at once",
            ["service"],
            skipped,
        )
    }

    fn encode_tunnels(&self, services: &Services, out: &mut Families<'_>) -> fmt::Result {
        let totals: Vec<_> =
            services.values().map(|service| (service.name().as_str(), service.tunnels().totals())).collect();
        out.counters(
            "gateway_tunnels",
            "Connections that have switched to another protocol, which makes a tunnel of them",
            ["service"],
            totals.iter().map(|(service, (opened, _))| ([*service], *opened)),
        )?;
        out.gauges(
            "gateway_tunnels_open",
            "Tunnels that have not ended",
            ["service"],
            totals.iter().map(|(service, (_, open))| ([*service], *open)),
        )?;
        let bytes = services.values().flat_map(|service| {
            let of = |direction| service.tunnels().bytes(direction);
            Direction::ALL.map(|direction| ([service.name().as_str(), direction.as_str()], of(direction)))
        });
        out.counters(
            "gateway_tunnel_bytes",
            "Bytes passed on in tunnels: upstream to replicas, downstream to clients",
            ["service", "direction"],
            bytes,
        )
    }

    fn encode_replicas(&self, services: &Services, out: &mut Families<'_>) -> fmt::Result {
        let now = self.0.clock.now();
        let (mut breakers, mut healths, mut modes) = (Vec::new(), Vec::new(), Vec::new());
        let (mut not_closed, mut available) = (Vec::new(), Vec::new());
        for service in services.values() {
            let name = service.name().as_str();
            let mut states = [0; State::ALL.len()];
            let mut ready = 0;
            let policy = service.policy();
            for replica in service.replicas().iter() {
                let state = replica.breaker_view(now, &policy.breaker).state;
                let is_asked =
                    replica.takes_requests() && replica.standing(&policy.health_check) == Standing::Asked;
                ready += u64::from(is_asked && state.lets_all_through());
                if let Some(index) = State::ALL.iter().position(|one| *one == state) {
                    states[index] += 1;
                }
                if state != State::Closed && not_closed.len() < MAX_NAMED_BREAKERS {
                    let id = replica.key().replica.to_string();
                    not_closed.push(([name.to_owned(), id, state_name(state).to_owned()], 1));
                }
            }
            available.push(([name], ready));
            let named = State::ALL.iter().zip(states);
            breakers.extend(named.map(|(state, count)| ([name, state_name(*state)], count)));
            let counts = count_by(service, &HEALTHS, |replica| replica.health());
            let named = HEALTHS.iter().zip(counts);
            healths.extend(named.map(|(health, count)| ([name.to_owned(), health.to_string()], count)));
            let counts = count_by(service, &MODES, |replica| replica.spec().mode);
            let named = MODES.iter().zip(counts);
            modes.extend(named.map(|(mode, count)| ([name.to_owned(), mode.to_string()], count)));
        }
        out.gauges("gateway_breakers", "Breakers, by state", ["service", "state"], breakers)?;
        out.gauges(
            "gateway_available_replicas",
            "Replicas that take requests: they serve, do not fail their checks, and their breakers let all through",
            ["service"],
            available,
        )?;
        let fail_open = |service: &Service| u64::from(service.fail_open().is_some());
        out.gauges(
            "gateway_fail_open",
            "1 while so few replicas let traffic through that those with open breakers are asked, too",
            ["service"],
            services.values().map(|service| ([service.name().as_str()], fail_open(service))),
        )?;
        out.gauges(
            "gateway_replica_breaker_state",
            "1 for each breaker that is not closed, at most 2000 of them",
            ["service", "replica", "state"],
            not_closed,
        )?;
        out.gauges("gateway_replicas", "Replicas, by the registry's health", ["service", "health"], healths)?;
        out.gauges("gateway_replica_modes", "Replicas, by what was asked of them", ["service", "mode"], modes)
    }

    fn encode_transitions(&self, services: &Services, out: &mut Families<'_>) -> fmt::Result {
        let counts = self.0.journal.counts();
        let mut values = Vec::new();
        for service in services.keys() {
            let counted = counts.get(service);
            let count = |kind| counted.and_then(|kinds| kinds.get(kind)).copied().unwrap_or(0);
            let others = counted.into_iter().flat_map(|kinds| kinds.keys());
            let others = others.filter(|kind| !Kind::USUAL.contains(kind));
            for kind in Kind::USUAL.iter().chain(others) {
                values.push(([service.as_str(), kind.from, kind.to, kind.trigger], count(kind)));
            }
        }
        out.counters(
            "gateway_breaker_transitions",
            "Steps of breakers, by what caused them",
            ["service", "from", "to", "trigger"],
            values,
        )
    }

    fn encode_checks(&self, services: &Services, out: &mut Families<'_>) -> fmt::Result {
        let counts = &self.0.checks;
        let ended = CheckKind::ALL
            .into_iter()
            .flat_map(|kind| Ended::ALL.map(|ended| ([kind.name(), ended.name()], counts.read(kind, ended))));
        let help = "Health checks that ended, by their type, port: whether anybody listens again; void ones could not be carried out";
        out.counters("gateway_health_checks", help, ["type", "result"], ended)?;
        let mut replicas = Vec::new();
        for service in services.values() {
            let policy = service.policy().health_check;
            let mut counts = [0; CHECK_VERDICTS.len()];
            for replica in service.replicas().iter().filter(|one| one.check_method(&policy).is_some()) {
                let verdict = replica.check().verdict();
                counts[verdict as usize] += 1;
            }
            let named = CHECK_VERDICTS.iter().zip(counts);
            replicas.extend(named.map(|(state, count)| ([service.name().as_str(), state], count)));
        }
        let help = "Replicas that are checked, by what their checks show";
        out.gauges("gateway_health_check_replicas", help, ["service", "state"], replicas)?;
        let (_, under_way, late) = counts.load();
        let under_way = i64::try_from(under_way).unwrap_or(i64::MAX);
        out.gauge("gateway_health_checks_inflight", "Health checks under way", under_way)?;
        let help = "How long the health check that is most overdue has waited for a place, or for --health-check-rate";
        out.gauge("gateway_health_check_lateness_seconds", help, late.as_secs_f64())?;
        let (sum, durations) = counts.durations();
        let durations = Counted { sum, counts: durations.to_vec() };
        let help = "How long health checks took";
        let all: [([&str; 0], _); 1] = [([], durations)];
        out.histograms("gateway_health_check_duration_seconds", help, [], &CHECK_BOUNDS, all)
    }

    fn encode_link(&self, out: &mut Families<'_>) -> fmt::Result {
        let status = self.0.view.status.borrow().clone();
        let (revision, held, routes) = {
            let mirror = self.0.view.mirror.borrow();
            (mirror.snapshot().revision(), mirror.guard().len(), mirror.snapshot().routes().len())
        };
        let age = status.age(Instant::now()).unwrap_or_default();
        out.gauge("gateway_snapshot_revision", "Revision of the registry in use", revision)?;
        out.gauge(
            "gateway_snapshot_age_seconds",
            "Time since the snapshot in use was known to be current; 0 without one",
            age.as_secs_f64(),
        )?;
        let since = status.store_silent_since.map(|since| Instant::now().saturating_duration_since(since));
        out.gauge(
            "gateway_control_plane_store_silence_seconds",
            "How long the control plane that is followed has not heard of its store, as far as it says so; 0 while it does",
            since.unwrap_or_default().as_secs_f64(),
        )?;
        out.gauge(
            "gateway_guard_held_replicas",
            "Replicas that the registry has dropped and that are routed to all the same",
            i64::try_from(held).unwrap_or(i64::MAX),
        )?;
        let routes = i64::try_from(routes).unwrap_or(i64::MAX);
        out.gauge("gateway_explicit_routes", "Explicit routes in use", routes)?;
        out.counter("gateway_snapshot_nacks", "Updates refused", status.nacks)?;
        out.gauge(
            "gateway_control_plane_connected",
            "1 while a control plane is followed",
            i64::from(status.connected),
        )?;
        out.gauges(
            "gateway_control_plane_followed",
            "1 for the control plane that is followed",
            ["url"],
            status.url.iter().filter(|_| status.connected).map(|url| ([url.to_string()], 1)),
        )?;
        out.counter(
            "gateway_control_plane_moves",
            "Times that another control plane was followed than before",
            status.moves,
        )?;
        out.counters(
            "gateway_control_plane_streams_ended",
            "Snapshot streams that ended, and attempts to begin one that failed, by why",
            ["reason"],
            status.ended.iter().map(|(reason, count)| ([*reason], *count)),
        )
    }

    fn encode_clients(&self, out: &mut Families<'_>) -> fmt::Result {
        let Active { connections, .. } = self.0.watch.active();
        let connections = i64::try_from(connections).unwrap_or(i64::MAX);
        out.gauge("gateway_connections", "Connections of clients that are open", connections)?;
        let most = i64::try_from(self.0.max_connections).unwrap_or(i64::MAX);
        out.gauge("gateway_connections_limit", "How many connections of clients may be open at once", most)?;
        let [open, passed, missed] = self.0.watch.pipes();
        let help = "Pipes through which long bodies pass without being copied, two file descriptors each";
        out.gauge("gateway_pipes", help, i64::try_from(open).unwrap_or(i64::MAX))?;
        out.counter("gateway_piped_bytes", "Bytes of bodies that have passed through pipes", passed)?;
        let help = "Times that a part of a long body was copied because there was no pipe to be had";
        out.counter("gateway_pipes_missed", help, missed)
    }

    fn encode_refusals(&self, out: &mut Families<'_>) -> fmt::Result {
        out.counters(
            "gateway_refusals",
            "Requests that the gateway answered itself and connections that it ended, by reason",
            ["reason"],
            self.0.refusals.read().map(|(reason, count)| ([reason], count)),
        )
    }

    fn encode_rate_keys(&self, out: &mut Families<'_>) -> fmt::Result {
        let help = "Keys of rate limits that were forgotten too soon, because too many others came";
        out.counter("gateway_rate_limit_keys_forgotten", help, self.0.table.rate_keys_forgotten())
    }

    fn encode_access_log(&self, out: &mut Families<'_>) -> fmt::Result {
        let Some(log) = &self.0.access_log else { return Ok(()) };
        out.counters(
            "gateway_access_log_lost_lines",
            "Lines of the access log that were lost: the writer did not keep up, or could not write",
            ["reason"],
            [(["queue_full"], log.lost()), (["write_failed"], log.failed())],
        )
    }

    fn encode_traces(&self, out: &mut Families<'_>) -> fmt::Result {
        let Some(tracer) = &self.0.tracer else { return Ok(()) };
        let help = "Spans that a collector has taken";
        out.counter("gateway_trace_spans_exported", help, tracer.exported())?;
        out.counters(
            "gateway_trace_spans_lost",
            "Spans that were lost: too many waited, the collector did not take them, or rejected them",
            ["reason"],
            tracer.lost().map(|(reason, count)| ([reason], count)),
        )
    }

    fn encode_process(&self, out: &mut Families<'_>) -> fmt::Result {
        let admin = &self.0;
        let tls = admin.tls.as_ref().map_or(admin.started, |tls| tls.read_at());
        let read_at = admin.started.max(tls).max(admin.upstream_tls.read_at());
        let read_at = read_at.duration_since(UNIX_EPOCH).unwrap_or_default();
        out.gauge(
            "gateway_config_last_reload_success_timestamp_seconds",
            "When flags and files were last read with success: certificates are read again when they change",
            read_at.as_secs_f64(),
        )?;
        for one in usage::read() {
            match one.value {
                usage::Value::Counter(value) => out.fraction(one.name, one.help, value)?,
                usage::Value::Gauge(value) => out.gauge(one.name, one.help, value)?,
            }
        }
        let labels = [("version", self.0.version), ("revision", BUILD.revision), ("rustc", BUILD.rustc)];
        out.info("gateway_build", "Which build this is", &labels)
    }

    fn encode_certificates(&self, out: &mut Families<'_>) -> fmt::Result {
        let uses = &self.0.certificates;
        let ((name, help), labels) = (Uses::ENDS, ["use", "file"]);
        out.gauges(name, help, labels, uses.ends())?;
        let (name, help) = Uses::UNUSABLE;
        out.gauges(name, help, ["use"], uses.unusable())
    }

    fn encode_panics(&self, out: &mut Families<'_>) -> fmt::Result {
        out.counters(
            "gateway_panics",
            "Panics, by what they ended: a request, a connection, or a task that was started again",
            ["task"],
            self.0.panics.read().into_iter().map(|(task, count)| ([task], count)),
        )
    }
}

impl Collector for Metrics {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Families(encoder);
        let services = self.0.table.services();
        let now = self.0.clock.now();
        requests::encode(&services, &Grain::new(self.0.histogram_services), now, &mut out)?;
        self.encode_rate_keys(&mut out)?;
        self.encode_faults(&services, &mut out)?;
        self.encode_tunnels(&services, &mut out)?;
        self.encode_replicas(&services, &mut out)?;
        self.encode_transitions(&services, &mut out)?;
        self.encode_checks(&services, &mut out)?;
        self.encode_link(&mut out)?;
        self.encode_clients(&mut out)?;
        self.encode_refusals(&mut out)?;
        self.encode_panics(&mut out)?;
        self.encode_access_log(&mut out)?;
        self.encode_traces(&mut out)?;
        self.encode_certificates(&mut out)?;
        self.encode_process(&mut out)
    }
}

/// How many of the service's replicas show each of `kinds`, in their order.
fn count_by<K: PartialEq, const N: usize>(
    service: &Service,
    kinds: &[K; N],
    kind_of: impl Fn(&Replica) -> K,
) -> [u64; N] {
    let mut counts = [0; N];
    for replica in service.replicas().iter() {
        if let Some(index) = kinds.iter().position(|kind| *kind == kind_of(replica)) {
            counts[index] += 1;
        }
    }
    counts
}
