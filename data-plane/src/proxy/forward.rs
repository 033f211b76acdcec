//! The life of one request: find its service, ask one replica after the other, answer.
//!
//! Read this first. It knows heads and bodies, not codecs; what it does, in order:
//!
//! 1. refuse what cannot be forwarded, find the service, and refuse what its policy does not let through
//!    ([`admission`], [`rate_limit`]);
//! 2. where its policy says so, do to the request on purpose what makes its client suffer ([`injection`]);
//! 3. turn the head into one for a replica ([`super::head::headers`]);
//! 4. pick a replica ([`attempt`]), waiting for a place where all are full ([`place`]), send, wait for the response
//!    head within the time there is ([`exchange`]);
//! 5. judge what came; when another try is proven harmless and worthwhile, go to 4 with another replica ([`aftermath`],
//!    [`crate::routing::retry`]), which may also be asked beside one that takes long ([`hedge`]);
//! 6. pass the answer on, its body streaming ([`super::body::response_body`]) or, after a switch of protocols
//!    ([`super::tunnel::upgrade`]), all that follows ([`super::tunnel`]); or say why there is none
//!    ([`super::errors`]), unless the policy has something in its place ([`fallback`]).

pub(super) mod admission;
pub(super) mod affinity;
mod aftermath;
pub(super) mod attempt;
mod exchange;
mod fallback;
pub(super) mod grpc;
mod hedge;
pub(super) mod injection;
mod place;
pub(super) mod pushback;
mod rate_limit;
pub(super) mod route;
pub(super) mod stale;
pub(super) mod stay;

use std::{cell::Cell, pin::pin, rc::Rc, sync::Arc, time::Duration};

use self::{
    admission::{admit, check_policy},
    attempt::Attempt,
    injection::{Injected, inject},
    stay::Stay,
};
use super::{
    body::{
        request_body::{Arrival, ClientBody, NotHeld, RequestSource},
        response_body::{Answer, Call, ResponseBody},
    },
    downstream::Asker,
    errors::{Caller, GatewayError},
    h1::{Length, frame, length_of_request},
    head::{
        RequestHead,
        field_name::{Name, Names},
        forwarding::claimed_client,
        headers::{self, Onward},
        hints::CallerHints,
        request_id::RequestId,
    },
    trail::Trail,
    tunnel::upgrade::{self, Upgrade},
    worker::Worker,
};
use crate::{
    access_log as logged,
    request_rules::BodyCheck,
    routing::{
        Fault, Tick,
        retry::{Proof, Stop, Verdict},
    },
    table::{AttemptPolicy, FallbackKind, Replica, RequestOutcome},
    traces::Event,
};
use aftermath::{Paid, repeats};
use exchange::Tried;
use gateway_runtime::panics::caught;
use hedge::Raced;
use http::StatusCode;

/// Answers one request, also when it meets a defect. Dropping the future abandons the request: the replica's connection
/// is closed at once and nobody is blamed.
pub(super) async fn forward(
    worker: Rc<Worker>,
    client: Asker,
    head: RequestHead,
    body: ClientBody,
) -> Answer {
    let request_id = RequestId::of(&head.fields, client.is_trusted(), || worker.random_id());
    let reply_to = ReplyTo { caller: Caller::of(&head), request_id: &request_id };
    let claimed = match client.is_trusted() {
        true => claimed_client(&head.fields, &worker.forwarding().trusted).map(|client| client.to_string()),
        false => None,
    };
    let claimed = claimed.as_deref();
    let trail = Trail::begin(&worker, client.client(), &head, claimed, &request_id);
    let mut answered = {
        let told = trail.as_deref();
        // Pinned here, because moving it would cost more than all the rest.
        let answer = pin!(answer(Rc::clone(&worker), client, reply_to, head, body, claimed, told));
        or_internal(&worker, reply_to, answer).await
    };
    if let Some(trail) = trail {
        trail.answered(&answered);
        answered.trail = Some(trail);
    }
    answered
}

/// In whose words this gateway says itself what becomes of a request, and under which id.
#[derive(Clone, Copy)]
pub(super) struct ReplyTo<'a> {
    caller: Caller,
    request_id: &'a RequestId,
}

