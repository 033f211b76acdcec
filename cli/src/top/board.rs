//! The figures behind `gwctl top`: the newest of each service and replica, and a minute of failures.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use gateway_proto::v1::{
    Breaker, BreakerState, ListServicesResponse, ReplicaStats, SilentControlPlane, WatchStatsResponse,
};
use serde_json::{Value, json};

use crate::commands::get::why;

/// Intervals kept of each service: a minute of seconds.
const HISTORY: usize = 60;

/// The figures of one service or one replica.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Figures {
    /// Requests of clients at a service, attempts at a replica, a second.
    pub(crate) rate: f64,
    /// Attempts a second, over all replicas.
    pub(crate) attempt_rate: f64,
    /// Of requests, after retries; `None` without requests.
    pub(crate) success: Option<f64>,
    /// Of attempts, as if nobody had tried again.
    pub(crate) success_before_retry: Option<f64>,
    /// Retries to requests.
    pub(crate) retried: Option<f64>,
    pub(crate) p50: Option<Duration>,
    pub(crate) p95: Option<Duration>,
    pub(crate) p99: Option<Duration>,
    pub(crate) inflight: i32,
}

/// One service.
#[derive(Debug, Clone, Default)]
pub(crate) struct Service {
    pub(crate) name: String,
    pub(crate) figures: Figures,
    pub(crate) replica_count: i32,
    pub(crate) ready_count: i32,
    pub(crate) open_count: i32,
    /// The part of requests that failed in each interval, oldest first; `None` without requests.
    pub(crate) failures: VecDeque<Option<f64>>,
    pub(crate) replicas: Vec<Replica>,
}

/// One replica.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Replica {
    pub(crate) id: String,
    pub(crate) figures: Figures,
    pub(crate) state: BreakerState,
    /// Why its breaker is not closed; `-` while it is.
    pub(crate) why: String,
}

/// By what services are ordered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Order {
    #[default]
    Worst,
    Name,
    Rate,
    Latency,
}

impl Order {
    /// The next one, round and round.
    pub(crate) fn next(self) -> Self {
        match self {
            Self::Worst => Self::Rate,
            Self::Rate => Self::Latency,
            Self::Latency => Self::Name,
            Self::Name => Self::Worst,
        }
    }

    /// For people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Worst => "worst first",
            Self::Name => "by name",
            Self::Rate => "by rate",
            Self::Latency => "by P99",
        }
    }
}

/// All of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Board {
    services: BTreeMap<String, Service>,
    pub(crate) revision: i64,
    /// Data planes in the figures.
    pub(crate) node_count: i32,
    /// Control planes of whose data planes nothing is in the figures, and why.
    pub(crate) silent: Vec<SilentControlPlane>,
    pub(crate) interval: Duration,
}

impl Board {
    /// Takes in what is registered and how the breakers are; forgets services that are gone.
    pub(crate) fn registered(&mut self, services: &ListServicesResponse, breakers: &[Breaker]) {
        self.revision = services.revision;
        let known: BTreeMap<_, _> =
            services.services.iter().map(|service| (service.service.as_str(), service)).collect();
        self.services.retain(|name, _| known.contains_key(name.as_str()));
        for (name, service) in known {
            let kept = self.services.entry(name.to_owned()).or_default();
            kept.name = name.to_owned();
            kept.replica_count = service.replica_count;
            kept.ready_count = service.ready_replica_count;
            kept.open_count = service.open_breaker_count;
            let mut replicas: Vec<Replica> = breakers
                .iter()
                .filter(|breaker| breaker.service == name)
                .map(|breaker| Replica {
                    id: breaker.replica_id.clone(),
                    figures: kept.figures_of(&breaker.replica_id),
                    state: breaker.state(),
                    why: why(breaker),
                })
                .collect();
            replicas.sort_by(|a, b| a.id.cmp(&b.id));
            kept.replicas = replicas;
        }
    }

    /// Takes in the figures of an interval. What is not in it had no requests.
    pub(crate) fn measured(&mut self, response: &WatchStatsResponse) {
        let interval = response.interval.and_then(|span| Duration::try_from(span).ok()).unwrap_or_default();
        self.interval = if interval.is_zero() { Duration::from_secs(1) } else { interval };
        self.node_count = response.node_count;
        self.silent.clone_from(&response.silent_control_planes);
        let seconds = self.interval.as_secs_f64();
        let mut by_service: BTreeMap<&str, Vec<&ReplicaStats>> = BTreeMap::new();
        for stats in &response.stats {
            by_service.entry(&stats.service).or_default().push(stats);
        }
        for (name, service) in &mut self.services {
            let rows = by_service.remove(name.as_str()).unwrap_or_default();
            service.take(&rows, seconds);
        }
    }

    /// Services in an order, those whose name holds `filter`.
    pub(crate) fn services(&self, order: Order, filter: &str) -> Vec<&Service> {
        let mut services: Vec<_> =
            self.services.values().filter(|service| service.name.contains(filter)).collect();
        services.sort_by(|a, b| compare(a, b, order).then_with(|| a.name.cmp(&b.name)));
        services
    }

