//! The kinds of things the registry keeps, and what names each of them.

use std::{fmt, sync::Arc};

use gateway_proto::{Invalid, ReplicaKey, RouteName, ServiceName};

use super::{Override, OverrideId, Record, Revision, StoredPolicy, StoredRoute};

/// What names one record in the whole registry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// A replica.
    Replica(ReplicaKey),
    /// A stored policy.
    Policy(Scope),
    /// An override.
    Override(OverrideId),
    /// An explicit route.
    Route(RouteName),
}

/// Whom a stored policy is for. All services come before any single one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Every service, `*`.
    All,
    /// One service, registered or not.
    Service(ServiceName),
}

/// One record of any kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    /// A replica.
    Replica(Box<Record>),
    /// A stored policy.
    Policy(Box<StoredPolicy>),
    /// An override.
    Override(Box<Override>),
    /// An explicit route.
    Route(Box<StoredRoute>),
}

/// One record of any kind, as a view has it: what is in it never changes, so it is kept by whoever needs it.
#[derive(Debug, Clone)]
pub enum SharedItem {
    /// A replica.
    Replica(Arc<Record>),
    /// A stored policy.
    Policy(Arc<StoredPolicy>),
    /// An override.
    Override(Arc<Override>),
    /// An explicit route.
    Route(Arc<StoredRoute>),
}

impl SharedItem {
    /// The record itself.
    pub fn to_item(&self) -> Item {
        match self {
            Self::Replica(record) => Record::clone(record).into(),
            Self::Policy(policy) => StoredPolicy::clone(policy).into(),
            Self::Override(entry) => Override::clone(entry).into(),
            Self::Route(stored) => StoredRoute::clone(stored).into(),
        }
    }
}

impl Key {
    /// The replica that this names, if it names one.
    pub fn as_replica(&self) -> Option<&ReplicaKey> {
        match self {
            Self::Replica(key) => Some(key),
            Self::Policy(_) | Self::Override(_) | Self::Route(_) => None,
        }
    }
}

impl Scope {
    /// Reads `*` or a service's name.
    ///
    /// # Errors
    /// [`Invalid`] for the field `service`.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        match text {
            "*" => Ok(Self::All),
            name => ServiceName::parse(name).map(Self::Service),
        }
    }

    /// `*` or the service's name.
    pub fn as_str(&self) -> &str {
        self.service().map_or("*", ServiceName::as_str)
    }

    /// The one service; `None` for all.
    pub fn service(&self) -> Option<&ServiceName> {
        match self {
            Self::All => None,
            Self::Service(name) => Some(name),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Item {
    /// What names it.
    pub fn key(&self) -> Key {
        match self {
            Self::Replica(record) => Key::Replica(record.key.clone()),
            Self::Policy(policy) => Key::Policy(policy.scope.clone()),
            Self::Override(entry) => Key::Override(entry.id()),
            Self::Route(stored) => Key::Route(stored.route.name.clone()),
        }
    }

    /// The same as of another revision: the store's, once it is durable.
    #[must_use]
    pub fn at(mut self, revision: Revision) -> Self {
        match &mut self {
            Self::Replica(record) => {
                record.revision = revision;
                if let Some(drain) = record.drain.as_deref_mut().filter(|drain| drain.revision == 0) {
                    drain.revision = revision;
                }
            }
            Self::Policy(policy) => policy.revision = revision,
            Self::Override(entry) => entry.revision = revision,
            Self::Route(stored) => stored.revision = revision,
        }
        self
    }

    /// The replica, if it is one.
    pub fn as_replica(&self) -> Option<&Record> {
        match self {
            Self::Replica(record) => Some(record),
            Self::Policy(_) | Self::Override(_) | Self::Route(_) => None,
        }
    }
}

impl From<Record> for Item {
    fn from(record: Record) -> Self {
        Self::Replica(Box::new(record))
    }
}

impl From<StoredPolicy> for Item {
    fn from(policy: StoredPolicy) -> Self {
        Self::Policy(Box::new(policy))
    }
}

impl From<Override> for Item {
    fn from(entry: Override) -> Self {
        Self::Override(Box::new(entry))
    }
}

impl From<StoredRoute> for Item {
    fn from(stored: StoredRoute) -> Self {
        Self::Route(Box::new(stored))
    }
}

/// The entity tag of what last changed at `revision`: opaque to callers.
pub(super) fn etag(revision: Revision) -> String {
    format!("{revision:x}")
}