/// What `answer` comes to, or, when it panics, an answer that says so. The attempt under way is dropped with it, and
/// its replica is not blamed.
async fn or_internal(worker: &Worker, reply_to: ReplyTo<'_>, answer: impl Future<Output = Answer>) -> Answer {
    match caught(answer).await {
        Ok(response) => response,
        Err(_) => {
            // Its message is in the log.
            worker.panicked("request");
            worker.refuse_to(reply_to.caller, &GatewayError::Internal, "", 0, reply_to.request_id)
        }
    }
}

async fn answer(
    worker: Rc<Worker>,
    client: Asker,
    reply_to: ReplyTo<'_>,
    mut head: RequestHead,
    body: ClientBody,
    claimed: Option<&str>,
    trail: Option<&Trail>,
) -> Answer {
    let ReplyTo { caller, request_id } = reply_to;
    let admitted = match admit(&worker, &head) {
        Ok(admitted) => admitted,
        Err((error, service)) => return worker.refuse_to(caller, &error, &service, 0, request_id),
    };
    let service = &admitted.stay;
    if let Some(trail) = trail {
        trail.found(service.name().as_str(), admitted.route());
    }
    let length = match length_of_request(&head, body.is_empty()) {
        Ok(length) => length,
        Err(refusal) => {
            let error = GatewayError::refused(refusal, &worker.limits().head);
            return refused(&error, reply_to, &worker, service);
        }
    };
    // Taken together, because each look at the policy costs as much as a pick.
    let (rules, policy, has_key, has_rate) = {
        let policy = service.policy();
        let (has_key, has_rate) = (affinity::has_key(&policy.balancing), policy.rate_limit.is_set());
        (policy.request, AttemptPolicy::from(&*policy), has_key, has_rate)
    };
    let timeout = policy.timeout;
    if let Err(error) = check_policy(&rules, &head, length) {
        return refused(&error, reply_to, &worker, service);
    }
    let upgrade = match Upgrade::asked(&head, length, &rules, || worker.random_id()) {
        Ok(upgrade) => upgrade,
        Err(error) => return refused(&error, reply_to, &worker, service),
    };
    let mut call_timeout = match caller {
        Caller::Http => None,
        Caller::Grpc => match grpc::timeout(&head.fields) {
            Ok(timeout) => timeout,
            Err(why) => {
                return refused(&GatewayError::BadRequest(why), reply_to, &worker, service);
            }
        },
    };
    let check = BodyCheck::new(&rules);
    let is_held = check.looks_inside();
    let rewrite = admitted.rewrite(&head);
    let forwarding = worker.forwarding();
    // Before the head becomes one to a replica, which is told nothing of it.
    let hints = match client.is_trusted() {
        true => CallerHints::of(&head.fields),
        false => Ok(CallerHints::default()),
    };
    let hints = match hints {
        Ok(hints) => hints,
        Err(error) => return refused(&error, reply_to, &worker, service),
    };
    let onward = Onward {
        peer: client.peer(),
        writes_forwarded: forwarding.writes_forwarded,
        via: worker.via(),
        request_id,
        rewrite,
    };
    let mut time = hints.time.map_or(timeout.request, |time| time.min(timeout.request));
    let mut started = service.began();
    let client_address = claimed.unwrap_or(client.ip());
    let mut failure = match has_rate {
        true => rate_limit::exceeded(service, &head, client_address, worker.now()),
        false => None,
    };
    if failure.is_none()
        && let Some(injection) = service.injection()
    {
        // Boxed, because requests are not to have the room for what nearly none of them meets.
        let limit = call_timeout.map_or(time, |whole| whole.min(time));
        match Box::pin(inject(&injection, (&worker, service), &head.fields, limit, trail)).await {
            Ok(held) => {
                time = time.saturating_sub(held);
                call_timeout = call_timeout.map(|whole| whole.saturating_sub(held));
            }
            Err(Injected::Reset(answer)) => return *answer,
            Err(Injected::Failure(error)) => failure = Some(error),
        }
        started = worker.now();
    }
    let falls_back = |error: &GatewayError| {
        service.has_fallback() && service.policy().fallback.statuses.has(error.status().as_u16())
    };
    if let Some(error) = failure.take_if(|error| !falls_back(error)) {
        return refused(&error, reply_to, &worker, service);
    }
    headers::prepare_request(&mut head, &onward);
    if let Some(traced) = trail.and_then(Trail::traced) {
        traced.sends(&mut head);
    }
    let service = admitted.stay;
    // By the fields as every version of HTTP has them by now: with a Host, and with one Cookie.
    let key = match has_key {
        true => affinity::key(&service.policy().balancing, &head.fields, client_address),
        false => None,
    };
    frame(&mut head.fields, length);
    if call_timeout.is_some() {
        // Each attempt says what is left of it.
        head.fields.remove(Names::of(&[Name::GrpcTimeout]));
    }
    if let Some(upgrade) = &upgrade {
        upgrade.ask(&mut head.fields);
    }
    let is_idempotent = repeats(&policy.retry, &head);
    let may_replay = is_idempotent || is_held || caller == Caller::Grpc || service.may_decline();
    let source = RequestSource::new(
        body.of(length),
        may_replay,
        check,
        worker.replay_memory(),
        worker.limits().min_body_rate,
        worker.clock(),
    );
    if let Some(trail) = trail {
        source.count_in(trail.received());
    }
    // A service that stands in is asked with it; an answer of the gateway's own does without.
    let is_needed = failure.is_none() || !service.policy().fallback.service.as_str().is_empty();
    if is_held
        && is_needed
        && let Err(failure) =
            Box::pin(source.hold(timeout.stream_idle, timeout.stream_idle.max(timeout.request))).await
    {
        let error = match failure {
            NotHeld::Stalled => stalled(&worker, &source),
            NotHeld::Failed => broken_off(&source),
        };
        return refused(&error, reply_to, &worker, &service);
    }
    if failure.is_none() {
        // Not by when it came: it may have been held for long.
        service.budget().request(worker.index(), worker.now());
    }
    let mut journey = Journey {
        source,
        started,
        time,
        hints,
        worker,
        client,
        service,
        policy,
        expects_continue: headers::expects_continue(&head.fields),
        head,
        length,
        key,
        // What a tunnel may have carried is never repeated.
        is_idempotent: is_idempotent && upgrade.is_none(),
        upgrade,
        caller,
        call: (caller == Caller::Grpc).then(|| Call::of(grpc::deadline(started, call_timeout))),
        tried: Vec::new(),
        attempts: Cell::new(0),
        retries: 0,
        paid: None,
        hedges: 0,
        was_pushed_back: false,
        is_seen: false,
        has_winner: Cell::new(false),
        claimed,
        last: None,
        trail,
        request_id,
    };
    let answer = match failure {
        None => journey.run().await,
        // Boxed, as all that nearly no request meets.
        Some(error) => Box::pin(journey.conclude(Err(error))).await,
    };
    if let ResponseBody::Replica(body) = &answer.body {
        body.borrow_mut().keep(journey.service);
    }
    answer
}

