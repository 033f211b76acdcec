//! `gw-control-plane`: parses flags, listens to signals, runs the control plane.

use std::process::ExitCode;

use clap::Parser;
use control_plane::Program;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match Program::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report("gw-control-plane"),
    }
}
