//! One exchange on a connection that many share: an HTTP/2 stream, polled by its user as a connection of HTTP/1.1 is.
//!
//! Nothing of a body moves that is not asked for. Dropping the exchange resets the stream at once, or has it never been, if nothing of it
//! was written by then.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use gateway_http2::{Failure as StreamFailure, Purpose, Receiver, Sender, frame::ErrorCode};
use gateway_proto::Endpoint;
use http::{Method, StatusCode};
use http_body::Frame;
use tokio::time::Sleep;

use super::{
    SendFailure,
    shared::Shared,
    switched::{ReplicaSide, Switch},
};
use crate::{
    clock::Clock,
    proxy::{
        body::request_body::{Arrival, RequestBody},
        h1::{Failure, Length, Outgoing},
        h2::{Head, Heading, OutgoingBody, ProxyHeads, RequestTo, Sent, map},
        head::{ResponseHead, field_name::Name, headers::prepare_trailers},
        tunnel::StreamSide,
    },
    routing::{Fault, Outcome, Tick},
};

/// A connection on which a request that is given up has waited for so long, and nothing at all has come of any, takes no more.
const SILENCE: Duration = Duration::from_secs(1);
/// How long a body is held back for a replica that was asked whether it wants it: older ones do not answer.
const CONTINUE_TIMEOUT: Duration = Duration::from_secs(1);

/// A place on a shared connection, and the exchange there.
#[derive(Debug)]
pub(in crate::proxy) struct Http2Link {
    shared: Rc<Shared>,
    clock: Clock,
    /// Whether the connection has carried a request before.
    is_reused: bool,
    /// What had been heard on the connection, and when that was.
    heard_before: u64,
    began: Tick,
    sending: Sending,
    receiving: Receiving,
    client_failed: bool,
}

/// How far the request has gone.
#[derive(Debug)]
enum Sending {
    /// The replica was asked whether it wants the body.
    Asking {
        outgoing: OutgoingBody<RequestBody>,
        timer: Pin<Box<Sleep>>,
    },
    Body(OutgoingBody<RequestBody>),
    /// There is no body: the stream is to be a tunnel.
    Tunnel(Sender<ProxyHeads>),
    /// All of it is on its way, or the replica wants no more.
    Done,
}

/// How far the response has come.
#[derive(Debug)]
enum Receiving {
    Nothing,
    Head(Receiver<ProxyHeads>),
    Body { stream: Receiver<ProxyHeads>, left: Option<u64> },
    Ended,
}

impl Http2Link {
    /// Takes a place.
    pub(super) fn on(shared: Rc<Shared>, clock: Clock) -> Box<Self> {
        let is_reused = shared.enter();
        Box::new(Self {
            heard_before: shared.heard(),
            began: clock.now(),
            shared,
            clock,
            is_reused,
            sending: Sending::Done,
            receiving: Receiving::Nothing,
            client_failed: false,
        })
    }

    pub(super) fn is_reused(&self) -> bool {
        self.is_reused
    }

    pub(super) fn client_failed(&self) -> bool {
        self.client_failed
    }

    /// Sends one request and waits for the response head, as [`super::Link::send`] has it.
    pub(super) async fn send(
        &mut self,
        outgoing: Outgoing<'_, RequestBody>,
        endpoint: &Endpoint,
        is_sent: &Cell<bool>,
        mut passed: impl FnMut(ResponseHead),
    ) -> Result<ResponseHead, SendFailure> {
        let switch = Switch::asked(outgoing.head);
        let (head, protocol) = (outgoing.head, switch.as_ref().map(Switch::protocol));
        let request = RequestTo::new(head, endpoint, outgoing.expects_continue, protocol, outgoing.hints);
        let request = request.ok_or(SendFailure::Unsendable)?;
        let method = head.method.clone();
        (self.heard_before, self.began) = (self.shared.heard(), self.clock.now());
        if self.begin(request, outgoing, switch.is_some()).is_none() {
            self.shared.retire();
            return Err(SendFailure::NotTaken);
        }
        let head = std::future::poll_fn(|cx| {
            let polled = self.poll_head(cx, &method, &mut passed);
            // Whoever gives the exchange up by this has its stream reset before anything more is written.
            is_sent.set(self.has_sent());
            polled
        });
        let head = head.await?;
        match switch {
            Some(switch) if head.status.is_success() => Ok(switch.accepted(head)),
            Some(_) => {
                self.refused();
                Ok(head)
            }
            None => Ok(head),
        }
    }

