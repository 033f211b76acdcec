//! The store in an etcd, for any number of control planes at a time.
//!
//! ```text
//!  writer ── commit on the head that he knows ──▶ etcd ──▶ watch ──▶ news ──▶ every other writer
//!  leases ── renewals, over few streams ────────▶ etcd's leases ──▶ watch ──▶ whose time is over
//! ```
//!
//! Each commit is one transaction, made on the commit before it and on no other, so all control planes see one history,
//! whose revisions are etcd's. `keys` says what is where.

mod cause;
mod client;
mod entry;
#[cfg(test)]
mod fake;
mod glance;
mod granted;
mod keeper;
mod keys;
mod location;
mod meta;
mod pace;
mod presence;
mod read;
mod retelling;
#[cfg(test)]
pub(crate) mod simulated;
#[cfg(test)]
mod tests;
mod transaction;
mod watch;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use gateway_proto::etcd::{KeyValue, RangeRequest, TxnResponse, response_op::Response as Answer};
use gateway_runtime::{Shutdown, tls::Standing};
use tokio::{
    sync::mpsc,
    time::{sleep, sleep_until},
};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Status};

pub use self::location::{EtcdFiles, EtcdLocation};
use self::{
    client::{Client, Unseen, told},
    glance::Glance,
    granted::Granted,
    keys::{Keys, Role},
    meta::Meta,
    read::{Content, Unread, read_all},
    retelling::Retelling,
    transaction::{Transaction, creation, expectation, fencing, one, rehearsal},
    watch::{Seen, Watching},
};
use super::{Commit, Fence, Known, LeaseNews, Loaded, News, Peers, Store, StoreError, new_epoch};
use crate::{
    clock,
    leases::{Contact, LeaseTag, Outlet},
    registry::{Mutation, Revision},
};

/// How long etcd may take to be there at the start.
const OPEN_PATIENCE: Duration = Duration::from_secs(10);
const OPEN_PAUSE: Duration = Duration::from_millis(300);
/// How often everything is compared with what etcd holds: on average, and up to half of that more or less.
const AUDIT_INTERVAL: Duration = Duration::from_secs(300);
/// Renewals that wait for a stream.
const RENEWALS: usize = 16 * 1024;
/// Leases that wait to be revoked.
const REVOCATIONS: usize = 16 * 1024;
/// A change that etcd is known to have made is told by then, or the watch does not tell.
const TOLD_WITHIN: Duration = Duration::from_secs(2);
/// A read that takes so long that etcd forgets its revision is begun again so often.
const READS: usize = 3;

/// Records in an etcd.
#[derive(Debug)]
pub struct Etcd {
    client: Client,
    keys: Keys,
    /// `None` until everything has been read, and when that must be done again.
    watching: Option<Watching>,
    /// What was read before the watch told of it.
    retelling: Retelling,
    /// That which was read last.
    cluster: u64,
    /// etcd's revision up to which everything is known, and told but for what is retold.
    seen: Arc<AtomicI64>,
    glances: tokio::sync::watch::Receiver<Glance>,
    /// The last commit that etcd is known to have, if the watch has not told of it, and by when it has to.
    owed: Option<(Revision, Instant)>,
    audit_at: Instant,
    outlet: Outlet,
    granted: Granted,
    /// Where leases are handed in that etcd need not keep any longer.
    revocations: mpsc::Sender<LeaseTag>,
    /// The revision of the fence that we have put there and that keeps out others only; 0: none.
    own_fence: Revision,
    /// That of the one, of somebody else, that the last load has met; 0: none.
    met_fence: Revision,
    peers: Peers,
    known: Arc<tokio::sync::watch::Sender<Known>>,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

impl Etcd {
    /// Finds the store in etcd, or makes it with a new epoch.
    ///
    /// # Errors
    /// [`StoreError`] when etcd is not there within 10 s, when it does not let us in, and when the prefix holds what is
    /// not ours.
    pub async fn open(location: &EtcdLocation, files: &EtcdFiles) -> Result<Self, StoreError> {
        Self::find(location, files, true).await
    }

    /// Finds the store in etcd.
    ///
    /// # Errors
    /// As [`Etcd::open`], and when there is none.
    pub async fn open_existing(location: &EtcdLocation, files: &EtcdFiles) -> Result<Self, StoreError> {
        Self::find(location, files, false).await
    }

