//! Replicas that speak HTTP/2.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test that called it")]

use std::{
    future::{Future, poll_fn},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use data_plane::proxy::{Networks, ProxyConfig};
use gateway_proto::{Address, Endpoint, Policy, Protocol};
use h2::{
    Reason, RecvStream,
    server::{self, SendResponse},
};
use http::{HeaderMap, Request, Response};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
};

use crate::harness::{
    Gateway, Replica, body, comes_to_rest, eventually, field, ok, raw_replica, reason, status,
};

type Answering = SendResponse<Bytes>;

/// A replica that answers each request, on whichever connection it comes, as it is told.
pub(crate) struct H2Replica {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    seen: Arc<Mutex<Vec<http::request::Parts>>>,
    task: tokio::task::JoinHandle<()>,
}

impl H2Replica {
    pub(crate) async fn start<F: Future<Output = ()> + Send + 'static>(
        builder: server::Builder,
        act: impl Fn(usize, RecvStream, Answering) -> F + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (connections, seen) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
        let (accepted, requests, act) = (Arc::clone(&connections), Arc::clone(&seen), Arc::new(act));
        let task = tokio::spawn(async move {
            let mut conversations = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                accepted.fetch_add(1, Relaxed);
                let (builder, requests, act) = (builder.clone(), Arc::clone(&requests), Arc::clone(&act));
                conversations.spawn(async move {
                    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else { return };
                    while let Some(Ok((request, answering))) = connection.accept().await {
                        let (parts, body) = Request::into_parts(request);
                        let number = {
                            let mut requests = requests.lock().unwrap();
                            requests.push(parts);
                            requests.len() - 1
                        };
                        tokio::spawn(act(number, body, answering));
                    }
                });
            }
        });
        Self { address, connections, seen, task }
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        h2c(self.address)
    }

    /// The heads of the requests that it was sent.
    pub(crate) fn seen(&self) -> Vec<http::request::Parts> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Relaxed)
    }
}

impl Drop for H2Replica {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) fn h2c(address: SocketAddr) -> Endpoint {
    Endpoint { address: Address::parse(&address.to_string()).unwrap(), protocol: Protocol::h2c() }
}

async fn gateway(replicas: &[&H2Replica]) -> Gateway {
    let endpoints = replicas.iter().map(|replica| replica.endpoint()).collect();
    Gateway::start_to(endpoints, Arc::default(), Policy::default())
}

/// All of a message's body, and what stands behind it.
pub(crate) async fn read(mut body: RecvStream) -> (Vec<u8>, Option<HeaderMap>) {
    let mut bytes = Vec::new();
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
        bytes.extend_from_slice(&data);
    }
    (bytes, body.trailers().await.unwrap_or_default())
}

pub(crate) async fn answer(mut answering: Answering, text: &str) {
    let mut sending = answering.send_response(Response::new(()), false).unwrap();
    let _ = sending.send_data(Bytes::copy_from_slice(text.as_bytes()), true);
}

pub(crate) fn builder() -> server::Builder {
    server::Builder::new()
}

#[tokio::test]
async fn many_requests_share_one_connection() {
    let replica = H2Replica::start(builder(), |number, body, answering| async move {
        read(body).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        answer(answering, &format!("answer {number}")).await;
    })
    .await;
    let gateway = Arc::new(gateway(&[&replica]).await);
    let asked = (0..50).map(|_| {
        let gateway = Arc::clone(&gateway);
        tokio::spawn(async move { gateway.get("/orders/x").await })
    });
    for asked in asked.collect::<Vec<_>>() {
        let response = asked.await.unwrap();
        assert_eq!(status(&response), 200, "{response}");
        assert!(body(&response).contains("answer "), "{response}");
    }
    assert_eq!((replica.connections(), replica.count()), (1, 50));
}