/// The answer to a request that no replica was asked for.
pub(super) fn refused(
    error: &GatewayError,
    reply_to: ReplyTo<'_>,
    worker: &Worker,
    service: &Stay,
) -> Answer {
    service.answered(error.status(), RequestOutcome::GatewayError);
    worker.refuse_to(reply_to.caller, error, service.name().as_str(), 0, reply_to.request_id)
}

/// Why a client is not waited for any longer.
fn stalled(worker: &Worker, source: &RequestSource) -> GatewayError {
    match source.is_too_slow(worker.now()) {
        true => GatewayError::BodyTooSlow(worker.limits().min_body_rate.bytes_per_second),
        false => GatewayError::RequestTimeout,
    }
}

/// Why a body that came from a client ended before its end.
fn broken_off(source: &RequestSource) -> GatewayError {
    let breach = source.breach().map(GatewayError::Refused);
    breach.unwrap_or(GatewayError::BadRequest("the request's body broke off"))
}

/// How a request ended: with an answer of a replica, or without one.
type Ending = Result<Answer, GatewayError>;

/// One request under way.
struct Journey<'a> {
    worker: Rc<Worker>,
    client: Asker,
    service: Stay,
    policy: AttemptPolicy,
    /// As replicas get it.
    head: RequestHead,
    /// Of its body.
    length: Length,
    /// Whether a replica is asked if it wants the body.
    expects_continue: bool,
    source: RequestSource,
    /// The hash of what it is shared out by, if it is.
    key: Option<u64>,
    is_idempotent: bool,
    /// The protocols that the client asks to switch to.
    upgrade: Option<Upgrade>,
    caller: Caller,
    /// What its response is a part of, if it is a gRPC call.
    call: Option<Call>,
    started: Tick,
    /// How long all attempts together may take once the whole request is here.
    time: Duration,
    /// What a trusted caller has asked for.
    hints: CallerHints,
    /// Replicas that failed this request: none is asked twice.
    tried: Vec<Arc<Replica>>,
    /// Those that have begun.
    attempts: Cell<usize>,
    /// Retries that count against the policy's limit.
    retries: u8,
    /// What the next of them has cost, until it is sent.
    paid: Option<Paid>,
    /// Attempts that were begun beside others, which a caller counts as it counts retries.
    hedges: u8,
    /// Whether a replica has asked for time, see [`Pushback`].
    was_pushed_back: bool,
    /// Whether a replica may have seen it.
    is_seen: bool,
    /// While attempts are dropped because another was quicker.
    has_winner: Cell<bool>,
    /// The address of its client as trusted proxies have it.
    claimed: Option<&'a str>,
    /// How the last failed attempt ended.
    last: Option<Ended>,
    /// If anybody listens.
    trail: Option<&'a Trail>,
    /// By which its failures are known.
    request_id: &'a RequestId,
}

