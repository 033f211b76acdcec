//! Renewals on their way to etcd: few streams for all leases, and a new lease where etcd's has lapsed.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::Duration,
};

use gateway_proto::{
    LeaseId,
    etcd::{LeaseKeepAliveRequest, LeaseKeepAliveResponse, lease_client::LeaseClient},
};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{
    client::{Client, Live},
    entry, found,
    keys::{Keys, RecordKind},
    transaction::{Grant, one, revival},
};
use crate::{
    clock,
    leases::{LeaseTag, Renewal},
    registry::{Item, Key},
};

/// A follower hands each renewal on to the leader, one after the other on each stream.
const STREAMS: usize = 8;
/// Renewals on one stream that are not answered.
const UNANSWERED: usize = 2048;
/// A member that leaves a renewal without an answer for so long has no leader, or is cut off from it, and answers pings all the
/// same. The shortest leases have time left for another member then.
const STALLED: Duration = Duration::from_millis(1500);
/// Leases that are begun anew at once: each is a commit or two of etcd's.
const REVIVALS: usize = 64;
/// Those that wait for it: more than etcd keeps anew before a renewal is too old to be told.
const WAITING: usize = 16 * 1024;
/// Leases that are revoked at once.
const REVOCATIONS: usize = 16;
/// Others may change the record meanwhile.
const TRIES: usize = 4;
const MIN_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// Forwards renewals for as long as there are any to come.
pub(super) async fn run(client: Client, keys: Keys, mut renewals: mpsc::Receiver<Renewal>) {
    let (lapsed, to_revive) = mpsc::channel(WAITING);
    let mut tasks = JoinSet::new();
    tasks.spawn(Revivals::new(client.clone(), keys).run(to_revive));
    let mut senders = Vec::with_capacity(STREAMS);
    for _ in 0..STREAMS {
        let (sender, receiver) = mpsc::channel(UNANSWERED);
        senders.push(sender);
        let line = Line { client: client.clone(), lapsed: lapsed.clone(), unanswered: HashMap::new() };
        tasks.spawn(line.run(receiver));
    }
    while let Some(renewal) = renewals.recv().await {
        let line = usize::try_from(LeaseTag::of(renewal.lease).get()).unwrap_or(0) % STREAMS;
        // etcd leaves renewals of leases without an answer that it is about to drop, and all behind them: so what it is known to
        // have dropped does not go that way.
        let way = if renewal.is_dropped { &lapsed } else { &senders[line] };
        // One that is full is one that etcd does not keep up with: the next renewal comes in a third of a time to live.
        let _ = way.try_send(renewal);
    }
}

/// One stream, begun anew whenever it breaks.
struct Line {
    client: Client,
    /// Where leases are handed in that etcd turned out to have let lapse.
    lapsed: mpsc::Sender<Renewal>,
    /// By the numbers of their leases. What one stream leaves without an answer is asked again on the next.
    unanswered: HashMap<i64, Renewal>,
}

