//! The bytes of a cause: what other control planes tell people of a change, and what they remember of a replica that went.

use std::time::Duration;

use gateway_proto::{Health, ReplicaId, ServiceName, v1};
use prost::Message;

use crate::registry::{Cause, FaultStep, Item, Override, Said, Why, Write};

/// One message for all kinds of causes; each has what it needs.
#[derive(Clone, PartialEq, Message)]
pub(super) struct StoredCause {
    #[prost(enumeration = "Kind", tag = "1")]
    kind: i32,
    #[prost(int64, tag = "2")]
    incarnation: i64,
    /// Forced, idle, or done at somebody's word.
    #[prost(bool, tag = "3")]
    flag: bool,
    #[prost(string, tag = "4")]
    author: String,
    #[prost(string, tag = "5")]
    reason: String,
    /// Another replica, a service, what a check said, or the settings of a policy that changed.
    #[prost(string, tag = "6")]
    text: String,
    /// Nanoseconds of silence, or for which checks have failed.
    #[prost(uint64, tag = "7")]
    lasted: u64,
    /// Nanoseconds.
    #[prost(uint64, tag = "8")]
    ttl: u64,
    #[prost(int32, tag = "9")]
    health: i32,
    #[prost(uint64, tag = "10")]
    count: u64,
    #[prost(uint32, tag = "11")]
    threshold: u32,
    #[prost(enumeration = "Fault", tag = "12")]
    fault: i32,
    #[prost(message, optional, tag = "13")]
    entry: Option<v1::OverrideEntry>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
enum Kind {
    Unknown = 0,
    Registered = 1,
    Replaced = 2,
    Deregistered = 3,
    Superseded = 4,
    ChecksFailed = 5,
    FailuresInARow = 6,
    Expired = 7,
    Held = 8,
    Recovered = 9,
    HealthReported = 10,
    Draining = 11,
    Drained = 12,
    Undrained = 13,
    PolicyUpdated = 14,
    PolicyDeleted = 15,
    FaultOver = 16,
    RouteUpdated = 17,
    RouteDeleted = 18,
    Overridden = 19,
    Blocked = 20,
    OverrideEnded = 21,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
enum Fault {
    Same = 0,
    /// What the policy that is written says of faults.
    Began = 1,
    Ended = 2,
}

/// Writes a cause.
pub(super) fn encode(cause: &Cause) -> StoredCause {
    let of = |kind: Kind| StoredCause { kind: kind.into(), ..StoredCause::default() };
    let said_of = |kind: Kind, said: &Said| StoredCause {
        author: said.author.to_string(),
        reason: said.reason.to_string(),
        ..of(kind)
    };
    match cause {
        Cause::Registered => of(Kind::Registered),
        Cause::Replaced { incarnation } => StoredCause { incarnation: *incarnation, ..of(Kind::Replaced) },
        Cause::Deregistered { forced, said } => {
            StoredCause { flag: *forced, ..said_of(Kind::Deregistered, said) }
        }
        Cause::Superseded { by } => StoredCause { text: by.to_string(), ..of(Kind::Superseded) },
        Cause::Evicted { why: Why::ChecksFailed { lasted, nodes, failure } } => StoredCause {
            lasted: nanos(*lasted),
            count: *nodes as u64,
            text: failure.clone(),
            ..of(Kind::ChecksFailed)
        },
        Cause::Evicted { why: Why::FailuresInARow { count, threshold } } => {
            StoredCause { count: *count, threshold: *threshold, ..of(Kind::FailuresInARow) }
        }
        Cause::Expired { silent_for, ttl } => {
            StoredCause { lasted: nanos(*silent_for), ttl: nanos(*ttl), ..of(Kind::Expired) }
        }
        Cause::Held { silent_for } => StoredCause { lasted: nanos(*silent_for), ..of(Kind::Held) },
        Cause::Recovered => of(Kind::Recovered),
        Cause::HealthReported { before } => {
            StoredCause { health: before.to_wire().into(), ..of(Kind::HealthReported) }
        }
        Cause::Draining => of(Kind::Draining),
        Cause::Drained { is_idle } => StoredCause { flag: *is_idle, ..of(Kind::Drained) },
        Cause::Undrained { said } => said_of(Kind::Undrained, said),
        Cause::PolicyUpdated { fault, changes } => {
            StoredCause { fault: step(fault), text: changes.to_string(), ..of(Kind::PolicyUpdated) }
        }
        Cause::PolicyDeleted { fault, changes, said } => StoredCause {
            fault: step(fault),
            text: changes.to_string(),
            ..said_of(Kind::PolicyDeleted, said)
        },
        Cause::FaultOver => of(Kind::FaultOver),
        Cause::RouteUpdated => of(Kind::RouteUpdated),
        Cause::RouteDeleted { service, said } => {
            StoredCause { text: service.to_string(), ..said_of(Kind::RouteDeleted, said) }
        }
        Cause::Overridden => of(Kind::Overridden),
        Cause::Blocked => of(Kind::Blocked),
        Cause::OverrideEnded { entry, by } => StoredCause {
            entry: Some(entry.to_wire()),
            flag: by.is_some(),
            ..said_of(Kind::OverrideEnded, &by.clone().unwrap_or_default())
        },
    }
}

/// Reads the cause of a write.
pub(super) fn decode(stored: StoredCause, write: &Write) -> Result<Cause, String> {
    let kind = stored.kind();
    let fault = stored.fault();
    let StoredCause {
        incarnation, flag, author, reason, text, lasted, ttl, health, count, threshold, ..
    } = stored;
    let said = Said { author: author.into(), reason: reason.into() };
    let (lasted, ttl) = (Duration::from_nanos(lasted), Duration::from_nanos(ttl));
    let service = |text: &str| ServiceName::parse(text).map_err(|invalid| invalid.to_string());
    Ok(match kind {
        Kind::Unknown => return Err("it names no cause that this version knows".into()),
        Kind::Registered => Cause::Registered,
        Kind::Replaced => Cause::Replaced { incarnation },
        Kind::Deregistered => Cause::Deregistered { forced: flag, said },
        Kind::Superseded => {
            Cause::Superseded { by: ReplicaId::parse(&text).map_err(|invalid| invalid.to_string())? }
        }
        Kind::ChecksFailed => {
            let nodes = usize::try_from(count).unwrap_or(usize::MAX);
            Cause::Evicted { why: Why::ChecksFailed { lasted, nodes, failure: text } }
        }
        Kind::FailuresInARow => Cause::Evicted { why: Why::FailuresInARow { count, threshold } },
        Kind::Expired => Cause::Expired { silent_for: lasted, ttl },
        Kind::Held => Cause::Held { silent_for: lasted },
        Kind::Recovered => Cause::Recovered,
        Kind::HealthReported => {
            let before = Health::parse_reported(health).map_err(|invalid| invalid.to_string())?;
            Cause::HealthReported { before: before.ok_or("it names no health")? }
        }
        Kind::Draining => Cause::Draining,
        Kind::Drained => Cause::Drained { is_idle: flag },
        Kind::Undrained => Cause::Undrained { said },
        Kind::PolicyUpdated => Cause::PolicyUpdated { fault: began(fault, write), changes: text.into() },
        Kind::PolicyDeleted => {
            Cause::PolicyDeleted { fault: began(fault, write), changes: text.into(), said }
        }
        Kind::FaultOver => Cause::FaultOver,
        Kind::RouteUpdated => Cause::RouteUpdated,
        Kind::RouteDeleted => Cause::RouteDeleted { service: service(&text)?, said },
        Kind::Overridden => Cause::Overridden,
        Kind::Blocked => Cause::Blocked,
        Kind::OverrideEnded => {
            let entry = stored.entry.ok_or("it names no override")?;
            let entry = Override::from_wire(entry).map_err(|invalid| invalid.to_string())?;
            Cause::OverrideEnded { entry: Box::new(entry), by: flag.then_some(said) }
        }
    })
}

fn step(fault: &FaultStep) -> i32 {
    match fault {
        FaultStep::Same => Fault::Same,
        FaultStep::Began(_) => Fault::Began,
        FaultStep::Ended => Fault::Ended,
    }
    .into()
}

fn began(fault: Fault, write: &Write) -> FaultStep {
    match (fault, write) {
        (Fault::Began, Write::Put(Item::Policy(policy))) => {
            policy.partial.fault().map_or(FaultStep::Same, |fault| FaultStep::Began(Box::new(fault)))
        }
        (Fault::Ended, _) => FaultStep::Ended,
        _ => FaultStep::Same,
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
