//! `gwctl`: how people look into the gateway, act on it, and try it out.
//!
//! Parses the command line, runs one command, reports what it could not do, and yields the exit code. Data goes to
//! stdout, everything else to stderr.

mod age;
mod authorship;
mod cli;
mod commands;
mod complete;
mod config;
mod control;
mod demo;
mod endpoint;
mod error;
mod figure;
mod interruption;
mod lease;
mod link;
mod moves;
mod output;
mod pager;
mod partial;
mod planes;
mod progress;
mod rollout;
mod run;
mod screen;
mod status;
mod table;
mod target;
mod terminal;
mod top;
mod watch;

use std::{io::Write as _, process::ExitCode};

use clap::{CommandFactory as _, FromArgMatches as _};

use crate::{
    cli::Cli,
    endpoint::Origin,
    error::{Error, Exit},
    output::Format,
};

// `dev` and `demo` serve requests in this process.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    complete::answer();
    let matches = Cli::command().try_get_matches().unwrap_or_else(|error| cli::refuse(&error));
    let mut cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    cli.global.color.apply();
    let settled = cli.settle(&matches);
    let format = cli.global.output.format;
    match settled.and_then(|origin| run(cli, origin)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&error, format),
    }
}

fn run(cli: Cli, origin: Origin) -> Result<(), Error> {
    let mut runtime = if cli.command.is_server() {
        tokio::runtime::Builder::new_multi_thread()
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    let runtime = runtime
        .enable_all()
        .build()
        .map_err(|error| Error::new(Exit::Failed, format!("cannot start the runtime: {error}")))?;
    runtime.block_on(commands::run(cli, origin))
}

fn report(error: &Error, format: Format) -> ExitCode {
    if !error.is_told() {
        let text = if format == Format::Json { error.to_json() } else { error.to_text() };
        // Nobody can be told that stderr is closed; the exit code remains.
        let _ = write!(anstream::stderr(), "{text}");
    }
    error.exit.into()
}
