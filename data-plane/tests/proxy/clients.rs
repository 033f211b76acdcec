//! HTTP/1 with clients: what they may send, in which order they are answered, and how it ends.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test that called it")]

use std::time::{Duration, Instant};

use gateway_proto::Policy;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::access_log::Log;
use crate::harness::{
    Act, Gateway, Replica, body, eventually, field, ok, raw_replica, read_message, respond, status,
};

/// All that comes until the connection ends, however it does, and whether that was orderly.
async fn to_the_end(stream: &mut TcpStream) -> (String, bool) {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut bytes)).await;
    let is_orderly = read.expect("the connection stays open").is_ok();
    (String::from_utf8_lossy(&bytes).into_owned(), is_orderly)
}

/// Sends these bytes and reads all that comes back until the gateway ends the connection.
async fn whole(gateway: &Gateway, bytes: &[u8]) -> String {
    let mut stream = gateway.connect().await;
    stream.write_all(bytes).await.unwrap();
    to_the_end(&mut stream).await.0
}

/// Reads until `end` has come.
async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(end.as_bytes()) {
        let byte = tokio::time::timeout(Duration::from_secs(10), stream.read_u8()).await;
        let so_far = || String::from_utf8_lossy(&bytes).into_owned();
        bytes.push(byte.unwrap_or_else(|_| panic!("no more than {:?}", so_far())).unwrap());
    }
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn what_is_no_request_is_refused_with_its_reason_and_the_connection_ends() {
    let replica = Replica::start(|_, _| ok("")).await;
    let gateway = Gateway::start(&[replica.address], Policy::default()).await;
    let long_target = format!("GET /orders/{} HTTP/1.1\r\nhost: a\r\n\r\n", "x".repeat(20_000));
    let many_fields = format!("GET /orders/ HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: 1\r\n".repeat(300));
    let long_field = format!("GET /orders/ HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(70_000));
    for (request, code, reason) in [
        ("\x16\x03\x01\x02\x00\x01\x00\x01", 400, "bad_request"),
        ("GET /orders/ HTTP/1.1\nhost: a\n\n", 400, "bad_request"),
        ("GET /orders/ HTTP/1.1\r\nhost: a\r\nx: 1\r\n folded\r\n\r\n", 400, "bad_request"),
        ("GET /orders/ HTTP/1.1\r\nhost : a\r\n\r\n", 400, "bad_request"),
        (
            "POST /orders/ HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
            "bad_request",
        ),
        (
            "POST /orders/ HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
            "bad_request",
        ),
        (
            "POST /orders/ HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            501,
            "unknown_coding",
        ),
        ("GET /orders/ HTTP/3.0\r\nhost: a\r\n\r\n", 505, "unknown_version"),
        (&long_target, 414, "target_too_long"),
        (&many_fields, 431, "head_too_large"),
        (&long_field, 431, "head_too_large"),
    ] {
        let answer =
            whole(&gateway, format!("{request}GET /orders/ HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes()).await;
        let start = request[..request.len().min(60)].escape_debug();
        assert_eq!(status(&answer), code, "{start}");
        assert!(body(&answer).contains(&format!("\"reason\":\"{reason}\"")), "{start}: {answer}");
        assert_eq!(field(&answer, "connection").as_deref(), Some("close"));
        assert_eq!(field(&answer, "content-type").as_deref(), Some("application/problem+json"));
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "what follows is not looked at: {answer}");
    }
    assert_eq!(replica.seen(), Vec::<String>::new());
}

#[tokio::test]
async fn requests_that_come_at_once_are_answered_one_by_one_in_their_order() {
    let replica = Replica::start(|_, request| ok(request.split(' ').nth(1).unwrap())).await;
    let gateway = Gateway::start(&[replica.address], Policy::default()).await;
    let mut stream = gateway.connect().await;
    let mut requests = String::new();
    for number in 0..50 {
        requests += &format!(
            "POST /orders/{number} HTTP/1.1\r\nhost: gw\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n\r\n"
        );
        requests += &format!("GET /orders/{number}/2 HTTP/1.1\r\nhost: gw\r\n\r\n");
    }
    stream.write_all(requests.as_bytes()).await.unwrap();
    for number in 0..50 {
        for target in [format!("/{number}"), format!("/{number}/2")] {
            let answer = read_until(&mut stream, &format!("\r\n\r\n{target}")).await;
            assert_eq!(status(&answer), 200);
        }
    }
    assert_eq!(replica.seen().len(), 100);
}

#[tokio::test]
async fn a_request_may_come_byte_by_byte() {
    let replica = Replica::start(|_, request| ok(body(request))).await;
    let gateway = Gateway::start(&[replica.address], Policy::default()).await;
    let mut stream = gateway.connect().await;
    stream.set_nodelay(true).unwrap();
    let request = b"PUT /orders/ HTTP/1.1\r\nhost: gw\r\ncontent-length: 5\r\n\r\nhello";
    for byte in request {
        stream.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(body(&read_message(&mut stream).await.unwrap()), "hello");
}

#[tokio::test]
async fn a_client_of_http_1_0_gets_no_chunks_and_the_end_of_the_connection() {
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    let replica = Replica::start(move |_, _| Act::Send(chunked.into())).await;
    let gateway = Gateway::start(&[replica.address], Policy::default()).await;
    let answer = whole(&gateway, b"GET /orders/ HTTP/1.0\r\n\r\n").await;
    assert_eq!((status(&answer), body(&answer)), (200, "abcde"));
    assert_eq!(field(&answer, "transfer-encoding"), None);
    assert_eq!(field(&answer, "connection").as_deref(), Some("close"));
    assert_eq!(field(&replica.seen()[0], "host").as_deref(), Some(""), "HTTP/1.1 has one in any case");
}

#[tokio::test]
async fn a_client_of_http_1_0_keeps_its_connection_if_it_asks_to() {
    let replica = Replica::start(|_, _| ok("abc")).await;
    let gateway = Gateway::start(&[replica.address], Policy::default()).await;
    let mut stream = gateway.connect().await;
    for _ in 0..2 {
        stream.write_all(b"GET /orders/ HTTP/1.0\r\nconnection: keep-alive\r\n\r\n").await.unwrap();
        let answer = read_message(&mut stream).await.unwrap();
        assert_eq!(field(&answer, "connection").as_deref(), Some("keep-alive"));
        assert_eq!(body(&answer), "abc");
    }
}

#[tokio::test]
async fn a_client_that_asks_for_the_end_gets_it_behind_its_answer() {
    let replica = Replica::start(|_, _| ok("abc")).await;
    let gateway = Gateway::start(&[replica.address], Policy::default()).await;
    let answer = whole(&gateway, b"GET /orders/ HTTP/1.1\r\nhost: gw\r\nconnection: close\r\n\r\n").await;
    assert_eq!((field(&answer, "connection").as_deref(), body(&answer)), (Some("close"), "abc"));
}

#[tokio::test]
async fn a_client_that_holds_its_body_back_is_told_when_it_is_wanted() {
    let replica = Replica::start(|_, request| ok(body(request))).await;
    let gateway = Gateway::start(&[replica.address], Policy::default()).await;
    let mut stream = gateway.connect().await;
    let head = "POST /orders/ HTTP/1.1\r\nhost: gw\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n";
    for _ in 0..2 {
        stream.write_all(head.as_bytes()).await.unwrap();
        assert_eq!(read_until(&mut stream, "\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
        stream.write_all(b"abc").await.unwrap();
        assert_eq!(body(&read_message(&mut stream).await.unwrap()), "abc");
    }
}

#[tokio::test]
async fn a_body_that_nobody_wants_is_refused_before_it_is_sent() {
    let gateway = Gateway::start(&[], Policy::default()).await;
    let head =
        b"POST /orders/ HTTP/1.1\r\nhost: gw\r\nexpect: 100-continue\r\ncontent-length: 9999999\r\n\r\n";
    let answer = whole(&gateway, head).await;
    assert_eq!((status(&answer), field(&answer, "connection").as_deref()), (503, Some("close")));
}

#[tokio::test]
async fn a_replica_decides_about_a_body_before_it_is_sent() {
    let strict = raw_replica(|mut stream| async move {
        let head = read_until(&mut stream, "\r\n\r\n").await;
        assert_eq!(field(&head, "expect").as_deref(), Some("100-continue"));
        stream.write_all(b"HTTP/1.1 417 No\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let gateway = Gateway::start(&[strict], Policy::default()).await;
    let head = b"POST /orders/ HTTP/1.1\r\nhost: gw\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n";
    let answer = whole(&gateway, head).await;
    assert_eq!((status(&answer), field(&answer, "connection").as_deref()), (417, Some("close")));
    assert_eq!(answer.matches("HTTP/1.1").count(), 1, "the body was not asked for: {answer}");
}

#[tokio::test]
async fn a_replica_that_wants_the_body_gets_it_at_once() {
    let willing = raw_replica(|mut stream| async move {
        read_until(&mut stream, "\r\n\r\n").await;
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
        read_until(&mut stream, "abc").await;
        stream.write_all(b"HTTP/1.1 201 Made\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let gateway = Gateway::start(&[willing], Policy::default()).await;
    let mut stream = gateway.connect().await;
    let began = Instant::now();
    let head = "POST /orders/ HTTP/1.1\r\nhost: gw\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(read_until(&mut stream, "\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n", "once only");
    stream.write_all(b"abc").await.unwrap();
    assert_eq!(status(&read_message(&mut stream).await.unwrap()), 201);
    assert!(began.elapsed() < Duration::from_millis(900), "it was waited for nothing");
}

#[tokio::test]
async fn nothing_is_said_of_a_body_once_the_answer_has_begun() {
    // It wants the body, and answers before it has it.
    let eager = raw_replica(|mut stream| async move {
        read_until(&mut stream, "\r\n\r\n").await;
        let both = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n";
        stream.write_all(both.as_bytes()).await.unwrap();
        read_until(&mut stream, "abc").await;
        stream.write_all(b"done").await.unwrap();
    })
    .await;
    for connection in ["", "connection: close\r\n"] {
        let gateway = Gateway::start(&[eager], Policy::default()).await;
        let mut stream = gateway.connect().await;
        let head = "POST /orders/ HTTP/1.1\r\nhost: gw\r\nexpect: 100-continue\r\ncontent-length: 3\r\n";
        stream.write_all(format!("{head}{connection}\r\n").as_bytes()).await.unwrap();
        let told = read_until(&mut stream, "\r\n\r\n").await;
        assert_eq!(status(&told), 200, "{told}");
        // Of those that wait no longer to be told.
        stream.write_all(b"abc").await.unwrap();
        assert_eq!(to_the_end(&mut stream).await.0, "done", "{connection:?}");
    }
}

#[tokio::test]
async fn interim_responses_pass_and_not_to_clients_that_do_not_know_them() {
    let hints = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\nconnection: x-y\r\nx-y: 1\r\n\r\n";
    let replica = Replica::start(move |_, _| {
        Act::Send(format!(
            "{hints}HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
        ))
    })
    .await;
    let gateway = Gateway::start(&[replica.address], Policy::default()).await;
    let request = "GET /orders/ HTTP/1.1\r\nhost: gw\r\nconnection: close\r\n\r\n";
    let answer = whole(&gateway, request.as_bytes()).await;
    let expected = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\n";
    assert!(answer.starts_with(expected), "{answer}");
    let answer = whole(&gateway, b"GET /orders/ HTTP/1.0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
}

#[tokio::test]
async fn an_answer_that_breaks_off_does_so_for_the_client_too_in_every_framing() {
    let framings = [
        ("1.1", "content-length: 10", true),
        ("1.1", "transfer-encoding: chunked", true),
        ("1.0", "transfer-encoding: chunked", false),
        ("1.0", "content-length: 10", true),
    ];
    // What a call of gRPC, over HTTP/2, would be told in trailers.
    let types = ["text/plain", "application/grpc"];
    for ((version, head, orderly_end), sent) in
        framings.into_iter().flat_map(|framing| types.map(|sent| (framing, sent)))
    {
        let text = if head.starts_with('t') { "3\r\nabc\r\n" } else { "abc" };
        let torn = raw_replica(move |mut stream| async move {
            read_until(&mut stream, "\r\n\r\n").await;
            stream.write_all(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{text}").as_bytes()).await.unwrap();
        })
        .await;
        let log = Log::new();
        let gateway = log.start(&[torn], Policy::default()).await;
        let mut stream = gateway.connect().await;
        let request = format!("GET /orders/ HTTP/{version}\r\nhost: gw\r\ncontent-type: {sent}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let (answer, is_orderly) = to_the_end(&mut stream).await;
        assert!(!answer.contains("0\r\n\r\n"), "{answer}");
        assert!(is_orderly == orderly_end || answer.is_empty(), "{version} {head} {sent}: {answer}");
        assert_eq!(log.lines(1).await[0]["gw.end"], "upstream_broke_off", "{version} {head} {sent}");
        let failures = || gateway.service().replicas()[0].counters().failures;
        eventually("it counts against the replica", || failures() == 1).await;
    }
}

#[tokio::test]
async fn an_early_answer_ends_an_upload_that_nobody_reads() {
    let eager = raw_replica(|mut stream| async move {
        read_until(&mut stream, "\r\n\r\n").await;
        stream.write_all(b"HTTP/1.1 413 Too Much\r\ncontent-length: 3\r\n\r\nno!").await.unwrap();
        // Reads no more, and leaves the connection open.
        std::future::pending::<()>().await;
    })
    .await;
    let gateway = Gateway::start(&[eager], Policy::default()).await;
    let mut stream = gateway.connect().await;
    let head = format!("POST /orders/ HTTP/1.1\r\nhost: gw\r\ncontent-length: {}\r\n\r\n", 256 << 20);
    stream.write_all(head.as_bytes()).await.unwrap();
    let (mut reading, mut writing) = stream.into_split();
    let upload = tokio::spawn(async move { while writing.write_all(&[0; 65536]).await.is_ok() {} });
    let mut answer = Vec::new();
    let read = reading.read_to_end(&mut answer);
    let _ = tokio::time::timeout(Duration::from_secs(20), read).await.expect("it is read for ever");
    let answer = String::from_utf8(answer).unwrap();
    assert_eq!((status(&answer), body(&answer)), (413, "no!"));
    assert_eq!(field(&answer, "connection").as_deref(), Some("close"));
    upload.await.unwrap();
}

#[tokio::test]
async fn a_small_body_that_nobody_read_costs_no_connection() {
    let gateway = Gateway::start(&[], Policy::default()).await;
    let mut stream = gateway.connect().await;
    for _ in 0..3 {
        let head = "POST /nowhere HTTP/1.1\r\nhost: gw\r\ncontent-length: 30000\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        let answer = read_message(&mut stream).await.unwrap();
        assert_eq!((status(&answer), field(&answer, "connection")), (404, None));
        stream.write_all(&[b'x'; 30000]).await.unwrap();
    }
}

#[tokio::test]
async fn a_broken_chunk_ends_the_connection_and_blames_nobody() {
    let replica = Replica::start(|_, _| ok("")).await;
    let gateway = Gateway::start(&[replica.address], Policy::default()).await;
    let head = "POST /orders/ HTTP/1.1\r\nhost: gw\r\ntransfer-encoding: chunked\r\n\r\n";
    for broken in ["5\r\nab", "zz\r\n", "1\r\nab\r\n0\r\n\r\n", "1 \r\na\r\n0\r\n\r\n"] {
        let mut stream = gateway.connect().await;
        stream.write_all(format!("{head}{broken}").as_bytes()).await.unwrap();
        if broken.ends_with("ab") {
            stream.shutdown().await.unwrap();
        }
        let (answer, _) = to_the_end(&mut stream).await;
        assert!(answer.is_empty() || status(&answer) == 400, "{broken:?}: {answer}");
    }
    assert_eq!(replica.seen(), Vec::<String>::new(), "no whole request");
    assert_eq!(gateway.service().replicas()[0].counters().failures, 0);
}

#[tokio::test]
async fn trailers_pass_in_both_directions_and_extensions_in_none() {
    let answer = "HTTP/1.1 200 OK\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n\
        2;ext=1\r\nok\r\n0\r\nx-sum: 7\r\ncontent-length: 9\r\n\r\n";
    let replica = raw_replica(move |mut stream| async move {
        let request = read_until(&mut stream, "x-end: 1\r\n\r\n").await;
        assert!(request.ends_with("\r\n\r\n3\r\nabc\r\n0\r\nx-end: 1\r\n\r\n"), "{request}");
        stream.write_all(answer.as_bytes()).await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let gateway = Gateway::start(&[replica], Policy::default()).await;
    let request = "POST /orders/ HTTP/1.1\r\nhost: gw\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n\
        3;a=b\r\nabc\r\n0\r\nhost: evil\r\nx-end: 1\r\n\r\n";
    let answer = whole(&gateway, request.as_bytes()).await;
    assert_eq!(body(&answer), "2\r\nok\r\n0\r\nx-sum: 7\r\n\r\n");
    assert_eq!(field(&answer, "trailer").as_deref(), Some("x-sum"));
}

#[tokio::test]
async fn field_names_and_reasons_reach_the_client_as_they_were_written() {
    let replica = Replica::start(|_, _| {
        Act::Send(
            "HTTP/1.1 200 Fine by me\r\nX-CamelCase:  1 \r\nDate: yesterday\r\nContent-Length: 0\r\n\r\n"
                .into(),
        )
    })
    .await;
    let gateway = Gateway::start(&[replica.address], Policy::default()).await;
    let answer = gateway.send("GET /orders/ HTTP/1.1\r\nHost: gw\r\nX-ReQuest: a  b\r\n\r\n").await;
    let start = "HTTP/1.1 200 Fine by me\r\nX-CamelCase:  1 \r\nDate: yesterday\r\nContent-Length: 0\r\n";
    assert!(answer.starts_with(start), "{answer}");
    assert!(replica.seen()[0].contains("\r\nHost: gw\r\nX-ReQuest: a  b\r\n"), "{}", replica.seen()[0]);
}

#[tokio::test]
async fn a_date_is_added_where_there_is_none() {
    let replica = Replica::start(|_, _| respond(200, "")).await;
    let gateway = Gateway::start(&[replica.address], Policy::default()).await;
    assert!(field(&gateway.get("/orders/").await, "date").unwrap().ends_with(" GMT"));
}

#[tokio::test]
async fn a_head_that_does_not_end_is_given_up_after_ten_seconds() {
    let gateway = Gateway::start(&[], Policy::default()).await;
    let mut stream = gateway.connect().await;
    let began = Instant::now();
    stream.write_all(b"GET /orders/ HTTP/1.1\r\nhost: gw\r\n\r\n").await.unwrap();
    read_message(&mut stream).await.unwrap();
    stream.write_all(b"GET /orders/ HTTP/1.1\r\nhost").await.unwrap();
    let (answer, _) = to_the_end(&mut stream).await;
    assert_eq!(status(&answer), 408, "{answer}");
    assert!((9..14).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_draining_gateway_says_so_behind_the_answer_under_way() {
    let replica = Replica::start(|_, _| Act::Hang).await;
    let mut policy = Policy::default();
    policy.timeout.per_try = Duration::from_millis(1500);
    let gateway = Gateway::start(&[replica.address], policy).await;
    let mut idle = gateway.connect().await;
    idle.write_all(b"GET /nowhere HTTP/1.1\r\nhost: gw\r\n\r\n").await.unwrap();
    read_message(&mut idle).await.unwrap();
    let mut busy = gateway.connect().await;
    busy.write_all(b"POST /orders/ HTTP/1.1\r\nhost: gw\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    eventually("it is under way", || gateway.inflight(0) == 1).await;
    gateway.shutdown.begin();
    assert_eq!(to_the_end(&mut idle).await, (String::new(), true), "an idle connection ends");
    let (answer, _) = to_the_end(&mut busy).await;
    assert_eq!((status(&answer), field(&answer, "connection").as_deref()), (504, Some("close")));
}

#[tokio::test]
async fn a_client_that_leaves_much_unread_is_missed_all_the_same() {
    let replica = Replica::start(|_, _| Act::Hang).await;
    let gateway = Gateway::start(&[replica.address], Policy::default()).await;
    let mut stream = gateway.connect().await;
    // More than is read ahead while the first one waits.
    let requests = "GET /orders/ HTTP/1.1\r\nhost: gw\r\n\r\n".repeat(1000);
    stream.write_all(requests.as_bytes()).await.unwrap();
    eventually("the request is under way", || gateway.inflight(0) == 1).await;
    drop(stream);
    eventually("nobody waits for its answer any more", || gateway.inflight(0) == 0).await;
    assert_eq!(gateway.service().replicas()[0].counters().failures, 0);
}

#[tokio::test]
async fn nobody_is_shown_what_replicas_receive() {
    let replica = Replica::start(|_, _| {
        Act::Send(
            "HTTP/1.1 200 OK\r\nx-gw-replica: forged\r\nx-gw-secret: 1\r\ncontent-length: 0\r\n\r\n".into(),
        )
    })
    .await;
    let gateway = Gateway::start(&[replica.address], Policy::default()).await;
    let traced = gateway.send("TRACE /orders/ HTTP/1.1\r\nhost: gw\r\ncookie: secret\r\n\r\n").await;
    assert_eq!((status(&traced), traced.contains("secret")), (405, false));
    assert_eq!(replica.seen().len(), 0);
    // Nor may a replica speak in the gateway's name.
    let answer = gateway.get("/orders/").await;
    assert_eq!(field(&answer, "x-gw-replica").as_deref(), Some("r-0"));
    assert_eq!(field(&answer, "x-gw-secret"), None);
}
