//! What the pure half of discovery promises, as examples and as properties.

mod content;
mod explicit_routes;
mod overrides;
mod policies;
mod properties;
mod refusals;
mod routes;

use gateway_proto::{
    ServiceName,
    v1::{self, stream_snapshots_response::Update},
};

use super::{Assembly, Received, Snapshot};

pub(crate) fn replica(service: &str, id: &str, port: u16) -> v1::Replica {
    v1::Replica {
        service: service.into(),
        replica_id: id.into(),
        endpoint: Some(v1::Endpoint { address: format!("127.0.0.1:{port}"), ..Default::default() }),
        health: v1::HealthStatus::Healthy.into(),
        incarnation: 1,
        ..Default::default()
    }
}

pub(crate) fn service(name: &str, replicas: Vec<v1::Replica>) -> v1::ServiceSnapshot {
    v1::ServiceSnapshot { service: name.into(), policy: None, replicas }
}

pub(crate) fn message(epoch: &str, revision: i64, update: Update) -> v1::StreamSnapshotsResponse {
    v1::StreamSnapshotsResponse {
        nonce: "n".into(),
        epoch: epoch.into(),
        revision,
        update: Some(update),
        ..Default::default()
    }
}

pub(crate) fn part(
    revision: i64,
    index: i32,
    last: bool,
    services: Vec<v1::ServiceSnapshot>,
) -> v1::StreamSnapshotsResponse {
    let full = v1::FullSnapshot { services, part_index: index, last_part: last, ..Default::default() };
    message("e", revision, Update::Full(full))
}

pub(crate) fn full(revision: i64, services: Vec<v1::ServiceSnapshot>) -> v1::StreamSnapshotsResponse {
    part(revision, 0, true, services)
}

pub(crate) fn delta(base: i64, revision: i64, delta: v1::Delta) -> v1::StreamSnapshotsResponse {
    message("e", revision, Update::Delta(v1::Delta { base_revision: base, ..delta }))
}

pub(crate) fn bookmark(revision: i64) -> v1::StreamSnapshotsResponse {
    message("e", revision, Update::Bookmark(v1::Bookmark { ..Default::default() }))
}

pub(crate) fn removal(service: &str, id: &str, cause: v1::RemovalCause) -> v1::ReplicaRemoval {
    v1::ReplicaRemoval { service: service.into(), replica_id: id.into(), cause: cause.into() }
}

/// A breaker forced open on every data plane until the year 2500, at revision 1.
pub(crate) fn override_of(id: &str, service: &str, replica: &str) -> v1::OverrideEntry {
    v1::OverrideEntry {
        override_id: id.into(),
        service: service.into(),
        replica_id: replica.into(),
        kind: v1::OverrideKind::BreakerOpen.into(),
        expire_time: Some(prost_types::Timestamp { seconds: 16_725_225_600, nanos: 0 }),
        reason: "bad deploy".into(),
        author: "ana".into(),
        revision: 1,
        ..Default::default()
    }
}

/// Epoch "e" at revision 5: `orders` with r-1 and r-2, `users` with r-1.
pub(crate) fn held() -> Snapshot {
    let mut held = Snapshot::default();
    let orders = service("orders", vec![replica("orders", "r-1", 1), replica("orders", "r-2", 2)]);
    let users = service("users", vec![replica("users", "r-1", 3)]);
    let received = Assembly::default().receive(&mut held, full(5, vec![orders, users]));
    assert_eq!(received, applied(5, &["orders", "users"]));
    held
}

pub(crate) fn applied(revision: i64, changed: &[&str]) -> Received {
    let changed = changed.iter().map(|name| ServiceName::parse(name).unwrap()).collect();
    Received::Applied { changed, revision }
}

fn ids(held: &Snapshot, service: &str) -> Option<Vec<String>> {
    let spec = held.service(&ServiceName::parse(service).unwrap())?;
    Some(spec.replicas.iter().map(|replica| replica.id.to_string()).collect())
}

#[test]
fn nothing_is_held_before_the_first_snapshot_and_an_empty_registry_is_something() {
    let mut held = Snapshot::default();
    assert!(!held.is_held());
    let received = Assembly::default().receive(&mut held, full(0, vec![]));
    assert_eq!(received, applied(0, &[]));
    assert!(held.is_held());
}

#[test]
fn a_full_snapshot_removes_what_it_lacks_and_names_only_what_differs() {
    let mut held = held();
    let users = service("users", vec![replica("users", "r-1", 3)]);
    let carts = service("carts", vec![replica("carts", "r-1", 9)]);
    let received = Assembly::default().receive(&mut held, full(6, vec![users, carts]));
    assert_eq!(received, applied(6, &["carts", "orders"]));
    assert_eq!(ids(&held, "orders"), None);
}

#[test]
fn parts_are_applied_when_the_last_one_is_there_and_may_split_a_service() {
    let (mut held, mut assembly) = (held(), Assembly::default());
    let before = held.clone();
    let first = service("orders", vec![replica("orders", "r-2", 2)]);
    assert_eq!(assembly.receive(&mut held, part(7, 0, false, vec![first])), Received::Partial);
    let middle = service("orders", vec![replica("orders", "r-1", 1)]);
    assert_eq!(assembly.receive(&mut held, part(7, 1, false, vec![middle])), Received::Partial);
    assert_eq!(held, before, "parts alone change nothing");
    let last = service("orders", vec![replica("orders", "r-0", 4)]);
    assert_eq!(assembly.receive(&mut held, part(7, 2, true, vec![last])), applied(7, &["orders", "users"]));
    assert_eq!(ids(&held, "orders").unwrap(), ["r-0", "r-1", "r-2"], "sorted by id");
}

