//! The last good answers to GETs, for when nobody can give another: what `fallback.stale_max_age` falls back to.
//!
//! It is no cache: as long as a replica answers, replicas are asked. What a shared cache may not keep or not serve stale
//! (RFC 9111, RFC 5861) is not kept, nor what was asked for with credentials: with those that RFC 9111 section 3.5 knows, whatever
//! the replica says, and with what else may say who asks, unless it says that its answer is everybody's. Each worker has its own, bounded in bytes: where
//! there is no room, the service gives way whose answers take most, and of them what was kept first. So no service puts out what
//! another one has, as long as that has less.

mod resources;
mod rules;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashMap},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};

use crate::{
    proxy::head::{
        ResponseHead,
        field_name::{Name, Names},
    },
    routing::Tick,
};

pub(super) use resources::Held;
pub(in crate::proxy) use resources::Resources;
pub(in crate::proxy) use rules::{AGE, Asked, Key, asked};
pub(super) use rules::{Terms, age, forbids, may_keep, resource, withdraws};

/// The longest body that is kept.
const MAX_BODY: usize = 1 << 20;
/// What is said of the request that an answer was given to.
const OF_ONE_REQUEST: Names =
    Names::of(&[Name::ProxyStatus, Name::XGwAttempts, Name::XGwReplica, Name::XRequestId]);
/// What an answer takes beside its bytes, about.
const OVERHEAD: usize = 512;

/// A good answer.
#[derive(Debug)]
pub(in crate::proxy) struct Kept {
    pub(in crate::proxy) head: ResponseHead,
    pub(in crate::proxy) body: Bytes,
    /// When it came.
    at: Tick,
    /// How old it was then.
    age: Duration,
    /// What its replica lets be done with it.
    terms: Terms,
    held: Rc<Held>,
}

impl Kept {
    /// How old it is, the time before it came here included.
    pub(in crate::proxy) fn age(&self, now: Tick) -> Duration {
        self.age.saturating_add(now.since(self.at))
    }

    fn is_usable(&self, asked: &Asked, now: Tick, max_age: Duration) -> bool {
        asked.lets(self.terms)
            && self.age(now) <= max_age.min(self.terms.allowed)
            && !self.held.is_withdrawn()
    }
}

/// Those that one worker keeps.
#[derive(Debug)]
pub(in crate::proxy) struct StaleAnswers {
    limit: usize,
    size: usize,
    /// Of answers on their way that are being copied.
    copying: usize,
    /// With its place in the order.
    by_key: HashMap<Key, (u64, Rc<Kept>)>,
    by_service: HashMap<u64, Shelf>,
    /// Services by what their answers take.
    by_size: BTreeSet<(usize, u64)>,
    next: u64,
    resources: Arc<Resources>,
}

/// What is kept of one service.
#[derive(Debug, Default)]
struct Shelf {
    size: usize,
    order: BTreeMap<u64, Key>,
}

impl StaleAnswers {
    /// Keeps so many bytes at most, beside others that keep answers to the same resources.
    pub(in crate::proxy) fn new(limit: usize, resources: Arc<Resources>) -> Self {
        let (by_key, by_service, by_size) = (HashMap::new(), HashMap::new(), BTreeSet::new());
        Self { limit, size: 0, copying: 0, by_key, by_service, by_size, next: 0, resources }
    }

    /// For a request that began at `since`, and for as long as it is under way: what of its resource is withdrawn meanwhile is void.
    pub(super) fn hold(&self, resource: u64, since: Tick) -> Held {
        self.resources.hold(resource, since)
    }

    /// No answer to this resource that has come by now is to be used any more, whoever keeps it.
    pub(in crate::proxy) fn withdraw(&self, resource: u64, now: Tick) {
        self.resources.withdraw(resource, now);
    }

    /// The last good answer to such a request, if it is no older than that, and than its replica allows.
    pub(in crate::proxy) fn get(&self, asked: &Asked, max_age: Duration, now: Tick) -> Option<Rc<Kept>> {
        let (_, kept) = self.by_key.get(&asked.key)?;
        kept.is_usable(asked, now, max_age).then(|| Rc::clone(kept))
    }

