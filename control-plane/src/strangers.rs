//! Connections on which nobody has said who he is: where callers are asked that, strangers must not take the places of those who are
//! known. They may keep half of all places for as long as they like, and pass through the others.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

/// How long one more may stay without saying who he is.
const PATIENCE: Duration = Duration::from_secs(3);

/// How many there are.
#[derive(Debug)]
pub(crate) struct Strangers {
    count: AtomicUsize,
    /// Those who may stay. `None`: nobody is asked who he is.
    limit: Option<usize>,
}

/// Whoever is at the other end of a connection. In the extensions of its requests.
#[derive(Debug)]
pub(crate) struct Peer {
    strangers: Arc<Strangers>,
    is_known: AtomicBool,
    is_brief: bool,
}

impl Strangers {
    /// Of `places` connections; without limit where nobody `is_asked` who he is.
    pub(crate) fn new(places: usize, is_asked: bool) -> Arc<Self> {
        let limit = is_asked.then_some(places.div_ceil(2));
        Arc::new(Self { count: AtomicUsize::new(0), limit })
    }

    /// One more, who may become known.
    pub(crate) fn meet(self: &Arc<Self>) -> Arc<Peer> {
        let before = self.count.fetch_add(1, Relaxed);
        let is_brief = self.limit.is_some_and(|limit| before >= limit);
        Arc::new(Peer { strangers: Arc::clone(self), is_known: AtomicBool::new(false), is_brief })
    }
}

impl Peer {
    /// He has said who he is, and it is true.
    pub(crate) fn is_known_now(&self) {
        if !self.is_known.swap(true, Relaxed) {
            self.strangers.count.fetch_sub(1, Relaxed);
        }
    }

    /// Completes when he is to go: he is one of too many, and still a stranger. Cancel safe, but begins anew.
    pub(crate) async fn outstays(&self) {
        if self.is_brief {
            tokio::time::sleep(PATIENCE).await;
            if !self.is_known.load(Relaxed) {
                return;
            }
        }
        std::future::pending().await
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.is_known_now();
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    async fn stays(peer: &Peer) -> bool {
        timeout(10 * PATIENCE, peer.outstays()).await.is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_keep_half_of_the_places_and_those_who_are_known_all_they_have() {
        let strangers = Strangers::new(4, true);
        let [one, two, three] = [(); 3].map(|()| strangers.meet());
        assert!(stays(&one).await && stays(&two).await && !stays(&three).await);
        two.is_known_now();
        two.is_known_now();
        drop(three);
        let [four, five] = [(); 2].map(|()| strangers.meet());
        assert!(stays(&four).await, "there is a place again");
        five.is_known_now();
        assert!(stays(&five).await, "he said in time who he is");
        assert_eq!(strangers.count.load(Relaxed), 2);
        drop((one, two, four, five));
        assert_eq!(strangers.count.load(Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn where_nobody_is_asked_nobody_is_one_of_too_many() {
        let strangers = Strangers::new(2, false);
        let all = [(); 5].map(|()| strangers.meet());
        assert!(stays(&all[4]).await);
    }
}
