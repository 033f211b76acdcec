//! Drills: a fault is injected into a running gateway, and figures are held. `tests/drills/run` builds everything and starts this.
//!
//! Each drill starts real processes on loopback, bounded in time and count, prints what it measured beside its criterion, and
//! fails when that is not held. docs/drills.md has the figures of one machine.

mod black_holes;
mod bodies;
mod client;
mod connections;
mod endings;
mod faults;
mod figures;
mod leak;
mod network;
mod process;
mod replica;
mod stage;
mod trust;

use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use gateway_runtime::open_files;

use self::figures::Figures;

/// Injects faults into a gateway and holds it to figures
#[derive(Debug, Clone, Parser)]
struct Args {
    /// Which drills; all unless some are named
    #[arg(value_enum)]
    drills: Vec<Drill>,
    /// Smaller counts and shorter times
    #[arg(long)]
    short: bool,
    /// How long the leak drill loads the gateway, in minutes; without it 20 s
    #[arg(long, value_name = "N")]
    minutes: Option<u32>,
    /// What `cargo bench` adds for benches of its own kind
    #[arg(long, hide = true)]
    bench: bool,
}

/// How much of it is wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    is_short: bool,
    minutes: Option<u32>,
}

impl Size {
    /// The whole, or the short form.
    pub(crate) fn of<T>(self, whole: T, short: T) -> T {
        if self.is_short { short } else { whole }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Drill {
    /// One of three replicas is killed
    Killed,
    /// One hangs, its connections stay up
    Frozen,
    /// One answers 503 to three requests in ten
    Unavailable,
    /// One closes without an answer
    Closing,
    /// One resets in the middle of bodies
    Resetting,
    /// One takes two seconds
    Slow,
    /// One goes and comes back every second
    Flapping,
    /// No packet reaches one any more, and none is refused
    BlackHole,
    /// The connections to one are dead without a word
    HalfOpen,
    /// All are down, then back
    AllDown,
    /// A replica is drained under load
    Drained,
    /// The gateway is told to end, and replaced, under load
    Replaced,
    /// Thousands of idle connections
    Idle,
    /// Partial requests and slowloris
    Partial,
    /// No file descriptors left
    Descriptors,
    /// Clients and replicas that do not read
    Unread,
    /// A gibibyte up and down
    Gibibyte,
    /// Slow readers and slow writers by the thousand
    SlowClients,
    /// Many idle and many busy connections at once
    Crowd,
    /// The gateway is its own replica
    Loop,
    /// Clients forge what replicas are told of them
    Forged,
    /// Planes show each other certificates that nobody should believe, and new ones
    Impostors,
    /// Mixed load, after which everything is back
    Leak,
}

async fn run(drill: Drill, size: Size, figures: &mut Figures) {
    match drill {
        Drill::Killed => faults::killed(size, figures).await,
        Drill::Frozen => faults::frozen(size, figures).await,
        Drill::Unavailable => faults::unavailable(size, figures).await,
        Drill::Closing => faults::closing(size, figures).await,
        Drill::Resetting => faults::resetting(size, figures).await,
        Drill::Slow => faults::slow(size, figures).await,
        Drill::Flapping => faults::flapping(size, figures).await,
        Drill::BlackHole => black_holes::black_hole(size, figures).await,
        Drill::HalfOpen => black_holes::half_open(size, figures).await,
        Drill::AllDown => faults::all_down(size, figures).await,
        Drill::Drained => endings::drained(size, figures).await,
        Drill::Replaced => endings::replaced(size, figures).await,
        Drill::Idle => connections::idle(size, figures).await,
        Drill::Partial => connections::partial(size, figures).await,
        Drill::Descriptors => connections::descriptors(size, figures).await,
        Drill::Unread => bodies::unread(size, figures).await,
        Drill::Gibibyte => bodies::gibibyte(size, figures).await,
        Drill::SlowClients => bodies::slow_clients(size, figures).await,
        Drill::Crowd => connections::crowd(size, figures).await,
        Drill::Loop => faults::own_replica(size, figures).await,
        Drill::Forged => trust::forged(size, figures).await,
        Drill::Impostors => trust::impostors(size, figures).await,
        Drill::Leak => leak::mixed(size, figures).await,
    }
}

impl Drill {
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Whether it drops packets, for which it needs a network of its own.
    fn drops_packets(self) -> bool {
        matches!(self, Self::BlackHole | Self::HalfOpen)
    }

    /// Has the same program hold it in a network of its own.
    fn hold_in_a_network_of_its_own(self, size: Size, figures: &mut Figures) {
        let mut args = vec![self.name()];
        args.extend(size.is_short.then(|| "--short".into()));
        match network::enter(&args) {
            Ok(status) => figures.found_elsewhere(status.success()),
            Err(why) => figures.skip(why),
        }
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    open_files::raise_limit();
    let drills = match args.drills.as_slice() {
        [] => Drill::value_variants(),
        some => some,
    };
    let size = Size { is_short: args.short, minutes: args.minutes };
    let mut figures = Figures::new(args.short);
    for drill in drills {
        if drill.drops_packets() && !network::is_inside() {
            figures.begin(&drill.name());
            drill.hold_in_a_network_of_its_own(size, &mut figures);
            continue;
        }
        if network::is_inside() {
            figures.go_on(&drill.name())
        } else {
            figures.begin(&drill.name())
        }
        // Each on a runtime of its own: what one leaves behind is no load for the next.
        let runtime = tokio::runtime::Runtime::new().expect("the system gives threads");
        runtime.block_on(run(*drill, size, &mut figures));
        runtime.shutdown_background();
    }
    if network::is_inside() {
        // Whoever has started this says the rest.
        return if figures.are_held() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    figures.verdict()
}
