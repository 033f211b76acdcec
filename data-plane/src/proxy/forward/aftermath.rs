//! What follows an attempt that failed: another one, or the end.

use std::{sync::Arc, time::Duration};

use gateway_proto::policy::Retry;
use http::StatusCode;

use super::{Ended, Ending, Journey, place::NoAttempt, pushback};
use crate::{
    proxy::{
        body::response_body::Answer,
        errors::GatewayError,
        head::{
            RequestHead,
            field_name::{Name, Names},
            fields::Fields,
        },
        trail::Trail,
    },
    routing::{
        Fault, Outcome, Tick,
        retry::{Progress, Proof, Pushback, RequestFacts, Stop, Verdict, decide, may_repeat},
    },
    table::{HeldService, Refusal, Replica, RequestOutcome, Unavailable},
};

const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Whether a service lets a request be sent twice, in its head's words.
pub(super) fn repeats(retry: &Retry, head: &RequestHead) -> bool {
    let has_key = || head.fields.get_all_named(IDEMPOTENCY_KEY).any(|key| !key.is_empty());
    may_repeat(&head.method, has_key, retry)
}

impl Journey<'_> {
    /// Notes that a replica has failed the request. Yields what it says about another attempt, if it answered.
    pub(super) fn failed(&mut self, replica: Arc<Replica>, ended: Ended) -> Option<Pushback> {
        self.tried.push(replica);
        let pushback = self.pushback(&ended);
        self.remember(ended);
        pushback
    }

    /// What a replica that has failed the request says about another attempt, if it answered.
    pub(super) fn pushback(&self, ended: &Ended) -> Option<Pushback> {
        let Ended::Answered(answer) = ended else { return None };
        pushback::of(&answer.head.fields, self.call.is_some(), self.worker.clock().moment().wall)
    }

    /// A real answer, once there is one, is not forgotten for a later attempt that got none, nor what passes for what does
    /// not: that a replica has no way to switch protocols.
    fn remember(&mut self, ended: Ended) {
        let is_worth_more = match (&self.last, &ended) {
            (None, _) | (_, Ended::Answered(_)) => true,
            (Some(Ended::Answered(_)), _) | (_, Ended::CannotSwitch) => false,
            _ => true,
        };
        if is_worth_more {
            self.last = Some(ended);
        }
    }

    pub(super) fn verdict(&mut self, proof: Proof, pushback: Option<Pushback>) -> Verdict {
        if self.hints.retries == Some(0) {
            return Verdict::Stop(Stop::RetriesUsed);
        }
        // What nobody has seen goes on whatever the policy allows, but not beyond what its caller does.
        let is_spent = |allowed| self.retries.saturating_add(self.hedges) >= allowed;
        if proof == Proof::RefusedUnseen && self.hints.retries.is_some_and(is_spent) {
            return Verdict::Stop(Stop::RetriesUsed);
        }
        let now = self.worker.now();
        let facts = RequestFacts { idempotent: self.is_idempotent, replayable: self.source.is_replayable() };
        let progress = Progress {
            retries_used: self.retries,
            untried_replicas: match self.waits_for_place() && self.service.may_wait() {
                true => self.service.has_untried(now, &self.tried),
                false => self.service.has_untried_place(now, &self.tried),
            },
            remaining: self.deadline(now).since(now),
            pushback,
            was_pushed_back: self.was_pushed_back,
        };
        let mut paid = None;
        let budget = || {
            paid = Paid::out_of(&self.service, self.worker.index(), now, self.policy.retry.budget_ratio);
            paid.is_some()
        };
        let mut retry = self.policy.retry;
        if let Some(retries) = self.hints.retries {
            retry.max_retry_count = retry.max_retry_count.min(retries.saturating_sub(self.hedges));
        }
        let verdict = decide(proof, facts, progress, &retry, budget, self.worker.random());
        self.paid = paid;
        verdict
    }

    /// The retry that was decided on, if this is one, has a replica: what it has cost is spent.
    #[inline]
    pub(super) fn is_sent(&mut self) {
        if let Some(paid) = self.paid.take() {
            paid.spend();
        }
    }

    /// Answers with what the last attempt came to, or, where there was none, with this error.
    pub(super) fn end(&mut self, stop: Stop, otherwise: GatewayError) -> Ending {
        let Some(ended) = self.last.take() else { return Err(otherwise) };
        self.service.counters().stopped(self.worker.index(), stop);
        let mut ending = ended.answer(stop);
        if let Ok(answer) = &mut ending
            && self.worker.shows_replica()
        {
            deny(&mut answer.head.fields, stop);
        }
        ending
    }

    /// Refuses an answer that its client would take for a switch of protocols that it is not.
    pub(super) fn check_switch(&self, answer: Answer) -> Ending {
        let status = answer.head.status;
        match &self.upgrade {
            Some(upgrade) if answer.tunnel.is_none() && upgrade.is_faked_by(status) => {
                Err(GatewayError::NotSwitched { status })
            }
            _ => Ok(answer),
        }
    }

    /// The error, with the name that a certificate had to have, if that is what it is about.
    pub(super) fn named(&self, error: GatewayError) -> GatewayError {
        match (error, self.tried.last().and_then(|replica| replica.endpoint().tls_name())) {
            (GatewayError::Attempt(Fault::TlsCertificate(fault), stop), Some(name)) => {
                GatewayError::Untrusted { fault, name: name.into(), stop }
            }
            (error, _) => error,
        }
    }

    pub(super) fn give_up(&mut self, none: NoAttempt) -> Ending {
        self.paid = None;
        // After a failure, whatever keeps it from others, in the word that its client is told.
        let why = if self.last.is_some() { Stop::NoOtherReplica.as_str() } else { none.as_str() };
        self.stopped(why);
        if let Some(traced) = self.trail.and_then(Trail::traced) {
            traced.look_at(&self.service, self.worker.now());
        }
        if self.last.is_some() {
            return self.end(Stop::NoOtherReplica, GatewayError::NoneReady);
        }
        match none {
            NoAttempt::Refused(refused) => {
                self.service.refuse(Refusal::Overloaded);
                Err(GatewayError::Overloaded(refused))
            }
            NoAttempt::Waited(waited) => {
                self.service.refuse(Refusal::QueueTimeout);
                Err(GatewayError::QueueTimeout { waited })
            }
            NoAttempt::Nobody(Unavailable::AllOpen { resting, retry_at }) => {
                self.service.rejected_by_breakers();
                let retry_after = retry_at.since(self.worker.now());
                Err(GatewayError::AllOpen { resting, retry_after })
            }
            NoAttempt::Nobody(Unavailable::AllForcedOpen { count }) => {
                self.service.rejected_by_breakers();
                Err(GatewayError::AllForcedOpen { count })
            }
            // Only who has been answered does not wait where all are full.
            NoAttempt::Nobody(Unavailable::NoneReady | Unavailable::AllTried | Unavailable::AllFull) => {
                Err(GatewayError::NoneReady)
            }
        }
    }

    /// Counts the request as retried if an attempt of it failed and another was made, after `before` attempts that were
    /// another service's.
    pub(super) fn count_retries(&self, before: usize, ending: &Ending) {
        if self.attempts.get() > before + 1 && !self.tried.is_empty() {
            let has_recovered = self.told_as(ending).1 == RequestOutcome::Success;
            self.service.counters().retried(self.worker.index(), has_recovered);
        }
    }

    /// As which status and outcome of its service it is counted.
    pub(super) fn told_as(&self, ending: &Ending) -> (StatusCode, RequestOutcome) {
        match ending {
            Ok(answer) if self.judged(&answer.head) == Outcome::Success => {
                (answer.head.status, RequestOutcome::Success)
            }
            Ok(answer) => (answer.head.status, RequestOutcome::UpstreamError),
            Err(error) => (error.status(), RequestOutcome::GatewayError),
        }
    }
}