    async fn find(location: &EtcdLocation, files: &EtcdFiles, may_make: bool) -> Result<Self, StoreError> {
        let client = Client::new(location, files, Contact::new(clock::now()))?;
        let keys = Keys::new(&location.prefix);
        let until = clock::now() + OPEN_PATIENCE;
        while let Err(status) = found_or_made(&client, &keys, may_make).await? {
            let may_pass = matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded);
            if !may_pass || clock::now() >= until {
                return Err(told(&status, client.user(), &location.prefix));
            }
            sleep(OPEN_PAUSE).await;
        }
        let (outlet, renewals) = Outlet::new(client.contact().clone(), RENEWALS);
        let (own, published) = tokio::sync::watch::channel(None);
        let known = Arc::new(tokio::sync::watch::Sender::new(Known::default()));
        let peers = Peers::new(own, known.subscribe());
        let (seen, (glance, glances)) = (Arc::default(), tokio::sync::watch::channel(Glance::default()));
        let (revocations, revoked) = mpsc::channel(REVOCATIONS);
        let mut tasks = vec![
            tokio::spawn(keeper::revoke_all(client.clone(), revoked)),
            tokio::spawn(keeper::run(client.clone(), keys.clone(), renewals)),
            tokio::spawn(presence::run(client.clone(), keys.clone(), published)),
            tokio::spawn(glance::run(client.clone(), keys.clone(), Arc::clone(&seen), glance)),
        ];
        if let Some(tls) = client.tls() {
            // The task goes with the store.
            tasks.push(tokio::spawn(Arc::clone(tls).follow(Shutdown::new())));
        }
        Ok(Self {
            client,
            keys,
            watching: None,
            retelling: Retelling::default(),
            cluster: 0,
            seen,
            glances,
            owed: None,
            audit_at: next_audit(),
            outlet,
            granted: Granted::default(),
            revocations,
            own_fence: 0,
            met_fence: 0,
            peers,
            known,
            _tasks: tasks.into_iter().map(AbortOnDropHandle::new).collect(),
        })
    }

    /// Whether the store could be opened as it is, without making one.
    ///
    /// # Errors
    /// As [`Etcd::open`].
    pub async fn check(location: &EtcdLocation, files: &EtcdFiles) -> Result<(), StoreError> {
        let client = Client::new(location, files, Contact::new(clock::now()))?;
        let keys = Keys::new(&location.prefix);
        let looked = look(&client, &keys).await?;
        looked.map(drop).map_err(|status| told(&status, client.user(), &location.prefix))
    }

    fn told(&self, status: &Status) -> StoreError {
        told(status, self.client.user(), self.keys.prefix())
    }

    /// Reads everything as of a revision; 0: as of now.
    async fn read(&self, at: Revision) -> Result<Content, Unread> {
        read_all(&self.client, &self.keys, at).await
    }

    async fn read_afresh(&mut self) -> Result<Content, StoreError> {
        for _ in 0..READS {
            match self.read(0).await {
                Ok(content) => return Ok(content),
                Err(unread) if unread.is_compacted() => {}
                Err(Unread::Refused(status)) => return Err(self.told(&status)),
                Err(Unread::Damaged(why)) => return Err(damaged(self.keys.prefix(), &why)),
            }
        }
        Err(StoreError::Unavailable("etcd forgets revisions faster than they can be read".into()))
    }

    /// Reads what was told so far, so that nothing differs but what the watch dropped, and looks whether it has more to tell.
    async fn read_again(&mut self) -> Option<Content> {
        self.watching.as_ref()?;
        let content = self.read(self.seen()).await.ok()?;
        let head = self.client.range(RangeRequest { keys_only: true, ..one(self.keys.head()) }).await.ok()?;
        self.expect(self.head_in(&head.kvs));
        Some(content)
    }

