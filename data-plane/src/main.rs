//! The data plane's process.

use std::process::ExitCode;

use clap::Parser;
use data_plane::config::Args;
use gateway_runtime::{Failure, Shutdown, logs::LogArgs, open_files, process, ready};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The gateway's data plane: an HTTP proxy with local circuit breakers, routing by the registry of a control plane or by
/// a static list
#[derive(Debug, Parser)]
#[command(name = "gw-data-plane", version)]
struct Cli {
    #[command(flatten)]
    args: Args,
    #[command(flatten)]
    log: LogArgs,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report("gw-data-plane"),
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    let _logs = cli.log.init()?;
    let config = cli.args.validate()?;
    open_files::raise_limit();
    // Requests run on the workers' own threads. This runtime follows the control plane and serves operators.
    process::run(Some(2), async {
        // The access log is opened anew by the one, and may meet the other.
        process::survive_hang_ups()?;
        process::survive_size_limit()?;
        let shutdown = Shutdown::on_signals()?;
        let running = data_plane::start(config, shutdown).await?;
        let mut bound =
            vec![("listen", running.listen().to_string()), ("admin", running.admin_listen().to_string())];
        bound.extend(running.tls_listen().map(|listen| ("tls", listen.to_string())));
        ready::announce(&bound);
        running.finished().await
    })
}
