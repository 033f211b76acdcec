//! `gw-control-plane`: parses flags, listens to signals, runs the control plane.

use std::process::ExitCode;

use clap::Parser;
use gateway_runtime::{Failure, Shutdown, logs::LogArgs, open_files, process, ready};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The gateway's control plane: the registry of services and replicas, over gRPC and HTTP
#[derive(Debug, Parser)]
#[command(name = "gw-control-plane", version)]
struct Program {
    #[command(flatten)]
    args: control_plane::config::Args,
    #[command(flatten)]
    logs: LogArgs,
}

fn main() -> ExitCode {
    let program = Program::parse();
    match process::run(None, run(program)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report("gw-control-plane"),
    }
}

async fn run(program: Program) -> Result<(), Failure> {
    let _logs = program.logs.init()?;
    process::survive_size_limit()?;
    let config = program.args.validate()?;
    open_files::raise_limit();
    let shutdown = Shutdown::on_signals()?;
    let running = control_plane::start(config, shutdown).await?;
    ready::announce(&[("listen", running.listen().to_string())]);
    running.finished().await
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Program;

    #[test]
    fn the_flags_are_consistent() {
        Program::command().debug_assert();
    }
}
