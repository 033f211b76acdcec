use gateway_proto::v1::{
    self, BreakerState, ChangeType, observability_service_client::ObservabilityServiceClient,
};
use tokio::time::timeout;
use tonic::{Streaming, transport::Endpoint};

use crate::{
    plane::{PATIENCE, Plane, eventually, explain, request},
    reporter::{Reporter, plane_with, report, row},
};

/// A reader of one watch.
struct Watch(Streaming<v1::WatchBreakersResponse>);

impl Watch {
    async fn begin(plane: &Plane, request: v1::WatchBreakersRequest) -> Self {
        Self(plane.observability().watch_breakers(request).await.unwrap().into_inner())
    }

    /// What is told up to the next bookmark.
    async fn batch(&mut self) -> Vec<(ChangeType, v1::Breaker)> {
        let mut batch = Vec::new();
        loop {
            let message =
                timeout(PATIENCE, self.0.message()).await.expect("something comes").unwrap().unwrap();
            match message.change_type() {
                ChangeType::Bookmark => return batch,
                change => batch.push((change, message.breaker.unwrap_or_default())),
            }
        }
    }

    /// Change, replica, data plane and state of each.
    async fn told(&mut self) -> Vec<String> {
        let batch = self.batch().await;
        batch.into_iter().map(|(change, row)| shown(change, &row)).collect()
    }
}

fn shown(change: ChangeType, row: &v1::Breaker) -> String {
    let short = |name: &'static str, prefix| name.trim_start_matches(prefix).to_lowercase();
    let change = short(change.as_str_name(), "CHANGE_TYPE_");
    let state = short(row.state().as_str_name(), "BREAKER_STATE_");
    format!("{change} {}@{} {state}", row.replica_id, row.node_id)
}

fn update(rows: Vec<v1::Breaker>) -> v1::ReportNodeStatusRequest {
    v1::ReportNodeStatusRequest { breakers: rows, ..Default::default() }
}

