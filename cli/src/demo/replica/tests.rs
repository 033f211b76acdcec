//! The demo service over real sockets, as curl and the proxy see it.

use gateway_proto::{Address, ReplicaKey, reason};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::{Code, transport::Channel};

use super::{registration::Registration, *};
use crate::control::fake::{Fake, Script};

async fn start() -> (SocketAddr, Shutdown, tokio::task::JoinHandle<()>) {
    let replica = Replica::bind("127.0.0.1:0".parse().unwrap(), "r-1").await.unwrap();
    let address = replica.address();
    let shutdown = Shutdown::new();
    let served = tokio::spawn(replica.serve(shutdown.clone()));
    (address, shutdown, served)
}

/// Sends one request as it is written and reads until the replica closes: status, head and body.
async fn ask(address: SocketAddr, request: &str) -> std::io::Result<(u16, String, String)> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Ok((status, head.to_lowercase(), body.trim_end().to_owned()))
}

async fn get(address: SocketAddr, target: &str) -> (u16, String) {
    let request = format!("GET {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let (status, head, body) = ask(address, &request).await.unwrap();
    assert!(head.contains("x-demo-replica: r-1"), "{head}");
    (status, body)
}

async fn post(address: SocketAddr, target: &str) -> (u16, String) {
    let request =
        format!("POST {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    let (status, _, body) = ask(address, &request).await.unwrap();
    (status, body)
}

#[tokio::test]
async fn hello_names_the_replica() {
    let (address, ..) = start().await;
    assert_eq!(get(address, "/hello").await, (200, "Hello from r-1".into()));
    assert_eq!(post(address, "/hello").await, (200, "Hello from r-1".into()));
}

#[tokio::test]
async fn messages_fail_in_their_several_ways() {
    let (address, ..) = start().await;
    let (status, body) = get(address, "/messages").await;
    assert_eq!((status, serde_json::from_str::<Vec<Value>>(&body).unwrap().len()), (200, 15));
    assert_eq!(get(address, "/messages/down").await, (500, "Service unavailable".into()));
    let mut flaky = Vec::new();
    for _ in 0..6 {
        flaky.push(get(address, "/messages/flaky").await.0);
    }
    assert_eq!(flaky, [500, 500, 200, 500, 500, 200]);
    let (_, body) = get(address, "/messages/fallback").await;
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap()[0]["user"], "System");
    assert_eq!(get(address, "/messages/slow?delay=1ms").await.0, 200);
    assert_eq!(get(address, "/messages/slow?delay=1h").await.0, 400);
}

#[tokio::test]
async fn echo_shows_the_target_and_the_body_byte_for_byte() {
    let (address, ..) = start().await;
    let request = "PATCH /echo/a%2Fb//../c?a=%20b%26c&&x HTTP/1.1\r\nhost: x\r\nX-Tag: one\r\nX-Tag: two\r\n\
                   connection: close\r\ncontent-length: 9\r\n\r\n123456789";
    let (status, _, body) = ask(address, request).await.unwrap();
    let echoed: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(status, 200);
    assert_eq!(echoed["method"], "PATCH");
    assert_eq!(echoed["target"], "/echo/a%2Fb//../c?a=%20b%26c&&x");
    assert_eq!(echoed["bodyLength"], 9);
    assert_eq!(echoed["bodyCrc32"], "cbf43926", "the check value of CRC-32");
    assert_eq!(echoed["body"], "123456789");
    let headers = echoed["headers"].as_array().unwrap();
    assert_eq!(headers.iter().filter(|header| header[0] == "x-tag").count(), 2);
}

#[tokio::test]
async fn stream_sends_the_body_back_and_status_answers_what_it_is_asked_for() {
    let (address, ..) = start().await;
    let request =
        "POST /echo/stream HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello";
    assert_eq!(ask(address, request).await.unwrap().2, "hello");
    assert_eq!(get(address, "/status/418").await.0, 418);
    assert_eq!(get(address, "/status/99").await.0, 404);
    assert_eq!(get(address, "/nothing").await.0, 404);
}

#[tokio::test]
async fn a_fault_hits_all_routes_until_it_is_taken_away() {
    let (address, ..) = start().await;
    assert_eq!(post(address, "/fault/down?for=1m").await, (200, "r-1: down for 1m".into()));
    assert_eq!(get(address, "/hello").await.0, 503);
    assert_eq!(post(address, "/fault/off").await, (200, "r-1: no fault".into()));
    assert_eq!(get(address, "/hello").await.0, 200);
}

#[tokio::test]
async fn a_reset_breaks_the_connection_without_an_answer() {
    let (address, ..) = start().await;
    post(address, "/fault/reset").await;
    let error = ask(address, "GET /hello HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_fault_that_makes_no_sense_is_refused() {
    let (address, ..) = start().await;
    assert_eq!(post(address, "/fault/fire").await.0, 400);
    assert_eq!(post(address, "/fault/down?ratio=7").await.0, 400);
    assert_eq!(get(address, "/fault/down").await.0, 405);
    assert_eq!(get(address, "/hello").await.0, 200);
}

#[tokio::test]
async fn stats_count_what_was_asked_but_not_faults_and_stats() {
    let (address, ..) = start().await;
    get(address, "/hello").await;
    get(address, "/hello?x").await;
    post(address, "/fault/off").await;
    let (_, body) = get(address, "/stats").await;
    let stats: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&stats["total"], &stats["requests"]["GET /hello"]), (&2.into(), &2.into()));
}

