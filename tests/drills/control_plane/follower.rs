//! Data planes as control planes see them: each holds what a data plane holds, by the same code, and acks as one.

use std::{
    future::pending,
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime},
};

use data_plane::discovery::{Assembly, Received, Snapshot};
use gateway_proto::v1::{
    Ack, Hello, Nack, NodeIdentity, StreamSnapshotsRequest, StreamSnapshotsResponse,
    discovery_service_client::DiscoveryServiceClient, stream_snapshots_request::Message,
    stream_snapshots_response::Update,
};
use rand::Rng;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, transport::Channel};

use super::reporter::{Reporter, Reports, Standing};
use crate::{replica::lock, stage::SECOND};

/// As data planes take them.
const MAX_MESSAGE_BYTES: usize = 64 * 1024 * 1024;
/// A control plane that says nothing for so long is taken for dead, as data planes do.
const SILENCE: Duration = Duration::from_secs(15);
/// Between two tries, at most.
const PAUSE: Duration = Duration::from_millis(100);

/// What one follower has been through.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// Of which the revision is.
    pub(crate) epoch: String,
    /// The revision that it holds.
    pub(crate) revision: i64,
    /// Complete snapshots that it was sent.
    pub(crate) full: u64,
    /// Updates that it could not take.
    pub(crate) refused: u64,
    /// Updates of an older revision than it held, of the same epoch.
    pub(crate) back: u64,
    /// Streams that brought something.
    pub(crate) streams: u64,
    /// Each revision that it came to, and when; for few followers only.
    pub(crate) path: Vec<(i64, Instant)>,
}

/// One follower.
#[derive(Debug)]
pub(crate) struct Follower {
    node: String,
    urls: Vec<String>,
    standing: watch::Sender<Standing>,
    held: Held,
    seen: Arc<Mutex<Seen>>,
    notes_path: bool,
    reporter: Option<Reporter>,
}

/// What a follower holds.
#[derive(Debug)]
enum Held {
    All(Box<Snapshot>),
    /// Of what is too much for many of them in one process, which it is and of which revision.
    Numbers {
        epoch: String,
        revision: i64,
    },
}

impl Held {
    fn epoch(&self) -> &str {
        match self {
            Self::All(snapshot) => snapshot.epoch(),
            Self::Numbers { epoch, .. } => epoch,
        }
    }

    fn revision(&self) -> i64 {
        match self {
            Self::All(snapshot) => snapshot.revision(),
            Self::Numbers { revision, .. } => *revision,
        }
    }

    /// Takes a message in. Yields why it does not.
    fn receive(&mut self, assembly: &mut Assembly, message: StreamSnapshotsResponse) -> Option<Nack> {
        match self {
            Self::All(snapshot) => match assembly.receive(snapshot, message) {
                Received::Refused(refusal) => {
                    Some(Nack { reason: "REFUSED".into(), message: refusal.to_string() })
                }
                _ => None,
            },
            Self::Numbers { epoch, revision } => {
                if !matches!(&message.update, Some(Update::Full(full)) if !full.last_part) {
                    (*epoch, *revision) = (message.epoch, message.revision);
                }
                None
            }
        }
    }
}

impl Follower {
    /// One that begins with the control plane of this number.
    pub(crate) fn new(node: String, urls: &[String], first: usize) -> Self {
        let (urls, held, seen) = (urls.to_vec(), Held::All(Box::default()), Arc::default());
        let standing = watch::Sender::new(Standing { current: first, ..Standing::default() });
        Self { node, urls, standing, held, seen, notes_path: false, reporter: None }
    }

    /// The same, which has held something before, and keeps no more of it than its epoch and its revision.
    pub(crate) fn resuming(self, epoch: &str, revision: i64) -> Self {
        Self { held: Held::Numbers { epoch: epoch.to_owned(), revision }, ..self }
    }

    /// What it holds.
    ///
    /// # Panics
    /// When that is numbers only.
    pub(crate) fn snapshot(&self) -> &Snapshot {
        match &self.held {
            Held::All(snapshot) => snapshot,
            Held::Numbers { .. } => panic!("it keeps numbers only"),
        }
    }

    /// The same, which notes when it came to each revision.
    pub(crate) fn noting(self) -> Self {
        Self { notes_path: true, ..self }
    }

    /// The same, which also reports as a data plane does; by its number, it has a breaker open or not.
    pub(crate) fn reporting(self, number: usize, reports: &Reports) -> Self {
        let node = NodeIdentity { process_id: format!("p-{number}"), ..self.identity() };
        let (urls, standing, reports) = (self.urls.clone(), self.standing.subscribe(), reports.clone());
        Self { reporter: Some(Reporter { number, node, urls, standing, reports }), ..self }
    }

    /// What it has been through so far, also while it follows.
    pub(crate) fn seen(&self) -> Arc<Mutex<Seen>> {
        Arc::clone(&self.seen)
    }

