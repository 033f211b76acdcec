//! What becomes of one request, noted while it does, for those who listen: the access log, traces, and who debugs.
//!
//! There is one only where somebody listens, so every note costs a look at an `Option` where nobody does. It goes with the
//! request from its head to the last byte of its answer, and is told when it is dropped: also when the client goes away
//! in the middle, or the request meets a defect.

mod asking;
pub(super) mod traced;

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use http::{HeaderMap, Method, Version};

use self::{asking::Asking, traced::Traced};
use super::{
    body::response_body::Answer,
    downstream::Client,
    forward::grpc,
    head::{RequestHead, field_name::Name, fields::Fields, request_id::RequestId, trace_context},
    worker::Worker,
};
use crate::{
    access_log::{AccessLog, Attempted, Entry, Outcome, Request},
    clock::Moment,
    routing::{Admitted, Tick},
    table::{FallbackKind, Replica},
    traces::{Event, Story, Traceparent, Tracer, Tried},
};

/// Attempts that are told of one by one.
const MAX_ATTEMPTS: usize = 16;
/// What is logged of a client that was gone before there was an answer, as by other proxies. Nobody is sent it.
const CLIENT_GONE: u16 = 499;

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// All of it was sent.
    Complete,
    /// The client went away, before or while it was sent.
    ClientGone,
    /// The replica did not send all of it.
    UpstreamBrokeOff,
    /// The client was to get none.
    Reset,
}

impl End {
    fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::ClientGone => "client_gone",
            Self::UpstreamBrokeOff => "upstream_broke_off",
            Self::Reset => "reset",
        }
    }
}

/// One request's story.
#[derive(Debug)]
pub(super) struct Trail {
    worker: Rc<Worker>,
    client: Rc<Client>,
    began: Moment,
    /// `None` for what could not be read.
    asked: Option<Asked>,
    /// Through trusted proxies.
    claimed: Option<String>,
    request_id: RequestId,
    received: Rc<Cell<u64>>,
    told: RefCell<Told>,
    /// If it is sampled.
    traced: Option<Box<Traced>>,
    end: End,
    sent: u64,
}

/// What was asked, as it came.
#[derive(Debug)]
struct Asked {
    method: Method,
    version: Version,
    path: String,
    query: Option<String>,
    host: Option<String>,
    trace_id: Option<String>,
    user_agent: Option<Vec<u8>>,
    referer: Option<Vec<u8>>,
}

/// What became of it so far.
#[derive(Debug, Default)]
struct Told {
    status: Option<u16>,
    grpc_status: Option<u8>,
    error: Option<&'static str>,
    service: Option<String>,
    attempts: Vec<Attempt>,
    attempt_count: usize,
    asking: Asking,
    stop: Option<&'static str>,
    fallback: Option<&'static str>,
    fault: Option<&'static str>,
}

#[derive(Debug)]
struct Attempt {
    number: usize,
    replica: Arc<Replica>,
    admitted: Admitted,
    began: Tick,
    ended: Option<(Outcome, Duration)>,
}

impl Trail {
    /// Begins one if anybody listens.
    pub(super) fn begin(
        worker: &Rc<Worker>,
        client: &Rc<Client>,
        head: &RequestHead,
        claimed: Option<&str>,
        request_id: &RequestId,
    ) -> Option<Box<Self>> {
        let traced = Traced::begin(worker, head, client.peer().scheme == "https");
        if worker.access_log().is_none() && !worker.shows_replica() && traced.is_none() {
            return None;
        }
        let is_told = worker.access_log().is_some() || traced.is_some();
        let has_query = worker.access_log().is_some_and(AccessLog::has_query);
        let asked = is_told.then(|| Asked::of(head, has_query));
        let mut trail = Self::new(worker, client, asked, claimed, request_id.clone());
        trail.traced = traced;
        Some(trail)
    }

    fn new(
        worker: &Rc<Worker>,
        client: &Rc<Client>,
        asked: Option<Asked>,
        claimed: Option<&str>,
        request_id: RequestId,
    ) -> Box<Self> {
        Box::new(Self {
            worker: Rc::clone(worker),
            client: Rc::clone(client),
            // Not later than anything that it is compared with: the poll that it came in may have begun an attempt, too.
            began: Moment { tick: worker.now(), ..worker.clock().moment() },
            asked,
            claimed: claimed.map(str::to_owned),
            request_id,
            received: Rc::default(),
            told: RefCell::default(),
            traced: None,
            end: End::ClientGone,
            sent: 0,
        })
    }

    /// Where bytes of the request's body are counted.
    pub(super) fn received(&self) -> Rc<Cell<u64>> {
        Rc::clone(&self.received)
    }

