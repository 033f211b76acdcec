//! Clients that register, renew and remove for as long as a drill lasts, and what they were promised.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use gateway_tests::ends_within;
use tokio::task::JoinSet;
use tonic::Status;

use super::caller::{Caller, is_certain, registration};
use crate::{figures::Figures, replica::lock, stage::SECOND};

const CLIENTS: usize = 8;
/// No lease of theirs lapses while a drill lasts.
const TTL: Duration = Duration::from_secs(600);
/// After a refusal.
const PAUSE: Duration = Duration::from_millis(20);

/// Several clients at work.
#[derive(Debug)]
pub(crate) struct Writers {
    clients: JoinSet<Promised>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    is_over: AtomicBool,
    acks: AtomicU64,
    rhythm: Mutex<Rhythm>,
}

/// When changes were acknowledged.
#[derive(Debug, Default)]
struct Rhythm {
    last: Option<Instant>,
    longest: Duration,
}

/// What clients were promised, as `SERVICE/REPLICA`.
#[derive(Debug, Default)]
pub(crate) struct Promised {
    /// Those that are there.
    registered: BTreeSet<String>,
    /// Those that are gone.
    removed: BTreeSet<String>,
    /// Changes that were acknowledged.
    pub(crate) acks: u64,
    /// Those of which nobody knows what became.
    pub(crate) unknown: u64,
    /// Renewals and changes that were refused for no reason that a client gave.
    wronged: Vec<String>,
    /// Answers of a lower revision than an earlier one to the same client.
    back: u64,
    /// The longest time without an acknowledged change.
    pub(crate) gap: Duration,
}

impl Writers {
    /// Starts eight clients, each of which goes on at the next control plane when one fails, and rests for `pause` between
    /// two requests. `name` begins the names of their services.
    pub(crate) fn start(urls: &[String], name: &str, pause: Duration) -> Self {
        let shared = Arc::new(Shared::default());
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let callers = urls.iter().map(|url| Caller::new(url)).collect();
            let client =
                Client { number, service: format!("{name}-{number}"), callers, current: number, pause };
            clients.spawn(client.run(Arc::clone(&shared)));
        }
        Self { clients, shared }
    }

    /// Changes that were acknowledged so far.
    pub(crate) fn acks(&self) -> u64 {
        self.shared.acks.load(Relaxed)
    }

    /// Waits until so many more changes were acknowledged, and yields how long that took; no longer than `limit`.
    pub(crate) async fn go_on(&self, more: u64, limit: Duration) -> Duration {
        let (began, enough) = (Instant::now(), self.acks() + more);
        while self.acks() < enough && began.elapsed() < limit {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        began.elapsed()
    }

    /// Ends them once each has the answer that it waits for.
    pub(crate) async fn stop(mut self) -> Promised {
        self.shared.is_over.store(true, Relaxed);
        let mut all = Promised::default();
        ends_within(60 * SECOND, "clients have their last answers", async {
            while let Some(promised) = self.clients.join_next().await {
                all = promised.expect("clients do not panic").and(std::mem::take(&mut all));
            }
        })
        .await;
        all.gap = lock(&self.shared.rhythm).longest;
        all
    }
}

impl Promised {
    /// Takes in what was promised before.
    pub(crate) fn and(mut self, before: Self) -> Self {
        self.registered.extend(before.registered);
        self.removed.extend(before.removed);
        self.wronged.extend(before.wronged);
        self.acks += before.acks;
        self.unknown += before.unknown;
        self.back += before.back;
        self.gap = self.gap.max(before.gap);
        self
    }

    /// The same where nothing could be promised for a while: how long that was says nothing.
    pub(crate) fn without_gap(self) -> Self {
        Self { gap: Duration::ZERO, ..self }
    }

