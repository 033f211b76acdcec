//! Signals become an orderly end.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

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
    /// code 130: whoever sends it does not want to wait for the drain.
    ///
    /// # Errors
    /// When the process cannot listen to signals.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn on_signals() -> std::io::Result<Self> {
        let shutdown = Self::new();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let begun = shutdown.clone();
        tokio::spawn(async move {
            for already_begun in [false, true] {
                let name = tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                };
                if already_begun {
                    tracing::warn!(
                        signal = name,
                        "second signal: ending now, without waiting for what is in flight"
                    );
                    std::process::exit(130);
                }
                tracing::info!(signal = name, "draining; a second signal ends at once");
                begun.begin();
            }
        });
        Ok(shutdown)
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
