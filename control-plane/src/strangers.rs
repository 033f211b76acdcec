//! Connections, where callers are asked who they are: strangers must not take the places of those who are known, nor one of those
//! the places of all others. Strangers may keep half of all places for as long as they like, and pass through the others; whoever
//! is known may have half of them from one address. What strangers send is read at a pace.

mod allowance;
mod paced;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};

use self::allowance::Allowance;
pub(crate) use self::paced::Paced;
use crate::auth::Share;

/// How long one more stranger may stay without saying who he is.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long one connection too many of somebody who is known stays, so that he learns why it ends.
const LAST_WORD: Duration = Duration::from_secs(1);
/// Requests of a stranger under way on one connection: what health checks have, which are all that he may ask.
const MAX_ASKING: usize = 8;

/// How many there are.
#[derive(Debug)]
pub(crate) struct Strangers {
    count: AtomicUsize,
    /// Connections of each who is known.
    known: Mutex<HashMap<Share, usize>>,
    /// Strangers who may stay, and connections that one who is known may have. `None`: nobody is asked who he is.
    limit: Option<usize>,
}

/// Whoever is at the other end of a connection. In the extensions of its requests.
#[derive(Debug)]
pub(crate) struct Peer {
    strangers: Arc<Strangers>,
    /// Who he is, and whether there is room for one more connection of his.
    known: OnceLock<(Share, bool)>,
    is_crowded: Notify,
    is_brief: bool,
    /// His requests under way that told nothing of who he is.
    asking: AtomicUsize,
    met_at: Instant,
    /// What more of him is read while he is a stranger, counted from when he was met.
    allowance: Allowance,
}

/// One request of a stranger, under way until this is dropped.
#[derive(Debug)]
pub(crate) struct Asking(Arc<Peer>);

impl Strangers {
    /// Of `places` connections; without limit where nobody `is_asked` who he is.
    pub(crate) fn new(places: usize, is_asked: bool) -> Arc<Self> {
        let limit = is_asked.then_some(places.div_ceil(2));
        Arc::new(Self { count: AtomicUsize::new(0), known: Mutex::default(), limit })
    }

    /// One more, who may become known.
    pub(crate) fn meet(self: &Arc<Self>) -> Arc<Peer> {
        let before = self.count.fetch_add(1, Relaxed);
        let is_brief = self.limit.is_some_and(|limit| before >= limit);
        let (known, is_crowded) = (OnceLock::new(), Notify::new());
        let (strangers, asking) = (Arc::clone(self), AtomicUsize::new(0));
        let (met_at, allowance) = (Instant::now(), Allowance::default());
        Arc::new(Peer { strangers, known, is_crowded, is_brief, asking, met_at, allowance })
    }

    /// Counts one more connection of somebody. Yields whether he may have it.
    fn count(&self, share: &Share) -> bool {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let count = known.entry(share.clone()).or_default();
        *count += 1;
        self.limit.is_none_or(|limit| *count <= limit)
    }

    fn discount(&self, share: &Share) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = known.get_mut(share) {
            *count -= 1;
            if *count == 0 {
                known.remove(share);
            }
        }
    }
}

impl Peer {
    /// He has said who he is, and it is true. Who is known first on a connection is whom it counts for.
    ///
    /// # Errors
    /// He has more connections than so many, and this one ends soon.
    pub(crate) fn is_known_as(&self, share: Share) -> Result<(), usize> {
        let (_, has_room) = self.known.get_or_init(|| {
            self.strangers.count.fetch_sub(1, Relaxed);
            let has_room = self.strangers.count(&share);
            if !has_room {
                self.is_crowded.notify_one();
            }
            (share, has_room)
        });
        if *has_room { Ok(()) } else { Err(self.strangers.limit.unwrap_or_default()) }
    }

    /// Whether he is asked who he is, and nothing on this connection has told it.
    pub(crate) fn is_stranger(&self) -> bool {
        self.strangers.limit.is_some() && self.known.get().is_none()
    }

    /// So many bytes of his were read.
    fn has_sent(&self, bytes: usize) {
        self.allowance.read(bytes, self.met_at.elapsed());
    }

    /// They were one request more, or one call of gRPC.
    pub(crate) fn has_asked(&self, is_call: bool) {
        if self.is_stranger() {
            self.allowance.asked(is_call, self.met_at.elapsed());
        }
    }

