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

/// Asks the process that listens at `path` for its sockets; `None` when nobody does.
///
/// # Errors
/// A usage [`Failure`] that says why it hands nothing over.
pub(crate) async fn inherit(path: &Path, version: &str) -> Result<Option<Inherited>, Failure> {
    let refuse = |why: String| Failure::usage(format!("--handover-socket {}: {why}", path.display()));
    let stream = match UnixStream::connect(path).await {
        Ok(stream) => stream,
        // Nobody has ever listened there, or who did is gone.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(refuse(format!("cannot ask there for a handover: {error}"))),
    };
    let mut channel = Channel::new(stream);
    let own = rustix::process::geteuid().as_raw();
    let uid = channel.peer_uid().map_err(|error| refuse(error.to_string()))?;
    if uid != own {
        return Err(refuse(format!("user {uid} listens there, and this data plane runs as user {own}")));
    }
    let ask = Message::Ask { protocol: PROTOCOL, version: version.into(), pid: std::process::id() };
    let asked = timeout(PATIENCE, async {
        channel.send(&ask, &[]).await?;
        receive_sockets(&channel).await
    });
    match asked.await {
        Ok(Ok(Ok((pid, version, sockets)))) => {
            let (path, dismissed) = (path.to_owned(), OnceLock::new());
            Ok(Some(Inherited { channel, path, pid, version, sockets, dismissed }))
        }
        Ok(Ok(Err(why))) => Err(refuse(format!("the data plane that listens there refuses: {why}"))),
        Ok(Err(error)) => Err(refuse(format!(
            "who listens there does not hand over as this data plane, version {version}, understands it: {error}"
        ))),
        Err(_) => Err(refuse(format!("who listens there hands nothing over within {PATIENCE:?}"))),
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
