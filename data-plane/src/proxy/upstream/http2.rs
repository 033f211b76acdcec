//! One exchange on a connection that many share: an HTTP/2 stream, polled by its user as a connection of HTTP/1.1 is.
//!
//! The library's own client would send the body from a task of its own, which goes on when nobody waits for the response
//! any more, and takes from the next attempt what the client sends. Here nothing moves that is not asked for, and dropping
//! the exchange resets the stream at once.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use gateway_proto::Endpoint;
use h2::{Reason, RecvStream, SendStream, client::ResponseFuture};
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, Uri, Version, header};
use http_body::Frame;
use tokio::time::Sleep;

use super::{
    SendFailure,
    library_body::{OutgoingBody, Sent},
    library_side::StreamSide,
    shared::Shared,
    switched::{ReplicaSide, Switch},
};
use crate::{
    clock::Clock,
    proxy::{
        body::request_body::{Arrival, RequestBody},
        h1::{Failure, Length, Outgoing},
        h2 as heads,
        head::{
            RequestHead, ResponseHead,
            field_name::{Name, Names},
            headers::prepare_trailers,
            hints::AttemptHints,
        },
    },
    routing::{Fault, Outcome, Tick},
    traces::Traceparent,
};

/// A connection on which a request that is given up has waited for so long, and nothing at all has come of any, takes no more.
const SILENCE: Duration = Duration::from_secs(1);
/// What HTTP/2 says otherwise, or not at all.
const OF_ONE_CONNECTION: Names =
    Names::of(&[Name::Host, Name::TransferEncoding, Name::Connection, Name::Upgrade]);
/// Most interim responses (1xx) in front of one response.
const MAX_INTERIM: usize = 32;
/// How long a body is held back for a replica that was asked whether it wants it: older ones do not answer.
const CONTINUE_TIMEOUT: Duration = Duration::from_secs(1);

/// A place on a shared connection, and the exchange there.
#[derive(Debug)]
pub(in crate::proxy) struct Http2Link {
    shared: Rc<Shared>,
    clock: Clock,
    /// Whether the connection has carried a request before.
    is_reused: bool,
    /// What the connection had written before this exchange.
    written_before: u64,
    /// What had been heard on it, and when that was.
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
    Tunnel(SendStream<Bytes>),
    /// All of it is on its way, or the replica wants no more.
    Done,
}

/// How far the response has come.
#[derive(Debug)]
enum Receiving {
    Nothing,
    Head { response: ResponseFuture, interim: usize },
    Body { stream: RecvStream, left: Option<u64> },
    Ended,
}

