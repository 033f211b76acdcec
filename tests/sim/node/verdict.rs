//! What follows from an attempt: its permit goes back, its request goes on or ends.

use std::sync::Arc;

use data_plane::{
    routing::{
        Fault, Heard, Outcome, Rule, State, Tick,
        retry::{Progress, Proof, RequestFacts, Stop, Verdict, decide},
    },
    table::{Replica, Service, Standing},
};

use super::Node;
use crate::{
    checks::{Breakers, BudgetBook, Checked, Waited, claim},
    env::{Env, Phase},
    event::{Event, NodeEvent, RequestId},
    journal::note,
    sabotage::Sabotage,
};

impl Node {
    /// After a failed attempt: another one, or the end.
    pub(super) fn failed(&mut self, env: &mut Env, id: RequestId, proof: Proof) -> Checked {
        let Some(request) = self.requests.get_mut(&id) else { return Ok(()) };
        let Some(flight) = request.flight.take() else { return Ok(()) };
        request.tried.push(flight.replica);
        let (now, service) = (env.tick(), Arc::clone(&request.service));
        let idempotent = request.is_idempotent || env.has(Sabotage::RetryEverything);
        let facts = RequestFacts { idempotent, replayable: request.is_replayable };
        let progress = Progress {
            retries_used: request.retries,
            untried_replicas: service.has_untried(now, &request.tried),
            remaining: request.deadline.since(now),
            // Replicas here never say when to come back.
            pushback: None,
            was_pushed_back: false,
        };
        let ratio = flight.policy.retry.budget_ratio;
        let ignores = env.has(Sabotage::IgnoreBudget);
        let budget = || ignores || service.budget().try_retry(0, now, ratio);
        let random = env.random();
        match decide(proof, facts, progress, &flight.policy.retry, budget, random) {
            Verdict::Stop(stop) => {
                env.journal.count(stop_name(stop));
                self.finished(env, id, false)
            }
            Verdict::Retry { after, counted } => {
                env.journal.count("a request was retried");
                let is_paid = match proof {
                    Proof::Unsent => false,
                    Proof::RefusedUnseen => request.retries > 0,
                    Proof::Unknown | Proof::Answered => true,
                };
                request.retries += u8::from(counted);
                if is_paid {
                    self.book(&service).retry(now, ratio)?;
                }
                env.after(after, Event::Node(self.number, NodeEvent::Attempt { request: id }));
                Ok(())
            }
        }
    }

    /// The attempt has a response head that stands for `outcome`, or it failed without one.
    pub(super) fn hear(&mut self, env: &Env, id: RequestId, outcome: Outcome) {
        let request = self.requests.get_mut(&id);
        let flight = request.and_then(|request| Some((&request.service, request.flight.as_mut()?)));
        let Some((service, flight)) = flight.filter(|(_, flight)| !flight.is_heard) else { return };
        flight.is_heard = true;
        let now = env.tick();
        service.heard(0, &flight.replica, outcome, now.since(flight.began), now);
        let is_life = !matches!(outcome, Outcome::Failure(Fault::ResponseTimeout | Fault::ConnectTimeout));
        self.breakers.answered(flight.replica.key(), &mut flight.ticket, is_life, now);
    }

    /// Nobody waits for the attempt any longer. Its replica is to blame only if nothing is heard of it, however long it is
    /// waited for.
    pub(super) fn given_up(&mut self, env: &mut Env, id: RequestId) -> Checked {
        let mut outcome = Outcome::Neutral;
        let request = self.requests.get(&id);
        let flight = request.and_then(|request| Some((&request.service, request.flight.as_ref()?)));
        if let Some((service, flight)) =
            flight.filter(|(_, flight)| flight.permit.is_some() && !flight.is_heard)
        {
            let (since, now, per_try) = (flight.began, env.tick(), env.plan.policy.timeout.per_try);
            let said = if env.has(Sabotage::ExaggerateWaits) { Tick::ORIGIN } else { since };
            let told = match env.has(Sabotage::ForgetWaits) {
                true => None,
                false => service.waited_in_vain(&flight.replica, said, false, now),
            };
            let checks = service.policy().health_check;
            let is_asked = |other: &Arc<Replica>| other.standing(&checks) == Standing::Asked;
            let by_breakers = service.fail_open().is_none() && service.replicas().iter().all(is_asked);
            let waited = Waited { since, now, told, per_try, by_breakers };
            self.breakers.silence_is_judged(flight.replica.key(), flight.ticket, waited)?;
            if let Some(waited) = told {
                env.journal.count("a replica was waited for in vain");
                outcome = Outcome::Failure(Fault::Unanswered(waited));
            }
        }
        self.settle(env, id, outcome)
    }