/// A failed attempt's end.
enum Ended {
    /// The replica answered, with a failure: a real answer, better than one of our own.
    Answered(Answer),
    Faulted(Fault),
    /// The replica's drain was over before it answered.
    Drained,
    /// The replica said that it did not process it.
    Declined,
    /// There was no room on the connections to it that are shared.
    Full,
    /// It was to switch protocols, and has no way to.
    CannotSwitch,
    /// This machine has no port left for another connection to it.
    NoPort,
}

impl Journey<'_> {
    async fn run(&mut self) -> Answer {
        let _held = self.hold_resource();
        let result = self.ask().await.and_then(|answer| self.check_switch(answer));
        self.count_retries(0, &result);
        let answer = self.conclude(result).await;
        let latency = self.worker.now().since(self.started);
        self.service.record_latency(self.worker.index(), latency);
        answer
    }

    /// Makes of how it ended what its client gets.
    async fn conclude(&mut self, result: Ending) -> Answer {
        // Now, before somebody else is asked in place of those replicas.
        let result = result.map_err(|error| self.named(error));
        let (falls_back, keeps) = match self.service.has_fallback() {
            true => {
                let fallback = self.service.policy().fallback;
                (self.may_fall_back(&result, &fallback), !fallback.stale_max_age.is_zero())
            }
            false => (false, false),
        };
        if keeps && !falls_back {
            self.keep(&result);
        }
        let (result, fell_back) = if falls_back {
            // Boxed, so that requests which do not need it hold no room for it.
            Box::pin(self.fall_back(result)).await
        } else {
            (result, None)
        };
        let (status, outcome) = self.told_as(&result);
        let mut response = match result {
            Ok(response) => response,
            Err(error) => {
                let (service, attempts) = (self.service.name().as_str(), self.attempts.get());
                self.worker.refuse_to(self.caller, &error, service, attempts, self.request_id)
            }
        };
        if outcome != RequestOutcome::GatewayError && fell_back != Some(FallbackKind::Static) {
            let is_required = response.head.status == StatusCode::UPGRADE_REQUIRED;
            let protocol = match response.tunnel.is_some() {
                true => response.head.fields.get(Name::Upgrade).map(<[u8]>::to_vec),
                false if is_required => {
                    upgrade::required(&response.head.fields, &self.service.policy().request)
                }
                false => None,
            };
            headers::prepare_response(&mut response.head.fields, self.worker.via(), self.request_id);
            match (&self.upgrade, protocol) {
                (_, Some(protocols)) if is_required => {
                    upgrade::require(&mut response.head.fields, &protocols)
                }
                (Some(upgrade), Some(protocol)) => upgrade.tell(&mut response.head, &protocol),
                _ => {}
            }
            if let Some(trail) = self.trail.filter(|_| self.worker.shows_replica()) {
                let now = self.worker.clock().now();
                let (upstream, whole) = (trail.upstream(now), trail.age(now));
                headers::show_times(&mut response.head.fields, whole.saturating_sub(upstream), upstream);
            }
        }
        let outcome = match fell_back {
            Some(kind) => {
                self.service.fell_back(kind);
                RequestOutcome::Fallback
            }
            None => outcome,
        };
        self.service.answered(status, outcome);
        response
    }

    /// Asks replicas until one answers well, or no other may be asked.
    async fn ask(&mut self) -> Ending {
        loop {
            let attempt = match self.begin().await {
                Ok(begun) => {
                    self.is_sent();
                    begun
                }
                Err(none) => return self.give_up(none),
            };
            let tried = if self.may_hedge(&attempt) {
                // Boxed, so that requests which do not hedge hold no room for it.
                let before = self.attempts.get() + 1;
                let Raced { tried, failed, proof } = Box::pin(self.race(attempt)).await;
                self.hedges = self.hedges.saturating_add((self.attempts.get() - before) as u8);
                self.is_seen |= proof >= Proof::Unknown;
                for (replica, ended) in failed {
                    self.was_pushed_back |= self.failed(replica, ended).is_some();
                }
                tried
            } else {
                let number = self.begun(&attempt);
                let tried = self.try_once(attempt, number).await;
                self.ended(number, tried.outcome());
                tried
            };
            self.is_seen |= tried.proof() >= Proof::Unknown;
            match tried {
                Tried::Answer(response) => return Ok(response),
                Tried::OutOfTime => {
                    self.stopped(Stop::NoTimeLeft.as_str());
                    return self.end(Stop::NoTimeLeft, GatewayError::DeadlineExceeded);
                }
                Tried::Exhausted => {
                    return self.end(Stop::NoOtherReplica, GatewayError::Exhausted);
                }
                Tried::ClientGone => return Err(broken_off(&self.source)),
                Tried::ClientStalled => return Err(stalled(&self.worker, &self.source)),
                Tried::Unsendable(why) => return Err(GatewayError::BadRequest(why)),
                Tried::Failed { replica, proof, ended } => {
                    let pushback = self.failed(replica, ended);
                    let verdict = self.verdict(proof, pushback);
                    self.was_pushed_back |= pushback.is_some();
                    match verdict {
                        Verdict::Retry { after, counted } => {
                            self.note(|| Event::Retried(after));
                            self.retries += u8::from(counted);
                            aftermath::pause(after).await;
                            self.policy = AttemptPolicy::from(&*self.service.policy());
                        }
                        Verdict::Stop(stop) => {
                            tracing::debug!(service = %self.service.name(), %stop, "no other attempt");
                            self.stopped(stop.as_str());
                            return self.end(stop, GatewayError::NoneReady);
                        }
                    }
                }
            }
        }
    }

    /// Notes why a failed attempt is not followed by another.
    fn stopped(&self, why: &'static str) {
        if let Some(trail) = self.trail.filter(|_| self.attempts.get() > 0) {
            trail.stopped(why);
        }
    }

    /// What it is shared out by where that is its client's address.
    fn client_address(&self) -> &str {
        self.claimed.unwrap_or(self.client.ip())
    }

    /// Counts an attempt, and tells of it. Yields its number, from 1.
    fn begun(&self, attempt: &Attempt) -> usize {
        let number = self.attempts.get() + 1;
        self.attempts.set(number);
        if let Some(trail) = self.trail {
            trail.attempt(number, attempt.replica(), attempt.admitted(), attempt.began());
            if let Some(traced) = trail.traced() {
                traced.look_at(&self.service, attempt.began());
            }
        }
        number
    }

    /// Notes what happens to a traced request.
    fn note(&self, event: impl FnOnce() -> Event) {
        if let Some(traced) = self.trail.and_then(Trail::traced) {
            traced.note(self.worker.clock().now(), event());
        }
    }

    /// Tells what the attempt of that number came to.
    fn ended(&self, number: usize, outcome: logged::Outcome) {
        if let Some(trail) = self.trail {
            trail.ended(number, outcome, self.worker.clock().now());
        }
    }

    /// Until when all attempts may take, as far as it is known `now`: what the client takes to send its request is not
    /// counted.
    fn deadline(&self, now: Tick) -> Tick {
        let counted_from = match self.source.arrival() {
            Arrival::Whole(at) => self.started.max(at),
            Arrival::Partial { .. } => now,
        };
        let due = counted_from.plus(self.time);
        self.call.and_then(|call| call.deadline).map_or(due, |deadline| due.min(deadline))
    }
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
