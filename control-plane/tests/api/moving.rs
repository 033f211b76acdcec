//! Moving what is registered to another store, step by step, as whoever does it sees it; and what becomes of it when he goes half-way.

use std::path::Path;

use control_plane::store::StoreLocation;
use gateway_proto::v1::{self, move_store_request::Step, move_store_response::Answer, stored_record::Record};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, Streaming};

use crate::{
    access::{Locked, beat, entries, entry, shown},
    plane::{Plane, eventually, explain, request, seconds},
};

const TO: &str = "etcd://a:2379/gw";

struct Mover {
    requests: mpsc::Sender<v1::MoveStoreRequest>,
    answers: Streaming<v1::MoveStoreResponse>,
}

impl Mover {
    async fn begin(plane: &Plane) -> Result<Self, Status> {
        Self::begin_as(plane, Request::new).await
    }

    async fn begin_as(
        plane: &Plane,
        shown: impl FnOnce(ReceiverStream<v1::MoveStoreRequest>) -> Request<ReceiverStream<v1::MoveStoreRequest>>,
    ) -> Result<Self, Status> {
        let (requests, receiver) = mpsc::channel(9);
        let answers = plane.stores().move_store(shown(ReceiverStream::new(receiver))).await?.into_inner();
        Ok(Self { requests, answers })
    }

    async fn ask(&mut self, step: Option<Step>) -> Result<Option<Answer>, Status> {
        let _ = self.requests.send(v1::MoveStoreRequest { step }).await;
        Ok(self.answers.message().await?.and_then(|answer| answer.answer))
    }

    async fn read(&mut self) -> v1::StoreContent {
        match self.ask(Some(Step::Read(v1::ReadStore {}))).await.unwrap() {
            Some(Answer::Content(content)) if content.complete => content,
            other => panic!("{other:?}"),
        }
    }

    async fn close(&mut self) {
        let closed = self.ask(close(TO)).await.unwrap();
        assert!(matches!(closed, Some(Answer::Closed(_))), "{closed:?}");
    }

    async fn end(&mut self, revision: i64) -> Result<Option<Answer>, Status> {
        self.ask(Some(Step::End(v1::EndMove { revision }))).await
    }

    /// Up to where all has moved.
    async fn whole(plane: &Plane) {
        let mut mover = Self::begin(plane).await.unwrap();
        mover.read().await;
        mover.close().await;
        let revision = mover.read().await.revision;
        let ended = mover.end(revision).await.unwrap();
        assert!(matches!(ended, Some(Answer::Ended(_))), "{ended:?}");
        assert!(mover.answers.message().await.unwrap().is_none(), "the stream has ended");
    }
}

fn close(to: &str) -> Option<Step> {
    Some(Step::Close(v1::CloseStore { to: to.into() }))
}

async fn reopen(plane: &Plane) -> Result<bool, Status> {
    Ok(plane.stores().reopen_store(v1::ReopenStoreRequest {}).await?.into_inner().reopened)
}

async fn readyz(plane: &Plane) -> u16 {
    plane.http("GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.0
}

async fn takes_changes(plane: &Plane, address: &str) {
    eventually(async || plane.registry().register(request("orders", address)).await.ok()).await;
    assert_eq!(readyz(plane).await, 200);
}

async fn refuses_changes(plane: &Plane) {
    refuses(plane, "moves to another store").await;
}

async fn refuses(plane: &Plane, why: &str) {
    let refused = plane.registry().register(request("orders", "10.0.9.9:80")).await.unwrap_err();
    assert_eq!(explain(&refused), (Code::Unavailable, "STORE_UNAVAILABLE".into(), String::new()));
    assert!(refused.message().contains(why), "{refused}");
    assert_eq!(readyz(plane).await, 503);
}

async fn on_file(path: &Path) -> Plane {
    Plane::start_with(|config| config.store = StoreLocation::Redb(path.into())).await
}

#[tokio::test]
async fn what_is_read_behind_the_fence_is_all_that_was_acknowledged_with_the_ids_of_leases() {
    let plane = Plane::start().await;
    let registered = plane
        .register(v1::RegisterRequest { lease_ttl: seconds(60), ..request("orders", "10.0.0.1:80") })
        .await;
    let mut mover = Mover::begin(&plane).await.unwrap();
    assert_eq!(mover.read().await.records.len(), 1);
    plane.register(request("orders", "10.0.0.2:80")).await;
    mover.close().await;
    refuses_changes(&plane).await;
    // Owners go on renewing, and people looking.
    plane.registry().heartbeat(beat(&registered)).await.unwrap();
    assert!(plane.registry().list_services(v1::ListServicesRequest::default()).await.is_ok());
    let content = mover.read().await;
    assert_eq!(content.records.len(), 2);
    let has_lease = |record: &v1::StoredRecord| match &record.record {
        Some(Record::Replica(bytes)) => String::from_utf8_lossy(bytes).contains(&registered.lease_id),
        other => panic!("{other:?}"),
    };
    assert_eq!(content.records.iter().filter(|record| has_lease(record)).count(), 1);
    mover.end(content.revision).await.unwrap();
    refuses(&plane, "has moved to ").await;
    let refused = plane.registry().heartbeat(beat(&registered)).await.unwrap_err();
    assert_eq!(explain(&refused).1, "STORE_UNAVAILABLE", "owners go on to the new one");
    assert!(plane.registry().list_services(v1::ListServicesRequest::default()).await.is_ok());

    assert!(reopen(&plane).await.unwrap());
    plane.registry().heartbeat(beat(&registered)).await.unwrap();
    takes_changes(&plane, "10.0.0.3:80").await;
    assert!(!reopen(&plane).await.unwrap(), "they are taken already");
}

#[tokio::test]
async fn a_mover_who_goes_at_any_step_before_the_end_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.redb");
    let mut plane = on_file(&path).await;
    for step in 0..8 {
        let mut mover = eventually(async || Mover::begin(&plane).await.ok()).await;
        if step % 4 >= 1 {
            mover.read().await;
        }
        if step % 4 >= 2 {
            mover.close().await;
            refuses_changes(&plane).await;
        }
        if step % 4 >= 3 {
            mover.read().await;
        }
        if step < 4 {
            drop(mover);
        } else {
            // The control plane goes, and another one starts on the file.
            plane.stop().await;
            drop(mover);
            plane = on_file(&path).await;
        }
        takes_changes(&plane, &format!("10.0.0.{}:80", step + 1)).await;
    }
}

