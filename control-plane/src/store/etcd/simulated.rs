//! What etcd is to several writers, in memory and on a clock that tests turn: commits on the head that was known, one
//! history for all, leases that lapse, news that come late, get lost or break off, and answers that do not come.
//!
//! Commits take the way of the bytes, so that what others learn of them is what etcd would tell.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use gateway_proto::ReplicaKey;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::task::AbortOnDropHandle;

use super::entry;
use crate::{
    clock,
    leases::{Contact, LeaseTag, Outlet, Renewal},
    registry::{Cause, Committed, Item, Key, Mutation, Revision, Write},
    store::{Commit, LeaseNews, Loaded, News, Store, StoreError},
};

const MS: Duration = Duration::from_millis(1);
/// As etcd's, but for tests that are short.
const AUDIT_INTERVAL: Duration = Duration::from_secs(5);

/// All that the control planes share. Clones are the same.
#[derive(Clone)]
pub(crate) struct Cluster(Arc<Shared>);

struct Shared {
    kept: Mutex<Kept>,
    /// Grows with the history.
    told: watch::Sender<usize>,
}

struct Kept {
    random: StdRng,
    revision: Revision,
    head: Revision,
    items: BTreeMap<Key, Item>,
    leases: HashMap<ReplicaKey, (LeaseTag, Instant)>,
    history: Vec<Told>,
    is_calm: bool,
}

#[derive(Clone)]
enum Told {
    /// What has one revision is told at once.
    Commit {
        revision: Revision,
        bytes: Vec<u8>,
        leases: Vec<LeaseNews>,
    },
    Lease(LeaseNews),
}

impl Told {
    fn commit(&self) -> Option<(Revision, Vec<Committed>)> {
        match self {
            Self::Commit { revision, bytes, .. } => Some(entry::decode(bytes, *revision).unwrap()),
            Self::Lease(_) => None,
        }
    }
}

/// One control plane's way to it.
pub(crate) struct Member {
    cluster: Cluster,
    outlet: Outlet,
    contact: Contact,
    next: Option<usize>,
    /// The last commit that is known.
    seen: Revision,
    /// Commits that were read before anybody told of them.
    untold: VecDeque<(Revision, Vec<Committed>)>,
    told: watch::Receiver<usize>,
    audit_at: Instant,
    _renewing: AbortOnDropHandle<()>,
}

impl Cluster {
    /// An empty one, of whose troubles the seed decides.
    pub(crate) fn new(seed: u64) -> Self {
        let kept = Kept {
            random: StdRng::seed_from_u64(seed),
            revision: 1,
            head: 1,
            items: BTreeMap::new(),
            leases: HashMap::new(),
            history: Vec::new(),
            is_calm: false,
        };
        Self(Arc::new(Shared { kept: Mutex::new(kept), told: watch::Sender::new(0) }))
    }

    fn with<T>(&self, act: impl FnOnce(&mut Kept) -> T) -> T {
        let mut kept = self.0.kept.lock().unwrap();
        let result = act(&mut kept);
        self.0
            .told
            .send_if_modified(|told| std::mem::replace(told, kept.history.len()) != kept.history.len());
        result
    }

    /// No more troubles.
    pub(crate) fn calm(&self) {
        self.with(|kept| kept.is_calm = true);
    }

    /// Everything that it holds, and its revision.
    pub(crate) fn content(&self) -> (Revision, Vec<Item>) {
        self.with(|kept| (kept.head, kept.items.values().cloned().collect()))
    }

    /// Every commit in order.
    pub(crate) fn commits(&self) -> Vec<(Revision, Vec<Committed>)> {
        let history = self.with(|kept| kept.history.clone());
        history.iter().filter_map(Told::commit).collect()
    }

    /// A control plane joins.
    pub(crate) fn join(&self) -> Member {
        let contact = Contact::new(clock::now());
        let (outlet, renewals) = Outlet::new(contact.clone(), 1000);
        let renewing = tokio::spawn(renew(self.clone(), contact.clone(), renewals));
        Member {
            cluster: self.clone(),
            outlet,
            contact,
            next: None,
            seen: 0,
            untold: VecDeque::new(),
            told: self.0.told.subscribe(),
            audit_at: Instant::now() + AUDIT_INTERVAL,
            _renewing: AbortOnDropHandle::new(renewing),
        }
    }

