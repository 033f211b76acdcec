//! The side of the process that serves: hands its sockets over to whoever takes its place, and leaves once that one serves.

use std::{
    io,
    net::TcpListener,
    os::fd::AsFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use gateway_runtime::{
    Shutdown,
    panics::{PanicCounts, caught},
    unix_socket::UnixSocket,
};
use tokio::{
    net::UnixStream,
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::task::TaskTracker;

use super::{
    Message, PROTOCOL, SocketKind,
    channel::{Channel, MAX_SOCKETS},
};
use crate::control_plane::Hold;

/// For one message of the other process.
const PATIENCE: Duration = Duration::from_secs(5);
/// Conversations at once; more wait in the socket's queue.
const MAX_CONVERSATIONS: usize = 8;
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// As which its panics are counted.
pub(crate) const TASK: &str = "handover";

/// What is handed over, and what follows from it.
#[derive(Debug)]
pub(crate) struct Predecessor {
    pub(crate) version: &'static str,
    /// Copies, until this process ends: a handover needs them, and clients must be refused once nobody accepts.
    pub(crate) sockets: Mutex<Vec<(SocketKind, TcpListener)>>,
    /// Held while a successor may follow the control plane under the same node id.
    pub(crate) hold: Hold,
    /// Begun when a successor serves.
    pub(crate) handed_over: Shutdown,
    /// The process's own, begun then, too.
    pub(crate) shutdown: Shutdown,
    /// The process of the successor; 0 when there is none.
    pub(crate) successor: AtomicU32,
    /// How long a successor may take until it serves. One that stands still would be waited for without an end, while nobody
    /// follows the control plane, and no other may take over.
    pub(crate) patience: Duration,
    /// Where those of conversations are counted, too.
    pub(crate) panics: Arc<PanicCounts>,
}

/// Hands over at `place`, of which nothing is left then, until the process's shutdown begins. The conversation that ended in a
/// handover goes on until `stop`, for its end tells the successor that this process is gone; until then this goes on, too.
pub(crate) async fn serve(place: &mut Option<UnixSocket>, predecessor: &Arc<Predecessor>, stop: Shutdown) {
    let conversations = TaskTracker::new();
    if let Some(place) = place {
        tokio::select! {
            () = accept(place, predecessor, &conversations, &stop) => {}
            () = predecessor.shutdown.begun() => {}
        }
    }
    predecessor.sockets.lock().unwrap_or_else(PoisonError::into_inner).clear();
    if let Some(place) = place.take()
        && predecessor.handed_over.has_begun()
    {
        place.leave();
    }
    conversations.close();
    conversations.wait().await;
}

async fn accept(
    place: &UnixSocket,
    predecessor: &Arc<Predecessor>,
    conversations: &TaskTracker,
    stop: &Shutdown,
) {
    let places = Arc::new(Semaphore::new(MAX_CONVERSATIONS));
    loop {
        let Ok(permit) = Arc::clone(&places).acquire_owned().await else { return };
        match place.accept().await {
            Ok(stream) => {
                let (predecessor, stop) = (Arc::clone(predecessor), stop.clone());
                conversations.spawn(async move {
                    tokio::select! {
                        () = contain(&predecessor, stream) => {}
                        () = stop.begun() => {}
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a successor");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

impl Predecessor {
    fn copies(&self) -> io::Result<Vec<(SocketKind, TcpListener)>> {
        let sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        sockets.iter().map(|(kind, listener)| Ok((*kind, listener.try_clone()?))).collect()
    }
}

/// Has a conversation, of which a panic is counted. One that comes after the other process has taken over does not end the stream,
/// for that would say that this process is gone.
async fn contain(predecessor: &Predecessor, stream: UnixStream) {
    let mut channel = Channel::new(stream);
    let has_handed_over = caught(converse(predecessor, &mut channel)).await.unwrap_or_else(|_| {
        predecessor.panics.count(TASK);
        predecessor.handed_over.has_begun()
    });
    if has_handed_over {
        channel.ended_with_us().await;
    }
}

/// Whether this process is the other one's predecessor from then on.
async fn converse(predecessor: &Predecessor, channel: &mut Channel) -> bool {
    let admitted = admit(predecessor, channel).await;
    if predecessor.shutdown.has_begun() {
        // Without a word: whoever asks again finds nobody, and waits for the end of this process.
        return false;
    }
    match admitted {
        Ok(Ok(claim)) => return claim.hand_over(channel).await,
        Ok(Err(why)) => {
            tracing::warn!(%why, "no handover");
            let _ = timeout(PATIENCE, channel.send(&Message::Refused { why }, &[])).await;
        }
        Err(error) => {
            tracing::warn!(%error, "no handover: the other process said nothing that is understood");
        }
    }
    false
}

/// Hears who asks; the inner error is what to tell it.
async fn admit<'a>(
    predecessor: &'a Predecessor,
    channel: &mut Channel,
) -> io::Result<Result<Succession<'a>, String>> {
    let (own, uid) = (rustix::process::geteuid().as_raw(), channel.peer_uid()?);
    if uid != own {
        return Ok(Err(format!("this data plane runs as user {own}, and does not hand over to user {uid}")));
    }
    let asked = timeout(PATIENCE, channel.receive()).await.map_err(|_| io::ErrorKind::TimedOut)??;
    let Some((Message::Ask { protocol, version, pid }, _)) = asked else {
        return Ok(Err("it was not asked for its sockets first".into()));
    };
    if protocol != PROTOCOL {
        return Ok(Err(format!(
            "version {} of the data plane hands over by protocol {PROTOCOL}, and version {version} asks by protocol \
             {protocol}",
            predecessor.version
        )));
    }
    let claimed = predecessor.successor.compare_exchange(0, pid, Relaxed, Relaxed);
    Ok(match claimed {
        Ok(_) => Ok(Succession { predecessor, pid, version }),
        Err(other) => Err(format!("process {other} is taking over already")),
    })
}

/// The one handover under way.
struct Succession<'a> {
    predecessor: &'a Predecessor,
    pid: u32,
    version: String,
}

impl Succession<'_> {
    /// Whether it has.
    async fn hand_over(self, channel: &mut Channel) -> bool {
        let Predecessor { hold, handed_over, shutdown, patience, .. } = self.predecessor;
        let (pid, version) = (self.pid, self.version.as_str());
        tracing::info!(pid, version, "handing over: still serving until the other process does");
        let held = hold.begin();
        let word = async {
            timeout(PATIENCE, self.send_sockets(channel)).await.map_err(|_| io::ErrorKind::TimedOut)??;
            Ok::<_, io::Error>(timeout(*patience, channel.receive()).await)
        };
        let word = match word.await {
            Ok(Ok(word)) => word,
            Ok(Err(_)) => {
                let why = format!("it did not serve within {}", humantime::format_duration(*patience));
                // Heard once it moves again: it must not serve then.
                let _ = timeout(PATIENCE, channel.send(&Message::Refused { why: why.clone() }, &[])).await;
                Err(io::Error::new(io::ErrorKind::TimedOut, why))
            }
            Err(error) => Err(error),
        };
        let why = match word {
            Ok(Some((Message::Serving, _))) => {
                tracing::info!(pid, version, "handed over: the other process serves, this one drains");
                held.keep();
                handed_over.begin();
                shutdown.begin();
                // It serves, whether it hears this or not.
                let _ = timeout(PATIENCE, channel.send(&Message::Leaving, &[])).await;
                return true;
            }
            Ok(Some((other, _))) => format!("it said {other:?} before it served"),
            Ok(None) => "it ended before it served".into(),
            Err(error) => error.to_string(),
        };
        tracing::warn!(pid, version, why, "no handover: going on as before");
        false
    }

    async fn send_sockets(&self, channel: &mut Channel) -> io::Result<()> {
        let version = self.predecessor.version;
        let sockets = self.predecessor.copies()?;
        let chunks = sockets.len().div_ceil(MAX_SOCKETS);
        for (index, chunk) in sockets.chunks(MAX_SOCKETS).enumerate() {
            let message = Message::Sockets {
                version: version.into(),
                pid: std::process::id(),
                sockets: chunk.iter().map(|(kind, _)| *kind).collect(),
                more: index + 1 < chunks,
            };
            let descriptors: Vec<_> = chunk.iter().map(|(_, listener)| listener.as_fd()).collect();
            channel.send(&message, &descriptors).await?;
        }
        Ok(())
    }
}

impl Drop for Succession<'_> {
    fn drop(&mut self) {
        if !self.predecessor.handed_over.has_begun() {
            self.predecessor.successor.store(0, Relaxed);
        }
    }
}

impl Channel {
    /// Never completes: the stream ends with the process, or with whoever drops this.
    async fn ended_with_us(&self) {
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tokio::{io::AsyncReadExt, net::TcpStream, task::JoinHandle};

    use super::*;
    use crate::handover::{Claim, inherit};

    /// A process with one socket to hand over, whose address it yields.
    fn predecessor(shutdown: &Shutdown) -> (Arc<Predecessor>, std::net::SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let predecessor = Predecessor {
            version: "1",
            sockets: vec![(SocketKind::Plain, listener)].into(),
            hold: Hold::default(),
            handed_over: Shutdown::new(),
            shutdown: shutdown.clone(),
            successor: AtomicU32::new(0),
            patience: PATIENCE_OF_TESTS,
            panics: Arc::default(),
        };
        (Arc::new(predecessor), address)
    }

    fn place(path: &Path) -> Option<UnixSocket> {
        Some(Claim::new(path).unwrap().publish().unwrap())
    }

    /// One that serves at this path until `stop`.
    fn serving(path: &Path, shutdown: &Shutdown, stop: &Shutdown) -> (JoinHandle<()>, std::net::SocketAddr) {
        let (mut place, (predecessor, address)) = (place(path), predecessor(shutdown));
        let stop = stop.clone();
        (tokio::spawn(async move { serve(&mut place, &predecessor, stop).await }), address)
    }

    /// Longer than a successor takes that says at once that it serves, shorter than anybody wants to wait.
    const PATIENCE_OF_TESTS: Duration = Duration::from_secs(2);

    #[tokio::test]
    async fn a_successor_that_stands_still_is_waited_for_for_a_while_and_hears_that_it_is_not_any_more() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("handover");
        let stop = Shutdown::new();
        let (ended, _) = serving(&path, &Shutdown::new(), &stop);
        let mut still = inherit(&path, "2").await.unwrap().unwrap();
        let refused = inherit(&path, "3").await.unwrap_err().to_string();
        assert!(refused.contains("taking over already"), "{refused}");
        let why = still.ended().await.expect("it is told");
        assert_eq!(why, "it did not serve within 2s");
        // The next one may, and the first must not any more.
        let mut next = inherit(&path, "3").await.unwrap().unwrap();
        assert!(still.serving().await.is_err());
        next.serving().await.unwrap();
        stop.begin();
        ended.await.unwrap();
    }

    /// Between a look at whose it is and its removal the successor could put its own there.
    #[tokio::test]
    async fn the_path_is_left_to_a_successor_and_removed_where_there_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("handover");
        let shutdown = Shutdown::new();
        let (ended, _) = serving(&path, &shutdown, &Shutdown::new());
        shutdown.begin();
        ended.await.unwrap();
        assert!(!path.exists());

        let stop = Shutdown::new();
        let (ended, _) = serving(&path, &Shutdown::new(), &stop);
        inherit(&path, "2").await.unwrap().unwrap().serving().await.unwrap();
        stop.begin();
        ended.await.unwrap();
        assert!(path.exists());
        assert!(inherit(&path, "3").await.unwrap().is_none(), "nobody listens there");
    }

    #[tokio::test]
    async fn what_is_started_again_hands_over_at_the_place_that_it_had() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("handover");
        let stop = Shutdown::new();
        let (mut place, (predecessor, _)) = (place(&path), predecessor(&Shutdown::new()));
        tokio::select! {
            biased;
            () = serve(&mut place, &predecessor, stop.clone()) => panic!("it accepts until it is told otherwise"),
            () = std::future::ready(()) => {}
        }
        let again = tokio::spawn({
            let stop = stop.clone();
            async move { serve(&mut place, &predecessor, stop).await }
        });
        inherit(&path, "2").await.unwrap().unwrap().serving().await.unwrap();
        stop.begin();
        again.await.unwrap();
    }

    /// Where there are no timers, a conversation comes to its end by a panic.
    #[test]
    fn a_panic_of_a_conversation_is_counted_and_ends_no_other() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("handover");
            let shutdown = Shutdown::new();
            let (mut place, (predecessor, _)) = (place(&path), predecessor(&shutdown));
            let panics = Arc::clone(&predecessor.panics);
            let ended = tokio::spawn(async move { serve(&mut place, &predecessor, Shutdown::new()).await });
            for count in 1..=2 {
                let mut stream = UnixStream::connect(&path).await.unwrap();
                assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
                assert_eq!(panics.read().get(TASK), Some(&count));
            }
            shutdown.begin();
            ended.await.unwrap();
        });
    }

    #[test]
    fn a_panic_behind_a_handover_does_not_tell_the_other_process_that_this_one_is_gone() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        runtime.block_on(async {
            let (predecessor, _) = predecessor(&Shutdown::new());
            predecessor.handed_over.begin();
            let (near, far) = UnixStream::pair().unwrap();
            let contained = tokio::spawn({
                let predecessor = Arc::clone(&predecessor);
                async move { contain(&predecessor, near).await }
            });
            while !predecessor.panics.read().contains_key(TASK) {
                tokio::task::yield_now().await;
            }
            tokio::task::yield_now().await;
            assert!(!contained.is_finished(), "it holds the stream");
            let said = far.try_read(&mut [0]).unwrap_err();
            assert_eq!(said.kind(), io::ErrorKind::WouldBlock);
            contained.abort();
        });
    }

    #[tokio::test]
    async fn clients_are_refused_where_the_successor_does_not_listen_as_soon_as_it_serves() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("handover");
        let stop = Shutdown::new();
        let (ended, address) = serving(&path, &Shutdown::new(), &stop);
        let mut successor = inherit(&path, "2").await.unwrap().unwrap();
        successor.serving().await.unwrap();
        stop.begin();
        ended.await.unwrap();
        let refused = TcpStream::connect(address).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        drop(successor);
    }
}
