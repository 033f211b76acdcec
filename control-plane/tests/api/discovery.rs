use gateway_proto::{
    Policy, ReplicaKey,
    content::ContentHash,
    v1::{self, stream_snapshots_request::Message, stream_snapshots_response::Update},
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::plane::{PATIENCE, Plane, eventually, explain, request};

/// A data plane's side of one snapshot stream.
pub(crate) struct Node {
    requests: mpsc::Sender<v1::StreamSnapshotsRequest>,
    responses: Streaming<v1::StreamSnapshotsResponse>,
}

pub(crate) fn hello(node: &str) -> v1::Hello {
    v1::Hello {
        node: Some(v1::NodeIdentity { node_id: node.into(), version: "1.0".into(), ..Default::default() }),
        services: vec!["*".into()],
        ..Default::default()
    }
}

fn resume(node: &str, epoch: &str, revision: i64) -> v1::Hello {
    v1::Hello { resume_epoch: epoch.into(), resume_revision: revision, ..hello(node) }
}

impl Node {
    pub(crate) async fn connect(plane: &Plane, hello: v1::Hello) -> Self {
        let (requests, outbound) = mpsc::channel(8);
        requests.send(message(Message::Hello(hello))).await.unwrap();
        let responses = plane.discovery().stream_snapshots(ReceiverStream::new(outbound)).await.unwrap();
        Self { requests, responses: responses.into_inner() }
    }

    pub(crate) async fn next(&mut self) -> Result<v1::StreamSnapshotsResponse, Status> {
        let next = timeout(PATIENCE, self.responses.message()).await.expect("something comes");
        next.map(|response| response.expect("the stream goes on"))
    }

    /// The next response but bookmarks, unacked.
    pub(crate) async fn update(&mut self) -> v1::StreamSnapshotsResponse {
        loop {
            let response = self.next().await.unwrap();
            if !matches!(response.update, Some(Update::Bookmark(_))) {
                return response;
            }
        }
    }

    pub(crate) async fn ack(&self, response: &v1::StreamSnapshotsResponse) {
        let ack = v1::Ack { nonce: response.nonce.clone(), revision: response.revision, nack: None };
        self.requests.send(message(Message::Ack(ack))).await.unwrap();
    }

    async fn nack(&self, response: &v1::StreamSnapshotsResponse, reason: &str) {
        let nack = Some(v1::Nack { reason: reason.into(), message: "no".into() });
        let ack = v1::Ack { nonce: response.nonce.clone(), revision: 0, nack };
        self.requests.send(message(Message::Ack(ack))).await.unwrap();
    }

    /// Takes in a full snapshot of one part and acks it.
    pub(crate) async fn full(&mut self) -> (v1::StreamSnapshotsResponse, v1::FullSnapshot) {
        let response = self.update().await;
        self.ack(&response).await;
        match response.update.clone() {
            Some(Update::Full(full)) => (response, full),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn delta(&mut self) -> (v1::StreamSnapshotsResponse, v1::Delta) {
        let response = self.update().await;
        self.ack(&response).await;
        match response.update.clone() {
            Some(Update::Delta(delta)) => (response, delta),
            other => panic!("{other:?}"),
        }
    }
}

fn message(message: Message) -> v1::StreamSnapshotsRequest {
    v1::StreamSnapshotsRequest { message: Some(message) }
}

async fn nodes(plane: &Plane) -> Vec<v1::Node> {
    plane.observability().list_nodes(v1::ListNodesRequest::default()).await.unwrap().into_inner().nodes
}

async fn wait_for_state(plane: &Plane, state: v1::NodeState) -> v1::Node {
    eventually(async || nodes(plane).await.into_iter().find(|node| node.state() == state)).await
}

#[tokio::test]
async fn a_data_plane_gets_a_full_snapshot_and_then_deltas() {
    let plane = Plane::start().await;
    plane.register(request("orders", "10.0.0.1:80")).await;
    let mut node = Node::connect(&plane, hello("n1")).await;
    let (first, full) = node.full().await;
    assert_eq!((first.revision, full.last_part, full.services.len()), (1, true, 1));
    assert_eq!((full.default_policy, &full.services[0].policy), (Some(Policy::default().to_wire()), &None));

    let second = plane.register(request("orders", "10.0.0.2:80")).await.replica.unwrap();
    let (response, delta) = node.delta().await;
    assert_eq!((response.epoch, response.revision, delta.base_revision), (first.epoch, 2, 1));
    assert_eq!(delta.upsert_replicas[0].replica_id, second.replica_id);
    assert_eq!(delta.upsert_services, []);
    let synced = wait_for_state(&plane, v1::NodeState::Synced).await;
    assert_eq!((synced.acked_revision, synced.sent_revision, synced.version.as_str()), (2, 2, "1.0"));
    assert!(synced.address.starts_with("127.0.0.1:"), "{}", synced.address);
}

#[tokio::test]
async fn an_empty_registry_is_an_empty_full_snapshot() {
    let plane = Plane::start().await;
    let mut node = Node::connect(&plane, hello("n1")).await;
    let (response, full) = node.full().await;
    assert_eq!((response.revision, full.services, full.last_part), (0, vec![], true));
}

#[tokio::test]
async fn a_large_snapshot_comes_in_parts_of_one_revision_each_acked() {
    let plane = Plane::start().await;
    let labels: std::collections::HashMap<_, _> =
        (0..32).map(|number| (format!("label-{number}"), "x".repeat(63))).collect();
    for port in 8001..=8500 {
        let wish = request("orders", &format!("10.0.0.1:{port}"));
        plane.register(v1::RegisterRequest { labels: labels.clone(), ..wish }).await;
    }
    let mut node = Node::connect(&plane, hello("n1")).await;
    let mut parts = Vec::new();
    while parts.last().is_none_or(|part: &v1::FullSnapshot| !part.last_part) {
        let (response, part) = node.full().await;
        assert_eq!(response.revision, 500);
        parts.push(part);
    }
    assert!(parts.len() > 2);
    for (index, part) in (0..).zip(&parts) {
        assert_eq!(part.part_index, index);
    }
    let replicas = parts.iter().flat_map(|part| &part.services).map(|entry| entry.replicas.len());
    assert_eq!(replicas.sum::<usize>(), 500);
    plane.register(request("orders", "10.0.0.2:80")).await;
    assert_eq!(node.delta().await.1.base_revision, 500);
}

#[tokio::test]
async fn changes_that_come_while_one_is_unacked_are_merged() {
    let plane = Plane::start().await;
    let mut node = Node::connect(&plane, hello("n1")).await;
    let held = node.update().await;
    for port in 1..=3 {
        plane.register(request("orders", &format!("10.0.0.1:{port}"))).await;
    }
    node.ack(&held).await;
    let (response, delta) = node.delta().await;
    assert_eq!((response.revision, delta.base_revision, delta.upsert_replicas.len()), (3, 0, 3));
    assert_eq!(delta.upsert_services.len(), 1);
}

#[tokio::test]
async fn a_data_plane_that_comes_back_gets_what_it_missed_and_no_more() {
    let plane = Plane::start().await;
    plane.register(request("orders", "10.0.0.1:80")).await;
    let mut node = Node::connect(&plane, hello("n1")).await;
    let (first, full) = node.full().await;
    let epoch = first.epoch;
    drop(node);

    // Nothing missed: a bookmark at once, with the hash of what is held, and no payload.
    let held = &full.services[0].replicas[0];
    let mut hash = ContentHash::default();
    hash.add_policy(None, 0);
    hash.add_replica(&ReplicaKey::parse(&held.service, &held.replica_id).unwrap(), held.revision);
    let bookmark = v1::Bookmark { content_hash: hash.to_string() };
    let mut node = Node::connect(&plane, resume("n1", &epoch, 1)).await;
    let response = node.next().await.unwrap();
    assert_eq!((response.revision, response.update), (1, Some(Update::Bookmark(bookmark))));
    drop(node);

    plane.register(request("orders", "10.0.0.2:80")).await;
    let mut node = Node::connect(&plane, resume("n1", &epoch, 1)).await;
    let (_, delta) = node.delta().await;
    assert_eq!((delta.base_revision, delta.upsert_replicas.len()), (1, 1));
}

#[tokio::test]
async fn a_data_plane_of_another_epoch_or_from_the_future_gets_everything() {
    let plane = Plane::start().await;
    plane.register(request("orders", "10.0.0.1:80")).await;
    let mut node = Node::connect(&plane, resume("n1", "another", 1)).await;
    let epoch = node.full().await.0.epoch;
    let mut node = Node::connect(&plane, resume("n1", &epoch, 99)).await;
    let (response, _) = node.full().await;
    assert_eq!(response.revision, 1);
}

#[tokio::test]
async fn a_nack_is_shown_and_answered_by_a_full_snapshot() {
    let plane = Plane::start().await;
    let mut node = Node::connect(&plane, hello("n1")).await;
    let refused = node.update().await;
    node.nack(&refused, "INVALID_RESOURCE").await;
    let shown = wait_for_state(&plane, v1::NodeState::Nacked).await;
    assert_eq!(shown.nack.unwrap().reason, "INVALID_RESOURCE");
    let (second, _) = node.full().await;
    assert_ne!(second.nonce, refused.nonce);
    wait_for_state(&plane, v1::NodeState::Synced).await;
}

#[tokio::test]
async fn a_data_plane_is_told_only_of_what_it_follows() {
    let plane = Plane::start().await;
    plane.register(request("orders", "10.0.0.1:80")).await;
    plane.register(request("billing", "10.0.0.1:80")).await;
    let some = v1::Hello { services: vec!["billing".into()], ..hello("n1") };
    let mut node = Node::connect(&plane, some).await;
    let (_, full) = node.full().await;
    assert_eq!(full.services.len(), 1);
    plane.register(request("orders", "10.0.0.2:80")).await;
    plane.register(request("billing", "10.0.0.2:80")).await;
    let (response, delta) = node.delta().await;
    assert_eq!((response.revision, delta.base_revision), (4, 2));
    assert_eq!(delta.upsert_replicas.len(), 1);
}

#[tokio::test]
async fn the_newest_stream_of_a_data_plane_ends_the_older_one() {
    let plane = Plane::start().await;
    let mut older = Node::connect(&plane, hello("n1")).await;
    older.full().await;
    let mut newer = Node::connect(&plane, hello("n1")).await;
    newer.full().await;
    let status = older.next().await.unwrap_err();
    assert_eq!(explain(&status), (Code::Aborted, "STREAM_SUPERSEDED".into(), String::new()));
    assert_eq!(nodes(&plane).await.len(), 1);
    drop(newer);
    wait_for_state(&plane, v1::NodeState::Disconnected).await;
}

#[tokio::test]
async fn a_bad_hello_is_refused_with_the_field() {
    let plane = Plane::start().await;
    let nameless = v1::Hello { node: None, ..hello("n1") };
    let idle = v1::Hello { services: vec![], ..hello("n1") };
    for (hello, field) in [(nameless, "hello.node.node_id"), (idle, "hello.services")] {
        let status = Node::connect(&plane, hello).await.next().await.unwrap_err();
        assert_eq!(explain(&status), (Code::InvalidArgument, "INVALID_FIELD".into(), field.into()));
    }
    let (requests, outbound) = mpsc::channel(1);
    requests.send(message(Message::Ack(v1::Ack::default()))).await.unwrap();
    let responses = plane.discovery().stream_snapshots(ReceiverStream::new(outbound)).await.unwrap();
    let status = responses.into_inner().message().await.unwrap_err();
    assert_eq!(explain(&status).2, "message");
}

#[tokio::test]
async fn more_data_planes_than_allowed_are_refused_and_the_others_go_on() {
    let plane = Plane::start_with(|config| config.max_nodes = 1).await;
    let mut first = Node::connect(&plane, hello("n1")).await;
    first.full().await;
    let status = Node::connect(&plane, hello("n2")).await.next().await.unwrap_err();
    assert_eq!(explain(&status), (Code::ResourceExhausted, "QUOTA_EXCEEDED".into(), String::new()));
    plane.register(request("orders", "10.0.0.1:80")).await;
    first.delta().await;
}

#[tokio::test]
async fn a_data_plane_that_holds_something_else_than_it_should_gets_everything_anew() {
    let plane = Plane::start().await;
    plane.register(request("orders", "10.0.0.1:80")).await;
    let mut node = Node::connect(&plane, hello("n1")).await;
    let epoch = node.full().await.0.epoch;
    drop(node);
    let mut node = Node::connect(&plane, resume("n1", &epoch, 1)).await;
    let bookmark = node.next().await.unwrap();
    node.nack(&bookmark, "CONTENT_MISMATCH").await;
    let (again, full) = node.full().await;
    assert_eq!((again.revision, full.services.len()), (1, 1));
    wait_for_state(&plane, v1::NodeState::Synced).await;
    plane.stop().await;
}

fn observer() -> v1::Hello {
    v1::Hello { role: v1::SnapshotRole::Observer.into(), ..hello("n1") }
}

#[tokio::test]
async fn an_observer_follows_the_registry_and_is_neither_listed_nor_waited_for() {
    let plane = Plane::start_with(|config| config.max_nodes = 1).await;
    plane.register(request("orders", "10.0.0.1:80")).await;
    let mut node = Node::connect(&plane, hello("n1")).await;
    node.full().await;
    // A name says nothing here: it may be anybody's, nobody's, or there twice.
    let mut observers = Vec::new();
    for hello in [observer(), observer(), v1::Hello { node: None, ..observer() }] {
        let mut observer = Node::connect(&plane, hello).await;
        assert_eq!(observer.full().await.1.services.len(), 1);
        observers.push(observer);
    }
    let wish = request("orders", "10.0.0.2:80");
    plane.register(wish).await;
    let (response, _) = node.delta().await;
    for observer in &mut observers {
        assert_eq!(observer.delta().await.0.revision, response.revision);
    }
    observers[0].nack(&response, "INVALID_RESOURCE").await;
    wait_for_state(&plane, v1::NodeState::Synced).await;
    drop(observers);
    let listed = nodes(&plane).await;
    assert_eq!((listed.len(), listed[0].state()), (1, v1::NodeState::Synced));
    let told =
        plane.observability().list_events(v1::ListEventsRequest::default()).await.unwrap().into_inner();
    let of_nodes = told.events.iter().filter(|event| event.event_type.starts_with("NODE_")).count();
    assert_eq!(of_nodes, 1, "{told:?}");
}

#[tokio::test]
async fn an_unknown_role_is_refused() {
    let plane = Plane::start().await;
    let status = Node::connect(&plane, v1::Hello { role: 9, ..hello("n1") }).await.next().await.unwrap_err();
    assert_eq!(explain(&status), (Code::InvalidArgument, "INVALID_FIELD".into(), "hello.role".into()));
}

fn change(add: &[&str], remove: &[&str]) -> v1::StreamSnapshotsRequest {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    message(Message::SubscriptionChange(v1::SubscriptionChange {
        add_services: names(add),
        remove_services: names(remove),
    }))
}

#[tokio::test]
async fn whoever_follows_other_services_from_now_on_gets_a_full_snapshot_of_them() {
    let plane = Plane::start().await;
    for service in ["orders", "billing", "users"] {
        plane.register(request(service, "10.0.0.1:80")).await;
    }
    let some = v1::Hello { services: vec!["billing".into()], ..hello("n1") };
    let mut node = Node::connect(&plane, some).await;
    let services =
        |full: &v1::FullSnapshot| full.services.iter().map(|entry| entry.service.clone()).collect::<Vec<_>>();
    // While something is unacked, the change waits: one at a time.
    let unacked = node.update().await;
    node.requests.send(change(&["orders"], &["billing"])).await.unwrap();
    node.ack(&unacked).await;
    let (_, full) = node.full().await;
    assert_eq!(services(&full), ["orders"]);
    node.requests.send(change(&["users"], &[])).await.unwrap();
    let (response, full) = node.full().await;
    assert_eq!((services(&full), response.revision), (vec!["orders".into(), "users".into()], 3));
    // Deltas go on from there.
    plane.register(request("billing", "10.0.0.2:80")).await;
    plane.register(request("users", "10.0.0.2:80")).await;
    let (_, delta) = node.delta().await;
    assert_eq!((delta.base_revision, delta.upsert_replicas.len()), (3, 1));

    node.requests.send(change(&["Users"], &[])).await.unwrap();
    let status = node.next().await.unwrap_err();
    assert_eq!(explain(&status).2, "subscription_change.add_services[0]");
    let mut node = Node::connect(&plane, hello("n2")).await;
    node.full().await;
    node.requests.send(change(&["users"], &[])).await.unwrap();
    let status = node.next().await.unwrap_err();
    assert_eq!(explain(&status).2, "subscription_change.add_services");
}

#[tokio::test]
async fn a_data_plane_that_is_not_concerned_by_a_change_counts_as_having_taken_it_on_at_once() {
    let plane = Plane::start().await;
    plane.register(request("billing", "10.0.0.1:80")).await;
    let some = v1::Hello { services: vec!["billing".into()], ..hello("n1") };
    let mut node = Node::connect(&plane, some).await;
    node.full().await;
    plane.register(request("orders", "10.0.0.1:80")).await;
    let started = std::time::Instant::now();
    let synced =
        eventually(async || nodes(&plane).await.into_iter().find(|node| node.acked_revision == 2)).await;
    assert_eq!(synced.state(), v1::NodeState::Synced);
    // Not with the bookmark that comes in every five seconds of quiet.
    assert!(started.elapsed() < std::time::Duration::from_secs(4), "{:?}", started.elapsed());
}
