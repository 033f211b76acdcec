//! Signals to the supervisor: when to stop, when to stop at once, and what is passed on.

use std::io::IsTerminal as _;

use gateway_runtime::Shutdown;
use rustix::process::Signal;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use super::Live;
use crate::error::{Error, Exit};

/// What signals ask for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stop {
    /// Drain, stop the programs, and end.
    pub(crate) orderly: Shutdown,
    /// Kill them.
    pub(crate) at_once: Shutdown,
}

impl Stop {
    /// Begins to listen. SIGTERM and SIGINT stop, the second one at once; SIGHUP does so where there is a terminal to lose,
    /// and is passed on to the programs elsewhere, as SIGUSR1, SIGUSR2 and SIGQUIT are everywhere.
    ///
    /// # Errors
    /// When the process cannot listen to signals.
    pub(crate) fn on_signals(live: Live) -> Result<Self, Error> {
        let stop = Self::default();
        let (wishes, received) = mpsc::channel(8);
        let hang_up_stops = std::io::stdin().is_terminal();
        let stopping = [(SignalKind::terminate(), None), (SignalKind::interrupt(), None)];
        let hang_up = [(SignalKind::hangup(), (!hang_up_stops).then_some(Signal::HUP))];
        let passed = [
            (SignalKind::user_defined1(), Some(Signal::USR1)),
            (SignalKind::user_defined2(), Some(Signal::USR2)),
            (SignalKind::quit(), Some(Signal::QUIT)),
        ];
        for (kind, pass_on) in stopping.into_iter().chain(hang_up).chain(passed) {
            let mut signals = signal(kind)
                .map_err(|error| Error::new(Exit::Failed, format!("cannot listen to signals: {error}")))?;
            let (wishes, live) = (wishes.clone(), live.clone());
            tokio::spawn(async move {
                while signals.recv().await.is_some() {
                    match pass_on {
                        Some(signal) => live.signal(signal),
                        // Where several wait already, another says nothing new.
                        None => drop(wishes.try_send(())),
                    }
                }
            });
        }
        tokio::spawn(stop.clone().follow(received));
        Ok(stop)
    }

    async fn follow(self, wishes: mpsc::Receiver<()>) {
        if self.orderly.until_impatient(wishes, |()| {}).await.is_some() {
            self.at_once.begin();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_wish_is_orderly_its_echo_nothing_and_the_second_at_once() {
        let stop = Stop::default();
        let (wishes, received) = mpsc::channel(8);
        let following = tokio::spawn(stop.clone().follow(received));
        tokio::task::yield_now().await;
        assert!(!stop.orderly.has_begun());
        wishes.send(()).await.unwrap();
        stop.orderly.begun().await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        wishes.send(()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(150)).await;
        assert!(!stop.at_once.has_begun(), "an echo is not impatience");
        wishes.send(()).await.unwrap();
        stop.at_once.begun().await;
        following.await.unwrap();
    }
}
