//! The data plane's process.

use std::process::ExitCode;

use clap::Parser;
use data_plane::Program;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match Program::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report("gw-data-plane"),
    }
}