    /// Follows for ever, one control plane after the other. Dropping it ends the connection at once.
    pub(crate) async fn follow(&mut self) {
        let reporter = self.reporter.clone();
        let reports = async {
            match &reporter {
                Some(reporter) => reporter.report().await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = self.follow_all() => {}
            () = reports => {}
        }
    }

    async fn follow_all(&mut self) {
        loop {
            // Why a stream ended is nothing to a data plane: it begins the next one.
            let _ = self.follow_one().await;
            self.standing.send_modify(|standing| standing.current += 1);
            let pause = PAUSE.mul_f64(rand::rng().random_range(0.0..1.0));
            tokio::time::sleep(pause).await;
        }
    }

    fn identity(&self) -> NodeIdentity {
        NodeIdentity { node_id: self.node.clone(), version: "drill".into(), ..Default::default() }
    }

    /// Who begins a stream of snapshots: one that reports, too, says all that a data plane does.
    fn introduces(&self) -> NodeIdentity {
        let Some(reporter) = &self.reporter else { return self.identity() };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let stream_number = i64::try_from(now.as_micros()).unwrap_or(i64::MAX);
        NodeIdentity { stream_number, ..reporter.node.clone() }
    }

    async fn follow_one(&mut self) -> Result<(), Status> {
        let current = self.standing.borrow().current;
        let url = self.urls[current % self.urls.len()].clone();
        let endpoint = Channel::from_shared(url).expect("an address makes a URL");
        let channel = endpoint.connect_timeout(SECOND).connect().await;
        let channel = channel.map_err(|error| Status::unavailable(error.to_string()))?;
        let mut client = DiscoveryServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let (requests, receiver) = mpsc::channel(8);
        let hello = Hello {
            node: Some(self.introduces()),
            services: vec!["*".into()],
            resume_epoch: self.held.epoch().to_owned(),
            resume_revision: self.held.revision(),
            ..Default::default()
        };
        // There is room for the first one.
        let _ = requests.try_send(request(Message::Hello(hello)));
        let begun = timeout(SILENCE, client.stream_snapshots(ReceiverStream::new(receiver))).await;
        let mut stream = begun.map_err(|_| Status::deadline_exceeded("silence"))??.into_inner();
        let (mut assembly, mut is_first) = (Assembly::default(), true);
        loop {
            let message = timeout(SILENCE, stream.message()).await;
            let message = message.map_err(|_| Status::deadline_exceeded("silence"))??;
            let message = message.ok_or_else(|| Status::unavailable("the stream ended"))?;
            let nonce = message.nonce.clone();
            let is_full = matches!(&message.update, Some(Update::Full(full)) if full.last_part);
            let is_back = message.epoch == self.held.epoch() && message.revision < self.held.revision();
            let before = self.held.revision();
            let nack = self.held.receive(&mut assembly, message);
            let revision = self.held.revision();
            self.standing.send_if_modified(|standing| {
                let has_moved = standing.revision != revision || standing.epoch != self.held.epoch();
                if has_moved {
                    (standing.epoch, standing.revision) = (self.held.epoch().to_owned(), revision);
                }
                has_moved
            });
            {
                let mut seen = lock(&self.seen);
                seen.full += u64::from(is_full);
                seen.refused += u64::from(nack.is_some());
                seen.back += u64::from(is_back);
                seen.streams += u64::from(std::mem::take(&mut is_first));
                self.held.epoch().clone_into(&mut seen.epoch);
                seen.revision = revision;
                if revision != before && self.notes_path {
                    seen.path.push((revision, Instant::now()));
                }
            }
            let ack = Ack { nonce, revision, nack };
            let sent = requests.send(request(Message::Ack(ack))).await;
            sent.map_err(|_| Status::unavailable("the stream ended"))?;
        }
    }
}

pub(crate) fn request(message: Message) -> StreamSnapshotsRequest {
    StreamSnapshotsRequest { message: Some(message) }
}

/// Many followers, which end with this value.
#[derive(Debug)]
pub(crate) struct Followers {
    seen: Vec<Arc<Mutex<Seen>>>,
    _tasks: JoinSet<()>,
}

impl Followers {
    /// So many, spread over the control planes.
    pub(crate) fn start(urls: &[String], count: usize) -> Self {
        Self::of((0..count).map(|number| Follower::new(format!("drill-{number}"), urls, number)))
    }

    /// So many that hold what this one has seen.
    pub(crate) fn resuming(urls: &[String], count: usize, held: &Seen) -> Self {
        let follower = |number| Follower::new(format!("drill-{number}"), urls, number);
        Self::of((0..count).map(|number| follower(number).resuming(&held.epoch, held.revision)))
    }

    pub(crate) fn of(followers: impl Iterator<Item = Follower>) -> Self {
        let (mut seen, mut tasks) = (Vec::new(), JoinSet::new());
        for mut follower in followers {
            seen.push(follower.seen());
            tasks.spawn(async move { follower.follow().await });
        }
        Self { seen, _tasks: tasks }
    }

    /// What each of them has been through.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.iter().map(|seen| lock(seen).clone()).collect()
    }

    /// How many hold this revision or a later one.
    pub(crate) fn at_least(&self, revision: i64) -> usize {
        self.seen.iter().filter(|seen| lock(seen).revision >= revision).count()
    }

    /// How long it takes until all hold this revision, at most `limit`.
    pub(crate) async fn reach(&self, revision: i64, limit: Duration) -> Duration {
        let began = Instant::now();
        while self.at_least(revision) < self.seen.len() && began.elapsed() < limit {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        began.elapsed()
    }
}
