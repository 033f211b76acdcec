//! All services, in their order and as requests find them: in the same time however many there are.
//!
//! A service that comes or goes costs the others nothing, or next to it: what requests look into is in many parts, of which one is
//! made anew, and the ordered list is changed where it lies, unless somebody is reading it.

use std::{
    collections::{BTreeMap, HashMap},
    hash::BuildHasher,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use arc_swap::ArcSwap;
use foldhash::fast::RandomState;
use gateway_proto::ServiceName;

use super::{HeldService, Services, service::Service};
use crate::handles::Handles;

/// Of 10,000 services each has 40.
const PARTS: usize = 256;

#[derive(Debug)]
pub(super) struct Directory {
    ordered: Mutex<Arc<Services>>,
    /// By some bits of a name's hash.
    parts: Box<[ArcSwap<Part>]>,
    hasher: RandomState,
}

/// Some services as requests find them.
type Part = HashMap<ServiceName, Arc<Entry>, RandomState>;

#[derive(Debug)]
struct Entry {
    service: Arc<Service>,
    handles: Handles<Arc<Service>>,
}

impl Directory {
    pub(super) fn new() -> Self {
        let (empty, hasher) = (Arc::<Part>::default(), RandomState::default());
        let parts = (0..PARTS).map(|_| ArcSwap::new(Arc::clone(&empty))).collect();
        Self { ordered: Mutex::default(), parts, hasher }
    }

    /// The service of that name, if any. Lock-free.
    pub(super) fn get(&self, name: &str) -> Option<Arc<Service>> {
        self.part(name).load().get(name).map(|entry| Arc::clone(&entry.service))
    }

    /// The same for a request of this worker.
    pub(super) fn held_by(&self, worker: usize, name: &str) -> Option<HeldService> {
        self.part(name).load().get(name).map(|entry| entry.held_by(worker))
    }

    /// All of them as they are now.
    pub(super) fn ordered(&self) -> Arc<Services> {
        Arc::clone(&self.lock())
    }

    /// Takes services in, each in the place of who has its name, and others out. To be called by one writer at a time.
    pub(super) fn change(&self, come: Vec<Arc<Service>>, gone: &[&ServiceName]) {
        let mut parts: BTreeMap<usize, Part> = BTreeMap::new();
        let mut part_of = |name: &ServiceName, change: &dyn Fn(&mut Part)| {
            let place = self.place(name.as_str());
            change(parts.entry(place).or_insert_with(|| (**self.parts[place].load()).clone()));
        };
        for service in &come {
            part_of(service.name(), &|part| {
                part.insert(service.name().clone(), Arc::new(Entry::new(service)));
            });
        }
        for name in gone {
            part_of(name, &|part| drop(part.remove(*name)));
        }
        for (place, part) in parts {
            self.parts[place].store(Arc::new(part));
        }
        let mut ordered = self.lock();
        // A copy, if somebody is reading it.
        let ordered = Arc::make_mut(&mut ordered);
        gone.iter().for_each(|name| drop(ordered.remove(*name)));
        ordered.extend(come.into_iter().map(|service| (service.name().clone(), service)));
    }

    fn part(&self, name: &str) -> &ArcSwap<Part> {
        &self.parts[self.place(name)]
    }

    fn place(&self, name: &str) -> usize {
        // Other bits than those by which a part goes itself: the lowest and the highest.
        (self.hasher.hash_one(name) >> 32) as usize % PARTS
    }

    fn lock(&self) -> MutexGuard<'_, Arc<Services>> {
        // Each entry is put in or taken out whole.
        self.ordered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn new(service: &Arc<Service>) -> Self {
        Self { service: Arc::clone(service), handles: Handles::new(service.workers) }
    }

    fn held_by(&self, worker: usize) -> HeldService {
        let handle = self.handles.of(worker, || Arc::clone(&self.service));
        handle.map_or_else(|| Arc::new(Arc::clone(&self.service)), Arc::clone)
    }
}
