//! A gentle load: a fixed number of users who send requests at a steady rate and count what becomes of them.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    num::NonZeroU32,
    sync::{Arc, Mutex},
    time::Duration,
};

use gateway_runtime::Shutdown;
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval_at},
};

use super::{
    client::{Answer, Client},
    latency::Latencies,
};

/// Users at most; each has one connection and one request in flight.
const MAX_USERS: u32 = 16;
/// Replica ids that are counted apart; a demo has three.
const MAX_REPLICAS: usize = 16;

/// What became of the requests so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) requests: u64,
    /// Answers with 5xx, and requests without a whole answer.
    pub(crate) failed: u64,
    pub(crate) last_failure: String,
    pub(crate) latencies: Latencies,
    /// Answers by replica.
    pub(crate) by_replica: BTreeMap<String, u64>,
}

impl Tally {
    /// Counts one request.
    fn record(&mut self, outcome: Result<Answer, String>, took: Duration) {
        self.requests += 1;
        match outcome {
            Ok(answer) => {
                self.latencies.record(took);
                if answer.status.is_server_error() {
                    self.failed += 1;
                    self.last_failure = answer.status.to_string();
                }
                let known =
                    self.by_replica.len() < MAX_REPLICAS || self.by_replica.contains_key(&answer.replica);
                if known && !answer.replica.is_empty() {
                    *self.by_replica.entry(answer.replica).or_default() += 1;
                }
            }
            Err(broken) => {
                self.failed += 1;
                self.last_failure = broken;
            }
        }
    }
}

/// Users that are sending.
#[derive(Debug)]
pub(crate) struct Load {
    users: JoinSet<()>,
    tally: Arc<Mutex<Tally>>,
}

impl Load {
    /// Starts to send `rate` requests a second for `target`, until the shutdown begins.
    ///
    /// A user waits for its answer before the next request, so a service that hangs is asked less, never more.
    pub(crate) fn start(proxy: SocketAddr, target: &str, rate: NonZeroU32, shutdown: &Shutdown) -> Self {
        let count = rate.get().min(MAX_USERS);
        let tally = Arc::<Mutex<Tally>>::default();
        let mut users = JoinSet::new();
        let begin = Instant::now();
        for user in 0..count {
            // The users take turns: together they send at even distances.
            let first = begin + Duration::from_secs(1) * user / rate.get();
            let mut turns = interval_at(first, Duration::from_secs(1) * count / rate.get());
            turns.set_missed_tick_behavior(MissedTickBehavior::Skip);
            let (tally, shutdown) = (Arc::clone(&tally), shutdown.clone());
            let (mut client, target) = (Client::new(proxy), target.to_owned());
            users.spawn(async move {
                loop {
                    tokio::select! {
                        _ = turns.tick() => {}
                        () = shutdown.begun() => return,
                    }
                    let asked = Instant::now();
                    let outcome = client.get(&target).await;
                    let took = asked.elapsed();
                    tally.lock().expect("no code that counts panics").record(outcome, took);
                }
            });
        }
        Self { users, tally }
    }

    /// What became of the requests so far.
    pub(crate) fn tally(&self) -> Tally {
        self.tally.lock().expect("no code that counts panics").clone()
    }

    /// Waits for the last answers after the shutdown began.
    pub(crate) async fn finished(mut self) -> Tally {
        while self.users.join_next().await.is_some() {}
        self.tally()
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::demo::replica::Replica;

    #[test]
    fn only_server_errors_and_broken_answers_are_failures() {
        let mut tally = Tally::default();
        let answer = |status| Ok(Answer { status, replica: "r-1".into(), ..Answer::default() });
        tally.record(answer(StatusCode::OK), Duration::from_millis(1));
        tally.record(answer(StatusCode::NOT_FOUND), Duration::from_millis(1));
        tally.record(answer(StatusCode::BAD_GATEWAY), Duration::from_millis(1));
        assert_eq!((tally.failed, tally.last_failure.as_str()), (1, "502 Bad Gateway"));
        tally.record(Err("the body broke off".into()), Duration::ZERO);
        assert_eq!((tally.requests, tally.failed, tally.by_replica["r-1"]), (4, 2, 3));
        assert_eq!(tally.last_failure, "the body broke off");
    }

    #[tokio::test]
    async fn users_send_until_the_shutdown_and_count_every_answer() {
        let replica = Replica::bind("127.0.0.1:0".parse().unwrap(), "r-1").await.unwrap();
        let address = replica.address();
        let (stop_replica, stop_load) = (Shutdown::new(), Shutdown::new());
        let served = tokio::spawn(replica.serve(stop_replica.clone()));
        let load = Load::start(address, "/hello", NonZeroU32::new(1000).unwrap(), &stop_load);
        let enough = async {
            while load.tally().requests < 50 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), enough)
            .await
            .expect("fifty requests take no ten seconds");
        stop_load.begin();
        let tally = load.finished().await;
        assert_eq!((tally.failed, tally.by_replica["r-1"]), (0, tally.requests));
        stop_replica.begin();
        served.await.unwrap();
    }
}
