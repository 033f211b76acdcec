//! Logs, on stderr only: stdout belongs to the ready line and to data.

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

use crate::{Failure, panics};

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
    /// Starts logging for the whole process, panics included; a second call changes nothing.
    ///
    /// # Errors
    /// A usage [`Failure`] naming `--log` when the filter does not parse.
    pub fn init(&self) -> Result<(), Failure> {
        let filter = EnvFilter::try_new(&self.log)
            .map_err(|error| Failure::usage(format!("--log {:?} is no log filter: {error}", self.log)))?;
        let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
        // A second initialisation is refused by the library; both planes in one process share the first.
        let _ = match self.log_format {
            LogFormat::Text => {
                builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init()
            }
            LogFormat::Json => builder.json().flatten_event(true).try_init(),
        };
        panics::log_panics();
        Ok(())
    }
}
