//! The stream's life against a control plane that the test scripts.

use std::{sync::Arc, time::SystemTime};

use gateway_proto::{ControlPlaneUrl, Policy, ServiceName};
use tokio::task::JoinHandle;

use super::*;
use crate::{
    clock::Clock,
    discovery::{Guard, Mirror, Snapshot, Source, View, tests as wire},
    fake_control_plane::{FakeControlPlane, SnapshotStream},
    table::{ServiceSpec, Table},
};

struct DataPlane {
    view: View,
    table: Arc<Table>,
    carried: Arc<watch::Sender<Services>>,
    stop: Shutdown,
    task: JoinHandle<()>,
}

impl DataPlane {
    /// The table's services with their numbers of replicas.
    fn routes(&self) -> Vec<(String, usize)> {
        let services = self.table.services();
        services.iter().map(|(name, service)| (name.to_string(), service.replicas().len())).collect()
    }
}

fn feed(snapshot: Snapshot, source: Source) -> (Feed, View, Arc<Table>) {
    let (table, _transitions) = Table::new(1);
    let mirror = Mirror::new("dp-1".parse().unwrap(), snapshot, Guard::default(), SystemTime::now());
    let (feed, view) = Feed::new(mirror, source, Duration::ZERO, table.clone(), Clock::new());
    (feed, view, table)
}

fn start(urls: &[String], snapshot: Snapshot, source: Source) -> DataPlane {
    start_for(Services::All, urls, snapshot, source)
}

fn start_for(services: Services, urls: &[String], snapshot: Snapshot, source: Source) -> DataPlane {
    let (feed, view, table) = feed(snapshot, source);
    let (carried, stop) = (Arc::new(watch::Sender::new(services)), Shutdown::new());
    let urls = urls.iter().map(|url| ControlPlaneUrl::parse(url).unwrap()).collect();
    let node = v1::NodeIdentity { node_id: "dp-1".into(), version: "test".into(), ..Default::default() };
    let (stopped, to_carry) = (stop.clone(), Arc::clone(&carried));
    let task = tokio::spawn(async move {
        follow(&ControlPlane::new(urls, Default::default()), &node, &to_carry, &feed, &stopped).await
    });
    DataPlane { view, table, carried, stop, task }
}

fn orders(replicas: u16) -> v1::ServiceSnapshot {
    let replicas = (1..=replicas).map(|n| wire::replica("orders", &format!("r-{n}"), n));
    wire::service("orders", replicas.collect())
}

fn one_more(base: i64, id: &str) -> v1::StreamSnapshotsResponse {
    let upsert_replicas = vec![wire::replica("orders", id, 99)];
    wire::delta(base, base + 1, v1::Delta { upsert_replicas, ..Default::default() })
}

#[tokio::test]
async fn the_log_claims_a_snapshot_only_where_there_is_one() {
    let meanwhile = |source| feed(Snapshot::default(), source).0.meanwhile();
    assert_eq!(meanwhile(Source::None), "nothing to route by yet");
    assert_eq!(meanwhile(Source::Cached), "going on with the snapshot in use");
}

#[tokio::test]
async fn a_new_data_plane_asks_for_everything_and_acks_what_it_applied() {
    let mut control_plane = FakeControlPlane::start().await;
    let mut data_plane = start(&[control_plane.url()], Snapshot::default(), Source::None);

    let mut stream = control_plane.snapshot_stream().await;
    let node = v1::NodeIdentity { node_id: "dp-1".into(), version: "test".into(), ..Default::default() };
    let role = v1::SnapshotRole::DataPlane.into();
    let expected = v1::Hello { node: Some(node), services: vec!["*".into()], role, ..Default::default() };
    let numbered = stream.hello.node.as_ref().unwrap().stream_number;
    assert!(numbered > 0);
    let mut hello = stream.hello.clone();
    hello.node.as_mut().unwrap().stream_number = 0;
    assert_eq!(hello, expected);

    let ack = stream.send(wire::full(7, vec![orders(2)])).await;
    assert_eq!(ack, v1::Ack { nonce: "n".into(), revision: 7, nack: None });
    assert_eq!(data_plane.routes(), [("orders".to_owned(), 2)], "acked is routed");
    data_plane.view.mirror.changed().await.unwrap();
    assert_eq!(data_plane.view.mirror.borrow().snapshot().revision(), 7);
    let status = data_plane.view.status.borrow().clone();
    assert_eq!((status.source, status.connected, status.nacks), (Source::Live, true, 0));

    data_plane.stop.begin();
    data_plane.task.await.unwrap();
    stream.ended().await;
}