    /// The stream is no tunnel: nothing is sent on it.
    fn refused(&mut self) {
        if let Sending::Tunnel(mut stream) = std::mem::replace(&mut self.sending, Sending::Done) {
            // Who has reset it need not be told.
            let _ = stream.send_data(Bytes::new(), true);
        }
    }

    /// The stream, once the replica has accepted a switch of protocols on it.
    pub(super) fn into_side(mut self: Box<Self>) -> Option<ReplicaSide> {
        let sending = std::mem::replace(&mut self.sending, Sending::Done);
        let receiving = std::mem::replace(&mut self.receiving, Receiving::Ended);
        match (sending, receiving) {
            (Sending::Tunnel(outgoing), Receiving::Body { stream, .. }) => {
                Some(ReplicaSide::Shared(Box::new(StreamSide::new(outgoing, stream)), self))
            }
            _ => None,
        }
    }

    /// Whether the replica takes extended CONNECTs, known once its settings have come.
    pub(super) async fn may_switch(&self) -> bool {
        self.shared.may_switch().await
    }

    /// Something has come of the response.
    pub(super) fn hear(&self) {
        self.shared.hear();
    }

    /// Opens the stream. `None` if the connection takes no more.
    fn begin(
        &mut self,
        request: RequestTo,
        outgoing: Outgoing<'_, RequestBody>,
        is_tunnel: bool,
    ) -> Option<()> {
        let Outgoing { head, length, body, expects_continue, .. } = outgoing;
        let is_empty = matches!(length, Length::Empty | Length::Exact(0));
        let request = Head::Request(Box::new(request));
        let purpose = match is_tunnel {
            true => Purpose::Tunnel,
            false if head.method == Method::HEAD => Purpose::Head,
            false => Purpose::Content,
        };
        let (sender, stream) = self.shared.open(request, is_empty && !is_tunnel, purpose)?;
        self.receiving = Receiving::Head(stream);
        if is_tunnel {
            self.sending = Sending::Tunnel(sender);
            return Some(());
        }
        let outgoing = OutgoingBody::new(sender, body);
        self.sending = match (is_empty, expects_continue) {
            (true, _) => Sending::Done,
            (false, true) => {
                Sending::Asking { outgoing, timer: Box::pin(tokio::time::sleep(CONTINUE_TIMEOUT)) }
            }
            (false, false) => Sending::Body(outgoing),
        };
        Some(())
    }

    /// Whether the replica may see anything of the request, now or later; of a connection that has ended, whether it may have seen it.
    fn has_sent(&self) -> bool {
        match &self.receiving {
            Receiving::Nothing => false,
            Receiving::Head(stream) => stream.is_sent(),
            Receiving::Body { .. } | Receiving::Ended => true,
        }
    }

