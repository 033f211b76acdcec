//! The breaker's tests, apart from it: `tests/breaker.rs` builds the breaker a second time, without them.

use super::breaker::{
    Admission, Breaker, Change, ForcedState, Heard, Permit, Reason, Rejected, Rule, State, View, Withheld,
};

mod model;
mod tests;
mod threads;