#[tokio::test]
async fn heads_bodies_and_trailers_pass_between_the_versions() {
    let replica = H2Replica::start(builder(), |_, body, mut answering| async move {
        let (bytes, trailers) = read(body).await;
        let mut sending = answering.send_response(Response::new(()), false).unwrap();
        sending.send_data(bytes.into(), false).unwrap();
        sending.send_trailers(trailers.unwrap()).unwrap();
    })
    .await;
    let gateway = gateway(&[&replica]).await;
    let response = gateway
        .send(
            "POST /orders/a%20b?c HTTP/1.1\r\nhost: shop.example\r\nConnection: x-hop\r\nx-hop: 1\r\nX-Kept: 2\r\n\
             transfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 7\r\n\r\n",
        )
        .await;
    assert_eq!(status(&response), 200);
    assert!(response.ends_with("5\r\nhello\r\n0\r\nx-sum: 7\r\n\r\n"), "{response}");
    let seen = replica.seen.lock().unwrap();
    let sent = &seen[0];
    assert_eq!(sent.uri.to_string(), "http://shop.example/a%20b?c");
    let value = |name| sent.headers.get(name).map(|value| value.to_str().unwrap());
    assert_eq!(
        (value("te"), value("x-kept"), value("x-forwarded-host")),
        (Some("trailers"), Some("2"), Some("shop.example"))
    );
    assert!(["host", "connection", "x-hop", "transfer-encoding"].iter().all(|name| value(name).is_none()));
}

#[tokio::test]
async fn another_connection_is_opened_when_all_streams_are_in_use() {
    let mut builder = builder();
    builder.max_concurrent_streams(2);
    let (open, gate) = tokio::sync::watch::channel(false);
    let replica = H2Replica::start(builder, move |_, _, answering| {
        let mut gate = gate.clone();
        async move {
            let _ = gate.wait_for(|open| *open).await;
            answer(answering, "late").await;
        }
    })
    .await;
    let gateway = Arc::new(gateway(&[&replica]).await);
    // What a connection takes is known once the replica has said so.
    let ask = || {
        let gateway = Arc::clone(&gateway);
        tokio::spawn(async move { gateway.get("/orders/x").await })
    };
    let mut asked = vec![ask()];
    eventually("the first is there", || replica.count() == 1).await;
    asked.extend((1..5).map(|_| ask()));
    eventually("all are there", || replica.count() == 5).await;
    assert_eq!(replica.connections(), 3);
    open.send(true).unwrap();
    for asked in asked {
        assert_eq!(status(&asked.await.unwrap()), 200);
    }
}

#[tokio::test]
async fn what_a_replica_refuses_unseen_is_asked_of_another_and_nobody_has_failed() {
    let refusing = H2Replica::start(builder(), |_, _, mut answering| async move {
        answering.send_reset(Reason::REFUSED_STREAM);
    })
    .await;
    let taking = H2Replica::start(builder(), |_, body, answering| async move {
        let (bytes, _) = read(body).await;
        answer(answering, str::from_utf8(&bytes).unwrap()).await;
    })
    .await;
    let gateway = gateway(&[&refusing, &taking]).await;
    for _ in 0..4 {
        let response = gateway.post("/orders/x", "paid once").await;
        assert_eq!(status(&response), 200, "{response}");
        assert!(body(&response).contains("paid once"), "{response}");
    }
    assert!(refusing.count() > 0);
    assert_eq!(taking.count(), 4);
    assert_eq!(gateway.service().replicas()[0].counters().failures, 0);
}

#[tokio::test]
async fn a_request_that_only_refusing_replicas_were_asked_for_is_worth_another_try() {
    let refusing = H2Replica::start(builder(), |_, _, mut answering| async move {
        answering.send_reset(Reason::REFUSED_STREAM);
    })
    .await;
    let gateway = gateway(&[&refusing]).await;
    let response = gateway.post("/orders/x", "once").await;
    assert_eq!((status(&response), reason(&response).as_str()), (503, "request_declined"));
    assert_eq!(field(&response, "retry-after").as_deref(), Some("1"));
}

