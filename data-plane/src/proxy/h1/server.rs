//! A connection from a client: requests are read and answered one after the other, in their order.
//!
//! One task does everything: it waits for a head, runs the pipeline, and writes what that answers while it watches whether
//! the client is still there. While it waits for a head it holds no buffer, and nothing of the pipeline.

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{Method, StatusCode, Version};
use http_body::Frame;

use super::{
    framing::Length,
    inbound::{Inbound, Next, RequestReader},
    pipes::{Pipe, Unread},
    refusal::Refusal,
    request::Request,
    wire::Wire,
    write,
};
use crate::{
    proxy::{
        body::{pace::Pace, request_body::ClientBody, response_body::Answer},
        boxed::boxed,
        downstream::{Asker, Client, stream::Stream},
        errors::{GatewayError, refusals::Reason},
        h2::no_preface,
        head::{
            RequestHead, ResponseHead,
            field_name::{Name, Names},
            request_id::RequestId,
        },
        trail::{self, End},
        tunnel::Tunnel,
        worker::Worker,
    },
    routing::Tick,
};

/// Of a body that nobody wants, as much is passed over to keep the connection.
const MAX_PASSED_OVER: usize = 64 * 1024;
/// As many bytes are sent to one client before others have their turn, however fast it takes them.
const TURN: u64 = 2 * 1024 * 1024;
/// How often it is looked whether a client is gone that has sent more than is read ahead.
const GONE_LOOK: Duration = Duration::from_millis(250);

/// A connection under way.
struct Server {
    worker: Rc<Worker>,
    client: Rc<Client>,
    inbound: Rc<RefCell<Inbound>>,
    /// Its place among the worker's deadlines.
    place: usize,
    /// Requests so far.
    served: Cell<u64>,
}

/// Why what came next is no request.
enum NoRequest {
    Refused(GatewayError),
    /// It could as well be meant for HTTP/2, and is none of that either.
    OtherProtocol,
}

/// Whether there is a next request.
enum Verdict {
    KeepAlive,
    /// The client has been told all there is, and may still be sending.
    Linger,
    Close,
    /// Its protocol was switched.
    Tunnel(Box<Tunnel>),
}

/// What a client is told about the connection.
struct Exchange {
    method: Method,
    version: Version,
    is_kept_alive: bool,
}

/// Serves one connection, of which some was `seen` already, to its end, or to the end of the request under way once the worker
/// drains. Each request is `answered` on its own, whose panics are this future's, too.
pub(in crate::proxy) fn serve<F, B>(
    worker: Rc<Worker>,
    client: Rc<Client>,
    stream: Stream,
    seen: BytesMut,
    answered: impl Fn(Rc<Worker>, Asker, RequestHead, ClientBody) -> F,
) -> impl Future<Output = ()>
where
    F: Future<Output = Answer<B>>,
    B: Unread + From<Bytes> + Unpin,
{
    // Here, because the future keeps room for all that it is given.
    let wire = Wire::begun(stream, seen, Rc::clone(worker.buffers()));
    let inbound = Rc::new(RefCell::new(Inbound::new(wire)));
    let place = worker.deadlines().begin();
    let server = Server { worker, client, inbound, place, served: Cell::new(0) };
    async move {
        loop {
            let Some(next) = server.next().await else { return };
            // Boxed, so that a connection that waits for its next request does not hold the room for it.
            let answering = boxed(|| async {
                let verdict = match next {
                    Ok(request) => server.answer(request, &answered).await,
                    Err(NoRequest::Refused(error)) => server.refuse::<B>(&error).await,
                    Err(NoRequest::OtherProtocol) => server.turn_away().await,
                };
                if matches!(verdict, Verdict::Linger) {
                    server.linger().await;
                }
                verdict
            });
            match answering.await {
                Verdict::KeepAlive => {}
                Verdict::Linger | Verdict::Close => return,
                // Boxed for the same reason, and by now without the room that the pipeline took.
                Verdict::Tunnel(tunnel) => return Box::pin(server.tunnel(*tunnel)).await,
            }
        }
    }
}

