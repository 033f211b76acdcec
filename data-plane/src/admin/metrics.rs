//! Metrics, read from where they are counted at the moment of each scrape.
//!
//! Labels are bounded by the registry: services, states, results, never paths, clients or addresses. Every state of a
//! breaker and of health is always present, 0 included, so that an absent series means a broken scrape.

use std::{fmt, ops::Range, sync::Arc};

use gateway_proto::{Health, Mode};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeGaugeValue, NoLabelSet, text},
    metrics::MetricType,
    registry::Registry,
};
use tokio::time::Instant;

use super::Admin;
use crate::{
    health::{CheckCounts, DURATION_BOUNDS, Ended},
    report::rows::state_name,
    routing::{State, middle_of, retry::Stop},
    table::{
        Buckets, CodeClass, Direction, FallbackKind, FaultKind, Injecting, Refusal, Replica, ReplicaCounters,
        RequestOutcome, Service, Services,
    },
};

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

    fn encode_services(&self, services: &Services, out: &mut Families<'_>) -> fmt::Result {
        let mut requests = Vec::new();
        for service in services.values() {
            for class in CodeClass::ALL {
                for outcome in RequestOutcome::ALL {
                    let count = service.counters().read(class, outcome);
                    requests.push(([service.name().as_str(), class.as_str(), outcome.as_str()], count));
                }
            }
        }
        out.counters(
            "gateway_requests",
            "Requests answered, by who answered",
            ["service", "code_class", "outcome"],
            requests,
        )?;
        let attempts: Vec<_> =
            services.values().map(|service| (service.name().as_str(), service.attempts())).collect();
        let each = |read: fn(&ReplicaCounters) -> u64| {
            attempts.iter().map(move |(service, counters)| ([*service], read(counters)))
        };
        out.counters(
            "gateway_upstream_attempts",
            "Attempts sent to replicas",
            ["service"],
            each(|counters| counters.attempts),
        )?;
        out.counters(
            "gateway_upstream_failures",
            "Attempts that failed by the replica's fault",
            ["service"],
            each(|counters| counters.failures),
        )?;
        out.counters(
            "gateway_retries",
            "Attempts that followed a failed one of the same request",
            ["service"],
            each(|counters| counters.retries),
        )?;
        out.gauges(
            "gateway_upstream_inflight",
            "Attempts that have not ended",
            ["service"],
            each(|counters| counters.inflight),
        )?;
        self.encode_concurrency(services, out)?;
        let denied = services.values().flat_map(|service| {
            let count =
                |stop: Stop| ([service.name().as_str(), stop.as_str()], service.counters().stops(stop));
            Stop::ALL.map(count)
        });
        out.counters(
            "gateway_retries_denied",
            "Failed requests that were not tried again, by why",
            ["service", "reason"],
            denied,
        )?;
        let now = self.0.clock.now();
        let budgets: Vec<_> = services
            .values()
            .map(|service| {
                (service.name().as_str(), service.budget().view(now, service.policy().retry.budget_ratio))
            })
            .collect();
        out.gauges(
            "gateway_retry_budget_remaining",
            "Retries that the budget of the last ten seconds still has",
            ["service"],
            budgets.iter().map(|(service, budget)| ([*service], u64::from(budget.remaining))),
        )
    }

    fn encode_fallbacks(&self, services: &Services, out: &mut Families<'_>) -> fmt::Result {
        let counts = services.values().flat_map(|service| {
            FallbackKind::ALL.map(|kind| ([service.name().as_str(), kind.as_str()], service.fallbacks(kind)))
        });
        out.counters(
            "gateway_fallbacks",
            "Requests that another service, or the policy's own answer, was the answer to in place of a failure",
            ["service", "kind"],
            counts.filter(|(_, count)| *count > 0),
        )
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

    fn encode_concurrency(&self, services: &Services, out: &mut Families<'_>) -> fmt::Result {
        let each = |read: fn(&Service) -> u64| {
            services.values().map(move |service| ([service.name().as_str()], read(service)))
        };
        out.gauges(
            "gateway_concurrency_limit",
            "Attempts that may be in flight now, fixed or found by latency; 0 without a limit",
            ["service"],
            each(|service| service.limit().unwrap_or(0)),
        )?;
        out.gauges(
            "gateway_pending_requests",
            "Requests that wait for a place",
            ["service"],
            each(|service| service.pending() as u64),
        )?;
        let refused = services.values().flat_map(|service| {
            Refusal::ALL
                .map(|refusal| ([service.name().as_str(), refusal.as_str()], service.refused(refusal)))
        });
        out.counters(
            "gateway_requests_refused",
            "Requests refused for want of a place, by why",
            ["service", "reason"],
            refused,
        )?;
        let waited = services.values().map(|service| (service.name().as_str(), service.queue_times()));
        out.histograms(
            "gateway_queue_time_seconds",
            "How long requests waited for a place; the sum is estimated from finer buckets",
            "service",
            waited,
        )
    }

    fn encode_replicas(&self, services: &Services, out: &mut Families<'_>) -> fmt::Result {
        let now = self.0.clock.now();
        let (mut breakers, mut healths, mut modes) = (Vec::new(), Vec::new(), Vec::new());
        let mut not_closed = Vec::new();
        for service in services.values() {
            let name = service.name().as_str();
            let mut states = [0; State::ALL.len()];
            for replica in service.replicas().iter() {
                let state = replica.breaker_view(now, &service.policy().breaker).state;
                if let Some(index) = State::ALL.iter().position(|one| *one == state) {
                    states[index] += 1;
                }
                if state != State::Closed && not_closed.len() < MAX_NAMED_BREAKERS {
                    let id = replica.key().replica.to_string();
                    not_closed.push(([name.to_owned(), id, state_name(state).to_owned()], 1));
                }
            }
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

    fn encode_transitions(&self, out: &mut Families<'_>) -> fmt::Result {
        let counts = self.0.journal.counts();
        let values = counts.iter().flat_map(|(service, kinds)| {
            kinds.iter().map(|(kind, count)| ([service.as_str(), kind.from, kind.to, kind.trigger], *count))
        });
        out.counters(
            "gateway_breaker_transitions",
            "Steps of breakers, by what caused them",
            ["service", "from", "to", "trigger"],
            values,
        )
    }

    fn encode_checks(&self, services: &Services, out: &mut Families<'_>) -> fmt::Result {
        let counts = &self.0.checks;
        let ended = CheckCounts::METHODS.into_iter().flat_map(|method| {
            Ended::ALL.map(|ended| ([method.name(), ended.name()], counts.read(method, ended)))
        });
        let help = "Health checks that ended, by their type; void ones could not be carried out";
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
        let help = "How long the health check that is most overdue has waited for a place";
        out.gauge("gateway_health_check_lateness_seconds", help, late.as_secs_f64())?;
        let (sum, durations) = counts.durations();
        out.histogram("gateway_health_check_duration_seconds", "How long health checks took", sum, &durations)
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
        )
    }

    fn encode_refusals(&self, out: &mut Families<'_>) -> fmt::Result {
        out.counters(
            "gateway_refusals",
            "Requests that the gateway answered itself and connections that it ended, by reason",
            ["reason"],
            self.0.refusals.read().map(|(reason, count)| ([reason], count)),
        )
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
        self.encode_services(&services, &mut out)?;
        self.encode_faults(&services, &mut out)?;
        self.encode_tunnels(&services, &mut out)?;
        self.encode_fallbacks(&services, &mut out)?;
        self.encode_replicas(&services, &mut out)?;
        self.encode_transitions(&mut out)?;
        self.encode_checks(&services, &mut out)?;
        self.encode_link(&mut out)?;
        self.encode_refusals(&mut out)?;
        self.encode_panics(&mut out)?;
        self.encode_access_log(&mut out)?;
        let mut build =
            out.0.encode_descriptor("gateway_build", "Which build this is", None, MetricType::Info)?;
        build.encode_info(&[("version", self.0.version)])
    }
}

/// Writes whole families of series.
struct Families<'a>(DescriptorEncoder<'a>);

