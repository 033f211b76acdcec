//! What is durable, and was at every revision: learnt from the disk's commits alone.

use std::{collections::BTreeMap, rc::Rc};

use control_plane::{
    registry::{Answer, Command, LeaseTerms, Mutation, Proof, Record, Revision, Target, View, Write},
    store::Loaded,
};
use data_plane::discovery::Snapshot;
use gateway_proto::{Address, Health, ReplicaKey, Weight};

use super::{Checked, claim, leases::LeaseBook};

/// What matters of one registration.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Fact {
    pub(crate) address: Address,
    pub(crate) weight: Weight,
    pub(crate) health: Health,
    pub(crate) incarnation: i64,
    pub(crate) lease: Option<LeaseTerms>,
}

type Registry = BTreeMap<ReplicaKey, Fact>;

/// The truth about the registry.
#[derive(Default)]
pub(crate) struct Ledger {
    /// The present disk's epoch, once it was read.
    epoch: String,
    revision: Revision,
    present: Rc<Registry>,
    history: BTreeMap<(String, Revision), Rc<Registry>>,
    /// The highest incarnation that each id ever had on this disk.
    incarnations: BTreeMap<ReplicaKey, i64>,
    pub(super) leases: LeaseBook,
}

impl Fact {
    fn of(record: &Record) -> Self {
        Self {
            address: record.address.clone(),
            weight: record.weight,
            health: record.health,
            incarnation: record.incarnation,
            lease: record.lease,
        }
    }
}

impl Ledger {
    /// The process has read the disk: every lease has one full time to live.
    pub(crate) fn restarted(&mut self, epoch: &str, now: u64) {
        epoch.clone_into(&mut self.epoch);
        self.history.insert((self.epoch.clone(), self.revision), Rc::clone(&self.present));
        self.leases.restarted(now);
    }

    /// An empty disk has taken the place of the last one.
    pub(crate) fn disk_lost(&mut self) {
        let history = std::mem::take(&mut self.history);
        *self = Self { history, ..Self::default() };
    }