    /// Lets leases lapse, for ever.
    pub(crate) async fn lapse(self) {
        loop {
            sleep(100 * MS).await;
            self.with(|kept| {
                let now = Instant::now();
                let lapsed = kept.leases.iter().filter(|(_, (_, until))| *until <= now);
                let mut lapsed: Vec<_> = lapsed.map(|(key, _)| key.clone()).collect();
                lapsed.sort();
                for key in lapsed {
                    let news = kept.drop_lease(&key);
                    news.into_iter().for_each(|news| kept.tell(news));
                }
            });
        }
    }

    async fn delay(&self) {
        let delay = self.with(|kept| MS.mul_f64(kept.random.random_range(0.1..8.0)));
        sleep(delay).await;
    }

    fn happens(&self, chance: f64) -> bool {
        self.with(|kept| !kept.is_calm && kept.random.random_bool(chance))
    }
}

impl Kept {
    fn keep_lease(&mut self, key: &ReplicaKey, tag: LeaseTag, ttl: Duration) -> LeaseNews {
        self.leases.insert(key.clone(), (tag, Instant::now() + ttl));
        LeaseNews { key: key.clone(), kept: Some(tag) }
    }

    fn drop_lease(&mut self, key: &ReplicaKey) -> Option<LeaseNews> {
        self.leases.remove(key).map(|_| LeaseNews { key: key.clone(), kept: None })
    }

    fn tell(&mut self, news: LeaseNews) {
        self.revision += 1;
        self.history.push(Told::Lease(news));
    }

    fn commit(&mut self, base: Revision, group: &[Mutation]) -> Commit {
        let count = self.random.random_range(1..=group.len());
        let group = &group[..count];
        let silent = group
            .iter()
            .flat_map(Mutation::writes)
            .filter(|write| matches!(write.cause, Cause::Expired { .. } | Cause::Superseded { .. }));
        let heard_of = silent.filter_map(|write| write.key.as_replica()).filter_map(|key| {
            let (tag, _) = self.leases.get(key)?;
            Some(LeaseNews { key: key.clone(), kept: Some(*tag) })
        });
        let heard_of: Vec<_> = heard_of.collect();
        if base != self.head || !heard_of.is_empty() {
            return Commit::Overtaken(heard_of);
        }
        let mut leases = Vec::new();
        self.revision += self.random.random_range(1..4);
        let revision = self.revision;
        for write in group.iter().flat_map(Mutation::writes) {
            match &write.write {
                Write::Put(item) => {
                    assert_eq!(write.expected, self.items.get(&write.key).map(revision_of), "{write:?}");
                    self.items.insert(write.key.clone(), item.clone().at(revision));
                }
                Write::Remove => {
                    let gone = self.items.remove(&write.key);
                    assert_eq!(write.expected, gone.as_ref().map(revision_of), "{write:?}");
                }
            }
            let Some(key) = write.key.as_replica() else { continue };
            let begins = matches!(write.cause, Cause::Registered | Cause::Replaced { .. });
            let lease = write.record().and_then(|record| record.lease);
            match lease.filter(|_| begins) {
                Some(lease) => leases.push(self.keep_lease(key, LeaseTag::of(lease.id), lease.ttl())),
                None if begins || write.write == Write::Remove => leases.extend(self.drop_lease(key)),
                None => {}
            }
        }
        let bytes = entry::encode(self.head, group);
        self.head = revision;
        self.history.push(Told::Commit { revision, bytes, leases });
        Commit::Durable(vec![revision; count])
    }
}

fn revision_of(item: &Item) -> Revision {
    match item {
        Item::Replica(record) => record.revision,
        Item::Policy(policy) => policy.revision,
        Item::Override(entry) => entry.revision,
        Item::Route(stored) => stored.revision,
    }
}

/// As etcd's leases are renewed, and begun anew.
async fn renew(cluster: Cluster, contact: Contact, mut renewals: mpsc::Receiver<Renewal>) {
    while let Some(Renewal { key, lease, ttl, .. }) = renewals.recv().await {
        cluster.delay().await;
        if cluster.happens(0.02) {
            continue;
        }
        contact.touch(clock::now());
        cluster.with(|kept| {
            let tag = LeaseTag::of(lease);
            match kept.leases.get_mut(&key) {
                Some((known, until)) if *known == tag => *until = Instant::now() + ttl,
                Some(_) => {}
                None => {
                    let item = kept.items.get(&Key::Replica(key.clone())).and_then(Item::as_replica);
                    if item.is_some_and(|record| record.is_kept_by(lease)) {
                        let news = kept.keep_lease(&key, tag, ttl);
                        kept.tell(news);
                    }
                }
            }
        });
    }
}