#[tokio::test]
async fn a_data_plane_of_some_services_asks_for_these_only() {
    let mut control_plane = FakeControlPlane::start().await;
    let names = ["users", "orders"].map(|name| ServiceName::parse(name).unwrap());
    let services = Services::Some(names.into());
    let _data_plane = start_for(services, &[control_plane.url()], Snapshot::default(), Source::None);
    assert_eq!(control_plane.snapshot_stream().await.hello.services, ["orders", "users"]);
}

#[tokio::test]
async fn deltas_reach_the_table_before_they_are_acked() {
    let mut control_plane = FakeControlPlane::start().await;
    let data_plane = start(&[control_plane.url()], Snapshot::default(), Source::None);
    let mut stream = control_plane.snapshot_stream().await;
    stream.send(wire::full(1, vec![orders(1), wire::service("users", vec![])])).await;
    assert_eq!(data_plane.routes(), [("orders".to_owned(), 1), ("users".to_owned(), 0)]);
    stream.send(one_more(1, "r-9")).await;
    assert_eq!(data_plane.routes(), [("orders".to_owned(), 2), ("users".to_owned(), 0)]);
    let gone = v1::Delta { remove_services: vec!["users".into()], ..Default::default() };
    stream.send(wire::delta(2, 3, gone)).await;
    assert_eq!(data_plane.routes(), [("orders".to_owned(), 2)]);
}

#[tokio::test]
async fn a_broken_stream_is_resumed_from_what_is_held() {
    let mut control_plane = FakeControlPlane::start().await;
    let data_plane = start(&[control_plane.url()], Snapshot::default(), Source::None);
    let mut stream = control_plane.snapshot_stream().await;
    stream.send(wire::full(7, vec![orders(1)])).await;
    drop(stream);

    let mut stream = control_plane.snapshot_stream().await;
    assert_eq!((stream.hello.resume_epoch.as_str(), stream.hello.resume_revision), ("e", 7));
    assert_eq!(stream.send(one_more(7, "r-2")).await.revision, 8);
    assert_eq!(data_plane.routes(), [("orders".to_owned(), 2)]);
}

#[tokio::test]
async fn parts_of_a_broken_stream_do_not_mix_with_those_of_the_next() {
    let mut control_plane = FakeControlPlane::start().await;
    let _data_plane = start(&[control_plane.url()], Snapshot::default(), Source::None);
    let mut stream = control_plane.snapshot_stream().await;
    assert_eq!(stream.send(wire::part(7, 0, false, vec![orders(1)])).await.revision, 0);
    drop(stream);

    let mut stream = control_plane.snapshot_stream().await;
    assert_eq!(stream.hello.resume_epoch, "");
    let ack = stream.send(wire::part(7, 1, true, vec![])).await;
    assert_eq!(ack.nack.unwrap().reason, "PARTS_OUT_OF_ORDER");
}

#[tokio::test]
async fn a_cached_start_resumes_from_the_cache_before_it_is_live() {
    let mut control_plane = FakeControlPlane::start().await;
    let data_plane = start(&[control_plane.url()], wire::held(), Source::Cached);
    let cached = [("orders".to_owned(), 2), ("users".to_owned(), 1)];
    assert_eq!(data_plane.routes(), cached, "routed before anybody is asked");

    let mut stream = control_plane.snapshot_stream().await;
    assert_eq!((stream.hello.resume_epoch.as_str(), stream.hello.resume_revision), ("e", 5));
    assert_eq!(data_plane.view.status.borrow().source, Source::Cached);
    stream.send(wire::bookmark(5)).await;
    assert_eq!(data_plane.view.status.borrow().source, Source::Live);
}

