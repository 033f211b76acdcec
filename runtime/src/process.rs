//! A process's runtime, from its start to an end that nothing holds up.

use std::time::Duration;

use tokio::{
    runtime::Builder,
    signal::unix::{SignalKind, signal},
};

use crate::Failure;

/// Work on blocking threads that is still under way at the end has this long. It belongs to tasks that were aborted
/// because they did not end in time: a disk that hangs must not keep the process from ending.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Runs `main` on a runtime with that many threads, `None`: one for each core. Returns soon after `main` has.
///
/// # Errors
/// What `main` fails with, or a fatal [`Failure`] when the system gives no threads.
pub fn run(
    worker_threads: Option<usize>,
    main: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    let mut builder = Builder::new_multi_thread();
    if let Some(threads) = worker_threads {
        builder.worker_threads(threads);
    }
    let runtime = builder.enable_all().build();
    let runtime = runtime.map_err(|error| Failure::fatal(format!("cannot start the runtime: {error}")))?;
    let ended = runtime.block_on(main);
    runtime.shutdown_timeout(LAST_WORDS);
    ended
}

/// Has a write beyond the limit of a file's size fail, where by default it ends the process. To be called in a runtime.
///
/// # Errors
/// A fatal [`Failure`] when the system refuses it.
pub fn survive_size_limit() -> Result<(), Failure> {
    /// The number on Linux and macOS alike.
    const SIGXFSZ: i32 = 25;
    survive(SignalKind::from_raw(SIGXFSZ), "the limit of a file's size")
}

/// Has SIGHUP end nobody, where by default it ends the process: who rotates logs sends it to every process of a name,
/// whether or not it keeps one. To be called in a runtime.
///
/// # Errors
/// A fatal [`Failure`] when the system refuses it.
pub fn survive_hang_ups() -> Result<(), Failure> {
    survive(SignalKind::hangup(), "SIGHUP")
}

fn survive(kind: SignalKind, what: &str) -> Result<(), Failure> {
    // A handler stays for as long as the process, whether or not anybody listens.
    let handled = signal(kind).map(drop);
    handled.map_err(|error| Failure::fatal(format!("cannot handle {what}: {error}")))
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Instant};

    use super::*;

    #[test]
    fn a_disk_that_hangs_does_not_hold_up_the_end() {
        let (release, hang) = mpsc::channel::<()>();
        let began = Instant::now();
        let ended = run(Some(1), async move {
            drop(tokio::task::spawn_blocking(move || hang.recv()));
            Err(Failure::fatal("why it ends"))
        });
        assert_eq!(ended, Err(Failure::fatal("why it ends")));
        assert!(began.elapsed() < 20 * LAST_WORDS);
        drop(release);
    }
}
