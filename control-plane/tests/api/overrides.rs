use control_plane::store::StoreLocation;
use gateway_proto::v1;
use tonic::{Code, Status};

use crate::{
    discovery::{Node, hello},
    plane::{Plane, eventually, explain, request, seconds},
};

async fn plane_with_a_replica() -> (Plane, String) {
    let plane = Plane::start().await;
    let answer = plane.register(request("orders", "10.0.0.1:80")).await;
    (plane, answer.replica.unwrap().replica_id)
}

fn force(replica_id: &str, state: v1::BreakerState) -> v1::OverrideBreakerRequest {
    v1::OverrideBreakerRequest {
        service: "orders".into(),
        replica_id: replica_id.into(),
        state: state.into(),
        ttl: seconds(600),
        reason: "bad deploy".into(),
        author: "ana".into(),
        ..Default::default()
    }
}

async fn set(plane: &Plane, wish: v1::OverrideBreakerRequest) -> Result<Option<v1::OverrideEntry>, Status> {
    Ok(plane.observability().override_breaker(wish).await?.into_inner().active_override)
}

async fn list(plane: &Plane) -> Vec<v1::OverrideEntry> {
    let request = v1::ListOverridesRequest::default();
    plane.observability().list_overrides(request).await.unwrap().into_inner().overrides
}

#[tokio::test]
async fn a_forced_breaker_is_delivered_listed_and_handed_back() {
    let (plane, id) = plane_with_a_replica().await;
    let mut node = Node::connect(&plane, hello("n1")).await;
    node.full().await;
    let entry = set(&plane, force(&id, v1::BreakerState::ForcedOpen)).await.unwrap().unwrap();
    assert_eq!((entry.kind(), entry.author.as_str()), (v1::OverrideKind::BreakerOpen, "ana"));
    assert_eq!(entry.expire_time.unwrap().seconds - entry.create_time.unwrap().seconds, 600);
    let (_, delta) = node.delta().await;
    let expected = std::slice::from_ref(&entry);
    assert_eq!(delta.upsert_overrides, expected);
    assert_eq!(list(&plane).await, expected);

    // A second one about the same takes its place.
    let closed = set(&plane, force(&id, v1::BreakerState::ForcedClosed)).await.unwrap().unwrap();
    assert_eq!(closed.override_id, entry.override_id);
    let (_, delta) = node.delta().await;
    assert_eq!(delta.upsert_overrides, [closed]);

    let back = v1::OverrideBreakerRequest { ttl: None, ..force(&id, v1::BreakerState::Closed) };
    assert_eq!(set(&plane, back.clone()).await.unwrap(), None);
    let (_, delta) = node.delta().await;
    assert_eq!(delta.remove_overrides, [entry.override_id]);
    assert!(list(&plane).await.is_empty());
    assert_eq!(set(&plane, back).await.unwrap(), None, "what is not there is handed back all the same");
    plane.stop().await;
}

#[tokio::test]
async fn an_override_ends_by_itself_and_data_planes_are_told() {
    let (plane, id) = plane_with_a_replica().await;
    let mut node = Node::connect(&plane, hello("n1")).await;
    node.full().await;
    let short = v1::OverrideBreakerRequest { ttl: seconds(1), ..force(&id, v1::BreakerState::ForcedOpen) };
    let entry = set(&plane, short).await.unwrap().unwrap();
    node.delta().await;
    let (_, delta) = node.delta().await;
    assert_eq!(delta.remove_overrides, [entry.override_id]);
    assert!(list(&plane).await.is_empty());
    plane.stop().await;
}

#[tokio::test]
async fn an_override_survives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let store = StoreLocation::Redb(folder.path().join("gateway.redb"));
    let plane = Plane::start_with(|config| config.store = store.clone()).await;
    plane
        .register(v1::RegisterRequest { replica_id: "r-1".into(), ..request("orders", "10.0.0.1:80") })
        .await;
    let entry = set(&plane, force("r-1", v1::BreakerState::ForcedOpen)).await.unwrap().unwrap();
    plane.stop().await;
    let plane = Plane::start_with(|config| config.store = store).await;
    assert_eq!(list(&plane).await, std::slice::from_ref(&entry));
    let mut node = Node::connect(&plane, hello("n1")).await;
    assert_eq!(node.full().await.1.overrides, [entry]);
    plane.stop().await;
}

