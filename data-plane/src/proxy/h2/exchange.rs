//! One request of a connection in HTTP/2, in a task of its own: the pipeline answers it, and the answer goes out as its
//! client's windows let it.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use gateway_runtime::panics::caught;
use h2::{RecvStream, SendStream, server::SendResponse};
use http::{Method, Request, StatusCode, header};
use http_body::Body;

use super::{
    CONNECTION_SPECIFIC, Followed, inbound::RequestStream, request_head, response, server::Connection,
};
use crate::{
    proxy::{
        body::{pace::Pace, request_body::ClientBody, response_body::Answer},
        downstream::Asker,
        errors::refusals::Reason,
        h1::decimal,
        head::{
            RequestHead,
            field_name::{Name, Names},
            headers::expects_continue,
            request_id::RequestId,
        },
        trail::{self, End},
        tunnel::{StreamSide, Tunnel},
        worker::Worker,
    },
    routing::Tick,
};

/// A request under way.
struct Exchange {
    connection: Rc<Connection>,
    /// Which of the connection's requests it is.
    number: u64,
    /// Its place among the worker's deadlines, once it needs one.
    place: Cell<Option<usize>>,
}

/// A stream that is a tunnel from now on.
struct Switched {
    tunnel: Box<Tunnel>,
    side: StreamSide,
}

impl Connection {
    /// Has a request `answered` that has come.
    pub(super) fn begin<F, B>(
        self: &Rc<Self>,
        request: Request<RecvStream>,
        respond: SendResponse<Bytes>,
        answered: impl Fn(Rc<Worker>, Asker, RequestHead, ClientBody) -> F + 'static,
    ) where
        F: Future<Output = Answer<B>> + 'static,
        B: Body<Data = Bytes> + From<Bytes> + Unpin + 'static,
    {
        self.open.set(self.open.get() + 1);
        self.served.set(self.served.get() + 1);
        let (number, place) = (self.served.get(), Cell::new(None));
        let exchange = Exchange { connection: Rc::clone(self), number, place };
        let active = self.worker.request_begins();
        tokio::task::spawn_local(self.worker.timed(async move {
            let worker = &exchange.connection.worker;
            // In a box of its own: it is ten kilobytes, which the runtime would move several times, and a tunnel need not keep.
            let ended = Box::pin(caught(exchange.run(request, respond, answered))).await;
            drop(active);
            match ended {
                Ok(None) => {}
                Ok(Some(Switched { tunnel, mut side })) => {
                    if Box::pin(caught(tunnel.run(&mut side))).await.is_err() {
                        worker.panicked("connection");
                    }
                }
                // What it held of the stream is gone with it, which resets it.
                Err(_) => worker.panicked("request"),
            }
        }));
    }
}

impl Exchange {
    /// Has a request answered, and sends the answer, unless that makes a tunnel of the stream.
    async fn run<F, B>(
        &self,
        request: Request<RecvStream>,
        mut respond: SendResponse<Bytes>,
        answered: impl Fn(Rc<Worker>, Asker, RequestHead, ClientBody) -> F,
    ) -> Option<Switched>
    where
        F: Future<Output = Answer<B>>,
        B: Body<Data = Bytes> + From<Bytes> + Unpin,
    {
        let Connection { worker, client, .. } = &*self.connection;
        let (parts, incoming) = request.into_parts();
        let head = request_head(&parts, &worker.limits().head);
        let is_head = parts.method == Method::HEAD;
        let asker = || Asker::new(client, self.number, parts.version);
        // What follows a CONNECT is no body.
        let (body, tunnelled) = match parts.method == Method::CONNECT {
            true => (ClientBody::None, Some(incoming)),
            false => {
                let declared = parts.headers.get(header::CONTENT_LENGTH);
                let declared = declared.and_then(|length| length.to_str().ok()?.parse().ok());
                let holds_back = matches!(&head, Ok(head) if expects_continue(&head.fields));
                let held_back = holds_back.then(|| Box::new(asker()));
                (ClientBody::Http2(RequestStream::new(incoming, declared, held_back)), None)
            }
        };
        let asker = asker();
        drop(parts);
        let answer = {
            let mut answering = pin!(async {
                match head {
                    Ok(head) => answered(Rc::clone(worker), asker, head, body).await,
                    Err(error) => {
                        let request_id = RequestId::new(worker.random_id());
                        let answer = worker.refuse(&error, "", 0, &request_id);
                        trail::of_unreadable(answer, worker, client, &request_id)
                    }
                }
            });
            poll_fn(|cx| {
                let polled = answering.as_mut().poll(cx);
                self.pass_interim(cx, &mut respond);
                match polled {
                    Poll::Ready(answer) => Poll::Ready(Some(answer)),
                    // Without an answer the client is gone, and the attempt under way goes with the pipeline.
                    Poll::Pending => respond.poll_reset(cx).map(|_| None),
                }
            })
            .await?
        };
        let Answer { mut head, body, mut trail, resets, tunnel, .. } = answer;
        if resets {
            if let Some(trail) = trail {
                trail.finish(End::Reset, 0);
            }
            respond.send_reset(h2::Reason::INTERNAL_ERROR);
            return None;
        }
        head.fields.remove(CONNECTION_SPECIFIC);
        if head.status == StatusCode::NO_CONTENT {
            head.fields.remove(Names::of(&[Name::ContentLength]));
        }
        worker.settle_date(&mut head.fields);
        if let (Some(mut tunnel), Some(incoming)) = (tunnel, tunnelled) {
            head.fields.remove(Names::of(&[Name::ContentLength]));
            tunnel.tell(trail.take());
            let outgoing = respond.send_response(response(&head), false).ok()?;
            return Some(Switched { tunnel, side: StreamSide::new(outgoing, incoming) });
        }
        let has_no_body = is_head || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let mut body = Followed::new(body, trail);
        let is_last = has_no_body || body.is_end_stream();
        if !is_last
            && !head.fields.contains(Name::ContentLength)
            && let Some(length) = body.size_hint().exact()
        {
            head.fields.append(Name::ContentLength, decimal(length, &mut [0; 20]));
        }
        match respond.send_response(response(&head), is_last) {
            Ok(_) if is_last => body.finish(End::Complete),
            Ok(stream) => self.send(Outgoing { stream, body, held: None, is_last: false, taken: 0 }).await,
            Err(error) => {
                tracing::debug!(%error, "an answer cannot be sent");
                respond.send_reset(h2::Reason::INTERNAL_ERROR);
            }
        }
        None
    }