async fn wait_for_rows(plane: &Plane, count: usize) {
    let list = v1::ListBreakersRequest { per_node: true, page_size: 1000, ..Default::default() };
    eventually(async || {
        let rows = plane.observability().list_breakers(list.clone()).await.unwrap().into_inner().breakers;
        (rows.len() == count).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_watch_begins_with_all_there_are_and_goes_on_with_what_changes() {
    let plane = plane_with(&["a", "b"]).await;
    let one =
        Reporter::connect(&plane, report("n1", &[("a", BreakerState::Closed), ("b", BreakerState::Open)]))
            .await;
    wait_for_rows(&plane, 2).await;
    let mut watch = Watch::begin(&plane, v1::WatchBreakersRequest::default()).await;
    assert_eq!(watch.told().await, ["added a@ closed", "added b@ open"]);

    one.send(update(vec![row("a", BreakerState::HalfOpen)])).await;
    assert_eq!(watch.told().await, ["modified a@ half_open"]);
    // Another data plane's view changes the merged one.
    let two = Reporter::connect(&plane, report("n2", &[("a", BreakerState::ForcedOpen)])).await;
    let batch = watch.batch().await;
    assert_eq!(shown(batch[0].0, &batch[0].1), "modified a@ forced_open");
    assert_eq!((batch[0].1.node_count, batch[0].1.open_node_count), (2, 2));
    drop(two);

    let leave = v1::DeregisterRequest {
        service: "orders".into(),
        replica_id: "b".into(),
        force: true,
        ..Default::default()
    };
    plane.registry().deregister(leave).await.unwrap();
    assert_eq!(watch.told().await, ["deleted b@ unspecified"]);
}

#[tokio::test]
async fn a_watch_of_each_data_plane_tells_their_rows_apart() {
    let plane = plane_with(&["a", "b"]).await;
    let one = Reporter::connect(&plane, report("n1", &[("a", BreakerState::Open)])).await;
    wait_for_rows(&plane, 1).await;
    let per_node =
        v1::WatchBreakersRequest { service: "orders".into(), replica_id: "a".into(), per_node: true };
    let mut watch = Watch::begin(&plane, per_node).await;
    assert_eq!(watch.told().await, ["added a@n1 open"]);
    // What is not in scope wakes nobody.
    one.send(update(vec![row("b", BreakerState::Open)])).await;
    wait_for_rows(&plane, 2).await;
    let _two = Reporter::connect(&plane, report("n2", &[("a", BreakerState::Closed)])).await;
    assert_eq!(watch.told().await, ["added a@n2 closed"]);
    // A full report takes back what it lacks.
    one.send(v1::ReportNodeStatusRequest { full: true, ..Default::default() }).await;
    assert_eq!(watch.told().await, ["deleted a@n1 unspecified"]);
}

#[tokio::test]
async fn a_slow_reader_is_told_the_latest_of_each_breaker_and_nothing_is_kept_for_it() {
    let plane = plane_with(&["a", "b"]).await;
    let one =
        Reporter::connect(&plane, report("n1", &[("a", BreakerState::Closed), ("b", BreakerState::Closed)]))
            .await;
    wait_for_rows(&plane, 2).await;
    let mut watch = Watch::begin(&plane, v1::WatchBreakersRequest::default()).await;
    assert_eq!(watch.told().await.len(), 2);
    const CHANGES: i64 = 2000;
    for number in 1..=CHANGES {
        let changed = v1::Breaker { attempt_count: number, ..row("a", BreakerState::Closed) };
        one.send(update(vec![changed])).await;
    }
    let mut told = 0;
    loop {
        let batch = watch.batch().await;
        assert!(batch.len() <= 1, "{batch:?}");
        told += batch.len();
        if batch[0].1.attempt_count == CHANGES {
            break;
        }
    }
    assert!(told < 1000, "{told} of {CHANGES} changes were told one by one");
}

#[tokio::test]
async fn a_reader_that_missed_too_much_forgets_what_it_knew_and_is_told_everything() {
    let plane = Plane::start().await;
    let ids: Vec<String> = (0..1000).map(|number| format!("r{number:04}")).collect();
    for id in &ids {
        let wish = request("orders", &format!("{id}.example:80"));
        plane.register(v1::RegisterRequest { replica_id: id.clone(), permanent: true, ..wish }).await;
    }
    let full = |ids: &[String], state| {
        let reason = "x".repeat(512);
        let rows = ids.iter().map(|id| v1::Breaker { reason: reason.clone(), ..row(id, state) });
        v1::ReportNodeStatusRequest { full: true, ..update(rows.collect()) }
    };
    let one = Reporter::connect(&plane, report("n1", &[])).await;
    one.send(full(&ids, BreakerState::Closed)).await;
    wait_for_rows(&plane, 1000).await;
    // A connection of its own, on which little is under way at a time.
    let endpoint = Endpoint::from_shared(format!("http://{}", plane.listen())).unwrap();
    let endpoint = endpoint.initial_stream_window_size(65_535).initial_connection_window_size(65_535);
    let mut client = ObservabilityServiceClient::new(endpoint.connect().await.unwrap());
    let stream = client.watch_breakers(v1::WatchBreakersRequest::default()).await.unwrap();
    let mut watch = Watch(stream.into_inner());
    assert_eq!(watch.batch().await.len(), 1000);
    // What changes is some 150 kB a time, which nobody reads: it soon holds up the watch, and only that. Meanwhile 60,000
    // rows go, and 20,000 are remembered: enough are missed even if the watch is held up as late as half way.
    for _ in 0..60 {
        for half in ids.chunks(500) {
            one.send(full(half, BreakerState::Closed)).await;
        }
    }
    one.send(full(&ids, BreakerState::Open)).await;
    let list = v1::ListBreakersRequest { states: vec![BreakerState::Open.into()], ..Default::default() };
    let open =
        async || plane.observability().list_breakers(list.clone()).await.unwrap().into_inner().breakers.len();
    eventually(async || (open().await > 0).then_some(())).await;

    let mut was_reset = false;
    let mut known = std::collections::BTreeMap::new();
    while !was_reset || known.values().filter(|state| **state == BreakerState::Open).count() < 1000 {
        for (change, row) in watch.batch().await {
            match change {
                ChangeType::Reset => {
                    was_reset = true;
                    known.clear();
                }
                ChangeType::Deleted => drop(known.remove(&row.replica_id)),
                _ => drop(known.insert(row.replica_id.clone(), row.state())),
            }
        }
    }
    assert_eq!(known.len(), 1000);
}

#[tokio::test]
async fn a_watch_of_a_bad_name_is_refused_and_one_ends_with_the_control_plane() {
    let plane = plane_with(&["a"]).await;
    let bad = v1::WatchBreakersRequest { replica_id: "a".into(), ..Default::default() };
    let status = plane.observability().watch_breakers(bad).await.unwrap_err();
    assert_eq!(explain(&status).2, "replica_id");
    let mut watch = Watch::begin(&plane, v1::WatchBreakersRequest::default()).await;
    assert_eq!(watch.told().await, Vec::<String>::new());
    plane.shutdown.begin();
    let status = timeout(PATIENCE, watch.0.message()).await.unwrap().unwrap_err();
    assert_eq!(explain(&status).1, "SHUTTING_DOWN");
    plane.stop().await;
}
