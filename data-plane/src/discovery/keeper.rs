//! Brings the snapshot to disk as it changes, off the async threads and at most once a second.

use std::{
    io,
    time::{Duration, SystemTime},
};

use gateway_runtime::Shutdown;
use tokio::{sync::watch, task::spawn_blocking, time::sleep};

use super::{Cache, Snapshot};

/// Changes that come faster are saved together.
const PAUSE: Duration = Duration::from_secs(1);
/// A full or broken disk rarely heals within seconds.
const RETRY: Duration = Duration::from_secs(10);

/// Saves the first change at once, later ones at most once a second, and the last one before it returns. It returns
/// when the snapshot's owner is gone; from the moment `stop` begins it pauses no more.
///
/// A disk that does not take it is tried again every 10 s, and costs nothing else.
pub(crate) async fn keep(cache: Cache, mut snapshot: watch::Receiver<Snapshot>, stop: Shutdown) {
    let mut failing = false;
    while snapshot.changed().await.is_ok() {
        let current = snapshot.borrow_and_update().clone();
        let target = cache.clone();
        let saved = spawn_blocking(move || target.save(&current, SystemTime::now())).await;
        let saved = saved.unwrap_or_else(|panic| Err(io::Error::other(panic)));
        report(&cache, &saved, failing);
        failing = saved.is_err();
        if failing && !stop.has_begun() && snapshot.has_changed().is_ok() {
            snapshot.mark_changed();
        }
        tokio::select! {
            () = sleep(if failing { RETRY } else { PAUSE }) => {}
            () = stop.begun() => {}
        }
    }
}

/// Logs when the disk begins to refuse and when it is over, not every time between.
fn report(cache: &Cache, saved: &io::Result<()>, failing: bool) {
    let path = cache.path();
    match saved {
        Ok(()) if failing => tracing::info!(path = %path.display(), "the snapshot is saved again"),
        Err(error) if !failing => tracing::warn!(
            path = %path.display(),
            %error,
            "the snapshot cannot be saved: a restart without a control plane would find an older one"
        ),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn saved(cache: &Cache) -> Snapshot {
        loop {
            if let Some(cached) = cache.load(SystemTime::now()).unwrap() {
                return cached.snapshot;
            }
            sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn the_first_change_is_saved_at_once_and_the_last_one_at_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::new(directory.path(), Duration::from_secs(60));
        let (owner, view) = watch::channel(Snapshot::default());
        let stop = Shutdown::new();
        let keeper = tokio::spawn(keep(cache.clone(), view, stop.clone()));

        owner.send_replace(Snapshot::new("e", 1, vec![]));
        assert_eq!(saved(&cache).await.revision(), 1);

        // These come within the pause; only the last one counts.
        for revision in 2..=9 {
            owner.send_replace(Snapshot::new("e", revision, vec![]));
        }
        stop.begin();
        drop(owner);
        keeper.await.unwrap();
        assert_eq!(saved(&cache).await.revision(), 9);
    }

    #[tokio::test]
    async fn nothing_is_saved_when_nothing_changed() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::new(directory.path(), Duration::from_secs(60));
        let (owner, view) = watch::channel(Snapshot::new("e", 1, vec![]));
        drop(owner);
        keep(cache.clone(), view, Shutdown::new()).await;
        assert_eq!(cache.load(SystemTime::now()).unwrap(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_refuses_is_tried_again_without_another_change() {
        let directory = tempfile::tempdir().unwrap();
        let blocked = directory.path().join("blocked");
        std::fs::write(&blocked, "a file where the directory should be").unwrap();
        let cache = Cache::new(&blocked, Duration::from_secs(60));
        let (owner, view) = watch::channel(Snapshot::default());
        let keeper = tokio::spawn(keep(cache.clone(), view, Shutdown::new()));
        owner.send_replace(Snapshot::new("e", 1, vec![]));
        sleep(PAUSE).await;
        std::fs::remove_file(&blocked).unwrap();
        assert_eq!(saved(&cache).await.revision(), 1);
        drop(owner);
        keeper.await.unwrap();
    }
}