impl Http2Link {
    /// Takes a place.
    pub(super) fn on(shared: Rc<Shared>, clock: Clock) -> Box<Self> {
        let is_reused = shared.enter();
        Box::new(Self {
            written_before: shared.written(),
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
        let mut request = request(outgoing.head, endpoint, outgoing.expects_continue, outgoing.hints)?;
        let switch = Switch::asked(outgoing.head);
        if let Some(switch) = &switch {
            switch.write(&mut request)?;
        }
        let method = outgoing.head.method.clone();
        self.written_before = self.shared.written();
        (self.heard_before, self.began) = (self.shared.heard(), self.clock.now());
        if self.begin(request, outgoing).is_none() {
            self.shared.retire();
            return Err(SendFailure::NotTaken);
        }
        // Whoever gives the stream up resets it, and what the engine holds of it by then goes out before that: only the end of the
        // connection is proof that nothing will.
        is_sent.set(true);
        let head = std::future::poll_fn(|cx| self.poll_head(cx, &method, &mut passed)).await?;
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
    fn begin(&mut self, request: Request<()>, outgoing: Outgoing<'_, RequestBody>) -> Option<()> {
        let Outgoing { length, body, expects_continue, .. } = outgoing;
        let is_tunnel = request.method() == Method::CONNECT;
        let is_empty = matches!(length, Length::Empty | Length::Exact(0));
        let opened = self.shared.sender()?.send_request(request, is_empty && !is_tunnel);
        let (response, stream) =
            opened.inspect_err(|error| tracing::debug!(%error, "no stream on a shared connection")).ok()?;
        self.receiving = Receiving::Head { response, interim: 0 };
        if is_tunnel {
            self.sending = Sending::Tunnel(stream);
            return Some(());
        }
        let outgoing = OutgoingBody::new(stream, body);
        self.sending = match (is_empty, expects_continue) {
            (true, _) => Sending::Done,
            (false, true) => {
                Sending::Asking { outgoing, timer: Box::pin(tokio::time::sleep(CONTINUE_TIMEOUT)) }
            }
            (false, false) => Sending::Body(outgoing),
        };
        Some(())
    }

    /// Whether the replica may have seen a byte of the request: one of another request counts, too.
    fn has_sent(&self) -> bool {
        self.shared.written() > self.written_before
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
            let Receiving::Head { response, interim } = &mut self.receiving else {
                return Poll::Ready(Err(SendFailure::Failed(Fault::Malformed)));
            };
            match response.poll_informational(cx) {
                Poll::Ready(Some(Ok(head))) => {
                    *interim += 1;
                    if *interim > MAX_INTERIM {
                        return Poll::Ready(Err(SendFailure::Failed(Fault::Malformed)));
                    }
                    self.shared.hear();
                    if head.status() == StatusCode::SWITCHING_PROTOCOLS {
                        // Which HTTP/2 does not have (RFC 9113 section 8.6), and a client would take for the switch.
                        return Poll::Ready(Err(SendFailure::Failed(Fault::Malformed)));
                    }
                    if head.status() != StatusCode::CONTINUE {
                        passed(ResponseHead::new(head.status(), heads::fields(head.headers())));
                    } else if self.sending.go_on() && self.poll_send(cx).is_err() {
                        return Poll::Ready(Err(SendFailure::ClientBody));
                    }
                }
                // A failure is told with the response.
                Poll::Pending | Poll::Ready(None | Some(Err(_))) => break,
            }
        }
        let Receiving::Head { response, .. } = &mut self.receiving else { return Poll::Pending };
        match ready!(Pin::new(response).poll(cx)) {
            Ok(response) => Poll::Ready(Ok(self.received(cx, response, method))),
            Err(error) => Poll::Ready(Err(self.without_head(&error))),
        }
    }

    /// The head has come.
    fn received(
        &mut self,
        cx: &mut Context<'_>,
        response: http::Response<RecvStream>,
        method: &Method,
    ) -> ResponseHead {
        self.shared.hear();
        if let Sending::Asking { .. } = self.sending {
            // It has decided without the body, which stays where it is.
            self.sending = Sending::Done;
        }
        let (parts, stream) = response.into_parts();
        let fields = heads::fields(&parts.headers);
        let has_no_body = (*method == Method::HEAD || matches!(parts.status.as_u16(), 204 | 304))
            && !matches!(self.sending, Sending::Tunnel(_));
        let declared = || str::from_utf8(fields.get(Name::ContentLength)?).ok()?.parse().ok();
        let left = if has_no_body || stream.is_end_stream() { Some(0) } else { declared() };
        self.receiving = Receiving::Body { stream, left };
        if has_no_body {
            // Nobody will ask for what is no body. The stream's end, which some tell only behind the head, has mostly come with
            // it: once it is read, the stream need not be reset.
            while let Poll::Ready(Some(Ok(_))) = self.poll_frame(cx) {}
            self.receiving = Receiving::Ended;
        }
        ResponseHead::new(parts.status, fields)
    }

    /// What it says of the replica that there is no head.
    fn without_head(&self, error: &h2::Error) -> SendFailure {
        tracing::debug!(%error, "no response");
        match error.reason() {
            // Streams that a goodbye does not name as taken, and refused ones, were not processed (RFC 9113 section 8.7).
            Some(Reason::REFUSED_STREAM) if error.is_reset() && error.is_remote() => {
                SendFailure::Refused(Outcome::Overloaded)
            }
            Some(reason) if error.is_go_away() && error.is_remote() => SendFailure::Refused(match reason {
                Reason::NO_ERROR => Outcome::Neutral,
                Reason::ENHANCE_YOUR_CALM => Outcome::Overloaded,
                _ => Outcome::Failure(Fault::Reset),
            }),
            _ if !self.has_sent() => match self.shared.tls_fault() {
                Some(fault) if !self.is_reused => SendFailure::Unread(fault),
                _ => SendFailure::NotTaken,
            },
            _ if error.is_remote() => SendFailure::Failed(Fault::Reset),
            _ => match (error.get_io(), self.shared.tls_fault()) {
                (Some(_), Some(fault)) => SendFailure::of_tls(fault, self.is_reused),
                (Some(error), None) if error.kind() == io::ErrorKind::ConnectionReset => {
                    SendFailure::Failed(Fault::Reset)
                }
                (Some(_), None) => SendFailure::Failed(Fault::Closed),
                (None, _) => SendFailure::Failed(Fault::Malformed),
            },
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
        let has_sent = self.has_sent();
        let Sending::Body(outgoing) = &mut self.sending else { return Ok(()) };
        match outgoing.poll(cx, has_sent, |_| {}) {
            // Who wants no more may have something to say all the same.
            Poll::Ready(Ok(Sent::All | Sent::Enough)) => self.sending = Sending::Done,
            Poll::Ready(Err(_)) => {
                outgoing.reset(Reason::CANCEL);
                self.client_failed = true;
                self.sending = Sending::Done;
                return Err(Failure::RequestBody);
            }
            // With the head goes one frame: what lies behind it is asked for once a byte of them is on its way.
            Poll::Pending if !has_sent => self.shared.waits_for_write(cx),
            Poll::Pending => {}
        }
        Ok(())
    }

    /// The next frame of the response's body, while what is left of the request is sent.
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        self.poll_send(cx)?;
        let Receiving::Body { stream, left } = &mut self.receiving else { return Poll::Ready(None) };
        let failed = |error: &h2::Error| Poll::Ready(Some(Err(failure(error))));
        match ready!(stream.poll_data(cx)) {
            Some(Ok(data)) => {
                self.shared.hear();
                // It is on its way to the client: the replica may send as much again.
                let _ = stream.flow_control().release_capacity(data.len());
                if let Some(left) = left {
                    *left = left.saturating_sub(data.len() as u64);
                }
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            Some(Err(error)) => return failed(&error),
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
                let mut fields = heads::fields(&trailers);
                prepare_trailers(&mut fields);
                Poll::Ready(Some(Ok(Frame::trailers(heads::map(&fields)))))
            }
            Err(error) => failed(&error),
        }
    }

    pub(super) fn is_end_stream(&self) -> bool {
        match &self.receiving {
            Receiving::Body { stream, .. } => stream.is_end_stream(),
            Receiving::Ended => true,
            Receiving::Nothing | Receiving::Head { .. } => false,
        }
    }

    pub(super) fn left(&self) -> Option<u64> {
        match &self.receiving {
            Receiving::Body { left, .. } => *left,
            Receiving::Ended => Some(0),
            Receiving::Nothing | Receiving::Head { .. } => None,
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
        let awaits_head = matches!(self.receiving, Receiving::Head { .. });
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

fn failure(error: &h2::Error) -> Failure {
    match error.is_library() {
        true => Failure::Malformed(error.to_string()),
        false => Failure::Reset(io::Error::other(error.to_string())),
    }
}

/// A request's head in HTTP/2.
fn request(
    head: &RequestHead,
    endpoint: &Endpoint,
    expects_continue: bool,
    hints: AttemptHints,
) -> Result<Request<()>, SendFailure> {
    let scheme = if endpoint.tls_name().is_some() { "https" } else { "http" };
    let host = head.fields.get(Name::Host).and_then(|host| str::from_utf8(host).ok()).unwrap_or_default();
    // HTTP/1.0 clients may name none.
    let authority = if host.is_empty() { endpoint.address.as_str() } else { host };
    let uri = Uri::builder().scheme(scheme).authority(authority).path_and_query(head.target()).build();
    let mut request = Request::new(());
    *request.uri_mut() = uri.map_err(|_| SendFailure::Unsendable)?;
    *request.method_mut() = head.method.clone();
    *request.version_mut() = Version::HTTP_2;
    let is_left_out = match expects_continue {
        true => OF_ONE_CONNECTION,
        false => OF_ONE_CONNECTION.with(Names::of(&[Name::Expect])),
    };
    let mut fields = heads::map_without(&head.fields, is_left_out);
    for (name, value) in hints.fields() {
        fields.insert(HeaderName::from_static(name), value.into());
    }
    if let Some(value) = hints.trace.and_then(|trace| trace.to_string().parse().ok()) {
        fields.insert(Traceparent::NAME, value);
    }
    // Trailers pass, whatever the client's own connection can carry.
    fields.insert(header::TE, HeaderValue::from_static("trailers"));
    *request.headers_mut() = fields;
    Ok(request)
}

#[cfg(test)]
mod tests {
    use gateway_proto::{Address, Protocol};

    use super::*;
    use crate::proxy::head::fields::Fields;

    const HINTS: AttemptHints = AttemptHints { attempt: 2, time: Duration::from_millis(800), trace: None };

    fn head(target: &str, fields: &[(&str, &str)]) -> RequestHead {
        let mut block = Fields::default();
        for (name, value) in fields {
            block.append_other(name.as_bytes(), value.as_bytes());
        }
        let target = block.store(target.as_bytes());
        RequestHead::new(Method::POST, Version::HTTP_11, target, None, block)
    }

    fn endpoint(protocol: Protocol) -> Endpoint {
        Endpoint { address: Address::parse("10.0.0.1:80").unwrap(), protocol }
    }

    #[test]
    fn a_host_becomes_the_authority_and_what_concerns_one_connection_stays_behind() {
        let fields = [
            ("Host", "shop.example:8080"),
            ("Transfer-Encoding", "chunked"),
            ("Expect", "100-continue"),
            ("X-Id", "7"),
        ];
        let sent =
            request(&head("/a/../b?c=%20", &fields), &endpoint(Protocol::h2c()), false, HINTS).unwrap();
        assert_eq!(sent.uri().to_string(), "http://shop.example:8080/a/../b?c=%20");
        assert_eq!(sent.method(), Method::POST);
        let names: Vec<_> =
            sent.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        let hints = [("x-gw-attempt", &b"2"[..]), ("x-gw-timeout-ms", b"800")];
        assert_eq!(names, [&[("x-id", &b"7"[..])][..], &hints, &[("te", b"trailers")]].concat());
        let asking = request(&head("/", &fields), &endpoint(Protocol::h2c()), true, HINTS).unwrap();
        assert!(asking.headers().contains_key("expect"));
    }

    #[test]
    fn who_names_no_host_is_sent_to_the_address_and_over_tls_by_https() {
        let sent =
            request(&head("/", &[("host", "")]), &endpoint(Protocol::tls(None)), false, HINTS).unwrap();
        assert_eq!(sent.uri().to_string(), "https://10.0.0.1:80/");
    }

    #[test]
    fn a_target_that_http2_cannot_carry_is_not_sent() {
        let unsendable =
            request(&head("/a\u{7f}", &[("host", "a")]), &endpoint(Protocol::h2c()), false, HINTS);
        assert!(matches!(unsendable, Err(SendFailure::Unsendable)));
    }
}