#[tokio::test]
async fn a_refused_update_is_nacked_with_the_old_revision_and_the_next_one_counts() {
    let mut control_plane = FakeControlPlane::start().await;
    let data_plane = start(&[control_plane.url()], wire::held(), Source::Cached);
    let mut stream = control_plane.snapshot_stream().await;
    let ack = stream.send(one_more(4, "r-9")).await;
    assert_eq!((ack.revision, ack.nack.unwrap().reason.as_str()), (5, "BASE_MISMATCH"));
    assert_eq!(data_plane.view.status.borrow().nacks, 1);
    assert!(data_plane.view.status.borrow().refusal.is_some());

    let ack = stream.send(wire::full(6, vec![orders(3)])).await;
    assert_eq!((ack.revision, ack.nack), (6, None));
    assert_eq!(data_plane.view.status.borrow().refusal, None);
}

#[tokio::test]
async fn content_that_differs_is_nacked_and_sent_anew_at_the_same_revision() {
    let mut control_plane = FakeControlPlane::start().await;
    let data_plane = start(&[control_plane.url()], wire::held(), Source::Cached);
    let mut stream = control_plane.snapshot_stream().await;
    let wrong = || {
        let bookmark = v1::Bookmark { content_hash: "0123456789abcdef".into() };
        wire::message("e", 5, v1::stream_snapshots_response::Update::Bookmark(bookmark))
    };
    let ack = stream.send(wrong()).await;
    assert_eq!((ack.revision, ack.nack.unwrap().reason.as_str()), (5, "CONTENT_MISMATCH"));
    let mut more = orders(2);
    more.replicas.push(wire::replica("orders", "r-9", 99));
    let users = wire::service("users", vec![wire::replica("users", "r-1", 3)]);
    let ack = stream.send(wire::full(5, vec![more, users])).await;
    assert_eq!((ack.revision, ack.nack), (5, None));
    assert_eq!(data_plane.routes(), [("orders".to_owned(), 3), ("users".to_owned(), 1)]);

    // The control plane means something else by its hash: that is shown, and ends nothing.
    assert_eq!(stream.send(wrong()).await.nack, None);
    assert!(data_plane.view.status.borrow().dispute.is_some());
    assert_eq!(stream.send(wrong()).await.nack, None);
}

#[tokio::test]
async fn a_control_plane_that_forgot_everything_is_followed_and_takes_no_route_away() {
    let mut control_plane = FakeControlPlane::start().await;
    let data_plane = start(&[control_plane.url()], Snapshot::default(), Source::None);
    let mut stream = control_plane.snapshot_stream().await;
    stream.send(wire::full(7, vec![orders(3)])).await;
    let empty = v1::FullSnapshot { last_part: true, ..Default::default() };
    let empty = wire::message("f", 1, v1::stream_snapshots_response::Update::Full(empty));
    let ack = stream.send(empty).await;
    assert_eq!((ack.revision, ack.nack), (1, None));
    assert_eq!(data_plane.routes(), [("orders".to_owned(), 3)]);
    let held = data_plane.view.mirror.borrow().held_to_wire(2);
    assert_eq!((held.replicas.len(), held.total_count), (2, 3));
    drop(stream);

    let mut stream = control_plane.snapshot_stream().await;
    assert_eq!((stream.hello.resume_epoch.as_str(), stream.hello.resume_revision), ("f", 1));
    let back = v1::Delta {
        base_revision: 1,
        upsert_services: vec![wire::service("orders", vec![])],
        upsert_replicas: orders(3).replicas,
        ..Default::default()
    };
    stream.send(wire::message("f", 2, v1::stream_snapshots_response::Update::Delta(back))).await;
    assert_eq!(data_plane.routes(), [("orders".to_owned(), 3)], "never without");
    assert!(data_plane.view.mirror.borrow().guard().is_empty());
}

#[tokio::test]
async fn a_control_plane_that_cannot_be_followed_is_left_for_the_next_one() {
    let (mut wrong, mut right) = (FakeControlPlane::start().await, FakeControlPlane::start().await);
    let _data_plane = start(&[wrong.url(), right.url()], wire::held(), Source::Cached);
    let mut stream = wrong.snapshot_stream().await;
    for _ in 1..MAX_REFUSALS_IN_A_ROW {
        stream.send(one_more(4, "r-9")).await;
    }
    // Whether the last nack still gets through is left open: the stream ends with it.
    stream.push(one_more(4, "r-9")).await;
    stream.ended().await;
    assert_eq!(right.snapshot_stream().await.hello.resume_revision, 5);
}

