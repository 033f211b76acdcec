//! A history of what clients on several control planes did to a few replicas and were told, and whether it can have been so.
//!
//! Changes, and refusals of changes, are held to one order that all control planes have in common. What only looks (reads, and
//! renewals, which are answered at once and go to the store beside that) may be some time old, but no older than what the same
//! control plane has acknowledged itself.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use gateway_proto::reason;
use gateway_tests::{
    ends_within,
    history::{Fact, Operation, Verdict, Write, judge},
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::task::JoinSet;
use tonic::Status;
use tonic_types::StatusExt;

use super::caller::{Caller, registration};
use crate::{figures::Figures, replica::lock, stage::SECOND};

const CLIENTS: usize = 6;
const SERVICE: &str = "history";
/// Replicas that clients contend for at a time.
const SLOTS: usize = 8;
/// A replica is left for a fresh one after so many operations, or outcomes that nobody knows, so that each history stays short
/// enough to be judged.
const MAX_CALLS: u32 = 120;
const MAX_UNKNOWN: u32 = 5;
/// Registrations of a replica that clients remember: who holds an old lease must get nowhere.
const REMEMBERED: usize = 3;
/// No lease lapses while a drill lasts.
const TTL: Duration = Duration::from_secs(600);
const PAUSE: Duration = Duration::from_millis(8);
/// Steps for each replica's history: some seconds at worst.
const LIMIT: usize = 500_000;
/// For the changes of all of them. What is left then is undecided: a contradiction is only found by trying everything, and a
/// hundred of them would take many minutes, in which nothing is said.
const JUDGED_WITHIN: Duration = Duration::from_secs(30);
/// How old what is looked at may be: the first that explains everything is the figure.
const AGES: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_millis(10),
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(5),
];

/// A replica, by its slot and its number there.
type Key = (usize, u32);

/// Clients at work, and what they note.
#[derive(Debug)]
pub(crate) struct Recorder {
    clients: JoinSet<Vec<Call>>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    start: Instant,
    is_over: AtomicBool,
    writes: AtomicU64,
    slots: Vec<Mutex<Slot>>,
}

#[derive(Debug, Default)]
struct Slot {
    number: u32,
    calls: u32,
    unknown: u32,
    leases: VecDeque<(Write, String)>,
}

/// One operation, and where it was asked for.
#[derive(Debug, Clone, Copy)]
struct Call {
    key: Key,
    control: usize,
    is_look: bool,
    operation: Operation,
}

/// All that clients did and were told.
#[derive(Debug)]
pub(crate) struct History(Vec<Call>);

impl Recorder {
    /// Starts clients that ask any of these control planes, by chance from this seed.
    pub(crate) fn start(urls: &[String], seed: u64) -> Self {
        let slots = (0..SLOTS).map(|_| Mutex::default()).collect();
        let (start, is_over, writes) = (Instant::now(), AtomicBool::new(false), AtomicU64::new(0));
        let shared = Arc::new(Shared { start, is_over, writes, slots });
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let callers = urls.iter().map(|url| Caller::new(url)).collect();
            let random = StdRng::seed_from_u64(seed + number as u64);
            clients.spawn(Client { callers, random, shared: Arc::clone(&shared) }.run());
        }
        Self { clients, shared }
    }

    /// Ends them once each has the answer that it waits for.
    pub(crate) async fn stop(mut self) -> History {
        self.shared.is_over.store(true, Relaxed);
        let mut calls = Vec::new();
        ends_within(60 * SECOND, "clients have their last answers", async {
            while let Some(noted) = self.clients.join_next().await {
                calls.extend(noted.expect("clients do not panic"));
            }
        })
        .await;
        History(calls)
    }
}

struct Client {
    callers: Vec<Caller>,
    random: StdRng,
    shared: Arc<Shared>,
}

impl Client {
    async fn run(mut self) -> Vec<Call> {
        let mut calls = Vec::new();
        while !self.shared.is_over.load(Relaxed) {
            calls.extend(self.ask().await);
            tokio::time::sleep(PAUSE).await;
        }
        calls
    }

