//! A history of what clients on several control planes did to a few replicas and were told, and whether it can have been so.
//!
//! Changes, and refusals of changes, are held to one order that all control planes have in common. What only looks (reads, and
//! renewals, which are answered at once and go to the store beside that) may be some time old while there is a fault, but no
//! older than what the same control plane has acknowledged itself.
//!
//! Some replicas have leases that lapse now and then, for their owners fall silent: what goes by itself is held to the time at
//! which it may, and must.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::RangeInclusive,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use gateway_proto::reason;
use gateway_tests::{
    ends_within,
    history::{Fact, Leases, Operation, Verdict, Write, judge},
    lapses::{FRESH, Faults, GOES, Moment, SETTLES, Sign, nanos},
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::task::JoinSet;
use tonic::Status;
use tonic_types::StatusExt;

use super::{
    caller::{Caller, registration},
    cluster::TTL,
};
use crate::{figures::Figures, replica::lock, stage::SECOND};

const CLIENTS: usize = 6;
/// Replicas that clients contend for at a time.
const SLOTS: usize = 8;
/// Those of them whose leases lapse when their owners fall silent.
const LAPSING: usize = 4;
/// One of so many calls about such a replica is the last before its owners fall silent, for a time that is drawn.
const SPEAKS: u32 = 16;
const SILENCE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(6);
/// Whom nobody renews is looked at so often.
const LOOKS: Duration = Duration::from_millis(40);
/// A replica is left for a fresh one after so many operations, or outcomes that nobody knows, so that each history stays short
/// enough to be judged.
const MAX_CALLS: u32 = 120;
const MAX_UNKNOWN: u32 = 5;
/// Registrations of a replica that clients remember: who holds an old lease must get nowhere.
const REMEMBERED: usize = 3;
/// Other leases do not lapse while a drill lasts.
const LONG_TTL: Duration = Duration::from_secs(600);
const PAUSE: Duration = Duration::from_millis(8);
/// Steps for each replica's history: some seconds at worst.
const LIMIT: usize = 500_000;
/// For the changes of all of them. What is left then is undecided: a contradiction is only found by trying everything, and a
/// hundred of them would take many minutes, in which nothing is said.
const JUDGED_WITHIN: Duration = Duration::from_secs(30);
/// How old a renewal of a lease of [`TTL`], and of a long one, may be: without a word from etcd a control plane renews it for two
/// seconds, and for four (docs/semantics.md). It may have heard of etcd before that and not what is new, for which it looks each
/// second.
const OLDEST_RENEWAL: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(7)];
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
    /// Whether owners of what may lapse are to be silent from now on.
    is_silent: AtomicBool,
    is_over: AtomicBool,
    writes: AtomicU64,
    slots: Vec<Mutex<Slot>>,
    faults: Mutex<Faults>,
}

#[derive(Debug, Default)]
struct Slot {
    number: u32,
    calls: u32,
    unknown: u32,
    leases: VecDeque<(Write, String)>,
    /// Until then nobody does anything but look, at this moment at the soonest.
    silent_until: Moment,
    looks_at: Moment,
}

/// Whom a call is about, and what it may show.
struct Turn {
    number: u32,
    /// The lease of one of the last registrations, if there was any.
    lease: Option<(Write, String)>,
    is_silent: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Change,
    Read,
    Renewal,
}

/// One operation, and where it was asked for.
#[derive(Debug, Clone, Copy)]
struct Call {
    key: Key,
    control: usize,
    kind: Kind,
    operation: Operation,
    /// When its caller had an answer, or waited no longer for one.
    ended: Moment,
}

/// All that clients did and were told.
#[derive(Debug)]
pub(crate) struct History {
    calls: Vec<Call>,
    faults: Faults,
}

