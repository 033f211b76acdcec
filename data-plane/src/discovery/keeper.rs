//! Brings the snapshot to disk as it changes, off the async threads: at most once a second, and of a large one less often.

use std::{
    io,
    path::Path,
    time::{Duration, SystemTime},
};

use gateway_runtime::Shutdown;
use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep},
};

use super::{Cache, View};

/// Changes that come faster are saved together.
const PAUSE: Duration = Duration::from_secs(1);
/// Of the time, saving takes no more than one part in this many, for all of a snapshot is saved each time.
const SHARE: u32 = 500;
/// However long it takes, what is on disk is no older than this.
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// A full or broken disk rarely heals within seconds.
const RETRY: Duration = Duration::from_secs(10);
/// A snapshot that stays the same is saved anew this often, or it would seem as old as its last change.
const MAX_REFRESH: Duration = Duration::from_secs(300);

/// Saves the first change at once, later ones at most once a second, or every ten where saving takes long, and the last one before
/// it returns. It returns
/// when the snapshot's owner is gone; from the moment `stop` begins it pauses no more.
///
/// A disk that does not take it is tried again every 10 s, and costs nothing else.
pub(crate) async fn keep(cache: Cache, mut view: View, stop: Shutdown) {
    let refresh = (cache.max_age() / 24).clamp(PAUSE, MAX_REFRESH);
    let (mut saved_at, mut failing) = (Instant::now(), false);
    loop {
        // Every message ends in a change of the status, after that of the snapshot.
        if !failing && view.status.changed().await.is_err() {
            return;
        }
        let age = view.status.borrow_and_update().age(Instant::now());
        // An owner that is gone may have left a change behind.
        let is_changed = view.mirror.has_changed().unwrap_or(true);
        let is_due = saved_at.elapsed() >= refresh;
        let Some(age) = age.filter(|age| failing || is_changed || (is_due && *age < refresh)) else {
            continue;
        };
        if !view.mirror.borrow().is_whole() {
            // Whoever resumed from it would not be told what is missing. What follows is.
            failing = false;
            continue;
        }
        let mirror = view.mirror.borrow_and_update().clone();
        let current_at = SystemTime::now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH);
        let target = cache.clone().of(mirror.services());
        let (path, began) = (target.path(), Instant::now());
        let saved = spawn_blocking(move || target.save(mirror.snapshot(), mirror.guard(), current_at)).await;
        let saved = saved.unwrap_or_else(|panic| Err(io::Error::other(panic)));
        report(&path, &saved, failing);
        saved_at = Instant::now();
        // There is no later at the end.
        failing = saved.is_err() && !stop.has_begun();
        let pause = (began.elapsed() * SHARE).clamp(PAUSE, MAX_PAUSE);
        tokio::select! {
            () = sleep(if failing { RETRY } else { pause }) => {}
            () = stop.begun() => {}
        }
    }
}

/// Logs when the disk begins to refuse and when it is over, not every time between.
fn report(path: &Path, saved: &io::Result<()>, failing: bool) {
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
    use tokio::sync::watch;

    use super::*;
    use crate::discovery::{Guard, Mirror, Position, Snapshot, Source, Status};

    const DAY: Duration = Duration::from_secs(86_400);

    /// In place of the feed.
    struct Owner {
        mirror: watch::Sender<Mirror>,
        status: watch::Sender<Status>,
    }

    impl Owner {
        fn new() -> (Self, View) {
            let (mirror, mirrors) = watch::channel(mirror(Snapshot::default()));
            let status = Status::new(Source::None, Duration::ZERO, Instant::now());
            let (status, statuses) = watch::channel(status);
            let (_, applied) = watch::channel(Position::default());
            (Self { mirror, status }, View { mirror: mirrors, applied, status: statuses })
        }

        fn change(&self, revision: i64) {
            self.mirror.send_replace(mirror(Snapshot::new("e", revision, vec![])));
            self.confirm();
        }

        fn confirm(&self) {
            self.status.send_modify(|status| status.confirm(Instant::now(), Duration::ZERO));
        }
    }

    fn mirror(snapshot: Snapshot) -> Mirror {
        Mirror::new("dp-1".parse().unwrap(), snapshot, Guard::default(), SystemTime::now())
    }

    fn revision(cache: &Cache) -> Option<i64> {
        let cached = cache.load(SystemTime::now()).unwrap();
        cached.map(|cached| cached.snapshot.revision())
    }

    async fn until_saved(cache: &Cache, expected: i64) {
        while revision(cache) != Some(expected) {
            sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn the_first_change_is_saved_at_once_and_the_last_one_at_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::new(directory.path(), DAY);
        let (owner, view) = Owner::new();
        let stop = Shutdown::new();
        let keeper = tokio::spawn(keep(cache.clone(), view, stop.clone()));
        owner.change(1);
        until_saved(&cache, 1).await;

        // These come within the pause; only the last one counts.
        (2..=9).for_each(|revision| owner.change(revision));
        stop.begin();
        drop(owner);
        keeper.await.unwrap();
        assert_eq!(revision(&cache), Some(9));
    }

    #[tokio::test]
    async fn nothing_is_saved_when_nothing_came() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::new(directory.path(), DAY);
        let (owner, view) = Owner::new();
        drop(owner);
        keep(cache.clone(), view, Shutdown::new()).await;
        assert_eq!(revision(&cache), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_snapshot_that_stays_the_same_stays_young_while_it_is_confirmed() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::new(directory.path(), DAY);
        let (owner, view) = Owner::new();
        tokio::spawn(keep(cache.clone(), view, Shutdown::new()));
        owner.change(1);
        until_saved(&cache, 1).await;
        let modified = || std::fs::metadata(cache.path()).unwrap().modified().unwrap();
        let first = modified();
        owner.confirm();
        sleep(2 * PAUSE).await;
        assert_eq!(modified(), first, "too early");
        sleep(MAX_REFRESH).await;
        owner.confirm();
        while modified() == first {
            sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_refuses_is_tried_again_without_another_change() {
        let directory = tempfile::tempdir().unwrap();
        let blocked = directory.path().join("blocked");
        std::fs::write(&blocked, "a file where the directory should be").unwrap();
        let cache = Cache::new(&blocked, DAY);
        let (owner, view) = Owner::new();
        tokio::spawn(keep(cache.clone(), view, Shutdown::new()));
        owner.change(1);
        sleep(PAUSE).await;
        std::fs::remove_file(&blocked).unwrap();
        until_saved(&cache, 1).await;
    }
}
