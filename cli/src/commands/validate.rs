//! `gwctl validate FILE`: whether a data plane would take a static file, or the control plane policies, without either.

use std::{path::PathBuf, time::SystemTime};

use data_plane::static_file;
use serde_json::json;

use crate::{
    error::{Error, Exit},
    output::{Format, Output},
};

/// Flags of `gwctl validate`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A data plane's static file, in TOML. For policies see  gwctl policy validate
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Take faults that it injects, as a data plane with --allow-fault-injection does
    #[arg(long)]
    allow_fault_injection: bool,
}

/// Checks every file, by the code that reads it in earnest.
///
/// # Errors
/// A usage error with the fault of each file that has one.
pub(crate) fn run(args: &Args, output: &Output) -> Result<(), Error> {
    let mut valid = Vec::new();
    let mut faults = Vec::new();
    for path in &args.files {
        match static_file::load(path, args.allow_fault_injection, SystemTime::now()) {
            Ok(file) => {
                let replicas: usize = file.services.iter().map(|service| service.replicas.len()).sum();
                valid.push((path.display().to_string(), file.services.len(), replicas, file.routes.len()));
            }
            Err(error) => faults.push(format!("{}: {}", path.display(), error.to_string().trim_end())),
        }
    }
    if !faults.is_empty() {
        let mut error = Error::new(Exit::Usage, "not valid");
        // A fault in TOML is shown with its line, below it.
        error.details = faults.iter().flat_map(|fault| fault.lines()).map(str::to_owned).collect();
        return Err(error.hint("docs/static.md describes the file"));
    }
    match output.format {
        Format::Json => {
            output.value(&json!({"files": valid.iter().map(|(path, services, replicas, routes)| json!({
            "file": path, "valid": true, "services": services, "replicas": replicas, "routes": routes,
        })).collect::<Vec<_>>()}))
        }
        Format::Name => output.data(valid.iter().map(|(path, ..)| format!("{path}\n")).collect::<String>()),
        Format::Table | Format::Wide => output.data(
            valid
                .iter()
                .map(|(path, services, replicas, routes)| {
                    format!("{path}: ok ({services} services, {replicas} replicas, {routes} routes)\n")
                })
                .collect::<String>(),
        ),
    }
}
