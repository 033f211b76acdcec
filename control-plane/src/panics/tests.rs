use std::{future::pending, net::SocketAddr, sync::Mutex, time::Duration};

use axum::{
    Router,
    middleware::from_fn_with_state,
    routing::{get, post},
};
use gateway_proto::v1::{self, EventSeverity, registry_service_client::RegistryServiceClient};
use gateway_runtime::Shutdown;
use http::header;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc, watch},
};
use tokio_stream::StreamExt;
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt;

use super::*;
use crate::{
    auth::Caller,
    clock,
    edge::Edge,
    effects::Effects,
    leases::Leases,
    listeners::Listeners,
    observe::Cursor,
    publish::Publisher,
    registry::{Limits, View},
    server::{Routers, Server},
    store::Memory,
    strangers::Strangers,
    writer::Writer,
};

fn panics() -> Panics {
    Panics::new(&Arc::new(Metrics::new()), &Arc::new(Observation::new(1)))
}

/// Type, severity and message of every event, oldest first.
fn events(panics: &Panics) -> Vec<(String, EventSeverity, String)> {
    let listed = panics.observation.read_events(|timeline| timeline.since(Cursor::After(0), 99)).events;
    let shown = |event: &v1::Event| (event.event_type.clone(), event.severity(), event.message.clone());
    listed.iter().map(|event| shown(event)).collect()
}

fn panicked(message: &str) -> (String, EventSeverity, String) {
    ("HANDLER_PANICKED".into(), EventSeverity::Error, message.into())
}

fn count(panics: &Panics, task: &str) -> u64 {
    let publisher = Publisher::new("e".into(), View::default());
    let text =
        panics.metrics.text(&publisher, &panics.observation, Duration::ZERO, std::time::SystemTime::now());
    let line = format!("gateway_panics_total{{task=\"{task}\"}} ");
    text.lines().find_map(|shown| shown.strip_prefix(&line)).map_or(0, |count| count.parse().unwrap())
}

/// A server with these handlers behind the line.
async fn serve(panics: &Panics, grpc: Router, http: Router) -> SocketAddr {
    let behind = |router: Router, handler| {
        let containment = Containment { panics: panics.clone(), handler };
        router.layer(from_fn_with_state(containment, contain))
    };
    let routers = Routers { grpc: behind(grpc, Handler::Grpc), http: behind(http, Handler::Http) };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let places = (100, Strangers::new(100, false));
    let server = Server::new(routers, None, places, Shutdown::new(), panics.clone());
    tokio::spawn(Arc::new(server).accept_all(Arc::new(Listeners { tcp: Some(listener), unix: None })));
    address
}

async fn client(address: SocketAddr) -> RegistryServiceClient<Channel> {
    let endpoint = Channel::from_shared(format!("http://{address}")).unwrap();
    RegistryServiceClient::new(endpoint.connect().await.unwrap())
}

fn explain(status: &Status) -> (Code, String) {
    let details = status.get_error_details();
    (status.code(), details.error_info().map(|info| info.reason.clone()).unwrap_or_default())
}

/// A body that has something to say, and then, once it may, no more than a panic.
fn half_a_body(first: &'static [u8], may_panic: Arc<Notify>) -> Body {
    let (chunks, rest) = mpsc::channel::<Result<_, std::io::Error>>(2);
    chunks.try_send(Ok(first)).unwrap();
    tokio::spawn(async move {
        may_panic.notified().await;
        chunks.send(Ok(b"")).await
    });
    let spoken = |chunk: Result<&'static [u8], _>| {
        assert!(!chunk.as_ref().unwrap().is_empty(), "out of words");
        chunk
    };
    Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(rest).map(spoken))
}

async fn read_some(stream: &mut TcpStream, answer: &mut String) {
    let mut bytes = [0; 1024];
    let count = stream.read(&mut bytes).await.unwrap();
    assert_ne!(count, 0, "the answer breaks off: {answer}");
    answer.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
}

