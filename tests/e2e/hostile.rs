//! Texts that would recolour a terminal, turn its direction or forge a line of a log: each is refused by its field's name, or shown
//! on one line, acted on by nobody, in logs, by gwctl and in events.

use std::{fs, path::Path};

use gateway_proto::v1::{
    Ack, Breaker, BreakerState, DrainReplicaRequest, Event, Hello, Nack, NodeIdentity,
    OverrideBreakerRequest, RegisterRequest, ReportNodeStatusRequest, StreamSnapshotsRequest,
    discovery_service_client::DiscoveryServiceClient, stream_snapshots_request::Message,
};
use gateway_runtime::printable::is_acted_on;
use gateway_tests::{ControlPlane, DataPlane, command, eventually, http1};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Response, Status};
use tonic_types::StatusExt;

use crate::{etcd::request, logs::into_file};

/// What each of them would have begin a line of its own.
const FORGED: &str = "forged()";

fn texts() -> Vec<String> {
    let mut texts: Vec<_> = ["\n", "\r\n", "\r", "\u{1b}[31m", "\u{202e}", "\u{2028}", "\u{9b}31m", "\0"]
        .map(|between| format!("a{between}{FORGED}"))
        .into();
    texts.push(format!("<img src=x onerror={FORGED}>"));
    texts.push("x".repeat(70_000));
    texts
}

/// Notes a text as taken, unless it is refused by this field's name, and on one line.
fn note<T>(field: &str, text: &str, outcome: Result<Response<T>, Status>, taken: &mut Vec<String>) {
    let Err(status) = outcome else { return taken.push(format!("{field}: {text}")) };
    assert_eq!(status.code(), Code::InvalidArgument, "{field} {text:?}: {status}");
    let details = status.get_error_details();
    let violations =
        &details.bad_request().unwrap_or_else(|| panic!("{field} {text:?}: {status}")).field_violations;
    assert!(violations[0].field.contains(field), "{field} {text:?}: {violations:?}");
    let said = format!("{} {} {}", status.message(), violations[0].field, violations[0].description);
    assert!(!said.contains(is_acted_on), "{field}: {said:?}");
}

/// What deployers and operators say; yields what of it was taken.
async fn by_people(control: &ControlPlane) -> Vec<String> {
    let (mut registry, mut observability) = (control.registry(), control.observability());
    let mut taken = Vec::new();
    for text in texts() {
        let wish = request("r-1", "10.0.0.1:80", None);
        let version = RegisterRequest { version: text.clone(), ..wish.clone() };
        note("version", &text, registry.register(version).await, &mut taken);
        for labels in [[("team".into(), text.clone())], [(text.clone(), "x".into())]] {
            let labelled = RegisterRequest { labels: labels.into(), ..wish.clone() };
            note("labels", &text, registry.register(labelled).await, &mut taken);
        }
        for field in ["reason", "author"] {
            let said = |name: &str| if name == field { text.clone() } else { "known".into() };
            let drain = DrainReplicaRequest {
                service: "orders".into(),
                replica_id: "r-1".into(),
                reason: said("reason"),
                author: said("author"),
                allow_last: true,
                ..Default::default()
            };
            note(field, &text, registry.drain_replica(drain).await, &mut taken);
            let decision = OverrideBreakerRequest {
                service: "orders".into(),
                replica_id: "r-1".into(),
                state: BreakerState::ForcedOpen.into(),
                ttl: Some(prost_types::Duration { seconds: 600, nanos: 0 }),
                reason: said("reason"),
                author: said("author"),
                ..Default::default()
            };
            note(field, &text, observability.override_breaker(decision).await, &mut taken);
        }
    }
    taken
}

/// What a data plane says: of itself, which is noted, then of an update and of a replica. Yields its streams.
async fn by_data_plane(
    control: &ControlPlane,
    node_id: &str,
    text: &str,
    taken: &mut Vec<String>,
) -> impl Sized + use<> {
    let node = |version: &str| NodeIdentity {
        node_id: node_id.into(),
        version: version.into(),
        ..Default::default()
    };
    let message = |message| StreamSnapshotsRequest { message: Some(message) };
    let hello = |version: &str| {
        message(Message::Hello(Hello {
            node: Some(node(version)),
            services: vec!["*".into()],
            ..Default::default()
        }))
    };
    let mut discovery = DiscoveryServiceClient::connect(control.url()).await.unwrap();
    let followed = async {
        let answers = discovery.stream_snapshots(tokio_stream::iter([hello(text)])).await;
        answers?.into_inner().message().await.map(Response::new)
    };
    note("version", text, followed.await, taken);
    let first = ReportNodeStatusRequest { node: Some(node(text)), full: true, ..Default::default() };
    let reported = async {
        let answers = control.observability().report_node_status(tokio_stream::iter([first])).await;
        answers?.into_inner().message().await.map(Response::new)
    };
    note("version", text, reported.await, taken);
    let (says, outbound) = mpsc::channel(2);
    says.send(hello("1")).await.unwrap();
    let node = Some(node("1"));
    let mut updates = discovery.stream_snapshots(ReceiverStream::new(outbound)).await.unwrap().into_inner();
    let nonce = updates.message().await.unwrap().unwrap().nonce;
    let nack = Some(Nack { reason: text.into(), message: text.into() });
    says.send(message(Message::Ack(Ack { nonce, revision: 0, nack }))).await.unwrap();

    let (reports, outbound) = mpsc::channel(2);
    let row = Breaker {
        service: "orders".into(),
        replica_id: "r-1".into(),
        state: BreakerState::Open.into(),
        reason: text.into(),
        last_errors: vec![text.into()],
        ..Default::default()
    };
    let event = Event {
        event_type: "BREAKER_OPENED".into(),
        service: "orders".into(),
        replica_id: "r-1".into(),
        message: text.into(),
        actor: text.into(),
        metadata: [("because".into(), text.into()), (text.into(), "x".into())].into(),
        ..Default::default()
    };
    let (breakers, events) = (vec![row], vec![event]);
    let report = ReportNodeStatusRequest { node, full: true, breakers, events, ..Default::default() };
    reports.send(report).await.unwrap();
    let answers = control.observability().report_node_status(ReceiverStream::new(outbound)).await.unwrap();
    (says, updates, reports, answers)
}

