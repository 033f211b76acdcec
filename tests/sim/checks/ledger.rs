//! What is durable, and was at every revision: learnt from the disk's commits alone.

use std::{collections::BTreeMap, rc::Rc};

use control_plane::{
    registry::{
        Answer, Cause, Command, Item, Key, Mutation, Override, OverrideKind, Proof, Record, RecordWrite,
        Revision, Scope, StoredPolicy, StoredRoute, Target, View, Write,
    },
    store::Loaded,
};
use gateway_proto::{
    ReplicaKey, ServiceName,
    policy::{self, Partial},
};

use super::{Checked, claim, evictions::Reports, leases::LeaseBook, shares::Shares};
use crate::env::Env;

/// Everything that the registry had at one revision.
pub(super) type Registry = BTreeMap<Key, Item>;

/// The truth about the registry.
#[derive(Default)]
pub(crate) struct Ledger {
    /// The present disk's epoch, once it was read.
    pub(super) epoch: String,
    pub(super) revision: Revision,
    present: Rc<Registry>,
    history: BTreeMap<(String, Revision), Rc<Registry>>,
    /// The highest incarnation that each id ever had on this disk.
    incarnations: BTreeMap<ReplicaKey, i64>,
    pub(super) leases: LeaseBook,
    pub(super) shares: Shares,
    pub(super) reports: Reports,
}

impl Ledger {
    /// The process has read the disk: every lease has one full time to live.
    pub(crate) fn restarted(&mut self, epoch: &str, now: u64) {
        epoch.clone_into(&mut self.epoch);
        self.history.insert((self.epoch.clone(), self.revision), Rc::clone(&self.present));
        self.leases.restarted(now);
        self.shares = Shares::default();
        self.reports = Reports::default();
    }

    /// An empty disk has taken the place of the last one.
    pub(crate) fn disk_lost(&mut self) {
        let history = std::mem::take(&mut self.history);
        *self = Self { history, ..Self::default() };
    }

    /// A mutation is on the disk, brought about by this command.
    pub(crate) fn became_durable(
        &mut self,
        env: &Env,
        command: &Command,
        mutation: &Mutation,
        revision: Revision,
    ) -> Checked {
        self.revisions_only_grow(revision)?;
        self.what_was_decided_still_holds(mutation)?;
        self.a_stale_lease_changes_nothing(command, mutation)?;
        self.the_last_ready_replica_is_drained_on_an_explicit_word_only(command, mutation)?;
        for write in mutation.writes() {
            self.nothing_comes_back_by_itself(command, write)?;
            if let (Write::Remove, Some(key)) = (&write.write, write.key.as_replica()) {
                self.reports.forget(key);
            }
            if let (Cause::Superseded { .. }, Some(key)) = (&write.cause, write.key.as_replica()) {
                self.leases.only_the_silent_lose_their_place(key)?;
            }
            if let (Command::Register(_), Some(record)) = (command, write.record()) {
                self.incarnations_of_an_id_only_grow(record)?;
                self.what_is_blocked_stays_out(env, record)?;
                self.a_request_registers_once(record)?;
            }
        }
        if let Command::Expire { key, .. } = command {
            self.leases.only_silence_ends_a_lease(env.now, key)?;
        }
        let mut next = Registry::clone(&self.present);
        for write in mutation.writes() {
            match &write.write {
                Write::Put(item) => next.insert(write.key.clone(), item.clone().at(revision)),
                Write::Remove => next.remove(&write.key),
            };
        }
        self.revision = revision;
        self.present = Rc::new(next);
        self.history.insert((self.epoch.clone(), revision), Rc::clone(&self.present));
        self.an_address_has_one_owner()?;
        self.what_holds_for_a_service_goes_together()?;
        self.no_two_routes_are_in_conflict()
    }

    /// The registry's present state has another content from now on.
    pub(crate) fn took_effect(&mut self, now: u64, view: &View) -> Checked {
        self.what_is_published_is_what_is_durable(view)?;
        self.leases.took_effect(now, view);
        Ok(())
    }