#[tokio::test]
async fn a_panic_in_a_grpc_handler_is_internal_for_its_caller_and_nothing_for_others_on_the_connection() {
    let panics = panics();
    let release = Arc::new(Notify::new());
    let waiting = Arc::clone(&release);
    let other = async move || {
        waiting.notified().await;
        Status::not_found("as it should be").into_http::<Body>()
    };
    let boom = async || -> Response { panic!("no \u{1b}[31mluck\nat all") };
    let grpc = Router::new()
        .route("/gateway.v1.RegistryService/GetReplica", post(boom))
        .route("/gateway.v1.RegistryService/GetService", post(other));
    let client = client(serve(&panics, grpc, Router::new()).await).await;

    let mut beside = client.clone();
    let others = tokio::spawn(async move { beside.get_service(v1::GetServiceRequest::default()).await });
    let status = client.clone().get_replica(v1::GetReplicaRequest::default()).await.unwrap_err();
    assert_eq!(explain(&status), (Code::Internal, "INTERNAL_ERROR".into()));
    assert!(!status.message().contains("luck"), "what went wrong inside is not for callers: {status}");
    release.notify_one();
    assert_eq!(others.await.unwrap().unwrap_err().message(), "as it should be");

    let told = r"/gateway.v1.RegistryService/GetReplica panicked: no \u{1b}[31mluck\nat all";
    assert_eq!(events(&panics), [panicked(told)]);
    assert_eq!(count(&panics, "grpc"), 1);
}

#[tokio::test]
async fn a_panic_in_the_body_of_a_grpc_answer_ends_it_as_internal() {
    let panics = panics();
    // An empty message, whole.
    let may_panic = Arc::new(Notify::new());
    let body = half_a_body(&[0; 5], Arc::clone(&may_panic));
    let body = Arc::new(Mutex::new(Some(body)));
    let half =
        async move || ([(header::CONTENT_TYPE, "application/grpc")], body.lock().unwrap().take().unwrap());
    let grpc = Router::new().route("/gateway.v1.RegistryService/WatchReplicas", post(half));
    let mut client = client(serve(&panics, grpc, Router::new()).await).await;
    let mut stream = client.watch_replicas(v1::WatchReplicasRequest::default()).await.unwrap().into_inner();
    assert_eq!(stream.message().await.unwrap(), Some(v1::WatchReplicasResponse::default()));
    may_panic.notify_one();
    let status = stream.message().await.unwrap_err();
    assert_eq!(explain(&status), (Code::Internal, "INTERNAL_ERROR".into()));
    assert_eq!(
        events(&panics),
        [panicked("/gateway.v1.RegistryService/WatchReplicas panicked: out of words")]
    );
}

