//! Services whose last replica has left a short while ago.
//!
//! Between a process that ends and the one that comes in its place a service of one replica has none, and the registry
//! knows it no more. To its clients it is not unknown all the same: 404 would be final to them, and kept by caches. So for
//! a while it is one that has nobody, with the policy it had, its fallback included, and for as long as that says that answers may be
//! old.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use gateway_proto::ServiceName;

use super::service::Service;
use crate::routing::Tick;

/// For so long a service is remembered that has nothing to answer with.
pub(super) const REMEMBERED: Duration = Duration::from_secs(600);
/// ... and one whose policy has an answer to every request: somebody has seen to it that nobody gets none. As long as its last good
/// answers may be kept at the most.
pub(super) const WITH_AN_ANSWER: Duration = Duration::from_secs(24 * 3600);
/// So many are: those that are to be forgotten last.
const CAPACITY: usize = 1000;

/// Those services, each with the time from which it is forgotten. Written by the table's one writer, read by any.
#[derive(Debug, Default)]
pub(super) struct Departed(ArcSwap<BTreeMap<ServiceName, (Arc<Service>, Tick)>>);

impl Departed {
    /// The service of that name, if it has left a while before `now`, and is remembered. Lock-free.
    ///
    /// One that has replicas again stays here until it leaves anew or is forgotten, so that nobody finds it in neither place
    /// while it returns. Whoever comes under its name after that is somebody else, with nothing of what it had.
    pub(super) fn get(&self, name: &str, now: Tick) -> Option<Arc<Service>> {
        let departed = self.0.load();
        let (service, until) = departed.get(name)?;
        (now < *until).then(|| Arc::clone(service))
    }

    /// Remembers services that leave at `now`, and forgets those that left long before.
    pub(super) fn add(&self, services: Vec<Arc<Service>>, now: Tick) {
        if services.is_empty() {
            return;
        }
        let mut departed = (**self.0.load()).clone();
        departed.retain(|_, (_, until)| now < *until);
        departed.extend(services.into_iter().map(|service| {
            let until = now.plus(remembered(&service));
            (service.name().clone(), (service, until))
        }));
        let over = departed.len().saturating_sub(CAPACITY);
        if over > 0 {
            let mut ends: Vec<_> = departed.iter().map(|(name, (_, until))| (*until, name.clone())).collect();
            ends.sort_unstable();
            ends[..over].iter().for_each(|(_, name)| drop(departed.remove(name)));
        }
        self.0.store(Arc::new(departed));
    }
}

/// For how long a service is remembered, by what its policy has for requests that nobody answers.
fn remembered(service: &Service) -> Duration {
    let fallback = service.policy().fallback;
    match fallback.answers_all() {
        true => WITH_AN_ANSWER,
        false => REMEMBERED.max(fallback.stale_max_age),
    }
}
