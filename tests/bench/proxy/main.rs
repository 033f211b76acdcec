//! What the proxy pays for a request beside its peers: nginx, HAProxy, Envoy, Pingora, and a bare relay of bytes as the floor.
//! `tests/bench/run proxy` installs the peers, builds everything and starts this.
//!
//! Each peer is a reverse proxy of one worker over the same three replicas, with kept connections and its own passive
//! ejection and failover. All are up at once and idle but for the one whose turn it is; rounds are interleaved, so that what
//! else the machine does falls on all of them. Loads are bounded in time, on loopback. Nothing here asserts: whoever reads
//! the table judges.

mod alone;
mod control_plane;
mod cores;
mod load;
mod peers;
mod relay;
mod results;
mod scenario;
mod summary;
mod tls;
mod upstream;
#[allow(dead_code, reason = "another benchmark uses the rest")]
#[path = "../usage.rs"]
mod usage;

use std::{
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::Parser;

use self::{
    cores::Cores,
    peers::{Fleet, Peer},
    results::Results,
    scenario::{Measured, Round, Scenario},
    summary::Summary,
};

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

    /// Where gw-data-plane and gw-control-plane are, such as what deploy/build has made; by default where cargo put this program
    #[arg(long)]
    programs: Option<PathBuf>,

    /// After so many minutes no round is begun any more
    #[arg(long, default_value_t = 60.0)]
    minutes: f64,

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
    pub(crate) fn limit(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    /// Where a program of ours is.
    pub(crate) fn program(&self, name: &str) -> Result<PathBuf> {
        let this = std::env::current_exe()?;
        // <target>/<profile>/deps/<this>
        let beside = this.ancestors().nth(2).context("cargo's layout")?;
        Ok(self.programs.as_deref().unwrap_or(beside).join(name))
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

fn main() -> Result<ExitCode> {
    let args = Args::parse().settled();
    if !args.relay.is_empty() {
        return relay::run(&args.relay).map(|()| ExitCode::SUCCESS);
    }
    gateway_runtime::open_files::raise_limit();
    // Before there are other threads, which are where this one is when it starts them.
    let cores = Cores::here()?;
    cores.leave_to(1)?;
    let replicas = upstream::Replicas::start(3, 1).context("replicas start")?;
    let certificate = tls::Certificate::new()?;
    let until = Instant::now() + Duration::from_secs_f64(args.minutes * 60.0);
    let bench = Bench { args: &args, cores: &cores, replicas: &replicas, certificate: &certificate, until };
    let mut fleet = Fleet::start(&bench, 1)?;
    println!("{}\n", fleet.description(&cores));
    let (mut services, mut summary, mut ended) = (1, Summary::default(), ExitCode::SUCCESS);
    for &scenario in &args.scenarios {
        if bench.is_over() {
            println!("{}: left out, after {} minutes\n", scenario.title(), args.minutes);
            continue;
        }
        if scenario.is_of_gateway_alone() {
            match alone::compare(&bench, scenario) {
                Ok(comparison) => println!("{comparison}"),
                Err(error) => {
                    println!("{}: FAILED: {error:#}\n", scenario.title());
                    ended = ExitCode::FAILURE;
                }
            }
            continue;
        }
        // Connections are counted by memory that nothing has taken before.
        if scenario.services() != services || scenario == Scenario::Idle {
            // One fleet at a time, so that none is in another's way.
            drop(fleet);
            services = scenario.services();
            fleet = Fleet::start(&bench, services)?;
        }
        match bench.rounds(scenario, &mut fleet) {
            Ok(results) => {
                println!("{results}\n");
                summary.add(results);
            }
            // Hours of a night are not lost for one of many scenarios.
            Err(error) if !args.training => {
                println!("{}: FAILED: {error:#}\n", scenario.title());
                // The next one has a fleet of its own.
                (services, ended) = (0, ExitCode::FAILURE);
            }
            Err(error) => return Err(error),
        }
    }
    match args.smoke {
        // Of so few requests, no number says anything.
        true => println!("{} scenarios were begun", args.scenarios.len()),
        false if args.scenarios.len() > 1 && !args.training => println!("{summary}"),
        false => {}
    }
    Ok(ended)
}

/// What all scenarios have in common.
#[derive(Clone, Copy)]
pub(crate) struct Bench<'a> {
    args: &'a Args,
    cores: &'a Cores,
    replicas: &'a upstream::Replicas,
    certificate: &'a tls::Certificate,
    /// When no round is begun any more.
    until: Instant,
}

impl Bench<'_> {
    fn is_over(&self) -> bool {
        Instant::now() > self.until
    }

    /// The rounds for which there is time; one in any case.
    fn rounds_in_time(&self) -> impl Iterator<Item = usize> {
        (0..self.args.rounds).take_while(|number| *number == 0 || !self.is_over())
    }

    /// Drives a scenario once, by clients on this thread.
    fn measure(&self, scenario: Scenario, peer: &Peer, round: Round) -> Result<Option<Measured>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(scenario.measure(self, peer, round))
    }

    fn rounds(&self, scenario: Scenario, fleet: &mut Fleet) -> Result<Results> {
        let (mut results, of) = (Results::new(scenario), self.args.rounds);
        for number in self.rounds_in_time() {
            // Nobody is always the first, on a processor that is still cool.
            for name in fleet.names_from(number) {
                let Some(peer) = fleet.peers().iter().find(|peer| peer.name() == name) else { continue };
                let measured = self.measure(scenario, peer, Round { number, of });
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
            eprintln!("round {} of {of} of {scenario:?}", number + 1);
        }
        Ok(results)
    }
}