    /// The fence, if it is among these keys.
    fn fence_in<'a>(&self, found: &'a [KeyValue]) -> Option<&'a KeyValue> {
        found.iter().find(|kv| self.keys.role(&kv.key) == Role::Fence)
    }

    fn decode(&self, fence: &KeyValue) -> Result<Fence, StoreError> {
        Fence::decode(&fence.value).map_err(|why| damaged(self.keys.prefix(), &why))
    }

    async fn look_for_a_fence(&mut self) -> Result<(), StoreError> {
        let found = self.client.range(one(self.keys.fence())).await.map_err(|status| self.told(&status))?;
        self.pass(self.fence_in(&found.kvs))
    }

    /// Goes on where our own fence is, or none if we have put none there.
    fn pass(&mut self, found: Option<&KeyValue>) -> Result<(), StoreError> {
        let revision = found.map_or(0, |kv| kv.mod_revision);
        let is_own = revision == self.own_fence;
        let fence = found.filter(|_| !is_own).map(|kv| self.decode(kv)).transpose()?;
        self.met_fence = if is_own { 0 } else { revision };
        match fence {
            Some(fence) => Err(StoreError::Fenced(fence)),
            None if is_own => Ok(()),
            None => Err(StoreError::Unavailable(
                "somebody has taken our fence away, so it may have been changed meanwhile".into(),
            )),
        }
    }

    /// Takes in what a transaction has found that was made on `base`, or past a fence, and on something else than there is.
    fn take_in(&mut self, base: Revision, found: &[KeyValue]) {
        let head = self.head_in(found);
        self.expect(head);
        if head.is_none_or(|head| head != base && head <= self.seen()) {
            // What was told of does not lead there: etcd is not what it was.
            self.watching = None;
        }
        if self.fence_in(found).is_some_and(|kv| kv.mod_revision != self.own_fence) {
            // The next load says what it is.
            self.watching = None;
        }
    }

    /// The revision of the last commit, if it is among these keys.
    fn head_in(&self, found: &[KeyValue]) -> Option<Revision> {
        let mut heads = found.iter().filter(|kv| self.keys.role(&kv.key) == Role::Head);
        heads.next().map(|kv| kv.mod_revision)
    }

    /// Notes that etcd has a commit of this revision: a watch that has fallen silent tells of none, and without it nothing that
    /// is decided here would ever be decided on the last one.
    fn expect(&mut self, head: Option<Revision>) {
        if let Some(head) = head.filter(|head| *head > self.seen() && self.owed.is_none()) {
            self.owed = Some((head, clock::now() + TOLD_WITHIN));
        }
    }

    /// Notes that everything up to a revision is known.
    fn sees(&mut self, revision: Revision) {
        let seen = self.seen.fetch_max(revision, Relaxed).max(revision);
        self.owed = self.owed.filter(|(owed, _)| *owed > seen);
    }

    fn seen(&self) -> Revision {
        self.seen.load(Relaxed)
    }

    /// The leases among these keys.
    fn heard_of(&self, found: Vec<KeyValue>) -> Vec<LeaseNews> {
        let news = found.into_iter().filter_map(|kv| match self.keys.role(&kv.key) {
            Role::Lease(key) => Some(LeaseNews { key, kept: Some(LeaseTag::new(kv.lease)) }),
            _ => None,
        });
        news.collect()
    }
}

impl Store for Etcd {
    async fn load(&mut self) -> Result<Loaded, StoreError> {
        if let Err(error) = self.look_for_a_fence().await {
            self.watching = None;
            return Err(error);
        }
        let (content, owes) = match self.read_again().await {
            Some(content) => (content, false),
            None => {
                self.watching = None;
                let content = self.read_afresh().await?;
                // The watch tells of what comes behind the read, and not of what came between the look before and the read.
                self.pass(content.fence.as_ref())?;
                let (client, keys, peers) = (self.client.clone(), self.keys.clone(), Arc::clone(&self.known));
                self.known.send_replace(Arc::new(content.peers));
                self.watching = Some(Watching::begin(client, keys, content.at + 1, peers));
                // At the start, nothing is: others have told of it.
                match content.cluster == self.cluster && content.at >= self.seen() {
                    true => self.retelling.owe(self.seen(), content.head),
                    false => self.retelling.forget(),
                }
                self.seen.store(content.at, Relaxed);
                (self.cluster, self.owed) = (content.cluster, None);
                // None of those before says anything of this.
                self.glances.mark_unchanged();
                (Content { peers: BTreeMap::new(), ..content }, true)
            }
        };
        self.audit_at = next_audit();
        let Content { head, epoch, items, kept, .. } = content;
        Ok(Loaded { epoch, revision: head, items, kept, owes, followers: None })
    }

