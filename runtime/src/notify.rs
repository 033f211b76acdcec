//! What a service manager, such as systemd, is told of the process, by its protocol `sd_notify`. Where there is none, nothing is.

use std::time::Duration;

use sd_notify::NotifyState;

use crate::Shutdown;

/// Begins to tell it: that everything is bound and serves, with a line on that for people; then, as often as it asks for, that the
/// process is well, for as long as `faults` finds nothing to say against that; and when the shutdown begins.
///
/// A process that is not well is ended by its manager: `faults` must name only what a restart heals.
///
/// # Panics
/// Outside a tokio runtime.
pub fn serve(status: &str, shutdown: Shutdown, faults: impl Fn() -> Option<String> + Send + 'static) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
    tokio::spawn(async move {
        shutdown.begun().await;
        tell(&[NotifyState::Stopping, NotifyState::Status("finishing what is in flight")]);
    });
    if let Some(limit) = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero()) {
        tokio::spawn(prove_life(limit, faults));
    }
}

/// It reads its files anew from here until [`reloaded`].
pub fn reloading() {
    let since = NotifyState::monotonic_usec_now();
    // Without the time, managers that ask for it wait in vain; those that do not are told.
    let states: Vec<_> = std::iter::once(NotifyState::Reloading).chain(since).collect();
    tell(&states);
}

/// What began with [`reloading`] is over, however it ended: the log tells.
pub fn reloaded() {
    tell(&[NotifyState::Ready]);
}

async fn prove_life(limit: Duration, faults: impl Fn() -> Option<String>) {
    // Half of it, as the protocol recommends.
    let mut looks = tokio::time::interval(limit / 2);
    loop {
        looks.tick().await;
        match faults() {
            None => tell(&[NotifyState::Watchdog]),
            Some(fault) => {
                tracing::error!(%fault, ?limit, "not well: the service manager is not told otherwise, and ends this process");
            }
        }
    }
}

fn tell(states: &[NotifyState<'_>]) {
    // Without a manager this does nothing, and says so by no error.
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot tell the service manager");
    }
}