    /// Every commit has a larger revision than the ones before.
    fn revisions_only_grow(&self, revision: Revision) -> Checked {
        claim("revisions_only_grow", revision > self.revision, || {
            format!("{revision} after {}", self.revision)
        })
    }

    /// What a command was decided on is what its mutation meets on the disk.
    fn what_was_decided_still_holds(&self, mutation: &Mutation) -> Checked {
        let stale =
            mutation.writes().find(|write| self.present.get(&write.key).map(revision_of) != write.expected);
        claim("what_was_decided_still_holds", stale.is_none(), || format!("{stale:?}"))
    }

    /// Each registration of an id has a larger incarnation than all that the id ever had.
    fn incarnations_of_an_id_only_grow(&mut self, record: &Record) -> Checked {
        let before = self.incarnations.insert(record.key.clone(), record.incarnation);
        claim(
            "incarnations_of_an_id_only_grow",
            before.is_none_or(|before| before < record.incarnation),
            || format!("{} had {before:?} and gets {}", record.key, record.incarnation),
        )
    }

    /// While registrations of a replica or of its address are blocked, none of them becomes durable.
    fn what_is_blocked_stays_out(&self, env: &Env, record: &Record) -> Checked {
        let block = overrides(&self.present).find(|entry| {
            let OverrideKind::RegistrationBlocked(address) = &entry.kind else { return false };
            let is_it = entry.target.replica.as_ref() == Some(&record.key.replica)
                || address.as_ref() == Some(&record.endpoint.address);
            entry.target.service == record.key.service && is_it && entry.expires_at > env.wall()
        });
        claim("what_is_blocked_stays_out", block.is_none(), || format!("{}: {block:?}", record.key))
    }

    /// A request that names itself registers one replica, however often it comes.
    fn a_request_registers_once(&self, record: &Record) -> Checked {
        let Some(mark) = record.request.as_deref() else { return Ok(()) };
        let of_request = |known: &&Record| known.request.as_deref().is_some_and(|known| known.id == mark.id);
        let twin = replicas(&self.present).find(of_request);
        claim("a_request_registers_once", twin.is_none(), || format!("{} and {twin:?}", record.key))
    }

    /// No two replicas of a service have the same address.
    fn an_address_has_one_owner(&self) -> Checked {
        let mut owners = BTreeMap::new();
        for record in replicas(&self.present) {
            let twin = owners.insert((&record.key.service, &record.endpoint.address), &record.key);
            claim("an_address_has_one_owner", twin.is_none(), || {
                format!("{} and {twin:?} are both at {}", record.key, record.endpoint.address)
            })?;
        }
        Ok(())
    }

    /// The policies of each service and of all of them do not contradict each other.
    fn what_holds_for_a_service_goes_together(&self) -> Checked {
        let star = partial(&self.present, None);
        for item in self.present.values() {
            let Item::Policy(own) = item else { continue };
            let own = own.scope.service().map(|_| &own.partial);
            let resolved = policy::check_resolved(star, own);
            claim("what_holds_for_a_service_goes_together", resolved.is_ok(), || format!("{resolved:?}"))?;
        }
        Ok(())
    }

    /// Whatever request comes, it is said which route counts.
    fn no_two_routes_are_in_conflict(&self) -> Checked {
        let routes: Vec<_> = routes(&self.present).map(|stored| &stored.route).collect();
        for (index, route) in routes.iter().enumerate() {
            let twin = routes[..index].iter().find(|other| other.conflicts_with(route));
            claim("no_two_routes_are_in_conflict", twin.is_none(), || format!("{route:?} and {twin:?}"))?;
        }
        Ok(())
    }