#[tokio::test]
async fn a_refusal_is_followed_by_no_more_attempts_than_a_caller_allows_those_beside_others_included() {
    let (open, gate) = tokio::sync::watch::channel(false);
    let mut replicas = Vec::new();
    for _ in 0..3 {
        let gate = gate.clone();
        let refuse = move |_, _, mut answering: Answering| {
            let mut gate = gate.clone();
            async move {
                let _ = gate.wait_for(|open| *open).await;
                answering.send_reset(Reason::REFUSED_STREAM);
            }
        };
        replicas.push(H2Replica::start(builder(), refuse).await);
    }
    let mut policy = Policy::default();
    policy.retry.hedge_delay = Duration::from_millis(30);
    let trusting = |config: &mut ProxyConfig| {
        config.forwarding.trusted = Networks::parse(["127.0.0.0/8"]).unwrap();
    };
    let endpoints = replicas.iter().map(H2Replica::endpoint).collect();
    let gateway = Arc::new(Gateway::start_before(trusting, endpoints, policy));
    let asked = tokio::spawn({
        let gateway = Arc::clone(&gateway);
        async move { gateway.send("GET /orders/ HTTP/1.1\r\nhost: gw\r\nx-gw-retry: 1\r\n\r\n").await }
    });
    let sent = || replicas.iter().map(H2Replica::count).sum::<usize>();
    eventually("two are asked", || sent() == 2).await;
    open.send(true).unwrap();
    let response = asked.await.unwrap();
    assert_eq!((status(&response), reason(&response).as_str()), (503, "request_declined"));
    assert_eq!(sent(), 2);
}

#[tokio::test]
async fn a_stream_that_is_reset_may_have_been_seen() {
    for (code, expected) in
        [(Reason::INTERNAL_ERROR, "connection_terminated"), (Reason::CANCEL, "connection_terminated")]
    {
        let resetting = H2Replica::start(builder(), move |_, _, mut answering| async move {
            answering.send_reset(code);
        })
        .await;
        let gateway = gateway(&[&resetting, &resetting]).await;
        let response = gateway.post("/orders/x", "once").await;
        assert_eq!((status(&response), reason(&response).as_str()), (502, expected));
        assert_eq!(resetting.count(), 1, "a POST is not sent twice");
    }
}

#[tokio::test]
async fn a_goodbye_ends_no_request_and_the_next_one_goes_over_a_new_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&served);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                let mut connection = server::handshake(stream).await.unwrap();
                let (request, answering) = connection.accept().await.unwrap().unwrap();
                connection.graceful_shutdown();
                let work = tokio::spawn(async move {
                    read(request.into_body()).await;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    answer(answering, "done").await;
                });
                while let Some(Ok((_, mut refused))) = connection.accept().await {
                    refused.send_reset(Reason::REFUSED_STREAM);
                }
                work.await.unwrap();
                count.fetch_add(1, Relaxed);
            });
        }
    });
    let gateway = Gateway::start_to(vec![h2c(address)], Arc::default(), Policy::default());
    for _ in 0..5 {
        let response = gateway.post("/orders/x", "paid once").await;
        assert_eq!(status(&response), 200, "{response}");
    }
    eventually("each had its connection", || served.load(Relaxed) == 5).await;
}

#[tokio::test]
async fn a_connection_that_ended_while_it_was_idle_costs_no_request() {
    let replica = H2Replica::start(builder(), |_, body, answering| async move {
        read(body).await;
        answer(answering, "ok").await;
    })
    .await;
    let address = replica.address;
    // In front of it, so that connections can be cut.
    let cut = Arc::new(tokio::sync::Notify::new());
    let closed = Arc::new(AtomicUsize::new(0));
    let (cutting, count) = (Arc::clone(&cut), Arc::clone(&closed));
    let front = raw_replica(move |mut stream| {
        let (cutting, count) = (Arc::clone(&cutting), Arc::clone(&count));
        async move {
            let mut onward = TcpStream::connect(address).await.unwrap();
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut stream, &mut onward) => {}
                () = cutting.notified() => {}
            }
            drop(stream);
            count.fetch_add(1, Relaxed);
        }
    })
    .await;
    let gateway = Gateway::start_to(vec![h2c(front)], Arc::default(), Policy::default());
    for number in 1..=5 {
        let response = gateway.post("/orders/x", "paid once").await;
        assert_eq!(status(&response), 200, "{response}");
        cut.notify_waiters();
        // What is sent to a replica that is about to close may have reached it.
        eventually("it is cut", || closed.load(Relaxed) == number).await;
    }
}