#[test]
fn part_zero_begins_anew() {
    let (mut held, mut assembly) = (held(), Assembly::default());
    let lost = service("lost", vec![replica("lost", "r-1", 1)]);
    assert_eq!(assembly.receive(&mut held, part(7, 0, false, vec![lost])), Received::Partial);
    let carts = service("carts", vec![replica("carts", "r-1", 9)]);
    let received = assembly.receive(&mut held, part(8, 0, true, vec![carts]));
    assert_eq!(received, applied(8, &["carts", "orders", "users"]));
    assert_eq!(ids(&held, "lost"), None);
}

#[test]
fn a_delta_changes_single_replicas_and_policies() {
    let mut held = held();
    let retry = v1::RetryPolicy { max_retry_count: Some(0), ..Default::default() };
    let policy = Some(v1::Policy { retry: Some(retry), ..Default::default() });
    let changes = v1::Delta {
        upsert_services: vec![
            service("carts", vec![]),
            v1::ServiceSnapshot { policy, ..service("users", vec![]) },
        ],
        upsert_replicas: vec![replica("carts", "r-1", 9), replica("orders", "r-3", 4)],
        remove_replicas: vec![v1::ReplicaRemoval {
            service: "orders".into(),
            replica_id: "r-1".into(),
            ..Default::default()
        }],
        ..Default::default()
    };
    let received = Assembly::default().receive(&mut held, delta(5, 8, changes));
    assert_eq!(received, applied(8, &["carts", "orders", "users"]));
    assert_eq!(ids(&held, "orders").unwrap(), ["r-2", "r-3"]);
    assert_eq!(ids(&held, "carts").unwrap(), ["r-1"]);
    assert_eq!(ids(&held, "users").unwrap(), ["r-1"], "a new policy keeps the replicas");
    let users = held.service(&ServiceName::parse("users").unwrap()).unwrap();
    assert_eq!(users.policy.retry.max_retry_count, 0);
}

#[test]
fn a_delta_removes_a_service_and_may_name_what_was_never_here() {
    let mut held = held();
    let changes = v1::Delta {
        remove_services: vec!["users".into(), "unknown".into()],
        remove_replicas: vec![
            v1::ReplicaRemoval { service: "users".into(), replica_id: "r-1".into(), ..Default::default() },
            v1::ReplicaRemoval {
                service: "elsewhere".into(),
                replica_id: "r-1".into(),
                ..Default::default()
            },
        ],
        ..Default::default()
    };
    let received = Assembly::default().receive(&mut held, delta(5, 6, changes));
    assert_eq!(received, applied(6, &["unknown", "users"]));
    assert_eq!(ids(&held, "users"), None);
    assert_eq!(held.services().len(), 1);
}

#[test]
fn a_bookmark_moves_the_revision_on_and_nothing_else() {
    let mut held = held();
    assert_eq!(Assembly::default().receive(&mut held, bookmark(9)), Received::Unchanged);
    assert_eq!((held.revision(), held.services().len()), (9, 2));
}

#[test]
fn another_epoch_may_begin_at_a_lower_revision() {
    let mut held = held();
    let empty = v1::FullSnapshot { services: vec![], part_index: 0, last_part: true, ..Default::default() };
    let received = Assembly::default().receive(&mut held, message("f", 1, Update::Full(empty)));
    assert_eq!(received, applied(1, &["orders", "users"]));
    assert_eq!((held.epoch(), held.revision()), ("f", 1));
}

#[test]
fn what_a_replica_understands_is_followed_and_what_only_newer_control_planes_know_is_not_asked() {
    let speaking = |protocol, name: &str| v1::Replica {
        endpoint: Some(v1::Endpoint {
            address: "127.0.0.1:1".into(),
            protocol,
            tls_server_name: name.into(),
        }),
        ..replica("orders", "r-1", 1)
    };
    let tls = v1::EndpointProtocol::Tls.into();
    let followed = super::parse::replica(&speaking(tls, "orders.example")).unwrap();
    assert_eq!(
        (followed.endpoint.tls_name(), followed.health),
        (Some("orders.example"), gateway_proto::Health::Healthy)
    );
    let unknown = super::parse::replica(&speaking(99, "orders.example")).unwrap();
    assert_eq!((unknown.endpoint.address.port(), unknown.health), (1, gateway_proto::Health::Unhealthy));
    let senseless = super::parse::replica(&speaking(0, "orders.example")).unwrap_err();
    assert!(senseless.to_string().contains("tls_server_name"), "{senseless}");
}

#[test]
fn a_health_that_only_newer_control_planes_know_is_read_as_not_ready() {
    let mut held = Snapshot::default();
    let unknown = v1::Replica { health: 99, ..replica("orders", "r-1", 1) };
    let received = Assembly::default().receive(&mut held, full(1, vec![service("orders", vec![unknown])]));
    assert_eq!(received, applied(1, &["orders"]));
    assert!(!held.services().next().unwrap().replicas[0].health.is_ready());
}

#[test]
fn a_snapshot_survives_its_own_wire_form() {
    let held = held();
    let mut copy = Snapshot::default();
    let response = message(held.epoch(), held.revision(), Update::Full(held.to_wire()));
    Assembly::default().receive(&mut copy, response);
    assert_eq!(copy, held);
}
