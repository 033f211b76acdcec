//! A request's life as the proxy leads it, between the real pick, settle and retry decision.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use data_plane::{
    routing::{Draw, Fault, Outcome, State, Tick, balancing::hash, judge, retry::Proof},
    table::{AttemptPolicy, Picked, ReplicaSpec, Service, Unavailable},
};
use gateway_proto::{Priority, ReplicaId, ReplicaKey, ServiceName, Weight, policy::Balancing};
use http::StatusCode;

use super::{
    Node,
    request::{Flight, Request},
};
use crate::{
    checks::{Checked, Picks, claim, open_tier, piled_up, takes_requests},
    env::{Env, MS, Phase},
    event::{Event, Head, NodeEvent, RequestId},
    journal::note,
    owner::Owner,
    sabotage::Sabotage,
};

impl Node {
    /// A client sends a request, and another one after a while.
    pub(super) fn client(&mut self, env: &mut Env) -> Checked {
        if env.phase >= Phase::Leaving {
            return Ok(());
        }
        // Healing needs some traffic, and the more there is the longer a run takes.
        let least = if env.is_troubled() { Duration::ZERO } else { 40 * MS };
        let next = env.between(Duration::ZERO, 2 * env.plan.request_interval.max(least));
        env.after(next, Event::Node(self.number, NodeEvent::Client));
        let asked_for = if self.follows[0] == "*" || env.chance(0.05) { env.plan.services } else { 1 };
        let name = format!("s{}", env.below(asked_for));
        let Some(service) = self.table.service(&name) else {
            env.journal.count("a request met no service");
            return Ok(());
        };
        let id = env.next_request();
        let (is_idempotent, is_replayable) = (env.chance(env.plan.idempotent), env.chance(0.9));
        let deadline = env.tick().plus(service.policy().timeout.request);
        service.budget().request(0, env.tick());
        self.book(&service).request(env.tick());
        self.requests.insert(id, Request::new(service, is_idempotent, is_replayable, deadline));
        if env.chance(env.plan.impatient) {
            let patience = env.between(MS, 100 * MS);
            env.after(patience, Event::Node(self.number, NodeEvent::Leave { request: id }));
        }
        self.attempt(env, id)
    }