/// A retry that was taken out of a budget. Dropped, it goes back, for it was not sent: no replica had a place for it, or its
/// client has left while it paused, or waited for one.
pub(super) struct Paid {
    service: HeldService,
    worker: usize,
    /// When; `None` once it is sent.
    at: Option<Tick>,
}

impl Paid {
    /// `None` if the budget does not bear it.
    fn out_of(service: &HeldService, worker: usize, now: Tick, ratio: f64) -> Option<Self> {
        let is_granted = service.budget().try_retry(worker, now, ratio);
        is_granted.then(|| Self { service: Arc::clone(service), worker, at: Some(now) })
    }

    fn spend(mut self) {
        self.at = None;
    }
}

impl Drop for Paid {
    fn drop(&mut self) {
        if let Some(at) = self.at {
            self.service.budget().give_back(self.worker, at);
        }
    }
}

impl Ended {
    /// What the client gets where that was the last.
    pub(super) fn answer(self, stop: Stop) -> Ending {
        match self {
            Self::Answered(response) => Ok(response),
            Self::Faulted(fault) => Err(GatewayError::Attempt(fault, stop)),
            Self::Drained => Err(GatewayError::Drained),
            Self::Declined => Err(GatewayError::Declined(stop)),
            Self::Full => Err(GatewayError::Full(stop)),
            Self::CannotSwitch => Err(GatewayError::CannotSwitch(stop)),
            Self::NoPort => Err(GatewayError::NoPort(stop)),
        }
    }
}

/// Says beside what the gateway tells of a replica's answer why there was no other attempt.
#[cold]
fn deny(fields: &mut Fields, stop: Stop) {
    let mut told: Vec<_> = fields.get_all(Name::ProxyStatus).map(<[u8]>::to_vec).collect();
    // The last is the gateway's own.
    if let Some(own) = told.last_mut() {
        own.extend_from_slice(format!("; retry-denied={}", stop.as_str()).as_bytes());
        fields.remove(Names::of(&[Name::ProxyStatus]));
        told.iter().for_each(|value| fields.append(Name::ProxyStatus, value));
    }
}

/// Waits before another attempt.
pub(super) async fn pause(time: Duration) {
    if !time.is_zero() {
        // Boxed, so that requests which do not pause hold no timer.
        Box::pin(tokio::time::sleep(time)).await;
    }
}
