//! The answer's body on its way to the client; a replica's carries its connection and its attempt with it.

use std::{
    cell::RefCell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use tokio::time::{Instant, Sleep, sleep_until};

use super::request_body::Arrival;
use crate::{
    proxy::{
        forward::{attempt::Attempt, grpc, stale::Copying, stay::Stay},
        h1::{Failure, Pipe, Unread},
        head::ResponseHead,
        trail::Trail,
        tunnel::Tunnel,
        upstream::Link,
    },
    routing::{Fault, Outcome, Tick, judge_grpc},
    table::Replica,
};

/// What a client receives.
#[derive(Debug)]
pub(in crate::proxy) struct Answer<B = ResponseBody> {
    pub(in crate::proxy) head: ResponseHead,
    pub(in crate::proxy) body: B,
    /// Why the gateway made it, if it did.
    pub(in crate::proxy) error: Option<&'static str>,
    /// Whether the client gets no answer at all: its connection, or its stream, is reset instead.
    pub(in crate::proxy) resets: bool,
    /// Its request's story, if anybody listens: to be told how it ends.
    pub(in crate::proxy) trail: Option<Box<Trail>>,
    /// What takes the connection over behind the head, in place of a body.
    pub(in crate::proxy) tunnel: Option<Box<Tunnel>>,
}

impl<B> Answer<B> {
    pub(in crate::proxy) fn new(head: ResponseHead, body: B) -> Self {
        Self { head, body, error: None, resets: false, trail: None, tunnel: None }
    }
}

/// The body of it: the gateway's own words, or a replica's.
#[derive(Debug)]
pub(in crate::proxy) enum ResponseBody {
    Own(Full<Bytes>),
    /// Shared with the worker, which cuts it when the replica's drain is over.
    Replica(Rc<RefCell<UpstreamBody>>),
}

impl From<Bytes> for ResponseBody {
    fn from(words: Bytes) -> Self {
        Self::Own(Full::new(words))
    }
}

/// A replica's response body, its connection, and the attempt that it ends.
#[derive(Debug)]
pub(in crate::proxy) struct UpstreamBody {
    /// Until the body has ended; the attempt goes with it.
    open: Option<(Link, Attempt)>,
    has_ended: bool,
    idle_limit: Duration,
    /// Made when the replica first lets us wait; runs only while it does.
    idle: Option<Pin<Box<Sleep>>>,
    /// Since when it does.
    waits_since: Option<Instant>,
    is_cut: bool,
    call: Option<Call>,
    /// Made when a call that has a deadline is first waited for.
    overdue: Option<Pin<Box<Sleep>>>,
    /// Of the request that it answers: until the client has all of it.
    stay: Option<Stay>,
    /// The same at the service that stood in for the one that was asked for.
    stand_in: Option<Box<Stay>>,
    /// If it is to be kept.
    copying: Option<Box<Copying>>,
}

/// What a response's body is a part of, if that is a gRPC call, whatever the response is.
#[derive(Debug, Clone, Copy)]
pub(in crate::proxy) struct Call {
    /// Until when the whole of it may take.
    pub(in crate::proxy) deadline: Option<Tick>,
    /// Whether the response is one in gRPC: with a status behind it, which may say that it is not whole.
    pub(in crate::proxy) is_answered: bool,
}

impl Call {
    /// One without an answer yet.
    pub(in crate::proxy) fn of(deadline: Option<Tick>) -> Self {
        Self { deadline, is_answered: false }
    }

    fn is_overdue(self, now: Tick) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }

    /// What the replica says of a call, by the field that has its status.
    pub(in crate::proxy) fn judge(self, status: &[u8], now: Tick) -> Outcome {
        grpc::status(status).map_or(Outcome::Success, |status| judge_grpc(status, self.is_overdue(now)))
    }
}

/// Why a body did not end well. The client sees its message cut off, never a clean end.
#[derive(Debug, thiserror::Error)]
pub(in crate::proxy) enum BodyError {
    #[error("the replica's response broke off")]
    Upstream(#[source] Failure),
    #[error("neither the request nor its response moved a byte for {0:?}")]
    Idle(Duration),
    #[error("the replica was drained before the end of its response")]
    Drained,
    #[error("the call's time ran out at the gateway")]
    Overdue,
}

impl UpstreamBody {
    pub(in crate::proxy) fn new(
        link: Link,
        attempt: Attempt,
        idle_limit: Duration,
        call: Option<Call>,
    ) -> Self {
        let open = Some((link, attempt));
        Self {
            open,
            has_ended: false,
            idle_limit,
            idle: None,
            waits_since: None,
            is_cut: false,
            call,
            overdue: None,
            stay: None,
            stand_in: None,
            copying: None,
        }
    }

