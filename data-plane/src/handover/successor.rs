//! The side of the process that starts: takes the sockets over from the one that serves, if there is one.

use std::{
    io,
    net::TcpListener,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::Duration,
};

use gateway_runtime::Failure;
use socket2::SockRef;
use tokio::{net::UnixStream, time::timeout};

use super::{Message, PROTOCOL, SocketKind, channel::Channel};

/// For one message of the other process.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often somebody is asked who breaks off.
const TRIES: usize = 3;
/// Three for each of the most workers that there may be.
const MAX_INHERITED: usize = 4096;

/// What another process has handed over; it serves until it is told otherwise.
#[derive(Debug)]
pub(crate) struct Inherited {
    channel: Channel,
    path: PathBuf,
    pub(crate) pid: u32,
    pub(crate) version: String,
    pub(crate) sockets: Vec<(SocketKind, TcpListener)>,
    /// Why the other process waits no more, once it has said so.
    dismissed: OnceLock<String>,
}

/// Why nothing was inherited.
enum Refusal {
    /// The other process is gone, or went before it had handed anything over.
    Gone(io::Error),
    /// There is one, and it cannot be followed.
    Why(String),
}

/// Asks the process that listens at `path` for its sockets; `None` when nobody does.
///
/// # Errors
/// A usage [`Failure`] that says why it hands nothing over.
pub(crate) async fn inherit(path: &Path, version: &str) -> Result<Option<Inherited>, Failure> {
    let refuse = |why: String| Failure::usage(format!("--handover-socket {}: {why}", path.display()));
    for _ in 0..TRIES {
        match ask(path, version).await {
            Ok(inherited) => return Ok(Some(inherited)),
            // Nobody has ever listened there, or who did is gone.
            Err(Refusal::Gone(error)) if is_nobody(&error) => return Ok(None),
            // Who ends while it is asked leaves the question unanswered: then somebody else is there, or nobody.
            Err(Refusal::Gone(error)) => tracing::debug!(%error, "the handover broke off: asking again"),
            Err(Refusal::Why(why)) => return Err(refuse(why)),
        }
    }
    Err(refuse(format!(
        "who listens there does not hand over as this data plane, version {version}, understands it: it breaks off, \
         {TRIES} times"
    )))
}

fn is_nobody(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

async fn ask(path: &Path, version: &str) -> Result<Inherited, Refusal> {
    let gone = |error: io::Error, why: &dyn Fn(io::Error) -> String| match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof => {
            Refusal::Gone(error)
        }
        _ if is_nobody(&error) => Refusal::Gone(error),
        _ => Refusal::Why(why(error)),
    };
    let stream = UnixStream::connect(path).await;
    let stream =
        stream.map_err(|error| gone(error, &|error| format!("cannot ask there for a handover: {error}")))?;
    let mut channel = Channel::new(stream);
    let own = rustix::process::geteuid().as_raw();
    let uid = channel.peer_uid().map_err(|error| Refusal::Why(error.to_string()))?;
    if uid != own {
        let why = format!("user {uid} listens there, and this data plane runs as user {own}");
        return Err(Refusal::Why(why));
    }
    let question = Message::Ask { protocol: PROTOCOL, version: version.into(), pid: std::process::id() };
    let asked = timeout(PATIENCE, async {
        channel.send(&question, &[]).await?;
        receive_sockets(&channel).await
    });
    match asked.await {
        Ok(Ok(Ok((pid, version, sockets)))) => {
            let (path, dismissed) = (path.to_owned(), OnceLock::new());
            Ok(Inherited { channel, path, pid, version, sockets, dismissed })
        }
        Ok(Ok(Err(why))) => Err(Refusal::Why(format!("the data plane that listens there refuses: {why}"))),
        Ok(Err(error)) => Err(gone(error, &|error| {
            format!(
                "who listens there does not hand over as this data plane, version {version}, understands it: {error}"
            )
        })),
        Err(_) => Err(Refusal::Why(format!("who listens there hands nothing over within {PATIENCE:?}"))),
    }
}

type Handed = (u32, String, Vec<(SocketKind, TcpListener)>);