#[tokio::test]
async fn an_override_needs_an_end_a_reason_and_something_that_is_there() {
    let (plane, id) = plane_with_a_replica().await;
    let refused = async |wish| explain(&set(&plane, wish).await.unwrap_err());
    let open = || force(&id, v1::BreakerState::ForcedOpen);
    let invalid = |field: &str| (Code::InvalidArgument, "INVALID_FIELD".to_owned(), field.to_owned());
    let no_ttl = v1::OverrideBreakerRequest { ttl: None, ..open() };
    assert_eq!(refused(no_ttl).await, invalid("ttl"));
    let long = v1::OverrideBreakerRequest { ttl: seconds(86_401), ..open() };
    assert_eq!(refused(long).await, invalid("ttl"));
    let mute = v1::OverrideBreakerRequest { reason: String::new(), ..open() };
    assert_eq!(refused(mute).await, invalid("reason"));
    let nobody = v1::OverrideBreakerRequest { replica_id: String::new(), ..open() };
    assert_eq!(refused(nobody).await, invalid("replica_id"));
    assert_eq!(refused(force(&id, v1::BreakerState::HalfOpen)).await, invalid("state"));
    let unknown = refused(force("nobody", v1::BreakerState::ForcedOpen)).await;
    assert_eq!(unknown, (Code::NotFound, "REPLICA_NOT_FOUND".into(), String::new()));
    let elsewhere = v1::OverrideBreakerRequest { service: "users".into(), ..open() };
    assert_eq!(refused(elsewhere).await, (Code::NotFound, "SERVICE_NOT_FOUND".into(), String::new()));
    let rehearsed = v1::OverrideBreakerRequest { validate_only: true, ..open() };
    assert!(set(&plane, rehearsed).await.unwrap().is_some());
    assert!(list(&plane).await.is_empty());
    plane.stop().await;
}

#[tokio::test]
async fn a_reset_is_delivered_as_an_override_of_its_own() {
    let (plane, id) = plane_with_a_replica().await;
    let mut node = Node::connect(&plane, hello("n1")).await;
    node.full().await;
    let reset = v1::ResetBreakerRequest { service: "orders".into(), replica_id: id, ..Default::default() };
    plane.observability().reset_breaker(reset.clone()).await.unwrap();
    let (first, delta) = node.delta().await;
    assert_eq!(delta.upsert_overrides[0].kind(), v1::OverrideKind::BreakerReset);
    // Again is once more: the revision tells them apart.
    plane.observability().reset_breaker(reset).await.unwrap();
    let (_, delta) = node.delta().await;
    assert!(delta.upsert_overrides[0].revision > first.revision);
    plane.stop().await;
}

#[tokio::test]
async fn a_forced_removal_can_block_what_it_removes() {
    let plane = Plane::start().await;
    let wish = || v1::RegisterRequest { replica_id: "r-1".into(), ..request("orders", "10.0.0.1:80") };
    plane.register(wish()).await;
    let removal = v1::DeregisterRequest {
        service: "orders".into(),
        replica_id: "r-1".into(),
        force: true,
        block_reregister_ttl: seconds(600),
        reason: "rogue".into(),
        author: "ana".into(),
        ..Default::default()
    };
    let unforced = v1::DeregisterRequest { force: false, ..removal.clone() };
    let refused = plane.registry().deregister(unforced).await.unwrap_err();
    assert_eq!(explain(&refused).2, "block_reregister_ttl");
    plane.registry().deregister(removal).await.unwrap();

    let blocked = (Code::FailedPrecondition, "REREGISTER_BLOCKED".to_owned(), String::new());
    let same_id = v1::RegisterRequest { replica_id: "r-1".into(), ..request("orders", "10.0.0.1:81") };
    let refused = plane.registry().register(same_id).await.unwrap_err();
    assert_eq!(explain(&refused), blocked);
    assert!(refused.message().contains("ana: rogue"), "{}", refused.message());
    let same_address = request("orders", "10.0.0.1:80");
    assert_eq!(explain(&plane.registry().register(same_address).await.unwrap_err()), blocked);
    plane.register(request("orders", "10.0.0.1:82")).await;

    // It is on the list, and ends with it.
    let [block] = list(&plane).await.try_into().unwrap();
    assert_eq!(
        (block.kind(), block.address.as_str()),
        (v1::OverrideKind::RegistrationBlocked, "10.0.0.1:80")
    );
    let end = v1::EndOverrideRequest { override_id: block.override_id, ..Default::default() };
    assert!(plane.observability().end_override(end.clone()).await.unwrap().into_inner().ended);
    assert!(!plane.observability().end_override(end).await.unwrap().into_inner().ended);
    plane.register(wish()).await;
    plane.stop().await;
}

#[tokio::test]
async fn overrides_are_events_with_their_author() {
    let (plane, id) = plane_with_a_replica().await;
    set(&plane, force(&id, v1::BreakerState::ForcedOpen)).await.unwrap();
    let event = eventually(async || {
        let request = v1::ListEventsRequest::default();
        let events = plane.observability().list_events(request).await.unwrap().into_inner().events;
        events.into_iter().find(|event| event.event_type == "OVERRIDE_SET")
    })
    .await;
    assert_eq!((event.actor.as_str(), event.replica_id), ("ana", id.clone()));
    assert_eq!(event.message, format!("breaker forced open of orders/{id} for 10m: bad deploy"));
    plane.stop().await;
}