    /// Whether it has no end of its own: nobody can tell whether all of it has come.
    pub(in crate::proxy) fn ends_by_close(&self) -> bool {
        self.open.as_ref().is_some_and(|(link, _)| link.ends_by_close())
    }

    /// Has a copy of it kept, if it comes to its end.
    pub(in crate::proxy) fn copy(&mut self, copying: Copying) {
        match self.has_ended {
            true => copying.end(),
            false => self.copying = Some(Box::new(copying)),
        }
    }

    /// Copies what has come. What breaks off, has trailers or is too long is not kept.
    fn copied(&mut self, polled: &Poll<Option<Result<Frame<Bytes>, BodyError>>>) {
        let goes_on = match (polled, &mut self.copying) {
            (Poll::Ready(Some(Ok(frame))), Some(copying)) => {
                frame.data_ref().is_some_and(|data| copying.push(data))
            }
            (Poll::Ready(Some(Err(_))), _) => false,
            _ => true,
        };
        if !goes_on {
            self.copying = None;
        } else if self.has_ended
            && let Some(copying) = self.copying.take()
        {
            copying.end();
        }
    }

    /// Has the request's stay at its service last for as long as this does.
    pub(in crate::proxy) fn keep(&mut self, stay: Stay) {
        self.stay = Some(stay);
    }

    /// The same for its stay at a service that stands in.
    pub(in crate::proxy) fn keep_beside(&mut self, stay: Stay) {
        self.stand_in = Some(Box::new(stay));
    }

    /// Its attempt, until the body has ended.
    pub(in crate::proxy) fn attempt(&self) -> Option<&Attempt> {
        self.open.as_ref().map(|(_, attempt)| attempt)
    }

    /// Closes the connection and ends the attempt, without blame, if `is_over` for its replica. The client sees its
    /// message cut off as soon as it reads on.
    pub(in crate::proxy) fn cut_if(&mut self, is_over: impl Fn(&Replica) -> bool) {
        if self.attempt().is_some_and(|attempt| is_over(attempt.replica())) {
            self.is_cut = true;
            self.open = None;
        }
    }

    /// Has a probe pass whose time to break off is over. Yields when that will be, if it is still to come.
    pub(in crate::proxy) fn pass(&mut self) -> Option<Tick> {
        self.open.as_mut().and_then(|(_, attempt)| attempt.pass())
    }

    /// Settles the attempt at once when there is nothing (more) to come.
    pub(in crate::proxy) fn settle_if_ended(&mut self) {
        if self.open.as_ref().is_some_and(|(link, _)| link.is_end_stream()) {
            self.finish();
        }
    }

    fn finish(&mut self) {
        if let Some((link, attempt)) = self.open.take() {
            self.has_ended = true;
            attempt.finished(link);
        }
    }

    /// Ends the attempt without an end of the body: by the replica's fault, unless the client broke off its request,
    /// which the connection does not outlive.
    fn fail(&mut self, fault: Fault) {
        if let Some((link, attempt)) = self.open.take()
            && !link.client_failed()
        {
            attempt.failed(fault);
        }
    }

    /// Completes when we have had to wait for too long, with whether the client is to blame: the rest of its request is what
    /// everybody waits for. A client that reads slowly does not count, because the time begins when there is nothing to
    /// read; and as long as the request's own body moves, so does the whole.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let mut moved_at = *self.waits_since.get_or_insert_with(Instant::now);
        let (mut waits_for_client, mut too_slow_at) = (false, None);
        if let Some((link, attempt)) = &self.open
            && let Some(Arrival::Partial { moved_at: at, waits_for_client: waits, too_slow_at: slow }) =
                link.arrival()
        {
            moved_at = moved_at.max(attempt.instant(at).into());
            waits_for_client = waits;
            too_slow_at = (slow < Tick::NEVER).then(|| attempt.instant(slow).into());
        }
        let due = moved_at + self.idle_limit;
        let due = too_slow_at.map_or(due, |slow: Instant| slow.min(due));
        let idle = self.idle.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if idle.deadline() != due {
            idle.as_mut().reset(due);
        }
        idle.as_mut().poll(cx).map(|()| waits_for_client)
    }
}

