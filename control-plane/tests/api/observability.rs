use gateway_proto::v1::{self, BreakerState};
use prost_types::Timestamp;
use tokio::time::timeout;
use tonic::Code;

use crate::{
    plane::{PATIENCE, Plane, eventually, explain, request, seconds},
    reporter::{Reporter, plane_with, report, row},
};

async fn breakers(plane: &Plane, list: v1::ListBreakersRequest) -> Vec<v1::Breaker> {
    plane.observability().list_breakers(list).await.unwrap().into_inner().breakers
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
    node.send(update).await;
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

#[tokio::test]
async fn an_operators_word_is_shown_on_the_breaker_that_obeys_it_and_counts_as_open() {
    let plane = plane_with(&["a"]).await;
    let entry = v1::OverrideEntry {
        override_id: "breaker/orders/a".into(),
        service: "orders".into(),
        replica_id: "a".into(),
        kind: v1::OverrideKind::BreakerOpen.into(),
        author: "ann".into(),
        reason: "broken disk".into(),
        ..Default::default()
    };
    let forced = v1::Breaker { active_override: Some(entry.clone()), ..row("a", BreakerState::ForcedOpen) };
    let _one = Reporter::connect(
        &plane,
        v1::ReportNodeStatusRequest { breakers: vec![forced], ..report("n1", &[]) },
    )
    .await;
    let _two = Reporter::connect(&plane, report("n2", &[("a", BreakerState::Open)])).await;
    let merged = eventually(async || {
        breakers(&plane, v1::ListBreakersRequest::default()).await.pop().filter(|row| row.node_count == 2)
    })
    .await;
    assert_eq!((merged.state(), merged.open_node_count), (BreakerState::ForcedOpen, 2));
    assert_eq!(merged.active_override, Some(entry));
    assert!(merged.report_time.is_some());
    let get = v1::GetServiceRequest { service: "orders".into() };
    let service = plane.registry().get_service(get).await.unwrap().into_inner().service.unwrap();
    assert_eq!(service.open_breaker_count, 1);
}

#[tokio::test]
async fn what_data_planes_see_of_a_replica_is_beside_its_health() {
    let plane = plane_with(&["a", "b"]).await;
    let seen = v1::Breaker {
        attempt_count: 7,
        failure_count: 5,
        last_errors: vec!["connect refused".into()],
        ..row("a", BreakerState::Open)
    };
    let _node =
        Reporter::connect(&plane, v1::ReportNodeStatusRequest { breakers: vec![seen], ..report("n1", &[]) })
            .await;
    let get = |id: &str| v1::GetReplicaRequest { service: "orders".into(), replica_id: id.into() };
    let replica = eventually(async || {
        let replica = plane.registry().get_replica(get("a")).await.unwrap().into_inner().replica.unwrap();
        replica.observed.is_some().then_some(replica)
    })
    .await;
    let observed = replica.observed.clone().unwrap();
    assert_eq!((observed.node_count, observed.open_node_count), (1, 1));
    assert_eq!((observed.attempt_count, observed.failure_count), (7, 5));
    assert_eq!(observed.last_errors, ["connect refused"]);
    assert_eq!(replica.health(), v1::HealthStatus::Healthy);
    let list = v1::ListReplicasRequest { service: "orders".into(), ..Default::default() };
    let listed = plane.registry().list_replicas(list).await.unwrap().into_inner().replicas;
    assert_eq!((listed[0].observed.as_ref(), listed[1].observed.as_ref()), (Some(&observed), None));
}

#[tokio::test]
async fn a_data_plane_shows_how_many_replicas_its_guard_holds() {
    let plane = plane_with(&["a"]).await;
    let node = Reporter::connect(&plane, report("n1", &[])).await;
    let held = v1::HeldReplica { service: "orders".into(), replica_id: "z".into(), ..Default::default() };
    let holding = |total_count, replicas| v1::ReportNodeStatusRequest {
        held_replicas: Some(v1::HeldReplicas { replicas, total_count }),
        ..Default::default()
    };
    node.send(holding(3, vec![held])).await;
    let count = async || {
        let answer = plane.observability().list_nodes(v1::ListNodesRequest::default()).await.unwrap();
        answer.into_inner().nodes.pop().map(|node| node.held_replica_count)
    };
    eventually(async || count().await.filter(|count| *count == 3)).await;
    node.send(holding(0, vec![])).await;
    eventually(async || count().await.filter(|count| *count == 0)).await;
    let filter = v1::ListEventsRequest { filter: "event_type : GUARD".into(), ..Default::default() };
    let told = plane.observability().list_events(filter).await.unwrap().into_inner().events;
    let told: Vec<_> = told.iter().map(|event| (event.event_type.as_str(), event.actor.as_str())).collect();
    assert_eq!(told, [("GUARD_CLEARED", "n1"), ("GUARD_HOLDING", "n1")]);
}

fn opened(number: i64, seconds: i64) -> v1::Event {
    v1::Event {
        service: "orders".into(),
        replica_id: "a".into(),
        event_type: "BREAKER_OPENED".into(),
        message: format!("consecutive_failures {number} >= 5"),
        event_time: Some(Timestamp { seconds, nanos: 0 }),
        ..Default::default()
    }
}

#[tokio::test]
async fn events_are_found_by_filter_and_by_time_page_by_page() {
    let plane = plane_with(&["a"]).await;
    let node = Reporter::connect(&plane, report("n1", &[])).await;
    // So far apart that none folds.
    let events = (1..=5).map(|hour| opened(hour, hour * 3600)).collect();
    node.send(v1::ReportNodeStatusRequest { events, ..Default::default() }).await;
    let at = |hour: i64| Some(Timestamp { seconds: hour * 3600, nanos: 0 });
    let list = |filter: &str, from, until| v1::ListEventsRequest {
        filter: filter.into(),
        start_time: from,
        end_time: until,
        page_size: 1,
        ..Default::default()
    };
    let messages = async |mut list: v1::ListEventsRequest| {
        let mut messages = Vec::new();
        loop {
            let answer = plane.observability().list_events(list.clone()).await.unwrap().into_inner();
            messages.extend(
                answer.events.into_iter().map(|event| event.message.replace("consecutive_failures ", "")),
            );
            list.page_token = answer.next_page_token;
            if list.page_token.is_empty() {
                return messages;
            }
        }
    };
    let warnings = "severity >= WARNING AND node_id = n1 AND event_type = BREAKER_*";
    eventually(async || (messages(list(warnings, None, None)).await.len() == 5).then_some(())).await;
    assert_eq!(messages(list(warnings, at(2), at(4))).await, ["3 >= 5", "2 >= 5"]);
    assert_eq!(
        messages(list("message : \"4 >=\" OR message : \"1 >=\"", at(1), None)).await,
        ["4 >= 5", "1 >= 5"]
    );
    assert_eq!(
        messages(list("event_type = REPLICA_REGISTERED AND NOT node_id : *", None, None)).await.len(),
        1
    );

    // A token is of one filter.
    let first = plane.observability().list_events(list(warnings, None, None)).await.unwrap().into_inner();
    let other =
        v1::ListEventsRequest { page_token: first.next_page_token, ..list("severity >= INFO", None, None) };
    let status = plane.observability().list_events(other).await.unwrap_err();
    assert_eq!(explain(&status).1, "PAGE_TOKEN_INVALID");
    let status = plane.observability().list_events(list("severity > LOW", None, None)).await.unwrap_err();
    assert_eq!(explain(&status), (Code::InvalidArgument, "INVALID_FIELD".into(), "filter".into()));
    assert!(
        status.message().contains("at 12: severity: \"LOW\" is not among its values"),
        "{}",
        status.message()
    );
    let status = plane.observability().list_events(list("", at(3), at(3))).await.unwrap_err();
    assert_eq!(explain(&status).2, "end_time");
}

#[tokio::test]
async fn a_watcher_is_told_of_each_repetition_and_a_list_shows_one_event_that_counts_them() {
    let plane = plane_with(&["a"]).await;
    let watch = v1::WatchEventsRequest { filter: "event_type = BREAKER_OPENED".into(), ..Default::default() };
    let mut stream = plane.observability().watch_events(watch).await.unwrap().into_inner();
    let node = Reporter::connect(&plane, report("n1", &[])).await;
    let mut ids = Vec::new();
    for (number, seconds) in [(5, 1000), (6, 1060), (7, 1300)] {
        let events = vec![opened(number, seconds)];
        node.send(v1::ReportNodeStatusRequest { events, ..Default::default() }).await;
        let told = timeout(PATIENCE, stream.message()).await.unwrap().unwrap().unwrap();
        let [event] = told.events.as_slice() else { panic!("{told:?}") };
        let repeats = i32::try_from(ids.len()).unwrap();
        assert_eq!((event.repeat_count, told.gap), (repeats, false));
        ids.push(event.event_id.clone());
    }
    assert!(ids.is_sorted(), "{ids:?}");
    let list = v1::ListEventsRequest { filter: "event_type = BREAKER_OPENED".into(), ..Default::default() };
    let listed = plane.observability().list_events(list).await.unwrap().into_inner().events;
    let [event] = listed.as_slice() else { panic!("{listed:?}") };
    assert_eq!((event.repeat_count, event.message.as_str()), (2, "consecutive_failures 7 >= 5"));
    assert_eq!((event.first_time.unwrap().seconds, event.event_time.unwrap().seconds), (1000, 1300));
    // A reader that was away since the first one misses nothing.
    let resumed = v1::WatchEventsRequest { after_event_id: ids[0].clone(), ..Default::default() };
    let mut stream = plane.observability().watch_events(resumed).await.unwrap().into_inner();
    let told = timeout(PATIENCE, stream.message()).await.unwrap().unwrap().unwrap();
    assert_eq!((told.events.last().unwrap().repeat_count, told.gap), (2, false));
}
