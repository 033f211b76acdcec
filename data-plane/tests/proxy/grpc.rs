//! gRPC calls: their status, their deadlines, and what the gateway says in its own name.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test that called it")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use data_plane::{
    routing::{Rule, State},
    table::{CodeClass, RequestOutcome},
};
use gateway_proto::{Address, Endpoint, Policy, Protocol, policy::Methods};
use h2::{RecvStream, server::SendResponse};
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::{io::AsyncWriteExt, net::TcpStream, sync::Notify};

use crate::{
    access_log::Log,
    failover::{at_once, states, trip},
    faults::{aborting, delaying, inject},
    harness::{Dead, Gateway, eventually, raw_replica, read_message, reason, status},
    http2_replicas::{H2Replica, read},
};

const MESSAGE: &[u8] = b"\0\0\0\0\x02hi";

/// What a caller sees.
#[derive(Debug)]
struct Called {
    head: HeaderMap,
    body: Vec<u8>,
    trailers: Option<HeaderMap>,
}

impl Called {
    /// The call's status, wherever it stands, and what is said of it.
    fn status(&self) -> (&str, &str) {
        let place = self.trailers.as_ref().unwrap_or(&self.head);
        let text = |name| place.get(name).map_or("", |value| value.to_str().unwrap());
        (text("grpc-status"), text("grpc-message"))
    }
}