    async fn ask(&mut self) -> Option<Call> {
        let (slot, control) =
            (self.random.random_range(0..SLOTS), self.random.random_range(0..self.callers.len()));
        let shared = Arc::clone(&self.shared);
        let (number, lease) = shared.enter(slot, &mut self.random);
        let (key, id) = ((slot, number), format!("r-{slot}-{number}"));
        let caller = &self.callers[control];
        let called = shared.now();
        // The last of ten is a look, and so is what would need a lease where there is none.
        let (is_look, fact, is_known) = match (self.random.random_range(0..10), lease) {
            (0..3, _) => {
                let write = shared.writes.fetch_add(1, Relaxed);
                let address = format!("10.{}.{}.{}:80", 200 + slot, number / 250, number % 250);
                let mut request = registration(SERVICE, &id, &address, TTL);
                request.version = write.to_string();
                let answered = caller.register(request).await;
                if let Ok(answer) = &answered {
                    shared.remember(key, write, answer.lease_id.clone());
                }
                (false, Fact::Registers(write), is_known(&answered)?)
            }
            (3..5, Some((write, lease))) => match caller.deregister(SERVICE, &id, &lease).await {
                Ok(answer) if answer.removed => (false, Fact::Removes(write), true),
                Ok(_) => (false, Fact::FindsNobody, true),
                Err(status) => match told(&status, write) {
                    Some(fact) => (false, fact, true),
                    None => (false, Fact::Removes(write), is_known::<()>(&Err(status))?),
                },
            },
            (5..8, Some((write, lease))) => match caller.renew(SERVICE, &id, &lease).await {
                Ok(()) => (true, Fact::Finds(write), true),
                Err(status) => (true, told(&status, write)?, true),
            },
            _ => match caller.get(SERVICE, &id).await {
                Ok(replica) => (true, Fact::Finds(replica.version.parse().ok()?), true),
                Err(status) => (true, told(&status, Write::MAX)?, true),
            },
        };
        if !is_known {
            shared.lost_track(key);
        }
        let operation = Operation { called, returned: is_known.then(|| shared.now()), fact };
        Some(Call { key, control, is_look, operation })
    }
}

/// Whether a change that was asked for has been made; `None`: it certainly has not.
fn is_known<T>(answered: &Result<T, Status>) -> Option<bool> {
    match answered {
        Ok(_) => Some(true),
        Err(status) if super::caller::is_certain(status) => None,
        Err(_) => Some(false),
    }
}

/// What a refusal says of who is there, to somebody who shows the lease of `write`.
fn told(status: &Status, write: Write) -> Option<Fact> {
    let info = status.get_details_error_info()?;
    match info.reason.as_str() {
        reason::LEASE_MISMATCH => Some(Fact::FindsAnother(write)),
        reason::LEASE_EXPIRED
        | reason::REPLICA_REMOVED
        | reason::REPLICA_NOT_FOUND
        | reason::SERVICE_NOT_FOUND => Some(Fact::FindsNobody),
        _ => None,
    }
}

impl Shared {
    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// The replica that is in this slot now, and the lease of one of its last registrations, if there was any.
    fn enter(&self, slot: usize, random: &mut StdRng) -> (u32, Option<(Write, String)>) {
        let mut slot = lock(&self.slots[slot]);
        if slot.calls >= MAX_CALLS || slot.unknown >= MAX_UNKNOWN {
            *slot = Slot { number: slot.number + 1, ..Slot::default() };
        }
        slot.calls += 1;
        let count = slot.leases.len();
        // Mostly the last one.
        let which = if random.random_bool(0.7) {
            count.checked_sub(1)
        } else {
            random.random_range(0..=count).checked_sub(1)
        };
        (slot.number, which.and_then(|which| slot.leases.get(which).cloned()))
    }

    fn remember(&self, (slot, number): Key, write: Write, lease: String) {
        let mut slot = lock(&self.slots[slot]);
        if slot.number == number {
            slot.leases.push_back((write, lease));
            if slot.leases.len() > REMEMBERED {
                slot.leases.pop_front();
            }
        }
    }

