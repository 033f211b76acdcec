//! What the registry permits, refuses and answers, command by command.

mod drains;
mod evictions;
mod lost;
mod overrides;
mod policies;
mod registrations;
mod removals;
mod requests;
mod routes;

use std::time::{Duration, UNIX_EPOCH};

use gateway_proto::{Address, Health, ReplicaId, ServiceName};

use super::*;
use crate::registry::{
    Committed, DrainWish, Event, OverrideTarget, OverrideWish, PolicyChange, PolicyWish, Proof, Registration,
    Said, Scope, Target,
};

const LIMITS: Limits = Limits { replicas: 100, replicas_per_service: 3 };
const SECOND: Duration = Duration::from_secs(1);

/// A registry whose store never fails. Each command comes a second after the one before.
#[derive(Default)]
struct Registry {
    view: View,
    drawn: u64,
    waited: Duration,
    /// Of the last command that changed something.
    events: Vec<Event>,
}

impl Registry {
    /// When the next command will come.
    fn next_at(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.drawn + 1) + self.waited
    }

    fn wait(&mut self, time: Duration) {
        self.waited += time;
    }

    fn run(&mut self, command: &Command) -> Result<Answer, RegistryError> {
        let at = self.next_at();
        self.drawn += 1;
        let fresh = Candidates::from_random(self.drawn, self.drawn.into());
        match decide(&self.view, &LIMITS, command, &fresh, at)? {
            Decision::Nothing(answer) => Ok(answer),
            Decision::Commit(mutation) => {
                let revision = self.view.revision() + 1;
                let answer = mutation.answer(revision);
                self.events = self.view.apply(Committed { revision, mutation }).events;
                Ok(answer)
            }
        }
    }

    fn register(&mut self, wish: &Registration) -> (Arc<Record>, bool) {
        match self.run(&Command::Register(wish.clone())).unwrap() {
            Answer::Registered { record, created } => (record, created),
            other => panic!("{other:?}"),
        }
    }

    /// Runs a command that is answered by a replica.
    fn replica(&mut self, command: &Command) -> Arc<Record> {
        match self.run(command).unwrap() {
            Answer::Replica(record) => record,
            other => panic!("{other:?}"),
        }
    }

    /// The replica as it is now.
    fn now(&self, of: &Record) -> Arc<Record> {
        Arc::clone(self.view.get(&of.key).unwrap())
    }

    /// What the last change told people: kind, who did it, and the sentence.
    fn told(&self) -> Vec<(&'static str, &str, &str)> {
        self.events.iter().map(|event| (event.kind.name(), &*event.actor, event.message.as_str())).collect()
    }
}

fn leased(port: u16) -> Registration {
    let mut wish = permanent(port);
    wish.ttl = Some(Duration::from_secs(15));
    wish
}

fn permanent(port: u16) -> Registration {
    Registration::permanent(orders(), address(port))
}

/// A leased replica that names itself.
fn named(id: &str, port: u16) -> Registration {
    Registration { replica: Some(ReplicaId::parse(id).unwrap()), ..leased(port) }
}

fn orders() -> ServiceName {
    ServiceName::parse("orders").unwrap()
}

fn address(port: u16) -> Address {
    Address::parse(&format!("10.0.0.1:{port}")).unwrap()
}

fn deregister(key: &ReplicaKey, proof: Proof) -> Command {
    let said = Said::because("going home");
    Command::Deregister { target: Target::Key(key.clone()), proof, said, block: None }
}

/// An operator's removal, after which registrations are blocked for a while.
fn block(key: &ReplicaKey, ttl: Duration) -> Command {
    let said = said("ana", "bad deploy");
    Command::Deregister { target: Target::Key(key.clone()), proof: Proof::Force, said, block: Some(ttl) }
}

fn hold(record: &Record) -> Command {
    Command::Hold { key: record.key.clone(), lease: lease_of(record), silent_for: 15 * SECOND }
}

fn expire(record: &Record) -> Command {
    Command::Expire { key: record.key.clone(), lease: lease_of(record), silent_for: 15 * SECOND }
}

fn report(record: &Record, health: Health) -> Command {
    let lease = record.lease.map(|terms| terms.id);
    Command::ReportHealth { key: record.key.clone(), lease, health, reason: String::new() }
}

fn said(author: &str, reason: &str) -> Said {
    Said { author: author.into(), reason: reason.into() }
}

fn lease_of(record: &Record) -> LeaseId {
    record.lease.unwrap().id
}
