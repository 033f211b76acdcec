//! The Unix socket at which a data plane hands its sockets over: for its own user only.

use std::{
    fs, io,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
};

use gateway_runtime::{
    Failure,
    unix_socket::{UnixSocket, is_left},
};

/// The kernel takes 107 bytes, of which the number of a process needs some.
pub(crate) const MAX_PATH_BYTES: usize = 96;

/// A socket beside the one that is asked for, until it takes that one's place.
#[derive(Debug)]
pub(crate) struct Claim {
    path: PathBuf,
    beside: UnixSocket,
}

impl Claim {
    /// Makes the socket, mode 0600, under another name: nobody finds it yet.
    ///
    /// # Errors
    /// A usage [`Failure`] that names the flag when there can be no such socket, or when the path is something else.
    pub(crate) fn new(path: &Path) -> Result<Self, Failure> {
        let refuse = |error: io::Error| {
            Failure::usage(format!("--handover-socket {}: cannot listen there: {error}", path.display()))
        };
        if let Ok(metadata) = fs::symlink_metadata(path)
            && !metadata.file_type().is_socket()
        {
            return Err(Failure::usage(format!(
                "--handover-socket {}: there is something that is no socket: name another path",
                path.display()
            )));
        }
        let mut beside = path.as_os_str().to_owned();
        beside.push(format!(".{}", std::process::id()));
        let beside = PathBuf::from(beside);
        // Of a process that had the same number and did not end well.
        let _ = fs::remove_file(&beside);
        tidy(path);
        Ok(Self { path: path.to_owned(), beside: UnixSocket::bind(&beside, 0o600).map_err(refuse)? })
    }

    /// Puts it in its place, where whoever takes over looks. Whoever hands over leaves the file to the successor, which replaces it:
    /// removed here, it might be the successor's by then.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn publish(mut self) -> io::Result<UnixSocket> {
        self.beside.rename(&self.path)?;
        Ok(self.beside)
    }
}

/// Removes what processes have left beside a path that were killed before they served.
fn tidy(path: &Path) {
    let Some((folder, name)) = path.parent().zip(path.file_name().and_then(|name| name.to_str())) else {
        return;
    };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let left = entry.file_name();
        let number = left.to_str().and_then(|left| left.strip_prefix(name)?.strip_prefix('.')?.parse().ok());
        // Elsewhere, processes may have other numbers than here: who listens is left alone.
        if number.is_some_and(|number| !runs(number)) && is_left(&entry.path()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Whether there is a process of that number, as far as this one can see.
fn runs(number: i32) -> bool {
    let process = rustix::process::Pid::from_raw(number.max(0));
    process.is_none_or(|process| rustix::process::test_kill_process(process) != Err(rustix::io::Errno::SRCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_killed_processes_have_left_beside_is_removed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("handover");
        let mut ended = std::process::Command::new("true").spawn().unwrap();
        ended.wait().unwrap();
        let beside = |number: u32| folder.path().join(format!("handover.{number}"));
        let (killed, running) = (beside(ended.id()), beside(1));
        [&killed, &running].into_iter().for_each(|path| UnixSocket::bind(path, 0o600).unwrap().leave());
        let others = ["handover.note", "handover-2.1", "other.1"].map(|name| folder.path().join(name));
        others.iter().for_each(|other| fs::write(other, "").unwrap());

        let claim = Claim::new(&path).unwrap();
        assert!(!killed.exists(), "nobody will ever use it");
        assert!(running.exists() && others.iter().all(|other| other.exists()));
        assert!(beside(std::process::id()).exists());
        drop(claim);
        assert!(!beside(std::process::id()).exists());
    }
}