    /// How long it is until more of a stranger is read.
    fn is_read_in(&self) -> Duration {
        self.allowance.wait(self.met_at.elapsed())
    }

    /// Counts one more request that tells nothing of who he is.
    ///
    /// # Errors
    /// So many are under way, and nothing on this connection has told it either.
    pub(crate) fn asks(self: &Arc<Self>) -> Result<Asking, usize> {
        let before = self.asking.fetch_add(1, Relaxed);
        let asking = Asking(Arc::clone(self));
        if before < MAX_ASKING || self.known.get().is_some() { Ok(asking) } else { Err(MAX_ASKING) }
    }

    /// Completes when he is to go: he is one of too many, and still a stranger, or has too many connections. Cancel safe, but begins
    /// anew.
    pub(crate) async fn outstays(&self) {
        tokio::select! {
            () = self.is_crowded.notified() => {}
            () = sleep(PATIENCE), if self.is_brief => {
                if self.known.get().is_none() {
                    return;
                }
                self.is_crowded.notified().await;
            }
        }
        sleep(LAST_WORD).await;
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.asking.fetch_sub(1, Relaxed);
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        match self.known.get() {
            Some((share, _)) => self.strangers.discount(share),
            None => {
                self.strangers.count.fetch_sub(1, Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    async fn stays(peer: &Peer) -> bool {
        timeout(10 * PATIENCE, peer.outstays()).await.is_err()
    }

    fn share(name: &str) -> Share {
        Share::of(&name.into(), None)
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_keep_half_of_the_places_and_those_who_are_known_all_they_have() {
        let strangers = Strangers::new(4, true);
        let [one, two, three] = [(); 3].map(|()| strangers.meet());
        assert!(stays(&one).await && stays(&two).await && !stays(&three).await);
        assert_eq!((two.is_known_as(share("ana")), two.is_known_as(share("ben"))), (Ok(()), Ok(())));
        drop(three);
        let [four, five] = [(); 2].map(|()| strangers.meet());
        assert!(stays(&four).await, "there is a place again");
        assert_eq!(five.is_known_as(share("ben")), Ok(()));
        assert!(stays(&five).await, "he said in time who he is");
        assert_eq!(strangers.count.load(Relaxed), 2);
        drop((one, two, four, five));
        assert_eq!(strangers.count.load(Relaxed), 0);
        assert!(strangers.known.lock().unwrap().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_is_known_takes_half_of_the_places_and_no_more() {
        let strangers = Strangers::new(4, true);
        let peers = [(); 3].map(|()| strangers.meet());
        let taken = [0, 1, 2].map(|number| peers[number].is_known_as(share("greedy")));
        assert_eq!(taken, [Ok(()), Ok(()), Err(2)]);
        assert!(stays(&peers[1]).await && !stays(&peers[2]).await);
        assert_eq!(peers[2].is_known_as(share("modest")), Err(2), "it is his who was known first");
        assert_eq!(strangers.meet().is_known_as(share("modest")), Ok(()));
        let [one, ..] = peers;
        drop(one);
        assert_eq!(strangers.meet().is_known_as(share("greedy")), Err(2), "two are there still");
        drop(strangers);
    }

    #[test]
    fn a_stranger_has_a_few_requests_under_way_until_he_says_who_he_is() {
        let peer = Strangers::new(4, true).meet();
        let mut asking: Vec<_> = (0..MAX_ASKING).map(|_| peer.asks().unwrap()).collect();
        assert_eq!(peer.asks().unwrap_err(), MAX_ASKING);
        asking.pop();
        asking.push(peer.asks().expect("one has ended, and the one that was refused does not count"));
        assert_eq!(peer.asks().unwrap_err(), MAX_ASKING);
        peer.is_known_as(share("ana")).unwrap();
        asking.extend([peer.asks().unwrap(), peer.asks().unwrap()]);
        drop(asking);
        assert_eq!(peer.asking.load(Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn where_nobody_is_asked_nobody_is_one_of_too_many() {
        let strangers = Strangers::new(2, false);
        let all = [(); 5].map(|()| strangers.meet());
        assert!(stays(&all[4]).await);
        assert!(all.iter().all(|peer| peer.is_known_as(share("greedy")).is_ok()));
    }
}
