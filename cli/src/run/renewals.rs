//! Keeps the leases of all replicas of a run alive, on one stream.
//!
//! The stream is opened again when it breaks, with pauses that are short beside a lease. Somebody who holds a lease hears of
//! its loss, and of what the registry wants of the replica.

use std::{collections::BTreeMap, time::Duration};

use gateway_proto::{
    Mode, ReplicaKey,
    v1::{
        HeartbeatRequest, KeepAliveRequest, KeepAliveResult, keep_alive_result::Result as Outcome,
        registry_service_client::RegistryServiceClient,
    },
};
use rand::Rng as _;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};
use tokio_stream::wrappers::ReceiverStream;

use crate::link::Link;

/// Longest wait for the answer to a heartbeat before the stream counts as broken.
const PATIENCE: Duration = Duration::from_secs(3);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// What the registry says of a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Word {
    /// The replica is kept, in this mode.
    Kept(Mode),
    /// The lease does not keep it any more, for this reason of [`gateway_proto::reason`].
    Lost(String),
}

/// A lease to keep alive.
#[derive(Debug)]
struct Lease {
    id: String,
    every: Duration,
    word: watch::Sender<Word>,
}

#[derive(Debug)]
enum Request {
    Hold(ReplicaKey, Lease),
    Release(ReplicaKey),
}

/// A handle to the task that renews. It ends when all handles are gone.
#[derive(Debug, Clone)]
pub(crate) struct Renewals(mpsc::Sender<Request>);

impl Renewals {
    /// Begins, with nothing to renew.
    pub(crate) fn start(channel: Link) -> Self {
        let (sender, requests) = mpsc::channel(16);
        let task = Task { client: RegistryServiceClient::new(channel), requests, leases: BTreeMap::new() };
        tokio::spawn(task.run());
        Self(sender)
    }

    /// Renews a lease this often, from now on and in place of an earlier one of the same replica.
    pub(super) async fn hold(&self, key: &ReplicaKey, id: String, every: Duration) -> watch::Receiver<Word> {
        let (word, heard) = watch::channel(Word::Kept(Mode::Serving));
        // The task lives as long as this handle.
        let _ = self.0.send(Request::Hold(key.clone(), Lease { id, every, word })).await;
        heard
    }

    /// Renews it no more.
    pub(super) async fn release(&self, key: &ReplicaKey) {
        let _ = self.0.send(Request::Release(key.clone())).await;
    }
}

#[derive(Debug)]
struct Task {
    client: RegistryServiceClient<Link>,
    requests: mpsc::Receiver<Request>,
    leases: BTreeMap<ReplicaKey, Lease>,
}

