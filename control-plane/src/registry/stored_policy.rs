//! A policy that an operator set, as the store keeps it.

use std::time::SystemTime;

use gateway_proto::{
    Invalid,
    policy::Partial,
    time::{system_time, timestamp},
    v1,
};

use super::{Revision, Scope, item::etag};

/// What an operator set for one service or for all, and who did so last.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredPolicy {
    /// Whom it is for.
    pub scope: Scope,
    /// What is set; the rest is inherited.
    pub partial: Partial,
    /// When it was changed last, by the wall clock.
    pub updated_at: SystemTime,
    /// Who did so.
    pub updated_by: Box<str>,
    /// Why; may be empty.
    pub update_reason: Box<str>,
    /// The revision of that change.
    pub revision: Revision,
}

impl StoredPolicy {
    /// The wire's form, which the store keeps, too.
    pub fn to_wire(&self) -> v1::Policy {
        v1::Policy {
            service: self.scope.to_string(),
            etag: etag(self.revision),
            revision: self.revision,
            update_time: Some(timestamp(self.updated_at)),
            updated_by: self.updated_by.to_string(),
            update_reason: self.update_reason.to_string(),
            ..self.partial.to_wire()
        }
    }

    /// Reads what [`StoredPolicy::to_wire`] wrote.
    ///
    /// # Errors
    /// [`Invalid`]: it is not something that this version writes.
    pub fn from_wire(wire: &v1::Policy) -> Result<Self, Invalid> {
        Ok(Self {
            scope: Scope::parse(&wire.service)?,
            partial: Partial::parse(wire)?,
            updated_at: system_time(wire.update_time.unwrap_or_default()),
            updated_by: wire.updated_by.as_str().into(),
            update_reason: wire.update_reason.as_str().into(),
            revision: wire.revision,
        })
    }
}