#[tokio::test]
async fn one_that_loses_its_control_plane_goes_on_at_another_one_from_what_it_holds() {
    let (mut one, mut other) = (FakeControlPlane::start().await, FakeControlPlane::start().await);
    let data_plane = start(&[one.url(), other.url()], Snapshot::default(), Source::None);
    let mut stream = one.snapshot_stream().await;
    let first = stream.hello.node.clone().unwrap().stream_number;
    stream.send(wire::full(7, vec![orders(2)])).await;
    drop((stream, one));
    let mut stream = other.snapshot_stream().await;
    assert_eq!((stream.hello.resume_epoch.as_str(), stream.hello.resume_revision), ("e", 7));
    assert!(stream.hello.node.clone().unwrap().stream_number > first);
    assert_eq!(stream.send(one_more(7, "r-9")).await.revision, 8);
    assert_eq!(data_plane.routes(), [("orders".to_owned(), 3)], "never without");
    let status = data_plane.view.status.borrow().clone();
    assert_eq!((status.moves, status.url.as_deref()), (1, Some(other.url().as_str())));
    assert_eq!(status.ended.values().sum::<u64>(), 1, "{:?}", status.ended);
}

#[tokio::test]
async fn a_control_plane_that_is_behind_is_left_at_once_for_another_one_and_takes_nothing_back() {
    let (mut behind, mut right) = (FakeControlPlane::start().await, FakeControlPlane::start().await);
    let data_plane = start(&[behind.url(), right.url()], wire::held(), Source::Cached);
    let mut stream = behind.snapshot_stream().await;
    stream.push(wire::full(4, vec![orders(9)])).await;
    stream.ended().await;
    assert_eq!(right.snapshot_stream().await.hello.resume_revision, 5);
    assert_eq!(data_plane.routes(), [("orders".to_owned(), 2), ("users".to_owned(), 1)]);
    assert_eq!(data_plane.view.status.borrow().ended["behind"], 1);
}

#[tokio::test]
async fn without_another_one_a_control_plane_that_is_behind_is_told_so_and_waited_for() {
    let mut behind = FakeControlPlane::start().await;
    let data_plane = start(&[behind.url()], wire::held(), Source::Cached);
    let mut stream = behind.snapshot_stream().await;
    let ack = stream.send(wire::full(4, vec![orders(9)])).await;
    assert_eq!((ack.revision, ack.nack.unwrap().reason.as_str()), (5, "BASE_MISMATCH"));
    assert_eq!(stream.send(wire::full(6, vec![orders(3)])).await.revision, 6);
    assert_eq!(data_plane.routes(), [("orders".to_owned(), 3)]);
}

/// Says that nothing has changed, and how long the store has been silent.
fn said(revision: i64, silence: i64) -> v1::StreamSnapshotsResponse {
    let store_silence = Some(prost_types::Duration { seconds: silence, nanos: 0 });
    v1::StreamSnapshotsResponse { store_silence, ..wire::bookmark(revision) }
}

#[tokio::test]
async fn a_control_plane_that_has_lost_its_store_is_left_for_one_that_has_not_on_a_stream_that_is_there_before()
 {
    let (mut one, mut other) = (FakeControlPlane::start().await, FakeControlPlane::start().await);
    let data_plane = start(&[one.url(), other.url()], wire::held(), Source::Cached);
    let mut stream = one.snapshot_stream().await;
    stream.send(said(5, 0)).await;
    stream.send(said(5, 7)).await;
    assert!(data_plane.view.status.borrow().store_silent_since.is_some());

    let mut asked = other.snapshot_stream().await;
    assert_eq!((asked.hello.role(), asked.hello.resume_revision), (v1::SnapshotRole::Observer, 5));
    assert_eq!(stream.send(said(5, 8)).await.revision, 5, "meanwhile the first one is followed");
    asked.push(said(5, 0)).await;
    let mut next = other.snapshot_stream().await;
    assert_eq!((next.hello.role(), next.hello.resume_revision), (v1::SnapshotRole::DataPlane, 5));
    assert_eq!(next.send(one_more(5, "r-9")).await.revision, 6);
    stream.ended().await;
    let status = data_plane.view.status.borrow().clone();
    assert_eq!((status.moves, status.ended["outdated"], status.store_silent_since), (1, 1, None));
}

/// Says that nothing has changed, and that the registry goes on in another store.
fn moved(revision: i64) -> v1::StreamSnapshotsResponse {
    v1::StreamSnapshotsResponse { goes_on_elsewhere: true, ..said(revision, 1) }
}

