//! Whose events or breakers are asked for.

use gateway_proto::{Invalid, ReplicaId, ReplicaKey, ServiceName, v1};

/// Everybody's, one service's, or one replica's.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scope {
    /// Of this service only.
    pub service: Option<ServiceName>,
    /// Of this replica of the service only.
    pub replica: Option<ReplicaId>,
}

/// Reads the name of one service; an empty one, or `-`, stands for all.
///
/// # Errors
/// [`Invalid`] for a bad name.
pub fn parse_service(name: &str) -> Result<Option<ServiceName>, Invalid> {
    match name {
        "" | "-" => Ok(None),
        name => ServiceName::parse(name).map(Some),
    }
}

impl Scope {
    /// Reads names; an empty service, or `-`, stands for all.
    ///
    /// # Errors
    /// [`Invalid`] for a bad name, and for a replica without its service.
    pub fn parse(service: &str, replica_id: &str) -> Result<Self, Invalid> {
        let service = parse_service(service)?;
        let replica = match replica_id {
            "" => None,
            _ if service.is_none() => return Err(Invalid::new("replica_id", "needs its service beside it")),
            id => Some(ReplicaId::parse(id)?),
        };
        Ok(Self { service, replica })
    }

    /// Whether it is about this event.
    pub fn admits(&self, event: &v1::Event) -> bool {
        self.service.as_ref().is_none_or(|name| name.as_str() == event.service)
            && self.replica.as_ref().is_none_or(|id| id.as_str() == event.replica_id)
    }

    /// Whether it is about this replica.
    pub fn admits_replica(&self, key: &ReplicaKey) -> bool {
        self.service.as_ref().is_none_or(|service| *service == key.service)
            && self.replica.as_ref().is_none_or(|replica| *replica == key.replica)
    }

    /// The one replica that it is about, if it is about one.
    pub fn replica(&self) -> Option<ReplicaKey> {
        Some(ReplicaKey { service: self.service.clone()?, replica: self.replica.clone()? })
    }

    /// A key that none which it admits comes before.
    pub(super) fn start(&self) -> Option<ReplicaKey> {
        let service = self.service.clone()?;
        let replica = self.replica.clone().unwrap_or_else(|| {
            // "0" is the least of all ids: labels begin with a letter or a digit.
            ReplicaId::parse("0").expect("a digit is a label")
        });
        Some(ReplicaKey { service, replica })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_without_its_service_is_no_scope() {
        assert_eq!(Scope::parse("-", ""), Ok(Scope::default()));
        assert_eq!(Scope::parse("", "x").unwrap_err().violations()[0].field, "replica_id");
    }

    #[test]
    fn a_scope_begins_where_its_replicas_do() {
        let key = |id: &str| ReplicaKey::parse("b", id).unwrap();
        let scope = Scope::parse("b", "").unwrap();
        assert!(
            scope.start().unwrap() <= key("0")
                && scope.start().unwrap() > ReplicaKey::parse("a", "z").unwrap()
        );
        assert!(
            scope.admits_replica(&key("x")) && !scope.admits_replica(&ReplicaKey::parse("a", "x").unwrap())
        );
        assert_eq!(Scope::parse("b", "x").unwrap().start(), Some(key("x")));
    }
}