    /// Asks the next replica, or gives up.
    pub(super) fn attempt(&mut self, env: &mut Env, id: RequestId) -> Checked {
        let Some(mut request) = self.requests.remove(&id) else { return Ok(()) };
        let now = env.tick();
        let service = Arc::clone(&request.service);
        if env.has(Sabotage::WasteTurns) && env.chance(0.1) {
            self.waste_a_turn(env, &service);
        }
        let tried: &[_] = if env.has(Sabotage::ForgetTried) { &[] } else { &request.tried };
        let clock = if env.has(Sabotage::StopPickClock) { Tick::from_nanos(self.started) } else { now };
        let open_tier = open_tier(&self.snapshot, &self.breakers, service.name(), &env.plan.policy.breaker);
        let sharing = self.sharing(service.name(), open_tier);
        let takes_turns = service.policy().balancing == Balancing::default();
        let unanswered = |id: &ReplicaId| {
            let key = ReplicaKey { service: service.name().clone(), replica: id.clone() };
            self.breakers.unanswered(&key)
        };
        let piled_up = if takes_turns { piled_up(&sharing, unanswered) } else { BTreeSet::new() };
        let has_choice = !request.is_idempotent && !piled_up.is_empty();
        let is_careless = has_choice && env.has(Sabotage::PileUp);
        let is_unrepeatable = !request.is_idempotent && !env.has(Sabotage::SpareNobody) && !is_careless;
        let draw = draw(id, request.attempts, is_unrepeatable);
        let picked = service.pick(0, clock, tried, draw);
        let change = self.transition();
        let is_current = self
            .table
            .service(service.name().as_str())
            .is_some_and(|current| Arc::ptr_eq(&current, &service));
        let rules = env.plan.policy.breaker;
        let picks = Picks {
            snapshot: &self.snapshot,
            breakers: &self.breakers,
            service: service.name(),
            tried: &request.tried,
            now,
            policy: &rules,
            is_unrepeatable: !request.is_idempotent,
            sharing: &sharing,
            piled_up: &piled_up,
        };
        let Picked { replica, permit } = match picked {
            Ok(picked) => picked,
            Err(unavailable) => {
                if is_current {
                    picks.nobody_is_turned_away_in_vain(unavailable)?;
                }
                if request.tried.is_empty() {
                    // Whoever was passed over has let his turn go.
                    self.turns.entry(service.name().clone()).or_default().begin_anew();
                }
                note!(env, "node {}: request {id} to {}: {unavailable:?}", self.number, service.name());
                env.journal.count(match unavailable {
                    Unavailable::NoneReady => "a request met no ready replica",
                    Unavailable::AllOpen { .. } => "a request met open breakers only",
                    Unavailable::AllForcedOpen { .. } => "a request met breakers that were forced open only",
                    Unavailable::AllTried => "a request ran out of replicas",
                    Unavailable::AllFull => unreachable!("no policy here limits what is in flight"),
                });
                return self.finished(env, id, false);
            }
        };
        let policy = AttemptPolicy::from(&*service.policy());
        request.attempts += 1;
        note!(env, "node {}: request {id} attempt {} -> {}", self.number, request.attempts, replica.key());
        picks.picked(&replica, permit.is_probe())?;
        claim("a_pick_is_registered_and_ready", is_current, || {
            format!("{} of a service that is gone", replica.key())
        })?;
        let lease = policy.timeout.connect + policy.timeout.per_try;
        if has_choice && !permit.is_probe() && !piled_up.contains(&replica.key().replica) {
            env.journal.count("a request kept away from where others wait");
        }
        // Whoever was passed over has let his turn go.
        let in_turn = takes_turns && !has_choice;
        let is_first = in_turn && request.tried.is_empty() && !permit.is_probe() && change.is_none();
        let regardless = open_tier == Some(replica.priority());
        let before = self.breakers.get(replica.key()).map(|breaker| breaker.state);
        if regardless && !permit.is_probe() && matches!(before, Some(State::Open | State::HalfOpen)) {
            env.journal.count("a replica was asked although it rests");
        }
        let ticket =
            self.breakers.admitted(replica.key(), permit.is_probe(), regardless, change, now, lease)?;
        if is_first {
            let turns = self.turns.entry(service.name().clone()).or_default();
            turns.took(&replica.key().replica, &sharing)?;
        } else if request.tried.is_empty() || change.is_some() {
            // What follows a failure takes no turn of these.
            self.turns.entry(service.name().clone()).or_default().begin_anew();
        }
        if permit.is_probe() {
            env.journal.count("a probe was sent");
        }
        self.schedule(env, id, &request, policy.timeout.per_try);
        let mut permit = Some(permit);
        if env.has(Sabotage::ReturnProbeEarly) && permit.as_ref().is_some_and(|permit| permit.is_probe()) {
            let returned = permit.take().expect("it is there");
            service.settle(0, &replica, returned, Outcome::Neutral, now, 0.5);
        }
        request.flight = Some(Flight {
            replica,
            permit,
            ticket,
            policy,
            began: now,
            is_heard: false,
            latency: None,
            server: None,
        });
        self.requests.insert(id, request);
        Ok(())
    }

    fn schedule(&self, env: &mut Env, request: RequestId, of: &Request, per_try: Duration) {
        let attempt = of.attempts;
        let own_limit = env.tick().plus(per_try);
        let head = if own_limit > of.deadline { Head::OutOfTime } else { Head::TryTimeout };
        let limit = own_limit.min(of.deadline).as_nanos();
        env.at(limit, Event::Node(self.number, NodeEvent::Head { request, attempt, head }));
        let way = env.between(MS / 10, 2 * MS);
        env.after(way, Event::Node(self.number, NodeEvent::Reach { request, attempt }));
    }