/// Makes one call on a connection of its own.
async fn call(gateway: &Gateway, path: &str, fields: &[(&'static str, &str)]) -> Called {
    let (head, body) = answered(gateway, path, fields).await;
    let (body, trailers) = read(body).await;
    Called { head, body, trailers }
}

/// The head of a call's answer, and the rest, which is still to be read.
async fn answered(gateway: &Gateway, path: &str, fields: &[(&'static str, &str)]) -> (HeaderMap, RecvStream) {
    let stream = TcpStream::connect(gateway.listen).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut request = Request::post(format!("http://gw{path}")).header("content-type", "application/grpc");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let mut sender = sender.ready().await.unwrap();
    let (response, mut sending) = sender.send_request(request.body(()).unwrap(), false).unwrap();
    sending.send_data(Bytes::from_static(MESSAGE), true).unwrap();
    let (parts, body) = response.await.unwrap().into_parts();
    assert_eq!(parts.status, 200);
    (parts.headers, body)
}

fn trailers(status: &'static str) -> HeaderMap {
    [("grpc-status", status), ("grpc-message", "so it is")]
        .into_iter()
        .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)))
        .collect()
}

fn begin(answering: &mut SendResponse<Bytes>) -> h2::SendStream<Bytes> {
    let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
    answering.send_response(head, false).unwrap()
}

/// Answers with one message and this status behind it.
async fn answering(status: &'static str) -> H2Replica {
    H2Replica::start(h2::server::Builder::new(), move |_, body, mut answering| async move {
        read(body).await;
        let mut sending = begin(&mut answering);
        sending.send_data(Bytes::from_static(MESSAGE), false).unwrap();
        sending.send_trailers(trailers(status)).unwrap();
    })
    .await
}

/// Answers with a head that has this status, and nothing behind it.
async fn trailers_only(status: &'static str) -> H2Replica {
    H2Replica::start(h2::server::Builder::new(), move |_, body, mut answering| async move {
        read(body).await;
        let mut head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
        head.headers_mut().extend(trailers(status));
        answering.send_response(head, true).unwrap();
    })
    .await
}

/// Takes calls, and answers none.
async fn hanging() -> H2Replica {
    H2Replica::start(h2::server::Builder::new(), |_, body, answering| async move {
        let _held = answering;
        read(body).await;
        std::future::pending::<()>().await;
    })
    .await
}

fn before(replica: &H2Replica) -> Gateway {
    Gateway::start_to(vec![replica.endpoint()], Arc::default(), Policy::default())
}

fn failures(gateway: &Gateway) -> u64 {
    gateway.service().replicas()[0].counters().failures
}

#[tokio::test]
async fn a_status_behind_the_messages_passes_and_counts_for_the_breaker_as_what_it_says_of_the_replica() {
    for (status, expected) in
        [("0", 0), ("7", 0), ("5", 0), ("8", 0), ("4", 1), ("13", 1), ("14", 1), ("15", 1)]
    {
        let replica = answering(status).await;
        let gateway = before(&replica);
        let called = call(&gateway, "/orders/x", &[]).await;
        assert_eq!((called.status(), &called.body[..]), ((status, "so it is"), MESSAGE));
        eventually("the call is over", || gateway.inflight(0) == 0).await;
        assert_eq!(failures(&gateway), expected, "{status}");
    }
}

#[tokio::test]
async fn a_status_in_the_head_passes_and_counts_the_same() {
    for (status, expected) in [("7", 0), ("13", 1), ("14", 1)] {
        let replica = trailers_only(status).await;
        let gateway = before(&replica);
        let called = call(&gateway, "/orders/x", &[]).await;
        assert_eq!((called.status(), called.trailers.is_none()), ((status, "so it is"), true));
        assert_eq!(failures(&gateway), expected, "{status}");
        if expected == 1 {
            let fault = gateway.service().replicas()[0].last_failures()[0].fault.to_string();
            assert!(fault.starts_with("gRPC "), "{fault}");
        }
    }
}

#[tokio::test]
async fn a_call_is_counted_by_its_head_and_what_is_said_behind_it_counts_for_its_attempt() {
    for (replica, outcome) in [
        (answering("14").await, RequestOutcome::Success),
        (trailers_only("14").await, RequestOutcome::UpstreamError),
    ] {
        let gateway = before(&replica);
        call(&gateway, "/orders/x", &[]).await;
        eventually("the call is over", || gateway.inflight(0) == 0).await;
        assert_eq!(gateway.service().counters().read(CodeClass::Success, outcome), 1, "{outcome:?}");
        assert_eq!(failures(&gateway), 1, "{outcome:?}");
    }
}

#[tokio::test]
async fn a_refused_call_is_no_answer_while_another_attempt_of_it_is_under_way() {
    let slow = H2Replica::start(h2::server::Builder::new(), |_, body, mut answering| async move {
        read(body).await;
        tokio::time::sleep(Duration::from_millis(120)).await;
        begin(&mut answering).send_trailers(trailers("0")).unwrap();
    })
    .await;
    // ABORTED, as of what somebody else has in hand.
    let refusing = trailers_only("10").await;
    let mut policy = Policy::default();
    policy.retry.hedge_delay = Duration::from_millis(30);
    policy.retry.methods = Methods::parse(["POST"]).unwrap();
    policy.retry.hedge_methods = policy.retry.methods;
    let gateway = Gateway::start_to(vec![slow.endpoint(), refusing.endpoint()], Arc::default(), policy);
    assert_eq!(call(&gateway, "/orders/x", &[]).await.status(), ("0", "so it is"));
    assert_eq!(gateway.service().attempts().attempts, 2);
}

#[tokio::test]
async fn failing_calls_open_a_breaker_and_its_callers_are_told_unavailable() {
    let replica = answering("13").await;
    let gateway = before(&replica);
    for _ in 0..5 {
        assert_eq!(call(&gateway, "/orders/x", &[]).await.status().0, "13");
    }
    let called = call(&gateway, "/orders/x", &[]).await;
    let (status, message) = called.status();
    assert!(status == "14" && message.contains("open circuit breakers"), "{called:?}");
    assert!(called.head.contains_key("x-request-id"));
    assert!(called.head["proxy-status"].to_str().unwrap().contains("details=\"breaker_open\""));
}

#[tokio::test]
async fn what_the_gateway_says_itself_is_a_head_without_a_body() {
    let dead = Dead::new();
    let address = Address::parse(&dead.address.to_string()).unwrap();
    let endpoint = Endpoint { address, protocol: Protocol::h2c() };
    let gateway = Gateway::start_to(vec![endpoint], Arc::default(), Policy::default());
    for (path, fields, expected, says) in [
        ("/orders/x", &[][..], "14", "connect refused"),
        ("/nobody/x", &[], "12", "no service \"nobody\""),
        ("/orders/x", &[("grpc-timeout", "1s")], "3", "grpc-timeout"),
        ("/orders/x", &[("grpc-timeout", "123456789S")], "3", "grpc-timeout"),
    ] {
        let called = call(&gateway, path, fields).await;
        let (status, message) = called.status();
        assert_eq!((status, message.contains(says), called.body.len()), (expected, true, 0), "{message}");
        assert_eq!(called.head["content-type"], "application/grpc");
        assert!(called.trailers.is_none());
    }
}

#[tokio::test]
async fn a_fault_that_is_injected_is_told_in_the_words_of_grpc_and_takes_of_the_calls_time() {
    let replica = answering("0").await;
    let gateway = before(&replica);
    gateway.table.allow_faults();
    inject(&gateway, aborting());
    let called = call(&gateway, "/orders/x", &[]).await;
    assert_eq!((called.status().0, called.body.len()), ("8", 0), "{called:?}");
    assert!(called.head["proxy-status"].to_str().unwrap().contains("details=\"fault_injected\""));

    inject(&gateway, delaying(Duration::from_millis(400)));
    let called = call(&gateway, "/orders/x", &[("grpc-timeout", "100m")]).await;
    assert_eq!(called.status().0, "4", "{called:?}");
    assert!(replica.seen().is_empty(), "there is nothing left for a replica");
    let called = call(&gateway, "/orders/x", &[("grpc-timeout", "5S")]).await;
    assert_eq!(
        called.trailers.as_ref().map(|trailers| &trailers["grpc-status"]),
        Some(&"0".parse().unwrap())
    );
    let told = replica.seen()[0].headers["grpc-timeout"].to_str().unwrap().to_owned();
    let micros: u64 = told.strip_suffix('u').expect(&told).parse().unwrap();
    assert!(micros <= 4_600_000, "{told}");
}

#[tokio::test]
async fn a_replica_is_told_what_is_left_of_a_calls_time() {
    let replica = answering("0").await;
    let gateway = before(&replica);
    call(&gateway, "/orders/x", &[("grpc-timeout", "5S")]).await;
    call(&gateway, "/orders/x", &[]).await;
    let seen = replica.seen();
    let left = seen[0].headers["grpc-timeout"].to_str().unwrap();
    let micros: u64 = left.strip_suffix('u').expect(left).parse().unwrap();
    assert!((1_000_000..=5_000_000).contains(&micros), "{left}");
    assert!(!seen[1].headers.contains_key("grpc-timeout"));
}

#[tokio::test]
async fn a_replica_that_is_asked_beside_another_is_told_what_is_left_by_then() {
    let hanging = hanging().await;
    let good = answering("0").await;
    let mut policy = Policy::default();
    policy.retry.methods = Methods::parse(["POST"]).unwrap();
    policy.retry.hedge_methods = policy.retry.methods;
    policy.retry.hedge_delay = Duration::from_millis(500);
    let gateway = Gateway::start_to(vec![hanging.endpoint(), good.endpoint()], Arc::default(), policy);
    call(&gateway, "/orders/x", &[("grpc-timeout", "20S")]).await;
    let left = |replica: &H2Replica| {
        let seen = replica.seen();
        let text = seen[0].headers["grpc-timeout"].to_str().unwrap().to_owned();
        assert_eq!(seen[0].headers.get_all("grpc-timeout").iter().count(), 1);
        text.strip_suffix('u').expect(&text).parse::<u64>().unwrap()
    };
    let (first, beside) = (left(&hanging), left(&good));
    assert!(beside + 500_000 <= first, "{beside} of {first}");
}

#[tokio::test]
async fn a_call_ends_with_its_time_and_nobody_but_the_caller_chose_that() {
    let replica = H2Replica::start(h2::server::Builder::new(), |number, body, mut answering| async move {
        read(body).await;
        if number == 0 {
            // Never answers.
            std::future::pending::<()>().await;
        }
        let mut sending = begin(&mut answering);
        sending.send_data(Bytes::from_static(MESSAGE), false).unwrap();
        // Never ends.
        std::future::pending::<()>().await;
    })
    .await;
    let gateway = before(&replica);
    for received in [0, MESSAGE.len()] {
        let began = Instant::now();
        let called = call(&gateway, "/orders/x", &[("grpc-timeout", "300m")]).await;
        assert_eq!((called.status().0, called.body.len()), ("4", received), "{called:?}");
        assert!((300..5_000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    }
    eventually("nothing is in flight", || gateway.inflight(0) == 0).await;
    assert_eq!(failures(&gateway), 0);
}

#[tokio::test]
async fn a_replica_that_hangs_is_found_out_although_no_call_has_as_much_time_as_an_attempt() {
    let hanging = hanging().await;
    let good = answering("0").await;
    let mut policy = Policy::default();
    policy.timeout.per_try = Duration::from_millis(600);
    policy.breaker.consecutive_failure_count = 2;
    policy.breaker.base_open = Duration::from_secs(60);
    let endpoints = vec![hanging.endpoint(), good.endpoint()];
    let mut gateway = Gateway::start_to(endpoints, Arc::default(), policy);
    let mut in_vain = 0;
    let change = loop {
        in_vain +=
            u32::from(call(&gateway, "/orders/x", &[("grpc-timeout", "200m")]).await.status().0 == "4");
        if let Ok(transition) = gateway.transitions.try_recv() {
            break transition.change;
        }
        assert!(in_vain < 50, "it hangs on and on");
    };
    assert_eq!((change.to, change.rule()), (State::Open, Some(Rule::ConsecutiveFailures)));
    let reason = change.reason.to_string();
    assert!(reason.contains("no answer to anybody in "), "{reason}");
    // Three have waited for as long as one might, and it takes two failures.
    assert!((3..=5).contains(&in_vain), "{in_vain}");
    let last = gateway.service().replicas()[0].last_failures().remove(0);
    assert_eq!(last.request_id.len(), 32, "{last:?}");
}

#[tokio::test]
async fn who_waits_for_room_on_shared_connections_waits_for_other_callers_and_not_for_the_replica() {
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(1);
    let streaming = H2Replica::start(builder, |_, _, mut answering| async move {
        let _sending = begin(&mut answering);
        // Never ends.
        std::future::pending::<()>().await;
    })
    .await;
    let mut policy = Policy::default();
    policy.timeout.per_try = Duration::from_millis(300);
    policy.timeout.connect = Duration::from_secs(5);
    let gateway = Arc::new(Gateway::start_to(vec![streaming.endpoint()], Arc::default(), policy));
    let mut calls = tokio::task::JoinSet::new();
    for number in 1..=16 {
        let gateway = Arc::clone(&gateway);
        calls.spawn(async move { call(&gateway, "/orders/x", &[]).await });
        eventually("it has a connection of its own", || streaming.connections() == number).await;
    }
    eventually("all are under way", || streaming.seen().len() == 16).await;
    for _ in 0..4 {
        let mut client = gateway.connect().await;
        client.write_all(b"GET /orders/x HTTP/1.1\r\nhost: gw\r\n\r\n").await.unwrap();
        eventually("it waits", || gateway.inflight(0) == 17).await;
        tokio::time::sleep(Duration::from_millis(150)).await;
        drop(client);
        eventually("it is missed", || gateway.inflight(0) == 16).await;
    }
    assert_eq!((streaming.seen().len(), failures(&gateway)), (16, 0));
}

#[tokio::test]
async fn who_got_room_on_a_shared_connection_has_waited_for_the_replica_only_since_then() {
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(1);
    let streaming = H2Replica::start(builder, |number, _, mut answering| async move {
        let _sending = (number < 16).then(|| begin(&mut answering));
        std::future::pending::<()>().await;
    })
    .await;
    let good = answering("0").await;
    let mut policy = Policy::default();
    policy.timeout.per_try = Duration::from_secs(2);
    policy.timeout.connect = Duration::from_secs(5);
    policy.breaker.consecutive_failure_count = 1;
    let endpoints = vec![streaming.endpoint(), good.endpoint()];
    let gateway = Arc::new(Gateway::start_to(endpoints, Arc::default(), policy));
    let mut calls = tokio::task::JoinSet::new();
    for number in 1..=16 {
        let to_streaming = Arc::clone(&gateway);
        calls.spawn(async move { call(&to_streaming, "/orders/x", &[]).await });
        eventually("it is under way", || streaming.seen().len() == number).await;
        call(&gateway, "/orders/x", &[]).await;
    }
    for (for_room, in_vain) in [(1_200, 200), (0, 900)] {
        let seen = streaming.seen().len();
        let mut client = gateway.connect().await;
        client.write_all(b"GET /orders/x HTTP/1.1\r\nhost: gw\r\n\r\n").await.unwrap();
        tokio::time::sleep(Duration::from_millis(for_room)).await;
        calls.abort_all();
        eventually("it has room", || streaming.seen().len() == seen + 1).await;
        call(&gateway, "/orders/x", &[]).await;
        tokio::time::sleep(Duration::from_millis(in_vain)).await;
        drop(client);
        eventually("it is missed", || gateway.inflight(0) == 0).await;
    }
    assert_eq!(failures(&gateway), 0, "it waited for the replica for 1.1 of 2 seconds");
}

#[tokio::test]
async fn a_caller_is_told_when_its_replica_breaks_off_in_the_middle() {
    let is_read = Arc::new(Notify::new());
    let goes_on = Arc::clone(&is_read);
    let replica = H2Replica::start(h2::server::Builder::new(), move |_, body, mut answering| {
        let goes_on = Arc::clone(&goes_on);
        async move {
            read(body).await;
            let mut sending = begin(&mut answering);
            sending.send_data(Bytes::from_static(MESSAGE), false).unwrap();
            // A reset takes away what has not been sent.
            goes_on.notified().await;
            sending.send_reset(h2::Reason::INTERNAL_ERROR);
        }
    })
    .await;
    let gateway = before(&replica);
    let (head, mut body) = answered(&gateway, "/orders/x", &[]).await;
    let first = body.data().await.unwrap().unwrap();
    is_read.notify_one();
    let (rest, trailers) = read(body).await;
    let called = Called { head, body: [&first[..], &rest].concat(), trailers };
    assert_eq!((called.status().0, &called.body[..]), ("14", MESSAGE), "{called:?}");
    assert_eq!(failures(&gateway), 1);
}

#[tokio::test]
async fn an_answer_that_is_no_grpc_is_broken_off_whatever_its_request_says() {
    let is_read = Arc::new(Notify::new());
    let goes_on = Arc::clone(&is_read);
    let torn = raw_replica(move |mut stream| {
        let goes_on = Arc::clone(&goes_on);
        async move {
            read_message(&mut stream).await;
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n";
            stream.write_all(format!("{head}3\r\nabc\r\n").as_bytes()).await.unwrap();
            goes_on.notified().await;
        }
    })
    .await;
    let gateway = Gateway::start(&[torn], Policy::default()).await;
    let (sender, connection) = h2::client::handshake(gateway.connect().await).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("http://gw/orders/x").header("content-type", "application/grpc");
    let mut sender = sender.ready().await.unwrap();
    let (response, _) = sender.send_request(request.body(()).unwrap(), true).unwrap();
    let mut body = response.await.unwrap().into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), "abc");
    is_read.notify_one();
    let end = body.data().await;
    assert!(matches!(end, Some(Err(_))), "it looks whole: {end:?}");
    eventually("it counts against the replica", || failures(&gateway) == 1).await;
}

#[tokio::test]
async fn who_sends_what_it_calls_grpc_over_http_1_is_told_as_http_1_has_it() {
    let gateway = Gateway::start(&[Dead::new().address], Policy::default()).await;
    let head =
        "POST /orders/x HTTP/1.1\r\nhost: gw\r\ncontent-type: application/grpc\r\ngrpc-timeout: no\r\n";
    let response = gateway.send(&format!("{head}content-length: 0\r\n\r\n")).await;
    assert_eq!((status(&response), reason(&response).as_str()), (502, "connect_refused"));
}

#[tokio::test]
async fn calls_go_to_the_replicas_in_turn_whatever_connection_they_come_by() {
    let (one, other) = (answering("0").await, answering("0").await);
    let gateway =
        Gateway::start_to(vec![one.endpoint(), other.endpoint()], Arc::default(), Policy::default());
    for _ in 0..6 {
        assert_eq!(call(&gateway, "/orders/x", &[]).await.status().0, "0");
    }
    assert_eq!((one.seen().len(), other.seen().len()), (3, 3));
    assert_eq!((one.connections(), other.connections()), (1, 1));
}

#[tokio::test]
async fn the_access_log_has_what_came_of_a_call_wherever_that_is_said() {
    let told = async |endpoints: Vec<Endpoint>| {
        let log = Log::new();
        let gateway =
            Gateway::start_before(|config| log.configure(config, &[]), endpoints, Policy::default());
        let called = call(&gateway, "/orders/a.B/C", &[]).await;
        gateway.get("/nobody").await;
        let lines = log.lines(2).await;
        assert!(lines[1].get("rpc.grpc.status_code").is_none(), "it was no call");
        (called.status().0.to_owned(), lines[0]["rpc.grpc.status_code"].clone())
    };
    assert_eq!(told(Vec::new()).await, ("14".into(), 14.into()), "by the gateway, in the head");
    for (status, number) in [("0", 0), ("5", 5)] {
        let replica = answering(status).await;
        assert_eq!(told(vec![replica.endpoint()]).await, (status.into(), number.into()), "behind the body");
    }
}

#[tokio::test]
async fn a_probe_that_is_a_quiet_stream_passes_by_time_and_one_that_says_soon_how_it_is_does_not_wait_for_that()
 {
    for status in ["", "14"] {
        let replica =
            H2Replica::start(h2::server::Builder::new(), move |_, body, mut answering| async move {
                read(body).await;
                let mut sending = begin(&mut answering);
                if status.is_empty() {
                    std::future::pending::<()>().await;
                }
                sending.send_trailers(trailers(status)).unwrap();
            })
            .await;
        let mut policy = at_once();
        policy.timeout.per_try = Duration::from_millis(300);
        let mut gateway = Gateway::start_to(vec![replica.endpoint()], Arc::default(), policy);
        trip(&gateway);
        gateway.transitions.try_recv().unwrap();
        let (_head, body) = loop {
            let (head, body) = answered(&gateway, "/orders/x", &[]).await;
            // What the gateway says itself, before the probe is due, is in the head.
            if !head.contains_key("grpc-status") {
                break (head, body);
            }
        };
        assert_eq!(gateway.transitions.try_recv().unwrap().change.to, State::HalfOpen);
        if status.is_empty() {
            eventually("it has passed", || states(&gateway) == [State::Closed]).await;
            drop(body);
        } else {
            read(body).await;
            eventually("it has failed", || states(&gateway) == [State::Open]).await;
        }
    }
}