impl Recorder {
    /// Starts clients that ask any of these control planes, by chance from this seed.
    pub(crate) fn start(urls: &[String], seed: u64) -> Self {
        let slots = (0..SLOTS).map(|_| Mutex::default()).collect();
        let [is_silent, is_over] = [(); 2].map(|()| AtomicBool::new(false));
        let (start, writes, faults) = (Instant::now(), AtomicU64::new(0), Mutex::default());
        let shared = Arc::new(Shared { start, is_silent, is_over, writes, slots, faults });
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let callers = urls.iter().map(|url| Caller::new(url)).collect();
            let random = StdRng::seed_from_u64(seed + number as u64);
            clients.spawn(Client { callers, random, shared: Arc::clone(&shared) }.run());
        }
        Self { clients, shared }
    }

    /// Notes that there was a fault from that moment until now.
    pub(crate) fn saw_fault(&self, began: Instant) {
        let began = nanos(began.saturating_duration_since(self.shared.start));
        lock(&self.shared.faults).add(began, self.shared.now());
    }

    /// Ends them once all that may lapse has had the time for it, and each has the answer that it waits for.
    pub(crate) async fn stop(mut self) -> History {
        self.shared.is_silent.store(true, Relaxed);
        tokio::time::sleep(SETTLES + TTL + GOES + FRESH + SECOND).await;
        self.shared.is_over.store(true, Relaxed);
        let mut calls = Vec::new();
        ends_within(60 * SECOND, "clients have their last answers", async {
            while let Some(noted) = self.clients.join_next().await {
                calls.extend(noted.expect("clients do not panic"));
            }
        })
        .await;
        History { calls, faults: lock(&self.shared.faults).clone() }
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
        let Turn { number, lease, is_silent } = shared.enter(slot, &mut self.random)?;
        let (key, id) = ((slot, number), format!("r-{slot}-{number}"));
        let (service, ttl) = terms(key);
        let caller = &self.callers[control];
        let called = shared.now();
        // The last of ten is a look, and so is what would need a lease where there is none. What may lapse is renewed mostly, or no
        // lease would be there for long enough.
        let [registers, removes, renews] = match (slot < LAPSING, &lease) {
            (true, None) => [9; 3],
            (true, Some(_)) => [2, 3, 9],
            (false, _) => [3, 5, 8],
        };
        let what = if is_silent { 9 } else { self.random.random_range(0..10) };
        let (kind, fact, is_known) = match (what, lease) {
            (what, _) if what < registers => {
                let write = shared.writes.fetch_add(1, Relaxed);
                let address = format!("10.{}.{}.{}:80", 200 + slot, number / 250, number % 250);
                let mut request = registration(&service, &id, &address, ttl);
                request.version = write.to_string();
                let answered = caller.register(request).await;
                if let Ok(answer) = &answered {
                    shared.remember(key, write, answer.lease_id.clone());
                }
                (Kind::Change, Fact::Registers(write), is_known(&answered)?)
            }
            (what, Some((write, lease))) if what < removes => {
                match caller.deregister(&service, &id, &lease).await {
                    Ok(answer) if answer.removed => (Kind::Change, Fact::Removes(write), true),
                    Ok(_) => (Kind::Change, Fact::FindsNobody, true),
                    Err(status) => match told(&status, write) {
                        Some(fact) => (Kind::Change, fact, true),
                        None => (Kind::Change, Fact::Removes(write), is_known::<()>(&Err(status))?),
                    },
                }
            }
            (what, Some((write, lease))) if what < renews => {
                match caller.renew(&service, &id, &lease).await {
                    Ok(()) => (Kind::Renewal, Fact::Renews(write), true),
                    Err(status) => match told(&status, write) {
                        Some(fact) => (Kind::Renewal, fact, true),
                        None => (Kind::Renewal, Fact::Renews(write), is_known::<()>(&Err(status))?),
                    },
                }
            }
            _ => match caller.get(&service, &id).await {
                Ok(replica) => (Kind::Read, Fact::Finds(replica.version.parse().ok()?), true),
                Err(status) => (Kind::Read, told(&status, Write::MAX)?, true),
            },
        };
        if !is_known && kind == Kind::Change {
            shared.lost_track(key);
        }
        let ended = shared.now();
        let operation = Operation { called, returned: is_known.then_some(ended), fact };
        Some(Call { key, control, kind, operation, ended })
    }
}