    fn lost_track(&self, (slot, number): Key) {
        let mut slot = lock(&self.slots[slot]);
        if slot.number == number {
            slot.unknown += 1;
        }
    }
}

impl History {
    /// Holds it to an order, in which what was looked at may be as old as `oldest`: longer than any fault that keeps a control
    /// plane from hearing of others.
    pub(crate) fn hold(self, figures: &mut Figures, oldest: Duration) {
        let unknown = self.0.iter().filter(|call| call.operation.returned.is_none()).count();
        let looks = self.0.iter().filter(|call| call.is_look).count();
        let mut replicas: BTreeMap<Key, Vec<Call>> = BTreeMap::new();
        for call in &self.0 {
            replicas.entry(call.key).or_default().push(*call);
        }
        figures.show(
            &format!("changes and looks at {} replicas, of unknown outcome", replicas.len()),
            format!("{}, {looks}, {unknown}", self.0.len() - looks),
        );
        let changes = |calls: &Vec<Call>| {
            calls.iter().filter(|call| !call.is_look).map(|call| call.operation).collect::<Vec<_>>()
        };
        let found = Found::by(replicas.values().map(changes));
        figures.at_most("replicas whose changes no order explains", 0, found.contradictory);
        figures.at_most("replicas whose history is too tangled to be judged", 0, found.undecided);
        let age = AGES.into_iter().chain([oldest]).find(|age| {
            replicas.values().all(|calls| judge(&aged(calls, *age), LIMIT) == Verdict::Explained)
        });
        let shown = age.map_or_else(|| format!("more than {oldest:?}"), |age| format!("{age:?}"));
        figures.hold(&format!("reads and renewals explained, if as old as {oldest:?}"), shown, age.is_some());
        if age.is_none() {
            self.tell(&replicas, oldest);
        }
    }

    /// Shows the first history that nothing explains, near where it cannot go on.
    fn tell(&self, replicas: &BTreeMap<Key, Vec<Call>>, age: Duration) {
        for (key, calls) in replicas {
            if let Verdict::Contradictory { explained, then } = judge(&aged(calls, age), LIMIT) {
                eprintln!("         r-{}-{}: {explained} are explained; then none of {then:?}", key.0, key.1);
                let around = then.iter().map(|operation| operation.called).min().unwrap_or_default();
                let mut near: Vec<_> = calls.clone();
                near.sort_by_key(|call| call.operation.called);
                for call in near.iter().filter(|call| call.operation.called.abs_diff(around) < 1_000_000_000)
                {
                    let Operation { called, returned, fact } = call.operation;
                    eprintln!("           {called} {returned:?} at control plane {}: {fact:?}", call.control);
                }
                return;
            }
        }
    }
}

/// How many histories are of which kind.
#[derive(Debug, Default)]
struct Found {
    contradictory: u64,
    undecided: u64,
}

impl Found {
    fn by(histories: impl Iterator<Item = Vec<Operation>>) -> Self {
        let (mut found, began) = (Self::default(), Instant::now());
        for history in histories {
            let limit = if began.elapsed() < JUDGED_WITHIN { LIMIT } else { 0 };
            match judge(&history, limit) {
                Verdict::Explained => {}
                Verdict::Contradictory { .. } => found.contradictory += 1,
                Verdict::Undecided => found.undecided += 1,
            }
        }
        found
    }
}

/// The operations on one replica, where what is looked at may be so old, but for what the same control plane acknowledged.
fn aged(calls: &[Call], age: Duration) -> Vec<Operation> {
    let age = u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
    let own = |look: &Call| {
        let changes = calls.iter().filter(|call| !call.is_look && call.control == look.control);
        let before = changes.filter_map(|call| call.operation.returned);
        before.filter(|returned| *returned < look.operation.called).max().unwrap_or_default()
    };
    calls
        .iter()
        .map(|call| match call.is_look {
            true => {
                let called = call.operation.called.saturating_sub(age).max(own(call));
                Operation { called, ..call.operation }
            }
            false => call.operation,
        })
        .collect()
}
