//! Interim responses (1xx): to whom they are passed on, in which versions of HTTP, and how many.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test that called it")]

use std::{
    future::poll_fn,
    time::{Duration, Instant},
};

use bytes::Bytes;
use gateway_proto::Policy;
use h2::client::{ResponseFuture, SendRequest};
use http::{Request, Response, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    harness::{Act, Gateway, Replica, body, field, raw_replica, read_message, reason, respond, status},
    http2_replicas::{H2Replica, read},
};

const GET: &str = "GET /orders/ HTTP/1.1\r\nhost: gw\r\nconnection: close\r\n\r\n";

/// A connection of a client in HTTP/2.
async fn connect(gateway: &Gateway) -> SendRequest<Bytes> {
    let (sender, connection) = h2::client::handshake(gateway.connect().await).await.unwrap();
    tokio::spawn(connection);
    sender.ready().await.unwrap()
}

fn ask(sender: &mut SendRequest<Bytes>, path: &str) -> ResponseFuture {
    let request = Request::get(format!("http://gw/orders{path}")).body(()).unwrap();
    sender.send_request(request, true).unwrap().0
}

/// Statuses and links of the interim responses that come, and the status of what follows them.
async fn told(mut answer: ResponseFuture) -> (Vec<(u16, String)>, u16) {
    let mut interim = Vec::new();
    while let Some(head) = poll_fn(|cx| answer.poll_informational(cx)).await {
        let head = head.unwrap();
        let links = head.headers().get_all("link").iter().map(|link| link.to_str().unwrap());
        interim.push((head.status().as_u16(), links.collect::<Vec<_>>().join(", ")));
    }
    (interim, answer.await.unwrap().status().as_u16())
}

fn hint(link: &str) -> String {
    format!(
        "HTTP/1.1 103 Early Hints\r\nlink: {link}\r\nconnection: x-y\r\nx-y: 1\r\nx-gw-replica: me\r\n\r\n"
    )
}

async fn everything(gateway: &Gateway, request: &str) -> String {
    let mut stream = gateway.connect().await;
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn each_request_of_a_connection_in_http_2_is_told_what_is_said_for_it() {
    let replica = Replica::start(|_, request| {
        let path = request.split(' ').nth(1).unwrap().to_owned();
        Act::Send(hint(&path) + "HTTP/1.1 200 X\r\ncontent-length: 2\r\n\r\nok")
    })
    .await;
    let gateway = Gateway::start(&[replica.address], Policy::default()).await;
    let mut sender = connect(&gateway).await;
    let asked: Vec<_> = (0..20).map(|number| ask(&mut sender, &format!("/{number}"))).collect();
    for (number, answer) in asked.into_iter().enumerate() {
        assert_eq!(told(answer).await, (vec![(103, format!("/{number}"))], 200));
    }
}

#[tokio::test]
async fn a_hint_comes_before_the_answer_is_there() {
    let replica = raw_replica(|mut stream| async move {
        while read_message(&mut stream).await.is_some() {
            stream.write_all(hint("</a.css>").as_bytes()).await.unwrap();
        }
    })
    .await;
    let gateway = Gateway::start(&[replica], Policy::default()).await;
    let mut sender = connect(&gateway).await;
    let mut answer = ask(&mut sender, "/");
    let head = poll_fn(|cx| answer.poll_informational(cx)).await.unwrap().unwrap();
    assert_eq!((head.status().as_u16(), head.headers().len()), (103, 1), "{head:?}");
}

#[tokio::test]
async fn a_replica_in_http_2_is_heard_by_clients_of_either_version() {
    let replica = H2Replica::start(h2::server::Builder::new(), |_, _, mut answering| async move {
        for (status, link) in [(100, "no"), (103, "</a.css>"), (102, "</b.css>")] {
            let head = Response::builder().status(status).header("link", link).body(()).unwrap();
            answering.send_informational(head).unwrap();
        }
        let mut sending = answering.send_response(Response::new(()), false).unwrap();
        sending.send_data(Bytes::from("ok"), true).unwrap();
    })
    .await;
    let gateway = Gateway::start_to(vec![replica.endpoint()], Default::default(), Policy::default());
    let mut sender = connect(&gateway).await;
    let interim = vec![(103, "</a.css>".to_owned()), (102, "</b.css>".to_owned())];
    assert_eq!(told(ask(&mut sender, "/")).await, (interim, 200));
    let answer = everything(&gateway, GET).await;
    let expected = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\nHTTP/1.1 102 Processing\r\nlink: </b.css>\r\n\r\nHTTP/1.1 200 ";
    assert!(answer.starts_with(expected), "{answer}");
}

#[tokio::test]
async fn a_replica_in_http_2_that_says_101_is_malformed() {
    // In HTTP/1, the client would take it for a switch, and what follows for another protocol.
    let replica = H2Replica::start(h2::server::Builder::new(), |_, _, mut answering| async move {
        let head = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS).body(()).unwrap();
        answering.send_informational(head).unwrap();
        let _ = answering.send_response(Response::new(()), true);
    })
    .await;
    let gateway = Gateway::start_to(vec![replica.endpoint()], Default::default(), Policy::default());
    let answer = gateway.send(GET).await;
    assert_eq!((status(&answer), reason(&answer).as_str()), (502, "malformed_response"), "{answer}");
}