    /// Keeps an answer in place of the one before.
    pub(in crate::proxy) fn put(&mut self, key: Key, kept: Kept) {
        self.remove(&key);
        let size = size(&key, &kept);
        if size > self.limit {
            return;
        }
        let place = self.next;
        self.next += 1;
        self.size += size;
        self.change(key.service, |shelf| {
            shelf.size += size;
            shelf.order.insert(place, key.clone());
        });
        self.by_key.insert(key, (place, Rc::new(kept)));
        while self.size > self.limit {
            let Some(oldest) = self.next_to_go() else { break };
            self.remove(&oldest);
        }
    }

    /// What gives way next.
    fn next_to_go(&self) -> Option<Key> {
        let (_, largest) = self.by_size.last()?;
        let (_, oldest) = self.by_service.get(largest)?.order.first_key_value()?;
        Some(oldest.clone())
    }

    fn change(&mut self, service: u64, change: impl FnOnce(&mut Shelf)) {
        let shelf = self.by_service.entry(service).or_default();
        self.by_size.remove(&(shelf.size, service));
        change(shelf);
        match shelf.order.is_empty() {
            true => _ = self.by_service.remove(&service),
            false => _ = self.by_size.insert((shelf.size, service)),
        }
    }

    /// Takes room for so many more bytes of a copy, if there is any: all copies under way may have as much as all that is kept.
    fn take_room(&mut self, bytes: usize) -> bool {
        let fits = self.copying.saturating_add(bytes) <= self.limit;
        self.copying += if fits { bytes } else { 0 };
        fits
    }

    fn remove(&mut self, key: &Key) {
        if let Some((place, kept)) = self.by_key.remove(key) {
            let size = size(key, &kept);
            self.size -= size;
            self.change(key.service, |shelf| {
                shelf.size -= size;
                shelf.order.remove(&place);
            });
        }
    }
}

fn size(key: &Key, kept: &Kept) -> usize {
    key.request.len() + kept.head.fields.size() + kept.body.len() + OVERHEAD
}

/// An answer on its way to its client, of which a copy is made.
#[derive(Debug)]
pub(in crate::proxy) struct Copying {
    answers: Rc<RefCell<StaleAnswers>>,
    key: Key,
    head: ResponseHead,
    body: BytesMut,
    at: Tick,
    terms: Terms,
    held: Rc<Held>,
    /// What it has taken of the room for copies.
    room: usize,
}

impl Copying {
    /// Begins to copy an answer that came at `now`, whose body is to have `length` bytes, if that is known. `None` when it
    /// [may not be kept](may_keep), may be somebody's own, or is too long. What happened to its resource since its request `began` makes it
    /// void: nobody knows what the replica had seen by then.
    pub(in crate::proxy) fn begin(
        answers: &Rc<RefCell<StaleAnswers>>,
        asked: Asked,
        head: &ResponseHead,
        length: Option<u64>,
        began: Tick,
        now: Tick,
    ) -> Option<Self> {
        let terms = may_keep(head).filter(|terms| asked.lets(*terms))?;
        let length = usize::try_from(length.unwrap_or(0)).ok().filter(|length| *length <= MAX_BODY)?;
        if !answers.borrow_mut().take_room(length) {
            return None;
        }
        let held = Rc::new(answers.borrow().resources.hold(asked.key.resource, began));
        let (answers, body) = (Rc::clone(answers), BytesMut::with_capacity(length));
        let mut head = head.clone();
        head.fields.remove(OF_ONE_REQUEST);
        Some(Self { answers, key: asked.key, head, body, at: now, terms, held, room: length })
    }

    /// More of its body. False when it has more than it should, or there is no room for it.
    pub(in crate::proxy) fn push(&mut self, bytes: &[u8]) -> bool {
        let length = self.body.len() + bytes.len();
        let missing = length.saturating_sub(self.room);
        if length > MAX_BODY || missing > 0 && !self.answers.borrow_mut().take_room(missing) {
            return false;
        }
        self.room += missing;
        self.body.extend_from_slice(bytes);
        true
    }

    /// It has come to its end.
    pub(in crate::proxy) fn end(self) {
        // A copy of its own length: what grew by and by has room to spare.
        let (body, head) = (Bytes::copy_from_slice(&self.body), self.head.clone());
        let (terms, held) = (self.terms, Rc::clone(&self.held));
        let kept = Kept { age: age(&head.fields), head, body, at: self.at, terms, held };
        self.answers.borrow_mut().put(self.key.clone(), kept);
    }
}

impl Drop for Copying {
    fn drop(&mut self) {
        self.answers.borrow_mut().copying -= self.room;
    }
}

#[cfg(test)]
mod tests;
