//! Hedging: an attempt that takes long gets company, and the first good answer counts (Dean and Barroso, The Tail at Scale,
//! 2013).
//!
//! Only for requests that may be sent twice, have a method that the policy lets hedge, and are here in full. Whoever comes too late
//! is cancelled, and nobody blames its replica: it might have answered well. One of which nothing is heard, however many wait for
//! it, is blamed all the same ([`Service::waited_in_vain`](crate::table::Service::waited_in_vain)).
//!
//! That a request may be sent twice, one after the other, says nothing of twice at once: the second replica may refuse it because
//! the first is at work on it, and the first may be in the middle of a change when it is cancelled. So methods that change something
//! are hedged only where the policy names them, and then a refusal is as little an answer as a failure.
//!
//! A failure is no answer while others are under way, of whatever kind it is: they cost nothing more.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use gateway_proto::policy::Methods;
use tokio::time::{Instant, sleep_until};

use super::{Ended, Journey, attempt::Attempt, exchange::Tried, grpc};
use crate::{
    access_log as logged,
    proxy::{
        body::response_body::Answer,
        head::{ResponseHead, field_name::Name},
    },
    routing::{Draw, Outcome, Tick, retry::Proof},
    table::Replica,
    traces,
};

/// What became of several attempts together.
pub(super) struct Raced {
    /// Of the one that decided, with the proof that holds for all of them.
    pub(super) tried: Tried,
    /// Others that had failed before.
    pub(super) failed: Vec<(Arc<Replica>, Ended)>,
    /// What a replica can have seen, of all of those that ended.
    pub(super) proof: Proof,
}

/// An attempt among others.
struct Racer<'a> {
    number: usize,
    replica: Arc<Replica>,
    run: Pin<Box<dyn Future<Output = Tried> + 'a>>,
}

/// What happens next in a race.
enum Event {
    Ended(usize, Tried),
    /// All of them take long.
    Late,
}

