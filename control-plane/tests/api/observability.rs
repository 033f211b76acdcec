use gateway_proto::v1::{self, BreakerState};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use crate::plane::{PATIENCE, Plane, eventually, explain, request, seconds};

struct Reporter {
    reports: mpsc::Sender<v1::ReportNodeStatusRequest>,
    answers: Streaming<v1::ReportNodeStatusResponse>,
}

impl Reporter {
    async fn connect(plane: &Plane, first: v1::ReportNodeStatusRequest) -> Self {
        let (reports, outbound) = mpsc::channel(8);
        reports.send(first).await.unwrap();
        let answers = plane.observability().report_node_status(ReceiverStream::new(outbound)).await.unwrap();
        Self { reports, answers: answers.into_inner() }
    }
}

fn report(node: &str, rows: &[(&str, BreakerState)]) -> v1::ReportNodeStatusRequest {
    let row = |(id, state): &(&str, BreakerState)| v1::Breaker {
        service: "orders".into(),
        replica_id: (*id).into(),
        state: (*state).into(),
        reason: format!("as {node} sees it"),
        trip_count: 1,
        ..Default::default()
    };
    v1::ReportNodeStatusRequest {
        node: Some(v1::NodeIdentity { node_id: node.into(), version: "1".into() }),
        full: true,
        breakers: rows.iter().map(row).collect(),
        ..Default::default()
    }
}

async fn breakers(plane: &Plane, list: v1::ListBreakersRequest) -> Vec<v1::Breaker> {
    plane.observability().list_breakers(list).await.unwrap().into_inner().breakers
}

async fn plane_with(ids: &[&str]) -> Plane {
    let plane = Plane::start().await;
    for (port, id) in (1..).zip(ids) {
        let wish = request("orders", &format!("10.0.0.1:{port}"));
        plane.register(v1::RegisterRequest { replica_id: (*id).into(), ..wish }).await;
    }
    plane
}

#[tokio::test]
async fn breakers_are_listed_merged_or_for_each_data_plane() {
    let plane = plane_with(&["a", "b"]).await;
    let mut one =
        Reporter::connect(&plane, report("n1", &[("a", BreakerState::Open), ("b", BreakerState::Closed)]))
            .await;
    assert_eq!(one.answers.message().await.unwrap().unwrap().report_interval, seconds(1));
    let two = report("n2", &[("a", BreakerState::Closed), ("unknown", BreakerState::Open)]);
    let _two = Reporter::connect(&plane, two).await;

    let per_node = v1::ListBreakersRequest { per_node: true, ..Default::default() };
    let rows =
        eventually(async || Some(breakers(&plane, per_node.clone()).await).filter(|rows| rows.len() == 3))
            .await;
    let names: Vec<_> = rows.iter().map(|row| format!("{}@{}", row.replica_id, row.node_id)).collect();
    assert_eq!(names, ["a@n1", "a@n2", "b@n1"]);

    let merged = breakers(&plane, v1::ListBreakersRequest::default()).await;
    let worst = &merged[0];
    assert_eq!((worst.replica_id.as_str(), worst.state()), ("a", BreakerState::Open));
    assert_eq!((worst.open_node_count, worst.node_count, worst.trip_count), (1, 2, 2));
    assert_eq!((worst.reason.as_str(), worst.node_id.as_str()), ("as n1 sees it", ""));

    let open = v1::ListBreakersRequest { states: vec![BreakerState::Open.into()], ..Default::default() };
    assert_eq!(breakers(&plane, open).await.len(), 1);
    let get = v1::GetServiceRequest { service: "orders".into() };
    let service = plane.registry().get_service(get).await.unwrap().into_inner().service.unwrap();
    assert_eq!(service.open_breaker_count, 1);

    let mut page = v1::ListBreakersRequest { per_node: true, page_size: 1, ..Default::default() };
    let mut names = Vec::new();
    loop {
        let answer = plane.observability().list_breakers(page.clone()).await.unwrap().into_inner();
        names.extend(answer.breakers.iter().map(|row| format!("{}@{}", row.replica_id, row.node_id)));
        page.page_token = answer.next_page_token;
        if page.page_token.is_empty() {
            break;
        }
    }
    assert_eq!(names, ["a@n1", "a@n2", "b@n1"]);
}