impl Task {
    async fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        loop {
            while self.leases.is_empty() {
                let Some(request) = self.requests.recv().await else { return };
                self.take(request);
            }
            let began = Instant::now();
            if !self.follow().await {
                return;
            }
            // One that has worked for a while has earned a quick second try.
            if began.elapsed() > MAX_PAUSE {
                pause = FIRST_PAUSE;
            }
            // Full jitter, so that many supervisors do not come back together.
            let until = Instant::now() + rand::rng().random_range(Duration::ZERO..=pause);
            pause = (pause * 2).min(MAX_PAUSE);
            if !self.rest(until).await {
                return;
            }
        }
    }

    fn take(&mut self, request: Request) {
        match request {
            Request::Hold(key, lease) => drop(self.leases.insert(key, lease)),
            Request::Release(key) => drop(self.leases.remove(&key)),
        }
    }

    /// Takes requests until then; false when no more can come.
    async fn rest(&mut self, until: Instant) -> bool {
        loop {
            tokio::select! {
                request = self.requests.recv() => match request {
                    Some(request) => self.take(request),
                    None => return false,
                },
                () = sleep_until(until) => return true,
            }
        }
    }

    /// Renews on one stream until that breaks: true; or until no more requests can come: false.
    async fn follow(&mut self) -> bool {
        let (sender, heartbeats) = mpsc::channel(1);
        let mut client = self.client.clone();
        let opening = tokio::time::timeout(PATIENCE, client.keep_alive(ReceiverStream::new(heartbeats)));
        let Ok(Ok(answer)) = opening.await else { return true };
        let mut answers = answer.into_inner();
        // At once: the pause may have been long.
        let mut next = Instant::now();
        let mut overdue = None;
        loop {
            tokio::select! {
                request = self.requests.recv() => match request {
                    Some(request) => {
                        if let Request::Hold(_, lease) = &request {
                            next = next.min(Instant::now() + lease.every);
                        }
                        let is_over = matches!(request, Request::Release(_));
                        self.take(request);
                        if is_over {
                            // What is still answered here would be taken for news of the replica's next lease.
                            return true;
                        }
                    }
                    None => return false,
                },
                answer = answers.message() => match answer {
                    Ok(Some(answer)) => {
                        overdue = None;
                        let held = self.leases.len();
                        answer.results.into_iter().for_each(|result| self.hear(result));
                        if self.leases.len() < held {
                            // As for one that is over: another heartbeat of the lost lease may be under way.
                            return true;
                        }
                    }
                    Ok(None) | Err(_) => return true,
                },
                () = sleep_until(next), if !self.leases.is_empty() => {
                    if sender.try_send(self.heartbeats()).is_err() {
                        return true;
                    }
                    overdue.get_or_insert(Instant::now() + PATIENCE);
                    let every = self.leases.values().map(|lease| lease.every).min().unwrap_or(PATIENCE);
                    next = Instant::now() + every;
                }
                () = sleep_until(overdue.unwrap_or(next)), if overdue.is_some() => return true,
            }
        }
    }

    fn heartbeats(&self) -> KeepAliveRequest {
        let heartbeats = self.leases.iter().map(|(key, lease)| HeartbeatRequest {
            service: key.service.to_string(),
            replica_id: key.replica.to_string(),
            lease_id: lease.id.clone(),
            ..Default::default()
        });
        KeepAliveRequest { heartbeats: heartbeats.collect() }
    }

    fn hear(&mut self, result: KeepAliveResult) {
        let Ok(key) = ReplicaKey::parse(&result.service, &result.replica_id) else { return };
        let Some(lease) = self.leases.get(&key) else { return };
        match result.result {
            Some(Outcome::Renewed(renewed)) => {
                let mode = Word::Kept(Mode::parse(renewed.mode).unwrap_or_default());
                lease.word.send_if_modified(|word| std::mem::replace(word, mode.clone()) != mode);
            }
            Some(Outcome::Lost(lost)) => {
                lease.word.send_replace(Word::Lost(lost.reason));
                self.leases.remove(&key);
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use gateway_proto::{
        reason,
        v1::{KeepAliveResponse, LeaseLost},
    };
    use tokio::time::timeout;

    use super::*;
    use crate::{
        control::fake::{Fake, Script},
        link::Credentials,
    };

    #[tokio::test]
    async fn a_late_answer_to_a_lost_lease_is_no_news_of_the_next_one() {
        /// Nothing here takes this long unless it does not come.
        const PATIENCE: Duration = Duration::from_secs(10);
        let (streams, mut opened) = mpsc::unbounded_channel();
        let (_fake, address) = Fake::start(Script { keep_alive: Some(streams), ..Script::default() }).await;
        let channel =
            tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
        let renewals = Renewals::start(Credentials::default().over(channel));
        let key = ReplicaKey::parse("orders", "r-1").unwrap();
        let lost = |reason: &str| {
            let lost = LeaseLost { reason: reason.to_owned(), ..LeaseLost::default() };
            let (service, replica_id) = (key.service.to_string(), key.replica.to_string());
            let result = KeepAliveResult { service, replica_id, result: Some(Outcome::Lost(lost)) };
            Ok(KeepAliveResponse { results: vec![result] })
        };
        let every = Duration::from_millis(200);

        let mut first = renewals.hold(&key, "first".into(), every).await;
        let (mut beats, answers) = timeout(PATIENCE, opened.recv()).await.unwrap().unwrap();
        // A second heartbeat is under way before the first is answered.
        for _ in 0..2 {
            assert_eq!(beats.message().await.unwrap().unwrap().heartbeats[0].lease_id, "first");
        }
        answers.send(lost(reason::LEASE_EXPIRED)).await.unwrap();
        first.wait_for(|word| *word == Word::Lost(reason::LEASE_EXPIRED.into())).await.unwrap();
        let second = renewals.hold(&key, "second".into(), every).await;
        // Its answer, which finds nobody any more.
        let _ = answers.send(lost(reason::LEASE_MISMATCH)).await;
        let (mut beats, _answers) = timeout(PATIENCE, opened.recv()).await.expect("another stream").unwrap();
        assert_eq!(beats.message().await.unwrap().unwrap().heartbeats[0].lease_id, "second");
        assert_eq!(*second.borrow(), Word::Kept(Mode::Serving));
    }
}
