//! What several workers keep of the same resource: what one of them hears of it, that it was changed or is not to be had any more,
//! holds for the answers of all (RFC 9111, section 4.4).

use std::sync::{
    Arc,
    atomic::{
        AtomicU64,
        Ordering::{Acquire, Release},
    },
};

use dashmap::{DashMap, Entry};

use crate::routing::Tick;

/// The resources of which anybody keeps an answer, or has asked for one, by a hash of service, host and target. Of two with the same hash
/// each is withdrawn with the other.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Resources(DashMap<u64, Resource>);

#[derive(Debug)]
struct Resource {
    /// Answers that are kept, or copied, and requests under way.
    held: usize,
    /// When it was withdrawn last, since somebody holds one: a nanosecond more than the tick; zero: not at all.
    withdrawn: AtomicU64,
}

impl Resources {
    /// For an answer that came, or was asked for, at `since`, for as long as it is kept.
    pub(super) fn hold(self: &Arc<Self>, resource: u64, since: Tick) -> Held {
        self.0.entry(resource).or_insert(Resource { held: 0, withdrawn: AtomicU64::new(0) }).held += 1;
        Held { resources: Arc::clone(self), resource, since }
    }

    /// Answers to it that came until now are not to be used any more, whoever keeps them.
    pub(super) fn withdraw(&self, resource: u64, now: Tick) {
        if let Some(resource) = self.0.get(&resource) {
            resource.withdrawn.fetch_max(now.as_nanos().saturating_add(1), Release);
        }
    }
}

/// That an answer to a resource is kept, or waited for.
#[derive(Debug)]
pub(in crate::proxy) struct Held {
    resources: Arc<Resources>,
    resource: u64,
    since: Tick,
}

impl Held {
    pub(super) fn is_withdrawn(&self) -> bool {
        let resource = self.resources.0.get(&self.resource);
        resource.is_some_and(|resource| resource.withdrawn.load(Acquire) > self.since.as_nanos())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Entry::Occupied(mut resource) = self.resources.0.entry(self.resource) {
            resource.get_mut().held -= 1;
            if resource.get().held == 0 {
                resource.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn after(seconds: u64) -> Tick {
        Tick::ORIGIN.plus(Duration::from_secs(seconds))
    }

    #[test]
    fn what_came_before_a_resource_was_withdrawn_is_void_and_what_came_after_is_not() {
        let resources = Arc::default();
        let (old, other) =
            (Resources::hold(&resources, 1, after(1)), Resources::hold(&resources, 2, after(1)));
        resources.withdraw(1, after(2));
        let new = Resources::hold(&resources, 1, after(3));
        assert!(old.is_withdrawn() && !new.is_withdrawn() && !other.is_withdrawn());
        resources.withdraw(1, after(3));
        assert!(new.is_withdrawn(), "nobody knows which was first");
    }

    #[test]
    fn nothing_is_left_of_a_resource_that_nobody_holds() {
        let resources = Arc::default();
        let held = [Resources::hold(&resources, 1, after(1)), Resources::hold(&resources, 1, after(2))];
        resources.withdraw(1, after(3));
        resources.withdraw(7, after(3));
        assert_eq!(resources.0.len(), 1);
        drop(held);
        assert!(resources.0.is_empty());
        assert!(!Resources::hold(&resources, 1, after(1)).is_withdrawn());
    }
}
