//! The figures of the control plane, beside etcd in the same run. `tests/bench/run` builds everything and starts this.
//!
//! Each figure is one file. It starts its servers afresh, on loopback and on directories of its own, drives a load that
//! is bounded in time and count, and yields samples; several rounds are interleaved, so that what else the machine does
//! falls on all of them. Nothing here asserts: whoever reads the table judges.

mod callers;
mod etcd;
mod fanout;
mod figures;
mod first_request;
mod follower;
mod machine;
mod memory;
mod programs;
mod reconnection;
mod registrations;
mod renewals;
mod replicas;
mod samples;
mod usage;

use std::{path::PathBuf, time::Duration};

use clap::Parser;

use self::{figures::Figures, programs::Programs};

/// Measures the control plane and prints a table
#[derive(Debug, Clone, Parser)]
pub(crate) struct Args {
    /// Which figures; all unless some are named
    #[arg(value_enum)]
    figures: Vec<Figure>,

    /// Rounds of each figure
    #[arg(long, default_value_t = 5)]
    rounds: usize,

    /// How long each load is driven in each round
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,

    /// Replicas registered beside what is measured
    #[arg(long, default_value_t = 100_000)]
    replicas: usize,

    /// Data planes that follow at once
    #[arg(long, default_value_t = 1000)]
    followers: usize,

    /// Changes sent to all followers, and registrations timed to their first request, in each round
    #[arg(long, default_value_t = 100)]
    changes: usize,

    /// Where gw-control-plane and gw-data-plane are; by default where cargo put this program
    #[arg(long)]
    programs: Option<PathBuf>,

    /// Where stores are put: on the disk whose flushes are to count
    #[arg(long)]
    data: Option<PathBuf>,

    /// Tiny counts: shows that the benchmark works, measures nothing
    #[arg(long)]
    smoke: bool,

    /// What `cargo bench` adds for benches of its own kind
    #[arg(long, hide = true)]
    bench: bool,
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Figure {
    /// Durable registrations a second
    Registrations,
    /// Lease renewals a second
    Renewals,
    /// One change to all followers
    Fanout,
    /// All followers after a restart
    Reconnection,
    /// Memory for each replica
    Memory,
    /// From a registration to its first request
    FirstRequest,
}

impl Args {
    /// How long each load is driven.
    fn limit(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    fn settled(mut self) -> Self {
        if self.smoke {
            (self.rounds, self.seconds, self.replicas, self.followers, self.changes) = (1, 0.2, 200, 5, 3);
        }
        if self.figures.is_empty() {
            self.figures = <Figure as clap::ValueEnum>::value_variants().to_vec();
        }
        self
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse().settled();
    gateway_runtime::open_files::raise_limit();
    let programs = Programs::find(args.programs.clone(), args.data.clone())?;
    println!("{}", machine::description(&programs)?);
    let mut figures = Figures::default();
    for round in 1..=args.rounds {
        for figure in &args.figures {
            eprintln!(
                "round {round} of {}: {figure:?}, load average {}",
                args.rounds,
                machine::load_average()
            );
            match figure {
                Figure::Registrations => registrations::measure(&programs, &args, &mut figures).await?,
                Figure::Renewals => renewals::measure(&programs, &args, &mut figures).await?,
                Figure::Fanout => fanout::measure(&programs, &args, &mut figures).await?,
                Figure::Reconnection => reconnection::measure(&programs, &args, &mut figures).await?,
                Figure::Memory => memory::measure(&programs, &args, &mut figures).await?,
                Figure::FirstRequest => first_request::measure(&programs, &args, &mut figures).await?,
            }
        }
    }
    match args.smoke {
        // Of so few, no number says anything.
        true => println!("{} figures can be measured", figures.count()),
        false => println!("{figures}"),
    }
    Ok(())
}
