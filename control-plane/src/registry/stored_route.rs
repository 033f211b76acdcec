//! An explicit route that an operator set, as the store keeps it.

use std::time::SystemTime;

use gateway_proto::{
    Invalid, Route,
    time::{system_time, timestamp},
    v1,
};

use super::{Revision, item::etag};

/// An explicit route, and who set it last.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredRoute {
    /// The route.
    pub route: Route,
    /// When it was changed last, by the wall clock.
    pub updated_at: SystemTime,
    /// Who did so.
    pub updated_by: Box<str>,
    /// Why; may be empty.
    pub update_reason: Box<str>,
    /// The revision of that change.
    pub revision: Revision,
}

impl StoredRoute {
    /// Routes at most. Data planes are told all of them, and each change is compared with each.
    pub const MAX: usize = 1000;

    /// The wire's form, which the store keeps, too.
    pub fn to_wire(&self) -> v1::Route {
        v1::Route {
            etag: etag(self.revision),
            update_time: Some(timestamp(self.updated_at)),
            updated_by: self.updated_by.to_string(),
            update_reason: self.update_reason.to_string(),
            ..self.to_snapshot()
        }
    }

    /// What data planes are told.
    pub fn to_snapshot(&self) -> v1::Route {
        v1::Route { revision: self.revision, ..self.route.to_wire() }
    }

    /// Reads what [`StoredRoute::to_wire`] wrote.
    ///
    /// # Errors
    /// [`Invalid`]: it is not something that this version writes.
    pub fn from_wire(wire: &v1::Route) -> Result<Self, Invalid> {
        Ok(Self {
            route: Route::parse(wire)?,
            updated_at: system_time(wire.update_time.unwrap_or_default()),
            updated_by: wire.updated_by.as_str().into(),
            update_reason: wire.update_reason.as_str().into(),
            revision: wire.revision,
        })
    }
}
