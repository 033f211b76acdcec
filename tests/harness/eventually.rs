//! Waiting on a condition, or for what ends by itself: the one place in the tests that sleeps.

use std::{process::Command, time::Duration};

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

/// Looks again and again for as long as `limit`, and leaves it to `look` to assert. For what must not happen within a time, where nothing
/// tells that it has been decided, or what goes on by itself only as long as somebody does something.
pub async fn throughout(limit: Duration, mut look: impl AsyncFnMut()) {
    let end = Instant::now() + limit;
    while Instant::now() < end {
        look().await;
        sleep(INTERVAL).await;
    }
}

/// Waits for what ends by itself, and yields what it comes to.
///
/// # Panics
/// When it does not end within `limit`, with `what` it is.
pub async fn ends_within<T>(limit: Duration, what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(limit, work)
        .await
        .unwrap_or_else(|_| panic!("{what}: does not end within {limit:?}"))
}

/// A program that is killed when it does not end within 20 s, for those who block on it.
pub fn bounded(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("timeout");
    command.arg("--signal=KILL").arg(PATIENCE.as_secs().to_string()).arg(program);
    command
}
