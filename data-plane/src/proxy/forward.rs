//! The life of one request: find its service, ask one replica after the other, answer.
//!
//! Read this first. It knows heads and bodies, not codecs; what it does, in order:
//!
//! 1. refuse what cannot be forwarded, and find the service ([`super::route`]);
//! 2. turn the head into one for a replica ([`super::headers`]);
//! 3. pick a replica, send, wait for the response head within the time there is ([`super::attempt`], [`super::upstream`]);
//! 4. judge what came; when another try is proven harmless and worthwhile, go to 3 with another replica
//!    ([`crate::routing::retry`]);
//! 5. pass the answer on, its body streaming ([`super::body`]), or say why there is none ([`super::errors`]).

use std::{
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use gateway_proto::Policy;
use http::{
    HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{CONTENT_LENGTH, HOST, RETRY_AFTER, TRANSFER_ENCODING},
    request,
    uri::{Authority, PathAndQuery},
};
use hyper::body::Incoming;

use super::{
    attempt::Attempt,
    body::{Arrival, RequestSource, ResponseBody, UpstreamBody},
    downstream::Client,
    errors::GatewayError,
    headers::{self, Onward},
    route,
    upstream::{ConnectFailure, Link, SendFailure, proof_of},
    worker::Worker,
};
use crate::{
    routing::{
        Fault, Outcome, Tick, judge,
        retry::{Progress, Proof, RequestFacts, Verdict, decide, is_idempotent},
    },
    table::{Replica, RequestOutcome, Service, Unavailable},
};

/// Answers one request. Dropping the future abandons the request: the replica's connection is closed at once and
/// nobody is blamed.
pub(super) async fn forward(
    worker: Rc<Worker>,
    client: Rc<Client>,
    request: Request<Incoming>,
) -> Response<ResponseBody> {
    let (mut head, incoming) = request.into_parts();
    let request_id = headers::request_id(&head.headers, || worker.random_id());
    let (service, onward) = match admit(&worker, &head) {
        Ok(admitted) => admitted,
        Err((error, service)) => return error.respond(&service, 0, worker.via(), &request_id),
    };
    let is_idempotent = is_idempotent(&head.method);
    headers::prepare_request(
        &mut head,
        Onward {
            client_ip: client.ip(),
            via: worker.via(),
            host: onward.host,
            request_id: &request_id,
            target: onward.target,
            stripped_prefix: onward.stripped_prefix,
        },
    );
    let started = worker.now();
    service.budget().request(started);
    let source = RequestSource::new(incoming, is_idempotent, worker.replay_memory(), worker.clock());
    if !source.is_empty() && !head.headers.contains_key(CONTENT_LENGTH) {
        // Said outright, because without it hyper takes a GET or HEAD to have no body.
        head.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    let mut journey = Journey {
        source,
        started,
        time: service.policy().timeout.request,
        worker,
        service,
        head,
        is_idempotent,
        tried: Vec::new(),
        attempts: 0,
        retries: 0,
        last: None,
    };
    journey.run(&request_id).await
}

/// What a replica is told about the request's target.
struct Target {
    host: Option<HeaderValue>,
    target: PathAndQuery,
    stripped_prefix: Option<HeaderValue>,
}

/// Refuses what cannot be forwarded; finds the service and the target for the rest.
///
/// The error comes with the name of the service that was asked for, as far as it is known.
fn admit(worker: &Worker, head: &request::Parts) -> Result<(Arc<Service>, Target), (GatewayError, String)> {
    let refuse = |error| (error, String::new());
    if head.method == Method::CONNECT {
        return Err(refuse(GatewayError::TunnelRefused));
    }
    if worker.via().is_in(&head.headers) {
        return Err(refuse(GatewayError::Loop));
    }
    let host = host_of(head).map_err(refuse)?;
    let Some(path_and_query) = head.uri.path_and_query() else {
        return Err(refuse(GatewayError::BadRequest("the request has no path")));
    };
    let host_text = host.as_ref().and_then(|host| host.to_str().ok());
    let found =
        route::route(host_text, &head.uri, worker.domain()).ok_or_else(|| refuse(GatewayError::NoRoute))?;
    let Some(service) = worker.table().service(found.service) else {
        let error = match worker.table().is_filled() {
            true => GatewayError::UnknownService,
            false => GatewayError::NoSnapshot,
        };
        return Err((error, found.service.to_owned()));
    };
    if !found.is_by_path {
        let target = path_and_query.clone();
        return Ok((service, Target { host, target, stripped_prefix: None }));
    }
    let target = route::strip_first_segment(path_and_query)
        .ok_or_else(|| refuse(GatewayError::BadRequest("the path behind the service's name is not valid")))?;
    let stripped_prefix = HeaderValue::from_str(&format!("/{}", service.name())).ok();
    Ok((service, Target { host, target, stripped_prefix }))
}

/// The one host that the request names: an absolute target goes before the field (RFC 9112 section 3.2.2).
fn host_of(head: &request::Parts) -> Result<Option<HeaderValue>, GatewayError> {
    let mut fields = head.headers.get_all(HOST).iter();
    let field = fields.next();
    if fields.next().is_some() {
        return Err(GatewayError::BadRequest("the request has more than one Host field"));
    }
    let authority = head.uri.authority();
    // In HTTP/2 the authority stands for the field.
    let is_named = field.is_some() || (head.version == Version::HTTP_2 && authority.is_some());
    if !is_named && head.version >= Version::HTTP_11 {
        return Err(GatewayError::BadRequest("the request has no Host field"));
    }
    let invalid = GatewayError::BadRequest("the request's host is not valid");
    let host = match authority.map(|authority| HeaderValue::from_str(authority.as_str())) {
        Some(Ok(authority)) => Some(authority),
        Some(Err(_)) => return Err(invalid),
        None => field.cloned(),
    };
    // An empty one is what a request has whose target has no authority.
    let is_valid = |host: &HeaderValue| {
        host.is_empty() || Authority::try_from(host.as_bytes()).is_ok_and(|host| !host.as_str().contains('@'))
    };
    match host {
        Some(host) if !is_valid(&host) => Err(invalid),
        host => Ok(host),
    }
}

/// One request under way.
struct Journey {
    worker: Rc<Worker>,
    service: Arc<Service>,
    /// As replicas get it.
    head: request::Parts,
    source: RequestSource,
    is_idempotent: bool,
    started: Tick,
    /// How long all attempts together may take once the whole request is here.
    time: Duration,
    /// Replicas that failed this request: none is asked twice.
    tried: Vec<Arc<Replica>>,
    attempts: usize,
    /// Retries that count against the policy's limit.
    retries: u8,
    /// How the last failed attempt ended.
    last: Option<Ended>,
}

/// A failed attempt's end.
enum Ended {
    /// The replica answered, with a failure: a real answer, better than one of our own.
    Answered(Response<ResponseBody>),
    Faulted(Fault),
}

/// What became of one attempt.
enum Tried {
    Answer(Response<ResponseBody>),
    Failed {
        replica: Arc<Replica>,
        proof: Proof,
        ended: Ended,
    },
    /// The request's own time ran out, by which the replica is not judged.
    OutOfTime,
    /// This gateway has nothing left to reach a replica with.
    Exhausted,
    /// The client broke its request off.
    ClientGone,
    /// The client stopped sending its request's body.
    ClientStalled,
}

/// Who took too long, when an attempt ends without a response head.
enum Late {
    /// The replica had all the time that one attempt has.
    Replica,
    /// Earlier attempts left this one less than that.
    Request,
    /// The request's body stopped on its way here.
    Client,
}

impl Journey {
    async fn run(&mut self, request_id: &HeaderValue) -> Response<ResponseBody> {
        let result = self.ask().await;
        let (mut response, outcome) = match result {
            Ok(response) => {
                let failed = judge(response.status(), false) != Outcome::Success;
                (response, if failed { RequestOutcome::UpstreamError } else { RequestOutcome::Success })
            }
            Err(error) => {
                let service = self.service.name().as_str();
                let response = error.respond(service, self.attempts, self.worker.via(), request_id);
                (response, RequestOutcome::GatewayError)
            }
        };
        if outcome != RequestOutcome::GatewayError {
            headers::prepare_response(response.headers_mut(), self.worker.via(), request_id);
        }
        self.service.counters().answered(self.worker.index(), response.status(), outcome);
        response
    }

    /// Asks replicas until one answers well, or no other may be asked.
    async fn ask(&mut self) -> Result<Response<ResponseBody>, GatewayError> {
        loop {
            let (attempt, policy) = match Attempt::begin(&self.worker, &self.service, &self.tried) {
                Ok(begun) => begun,
                Err(unavailable) => return self.give_up(unavailable),
            };
            self.attempts += 1;
            match self.try_once(attempt, &policy).await {
                Tried::Answer(response) => return Ok(response),
                Tried::OutOfTime => {
                    return self.last.take().map_or(Err(GatewayError::DeadlineExceeded), Ended::answer);
                }
                Tried::Exhausted => {
                    return self.last.take().map_or(Err(GatewayError::Exhausted), Ended::answer);
                }
                Tried::ClientGone => return Err(GatewayError::BadRequest("the request's body broke off")),
                Tried::ClientStalled => return Err(GatewayError::RequestTimeout),
                Tried::Failed { replica, proof, ended } => {
                    self.tried.push(replica);
                    self.remember(ended);
                    match self.verdict(proof, &policy) {
                        Verdict::Retry { after, counted } => {
                            self.retries += u8::from(counted);
                            pause(after).await;
                        }
                        Verdict::Stop(stop) => {
                            tracing::debug!(service = %self.service.name(), %stop, "no other attempt");
                            return self.last.take().map_or(Err(GatewayError::NoneReady), Ended::answer);
                        }
                    }
                }
            }
        }
    }

    /// A real answer, once there is one, is not forgotten for a later attempt that got none.
    fn remember(&mut self, ended: Ended) {
        if matches!((&self.last, &ended), (Some(Ended::Answered(_)), Ended::Faulted(_))) {
            return;
        }
        self.last = Some(ended);
    }

    fn verdict(&self, proof: Proof, policy: &Policy) -> Verdict {
        let now = self.worker.now();
        let facts = RequestFacts { idempotent: self.is_idempotent, replayable: self.source.is_replayable() };
        let progress = Progress {
            retries_used: self.retries,
            untried_replicas: self.service.has_untried(now, &self.tried),
            remaining: self.deadline(now).since(now),
        };
        let budget = || self.service.budget().try_retry(now, policy.retry.budget_ratio);
        decide(proof, facts, progress, &policy.retry, budget, self.worker.random())
    }

    fn give_up(&mut self, unavailable: Unavailable) -> Result<Response<ResponseBody>, GatewayError> {
        match (self.last.take(), unavailable) {
            (Some(ended), _) => ended.answer(),
            (None, Unavailable::AllOpen { resting, retry_at }) => {
                let retry_after = retry_at.since(self.worker.now());
                Err(GatewayError::AllOpen { resting, retry_after })
            }
            (None, Unavailable::NoneReady | Unavailable::AllTried) => Err(GatewayError::NoneReady),
        }
    }

    /// Until when all attempts may take, as far as it is known `now`: what the client takes to send its request is not
    /// counted.
    fn deadline(&self, now: Tick) -> Tick {
        let counted_from = match self.source.arrival() {
            Arrival::Whole(at) => self.started.max(at),
            Arrival::Partial { .. } => now,
        };
        counted_from.plus(self.time)
    }

    /// Until when an attempt that began at `began` may take as things stand, and who is late if it takes longer.
    fn limit(&self, began: Tick, policy: &Policy) -> (Tick, Late) {
        match self.source.arrival() {
            Arrival::Partial { moved_at, waits_for_client } => {
                let late = if waits_for_client { Late::Client } else { Late::Replica };
                (began.max(moved_at).plus(policy.timeout.stream_idle), late)
            }
            Arrival::Whole(at) => {
                let own = began.max(at).plus(policy.timeout.per_try);
                let deadline = self.deadline(at);
                // A first attempt has all the time there is: a replica that lets it pass does not answer.
                let late =
                    if own <= deadline || self.tried.is_empty() { Late::Replica } else { Late::Request };
                (own.min(deadline), late)
            }
        }
    }

    /// One attempt, within its own time and the request's.
    async fn try_once(&self, attempt: Attempt, policy: &Policy) -> Tried {
        let began = self.worker.now();
        let mut attempt = Some(attempt);
        let result = {
            let mut exchange = pin!(self.exchange(&mut attempt, policy));
            let mut timer =
                pin!(tokio::time::sleep_until(self.worker.instant(self.limit(began, policy).0).into()));
            poll_fn(|cx| {
                if let Poll::Ready(tried) = exchange.as_mut().poll(cx) {
                    return Poll::Ready(Ok(tried));
                }
                // The body may have moved in there, which gives it more time, or ended, which gives it less.
                let (limit, late) = self.limit(began, policy);
                let limit = self.worker.instant(limit).into();
                if timer.deadline() != limit {
                    timer.as_mut().reset(limit);
                }
                timer.as_mut().poll(cx).map(|()| Err(late))
            })
            .await
        };
        match (result, attempt) {
            (Ok(tried), _) => tried,
            (Err(Late::Client), _) => Tried::ClientStalled,
            (Err(Late::Replica), Some(attempt)) => failed(attempt, Fault::ResponseTimeout, Proof::Unknown),
            (Err(Late::Replica | Late::Request), _) => Tried::OutOfTime,
        }
    }

    /// Connects, sends, and judges the response head. Leaves `attempt` in place while its outcome is open, so that
    /// whoever cancels this may decide it.
    async fn exchange(&self, attempt: &mut Option<Attempt>, policy: &Policy) -> Tried {
        let Some(replica) = attempt.as_ref().map(|attempt| Arc::clone(attempt.replica())) else {
            return Tried::OutOfTime;
        };
        let mut request = Box::new(self.request());
        let (link, response) = loop {
            let mut link = match self.worker.pool().link(replica.address(), policy.timeout.connect).await {
                Ok(link) => link,
                Err(ConnectFailure::Replica(fault)) => return fail(attempt, fault, Proof::Unsent),
                Err(ConnectFailure::Exhausted) => return Tried::Exhausted,
            };
            match link.send(*request).await {
                Ok(response) => break (link, response),
                // The replica closed an idle connection: it has not seen the request, and is not to blame.
                Err(SendFailure::NotTaken(returned)) if link.is_reused() => request = returned,
                Err(SendFailure::NotTaken(_)) => return fail(attempt, Fault::Closed, Proof::Unsent),
                Err(SendFailure::ClientBody) => return Tried::ClientGone,
                Err(SendFailure::Failed(_)) if self.source.client_failed() => return Tried::ClientGone,
                Err(SendFailure::Failed(fault)) => return fail(attempt, fault, proof_of(fault)),
            }
        };
        if !has_one_meaning(&response) {
            return fail(attempt, Fault::Malformed, Proof::Unknown);
        }
        match attempt.take() {
            Some(attempt) => self.receive(attempt, link, response, policy).await,
            None => Tried::OutOfTime,
        }
    }

    /// Judges a response head, and lets its body stream.
    async fn receive(
        &self,
        mut attempt: Attempt,
        link: Box<Link>,
        response: Response<Incoming>,
        policy: &Policy,
    ) -> Tried {
        let has_retry_after = response.headers().contains_key(RETRY_AFTER);
        let outcome = judge(response.status(), has_retry_after);
        let replica = Arc::clone(attempt.replica());
        attempt.answered(outcome);
        let (mut head, incoming) = response.into_parts();
        head.version = Version::HTTP_11;
        if self.worker.shows_replica() {
            self.show(&mut head.headers, &replica);
        }
        let mut body = Box::new(UpstreamBody::new(incoming, link, attempt, policy.timeout.stream_idle));
        poll_fn(|cx| {
            body.settle_if_ended(cx);
            Poll::Ready(())
        })
        .await;
        let response = Response::from_parts(head, ResponseBody::Replica(body));
        // 500 says that the replica handled the request and broke on it: another would, too.
        let status = response.status().as_u16();
        if matches!(status, 502..=504) && outcome != Outcome::Success {
            return Tried::Failed { replica, proof: Proof::Answered, ended: Ended::Answered(response) };
        }
        Tried::Answer(response)
    }

    /// The head again for each attempt; the body from its first byte.
    fn request(&self) -> Request<super::body::RequestBody> {
        let mut request = Request::new(self.source.attempt());
        *request.method_mut() = self.head.method.clone();
        *request.uri_mut() = self.head.uri.clone();
        *request.headers_mut() = self.head.headers.clone();
        request
    }

    fn show(&self, headers: &mut http::HeaderMap, replica: &Replica) {
        if let Ok(name) = HeaderValue::from_str(replica.key().replica.as_str()) {
            headers.insert(headers::X_GW_REPLICA, name);
        }
        headers.insert(headers::X_GW_ATTEMPTS, HeaderValue::from(self.attempts));
    }
}

impl Ended {
    fn answer(self) -> Result<Response<ResponseBody>, GatewayError> {
        match self {
            Self::Answered(response) => Ok(response),
            Self::Faulted(fault) => Err(GatewayError::Attempt(fault)),
        }
    }
}

/// Whether what follows this head can be told without doubt. Where it cannot, a guess could show one response to the
/// client and leave another behind.
fn has_one_meaning(response: &Response<Incoming>) -> bool {
    // Nobody asked for another protocol: what would follow on this connection is not HTTP.
    let is_http = response.status() != StatusCode::SWITCHING_PROTOCOLS;
    // RFC 9112 section 6.3 has the transfer coding win, or the whole handled as an error.
    let lengths = [CONTENT_LENGTH, TRANSFER_ENCODING].map(|name| response.headers().contains_key(name));
    is_http && lengths != [true; 2]
}

/// Settles an attempt that got no response head.
fn failed(attempt: Attempt, fault: Fault, proof: Proof) -> Tried {
    let replica = Arc::clone(attempt.replica());
    attempt.failed(fault);
    Tried::Failed { replica, proof, ended: Ended::Faulted(fault) }
}

/// As [`failed`], for an attempt that is certainly still open.
fn fail(attempt: &mut Option<Attempt>, fault: Fault, proof: Proof) -> Tried {
    attempt.take().map_or(Tried::OutOfTime, |attempt| failed(attempt, fault, proof))
}

async fn pause(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}
