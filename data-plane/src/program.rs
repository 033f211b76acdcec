//! The command line of `gw-data-plane`, and what it comes to.

use clap::Parser;
use gateway_runtime::{Failure, Shutdown, logs::LogArgs, notify, open_files, passed::Passed, process, ready};

use crate::{Config, config::Args};

/// The gateway's data plane: an HTTP proxy with local circuit breakers, routing by the registry of a control plane or by
/// a static list
#[derive(Debug, Clone, Parser)]
#[command(name = "gw-data-plane", version)]
pub struct Program {
    /// What it serves, and how.
    #[command(flatten)]
    pub args: Args,
    /// What it says of that.
    #[command(flatten)]
    pub log: LogArgs,
    /// Check flags, environment and the files that they name, certificates and --static among them, print what would run as
    /// JSON, and exit: 0, or 2 with the reason. Nothing is served, and a data plane that runs already is not disturbed
    #[arg(long)]
    pub check: bool,
}

impl Program {
    /// Serves until it is told to end.
    ///
    /// # Errors
    /// A usage [`Failure`] that names the flag when it cannot start as configured, a fatal one when it cannot go on.
    pub fn run(self) -> Result<(), Failure> {
        if self.check {
            check(&self.args.validate()?);
            return Ok(());
        }
        let passed = Passed::from_environment()?;
        let _logs = self.log.init()?;
        let config = self.args.validate()?;
        open_files::raise_limit();
        // Requests run on the workers' own threads. This runtime follows the control plane and serves operators.
        process::run(Some(2), serve(config, passed))
    }
}

async fn serve(config: Config, passed: Passed) -> Result<(), Failure> {
    // The access log is opened anew by the one, and may meet the other.
    process::survive_hang_ups()?;
    process::survive_size_limit()?;
    let shutdown = Shutdown::on_signals()?;
    let running = crate::start_at(config, passed, shutdown.clone()).await?;
    let mut bound =
        vec![("listen", running.listen().to_string()), ("admin", running.admin_listen().to_string())];
    bound.extend(running.tls_listen().map(|listen| ("tls", listen.to_string())));
    ready::announce(&bound);
    let status = format!("serving at {}", running.listen());
    notify::serve(&status, shutdown, running.faults());
    running.finished().await
}

/// Says what would run.
fn check(config: &Config) {
    let mut valid = vec![
        ("node", config.node_id.to_string()),
        ("listen", config.listen.to_string()),
        ("admin", config.admin_listen.to_string()),
    ];
    valid.extend(config.tls.as_ref().map(|(listen, _)| ("tls", listen.to_string())));
    valid.push(("registry", config.registry.to_string()));
    ready::announce_valid(&valid);
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_flags_are_consistent() {
        Program::command().debug_assert();
    }
}