    /// Gives the attempt's permit back, unless that has happened.
    pub(super) fn settle(&mut self, env: &mut Env, id: RequestId, outcome: Outcome) -> Checked {
        let Some(request) = self.requests.get_mut(&id) else { return Ok(()) };
        let service = Arc::clone(&request.service);
        let Some(flight) = &mut request.flight else { return Ok(()) };
        let Some(permit) = flight.permit.take() else { return Ok(()) };
        let (replica, ticket, latency) = (Arc::clone(&flight.replica), flight.ticket, flight.latency);
        let (began, was_heard) = (flight.began, flight.is_heard);
        let jitter = env.random();
        let somebody = lets_any_through(&service, Some(&replica), &self.breakers);
        let told = match outcome {
            Outcome::Success if env.has(Sabotage::BlameSuccess) && env.chance(0.2) => {
                Outcome::Failure(Fault::Reset)
            }
            Outcome::Failure(_) if env.has(Sabotage::ExcuseFailure) => Outcome::Neutral,
            outcome => outcome,
        };
        if outcome == Outcome::Neutral && env.has(Sabotage::DropPermit) {
            drop(permit);
        } else {
            let latency = latency.filter(|_| !env.has(Sabotage::ForgetLatency));
            let heard = Heard { outcome: told, latency };
            if let Outcome::Failure(fault) = told {
                service.failed(0, &replica, fault, "", env.tick());
            }
            service.judge(&replica, permit, heard, began, env.tick(), jitter);
            service.end(0, &replica, was_heard);
        }
        let change = self.transition();
        if let Some(change) = change {
            env.journal.count(match change.to {
                _ if change.withheld.is_some() => "an opening was withheld",
                State::Open => "a breaker opened",
                State::Closed => "a breaker closed",
                State::HalfOpen => "a breaker was half-open",
                State::ForcedOpen | State::ForcedClosed => "a breaker was forced",
            });
            note!(env, "node {}: {} {:?}: {}", self.number, replica.key(), change.to, change.reason);
            self.turns.entry(service.name().clone()).or_default().begin_anew();
        }
        if change.is_some_and(|change| change.rule() == Some(Rule::SlowRatio)) {
            env.journal.count("a breaker opened for slowness");
        }
        let heard = Heard { outcome, latency };
        self.breakers.settled(replica.key(), ticket, heard, change, env.tick(), somebody)?;
        self.watch_dues(env, &service)?;
        self.breakers.permits_are_conserved(replica.key(), ticket, replica.counters().inflight)
    }

    /// Looks at when the probes of a service are due.
    pub(super) fn watch_dues(&mut self, env: &Env, service: &Service) -> Checked {
        let (now, policy) = (env.tick(), service.policy().breaker);
        let anybody = lets_any_through(service, None, &self.breakers);
        for replica in service.replicas().iter() {
            let view = replica.breaker_view(now, &policy);
            if let Some(until) = view.until.filter(|_| view.state == State::Open && replica.takes_requests())
            {
                self.breakers.due(replica.key(), until, now, anybody)?;
            }
        }
        Ok(())
    }

    /// The client has its answer.
    pub(super) fn finished(&mut self, env: &mut Env, id: RequestId, well: bool) -> Checked {
        self.requests.remove(&id);
        env.journal.count(if well { "a request succeeded" } else { "a request failed" });
        claim("when_all_is_well_every_request_succeeds", well || env.phase < Phase::Well, || {
            format!("request {id} of node {}", self.number)
        })
    }

    /// The budget book of a service.
    pub(super) fn book(&mut self, service: &Arc<Service>) -> &mut BudgetBook {
        let known = self.books.iter().position(|(known, _)| Arc::ptr_eq(known, service));
        let index = known.unwrap_or_else(|| {
            self.books.push((Arc::clone(service), BudgetBook::default()));
            self.books.len() - 1
        });
        &mut self.books[index].1
    }
}

fn stop_name(stop: Stop) -> &'static str {
    match stop {
        Stop::NotIdempotent => "a retry was forbidden: not idempotent",
        Stop::NotReplayable => "a retry was forbidden: not replayable",
        Stop::RetriesUsed => "a retry was forbidden: retries used",
        Stop::NoOtherReplica => "a retry was forbidden: no other replica",
        Stop::BudgetExhausted => "a retry was forbidden: budget exhausted",
        Stop::NoTimeLeft => "a retry was forbidden: no time left",
        Stop::PushedBack => "a retry was forbidden: pushed back",
    }
}

/// Whether a replica of a service, but for this one, gets requests; `None` where checks and breakers are both overridden, perhaps.
fn lets_any_through(service: &Service, except: Option<&Replica>, breakers: &Breakers) -> Option<bool> {
    let checks = service.policy().health_check;
    let replicas = service.replicas();
    let ready = || replicas.iter().filter(|other| other.takes_requests());
    let is_asked = |other: &Arc<Replica>| other.standing(&checks) == Standing::Asked;
    let state = |other: &Replica| breakers.get(other.key()).map(|breaker| breaker.state);
    let is_closed = |other: &Arc<Replica>| state(other).is_some_and(State::lets_all_through);
    let mut others = ready().filter(|other| except.is_none_or(|except| other.key() != except.key()));
    match (ready().any(is_asked), service.fail_open()) {
        (_, None) => Some(others.any(|other| is_asked(other) && is_closed(other))),
        // All of the tier that takes requests are asked, whatever their breakers and checks say.
        (true, Some(open)) => Some(others.any(|other| {
            let is_of_tier = other.priority() == open.tier && state(other) != Some(State::ForcedOpen);
            is_of_tier && other.standing(&checks) != Standing::Waiting || is_asked(other) && is_closed(other)
        })),
        (false, Some(_)) => None,
    }
}
