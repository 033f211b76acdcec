use gateway_proto::v1::{self, ChangeType};
use tokio::time::timeout;
use tonic::Streaming;

use crate::plane::{PATIENCE, Plane, request};

struct Watcher(Streaming<v1::WatchReplicasResponse>);

impl Watcher {
    async fn begin(plane: &Plane, request: v1::WatchReplicasRequest) -> Self {
        Self(plane.registry().watch_replicas(request).await.unwrap().into_inner())
    }

    /// What comes up to the next bookmark, by replica, and the bookmark.
    async fn batch(&mut self) -> (Vec<(ChangeType, String)>, v1::WatchReplicasResponse) {
        let mut changes = Vec::new();
        loop {
            let next = timeout(PATIENCE, self.0.message()).await.expect("something comes");
            let message = next.unwrap().expect("the watch goes on");
            match message.change_type() {
                ChangeType::Bookmark => return (changes, message),
                change => changes.push((change, message.replica.unwrap_or_default().replica_id)),
            }
        }
    }
}

async fn register(plane: &Plane, service: &str, id: &str, port: u16) {
    let wish = request(service, &format!("10.0.0.1:{port}"));
    plane.register(v1::RegisterRequest { replica_id: id.into(), permanent: true, ..wish }).await;
}

async fn remove(plane: &Plane, service: &str, id: &str) {
    let (service, replica_id) = (service.into(), id.into());
    let removal = v1::DeregisterRequest { service, replica_id, ..Default::default() };
    plane.registry().deregister(removal).await.unwrap();
}

fn owned(changes: &[(ChangeType, &str)]) -> Vec<(ChangeType, String)> {
    changes.iter().map(|(change, id)| (*change, (*id).to_owned())).collect()
}

#[tokio::test]
async fn a_watcher_is_told_everything_and_then_each_change() {
    let plane = Plane::start().await;
    register(&plane, "orders", "r-1", 1).await;
    register(&plane, "users", "r-2", 2).await;
    let orders = v1::WatchReplicasRequest { service: "orders".into(), ..Default::default() };
    let mut watcher = Watcher::begin(&plane, orders).await;
    let (all, bookmark) = watcher.batch().await;
    assert_eq!(all, owned(&[(ChangeType::Reset, ""), (ChangeType::Added, "r-1")]));
    assert_eq!(bookmark.revision, 2);
    register(&plane, "orders", "r-3", 3).await;
    assert_eq!(watcher.batch().await.0, owned(&[(ChangeType::Added, "r-3")]));
    register(&plane, "orders", "r-3", 4).await;
    assert_eq!(watcher.batch().await.0, owned(&[(ChangeType::Modified, "r-3")]));
    remove(&plane, "orders", "r-1").await;
    assert_eq!(watcher.batch().await.0, owned(&[(ChangeType::Deleted, "r-1")]));
    plane.stop().await;
}

#[tokio::test]
async fn a_watcher_that_comes_back_is_told_what_has_changed_since() {
    let plane = Plane::start().await;
    register(&plane, "orders", "r-1", 1).await;
    let mut watcher = Watcher::begin(&plane, v1::WatchReplicasRequest::default()).await;
    let (_, bookmark) = watcher.batch().await;
    drop(watcher);
    register(&plane, "orders", "r-2", 2).await;
    register(&plane, "orders", "gone", 3).await;
    remove(&plane, "orders", "gone").await;
    remove(&plane, "orders", "r-1").await;
    let resume = v1::WatchReplicasRequest {
        resume_epoch: bookmark.epoch,
        resume_revision: bookmark.revision,
        ..Default::default()
    };
    let mut watcher = Watcher::begin(&plane, resume.clone()).await;
    let (changes, bookmark) = watcher.batch().await;
    assert_eq!(changes, owned(&[(ChangeType::Deleted, "r-1"), (ChangeType::Added, "r-2")]));
    assert_eq!(bookmark.revision, 5);
    // Of another store, or of its future, nothing is known.
    for foreign in [
        v1::WatchReplicasRequest { resume_epoch: "other".into(), ..resume.clone() },
        v1::WatchReplicasRequest { resume_revision: 99, ..resume },
    ] {
        let (changes, _) = Watcher::begin(&plane, foreign).await.batch().await;
        assert_eq!(changes, owned(&[(ChangeType::Reset, ""), (ChangeType::Added, "r-2")]));
    }
    plane.stop().await;
}