impl Server {
    /// The next request, or why it is none. `None` when nothing comes.
    async fn next(&self) -> Option<Result<Request, NoRequest>> {
        let limits = self.worker.limits();
        let mut due: Option<(Tick, bool)> = None;
        poll_fn(|cx| {
            let mut inbound = self.inbound.borrow_mut();
            let polled = inbound.poll_next(cx, &limits.head);
            if let Poll::Ready(next) = polled {
                return Poll::Ready(match next {
                    Ok(Next::Request(request)) => Some(Ok(request)),
                    Ok(Next::Refused(Refusal::OtherProtocol)) if self.is_undecided() => {
                        Some(Err(NoRequest::OtherProtocol))
                    }
                    Ok(Next::Refused(refusal)) => {
                        Some(Err(NoRequest::Refused(GatewayError::refused(refusal, &limits.head))))
                    }
                    Ok(Next::End) | Err(_) => None,
                });
            }
            let has_begun = inbound.has_begun();
            let now = self.worker.now();
            let limit = if has_begun { limits.head_timeout } else { limits.idle_timeout };
            let (due, _) = *match &mut due {
                Some(due) if due.1 == has_begun => due,
                due => due.insert((now.plus(limit), has_begun)),
            };
            // An end that comes first is nearer.
            let due = self.worker.last_call(has_begun).map_or(due, |last| due.min(last));
            if now >= due {
                return Poll::Ready(
                    has_begun.then_some(Err(NoRequest::Refused(GatewayError::RequestTimeout))),
                );
            }
            self.worker.deadlines().set(self.place, due, cx.waker());
            Poll::Pending
        })
        .await
    }

    /// Has a request answered, and passes the answer on.
    async fn answer<F, B>(
        &self,
        request: Request,
        answered: impl Fn(Rc<Worker>, Asker, RequestHead, ClientBody) -> F,
    ) -> Verdict
    where
        F: Future<Output = Answer<B>>,
        B: Unread + Unpin,
    {
        let Request { head, length, is_kept_alive, .. } = request;
        let exchange = Exchange { method: head.method.clone(), version: head.version, is_kept_alive };
        let _active = self.worker.request_begins();
        let body = match length {
            Length::Empty | Length::Exact(0) => ClientBody::None,
            _ => ClientBody::Http1(RequestReader::new(&self.inbound)),
        };
        self.worker.deadlines().clear(self.place);
        self.served.set(self.served.get() + 1);
        let asker = Asker::new(&self.client, self.served.get(), exchange.version);
        // Pinned where it is made: it is large.
        let answer = self.watched(pin!(answered(Rc::clone(&self.worker), asker, head, body))).await;
        self.client.forget_interim(self.served.get());
        // Without an answer the client is gone, and the attempt under way has gone with the pipeline.
        let Some(mut answer) = answer else { return Verdict::Close };
        if answer.resets {
            if let Some(trail) = answer.trail.take() {
                trail.finish(End::Reset, 0);
            }
            self.inbound.borrow().wire.reset_on_close();
            return Verdict::Close;
        }
        if let Some(mut tunnel) = answer.tunnel.take() {
            tunnel.tell(answer.trail.take());
            // It goes out with the first bytes of the tunnel, or without any.
            write::response_head(self.inbound.borrow_mut().wire.output(), &answer.head);
            return Verdict::Tunnel(tunnel);
        }
        match self.send(exchange, answer).await {
            Ok(true) => self.pass_over().await,
            Ok(false) if self.may_close_at_once() => Verdict::Close,
            Ok(false) => Verdict::Linger,
            Err(Cut) => Verdict::Close,
        }
    }

    /// What the pipeline answers, or `None` once the client is gone.
    async fn watched<T>(&self, mut pipeline: Pin<&mut impl Future<Output = T>>) -> Option<T> {
        poll_fn(|cx| {
            let polled = pipeline.as_mut().poll(cx);
            self.pass_interim(cx);
            match polled {
                Poll::Ready(answer) => Poll::Ready(Some(answer)),
                Poll::Pending => self.poll_gone(cx).map(|()| None),
            }
        })
        .await
    }

