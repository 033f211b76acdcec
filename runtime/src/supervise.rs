//! The owner of a process's long-lived tasks: a task that panics is started again, one for one.
//!
//! Every task has a name, runs on its own, and is awaited at the end. A panic costs what the task was doing; the task
//! begins anew after a pause that grows. Beyond the [`Intensity`] a restart does not heal: then the process ends with a
//! [`Failure`], for whatever supervises it to begin anew, unless the task is one that [`Beyond::Persist`] is said of.
//! The supervisor knows nothing of what tasks do; state that must outlive a panic belongs behind what `start` shares
//! between two runs.

mod intensity;

use std::{
    collections::HashMap,
    fmt,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use tokio::{
    task::{Id, JoinError, JoinSet},
    time::{Instant, sleep},
};

pub use self::intensity::Intensity;
use self::intensity::{MAX_PAUSE, Restarts, Verdict};
use crate::{
    Failure, Shutdown,
    panics::{PanicMessage, caught},
};

/// What to do about a task that panics more often than its intensity allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beyond {
    /// End the process: it could not keep its word without the task.
    End,
    /// Go on trying, every half a minute: the process does more good without the task than by its end.
    Persist,
}

/// A task has panicked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Which.
    pub task: &'static str,
    /// What the panic said.
    pub panic: PanicMessage,
    /// What follows.
    pub next: Next,
}

/// What follows a task's panic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It starts again.
    Restart {
        /// After this time.
        pause: Duration,
        /// Restarts left within the intensity.
        left: u32,
    },
    /// The process ends.
    End,
}

impl Next {
    fn after_panic(restarts: &mut Restarts, beyond: Beyond) -> Self {
        match (restarts.panicked(Instant::now().into_std()), beyond) {
            (Verdict::Restart { pause, left }, _) => Self::Restart { pause, left },
            (Verdict::TooMany, Beyond::Persist) => Self::Restart { pause: MAX_PAUSE, left: 0 },
            (Verdict::TooMany, Beyond::End) => Self::End,
        }
    }
}

/// Runs what `start` makes in the caller's own task, again after every panic as [`Beyond::Persist`] says, until it ends by
/// itself or this is dropped: for work that cannot leave its thread. Calls `notify` at every panic.
pub async fn persist<F: Future<Output = ()>>(
    task: &'static str,
    start: impl Fn() -> F,
    notify: impl Fn(&Notice),
) {
    let mut restarts = Restarts::new(Intensity::default());
    while let Err(panic) = caught(start()).await {
        let next = Next::after_panic(&mut restarts, Beyond::Persist);
        notify(&Notice { task, panic, next });
        let Next::Restart { pause, left } = next else { return };
        tracing::error!(task, ?pause, left, "a task panicked: starting it again");
        sleep(pause).await;
    }
}

/// What a run of a task comes to: an end is an end, a [`Failure`] ends the process, and a panic begins the next run.
pub type Ended = Result<(), Failure>;

type Run = Pin<Box<dyn Future<Output = Ended> + Send>>;

/// Owns tasks. Dropped, it aborts them all.
pub struct Supervisor {
    running: JoinSet<Ended>,
    tasks: HashMap<Id, Task>,
    stop: Shutdown,
    notify: Box<dyn Fn(&Notice) + Send + Sync>,
}

struct Task {
    name: &'static str,
    beyond: Beyond,
    restarts: Restarts,
    /// Shared with the run under way. Dropped with the task, and with it what only the task needs: a queue of which
    /// nobody is left to read must close.
    start: Arc<dyn Fn() -> Run + Send + Sync>,
}

impl Supervisor {
    /// Owns nothing yet. Begins `stop` when a task cannot be kept alive, and calls `notify` at every panic: it must be
    /// quick.
    pub fn new(stop: Shutdown, notify: impl Fn(&Notice) + Send + Sync + 'static) -> Self {
        Self { running: JoinSet::new(), tasks: HashMap::new(), stop, notify: Box::new(notify) }
    }

    /// Starts a task, within the default [`Intensity`]. What `start` makes runs on a task of its own, and again after
    /// every panic; it is to end soon after the shutdown has begun.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn spawn<F>(
        &mut self,
        name: &'static str,
        beyond: Beyond,
        start: impl Fn() -> F + Send + Sync + 'static,
    ) where
        F: Future<Output = Ended> + Send + 'static,
    {
        let start = Arc::new(move || Box::pin(start()) as Run);
        let restarts = Restarts::new(Intensity::default());
        self.run_task(Task { name, beyond, restarts, start }, Duration::ZERO);
    }

    /// Runs until every task has ended by itself, which they do when the shutdown has begun. Tasks that have not within
    /// `patience` of that are aborted and named in the log.
    ///
    /// # Errors
    /// The [`Failure`] of the first task that failed, or panicked too often. The others are told to stop, and awaited.
    pub async fn run(mut self, patience: Duration) -> Ended {
        let mut outcome = Ok(());
        let stop = self.stop.clone();
        let late = async {
            stop.begun().await;
            sleep(patience).await;
        };
        let mut late = pin!(late);
        loop {
            let joined = tokio::select! {
                biased;
                joined = self.running.join_next_with_id() => joined,
                () = &mut late => {
                    for task in self.tasks.values() {
                        tracing::warn!(task = task.name, after = ?patience, "a task does not end: aborting it");
                    }
                    return outcome;
                }
            };
            let ended = match joined {
                None => return outcome,
                Some(Ok((id, ended))) => {
                    self.tasks.remove(&id);
                    ended
                }
                Some(Err(error)) => self.broke_off(error),
            };
            if let Err(failure) = ended {
                tracing::error!(%failure, "ending");
                self.stop.begin();
                outcome = outcome.and(Err(failure));
            }
        }
    }

    fn run_task(&mut self, task: Task, pause: Duration) {
        let (start, stop) = (Arc::clone(&task.start), self.stop.clone());
        let run = async move {
            tokio::select! {
                () = sleep(pause) => {}
                // Whatever is left to do at the end is to be done now.
                () = stop.begun(), if !pause.is_zero() => {}
            }
            start().await
        };
        let id = self.running.spawn(run).id();
        self.tasks.insert(id, task);
    }

    fn broke_off(&mut self, error: JoinError) -> Ended {
        let Some(mut task) = self.tasks.remove(&error.id()) else { return Ok(()) };
        // Nobody aborts single tasks, so without a panic the runtime itself is ending.
        let Ok(payload) = error.try_into_panic() else { return Ok(()) };
        let (name, panic) = (task.name, PanicMessage::of(&*payload));
        let next = Next::after_panic(&mut task.restarts, task.beyond);
        let notice = Notice { task: name, panic, next };
        (self.notify)(&notice);
        match next {
            Next::Restart { pause, left } => {
                // What it said, and where, is in the log by the panic's own line.
                tracing::error!(task = name, ?pause, left, "a task panicked: starting it again");
                self.run_task(task, pause);
                Ok(())
            }
            Next::End => {
                let Intensity { restarts, within } = Intensity::default();
                Err(Failure::fatal(format!(
                    "task {name} panicked more than {restarts} times within {}s, at last: {}; start again, and report \
                     the defect",
                    within.as_secs(),
                    notice.panic
                )))
            }
        }
    }
}

impl fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.tasks.values().map(|task| task.name).collect();
        f.debug_struct("Supervisor").field("tasks", &names).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