impl Line {
    async fn run(mut self, mut renewals: mpsc::Receiver<Renewal>) {
        let mut pause = MIN_PAUSE;
        loop {
            // No stream without anything to say: etcd says nothing on it before it has heard something, not even that it is there.
            while self.unanswered.is_empty() {
                let Some(first) = renewals.recv().await else { return };
                if first.is_timely(clock::now()) {
                    self.unanswered.insert(LeaseTag::of(first.lease).get(), first);
                }
            }
            let begun = clock::now();
            match self.forward(&mut renewals).await {
                Ok(()) => return,
                Err(status) => {
                    tracing::debug!(message = status.message(), "a stream of renewals to etcd ended");
                    if clock::now() - begun > MAX_PAUSE {
                        pause = MIN_PAUSE;
                    }
                    sleep(pause.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
                    pause = (pause * 2).min(MAX_PAUSE);
                }
            }
        }
    }

    async fn forward(&mut self, renewals: &mut mpsc::Receiver<Renewal>) -> Result<(), Status> {
        let live = self.client.live().await.inspect_err(|_| self.forget_late_ones())?;
        self.forget_late_ones();
        if self.unanswered.is_empty() {
            return Err(Status::cancelled("what was to be said is too old by now"));
        }
        let (requests, receiver) = mpsc::channel(UNANSWERED);
        // In another order than before: one that etcd is about to drop has no answer, nor has what stands behind it.
        self.unanswered = std::mem::take(&mut self.unanswered).into_iter().collect();
        for id in self.unanswered.keys() {
            // There is room for all of them.
            let _ = requests.try_send(LeaseKeepAliveRequest { id: *id });
        }
        let stalled = || Status::deadline_exceeded("a member leaves renewals without an answer");
        let opened = timeout(STALLED, open(&live, receiver)).await.unwrap_or_else(|_| Err(stalled()));
        let mut answers = opened.inspect_err(|_| self.client.give_up(&live, true))?;
        let mut moved = Instant::now();
        loop {
            tokio::select! {
                renewal = renewals.recv(), if self.unanswered.len() < UNANSWERED => match renewal {
                    Some(renewal) => {
                        if self.unanswered.is_empty() {
                            moved = Instant::now();
                        }
                        self.ask(&requests, renewal);
                    }
                    None => return Ok(()),
                },
                () = sleep_until(moved + STALLED), if !self.unanswered.is_empty() => {
                    self.client.give_up(&live, true);
                    return Err(stalled());
                }
                () = live.given_up() => return Err(Status::cancelled("another member is asked from now on")),
                answer = answers.message() => {
                    let answer = answer.inspect_err(|_| self.client.give_up(&live, true))?;
                    let answer = answer.ok_or_else(|| Status::unavailable("etcd ended the stream"))?;
                    self.client.contact().touch(clock::now());
                    moved = Instant::now();
                    let renewal = self.unanswered.remove(&answer.id);
                    if let Some(renewal) = renewal.filter(|_| answer.ttl <= 0) {
                        // Without a place for it, the next renewal asks again.
                        let _ = self.lapsed.try_send(renewal);
                    }
                }
            }
        }
    }

    fn ask(&mut self, requests: &mpsc::Sender<LeaseKeepAliveRequest>, renewal: Renewal) {
        let id = LeaseTag::of(renewal.lease).get();
        if renewal.is_timely(clock::now()) && requests.try_send(LeaseKeepAliveRequest { id }).is_ok() {
            self.unanswered.insert(id, renewal);
        }
    }

    fn forget_late_ones(&mut self) {
        let now = clock::now();
        self.unanswered.retain(|_, renewal| renewal.is_timely(now));
    }
}

/// Has etcd keep leases again that it let lapse, although their owners were heard of: some at a time, and the others wait.
struct Revivals {
    client: Client,
    keys: Keys,
    waiting: VecDeque<LeaseId>,
    /// When the owner of each that waits was last heard of: one who goes on to renew keeps its place.
    newest: HashMap<LeaseId, Renewal>,
    under_way: JoinSet<LeaseId>,
    /// The same.
    begun: HashSet<LeaseId>,
}

impl Revivals {
    fn new(client: Client, keys: Keys) -> Self {
        let (waiting, newest) = (VecDeque::new(), HashMap::new());
        Self { client, keys, waiting, newest, under_way: JoinSet::new(), begun: HashSet::new() }
    }

