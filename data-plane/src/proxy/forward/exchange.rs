//! One attempt of a request: connect, send, and judge the response head, within the time there is.

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use http::StatusCode;
use tokio::time::{Sleep, sleep_until};

use super::{Ended, Journey, attempt::Attempt, grpc};
use crate::{
    access_log as logged,
    proxy::{
        body::{
            request_body::{Arrival, RequestBody},
            response_body::{Answer, Call, ResponseBody, UpstreamBody},
        },
        errors::Caller,
        h1::Outgoing,
        head::{ResponseHead, field_name::Name, headers, hints::AttemptHints},
        tunnel::Tunnel,
        upstream::{ConnectFailure, Link, SendFailure},
        worker::deadlines::AHEAD,
    },
    routing::{Fault, Outcome, Tick, UNAVAILABLE, judge, retry::Proof},
    table::Replica,
};

/// What became of one attempt.
pub(super) enum Tried {
    Answer(Answer),
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
    /// The replica speaks HTTP/2, which has no way to write the request: this is why.
    Unsendable(&'static str),
}

/// An attempt until its outcome is known. Whoever drops it before does not wait for its response head any longer.
struct Awaited<'a> {
    journey: &'a Journey<'a>,
    attempt: Option<Attempt>,
    is_sent: &'a Cell<bool>,
}

impl Awaited<'_> {
    /// Without blame, where it was not the replica that was waited for.
    fn give_up(&mut self) {
        let Some(attempt) = self.attempt.take() else { return };
        let pool = self.journey.worker.pool();
        if !self.is_sent.get() && pool.is_full(attempt.replica().endpoint()) {
            return;
        }
        if let Some(since) = self.journey.whole_since(attempt.linked()) {
            attempt.given_up(since, self.journey.has_winner.get());
        }
    }
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        // A defect of the gateway's own blames nobody, and has no use for another.
        if !std::thread::panicking() {
            self.give_up();
        }
    }
}

/// Who took too long, when an attempt ends without a response head.
enum Late {
    /// The replica had all the time that one attempt has.
    Replica,
    /// Earlier attempts left this one less than that.
    Request,
    /// The request's body stopped on its way here.
    Client,
    /// Nobody: the replica is being drained, and the time for that is over.
    Drain,
}

impl Tried {
    /// The same, where another attempt of the request failed with that proof: what may have been seen then has been.
    pub(super) fn after(self, other: Proof) -> Self {
        match self {
            Self::Failed { replica, proof, ended } => {
                Self::Failed { replica, proof: proof.max(other), ended }
            }
            tried => tried,
        }
    }

    /// What the replica can have seen of the request.
    pub(super) fn proof(&self) -> Proof {
        match self {
            Self::Failed { proof, .. } => *proof,
            Self::Answer(_) => Proof::Answered,
            Self::OutOfTime | Self::ClientStalled => Proof::Unknown,
            // Nobody is asked any more for what has broken off.
            Self::Exhausted | Self::Unsendable(_) | Self::ClientGone => Proof::Unsent,
        }
    }

    /// What the access log has of it.
    pub(super) fn outcome(&self) -> logged::Outcome {
        use logged::Outcome::{Status, Word};
        match self {
            Self::Answer(answer) | Self::Failed { ended: Ended::Answered(answer), .. } => {
                Status(answer.head.status.as_u16())
            }
            Self::Failed { ended: Ended::Faulted(fault), .. } => Word(fault.as_str()),
            Self::Failed { ended: Ended::Drained, .. } => Word("drained"),
            Self::Failed { ended: Ended::Declined, .. } => Word("declined"),
            Self::Failed { ended: Ended::Full, .. } => Word("streams_exhausted"),
            Self::Failed { ended: Ended::CannotSwitch, .. } => Word("cannot_switch"),
            Self::Unsendable(_) => Word("unsendable"),
            Self::OutOfTime => Word("out_of_time"),
            Self::Exhausted | Self::Failed { ended: Ended::NoPort, .. } => Word("gateway_exhausted"),
            Self::ClientGone => Word("client_gone"),
            Self::ClientStalled => Word("client_stalled"),
        }
    }
}