    /// The attempt comes to whoever is at the address.
    pub(super) fn reach(&mut self, env: &mut Env, owners: &[Owner], id: RequestId, attempt: u32) -> Checked {
        let Some(request) = self.requests.get_mut(&id).filter(|request| request.attempts == attempt) else {
            return Ok(());
        };
        let Some(flight) = &mut request.flight else { return Ok(()) };
        let address = flight.replica.address();
        let there = owners.iter().enumerate().find(|(_, owner)| owner.address == *address);
        let (head, takes) =
            there.map_or((Head::Refused, Some(Duration::ZERO)), |(_, owner)| owner.serve(env));
        let takes = if head == Head::ConnectTimeout { Some(flight.policy.timeout.connect) } else { takes };
        if !matches!(head, Head::Refused | Head::ConnectTimeout | Head::RefusedStream)
            && let Some((number, owner)) = there
        {
            flight.server = Some((number, owner.life));
            request.seen_by(number)?;
        }
        if let Some(takes) = takes {
            env.after(takes, Event::Node(self.number, NodeEvent::Head { request: id, attempt, head }));
        }
        Ok(())
    }

    /// The attempt's response head has come, or will not.
    pub(super) fn head(
        &mut self,
        env: &mut Env,
        owners: &[Owner],
        id: RequestId,
        attempt: u32,
        head: Head,
    ) -> Checked {
        let Some(request) = self.requests.get_mut(&id).filter(|request| request.attempts == attempt) else {
            return Ok(());
        };
        // A head has come before: this is the alarm that was set for it.
        let Some(flight) = request.flight.as_mut().filter(|_| request.status.is_none()) else {
            return Ok(());
        };
        let told = matches!(head, Head::Status { .. } | Head::TryTimeout);
        flight.latency = told.then(|| env.tick().since(flight.began));
        let is_cut_off = flight.server.is_some_and(|(number, life)| owners[number].life != life);
        let fault = |fault| (Outcome::Failure(fault), fault);
        let ((outcome, _), proof) = match head {
            Head::Status { .. } if is_cut_off => {
                flight.latency = None;
                (fault(Fault::Reset), Proof::Unknown)
            }
            Head::Status { status, retry_after, whole } => {
                return self.answered(env, id, status, retry_after, whole);
            }
            Head::Refused => (fault(Fault::ConnectRefused), Proof::Unsent),
            Head::ConnectTimeout => (fault(Fault::ConnectTimeout), Proof::Unsent),
            Head::Reset => (fault(Fault::Reset), Proof::Unknown),
            Head::RefusedStream => (fault(Fault::Closed), Proof::RefusedUnseen),
            Head::TryTimeout => (fault(Fault::ResponseTimeout), Proof::Unknown),
            Head::OutOfTime => {
                env.journal.count("a request ran out of time");
                self.given_up(env, id)?;
                return self.finished(env, id, false);
            }
        };
        note!(env, "node {}: request {id} attempt {attempt}: {head:?}", self.number);
        self.hear(env, id, outcome);
        self.settle(env, id, outcome)?;
        self.failed(env, id, proof)
    }

    fn answered(
        &mut self,
        env: &mut Env,
        id: RequestId,
        status: u16,
        retry_after: bool,
        whole: bool,
    ) -> Checked {
        let code = StatusCode::from_u16(status).expect("three digits");
        let outcome = judge(code, retry_after);
        note!(env, "node {}: request {id}: {status}", self.number);
        self.hear(env, id, outcome);
        let is_probe = self.requests.get(&id).is_some_and(Request::is_probe);
        if is_probe || outcome != Outcome::Success {
            self.settle(env, id, outcome)?;
        }
        if matches!(status, 502..=504) && outcome != Outcome::Success {
            return self.failed(env, id, Proof::Answered);
        }
        if let Some(request) = self.requests.get_mut(&id) {
            request.status = Some(status);
        }
        let body = env.between(Duration::ZERO, 50 * MS);
        let whole = whole || outcome != Outcome::Success;
        env.after(body, Event::Node(self.number, NodeEvent::Body { request: id, whole }));
        Ok(())
    }