impl Families<'_> {
    fn counters<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        labels: [&str; N],
        series: impl IntoIterator<Item = ([impl AsRef<str>; N], u64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (values, count) in series {
            let pairs = pairs(labels, &values);
            family.encode_family(&pairs)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
        Ok(())
    }

    fn gauges<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        labels: [&str; N],
        series: impl IntoIterator<Item = ([impl AsRef<str>; N], u64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (values, value) in series {
            let pairs = pairs(labels, &values);
            family.encode_family(&pairs)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    /// One series for each service that has counted anything: most never do.
    fn histograms<'a>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        series: impl IntoIterator<Item = (&'a str, Buckets)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (value, counts) in series {
            let count: u64 = counts.iter().map(|count| u64::from(*count)).sum();
            if count == 0 {
                continue;
            }
            let sum: f64 = counts
                .iter()
                .enumerate()
                .map(|(bucket, count)| middle_of(bucket).as_secs_f64() * f64::from(*count))
                .sum();
            let pairs = [(label, value)];
            family.encode_family(&pairs)?.encode_histogram::<NoLabelSet>(
                sum,
                count,
                &in_powers_of_four(&counts),
                None,
            )?;
        }
        Ok(())
    }

    fn counter(&mut self, name: &str, help: &str, count: u64) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, _, u64>(&count, None)
    }

    /// `counts` by the first of [`DURATION_BOUNDS`] that is not exceeded, and of what exceeds all.
    fn histogram(&mut self, name: &str, help: &str, sum: f64, counts: &[u64]) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        let bounds = DURATION_BOUNDS.iter().copied().chain([f64::MAX]);
        let buckets: Vec<_> = bounds.zip(counts.iter().copied()).collect();
        metric.encode_histogram::<NoLabelSet>(sum, counts.iter().sum(), &buckets, None)
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl EncodeGaugeValue) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }
}

/// Counts up to a millisecond, four of them and so on to four seconds, and beyond.
fn in_powers_of_four(counts: &Buckets) -> Vec<(f64, u64)> {
    let count = |buckets: Range<usize>| counts[buckets].iter().map(|count| u64::from(*count)).sum();
    // A bucket is a quarter power of two of microseconds.
    let ends = (5..=11).map(|power: u32| (8 * power as usize, f64::from(4_u32.pow(power)) / 1e6));
    let (mut from, mut buckets) = (0, Vec::new());
    for (end, bound) in ends {
        buckets.push((bound, count(from..end)));
        from = end;
    }
    buckets.push((f64::MAX, count(from..counts.len())));
    buckets
}

fn pairs<'a, const N: usize>(
    labels: [&'a str; N],
    values: &'a [impl AsRef<str>; N],
) -> [(&'a str, &'a str); N] {
    std::array::from_fn(|index| (labels[index], values[index].as_ref()))
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
