//! The only place where the control plane reads a clock. The pure parts get what is read here as arguments.

use std::time::{Instant, SystemTime};

/// The monotonic clock, as tokio's timers see it: tests pause and advance both together.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// The wall clock: for people, never for deadlines.
pub(crate) fn wall() -> SystemTime {
    SystemTime::now()
}

/// The wall clock as browsers count: milliseconds since 1970.
pub(crate) fn unix_millis() -> u64 {
    let since = wall().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
