//! The policy of a service as others see it: what attempts take along, and what is in force.

use std::{ops::Deref, sync::Arc};

use arc_swap::Guard;
use gateway_proto::{Policy, policy};

use super::view::View;

/// What attempts go by in a policy: that of when the request came, or, for another attempt, of when the one before had failed.
/// They outlive it, and it is large.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttemptPolicy {
    /// How long things may take.
    pub timeout: policy::Timeouts,
    /// What follows a failure.
    pub retry: policy::Retry,
}

impl From<&Policy> for AttemptPolicy {
    #[inline]
    fn from(policy: &Policy) -> Self {
        Self { timeout: policy.timeout, retry: policy.retry }
    }
}

/// A policy while somebody looks at it: not to be kept across an await.
#[derive(Debug)]
pub struct PolicyInForce(Guard<Arc<View>>);

impl PolicyInForce {
    pub(super) fn new(view: Guard<Arc<View>>) -> Self {
        Self(view)
    }
}

impl Deref for PolicyInForce {
    type Target = Policy;

    fn deref(&self) -> &Policy {
        &self.0.policy
    }
}
