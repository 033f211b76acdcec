//! Everything that etcd holds of ours, as of one revision.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Mutex, PoisonError},
};

use gateway_proto::{
    LeaseId, ReplicaKey,
    etcd::{KeyValue, RangeRequest, RangeResponse},
};
use tonic::{Code, Status};

use super::{
    client::Client,
    entry,
    keys::{Keys, Role},
    meta::Meta,
    transaction::one,
};
use crate::{
    leases::LeaseTag,
    registry::{Item, Revision},
};

/// Keys asked for at first, and then as many as had made some megabytes: for each page etcd counts all keys behind it, so many small ones
/// take time with the square of what there is, and a large one has to come in the time that an answer has.
const FIRST_PAGE: usize = 1000;
const LARGEST_PAGE: usize = 16 * 1024;
const PAGE_BYTES: usize = 4 * 1024 * 1024;
/// What a page may be larger than the one before: what is in it may be, too.
const GROWTH: usize = 4;

/// Why it could not be read.
#[derive(Debug)]
pub(super) enum Unread {
    /// etcd did not answer, or has forgotten the revision.
    Refused(Status),
    /// What is there is not what we write.
    Damaged(String),
}

impl Unread {
    /// Whether etcd has forgotten the revision.
    pub(super) fn is_compacted(&self) -> bool {
        matches!(self, Self::Refused(status) if status.code() == Code::OutOfRange)
    }
}

/// What was read.
#[derive(Debug)]
pub(super) struct Content {
    /// etcd's revision then.
    pub(super) at: Revision,
    /// The revision of the last commit.
    pub(super) head: Revision,
    pub(super) cluster: u64,
    pub(super) epoch: String,
    pub(super) fence: Option<KeyValue>,
    pub(super) items: Vec<Item>,
    pub(super) kept: HashSet<LeaseId>,
    pub(super) peers: BTreeMap<String, String>,
}

/// Reads everything as of `at`; 0: as of now. Leases, which are half of all keys, and records side by side.
pub(super) async fn read_all(client: &Client, keys: &Keys, at: Revision) -> Result<Content, Unread> {
    let head = RangeRequest { keys_only: true, revision: at, ..one(keys.head()) };
    let header = client.range(head).await.map_err(Unread::Refused)?.header.unwrap_or_default();
    let at = if at == 0 { header.revision } else { at };
    let reader = Mutex::new(Reader { at, ..Reader::default() });
    let ((first, end), (_, middle)) = (keys.all(), keys.live());
    let half = |from, to| read_range(client, keys, at, from, to, &reader);
    tokio::try_join!(half(first, middle.clone()), half(middle, end))?;
    let reader = reader.into_inner().unwrap_or_else(PoisonError::into_inner);
    reader.finish(header.cluster_id).map_err(Unread::Damaged)
}

/// Reads what is between two keys.
async fn read_range(
    client: &Client,
    keys: &Keys,
    at: Revision,
    mut key: Vec<u8>,
    range_end: Vec<u8>,
    reader: &Mutex<Reader>,
) -> Result<(), Unread> {
    let mut page = FIRST_PAGE;
    loop {
        let request = RangeRequest {
            key: key.clone(),
            range_end: range_end.clone(),
            limit: i64::try_from(page).unwrap_or(i64::MAX),
            revision: at,
            ..RangeRequest::default()
        };
        let RangeResponse { kvs, more, .. } = client.range(request).await.map_err(Unread::Refused)?;
        if let Some(last) = kvs.last() {
            key.clone_from(&last.key);
            key.push(0);
        }
        page = next_page(page, &kvs);
        let mut reader = reader.lock().unwrap_or_else(PoisonError::into_inner);
        for kv in kvs {
            reader.take(keys, kv).map_err(Unread::Damaged)?;
        }
        if !more {
            return Ok(());
        }
    }
}

/// How many keys to ask for after a page of so many, which had these.
fn next_page(page: usize, kvs: &[KeyValue]) -> usize {
    let bytes: usize = kvs.iter().map(|kv| kv.key.len() + kv.value.len()).sum();
    let wanted = PAGE_BYTES / (bytes / kvs.len().max(1)).max(1);
    wanted.clamp(FIRST_PAGE, LARGEST_PAGE).min(page * GROWTH)
}

#[derive(Default)]
struct Reader {
    at: Revision,
    head: Revision,
    meta: Option<Meta>,
    fence: Option<KeyValue>,
    items: Vec<Item>,
    tags: BTreeMap<ReplicaKey, LeaseTag>,
    peers: BTreeMap<String, String>,
}

impl Reader {
    fn take(&mut self, keys: &Keys, kv: KeyValue) -> Result<(), String> {
        let name = || String::from_utf8_lossy(&kv.key).into_owned();
        match keys.role(&kv.key) {
            Role::Meta => self.meta = Some(Meta::decode(&kv.value)?),
            Role::Head => self.head = kv.mod_revision,
            Role::Lease(key) => {
                self.tags.insert(key, LeaseTag::new(kv.lease));
            }
            Role::Peer(node) => {
                self.peers.insert(node, String::from_utf8_lossy(&kv.value).into_owned());
            }
            Role::Record(kind) => {
                let item = entry::decode_record(kind, &kv.value, kv.mod_revision);
                self.items.push(item.map_err(|why| format!("the record {}: {why}", name()))?);
            }
            Role::Fence => self.fence = Some(kv.clone()),
            Role::Unknown => {
                tracing::warn!(key = name(), "a key among ours is none of ours: it is left alone")
            }
        }
        Ok(())
    }

    fn finish(self, cluster: u64) -> Result<Content, String> {
        let Self { at, head, meta, fence, items, tags, peers } = self;
        let meta = meta.ok_or("it does not say what it is")?;
        if head == 0 {
            return Err("it has no head".into());
        }
        let kept = items.iter().filter_map(Item::as_replica).filter_map(|record| {
            let lease = record.lease?.id;
            (tags.get(&record.key) == Some(&LeaseTag::of(lease))).then_some(lease)
        });
        let kept = kept.collect();
        Ok(Content { at, head, cluster, epoch: meta.epoch_in(cluster), fence, items, kept, peers })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page_of(count: usize, bytes: usize) -> Vec<KeyValue> {
        vec![KeyValue { value: vec![0; bytes], ..KeyValue::default() }; count]
    }

    #[test]
    fn pages_grow_to_some_megabytes_and_no_further() {
        let sizes = |bytes| {
            let next = |page: &usize| Some(next_page(*page, &page_of(100, bytes)));
            std::iter::successors(Some(FIRST_PAGE), next).take(5).collect::<Vec<_>>()
        };
        assert_eq!(sizes(60), [1000, 4000, 16_000, 16_384, 16_384]);
        assert_eq!(sizes(1024), [1000, 4000, 4096, 4096, 4096]);
        // The largest replica that there is makes a page of 8 MB.
        assert_eq!(sizes(8192), [1000; 5]);
        assert_eq!(next_page(LARGEST_PAGE, &page_of(100, 8192)), FIRST_PAGE);
        assert_eq!(next_page(FIRST_PAGE, &[]), 4000);
    }
}
