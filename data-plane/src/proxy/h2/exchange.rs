//! One request of a connection in HTTP/2, in a task of its own: the pipeline answers it, and the answer goes out as its
//! client's windows let it.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    task::Poll,
};

use bytes::Bytes;
use gateway_http2::{Request, Sender, frame::ErrorCode};
use gateway_runtime::panics::caught;
use http::{Method, StatusCode, Version};
use http_body::Body;

use super::{
    CONNECTION_SPECIFIC, OutgoingBody, Sent,
    heads::{Head, ProxyHeads},
    inbound::RequestStream,
    reading::Reading,
    request_head,
    server::Connection,
};
use crate::proxy::{
    body::{request_body::ClientBody, response_body::Answer},
    boxed::boxed,
    downstream::Asker,
    h1::decimal,
    head::{
        RequestHead,
        field_name::{Name, Names},
        headers::expects_continue,
        request_id::RequestId,
    },
    trail::{self, End, Trail},
    tunnel::{StreamSide, Tunnel},
    worker::Worker,
};

/// A request under way.
struct Exchange {
    connection: Rc<Connection>,
    /// Which of the connection's requests it is.
    number: u64,
    /// Its place among the worker's deadlines, once it needs one.
    place: Cell<Option<usize>>,
}

/// A stream that is a tunnel from now on. Boxed, so that no request has the room for it that does not need it.
struct Switched {
    tunnel: Box<Tunnel>,
    side: StreamSide,
}

impl Switched {
    async fn run(mut self: Box<Self>) {
        self.tunnel.run(&mut self.side).await;
    }
}