    /// Only the present lease, an operator's word, or no lease at all lets anybody report, drain, remove or expire a
    /// replica.
    fn a_stale_lease_changes_nothing(&self, command: &Command, mutation: &Mutation) -> Checked {
        let Some(key) = mutation.main.key.as_replica() else { return Ok(()) };
        let present = self.replica(key).and_then(|record| record.lease).map(|terms| terms.id);
        let shown = match command {
            Command::Deregister { proof: Proof::None, .. } => None,
            Command::Deregister { proof: Proof::Lease(lease), .. } => Some(*lease),
            Command::ReportHealth { lease, .. } => *lease,
            Command::Drain(wish) => match wish.proof {
                Proof::Lease(lease) => Some(lease),
                Proof::None | Proof::Force => return Ok(()),
            },
            Command::Expire { lease, .. } | Command::Hold { lease, .. } | Command::Recover { lease, .. } => {
                Some(*lease)
            }
            _ => return Ok(()),
        };
        claim("a_stale_lease_changes_nothing", present.is_none() || shown == present, || {
            format!("{command:?} changed {key}, whose lease is {present:?}")
        })
    }

    /// A service that has a ready replica keeps one through a drain, unless the drain says that it need not.
    fn the_last_ready_replica_is_drained_on_an_explicit_word_only(
        &self,
        command: &Command,
        mutation: &Mutation,
    ) -> Checked {
        let (Command::Drain(wish), Some(key)) = (command, mutation.main.key.as_replica()) else {
            return Ok(());
        };
        let was_ready = self.replica(key).is_some_and(Record::is_ready);
        let mut others = replicas(&self.present).filter(|peer| peer.key.service == key.service);
        let is_last = was_ready && !others.any(|peer| peer.key != *key && peer.is_ready());
        claim(
            "the_last_ready_replica_is_drained_on_an_explicit_word_only",
            !is_last || wish.allow_last,
            || format!("{key} is drained, and nobody else is ready"),
        )
    }

    /// A replica that is deregistered or expired is there again only when it registers again.
    fn nothing_comes_back_by_itself(&self, command: &Command, write: &RecordWrite) -> Checked {
        let is_back = write.record().is_some() && !self.present.contains_key(&write.key);
        claim("nothing_comes_back_by_itself", !is_back || matches!(command, Command::Register(_)), || {
            format!("{command:?} made {:?}", write.key)
        })
    }

    /// What a restart reads is all that was ever made durable, and nothing else: no acknowledged registration is lost,
    /// none comes back.
    pub(crate) fn a_restart_finds_exactly_what_is_durable(&self, loaded: &Loaded) -> Checked {
        let found = by_key(loaded.items.iter().cloned());
        let equal = found == *self.present && loaded.revision == self.revision;
        claim("a_restart_finds_exactly_what_is_durable", equal, || {
            format!("at {} {found:?}, durable at {} {:?}", loaded.revision, self.revision, self.present)
        })
    }

    /// What data planes and readers are shown is what the disk holds, at the same revision: replicas, policies and
    /// overrides.
    fn what_is_published_is_what_is_durable(&self, view: &View) -> Checked {
        let shown = by_key(view.items());
        let equal = shown == *self.present && view.revision() == self.revision;
        claim("what_is_published_is_what_is_durable", equal, || {
            format!("at {} {shown:?}, durable at {} {:?}", view.revision(), self.revision, self.present)
        })
    }

