//! `GET /statistics`: how each replica does, in the form of an older router whose tools some still have: arrays of
//! `"URL value"`. Reading changes nothing.
//!
//! Latencies are known only of what data planes count in detail, and they do so while somebody looks: `?window=5s` looks
//! for so long before it answers.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use axum::{
    extract::{Extension, Path, Query, State, rejection::PathRejection},
    http::Uri,
    response::Response,
};
use gateway_proto::{Invalid, ReplicaId, ReplicaKey, ServiceName, json::shown, v1};
use http::StatusCode;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    auth::Caller,
    edge::Edge,
    observe::{Replica, Scope, Wish},
    refusal::Refusal,
    writer::WriteError,
};

/// Data planes tell once a second.
const MIN_WINDOW: Duration = Duration::from_secs(1);
const MAX_WINDOW: Duration = Duration::from_secs(60);

/// One array for each figure, the entries of replicas in the same order.
#[derive(Debug, Default)]
struct Statistics {
    successes: Vec<String>,
    errors: Vec<String>,
    cooldowns: Vec<String>,
    /// When somebody looked: of the replicas that had requests meanwhile.
    latencies: Option<Latencies>,
}

/// In milliseconds.
#[derive(Debug, Default)]
struct Latencies {
    seen: HashMap<(String, String), v1::ReplicaStats>,
    p50: Vec<String>,
    p99: Vec<String>,
}

/// Every replica of every service.
pub(super) async fn all(
    State(edge): State<Arc<Edge>>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
) -> Result<Response, Refusal> {
    let mut statistics = look(&edge, &caller, &uri, None).await?;
    let names: Vec<_> =
        edge.effects.publisher.read(|view| view.services().map(|(name, _)| name.clone()).collect());
    // Each service by itself, so that neither the writer nor a report waits for all of them.
    for name in names {
        statistics.add(&edge, &name);
    }
    Ok(super::json(StatusCode::OK, &statistics.document()))
}