    /// Which service it is for, and by the path prefix of which explicit route.
    pub(super) fn found(&self, service: &str, route: Option<&str>) {
        self.told.borrow_mut().service = Some(service.to_owned());
        if let Some(traced) = &self.traced {
            *traced.route.borrow_mut() = route.map(str::to_owned);
        }
    }

    /// What is noted of it beside, if it is traced.
    pub(super) fn traced(&self) -> Option<&Traced> {
        self.traced.as_deref()
    }

    /// What the attempt of that number tells its replica, if it is traced.
    pub(super) fn traceparent(&self, number: usize) -> Option<Traceparent> {
        self.traced().map(|traced| traced.traceparent(number))
    }

    fn note(&self, event: Event) {
        if let Some(traced) = &self.traced {
            traced.note(self.worker.clock().now(), event);
        }
    }

    /// A replica is asked for the `number`th time, from `began` on.
    pub(super) fn attempt(&self, number: usize, replica: &Arc<Replica>, admitted: Admitted, began: Tick) {
        let mut told = self.told.borrow_mut();
        told.attempt_count = number;
        told.asking.begin(began);
        if told.attempts.len() == MAX_ATTEMPTS {
            // The last one is who answers.
            told.attempts.pop();
        }
        told.attempts.push(Attempt { number, replica: Arc::clone(replica), admitted, began, ended: None });
    }

    /// What the attempt of that number came to, by its response head or without one.
    pub(super) fn ended(&self, number: usize, outcome: Outcome, now: Tick) {
        let mut told = self.told.borrow_mut();
        told.asking.end(now);
        if let Some(attempt) = told.attempts.iter_mut().rev().find(|attempt| attempt.number == number) {
            attempt.ended = Some((outcome, now.since(attempt.began)));
        }
    }

    /// Why the attempt that failed last is not followed by another.
    pub(super) fn stopped(&self, why: &'static str) {
        self.told.borrow_mut().stop = Some(why);
        self.note(Event::Stopped(why));
    }

    /// Who answers in place of a failure.
    pub(super) fn fell_back(&self, kind: FallbackKind) {
        self.told.borrow_mut().fallback = Some(kind.as_str());
        self.note(Event::FellBack(kind.as_str()));
    }

    /// What was done to it on purpose.
    pub(super) fn injected(&self, what: &'static str) {
        self.told.borrow_mut().fault = Some(what);
        self.note(Event::FaultInjected(what));
    }

    /// How long replicas were asked so far.
    pub(super) fn upstream(&self, now: Tick) -> Duration {
        self.told.borrow().asking.time(now)
    }

    /// Time since the request's head was there.
    pub(super) fn age(&self, now: Tick) -> Duration {
        now.since(self.began.tick)
    }

    /// What the client is answered.
    pub(super) fn answered<B>(&self, answer: &Answer<B>) {
        let mut told = self.told.borrow_mut();
        told.status = Some(answer.head.status.as_u16());
        told.grpc_status = answer.head.fields.get(Name::GrpcStatus).and_then(grpc::status);
        told.error = answer.error;
    }

    /// What stands behind the answer's body.
    pub(super) fn behind(&self, trailers: &HeaderMap) {
        if let Some(status) = trailers.get("grpc-status") {
            self.told.borrow_mut().grpc_status = grpc::status(status.as_bytes());
        }
    }

    /// The answer has ended so, and `sent` bytes of its body are on their way.
    pub(super) fn finish(mut self: Box<Self>, end: End, sent: u64) {
        self.end = end;
        self.sent = sent;
    }

    fn trace(&self, tracer: &Tracer, traced: &Traced) {
        let Some(asked) = &self.asked else { return };
        let (began, now) = (self.began.tick, self.worker.clock().now());
        let told = self.told.take();
        let attempts = told.attempts.into_iter().map(|attempt| Tried {
            number: attempt.number,
            replica: attempt.replica,
            is_probe: attempt.admitted == Admitted::AsProbe,
            began: attempt.began.since(began),
            ended: attempt.ended,
        });
        tracer.tell(Story {
            context: traced.context,
            tracestate: traced.tracestate.clone(),
            began: self.began.wall,
            duration: now.since(began),
            method: asked.method.clone(),
            path: asked.path.clone(),
            host: asked.host.clone(),
            is_secure: traced.is_secure,
            version: asked.version,
            user_agent: asked.user_agent.clone(),
            client: self.claimed.clone().unwrap_or_else(|| self.client.ip().to_owned()),
            peer: self.client.ip().to_owned(),
            service: told.service,
            route: traced.route.take(),
            status: told.status,
            error: told.error,
            end: self.end.as_str(),
            received: self.received.get(),
            sent: self.sent,
            request_id: self.request_id.as_str().to_owned(),
            sent_path: traced.sent_path.take(),
            attempts: attempts.collect(),
            attempt_count: told.attempt_count,
            events: traced.take_events(began),
        });
    }

