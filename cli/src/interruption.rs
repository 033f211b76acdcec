//! A watch that breaks: told once, tried again with jittered pauses, and told once more when it goes on.

use std::time::Duration;

use rand::Rng as _;

use crate::output::Output;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// What is known of the interruptions of one watch.
#[derive(Debug)]
pub(crate) struct Interruption {
    pause: Duration,
    is_told: bool,
}

impl Interruption {
    /// There was none yet.
    pub(crate) fn none() -> Self {
        Self { pause: FIRST_PAUSE, is_told: false }
    }

    /// The watch broke, or could not be opened again: says why, if that has not been said, and waits before the next try.
    pub(crate) async fn wait(&mut self, why: &str, output: &Output) {
        if !std::mem::replace(&mut self.is_told, true) {
            output.note(format_args!("watch interrupted ({why}); trying again"));
        }
        // Full jitter, so that many watchers do not come back together.
        let pause = rand::rng().random_range(Duration::ZERO..=self.pause);
        self.pause = (self.pause * 2).min(MAX_PAUSE);
        tokio::time::sleep(pause).await;
    }

    /// It works, or works again, which is said.
    pub(crate) fn over(&mut self, output: &Output) {
        if std::mem::replace(&mut self.is_told, false) {
            output.note("the watch goes on");
        }
        self.pause = FIRST_PAUSE;
    }
}