/// The replicas of one service.
pub(super) async fn of_service(
    State(edge): State<Arc<Edge>>,
    Extension(caller): Extension<Caller>,
    path: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Result<Response, Refusal> {
    let Path(name) = path.map_err(|_| Refusal::Path)?;
    let name = ServiceName::parse(&name)?;
    if edge.effects.publisher.read(|view| view.service(&name).is_none()) {
        return Err(Refusal::ServiceNotFound(name));
    }
    let mut statistics = look(&edge, &caller, &uri, Some(&name)).await?;
    statistics.add(&edge, &name);
    Ok(super::json(StatusCode::OK, &statistics.document()))
}

/// Statistics without a replica yet; when a window is asked for, with what was counted in it.
async fn look(
    edge: &Arc<Edge>,
    caller: &Caller,
    uri: &Uri,
    service: Option<&ServiceName>,
) -> Result<Statistics, Refusal> {
    let Some(window) = parse_window(uri)? else { return Ok(Statistics::default()) };
    let _place = edge.watch_streams.take_for(caller)?;
    let reader = edge.effects.observation.read_stats(Wish {
        service: service.cloned(),
        per_replica: true,
        ..Wish::default()
    });
    tokio::select! {
        () = sleep(window) => {}
        () = edge.shutdown.begun() => return Err(WriteError::ShuttingDown.into()),
    }
    let (stats, ..) = reader.take();
    let seen = stats.into_iter().map(|row| ((row.service.clone(), row.replica_id.clone()), row)).collect();
    Ok(Statistics { latencies: Some(Latencies { seen, ..Default::default() }), ..Default::default() })
}

fn parse_window(uri: &Uri) -> Result<Option<Duration>, Invalid> {
    let query = Query::<BTreeMap<String, String>>::try_from_uri(uri);
    let Query(mut query) = query.map_err(|error| Invalid::new("query", error.to_string()))?;
    let window = query.remove("window");
    if let Some(unknown) = query.into_keys().next() {
        return Err(Invalid::new(shown(&unknown), "is unknown; the query parameter is window"));
    }
    let Some(window) = window else { return Ok(None) };
    let window = humantime::parse_duration(&window)
        .map_err(|error| Invalid::new("window", format!("is no duration such as \"5s\": {error}")))?;
    if !(MIN_WINDOW..=MAX_WINDOW).contains(&window) {
        return Err(Invalid::new("window", format!("{window:?} is not in {MIN_WINDOW:?}..={MAX_WINDOW:?}")));
    }
    Ok(Some(window))
}

impl Statistics {
    /// Adds the replicas of a service.
    fn add(&mut self, edge: &Edge, service: &ServiceName) {
        let replicas: Vec<_> = edge.effects.publisher.read(|view| {
            let entry = view.service(service).into_iter().flat_map(|entry| entry.replicas());
            entry.map(Arc::clone).collect()
        });
        let scope = Scope { service: Some(service.clone()), replica: None };
        let mut seen: HashMap<ReplicaId, v1::Breaker> = edge.effects.observation.read(|_, matrix| {
            let merged = |(key, replica): (&ReplicaKey, &Replica)| {
                Some((key.replica.clone(), replica.merged(key, |_| true)?))
            };
            matrix.from(&scope, None).filter_map(merged).collect()
        });
        for record in replicas {
            // What nobody has sent a request to has no row, or one with zeros.
            let breaker = seen.remove(&record.key.replica).unwrap_or_default();
            self.push(&record.key, &record.endpoint.address.to_string(), &breaker);
        }
    }

    fn push(&mut self, key: &ReplicaKey, address: &str, breaker: &v1::Breaker) {
        let entry = |value: &dyn std::fmt::Display| format!("http://{address} {value}");
        // Attempts under way have neither succeeded nor failed.
        let ended = breaker.attempt_count - i64::from(breaker.inflight_count);
        let is_open = matches!(breaker.state(), v1::BreakerState::Open | v1::BreakerState::ForcedOpen);
        self.successes.push(entry(&(ended - breaker.failure_count).max(0)));
        self.errors.push(entry(&breaker.failure_count));
        self.cooldowns.push(entry(&is_open));
        let Some(latencies) = &mut self.latencies else { return };
        let name = (key.service.to_string(), key.replica.to_string());
        let Some(stats) = latencies.seen.remove(&name) else { return };
        latencies.p50.extend(millis(stats.latency_p50).map(|millis| entry(&millis)));
        latencies.p99.extend(millis(stats.latency_p99).map(|millis| entry(&millis)));
    }

    fn document(&self) -> Value {
        let mut document = json!({
            "SUCCESS_COUNT": self.successes,
            "ERROR_COUNT": self.errors,
            "COOLDOWNS": self.cooldowns,
        });
        if let Some(latencies) = &self.latencies {
            document["LATENCY"] = json!(latencies.p50);
            document["LATENCY_P99"] = json!(latencies.p99);
        }
        document
    }
}

fn millis(latency: Option<prost_types::Duration>) -> Option<String> {
    let latency = Duration::try_from(latency?).ok()?;
    Some(format!("{:.3}", latency.as_secs_f64() * 1000.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str) -> ReplicaKey {
        ReplicaKey::parse("orders", id).unwrap()
    }

    #[test]
    fn attempts_under_way_are_neither_successes_nor_errors() {
        let mut statistics = Statistics::default();
        let breaker = v1::Breaker {
            attempt_count: 10,
            failure_count: 3,
            inflight_count: 2,
            state: v1::BreakerState::Open.into(),
            ..Default::default()
        };
        statistics.push(&key("r-1"), "10.0.0.1:80", &breaker);
        statistics.push(&key("r-2"), "10.0.0.2:80", &v1::Breaker::default());
        assert_eq!(
            statistics.document(),
            json!({
                "SUCCESS_COUNT": ["http://10.0.0.1:80 5", "http://10.0.0.2:80 0"],
                "ERROR_COUNT": ["http://10.0.0.1:80 3", "http://10.0.0.2:80 0"],
                "COOLDOWNS": ["http://10.0.0.1:80 true", "http://10.0.0.2:80 false"],
            })
        );
    }

    #[test]
    fn latencies_are_milliseconds_of_those_that_had_requests() {
        let stats = v1::ReplicaStats {
            latency_p50: Some(prost_types::Duration { seconds: 0, nanos: 1_500_000 }),
            latency_p99: Some(prost_types::Duration { seconds: 2, nanos: 0 }),
            ..Default::default()
        };
        let seen = HashMap::from([(("orders".to_owned(), "r-2".to_owned()), stats)]);
        let latencies = Some(Latencies { seen, ..Default::default() });
        let mut statistics = Statistics { latencies, ..Default::default() };
        for (id, address) in [("r-1", "10.0.0.1:80"), ("r-2", "10.0.0.2:80")] {
            statistics.push(&key(id), address, &v1::Breaker::default());
        }
        let document = statistics.document();
        assert_eq!(document["LATENCY"], json!(["http://10.0.0.2:80 1.500"]));
        assert_eq!(document["LATENCY_P99"], json!(["http://10.0.0.2:80 2000.000"]));
    }

    #[test]
    fn a_window_is_a_duration_within_bounds_and_nothing_else_is_taken() {
        let parse = |query: &str| parse_window(&format!("/statistics{query}").parse().unwrap());
        assert_eq!(parse(""), Ok(None));
        assert_eq!(parse("?window=5s"), Ok(Some(Duration::from_secs(5))));
        for (query, field) in
            [("?window=61s", "window"), ("?window=5", "window"), ("?window=0s", "window"), ("?w=1", "w")]
        {
            assert_eq!(parse(query).unwrap_err().violations()[0].field, field);
        }
    }
}