    async fn commit(&mut self, base: Revision, group: &[Mutation]) -> Result<Commit, StoreError> {
        let Transaction { request, count, grants } =
            Transaction::new(&self.keys, base, self.own_fence, group);
        let committed = match self.granted.grant(&self.client, &grants).await {
            Ok(()) => self.client.change(request).await,
            Err(status) => Err(Unseen { status, may_be_made: false }),
        };
        match committed {
            Ok(response) if response.succeeded => {
                let revision = response.header.as_ref().map_or(0, |header| header.revision);
                self.sees(revision);
                for over in self.heard_of(found(response)).into_iter().filter_map(|lease| lease.kept) {
                    // One that has no place ends by itself, a time to live later.
                    let _ = self.revocations.try_send(over);
                }
                Ok(Commit::Durable(vec![revision; count]))
            }
            Ok(response) => {
                let found = found(response);
                self.take_in(base, &found);
                Ok(Commit::Overtaken(self.heard_of(found)))
            }
            // A lease has lapsed before its replica was there.
            Err(Unseen { status, .. }) if status.code() == Code::NotFound => {
                self.granted.forget();
                Ok(Commit::Overtaken(Vec::new()))
            }
            Err(Unseen { status, may_be_made }) => Err(match self.told(&status) {
                StoreError::Unavailable(why) if may_be_made => StoreError::Unanswered(why),
                StoreError::Full(why) if may_be_made => StoreError::FullUnanswered(why),
                error => error,
            }),
        }
    }

    async fn is_at(&mut self, base: Revision) -> Result<bool, StoreError> {
        match self.client.compare(expectation(&self.keys, base, self.own_fence)).await {
            Ok(response) => {
                let is_so = response.succeeded;
                if !is_so {
                    self.take_in(base, &found(response));
                }
                Ok(is_so)
            }
            Err(status) => Err(self.told(&status)),
        }
    }

    /// The watch goes on through failures, so it tells what became of a commit: reading a hundred thousand records again would take seconds in
    /// which nobody can change anything.
    async fn resume(&mut self, base: Revision) -> Result<Option<Revision>, StoreError> {
        if self.watching.is_none() {
            return Ok(None);
        }
        let asked = expectation(&self.keys, base, self.own_fence);
        let response = self.client.compare(asked).await.map_err(|status| self.told(&status))?;
        let is_same = response
            .header
            .as_ref()
            .is_some_and(|header| header.cluster_id == self.cluster && header.revision >= self.seen());
        let mut head = Some(base);
        if !is_same {
            self.watching = None;
        } else if !response.succeeded {
            let found = found(response);
            self.take_in(base, &found);
            head = self.head_in(&found);
        }
        Ok(head.filter(|_| self.watching.is_some()))
    }

    async fn news(&mut self) -> News {
        loop {
            let Some(watching) = &mut self.watching else { return News::ReadAgain("nothing is watched") };
            let owed_by = self.owed.map(|(_, by)| by);
            tokio::select! {
                biased;
                seen = watching.next() => match seen {
                    Seen::Changed { revision, groups, leases } => {
                        self.sees(revision);
                        return News::Changed { groups, leases };
                    }
                    Seen::Broken(why) => {
                        self.watching = None;
                        return News::ReadAgain(why);
                    }
                },
                () = sleep_until(owed_by.unwrap_or(self.audit_at).into()), if owed_by.is_some() => {
                    self.watching = None;
                    return News::ReadAgain("the watch has not told of a change");
                }
                () = sleep_until(self.audit_at.into()) => {
                    self.audit_at = next_audit();
                    return News::ReadAgain("it is time to compare");
                }
                news = self.retelling.next(&self.client, &self.keys) => return news,
                Ok(()) = self.glances.changed() => {
                    let glance = *self.glances.borrow_and_update();
                    if glance.has_gone_back || glance.cluster != self.cluster {
                        self.watching = None;
                        return News::ReadAgain("etcd is not what it was");
                    }
                    self.expect(glance.head);
                }
                () = sleep(glance::INTERVAL / 2) => {
                    let silent_for = self.client.contact().silent_for(clock::now());
                    if !self.client.contact().is_fresh(clock::now()) {
                        let why = format!("etcd has given no sign of life for {:.1}s", silent_for.as_secs_f64());
                        return News::Away(StoreError::Unavailable(why));
                    }
                }
            }
        }
    }