    /// For as long as there are any to come.
    async fn run(mut self, mut lapsed: mpsc::Receiver<Renewal>) {
        loop {
            tokio::select! {
                renewal = lapsed.recv(), if self.waiting.len() < WAITING => match renewal {
                    Some(renewal) => self.wait_with(renewal),
                    None => return,
                },
                Some(ended) = self.under_way.join_next() => match ended {
                    Ok(lease) => {
                        self.begun.remove(&lease);
                    }
                    // A panic leaves its lease among those that are under way.
                    Err(_) => self.begun.clear(),
                },
            }
            while self.under_way.len() < REVIVALS {
                let Some(lease) = self.waiting.pop_front() else { break };
                let next = self.newest.remove(&lease).filter(|next| next.is_timely(clock::now()));
                if let Some(next) = next {
                    self.begun.insert(lease);
                    self.under_way.spawn(revive(self.client.clone(), self.keys.clone(), next));
                }
            }
        }
    }

    /// What is under way is not to be done twice.
    fn wait_with(&mut self, renewal: Renewal) {
        let lease = renewal.lease;
        if !self.begun.contains(&lease) && self.newest.insert(lease, renewal).is_none() {
            self.waiting.push_back(lease);
        }
    }
}

async fn open(
    live: &Live,
    requests: mpsc::Receiver<LeaseKeepAliveRequest>,
) -> Result<Streaming<LeaseKeepAliveResponse>, Status> {
    let request = live.request(ReceiverStream::new(requests));
    Ok(LeaseClient::new(live.channel.clone()).lease_keep_alive(request).await?.into_inner())
}

/// Has etcd keep one lease again, and yields which.
async fn revive(client: Client, keys: Keys, renewal: Renewal) -> LeaseId {
    match try_to_revive(&client, &keys, &renewal).await {
        Ok(true) => tracing::info!(replica = %renewal.key, "its lease is kept by etcd again"),
        Ok(false) => {}
        Err(status) => tracing::debug!(replica = %renewal.key, message = status.message(), "no lease"),
    }
    renewal.lease
}

/// Yields whether it did so: not for a replica that is gone, or has another lease, or whose lease somebody else was faster with.
async fn try_to_revive(client: &Client, keys: &Keys, renewal: &Renewal) -> Result<bool, Status> {
    let key = keys.record(&Key::Replica(renewal.key.clone()));
    for _ in 0..TRIES {
        let records = client.range(one(key.clone())).await?.kvs;
        let Some(kv) = records.into_iter().next() else { return Ok(false) };
        let record = entry::decode_record(RecordKind::Replica, &kv.value, kv.mod_revision);
        let record = record.map_err(Status::data_loss)?;
        if !matches!(&record, Item::Replica(record) if record.is_kept_by(renewal.lease)) {
            return Ok(false);
        }
        let grant = Grant::new(renewal.lease, renewal.ttl);
        client.grant(grant.tag.get(), grant.ttl).await?;
        let request = revival(keys, &renewal.key, (key.clone(), kv.mod_revision), grant);
        let response = client.txn(request).await?;
        let succeeded = response.succeeded;
        if succeeded || !found(response).is_empty() {
            return Ok(succeeded);
        }
    }
    Ok(false)
}

/// Has etcd forget leases that nobody needs, for as long as there are any to come.
pub(super) async fn revoke_all(client: Client, mut leases: mpsc::Receiver<LeaseTag>) {
    let mut under_way = JoinSet::new();
    while let Some(tag) = leases.recv().await {
        if under_way.len() == REVOCATIONS {
            under_way.join_next().await;
        }
        let client = client.clone();
        under_way.spawn(async move {
            if let Err(status) = client.revoke(tag.get()).await {
                tracing::debug!(message = status.message(), "a lease ends by itself");
            }
        });
        while under_way.try_join_next().is_some() {}
    }
}

/// Renews one lease, once. Yields whether etcd still keeps it.
pub(super) async fn renew_once(client: &Client, id: i64) -> Result<bool, Status> {
    let live = client.live().await?;
    let (requests, receiver) = mpsc::channel(1);
    // There is room for one.
    let _ = requests.try_send(LeaseKeepAliveRequest { id });
    let answer = open(&live, receiver).await?.message().await?;
    Ok(answer.is_some_and(|answer| answer.ttl > 0))
}