    /// Whether a byte of the request is on its way: as long as none is, it may yet go to another replica, with all of its body.
    fn is_taken(&self) -> bool {
        match &self.receiving {
            Receiving::Nothing => false,
            Receiving::Head(stream) => stream.is_taken(),
            Receiving::Body { .. } | Receiving::Ended => true,
        }
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        method: &Method,
        passed: &mut impl FnMut(ResponseHead),
    ) -> Poll<Result<ResponseHead, SendFailure>> {
        if self.poll_send(cx).is_err() {
            return Poll::Ready(Err(SendFailure::ClientBody));
        }
        loop {
            let Receiving::Head(stream) = &mut self.receiving else {
                return Poll::Ready(Err(SendFailure::Failed(Fault::Malformed)));
            };
            // A failure is told with the response.
            let Poll::Ready(Some((status, heading))) = stream.poll_interim(cx) else { break };
            self.shared.hear();
            let head = response_head(status, heading);
            if head.status != StatusCode::CONTINUE {
                passed(head);
            } else if self.sending.go_on() && self.poll_send(cx).is_err() {
                return Poll::Ready(Err(SendFailure::ClientBody));
            }
        }
        let Receiving::Head(stream) = &mut self.receiving else { return Poll::Pending };
        match ready!(stream.poll_head(cx)) {
            Ok((status, heading)) => {
                Poll::Ready(Ok(self.received(cx, response_head(status, heading), method)))
            }
            Err(failure) => Poll::Ready(Err(self.without_head(failure))),
        }
    }

    /// The head has come.
    fn received(&mut self, cx: &mut Context<'_>, head: ResponseHead, method: &Method) -> ResponseHead {
        self.shared.hear();
        if let Sending::Asking { .. } = self.sending {
            // It has decided without the body, which stays where it is.
            self.sending = Sending::Done;
        }
        let has_no_body = (*method == Method::HEAD || matches!(head.status.as_u16(), 204 | 304))
            && !matches!(self.sending, Sending::Tunnel(_));
        let Receiving::Head(stream) = std::mem::replace(&mut self.receiving, Receiving::Ended) else {
            return head;
        };
        let declared = || str::from_utf8(head.fields.get(Name::ContentLength)?).ok()?.parse().ok();
        let left = if has_no_body || stream.is_end() { Some(0) } else { declared() };
        self.receiving = Receiving::Body { stream, left };
        if has_no_body {
            // Nobody will ask for what is no body. The stream's end, which some tell only behind the head, has mostly come with
            // it: once it is read, the stream need not be reset.
            while let Poll::Ready(Some(Ok(_))) = self.poll_frame(cx) {}
            self.receiving = Receiving::Ended;
        }
        head
    }

    /// What it says of the replica that there is no head.
    fn without_head(&self, failure: StreamFailure) -> SendFailure {
        tracing::debug!(?failure, "no response");
        match failure {
            // Streams that a goodbye does not name as taken, and refused ones, were not processed (RFC 9113 section 8.7).
            StreamFailure::Reset(ErrorCode::REFUSED_STREAM) => SendFailure::Refused(Outcome::Overloaded),
            StreamFailure::GoAway(code) => SendFailure::Refused(match code {
                ErrorCode::NO_ERROR => Outcome::Neutral,
                ErrorCode::ENHANCE_YOUR_CALM => Outcome::Overloaded,
                _ => Outcome::Failure(Fault::Reset),
            }),
            _ if !self.has_sent() => match self.shared.tls_fault() {
                Some(fault) if !self.is_reused => SendFailure::Unread(fault),
                _ => SendFailure::NotTaken,
            },
            StreamFailure::Reset(_) => SendFailure::Failed(Fault::Reset),
            StreamFailure::Lost(kind) => match self.shared.tls_fault() {
                Some(fault) => SendFailure::of_tls(fault, self.is_reused),
                None if kind == io::ErrorKind::ConnectionReset => SendFailure::Failed(Fault::Reset),
                None => SendFailure::Failed(Fault::Closed),
            },
            StreamFailure::Malformed(_) | StreamFailure::Cancelled => SendFailure::Failed(Fault::Malformed),
        }
    }