impl Journey<'_> {
    /// Whether an attempt that takes long may have company. A probe may not: it has to come to a verdict, and one that is
    /// cancelled makes room for the next.
    pub(super) fn may_hedge(&self, attempt: &Attempt) -> bool {
        !self.policy.retry.hedge_delay.is_zero()
            && self.is_idempotent
            && self.policy.retry.hedge_methods.has(self.head.method.as_str())
            && self.hints.retries != Some(0)
            && !attempt.is_probe()
    }

    /// One attempt as [`Journey::try_once`] makes it, and others beside it, each after the policy's time. Where one may not be made
    /// for want of a budget or a place, there may be some later: it is looked for after twice the time, and so on, so that many
    /// requests which hang cost few looks.
    pub(super) async fn race(&self, first: Attempt) -> Raced {
        let (mut asked, began) = (self.tried.clone(), first.began());
        let mut racers = vec![self.enter(first, &mut asked)];
        let mut failed = Vec::new();
        let mut proof = Proof::Unsent;
        // The answer that is no good one of the attempt that began first, for when no better comes: others may have met what that did.
        let mut poor: Option<(usize, Answer)> = None;
        let spent = self.retries.saturating_add(self.hedges);
        let most = self.hints.retries.map_or(u8::MAX, |retries| retries.saturating_sub(spent));
        let mut free = usize::from(self.policy.retry.max_hedge_count.min(most));
        let delay = self.policy.retry.hedge_delay;
        let (mut looked_at, mut pause) = (began, delay);
        let mut timer = pin!(sleep_until(self.late_at(began, delay)));
        loop {
            let event = poll_fn(|cx| {
                for (index, racer) in racers.iter_mut().enumerate() {
                    if let Poll::Ready(tried) = racer.run.as_mut().poll(cx) {
                        return Poll::Ready(Event::Ended(index, tried));
                    }
                }
                // In there more of the request's body may have come, or the end of it.
                let whole_since = (free > 0).then(|| self.whole_since(looked_at)).flatten();
                let Some(since) = whole_since else { return Poll::Pending };
                let late_at = self.late_at(since, pause);
                if timer.deadline() != late_at {
                    timer.as_mut().reset(late_at);
                }
                timer.as_mut().poll(cx).map(|()| Event::Late)
            })
            .await;
            match event {
                Event::Late => {
                    looked_at = self.worker.now();
                    match self.begin_beside(&asked) {
                        Some(attempt) => {
                            self.service.counters().hedged(self.worker.index());
                            racers.push(self.enter(attempt, &mut asked));
                            self.note(|| traces::Event::Hedged(self.attempts.get()));
                            free -= 1;
                            pause = delay;
                        }
                        None if self.may_have_company_later(&asked) => pause *= 2,
                        None => free = 0,
                    }
                }
                Event::Ended(index, tried) => {
                    let ended = racers.swap_remove(index);
                    self.ended(ended.number, tried.outcome());
                    proof = proof.max(tried.proof());
                    match tried {
                        Tried::Failed { replica, ended, .. } if !racers.is_empty() => {
                            if self.pushback(&ended).is_some() {
                                free = 0;
                            }
                            failed.push((replica, ended));
                        }
                        // Theirs to say, if there is time left for them or a connection.
                        Tried::OutOfTime | Tried::Exhausted if !racers.is_empty() => {}
                        // Another that is asked only now would break on it, too; those that have been asked may not.
                        Tried::Answer(answer) if !racers.is_empty() && self.is_poor(&answer) => {
                            free = 0;
                            poor.take_if(|(number, _)| *number > ended.number);
                            poor.get_or_insert((ended.number, answer));
                        }
                        tried => {
                            let tried = match (tried, poor.take()) {
                                (
                                    Tried::Failed { .. } | Tried::OutOfTime | Tried::Exhausted,
                                    Some((_, poor)),
                                ) => Tried::Answer(poor),
                                (Tried::Answer(answer), Some((number, poor)))
                                    if number < ended.number && self.is_poor(&answer) =>
                                {
                                    Tried::Answer(poor)
                                }
                                (tried, _) => tried,
                            };
                            self.outrun(racers);
                            return Raced { tried: tried.after(proof), failed, proof };
                        }
                    }
                }
            }
        }
    }

    /// Whether a replica's answer is one that breakers count against it, or by which it asks for time; or a refusal of what another
    /// attempt may be about to do, or have done: "in progress" (409), "not there any more" (404), "no longer as it was" (412).
    fn is_poor(&self, answer: &Answer) -> bool {
        let is_safe = || Methods::SAFE.has(self.head.method.as_str());
        answer.tunnel.is_none()
            && (self.judged(&answer.head) != Outcome::Success || self.is_refusal(&answer.head) && !is_safe())
    }

    /// Whether a response head says that the request is not carried out; one of a call whose body follows does not.
    fn is_refusal(&self, head: &ResponseHead) -> bool {
        let is_refused_call = || {
            let status = head.fields.get(Name::GrpcStatus).filter(|_| self.call.is_some());
            status.is_some_and(|status| grpc::status(status) != Some(0))
        };
        head.status.is_client_error() || is_refused_call()
    }

    /// Has an attempt run among others.
    fn enter<'a>(&'a self, attempt: Attempt, asked: &mut Vec<Arc<Replica>>) -> Racer<'a> {
        let (number, replica) = (self.begun(&attempt), Arc::clone(attempt.replica()));
        asked.push(Arc::clone(&replica));
        Racer { number, replica, run: Box::pin(self.try_once(attempt, number)) }
    }

    /// When an attempt takes long that has had all of the request since then.
    fn late_at(&self, since: Tick, pause: Duration) -> Instant {
        self.worker.instant(since.plus(pause)).into()
    }

    /// Another attempt, if the request, which is here in full, may have one now: it can be sent again, the budget bears it, and
    /// somebody else is there to ask, with a place that is free.
    fn begin_beside(&self, asked: &[Arc<Replica>]) -> Option<Attempt> {
        let (budget, now) = (self.service.budget(), self.worker.now());
        if !self.source.is_replayable() || !budget.allows_retry(now, self.policy.retry.budget_ratio) {
            return None;
        }
        // It keeps away from where requests pile up: it is to be quick.
        let draw = Draw { is_unrepeatable: true, is_beside: true, ..self.draw() };
        let attempt = Attempt::begin(&self.worker, &self.service, asked, draw, self.request_id).ok()?;
        // Only now, when it is sure that it is sent.
        budget.retry(self.worker.index(), now);
        Some(attempt)
    }

    /// Whether only what others have now is in the way of another attempt: the budget, or all places.
    fn may_have_company_later(&self, asked: &[Arc<Replica>]) -> bool {
        self.source.is_replayable() && self.service.has_untried(self.worker.now(), asked)
    }

    /// Cancels those that another was quicker than.
    fn outrun(&self, racers: Vec<Racer<'_>>) {
        self.has_winner.set(true);
        for Racer { number, replica, run } in racers {
            // Whose attempt is given up as it is dropped.
            drop(run);
            self.ended(number, logged::Outcome::Word("outrun"));
            tracing::debug!(service = %self.service.name(), replica = %replica.key().replica, "outrun by a hedge");
        }
        self.has_winner.set(false);
    }
}