#[tokio::test]
async fn a_control_plane_whose_registry_has_moved_is_left_for_one_where_it_goes_on_and_for_no_other_registry()
{
    let (mut one, mut other) = (FakeControlPlane::start().await, FakeControlPlane::start().await);
    let data_plane = start(&[one.url(), other.url()], wire::held(), Source::Cached);
    let mut stream = one.snapshot_stream().await;
    let elsewhere = |revision, update| v1::StreamSnapshotsResponse {
        epoch: "f".into(),
        ..v1::StreamSnapshotsResponse { update: Some(update), ..said(revision, 0) }
    };
    let all = || wire::full(1, vec![orders(3)]).update.unwrap();
    // Cut off from its store, which is still what counts.
    stream.send(said(5, 7)).await;
    let mut asked = other.snapshot_stream().await;
    asked.push(elsewhere(1, all())).await;
    asked.ended().await;
    stream.send(moved(5)).await;
    let mut asked = other.snapshot_stream().await;
    assert_eq!(asked.hello.role(), v1::SnapshotRole::Observer);
    asked.push(elsewhere(1, all())).await;
    let mut next = other.snapshot_stream().await;
    assert_eq!((next.hello.role(), next.hello.resume_epoch.as_str()), (v1::SnapshotRole::DataPlane, "e"));
    assert_eq!(next.send(elsewhere(1, all())).await.revision, 1);
    stream.ended().await;
    let status = data_plane.view.status.borrow().clone();
    assert_eq!((status.moves, status.ended["outdated"], status.goes_on_elsewhere), (1, 1, false));
}

#[tokio::test]
async fn where_a_registry_has_moved_the_only_address_is_asked_too_for_it_may_lead_to_another_control_plane() {
    let mut only = FakeControlPlane::start().await;
    let _data_plane = start(&[only.url()], wire::held(), Source::Cached);
    let mut stream = only.snapshot_stream().await;
    stream.send(moved(5)).await;
    let mut asked = only.snapshot_stream().await;
    assert_eq!(asked.hello.role(), v1::SnapshotRole::Observer);
    asked.push(moved(5)).await;
    asked.ended().await;
    assert_eq!(stream.send(moved(5)).await.revision, 5, "it is the same one");
}

#[tokio::test]
async fn nobody_moves_to_a_control_plane_that_has_lost_the_store_too() {
    let (mut one, mut other) = (FakeControlPlane::start().await, FakeControlPlane::start().await);
    let data_plane = start(&[one.url(), other.url()], wire::held(), Source::Cached);
    let mut stream = one.snapshot_stream().await;
    stream.send(said(5, 7)).await;
    let mut asked = other.snapshot_stream().await;
    asked.push(said(5, 9)).await;
    asked.ended().await;
    assert_eq!(stream.send(said(5, 0)).await.revision, 5);
    assert_eq!(stream.send(one_more(5, "r-9")).await.revision, 6);
    let status = data_plane.view.status.borrow().clone();
    assert_eq!((status.moves, status.ended["outdated"]), (0, 0));
}

#[tokio::test]
async fn another_control_plane_of_another_registry_takes_no_route_away() {
    let (mut one, mut other) = (FakeControlPlane::start().await, FakeControlPlane::start().await);
    let data_plane = start(&[one.url(), other.url()], Snapshot::default(), Source::None);
    let mut stream = one.snapshot_stream().await;
    stream.send(wire::full(7, vec![orders(3)])).await;
    drop((stream, one));
    let mut stream = other.snapshot_stream().await;
    let empty = v1::FullSnapshot { last_part: true, ..Default::default() };
    let empty = wire::message("f", 1, v1::stream_snapshots_response::Update::Full(empty));
    assert_eq!(stream.send(empty).await.revision, 1);
    assert_eq!(data_plane.routes(), [("orders".to_owned(), 3)], "the guard holds them");
}

#[tokio::test]
async fn an_unreachable_control_plane_is_passed_over_and_a_restarted_one_is_found_again() {
    let gone = FakeControlPlane::start().await;
    let address = gone.address;
    drop(gone);
    let mut there = FakeControlPlane::start().await;
    let urls = [format!("http://{address}"), there.url()];
    let data_plane = start(&urls, Snapshot::default(), Source::None);
    there.snapshot_stream().await.send(wire::full(1, vec![orders(1)])).await;
    drop(there);

    let mut restarted = FakeControlPlane::start_at(address).await;
    let stream = restarted.snapshot_stream().await;
    assert_eq!(stream.hello.resume_revision, 1);
    assert_eq!(data_plane.routes(), [("orders".to_owned(), 1)], "never without");
}

