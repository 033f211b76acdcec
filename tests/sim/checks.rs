//! The invariants. Each is a function whose name is the sentence that must hold and whose doc says it in plain words.
//!
//! What they compare with is kept here and learnt from what happens, never from the parts under test.

mod backlogs;
mod breaker;
mod breakers;
mod budget;
mod copies;
mod evictions;
mod leases;
mod ledger;
mod picks;
mod rotation;
mod shares;
mod silence;

pub(crate) use self::{
    backlogs::piled_up,
    breakers::{Breakers, Ticket, Waited},
    budget::BudgetBook,
    ledger::Ledger,
    picks::{Picks, open_tier, takes_requests},
    rotation::Turns,
};

/// An invariant that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) invariant: &'static str,
    pub(crate) detail: String,
}

/// The end of the run when it is an error.
pub(crate) type Checked<T = ()> = Result<T, Violation>;

/// Ends the run unless `holds`.
pub(crate) fn claim(invariant: &'static str, holds: bool, detail: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(Violation { invariant, detail: detail() }) }
}