    /// One of them.
    pub(crate) fn service(&self, name: &str) -> Option<&Service> {
        self.services.get(name)
    }

    /// Requests a second, over all services.
    pub(crate) fn rate(&self) -> f64 {
        self.services.values().map(|service| service.figures.rate).sum()
    }

    /// Replicas, those that are ready, and those whose breaker is not closed somewhere.
    pub(crate) fn counts(&self) -> (i32, i32, i32) {
        self.services.values().fold((0, 0, 0), |(all, ready, open), service| {
            (all + service.replica_count, ready + service.ready_count, open + service.open_count)
        })
    }

    /// For programs.
    pub(crate) fn to_json(&self, order: Order, filter: &str) -> Value {
        let services: Vec<_> = self
            .services(order, filter)
            .into_iter()
            .map(|service| {
                let replicas: Vec<_> = service
                    .replicas
                    .iter()
                    .map(|replica| {
                        let mut value = json(&replica.figures);
                        value["replicaId"] = json!(replica.id);
                        value["breakerState"] = json!(replica.state.as_str_name());
                        value
                    })
                    .collect();
                let mut value = json(&service.figures);
                value["service"] = json!(service.name);
                value["replicaCount"] = json!(service.replica_count);
                value["readyReplicaCount"] = json!(service.ready_count);
                value["openBreakerCount"] = json!(service.open_count);
                value["replicas"] = json!(replicas);
                value
            })
            .collect();
        json!({
            "services": services,
            "nodeCount": self.node_count,
            "silentControlPlanes": self.silent.iter().map(|silent| &silent.address).collect::<Vec<_>>(),
            "revision": self.revision.to_string(),
            "intervalSeconds": self.interval.as_secs_f64(),
        })
    }
}

impl Service {
    fn figures_of(&self, replica_id: &str) -> Figures {
        let found = self.replicas.iter().find(|replica| replica.id == replica_id);
        found.map(|replica| replica.figures.clone()).unwrap_or_default()
    }

    fn take(&mut self, rows: &[&ReplicaStats], seconds: f64) {
        let of_replicas = || rows.iter().filter(|row| !row.replica_id.is_empty());
        let attempts: i64 = of_replicas().map(|row| row.request_count).sum();
        let failed_attempts: i64 = of_replicas().map(|row| row.failure_count).sum();
        let mut figures =
            rows.iter().find(|row| row.replica_id.is_empty()).map_or_else(Figures::default, |row| {
                let mut figures = figures(row, seconds);
                figures.retried = ratio(row.retry_count, row.request_count);
                figures
            });
        figures.attempt_rate = count(attempts) / seconds;
        figures.success_before_retry = ratio(attempts - failed_attempts, attempts);
        self.failures.push_back(figures.success.map(|success| 1.0 - success));
        if self.failures.len() > HISTORY {
            self.failures.pop_front();
        }
        self.figures = figures;
        for replica in &mut self.replicas {
            let row = of_replicas().find(|row| row.replica_id == replica.id);
            replica.figures = row.map_or_else(Figures::default, |row| figures_of_replica(row, seconds));
        }
    }
}

fn figures(row: &ReplicaStats, seconds: f64) -> Figures {
    let span = |span: Option<prost_types::Duration>| span.and_then(|span| Duration::try_from(span).ok());
    Figures {
        rate: count(row.request_count) / seconds,
        success: ratio(row.request_count - row.failure_count, row.request_count),
        p50: span(row.latency_p50),
        p95: span(row.latency_p95),
        p99: span(row.latency_p99),
        inflight: row.inflight_count,
        ..Figures::default()
    }
}

fn figures_of_replica(row: &ReplicaStats, seconds: f64) -> Figures {
    let figures = figures(row, seconds);
    Figures { attempt_rate: figures.rate, success_before_retry: figures.success, ..figures }
}

fn ratio(part: i64, whole: i64) -> Option<f64> {
    (whole > 0).then(|| (count(part) / count(whole)).clamp(0.0, f64::MAX))
}

#[expect(clippy::cast_precision_loss, reason = "2^53 requests in an interval are not to be expected")]
fn count(count: i64) -> f64 {
    count as f64
}

fn compare(a: &Service, b: &Service, order: Order) -> Ordering {
    let (x, y) = (&a.figures, &b.figures);
    match order {
        Order::Name => Ordering::Equal,
        Order::Rate => y.rate.total_cmp(&x.rate),
        Order::Latency => y.p99.cmp(&x.p99),
        // Who fails people, then who has nobody to ask, then who is about to fail them.
        Order::Worst => {
            let success = |figures: &Figures| figures.success.unwrap_or(1.0);
            let before = |figures: &Figures| figures.success_before_retry.unwrap_or(1.0);
            let is_out = |service: &Service| service.replica_count > 0 && service.ready_count == 0;
            success(x)
                .total_cmp(&success(y))
                .then_with(|| is_out(b).cmp(&is_out(a)))
                .then_with(|| before(x).total_cmp(&before(y)))
                .then_with(|| b.open_count.cmp(&a.open_count))
                .then_with(|| y.rate.total_cmp(&x.rate))
        }
    }
}

