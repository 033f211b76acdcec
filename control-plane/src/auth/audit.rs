//! Who did what, and who was refused: a line of the log and an event for each change and for each refusal.
//!
//! Whoever is refused may come back as often as he likes, so what he can fill is bounded: like events fold in the timeline,
//! and more than a few in a second are only counted.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use gateway_runtime::panics::printable;

use super::{Denied, Subject, limit::Buckets};
use crate::{
    clock,
    metrics::Metrics,
    observe::{Observation, of_registry},
};

/// Refusals in a second that are told; twice as many at once.
const TOLD_PER_SECOND: u32 = 10;
/// Most characters of anything that a caller chose.
const MAX_CHARS: usize = 200;

/// Where it is told.
#[derive(Debug)]
pub(crate) struct Audit {
    observation: Arc<Observation>,
    metrics: Arc<Metrics>,
    told: Mutex<Buckets>,
    name: Arc<str>,
}

impl Audit {
    pub(crate) fn new(observation: &Arc<Observation>, metrics: &Arc<Metrics>) -> Self {
        let (observation, metrics) = (Arc::clone(observation), Arc::clone(metrics));
        let told = Mutex::new(Buckets::new(TOLD_PER_SECOND, clock::now()));
        Self { observation, metrics, told, name: "refusals".into() }
    }

    /// Whether keys for JWTs could be fetched.
    pub(super) fn fetched_keys(&self, is_done: bool) {
        self.metrics.fetched_keys(is_done);
    }

    /// That somebody was refused.
    pub(super) fn denied(&self, who: &str, from: Option<SocketAddr>, what: &str, denied: &Denied) {
        self.metrics.denied(denied.reason());
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.take(&self.name, 1, clock::now()).is_err() {
            return;
        }
        drop(told);
        let who = printable(who, MAX_CHARS);
        let from = from.map(|from| from.ip().to_canonical().to_string()).unwrap_or_default();
        let why = printable(&denied.to_string(), MAX_CHARS);
        tracing::warn!(target: "audit", who, from, what, reason = denied.reason(), "refused: {why}");
        let metadata = [("from", from), ("request", what.to_owned()), ("reason", denied.reason().to_owned())];
        let mut event = of_registry("ACCESS_DENIED", format!("{what} was refused: {why}"), metadata);
        event.actor = who;
        event.service = denied.service().map(ToString::to_string).unwrap_or_default();
        self.observation.note(event);
    }

    /// What came of a change that somebody known wanted. `what` is the command and what it is about.
    pub(super) fn changed(&self, who: &str, from: Option<SocketAddr>, what: &Subject, outcome: &str) {
        let from = from.map(|from| from.ip().to_canonical().to_string()).unwrap_or_default();
        let Subject { request, about, service } = what;
        tracing::info!(target: "audit", who, from, request, about, outcome, "change");
        let message = format!("{request} {about}: {outcome}");
        let metadata = [("from", from), ("request", (*request).to_owned()), ("outcome", outcome.to_owned())];
        let mut event = of_registry("CHANGE_ASKED", message, metadata);
        event.actor = printable(who, MAX_CHARS);
        event.service = service.clone().unwrap_or_default();
        self.observation.note(event);
    }
}
