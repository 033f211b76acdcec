//! What operators decide against the rules, for a time.

use std::{fmt, sync::Arc, time::SystemTime};

use gateway_proto::{
    Address, Check, Invalid, NodeId, ReplicaId, ServiceName,
    time::{system_time, timestamp},
    v1,
};

use super::{Revision, registration::text_within};

/// An override, as the store keeps it. There is one at most about each [`OverrideTarget`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// What it is about.
    pub target: OverrideTarget,
    /// What it says.
    pub kind: OverrideKind,
    /// When it began, by the wall clock.
    pub created_at: SystemTime,
    /// When it ends.
    pub expires_at: SystemTime,
    /// For people.
    pub reason: Box<str>,
    /// Who asked for it.
    pub author: Box<str>,
    /// The revision of its last change.
    pub revision: Revision,
}

/// What an override is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OverrideTarget {
    /// What of it.
    pub aspect: Aspect,
    /// Of which service.
    pub service: ServiceName,
    /// Of which replica; `None`: of all, those to come included.
    pub replica: Option<ReplicaId>,
    /// On which data plane; `None`: on all, those to come included.
    pub node: Option<NodeId>,
}

/// What of a replica or a service is overridden.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Aspect {
    /// The breaker's state.
    Breaker,
    /// What the breaker remembers.
    BreakerReset,
    /// The guard against mass removal.
    Guard,
    /// Whether it may register.
    Registration,
}

/// What an override says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OverrideKind {
    /// The breaker is open.
    BreakerOpen,
    /// The breaker is closed.
    BreakerClosed,
    /// The breaker forgets.
    BreakerReset,
    /// The guard holds nothing.
    GuardReleased,
    /// Neither the replica nor, if it had one then, its address may register.
    RegistrationBlocked(Option<Address>),
}

/// Names an override: `aspect/service`, with `/replica` and `@node` where it is about one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OverrideId(Arc<str>);

impl OverrideId {
    const MAX_CHARS: usize = 256;