    fn tell(&self, log: &AccessLog) {
        let now = self.worker.clock().now();
        let told = self.told.borrow();
        let attempts: Vec<Attempted<'_>> = told.attempts.iter().map(|attempt| attempt.told(now)).collect();
        let status = told.status.unwrap_or(CLIENT_GONE);
        log.write(&Entry {
            time: self.began.wall,
            duration: now.since(self.began.tick),
            request: self.asked.as_ref().map(Asked::told),
            status,
            grpc_status: told.grpc_status,
            end: self.end.as_str(),
            service: told.service.as_deref(),
            attempts: &attempts,
            attempt_count: told.attempt_count,
            upstream: (told.attempt_count > 0).then(|| told.asking.time(now)),
            stop: told.stop,
            fallback: told.fallback,
            fault: told.fault,
            error: told.error,
            breaker: told.breaker(),
            received: self.received.get(),
            sent: self.sent,
            client: self.claimed.as_deref().unwrap_or(self.client.ip()),
            peer: self.client.ip(),
            tls: self.client.tls(),
            request_id: self.request_id.as_str(),
        });
    }
}

/// Has the answer to what could not be read as a request tell its end, if anybody listens.
pub(super) fn of_unreadable<B>(
    answer: Answer<B>,
    worker: &Rc<Worker>,
    client: &Rc<Client>,
    request_id: &RequestId,
) -> Answer<B> {
    if worker.access_log().is_none() {
        return answer;
    }
    let trail = Trail::new(worker, client, None, None, request_id.clone());
    trail.answered(&answer);
    Answer { trail: Some(trail), ..answer }
}

impl Drop for Trail {
    fn drop(&mut self) {
        if let Some(log) = self.worker.access_log() {
            self.tell(log);
        }
        if let (Some(tracer), Some(traced)) = (self.worker.tracer(), &self.traced) {
            self.trace(tracer, traced);
        }
    }
}

impl Asked {
    fn of(head: &RequestHead, has_query: bool) -> Self {
        let target = head.target();
        let (path, query) =
            target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        let fields = &head.fields;
        Self {
            method: head.method.clone(),
            version: head.version,
            path: path.to_owned(),
            query: query.filter(|_| has_query).map(str::to_owned),
            host: head.host().map(str::to_owned),
            trace_id: trace_context::trace_id(fields).map(|id| String::from_utf8_lossy(id).into_owned()),
            user_agent: first(fields, "user-agent").map(<[u8]>::to_vec),
            referer: first(fields, "referer").map(|referer| without_query(referer, has_query).to_vec()),
        }
    }

    fn told(&self) -> Request<'_> {
        Request {
            method: &self.method,
            path: &self.path,
            query: self.query.as_deref(),
            host: self.host.as_deref(),
            version: self.version,
            trace_id: self.trace_id.as_deref(),
            user_agent: self.user_agent.as_deref(),
            referer: self.referer.as_deref(),
        }
    }
}

fn first<'a>(fields: &'a Fields, name: &str) -> Option<&'a [u8]> {
    fields.get_all_named(name).next()
}

/// Another page's query holds as many secrets as this one's.
fn without_query(referer: &[u8], has_query: bool) -> &[u8] {
    let end = referer.iter().position(|byte| matches!(byte, b'?' | b'#'));
    &referer[..end.filter(|_| !has_query).unwrap_or(referer.len())]
}

impl Told {
    fn breaker(&self) -> Option<&'static str> {
        match (self.error, self.attempts.last()) {
            (Some("breaker_open"), _) => Some("open"),
            (Some("breaker_forced_open"), _) => Some("forced_open"),
            (_, Some(attempt)) => Some(match attempt.admitted {
                Admitted::LikeAll => "closed",
                Admitted::AsProbe => "probe",
                Admitted::Regardless => "regardless",
            }),
            (_, None) => None,
        }
    }
}

impl Attempt {
    /// One that has no end was given up with its request.
    fn told(&self, now: Tick) -> Attempted<'_> {
        let given_up = || (Outcome::Word("abandoned"), now.since(self.began));
        let (result, time) = self.ended.unwrap_or_else(given_up);
        Attempted { replica: self.replica.key().replica.as_str(), result, time }
    }
}