    /// The response body ends, as it should or cut off.
    pub(super) fn body(&mut self, env: &mut Env, id: RequestId, whole: bool) -> Checked {
        let Some(request) = self.requests.get(&id) else { return Ok(()) };
        if let Some(flight) = request.flight.as_ref().filter(|_| whole) {
            flight.replica.shows_life(0, env.tick());
            self.breakers.shows_life(flight.replica.key(), flight.ticket, env.tick());
        }
        let is_good = request.status.is_some_and(|status| status < 500);
        let outcome = if whole { Outcome::Success } else { Outcome::Failure(Fault::Truncated) };
        self.settle(env, id, outcome)?;
        self.finished(env, id, whole && is_good)
    }

    /// The client goes away: nobody is to blame.
    pub(super) fn leave(&mut self, env: &mut Env, id: RequestId) -> Checked {
        if self.requests.contains_key(&id) {
            env.journal.count("a client left");
            self.given_up(env, id)?;
            self.requests.remove(&id);
        }
        Ok(())
    }

    /// The replicas that take turns, with their shares: those of the best tier that has one.
    fn sharing(&self, service: &ServiceName, open_tier: Option<Priority>) -> BTreeMap<ReplicaId, Weight> {
        let replicas = self.snapshot.service(service).into_iter().flat_map(|service| &service.replicas);
        let closed = |id: &ReplicaId| {
            let key = ReplicaKey { service: service.clone(), replica: id.clone() };
            self.breakers.get(&key).is_some_and(|breaker| breaker.state.lets_all_through())
        };
        let is_forced = |id: &ReplicaId| {
            let key = ReplicaKey { service: service.clone(), replica: id.clone() };
            self.breakers.get(&key).is_none_or(|breaker| breaker.state == State::ForcedOpen)
        };
        let is_asked = |spec: &&ReplicaSpec| {
            closed(&spec.id) || (Some(spec.priority) == open_tier && !is_forced(&spec.id))
        };
        let sharing: Vec<_> = replicas.filter(|spec| takes_requests(spec)).filter(is_asked).collect();
        let tier = sharing.iter().map(|spec| spec.priority).min();
        let sharing = sharing.into_iter().filter(|spec| Some(spec.priority) == tier);
        sharing.map(|spec| (spec.id.clone(), spec.weight)).collect()
    }

    fn waste_a_turn(&mut self, env: &Env, service: &Service) {
        // Not while it may be a probe: that would be another bug.
        let (now, policy) = (env.tick(), service.policy().breaker);
        let replicas = service.replicas();
        let mut states = replicas.iter().map(|replica| replica.breaker_view(now, &policy).state);
        if !states.all(State::lets_all_through) {
            return;
        }
        if let Ok(Picked { replica, permit, .. }) = service.pick(0, env.tick(), &[], Draw::default()) {
            service.settle(0, &replica, permit, Outcome::Neutral, env.tick(), 0.5);
        }
    }
}

/// The chance and the key of an attempt: one request in five has no key. Not of the world's lots, so that what is drawn
/// here changes nothing else.
fn draw(id: RequestId, attempt: u32, is_unrepeatable: bool) -> Draw {
    let lot = hash(format!("{id} {attempt}").as_bytes());
    let key = hash(&(id % 25).to_le_bytes());
    let random = (lot >> 11) as f64 / (1_u64 << 53) as f64;
    Draw { random, key: (!id.is_multiple_of(5)).then_some(key), is_unrepeatable, is_beside: false }
}
