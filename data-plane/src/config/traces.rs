//! Which requests are traced, and where their spans go.

use std::{path::PathBuf, sync::Arc};

use gateway_runtime::Failure;

use crate::traces::{Collector, Sampling, Tracer};

/// Flags of traces.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Traces")]
pub struct TraceArgs {
    /// Send spans of requests and of their attempts to a collector, by OTLP over HTTP, as http://HOST:PORT or
    /// https://HOST:PORT; /v1/traces is added to what names no such path
    #[arg(long, env = "GW_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<String>,
    /// What each of those requests says beside, such as a token, as NAME=VALUE
    #[arg(
        long,
        env = "GW_OTLP_HEADER",
        value_delimiter = ',',
        hide_env_values = true,
        value_name = "NAME=VALUE,…"
    )]
    pub otlp_header: Vec<String>,
    /// Authorities, in PEM, that sign the collector's certificate [default: those that the system trusts]
    #[arg(long, env = "GW_OTLP_CA", value_name = "FILE")]
    pub otlp_ca: Option<PathBuf>,
    /// Which share of the requests without a traceparent is traced, 0.0..=1.0; of others it is decided by their caller
    #[arg(long, env = "GW_TRACE_SAMPLE", default_value = "1.0", value_name = "RATIO")]
    pub trace_sample: f64,
}

impl TraceArgs {
    /// What sends them, if there is an endpoint.
    ///
    /// # Errors
    /// A usage [`Failure`] that names the flag and what is allowed.
    pub fn tracer(&self, node_id: &str) -> Result<Option<Arc<Tracer>>, Failure> {
        let ratio = self.trace_sample;
        if !(0.0..=1.0).contains(&ratio) {
            return Err(Failure::usage(format!("--trace-sample {ratio} is not in 0.0..=1.0")));
        }
        let Some(url) = self.otlp_endpoint.as_deref().filter(|url| !url.is_empty()) else {
            return match self.otlp_header.is_empty() && self.otlp_ca.is_none() {
                true => Ok(None),
                false => Err(Failure::usage("--otlp-header and --otlp-ca need --otlp-endpoint")),
            };
        };
        let collector = Collector::parse(url, &self.otlp_header, self.otlp_ca.clone())?;
        let tracer = Tracer::new(collector, Sampling::new(ratio), node_id.to_owned());
        Ok(Some(Arc::new(tracer)))
    }
}
