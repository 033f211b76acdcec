//! Data planes as the control plane sees them: streams that ack what they are sent, and keep nothing of it.
//!
//! Of a message only the numbers that an ack needs are read; replicas are passed over by their length. So a thousand of
//! them fit beside the server that is measured without being what is measured.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bytes::{Buf, Bytes};
use gateway_proto::v1::{
    Ack, Hello, NodeIdentity, SnapshotRole, StreamSnapshotsRequest, stream_snapshots_request::Message,
};
use gateway_tests::BytesCodec;
use http::uri::PathAndQuery;
use prost::{
    Message as _,
    encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field},
};
use tokio::{
    sync::{Notify, mpsc},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, client::Grpc, transport::Channel};

use crate::callers::connect;

/// Between two tries to connect, and for how long it is tried.
const PAUSE: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(120);

/// What followers hold, and since when.
#[derive(Debug)]
struct Board {
    start: Instant,
    followers: Vec<Seen>,
    /// The revision that is waited for, and how many followers have it.
    target: AtomicI64,
    reached: AtomicUsize,
    all: Notify,
    /// Connections that failed before they brought anything.
    retries: AtomicUsize,
}

/// What one follower has seen.
#[derive(Debug, Default)]
struct Seen {
    /// Its revision; -1 before its first complete message.
    revision: AtomicI64,
    /// Nanoseconds from the board's start to the message that reached the target.
    at: AtomicU64,
    /// Bytes of messages so far.
    bytes: AtomicU64,
}

/// Many followers, each on a connection of its own. Ends with this value.
#[derive(Debug)]
pub(crate) struct Followers {
    board: Arc<Board>,
    streams: JoinSet<Result<()>>,
    epoch: Arc<std::sync::OnceLock<String>>,
}

/// What followers held before.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) epoch: String,
    pub(crate) revision: i64,
}

impl Followers {
    /// Connects them all at once. With `held` they resume, without they hold nothing.
    pub(crate) fn start(server: SocketAddr, count: usize, held: Option<&Held>) -> Self {
        let followers =
            (0..count).map(|_| Seen { revision: AtomicI64::new(-1), ..Seen::default() }).collect();
        let (target, reached, all) = (AtomicI64::new(0), AtomicUsize::new(0), Notify::new());
        let (start, retries) = (Instant::now(), AtomicUsize::new(0));
        let board = Arc::new(Board { start, followers, target, reached, all, retries });
        let mut streams = JoinSet::new();
        let epoch = Arc::new(std::sync::OnceLock::new());
        for index in 0..count {
            let (board, epoch, held) = (Arc::clone(&board), Arc::clone(&epoch), held.cloned());
            streams.spawn(async move {
                // Until it has been told something, a data plane tries again; after that nothing may go wrong.
                while let Err(why) = follow(server, index, held.clone(), &board, &epoch).await {
                    if board.followers[index].bytes.load(SeqCst) > 0 || board.start.elapsed() > PATIENCE {
                        return Err(why);
                    }
                    board.retries.fetch_add(1, SeqCst);
                    sleep(PAUSE).await;
                }
                Ok(())
            });
        }
        Self { board, streams, epoch }
    }

    /// From now on, wait for this revision, which nobody has yet. Until then, their first complete message is waited
    /// for.
    pub(crate) fn expect(&self, revision: i64) {
        self.board.reached.store(0, SeqCst);
        self.board.target.store(revision, SeqCst);
    }

    /// Waits until all have what was expected, and yields when each got it.
    pub(crate) async fn reached(&mut self, limit: Duration) -> Result<Vec<Instant>> {
        let all = async {
            while self.board.reached.load(SeqCst) < self.board.followers.len() {
                tokio::select! {
                    () = self.board.all.notified() => {}
                    Some(ended) = self.streams.join_next() => { ended?.context("a follower")?; }
                }
            }
            Ok::<_, anyhow::Error>(())
        };
        let reached = timeout(limit, all).await;
        let count = self.board.reached.load(SeqCst);
        reached.with_context(|| format!("{count} followers only after {limit:?}"))??;
        let at = |seen: &Seen| self.board.start + Duration::from_nanos(seen.at.load(SeqCst));
        Ok(self.board.followers.iter().map(at).collect())
    }

