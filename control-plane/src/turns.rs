//! How many changes of one caller may wait for the writer at once: further ones wait outside of its queue, where they hold
//! nobody up. Without that, whoever asks for thousands at a time would have everybody else wait behind all of them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::auth::{PLACES, Share};

/// Callers that are remembered before it is looked which of them still ask for something.
const REMEMBERED: usize = 1024;

/// The turns of all callers.
#[derive(Debug)]
pub(crate) struct Turns {
    /// Of each at one place.
    share: usize,
    callers: Mutex<Callers>,
}

#[derive(Debug)]
struct Callers {
    known: HashMap<Share, Weak<Semaphore>>,
    /// From this many on, those who ask for nothing are forgotten.
    forget_at: usize,
}

/// A caller's right to have changes wait, which ends when the last copy of this is dropped: it goes along with the changes, because
/// who hangs up does not take them back. The default is what is this process's own.
#[derive(Debug, Clone, Default)]
pub(crate) struct Turn {
    _permits: Option<Arc<(OwnedSemaphorePermit, Option<OwnedSemaphorePermit>)>>,
}

impl Turns {
    /// So many at once for each caller at one place.
    pub(crate) fn new(share: usize) -> Self {
        let callers = Callers { known: HashMap::new(), forget_at: REMEMBERED };
        Self { share, callers: Mutex::new(callers) }
    }

    /// Waits for the turn of `count` changes of this caller; what is this process's own has no need to. Cancel safe.
    pub(crate) async fn take(&self, caller: Option<&Share>, count: usize) -> Turn {
        let Some(caller) = caller else { return Turn::default() };
        let count = u32::try_from(count.min(self.share)).unwrap_or(u32::MAX);
        let take = |turns: Arc<Semaphore>| async {
            turns.acquire_many_owned(count).await.expect("the semaphore is never closed")
        };
        // In this order: who waits for those at his place holds up nobody at another.
        let here = take(self.of(caller, 1)).await;
        let everywhere = match caller.everywhere() {
            everywhere if everywhere == *caller => None,
            everywhere => Some(take(self.of(&everywhere, PLACES as usize)).await),
        };
        Turn { _permits: Some(Arc::new((here, everywhere))) }
    }

    /// The turns of a caller at so many places.
    fn of(&self, caller: &Share, places: usize) -> Arc<Semaphore> {
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turns) = callers.known.get(caller).and_then(Weak::upgrade) {
            return turns;
        }
        if callers.known.len() >= callers.forget_at {
            callers.known.retain(|_, turns| turns.strong_count() > 0);
            callers.forget_at = (2 * callers.known.len()).max(REMEMBERED);
        }
        let turns = Arc::new(Semaphore::new(places * self.share));
        callers.known.insert(caller.clone(), Arc::downgrade(&turns));
        turns
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;
    use crate::listeners::Whence;

    fn name(text: &str) -> Option<Share> {
        Some(Share::of(&text.into(), None))
    }

    async fn waits(turns: &Turns, caller: Option<Share>) -> bool {
        timeout(Duration::from_secs(1), turns.take(caller.as_ref(), 1)).await.is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_has_many_changes_waiting_waits_with_the_next_and_nobody_else_does() {
        let turns = Turns::new(3);
        let greedy = name("greedy");
        let (first, second) = (turns.take(greedy.as_ref(), 2).await, turns.take(greedy.as_ref(), 1).await);
        assert!(waits(&turns, greedy.clone()).await);
        assert!(!waits(&turns, name("modest")).await && !waits(&turns, None).await);
        drop(second);
        assert!(!waits(&turns, greedy.clone()).await);
        drop(first);
        // More than there ever are is all that there are.
        drop(timeout(Duration::from_secs(1), turns.take(greedy.as_ref(), 99)).await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn one_identity_has_no_more_turns_at_any_number_of_places_than_at_four() {
        let turns = Turns::new(3);
        let at = |name: &str, last| {
            Some(Share::of(&name.into(), Some(Whence::Address(([192, 0, 2, last], 4000).into()))))
        };
        let mut taken = Vec::new();
        for last in 1..=4 {
            assert!(!waits(&turns, at("greedy", last)).await, "each place has its own");
            taken.push(turns.take(at("greedy", last).as_ref(), 3).await);
        }
        assert!(waits(&turns, at("greedy", 5)).await && !waits(&turns, at("modest", 5)).await);
        taken.pop();
        assert!(!waits(&turns, at("greedy", 5)).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_lasts_as_long_as_the_last_change_that_it_goes_along_with() {
        let turns = Turns::new(1);
        let turn = turns.take(name("hangs-up").as_ref(), 1).await;
        let along = turn.clone();
        drop(turn);
        assert!(waits(&turns, name("hangs-up")).await);
        drop(along);
        assert!(!waits(&turns, name("hangs-up")).await);
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_ask_for_nothing_any_more_take_no_room() {
        let turns = Turns::new(1);
        let stays = turns.take(name("stays").as_ref(), 1).await;
        for number in 0..5 * REMEMBERED {
            drop(turns.take(name(&format!("n-{number}")).as_ref(), 1).await);
        }
        assert!(turns.callers.lock().unwrap().known.len() <= REMEMBERED);
        assert!(waits(&turns, name("stays")).await);
        drop(stays);
    }
}
