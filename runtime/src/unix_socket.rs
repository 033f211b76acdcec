//! Unix sockets: a listener at a path, and a connection to one.
//!
//! A socket's file outlives a process that is killed, and the system has one word for much that differs: of a file that is no
//! socket it says "connection refused", too. What to do with such a file, and what to say of it, is decided here.

use std::{
    fs::{self, File, Permissions, TryLockError},
    io,
    os::{
        fd::OwnedFd,
        unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{UnixListener, UnixStream};

use crate::accept::BACKLOG;

/// Two processes that start at once are done in moments. Whoever holds the lock for longer is none of them: any user who may read
/// the folder can.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// A listener with its file. Dropped, it removes the file, unless another process has put its own there.
#[derive(Debug)]
pub struct UnixSocket {
    path: PathBuf,
    /// Of the file; `None` once that is left to others.
    inode: Option<(u64, u64)>,
    listener: UnixListener,
}

impl UnixSocket {
    /// Listens at a path, with a file of this mode. One that a dead process has left there is replaced; that of a living one, and
    /// whatever is no socket, is left alone.
    ///
    /// # Errors
    /// Why nobody can listen there, in a sentence for whoever chose the path.
    pub fn claim(path: &Path, mode: u32) -> io::Result<Self> {
        // Of two processes that start at once, the second one looks when the first one listens. Where there can be no lock, nobody
        // waits.
        let looked = File::open(folder(path)).ok();
        let begun = Instant::now();
        while let Some(Err(TryLockError::WouldBlock)) = looked.as_ref().map(File::try_lock)
            && begun.elapsed() < LOCK_PATIENCE
        {
            thread::sleep(LOCK_PATIENCE / 100);
        }
        if check(path)? {
            fs::remove_file(path)?;
        }
        Self::bind(path, mode)
    }

    /// Listens at a path where there is nothing. Nobody connects before its mode is set: until it listens, the kernel refuses.
    ///
    /// # Errors
    /// What the system says.
    pub fn bind(path: &Path, mode: u32) -> io::Result<Self> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.bind(&SockAddr::unix(path)?)?;
        fs::set_permissions(path, Permissions::from_mode(mode))?;
        socket.listen(BACKLOG.try_into().unwrap_or(i32::MAX))?;
        socket.set_nonblocking(true)?;
        let listener = std::os::unix::net::UnixListener::from(OwnedFd::from(socket));
        let inode = Some(inode(path)?);
        Ok(Self { path: path.to_owned(), inode, listener: UnixListener::from_std(listener)? })
    }

    /// Gives the file another name, in the place of what has it.
    ///
    /// # Errors
    /// What the system says.
    pub fn rename(&mut self, path: &Path) -> io::Result<()> {
        fs::rename(&self.path, path)?;
        path.clone_into(&mut self.path);
        Ok(())
    }

    /// Leaves the file to others.
    pub fn leave(mut self) {
        self.inode = None;
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next connection. Cancel safe.
    ///
    /// # Errors
    /// What the system says.
    pub async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        if self.inode.is_some() && inode(&self.path).ok() == self.inode {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Finds out whether somebody could listen at a path, without a trace there. Yields whether a process that was killed has left its
/// file there.
///
/// # Errors
/// Why not, in a sentence for whoever chose the path.
pub fn check(path: &Path) -> io::Result<bool> {
    let refuse = |kind, why: String| Err(io::Error::new(kind, why));
    let folder = folder(path);
    if !folder.is_dir() {
        return refuse(
            io::ErrorKind::NotFound,
            format!("there is no folder {}: make it first", folder.display()),
        );
    }
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            let why = "there is something that is no socket: name another path";
            return refuse(io::ErrorKind::AlreadyExists, why.to_owned());
        }
        Ok(_) => {}
    }
    match knock(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            refuse(error.kind(), "there is a socket that this user may not use: name another path".to_owned())
        }
        // One whose queue is full is there, too.
        _ => refuse(
            io::ErrorKind::AddrInUse,
            "another process listens there: end it first, or name another path".to_owned(),
        ),
    }
}

/// Whether it is a socket's file at which nobody listens: what a process has left that was killed.
pub fn is_left(path: &Path) -> bool {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    is_socket && knock(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// Connects, without waiting for somebody who listens and does not accept.
fn knock(path: &Path) -> io::Result<()> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)
}

/// Connects to the socket at a path. Cancel safe.
///
/// # Errors
/// Why nobody is reached there, in a sentence.
pub async fn connect(path: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(path).await.map_err(|error| {
        let why = match error.kind() {
            io::ErrorKind::NotFound => "there is no such file",
            io::ErrorKind::ConnectionRefused if is_left(path) => {
                "nobody listens there: whoever made this socket has ended"
            }
            io::ErrorKind::ConnectionRefused => "it is no socket",
            // Of a socket that has a queue for it, this would be another error.
            io::ErrorKind::WouldBlock => "too many wait there to be accepted: try again",
            io::ErrorKind::PermissionDenied => {
                "permission denied: the mode and the owner of the socket, and of the folders above it, decide who may connect"
            }
            _ => return error,
        };
        io::Error::new(error.kind(), why)
    })
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal<T>(refused: io::Result<T>) -> String {
        refused.err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[tokio::test]
    async fn a_socket_has_its_mode_and_goes_with_whoever_listens() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.sock");
        let socket = UnixSocket::claim(&path, 0o600).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        let (connected, accepted) = tokio::join!(connect(&path), socket.accept());
        assert!(connected.is_ok() && accepted.is_ok());
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn what_a_dead_process_has_left_is_replaced_and_whoever_lives_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.sock");
        UnixSocket::claim(&path, 0o600).unwrap().leave();
        assert!(is_left(&path));
        assert!(refusal(connect(&path).await).contains("nobody listens there"));
        let living = UnixSocket::claim(&path, 0o660).unwrap();
        assert!(!is_left(&path));
        let refused = UnixSocket::claim(&path, 0o600).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
        assert!(refused.to_string().contains("another process listens there"), "{refused}");
        assert!(connect(&path).await.is_ok(), "it was not disturbed");
        drop(living);
    }

    #[tokio::test]
    async fn the_file_of_another_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.sock");
        let first = UnixSocket::claim(&path, 0o600).unwrap();
        let mut second = UnixSocket::bind(&folder.path().join("y.sock"), 0o600).unwrap();
        second.rename(&path).unwrap();
        drop(first);
        assert!(connect(&path).await.is_ok());
        assert_eq!(second.path(), path);
    }

    #[tokio::test]
    async fn what_is_no_socket_is_told_apart_from_one_that_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let (file, missing) = (folder.path().join("file"), folder.path().join("none/x.sock"));
        fs::write(&file, "precious").unwrap();
        assert!(refusal(UnixSocket::claim(&file, 0o600)).contains("something that is no socket"));
        assert_eq!(fs::read(&file).unwrap(), b"precious");
        assert!(refusal(check(&missing)).contains("there is no folder"));
        assert!(refusal(UnixSocket::claim(&missing, 0o600)).contains("make it first"));
        assert_eq!(refusal(connect(&file).await), "it is no socket");
        assert_eq!(refusal(connect(&missing).await), "there is no such file");
    }
}