/// All texts in it, names of fields, too.
fn texts_in(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(items) => items.iter().flat_map(texts_in).collect(),
        Value::Object(fields) => {
            fields.iter().flat_map(|(name, value)| [vec![name.as_str()], texts_in(value)].concat()).collect()
        }
        _ => Vec::new(),
    }
}

/// Whether a line begins as those of the log do: by when it was, and how grave.
fn is_of_the_log(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let is_time =
        |word: &str| word.starts_with("20") && word.ends_with('Z') && word.as_bytes().get(10) == Some(&b'T');
    words.next().is_some_and(is_time) && matches!(words.next(), Some("ERROR" | "WARN" | "INFO"))
}

async fn nothing_acts(format: &str, folder: &Path) {
    let (log, of_data_plane) = (folder.join("control.log"), folder.join("data.log"));
    let store = format!("redb:{}", folder.join("r.redb").display());
    let mut control = ControlPlane::start_in(into_file(&log), store, &["--log-format", format]).await;
    let follows =
        ["--control-plane", &control.url(), "--node-id", "dp-1", "--no-cache", "--log-format", format];
    let mut data = DataPlane::start_in(into_file(&of_data_plane), &follows).await;
    control.registry().register(request("r-1", "10.0.0.1:80", None)).await.unwrap();
    let taken = by_people(&control).await;
    assert!(taken.iter().any(|text| text.starts_with("reason: <img")), "markup is text: {taken:?}");
    let acting = taken.iter().find(|text| text.contains(is_acted_on));
    assert_eq!(acting, None, "of {taken:?}");
    let (mut streams, mut of_themselves) = (Vec::new(), Vec::new());
    for (number, text) in texts().into_iter().enumerate() {
        streams.push(by_data_plane(&control, &format!("hostile-{number}"), &text, &mut of_themselves).await);
    }
    let acting = of_themselves.iter().find(|text| text.contains(is_acted_on));
    assert_eq!(acting, None, "of {of_themselves:?}");
    let count = streams.len();
    let events = eventually("all of them are told", async || {
        let listed = http1::get(control.address(), "/v1/events?pageSize=1000").await;
        let said: Value = serde_json::from_slice(listed.body()).unwrap();
        let told = |event_type: &str| {
            let events = said["events"].as_array().unwrap().iter();
            events.filter(|event| event["eventType"] == event_type).count()
        };
        let told = ["NODE_NACKED", "BREAKER_OPENED"].map(told);
        if told == [count, count] { Ok(said) } else { Err(format!("{told:?} of {count}: {said}")) }
    })
    .await;
    for text in texts_in(&events) {
        assert!(!text.contains(is_acted_on), "{text:?}");
    }
    for line in [
        "get events --limit 1000",
        "get replicas orders -o wide",
        "get breakers -a -o wide",
        "get nodes -o wide",
        "get overrides -o wide",
        "describe service orders",
        "describe replica orders/r-1",
        "describe breaker orders/r-1",
        "describe node hostile-0",
        "describe override breaker/orders/r-1",
        "explain orders/r-1",
    ] {
        let args: Vec<_> = line.split_whitespace().collect();
        let said = command::gwctl(&control.url(), &args).await.success();
        assert!(!said.contains(|char| char != '\n' && is_acted_on(char)), "{line}: {said:?}");
        assert!(!said.lines().any(|line| line.trim_start().starts_with(FORGED)), "{line}: {said}");
    }
    for process in [data.process(), control.process()] {
        process.terminate();
        process.exited().await;
    }
    for (log, told) in [(&log, FORGED), (&of_data_plane, "control plane")] {
        let said = fs::read_to_string(log).unwrap();
        assert!(said.contains(told), "{said}");
        assert!(!said.contains(|char| char != '\n' && is_acted_on(char)), "{said:?}");
        for line in said.lines() {
            match format {
                "json" => assert!(serde_json::from_str::<Value>(line).is_ok(), "{line}"),
                _ => assert!(is_of_the_log(line), "{line}"),
            }
        }
    }
}

#[tokio::test]
async fn texts_that_would_act_are_refused_by_their_field_or_shown_on_one_line() {
    nothing_acts("text", tempfile::tempdir().unwrap().path()).await;
}

#[tokio::test]
async fn texts_that_would_act_are_values_on_one_line_of_a_log_in_json() {
    nothing_acts("json", tempfile::tempdir().unwrap().path()).await;
}