    /// Completes when the client is gone: when it has closed its side, too, as nearly all that do so are.
    fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut inbound = self.inbound.borrow_mut();
        if inbound.poll_gone(cx).is_ready() {
            return Poll::Ready(());
        }
        if inbound.looks_no_further() {
            if inbound.wire.is_closed_by_peer() {
                return Poll::Ready(());
            }
            self.worker.deadlines().set(self.place, self.worker.now().plus(GONE_LOOK), cx.waker());
        }
        Poll::Pending
    }

    /// Whether nothing is lost on the client when the connection ends without further ado. With TLS it has to be told that
    /// this is the end.
    fn may_close_at_once(&self) -> bool {
        let inbound = self.inbound.borrow();
        inbound.is_silent() && !inbound.wire.is_tls() && !self.worker.is_draining()
    }

    /// Passes interim responses on.
    fn pass_interim(&self, cx: &mut Context<'_>) {
        // What a client does not read waits.
        while self.client.has_interim()
            && self.inbound.borrow().wire.has_room()
            && let Some(mut head) = self.client.take_interim(self.served.get())
        {
            let mut inbound = self.inbound.borrow_mut();
            write::frame(&mut head.fields, Length::Empty);
            write::response_head(inbound.wire.output(), &head);
            // An error shows when the client is looked for.
            let _ = inbound.wire.poll_flush(cx);
        }
    }

    /// Tells a client why its request was not even looked at.
    async fn refuse<B: Unread + From<Bytes> + Unpin>(&self, error: &GatewayError) -> Verdict {
        let request_id = RequestId::new(self.worker.random_id());
        let answer: Answer<B> = self.worker.refuse(error, "", 0, &request_id);
        let answer = trail::of_unreadable(answer, &self.worker, &self.client, &request_id);
        let exchange = Exchange { method: Method::GET, version: Version::HTTP_11, is_kept_alive: false };
        if self.send(exchange, answer).await.is_ok() { Verdict::Linger } else { Verdict::Close }
    }

    /// Whether nothing has shown yet which version of HTTP the client speaks: with TLS the handshake has.
    fn is_undecided(&self) -> bool {
        self.served.get() == 0 && self.client.tls().is_none()
    }

    /// Ends a connection as HTTP/2 has one end that does not begin with its preface.
    async fn turn_away(&self) -> Verdict {
        self.worker.refused(Reason::Http2Violation);
        self.inbound.borrow_mut().wire.output().extend_from_slice(&no_preface());
        let told = self.within(self.linger_timeout(), |inbound, cx| inbound.wire.poll_flush(cx)).await;
        if matches!(told, Some(Ok(()))) { Verdict::Linger } else { Verdict::Close }
    }

    /// Sends an answer, all of it. `true` if the client was told that there may be another one.
    async fn send<B: Unread + Unpin>(&self, exchange: Exchange, answer: Answer<B>) -> Result<bool, Cut> {
        let Answer { mut head, mut body, trail, .. } = answer;
        let length =
            write::length_for(exchange.version, &exchange.method, head.status, body.size_hint().exact());
        // Who stopped in the middle of a request is not waited for again.
        let is_given_up = head.status == StatusCode::REQUEST_TIMEOUT;
        // A client that was not told to go on may send its body or not: what comes next is anybody's guess.
        let is_held_back = self.inbound.borrow_mut().answer();
        let is_kept_alive =
            exchange.is_kept_alive && !is_given_up && !is_held_back && self.may_keep_alive(length);
        self.finish_head(&mut head, length, &exchange, is_kept_alive);
        write::response_head(self.inbound.borrow_mut().wire.output(), &head);
        let mut outgoing = OutgoingBody {
            length,
            has_ended: length == Length::Empty,
            takes_pipes: self.inbound.borrow().wire.takes_pipes(length),
            has_broken_off: false,
            is_last: !is_kept_alive,
            sent: 0,
            pace: Pace::new(self.worker.limits().min_response_rate),
            sent_before: self.inbound.borrow().wire.sent(),
        };
        let sent = poll_fn(|cx| self.poll_send(cx, &mut outgoing, Pin::new(&mut body))).await;
        if let Some(trail) = trail {
            trail.finish(outgoing.end_of(&sent), outgoing.sent);
        }
        if sent.is_err() && length == Length::UntilClose {
            // Its end would look like the body's.
            self.inbound.borrow().wire.reset_on_close();
        }
        sent.map(|()| is_kept_alive)
    }

    /// Whether there may be another request behind an answer of which the end is told so.
    fn may_keep_alive(&self, length: Length) -> bool {
        self.inbound.borrow().may_end_within(MAX_PASSED_OVER)
            && length != Length::UntilClose
            && !self.worker.is_draining()
            && self.worker.limits().requests_per_connection.is_none_or(|most| self.served.get() < most)
    }

    /// Adds what concerns this connection.
    fn finish_head(&self, head: &mut ResponseHead, length: Length, exchange: &Exchange, is_kept_alive: bool) {
        let fields = &mut head.fields;
        if head.status == StatusCode::NO_CONTENT {
            fields.remove(Names::of(&[Name::ContentLength]));
        }
        write::frame(fields, length);
        self.worker.settle_date(fields);
        match (is_kept_alive, exchange.version >= Version::HTTP_11) {
            (false, _) => fields.append(Name::Connection, b"close"),
            (true, false) => fields.append(Name::Connection, b"keep-alive"),
            (true, true) => {}
        }
    }

    /// Sends as much as the client takes and there is to send.
    fn poll_send<B: Unread>(
        &self,
        cx: &mut Context<'_>,
        outgoing: &mut OutgoingBody,
        mut body: Pin<&mut B>,
    ) -> Poll<Result<(), Cut>> {
        let began_at = self.inbound.borrow().wire.sent();
        loop {
            let mut is_waiting = false;
            while !outgoing.has_ended && self.inbound.borrow().wire.has_room() {
                // The request's own body may be read in there, so nothing of the connection is borrowed here.
                match outgoing.poll_part(cx, body.as_mut()) {
                    Poll::Ready(Some(Ok(part))) => outgoing.queue(&mut self.inbound.borrow_mut().wire, part),
                    Poll::Ready(None) if outgoing.is_whole() => {
                        outgoing.end(&mut self.inbound.borrow_mut().wire);
                    }
                    Poll::Ready(None | Some(Err(_))) => {
                        outgoing.has_broken_off = true;
                        let _ = self.inbound.borrow_mut().wire.poll_flush(cx);
                        return Poll::Ready(Err(Cut));
                    }
                    Poll::Pending => {
                        is_waiting = true;
                        break;
                    }
                }
            }
            let mut inbound = self.inbound.borrow_mut();
            if outgoing.has_ended && outgoing.is_last {
                inbound.wire.ends_behind();
            }
            match inbound.wire.poll_flush(cx) {
                Poll::Ready(Ok(())) if outgoing.has_ended => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(())) if !is_waiting && inbound.wire.sent() - began_at < TURN => continue,
                Poll::Ready(Ok(())) if !is_waiting => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Poll::Ready(Ok(())) => outgoing.pace.goes_on(|| self.worker.now()),
                Poll::Pending => {
                    let sent = inbound.wire.sent() - outgoing.sent_before;
                    let due = outgoing.pace.waits(sent, || self.worker.now());
                    if due < Tick::NEVER && due <= self.worker.now() {
                        self.worker.refused(Reason::SlowReader);
                        inbound.wire.reset_on_close();
                        return Poll::Ready(Err(Cut));
                    }
                    self.worker.deadlines().set(self.place, due, cx.waker());
                }
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Cut)),
            }
            drop(inbound);
            return self.poll_gone(cx).map(|()| Err(Cut));
        }
    }

    /// Passes on whatever comes, once the protocol is another one.
    #[expect(clippy::await_holding_refcell_ref, reason = "from now on nobody else looks at what comes")]
    async fn tunnel(&self, tunnel: Tunnel) {
        tunnel.run(&mut self.inbound.borrow_mut().wire).await;
    }

    /// Finds the end of a request that was answered before all of it was read.
    async fn pass_over(&self) -> Verdict {
        {
            let mut inbound = self.inbound.borrow_mut();
            inbound.abandon();
            if inbound.is_read() {
                return Verdict::KeepAlive;
            }
        }
        let mut budget = MAX_PASSED_OVER;
        let found =
            self.within(self.linger_timeout(), |inbound, cx| inbound.poll_pass_over(cx, &mut budget)).await;
        if found == Some(true) { Verdict::KeepAlive } else { Verdict::Linger }
    }

    /// Ends the connection so that the client can read what it was told.
    async fn linger(&self) {
        let shut = self.within(self.linger_timeout(), |inbound, cx| inbound.wire.poll_shutdown(cx)).await;
        if let Some(Ok(())) = shut {
            self.within(self.linger_timeout(), Inbound::poll_drained).await;
        }
    }

    /// Time for the client to send what nobody reads, or to close its side once it has been told that the connection ends:
    /// closing under what it still sends would have it lose the answer.
    fn linger_timeout(&self) -> Duration {
        self.worker.limits().linger_timeout
    }

    /// What `poll` comes to within this time.
    async fn within<T>(
        &self,
        limit: Duration,
        mut poll: impl FnMut(&mut Inbound, &mut Context<'_>) -> Poll<T>,
    ) -> Option<T> {
        let due = self.worker.now().plus(limit);
        poll_fn(|cx| {
            if let Poll::Ready(done) = poll(&mut self.inbound.borrow_mut(), cx) {
                return Poll::Ready(Some(done));
            }
            if self.worker.now() >= due {
                return Poll::Ready(None);
            }
            self.worker.deadlines().set(self.place, due, cx.waker());
            Poll::Pending
        })
        .await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.worker.deadlines().end(self.place);
    }
}

