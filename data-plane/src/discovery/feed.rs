//! The one owner of the mirror: every message passes here, into the table and into what others may read.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use gateway_proto::{ReplicaKey, ServiceName, time, v1};
use tokio::{sync::watch, time::Instant};

use super::{Assembly, LetGo, Mirror, Received, Services, Source, Status, guard::Judgement, status::Left};
use crate::{
    clock::{Clock, Moment},
    table::{ServiceSpec, Table},
};

/// Names that one line of the log may have.
const NAMED: usize = 5;

/// Owns the mirror and writes the table. There is one for each data plane.
#[derive(Debug)]
pub struct Feed {
    mirror: watch::Sender<Mirror>,
    applied: watch::Sender<Position>,
    status: watch::Sender<Status>,
    /// Held from a change of the mirror until it is in the table, so that changes get there in their order.
    turn: Mutex<()>,
    table: Arc<Table>,
    clock: Clock,
}

/// What everybody else may see of discovery. Reading takes a short lock and never waits for the network.
#[derive(Debug, Clone)]
pub struct View {
    /// What is routed by; a notification means that it changed.
    pub mirror: watch::Receiver<Mirror>,
    /// How far the table has come: it changes once requests are routed by what it names, and by nothing older.
    pub applied: watch::Receiver<Position>,
    /// How the link stands.
    pub status: watch::Receiver<Status>,
}

/// What a registry was at some moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Position {
    /// The incarnation of its store; empty when nothing is held.
    pub epoch: String,
    /// Its revision; those of two epochs do not compare.
    pub revision: i64,
}

impl Feed {
    /// Begins with `mirror`, whose snapshot was `age` old; all of it is in the table when this returns.
    pub fn new(
        mirror: Mirror,
        source: Source,
        age: Duration,
        table: Arc<Table>,
        clock: Clock,
    ) -> (Self, View) {
        // An empty registry is applied; nothing is not, for then nobody knows what is registered.
        if source != Source::None {
            route(&mirror, &mirror.names(), &table, clock.moment());
            set_routes(&mirror, &table);
        }
        let (applied, applied_view) = watch::channel(Position::of(&mirror));
        let (mirror, mirror_view) = watch::channel(mirror);
        let (status, status_view) = watch::channel(Status::new(source, age, Instant::now()));
        let view = View { mirror: mirror_view, applied: applied_view, status: status_view };
        (Self { mirror, applied, status, turn: Mutex::default(), table, clock }, view)
    }

    /// What is held; its epoch is empty when that is nothing.
    fn position(&self) -> Position {
        Position::of(&self.mirror.borrow())
    }

    /// Where to resume from; its epoch is empty when nothing leads on from what is held.
    pub(super) fn resumes_from(&self) -> Position {
        let mirror = self.mirror.borrow();
        if mirror.is_whole() { Position::of(&mirror) } else { Position::default() }
    }

    /// Carries these services from now on, and yields whether they were others before. When this returns, requests for those
    /// that are carried no more are answered as those for services that have left; what is new comes with the next full snapshot.
    pub(super) fn carry(&self, services: &Services) -> bool {
        let _turn = self.turn();
        let mut gone = None;
        self.mirror.send_if_modified(|mirror| {
            gone = mirror.carry(services);
            gone.is_some()
        });
        if let Some(gone) = &gone {
            self.follow(gone, self.clock.moment());
        }
        gone.is_some()
    }

    /// The services that are carried.
    pub(super) fn carried(&self) -> Services {
        self.mirror.borrow().services().clone()
    }

    /// Applies one message and yields its answer, together with what became of it.
    ///
    /// When this returns, new requests are routed by what the message said. The status changes last.
    pub(super) fn receive(
        &self,
        assembly: &mut Assembly,
        message: v1::StreamSnapshotsResponse,
    ) -> (v1::Ack, Received) {
        let _turn = self.turn();
        let now = self.clock.moment();
        let nonce = message.nonce.clone();
        let silence = message.store_silence.and_then(time::non_negative).unwrap_or_default();
        let goes_on_elsewhere = message.goes_on_elsewhere;
        let mut outcome = None;
        self.mirror.send_if_modified(|mirror| {
            let before = (mirror.snapshot().revision(), mirror.is_whole());
            let outcome = outcome.insert(mirror.receive(assembly, message, now));
            let is_applied = matches!(outcome.received, Received::Applied { .. });
            let after = (mirror.snapshot().revision(), mirror.is_whole());
            is_applied || !outcome.touched.is_empty() || before != after
        });
        let outcome = outcome.expect("the closure has run");
        self.follow(&outcome.touched, now);
        if outcome.routes_changed {
            // After the services that they lead to.
            set_routes(&self.mirror.borrow(), &self.table);
        }
        let position = self.position();
        let mut ack = v1::Ack { nonce, revision: position.revision, nack: None };
        self.applied.send_if_modified(|applied| std::mem::replace(applied, position.clone()) != position);
        log(&outcome.judgement);
        match &outcome.received {
            Received::Applied { .. } | Received::Unchanged => {
                self.status.send_modify(|status| status.confirm(Instant::now(), silence));
            }
            Received::Disputed(refusal) => self.status.send_modify(|status| {
                status.confirm(Instant::now(), silence);
                status.dispute(refusal.to_string());
            }),
            Received::Partial => {}
            Received::Refused(refusal) => {
                ack.nack = Some(refusal.to_nack());
                self.status.send_modify(|status| status.refuse(refusal.to_string()));
            }
        }
        self.hear_of_store(silence, goes_on_elsewhere);
        (ack, outcome.received)
    }