type Response = Result<v1::StreamSnapshotsResponse, Status>;

/// A stream without a network, so that time can be moved by hand.
fn pipe() -> (mpsc::Sender<Response>, ReceiverStream<Response>) {
    let (sender, receiver) = mpsc::channel(1);
    (sender, ReceiverStream::new(receiver))
}

#[tokio::test(start_paused = true)]
async fn fifteen_seconds_of_silence_are_a_dead_peer_and_bookmarks_are_no_silence() {
    let (feed, _view, _) = feed(wire::held(), Source::Cached);
    let (responses, stream) = pipe();
    let (answers, mut acks) = mpsc::channel(ANSWERS);
    let began = Instant::now();
    tokio::spawn(async move { while acks.recv().await.is_some() {} });
    let bookmarks = tokio::spawn(async move {
        for _ in 0..4 {
            sleep(Duration::from_secs(14)).await;
            responses.send(Ok(wire::bookmark(5))).await.unwrap();
        }
        // Silent from here on, without closing.
        responses.closed().await;
    });
    let carried = watch::Sender::new(Services::All);
    let mut services = carried.subscribe();
    let ended = receive_all(stream, &answers, &mut services, &feed, &mut Reconnect::default(), false).await;
    assert!(matches!(ended, Ended::Silent), "{ended}");
    assert_eq!(began.elapsed().as_secs(), 4 * 14 + 15);
    bookmarks.await.unwrap();
}

#[tokio::test]
async fn a_control_plane_that_reads_no_answers_is_left() {
    let (feed, _view, _) = feed(wire::held(), Source::Cached);
    let (responses, stream) = pipe();
    let (answers, _unread) = mpsc::channel(ANSWERS);
    tokio::spawn(async move { while responses.send(Ok(wire::bookmark(5))).await.is_ok() {} });
    let carried = watch::Sender::new(Services::All);
    let mut services = carried.subscribe();
    let ended = receive_all(stream, &answers, &mut services, &feed, &mut Reconnect::default(), false).await;
    assert!(matches!(ended, Ended::NotRead), "{ended}");
}

#[test]
fn a_stream_that_another_data_plane_took_over_is_left_to_it_for_a_while() {
    let now = Instant::now();
    let pause =
        |ended: Ended, random| pause_after(&ended, &mut Reconnect::default(), now, random, 1).as_secs();
    let taken_over = || Ended::from(Status::aborted("a newer stream of dp-1 has begun"));
    assert_eq!((pause(taken_over(), 0.0), pause(taken_over(), 1.0)), (10, 20));
    assert_eq!(pause(Ended::from(Status::unavailable("gone")), 1.0), 0);
}

#[tokio::test]
async fn after_a_panic_everything_that_is_known_is_routed_again() {
    let spec = |name: &str| ServiceSpec {
        name: ServiceName::parse(name).unwrap(),
        policy: Policy::default(),
        replicas: Vec::new(),
    };
    let (feed, _view, table) = feed(Snapshot::new("e", 7, vec![spec("orders")]), Source::Cached);
    // As if a panic had come when an update was taken over and not yet in the table.
    table.apply(&[spec("payments")], &[spec("orders").name], Clock::new().now());
    assert!(table.service("orders").is_none() && table.service("payments").is_some());
    feed.route_all();
    assert!(table.service("orders").is_some() && table.service("payments").is_none());
}

fn some(names: &[&str]) -> Services {
    Services::parse(names).unwrap()
}

/// A data plane that carries `orders` and `users`, and has both.
async fn of_two(control_plane: &mut FakeControlPlane) -> (DataPlane, SnapshotStream) {
    let carried = some(&["orders", "users"]);
    let data_plane = start_for(carried, &[control_plane.url()], Snapshot::default(), Source::None);
    let mut stream = control_plane.snapshot_stream().await;
    let users = (1..=3).map(|n| wire::replica("users", &format!("r-{n}"), 50 + n)).collect();
    stream.send(wire::full(1, vec![orders(1), wire::service("users", users)])).await;
    assert_eq!(data_plane.routes(), [("orders".to_owned(), 1), ("users".to_owned(), 3)]);
    (data_plane, stream)
}