impl Store for Member {
    async fn load(&mut self) -> Result<Loaded, StoreError> {
        self.cluster.delay().await;
        if self.cluster.happens(0.2) {
            return Err(StoreError::Unavailable("injected".into()));
        }
        self.contact.touch(clock::now());
        let (next, seen) = (self.next, self.seen);
        let (loaded, next, untold) = self.cluster.with(|kept| {
            let records = kept.items.values().filter_map(Item::as_replica);
            let leases = records.filter_map(|record| {
                let lease = record.lease?.id;
                let known = kept.leases.get(&record.key).map(|(tag, _)| *tag);
                (known == Some(LeaseTag::of(lease))).then_some(lease)
            });
            let items = kept.items.values().cloned().collect();
            let loaded = Loaded {
                epoch: "e".into(),
                revision: kept.head,
                items,
                kept: leases.collect::<HashSet<_>>(),
                owes: true,
                followers: None,
            };
            let untold: Vec<_> = next.map_or_else(Vec::new, |next| {
                let commits = kept.history[next..].iter().filter_map(Told::commit);
                commits.filter(|(_, committed)| committed[0].revision > seen).collect()
            });
            (loaded, kept.history.len(), untold)
        });
        self.untold.extend(untold);
        (self.next, self.seen) = (Some(next), loaded.revision);
        Ok(loaded)
    }

    async fn commit(&mut self, base: Revision, group: &[Mutation]) -> Result<Commit, StoreError> {
        self.cluster.delay().await;
        let failed = Err(StoreError::Unavailable("injected".into()));
        if self.cluster.happens(0.02) {
            return failed;
        }
        let outcome = self.cluster.with(|kept| kept.commit(base, group));
        self.cluster.delay().await;
        if self.cluster.happens(0.02) {
            return Err(StoreError::Unanswered("injected".into()));
        }
        self.contact.touch(clock::now());
        if let Commit::Durable(revisions) = &outcome {
            self.seen = revisions.last().copied().unwrap_or(self.seen);
        }
        Ok(outcome)
    }

    async fn is_at(&mut self, base: Revision) -> Result<bool, StoreError> {
        self.cluster.delay().await;
        self.contact.touch(clock::now());
        Ok(self.cluster.with(|kept| kept.head) == base)
    }

    async fn resume(&mut self, _base: Revision) -> Result<Option<Revision>, StoreError> {
        self.cluster.delay().await;
        if self.cluster.happens(0.2) {
            return Err(StoreError::Unavailable("injected".into()));
        }
        self.contact.touch(clock::now());
        let tells = self.next.is_some() && !self.cluster.happens(0.3);
        Ok(tells.then(|| self.cluster.with(|kept| kept.head)))
    }

    async fn news(&mut self) -> News {
        let Some(next) = self.next else { return std::future::pending().await };
        // Before what is new, or behind it.
        if self.cluster.happens(0.5)
            && let Some((_, committed)) = self.untold.pop_front()
        {
            return News::Retold(committed);
        }
        tokio::select! {
            told = self.told.wait_for(|told| *told > next) => drop(told.unwrap()),
            () = sleep_until(self.audit_at) => {
                self.audit_at = Instant::now() + AUDIT_INTERVAL;
                return News::ReadAgain("it is time to compare");
            }
        }
        self.cluster.delay().await;
        self.contact.touch(clock::now());
        if self.cluster.happens(0.02) {
            return News::ReadAgain("injected");
        }
        if self.cluster.happens(0.01) {
            return News::Away(StoreError::Unavailable("injected".into()));
        }
        let is_lost = self.cluster.happens(0.02);
        let (mut groups, mut leases) = (Vec::new(), Vec::new());
        self.cluster.with(|kept| {
            let count = kept.random.random_range(1..=kept.history.len() - next);
            for told in &kept.history[next..next + count] {
                match told {
                    Told::Commit { revision, leases: of_commit, .. } => {
                        groups.extend(told.commit());
                        leases.extend(of_commit.iter().cloned());
                        self.seen = self.seen.max(*revision);
                    }
                    Told::Lease(news) => leases.push(news.clone()),
                }
            }
            self.next = Some(next + count);
        });
        if is_lost {
            groups.pop();
        }
        News::Changed { groups, leases }
    }

    fn max_group(&self) -> usize {
        8
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn outlet(&self) -> Option<Outlet> {
        Some(self.outlet.clone())
    }
}