#[tokio::test]
async fn a_client_that_goes_away_has_its_stream_reset_at_once_and_others_go_on() {
    let (told, mut reasons) = tokio::sync::mpsc::unbounded_channel();
    let replica = H2Replica::start(builder(), move |number, _, mut answering| {
        let told = told.clone();
        async move {
            if number == 0 {
                let reason = poll_fn(|cx| answering.poll_reset(cx)).await;
                told.send(reason.unwrap()).unwrap();
            } else {
                answer(answering, "ok").await;
            }
        }
    })
    .await;
    let gateway = gateway(&[&replica]).await;
    let mut stream = gateway.connect().await;
    stream.write_all(b"GET /orders/x HTTP/1.1\r\nhost: gw\r\n\r\n").await.unwrap();
    eventually("it is there", || replica.count() == 1).await;
    drop(stream);
    assert_eq!(reasons.recv().await, Some(Reason::CANCEL));
    assert_eq!(status(&gateway.get("/orders/x").await), 200);
    assert_eq!(replica.connections(), 1);
    eventually("nothing is in flight", || gateway.inflight(0) == 0).await;
}

#[tokio::test]
async fn who_reads_slowly_holds_up_its_replica_and_nobody_else() {
    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    let replica = H2Replica::start(builder(), move |number, _, mut answering| {
        let count = Arc::clone(&count);
        async move {
            if number > 0 {
                return answer(answering, "quick").await;
            }
            let mut sending = answering.send_response(Response::new(()), false).unwrap();
            loop {
                sending.reserve_capacity(16 * 1024);
                let Some(Ok(room)) = poll_fn(|cx| sending.poll_capacity(cx)).await else { return };
                if sending.send_data(vec![b'x'; room].into(), false).is_err() {
                    return;
                }
                count.fetch_add(room, Relaxed);
            }
        }
    })
    .await;
    let gateway = gateway(&[&replica]).await;
    let mut slow = gateway.connect().await;
    slow.write_all(b"GET /orders/endless HTTP/1.1\r\nhost: gw\r\n\r\n").await.unwrap();
    let stood = comes_to_rest(|| sent.load(Relaxed)).await;
    assert!(stood < 32 << 20, "{stood} bytes were taken for a client that reads nothing");
    for _ in 0..3 {
        assert!(body(&gateway.get("/orders/x").await).contains("quick"));
    }
    assert_eq!((replica.connections(), sent.load(Relaxed)), (1, stood));
    // It goes on as soon as the client does.
    let mut buffer = vec![0; 1 << 20];
    while sent.load(Relaxed) == stood {
        assert!(slow.read(&mut buffer).await.unwrap() > 0);
    }
}

#[tokio::test]
async fn a_large_upload_is_held_up_by_a_replica_that_does_not_read_and_arrives_whole() {
    let (open, gate) = tokio::sync::watch::channel(false);
    let replica = H2Replica::start(builder(), move |_, body, answering| {
        let mut gate = gate.clone();
        async move {
            let _ = gate.wait_for(|open| *open).await;
            let (bytes, _) = read(body).await;
            let sum: u64 = bytes.iter().map(|byte| u64::from(*byte)).sum();
            answer(answering, &format!("{} bytes, {sum}", bytes.len())).await;
        }
    })
    .await;
    let gateway = gateway(&[&replica]).await;
    let size = 8 << 20;
    let mut stream = gateway.connect().await;
    stream
        .write_all(
            format!("POST /orders/x HTTP/1.1\r\nhost: gw\r\ncontent-length: {size}\r\n\r\n").as_bytes(),
        )
        .await
        .unwrap();
    let bytes: Vec<u8> = (0..size).map(|index: usize| u8::try_from(index % 251).unwrap()).collect();
    let sum: u64 = bytes.iter().map(|byte| u64::from(*byte)).sum();
    let (mut reading, mut writing) = stream.into_split();
    let written = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&written);
    let sending = tokio::spawn(async move {
        for piece in bytes.chunks(16 * 1024) {
            writing.write_all(piece).await.unwrap();
            count.fetch_add(piece.len(), Relaxed);
        }
        writing
    });
    comes_to_rest(|| written.load(Relaxed)).await;
    open.send(true).unwrap();
    let _writing = sending.await.unwrap();
    let mut response = Vec::new();
    let expected = format!("{size} bytes, {sum}");
    while !String::from_utf8_lossy(&response).contains(&expected) {
        assert!(reading.read_buf(&mut response).await.unwrap() > 0, "{}", String::from_utf8_lossy(&response));
    }
}

