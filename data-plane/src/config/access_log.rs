//! What is written of each request.

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::builder::FalseyValueParser;
use gateway_runtime::Failure;

use crate::access_log::{AccessLog, AccessLogFormat, Settings};

/// Flags of the access log.
#[derive(Debug, Clone, clap::Args)]
pub struct AccessLogArgs {
    /// Where a line for each request goes: a file, opened anew by SIGHUP, or stdout
    #[arg(long, env = "GW_ACCESS_LOG", default_value = "off", value_name = "FILE|stdout|off")]
    pub access_log: PathBuf,
    /// How its lines look
    #[arg(long, env = "GW_ACCESS_LOG_FORMAT", default_value = "json", value_name = "FORMAT")]
    pub access_log_format: AccessLogFormat,
    /// One line for so many requests; those that failed, were retried or slow have theirs in any case
    #[arg(long, env = "GW_ACCESS_LOG_SAMPLE", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_000_000), value_name = "N")]
    pub access_log_sample: u64,
    /// From which duration on a request is slow, such as 500ms
    #[arg(long, env = "GW_ACCESS_LOG_SLOW", default_value = "1s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub access_log_slow: Duration,
    /// Have lines tell queries, too, which may hold secrets
    #[arg(long, env = "GW_ACCESS_LOG_QUERY", value_parser = FalseyValueParser::new())]
    pub access_log_query: bool,
}

impl AccessLogArgs {
    /// Opens the log, if there is to be one.
    ///
    /// # Errors
    /// A usage [`Failure`] that names the file and why it cannot be written.
    pub fn open(&self) -> Result<Option<Arc<AccessLog>>, Failure> {
        let path = match self.access_log.to_str() {
            Some("off" | "") => return Ok(None),
            Some("stdout" | "-") => None,
            _ => Some(self.access_log.clone()),
        };
        let settings = Settings {
            path,
            format: self.access_log_format,
            sample: self.access_log_sample,
            slow: self.access_log_slow,
            has_query: self.access_log_query,
        };
        AccessLog::open(settings).map(|log| Some(Arc::new(log)))
    }
}
