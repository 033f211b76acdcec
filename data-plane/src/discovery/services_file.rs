//! The services that a data plane carries, in a file that is read again when it changes.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use gateway_runtime::{
    Shutdown,
    files::{self, Watched, Words},
};
use tokio::sync::watch;

use super::Services;

/// A thousand names and a remark on each.
const MAX_BYTES: u64 = 1 << 20;

/// A file of names, separated by white space and commas, or one `*`; what follows `#` on a line is a remark.
#[derive(Debug)]
pub(crate) struct ServicesFile {
    path: PathBuf,
    /// As it was before it was read.
    watched: Mutex<Watched>,
}

impl ServicesFile {
    /// Reads the file once.
    ///
    /// # Errors
    /// What is wrong with it, with its name.
    pub(crate) fn open(path: PathBuf) -> Result<(Self, Services), String> {
        let watched = Mutex::new(Watched::look([&path]));
        let services = read(&path)?;
        Ok((Self { path, watched }, services))
    }

    /// Reads it again whenever it has changed, and has `carried` be what it says, until the shutdown. A file that cannot be used
    /// changes nothing, and is said to be so once. Cancel safe.
    pub(crate) async fn follow(&self, carried: &watch::Sender<Services>, stop: Shutdown) {
        const WORDS: Words = Words {
            read_again: "the file of services was read again: they are carried from now on, and no others",
            unusable: "the file of services changed and cannot be used: going on with those before",
        };
        let watched = || self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.path.clone();
        let read = move || Ok((Watched::look([&path]), read(&path)?));
        let put = |(now, services): (Watched, Services)| {
            *watched() = now;
            carried.send_if_modified(|known| std::mem::replace(known, services.clone()) != services);
        };
        files::follow(|| watched().clone(), read, put, WORDS, stop).await;
    }
}

fn read(path: &Path) -> Result<Services, String> {
    let named = |why: String| format!("{}: {why}", path.display());
    let found = fs::metadata(path).map_err(|error| named(error.to_string()))?;
    if found.len() > MAX_BYTES {
        return Err(named("it is larger than 1 MiB".into()));
    }
    let text = fs::read_to_string(path).map_err(|error| named(error.to_string()))?;
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
    let names = lines.flat_map(|line| line.split([',', ' ', '\t', '\r'])).filter(|name| !name.is_empty());
    Services::parse(&names.collect::<Vec<_>>()).map_err(named)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn some(names: &[&str]) -> Services {
        Services::parse(names).unwrap()
    }

    #[test]
    fn names_are_separated_by_whatever_people_write_and_remarks_are_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("services");
        let reads = |text: &str| {
            fs::write(&path, text).unwrap();
            read(&path)
        };
        for text in ["orders\nusers\n", "orders, users", "# of the shop\nusers # all\n\torders\r\n"] {
            assert_eq!(reads(text), Ok(some(&["orders", "users"])), "{text:?}");
        }
        assert_eq!(reads("*\n"), Ok(Services::All));
        for (text, why) in
            [("", "names no service"), ("# none\n", "names no service"), ("Orders", "\"Orders\"")]
        {
            let refused = reads(text).unwrap_err();
            assert!(refused.starts_with(&path.display().to_string()) && refused.contains(why), "{refused}");
        }
        assert!(read(&folder.path().join("absent")).unwrap_err().contains("absent"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_changes_is_read_again_and_one_that_is_none_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("services");
        fs::write(&path, "orders").unwrap();
        let (file, services) = ServicesFile::open(path.clone()).unwrap();
        assert_eq!(services, some(&["orders"]));
        let (carried, stop) = (Arc::new(watch::Sender::new(services)), Shutdown::new());
        let mut seen = carried.subscribe();
        let (followed, until) = (Arc::clone(&carried), stop.clone());
        let following = tokio::spawn(async move { file.follow(&followed, until).await });
        fs::write(&path, "Orders").unwrap();
        tokio::time::sleep(3 * files::LOOK_INTERVAL).await;
        assert!(!seen.has_changed().unwrap());
        fs::write(&path, "orders, users").unwrap();
        seen.changed().await.unwrap();
        assert_eq!(*seen.borrow(), some(&["orders", "users"]));
        stop.begin();
        following.await.unwrap();
    }
}