    async fn fence(&mut self, fence: Option<Fence>, base: Option<Revision>) -> Result<bool, StoreError> {
        // What others did until then has to be read afresh.
        self.watching = None;
        let known = match (&fence, self.own_fence) {
            // Not one that came in its place since: it may be of a move that has ended.
            (None, 0) => self.met_fence,
            (_, own) => own,
        };
        let request = fencing(&self.keys, fence.as_ref(), known, base);
        let response = self.client.txn(request).await.map_err(|status| self.told(&status))?;
        if response.succeeded {
            let revision = response.header.unwrap_or_default().revision;
            (self.own_fence, self.met_fence) = match fence {
                Some(Fence::Filling { .. } | Fence::Moving { .. }) => (revision, 0),
                // It keeps us out, too, and may be taken away by us as by everybody who has met it.
                Some(Fence::Moved { .. }) => (0, revision),
                None => (0, 0),
            };
            return Ok(true);
        }
        match self.fence_in(&found(response)) {
            Some(other) if other.mod_revision != known => Err(StoreError::Fenced(self.decode(other)?)),
            // There is to be none, and there is none.
            None => Ok(fence.is_none()),
            // Something has become durable.
            Some(_) => Ok(false),
        }
    }

    fn max_group(&self) -> usize {
        transaction::MAX_GROUP
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn outlet(&self) -> Option<Outlet> {
        Some(self.outlet.clone())
    }

    fn certificates(&self) -> Option<Arc<Standing>> {
        self.client.tls().filter(|tls| tls.has_files()).map(|tls| Arc::clone(tls.standing()))
    }

    fn peers(&self) -> Option<Peers> {
        Some(self.peers.clone())
    }
}

/// What a transaction has found.
fn found(response: TxnResponse) -> Vec<KeyValue> {
    let found = response.responses.into_iter().filter_map(|response| match response.response {
        Some(Answer::ResponseRange(range)) => range.kvs.into_iter().next(),
        _ => None,
    });
    found.collect()
}

/// Finds the store, or makes it. The inner error may pass, the outer one does not.
async fn found_or_made(
    client: &Client,
    keys: &Keys,
    may_make: bool,
) -> Result<Result<(), Status>, StoreError> {
    match look(client, keys).await? {
        Ok(true) => Ok(Ok(())),
        Ok(false) if !may_make => {
            Err(StoreError::Unavailable(format!("there is no store below /{}/", keys.prefix())))
        }
        Ok(false) => {
            let meta = Meta::new(new_epoch());
            let head = entry::encode(0, &[]);
            let made = client.txn(creation(vec![(keys.meta(), meta.encode()), (keys.head(), head)])).await;
            // Somebody else may have been faster: then it is there all the same.
            Ok(made.map(drop))
        }
        Err(status) => Ok(Err(status)),
    }
}

/// Whether the store is there: `Ok(Ok(false))`, when nothing is at its place. Also finds out whether it may be written to.
async fn look(client: &Client, keys: &Keys) -> Result<Result<bool, Status>, StoreError> {
    // All of it as of one revision: somebody else may make the store at any moment.
    let found = match client.compare(rehearsal(keys)).await {
        Ok(response) => found(response),
        Err(status) => return Ok(Err(status)),
    };
    if let Some(meta) = found.iter().find(|kv| keys.role(&kv.key) == Role::Meta) {
        Meta::decode(&meta.value).map_err(|why| damaged(keys.prefix(), &why))?;
        return Ok(Ok(true));
    }
    let Some(other) = found.first() else { return Ok(Ok(false)) };
    let other = String::from_utf8_lossy(&other.key);
    Err(damaged(keys.prefix(), &format!("there is {other}, and nothing that says that it is ours")))
}

fn damaged(prefix: &str, why: &str) -> StoreError {
    StoreError::Unusable(format!(
        "the keys below /{prefix}/ are damaged, of a newer control plane, or of no store of this program: {why}; bring this one up to the \
         others' version, name another prefix, or restore a backup"
    ))
}

fn next_audit() -> Instant {
    clock::now() + AUDIT_INTERVAL.mul_f64(0.5 + rand::random::<f64>())
}