    /// Who is answered "done" can rely on it: the disk holds it at the revision that the answer names.
    pub(crate) fn an_answer_is_durable(&self, command: &Command, answer: &Answer) -> Checked {
        let at = |revision: Revision| self.history.get(&(self.epoch.clone(), revision));
        let holds =
            |item: Item| at(revision_of(&item)).is_some_and(|then| then.get(&item.key()) == Some(&item));
        let lacks = |key: Key, revision| at(revision).is_some_and(|then| !then.contains_key(&key));
        let is_so = match answer {
            Answer::Registered { record, .. } | Answer::Replica(record) => {
                holds(Record::clone(record).into())
            }
            Answer::Policy(stored) => holds(Item::Policy(Box::new((**stored).clone()))),
            Answer::Policies { policies, revision } => {
                let is_kept = |stored: &StoredPolicy| {
                    stored.revision == *revision && holds(Item::Policy(Box::new(stored.clone())))
                };
                policies.iter().all(|stored| is_kept(stored))
            }
            Answer::Route(stored) => holds(Item::Route(Box::new((**stored).clone()))),
            Answer::RouteDeleted(revision) => match command {
                Command::DeleteRoute { name, .. } => lacks(Key::Route(name.clone()), *revision),
                _ => true,
            },
            Answer::Overridden(entry) => holds(Override::clone(entry).into()),
            Answer::Deregistered { revision, .. } => match command {
                Command::Deregister { target: Target::Key(key), .. } => {
                    lacks(Key::Replica(key.clone()), *revision)
                }
                Command::Deregister { target: Target::Address(service, address), .. } => at(*revision)
                    .is_some_and(|then| {
                        let mut there = replicas(then).filter(|record| record.key.service == *service);
                        !there.any(|record| record.endpoint.address == *address)
                    }),
                _ => true,
            },
            Answer::PolicyDeleted(revision) => match command {
                Command::DeletePolicy { scope, .. } => lacks(Key::Policy(scope.clone()), *revision),
                _ => true,
            },
            Answer::OverrideEnded { revision, .. } => match command {
                Command::EndOverride { id, by: Ok(_) } => lacks(Key::Override(id.clone()), *revision),
                _ => true,
            },
            Answer::Expired { .. } | Answer::Moot => true,
        };
        claim("an_answer_is_durable", is_so, || {
            format!("{answer:?} while the disk is at revision {}", self.revision)
        })
    }

    /// With everybody heard of again, nobody is lost any more.
    pub(crate) fn lost_replicas_are_found_or_gone(&self) -> Checked {
        let lost = self.replicas().find(|record| record.lost.is_some());
        claim("lost_replicas_are_found_or_gone", lost.is_none(), || format!("{lost:?}"))
    }

    /// All replicas that are registered now.
    pub(crate) fn replicas(&self) -> impl Iterator<Item = &Record> {
        replicas(&self.present)
    }

    /// What the registry had at a revision of an epoch.
    pub(super) fn at(&self, epoch: &str, revision: Revision) -> Option<&Registry> {
        self.history.get(&(epoch.to_owned(), revision)).map(|then| &**then)
    }

    fn replica(&self, key: &ReplicaKey) -> Option<&Record> {
        self.present.get(&Key::Replica(key.clone()))?.as_replica()
    }
}

pub(super) fn replicas(registry: &Registry) -> impl Iterator<Item = &Record> {
    registry.values().filter_map(Item::as_replica)
}

pub(super) fn overrides(registry: &Registry) -> impl Iterator<Item = &Override> {
    registry.values().filter_map(|item| match item {
        Item::Override(entry) => Some(&**entry),
        Item::Replica(_) | Item::Policy(_) | Item::Route(_) => None,
    })
}

pub(super) fn routes(registry: &Registry) -> impl Iterator<Item = &StoredRoute> {
    registry.values().filter_map(|item| match item {
        Item::Route(stored) => Some(&**stored),
        _ => None,
    })
}

/// What is stored for a service, or for all.
pub(super) fn partial<'a>(registry: &'a Registry, service: Option<&ServiceName>) -> Option<&'a Partial> {
    let scope = service.map_or(Scope::All, |name| Scope::Service(name.clone()));
    match registry.get(&Key::Policy(scope)) {
        Some(Item::Policy(stored)) => Some(&stored.partial),
        _ => None,
    }
}

pub(super) fn revision_of(item: &Item) -> Revision {
    match item {
        Item::Replica(record) => record.revision,
        Item::Policy(stored) => stored.revision,
        Item::Override(entry) => entry.revision,
        Item::Route(stored) => stored.revision,
    }
}

fn by_key(items: impl Iterator<Item = Item>) -> Registry {
    items.map(|item| (item.key(), item)).collect()
}
