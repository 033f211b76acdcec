//! What requests see of breakers that an operator has forced.

use std::sync::Arc;

use data_plane::table::{Forced, ForcedState};
use gateway_proto::{Policy, v1};

use crate::harness::{Dead, Gateway, Replica, body, field, ok, status};

fn forced(state: ForcedState) -> Option<Forced> {
    Some(Forced { state, entry: Arc::new(v1::OverrideEntry::default()) })
}

#[tokio::test]
async fn a_replica_whose_breaker_is_forced_open_sees_no_request_and_a_lone_one_says_why() {
    let held = Replica::start(|_, _| ok("held")).await;
    let other = Replica::start(|_, _| ok("other")).await;
    let gateway = Gateway::start(&[held.address, other.address], Policy::default()).await;
    gateway.respecify(0, |spec| spec.forced = forced(ForcedState::Open)).await;
    for _ in 0..10 {
        assert_eq!(body(&gateway.get("/orders/").await), "other");
    }
    assert_eq!(held.seen().len(), 0);

    gateway.respecify(1, |spec| spec.forced = forced(ForcedState::Open)).await;
    let response = gateway.get("/orders/").await;
    assert_eq!((status(&response), field(&response, "retry-after").as_deref()), (503, Some("5")));
    assert!(body(&response).contains("\"reason\":\"breaker_forced_open\""), "{response}");
}

#[tokio::test]
async fn a_replica_whose_breaker_is_forced_closed_is_asked_however_often_it_fails() {
    let dead = Dead::new();
    let gateway = Gateway::start(&[dead.address], Policy::default()).await;
    gateway.respecify(0, |spec| spec.forced = forced(ForcedState::Closed)).await;
    for _ in 0..10 {
        assert_eq!(status(&gateway.get("/orders/").await), 502);
    }
    assert_eq!(gateway.service().replicas()[0].counters().failures, 10);
}