#[tokio::test]
async fn services_that_are_carried_no_more_go_at_once_and_others_come_on_the_same_stream() {
    let mut control_plane = FakeControlPlane::start().await;
    let (data_plane, mut stream) = of_two(&mut control_plane).await;
    data_plane.carried.send_replace(some(&["orders", "carts"]));
    let change = stream.subscription_change().await;
    assert_eq!((change.add_services, change.remove_services), (vec!["carts".into()], vec!["users".into()]));
    assert_eq!(data_plane.routes(), [("orders".to_owned(), 1)]);

    // What the control plane has sent before it heard of that is no part of it, nor is it refused.
    let ack = stream.send(one_more(1, "r-9")).await;
    assert_eq!((ack.revision, ack.nack), (1, None));
    let users = wire::service("users", vec![wire::replica("users", "r-1", 51)]);
    assert_eq!(stream.send(wire::full(2, vec![orders(1), users])).await.nack, None);
    assert_eq!(data_plane.routes(), [("orders".to_owned(), 1)]);

    let carts = wire::service("carts", vec![wire::replica("carts", "r-1", 60)]);
    assert_eq!(stream.send(wire::full(2, vec![orders(2), carts])).await.nack, None);
    assert_eq!(data_plane.routes(), [("carts".to_owned(), 1), ("orders".to_owned(), 2)]);
    assert_eq!(stream.send(one_more(2, "r-9")).await.revision, 3);
    assert_eq!(data_plane.routes(), [("carts".to_owned(), 1), ("orders".to_owned(), 3)]);
    assert_eq!(data_plane.view.mirror.borrow().held_to_wire(9).total_count, 0, "nobody took them away");
}

#[tokio::test]
async fn what_is_held_of_other_services_is_not_resumed_from_until_all_of_these_has_come() {
    let mut control_plane = FakeControlPlane::start().await;
    let (data_plane, mut stream) = of_two(&mut control_plane).await;
    data_plane.carried.send_replace(some(&["orders", "carts"]));
    stream.subscription_change().await;
    // It may be the last one of those before.
    stream.send(wire::full(2, vec![orders(1)])).await;
    drop(stream);
    let mut stream = control_plane.snapshot_stream().await;
    assert_eq!(
        (stream.hello.services.join(","), stream.hello.resume_epoch.as_str()),
        ("carts,orders".into(), "")
    );
    stream.send(wire::full(3, vec![orders(1)])).await;
    stream.send(wire::bookmark(3)).await;
    assert!(data_plane.view.mirror.borrow().is_whole());
    drop(stream);
    let stream = control_plane.snapshot_stream().await;
    assert_eq!((stream.hello.resume_epoch.as_str(), stream.hello.resume_revision), ("e", 3));
}

#[tokio::test]
async fn all_services_are_asked_for_on_a_new_stream_at_once() {
    let mut control_plane = FakeControlPlane::start().await;
    let (data_plane, stream) = of_two(&mut control_plane).await;
    data_plane.carried.send_replace(Services::All);
    stream.ended().await;
    let mut stream = control_plane.snapshot_stream().await;
    assert_eq!((stream.hello.services.join(","), stream.hello.resume_epoch.as_str()), ("*".into(), ""));
    assert_eq!(data_plane.routes().len(), 2, "what it had is among all");
    stream.send(wire::full(2, vec![orders(2)])).await;
    assert_eq!(data_plane.view.status.borrow().ended["resubscribed"], 1);
}

#[tokio::test]
async fn services_that_change_while_no_control_plane_is_there_go_at_once() {
    let mut control_plane = FakeControlPlane::start().await;
    let (data_plane, stream) = of_two(&mut control_plane).await;
    let address = control_plane.address;
    drop((stream, control_plane));
    data_plane.view.status.clone().wait_for(|status| !status.connected).await.unwrap();
    data_plane.carried.send_replace(some(&["orders"]));
    while data_plane.routes() != [("orders".to_owned(), 1)] {
        sleep(Duration::from_millis(1)).await;
    }
    control_plane = FakeControlPlane::start_at(address).await;
    assert_eq!(control_plane.snapshot_stream().await.hello.services, ["orders"]);
}
