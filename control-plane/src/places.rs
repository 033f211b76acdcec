//! A bounded number of places, each held by one stream.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    auth::{Caller, Share},
    refusal::Refusal,
};

/// The places.
#[derive(Debug)]
pub(crate) struct Places {
    free: Arc<Semaphore>,
    limit: usize,
    what: &'static str,
    /// How many each who is known has of those that were taken for somebody.
    held: Arc<Mutex<HashMap<Share, usize>>>,
}

/// One taken place; free again when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    _permit: OwnedSemaphorePermit,
    _holding: Option<Holding>,
}

/// That it is somebody's.
#[derive(Debug)]
struct Holding {
    share: Share,
    held: Arc<Mutex<HashMap<Share, usize>>>,
}

impl Places {
    /// `what` completes "…: N are allowed at once".
    pub(crate) fn new(limit: usize, what: &'static str) -> Self {
        Self { free: Arc::new(Semaphore::new(limit)), limit, what, held: Arc::default() }
    }

    /// One of all.
    fn take(&self) -> Result<Place, Refusal> {
        let permit = Arc::clone(&self.free).try_acquire_owned();
        let permit = permit.map_err(|_| self.refusal(self.limit))?;
        Ok(Place { _permit: permit, _holding: None })
    }

    /// One for somebody: who is known has no more than half of all from one address, so that he alone keeps nobody out.
    pub(crate) fn take_for(&self, caller: &Caller) -> Result<Place, Refusal> {
        self.take_as(caller.share_of_known())
    }

    /// One for somebody who is asked who he is and has not shown it: such have no more than half of all from one address.
    pub(crate) fn take_for_stranger(&self, caller: &Caller) -> Result<Place, Refusal> {
        self.take_as(caller.from().map(|from| Share::of(&"".into(), Some(from))))
    }

    fn take_as(&self, share: Option<Share>) -> Result<Place, Refusal> {
        let place = self.take()?;
        let Some(share) = share else { return Ok(place) };
        let most = self.limit.div_ceil(2);
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let count = held.get(&share).copied().unwrap_or(0);
        if count >= most {
            return Err(self.refusal(most));
        }
        held.insert(share.clone(), count + 1);
        Ok(Place { _holding: Some(Holding { share, held: Arc::clone(&self.held) }), ..place })
    }

    fn refusal(&self, limit: usize) -> Refusal {
        Refusal::Quota { what: self.what, limit }
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = held.get_mut(&self.share) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.share);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_who_is_known_takes_half_of_the_places_and_leaves_the_others_to_others() {
        let places = Places::new(3, "too many");
        let (greedy, modest) = (Caller::known_as("greedy"), Caller::known_as("modest"));
        let first = places.take_for(&greedy).unwrap();
        let _second = places.take_for(&greedy).unwrap();
        assert!(matches!(places.take_for(&greedy), Err(Refusal::Quota { limit: 2, .. })));
        let third = places.take_for(&modest).unwrap();
        assert!(matches!(places.take_for(&modest), Err(Refusal::Quota { limit: 3, .. })), "all are taken");
        drop(third);
        drop(first);
        drop((places.take_for(&greedy).unwrap(), places.take_for(&Caller::anybody(None)).unwrap()));
        assert_eq!(places.held.lock().unwrap().len(), 1);
    }

    #[test]
    fn strangers_at_one_address_take_half_of_the_places_over_whichever_connections() {
        let places = Places::new(3, "too many");
        let at = |from: &str| Caller::anybody(Some(from.parse().unwrap()));
        let take = |from| places.take_for_stranger(&at(from));
        let _held = [take("192.0.2.1:1").unwrap(), take("192.0.2.1:2").unwrap()];
        assert!(matches!(take("192.0.2.1:3"), Err(Refusal::Quota { limit: 2, .. })));
        assert!(take("192.0.2.2:1").is_ok());
    }
}
