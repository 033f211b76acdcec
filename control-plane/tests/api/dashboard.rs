//! The dashboard as a browser asks for it: its files, its stream, and whether it may change anything.

use gateway_proto::v1::BreakerState;
use serde_json::{Value, json};

use crate::{
    plane::Plane,
    reporter::{Reporter, plane_with, report},
    rest::{get, send},
    streams::{Event, Events, register},
};

const STREAM: &str = "/ui/stream";

/// Reads until all of these were told at least once; yields the last of each.
async fn told(events: &mut Events, kinds: &[&str]) -> (Event, Value) {
    let mut seen = json!({});
    loop {
        let event = events.next().await.expect("the stream goes on");
        for kind in kinds {
            if let Some(value) = event.data.get(kind) {
                seen[kind] = value.clone();
            }
        }
        if kinds.iter().all(|kind| seen.get(kind).is_some()) {
            return (event, seen);
        }
    }
}

fn changes(messages: &Value, of: &str) -> Vec<(String, String)> {
    let change = |message: &Value| {
        let kind = message["changeType"].as_str().unwrap().trim_start_matches("CHANGE_TYPE_").to_owned();
        (kind, message[of]["replicaId"].as_str().unwrap_or_default().to_owned())
    };
    messages.as_array().unwrap().iter().map(change).collect()
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(one, other)| ((*one).to_owned(), (*other).to_owned())).collect()
}

#[tokio::test]
async fn the_page_and_its_files_are_served_and_not_sent_twice() {
    let plane = Plane::start().await;
    let page = get(&plane, "/").await;
    assert_eq!(page.status, 200);
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    assert!(page.header("content-security-policy").unwrap().starts_with("default-src 'self';"));
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
    for part in page.body.split("/ui/").skip(1) {
        let name = part.split('"').next().unwrap();
        assert_eq!(get(&plane, &format!("/ui/{name}")).await.status, 200, "{name}");
    }
    let etag = format!("if-none-match: {}", page.header("etag").unwrap());
    for path in ["/", "/ui", "/ui/", "/ui/index.html"] {
        assert_eq!(send(&plane, "GET", path, &etag, "").await.status, 304, "{path}");
    }
    assert_eq!(get(&plane, "/ui/nothing.js").await.problem().0, 404);
    assert_eq!(send(&plane, "POST", "/ui/app.js", "", "").await.status, 405);
    let foreign = send(&plane, "GET", "/", "host: evil.example", "").await;
    assert_eq!(foreign.problem().1, "HOST_NOT_ALLOWED");
}

#[tokio::test]
async fn one_stream_tells_everything_and_then_what_changes() {
    let plane = plane_with(&["a", "b"]).await;
    let reporter =
        Reporter::connect(&plane, report("n1", &[("a", BreakerState::Closed), ("b", BreakerState::Open)]))
            .await;
    let mut events = Events::open(&plane, STREAM, "").await;
    let kinds =
        ["hello", "replicas", "breakers", "nodes", "overrides", "policies", "revision", "stats", "now"];
    let (_, seen) = told(&mut events, &kinds).await;
    assert_eq!(seen["hello"]["takesWrites"], true);
    assert_eq!(seen["hello"]["isDetailed"], true);
    assert_eq!(
        changes(&seen["replicas"], "replica"),
        pairs(&[("RESET", ""), ("ADDED", "a"), ("ADDED", "b"), ("BOOKMARK", "")])
    );
    assert_eq!(
        changes(&seen["breakers"], "breaker"),
        pairs(&[("ADDED", "a"), ("ADDED", "b"), ("BOOKMARK", "")])
    );
    assert_eq!(seen["breakers"][1]["breaker"]["nodeId"], "n1");
    assert_eq!(seen["nodes"]["changed"][0]["nodeId"], "n1");

    register(&plane, "c", "10.0.0.3:80").await;
    reporter.send(report("n1", &[("a", BreakerState::Open), ("b", BreakerState::Open)])).await;
    let (_, seen) = told(&mut events, &["replicas", "breakers", "events"]).await;
    assert_eq!(changes(&seen["replicas"], "replica"), pairs(&[("ADDED", "c"), ("BOOKMARK", "")]));
    let breakers = changes(&seen["breakers"], "breaker");
    assert!(breakers.contains(&("MODIFIED".into(), "a".into())), "{breakers:?}");
}

#[tokio::test]
async fn a_page_that_reconnects_goes_on_where_it_was() {
    let plane = Plane::start().await;
    let mut events = Events::open(&plane, STREAM, "").await;
    told(&mut events, &["replicas"]).await;
    register(&plane, "a", "10.0.0.1:80").await;
    let (last, _) = told(&mut events, &["replicas", "events"]).await;
    drop(events);
    register(&plane, "b", "10.0.0.2:80").await;

    let known = format!("last-event-id: {}\r\n", last.id.unwrap());
    let mut events = Events::open(&plane, STREAM, &known).await;
    let (_, seen) = told(&mut events, &["hello", "replicas", "events"]).await;
    assert_eq!(changes(&seen["replicas"], "replica"), pairs(&[("ADDED", "b"), ("BOOKMARK", "")]));
    let missed = seen["events"][0]["events"].as_array().unwrap();
    assert_eq!(missed.iter().map(|event| event["replicaId"].as_str().unwrap()).collect::<Vec<_>>(), ["b"]);
}

