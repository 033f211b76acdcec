//! What a decided command writes, and what follows from it once it is durable: an answer and events.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use gateway_proto::{Health, ReplicaId, ServiceName, policy::FaultInjection, v1::RemovalCause};

use super::{
    Drain, Event, EventKind, Item, Key, Override, Record, Revision, Said, StoredPolicy, StoredRoute, Why,
};

/// What one command writes: all of it becomes durable at one revision, or nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Mutation {
    /// The write that the answer is about.
    pub main: RecordWrite,
    /// What goes with it.
    pub also: Vec<RecordWrite>,
    /// When it was decided, by the wall clock.
    pub at: SystemTime,
}

/// A write to one record, and what must still hold when it is committed.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordWrite {
    /// The record.
    pub key: Key,
    /// The record's revision when this was decided; `None`: it was absent.
    pub expected: Option<Revision>,
    /// What becomes of it.
    pub write: Write,
    /// Why.
    pub cause: Cause,
}

/// What becomes of a record.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    /// It is this from now on; the store fills in the revision.
    Put(Item),
    /// It is gone.
    Remove,
}

/// Why a record changes.
#[derive(Debug, Clone, PartialEq)]
pub enum Cause {
    /// It registered and was not there.
    Registered,
    /// It registered and was there.
    Replaced {
        /// The incarnation that ends here.
        incarnation: i64,
    },
    /// Somebody asked to remove it.
    Deregistered {
        /// Whether an operator did so, without the lease.
        forced: bool,
        /// For people.
        said: Said,
    },
    /// It was lost, and another replica registered at its address.
    Superseded {
        /// Who has the address now.
        by: ReplicaId,
    },
    /// Data planes cannot reach it.
    Evicted {
        /// What they say.
        why: Why,
    },
    /// Its lease lapsed.
    Expired {
        /// How long nothing was heard of it.
        silent_for: Duration,
        /// What was granted.
        ttl: Duration,
    },
    /// Its lease lapsed together with too many others.
    Held {
        /// How long nothing was heard of it.
        silent_for: Duration,
    },
    /// It was lost and heard of again.
    Recovered,
    /// It reported another health.
    HealthReported {
        /// The health before.
        before: Health,
    },
    /// It gets no new requests.
    Draining,
    /// Nothing is in flight any more, or the time for it is over.
    Drained {
        /// Whether nothing is in flight.
        is_idle: bool,
    },
    /// It gets requests again.
    Undrained {
        /// For people.
        said: Said,
    },
    /// A policy was set, or changed.
    PolicyUpdated {
        /// What became of faults with that.
        fault: FaultStep,
        /// Its settings that changed, as events tell them; empty where nobody knows.
        changes: Box<str>,
    },
    /// A policy was removed.
    PolicyDeleted {
        /// What became of faults with that.
        fault: FaultStep,
        /// The settings that it had, likewise.
        changes: Box<str>,
        /// For people.
        said: Said,
    },
    /// The time of a policy's faults was over.
    FaultOver,
    /// An explicit route was set, or changed.
    RouteUpdated,
    /// An explicit route was removed.
    RouteDeleted {
        /// Where it led.
        service: ServiceName,
        /// For people.
        said: Said,
    },
    /// An override was set.
    Overridden,
    /// Registrations of a replica that is not there were blocked, when somebody asked to remove it.
    Blocked,
    /// An override ended.
    OverrideEnded {
        /// What ended.
        entry: Box<Override>,
        /// Who asked; `None`: its time was over.
        by: Option<Said>,
    },
}

/// What a change of a policy does to the faults that it injects.
#[derive(Debug, Clone, PartialEq)]
pub enum FaultStep {
    /// It injects what it did before, if anything.
    Same,
    /// It injects this from now on.
    Began(Box<FaultInjection>),
    /// It injects nothing any more.
    Ended,
}

/// What a permitted command is answered.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// The replica is registered as this.
    Registered {
        /// As stored.
        record: Arc<Record>,
        /// Whether it was absent before.
        created: bool,
    },
    /// The replica is not registered.
    Deregistered {
        /// Whether this command did it.
        removed: bool,
        /// The registry's revision with that.
        revision: Revision,
    },
    /// The replica is as this from now on: its health, its mode, or whether it is lost.
    Replica(Arc<Record>),
    /// The lease is no more.
    Expired {
        /// Whether a replica went with it.
        removed: bool,
    },
    /// What was asked about a replica is of no use any more: it has changed meanwhile.
    Moot,
    /// The policy is stored as this.
    Policy(Arc<StoredPolicy>),
    /// The policy is not stored.
    PolicyDeleted(Revision),
    /// Of several policies, those that were changed are stored as these; others are removed.
    Policies {
        /// As stored.
        policies: Vec<Arc<StoredPolicy>>,
        /// The registry's revision with that.
        revision: Revision,
    },
    /// The route is stored as this.
    Route(Arc<StoredRoute>),
    /// The route is not stored.
    RouteDeleted(Revision),
    /// The override is in force as this.
    Overridden(Arc<Override>),
    /// The override is not in force.
    OverrideEnded {
        /// Whether this command did it.
        ended: bool,
        /// The registry's revision with that.
        revision: Revision,
    },
}

