//! Which requests are traced, and where their spans go.

use std::{path::PathBuf, sync::Arc};

use gateway_runtime::Failure;

use crate::traces::{Collector, Protocol, Sampling, Tracer};

/// Flags of traces.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Traces")]
pub struct TraceArgs {
    /// Send spans of requests and of their attempts to a collector, by OTLP, as http://HOST:PORT or https://HOST:PORT; over
    /// HTTP, /v1/traces is added to what names no such path
    #[arg(long, env = "GW_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<String>,
    /// How the collector is spoken to
    #[arg(long, env = "GW_OTLP_PROTOCOL", value_enum, default_value_t = Protocol::Http, value_name = "PROTOCOL")]
    pub otlp_protocol: Protocol,
    /// What each of those requests says beside, such as a token, as NAME=VALUE
    #[arg(
        long,
        env = "GW_OTLP_HEADER",
        value_delimiter = ',',
        hide_env_values = true,
        value_name = "NAME=VALUE,…"
    )]
    pub otlp_header: Vec<String>,
    /// The same from a file, one in a line, for what is a secret: flags are seen by whoever lists processes
    #[arg(long, env = "GW_OTLP_HEADER_FILE", value_name = "FILE")]
    pub otlp_header_file: Option<PathBuf>,
    /// Authorities, in PEM, that sign the collector's certificate; read again when it changes [default: those that the system
    /// trusts]
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
            let is_alone =
                self.otlp_header.is_empty() && self.otlp_header_file.is_none() && self.otlp_ca.is_none();
            return match is_alone {
                true => Ok(None),
                false => Err(Failure::usage(
                    "--otlp-header, --otlp-header-file and --otlp-ca need --otlp-endpoint",
                )),
            };
        };
        let mut headers = self.otlp_header.clone();
        if let Some(path) = &self.otlp_header_file {
            let text = std::fs::read_to_string(path);
            let text = text
                .map_err(|error| Failure::usage(format!("--otlp-header-file {}: {error}", path.display())))?;
            headers.extend(text.lines().map(|line| line.trim().to_owned()));
        }
        let collector = Collector::parse(url, &headers, self.otlp_ca.clone(), self.otlp_protocol)?;
        let tracer = Tracer::new(collector, Sampling::new(ratio), node_id.to_owned());
        Ok(Some(Arc::new(tracer)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_from_a_file_go_beside_those_of_flags_and_a_file_that_is_not_there_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("headers");
        std::fs::write(&path, "authorization=Bearer a,b\n\nx-tenant=shop\n").unwrap();
        let args = |file: Option<PathBuf>, url: Option<&str>| TraceArgs {
            otlp_endpoint: url.map(Into::into),
            otlp_protocol: Protocol::Http,
            otlp_header: vec!["x-zone=a".into()],
            otlp_header_file: file,
            otlp_ca: None,
            trace_sample: 1.0,
        };
        let url = Some("http://127.0.0.1:4318");
        assert!(args(Some(path.clone()), url).tracer("dp-1").unwrap().is_some());
        let absent = args(Some(folder.path().join("absent")), url).tracer("dp-1").unwrap_err().to_string();
        assert!(absent.starts_with("--otlp-header-file "), "{absent}");
        std::fs::write(&path, "s3cret\n").unwrap();
        let refused = args(Some(path.clone()), url).tracer("dp-1").unwrap_err().to_string();
        assert!(refused.contains("has no '='") && !refused.contains("s3cret"), "{refused}");
        assert!(args(Some(path), None).tracer("dp-1").is_err());
    }
}