    fn hear_of_store(&self, silence: Duration, goes_on_elsewhere: bool) {
        let mut has_changed = false;
        self.status.send_modify(|status| {
            has_changed = status.hear_of_store(silence, Instant::now());
            status.goes_on_elsewhere = goes_on_elsewhere;
        });
        match has_changed {
            true if silence.is_zero() => tracing::info!("the control plane hears of its store again"),
            true if goes_on_elsewhere => {
                tracing::warn!("the registry goes on in another store than that of the control plane");
            }
            true => tracing::warn!(
                for_seconds = silence.as_secs(),
                "the control plane has lost touch with its store: what it tells may be as old"
            ),
            false => {}
        }
    }

    /// How the link stands.
    pub(super) fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Brings all of the mirror into the table, for a panic may have come between the two.
    pub(crate) fn route_all(&self) {
        let _turn = self.turn();
        let mut names = self.mirror.borrow().names();
        names.extend(self.table.services().keys().cloned());
        self.follow(&names, self.clock.moment());
        set_routes(&self.mirror.borrow(), &self.table);
    }

    /// Ends the overrides whose time is over, and yields how long it is until the next one ends.
    pub(super) fn end_overrides(&self) -> Option<Duration> {
        let _turn = self.turn();
        let now = self.clock.moment();
        let mut ended = BTreeSet::new();
        self.mirror.send_if_modified(|mirror| {
            ended = mirror.pass_time(now.wall);
            !ended.is_empty()
        });
        if !ended.is_empty() {
            tracing::info!(services = %some_of(&ended), "overrides have ended");
            self.follow(&ended, now);
        }
        let next = self.mirror.borrow().next_end()?;
        Some(next.duration_since(now.wall).unwrap_or_default())
    }

    /// What others see of the mirror.
    pub(super) fn watch(&self) -> watch::Receiver<Mirror> {
        self.mirror.subscribe()
    }

    pub(super) fn set_disconnected(&self) {
        self.status.send_modify(|status| status.set_connected(false, Instant::now()));
    }

    /// Notes that the control plane at `url` is followed now.
    pub(super) fn begin(&self, url: &str) {
        self.status.send_modify(|status| status.follow(url, Instant::now()));
    }

    /// The control plane that is left for the one at `url`, if that is another one.
    pub(super) fn leaves(&self, url: &str) -> Option<v1::LeftControlPlane> {
        let Left { url, reason, at } = self.status.borrow().left_for(url)?;
        let leave_time = Some(time::timestamp(at));
        Some(v1::LeftControlPlane { url: url.to_string(), reason: reason.into(), leave_time })
    }

    /// Notes why a stream ended, or could not begin.
    pub(super) fn end(&self, reason: &'static str) {
        let wall = self.wall();
        self.status.send_modify(|status| status.end(reason, Instant::now(), wall));
    }

    /// What the wall clock shows.
    pub(super) fn wall(&self) -> SystemTime {
        self.clock.moment().wall
    }

    /// What it means for requests that nothing new comes, for the log.
    pub(super) fn meanwhile(&self) -> &'static str {
        match self.status.borrow().source {
            Source::None => "nothing to route by yet",
            _ => "going on with the snapshot in use",
        }
    }

    fn follow(&self, names: &BTreeSet<ServiceName>, now: Moment) {
        let specs = specs(&self.mirror.borrow(), names);
        apply(specs, &self.table, now);
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        // It guards nothing but an order, which a panic does not disturb.
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Position {
    fn of(mirror: &Mirror) -> Self {
        let snapshot = mirror.snapshot();
        Self { epoch: snapshot.epoch().to_owned(), revision: snapshot.revision() }
    }
}

/// Brings these services as they are now into the table.
pub(super) fn route(mirror: &Mirror, names: &BTreeSet<ServiceName>, table: &Table, now: Moment) {
    apply(specs(mirror, names), table, now);
}

/// Brings the explicit routes into the table.
fn set_routes(mirror: &Mirror, table: &Table) {
    table.set_routes(mirror.snapshot().routes());
}

fn specs(mirror: &Mirror, names: &BTreeSet<ServiceName>) -> (Vec<ServiceSpec>, Vec<ServiceName>) {
    let (mut changed, mut gone) = (Vec::new(), Vec::new());
    for name in names {
        match mirror.service(name) {
            Some(spec) => changed.push(spec),
            None => gone.push(name.clone()),
        }
    }
    (changed, gone)
}

fn apply((changed, gone): (Vec<ServiceSpec>, Vec<ServiceName>), table: &Table, now: Moment) {
    if !changed.is_empty() || !gone.is_empty() {
        table.apply(&changed, &gone, now.tick);
        table.inject(&changed, now);
    }
}

/// One line when holding begins, and one for each reason for which it ends, however many replicas it is about.
fn log(judgement: &Judgement) {
    if !judgement.held.is_empty() {
        let (replicas, services) = (judgement.held.len(), services(&judgement.held));
        tracing::warn!(
            replicas,
            services = %some_of(&services),
            "the registry has dropped too many replicas at once: they are held, and breakers decide on them"
        );
    }
    let mut by_reason: BTreeMap<LetGo, Vec<&ReplicaKey>> = BTreeMap::new();
    for (key, why) in &judgement.let_go {
        by_reason.entry(*why).or_default().push(key);
    }
    for (why, keys) in by_reason {
        let (replicas, services) = (keys.len(), services(keys));
        tracing::info!(replicas, services = %some_of(&services), reason = %why, "replicas are no more held");
    }
}

fn services<'a>(keys: impl IntoIterator<Item = &'a ReplicaKey>) -> BTreeSet<ServiceName> {
    keys.into_iter().map(|key| key.service.clone()).collect()
}

/// The first few names, and how many more there are.
fn some_of(names: &BTreeSet<ServiceName>) -> String {
    let named: Vec<_> = names.iter().take(NAMED).map(ServiceName::as_str).collect();
    let named = named.join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}