    /// Sends as much as the replica takes and there is to send.
    ///
    /// # Errors
    /// When the request's body breaks off: nothing more is sent, and the replica is told so.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Result<(), Failure> {
        if let Sending::Asking { timer, .. } = &mut self.sending {
            if timer.as_mut().poll(cx).is_pending() {
                return Ok(());
            }
            self.sending.go_on();
        }
        let is_taken = self.is_taken();
        let Sending::Body(outgoing) = &mut self.sending else { return Ok(()) };
        match outgoing.poll(cx, is_taken, |_| {}) {
            // Who wants no more may have something to say all the same.
            Poll::Ready(Ok(Sent::All | Sent::Enough)) => self.sending = Sending::Done,
            Poll::Ready(Err(_)) => {
                outgoing.reset(ErrorCode::CANCEL);
                self.client_failed = true;
                self.sending = Sending::Done;
                return Err(Failure::RequestBody);
            }
            // With the head goes one frame: what lies behind it is asked for once a byte of them is on its way.
            Poll::Pending if !is_taken => self.shared.waits_for_write(cx),
            Poll::Pending => {}
        }
        Ok(())
    }

    /// The next frame of the response's body, while what is left of the request is sent.
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        self.poll_send(cx)?;
        let Receiving::Body { stream, left } = &mut self.receiving else { return Poll::Ready(None) };
        let failed = |failure| Poll::Ready(Some(Err(broken(failure))));
        match ready!(stream.poll_data(cx)) {
            Some(Ok(data)) => {
                self.shared.hear();
                // It is on its way to the client: the replica may send as much again.
                stream.release(data.len());
                if let Some(left) = left {
                    *left = left.saturating_sub(data.len() as u64);
                }
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            Some(Err(failure)) => return failed(failure),
            None => {}
        }
        match ready!(stream.poll_trailers(cx)) {
            Ok(None) => {
                self.receiving = Receiving::Ended;
                Poll::Ready(None)
            }
            Ok(Some(trailers)) => {
                self.shared.hear();
                self.receiving = Receiving::Ended;
                let mut fields = trailers.fields;
                prepare_trailers(&mut fields);
                Poll::Ready(Some(Ok(Frame::trailers(map(&fields)))))
            }
            Err(failure) => failed(failure),
        }
    }

    pub(super) fn is_end_stream(&self) -> bool {
        match &self.receiving {
            Receiving::Body { stream, .. } => stream.is_end(),
            Receiving::Ended => true,
            Receiving::Nothing | Receiving::Head(_) => false,
        }
    }

    pub(super) fn left(&self) -> Option<u64> {
        match &self.receiving {
            Receiving::Body { left, .. } => *left,
            Receiving::Ended => Some(0),
            Receiving::Nothing | Receiving::Head(_) => None,
        }
    }

    pub(super) fn arrival(&self) -> Option<Arrival> {
        match &self.sending {
            Sending::Asking { outgoing, .. } | Sending::Body(outgoing) => Some(outgoing.body().arrival()),
            Sending::Tunnel(_) | Sending::Done => None,
        }
    }
}

impl Drop for Http2Link {
    fn drop(&mut self) {
        let now = self.clock.now();
        let awaits_head = matches!(self.receiving, Receiving::Head(_));
        if awaits_head && self.shared.heard() == self.heard_before && now.since(self.began) >= SILENCE {
            // It may be dead, and would cost the next request as much.
            self.shared.retire();
        }
        self.shared.leave(now);
    }
}

impl Sending {
    /// The body need not be held back any more. Tells whether it was.
    fn go_on(&mut self) -> bool {
        let is_asking = matches!(self, Self::Asking { .. });
        if is_asking && let Self::Asking { outgoing, .. } = std::mem::replace(self, Self::Done) {
            *self = Self::Body(outgoing);
        }
        is_asking
    }
}

fn response_head(status: u16, heading: Heading) -> ResponseHead {
    // The engine takes no others.
    let status = StatusCode::from_u16(status).unwrap_or_default();
    ResponseHead::new(status, heading.fields)
}

/// Why a response's body does not come to its end.
fn broken(failure: StreamFailure) -> Failure {
    match failure {
        StreamFailure::Malformed(why) => Failure::Malformed(why.into()),
        StreamFailure::Reset(code) | StreamFailure::GoAway(code) => {
            Failure::Reset(io::Error::other(format!("the stream was reset: {code}")))
        }
        StreamFailure::Lost(kind) => Failure::Reset(kind.into()),
        StreamFailure::Cancelled => Failure::Reset(io::Error::other("the connection was given up")),
    }
}