#[tokio::test]
async fn a_file_that_has_moved_has_no_control_plane_start_on_it_until_it_is_reopened() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.redb");
    let plane = on_file(&path).await;
    plane.register(request("orders", "10.0.0.1:80")).await;
    Mover::whole(&plane).await;
    plane.stop().await;
    let config = control_plane::Config {
        listen: Some("127.0.0.1:0".parse().unwrap()),
        store: StoreLocation::Redb(path.clone()),
        ..Default::default()
    };
    let refused = control_plane::start(config, gateway_runtime::Shutdown::new()).await.unwrap_err();
    assert!(refused.to_string().contains(&format!("it has moved to {TO}")), "{refused}");
}

#[tokio::test]
async fn there_is_one_mover_at_a_time_and_none_where_changes_are_not_taken() {
    let plane = Plane::start().await;
    let mut first = Mover::begin(&plane).await.unwrap();
    let second = async || Mover::begin(&plane).await.map(drop).unwrap_err();
    assert_eq!(explain(&second().await).1, "QUOTA_EXCEEDED");
    first.close().await;
    assert_eq!(explain(&second().await).1, "QUOTA_EXCEEDED");
    let refused = reopen(&plane).await.unwrap_err();
    assert_eq!(explain(&refused), (Code::FailedPrecondition, "MOVE_REFUSED".into(), String::new()));
    assert!(refused.message().contains(TO), "{refused}");
    let revision = first.read().await.revision;
    first.end(revision).await.unwrap();
    let refused = eventually(async || {
        let refused = second().await;
        (explain(&refused).1 == "MOVE_REFUSED").then_some(refused)
    });
    assert!(refused.await.message().contains("has moved already"));
}

#[tokio::test]
async fn steps_out_of_order_and_what_cannot_be_meant_end_the_move_and_its_fence() {
    let plane = Plane::start().await;
    plane.register(request("orders", "10.0.0.1:80")).await;
    let begin = async || eventually(async || Mover::begin(&plane).await.ok()).await;
    for (step, field) in [
        (None, "step"),
        (Some(Step::End(v1::EndMove { revision: 1 })), "end"),
        (close(""), "close.to"),
        (close(&"x".repeat(1001)), "close.to"),
        (close("etcd://a\n/gw"), "close.to"),
    ] {
        let refused = begin().await.ask(step.clone()).await.unwrap_err();
        assert_eq!(
            explain(&refused),
            (Code::InvalidArgument, "INVALID_FIELD".into(), field.into()),
            "{step:?}"
        );
    }
    for (step, reason) in [
        (close(TO), "INVALID_FIELD"),
        (None, "INVALID_FIELD"),
        // Of another revision than is there.
        (Some(Step::End(v1::EndMove { revision: 0 })), "MOVE_REFUSED"),
        (Some(Step::End(v1::EndMove { revision: 2 })), "MOVE_REFUSED"),
    ] {
        let mut mover = begin().await;
        mover.close().await;
        assert_eq!(explain(&mover.ask(step.clone()).await.unwrap_err()).1, reason, "{step:?}");
        // One more revision each time.
        takes_changes(&plane, "10.0.0.1:80").await;
    }
}