/// The service and the time to live of a replica. Each that lapses has a service to itself, for the guard believes in no more
/// than two at once.
fn terms((slot, number): Key) -> (String, Duration) {
    if slot < LAPSING { (format!("history-{slot}-{number}"), TTL) } else { ("history".into(), LONG_TTL) }
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
        reason::LEASE_EXPIRED => Some(Fact::FindsLapsed(write)),
        reason::REPLICA_REMOVED | reason::REPLICA_NOT_FOUND | reason::SERVICE_NOT_FOUND => {
            Some(Fact::FindsNobody)
        }
        _ => None,
    }
}

impl Shared {
    fn now(&self) -> Moment {
        nanos(self.start.elapsed())
    }

    /// The replica that is in this slot now; `None`: it has been looked at a moment ago.
    fn enter(&self, slot: usize, random: &mut StdRng) -> Option<Turn> {
        let (may_lapse, now) = (slot < LAPSING, self.now());
        let mut slot = lock(&self.slots[slot]);
        if may_lapse && (now < slot.silent_until || self.is_silent.load(Relaxed)) {
            let is_due = slot.looks_at <= now;
            slot.looks_at = slot.looks_at.max(now + nanos(LOOKS));
            return is_due.then_some(Turn { number: slot.number, lease: None, is_silent: true });
        }
        if slot.calls >= MAX_CALLS || slot.unknown >= MAX_UNKNOWN {
            *slot = Slot { number: slot.number + 1, ..Slot::default() };
        }
        slot.calls += 1;
        let count = slot.leases.len();
        if may_lapse && count > 0 && random.random_ratio(1, SPEAKS) {
            slot.silent_until = now + nanos(random.random_range(SILENCE));
        }
        // Mostly the last one.
        let which = if random.random_bool(0.7) {
            count.checked_sub(1)
        } else {
            random.random_range(0..=count).checked_sub(1)
        };
        let lease = which.and_then(|which| slot.leases.get(which).cloned());
        Some(Turn { number: slot.number, lease, is_silent: false })
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
    /// Holds it to an order, in which what was looked at during a fault may be as old as `oldest`: longer than any fault that keeps
    /// a control plane from hearing of others.
    pub(crate) fn hold(self, figures: &mut Figures, oldest: Duration) {
        let mut replicas: BTreeMap<Key, Replica> = BTreeMap::new();
        for call in &self.calls {
            replicas.entry(call.key).or_default().calls.push(*call);
        }
        for (key, replica) in &mut replicas {
            if key.0 < LAPSING {
                replica.lease_by(&self.faults);
            }
        }
        let count = |is: fn(&&Call) -> bool| self.calls.iter().filter(is).count();
        let changes = count(|call| call.kind == Kind::Change);
        let unknown = count(|call| call.kind == Kind::Change && call.operation.returned.is_none());
        let looks = count(|call| call.kind != Kind::Change && call.operation.returned.is_some());
        figures.show(
            &format!("changes and looks at {} replicas, of unknown outcome", replicas.len()),
            format!("{changes}, {looks}, {unknown}"),
        );
        let changes = replicas.values().map(|replica| (replica.changes(), &replica.leases));
        let found = Found::by(changes);
        figures.at_most("replicas whose changes no order explains", 0, found.contradictory);
        figures.at_most("replicas whose history is too tangled to be judged", 0, found.undecided);
        self.hold_leases(figures, &replicas, oldest);
        let age = AGES.into_iter().chain([oldest]).find(|age| {
            let verdicts = replicas.values().map(|replica| replica.judge(&self.faults, *age));
            verdicts.into_iter().all(|verdict| matches!(verdict, Verdict::Explained { .. }))
        });
        let shown = age.map_or_else(|| format!("more than {oldest:?}"), |age| format!("{age:?}"));
        figures.hold(&format!("reads and renewals explained, if as old as {oldest:?}"), shown, age.is_some());
        if age.is_none() {
            self.tell(&replicas, oldest);
        }
    }

    /// Holds what goes by itself to when it may, and must.
    fn hold_leases(&self, figures: &mut Figures, replicas: &BTreeMap<Key, Replica>, oldest: Duration) {
        let (mut lapsed, mut unexplained) = (0, 0);
        for replica in replicas.values().filter(|replica| !replica.leases.is_empty()) {
            match replica.judge(&self.faults, oldest) {
                Verdict::Explained { lapsed: more } => lapsed += more,
                Verdict::Contradictory { .. } | Verdict::Undecided => unexplained += 1,
            }
        }
        let taken = self.calls.iter().filter(|call| call.key.0 < LAPSING).filter_map(|call| {
            let Operation { called, returned, fact } = call.operation;
            matches!(fact, Fact::Renews(_)).then_some((called, returned?))
        });
        let [all, sure] = taken.fold([0, 0], |[all, sure], (called, returned)| {
            [all + 1, sure + usize::from(self.faults.let_through(called, returned))]
        });
        figures.show(
            &format!("renewals of leases of {TTL:?}, while there was no fault"),
            format!("{all}, {sure}"),
        );
        figures.hold(&format!("leases of {TTL:?} that lapsed >= 1"), lapsed, lapsed > 0);
        figures.at_most("replicas that went too early or too late, or came back", 0, unexplained);
    }

    /// Shows the first history that nothing explains, near where it cannot go on.
    fn tell(&self, replicas: &BTreeMap<Key, Replica>, age: Duration) {
        for (key, replica) in replicas {
            if let Verdict::Contradictory { explained, then } = replica.judge(&self.faults, age) {
                eprintln!("         r-{}-{}: {explained} are explained; then none of {then:?}", key.0, key.1);
                let around = then.iter().map(|operation| operation.called).min().unwrap_or_default();
                let mut near = replica.calls.clone();
                near.sort_by_key(|call| call.operation.called);
                let reach = if replica.leases.is_empty() { Duration::from_secs(1) } else { 3 * TTL };
                for call in near.iter().filter(|call| call.operation.called.abs_diff(around) < nanos(reach)) {
                    let Operation { called, returned, fact } = call.operation;
                    eprintln!("           {called} {returned:?} at control plane {}: {fact:?}", call.control);
                }
                eprintln!("           {:?}, {:?}", replica.leases, self.faults);
                return;
            }
        }
    }
}

/// What was done to one replica.
#[derive(Debug, Default)]
struct Replica {
    calls: Vec<Call>,
    leases: Leases,
}

impl Replica {
    /// Its leases may lapse.
    fn lease_by(&mut self, faults: &Faults) {
        let signs = self.calls.iter().map(|call| Sign { operation: call.operation, ended: call.ended });
        self.leases = faults.leases(TTL, &signs.collect::<Vec<_>>());
    }