    /// Passes interim responses on.
    fn pass_interim(&self, cx: &mut Context<'_>, respond: &mut SendResponse<Bytes>) {
        while let Some(mut head) = self.connection.client.take_interim(self.number) {
            head.fields.remove(CONNECTION_SPECIFIC);
            // The engine would send it on a stream that is closed, too.
            if respond.poll_reset(cx).is_ready() || respond.send_informational(response(&head)).is_err() {
                return;
            }
        }
    }

    /// Sends an answer's body, unless its client takes nothing of it for too long, or all of it too slowly.
    async fn send<B: Body<Data = Bytes> + Unpin>(&self, mut outgoing: Outgoing<B>) {
        let worker = &self.connection.worker;
        let mut pace = Pace::new(worker.limits().min_response_rate);
        // Since when the client is waited for, and how much it had taken by then.
        let mut waits: Option<(Tick, u64)> = None;
        let sent = poll_fn(|cx| {
            if outgoing.poll(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            if outgoing.held.is_none() {
                waits = None;
                pace.goes_on(|| worker.now());
                return Poll::Pending;
            }
            let (since, _) = *match &mut waits {
                Some(waits) if waits.1 == outgoing.taken => waits,
                waits => waits.insert((worker.now(), outgoing.taken)),
            };
            let unread_at = since.plus(worker.limits().unread_timeout);
            let too_slow_at = pace.waits(outgoing.taken, || worker.now());
            let due = unread_at.min(too_slow_at);
            if worker.now() >= due {
                let is_unread = unread_at <= too_slow_at;
                return Poll::Ready(Err(if is_unread { Reason::Unread } else { Reason::SlowReader }));
            }
            let place = self.place.get().unwrap_or_else(|| worker.deadlines().begin());
            self.place.set(Some(place));
            worker.deadlines().set(place, due, cx.waker());
            Poll::Pending
        })
        .await;
        if let Err(reason) = sent {
            outgoing.stream.send_reset(h2::Reason::CANCEL);
            worker.refused(reason);
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(place) = self.place.get() {
            self.connection.worker.deadlines().end(place);
        }
        self.connection.client.forget_interim(self.number);
        self.connection.open.set(self.connection.open.get() - 1);
    }
}

/// An answer's body on its way out.
struct Outgoing<B: Body> {
    stream: SendStream<Bytes>,
    body: Followed<B>,
    /// What has come of it and waits for the client's windows, and whether it is the last of it.
    held: Option<Bytes>,
    is_last: bool,
    /// Bytes that the client's windows have taken.
    taken: u64,
}

impl<B: Body<Data = Bytes> + Unpin> Outgoing<B> {
    /// Completes when all of it is on its way, or nobody takes it.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.poll_send(cx) {
            Poll::Ready(()) => Poll::Ready(()),
            Poll::Pending => self.stream.poll_reset(cx).map(drop),
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Some(data) = &mut self.held {
                // No more than the windows take: the engine would hold the rest, for as long as the client likes.
                self.stream.reserve_capacity(data.len());
                let room = match self.stream.capacity() {
                    0 => match ready!(self.stream.poll_capacity(cx)) {
                        Some(Ok(0)) => continue,
                        Some(Ok(room)) => room,
                        Some(Err(_)) | None => return Poll::Ready(()),
                    },
                    room => room,
                };
                let piece = data.split_to(room.min(data.len()));
                let is_all = data.is_empty();
                if is_all {
                    self.held = None;
                }
                self.taken += piece.len() as u64;
                let is_end = is_all && self.is_last;
                if self.stream.send_data(piece, is_end).is_err() || is_end {
                    return Poll::Ready(());
                }
                continue;
            }
            let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(cx)) else {
                // Who takes no more need not be told that there is no more.
                let _ = self.stream.send_data(Bytes::new(), true);
                return Poll::Ready(());
            };
            match frame.map(http_body::Frame::into_data) {
                Ok(Ok(data)) => {
                    self.is_last = self.body.is_end_stream();
                    if !data.is_empty() {
                        self.held = Some(data);
                    } else if self.is_last {
                        let _ = self.stream.send_data(data, true);
                        return Poll::Ready(());
                    }
                }
                Ok(Err(frame)) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        self.stream.reserve_capacity(0);
                        let _ = self.stream.send_trailers(trailers);
                        return Poll::Ready(());
                    }
                }
                Err(_) => {
                    self.stream.send_reset(h2::Reason::INTERNAL_ERROR);
                    return Poll::Ready(());
                }
            }
        }
    }
}
