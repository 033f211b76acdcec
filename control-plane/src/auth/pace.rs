//! At what pace somebody is told that he asks for too much.
//!
//! Whoever asks again as soon as he is refused has each refusal bring about the next request. However cheap that is, tens of
//! thousands of them in a second take the processor from everybody else. So the answer is held back until its turn, which
//! for who comes now and then is at once: a flood is as fast as its answers.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::Semaphore, time::sleep};

use super::{Share, limit::Buckets};
use crate::clock;

/// Refusals of one caller in a second, wherever he is; twice as many at once.
const PER_SECOND: u32 = 500;
/// No answer is held back for longer, which lets a connection with all of its thousand streams under way have a thousand in a second.
const LONGEST: Duration = Duration::from_secs(1);
/// Answers held back at once, each of some kilobytes; further ones are given at once.
const MAX_HELD: usize = 4096;

/// The turns of all callers.
#[derive(Debug)]
pub(super) struct Pace {
    buckets: Mutex<Buckets<Share>>,
    places: Semaphore,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { buckets: Mutex::new(Buckets::new(PER_SECOND, clock::now())), places: Semaphore::new(MAX_HELD) }
    }

    /// Waits for the turn of one more refusal, for which its caller waits so long at most. Cancel safe: the turn is over.
    pub(super) async fn turn(&self, whose: &Share, longest: Duration) {
        let wait = {
            let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
            buckets.reserve(&whose.everywhere(), longest.min(LONGEST), clock::now())
        };
        if wait.is_zero() {
            return;
        }
        if let Ok(_place) = self.places.try_acquire() {
            sleep(wait).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::{task::JoinSet, time::Instant};

    use super::*;

    fn share(name: &str) -> Share {
        Share::of(&name.into(), None)
    }

    /// Has so many at once be refused without end, and yields how many refusals that makes in ten seconds.
    async fn flood(at_once: usize) -> usize {
        let pace = Arc::new(Pace::new());
        let until = Instant::now() + Duration::from_secs(10);
        let mut callers = JoinSet::new();
        for _ in 0..at_once {
            let pace = Arc::clone(&pace);
            callers.spawn(async move {
                let mut refused = 0;
                while Instant::now() < until {
                    pace.turn(&share("greedy"), Duration::MAX).await;
                    refused += 1;
                }
                refused
            });
        }
        callers.join_all().await.into_iter().sum()
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_refused_now_and_then_is_told_at_once_whatever_others_do() {
        let pace = Pace::new();
        let began = Instant::now();
        for _ in 0..2 * PER_SECOND {
            pace.turn(&share("modest"), Duration::MAX).await;
        }
        assert_eq!(began.elapsed(), Duration::ZERO);
        pace.turn(&share("modest"), Duration::MAX).await;
        assert!(!began.elapsed().is_zero());
        let began = Instant::now();
        pace.turn(&share("other"), Duration::MAX).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_as_fast_as_its_answers() {
        // What is there at once, and ten seconds' worth, to the last call that is under way then.
        for at_once in [1, 100, 400] {
            let refused = flood(at_once).await;
            assert!((5000..=6000 + at_once).contains(&refused), "{at_once} at once: {refused}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_less_than_his_turn_is_told_in_his_time() {
        let pace = Arc::new(Pace::new());
        let mut calls = JoinSet::new();
        for _ in 0..3 * PER_SECOND {
            let pace = Arc::clone(&pace);
            calls.spawn(async move { pace.turn(&share("greedy"), Duration::MAX).await });
        }
        let calls = tokio::spawn(calls.join_all());
        tokio::task::yield_now().await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        for longest in [Duration::ZERO, Duration::from_millis(50)] {
            let began = Instant::now();
            pace.turn(&share("greedy"), longest).await;
            let waited = began.elapsed();
            assert!((longest..=longest + Duration::from_millis(1)).contains(&waited), "{waited:?}");
        }
        calls.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_longer_than_a_second_and_no_more_than_so_many_wait() {
        let pace = Arc::new(Pace::new());
        let mut calls = JoinSet::new();
        for _ in 0..2 * MAX_HELD {
            let pace = Arc::clone(&pace);
            calls.spawn(async move {
                let began = Instant::now();
                pace.turn(&share("greedy"), Duration::MAX).await;
                began.elapsed()
            });
        }
        let waited = calls.join_all().await;
        // Timers count in milliseconds.
        assert!(waited.iter().all(|waited| *waited <= LONGEST + Duration::from_millis(1)));
        let at_once = waited.iter().filter(|waited| waited.is_zero()).count();
        assert_eq!(at_once, 2 * PER_SECOND as usize + (2 * MAX_HELD - 2 * PER_SECOND as usize - MAX_HELD));
    }
}
