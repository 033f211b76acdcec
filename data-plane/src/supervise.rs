//! Keeps a task of the background going: one that panics is started again.
//!
//! The request path must outlive a defect that one message uncovers, and so must the link that brings the next message.

use std::time::Duration;

use tokio::time::sleep;

/// A defect that shows at every start must not become a busy loop.
const PAUSE: Duration = Duration::from_secs(1);

/// Runs what `attempt` makes, again after every panic, until it ends by itself.
///
/// Not cancel safe: what was started last goes on when this is dropped.
pub(crate) async fn supervise<F>(name: &'static str, attempt: impl Fn() -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    while let Err(error) = tokio::spawn(attempt()).await {
        if error.is_cancelled() {
            return;
        }
        // The panic's own message is on stderr.
        tracing::error!(task = name, "background task panicked, starting it again in {PAUSE:?}");
        sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_is_started_again_and_one_that_ends_is_not() {
        let runs = Arc::new(AtomicU32::new(0));
        let began = tokio::time::Instant::now();
        supervise("test", || {
            let run = runs.fetch_add(1, Relaxed);
            async move { assert!(run >= 2, "a defect that shows twice") }
        })
        .await;
        assert_eq!((runs.load(Relaxed), began.elapsed()), (3, 2 * PAUSE));
    }
}