/// All sockets, or why there are none.
async fn receive_sockets(channel: &Channel) -> io::Result<Result<Handed, String>> {
    let mut all = Vec::new();
    loop {
        let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
        match channel.receive().await? {
            Some((Message::Refused { why }, _)) => return Ok(Err(why)),
            Some((Message::Sockets { version, pid, sockets: kinds, more }, sockets)) => {
                let (named, came) = (kinds.len(), sockets.len());
                if named != came {
                    return Err(invalid(format!("{named} sockets were named and {came} came")));
                }
                for (kind, socket) in kinds.into_iter().zip(sockets) {
                    all.push((kind, listener(socket)?));
                }
                if all.len() > MAX_INHERITED {
                    return Err(invalid(format!("more than {MAX_INHERITED} sockets")));
                }
                if !more {
                    return Ok(Ok((pid, version, all)));
                }
            }
            Some((other, _)) => return Err(invalid(format!("it answered with {other:?}"))),
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

fn listener(socket: OwnedFd) -> io::Result<TcpListener> {
    let listener = TcpListener::from(socket);
    // Both fail for what is no listening socket of TCP.
    listener.local_addr()?;
    if !SockRef::from(&listener).is_listener()? {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a socket came that does not listen"));
    }
    // Closing it here, or the other process blocking on it, would be felt by both.
    listener.set_nonblocking(true)?;
    Ok(listener)
}

impl Inherited {
    /// Takes those of one kind out.
    pub(crate) fn take(&mut self, is_wanted: impl Fn(SocketKind, &TcpListener) -> bool) -> Vec<TcpListener> {
        let all = std::mem::take(&mut self.sockets);
        let (wanted, rest) = all.into_iter().partition(|(kind, listener)| is_wanted(*kind, listener));
        self.sockets = rest;
        let wanted: Vec<_> = wanted;
        wanted.into_iter().map(|(_, listener)| listener).collect()
    }

    /// Completes when the other process has ended, or with why it does not wait for this one any more. Cancel safe.
    pub(crate) async fn ended(&self) -> Option<String> {
        if self.dismissed.get().is_none()
            && let Some(why) = self.channel.ended().await
        {
            let _ = self.dismissed.set(why);
        }
        self.dismissed.get().cloned()
    }

    /// Tells the other process that this one serves. It leaves, or is gone already: from here on there is no way back.
    ///
    /// # Errors
    /// A fatal [`Failure`] when it does not wait any more, and goes on serving.
    pub(crate) async fn serving(&mut self) -> Result<(), Failure> {
        if let Some(why) = self.dismissed.get() {
            return Err(not_waited_for(self.pid, why));
        }
        // Where this process is configured to listen elsewhere, nobody accepts any more, and clients must not wait.
        self.sockets.clear();
        let path = self.path.display();
        let (pid, version) = (self.pid, self.version.as_str());
        let told = timeout(PATIENCE, async {
            let sent = self.channel.send(&Message::Serving, &[]).await;
            match self.channel.receive().await? {
                // Said before, and the stream ended behind it.
                None => sent.map(|()| None),
                heard => Ok(heard),
            }
        });
        match told.await {
            Ok(Ok(Some((Message::Leaving, _)))) => {
                tracing::info!(%path, pid, version, "taken over: the other process drains");
            }
            Ok(Ok(Some((Message::Refused { why }, _)))) => return Err(not_waited_for(pid, &why)),
            answer => {
                tracing::warn!(%path, pid, version, ?answer, "taken over: the other process does not say that it leaves")
            }
        }
        Ok(())
    }
}

/// What ends a process that comes too late to take another one's place.
pub(crate) fn not_waited_for(pid: u32, why: &str) -> Failure {
    Failure::fatal(format!("process {pid} goes on serving and does not wait for this one any more: {why}"))
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn whoever_ends_while_it_is_asked_is_gone_and_one_that_always_breaks_off_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("handover");
        for accepted in [0, 1] {
            let listener = UnixListener::bind(&path).unwrap();
            let ending = async {
                for _ in 0..accepted {
                    drop(listener.accept().await.unwrap());
                }
                drop(listener.accept().await.unwrap());
                drop(listener);
            };
            let (inherited, ()) = tokio::join!(inherit(&path, "2"), ending);
            assert!(inherited.unwrap().is_none(), "after {accepted}");
            std::fs::remove_file(&path).unwrap();
        }

        let listener = UnixListener::bind(&path).unwrap();
        let breaking = async {
            loop {
                drop(listener.accept().await.unwrap());
            }
        };
        let failure = tokio::select! {
            inherited = inherit(&path, "2") => inherited.unwrap_err(),
            () = breaking => unreachable!("it never ends"),
        };
        assert!(failure.to_string().ends_with("it breaks off, 3 times"), "{failure}");
    }
}
