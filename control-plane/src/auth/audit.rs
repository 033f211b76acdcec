//! Who did what, and who was refused: a line of the log and an event for each change and for each refusal.
//!
//! Whoever is refused may come back as often as he likes, so what he can fill is bounded: like events fold in the timeline,
//! and more than a few in a second are only counted.

use std::sync::{Arc, Mutex, PoisonError};

use gateway_runtime::printable::printable;

use super::{Denied, Subject, book::Book, limit::Buckets};
use crate::{
    clock,
    listeners::Whence,
    metrics::Metrics,
    observe::{Observation, of_registry},
};

/// Refusals in a second that are told of one caller, and of all together; twice as many at once. Whoever is refused over and over
/// must not push out of the timeline what others did.
const TOLD_PER_SECOND: u32 = 1;
const ALL_TOLD_PER_SECOND: u32 = 10;
/// Tokens of which it is told when they end: those that do first.
const MAX_TOKEN_ENDS: usize = 100;
/// Most characters of anything that a caller chose.
const MAX_CHARS: usize = 200;

/// Where it is told.
#[derive(Debug)]
pub(crate) struct Audit {
    observation: Arc<Observation>,
    metrics: Arc<Metrics>,
    told: Mutex<Told>,
}

#[derive(Debug)]
struct Told {
    each: Buckets<Arc<str>>,
    all: Buckets<()>,
}

impl Audit {
    pub(crate) fn new(observation: &Arc<Observation>, metrics: &Arc<Metrics>) -> Self {
        let (observation, metrics) = (Arc::clone(observation), Arc::clone(metrics));
        let now = clock::now();
        let (each, all) = (Buckets::new(TOLD_PER_SECOND, now), Buckets::new(ALL_TOLD_PER_SECOND, now));
        let told = Mutex::new(Told { each, all });
        Self { observation, metrics, told }
    }

    /// Whether keys for JWTs could be fetched.
    pub(super) fn fetched_keys(&self, is_done: bool) {
        self.metrics.fetched_keys(is_done);
    }

    /// Whether the auth file could be used when it was read again.
    pub(super) fn read_file(&self, is_usable: bool) {
        self.metrics.read_auth_file(is_usable);
    }

    /// When the tokens of the file end that is in use.
    pub(super) fn tokens_end(&self, book: &Book) {
        let now = clock::wall();
        // Of what has ended, nobody need be told in time.
        let (ended, to_come): (Vec<_>, Vec<_>) =
            book.token_ends().into_iter().partition(|(end, _)| *end <= now);
        self.metrics.tokens_end(to_come.into_iter().chain(ended).take(MAX_TOKEN_ENDS));
    }

    /// That somebody was refused.
    pub(super) fn denied(&self, who: &str, from: Option<Whence>, what: &str, denied: &Denied) {
        self.metrics.denied(denied.reason());
        if !self.is_told(who) {
            return;
        }
        let who = printable(who, MAX_CHARS);
        let from = from.map(Whence::name).unwrap_or_default();
        let why = printable(&denied.to_string(), MAX_CHARS);
        tracing::warn!(target: "audit", who, from, what, reason = denied.reason(), "refused: {why}");
        let metadata = [("from", from), ("request", what.to_owned()), ("reason", denied.reason().to_owned())];
        let mut event = of_registry("ACCESS_DENIED", format!("{what} was refused: {why}"), metadata);
        event.actor = who;
        event.service = denied.service().map(ToString::to_string).unwrap_or_default();
        self.observation.note(event);
    }

    fn is_told(&self, who: &str) -> bool {
        let Told { each, all } = &mut *self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let now = clock::now();
        each.take(&who.into(), 1, now).is_ok() && all.take(&(), 1, now).is_ok()
    }

    /// What came of a change that somebody known wanted. `what` is the command and what it is about.
    pub(super) fn changed(&self, who: &str, from: Option<Whence>, what: &Subject, outcome: &str) {
        let from = from.map(Whence::name).unwrap_or_default();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_who_is_refused_over_and_over_hides_nobody_else() {
        let audit = Audit::new(&Arc::new(Observation::new(1)), &Arc::new(Metrics::new()));
        assert_eq!((0..1000).filter(|_| audit.is_told("greedy")).count(), 2);
        assert!(audit.is_told("modest"));
        assert_eq!((0..1000).filter(|number| audit.is_told(&format!("n-{number}"))).count(), 17);
        tokio::time::advance(std::time::Duration::from_secs(1)).await;
        assert_eq!((0..1000).filter(|_| audit.is_told("greedy")).count(), 1);
    }
}
