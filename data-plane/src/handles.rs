//! Who holds what all workers share, counted for each worker by itself.
//!
//! A request keeps its service, its route and its replicas alive by counting itself in and out. Were that one count for all workers, each
//! would wait with every request for a cache line that another has just written. So requests hold handles, of which each
//! worker has its own: whose count it writes alone, and which lives for as long as one of its requests needs it, whatever the
//! table says by then.

use std::sync::{Arc, OnceLock};

/// For each worker a handle of its own to something that they share.
///
/// It is made when its worker asks for it first, and so by that worker's thread: allocators keep what threads allocate apart,
/// and handles of two workers lie on no common cache line without having to fill some by themselves.
#[derive(Debug)]
pub(crate) struct Handles<T>(Box<[OnceLock<Arc<T>>]>);

impl<T> Handles<T> {
    pub(crate) fn new(workers: usize) -> Self {
        Self((0..workers.max(1)).map(|_| OnceLock::new()).collect())
    }

    /// Those of what is a handle itself.
    pub(crate) fn none() -> Self {
        Self(Box::default())
    }

    /// The worker's own, which is what `make` says if there is none yet; `None` where nobody has one. Workers are numbered from
    /// zero.
    #[inline]
    pub(crate) fn of(&self, worker: usize, make: impl FnOnce() -> T) -> Option<&Arc<T>> {
        // As there are, all but in tests: a remainder takes longer than all the rest.
        let own = self.0.get(worker).or_else(|| self.0.get(worker.checked_rem(self.0.len())?))?;
        Some(own.get_or_init(|| Arc::new(make())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_worker_has_one_handle_with_a_count_of_its_own() {
        let (shared, handles) = (Arc::new("it"), Handles::new(2));
        let of = |worker| handles.of(worker, || Arc::clone(&shared)).expect("there is one for each");
        let held = [Arc::clone(of(0)), Arc::clone(of(0)), Arc::clone(of(1))];
        assert_eq!(held.each_ref().map(Arc::strong_count), [3, 3, 2]);
        assert!(Arc::ptr_eq(&held[0], &held[1]) && !Arc::ptr_eq(&held[0], &held[2]));
        assert_eq!(Arc::strong_count(&shared), 3, "however many hold it");
    }

    #[test]
    fn what_is_held_lives_until_the_last_lets_go_also_when_the_handles_are_gone() {
        let handles = Handles::new(1);
        let shared = Arc::new("it");
        let gone = Arc::downgrade(&shared);
        let held = handles.of(0, || Arc::clone(&shared)).map(Arc::clone);
        drop((shared, handles));
        assert!(gone.upgrade().is_some());
        drop(held);
        assert!(gone.upgrade().is_none());
    }

    #[test]
    fn a_handle_has_none_and_a_worker_too_many_shares_another_s() {
        assert_eq!(Handles::none().of(0, || 1), None);
        let handles = Handles::new(2);
        assert_eq!(handles.of(0, || 1).map(|one| **one), Some(1));
        assert_eq!(handles.of(2, || 2).map(|one| **one), Some(1));
    }
}
