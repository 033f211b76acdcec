//! Whether files have changed: for development, where a program is started anew when its source has.
//!
//! They are looked at a few times a second. That needs nothing of the system, and works on every kind of file system.

use std::{
    collections::hash_map::DefaultHasher,
    fs::Metadata,
    hash::{Hash as _, Hasher as _},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{task::spawn_blocking, time::sleep};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(300);
/// Files that are looked at; further ones are nobody's source.
const MAX_FILES: usize = 20_000;
/// Folders that tools write into whenever something is built or run; so are hidden ones.
const LEFT_OUT: [&str; 3] = ["target", "node_modules", "__pycache__"];

/// What is looked at, and what was seen last.
#[derive(Debug)]
pub(super) struct Changes {
    paths: Vec<PathBuf>,
    seen: Option<u64>,
}

impl Changes {
    /// Of these files, and of those below these folders.
    pub(super) fn new(paths: Vec<PathBuf>) -> Self {
        Self { paths, seen: None }
    }

    /// Completes when something is otherwise than it was at the last completion, or at the first call, and has come to rest:
    /// editors and compilers write in pieces. Never, where nothing is looked at. Cancel safe.
    pub(super) async fn next(&mut self) {
        if self.paths.is_empty() {
            std::future::pending::<()>().await;
        }
        if self.seen.is_none() {
            self.seen = Some(self.look().await);
        }
        let mut last = self.seen;
        loop {
            sleep(LOOK).await;
            let now = Some(self.look().await);
            if now == last && now != self.seen {
                self.seen = now;
                return;
            }
            last = now;
        }
    }

    async fn look(&self) -> u64 {
        let paths = self.paths.clone();
        // A look that fails by a defect is one that sees nothing new.
        spawn_blocking(move || fingerprint(&paths)).await.unwrap_or_else(|_| self.seen.unwrap_or_default())
    }
}

/// A number of all files with their sizes and times, whatever their order.
fn fingerprint(paths: &[PathBuf]) -> u64 {
    let mut waiting = paths.to_vec();
    let (mut sum, mut files) = (0_u64, 0);
    while let Some(path) = waiting.pop() {
        // What is not there now may be, the next time.
        let Ok(metadata) = path.metadata() else { continue };
        if metadata.is_dir() {
            let entries = path.read_dir().into_iter().flatten().flatten();
            // Links to folders could lead round in circles.
            let leads_round = |path: &PathBuf| path.is_symlink() && path.is_dir();
            let inside = entries.map(|entry| entry.path()).filter(|path| !is_left_out(path));
            waiting.extend(inside.filter(|path| !leads_round(path)));
            continue;
        }
        files += 1;
        if files > MAX_FILES {
            break;
        }
        sum = sum.wrapping_add(number(&path, &metadata));
    }
    sum
}

fn is_left_out(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with('.') || LEFT_OUT.contains(&name.as_ref())
}

fn number(path: &Path, metadata: &Metadata) -> u64 {
    let mut hasher = DefaultHasher::new();
    (path, metadata.len(), metadata.modified().ok()).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_made_or_removed_is_seen_and_what_tools_write_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let look = || fingerprint(&[folder.path().to_owned()]);
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir_all(at("src/deep")).unwrap();
        std::fs::write(at("src/deep/app.py"), "one").unwrap();
        let first = look();
        assert_eq!(look(), first);
        std::fs::write(at("src/deep/app.py"), "longer").unwrap();
        let second = look();
        assert_ne!(second, first);
        std::fs::write(at("src/new.py"), "").unwrap();
        let third = look();
        assert_ne!(third, second);
        std::fs::remove_file(at("src/new.py")).unwrap();
        assert_eq!(look(), second);
        for left_out in ["target", ".git", "src/__pycache__"] {
            std::fs::create_dir_all(at(left_out)).unwrap();
            std::fs::write(at(left_out).join("x"), "x").unwrap();
        }
        std::os::unix::fs::symlink(folder.path(), at("src/round")).unwrap();
        assert_eq!(look(), second);
        assert_eq!(fingerprint(&[at("absent")]), 0);
    }
}
