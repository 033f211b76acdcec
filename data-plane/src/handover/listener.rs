//! The Unix socket at which a data plane hands its sockets over: for its own user only.

use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use gateway_runtime::Failure;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;

/// The kernel takes 107 bytes, of which the number of a process needs some.
pub(crate) const MAX_PATH_BYTES: usize = 96;
const BACKLOG: i32 = 16;

/// A socket beside the one that is asked for, until it takes that one's place.
#[derive(Debug)]
pub(crate) struct Claim {
    path: PathBuf,
    beside: PathBuf,
    listener: Option<UnixListener>,
}

/// The socket in its place. Dropped, it removes the file, unless another process has put its own there, or is about to.
#[derive(Debug)]
pub(crate) struct Place {
    path: PathBuf,
    /// `None` once it is left.
    inode: Option<(u64, u64)>,
    listener: UnixListener,
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
        let listener = listen(&beside).map_err(refuse)?;
        Ok(Self { path: path.to_owned(), beside, listener: Some(listener) })
    }

    /// Puts it in its place, where whoever takes over looks.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn publish(mut self) -> io::Result<Place> {
        let inode = Some(inode(&self.beside)?);
        fs::rename(&self.beside, &self.path)?;
        let listener = self.listener.take().ok_or(io::ErrorKind::NotFound)?;
        Ok(Place { path: self.path.clone(), inode, listener })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.listener.is_some() {
            let _ = fs::remove_file(&self.beside);
        }
    }
}

impl Place {
    pub(super) fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// Leaves the file to the successor, which replaces it: removed here, it might be the successor's by then.
    pub(super) fn leave(mut self) {
        self.inode = None;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.inode.is_some() && inode(&self.path).ok() == self.inode {
            let _ = fs::remove_file(&self.path);
        }
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

/// Whether it is a socket that nobody listens at: elsewhere, processes may have other numbers than here.
fn is_left(path: &Path) -> bool {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    let refused = || {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        // Who listens and does not accept is not waited for.
        socket.set_nonblocking(true)?;
        socket.connect(&SockAddr::unix(path)?)
    };
    is_socket && refused().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// Nobody can connect before the mode is set: until it listens, the kernel refuses.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    UnixListener::from_std(std::os::unix::net::UnixListener::from(std::os::fd::OwnedFd::from(socket)))
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
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
        drop(listen(&killed).unwrap());
        drop(listen(&running).unwrap());
        let others = ["handover.note", "handover-2.1", "other.1"].map(|name| folder.path().join(name));
        others.iter().for_each(|other| fs::write(other, "").unwrap());

        let claim = Claim::new(&path).unwrap();
        assert!(!killed.exists(), "nobody will ever use it");
        assert!(running.exists() && others.iter().all(|other| other.exists()));
        assert!(beside(std::process::id()).exists());
        drop(claim);
        assert!(!beside(std::process::id()).exists());
    }

    #[tokio::test]
    async fn who_listens_is_left_alone_whatever_number_its_process_has() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("handover.7");
        let listening = listen(&path).unwrap();
        assert!(!is_left(&path));
        drop(listening);
        assert!(is_left(&path));
    }
}
