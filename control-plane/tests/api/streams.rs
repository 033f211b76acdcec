//! Watches as Server-Sent Events: what a reader gets, where it goes on, how it ends.

use gateway_proto::v1;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::timeout,
};

use crate::{
    plane::{PATIENCE, Plane, request},
    rest::{send, write},
};

/// A reader of events.
pub(crate) struct Events(BufReader<TcpStream>);

#[derive(Debug, Default, PartialEq)]
pub(crate) struct Event {
    pub(crate) id: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) data: Value,
}

impl Events {
    pub(crate) async fn open(plane: &Plane, path: &str, headers: &str) -> Self {
        let mut stream = TcpStream::connect(plane.listen()).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut events = Self(BufReader::new(stream));
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            head.push_str(&events.line().await.unwrap());
        }
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(head.contains("content-type: text/event-stream\r\n"), "{head}");
        // How to reconnect comes before anything has happened.
        while events.line().await.unwrap().trim_end() != "retry: 1000" {}
        events
    }

    async fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = timeout(PATIENCE, self.0.read_line(&mut line)).await.expect("something comes");
        (read.unwrap_or(0) > 0).then_some(line)
    }

    /// The next event; `None` at the end. Lines between are comments, or lengths of chunks.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        let mut event = Event::default();
        loop {
            let line = self.line().await?;
            match line.trim_end().split_once(": ") {
                Some(("id", id)) => event.id = Some(id.to_owned()),
                Some(("event", name)) => event.name = Some(name.to_owned()),
                Some(("data", data)) => {
                    event.data = serde_json::from_str(data).unwrap();
                    return Some(event);
                }
                _ => {}
            }
        }
    }

    async fn types(&mut self) -> Vec<(String, String)> {
        let event = self.next().await.unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let events = event.data["events"].as_array().unwrap();
        events.iter().map(|event| (text(&event["eventType"]), text(&event["replicaId"]))).collect()
    }
}

pub(crate) async fn register(plane: &Plane, id: &str, address: &str) {
    plane.register(v1::RegisterRequest { replica_id: id.into(), ..request("orders", address) }).await;
}

#[tokio::test]
async fn a_watch_is_had_by_path_by_parameter_and_by_accept() {
    let plane = Plane::start().await;
    let accept = "accept: text/event-stream\r\n";
    let mut readers = [
        Events::open(&plane, "/v1/events:watch", "").await,
        Events::open(&plane, "/v1/events?watch=1", "").await,
        Events::open(&plane, "/v1/events", accept).await,
    ];
    register(&plane, "r-1", "10.0.0.1:80").await;
    for reader in &mut readers {
        assert_eq!(reader.types().await, [("REPLICA_REGISTERED".into(), "r-1".into())]);
    }
    let list = send(&plane, "GET", "/v1/events?watch=0", "accept: application/json", "").await;
    assert_eq!(list.json()["events"][0]["replicaId"], json!("r-1"));
}

#[tokio::test]
async fn a_reader_that_comes_back_goes_on_after_its_last_event() {
    let plane = Plane::start().await;
    let mut reader = Events::open(&plane, "/v1/events?watch=1", "").await;
    register(&plane, "r-1", "10.0.0.1:80").await;
    let first = reader.next().await.unwrap();
    let id = first.id.unwrap();
    assert_eq!(first.data["events"][0]["eventId"], json!(id));
    drop(reader);
    // What happens meanwhile is not lost.
    register(&plane, "r-2", "10.0.0.2:80").await;
    let mut reader = Events::open(&plane, "/v1/events?watch=1", &format!("last-event-id: {id}\r\n")).await;
    assert_eq!(reader.types().await, [("REPLICA_REGISTERED".into(), "r-2".into())]);
}

#[tokio::test]
async fn a_watch_takes_its_filter_from_the_query() {
    let plane = Plane::start().await;
    let mut reader = Events::open(&plane, "/v1/events?watch=true&service=orders&replicaId=r-2", "").await;
    register(&plane, "r-1", "10.0.0.1:80").await;
    register(&plane, "r-2", "10.0.0.2:80").await;
    assert_eq!(reader.types().await, [("REPLICA_REGISTERED".into(), "r-2".into())]);
}

#[tokio::test]
async fn what_is_wrong_with_a_watch_is_a_problem_and_no_stream() {
    let plane = Plane::start().await;
    for (path, headers, status, field) in [
        ("/v1/events?watch=1&service=Orders", "", 400, "service"),
        ("/v1/events?watch=maybe", "", 400, "watch"),
        ("/v1/events?watch=1&pageSize=7", "", 400, "pageSize"),
        ("/v1/nodes?watch=1", "", 400, "watch"),
        ("/v1/nodes", "accept: text/event-stream", 406, ""),
    ] {
        let refused = send(&plane, "GET", path, headers, "").await;
        let (got, _, at) = refused.problem();
        assert_eq!((got, at.as_str()), (status, field), "{path}");
    }
}