    /// Reads an id that a caller was given. It need not exist.
    ///
    /// # Errors
    /// [`Invalid`] for the field `override_id`.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        if text.is_empty() {
            return Err(Invalid::new("override_id", "is required: ListOverrides shows it"));
        }
        text_within("override_id", text, Self::MAX_CHARS)?;
        Ok(Self(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for OverrideId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for OverrideId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for OverrideId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// What the ids of blocked registrations begin with.
const BLOCK: &str = "block";

impl OverrideTarget {
    /// The service that an id is about; empty for what is no id of ours.
    pub fn service_in(id: &str) -> &str {
        let of_service = id.split('/').nth(1).unwrap_or_default();
        of_service.split('@').next().unwrap_or_default()
    }

    /// What the ids of all blocked registrations of a service begin with.
    pub(super) fn block_prefix(service: &ServiceName) -> String {
        format!("{BLOCK}/{service}/")
    }

    /// What names it.
    pub fn id(&self) -> OverrideId {
        let aspect = match self.aspect {
            Aspect::Breaker => "breaker",
            Aspect::BreakerReset => "reset",
            Aspect::Guard => "guard",
            Aspect::Registration => BLOCK,
        };
        let replica = self.replica.as_ref().map(|replica| format!("/{replica}")).unwrap_or_default();
        let node = self.node.as_ref().map(|node| format!("@{node}")).unwrap_or_default();
        OverrideId(format!("{aspect}/{}{replica}{node}", self.service).into())
    }
}

impl Override {
    /// Overrides at most. All that data planes hold are in the first part of a full snapshot, which must fit into one
    /// message, of 4 MiB, however long their reasons are.
    pub const MAX: usize = 2000;

    /// What names it.
    pub fn id(&self) -> OverrideId {
        self.target.id()
    }

    /// Whether data planes are to know of it.
    pub fn is_published(&self) -> bool {
        !matches!(self.kind, OverrideKind::RegistrationBlocked(_))
    }

    /// Whether data planes are to know of overrides with such an id.
    pub fn is_id_published(id: &OverrideId) -> bool {
        !id.as_str().starts_with(BLOCK)
    }

    /// The wire's form, which the store keeps, too.
    pub fn to_wire(&self) -> v1::OverrideEntry {
        let (kind, address) = match &self.kind {
            OverrideKind::BreakerOpen => (v1::OverrideKind::BreakerOpen, String::new()),
            OverrideKind::BreakerClosed => (v1::OverrideKind::BreakerClosed, String::new()),
            OverrideKind::BreakerReset => (v1::OverrideKind::BreakerReset, String::new()),
            OverrideKind::GuardReleased => (v1::OverrideKind::GuardReleased, String::new()),
            OverrideKind::RegistrationBlocked(address) => {
                let address = address.as_ref().map(Address::to_string).unwrap_or_default();
                (v1::OverrideKind::RegistrationBlocked, address)
            }
        };
        let every = match self.target.aspect {
            Aspect::Breaker | Aspect::BreakerReset => "-",
            Aspect::Guard | Aspect::Registration => "",
        };
        v1::OverrideEntry {
            override_id: self.id().to_string(),
            service: self.target.service.to_string(),
            replica_id: self.target.replica.as_ref().map_or(every, ReplicaId::as_str).to_owned(),
            node_id: self.target.node.as_ref().map(NodeId::to_string).unwrap_or_default(),
            kind: kind.into(),
            create_time: Some(timestamp(self.created_at)),
            expire_time: Some(timestamp(self.expires_at)),
            reason: self.reason.to_string(),
            author: self.author.to_string(),
            revision: self.revision,
            address,
        }
    }

    /// Reads what [`Override::to_wire`] wrote.
    ///
    /// # Errors
    /// [`Invalid`]: it is not something that this version writes.
    pub fn from_wire(wire: v1::OverrideEntry) -> Result<Self, Invalid> {
        let mut check = Check::default();
        let kind = match wire.kind() {
            v1::OverrideKind::BreakerOpen => Some((Aspect::Breaker, OverrideKind::BreakerOpen)),
            v1::OverrideKind::BreakerClosed => Some((Aspect::Breaker, OverrideKind::BreakerClosed)),
            v1::OverrideKind::BreakerReset => Some((Aspect::BreakerReset, OverrideKind::BreakerReset)),
            v1::OverrideKind::GuardReleased => Some((Aspect::Guard, OverrideKind::GuardReleased)),
            v1::OverrideKind::RegistrationBlocked => {
                let address = match wire.address.as_str() {
                    "" => None,
                    text => check.take(Address::parse(text)),
                };
                Some((Aspect::Registration, OverrideKind::RegistrationBlocked(address)))
            }
            v1::OverrideKind::Unspecified => {
                check.take(Err(Invalid::new("kind", "is no kind of an override")))
            }
        };
        let service = check.take(ServiceName::parse(&wire.service));
        let replica = match wire.replica_id.as_str() {
            "" | "-" => None,
            id => check.take(ReplicaId::parse(id)),
        };
        let node = match wire.node_id.as_str() {
            "" => None,
            id => check.take(NodeId::parse(id)),
        };
        check.finish()?;
        let (Some((aspect, kind)), Some(service)) = (kind, service) else {
            unreachable!("nothing was refused")
        };
        Ok(Self {
            target: OverrideTarget { aspect, service, replica, node },
            kind,
            created_at: system_time(wire.create_time.unwrap_or_default()),
            expires_at: system_time(wire.expire_time.unwrap_or_default()),
            reason: wire.reason.into(),
            author: wire.author.into(),
            revision: wire.revision,
        })
    }
}

impl fmt::Display for OverrideKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BreakerOpen => "breaker forced open",
            Self::BreakerClosed => "breaker forced closed",
            Self::BreakerReset => "breaker reset",
            Self::GuardReleased => "guard against mass removal released",
            Self::RegistrationBlocked(_) => "registration blocked",
        })
    }
}

