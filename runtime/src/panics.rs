//! What becomes of a panic: it ends one piece of work, says so in the log, and leaves a message fit to be shown.
//!
//! A panic is a defect of ours, so it is never passed over in silence; but it ends only what it happened in. [`caught`]
//! draws that line around a future, [`log_panics`] brings every panic into the log, wherever it is caught,
//! [`PanicCounts`] counts them for metrics.

use std::{
    any::Any,
    backtrace::{Backtrace, BacktraceStatus},
    collections::BTreeMap,
    fmt,
    panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook, take_hook},
    pin::Pin,
    sync::{Mutex, MutexGuard, Once, PoisonError},
    task::{Context, Poll},
};

use pin_project_lite::pin_project;

use crate::printable::printable;

/// Most characters that are kept of what a panic said: it may hold whatever a caller sent.
const MAX_CHARS: usize = 300;

/// What a panic said, in one line of at most 300 characters, without anything that a terminal would obey.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PanicMessage(String);

impl PanicMessage {
    /// What a panic left behind, as [`catch_unwind`] and tasks hand it out.
    pub fn of(payload: &(dyn Any + Send)) -> Self {
        Self(printable(text(payload), MAX_CHARS))
    }
}

impl fmt::Display for PanicMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn text(payload: &(dyn Any + Send)) -> &str {
    let literal = payload.downcast_ref::<&'static str>().copied();
    literal.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

/// Brings every panic of the process into the log, once, with its place, its thread and, where `RUST_BACKTRACE` asks for
/// it, its backtrace. A panic that the log's filter would swallow is printed to stderr as ever. More calls change nothing.
pub fn log_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print = take_hook();
        set_hook(Box::new(move |panic| {
            if tracing::enabled!(tracing::Level::ERROR) {
                log(panic);
            } else {
                print(panic);
            }
        }));
    });
}

fn log(panic: &PanicHookInfo<'_>) {
    let said = PanicMessage::of(panic.payload());
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        tracing::error!(%thread, %place, %backtrace, "panicked: {said}");
    } else {
        tracing::error!(%thread, %place, "panicked: {said}");
    }
}

pin_project! {
    /// A future whose panic is an outcome: see [`caught`].
    #[derive(Debug)]
    #[must_use = "futures do nothing unless they are awaited"]
    pub struct Caught<F> {
        #[pin]
        future: F,
    }
}

/// Awaits `future`; its panic is an error instead of the end of the task. Without cost on the way on which nothing
/// panics: no allocation, no copy of the future.
///
/// The future must not be what guards state that others see half-changed: what it held is dropped, locks of std that it
/// held for writing are poisoned. Not to be polled again after it has completed.
pub fn caught<F: Future>(future: F) -> Caught<F> {
    Caught { future }
}

impl<F: Future> Future for Caught<F> {
    type Output = Result<F::Output, PanicMessage>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let future = self.project().future;
        match catch(|| future.poll(cx)) {
            Ok(polled) => polled.map(Ok),
            Err(panic) => Poll::Ready(Err(panic)),
        }
    }
}

/// Does `work`; its panic is an error. The same care is asked for as by [`caught`].
///
/// # Errors
/// What the panic said.
pub fn catch<T>(work: impl FnOnce() -> T) -> Result<T, PanicMessage> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| PanicMessage::of(&*payload))
}

/// Panics by what they ended, for metrics. What panics is named by the code, never by a caller, so this is bounded.
#[derive(Debug, Default)]
pub struct PanicCounts(Mutex<BTreeMap<&'static str, u64>>);

impl PanicCounts {
    /// Has `task` among the counts from now on, at 0 until it panics. The others appear with their first panic.
    pub fn begin(&self, task: &'static str) {
        self.lock().entry(task).or_default();
    }

    /// Counts a panic that ended `task`.
    pub fn count(&self, task: &'static str) {
        *self.lock().entry(task).or_default() += 1;
    }

    /// How many there were since the start, by task.
    pub fn read(&self) -> BTreeMap<&'static str, u64> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, u64>> {
        // Whole numbers: a panic leaves nothing half-done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{io, sync::Arc};

    use tracing_subscriber::EnvFilter;

    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_outcome_and_what_does_not_panic_is_untouched() {
        assert_eq!(caught(async { 7 }).await, Ok(7));
        let after_a_wait = async {
            tokio::task::yield_now().await;
            panic!("index {} of 3", 9)
        };
        let caught: Result<(), _> = caught(after_a_wait).await;
        assert_eq!(caught.unwrap_err().to_string(), "index 9 of 3");
    }

    #[test]
    fn what_a_panic_said_is_one_bounded_line_that_no_terminal_obeys() {
        let said = |text: &str| PanicMessage::of(&text.to_owned()).to_string();
        assert_eq!(
            said("called `Option::unwrap()` on a \"None\""),
            "called `Option::unwrap()` on a \"None\""
        );
        assert_eq!(said("a\nb\u{1b}[2J\u{202e}c\0"), r"a\nb\u{1b}[2J\u{202e}c\u{0}");
        assert_eq!(said("é ✓"), "é ✓");
        assert_eq!(said(&"x".repeat(1000)), format!("{}…", "x".repeat(MAX_CHARS)));
        assert_eq!(said(&"x".repeat(MAX_CHARS)), "x".repeat(MAX_CHARS));
        assert_eq!(PanicMessage::of(&"a literal").to_string(), "a literal");
        assert_eq!(PanicMessage::of(&17_u8).to_string(), "no message");
    }

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is logged on this thread while `work` runs, and what becomes of it.
    fn logged<T>(filter: &str, work: impl FnOnce() -> T) -> (T, String) {
        let lines = Lines::default();
        let written = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new(filter))
            .with_ansi(false)
            .with_writer(move || written.clone())
            .finish();
        let outcome = tracing::subscriber::with_default(subscriber, work);
        let lines = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        (outcome, lines)
    }

    #[test]
    fn a_panic_is_in_the_log_once_with_its_place_and_its_thread() {
        log_panics();
        log_panics();
        let panics = || catch_unwind(|| panic!("out of\nluck {}", 7));
        let (outcome, lines) = logged("info", panics);
        assert_eq!(PanicMessage::of(&*outcome.unwrap_err()).to_string(), r"out of\nluck 7");
        let first = lines.lines().next().unwrap();
        assert!(first.contains(r"ERROR gateway_runtime::panics: panicked: out of\nluck 7"), "{lines}");
        assert!(first.contains("place=runtime/src/panics.rs:") && first.contains("thread="), "{lines}");
        assert_eq!(lines.matches("luck").count(), 1, "{lines}");
        // What the log leaves out goes to stderr as ever.
        assert_eq!(logged("off", panics).1, "");
    }

    #[test]
    fn panics_are_counted_by_what_they_ended() {
        let counts = PanicCounts::default();
        counts.begin("expiry");
        counts.count("writer");
        counts.count("writer");
        counts.begin("writer");
        assert_eq!(counts.read(), BTreeMap::from([("expiry", 0), ("writer", 2)]));
    }
}