impl RecordWrite {
    /// A write of an item that has this revision now, or is absent.
    pub(crate) fn put(item: impl Into<Item>, expected: Option<Revision>, cause: Cause) -> Self {
        let item = item.into();
        Self { key: item.key(), expected, write: Write::Put(item), cause }
    }

    /// The removal of a record that has this revision now.
    pub(crate) fn remove(key: Key, expected: Revision, cause: Cause) -> Self {
        Self { key, expected: Some(expected), write: Write::Remove, cause }
    }

    /// The replica that this writes, if it writes one.
    pub fn record(&self) -> Option<&Record> {
        match &self.write {
            Write::Put(item) => item.as_replica(),
            Write::Remove => None,
        }
    }
}

impl Cause {
    /// What data planes are told when it removes a replica.
    pub(super) fn removal(&self) -> RemovalCause {
        match self {
            Self::Expired { .. } => RemovalCause::Expired,
            Self::Evicted { .. } => RemovalCause::Evicted,
            Self::Deregistered { .. } | Self::Superseded { .. } => RemovalCause::Deregistered,
            _ => RemovalCause::Unspecified,
        }
    }
}

impl Mutation {
    /// One write alone.
    pub(crate) fn one(main: RecordWrite, at: SystemTime) -> Self {
        Self { main, also: Vec::new(), at }
    }

    /// Every write, the main one first.
    pub fn writes(&self) -> impl Iterator<Item = &RecordWrite> {
        std::iter::once(&self.main).chain(&self.also)
    }

    /// The answer to the command, once this is committed at `revision`.
    pub fn answer(&self, revision: Revision) -> Answer {
        if !self.also.is_empty() && matches!(self.main.key, Key::Policy(_)) {
            let policies = self.writes().filter_map(|write| match &write.write {
                Write::Put(item) => match item.clone().at(revision) {
                    Item::Policy(policy) => Some(Arc::new(*policy)),
                    _ => None,
                },
                Write::Remove => None,
            });
            return Answer::Policies { policies: policies.collect(), revision };
        }
        match (&self.main.write, &self.main.cause) {
            (Write::Put(item), cause) => match (item.clone().at(revision), cause) {
                (Item::Replica(record), Cause::Registered) => {
                    Answer::Registered { record: Arc::new(*record), created: true }
                }
                (Item::Replica(record), Cause::Replaced { .. }) => {
                    Answer::Registered { record: Arc::new(*record), created: false }
                }
                (Item::Replica(record), _) => Answer::Replica(Arc::new(*record)),
                (Item::Policy(policy), _) => Answer::Policy(Arc::new(*policy)),
                (Item::Route(stored), _) => Answer::Route(Arc::new(*stored)),
                (Item::Override(_), Cause::Blocked) => Answer::Deregistered { removed: false, revision },
                (Item::Override(entry), _) => Answer::Overridden(Arc::new(*entry)),
            },
            (Write::Remove, Cause::Expired { .. }) => Answer::Expired { removed: true },
            (Write::Remove, Cause::PolicyDeleted { .. }) => Answer::PolicyDeleted(revision),
            (Write::Remove, Cause::RouteDeleted { .. }) => Answer::RouteDeleted(revision),
            (Write::Remove, Cause::OverrideEnded { .. }) => Answer::OverrideEnded { ended: true, revision },
            (Write::Remove, _) => Answer::Deregistered { removed: true, revision },
        }
    }

    /// What people are told, once this is committed at `revision`.
    pub(super) fn events(&self, revision: Revision) -> Vec<Event> {
        let mut events = Vec::with_capacity(1 + self.also.len());
        for write in self.writes() {
            events.push(write.event(self.at, revision));
            events.extend(write.fault_event(self.at, revision));
        }
        events
    }
}

/// Who acts when nobody asked.
const REGISTRY: &str = "registry";
/// Who acts when the holder of the lease asked.
const OWNER: &str = "owner";