    /// Bytes of messages to all of them so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.board.followers.iter().map(|seen| seen.bytes.load(SeqCst)).sum()
    }

    /// How often a stream was begun anew, before it had brought anything.
    pub(crate) fn retries(&self) -> usize {
        self.board.retries.load(SeqCst)
    }

    /// What the first of them holds.
    pub(crate) fn held(&self) -> Result<Held> {
        let epoch = self.epoch.get().context("somebody has been told the epoch")?.clone();
        Ok(Held { epoch, revision: self.board.followers[0].revision.load(SeqCst) })
    }
}

async fn follow(
    server: SocketAddr,
    index: usize,
    held: Option<Held>,
    board: &Board,
    epoch: &std::sync::OnceLock<String>,
) -> Result<()> {
    let channel = connect(&format!("http://{server}")).await?;
    let (requests, receiver) = mpsc::channel(8);
    let node = NodeIdentity { node_id: format!("bench-{index}"), version: "0".into(), ..Default::default() };
    let held = held.unwrap_or(Held { epoch: String::new(), revision: 0 });
    let hello = Hello {
        node: Some(node),
        services: vec!["*".into()],
        resume_epoch: held.epoch,
        resume_revision: held.revision,
        role: SnapshotRole::DataPlane.into(),
        ..Default::default()
    };
    requests.send(request(Message::Hello(hello))).await?;
    let mut grpc: Grpc<Channel> = Grpc::new(channel);
    grpc.ready().await?;
    let path = PathAndQuery::from_static("/gateway.v1.DiscoveryService/StreamSnapshots");
    let stream = grpc.streaming(Request::new(ReceiverStream::new(receiver)), path, BytesCodec).await?;
    let mut stream = stream.into_inner();
    while let Some(bytes) = stream.message().await? {
        let length = bytes.len();
        let update = Update::read(bytes)?;
        board.followers[index].bytes.fetch_add(length as u64, SeqCst);
        epoch.get_or_init(|| update.epoch.clone());
        if update.completes {
            board.note(index, update.revision);
        }
        let revision = board.followers[index].revision.load(SeqCst).max(0);
        requests.send(request(Message::Ack(Ack { nonce: update.nonce, revision, nack: None }))).await?;
    }
    anyhow::bail!("the server ended the stream")
}

fn request(message: Message) -> Bytes {
    StreamSnapshotsRequest { message: Some(message) }.encode_to_vec().into()
}

impl Board {
    fn note(&self, index: usize, revision: i64) {
        let seen = &self.followers[index];
        let before = seen.revision.swap(revision, SeqCst);
        let target = self.target.load(SeqCst);
        if before < target && revision >= target || before < 0 {
            let at = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
            seen.at.store(at, SeqCst);
            if self.reached.fetch_add(1, SeqCst) + 1 == self.followers.len() {
                self.all.notify_one();
            }
        }
    }
}

/// What a follower needs to know of a message.
#[derive(Debug, Default)]
struct Update {
    nonce: String,
    epoch: String,
    revision: i64,
    /// Whether the follower holds `revision` with it: everything but a part that is not the last.
    completes: bool,
}

impl Update {
    fn read(mut bytes: Bytes) -> Result<Self> {
        let mut update = Self { completes: true, ..Self::default() };
        while bytes.has_remaining() {
            let (tag, wire_type) = decode_key(&mut bytes)?;
            match tag {
                1 => update.nonce = text(&mut bytes)?,
                2 => update.epoch = text(&mut bytes)?,
                3 => update.revision = decode_varint(&mut bytes)?.cast_signed(),
                5 => update.completes = is_last_part(nested(&mut bytes)?)?,
                _ => skip_field(wire_type, tag, &mut bytes, DecodeContext::default())?,
            }
        }
        Ok(update)
    }
}

fn nested(bytes: &mut Bytes) -> Result<Bytes> {
    let length = usize::try_from(decode_varint(bytes)?)?;
    ensure!(length <= bytes.remaining(), "a message that ends too early");
    Ok(bytes.split_to(length))
}

fn text(bytes: &mut Bytes) -> Result<String> {
    Ok(String::from_utf8(nested(bytes)?.into())?)
}

fn is_last_part(mut full: Bytes) -> Result<bool> {
    while full.has_remaining() {
        match decode_key(&mut full)? {
            (4, WireType::Varint) => return Ok(decode_varint(&mut full)? != 0),
            (_, WireType::LengthDelimited) => drop(nested(&mut full)?),
            (tag, wire_type) => skip_field(wire_type, tag, &mut full, DecodeContext::default())?,
        }
    }
    Ok(false)
}
