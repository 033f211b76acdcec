//! Logs, on stderr only: stdout belongs to the ready line and to data.
//!
//! A thread of its own writes them, because whoever reads them may stall or go away: then lines are lost, and nothing
//! else is.

use clap::ValueEnum;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

use crate::{Failure, panics};

/// Lines that wait to be written at most. More are lost.
const MAX_WAITING: usize = 8192;

/// Keeps the logs going: when it is dropped, those that wait are written, for a second at most.
#[must_use = "without it nothing is logged"]
#[derive(Debug)]
pub struct Logs(#[expect(dead_code, reason = "what matters is when it is dropped")] WorkerGuard);

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Flags of every server.
#[derive(Debug, Clone, clap::Args)]
pub struct LogArgs {
    /// What to log: a level (error, warn, info, debug, trace) or directives such as `info,data_plane=debug`
    #[arg(long, env = "GW_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,
    /// How log lines on stderr look
    #[arg(long, env = "GW_LOG_FORMAT", default_value = "text", value_name = "FORMAT")]
    pub log_format: LogFormat,
}

impl LogArgs {
    /// Starts logging for the whole process, panics included, for as long as what it yields is kept; a second call changes
    /// nothing.
    ///
    /// # Errors
    /// A usage [`Failure`] naming `--log` when the filter does not parse.
    pub fn init(&self) -> Result<Logs, Failure> {
        let filter = EnvFilter::try_new(&self.log)
            .map_err(|error| Failure::usage(format!("--log {:?} is no log filter: {error}", self.log)))?;
        let (writer, guard) = NonBlockingBuilder::default()
            .buffered_lines_limit(MAX_WAITING)
            .lossy(true)
            .finish(std::io::stderr());
        let builder = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(writer)
            // There is no other place to complain of stderr.
            .log_internal_errors(false);
        // A second initialisation is refused by the library; both planes in one process share the first.
        let _ = match self.log_format {
            LogFormat::Text => {
                builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init()
            }
            LogFormat::Json => builder.json().flatten_event(true).try_init(),
        };
        panics::log_panics();
        Ok(Logs(guard))
    }
}
