//! Files that are read again when they change.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::Shutdown;

/// How often the files are looked at.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// What the log says of files that changed.
#[derive(Debug, Clone, Copy)]
pub struct Words {
    /// That they are in use.
    pub read_again: &'static str,
    /// That they are not.
    pub unusable: &'static str,
}

/// When files were last read with success.
#[derive(Debug, Default)]
pub struct ReadAt(AtomicU64);

impl ReadAt {
    /// They have just been.
    pub fn now() -> Self {
        let read_at = Self::default();
        read_at.again();
        read_at
    }

    /// They have been once more.
    pub fn again(&self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.0.store(u64::try_from(now.as_millis()).unwrap_or(u64::MAX), Relaxed);
    }

    /// When that was.
    pub fn at(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.0.load(Relaxed))
    }
}

/// Reads the files that `paths` names, which may be others after each reading, again whenever one of them has changed, until the shutdown, and has what they are good for
/// `put` to use. Files that cannot be used change nothing, and are said to be so once. Cancel safe.
pub async fn follow<T: Send + 'static>(
    paths: impl Fn() -> Vec<PathBuf>,
    read: impl Fn() -> Result<T, String> + Clone + Send + 'static,
    put: impl Fn(T),
    words: Words,
    shutdown: Shutdown,
) {
    let mut watched = paths();
    let mut known = stamps(&watched);
    let mut refused = None;
    let mut looks = tokio::time::interval(LOOK_INTERVAL);
    loop {
        tokio::select! {
            () = shutdown.begun() => return,
            _ = looks.tick() => {}
        }
        let (paths_now, read) = (watched.clone(), read.clone());
        let looked = tokio::task::spawn_blocking(move || {
            let now = stamps(&paths_now);
            (now != known).then(|| (now, read())).ok_or(known)
        });
        known = match looked.await {
            Ok(Err(known)) => known,
            Ok(Ok((now, Ok(content)))) => {
                put(content);
                refused = None;
                tracing::info!("{}", words.read_again);
                let named = paths();
                if named == watched {
                    now
                } else {
                    watched = named;
                    stamps(&watched)
                }
            }
            Ok(Ok((now, Err(why)))) => {
                if refused.as_ref() != Some(&why) {
                    tracing::error!(%why, "{}", words.unusable);
                }
                refused = Some(why);
                now
            }
            // Reading panicked, and its message is in the log.
            Err(_) => stamps(&watched),
        };
    }
}

/// What tells a file that changed, for each one.
fn stamps(paths: &[PathBuf]) -> Vec<Option<(SystemTime, u64)>> {
    let stamp = |path: &Path| {
        let found = fs::metadata(path).ok()?;
        Some((found.modified().ok()?, found.len()))
    };
    paths.iter().map(|path| stamp(path)).collect()
}