#[tokio::test]
async fn a_replica_that_goes_takes_its_breakers_with_it() {
    let plane = plane_with(&["a"]).await;
    let _node = Reporter::connect(&plane, report("n1", &[("a", BreakerState::Open)])).await;
    let list = v1::ListBreakersRequest::default();
    eventually(async || breakers(&plane, list.clone()).await.pop()).await;
    let leave = v1::DeregisterRequest {
        service: "orders".into(),
        replica_id: "a".into(),
        force: true,
        ..Default::default()
    };
    plane.registry().deregister(leave).await.unwrap();
    assert_eq!(breakers(&plane, list).await, []);
}

#[tokio::test]
async fn a_data_plane_without_a_snapshot_stream_is_named_as_unreachable() {
    let plane = plane_with(&["a"]).await;
    let _node = Reporter::connect(&plane, report("n1", &[])).await;
    let list = v1::ListBreakersRequest::default();
    let unreachable = eventually(async || {
        let answer = plane.observability().list_breakers(list.clone()).await.unwrap().into_inner();
        Some(answer.unreachable_node_ids).filter(|ids| !ids.is_empty())
    })
    .await;
    assert_eq!(unreachable, ["n1"]);
}

#[tokio::test]
async fn a_report_with_a_bad_row_ends_the_stream_and_names_it() {
    let plane = plane_with(&["a"]).await;
    let mut bad = report("n1", &[("a", BreakerState::Open), ("b", BreakerState::Open)]);
    bad.breakers[1].replica_id = "B".into();
    let mut node = Reporter::connect(&plane, bad).await;
    node.answers.message().await.unwrap();
    let status = node.answers.message().await.unwrap_err();
    assert_eq!(
        explain(&status),
        (Code::InvalidArgument, "INVALID_FIELD".into(), "breakers[1].replica_id".into())
    );
    let mut nameless = report("n1", &[]);
    nameless.node = None;
    let status = Reporter::connect(&plane, nameless).await.answers.message().await.unwrap_err();
    assert_eq!(explain(&status).2, "node.node_id");
}

#[tokio::test]
async fn events_of_registry_and_data_planes_share_one_timeline() {
    let plane = plane_with(&["a"]).await;
    let node = Reporter::connect(&plane, report("n1", &[("a", BreakerState::Open)])).await;
    let opened = v1::Event {
        service: "orders".into(),
        replica_id: "a".into(),
        event_type: "BREAKER_OPENED".into(),
        message: "consecutive_failures 5 >= 5".into(),
        ..Default::default()
    };
    let update = v1::ReportNodeStatusRequest { events: vec![opened], ..Default::default() };
    node.reports.send(update).await.unwrap();
    let list = v1::ListEventsRequest {
        service: "orders".into(),
        replica_id: "a".into(),
        page_size: 1,
        ..Default::default()
    };
    let newest = eventually(async || {
        let answer = plane.observability().list_events(list.clone()).await.unwrap().into_inner();
        Some(answer).filter(|answer| answer.events[0].event_type == "BREAKER_OPENED")
    })
    .await;
    assert_eq!(newest.events[0].node_id, "n1");
    let older = v1::ListEventsRequest { page_token: newest.next_page_token, ..list };
    let older = plane.observability().list_events(older).await.unwrap().into_inner();
    assert_eq!(older.events[0].event_type, "REPLICA_REGISTERED");
    assert!(older.events[0].event_id < newest.events[0].event_id);
}

#[tokio::test]
async fn a_watch_goes_on_from_its_cursor_and_tells_of_a_gap() {
    let plane = plane_with(&["a"]).await;
    let listed = plane.observability().list_events(v1::ListEventsRequest::default()).await.unwrap();
    let cursor = listed.get_ref().events[0].event_id.clone();
    plane.register(request("billing", "10.0.0.9:1")).await;

    let watch = |after: &str| v1::WatchEventsRequest { after_event_id: after.into(), ..Default::default() };
    let mut stream = plane.observability().watch_events(watch(&cursor)).await.unwrap().into_inner();
    let missed = timeout(PATIENCE, stream.message()).await.unwrap().unwrap().unwrap();
    assert_eq!((missed.events[0].service.as_str(), missed.gap), ("billing", false));
    plane.register(request("users", "10.0.0.9:1")).await;
    let live = timeout(PATIENCE, stream.message()).await.unwrap().unwrap().unwrap();
    assert_eq!(live.events[0].service, "users");

    let foreign = watch("000000000001-000000000001");
    let mut stream = plane.observability().watch_events(foreign).await.unwrap().into_inner();
    let all = timeout(PATIENCE, stream.message()).await.unwrap().unwrap().unwrap();
    assert_eq!((all.events.len(), all.gap), (3, true));

    let status = plane.observability().watch_events(watch("yesterday")).await.unwrap_err();
    assert_eq!(explain(&status).2, "after_event_id");
}