impl Journey<'_> {
    /// One attempt, the `number`th, within its own time, the request's, and the replica's.
    pub(super) async fn try_once(&self, attempt: Attempt, number: usize) -> Tried {
        let (began, place, replica) = (attempt.began(), attempt.place(), Arc::clone(attempt.replica()));
        let flights = self.worker.flights();
        let is_sent = Cell::new(false);
        let mut awaited = Awaited { journey: self, attempt: Some(attempt), is_sent: &is_sent };
        let result = {
            let mut exchange = pin!(self.exchange(&mut awaited.attempt, &replica, &is_sent, number));
            let mut timer: Option<Pin<Box<Sleep>>> = None;
            poll_fn(|cx| {
                if let Poll::Ready(tried) = exchange.as_mut().poll(cx) {
                    return Poll::Ready(Ok(tried));
                }
                if flights.is_cut(&replica) {
                    return Poll::Ready(Err(Late::Drain));
                }
                // The body may have moved in there, which gives it more time, or ended, which gives it less.
                let (limit, late) = self.limit(began, number);
                flights.waits(place, limit, cx.waker());
                if limit.since(self.worker.now()) > AHEAD {
                    return Poll::Pending;
                }
                let limit = self.worker.instant(limit).into();
                let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(limit)));
                if timer.deadline() != limit {
                    timer.as_mut().reset(limit);
                }
                timer.as_mut().poll(cx).map(|()| Err(late))
            })
            .await
        };
        if matches!(result, Err(Late::Request)) {
            awaited.give_up();
        }
        // Whatever is left of it here ends without blame.
        match (result, awaited.attempt.take()) {
            (Ok(tried), _) => tried,
            (Err(Late::Client), _) => Tried::ClientStalled,
            (Err(Late::Replica), Some(attempt)) => {
                self.worker.pool().distrust(replica.endpoint(), began);
                failed(attempt, Fault::ResponseTimeout, Proof::Unknown)
            }
            (Err(Late::Replica | Late::Request), _) => Tried::OutOfTime,
            (Err(Late::Drain), _) => {
                let proof = if is_sent.get() { Proof::Unknown } else { Proof::Unsent };
                Tried::Failed { replica, proof, ended: Ended::Drained }
            }
        }
    }

    /// Connects, sends, and judges the response head. Leaves `attempt` in place while its outcome is open, so that
    /// whoever cancels this may decide it, by `is_sent`, too: whether the replica may have seen anything.
    async fn exchange(
        &self,
        attempt: &mut Option<Attempt>,
        replica: &Arc<Replica>,
        is_sent: &Cell<bool>,
        number: usize,
    ) -> Tried {
        let (link, head) = loop {
            let (pool, endpoint, limit) =
                (self.worker.pool(), replica.endpoint(), self.policy.timeout.connect);
            let linked = match self.upgrade {
                None => pool.link(endpoint, limit).await,
                Some(_) => Box::pin(pool.switching_link(endpoint, limit)).await,
            };
            let mut link = match linked {
                Ok(link) => link,
                Err(ConnectFailure::Replica(fault)) => return fail(attempt, fault, Proof::Unsent),
                Err(ConnectFailure::NoSwitch) => {
                    return unblamed(attempt, replica, Proof::Unsent, Ended::CannotSwitch);
                }
                Err(ConnectFailure::Full) => return unblamed(attempt, replica, Proof::Unsent, Ended::Full),
                Err(ConnectFailure::NoPort) => {
                    return unblamed(attempt, replica, Proof::Unsent, Ended::NoPort);
                }
                Err(ConnectFailure::Exhausted) => return Tried::Exhausted,
            };
            if let Some(attempt) = attempt {
                attempt.is_linked();
            }
            let passed = |head| {
                replica.shows_life(self.worker.index(), self.worker.now());
                self.pass_on(head);
            };
            let sent = link.send(self.outgoing(number), replica.endpoint(), is_sent, passed);
            match sent.await {
                Ok(head) => break (link, head),
                // The replica closed an idle connection: it has not seen the request, and is not to blame.
                Err(SendFailure::NotTaken) if link.is_reused() => {}
                Err(SendFailure::NotTaken) => return fail(attempt, Fault::Closed, Proof::Unsent),
                Err(SendFailure::ClientBody) => return Tried::ClientGone,
                Err(SendFailure::Failed(_)) if self.source.client_failed() => return Tried::ClientGone,
                Err(SendFailure::Failed(fault)) => return fail(attempt, fault, Proof::Unknown),
                Err(SendFailure::Unread(fault)) => return fail(attempt, fault, Proof::RefusedUnseen),
                Err(SendFailure::Refused(outcome)) => {
                    if let Some(attempt) = attempt.take() {
                        attempt.declined(outcome);
                    }
                    return unblamed(attempt, replica, Proof::RefusedUnseen, Ended::Declined);
                }
                Err(SendFailure::Unsendable) => {
                    return Tried::Unsendable(
                        "the request's target or host has characters that HTTP/2 cannot carry",
                    );
                }
            }
        };
        match attempt.take() {
            Some(attempt) => self.receive(attempt, link, head).await,
            None => Tried::OutOfTime,
        }
    }

    /// Judges a response head, and lets its body stream.
    async fn receive(&self, mut attempt: Attempt, link: Link, mut head: ResponseHead) -> Tried {
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            return self.switch(attempt, link, head);
        }
        let mut outcome = self.judged(&head);
        if outcome == Outcome::Neutral
            && let Some(since) = self.whole_since(attempt.linked())
        {
            // That the caller's time is over is all that it says.
            outcome = attempt.in_vain(since, false);
        }
        let replica = Arc::clone(attempt.replica());
        attempt.answered(outcome, self.had_all_at(attempt.began()), self.call.is_none());
        headers::strip_own(&mut head.fields);
        if self.worker.shows_replica() {
            self.show(&mut head, &replica);
        }
        let call = self.call.map(|call| Call { is_answered: grpc::is_grpc(&head.fields), ..call });
        let mut body = UpstreamBody::new(link, attempt, self.policy.timeout.stream_idle, call);
        body.settle_if_ended();
        let body = Rc::new(RefCell::new(body));
        if let Some(attempt) = body.borrow().attempt() {
            attempt.streams(&body);
        }
        // 500 says that the replica handled the request and broke on it: another would, too.
        let status = head.status.as_u16();
        let answer = Answer::new(head, ResponseBody::Replica(body));
        let is_unavailable = outcome == Outcome::Failure(Fault::Grpc(UNAVAILABLE));
        if is_unavailable || matches!(status, 502..=504) && outcome != Outcome::Success {
            return Tried::Failed { replica, proof: Proof::Answered, ended: Ended::Answered(answer) };
        }
        Tried::Answer(answer)
    }

    /// Makes a tunnel of the way to a replica that has switched protocols, as it was asked to.
    fn switch(&self, mut attempt: Attempt, link: Link, mut head: ResponseHead) -> Tried {
        let side = link.into_side();
        let is_accepted = self.upgrade.as_ref().is_some_and(|upgrade| upgrade.is_accepted_by(&head));
        let Some(side) = side.filter(|_| is_accepted) else {
            tracing::debug!("the replica's answer to the WebSocket handshake is none");
            return failed(attempt, Fault::Malformed, Proof::Unknown);
        };
        attempt.switched(self.had_all_at(attempt.began()));
        headers::strip_own(&mut head.fields);
        if self.worker.shows_replica() {
            self.show(&mut head, attempt.replica());
        }
        let tunnel = Tunnel::new(side, attempt, self.policy.timeout.tunnel_idle);
        let mut answer = Answer::new(head, Bytes::new().into());
        answer.tunnel = Some(Box::new(tunnel));
        Tried::Answer(answer)
    }

    /// What a response head says of its replica: in gRPC, one without a body has the call's status, too.
    pub(super) fn judged(&self, head: &ResponseHead) -> Outcome {
        let by_http = judge(head.status, head.fields.contains(Name::RetryAfter));
        match (self.call, head.fields.get(Name::GrpcStatus)) {
            (Some(call), Some(status)) if by_http == Outcome::Success => {
                call.judge(status, self.worker.now())
            }
            _ => by_http,
        }
    }

    /// The same head for each attempt; the body from its first byte.
    fn outgoing(&self, number: usize) -> Outgoing<'_, RequestBody> {
        let expects_continue = self.expects_continue && !self.source.has_begun();
        let trace = self.trail.and_then(|trail| trail.traceparent(number));
        let call = self.call.and_then(|call| call.deadline).map(|deadline| deadline.since(self.worker.now()));
        let hints = AttemptHints { attempt: number, time: self.time_left(), call, trace };
        let body = self.source.attempt();
        Outgoing { head: &self.head, length: self.length, body, expects_continue, hints }
    }

    /// How long an attempt that begins to send now may take, once all of the request is sent.
    fn time_left(&self) -> Duration {
        let now = self.worker.now();
        self.policy.timeout.per_try.min(self.deadline(now).since(now))
    }

    /// An interim response, which commits nobody to anything: what it says of the final one are hints (RFC 8297), and stay so
    /// when another attempt brings that. Of gRPC it is no part, whose clients may take it for the call's head.
    fn pass_on(&self, mut head: ResponseHead) {
        if self.caller == Caller::Http {
            headers::prepare_interim(&mut head.fields);
            self.client.interim(head);
        }
    }

    fn show(&self, head: &mut ResponseHead, replica: &Replica) {
        let (via, status, address) = (self.worker.via().name(), head.status.as_u16(), replica.address());
        let fields = &mut head.fields;
        // Behind what those before said (RFC 9209 section 2).
        let proxy_status = format!("{via}; next-hop=\"{address}\"; received-status={status}");
        fields.append(Name::ProxyStatus, proxy_status.as_bytes());
        fields.set(Name::XGwReplica, replica.key().replica.as_str().as_bytes());
        fields.set(Name::XGwAttempts, self.attempts.get().to_string().as_bytes());
    }

    /// From when on the replica of an attempt that began at `began` could have all of the request that has come.
    pub(super) fn had_all_at(&self, began: Tick) -> Tick {
        match self.source.arrival() {
            Arrival::Partial { moved_at: at, .. } | Arrival::Whole(at) => began.max(at),
        }
    }

    /// The same for an attempt that could have all of the request; `None` where more was to come, or will not.
    pub(super) fn whole_since(&self, began: Tick) -> Option<Tick> {
        let is_whole = matches!(self.source.arrival(), Arrival::Whole(_)) && !self.source.client_failed();
        is_whole.then(|| self.had_all_at(began))
    }

    /// Until when an attempt that began at `began` may take as things stand, and who is late if it takes longer.
    fn limit(&self, began: Tick, number: usize) -> (Tick, Late) {
        match self.source.arrival() {
            Arrival::Partial { moved_at, waits_for_client, too_slow_at } => {
                let late = if waits_for_client { Late::Client } else { Late::Replica };
                let idle = began.max(moved_at).plus(self.policy.timeout.stream_idle).min(too_slow_at);
                match self.call.and_then(|call| call.deadline).filter(|deadline| *deadline < idle) {
                    Some(deadline) => (deadline, Late::Request),
                    None => (idle, late),
                }
            }
            Arrival::Whole(at) => {
                let own = began.max(at).plus(self.policy.timeout.per_try);
                let deadline = self.deadline(at);
                // A first attempt has all the time there is: a replica that lets it pass does not answer. Unless it is the
                // caller who has less, for whose haste nobody is to blame.
                let is_callers = self.call.is_some_and(|call| call.deadline == Some(deadline));
                let is_fair = number == 1 && self.hints.time.is_none() && !is_callers;
                let late = if own <= deadline || is_fair { Late::Replica } else { Late::Request };
                (own.min(deadline), late)
            }
        }
    }
}

/// Settles an attempt that got no response head.
fn failed(attempt: Attempt, fault: Fault, proof: Proof) -> Tried {
    let replica = Arc::clone(attempt.replica());
    attempt.failed(fault);
    Tried::Failed { replica, proof, ended: Ended::Faulted(fault) }
}

/// Ends an attempt for which nobody is to blame.
fn unblamed(attempt: &mut Option<Attempt>, replica: &Arc<Replica>, proof: Proof, ended: Ended) -> Tried {
    drop(attempt.take());
    Tried::Failed { replica: Arc::clone(replica), proof, ended }
}

/// As [`failed`], for an attempt that is certainly still open.
fn fail(attempt: &mut Option<Attempt>, fault: Fault, proof: Proof) -> Tried {
    attempt.take().map_or(Tried::OutOfTime, |attempt| failed(attempt, fault, proof))
}