#[tokio::test]
async fn only_an_operator_reads_the_ids_of_leases_and_closes_or_reopens_a_store() {
    let entries = entries() + &entry("dp", "roles = [\"data-plane\"]");
    let locked = Locked::start(&entries, &[], 5000).await;
    let lease = locked.lease("orders", "orders").await;
    for (token, code, reason) in [
        ("see", Code::PermissionDenied, "PERMISSION_DENIED"),
        ("orders", Code::PermissionDenied, "PERMISSION_DENIED"),
        ("dp", Code::PermissionDenied, "PERMISSION_DENIED"),
        ("nobody", Code::Unauthenticated, "CREDENTIALS_INVALID"),
    ] {
        let moved = Mover::begin_as(&locked.plane, |steps| shown(token, steps)).await.map(drop).unwrap_err();
        let reopened = locked.plane.stores().reopen_store(shown(token, v1::ReopenStoreRequest {})).await;
        for refused in [moved, reopened.unwrap_err()] {
            assert_eq!((refused.code(), explain(&refused).1.as_str()), (code, reason), "{token}");
        }
        let answer = locked.ask("POST", "/v1/store:reopen", token, "").await;
        assert!(matches!(answer.status, 401 | 403), "{token}: {}", answer.status);
    }
    let refused = Mover::begin(&locked.plane).await.map(drop).unwrap_err();
    assert_eq!(explain(&refused).1, "CREDENTIALS_REQUIRED");

    let mut mover = Mover::begin_as(&locked.plane, |steps| shown("ops", steps)).await.unwrap();
    mover.read().await;
    mover.close().await;
    let revision = mover.read().await.revision;
    mover.end(revision).await.unwrap();
    assert_eq!(locked.ask("POST", "/v1/store:reopen", "ops", "").await.status, 200);
    let events = eventually(async || {
        let events = locked.ask("GET", "/v1/events?pageSize=1000", "see", "").await.json();
        let events = events["events"].as_array().unwrap().clone();
        events.iter().any(|event| event["metadata"]["request"] == "ReopenStore").then_some(events)
    });
    let events = events.await;
    for (event, to) in [("STORE_READ", None), ("STORE_CLOSED", Some(TO)), ("STORE_MOVED", Some(TO))] {
        let told: Vec<_> = events.iter().filter(|told| told["eventType"] == event).collect();
        assert_eq!(told.len(), 1, "{event}: {events:?}");
        assert_eq!(told[0]["actor"], "ops");
        assert_eq!(told[0]["metadata"]["to"].as_str(), to);
    }
    let asked: Vec<_> = events
        .iter()
        .filter(|told| told["eventType"] == "CHANGE_ASKED" && told["actor"] == "ops")
        .map(|told| {
            (told["metadata"]["request"].as_str().unwrap(), told["metadata"]["outcome"].as_str().unwrap())
        })
        .collect();
    assert!(asked.contains(&("MoveStore", "done")) && asked.contains(&("ReopenStore", "done")), "{asked:?}");
    let told = serde_json::to_string(&events).unwrap();
    assert!(!told.contains(&lease.lease_id), "a secret is told");
}

#[tokio::test]
async fn a_move_does_not_hold_up_the_end_of_its_control_plane() {
    let plane = Plane::start().await;
    let mut mover = Mover::begin(&plane).await.unwrap();
    mover.close().await;
    plane.stop().await;
    assert_eq!(explain(&mover.answers.message().await.unwrap_err()).1, "SHUTTING_DOWN");
}

#[tokio::test]
async fn whoever_reads_all_and_goes_has_wanted_a_copy() {
    let locked = Locked::start(&entries(), &[], 5000).await;
    locked.lease("orders", "orders").await;
    let mut reader = Mover::begin_as(&locked.plane, |steps| shown("ops", steps)).await.unwrap();
    assert_eq!(reader.read().await.records.len(), 1);
    // As long as he reads, changes are taken.
    locked.lease("orders", "orders").await;
    let Mover { requests, mut answers } = reader;
    drop(requests);
    assert!(answers.message().await.unwrap().is_none(), "the stream ends in order");
    let asked = eventually(async || {
        let events = locked.ask("GET", "/v1/events?pageSize=1000", "see", "").await.json();
        let mut events = events["events"].as_array().unwrap().clone();
        events.retain(|event| event["metadata"]["request"] == "MoveStore");
        events.pop()
    });
    let asked = asked.await;
    assert_eq!((&asked["actor"], &asked["metadata"]["outcome"]), (&"ops".into(), &"read".into()), "{asked}");
}