impl RecordWrite {
    fn event(&self, at: SystemTime, revision: Revision) -> Event {
        let (kind, actor, message) = self.story();
        let mut metadata = vec![("revision", revision.to_string())];
        let (mut service, mut replica, mut node) = (None, None, None);
        match &self.key {
            Key::Replica(key) => (service, replica) = (Some(key.service.clone()), Some(key.replica.clone())),
            Key::Policy(scope) => service = scope.service().cloned(),
            Key::Override(id) => metadata.push(("override_id", id.to_string())),
            Key::Route(name) => {
                service = self.route_service().cloned();
                metadata.push(("route", name.to_string()));
            }
        }
        if let Cause::PolicyUpdated { changes, .. } | Cause::PolicyDeleted { changes, .. } = &self.cause
            && !changes.is_empty()
        {
            metadata.push(("changes", changes.to_string()));
        }
        if let Some(record) = self.record() {
            metadata.push(("address", record.endpoint.address.to_string()));
            metadata.push(("incarnation", record.incarnation.to_string()));
        }
        if let Some(entry) = self.about_override() {
            service = Some(entry.target.service.clone());
            (replica, node) = (entry.target.replica.clone(), entry.target.node.clone());
        }
        Event { kind, service, replica, node, actor: actor.into(), at, message, metadata }
    }

    /// What there is to say of faults beside the change of their policy.
    fn fault_event(&self, at: SystemTime, revision: Revision) -> Option<Event> {
        let (step, said) = match (&self.cause, &self.write) {
            (Cause::PolicyUpdated { fault, .. }, Write::Put(Item::Policy(policy))) => {
                (fault, (&*policy.updated_by, &*policy.update_reason))
            }
            (Cause::PolicyDeleted { fault, said, .. }, _) => (fault, (author(&said.author), &*said.reason)),
            _ => return None,
        };
        let (kind, what, fault) = match step {
            FaultStep::Same => return None,
            FaultStep::Began(fault) => {
                let what = format!("injects faults on purpose until {}: {fault}", fault.end_time);
                (EventKind::FaultBegan, what, Some(fault))
            }
            FaultStep::Ended => (EventKind::FaultEnded, "injects no faults any more".to_owned(), None),
        };
        let Key::Policy(scope) = &self.key else { return None };
        let mut metadata = vec![("revision", revision.to_string())];
        if let Some(fault) = fault {
            metadata.push(("fault", fault.to_string()));
            metadata.push(("end_time", fault.end_time.to_string()));
        }
        Some(Event {
            kind,
            service: scope.service().cloned(),
            replica: None,
            node: None,
            actor: said.0.into(),
            at,
            message: because(&what, said.1),
            metadata,
        })
    }

    fn about_override(&self) -> Option<&Override> {
        match (&self.write, &self.cause) {
            (Write::Put(Item::Override(entry)), _) => Some(entry),
            (_, Cause::OverrideEnded { entry, .. }) => Some(entry),
            _ => None,
        }
    }

    /// Where the route leads, or led, that this is about.
    fn route_service(&self) -> Option<&ServiceName> {
        match (&self.write, &self.cause) {
            (Write::Put(Item::Route(stored)), _) => Some(&stored.route.service),
            (_, Cause::RouteDeleted { service, .. }) => Some(service),
            _ => None,
        }
    }

