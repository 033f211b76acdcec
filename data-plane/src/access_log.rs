//! The access log: one line for each request, when its answer has ended.
//!
//! What a line says is for [`line`], as bytes and nothing else. Lines go through a bounded queue to a thread of their own, so
//! that a disk or a reader that stalls costs lines, never a request; what is lost is counted and told.

mod escape;
mod line;
mod sink;

use std::{
    io::{self, Write},
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use gateway_runtime::{Failure, Shutdown, notify};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::spawn_blocking,
    time::interval,
};
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};

pub(crate) use line::{Attempted, Entry, Outcome, Request};
use sink::{Sink, Target};

/// Lines that wait to be written at most. More are lost.
const MAX_WAITING: usize = 8192;
/// How often it is told that lines were lost.
const TELL_INTERVAL: Duration = Duration::from_secs(10);

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum AccessLogFormat {
    /// One JSON object a line
    #[default]
    Json,
    /// The combined log format, with NAME=VALUE behind it
    Text,
}

/// What the access log has, and how.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Where it goes; `None` is stdout.
    pub(crate) path: Option<PathBuf>,
    pub(crate) format: AccessLogFormat,
    /// One line for so many requests that are neither failed nor retried nor slow; at least 1.
    pub(crate) sample: u64,
    /// From which duration on a request is slow.
    pub(crate) slow: Duration,
    /// Whether lines have queries. They may hold secrets.
    pub(crate) has_query: bool,
}

/// A log that is open.
#[derive(Debug)]
pub struct AccessLog {
    settings: Settings,
    target: Arc<Target>,
    lines: NonBlocking,
    lost: ErrorCounter,
    /// Requests that were neither failed nor retried nor slow, over all workers: touched where there is a sample only.
    ordinary: AtomicU64,
    /// Ends the writer once all that waits is written.
    writer: Mutex<Option<WorkerGuard>>,
}

impl AccessLog {
    /// Opens the file, to append to it, and starts the writer.
    ///
    /// # Errors
    /// A usage [`Failure`] that names the file and why it cannot be written.
    pub(crate) fn open(settings: Settings) -> Result<Self, Failure> {
        let target = Target::open(settings.path.clone()).map_err(|error| {
            let path = settings.path.as_deref().unwrap_or("stdout".as_ref());
            Failure::usage(format!("--access-log {}: cannot be written: {error}", path.display()))
        })?;
        let target = Arc::new(target);
        let (lines, guard) = NonBlockingBuilder::default()
            .buffered_lines_limit(MAX_WAITING)
            .lossy(true)
            .thread_name("access-log")
            .finish(Sink::new(Arc::clone(&target)));
        let (lost, writer) = (lines.error_counter(), Mutex::new(Some(guard)));
        Ok(Self { settings, target, lines, lost, ordinary: AtomicU64::new(0), writer })
    }

    /// Has a request's line written, unless it is an ordinary one that the sample leaves out. Never waits.
    pub(crate) fn write(&self, entry: &Entry<'_>) {
        if !self.has(entry) {
            return;
        }
        let mut line = Vec::with_capacity(1024);
        match self.settings.format {
            AccessLogFormat::Json => line::json(&mut line, entry),
            AccessLogFormat::Text => line::text(&mut line, entry),
        }
        // A line that finds the queue full is counted there.
        let _ = self.lines.clone().write(&line);
    }

    /// Whether lines have queries.
    pub(crate) fn has_query(&self) -> bool {
        self.settings.has_query
    }

    fn has(&self, entry: &Entry<'_>) -> bool {
        let is_ordinary =
            !entry.has_failed() && entry.attempt_count < 2 && entry.duration < self.settings.slow;
        !is_ordinary
            || self.settings.sample <= 1
            || self.ordinary.fetch_add(1, Relaxed).is_multiple_of(self.settings.sample)
    }

    /// Lines lost because the writer did not keep up.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.dropped_lines() as u64
    }

    /// Lines lost because the file could not be written.
    pub(crate) fn failed(&self) -> u64 {
        self.target.failed()
    }

    /// Opens the file anew with every SIGHUP, as those who rotate logs ask for, and tells of lines that were lost, until the
    /// shutdown. Cancel safe.
    pub(crate) async fn follow(&self, shutdown: Shutdown) {
        let mut hangups = match signal(SignalKind::hangup()) {
            Ok(hangups) => hangups,
            Err(error) => {
                tracing::error!(%error, "cannot listen to SIGHUP: the access log is not opened anew by it");
                return;
            }
        };
        let mut looks = interval(TELL_INTERVAL);
        let mut told = (self.lost(), self.failed());
        loop {
            tokio::select! {
                () = shutdown.begun() => return,
                Some(()) = hangups.recv() => tokio::select! {
                    () = shutdown.begun() => return,
                    () = self.reopen() => {}
                },
                _ = looks.tick() => told = self.tell(told),
            }
        }
    }

    /// On a thread of its own: a writer that is stuck with the file before, or a pipe that nobody reads, holds it up.
    async fn reopen(&self) {
        notify::reloading();
        let target = Arc::clone(&self.target);
        let reopened = spawn_blocking(move || target.reopen()).await;
        match reopened.map_err(io::Error::from).flatten() {
            Ok(()) => tracing::info!("SIGHUP: the access log was opened anew"),
            Err(error) => {
                tracing::error!(%error, "SIGHUP: the access log cannot be opened anew: going on with the file before");
            }
        }
        notify::reloaded();
    }

    /// Tells of what was lost since `told`; yields what is told now.
    fn tell(&self, told: (u64, u64)) -> (u64, u64) {
        let now = (self.lost(), self.failed());
        if now != told {
            let (lost, failed) = (now.0 - told.0, now.1 - told.1);
            tracing::warn!(
                lost,
                failed,
                "lines of the access log were lost: it is written too slowly, or not at all"
            );
        }
        now
    }

    /// Writes what waits, for a second at most, and nothing from then on. Blocks.
    pub(crate) fn close(&self) {
        drop(self.writer.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

#[cfg(test)]
mod tests;