#[tokio::test]
async fn a_response_that_is_reset_half_way_does_not_look_whole_and_counts_as_a_failure() {
    let is_read = Arc::new(Notify::new());
    let goes_on = Arc::clone(&is_read);
    let replica = H2Replica::start(builder(), move |_, _, mut answering| {
        let goes_on = Arc::clone(&goes_on);
        async move {
            let mut sending = answering.send_response(Response::new(()), false).unwrap();
            sending.send_data(Bytes::from_static(b"half"), false).unwrap();
            // A reset takes away what has not been sent.
            goes_on.notified().await;
            sending.send_reset(Reason::INTERNAL_ERROR);
        }
    })
    .await;
    let gateway = gateway(&[&replica]).await;
    let mut stream = gateway.connect().await;
    stream.write_all(b"GET /orders/x HTTP/1.1\r\nhost: gw\r\n\r\n").await.unwrap();
    let mut bytes = Vec::new();
    while !String::from_utf8_lossy(&bytes).contains("half") {
        assert!(stream.read_buf(&mut bytes).await.unwrap() > 0, "it ends before its body");
    }
    is_read.notify_one();
    let _ = stream.read_to_end(&mut bytes).await;
    let text = String::from_utf8(bytes).unwrap();
    assert!(text.contains("half") && !text.contains("0\r\n\r\n"), "{text}");
    eventually("it is counted", || gateway.service().replicas()[0].counters().failures == 1).await;
}

#[tokio::test]
async fn a_replica_that_speaks_another_version_is_said_to_be_malformed() {
    let replica = Replica::start(|_, _| ok("what?")).await;
    let endpoint = h2c(replica.address);
    let gateway = Gateway::start_to(vec![endpoint], Arc::default(), Policy::default());
    let response = gateway.get("/orders/x").await;
    assert_eq!(status(&response), 502, "{response}");
}

#[tokio::test]
async fn a_drained_replicas_shared_connection_is_closed_after_its_last_request() {
    let (open, gate) = tokio::sync::watch::channel(false);
    let replica = H2Replica::start(builder(), move |number, _, answering| {
        let mut gate = gate.clone();
        async move {
            if number == 0 {
                let _ = gate.wait_for(|open| *open).await;
            }
            answer(answering, "ok").await;
        }
    })
    .await;
    let gateway = Arc::new(gateway(&[&replica]).await);
    let asking = Arc::clone(&gateway);
    let asked = tokio::spawn(async move { asking.get("/orders/x").await });
    eventually("it is there", || replica.count() == 1).await;
    gateway.drain(0, Duration::from_secs(30)).await;
    open.send(true).unwrap();
    assert_eq!(status(&asked.await.unwrap()), 200);
    gateway.respecify(0, |spec| spec.mode = gateway_proto::Mode::Serving).await;
    assert_eq!(status(&gateway.get("/orders/x").await), 200);
    assert_eq!(replica.connections(), 2, "the one of before the drain is not used again");
}

#[tokio::test]
async fn a_change_of_protocol_never_uses_a_connection_of_the_other_kind() {
    let plain = Replica::start(|_, _| ok("plain")).await;
    let gateway = Gateway::start(&[plain.address], Policy::default()).await;
    assert_eq!(body(&gateway.get("/orders/x").await), "plain");
    let replica =
        H2Replica::start(builder(), |_, _, answering| async move { answer(answering, "shared").await }).await;
    gateway.respecify(0, |spec| spec.endpoint = replica.endpoint()).await;
    assert!(body(&gateway.get("/orders/x").await).contains("shared"));
    gateway.respecify(0, |spec| spec.endpoint.protocol = Protocol::HTTP1).await;
    // Both kinds are open at this address now, and this one is spoken to in its old protocol no more.
    assert_ne!(status(&gateway.get("/orders/x").await), 200);
    assert_eq!(replica.count(), 1);
}