impl fmt::Display for OverrideTarget {
    /// `orders/r-1 on dp-1`, `every replica of orders`, `orders`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.replica, self.aspect) {
            (Some(replica), _) => write!(f, "{}/{replica}", self.service)?,
            (None, Aspect::Breaker | Aspect::BreakerReset) => write!(f, "every replica of {}", self.service)?,
            (None, Aspect::Guard | Aspect::Registration) => write!(f, "{}", self.service)?,
        }
        match &self.node {
            Some(node) => write!(f, " on {node}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn entry(aspect: Aspect, kind: OverrideKind, replica: Option<&str>, node: Option<&str>) -> Override {
        Override {
            target: OverrideTarget {
                aspect,
                service: ServiceName::parse("orders").unwrap(),
                replica: replica.map(|id| ReplicaId::parse(id).unwrap()),
                node: node.map(|id| NodeId::parse(id).unwrap()),
            },
            kind,
            created_at: UNIX_EPOCH + Duration::from_secs(5),
            expires_at: UNIX_EPOCH + Duration::from_secs(65),
            reason: "bad deploy".into(),
            author: "ana".into(),
            revision: 3,
        }
    }

    #[test]
    fn every_kind_survives_the_wire() {
        let address = Address::parse("10.0.0.1:80").unwrap();
        for entry in [
            entry(Aspect::Breaker, OverrideKind::BreakerOpen, None, None),
            entry(Aspect::Breaker, OverrideKind::BreakerClosed, Some("r-1"), Some("dp-1")),
            entry(Aspect::BreakerReset, OverrideKind::BreakerReset, Some("r-1"), None),
            entry(Aspect::Guard, OverrideKind::GuardReleased, None, None),
            entry(Aspect::Registration, OverrideKind::RegistrationBlocked(Some(address)), Some("r-1"), None),
            entry(Aspect::Registration, OverrideKind::RegistrationBlocked(None), Some("r-1"), None),
        ] {
            assert_eq!(Override::from_wire(entry.to_wire()), Ok(entry));
        }
    }

    #[test]
    fn open_and_closed_about_one_breaker_have_one_id_and_a_reset_has_its_own() {
        let id = |aspect, kind| entry(aspect, kind, Some("r-1"), Some("dp-1")).id().to_string();
        assert_eq!(id(Aspect::Breaker, OverrideKind::BreakerOpen), "breaker/orders/r-1@dp-1");
        assert_eq!(id(Aspect::Breaker, OverrideKind::BreakerClosed), "breaker/orders/r-1@dp-1");
        assert_eq!(id(Aspect::BreakerReset, OverrideKind::BreakerReset), "reset/orders/r-1@dp-1");
        assert_eq!(
            entry(Aspect::Guard, OverrideKind::GuardReleased, None, None).id().to_string(),
            "guard/orders"
        );
    }

    #[test]
    fn an_id_tells_its_service() {
        for (replica, node) in
            [(None, None), (Some("r-1"), None), (None, Some("n")), (Some("r-1"), Some("n"))]
        {
            let id = entry(Aspect::Breaker, OverrideKind::BreakerOpen, replica, node).id();
            assert_eq!(OverrideTarget::service_in(id.as_str()), "orders");
        }
    }

    #[test]
    fn what_is_no_override_is_refused() {
        let wire = entry(Aspect::Breaker, OverrideKind::BreakerOpen, None, None).to_wire();
        assert!(Override::from_wire(v1::OverrideEntry { kind: 0, ..wire.clone() }).is_err());
        assert!(Override::from_wire(v1::OverrideEntry { service: "A".into(), ..wire }).is_err());
        assert!(OverrideId::parse("").is_err());
        assert!(OverrideId::parse("a\u{1b}").is_err());
    }
}