    /// Holds a control plane to it.
    pub(crate) async fn hold(&self, figures: &mut Figures, url: &str) {
        // Of one that has just come back, lists may be a moment away.
        let caller = Caller::new(url);
        let mut present = caller.list("-").await;
        for _ in 0..50 {
            if present.as_ref().is_ok_and(|present| self.registered.is_subset(present)) {
                break;
            }
            tokio::time::sleep(SECOND / 10).await;
            present = caller.list("-").await;
        }
        let present = match present {
            Ok(present) => present,
            Err(status) => return figures.hold(&format!("{url} lists what there is"), status, false),
        };
        let lost = self.registered.difference(&present).count();
        figures.at_most(&format!("registrations lost of {}", self.registered.len()), 0, lost as u64);
        let back = self.removed.intersection(&present).count();
        figures.at_most(&format!("of {} removed those that are back", self.removed.len()), 0, back as u64);
    }

    /// Holds what clients were told to what it may be.
    pub(crate) fn hold_answers(&self, figures: &mut Figures) {
        figures.show("changes acknowledged, unknown", format!("{}, {}", self.acks, self.unknown));
        let (wronged, first) = (self.wronged.len(), self.wronged.first().cloned().unwrap_or_default());
        figures.hold("refused for no reason <= 0", format!("{wronged} {first}"), wronged == 0);
        figures.at_most("revisions that went back", 0, self.back);
    }
}

struct Client {
    number: usize,
    service: String,
    callers: Vec<Caller>,
    current: usize,
    pause: Duration,
}

impl Client {
    async fn run(mut self, shared: Arc<Shared>) -> Promised {
        let (mut promised, mut revision) = (Promised::default(), 0);
        for number in 0_usize.. {
            if shared.is_over.load(Relaxed) {
                break;
            }
            self.one_life(number, &mut promised, &mut revision, &shared).await;
            tokio::time::sleep(self.pause).await;
        }
        promised
    }

    /// Registers a replica, renews its lease at times, and removes every third again.
    async fn one_life(
        &mut self,
        number: usize,
        promised: &mut Promised,
        revision: &mut i64,
        shared: &Shared,
    ) -> Option<()> {
        let id = format!("r-{number}");
        let key = format!("{}/{id}", self.service);
        let address = format!("10.{}.{}.{}:80", 100 + self.number, number / 250, number % 250);
        let registered = self.caller().register(registration(&self.service, &id, &address, TTL)).await;
        let answer = self.take(registered, promised).await?;
        promised.acknowledged(answer.replica.map(|replica| replica.revision), revision, shared);
        promised.registered.insert(key.clone());
        if number.is_multiple_of(2) {
            // At times by another control plane than knows it best.
            self.current += usize::from(number.is_multiple_of(8));
            let renewed = self.caller().renew(&self.service, &id, &answer.lease_id).await;
            self.take(renewed, promised).await;
        }
        if number % 3 == 2 {
            // From here on it may be gone, and it must be once that is acknowledged.
            promised.registered.remove(&key);
            let removed = self.caller().deregister(&self.service, &id, &answer.lease_id).await;
            let answer = self.take(removed, promised).await?;
            promised.acknowledged(Some(answer.revision), revision, shared);
            if !answer.removed {
                promised.wronged.push(format!("{key} was gone"));
            }
            promised.removed.insert(key);
        }
        Some(())
    }

    fn caller(&self) -> Caller {
        self.callers[self.current % self.callers.len()].clone()
    }

    /// Goes on at the next control plane if this one has failed.
    async fn take<T>(&mut self, answered: Result<T, Status>, promised: &mut Promised) -> Option<T> {
        match answered {
            Ok(answer) => return Some(answer),
            Err(status) if is_certain(&status) => promised.wronged.push(status.to_string()),
            Err(_) => promised.unknown += 1,
        }
        self.current += 1;
        tokio::time::sleep(PAUSE).await;
        None
    }
}

impl Promised {
    /// Notes a change, and at which revision it was made.
    fn acknowledged(&mut self, at: Option<i64>, revision: &mut i64, shared: &Shared) {
        self.acks += 1;
        shared.acks.fetch_add(1, Relaxed);
        lock(&shared.rhythm).beat(Instant::now());
        let at = at.unwrap_or_default();
        self.back += u64::from(at < *revision);
        *revision = at.max(*revision);
    }
}

impl Rhythm {
    fn beat(&mut self, now: Instant) {
        if let Some(last) = self.last {
            self.longest = self.longest.max(now.saturating_duration_since(last));
        }
        self.last = Some(self.last.map_or(now, |last| last.max(now)));
    }
}