fn json(figures: &Figures) -> Value {
    let seconds = |span: Option<Duration>| span.map(|span| span.as_secs_f64());
    json!({
        "requestsPerSecond": figures.rate,
        "attemptsPerSecond": figures.attempt_rate,
        "success": figures.success,
        "successBeforeRetry": figures.success_before_retry,
        "retryRatio": figures.retried,
        "p50Seconds": seconds(figures.p50),
        "p95Seconds": seconds(figures.p95),
        "p99Seconds": seconds(figures.p99),
        "inflight": figures.inflight,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use gateway_proto::v1;

    use super::*;

    fn service(name: &str, ready: i32, open: i32) -> v1::Service {
        v1::Service {
            service: name.into(),
            replica_count: 2,
            ready_replica_count: ready,
            open_breaker_count: open,
            ..Default::default()
        }
    }

    fn stats(service: &str, replica: &str, requests: i64, failures: i64, retries: i64) -> ReplicaStats {
        ReplicaStats {
            service: service.into(),
            replica_id: replica.into(),
            request_count: requests,
            failure_count: failures,
            retry_count: retries,
            inflight_count: 3,
            latency_p99: Some(prost_types::Duration { seconds: 0, nanos: 31_000_000 }),
            ..Default::default()
        }
    }

    pub(crate) fn board() -> Board {
        let mut board = Board::default();
        let services = ListServicesResponse {
            services: vec![service("idle", 2, 0), service("orders", 2, 1), service("payments", 0, 2)],
            revision: 7,
            ..Default::default()
        };
        let breaker = |service: &str, id: &str, state: BreakerState| Breaker {
            service: service.into(),
            replica_id: id.into(),
            state: state.into(),
            ..Default::default()
        };
        let breakers =
            [breaker("orders", "r-2", BreakerState::Open), breaker("orders", "r-1", BreakerState::Closed)];
        board.registered(&services, &breakers);
        board.measured(&WatchStatsResponse {
            interval: Some(prost_types::Duration { seconds: 2, nanos: 0 }),
            stats: vec![
                stats("orders", "", 100, 2, 20),
                stats("orders", "r-1", 90, 2, 0),
                stats("orders", "r-2", 30, 20, 0),
                stats("payments", "", 10, 9, 0),
                stats("unknown", "", 10, 9, 0),
            ],
            node_count: 1,
            ..Default::default()
        });
        board
    }

    #[test]
    fn figures_are_rates_and_success_after_and_before_retries() {
        let board = board();
        let orders = &board.service("orders").unwrap().figures;
        assert_eq!((orders.rate, orders.attempt_rate), (50.0, 60.0));
        assert_eq!(orders.success, Some(0.98));
        assert_eq!(orders.success_before_retry, Some(98.0 / 120.0));
        assert_eq!(orders.retried, Some(0.2));
        assert_eq!(orders.p99, Some(Duration::from_millis(31)));
        let replica = &board.service("orders").unwrap().replicas[1];
        assert_eq!(
            (replica.id.as_str(), replica.figures.rate, replica.state),
            ("r-2", 15.0, BreakerState::Open)
        );
        assert_eq!(board.service("idle").unwrap().figures, Figures::default());
        assert_eq!(board.counts(), (6, 4, 3));
        assert_eq!(board.rate(), 55.0);
    }

    #[test]
    fn the_worst_come_first_and_other_orders_are_a_key_away() {
        let board = board();
        let names = |order, filter: &str| -> Vec<String> {
            board.services(order, filter).into_iter().map(|service| service.name.clone()).collect()
        };
        assert_eq!(names(Order::Worst, ""), ["payments", "orders", "idle"]);
        assert_eq!(names(Order::Name, ""), ["idle", "orders", "payments"]);
        assert_eq!(names(Order::Rate, ""), ["orders", "payments", "idle"]);
        assert_eq!(names(Order::Worst, "r"), ["orders"]);
        let orders = std::iter::successors(Some(Order::Worst), |order| Some(order.next()));
        assert_eq!(orders.take(5).map(Order::name).collect::<Vec<_>>().last(), Some(&"worst first"));
    }

    #[test]
    fn a_minute_is_remembered_and_no_more_and_what_is_gone_is_forgotten() {
        let mut board = board();
        for _ in 0..200 {
            board.measured(&WatchStatsResponse::default());
        }
        let orders = board.service("orders").unwrap();
        assert_eq!(orders.failures.len(), HISTORY);
        assert_eq!(orders.figures.success, None);
        board.registered(&ListServicesResponse::default(), &[]);
        assert!(board.services(Order::Worst, "").is_empty());
    }

    #[test]
    fn programs_get_numbers() {
        let value = board().to_json(Order::Worst, "orders");
        assert_eq!(value["services"][0]["success"], 0.98);
        assert_eq!(value["services"][0]["replicas"][1]["breakerState"], "BREAKER_STATE_OPEN");
        assert_eq!(value["services"].as_array().unwrap().len(), 1);
    }
}
