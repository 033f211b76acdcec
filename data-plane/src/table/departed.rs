//! Services whose last replica has left a short while ago.
//!
//! Between a process that ends and the one that comes in its place a service of one replica has none, and the registry
//! knows it no more. To its clients it is not unknown all the same: 404 would be final to them, and kept by caches. So for
//! a while it is one that has nobody, with the policy it had, its fallback included.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use gateway_proto::ServiceName;

use super::service::Service;
use crate::routing::Tick;

/// For so long a service is remembered.
pub(super) const REMEMBERED: Duration = Duration::from_secs(600);
/// So many are, the latest ones.
const CAPACITY: usize = 1000;

/// Those services. Written by the table's one writer, read by any.
#[derive(Debug, Default)]
pub(super) struct Departed(ArcSwap<BTreeMap<ServiceName, (Arc<Service>, Tick)>>);

impl Departed {
    /// The service of that name, if it has left a short while before `now`. Lock-free.
    pub(super) fn get(&self, name: &str, now: Tick) -> Option<Arc<Service>> {
        let departed = self.0.load();
        let (service, since) = departed.get(name)?;
        (now.since(*since) < REMEMBERED).then(|| Arc::clone(service))
    }

    /// A service that has replicas again, however long ago it left. It stays here until it leaves anew or is forgotten, so that
    /// nobody finds it in neither place while it returns.
    pub(super) fn returning(&self, name: &ServiceName) -> Option<Arc<Service>> {
        self.0.load().get(name).map(|(service, _)| Arc::clone(service))
    }

    /// Remembers services that leave at `now`, and forgets those that left long before.
    pub(super) fn add(&self, services: Vec<Arc<Service>>, now: Tick) {
        if services.is_empty() {
            return;
        }
        let mut departed = (**self.0.load()).clone();
        departed.retain(|_, (_, since)| now.since(*since) < REMEMBERED);
        departed.extend(services.into_iter().map(|service| (service.name().clone(), (service, now))));
        let over = departed.len().saturating_sub(CAPACITY);
        if over > 0 {
            let mut ages: Vec<_> = departed.iter().map(|(name, (_, since))| (*since, name.clone())).collect();
            ages.sort_unstable();
            ages[..over].iter().for_each(|(_, name)| drop(departed.remove(name)));
        }
        self.0.store(Arc::new(departed));
    }
}