impl Connection {
    /// Has a request `answered` that has come.
    pub(super) fn begin<F, B>(
        self: &Rc<Self>,
        request: Request<ProxyHeads>,
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
        let worker = Rc::clone(&self.worker);
        // In a box of its own from the beginning: it is ten kilobytes, and what it is given half a kilobyte, which the runtime would
        // move several times, and a tunnel need not keep.
        let exchanged = boxed(|| {
            caught(async move {
                let switched = pin!(exchange.run(request, answered)).await;
                (exchange, switched)
            })
        });
        tokio::task::spawn_local(self.worker.timed(async move {
            let ended = exchanged.await;
            drop(active);
            match ended {
                Ok((_, None)) => {}
                // The exchange lasts as long as its tunnel.
                Ok((_exchange, Some(switched))) => {
                    if Box::pin(caught(switched.run())).await.is_err() {
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
        request: Request<ProxyHeads>,
        answered: impl Fn(Rc<Worker>, Asker, RequestHead, ClientBody) -> F,
    ) -> Option<Box<Switched>>
    where
        F: Future<Output = Answer<B>>,
        B: Body<Data = Bytes> + From<Bytes> + Unpin,
    {
        let Connection { worker, client, .. } = &*self.connection;
        let Request { head, is_cut, receiver: incoming, sender: mut respond } = request;
        let method = head.method();
        let head = request_head(head, &method, is_cut, &worker.limits().head);
        let asker = || Asker::new(client, self.number, Version::HTTP_2);
        // What follows a CONNECT is no body.
        let (body, tunnelled) = match &head {
            _ if method == Method::CONNECT => (ClientBody::None, Some(incoming)),
            Ok(head) => {
                let holds_back = expects_continue(&head.fields).then(|| Box::new(asker()));
                (ClientBody::Http2(RequestStream::new(incoming, declared_length(head), holds_back)), None)
            }
            Err(_) => (ClientBody::Http2(RequestStream::new(incoming, None, None)), None),
        };
        let is_head = method == Method::HEAD;
        let asker = asker();
        let answer = {
            let mut answering = pin!(async {
                match head {
                    // Pinned where it is made: it is large.
                    Ok(head) => pin!(answered(Rc::clone(worker), asker, head, body)).await,
                    Err(error) => {
                        let request_id = RequestId::new(worker.random_id());
                        let answer = worker.refuse(&error, "", 0, &request_id);
                        trail::of_unreadable(answer, worker, client, &request_id)
                    }
                }
            });
            poll_fn(|cx| {
                let polled = answering.as_mut().poll(cx);
                self.pass_interim(&mut respond);
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
            respond.reset(ErrorCode::INTERNAL_ERROR);
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
            respond.send_head(Head::Answer(head), false).ok()?;
            return Some(Box::new(Switched { tunnel, side: StreamSide::new(respond, incoming) }));
        }
        let has_no_body = is_head || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let is_last = has_no_body || body.is_end_stream();
        if !is_last
            && !head.fields.contains(Name::ContentLength)
            && let Some(length) = body.size_hint().exact()
        {
            head.fields.append(Name::ContentLength, decimal(length, &mut [0; 20]));
        }
        match respond.send_head(Head::Answer(head), is_last) {
            Ok(()) => self.send(OutgoingBody::new(respond, body), is_last, trail).await,
            Err(failure) => tracing::debug!(?failure, "an answer cannot be sent"),
        }
        None
    }

    /// Passes interim responses on.
    fn pass_interim(&self, respond: &mut Sender<ProxyHeads>) {
        while let Some(mut head) = self.connection.client.take_interim(self.number) {
            head.fields.remove(CONNECTION_SPECIFIC);
            if respond.send_interim(Head::Answer(head)).is_err() {
                return;
            }
        }
    }

    /// Sends an answer's body, unless all of it `is_given`, and sees to it until it is on its way; unless its client takes nothing of it
    /// for too long, or all of it too slowly.
    async fn send<B: Body<Data = Bytes> + Unpin>(
        &self,
        mut outgoing: OutgoingBody<B>,
        mut is_given: bool,
        trail: Option<Box<Trail>>,
    ) {
        let worker = &self.connection.worker;
        let mut reading = Reading::new(worker.limits().min_response_rate, worker.limits().unread_timeout);
        let told = trail.as_deref();
        let end = poll_fn(|cx| {
            if !is_given {
                let polled = outgoing.poll(cx, true, |trailers| {
                    if let Some(trail) = told {
                        trail.behind(trailers);
                    }
                });
                match polled {
                    Poll::Ready(Ok(Sent::All)) => is_given = true,
                    Poll::Ready(Ok(Sent::Enough)) => return Poll::Ready(End::ClientGone),
                    Poll::Ready(Err(_)) => {
                        outgoing.reset(ErrorCode::INTERNAL_ERROR);
                        return Poll::Ready(End::UpstreamBrokeOff);
                    }
                    Poll::Pending if outgoing.waits_for_window() => {}
                    Poll::Pending => {
                        reading.goes_on(|| worker.now());
                        return Poll::Pending;
                    }
                }
            }
            // The engine would keep it for as long as the client likes, who can take back what its windows had room for.
            if is_given && let Poll::Ready(passed) = outgoing.poll_passed(cx) {
                return Poll::Ready(passed.map_or(End::ClientGone, |()| End::Complete));
            }
            let (queued, now) = (outgoing.queued(), worker.now());
            let passed = outgoing.taken() - queued.unsent as u64;
            let (due, reason) = reading.waits(passed, &queued, || now);
            if now >= due {
                let client = self.connection.client.ip();
                tracing::debug!(reason = reason.as_str(), client, passed, "an answer is not taken");
                outgoing.reset(ErrorCode::CANCEL);
                worker.refused(reason);
                return Poll::Ready(End::ClientGone);
            }
            let place = self.place.get().unwrap_or_else(|| worker.deadlines().begin());
            self.place.set(Some(place));
            worker.deadlines().set(place, due, cx.waker());
            Poll::Pending
        })
        .await;
        if let Some(trail) = trail {
            trail.finish(end, outgoing.taken());
        }
    }
}

/// How long a request's body is, where its head tells.
fn declared_length(head: &RequestHead) -> Option<u64> {
    str::from_utf8(head.fields.get(Name::ContentLength)?).ok()?.parse().ok()
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