/// The client does not get all of an answer: it is gone, or there is no more of it.
struct Cut;

/// An answer's body on its way out.
struct OutgoingBody {
    length: Length,
    has_ended: bool,
    /// Whether the client can be sent what nobody has read.
    takes_pipes: bool,
    /// Whether there is no more of it, though there should be.
    has_broken_off: bool,
    /// Whether the connection ends behind it.
    is_last: bool,
    /// Bytes of it that are on their way.
    sent: u64,
    /// How fast the client takes it.
    pace: Pace,
    /// What the wire had sent before.
    sent_before: u64,
}

/// Some of a body.
enum Part {
    Frame(Frame<Bytes>),
    Pipe(Pipe),
}

impl OutgoingBody {
    /// What comes next.
    fn poll_part<B: Unread>(
        &self,
        cx: &mut Context<'_>,
        mut body: Pin<&mut B>,
    ) -> Poll<Option<Result<Part, B::Error>>> {
        if self.takes_pipes
            && let Some(piped) = ready!(body.as_mut().poll_pipe(cx))
        {
            return Poll::Ready(Some(piped.map(Part::Pipe)));
        }
        body.poll_frame(cx).map(|frame| frame.map(|frame| frame.map(Part::Frame)))
    }

    /// How it ended, as far as the client is concerned.
    fn end_of(&self, sent: &Result<(), Cut>) -> End {
        match sent {
            Ok(()) => End::Complete,
            Err(Cut) if self.has_broken_off => End::UpstreamBrokeOff,
            Err(Cut) => End::ClientGone,
        }
    }

