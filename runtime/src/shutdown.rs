//! Signals become an orderly end.

use std::time::Duration;

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::Failure;

/// Signals as close as this are one wish, told twice.
const ECHO: Duration = Duration::from_millis(200);

/// Tells every part of a process that it is time to finish what is in flight and end.
///
/// Clones are handles to the same shutdown.
#[derive(Debug, Clone, Default)]
pub struct Shutdown(CancellationToken);

impl Shutdown {
    /// A shutdown that begins only by [`Shutdown::begin`].
    pub fn new() -> Self {
        Self::default()
    }

    /// A shutdown that begins with the first SIGTERM or SIGINT. A second one ends the process at once, with
    /// code 130: whoever sends it does not want to wait for the drain. What comes within a fifth of a second of the
    /// first is the same wish: `timeout` and supervisors signal a process and then its group, it among them.
    ///
    /// # Errors
    /// When the process cannot listen to signals.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn on_signals() -> Result<Self, Failure> {
        let cannot = |error| Failure::fatal(format!("cannot listen to signals: {error}"));
        let mut terminate = signal(SignalKind::terminate()).map_err(cannot)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot)?;
        let shutdown = Self::new();
        let begun = shutdown.clone();
        let (sender, signals) = mpsc::channel(1);
        tokio::spawn(async move {
            loop {
                let name = tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                };
                // Where one waits already, another says nothing new.
                let _ = sender.try_send(name);
            }
        });
        tokio::spawn(async move {
            let tell = |name: &&str| tracing::info!(signal = name, "draining; a second signal ends at once");
            let Some(name) = begun.until_impatient(signals, tell).await else { return };
            tracing::warn!(signal = name, "second signal: ending now, without waiting for what is in flight");
            std::process::exit(130);
        });
        Ok(shutdown)
    }

    /// Begins with the first of `signals`, which `tell` is shown, and completes with the first that is a second wish, and not an
    /// echo of the first; yields that.
    pub async fn until_impatient<T>(
        &self,
        mut signals: mpsc::Receiver<T>,
        tell: impl FnOnce(&T),
    ) -> Option<T> {
        tell(&signals.recv().await?);
        self.begin();
        let echoes = async { while signals.recv().await.is_some() {} };
        // Running out of time is how this ends.
        let _ = timeout(ECHO, echoes).await;
        signals.recv().await
    }

    /// Begins the shutdown. More calls change nothing.
    pub fn begin(&self) {
        self.0.cancel();
    }

    /// Completes when the shutdown begins. Cancel safe.
    pub async fn begun(&self) {
        self.0.cancelled().await;
    }

    /// Whether it has begun.
    pub fn has_begun(&self) -> bool {
        self.0.is_cancelled()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    /// `signals` says when each comes, in milliseconds; the answer, when the process is to end at once.
    async fn ends_at_once_after(signals: &[u64]) -> Option<u128> {
        let (sender, receiver) = mpsc::channel(signals.len());
        let start = Instant::now();
        let sending = async {
            for at in signals {
                tokio::time::sleep_until(start + Duration::from_millis(*at)).await;
                sender.send("SIGTERM").await.expect("somebody waits for signals");
            }
            std::future::pending::<()>().await;
        };
        let shutdown = Shutdown::new();
        let ended = tokio::select! {
            name = shutdown.until_impatient(receiver, |_| {}) => name.map(|_| start.elapsed().as_millis()),
            () = sending => None,
            () = tokio::time::sleep(Duration::from_secs(60)) => None,
        };
        assert!(shutdown.has_begun());
        ended
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_signal_ends_at_once_and_an_echo_of_the_first_does_not() {
        assert_eq!(ends_at_once_after(&[0]).await, None);
        assert_eq!(ends_at_once_after(&[0, 0, 1, 150]).await, None);
        assert_eq!(ends_at_once_after(&[0, 5, 1000]).await, Some(1000));
        assert_eq!(ends_at_once_after(&[10, 300]).await, Some(300));
    }
}