    fn changes(&self) -> Vec<Operation> {
        let changes = self.calls.iter().filter(|call| call.kind == Kind::Change);
        changes.map(|call| call.operation).collect()
    }

    /// Judges all of it, where what is looked at may be so old, but for what the same control plane acknowledged.
    fn judge(&self, faults: &Faults, age: Duration) -> Verdict {
        let own = |look: &Call| {
            let own = |call: &&Call| call.kind == Kind::Change && call.control == look.control;
            let before = self.calls.iter().filter(own).filter_map(|call| call.operation.returned);
            before.filter(|returned| *returned < look.operation.called).max().unwrap_or_default()
        };
        let oldest_renewal = OLDEST_RENEWAL[usize::from(self.leases.is_empty())];
        let operations = self.calls.iter().filter_map(|call| {
            let age = match call.kind {
                Kind::Change => return Some(call.operation),
                Kind::Read => age,
                Kind::Renewal => age.min(oldest_renewal),
            };
            // A look that told nothing says nothing.
            call.operation.returned?;
            let called = faults.seen_from(call.operation.called, age).max(own(call));
            Some(Operation { called, ..call.operation })
        });
        judge(&operations.collect::<Vec<_>>(), &self.leases, LIMIT)
    }
}

/// How many histories are of which kind.
#[derive(Debug, Default)]
struct Found {
    contradictory: u64,
    undecided: u64,
}

impl Found {
    fn by<'a>(histories: impl Iterator<Item = (Vec<Operation>, &'a Leases)>) -> Self {
        let (mut found, began) = (Self::default(), Instant::now());
        for (history, leases) in histories {
            let limit = if began.elapsed() < JUDGED_WITHIN { LIMIT } else { 0 };
            match judge(&history, leases, limit) {
                Verdict::Explained { .. } => {}
                Verdict::Contradictory { .. } => found.contradictory += 1,
                Verdict::Undecided => found.undecided += 1,
            }
        }
        found
    }
}