    /// A mutation is on the disk, brought about by this command.
    pub(crate) fn became_durable(
        &mut self,
        now: u64,
        command: &Command,
        mutation: &Mutation,
        revision: Revision,
    ) -> Checked {
        self.revisions_only_grow(revision)?;
        self.a_stale_lease_changes_nothing(command, mutation)?;
        self.nothing_comes_back_by_itself(command, mutation)?;
        if let Command::Expire { key, .. } = command {
            self.leases.only_silence_ends_a_lease(now, key)?;
        }
        let mut next = Registry::clone(&self.present);
        match &mutation.write {
            Write::Put(record) => {
                if matches!(command, Command::Register(_)) {
                    self.incarnations_of_an_id_only_grow(record)?;
                }
                next.insert(mutation.key.clone(), Fact::of(record));
            }
            Write::Remove => {
                next.remove(&mutation.key);
            }
        }
        self.revision = revision;
        self.present = Rc::new(next);
        self.history.insert((self.epoch.clone(), revision), Rc::clone(&self.present));
        self.an_address_has_one_owner()
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

    /// Each registration of an id has a larger incarnation than all that the id ever had.
    fn incarnations_of_an_id_only_grow(&mut self, record: &Record) -> Checked {
        let before = self.incarnations.insert(record.key.clone(), record.incarnation);
        claim(
            "incarnations_of_an_id_only_grow",
            before.is_none_or(|before| before < record.incarnation),
            || format!("{} had {before:?} and gets {}", record.key, record.incarnation),
        )
    }

    /// No two replicas of a service have the same address.
    fn an_address_has_one_owner(&self) -> Checked {
        let mut owners = BTreeMap::new();
        for (key, fact) in &*self.present {
            let twin = owners.insert((&key.service, &fact.address), key);
            claim("an_address_has_one_owner", twin.is_none(), || {
                format!("{key} and {twin:?} are both at {}", fact.address)
            })?;
        }
        Ok(())
    }

    /// Only the present lease, an operator's word, or no lease at all lets anybody report, remove or expire a replica.
    fn a_stale_lease_changes_nothing(&self, command: &Command, mutation: &Mutation) -> Checked {
        let present = self.present.get(&mutation.key).and_then(|fact| fact.lease).map(|terms| terms.id);
        let shown = match command {
            Command::Register(_) | Command::Deregister { proof: Proof::Force, .. } => return Ok(()),
            Command::Deregister { proof: Proof::None, .. } => None,
            Command::Deregister { proof: Proof::Lease(lease), .. } => Some(*lease),
            Command::ReportHealth { lease, .. } => *lease,
            Command::Expire { lease, .. } => Some(*lease),
        };
        claim("a_stale_lease_changes_nothing", present.is_none() || shown == present, || {
            format!("{command:?} changed {}, whose lease is {present:?}", mutation.key)
        })
    }

    /// A replica that is deregistered or expired is there again only when it registers again.
    fn nothing_comes_back_by_itself(&self, command: &Command, mutation: &Mutation) -> Checked {
        let is_back = matches!(mutation.write, Write::Put(_)) && !self.present.contains_key(&mutation.key);
        claim("nothing_comes_back_by_itself", !is_back || matches!(command, Command::Register(_)), || {
            format!("{command:?} made {}", mutation.key)
        })
    }

    /// What a restart reads is all that was ever made durable, and nothing else: no acknowledged registration is lost,
    /// none comes back.
    pub(crate) fn a_restart_finds_exactly_what_is_durable(&self, loaded: &Loaded) -> Checked {
        let records = loaded.records.iter().map(|record| (record.key.clone(), Fact::of(record)));
        let found: Registry = records.collect();
        let equal = found == *self.present && loaded.revision == self.revision;
        claim("a_restart_finds_exactly_what_is_durable", equal, || {
            format!("at {} {found:?}, durable at {} {:?}", loaded.revision, self.revision, self.present)
        })
    }

    /// What data planes and readers are shown is what the disk holds, at the same revision.
    fn what_is_published_is_what_is_durable(&self, view: &View) -> Checked {
        let shown: Registry = view.replicas().map(|record| (record.key.clone(), Fact::of(record))).collect();
        let equal = shown == *self.present && view.revision() == self.revision;
        claim("what_is_published_is_what_is_durable", equal, || {
            format!("at {} {shown:?}, durable at {} {:?}", view.revision(), self.revision, self.present)
        })
    }

    /// Who is answered "done" can rely on it: the disk holds it at the revision that the answer names.
    pub(crate) fn an_answer_is_durable(&self, command: &Command, answer: &Answer) -> Checked {
        let at = |revision: Revision| self.history.get(&(self.epoch.clone(), revision));
        let holds = match answer {
            Answer::Registered { record, .. } | Answer::HealthReported(record) => {
                at(record.revision).is_some_and(|then| then.get(&record.key) == Some(&Fact::of(record)))
            }
            Answer::Deregistered { revision, .. } => {
                let Command::Deregister { target, .. } = command else { return Ok(()) };
                at(*revision).is_some_and(|then| match target {
                    Target::Key(key) => !then.contains_key(key),
                    Target::Address(service, address) => {
                        !then.iter().any(|(key, fact)| key.service == *service && fact.address == *address)
                    }
                })
            }
            Answer::Expired { .. } => true,
        };
        claim("an_answer_is_durable", holds, || {
            format!("{answer:?} while the disk is at revision {}", self.revision)
        })
    }

    /// What a data plane holds at a revision is what the registry held at that revision.
    pub(crate) fn a_data_plane_shows_the_registry_as_it_was(
        &self,
        held: &Snapshot,
        follows: impl Fn(&str) -> bool,
    ) -> Checked {
        const NAME: &str = "a_data_plane_shows_the_registry_as_it_was";
        if !held.is_held() {
            return Ok(());
        }
        let then = self.history.get(&(held.epoch().to_owned(), held.revision()));
        claim(NAME, then.is_some(), || format!("there was no revision {}", held.revision()))?;
        let then = then.into_iter().flat_map(|then| then.iter());
        let then: Vec<_> = then
            .filter(|(key, _)| follows(key.service.as_str()))
            .map(|(key, fact)| {
                (key.clone(), fact.address.clone(), fact.weight, fact.health, fact.incarnation)
            })
            .collect();
        let shown: Vec<_> = held
            .services()
            .flat_map(|service| service.replicas.iter().map(|replica| (service.name.clone(), replica)))
            .map(|(service, replica)| {
                let key = ReplicaKey { service, replica: replica.id.clone() };
                (key, replica.address.clone(), replica.weight, replica.health, replica.incarnation)
            })
            .collect();
        let is_empty = held.services().any(|service| service.replicas.is_empty());
        claim(NAME, shown == then && !is_empty, || {
            format!("at revision {} it shows {shown:?}, the registry had {then:?}", held.revision())
        })
    }

    /// With the link up, every data plane ends at the last revision.
    pub(crate) fn every_data_plane_converges(&self, node: usize, held: &Snapshot) -> Checked {
        let current = held.epoch() == self.epoch && held.revision() == self.revision;
        claim("every_data_plane_converges", current, || {
            format!("node {node} is at revision {}, the registry at {}", held.revision(), self.revision)
        })
    }

    /// Whether the key is registered now.
    pub(crate) fn present(&self) -> &BTreeMap<ReplicaKey, Fact> {
        &self.present
    }
}
