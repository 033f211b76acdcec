//! Renewals on their way to etcd: few streams for all leases, and a new lease where etcd's has lapsed.

use std::{collections::HashMap, sync::Arc, time::Duration};

use gateway_proto::etcd::{LeaseKeepAliveRequest, LeaseKeepAliveResponse, lease_client::LeaseClient};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{
    client::{Client, Live},
    entry,
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
/// Others may change the record meanwhile.
const TRIES: usize = 4;
const MIN_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// Forwards renewals for as long as there are any to come.
pub(super) async fn run(client: Client, keys: Keys, mut renewals: mpsc::Receiver<Renewal>) {
    let revivals = Arc::new(Semaphore::new(REVIVALS));
    let mut streams = JoinSet::new();
    let mut senders = Vec::with_capacity(STREAMS);
    for _ in 0..STREAMS {
        let (sender, receiver) = mpsc::channel(UNANSWERED);
        senders.push(sender);
        let line = Line { client: client.clone(), keys: keys.clone(), revivals: Arc::clone(&revivals) };
        streams.spawn(line.run(receiver));
    }
    while let Some(renewal) = renewals.recv().await {
        let line = usize::try_from(LeaseTag::of(renewal.lease).get()).unwrap_or(0) % STREAMS;
        // A line that is full is one that etcd does not answer: the next renewal comes in a third of a time to live.
        let _ = senders[line].try_send(renewal);
    }
}

/// One stream, begun anew whenever it breaks.
struct Line {
    client: Client,
    keys: Keys,
    revivals: Arc<Semaphore>,
}

impl Line {
    async fn run(self, mut renewals: mpsc::Receiver<Renewal>) {
        let mut pause = MIN_PAUSE;
        let mut reviving = JoinSet::new();
        // No stream without anything to say.
        while let Some(first) = renewals.recv().await {
            let begun = clock::now();
            match self.forward(first, &mut renewals, &mut reviving).await {
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

    async fn forward(
        &self,
        first: Renewal,
        renewals: &mut mpsc::Receiver<Renewal>,
        reviving: &mut JoinSet<()>,
    ) -> Result<(), Status> {
        let live = self.client.live().await?;
        let (requests, receiver) = mpsc::channel(UNANSWERED);
        let mut unanswered = HashMap::new();
        self.ask(&requests, &mut unanswered, first);
        let stalled = || Status::deadline_exceeded("a member leaves renewals without an answer");
        let opened = timeout(STALLED, open(&live, receiver)).await.unwrap_or_else(|_| Err(stalled()));
        let mut answers = opened.inspect_err(|_| self.client.give_up(&live, true))?;
        let mut moved = Instant::now();
        loop {
            tokio::select! {
                renewal = renewals.recv(), if unanswered.len() < UNANSWERED => match renewal {
                    Some(renewal) => {
                        if unanswered.is_empty() {
                            moved = Instant::now();
                        }
                        self.ask(&requests, &mut unanswered, renewal);
                    }
                    None => return Ok(()),
                },
                () = sleep_until(moved + STALLED), if !unanswered.is_empty() => {
                    self.client.give_up(&live, true);
                    return Err(stalled());
                }
                answer = answers.message() => {
                    let answer = answer.inspect_err(|_| self.client.give_up(&live, true))?;
                    let answer = answer.ok_or_else(|| Status::unavailable("etcd ended the stream"))?;
                    self.client.contact().touch(clock::now());
                    moved = Instant::now();
                    let renewal = unanswered.remove(&answer.id);
                    if let Some(renewal) = renewal.filter(|_| answer.ttl <= 0) {
                        self.revive(renewal, reviving);
                    }
                }
                Some(_) = reviving.join_next() => {}
            }
        }
    }

    fn ask(
        &self,
        requests: &mpsc::Sender<LeaseKeepAliveRequest>,
        unanswered: &mut HashMap<i64, Renewal>,
        renewal: Renewal,
    ) {
        let id = LeaseTag::of(renewal.lease).get();
        if requests.try_send(LeaseKeepAliveRequest { id }).is_ok() {
            unanswered.insert(id, renewal);
        }
    }

    /// Has etcd keep a lease again that it let lapse, although its owner was heard of.
    fn revive(&self, renewal: Renewal, reviving: &mut JoinSet<()>) {
        // Without a place for it, the next renewal asks again.
        let Ok(place) = Arc::clone(&self.revivals).try_acquire_owned() else { return };
        let (client, keys) = (self.client.clone(), self.keys.clone());
        reviving.spawn(async move {
            match revive(&client, &keys, &renewal).await {
                Ok(true) => tracing::info!(replica = %renewal.key, "its lease is kept by etcd again"),
                Ok(false) => {}
                Err(status) => {
                    tracing::debug!(replica = %renewal.key, message = status.message(), "no lease")
                }
            }
            drop(place);
        });
    }
}

async fn open(
    live: &Live,
    requests: mpsc::Receiver<LeaseKeepAliveRequest>,
) -> Result<Streaming<LeaseKeepAliveResponse>, Status> {
    let request = live.request(ReceiverStream::new(requests));
    Ok(LeaseClient::new(live.channel.clone()).lease_keep_alive(request).await?.into_inner())
}

/// Yields whether it did so: not for a replica that is gone, or has another lease.
async fn revive(client: &Client, keys: &Keys, renewal: &Renewal) -> Result<bool, Status> {
    let key = keys.record(&Key::Replica(renewal.key.clone()));
    for _ in 0..TRIES {
        let found = client.range(one(key.clone())).await?;
        let Some(kv) = found.kvs.into_iter().next() else { return Ok(false) };
        let record = entry::decode_record(RecordKind::Replica, &kv.value, kv.mod_revision);
        let record = record.map_err(Status::data_loss)?;
        if !matches!(&record, Item::Replica(record) if record.is_kept_by(renewal.lease)) {
            return Ok(false);
        }
        let grant = Grant::new(renewal.lease, renewal.ttl);
        client.grant(grant.tag.get(), grant.ttl).await?;
        let request = revival(keys, &renewal.key, (key.clone(), kv.mod_revision), grant);
        if client.txn(request).await?.succeeded {
            return Ok(true);
        }
    }
    Ok(false)
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