#[tokio::test]
async fn only_so_many_are_passed_on_for_one_request_and_only_so_much() {
    let hints = hint("</a.css>").repeat(20);
    let long = hint(&"x".repeat(10_000)).repeat(3) + &hint("</a.css>");
    let replica = Replica::start(move |_, request| {
        let hints = if request.contains("/long") { &long } else { &hints };
        Act::Send(format!("{hints}HTTP/1.1 200 X\r\ncontent-length: 0\r\n\r\n"))
    })
    .await;
    let gateway = Gateway::start(&[replica.address], Policy::default()).await;
    let mut sender = connect(&gateway).await;
    let (interim, status) = told(ask(&mut sender, "/")).await;
    assert_eq!((interim.len(), status), (8, 200));
    let (interim, _) = told(ask(&mut sender, "/long")).await;
    assert_eq!((interim.len(), interim[1].1.as_str()), (2, "</a.css>"), "the longer ones are left out");
    assert_eq!(everything(&gateway, GET).await.matches("HTTP/1.1 103 ").count(), 8);
}

#[tokio::test]
async fn a_replica_says_so_many_in_either_version_and_is_malformed_when_it_says_one_more() {
    for (count, expected) in [(32, 200), (33, 502)] {
        let in_1 = Replica::start(move |_, _| {
            Act::Send(hint("</a.css>").repeat(count) + "HTTP/1.1 200 X\r\ncontent-length: 0\r\n\r\n")
        })
        .await;
        let in_2 = H2Replica::start(h2::server::Builder::new(), move |_, _, mut answering| async move {
            for _ in 0..count {
                let head = Response::builder().status(103).body(()).unwrap();
                answering.send_informational(head).unwrap();
            }
            answering.send_response(Response::new(()), true).unwrap();
        })
        .await;
        for gateway in [
            Gateway::start(&[in_1.address], Policy::default()).await,
            Gateway::start_to(vec![in_2.endpoint()], Default::default(), Policy::default()),
        ] {
            let answer = everything(&gateway, GET).await;
            let last = &answer[answer.rfind("HTTP/1.1 ").unwrap()..];
            assert_eq!(status(last), expected, "behind {count}: {answer}");
            assert!(expected == 200 || reason(last) == "malformed_response", "{answer}");
        }
    }
}

#[tokio::test]
async fn what_an_attempt_has_hinted_at_stays_a_hint_when_another_brings_the_answer() {
    let failing = Replica::start(|_, _| Act::SendAndClose(hint("</1.css>") + "HTTP/1.1 503 X\r\n\r\n")).await;
    let good =
        Replica::start(|_, _| Act::Send(hint("</2.css>") + "HTTP/1.1 200 X\r\ncontent-length: 2\r\n\r\nok"))
            .await;
    let gateway = Gateway::start(&[failing.address, good.address], Policy::default()).await;
    let mut sender = connect(&gateway).await;
    let (interim, status) = told(ask(&mut sender, "/")).await;
    let expected = ["</1.css>", "</2.css>"].map(|link| (103, link.to_owned()));
    assert_eq!((interim.as_slice(), status), (&expected[..], 200));
}

