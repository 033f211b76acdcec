//! What the proxy pays for a request beside its peers: nginx, HAProxy, Envoy, and a bare relay of bytes as the floor.
//! `tests/bench/run proxy` installs the peers, builds everything and starts this.
//!
//! Each peer is a reverse proxy of one worker over the same three replicas, with kept connections and its own passive
//! ejection and failover. All are up at once and idle but for the one whose turn it is; rounds are interleaved, so that what
//! else the machine does falls on all of them. Loads are bounded in time, on loopback. Nothing here asserts: whoever reads
//! the table judges.

mod load;
mod peers;
mod relay;
mod results;
mod scenario;
mod upstream;
#[path = "../usage.rs"]
mod usage;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use clap::Parser;

use self::{peers::Fleet, results::Results, scenario::Scenario};

/// Measures the proxy beside others and prints tables
#[derive(Debug, Clone, Parser)]
pub(crate) struct Args {
    /// Which scenarios; all unless some are named
    #[arg(value_enum)]
    scenarios: Vec<Scenario>,

    /// Rounds of each scenario
    #[arg(long, default_value_t = 5)]
    rounds: usize,

    /// How long each peer is driven in each round
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,

    /// Which peers beside the gateway: nginx, haproxy, envoy, relay; all that are there unless some are named
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,

    /// Other builds of gw-data-plane to be measured beside, as NAME=PATH: before and after a change in one run
    #[arg(long, value_delimiter = ',')]
    builds: Vec<String>,

    /// Where gw-data-plane is; by default where cargo put this program
    #[arg(long)]
    programs: Option<PathBuf>,

    /// The core that proxies run on; all else keeps off it
    #[arg(long, default_value_t = 0)]
    core: usize,

    /// Tiny counts: shows that the benchmark works, measures nothing
    #[arg(long)]
    smoke: bool,

    /// Relays bytes between two addresses: what the floor is measured on
    #[arg(long, hide = true, num_args = 2)]
    relay: Vec<SocketAddr>,

    /// What `cargo bench` adds for benches of its own kind
    #[arg(long, hide = true)]
    bench: bool,
}

impl Args {
    /// How long each load is driven.
    fn limit(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    fn settled(mut self) -> Self {
        if self.smoke {
            (self.rounds, self.seconds) = (1, 0.1);
        }
        if self.scenarios.is_empty() {
            self.scenarios = <Scenario as clap::ValueEnum>::value_variants().to_vec();
        }
        self
    }
}

fn main() -> Result<()> {
    let args = Args::parse().settled();
    if let [listen, to] = args.relay[..] {
        return relay::run(listen, to);
    }
    gateway_runtime::open_files::raise_limit();
    let replicas = upstream::Replicas::start(3).context("replicas start")?;
    let fleet = Fleet::start(&args, &replicas)?;
    println!("{}\n", fleet.description());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for scenario in &args.scenarios {
        let mut results = Results::new(*scenario);
        for round in 1..=args.rounds {
            // Nobody is always the first, on a processor that is still cool.
            for place in 0..fleet.peers().len() {
                let peer = &fleet.peers()[(place + round) % fleet.peers().len()];
                if let Some(measured) = runtime.block_on(scenario.measure(peer, &replicas, args.limit()))? {
                    results.add(peer.name(), measured);
                }
            }
            eprintln!("round {round} of {} of {scenario:?}", args.rounds);
        }
        println!("{results}\n");
    }
    Ok(())
}