#[tokio::test]
async fn a_panic_in_an_http_handler_is_a_problem_for_its_caller_and_the_connection_goes_on() {
    let panics = panics();
    let boom = async || -> Response { panic!("boom") };
    let http = Router::new().route("/boom", get(boom)).route("/fine", get(async || "fine"));
    let address = serve(&panics, Router::new(), http).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /boom HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    while !answer.ends_with("}\n") {
        read_some(&mut stream, &mut answer).await;
    }
    assert!(answer.starts_with("HTTP/1.1 500 ") && answer.contains("application/problem+json"), "{answer}");
    assert!(answer.contains(r#""reason":"INTERNAL_ERROR""#) && !answer.contains("boom"), "{answer}");
    stream.write_all(b"GET /fine HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("fine"), "{answer}");
    assert_eq!(events(&panics), [panicked("/boom panicked: boom")]);
    assert_eq!(count(&panics, "http"), 1);
}

#[tokio::test]
async fn a_panic_in_the_body_of_an_http_answer_never_makes_it_look_complete() {
    let panics = panics();
    let may_panic = Arc::new(Notify::new());
    let body = Arc::new(Mutex::new(Some(half_a_body(b"half", Arc::clone(&may_panic)))));
    let http = Router::new().route("/half", get(async move || body.lock().unwrap().take().unwrap()));
    let address = serve(&panics, Router::new(), http).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /half HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    while !answer.ends_with("4\r\nhalf\r\n") {
        read_some(&mut stream, &mut answer).await;
    }
    may_panic.notify_one();
    // An end or a reset, as the system likes; but not the chunk of no bytes that completes a message.
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    assert_eq!(String::from_utf8(rest).unwrap(), "");
    assert_eq!(events(&panics), [panicked("/half panicked: out of words")]);
}

#[tokio::test]
async fn a_path_from_outside_is_cut_and_escaped_in_the_event() {
    let panics = panics();
    panics.handled("http", &format!("/\u{1b}{}", "x".repeat(1000)), &message("boom"));
    let expected = format!("/\\u{{1b}}{}… panicked: boom", "x".repeat(98));
    assert_eq!(events(&panics), [panicked(&expected)]);
}

#[tokio::test]
async fn a_restart_and_its_end_are_told_with_the_task_and_the_reason() {
    let panics = panics();
    let restart = supervise::Next::Restart { pause: Duration::from_millis(1600), left: 0 };
    for next in [restart, supervise::Next::End] {
        panics.supervised(&Notice { task: "expiry", panic: message("boom"), next });
    }
    let told =
        |event_type: &str, message: &str| (event_type.to_owned(), EventSeverity::Error, message.to_owned());
    assert_eq!(
        events(&panics),
        [
            told(
                "TASK_RESTARTED",
                "task expiry panicked: boom; it starts again in 1.6s (0 restarts are left)"
            ),
            told("TASK_GIVEN_UP", "task expiry panicked too often: boom; the control plane ends"),
        ]
    );
    assert_eq!(count(&panics, "expiry"), 2);
}

#[tokio::test]
async fn a_panic_in_the_task_behind_a_stream_ends_the_stream_as_internal_and_frees_its_place() {
    let edge = edge();
    let (outbound, responses) = mpsc::channel::<Result<(), Status>>(1);
    outbound.try_send(Ok(())).unwrap();
    let place = edge.event_streams.take_for(&Caller::anybody(None)).unwrap();
    assert!(edge.event_streams.take_for(&Caller::anybody(None)).is_err());
    edge.spawn_stream("event_stream", place, outbound, async { panic!("no more news") });
    let mut responses = tokio_stream::wrappers::ReceiverStream::new(responses);
    assert!(responses.next().await.unwrap().is_ok());
    let status = responses.next().await.unwrap().unwrap_err();
    assert_eq!(explain(&status), (Code::Internal, "INTERNAL_ERROR".into()));
    assert!(responses.next().await.is_none());
    edge.streams.close();
    edge.streams.wait().await;
    assert!(edge.event_streams.take_for(&Caller::anybody(None)).is_ok());
    assert_eq!(events(&edge.panics), [panicked("event_stream panicked: no more news")]);
    assert_eq!(count(&edge.panics, "event_stream"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_reads_nothing_does_not_hold_up_the_end_of_its_stream() {
    let edge = edge();
    let (outbound, _responses) = mpsc::channel(1);
    outbound.try_send(Ok(())).unwrap();
    let place = edge.event_streams.take_for(&Caller::anybody(None)).unwrap();
    edge.spawn_stream("event_stream", place, outbound, async { Err(Refusal::AckOverdue.into()) });
    edge.streams.close();
    edge.streams.wait().await;
}

fn message(text: &str) -> PanicMessage {
    PanicMessage::of(&text.to_owned())
}

/// An edge with one place for event streams, whose writer takes no command.
fn edge() -> Edge {
    let effects = Effects {
        publisher: Arc::new(Publisher::new("e".into(), View::default())),
        leases: Arc::new(Leases::new(clock::now())),
        observation: Arc::new(Observation::new(1)),
        metrics: Arc::new(Metrics::new()),
    };
    let limits = Limits { replicas: 1, replicas_per_service: 1 };
    let (writer, commands, _) = Writer::new(Memory::new(), effects.clone(), limits, 1);
    tokio::spawn(async move {
        let _writer = writer;
        pending::<()>().await;
    });
    Edge::around(effects, commands, watch::channel(None).1)
}