#[tokio::test]
async fn calls_of_grpc_are_told_none() {
    let call = "content-type: application/grpc\r\ngrpc-status: 0\r\ncontent-length: 0\r\n\r\n";
    let replica = Replica::start(move |_, _| Act::Send(hint("</a.css>") + "HTTP/1.1 200 X\r\n" + call)).await;
    let gateway = Gateway::start(&[replica.address], Policy::default()).await;
    let mut sender = connect(&gateway).await;
    let request = Request::post("http://gw/orders/").header("content-type", "application/grpc");
    let (answer, _) = sender.send_request(request.body(()).unwrap(), true).unwrap();
    assert_eq!(told(answer).await, (Vec::new(), 200));
}

#[tokio::test]
async fn a_client_in_http_2_that_holds_its_body_back_is_told_when_it_is_wanted() {
    let willing = raw_replica(|mut stream| async move {
        // It is asked, and wants it.
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        assert!(String::from_utf8(head).unwrap().contains("expect: 100-continue"));
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
        let mut sent = [0; 3];
        stream.read_exact(&mut sent).await.unwrap();
        assert_eq!(&sent, b"abc");
        stream.write_all(b"HTTP/1.1 201 Made\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let gateway = Gateway::start(&[willing], Policy::default()).await;
    let mut sender = connect(&gateway).await;
    let request = || {
        let request = Request::post("http://gw/orders/").header("expect", "100-continue");
        request.header("content-length", "3").body(()).unwrap()
    };
    let (mut answer, mut outgoing) = sender.send_request(request(), false).unwrap();
    let began = Instant::now();
    let head = poll_fn(|cx| answer.poll_informational(cx)).await.unwrap().unwrap();
    assert_eq!(head.status(), 100);
    assert!(began.elapsed() < Duration::from_millis(900), "the replica said so at once");
    outgoing.send_data(Bytes::from("abc"), true).unwrap();
    assert_eq!(told(answer).await, (Vec::new(), 201), "once only");

    // Who answers without the body is not asked for it.
    let refusing = Replica::start(|_, _| respond(200, "")).await;
    let gateway = Gateway::start(&[refusing.address], Policy::default()).await;
    let mut sender = connect(&gateway).await;
    let unknown = Request::post("http://gw/nobody/").header("expect", "100-continue").body(()).unwrap();
    let (answer, _outgoing) = sender.send_request(unknown, false).unwrap();
    assert_eq!(told(answer).await, (Vec::new(), 404));
}

#[tokio::test]
async fn a_replica_that_reads_the_body_without_a_word_has_it_all_the_same() {
    let replica = H2Replica::start(h2::server::Builder::new(), |_, body, mut answering| async move {
        let (bytes, _) = read(body).await;
        let mut sending = answering.send_response(Response::new(()), false).unwrap();
        sending.send_data(bytes.into(), true).unwrap();
    })
    .await;
    let gateway = Gateway::start_to(vec![replica.endpoint()], Default::default(), Policy::default());
    let mut sender = connect(&gateway).await;
    let request = Request::post("http://gw/orders/").header("expect", "100-continue").body(()).unwrap();
    let (mut answer, mut outgoing) = sender.send_request(request, false).unwrap();
    let head = poll_fn(|cx| answer.poll_informational(cx)).await.unwrap().unwrap();
    assert_eq!(head.status(), 100, "after the second for which a body is held back");
    outgoing.send_data(Bytes::from("abc"), true).unwrap();
    let (_, mut body) = answer.await.unwrap().into_parts();
    assert_eq!(body.data().await.unwrap().unwrap(), "abc");
}

#[tokio::test]
async fn a_client_in_http_1_0_is_told_none_by_a_replica_in_either_version() {
    let replica = Replica::start(|_, _| Act::Send(hint("</a.css>") + "HTTP/1.1 204 X\r\n\r\n")).await;
    let gateway = Gateway::start(&[replica.address], Policy::default()).await;
    let answer = everything(&gateway, "GET /orders/ HTTP/1.0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 204 "), "{answer}");
    assert_eq!((field(&answer, "link"), body(&answer)), (None, ""));
}
