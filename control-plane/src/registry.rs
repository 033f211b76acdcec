//! The registry's pure core: who is registered, where, on which lease, how healthy.
//!
//! It has two halves. [`decide`](decide::decide) turns a command and what is known into a mutation or a refusal and
//! changes nothing; [`View::apply`] takes what the store made durable and changes the view. Between them stands the
//! store, so that nothing is ever known, published or answered that is not durable.
//!
//! Nothing in here does IO, logs, locks, or reads a clock: time, random ids and limits are arguments.

#[cfg(test)]
pub(crate) mod arbitrary;
mod command;
mod decide;
mod error;
mod event;
mod evictions;
mod group;
mod guard;
mod item;
#[cfg(test)]
mod model_tests;
mod mutation;
mod overrides;
mod population;
mod record;
mod registrant;
mod registration;
mod sparse_text;
mod stored_policy;
mod stored_route;
mod view;

pub use command::{
    Candidates, Command, DrainWish, OverrideWish, PolicyChange, PolicyWish, Proof, RouteWish, Said, Target,
};
pub use decide::{Decision, Limits, decide, unproven, why_lease_is_void};
pub use error::RegistryError;
pub use event::{Event, EventKind};
pub use evictions::{Eviction, Evictions, Held, Prospect, Sentence, Sight, Why};
pub use group::{Group, Step};
pub use guard::{Guard, Judgement, Suspect};
pub use item::{Item, Key, Scope, SharedItem};
pub use mutation::{Answer, Cause, FaultStep, Mutation, RecordWrite, Write};
pub use overrides::{Aspect, Override, OverrideId, OverrideKind, OverrideTarget};
pub use population::Population;
pub use record::{Drain, LeaseTerms, Lost, Record, RequestMark, Revision};
pub use registrant::{Holding, Quota, Registrant};
pub use registration::Registration;
pub(crate) use registration::text_within;
pub use sparse_text::SparseText;
pub use stored_policy::{FaultOrigin, StoredPolicy};
pub use stored_route::StoredRoute;
pub use view::{
    Applied, Change, Committed, Policies, Removals, Removed, ReplicaChange, ServiceEntry, ServiceStep, View,
};