#[tokio::test]
async fn a_shutdown_lets_the_request_in_flight_finish() {
    let (address, shutdown, served) = start().await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The head is there and the body is not: the request is in flight.
    stream
        .write_all(b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\nexpect: 100-continue\r\n\r\n")
        .await
        .unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 100");
    shutdown.begin();
    stream.write_all(b"ok").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("HTTP/1.1 200") && answer.contains("\"body\":\"ok\""), "{answer}");
    served.await.unwrap();
}

/// A registration against a scripted control plane.
async fn register(script: Script) -> (Fake, Shutdown, tokio::task::JoinHandle<()>) {
    let (fake, address) = Fake::start(script).await;
    let registration = Registration {
        key: ReplicaKey::parse("orders", "r-1").unwrap(),
        address: Address::parse("127.0.0.1:9001").unwrap(),
        ttl: Duration::from_secs(5),
    };
    let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect_lazy();
    let shutdown = Shutdown::new();
    let kept = tokio::spawn(registration.keep(channel, shutdown.clone()));
    (fake, shutdown, kept)
}

async fn until(fake: &Fake, holds: impl Fn(&Script) -> bool) {
    let wait = async {
        while !fake.with(|script| holds(script)) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.expect("the condition holds in time");
}

#[tokio::test]
async fn a_lease_that_is_gone_is_registered_anew_and_the_end_deregisters_with_the_lease() {
    for gone in [(Code::NotFound, reason::LEASE_EXPIRED), (Code::FailedPrecondition, reason::REPLICA_REMOVED)]
    {
        let script = Script { refuse_heartbeat: Some(gone), ..Default::default() };
        let (fake, shutdown, kept) = register(script).await;
        until(&fake, |script| script.registered.len() == 2 && script.heartbeats > 2).await;
        shutdown.begin();
        kept.await.unwrap();
        let asked = fake.with(|script| script.deregistered.pop().unwrap());
        assert_eq!((asked.lease_id, asked.force), (format!("{:032x}", 7), false));
    }
}

#[tokio::test]
async fn a_heartbeat_that_fails_for_other_reasons_is_tried_again() {
    let script =
        Script { refuse_heartbeat: Some((Code::Unavailable, reason::OVERLOADED)), ..Default::default() };
    let (fake, _shutdown, _kept) = register(script).await;
    until(&fake, |script| script.heartbeats > 2).await;
    assert_eq!(fake.with(|script| script.registered.len()), 1);
}

#[tokio::test]
async fn a_replica_that_another_process_took_over_is_left_alone() {
    let script = Script {
        refuse_heartbeat: Some((Code::FailedPrecondition, reason::LEASE_MISMATCH)),
        ..Default::default()
    };
    let (fake, _shutdown, kept) = register(script).await;
    kept.await.unwrap();
    assert_eq!(fake.with(|script| (script.registered.len(), script.deregistered.len())), (1, 0));
}
