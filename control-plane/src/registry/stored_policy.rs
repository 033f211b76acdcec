//! A policy that an operator set, as the store keeps it.

use std::time::SystemTime;

use gateway_proto::{
    Invalid,
    policy::Partial,
    time::{system_time, timestamp},
    v1,
};

use super::{Revision, Said, Scope, item::etag};

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
    /// Who set the fault that it injects, and when; `None` when it injects none.
    pub fault_origin: Option<Box<FaultOrigin>>,
    /// The revision of that change.
    pub revision: Revision,
}

/// Who set a fault: kept apart, because others change other settings of the same policy.
#[derive(Debug, Clone, PartialEq)]
pub struct FaultOrigin {
    /// Who, and why.
    pub said: Said,
    /// When, by the wall clock.
    pub at: SystemTime,
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
            fault_origin: self.fault_origin.as_deref().map(FaultOrigin::to_wire),
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
            fault_origin: wire.fault_origin.as_ref().map(|origin| Box::new(FaultOrigin::from_wire(origin))),
            revision: wire.revision,
        })
    }
}

impl StoredPolicy {
    /// Whether it says something of faults, and their time is over.
    pub fn has_ended_fault(&self, at: SystemTime) -> bool {
        let fault = self.partial.fault();
        fault.is_some_and(|fault| fault.has_ratio() && fault.end_time.0 <= at)
    }
}

impl FaultOrigin {
    fn to_wire(&self) -> v1::FaultOrigin {
        v1::FaultOrigin {
            author: self.said.author.to_string(),
            reason: self.said.reason.to_string(),
            create_time: Some(timestamp(self.at)),
        }
    }

    fn from_wire(wire: &v1::FaultOrigin) -> Self {
        Self {
            said: Said { author: wire.author.as_str().into(), reason: wire.reason.as_str().into() },
            at: system_time(wire.create_time.unwrap_or_default()),
        }
    }
}