    fn queue(&mut self, wire: &mut Wire, part: Part) {
        let frame = match part {
            Part::Frame(frame) => frame,
            Part::Pipe(pipe) => {
                self.sent += pipe.held() as u64;
                return wire.queue_pipe(pipe);
            }
        };
        self.sent += frame.data_ref().map_or(0, Bytes::len) as u64;
        match frame.into_data() {
            Ok(data) if data.is_empty() => {}
            Ok(data) if self.length == Length::Chunked => {
                write::chunk_size(wire.output(), data.len());
                wire.queue(data, write::CHUNK_END);
            }
            Ok(data) => wire.queue(data, &[]),
            Err(frame) => {
                if let (Length::Chunked, Ok(trailers)) = (self.length, frame.into_trailers()) {
                    write::last_chunk(wire.output(), Some(&crate::proxy::h2::fields(&trailers)));
                    self.has_ended = true;
                }
            }
        }
    }

    /// Whether as much has come as was announced: the next answer would be taken for what is missing.
    fn is_whole(&self) -> bool {
        !matches!(self.length, Length::Exact(length) if self.sent < length)
    }

    fn end(&mut self, wire: &mut Wire) {
        if self.length == Length::Chunked {
            write::last_chunk(wire.output(), None);
        }
        self.has_ended = true;
    }
}