impl UpstreamBody {
    pub(in crate::proxy) fn size_hint(&self) -> SizeHint {
        let left = match &self.open {
            Some((link, _)) => link.left(),
            None if self.has_ended => Some(0),
            None => None,
        };
        left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(call) = self.call else {
            let polled = self.poll_any(cx);
            if self.copying.is_some() {
                self.copied(&polled);
            }
            return polled;
        };
        let now = self.attempt().map(Attempt::now);
        if now.is_some_and(|now| call.is_overdue(now)) {
            return self.end_call(BodyError::Overdue);
        }
        match self.poll_any(cx) {
            Poll::Ready(Some(Err(error))) => self.end_call(error),
            Poll::Pending if self.poll_deadline(cx, call).is_ready() => self.end_call(BodyError::Overdue),
            polled => polled,
        }
    }

    /// Ends a call for which nobody is to blame that was not blamed before. gRPC has words for what HTTP can only say by breaking
    /// off: behind any other answer they would make it look whole.
    fn end_call(&mut self, error: BodyError) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.open = None;
        if !self.call.is_some_and(|call| call.is_answered) {
            return Poll::Ready(Some(Err(error)));
        }
        self.is_cut = false;
        self.has_ended = true;
        let trailers = match &error {
            BodyError::Overdue => grpc::overdue(),
            error => grpc::broken_off(&error.to_string()),
        };
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    /// Completes at the end of the call's time.
    fn poll_deadline(&mut self, cx: &mut Context<'_>, call: Call) -> Poll<()> {
        let (Some(deadline), Some(attempt)) = (call.deadline, self.attempt()) else { return Poll::Pending };
        let due = attempt.instant(deadline).into();
        self.overdue.get_or_insert_with(|| Box::pin(sleep_until(due))).as_mut().poll(cx)
    }

    /// Judges the replica by what of a call has come.
    fn follow_call(&mut self, call: Call, frame: &Frame<Bytes>) {
        let Some((_, attempt)) = &mut self.open else { return };
        match frame.trailers_ref().map(|trailers| trailers.get("grpc-status")) {
            Some(Some(status)) => attempt.judged(call.judge(status.as_bytes(), attempt.now())),
            Some(None) => {}
            None => attempt.got_message(),
        }
    }

    fn poll_any(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = ready!(self.poll_link(cx, Link::poll_frame));
        match &polled {
            Some(Ok(frame)) => {
                if let Some(call) = self.call {
                    self.follow_call(call, frame);
                }
                self.settle_if_ended();
            }
            Some(Err(_)) => {}
            None => self.finish(),
        }
        Poll::Ready(polled)
    }

    /// The same in a pipe, unless somebody looks at what comes: at a call's messages, or to keep a copy.
    fn poll_pipe(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Pipe, BodyError>>> {
        if self.call.is_some() || self.copying.is_some() {
            return Poll::Ready(None);
        }
        let polled = ready!(self.poll_link(cx, Link::poll_pipe));
        self.settle_if_ended();
        Poll::Ready(polled)
    }

    /// What comes of the replica, of which one of its two `poll`s tells.
    fn poll_link<T>(
        &mut self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(&mut Link, &mut Context<'_>) -> Poll<Option<Result<T, Failure>>>,
    ) -> Poll<Option<Result<T, BodyError>>> {
        if self.is_cut {
            return Poll::Ready(Some(Err(BodyError::Drained)));
        }
        let Some((link, _)) = &mut self.open else { return Poll::Ready(None) };
        let was_sending = link.arrival().is_some();
        let polled = poll(link, cx);
        if was_sending && link.arrival().is_none() {
            // The last of the request has just gone out: the replica has all of its time from now on.
            self.waits_since = None;
        }
        match polled {
            Poll::Ready(Some(Ok(part))) => {
                self.waits_since = None;
                if let Some(attempt) = self.attempt() {
                    attempt.shows_life();
                }
                Poll::Ready(Some(Ok(part)))
            }
            Poll::Ready(Some(Err(error))) => {
                self.fail(Fault::Truncated);
                Poll::Ready(Some(Err(BodyError::Upstream(error))))
            }
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => {
                if let Some(attempt) = self.attempt() {
                    attempt.waits(cx.waker());
                }
                match ready!(self.poll_idle(cx)) {
                    // Without blame.
                    true => self.open = None,
                    false => self.fail(Fault::Truncated),
                }
                Poll::Ready(Some(Err(BodyError::Idle(self.idle_limit))))
            }
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Own(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Self::Replica(body) => body.borrow_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(body) => body.is_end_stream(),
            Self::Replica(body) => body.borrow().has_ended,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(body) => body.size_hint(),
            Self::Replica(body) => body.borrow().size_hint(),
        }
    }
}

impl Unread for ResponseBody {
    fn poll_pipe(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Pipe, BodyError>>> {
        match self.get_mut() {
            Self::Own(_) => Poll::Ready(None),
            Self::Replica(body) => body.borrow_mut().poll_pipe(cx),
        }
    }
}
