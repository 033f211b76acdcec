//! Whether files have changed: for development, where a program is started anew when its source has.
//!
//! They are looked at a few times a second. That needs nothing of the system, works on every kind of file system, and goes only
//! where source is: what the kernel reports of folders it reports of all below them, caches and builds among it. A look at many
//! files takes long, and the next one is due the later for it.

use std::{
    collections::HashMap,
    fs::Metadata,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use tokio::{
    sync::watch,
    task::spawn_blocking,
    time::{sleep, timeout},
};

use super::lines::{Lines, Prefix};
use crate::error::{Error, Exit};

/// Between two looks, at least; else so many times what one took, which is so little of one processor.
const LOOK: Duration = Duration::from_millis(300);
const REST: u32 = 20;
/// Longest first look, which the first start waits for: a file system that is slower is none to be looked at all the time.
const FIRST_LOOK: Duration = Duration::from_secs(10);
/// Files and folders that are looked at: far more than people write, and as many as are seen in a moment.
const MAX_ENTRIES: usize = 20_000;
/// Folders that tools write into whenever something is built or run; so are hidden ones.
const LEFT_OUT: [&str; 3] = ["target", "node_modules", "__pycache__"];

/// What each file was, when it was looked at.
type Seen = HashMap<PathBuf, (u64, Option<SystemTime>)>;

/// Tells of changes. Clones hear of the same ones.
#[derive(Debug, Clone)]
pub(crate) struct Changes(watch::Receiver<PathBuf>);

impl Changes {
    /// Of nothing.
    pub(crate) fn none() -> Self {
        Self(watch::channel(PathBuf::new()).1)
    }

    /// Of these files, and of those below these folders, from now on.
    ///
    /// # Errors
    /// A usage error for a path where there is nothing, and where there is too much.
    pub(crate) async fn of(paths: Vec<PathBuf>, voice: (Lines, Prefix)) -> Result<Self, Error> {
        let refused = |(path, why): (PathBuf, String)| {
            Error::new(Exit::Usage, format!("--watch {}: {why}", path.display()))
        };
        if let Some(missing) = paths.iter().find(|path| !path.exists()) {
            return Err(refused((missing.clone(), "there is no such file or folder".to_owned())));
        }
        let first = timeout(FIRST_LOOK, look(paths.clone())).await.unwrap_or_else(|_| {
            let path = paths.first().cloned().unwrap_or_default();
            Err((path, format!("looking at it takes longer than {FIRST_LOOK:?}: name smaller folders")))
        });
        let seen = first.map_err(refused)?;
        let files = match seen.len() {
            1 => "1 file".to_owned(),
            count => format!("{count} files"),
        };
        voice.0.say(&voice.1, &format!("watching {files} for changes"));
        let (tell, told) = watch::channel(PathBuf::new());
        tokio::spawn(follow(paths, seen, tell, voice));
        Ok(Self(told))
    }

    /// A file that is otherwise than it was when this completed last, or at the beginning, once all have come to rest: editors and
    /// compilers write in pieces. Never, where nothing is looked at. Cancel safe.
    pub(super) async fn next(&mut self) -> PathBuf {
        match self.0.changed().await {
            Ok(()) => self.0.borrow_and_update().clone(),
            Err(_) => std::future::pending().await,
        }
    }
}

/// Looks until nobody wants to hear of it.
async fn follow(paths: Vec<PathBuf>, mut seen: Seen, tell: watch::Sender<PathBuf>, voice: (Lines, Prefix)) {
    let (mut took, mut last, mut is_troubled) = (Duration::ZERO, None, false);
    loop {
        tokio::select! {
            () = sleep(LOOK.max(took * REST)) => {}
            () = tell.closed() => return,
        }
        let began = Instant::now();
        let now = match look(paths.clone()).await {
            Ok(now) => now,
            Err((path, why)) => {
                if !is_troubled {
                    voice.0.say(
                        &voice.1,
                        &format!("{}: {why}; changes are not seen until then", path.display()),
                    );
                }
                (last, is_troubled) = (None, true);
                continue;
            }
        };
        (took, is_troubled) = (began.elapsed(), false);
        match changed(&seen, &now) {
            Some(path) if last.as_ref() == Some(&now) => {
                tell.send_replace(path.clone());
                seen = now;
                last = None;
            }
            _ => last = Some(now),
        }
    }
}

/// One of the files that differ, the first by its name.
fn changed<'a>(before: &'a Seen, now: &'a Seen) -> Option<&'a PathBuf> {
    let differs = |path: &&PathBuf| before.get(*path) != now.get(*path);
    before.keys().chain(now.keys()).filter(differs).min()
}

/// Looks at all files, off the threads on which others wait.
///
/// # Errors
/// Which path has too many, and what to do.
async fn look(paths: Vec<PathBuf>) -> Result<Seen, (PathBuf, String)> {
    spawn_blocking(move || see(&paths, MAX_ENTRIES)).await.unwrap_or_else(|_| Ok(Seen::default()))
}

fn see(paths: &[PathBuf], max: usize) -> Result<Seen, (PathBuf, String)> {
    let (mut seen, mut entries) = (Seen::new(), 0);
    for path in paths {
        let mut waiting = vec![path.clone()];
        while let Some(inside) = waiting.pop() {
            // What is not there now may be, the next time.
            let Ok(metadata) = inside.metadata() else { continue };
            entries += 1;
            if entries > max {
                let why =
                    format!("there are more than {max} files and folders: name the folders with the source");
                return Err((path.clone(), why));
            }
            if metadata.is_dir() {
                let entries = inside.read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
                // Links to folders could lead round in circles.
                let leads_round = |path: &PathBuf| path.is_symlink() && path.is_dir();
                waiting.extend(entries.filter(|path| !is_left_out(path) && !leads_round(path)));
            } else {
                seen.insert(inside, state(&metadata));
            }
        }
    }
    Ok(seen)
}

fn state(metadata: &Metadata) -> (u64, Option<SystemTime>) {
    (metadata.len(), metadata.modified().ok())
}

/// What is nobody's source: hidden files, what tools write, and what editors put beside a file while it is written.
fn is_left_out(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let is_editor_s = name.ends_with('~')
        || name.starts_with('#') && name.ends_with('#')
        || name == "4913"
        || [".swp", ".swx", ".tmp"].iter().any(|ending| name.ends_with(ending));
    name.starts_with('.') || is_editor_s || LEFT_OUT.contains(&name.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(path: &Path) -> Seen {
        see(&[path.to_owned()], MAX_ENTRIES).unwrap()
    }

    #[test]
    fn what_is_written_made_or_removed_is_seen_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::create_dir_all(path("src/deep")).unwrap();
        std::fs::write(path("src/deep/app.py"), "one").unwrap();
        let first = at(folder.path());
        assert_eq!(changed(&first, &at(folder.path())), None);
        std::fs::write(path("src/deep/app.py"), "longer").unwrap();
        let second = at(folder.path());
        assert_eq!(changed(&first, &second), Some(&path("src/deep/app.py")));
        std::fs::write(path("src/new.py"), "").unwrap();
        let third = at(folder.path());
        assert_eq!(changed(&second, &third), Some(&path("src/new.py")));
        std::fs::remove_file(path("src/new.py")).unwrap();
        assert_eq!(changed(&third, &at(folder.path())), Some(&path("src/new.py")));
        assert_eq!(changed(&second, &at(folder.path())), None);
    }

    #[test]
    fn what_tools_and_editors_write_is_not_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["target", ".git", "node_modules", "src/__pycache__"] {
            std::fs::create_dir_all(path(name)).unwrap();
            std::fs::write(path(name).join("x"), "x").unwrap();
        }
        for name in
            ["src/.app.py.swp", "src/app.py~", "src/#app.py#", "src/4913", "src/app.swx", "src/.hidden"]
        {
            std::fs::write(path(name), "x").unwrap();
        }
        std::os::unix::fs::symlink(folder.path(), path("src/round")).unwrap();
        assert_eq!(at(folder.path()), Seen::new());
        // Who names one of them means it.
        assert_eq!(at(&path("target")).len(), 1);
        assert_eq!(at(&path("absent")), Seen::new());
    }

    #[test]
    fn where_there_is_too_much_it_says_so_and_names_the_path() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a", "b", "c"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(see(&[folder.path().to_owned()], 4).unwrap().len(), 3);
        let (path, why) = see(&[folder.path().to_owned()], 3).unwrap_err();
        assert_eq!(path, folder.path());
        assert_eq!(why, "there are more than 3 files and folders: name the folders with the source");
    }

    #[tokio::test]
    async fn where_nothing_is_watched_nothing_ever_changes() {
        let never = timeout(Duration::from_millis(20), Changes::none().next()).await;
        assert!(never.is_err());
    }
}
