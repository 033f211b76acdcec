//! Waiting on a condition: the one place in the tests that sleeps.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How often a condition is looked at.
const INTERVAL: Duration = Duration::from_millis(10);

/// Longest wait where a test states no bound of its own. Generous: it only costs time when something is broken.
const PATIENCE: Duration = Duration::from_secs(20);

/// Looks until `look` yields a value, and returns it.
///
/// # Panics
/// After 20 s, with `what` was awaited and what `look` saw last.
pub async fn eventually<T>(what: &str, look: impl AsyncFnMut() -> Result<T, String>) -> T {
    eventually_within(PATIENCE, what, look).await
}

/// As [`eventually`], with a bound that the test is about.
///
/// # Panics
/// When the condition does not hold within `limit`, with `what` was awaited and what `look` saw last.
pub async fn eventually_within<T>(
    limit: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let deadline = Instant::now() + limit;
    loop {
        // A look that hangs must not outlast the deadline by much.
        let seen = match tokio::time::timeout_at(deadline + PATIENCE, look()).await {
            Ok(Ok(value)) => return value,
            Ok(Err(seen)) => seen,
            Err(_) => "a look that does not end".into(),
        };
        assert!(Instant::now() < deadline, "{what}: not within {limit:?}; last seen: {seen}");
        sleep(INTERVAL).await;
    }
}
