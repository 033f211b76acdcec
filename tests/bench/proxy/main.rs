//! What the proxy pays for a request beside its peers: nginx, HAProxy, Envoy, Pingora, and a bare relay of bytes as the floor.
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
mod tls;
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

    /// Which peers beside the gateway: nginx, haproxy, envoy, pingora, relay; all that are there unless some are named
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

    /// What a build is trained by, which counts what it runs: the gateway alone, once through what requests do
    #[arg(long)]
    training: bool,

    /// Relays bytes, from the first address to the second, from the third to the fourth: what the floor is measured on
    #[arg(long, hide = true, num_args = 4)]
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
        if self.training {
            (self.rounds, self.seconds) = (1, 2.0);
            self.peers = vec![peers::GATEWAY.to_owned()];
            self.scenarios = Scenario::TRAINING.to_vec();
        }
        if self.scenarios.is_empty() {
            self.scenarios = <Scenario as clap::ValueEnum>::value_variants().to_vec();
        }
        self
    }
}

fn main() -> Result<()> {
    let args = Args::parse().settled();
    if !args.relay.is_empty() {
        return relay::run(&args.relay);
    }
    gateway_runtime::open_files::raise_limit();
    let replicas = upstream::Replicas::start(3).context("replicas start")?;
    let certificate = tls::Certificate::new()?;
    let mut fleet = Fleet::start(&args, &replicas, &certificate, 1)?;
    println!("{}\n", fleet.description());
    let bench = Bench { args: &args, replicas: &replicas, certificate: &certificate };
    for scenario in &args.scenarios {
        let results = match scenario.services() {
            1 => bench.rounds(*scenario, &mut fleet)?,
            // Those of one service stay, and are idle.
            services => {
                bench.rounds(*scenario, &mut Fleet::start(&args, &replicas, &certificate, services)?)?
            }
        };
        println!("{results}\n");
    }
    Ok(())
}

/// What all scenarios have in common.
struct Bench<'a> {
    args: &'a Args,
    replicas: &'a upstream::Replicas,
    certificate: &'a tls::Certificate,
}

impl Bench<'_> {
    fn rounds(&self, scenario: Scenario, fleet: &mut Fleet) -> Result<Results> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut results = Results::new(scenario);
        for round in 1..=self.args.rounds {
            // Nobody is always the first, on a processor that is still cool.
            for name in fleet.names_from(round) {
                let Some(peer) = fleet.peers().iter().find(|peer| peer.name() == name) else { continue };
                let measured = scenario.measure(peer, self.replicas, self.certificate, self.args.limit());
                let measured = runtime.block_on(measured);
                match measured.with_context(|| format!("{scenario:?} through {name}")) {
                    Ok(Some(measured)) => results.add(&name, measured),
                    Ok(None) => {}
                    // What is measured beside the gateway may have limits of its own: the others go on.
                    Err(error) if !peer.is_gateway() => {
                        results.gave_up(&name, &error);
                        fleet.dismiss(&name);
                    }
                    Err(error) => return Err(error),
                }
            }
            eprintln!("round {round} of {} of {scenario:?}", self.args.rounds);
        }
        Ok(results)
    }
}