#[tokio::test]
async fn streams_end_at_once_when_the_control_plane_does() {
    let plane = Plane::start().await;
    let mut reader = Events::open(&plane, "/v1/events?watch=1", "").await;
    plane.stop().await;
    // Perhaps the problem, then the end; no "end" that would tell a browser not to come back.
    while let Some(event) = reader.next().await {
        assert_eq!(event.name.as_deref(), Some("problem"));
        assert_eq!(event.data["reason"], json!("SHUTTING_DOWN"));
    }
}

#[tokio::test]
async fn a_reader_that_goes_gives_its_place_back() {
    let plane = Plane::start().await;
    // More than there are places: each is free again before the last is asked for.
    for _ in 0..300 {
        let opened = async || {
            let mut stream = TcpStream::connect(plane.listen()).await.unwrap();
            let request = b"GET /v1/events?watch=1 HTTP/1.1\r\nhost: localhost\r\n\r\n";
            stream.write_all(request).await.unwrap();
            let mut status = String::new();
            timeout(PATIENCE, BufReader::new(stream).read_line(&mut status)).await.unwrap().unwrap();
            status.contains("200").then_some(())
        };
        crate::plane::eventually(opened).await;
    }
}

#[tokio::test]
async fn replicas_are_watched_from_where_the_last_reader_was() {
    let plane = Plane::start().await;
    register(&plane, "r-1", "10.0.0.1:80").await;
    let path = "/v1/services/orders/replicas?watch=1";
    let mut reader = Events::open(&plane, path, "").await;
    let mut changes = Vec::new();
    let position = loop {
        let event = reader.next().await.unwrap();
        changes.push(event.data["changeType"].as_str().unwrap().to_owned());
        if let Some(id) = event.id {
            break id;
        }
    };
    assert_eq!(changes, ["CHANGE_TYPE_RESET", "CHANGE_TYPE_ADDED", "CHANGE_TYPE_BOOKMARK"]);
    drop(reader);
    register(&plane, "r-2", "10.0.0.2:80").await;
    let mut reader = Events::open(&plane, path, &format!("last-event-id: {position}\r\n")).await;
    let added = reader.next().await.unwrap().data;
    assert_eq!(
        (&added["changeType"], &added["replica"]["replicaId"]),
        (&json!("CHANGE_TYPE_ADDED"), &json!("r-2"))
    );
}

#[tokio::test]
async fn the_stream_of_a_drain_has_an_end_and_says_so() {
    let plane = Plane::start().await;
    register(&plane, "r-1", "10.0.0.1:80").await;
    register(&plane, "r-2", "10.0.0.2:80").await;
    let path = "/v1/services/orders/replicas/r-1";
    let body = json!({"drainTimeout": "0s", "reason": "new version"});
    let last = write(&plane, "POST", &format!("{path}:drain"), &body).await;
    assert_eq!(last.status, 200, "{}", last.body);
    assert_eq!(last.json()["replica"]["drain"]["author"], json!("127.0.0.1"));
    // No data plane says that nothing is in flight, so it is over when its time is.
    let mut reader = Events::open(&plane, &format!("{path}:watchDrain"), "").await;
    let mut events = Vec::new();
    while let Some(event) = reader.next().await {
        let is_end = event.name.as_deref() == Some("end");
        events.push(event);
        if is_end {
            break;
        }
    }
    let (end, steps) = events.split_last().unwrap();
    assert_eq!((end.name.as_deref(), &end.data), (Some("end"), &json!({})));
    assert_eq!(steps.last().unwrap().data["replica"]["mode"], json!("REPLICA_MODE_DRAINED"));

    let refused = send(&plane, "POST", "/v1/services/orders/replicas/r-2:drain", "", "").await;
    assert_eq!(refused.problem(), (409, "LAST_READY_REPLICA".into(), String::new()));
    let back = send(&plane, "POST", &format!("{path}:undrain"), "", "").await;
    assert_eq!(back.json()["replica"]["mode"], json!("REPLICA_MODE_SERVING"));
    let etag = back.header("etag").unwrap().to_owned();
    assert_ne!(last.header("etag"), Some(etag.as_str()));
    let stale = format!("if-match: {}", last.header("etag").unwrap());
    assert_eq!(send(&plane, "POST", &format!("{path}:drain"), &stale, "").await.problem().0, 412);
}

#[tokio::test]
async fn breakers_and_statistics_are_streamed() {
    let plane = Plane::start().await;
    let mut breakers = Events::open(&plane, "/v1/breakers?watch=1&perNode=true", "").await;
    assert_eq!(breakers.next().await.unwrap().data["changeType"], json!("CHANGE_TYPE_BOOKMARK"));
    let mut stats = Events::open(&plane, "/v1/stats:watch?interval=1s&perReplica=1", "").await;
    let first = stats.next().await.unwrap();
    assert_eq!((first.id, &first.data["stats"]), (None, &json!([])));
}