#[tokio::test]
async fn an_id_of_another_control_plane_begins_anew() {
    let plane = Plane::start().await;
    register(&plane, "a", "10.0.0.1:80").await;
    for known in ["x|y:1", "|", "nonsense", "000000000000-000000000001|other:7"] {
        let mut events = Events::open(&plane, STREAM, &format!("last-event-id: {known}\r\n")).await;
        let (_, seen) = told(&mut events, &["hello", "replicas"]).await;
        let told = changes(&seen["replicas"], "replica");
        assert_eq!(told, pairs(&[("RESET", ""), ("ADDED", "a"), ("BOOKMARK", "")]), "{known}");
    }
}

#[tokio::test]
async fn pages_are_bounded_in_number_and_those_that_leave_make_room() {
    let plane = Plane::start().await;
    let mut pages = Vec::new();
    for _ in 0..32 {
        pages.push(Events::open(&plane, STREAM, "").await);
    }
    let refused = get(&plane, STREAM).await;
    assert_eq!((refused.problem().0, refused.problem().1.as_str()), (429, "QUOTA_EXCEEDED"));
    // Others can still look.
    Events::open(&plane, "/v1/events?watch=1", "").await;
    Events::open(&plane, "/v1/breakers?watch=1", "").await;
    pages.clear();
    crate::plane::eventually(async || {
        let mut stream = tokio::net::TcpStream::connect(plane.listen()).await.unwrap();
        let request = format!("GET {STREAM} HTTP/1.1\r\nhost: localhost\r\n\r\n");
        tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes()).await.unwrap();
        let mut head = [0; 12];
        tokio::io::AsyncReadExt::read_exact(&mut stream, &mut head).await.unwrap();
        (&head == b"HTTP/1.1 200").then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_open_page_does_not_hold_up_the_end() {
    let plane = Plane::start().await;
    let mut events = Events::open(&plane, STREAM, "").await;
    told(&mut events, &["hello"]).await;
    plane.stop().await;
    while events.next().await.is_some() {}
}

#[tokio::test]
async fn beyond_this_machine_pages_change_nothing_unless_that_is_allowed_and_programs_do() {
    let everywhere = Some("0.0.0.0:0".parse().unwrap());
    let body = r#"{"endpoint": {"address": "10.0.0.1:80"}, "permanent": true}"#;
    let path = "/v1/services/orders/replicas";
    let json = "content-type: application/json";
    let page =
        format!("host: localhost:7400\n{json}\norigin: http://localhost:7400\nsec-fetch-site: same-origin");

    let insecure = control_plane::Settings::default().insecure();
    let plane = Plane::start_with(|config| {
        (config.listen, config.access) = (everywhere, insecure.clone());
    })
    .await;
    for (method, path) in
        [("POST", path), ("POST", "/register"), ("DELETE", "/v1/services/orders/replicas/a?force=1")]
    {
        let refused = send(&plane, method, path, &page, body).await;
        assert_eq!(refused.problem(), (403, "ORIGIN_NOT_ALLOWED".into(), String::new()), "{path}");
        assert!(
            refused.json()["detail"].as_str().unwrap().contains("--allow-dashboard-writes"),
            "{}",
            refused.body
        );
    }
    assert_eq!(send(&plane, "GET", "/v1/services", &page, "").await.json()["services"], json!([]));
    let mut events = Events::open(&plane, STREAM, "").await;
    assert_eq!(told(&mut events, &["hello"]).await.1["hello"]["takesWrites"], false);
    assert_eq!(send(&plane, "POST", path, json, body).await.status, 201, "a program");

    let allowed = Plane::start_with(|config| {
        (config.listen, config.allow_dashboard_writes) = (everywhere, true);
        config.access = insecure.clone();
    })
    .await;
    assert_eq!(send(&allowed, "POST", path, &page, body).await.status, 201);
    let local = Plane::start().await;
    assert_eq!(send(&local, "POST", path, &page, body).await.status, 201);
}

#[tokio::test]
async fn the_settings_are_those_of_the_table() {
    let plane = Plane::start().await;
    let settings = get(&plane, "/ui/settings.json").await.json();
    let paths: Vec<_> =
        settings.as_array().unwrap().iter().map(|setting| setting["path"].as_str().unwrap()).collect();
    let expected: Vec<_> = gateway_proto::policy::field::FIELDS.iter().map(|field| field.path()).collect();
    assert_eq!(paths, expected);
}
