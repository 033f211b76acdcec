//! Files that are read again when they change.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::Shutdown;

/// How often the files are looked at.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Between two looks at files that have changed, until they are at rest; so often at most.
const REST: Duration = Duration::from_millis(100);
const MAX_RESTS: u32 = 10;

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

/// Files, each as it was when it was looked at: before it is read, so that no change is missed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Watched(Vec<(PathBuf, Option<Stamp>)>);

/// What tells a file that has changed. Its time alone does not: tools keep it, and tokens that follow each other are of one length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// `None` when there is no such file, or none that can be looked at.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let found = fs::metadata(path).ok()?;
        Some(Self {
            device: found.dev(),
            inode: found.ino(),
            len: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }
}

impl Watched {
    /// These, as they are now.
    pub fn look<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> Self {
        Self(paths.into_iter().map(|path| (path.clone(), Stamp::of(path))).collect())
    }

    /// One more, as it is now.
    pub fn add(&mut self, path: PathBuf) {
        let stamp = Stamp::of(&path);
        self.0.push((path, stamp));
    }

    /// The same files.
    pub fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.0.iter().map(|(path, _)| path)
    }

    /// The same files, as they are now.
    fn again(&self) -> Self {
        Self::look(self.paths())
    }

    /// The same files, once two looks in a row find them alike: who writes a file in its place does it in pieces.
    fn at_rest(&self) -> Self {
        let mut last = self.again();
        for _ in 0..MAX_RESTS {
            std::thread::sleep(REST);
            let now = last.again();
            if now == last {
                break;
            }
            last = now;
        }
        last
    }
}

/// Reads files again whenever one of them has changed, until the shutdown, and has what they are good for `put` to use. `watched` says
/// which they are and how they were when they were read last: after each `put` anew, as they may be others then. Files that cannot be
/// used change nothing, and are said to be so once. Cancel safe.
pub async fn follow<T: Send + 'static>(
    watched: impl Fn() -> Watched,
    read: impl Fn() -> Result<T, String> + Clone + Send + 'static,
    put: impl Fn(T),
    words: Words,
    shutdown: Shutdown,
) {
    let mut known = watched();
    let mut refused = None;
    let mut looks = tokio::time::interval(LOOK_INTERVAL);
    loop {
        tokio::select! {
            () = shutdown.begun() => return,
            _ = looks.tick() => {}
        }
        let (before, read) = (known.clone(), read.clone());
        // What could not be used may name a file that is not there yet, and so is none of those that are watched.
        let is_unusable = refused.is_some();
        let looked = tokio::task::spawn_blocking(move || {
            (is_unusable || before.again() != before).then(|| (before.at_rest(), read()))
        });
        match looked.await {
            Ok(None) => {}
            Ok(Some((_, Ok(content)))) => {
                put(content);
                refused = None;
                tracing::info!("{}", words.read_again);
                known = watched();
            }
            Ok(Some((now, Err(why)))) => {
                if refused.as_ref() != Some(&why) {
                    tracing::error!(%why, "{}", words.unusable);
                }
                refused = Some(why);
                known = now;
            }
            // Reading panicked, and its message is in the log.
            Err(_) => known = known.again(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn a_file_that_was_replaced_is_another_one_though_its_length_and_its_time_are_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let (path, new) = (folder.path().join("token"), folder.path().join("new"));
        let write = |path: &Path, text: &str| {
            fs::write(path, text).unwrap();
            let file = fs::File::options().write(true).open(path).unwrap();
            file.set_modified(UNIX_EPOCH + Duration::from_secs(1)).unwrap();
        };
        write(&path, "first");
        let known = Watched::look([&path]);
        assert_eq!(known.again(), known);
        write(&new, "other");
        fs::rename(&new, &path).unwrap();
        assert_ne!(known.again(), known);
        let known = known.again();
        fs::remove_file(&path).unwrap();
        assert_ne!(known.again(), known);
    }

    #[tokio::test(start_paused = true)]
    async fn what_lacked_a_file_is_read_once_that_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (folder.path().join("first"), folder.path().join("second"));
        fs::write(&first, "1").unwrap();
        let watched = Watched::look([&first]);
        fs::write(&first, "names the second").unwrap();
        let (shutdown, (put, mut got)) = (Shutdown::new(), tokio::sync::mpsc::unbounded_channel());
        let (tried, mut tries) = tokio::sync::mpsc::unbounded_channel();
        let words = Words { read_again: "read", unusable: "unusable" };
        let named = second.clone();
        let following = tokio::spawn(follow(
            move || watched.clone(),
            move || {
                tried.send(()).unwrap();
                fs::read_to_string(&named).map_err(|error| error.to_string())
            },
            move |text: String| put.send(text).unwrap(),
            words,
            shutdown.clone(),
        ));
        tries.recv().await.unwrap();
        assert!(got.try_recv().is_err());
        fs::write(&second, "2").unwrap();
        assert_eq!(got.recv().await.unwrap(), "2");
        shutdown.begin();
        following.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_between_the_first_reading_and_the_first_look_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "first").unwrap();
        let watched = Arc::new(Mutex::new(Watched::look([&path])));
        fs::write(&path, "second, as it was written before anybody watched").unwrap();
        let (shutdown, (put, mut got)) = (Shutdown::new(), tokio::sync::mpsc::unbounded_channel());
        let words = Words { read_again: "read", unusable: "unusable" };
        let (known, look) = (watched.clone(), path.clone());
        let following = tokio::spawn(follow(
            move || known.lock().unwrap().clone(),
            move || Ok((Watched::look([&look]), fs::read_to_string(&look).unwrap())),
            move |(now, text): (Watched, String)| {
                *watched.lock().unwrap() = now;
                put.send(text).unwrap();
            },
            words,
            shutdown.clone(),
        ));
        assert!(got.recv().await.unwrap().starts_with("second"));
        shutdown.begin();
        following.await.unwrap();
        assert!(got.try_recv().is_err(), "it is read once");
    }
}
