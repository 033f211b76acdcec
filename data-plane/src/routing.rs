//! The pure core of routing: what an attempt's result means, when a replica is left alone, whose turn it is, and
//! whether a failed attempt is followed by another.
//!
//! Everything here is shared by threads through `&self` and lock-free. Time and randomness are arguments. Nothing
//! here reads a clock, does IO, or logs; the callers do that with what is returned. While requests succeed nothing
//! allocates either, but for what is made once for a policy, and for comparing replicas with their peers.

pub mod backoff;
pub mod balancing;
mod breaker;
#[cfg(test)]
mod breaker_tests;
mod budget;
mod gradient_limit;
mod history;
mod latency_window;
mod outcome;
mod peers;
mod queue;
mod rate;
pub mod retry;
mod rotation;
mod sync;
mod tick;
mod unheard;
mod window;
mod windows;

pub use balancing::Draw;
pub use breaker::{
    Admission, Admitted, Breaker, Change, ForcedState, Heard, PROBE_BODY, Past, Permit, Reason, Rejected,
    Rule, State, View, Withheld,
};
pub use budget::{Budget, BudgetView};
pub use gradient_limit::{Bounds, GradientLimit, LimitSample};
pub use history::{History, Kind, Recorded, Replayed, replay, span};
pub use latency_window::{LatencyWindow, Sample};
pub use outcome::{CertificateFault, Fault, HandshakeFault, Origin, Outcome, UNAVAILABLE, judge, judge_grpc};
pub use peers::{Comparison, compare};
pub use queue::{Queue, Refused, Terms, Ticket};
pub use rate::{Pacer, Rate};
pub use rotation::{Claims, Rotation};
pub use tick::Tick;
pub use unheard::{Silence, Unheard};
pub use window::{Totals, Window};
pub use windows::Windows;
