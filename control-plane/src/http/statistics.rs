//! `GET /statistics`: how each replica does, in the form of an older router whose tools some still have: arrays of
//! `"URL value"`. Reading changes nothing.

use std::{collections::HashMap, sync::Arc};

use axum::{
    extract::{Path, State, rejection::PathRejection},
    response::Response,
};
use gateway_proto::{ReplicaId, ReplicaKey, ServiceName, v1};
use http::StatusCode;
use serde_json::{Value, json};

use crate::{
    edge::Edge,
    observe::{Replica, Scope},
    refusal::Refusal,
};

/// One array for each figure, its entries in the same order.
#[derive(Debug, Default)]
struct Statistics {
    successes: Vec<String>,
    errors: Vec<String>,
    cooldowns: Vec<String>,
}

/// Every replica of every service.
pub(super) async fn all(State(edge): State<Arc<Edge>>) -> Response {
    let names: Vec<_> =
        edge.effects.publisher.read(|view| view.services().map(|(name, _)| name.clone()).collect());
    let mut statistics = Statistics::default();
    // Each service by itself, so that neither the writer nor a report waits for all of them.
    for name in names {
        statistics.add(&edge, &name);
    }
    super::json(StatusCode::OK, &statistics.document())
}

/// The replicas of one service.
pub(super) async fn of_service(
    State(edge): State<Arc<Edge>>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response, Refusal> {
    let Path(name) = path.map_err(|_| Refusal::Path)?;
    let name = ServiceName::parse(&name)?;
    let mut statistics = Statistics::default();
    if !statistics.add(&edge, &name) {
        return Err(Refusal::ServiceNotFound(name));
    }
    Ok(super::json(StatusCode::OK, &statistics.document()))
}

impl Statistics {
    /// Adds the replicas of a service, `false` when there is none.
    fn add(&mut self, edge: &Edge, service: &ServiceName) -> bool {
        let replicas: Vec<_> = edge.effects.publisher.read(|view| {
            let entry = view.service(service).into_iter().flat_map(|entry| entry.replicas());
            entry.map(Arc::clone).collect()
        });
        if replicas.is_empty() {
            return false;
        }
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
            self.push(&record.address.to_string(), &breaker);
        }
        true
    }

    fn push(&mut self, address: &str, breaker: &v1::Breaker) {
        // Attempts under way have neither succeeded nor failed.
        let ended = breaker.attempt_count - i64::from(breaker.inflight_count);
        let is_open = matches!(breaker.state(), v1::BreakerState::Open | v1::BreakerState::ForcedOpen);
        self.successes.push(format!("http://{address} {}", (ended - breaker.failure_count).max(0)));
        self.errors.push(format!("http://{address} {}", breaker.failure_count));
        self.cooldowns.push(format!("http://{address} {is_open}"));
    }

    fn document(&self) -> Value {
        json!({
            "SUCCESS_COUNT": self.successes,
            "ERROR_COUNT": self.errors,
            "COOLDOWNS": self.cooldowns,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        statistics.push("10.0.0.1:80", &breaker);
        statistics.push("10.0.0.2:80", &v1::Breaker::default());
        assert_eq!(
            statistics.document(),
            json!({
                "SUCCESS_COUNT": ["http://10.0.0.1:80 5", "http://10.0.0.2:80 0"],
                "ERROR_COUNT": ["http://10.0.0.1:80 3", "http://10.0.0.2:80 0"],
                "COOLDOWNS": ["http://10.0.0.1:80 true", "http://10.0.0.2:80 false"],
            })
        );
    }
}
