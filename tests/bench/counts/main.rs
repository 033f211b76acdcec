//! Counts what the request path costs, where times would say more of the machine: instructions, allocations, system calls and
//! looks at the clock, under valgrind's callgrind. `tests/bench/run counts` builds what is counted and starts this.
//!
//! The data plane is the whole process, as it is shipped. It is given one thing at a time: clients and replicas wait until
//! all of its threads sleep, so that neither the machine nor what else runs there changes what it does. The counts are
//! compared with those in `baseline.toml`; one that has grown by more than [`baseline::TOLERANCE`] fails the run.

mod baseline;
mod dump;
mod http1;
mod http2;
mod parts;
mod process;
mod replicas;
mod requests;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use clap::Parser;

use self::baseline::Baseline;

/// Counts what a request costs and compares it with what was accepted
#[derive(Debug, Clone, Parser)]
pub(crate) struct Args {
    /// Takes the counts for the new baseline
    #[arg(long)]
    accept: bool,

    /// Requests in a batch; of several batches the cheapest counts
    #[arg(long, default_value_t = 200)]
    requests: usize,

    /// Keeps callgrind's files there, the last of each kind, for callgrind_annotate
    #[arg(long)]
    keep: Option<PathBuf>,

    /// Where gw-data-plane and gw-counted are, built alike
    #[arg(long)]
    programs: PathBuf,

    /// What `cargo bench` adds for benches of its own kind
    #[arg(long, hide = true)]
    bench: bool,
}

/// What was counted, in the order of the table: a name, and how much for each time.
pub(crate) type Counts = Vec<(String, f64)>;

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let place = match &args.keep {
        Some(place) => {
            std::fs::create_dir_all(place)?;
            place.canonicalize()?
        }
        None => directory.path().to_owned(),
    };
    let mut counts = parts::count(&args.programs, &place)?;
    counts.extend(requests::count(&args.programs, &place, args.requests)?);

    let (path, built) = (baseline::path(), baseline::Built::here()?);
    if args.accept {
        Baseline::new(built, &counts).write(&path)?;
        println!("{}{} has them", baseline::table(&counts, None), path.display());
        return Ok(ExitCode::SUCCESS);
    }
    let accepted = Baseline::read(&path).with_context(|| format!("reading {}", path.display()))?;
    print!("{}", baseline::table(&counts, Some(&accepted)));
    let verdict = accepted.verdict(&built, &counts);
    print!("{verdict}");
    Ok(if verdict.fails() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
