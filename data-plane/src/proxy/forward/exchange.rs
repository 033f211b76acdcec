//! One attempt of a request: connect, send, and judge the response head, within the time there is.

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    sync::Arc,
    task::Poll,
};

use gateway_proto::Policy;
use http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode, Version,
    header::{CONTENT_LENGTH, RETRY_AFTER, TRANSFER_ENCODING},
};
use hyper::body::Incoming;

use super::{Ended, Journey};
use crate::{
    proxy::{
        attempt::Attempt,
        headers::{X_GW_ATTEMPTS, X_GW_REPLICA},
        request_body::{Arrival, RequestBody},
        response_body::{ResponseBody, UpstreamBody},
        upstream::{ConnectFailure, Link, SendFailure},
    },
    routing::{Fault, Outcome, Tick, judge, retry::Proof},
    table::Replica,
};

/// What became of one attempt.
pub(super) enum Tried {
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
    /// Nobody: the replica is being drained, and the time for that is over.
    Drain,
}

impl Journey {
    /// One attempt, within its own time, the request's, and the replica's.
    pub(super) async fn try_once(&self, attempt: Attempt, policy: &Policy) -> Tried {
        let (began, place, replica) = (attempt.began(), attempt.place(), Arc::clone(attempt.replica()));
        let flights = self.worker.flights();
        let is_sent = Cell::new(false);
        let mut attempt = Some(attempt);
        let result = {
            let mut exchange = pin!(self.exchange(&mut attempt, &replica, &is_sent, policy));
            let mut timer =
                pin!(tokio::time::sleep_until(self.worker.instant(self.limit(began, policy).0).into()));
            poll_fn(|cx| {
                if let Poll::Ready(tried) = exchange.as_mut().poll(cx) {
                    return Poll::Ready(Ok(tried));
                }
                if flights.is_cut(&replica) {
                    return Poll::Ready(Err(Late::Drain));
                }
                flights.waits(place, cx.waker());
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
            (Err(Late::Drain), attempt) => {
                // Without blame.
                drop(attempt);
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
        replica: &Replica,
        is_sent: &Cell<bool>,
        policy: &Policy,
    ) -> Tried {
        let mut request = Box::new(self.request());
        let (link, response) = loop {
            let mut link = match self.worker.pool().link(replica.address(), policy.timeout.connect).await {
                Ok(link) => link,
                Err(ConnectFailure::Replica(fault)) => return fail(attempt, fault, Proof::Unsent),
                Err(ConnectFailure::Exhausted) => return Tried::Exhausted,
            };
            is_sent.set(true);
            match link.send(*request).await {
                Ok(response) => break (link, response),
                // The replica closed an idle connection: it has not seen the request, and is not to blame.
                Err(SendFailure::NotTaken(returned)) if link.is_reused() => {
                    is_sent.set(false);
                    request = returned;
                }
                Err(SendFailure::NotTaken(_)) => return fail(attempt, Fault::Closed, Proof::Unsent),
                Err(SendFailure::ClientBody) => return Tried::ClientGone,
                Err(SendFailure::Failed(_)) if self.source.client_failed() => return Tried::ClientGone,
                Err(SendFailure::Failed(fault)) => return fail(attempt, fault, Proof::Unknown),
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
        let body = UpstreamBody::new(incoming, link, attempt, policy.timeout.stream_idle);
        let body = Rc::new(RefCell::new(body));
        poll_fn(|cx| {
            body.borrow_mut().settle_if_ended(cx);
            Poll::Ready(())
        })
        .await;
        if let Some(attempt) = body.borrow().attempt() {
            attempt.streams(&body);
        }
        let response = Response::from_parts(head, ResponseBody::Replica(body));
        // 500 says that the replica handled the request and broke on it: another would, too.
        let status = response.status().as_u16();
        if matches!(status, 502..=504) && outcome != Outcome::Success {
            return Tried::Failed { replica, proof: Proof::Answered, ended: Ended::Answered(response) };
        }
        Tried::Answer(response)
    }

    /// The head again for each attempt; the body from its first byte.
    fn request(&self) -> Request<RequestBody> {
        let mut request = Request::new(self.source.attempt());
        *request.method_mut() = self.head.method.clone();
        *request.uri_mut() = self.head.uri.clone();
        *request.headers_mut() = self.head.headers.clone();
        request
    }

    fn show(&self, headers: &mut HeaderMap, replica: &Replica) {
        if let Ok(name) = HeaderValue::from_str(replica.key().replica.as_str()) {
            headers.insert(X_GW_REPLICA, name);
        }
        headers.insert(X_GW_ATTEMPTS, HeaderValue::from(self.attempts));
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