    /// The kind of event, who brought it about, and a sentence.
    fn story(&self) -> (EventKind, &str, String) {
        match &self.cause {
            Cause::Registered => {
                (EventKind::ReplicaRegistered, OWNER, format!("registered {}", self.terms()))
            }
            Cause::Replaced { incarnation } => (
                EventKind::ReplicaReplaced,
                OWNER,
                format!("registered anew {}, in the place of incarnation {incarnation}", self.terms()),
            ),
            Cause::Deregistered { forced, said } => {
                let by = if *forced { "deregistered by an operator" } else { "deregistered" };
                let actor = if *forced { author(&said.author) } else { OWNER };
                (EventKind::ReplicaDeregistered, actor, because(by, &said.reason))
            }
            Cause::Superseded { by } => {
                let message = format!("was lost, and replica {by} registered at its address");
                (EventKind::ReplicaDeregistered, REGISTRY, message)
            }
            Cause::Expired { silent_for, ttl } => {
                let (silence, ttl) = (silent_for.as_secs_f64(), ttl.as_secs_f64());
                (EventKind::LeaseExpired, REGISTRY, format!("no heartbeat for {silence:.1}s, ttl {ttl}s"))
            }
            Cause::Evicted { why } => (EventKind::ReplicaEvicted, REGISTRY, format!("evicted: {why}")),
            Cause::Held { silent_for } => {
                let silence = silent_for.as_secs_f64();
                let message = format!(
                    "no heartbeat for {silence:.1}s, like too many others of the service: held, still routable"
                );
                (EventKind::ReplicaLost, REGISTRY, message)
            }
            Cause::Recovered => {
                (EventKind::ReplicaFound, OWNER, "renewed its lease after it was lost".into())
            }
            Cause::HealthReported { before } => (EventKind::HealthChanged, OWNER, self.health_step(*before)),
            Cause::Draining => self.drain_story(),
            Cause::Drained { is_idle: true } => {
                (EventKind::ReplicaDrained, REGISTRY, "nothing is in flight any more".into())
            }
            Cause::Drained { is_idle: false } => {
                (EventKind::ReplicaDrained, REGISTRY, "its time to drain is over".into())
            }
            Cause::Undrained { said } => (
                EventKind::ReplicaUndrained,
                author(&said.author),
                because("gets requests again", &said.reason),
            ),
            Cause::PolicyUpdated { .. } => {
                let policy = match &self.write {
                    Write::Put(Item::Policy(policy)) => Some(policy),
                    _ => None,
                };
                let (by, why) =
                    policy.map_or(("", ""), |policy| (&*policy.updated_by, &*policy.update_reason));
                (EventKind::PolicyUpdated, by, because("policy updated", why))
            }
            Cause::FaultOver => {
                (EventKind::FaultEnded, REGISTRY, "injects no faults any more: their time is over".to_owned())
            }
            Cause::PolicyDeleted { said, .. } => {
                (EventKind::PolicyDeleted, author(&said.author), because("policy deleted", &said.reason))
            }
            Cause::RouteUpdated => {
                let Write::Put(Item::Route(stored)) = &self.write else {
                    return (EventKind::RouteUpdated, "", String::new());
                };
                let what = format!("route {} set: {}", stored.route.name, stored.route.conditions());
                (EventKind::RouteUpdated, &stored.updated_by, because(&what, &stored.update_reason))
            }
            Cause::RouteDeleted { said, .. } => {
                let what = match &self.key {
                    Key::Route(name) => format!("route {name} deleted"),
                    _ => String::new(),
                };
                (EventKind::RouteDeleted, author(&said.author), because(&what, &said.reason))
            }
            Cause::Overridden | Cause::Blocked => {
                let Some(entry) = self.about_override() else {
                    return (EventKind::OverrideSet, "", String::new());
                };
                let span = entry.expires_at.duration_since(entry.created_at).unwrap_or_default();
                let what =
                    format!("{} of {} for {}", entry.kind, entry.target, humantime::format_duration(span));
                (EventKind::OverrideSet, &entry.author, because(&what, &entry.reason))
            }
            Cause::OverrideEnded { entry, by } => {
                let what = format!("{} of {}", entry.kind, entry.target);
                match by {
                    Some(said) => (
                        EventKind::OverrideEnded,
                        author(&said.author),
                        because(&format!("ended: {what}"), &said.reason),
                    ),
                    None => (EventKind::OverrideEnded, REGISTRY, format!("its time is over: {what}")),
                }
            }
        }
    }

    fn terms(&self) -> String {
        let Some(record) = self.record() else { return String::new() };
        match record.lease {
            Some(lease) => format!("at {}, lease of {}s", record.endpoint.address, lease.ttl().as_secs_f64()),
            None => format!("at {}, permanent", record.endpoint.address),
        }
    }

    fn health_step(&self, before: Health) -> String {
        let Some(record) = self.record() else { return String::new() };
        because(&format!("{before} -> {}", record.health), &record.health_reason)
    }

    fn drain_story(&self) -> (EventKind, &str, String) {
        let Some(drain) = self.record().and_then(|record| record.drain.as_deref()) else {
            return (EventKind::ReplicaDraining, "", String::new());
        };
        let Drain { author, reason, by_owner, .. } = drain;
        let span = drain.deadline.duration_since(drain.begun).unwrap_or_default();
        let what = format!("gets no new requests; those in flight have {}", humantime::format_duration(span));
        let actor = if *by_owner { OWNER } else { author };
        (EventKind::ReplicaDraining, actor, because(&what, reason))
    }
}

/// Who did it, where somebody other than the owner did.
pub(in crate::registry) fn author(author: &str) -> &str {
    if author.is_empty() { "an operator" } else { author }
}

/// What was done, and why where that was said.
pub(in crate::registry) fn because(what: &str, why: &str) -> String {
    if why.is_empty() { what.to_owned() } else { format!("{what}: {why}") }
}
